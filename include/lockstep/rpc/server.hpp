// server: accepts connections, shakes hands, and runs a session for each until it is closed.
//
// @code
//   lockstep::server server(env, env.listen(where, ec), options);
//   server.on("kv", kv_service);                                                    // rpc
//   server.on("catchup", [&](lockstep::channel& up) { return source.serve(up); });  // frames
//   group.spawn(server.run());
// @endcode
//
// What it does not promise: that a client is served in the order of its arrival; that a session which ignores the end
// of its channel and its cancellation ends.
#pragma once

#include "lockstep/core/task_group.hpp"
#include "lockstep/core/wait_list.hpp"
#include "lockstep/frame/channel.hpp"
#include "lockstep/frame/detail/alarm.hpp"
#include "lockstep/rpc/peer.hpp"

#include <functional>
#include <list>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>

namespace lockstep {

enum class server_event_kind : std::uint8_t {
  opened,         ///< a session begins
  ended,          ///< a session has ended; no error when by the peer's end or this side's close()
  refused,        ///< a handshake failed, here or there
  accept_failed,  ///< the system had no connection to give; accepting goes on
};

/// What a server can tell about its connections, for logs and metrics.
struct server_event {
  server_event(server_event_kind what, const peer_info& who, std::error_code why, std::string words)
      : kind(what), peer(who), error(why), text(std::move(words)) {}
  server_event_kind kind;
  const peer_info& peer;  ///< during the call only; without a name when accept_failed
  std::error_code error;
  std::string text;  ///< about the error, for people
};

struct server_options {
  // Not an aggregate: g++ 12 destroys aggregate temporaries twice in expressions with co_await.
  server_options() {}

  channel_options channel;
  std::size_t max_connections = 1024;  ///< more are refused with errc::overloaded and a reason
  /// Of close(): for sessions to end after their connections have. rpc sessions have a drain_timeout of their own.
  duration drain_timeout = std::chrono::seconds(5);
  /// After a failed accept (no descriptors left, say), accepting pauses for so long.
  duration accept_pause = std::chrono::milliseconds(100);
  /// Must not throw, suspend or destroy the server.
  std::function<void(const server_event&)> on_event;
};

/// One listening address, any number of services told apart by the purpose that a client names in its handshake.
/// A session that throws ends its own connection only.
/// Thread safety: none; everything on the environment's executor.
template <class Env>
class basic_server {
 public:
  using channel_type = basic_channel<Env>;
  /// Runs for one connection that has completed its handshake; when it ends, the connection is closed.
  using session_type = std::function<awaitable<void>(channel_type&)>;

  /// @param env  outlives the server.
  basic_server(Env& env, typename Env::acceptor acceptor, server_options options);
  basic_server(const basic_server&) = delete;
  basic_server& operator=(const basic_server&) = delete;
  ~basic_server() { *self_ = nullptr; }

  /// Serves clients with this purpose. Before run().
  basic_server& on(std::string purpose, session_type session);

  /// The same with rpc. @param service  outlives the server.
  basic_server& on(std::string purpose, const rpc_service& service, rpc_options options = rpc_options());

  /// Accepts and serves until close(). Once.
  /// Cancellation: ends every session and connection at once; throws operation_aborted.
  awaitable<void> run();

  /// Stops accepting; closes every connection politely (rpc peers say goodbye and let handlers end; the receives of
  /// other sessions end with errc::closed), cancels sessions that have not ended drain_timeout later, and returns when
  /// run() has ended. Cancellation: cancels the sessions at once; completes normally.
  awaitable<void> close();

  /// With the real port.
  [[nodiscard]] address local_address() const { return acceptor_.local_address(); }
  /// Connections whose session is running.
  [[nodiscard]] std::size_t connections() const noexcept { return sessions_; }

 private:
  using peer_type = basic_rpc_peer<Env>;

  struct service_entry {
    session_type session;  // empty: rpc
    const rpc_service* service = nullptr;
    rpc_options options;
  };

