// Members that change while the group works. The paper is Ongaro and Ousterhout's, section 6; the dissertation
// Ongaro's, chapter 4.
#include "cluster.hpp"

#include <gtest/gtest.h>

namespace lockstep::raft::test {
namespace {

using namespace std::chrono_literals;

constexpr instant timeout = core_options{}.election_timeout;

change_list simply(change_type type, node_id node) { return {transition::simple, {{type, node, ""}}}; }

// Node 4 and 5 come and 1 stays, of 1, 2, 3.
change_list replace_two(transition how) {
  return {how,
          {{change_type::add_voter, 4, ""},
           {change_type::add_voter, 5, ""},
           {change_type::remove, 2, ""},
           {change_type::remove, 3, ""}}};
}

std::error_code change(cluster& c, node_id leader, const change_list& changes) {
  std::error_code ec;
  EXPECT_EQ(c.change_members(leader, changes, ec), change_error::none);
  return ec;
}

int configurations(const cluster& c, node_id id) {
  int count = 0;
  for (index_t i = 1; i <= c.last(id); ++i) count += c.nodes.at(id).log.kind_of(i) == config_record ? 1 : 0;
  return count;
}

void add_nodes(cluster& c) {
  for (const node_id id : id_set{4, 5}) c.add(id, {});
}

TEST(raft_members, a_configuration_counts_from_the_moment_it_is_appended) {  // paper, 6
  cluster c(3);
  c.elect(1);
  for (const node_id id : id_set{2, 3}) c.isolate(id);
  EXPECT_FALSE(change(c, 1, simply(change_type::remove, 3)));
  EXPECT_EQ(c[1].members().voters.incoming, (majority{1, 2}));
  c.sync(1);
  EXPECT_EQ(c[1].commit(), 1u);
  c.cut.clear();
  c.isolate(3);
  c.lose_connection(1, 2);
  c.run_until([] { return false; }, timeout);
  EXPECT_EQ(c[1].commit(), 2u);
}

TEST(raft_members, one_change_waits_for_the_commit_of_the_last) {  // dissertation, 4.1
  cluster c(3);
  add_nodes(c);
  c.elect(1);
  EXPECT_FALSE(change(c, 1, simply(change_type::add_voter, 4)));
  EXPECT_EQ(change(c, 1, simply(change_type::add_voter, 5)), errc::overloaded);
  c.settle();
  EXPECT_FALSE(change(c, 1, simply(change_type::add_voter, 5)));
  c.settle();
  EXPECT_EQ(c[5].members().voters.incoming.size(), 5u);
}

TEST(raft_members, none_changes_before_the_term_s_first_commit) {  // Ongaro, raft-dev, 2015
  cluster c(3);
  c.slow_disks = {1, 2, 3};
  ASSERT_TRUE(c.run_until([&] { return c.leader() != 0; }));
  const node_id leader = c.leader();
  EXPECT_EQ(change(c, leader, simply(change_type::remove, c.follower())), errc::overloaded);
  c.slow_disks.clear();
  c.settle();
  EXPECT_FALSE(change(c, leader, simply(change_type::remove, c.follower())));
}

TEST(raft_members, only_the_leader_changes_them_and_nothing_that_is_wrong) {
  cluster c(3);
  c.elect(1);
  EXPECT_EQ(change(c, 2, simply(change_type::remove, 3)), errc::not_leader);
  std::error_code ec;
  EXPECT_EQ(c.change_members(1, {transition::simple, replace_two(transition::simple).changes}, ec),
            change_error::too_many_voters);
  change_error why{};
  c.perform(1, c[1].leave_joint(ec, why));
  EXPECT_EQ(why, change_error::not_joint);
  EXPECT_EQ(configurations(c, 1), 0);
}

TEST(raft_members, a_new_leader_takes_over_a_change_that_is_not_committed) {  // paper, 6
  cluster c(3);
  add_nodes(c);
  c.elect(1);
  c.isolate(3);
  c.slow_disks = {2};
  EXPECT_FALSE(change(c, 1, simply(change_type::add_voter, 4)));
  c.settle();
  ASSERT_TRUE(c[2].members().is_member(4));
  ASSERT_LT(c[2].commit(), c[2].members_index());
  c.sync(2);
  c.crash(1);
  c.heal();
  c.slow_disks.clear();
  ASSERT_TRUE(c.run_until([&] { return c.leader() == 2 && c[2].commit() == c.last(2); }));
  EXPECT_TRUE(c[4].members().is_member(4));
  EXPECT_EQ(c[3].members(), c[2].members());
}

TEST(raft_members, a_change_that_was_not_committed_is_reverted_with_its_record) {  // paper, 6
  cluster c(3);
  add_nodes(c);
  c.elect(1);
  const configuration before = c[1].members();
  c.isolate(1);
  EXPECT_FALSE(change(c, 1, simply(change_type::add_voter, 4)));
  c.sync(1);
  ASSERT_NE(c[1].members(), before);
  ASSERT_TRUE(c.run_until([&] { return c.leader() > 1 && c[c.leader()].commit() == 2; }));
  c.heal();
  ASSERT_TRUE(c.run_until([&] { return c[1].commit() == 2; }));
  EXPECT_EQ(c[1].members(), before);
  EXPECT_EQ(c[1].members_index(), 0u);
}

TEST(raft_members, a_joint_configuration_needs_both_halves_to_commit) {  // paper, 6
  for (const node_id silent : id_set{2, 4}) {
    cluster c(3);
    add_nodes(c);
    c.elect(1);
    for (const node_id id : {silent, silent + 1}) c.isolate(id);
    EXPECT_FALSE(change(c, 1, replace_two(transition::joint_auto_leave)));
    c.settle();
    EXPECT_EQ(c[1].commit(), 1u) << "without " << silent << " and the next";
    c.heal();
    c.run_until([] { return false; }, timeout);
    EXPECT_EQ(c[1].commit(), c.last(1));
  }
}

TEST(raft_members, a_joint_configuration_needs_both_halves_to_elect) {  // paper, 6
  cluster c(3);
  add_nodes(c);
  c.elect(1);
  EXPECT_FALSE(change(c, 1, replace_two(transition::joint_explicit)));
  c.settle();
  c.crash(2);
  c.crash(3);
  c.crash(1);
  c.start(1);
  EXPECT_FALSE(c.run_until([&] { return c.leader() != 0; }, 20 * timeout));
  c.start(2);
  EXPECT_TRUE(c.run_until([&] { return c.leader() != 0; }));
}

TEST(raft_members, a_joint_configuration_needs_both_halves_to_read_and_to_be_led) {  // paper, 6
  for (const node_id silent : id_set{2, 4}) {
    SCOPED_TRACE(silent);
    cluster c(3);
    add_nodes(c);
    c.elect(1);
    EXPECT_FALSE(change(c, 1, replace_two(transition::joint_explicit)));
    c.settle();
    for (const node_id id : {silent, silent + 1}) c.isolate(id);
    EXPECT_FALSE(c.read(1, 7));
    c.settle();
    EXPECT_FALSE(c.reads.contains(7));
    EXPECT_TRUE(c.run_until([&] { return c[1].role() != role::leader; }, 2 * timeout));
  }
}

TEST(raft_members, a_joint_configuration_is_not_left_before_it_is_committed) {  // paper, 6
  cluster c(3);
  add_nodes(c);
  c.elect(1);
  c.slow_disks = {2, 3};
  EXPECT_TRUE(c.propose(1, "before it"));
  EXPECT_FALSE(change(c, 1, replace_two(transition::joint_auto_leave)));
  c.settle();
  c.nodes.at(2).log.sync(2);
  c.perform(2, c[2].persisted(c.now));
  c.settle();
  ASSERT_EQ(c[1].commit(), 2u);
  EXPECT_TRUE(c[1].members().is_joint());
  EXPECT_EQ(configurations(c, 1), 1);
  c.slow_disks.clear();
  c.settle();
  EXPECT_FALSE(c[1].members().is_joint());
  EXPECT_EQ(configurations(c, 1), 2);
}

TEST(raft_members, a_joint_configuration_is_left_once_by_itself) {
  cluster c(3);
  add_nodes(c);
  c.elect(1);
  EXPECT_FALSE(change(c, 1, replace_two(transition::joint_auto_leave)));
  for (int i = 0; i < 5; ++i) c.propose(1, "behind it");
  c.settle();
  for (int i = 0; i < 5; ++i) c.propose(1, "afterwards");
  c.settle();
  EXPECT_FALSE(c[1].members().is_joint());
  EXPECT_EQ(configurations(c, 1), 2);
}

TEST(raft_members, a_joint_configuration_that_says_so_is_left_when_somebody_asks) {
  cluster c(3);
  add_nodes(c);
  c.elect(1);
  EXPECT_FALSE(change(c, 1, replace_two(transition::joint_explicit)));
  std::error_code ec;
  change_error why{};
  c.perform(1, c[1].leave_joint(ec, why));
  EXPECT_EQ(ec, errc::overloaded);  // the joint one is not committed yet
  c.settle();
  EXPECT_TRUE(c[1].members().is_joint());
  c.perform(1, c[1].leave_joint(ec, why));
  EXPECT_FALSE(ec);
  c.settle();
  EXPECT_FALSE(c[5].members().is_joint());
  EXPECT_EQ(configurations(c, 1), 2);
}

TEST(raft_members, a_new_leader_leaves_the_joint_configuration_that_it_finds) {
  cluster c(3);
  add_nodes(c);
  c.elect(1);
  c.slow_disks = {1, 2, 3};
  EXPECT_FALSE(change(c, 1, replace_two(transition::joint_auto_leave)));
  c.settle();
  c.slow_disks.clear();
  for (const node_id id : id_set{2, 3, 4, 5}) c.sync(id);
  ASSERT_EQ(c[1].commit(), 1u);
  c.crash(1, false);
  ASSERT_TRUE(c.run_until([&] { return c.leader() > 1; }));
  c.start(1);
  EXPECT_TRUE(c.run_until([&] { return c.leader() != 0 && !c[c.leader()].members().is_joint(); }));
  ASSERT_TRUE(c.run_until([&] { return c[1].commit() == c.last(1) && !c[1].members().is_joint(); }));
  EXPECT_EQ(configurations(c, 1), 2);
}

TEST(raft_members, a_leader_that_removes_itself_leads_until_that_is_committed) {  // dissertation, 4.2.2
  cluster c(3);
  c.elect(1);
  c.slow_disks = {2, 3};
  EXPECT_FALSE(change(c, 1, simply(change_type::remove, 1)));
  c.settle();
  EXPECT_TRUE(c.propose(1, "a"));
  c.sync(2);
  c.settle();
  EXPECT_EQ(c[1].commit(), 1u);  // it does not count itself
  EXPECT_EQ(c[1].role(), role::leader);
  c.slow_disks.clear();
  c.settle();
  EXPECT_EQ(c[1].role(), role::follower);
  EXPECT_EQ(c[1].last_change(), "term 1: it is no voter any more");
  ASSERT_TRUE(c.run_until([&] { return c.leader() > 1; }));
  c.run_until([] { return false; }, 20 * timeout);
  EXPECT_EQ(c[1].role(), role::follower);
}

TEST(raft_members, a_leader_does_not_make_itself_a_witness) {
  cluster c(3);
  c.elect(1);
  EXPECT_EQ(change(c, 1, simply(change_type::add_witness, 1)), errc::wrong_node);
  EXPECT_EQ(configurations(c, 1), 0);
}

TEST(raft_members, who_may_be_a_witness_does_not_stand) {
  cluster c(5);
  c.elect(1);
  for (const node_id id : id_set{3, 4, 5}) c.isolate(id);
  EXPECT_FALSE(change(c, 1, simply(change_type::add_witness, 2)));
  c.settle();
  ASSERT_EQ(c[2].members_index(), 2u);
  ASSERT_EQ(c[2].commit(), 1u);
  c.crash(1);
  EXPECT_FALSE(c.run_until([&] { return c[2].role() != role::follower; }, 20 * timeout));
}

TEST(raft_members, a_witness_has_nothing_that_its_leader_s_disk_may_lose) {
  configuration first = cluster::first_voters(3);
  first.witnesses.insert(3);
  cluster c(first);
  c.elect(1);
  c.crash(2);
  c.slow_disks = {1};
  EXPECT_TRUE(c.propose(1, "a"));
  c.settle();
  EXPECT_EQ(c.last(3), 1u);
  c.crash(1);
  c.start(1);
  c.slow_disks.clear();
  EXPECT_TRUE(c.run_until([&] { return c.leader() == 1; }));
}

TEST(raft_members, a_witness_has_nothing_that_only_a_leader_has_who_goes) {
  configuration first = cluster::first_voters(3);
  first.witnesses.insert(3);
  cluster c(first);
  c.elect(1);
  c.slow_disks = {2};
  EXPECT_FALSE(change(c, 1, simply(change_type::remove, 1)));
  EXPECT_TRUE(c.propose(1, "a"));
  c.settle();
  EXPECT_EQ(c.last(2), 3u);
  EXPECT_EQ(c.last(3), 1u);
}

TEST(raft_members, a_learner_counts_for_nothing_and_gets_everything) {  // dissertation, 4.2.1
  configuration first = cluster::first_voters(3);
  for (const node_id id : id_set{4, 5, 6}) first.learners.insert(id);
  cluster c(first);
  c.elect(1);
  c.crash(2);
  c.crash(3);
  EXPECT_TRUE(c.propose(1, "a"));
  c.settle();
  EXPECT_EQ(c.nodes.at(4).log.acked(), c.nodes.at(1).log.acked());
  EXPECT_EQ(c[1].commit(), 1u);
  EXPECT_TRUE(c.run_until([&] { return c[1].role() == role::follower; }, 3 * timeout));
  EXPECT_FALSE(c.run_until([&] { return c[4].role() != role::follower; }, 20 * timeout));
}

}  // namespace
}  // namespace lockstep::raft::test
