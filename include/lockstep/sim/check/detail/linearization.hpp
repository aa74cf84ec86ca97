// linearization: looks for one order of a key's operations that explains all answers. Pure.
//
// The search of Wing and Gong, "Testing and verifying concurrent objects", 1993, with the cache of Lowe, "Testing for
// linearizability", 2017: what was tried once (which operations took effect, and the value they left) is not tried
// again.
//
// Operations of unknown outcome need not take effect, so that the search ends when all others have. They multiply the
// orders; some things keep that small without losing one that matters:
// - They are tried last: only when something is left to explain.
// - One is of no use unless the next operation needs it: else it could come later, or never. So what follows it is no
//   put or delete, and nothing that would have fit without it.
// - Deletes of unknown outcome are alike but for when they may begin, so the earliest serves for all.
// - Where fewer of them led nowhere, more of them lead nowhere.
// And a value that only one operation writes is not overwritten while somebody has still to see it.
#pragma once

#include "lockstep/sim/check/kv_history.hpp"

#include <algorithm>
#include <cstddef>
#include <limits>
#include <span>
#include <unordered_map>
#include <vector>

namespace lockstep::sim::check::detail {

enum class search_verdict { found, none, gave_up };

class linearization_search {
 public:
  /// @param operations  all of one key, in any order.
  explicit linearization_search(std::span<const kv_operation> operations) {
    for (const kv_operation& each : operations) {
      if (each.is_done()) done_.push_back({each, none, none});
      if (each.outcome == kv_outcome::unknown && each.writes() && may_be_observed(each, operations)) {
        open_.push_back({each, none, none});
      }
    }
    number_values();
    const auto earlier = [](const step& a, const step& b) { return a.invoked < b.invoked; };
    std::stable_sort(done_.begin(), done_.end(), earlier);
    std::stable_sort(open_.begin(), open_.end(), earlier);
    done_taken_.resize((done_.size() + 63) / 64);
    open_taken_.resize((open_.size() + 63) / 64);
  }

  /// @param steps  how many operations may be placed; what is left of them is returned in it.
  search_verdict run(std::uint64_t& steps) {
    std::size_t from = 0;
    while (placed_.size() - open_placed_ < done_.size()) {
      const std::size_t next = candidate(from);
      if (next != none) {
        if (steps == 0) return search_verdict::gave_up;
        --steps;
        place(next);
        if (is_new()) {
          from = 0;
          continue;
        }
      } else if (placed_.empty()) {
        return search_verdict::none;
      }
      from = take_back() + 1;
    }
    return search_verdict::found;
  }

 private:
  static constexpr std::size_t none = std::numeric_limits<std::size_t>::max();
  using words = std::vector<std::uint64_t>;

  struct step : kv_operation {
    std::size_t written;   // the number of the value it leaves, when nobody else writes it
    std::size_t observed;  // the number of the value that it must find, when one operation writes that
  };

  struct words_hash {
    std::size_t operator()(const words& of) const noexcept {
      std::uint64_t hash = of.size();
      for (const std::uint64_t word : of) {
        hash = (hash ^ word) * 0x9e3779b97f4a7c15U;
        hash ^= hash >> 29;
      }
      return static_cast<std::size_t>(hash);
    }
  };

  struct placement {
    std::size_t number;  // in done_, or done_.size() + number in open_
    value_id value;      // before it, and so on
    value_id value_before;
    std::size_t value_number;
    std::size_t first;
    bool unobserved;
  };

  static bool get(const words& bits, std::size_t i) { return (bits[i / 64] >> (i % 64) & 1) != 0; }
  static void flip(words& bits, std::size_t i) { bits[i / 64] ^= std::uint64_t{1} << (i % 64); }

  static value_id value_left(const kv_operation& write) {
    return write.action == kv_action::erase ? absent : write.value;
  }

  /// Numbers the values that exactly one operation writes, and counts who must find them.
  void number_values() {
    std::vector<value_id> values;
    for (const auto* some : {&done_, &open_}) {
      for (const step& each : *some) {
        if (each.writes() && value_left(each) != absent) values.push_back(value_left(each));
      }
    }
    std::sort(values.begin(), values.end());
    const auto number = [&](value_id value) {
      const auto [begin, end] = std::equal_range(values.begin(), values.end(), value);
      return end - begin == 1 ? static_cast<std::size_t>(begin - values.begin()) : none;
    };
    waiting_.resize(values.size());
    for (step& each : open_) each.written = number(value_left(each));
    for (step& each : done_) {
      if (each.writes()) each.written = number(value_left(each));
      if (each.action == kv_action::get) each.observed = number(each.value);
      if (each.action == kv_action::compare_swap && each.swapped) each.observed = number(each.expected);
      if (each.observed != none) ++waiting_[each.observed];
    }
  }

  static bool may_be_observed(const kv_operation& write, std::span<const kv_operation> operations) {
    const value_id value = value_left(write);
    return std::any_of(operations.begin(), operations.end(), [&](const kv_operation& each) {
      if (each.outcome == kv_outcome::failed) return false;
      if (each.action == kv_action::get) return each.is_done() && each.value == value;
      return each.action == kv_action::compare_swap && (each.expected == value || each.only_observes());
    });
  }

