// cursor: reads a log in order and waits for what is not there yet.
#pragma once

#include "lockstep/core/mutant.hpp"
#include "lockstep/log/append_log.hpp"

namespace lockstep {

/// A reader of one log. Reads what is in memory from memory and older records from mapped segments, without copying.
/// Any number of cursors read one log; a cursor keeps nothing back from compaction.
/// Thread safety: none, as the log. The log outlives the cursor.
template <environment Env>
class basic_cursor {
 public:
  /// @param next  the first index to read; may be last() + 1.
  basic_cursor(basic_append_log<Env>& log, index_t next, visibility seen = visibility::durable)
      : log_(&log), seen_(seen), rewinds_(log.rewinds()) {
    place_.next = next;
  }

  /// The index that the next batch begins with.
  [[nodiscard]] index_t next_index() const noexcept { return place_.next; }

  /// The next records; waits until there is at least one.
  /// @param max_bytes  of encoded records; a batch holds at least one record.
  /// @return records that stay valid as long as the batch (or a copy of it) lives.
  /// @throws system_error: compacted (continue from a snapshot), diverged (the log was cut or reset below what this
  ///   cursor already returned, or, when it returned nothing yet, below where it begins), corrupt, log_failed or closed
  ///   (nothing more will come), operation_aborted.
  /// Cancellation: nothing was read.
  awaitable<record_batch> next(std::size_t max_bytes) {
    for (;;) {
      record_batch batch = try_next(max_bytes);
      if (!batch.empty()) co_return batch;
      const std::error_code ec = co_await log_->readable(place_.next, seen_);
      if (ec) throw std::system_error(ec, log_->directory());
    }
  }

  /// As next(), but returns an empty batch instead of waiting.
  record_batch try_next(std::size_t max_bytes) {
    if (rewinds_ != log_->rewinds() && !mutated(mutant::cursor_ignores_rewind)) follow_rewind();
    return log_->read(place_, max_bytes, seen_);
  }

 private:
  // Records were taken back: go on only if what was returned last is still in the log.
  void follow_rewind() {
    if (place_.chain != 0) {
      if (place_.next - 1 < log_->base().index) throw std::system_error(errc::compacted, log_->directory());
      const std::optional<position> last = log_->position_at(place_.next - 1);
      if (!last || last->chain != place_.chain) throw std::system_error(errc::diverged, log_->directory());
    } else if (place_.next > log_->last().index + 1) {
      throw std::system_error(errc::diverged, log_->directory());
    }
    typename basic_append_log<Env>::read_place fresh;
    fresh.next = place_.next;
    fresh.chain = place_.chain;
    place_ = fresh;
    rewinds_ = log_->rewinds();
  }

  basic_append_log<Env>* log_;
  typename basic_append_log<Env>::read_place place_;
  visibility seen_;
  std::uint64_t rewinds_;
};

using cursor = basic_cursor<real::env>;

}  // namespace lockstep
