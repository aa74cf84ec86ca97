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

}  // namespace
}  // namespace lockstep::raft::test
