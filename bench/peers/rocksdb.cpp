// RocksDB's write-ahead log under many writers that wait for their records to be synced, beside lockstep's.

#include <rocksdb/db.h>
#include <rocksdb/options.h>
#include <rocksdb/write_batch.h>

#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstring>
#include <memory>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "common.hpp"
#include "lockstep/core/task_group.hpp"

namespace lockstep::bench {
namespace {

void must(const rocksdb::Status& status) {
  if (!status.ok()) throw std::runtime_error(status.ToString());
}

constexpr std::size_t payload_bytes = 100;
constexpr auto time_limit = std::chrono::milliseconds(700);

// Puts by so many threads, each waiting for its own put to be synced: RocksDB commits those that wait in groups. Keys
// of 8 bytes that rise, so that the memtable's share is small.
measurement rocksdb_sync(std::size_t writers) {
  const temporary directory("rocksdb");
  rocksdb::Options options;
  options.create_if_missing = true;
  options.write_buffer_size = std::size_t{1} << 30;
  options.max_total_wal_size = std::uint64_t{4} << 30;
  options.compression = rocksdb::kNoCompression;
  options.stats_dump_period_sec = 0;
  options.stats_persist_period_sec = 0;
  rocksdb::DB* opened = nullptr;
  must(rocksdb::DB::Open(options, directory.path(), &opened));
  const std::unique_ptr<rocksdb::DB> db(opened);

  std::atomic<bool> stop = false;
  std::atomic<bool> failed = false;
  std::atomic<std::uint64_t> acknowledged = 0;
  const auto write = [&](std::uint64_t writer) {
    rocksdb::WriteOptions how;
    how.sync = true;
    const std::string value(payload_bytes, 'v');
    rocksdb::WriteBatch batch;
    for (std::uint64_t i = 0; !stop.load(std::memory_order_relaxed); ++i) {
      const std::uint64_t key = writer << 40 | i;
      char bytes[sizeof key];
      std::memcpy(bytes, &key, sizeof key);
      batch.Clear();
      if (!batch.Put(rocksdb::Slice(bytes, sizeof bytes), value).ok() || !db->Write(how, &batch).ok()) failed = true;
      acknowledged.fetch_add(1, std::memory_order_relaxed);
    }
  };
  std::vector<std::thread> threads;
  for (std::size_t i = 0; i < writers; ++i) threads.emplace_back(write, i);
  std::this_thread::sleep_for(time_limit / 7);  // warm up
  const std::uint64_t before = acknowledged.load();
  const stopwatch watch;
  std::this_thread::sleep_for(time_limit);
  const std::uint64_t count = acknowledged.load() - before;
  const double seconds = watch.seconds();
  stop = true;
  for (std::thread& each : threads) each.join();
  if (failed) throw std::runtime_error("a put failed");
  return {seconds, count, 0};
}

awaitable<void> append_durably(append_log& log, bytes_view payload, const bool& stop, std::uint64_t& acknowledged) {
  while (!stop) {
    const index_t index = log.append(1, payload).index;
    co_await log.durable(index);
    ++acknowledged;
  }
}

awaitable<void> pass(node& on, std::chrono::milliseconds time) {
  real::env::timer timer(on.env);
  timer.expires_after(time);
  (void)co_await timer.wait();
}

awaitable<void> append_by_many(node& on, append_log& log, std::size_t writers, measurement& result) {
  payloads source(payload_bytes);
  task_group tasks(on.env.get_executor());
  bool stop = false;
  std::uint64_t acknowledged = 0;
  for (std::size_t i = 0; i < writers; ++i) tasks.spawn(append_durably(log, source.next(), stop, acknowledged));
  co_await pass(on, time_limit / 7);
  const std::uint64_t before = acknowledged;
  const stopwatch watch;
  co_await pass(on, time_limit);
  result = {watch.seconds(), acknowledged - before, 0};
  stop = true;
  co_await tasks.join();
}

// The same with coroutines, and the log's default options: the sync runs on a disk thread.
measurement append_sync(std::size_t writers) {
  const temporary directory("durable-log");
  node on;
  std::unique_ptr<append_log> log;
  on.run(open_into(log, on.env, directory.path(), log_options()));
  measurement result;
  on.run(append_by_many(on, *log, writers, result));
  on.run(log->close());
  return result;
}

const bool registered = [] {
  for (const std::size_t writers : {1, 8, 64, 512}) {
    const std::string what = "peers/rocksdb_sync/" + std::to_string(writers);
    add(what + "/peer", 1, [writers] { return rocksdb_sync(writers); });
    add(what + "/lockstep", 1, [writers] { return append_sync(writers); });
  }
  return true;
}();

}  // namespace
}  // namespace lockstep::bench
