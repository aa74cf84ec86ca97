#include "lockstep/core/checksum.hpp"

#include <gtest/gtest.h>

#include <array>
#include <cstdint>
#include <vector>

namespace lockstep {
namespace {

// The generator of the reference implementation's self-test (xxHash 0.8, cli/xsum_sanity_check.c).
std::vector<std::byte> sanity_bytes(std::size_t count) {
  std::vector<std::byte> bytes(count);
  std::uint64_t generator = 2654435761u;
  for (std::byte& each : bytes) {
    each = static_cast<std::byte>(generator >> 56);
    generator *= 11400714785074694797u;
  }
  return bytes;
}

struct vector {
  std::size_t length;
  std::uint64_t checksum;
};

// The same file's XSUM_XXH3_testdata, seed 0: one on each side of every change of algorithm by length.
constexpr std::array vectors = {
    vector{0, 0x2D06800538D394C2},    vector{1, 0xC44BDFF4074EECDB},    vector{6, 0x27B56A84CD2D7325},
    vector{12, 0xA713DAF0DFBB77E7},   vector{24, 0xA3FE70BF9D3510EB},   vector{48, 0x397DA259ECBA1F11},
    vector{80, 0xBCDEFBBB2C47C90A},   vector{195, 0xCD94217EE362EC3A},  vector{403, 0xCDEB804D65C6DEA4},
    vector{512, 0x617E49599013CB6B},  vector{2048, 0xDD59E2C3A5F038E0}, vector{2240, 0x6E73A90539CF2948},
    vector{2367, 0xCB37AEB9E5D361ED},
};

TEST(checksum, agrees_with_the_reference_implementation) {
  for (const auto& [length, checksum] : vectors) {
    EXPECT_EQ(xxh3_64(sanity_bytes(length)), checksum) << length << " bytes";
  }
}

TEST(checksum, does_not_depend_on_where_the_bytes_lie) {
  const std::vector<std::byte> bytes = sanity_bytes(2367);
  std::vector<std::byte> shifted(bytes.size() + 16);
  for (std::size_t by = 0; by < 16; ++by) {
    std::copy(bytes.begin(), bytes.end(), shifted.begin() + static_cast<std::ptrdiff_t>(by));
    EXPECT_EQ(xxh3_64(bytes_view(shifted).subspan(by, bytes.size())), vectors.back().checksum);
  }
}

TEST(checksum, of_parts_is_that_of_the_whole) {
  const std::vector<std::byte> bytes = sanity_bytes(2367);
  const bytes_view whole(bytes);
  EXPECT_EQ(xxh3_64(std::span<const bytes_view>()), vectors.front().checksum);
  for (const std::size_t cut : std::initializer_list<std::size_t>{0u, 1u, 239u, 240u, 241u, 1024u, 2366u, 2367u}) {
    const std::array<bytes_view, 4> parts = {whole.first(cut), bytes_view(), whole.subspan(cut), bytes_view()};
    EXPECT_EQ(xxh3_64(std::span<const bytes_view>(parts)), vectors.back().checksum) << "cut at " << cut;
  }
  EXPECT_EQ(xxh3_64(std::span<const bytes_view>(&whole, 1)), vectors.back().checksum);
}

TEST(checksum, of_a_length_known_when_compiling_is_the_same) {
  const std::vector<std::byte> bytes = sanity_bytes(48);
  EXPECT_EQ(xxh3_64_of<1>(bytes.data()), 0xC44BDFF4074EECDBu);
  EXPECT_EQ(xxh3_64_of<12>(bytes.data()), 0xA713DAF0DFBB77E7u);
  EXPECT_EQ(xxh3_64_of<24>(bytes.data()), 0xA3FE70BF9D3510EBu);
  EXPECT_EQ(xxh3_64_of<48>(bytes.data()), 0x397DA259ECBA1F11u);
}

TEST(checksum, changes_with_every_bit) {
  std::vector<std::byte> bytes = sanity_bytes(300);
  const std::uint64_t whole = xxh3_64(bytes);
  for (std::size_t bit = 0; bit < bytes.size() * 8; ++bit) {
    const auto mask = static_cast<std::byte>(1u << (bit % 8));
    bytes[bit / 8] ^= mask;
    ASSERT_NE(xxh3_64(bytes), whole) << "bit " << bit;
    bytes[bit / 8] ^= mask;
  }
}

TEST(checksum, tells_zeros_of_different_lengths_apart) {
  const std::vector<std::byte> zeros(1000);
  EXPECT_NE(xxh3_64(bytes_view(zeros).first(999)), xxh3_64(zeros));
  EXPECT_NE(xxh3_64(bytes_view()), 0u);
}

}  // namespace
}  // namespace lockstep
