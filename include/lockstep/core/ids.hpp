// The numbers that name nodes, lives of a leader, and places in a history.
#pragma once

#include <compare>
#include <cstdint>

namespace lockstep {

/// Identifies a node within its cluster; 0 means "none" (a client that is no member).
using node_id = std::uint64_t;

/// A leader's life: a Raft term, or a number that rises each time a leader starts. 56 bits in the record format.
using epoch_t = std::uint64_t;

/// A record's number in its log. The first record is 1; 0 means "before the first".
using index_t = std::uint64_t;

inline constexpr epoch_t max_epoch = (epoch_t{1} << 56) - 1;

/// A place in a history. `chain` is the chained checksum of the record at `index` (see log/format.hpp), so that
/// two logs that agree on one position agree on everything before it. {0, 0, 0} is the empty history.
struct position {
  epoch_t epoch = 0;
  index_t index = 0;
  std::uint64_t chain = 0;

  friend bool operator==(const position&, const position&) = default;
};

}  // namespace lockstep
