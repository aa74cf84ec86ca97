// What becomes of records: appended, acknowledged, committed. The paper is Ongaro and Ousterhout's, the dissertation
// Ongaro's: see raft/core.hpp.
#include "cluster.hpp"

#include <gtest/gtest.h>

namespace lockstep::raft::test {
namespace {

using namespace std::chrono_literals;

constexpr instant timeout = core_options{}.election_timeout;

message ack(const cluster& c, node_id from, node_id to, index_t index) {
  message made = c.made(message_type::append_response, from, to);
  made.index = index;
  return made;
}

// What `leader` has from index `next` on, up to `last`.
message append(const cluster& c, node_id leader, node_id to, index_t next, index_t last, index_t commit = 0) {
  message made = c.made(message_type::append, leader, to);
  made.at = *c.nodes.at(leader).log.position_at(next - 1);
  if (last >= next) made.records = c.nodes.at(leader).log.batch(next, last - next + 1);
  made.commit = commit;
  return made;
}

void propose(cluster& c, node_id leader, int count) {
  for (int i = 0; i < count; ++i) c.propose(leader, "record");
}

// Node 1 leads and nothing of what it sends has arrived.
void lead_alone(cluster& c) {
  c.elect(1);
  c.ships_at_once = false;
  for (auto& [ends, queue] : c.links) queue.clear();
}

TEST(raft_replication, a_record_of_an_older_term_is_never_committed_by_counting) {  // paper, 5.4.2 and figure 8
  cluster c(3);
  c.give(1, {1, 2});
  c.give(2, {1, 2});
  c.give(3, {1});
  c.slow_disks = {1, 2, 3};
  ASSERT_TRUE(c.run_until([&] { return c.leader() == 1 || c.leader() == 2; }));
  const node_id leader = c.leader();
  ASSERT_EQ(c.last(leader), 3u);
  EXPECT_EQ(c[leader].progress_of(3 - leader)->match(), 2u);  // a majority has record 2 of term 2
  EXPECT_EQ(c[leader].commit(), 0u);
  c.slow_disks.clear();
  c.settle();
  EXPECT_EQ(c[leader].commit(), 3u);
}

TEST(raft_replication, a_leader_counts_itself_when_its_own_disk_has_the_record) {  // dissertation, 10.2.1
  cluster c(3);
  c.crash(3);
  c.slow_disks = {1};
  ASSERT_TRUE(c.run_until([&] {
    if (c[1].role() == role::follower) c.wake(1);
    return c[1].role() == role::leader;
  }));
  c.settle();
  const index_t own = c.last(1);  // of its term
  EXPECT_EQ(c[1].progress_of(2)->match(), own);
  EXPECT_LT(c[1].commit(), own);
  c.sync(1);
  EXPECT_EQ(c[1].commit(), own);
}

TEST(raft_replication, followers_can_commit_what_the_leader_s_disk_has_not_yet) {  // dissertation, 10.2.1
  cluster c(3);
  c.elect(1);
  c.slow_disks = {1};
  c.propose(1, "a");
  c.settle();
  EXPECT_EQ(c[1].commit(), 2u);
  EXPECT_EQ(c[1].applicable(), 1u);  // no state is ahead of its log after a crash
  EXPECT_EQ(c[2].commit(), 2u);
}

TEST(raft_replication, a_follower_commits_what_it_has_durable_of_what_the_leader_has_committed) {  // paper, figure 2
  cluster c(3);
  lead_alone(c);
  propose(c, 1, 3);
  c.receive(append(c, 1, 2, 2, 3, 4));
  EXPECT_EQ(c[2].commit(), 1u);
  c.sync(2);
  EXPECT_EQ(c[2].commit(), 3u);
  c.receive(append(c, 1, 2, 4, 4));
  c.sync(2);
  EXPECT_EQ(c[2].commit(), 4u);
}

TEST(raft_replication, a_follower_commits_nothing_that_the_leader_of_this_term_has_not_matched) {  // paper, figure 2
  cluster c(3);
  c.give(1, {1, 1, 1, 1});
  c.give(2, {1, 1, 1, 1});
  c.give(3, {1, 1, 2, 2});
  c.receive(append(c, 1, 2, 5, 4));  // to which all of it was the same
  c.receive(append(c, 3, 2, 2, 2, 4));
  EXPECT_EQ(c[2].commit(), 2u);
  EXPECT_EQ(c.nodes.at(2).log.acked().index, 4u) << "what follows is durable, and another leader's";
  c.receive(append(c, 3, 2, 3, 4, 4));
  c.sync(2);
  EXPECT_EQ(c[2].commit(), 4u);
  EXPECT_EQ(c.nodes.at(2).log.last(), c.nodes.at(3).log.last());
}

TEST(raft_replication, stale_acks_and_nacks_never_move_match) {
  cluster c(3);
  lead_alone(c);
  propose(c, 1, 5);
  c.receive(ack(c, 2, 1, 4));
  const progress& of = *c[1].progress_of(2);
  ASSERT_EQ(of.match(), 4u);
  c.receive(ack(c, 2, 1, 2));
  message nack = ack(c, 2, 1, 3);
  nack.rejected = true;
  nack.at = {1, 1, 0};
  c.receive(nack);
  c.receive(ack(c, 2, 1, 100));  // nobody who follows this leader says that
  message of_older_term = ack(c, 2, 1, 5);
  of_older_term.term = 0;
  c.receive(of_older_term);
  EXPECT_EQ(of.match(), 4u);
  EXPECT_EQ(of.next(), 5u);
  EXPECT_EQ(of.state(), progress::state_t::replicate);
}

TEST(raft_replication, an_overlapping_or_stale_append_truncates_nothing_that_matches) {  // paper, 5.3
  cluster c(3);
  lead_alone(c);
  propose(c, 1, 5);
  c.receive(append(c, 1, 2, 2, 6));
  c.sync(2);
  const position before = c.nodes.at(2).log.last();
  for (index_t next = 1; next <= 6; ++next) {
    for (index_t last = next - 1; last <= 6; ++last) c.receive(append(c, 1, 2, next, last, 3));
  }
  EXPECT_EQ(c.nodes.at(2).log.last(), before);
  EXPECT_EQ(c.nodes.at(2).log.acked(), before);
}

TEST(raft_replication, what_conflicts_is_replaced_and_acknowledged_only_when_it_is_durable_again) {  // paper, 5.3
  cluster c(3);
  c.give(1, {1, 2, 2});
  c.give(2, {1, 1, 1, 1});
  c.receive(append(c, 1, 2, 2, 3, 3));
  EXPECT_EQ(c.nodes.at(2).log.last(), c.nodes.at(1).log.last());
  EXPECT_EQ(c.nodes.at(2).log.acked().index, 1u);
  EXPECT_EQ(c[2].commit(), 1u);
  EXPECT_FALSE(c.take(message_type::append_response, 2, 1));
  c.sync(2);
  EXPECT_EQ(c[2].commit(), 3u);
  EXPECT_EQ(c.take(message_type::append_response, 2, 1)->index, 3u);
}

TEST(raft_replication, what_is_in_flight_and_not_committed_is_counted_back_to_zero) {
  core_options small_window;
  small_window.in_flight.messages = 3;
  cluster c(3, small_window);
  c.elect(1);
  for (int round = 0; round < 3; ++round) {
    propose(c, 1, 20);
    EXPECT_EQ(c[1].uncommitted_bytes(), 20u * 6);
    c.settle();
    EXPECT_EQ(c[1].uncommitted_bytes(), 0u);
    EXPECT_EQ(c[1].progress_of(2)->in_flight().messages(), 0u);
    EXPECT_EQ(c[1].progress_of(2)->in_flight().bytes(), 0u);
  }
  c.isolate(1);
  propose(c, 1, 20);
  ASSERT_TRUE(c.run_until([&] { return c[1].role() != role::leader; }));
  EXPECT_EQ(c[1].uncommitted_bytes(), 0u);
}

TEST(raft_replication, what_was_in_flight_over_a_lost_connection_is_not_waited_for) {
  core_options small_window;
  small_window.in_flight.messages = 2;
  cluster c(3, small_window);
  c.elect(1);
  c.cut_off(1, 2);
  propose(c, 1, 5);
  ASSERT_TRUE(c[1].progress_of(2)->is_paused());
  ASSERT_EQ(c[1].progress_of(2)->in_flight().messages(), 2u);
  c.ships_at_once = false;
  c.heal();
  EXPECT_FALSE(c[1].progress_of(2)->is_paused());
  EXPECT_EQ(c[1].progress_of(2)->in_flight().messages(), 0u);
  c.settle();
  EXPECT_EQ(c[1].progress_of(2)->match(), c.last(1));
}

TEST(raft_replication, what_may_be_applied_never_goes_back_and_ends_with_all) {
  core_options small_window;
  small_window.in_flight.messages = 1;
  cluster c(3, small_window);
  lead_alone(c);
  propose(c, 1, 20);
  index_t applied = c[2].applicable();
  while (applied < 21) {
    c.sync(1);
    c.ship(1, 2, 1);
    while (c.deliver(1, 2)) {
    }
    c.sync(2);
    while (c.deliver(2, 1)) {
    }
    ASSERT_LE(applied, c[2].applicable());
    ASSERT_LE(c[2].applicable(), applied + 1) << "one record a message";
    applied = c[2].applicable();
  }
  EXPECT_EQ(c[1].commit(), 21u);
}

TEST(raft_replication, too_much_that_is_not_committed_is_refused) {
  core_options few_bytes;
  few_bytes.max_uncommitted_bytes = 10;
  cluster c(3, few_bytes);
  lead_alone(c);
  EXPECT_TRUE(c.propose(1, "seven b"));
  EXPECT_FALSE(c.propose(1, "four"));
  EXPECT_TRUE(c.propose(1, "too"));
  c.settle();
  EXPECT_TRUE(c.propose(1, "a larger one than the limit, alone"));
}

TEST(raft_replication, a_follower_is_told_in_a_heartbeat_no_more_than_it_has_acknowledged) {  // paper, 5.3
  cluster c(3);
  c.give(3, {1, 1, 1, 1});  // which a leader of term 1 has left behind
  c.give(1, {2, 2});
  c.give(2, {2, 2});
  c.cut_off(3, 1);
  c.cut_off(3, 2);
  const node_id leader = c.elect();
  ASSERT_EQ(c[leader].commit(), 3u);
  c.wake(leader);
  const message heartbeat = *c.take(message_type::heartbeat, leader, 3);
  EXPECT_EQ(heartbeat.commit, 0u);
  c.receive(heartbeat);
  EXPECT_EQ(c[3].commit(), 0u);
}

TEST(raft_replication, a_nack_skips_whole_terms) {  // paper, 5.3
  cluster c(3);
  for (node_id id = 1; id <= 3; ++id) c.nodes.at(id).core.reset();
  for (int i = 0; i < 200; ++i) {
    for (const auto& [id, term] : std::map<node_id, term_t>{{1, i < 100 ? 1 : 4}, {2, 4}, {3, i < 100 ? 2 : 3}}) {
      c.nodes.at(id).log.append(id == 2 ? (i < 100 ? 1 : 4) : term, data_record, as_bytes("x"));
      c.nodes.at(id).hard.term = 4;
      c.nodes.at(id).log.sync(static_cast<index_t>(i + 1));
    }
  }
  for (node_id id = 1; id <= 3; ++id) c.start(id);
  c.ships_at_once = false;
  ASSERT_TRUE(c.run_until([&] { return c.leader() != 0; }));
  const node_id leader = c.leader();
  ASSERT_NE(leader, 3u);
  int messages = 0;
  while (c.last(3) != c.last(leader)) {
    ASSERT_LT(++messages, 10);
    c.ship(leader, 3, 1000);
    while (c.deliver(leader, 3)) {
    }
    while (c.deliver(3, leader)) {
    }
  }
}

TEST(raft_replication, a_follower_that_was_long_without_a_leader_acknowledges_what_it_has) {
  core_options small_window;
  small_window.in_flight.messages = 1;
  cluster c(5, small_window);
  c.elect(1);
  c.slow_disks = {2};
  c.propose(1, "a");
  c.settle();
  ASSERT_TRUE(c[1].progress_of(2)->is_paused());
  // No connection breaks, but nothing arrives for a while.
  c.now += 3 * timeout;
  c.tick(2);
  ASSERT_EQ(c[2].role(), role::pre_candidate);
  c.sync(2);
  c.slow_disks.clear();
  c.receive(c.made(message_type::heartbeat, 1, 2));
  EXPECT_EQ(c.take(message_type::heartbeat_response, 2, 1)->index, c.last(1));
}

TEST(raft_replication, a_lost_acknowledgement_is_made_up_for_by_the_next_heartbeat) {
  cluster c(3);
  c.elect(1);
  c.crash(3);
  c.slow_disks = {2};
  c.propose(1, "a");
  c.settle();
  c.sync(2);
  ASSERT_TRUE(c.take(message_type::append_response, 2, 1)) << "on a connection that node 2 does not know to be over";
  c.settle();
  ASSERT_LT(c[1].commit(), c.last(1));
  c.wake(1);
  c.settle();
  EXPECT_EQ(c[1].commit(), c.last(1));
}

TEST(raft_replication, a_damaged_follower_is_refilled_by_the_leader_to_whom_it_has_acknowledged_more) {  // design: C6
  cluster c(3);
  c.elect(1);
  propose(c, 1, 10);
  c.settle();
  ASSERT_EQ(c[1].progress_of(3)->match(), 11u);
  c.damage(3, 4);
  c.start(3);
  EXPECT_TRUE(c.run_until([&] { return c.nodes.at(3).log.acked() == c.nodes.at(1).log.acked(); }));
  EXPECT_EQ(c.leader(), 1u);
}

TEST(raft_replication, a_follower_refuses_what_does_not_follow_its_log) {  // paper, 5.3
  cluster c(3);
  lead_alone(c);
  propose(c, 1, 5);
  c.receive(append(c, 1, 2, 4, 5));
  const message nack = *c.take(message_type::append_response, 2, 1);
  EXPECT_TRUE(nack.rejected);
  EXPECT_EQ(nack.index, 3u);
  EXPECT_EQ(nack.at.index, 1u);
  EXPECT_EQ(c.last(2), 1u);
}

TEST(raft_replication, a_leader_of_an_older_term_learns_that_it_is_over) {  // paper, 5.1
  cluster c(3);
  lead_alone(c);
  propose(c, 1, 1);
  const message late = append(c, 1, 2, 2, 2);
  message newer = c.made(message_type::heartbeat, 3, 2);
  newer.term = 2;
  c.receive(newer);
  c.receive(late);
  EXPECT_EQ(c.last(2), 1u);
  EXPECT_TRUE(c.deliver(2, 1));
  EXPECT_EQ(c[1].role(), role::follower);
  EXPECT_EQ(c[1].term(), 2u);
}

TEST(raft_replication, a_witness_gets_no_payloads_once_it_has_what_makes_it_one) {
  cluster c(3);
  c.elect(1);
  std::error_code ec;
  c.slow_disks = {3};
  c.change_members(1, {transition::simple, {{change_type::add_witness, 3, ""}}}, ec);
  c.propose(1, "a");
  c.settle();
  ASSERT_EQ(c[1].commit(), c.last(1));
  EXPECT_TRUE(c[1].next_append(3).payloads);
  EXPECT_EQ(c.nodes.at(3).log.kind_of(3), data_record);
  c.slow_disks.clear();
  c.settle();
  EXPECT_FALSE(c[1].next_append(3).payloads);
  c.propose(1, "b");
  c.settle();
  EXPECT_EQ(c.nodes.at(3).log.kind_of(4), witness_record);
  EXPECT_EQ(c.nodes.at(3).log.last(), c.nodes.at(1).log.last());
}

}  // namespace
}  // namespace lockstep::raft::test
