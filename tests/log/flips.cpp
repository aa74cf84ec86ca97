// Every byte of a small log's files is changed, one at a time: the verdict is the right one, and never are wrong
// records returned.
#include "lockstep/log/append_log.hpp"
#include "lockstep/log/verify.hpp"

#include "life.hpp"

#include <gtest/gtest.h>

#include <functional>
#include <map>
#include <string>
#include <vector>

namespace lockstep::test {
namespace {

constexpr std::size_t page = log_format::segment_header_bytes;

/// The records up to the first that is not good, or whose place can't be found.
strings good_records(log_life::log_type& log) {
  strings found;
  log_life::log_type::read_place place;
  place.next = log.first_index();
  position last = log.base();
  try {
    for (;;) {
      const record_batch batch = log.read(place, 100);
      if (batch.empty()) return found;
      bytes_view rest = batch.bytes();
      while (!rest.empty()) {
        record next;
        if (log_codec::decode_record(rest, last, next) != log_codec::record_verdict::ok) return found;
        found.emplace_back(as_text(next.payload));
        last = next.position();
        rest = rest.subspan(log_format::record_bytes(next.payload.size()));
      }
    }
  } catch (const std::system_error& error) {
    EXPECT_EQ(error.code(), errc::corrupt) << error.what();
    return found;
  }
}

std::map<std::string, std::vector<std::byte>> files_but_the_lock(const faulty_disk& disk) {
  std::map<std::string, std::vector<std::byte>> files;
  for (const std::string& each : names(disk)) {
    if (each != "LOCK") files[each] = *disk.bytes("/log/" + each);
  }
  return files;
}

/// What opening a log came to.
struct opening {
  recovery_report report;
  strings records;  // good ones that can be read; none when corrupt
};

opening open_damaged(const faulty_disk& original, const std::string& path, std::uint64_t offset, unsigned bit) {
  faulty_disk disk = original.process_crash();  // a copy
  disk.flip_bit(path, offset, bit);
  const auto before = files_but_the_lock(disk);
  log_life life(disk);
  opening result;
  result.report = life.open();
  if (life.log) {
    result.records = good_records(*life.log);
    life.close();
  } else {
    EXPECT_EQ(files_but_the_lock(disk), before) << "C7: corrupt, and files changed";
    EXPECT_NE(result.report.reason, "");
    EXPECT_GE(result.report.last_bad, result.report.first_bad);
  }
  return result;
}

recovery_report verify_damaged(const faulty_disk& original, const std::string& path, std::uint64_t offset,
                               unsigned bit) {
  faulty_disk disk = original.process_crash();
  disk.flip_bit(path, offset, bit);
  asio::io_context io;
  faulty_env env(io.get_executor(), disk);
  return verify_log(env, "/log").report;
}

/// Calls check(offset, bit): every bit where headers are, one bit of each byte of the records, and of the empty rest of
/// the header page and behind the records only some.
void for_each_flip(const faulty_disk& disk, const std::string& path,
                   const std::function<void(std::uint64_t offset, unsigned bit)>& check) {
  const std::uint64_t size = disk.bytes(path)->size();
  for (std::uint64_t offset = 0; offset < size; ++offset) {
    const bool segment = path.ends_with(".seg");
    const bool header_page = segment && offset < page;
    if (header_page && offset >= log_format::segment_header_used && offset % 97 != 0) continue;
    if (segment && offset >= page + 400 && offset % 11 != 0) continue;
    const bool record_header = offset >= page && (offset - page) % 40 < log_format::record_header_bytes;
    const bool all_bits = !segment || offset < log_format::segment_header_used || (record_header && offset < page + 80);
    for (unsigned bit = 0; bit < 8; ++bit) {
      if (!all_bits && bit != offset % 8) continue;
      check(offset, bit);
      if (testing::Test::HasFatalFailure()) return;
    }
  }
}

/// Records 1 to 10 and 11 to 20 sealed, 21 to 25 in the segment that was written last; 40 bytes each.
struct flipped : testing::Test {
  faulty_disk disk;
  flipped() {
    log_life life(disk);
    life.opened();
    for (index_t i = 1; i <= 25; ++i) life.write_up_to(i);
    disk.settle();
    run(life.io, life.log->close());
  }
  static constexpr index_t record_at(index_t first, std::uint64_t offset) { return first + (offset - page) / 40; }

