// log_history and delivered_prefix: nothing is lost, nothing is made up, and the order is kept. Pure.
//
//   check::log_history history("log of node 1");
//   history.appended(log.last(), xxh3_64(payload));       // each record, in order
//   history.acknowledged(index);                          // durable() returned
//   … crash, open again …
//   auto broken = history.recovered(log.base(), [&](auto&& sink) { for (each record) sink(position, hash); });
#pragma once

#include "lockstep/sim/check/violation.hpp"

#include <concepts>
#include <cstddef>
#include <deque>
#include <span>
#include <string>
#include <utility>

namespace lockstep::sim::check {

/// A record as a checker knows it: its place, and any hash of its payload.
struct logged_record {
  lockstep::position position;
  std::uint64_t payload_hash = 0;

  friend bool operator==(const logged_record&, const logged_record&) = default;
};

/// What one log was told and what it promised, through any number of lives.
/// After a recovery the log must be a prefix of what was appended, with the same positions and payloads and without
/// gaps, and hold all that was acknowledged. Records that were not acknowledged may be there or not, from the end on.
class log_history {
 public:
  /// @param name  begins every message.
  explicit log_history(std::string name = "log", const position& base = {})
      : name_(std::move(name)), base_(base), acknowledged_(base.index), compactable_(base.index) {}

  /// The log numbered a record. Told in order.
  violation appended(const position& at, std::uint64_t payload_hash) {
    const position& previous = last();
    if (at.index != previous.index + 1) {
      return broken("appended record " + detail::text(at.index) + " behind record " + detail::text(previous.index));
    }
    if (at.epoch < previous.epoch) {
      return broken("appended record " + detail::text(at.index) + " of epoch " + detail::text(at.epoch) +
                    " behind one of epoch " + detail::text(previous.epoch));
    }
    records_.push_back({at, payload_hash});
    return std::nullopt;
  }

  /// The log promised that everything up to `index` survives.
  violation acknowledged(index_t index) {
    if (index > last().index) {
      return broken("acknowledged record " + detail::text(index) + ", but the last one appended is " +
                    detail::text(last().index));
    }
    if (index > acknowledged_) acknowledged_ = index;
    return std::nullopt;
  }

  /// From now on the records behind `keep` may be there or not: a cut of them was asked for, or they were lost within
  /// what was promised (a power loss that no sync came before).
  void truncating(index_t keep) {
    if (keep < acknowledged_) acknowledged_ = keep;
  }

  /// The cut is done, durably: the records behind `keep` must not come back.
  violation truncated(index_t keep) {
    if (keep < base_.index) {
      return broken("cut behind record " + detail::text(keep) + ", which lies before its base, record " +
                    detail::text(base_.index));
    }
    truncating(keep);
    while (last().index > keep) records_.pop_back();
    return std::nullopt;
  }

  /// The records below `first_kept` may be dropped from now on; a recovered log may begin anywhere up to there.
  void compacting(index_t first_kept) {
    if (first_kept != 0 && first_kept - 1 > compactable_) compactable_ = first_kept - 1;
  }

  /// The log began anew behind `base`, durably (a snapshot was installed).
  void reset(const position& base) {
    records_.clear();
    base_ = base;
    acknowledged_ = compactable_ = base.index;
  }

  /// The log was opened after a crash and holds what `each` tells. What was recovered is adopted, and counts as
  /// acknowledged: opening makes it durable. After a violation the history is as before.
  /// @param base  the position before the first record found.
  /// @param each  called once with a sink(const position&, std::uint64_t payload_hash), which it calls in order.
  template <class Each>
  requires(!std::convertible_to<Each, std::span<const logged_record>>) violation
      recovered(const position& base, Each&& each) {
    if (violation begin = check_base(base)) return begin;
    violation found;
    index_t end = base.index;
    std::forward<Each>(each)([&](const position& at, std::uint64_t payload_hash) {
      if (!found) found = check_record(end, {at, payload_hash});
      if (!found) ++end;
    });
    if (!found && end < acknowledged_) {
      found = broken("record " + detail::text(end + 1) + " was acknowledged (up to record " +
                     detail::text(acknowledged_) + "), but the recovered log ends at record " + detail::text(end));
    }
    if (!found) adopt(base, end);
    return found;
  }
  violation recovered(const position& base, std::span<const logged_record> records) {
    return recovered(base, [&](auto&& sink) {
      for (const logged_record& each : records) sink(each.position, each.payload_hash);
    });
  }

  [[nodiscard]] const position& base() const noexcept { return base_; }
  [[nodiscard]] const position& last() const noexcept { return records_.empty() ? base_ : records_.back().position; }
  [[nodiscard]] index_t last_acknowledged() const noexcept { return acknowledged_; }

