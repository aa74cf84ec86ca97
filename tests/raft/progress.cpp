#include "lockstep/raft/progress.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstddef>
#include <deque>
#include <random>
#include <utility>
#include <vector>

namespace lockstep::raft {
namespace {

using state = progress::state_t;

/// In state replicate, with the records up to `match` acknowledged.
progress replicating(index_t match, inflights_limits limits = {}) {
  progress p(match + 1, limits);
  p.on_ack(match);
  EXPECT_EQ(p.state(), state::replicate);
  return p;
}

void expect_nothing_in_flight(const progress& p) {
  EXPECT_EQ(p.in_flight().messages(), 0u);
  EXPECT_EQ(p.in_flight().bytes(), 0u);
}

// --- The window ---

TEST(raft_inflights, a_window_is_full_at_its_number_of_messages) {
  inflights window({.messages = 3});
  for (index_t last = 1; last <= 3; ++last) {
    EXPECT_FALSE(window.full());
    window.add(last, 10);
  }
  EXPECT_TRUE(window.full());
  window.release(1);
  EXPECT_FALSE(window.full());
  EXPECT_EQ(window.messages(), 2u);
  EXPECT_EQ(window.bytes(), 20u);
}

TEST(raft_inflights, a_window_is_full_at_its_number_of_bytes) {
  inflights window({.messages = 100, .bytes = 25});
  window.add(1, 10);
  window.add(2, 14);
  EXPECT_FALSE(window.full()) << "one byte is free";
  window.add(3, 1000);
  EXPECT_TRUE(window.full());
  window.release(2);
  EXPECT_TRUE(window.full()) << "one message is larger than the window";
  window.release(3);
  EXPECT_FALSE(window.full());
  EXPECT_EQ(window.bytes(), 0u);
}

TEST(raft_inflights, an_ack_releases_the_messages_that_it_covers_whole) {
  inflights window({.messages = 10});
  for (const index_t last : {5u, 10u, 15u}) window.add(last, 1);
  window.release(4);
  EXPECT_EQ(window.messages(), 3u);
  window.release(12);
  EXPECT_EQ(window.messages(), 1u);
  window.release(100);
  EXPECT_EQ(window.messages(), 0u);
}

TEST(raft_inflights, a_window_agrees_with_a_queue_through_growth_and_wrapping) {
  std::mt19937_64 random(4);
  for (const std::size_t limit : {1u, 2u, 7u, 8u, 9u, 50u}) {
    inflights window({.messages = limit, .bytes = 400});
    std::deque<std::pair<index_t, std::uint64_t>> queue;
    std::uint64_t bytes = 0;
    index_t last = 0;
    bool was_full = false;
    for (int round = 0; round < 5000; ++round) {
      const std::uint64_t choice = random() % 100;
      if (choice == 0) {
        window.clear();
        queue.clear();
        bytes = 0;
      } else if (choice < 60 && !window.full()) {
        last += 1 + random() % 3;
        const std::uint64_t size = random() % 20;
        window.add(last, size);
        queue.emplace_back(last, size);
        bytes += size;
      } else if (!queue.empty()) {
        const index_t acked = queue.front().first - 1 + random() % 4;
        window.release(acked);
        for (; !queue.empty() && queue.front().first <= acked; queue.pop_front()) bytes -= queue.front().second;
      }
      ASSERT_EQ(window.messages(), queue.size());
      ASSERT_EQ(window.bytes(), bytes);
      ASSERT_EQ(window.full(), queue.size() >= limit || bytes >= 400);
      was_full = was_full || queue.size() == limit;
    }
    EXPECT_TRUE(was_full || limit == 50) << limit;
  }
}

// --- Probing ---

TEST(raft_progress, a_probe_is_sent_once_until_something_is_heard) {
  progress p(10);
  EXPECT_EQ(p.state(), state::probe);
  EXPECT_FALSE(p.is_paused());
  p.on_sent(12, 100);
  EXPECT_TRUE(p.is_paused());
  EXPECT_EQ(p.next(), 10u) << "nobody knows whether it fits";
  expect_nothing_in_flight(p);
  (void)p.on_heartbeat(0);
  EXPECT_FALSE(p.is_paused()) << "the probe may be lost";
}

TEST(raft_progress, a_heartbeat_makes_up_for_a_lost_acknowledgement) {
  progress p = replicating(5);
  p.on_sent(8, 10);
  EXPECT_TRUE(p.on_heartbeat(8));
  EXPECT_EQ(p.match(), 8u);
  expect_nothing_in_flight(p);
  EXPECT_FALSE(p.on_heartbeat(8));
  EXPECT_FALSE(p.on_heartbeat(7)) << "a late one";
  EXPECT_EQ(p.match(), 8u);
  p.become_snapshot(20);
  EXPECT_TRUE(p.on_heartbeat(20));
  EXPECT_EQ(p.state(), state::replicate) << "it was installed";
}

TEST(raft_progress, a_heartbeat_does_not_end_a_probe) {
  progress p(10);
  EXPECT_TRUE(p.on_heartbeat(3)) << "what a follower knows to be common once it was started anew is little";
  EXPECT_EQ(p.state(), state::probe);
  EXPECT_EQ(p.match(), 3u);
  EXPECT_EQ(p.next(), 10u);
  EXPECT_TRUE(p.on_heartbeat(12));
  EXPECT_EQ(p.next(), 13u);
}

TEST(raft_progress, a_probe_without_records_waits_for_its_answer_too) {
  progress p(10);
  p.on_sent(9, 0);
  EXPECT_TRUE(p.is_paused());
}

TEST(raft_progress, an_accepted_probe_begins_replication) {
  progress p(10);
  p.on_sent(12, 100);
  EXPECT_TRUE(p.on_ack(12));
  EXPECT_EQ(p.state(), state::replicate);
  EXPECT_EQ(p.match(), 12u);
  EXPECT_EQ(p.next(), 13u);
  EXPECT_FALSE(p.is_paused());
}

TEST(raft_progress, an_accepted_probe_without_records_begins_replication) {
  progress p = replicating(9);
  p.become_probe();
  p.on_sent(9, 0);
  EXPECT_FALSE(p.on_ack(9)) << "nothing more can be committed";
  EXPECT_EQ(p.state(), state::replicate);
}

TEST(raft_progress, a_rejected_probe_goes_back_by_its_hint) {
  struct {
    index_t rejected, hint, next;
  } const table[]{
      {9, 5, 6},   // the follower's log ends at 5, or both agree there
      {9, 8, 9},   //
      {9, 9, 9},   // a hint never leads to the same probe again
      {9, 50, 9},  // nor forward
      {9, 0, 3},   // nor to what is known to match
  };
  for (const auto& row : table) {
    progress p = replicating(2);
    p.become_snapshot(9);
    p.become_probe();
    ASSERT_EQ(p.next(), 10u);
    p.on_sent(10, 1);
    EXPECT_TRUE(p.on_reject(row.rejected, row.hint));
    EXPECT_EQ(p.next(), row.next);
    EXPECT_EQ(p.match(), 2u);
    EXPECT_FALSE(p.is_paused());
  }
}

TEST(raft_progress, only_the_last_probe_can_be_rejected) {
  progress p(10);
  p.on_sent(10, 1);
  for (const index_t stale : {0u, 3u, 8u, 10u, 11u}) {
    EXPECT_FALSE(p.on_reject(stale, 0)) << stale;
    EXPECT_EQ(p.next(), 10u);
    EXPECT_TRUE(p.is_paused());
  }
  EXPECT_TRUE(p.on_reject(9, 0));
  EXPECT_EQ(p.next(), 1u);
}

// --- Replicating ---

TEST(raft_progress, messages_are_sent_ahead_of_their_acks) {
  progress p = replicating(5);
  p.on_sent(7, 100);
  p.on_sent(8, 50);
  EXPECT_EQ(p.next(), 9u);
  EXPECT_EQ(p.match(), 5u);
  EXPECT_EQ(p.in_flight().messages(), 2u);
  EXPECT_EQ(p.in_flight().bytes(), 150u);
  EXPECT_TRUE(p.on_ack(7));
  EXPECT_EQ(p.in_flight().messages(), 1u);
  EXPECT_EQ(p.in_flight().bytes(), 50u);
  EXPECT_EQ(p.next(), 9u);
  EXPECT_TRUE(p.on_ack(8));
  expect_nothing_in_flight(p);
}

TEST(raft_progress, a_full_window_pauses) {
  progress p = replicating(5, {.messages = 2});
  p.on_sent(6, 1);
  EXPECT_FALSE(p.is_paused());
  p.on_sent(7, 1);
  EXPECT_TRUE(p.is_paused());
  (void)p.on_heartbeat(0);
  EXPECT_TRUE(p.is_paused()) << "a heartbeat acknowledges no record";
  p.on_ack(6);
  EXPECT_FALSE(p.is_paused());
}

TEST(raft_progress, a_message_without_records_takes_no_room) {
  progress p = replicating(5, {.messages = 1});
  p.on_sent(5, 40);
  expect_nothing_in_flight(p);
  p.on_sent(6, 40);
  ASSERT_TRUE(p.is_paused());
  p.on_sent(6, 40);
  EXPECT_EQ(p.in_flight().messages(), 1u);
  EXPECT_EQ(p.in_flight().bytes(), 40u);
}

TEST(raft_progress, a_stale_ack_changes_nothing) {
  progress p = replicating(5);
  p.on_sent(8, 10);
  for (const index_t stale : {0u, 3u, 5u}) {
    EXPECT_FALSE(p.on_ack(stale));
    EXPECT_EQ(p.match(), 5u);
    EXPECT_EQ(p.next(), 9u);
    EXPECT_EQ(p.in_flight().messages(), 1u);
  }
}

TEST(raft_progress, a_stale_ack_does_not_end_a_probe) {
  progress p = replicating(5);
  p.become_probe();
  EXPECT_FALSE(p.on_ack(4));
  EXPECT_EQ(p.state(), state::probe);
}

TEST(raft_progress, an_ack_beyond_what_was_sent_moves_next) {
  progress p = replicating(5);
  p.on_sent(6, 10);
  EXPECT_TRUE(p.on_ack(9));
  EXPECT_EQ(p.next(), 10u);
  expect_nothing_in_flight(p);
}

TEST(raft_progress, a_rejected_message_leads_back_to_probing) {
  progress p = replicating(5);
  p.on_sent(8, 10);
  p.on_sent(10, 10);
  EXPECT_TRUE(p.on_reject(8, 6));  // the first message was lost but for record 6
  EXPECT_EQ(p.state(), state::probe);
  EXPECT_EQ(p.match(), 5u);
  EXPECT_EQ(p.next(), 7u);
  EXPECT_FALSE(p.is_paused());
  expect_nothing_in_flight(p);
}

TEST(raft_progress, a_stale_nack_changes_nothing) {
  progress p = replicating(5);
  p.on_sent(8, 10);
  for (const index_t stale : {0u, 4u, 5u, 9u, 20u}) {  // matches by now, or was never sent
    EXPECT_FALSE(p.on_reject(stale, 0)) << stale;
    EXPECT_EQ(p.state(), state::replicate);
    EXPECT_EQ(p.next(), 9u);
    EXPECT_EQ(p.in_flight().messages(), 1u);
  }
}

TEST(raft_progress, probing_again_forgets_what_is_in_flight) {
  progress p = replicating(5);
  p.on_sent(8, 10);
  p.become_probe();
  EXPECT_EQ(p.next(), 6u);
  EXPECT_FALSE(p.is_paused());
  expect_nothing_in_flight(p);
  p.on_sent(8, 10);
  p.become_probe();
  EXPECT_FALSE(p.is_paused()) << "a probe that was lost";
  progress unknown(10);
  unknown.become_probe();
  EXPECT_EQ(unknown.next(), 10u) << "as likely as before";
}

// --- Snapshots ---

TEST(raft_progress, nothing_is_sent_beside_a_snapshot) {
  progress p = replicating(5);
  p.on_sent(8, 10);
  p.become_snapshot(20);
  EXPECT_EQ(p.state(), state::snapshot);
  EXPECT_EQ(p.pending_snapshot(), 20u);
  EXPECT_TRUE(p.is_paused());
  expect_nothing_in_flight(p);
  (void)p.on_heartbeat(0);
  EXPECT_TRUE(p.is_paused());
  EXPECT_FALSE(p.on_reject(7, 0)) << "a nack from before";
  EXPECT_EQ(p.state(), state::snapshot);
}

TEST(raft_progress, the_ack_of_a_snapshot_begins_replication_behind_it) {
  progress p = replicating(5);
  p.become_snapshot(20);
  EXPECT_TRUE(p.on_ack(19));
  EXPECT_EQ(p.state(), state::snapshot) << "records that were in flight before";
  EXPECT_TRUE(p.on_ack(20));
  EXPECT_EQ(p.state(), state::replicate);
  EXPECT_EQ(p.next(), 21u);
  EXPECT_EQ(p.pending_snapshot(), 0u);
}

TEST(raft_progress, a_snapshot_that_was_sent_is_probed_behind) {
  progress p = replicating(5);
  p.become_snapshot(20);
  p.become_probe();
  EXPECT_EQ(p.next(), 21u);
  EXPECT_EQ(p.pending_snapshot(), 0u);
  EXPECT_FALSE(p.is_paused());
}

TEST(raft_progress, a_follower_that_has_more_than_its_snapshot_is_probed_behind_that) {
  progress p = replicating(5);
  p.become_snapshot(3);
  EXPECT_EQ(p.next(), 6u);
  p.become_probe();
  EXPECT_EQ(p.next(), 6u);
}

TEST(raft_progress, an_aborted_snapshot_is_probed_before) {
  progress p = replicating(5);
  p.become_snapshot(20);
  p.abort_snapshot();
  EXPECT_EQ(p.state(), state::probe);
  EXPECT_EQ(p.next(), 6u);
  EXPECT_EQ(p.pending_snapshot(), 0u);
  p.become_replicate();
  p.abort_snapshot();
  EXPECT_EQ(p.state(), state::replicate) << "it was not being sent any more";
}

// --- Any order of events ---

TEST(raft_progress, no_order_of_events_breaks_what_holds_always) {
  std::mt19937_64 random(5);
  for (int follower = 0; follower < 200; ++follower) {
    const index_t first_probe = 1 + random() % 30;
    progress p(first_probe, {.messages = 4, .bytes = 60});
    index_t greatest_match = 0;
    for (int round = 0; round < 300; ++round) {
      const index_t index = p.match() + random() % 12 - std::min<index_t>(p.match(), 4);
      const index_t hint = random() % 100;
      switch (random() % 9) {
        case 0: p.on_ack(index); break;
        case 1: p.on_reject(index, hint); break;
        case 2: (void)p.on_heartbeat(index); break;
        case 3: p.on_sent(p.next() - 1, 5); break;
        case 4: p.become_snapshot(index); break;
        case 5: p.abort_snapshot(); break;
        case 6: round % 10 == 0 ? p.become_probe() : p.become_replicate(); break;
        default:
          if (!p.is_paused()) p.on_sent(p.next() + hint % 3, 1 + hint % 40);
      }
      ASSERT_GE(p.match(), greatest_match);
      ASSERT_GT(p.next(), p.match());
      greatest_match = p.match();
      if (p.state() != state::replicate) expect_nothing_in_flight(p);
      if (p.state() != state::snapshot) {
        ASSERT_EQ(p.pending_snapshot(), 0u);
      }
      ASSERT_LE(p.in_flight().messages(), 4u);
    }
    p.on_ack(std::max(p.next(), p.match()));
    expect_nothing_in_flight(p);
  }
}

// --- The term-skipping hint ---

/// A log whose record i has the epoch at [i - 1]; `base` records are not kept any more.
struct epochs {
  std::vector<epoch_t> of;
  index_t base = 0;

