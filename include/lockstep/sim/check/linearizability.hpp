// check_linearizable: is there an order of the operations that explains every answer and respects real time? Pure.
//
// An operation takes effect at one moment between its invocation and its return (Herlihy and Wing, "Linearizability",
// 1990); at equal times both orders are allowed. Keys are judged one by one, which loses nothing. The search can take
// exponential time on hostile histories and so has a budget; check_commit_order() (commit_order.hpp) is linear but
// needs to be told the order of commits.
#pragma once

#include "lockstep/sim/check/detail/linearization.hpp"
#include "lockstep/sim/check/kv_history.hpp"

#include <algorithm>
#include <array>
#include <cstddef>
#include <limits>
#include <string>
#include <utility>
#include <vector>

namespace lockstep::sim::check {

enum class linearizability { ok, violated, gave_up };

struct linearizability_options {
  std::uint64_t max_steps_per_key = 1'000'000;  ///< operations that the search may place; memory grows with them
};

struct linearizability_result {
  linearizability verdict = linearizability::ok;
  std::string message;      ///< violated: a sentence and a table; gave_up: a sentence
  std::uint64_t steps = 0;  ///< of the search, without that for a small counterexample

  /// The message of a violation; nothing when it is ok or was given up.
  [[nodiscard]] violation broken() const {
    return verdict == linearizability::violated ? violation(message) : std::nullopt;
  }
};

/// Judges the whole history. A violation tells the shortest prefix of the key's history that has none, and of that the
/// operations that do not fit together. A violation of any key beats a search given up.
linearizability_result check_linearizable(const kv_history& history, const linearizability_options& options = {});

// --------------------------------------------------------------------------------------------------------------------

namespace detail {

using kv_operations = std::vector<kv_operation>;

/// Searches for a smaller proof that a key is not linearizable.
class counterexample {
 public:
  counterexample(kv_operations all, std::uint64_t max_steps) : all_(std::move(all)), max_steps_(max_steps) {
    shorten();
    prefix_size_ = all_.size();
    thin_out();
  }

  /// A sentence and the operations as a table.
  [[nodiscard]] std::string text(const std::string& key) const {
    std::string result = "key '" + key + "' is not linearizable: no order of its first " + detail::text(prefix_size_) +
                         " operations explains " + operation_text(culprit_);
    if (all_.size() == 1) {
      result += ", whatever the others did";
    } else if (all_.size() < prefix_size_) {
      result += "; these " + detail::text(all_.size()) + " of them contradict each other";
    }
    result += ":\n";
    return result + table();
  }

 private:
  static constexpr value_id anything = std::numeric_limits<value_id>::max();

  static bool impossible(const kv_operations& operations, std::uint64_t& steps) {
    return linearization_search(operations).run(steps) == search_verdict::none;
  }

  /// What was known at `end`: what returned later was still under way.
  [[nodiscard]] kv_operations prefix(moment end) const {
    kv_operations result;
    for (kv_operation each : all_) {
      if (each.invoked > end || each.outcome == kv_outcome::failed) continue;
      if (each.returned > end) {
        each.outcome = kv_outcome::unknown;
        each.returned = never;
        each.swapped = false;
        if (each.action == kv_action::get) continue;
      }
      result.push_back(each);
    }
    return result;
  }

  /// Prefixes of a linearizable history are linearizable: the shortest that is not is found by bisection.
  void shorten() {
    std::vector<moment> ends;
    for (const kv_operation& each : all_) {
      if (each.is_done()) ends.push_back(each.returned);
    }
    std::sort(ends.begin(), ends.end());
    ends.erase(std::unique(ends.begin(), ends.end()), ends.end());
    std::size_t low = 0;
    std::size_t high = ends.size() - 1;
    while (low < high) {
      const std::size_t middle = low + (high - low) / 2;
      std::uint64_t steps = max_steps_;
      if (impossible(prefix(ends[middle]), steps)) {
        high = middle;
      } else {
        low = middle + 1;
      }
    }
    all_ = prefix(ends[high]);
    std::stable_sort(all_.begin(), all_.end(),
                     [](const kv_operation& a, const kv_operation& b) { return a.invoked < b.invoked; });
    culprit_ =
        *std::find_if(all_.begin(), all_.end(), [&](const kv_operation& each) { return each.returned == ends[high]; });
  }

