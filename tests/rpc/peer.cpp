#include "lockstep/rpc/peer.hpp"

#include "manual_time_env.hpp"
#include "run.hpp"
#include "streams.hpp"

#include <gtest/gtest.h>
#include <asio/io_context.hpp>

#include <deque>
#include <memory>
#include <string>
#include <utility>
#include <vector>

namespace lockstep {
namespace {

using manual = test::manual_time_env;
using peer_type = basic_rpc_peer<manual>;
using stream_type = basic_rpc_stream<manual>;
using test::run;
using test::start;
using namespace std::chrono_literals;

constexpr int small_buffer = 4096;
constexpr duration no_timeout{0};

/// What the handlers of a test do and have seen.
struct handlers {
  enum method : std::uint32_t { echo = 1, fail, refuse, crash, hold, count, endless, broken_stream, large, order };

  explicit handlers(asio::io_context& io) : held(io.get_executor()) {
    service.on(echo, [](const rpc_request& in, rpc_reply& out) { return do_echo(in, out); });
    service.on(fail, [](const rpc_request&, rpc_reply&) { return do_fail(); });
    service.on(refuse, [](const rpc_request&, rpc_reply& out) { return do_refuse(out); });
    service.on(crash, [](const rpc_request&, rpc_reply&) { return do_crash(); });
    service.on(hold, [this](const rpc_request& in, rpc_reply& out) { return do_hold(*this, in, out); });
    service.on(large, [](const rpc_request&, rpc_reply& out) { return do_large(out); });
    service.on_stream(count, [](const rpc_request& in, rpc_item_writer& out) { return do_count(in, out); });
    service.on_stream(endless,
                      [this](const rpc_request& in, rpc_item_writer& out) { return do_endless(*this, in, out); });
    service.on_stream(broken_stream, [](const rpc_request&, rpc_item_writer& out) { return do_broken(out); });
  }

  static awaitable<void> do_echo(const rpc_request& in, rpc_reply& out) {
    out.body().append(in.arguments);
    co_return;
  }
  static awaitable<void> do_fail() {
    throw rpc_error(404, "no such key");
    co_return;
  }
  static awaitable<void> do_refuse(rpc_reply& out) {
    out.fail(307, "node 3 leads");
    co_return;
  }
  static awaitable<void> do_crash() {
    throw std::runtime_error("out of luck");
    co_return;
  }
  static awaitable<void> do_large(rpc_reply& out) {
    out.body().resize(100'000);
    co_return;
  }
  /// Waits for the test's word, then echoes.
  static awaitable<void> do_hold(handlers& of, const rpc_request& in, rpc_reply& out) {
    ++of.begun;
    of.deadline = in.deadline;
    const auto ec = co_await of.held.wait();
    if (ec) {
      ++of.cancelled;
      throw std::system_error(ec);
    }
    out.body().append(in.arguments);
  }
  static awaitable<void> do_count(const rpc_request& in, rpc_item_writer& out) {
    const unsigned long end = std::stoul(std::string(as_text(in.arguments)));
    for (unsigned long i = 0; i < end; ++i) {
      const std::string item = std::to_string(i);
      co_await out.write(as_bytes(item));
    }
  }
  static awaitable<void> do_endless(handlers& of, const rpc_request& in, rpc_item_writer& out) {
    const std::string item(std::stoul(std::string(as_text(in.arguments))), 'x');
    try {
      for (;;) {
        co_await out.write(as_bytes(item));
        ++of.written;
      }
    } catch (const std::system_error&) {
      ++of.cancelled;
      throw;
    }
  }
  static awaitable<void> do_broken(rpc_item_writer& out) {
    co_await out.write(as_bytes("first"));
    throw rpc_error(5, "the rest is lost");
  }

  rpc_service service;
  wait_list held;
  int begun = 0;
  int cancelled = 0;
  int written = 0;
  time_point deadline{};
};

channel_options roomy_channel() {
  channel_options options;
  options.close_timeout = 1s;
  return options;
}

struct two_peers {
  explicit two_peers(rpc_options options = rpc_options(), const channel_options& channels = roomy_channel(),
                     int buffer_bytes = 0)
      : two_peers(options, channels, test::connected_sockets(buffer_bytes)) {}
  two_peers(const rpc_options& options, const channel_options& channels, std::pair<int, int> sockets)
      : here(std::make_unique<peer_type>(basic_channel<manual>(env, test::adopt(io, sockets.first), channels),
                                         here_serves.service, options)),
        there(std::make_unique<peer_type>(basic_channel<manual>(env, test::adopt(io, sockets.second), channels),
                                          there_serves.service, options)),
        here_runs(start(io, here->run())),
        there_runs(start(io, there->run())) {}
  two_peers(const two_peers&) = delete;
  ~two_peers() {
    here->abort();
    there->abort();
    EXPECT_TRUE(test::run_until(io, [this] { return here_runs.done() && there_runs.done(); }));
  }

