#include "lockstep/log/recovery.hpp"

#include "images.hpp"
#include "print.hpp"

#include <gtest/gtest.h>

#include <functional>
#include <string>
#include <vector>

namespace lockstep {

namespace {

using log_codec::record_verdict;
using test::byte_vector;
using test::encoded;
using test::segment_file;

constexpr std::size_t page = log_format::segment_header_bytes;

segment_header first_header(std::uint64_t in_flight_limit = 1 << 20) {
  segment_header header;
  header.in_flight_limit = in_flight_limit;
  return header;
}

// --- scan_segment
// -------------------------------------------------------------------------------------------------------

TEST(scan_segment, visits_every_record_and_ends_with_the_file) {
  const segment_file file = segment_file(first_header()).add("a").add("b", 2).add("c", 2);
  std::string visited;
  const segment_scan scan =
      scan_segment(file.bytes, file.header, [&](const record& each) { visited += as_text(each.payload); });
  EXPECT_EQ(visited, "abc");
  EXPECT_EQ(scan.last, file.last);
  EXPECT_EQ(scan.good_bytes, file.bytes.size());
  EXPECT_EQ(scan.suspect_bytes, 0u);
}

TEST(scan_segment, zeros_behind_the_last_record_are_its_end) {
  const segment_file file = segment_file(first_header()).add_many(3).zeros(5000);
  const segment_scan scan = file.scan();
  EXPECT_EQ(scan.last, file.last);
  EXPECT_EQ(scan.good_bytes, file.bytes.size() - 5000);
  EXPECT_EQ(scan.suspect_bytes, 0u);
}

TEST(scan_segment, stops_before_the_first_bad_record_and_suspects_what_stands_behind) {
  const segment_file file = segment_file(first_header()).add_many(5).damage(2).zeros(100);
  const segment_scan scan = file.scan();
  EXPECT_EQ(scan.last.index, 2u);
  EXPECT_EQ(scan.good_bytes, file.begins[2]);
  EXPECT_EQ(scan.stopped_by, record_verdict::bad_chain);
  // The last record's padding is zero, so that only its 7 bytes of payload count.
  EXPECT_EQ(scan.suspect_bytes, file.begins[4] + 32 + 7 - file.begins[2]);
}

TEST(scan_segment, of_an_empty_segment_ends_at_its_base) {
  segment_header header = first_header();
  header.base = {4, 99, 1234};
  for (const std::size_t size : std::initializer_list<std::size_t>{std::size_t{0}, std::size_t{80}, page, page + 100}) {
    const segment_scan scan = segment_file(header).cut(size).scan();
    EXPECT_EQ(scan.last, header.base) << size;
    EXPECT_EQ(scan.good_bytes, page) << size;
    EXPECT_EQ(scan.suspect_bytes, 0u) << size;
  }
}

TEST(scan_segment, takes_a_record_that_the_file_cuts_off_for_incomplete) {
  segment_file file = segment_file(first_header()).add_many(2);
  file.cut(file.bytes.size() - 1);
  const segment_scan scan = file.scan();
  EXPECT_EQ(scan.last.index, 1u);
  EXPECT_EQ(scan.stopped_by, record_verdict::incomplete);
  EXPECT_GT(scan.suspect_bytes, 0u);
}

TEST(scan_segment, does_not_continue_from_another_history) {
  segment_header header = first_header();
  header.base = {1, 3, 42};
  segment_file file(header);
  const byte_vector stray = encoded({1, 3, 43}, 1, "of another log");
  file.bytes.insert(file.bytes.end(), stray.begin(), stray.end());
  EXPECT_EQ(file.scan().last, header.base);
  EXPECT_EQ(file.scan().stopped_by, record_verdict::bad_chain);
}

TEST(scan_segment, does_not_go_back_to_an_older_epoch) {
  segment_file file = segment_file(first_header()).add("new", 5);
  const byte_vector stale = encoded(file.last, 4, "stale");
  file.bytes.insert(file.bytes.end(), stale.begin(), stale.end());
  EXPECT_EQ(file.scan().last, file.last);
  EXPECT_EQ(file.scan().stopped_by, record_verdict::stale_epoch);
}

// P2: the file held records of an older life before.
struct recycled_segment : testing::Test {
  segment_file old = segment_file(first_header()).add_many(20, "OLDLIFE");

