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

}  // namespace
}  // namespace lockstep::raft::test
