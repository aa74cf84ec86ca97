#include "lockstep/sim/network.hpp"

#include "lockstep/sim/env.hpp"

#include <gtest/gtest.h>

#include <optional>
#include <string>
#include <vector>

// What is found with the simulated network is worth as much as its likeness to TCP: each promise of its header has a
// test here.

namespace lockstep::sim {
namespace {

using namespace std::chrono_literals;

const address server_at("b", 7000);

/// One end of a connection, in its program's frame.
struct side {
  env::stream* stream = nullptr;  ///< while there is one
  bool reads = true;
  std::size_t most_at_once = 4096;
  std::string got;
  std::optional<std::error_code> ended;  ///< reading
  duration ended_at{0};
  std::optional<std::error_code> failed;  ///< connecting
  std::size_t accepted = 0;

  std::size_t write(const std::string& text, std::error_code& ec) {
    const bytes_view view = as_bytes(text);
    return stream->write_now({&view, 1}, ec);
  }
  std::error_code write(const std::string& text) {
    std::error_code ec;
    const std::size_t taken = write(text, ec);
    EXPECT_EQ(taken, ec ? 0u : text.size());
    return ec;
  }
};

awaitable<void> sleep(env& on, duration how_long) {
  env::timer timer(on);
  timer.expires_after(how_long);
  (void)co_await timer.wait();
}

awaitable<void> read_all(env& on, env::stream stream, side& self) {
  struct named {
    side& in;
    named(side& of, env::stream& open) : in(of) { in.stream = &open; }
    named(const named&) = delete;
    ~named() { in.stream = nullptr; }
  };
  const named mark(self, stream);
  std::vector<char> room(4096);
  while (!self.ended) {
    if (!self.reads) {
      co_await sleep(on, 1ms);
      continue;
    }
    std::error_code ec;
    const std::size_t bytes = co_await stream.async_read_some(asio::buffer(room.data(), self.most_at_once),
                                                              asio::redirect_error(use_awaitable, ec));
    self.got.append(room.data(), bytes);
    if (ec) {
      self.ended = ec;
      self.ended_at = on.on().in().elapsed();
    }
  }
  co_await sleep(on, 24h);  // it stays open
}

awaitable<void> listens(env& on, side& self) {
  std::error_code ec;
  env::acceptor acceptor = on.listen(address("0.0.0.0", server_at.port), ec);
  if (ec) throw std::system_error(ec);
  env::stream accepted = co_await acceptor.accept();
  ++self.accepted;
  co_await read_all(on, std::move(accepted), self);
}

awaitable<void> only_listens(env& on) {
  std::error_code ec;
  const env::acceptor acceptor = on.listen(address("0.0.0.0", server_at.port), ec);
  co_await sleep(on, 24h);
}

awaitable<void> connects(env& on, side& self, duration timeout) {
  std::optional<env::stream> connected;
  try {
    env::stream opened = co_await on.connect(server_at, timeout);
    connected.emplace(std::move(opened));
  } catch (const std::system_error& error) {
    self.failed = error.code();
  }
  if (connected) co_await read_all(on, std::move(*connected), self);
  co_await sleep(on, 24h);
}

struct network_test : testing::Test {
  side client, server;  // outlive the world, whose programs use them
  world in{1};
  node& a = in.add_node("a");
  node& b = in.add_node("b");

  network_test() {
    in.net().options.latency = 1ms;
    in.net().options.jitter = 1ms;
    in.net().options.give_up = 10s;
  }

