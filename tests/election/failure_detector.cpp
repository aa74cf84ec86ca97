#include "lockstep/election/failure_detector.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

namespace lockstep::election {
namespace {

using namespace std::chrono_literals;

detector_options by_timeout() { return {100ms, timeout_policy{500ms}, 200ms}; }
detector_options by_phi(const phi_accrual_policy& policy = {}) { return {100ms, policy, 200ms}; }

// A detector that is asked for as often as it wants, and a clock.
struct watcher {
  explicit watcher(const detector_options& options) : detector(options, now) { detector.watch(1, now); }

  void pass(std::chrono::nanoseconds time) {
    const auto end = now + time;
    while (detector.deadline() < end) detector.tick(now = detector.deadline());
    detector.tick(now = end);
  }
  void beats(int count, std::chrono::nanoseconds interval = 100ms) {
    for (; count != 0; --count) pass(interval), detector.beat(1, now);
  }
  // How long the silence is when it is suspected, to the millisecond.
  std::chrono::milliseconds patience() {
    auto silence = 0ms;
    for (; !detector.suspects(1) && silence < 1h; silence += 1ms) pass(1ms);
    return silence;
  }

  std::chrono::nanoseconds now = 1h;
  failure_detector detector;
};

TEST(phi, is_minus_log10_of_the_chance_of_a_longer_interval) {  // Hayashibara and others
  const struct {
    double silence, phi;  // by intervals of 100 +- 10: quantiles of the normal distribution
  } table[] = {{100, std::log10(2.0)}, {112.8155, 1},      {123.2635, 2},    {142.6489, 5},
               {156.1200, 8},          {198.2220, 22.334}, {0, 0},           {-1e9, 0},
               {1e9, most_phi},        {1e300, most_phi},  {100 + 372, 303}, {100 + 500, 545.0}};
  for (const auto& [silence, phi] : table) EXPECT_NEAR(phi_of(silence, 100, 10), phi, 0.002 * phi + 1e-3) << silence;
}

TEST(phi, never_falls_and_is_always_a_number) {
  double last = 0;
  for (int i = 0; i < 200000; ++i) {
    const double phi = phi_of(i * 0.005, 100, 10);
    ASSERT_GE(phi, last) << i * 0.005;
    ASSERT_LE(phi, most_phi);
    ASSERT_FALSE(std::signbit(phi));
    last = phi;
  }
  EXPECT_EQ(last, most_phi);
  EXPECT_EQ(phi_of(std::numeric_limits<double>::max(), 0, std::numeric_limits<double>::min()), most_phi);
}

TEST(failure_detector, by_timeout_patience_is_the_timeout) {
  watcher w(by_timeout());
  EXPECT_EQ(w.patience(), 500ms);  // also with who has never been heard from
  w.detector.beat(1, w.now);
  EXPECT_FALSE(w.detector.suspects(1));
  EXPECT_EQ(w.patience(), 500ms);
  w.detector.contact(1, w.now);
  EXPECT_EQ(w.patience(), 500ms);
  EXPECT_EQ(w.detector.phi(1), 0);
}

TEST(failure_detector, by_phi_patience_follows_the_intervals) {
  const struct {
    const char* name;
    phi_accrual_policy policy;
    std::vector<std::chrono::milliseconds> intervals;  // over and over
    std::chrono::milliseconds least, most;
  } table[] = {
      {"regular", {8, 100, 10ms}, {100ms}, 150ms, 160ms},
      {"regular, and more may be late", {8, 100, 50ms}, {100ms}, 375ms, 385ms},
      {"regular, less sure", {1, 100, 10ms}, {100ms}, 112ms, 116ms},
      {"irregular", {8, 100, 10ms}, {50ms, 150ms}, 375ms, 390ms},
      {"faster than they should be", {8, 100, 10ms}, {20ms}, 70ms, 80ms},
      {"no deviation at all", {8, 100, 0ms}, {100ms}, 100ms, 102ms},
      {"a window of nothing is one of two", {8, 0, 10ms}, {100ms}, 150ms, 160ms},
  };
  for (const auto& row : table) {
    SCOPED_TRACE(row.name);
    watcher w(by_phi(row.policy));
    for (int i = 0; i < 300; ++i) w.beats(1, row.intervals[static_cast<std::size_t>(i) % row.intervals.size()]);
    const auto patience = w.patience();
    EXPECT_GE(patience, row.least);
    EXPECT_LE(patience, row.most);
  }
}

TEST(failure_detector, by_phi_it_assumes_the_heartbeat_interval_until_it_knows_better) {
  watcher w(by_phi({8, 100, 10ms}));
  const auto patience = w.patience();  // 100 +- 25 ms
  EXPECT_GE(patience, 240ms);
  EXPECT_LE(patience, 242ms);
}

TEST(failure_detector, by_phi_only_the_last_intervals_count) {
  watcher w(by_phi({8, 10, 10ms}));
  for (int i = 0; i < 50; ++i) w.beats(1, i % 2 == 0 ? 50ms : 150ms);
  w.beats(10);
  EXPECT_LE(w.patience(), 160ms);
}

TEST(failure_detector, a_silence_that_was_suspected_is_no_interval) {
  watcher w(by_phi({8, 10, 10ms}));
  w.beats(20);
  w.beats(1, 1h);
  EXPECT_LE(w.patience(), 160ms);
}

TEST(failure_detector, other_messages_show_life_and_are_no_heartbeats) {
  watcher w(by_phi({8, 10, 10ms}));
  for (int i = 0; i < 20; ++i) {
    w.pass(50ms);
    w.detector.contact(1, w.now);
    w.detector.contact(1, w.now);
    w.beats(1, 50ms);
  }
  EXPECT_EQ(w.patience(), 157ms);  // as with heartbeats alone
}

TEST(failure_detector, a_time_without_heartbeats_is_no_interval_either) {
  watcher w(by_phi({8, 10, 10ms}));
  w.beats(20);
  for (int i = 0; i < 1000; ++i) {
    w.pass(50ms);
    w.detector.contact(1, w.now);
  }
  w.beats(1);
  EXPECT_LE(w.patience(), 160ms);
}

TEST(failure_detector, a_suspicion_says_why) {
  watcher w(by_timeout());
  w.pass(550ms);
  ASSERT_TRUE(w.detector.suspects(1));
  EXPECT_EQ(describe(*w.detector.suspects(1)), "never heard from, for 550 ms, 5 heartbeats missed");
  w.detector.beat(1, w.now);
  const auto last = w.now;
  w.pass(1250ms);
  const auto why = w.detector.suspects(1);
  ASSERT_TRUE(why);
  EXPECT_EQ(why->last_contact, last);
  EXPECT_EQ(why->silence, 1250ms);
  EXPECT_EQ(why->missed_beats, 12u);
  EXPECT_EQ(why->phi, 0);
  EXPECT_EQ(why->own_pause, 0ms);
  EXPECT_EQ(describe(*why), "silent for 1250 ms, 12 heartbeats missed");
  watcher accrual(by_phi());
  accrual.beats(1);
  accrual.pass(10s);
  EXPECT_EQ(describe(*accrual.detector.suspects(1)), "silent for 10000 ms, 100 heartbeats missed, phi 1000.0");
}

TEST(failure_detector, who_stood_still_gives_everybody_the_whole_time_anew) {
  for (const detector_options& options : {by_timeout(), by_phi({8, 10, 10ms})}) {
    watcher usual(options);
    usual.beats(20);
    const auto patience = usual.patience();
    watcher w(options);
    w.detector.watch(2, w.now);
    w.beats(20);
    const auto last = w.now;
    w.now += 1h;  // nobody calls tick()
    w.detector.tick(w.now);
    EXPECT_FALSE(w.detector.suspects(1));
    EXPECT_FALSE(w.detector.suspects(2));
    EXPECT_EQ(w.patience(), patience);
    const auto why = w.detector.suspects(1);
    EXPECT_EQ(why->last_contact, last);
    EXPECT_EQ(why->silence, patience);
    EXPECT_GE(why->own_pause, 1h - 100ms);
    EXPECT_LE(why->own_pause, 1h);
    EXPECT_NE(describe(*why).find("after an own pause of 3599950 ms"), std::string::npos) << describe(*why);
    w.detector.beat(1, w.now);
    EXPECT_EQ(w.patience(), patience);  // the pause is part of no interval
    EXPECT_EQ(w.detector.suspects(1)->own_pause, 0ms);
  }
}

TEST(failure_detector, a_pause_shorter_than_its_patience_is_part_of_no_interval_either) {
  const auto patience = [](std::chrono::nanoseconds pause) {
    watcher w(by_phi({8, 10, 10ms}));
    for (int i = 0; i < 20; ++i) {
      w.beats(1, 50ms);
      w.beats(1, 150ms);
    }
    w.detector.tick(w.now += pause);
    w.detector.beat(1, w.now);
    return w.patience();
  };
  EXPECT_LE(patience(300ms), patience(0ms));
}

TEST(failure_detector, a_pause_that_a_message_shows_first_is_a_pause) {
  watcher w(by_phi({8, 10, 10ms}));
  w.detector.watch(2, w.now);
  w.beats(20);
  w.now += 1h;
  w.detector.beat(1, w.now);  // has waited in the socket
  w.detector.tick(w.now);
  EXPECT_FALSE(w.detector.suspects(2));
  EXPECT_LE(w.patience(), 160ms);
}

TEST(failure_detector, what_is_late_within_the_tolerance_is_no_pause) {
  watcher w(by_timeout());
  w.beats(1);
  for (int i = 0; i < 10; ++i) w.detector.tick(w.now = w.detector.deadline() + 200ms);
  ASSERT_TRUE(w.detector.suspects(1));
  EXPECT_EQ(w.detector.suspects(1)->own_pause, 0ms);
}

TEST(failure_detector, it_asks_to_be_called_twice_a_heartbeat_interval) {
  watcher w(by_timeout());
  w.detector.tick(w.now);
  EXPECT_EQ(w.detector.deadline(), w.now + 50ms);
  w.detector.beat(1, w.now + 20ms);
  EXPECT_EQ(w.detector.deadline(), w.now + 50ms);
}

TEST(failure_detector, a_clock_that_goes_back_stands_still) {
  watcher w(by_phi());
  w.beats(5);
  w.pass(30ms);
  const double before = w.detector.phi(1);
  w.detector.tick(0ns);
  EXPECT_EQ(w.detector.phi(1), before);
  w.detector.contact(1, 0ns);
  EXPECT_LT(w.detector.phi(1), before);
}

TEST(failure_detector, only_who_is_watched_is_suspected) {
  watcher w(by_phi());
  w.detector.beat(2, w.now);
  w.pass(1h);
  EXPECT_TRUE(w.detector.watches(1));
  EXPECT_FALSE(w.detector.watches(2));
  EXPECT_FALSE(w.detector.suspects(2));
  EXPECT_EQ(w.detector.phi(2), 0);
  w.detector.forget(1);
  EXPECT_FALSE(w.detector.suspects(1));
}

TEST(failure_detector, who_is_watched_again_begins_anew) {
  watcher w(by_phi({8, 10, 10ms}));
  w.beats(20);
  w.pass(1h);
  ASSERT_TRUE(w.detector.suspects(1));
  w.detector.watch(1, w.now);
  EXPECT_FALSE(w.detector.suspects(1));
  EXPECT_GE(w.patience(), 240ms);
  EXPECT_FALSE(w.detector.suspects(1)->last_contact);
}

}  // namespace
}  // namespace lockstep::election
