// verify: proves that a log directory is good, and compares two, without a lock and without changing a file.
//
//   const verified_log found = verify_log(env, "/var/lib/me/log");
//   if (found.report.verdict == log_verdict::corrupt) complain(found.report);
//
//   const log_comparison compared = compare_logs(env, "/var/lib/me/log", "/var/lib/other/log");
//   if (compared.relation == log_relation::diverged) show(compared.first_differing);
//
// append_log::open() reads the unsealed tail and the headers of the rest. verify_log() reads every record: each payload
// is hashed and chained from its segment's header on, each segment must end with the position that the next one begins
// behind, and the watermark must name a record of this history.
//
// A writer may run meanwhile. What it appends, seals, compacts, recycles or takes back under the reader looks like
// damage for a moment; so damage counts only when a second reading finds the same, and a tail is torn only when a
// second reading gets no further.
//
// What it does not promise. It says nothing of records appended after it began. It detects accidents, not attackers who
// rewrite checksums. Files are mapped: a read error of the disk arrives as SIGBUS.
#pragma once

#include "lockstep/log/detail/segment_reader.hpp"
#include "lockstep/log/directory.hpp"

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace lockstep {

/// How much verify_log() reads.
enum class verify_depth {
  tail,  ///< all headers and the records of the unsealed segments, as open() does
  all,   ///< every record
};

struct verify_options {
  verify_options() {}  // not an aggregate: see the compiler notes in CONTRIBUTING.md

  verify_depth depth = verify_depth::all;
  index_t known_durable = 0;  ///< as in log_options
  /// More than one asks of the environment that files may be opened on any thread, one at a time: real::env.
  std::size_t threads = 1;
  /// Told of bytes read so far and in all, now and then; on any of the threads, one at a time.
  std::function<void(std::uint64_t done, std::uint64_t total)> progress;
};

/// What verify_log() found.
struct verified_log {
  verified_log() {}

  log_directory directory;  ///< as it was read, with the scans of the segments that were read
  recovery_report report;
  position base;                  ///< before the first record that is kept
  std::optional<position> first;  ///< of the first record; nothing when there is no good one
  std::uint64_t records = 0;      ///< up to report.last_good; of segments that were not read, as their headers say
  std::uint64_t bytes = 0;        ///< of the segments' headers and these records
  bool being_written = false;     ///< a writer was seen at work: more records stand behind report.last_good by now
};

/// Reads and judges the log in `path`. A reset() that a crash cut short (directory.reset_intent) makes the log as it
/// will be when it is opened: empty behind the intent, whatever else is there. Blocks while it reads. Thread safety: as
/// `env`.
/// @throws system_error naming what can't be read; resource_unavailable_try_again when the files keep changing so that
///   no two readings agree.
template <environment Env>
verified_log verify_log(Env& env, const std::string& path, const verify_options& options = {});

/// Reads a log that verify_log() found, at any place and without a lock.
/// What is compacted away or taken back meanwhile is missed with errc no_such_file_or_directory: verify and read again.
/// Thread safety: none. `env` outlives it.
template <environment Env>
class basic_log_reader {
 public:
  basic_log_reader(Env& env, std::string path, verified_log log)
      : env_(env), path_(std::move(path)), log_(std::move(log)) {
    if (log_.directory.reset_intent) log_.directory.segments.clear();
  }

  [[nodiscard]] const verified_log& log() const noexcept { return log_; }
  [[nodiscard]] const position& base() const noexcept { return log_.base; }
  [[nodiscard]] const position& last() const noexcept { return log_.report.last_good; }

  /// The position at `index`, or base(); nothing when it is not kept or not there. Trusts record headers, whose chains
  /// are proven by for_each() or verify_log() only. The log is not corrupt.
  /// @throws system_error: corrupt when headers on the way are not sound.
  std::optional<position> position_at(index_t index);

  /// Calls `visit(const record&)` in order from the record at `from`, or from the first one, until it returns false.
  /// Verifies all records of the segments that it reads, up to the last one visited; views are valid during the visit.
  /// @return corrupt when the records end before last() does.
  template <class Visit>
  recovery_report for_each(index_t from, Visit&& visit);

 private:
  using reader = detail::segment_reader<Env>;

  // The segment that holds the record at `index`, or the first one.
  [[nodiscard]] std::size_t segment_of(index_t index) const noexcept;
  typename Env::mapping map(const segment_image& segment);

  Env& env_;
  std::string path_;
  verified_log log_;
  std::map<std::size_t, std::unique_ptr<reader>> readers_;  // of position_at(), by number in directory.segments
};

/// How the second log stands to the first.
enum class log_relation {
  equal,             ///< the same last position, and so the same history
  first_continues,   ///< the second ends first; all of it is in the first
  second_continues,  ///< the first ends first; all of it is in the second
  diverged,          ///< they differ at `first_differing` and everywhere behind it
  nothing_shared,    ///< one ends before the other begins to keep records
  not_compared,      ///< one of them is corrupt
};

/// A record that owns its payload.
struct stored_record {
  lockstep::position position;
  record_kind kind = data_record;
  std::vector<std::byte> payload;
};

struct log_comparison {
  log_comparison() {}

  log_relation relation = log_relation::not_compared;
  std::optional<position> last_common;         ///< nothing when they differ at the first index that both know
  index_t first_differing = 0;                 ///< diverged: behind last_common, else the first index that both know
  std::optional<stored_record> next_in_first;  ///< behind last_common, where there is one
  std::optional<stored_record> next_in_second;
  verified_log first;
  verified_log second;
};

/// Compares two logs by their chains: bisects over the positions that segments begin behind, then over the records in
/// between, and verifies the records around the place that it found. Equal histories may be kept from different indexes
/// on and lie in different segments.
/// @param options  depth `tail` trusts the sealed segments' headers elsewhere; depth `all` verifies both logs first.
/// Errors, blocking and thread safety: as verify_log().
template <environment Env>
log_comparison compare_logs(Env& env, const std::string& first, const std::string& second,
                            const verify_options& options = {});

}  // namespace lockstep

#include "lockstep/log/detail/verify_impl.hpp"

#include "lockstep/env/real.hpp"

namespace lockstep {
using log_reader = basic_log_reader<real::env>;
}  // namespace lockstep
