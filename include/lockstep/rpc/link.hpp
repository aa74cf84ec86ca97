// link: an outgoing connection that comes back.
//
// @code
//   lockstep::link to_leader(env, where, options, [](lockstep::channel& up) { return follow(up); });
//   group.spawn(to_leader.run());
//   if (co_await to_leader.wait_until_up(env.now() + 3s)) log(to_leader.report().text);  // why it is down
// @endcode
//
// What it does not promise: that what was sent on a connection that broke has arrived; that being up outlasts the
// question; a choice among several peers (redirect() is told by whoever knows).
#pragma once

#include "lockstep/core/mutant.hpp"
#include "lockstep/core/task_group.hpp"
#include "lockstep/core/wait_list.hpp"
#include "lockstep/frame/channel.hpp"
#include "lockstep/frame/detail/alarm.hpp"
#include "lockstep/rpc/backoff.hpp"

#include <exception>
#include <functional>
#include <memory>
#include <string>
#include <utility>

namespace lockstep {

enum class link_state : std::uint8_t {
  waiting,     ///< for its next attempt, or to be run
  connecting,  ///< and shaking hands
  up,          ///< its session is running
  closed,      ///< for good
};

struct link_report {
  link_report() {}

  link_state state = link_state::waiting;
  time_point since{};  ///< when it came into this state
  address where;
  std::error_code error;      ///< why it is not up; while up, why it was not before; none when it was never tried
  std::string text;           ///< the same for people: "cannot connect to 127.0.0.1:7879: Connection refused"
  unsigned failures = 0;      ///< attempts and sessions that ended since a session lasted
  time_point next_attempt{};  ///< while waiting
  peer_info peer;             ///< while up
};

struct link_options {
  // Not an aggregate: g++ 12 destroys aggregate temporaries twice in expressions with co_await.
  link_options() {}

  channel_options channel;  ///< its handshake_timeout bounds each handshake
  duration connect_timeout = std::chrono::seconds(3);
  duration backoff_base = std::chrono::milliseconds(50);
  duration backoff_max = std::chrono::seconds(5);
  duration stable_after = std::chrono::seconds(10);  ///< a session that lasted so long makes the next failure the first
  /// Told of each change; must not throw, suspend or destroy the link.
  std::function<void(const link_report&)> on_change;
};

/// Connects, shakes hands, runs a session over the connection, and begins again when it ends, after a wait that grows.
/// Thread safety: none; everything on the environment's executor.
template <class Env>
class basic_link {
 public:
  using channel_type = basic_channel<Env>;
  /// Runs while the connection is up; when it returns or throws, the connection is closed and made anew. The channel
  /// has completed its handshake and lives until the session has ended.
  using session_type = std::function<awaitable<void>(channel_type&)>;

  /// @param env  outlives the link.
  basic_link(Env& env, address where, link_options options, session_type session);
  basic_link(const basic_link&) = delete;
  basic_link& operator=(const basic_link&) = delete;
  ~basic_link() { *self_ = nullptr; }

  /// Keeps the connection until close(). Once.
  /// Cancellation: ends the session and the connection at once; throws operation_aborted.
  awaitable<void> run();

  /// Waits until the link is up.
  /// @return nothing when it is up; timed_out at `deadline`, closed when it will not be. report() says why it is down.
  /// Cancellation: operation_aborted is returned.
  awaitable<std::error_code> wait_until_up(time_point deadline);

  [[nodiscard]] const link_report& report() const noexcept { return report_; }

  /// Ends a wait for the next attempt now.
  void retry_now() { pause_.cancel(); }

  /// Leaves the present connection, if it leads elsewhere, and connects to `where` from now on, without a wait;
  /// failures are counted anew.
  void redirect(address where);

  /// Closes the connection politely (the session's receive ends with errc::closed), cancels the session if it has not
  /// ended by that, and returns when run() has. The link stays closed.
  /// Cancellation: closes at once; completes normally.
  awaitable<void> close();

 private:
  awaitable<void> keep_connected();
  awaitable<void> connect_once();
  void change(link_state to);
  void fail(std::error_code error, std::string text);

