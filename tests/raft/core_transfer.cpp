// Leadership that is handed over. The dissertation is Ongaro's, section 3.10.
#include "cluster.hpp"

#include <gtest/gtest.h>

namespace lockstep::raft::test {
namespace {

constexpr instant timeout = core_options{}.election_timeout;

TEST(raft_transfer, hands_over_at_once_to_who_has_everything) {
  cluster c(3);
  c.elect(1);
  const instant before = c.now;
  EXPECT_FALSE(c.transfer(1, 3));
  c.settle();
  EXPECT_EQ(c.leader(), 3u);
  EXPECT_EQ(c[1].leader(), 3u);
  EXPECT_EQ(c[3].term(), 2u);
  EXPECT_EQ(c.now, before);
}

TEST(raft_transfer, waits_for_a_target_whose_log_is_not_flushed) {
  cluster c(3);
  c.elect(1);
  c.slow_disks = {3};
  c.propose(1, "a");
  c.settle();
  ASSERT_EQ(c.last(3), c.last(1));
  EXPECT_FALSE(c.transfer(1, 3));
  c.settle();
  EXPECT_EQ(c.leader(), 1u);
  c.slow_disks.clear();
  c.settle();
  EXPECT_EQ(c.leader(), 3u);
}

TEST(raft_transfer, refuses_proposals_and_changes_until_it_is_given_up) {
  cluster c(3);
  c.elect(1);
  c.crash(3);
  EXPECT_TRUE(c.propose(1, "a"));
  c.settle();
  EXPECT_FALSE(c.transfer(1, 3));
  EXPECT_FALSE(c.propose(1, "b"));
  std::error_code ec;
  c.change_members(1, {transition::simple, {{change_type::remove, 2, ""}}}, ec);
  EXPECT_EQ(ec, errc::overloaded);
  c.run_until([] { return false; }, timeout + core_options{}.heartbeat_interval);
  EXPECT_TRUE(c.propose(1, "b"));
  EXPECT_EQ(c.leader(), 1u);
}

TEST(raft_transfer, takes_voters_only_that_can_lead) {
  configuration first = cluster::first_voters(3);
  first.witnesses.insert(3);
  first.learners.insert(4);
  cluster c(first);
  c.elect(1);
  EXPECT_EQ(c.transfer(1, 3), errc::wrong_node);
  EXPECT_EQ(c.transfer(1, 4), errc::wrong_node);
  EXPECT_EQ(c.transfer(1, 5), errc::wrong_node);
  EXPECT_EQ(c.transfer(2, 1), errc::not_leader);
  EXPECT_FALSE(c.transfer(1, 1));
  EXPECT_TRUE(c.propose(1, "nothing has changed"));
}

TEST(raft_transfer, ends_when_its_target_is_no_member_any_more) {
  cluster c(4);
  c.elect(1);
  std::error_code ec;
  c.change_members(1, {transition::joint_auto_leave, {{change_type::remove, 4, ""}}}, ec);
  EXPECT_FALSE(c.transfer(1, 4));
  c.isolate(4);
  c.settle();
  ASSERT_FALSE(c[1].members().is_member(4));
  EXPECT_TRUE(c.propose(1, "a"));
}

TEST(raft_transfer, an_order_to_stand_that_comes_in_a_later_term_is_ignored) {
  cluster c(3);
  c.elect(1);
  const message late = c.made(message_type::timeout_now, 1, 2);
  EXPECT_FALSE(c.transfer(1, 3));
  c.settle();
  const term_t term = c[3].term();
  ASSERT_EQ(term, 2u);
  c.receive(late);
  c.settle();
  EXPECT_EQ(c.leader(), 3u);
  EXPECT_EQ(c[3].term(), term);
}

}  // namespace
}  // namespace lockstep::raft::test
