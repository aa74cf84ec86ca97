// The hot paths of frame/ and rpc/ allocate nothing once they have warmed up.
#include "lockstep/frame/channel.hpp"
#include "lockstep/rpc/peer.hpp"

#include "support/allocation_counter.hpp"
#include "support/run.hpp"
#include "support/streams.hpp"

#include <gtest/gtest.h>
#include <asio/io_context.hpp>

#include <string>
#include <vector>

namespace lockstep {
namespace {

constexpr std::size_t warm_up = 200;
constexpr std::size_t measured = 2000;

TEST(allocation_counter, sees_what_is_allocated) {
  const test::allocation_count count;
  const std::vector<int> one(100);
  EXPECT_EQ(count(), 1u);
  void* const two = ::operator new (100, std::align_val_t{64});
  ::operator delete (two, std::align_val_t{64});
  EXPECT_EQ(count(), 2u);
}

struct two_channels {
  explicit two_channels(const channel_options& options = channel_options(), int buffer_bytes = 0)
      : two_channels(options, test::connected_sockets(buffer_bytes)) {}
  two_channels(const channel_options& options, std::pair<int, int> sockets)
      : here(env, test::adopt(io, sockets.first), options), there(env, test::adopt(io, sockets.second), options) {}

  asio::io_context io{1};
  real::env env{io.get_executor()};
  channel here;
  channel there;
};

awaitable<void> echo(channel& over) {
  for (;;) {
    for (const frame_view& frame : co_await over.receive_batch()) {
      co_await over.send(frame.kind, frame.id, frame.payload);
    }
  }
}

awaitable<std::size_t> counted_round_trips(channel& over, std::size_t bytes) {
  const std::vector<std::byte> payload(bytes, std::byte{1});
  std::size_t before = 0;
  for (std::size_t i = 0; i < warm_up + measured; ++i) {
    if (i == warm_up) before = test::allocations();
    co_await over.send(1, i, payload);
    (void)co_await over.receive();
  }
  co_return test::allocations() - before;
}

std::size_t allocations_of_echo(std::size_t bytes) {
  two_channels c;
  auto echoing = test::start(c.io, echo(c.there));
  const std::size_t counted = test::run_counting(c.io, counted_round_trips(c.here, bytes));
  c.here.abort();
  EXPECT_TRUE(test::run_until(c.io, [&] { return echoing.done(); }));
  return counted;
}

TEST(frame_allocation, none_for_an_echo_of_small_frames) { EXPECT_EQ(allocations_of_echo(64), 0u); }

TEST(frame_allocation, none_for_an_echo_of_frames_sent_from_their_senders_memory) {
  EXPECT_EQ(allocations_of_echo(100'000), 0u);
}

awaitable<void> send_without_end(channel& over) {
  const std::string payload(100, 'x');
  for (std::uint64_t i = 0;; ++i) {
    if (!over.try_send(1, i, as_bytes(payload))) co_await over.send(1, i, as_bytes(payload));
  }
}

awaitable<std::size_t> counted_batches(channel& over, std::size_t frames) {
  std::size_t before = 0;
  for (std::size_t got = 0; got < frames;) {
    if (got < frames / 4 * 3) before = test::allocations();  // until then the buffers of the queue grow
    got += (co_await over.receive_batch()).size();
  }
  co_return test::allocations() - before;
}

TEST(frame_allocation, none_for_a_stream_of_frames_and_its_batches_under_backpressure) {
  constexpr std::size_t frames = 400'000;
  two_channels c;
  auto sending = test::start(c.io, send_without_end(c.here));
  EXPECT_EQ(test::run_counting(c.io, counted_batches(c.there, frames)), 0u);
  c.here.abort();
  EXPECT_TRUE(test::run_until(c.io, [&] { return sending.done(); }));
}

awaitable<void> do_echo(const rpc_request& in, rpc_reply& out) {
  out.body().append(in.arguments);
  co_return;
}

awaitable<void> do_count(const rpc_request&, rpc_item_writer& out) {
  const std::string item(100, 'x');
  for (;;) co_await out.write(as_bytes(item));
}

struct two_peers : two_channels {
  two_peers()
      : here_peer(here.share(), none), there_peer(there.share(), service.on(1, do_echo).on_stream(2, do_count)) {
    here_runs = test::start(io, here_peer.run());
    there_runs = test::start(io, there_peer.run());
  }
  ~two_peers() {
    here_peer.abort();
    EXPECT_TRUE(test::run_until(io, [this] { return here_runs.done() && there_runs.done(); }));
  }

  rpc_service none;
  rpc_service service;
  rpc_peer here_peer;
  rpc_peer there_peer;
  test::started<void> here_runs;
  test::started<void> there_runs;
};

awaitable<std::size_t> counted_calls(rpc_peer& by) {
  byte_buffer result;
  const std::string arguments(100, 'a');
  std::size_t before = 0;
  for (std::size_t i = 0; i < warm_up + measured; ++i) {
    if (i == warm_up) before = test::allocations();
    const rpc_status status = co_await by.call(1, as_bytes(arguments), result, std::chrono::hours(1));
    status.throw_if_failed();
  }
  co_return test::allocations() - before;
}

TEST(rpc_allocation, none_for_calls_and_their_handlers) {
  two_peers p;
  EXPECT_EQ(test::run_counting(p.io, counted_calls(p.here_peer)), 0u);
}

awaitable<std::size_t> counted_items(rpc_peer& by) {
  rpc_stream stream = co_await by.open_stream(2, bytes_view());
  std::size_t before = 0;
  for (std::size_t i = 0; i < 20 * measured; ++i) {
    if (i == 10 * measured) before = test::allocations();
    (void)co_await stream.next();
  }
  co_return test::allocations() - before;
}

TEST(rpc_allocation, none_for_the_items_of_a_stream) {
  two_peers p;
  EXPECT_EQ(test::run_counting(p.io, counted_items(p.here_peer)), 0u);
}

}  // namespace
}  // namespace lockstep
