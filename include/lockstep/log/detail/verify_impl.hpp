// The bodies of log/verify.hpp: reading a directory until it holds still, reading records, comparing.
#pragma once

#include "lockstep/log/verify.hpp"

#include <algorithm>
#include <array>
#include <exception>
#include <mutex>
#include <system_error>
#include <thread>

namespace lockstep {

// --- judging -------------------------------------------------------------------------------------------------------

namespace detail {

/// What is wrong with a sealed segment that was scanned; nothing when it holds what its successor says. Both are
/// readable. A scan knows better than the headers alone which record is bad.
inline std::optional<recovery_report> judge_sealed(const segment_image& segment, const segment_image& successor) {
  const segment_scan& scan = *segment.scan;
  const position& end = successor.header->base;
  const bool follows = successor.header->previous_first == segment.named_index;
  if (follows && scan.last == end && scan.good_bytes == successor.header->predecessor_bytes) return std::nullopt;

  recovery_report report;
  report.verdict = log_verdict::corrupt;
  report.first_bad = scan.last.index + 1;
  report.last_bad = std::max(report.first_bad, end.index);
  if (!follows && scan.last.index < end.index && scan.suspect_bytes == 0) {
    report.rule = corruption::structure;
    report.file = log_files::segment_name(report.first_bad);
    report.reason = "records " + std::to_string(report.first_bad) + " to " + std::to_string(report.last_bad) +
                    " are missing: " + segment.file + " ends before them, and the next file is " + successor.file;
  } else if (scan.last.index < end.index) {
    report.rule = corruption::sealed_segment;
    report.file = segment.file;
    report.offset = scan.good_bytes;
    report.reason = "record " + std::to_string(report.first_bad) + ": " + log_codec::explain(scan.stopped_by);
  } else {
    report.rule = corruption::structure;
    report.first_bad = report.last_bad = successor.named_index;
    report.file = successor.file;
    report.reason = "the segment does not continue what " + segment.file + " ends with";
  }
  return report;
}

/// judge() for a directory of which every segment with a readable header was scanned.
inline recovery_report judge_scanned(std::span<const segment_image> segments, const recovery_bounds& bounds) {
  const std::size_t first_unsealed = segments.size() - count_unsealed(segments, bounds.watermark);
  for (std::size_t i = 0; i < first_unsealed; ++i) {
    if (!segments[i].readable() || !segments[i + 1].readable()) break;  // judge() says so
    if (auto found = judge_sealed(segments[i], segments[i + 1])) return *std::move(found);
  }
  return judge(segments, bounds);
}

}  // namespace detail

// --- verifying -----------------------------------------------------------------------------------------------------

namespace detail {

/// Calls `work` on this thread and on `threads - 1` others, and returns when all calls have. The first exception is
/// rethrown.
template <class Work>
void on_threads(std::size_t threads, const Work& work) {
  std::mutex mutex;
  std::exception_ptr failure;
  const auto guarded = [&] {
    try {
      work();
    } catch (...) {
      const std::lock_guard lock(mutex);
      if (!failure) failure = std::current_exception();
    }
  };
  {
    std::vector<std::jthread> others;
    for (std::size_t i = 1; i < threads; ++i) others.emplace_back(guarded);
    guarded();
  }
  if (failure) std::rethrow_exception(failure);
}

/// One verify_log().
template <environment Env>
class log_verification {
 public:
  log_verification(Env& env, const std::string& path, const verify_options& options)
      : env_(env), path_(path), options_(options) {}

  verified_log run() {
    verified_log before;
    for (int readings = 0; readings < most_readings; ++readings) {
      verified_log now = read(before.directory);
      if (!vanished_ && settled(before.report, now)) return now;
      before = std::move(now);
      if (vanished_) before.report = recovery_report();
    }
    throw std::system_error(std::make_error_code(std::errc::resource_unavailable_try_again),
                            "log directory " + path_ + " changes faster than it can be read");
  }

 private:
  static constexpr int most_readings = 100;
  static constexpr std::uint64_t progress_step = 8 << 20;

