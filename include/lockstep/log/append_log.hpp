// append_log: an append-only, checksummed, crash-safe log in a directory.
//
//   auto opened = co_await append_log::open(env, "/var/lib/me/log", options);
//   if (!opened.log) report(opened.report);            // corrupt: nothing was changed
//   index_t i = opened.log->append(epoch, payload);    // staged, not yet safe
//   co_await opened.log->durable(i);                   // as safe as the sync policy promises
//   co_await opened.log->close();
//
// Promises. A record for which durable() completed is there after any crash that the sync policy covers, together with
// every record before it, or open() says that it is not (corrupt): never silently wrong, missing or reordered records.
// A failed write or sync ends the log for good (errc::log_failed): no retry, no acknowledgement; what was acknowledged
// stays readable. One writer a directory; readers of the files need no lock (log/directory.hpp).
// What it does not promise. Records that were staged but not acknowledged may be there after a crash or not, and may be
// seen by readers that asked for staged records. It detects accidents, not attackers who rewrite checksums. It does not
// repair corruption: that takes another copy (catchup/).
//
// Sources: LevelDB's log format and RocksDB's recycled logs (record framing), Rebello et al., "Can Applications Recover
// from fsync Failures?" (ATC 2020) for F1 and F2, Alagappan et al., "Protocol-Aware Recovery" (FAST 2018) for the
// distinction of torn tail and corruption.
#pragma once

#include "lockstep/core/mutant.hpp"
#include "lockstep/core/task_group.hpp"
#include "lockstep/log/batch.hpp"
#include "lockstep/log/detail/hot_tail.hpp"
#include "lockstep/log/detail/segment_reader.hpp"
#include "lockstep/log/directory.hpp"
#include "lockstep/log/options.hpp"

#include <deque>
#include <memory>

namespace lockstep {

/// Which records a reader sees.
enum class visibility {
  durable,  ///< those that were acknowledged, as the sync policy promises
  staged,   ///< all that were appended: some may be gone after a crash
};

/// Thread safety: none; everything on the environment's executor. Coroutines may append and read concurrently.
/// close() before the destructor, unless the executor never runs again.
template <environment Env>
class basic_append_log {
  struct passkey {};

 public:
  struct open_result {
    open_result() {}
    recovery_report report;
    std::unique_ptr<basic_append_log> log;  ///< null exactly when report.verdict is corrupt
  };

  /// Opens the log in `directory`, which is created when missing (its parent must exist), and recovers it: cuts off a
  /// torn tail, and makes everything that is left durable before it returns. Blocks for the time it takes to scan the
  /// unsealed tail; the number of sealed segments costs one small read each.
  /// @param env  must outlive the log.
  /// @throws system_error: errc::log_locked (the text names the holder's pid), or what the file system said.
  /// Cancellation: not honoured.
  static awaitable<open_result> open(Env& env, std::string directory, log_options options = {});

  basic_append_log(passkey, Env& env, std::string directory, const log_options& options)
      : env_(env),
        directory_(std::move(directory)),
        options_(options),
        tail_(options.chunk_bytes),
        tasks_(env.get_executor()),
        visits_ended_(env.get_executor()),
        taken_back_(env.get_executor()),
        work_(env.get_executor()),
        grown_staged_(env.get_executor()),
        grown_durable_(env.get_executor()),
        turn_(env.get_executor()),
        acks_(env.get_executor()),
        owned_ended_(env.get_executor()),
        closed_synced_(env.get_executor()),
        sync_timer_(env) {}
  basic_append_log(const basic_append_log&) = delete;
  basic_append_log& operator=(const basic_append_log&) = delete;

  // --- append
  // ---------------------------------------------------------------------------------------------------------

  /// Stages a record behind the last one; never suspends and makes no system call except to reserve space.
  /// @param epoch    not lower than the last record's, at most max_epoch.
  /// @param payload  copied before this returns.
  /// @return the record's position.
  /// @throws system_error, and nothing was staged: errc::record_too_large, stale_epoch, overloaded (wait for
  /// durable()),
  ///   log_failed, closed, or no_space_on_device. Also overloaded while truncate_suffix() or reset() run.
  position append(epoch_t epoch, bytes_view payload, record_kind kind = data_record) {
    return append_parts(epoch, std::span<const bytes_view, 1>(&payload, 1), kind);
  }

