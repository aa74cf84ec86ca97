#include "lockstep/sim/check/durability.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "../log/images.hpp"

#include <algorithm>
#include <cstddef>
#include <map>
#include <string>
#include <vector>

namespace lockstep::sim::check {
namespace {

using lockstep::test::byte_vector;
using lockstep::test::segment_file;
using ::testing::HasSubstr;
using ::testing::Optional;

/// The durable files of "/log" by their names.
struct durable_files {
  struct file {
    byte_vector bytes;
    [[nodiscard]] const byte_vector& version() const { return bytes; }
    std::size_t read(std::uint64_t offset, mutable_bytes to) const {
      if (offset >= bytes.size()) return 0;
      const std::size_t size = std::min<std::size_t>(to.size(), bytes.size() - offset);
      std::copy_n(bytes.begin() + static_cast<std::ptrdiff_t>(offset), size, to.begin());
      return size;
    }
  };
  std::map<std::string, byte_vector> files;

  std::vector<std::pair<std::string, file>> list(const std::string& directory) const {
    EXPECT_EQ(directory, "/log");
    std::vector<std::pair<std::string, file>> found;
    for (const auto& [name, bytes] : files) found.push_back({name, {bytes}});
    return found;
  }
  std::map<std::string, byte_vector> version(const std::string&) const { return files; }

