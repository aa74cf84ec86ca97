// Encoding and decoding of records, segment headers and watermarks: pure, no I/O.
#pragma once

#include "lockstep/core/bytes.hpp"
#include "lockstep/core/checksum.hpp"
#include "lockstep/core/endian.hpp"
#include "lockstep/core/ids.hpp"
#include "lockstep/core/mutant.hpp"
#include "lockstep/log/format.hpp"

#include <array>
#include <cassert>
#include <cstdint>
#include <optional>
#include <span>

namespace lockstep {

/// One record as it lies in a buffer. `payload` is valid as long as the buffer is.
struct record {
  index_t index = 0;
  epoch_t epoch = 0;
  record_kind kind = data_record;
  std::uint64_t chain = 0;
  bytes_view payload;

  [[nodiscard]] lockstep::position position() const noexcept { return {epoch, index, chain}; }
};

/// A record's header after its check was verified. The payload and the chain are not verified by it.
struct record_header {
  std::uint32_t length = 0;
  index_t index = 0;
  std::uint64_t epoch_and_kind = 0;
  std::uint64_t chain = 0;

  [[nodiscard]] epoch_t epoch() const noexcept { return epoch_and_kind >> 8; }
  [[nodiscard]] record_kind kind() const noexcept { return static_cast<record_kind>(epoch_and_kind & 0xff); }
  [[nodiscard]] std::size_t total_bytes() const noexcept { return log_format::record_bytes(length); }
};

namespace log_codec {

/// XXH3-64 of `words` as little-endian bytes.
template <std::size_t N>
std::uint64_t hash_words(const std::array<std::uint64_t, N>& words) noexcept {
  if constexpr (std::endian::native == std::endian::little) {
    return xxh3_64_of<8 * N>(reinterpret_cast<const std::byte*>(words.data()));
  } else {
    std::array<std::byte, 8 * N> bytes;
    for (std::size_t i = 0; i < N; ++i) store_le(bytes.data() + 8 * i, words[i]);
    return xxh3_64_of<8 * N>(bytes.data());
  }
}

inline std::uint32_t header_check(std::uint64_t length, index_t index, std::uint64_t epoch_and_kind) noexcept {
  const std::array<std::uint64_t, 3> words{length, index, epoch_and_kind};
  const std::uint64_t hash = hash_words(words);
  return static_cast<std::uint32_t>(hash ^ (hash >> 32));
}

inline std::uint64_t chain(std::uint64_t previous, std::uint64_t length, index_t index, std::uint64_t epoch_and_kind,
                           std::uint64_t payload_hash) noexcept {
  if (mutated(mutant::chain_forgets_history)) previous = 0;
  const std::array<std::uint64_t, 5> words{previous, length, index, epoch_and_kind, payload_hash};
  return hash_words(words);
}

/// Encodes the record that follows `previous` into `to`, which has record_bytes(payload size) of room.
/// @param payload  copied; its parts are concatenated. Their total is at most max_payload_bytes.
/// @return the new record's position.
/// A number of parts that is known when compiling saves the loops over them.
template <std::size_t Parts>
position encode_parts(std::byte* to, const position& previous, epoch_t epoch, record_kind kind,
                      std::span<const bytes_view, Parts> payload) noexcept {
  std::byte* const body = to + log_format::record_header_bytes;
  std::size_t length = 0;
  for (const bytes_view part : payload) length += part.size();
  // The padding lies in the last word, which the payload, or the header, covers again.
  store_le(to + log_format::record_bytes(length) - sizeof(std::uint64_t), std::uint64_t{0});
  std::byte* at = body;
  for (const bytes_view part : payload) {
    if (!part.empty()) std::memcpy(at, part.data(), part.size());
    at += part.size();
  }

  const index_t index = previous.index + 1;
  const std::uint64_t epoch_and_kind = epoch << 8 | kind;
  // Hashing the source, not the fresh copy: reading what was just written with wider stores stalls.
  const std::uint64_t payload_hash = payload.size() == 1 ? xxh3_64(payload.front()) : xxh3_64({body, length});
  const std::uint64_t next_chain = chain(previous.chain, length, index, epoch_and_kind, payload_hash);
  store_le(to, static_cast<std::uint32_t>(length));
  store_le(to + 4, header_check(length, index, epoch_and_kind));
  store_le(to + 8, index);
  store_le(to + 16, epoch_and_kind);
  store_le(to + 24, next_chain);
  return {epoch, index, next_chain};
}

inline position encode_record(std::byte* to, const position& previous, epoch_t epoch, record_kind kind,
                              std::span<const bytes_view> payload) noexcept {
  return encode_parts(to, previous, epoch, kind, payload);
}

/// @param bytes  at least record_header_bytes long.
/// @return nothing when the check does not match or no record can look like this.
inline std::optional<record_header> decode_header(const std::byte* bytes) noexcept {
  record_header header;
  header.length = load_le<std::uint32_t>(bytes);
  header.index = load_le<std::uint64_t>(bytes + 8);
  header.epoch_and_kind = load_le<std::uint64_t>(bytes + 16);
  header.chain = load_le<std::uint64_t>(bytes + 24);
  if (header.index == 0 || header.length > log_format::max_payload_bytes ||
      load_le<std::uint32_t>(bytes + 4) != header_check(header.length, header.index, header.epoch_and_kind)) {
    return std::nullopt;
  }
  return header;
}

/// Why bytes are not the record that should follow.
enum class record_verdict {
  ok,
  incomplete,   ///< the bytes end before the record does
  bad_header,   ///< the header's check does not match: nothing of it can be trusted
  wrong_index,  ///< a sound header of another record
  stale_epoch,  ///< a sound header whose epoch is lower than its predecessor's
  bad_chain,    ///< payload, predecessor or chain changed
  bad_padding,  ///< the padding is not zero
};

/// Verifies the record at the front of `bytes` as the one that follows `previous`.
/// @param out  set when ok; its payload is a view into `bytes`.
inline record_verdict decode_record(bytes_view bytes, const position& previous, record& out) noexcept {
  if (bytes.size() < log_format::record_header_bytes) return record_verdict::incomplete;
  const std::optional<record_header> header = decode_header(bytes.data());
  if (!header) return record_verdict::bad_header;
  if (header->index != previous.index + 1) return record_verdict::wrong_index;
  if (header->epoch() < previous.epoch) return record_verdict::stale_epoch;
  const std::size_t total = header->total_bytes();
  if (bytes.size() < total) return record_verdict::incomplete;
  const bytes_view payload = bytes.subspan(log_format::record_header_bytes, header->length);
  if (header->chain != chain(previous.chain, header->length, header->index, header->epoch_and_kind, xxh3_64(payload)) &&
      !mutated(mutant::skip_record_checksum)) {
    return record_verdict::bad_chain;
  }
  for (std::size_t at = log_format::record_header_bytes + header->length; at < total; ++at) {
    if (bytes[at] != std::byte{0}) return record_verdict::bad_padding;
  }
  out.index = header->index;
  out.epoch = header->epoch();
  out.kind = header->kind();
  out.chain = header->chain;
  out.payload = payload;
  return record_verdict::ok;
}

}  // namespace log_codec

/// The header page of a segment file; fields as drawn in log/format.hpp.
struct segment_header {
  std::uint32_t flags = 0;
  position base;               ///< before the first record
  index_t previous_first = 0;  ///< the predecessor's first index
  std::uint64_t predecessor_bytes = 0;
  std::uint64_t created_ns = 0;
  std::uint64_t in_flight_limit = 0;

