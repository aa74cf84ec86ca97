// source: ships a log to followers. The protocol and its decisions are in catchup/core.hpp.
//
//   catchup_source source(env, log);
//   // for each accepted and handshaken connection:
//   co_await source.serve(channel);
//
// Promises. A follower gets exactly the records behind the position that it presented, in order, as the bytes that lie
// in this log; a follower whose history is not this log's is told the last common position; one that retention has
// passed by is sent the latest snapshot, announced as such; one with which nothing kept is common gets the snapshot
// too, or, where there is none and this log keeps every record, is told to begin from nothing. Nothing is skipped
// silently. Whatever a follower sends, this log is not changed, and other followers are served on. What it does not
// promise. It does not wait for followers: retention and acknowledgement quorums are the program's business
// (followers() says who has what). It believes what a follower says it has made durable. It does not verify what it
// ships; the follower does. A snapshot that is cut short is sent anew from its beginning. A follower that does not read
// holds memory (one batch and the channel's queue) until the channel's idle_timeout or the program ends it.
#pragma once

#include "lockstep/catchup/detail/source_session.hpp"
#include "lockstep/catchup/source_options.hpp"

#include <exception>
#include <list>
#include <memory>
#include <system_error>
#include <utility>

namespace lockstep {

/// Serves any number of followers. The log, the environment and the snapshot provider outlive it.
/// Every serve() has ended before the destructor, unless the executor never runs again.
/// Thread safety: none; everything on the environment's executor.
template <environment Env>
class basic_source {
 public:
  basic_source(Env& env, basic_append_log<Env>& log, source_options options = {},
               snapshot_provider* snapshots = nullptr)
      : followers_(std::make_shared<std::list<follower_status>>()), shared_{env, log, options, snapshots} {}
  basic_source(const basic_source&) = delete;
  basic_source& operator=(const basic_source&) = delete;

  /// Serves one follower on a channel that has completed its handshake; ends with the channel.
  /// @param connection  outlives this call, which is the only one that receives from it.
  /// @throws system_error: what the channel or the log said (closed, log_failed, corrupt); malformed (what arrived is
  ///   nothing that a follower says); snapshot_required (the log can't serve the follower, nor can a snapshot);
  ///   diverged (the log was rewound behind what was shipped: the follower learns how far when it comes back);
  ///   frame_too_large (a record that no frame between the two can hold). The follower is told, where it can be.
  ///   A follower that closes its end is no error. The program then closes the channel.
  /// Cancellation: ends the service; the channel may then be closed.
  awaitable<void> serve(basic_channel<Env>& connection) {
    detail::source_session<Env> serving(shared_, followers_, connection);
    std::exception_ptr failure;
    try {
      co_await serving.run();
    } catch (const std::system_error& error) {
      if (error.code() == asio::error::eof) co_return;
      failure = std::current_exception();
      serving.tell(error.code());
    }
    if (failure) std::rethrow_exception(failure);
  }

  /// The followers connected now, in the order of their connections.
  [[nodiscard]] const std::list<follower_status>& followers() const noexcept { return *followers_; }

 private:
  const std::shared_ptr<std::list<follower_status>> followers_;
  const detail::source_parts<Env> shared_;
};

using catchup_source = basic_source<real::env>;

}  // namespace lockstep
