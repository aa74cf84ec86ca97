// holdback: records that came before those which precede them. Pure.
#pragma once

#include "lockstep/core/ids.hpp"
#include "lockstep/log/batch.hpp"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <utility>
#include <vector>

namespace lockstep::sequencer {

/// Records that wait, in the order of their indexes, up to a limit of bytes; whoever is farthest from its turn gives
/// way, and is asked for again. They are what keeps the batches' memory, which may be larger than the records.
class holdback {
 public:
  struct held {
    position at;  ///< before the first of them
    record_batch records;
  };

  explicit holdback(std::uint64_t max_bytes) noexcept : max_bytes_(max_bytes) {}

  /// @param records  not empty, and follow `at`.
  void add(const position& at, const record_batch& records) {
    auto place = std::lower_bound(waiting_.begin(), waiting_.end(), at.index,
                                  [](const held& each, index_t index) { return each.at.index < index; });
    if (place != waiting_.end() && place->at.index == at.index) {
      if (place->records.last() >= records.last()) return;
      bytes_ -= place->records.bytes().size();
      *place = {at, records};
    } else {
      waiting_.insert(place, {at, records});
    }
    bytes_ += records.bytes().size();
    while (bytes_ > max_bytes_) drop(std::prev(waiting_.end()), waiting_.end());
  }

  /// Gives `take` what is next when `last` is the last index, in order, as long as there is any; `take` returns the
  /// last index from then on. What lies before it is dropped.
  template <class Take>
  void release(index_t last, Take&& take) {
    auto next = waiting_.begin();
    for (; next != waiting_.end() && next->at.index <= last; ++next) {
      if (next->records.last() > last) last = take(*next, last);
    }
    drop(waiting_.begin(), next);
  }

  [[nodiscard]] const std::vector<held>& waiting() const noexcept { return waiting_; }
  [[nodiscard]] std::uint64_t bytes() const noexcept { return bytes_; }
  void clear() noexcept {
    waiting_.clear();
    bytes_ = 0;
  }

 private:
  void drop(std::vector<held>::iterator from, std::vector<held>::iterator to) {
    for (auto at = from; at != to; ++at) bytes_ -= at->records.bytes().size();
    waiting_.erase(from, to);
  }

  const std::uint64_t max_bytes_;
  std::uint64_t bytes_ = 0;
  std::vector<held> waiting_;
};

}  // namespace lockstep::sequencer