  [[nodiscard]] const step& operation(std::size_t number) const {
    return number < done_.size() ? done_[number] : open_[number - done_.size()];
  }

  /// Whether the operation can be the next to take effect, as far as values go.
  [[nodiscard]] bool fits(const step& next) const {
    if (!accepts(next, value_) || (unobserved_ && accepts(next, value_before_))) return false;
    if (number_ == none || !next.writes()) return true;
    return waiting_[number_] == (next.observed == number_ ? 1 : 0);
  }
  static bool accepts(const kv_operation& next, value_id value) {
    switch (next.action) {
      case kv_action::get: return next.value == value;
      case kv_action::compare_swap: return (next.expected == value) == (next.swapped || !next.is_done());
      case kv_action::put:
      case kv_action::erase: return true;
    }
    return false;
  }

  /// The first operation at or behind number `from` that can be next; none when there is none.
  [[nodiscard]] std::size_t candidate(std::size_t from) const {
    // What was invoked after another had returned comes after it.
    moment latest = never;
    for (std::size_t i = first_; i < done_.size() && done_[i].invoked <= latest; ++i) {
      if (get(done_taken_, i)) continue;
      if (i >= from && fits(done_[i])) return i;
      latest = std::min(latest, done_[i].returned);
    }
    bool erase_seen = false;
    for (std::size_t i = 0; i < open_.size() && open_[i].invoked <= latest; ++i) {
      if (get(open_taken_, i)) continue;
      if (open_[i].action == kv_action::erase) {
        if (erase_seen || value_ == absent) continue;
        erase_seen = true;
      }
      if (done_.size() + i >= from && fits(open_[i])) return done_.size() + i;
    }
    return none;
  }

  void place(std::size_t number) {
    placed_.push_back({number, value_, value_before_, number_, first_, unobserved_});
    const step& next = operation(number);
    value_before_ = value_;
    if (next.observed != none) --waiting_[next.observed];
    if (next.writes()) {
      value_ = value_left(next);
      number_ = next.written;
    }
    unobserved_ = number >= done_.size();
    if (unobserved_) {
      flip(open_taken_, number - done_.size());
      ++open_placed_;
      return;
    }
    flip(done_taken_, number);
    while (first_ < done_.size() && get(done_taken_, first_)) ++first_;
    end_ = std::max(end_, number + 1);
  }

  /// @return the number of the operation taken back.
  std::size_t take_back() {
    const placement last = placed_.back();
    placed_.pop_back();
    value_ = last.value;
    value_before_ = last.value_before;
    number_ = last.value_number;
    if (const step& taken = operation(last.number); taken.observed != none) ++waiting_[taken.observed];
    first_ = last.first;
    unobserved_ = last.unobserved;
    if (last.number >= done_.size()) {
      flip(open_taken_, last.number - done_.size());
      --open_placed_;
    } else {
      flip(done_taken_, last.number);
    }
    return last.number;
  }

  /// Whether nothing like what is placed was tried before, with these of open_ or fewer; it is noted.
  bool is_new() {
    words& sets = tried_[fingerprint()];
    const std::size_t size = open_taken_.size() + 1;  // a word in front, so that no set is empty
    for (std::size_t at = 0; at < sets.size(); at += size) {
      bool fewer = true;
      for (std::size_t i = 0; i < open_taken_.size() && fewer; ++i) fewer = (sets[at + 1 + i] & ~open_taken_[i]) == 0;
      if (fewer) return false;
    }
    sets.push_back(0);
    sets.insert(sets.end(), open_taken_.begin(), open_taken_.end());
    return true;
  }

  /// All that decides how it can go on, but for open_taken_: exact, not a hash. Everything before first_ is taken and
  /// not written down.
  [[nodiscard]] words fingerprint() const {
    words result{value_, first_ << 1 | (unobserved_ ? 1U : 0U), unobserved_ ? value_before_ : 0};
    const std::size_t begin = first_ / 64;
    std::size_t end = (end_ + 63) / 64;
    while (end > begin && done_taken_[end - 1] == 0) --end;
    if (begin < end) {
      result.insert(result.end(), done_taken_.begin() + static_cast<std::ptrdiff_t>(begin),
                    done_taken_.begin() + static_cast<std::ptrdiff_t>(end));
    }
    return result;
  }

  std::vector<step> done_;  // by invocation; all must be placed
  std::vector<step> open_;  // by invocation; writes of unknown outcome, which may be placed

  words done_taken_;
  words open_taken_;
  std::size_t first_ = 0;             // the first of done_ that is not taken
  std::size_t end_ = 0;               // behind the last of done_ that was ever taken
  value_id value_ = absent;           // left by what is placed
  value_id value_before_ = absent;    // left by what is placed before the last one
  std::size_t number_ = none;         // of value_
  std::vector<std::size_t> waiting_;  // by number of a value: how many of done_ that must find it are not placed
  bool unobserved_ = false;           // the last one placed is of open_
  std::size_t open_placed_ = 0;
  std::vector<placement> placed_;
  std::unordered_map<words, words, words_hash> tried_;  // fingerprint() to the sets of open_ it was tried with
};

}  // namespace lockstep::sim::check::detail
