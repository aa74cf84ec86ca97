// check_commit_order: does the order of commits that the system reports explain every answer? Linear, but for sorting.
// Pure.
//
// The order is a witness: with it nothing has to be searched. It is one order for all keys, as that of a replicated
// log. Told are the commit of each write that succeeded, and for reads, if known, the last commit of the state that
// they were answered from; other reads are matched by their value.
//
// Checked are, with W before R meaning that W returned before R was invoked:
// - each write has a commit of its own, and if W before R, both writes, W's is the lower one;
// - a read returns what the last write of its key up to its state left;
// - a read's state holds every write before it and none that was invoked after it returned, and on each key no read
// sees
//   an older write than one before it;
// - a compare-and-swap found what it expected right before its own commit.
//
// A write of unknown outcome counts as one that took effect when kv_history::committed() told its commit, or when its
// value was seen by a swap or by a read that tells its state. So tell all commits, from the system's own record: an
// unknown delete that took effect and was not told, for one, makes right answers look wrong.
#pragma once

#include "lockstep/sim/check/kv_history.hpp"

#include <algorithm>
#include <cstddef>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

namespace lockstep::sim::check {

/// See the top of this file.
violation check_commit_order(const kv_history& history);

// --------------------------------------------------------------------------------------------------------------------

namespace detail {

/// Writes in their order, asked by time. Positions count from 1; 0 stands before the first.
class write_order {
 public:
  explicit write_order(std::vector<const kv_operation*> in_commit_order) : writes_(std::move(in_commit_order)) {
    const kv_operation* latest = nullptr;
    for (const kv_operation* each : writes_) {
      if (!latest || each->invoked > latest->invoked) latest = each;
      latest_invoked_.push_back(latest);
    }
    for (std::size_t i = 0; i < writes_.size(); ++i) {
      if (writes_[i]->returned != never) returned_.push_back({writes_[i]->returned, i + 1});
    }
    std::sort(returned_.begin(), returned_.end());
    for (std::size_t i = 1; i < returned_.size(); ++i) {
      returned_[i].second = std::max(returned_[i].second, returned_[i - 1].second);
    }
  }

  [[nodiscard]] std::size_t size() const noexcept { return writes_.size(); }
  [[nodiscard]] const kv_operation& at(std::size_t position) const { return *writes_[position - 1]; }

  /// The highest position of a write that returned before `when`.
  [[nodiscard]] std::size_t returned_before(moment when) const {
    const auto end = std::lower_bound(returned_.begin(), returned_.end(), std::pair(when, std::size_t{0}));
    return end == returned_.begin() ? 0 : std::prev(end)->second;
  }
  /// The highest position up to which all writes were invoked at `when` or earlier.
  [[nodiscard]] std::size_t invoked_by(moment when) const {
    const auto end = std::partition_point(latest_invoked_.begin(), latest_invoked_.end(),
                                          [&](const kv_operation* each) { return each->invoked <= when; });
    return static_cast<std::size_t>(end - latest_invoked_.begin());
  }
  /// The highest position whose commit is at most `commit`.
  [[nodiscard]] std::size_t committed_by(std::uint64_t commit) const {
    const auto end = std::partition_point(writes_.begin(), writes_.end(),
                                          [&](const kv_operation* each) { return each->commit <= commit; });
    return static_cast<std::size_t>(end - writes_.begin());
  }
  /// Of the writes up to `position`, which is not 0, the one invoked last.
  [[nodiscard]] const kv_operation& latest_invoked(std::size_t position) const {
    return *latest_invoked_[position - 1];
  }

 private:
  std::vector<const kv_operation*> writes_;
  std::vector<const kv_operation*> latest_invoked_;       // of the writes up to here
  std::vector<std::pair<moment, std::size_t>> returned_;  // by time; with the highest position up to here
};

/// One check_commit_order().
class commit_order_check {
 public:
  explicit commit_order_check(const kv_history& history)
      : history_(history), all_(history.operations().begin(), history.operations().end()) {}

  violation run() {
    if (violation found = index_values()) return found;
    place_observed_writes();
    if (violation found = check_writes()) return found;
    const write_order order(committed_);
    for (const kv_operation& each : all_) {
      if (violation found = check_state(order, each)) return found;
    }
    std::vector<std::vector<const kv_operation*>> writes(history_.keys());
    for (const kv_operation* each : committed_) writes[each->key].push_back(each);
    for (std::size_t key = 0; key < history_.keys(); ++key) {
      if (violation found = check_key(key, write_order(std::move(writes[key])))) return found;
    }
    return std::nullopt;
  }

 private:
  using writers = std::unordered_map<value_id, std::size_t>;  // never walked over

  [[nodiscard]] violation broken(const kv_operation& op, const std::string& what) const {
    return "key '" + history_.key_name(op.key) + "': " + operation_text(op) + " " + what;
  }

  [[nodiscard]] std::size_t number_of(const kv_operation& op) const {
    return static_cast<std::size_t>(&op - all_.data());
  }

