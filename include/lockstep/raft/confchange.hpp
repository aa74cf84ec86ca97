// Changes of a configuration, by single steps and by joint consensus.
//
//   simple_change   at most one voter differs, so that each old majority shares a node with each new one
//   enter_joint     any number: the old voters stay as the outgoing half, and decide together with the new ones
//   leave_joint     the outgoing half goes, and those demoted from it become learners
//
// (Ongaro, "Consensus: Bridging Theory and Practice", sections 4.1 and 4.3. The leader applies one change after the
// other: the next one only when the last one is committed.)
//
// A list of changes as bytes, little-endian:
//
//      0         1     2       4
//     +---------+-----+-------+---------+     +------+--------+------+---------+
//     | version | how | count | changes |     | type | length | node | address |   each change
//     |  u8, 1  | u8  |  u16  |         |     |  u8  |   u8   | u64  |         |
//     +---------+-----+-------+---------+     +------+--------+------+---------+
#pragma once

#include "lockstep/core/bytes.hpp"
#include "lockstep/core/endian.hpp"
#include "lockstep/core/ids.hpp"
#include "lockstep/raft/config.hpp"
#include "lockstep/raft/id_set.hpp"

#include <cassert>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace lockstep::raft {

enum class change_type : std::uint8_t { add_voter = 1, add_learner = 2, add_witness = 3, remove = 4 };

/// What becomes of one node. Adding a member again in another role promotes or demotes it; adding it again in its own
/// role can tell its new address; removing a node that is no member does nothing.
struct change {
  change_type type = change_type::add_voter;
  node_id node = 0;     ///< 0: the change is ignored
  std::string address;  ///< empty: a member keeps the address that it has

  friend bool operator==(const change&, const change&) = default;
};

using changes_view = std::span<const change>;

/// How a list of changes takes effect.
enum class transition : std::uint8_t {
  simple = 0,
  joint_auto_leave = 1,  ///< the leader leaves the joint configuration as soon as it is committed
  joint_explicit = 2,    ///< the joint configuration stays until somebody asks to leave it
};

struct change_list {
  transition how = transition::simple;
  std::vector<change> changes;  ///< in the order in which they are applied; the last one of a node counts

  friend bool operator==(const change_list&, const change_list&) = default;
};

enum class change_error : std::uint8_t {
  none,
  already_joint,       ///< the joint configuration must be left first
  not_joint,           ///< there is nothing to leave
  no_voters_yet,       ///< a configuration without voters cannot become joint
  no_voters_left,      ///< the change would remove every voter
  too_many_voters,     ///< more than one voter would differ; only a joint change can do that
  witness_has_no_log,  ///< a witness would become a voter or a learner; remove it first, then add it with an empty log
  witnesses_suffice,   ///< a majority could consist of witnesses, and nobody would have the payloads
  too_many_members,    ///< see max_set_size
  address_too_long,    ///< see max_address_bytes
};

/// `error` as a sentence.
std::string_view describe(change_error error) noexcept;

struct change_result {
  change_error error = change_error::none;
  configuration config;  ///< when there is no error

  explicit operator bool() const noexcept { return error == change_error::none; }
};

/// The three operations. The invariants of `now` hold, and so do those of the configuration that is returned.
change_result simple_change(const configuration& now, changes_view changes);
change_result enter_joint(const configuration& now, changes_view changes, bool auto_leave);
change_result leave_joint(const configuration& now);

/// Applies `list` as it says.
change_result apply(const configuration& now, const change_list& list);

/// How `changes` can take effect on `now`, which is not joint: simple when that is enough, joint_auto_leave when
/// several voters differ.
transition needed_transition(const configuration& now, changes_view changes);

inline constexpr std::size_t max_changes = 1024;

/// Appends `list` to `to`. It has at most max_changes changes, and no address is longer than max_address_bytes.
void encode_changes(byte_buffer& to, const change_list& list);

/// @return nothing when `from` is not exactly what encode_changes() appends for some list.
std::optional<change_list> decode_changes(bytes_view from);

// --- Implementation ---------------------------------------------------------------------------------------------

