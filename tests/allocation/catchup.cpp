// Shipping allocates nothing a batch, at either side, once it has warmed up.
#include "lockstep/catchup/follower.hpp"
#include "lockstep/catchup/source.hpp"

#include "support/allocation_counter.hpp"
#include "support/run.hpp"
#include "support/streams.hpp"
#include "support/temporary_directory.hpp"

#include <gtest/gtest.h>
#include <asio/io_context.hpp>
#include <asio/post.hpp>

#include <chrono>
#include <memory>
#include <string>

namespace lockstep {
namespace {

constexpr std::size_t warm_up = 3000;
constexpr std::size_t measured = 1000;
constexpr std::size_t batch_bytes = 32 << 10;
const std::string payload(1000, 'x');

/// The disk does not decide how long a test takes. Chunks are small enough to turn over while a test warms up, and
/// large enough to take what one read of a socket brings.
log_options log_of(std::uint64_t segment_bytes, std::size_t chunk_bytes) {
  log_options options;
  options.sync = sync_policy::interval;
  options.sync_interval = std::chrono::hours(1);
  options.sync_where = sync_on::caller;
  options.segment_bytes = segment_bytes;
  options.chunk_bytes = chunk_bytes;
  options.hot_tail_bytes = 2 * chunk_bytes;
  options.max_unsynced_bytes = 2 << 20;
  return options;
}

/// Heartbeats come with time, and not with batches.
source_options in_batches() {
  source_options options;
  options.heartbeat_interval = std::chrono::hours(1);
  options.max_batch_bytes = batch_bytes;
  return options;
}

follower_options following_by(catchup::mode mode) {
  follower_options options;
  options.mode = mode;
  options.long_poll = std::chrono::hours(1);
  options.max_batch_bytes = batch_bytes;
  return options;
}

channel_options options_of(node_id node) {
  channel_options options;
  options.cluster = "allocation";
  options.node = node;
  return options;
}

struct batch_counter : follower_events {
  std::size_t batches = 0;
  void received(index_t, index_t, std::size_t) override { ++batches; }
};

awaitable<void> serve(catchup_source& source, channel& over) {
  co_await over.handshake();
  co_await source.serve(over);
}

awaitable<void> follow(catchup_follower& follower, channel& over) {
  co_await over.handshake();
  co_await follower.run(over);
}

awaitable<void> append(append_log& log, std::size_t records) {
  for (std::size_t i = 0; i < records; ++i) log.append(1, as_bytes(payload));
  co_await log.durable(log.last().index);
}

/// A source and a follower in one process, over a pair of sockets.
struct shipping : testing::TestWithParam<catchup::mode> {
  explicit shipping(std::size_t bytes = 16 << 10) : chunk_bytes(bytes) {}
  void TearDown() override {
    source_end.abort();
    follower_end.abort();
    EXPECT_TRUE(test::run_until(io, [this] { return serving.done() && following.done(); }));
    test::run(io, log->close());
    test::run(io, copy->close());
  }

  std::unique_ptr<append_log> open(const std::string& name, std::uint64_t segment_bytes) {
    return std::move(
        test::run(io, append_log::open(env, directory.file(name), log_of(segment_bytes, chunk_bytes))).log);
  }

  void connect() {
    serving = test::start(io, serve(source, source_end));
    following = test::start(io, follow(follower, follower_end));
  }

  const std::size_t chunk_bytes;
  test::temporary_directory directory;
  asio::io_context io{1};
  real::env env{io.get_executor()};
  std::unique_ptr<append_log> log = open("log", 32 << 20);
  std::unique_ptr<append_log> copy = open("copy", 256 << 20);  // one segment
  batch_counter received;
  catchup_source source{env, *log, in_batches()};
  catchup_follower follower{env, *copy, received, following_by(GetParam())};
  std::pair<int, int> sockets = test::connected_sockets();
  channel source_end{env, test::adopt(io, sockets.first), options_of(1)};
  channel follower_end{env, test::adopt(io, sockets.second), options_of(2)};
  test::started<void> serving;
  test::started<void> following;
};
struct shipping_segments : shipping {
  shipping_segments() : shipping(256 << 10) {}
};

constexpr auto mode_name = [](const auto& each) { return each.param == catchup::mode::push ? "push" : "pull"; };
INSTANTIATE_TEST_SUITE_P(by, shipping, testing::Values(catchup::mode::push, catchup::mode::pull), mode_name);
INSTANTIATE_TEST_SUITE_P(by, shipping_segments, testing::Values(catchup::mode::push, catchup::mode::pull), mode_name);

// --- From memory ----------------------------------------------------------------------------------------------------

index_t acked_to(const catchup_source& source) {
  return source.followers().empty() ? 0 : source.followers().front().acked.index;
}

awaitable<std::size_t> counted_acks(append_log& log, const catchup_source& source, std::size_t records) {
  const auto executor = co_await this_coro::executor;
  std::size_t before = 0;
  for (std::size_t i = 0; i < warm_up + measured; ++i) {
    if (i == warm_up) before = test::allocations();
    co_await append(log, records);
    while (acked_to(source) < log.last().index) co_await asio::post(executor, use_awaitable);
  }
  co_return test::allocations() - before;
}

TEST_P(shipping, allocates_nothing_for_a_record_that_the_follower_acknowledges) {
  connect();
  EXPECT_EQ(test::run_counting(io, counted_acks(*log, source, 1)), 0u);
  EXPECT_GE(received.batches, warm_up + measured);
}

TEST_P(shipping, allocates_nothing_for_a_batch_that_the_follower_acknowledges) {
  connect();
  EXPECT_EQ(test::run_counting(io, counted_acks(*log, source, 5)), 0u);
  EXPECT_GE(received.batches, warm_up + measured);
}

// --- From segments --------------------------------------------------------------------------------------------------

awaitable<void> fill_segments(append_log& log, std::size_t segments) {
  while (log.segment_count() <= segments) co_await append(log, 1000);
}

awaitable<std::size_t> counted_between(append_log& copy, const batch_counter& received, index_t first, index_t last,
                                       std::size_t& batches) {
  std::size_t before = 0;
  while (copy.acked().index < last) {
    if (before == 0 && copy.acked().index >= first) {
      before = test::allocations();
      batches = received.batches;
    }
    (void)co_await copy.readable(copy.acked().index + 1, visibility::durable);
  }
  batches = received.batches - batches;
  co_return test::allocations() - before;
}

TEST_P(shipping_segments, allocates_nothing_within_a_sealed_segment) {
  test::run(io, fill_segments(*log, 2));
  const index_t begin = log->segment_of(log->segment_of(log->last().index) - 1);
  ASSERT_EQ(log->segment_of(begin + 28'000), begin) << "the source, which is ahead, stays in it too";
  connect();
  std::size_t batches = 0;
  const std::size_t allocated =
      test::run_counting(io, counted_between(*copy, received, begin + 15'000, begin + 25'000, batches));
  EXPECT_GE(batches, 300u);
  EXPECT_EQ(allocated, 0u);
}

}  // namespace
}  // namespace lockstep
