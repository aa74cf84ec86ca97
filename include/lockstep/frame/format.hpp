// The layout of a frame. Little-endian; no alignment is assumed.
//
//      0        4      5       6          8         16        24
//     +--------+------+-------+----------+---------+---------+---------------
//     | length | kind | flags | reserved |   id    |  check  | payload ...
//     |  u32   |  u8  |  u8   |  u16, 0  |   u64   |   u64   | length bytes
//     +--------+------+-------+----------+---------+---------+---------------
//
//   length    bytes of the payload, without this header
//   kind      what the payload means; 0 is the channel's own (keepalive), the rest belongs to its user
//   flags     the low four bits are the frame layer's, unknown ones are refused; the high four belong to the user
//   id        stream or request id
//   check     XXH3-64 over 24 bytes: header bytes [0, 16), then the payload's own XXH3-64 as u64;
//             a self-checked frame has 0 in place of the payload's
//
// Hashing the payload by itself first lets a sender hash it before it knows the id, and lets records that carry their
// own checks (a shipped log) be verified once, where they are used, by setting `frame_flag::self_checked`.
//
// What it does not promise: the check finds accidents, not attackers; nothing here is authenticated or encrypted.
#pragma once

#include <cstddef>
#include <cstdint>

namespace lockstep {

inline constexpr std::size_t frame_header_bytes = 24;
inline constexpr std::size_t frame_checked_header_bytes = 16;  ///< the part of the header that `check` covers

namespace frame_flag {
inline constexpr std::uint8_t none = 0;
/// The check covers the header only; the payload carries checks of its own, which its receiver verifies.
inline constexpr std::uint8_t self_checked = 0x01;
/// Flags that the frame layer passes through for its user.
inline constexpr std::uint8_t user_mask = 0xf0;
}  // namespace frame_flag

namespace frame_kind {
/// Says that the sender is alive, has no payload and is never delivered. Every other kind is the user's.
inline constexpr std::uint8_t keepalive = 0;
}  // namespace frame_kind

}  // namespace lockstep
