// progress: what a leader knows of one follower, and what it may send to it next.
//
//   probe       the leader does not know where the follower's log ends: one message at a time, until an ack
//   replicate   it does: messages are sent ahead of their acks, as many as the window holds, until a nack
//   snapshot    the records that the follower needs are not kept any more: nothing is sent but a snapshot, until its
//   ack
//
// (Flow control after Ongaro, "Consensus: Bridging Theory and Practice", section 10.2.1; the skip of whole epochs after
// a nack is that of section 5.3 of the Raft paper, made by both sides.)
#pragma once

#include "lockstep/core/ids.hpp"
#include "lockstep/core/mutant.hpp"

#include <algorithm>
#include <cassert>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <vector>

namespace lockstep::raft {

struct inflights_limits {
  std::size_t messages = 256;                                       ///< at least 1
  std::uint64_t bytes = std::numeric_limits<std::uint64_t>::max();  ///< a message that begins below it may end beyond
};

/// The messages that were sent and not acknowledged yet, oldest first. A ring that grows as it is needed, up to its
/// limit, and keeps its memory when it is emptied.
class inflights {
 public:
  explicit inflights(inflights_limits limits) noexcept : limits_(limits) { assert(limits.messages > 0); }

  [[nodiscard]] bool full() const noexcept { return count_ >= limits_.messages || bytes_ >= limits_.bytes; }
  [[nodiscard]] std::size_t messages() const noexcept { return count_; }
  [[nodiscard]] std::uint64_t bytes() const noexcept { return bytes_; }

  /// A message of `bytes` was sent whose last record is `last`, greater than that of the message before. Not while
  /// full.
  void add(index_t last, std::uint64_t bytes) {
    assert(!full());
    assert(count_ == 0 || last > at(count_ - 1).last);
    if (count_ == ring_.size()) grow();
    at(count_++) = {last, bytes};
    bytes_ += bytes;
  }

  /// The follower has the records up to `acked`.
  void release(index_t acked) noexcept {
    while (count_ != 0 && at(0).last <= acked && !(at(0).last == acked && mutated(mutant::leak_window))) {
      bytes_ -= at(0).bytes;
      first_ = (first_ + 1) % ring_.size();
      --count_;
    }
  }

  void clear() noexcept {
    count_ = 0;
    bytes_ = 0;
  }

 private:
  struct message {
    index_t last = 0;
    std::uint64_t bytes = 0;
  };

  message& at(std::size_t i) noexcept { return ring_[(first_ + i) % ring_.size()]; }

  void grow() {
    std::rotate(ring_.begin(), ring_.begin() + static_cast<std::ptrdiff_t>(first_), ring_.end());
    first_ = 0;
    constexpr std::size_t at_first = 8;
    ring_.resize(std::min(std::max(at_first, 2 * ring_.size()), limits_.messages));
  }

  inflights_limits limits_;
  std::vector<message> ring_;
  std::size_t first_ = 0;
  std::size_t count_ = 0;
  std::uint64_t bytes_ = 0;  // sum over the messages
};

class progress {
 public:
  enum class state_t : std::uint8_t { probe, replicate, snapshot };

  /// Of a follower of whom nothing is known: begins to probe with `next`, at least 1.
  explicit progress(index_t next, inflights_limits limits = {}, bool is_learner = false) noexcept
      : learner(is_learner), next_(next), inflights_(limits) {
    assert(next > 0);
  }

  /// Has no vote; the leader keeps it equal to the configuration.
  bool learner;

  [[nodiscard]] state_t state() const noexcept { return state_; }

  /// The last index that the follower is known to have in common with the leader. Falls by on_loss() only.
  [[nodiscard]] index_t match() const noexcept { return match_; }

  /// The first index of the next message; greater than match().
  [[nodiscard]] index_t next() const noexcept { return next_; }

  /// In state snapshot: the index of the snapshot that the follower is being sent. 0 otherwise.
  [[nodiscard]] index_t pending_snapshot() const noexcept { return pending_snapshot_; }

  /// Empty unless in state replicate.
  [[nodiscard]] const inflights& in_flight() const noexcept { return inflights_; }

  /// Whether records must wait. A message without records may be sent all the same, and is one to send now and then: it
  /// finds out by a nack that a whole window was lost.
  [[nodiscard]] bool is_paused() const noexcept {
    switch (state_) {
      case state_t::probe: return probe_sent_;
      case state_t::replicate: return inflights_.full();
      case state_t::snapshot: return true;
    }
    return true;
  }

  /// A message with the records [next(), last] was sent, `bytes` long; without records, last is next() - 1. Records are
  /// not sent while paused.
  void on_sent(index_t last, std::uint64_t bytes) {
    assert(last + 1 >= next_);
    const bool empty = last + 1 == next_;
    assert(empty || !is_paused());
    if (state_ == state_t::probe) probe_sent_ = true;
    if (state_ != state_t::replicate || empty) return;
    inflights_.add(last, bytes);
    next_ = last + 1;
  }

