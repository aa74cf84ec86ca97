#include "lockstep/sim/check/prefix.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <vector>

namespace lockstep::sim::check {
namespace {

using ::testing::HasSubstr;
using ::testing::Optional;

logged_record record_at(index_t index, epoch_t epoch = 1) { return {{epoch, index, 100 + index}, 1000 + index}; }

std::vector<logged_record> records(index_t first, index_t last) {
  std::vector<logged_record> result;
  for (index_t i = first; i <= last; ++i) result.push_back(record_at(i));
  return result;
}

/// A log to which `appended` records were appended and `acknowledged` of them acknowledged.
log_history history_of(index_t appended, index_t acknowledged) {
  log_history history("log of node 1");
  for (const logged_record& each : records(1, appended)) {
    EXPECT_EQ(history.appended(each.position, each.payload_hash), std::nullopt);
  }
  EXPECT_EQ(history.acknowledged(acknowledged), std::nullopt);
  return history;
}

TEST(check_log_history, accepts_every_end_between_the_last_acknowledged_and_the_last_appended) {
  for (index_t end = 3; end <= 5; ++end) {
    log_history history = history_of(5, 3);
    EXPECT_EQ(history.recovered({}, records(1, end)), std::nullopt);
    EXPECT_EQ(history.last(), record_at(end).position);
    EXPECT_EQ(history.last_acknowledged(), end);
  }
}

TEST(check_log_history, goes_on_behind_what_was_recovered) {
  log_history history = history_of(5, 3);
  EXPECT_EQ(history.recovered({}, records(1, 4)), std::nullopt);
  EXPECT_EQ(history.appended({2, 5, 7}, 8), std::nullopt);
  EXPECT_EQ(history.acknowledged(5), std::nullopt);
  std::vector<logged_record> now = records(1, 4);
  now.push_back({{2, 5, 7}, 8});
  EXPECT_EQ(history.recovered({}, now), std::nullopt);
}

TEST(check_log_history, counts_what_was_recovered_as_acknowledged) {
  log_history history = history_of(5, 3);
  EXPECT_EQ(history.recovered({}, records(1, 5)), std::nullopt);
  EXPECT_THAT(history.recovered({}, records(1, 4)), Optional(HasSubstr("record 5 was acknowledged")));
}

TEST(check_log_history, catches_the_loss_of_an_acknowledged_record) {
  EXPECT_THAT(history_of(5, 3).recovered({}, records(1, 2)),
              Optional(std::string("log of node 1: record 3 was acknowledged (up to record 3), but the recovered log "
                                   "ends at record 2")));
}

TEST(check_log_history, catches_a_record_that_was_never_appended) {
  EXPECT_THAT(history_of(5, 3).recovered({}, records(1, 6)), Optional(HasSubstr("record 6 (epoch 1")));
}

TEST(check_log_history, catches_a_gap) {
  std::vector<logged_record> found = records(1, 5);
  found.erase(found.begin() + 1);
  EXPECT_THAT(history_of(5, 3).recovered({}, found), Optional(HasSubstr("has a gap: record 3 follows record 1")));
}

TEST(check_log_history, catches_another_chain_or_epoch) {
  std::vector<logged_record> found = records(1, 5);
  found[3].position.chain ^= 1;
  EXPECT_THAT(history_of(5, 3).recovered({}, found), Optional(HasSubstr("holds record 4 (epoch 1")));
  found = records(1, 5);
  found[3].position.epoch = 2;
  EXPECT_THAT(history_of(5, 3).recovered({}, found), Optional(HasSubstr("holds record 4 (epoch 2")));
}

TEST(check_log_history, catches_another_payload) {
  std::vector<logged_record> found = records(1, 5);
  found[3].payload_hash = 0;
  EXPECT_THAT(history_of(5, 3).recovered({}, found), Optional(HasSubstr("payload of recovered record 4 has hash")));
}

TEST(check_log_history, takes_records_from_a_callback) {
  log_history history = history_of(2, 2);
  EXPECT_EQ(history.recovered({},
                              [](auto&& sink) {
                                for (const logged_record& each : records(1, 2)) sink(each.position, each.payload_hash);
                              }),
            std::nullopt);
}

TEST(check_log_history, allows_both_ends_while_a_cut_is_under_way) {
  log_history lost = history_of(5, 5);
  lost.truncating(2);
  EXPECT_EQ(lost.recovered({}, records(1, 2)), std::nullopt);
  log_history kept = history_of(5, 5);
  kept.truncating(2);
  EXPECT_EQ(kept.recovered({}, records(1, 5)), std::nullopt);
  log_history too_much = history_of(5, 5);
  too_much.truncating(2);
  EXPECT_THAT(too_much.recovered({}, records(1, 1)), Optional(HasSubstr("record 2 was acknowledged")));
}

TEST(check_log_history, catches_a_record_that_comes_back_after_the_cut) {
  log_history history = history_of(5, 5);
  EXPECT_EQ(history.truncated(2), std::nullopt);
  EXPECT_THAT(history.recovered({}, records(1, 3)), Optional(HasSubstr("was cut off")));
  EXPECT_EQ(history.recovered({}, records(1, 2)), std::nullopt);
}

TEST(check_log_history, lets_a_compacted_log_begin_later) {
  log_history history = history_of(5, 5);
  history.compacting(4);
  EXPECT_EQ(history.recovered(record_at(2).position, records(3, 5)), std::nullopt);
  EXPECT_EQ(history.base(), record_at(2).position);
  EXPECT_EQ(history.recovered(record_at(2).position, records(3, 5)), std::nullopt);
}

TEST(check_log_history, catches_a_log_that_begins_too_late_too_early_or_behind_something_else) {
  log_history history = history_of(5, 5);
  history.compacting(3);
  EXPECT_THAT(history.recovered(record_at(3).position, records(4, 5)), Optional(HasSubstr("nothing behind record 2")));
  EXPECT_THAT(history.recovered({1, 2, 0}, records(3, 5)), Optional(HasSubstr("begins behind record 2 (epoch 1")));
  EXPECT_EQ(history.recovered(record_at(2).position, records(3, 5)), std::nullopt);
  EXPECT_THAT(history.recovered({}, records(1, 5)), Optional(HasSubstr("before the history's base")));
}

TEST(check_log_history, begins_anew_after_a_reset) {
  log_history history = history_of(5, 5);
  history.reset({3, 40, 4});
  EXPECT_EQ(history.appended({3, 41, 5}, 6), std::nullopt);
  EXPECT_EQ(history.recovered({3, 40, 4}, {}), std::nullopt);
  EXPECT_THAT(history.recovered({}, {}), Optional(HasSubstr("before the history's base")));
}

TEST(check_log_history, catches_wrong_numbers_as_they_are_given) {
  log_history history = history_of(5, 3);
  EXPECT_THAT(history.appended({1, 7, 0}, 0), Optional(HasSubstr("appended record 7 behind record 5")));
  EXPECT_THAT(history.appended({0, 6, 0}, 0), Optional(HasSubstr("of epoch 0 behind one of epoch 1")));
  EXPECT_THAT(history.acknowledged(6), Optional(HasSubstr("acknowledged record 6, but the last one appended is 5")));
}

TEST(check_delivered_prefix, accepts_any_prefix_in_order) {
  delivered_prefix frames;
  for (std::uint64_t n = 1; n <= 5; ++n) EXPECT_EQ(frames.sent(n, n * 7), std::nullopt);
  for (std::uint64_t n = 1; n <= 3; ++n) EXPECT_EQ(frames.delivered(n, n * 7), std::nullopt);
  EXPECT_THAT(frames.all_delivered(), Optional(HasSubstr("frame 4 was sent but never delivered, nor were the 1 ")));
  for (std::uint64_t n = 4; n <= 5; ++n) EXPECT_EQ(frames.delivered(n, n * 7), std::nullopt);
  EXPECT_EQ(frames.all_delivered(), std::nullopt);
}

TEST(check_delivered_prefix, catches_a_frame_that_is_doubled_skipped_invented_or_changed) {
  delivered_prefix frames("1 to 2");
  for (std::uint64_t n = 1; n <= 3; ++n) EXPECT_EQ(frames.sent(n, n * 7), std::nullopt);
  EXPECT_EQ(frames.delivered(1, 7), std::nullopt);
  EXPECT_EQ(frames.delivered(1, 7), "1 to 2: frame 1 was delivered twice");
  EXPECT_THAT(frames.delivered(3, 21), Optional(HasSubstr("frame 3 was delivered out of order, before frame 2")));
  EXPECT_THAT(frames.delivered(4, 28), Optional(HasSubstr("frame 4 was delivered but never sent")));
  EXPECT_THAT(frames.delivered(2, 15), Optional(HasSubstr("frame 2 was delivered with hash")));
  EXPECT_EQ(frames.delivered(2, 14), std::nullopt);
  EXPECT_THAT(frames.sent(6, 0), Optional(HasSubstr("frame 6 was sent where frame 4 was to follow")));
}

}  // namespace
}  // namespace lockstep::sim::check
