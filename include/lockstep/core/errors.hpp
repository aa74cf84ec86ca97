// The `lockstep` error category. Expected outcomes are returned as these codes; the rest is thrown as
// std::system_error.
#pragma once

#include <string>
#include <system_error>

namespace lockstep {

enum class errc {
  // transport
  closed = 1,       ///< the channel, link, log or node was closed by this side
  timed_out,        ///< the deadline passed (for a call, see rpc_status::outcome_unknown)
  idle_timeout,     ///< nothing arrived from the peer for longer than allowed
  overloaded,       ///< a bounded queue is full
  frame_too_large,  ///< a frame's length exceeds the limit; nothing was allocated for it
  bad_checksum,     ///< bytes arrived whole but changed
  malformed,        ///< bytes that no correct peer sends
  truncated,        ///< the peer's bytes ended in the middle of a message
  not_lockstep,     ///< the peer does not speak this protocol at all
  wrong_version,    ///< the peer speaks a protocol version that this side does not
  wrong_cluster,    ///< the peer belongs to another cluster
  wrong_node,       ///< the peer is not the node that was expected, or carries this node's own id
  unknown_method,   ///< the peer does not serve the requested method
  remote_failure,   ///< the peer answered with an error of its own

  // log
  log_failed,        ///< an earlier write or sync failed: the log accepts nothing more until it is opened again
  log_locked,        ///< another process writes to this directory
  corrupt,           ///< stored bytes that were once good are not any more; the damaged files stay as they are
  compacted,         ///< the index lies before the first record that is still kept
  out_of_range,      ///< the index lies beyond the last record
  record_too_large,  ///< the payload exceeds the log's limit
  stale_epoch,       ///< an epoch lower than one already seen

  // replication
  diverged,           ///< the histories disagree at or before the presented position
  snapshot_required,  ///< the source no longer keeps the records that would continue the presented position
  not_leader,         ///< another node leads, or none
};

namespace detail {
class category final : public std::error_category {
 public:
  const char* name() const noexcept override { return "lockstep"; }
  std::string message(int value) const override {
    switch (static_cast<errc>(value)) {
      case errc::closed: return "closed";
      case errc::timed_out: return "timed out";
      case errc::idle_timeout: return "peer silent for too long";
      case errc::overloaded: return "queue full";
      case errc::frame_too_large: return "frame exceeds the size limit";
      case errc::bad_checksum: return "checksum mismatch";
      case errc::malformed: return "malformed message";
      case errc::truncated: return "peer's bytes ended in the middle of a message";
      case errc::not_lockstep: return "peer does not speak the lockstep protocol";
      case errc::wrong_version: return "peer speaks another protocol version";
      case errc::wrong_cluster: return "peer belongs to another cluster";
      case errc::wrong_node: return "peer is not the expected node";
      case errc::unknown_method: return "peer does not serve this method";
      case errc::remote_failure: return "peer reported a failure";
      case errc::log_failed: return "log failed earlier and must be reopened";
      case errc::log_locked: return "log directory is locked by another process";
      case errc::corrupt: return "stored data is corrupt";
      case errc::compacted: return "index was compacted away";
      case errc::out_of_range: return "index is beyond the last record";
      case errc::record_too_large: return "record exceeds the size limit";
      case errc::stale_epoch: return "epoch is older than one already seen";
      case errc::diverged: return "histories diverged";
      case errc::not_leader: return "not the leader";
      case errc::snapshot_required: return "source no longer keeps these records, a snapshot is required";
    }
    return "unknown lockstep error " + std::to_string(value);
  }
};
}  // namespace detail

inline const std::error_category& lockstep_category() noexcept {
  static const detail::category instance;
  return instance;
}

inline std::error_code make_error_code(errc value) noexcept { return {static_cast<int>(value), lockstep_category()}; }

}  // namespace lockstep

template <>
struct std::is_error_code_enum<lockstep::errc> : std::true_type {};
