#include "lockstep/frame/channel.hpp"

#include "manual_time_env.hpp"
#include "run.hpp"
#include "streams.hpp"

#include <gtest/gtest.h>
#include <asio/io_context.hpp>

#include <memory>
#include <optional>
#include <string>
#include <utility>

namespace lockstep {
namespace {

using manual = test::manual_time_env;
using test::run;
using test::start;

constexpr int small_buffer = 4096;

/// A channel on manual time, whose peer does what the test says.
struct scene {
  explicit scene(int buffer_bytes = 0) : scene(test::connected_sockets(buffer_bytes)) {}
  explicit scene(std::pair<int, int> sockets)
      : here(std::make_unique<basic_channel<manual>>(env, test::adopt(io, sockets.first), channel_options())),
        peer(sockets.second) {}

  asio::io_context io{1};
  manual env{io.get_executor()};
  std::unique_ptr<basic_channel<manual>> here;
  test::raw_peer peer;
};

awaitable<void> send_bytes(basic_channel<manual>& to, std::size_t bytes) {
  const std::string payload(bytes, 'x');
  co_await to.send(1, 1, as_bytes(payload));
}

TEST(frame_closing, what_was_queued_is_sent_and_the_peers_end_is_awaited) {
  scene s(small_buffer);
  EXPECT_TRUE(s.here->try_send(1, 1, as_bytes(std::string(200'000, 'x'))));
  auto closing = start(s.io, s.here->close());
  std::size_t received = 0;
  for (int i = 0; i < 10'000 && !s.peer.sees_end(); ++i) {
    received += s.peer.receive().size();
    test::poll(s.io);
  }
  EXPECT_EQ(received, frame_header_bytes + 200'000);
  EXPECT_FALSE(closing.done());
  s.peer.close();
  EXPECT_TRUE(test::run_until(s.io, [&] { return closing.done(); }));
  EXPECT_FALSE(closing.failed());
  EXPECT_EQ(s.env.armed_timers(), 0u);
}

TEST(frame_closing, a_sender_that_waits_is_let_out_before_the_end) {
  scene s(small_buffer);
  auto sending = start(s.io, send_bytes(*s.here, 200'000));
  test::poll(s.io);
  auto closing = start(s.io, s.here->close());
  std::size_t received = 0;
  for (int i = 0; i < 10'000 && !s.peer.sees_end(); ++i) {
    received += s.peer.receive().size();
    test::poll(s.io);
  }
  EXPECT_EQ(received, frame_header_bytes + 200'000);
  EXPECT_TRUE(sending.done() && !sending.failed());
  s.peer.close();
  EXPECT_TRUE(test::run_until(s.io, [&] { return closing.done(); }));
}

TEST(frame_closing, a_peer_that_neither_reads_nor_ends_is_left_at_the_timeout) {
  scene s(small_buffer);
  auto sending = start(s.io, send_bytes(*s.here, 200'000));
  test::poll(s.io);
  auto closing = start(s.io, s.here->close());
  test::poll(s.io);
  EXPECT_FALSE(closing.done());
  s.env.advance(s.here->options().close_timeout);
  test::poll(s.io);
  ASSERT_TRUE(closing.done());
  EXPECT_FALSE(closing.failed());
  EXPECT_EQ(sending.error(), errc::closed);
}

TEST(frame_closing, a_receive_that_waits_ends_at_once_and_new_operations_are_refused) {
  scene s;
  auto receiving = start(s.io, s.here->receive());
  test::poll(s.io);
  auto closing = start(s.io, s.here->close());
  test::poll(s.io);
  EXPECT_EQ(receiving.error(), errc::closed);
  EXPECT_FALSE(s.here->is_open());
  EXPECT_EQ(test::error_of([&] { run(s.io, s.here->receive()); }), errc::closed);
  EXPECT_EQ(test::error_of([&] { run(s.io, s.here->receive_batch()); }), errc::closed);
  EXPECT_EQ(test::error_of([&] { run(s.io, s.here->send(1, 1, as_bytes("x"))); }), errc::closed);
  EXPECT_EQ(test::error_of([&] { run(s.io, s.here->flush()); }), errc::closed);
  EXPECT_FALSE(s.here->try_send(1, 1, as_bytes("x")));
  s.peer.close();
  EXPECT_TRUE(test::run_until(s.io, [&] { return closing.done(); }));
}

TEST(frame_closing, what_still_arrives_is_discarded) {
  scene s;
  auto closing = start(s.io, s.here->close());
  for (int i = 0; i < 100; ++i) {
    s.peer.send(std::string(10'000, '?'));
    test::poll(s.io);
  }
  s.peer.close();
  EXPECT_TRUE(test::run_until(s.io, [&] { return closing.done(); }));
  EXPECT_FALSE(closing.failed());
}

// What arrived after close() was read over the frame that somebody still used.
TEST(frame_closing, a_frame_that_was_received_before_stays_as_it_is) {
  scene s;
  std::string bytes(frame_header_bytes, '\0');
  encode_frame_header(reinterpret_cast<std::byte*>(bytes.data()), {1, 0, 1}, 4, xxh3_64(as_bytes("kept")));
  s.peer.send(bytes + "kept");
  const frame_view frame = run(s.io, s.here->receive());
  auto closing = start(s.io, s.here->close());
  for (int i = 0; i < 10; ++i) {
    s.peer.send(std::string(1000, '?'));
    test::poll(s.io);
  }
  s.peer.close();
  ASSERT_TRUE(test::run_until(s.io, [&] { return closing.done(); }));
  EXPECT_EQ(as_text(frame.payload), "kept");
}

TEST(frame_closing, can_be_asked_for_often_and_at_once) {
  scene s;
  auto first = start(s.io, s.here->close());
  auto second = start(s.io, s.here->close());
  test::poll(s.io);
  EXPECT_FALSE(first.done() || second.done());
  s.peer.close();
  EXPECT_TRUE(test::run_until(s.io, [&] { return first.done() && second.done(); }));
  run(s.io, s.here->close());
}

TEST(frame_closing, when_cancelled_closes_at_once) {
  scene s(small_buffer);
  EXPECT_TRUE(s.here->try_send(1, 1, as_bytes(std::string(200'000, 'x'))));
  auto closing = start(s.io, s.here->close());
  test::poll(s.io);
  closing.cancel();
  test::poll(s.io);
  ASSERT_TRUE(closing.done());
  EXPECT_FALSE(closing.failed());

  scene waiting_for_the_peer;
  auto second = start(waiting_for_the_peer.io, waiting_for_the_peer.here->close());
  test::poll(waiting_for_the_peer.io);
  second.cancel();
  test::poll(waiting_for_the_peer.io);
  EXPECT_TRUE(second.done());
  EXPECT_FALSE(second.failed());
}

TEST(frame_closing, both_sides_may_close_at_the_same_time) {
  asio::io_context io(1);
  real::env env(io.get_executor());
  auto [ours, theirs] = test::connected_streams(io);
  channel here(env, std::move(ours), channel_options());
  channel there(env, std::move(theirs), channel_options());
  EXPECT_TRUE(here.try_send(1, 1, as_bytes("crossing")));
  EXPECT_TRUE(there.try_send(1, 1, as_bytes("crossing")));
  auto first = start(io, here.close());
  run(io, there.close());
  EXPECT_TRUE(test::run_until(io, [&] { return first.done(); }));
}

TEST(frame_closing, works_after_any_end) {
  for (const char* const end :
       {"the peer closed", "bytes were corrupt", "abort", "a write failed", "handshake failed"}) {
    SCOPED_TRACE(end);
    scene s;
    switch (end[0]) {
      case 't':
        s.peer.close();
        EXPECT_EQ(test::error_of([&] { run(s.io, s.here->receive()); }), asio::error::eof);
        break;
      case 'b':
        s.peer.send(std::string(1000, '\xff'));
        EXPECT_EQ(test::error_of([&] { run(s.io, s.here->receive()); }), errc::frame_too_large);
        break;
      case 'a': s.here->abort(); break;
      case 'h':
        s.peer.send("not a hello");
        s.peer.end_sending();
        EXPECT_EQ(test::error_of([&] { run(s.io, s.here->handshake()); }), errc::not_lockstep);
        break;
      default:
        s.peer.close();
        (void)s.here->try_send(1, 1, as_bytes("x"));
        break;
    }
    run(s.io, s.here->close());
    EXPECT_FALSE(s.here->is_open());
    EXPECT_EQ(test::error_of([&] { run(s.io, s.here->send(1, 1, as_bytes("x"))); }).default_error_condition() ==
                  std::error_condition(),
              false);
  }
}

TEST(frame_closing, abort_ends_everything_under_way) {
  scene s(small_buffer);
  auto receiving = start(s.io, s.here->receive());
  auto sending = start(s.io, send_bytes(*s.here, 200'000));
  auto flushing = start(s.io, s.here->flush());
  test::poll(s.io);
  s.here->abort();
  test::poll(s.io);
  EXPECT_EQ(receiving.error(), errc::closed);
  EXPECT_EQ(sending.error(), errc::closed);
  EXPECT_EQ(flushing.error(), errc::closed);
}

TEST(frame_closing, abort_during_close_ends_it) {
  scene s;
  auto closing = start(s.io, s.here->close());
  test::poll(s.io);
  s.here->abort();
  test::poll(s.io);
  EXPECT_TRUE(closing.done());
  EXPECT_FALSE(closing.failed());
}

TEST(frame_closing, a_destroyed_channel_ends_everything_under_way_and_leaves_nothing) {
  scene s(small_buffer);
  auto receiving = start(s.io, s.here->receive());
  auto sending = start(s.io, send_bytes(*s.here, 200'000));
  auto waiting = start(s.io, send_bytes(*s.here, 10));
  test::poll(s.io);
  s.here.reset();
  test::poll(s.io);
  EXPECT_EQ(receiving.error(), errc::closed);
  EXPECT_EQ(sending.error(), errc::closed);
  EXPECT_EQ(waiting.error(), errc::closed);
  EXPECT_EQ(test::poll(s.io), 0u);
  EXPECT_TRUE(s.peer.receive().size() > 0);
  EXPECT_TRUE(s.peer.sees_end());
}

TEST(frame_closing, a_channel_can_be_destroyed_during_its_handshake) {
  scene s;
  auto shaking = start(s.io, s.here->handshake());
  test::poll(s.io);
  s.here.reset();
  test::poll(s.io);
  EXPECT_EQ(shaking.error(), errc::closed);
}

TEST(frame_closing, a_channel_can_be_destroyed_by_its_own_receiver) {
  scene s;
  auto receive_and_destroy = [](std::unique_ptr<basic_channel<manual>>& whose) -> awaitable<void> {
    const frame_view frame = co_await whose->receive();
    (void)whose->try_send(frame.kind, frame.id, frame.payload);
    whose.reset();
  };
  auto receiving = start(s.io, receive_and_destroy(s.here));
  std::string frame(frame_header_bytes, '\0');
  encode_frame_header(reinterpret_cast<std::byte*>(frame.data()), {1, 0, 1}, 0, xxh3_64(bytes_view()));
  s.peer.send(frame);
  EXPECT_TRUE(test::run_until(s.io, [&] { return receiving.done(); }));
  EXPECT_FALSE(receiving.failed());
}

TEST(frame_closing, assigning_a_channel_ends_the_one_before) {
  scene s;
  auto receiving = start(s.io, s.here->receive());
  test::poll(s.io);
  auto [ours, theirs] = test::connected_streams(s.io);
  *s.here = basic_channel<manual>(s.env, std::move(ours), channel_options());
  test::poll(s.io);
  EXPECT_EQ(receiving.error(), errc::closed);
  EXPECT_TRUE(s.here->is_open());
}

// The end of an io_context destroys the frames of its coroutines, and with them whatever they own. Leak checkers see
// what nobody destroyed.

template <class Start>
void end_context_during(Start begin) {
  auto io = std::make_unique<asio::io_context>(1);
  auto env = std::make_unique<real::env>(io->get_executor());
  const auto [ours, theirs] = test::connected_sockets(small_buffer);
  const test::raw_peer peer(theirs);
  begin(*io, *env, test::adopt(*io, ours));
  test::poll(*io);
  io.reset();
}

awaitable<void> own_and_shake(real::env& env, real::stream stream) {
  channel owned(env, std::move(stream), channel_options());
  (void)co_await owned.handshake();
}

awaitable<void> own_and_receive(real::env& env, real::stream stream) {
  channel owned(env, std::move(stream), channel_options());
  (void)co_await owned.receive();
}

awaitable<void> own_and_send(real::env& env, real::stream stream) {
  channel owned(env, std::move(stream), channel_options());
  const std::string large(500'000, 'x');
  co_await owned.send(1, 1, as_bytes(large));
}

awaitable<void> own_and_flush(real::env& env, real::stream stream) {
  channel owned(env, std::move(stream), channel_options());
  (void)owned.try_send(1, 1, as_bytes(std::string(500'000, 'x')));
  co_await owned.flush();
}

awaitable<void> own_and_close(real::env& env, real::stream stream) {
  channel owned(env, std::move(stream), channel_options());
  (void)owned.try_send(1, 1, as_bytes(std::string(500'000, 'x')));
  co_await owned.close();
}

TEST(frame_closing, the_end_of_the_context_leaves_nothing) {
  for (const auto each : {own_and_shake, own_and_receive, own_and_send, own_and_flush, own_and_close}) {
    end_context_during([each](asio::io_context& io, real::env& env, real::stream stream) {
      asio::co_spawn(io, each(env, std::move(stream)), asio::detached);
    });
  }
}

}  // namespace
}  // namespace lockstep
