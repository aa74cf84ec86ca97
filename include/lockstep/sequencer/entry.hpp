// entry: a message of somebody, as it stands in the log. Pure.
//
//   payload of a data_record, little-endian; the record's index is the message's number
//     | sender u64 | n u64 | time_ns u64 | the message's own bytes, up to the end |
#pragma once

#include "lockstep/core/bytes.hpp"
#include "lockstep/core/endian.hpp"

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>

namespace lockstep::sequencer {

/// One life of somebody who submits messages. A client that does not know any more what it has submitted takes another.
using sender_id = std::uint64_t;

struct entry {
  sender_id sender = 0;
  std::uint64_t n = 0;        ///< the sender numbers its messages 1, 2, 3…
  std::uint64_t time_ns = 0;  ///< log time: the leader's wall clock, which in the log never goes back
  bytes_view payload;         ///< not owned
};

inline constexpr std::size_t entry_head_bytes = 24;

/// What stands before the payload.
inline std::array<std::byte, entry_head_bytes> encode_head(const entry& of) noexcept {
  std::array<std::byte, entry_head_bytes> head;
  store_le(head.data(), of.sender);
  store_le(head.data() + 8, of.n);
  store_le(head.data() + 16, of.time_ns);
  return head;
}

/// @return nothing when `bytes` are no entry; otherwise a view into them.
inline std::optional<entry> decode_entry(bytes_view bytes) noexcept {
  if (bytes.size() < entry_head_bytes) return std::nullopt;
  entry found;
  found.sender = load_le<std::uint64_t>(bytes.data());
  found.n = load_le<std::uint64_t>(bytes.data() + 8);
  found.time_ns = load_le<std::uint64_t>(bytes.data() + 16);
  found.payload = bytes.subspan(entry_head_bytes);
  if (found.n == 0) return std::nullopt;
  return found;
}

}  // namespace lockstep::sequencer
