// Groups in which nothing happens, and a node as people see it.
#include "cluster.hpp"

#include <gtest/gtest.h>

namespace lockstep::raft::test {
namespace {

using namespace std::chrono_literals;

constexpr instant timeout = core_options{}.election_timeout;

core_options quiescing() {
  core_options options;
  options.quiesce_after = 5s;
  return options;
}

bool all_quiet(const cluster& c) {
  return std::all_of(c.nodes.begin(), c.nodes.end(), [](const auto& each) {
    return !each.second.core || each.second.core->deadline() == instant::max();
  });
}
bool anything_under_way(const cluster& c) {
  return std::any_of(c.links.begin(), c.links.end(), [](const auto& each) { return !each.second.empty(); });
}

// Nodes 1 (which leads) to 3, quiet for an hour.
struct quiet_cluster : cluster {
  quiet_cluster() : cluster(3, quiescing()) {
    elect(1);
    require(run_until([this] { return all_quiet(*this); }, 10s), "it does not fall quiet");
    for (int minutes = 0; minutes < 60; ++minutes) {
      tick_all(1min);
      require(!anything_under_way(*this), "something is sent");
    }
  }
};

TEST(raft_quiet, nothing_is_sent_when_everybody_has_everything) {
  const quiet_cluster c;
  EXPECT_EQ(c.leader(), 1u);
  EXPECT_TRUE(c.nodes.at(1).core->status().quiet);
  EXPECT_TRUE(c.nodes.at(2).core->status().quiet);
}

TEST(raft_quiet, nobody_is_unless_asked_to) {
  cluster c(3);
  c.elect(1);
  EXPECT_FALSE(c.run_until([&] { return all_quiet(c); }, 60s));
}

TEST(raft_quiet, nobody_is_while_a_member_lacks_something) {
  cluster c(3, quiescing());
  c.elect(1);
  c.crash(3);
  EXPECT_FALSE(c.run_until([&] { return c[1].deadline() == instant::max(); }, 60s));
  c.start(3);
  EXPECT_TRUE(c.run_until([&] { return all_quiet(c); }, 10s));
}

TEST(raft_quiet, a_proposal_wakes_everybody) {
  quiet_cluster c;
  EXPECT_TRUE(c.propose(1, "a"));
  c.slow_disks = {1};
  c.tick_all(1ms);  // its disk has not stood still for an hour
  c.settle();
  EXPECT_EQ(c[1].role(), role::leader);
  EXPECT_EQ(c[2].commit(), 2u);
  EXPECT_FALSE(all_quiet(c));
  EXPECT_EQ(c[1].term(), 1u);
  c.slow_disks.clear();
  EXPECT_TRUE(c.run_until([&] { return all_quiet(c); }, 10s));
}

TEST(raft_quiet, a_read_wakes_everybody) {
  for (const node_id id : id_set{1, 2}) {
    quiet_cluster c;
    EXPECT_FALSE(c.read(id, 7));
    c.settle();
    EXPECT_EQ(c.reads[7].index, 1u);
    c.tick_all(1ms);
    c.settle();
    EXPECT_LT(c[3].deadline(), c.now + 2 * timeout);
    EXPECT_EQ(c[1].role(), role::leader);
  }
}

TEST(raft_quiet, a_broken_connection_shows_that_the_leader_is_gone) {
  quiet_cluster c;
  c.crash(1);
  EXPECT_TRUE(c.run_until([&] { return c.leader() > 1; }, 10 * timeout));
}

TEST(raft_quiet, a_broken_connection_alone_replaces_no_leader) {
  quiet_cluster c;
  c.lose_connection(1, 2);
  c.run_until([] { return false; }, 4 * timeout);
  EXPECT_EQ(c.leader(), 1u);
  EXPECT_EQ(c[1].term(), 1u);
  EXPECT_TRUE(c.run_until([&] { return all_quiet(c); }, 10s));
}

TEST(raft_quiet, who_has_lost_the_leader_is_not_helped_by_who_has_not) {  // dissertation, 4.2.3
  quiet_cluster c;
  c.cut_off(1, 2);
  c.cut_off(2, 1);
  c.perform(2, c[2].disconnected(1, c.now));
  c.wake(2);
  ASSERT_EQ(c[2].role(), role::pre_candidate);
  while (c.deliver(2, 3) || c.deliver(3, 2)) {
  }
  EXPECT_EQ(c[2].role(), role::pre_candidate);
  EXPECT_EQ(c[2].term(), 1u);
}

TEST(raft_quiet, a_leader_that_wakes_without_a_quorum_steps_down) {  // dissertation, 6.2
  quiet_cluster c;
  for (const node_id id : id_set{2, 3}) {
    c.cut_off(1, id);
    c.cut_off(id, 1);
  }
  EXPECT_TRUE(c.propose(1, "a"));
  EXPECT_TRUE(c.run_until([&] { return c[1].role() == role::follower; }, 2 * timeout));
}

TEST(raft_status, says_what_a_node_knows) {
  configuration first = cluster::first_voters(3);
  first.learners.insert(4);
  cluster c(first);
  c.elect(1);
  c.crash(3);
  c.propose(1, "a");
  c.settle();
  c.run_until([] { return false; }, 2 * timeout);
  const core_status of = c[1].status();
  EXPECT_EQ(of.id, 1u);
  EXPECT_EQ(of.role, role::leader);
  EXPECT_EQ(of.leader, 1u);
  EXPECT_EQ(of.term, 1u);
  EXPECT_EQ(of.commit, 2u);
  EXPECT_EQ(of.applicable, 2u);
  EXPECT_EQ(of.last, 2u);
  EXPECT_EQ(of.members, first);
  EXPECT_EQ(of.quorum, 2u);
  EXPECT_EQ(of.last_change, "term 1: it did not hear from a leader");
  ASSERT_EQ(of.peers.size(), 3u);
  EXPECT_EQ(of.peers[0].id, 2u);
  EXPECT_TRUE(of.peers[0].heard && of.peers[0].votes);
  EXPECT_EQ(of.peers[0].state, progress::state_t::replicate);
  EXPECT_EQ(of.peers[0].lag, 0u);
  EXPECT_FALSE(of.peers[1].heard);
  EXPECT_EQ(of.peers[1].match, 1u);
  EXPECT_EQ(of.peers[1].lag, 1u);
  EXPECT_FALSE(of.peers[2].votes);
  EXPECT_TRUE(c[2].status().peers.empty());
}

}  // namespace
}  // namespace lockstep::raft::test
