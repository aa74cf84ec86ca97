// What a Raft leader does at each ack allocates nothing.
#include "lockstep/raft/progress.hpp"
#include "lockstep/raft/quorum.hpp"

#include "support/allocation_counter.hpp"

#include <gtest/gtest.h>

#include <cstddef>
#include <optional>

namespace lockstep::raft {
namespace {

TEST(raft_allocation, none_for_what_seven_voters_have_committed) {
  const joint both{{1, 2, 3, 4, 5, 6, 7}, {7, 8, 9, 10, 11, 12, 13}};
  const test::allocation_count allocated;
  const index_t committed = both.committed([](node_id id) { return std::optional<index_t>(id); });
  EXPECT_EQ(allocated(), 0u);
  EXPECT_EQ(committed, 4u);
}

TEST(raft_allocation, none_for_a_window_that_was_full_once) {
  constexpr std::size_t messages = 100;
  progress p(1, {.messages = messages});
  p.on_ack(0);
  const auto fill_and_empty = [&] {
    while (!p.is_paused()) p.on_sent(p.next(), 10);
    p.on_ack(p.next() - messages / 2);
    p.become_probe();
    p.on_ack(p.match());
  };
  fill_and_empty();
  const test::allocation_count allocated;
  for (int round = 0; round < 10; ++round) fill_and_empty();
  EXPECT_EQ(allocated(), 0u);
}

}  // namespace
}  // namespace lockstep::raft
