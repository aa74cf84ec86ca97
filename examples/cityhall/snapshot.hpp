// A snapshot's bytes: a whole state that stands for all records up to its position. Pure.
//
//   +-----------+----------------------------+------------------------+-----------+---------------------+-----------+
//   | magic u64 | position (3 u64) | totals  | leader's clients (text) | count u64 | count times: k, v   | check u64 |
//   |           | epoch,index,chain| (2 u64) |                         |           | (texts)             |           |
//   +-----------+----------------------------+------------------------+-----------+---------------------+-----------+
//   check: XXH3-64 of everything before it. Equal states have equal bytes.
#pragma once

#include "cityhall/kv_state.hpp"

#include <lockstep/core/checksum.hpp>
#include <lockstep/core/fields.hpp>

#include <cstdint>
#include <optional>

namespace lockstep::cityhall {

inline constexpr std::uint64_t snapshot_magic = 0x31504e53'59544943;  // "CITYSNP1"

inline byte_buffer encode_snapshot(const kv_state& state) {
  std::size_t size = 128 + state.leader_clients().size();
  for (const auto& [key, value] : state.pairs()) size += 8 + key.size() + value.size();
  byte_buffer bytes(size);
  field_writer to(bytes);
  to.number(snapshot_magic).at(state.at()).number(state.counts().segments).number(state.counts().entries);
  to.text(state.leader_clients()).number(std::uint64_t{state.pairs().size()});
  for (const auto& [key, value] : state.pairs()) to.text(key).text(value);
  to.number(xxh3_64(bytes.view()));
  return bytes;
}

/// What a snapshot says before its pairs.
struct snapshot_summary {
  position at;
  totals counts;
  std::string leader_clients;
  std::uint64_t keys = 0;
};

namespace detail {

/// The fields between magic and check, once both are good.
inline std::optional<bytes_view> checked_snapshot_body(bytes_view bytes) noexcept {
  constexpr std::size_t around = 2 * sizeof(std::uint64_t);
  if (bytes.size() < around || load_le<std::uint64_t>(bytes.data()) != snapshot_magic) return std::nullopt;
  const bytes_view checked = bytes.first(bytes.size() - sizeof(std::uint64_t));
  if (load_le<std::uint64_t>(checked.data() + checked.size()) != xxh3_64(checked)) return std::nullopt;
  return checked.subspan(sizeof(std::uint64_t));
}

inline snapshot_summary take_summary(field_reader& from) {
  snapshot_summary summary;
  summary.at = from.at();
  summary.counts.segments = from.number<std::uint64_t>();
  summary.counts.entries = from.number<std::uint64_t>();
  summary.leader_clients = std::string(from.text());
  summary.keys = from.number<std::uint64_t>();
  return summary;
}

}  // namespace detail

/// Verifies all bytes and builds nothing. @return nothing when they are no snapshot, cut short, or changed.
inline std::optional<snapshot_summary> read_snapshot_summary(bytes_view bytes) {
  const auto body = detail::checked_snapshot_body(bytes);
  if (!body) return std::nullopt;
  field_reader from(*body);
  snapshot_summary summary = detail::take_summary(from);
  if (!from.good()) return std::nullopt;
  return summary;
}

/// @return nothing when `bytes` are no snapshot, cut short, or changed.
inline std::optional<kv_state> decode_snapshot(bytes_view bytes) {
  const auto body = detail::checked_snapshot_body(bytes);
  if (!body) return std::nullopt;
  field_reader from(*body);
  snapshot_summary summary = detail::take_summary(from);
  kv_state::pair_map pairs;
  for (std::uint64_t i = 0; i < summary.keys && from.good(); ++i) {
    const std::string_view key = from.text();
    const std::string_view value = from.text();
    pairs.emplace_hint(pairs.end(), key, value);
  }
  if (!from.complete() || pairs.size() != summary.keys) return std::nullopt;
  return kv_state(summary.at, summary.counts, std::move(summary.leader_clients), std::move(pairs));
}

}  // namespace lockstep::cityhall