  [[nodiscard]] index_t first_index() const noexcept { return base.index + 1; }
  [[nodiscard]] bool has(std::uint32_t flag) const noexcept { return (flags & flag) != 0; }

  /// @param page  segment_header_bytes long; the part behind the used bytes is set to zero.
  void encode(mutable_bytes page) const noexcept {
    assert(page.size() == log_format::segment_header_bytes);
    std::memset(page.data(), 0, page.size());
    std::byte* const to = page.data();
    store_le(to, log_format::segment_magic);
    store_le(to + 8, log_format::version);
    store_le(to + 12, flags);
    store_le(to + 16, base.index);
    store_le(to + 24, base.epoch);
    store_le(to + 32, base.chain);
    store_le(to + 40, previous_first);
    store_le(to + 48, predecessor_bytes);
    store_le(to + 56, created_ns);
    store_le(to + 64, in_flight_limit);
    store_le(to + 72, xxh3_64({to, 72}));
  }

  /// @return nothing when `page` is shorter than the used bytes, of another format or version, or changed.
  static std::optional<segment_header> decode(bytes_view page) noexcept {
    if (page.size() < log_format::segment_header_used) return std::nullopt;
    const std::byte* const from = page.data();
    if (load_le<std::uint64_t>(from) != log_format::segment_magic ||
        load_le<std::uint32_t>(from + 8) != log_format::version ||
        load_le<std::uint64_t>(from + 72) != xxh3_64({from, 72})) {
      return std::nullopt;
    }
    segment_header header;
    header.flags = load_le<std::uint32_t>(from + 12);
    header.base.index = load_le<std::uint64_t>(from + 16);
    header.base.epoch = load_le<std::uint64_t>(from + 24);
    header.base.chain = load_le<std::uint64_t>(from + 32);
    header.previous_first = load_le<std::uint64_t>(from + 40);
    header.predecessor_bytes = load_le<std::uint64_t>(from + 48);
    header.created_ns = load_le<std::uint64_t>(from + 56);
    header.in_flight_limit = load_le<std::uint64_t>(from + 64);
    if ((header.flags & ~log_format::known_flags) != 0) return std::nullopt;
    return header;
  }
};

namespace log_codec {

/// @param to  watermark_bytes long.
inline void encode_watermark(std::byte* to, const position& synced) noexcept {
  store_le(to, log_format::watermark_magic);
  store_le(to + 8, synced.index);
  store_le(to + 16, synced.epoch);
  store_le(to + 24, synced.chain);
  store_le(to + 32, xxh3_64({to, 32}));
}

/// @return nothing when the bytes are missing, torn or changed: then nothing is known synced.
inline std::optional<position> decode_watermark(bytes_view bytes) noexcept {
  if (bytes.size() < log_format::watermark_bytes ||
      load_le<std::uint64_t>(bytes.data()) != log_format::watermark_magic ||
      load_le<std::uint64_t>(bytes.data() + 32) != xxh3_64(bytes.first(32))) {
    return std::nullopt;
  }
  return position{load_le<std::uint64_t>(bytes.data() + 16), load_le<std::uint64_t>(bytes.data() + 8),
                  load_le<std::uint64_t>(bytes.data() + 24)};
}

}  // namespace log_codec
}  // namespace lockstep