  // Whether the second of two readings is to be believed.
  static bool settled(const recovery_report& before, verified_log& now) {
    switch (now.report.verdict) {
      case log_verdict::clean: return true;
      case log_verdict::torn_tail:
        if (before.verdict != log_verdict::torn_tail) return false;
        // Records that looked torn are whole by now: so will those be that look torn now.
        if (*before.truncated_from <= now.report.last_good.index) {
          now.report.verdict = log_verdict::clean;
          now.report.truncated_from.reset();
          now.being_written = true;
        }
        return now.being_written || before.truncated_from == now.report.truncated_from;
      case log_verdict::corrupt:
        return before.verdict == log_verdict::corrupt && before.rule == now.report.rule &&
               before.first_bad == now.report.first_bad && before.file == now.report.file &&
               before.offset == now.report.offset;
    }
    return false;
  }

  // `before` is the reading before; its sealed segments need not be read again.
  verified_log read(const log_directory& before) {
    verified_log found;
    log_directory& directory = found.directory;
    // Before the records: it covers only what stands in the files by now.
    const position watermark = read_watermark();
    directory = log_directory::read(env_, path_);
    directory.watermark = watermark;
    vanished_ = false;
    at_watermark_.reset();
    if (directory.reset_intent) {
      found.base = found.report.last_good = *directory.reset_intent;
      return found;
    }
    std::vector<segment_image>& segments = directory.segments;
    reuse_scans(segments, before.segments);
    const std::size_t sealed = segments.size() - count_unsealed(segments, watermark);
    scan_from(directory, options_.depth == verify_depth::all ? 0 : sealed);
    if (vanished_) return found;

    const recovery_bounds bounds{watermark, options_.known_durable};
    found.report = options_.depth == verify_depth::all ? judge_scanned(segments, bounds) : judge(segments, bounds);
    if (found.report.verdict == log_verdict::corrupt) {
      found.report.last_good = end_of_unbroken(segments);
    } else {
      judge_watermark(directory, found.report);
    }
    if (segments.empty() || !segments.front().readable()) return found;
    found.base = segments.front().header->base;
    count(found);
    if (found.records != 0) found.first = read_first(segments.front());
    return found;
  }

  position read_watermark() {
    for (int tries = 0; tries < 3; ++tries) {  // it may be read half written
      std::error_code ec;
      const auto file = env_.open(log_files::join(path_, log_files::watermark), open_mode::read, ec);
      std::array<std::byte, log_format::watermark_bytes> bytes;
      const std::size_t got = ec ? 0 : file.pread(0, bytes, ec);
      if (ec == std::errc::no_such_file_or_directory || ec == std::errc::not_a_directory) break;
      if (ec) throw std::system_error(ec, "cannot read " + log_files::join(path_, log_files::watermark));
      if (const auto found = log_codec::decode_watermark({bytes.data(), got})) return *found;
    }
    return {};
  }

  static void reuse_scans(std::vector<segment_image>& segments, const std::vector<segment_image>& before) {
    for (std::size_t i = 0; i + 1 < segments.size(); ++i) {
      const auto known = std::lower_bound(before.begin(), before.end(), segments[i].named_index,
                                          [](const segment_image& a, index_t index) { return a.named_index < index; });
      if (known == before.end() || known->named_index != segments[i].named_index) continue;
      if (!known->header || !known->scan || !segments[i].header || !segments[i + 1].header) continue;
      // Positions name whole histories: what begins and ends as before holds what it held.
      if (segments[i].header->base == known->header->base && known->scan->last == segments[i + 1].header->base) {
        segments[i].scan = known->scan;
      }
    }
  }

  void scan_from(log_directory& directory, std::size_t first) {
    std::vector<segment_image*> wanted;
    std::uint64_t total = 0;
    for (std::size_t i = first; i < directory.segments.size(); ++i) {
      if (directory.segments[i].scan) continue;
      wanted.push_back(&directory.segments[i]);
      total += directory.segments[i].file_bytes;
    }
    std::mutex mutex;  // guards the environment and what follows
    std::size_t next = 0;
    std::uint64_t done = 0;
    const auto advance = [&](std::uint64_t bytes) {
      done += bytes;
      if (options_.progress) options_.progress(std::min(done, total), total);
    };
    on_threads(std::clamp<std::size_t>(options_.threads, 1, std::max<std::size_t>(wanted.size(), 1)), [&] {
      std::unique_lock lock(mutex);
      while (next < wanted.size()) {
        segment_image& segment = *wanted[next++];
        const std::uint64_t listed_bytes = segment.file_bytes;
        typename Env::mapping mapped = map_now(segment);
        if (!segment.header) continue;
        lock.unlock();
        std::uint64_t reported = 0;
        std::optional<position> at_watermark;
        const bytes_view image = mapped.bytes();
        segment.scan = scan_segment(image, *segment.header, [&](const record& each) {
          if (each.index == directory.watermark.index) at_watermark = each.position();
          const auto upto = static_cast<std::uint64_t>(each.payload.data() - image.data());
          if (upto < reported + progress_step) return;
          const std::lock_guard reporting(mutex);
          advance(upto - reported);
          reported = upto;
        });
        mapped = typename Env::mapping();
        lock.lock();
        if (at_watermark) at_watermark_ = at_watermark;
        advance(listed_bytes > reported ? listed_bytes - reported : 0);
      }
    });
  }