namespace detail {

inline constexpr std::uint8_t changes_version = 1;
inline constexpr std::size_t changes_fixed_bytes = 4;
inline constexpr std::size_t change_fixed_bytes = 10;

/// A configuration under change.
class changing {
 public:
  explicit changing(const configuration& now) : before_(now), after_(now) {}

  /// The present voters decide on until the joint configuration is left.
  void keep_outgoing(bool auto_leave) {
    after_.voters.outgoing = before_.voters.incoming;
    after_.auto_leave = auto_leave;
  }

  void make(changes_view changes) {
    for (const change& each : changes) {
      if (each.node != 0) make(each);
    }
  }

  void drop_outgoing() {
    after_.voters.outgoing.clear();
    after_.learners.insert(after_.learners_next);
    after_.learners_next.clear();
    after_.witnesses.erase_if([&](node_id id) { return !after_.voters.contains(id); });
    after_.auto_leave = false;
  }

  [[nodiscard]] change_result finish() {
    std::erase_if(after_.addresses, [&](const auto& each) { return !after_.is_member(each.first); });
    if (after_.voters.incoming.empty()) fail(change_error::no_voters_left);
    if (witnesses_suffice(after_)) fail(change_error::witnesses_suffice);
    for (const id_set* const each : sets_of(after_)) {
      if (each->size() > max_set_size) fail(change_error::too_many_members);
    }
    if (error_ != change_error::none) return {error_, {}};
    assert(!broken_invariant(after_));
    return {change_error::none, std::move(after_)};
  }

 private:
  void make(const change& wanted) {
    const node_id id = wanted.node;
    take_out(id);  // of every role first, so that no order of changes and no repetition leaves it in two
    switch (wanted.type) {
      case change_type::add_voter:
        needs_payloads(id);
        after_.voters.incoming.insert(id);
        break;
      case change_type::add_learner:
        needs_payloads(id);
        // An outgoing voter votes until the joint configuration is left; as a learner it would be both.
        (after_.voters.outgoing.contains(id) ? after_.learners_next : after_.learners).insert(id);
        break;
      case change_type::add_witness:
        after_.voters.incoming.insert(id);
        after_.witnesses.insert(id);
        break;
      case change_type::remove: return;
    }
    if (wanted.address.size() > max_address_bytes) fail(change_error::address_too_long);
    if (!wanted.address.empty()) after_.addresses[id] = wanted.address;
  }

  void take_out(node_id id) {
    after_.voters.incoming.erase(id);
    after_.learners.erase(id);
    after_.learners_next.erase(id);
    // A witness of the outgoing half is one for as long as that half decides.
    const bool still_witness = before_.witnesses.contains(id) && after_.voters.outgoing.contains(id);
    if (!still_witness) after_.witnesses.erase(id);
  }

  void needs_payloads(node_id id) noexcept {
    if (before_.witnesses.contains(id)) fail(change_error::witness_has_no_log);
  }

  /// The first failure is the one that is told.
  void fail(change_error error) noexcept {
    if (error_ == change_error::none) error_ = error;
  }

  const configuration& before_;
  configuration after_;
  change_error error_ = change_error::none;
};

/// How many voters come, go, or begin to be witnesses.
inline std::size_t voters_that_differ(const configuration& before, const configuration& after) {
  const auto role = [](const configuration& of, node_id id) {
    return std::pair(of.voters.incoming.contains(id), of.witnesses.contains(id));
  };
  std::size_t count = 0;
  const joint either{before.voters.incoming, after.voters.incoming};
  either.for_each([&](node_id id) { count += role(before, id) != role(after, id) ? 1u : 0u; });
  return count;
}

}  // namespace detail

inline std::string_view describe(change_error error) noexcept {
  switch (error) {
    case change_error::none: return "No error.";
    case change_error::already_joint: return "The configuration is joint: it must be left before the next change.";
    case change_error::not_joint: return "The configuration is not joint: there is nothing to leave.";
    case change_error::no_voters_yet: return "A configuration without voters cannot become joint.";
    case change_error::no_voters_left: return "No voters would be left.";
    case change_error::too_many_voters: return "More than one voter would differ, which needs a joint change.";
    case change_error::witness_has_no_log:
      return "A witness has no payloads: to give it another role, remove it first, then add it with an empty log.";
    case change_error::witnesses_suffice: return "A majority could consist of witnesses alone.";
    case change_error::too_many_members: return "A configuration has room for 255 nodes of a kind.";
    case change_error::address_too_long: return "An address has at most 255 bytes.";
  }
  return "Unknown error.";
}

