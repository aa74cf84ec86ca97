#include "lockstep/sequencer/entry.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <vector>

namespace lockstep::sequencer {
namespace {

std::vector<std::byte> encoded(const entry& of) {
  const auto head = encode_head(of);
  std::vector<std::byte> bytes(head.begin(), head.end());
  bytes.insert(bytes.end(), of.payload.begin(), of.payload.end());
  return bytes;
}

TEST(sequencer_entry, is_read_as_it_was_written) {
  const auto bytes = encoded({7, 3, 0x0102030405060708u, as_bytes("text")});
  EXPECT_EQ(std::to_integer<int>(bytes[16]), 8) << "little-endian";
  const auto read = decode_entry(bytes);
  ASSERT_TRUE(read);
  EXPECT_EQ(read->sender, 7u);
  EXPECT_EQ(read->n, 3u);
  EXPECT_EQ(read->time_ns, 0x0102030405060708u);
  EXPECT_EQ(as_text(read->payload), "text");
}

TEST(sequencer_entry, what_is_too_short_or_has_no_number_is_none) {
  const auto bytes = encoded({7, 3, 1, {}});
  for (std::size_t size = 0; size < bytes.size(); ++size) EXPECT_FALSE(decode_entry({bytes.data(), size}));
  EXPECT_TRUE(decode_entry(bytes));
  EXPECT_FALSE(decode_entry(encoded({7, 0, 1, {}})));
}

}  // namespace
}  // namespace lockstep::sequencer
