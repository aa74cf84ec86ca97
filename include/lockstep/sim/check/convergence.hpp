// convergence: replicas of one history agree wherever they are, and end where their leader ends. Pure.
//
//   check::convergence replicas;
//   replicas.holds(node, log.last(), now);                           // during the run, as often as wanted
//   replicas.ends(leader, log.last(), fingerprint); …                // when everything is quiet
//   auto broken = replicas.converged(leader);
#pragma once

#include "lockstep/sim/check/violation.hpp"

#include <map>
#include <unordered_map>

namespace lockstep::sim::check {

/// Two nodes that hold a record of the same epoch and index hold the same history: the same chain, and, where they tell
/// a hash of the state that follows from it, the same state.
class convergence {
 public:
  /// `node` holds the record at `at`, and state `state` follows from the history up to it.
  violation holds(node_id node, const position& at, moment when, std::optional<std::uint64_t> state = std::nullopt) {
    const auto [found, added] = seen_.try_emplace(place{at.epoch, at.index}, sighting{at.chain, node, when, {}, 0, 0});
    sighting& first = found->second;
    if (first.chain != at.chain) {
      return detail::node(node) + " holds " + detail::text(at) + " at time " + detail::text(when) + ", but " +
             detail::node(first.node) + " held chain " + detail::hex(first.chain) + " there at time " +
             detail::text(first.when);
    }
    if (!state) return std::nullopt;
    if (!first.state) {
      first.state = state;
      first.state_node = node;
      first.state_when = when;
    } else if (*first.state != *state) {
      return detail::node(node) + " has state " + detail::hex(*state) + " after " + detail::text(at) + " at time " +
             detail::text(when) + ", but " + detail::node(first.state_node) + " had state " +
             detail::hex(*first.state) + " there at time " + detail::text(first.state_when);
    }
    return std::nullopt;
  }

  /// Where `node` stands at the end of the run. The last one told counts.
  void ends(node_id node, const position& at, std::optional<std::uint64_t> state = std::nullopt) {
    ends_[node] = {at, state};
  }

  /// Whether all nodes that told their end stand where the leader does, in the same state.
  [[nodiscard]] violation converged(node_id leader) const {
    const auto leading = ends_.find(leader);
    if (leading == ends_.end()) return "the leader, " + detail::node(leader) + ", did not tell where it ends";
    const end& goal = leading->second;
    for (const auto& [node, reached] : ends_) {
      const std::string who = detail::node(node) + " ends at " + detail::text(reached.at);
      if (reached.at != goal.at) {
        return who + ", but the leader, " + detail::node(leader) + ", at " + detail::text(goal.at);
      }
      if (reached.state && goal.state && *reached.state != *goal.state) {
        return who + " with state " + detail::hex(*reached.state) + ", but the leader, " + detail::node(leader) +
               ", has state " + detail::hex(*goal.state) + " there";
      }
    }
    return std::nullopt;
  }

 private:
  struct place {
    epoch_t epoch;
    index_t index;
    friend bool operator==(const place&, const place&) = default;
  };
  struct place_hash {
    std::size_t operator()(const place& at) const noexcept {
      return static_cast<std::size_t>((at.index * 0x9e3779b97f4a7c15U) ^ (at.epoch * 0xc2b2ae3d27d4eb4fU));
    }
  };
  struct sighting {
    std::uint64_t chain;
    node_id node;  // who held it first, and when
    moment when;
    std::optional<std::uint64_t> state;
    node_id state_node;  // who told the state first, and when
    moment state_when;
  };
  struct end {
    position at;
    std::optional<std::uint64_t> state;
  };

  std::unordered_map<place, sighting, place_hash> seen_;  // never walked over
  std::map<node_id, end> ends_;
};

}  // namespace lockstep::sim::check
