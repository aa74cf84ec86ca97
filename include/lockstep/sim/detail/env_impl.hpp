// The bodies of sim::env. See sim/env.hpp.
#pragma once

#include "lockstep/sim/env.hpp"

namespace lockstep::sim {

inline constexpr std::chrono::hours monotonic_begin{1};
inline constexpr std::chrono::hours wall_begin{24 * 365 * 50};

inline env::env(process& life, node& on, random_stream random)
    : life_(life),
      on_(on),
      disk_(on.storage.state_),
      executor_(life.get_executor()),
      random_(random),
      born_(life.in().elapsed()),
      drift_ppm_(on.clock.drift_ppm) {}

inline wall_time env::wall_now() const noexcept {
  return wall_time(wall_begin) + life_.in().elapsed() + on_.clock.wall_offset;
}

inline time_point env::local_time(duration world_time) const noexcept {
  const duration lived = world_time - born_;
  return time_point(monotonic_begin) + lived + lived / 1'000'000 * drift_ppm_ +
         lived % 1'000'000 * drift_ppm_ / 1'000'000;
}

inline duration env::world_time(time_point local) const noexcept {
  if (local >= time_point(std::chrono::hours(24 * 365 * 100))) return duration::max();
  const duration lived = local - time_point(monotonic_begin);
  const std::int64_t rate = 1'000'000 + drift_ppm_;
  duration found = born_ + lived / rate * 1'000'000 + lived % rate * 1'000'000 / rate;
  while (local_time(found) < local) ++found;
  return found;
}

// --- Files
// ------------------------------------------------------------------------------------------------------------

/// A sync on its way: begun, ended, and then its coroutine resumed. Dropped unrun with its process's events, it
/// destroys the coroutine.
struct env::sync_job {
  std::shared_ptr<disk_state> disk;
  const machine& on;
  process& life;
  disk_state::sync sync;
  std::error_code* result = nullptr;  // in the coroutine's frame, valid while waiting
  bool waiting = false;
  bool begun = false;
  bool blocks = false;  // the process, until the sync has ended
  lockstep::detail::held_handler handler;

  sync_job(std::shared_ptr<disk_state> of, const machine& at, process& asking)
      : disk(std::move(of)), on(at), life(asking) {}
  sync_job(const sync_job&) = delete;
  ~sync_job() {
    if (begun && on.powered) (void)disk->end_sync(sync);  // the kernel ends what a dead process began
    if (waiting) handler.finish(false);
  }

  void resume(std::error_code ec) {
    *result = ec;
    waiting = false;
    if (blocks) life.blocked_until = nullptr;
    handler.finish(true);
    if (blocks) life.in().release_held(life);
  }
};

template <class Begin>
awaitable<std::error_code> env::run_sync(sync_on where, Begin begin) {
  if (life_.dead()) co_return crashed_error();
  std::error_code result;
  const node::sync_times times = on_.next_sync();
  auto job = std::make_shared<sync_job>(disk_, on_, life_);
  job->result = &result;
  job->blocks = where == sync_on::caller;
  // The frame lets go of the job before it suspends: the job owns the frame.
  auto initiate = [this, &job, &begin, times](auto&& handler) {
    job->handler.hold(std::forward<decltype(handler)>(handler));
    job->waiting = true;
    const bool blocks = job->blocks;
    const detail::event* const beginning = life_.in().schedule(
        times.begin.count(), &life_, detail::event_kind::disk,
        [end = times.end.count(), kept = std::exchange(job, nullptr), begins = std::move(begin)]() mutable {
          if (const std::error_code ec = begins(kept->sync)) return kept->resume(ec);
          kept->begun = true;
          process& life = kept->life;
          const bool blocked = kept->blocks;
          const detail::event* const ends =
              life.in().schedule(end, &life, detail::event_kind::disk, [ending = std::move(kept)] {
                ending->begun = false;
                ending->resume(ending->disk->end_sync(ending->sync));
              });
          if (blocked) life.blocked_until = ends;
        });
    if (blocks) life_.blocked_until = beginning;
  };
  co_await asio::async_initiate<const asio::use_awaitable_t<>, void()>(initiate, use_awaitable);
  co_return result;
}

inline env::file env::open(const std::string& path, open_mode mode, std::error_code& ec) {
  file result;
  if (dead(ec)) return result;
  result.file_ = disk_->open(path, mode, ec);
  result.env_ = this;
  result.path_ = path;
  result.writable_ = mode != open_mode::read;
  return result;
}

inline void env::rename(const std::string& from, const std::string& to, std::error_code& ec) {
  if (!dead(ec)) disk_->rename(from, to, ec);
}

inline void env::remove(const std::string& path, std::error_code& ec) {
  if (!dead(ec)) disk_->remove(path, ec);
}

inline void env::create_directory(const std::string& path, std::error_code& ec) {
  if (!dead(ec)) disk_->create_directory(path, ec);
}

inline std::vector<std::string> env::list(const std::string& path, std::error_code& ec) {
  if (dead(ec)) return {};
  return disk_->list(path, ec);
}

inline awaitable<std::error_code> env::sync_directory(std::string path, sync_on where) {
  return run_sync(where, [disk = disk_, named = std::move(path)](disk_state::sync& sync) {
    sync = disk->begin_sync_directory(named);
    return std::error_code();
  });
}

inline env::file_lock env::lock(const std::string& path, std::error_code& ec) {
  if (dead(ec)) return {};
  return file_lock(disk_, path, on_.next_pid(), ec);
}

// --- Connections
// ------------------------------------------------------------------------------------------------------

/// An attempt to connect; shared with the events that it is made of. Some of them outlive the process: `over` says so.
struct env::connecting : std::enable_shared_from_this<env::connecting> {
  network& net;
  process& life;  // dangles when over
  machine& from;
  machine* to;
  address where;
  wait_list done;
  detail::event* expiry = nullptr;
  bool over = false;
  std::error_code failure;
  std::shared_ptr<detail::connection> made;

