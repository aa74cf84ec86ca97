#include "lockstep/log/batch.hpp"

#include "images.hpp"

#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <vector>

namespace lockstep {
namespace {

using test::record_run;

std::vector<std::string> payloads(const record_batch& batch) {
  std::vector<std::string> found;
  for (const record& each : batch) found.emplace_back(as_text(each.payload));
  return found;
}

TEST(record_batch, iterates_over_its_records_in_order) {
  const position behind{3, 9, 77};
  record_run run(behind);
  run.add("one", 3, 16).add("").add("three is longer than eight bytes", 5);
  const record_batch batch(run.bytes, 10, 12, nullptr);
  EXPECT_EQ(payloads(batch), (std::vector<std::string>{"one", "", "three is longer than eight bytes"}));
  EXPECT_EQ(batch.count(), 3u);

  auto at = batch.begin();
  EXPECT_EQ((*at).index, 10u);
  EXPECT_EQ((*at).epoch, 3u);
  EXPECT_EQ((*at).kind, 16);
  const auto first = at++;
  EXPECT_EQ((*first).index, 10u);
  EXPECT_EQ((*at).index, 11u);
  ++at;
  EXPECT_EQ((*at).position(), run.last);
  EXPECT_EQ(++at, batch.end());
}

TEST(record_batch, made_empty_has_no_records) {
  const record_batch batch;
  EXPECT_TRUE(batch.empty());
  EXPECT_EQ(batch.count(), 0u);
  EXPECT_EQ(batch.begin(), batch.end());
}

TEST(record_batch, keeps_its_bytes_as_long_as_one_copy_lives) {
  std::weak_ptr<const void> watched;
  record_batch copy;
  {
    const auto owner = std::make_shared<record_run>();
    owner->add("kept");
    watched = owner;
    const record_batch batch(owner->bytes, 1, 1, owner);
    copy = batch;
  }
  EXPECT_EQ(payloads(copy), std::vector<std::string>{"kept"});
  copy = {};
  EXPECT_TRUE(watched.expired());
}

// --- walk_records
// -------------------------------------------------------------------------------------------------------

struct walked : testing::Test {
  record_run run = record_run().add("a").add("bb").add("ccc").add("dddd");  // 40 bytes each
  static constexpr std::size_t each = 40;
};

TEST_F(walked, takes_all_records_when_nothing_forbids_it) {
  const record_walk walk = walk_records(run.bytes, 1, 100, 1 << 20);
  EXPECT_EQ(walk.bytes, 4 * each);
  EXPECT_EQ(walk.next, 5u);
  EXPECT_EQ(walk.chain, run.last.chain);
  EXPECT_TRUE(walk.sound);
}

TEST_F(walked, stops_before_the_index_that_is_the_end) {
  const record_walk walk = walk_records(run.bytes, 1, 3, 1 << 20);
  EXPECT_EQ(walk.bytes, 2 * each);
  EXPECT_EQ(walk.next, 3u);
  EXPECT_EQ(walk_records(run.bytes, 1, 1, 1 << 20).bytes, 0u);
}

TEST_F(walked, takes_what_fits_into_the_limit) {
  EXPECT_EQ(walk_records(run.bytes, 1, 100, 3 * each).bytes, 3 * each);
  EXPECT_EQ(walk_records(run.bytes, 1, 100, 3 * each - 1).bytes, 2 * each);
}

TEST_F(walked, takes_one_record_though_it_exceeds_the_limit) {
  EXPECT_EQ(walk_records(run.bytes, 1, 100, 1).bytes, each);
  EXPECT_EQ(walk_records(run.bytes, 1, 100, 0).bytes, each);
}

TEST_F(walked, notices_a_header_that_changed) {
  run.bytes[2 * each + 8] ^= std::byte{1};
  const record_walk walk = walk_records(run.bytes, 1, 100, 1 << 20);
  EXPECT_EQ(walk.bytes, 2 * each);
  EXPECT_FALSE(walk.sound);
}

TEST_F(walked, notices_a_record_with_another_index_than_expected) {
  const record_walk walk = walk_records(run.bytes, 2, 100, 1 << 20);
  EXPECT_EQ(walk.bytes, 0u);
  EXPECT_FALSE(walk.sound);
}

TEST_F(walked, never_steps_beyond_the_bytes_that_it_was_given) {
  for (std::size_t size = 0; size <= run.bytes.size(); ++size) {
    // A copy of just this size, so that a sanitizer sees a byte too far.
    const test::byte_vector shorter(run.bytes.begin(), run.bytes.begin() + static_cast<std::ptrdiff_t>(size));
    EXPECT_EQ(walk_records(shorter, 1, 100, 1 << 20).bytes, size / each * each) << size;
  }
}

}  // namespace
}  // namespace lockstep