  /// The same with a payload in parts.
  position append(epoch_t epoch, std::span<const bytes_view> payload, record_kind kind = data_record) {
    return append_parts(epoch, payload, kind);
  }

  /// Verifies consecutive encoded records, as they arrive from another log, and stages the same bytes.
  /// @param records  whole records that continue this log's last(), copied before this returns. However it ends, it
  ///   begins afterwards with the first record that was not staged.
  /// @return the verdict on that record; `ok` when all were staged.
  /// @throws system_error as append() does; what was staged before stays staged.
  log_codec::record_verdict append_encoded(bytes_view& records);

  /// Waits until the record at `index` and all before it are as safe as the sync policy promises. Joins a group commit:
  /// one write and one datasync serve everybody who waits. When truncate_suffix() or reset() run already, waits for
  /// their end: then records can be appended again.
  /// @throws system_error: out_of_range when nothing was appended there, log_failed, closed, operation_aborted.
  /// Cancellation: the record stays staged and becomes durable anyway.
  awaitable<void> durable(index_t index) {
    if (acked_.index >= index || taking_back_) return durable_and_taken_back(index);
    return acks_.wait_as(ack_wait(*this, index));
  }

  /// Makes everything that is staged now durable by a datasync, whatever the policy.
  /// @throws log_failed, closed, or what the file system said (then the log has failed).
  /// Cancellation: the caller stops waiting; the sync goes on.
  awaitable<void> sync();

  /// Whether append() takes records of so many encoded bytes now, as far as log_options::max_unsynced_bytes goes.
  [[nodiscard]] bool has_room_for(std::size_t encoded_bytes) const noexcept {
    return unsynced_bytes_ == 0 || unsynced_bytes_ + encoded_bytes <= options_.max_unsynced_bytes;
  }
  /// Waits until there is more of it: until what is staged now is synced or, with sync_policy::never, written.
  awaitable<void> make_room();

  // --- what is there
  // --------------------------------------------------------------------------------------------------

  /// The last staged record's position.
  [[nodiscard]] const position& last() const noexcept { return staged_; }
  /// The last record that is as safe as the policy promises.
  [[nodiscard]] const position& acked() const noexcept { return acked_; }
  /// The last record that a completed datasync covers.
  [[nodiscard]] const position& synced() const noexcept { return synced_; }
  /// The position before the first record that is kept.
  [[nodiscard]] const position& base() const noexcept { return segments_.front().header.base; }
  [[nodiscard]] index_t first_index() const noexcept { return base().index + 1; }
  [[nodiscard]] std::size_t segment_count() const noexcept { return segments_.size(); }
  /// The number of the segment that holds `index`: its first index, which names its file. 0 when not kept.
  [[nodiscard]] index_t segment_of(index_t index) const noexcept;
  /// Bytes of the segments' headers and records, without what is reserved.
  [[nodiscard]] std::uint64_t size_bytes() const noexcept;
  [[nodiscard]] const std::string& directory() const noexcept { return directory_; }
  [[nodiscard]] const log_options& options() const noexcept { return options_; }
  /// Why the log failed; no error while it works.
  [[nodiscard]] const std::error_code& failure() const noexcept { return failure_; }

  /// The position of the record at `index`, or base(); nothing when it is not kept or not there.
  [[nodiscard]] std::optional<position> position_at(index_t index);

  // --- read
  // -----------------------------------------------------------------------------------------------------------

  /// A reader's place, which makes sequential reading cheap. See log/cursor.hpp for reading that waits.
  struct read_place {
    index_t next = 1;
    std::shared_ptr<const void> source;                   // a chunk or a reader, alive while its place is used
    std::uint64_t offset = 0;                             // in it
    std::shared_ptr<detail::segment_reader<Env>> reader;  // when reading from a file
    std::uint64_t chain = 0;                              // of the last record read; 0 when none was
  };

