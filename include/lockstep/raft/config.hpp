// configuration: who the members are and what each of them does, and its bytes in log records and snapshots.
//
// Little-endian. A configuration has one encoding only, so that equal ones can be compared by their bytes:
//
//      0         1       2          3          4          5               6           7      8
//     +---------+-------+----------+----------+----------+---------------+-----------+------+-----+-----------+
//     | version | flags | incoming | outgoing | learners | learners_next | witnesses | zero | ids | addresses |
//     |  u8, 1  |  u8   |    u8    |    u8    |    u8    |      u8       |    u8     |  u8  | u64 |           |
//     +---------+-------+----------+----------+----------+---------------+-----------+------+-----+-----------+
//
//   flags                     1: auto_leave
//   incoming ... witnesses    how many ids each set has
//   ids                       set after set, each in ascending order
//   addresses                 up to the end, ascending by node: node u64, length u8 (not 0), that many bytes
#pragma once

#include "lockstep/core/bytes.hpp"
#include "lockstep/core/endian.hpp"
#include "lockstep/core/ids.hpp"
#include "lockstep/raft/id_set.hpp"
#include "lockstep/raft/quorum.hpp"

#include <array>
#include <cassert>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>

namespace lockstep::raft {

/// The most nodes in each of a configuration's sets.
inline constexpr std::size_t max_set_size = 255;
inline constexpr std::size_t max_address_bytes = 255;

/// Plain data: broken_invariant() says what a sound one obeys.
struct configuration {
  joint voters;             ///< an outgoing half exists while the configuration is joint
  id_set learners;          ///< get the log, and have no vote
  id_set learners_next;     ///< outgoing voters that become learners when the joint configuration is left
  id_set witnesses;         ///< voters that store no payloads, and so never lead; of both halves
  bool auto_leave = false;  ///< the leader leaves the joint configuration by itself, as soon as it is committed
  std::map<node_id, std::string> addresses;  ///< of members; one whose address nobody told has none

  [[nodiscard]] bool is_joint() const noexcept { return !voters.outgoing.empty(); }
  [[nodiscard]] bool is_member(node_id id) const noexcept { return voters.contains(id) || learners.contains(id); }

  /// Calls `visit` once for each member.
  template <std::invocable<node_id> Visit>
  void for_each_member(Visit&& visit) const {
    voters.for_each(visit);
    for (const node_id id : learners) visit(id);
  }

