// Reads that are linearizable: by asking a quorum, and by leases. The dissertation is Ongaro's, section 6.4.
#include "cluster.hpp"

#include <gtest/gtest.h>

namespace lockstep::raft::test {
namespace {

using namespace std::chrono_literals;

constexpr instant timeout = core_options{}.election_timeout;

core_options leases(double drift) {
  core_options options;
  options.lease_drift = drift;
  return options;
}

// 0 for a read without an answer, and for one that was refused.
index_t answer(const cluster& c, std::uint64_t read) {
  const auto found = c.reads.find(read);
  return found == c.reads.end() ? 0 : found->second.index;
}
bool is_refused(const cluster& c, std::uint64_t read) { return c.reads.contains(read) && answer(c, read) == 0; }

TEST(raft_reads, a_leader_answers_when_a_quorum_has_answered_it) {
  cluster c(3);
  c.elect(1);
  EXPECT_FALSE(c.read(1, 7));
  EXPECT_FALSE(c.reads.contains(7));
  c.settle();
  EXPECT_EQ(answer(c, 7), 1u);
}

TEST(raft_reads, none_is_answered_before_the_term_s_first_commit) {  // dissertation, 6.4, step 1
  cluster c(3);
  c.elect(2);
  c.propose(2, "a");
  c.settle();
  const index_t committed = c[2].commit();
  c.crash(2);
  c.isolate(3);
  c.wake(1);
  c.heal();
  c.slow_disks = {1, 3};  // it leads, and its first record is not durable
  ASSERT_TRUE(c.run_until([&] { return c.leader() == 1; }));
  EXPECT_FALSE(c.read(1, 7));
  c.settle();
  EXPECT_FALSE(c.reads.contains(7));
  c.slow_disks.clear();
  c.settle();
  EXPECT_GT(answer(c, 7), committed);
  EXPECT_EQ(answer(c, 7), c.last(1));
}

TEST(raft_reads, one_is_not_confirmed_by_a_round_that_began_before_it) {
  cluster c(3);
  c.elect(1);
  c.wake(1);  // a round begins
  const message earlier = *c.take(message_type::heartbeat, 1, 2);
  c.links[{1, 3}].clear();
  EXPECT_FALSE(c.read(1, 7));
  c.receive(earlier);
  while (c.deliver(2, 1)) {
  }
  EXPECT_FALSE(c.reads.contains(7));
  c.settle();  // the next one has begun with this answer
  EXPECT_EQ(answer(c, 7), 1u);
}

TEST(raft_reads, a_deposed_leader_answers_none) {
  cluster c(3);
  c.elect(1);
  c.isolate(1);
  EXPECT_FALSE(c.read(1, 7));
  ASSERT_TRUE(c.run_until([&] { return c.leader() > 1; }));
  c.propose(c.leader(), "newer");
  c.settle();
  c.heal();
  ASSERT_TRUE(c.run_until([&] { return c[1].role() == role::follower; }));
  EXPECT_TRUE(is_refused(c, 7));
}

TEST(raft_reads, duplicates_with_late_answers_of_an_old_leader_answer_nothing_wrong) {
  cluster c(3);
  c.elect(1);
  EXPECT_FALSE(c.read(2, 7));
  const message asked = *c.take(message_type::read_request, 2, 1);
  c.receive(asked);
  c.receive(asked);
  for (int round = 0; round < 2; ++round) {
    while (c.deliver(1, 3) || c.deliver(3, 1)) {
    }
  }
  std::vector<message> late;
  while (const auto each = c.take(message_type::read_response, 1, 2)) late.push_back(*each);
  ASSERT_EQ(late.size(), 2u);
  c.isolate(1);
  ASSERT_TRUE(c.run_until([&] { return c.leader() == 3 || c.leader() == 2; }));
  c.propose(c.leader(), "newer");
  c.settle();
  EXPECT_TRUE(is_refused(c, 7));
  c.reads.clear();
  (void)c.read(2, 7);
  for (const message& each : late) c.receive(each);
  c.settle();
  EXPECT_EQ(answer(c, 7), c[c.leader()].commit());
}

TEST(raft_reads, a_restarted_node_serves_none_before_it_caught_up) {
  cluster c(3);
  c.elect(1);
  c.crash(2);
  for (int i = 0; i < 10; ++i) c.propose(1, "a");
  c.settle();
  c.start(2);
  EXPECT_EQ(c.read(2, 7), errc::not_leader);  // it knows none
  c.wake(1);
  while (c.deliver(1, 2)) {
  }
  c.slow_disks = {2};
  EXPECT_FALSE(c.read(2, 8));
  c.settle();
  EXPECT_EQ(answer(c, 8), 11u);
  EXPECT_LT(c[2].applicable(), 11u);  // the driver answers when this has come up to it
  c.slow_disks.clear();
  c.settle();
  c.wake(1);
  c.settle();
  EXPECT_EQ(c[2].applicable(), 11u);
}

TEST(raft_reads, a_follower_s_are_refused_when_its_leader_is_replaced) {
  cluster c(3);
  c.elect(1);
  c.cut_off(2, 1);
  EXPECT_FALSE(c.read(2, 7));
  message newer = c.made(message_type::heartbeat, 3, 2);
  newer.term = 2;
  c.receive(newer);
  EXPECT_TRUE(is_refused(c, 7));
}

TEST(raft_reads, a_follower_s_are_refused_when_it_comes_to_lead_itself) {
  cluster c(3);
  c.elect(1);
  c.cut_off(2, 1);
  EXPECT_FALSE(c.read(2, 7));
  c.receive(c.made(message_type::timeout_now, 1, 2));
  EXPECT_TRUE(is_refused(c, 7));
}

TEST(raft_reads, a_follower_s_are_refused_and_forgotten_when_it_loses_the_connection) {
  cluster c(3);
  c.elect(1);
  EXPECT_FALSE(c.read(2, 7));
  c.deliver(2, 1);
  c.lose_connection(1, 2);
  EXPECT_TRUE(is_refused(c, 7));
  c.wake(1);
  c.settle();
  EXPECT_TRUE(is_refused(c, 7));
  EXPECT_FALSE(c.read(2, 7));  // as after a crash of node 2, which then counts anew
  c.settle();
  EXPECT_EQ(answer(c, 7), 1u);
}

TEST(raft_reads, a_lease_answers_at_once_as_long_as_no_other_clock_can_have_ended_it) {  // dissertation, 6.4.1
  for (const double drift : {0.0001, 0.01, 0.2}) {
    cluster c(3, leases(drift));
    c.elect(1);
    c.wake(1);
    const instant begun = c.now;
    c.now += timeout / 10;  // until the answers come
    c.settle();
    c.isolate(1);
    const instant lasts(static_cast<std::int64_t>(static_cast<double>(timeout.count()) * (1 - drift) / (1 + drift)));
    c.now = begun + lasts - 1us;
    EXPECT_FALSE(c.read(1, 7));
    EXPECT_EQ(answer(c, 7), 1u);
    c.now = begun + lasts + 1us;
    EXPECT_FALSE(c.read(1, 8));
    EXPECT_FALSE(c.reads.contains(8));
  }
}

TEST(raft_reads, without_leases_a_quorum_is_asked_however_fresh_its_last_answer_is) {
  cluster c(3, leases(0));
  c.elect(1);
  c.wake(1);
  c.settle();
  EXPECT_FALSE(c.read(1, 7));
  EXPECT_FALSE(c.reads.contains(7));
}

TEST(raft_reads, a_leader_that_gave_way_has_no_lease_however_late_its_word_arrives) {  // dissertation, 6.4.1
  cluster c(3, leases(0.01));
  c.elect(1);
  EXPECT_FALSE(c.transfer(1, 2));
  const message late = *c.take(message_type::timeout_now, 1, 2);
  c.run_until([] { return false; }, 2 * timeout);
  ASSERT_TRUE(c.propose(1, "the transfer was given up"));
  c.settle();
  c.cut_off(1, 2);
  c.cut_off(2, 1);
  c.cut_off(3, 1);
  c.receive(late);
  while (c.deliver(2, 3) || c.deliver(3, 2)) {
  }
  ASSERT_EQ(c.leader(), 2u);
  c.propose(2, "newer");
  for (const node_id id : id_set{2, 3}) c.sync(id);
  while (c.deliver(2, 3) || c.deliver(3, 2)) c.sync(3);
  ASSERT_EQ(c[1].role(), role::leader);
  EXPECT_FALSE(c.read(1, 7));
  EXPECT_FALSE(c.reads.contains(7));
}

TEST(raft_reads, a_group_of_one_answers_at_once) {
  cluster c(1);
  c.elect(1);
  EXPECT_FALSE(c.read(1, 7));
  EXPECT_EQ(answer(c, 7), 1u);
}

}  // namespace
}  // namespace lockstep::raft::test