  /// Records from `place.next` on, without copying: from memory when they are recent, else from the mapped segment.
  /// @param max_bytes  a batch holds at least one record, even a larger one.
  /// @return empty when nothing is there (yet). `place` then stands behind the batch.
  /// @throws system_error: compacted, out_of_range (place.next is beyond last() + 1), corrupt (a sealed segment's
  ///   headers are damaged), closed.
  record_batch read(read_place& place, std::size_t max_bytes, visibility seen = visibility::durable);

  /// Waits until the reader of `seen` may find a record at `index`, or truncate_suffix() or reset() ran.
  /// @return nothing, or closed, log_failed, operation_aborted.
  awaitable<std::error_code> readable(index_t index, visibility seen);

  /// Rises each time that records were taken back (truncate_suffix, reset).
  [[nodiscard]] std::uint64_t rewinds() const noexcept { return rewinds_; }

  // --- change the ends
  // ------------------------------------------------------------------------------------------------

  /// Takes back all records behind `keep`. Durable when it returns; what was staged before is durable or gone.
  /// @param keep  at least base().index.
  /// @throws system_error: compacted when `keep` lies before base(), log_failed, closed, or what the file system said
  ///   (then the log has failed). Cancellation: the caller stops waiting; the change goes on.
  awaitable<void> truncate_suffix(index_t keep);

  /// Drops whole segments at the beginning that hold only records before `first_kept`, oldest first. The caller has
  /// made durable whatever replaces them (a snapshot and its manifest).
  /// @return the first index that is still kept. Errors as truncate_suffix().
  awaitable<index_t> compact_prefix(index_t first_kept);

  /// compact_prefix() as far as `limits` ask for and `replaceable` (the last index that a durable snapshot covers)
  /// allows.
  awaitable<index_t> apply_retention(retention limits, index_t replaceable);

  /// Drops every record and begins anew behind `start`, atomically: after a crash the log is the old or the new one.
  /// For a follower that installed a snapshot; the snapshot is durable before. Whoever keeps an index that open() is to
  /// hold the log to (log_options::known_durable) lowers it to `start` before.
  awaitable<void> reset(position start);

  /// Makes durable up to where the log is synced: from then on damage to what lies before that is told, also after a
  /// power loss. Without this, a write that is lost in a power loss may leave the watermark lower, and damage behind it
  /// looks like a torn tail. For whoever lets other files depend on these records. Errors as truncate_suffix().
  awaitable<void> sync_watermark();

  /// Flushes what is staged, under sync_policy::always and interval with a sync, ends every wait with errc::closed,
  /// joins and releases the directory. When it returns, no coroutine waits in the log any more, and it may be
  /// destroyed.
  /// @throws what the file system said when staged records could not be made safe, after everything is released.
  /// Idempotent.
  awaitable<void> close();

 private:
  using file = typename Env::file;
  using reader = detail::segment_reader<Env>;

  struct segment {
    segment_header header;
    std::uint64_t end = 0;         // of the header and records written
    std::weak_ptr<reader> mapped;  // while somebody reads it
  };

  // What one write takes to the active file. The disk thread's bytes stay as they are: later appends go behind them.
  struct flight {
    std::shared_ptr<file> target;
    std::vector<detail::hot_tail::chunk_ptr> chunks;
    std::vector<bytes_view> gather;
    std::uint64_t begin = 0;
    std::uint64_t end = 0;      // of the records
    std::uint64_t size = 0;     // of the file: zeros may follow
    std::size_t last_used = 0;  // of the last chunk
    position upto;
  };

  // A file reserved for the segment after the last one.
  struct prepared_file {
    std::shared_ptr<file> opened;
    std::uint64_t reserved = 0;
    std::uint64_t prewritten = 0;
    bool recycled = false;
  };

  // One coroutine at a time changes files.
  class turn {
   public:
    explicit turn(basic_append_log& log) noexcept : log_(&log), alive_(log.alive_) { log.busy_ = true; }
    turn(turn&& other) noexcept : log_(std::exchange(other.log_, nullptr)), alive_(std::move(other.alive_)) {}
    ~turn() {
      // A coroutine that waits for the disk may be destroyed after the log, with the executor.
      if (!log_ || alive_.expired()) return;
      log_->busy_ = false;
      log_->turn_.notify_one();
    }

