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
  for (const node_id id : {4, 5}) c.add(id, {});
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
  for (const node_id id : {3, 4, 5}) c.isolate(id);
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

}  // namespace
}  // namespace lockstep::raft::test