  void hold(const segment_file& segment) {
    files[log_files::segment_name(segment.header.first_index())] = segment.bytes;
  }
  void hold(std::string_view name, const position& at) {
    byte_vector& bytes = files[std::string(name)];
    bytes.resize(log_format::watermark_bytes);
    log_codec::encode_watermark(bytes.data(), at);
  }
};
static_assert(durable_source<durable_files>);

segment_header limited() {
  segment_header header;
  header.in_flight_limit = 1 << 20;
  return header;
}

class check_durability : public ::testing::Test {
 protected:
  durable_files disk;
  segment_file segment{limited()};
  durability_oracle<durable_files> oracle{disk, "/log"};
};

TEST_F(check_durability, an_empty_directory_holds_nothing) {
  EXPECT_EQ(oracle.last_durable(), position{});
  EXPECT_THAT(oracle.must_hold({1, 1, 7}), Optional(HasSubstr("/log: record 1 (epoch 1, chain 0000000000000007) was")));
}

TEST_F(check_durability, follows_the_log_as_it_grows) {
  for (int i = 0; i < 50; ++i) {
    segment.add("payload " + std::to_string(i));
    EXPECT_THAT(oracle.must_hold(segment.last), ::testing::Ne(std::nullopt)) << "before it is durable";
    disk.hold(segment);
    EXPECT_EQ(oracle.must_hold(segment.last), std::nullopt);
    EXPECT_EQ(oracle.last_durable(), segment.last);
  }
}

TEST_F(check_durability, says_where_the_durable_records_end) {
  segment.add("one").add("two").add("three");
  const position last = segment.last;
  segment_file torn = segment;
  disk.hold(torn.damage(1));
  EXPECT_THAT(oracle.must_hold(last), Optional(HasSubstr("from the durable bytes would end at record 1: "
                                                         "00000000000000000001.seg at byte 4136, record 2: ")));
  disk.hold(segment);
  EXPECT_EQ(oracle.must_hold(last), std::nullopt) << "the rest became durable";
}

TEST_F(check_durability, zeros_behind_the_records_are_no_records) {
  segment.add("one");
  const position one = segment.last;
  segment.zeros(100'000);
  disk.hold(segment);
  EXPECT_EQ(oracle.last_durable(), one);
}

TEST_F(check_durability, catches_another_record_in_its_place) {
  segment.add("one").add("two").add("three");
  disk.hold(segment);
  segment_file other{limited()};
  other.add("one").add("zwei");
  EXPECT_THAT(oracle.must_hold(other.last), Optional(HasSubstr("would find record 2 (epoch 1, chain")));
}

TEST_F(check_durability, notices_that_records_were_cut_off_and_replaced) {
  segment_file longer = segment;
  longer.add("one").add("two").add("three");
  disk.hold(longer);
  EXPECT_EQ(oracle.must_hold(longer.last), std::nullopt);
  segment.add("one").add("zwei");
  disk.hold(segment);
  EXPECT_EQ(oracle.must_hold(segment.last), std::nullopt);
  EXPECT_THAT(oracle.must_hold(longer.last), Optional(HasSubstr("would end at record 2")));
}

TEST_F(check_durability, notices_lost_records) {
  segment.add("one").add("two");
  disk.hold(segment);
  EXPECT_EQ(oracle.must_hold(segment.last), std::nullopt);
  disk.files.clear();
  EXPECT_THAT(oracle.must_hold(segment.last), Optional(HasSubstr("would end at record 0")));
}

TEST_F(check_durability, sees_damage_in_the_middle_after_forgetting) {
  segment.add("one").add("two").add("three");
  disk.hold(segment);
  EXPECT_EQ(oracle.must_hold(segment.last), std::nullopt);
  disk.hold(segment.damage(1));
  EXPECT_EQ(oracle.must_hold(segment.last), std::nullopt) << "it was verified, and its end did not change";
  oracle.forget();
  EXPECT_THAT(oracle.must_hold(segment.last), Optional(HasSubstr("would end at record 1")));
}

TEST_F(check_durability, follows_the_log_over_segments) {
  segment.add_many(10);
  disk.hold(segment);
  const position middle = segment.last;
  segment_file second(segment.successor());
  second.add_many(10);
  disk.hold(second);
  EXPECT_EQ(oracle.must_hold(second.last), std::nullopt);
  EXPECT_EQ(oracle.must_hold(middle), std::nullopt);
  EXPECT_THAT(oracle.must_hold({1, 10, 7}), Optional(HasSubstr("would find record 10")));
  EXPECT_THAT(oracle.must_hold({1, 11, 7}), Optional(HasSubstr("would find record 11")));
}

TEST_F(check_durability, a_log_whose_earlier_segment_is_not_durable_is_corrupt) {
  segment.add_many(10);
  segment_file second(segment.successor());
  second.add_many(10);
  disk.hold(second);
  segment_file torn = segment;
  disk.hold(torn.cut(torn.begins.back()));
  EXPECT_EQ(oracle.last_durable(), std::nullopt);
  EXPECT_THAT(oracle.must_hold(second.last),
              Optional(HasSubstr("would find the log corrupt: 00000000000000000001.seg")));
  disk.hold(segment);
  EXPECT_EQ(oracle.must_hold(second.last), std::nullopt);
}

TEST_F(check_durability, a_log_with_a_missing_segment_is_corrupt) {
  segment.add_many(10);
  segment_file second(segment.successor());
  second.add_many(10);
  segment_file third(second.successor());
  third.add_many(10);
  disk.hold(segment);
  disk.hold(third);
  EXPECT_THAT(oracle.must_hold(third.last), Optional(HasSubstr("record 11: cut off, in a sealed segment")));
}

TEST_F(check_durability, a_segment_without_a_durable_header_is_corrupt) {
  segment.add("one");
  disk.hold(segment);
  std::fill_n(disk.files.begin()->second.begin(), 100, std::byte{});
  EXPECT_THAT(oracle.must_hold(segment.last), Optional(HasSubstr("the segment header is unreadable")));
}

TEST_F(check_durability, a_watermark_ahead_of_the_records_is_corrupt) {
  segment.add("one").add("two");
  disk.hold(segment);
  disk.hold(log_files::watermark, segment.last);
  EXPECT_EQ(oracle.must_hold(segment.last), std::nullopt);
  disk.hold(log_files::watermark, {1, 3, 7});
  EXPECT_THAT(oracle.must_hold(segment.last), Optional(HasSubstr("the watermark says that 3 was durable")));
}

TEST_F(check_durability, a_compacted_log_holds_what_lies_below_its_base) {
  segment.add_many(10);
  segment_file second(segment.successor());
  second.add_many(10);
  disk.hold(second);
  EXPECT_EQ(oracle.must_hold({1, 4, 7}), std::nullopt);
  EXPECT_EQ(oracle.must_hold(segment.last), std::nullopt);
  EXPECT_THAT(oracle.must_hold({1, 10, 7}), Optional(HasSubstr("would find record 10")));
}

TEST_F(check_durability, a_durable_reset_empties_the_log) {
  segment.add_many(10);
  disk.hold(segment);
  disk.hold(log_files::reset_intent, {3, 50, 5});
  EXPECT_EQ(oracle.last_durable(), (position{3, 50, 5}));
  EXPECT_EQ(oracle.must_hold({3, 50, 5}), std::nullopt);
  EXPECT_THAT(oracle.must_hold({3, 51, 6}), Optional(HasSubstr("would end at record 50")));
}

TEST_F(check_durability, reads_records_larger_than_a_page) {
  segment.add("one").add(std::string(3'000'000, 'x')).add("three");
  disk.hold(segment);
  EXPECT_EQ(oracle.must_hold(segment.last), std::nullopt);
}

TEST_F(check_durability, asking_again_reads_only_what_is_new) {
  segment.add_many(20'000);
  disk.hold(segment);
  EXPECT_EQ(oracle.must_hold(segment.last), std::nullopt);
  const std::uint64_t before = oracle.bytes_read();
  EXPECT_GT(before, segment.bytes.size() - log_format::segment_header_bytes);
  for (int i = 0; i < 100; ++i) EXPECT_EQ(oracle.must_hold(segment.last), std::nullopt);
  EXPECT_LT(oracle.bytes_read() - before, 100U * 200);
  segment.add_many(10);
  disk.hold(segment);
  EXPECT_EQ(oracle.must_hold(segment.last), std::nullopt);
  EXPECT_LT(oracle.bytes_read() - before, 100U * 200 + 2 * 4096);
}

TEST_F(check_durability, agrees_with_recovery_on_every_cut) {
  segment.add("one").add("a longer one").add("").add("four");
  for (std::size_t size = segment.bytes.size(); size >= log_format::segment_header_bytes; --size) {
    segment_file cut = segment;
    cut.cut(size);
    disk.hold(cut);
    EXPECT_EQ(oracle.last_durable(), cut.scan().last) << size << " bytes";
  }
}

}  // namespace
}  // namespace lockstep::sim::check
