// follower: keeps a log equal to a source's. The protocol and its decisions are in catchup/core.hpp.
//
//   catchup_follower follower(env, log, events);
//   // for each connection (see rpc/link.hpp), after its handshake:
//   co_await follower.run(channel);
//
// The records go into this node's log, as the same bytes; a program applies them by reading its log with a cursor, so
// that state and apply are one commit.
//
// Promises. Each record is verified and appended once and in order, whenever the connection or either process ends;
// what was acknowledged to the source is as durable here as the log's sync policy says. Records that the source's
// history is known not to hold are never mixed with it: the follower stops, or saves them aside and cuts them off, and
// says so. A source whose life is older than what this log holds is refused before anything is changed, and so is
// whatever does not continue this log.
// What it does not promise. It does not choose the source, and it does not know whether the source is the right one
// beyond its epoch: one that lies about its history can make a follower that saves and truncates do so. The log is the
// follower's: nobody else appends to it, cuts it or resets it while run() is under way. A snapshot for a follower that
// lies too far back replaces its whole log: whether the dropped records were the source's can't be known any more.
// Between a snapshot's end and the log's reset a crash leaves both: the program compares them at start. A snapshot that
// is cut short begins anew.
#pragma once

#include "lockstep/catchup/detail/follower_session.hpp"
#include "lockstep/catchup/follower_options.hpp"

#include <cassert>
#include <memory>

namespace lockstep {

/// Follows one source at a time. The log, the environment and the events outlive it.
/// run() has ended before the destructor, unless the executor never runs again.
/// Thread safety: none; everything on the environment's executor.
template <environment Env>
class basic_follower {
 public:
  basic_follower(Env& env, basic_append_log<Env>& log, follower_events& events, follower_options options = {})
      : parts_{env, log, events, options}, progress_(std::make_shared<detail::follower_progress>()) {}
  basic_follower(const basic_follower&) = delete;
  basic_follower& operator=(const basic_follower&) = delete;

  /// Follows the source on a channel that has completed its handshake, until the channel ends. One at a time.
  /// @param connection  outlives this call, which is the only one that receives from it.
  /// @throws system_error: what the channel or the log said (asio::error::eof when the source closed; log_failed, and
  ///   no_space_on_device, which leaves the log readable); diverged; stale_epoch (the source's life is older than this
  ///   log's); snapshot_required (the source no
  ///   longer keeps what is missing here, or nothing kept is common, and it has no snapshot); malformed or
  ///   corrupt (the source sent what does not continue this log); record_too_large (for this log's options);
  ///   remote_failure (the source ended by an error of its own, see the text).
  ///   After any of them, run() may be called again with a new channel.
  /// Cancellation: what was received is kept; a cut or reset of the log that has begun is finished before this returns.
  ///   The channel may then be closed.
  awaitable<void> run(basic_channel<Env>& connection) {
    assert(!progress_->running && "one run at a time");
    detail::follower_session<Env> following(parts_, progress_, connection);
    co_await following.run();
  }

  [[nodiscard]] follower_state state() const {
    follower_state result;
    result.connected = progress_->connected;
    result.caught_up = progress_->caught_up;
    result.lag_records = progress_->lag.records();
    result.lag_time = progress_->lag.behind_for();
    result.source_last = progress_->lag.source_last();
    result.last_contact = progress_->last_contact;
    return result;
  }

 private:
  const detail::follower_parts<Env> parts_;
  const std::shared_ptr<detail::follower_progress> progress_;
};

using catchup_follower = basic_follower<real::env>;

}  // namespace lockstep
