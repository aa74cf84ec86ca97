#include "lockstep/sim/guard.hpp"

#include <gtest/gtest.h>
#include <asio/steady_timer.hpp>

#include <array>
#include <atomic>
#include <chrono>
#include <thread>

namespace lockstep::sim {
namespace {

using namespace std::chrono_literals;

// What a program may call by mistake.
struct real_call {
  const char* name;
  const char* refusal;
  bool (*works)();  // calls it. @return whether it did what it is for
};

constexpr timespec short_time{0, 1};

constexpr real_call real_calls[] = {
    {"clock_gettime", "clock_gettime.. was called .* use env.now.. or env.wall_now..",
     [] {
       timespec now{};
       return ::clock_gettime(CLOCK_MONOTONIC, &now) == 0 && now.tv_sec + now.tv_nsec > 0;
     }},
    {"steady_clock", "clock_gettime.. was called",
     [] { return std::chrono::steady_clock::now() > decltype(std::chrono::steady_clock::now())(); }},
    {"system_clock", "clock_gettime.. was called",
     [] { return std::chrono::system_clock::now() > decltype(std::chrono::system_clock::now())(); }},
    {"gettimeofday", "gettimeofday.. was called .* use env.now..",
     [] {
       timeval now{};
       return ::gettimeofday(&now, nullptr) == 0 && now.tv_sec > 0;
     }},
    {"time", "time.. was called .* use env.now..", [] { return ::time(nullptr) > 0; }},
    {"nanosleep", "nanosleep.. was called .* use the environment's timer",
     [] { return ::nanosleep(&short_time, nullptr) == 0; }},
    {"clock_nanosleep", "clock_nanosleep.. was called .* use the environment's timer",
     [] { return ::clock_nanosleep(CLOCK_MONOTONIC, 0, &short_time, nullptr) == 0; }},
    {"sleep", "sleep.. was called .* use the environment's timer", [] { return ::sleep(0) == 0; }},
    {"usleep", "usleep.. was called .* use the environment's timer", [] { return ::usleep(1) == 0; }},
    {"getrandom", "getrandom.. was called .* use env.random..",
     [] {
       std::array<char, 16> bytes{};
       return ::getrandom(bytes.data(), bytes.size(), 0) == 16 && bytes != std::array<char, 16>{};
     }},
    {"getentropy", "getentropy.. was called .* use env.random..",
     [] {
       std::array<char, 16> bytes{};
       return ::getentropy(bytes.data(), bytes.size()) == 0 && bytes != std::array<char, 16>{};
     }},
    {"random_device", "std::random_device was called .* use env.random..",
     [] {
       std::random_device source;
       std::array<unsigned, 4> drawn{};
       for (unsigned& each : drawn) each = source();
       return drawn != std::array<unsigned, 4>{};
     }},
    {"thread", "pthread_create.. was called .* use a coroutine",
     [] {
       bool ran = false;
       std::thread([&ran] { ran = true; }).join();
       return ran;
     }},
};

awaitable<void> calls(env& on, bool (*what)()) {
  env::timer timer(on);
  timer.expires_after(1500ms);
  (void)co_await timer.wait();
  (void)what();
}

void run_node_that(bool (*calls_it)()) {
  world in(7);
  in.add_node("careless").start([calls_it](env& on) { return calls(on, calls_it); });
  in.run_for(10s);
}

class guarded : public testing::TestWithParam<real_call> {};

TEST_P(guarded, WorksOutsideOfRuns) {
  EXPECT_TRUE(GetParam().works());
  run_node_that([] { return true; });
  EXPECT_TRUE(GetParam().works());
}

TEST_P(guarded, EndsTheProgramInsideOfARun) { EXPECT_DEATH(run_node_that(GetParam().works), GetParam().refusal); }

INSTANTIATE_TEST_SUITE_P(calls, guarded, testing::ValuesIn(real_calls),
                         [](const auto& of) { return std::string(of.param.name); });

bool reads_clock() {
  (void)std::chrono::steady_clock::now();
  return true;
}

TEST(sim_guard, NamesSeedNodeAndVirtualTime) {
  EXPECT_DEATH(run_node_that(&reads_clock), "seed 7.*node 'careless' at 1.500000 s of virtual time");
}

TEST(sim_guard, NamesTheWorldWhenNoProgramRuns) {
  world in(7);
  in.at(2s, [] { reads_clock(); });
  EXPECT_DEATH(in.run_for(10s), "by the world at 2.000000 s");
}

TEST(sim_guard, CoversStepsConditionsAndStarts) {
  world in(7);
  in.at(2s, [] { reads_clock(); });
  EXPECT_DEATH(in.step(), "by the world");
  EXPECT_DEATH(in.run_until(&reads_clock, 10s), "by the world");
  node& starts = in.add_node("careless");
  const auto program = [](env& on) {
    reads_clock();
    return calls(on, [] { return true; });
  };
  EXPECT_DEATH(starts.start(program), "by the world");
}

TEST(sim_guard, CoversTheEndOfALife) {
  struct reads_clock_at_end {
    reads_clock_at_end() = default;
    reads_clock_at_end(const reads_clock_at_end&) = delete;
    ~reads_clock_at_end() { reads_clock(); }
  };
  struct program {
    static awaitable<void> run(env& on) {
      const reads_clock_at_end held;
      env::timer timer(on);
      timer.expires_after(1h);
      (void)co_await timer.wait();
    }
  };
  const auto crash = [] {
    world in(7);
    node& crashing = in.add_node("careless");
    crashing.start(&program::run);
    in.run_for(1s);
    crashing.crash();
  };
  EXPECT_DEATH(crash(), "by the world at 1.000000 s");
}

// Asio's timer asks the real clock.
TEST(sim_guard, EndsProgramsThatUseAsiosTimers) {
  const auto run = [] {
    world in(7);
    in.add_node("careless").start([](env& on) -> awaitable<void> {
      asio::steady_timer timer(on.get_executor());
      timer.expires_after(1s);
      co_await timer.async_wait(use_awaitable);
    });
    in.run_for(10s);
  };
  EXPECT_DEATH(run(), "was called inside a simulated run");
}

TEST(sim_guard, IsOffAgainWhenARunEndsByAnException) {
  world in(7);
  in.at(1s, [] { throw std::runtime_error("stop"); });
  EXPECT_THROW(in.run_for(10s), std::runtime_error);
  EXPECT_TRUE(reads_clock());
}

TEST(sim_guard, IsOffOnOtherThreadsMeanwhile) {
  bool read = false;
  world in(7);
  std::atomic<bool> inside = false, done = false;
  std::thread other([&] {
    inside.wait(false);
    read = reads_clock();
    done = true;
    done.notify_all();
  });
  in.at(1s, [&] {
    inside = true;
    inside.notify_all();
    done.wait(false);
  });
  in.run_for(10s);
  other.join();
  EXPECT_TRUE(read);
}

}  // namespace
}  // namespace lockstep::sim
