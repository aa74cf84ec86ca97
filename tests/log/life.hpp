// One life of a program that keeps a log on a faulty_disk, so that a test reads like what happened to it.
#pragma once

#include "lockstep/log/append_log.hpp"
#include "lockstep/log/cursor.hpp"

#include "faulty_env.hpp"
#include "print.hpp"
#include "run.hpp"

#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace lockstep::test {

using strings = std::vector<std::string>;

/// "r1", "r2", … of the records `first` to `last`.
inline strings numbered(index_t first, index_t last) {
  strings result;
  for (index_t i = first; i <= last; ++i) result.push_back("r" + std::to_string(i));
  return result;
}

/// Everything small, so that a few records reach every corner: a segment holds 10 records of 40 bytes, a chunk 5, and
/// the hot tail 10.
inline log_options small_options(sync_policy policy = sync_policy::always, sync_on where = sync_on::disk_thread) {
  log_options options;
  options.sync = policy;
  options.sync_where = where;
  options.sync_interval = std::chrono::hours(1);  // tests sync by themselves
  options.segment_bytes = log_format::segment_header_bytes + 400;
  options.max_unsynced_bytes = 16 << 10;
  options.max_payload_bytes = 4 << 10;
  options.chunk_bytes = 200;
  options.hot_tail_bytes = 400;
  options.reserve_bytes = 2 << 10;
  options.prewrite_bytes = 1 << 10;
  return options;
}

inline strings payloads(const record_batch& batch) {
  strings found;
  for (const record& each : batch) found.emplace_back(as_text(each.payload));
  return found;
}

/// All that a log holds, each record verified as the one that follows the one before.
template <class Env>
strings contents(basic_append_log<Env>& log, visibility seen = visibility::durable, std::size_t max_bytes = 100) {
  strings found;
  typename basic_append_log<Env>::read_place place;
  place.next = log.first_index();
  position last = log.base();
  for (;;) {
    const record_batch batch = log.read(place, max_bytes, seen);
    if (batch.empty()) return found;
    bytes_view rest = batch.bytes();
    while (!rest.empty()) {
      record next;
      const log_codec::record_verdict verdict = log_codec::decode_record(rest, last, next);
      if (verdict != log_codec::record_verdict::ok) {
        ADD_FAILURE() << "record " << last.index + 1 << ": " << log_codec::explain(verdict);
        return found;
      }
      found.emplace_back(as_text(next.payload));
      last = next.position();
      rest = rest.subspan(log_format::record_bytes(next.payload.size()));
    }
    EXPECT_EQ(batch.last(), last.index);
    EXPECT_EQ(place.next, last.index + 1);
  }
}

class log_life {
 public:
  using log_type = basic_append_log<faulty_env>;
  using cursor_type = basic_cursor<faulty_env>;

  asio::io_context io;
  faulty_env env;
  log_options options;
  std::unique_ptr<log_type> log;

  explicit log_life(faulty_disk& disk, const log_options& with = small_options())
      : env(io.get_executor(), disk), options(with) {}

  recovery_report open() {
    auto opened = run(io, log_type::open(env, "/log", options));
    EXPECT_EQ(opened.log == nullptr, opened.report.verdict == log_verdict::corrupt);
    log = std::move(opened.log);
    return opened.report;
  }
  /// open() of which nothing is expected but that the log is there.
  log_life& opened() {
    const recovery_report report = open();
    if (!log) throw std::runtime_error("the log is corrupt: " + report.reason);
    return *this;
  }

  position append(std::string_view payload, epoch_t epoch = 1) { return log->append(epoch, as_bytes(payload)); }
  /// Appends the records up to `last`, named "r<index>".
  void append_up_to(index_t last, epoch_t epoch = 1) {
    for (index_t i = log->last().index + 1; i <= last; ++i) append("r" + std::to_string(i), epoch);
  }
  void durable(index_t index) { run(io, log->durable(index)); }
  void durable() { durable(log->last().index); }
  void write_up_to(index_t last, epoch_t epoch = 1) {
    append_up_to(last, epoch);
    durable();
  }
  void sync() { run(io, log->sync()); }
  void truncate(index_t keep) { run(io, log->truncate_suffix(keep)); }
  index_t compact(index_t first_kept) { return run(io, log->compact_prefix(first_kept)); }
  void reset(const position& start) { run(io, log->reset(start)); }
  void close() {
    run(io, log->close());
    log.reset();
  }

  [[nodiscard]] strings contents(visibility seen = visibility::durable) { return test::contents(*log, seen); }
};

/// What a new life finds.
inline strings recovered(faulty_disk& disk, const log_options& options = small_options()) {
  log_life life(disk, options);
  life.opened();
  strings found = life.contents();
  life.close();
  return found;
}

/// The names in the log's directory.
inline strings names(const faulty_disk& disk, view which = view::cached) {
  strings found;
  for (const std::string& each : disk.files(which)) {
    if (each.starts_with("/log/")) found.push_back(each.substr(5));
  }
  return found;
}

inline std::string segment_path(index_t first) { return "/log/" + log_files::segment_name(first); }

/// All policies on both kinds of thread.
struct every_policy : testing::TestWithParam<std::tuple<sync_policy, sync_on>> {
  faulty_disk disk;
  [[nodiscard]] static log_options options() { return small_options(std::get<0>(GetParam()), std::get<1>(GetParam())); }
};

inline std::string name_of_policy(const testing::TestParamInfo<every_policy::ParamType>& info) {
  return testing::PrintToString(std::get<0>(info.param)) + "_on_" + testing::PrintToString(std::get<1>(info.param));
}

inline auto policies() {
  return testing::Combine(testing::Values(sync_policy::always, sync_policy::interval, sync_policy::never),
                          testing::Values(sync_on::disk_thread, sync_on::caller));
}

}  // namespace lockstep::test
