#include "lockstep/frame/channel.hpp"

#include "manual_time_env.hpp"
#include "run.hpp"
#include "streams.hpp"

#include <gtest/gtest.h>
#include <asio/io_context.hpp>

#include <array>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace lockstep {
namespace {

using test::observed_stream;
using test::observed_writes;
using test::plain_stream;
using test::run;
using test::start;

constexpr int small_buffer = 4096;  ///< of the kernel, so that a queue fills soon

std::string payload_of(std::size_t number, std::size_t bytes) {
  std::string payload(bytes, '\0');
  for (std::size_t i = 0; i < bytes; ++i) payload[i] = static_cast<char>('a' + (number + i) % 26);
  return payload;
}

/// Two channels over connected sockets.
struct two_channels {
  explicit two_channels(channel_options options = channel_options(), int buffer_bytes = 0)
      : two_channels(options, test::connected_sockets(buffer_bytes)) {}
  two_channels(const channel_options& options, std::pair<int, int> sockets)
      : here(env, test::adopt(io, sockets.first), options), there(env, test::adopt(io, sockets.second), options) {}

  asio::io_context io{1};
  real::env env{io.get_executor()};
  channel here;
  channel there;
};

/// One channel, whose peer sends and receives bytes of the test's choice.
template <class Env = real::env>
struct one_channel {
  explicit one_channel(channel_options options = channel_options(), int buffer_bytes = 0)
      : one_channel(options, test::connected_sockets(buffer_bytes)) {}
  one_channel(const channel_options& options, std::pair<int, int> sockets)
      : here(std::make_unique<basic_channel<Env>>(env, test::adopt(io, sockets.first), options)),
        peer(sockets.second) {}

