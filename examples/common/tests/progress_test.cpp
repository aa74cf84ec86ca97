#include "common/progress.hpp"

#include <array>
#include <chrono>
#include <string>
#include <vector>

#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

namespace lockstep::examples {
namespace {

using namespace std::chrono_literals;

constexpr std::uint64_t mib = 1024 * 1024;

progress_view view_of(std::uint64_t done, std::uint64_t total, double per_second = 0) {
  progress_view view;
  view.done = done;
  view.total = total;
  view.per_second = per_second;
  return view;
}

TEST(format_progress_bar, ShowsPercentBarRateAndTimeLeft) {
  progress_view view = view_of(50 * mib, 200 * mib, 10.0 * mib);
  view.left = 15s;
  EXPECT_EQ(format_progress_bar("restoring", progress_unit::bytes, view, 80),
            "restoring  25% [#####...............] 50.0 MiB / 200.0 MiB  10.0 MiB/s  ETA 0:15");
}

TEST(format_progress_bar, NeverExceedsTheWidthAndGivesUpTheBarFirst) {
  progress_view view = view_of(1234, 99999, 250);
  view.left = 7000s;
  for (std::size_t width = 0; width <= 200; ++width) {
    EXPECT_LE(format_progress_bar("catching up", progress_unit::records, view, width).size(), width);
  }
  EXPECT_EQ(format_progress_bar("catching up", progress_unit::records, view, 65),
            "catching up   1% 1234 / 99999  250 records/s  ETA 1:56:40");
}

TEST(format_progress_bar, LeavesOutWhatIsNotKnown) {
  EXPECT_EQ(format_progress_bar("catching up", progress_unit::records, view_of(7, 0), 80), "catching up  7");
  EXPECT_EQ(format_progress_bar("catching up", progress_unit::records, view_of(0, 10), 40),
            "catching up   0% [..............] 0 / 10");
}

TEST(format_progress_bar, Says100OnlyWhenAllIsDone) {
  const auto percent_of = [](std::uint64_t done, std::uint64_t total) {
    return format_progress_bar("x", progress_unit::records, view_of(done, total), 6);
  };
  EXPECT_EQ(percent_of(9999, 10000), "x  99%");
  EXPECT_EQ(percent_of(10000, 10000), "x 100%");
  EXPECT_EQ(percent_of(20000, 10000), "x 100%") << "the total was an estimate";
}

TEST(format_progress_log, ReadsAsASentence) {
  progress_view view = view_of(42, 100, 3.25);
  view.left = 18s;
  EXPECT_EQ(format_progress_log("catching up", progress_unit::records, view),
            "catching up: 42%, 42 of 100, 3.2 records/s, 0:18 left");
  EXPECT_EQ(format_progress_log("catching up", progress_unit::records, view_of(7, 0)), "catching up: 7");
}

const progress_meter::time_point start{};

TEST(progress_meter, MeasuresTheRateAndTheTimeLeft) {
  progress_meter meter(0, 1000, start);
  EXPECT_EQ(meter.view().per_second, 0);
  EXPECT_FALSE(meter.view().left);
  meter.update(100, 1000, start + 1s);
  EXPECT_DOUBLE_EQ(meter.view().per_second, 100);
  EXPECT_EQ(meter.view().left, 9s);
}

TEST(progress_meter, DoesNotCountWhatWasThereBefore) {
  progress_meter meter(900, 1000, start);
  meter.update(910, 1000, start + 1s);
  EXPECT_DOUBLE_EQ(meter.view().per_second, 10);
  EXPECT_EQ(meter.view().left, 9s);
}

TEST(progress_meter, FollowsAChangeOfSpeedWithinSeconds) {
  progress_meter meter(0, 1'000'000, start);
  std::uint64_t done = 0;
  for (int s = 1; s <= 10; ++s) meter.update(done += 1000, 1'000'000, start + std::chrono::seconds(s));
  EXPECT_NEAR(meter.view().per_second, 1000, 1);
  for (int s = 11; s <= 40; ++s) meter.update(done += 10, 1'000'000, start + std::chrono::seconds(s));
  EXPECT_LT(meter.view().per_second, 20);
}

TEST(progress_meter, ShowsNoTimeLeftWhenNothingMoves) {
  progress_meter meter(0, 1000, start);
  meter.update(0, 1000, start + 10s);
  EXPECT_FALSE(meter.view().left);
}

/// A terminal's side of a pipe: what was drawn since the last call.
class screen {
 public:
  screen() { EXPECT_EQ(::pipe2(ends_.data(), O_NONBLOCK | O_CLOEXEC), 0); }
  ~screen() {
    ::close(ends_[0]);
    ::close(ends_[1]);
  }
  [[nodiscard]] int fd() const { return ends_[1]; }
  std::string take() const {
    std::string text(64 * 1024, '\0');
    const ssize_t n = ::read(ends_[0], text.data(), text.size());
    text.resize(n > 0 ? static_cast<std::size_t>(n) : 0);
    return text;
  }