 private:
  [[nodiscard]] violation broken(const std::string& what) const { return name_ + ": " + what; }

  // The record is known.
  [[nodiscard]] const logged_record& at(index_t index) const { return records_[index - base_.index - 1]; }

  [[nodiscard]] violation check_base(const position& base) const {
    if (base.index < base_.index) {
      return broken("the recovered log begins behind record " + detail::text(base.index) +
                    ", before the history's base, record " + detail::text(base_.index));
    }
    if (base.index > compactable_ || base.index > last().index) {
      return broken("the recovered log begins behind record " + detail::text(base.index) +
                    ", but nothing behind record " + detail::text(compactable_) + " was compacted");
    }
    const position& known = base.index == base_.index ? base_ : at(base.index).position;
    if (base != known) {
      return broken("the recovered log begins behind " + detail::text(base) + " where " + detail::text(known) +
                    " was appended");
    }
    return std::nullopt;
  }

  [[nodiscard]] violation check_record(index_t previous, const logged_record& found) const {
    const position& place = found.position;
    if (place.index != previous + 1) {
      return broken("the recovered log has a gap: record " + detail::text(place.index) + " follows record " +
                    detail::text(previous));
    }
    if (place.index > last().index) {
      return broken("the recovered log holds " + detail::text(place) + ", which was never appended or was cut off");
    }
    const logged_record& known = at(place.index);
    if (place != known.position) {
      return broken("the recovered log holds " + detail::text(place) + " where " + detail::text(known.position) +
                    " was appended");
    }
    if (found.payload_hash != known.payload_hash) {
      return broken("the payload of recovered record " + detail::text(place.index) + " has hash " +
                    detail::hex(found.payload_hash) + " instead of " + detail::hex(known.payload_hash));
    }
    return std::nullopt;
  }

  void adopt(const position& base, index_t end) {
    while (last().index > end) records_.pop_back();
    while (base_.index < base.index) {
      base_ = records_.front().position;
      records_.pop_front();
    }
    acknowledged_ = end;
    compactable_ = base.index;
  }

  std::string name_;
  position base_;                      // before the first of records_
  std::deque<logged_record> records_;  // without gaps
  index_t acknowledged_;               // base_.index <= acknowledged_ <= last().index
  index_t compactable_;                // a recovered log begins behind this record or earlier
};

/// One direction of one connection: what is delivered is a prefix of what was sent, in order, none twice, unchanged.
/// Keeps only what is on its way.
class delivered_prefix {
 public:
  /// @param name   begins every message.
  /// @param first  the number of the first frame.
  explicit delivered_prefix(std::string name = "connection", std::uint64_t first = 1)
      : name_(std::move(name)), next_sent_(first), next_delivered_(first) {}

  /// Frame `number` was given to the connection.
  violation sent(std::uint64_t number, std::uint64_t hash) {
    if (number != next_sent_) {
      return broken("frame " + detail::text(number) + " was sent where frame " + detail::text(next_sent_) +
                    " was to follow");
    }
    ++next_sent_;
    under_way_.push_back(hash);
    return std::nullopt;
  }

  /// Frame `number` came out at the other end.
  violation delivered(std::uint64_t number, std::uint64_t hash) {
    const std::string frame = "frame " + detail::text(number);
    if (number < next_delivered_) return broken(frame + " was delivered twice");
    if (number >= next_sent_) return broken(frame + " was delivered but never sent");
    if (number != next_delivered_) {
      return broken(frame + " was delivered out of order, before frame " + detail::text(next_delivered_));
    }
    if (hash != under_way_.front()) {
      return broken(frame + " was delivered with hash " + detail::hex(hash) + " but sent with hash " +
                    detail::hex(under_way_.front()));
    }
    ++next_delivered_;
    under_way_.pop_front();
    return std::nullopt;
  }

  /// Asked when the connection was closed in good order, or had time enough: has everything arrived?
  [[nodiscard]] violation all_delivered() const {
    if (under_way_.empty()) return std::nullopt;
    return broken("frame " + detail::text(next_delivered_) + " was sent but never delivered, nor were the " +
                  detail::text(under_way_.size() - 1) + " behind it");
  }

 private:
  [[nodiscard]] violation broken(const std::string& what) const { return name_ + ": " + what; }

  std::string name_;
  std::uint64_t next_sent_;
  std::uint64_t next_delivered_;
  std::deque<std::uint64_t> under_way_;  // hashes of the frames [next_delivered_, next_sent_)
};

}  // namespace lockstep::sim::check
