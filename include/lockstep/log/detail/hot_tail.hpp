// hot_tail: staged and recently written records in memory, in chunks that are written to the file as they are.
#pragma once

#include "lockstep/log/batch.hpp"

#include <algorithm>
#include <memory>
#include <vector>

namespace lockstep::detail {

/// Consecutive encoded records of one segment.
struct tail_chunk {
  std::unique_ptr<std::byte[]> data;
  std::size_t capacity = 0;
  std::size_t used = 0;        ///< encoded; only grows
  std::size_t written = 0;     ///< of `used`, handed to the file
  std::size_t acked = 0;       ///< of `written`, as durable as the policy promises
  std::uint64_t offset = 0;    ///< in the segment's file, of data[0]
  position before;             ///< of the record before the chunk's first
  position last;               ///< of the chunk's last record; of the newest chunk, as of its last write
  bool opens_segment = false;  ///< the chunk's first record is the first of a segment that is not yet created

  [[nodiscard]] index_t first_index() const noexcept { return before.index + 1; }
};

/// The chunks in order. A reader holds a chunk by its shared_ptr; a chunk that left the tail and that nobody holds is
/// used again.
class hot_tail {
 public:
  using chunk_ptr = std::shared_ptr<tail_chunk>;

  explicit hot_tail(std::size_t chunk_bytes) : chunk_bytes_(chunk_bytes) {}

  [[nodiscard]] const std::vector<chunk_ptr>& chunks() const noexcept { return chunks_; }
  [[nodiscard]] tail_chunk* back() noexcept { return chunks_.empty() ? nullptr : chunks_.back().get(); }

  /// Adds an empty chunk with room for at least `bytes`.
  tail_chunk& add(std::size_t bytes, std::uint64_t offset, const position& before, bool opens_segment) {
    chunk_ptr added = take(bytes);
    added->used = added->written = added->acked = 0;
    added->offset = offset;
    added->before = added->last = before;
    added->opens_segment = opens_segment;
    chunks_.push_back(std::move(added));
    return *chunks_.back();
  }

  /// Drops the oldest acknowledged chunks while more than `most` bytes are kept.
  void trim(std::size_t most) {
    std::size_t kept = 0;
    for (const chunk_ptr& each : chunks_) kept += each->capacity;
    std::size_t drop = 0;
    while (drop + 1 < chunks_.size() && kept > most && chunks_[drop]->acked == chunks_[drop]->used) {
      kept -= chunks_[drop]->capacity;
      recycle(std::move(chunks_[drop]));
      ++drop;
    }
    chunks_.erase(chunks_.begin(), chunks_.begin() + static_cast<std::ptrdiff_t>(drop));
  }

  void clear() {
    for (chunk_ptr& each : chunks_) recycle(std::move(each));
    chunks_.clear();
  }

  /// The chunk that holds `index`, or null. An index beyond the last staged one is not to be asked for.
  [[nodiscard]] const chunk_ptr* find(index_t index) const noexcept {
    const auto after = std::upper_bound(chunks_.begin(), chunks_.end(), index,
                                        [](index_t i, const chunk_ptr& chunk) { return i < chunk->first_index(); });
    if (after == chunks_.begin()) return nullptr;
    const chunk_ptr& found = *std::prev(after);
    return found == chunks_.back() || index <= found->last.index ? &found : nullptr;
  }

 private:
  chunk_ptr take(std::size_t bytes) {
    if (bytes <= chunk_bytes_) {
      for (std::size_t i = 0; i < spare_.size(); ++i) {
        if (spare_[i].use_count() != 1) continue;
        chunk_ptr found = std::move(spare_[i]);
        spare_[i] = std::move(spare_.back());
        spare_.pop_back();
        return found;
      }
    }
    auto made = std::make_shared<tail_chunk>();
    made->capacity = std::max(bytes, chunk_bytes_);
    made->data.reset(new std::byte[made->capacity]);
    return made;
  }

  void recycle(chunk_ptr&& gone) {
    constexpr std::size_t most_spare = 4;
    if (gone->capacity == chunk_bytes_ && spare_.size() < most_spare) spare_.push_back(std::move(gone));
    gone.reset();
  }

  std::size_t chunk_bytes_;
  std::vector<chunk_ptr> chunks_;
  std::vector<chunk_ptr> spare_;
};

}  // namespace lockstep::detail
