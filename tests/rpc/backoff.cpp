#include "lockstep/rpc/backoff.hpp"

#include <gtest/gtest.h>

#include <random>
#include <vector>

namespace lockstep {
namespace {

using namespace std::chrono_literals;

TEST(rpc_backoff, limits_double_up_to_the_maximum) {
  backoff wait(100ms, 1s);
  std::vector<backoff::duration> longest;
  for (int i = 0; i < 6; ++i) {
    backoff copy = wait;
    backoff::duration most{0};
    backoff::duration least = 1h;
    std::mt19937_64 random(1);
    for (int draw = 0; draw < 1000; ++draw) {
      backoff again = copy;
      const auto drawn = again.next(random());
      most = std::max(most, drawn);
      least = std::min(least, drawn);
    }
    longest.push_back(most);
    const backoff::duration limit = std::min<backoff::duration>(100ms * (1 << i), 1s);
    EXPECT_LE(most, limit);
    EXPECT_GT(most, limit * 9 / 10);
    EXPECT_GE(least, limit / 2);
    EXPECT_LT(least, limit * 6 / 10);
    (void)wait.next(0);
  }
}

TEST(rpc_backoff, begins_anew_after_a_reset) {
  backoff wait(100ms, 1s);
  for (int i = 0; i < 10; ++i) (void)wait.next(0);
  EXPECT_GE(wait.next(0), 500ms);
  wait.reset();
  EXPECT_LE(wait.next(~std::uint64_t{0}), 100ms);
}

TEST(rpc_backoff, a_maximum_below_the_base_is_the_base) {
  backoff wait(100ms, 1ms);
  for (int i = 0; i < 10; ++i) EXPECT_LE(wait.next(~std::uint64_t{0}), 100ms);
}

TEST(rpc_backoff, never_overflows) {
  backoff wait(1ns, backoff::duration::max());
  for (int i = 0; i < 200; ++i) EXPECT_GE(wait.next(~std::uint64_t{0}).count(), 0);
}

}  // namespace
}  // namespace lockstep
