#include "cityhall/snapshot.hpp"

#include <gtest/gtest.h>

#include <cstring>
#include <string>

namespace lockstep::cityhall {
namespace {

kv_state some_state() {
  kv_state::pair_map pairs;
  pairs.emplace("city", "Nairobi");
  pairs.emplace(std::string("bin\0ary", 7), std::string("\xff\0", 2));
  pairs.emplace("", "");
  return kv_state({3, 17, 0xabcdef}, {12, 40}, "127.0.0.1:7878", std::move(pairs));
}

TEST(cityhall_snapshot, gives_back_the_state) {
  const kv_state state = some_state();
  const byte_buffer bytes = encode_snapshot(state);
  const auto decoded = decode_snapshot(bytes.view());
  ASSERT_TRUE(decoded);
  EXPECT_EQ(*decoded, state);
}

TEST(cityhall_snapshot, of_the_empty_state_is_one_too) {
  const byte_buffer bytes = encode_snapshot(kv_state());
  const auto decoded = decode_snapshot(bytes.view());
  ASSERT_TRUE(decoded);
  EXPECT_EQ(*decoded, kv_state());
}

TEST(cityhall_snapshot, summary_tells_position_and_counts) {
  const byte_buffer bytes = encode_snapshot(some_state());
  const auto summary = read_snapshot_summary(bytes.view());
  ASSERT_TRUE(summary);
  EXPECT_EQ(summary->at, (position{3, 17, 0xabcdef}));
  EXPECT_EQ(summary->counts, (totals{12, 40}));
  EXPECT_EQ(summary->leader_clients, "127.0.0.1:7878");
  EXPECT_EQ(summary->keys, 3u);
}

TEST(cityhall_snapshot, of_equal_states_has_equal_bytes) {
  kv_state one;
  kv_state other;
  segment_builder forward;
  forward.add({operation::put, "a", "1"});
  forward.add({operation::put, "b", "2"});
  record next;
  next.index = 1;
  next.epoch = 1;
  next.payload = forward.payload();
  ASSERT_EQ(one.apply(next), apply_verdict::ok);
  ASSERT_EQ(other.apply(next), apply_verdict::ok);
  EXPECT_TRUE(equal(encode_snapshot(one).view(), encode_snapshot(other).view()));
}

TEST(cityhall_snapshot, with_any_flipped_bit_is_rejected) {
  const byte_buffer good = encode_snapshot(some_state());
  for (std::size_t i = 0; i < good.size(); ++i) {
    for (int bit = 0; bit < 8; ++bit) {
      byte_buffer bad;
      bad.append(good.view());
      bad.data()[i] ^= static_cast<std::byte>(1 << bit);
      ASSERT_FALSE(decode_snapshot(bad.view())) << "byte " << i << " bit " << bit;
      ASSERT_FALSE(read_snapshot_summary(bad.view())) << "byte " << i << " bit " << bit;
    }
  }
}

TEST(cityhall_snapshot, cut_at_any_byte_is_rejected) {
  const byte_buffer good = encode_snapshot(some_state());
  for (std::size_t size = 0; size < good.size(); ++size) {
    ASSERT_FALSE(decode_snapshot(good.view().first(size))) << size;
    ASSERT_FALSE(read_snapshot_summary(good.view().first(size))) << size;
  }
}

TEST(cityhall_snapshot, with_bytes_behind_it_is_rejected) {
  byte_buffer bytes = encode_snapshot(some_state());
  bytes.append(as_bytes("x"));
  EXPECT_FALSE(decode_snapshot(bytes.view()));
}

}  // namespace
}  // namespace lockstep::cityhall
