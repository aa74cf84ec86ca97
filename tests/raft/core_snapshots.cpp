// Followers that need what their leader does not keep any more. The paper is Ongaro and Ousterhout's, section 7.
#include "cluster.hpp"

#include <gtest/gtest.h>

namespace lockstep::raft::test {
namespace {

constexpr instant timeout = core_options{}.election_timeout;

void propose(cluster& c, node_id leader, int count) {
  for (int i = 0; i < count; ++i) c.propose(leader, "record");
  c.settle();
}

// Node 1 leads and has compacted its log; node 3 was away in the meantime.
void compact_without(cluster& c, node_id away) {
  c.elect(1);
  c.isolate(away);
  propose(c, 1, 10);
  c.compact(1);
}

bool catches_up(cluster& c, node_id id) {
  return c.run_until([&] { return c[id].commit() == c[c.leader()].commit(); }, 10 * timeout);
}

TEST(raft_snapshots, a_leader_that_has_compacted_under_a_throttled_follower_sends_one) {
  core_options small_window;
  small_window.in_flight.messages = 1;
  cluster c(3, small_window);
  c.elect(1);
  c.slow_disks = {3};
  propose(c, 1, 10);
  ASSERT_TRUE(c[1].progress_of(3)->is_paused());
  c.compact(1);
  c.slow_disks.clear();
  EXPECT_TRUE(catches_up(c, 3));
  EXPECT_EQ(c.nodes.at(3).snap->at, c.nodes.at(1).snap->at);
  propose(c, 1, 3);
  EXPECT_EQ(c.nodes.at(3).log.last(), c.nodes.at(1).log.last());
}

TEST(raft_snapshots, a_fully_compacted_leader_sends_one_to_an_empty_follower) {
  cluster c(3);
  c.elect(1);
  propose(c, 1, 10);
  c.compact(1);
  ASSERT_EQ(c.nodes.at(1).log.base(), c.nodes.at(1).log.last());
  c.add(4, {});
  std::error_code ec;
  c.change_members(1, {transition::simple, {{change_type::add_voter, 4, ""}}}, ec);
  EXPECT_TRUE(catches_up(c, 4));
  EXPECT_EQ(c.nodes.at(4).snap->at.index, 11u);
  EXPECT_EQ(c[4].members(), c[1].members());
}

TEST(raft_snapshots, one_that_failed_is_tried_again_from_where_the_follower_is) {
  cluster c(3);
  compact_without(c, 3);
  c.installs_at_once = false;
  c.heal();
  ASSERT_TRUE(c.run_until([&] { return c[1].progress_of(3)->state() == progress::state_t::snapshot; }));
  EXPECT_EQ(c[1].progress_of(3)->pending_snapshot(), 11u);
  c[1].snapshot_failed(3);
  EXPECT_EQ(c[1].progress_of(3)->state(), progress::state_t::probe);
  EXPECT_EQ(c[1].progress_of(3)->next(), c[1].progress_of(3)->match() + 1);
  c.settle();
  EXPECT_EQ(c[1].progress_of(3)->pending_snapshot(), 11u);
  c.installs_at_once = true;
  c.install(3);
  c.settle();
  EXPECT_EQ(c[1].progress_of(3)->match(), c.last(1));
}

TEST(raft_snapshots, one_that_comes_too_late_is_not_needed) {  // paper, figure 13, step 6
  cluster c(3);
  compact_without(c, 3);
  c.installs_at_once = false;
  c.heal();
  ASSERT_TRUE(c.run_until([&] { return c[1].progress_of(3)->state() == progress::state_t::snapshot; }));
  // Another leader, which has all of its log, is faster than the snapshot.
  c.crash(1);
  ASSERT_TRUE(c.run_until([&] { return c.leader() == 2 && c.last(3) == c.last(2); }));
  propose(c, 2, 3);
  const position before = c.nodes.at(3).log.last();
  c.install(3);
  EXPECT_EQ(c.nodes.at(3).log.last(), before);
  EXPECT_FALSE(c.nodes.at(3).snap);
}

TEST(raft_snapshots, one_whose_follower_is_removed_in_the_meantime_does_no_harm) {
  cluster c(4);
  compact_without(c, 3);
  c.installs_at_once = false;
  c.heal();
  ASSERT_TRUE(c.run_until([&] { return c[1].progress_of(3)->state() == progress::state_t::snapshot; }));
  std::error_code ec;
  c.change_members(1, {transition::simple, {{change_type::remove, 3, ""}}}, ec);
  c.settle();
  c.install(3);
  c[1].snapshot_failed(3);
  propose(c, 1, 1);
  EXPECT_EQ(c[1].progress_of(3), nullptr);
  EXPECT_EQ(c[1].commit(), c.last(1));
  EXPECT_EQ(c[3].commit(), 11u);
}

TEST(raft_snapshots, an_older_one_is_answered_with_what_is_there) {
  cluster c(3);
  c.elect(1);
  propose(c, 1, 3);
  c.slow_disks = {3};
  propose(c, 1, 3);
  c.links[{3, 1}].clear();
  message offer = c.made(message_type::snapshot_offer, 1, 3);
  for (const index_t index : {2u, 4u, 7u}) {
    offer.at = *c.nodes.at(1).log.position_at(index);
    c.receive(offer);
    EXPECT_EQ(c.take(message_type::append_response, 3, 1)->index, 4u) << index;  // what is durable
  }
  EXPECT_EQ(c.last(3), 7u);
  EXPECT_FALSE(c.nodes.at(3).snap);
}

TEST(raft_snapshots, one_brings_the_configuration_that_was_in_force) {
  cluster c(4);
  c.elect(1);
  c.isolate(4);
  std::error_code ec;
  c.change_members(1, {transition::simple, {{change_type::remove, 3, ""}}}, ec);
  propose(c, 1, 3);
  c.compact(1);
  c.change_members(1, {transition::simple, {{change_type::add_learner, 3, ""}}}, ec);
  c.settle();
  c.heal();
  EXPECT_TRUE(catches_up(c, 4));
  ASSERT_TRUE(c.nodes.at(4).snap);
  EXPECT_FALSE(c.nodes.at(4).snap->config.is_member(3));
  EXPECT_EQ(c[4].members(), c[1].members());
}

TEST(raft_snapshots, one_replaces_configurations_that_were_never_committed) {
  cluster c(3);
  c.elect(3);
  c.isolate(3);
  std::error_code ec;
  c.change_members(3, {transition::simple, {{change_type::remove, 2, ""}}}, ec);
  c.sync(3);
  ASSERT_TRUE(c.run_until([&] { return c.leader() != 0 && c.leader() != 3; }));
  const node_id leader = c.leader();
  propose(c, leader, 10);
  c.compact(leader);
  c.heal();
  EXPECT_TRUE(catches_up(c, 3));
  ASSERT_TRUE(c.nodes.at(3).snap);
  EXPECT_EQ(c[3].members(), cluster::first_voters(3));
}

TEST(raft_snapshots, one_that_comes_while_a_node_stands_ends_that) {
  cluster c(3);
  c.elect(1);
  c.isolate(3);
  std::error_code ec;
  c.change_members(1, {transition::simple, {{change_type::add_learner, 3, ""}}}, ec);
  propose(c, 1, 3);
  c.compact(1);
  c.installs_at_once = false;
  c.heal();
  ASSERT_TRUE(c.run_until([&] { return c[1].progress_of(3)->state() == progress::state_t::snapshot; }));
  c.wake(3);
  ASSERT_EQ(c[3].role(), role::pre_candidate);
  c.install(3);
  EXPECT_EQ(c[3].role(), role::follower);
  message promise = c.made(message_type::vote_response, 2, 3);
  promise.term = c[3].term() + 1;
  promise.pre = promise.granted = true;
  c.receive(promise);
  EXPECT_EQ(c[3].role(), role::follower);
}

TEST(raft_snapshots, what_begins_with_one_after_a_restart_goes_on_behind_it) {
  cluster c(3);
  c.elect(1);
  propose(c, 1, 5);
  for (const node_id id : id_set{1, 2, 3}) {
    c.compact(id);
    c.crash(id);
    c.start(id);
    EXPECT_EQ(c[id].commit(), 6u);
  }
  const node_id leader = c.elect();
  propose(c, leader, 5);
  EXPECT_EQ(c[leader].commit(), 12u);
}

}  // namespace
}  // namespace lockstep::raft::test
