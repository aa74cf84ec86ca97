// Recovery over segment images: whatever the files hold, the verdict is never wrong data.
//
// Input: a byte of options, then with option bit 0 a history that is written as a log writes it and then damaged, and
// without it segments with arbitrary headers and bytes.
#include "lockstep/log/recovery.hpp"

#include "support/fuzz_input.hpp"

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

namespace {

using namespace lockstep;
using test::fuzz_input;
using byte_vector = std::vector<std::byte>;

constexpr std::size_t page = log_format::segment_header_bytes;

void check(bool holds, int line = __builtin_LINE()) {
  if (holds) return;
  std::fprintf(stderr, "line %d does not hold\n", line);
  std::abort();
}

struct segment_file {
  index_t named_index = 0;
  byte_vector bytes;
  std::size_t written_bytes = 0;  // before the damage
};

/// What was written, before the damage.
struct history {
  position base;
  std::vector<position> positions;
  std::vector<byte_vector> payloads;

  [[nodiscard]] const position& last() const { return positions.empty() ? base : positions.back(); }
  [[nodiscard]] position at(index_t index) const {
    return index <= base.index ? base : positions.at(static_cast<std::size_t>(index - base.index - 1));
  }
  void expect(const record& found) const {
    check(found.index > base.index && found.index <= last().index);
    const std::size_t i = static_cast<std::size_t>(found.index - base.index - 1);
    check(found.position() == positions[i]);
    check(std::ranges::equal(found.payload, payloads[i]));
  }
};

byte_vector encoded(const position& previous, epoch_t epoch, bytes_view payload, position& result) {
  byte_vector bytes(log_format::record_bytes(payload.size()));
  result = log_codec::encode_record(bytes.data(), previous, epoch, data_record, {&payload, 1});
  return bytes;
}

void append(byte_vector& to, bytes_view bytes) { to.insert(to.end(), bytes.begin(), bytes.end()); }

/// Each record that a scan takes for good follows the one before it, and is what its own fields encode to.
segment_scan scan(const segment_header& header, bytes_view image) {
  position previous = header.base;
  byte_vector again;
  const segment_scan found = scan_segment(image, header, [&](const record& each) {
    check(each.index == previous.index + 1 && each.epoch >= previous.epoch);
    again.resize(log_format::record_bytes(each.payload.size()));
    const position encoded_as =
        log_codec::encode_record(again.data(), previous, each.epoch, each.kind, {&each.payload, 1});
    check(encoded_as == each.position());
    check(std::memcmp(again.data(), each.payload.data() - log_format::record_header_bytes, again.size()) == 0);
    previous = each.position();
  });
  check(found.last == previous);
  check(found.good_bytes >= page && found.good_bytes <= std::max(page, image.size()));
  check(found.good_bytes + found.suspect_bytes <= std::max(page, image.size()));
  return found;
}

struct judgement {
  std::vector<segment_image> images;
  recovery_report report;
};

judgement judge_files(const std::vector<segment_file>& files, const recovery_bounds& bounds, bool scan_all) {
  judgement result;
  for (const segment_file& file : files) {
    segment_image image;
    image.named_index = file.named_index;
    image.file_bytes = file.bytes.size();
    image.header = segment_header::decode(file.bytes);
    result.images.push_back(image);
  }
  const std::size_t unsealed = count_unsealed(result.images, bounds.watermark);
  check(unsealed <= files.size() && (unsealed != 0 || files.empty()));
  for (std::size_t i = scan_all ? 0 : files.size() - unsealed; i < files.size(); ++i) {
    segment_image& image = result.images[i];
    if (image.header) image.scan = scan(*image.header, files[i].bytes);
  }
  result.report = judge(result.images, bounds);

  const recovery_report& report = result.report;
  check((report.verdict == log_verdict::corrupt) == (report.rule != corruption::none));
  check(report.truncated_from.has_value() == (report.verdict == log_verdict::torn_tail));
  if (report.verdict == log_verdict::corrupt) {
    check(report.first_bad <= report.last_bad && !report.reason.empty());
  } else {
    check(report.last_good.index >= std::max(bounds.watermark.index, bounds.known_durable));
    check(report.kept_segments <= files.size() && (report.kept_segments != 0 || files.empty()));
    check(!report.truncated_from || *report.truncated_from == report.last_good.index + 1);
  }
  return result;
}

/// Cuts off what the verdict says, as recovery does: what is left is clean and ends at the same record.
void expect_clean_after_truncation(std::vector<segment_file> files, const judgement& first,
                                   const recovery_bounds& bounds) {
  if (first.report.verdict != log_verdict::torn_tail) return;
  files.resize(first.report.kept_segments);
  byte_vector& last = files.back().bytes;
  last.resize(static_cast<std::size_t>(first.images[files.size() - 1].scan->good_bytes));
  const recovery_report again = judge_files(files, bounds, false).report;
  check(again.verdict == log_verdict::clean && again.last_good == first.report.last_good);
}

void arbitrary(fuzz_input& from, bool scan_all) {
  std::vector<segment_file> files;
  recovery_bounds bounds;
  bounds.watermark = {from.number(1), from.number(1), from.number(1)};
  bounds.known_durable = from.number(1);
  index_t named = 0;
  while (!from.empty() && files.size() < 4) {
    segment_file file;
    named += 1 + from.number(1);
    file.named_index = named;
    segment_header header;
    header.flags = static_cast<std::uint32_t>(from.number(1)) & log_format::known_flags;
    header.base = {from.number(1), named - 1 + from.number(1) / 128, from.number(1)};
    header.previous_first = files.empty() ? from.number(1) : files.back().named_index + from.number(1) / 128;
    header.predecessor_bytes = from.number(2);
    header.in_flight_limit = from.number(2);
    file.bytes.resize(page);
    header.encode(file.bytes);
    append(file.bytes, from.take(from.number(2) % 2048));
    file.bytes.resize(std::min(file.bytes.size(), page + 2048 - from.number(1) * 16));
    files.push_back(std::move(file));
  }
  expect_clean_after_truncation(files, judge_files(files, bounds, scan_all), bounds);
}

/// A log as its writer leaves it: whole segments, the last with room behind its records, zero or of an older life.
struct written_log {
  std::vector<segment_file> files;
  history records;
  index_t synced = 0;

