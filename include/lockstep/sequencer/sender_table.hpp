// sender_table: which messages of which sender are in the order, and under which numbers, so that each is ordered
// exactly once however often it is submitted. Pure: what it remembers of delivered messages is a function of these
// messages, and so the same on every node.
//
// Its memory is bounded by max_senders * (window and what a sender has under way).
#pragma once

#include "lockstep/core/ids.hpp"
#include "lockstep/sequencer/detail/ring.hpp"
#include "lockstep/sequencer/entry.hpp"

#include <algorithm>
#include <cassert>
#include <cstddef>
#include <cstdint>
#include <list>
#include <unordered_map>
#include <utility>

namespace lockstep::sequencer {

/// The same on every node.
struct sender_limits {
  std::uint64_t expiry_ns = 3600ull * 1'000'000'000;  ///< of log time: a sender silent for longer is forgotten
  std::size_t max_senders = 1024;                     ///< one more is refused until another is forgotten
  std::size_t window = 64;                            ///< how many numbers of each sender are remembered, at least 1
};

/// See the top of this file. Thread safety: none.
class sender_table {
 public:
  enum class what : std::uint8_t { next, pending, ordered, forgotten, out_of_turn, unknown, full };
  struct verdict {
    what is = what::next;
    index_t index = 0;  ///< ordered: its number
  };

  explicit sender_table(const sender_limits& limits = {}) : limits_(limits) { assert(limits.window != 0); }
  sender_table(const sender_table& other) : limits_(other.limits_), time_ns_(other.time_ns_), by_use_(other.by_use_) {
    for (auto at = by_use_.begin(); at != by_use_.end(); ++at) by_sender_[at->sender] = at;
  }
  sender_table(sender_table&&) = default;
  sender_table& operator=(sender_table other) noexcept {
    limits_ = other.limits_;
    time_ns_ = other.time_ns_;
    by_use_.swap(other.by_use_);
    by_sender_.swap(other.by_sender_);
    return *this;
  }

  /// A message was delivered, behind all earlier ones.
  void deliver(const entry& of, index_t index);

  // --- a leader's: what is numbered and not delivered yet ---

  /// Whether this message is the sender's next.
  /// @param since_ns  log time when the sender began. Its first message is refused when a session that it may have
  ///   begun long ago can have expired since.
  [[nodiscard]] verdict check(sender_id sender, std::uint64_t n, std::uint64_t since_ns) const;
  void number(sender_id sender, std::uint64_t n);
  void forget_pending();

  // --- what is so ---

  /// Log time of what was delivered.
  [[nodiscard]] std::uint64_t time_ns() const noexcept { return time_ns_; }
  [[nodiscard]] std::size_t size() const noexcept { return by_use_.size(); }
  /// Whether both remember the same of what was delivered.
  friend bool operator==(const sender_table& a, const sender_table& b) {
    auto left = a.by_use_.begin();
    auto right = b.by_use_.begin();
    for (;; ++left, ++right) {
      left = std::find_if(left, a.by_use_.end(), [](const session& each) { return each.last != 0; });
      right = std::find_if(right, b.by_use_.end(), [](const session& each) { return each.last != 0; });
      if (left == a.by_use_.end() || right == b.by_use_.end()) break;
      if (left->sender != right->sender || left->used_ns != right->used_ns || left->last != right->last ||
          !(left->numbers == right->numbers)) {
        return false;
      }
    }
    return a.time_ns_ == b.time_ns_ && left == a.by_use_.end() && right == b.by_use_.end();
  }

 private:
  struct session {
    sender_id sender = 0;
    std::uint64_t used_ns = 0;
    std::uint64_t last = 0;          // delivered; 0: none that is remembered
    detail::ring<index_t> numbers;   // of the delivered ones up to `last`
    std::uint64_t pending_last = 0;  // the newest of the pending ones
    std::uint64_t pending = 0;
  };
  using session_list = std::list<session>;

  session& find_or_open(sender_id sender);
  void expire();

  sender_limits limits_;
  std::uint64_t time_ns_ = 0;
  session_list by_use_;  // the one used longest ago first
  std::unordered_map<sender_id, session_list::iterator> by_sender_;
};

// --- Implementation ---------------------------------------------------------------------------------------------

inline sender_table::session& sender_table::find_or_open(sender_id sender) {
  const auto [found, is_new] = by_sender_.try_emplace(sender);
  if (is_new) {
    found->second = by_use_.emplace(by_use_.end());
    found->second->sender = sender;
    found->second->used_ns = time_ns_;
  }
  return *found->second;
}

inline void sender_table::deliver(const entry& of, index_t index) {
  time_ns_ = std::max(time_ns_, of.time_ns);
  expire();
  session& used = find_or_open(of.sender);
  if (of.n != used.last + 1) used.numbers.clear();  // it has expired, and began anew since or went on
  used.last = of.n;
  used.numbers.push_back(index);
  if (used.numbers.size() > limits_.window) used.numbers.pop_front();
  if (of.n <= used.pending_last && of.n > used.pending_last - used.pending) used.pending = used.pending_last - of.n;
  used.used_ns = time_ns_;
  by_use_.splice(by_use_.end(), by_use_, by_sender_.at(of.sender));
}

inline void sender_table::expire() {
  while (!by_use_.empty() && time_ns_ - by_use_.front().used_ns > limits_.expiry_ns) {
    session& oldest = by_use_.front();
    if (oldest.pending == 0) {
      by_sender_.erase(oldest.sender);
      by_use_.pop_front();
      continue;
    }
    oldest.last = 0;
    oldest.numbers.clear();
    oldest.used_ns = time_ns_;
    by_use_.splice(by_use_.end(), by_use_, by_use_.begin());
  }
}

inline sender_table::verdict sender_table::check(sender_id sender, std::uint64_t n, std::uint64_t since_ns) const {
  const auto found = by_sender_.find(sender);
  if (found == by_sender_.end()) {
    const bool may_have_expired = time_ns_ > since_ns && time_ns_ - since_ns > limits_.expiry_ns;
    if (n != 1 || may_have_expired) return {what::unknown};
    return {by_use_.size() < limits_.max_senders ? what::next : what::full};
  }
  const session& known = *found->second;
  const std::uint64_t newest = known.pending != 0 ? known.pending_last : known.last;
  if (n > newest) return {n == newest + 1 ? what::next : what::out_of_turn};
  if (n > newest - known.pending) return {what::pending};
  if (n > known.last || known.last - n >= known.numbers.size()) return {what::forgotten};
  return {what::ordered, known.numbers[known.numbers.size() - 1 - (known.last - n)]};
}

inline void sender_table::number(sender_id sender, std::uint64_t n) {
  session& of = find_or_open(sender);
  of.pending = of.pending != 0 && n == of.pending_last + 1 ? of.pending + 1 : 1;
  of.pending_last = n;
}

inline void sender_table::forget_pending() {
  for (auto at = by_use_.begin(); at != by_use_.end();) {
    at->pending = 0;
    const auto next = std::next(at);
    if (at->last == 0) {
      by_sender_.erase(at->sender);
      by_use_.erase(at);
    }
    at = next;
  }
}

}  // namespace lockstep::sequencer
