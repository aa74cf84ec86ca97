// Who leads. The paper is Ongaro and Ousterhout's, the dissertation Ongaro's: see raft/core.hpp.
#include "cluster.hpp"

#include <gtest/gtest.h>

namespace lockstep::raft::test {
namespace {

using namespace std::chrono_literals;

constexpr instant timeout = core_options{}.election_timeout;

message vote_request(node_id from, node_id to, term_t term, position last) {
  message asked;
  asked.type = message_type::vote_request;
  asked.from = from;
  asked.to = to;
  asked.term = term;
  asked.at = last;
  return asked;
}

// What `to` says when it is asked now; nothing when it says nothing.
std::optional<bool> vote(cluster& c, const message& asked) {
  c.receive(asked);
  const auto answer = c.take(message_type::vote_response, asked.to, asked.from);
  return answer ? std::optional(answer->granted) : std::nullopt;
}

TEST(raft_election, a_crash_between_vote_and_answer_never_double_votes) {
  cluster c(3);
  EXPECT_EQ(vote(c, vote_request(1, 2, 1, {})), true);
  c.crash(2);
  c.start(2);
  EXPECT_EQ(vote(c, vote_request(3, 2, 1, {})), false);  // paper, 5.2
  EXPECT_EQ(vote(c, vote_request(1, 2, 1, {})), true);
}

TEST(raft_election, only_who_has_all_that_may_be_committed_gets_a_vote) {  // paper, 5.4.1
  cluster c(3);
  c.give(2, {1, 1, 2});
  EXPECT_EQ(vote(c, vote_request(1, 2, 5, {1, 9, 0})), false);
  EXPECT_EQ(vote(c, vote_request(1, 2, 6, {2, 2, 0})), false);
  EXPECT_EQ(vote(c, vote_request(1, 2, 7, {2, 3, 0})), true);
  EXPECT_EQ(vote(c, vote_request(1, 2, 8, {3, 1, 0})), true);
}

TEST(raft_election, a_partitioned_node_disturbs_nobody_when_it_returns) {  // dissertation, 9.6
  cluster c(3);
  const node_id leader = c.elect();
  const term_t term = c[leader].term();
  const node_id lonely = c.follower();
  c.isolate(lonely);
  c.run_until([] { return false; }, 20 * timeout);
  EXPECT_EQ(c[lonely].role(), role::pre_candidate);
  EXPECT_EQ(c[lonely].term(), term);
  c.heal();
  c.run_until([] { return false; }, 5 * timeout);
  EXPECT_EQ(c.leader(), leader);
  EXPECT_EQ(c[leader].term(), term);
  EXPECT_EQ(c[lonely].leader(), leader);
}

TEST(raft_election, a_removed_node_disturbs_nobody) {  // dissertation, 4.2.3
  cluster c(4);
  const node_id leader = c.elect();
  const term_t term = c[leader].term();
  const node_id removed = c.follower();
  c.isolate(removed);
  std::error_code ec;
  c.change_members(leader, {transition::simple, {{change_type::remove, removed, ""}}}, ec);
  c.settle();
  c.heal();
  c.run_until([] { return false; }, 20 * timeout);
  EXPECT_TRUE(c[removed].members().voters.contains(removed));  // it does not know, and asks to lead
  EXPECT_EQ(c[removed].last_change(), "term 1: it lost the election");
  EXPECT_EQ(c.leader(), leader);
  EXPECT_EQ(c[leader].term(), term);
}

TEST(raft_election, whoever_hears_a_leader_does_not_help_to_replace_it) {  // dissertation, 4.2.3
  cluster c(3);
  const node_id leader = c.elect();
  const node_id follower = c.follower(1), rival = c.follower(2);
  const term_t term = c[leader].term();
  message asked = vote_request(rival, follower, term + 1, c.nodes.at(rival).log.last());
  EXPECT_EQ(vote(c, asked), std::nullopt);
  asked.to = leader;
  EXPECT_EQ(vote(c, asked), std::nullopt);
  asked.pre = true;
  EXPECT_EQ(vote(c, asked), false);
  EXPECT_EQ(c[follower].term(), term);
  EXPECT_EQ(c[leader].role(), role::leader);
}

TEST(raft_election, a_leader_steps_down_when_it_hears_from_no_quorum) {  // dissertation, 6.2
  cluster c(3);
  const node_id leader = c.elect();
  c.cut_off(c.follower(1), leader);
  c.run_until([] { return false; }, 2 * timeout);
  EXPECT_EQ(c[leader].role(), role::leader);  // one follower is enough
  c.cut_off(c.follower(2), leader);           // which still hears the leader
  EXPECT_TRUE(c.run_until([&] { return c[leader].role() == role::follower; }, 2 * timeout));
  EXPECT_EQ(c[leader].last_change(), "term 1: as leader it did not hear from a quorum");
}

TEST(raft_election, what_comes_late_to_a_leader_s_own_pre_vote_changes_nothing) {
  cluster c(3);
  c.wake(1);
  c.deliver(1, 2);
  c.deliver(1, 3);
  const message late = *c.take(message_type::vote_response, 3, 1);
  EXPECT_TRUE(late.pre && late.granted);
  c.elect(1);
  const term_t term = c[1].term();
  c.receive(late);
  EXPECT_EQ(c[1].role(), role::leader);
  EXPECT_EQ(c[1].term(), term);
}

TEST(raft_election, a_vote_of_an_older_term_counts_for_nothing) {
  cluster c(5);
  c.wake(1);
  for (const node_id id : id_set{2, 3, 4, 5}) c.deliver(1, id), c.deliver(id, 1);
  ASSERT_EQ(c[1].role(), role::candidate);
  c.deliver(1, 2);
  const message old = *c.take(message_type::vote_response, 2, 1);
  c.receive(vote_request(3, 1, 2, {}));
  c.wake(1);
  for (const node_id id : id_set{2, 3, 4, 5}) c.links[{1, id}].clear();
  c.receive(old);
  EXPECT_EQ(c[1].role(), role::pre_candidate);
  EXPECT_EQ(c[1].term(), 2u);
}

TEST(raft_election, a_candidate_gives_way_to_the_leader_of_its_term) {  // paper, 5.2
  cluster c(3);
  c.wake(1);
  c.deliver(1, 2);
  c.deliver(2, 1);
  ASSERT_EQ(c[1].role(), role::candidate);
  message heartbeat = c.made(message_type::heartbeat, 3, 1);
  heartbeat.term = c[1].term();
  c.receive(heartbeat);
  EXPECT_EQ(c[1].role(), role::follower);
  EXPECT_EQ(c[1].leader(), 3u);
}

TEST(raft_election, a_promoted_learner_that_does_not_know_it_yet_votes) {  // dissertation, 4.2.2
  configuration first = cluster::first_voters(2);
  first.learners.insert(3);
  cluster c(first);
  c.elect(1);
  c.isolate(3);
  std::error_code ec;
  c.change_members(1, {transition::simple, {{change_type::add_voter, 3, ""}}}, ec);
  c.settle();  // 1 and 2 are a quorum of three
  ASSERT_EQ(c[2].commit(), c.last(1));
  c.crash(1);
  c.heal();
  ASSERT_TRUE(c[3].members().learners.contains(3));
  EXPECT_TRUE(c.run_until([&] { return c.leader() == 2; }));
}

TEST(raft_election, a_node_stands_by_the_last_configuration_of_its_log_committed_or_not) {  // paper, 6
  cluster c(3);
  for (const node_id id : id_set{4, 5}) c.add(id, {});
  c.elect(1);
  c.cut_off(1, 3);
  c.slow_disks = {2};
  std::error_code ec;
  const change_list both = {transition::joint_explicit,
                            {{change_type::add_voter, 4, ""}, {change_type::add_voter, 5, ""}}};
  c.change_members(1, both, ec);
  c.ship(1);
  c.deliver(1, 2);
  c.sync(2);
  ASSERT_TRUE(c[2].members().is_joint());
  ASSERT_LT(c[2].commit(), c[2].members_index());
  c.crash(1);
  for (const node_id id : id_set{4, 5}) c.isolate(id);
  EXPECT_FALSE(c.run_until([&] { return c.leader() != 0; }, 20 * timeout));  // 2 and 3 are no quorum of five
  c.cut.clear();
  EXPECT_TRUE(c.run_until([&] { return c.leader() == 2; }));
}

TEST(raft_election, whom_the_last_configuration_leaves_out_may_still_be_needed) {  // dissertation, 4.2.2
  cluster c(2);
  c.elect(1);
  std::error_code ec;
  c.isolate(2);
  c.change_members(1, {transition::simple, {{change_type::remove, 1, ""}}}, ec);
  c.sync(1);
  c.crash(1);
  c.start(1);
  c.heal();
  EXPECT_TRUE(c.run_until([&] { return c.leader() == 2 && c[2].commit() == c.last(2); }));
  EXPECT_FALSE(c[2].members().is_member(1));
}

TEST(raft_election, a_lower_priority_waits_longer_and_none_waits_for_ever) {
  core_options last, never;
  last.priority = 1;
  never.priority = 0;
  cluster c(configuration{}, {});
  const configuration all = cluster::first_voters(3);
  c.add(1, last, all);
  c.add(2, never, all);
  c.add(3, {}, all);
  EXPECT_GE(c[1].deadline() - c.now, timeout + timeout * 99 / 100);
  EXPECT_LE(c[3].deadline() - c.now, 2 * timeout);
  c.crash(1);
  c.isolate(3);
  EXPECT_FALSE(c.run_until([&] { return c[2].role() != role::follower; }, 20 * timeout));
}

TEST(raft_election, a_witness_votes_and_never_stands) {
  configuration first = cluster::first_voters(3);
  first.witnesses.insert(3);
  cluster c(first);
  c.crash(1);
  c.isolate(2);
  EXPECT_FALSE(c.run_until([&] { return c[3].role() != role::follower; }, 20 * timeout));
  c.heal();
  EXPECT_TRUE(c.run_until([&] { return c.leader() == 2; }));
}

TEST(raft_election, who_lacks_what_it_has_acknowledged_neither_votes_nor_stands_until_it_has_it_again) {  // design: C6
  cluster c(3);
  c.elect(1);
  for (const char* const text : {"a", "b", "c"}) c.propose(1, text);
  c.settle();
  const index_t before = c.last(3);
  c.damage(3, before - 2);
  c.crash(1);
  c.start(3);
  EXPECT_FALSE(c.run_until([&] { return c.leader() != 0 || c[3].role() != role::follower; }, 20 * timeout));
  c.start(1);  // whoever leads now refills it
  ASSERT_TRUE(c.run_until([&] { return c.leader() != 0 && c.last(3) >= before; }));
  c.crash(c.leader());
  EXPECT_TRUE(c.run_until([&] { return c.leader() != 0; }));
}

TEST(raft_election, a_leader_whose_disk_stands_still_steps_down) {
  cluster c(3);
  const node_id leader = c.elect();
  c.slow_disks = {leader};
  c.propose(leader, "a");
  EXPECT_FALSE(c.run_until([&] { return c[leader].role() != role::leader; }, 9s));
  EXPECT_TRUE(c.run_until([&] { return c[leader].role() != role::leader; }, 2s));
  EXPECT_EQ(c[leader].last_change(), "term 1: as leader its disk stood still");
}

TEST(raft_election, a_slow_disk_that_goes_on_does_not_end_a_leader) {
  cluster c(3);
  const node_id leader = c.elect();
  c.slow_disks = {leader};
  for (int i = 0; i < 5; ++i) {
    c.propose(leader, "a");
    c.run_until([] { return false; }, 8s);
    c.nodes.at(leader).log.sync(c.last(leader));
    c.propose(leader, "b");  // never is all of it durable
    c.perform(leader, c[leader].persisted(c.now));
  }
  EXPECT_EQ(c.leader(), leader);
}

TEST(raft_election, two_leaders_of_one_term_stop_whoever_meets_them) {  // paper, 5.2
  cluster c(3);
  c.elect(1);
  const message other = c.made(message_type::heartbeat, 2, 3);
  EXPECT_THROW(c.receive(other), rule_broken);
  message to_leader = other;
  to_leader.to = 1;
  EXPECT_EQ(c[1].receive(to_leader, c.now).broken, "nodes 1 and 2 both lead term 1");
}

TEST(raft_election, two_records_of_one_index_and_term_stop_the_node) {  // paper, 5.3: log matching
  cluster c(3);
  c.give(2, {1, 1});
  message append = c.made(message_type::append, 1, 2);
  append.term = 1;
  append.at = *c.nodes.at(2).log.position_at(2);
  append.at.chain ^= 1;
  EXPECT_EQ(c[2].receive(append, c.now).broken, "record 2 of term 1 is another one here than at the leader");
}

TEST(raft_election, milliseconds_beyond_32_bits_change_nothing) {
  cluster c(3);
  c.now = std::chrono::milliseconds(std::uint64_t{1} << 32) - 5s;
  for (auto& [id, of] : c.nodes) c.start(of);
  const node_id leader = c.elect();
  const term_t term = c[leader].term();
  c.run_until([] { return false; }, 20s);
  EXPECT_GT(c.now, std::chrono::milliseconds(std::uint64_t{1} << 32));
  EXPECT_EQ(c.leader(), leader);
  EXPECT_EQ(c[leader].term(), term);
  EXPECT_TRUE(c.propose(leader, "a"));
  c.settle();
  EXPECT_EQ(c[leader].commit(), c.last(leader));
}

TEST(raft_election, a_single_node_elects_itself_and_commits_nothing_before_its_sync) {
  cluster c(1);
  c.wake(1);
  ASSERT_EQ(c[1].role(), role::leader);
  EXPECT_TRUE(c.propose(1, "a"));
  EXPECT_EQ(c[1].commit(), 0u);
  c.sync(1);
  EXPECT_EQ(c[1].commit(), 2u);
  c.run_until([] { return false; }, 20 * timeout);
  EXPECT_EQ(c[1].term(), 1u);
}

TEST(raft_election, who_may_have_confirmed_a_lease_waits_for_its_end_after_a_restart) {  // dissertation, 6.4.1
  core_options with_lease;
  with_lease.lease_drift = 0.1;
  cluster c(3, with_lease);
  c.elect(1);
  c.crash(2);
  c.start(2);
  EXPECT_EQ(vote(c, vote_request(3, 2, 2, c.nodes.at(3).log.last())), std::nullopt);
  EXPECT_EQ(c[2].term(), 1u);
}

}  // namespace
}  // namespace lockstep::raft::test