  // Lies in the frame of the connection's coroutine.
  struct connection {
    connection(basic_server& in, channel_type& over) : of(in.self_), channel(over) {
      place = in.open_.insert(in.open_.end(), this);
    }
    connection(const connection&) = delete;
    ~connection() {
      basic_server* const home = *of;
      if (!home) return;
      home->open_.erase(place);
      home->sessions_ -= in_session ? 1 : 0;
      home->changed_.notify_all();
    }
    const std::shared_ptr<basic_server*> of;
    channel_type& channel;
    std::shared_ptr<peer_type> peer;
    bool in_session = false;
    typename std::list<connection*>::iterator place;
  };

  // More than max_connections are accepted, so that they can be told why they are refused; not many more.
  static constexpr std::size_t spare_connections = 16;

  awaitable<void> accept_all();
  awaitable<void> accept_one(std::optional<typename Env::stream>& accepted, std::error_code& failed);
  awaitable<void> serve(typename Env::stream stream);
  awaitable<void> run_session(connection& in);
  static awaitable<void> close_channel(channel_type closing) { co_await closing.close(); }
  static awaitable<void> close_peer(std::shared_ptr<peer_type> closing) { co_await closing->close(); }
  std::optional<refusal> admit(const peer_info& peer) const;
  void tell(server_event_kind kind, const peer_info& peer, std::error_code error = {}, std::string text = {}) const;