  static value_id left_by(const write_order& order, std::size_t position) {
    if (position == 0 || order.at(position).action == kv_action::erase) return absent;
    return order.at(position).value;
  }
  static std::string explain(const write_order& order, std::size_t position) {
    return position == 0 ? "its key was not written by then"
                         : "the last write by then is " + operation_text(order.at(position));
  }

  /// Finds out who wrote each value, also those that had no effect.
  violation index_values() {
    writers_.resize(history_.keys());
    for (std::size_t i = 0; i < all_.size(); ++i) {
      const kv_operation& op = all_[i];
      if (op.action != kv_action::put && op.action != kv_action::compare_swap) continue;
      if (op.value == absent) return broken(op, "writes the number that stands for no value");
      const auto [found, added] = writers_[op.key].try_emplace(op.value, i);
      if (!added) return broken(op, "writes the same value as " + operation_text(all_[found->second]));
    }
    return std::nullopt;
  }

  /// Gives writes of unknown outcome and unknown commit the latest place that explains who saw their values: right
  /// before the earliest swap, or at the earliest state, that did. Nothing else of the key can lie between that and
  /// their true place.
  void place_observed_writes() {
    depth_.resize(all_.size());
    for (const kv_operation& op : history_.operations()) {
      if (!op.is_done() || op.commit == 0) continue;
      if (op.action == kv_action::get) place_writer(op.key, op.value, op.commit, 1);
      if (op.action == kv_action::compare_swap && op.swapped) place_writer(op.key, op.expected, op.commit, 1);
    }
  }
  void place_writer(std::size_t key, value_id value, std::uint64_t commit, std::size_t depth) {
    const auto found = writers_[key].find(value);
    if (found == writers_[key].end() || depth > all_.size()) return;
    const std::size_t i = found->second;
    kv_operation& writer = all_[i];
    if (writer.outcome != kv_outcome::unknown || history_.operations()[i].commit != 0) return;
    if (depth_[i] != 0 && (commit > writer.commit || (commit == writer.commit && depth <= depth_[i]))) return;
    writer.commit = commit;
    depth_[i] = depth;
    if (writer.action == kv_action::compare_swap) place_writer(key, writer.expected, commit, depth + 1);
  }

  /// Finds the writes that took effect, in their order, and checks it against real time.
  violation check_writes() {
    for (std::size_t i = 0; i < all_.size(); ++i) {
      const kv_operation& op = all_[i];
      if (op.commit != 0 && op.outcome == kv_outcome::failed) return broken(op, "was committed although it failed");
      if (!op.writes()) continue;
      if (op.commit == 0 && op.is_done()) return broken(op, "succeeded without a commit");
      if (op.commit != 0) committed_.push_back(&op);
    }
    const auto depth = [&](const kv_operation* op) { return depth_[number_of(*op)]; };
    std::stable_sort(committed_.begin(), committed_.end(), [&](const kv_operation* a, const kv_operation* b) {
      return a->commit != b->commit ? a->commit < b->commit : depth(a) > depth(b);
    });
    const kv_operation* latest = nullptr;
    const kv_operation* previous = nullptr;
    for (const kv_operation* each : committed_) {
      if (previous && previous->commit == each->commit && depth(previous) == 0) {
        return broken(*each, "has the commit of " + operation_text(*previous) + " on key '" +
                                 history_.key_name(previous->key) + "'");
      }
      if (latest && each->returned < latest->invoked) {
        return broken(*each, "returned before " + operation_text(*latest) + " on key '" +
                                 history_.key_name(latest->key) + "' was invoked, but was committed after it");
      }
      if (!latest || each->invoked > latest->invoked) latest = each;
      previous = each;
    }
    return std::nullopt;
  }

  /// Whether the state that a read tells respects real time.
  violation check_state(const write_order& order, const kv_operation& op) const {
    if (!op.only_observes() || op.commit == 0) return std::nullopt;
    const std::size_t state = order.committed_by(op.commit);
    if (const std::size_t least = order.returned_before(op.invoked); state < least) {
      const kv_operation& missed = order.at(least);
      return broken(op, "was answered from a stale state: " + operation_text(missed) + " on key '" +
                            history_.key_name(missed.key) + "' had returned before");
    }
    if (state > order.invoked_by(op.returned)) {
      const kv_operation& later = order.latest_invoked(state);
      return broken(op, "was answered from a future state: it holds " + operation_text(later) + " on key '" +
                            history_.key_name(later.key) + "', which was invoked later");
    }
    return std::nullopt;
  }

  violation check_key(std::size_t key, const write_order& order) {
    for (std::size_t i = 1; i <= order.size(); ++i) {
      const kv_operation& op = order.at(i);
      if (op.action == kv_action::compare_swap && left_by(order, i - 1) != op.expected) {
        return broken(op, "swapped without finding what it expected: " + explain(order, i - 1));
      }
    }
    std::vector<const kv_operation*> reads;
    for (const kv_history::op each : history_.of_key(key)) {
      if (all_[each].only_observes()) reads.push_back(&all_[each]);
    }
    return check_reads(order, std::move(reads));
  }

