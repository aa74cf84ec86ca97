// Recovery: what a log's files mean after a crash. Pure over segment images; the driver in log/append_log.hpp reads the
// files, and acts on the verdict.
//
// At the first record k that is not good:
//   C1  k lies in a sealed segment                                          -> corrupt
//   C2  k <= the local watermark                                            -> corrupt
//   C3  k <= an index known durable from elsewhere                          -> corrupt
//   C4  what stands behind k is more than can have been in flight           -> corrupt
//   C5  otherwise                                                           -> torn tail: truncate at k
// Zeros prove nothing (P1): a clean end at or below the watermark is corrupt as well. In a recycled segment old records
// stand behind the end; they never verify, because their indexes are lower than the segment's (P2).
#pragma once

#include "lockstep/core/mutant.hpp"
#include "lockstep/log/codec.hpp"

#include <cstring>
#include <optional>
#include <string>
#include <vector>

namespace lockstep {

/// Where the good records of one segment end, and what stands behind them.
struct segment_scan {
  position last;                    ///< of the last good record; the segment's base when there is none
  std::uint64_t good_bytes = 0;     ///< header page and good records
  std::uint64_t suspect_bytes = 0;  ///< from good_bytes to the end of whatever this life may have written there
  log_codec::record_verdict stopped_by = log_codec::record_verdict::incomplete;
};

namespace log_codec {

/// The end of the last byte that is not zero; 0 when all are.
inline std::size_t end_of_nonzero(bytes_view bytes) noexcept {
  std::size_t end = bytes.size();
  while (end >= 8 && load_le<std::uint64_t>(bytes.data() + end - 8) == 0) end -= 8;
  while (end > 0 && bytes[end - 1] == std::byte{0}) --end;
  return end;
}

/// The end of the last sound record header in `bytes`, with its record, whose index lies beyond `after`; 0 when there
/// is none. `bytes` begins at a multiple of 8 in the file.
inline std::size_t end_of_later_records(bytes_view bytes, index_t after) noexcept {
  const index_t most = after + 1 + bytes.size() / log_format::record_header_bytes;
  std::size_t end = 0;
  std::size_t at = 0;
  while (at + log_format::record_header_bytes <= bytes.size()) {
    const index_t index = load_le<std::uint64_t>(bytes.data() + at + 8);
    if (index > after && index <= most) {
      if (const auto header = decode_header(bytes.data() + at)) {
        at += header->total_bytes();
        end = at < bytes.size() ? at : bytes.size();
        continue;
      }
    }
    at += log_format::record_alignment;
  }
  return end;
}

}  // namespace log_codec

/// Calls `visit(const record&)` for each good record in order and finds where they end.
/// @param image  the segment's file from its beginning; views passed to `visit` point into it.
template <class Visit>
segment_scan scan_segment(bytes_view image, const segment_header& header, Visit&& visit) {
  segment_scan scan;
  scan.last = header.base;
  std::size_t at = log_format::segment_header_bytes;
  record found;
  while (at < image.size()) {
    scan.stopped_by = log_codec::decode_record(image.subspan(at), scan.last, found);
    if (scan.stopped_by != log_codec::record_verdict::ok) break;
    visit(static_cast<const record&>(found));
    scan.last = found.position();
    at += log_format::record_bytes(found.payload.size());
  }
  if (at >= image.size()) {
    at = image.size() < log_format::segment_header_bytes ? log_format::segment_header_bytes : image.size();
    scan.stopped_by = log_codec::record_verdict::incomplete;
  }
  scan.good_bytes = at;
  const bytes_view rest = at < image.size() ? image.subspan(at) : bytes_view();
  scan.suspect_bytes = header.has(log_format::recycled) ? log_codec::end_of_later_records(rest, scan.last.index)
                                                        : log_codec::end_of_nonzero(rest);
  return scan;
}

inline segment_scan scan_segment(bytes_view image, const segment_header& header) {
  return scan_segment(image, header, [](const record&) {});
}

enum class log_verdict {
  clean,      ///< every record is good and nothing stands behind the last
  torn_tail,  ///< records that were never acknowledged as durable were lost or half written: cut off at
              ///< `truncated_from`
  corrupt,    ///< records that were good once are not any more; no file was changed
};

/// Which rule decided; see the top of this file. `structure`: segment files missing, renamed or with a bad header.
enum class corruption { none, sealed_segment, watermark, known_durable, in_flight_limit, structure };

/// What recovery found. `first_bad` and `last_bad` bound the damaged range as far as it is known.
struct recovery_report {
  log_verdict verdict = log_verdict::clean;
  corruption rule = corruption::none;
  position last_good;
  std::size_t kept_segments = 0;          ///< how many of the segments hold the records up to last_good
  std::optional<index_t> truncated_from;  ///< torn_tail: the first index that was cut off
  index_t first_bad = 0;                  ///< corrupt: the first index that can't be read
  index_t last_bad = 0;                   ///< corrupt: the last index that is known to be affected; at least first_bad
  std::string file;                       ///< where `first_bad` is or should be
  std::uint64_t offset = 0;               ///< in `file`
  std::string reason;                     ///< for people
};

/// What recovery knows about one segment, in order of their first indexes.
struct segment_image {
  std::string file;
  std::optional<segment_header> header;  ///< nothing when it is unreadable
  index_t named_index = 0;               ///< the first index that the file's name says
  std::uint64_t file_bytes = 0;
  std::optional<segment_scan> scan;  ///< of the unsealed segments, and of all when everything is verified

