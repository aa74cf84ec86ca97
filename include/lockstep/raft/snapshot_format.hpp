// A snapshot's file, byte by byte: the state of a state machine that stands for all records up to a position. Pure.
// Grammar: docs/formats.md.
//
//   +--------+---------+-------------+-------+-------+-------+--------+------+---------------+---------+-------+
//   | magic  | version | block bytes | epoch | index | chain | length | zero | configuration | padding | check | header
//   |  u64   |   u32   |     u32     |  u64  |  u64  |  u64  |  u32   | u32  | length bytes  |  zeros  |  u64  |
//   +--------+---------+-------------+-------+-------+-------+--------+------+---------------+---------+-------+
//   | state[block bytes] | check u64 |                                                                            block
//   | state[block bytes] | check u64 |                                                                            ...
//   | the rest of it     | check u64 |                                                                            last
//   one
//   +--------------------+-----------+----------+
//   | magic  | file bytes | checksum | check    | trailer
//   +--------+------------+----------+----------+
//
//   padding          up to a multiple of 8
//   header's check   XXH3-64 of the header before it
//   block's check    XXH3-64 of (the check before it, the block's length as u64, XXH3-64 of the block): a block that
//                    verifies belongs to this snapshot and to this place, and can be verified alone
//   checksum         the last check before the trailer. It names all that the file holds: two snapshots of one checksum
//                    are the same.
//   trailer's check  XXH3-64 of the trailer before it
//
// The last block is not empty; a snapshot of an empty state has none.
#pragma once

#include "lockstep/core/bytes.hpp"
#include "lockstep/core/checksum.hpp"
#include "lockstep/core/endian.hpp"
#include "lockstep/core/ids.hpp"
#include "lockstep/raft/config.hpp"

#include <algorithm>
#include <array>
#include <cassert>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>

namespace lockstep::raft::snapshot_format {

inline constexpr std::uint64_t magic = 0x31504e53'4b434f4c;          // "LOCKSNP1"
inline constexpr std::uint64_t trailer_magic = 0x45504e53'4b434f4c;  // "LOCKSNPE"
inline constexpr std::uint32_t version = 1;
inline constexpr std::size_t fixed_header_bytes = 48;
inline constexpr std::size_t check_bytes = 8;
inline constexpr std::size_t trailer_bytes = 32;
inline constexpr std::uint32_t max_block_bytes = 8u << 20;  // a chunk of one fits a frame of the default limit

constexpr std::size_t header_bytes(std::size_t configuration_bytes) noexcept {
  return (fixed_header_bytes + configuration_bytes + 7) / 8 * 8 + check_bytes;
}

inline constexpr std::size_t max_header_bytes = header_bytes(max_configuration_bytes);

struct header {
  std::uint32_t block_bytes = 0;
  position at;
  configuration config;

  /// Appends it to `to`.
  void encode(byte_buffer& to) const;

  /// @param begin  the first fixed_header_bytes of a file.
  /// @return how long the header claims to be, at most max_header_bytes; nothing when no header begins like this.
  static std::optional<std::size_t> size_of(bytes_view begin) noexcept;

  /// @param whole  exactly a header.
  static std::optional<header> decode(bytes_view whole);
};

/// The check of a block of `state` behind one whose check, or the header's, is `previous`.
inline std::uint64_t block_check(std::uint64_t previous, bytes_view state) noexcept {
  std::array<std::byte, 24> checked;
  store_le(checked.data(), previous);
  store_le(checked.data() + 8, std::uint64_t{state.size()});
  store_le(checked.data() + 16, xxh3_64(state));
  return xxh3_64_of<24>(checked.data());
}

struct trailer {
  std::uint64_t file_bytes = 0;
  std::uint64_t checksum = 0;

  [[nodiscard]] std::array<std::byte, trailer_bytes> encode() const noexcept;
  static std::optional<trailer> decode(bytes_view bytes) noexcept;

  friend bool operator==(const trailer&, const trailer&) = default;
};

/// Where the blocks lie.
struct geometry {
  std::uint64_t header_bytes = 0;
  std::uint64_t file_bytes = 0;
  std::uint32_t block_bytes = 0;

  /// Whether a file of this size can be made of a header like this, whole blocks and a trailer.
  [[nodiscard]] bool possible() const noexcept {
    if (file_bytes < header_bytes + trailer_bytes) return false;
    const std::uint64_t last = encoded_bytes() % stride();
    return last == 0 || last > check_bytes;
  }