  // Records 100 and 101 over the records 1 to 20 of the older life.
  segment_file recycled(std::size_t records) {
    segment_header header = first_header();
    header.flags = log_format::recycled;
    header.base = {1, 99, 555};
    segment_file file = segment_file(header).add_many(records);
    file.bytes.insert(file.bytes.end(), old.bytes.begin() + static_cast<std::ptrdiff_t>(file.bytes.size()),
                      old.bytes.end());
    return file;
  }
};

TEST_F(recycled_segment, does_not_read_on_into_the_older_life) {
  const segment_file file = recycled(2);
  const segment_scan scan = file.scan();
  EXPECT_EQ(scan.last, file.last);
  EXPECT_EQ(scan.stopped_by, record_verdict::wrong_index);
}

TEST_F(recycled_segment, does_not_suspect_the_records_of_the_older_life) {
  EXPECT_EQ(recycled(2).scan().suspect_bytes, 0u);
  EXPECT_EQ(recycled(0).scan().suspect_bytes, 0u);
}

TEST_F(recycled_segment, suspects_later_records_of_this_life) {
  const segment_file file = recycled(5).damage(2);
  const segment_scan scan = file.scan();
  EXPECT_EQ(scan.last.index, 101u);
  EXPECT_EQ(scan.suspect_bytes, file.begins[4] + 40 - file.begins[2]) << "up to the end of record 104";
}

TEST_F(recycled_segment, suspects_a_record_whose_payload_did_not_arrive) {
  segment_file file = recycled(3);
  file.cut(file.begins[2] + 32);
  const segment_scan scan = file.scan();
  EXPECT_EQ(scan.last.index, 101u);
  EXPECT_EQ(scan.suspect_bytes, 32u) << "never beyond the file";
}

TEST_F(recycled_segment, never_takes_an_older_record_for_one_of_its_own_wherever_they_meet) {
  const segment_file full = recycled(10);
  const std::size_t end = full.begins[9] + 40;
  for (std::size_t torn = page; torn < end; ++torn) {
    byte_vector mixed = old.bytes;
    std::copy_n(full.bytes.begin(), torn, mixed.begin());
    const segment_scan scan = scan_segment(mixed, full.header, [&](const record& each) {
      ASSERT_GE(each.index, 100u);
      ASSERT_EQ(as_text(each.payload), "payload");
    });
    // A record is whole without its last byte: the padding is zero in both lives.
    ASSERT_EQ(scan.last.index, 99 + (torn - page + 1) / 40) << torn;
  }
}

TEST(end_of_nonzero, finds_the_last_byte_wherever_it_is) {
  for (std::size_t size = 0; size < 40; ++size) {
    EXPECT_EQ(log_codec::end_of_nonzero(byte_vector(size)), 0u);
    for (std::size_t at = 0; at < size; ++at) {
      byte_vector bytes(size);
      bytes[at] = std::byte{1};
      EXPECT_EQ(log_codec::end_of_nonzero(bytes), at + 1) << size << " " << at;
    }
  }
}

// --- judge
// --------------------------------------------------------------------------------------------------------------

/// Segment files in a directory, as recovery sees them.
struct directory_image {
  std::vector<segment_file> files;
  std::vector<segment_image> images;

