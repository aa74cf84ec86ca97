// The checksum of every format: XXH3-64 (https://github.com/Cyan4973/xxHash, doc/xxhash_spec.md).
//
// This is the only header that sees xxHash. One-shot calls where possible: a local XXH3_state_t in a coroutine
// frame would be misaligned, and streaming costs three to four times as much on small inputs.
#pragma once

#include "lockstep/core/bytes.hpp"

#ifndef XXH_INLINE_ALL
#define XXH_INLINE_ALL
#endif
#include <xxhash.h>

#include <cstdint>
#include <span>

namespace lockstep {

/// XXH3-64 of `bytes` with seed 0. Detects accidents, not attackers.
inline std::uint64_t xxh3_64(bytes_view bytes) noexcept { return XXH3_64bits(bytes.data(), bytes.size()); }

/// The same of N bytes, known when compiling: a few multiplications without a call.
template <std::size_t N>
[[gnu::flatten]] inline std::uint64_t xxh3_64_of(const std::byte* bytes) noexcept {
  return XXH3_64bits(bytes, N);
}

/// XXH3-64 of the concatenation of `parts`. More than one part costs the streaming price.
inline std::uint64_t xxh3_64(std::span<const bytes_view> parts) noexcept {
  if (parts.size() == 1) return xxh3_64(parts.front());
  XXH3_state_t state;  // no coroutine: aligned
  XXH3_64bits_reset(&state);
  for (const bytes_view part : parts) XXH3_64bits_update(&state, part.data(), part.size());
  return XXH3_64bits_digest(&state);
}

}  // namespace lockstep
