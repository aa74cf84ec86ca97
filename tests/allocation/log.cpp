// The hot paths of log/ allocate nothing once they have warmed up.
#include "lockstep/log/append_log.hpp"
#include "lockstep/log/cursor.hpp"

#include "support/allocation_counter.hpp"
#include "support/run.hpp"
#include "support/temporary_directory.hpp"

#include <gtest/gtest.h>
#include <asio/io_context.hpp>

#include <memory>
#include <string>
#include <tuple>
#include <vector>

namespace lockstep {
namespace {

constexpr std::size_t warm_up = 2000;
constexpr std::size_t measured = 500;

/// Chunks, the hot tail and what may stay unsynced turn over many times while it warms up; the segment does not end.
log_options steady(sync_policy policy, sync_on where) {
  log_options options;
  options.sync = policy;
  options.sync_where = where;
  options.sync_interval = std::chrono::hours(1);
  options.chunk_bytes = 4 << 10;
  options.hot_tail_bytes = 16 << 10;
  options.max_unsynced_bytes = 64 << 10;
  return options;
}

struct a_log {
  explicit a_log(sync_policy policy = sync_policy::always, sync_on where = sync_on::caller)
      : log(test::run(io, append_log::open(env, directory.file("log"), steady(policy, where))).log) {}
  ~a_log() { test::run(io, log->close()); }

  test::temporary_directory directory;
  asio::io_context io{1};
  real::env env{io.get_executor()};
  std::unique_ptr<append_log> log;
};

const std::string payload(100, 'x');

awaitable<void> append_and_wait(append_log& log, std::size_t rounds, std::size_t batch) {
  for (std::size_t i = 0; i < rounds; ++i) {
    position last;
    for (std::size_t j = 0; j < batch; ++j) last = log.append(1, as_bytes(payload));
    co_await log.durable(last.index);
  }
}

awaitable<std::size_t> counted_appends(append_log& log, std::size_t batch) {
  std::size_t before = 0;
  for (std::size_t i = 0; i < warm_up + measured; ++i) {
    if (i == warm_up) before = test::allocations();
    co_await append_and_wait(log, 1, batch);
  }
  co_return test::allocations() - before;
}

struct log_allocation : testing::TestWithParam<std::tuple<sync_policy, sync_on>> {
  a_log in{std::get<0>(GetParam()), std::get<1>(GetParam())};
};
INSTANTIATE_TEST_SUITE_P(policies, log_allocation,
                         testing::Combine(testing::Values(sync_policy::always, sync_policy::interval,
                                                          sync_policy::never),
                                          testing::Values(sync_on::caller, sync_on::disk_thread)));

TEST_P(log_allocation, none_for_a_record_appended_and_waited_for) {
  EXPECT_EQ(test::run_counting(in.io, counted_appends(*in.log, 1)), 0u);
}

TEST_P(log_allocation, none_for_a_batch_of_records) {
  EXPECT_EQ(test::run_counting(in.io, counted_appends(*in.log, 100)), 0u);
}

TEST_P(log_allocation, none_for_many_writers_that_share_their_syncs) {
  std::vector<test::started<void>> others;
  for (int i = 0; i < 15; ++i)
    others.push_back(test::start(in.io, append_and_wait(*in.log, warm_up + measured + 10, 1)));
  EXPECT_EQ(test::run_counting(in.io, counted_appends(*in.log, 1)), 0u);
  for (auto& each : others) ASSERT_TRUE(test::run_until(in.io, [&] { return each.done(); }));
}

awaitable<std::size_t> counted_reads(cursor at, index_t first_counted, index_t last) {
  std::size_t before = 0;
  while (at.next_index() <= last) {
    if (before == 0 && at.next_index() >= first_counted) before = test::allocations();
    const record_batch batch = co_await at.next(1000);
    for (const record& each : batch) EXPECT_EQ(each.payload.size(), payload.size());
  }
  co_return test::allocations() - before;
}

TEST(log_allocation_reading, none_for_a_cursor_that_reads_a_segment) {
  a_log in;
  constexpr index_t last = 20'000;  // far more than the hot tail
  test::run(in.io, append_and_wait(*in.log, last / 100, 100));
  EXPECT_EQ(test::run_counting(in.io, counted_reads(cursor(*in.log, 1), 100, last - 1000)), 0u);
}

TEST(log_allocation_reading, none_for_a_cursor_that_reads_from_memory) {
  a_log in;
  test::run(in.io, append_and_wait(*in.log, 1, 100));
  EXPECT_EQ(test::run_counting(in.io, counted_reads(cursor(*in.log, 1), 10, 100)), 0u);
}

awaitable<void> read_along(cursor at, index_t last) {
  while (at.next_index() <= last) (void)co_await at.next(10'000);
}

TEST_P(log_allocation, none_for_a_cursor_that_waits_for_each_record) {
  constexpr index_t last = warm_up + measured + 1;  // they still wait when the counting ends
  auto durable = test::start(in.io, read_along(cursor(*in.log, 1), last));
  auto staged = test::start(in.io, read_along(cursor(*in.log, 1, visibility::staged), last));
  EXPECT_EQ(test::run_counting(in.io, counted_appends(*in.log, 1)), 0u);
  test::run(in.io, append_and_wait(*in.log, 1, 1));
  ASSERT_TRUE(test::run_until(in.io, [&] { return durable.done() && staged.done(); }));
}

awaitable<std::size_t> counted_copies(append_log& from, append_log& to, index_t last) {
  append_log::read_place place;
  std::size_t before = 0;
  while (place.next <= last) {
    if (before == 0 && place.next > last / 2) before = test::allocations();
    const record_batch batch = from.read(place, 2000);
    bytes_view rest = batch.bytes();
    EXPECT_EQ(to.append_encoded(rest), log_codec::record_verdict::ok);
    co_await to.durable(batch.last());
  }
  co_return test::allocations() - before;
}

TEST_P(log_allocation, none_for_encoded_records_from_another_log) {
  constexpr index_t last = 10'000;
  a_log from;
  test::run(from.io, append_and_wait(*from.log, last / 100, 100));
  EXPECT_EQ(test::run_counting(in.io, counted_copies(*from.log, *in.log, last)), 0u);
}

}  // namespace
}  // namespace lockstep
