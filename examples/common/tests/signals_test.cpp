#include "common/signals.hpp"

#include <chrono>
#include <csignal>
#include <optional>
#include <vector>

#include <gtest/gtest.h>
#include <asio/io_context.hpp>
#include <asio/post.hpp>
#include <asio/steady_timer.hpp>

namespace lockstep::examples {
namespace {

TEST(signal_drain, DrainsOnceAndThenLetsTheContextRunOut) {
  for (const int number : {SIGINT, SIGTERM}) {
    asio::io_context context;
    std::vector<int> drained;
    signal_drain signals(context.get_executor(), [&](int received) { drained.push_back(received); });
    std::raise(number);
    context.run();  // returns: nothing is outstanding after the drain
    EXPECT_EQ(drained, std::vector<int>{number});
  }
}

TEST(signal_drain, StopLetsTheContextRunOutWithoutASignal) {
  asio::io_context context;
  bool drained = false;
  signal_drain signals(context.get_executor(), [&](int) { drained = true; });
  asio::post(context, [&] { signals.stop(); });
  context.run();
  EXPECT_FALSE(drained);
}

TEST(signal_drain, MayBeDestroyedAtEveryMomentOfASignalsWay) {
  for (int steps = 0; steps < 4; ++steps) {
    asio::io_context context;
    int drained = 0;
    std::optional<signal_drain> signals;
    signals.emplace(context.get_executor(), [&](int) { ++drained; });
    std::raise(SIGTERM);
    for (int i = 0; i < steps; ++i) context.poll_one();  // the reactor notices it, queues the handler, calls it
    const int drained_before = drained;
    signals.reset();
    context.restart();
    context.run();
    EXPECT_EQ(drained, drained_before) << "after " << steps << " steps";
  }
}

TEST(signal_drain, MayBeStoppedByItsOwnDrain) {
  asio::io_context context;
  std::optional<signal_drain> signals;
  signals.emplace(context.get_executor(), [&](int) { signals.reset(); });
  std::raise(SIGTERM);
  context.run();
  EXPECT_FALSE(signals.has_value());
}

TEST(signal_drain, RestoresTheDefaultActions) {
  asio::io_context context;
  signal_drain(context.get_executor(), [](int) {}).stop();
  struct sigaction now {};
  ASSERT_EQ(::sigaction(SIGTERM, nullptr, &now), 0);
  EXPECT_EQ(now.sa_handler, SIG_DFL);
}

void raise_again_while_draining() {
  asio::io_context context;
  asio::steady_timer stuck(context);
  signal_drain signals(context.get_executor(), [&](int) {
    std::raise(SIGINT);  // nothing runs the context meanwhile: it must not be needed
    ::_exit(1);
  });
  std::raise(SIGTERM);
  context.run();
}

TEST(signal_drain, SecondSignalExitsAtOnceWith130) {
  EXPECT_EXIT(raise_again_while_draining(), testing::ExitedWithCode(130), "");
}

TEST(ignore_broken_pipes, TurnsSigpipeIntoAnError) {
  ignore_broken_pipes();
  int ends[2];
  ASSERT_EQ(::pipe(ends), 0);
  ::close(ends[0]);
  EXPECT_EQ(::write(ends[1], "x", 1), -1);
  EXPECT_EQ(errno, EPIPE);
  ::close(ends[1]);
}

}  // namespace
}  // namespace lockstep::examples
