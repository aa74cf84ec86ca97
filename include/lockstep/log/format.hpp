// The log's format: byte layout of records, segment headers and the watermark. Grammar: docs/formats.md.
//
// A record is encoded once, by whoever numbers it: the same bytes go to its disk, over the wire and to every
// follower's disk. All integers are little-endian; records begin at multiples of 8 bytes.
//
//   record header, 32 bytes
//    0        4        8                16               24               32
//   +--------+--------+----------------+----------------+----------------+-----------------------+---------+
//   | length | check  | index          | epoch and kind | chain          | payload[length]       | zeros   |
//   +--------+--------+----------------+----------------+----------------+-----------------------+---------+
//   length          payload bytes; the record is padded with zeros to a multiple of 8
//   check           XXH3-64 of (length, index, epoch and kind), folded to 32 bits: makes the length trustworthy
//   epoch and kind  epoch << 8 | kind
//   chain           XXH3-64 of (previous record's chain, length, index, epoch and kind, XXH3-64 of the payload),
//                   each a u64: one number names the whole history, and payloads hash without waiting for it
//
//   segment file: header page (4096 bytes), then records. Named by its first index: 00000000000000000001.seg
//    0        8        12       16       24       32       40         48       56       64       72       80
//   +--------+--------+--------+--------+--------+--------+----------+--------+--------+--------+--------+
//   | magic  |version | flags  | index  | epoch  | chain  | previous | before | created| limit  | check  |
//   +--------+--------+--------+--------+--------+--------+----------+--------+--------+--------+--------+
//   index, epoch, chain  the position before the segment's first record; the first record's index is index + 1
//   previous             the predecessor's first index, which names its file; 0 without predecessor
//   before               bytes of the predecessor's file that hold its header and records; 0 without predecessor
//   created              wall clock, nanoseconds since 1970
//   limit                the most bytes that can have been written and not yet synced; 0: no limit (sync_never)
//   check                XXH3-64 of the 72 bytes before it
//
//   watermark file, 40 bytes: magic, then index, epoch, chain of a record known synced here, then XXH3-64 of these 32
#pragma once

#include "lockstep/core/ids.hpp"

#include <cstddef>
#include <cstdint>

namespace lockstep::log_format {

inline constexpr std::size_t record_header_bytes = 32;
inline constexpr std::size_t record_alignment = 8;
inline constexpr std::size_t segment_header_bytes = 4096;
inline constexpr std::size_t segment_header_used = 80;
inline constexpr std::size_t watermark_bytes = 40;

inline constexpr std::uint64_t segment_magic = 0x31474553'4b434f4c;    // "LOCKSEG1"
inline constexpr std::uint64_t watermark_magic = 0x314b5257'4b434f4c;  // "LOCKWRK1"
inline constexpr std::uint32_t version = 1;

/// Segment flag: every record of the predecessor was synced before this segment came into being.
inline constexpr std::uint32_t predecessor_sealed = 1;
/// Segment flag: the file held records of an older life before, so what stands behind the last record means nothing.
inline constexpr std::uint32_t recycled = 2;
/// The flags that version 1 knows.
inline constexpr std::uint32_t known_flags = predecessor_sealed | recycled;

inline constexpr std::size_t max_payload_bytes = std::size_t{1} << 30;

static_assert(segment_header_bytes % record_alignment == 0 && record_header_bytes % record_alignment == 0);
static_assert(segment_header_used <= 512, "the header must fit one sector, so that it is written whole or not");

/// Bytes that a record with this payload takes, padding included.
constexpr std::size_t record_bytes(std::size_t payload_bytes) noexcept {
  return (record_header_bytes + payload_bytes + record_alignment - 1) / record_alignment * record_alignment;
}

}  // namespace lockstep::log_format

namespace lockstep {

/// What a record is. 0 to 15 belong to lockstep, the rest to the user.
using record_kind = std::uint8_t;
inline constexpr record_kind data_record = 0;
/// A leader's life begins: its payload is the leader's business. Makes two lives differ even when they wrote nothing.
inline constexpr record_kind epoch_record = 1;
inline constexpr record_kind first_user_kind = 16;

}  // namespace lockstep