  [[nodiscard]] std::uint64_t blocks() const noexcept { return (encoded_bytes() + stride() - 1) / stride(); }
  [[nodiscard]] std::uint64_t state_bytes() const noexcept { return encoded_bytes() - blocks() * check_bytes; }
  [[nodiscard]] std::uint64_t trailer_begin() const noexcept { return file_bytes - trailer_bytes; }
  /// The block that holds the byte at `offset`, which lies between header and trailer.
  [[nodiscard]] std::uint64_t block_at(std::uint64_t offset) const noexcept {
    return (offset - header_bytes) / stride();
  }
  [[nodiscard]] std::uint64_t begin_of(std::uint64_t block) const noexcept { return header_bytes + block * stride(); }
  [[nodiscard]] std::uint64_t end_of(std::uint64_t block) const noexcept {
    return std::min(begin_of(block) + stride(), trailer_begin());
  }

 private:
  [[nodiscard]] std::uint64_t stride() const noexcept { return block_bytes + check_bytes; }
  [[nodiscard]] std::uint64_t encoded_bytes() const noexcept { return trailer_begin() - header_bytes; }
};

// --- Implementation ---------------------------------------------------------------------------------------------

inline void header::encode(byte_buffer& to) const {
  assert(block_bytes != 0 && block_bytes <= max_block_bytes);
  const std::size_t begin = to.size();
  to.extend(fixed_header_bytes);
  encode_configuration(to, config);
  const std::size_t configuration_bytes = to.size() - begin - fixed_header_bytes;
  const std::size_t padding = header_bytes(configuration_bytes) - check_bytes - (to.size() - begin);
  if (padding != 0) std::memset(to.extend(padding), 0, padding);
  std::byte* const fixed = to.data() + begin;
  store_le(fixed, magic);
  store_le(fixed + 8, version);
  store_le(fixed + 12, block_bytes);
  store_le(fixed + 16, at.epoch);
  store_le(fixed + 24, at.index);
  store_le(fixed + 32, at.chain);
  store_le(fixed + 40, static_cast<std::uint32_t>(configuration_bytes));
  store_le(fixed + 44, std::uint32_t{0});
  const std::uint64_t check = xxh3_64(to.view().subspan(begin));
  store_le(to.extend(check_bytes), check);
}

inline std::optional<std::size_t> header::size_of(bytes_view begin) noexcept {
  if (begin.size() < fixed_header_bytes) return std::nullopt;
  const auto blocks_of = load_le<std::uint32_t>(begin.data() + 12);
  const auto configuration_bytes = load_le<std::uint32_t>(begin.data() + 40);
  const bool good = load_le<std::uint64_t>(begin.data()) == magic &&
                    load_le<std::uint32_t>(begin.data() + 8) == version && blocks_of != 0 &&
                    blocks_of <= max_block_bytes && configuration_bytes <= max_configuration_bytes;
  if (!good) return std::nullopt;
  return header_bytes(configuration_bytes);
}

inline std::optional<header> header::decode(bytes_view whole) {
  const auto size = size_of(whole);
  if (size != whole.size()) return std::nullopt;
  const bytes_view checked = whole.first(whole.size() - check_bytes);
  if (load_le<std::uint64_t>(whole.data() + checked.size()) != xxh3_64(checked)) return std::nullopt;
  header result;
  result.block_bytes = load_le<std::uint32_t>(whole.data() + 12);
  result.at.epoch = load_le<std::uint64_t>(whole.data() + 16);
  result.at.index = load_le<std::uint64_t>(whole.data() + 24);
  result.at.chain = load_le<std::uint64_t>(whole.data() + 32);
  auto config = decode_configuration(whole.subspan(fixed_header_bytes, load_le<std::uint32_t>(whole.data() + 40)));
  if (!config) return std::nullopt;
  result.config = std::move(*config);
  return result;
}

inline std::array<std::byte, trailer_bytes> trailer::encode() const noexcept {
  std::array<std::byte, trailer_bytes> bytes;
  store_le(bytes.data(), trailer_magic);
  store_le(bytes.data() + 8, file_bytes);
  store_le(bytes.data() + 16, checksum);
  store_le(bytes.data() + 24, xxh3_64({bytes.data(), 24}));
  return bytes;
}

inline std::optional<trailer> trailer::decode(bytes_view bytes) noexcept {
  if (bytes.size() != trailer_bytes) return std::nullopt;
  const trailer result{load_le<std::uint64_t>(bytes.data() + 8), load_le<std::uint64_t>(bytes.data() + 16)};
  const bool good = load_le<std::uint64_t>(bytes.data()) == trailer_magic &&
                    load_le<std::uint64_t>(bytes.data() + 24) == xxh3_64(bytes.first(24));
  return good ? std::optional(result) : std::nullopt;
}

}  // namespace lockstep::raft::snapshot_format
