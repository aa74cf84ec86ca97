// How a log trades safety for speed and memory for readers.
#pragma once

#include "lockstep/env/env.hpp"
#include "lockstep/log/format.hpp"

#include <cstdint>

namespace lockstep {

/// What `durable()` waits for, and so what a crash can lose of what was acknowledged.
enum class sync_policy {
  always,    ///< a completed datasync: nothing, whatever crashes
  interval,  ///< a write to the page cache, synced every `sync_interval`: a crashed process loses nothing, a machine
             ///< that loses power loses what was acknowledged since the last sync
  never,     ///< a write to the page cache, synced only in the background when a segment is full: a crashed process
             ///< loses nothing, a machine that loses power may lose everything since then
};

struct log_options {
  log_options() {}  // not an aggregate: see the compiler notes in CONTRIBUTING.md

  sync_policy sync = sync_policy::always;
  duration sync_interval = std::chrono::milliseconds(100);
  sync_on sync_where = sync_on::disk_thread;

  std::uint64_t segment_bytes = 64 << 20;       ///< a segment file's size; a larger record gets a segment of its own
  std::uint64_t max_unsynced_bytes = 16 << 20;  ///< staged and not yet synced (sync_never: not yet written); appends
                                                ///< beyond it fail with errc::overloaded
  std::size_t max_payload_bytes = 8 << 20;
  std::size_t chunk_bytes = 256 << 10;     ///< staging buffers; one write takes many
  std::size_t hot_tail_bytes = 4 << 20;    ///< the newest records kept in memory for readers
  std::uint64_t reserve_bytes = 4 << 20;   ///< disk space is reserved in steps of this
  std::uint64_t prewrite_bytes = 1 << 20;  ///< zeros written ahead of small syncs, so that the file does not grow
                                           ///< in each of them; 0: none
  std::size_t recycled_segments = 2;       ///< compacted segment files kept for reuse

  position start{};           ///< where a new log begins; ignored when the directory holds one
  index_t known_durable = 0;  ///< an index known durable from elsewhere: a log that ends before it is corrupt
};

/// Limits of apply_retention(); 0 means no limit.
struct retention {
  std::uint64_t max_bytes = 0;
  duration max_age{0};
};

}  // namespace lockstep
