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
  for (const node_id id : {2, 3}) c.sync(id);
  while (c.deliver(2, 3) || c.deliver(3, 2)) c.sync(3);
  ASSERT_EQ(c[1].role(), role::leader);
  EXPECT_FALSE(c.read(1, 7));
  EXPECT_FALSE(c.reads.contains(7));
}

}  // namespace
}  // namespace lockstep::raft::test