inline change_result simple_change(const configuration& now, changes_view changes) {
  if (now.is_joint()) return {change_error::already_joint, {}};
  detail::changing next(now);
  next.make(changes);
  change_result result = next.finish();
  if (result && detail::voters_that_differ(now, result.config) > 1) return {change_error::too_many_voters, {}};
  return result;
}

inline change_result enter_joint(const configuration& now, changes_view changes, bool auto_leave) {
  if (now.is_joint()) return {change_error::already_joint, {}};
  if (now.voters.incoming.empty()) return {change_error::no_voters_yet, {}};
  detail::changing next(now);
  next.keep_outgoing(auto_leave);
  next.make(changes);
  return next.finish();
}

inline change_result leave_joint(const configuration& now) {
  if (!now.is_joint()) return {change_error::not_joint, {}};
  detail::changing next(now);
  next.drop_outgoing();
  return next.finish();
}

inline change_result apply(const configuration& now, const change_list& list) {
  if (list.how == transition::simple) return simple_change(now, list.changes);
  return enter_joint(now, list.changes, list.how == transition::joint_auto_leave);
}

inline transition needed_transition(const configuration& now, changes_view changes) {
  const bool several = simple_change(now, changes).error == change_error::too_many_voters;
  return several ? transition::joint_auto_leave : transition::simple;
}

inline void encode_changes(byte_buffer& to, const change_list& list) {
  assert(list.changes.size() <= max_changes);
  std::byte* const fixed = to.extend(detail::changes_fixed_bytes);
  store_le<std::uint8_t>(fixed, detail::changes_version);
  store_le<std::uint8_t>(fixed + 1, static_cast<std::uint8_t>(list.how));
  store_le<std::uint16_t>(fixed + 2, static_cast<std::uint16_t>(list.changes.size()));
  for (const change& each : list.changes) {
    assert(each.address.size() <= max_address_bytes);
    std::byte* const at = to.extend(detail::change_fixed_bytes);
    store_le<std::uint8_t>(at, static_cast<std::uint8_t>(each.type));
    store_le<std::uint8_t>(at + 1, static_cast<std::uint8_t>(each.address.size()));
    store_le<node_id>(at + 2, each.node);
    to.append(as_bytes(each.address));
  }
}

inline std::optional<change_list> decode_changes(bytes_view from) {
  if (from.size() < detail::changes_fixed_bytes) return std::nullopt;
  const auto version = load_le<std::uint8_t>(from.data());
  const auto how = load_le<std::uint8_t>(from.data() + 1);
  const std::size_t count = load_le<std::uint16_t>(from.data() + 2);
  from = from.subspan(detail::changes_fixed_bytes);
  if (version != detail::changes_version || how > static_cast<std::uint8_t>(transition::joint_explicit)) {
    return std::nullopt;
  }
  if (count > max_changes || count * detail::change_fixed_bytes > from.size()) return std::nullopt;

  change_list list;
  list.how = static_cast<transition>(how);
  list.changes.reserve(count);
  while (list.changes.size() < count) {
    if (from.size() < detail::change_fixed_bytes) return std::nullopt;
    const auto type = load_le<std::uint8_t>(from.data());
    const std::size_t length = load_le<std::uint8_t>(from.data() + 1);
    const auto node = load_le<node_id>(from.data() + 2);
    from = from.subspan(detail::change_fixed_bytes);
    if (type < static_cast<std::uint8_t>(change_type::add_voter) ||
        type > static_cast<std::uint8_t>(change_type::remove) || length > from.size()) {
      return std::nullopt;
    }
    list.changes.push_back({static_cast<change_type>(type), node, std::string(as_text(from.first(length)))});
    from = from.subspan(length);
  }
  if (!from.empty()) return std::nullopt;
  return list;
}

}  // namespace lockstep::raft
