#include "common/progress.hpp"

#include <algorithm>
#include <cmath>
#include <utility>

#include <fmt/format.h>

#include "common/values.hpp"

namespace lockstep::examples {
namespace {

constexpr auto redraw_interval = std::chrono::milliseconds(100);
constexpr double forget_after_seconds = 5;
constexpr std::size_t narrowest_bar = 10;
constexpr std::size_t widest_bar = 20;

std::string amount(progress_unit unit, std::uint64_t n) {
  return unit == progress_unit::bytes ? format_size(static_cast<double>(n)) : std::to_string(n);
}

std::string rate(progress_unit unit, double per_second) {
  if (unit == progress_unit::bytes) return format_size(per_second) + "/s";
  return fmt::format("{:.{}f} records/s", per_second, per_second < 10 ? 1 : 0);
}

std::string clock_time(std::chrono::seconds left) {
  const auto s = left.count();
  if (s >= 3600) return fmt::format("{}:{:02}:{:02}", s / 3600, s / 60 % 60, s % 60);
  return fmt::format("{}:{:02}", s / 60, s % 60);
}

/// Rounded down, so that 100 means all of it.
unsigned percent(const progress_view& view) {
  if (view.done >= view.total) return 100;
  return static_cast<unsigned>(static_cast<double>(view.done) / static_cast<double>(view.total) * 100);
}

}  // namespace

std::string format_progress_bar(std::string_view label, progress_unit unit, const progress_view& view,
                                std::size_t width) {
  const std::string head =
      view.total == 0 ? fmt::format("{}  ", label) : fmt::format("{} {:3}% ", label, percent(view));
  std::string tail = amount(unit, view.done);
  if (view.total != 0) tail += " / " + amount(unit, view.total);
  if (view.per_second > 0) tail += "  " + rate(unit, view.per_second);
  if (view.left) tail += "  ETA " + clock_time(*view.left);

  std::string bar;
  const std::size_t taken = head.size() + tail.size() + 3;  // the brackets and a space
  if (view.total != 0 && width >= taken + narrowest_bar) {
    const std::size_t cells = std::min(width - taken, widest_bar);
    const std::size_t filled = cells * percent(view) / 100;
    bar = fmt::format("[{}{}] ", std::string(filled, '#'), std::string(cells - filled, '.'));
  }
  return (head + bar + tail).substr(0, width);
}

std::string format_progress_log(std::string_view label, progress_unit unit, const progress_view& view) {
  std::string line = fmt::format("{}: ", label);
  if (view.total != 0) line += fmt::format("{}%, ", percent(view));
  line += amount(unit, view.done);
  if (view.total != 0) line += " of " + amount(unit, view.total);
  if (view.per_second > 0) line += ", " + rate(unit, view.per_second);
  if (view.left) line += fmt::format(", {} left", clock_time(*view.left));
  return line;
}

progress_meter::progress_meter(std::uint64_t done, std::uint64_t total, time_point start)
    : done_(done), total_(total), sampled_done_(done), sampled_at_(start) {}

void progress_meter::update(std::uint64_t done, std::uint64_t total, time_point now) {
  done_ = done;
  total_ = total;
  const auto elapsed = now - sampled_at_;
  if (elapsed < redraw_interval) return;  // too short to measure
  const double seconds = std::chrono::duration<double>(elapsed).count();
  const double current = done > sampled_done_ ? static_cast<double>(done - sampled_done_) / seconds : 0;
  const double weight = per_second_ == 0 ? 1 : 1 - std::exp(-seconds / forget_after_seconds);
  per_second_ += weight * (current - per_second_);
  sampled_done_ = done;
  sampled_at_ = now;
}

progress_view progress_meter::view() const {
  progress_view result;
  result.done = done_;
  result.total = total_;
  result.per_second = per_second_;
  constexpr double longest_shown = 100.0 * 3600;
  const double left = total_ > done_ ? static_cast<double>(total_ - done_) / per_second_ : 0;
  if (total_ != 0 && per_second_ > 0 && left < longest_shown) {
    result.left = std::chrono::seconds(static_cast<std::chrono::seconds::rep>(std::ceil(left)));
  }
  return result;
}

progress::progress(progress_options options, status_line& out, clock::time_point now)
    : options_(std::move(options)),
      out_(out),
      meter_(options_.done, options_.total, now),
      total_(options_.total),
      shown_at_(now) {
  if (out_.interactive()) draw();
}

void progress::update(std::uint64_t done, std::uint64_t total, clock::time_point now) {
  if (finished_) return;
  total_ = total;
  meter_.update(done, total, now);
  const clock::duration interval = out_.interactive() ? redraw_interval : options_.log_every;
  if (now - shown_at_ < interval) return;
  shown_at_ = now;
  draw();
}

void progress::finish() {
  if (!std::exchange(finished_, true)) out_.clear();
}

void progress::draw() {
  const progress_view view = meter_.view();
  if (out_.interactive()) {
    // One column stays free: terminals wrap when the last one is written.
    out_.show(format_progress_bar(options_.label, options_.unit, view, out_.width() - 1));
  } else if (options_.log) {
    options_.log(format_progress_log(options_.label, options_.unit, view));
  }
}

}  // namespace lockstep::examples
