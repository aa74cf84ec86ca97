// What a source may do, whom it serves, and where it finds its snapshots.
#pragma once

#include "lockstep/catchup/core.hpp"
#include "lockstep/log/append_log.hpp"

#include <memory>
#include <optional>
#include <string>

namespace lockstep {

struct source_options {
  source_options() {}

  visibility ship = visibility::durable;                 ///< staged ships records that a crash of this node may lose
  std::size_t max_batch_bytes = std::size_t{256} << 10;  ///< of one records frame; a larger record goes alone, and must
                                                         ///< fit into both sides' channel_options::max_frame_bytes
  duration heartbeat_interval = std::chrono::milliseconds(500);  ///< at least 1 ms
};

/// A snapshot as it is streamed: bytes that stand for all records up to `upto`.
struct snapshot_image {
  snapshot_image() {}

  position upto;     ///< of a record of the source's log, or its base
  bytes_view bytes;  ///< valid as long as `owner` lives
  std::shared_ptr<const void> owner;
};

/// Where a source finds the snapshot for followers that its log can't serve any more.
class snapshot_provider {
 public:
  virtual ~snapshot_provider() = default;
  /// The latest durable snapshot; nothing when there is none. One that the log can't continue (it lies before the log's
  /// base, or is of another history) is as good as none.
  virtual std::optional<snapshot_image> latest() = 0;
};

/// What a source knows of one connected follower.
struct follower_status {
  node_id node = 0;
  std::string address;
  catchup::mode mode = catchup::mode::push;
  position acked;           ///< everything up to here is durable at the follower, as it says
  bool subscribed = false;  ///< records are being shipped
};

}  // namespace lockstep
