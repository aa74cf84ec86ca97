// Raft groups of pure cores through whatever chance brings.
#include "chaos.hpp"

#include <gtest/gtest.h>

#include <cstdlib>
#include <random>

namespace lockstep::raft::test {
namespace {

TEST(raft_chaos, breaks_no_rule_and_goes_on_afterwards) {
  const char* const first = std::getenv("FIRST_SEED");
  const char* const count = std::getenv("SEEDS");
  const std::uint64_t from = first ? std::stoull(first) : 1;
  const std::uint64_t seeds = count ? std::stoull(count) : 300;
  for (std::uint64_t seed = from; seed < from + seeds; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    ASSERT_NO_THROW(chaos(std::mt19937_64(seed)).run(10000));
  }
}

}  // namespace
}  // namespace lockstep::raft::test
