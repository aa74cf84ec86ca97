#include "lockstep/core/endian.hpp"

#include <gtest/gtest.h>

#include <array>
#include <cstddef>
#include <cstdint>

namespace lockstep {
namespace {

template <class... Byte>
constexpr auto bytes(Byte... value) {
  return std::array{static_cast<std::byte>(value)...};
}

TEST(endian, the_lowest_byte_comes_first) {
  std::array<std::byte, 8> stored{};
  store_le(stored.data(), std::uint64_t{0x0807060504030201});
  EXPECT_EQ(stored, bytes(1, 2, 3, 4, 5, 6, 7, 8));

  std::array<std::byte, 4> four{};
  store_le(four.data(), std::uint32_t{0x04030201});
  EXPECT_EQ(four, bytes(1, 2, 3, 4));

  std::array<std::byte, 2> two{};
  store_le(two.data(), std::uint16_t{0x0201});
  EXPECT_EQ(two, bytes(1, 2));

  std::array<std::byte, 1> one{};
  store_le(one.data(), std::uint8_t{0xab});
  EXPECT_EQ(one, bytes(0xab));
}

TEST(endian, loads_what_a_little_endian_machine_stored) {
  const auto stored = bytes(0xef, 0xcd, 0xab, 0x89, 0x67, 0x45, 0x23, 0x81);
  EXPECT_EQ(load_le<std::uint8_t>(stored.data()), 0xefu);
  EXPECT_EQ(load_le<std::uint16_t>(stored.data()), 0xcdefu);
  EXPECT_EQ(load_le<std::uint32_t>(stored.data()), 0x89abcdefu);
  EXPECT_EQ(load_le<std::uint64_t>(stored.data()), 0x8123456789abcdefu);
}

TEST(endian, every_value_round_trips_at_every_alignment) {
  std::array<std::byte, 24> storage{};
  for (std::size_t at = 0; at <= 16; ++at) {
    for (unsigned bit = 0; bit < 64; ++bit) {
      const std::uint64_t value = (std::uint64_t{1} << bit) | bit;
      store_le(storage.data() + at, value);
      ASSERT_EQ(load_le<std::uint64_t>(storage.data() + at), value);
    }
  }
}

TEST(endian, stores_touch_only_their_own_bytes) {
  std::array<std::byte, 6> storage{};
  storage.fill(std::byte{0xee});
  store_le(storage.data() + 1, std::uint32_t{0});
  EXPECT_EQ(storage, bytes(0xee, 0, 0, 0, 0, 0xee));
}

// What a big-endian machine does before and after: this machine cannot show it any other way.
static_assert(detail::byte_swapped(std::uint8_t{0x12}) == 0x12);
static_assert(detail::byte_swapped(std::uint16_t{0x1234}) == 0x3412);
static_assert(detail::byte_swapped(std::uint32_t{0x12345678}) == 0x78563412);
static_assert(detail::byte_swapped(std::uint64_t{0x0123456789abcdef}) == 0xefcdab8967452301);

}  // namespace
}  // namespace lockstep