  /// The follower has everything up to `index`. In state probe an ack that is not stale begins replication, in state
  /// snapshot one of the snapshot's index or a later one does.
  /// @return whether match() rose, so that more may be committed.
  bool on_ack(index_t index) noexcept;

  /// The follower has no record at `rejected`, the index before a message's first record, or a record of another epoch.
  /// @param hint  the greatest index that the two logs may have in common, see last_possible_match().
  /// @return false when the nack is stale and nothing was done; true when the leader should send anew from next().
  bool on_reject(index_t rejected, index_t hint) noexcept;

  /// The follower's disk has lost what it had acknowledged: all behind `hint` may be missing.
  void on_loss(index_t hint) noexcept {
    if (state_ == state_t::snapshot) return;
    match_ = std::min(match_, hint);
    enter(state_t::probe, match_ + 1);
  }

  /// The follower answered a heartbeat: it has everything up to `index`, of which the acknowledgement may be lost. So
  /// may be a probe that has no answer yet, and another one may be sent.
  /// @return whether match() rose.
  bool on_heartbeat(index_t index) noexcept;

  /// Nothing that is under way is sure to arrive: begin again behind match(), or behind the snapshot that was sent.
  /// What was probed for is as likely as before.
  void become_probe() noexcept {
    const index_t behind = std::max(match_, pending_snapshot_);
    enter(state_t::probe, state_ == state_t::probe ? next_ : behind + 1);
  }

  void become_replicate() noexcept { enter(state_t::replicate, match_ + 1); }

  /// The follower is sent a snapshot that stands for the records up to `index`.
  void become_snapshot(index_t index) noexcept {
    enter(state_t::snapshot, std::max(match_, index) + 1);
    pending_snapshot_ = index;
  }

  /// The snapshot did not arrive: probe for what the follower has without it.
  void abort_snapshot() noexcept {
    if (state_ == state_t::snapshot) enter(state_t::probe, match_ + 1);
  }

 private:
  void enter(state_t state, index_t next) noexcept {
    state_ = state;
    next_ = next;
    probe_sent_ = false;
    pending_snapshot_ = 0;
    inflights_.clear();
  }

  state_t state_ = state_t::probe;
  bool probe_sent_ = false;  // in state probe: a probe waits for its answer
  index_t match_ = 0;
  index_t next_;
  index_t pending_snapshot_ = 0;
  inflights inflights_;
};

/// The greatest index in [base, from] whose epoch is at most `epoch`; `base` when there is none, `from` when it is
/// below `base`. Two logs cannot agree at an index where one has a greater epoch than the other has at or before it, so
/// that a nack is answered by skipping whole epochs: the follower calls this with the epoch that it was asked for, and
/// sends the index and its own epoch there; the leader calls it with what the follower sent, for on_reject()'s hint.
/// @param base      the index before the first record that this side keeps.
/// @param from      not beyond this side's last record.
/// @param epoch_at  the epoch of this side's record at an index in (base, from]; it is asked O(log(from - base)) times.
template <std::invocable<index_t> EpochAt>
[[nodiscard]] index_t last_possible_match(index_t base, index_t from, epoch_t epoch, EpochAt&& epoch_at) {
  if (from <= base) return from;
  index_t not_above = base;  // epochs never fall along a log: the sought index lies in [not_above, above)
  index_t above = from + 1;
  while (above - not_above > 1) {
    const index_t middle = not_above + (above - not_above) / 2;
    (epoch_at(middle) <= epoch ? not_above : above) = middle;
  }
  return not_above;
}

// --- Implementation ---------------------------------------------------------------------------------------------

inline bool progress::on_ack(index_t index) noexcept {
  if (index < match_ && !mutated(mutant::match_moves_back)) return false;
  const bool advanced = index > match_;
  match_ = index;
  next_ = std::max(next_, match_ + 1);
  switch (state_) {
    case state_t::probe: become_replicate(); break;
    case state_t::replicate: inflights_.release(match_); break;
    case state_t::snapshot:
      if (match_ >= pending_snapshot_) become_replicate();
      break;
  }
  return advanced;
}

inline bool progress::on_heartbeat(index_t index) noexcept {
  probe_sent_ = false;
  if (state_ != state_t::probe) return on_ack(index);
  // What it is known to have may lie far below what it has: the probe finds out.
  const bool advanced = index > match_;
  match_ = std::max(match_, index);
  next_ = std::max(next_, match_ + 1);
  return advanced;
}

inline bool progress::on_reject(index_t rejected, index_t hint) noexcept {
  if (rejected <= match_ || state_ == state_t::snapshot) return false;
  // Only the last probe's answer counts; of a window's messages, any may be the first that did not fit.
  const bool sent = state_ == state_t::probe ? rejected + 1 == next_ : rejected < next_;
  if (!sent) return false;
  enter(state_t::probe, std::max(std::min(rejected - 1, hint), mutated(mutant::next_below_match) ? 0 : match_) + 1);
  return true;
}

}  // namespace lockstep::raft