  [[nodiscard]] index_t last() const { return of.size(); }
  epoch_t operator()(index_t index) const {
    EXPECT_GT(index, base);
    return of.at(static_cast<std::size_t>(index - 1));
  }
  [[nodiscard]] index_t last_possible_match(index_t from, epoch_t epoch) const {
    return raft::last_possible_match(base, from, epoch, *this);
  }
};

TEST(raft_last_possible_match, whole_epochs_are_skipped) {
  const epochs log{{1, 1, 1, 4, 4, 5, 5, 5}};
  EXPECT_EQ(log.last_possible_match(8, 5), 8u);
  EXPECT_EQ(log.last_possible_match(8, 9), 8u);
  EXPECT_EQ(log.last_possible_match(8, 4), 5u);
  EXPECT_EQ(log.last_possible_match(8, 3), 3u);
  EXPECT_EQ(log.last_possible_match(2, 3), 2u);
  EXPECT_EQ(log.last_possible_match(8, 0), 0u);
  EXPECT_EQ(log.last_possible_match(0, 3), 0u);
}

TEST(raft_last_possible_match, records_that_are_not_kept_are_not_asked_for) {
  const epochs log{{1, 1, 1, 4, 4, 5}, 4};
  EXPECT_EQ(log.last_possible_match(6, 4), 5u);
  EXPECT_EQ(log.last_possible_match(6, 2), 4u) << "nothing that is kept is in common";
  EXPECT_EQ(log.last_possible_match(4, 9), 4u);
  EXPECT_EQ(log.last_possible_match(2, 9), 2u);
}

/// `common`, and then records of epochs that are `writer` modulo 3: each epoch has one leader, and so one log.
epochs random_log(std::mt19937_64& random, const std::vector<epoch_t>& common, epoch_t writer) {
  epochs log{common};
  epoch_t epoch = common.empty() ? 1 : common.back();
  for (std::uint64_t left = random() % 20; left != 0; --left) {
    if (random() % 3 == 0) epoch += 1 + random() % 6;
    while (epoch % 3 != writer) ++epoch;
    log.of.push_back(epoch);
  }
  return log;
}

TEST(raft_last_possible_match, a_search_by_hints_ends_at_the_last_common_record_in_few_nacks) {
  std::mt19937_64 random(6);
  for (int round = 0; round < 2000; ++round) {
    const epochs common = random_log(random, {}, 0);
    const epochs leader = random_log(random, common.of, 1);
    const epochs follower = random_log(random, common.of, 2);
    const auto agree = [&](index_t index) {
      return index == 0 || (index <= follower.last() && follower(index) == leader(index));
    };
    progress p(leader.last() + 1);
    std::size_t nacks = 0;
    while (!agree(p.next() - 1)) {
      const index_t asked = p.next() - 1;
      p.on_sent(asked, 0);
      const index_t theirs = follower.last_possible_match(std::min(asked, follower.last()), leader(asked));
      const epoch_t their_epoch = theirs == 0 ? 0 : follower(theirs);
      ASSERT_TRUE(p.on_reject(asked, leader.last_possible_match(theirs, their_epoch)));
      ++nacks;
    }
    ASSERT_EQ(p.next() - 1, common.last()) << round;
    std::vector<epoch_t> different = leader.of;
    different.erase(std::unique(different.begin(), different.end()), different.end());
    ASSERT_LE(nacks, different.size() + 1) << round;
  }
}

}  // namespace
}  // namespace lockstep::raft