  friend bool operator==(const configuration&, const configuration&) = default;
};

/// What is wrong with `config`, as a sentence; nothing when every invariant holds. They hold for the empty
/// configuration, that of a node which has not heard of its cluster yet.
std::optional<std::string_view> broken_invariant(const configuration& config);

/// The longest encoding: no two of the halves and the learners share a node, and each node has the longest address.
inline constexpr std::size_t max_configuration_bytes =
    8 + 5 * max_set_size * sizeof(node_id) + 3 * max_set_size * (sizeof(node_id) + 1 + max_address_bytes);

/// Appends `config`, whose invariants hold, to `to`.
void encode_configuration(byte_buffer& to, const configuration& config);

/// @return nothing when `from` is not exactly what encode_configuration() appends for some configuration.
std::optional<configuration> decode_configuration(bytes_view from);

// --- Implementation ---------------------------------------------------------------------------------------------

namespace detail {

inline constexpr std::uint8_t configuration_version = 1;
inline constexpr std::size_t configuration_fixed_bytes = 8;

/// In the order of their encoding.
inline std::array<const id_set*, 5> sets_of(const configuration& config) noexcept {
  return {&config.voters.incoming, &config.voters.outgoing, &config.learners, &config.learners_next, &config.witnesses};
}

/// Whether some quorum has no voter that stores payloads: what it commits could be read from nobody.
inline bool witnesses_suffice(const configuration& config) noexcept {
  const auto suffice = [&](const majority& half) { return half.common_with(config.witnesses) >= half.quorum(); };
  return suffice(config.voters.incoming) || suffice(config.voters.outgoing);
}

/// Takes `count` ascending ids off the front of `from`. @return false when they are cut short or out of order.
inline bool take_ids(bytes_view& from, std::uint8_t count, id_set& to) {
  if (from.size() < count * sizeof(node_id)) return false;
  for (node_id last = 0; count != 0; --count) {
    const auto id = load_le<node_id>(from.data());
    if (id <= last) return false;
    to.insert(id);
    last = id;
    from = from.subspan(sizeof id);
  }
  return true;
}

/// Takes one address off the front of `from`. @return false when it is cut short or out of order.
inline bool take_address(bytes_view& from, std::map<node_id, std::string>& to) {
  constexpr std::size_t fixed = sizeof(node_id) + 1;
  if (from.size() < fixed) return false;
  const auto id = load_le<node_id>(from.data());
  const std::size_t size = load_le<std::uint8_t>(from.data() + sizeof id);
  if (size > from.size() - fixed) return false;
  if (!to.empty() && id <= to.rbegin()->first) return false;
  to.emplace_hint(to.end(), id, as_text(from.subspan(fixed, size)));
  from = from.subspan(fixed + size);
  return true;
}

}  // namespace detail

inline std::optional<std::string_view> broken_invariant(const configuration& config) {
  const auto& [incoming, outgoing] = config.voters;
  for (const id_set* const each : detail::sets_of(config)) {
    if (each->contains(0)) return "0 names no node.";
    if (each->size() > max_set_size) return "A set has more than 255 nodes.";
  }
  if (incoming.empty() && config != configuration()) return "There are no voters.";
  if (config.learners.common_with(incoming) != 0) return "An incoming voter is a learner.";
  if (config.learners.common_with(outgoing) != 0) return "An outgoing voter is a learner already.";
  if (!outgoing.includes(config.learners_next)) return "One who becomes a learner later is not an outgoing voter.";
  if (config.learners_next.common_with(incoming) != 0) return "One who becomes a learner later is an incoming voter.";
  if (config.learners_next.common_with(config.witnesses) != 0) return "A witness becomes a learner later.";
  if (config.auto_leave && !config.is_joint()) return "A configuration that is not joint cannot be left.";
  for (const node_id id : config.witnesses) {
    if (!config.voters.contains(id)) return "A witness is not a voter.";
  }
  if (detail::witnesses_suffice(config)) return "A majority may consist of witnesses alone.";
  for (const auto& [id, address] : config.addresses) {
    if (!config.is_member(id)) return "An address belongs to no member.";
    if (address.empty()) return "An address is empty.";
    if (address.size() > max_address_bytes) return "An address is longer than 255 bytes.";
  }
  return std::nullopt;
}

inline void encode_configuration(byte_buffer& to, const configuration& config) {
  assert(!broken_invariant(config));
  const auto sets = detail::sets_of(config);
  std::byte* at = to.extend(detail::configuration_fixed_bytes);
  store_le<std::uint8_t>(at++, detail::configuration_version);
  store_le<std::uint8_t>(at++, config.auto_leave ? 1 : 0);
  for (const id_set* const each : sets) store_le<std::uint8_t>(at++, static_cast<std::uint8_t>(each->size()));
  store_le<std::uint8_t>(at, 0);
  for (const id_set* const each : sets) {
    for (const node_id id : *each) store_le<node_id>(to.extend(sizeof id), id);
  }
  for (const auto& [id, address] : config.addresses) {
    store_le<node_id>(to.extend(sizeof id), id);
    store_le<std::uint8_t>(to.extend(1), static_cast<std::uint8_t>(address.size()));
    to.append(as_bytes(address));
  }
}

inline std::optional<configuration> decode_configuration(bytes_view from) {
  if (from.size() < detail::configuration_fixed_bytes || from.size() > max_configuration_bytes) return std::nullopt;
  std::array<std::uint8_t, detail::configuration_fixed_bytes> fixed;
  for (std::size_t i = 0; i < fixed.size(); ++i) fixed[i] = load_le<std::uint8_t>(from.data() + i);
  from = from.subspan(fixed.size());
  if (fixed[0] != detail::configuration_version || fixed[1] > 1 || fixed[7] != 0) return std::nullopt;

  configuration config;
  config.auto_leave = fixed[1] == 1;
  const bool whole =
      detail::take_ids(from, fixed[2], config.voters.incoming) &&
      detail::take_ids(from, fixed[3], config.voters.outgoing) && detail::take_ids(from, fixed[4], config.learners) &&
      detail::take_ids(from, fixed[5], config.learners_next) && detail::take_ids(from, fixed[6], config.witnesses);
  if (!whole) return std::nullopt;
  while (!from.empty()) {
    if (!detail::take_address(from, config.addresses)) return std::nullopt;
  }
  if (broken_invariant(config)) return std::nullopt;
  return config;
}

}  // namespace lockstep::raft