  // Null when the server is gone: the end of the executor destroys coroutine frames in any order, its own included.
  const std::shared_ptr<basic_server*> self_ = std::make_shared<basic_server*>(this);
  Env& env_;
  typename Env::acceptor acceptor_;
  const server_options options_;
  channel_options accepting_;  // options_.channel with admit()
  std::map<std::string, service_entry> services_;
  std::list<connection*> open_;
  std::size_t sessions_ = 0;
  typename Env::timer pause_;
  task_group tasks_;
  wait_list changed_;
  detail::alarm<Env> drain_;
  bool closing_ = false;
  bool running_ = false;
};

using server = basic_server<real::env>;

// --- Implementation ---------------------------------------------------------------------------------------------

template <class Env>
basic_server<Env>::basic_server(Env& env, typename Env::acceptor acceptor, server_options options)
    : env_(env),
      acceptor_(std::move(acceptor)),
      options_(std::move(options)),
      accepting_(options_.channel),
      pause_(env),
      tasks_(env.get_executor()),
      changed_(env.get_executor()),
      drain_(env, [this](time_point) {
        tasks_.cancel();
        return detail::never;
      }) {
  accepting_.admit = [this](const peer_info& peer) { return admit(peer); };
}

template <class Env>
basic_server<Env>& basic_server<Env>::on(std::string purpose, session_type session) {
  service_entry& added = services_[std::move(purpose)];
  assert(!added.session && !added.service);
  added.session = std::move(session);
  return *this;
}

template <class Env>
basic_server<Env>& basic_server<Env>::on(std::string purpose, const rpc_service& service, rpc_options options) {
  service_entry& added = services_[std::move(purpose)];
  assert(!added.session && !added.service);
  added.service = &service;
  added.options = options;
  return *this;
}

template <class Env>
awaitable<void> basic_server<Env>::run() {
  struct running_mark {
    const std::shared_ptr<basic_server*> of;
    explicit running_mark(basic_server& marked) : of(marked.self_) { marked.running_ = true; }
    running_mark(const running_mark&) = delete;
    ~running_mark() {
      basic_server* const home = *of;
      if (!home) return;
      home->running_ = false;
      home->changed_.notify_all();
    }
  };
  const running_mark mark(*this);
  if (!closing_) tasks_.spawn(accept_all());
  co_await tasks_.join_passing_cancellation();
  drain_.stop();
  co_await drain_.join();
}

template <class Env>
awaitable<void> basic_server<Env>::accept_all() {
  while (!closing_) {
    if (open_.size() >= options_.max_connections + spare_connections) {
      (void)co_await changed_.wait();
      continue;
    }
    std::optional<typename Env::stream> accepted;
    std::error_code failed;
    co_await accept_one(accepted, failed);
    if (closing_) co_return;
    if (accepted) {
      tasks_.spawn(serve(std::move(*accepted)));
    } else {
      tell(server_event_kind::accept_failed, peer_info(), failed, "cannot accept: " + failed.message());
      // A peer that left before it was accepted says nothing about the next one.
      if (failed == asio::error::connection_aborted) continue;
      pause_.expires_after(options_.accept_pause);
      (void)co_await pause_.wait();
    }
  }
}

template <class Env>
awaitable<void> basic_server<Env>::accept_one(std::optional<typename Env::stream>& accepted, std::error_code& failed) {
  try {
    typename Env::stream next = co_await acceptor_.accept();
    accepted.emplace(std::move(next));
  } catch (const std::system_error& error) {
    failed = error.code();
  }
}

template <class Env>
awaitable<void> basic_server<Env>::serve(typename Env::stream stream) {
  channel_type over(env_, std::move(stream), accepting_);
  connection here(*this, over);
  std::error_code error;
  std::string text;
  try {
    (void)co_await over.handshake();
    here.in_session = true;
    ++sessions_;
    tell(server_event_kind::opened, over.peer());
    co_await run_session(here);
    co_await over.close();
  } catch (const std::system_error& thrown) {
    error = thrown.code();
    text = thrown.what();
  } catch (const std::exception& thrown) {
    error = errc::remote_failure;
    text = thrown.what();
  }
  if (!here.in_session) {
    tell(server_event_kind::refused, over.peer(), error, std::move(text));
  } else if (error == asio::error::eof || (closing_ && error == errc::closed)) {
    tell(server_event_kind::ended, over.peer());
  } else {
    tell(server_event_kind::ended, over.peer(), error, std::move(text));
  }
}

template <class Env>
awaitable<void> basic_server<Env>::run_session(connection& in) {
  const service_entry& entry = services_.find(in.channel.peer().purpose)->second;
  if (entry.session) {
    co_await entry.session(in.channel);
  } else {
    in.peer = std::make_shared<peer_type>(in.channel.share(), *entry.service, entry.options);
    co_await in.peer->run();
  }
}

template <class Env>
awaitable<void> basic_server<Env>::close() {
  const bool throws = co_await this_coro::throw_if_cancelled();
  co_await this_coro::throw_if_cancelled(false);
  if (!std::exchange(closing_, true)) {
    acceptor_.close();
    pause_.cancel();
    task_group closers(env_.get_executor());
    for (connection* const each : open_) {
      if (each->peer) {
        closers.spawn(close_peer(each->peer));
      } else if (each->in_session) {
        closers.spawn(close_channel(each->channel.share()));
      } else {
        each->channel.abort();
      }
    }
    co_await closers.join_passing_cancellation();
    changed_.notify_all();
    const auto state = co_await this_coro::cancellation_state;
    if (state.cancelled() != asio::cancellation_type::none) tasks_.cancel();
    if (running_) drain_.at(env_.now() + options_.drain_timeout);
  }
  while (running_) (void)co_await changed_.wait_uncancellable();
  co_await this_coro::throw_if_cancelled(throws);
}

template <class Env>
std::optional<refusal> basic_server<Env>::admit(const peer_info& peer) const {
  if (closing_) return refusal(errc::closed, "this node is closing");
  if (!services_.contains(peer.purpose)) {
    std::string known;
    for (const auto& [purpose, ignored] : services_) known += (known.empty() ? "'" : ", '") + purpose + "'";
    return refusal(errc::unknown_method, "this node serves " + known + ", not '" + peer.purpose + "'");
  }
  // Counting those that still shake hands keeps the sessions within the limit.
  if (open_.size() > options_.max_connections) {
    return refusal(errc::overloaded,
                   "this node has " + std::to_string(options_.max_connections) + " connections and takes no more");
  }
  return options_.channel.admit ? options_.channel.admit(peer) : std::nullopt;
}

template <class Env>
void basic_server<Env>::tell(server_event_kind kind, const peer_info& peer, std::error_code error,
                             std::string text) const {
  if (options_.on_event) options_.on_event(server_event(kind, peer, error, std::move(text)));
}

}  // namespace lockstep
