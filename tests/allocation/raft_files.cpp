// What a Raft node writes beside its log allocates nothing, so that the size of a state does not count.
#include "lockstep/raft/hard_state_file.hpp"
#include "lockstep/raft/snapshot_store.hpp"

#include "support/allocation_counter.hpp"
#include "support/run.hpp"
#include "support/temporary_directory.hpp"

#include <gtest/gtest.h>
#include <asio/io_context.hpp>

#include <cstddef>
#include <memory>
#include <string>
#include <vector>

namespace lockstep::raft {
namespace {

constexpr std::size_t warm_up = 100;
constexpr std::size_t measured = 100;

struct raft_files_allocation : testing::TestWithParam<sync_on> {
  test::temporary_directory directory;
  asio::io_context io{1};
  real::env env{io.get_executor()};

  [[nodiscard]] static snapshot_options options() {
    snapshot_options options;
    options.block_bytes = 1024;
    options.sync_bytes = 4096;
    options.sync_where = GetParam();
    return options;
  }
};
INSTANTIATE_TEST_SUITE_P(threads, raft_files_allocation, testing::Values(sync_on::caller, sync_on::disk_thread));

awaitable<std::size_t> counted_votes(hard_state_file& file) {
  std::size_t before = 0;
  for (term_t term = 1; term <= warm_up + measured; ++term) {
    if (term == warm_up) before = test::allocations();
    co_await file.write({term, 3});
  }
  co_return test::allocations() - before;
}

TEST_P(raft_files_allocation, none_for_a_vote) {
  const auto file = test::run(io, hard_state_file::open(env, directory.path(), {"orders", 3}, GetParam()));
  EXPECT_EQ(test::run_counting(io, counted_votes(*file)), 0u);
}

awaitable<std::size_t> counted_writes(snapshot_store::writer& writer) {
  const std::string piece(300, 'x');
  std::size_t before = 0;
  for (std::size_t i = 0; i < warm_up + measured; ++i) {
    if (i == warm_up) before = test::allocations();
    co_await writer.write(as_bytes(piece));
  }
  co_return test::allocations() - before;
}

awaitable<std::size_t> counted_chunks(snapshot_store::reader& from, snapshot_store::receiver& to) {
  std::size_t before = 0;
  for (std::size_t i = 0; !to.complete(); ++i) {
    if (i == 10) before = test::allocations();
    const bytes_view chunk = from.chunk(to.offset());
    co_await to.write(to.offset(), chunk);
  }
  co_return test::allocations() - before;
}

TEST_P(raft_files_allocation, none_for_more_of_a_snapshot_written_read_sent_and_received) {
  const auto store = test::run(io, snapshot_store::open(env, directory.file("snapshots"), options()));
  configuration config;
  config.voters.incoming = {1};
  const auto writer = store->begin({1, 1, 1}, config);
  EXPECT_EQ(test::run_counting(io, counted_writes(*writer)), 0u);
  const snapshot_info info = test::run(io, writer->finish());

  const auto reader = store->read(1);
  std::vector<std::byte> into(700);
  ASSERT_EQ(reader->read(into), into.size());
  ASSERT_EQ(reader->read(into), into.size());
  const test::allocation_count while_reading;
  while (reader->read(into) == into.size()) continue;
  EXPECT_EQ(while_reading(), 0u);

  const auto other = test::run(io, snapshot_store::open(env, directory.file("others"), options()));
  const auto receiver = test::run(io, other->receive(info.id));
  EXPECT_EQ(test::run_counting(io, counted_chunks(*reader, *receiver)), 0u);
}

}  // namespace
}  // namespace lockstep::raft