  /// Leaves out what is not needed: in large pieces first, then in smaller ones, while there are steps left.
  void thin_out() {
    std::uint64_t steps = max_steps_;
    for (std::size_t piece = (all_.size() + 1) / 2; piece > 0; piece /= 2) {
      for (std::size_t end = all_.size(); end > 0; end = end > piece ? std::min(end - piece, all_.size()) : 0) {
        kv_operations fewer = without(end > piece ? end - piece : 0, end);
        if (fewer.size() < all_.size() && impossible(fewer, steps)) all_ = std::move(fewer);
      }
    }
  }

  /// Leaves out those of [begin, end) whose absence makes no linearizable history impossible: what only observes; and
  /// writes that nothing left observes.
  [[nodiscard]] kv_operations without(std::size_t begin, std::size_t end) const {
    std::vector<bool> left(all_.size(), true);
    for (std::size_t i = begin; i < end; ++i) left[i] = false;
    for (bool again = true; again;) {
      again = false;
      const std::vector<value_id> needed = observed_values(left);
      for (std::size_t i = begin; i < end; ++i) {
        if (left[i] || !all_[i].writes() || !is_needed(all_[i], needed)) continue;
        left[i] = true;
        again = true;
      }
    }
    kv_operations result;
    for (std::size_t i = 0; i < all_.size(); ++i) {
      if (left[i]) result.push_back(all_[i]);
    }
    return result;
  }

  /// Sorted. A compare_swap that found something else than it expected may have observed anything.
  [[nodiscard]] std::vector<value_id> observed_values(const std::vector<bool>& left) const {
    std::vector<value_id> result;
    for (std::size_t i = 0; i < all_.size(); ++i) {
      if (!left[i]) continue;
      if (all_[i].action == kv_action::get) result.push_back(all_[i].value);
      if (all_[i].action == kv_action::compare_swap) {
        result.push_back(all_[i].only_observes() ? anything : all_[i].expected);
      }
    }
    std::sort(result.begin(), result.end());
    return result;
  }

  static bool is_needed(const kv_operation& write, const std::vector<value_id>& needed) {
    const value_id value = write.action == kv_action::erase ? absent : write.value;
    return (!needed.empty() && needed.back() == anything) || std::binary_search(needed.begin(), needed.end(), value);
  }

  [[nodiscard]] std::string table() const {
    using row = std::array<std::string, 5>;
    std::vector<row> rows{{"client", "invoke", "return", "operation", "result"}};
    for (const kv_operation& each : all_) {
      rows.push_back({detail::text(each.client), detail::text(each.invoked),
                      each.returned == never ? "-" : detail::text(each.returned), request_text(each),
                      answer_text(each)});
    }
    std::array<std::size_t, 5> width{};
    for (const row& each : rows) {
      for (std::size_t i = 0; i < each.size(); ++i) width[i] = std::max(width[i], each[i].size());
    }
    std::string result;
    for (const row& each : rows) {
      for (std::size_t i = 0; i + 1 < each.size(); ++i) {
        const std::string space(width[i] - each[i].size(), ' ');
        result += "  " + (i < 3 ? space + each[i] : each[i] + space);
      }
      result += "  " + each.back() + "\n";
    }
    return result;
  }

  kv_operations all_;  // impossible to order, at any time
  std::uint64_t max_steps_;
  std::size_t prefix_size_ = 0;
  kv_operation culprit_;  // its answer makes the prefix impossible
};

}  // namespace detail

inline linearizability_result check_linearizable(const kv_history& history, const linearizability_options& options) {
  linearizability_result result;
  for (std::size_t key = 0; key < history.keys(); ++key) {
    detail::kv_operations operations;
    for (const kv_history::op each : history.of_key(key)) operations.push_back(history.operations()[each]);
    std::uint64_t steps = options.max_steps_per_key;
    const detail::search_verdict verdict = detail::linearization_search(operations).run(steps);
    result.steps += options.max_steps_per_key - steps;
    if (verdict == detail::search_verdict::none) {
      result.verdict = linearizability::violated;
      result.message =
          detail::counterexample(std::move(operations), options.max_steps_per_key).text(history.key_name(key));
      return result;
    }
    if (verdict == detail::search_verdict::gave_up && result.verdict == linearizability::ok) {
      result.verdict = linearizability::gave_up;
      result.message = "gave up on key '" + history.key_name(key) + "' and its " +
                       std::to_string(history.of_key(key).size()) + " operations after " +
                       std::to_string(options.max_steps_per_key) + " steps";
    }
  }
  return result;
}

}  // namespace lockstep::sim::check