   private:
    basic_append_log* log_;
    std::weak_ptr<const void> alive_;
  };
  awaitable<turn> take_turn() {
    while (busy_) (void)co_await turn_.wait_uncancellable();
    co_return turn(*this);
  }

  // A caller's coroutine that waits in here: close() lets it leave before the log may be destroyed.
  class visit {
   public:
    explicit visit(basic_append_log& log) noexcept : log_(log), alive_(log.alive_) { ++log_.visits_; }
    visit(const visit&) = delete;
    ~visit() {
      if (!log_is_gone() && --log_.visits_ == 0) log_.visits_ended_.notify_all();
    }
    [[nodiscard]] bool log_is_gone() const noexcept { return alive_.expired(); }

   private:
    basic_append_log& log_;
    std::weak_ptr<const void> alive_;
  };

  // How durable() waits.
  struct ack_wait {
    basic_append_log* log;
    index_t number;
    std::optional<visit> inside{};

    ack_wait(basic_append_log& of, index_t index) noexcept : log(&of), number(index) {}
    ack_wait(ack_wait&& other) noexcept : log(other.log), number(other.number) {}

    std::optional<std::error_code> begin() {
      inside.emplace(*log);
      if (log->acked_.index >= number) return std::error_code();
      if (log->failure_ || log->closed_) return errc::closed;
      if (number > log->staged_.index) return errc::out_of_range;
      return std::nullopt;
    }
    // The log may be gone when the coroutine was resumed but did not run before that.
    std::exception_ptr end(std::error_code ec) {
      if (!ec) return nullptr;
      const bool there = !inside->log_is_gone();
      try {
        if (there && ec == errc::out_of_range) throw std::system_error(ec, log->where("nothing was appended at"));
        if (there && !is_cancelled(ec)) log->throw_if_unusable();
        throw std::system_error(ec);
      } catch (...) {
        return std::current_exception();
      }
    }
  };

  // While records are taken back, nothing can be staged behind them. Held with the turn.
  class taking_back {
   public:
    explicit taking_back(basic_append_log& log) noexcept : log_(log), alive_(log.alive_) { log_.taking_back_ = true; }
    taking_back(const taking_back&) = delete;
    ~taking_back() {
      if (alive_.expired()) return;
      log_.taking_back_ = false;
      log_.taken_back_.notify_all();
    }

   private:
    basic_append_log& log_;
    std::weak_ptr<const void> alive_;
  };

  [[nodiscard]] std::string path(std::string_view name) const { return log_files::join(directory_, name); }
  [[nodiscard]] std::string path_of(const segment_header& header) const {
    return path(log_files::segment_name(header.first_index()));
  }
  [[nodiscard]] std::string where(const char* what) const { return std::string(what) + " log " + directory_; }
  [[noreturn]] void fail_append(std::error_code ec) const { throw std::system_error(ec, where("cannot append to")); }
  void throw_if_unusable() const {
    if (failure_) throw std::system_error(errc::log_failed, directory_ + " (" + failure_.message() + ")");
    if (closing_) throw std::system_error(errc::closed, directory_);
  }

  template <std::size_t Parts>
  position append_parts(epoch_t epoch, std::span<const bytes_view, Parts> payload, record_kind kind);
  detail::tail_chunk& room_for(std::size_t bytes);
  void added(detail::tail_chunk& chunk, std::size_t bytes);
  void write_full_chunk(detail::tail_chunk& chunk);
  void wrote(std::uint64_t end, std::uint64_t bytes, const position& upto);
  void reserve(file& target, std::uint64_t& reserved, std::uint64_t& prewritten, std::uint64_t end);
  prepared_file prepare_file(std::uint64_t end);
  [[nodiscard]] bool staged_anything() const noexcept { return written_.index < staged_.index; }
  [[nodiscard]] bool syncs() const noexcept { return options_.sync != sync_policy::never; }
  // Of a kept index, in segments_.
  [[nodiscard]] std::size_t number_of_segment(index_t index) const noexcept;
  std::shared_ptr<reader> reader_of(segment& of);
  record_batch read_from_tail(read_place& place, const detail::hot_tail::chunk_ptr& chunk, std::size_t max_bytes,
                              index_t end, visibility seen);