  /// Finds for each read, in order of invocation, the earliest position that explains it, not before that of any read
  /// that returned before.
  violation check_reads(const write_order& order, std::vector<const kv_operation*> reads) {
    struct seen {
      moment returned;
      std::size_t position;
      const kv_operation* read;
    };
    std::stable_sort(reads.begin(), reads.end(),
                     [](const kv_operation* a, const kv_operation* b) { return a->invoked < b->invoked; });
    std::vector<const kv_operation*> by_return = reads;
    std::stable_sort(by_return.begin(), by_return.end(),
                     [](const kv_operation* a, const kv_operation* b) { return a->returned < b->returned; });
    index_positions(order);
    seen highest{0, 0, nullptr};
    std::size_t passed = 0;
    for (const kv_operation* read : reads) {
      // Whatever returned before this one was invoked was invoked before it, and so has its position.
      for (; passed < by_return.size() && by_return[passed]->returned < read->invoked; ++passed) {
        const kv_operation* earlier = by_return[passed];
        const std::size_t position = position_of_read_[number_of(*earlier)];
        if (!highest.read || position > highest.position) highest = {earlier->returned, position, earlier};
      }
      const std::size_t least = order.returned_before(read->invoked);
      const std::size_t from = std::max(least, highest.position);
      const std::size_t position = position_for(order, *read, from);
      const bool right = position <= order.size() && matches(order, *read, position);
      if (!right) return unexplained(order, *read, position);
      if (position < from) {
        return broken(
            *read, "is stale: " +
                       (least >= highest.position ? operation_text(order.at(least)) : operation_text(*highest.read)) +
                       " had returned before, and " + explain_order(order, position, from));
      }
      if (position > order.invoked_by(read->returned)) {
        return broken(*read, "needs " + operation_text(order.latest_invoked(position)) + ", which was invoked later");
      }
      position_of_read_[number_of(*read)] = position;
    }
    return std::nullopt;
  }

  static std::string explain_order(const write_order& order, std::size_t seen, std::size_t from) {
    return "it saw the state before " + operation_text(order.at(seen + 1)) +
           (seen + 1 == from ? "" : " and later writes up to " + operation_text(order.at(from)));
  }

  static bool matches(const write_order& order, const kv_operation& read, std::size_t position) {
    const value_id value = left_by(order, position);
    return read.action == kv_action::get ? value == read.value : value != read.expected;
  }

  /// Where values stand in the order of a key.
  void index_positions(const write_order& order) {
    positions_.clear();
    next_absent_.assign(order.size() + 1, order.size() + 1);
    for (std::size_t i = order.size() + 1; i-- > 0;) {
      const value_id value = left_by(order, i);
      if (value != absent) positions_[value] = i;
      next_absent_[i] = value == absent ? i : i < order.size() ? next_absent_[i + 1] : order.size() + 1;
    }
    if (position_of_read_.empty()) position_of_read_.resize(all_.size());
  }

  /// The position that the read tells, or the only one that explains it, or the earliest of several from `from` on;
  /// order.size() + 1 when there is none.
  std::size_t position_for(const write_order& order, const kv_operation& read, std::size_t from) const {
    if (read.commit != 0) return order.committed_by(read.commit);
    if (read.action == kv_action::get && read.value != absent) {
      const auto found = positions_.find(read.value);
      return found == positions_.end() ? order.size() + 1 : found->second;
    }
    if (read.action == kv_action::get) return next_absent_[from];
    // A swap that failed: no two neighbours but absent ones are equal.
    std::size_t position = from;
    while (position <= order.size() && !matches(order, read, position)) ++position;
    return position;
  }

  violation unexplained(const write_order& order, const kv_operation& read, std::size_t position) const {
    if (position <= order.size()) return broken(read, "is wrong: " + explain(order, position));
    if (read.action == kv_action::compare_swap) {
      return broken(read, "should have swapped: " + explain(order, order.size()));
    }
    if (read.value == absent) return broken(read, "is wrong: the key was never erased by then or later");
    const auto writer = writers_[read.key].find(read.value);
    if (writer == writers_[read.key].end()) return broken(read, "returned what nobody wrote");
    const kv_operation& by = all_[writer->second];
    if (by.outcome == kv_outcome::unknown) {
      return broken(read, "returned the value of " + operation_text(by) + ", whose commit was never told");
    }
    return broken(read, "returned the value of " + operation_text(by) + ", which had no effect");
  }

  const kv_history& history_;
  std::vector<kv_operation> all_;   // with the commits that place_observed_writes() found
  std::vector<std::size_t> depth_;  // by operation: 0, or how many swaps (and 1) stand between its place and its commit
  std::vector<writers> writers_;    // by key
  std::vector<const kv_operation*> committed_;  // the writes that took effect, in order
  // Of the key under check:
  std::unordered_map<value_id, std::size_t> positions_;  // never walked over
  std::vector<std::size_t> next_absent_;                 // by position
  std::vector<std::size_t> position_of_read_;            // by operation
};

}  // namespace detail

inline violation check_commit_order(const kv_history& history) { return detail::commit_order_check(history).run(); }

}  // namespace lockstep::sim::check
