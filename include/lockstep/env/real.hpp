// real::env: the environment on Asio sockets and timers, POSIX files and the system's randomness.
//
// One env serves the nodes that run on one executor. Declare it after the io_context and before the blocks.
#pragma once

#include "lockstep/core/detail/held_handler.hpp"
#include "lockstep/core/errors.hpp"
#include "lockstep/env/disk_threads.hpp"
#include "lockstep/env/env.hpp"
#include "lockstep/env/posix_file.hpp"
#include "lockstep/env/socket.hpp"

#include <sys/random.h>
#include <asio/ip/tcp.hpp>
#include <asio/local/stream_protocol.hpp>
#include <asio/steady_timer.hpp>

#include <cstdio>
#include <filesystem>
#include <memory>

namespace lockstep::real {

struct env_options {
  std::size_t disk_threads = 1;  ///< threads for blocking disk calls; at least the number of busy logs serves well
  std::uint64_t seed = 0;        ///< of random(); 0 takes one from the system
};

/// One-shot timer, see environment_timer.
class timer;

/// See the concept `environment`. Thread safety: none; everything on its executor (the disk threads are its own).
class env {
 public:
  using stream = real::stream;
  using acceptor = real::acceptor;
  using timer = real::timer;
  using file = real::file;
  using mapping = real::mapping;
  using file_lock = real::file_lock;

  explicit env(asio::any_io_executor executor, env_options options = {})
      : executor_(std::move(executor)), disk_(options.disk_threads), random_state_(options.seed) {
    if (random_state_ == 0 && ::getrandom(&random_state_, sizeof random_state_, 0) != sizeof random_state_) {
      throw std::system_error(errno, std::system_category(), "getrandom");
    }
  }
  env(const env&) = delete;
  env& operator=(const env&) = delete;

  [[nodiscard]] const asio::any_io_executor& get_executor() const noexcept { return executor_; }
  [[nodiscard]] time_point now() const noexcept { return std::chrono::steady_clock::now(); }
  [[nodiscard]] wall_time wall_now() const noexcept { return std::chrono::system_clock::now(); }

  /// splitmix64 (Steele, Lea, Flood 2014).
  std::uint64_t random() noexcept {
    std::uint64_t z = (random_state_ += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
  }

  awaitable<stream> connect(const address& where, duration timeout);

  acceptor listen(const address& where, std::error_code& ec) { return acceptor::listen(executor_, where, ec); }

  file open(const std::string& path, open_mode mode, std::error_code& ec) {
    return file::open(path, mode, executor_, disk_, ec);
  }

  void rename(const std::string& from, const std::string& to, std::error_code& ec) {
    ec = std::rename(from.c_str(), to.c_str()) == 0 ? std::error_code() : detail::last_error();
  }

  void remove(const std::string& path, std::error_code& ec) {
    ec = std::remove(path.c_str()) == 0 ? std::error_code() : detail::last_error();
  }

  void create_directory(const std::string& path, std::error_code& ec) { std::filesystem::create_directory(path, ec); }

  std::vector<std::string> list(const std::string& path, std::error_code& ec) {
    std::vector<std::string> names;
    std::filesystem::directory_iterator entry(path, ec);
    for (; !ec && entry != std::filesystem::directory_iterator(); entry.increment(ec)) {
      names.push_back(entry->path().filename().string());
    }
    return names;
  }

  awaitable<std::error_code> sync_directory(const std::string& path, sync_on where) {
    const auto sync = [&path] { return detail::sync_directory(path); };
    if (where == sync_on::caller) co_return sync();
    co_return co_await detail::run_on_disk_thread(executor_, disk_, sync);
  }

  file_lock lock(const std::string& path, std::error_code& ec) { return file_lock::acquire(path, ec); }

 private:
  asio::any_io_executor executor_;
  disk_threads disk_;
  std::uint64_t random_state_;
};

class timer {
 public:
  explicit timer(env& of) : timer_(of.get_executor()) {}