 private:
  std::array<int, 2> ends_{};
};

progress_options hundred_records(std::vector<std::string>* log = nullptr) {
  progress_options options;
  options.label = "catching up";
  options.total = 100;
  if (log) options.log = [log](const std::string& line) { log->push_back(line); };
  return options;
}

TEST(progress, RedrawsAtMostTenTimesASecondAndErasesItself) {
  const screen terminal;
  status_line line(terminal.fd(), true);
  std::vector<std::string> log;
  {
    progress bar(hundred_records(&log), line, start);
    EXPECT_TRUE(terminal.take().starts_with("\r\x1b[Kcatching up   0% [..."));
    bar.update(1, start + 99ms);
    EXPECT_EQ(terminal.take(), "");
    bar.update(50, start + 100ms);
    EXPECT_TRUE(terminal.take().starts_with("\r\x1b[Kcatching up  50% [##"));
    int drawn = 0;
    for (auto at = 100ms; at < 1100ms; at += 1ms) {
      bar.update(50 + static_cast<std::uint64_t>(at.count() / 30), start + at);
      if (!terminal.take().empty()) ++drawn;
    }
    EXPECT_LE(drawn, 10);
    EXPECT_GE(drawn, 8);
  }
  EXPECT_EQ(terminal.take(), "\r\x1b[K");
  EXPECT_TRUE(log.empty());
}

TEST(progress, LetsLogLinesPassAboveIt) {
  const screen terminal;
  status_line line(terminal.fd(), true);
  progress bar(hundred_records(), line, start);
  const std::string drawn = terminal.take();
  line.write_lines("synced segment 3\n");
  EXPECT_EQ(terminal.take(), "\r\x1b[Ksynced segment 3\n" + drawn.substr(4));
  bar.finish();
  EXPECT_EQ(terminal.take(), "\r\x1b[K");
  line.write_lines("caught up\n");
  bar.update(100, start + 1h);
  EXPECT_EQ(terminal.take(), "caught up\n");
}

TEST(progress, DrawsNothingOffATerminalButLogsNowAndThen) {
  const screen file;
  status_line line(file.fd(), false);
  std::vector<std::string> log;
  {
    progress bar(hundred_records(&log), line, start);
    bar.update(20, start + 9s);
    EXPECT_TRUE(log.empty());
    bar.update(30, start + 10s);
    bar.update(40, start + 11s);
    ASSERT_EQ(log.size(), 1U);
    EXPECT_TRUE(log[0].starts_with("catching up: 30%, 30 of 100, ")) << log[0];
  }
  EXPECT_EQ(file.take(), "");
}

TEST(progress, FollowsATotalThatGrows) {
  const screen terminal;
  status_line line(terminal.fd(), true);
  progress bar(hundred_records(), line, start);
  terminal.take();
  bar.update(100, 200, start + 1s);
  EXPECT_TRUE(terminal.take().starts_with("\r\x1b[Kcatching up  50%"));
}

}  // namespace
}  // namespace lockstep::examples