  explicit written_log(fuzz_input& from) {
    const std::size_t options = from.number(1);
    const bool recycles = (options & 1) != 0;
    const bool bounded = (options & 2) != 0;
    // A file is recycled when its records are all below those that come: there must be some below the first.
    records.base = {options >> 4, (options & 5) != 0 ? index_t{1000} : index_t{0}, options};
    const std::size_t segments = 1 + from.number(1) % 3;
    epoch_t epoch = records.base.epoch;
    for (std::size_t i = 0; i < segments; ++i) {
      segment_file file;
      segment_header header;
      header.base = records.last();
      header.flags = (recycles && i != 0 ? log_format::recycled : 0) | (i != 0 ? log_format::predecessor_sealed : 0);
      header.in_flight_limit = bounded ? 1 << 20 : 0;
      if (i != 0) {
        header.previous_first = files.back().named_index;
        header.predecessor_bytes = files.back().bytes.size();
        synced = header.base.index;
      }
      file.named_index = header.first_index();
      file.bytes.resize(page);
      header.encode(file.bytes);
      const std::size_t fewest = i + 1 < segments ? 1 : 0;  // only the last segment may be empty
      for (std::size_t left = fewest + from.number(1) % 8; left > 0; --left) {
        const std::size_t length = from.number(1);
        if (length >= 128) ++epoch;
        const bytes_view payload = from.take(length);
        position next;
        append(file.bytes, encoded(records.last(), epoch, payload, next));
        records.positions.push_back(next);
        records.payloads.emplace_back(payload.begin(), payload.end());
      }
      file.written_bytes = file.bytes.size();
      files.push_back(std::move(file));
    }
    if (recycles && segments > 1) {
      position old{1, 0, 0};
      for (std::size_t left = from.number(1) % 8; left > 0; --left) {
        append(files.back().bytes, encoded(old, 1, from.take(from.number(1)), old));
      }
    } else {
      files.back().bytes.resize(files.back().bytes.size() + from.number(1) * 8);
    }
  }

  /// @return whether anything changed.
  bool damage(fuzz_input& from) {
    bool changed = false;
    for (std::size_t left = from.number(1) % 4; left > 0 && !files.empty(); --left) {
      const std::size_t how = from.number(1);
      const std::size_t number = from.number(1) % files.size();
      byte_vector& bytes = files[number].bytes;
      const std::size_t at = bytes.empty() ? 0 : from.number(2) % bytes.size();
      switch (how % 5) {
        case 0:
          if (!bytes.empty()) bytes[at] ^= static_cast<std::byte>(1 + how / 5);
          break;
        case 1:
          for (std::size_t i = at / 512 * 512; i < std::min(bytes.size(), at / 512 * 512 + 512); ++i) bytes[i] = {};
          break;
        case 2: bytes.resize(at); break;
        case 3: files.erase(files.begin() + static_cast<std::ptrdiff_t>(number)); break;
        case 4: append(bytes, from.take(how)); break;
      }
      changed = true;
    }
    return changed;
  }
};

void written_and_damaged(fuzz_input& from, bool scan_all) {
  written_log log(from);
  recovery_bounds bounds;
  const index_t unsynced = log.records.last().index - log.synced;
  bounds.watermark = log.records.at(log.synced + (unsynced == 0 ? 0 : from.number(1) % (unsynced + 1)));
  bounds.known_durable = (from.number(1) & 1) != 0 ? bounds.watermark.index : 0;
  const bool damaged = log.damage(from);
  const judgement found = judge_files(log.files, bounds, scan_all);

  for (std::size_t i = 0; i < log.files.size(); ++i) {
    const segment_image& image = found.images[i];
    if (image.scan && image.readable()) {
      scan_segment(log.files[i].bytes, *image.header, [&](const record& each) { log.records.expect(each); });
    }
  }
  const recovery_report& report = found.report;
  if (!damaged) {
    check(report.verdict != log_verdict::corrupt && report.last_good == log.records.last());
    // A payload of an older life may look like a later record, which nothing but a record can tell: nothing is lost.
    check(report.verdict == log_verdict::clean || found.images.back().header->has(log_format::recycled));
  }
  if (report.verdict != log_verdict::corrupt && !log.files.empty()) {
    check(report.last_good == log.records.at(report.last_good.index));
    const std::size_t sealed = log.files.size() - count_unsealed(found.images, bounds.watermark);
    for (std::size_t i = 0; i < sealed; ++i) check(log.files[i].bytes.size() >= log.files[i].written_bytes);
  }
  expect_clean_after_truncation(log.files, found, bounds);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  fuzz_input from(data, size);
  const std::size_t options = from.number(1);
  const bool scan_all = (options & 2) != 0;
  if (options & 1) {
    written_and_damaged(from, scan_all);
  } else {
    arbitrary(from, scan_all);
  }
  return 0;
}
