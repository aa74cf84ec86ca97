#include "lockstep/sim/explore.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace lockstep::sim {
namespace {

using namespace std::chrono_literals;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

awaitable<void> waits(env& on, duration how_long) {
  env::timer timer(on);
  timer.expires_after(how_long);
  (void)co_await timer.wait();
}

// Promises to keep a count that it does not sync in time: a power loss shows it.
awaitable<void> careless(env& on, std::uint64_t& promised) {
  std::error_code ec;
  env::file file = on.open("/count", open_mode::create, ec);
  std::uint64_t count = 0;
  (void)file.pread(0, std::as_writable_bytes(std::span(&count, 1)), ec);
  if (count < promised) throw std::logic_error("kept " + std::to_string(count) + " of " + std::to_string(promised));
  for (;;) {
    ++count;
    const bytes_view view = std::as_bytes(std::span(&count, 1));
    file.pwrite(0, {&view, 1}, ec);
    promised = count;
    co_await waits(on, 100ms);
    (void)co_await file.datasync(sync_on::disk_thread);
    (void)co_await on.sync_directory("/", sync_on::disk_thread);
  }
}

void count_carelessly(simulation& run) {
  std::uint64_t promised = 0;
  run.on_end = [](node& ended) {
    if (ended.failure()) std::rethrow_exception(ended.failure());
  };
  run.add("idle", [](env& on) { return waits(on, 1h); });
  run.add("counter", [&promised](env& on) { return careless(on, promised); });
  fault_plan_options faults;
  faults.lasts = 10s;
  faults.families = fault_set().with(fault_family::crash).with(fault_family::power_loss).with(fault_family::pause);
  faults.often = 8;
  run.chaos(faults);
}

scenario careless_counter() { return {"careless", "loses its count when the power fails", &count_carelessly}; }

// Fails for the seeds from 7 on, and in other words for each.
scenario fails_from_seed_7() {
  return {"from_7", "", [](simulation& run) {
            run.add("a", [](env& on) { return waits(on, 1h); });
            run.in().run_for(1s);
            simulation::require(run.seed() < 7, "seed " + std::to_string(run.seed()) + " is too much");
          }};
}

explore_options few(std::uint64_t seeds, std::size_t jobs) {
  explore_options options;
  options.seeds = seeds;
  options.jobs = jobs;
  return options;
}

run_result run_again(const scenario& of, const shrunk_failure& failure) {
  run_options options;
  options.seed = failure.small.seed;
  options.only = failure.only;
  return run_seed(of, options);
}

awaitable<void> ends_by(env& on, std::exception_ptr why) {
  co_await waits(on, 1s);
  std::rethrow_exception(why);
}

scenario program_ends_by(const std::exception_ptr& why) {
  return {"ends", "", [why](simulation& run) {
            node& ends = run.add("a", [why](env& on) { return ends_by(on, why); });
            run.in().run_for(10s);
            simulation::require(ends.lives() > 1, "it was not started again");
          }};
}

TEST(sim_explore, WhatAProgramThrowsIsAFailure) {
  run_options options;
  options.keep_timeline = true;
  const auto result = run_seed(program_ends_by(std::make_exception_ptr(std::logic_error("1 is not 2"))), options);
  EXPECT_EQ(result.failure, "1 is not 2");
  EXPECT_TRUE(std::any_of(result.timeline.begin(), result.timeline.end(), [](const timeline_entry& each) {
    return each.node == "a" && each.text == "its program ends: 1 is not 2";
  }));
}

TEST(sim_explore, AProgramThatThrowsASystemErrorIsStartedAgain) {
  const auto why = std::make_exception_ptr(std::system_error(std::make_error_code(std::errc::io_error)));
  EXPECT_EQ(run_seed(program_ends_by(why), run_options()).failure, std::nullopt);
}

TEST(sim_explore, AFailureIsShrunkToTheFaultThatItTakes) {
  const exploration found = explore(careless_counter(), few(100, 2));
  ASSERT_TRUE(found.failure);
  const shrunk_failure& failure = *found.failure;
  EXPECT_EQ(failure.only.size(), 1u);
  EXPECT_LE(failure.only.size() * 10, failure.full.plan.size());
  EXPECT_TRUE(families_of(failure).has(fault_family::power_loss));
  EXPECT_FALSE(families_of(failure).has(fault_family::crash));
  EXPECT_EQ(failure_class(*failure.small.failure), failure_class(*failure.full.failure));
}

TEST(sim_explore, AShrunkFailureReplaysAsTheSameRun) {
  const exploration found = explore(careless_counter(), few(100, 2));
  ASSERT_TRUE(found.failure);
  const run_result again = run_again(careless_counter(), *found.failure);
  EXPECT_EQ(again.failure, found.failure->small.failure);
  EXPECT_EQ(again.trace_hash, found.failure->small.trace_hash);

  explore_options replay = few(1, 1);
  replay.first_seed = *found.first_failing_seed;
  replay.only = found.failure->only;
  const exploration second = explore(careless_counter(), replay);
  ASSERT_TRUE(second.failure);
  EXPECT_EQ(second.failure->only, found.failure->only);
  EXPECT_EQ(second.failure->small.trace_hash, found.failure->small.trace_hash);
}

TEST(sim_explore, WithoutShrinkingAFailureKeepsTheFaultsBeforeIt) {
  explore_options options = few(100, 1);
  options.shrink = false;
  const exploration found = explore(careless_counter(), options);
  ASSERT_TRUE(found.failure);
  EXPECT_EQ(found.failure->runs, 0u);
  // What was planned for later changes nothing.
  EXPECT_LT(found.failure->only.size(), found.failure->full.plan.size());
  EXPECT_EQ(found.failure->small.failure, found.failure->full.failure);
  EXPECT_EQ(found.failure->small.trace_hash, found.failure->full.trace_hash);
}

TEST(sim_explore, AFailureForAnotherReasonIsNotTheSameFailure) {
  // Fails in one way with a pause or a crash, and in another way always.
  const scenario of{"two", "", [](simulation& run) {
                      node& a = run.add("a", [](env& on) { return waits(on, 1h); });
                      fault_plan_options faults;
                      faults.families = fault_set().with(fault_family::crash);
                      faults.often = 8;
                      run.chaos(faults);
                      simulation::require(a.lives() < 3, "lived " + std::to_string(a.lives()) + " times");
                      simulation::require(false, "anything else");
                    }};
  run_options options;
  for (options.seed = 1;; ++options.seed) {
    const run_result failed = run_seed(of, options);
    if (failed.failure == "anything else") continue;
    const shrunk_failure found = shrink(of, options, failed);
    EXPECT_EQ(found.small.failure, "lived 3 times");
    EXPECT_EQ(found.only.size(), 2u);
    return;
  }
}

TEST(sim_explore, ShrinkingStopsAtItsLimits) {
  explore_options options = few(100, 1);
  options.limits.runs = 1;
  const exploration found = explore(careless_counter(), options);
  ASSERT_TRUE(found.failure);
  EXPECT_EQ(found.failure->runs, 1u);
  EXPECT_TRUE(found.failure->small.failure);
}

TEST(sim_explore, TheClassOfAFailureLeavesOutWhatDiffersFromRunToRun) {
  EXPECT_EQ(failure_class("kept 12 of 13"), failure_class("kept 7 of 120"));
  EXPECT_EQ(failure_class("chain 0x3fa9 is wrong"), failure_class("chain 0x77 is wrong"));
  EXPECT_NE(failure_class("kept 12 of 13"), failure_class("lost 12 of 13"));
  EXPECT_EQ(failure_class(""), "");
  EXPECT_EQ(failure_class("a, b"), "a, b");
}

TEST(sim_explore, NoRunDiffersTheSecondTime) {
  explore_options options = few(60, 2);
  options.run_twice = 1;
  options.stop_at_failure = false;
  const exploration found = explore(careless_counter(), options);
  EXPECT_EQ(found.reruns, 60u);
  EXPECT_THAT(found.different, ElementsAre());
}

TEST(sim_explore, ARunThatDiffersTheSecondTimeIsTold) {
  std::uint64_t runs = 0;
  explore_options options = few(3, 1);
  options.run_twice = 1;
  const exploration found = explore({"drifts", "", [&runs](simulation& run) { run.in().traced(++runs); }}, options);
  EXPECT_THAT(found.different, ElementsAre(1, 2, 3));
}

TEST(sim_explore, OneThreadAndTwoFindTheSame) {
  for (const bool stop : {false, true}) {
    explore_options one = few(60, 1), two = few(60, 2);
    one.stop_at_failure = two.stop_at_failure = stop;
    const exploration a = explore(careless_counter(), one), b = explore(careless_counter(), two);
    EXPECT_EQ(a.trace_hash, b.trace_hash);
    EXPECT_EQ(a.seeds, b.seeds);
    EXPECT_EQ(a.events, b.events);
    EXPECT_EQ(a.failures, b.failures);
    EXPECT_EQ(a.reruns, b.reruns);
    EXPECT_EQ(a.first_failing_seed, b.first_failing_seed);
  }
}

TEST(sim_explore, StopsAtTheLowestFailingSeed) {
  for (const std::size_t jobs : {1u, 2u, 5u}) {
    const exploration found = explore(fails_from_seed_7(), few(1000, jobs));
    EXPECT_EQ(found.first_failing_seed, 7u);
    EXPECT_EQ(found.failures, 1u);
    EXPECT_EQ(found.seeds, 7u);
    ASSERT_TRUE(found.failure);
    EXPECT_EQ(found.failure->small.failure, "seed 7 is too much");
  }
}

TEST(sim_explore, GoesOnBehindAFailureWhenAsked) {
  explore_options options = few(20, 2);
  options.stop_at_failure = false;
  const exploration found = explore(fails_from_seed_7(), options);
  EXPECT_EQ(found.seeds, 20u);
  EXPECT_EQ(found.failures, 14u);
  EXPECT_EQ(found.first_failing_seed, 7u);
}

TEST(sim_explore, CallsItsHookOnEachThread) {
  std::mutex mutex;
  std::vector<std::thread::id> threads;
  explore_options options = few(20, 3);
  options.on_thread = [&] {
    const std::lock_guard lock(mutex);
    threads.push_back(std::this_thread::get_id());
  };
  (void)explore({"nothing", "", [](simulation&) {}}, options);
  EXPECT_EQ(threads.size(), 3u);
  EXPECT_THAT(threads, ::testing::Contains(std::this_thread::get_id()));
}

TEST(sim_explore, WhateverLeavesAScenarioIsItsFailure) {
  const auto failure_of = [](std::function<void(simulation&)> run) {
    return run_seed({"throws", "", std::move(run)}, {}).failure.value_or("none");
  };
  EXPECT_EQ(failure_of([](simulation&) {}), "none");
  EXPECT_EQ(failure_of([](simulation&) { throw requirement_failed("not so"); }), "not so");
  EXPECT_THAT(failure_of([](simulation&) { throw std::system_error(asio::error::eof, "reading"); }),
              HasSubstr("reading: "));
  EXPECT_EQ(failure_of([](simulation&) { throw 7; }), "an exception that is no std::exception");
}

TEST(sim_explore, TheFamiliesThatAreSwitchedOffDoNotMoveTheOthers) {
  const auto of = careless_counter();
  run_options all, some;
  all.seed = some.seed = 1;
  some.without = fault_set().with(fault_family::pause);
  const run_result with = run_seed(of, all), without = run_seed(of, some);
  std::vector<std::uint32_t> kept, there;
  for (const fault_event& each : with.plan) {
    if (each.family != fault_family::pause) kept.push_back(each.number);
  }
  for (const fault_event& each : without.plan) there.push_back(each.number);
  EXPECT_EQ(there, kept);
  // Leaving them out by number is the same run.
  all.only = kept;
  EXPECT_EQ(run_seed(of, all).trace_hash, without.trace_hash);
}

TEST(sim_explore, AnExplanationSaysWhatFailedWhenAndHowFewFaultsItTakes) {
  const exploration found = explore(careless_counter(), few(100, 2));
  ASSERT_TRUE(found.failure);
  const std::string text = explain(*found.failure);
  EXPECT_THAT(text, HasSubstr("seed " + std::to_string(*found.first_failing_seed) + " failed at "));
  EXPECT_THAT(text, HasSubstr("power loss (fault " + std::to_string(found.failure->only.front()) + ")"));
  EXPECT_THAT(text, HasSubstr("FAILED: kept "));
  EXPECT_THAT(text, HasSubstr("\n1 of " + std::to_string(found.failure->full.plan.size()) +
                              " faults: " + std::to_string(found.failure->only.front()) + "\n"));
}

}  // namespace
}  // namespace lockstep::sim