  void start_server() {
    b.start([this](env& on) { return listens(on, server); });
  }
  void start_client(duration timeout = 5s) {
    a.start([this, timeout](env& on) { return connects(on, client, timeout); });
  }
  void start_both_10ms_apart() {
    in.net().options.latency = 10ms;
    in.net().options.jitter = 0ms;
    start_server();
    start_client();
  }
  void connect() {
    start_server();
    start_client();
    ASSERT_TRUE(in.run_until([&] { return client.stream && server.stream; }, 10s));
  }
  // The server is another process on the same machine now, and listens.
  void restart_server() {
    server = side();
    start_server();
  }
  bool within(duration limit, const std::optional<std::error_code>& of, std::error_code expected) {
    return in.run_until([&] { return of.has_value(); }, limit) && *of == expected;
  }
};

TEST_F(network_test, BytesArriveInOrderAndOnce) {
  in.net().options.partial = 0.7;
  in.net().options.buffer_bytes = 100;
  connect();
  std::string sent;
  random_stream random(5);
  while (sent.size() < 20'000) {
    std::string next;
    for (std::uint64_t i = random.below(300); i != 0; --i) next += static_cast<char>(random());
    std::error_code ec;
    const std::size_t taken = client.write(next, ec);
    sent += next.substr(0, taken);
    in.run_for(std::chrono::microseconds(random.below(3000)));
  }
  in.run_for(1s);
  EXPECT_EQ(server.got, sent);
}

TEST_F(network_test, ABlockedPathHoldsBytesUpUntilItHeals) {
  connect();
  in.net().block(a, b);
  ASSERT_FALSE(client.write("held"));
  in.run_for(8s);
  EXPECT_EQ(server.got, "");
  in.net().unblock(a, b);
  in.run_for(2s);
  EXPECT_EQ(server.got, "held");
  EXPECT_FALSE(client.ended);
}

TEST_F(network_test, BytesInFlightWhenAPathIsBlockedArriveWhenItHeals) {
  connect();
  ASSERT_FALSE(client.write("held"));
  in.net().block(a, b);
  in.run_for(1s);
  EXPECT_EQ(server.got, "");
  in.net().unblock(a, b);
  in.run_for(2s);
  EXPECT_EQ(server.got, "held");
}

TEST_F(network_test, ASenderThatIsHeldUpTimesOutAndItsPeerIsResetWhenItSends) {
  connect();
  in.net().block(a, b);
  in.net().block(b, a);
  const duration begin = in.elapsed();
  ASSERT_FALSE(client.write("lost"));
  ASSERT_TRUE(within(20s, client.ended, asio::error::timed_out));
  EXPECT_EQ(client.ended_at - begin, 10s);
  EXPECT_TRUE(client.write("more"));
  in.net().unblock(a, b);
  in.net().unblock(b, a);
  in.run_for(30s);
  EXPECT_FALSE(server.ended);  // half-open
  ASSERT_FALSE(server.write("hello?"));
  EXPECT_TRUE(within(1s, server.ended, asio::error::connection_reset));
}

TEST_F(network_test, ANewPartitionDoesNotGiveASenderMoreTime) {
  connect();
  const duration begin = in.elapsed();
  b.pause();
  in.net().block(a, b);
  ASSERT_FALSE(client.write("lost"));
  for (int i = 0; i < 8; ++i) {
    in.run_for(1s);
    in.net().unblock(a, b);  // the machine stands still, path or no path
    in.net().block(a, b);
  }
  ASSERT_TRUE(within(20s, client.ended, asio::error::timed_out));
  EXPECT_LE(client.ended_at - begin, 11s);
}

TEST_F(network_test, ASenderWhoseAnswersAreKeptBackTimesOut) {
  connect();
  in.net().block(b, a);
  ASSERT_FALSE(client.write("heard"));
  in.run_for(1s);
  EXPECT_EQ(server.got, "heard");
  EXPECT_TRUE(within(10s, client.ended, asio::error::timed_out));
}

TEST_F(network_test, AHealedPathBringsTheAnswers) {
  connect();
  in.net().block(b, a);
  ASSERT_FALSE(client.write("heard"));
  in.run_for(5s);
  in.net().unblock(b, a);
  in.run_for(30s);
  EXPECT_FALSE(client.ended);
}

TEST_F(network_test, RoomIsKeptBackWithTheAnswers) {
  in.net().options.buffer_bytes = 1000;
  connect();
  in.net().block(b, a);
  std::error_code ec;
  ASSERT_EQ(client.write(std::string(5000, 'x'), ec), 1000u);
  in.run_for(1s);
  EXPECT_EQ(server.got.size(), 1000u);
  EXPECT_EQ(client.write("y", ec), 0u);
  EXPECT_EQ(ec, asio::error::would_block);
  in.net().unblock(b, a);
  EXPECT_FALSE(client.write("y"));
}

TEST_F(network_test, AOneWayPartitionLetsTheOtherWayThrough) {
  connect();
  in.net().block(a, b);
  ASSERT_FALSE(server.write("down"));
  ASSERT_FALSE(client.write("up"));
  in.run_for(1s);
  EXPECT_EQ(client.got, "down");
  EXPECT_EQ(server.got, "");
}

TEST_F(network_test, AResetLosesWhatIsInFlight) {
  connect();
  ASSERT_FALSE(client.write("lost"));
  EXPECT_EQ(in.net().reset(a, b), 1u);
  EXPECT_TRUE(within(1s, client.ended, asio::error::connection_reset));
  EXPECT_TRUE(within(1s, server.ended, asio::error::connection_reset));
  EXPECT_EQ(server.got, "");
  EXPECT_EQ(client.write("more"), asio::error::connection_reset);
}

TEST_F(network_test, AMachineWithoutPowerSaysNothingAndResetsWhenItIsUpAgain) {
  connect();
  b.lose_power(power_cut::seeded(1));
  in.run_for(60s);
  EXPECT_FALSE(client.ended);
  restart_server();
  in.run_for(1s);
  EXPECT_FALSE(client.ended);
  ASSERT_FALSE(client.write("hello?"));
  EXPECT_TRUE(within(1s, client.ended, asio::error::connection_reset));
  EXPECT_EQ(server.got, "");
}

TEST_F(network_test, BytesThatFlewToAMachineWithoutPowerAreSentAgainUntilItResets) {
  connect();
  ASSERT_FALSE(client.write("lost"));
  b.lose_power(power_cut::seeded(1));
  in.run_for(5s);
  EXPECT_FALSE(client.ended);
  restart_server();
  EXPECT_TRUE(within(3s, client.ended, asio::error::connection_reset));
}

TEST_F(network_test, BytesThatFlewToAMachineThatStaysDownTimeOut) {
  connect();
  ASSERT_FALSE(client.write("lost"));
  b.lose_power(power_cut::seeded(1));
  EXPECT_TRUE(within(12s, client.ended, asio::error::timed_out));
}

TEST_F(network_test, AMachineWithoutPowerSendsNothingThatWasLeftToIt) {
  connect();
  in.net().block(a, b);
  ASSERT_FALSE(client.write("held"));
  a.crash();
  a.lose_power(power_cut::seeded(1));
  in.net().unblock(a, b);
  in.run_for(5s);
  EXPECT_EQ(server.got, "");
  EXPECT_FALSE(server.ended);
}

TEST_F(network_test, WhatACrashedProcessHadSentArrivesAndThenTheEnd) {
  connect();
  in.net().block(a, b);
  ASSERT_FALSE(client.write("last words"));
  a.crash();
  in.net().unblock(a, b);
  EXPECT_TRUE(within(3s, server.ended, asio::error::eof));
  EXPECT_EQ(server.got, "last words");
}

TEST_F(network_test, AProcessThatCrashesBeforeItHasReadAllResets) {
  connect();
  server.reads = false;
  in.run_for(10ms);
  ASSERT_FALSE(client.write("first"));
  in.run_for(100ms);  // the read that was under way
  ASSERT_FALSE(client.write("unread"));
  in.run_for(100ms);
  b.crash();
  EXPECT_TRUE(within(1s, client.ended, asio::error::connection_reset));
}

TEST_F(network_test, BytesThatFlewToACrashedProcessAreAnsweredByAReset) {
  connect();
  ASSERT_FALSE(client.write("lost"));
  b.crash();
  ASSERT_TRUE(within(1s, client.ended, asio::error::eof));  // it ended its side first
  in.run_for(1s);
  EXPECT_EQ(client.write("more"), asio::error::broken_pipe);
}

TEST_F(network_test, AnEndedSideStillReads) {
  connect();
  std::error_code ec;
  client.stream->shutdown_send(ec);
  ASSERT_TRUE(within(1s, server.ended, asio::error::eof));
  ASSERT_FALSE(server.write("still here"));
  in.run_for(1s);
  EXPECT_EQ(client.got, "still here");
  EXPECT_EQ(client.write("more"), asio::error::broken_pipe);
}

TEST_F(network_test, WritingToAClosedEndIsAnsweredByAReset) {
  connect();
  server.stream->close();
  ASSERT_TRUE(within(1s, client.ended, asio::error::eof));
  EXPECT_FALSE(client.write("into the void"));
  in.run_for(1s);
  EXPECT_EQ(client.write("more"), asio::error::broken_pipe);
}

// The answer takes a second; the bytes that the server has not read make its close() a reset, on a path that is quick
// again by then.
TEST_F(network_test, AResetComesBehindWhatWasSentBeforeIt) {
  in.net().options.lost_by_resets = 0;
  connect();
  server.reads = false;
  ASSERT_FALSE(client.write("first"));
  in.run_for(100ms);  // the read that was under way
  ASSERT_FALSE(client.write("unread"));
  in.run_for(100ms);
  in.net().delay(b, a, 1s);
  ASSERT_FALSE(server.write("an answer"));
  in.run_for(500ms);
  in.net().delay(b, a, 0s);
  server.stream->close();
  ASSERT_TRUE(within(5s, client.ended, asio::error::connection_reset));
  EXPECT_EQ(client.got, "an answer");
}

TEST_F(network_test, WhatFlewBeforeAResetMayBeMissing) {
  in.net().options.lost_by_resets = 1;
  connect();
  server.reads = false;
  ASSERT_FALSE(client.write("first"));
  in.run_for(100ms);  // the read that was under way
  ASSERT_FALSE(client.write("unread"));
  ASSERT_FALSE(server.write("delivered"));
  in.run_for(100ms);
  ASSERT_FALSE(server.write("in flight"));
  server.stream->close();
  ASSERT_TRUE(within(1s, client.ended, asio::error::connection_reset));
  EXPECT_EQ(client.got, "delivered");
}

TEST_F(network_test, AResetIsLostOnABlockedPath) {
  connect();
  server.reads = false;
  ASSERT_FALSE(client.write("first"));
  in.run_for(100ms);  // the read that was under way
  ASSERT_FALSE(client.write("unread"));
  in.run_for(100ms);
  server.stream->close();
  in.net().block(b, a);
  in.run_for(1s);
  in.net().unblock(b, a);
  in.run_for(5s);
  EXPECT_FALSE(client.ended);  // half-open
  ASSERT_FALSE(client.write("hello?"));
  EXPECT_TRUE(within(1s, client.ended, asio::error::connection_reset));
}

TEST_F(network_test, BytesWhoseResetWasLostAreSentAgain) {
  connect();
  in.net().block(b, a);
  server.stream->close();
  ASSERT_FALSE(client.write("lost"));
  in.run_for(1s);
  in.net().unblock(b, a);
  in.run_for(3s);
  EXPECT_TRUE(client.write("more"));
}

TEST_F(network_test, ACorruptingPathAltersBytesAndNeitherTheirNumberNorTheirOrder) {
  connect();
  in.net().corrupt(a, b, 0.5);
  std::string sent;
  for (int i = 0; i < 200; ++i) {
    const std::string next(100, static_cast<char>('a' + i % 26));
    ASSERT_FALSE(client.write(next));
    sent += next;
    in.run_for(5ms);
  }
  ASSERT_EQ(server.got.size(), sent.size());
  std::size_t altered = 0;
  for (std::size_t i = 0; i < sent.size(); ++i) altered += server.got[i] != sent[i] ? 1 : 0;
  EXPECT_EQ(altered, in.net().bytes_corrupted());
  EXPECT_GT(altered, 50u);
  EXPECT_LT(altered, 150u);
  server.got.clear();
  in.net().corrupt(a, b, 0);
  ASSERT_FALSE(client.write("whole again"));
  in.run_for(1s);
  EXPECT_EQ(server.got, "whole again");
  EXPECT_FALSE(server.ended);
}

TEST_F(network_test, NobodyListensIsToldApartFromNobodyAnswers) {
  b.start([](env& on) { return sleep(on, 24h); });
  start_client();
  EXPECT_TRUE(within(1s, client.failed, asio::error::connection_refused));
}

TEST_F(network_test, AConnectToAMachineWithoutPowerTimesOut) {
  b.lose_power(power_cut::seeded(1));
  start_client();
  EXPECT_TRUE(within(6s, client.failed, errc::timed_out));
}

TEST_F(network_test, AConnectWhoseAnswerIsKeptBackTimesOut) {
  start_server();
  in.net().block(b, a);
  start_client();
  EXPECT_TRUE(within(6s, client.failed, errc::timed_out));
  EXPECT_EQ(server.accepted, 0u);
}

TEST_F(network_test, AConnectWhoseAnswerIsLostOnceSucceedsLater) {
  start_server();
  in.net().block(b, a);
  start_client();
  in.run_for(2s);
  EXPECT_FALSE(client.stream);
  in.net().unblock(b, a);
  EXPECT_TRUE(in.run_until([&] { return client.stream && server.accepted == 1; }, 2s));
}

TEST_F(network_test, AServerAcceptsHalfARoundTripAfterItsClientHasConnected) {
  start_both_10ms_apart();
  in.run_for(19ms);
  EXPECT_FALSE(client.stream);
  in.run_for(2ms);
  EXPECT_TRUE(client.stream);
  in.run_for(8ms);
  EXPECT_EQ(server.accepted, 0u);
  in.run_for(2ms);
  EXPECT_EQ(server.accepted, 1u);
}

TEST_F(network_test, AServerAcceptsLaterWhenItsClientsAnswerIsLost) {
  start_both_10ms_apart();
  in.run_for(21ms);
  ASSERT_TRUE(client.stream);
  in.net().block(a, b);
  ASSERT_FALSE(client.write("held"));
  in.run_for(5s);
  EXPECT_EQ(server.accepted, 0u);
  in.net().unblock(a, b);
  ASSERT_TRUE(in.run_until([&] { return server.accepted == 1; }, 2s));
  in.run_for(2s);
  EXPECT_EQ(server.got, "held");
  EXPECT_FALSE(client.ended);
}

TEST_F(network_test, AServerThatNeverHearsItsClientsAnswerForgetsIt) {
  start_both_10ms_apart();
  in.run_for(21ms);
  ASSERT_TRUE(client.stream);
  in.net().block(a, b);
  in.run_for(20s);
  in.net().unblock(a, b);
  ASSERT_FALSE(client.ended);
  ASSERT_FALSE(client.write("hello?"));
  EXPECT_TRUE(within(3s, client.ended, asio::error::connection_reset));
  EXPECT_EQ(server.accepted, 0u);
}

TEST_F(network_test, AClientThatConnectedToAnEndingServerIsReset) {
  start_both_10ms_apart();
  in.run_for(21ms);
  ASSERT_TRUE(client.stream);
  b.crash();
  EXPECT_TRUE(within(1s, client.ended, asio::error::connection_reset));
}

awaitable<void> listens_later(env& on, side& self, duration after) {
  std::error_code ec;
  env::acceptor acceptor = on.listen(address("0.0.0.0", server_at.port), ec);
  co_await sleep(on, after);
  for (;;) {
    env::stream accepted = co_await acceptor.accept();
    ++self.accepted;
  }
}

awaitable<void> connects_often(env& on, std::vector<side>& all) {
  for (side& each : all) asio::co_spawn(on.get_executor(), connects(on, each, 5s), asio::detached);
  co_await sleep(on, 24h);
}

TEST_F(network_test, AFullBacklogTakesNoMore) {
  in.net().options.backlog = 2;
  b.start(only_listens);
  std::vector<side> first(2), later(2);
  a.start([&](env& on) { return connects_often(on, first); });
  in.run_for(1s);
  EXPECT_TRUE(first[0].stream && first[1].stream);
  node& c = in.add_node("c");
  c.start([&](env& on) { return connects_often(on, later); });
  in.run_for(6s);
  EXPECT_EQ(later[0].failed, make_error_code(errc::timed_out));
  EXPECT_EQ(later[1].failed, make_error_code(errc::timed_out));
  EXPECT_EQ(in.net().open_connections(), 2u);
  a.crash();  // before `first` and `later` go
  c.crash();
}

// The third message finds no place; whoever sent it knows nothing of that.
TEST_F(network_test, AConnectionThatFindsTheBacklogFullWaitsForRoom) {
  in.net().options.backlog = 1;
  in.net().options.latency = 10ms;
  in.net().options.jitter = 0ms;
  b.start([this](env& on) { return listens_later(on, server, 2s); });
  std::vector<side> clients(3);
  a.start([&](env& on) { return connects_often(on, clients); });
  in.run_for(21ms);
  for (side& each : clients) ASSERT_TRUE(each.stream);
  for (side& each : clients) EXPECT_FALSE(each.write("hello"));
  in.run_for(1s);
  EXPECT_EQ(server.accepted, 0u);
  in.run_for(10s);
  EXPECT_EQ(server.accepted, 3u);
  a.crash();  // before `clients` go
}

TEST_F(network_test, ASlowReaderStopsItsWriter) {
  in.net().options.buffer_bytes = 1000;
  connect();
  server.reads = false;
  std::error_code ec;
  std::size_t taken = 0;
  for (int i = 0; i < 100; ++i) {
    taken += client.write(std::string(100, 'x'), ec);
    in.run_for(10ms);
  }
  EXPECT_EQ(ec, asio::error::would_block);
  EXPECT_LE(taken, 2000u);  // the read that was under way, and what the buffer takes
  EXPECT_EQ(taken - server.got.size(), 1000u);
  server.reads = true;
  in.run_for(1s);
  EXPECT_EQ(server.got.size(), taken);
  EXPECT_FALSE(client.write("more"));
}

TEST_F(network_test, ReadsAndWritesMayTakeParts) {
  connect();
  in.net().options.partial = 1;
  std::error_code ec;
  bool partial = false;
  for (int i = 0; i < 20; ++i) partial |= client.write(std::string(100, 'x'), ec) != 100;
  EXPECT_TRUE(partial);
}

TEST_F(network_test, APausedMachineGoesOnInOrder) {
  connect();
  b.pause();
  for (const char* const each : {"one ", "two ", "three"}) {
    ASSERT_FALSE(client.write(each));
    in.run_for(100ms);
  }
  EXPECT_EQ(server.got, "");
  b.resume();
  in.run_for(1ms);
  EXPECT_EQ(server.got, "one two three");
}

TEST_F(network_test, ANarrowPathCarriesItsRateAndMoreWhenItWidens) {
  in.net().options.buffer_bytes = 100'000;
  connect();
  in.net().limit_bandwidth(a, b, 10'000);
  ASSERT_FALSE(client.write(std::string(30'000, 'x')));
  ASSERT_FALSE(client.write(std::string(30'000, 'x')));
  in.run_for(3s);
  EXPECT_GT(server.got.size(), 25'000u);
  EXPECT_LE(server.got.size(), 30'000u);
  in.net().limit_bandwidth(a, b, 0);
  in.run_for(1s);
  EXPECT_EQ(server.got.size(), 60'000u);
}

awaitable<void> connects_until(env& on, asio::cancellation_signal& stop, side& self) {
  asio::co_spawn(on.get_executor(), connects(on, self, 5s), asio::bind_cancellation_slot(stop.slot(), asio::detached));
  co_await sleep(on, 24h);
}

TEST_F(network_test, ACancelledConnectLeavesNothing) {
  start_server();
  asio::cancellation_signal stop;
  a.start([&](env& on) { return connects_until(on, stop, client); });
  in.run_for(1ms);  // it is on its way
  in.at(in.elapsed(), [&] { stop.emit(asio::cancellation_type::terminal); });
  in.run_for(1s);
  EXPECT_TRUE(client.failed && is_cancelled(*client.failed));
  EXPECT_FALSE(client.stream);
  EXPECT_EQ(server.accepted, 0u);
  EXPECT_EQ(in.net().open_connections(), 0u);
  a.crash();
}

awaitable<void> connects_and_sleeps(env& on, side& self, int& woke) {
  asio::co_spawn(on.get_executor(), connects(on, self, 20ms), asio::detached);
  co_await sleep(on, 1s);  // paused meanwhile
  for (int i = 0; i < 100; ++i) {
    co_await sleep(on, 1ms);
    ++woke;
  }
  co_await sleep(on, 24h);
}

// The attempt's own timer was cancelled a second time after it had happened, by then somebody else's event.
TEST_F(network_test, ASuccessAndTheExpiryOfAConnectInOneInstantHarmNothing) {
  int woke = 0;
  start_server();
  a.start([&](env& on) { return connects_and_sleeps(on, client, woke); });
  in.run_for(1ms);
  a.pause();
  in.run_for(100ms);
  a.resume();
  in.run_for(3s);
  EXPECT_EQ(woke, 100);
  a.crash();
}

TEST_F(network_test, AnAttemptToConnectOutlivesItsProcess) {
  start_server();
  for (int i = 0; i < 50; ++i) {
    start_client();
    in.run_for(std::chrono::microseconds(i * 100));
    a.crash();
    in.run_for(10ms);
  }
  in.run_for(10s);
  b.crash();
  in.run_for(10s);
  EXPECT_EQ(in.net().open_connections(), 0u);
}

awaitable<void> reads_once(env::stream& from, std::optional<std::error_code>& ended, std::string& got) {
  std::vector<char> room(100);
  std::error_code ec;
  const std::size_t bytes = co_await from.async_read_some(asio::buffer(room), asio::redirect_error(use_awaitable, ec));
  got.append(room.data(), bytes);
  ended = ec;
}

awaitable<void> moves_and_destroys(env& on, std::optional<std::error_code>& first,
                                   std::optional<std::error_code>& second, std::string& got) {
  env::stream opened = co_await on.connect(server_at, 5s);
  asio::co_spawn(on.get_executor(), reads_once(opened, first, got), asio::detached);
  co_await sleep(on, 10ms);
  std::optional<env::stream> moved(std::move(opened));
  const std::string text = "hello";
  const bytes_view view = as_bytes(text);
  std::error_code ec;
  (void)moved->write_now({&view, 1}, ec);
  co_await sleep(on, 100ms);
  asio::co_spawn(on.get_executor(), reads_once(*moved, second, got), asio::detached);
  co_await sleep(on, 10ms);
  moved.reset();
  co_await sleep(on, 24h);
}

awaitable<void> answers(env& on) {
  std::error_code ec;
  env::acceptor acceptor = on.listen(address("0.0.0.0", server_at.port), ec);
  env::stream accepted = co_await acceptor.accept();
  std::vector<char> room(100);
  for (;;) {
    const std::size_t bytes = co_await accepted.async_read_some(asio::buffer(room), use_awaitable);
    (void)co_await accepted.async_write_some(asio::buffer(room.data(), bytes), use_awaitable);
  }
}

TEST_F(network_test, AReadGoesOnWhenItsStreamMovesAndEndsWhenItIsDestroyed) {
  std::optional<std::error_code> first, second;
  std::string got;
  b.start(answers);
  a.start([&](env& on) { return moves_and_destroys(on, first, second, got); });
  in.run_for(1s);
  EXPECT_EQ(got, "hello");
  EXPECT_TRUE(first && !*first);
  EXPECT_TRUE(second && is_cancelled(*second));
}

awaitable<void> accepts_into(env::acceptor& from, side& self) {
  try {
    env::stream accepted = co_await from.accept();
    ++self.accepted;
  } catch (const std::system_error& error) {
    self.failed = error.code();
  }
}

awaitable<void> drops_acceptor(env& on, side& self, duration after) {
  std::error_code ec;
  std::optional<env::acceptor> acceptor(on.listen(address("0.0.0.0", server_at.port), ec));
  asio::co_spawn(on.get_executor(), accepts_into(*acceptor, self), asio::detached);
  co_await sleep(on, after);
  acceptor.reset();
  co_await sleep(on, 24h);
}

TEST_F(network_test, AnAcceptorMayBeDestroyedWhileItAccepts) {
  b.start([&](env& on) { return drops_acceptor(on, server, 10ms); });
  in.run_for(1s);
  EXPECT_TRUE(server.failed && is_cancelled(*server.failed));
}

// Both things happen while the machine stands still, and are found in one instant.
TEST_F(network_test, AnAcceptorMayBeDestroyedInTheInstantOfAConnection) {
  for (std::uint64_t seed = 1; seed < 50; ++seed) {
    side connecting, accepting;
    world other(seed);
    node& from = other.add_node("a");
    node& to = other.add_node("b");
    to.start([&](env& on) { return drops_acceptor(on, accepting, 300us); });
    from.start([&](env& on) { return connects(on, connecting, 1s); });
    other.run_for(10s);
    EXPECT_TRUE(accepting.accepted == 1 || accepting.failed);
  }
}

TEST_F(network_test, ThousandsOfKillsLeaveNothing) {
  random_stream random(3);
  for (int i = 0; i < 2000; ++i) {
    server = client = side();
    start_server();
    start_client();
    in.run_for(std::chrono::microseconds(random.below(20'000)));
    if (client.stream) (void)client.write("something");
    in.run_for(std::chrono::microseconds(random.below(5000)));
    node& killed = random.chance(0.5) ? a : b;
    if (random.chance(0.5)) {
      killed.crash();
    } else {
      killed.lose_power(power_cut::seeded(1));
    }
  }
  a.crash();
  b.crash();
  in.run_for(60s);
  EXPECT_EQ(in.net().open_connections(), 0u);
}

}  // namespace
}  // namespace lockstep::sim
