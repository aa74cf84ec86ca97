#include "lockstep/env/real.hpp"

#include "support/run.hpp"

#include <gtest/gtest.h>
#include <asio/io_context.hpp>

#include <set>
#include <vector>

namespace lockstep::real {
namespace {

using namespace std::chrono_literals;
using test::run;
using test::start;

struct real_test : testing::Test {
  asio::io_context io;
  env world{io.get_executor()};
};

// --- random ---

std::vector<std::uint64_t> numbers(asio::io_context& io, std::uint64_t seed) {
  env world(io.get_executor(), env_options{1, seed});
  std::vector<std::uint64_t> result;
  for (int i = 0; i < 1000; ++i) result.push_back(world.random());
  return result;
}

using random_test = real_test;

TEST_F(random_test, the_same_seed_gives_the_same_numbers) {
  EXPECT_EQ(numbers(io, 7), numbers(io, 7));
  EXPECT_NE(numbers(io, 7), numbers(io, 8));
}

TEST_F(random_test, is_splitmix64) {
  env world_of_zero(io.get_executor(), env_options{1, 1234567});
  // The first numbers of Vigna's splitmix64.c with the state 1234567.
  EXPECT_EQ(world_of_zero.random(), 6457827717110365317u);
  EXPECT_EQ(world_of_zero.random(), 3203168211198807973u);
  EXPECT_EQ(world_of_zero.random(), 9817491932198370423u);
}

TEST_F(random_test, seed_zero_takes_another_seed_each_time) { EXPECT_NE(numbers(io, 0), numbers(io, 0)); }

TEST_F(random_test, numbers_do_not_repeat) {
  const auto drawn = numbers(io, 42);
  EXPECT_EQ(std::set<std::uint64_t>(drawn.begin(), drawn.end()).size(), drawn.size());
}

// --- clocks ---

using clock_test = real_test;

TEST_F(clock_test, now_never_goes_back) {
  time_point last = world.now();
  for (int i = 0; i < 1000; ++i) {
    const time_point next = world.now();
    ASSERT_GE(next, last);
    last = next;
  }
}

TEST_F(clock_test, wall_now_is_the_calendar) {
  const auto before = std::chrono::system_clock::now();
  const wall_time read = world.wall_now();
  EXPECT_GE(read, before);
  EXPECT_LE(read, std::chrono::system_clock::now());
}

// --- timers ---

awaitable<std::error_code> wait(timer& on) { co_return co_await on.wait(); }

struct timer_test : real_test {
  timer on{world};
};

TEST_F(timer_test, expires_after_its_time_and_not_before) {
  const time_point begun = world.now();
  on.expires_after(5ms);
  EXPECT_EQ(run(io, on.wait()), std::error_code());
  EXPECT_GE(world.now() - begun, 5ms);
}

TEST_F(timer_test, expires_at_a_time_of_now) {
  const time_point when = world.now() + 5ms;
  on.expires_at(when);
  EXPECT_EQ(run(io, on.wait()), std::error_code());
  EXPECT_GE(world.now(), when);
}

TEST_F(timer_test, a_time_that_has_passed_is_at_once_and_not_inside_the_call) {
  on.expires_at(world.now() - 1h);
  EXPECT_EQ(run(io, on.wait()), std::error_code());
}

TEST_F(timer_test, cancel_ends_the_wait_with_operation_aborted) {
  on.expires_after(1h);
  auto waiting = start(io, wait(on));
  test::poll(io);
  EXPECT_FALSE(waiting.done());
  on.cancel();
  test::poll(io);
  EXPECT_EQ(waiting.result(), asio::error::operation_aborted);
}

TEST_F(timer_test, setting_it_anew_ends_the_wait_with_operation_aborted) {
  on.expires_after(1h);
  auto waiting = start(io, wait(on));
  test::poll(io);
  on.expires_after(1ms);
  test::poll(io);
  EXPECT_EQ(waiting.result(), asio::error::operation_aborted);
  EXPECT_EQ(run(io, on.wait()), std::error_code());
}

TEST_F(timer_test, several_may_wait_for_it) {
  on.expires_after(1ms);
  auto first = start(io, wait(on));
  auto second = start(io, wait(on));
  ASSERT_TRUE(test::run_until(io, [&] { return first.done() && second.done(); }));
  EXPECT_EQ(first.result(), std::error_code());
  EXPECT_EQ(second.result(), std::error_code());
}

TEST_F(timer_test, a_wait_can_be_cancelled_by_its_coroutine) {
  on.expires_after(1h);
  auto waiting = start(io, wait(on));
  test::poll(io);
  waiting.cancel();
  test::poll(io);
  EXPECT_EQ(waiting.result(), asio::error::operation_aborted);
}

TEST_F(timer_test, an_end_of_the_timer_ends_its_wait) {
  std::optional<timer> short_lived(std::in_place, world);
  short_lived->expires_after(1h);
  auto waiting = start(io, wait(*short_lived));
  test::poll(io);
  short_lived.reset();
  test::poll(io);
  EXPECT_EQ(waiting.result(), asio::error::operation_aborted);
}

TEST_F(timer_test, timers_of_different_times_expire_in_their_order) {
  std::vector<int> order;
  const auto note = [](env& of, duration after, int id, std::vector<int>& into) -> awaitable<void> {
    timer mine(of);
    mine.expires_after(after);
    (void)co_await mine.wait();
    into.push_back(id);
  };
  auto third = start(io, note(world, 30ms, 3, order));
  auto first = start(io, note(world, 1ms, 1, order));
  auto second = start(io, note(world, 15ms, 2, order));
  ASSERT_TRUE(test::run_until(io, [&] { return order.size() == 3; }));
  EXPECT_EQ(order, (std::vector<int>{1, 2, 3}));
}

// --- the whole ---

TEST(real_env, gives_the_executor_that_it_was_given) {
  asio::io_context io;
  const env world(io.get_executor());
  EXPECT_TRUE(world.get_executor() == asio::any_io_executor(io.get_executor()));
}

TEST(real_env, waits_end_with_the_io_context) {
  asio::io_context io;
  env world(io.get_executor());
  timer on(world);
  on.expires_after(1h);
  auto waiting = start(io, wait(on));
  test::poll(io);
  EXPECT_FALSE(waiting.done());
}

}  // namespace
}  // namespace lockstep::real
