// How a follower follows, what it tells its program, and what it knows about itself.
#pragma once

#include "lockstep/catchup/core.hpp"
#include "lockstep/core/asio_compat.hpp"
#include "lockstep/core/errors.hpp"
#include "lockstep/env/env.hpp"

#include <string>

namespace lockstep {

/// What a follower does with records of its own that the source does not have.
enum class repair {
  stop,               ///< run() throws errc::diverged and nothing is changed
  save_and_truncate,  ///< they are written to a file in the log's directory and cut off (all of them, when nothing that
                      ///< both keep is common: the log begins anew then); then catch-up goes on
};

struct follower_options {
  follower_options() {}

  catchup::mode mode = catchup::mode::push;
  duration poll_interval = std::chrono::seconds(1);      ///< pull: between a fetch that found nothing and the next
  duration long_poll{0};                                 ///< pull: how long the source may wait for records (at most
                                                         ///< an hour); replaces poll_interval when not 0
  std::size_t max_batch_bytes = std::size_t{256} << 10;  ///< pull: of one fetch
  repair on_divergence = repair::stop;
};

/// What a follower tells its program. All calls are on the environment's executor; views are valid during the call.
/// What a call throws ends run().
class follower_events {
 public:
  virtual ~follower_events() = default;

  /// The source continues behind `have`; `source_last` is its last record now.
  virtual void subscribed(const position& have, index_t source_last) { (void)have, (void)source_last; }
  /// Records first..last arrived, were verified and staged; they are not durable yet. A batch that is refused in its
  /// middle is not told of.
  virtual void received(index_t first, index_t last, std::size_t bytes) { (void)first, (void)last, (void)bytes; }
  /// Everything that the source had at its last heartbeat is durable here. Told when it becomes so.
  virtual void caught_up(const position& at) { (void)at; }
  /// This log and the source's agree up to `common`; the records first_lost..last_lost of this log are not the
  /// source's. When nothing that both keep is common, `common` is {} and all of this log is lost: a snapshot will
  /// replace it, or, when none begins, the source's records from the first on. What the program made of this log's
  /// compacted records is not the source's either then. first_lost is last_lost + 1 if this log holds no record.
  /// They are cut off when this returns: what was derived from them goes first, and for good (D3).
  /// @param saved_to  the file that they were written to, as one segment of a log; empty when the follower stops or
  ///   there was no record.
  virtual awaitable<void> diverged(position common, index_t first_lost, index_t last_lost, std::string saved_to) {
    (void)common, (void)first_lost, (void)last_lost, (void)saved_to;
    co_return;
  }
  /// The source sends a snapshot of `size` bytes in place of records up to `upto`. A program that takes none throws.
  /// A snapshot that was begun and not ended is void; the next one begins anew.
  virtual awaitable<void> snapshot_begin(position upto, std::uint64_t size) {
    (void)upto, (void)size;
    throw std::system_error(errc::snapshot_required, "this follower takes no snapshots");
    co_return;
  }
  virtual awaitable<void> snapshot_chunk(bytes_view bytes) {
    (void)bytes;
    co_return;
  }
  /// The snapshot is complete: make it durable before returning. Afterwards the log is reset behind it.
  virtual awaitable<void> snapshot_end() { co_return; }
};

/// What a follower knows about itself.
struct follower_state {
  bool connected = false;  ///< run() is under way and the source accepted
  bool caught_up = false;
  std::uint64_t lag_records = 0;  ///< by the source's last heartbeat
  duration lag_time{0};           ///< for how long, by the source's clock, it has had records that are not durable here
  index_t source_last = 0;
  wall_time last_contact{};  ///< of this node's clock; the epoch when there never was any
};

}  // namespace lockstep