  asio::io_context io{1};
  manual env{io.get_executor()};
  handlers here_serves{io};
  handlers there_serves{io};
  std::unique_ptr<peer_type> here;
  std::unique_ptr<peer_type> there;
  test::started<void> here_runs;
  test::started<void> there_runs;
};

/// A call with a result of its own.
struct outcome {
  rpc_status status;
  std::string result;
};

awaitable<outcome> call(peer_type& from, std::uint32_t method, std::string arguments, duration timeout = no_timeout) {
  outcome got;
  byte_buffer result;
  got.status = co_await from.call(method, as_bytes(arguments), result, timeout);
  got.result = as_text(result.view());
  co_return got;
}

awaitable<std::vector<std::string>> read_all(stream_type& from) {
  std::vector<std::string> items;
  while (const auto item = co_await from.next()) items.emplace_back(as_text(*item));
  co_return items;
}

std::vector<std::string> numbers_below(int end) {
  std::vector<std::string> numbers;
  for (int i = 0; i < end; ++i) numbers.push_back(std::to_string(i));
  return numbers;
}

// --- Calls ---

TEST(rpc_peer, a_call_brings_its_result) {
  two_peers p;
  const outcome got = run(p.io, call(*p.here, handlers::echo, "hello"));
  EXPECT_TRUE(got.status.ok());
  EXPECT_EQ(got.result, "hello");
}

TEST(rpc_peer, both_sides_call_and_serve) {
  two_peers p;
  auto one = start(p.io, call(*p.here, handlers::echo, "from here"));
  auto other = start(p.io, call(*p.there, handlers::echo, "from there"));
  ASSERT_TRUE(test::run_until(p.io, [&] { return one.done() && other.done(); }));
  EXPECT_EQ(one.result().result, "from here");
  EXPECT_EQ(other.result().result, "from there");
}

TEST(rpc_peer, arguments_and_results_of_all_sizes_arrive) {
  two_peers p(rpc_options(), roomy_channel(), small_buffer);
  for (const std::size_t size :
       std::initializer_list<std::size_t>{0u, 1u, 1000u, 16384u, 16385u, 100'000u, 3'000'000u}) {
    const std::string arguments(size, 'x');
    const outcome got = run(p.io, call(*p.here, handlers::echo, arguments));
    EXPECT_TRUE(got.status.ok()) << got.status.message();
    EXPECT_TRUE(got.result == arguments) << size;
  }
}

TEST(rpc_peer, many_calls_are_under_way_at_once_and_need_not_end_in_order) {
  two_peers p;
  std::vector<test::started<outcome>> calls;
  for (int i = 0; i < 100; ++i) {
    calls.push_back(start(p.io, call(*p.here, i % 2 ? handlers::hold : handlers::echo, std::to_string(i))));
  }
  ASSERT_TRUE(test::run_until(p.io, [&] { return p.there_serves.begun == 50 && calls[98].done(); }));
  for (int i = 0; i < 100; ++i) EXPECT_EQ(calls[static_cast<std::size_t>(i)].done(), i % 2 == 0) << i;
  EXPECT_EQ(p.here->calls_under_way(), 50u);
  EXPECT_EQ(p.there->requests_under_way(), 50u);
  p.there_serves.held.notify_all();
  for (int i = 0; i < 100; ++i) {
    auto& each = calls[static_cast<std::size_t>(i)];
    ASSERT_TRUE(test::run_until(p.io, [&] { return each.done(); }));
    EXPECT_EQ(each.result().result, std::to_string(i));
  }
  EXPECT_EQ(p.here->calls_under_way(), 0u);
}

TEST(rpc_peer, a_result_replaces_what_the_buffer_held_and_reuses_its_memory) {
  two_peers p;
  byte_buffer result;
  const std::string arguments(1000, 'a');
  EXPECT_TRUE(run(p.io, p.here->call(handlers::echo, as_bytes(arguments), result, no_timeout)).ok());
  const std::byte* const memory = result.data();
  EXPECT_TRUE(run(p.io, p.here->call(handlers::echo, as_bytes("short"), result, no_timeout)).ok());
  EXPECT_EQ(as_text(result.view()), "short");
  EXPECT_EQ(result.data(), memory);
}

// --- Calls that fail ---

TEST(rpc_peer, a_handlers_error_arrives_with_its_code_and_text) {
  two_peers p;
  const outcome thrown = run(p.io, call(*p.here, handlers::fail, ""));
  EXPECT_EQ(thrown.status.code(), errc::remote_failure);
  EXPECT_EQ(thrown.status.remote_code(), 404u);
  EXPECT_EQ(thrown.status.text(), "no such key");
  EXPECT_FALSE(thrown.status.outcome_unknown());
  const outcome returned = run(p.io, call(*p.here, handlers::refuse, ""));
  EXPECT_EQ(returned.status.remote_code(), 307u);
  EXPECT_EQ(returned.status.text(), "node 3 leads");
}

TEST(rpc_peer, another_exception_arrives_as_its_words) {
  two_peers p;
  const outcome got = run(p.io, call(*p.here, handlers::crash, ""));
  EXPECT_EQ(got.status.code(), errc::remote_failure);
  EXPECT_EQ(got.status.remote_code(), 0u);
  EXPECT_EQ(got.status.text(), "out of luck");
  EXPECT_TRUE(run(p.io, call(*p.here, handlers::echo, "still works")).status.ok());
}

TEST(rpc_peer, a_method_that_nobody_serves_is_named_unknown) {
  two_peers p;
  EXPECT_EQ(run(p.io, call(*p.here, 999, "")).status.code(), errc::unknown_method);
  EXPECT_EQ(run(p.io, call(*p.here, handlers::count, "1")).status.code(), errc::unknown_method) << "a stream";
  stream_type stream = run(p.io, p.here->open_stream(handlers::echo, {}));
  EXPECT_FALSE(run(p.io, stream.next()));
  EXPECT_EQ(stream.status().code(), errc::unknown_method) << "no stream";
}

TEST(rpc_peer, a_result_too_large_for_a_frame_fails_its_call_only) {
  channel_options channels = roomy_channel();
  channels.max_frame_bytes = 50'000;
  two_peers p(rpc_options(), channels);
  const outcome got = run(p.io, call(*p.here, handlers::large, ""));
  EXPECT_EQ(got.status.code(), errc::remote_failure);
  EXPECT_NE(got.status.text().find("size limit"), std::string::npos);
  EXPECT_TRUE(run(p.io, call(*p.here, handlers::echo, "still works")).status.ok());
}

TEST(rpc_peer, arguments_too_large_for_a_frame_fail_their_call_only) {
  channel_options channels = roomy_channel();
  channels.max_frame_bytes = 50'000;
  two_peers p(rpc_options(), channels);
  const outcome got = run(p.io, call(*p.here, handlers::echo, std::string(60'000, 'x')));
  EXPECT_EQ(got.status.code(), errc::frame_too_large);
  EXPECT_FALSE(got.status.outcome_unknown());
  EXPECT_TRUE(run(p.io, call(*p.here, handlers::echo, "still works")).status.ok());
}

TEST(rpc_peer, calls_beyond_the_limit_are_refused_here) {
  rpc_options options;
  options.max_calls = 2;
  two_peers p(options);
  auto first = start(p.io, call(*p.here, handlers::hold, ""));
  auto second = start(p.io, call(*p.here, handlers::hold, ""));
  test::poll(p.io);
  const outcome third = run(p.io, call(*p.here, handlers::hold, ""));
  EXPECT_EQ(third.status.code(), errc::overloaded);
  EXPECT_FALSE(third.status.outcome_unknown());
}

TEST(rpc_peer, requests_beyond_the_limit_are_refused_there) {
  rpc_options options;
  options.max_requests = 2;
  two_peers p(options);
  auto first = start(p.io, call(*p.here, handlers::hold, ""));
  auto second = start(p.io, call(*p.here, handlers::hold, ""));
  test::poll(p.io);
  EXPECT_EQ(run(p.io, call(*p.here, handlers::hold, "")).status.code(), errc::overloaded);
  EXPECT_EQ(p.there_serves.begun, 2);
  p.there_serves.held.notify_all();
  EXPECT_TRUE(test::run_until(p.io, [&] { return first.done() && second.done(); }));
  EXPECT_TRUE(run(p.io, call(*p.here, handlers::echo, "room again")).status.ok());
}

// --- Deadlines ---

TEST(rpc_peer, a_call_without_an_answer_in_time_ends_and_its_handler_is_stopped) {
  two_peers p;
  auto calling = start(p.io, call(*p.here, handlers::hold, "", 100ms));
  ASSERT_TRUE(test::run_until(p.io, [&] { return p.there_serves.begun == 1; }));
  EXPECT_EQ(p.there_serves.deadline, p.env.now() + 100ms);
  p.env.advance(99ms);
  test::poll(p.io);
  EXPECT_FALSE(calling.done());
  p.env.advance(1ms);
  ASSERT_TRUE(test::run_until(p.io, [&] { return calling.done() && p.there_serves.cancelled == 1; }));
  const outcome got = calling.result();
  EXPECT_EQ(got.status.code(), errc::timed_out);
  EXPECT_TRUE(got.status.outcome_unknown());
  EXPECT_TRUE(run(p.io, call(*p.here, handlers::echo, "still works")).status.ok());
}

TEST(rpc_peer, deadlines_of_many_calls_are_kept_by_one_timer) {
  two_peers p;
  std::vector<test::started<outcome>> calls;
  for (const int ms : {50, 10, 30, 20, 40}) {
    calls.push_back(start(p.io, call(*p.here, handlers::hold, "", std::chrono::milliseconds(ms))));
  }
  test::poll(p.io);
  EXPECT_EQ(p.env.armed_timers(), 1u);
  for (int ms = 10; ms <= 50; ms += 10) {
    p.env.advance(10ms);
    test::poll(p.io);
    EXPECT_EQ(p.here->calls_under_way(), static_cast<std::size_t>(5 - ms / 10));
  }
}

TEST(rpc_peer, an_answer_after_the_deadline_is_ignored) {
  two_peers p;
  auto calling = start(p.io, call(*p.here, handlers::hold, "late", 100ms));
  ASSERT_TRUE(test::run_until(p.io, [&] { return p.there_serves.begun == 1; }));
  p.there_serves.held.notify_all();  // the answer is on its way
  p.env.advance(100ms);
  ASSERT_TRUE(test::run_until(p.io, [&] { return calling.done(); }));
  for (int i = 0; i < 10; ++i) {
    EXPECT_EQ(run(p.io, call(*p.here, handlers::echo, std::to_string(i))).result, std::to_string(i));
  }
}

TEST(rpc_peer, a_call_that_never_left_a_blocked_connection_ends_in_time_and_is_known_not_to_have_begun) {
  asio::io_context io(1);
  manual env(io.get_executor());
  handlers none(io);
  auto [stream, silent] = test::stream_and_raw_peer(io, small_buffer);
  peer_type here(basic_channel<manual>(env, std::move(stream), roomy_channel()), none.service);
  auto running = start(io, here.run());
  auto first = start(io, call(here, handlers::echo, std::string(500'000, 'x'), 100ms));
  auto second = start(io, call(here, handlers::echo, std::string(500'000, 'y'), 100ms));
  test::poll(io);
  env.advance(100ms);
  test::poll(io);
  ASSERT_TRUE(first.done() && second.done());
  EXPECT_EQ(first.result().status.code(), errc::timed_out);
  EXPECT_TRUE(first.result().status.outcome_unknown()) << "a part of it had left";
  EXPECT_EQ(second.result().status.code(), errc::timed_out);
  EXPECT_FALSE(second.result().status.outcome_unknown());
  here.abort();
  EXPECT_TRUE(test::run_until(io, [&] { return running.done(); }));
}

// --- Cancellation ---

TEST(rpc_peer, a_cancelled_call_stops_its_handler) {
  two_peers p;
  auto calling = start(p.io, call(*p.here, handlers::hold, ""));
  ASSERT_TRUE(test::run_until(p.io, [&] { return p.there_serves.begun == 1; }));
  calling.cancel();
  ASSERT_TRUE(test::run_until(p.io, [&] { return p.there_serves.cancelled == 1; }));
  EXPECT_EQ(calling.error(), asio::error::operation_aborted);
  EXPECT_EQ(p.here->calls_under_way(), 0u);
  EXPECT_TRUE(run(p.io, call(*p.here, handlers::echo, "still works")).status.ok());
}

TEST(rpc_peer, cancelling_run_ends_calls_and_joins_handlers) {
  two_peers p;
  auto calling = start(p.io, call(*p.there, handlers::hold, ""));
  auto called = start(p.io, call(*p.here, handlers::hold, ""));
  ASSERT_TRUE(test::run_until(p.io, [&] { return p.here_serves.begun == 1 && p.there_serves.begun == 1; }));
  p.here_runs.cancel();
  ASSERT_TRUE(test::run_until(p.io, [&] { return p.here_runs.done(); }));
  EXPECT_EQ(p.here_runs.error(), asio::error::operation_aborted);
  EXPECT_EQ(p.here_serves.cancelled, 1);
  ASSERT_TRUE(test::run_until(p.io, [&] { return called.done() && calling.done() && p.there_runs.done(); }));
  EXPECT_EQ(called.result().status.code(), errc::closed);
  EXPECT_EQ(p.there_serves.cancelled, 1);
}

// --- The connection's end ---

TEST(rpc_peer, the_connections_end_ends_every_call_with_an_unknown_outcome) {
  two_peers p;
  auto unary = start(p.io, call(*p.here, handlers::hold, ""));
  stream_type stream = run(p.io, p.here->open_stream(handlers::endless, as_bytes("10")));
  auto reading = start(p.io, read_all(stream));
  ASSERT_TRUE(test::run_until(p.io, [&] { return p.there_serves.begun == 1 && p.there_serves.written > 0; }));
  p.there->abort();
  ASSERT_TRUE(test::run_until(p.io, [&] { return unary.done() && reading.done() && p.here_runs.done(); }));
  const rpc_status status = unary.result().status;
  EXPECT_EQ(status.code(), errc::closed);
  EXPECT_TRUE(status.outcome_unknown());
  EXPECT_EQ(stream.status().code(), errc::closed);
  EXPECT_GT(reading.result().size(), 0u) << "what arrived before was read";
  const outcome later = run(p.io, call(*p.here, handlers::echo, ""));
  EXPECT_EQ(later.status.code(), errc::closed);
  EXPECT_FALSE(later.status.outcome_unknown()) << "never sent";
  EXPECT_FALSE(p.here->is_open());
}

// The caller was told that its arguments were too large, and that nothing of them had been sent.
TEST(rpc_peer, a_frame_too_large_from_the_peer_ends_calls_as_any_end_of_the_connection_does) {
  asio::io_context io(1);
  manual env(io.get_executor());
  handlers none(io);
  auto [stream, nonsense] = test::stream_and_raw_peer(io, small_buffer);
  peer_type here(basic_channel<manual>(env, std::move(stream), roomy_channel()), none.service);
  auto running = start(io, here.run());
  auto first = start(io, call(here, handlers::echo, std::string(500'000, 'x')));
  auto second = start(io, call(here, handlers::echo, std::string(500'000, 'y')));
  test::poll(io);
  nonsense.send(std::string(frame_header_bytes, '\xff'));
  ASSERT_TRUE(test::run_until(io, [&] { return running.done() && first.done() && second.done(); }));
  EXPECT_EQ(running.error(), errc::frame_too_large);
  EXPECT_EQ(first.result().status.code(), errc::closed);
  EXPECT_TRUE(first.result().status.outcome_unknown()) << "a part of it had left";
  EXPECT_EQ(second.result().status.code(), errc::closed);
  EXPECT_FALSE(second.result().status.outcome_unknown());
}

TEST(rpc_peer, a_peer_that_ends_between_frames_is_no_error) {
  two_peers p;
  auto closing = start(p.io, p.there->close());
  ASSERT_TRUE(test::run_until(p.io, [&] { return closing.done() && p.here_runs.done(); }));
  EXPECT_FALSE(p.here_runs.failed());
  EXPECT_FALSE(p.there_runs.failed());
}

TEST(rpc_peer, closing_lets_calls_and_handlers_finish_and_begins_nothing_new) {
  two_peers p;
  auto outgoing = start(p.io, call(*p.here, handlers::hold, "out"));
  auto incoming = start(p.io, call(*p.there, handlers::hold, "in"));
  ASSERT_TRUE(test::run_until(p.io, [&] { return p.here_serves.begun == 1 && p.there_serves.begun == 1; }));
  auto closing = start(p.io, p.here->close());
  test::poll(p.io);
  EXPECT_FALSE(closing.done());
  EXPECT_FALSE(p.here->is_open());
  EXPECT_FALSE(p.there->is_open()) << "it was told goodbye";
  for (auto* const side : {p.here.get(), p.there.get()}) {
    const outcome refused = run(p.io, call(*side, handlers::echo, ""));
    EXPECT_EQ(refused.status.code(), errc::closed);
    EXPECT_FALSE(refused.status.outcome_unknown());
  }
  p.here_serves.held.notify_all();
  p.there_serves.held.notify_all();
  ASSERT_TRUE(test::run_until(p.io, [&] { return closing.done() && outgoing.done() && incoming.done(); }));
  EXPECT_EQ(outgoing.result().result, "out");
  EXPECT_EQ(incoming.result().result, "in");
  ASSERT_TRUE(test::run_until(p.io, [&] { return p.here_runs.done() && p.there_runs.done(); }));
  EXPECT_FALSE(p.here_runs.failed() || p.there_runs.failed());
}

TEST(rpc_peer, a_request_that_crosses_the_goodbye_is_refused_as_not_begun) {
  two_peers p;
  auto closing = start(p.io, p.here->close());
  auto calling = start(p.io, call(*p.there, handlers::echo, "crossing"));
  ASSERT_TRUE(test::run_until(p.io, [&] { return closing.done() && calling.done(); }));
  EXPECT_EQ(calling.result().status.code(), errc::closed);
  EXPECT_FALSE(calling.result().status.outcome_unknown());
}

TEST(rpc_peer, closing_waits_for_handlers_no_longer_than_allowed) {
  two_peers p;
  auto incoming = start(p.io, call(*p.there, handlers::hold, ""));
  ASSERT_TRUE(test::run_until(p.io, [&] { return p.here_serves.begun == 1; }));
  auto closing = start(p.io, p.here->close());
  test::poll(p.io);
  p.env.advance(rpc_options().drain_timeout);
  ASSERT_TRUE(test::run_until(p.io, [&] { return closing.done() && incoming.done(); }));
  EXPECT_EQ(p.here_serves.cancelled, 1);
  EXPECT_TRUE(incoming.result().status.outcome_unknown());
}

TEST(rpc_peer, closing_ends_streams_at_once) {
  two_peers p;
  stream_type outgoing = run(p.io, p.here->open_stream(handlers::endless, as_bytes("10")));
  stream_type incoming = run(p.io, p.there->open_stream(handlers::endless, as_bytes("10")));
  ASSERT_TRUE(test::run_until(p.io, [&] { return p.there_serves.written > 0 && p.here_serves.written > 0; }));
  auto reading = start(p.io, read_all(incoming));
  run(p.io, p.here->close());
  ASSERT_TRUE(test::run_until(p.io, [&] { return reading.done() && p.there_serves.cancelled == 1; }));
  EXPECT_EQ(p.here_serves.cancelled, 1);
  EXPECT_EQ(incoming.status().code(), errc::closed);
  EXPECT_EQ(outgoing.status().code(), errc::closed);
}

TEST(rpc_peer, close_when_cancelled_does_not_wait) {
  two_peers p;
  auto incoming = start(p.io, call(*p.there, handlers::hold, ""));
  ASSERT_TRUE(test::run_until(p.io, [&] { return p.here_serves.begun == 1; }));
  auto closing = start(p.io, p.here->close());
  test::poll(p.io);
  closing.cancel();
  ASSERT_TRUE(test::run_until(p.io, [&] { return closing.done() && p.here_runs.done() && incoming.done(); }));
  EXPECT_FALSE(closing.failed());
}

TEST(rpc_peer, can_be_closed_often_and_at_once_and_after_the_end) {
  two_peers p;
  auto first = start(p.io, p.here->close());
  auto second = start(p.io, p.here->close());
  ASSERT_TRUE(test::run_until(p.io, [&] { return first.done() && second.done(); }));
  run(p.io, p.here->close());
  run(p.io, p.there->close());
}

TEST(rpc_peer, a_destroyed_peer_ends_its_calls) {
  two_peers p;
  auto calling = start(p.io, call(*p.here, handlers::hold, ""));
  ASSERT_TRUE(test::run_until(p.io, [&] { return p.there_serves.begun == 1; }));
  p.here->abort();
  ASSERT_TRUE(test::run_until(p.io, [&] { return calling.done(); }));
  EXPECT_EQ(calling.result().status.code(), errc::closed);
}

// --- Streams ---

TEST(rpc_stream, brings_all_items_in_order_and_ends) {
  two_peers p;
  stream_type stream = run(p.io, p.here->open_stream(handlers::count, as_bytes("10000")));
  EXPECT_EQ(run(p.io, read_all(stream)), numbers_below(10000));
  EXPECT_TRUE(stream.status().ok());
  EXPECT_EQ(p.here->calls_under_way(), 0u);
  EXPECT_FALSE(run(p.io, stream.next())) << "it stays ended";
}

TEST(rpc_stream, may_be_empty) {
  two_peers p;
  stream_type stream = run(p.io, p.here->open_stream(handlers::count, as_bytes("0")));
  EXPECT_TRUE(run(p.io, read_all(stream)).empty());
  EXPECT_TRUE(stream.status().ok());
}

TEST(rpc_stream, runs_ahead_of_its_reader_no_further_than_the_window) {
  rpc_options options;
  options.stream_window_bytes = 10'000;
  two_peers p(options);
  stream_type stream = run(p.io, p.here->open_stream(handlers::endless, as_bytes("76")));
  test::poll(p.io);
  EXPECT_EQ(p.there_serves.written, 100);
  for (int i = 0; i < 1000; ++i) {
    ASSERT_TRUE(run(p.io, stream.next()));
    test::poll(p.io);
    ASSERT_LE(p.there_serves.written, i + 1 + 100);
  }
  EXPECT_GT(p.there_serves.written, 1000);
}

TEST(rpc_stream, an_item_larger_than_the_window_comes_alone) {
  rpc_options options;
  options.stream_window_bytes = 100;
  two_peers p(options);
  stream_type stream = run(p.io, p.here->open_stream(handlers::endless, as_bytes("5000")));
  for (int i = 0; i < 10; ++i) {
    test::poll(p.io);
    EXPECT_LE(p.there_serves.written, i + 1);
    EXPECT_EQ(run(p.io, stream.next())->size(), 5000u);
  }
}

TEST(rpc_stream, an_item_stays_valid_while_more_arrive) {
  two_peers p;
  stream_type stream = run(p.io, p.here->open_stream(handlers::count, as_bytes("1000")));
  const auto first = run(p.io, stream.next());
  ASSERT_TRUE(first);
  test::poll(p.io);
  EXPECT_EQ(as_text(*first), "0");
}

TEST(rpc_stream, a_handlers_error_comes_after_the_items_before_it) {
  two_peers p;
  stream_type stream = run(p.io, p.here->open_stream(handlers::broken_stream, {}));
  EXPECT_EQ(run(p.io, read_all(stream)), std::vector<std::string>{"first"});
  EXPECT_EQ(stream.status().code(), errc::remote_failure);
  EXPECT_EQ(stream.status().remote_code(), 5u);
  EXPECT_EQ(stream.status().text(), "the rest is lost");
}

TEST(rpc_stream, a_reader_that_goes_stops_the_handler) {
  two_peers p;
  {
    stream_type stream = run(p.io, p.here->open_stream(handlers::endless, as_bytes("10")));
    EXPECT_TRUE(run(p.io, stream.next()));
  }
  ASSERT_TRUE(test::run_until(p.io, [&] { return p.there_serves.cancelled == 1; }));
  EXPECT_EQ(p.here->calls_under_way(), 0u);
  EXPECT_TRUE(run(p.io, call(*p.here, handlers::echo, "still works")).status.ok());
}

TEST(rpc_stream, ends_at_its_deadline) {
  two_peers p;
  stream_type stream = run(p.io, p.here->open_stream(handlers::endless, as_bytes("10"), 100ms));
  test::poll(p.io);
  p.env.advance(100ms);
  test::poll(p.io);
  EXPECT_GT(run(p.io, read_all(stream)).size(), 0u);
  EXPECT_EQ(stream.status().code(), errc::timed_out);
  EXPECT_EQ(p.there_serves.cancelled, 1);
}

TEST(rpc_stream, a_slow_reader_does_not_hold_up_calls) {
  rpc_options options;
  options.stream_window_bytes = 1000;
  two_peers p(options);
  stream_type stream = run(p.io, p.here->open_stream(handlers::endless, as_bytes("100")));
  test::poll(p.io);
  EXPECT_TRUE(run(p.io, call(*p.here, handlers::echo, "passes by")).status.ok());
}

// --- Peers that misbehave, and queues that are full ---

/// A peer against frames of the test's choice.
struct against_frames {
  explicit against_frames(const channel_options& channels = roomy_channel(), int buffer_bytes = 0)
      : against_frames(channels, test::connected_sockets(buffer_bytes)) {}
  against_frames(const channel_options& channels, std::pair<int, int> sockets)
      : here(basic_channel<manual>(env, test::adopt(io, sockets.first), channels), serves.service),
        there(env, test::adopt(io, sockets.second), channels),
        running(start(io, here.run())) {}
  ~against_frames() {
    here.abort();
    there.abort();
    EXPECT_TRUE(test::run_until(io, [this] { return running.done(); }));
  }

  void send(rpc_kind kind, std::uint64_t id, const std::string& payload) {
    ASSERT_TRUE(there.try_send(static_cast<std::uint8_t>(kind), id, as_bytes(payload)));
    test::poll(io);
  }

  void request(std::uint64_t id, std::uint32_t method, std::uint32_t credit = 0, const std::string& arguments = "") {
    rpc_request_message message;
    message.method = method;
    message.credit = credit;
    send(rpc_kind::request, id, std::string(as_text(message.encode_prefix())) + arguments);
  }

  asio::io_context io{1};
  manual env{io.get_executor()};
  handlers serves{io};
  peer_type here;
  basic_channel<manual> there;
  test::started<void> running;
};

constexpr std::uint64_t id_of(std::uint64_t generation, std::uint64_t slot) { return generation * rpc_slots + slot; }

TEST(rpc_peer, messages_that_nobody_sends_end_the_connection) {
  const std::vector<std::pair<rpc_kind, std::string>> nonsense = {
      {rpc_kind::request, "short"},
      {rpc_kind::reply, "to a call that was never made"},
      {rpc_kind::failure, std::string(8, '\0')},
      {rpc_kind::item, "of no stream"},
      {rpc_kind::end, ""},
      {rpc_kind::cancel, "with a payload"},
      {rpc_kind::credit, "?"},
      {static_cast<rpc_kind>(99), ""},
  };
  for (const auto& [kind, payload] : nonsense) {
    against_frames p;
    p.send(kind, id_of(1, 0), payload);
    ASSERT_TRUE(test::run_until(p.io, [&p = p] { return p.running.done(); })) << static_cast<int>(kind);
    EXPECT_EQ(p.running.error(), errc::malformed) << static_cast<int>(kind);
  }
}

TEST(rpc_peer, items_beyond_the_credit_end_the_connection) {
  against_frames p;
  stream_type stream = run(p.io, p.here.open_stream(1, {}));
  const frame_view request = run(p.io, p.there.receive());
  const std::uint64_t id = request.id;
  p.send(rpc_kind::item, id, std::string(rpc_options().stream_window_bytes, 'x'));
  EXPECT_FALSE(p.running.done());
  p.send(rpc_kind::item, id, "one too many");
  ASSERT_TRUE(test::run_until(p.io, [&] { return p.running.done(); }));
  EXPECT_EQ(p.running.error(), errc::malformed);
}

TEST(rpc_stream, a_cancelled_next_loses_no_item) {
  against_frames p;
  stream_type stream = run(p.io, p.here.open_stream(1, {}));
  const std::uint64_t id = run(p.io, p.there.receive()).id;
  auto reading = start(p.io, stream.next());
  test::poll(p.io);
  reading.cancel();
  p.send(rpc_kind::item, id, "0");
  EXPECT_EQ(reading.error(), asio::error::operation_aborted);
  p.send(rpc_kind::item, id, "1");
  p.send(rpc_kind::end, id, "");
  EXPECT_EQ(run(p.io, read_all(stream)), numbers_below(2));
  EXPECT_TRUE(stream.status().ok());
}

TEST(rpc_peer, a_request_id_that_is_served_already_ends_the_connection) {
  against_frames p;
  p.request(id_of(3, 0), handlers::hold);
  p.request(id_of(3, 0), handlers::hold);
  ASSERT_TRUE(test::run_until(p.io, [&] { return p.running.done(); }));
  EXPECT_EQ(p.running.error(), errc::malformed);
}

TEST(rpc_peer, a_later_request_in_the_slot_of_another_stops_that) {
  against_frames p;
  p.request(id_of(3, 0), handlers::hold);
  p.request(id_of(4, 0), handlers::echo, 0, "later");
  ASSERT_TRUE(test::run_until(p.io, [&] { return p.serves.cancelled == 1; }));
  const frame_view reply = run(p.io, p.there.receive());
  EXPECT_EQ(reply.id, id_of(4, 0));
  EXPECT_EQ(as_text(reply.payload), "later");
}

TEST(rpc_peer, refusals_that_find_the_queue_full_are_sent_when_there_is_room) {
  channel_options channels = roomy_channel();
  channels.send_queue_bytes = 1000;
  against_frames p(channels, small_buffer);
  constexpr std::size_t requests = 5000;
  for (std::size_t i = 0; i < requests; ++i) {
    rpc_request_message message;
    message.method = 999;
    const auto prefix = message.encode_prefix();
    while (!p.there.try_send(static_cast<std::uint8_t>(rpc_kind::request), id_of(1, i), prefix)) test::poll(p.io);
  }
  test::poll(p.io);
  for (std::size_t i = 0; i < requests; ++i) {
    const frame_view refusal = run(p.io, p.there.receive());
    ASSERT_EQ(refusal.kind, static_cast<std::uint8_t>(rpc_kind::failure));
    ASSERT_EQ(refusal.id, id_of(1, i));
    ASSERT_EQ(rpc_failure_message::decode(refusal.payload)->cause, rpc_cause::unknown_method);
  }
}

TEST(rpc_peer, a_cancel_for_a_request_that_is_over_is_ignored) {
  against_frames p;
  p.request(id_of(1, 0), handlers::echo, 0, "x");
  p.send(rpc_kind::cancel, id_of(1, 0), "");
  p.send(rpc_kind::credit, id_of(1, 0), std::string("\x01\x00\x00\x00", 4));
  EXPECT_EQ(run(p.io, p.there.receive()).kind, static_cast<std::uint8_t>(rpc_kind::reply));
  EXPECT_FALSE(p.running.done());
}

// --- The end of the context ---

awaitable<void> own_and_run(real::env& env, real::stream stream, const rpc_service& service) {
  rpc_peer owned(channel(env, std::move(stream), channel_options()), service);
  co_await owned.run();
}

awaitable<void> own_and_call(real::env& env, real::stream stream, const rpc_service& service) {
  rpc_peer owned(channel(env, std::move(stream), channel_options()), service);
  auto running = start(env.get_executor(), owned.run());
  byte_buffer result;
  (void)co_await owned.call(handlers::hold, {}, result, std::chrono::hours(1));
}

TEST(rpc_peer, the_end_of_the_context_leaves_nothing) {
  auto io = std::make_unique<asio::io_context>(1);
  auto served = std::make_unique<handlers>(*io);
  auto env = std::make_unique<real::env>(io->get_executor());
  auto [ours, theirs] = test::connected_streams(*io);
  asio::co_spawn(*io, own_and_run(*env, std::move(ours), served->service), asio::detached);
  asio::co_spawn(*io, own_and_call(*env, std::move(theirs), served->service), asio::detached);
  ASSERT_TRUE(test::run_until(*io, [&] { return served->begun == 1; }));
  served.reset();  // what a handler waits for goes before what it serves
  io.reset();
}

}  // namespace
}  // namespace lockstep
