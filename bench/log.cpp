// Appending to a log, with and without sync, against bare writes of the same bytes.

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "common.hpp"
#include "lockstep/core/task_group.hpp"
#include "lockstep/log/append_log.hpp"
#include "lockstep/log/directory.hpp"

namespace lockstep::bench {
namespace {

// --- Append without sync -------------------------------------------------------------------------------------------

// Encoded. Both together fit into one segment of the default size.
constexpr std::size_t warm_up_bytes = 8 << 20;  // more than the hot tail: from then on its memory is reused
constexpr std::size_t timed_bytes = 48 << 20;

std::size_t timed_records(std::size_t payload_bytes) { return timed_bytes / log_format::record_bytes(payload_bytes); }
std::size_t warm_up_records(std::size_t payload_bytes) {
  return warm_up_bytes / log_format::record_bytes(payload_bytes);
}

// As many bytes as the encoded records have, through a buffer of 256 KiB into a growing file.
measurement append_limit(std::size_t payload_bytes) {
  const temporary file("append-limit");
  const descriptor to(file.path(), O_WRONLY | O_CREAT | O_TRUNC);
  const std::size_t bytes = log_format::record_bytes(payload_bytes);
  payloads source(bytes);
  std::vector<char> buffer(256 << 10);
  std::memset(buffer.data(), 1, buffer.size());
  const std::size_t count = timed_records(payload_bytes);
  std::size_t used = 0;

  const stopwatch watch;
  for (std::size_t i = 0; i < count; ++i) {
    if (used + bytes > buffer.size()) {
      write_all(to.get(), buffer.data(), used);
      used = 0;
    }
    std::memcpy(buffer.data() + used, source.next().data(), bytes);
    used += bytes;
  }
  write_all(to.get(), buffer.data(), used);
  return {watch.seconds(), count, 0};
}

log_options without_sync() {
  log_options options;
  options.sync = sync_policy::never;
  return options;
}

// A log that lives on while one segment after the other is filled.
struct appending_log {
  explicit appending_log(std::size_t payload_bytes, const log_options& options = without_sync())
      : source(payload_bytes), payload(payload_bytes) {
    on.run(open_into(log, on.env, directory.path(), options));
  }
  ~appending_log() { on.run(log->close()); }

  awaitable<void> append_timed(double& seconds) {
    const std::size_t segments = log->segment_count();
    co_await append_records(*log, source, payload, warm_up_records(payload));
    const stopwatch watch;
    co_await append_records(*log, source, payload, timed_records(payload));
    seconds = watch.seconds();
    if (log->segment_count() != segments) throw std::runtime_error("the timed records did not fit into one segment");
  }

  // Goes on to the next segment; what is compacted then is the segment for the one after the next.
  awaitable<void> roll_and_compact() {
    const std::size_t segments = log->segment_count();
    while (log->segment_count() == segments) co_await append_records(*log, source, payload, 1 + (256 << 10) / payload);
    co_await log->sync();
    co_await log->compact_prefix(log->segment_of(log->last().index));
  }

  [[nodiscard]] bool in_recycled_segment() {
    return log_directory::read(on.env, directory.path()).segments.back().header->has(log_format::recycled);
  }