  explicit directory_image(std::vector<segment_file> of) : files(std::move(of)) {
    for (const segment_file& each : files) {
      segment_image image;
      image.header = segment_header::decode(each.bytes);
      image.named_index = each.header.first_index();
      image.file = "segment-" + std::to_string(image.named_index);
      image.file_bytes = each.bytes.size();
      images.push_back(image);
    }
  }
  directory_image& without(std::size_t number) {
    files.erase(files.begin() + static_cast<std::ptrdiff_t>(number));
    images.erase(images.begin() + static_cast<std::ptrdiff_t>(number));
    return *this;
  }

  [[nodiscard]] recovery_report recover(const recovery_bounds& bounds = {}) { return judged(bounds, false); }
  /// As recover(), with the sealed segments scanned too.
  [[nodiscard]] recovery_report verify(const recovery_bounds& bounds = {}) { return judged(bounds, true); }

 private:
  recovery_report judged(const recovery_bounds& bounds, bool everything) {
    const std::size_t sealed = images.size() - count_unsealed(images, bounds.watermark);
    for (std::size_t i = everything ? 0 : sealed; i < images.size(); ++i) {
      if (images[i].header) images[i].scan = scan_segment(files[i].bytes, *images[i].header);
    }
    return judge(images, bounds);
  }
};

recovery_bounds watermark_at(index_t index) {
  recovery_bounds bounds;
  bounds.watermark.index = index;
  return bounds;
}
recovery_bounds known_elsewhere(index_t index) {
  recovery_bounds bounds;
  bounds.known_durable = index;
  return bounds;
}

directory_image one(const segment_file& file) { return directory_image({file}); }

/// 1..10, 11..20, 21..25, each sealed by the next; the last has zeros behind its end.
struct three_segments : testing::Test {
  segment_file a = segment_file(first_header()).add_many(10);
  segment_file b = segment_file(a.successor()).add_many(10);
  segment_file c = segment_file(b.successor()).add_many(5);
  directory_image directory() { return directory_image({a, b, segment_file(c).zeros(4096)}); }
};

TEST(judge, an_empty_directory_is_clean) {
  const recovery_report report = judge({}, {});
  EXPECT_EQ(report.verdict, log_verdict::clean);
  EXPECT_EQ(report.last_good, position{});
}

TEST(judge, an_empty_directory_that_was_known_to_hold_records_is_corrupt) {
  EXPECT_EQ(judge({}, watermark_at(1)).rule, corruption::watermark);
  const recovery_report report = judge({}, known_elsewhere(7));
  EXPECT_EQ(report.verdict, log_verdict::corrupt);
  EXPECT_EQ(report.rule, corruption::known_durable);
  EXPECT_EQ(report.first_bad, 1u);
  EXPECT_EQ(report.last_bad, 7u);
}

TEST_F(three_segments, that_are_whole_are_clean) {
  const recovery_report report = directory().recover(watermark_at(25));
  EXPECT_EQ(report.verdict, log_verdict::clean);
  EXPECT_EQ(report.rule, corruption::none);
  EXPECT_EQ(report.last_good, c.last);
  EXPECT_EQ(report.kept_segments, 3u);
  EXPECT_FALSE(report.truncated_from);
}

TEST_F(three_segments, need_no_scan_but_of_the_last) {
  directory_image image = directory();
  (void)image.recover();
  EXPECT_FALSE(image.images[0].scan);
  EXPECT_FALSE(image.images[1].scan);
  EXPECT_TRUE(image.images[2].scan);
}

// C1
TEST_F(three_segments, c1_a_bad_record_in_a_sealed_segment_is_corruption) {
  b.damage(3);
  const recovery_report report = directory().verify();
  EXPECT_EQ(report.verdict, log_verdict::corrupt);
  EXPECT_EQ(report.rule, corruption::sealed_segment);
  EXPECT_EQ(report.first_bad, 14u);
  EXPECT_EQ(report.last_bad, 20u);
  EXPECT_EQ(report.file, "segment-11");
  EXPECT_EQ(report.offset, b.begins[3]);
  EXPECT_NE(report.reason.find("record 14: checksum mismatch"), std::string::npos) << report.reason;
}

TEST_F(three_segments, c1_a_sealed_segment_that_ends_early_is_corrupt) {
  // Cut at a record's end, and then filled with zeros again: nothing in the segment itself looks bad.
  const std::size_t full = b.bytes.size();
  b.cut(b.begins[7]).zeros(full - b.begins[7]);
  const recovery_report report = directory().verify();
  EXPECT_EQ(report.rule, corruption::sealed_segment);
  EXPECT_EQ(report.first_bad, 18u);
}

TEST_F(three_segments, c1_a_sealed_segment_of_another_history_is_corrupt) {
  directory_image image({segment_file(first_header()).add_many(10, "PAYLOAD"), b, c});
  EXPECT_EQ(image.verify().rule, corruption::sealed_segment);
}

TEST_F(three_segments, c1_a_sealed_segment_that_is_shorter_than_its_successor_says_is_corrupt_without_a_scan) {
  b.cut(b.bytes.size() - 1);
  const recovery_report report = directory().recover();
  EXPECT_EQ(report.rule, corruption::sealed_segment);
  EXPECT_EQ(report.first_bad, 11u);
  EXPECT_EQ(report.last_bad, 20u);
  EXPECT_EQ(report.file, "segment-11");
}

TEST_F(three_segments, are_whole_though_the_watermark_was_lost) {
  EXPECT_EQ(directory().verify().verdict, log_verdict::clean);
}

// C2
TEST(judge, c2_a_bad_record_at_or_below_the_watermark_is_corruption) {
  const segment_file file = segment_file(first_header()).add_many(10).damage(4);
  for (const index_t watermark : {index_t{5}, index_t{7}, index_t{10}}) {
    const recovery_report report = one(file).recover(watermark_at(watermark));
    EXPECT_EQ(report.verdict, log_verdict::corrupt) << watermark;
    EXPECT_EQ(report.rule, corruption::watermark) << watermark;
    EXPECT_EQ(report.first_bad, 5u);
    EXPECT_EQ(report.last_bad, watermark);
    EXPECT_EQ(report.offset, file.begins[4]);
  }
}

TEST(judge, c5_a_bad_record_just_beyond_the_watermark_is_a_torn_tail) {
  const segment_file file = segment_file(first_header()).add_many(10).damage(4);
  const recovery_report report = one(file).recover(watermark_at(4));
  EXPECT_EQ(report.verdict, log_verdict::torn_tail);
  EXPECT_EQ(report.rule, corruption::none);
  EXPECT_EQ(report.truncated_from, 5u);
  EXPECT_EQ(report.last_good.index, 4u);
  EXPECT_EQ(report.offset, file.begins[4]);
}

// P1
TEST(judge, p1_a_clean_end_below_the_watermark_is_corruption) {
  const segment_file file = segment_file(first_header()).add_many(3).zeros(1000);
  const recovery_report report = one(file).recover(watermark_at(4));
  EXPECT_EQ(report.rule, corruption::watermark);
  EXPECT_EQ(report.first_bad, 4u);
  EXPECT_EQ(one(segment_file(first_header()).add_many(3)).recover(watermark_at(4)).rule, corruption::watermark)
      << "without zeros too";
  EXPECT_EQ(one(file).recover(watermark_at(3)).verdict, log_verdict::clean);
}

// C3
TEST(judge, c3_a_bad_record_known_durable_from_elsewhere_is_corruption) {
  const segment_file file = segment_file(first_header()).add_many(10).damage(4);
  const recovery_report report = one(file).recover(known_elsewhere(5));
  EXPECT_EQ(report.verdict, log_verdict::corrupt);
  EXPECT_EQ(report.rule, corruption::known_durable);
  EXPECT_EQ(report.last_bad, 5u);
  EXPECT_EQ(one(file).recover(known_elsewhere(4)).verdict, log_verdict::torn_tail);
}

TEST(judge, c3_a_clean_end_below_an_index_known_durable_is_corruption) {
  EXPECT_EQ(one(segment_file(first_header()).add_many(3)).recover(known_elsewhere(4)).rule, corruption::known_durable);
}

TEST(judge, the_higher_of_watermark_and_known_index_bounds_the_damage) {
  const segment_file file = segment_file(first_header()).add_many(3);
  recovery_bounds bounds = watermark_at(5);
  bounds.known_durable = 9;
  EXPECT_EQ(one(file).recover(bounds).last_bad, 9u);
}

// C4
TEST(judge, c4_more_behind_the_first_bad_record_than_was_in_flight_is_corruption) {
  // Three records of 40 bytes are suspect, of which the last byte is padding.
  const segment_file file = segment_file(first_header(119)).add_many(10).damage(7);
  ASSERT_EQ(file.scan().suspect_bytes, 119u);
  EXPECT_EQ(one(file).recover().verdict, log_verdict::torn_tail) << "at the limit";

  const segment_file more = segment_file(first_header(118)).add_many(10).damage(7);
  const recovery_report report = one(more).recover();
  EXPECT_EQ(report.verdict, log_verdict::corrupt);
  EXPECT_EQ(report.rule, corruption::in_flight_limit);
  EXPECT_EQ(report.first_bad, 8u);
}

TEST(judge, c4_does_not_count_zeros_that_were_written_ahead) {
  const segment_file file = segment_file(first_header(119)).add_many(10).damage(7).zeros(100000);
  EXPECT_EQ(one(file).recover().verdict, log_verdict::torn_tail);
}

TEST(judge, c4_does_not_bound_a_log_that_never_syncs) {
  const segment_file file = segment_file(first_header(0)).add_many(1000).damage(0);
  EXPECT_EQ(one(file).recover().verdict, log_verdict::torn_tail);
}

// C5
TEST(judge, c5_garbage_behind_the_end_is_a_torn_tail) {
  const segment_file file = segment_file(first_header()).add_many(3).garbage(20);
  const recovery_report report = one(file).recover(watermark_at(3));
  EXPECT_EQ(report.verdict, log_verdict::torn_tail);
  EXPECT_EQ(report.truncated_from, 4u);
  EXPECT_EQ(report.last_good, file.last);
}

TEST(judge, c5_an_empty_segment_with_garbage_is_cut_to_its_base) {
  const recovery_report report = one(segment_file(first_header()).garbage(20)).recover();
  EXPECT_EQ(report.verdict, log_verdict::torn_tail);
  EXPECT_EQ(report.truncated_from, 1u);
  EXPECT_EQ(report.last_good, position{});
  EXPECT_EQ(report.kept_segments, 1u);
}

TEST_F(three_segments, c5_cut_the_torn_tail_from_the_last) {
  c.damage(2);
  const recovery_report report = directory().recover(watermark_at(20));
  EXPECT_EQ(report.verdict, log_verdict::torn_tail);
  EXPECT_EQ(report.truncated_from, 23u);
  EXPECT_EQ(report.last_good.index, 22u);
  EXPECT_EQ(report.kept_segments, 3u);
}

// P2
TEST_F(recycled_segment, p2_is_clean_where_its_own_records_end) {
  EXPECT_EQ(one(recycled(2)).recover(watermark_at(101)).verdict, log_verdict::clean);
  EXPECT_EQ(one(recycled(0)).recover(watermark_at(99)).verdict, log_verdict::clean);
}

TEST_F(recycled_segment, p2_is_corrupt_below_its_watermark_though_older_records_stand_there) {
  EXPECT_EQ(one(recycled(2)).recover(watermark_at(102)).rule, corruption::watermark);
}

TEST_F(recycled_segment, p2_is_torn_where_a_later_record_of_its_own_stands_behind_a_gap) {
  const recovery_report report = one(recycled(5).damage(2)).recover();
  EXPECT_EQ(report.verdict, log_verdict::torn_tail);
  EXPECT_EQ(report.truncated_from, 102u);
}

// structure
TEST_F(three_segments, whose_middle_is_missing_are_corrupt) {
  const recovery_report report = directory().without(1).recover();
  EXPECT_EQ(report.verdict, log_verdict::corrupt);
  EXPECT_EQ(report.rule, corruption::structure);
  EXPECT_EQ(report.first_bad, 11u);
  EXPECT_EQ(report.last_bad, 20u);
}

TEST_F(three_segments, whose_last_is_missing_are_corrupt_by_the_watermark) {
  EXPECT_EQ(directory().without(2).recover(watermark_at(25)).rule, corruption::watermark);
}

TEST_F(three_segments, whose_first_is_missing_look_compacted) {
  const recovery_report report = directory().without(0).verify(watermark_at(25));
  EXPECT_EQ(report.verdict, log_verdict::clean);
  EXPECT_EQ(report.last_good, c.last);
}

TEST_F(three_segments, with_an_unreadable_header_are_corrupt_whichever_it_is) {
  for (std::size_t bad = 0; bad < 3; ++bad) {
    directory_image image = directory();
    image.images[bad].header.reset();
    const recovery_report report = image.recover(watermark_at(25));
    EXPECT_EQ(report.verdict, log_verdict::corrupt) << bad;
    EXPECT_EQ(report.rule, corruption::structure) << bad;
    EXPECT_EQ(report.file, image.images[bad].file) << bad;
    EXPECT_EQ(report.first_bad, image.images[bad].named_index) << bad;
  }
}

TEST_F(three_segments, one_of_which_was_renamed_are_corrupt_whichever_it_is) {
  for (std::size_t bad = 0; bad < 3; ++bad) {
    directory_image image = directory();
    image.images[bad].named_index += 2;
    const recovery_report report = image.recover(watermark_at(25));
    EXPECT_EQ(report.rule, corruption::structure) << bad;
  }
}

TEST_F(three_segments, one_of_which_carries_the_header_of_another_are_corrupt) {
  directory_image image = directory();
  image.images[1].header = image.images[2].header;
  EXPECT_EQ(image.recover().rule, corruption::structure);
}

TEST_F(three_segments, the_last_of_which_does_not_continue_the_one_before_are_corrupt) {
  // The predecessor is not sealed by a flag here, so that it is scanned.
  segment_header stray = b.successor(0);
  stray.base.chain ^= 1;
  directory_image image({a, b, segment_file(stray).add_many(5)});
  const recovery_report report = image.recover();
  EXPECT_EQ(report.verdict, log_verdict::corrupt);
  EXPECT_EQ(report.rule, corruption::structure);
}

// sync_policy::never: segments that no sync sealed.
struct unsealed_segments : testing::Test {
  segment_file a = segment_file(first_header(0)).add_many(10);
  segment_file b = segment_file(a.successor(0)).add_many(10);
  segment_file c = segment_file(b.successor(0)).add_many(10);
  segment_file d = segment_file(c.successor(0)).add_many(5);
  directory_image directory() { return directory_image({a, b, c, d}); }
};

TEST_F(unsealed_segments, are_all_scanned) {
  directory_image image = directory();
  EXPECT_EQ(count_unsealed(image.images, {}), 4u);
  const recovery_report report = image.recover();
  EXPECT_EQ(report.verdict, log_verdict::clean);
  EXPECT_EQ(report.last_good, d.last);
  EXPECT_EQ(report.kept_segments, 4u);
}

TEST_F(unsealed_segments, are_sealed_by_a_watermark_that_covers_them) {
  const auto images = directory().images;
  const auto unsealed = [&](index_t watermark) { return count_unsealed(images, {1, watermark, 0}); };
  EXPECT_EQ(unsealed(9), 4u);
  EXPECT_EQ(unsealed(10), 3u) << "all of the first segment";
  EXPECT_EQ(unsealed(19), 3u);
  EXPECT_EQ(unsealed(20), 2u);
  EXPECT_EQ(unsealed(30), 1u);
  EXPECT_EQ(unsealed(35), 1u) << "the last is always scanned";
}

TEST_F(unsealed_segments, are_cut_at_the_first_bad_record_and_the_segments_behind_go) {
  b.damage(5);
  const recovery_report report = directory().recover();
  EXPECT_EQ(report.verdict, log_verdict::torn_tail);
  EXPECT_EQ(report.truncated_from, 16u);
  EXPECT_EQ(report.last_good.index, 15u);
  EXPECT_EQ(report.kept_segments, 2u);
  EXPECT_EQ(report.file, "segment-11");
}

TEST_F(unsealed_segments, are_cut_before_one_that_does_not_continue_them) {
  b.cut(b.begins[5]);
  EXPECT_EQ(directory().recover().truncated_from, 16u);
}

TEST_F(unsealed_segments, are_corrupt_where_the_watermark_says_that_they_were_synced) {
  b.damage(5);
  EXPECT_EQ(directory().recover(watermark_at(15)).verdict, log_verdict::torn_tail);
  EXPECT_EQ(directory().recover(watermark_at(16)).rule, corruption::watermark);
}

TEST_F(unsealed_segments, are_cut_before_a_header_that_did_not_reach_the_disk) {
  for (std::size_t bad = 1; bad < 4; ++bad) {
    directory_image image = directory();
    image.images[bad].header.reset();
    const recovery_report report = image.recover();
    EXPECT_EQ(report.verdict, log_verdict::torn_tail) << bad;
    EXPECT_EQ(report.kept_segments, bad) << bad;
    EXPECT_EQ(report.truncated_from, image.images[bad].named_index) << bad;
  }
}

TEST_F(unsealed_segments, are_cut_before_several_headers_that_did_not_reach_the_disk) {
  directory_image image = directory();
  for (const std::size_t bad : std::initializer_list<std::size_t>{1, 2, 3}) image.images[bad].header.reset();
  const recovery_report report = image.recover();
  EXPECT_EQ(report.verdict, log_verdict::torn_tail);
  EXPECT_EQ(report.kept_segments, 1u);
}

TEST_F(unsealed_segments, are_cut_before_a_recycled_file_that_still_has_its_old_header) {
  for (const std::uint64_t old_limit : std::initializer_list<std::uint64_t>{0, 1 << 20}) {
    directory_image image = directory();
    image.images[2].header = first_header(old_limit);  // of the segment that began with record 1
    const recovery_report report = image.recover();
    EXPECT_EQ(report.verdict, log_verdict::torn_tail);
    EXPECT_EQ(report.kept_segments, 2u);
    EXPECT_EQ(report.truncated_from, 21u);
  }
}

TEST_F(unsealed_segments, are_cut_before_one_that_is_missing) {
  const recovery_report report = directory().without(1).recover();
  EXPECT_EQ(report.verdict, log_verdict::torn_tail);
  EXPECT_EQ(report.truncated_from, 11u);
  EXPECT_EQ(report.kept_segments, 1u);
}

TEST_F(unsealed_segments, the_first_of_which_is_unreadable_are_corrupt) {
  directory_image image = directory();
  image.images[0].header.reset();
  EXPECT_EQ(image.recover().rule, corruption::structure) << "it was synced when the log was opened";
}

TEST_F(unsealed_segments, behind_sealed_ones_do_not_excuse_those) {
  directory_image image = directory();
  image.images[0].header.reset();
  EXPECT_EQ(image.recover(watermark_at(20)).rule, corruption::structure);
}

}  // namespace
}  // namespace lockstep