  awaitable<void> durable_and_taken_back(index_t index);

  // Tasks of the log's own, joined by close().
  awaitable<void> flush_staged();
  awaitable<void> sync_regularly();
  awaitable<void> sync_closed_segments();
  // Runs `work` as a task of the log's own, so that the caller's cancellation can't stop it half way.
  awaitable<void> run_owned(awaitable<void> work);

  // These run with the turn held and return what the file system said.
  awaitable<std::error_code> flush();
  flight take_off();
  void land(flight& landed);
  awaitable<std::error_code> flush_and_sync();
  awaitable<std::error_code> open_next_segment(const position& base);
  awaitable<std::error_code> sync_active();
  awaitable<std::error_code> store_watermark(const position& upto);
  awaitable<std::error_code> write_new_file(std::string name, std::span<const bytes_view> content,
                                            std::shared_ptr<file>* opened);
  awaitable<std::error_code> rewrite_segment(segment_header header, bytes_view records);
  awaitable<std::error_code> remove_and_sync(std::string name);
  awaitable<std::error_code> begin_anew(position start);
  awaitable<std::error_code> recover(const log_directory& found, const recovery_report& report);

  awaitable<void> truncate_suffix_owned(index_t keep);
  awaitable<void> compact_prefix_owned(index_t first_kept);
  awaitable<void> reset_owned(position start);
  awaitable<void> sync_owned();
  awaitable<void> sync_watermark_owned();
  awaitable<void> last_flush();

  void take_back(const position& last);
  void begin_at(const position& last, std::uint64_t end);
  void record_synced(const position& upto);
  void write_watermark(const position& upto);
  void acknowledge(const position& upto);
  void fail(std::error_code ec);
  void throw_if_failed(std::error_code ec) {
    if (!ec) return;
    fail(ec);
    throw std::system_error(ec, directory_);
  }

  Env& env_;
  const std::string directory_;
  const log_options options_;
  typename Env::file_lock lock_;
  file watermark_file_;

  // Positions, never decreasing but for truncate_suffix() and reset(): synced_ <= acked_ <= written_ <= staged_.
  position staged_;
  position written_;
  position acked_;
  position synced_;

  std::deque<segment> segments_;        // back(): being written
  std::shared_ptr<file> active_;        // of segments_.back(); shared with a sync under way
  std::uint64_t reserved_ = 0;          // of the staged segment's file
  std::uint64_t prewritten_ = 0;        // the active file's size: zeros or old records stand behind its end
  std::deque<prepared_file> prepared_;  // for the segments that staged chunks open
  detail::hot_tail tail_;
  std::uint64_t staged_offset_ = 0;   // in the segment where the next record goes
  std::uint64_t unsynced_bytes_ = 0;  // staged and not yet synced (never: not yet written)
  std::uint64_t dirty_bytes_ = 0;     // of these, written
  flight spare_flight_;               // its vectors' memory, for the next one
  std::array<std::byte, log_format::segment_header_bytes> header_page_{};
  std::deque<std::pair<std::shared_ptr<file>, position>> closed_unsynced_;  // sync_policy::never
  std::vector<std::string> recycled_;

  std::error_code failure_;
  bool closing_ = false;
  bool closed_ = false;
  bool busy_ = false;
  bool taking_back_ = false;
  std::size_t visits_ = 0;
  std::uint64_t rewinds_ = 0;

  task_group tasks_;
  wait_list visits_ended_;  // close()
  wait_list taken_back_;    // for taking_back_
  wait_list work_;          // the flusher
  wait_list grown_staged_;  // readers
  wait_list grown_durable_;
  wait_list turn_;           // for busy_
  wait_list acks_;           // durable(), by index
  wait_list owned_ended_;    // run_owned()
  wait_list closed_synced_;  // sync_closed_segments()
  typename Env::timer sync_timer_;
  const std::shared_ptr<const void> alive_ = std::make_shared<char>();  // last: ends first
};

}  // namespace lockstep

#include "lockstep/log/detail/append_log_impl.hpp"

#include "lockstep/env/real.hpp"

namespace lockstep {
using append_log = basic_append_log<real::env>;
}  // namespace lockstep
