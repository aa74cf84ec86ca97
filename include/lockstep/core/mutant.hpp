// mutant: deliberate bugs, one at a time, to measure how strong the simulator is.
//
//   if (!ec && !mutated(mutant::skip_roll_directory_sync)) ec = co_await env_.sync_directory(directory_, where);
//
// A hook stands where an engineer might make the mistake. In production `mutated()` is a constant false, and nothing is
// left of it. A program compiled with LOCKSTEP_MUTANTS holds them all, and activate_mutant() chooses the one that the
// calling thread's simulation runs with; a simulator that does not notice it in enough runs has a hole.
//
// All units of a program must agree on LOCKSTEP_MUTANTS (define it for the whole target): the inline functions of every
// header with a hook differ by it, and the linker keeps one of them without asking which (ODR).
#pragma once

#include <array>
#include <cstdint>
#include <string_view>

namespace lockstep {

enum class mutant : std::uint8_t {
  none,
  // log
  skip_flush_sync,
  ack_before_sync,
  ack_what_came_during_the_sync,
  ack_after_failed_sync,
  retry_failed_sync,
  wake_waiters_of_failed_log_without_error,
  watermark_before_sync,
  skip_segment_header_sync,
  skip_roll_directory_sync,
  seal_before_sync,
  skip_rewrite_sync,
  skip_rename_directory_sync,
  skip_removal_directory_sync,
  skip_creation_directory_sync,
  trust_page_cache_at_open,
  keep_torn_tail,
  skip_sealed_check,
  skip_watermark_check,
  skip_known_durable_check,
  skip_in_flight_check,
  zeros_prove_the_end,
  skip_record_checksum,
  chain_forgets_history,
  accept_stale_epoch,
  ignore_full_disk,
  forget_recycled_flag,
  read_staged_as_durable,
  cursor_skips_record_at_segment_boundary,
  tail_read_skips_later_chunks,
  cursor_ignores_rewind,
  keep_watermark_when_truncating,
  lower_watermark_unsynced,
  truncate_leaves_records,
  truncate_leaves_segments,
  reset_before_intent,
  ignore_reset_intent,
  compact_needed_segment,
  // frame
  skip_frame_checksum,
  skip_frame_size_limit,
  partial_frame_loses_last_byte,
  drop_frames_read_together,
  read_ahead_into_delivered_frame,
  short_write_counts_as_whole,
  small_frames_overtake_large,
  cancelled_send_leaves_half_a_frame,
  close_drops_queue,
  flush_returns_early,
  ignore_backpressure,
  never_idle,
  skip_cluster_check,
  skip_handshake_timeout,
  // rpc
  ignore_call_generation,
  ignore_call_deadline,
  forget_calls_at_disconnect,
  unknown_outcome_reported_as_failure,
  never_reset_backoff,
  no_backoff,
  give_up_after_failed_handshake,
  up_before_handshake,
  // catchup
  ack_staged_records,
  subscribe_from_staged_records,
  keep_last_ack,
  caught_up_before_durable,
  follow_older_life,
  ignore_divergence,
  skip_divergence_search,
  compare_chains_never,
  search_stops_early,
  ship_last_record_again,
  send_no_heartbeats,
  negative_lag,
  skip_saving_diverged_records,
  save_diverged_records_unsynced,
  reset_before_snapshot_is_durable,
  // cityhall
  keep_epoch_at_start,
  serve_before_epoch_is_durable,
  answer_before_durable,
  answer_before_applied,
  answer_failed_change,
  rename_snapshot_before_sync,
  skip_snapshot_directory_sync,
  compact_before_snapshot,
  compact_beyond_snapshot,
  announce_snapshot_at_applied_position,
  apply_snapshot_record_again,
  keep_state_after_rewind,
  keep_snapshot_of_lost_records,
  forget_interrupted_installation,
  ignore_min_position,
  compare_positions_by_index,
};

struct mutant_info {
  mutant id;
  std::string_view name;   ///< for command lines and reports, begins with the block
  std::string_view block;  ///< where the mistake is made
  std::string_view bug;    ///< what is wrong, in one sentence
};

/// All of them but `none`, in order of their ids.
inline constexpr auto mutants = std::to_array<mutant_info>({
    {mutant::skip_flush_sync, "log-skip-flush-sync", "log",
     "A group commit is written but not synced, and acknowledged as durable."},
    {mutant::ack_before_sync, "log-ack-before-sync", "log",
     "A group commit is acknowledged when it is written, before its sync has ended."},
    {mutant::ack_what_came_during_the_sync, "log-ack-what-came-during-the-sync", "log",
     "A completed sync acknowledges also the records that were staged while it ran."},
    {mutant::ack_after_failed_sync, "log-ack-after-failed-sync", "log",
     "A failed write or sync is ignored, and its records are acknowledged (F1)."},
    {mutant::retry_failed_sync, "log-retry-failed-sync", "log",
     "A failed write or sync is followed by another sync, whose success is believed (F1)."},
    {mutant::wake_waiters_of_failed_log_without_error, "log-wake-waiters-of-failed-log-without-error", "log",
     "When the log fails, whoever waits for durable() is let go as if it had succeeded (F1)."},
    {mutant::watermark_before_sync, "log-watermark-before-sync", "log",
     "The watermark names records before the sync that makes them durable."},
    {mutant::skip_segment_header_sync, "log-skip-segment-header-sync", "log",
     "A new segment gets its name before its header is synced (D1)."},
    {mutant::skip_roll_directory_sync, "log-skip-roll-directory-sync", "log",
     "A new segment is used before its directory entry is synced (F3)."},
    {mutant::seal_before_sync, "log-seal-before-sync", "log",
     "Under sync_policy::interval a segment is called sealed before its records are synced."},
    {mutant::skip_rewrite_sync, "log-skip-rewrite-sync", "log",
     "The file that recovery, truncation and reset write anew is renamed into place without a sync (F2, D1)."},
    {mutant::skip_rename_directory_sync, "log-skip-rename-directory-sync", "log",
     "The directory is not synced after a rewritten file was renamed into place (D1)."},
    {mutant::skip_removal_directory_sync, "log-skip-removal-directory-sync", "log",
     "A removal is not synced before what depends on it, also that of a finished reset's intent (D3)."},
    {mutant::skip_creation_directory_sync, "log-skip-creation-directory-sync", "log",
     "The parent of a directory that was just made is not synced (D2)."},
    {mutant::trust_page_cache_at_open, "log-trust-page-cache-at-open", "log",
     "Recovery believes the unsealed tail as it reads it, instead of writing it anew (F2)."},
    {mutant::keep_torn_tail, "log-keep-torn-tail", "log",
     "Recovery keeps the bytes of a torn tail, and new records go behind them (C5)."},
    {mutant::skip_sealed_check, "log-skip-sealed-check", "log",
     "A sealed segment that has become shorter is accepted (C1)."},
    {mutant::skip_watermark_check, "log-skip-watermark-check", "log",
     "A bad record at or below the watermark is cut off like a torn tail (C2)."},
    {mutant::skip_known_durable_check, "log-skip-known-durable-check", "log",
     "A bad record at or below an index known durable from elsewhere is cut off like a torn tail (C3)."},
    {mutant::skip_in_flight_check, "log-skip-in-flight-check", "log",
     "Any amount of damage behind the last good record counts as a torn tail (C4)."},
    {mutant::zeros_prove_the_end, "log-zeros-prove-the-end", "log",
     "Zeros where durable records should stand count as the clean end of the log (P1)."},
    {mutant::skip_record_checksum, "log-skip-record-checksum", "log",
     "A record whose header is sound is accepted without its chained checksum."},
    {mutant::chain_forgets_history, "log-chain-forgets-history", "log",
     "The chained checksum leaves the previous record's out, so that it names one record only."},
    {mutant::accept_stale_epoch, "log-accept-stale-epoch", "log",
     "append() takes a record of an epoch lower than the last one's."},
    {mutant::ignore_full_disk, "log-ignore-full-disk", "log",
     "Space that could not be reserved counts as reserved: a full disk fails the log, not the append (P4)."},
    {mutant::forget_recycled_flag, "log-forget-recycled-flag", "log",
     "A recycled file's header does not say so: what its older life wrote counts as damage (P2)."},
    {mutant::read_staged_as_durable, "log-read-staged-as-durable", "log",
     "A reader of durable records is given staged ones too."},
    {mutant::cursor_skips_record_at_segment_boundary, "log-cursor-skips-record-at-segment-boundary", "log",
     "Reading on from one mapped segment to the next skips the next one's first record."},
    {mutant::tail_read_skips_later_chunks, "log-tail-read-skips-later-chunks", "log",
     "A read that exhausts one chunk of the hot tail passes over the chunks behind it."},
    {mutant::cursor_ignores_rewind, "log-cursor-ignores-rewind", "log",
     "A cursor reads on when the records that it returned were taken back."},
    {mutant::keep_watermark_when_truncating, "log-keep-watermark-when-truncating", "log",
     "The watermark is not lowered before records are taken back."},
    {mutant::lower_watermark_unsynced, "log-lower-watermark-unsynced", "log",
     "The watermark is lowered without a sync before records are taken back."},
    {mutant::truncate_leaves_records, "log-truncate-leaves-records", "log",
     "truncate_suffix() keeps the taken back records of the segment in its file."},
    {mutant::truncate_leaves_segments, "log-truncate-leaves-segments", "log",
     "truncate_suffix() leaves the segments behind the cut in the directory."},
    {mutant::reset_before_intent, "log-reset-before-intent", "log",
     "reset() begins the new log before its intent is durable."},
    {mutant::ignore_reset_intent, "log-ignore-reset-intent", "log",
     "A reset that a crash cut short is not finished by open()."},
    {mutant::compact_needed_segment, "log-compact-needed-segment", "log", "Compaction drops one segment too many."},
    {mutant::skip_frame_checksum, "frame-skip-frame-checksum", "frame",
     "A frame is delivered whatever its checksum says."},
    {mutant::skip_frame_size_limit, "frame-skip-frame-size-limit", "frame",
     "A frame that is longer than the limit is waited for, and memory for it is taken."},
    {mutant::partial_frame_loses_last_byte, "frame-partial-frame-loses-last-byte", "frame",
     "Moving the first part of a frame to the front of the read buffer loses its last byte."},
    {mutant::drop_frames_read_together, "frame-drop-frames-read-together", "frame",
     "Of the bytes that one read brought, those behind the first frame are dropped."},
    {mutant::read_ahead_into_delivered_frame, "frame-read-ahead-into-delivered-frame", "frame",
     "The next read begins while the receiver still uses the frame that it was given."},
    {mutant::short_write_counts_as_whole, "frame-short-write-counts-as-whole", "frame",
     "When the stream takes a part of a write, the rest counts as sent too."},
    {mutant::small_frames_overtake_large, "frame-small-frames-overtake-large", "frame",
     "A small frame is sent before a large one that waits for its turn, or in its middle."},
    {mutant::cancelled_send_leaves_half_a_frame, "frame-cancelled-send-leaves-half-a-frame", "frame",
     "A large frame whose send is cancelled half way is cut off there."},
    {mutant::close_drops_queue, "frame-close-drops-queue", "frame",
     "close() does not wait until what is queued was sent."},
    {mutant::flush_returns_early, "frame-flush-returns-early", "frame", "flush() does not wait for the queue."},
    {mutant::ignore_backpressure, "frame-ignore-backpressure", "frame", "Senders never wait for room in the queue."},
    {mutant::never_idle, "frame-never-idle", "frame", "A peer that is silent for too long is never given up."},
    {mutant::skip_cluster_check, "frame-skip-cluster-check", "frame", "A peer of another cluster is accepted."},
    {mutant::skip_handshake_timeout, "frame-skip-handshake-timeout", "frame", "A handshake may take forever."},
    {mutant::ignore_call_generation, "rpc-ignore-call-generation", "rpc",
     "An answer that comes after its call has ended is given to the next call of the same slot."},
    {mutant::ignore_call_deadline, "rpc-ignore-call-deadline", "rpc", "A call without an answer never times out."},
    {mutant::forget_calls_at_disconnect, "rpc-forget-calls-at-disconnect", "rpc",
     "Calls under way do not end with their connection."},
    {mutant::unknown_outcome_reported_as_failure, "rpc-unknown-outcome-reported-as-failure", "rpc",
     "A call that was sent and not answered is reported as one that had no effect."},
    {mutant::never_reset_backoff, "rpc-never-reset-backoff", "rpc",
     "A session that lasted does not make the next failure the first."},
    {mutant::no_backoff, "rpc-no-backoff", "rpc", "The next attempt to connect follows a failure at once."},
    {mutant::give_up_after_failed_handshake, "rpc-give-up-after-failed-handshake", "rpc",
     "A link does not try again after an attempt that did not come to a session."},
    {mutant::up_before_handshake, "rpc-up-before-handshake", "rpc", "A link says that it is up before the handshake."},
    {mutant::ack_staged_records, "catchup-ack-staged-records", "catchup",
     "The follower acknowledges records that it has staged while a sync ran."},
    {mutant::subscribe_from_staged_records, "catchup-subscribe-from-staged-records", "catchup",
     "The follower presents a position that is not durable yet."},
    {mutant::keep_last_ack, "catchup-keep-last-ack", "catchup",
     "The follower does not acknowledge a single record, so that the last one stays unacknowledged."},
    {mutant::caught_up_before_durable, "catchup-caught-up-before-durable", "catchup",
     "The follower counts staged records as caught up."},
    {mutant::follow_older_life, "catchup-follow-older-life", "catchup",
     "A source whose epoch is lower than the follower's is followed."},
    {mutant::ignore_divergence, "catchup-ignore-divergence", "catchup",
     "The source continues behind a position that is not its own."},
    {mutant::skip_divergence_search, "catchup-skip-divergence-search", "catchup",
     "The source continues behind a position that it does not have, without a search."},
    {mutant::compare_chains_never, "catchup-compare-chains-never", "catchup",
     "Two records of one index and epoch count as the same when the source decides."},
    {mutant::search_stops_early, "catchup-search-stops-early", "catchup",
     "The search for the last common position ends one index before it."},
    {mutant::ship_last_record_again, "catchup-ship-last-record-again", "catchup",
     "The source begins with the record that the follower presented."},
    {mutant::send_no_heartbeats, "catchup-send-no-heartbeats", "catchup",
     "A source that pushes sends no heartbeat after the first."},
    {mutant::negative_lag, "catchup-negative-lag", "catchup",
     "A follower that has more than the last heartbeat named lags by less than nothing."},
    {mutant::skip_saving_diverged_records, "catchup-skip-saving-diverged-records", "catchup",
     "Diverged records are cut off without being saved."},
    {mutant::save_diverged_records_unsynced, "catchup-save-diverged-records-unsynced", "catchup",
     "Diverged records are cut off before the file that saves them is synced (D1)."},
    {mutant::reset_before_snapshot_is_durable, "catchup-reset-before-snapshot-is-durable", "catchup",
     "The follower's log is reset before the snapshot that replaces it is durable."},
    {mutant::keep_epoch_at_start, "cityhall-keep-epoch-at-start", "cityhall",
     "A leader's new life keeps the epoch of the life before."},
    {mutant::serve_before_epoch_is_durable, "cityhall-serve-before-epoch-is-durable", "cityhall",
     "A leader serves before the record that begins its life is durable."},
    {mutant::answer_before_durable, "cityhall-answer-before-durable", "cityhall",
     "A change is answered when it is staged."},
    {mutant::answer_before_applied, "cityhall-answer-before-applied", "cityhall",
     "A change is answered when it is durable, before reads see it."},
    {mutant::answer_failed_change, "cityhall-answer-failed-change", "cityhall",
     "A change that could not be stored is answered as if it were."},
    {mutant::rename_snapshot_before_sync, "cityhall-rename-snapshot-before-sync", "cityhall",
     "A snapshot gets its name without having been synced (D1)."},
    {mutant::skip_snapshot_directory_sync, "cityhall-skip-snapshot-directory-sync", "cityhall",
     "The log is compacted before the snapshot's directory entry is synced (D1, D3)."},
    {mutant::compact_before_snapshot, "cityhall-compact-before-snapshot", "cityhall",
     "The log is compacted before the snapshot that replaces its beginning is durable (D3)."},
    {mutant::compact_beyond_snapshot, "cityhall-compact-beyond-snapshot", "cityhall",
     "The log is compacted up to its end, beyond the snapshot."},
    {mutant::announce_snapshot_at_applied_position, "cityhall-announce-snapshot-at-applied-position", "cityhall",
     "An older snapshot is shipped as one of the present position."},
    {mutant::apply_snapshot_record_again, "cityhall-apply-snapshot-record-again", "cityhall",
     "After a restart the record that the snapshot ends with is applied once more."},
    {mutant::keep_state_after_rewind, "cityhall-keep-state-after-rewind", "cityhall",
     "A replica whose records were taken back goes on with what they had made of its state."},
    {mutant::keep_snapshot_of_lost_records, "cityhall-keep-snapshot-of-lost-records", "cityhall",
     "A snapshot that holds diverged records is not given up with them."},
    {mutant::forget_interrupted_installation, "cityhall-forget-interrupted-installation", "cityhall",
     "A snapshot whose installation a crash cut short does not reset the log."},
    {mutant::ignore_min_position, "cityhall-ignore-min-position", "cityhall",
     "A read does not wait for the position that it names."},
    {mutant::compare_positions_by_index, "cityhall-compare-positions-by-index", "cityhall",
     "A record counts as held when any record has its index."},
});

/// @return null when there is none of this name.
constexpr const mutant_info* find_mutant(std::string_view name) noexcept {
  for (const mutant_info& each : mutants) {
    if (each.name == name) return &each;
  }
  return nullptr;
}

#ifdef LOCKSTEP_MUTANTS

namespace detail {
struct mutant_choice {
  mutant active = mutant::none;
  std::uint64_t reached = 0;
};
inline constinit thread_local mutant_choice chosen_mutant;
}  // namespace detail

/// Whether the calling thread runs with this bug. Hooks ask last in their conditions, so that true means, as far as can
/// be, that it makes a difference here.
inline bool mutated(mutant asked) noexcept {
  if (asked != detail::chosen_mutant.active) return false;
  ++detail::chosen_mutant.reached;
  return true;
}

/// From now on the calling thread runs with this bug, or with `none`.
inline void activate_mutant(mutant id) noexcept { detail::chosen_mutant = {id, 0}; }
[[nodiscard]] inline mutant active_mutant() noexcept { return detail::chosen_mutant.active; }

/// How often the active mutant's hooks were reached since it was activated. 0: the run could not have found it.
[[nodiscard]] inline std::uint64_t times_mutated() noexcept { return detail::chosen_mutant.reached; }

#else

constexpr bool mutated(mutant) noexcept { return false; }

#endif

}  // namespace lockstep
