// Little-endian integers at unaligned addresses: every lockstep format is little-endian.
#pragma once

#include <bit>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <cstring>

namespace lockstep {

namespace detail {
template <std::unsigned_integral T>
constexpr T byte_swapped(T value) noexcept {
  T swapped = 0;
  for (std::size_t i = 0; i < sizeof(T); ++i) {
    swapped = static_cast<T>((swapped << 8) | (value & 0xff));
    value = static_cast<T>(value >> 8);
  }
  return swapped;
}
}  // namespace detail

/// Reads a T from `from[0, sizeof(T))`.
template <std::unsigned_integral T>
T load_le(const std::byte* from) noexcept {
  T value;
  std::memcpy(&value, from, sizeof value);
  if constexpr (sizeof(T) > 1 && std::endian::native == std::endian::big) value = detail::byte_swapped(value);
  return value;
}

/// Writes `value` to `to[0, sizeof(T))`.
template <std::unsigned_integral T>
void store_le(std::byte* to, T value) noexcept {
  if constexpr (sizeof(T) > 1 && std::endian::native == std::endian::big) value = detail::byte_swapped(value);
  std::memcpy(to, &value, sizeof value);
}

}  // namespace lockstep
