// linearization: looks for one order of a key's operations that explains all answers. Pure.
//
// The search of Wing and Gong, "Testing and verifying concurrent objects", 1993, with the cache of Lowe, "Testing for
// linearizability", 2017: what was tried once (which operations took effect, and the value they left) is not tried
// again.
//
// Operations of unknown outcome need not take effect, so that the search ends when all others have. They multiply the
// orders; three things keep that small without losing one that matters:
// - They are tried last: only when something is left to explain.
// - One is of no use unless the next operation observes what it wrote; so a put or delete never follows it.
// - Deletes of unknown outcome are alike but for when they may begin, so the earliest serves for all.
#pragma once

#include "lockstep/sim/check/kv_history.hpp"

#include <algorithm>
#include <cstddef>
#include <limits>
#include <span>
#include <unordered_set>
#include <vector>

namespace lockstep::sim::check::detail {

enum class search_verdict { found, none, gave_up };

class linearization_search {
 public:
  /// @param operations  all of one key, in any order.
  explicit linearization_search(std::span<const kv_operation> operations) {
    for (const kv_operation& each : operations) {
      if (each.is_done()) done_.push_back(each);
    }
    for (const kv_operation& each : operations) {
      if (each.outcome == kv_outcome::unknown && each.writes() && may_be_observed(each, operations)) {
        open_.push_back(each);
      }
    }
    const auto earlier = [](const kv_operation& a, const kv_operation& b) { return a.invoked < b.invoked; };
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
        if (tried_.insert(fingerprint()).second) {
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
    value_id value;      // before it
    std::size_t first;
    bool unobserved;
  };

  static bool get(const words& bits, std::size_t i) { return (bits[i / 64] >> (i % 64) & 1) != 0; }
  static void flip(words& bits, std::size_t i) { bits[i / 64] ^= std::uint64_t{1} << (i % 64); }

  static bool may_be_observed(const kv_operation& write, std::span<const kv_operation> operations) {
    const value_id value = write.action == kv_action::erase ? absent : write.value;
    return std::any_of(operations.begin(), operations.end(), [&](const kv_operation& each) {
      if (each.outcome == kv_outcome::failed) return false;
      if (each.action == kv_action::get) return each.is_done() && each.value == value;
      return each.action == kv_action::compare_swap && (each.expected == value || each.only_observes());
    });
  }

  [[nodiscard]] const kv_operation& operation(std::size_t number) const {
    return number < done_.size() ? done_[number] : open_[number - done_.size()];
  }

  /// Whether the operation can be the next to take effect, as far as values go.
  [[nodiscard]] bool fits(const kv_operation& next) const {
    switch (next.action) {
      case kv_action::get: return next.value == value_;
      case kv_action::compare_swap: return (next.expected == value_) == (next.swapped || !next.is_done());
      case kv_action::put:
      case kv_action::erase: return !unobserved_;
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
    placed_.push_back({number, value_, first_, unobserved_});
    const kv_operation& next = operation(number);
    if (next.writes()) value_ = next.action == kv_action::erase ? absent : next.value;
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

  /// All that decides how it can go on: exact, not a hash. Everything before first_ is taken and not written down.
  [[nodiscard]] words fingerprint() const {
    words result{value_, first_ << 1 | (unobserved_ ? 1U : 0U)};
    result.insert(result.end(), open_taken_.begin(), open_taken_.end());
    const std::size_t begin = first_ / 64;
    std::size_t end = (end_ + 63) / 64;
    while (end > begin && done_taken_[end - 1] == 0) --end;
    if (begin < end) {
      result.insert(result.end(), done_taken_.begin() + static_cast<std::ptrdiff_t>(begin),
                    done_taken_.begin() + static_cast<std::ptrdiff_t>(end));
    }
    return result;
  }

  std::vector<kv_operation> done_;  // by invocation; all must be placed
  std::vector<kv_operation> open_;  // by invocation; writes of unknown outcome, which may be placed

  words done_taken_;
  words open_taken_;
  std::size_t first_ = 0;    // the first of done_ that is not taken
  std::size_t end_ = 0;      // behind the last of done_ that was ever taken
  value_id value_ = absent;  // left by what is placed
  bool unobserved_ = false;  // the last one placed is of open_
  std::size_t open_placed_ = 0;
  std::vector<placement> placed_;
  std::unordered_set<words, words_hash> tried_;
};

}  // namespace lockstep::sim::check::detail
