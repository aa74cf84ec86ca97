#include "lockstep/sim/check/linearizability.hpp"

#include "check_histories.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace lockstep::sim::check::test {
namespace {

using ::testing::HasSubstr;
using ::testing::StartsWith;

violation judged(const kv_history& history) { return check_linearizable(history).broken(); }

TEST(check_linearizability, accepts_a_history_without_operations) {
  EXPECT_EQ(check_linearizable(kv_history()).verdict, linearizability::ok);
}

TEST(check_linearizability, a_read_returns_the_last_write) {
  kv_history history;
  history.done(history.put(1, "x", 7, 10), 20);
  history.read(history.get(2, "x", 30), 7, 40);
  history.read(history.get(2, "y", 30), absent, 40);
  EXPECT_EQ(judged(history), std::nullopt);
  history.read(history.get(2, "x", 50), absent, 60);
  EXPECT_EQ(judged(history),
            "key 'x' is not linearizable: no order of its first 3 operations explains client 2's get (time 50 to 60: "
            "nothing); these 2 of them contradict each other:\n"
            "  client  invoke  return  operation  result\n"
            "       1      10      20  put 7      done\n"
            "       2      50      60  get        nothing\n");
}

TEST(check_linearizability, concurrent_operations_take_effect_in_any_order) {
  for (const value_id last : {1U, 2U}) {
    kv_history history;
    const auto first = history.put(1, "x", 1, 10);
    const auto second = history.put(2, "x", 2, 10);
    history.done(first, 20);
    history.done(second, 20);
    history.read(history.get(3, "x", 21), last, 30);
    EXPECT_EQ(judged(history), std::nullopt);
    history.read(history.get(3, "x", 31), 3 - last, 40);
    EXPECT_NE(judged(history), std::nullopt);
  }
}

TEST(check_linearizability, a_new_value_is_not_forgotten_while_its_write_is_under_way) {
  kv_history history;
  const auto put = history.put(1, "x", 1, 10);
  history.read(history.get(2, "x", 20), 1, 30);
  history.read(history.get(3, "x", 40), absent, 50);
  history.done(put, 60);
  const violation found = judged(history);
  ASSERT_NE(found, std::nullopt);
  EXPECT_THAT(*found, HasSubstr("explains client 3's get (time 40 to 50: nothing)"));
  EXPECT_THAT(*found, HasSubstr("1      10       -  put 1      unknown")) << "at time 50 it had not returned";
}

TEST(check_linearizability, equal_times_are_concurrent) {
  kv_history history;
  history.done(history.put(1, "x", 1, 10), 20);
  history.read(history.get(2, "x", 20), absent, 30);
  EXPECT_EQ(judged(history), std::nullopt);
}

TEST(check_linearizability, an_unknown_write_takes_effect_late_or_never) {
  kv_history history;
  history.put(1, "x", 1, 10);
  history.read(history.get(2, "x", 20), absent, 30);
  EXPECT_EQ(judged(history), std::nullopt);
  history.read(history.get(2, "x", 40), 1, 50);
  EXPECT_EQ(judged(history), std::nullopt);
  history.read(history.get(2, "x", 60), absent, 70);
  EXPECT_NE(judged(history), std::nullopt) << "and then it stays";
}

TEST(check_linearizability, an_unknown_write_takes_effect_once) {
  kv_history history;
  history.put(1, "x", 1, 10);
  history.read(history.get(2, "x", 20), 1, 30);
  history.done(history.put(2, "x", 2, 40), 50);
  history.read(history.get(2, "x", 60), 1, 70);
  EXPECT_NE(judged(history), std::nullopt);
}

TEST(check_linearizability, an_unknown_write_does_not_take_effect_before_it_is_invoked) {
  kv_history history;
  history.read(history.get(2, "x", 20), 1, 30);
  history.put(1, "x", 1, 40);
  EXPECT_NE(judged(history), std::nullopt);
}

TEST(check_linearizability, a_failed_write_has_no_effect) {
  kv_history history;
  history.failed(history.put(1, "x", 1, 10), 20);
  history.read(history.get(2, "x", 30), absent, 40);
  EXPECT_EQ(judged(history), std::nullopt);
  history.read(history.get(2, "x", 50), 1, 60);
  EXPECT_NE(judged(history), std::nullopt);
}

TEST(check_linearizability, an_erased_key_is_absent) {
  kv_history history;
  history.done(history.put(1, "x", 1, 10), 20);
  history.done(history.erase(1, "x", 30), 40);
  history.read(history.get(2, "x", 50), absent, 60);
  EXPECT_EQ(judged(history), std::nullopt);
  history.read(history.get(2, "x", 70), 1, 80);
  EXPECT_NE(judged(history), std::nullopt);
}

TEST(check_linearizability, only_one_of_two_equal_swaps_succeeds) {
  kv_history history;
  const auto first = history.compare_swap(1, "x", absent, 1, 10);
  const auto second = history.compare_swap(2, "x", absent, 2, 10);
  history.swapped(first, true, 20);
  history.swapped(second, false, 20);
  EXPECT_EQ(judged(history), std::nullopt);
  history.swapped(second, true, 20);
  EXPECT_THAT(judged(history).value_or(""), HasSubstr("compare-and-swap nothing -> 2  swapped"));
}

TEST(check_linearizability, a_swap_that_finds_what_it_expects_succeeds) {
  kv_history history;
  history.swapped(history.compare_swap(1, "x", absent, 1, 10), false, 20);
  EXPECT_NE(judged(history), std::nullopt);
}

TEST(check_linearizability, tries_another_unknown_write_where_the_first_is_needed_later) {
  kv_history history;
  history.put(1, "x", 1, 10);
  history.put(2, "x", 2, 11);
  history.compare_swap(3, "x", 1, 5, 12);
  history.swapped(history.compare_swap(4, "x", absent, 6, 20), false, 30);  // sees put 2, for put 1
  history.done(history.put(4, "x", 3, 40), 50);
  history.read(history.get(4, "x", 60), 5, 70);  // is left for the swap before this
  EXPECT_EQ(judged(history), std::nullopt);
}

TEST(check_linearizability, gives_up_when_its_budget_is_spent) {
  const kv_history history = told(run_of_a_map({.keys = 1}));
  const linearizability_result result = check_linearizable(history, {.max_steps_per_key = 10});
  EXPECT_EQ(result.verdict, linearizability::gave_up);
  EXPECT_EQ(result.broken(), std::nullopt);
  EXPECT_EQ(result.message, "gave up on key 'k0' and its 100 operations after 10 steps");
}

TEST(check_linearizability, a_violation_of_one_key_beats_giving_up_on_another) {
  std::vector<kv_operation> operations = run_of_a_map({.keys = 1});
  kv_operation wrong;
  wrong.key = 1;
  wrong.outcome = kv_outcome::done;
  wrong.value = 5;
  wrong.invoked = 99;
  wrong.returned = 100;
  operations.push_back(wrong);
  const linearizability_result result = check_linearizable(told(operations), {.max_steps_per_key = 10});
  EXPECT_EQ(result.verdict, linearizability::violated);
  EXPECT_THAT(result.message, StartsWith("key 'k1'"));
}

TEST(check_linearizability, agrees_with_trying_all_orders) {
  splitmix64 random(1);
  int possible = 0;
  int impossible = 0;
  for (int i = 0; i < 8'000; ++i) {
    std::vector<kv_operation> operations = random_operations(random, 6, i % 2 == 0);
    if (i % 4 == 3) {  // the search does not rely on values being unique
      for (kv_operation& each : operations) each.value = (each.value + 1) / 2;
    }
    const bool expected = can_be_ordered(operations);
    ++(expected ? possible : impossible);
    const linearizability_result result = check_linearizable(told(operations));
    ASSERT_EQ(result.verdict, expected ? linearizability::ok : linearizability::violated) << "history " << i << "\n"
                                                                                          << result.message;
  }
  EXPECT_GT(possible, 1'600);
  EXPECT_GT(impossible, 1'600);
}

TEST(check_linearizability, agrees_with_trying_all_orders_on_runs_with_one_wrong_answer) {
  splitmix64 random(2);
  int possible = 0;
  int impossible = 0;
  for (std::uint64_t i = 0; i < 5'000; ++i) {
    std::vector<kv_operation> operations = run_of_a_map(
        {.seed = i, .clients = 3, .keys = 1, .operations = 6, .one_in_times_out = 3, .reads_tell_states = false});
    kv_operation& wrong = operations[random.below(6)];
    if (wrong.action == kv_action::get && wrong.is_done()) wrong.value = random.below(4);
    if (wrong.action == kv_action::compare_swap && wrong.is_done()) wrong.swapped = !wrong.swapped;
    const bool expected = can_be_ordered(operations);
    ++(expected ? possible : impossible);
    ASSERT_EQ(check_linearizable(told(operations)).verdict, expected ? linearizability::ok : linearizability::violated)
        << "seed " << i;
  }
  EXPECT_GT(possible, 1'000);
  EXPECT_GT(impossible, 500);
}

TEST(check_linearizability, accepts_every_run_of_a_map) {
  for (std::uint64_t seed = 0; seed < 200; ++seed) {
    const auto operations = run_of_a_map({.seed = seed, .clients = 5, .keys = 2, .one_in_times_out = 12});
    EXPECT_EQ(check_linearizable(told(operations)).verdict, linearizability::ok) << "seed " << seed;
  }
}

TEST(check_linearizability, ten_thousand_operations_take_few_steps) {
  for (const std::size_t keys : {std::size_t{1}, std::size_t{50}}) {
    const auto operations = run_of_a_map({.keys = keys, .operations = 10'000, .one_in_times_out = 500});
    const linearizability_result result = check_linearizable(told(operations));
    EXPECT_EQ(result.verdict, linearizability::ok) << result.message;
    EXPECT_LT(result.steps, 60'000U) << keys << " keys";
  }
}

TEST(check_linearizability, a_wrong_answer_among_thousands_is_shown_in_a_few_lines) {
  for (const std::size_t keys : {std::size_t{1}, std::size_t{50}}) {
    auto operations = run_of_a_map({.keys = keys, .operations = 10'000, .one_in_times_out = 500});
    std::size_t at = 7'000;
    while (operations[at].action != kv_action::get || !operations[at].is_done()) ++at;
    operations[at].value = 5;  // written long before
    const linearizability_result result = check_linearizable(told(operations));
    ASSERT_EQ(result.verdict, linearizability::violated);
    EXPECT_THAT(result.message, HasSubstr(keys == 1 ? "contradict each other" : "whatever the others did"));
    EXPECT_LT(std::count(result.message.begin(), result.message.end(), '\n'), 12) << result.message;
  }
}

TEST(check_linearizability, says_the_same_each_time) {
  auto operations = run_of_a_map({.keys = 2, .operations = 300, .one_in_times_out = 30});
  for (kv_operation& each : operations) {
    if (each.action == kv_action::get && each.invoked > 300) each.value = 1;
  }
  const linearizability_result first = check_linearizable(told(operations));
  const linearizability_result second = check_linearizable(told(operations));
  EXPECT_EQ(first.verdict, linearizability::violated);
  EXPECT_EQ(first.message, second.message);
  EXPECT_EQ(first.steps, second.steps);
}

}  // namespace
}  // namespace lockstep::sim::check::test