  // Null when the link is gone: the end of the executor destroys coroutine frames in any order, its own included.
  const std::shared_ptr<basic_link*> self_ = std::make_shared<basic_link*>(this);
  Env& env_;
  const link_options options_;
  const session_type session_;
  link_report report_;
  backoff backoff_;
  typename Env::timer pause_;
  task_group tasks_;
  wait_list changed_;
  detail::alarm<Env> deadlines_;     // of those who wait for up
  channel_type* channel_ = nullptr;  // while there is one
  bool redirected_ = false;
  bool running_ = false;
};

using link = basic_link<real::env>;

// --- Implementation ---------------------------------------------------------------------------------------------

template <class Env>
basic_link<Env>::basic_link(Env& env, address where, link_options options, session_type session)
    : env_(env),
      options_(std::move(options)),
      session_(std::move(session)),
      backoff_(options_.backoff_base, options_.backoff_max),
      pause_(env),
      tasks_(env.get_executor()),
      changed_(env.get_executor()),
      deadlines_(env, [this](time_point) {
        changed_.notify_all();
        return detail::never;
      }) {
  report_.where = std::move(where);
  report_.since = env.now();
}

template <class Env>
awaitable<void> basic_link<Env>::run() {
  struct running_mark {
    const std::shared_ptr<basic_link*> of;
    explicit running_mark(basic_link& marked) : of(marked.self_) { marked.running_ = true; }
    running_mark(const running_mark&) = delete;
    ~running_mark() {
      basic_link* const home = *of;
      if (!home) return;
      home->running_ = false;
      home->report_.state = link_state::closed;
      home->changed_.notify_all();
    }
  };
  if (report_.state == link_state::closed) co_return;
  const running_mark mark(*this);
  tasks_.spawn(keep_connected());
  try {
    co_await tasks_.join_passing_cancellation();
    deadlines_.stop();
    co_await deadlines_.join();
  } catch (...) {
    change(link_state::closed);
    throw;
  }
}

template <class Env>
awaitable<void> basic_link<Env>::keep_connected() {
  while (report_.state != link_state::closed) {
    if (std::exchange(redirected_, false)) {
      backoff_.reset();
      report_.failures = 0;
    }
    change(link_state::connecting);
    co_await connect_once();
    if (report_.state == link_state::closed) co_return;
    if (redirected_) continue;
    duration wait = backoff_.next(env_.random());
    if (mutated(mutant::no_backoff)) wait = duration(0);
    report_.next_attempt = env_.now() + wait;
    change(link_state::waiting);
    pause_.expires_at(report_.next_attempt);
    (void)co_await pause_.wait();
  }
}

template <class Env>
awaitable<void> basic_link<Env>::connect_once() {
  struct named_channel {
    const std::shared_ptr<basic_link*> of;
    named_channel(basic_link& in, channel_type& over) : of(in.self_) { in.channel_ = &over; }
    named_channel(const named_channel&) = delete;
    ~named_channel() {
      if (basic_link* const home = *of) home->channel_ = nullptr;
    }
  };
  const address where = report_.where;
  try {
    typename Env::stream stream = co_await env_.connect(where, options_.connect_timeout);
    if (redirected_) co_return;
    channel_type over(env_, std::move(stream), options_.channel);
    const named_channel named(*this, over);
    if (mutated(mutant::up_before_handshake)) change(link_state::up);
    report_.peer = co_await over.handshake();
    change(link_state::up);
    co_await session_(over);
    co_await over.close();
    fail(errc::closed, "session with " + where.to_string() + " ended");
  } catch (const std::system_error& error) {
    fail(error.code(), error.what());
  } catch (const std::exception& error) {
    fail(errc::remote_failure, error.what());
  }
}

template <class Env>
void basic_link<Env>::change(link_state to) {
  if (report_.state == link_state::closed) return;
  report_.state = to;
  report_.since = env_.now();
  changed_.notify_all();
  if (options_.on_change) options_.on_change(report_);
}

template <class Env>
void basic_link<Env>::fail(std::error_code error, std::string text) {
  const bool lasted = report_.state == link_state::up && env_.now() - report_.since >= options_.stable_after;
  if (lasted) {
    if (!mutated(mutant::never_reset_backoff)) backoff_.reset();
    report_.failures = 0;
  }
  ++report_.failures;
  report_.error = error;
  report_.text = std::move(text);
  if (report_.state == link_state::connecting && mutated(mutant::give_up_after_failed_handshake)) {
    change(link_state::closed);
  }
}

template <class Env>
awaitable<std::error_code> basic_link<Env>::wait_until_up(time_point deadline) {
  for (;;) {
    if (report_.state == link_state::up) co_return std::error_code();
    if (report_.state == link_state::closed) co_return errc::closed;
    if (env_.now() >= deadline) co_return errc::timed_out;
    deadlines_.at(deadline);
    const std::error_code woken = co_await changed_.wait();
    if (is_cancelled(woken)) co_return woken;
  }
}

template <class Env>
void basic_link<Env>::redirect(address where) {
  if (report_.where == where || report_.state == link_state::closed) return;
  report_.where = std::move(where);
  redirected_ = true;
  if (channel_) channel_->abort();
  retry_now();
}

template <class Env>
awaitable<void> basic_link<Env>::close() {
  const bool throws = co_await this_coro::throw_if_cancelled();
  co_await this_coro::throw_if_cancelled(false);
  const bool was_up = report_.state == link_state::up;
  change(link_state::closed);
  if (channel_ && was_up) {
    channel_type closing = channel_->share();
    co_await closing.close();
  }
  tasks_.cancel();
  while (running_) (void)co_await changed_.wait_uncancellable();
  co_await this_coro::throw_if_cancelled(throws);
}

}  // namespace lockstep