  temporary directory{"append-log"};
  node on;
  payloads source;
  std::size_t payload;
  std::unique_ptr<append_log> log;
};

measurement append_to_new_segment(std::size_t payload_bytes) {
  appending_log log(payload_bytes);
  double seconds = 0;
  log.on.run(log.append_timed(seconds));
  return {seconds, timed_records(payload_bytes), 0};
}

measurement append_to_recycled_segment(std::size_t payload_bytes) {
  appending_log log(payload_bytes);
  measurement best;
  double seconds = 0;
  for (int recycled = 0; recycled < 4;) {
    const bool counts = log.in_recycled_segment();
    log.on.run(log.append_timed(seconds));
    if (counts && (recycled++ == 0 || seconds < best.seconds)) best = {seconds, timed_records(payload_bytes), 0};
    log.on.run(log.roll_and_compact());
  }
  return best;
}

// --- Durable append ------------------------------------------------------------------------------------------------

constexpr std::size_t durable_payload = 100;
constexpr std::size_t warm_up_rounds = 50;

// All of them fit into one segment of the default size.
std::size_t timed_rounds(std::size_t waiters) {
  constexpr std::size_t most = 1500;
  return std::min(most, timed_bytes / log_format::record_bytes(durable_payload) / waiters);
}

// One write of everybody's payload and one fdatasync a round, on a file of zeros.
measurement durable_limit(std::size_t waiters) {
  constexpr std::size_t file_bytes = std::size_t{128} << 20;
  const std::string path = fixture("zeros", [](const std::string& unfinished) {
    const descriptor made(unfinished, O_WRONLY | O_CREAT | O_TRUNC);
    const std::vector<char> zeros(std::size_t{1} << 20);
    for (std::size_t at = 0; at < file_bytes; at += zeros.size()) write_all(made.get(), zeros.data(), zeros.size());
    if (::fsync(made.get()) != 0) throw_errno("fsync");
  });
  const descriptor file(path, O_WRONLY);
  payloads source(durable_payload);
  std::vector<char> buffer(waiters * durable_payload);
  const auto round = [&] {
    for (std::size_t i = 0; i < waiters; ++i) {
      std::memcpy(buffer.data() + i * durable_payload, source.next().data(), durable_payload);
    }
    write_all(file.get(), buffer.data(), buffer.size());
    if (::fdatasync(file.get()) != 0) throw_errno("fdatasync");
  };
  const std::size_t rounds = timed_rounds(waiters);
  for (std::size_t i = 0; i < warm_up_rounds; ++i) round();
  const stopwatch watch;
  for (std::size_t i = 0; i < rounds; ++i) round();
  return {watch.seconds(), rounds * waiters, 0};
}

awaitable<void> append_durably(append_log& log, bytes_view payload, std::size_t times) {
  for (std::size_t i = 0; i < times; ++i) {
    const index_t index = log.append(1, payload).index;
    co_await log.durable(index);
  }
}

awaitable<void> append_durably_together(append_log& log, payloads& source, std::size_t waiters, std::size_t times) {
  task_group tasks(co_await this_coro::executor);
  for (std::size_t i = 0; i < waiters; ++i) tasks.spawn(append_durably(log, source.next(), times));
  co_await tasks.join();
}

enum class segment_state { fresh, recycled };

measurement durable_append(std::size_t waiters, sync_on where, segment_state state) {
  log_options options;
  options.sync_where = where;
  appending_log in(durable_payload, options);
  while (state == segment_state::recycled && !in.in_recycled_segment()) in.on.run(in.roll_and_compact());
  in.on.run(append_durably_together(*in.log, in.source, waiters, warm_up_rounds));
  const std::size_t rounds = timed_rounds(waiters);
  const stopwatch watch;
  in.on.run(append_durably_together(*in.log, in.source, waiters, rounds));
  return {watch.seconds(), rounds * waiters, 0};
}

const bool registered = [] {
  for (const record_size& size : record_sizes) {
    const std::string what = std::string("append/") + size.name;
    const auto limit = [size] { return append_limit(size.bytes); };
    add(what + "/new/limit", 6, limit);
    add(what + "/new/lockstep", 6, [size] { return append_to_new_segment(size.bytes); });
    add(what + "/recycled/limit", 6, limit);
    add(what + "/recycled/lockstep", 1, [size] { return append_to_recycled_segment(size.bytes); });
  }
  for (const std::size_t waiters : {1, 8, 64, 512}) {
    const auto limit = [waiters] { return durable_limit(waiters); };
    const auto add_pair = [&](const std::string& variant, sync_on where, segment_state state) {
      const std::string what = "durable/" + std::to_string(waiters) + "/" + variant;
      add(what + "/limit", 1, limit);
      add(what + "/lockstep", 1, [=] { return durable_append(waiters, where, state); });
    };
    add_pair("inline", sync_on::caller, segment_state::recycled);
    add_pair("inline_new", sync_on::caller, segment_state::fresh);
    add_pair("offloaded", sync_on::disk_thread, segment_state::recycled);
    add_pair("offloaded_new", sync_on::disk_thread, segment_state::fresh);
  }
  return true;
}();

}  // namespace
}  // namespace lockstep::bench