  // The segment as it is now: it may have grown, been replaced, or be gone since it was listed.
  typename Env::mapping map_now(segment_image& segment) {
    const std::string name = log_files::join(path_, segment.file);
    typename Env::mapping mapped;
    std::error_code ec;
    const auto file = env_.open(name, open_mode::read, ec);
    if (ec == std::errc::no_such_file_or_directory) {
      vanished_ = true;
      segment.header.reset();
      return mapped;
    }
    if (!ec) segment.file_bytes = file.size(ec);
    if (!ec) mapped = file.map(0, segment.file_bytes, ec);
    if (ec) throw std::system_error(ec, "cannot read " + name);
    const bytes_view page = mapped.bytes();
    segment.header = segment_header::decode(page.first(std::min(page.size(), log_format::segment_header_used)));
    return mapped;
  }

  void judge_watermark(const log_directory& directory, recovery_report& report) const {
    std::optional<position> here = at_watermark_;
    for (const segment_image& each : directory.segments) {
      if (each.header && each.header->base.index == directory.watermark.index) here = each.header->base;
    }
    if (!here || *here == directory.watermark) return;
    report.verdict = log_verdict::corrupt;
    report.rule = corruption::watermark;
    report.truncated_from.reset();
    report.first_bad = report.last_bad = directory.watermark.index;
    report.file = log_files::watermark;
    report.offset = 0;
    report.reason =
        "record " + std::to_string(directory.watermark.index) + ": the watermark names another record than stands here";
  }

  // Where the records that are known good end, from the beginning on.
  static position end_of_unbroken(const std::vector<segment_image>& segments) {
    position end;
    for (std::size_t i = 0; i < segments.size(); ++i) {
      if (!segments[i].readable() || (i > 0 && segments[i].header->base != end)) break;
      end = segments[i].header->base;
      if (segments[i].scan) {
        end = segments[i].scan->last;
      } else if (i + 1 < segments.size() && segments[i + 1].header) {
        end = segments[i + 1].header->base;
      }
    }
    return end;
  }

  static void count(verified_log& found) {
    const std::vector<segment_image>& segments = found.directory.segments;
    for (std::size_t i = 0; i < segments.size(); ++i) {
      if (!segments[i].readable() || segments[i].header->base.index > found.report.last_good.index) break;
      if (segments[i].scan) {
        found.records += segments[i].scan->last.index - segments[i].header->base.index;
        found.bytes += segments[i].scan->good_bytes;
      } else if (i + 1 < segments.size() && segments[i + 1].header) {
        found.records += segments[i + 1].header->base.index - segments[i].header->base.index;
        found.bytes += segments[i + 1].header->predecessor_bytes;
      }
    }
  }

  std::optional<position> read_first(const segment_image& segment) {
    std::error_code ec;
    const auto file = env_.open(log_files::join(path_, segment.file), open_mode::read, ec);
    std::array<std::byte, log_format::record_header_bytes> bytes;
    if (!ec && file.pread(log_format::segment_header_bytes, bytes, ec) != bytes.size()) return std::nullopt;
    if (ec == std::errc::no_such_file_or_directory) vanished_ = true;
    if (ec) return std::nullopt;
    const auto header = log_codec::decode_header(bytes.data());
    if (!header || header->index != segment.named_index) return std::nullopt;
    return position{header->epoch(), header->index, header->chain};
  }