  void expires_at(time_point when) { timer_.expires_at(when); }
  void expires_after(duration after) { timer_.expires_after(after); }
  void cancel() { timer_.cancel(); }

  awaitable<std::error_code> wait() {
    std::error_code ec;
    co_await timer_.async_wait(asio::redirect_error(use_awaitable, ec));
    co_return ec;
  }

 private:
  asio::steady_timer timer_;
};

namespace detail {

// Shared with the handlers of the timeout and of the resolver, which may still be queued when connect() returns.
struct connecting {
  explicit connecting(const asio::any_io_executor& executor)
      : socket(executor), resolver(executor), limit(executor), progress(executor, time_point::max()) {}
  generic_socket socket;
  asio::ip::tcp::resolver resolver;
  asio::steady_timer limit;
  asio::steady_timer progress;  // never expires; cancelled when `resolved` or `expired` becomes true
  asio::ip::tcp::resolver::results_type found;
  std::error_code resolve_error;
  bool resolved = false;
  bool expired = false;

  static void expire_after(const std::shared_ptr<connecting>& attempt, duration timeout) {
    attempt->limit.expires_after(timeout);
    attempt->limit.async_wait([attempt](std::error_code ec) {
      if (ec) return;
      attempt->expired = true;
      attempt->progress.cancel();
      std::error_code ignored;
      attempt->socket.close(ignored);
    });
  }

  // Not awaited: neither a timeout nor a cancellation ends a getaddrinfo that waits for a name server.
  static void resolve(const std::shared_ptr<connecting>& attempt, const address& where) {
    attempt->resolver.async_resolve(where.host, std::to_string(where.port),
                                    [attempt](std::error_code ec, auto results) {
                                      attempt->resolved = true;
                                      attempt->resolve_error = ec;
                                      attempt->found = std::move(results);
                                      attempt->progress.cancel();
                                    });
  }
};

struct stop_on_exit {
  std::shared_ptr<connecting> attempt;
  explicit stop_on_exit(std::shared_ptr<connecting> of) : attempt(std::move(of)) {}
  stop_on_exit(const stop_on_exit&) = delete;
  ~stop_on_exit() {
    attempt->limit.cancel();
    attempt->resolver.cancel();
  }
};

}  // namespace detail

inline awaitable<env::stream> env::connect(const address& where, duration timeout) {
  const auto attempt = std::make_shared<detail::connecting>(executor_);
  const detail::stop_on_exit stop(attempt);
  detail::connecting::expire_after(attempt, timeout);

  std::error_code ec;
  std::vector<asio::generic::stream_protocol::endpoint> candidates;
  if (where.is_unix()) {
    const auto endpoint = detail::unix_endpoint(where.path, ec);
    if (!ec) candidates.push_back(endpoint);
  } else if (const auto ip = asio::ip::make_address(where.host, ec); !ec) {
    candidates.emplace_back(asio::ip::tcp::endpoint(ip, where.port));
  } else {
    detail::connecting::resolve(attempt, where);
    co_await attempt->progress.async_wait(asio::redirect_error(use_awaitable, ec));
    if (attempt->resolved) ec = attempt->resolve_error;
    for (const auto& each : attempt->found) candidates.emplace_back(each.endpoint());
  }
  for (const auto& each : candidates) {
    if (attempt->expired) break;
    std::error_code ignored;
    attempt->socket.close(ignored);
    attempt->socket.open(each.protocol(), ec);
    if (ec) continue;
    co_await attempt->socket.async_connect(each, asio::redirect_error(use_awaitable, ec));
    if (!ec || is_cancelled(ec)) break;
  }
  if (attempt->expired) ec = errc::timed_out;
  if (ec) throw std::system_error(ec, "cannot connect to " + where.to_string());
  co_return stream(std::move(attempt->socket));
}

}  // namespace lockstep::real

static_assert(lockstep::environment<lockstep::real::env>);
