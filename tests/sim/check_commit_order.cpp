#include "lockstep/sim/check/commit_order.hpp"

#include "check_histories.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace lockstep::sim::check::test {
namespace {

using ::testing::HasSubstr;
using ::testing::Optional;

/// Key x is put to 1 at commit 1 (time 10 to 20) and to 2 at commit 2 (time 30 to 40).
kv_history two_puts() {
  kv_history history;
  history.done(history.put(1, "x", 1, 10), 20, 1);
  history.done(history.put(2, "x", 2, 30), 40, 2);
  return history;
}

TEST(check_commit_order, accepts_reads_of_their_states) {
  kv_history history = two_puts();
  history.read(history.get(3, "x", 5), absent, 50, 0);
  history.read(history.get(3, "x", 15), 1, 50, 1);
  history.read(history.get(3, "x", 50), 2, 60, 2);
  history.read(history.get(3, "x", 50), 2, 60, 9);
  history.read(history.get(3, "y", 50), absent, 60, 9);
  EXPECT_EQ(check_commit_order(history), std::nullopt);
}

TEST(check_commit_order, accepts_reads_that_tell_no_state) {
  kv_history history = two_puts();
  history.read(history.get(3, "x", 15), absent, 16);
  history.read(history.get(3, "x", 17), 1, 35);
  history.read(history.get(3, "x", 36), 2, 37);
  EXPECT_EQ(check_commit_order(history), std::nullopt);
}

TEST(check_commit_order, catches_commits_against_real_time) {
  kv_history history;
  history.done(history.put(1, "x", 1, 10), 20, 2);
  history.done(history.put(2, "y", 2, 30), 40, 1);
  EXPECT_EQ(check_commit_order(history),
            "key 'x': client 1's put 1 (time 10 to 20, commit 2: done) returned before client 2's put 2 (time 30 to "
            "40, commit 1: done) on key 'y' was invoked, but was committed after it");
}

TEST(check_commit_order, catches_a_commit_that_two_writes_have) {
  kv_history history;
  history.done(history.put(1, "x", 1, 10), 20, 2);
  history.done(history.put(2, "y", 2, 10), 20, 2);
  EXPECT_THAT(check_commit_order(history), Optional(HasSubstr("has the commit of client 1's put 1")));
}

TEST(check_commit_order, catches_a_success_without_a_commit) {
  kv_history history;
  history.done(history.put(1, "x", 1, 10), 20);
  EXPECT_THAT(check_commit_order(history), Optional(HasSubstr("succeeded without a commit")));
}

TEST(check_commit_order, catches_a_failed_write_that_was_committed) {
  kv_history history;
  const auto put = history.put(1, "x", 1, 10);
  history.failed(put, 20);
  history.committed(put, 5);
  EXPECT_THAT(check_commit_order(history), Optional(HasSubstr("was committed although it failed")));
}

TEST(check_commit_order, catches_a_read_of_the_wrong_value) {
  kv_history history = two_puts();
  history.read(history.get(3, "x", 35), 1, 60, 2);
  EXPECT_EQ(check_commit_order(history),
            "key 'x': client 3's get (time 35 to 60, state 2: 1) is wrong: the last write by then is client 2's put 2 "
            "(time 30 to 40, commit 2: done)");
}

TEST(check_commit_order, catches_a_stale_state) {
  kv_history history = two_puts();
  history.read(history.get(3, "x", 50), 1, 60, 1);
  EXPECT_THAT(check_commit_order(history), Optional(HasSubstr("was answered from a stale state: client 2's put 2")));
}

TEST(check_commit_order, catches_a_stale_state_even_of_a_key_that_did_not_change) {
  kv_history history = two_puts();
  history.read(history.get(3, "y", 50), absent, 60, 1);
  EXPECT_THAT(check_commit_order(history), Optional(HasSubstr("stale state")));
}

TEST(check_commit_order, catches_a_state_from_the_future) {
  kv_history history = two_puts();
  history.read(history.get(3, "x", 15), 2, 25, 2);
  EXPECT_THAT(check_commit_order(history),
              Optional(HasSubstr("was answered from a future state: it holds client 2's")));
}

TEST(check_commit_order, catches_an_old_value_after_a_write_returned) {
  kv_history history = two_puts();
  history.read(history.get(3, "x", 50), 1, 60);
  EXPECT_THAT(check_commit_order(history), Optional(HasSubstr("is stale: client 2's put 2 (time 30 to 40, commit 2: "
                                                              "done) had returned before")));
}

TEST(check_commit_order, catches_an_old_value_after_a_read_of_a_newer_one) {
  kv_history history = two_puts();
  history.read(history.get(3, "x", 31), 2, 32);
  history.read(history.get(4, "x", 33), 1, 34);
  EXPECT_THAT(check_commit_order(history), Optional(HasSubstr("is stale: client 3's get (time 31 to 32: 2) had")));
}

TEST(check_commit_order, catches_a_value_before_it_was_written) {
  kv_history history = two_puts();
  history.read(history.get(3, "x", 21), 2, 22);
  EXPECT_THAT(check_commit_order(history), Optional(HasSubstr("needs client 2's put 2")));
}

TEST(check_commit_order, catches_values_that_nobody_wrote_or_that_had_no_effect) {
  kv_history invented = two_puts();
  invented.read(invented.get(3, "x", 50), 9, 60);
  EXPECT_THAT(check_commit_order(invented), Optional(HasSubstr("returned what nobody wrote")));
  kv_history failed = two_puts();
  failed.failed(failed.put(4, "x", 9, 10), 20);
  failed.read(failed.get(3, "x", 50), 9, 60);
  EXPECT_THAT(check_commit_order(failed), Optional(HasSubstr("which had no effect")));
  kv_history erased = two_puts();
  erased.read(erased.get(3, "x", 50), absent, 60);
  EXPECT_THAT(check_commit_order(erased), Optional(HasSubstr("the key was never erased")));
}

TEST(check_commit_order, catches_values_that_do_not_tell_writes_apart) {
  kv_history twice = two_puts();
  twice.put(3, "x", 2, 50);
  EXPECT_THAT(check_commit_order(twice), Optional(HasSubstr("writes the same value as client 2's put 2")));
  kv_history nothing;
  nothing.put(3, "x", absent, 50);
  EXPECT_THAT(check_commit_order(nothing), Optional(HasSubstr("stands for no value")));
}

TEST(check_commit_order, a_swap_finds_what_it_expects_right_before_it) {
  kv_history right = two_puts();
  right.swapped(right.compare_swap(3, "x", 2, 3, 50), true, 60, 3);
  right.swapped(right.compare_swap(3, "x", 2, 4, 70), false, 80, 3);
  right.swapped(right.compare_swap(3, "x", 2, 5, 70), false, 80);
  EXPECT_EQ(check_commit_order(right), std::nullopt);
  kv_history wrong = two_puts();
  wrong.swapped(wrong.compare_swap(3, "x", 1, 3, 35), true, 60, 3);
  EXPECT_THAT(check_commit_order(wrong), Optional(HasSubstr("swapped without finding what it expected: the last wr")));
}

TEST(check_commit_order, a_swap_fails_only_if_it_finds_something_else) {
  kv_history told = two_puts();
  told.swapped(told.compare_swap(3, "x", 2, 3, 50), false, 60, 2);
  EXPECT_THAT(check_commit_order(told), Optional(HasSubstr("is wrong: the last write by then is client 2's put 2")));
  kv_history untold = two_puts();
  untold.swapped(untold.compare_swap(3, "x", 2, 3, 50), false, 60);
  EXPECT_THAT(check_commit_order(untold), Optional(HasSubstr("should have swapped")));
}

TEST(check_commit_order, an_unknown_write_stands_where_the_system_says) {
  kv_history history = two_puts();
  history.committed(history.put(4, "x", 7, 50), 3);
  history.read(history.get(3, "x", 60), 2, 70, 2);
  history.read(history.get(3, "x", 80), 7, 90, 3);
  EXPECT_EQ(check_commit_order(history), std::nullopt);
  history.read(history.get(3, "x", 100), 2, 110);
  EXPECT_THAT(check_commit_order(history), Optional(HasSubstr("is stale")));
}

TEST(check_commit_order, an_unknown_write_stands_where_reads_saw_it) {
  kv_history history = two_puts();
  history.put(4, "x", 7, 50);
  history.put(4, "x", 8, 50);
  history.read(history.get(3, "x", 60), 2, 70, 2);
  history.read(history.get(3, "x", 80), 7, 90, 5);
  EXPECT_EQ(check_commit_order(history), std::nullopt);
  history.read(history.get(3, "x", 100), 2, 110, 6);
  EXPECT_THAT(check_commit_order(history), Optional(HasSubstr("is wrong: the last write by then is client 4's put 7")));
}

TEST(check_commit_order, unknown_swaps_stand_right_before_who_found_their_values) {
  kv_history history = two_puts();
  history.compare_swap(4, "x", 8, 9, 50);
  history.compare_swap(4, "x", 2, 8, 50);
  history.swapped(history.compare_swap(3, "x", 9, 10, 60), true, 70, 3);
  EXPECT_EQ(check_commit_order(history), std::nullopt);
}

TEST(check_commit_order, refuses_the_value_of_an_unknown_write_that_stands_nowhere) {
  kv_history history = two_puts();
  history.put(4, "x", 7, 50);
  history.read(history.get(3, "x", 60), 7, 70);
  EXPECT_THAT(check_commit_order(history), Optional(HasSubstr("whose commit was never told")));
}

TEST(check_commit_order, accepts_every_run_of_a_map) {
  for (std::uint64_t seed = 0; seed < 400; ++seed) {
    const auto operations = run_of_a_map({.seed = seed,
                                          .clients = 5,
                                          .keys = 3,
                                          .operations = 200,
                                          .one_in_times_out = 10,
                                          .reads_tell_states = seed % 2 == 0});
    EXPECT_EQ(check_commit_order(told(operations)), std::nullopt) << "seed " << seed;
  }
}

TEST(check_commit_order, need_not_be_told_the_commits_of_unknown_writes_that_reads_saw) {
  std::size_t untold = 0;
  for (std::uint64_t seed = 0; seed < 400; ++seed) {
    auto operations = run_of_a_map({.seed = seed, .clients = 5, .keys = 3, .operations = 200, .one_in_times_out = 10});
    for (kv_operation& each : operations) {
      if (each.outcome != kv_outcome::unknown || each.commit == 0 || each.value == absent) continue;
      const bool seen = std::any_of(operations.begin(), operations.end(), [&](const kv_operation& by) {
        return by.action == kv_action::get && by.is_done() && by.value == each.value;
      });
      if (!seen) continue;
      each.commit = 0;
      ++untold;
    }
    EXPECT_EQ(check_commit_order(told(operations)), std::nullopt) << "seed " << seed;
  }
  EXPECT_GT(untold, 300U);
}

/// Whether some order of the writes, and some choice of the unknown ones, is a witness.
bool has_witness(const std::vector<kv_operation>& operations) {
  std::vector<std::size_t> writes;
  for (std::size_t i = 0; i < operations.size(); ++i) {
    if (operations[i].writes()) writes.push_back(i);
  }
  for (std::size_t choice = 0; choice < (std::size_t{1} << writes.size()); ++choice) {
    std::vector<std::size_t> order;
    bool sensible = true;
    for (std::size_t i = 0; i < writes.size(); ++i) {
      if ((choice >> i & 1) != 0) {
        order.push_back(writes[i]);
      } else if (operations[writes[i]].is_done()) {
        sensible = false;
      }
    }
    if (!sensible) continue;
    do {
      std::vector<kv_operation> with_commits = operations;
      for (std::size_t i = 0; i < order.size(); ++i) with_commits[order[i]].commit = i + 1;
      if (!check_commit_order(told(with_commits))) return true;
    } while (std::next_permutation(order.begin(), order.end()));
  }
  return false;
}

TEST(check_commit_order, a_history_has_a_witness_exactly_if_it_can_be_ordered) {
  splitmix64 random(3);
  int possible = 0;
  int impossible = 0;
  for (int i = 0; i < 4'000; ++i) {
    const std::vector<kv_operation> operations = random_operations(random, 6, i % 2 == 0);
    const bool expected = can_be_ordered(operations);
    ++(expected ? possible : impossible);
    ASSERT_EQ(has_witness(operations), expected) << "history " << i;
  }
  EXPECT_GT(possible, 800);
  EXPECT_GT(impossible, 800);
}

TEST(check_commit_order, accepts_only_what_can_be_ordered_when_reads_tell_states) {
  splitmix64 random(4);
  int accepted = 0;
  int refused = 0;
  for (std::uint64_t i = 0; i < 10'000; ++i) {
    std::vector<kv_operation> operations = run_of_a_map(
        {.seed = i, .clients = 3, .keys = 1, .operations = 6, .one_in_times_out = 3, .all_commits_told = i % 2 == 0});
    kv_operation& wrong = operations[random.below(6)];
    if (wrong.is_done() && random.one_in(2)) wrong.commit = random.below(5);
    if (wrong.action == kv_action::get && wrong.is_done() && random.one_in(2)) wrong.value = random.below(4);
    if (check_commit_order(told(operations))) {
      ++refused;
    } else {
      ++accepted;
      ASSERT_TRUE(can_be_ordered(operations)) << "seed " << i;
    }
  }
  EXPECT_GT(accepted, 1'000);
  EXPECT_GT(refused, 1'000);
}

}  // namespace
}  // namespace lockstep::sim::check::test