  /// The watermark was not yet written when the machine stopped.
  void lower_watermark(index_t to) {
    log_life life(disk);
    auto bytes = disk.bytes("/log/watermark");
    position lower = *log_codec::decode_watermark(*bytes);
    lower.index = to;
    log_codec::encode_watermark(bytes->data(), lower);
    disk.replace("/log/watermark", *bytes);
  }
};

TEST_F(flipped, nothing_yet_the_log_is_good) {
  const opening found = open_damaged(disk, "/log/LOCK", 0, 0);
  EXPECT_EQ(found.report.verdict, log_verdict::clean);
  EXPECT_EQ(found.records, numbered(1, 25));
}

TEST_F(flipped, a_sealed_segments_header_is_corruption) {
  for (const index_t first : {index_t{1}, index_t{11}}) {
    for_each_flip(disk, segment_path(first), [&](std::uint64_t offset, unsigned bit) {
      if (offset >= page) return;
      const opening found = open_damaged(disk, segment_path(first), offset, bit);
      if (offset >= log_format::segment_header_used) {
        ASSERT_EQ(found.report.verdict, log_verdict::clean) << offset << " means nothing";
        return;
      }
      ASSERT_EQ(found.report.verdict, log_verdict::corrupt) << offset << " " << bit;
      ASSERT_EQ(found.report.rule, corruption::structure) << offset << " " << bit;
      ASSERT_EQ(found.report.file, log_files::segment_name(first));
    });
  }
}

TEST_F(flipped, a_sealed_record_is_corruption_to_whoever_reads_it_all_and_never_read_as_something_else) {
  constexpr index_t first = 11;
  for_each_flip(disk, segment_path(first), [&](std::uint64_t offset, unsigned bit) {
    if (offset < page) return;
    const opening found = open_damaged(disk, segment_path(first), offset, bit);
    ASSERT_EQ(found.report.verdict, log_verdict::clean) << "opening does not read sealed records";
    const recovery_report report = verify_damaged(disk, segment_path(first), offset, bit);
    if (offset >= page + 400) {
      ASSERT_EQ(found.records, numbered(1, 25)) << offset << " was written ahead";
      ASSERT_EQ(report.verdict, log_verdict::clean);
      return;
    }
    const index_t bad = record_at(first, offset);
    ASSERT_EQ(found.records, numbered(1, bad - 1)) << offset << " " << bit;
    ASSERT_EQ(report.verdict, log_verdict::corrupt) << offset << " " << bit;
    ASSERT_EQ(report.rule, corruption::sealed_segment) << offset << " " << bit;
    ASSERT_EQ(report.first_bad, bad) << offset << " " << bit;
  });
}

TEST_F(flipped, the_last_segments_header_is_corruption) {
  for_each_flip(disk, segment_path(21), [&](std::uint64_t offset, unsigned bit) {
    if (offset >= page) return;
    const opening found = open_damaged(disk, segment_path(21), offset, bit);
    if (offset >= log_format::segment_header_used) {
      ASSERT_EQ(found.report.verdict, log_verdict::clean);
      ASSERT_EQ(found.records, numbered(1, 25));
      return;
    }
    ASSERT_EQ(found.report.verdict, log_verdict::corrupt) << offset << " " << bit;
    ASSERT_EQ(found.report.rule, corruption::structure) << offset << " " << bit;
  });
}

TEST_F(flipped, a_record_at_or_below_the_watermark_is_corruption_and_one_beyond_is_cut_off) {
  for (const index_t watermark : {index_t{25}, index_t{23}}) {
    lower_watermark(watermark);
    for_each_flip(disk, segment_path(21), [&](std::uint64_t offset, unsigned bit) {
      if (offset < page) return;
      const opening found = open_damaged(disk, segment_path(21), offset, bit);
      const index_t bad = std::min<index_t>(record_at(21, offset), 26);
      if (bad <= watermark) {
        ASSERT_EQ(found.report.verdict, log_verdict::corrupt) << offset << " " << bit;
        ASSERT_EQ(found.report.rule, corruption::watermark) << offset << " " << bit;
        ASSERT_EQ(found.report.first_bad, bad);
        ASSERT_EQ(found.report.last_bad, watermark);
        ASSERT_EQ(found.report.file, log_files::segment_name(21));
        ASSERT_EQ(found.report.offset, page + (bad - 21) * 40);
      } else {
        ASSERT_EQ(found.report.verdict, log_verdict::torn_tail) << offset << " " << bit;
        ASSERT_EQ(found.report.truncated_from, bad) << offset << " " << bit;
        ASSERT_EQ(found.records, numbered(1, bad - 1)) << offset << " " << bit;
      }
    });
  }
}

TEST_F(flipped, the_watermark_or_the_lock_changes_nothing_as_long_as_the_records_are_good) {
  for (const char* path : {"/log/watermark", "/log/LOCK"}) {
    for_each_flip(disk, path, [&](std::uint64_t offset, unsigned bit) {
      const opening found = open_damaged(disk, path, offset, bit);
      ASSERT_EQ(found.report.verdict, log_verdict::clean) << path << " " << offset << " " << bit;
      ASSERT_EQ(found.records, numbered(1, 25));
    });
  }
}

// The records 41 to 45 stand in a file that held 1 to 10 before.
TEST(flipped_recycled, an_older_lifes_bytes_mean_nothing_and_this_lifes_are_watched) {
  faulty_disk disk;
  {
    log_life life(disk);
    life.opened().write_up_to(35);
    life.compact(31);
    for (index_t i = 36; i <= 45; ++i) life.write_up_to(i);
    disk.settle();
    // Not closed: open() would write the segment anew.
  }
  const std::string path = segment_path(41);
  ASSERT_TRUE(segment_header::decode(*disk.bytes(path))->has(log_format::recycled));
  for_each_flip(disk, path, [&](std::uint64_t offset, unsigned bit) {
    const opening found = open_damaged(disk, path, offset, bit);
    if (offset < log_format::segment_header_used) {
      ASSERT_EQ(found.report.rule, corruption::structure) << offset << " " << bit;
    } else if (offset >= page && offset < page + 200) {
      ASSERT_EQ(found.report.rule, corruption::watermark) << offset << " " << bit;
    } else {
      ASSERT_EQ(found.report.verdict, log_verdict::clean) << offset << " " << bit;
      ASSERT_EQ(found.records, numbered(31, 45));
    }
  });
}

TEST_F(flipped, or_missing_or_renamed_or_cut_files_are_corruption_and_nothing_is_changed) {
  const auto expect_corrupt = [&](const char* what, corruption rule, const std::function<void(faulty_env&)>& damage) {
    faulty_disk damaged = disk.process_crash();
    {
      asio::io_context io;
      faulty_env env(io.get_executor(), damaged);
      damage(env);
    }
    const auto before = files_but_the_lock(damaged);
    log_life life(damaged);
    const recovery_report report = life.open();
    EXPECT_EQ(report.rule, rule) << what << ": " << report.reason;
    EXPECT_EQ(files_but_the_lock(damaged), before) << what;
  };
  std::error_code ec;
  expect_corrupt("the middle segment is missing", corruption::structure,
                 [&](faulty_env& env) { env.remove(segment_path(11), ec); });
  expect_corrupt("the last segment is missing", corruption::watermark,
                 [&](faulty_env& env) { env.remove(segment_path(21), ec); });
  expect_corrupt("all segments are missing", corruption::watermark, [&](faulty_env& env) {
    for (const index_t first : std::initializer_list<index_t>{1, 11, 21}) env.remove(segment_path(first), ec);
  });
  expect_corrupt("a segment was renamed", corruption::structure,
                 [&](faulty_env& env) { env.rename(segment_path(11), segment_path(12), ec); });
  expect_corrupt("a segment took the place of another", corruption::structure,
                 [&](faulty_env& env) { env.rename(segment_path(11), segment_path(21), ec); });
  for (const std::uint64_t size : std::initializer_list<std::uint64_t>{std::uint64_t{0}, std::uint64_t{79}}) {
    expect_corrupt("a sealed segment lost its header", corruption::structure,
                   [&](faulty_env& env) { env.open(segment_path(11), open_mode::read_write, ec).truncate(size, ec); });
    expect_corrupt("the last segment lost its header", corruption::structure,
                   [&](faulty_env& env) { env.open(segment_path(21), open_mode::read_write, ec).truncate(size, ec); });
  }
  for (const std::uint64_t size : std::initializer_list<std::uint64_t>{page, page + 399}) {
    expect_corrupt("a sealed segment was cut", corruption::sealed_segment,
                   [&](faulty_env& env) { env.open(segment_path(11), open_mode::read_write, ec).truncate(size, ec); });
  }
  for (const std::uint64_t size : std::initializer_list<std::uint64_t>{page, page + 40, page + 199}) {
    expect_corrupt("the last segment was cut", corruption::watermark,
                   [&](faulty_env& env) { env.open(segment_path(21), open_mode::read_write, ec).truncate(size, ec); });
  }
}

}  // namespace
}  // namespace lockstep::test