  asio::io_context io{1};
  Env env{io.get_executor()};
  std::unique_ptr<basic_channel<Env>> here;
  test::raw_peer peer;
};

std::string encoded(std::uint8_t kind, std::uint64_t id, const std::string& payload) {
  std::string bytes(frame_header_bytes, '\0');
  encode_frame_header(reinterpret_cast<std::byte*>(bytes.data()), {kind, 0, id}, payload.size(),
                      xxh3_64(as_bytes(payload)));
  return bytes + payload;
}

/// Lets `io` work and takes what arrives at the peer until that are `bytes`.
std::string receive_raw(asio::io_context& io, const test::raw_peer& peer, std::size_t bytes) {
  std::string received;
  for (int idle = 0; received.size() < bytes && idle < 1000; ++idle) {
    const std::string more = peer.receive();
    if (!more.empty()) idle = 0;
    received += more;
    test::poll(io);
  }
  return received;
}

/// Receives until the channel ends. @return the ids of the frames, in order; `end` is why it ended.
template <class Channel>
awaitable<std::vector<std::uint64_t>> receive_all(Channel& from, std::error_code& end) {
  std::vector<std::uint64_t> ids;
  try {
    for (;;) {
      for (const frame_view& frame : co_await from.receive_batch()) {
        EXPECT_EQ(as_text(frame.payload), payload_of(frame.id, frame.payload.size()));
        ids.push_back(frame.id);
      }
    }
  } catch (const std::system_error& error) {
    end = error.code();
  }
  co_return ids;
}

template <class Channel>
awaitable<void> send_numbered(Channel& to, std::size_t count, std::size_t bytes) {
  for (std::size_t i = 0; i < count; ++i) {
    const std::string payload = payload_of(i, bytes);
    co_await to.send(1, i, as_bytes(payload));
  }
}

template <class Channel>
awaitable<void> send_sizes_and_close(Channel& to, std::vector<std::size_t> sizes) {
  for (std::size_t i = 0; i < sizes.size(); ++i) {
    const std::string payload = payload_of(i, sizes[i]);
    co_await to.send(1, i, as_bytes(payload));
  }
  co_await to.close();
}

std::vector<std::uint64_t> numbers_below(std::size_t end) {
  std::vector<std::uint64_t> numbers;
  for (std::size_t i = 0; i < end; ++i) numbers.push_back(i);
  return numbers;
}

const std::vector<std::size_t> many_sizes = {0, 1, 100, 16384, 16385, 65536, 262144, 300000, 1 << 20, 3'000'000, 7, 0};

// --- Delivery ---

TEST(frame_channel, frames_of_all_sizes_arrive_in_order_and_whole) {
  two_channels c;
  auto sending = start(c.io, send_sizes_and_close(c.here, many_sizes));
  std::error_code end;
  EXPECT_EQ(run(c.io, receive_all(c.there, end)), numbers_below(many_sizes.size()));
  EXPECT_EQ(end, asio::error::eof);
  run(c.io, c.there.close());
  EXPECT_TRUE(test::run_until(c.io, [&] { return sending.done(); }));
  EXPECT_FALSE(sending.failed());
}

TEST(frame_channel, a_stream_that_is_only_an_asio_stream_will_do) {
  asio::io_context io(1);
  real::env env(io.get_executor());
  auto [first, second] = test::connected_streams(io, small_buffer);
  basic_channel<real::env, plain_stream> here(env, plain_stream(std::move(first)), channel_options());
  basic_channel<real::env, plain_stream> there(env, plain_stream(std::move(second)), channel_options());
  auto greeting = start(io, here.handshake());
  run(io, there.handshake());
  auto sending = start(io, send_sizes_and_close(here, many_sizes));
  std::error_code end;
  EXPECT_EQ(run(io, receive_all(there, end)), numbers_below(many_sizes.size()));
  EXPECT_EQ(end, asio::error::eof);
  run(io, there.close());
  EXPECT_TRUE(test::run_until(io, [&] { return sending.done(); }));
  EXPECT_FALSE(sending.failed());
}

TEST(frame_channel, kind_id_and_user_flags_arrive_as_sent) {
  two_channels c;
  run(c.io, c.here.send(200, ~std::uint64_t{0}, as_bytes("x"), 0x30 | frame_flag::self_checked));
  const frame_view frame = run(c.io, c.there.receive());
  EXPECT_EQ(frame.kind, 200);
  EXPECT_EQ(frame.id, ~std::uint64_t{0});
  EXPECT_EQ(frame.flags, 0x30 | frame_flag::self_checked);
  EXPECT_EQ(as_text(frame.payload), "x");
}

TEST(frame_channel, a_payload_in_parts_arrives_in_one_piece) {
  two_channels c;
  const std::string large = payload_of(0, 100'000);
  for (const std::string& middle : {std::string(), std::string("middle"), large}) {
    const std::array<bytes_view, 4> parts = {as_bytes("begin "), as_bytes(middle), bytes_view(), as_bytes(" end")};
    run(c.io, c.here.send(1, 1, parts));
    EXPECT_EQ(as_text(run(c.io, c.there.receive()).payload), "begin " + middle + " end");
  }
}

TEST(frame_channel, a_batch_is_what_one_read_brought) {
  one_channel<> c;
  c.peer.send(encoded(1, 1, "a") + encoded(1, 2, "b") + encoded(1, 3, "c").substr(0, 10));
  EXPECT_EQ(run(c.io, c.here->receive_batch()).size(), 2u);
  c.peer.send(encoded(1, 3, "c").substr(10) + encoded(1, 4, "d"));
  const auto batch = run(c.io, c.here->receive_batch());
  ASSERT_EQ(batch.size(), 2u);
  EXPECT_EQ(as_text(batch[0].payload), "c");
  EXPECT_EQ(as_text(batch[1].payload), "d");
}

TEST(frame_channel, a_batch_is_bounded_and_what_follows_comes_in_the_next) {
  one_channel<> c;
  std::string bytes;
  for (std::uint64_t i = 0; i < 600; ++i) bytes += encoded(1, i, "");
  c.peer.send(bytes);
  EXPECT_EQ(run(c.io, c.here->receive_batch()).size(), 512u);
  EXPECT_EQ(run(c.io, c.here->receive_batch()).size(), 88u);
}

TEST(frame_channel, the_ways_to_receive_can_be_mixed) {
  one_channel<> c;
  c.peer.send(encoded(1, 1, "") + encoded(1, 2, "") + encoded(1, 3, "") + encoded(1, 4, ""));
  EXPECT_EQ(run(c.io, c.here->receive()).id, 1u);
  frame_view frame;
  ASSERT_TRUE(c.here->try_receive(frame));
  EXPECT_EQ(frame.id, 2u);
  EXPECT_EQ(run(c.io, c.here->receive_batch()).size(), 2u);
  EXPECT_FALSE(c.here->try_receive(frame));
}

/// Takes the ids of frames until one of `last`.
struct id_taker {
  std::uint64_t last;
  std::vector<std::uint64_t> ids{};
  bool operator()(const frame_view& frame) {
    ids.push_back(frame.id);
    return frame.id != last;
  }
};

TEST(frame_channel, delivers_frames_as_they_arrive_until_told_to_stop) {
  one_channel<> c;
  id_taker use{5};
  c.peer.send(encoded(1, 1, "") + encoded(1, 2, ""));
  auto delivering = start(c.io, c.here->deliver(use));
  test::poll(c.io);
  c.peer.send(encoded(1, 3, "").substr(0, 5));
  test::poll(c.io);
  c.peer.send(encoded(1, 3, "").substr(5) + encoded(1, 4, "") + encoded(1, 5, "") + encoded(1, 6, ""));
  ASSERT_TRUE(test::run_until(c.io, [&] { return delivering.done(); }));
  EXPECT_FALSE(delivering.failed());
  EXPECT_EQ(use.ids, (std::vector<std::uint64_t>{1, 2, 3, 4, 5}));
  EXPECT_EQ(run(c.io, c.here->receive()).id, 6u) << "the rest is there for others";
}

TEST(frame_channel, delivery_ends_with_the_channel) {
  one_channel<> c;
  id_taker use{99};
  std::string bad = encoded(1, 2, "b");
  bad.back() = '!';
  c.peer.send(encoded(1, 1, "a") + bad);
  EXPECT_EQ(test::error_of([&] { run(c.io, c.here->deliver(use)); }), errc::bad_checksum);
  EXPECT_EQ(use.ids, std::vector<std::uint64_t>{1});

  one_channel<> closed;
  closed.peer.close();
  EXPECT_EQ(test::error_of([&] { run(closed.io, closed.here->deliver(use)); }), asio::error::eof);

  one_channel<> aborted;
  auto delivering = start(aborted.io, aborted.here->deliver(use));
  test::poll(aborted.io);
  aborted.here.reset();
  ASSERT_TRUE(test::run_until(aborted.io, [&] { return delivering.done(); }));
  EXPECT_EQ(delivering.error(), errc::closed);
}

TEST(frame_channel, a_cancelled_delivery_loses_nothing) {
  one_channel<> c;
  id_taker use{99};
  auto delivering = start(c.io, c.here->deliver(use));
  test::poll(c.io);
  delivering.cancel();
  c.peer.send(encoded(1, 1, ""));
  test::poll(c.io);
  EXPECT_EQ(delivering.error(), asio::error::operation_aborted);
  EXPECT_EQ(run(c.io, c.here->receive()).id, use.ids.empty() ? 1u : 0u);
}

TEST(frame_channel, a_delivery_may_destroy_its_channel) {
  one_channel<> c;
  const auto use = [&c](const frame_view&) {
    c.here.reset();
    return true;
  };
  c.peer.send(encoded(1, 1, "") + encoded(1, 2, ""));
  auto delivering = start(c.io, c.here->deliver(use));
  ASSERT_TRUE(test::run_until(c.io, [&] { return delivering.done(); }));
  EXPECT_EQ(delivering.error(), errc::closed);
}

TEST(frame_channel, keepalives_are_not_delivered) {
  one_channel<> c;
  c.peer.send(encoded(frame_kind::keepalive, 0, "") + encoded(1, 1, "") + encoded(frame_kind::keepalive, 0, ""));
  EXPECT_EQ(run(c.io, c.here->receive_batch()).size(), 1u);
}

// --- Coalescing ---

template <class Channel>
awaitable<void> echo_batch(Channel& over) {
  for (const frame_view& frame : co_await over.receive_batch()) co_await over.send(frame.kind, frame.id, frame.payload);
  (void)co_await over.receive_batch();
}

TEST(frame_channel, what_a_receiver_sends_in_its_turn_leaves_in_one_write) {
  asio::io_context io(1);
  real::env env(io.get_executor());
  observed_writes notes;
  auto [stream, peer] = test::stream_and_raw_peer(io);
  basic_channel<real::env, observed_stream> here(env, observed_stream(std::move(stream), notes), channel_options());
  const std::string bytes = encoded(1, 1, "a") + encoded(1, 2, "b") + encoded(1, 3, "c");
  peer.send(bytes);
  auto echoing = start(io, echo_batch(here));
  ASSERT_TRUE(test::run_until(io, [&] { return !notes.writes.empty(); }));
  EXPECT_EQ(peer.receive(), bytes);
  test::poll(io);
  EXPECT_EQ(notes.writes.size(), 1u);
  here.abort();
  test::poll(io);
}

TEST(frame_channel, what_is_sent_during_a_delivery_leaves_in_one_write) {
  asio::io_context io(1);
  real::env env(io.get_executor());
  observed_writes notes;
  auto [stream, peer] = test::stream_and_raw_peer(io);
  basic_channel<real::env, observed_stream> here(env, observed_stream(std::move(stream), notes), channel_options());
  const auto echo = [&here](const frame_view& frame) { return here.try_send(frame.kind, frame.id, frame.payload); };
  const std::string bytes = encoded(1, 1, "a") + encoded(1, 2, "b") + encoded(1, 3, "c");
  auto delivering = start(io, here.deliver(echo));
  test::poll(io);
  for (int i = 0; i < 2; ++i) {
    notes.writes.clear();
    peer.send(bytes);
    ASSERT_TRUE(test::run_until(io, [&] { return !notes.writes.empty(); }));
    test::poll(io);
    EXPECT_EQ(peer.receive(), bytes);
    EXPECT_EQ(notes.writes.size(), 1u);
  }
  here.abort();
  test::poll(io);
}

template <class Channel>
awaitable<void> send_one(Channel& to, std::uint64_t id) {
  co_await to.send(1, id, as_bytes("payload"));
}

TEST(frame_channel, what_many_coroutines_send_in_one_turn_is_collected) {
  asio::io_context io(1);
  real::env env(io.get_executor());
  observed_writes notes;
  auto [stream, peer] = test::stream_and_raw_peer(io);
  basic_channel<real::env, observed_stream> here(env, observed_stream(std::move(stream), notes), channel_options());
  const auto burst = [&, &from = peer] {
    notes.writes.clear();
    for (std::uint64_t i = 0; i < 100; ++i) start(io, send_one(here, i));
    test::poll(io);
    EXPECT_EQ(from.receive().size(), 100 * (frame_header_bytes + 7));
  };
  burst();
  EXPECT_EQ(notes.writes.size(), 2u) << "the first frame did not wait";
  burst();
  EXPECT_EQ(notes.writes.size(), 1u) << "bursts are expected now";
}

TEST(frame_channel, a_lone_frame_leaves_inside_the_call) {
  asio::io_context io(1);
  real::env env(io.get_executor());
  observed_writes notes;
  auto [stream, peer] = test::stream_and_raw_peer(io);
  basic_channel<real::env, observed_stream> here(env, observed_stream(std::move(stream), notes), channel_options());
  EXPECT_TRUE(here.try_send(1, 1, as_bytes("x")));
  EXPECT_EQ(notes.writes.size(), 1u);
}

template <class Channel>
awaitable<void> send_two_small_and(Channel& to, std::string large) {
  co_await to.send(1, 1, as_bytes("written at once"));
  co_await to.send(1, 2, as_bytes("waits for company"));
  co_await to.send(1, 3, as_bytes(large));
}

TEST(frame_channel, a_large_payload_is_sent_from_its_senders_memory_together_with_what_waits) {
  asio::io_context io(1);
  real::env env(io.get_executor());
  observed_writes notes;
  auto [stream, peer] = test::stream_and_raw_peer(io);
  basic_channel<real::env, observed_stream> here(env, observed_stream(std::move(stream), notes), channel_options());
  std::string large = payload_of(0, 50'000);
  const bytes_view memory = as_bytes(large);
  run(io, send_two_small_and(here, std::move(large)));
  ASSERT_EQ(notes.writes.size(), 2u);
  ASSERT_EQ(notes.writes[1].pieces.size(), 3u) << "copied frames, header, payload";
  EXPECT_EQ(notes.writes[1].pieces[2], memory.data());
}

TEST(frame_channel, copied_frames_do_not_wait_beyond_the_limit_of_coalescing) {
  channel_options options;
  options.coalesce_bytes = 1000;
  asio::io_context io(1);
  real::env env(io.get_executor());
  observed_writes notes;
  auto [stream, peer] = test::stream_and_raw_peer(io);
  basic_channel<real::env, observed_stream> here(env, observed_stream(std::move(stream), notes), options);
  for (std::uint64_t i = 0; i < 100; ++i) EXPECT_TRUE(here.try_send(1, i, as_bytes(payload_of(i, 76))));
  EXPECT_EQ(notes.writes.size(), 10u) << "one alone, then ten frames each";
}

// --- Backpressure ---

TEST(frame_channel, a_full_queue_is_bounded_and_says_so) {
  channel_options options;
  options.send_queue_bytes = 10'000;
  one_channel<> c(options, small_buffer);
  std::uint64_t accepted = 0;
  while (c.here->try_send(1, accepted, as_bytes(payload_of(accepted, 100)))) {
    ++accepted;
    ASSERT_LE(c.here->queued_bytes(), options.send_queue_bytes);
    test::poll(c.io);
  }
  EXPECT_GT(c.here->queued_bytes() + 124, options.send_queue_bytes);
  EXPECT_EQ(receive_raw(c.io, c.peer, accepted * 124).size(), accepted * 124);
  EXPECT_TRUE(c.here->try_send(1, accepted, as_bytes("room again")));
}

TEST(frame_channel, a_frame_larger_than_the_whole_queue_is_taken_when_the_queue_is_empty) {
  channel_options options;
  options.send_queue_bytes = 100;
  two_channels c(options);
  EXPECT_TRUE(c.here.try_send(1, 0, as_bytes(payload_of(0, 5000))));
  EXPECT_EQ(run(c.io, c.there.receive()).payload.size(), 5000u);
}

TEST(frame_channel, a_sender_waits_for_room_and_everything_arrives_in_order) {
  channel_options options;
  options.send_queue_bytes = 10'000;
  two_channels c(options, small_buffer);
  auto sending = start(c.io, send_numbered(c.here, 5000, 100));
  test::poll(c.io);
  EXPECT_FALSE(sending.done());
  EXPECT_LE(c.here.queued_bytes(), options.send_queue_bytes);
  std::error_code end;
  auto receiving = start(c.io, receive_all(c.there, end));
  EXPECT_TRUE(test::run_until(c.io, [&] { return sending.done(); }));
  run(c.io, c.here.flush());
  EXPECT_EQ(c.here.queued_bytes(), 0u);
  c.here.abort();
  EXPECT_TRUE(test::run_until(c.io, [&] { return receiving.done(); }));
  EXPECT_EQ(receiving.result(), numbers_below(5000));
}

awaitable<void> send_with_size(channel& to, std::uint64_t id, std::size_t bytes) {
  const std::string payload = payload_of(id, bytes);
  co_await to.send(1, id, as_bytes(payload));
}

TEST(frame_channel, waiting_senders_keep_the_order_of_their_calls) {
  channel_options options;
  options.send_queue_bytes = 3000;
  two_channels c(options, small_buffer);
  std::vector<test::started<void>> senders;
  for (std::uint64_t i = 0; i < 300; ++i)
    senders.push_back(start(c.io, send_with_size(c.here, i, i % 7 == 0 ? 20'000 : 100)));
  test::poll(c.io);
  EXPECT_LE(c.here.queued_bytes(), options.send_queue_bytes + 4096) << "4096: being handed over from a sender's memory";
  EXPECT_FALSE(c.here.try_send(1, 999, as_bytes("must not overtake")));
  std::error_code end;
  auto receiving = start(c.io, receive_all(c.there, end));
  run(c.io, c.here.flush());
  for (auto& each : senders) EXPECT_TRUE(each.done());
  c.here.abort();
  EXPECT_TRUE(test::run_until(c.io, [&] { return receiving.done(); }));
  EXPECT_EQ(receiving.result(), numbers_below(300));
}

awaitable<void> send_and_then(channel& to, std::uint64_t id, std::function<void()> act) {
  const std::string payload = payload_of(id, 100);
  co_await to.send(1, id, as_bytes(payload));
  act();
}

TEST(frame_channel, a_sender_that_waited_may_cancel_others_and_destroy_the_channel) {
  channel_options options;
  options.send_queue_bytes = 1000;
  one_channel<> c(options, small_buffer);
  while (c.here->try_send(1, 0, as_bytes(payload_of(0, 100)))) test::poll(c.io);
  test::started<void> second;
  std::vector<int> order;
  auto first = start(c.io, send_and_then(*c.here, 1, [&] {
                       order.push_back(1);
                       second.cancel();
                       c.here.reset();
                     }));
  second = start(c.io, send_and_then(*c.here, 2, [&] { order.push_back(2); }));
  test::poll(c.io);
  EXPECT_TRUE(order.empty());
  (void)receive_raw(c.io, c.peer, 1 << 20);
  ASSERT_TRUE(first.done());
  ASSERT_TRUE(second.done());
  EXPECT_EQ(order, (std::vector<int>{1, 2})) << "its frame had been taken before it was cancelled";
  EXPECT_FALSE(second.failed());
}

TEST(frame_channel, flush_waits_until_everything_was_handed_over) {
  one_channel<> c(channel_options(), small_buffer);
  run(c.io, c.here->flush());
  EXPECT_TRUE(c.here->try_send(1, 1, as_bytes(payload_of(1, 100'000))));
  auto flushing = start(c.io, c.here->flush());
  test::poll(c.io);
  EXPECT_FALSE(flushing.done());
  EXPECT_TRUE(test::run_until(c.io, [&] {
    (void)c.peer.receive();
    return flushing.done();
  }));
  EXPECT_EQ(c.here->queued_bytes(), 0u);
}

// --- Cancellation ---

TEST(frame_channel, a_cancelled_receive_loses_nothing) {
  one_channel<> c;
  auto waiting = start(c.io, c.here->receive());
  test::poll(c.io);
  waiting.cancel();
  test::poll(c.io);
  ASSERT_TRUE(waiting.done());
  EXPECT_EQ(waiting.error(), asio::error::operation_aborted);
  c.peer.send(encoded(1, 1, "a").substr(0, 10));
  test::poll(c.io);
  c.peer.send(encoded(1, 1, "a").substr(10) + encoded(1, 2, "b"));
  EXPECT_EQ(run(c.io, c.here->receive()).id, 1u);
  EXPECT_EQ(run(c.io, c.here->receive()).id, 2u);
}

TEST(frame_channel, a_cancelled_send_that_has_not_begun_leaves_no_trace) {
  two_channels c(channel_options(), small_buffer);
  auto first = start(c.io, send_with_size(c.here, 0, 500'000));
  auto second = start(c.io, send_with_size(c.here, 7, 500'000));
  auto third = start(c.io, send_with_size(c.here, 1, 500'000));
  test::poll(c.io);
  second.cancel();
  test::poll(c.io);
  EXPECT_EQ(second.error(), asio::error::operation_aborted);
  std::error_code end;
  auto receiving = start(c.io, receive_all(c.there, end));
  run(c.io, c.here.flush());
  EXPECT_TRUE(first.done() && third.done());
  c.here.abort();
  EXPECT_TRUE(test::run_until(c.io, [&] { return receiving.done(); }));
  EXPECT_EQ(receiving.result(), numbers_below(2));
}

TEST(frame_channel, a_cancelled_send_that_has_begun_is_completed_from_a_copy) {
  two_channels c(channel_options(), small_buffer);
  auto first = start(c.io, send_with_size(c.here, 0, 500'000));
  auto second = start(c.io, send_with_size(c.here, 1, 10));
  test::poll(c.io);
  first.cancel();
  test::poll(c.io);
  EXPECT_EQ(first.error(), asio::error::operation_aborted);
  std::error_code end;
  auto receiving = start(c.io, receive_all(c.there, end));
  run(c.io, c.here.flush());
  c.here.abort();
  EXPECT_TRUE(test::run_until(c.io, [&] { return receiving.done(); }));
  EXPECT_EQ(receiving.result(), numbers_below(2));
}

TEST(frame_channel, a_cancelled_flush_only_stops_waiting) {
  one_channel<> c(channel_options(), small_buffer);
  EXPECT_TRUE(c.here->try_send(1, 1, as_bytes(payload_of(1, 100'000))));
  auto flushing = start(c.io, c.here->flush());
  test::poll(c.io);
  flushing.cancel();
  test::poll(c.io);
  EXPECT_EQ(flushing.error(), asio::error::operation_aborted);
  const std::string sent = encoded(1, 1, payload_of(1, 100'000));
  EXPECT_TRUE(receive_raw(c.io, c.peer, sent.size()) == sent);
}

// --- Errors ---

TEST(frame_channel, bytes_that_changed_end_the_channel_after_the_frames_before_them) {
  one_channel<> c;
  std::string bad = encoded(1, 2, "b");
  bad.back() = '!';
  c.peer.send(encoded(1, 1, "a") + bad + encoded(1, 3, "c"));
  EXPECT_EQ(run(c.io, c.here->receive_batch()).size(), 1u);
  for (int i = 0; i < 2; ++i) {
    EXPECT_EQ(test::error_of([&] { run(c.io, c.here->receive()); }), errc::bad_checksum);
  }
  EXPECT_EQ(test::error_of([&] { run(c.io, c.here->send(1, 1, as_bytes("x"))); }), errc::bad_checksum);
  EXPECT_FALSE(c.here->try_send(1, 1, as_bytes("x")));
  EXPECT_FALSE(c.here->is_open());
  EXPECT_TRUE(c.peer.sees_end());
}

TEST(frame_channel, a_header_that_announces_too_much_ends_the_channel) {
  channel_options options;
  options.max_frame_bytes = 1000;
  one_channel<> c(options);
  c.peer.send(encoded(1, 1, std::string(1001, 'x')).substr(0, 4));
  EXPECT_EQ(test::error_of([&] { run(c.io, c.here->receive()); }), errc::frame_too_large);
}

TEST(frame_channel, malformed_bytes_end_the_channel) {
  one_channel<> c;
  c.peer.send(std::string(frame_header_bytes, '\1').replace(0, 4, std::string(4, '\0')));
  EXPECT_EQ(test::error_of([&] { run(c.io, c.here->receive()); }), errc::malformed);
}

TEST(frame_channel, a_frame_too_large_to_send_harms_nothing) {
  channel_options options;
  options.max_frame_bytes = 1000;
  two_channels c(options);
  const std::string large(1001, 'x');
  EXPECT_EQ(test::error_of([&] { run(c.io, c.here.send(1, 1, as_bytes(large))); }), errc::frame_too_large);
  EXPECT_FALSE(c.here.try_send(1, 1, as_bytes(large)));
  run(c.io, c.here.send(1, 2, as_bytes("fits")));
  EXPECT_EQ(run(c.io, c.there.receive()).id, 2u);
}

TEST(frame_channel, a_connection_cut_anywhere_delivers_a_prefix_of_the_frames) {
  const std::vector<std::string> frames = {encoded(1, 0, ""), encoded(1, 1, payload_of(1, 5)), encoded(1, 2, "c")};
  const std::string all = frames[0] + frames[1] + frames[2];
  for (std::size_t cut = 0; cut <= all.size(); ++cut) {
    one_channel<> c;
    c.peer.send(all.substr(0, cut));
    c.peer.close();
    std::error_code end;
    const auto received = run(c.io, receive_all(*c.here, end));
    std::size_t whole = 0;
    std::size_t bytes = 0;
    while (whole < frames.size() && bytes + frames[whole].size() <= cut) bytes += frames[whole++].size();
    EXPECT_EQ(received, numbers_below(whole)) << "cut at " << cut;
    EXPECT_EQ(end, cut == bytes ? std::error_code(asio::error::eof) : make_error_code(errc::truncated)) << cut;
  }
}

TEST(frame_channel, what_arrived_before_the_end_is_delivered_after_a_cancelled_receive_too) {
  one_channel<> c;
  auto waiting = start(c.io, c.here->receive());
  test::poll(c.io);
  waiting.cancel();
  test::poll(c.io);
  c.peer.send(encoded(1, 1, "a"));
  c.peer.close();
  test::poll(c.io);
  EXPECT_EQ(run(c.io, c.here->receive()).id, 1u);
  EXPECT_EQ(test::error_of([&] { run(c.io, c.here->receive()); }), asio::error::eof);
}

TEST(frame_channel, a_peer_that_ended_sending_can_still_be_sent_to) {
  one_channel<> c;
  c.peer.end_sending();
  EXPECT_EQ(test::error_of([&] { run(c.io, c.here->receive()); }), asio::error::eof);
  run(c.io, c.here->send(1, 1, as_bytes("still")));
  EXPECT_EQ(c.peer.receive(), encoded(1, 1, "still"));
}

TEST(frame_channel, sending_to_a_peer_that_is_gone_fails_with_the_streams_error) {
  one_channel<> c;
  c.peer.close();
  run(c.io, c.here->send(1, 1, as_bytes("lost")));
  EXPECT_EQ(test::error_of([&] { run(c.io, c.here->send(1, 2, as_bytes("x"))); }), asio::error::broken_pipe);
  EXPECT_EQ(test::error_of([&] { run(c.io, c.here->flush()); }), asio::error::broken_pipe);
  EXPECT_EQ(test::error_of([&] { run(c.io, c.here->receive()); }), asio::error::eof);
}

TEST(frame_channel, a_peer_that_goes_while_senders_wait_ends_them) {
  one_channel<> c(channel_options(), small_buffer);
  auto first = start(c.io, send_with_size(*c.here, 0, 500'000));
  auto second = start(c.io, send_with_size(*c.here, 1, 500'000));
  test::poll(c.io);
  c.peer.close();
  EXPECT_TRUE(test::run_until(c.io, [&] { return first.done() && second.done(); }));
  EXPECT_EQ(first.error(), second.error());
  EXPECT_TRUE(first.failed());
}

TEST(frame_channel, errors_name_the_peer) {
  asio::io_context io(1);
  real::env env(io.get_executor());
  std::error_code ec;
  auto acceptor = env.listen(address("127.0.0.1", 0), ec);
  ASSERT_FALSE(ec);
  auto accepting = start(io, acceptor.accept());
  channel here(env, run(io, env.connect(acceptor.local_address(), test::patience)), channel_options());
  ASSERT_TRUE(test::run_until(io, [&] { return accepting.done(); }));
  { const real::stream gone = accepting.result(); }
  try {
    run(io, here.receive());
    FAIL() << "no error";
  } catch (const std::system_error& error) {
    EXPECT_NE(std::string(error.what()).find(acceptor.local_address().to_string()), std::string::npos) << error.what();
  }
}

// --- Silence ---

using manual = test::manual_time_env;
using std::chrono::milliseconds;

/// A channel on manual time that has shaken hands with a peer made of bytes.
struct watched_channel : one_channel<manual> {
  explicit watched_channel(const channel_options& options) : one_channel<manual>(options) {
    auto shaking = start(io, here->handshake());
    byte_buffer bytes;
    hello message;
    encode_hello(bytes, message);
    message.step = hello::step_t::acceptance;
    encode_hello(bytes, message);
    peer.send(as_text(bytes.view()));
    EXPECT_TRUE(test::run_until(io, [&] { return shaking.done(); }));
    shaking.result();
    (void)peer.receive();
  }

  void pass(duration span) {
    for (duration step{0}; step < span; step += milliseconds(10)) {
      env.advance(milliseconds(10));
      test::poll(io);
    }
  }
};

channel_options with_idle_timeout(duration limit) {
  channel_options options;
  options.idle_timeout = limit;
  return options;
}

TEST(frame_channel, a_silent_peer_ends_the_channel) {
  watched_channel c(with_idle_timeout(milliseconds(400)));
  auto receiving = start(c.io, c.here->receive());
  test::poll(c.io);
  c.pass(milliseconds(390));
  EXPECT_FALSE(receiving.done());
  c.pass(milliseconds(120));
  ASSERT_TRUE(receiving.done());
  EXPECT_EQ(receiving.error(), errc::idle_timeout);
  EXPECT_EQ(test::error_of([&] { run(c.io, c.here->send(1, 1, as_bytes("x"))); }), errc::idle_timeout);
  EXPECT_TRUE(c.peer.sees_end());
}

TEST(frame_channel, any_byte_breaks_the_silence) {
  watched_channel c(with_idle_timeout(milliseconds(400)));
  auto receiving = start(c.io, c.here->receive());
  test::poll(c.io);
  const std::string frame = encoded(1, 1, std::string(20, 'x'));
  for (const char byte : frame) {
    EXPECT_FALSE(receiving.done());
    c.pass(milliseconds(300));
    c.peer.send({&byte, 1});
    test::poll(c.io);
  }
  ASSERT_TRUE(receiving.done());
  EXPECT_FALSE(receiving.failed());
}

TEST(frame_channel, silence_counts_only_while_somebody_listens) {
  watched_channel c(with_idle_timeout(milliseconds(400)));
  c.pass(milliseconds(5000));
  auto receiving = start(c.io, c.here->receive());
  test::poll(c.io);
  c.pass(milliseconds(390));
  EXPECT_FALSE(receiving.done());
  c.pass(milliseconds(120));
  EXPECT_EQ(receiving.error(), errc::idle_timeout);
}

TEST(frame_channel, keepalives_are_sent_when_nothing_else_is) {
  channel_options options;
  options.keepalive = milliseconds(100);
  watched_channel c(options);
  c.pass(milliseconds(150));
  EXPECT_EQ(c.peer.receive(), encoded(frame_kind::keepalive, 0, ""));
  for (int i = 0; i < 10; ++i) {
    EXPECT_TRUE(c.here->try_send(1, 1, as_bytes("busy")));
    c.pass(milliseconds(50));
  }
  EXPECT_EQ(c.peer.receive().size(), 10 * (frame_header_bytes + 4));
}

TEST(frame_channel, without_limits_no_timer_runs_once_the_handshakes_has_passed) {
  const channel_options options;
  watched_channel c(options);
  c.pass(options.handshake_timeout);
  EXPECT_EQ(c.env.armed_timers(), 0u);
}

}  // namespace
}  // namespace lockstep