  Env& env_;
  const std::string& path_;
  const verify_options& options_;
  bool vanished_ = false;                 // a listed segment was gone when it was opened
  std::optional<position> at_watermark_;  // the record that has the watermark's index
};

}  // namespace detail

template <environment Env>
verified_log verify_log(Env& env, const std::string& path, const verify_options& options) {
  return detail::log_verification<Env>(env, path, options).run();
}

// --- reading -------------------------------------------------------------------------------------------------------

template <environment Env>
std::size_t basic_log_reader<Env>::segment_of(index_t index) const noexcept {
  const std::vector<segment_image>& segments = log_.directory.segments;
  const auto after = std::upper_bound(segments.begin(), segments.end(), index,
                                      [](index_t i, const segment_image& each) { return i < each.named_index; });
  return after == segments.begin() ? 0 : static_cast<std::size_t>(after - segments.begin()) - 1;
}

template <environment Env>
typename Env::mapping basic_log_reader<Env>::map(const segment_image& segment) {
  const std::string name = log_files::join(path_, segment.file);
  std::error_code ec;
  const auto file = env_.open(name, open_mode::read, ec);
  typename Env::mapping mapped;
  if (!ec) mapped = file.map(0, file.size(ec), ec);
  if (ec) throw std::system_error(ec, "cannot read " + name);
  return mapped;
}

template <environment Env>
std::optional<position> basic_log_reader<Env>::position_at(index_t index) {
  if (index == last().index) return last();
  if (index == base().index) return base();
  if (index < base().index || index > last().index) return std::nullopt;
  const std::vector<segment_image>& segments = log_.directory.segments;
  const std::size_t number = segment_of(index);
  const segment_image& segment = segments[number];
  if (number + 1 < segments.size() && segments[number + 1].header->base.index == index) {
    return segments[number + 1].header->base;
  }
  std::unique_ptr<reader>& mapped = readers_[number];
  if (!mapped) mapped = std::make_unique<reader>(map(segment), segment.header->base);
  const std::uint64_t end = segment.scan ? segment.scan->good_bytes : segments[number + 1].header->predecessor_bytes;
  const std::uint64_t at = end <= mapped->bytes().size() ? mapped->offset_of(index, end) : 0;
  const auto header = at != 0 && at + log_format::record_header_bytes <= end
                          ? log_codec::decode_header(mapped->bytes().data() + at)
                          : std::nullopt;
  if (!header || header->index != index) {
    throw std::system_error(errc::corrupt, "record " + std::to_string(index) + " in " + segment.file);
  }
  return position{header->epoch(), index, header->chain};
}

template <environment Env>
template <class Visit>
recovery_report basic_log_reader<Env>::for_each(index_t from, Visit&& visit) {
  recovery_report report;
  report.last_good = base();
  const std::vector<segment_image>& segments = log_.directory.segments;
  const bool corrupt = log_.report.verdict == log_verdict::corrupt;
  const index_t end = corrupt ? ~index_t{0} : last().index;
  log_codec::record_verdict stopped_by = log_codec::record_verdict::incomplete;
  const std::size_t begin = segment_of(from);
  for (std::size_t i = begin; i < segments.size() && report.last_good.index < end; ++i) {
    if (!segments[i].readable()) break;
    if (i == begin) report.last_good = segments[i].header->base;
    if (report.last_good != segments[i].header->base) break;
    const auto mapped = map(segments[i]);
    const bytes_view image = mapped.bytes();
    report.file = segments[i].file;
    report.offset = log_format::segment_header_bytes;
    for (record found; report.last_good.index < end && report.offset < image.size();) {
      stopped_by = log_codec::decode_record(image.subspan(report.offset), report.last_good, found);
      if (stopped_by != log_codec::record_verdict::ok) break;
      if (found.index >= from && !visit(static_cast<const record&>(found))) return report;
      report.last_good = found.position();
      report.offset += log_format::record_bytes(found.payload.size());
    }
  }
  if (!corrupt && report.last_good.index == end) return report;
  if (corrupt && log_.report.first_bad <= report.last_good.index + 1) return log_.report;
  report.verdict = log_verdict::corrupt;
  report.rule = corruption::sealed_segment;
  report.first_bad = report.last_bad = report.last_good.index + 1;
  report.reason = "record " + std::to_string(report.first_bad) + ": " + log_codec::explain(stopped_by);
  return report;
}

// --- comparing -----------------------------------------------------------------------------------------------------

namespace detail {

/// The last index in [low, high] of which `agree` holds, by bisection: it holds at `low`, and not behind where it does
/// not.
template <class Agree>
index_t last_agreeing(index_t low, index_t high, const Agree& agree) {
  while (low < high) {
    const index_t middle = high - (high - low) / 2;
    if (agree(middle)) {
      low = middle;
    } else {
      high = middle - 1;
    }
  }
  return low;
}

/// The indexes in (low, high) that segments of either log begin behind, between `low` and `high`; rising.
inline std::vector<index_t> segment_bounds(const verified_log& a, const verified_log& b, index_t low, index_t high) {
  std::vector<index_t> bounds{low, high};
  for (const verified_log* log : {&a, &b}) {
    for (const segment_image& each : log->directory.segments) {
      const index_t index = each.header ? each.header->base.index : low;
      if (index > low && index < high) bounds.push_back(index);
    }
  }
  std::sort(bounds.begin(), bounds.end());
  bounds.erase(std::unique(bounds.begin(), bounds.end()), bounds.end());
  return bounds;
}

/// Fills in everything but the logs. @return false when a record on the way is corrupt.
template <environment Env>
bool compare(basic_log_reader<Env>& a, basic_log_reader<Env>& b, log_comparison& result) {
  const index_t low = std::max(a.base().index, b.base().index);
  const index_t high = std::min(a.last().index, b.last().index);
  if (low > high) {
    result.relation = log_relation::nothing_shared;
    return true;
  }
  const auto agree = [&](index_t index) { return a.position_at(index) == b.position_at(index); };
  result.last_common.reset();
  if (agree(high)) {
    result.last_common = a.position_at(high);
    result.relation = a.last().index > high   ? log_relation::first_continues
                      : b.last().index > high ? log_relation::second_continues
                                              : log_relation::equal;
  } else {
    result.relation = log_relation::diverged;
    result.first_differing = low;
    if (agree(low)) {
      const std::vector<index_t> bounds = segment_bounds(a.log(), b.log(), low, high);
      const index_t bound = last_agreeing(0, bounds.size() - 1, [&](index_t i) { return agree(bounds[i]); });
      // They differ at the next bound, so that there is one.
      const index_t common = last_agreeing(bounds[bound], bounds[bound + 1] - 1, agree);
      result.last_common = a.position_at(common);
      result.first_differing = common + 1;
    }
  }
  const auto next = [&](basic_log_reader<Env>& log, std::optional<stored_record>& into) {
    const index_t from = result.last_common ? result.last_common->index + 1 : result.first_differing;
    into.reset();
    if (from > log.last().index) return true;
    const recovery_report read = log.for_each(from, [&](const record& found) {
      into = stored_record{found.position(), found.kind, {found.payload.begin(), found.payload.end()}};
      return false;
    });
    return read.verdict != log_verdict::corrupt && into && (into->position == log.position_at(into->position.index));
  };
  return next(a, result.next_in_first) && next(b, result.next_in_second);
}

}  // namespace detail

template <environment Env>
log_comparison compare_logs(Env& env, const std::string& first, const std::string& second,
                            const verify_options& options) {
  verify_options thorough = options;
  thorough.depth = verify_depth::all;
  constexpr int most_readings = 100;
  bool found_damage = false;
  for (int readings = 0; readings < most_readings; ++readings) {
    log_comparison result;
    result.first = verify_log(env, first, found_damage ? thorough : options);
    result.second = verify_log(env, second, found_damage ? thorough : options);
    if (result.first.report.verdict == log_verdict::corrupt || result.second.report.verdict == log_verdict::corrupt) {
      return result;
    }
    basic_log_reader<Env> a(env, first, result.first);
    basic_log_reader<Env> b(env, second, result.second);
    try {
      if (detail::compare(a, b, result)) return result;
      found_damage = true;  // or a writer changed the files: verify_log() can tell
    } catch (const std::system_error& error) {
      if (error.code() == errc::corrupt) {
        found_damage = true;
      } else if (error.code() != std::errc::no_such_file_or_directory) {
        throw;
      }
    }
  }
  throw std::system_error(std::make_error_code(std::errc::resource_unavailable_try_again),
                          "log directories " + first + " and " + second + " change faster than they can be compared");
}

}  // namespace lockstep
