// The checksum of every format: XXH3-64 (https://github.com/Cyan4973/xxHash, doc/xxhash_spec.md).
//
// This is the only header that sees xxHash. One-shot calls only: a local XXH3_state_t in a coroutine
// frame would be misaligned, and streaming costs three to four times as much on small inputs.
#pragma once

#include "lockstep/core/bytes.hpp"

#ifndef XXH_INLINE_ALL
#define XXH_INLINE_ALL
#endif
#include <xxhash.h>

#include <cstdint>

namespace lockstep {

/// XXH3-64 of `bytes` with seed 0. Detects accidents, not attackers.
inline std::uint64_t xxh3_64(bytes_view bytes) noexcept { return XXH3_64bits(bytes.data(), bytes.size()); }

}  // namespace lockstep
