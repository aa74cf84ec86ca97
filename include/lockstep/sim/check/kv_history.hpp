// kv_history: who asked what of a map, when, and what was answered. Pure.
//
//   check::kv_history history;
//   const auto op = history.put(client, "x", 17, now);
//   history.done(op, now, commit_index);              // or failed(op, now); or nothing: nobody knows
//   const auto got = history.get(client, "x", now);
//   history.read(got, 17, now);
//   auto broken = check_linearizable(history).broken();   // linearizability.hpp; or commit_order.hpp, which is linear
#pragma once

#include "lockstep/sim/check/violation.hpp"

#include <cstddef>
#include <limits>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace lockstep::sim::check {

/// A value by a number that stands for it: a counter or a hash. No two writes of a key write the same one.
using value_id = std::uint64_t;
/// What a key has before it is written and after it is erased.
inline constexpr value_id absent = 0;

inline constexpr moment never = std::numeric_limits<moment>::max();

enum class kv_action { put, get, erase, compare_swap };

enum class kv_outcome {
  unknown,  ///< no answer, or one that says nothing: may take effect once, at any time after it was invoked, or never
  done,     ///< as answered
  failed,   ///< for sure without effect
};

struct kv_operation {
  std::uint64_t client = 0;
  std::size_t key = 0;  ///< see kv_history::key_name
  kv_action action = kv_action::get;
  kv_outcome outcome = kv_outcome::unknown;
  value_id expected = absent;  ///< of a compare_swap
  value_id value = absent;     ///< written by a put or compare_swap; read by a get that is done
  bool swapped = false;        ///< of a compare_swap that is done
  moment invoked = 0;
  moment returned = never;  ///< `never` while unknown
  /// Of a write: its place in the order of commits; of a get or a compare_swap that did not swap: the last commit of
  /// the state it was answered from. 0: not known.
  std::uint64_t commit = 0;

  [[nodiscard]] bool is_done() const noexcept { return outcome == kv_outcome::done; }
  /// Changes the map, or may do so.
  [[nodiscard]] bool writes() const noexcept {
    if (outcome == kv_outcome::failed || action == kv_action::get) return false;
    return action != kv_action::compare_swap || swapped || outcome == kv_outcome::unknown;
  }
  /// Is done and says something of the map's state without changing it.
  [[nodiscard]] bool only_observes() const noexcept { return is_done() && !writes(); }
};

/// A history of operations on a map whose keys are independent and absent at first. Operations of one client may
/// overlap.
class kv_history {
 public:
  using op = std::size_t;

  // --- asked ---
  op put(std::uint64_t client, std::string_view key, value_id value, moment now) {
    return invoked(client, key, kv_action::put, absent, value, now);
  }
  op get(std::uint64_t client, std::string_view key, moment now) {
    return invoked(client, key, kv_action::get, absent, absent, now);
  }
  op erase(std::uint64_t client, std::string_view key, moment now) {
    return invoked(client, key, kv_action::erase, absent, absent, now);
  }
  /// Writes `value` when the key has `expected`, which may be `absent`.
  op compare_swap(std::uint64_t client, std::string_view key, value_id expected, value_id value, moment now) {
    return invoked(client, key, kv_action::compare_swap, expected, value, now);
  }

  // --- answered; an operation without an answer may have taken effect or not ---
  /// A put or an erase succeeded.
  void done(op which, moment now, std::uint64_t commit = 0) { answered(which, kv_outcome::done, now, commit); }
  /// A get returned `value`. @param state  the last commit of the state it was answered from.
  void read(op which, value_id value, moment now, std::uint64_t state = 0) {
    answered(which, kv_outcome::done, now, state).value = value;
  }
  /// A compare_swap found what it expected, or did not. @param commit  its own, or that of the state it found.
  void swapped(op which, bool yes, moment now, std::uint64_t commit = 0) {
    answered(which, kv_outcome::done, now, commit).swapped = yes;
  }
  /// It had no effect and never will.
  void failed(op which, moment now) { answered(which, kv_outcome::failed, now, 0); }
  /// The system's own record says that a write took effect at `commit`, whatever its client knows.
  void committed(op which, std::uint64_t commit) { operations_[which].commit = commit; }

  // --- looked at ---
  [[nodiscard]] std::span<const kv_operation> operations() const noexcept { return operations_; }
  [[nodiscard]] std::size_t keys() const noexcept { return names_.size(); }
  [[nodiscard]] const std::string& key_name(std::size_t key) const { return names_[key]; }
  /// The operations on a key as they were told.
  [[nodiscard]] std::span<const op> of_key(std::size_t key) const { return by_key_[key]; }

 private:
  op invoked(std::uint64_t client, std::string_view key, kv_action action, value_id expected, value_id value,
             moment now) {
    kv_operation next;
    next.client = client;
    next.key = number_of(key);
    next.action = action;
    next.expected = expected;
    next.value = value;
    next.invoked = now;
    by_key_[next.key].push_back(operations_.size());
    operations_.push_back(next);
    return operations_.size() - 1;
  }

  kv_operation& answered(op which, kv_outcome outcome, moment now, std::uint64_t commit) {
    kv_operation& found = operations_[which];
    found.outcome = outcome;
    found.returned = now;
    if (commit != 0) found.commit = commit;
    return found;
  }

  std::size_t number_of(std::string_view key) {
    if (const auto found = numbers_.find(key); found != numbers_.end()) return found->second;
    numbers_.emplace(key, names_.size());
    names_.emplace_back(key);
    by_key_.emplace_back();
    return names_.size() - 1;
  }

  std::vector<kv_operation> operations_;
  std::map<std::string, std::size_t, std::less<>> numbers_;
  std::vector<std::string> names_;       // by number, in order of their first operation
  std::vector<std::vector<op>> by_key_;  // by number
};

namespace detail {

inline std::string value_text(value_id value) { return value == absent ? "nothing" : text(value); }

/// "compare-and-swap 3 -> 4"
inline std::string request_text(const kv_operation& op) {
  switch (op.action) {
    case kv_action::put: return "put " + text(op.value);
    case kv_action::get: return "get";
    case kv_action::erase: return "delete";
    case kv_action::compare_swap: return "compare-and-swap " + value_text(op.expected) + " -> " + text(op.value);
  }
  return {};
}

inline std::string answer_text(const kv_operation& op) {
  if (op.outcome == kv_outcome::unknown) return "unknown";
  if (op.outcome == kv_outcome::failed) return "failed";
  if (op.action == kv_action::get) return value_text(op.value);
  if (op.action == kv_action::compare_swap) return op.swapped ? "swapped" : "not swapped";
  return "done";
}

/// "client 3's put 5 (time 10 to 20, commit 4: done)"
inline std::string operation_text(const kv_operation& op) {
  return "client " + text(op.client) + "'s " + request_text(op) + " (time " + text(op.invoked) + " to " +
         (op.returned == never ? "?" : text(op.returned)) +
         (op.commit == 0 ? "" : (op.writes() ? ", commit " : ", state ") + text(op.commit)) + ": " + answer_text(op) +
         ")";
}

}  // namespace detail
}  // namespace lockstep::sim::check
