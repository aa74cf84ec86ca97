#include "lockstep/sim/simulation.hpp"

#include <asio/read.hpp>
#include <asio/write.hpp>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace lockstep::sim {
namespace {

using namespace std::chrono_literals;
using ::testing::Each;
using ::testing::Ge;

// Counts every 10 ms of its own clock.
awaitable<void> counts(env& on, std::uint64_t& count) {
  env::timer timer(on);
  for (;;) {
    timer.expires_after(10ms);
    if (co_await timer.wait()) co_return;
    ++count;
  }
}

awaitable<void> syncs_once(env& on, sync_on where, duration& ended) {
  std::error_code ec;
  env::file file = on.open("/file", open_mode::create, ec);
  env::timer timer(on);
  timer.expires_after(50ms);
  (void)co_await timer.wait();
  EXPECT_FALSE(co_await file.datasync(where));
  ended = on.on().in().elapsed();
}

struct counted {
  std::uint64_t before = 0;
  std::uint64_t during = 0;
};

// What a node counts while one of its coroutines syncs for 100 ms.
counted count_during_a_sync(sync_on where) {
  world in(1);
  node& slow = in.add_node("slow");
  slow.disk_time = {100ms, duration(0), duration(0), duration(0)};
  std::uint64_t count = 0;
  duration ended{0};
  slow.start([&](env& on) -> awaitable<void> {
    asio::co_spawn(on.get_executor(), counts(on, count), asio::detached);
    return syncs_once(on, where, ended);
  });
  counted result;
  in.run_for(51ms);
  result.before = count;
  in.run_for(98ms);
  result.during = count - result.before;
  EXPECT_EQ(ended, 0s);
  in.run_for(2ms);
  EXPECT_EQ(ended, 150ms);
  return result;
}

TEST(simulation, ASyncOnADiskThreadLeavesTheOthersTheirTime) {
  const counted seen = count_during_a_sync(sync_on::disk_thread);
  EXPECT_GE(seen.before, 4u);
  EXPECT_GE(seen.during, 9u);
}

TEST(simulation, ASyncOnTheCallersThreadHoldsUpTheWholeProcess) {
  const counted seen = count_during_a_sync(sync_on::caller);
  EXPECT_GE(seen.before, 4u);
  EXPECT_EQ(seen.during, 0u);
}

TEST(simulation, AProcessThatDiesInASyncIsGone) {
  for (const bool power : {false, true}) {
    world in(1);
    node& slow = in.add_node("slow");
    slow.disk_time = {100ms, duration(0), duration(0), duration(0)};
    duration ended{0};
    slow.start([&](env& on) { return syncs_once(on, sync_on::caller, ended); });
    in.run_for(100ms);
    if (power)
      slow.lose_power(power_cut());
    else
      slow.crash();
    in.run_for(1s);
    EXPECT_EQ(ended, 0s);
    slow.start();
    in.run_for(1s);
    EXPECT_GT(ended, 1s);
  }
}

awaitable<void> syncs_often(env& on, std::uint64_t& times) {
  std::error_code ec;
  env::file file = on.open("/file", open_mode::create, ec);
  env::timer timer(on);
  for (;;) {
    (void)co_await file.datasync(sync_on::caller);
    ++times;
    timer.expires_after(1ms);
    if (co_await timer.wait()) co_return;
  }
}

awaitable<void> hears(env& on, std::vector<std::uint64_t>& heard) {
  std::error_code ec;
  env::acceptor from = on.listen(address("0.0.0.0", 80), ec);
  env::stream stream = co_await from.accept();
  for (;;) {
    std::uint64_t number = 0;
    co_await asio::async_read(stream, asio::buffer(&number, sizeof number), use_awaitable);
    heard.push_back(number);
  }
}

awaitable<void> tells(env& on) {
  env::stream stream = co_await on.connect(address("hearer", 80), 1s);
  env::timer timer(on);
  for (std::uint64_t number = 0;; ++number) {
    co_await asio::async_write(stream, asio::buffer(&number, sizeof number), use_awaitable);
    timer.expires_after(300us);
    (void)co_await timer.wait();
  }
}

// What was held back while the process was in a sync, and what was held back while it was paused, came in the wrong
// order when both ended at once: a connection's bytes were mixed up.
TEST(simulation, WhatAPausedAndBlockedProcessIsSentKeepsItsOrder) {
  for (std::uint64_t seed = 1; seed <= 20; ++seed) {
    world in(seed);
    std::vector<std::uint64_t> heard;
    std::uint64_t syncs = 0;
    node& hearer = in.add_node("hearer");
    hearer.start([&](env& on) -> awaitable<void> {
      asio::co_spawn(on.get_executor(), syncs_often(on, syncs), asio::detached);
      return hears(on, heard);
    });
    in.run_for(10ms);  // it listens
    in.add_node("teller").start([](env& on) { return tells(on); });
    ASSERT_TRUE(in.run_until([&] { return !heard.empty(); }, 1s));
    random_stream random = in.random("pauses");
    for (int i = 0; i < 50; ++i) {
      in.run_for(std::chrono::microseconds(random.below(5000)));
      hearer.pause();
      in.run_for(std::chrono::microseconds(random.below(5000)));
      hearer.resume();
    }
    in.run_for(1s);
    EXPECT_GT(syncs, 500u);
    ASSERT_GT(heard.size(), 1000u);
    for (std::size_t i = 0; i < heard.size(); ++i) ASSERT_EQ(heard[i], i) << "seed " << seed;
  }
}

run_options seeded(std::uint64_t seed) {
  run_options options;
  options.seed = seed;
  return options;
}

TEST(simulation, SurvivorsGoOnAndTheOthersStayAsTheyAre) {
  std::vector<std::uint64_t> alive_anyway(3);
  for (std::uint64_t seed = 1; seed <= 40; ++seed) {
    simulation run(seeded(seed));
    std::vector<std::uint64_t> counts_of(4);
    std::vector<node*> nodes;
    for (std::uint64_t& each : counts_of) {
      nodes.push_back(&run.add("node", [&each](env& on) { return counts(on, each); }));
    }
    fault_plan_options faults;
    faults.lasts = 5s;
    faults.families = fault_set().with(fault_family::crash).with(fault_family::power_loss).with(fault_family::pause);
    run.chaos(faults);
    run.calm({nodes[0], nodes[2]});
    const std::vector<std::uint64_t> before = counts_of;
    run.in().run_for(10s);
    std::size_t down = 0;
    for (const std::size_t left : {1u, 3u}) {
      const bool counts_on = counts_of[left] > before[left];
      const bool is_up = nodes[left]->running() && !nodes[left]->paused();
      EXPECT_EQ(counts_on, is_up) << "seed " << seed;
      // Who is up is cut off.
      EXPECT_EQ(is_up, run.in().net().blocked(*nodes[left], *nodes[0])) << "seed " << seed;
      EXPECT_EQ(is_up, run.in().net().blocked(*nodes[0], *nodes[left])) << "seed " << seed;
      down += is_up ? 0 : 1;
    }
    ++alive_anyway[down];
    for (const std::size_t survivor : {0u, 2u}) EXPECT_GT(counts_of[survivor], before[survivor] + 500);
    run.calm();
    const std::vector<std::uint64_t> then = counts_of;
    run.in().run_for(1s);
    for (std::size_t i = 0; i < 4; ++i) {
      EXPECT_GT(counts_of[i], then[i] + 50) << "node " << i << ", seed " << seed;
      EXPECT_FALSE(i != 0 && run.in().net().blocked(*nodes[0], *nodes[i]));
    }
  }
  EXPECT_THAT(alive_anyway, Each(Ge(1u)));
}

}  // namespace
}  // namespace lockstep::sim