  connecting(network& on, process& of, machine& client, machine* server, address asked)
      : net(on), life(of), from(client), to(server), where(std::move(asked)), done(of.get_executor()) {}

  void end(std::error_code ec) {
    if (std::exchange(over, true)) return;
    failure = ec;
    done.notify_all();
  }

  void begin(duration timeout) {
    expiry = net.in().schedule((net.in().elapsed() + timeout).count(), &life, detail::event_kind::timer,
                               [self = shared_from_this()] {
                                 self->expiry = nullptr;
                                 self->end(errc::timed_out);
                               });
    net.in().schedule(net.arrival(from, *to), nullptr, detail::event_kind::delivery,
                      [self = shared_from_this()] { self->arrive(); });
  }

  // The request reaches the server, or is lost and sent again.
  void arrive() {
    if (over) return;
    const bool lost = !to->hears() || net.blocked(from, *to);
    detail::listener* const server = lost ? nullptr : net.listening(*to, where);
    if (lost || (server && server->backlog.size() >= net.options.backlog)) return ask_again();
    std::shared_ptr<detail::connection> connection;
    if (server) {
      address server_at = where;
      if (!where.is_unix()) server_at.host = to->ip();
      connection =
          std::make_shared<detail::connection>(net, from, life, *to, std::move(server_at), server->shared_from_this());
      net.opened(connection);
    }
    net.in().schedule(net.arrival(*to, from), &life, detail::event_kind::delivery,
                      [self = shared_from_this(), connection = std::move(connection)]() mutable {
                        self->answered(std::move(connection));
                      });
  }

  void ask_again() {
    net.in().schedule((net.in().elapsed() + net.options.resend).count(), nullptr, detail::event_kind::delivery,
                      [self = shared_from_this()] { self->arrive(); });
  }

  // The server's answer reaches the client: a connection, or a refusal.
  void answered(std::shared_ptr<detail::connection> connection) {
    const bool lost = net.blocked(*to, from);
    if (over || lost) {
      if (connection) connection->close(0);
      if (lost) ask_again();
      return;
    }
    if (connection) connection->answered();
    made = std::move(connection);
    end(made ? std::error_code() : asio::error::connection_refused);
  }
};

inline awaitable<env::stream> env::connect(address where, duration timeout) {
  struct attempt_in_frame {
    const std::shared_ptr<connecting> of;
    explicit attempt_in_frame(std::shared_ptr<connecting> begun) : of(std::move(begun)) {}
    attempt_in_frame(const attempt_in_frame&) = delete;
    ~attempt_in_frame() {
      of->over = true;
      if (!of->life.dead()) world::cancel(of->expiry);
      if (of->made) of->made->close(0);
    }
  };
  machine* const to = where.is_unix() ? &on_ : on_.in().net().resolve(on_, where.host);
  if (!to) throw std::system_error(asio::error::host_not_found, "cannot connect to " + where.to_string());
  const attempt_in_frame attempt(std::make_shared<connecting>(on_.in().net(), life_, on_, to, where));
  attempt.of->begin(timeout);
  std::error_code ec;
  while (!ec && !attempt.of->over) ec = co_await attempt.of->done.wait();
  if (!ec) ec = attempt.of->failure;
  if (ec) throw std::system_error(ec, "cannot connect to " + where.to_string());
  co_return stream(std::exchange(attempt.of->made, nullptr), 0, executor_);
}

inline env::acceptor env::listen(const address& where, std::error_code& ec) {
  if (dead(ec)) return {};
  return acceptor(on_.in().net(), life_, on_, where, ec);
}

}  // namespace lockstep::sim

static_assert(lockstep::environment<lockstep::sim::env>);
