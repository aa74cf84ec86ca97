// Whether a history holds the record that a reader names. Pure.
#pragma once

#include <lockstep/core/ids.hpp>
#include <lockstep/core/mutant.hpp>

#include <optional>

namespace lockstep::cityhall {

enum class held {
  yes,
  not_yet,  ///< it may still come, in place of what is there or behind it
  never,    ///< a later leader's records took its place: this history goes on without it
};

/// A record is named by its whole position, since an index or an epoch with it may stand for another record in another
/// history: a replica that is about to cut off a dead leader's records has some at the same index, and two leaders of
/// the same epoch at both. The chain alone stands for the record and all before it.
///
/// A record that differs decides by its leader: epochs never fall along a history, so behind a later epoch than
/// `wanted`'s it can't come any more. Behind the same or an earlier one it can, once what differs is cut off.
/// Before `base` there is nothing left to compare with: then a record counts as held unless its epoch is later than
/// base's.
///
/// @param base  behind it the history's positions are known; `last` is its end.
/// @param own   the history's position at wanted.index, when it is known.
inline held holds(const position& wanted, const position& base, const position& last,
                  const std::optional<position>& own) noexcept {
  if (wanted.index <= last.index && mutated(mutant::compare_positions_by_index)) return held::yes;
  const bool compacted = wanted.index < base.index;
  if (wanted.index == 0 || (compacted && wanted.epoch <= base.epoch) || (own && *own == wanted)) return held::yes;
  return last.epoch > wanted.epoch ? held::never : held::not_yet;
}

}  // namespace lockstep::cityhall
