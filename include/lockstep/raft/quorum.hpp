// Quorums: what a set of voters has decided, given what is known of each of them.
//
// While the members change, a decision needs a majority of the old voters and one of the new ("joint consensus":
// Ongaro and Ousterhout, "In Search of an Understandable Consensus Algorithm", section 6).
#pragma once

#include "lockstep/core/ids.hpp"
#include "lockstep/raft/id_set.hpp"

#include <algorithm>
#include <array>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <limits>
#include <optional>
#include <span>
#include <type_traits>
#include <vector>

namespace lockstep::raft {

/// Greater than the index of any record: what a quorum of nobody has committed.
inline constexpr index_t every_index = std::numeric_limits<index_t>::max();

enum class vote_result : std::uint8_t {
  pending,  ///< the missing votes decide
  lost,     ///< whatever the missing votes will be
  won,      ///< whatever the missing votes will be
};

/// A callable that tells what is known of a voter: nothing, or a T.
template <class F, class T>
concept known_of_voter = std::is_invocable_r_v<std::optional<T>, F&, node_id>;

/// Voters of whom more than half decide. The empty one is neutral, so that it can stand for the missing half of a joint
/// quorum: it has committed everything and won every vote.
class majority : public id_set {
 public:
  using id_set::id_set;

  /// How many voters decide.
  [[nodiscard]] std::size_t quorum() const noexcept { return size() / 2 + 1; }

  /// The greatest index that a majority has. Asks for each voter once; allocates for more than 7 voters only.
  /// @param acked  the last index that a voter is known to have; nothing counts as 0.
  template <known_of_voter<index_t> Acked>
  [[nodiscard]] index_t committed(Acked&& acked) const;

  /// @param voted  true for a voter that has granted its vote, false for one that has refused it.
  template <known_of_voter<bool> Voted>
  [[nodiscard]] vote_result vote(Voted&& voted) const;

  friend bool operator==(const majority&, const majority&) = default;
};

/// Two majorities that must agree; an ordinary configuration has no outgoing one.
struct joint {
  majority incoming;  ///< the voters from now on
  majority outgoing;  ///< the voters before; they decide too until the joint configuration is left

  [[nodiscard]] bool contains(node_id id) const noexcept { return incoming.contains(id) || outgoing.contains(id); }

  /// Calls `visit` once for each voter, also for one of both halves.
  template <std::invocable<node_id> Visit>
  void for_each(Visit&& visit) const {
    for (const node_id id : incoming) visit(id);
    for (const node_id id : outgoing) {
      if (!incoming.contains(id)) visit(id);
    }
  }

  /// As majority::committed().
  template <known_of_voter<index_t> Acked>
  [[nodiscard]] index_t committed(Acked&& acked) const {
    return std::min(incoming.committed(acked), outgoing.committed(acked));
  }

  /// As majority::vote().
  template <known_of_voter<bool> Voted>
  [[nodiscard]] vote_result vote(Voted&& voted) const {
    const vote_result in = incoming.vote(voted);
    const vote_result out = outgoing.vote(voted);
    if (in == out) return in;
    return in == vote_result::lost || out == vote_result::lost ? vote_result::lost : vote_result::pending;
  }

  friend bool operator==(const joint&, const joint&) = default;
};

// --- Implementation ---------------------------------------------------------------------------------------------

template <known_of_voter<index_t> Acked>
index_t majority::committed(Acked&& acked) const {
  if (empty()) return every_index;
  std::array<index_t, 7> few{};
  std::vector<index_t> many;
  if (size() > few.size()) many.resize(size());
  const std::span<index_t> indexes(many.empty() ? few.data() : many.data(), size());
  std::transform(begin(), end(), indexes.begin(), [&](node_id id) {
    const std::optional<index_t> known = acked(id);
    return known.value_or(0);
  });
  // quorum() voters have at least the quorum()-th greatest index.
  index_t* const lowest_of_quorum = indexes.data() + (quorum() - 1);
  std::nth_element(indexes.data(), lowest_of_quorum, indexes.data() + indexes.size(), std::greater<>());
  return *lowest_of_quorum;
}

template <known_of_voter<bool> Voted>
vote_result majority::vote(Voted&& voted) const {
  if (empty()) return vote_result::won;
  std::size_t granted = 0;
  std::size_t refused = 0;
  for (const node_id id : *this) {
    const std::optional<bool> known = voted(id);
    if (known) ++(*known ? granted : refused);
  }
  if (granted >= quorum()) return vote_result::won;
  return size() - refused < quorum() ? vote_result::lost : vote_result::pending;
}

}  // namespace lockstep::raft
