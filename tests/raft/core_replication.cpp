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
  EXPECT_EQ(c.take(message_type::append_response, 2, 1)->index, c.last(1));
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
