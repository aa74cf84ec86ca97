#include "lockstep/raft/quorum.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <optional>
#include <ostream>
#include <random>
#include <utility>
#include <vector>

namespace lockstep::raft {

void PrintTo(vote_result result, std::ostream* to) {
  *to << (result == vote_result::won ? "won" : result == vote_result::lost ? "lost" : "pending");
}

namespace {

constexpr std::nullopt_t unknown = std::nullopt;

/// What is known of nodes 1, 2, 3…
template <class T>
struct known {
  std::vector<std::optional<T>> of;

  std::optional<T> operator()(node_id id) const { return of.at(static_cast<std::size_t>(id - 1)); }
};
using acks = known<index_t>;
using votes = known<bool>;

// --- What the words mean, as naively as they can be said ---

bool holds(const majority& half, const std::vector<bool>& yes) {
  std::size_t count = 0;
  for (const node_id id : half) count += yes.at(static_cast<std::size_t>(id - 1)) ? 1u : 0u;
  return half.empty() || 2 * count > half.size();
}

bool holds(const joint& both, const std::vector<bool>& yes) {
  return holds(both.incoming, yes) && holds(both.outgoing, yes);
}

/// The greatest of the indexes that anybody has, or 0, which enough voters have.
template <class Quorum>
index_t naive_committed(const Quorum& quorum, const acks& acked) {
  if (quorum == Quorum()) return every_index;
  index_t greatest = 0;
  for (const auto& candidate : acked.of) {
    std::vector<bool> has;
    for (const auto& each : acked.of) has.push_back(each.value_or(0) >= candidate.value_or(0));
    if (holds(quorum, has)) greatest = std::max(greatest, candidate.value_or(0));
  }
  return greatest;
}

/// Tries every way in which the missing votes may fall.
template <class Quorum>
vote_result naive_vote(const Quorum& quorum, const votes& voted) {
  bool may_win = false;
  bool may_lose = false;
  for (unsigned fall = 0; fall < 1u << voted.of.size(); ++fall) {
    std::vector<bool> yes;
    for (std::size_t i = 0; i < voted.of.size(); ++i) yes.push_back(voted.of[i].value_or((fall >> i & 1u) != 0));
    (holds(quorum, yes) ? may_win : may_lose) = true;
  }
  if (may_win && may_lose) return vote_result::pending;
  return may_win ? vote_result::won : vote_result::lost;
}

/// The set of the nodes whose bits are set: bit 0 is node 1.
majority members(unsigned bits) {
  majority result;
  for (node_id id = 1; bits != 0; ++id, bits >>= 1) {
    if (bits & 1u) result.insert(id);
  }
  return result;
}

/// Calls `visit` with each way to choose one of `choices` for `count` nodes.
template <class T, class Visit>
void for_each_choice(std::size_t count, const std::vector<std::optional<T>>& choices, Visit&& visit) {
  std::vector<std::size_t> digits(count, 0);
  known<T> chosen{std::vector<std::optional<T>>(count, choices[0])};
  for (;;) {
    visit(std::as_const(chosen));
    std::size_t i = 0;
    for (; i < count && ++digits[i] == choices.size(); ++i) {
      digits[i] = 0;
      chosen.of[i] = choices[0];
    }
    if (i == count) return;
    chosen.of[i] = choices[digits[i]];
  }
}

// --- Tables ---

TEST(raft_quorum, a_majority_of_nobody_has_committed_everything_and_wins) {
  EXPECT_EQ(majority().committed(acks{}), every_index);
  EXPECT_EQ(majority().vote(votes{}), vote_result::won);
  EXPECT_EQ(joint().committed(acks{}), every_index);
  EXPECT_EQ(joint().vote(votes{}), vote_result::won);
}

TEST(raft_quorum, more_than_half_decide) {
  const std::vector<std::size_t> expected{1, 1, 2, 2, 3, 3, 4, 4};
  for (unsigned size = 0; size < expected.size(); ++size) {
    EXPECT_EQ(members((1u << size) - 1).quorum(), expected[size]) << size;
  }
}

TEST(raft_quorum, a_majority_commits_what_more_than_half_have) {
  struct {
    majority voters;
    acks acked;
    index_t committed;
  } const table[]{
      {{1}, {{unknown}}, 0},
      {{1}, {{7}}, 7},
      {{1, 2}, {{7, unknown}}, 0},
      {{1, 2}, {{7, 9}}, 7},
      {{1, 2, 3}, {{7, unknown, unknown}}, 0},
      {{1, 2, 3}, {{7, 9, unknown}}, 7},
      {{1, 2, 3}, {{7, 9, 8}}, 8},
      {{1, 2, 3}, {{9, 9, 1}}, 9},
      {{1, 2, 3, 4}, {{4, 3, 2, 1}}, 2},
      {{1, 2, 3, 4, 5}, {{5, 4, 3, 2, 1}}, 3},
      {{2, 4}, {{9, 3, 9, 5}}, 3},  // others are not asked
  };
  for (const auto& row : table) EXPECT_EQ(row.voters.committed(row.acked), row.committed);
}

TEST(raft_quorum, a_vote_is_decided_when_the_missing_ones_cannot_change_it) {
  struct {
    majority voters;
    votes voted;
    vote_result result;
  } const table[]{
      {{1}, {{unknown}}, vote_result::pending},
      {{1}, {{true}}, vote_result::won},
      {{1}, {{false}}, vote_result::lost},
      {{1, 2}, {{true, unknown}}, vote_result::pending},
      {{1, 2}, {{unknown, false}}, vote_result::lost},
      {{1, 2}, {{true, true}}, vote_result::won},
      {{1, 2, 3}, {{true, true, unknown}}, vote_result::won},
      {{1, 2, 3}, {{true, false, unknown}}, vote_result::pending},
      {{1, 2, 3}, {{false, false, unknown}}, vote_result::lost},
      {{1, 2, 3, 4}, {{true, true, false, unknown}}, vote_result::pending},
      {{1, 2, 3, 4}, {{true, true, false, false}}, vote_result::lost},
  };
  for (const auto& row : table) EXPECT_EQ(row.voters.vote(row.voted), row.result);
}

TEST(raft_quorum, both_halves_of_a_joint_quorum_decide) {
  const joint both{{1, 2, 3}, {3, 4, 5}};
  EXPECT_EQ(both.committed(acks{{9, 9, 0, 9, 9}}), 9u);
  EXPECT_EQ(both.committed(acks{{9, 9, 9, unknown, unknown}}), 0u);
  EXPECT_EQ(both.committed(acks{{9, 9, 5, 4, unknown}}), 4u);
  EXPECT_EQ(both.vote(votes{{true, true, unknown, true, true}}), vote_result::won);
  EXPECT_EQ(both.vote(votes{{true, true, unknown, true, unknown}}), vote_result::pending);
  EXPECT_EQ(both.vote(votes{{true, true, false, false, unknown}}), vote_result::lost);
  EXPECT_EQ(both.vote(votes{{unknown, unknown, false, false, unknown}}), vote_result::lost);
}

TEST(raft_quorum, a_voter_of_both_halves_is_visited_once) {
  std::vector<node_id> visited;
  const joint both{{3, 1, 2}, {4, 3, 2}};
  both.for_each([&](node_id id) { visited.push_back(id); });
  EXPECT_EQ(visited, (std::vector<node_id>{1, 2, 3, 4}));
  for (const node_id id : visited) EXPECT_TRUE(both.contains(id));
  EXPECT_FALSE(both.contains(5));
}

TEST(raft_quorum, more_voters_than_usual_commit_too) {
  majority nine;
  std::vector<std::optional<index_t>> acked;
  for (node_id id = 1; id <= 9; ++id) {
    nine.insert(id);
    acked.push_back(10 * id);
  }
  EXPECT_EQ(nine.committed(acks{acked}), 50u);
}

// --- Against the naive definition ---

TEST(raft_quorum, every_small_majority_commits_as_defined) {
  for (unsigned size = 0; size <= 5; ++size) {
    const majority voters = members((1u << size) - 1);
    for_each_choice<index_t>(size, {unknown, 0, 1, 2, 3}, [&](const acks& acked) {
      ASSERT_EQ(voters.committed(acked), naive_committed(voters, acked));
    });
  }
}

TEST(raft_quorum, every_small_majority_votes_as_defined) {
  for (unsigned size = 0; size <= 7; ++size) {
    const majority voters = members((1u << size) - 1);
    for_each_choice<bool>(size, {unknown, false, true},
                          [&](const votes& voted) { ASSERT_EQ(voters.vote(voted), naive_vote(voters, voted)); });
  }
}

TEST(raft_quorum, every_small_joint_quorum_decides_as_defined) {
  constexpr unsigned nodes = 4;
  for (unsigned incoming = 0; incoming < 1u << nodes; ++incoming) {
    for (unsigned outgoing = 0; outgoing < 1u << nodes; ++outgoing) {
      const joint both{members(incoming), members(outgoing)};
      for_each_choice<index_t>(nodes, {unknown, 1, 2}, [&](const acks& acked) {
        ASSERT_EQ(both.committed(acked), naive_committed(both, acked)) << incoming << ' ' << outgoing;
      });
      for_each_choice<bool>(nodes, {unknown, false, true}, [&](const votes& voted) {
        ASSERT_EQ(both.vote(voted), naive_vote(both, voted)) << incoming << ' ' << outgoing;
      });
    }
  }
}

TEST(raft_quorum, larger_joint_quorums_decide_as_defined) {
  std::mt19937_64 random(1);
  constexpr std::size_t nodes = 10;
  for (int round = 0; round < 3000; ++round) {
    std::array<node_id, nodes> ids;
    for (std::size_t i = 0; i < nodes; ++i) ids[i] = i + 1;
    joint both;
    for (majority* const half : {&both.incoming, &both.outgoing}) {
      std::shuffle(ids.begin(), ids.end(), random);
      const std::size_t size = random() % 6;
      for (std::size_t i = 0; i < size; ++i) half->insert(ids[i]);
    }
    acks acked;
    votes voted;
    for (std::size_t i = 0; i < nodes; ++i) {
      const std::uint64_t index = random() % 12;
      const std::uint64_t vote = random() % 3;
      acked.of.push_back(index == 11 ? std::optional<index_t>() : index);
      voted.of.push_back(vote == 2 ? std::optional<bool>() : vote == 1);
    }
    ASSERT_EQ(both.committed(acked), naive_committed(both, acked)) << round;
    ASSERT_EQ(both.vote(voted), naive_vote(both, voted)) << round;
  }
}

}  // namespace
}  // namespace lockstep::raft
