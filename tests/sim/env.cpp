#include "lockstep/sim/env.hpp"

#include "lockstep/frame/channel.hpp"
#include "lockstep/log/append_log.hpp"

#include <gtest/gtest.h>

namespace lockstep::sim {
namespace {

using namespace std::chrono_literals;

awaitable<void> sleeps(env& on, duration how_long, std::vector<duration>& woke) {
  env::timer timer(on);
  timer.expires_after(how_long);
  (void)co_await timer.wait();
  woke.push_back(on.on().in().elapsed());
}

TEST(sim_env, TimeJumpsToTheNextTimer) {
  world in(1);
  std::vector<duration> woke;
  in.add_node("a").start([&](env& on) { return sleeps(on, 3h, woke); });
  EXPECT_TRUE(in.run_until([&] { return !woke.empty(); }, 4h));
  EXPECT_EQ(woke, std::vector<duration>{3h});
}

awaitable<void> serves(env& on, std::uint64_t& heard) {
  std::error_code ec;
  env::acceptor from = on.listen(address("0.0.0.0", 7000), ec);
  if (ec) throw std::system_error(ec);
  for (;;) {
    env::stream stream = co_await from.accept();
    channel_options options;
    options.node = 1;
    basic_channel<env> channel(on, std::move(stream), options);
    try {
      co_await channel.handshake();
      for (;;) {
        const frame_view frame = co_await channel.receive();
        heard += frame.payload.size();
        co_await channel.send(1, 0, frame.payload);
      }
    } catch (const std::system_error&) {
    }
  }
}

awaitable<void> asks(env& on, std::uint64_t& answered, std::vector<std::string>& failures) {
  for (;;) {
    try {
      env::stream stream = co_await on.connect(address("server", 7000), 1s);
      channel_options options;
      options.node = 2;
      basic_channel<env> channel(on, std::move(stream), options);
      co_await channel.handshake();
      std::vector<std::byte> bytes(100);
      for (;;) {
        co_await channel.send(1, 0, bytes);
        const frame_view frame = co_await channel.receive();
        answered += frame.payload.size();
      }
    } catch (const std::system_error& error) {
      failures.push_back(error.what());
    }
    env::timer timer(on);
    timer.expires_after(100ms);
    (void)co_await timer.wait();
  }
}

TEST(sim_env, AChannelGoesOnAfterEachSideWasKilled) {
  world in(7);
  std::uint64_t heard = 0, answered = 0;
  std::vector<std::string> failures;
  node& server = in.add_node("server");
  node& client = in.add_node("client");
  server.start([&](env& on) { return serves(on, heard); });
  client.start([&](env& on) { return asks(on, answered, failures); });
  for (int i = 0; i < 20; ++i) {
    const std::uint64_t before = answered;
    ASSERT_TRUE(in.run_until([&] { return answered >= before + 1000; }, 10s)) << i;
    node& killed = i % 2 == 0 ? server : client;
    killed.crash();
    killed.start();
  }
  EXPECT_GT(failures.size(), 5u);
}

awaitable<void> appends(env& on, std::uint64_t& acked) {
  auto opened = co_await basic_append_log<env>::open(on, "/log");
  if (!opened.log) throw std::runtime_error(opened.report.reason);
  if (opened.log->last().index < acked) throw std::runtime_error("lost an acknowledged record");
  std::vector<std::byte> bytes(100);
  for (;;) {
    const position at = opened.log->append(1, bytes);
    co_await opened.log->durable(at.index);
    acked = at.index;
  }
}

TEST(sim_env, AnAcknowledgedRecordSurvivesPowerLosses) {
  world in(3);
  std::uint64_t acked = 0;
  node& one = in.add_node("one");
  one.start([&](env& on) { return appends(on, acked); });
  for (int i = 0; i < 20; ++i) {
    const std::uint64_t before = acked;
    ASSERT_TRUE(in.run_until([&] { return acked > before + 10 || !one.running(); }, 10s)) << i;
    ASSERT_TRUE(one.running()) << one.failure_text();
    one.lose_power(power_cut::seeded(static_cast<std::uint64_t>(i)));
    one.start();
  }
}

}  // namespace
}  // namespace lockstep::sim