  /// The header is there and belongs to this file: a recycled file may still have that of its older life.
  [[nodiscard]] bool readable() const noexcept { return header && header->first_index() == named_index; }
};

/// Knowledge from outside the records.
struct recovery_bounds {
  position watermark;         ///< {0,0,0} when there is none
  index_t known_durable = 0;  ///< from hard state, a snapshot or a manifest
};

namespace log_codec {

inline const char* explain(record_verdict verdict) noexcept {
  switch (verdict) {
    case record_verdict::ok: return "good";
    case record_verdict::incomplete: return "cut off";
    case record_verdict::bad_header: return "header check mismatch";
    case record_verdict::wrong_index: return "another record stands there";
    case record_verdict::stale_epoch: return "epoch lower than the record before";
    case record_verdict::bad_chain: return "checksum mismatch";
    case record_verdict::bad_padding: return "padding is not zero";
  }
  return "";
}

}  // namespace log_codec

/// How many of the segments at the end are unsealed and must be scanned, at least 1 when there is any.
/// A segment is sealed when its successor says so, or when the watermark covers all of it.
inline std::size_t count_unsealed(std::span<const segment_image> segments, const position& watermark) noexcept {
  std::size_t count = segments.empty() ? 0 : 1;
  while (count < segments.size()) {
    const segment_image& successor = segments[segments.size() - count];
    const bool sealed = successor.readable() && (successor.header->has(log_format::predecessor_sealed) ||
                                                 successor.header->base.index <= watermark.index);
    if (sealed) break;
    ++count;
  }
  return count;
}

/// The verdict over all segments of a directory. Of the last count_unsealed() segments, those with a readable header
/// carry a scan; a sealed segment that carries one is judged by it, and is trusted otherwise.
inline recovery_report judge(std::span<const segment_image> segments, const recovery_bounds& bounds) {
  recovery_report report;
  const auto corrupt = [&report](corruption rule, index_t first, index_t last, const std::string& file,
                                 std::uint64_t offset, std::string reason) {
    report.verdict = log_verdict::corrupt;
    report.rule = rule;
    report.first_bad = first;
    report.last_bad = last < first ? first : last;
    report.file = file;
    report.offset = offset;
    report.reason = std::move(reason);
    return report;
  };
  index_t durable = bounds.watermark.index > bounds.known_durable ? bounds.watermark.index : bounds.known_durable;
  if (mutated(mutant::skip_watermark_check)) durable = bounds.known_durable;
  if (mutated(mutant::skip_known_durable_check)) durable = bounds.watermark.index;
  const auto must_exist = [&](index_t missing, const std::string& file, std::uint64_t offset, const std::string& what) {
    const bool local = missing <= bounds.watermark.index;
    return corrupt(local ? corruption::watermark : corruption::known_durable, missing, durable, file, offset,
                   "record " + std::to_string(missing) + ": " + what + ", but " +
                       (local ? "the watermark says that " : "it is known from elsewhere that ") +
                       std::to_string(durable) + " was durable");
  };

  if (segments.empty()) {
    return durable == 0 ? report : must_exist(1, "", 0, "the directory holds no segment");
  }
  const std::size_t first_unsealed = segments.size() - count_unsealed(segments, bounds.watermark);
  // What a log that never syncs began since the last sealed segment may be torn anywhere, also in the segments'
  // headers.
  const bool never_synced = segments[first_unsealed].header && segments[first_unsealed].header->in_flight_limit == 0;
  const std::size_t whole = never_synced ? first_unsealed + 1 : segments.size();
  for (std::size_t i = 0; i < whole; ++i) {
    const segment_image& segment = segments[i];
    if (!segment.readable()) {
      return corrupt(corruption::structure, segment.named_index, segment.named_index, segment.file, 0,
                     segment.header ? "the header is that of another segment" : "the segment header is unreadable");
    }
    if (i > 0 && segment.header->previous_first != segments[i - 1].named_index) {
      return corrupt(corruption::structure, segment.header->previous_first, segment.header->base.index, segment.file, 0,
                     "the segment before it, which begins with record " +
                         std::to_string(segment.header->previous_first) + ", is missing");
    }
    if (i >= first_unsealed || !segments[i + 1].readable()) continue;
    const segment_header& successor = *segments[i + 1].header;
    if (segment.file_bytes < successor.predecessor_bytes && !mutated(mutant::skip_sealed_check)) {
      return corrupt(corruption::sealed_segment, segment.named_index, successor.base.index, segment.file,
                     segment.file_bytes, "the sealed segment is shorter than its successor says");
    }
    if (segment.scan && segment.scan->last != successor.base) {
      return corrupt(corruption::sealed_segment, segment.scan->last.index + 1, successor.base.index, segment.file,
                     segment.scan->good_bytes,
                     "record " + std::to_string(segment.scan->last.index + 1) + ": " +
                         log_codec::explain(segment.scan->stopped_by) + ", in a sealed segment");
    }
  }

  for (std::size_t i = first_unsealed; i < segments.size(); ++i) {
    const segment_image& segment = segments[i];
    const segment_scan& scan = *segment.scan;
    report.last_good = scan.last;
    report.kept_segments = i + 1;
    const bool last = i + 1 == segments.size();
    if (!last && segments[i + 1].readable() && segments[i + 1].header->base == scan.last) continue;

    const index_t bad = scan.last.index + 1;
    const std::string what = log_codec::explain(scan.stopped_by);
    const bool trusted_end = scan.suspect_bytes == 0 && mutated(mutant::zeros_prove_the_end);
    if (bad <= durable && !trusted_end) return must_exist(bad, segment.file, scan.good_bytes, what);
    const std::uint64_t limit = segment.header->in_flight_limit;
    if (limit != 0 && scan.suspect_bytes > limit && !mutated(mutant::skip_in_flight_check)) {
      return corrupt(corruption::in_flight_limit, bad, bad, segment.file, scan.good_bytes,
                     "record " + std::to_string(bad) + ": " + what + ", and " + std::to_string(scan.suspect_bytes) +
                         " bytes stand behind it where at most " + std::to_string(limit) + " can have been in flight");
    }
    if (!last && limit != 0) {
      return corrupt(corruption::structure, bad, segments[i + 1].named_index - 1, segment.file, scan.good_bytes,
                     "record " + std::to_string(bad) + ": " + what + ", but a later segment exists");
    }
    if (!last || scan.suspect_bytes != 0) {
      report.verdict = log_verdict::torn_tail;
      report.truncated_from = bad;
      report.file = segment.file;
      report.offset = scan.good_bytes;
      report.reason = "record " + std::to_string(bad) + ": " + what;
    }
    return report;
  }
  return report;
}

}  // namespace lockstep
