// SIGINT and SIGTERM ask a program to drain; a second one ends it at once.
#pragma once

#include <csignal>
#include <functional>
#include <memory>
#include <utility>

#include <unistd.h>
#include <asio/any_io_executor.hpp>
#include <asio/signal_set.hpp>

namespace lockstep::examples {

/// Writing to a peer or a pipe that went away then fails with EPIPE. run_main() calls it.
inline void ignore_broken_pipes() noexcept { std::signal(SIGPIPE, SIG_IGN); }

/// From construction to stop(), the first SIGINT or SIGTERM calls `drain(signal number)` once, on `executor`.
/// From then on another one ends the process immediately with exit code 130, even when the io_context is stuck.
///
/// Waiting for the first signal is outstanding work, so a program that ends by itself calls stop() (or destroys this);
/// after the first signal nothing is outstanding, and the io_context runs out of work when the drain is finished.
/// stop() and the destructor restore the default actions and drop a drain that was not called yet; `drain` may call
/// them. Not thread-safe: use it on the executor's thread. One at a time in a process.
class signal_drain {
 public:
  using drain_handler = std::function<void(int signal_number)>;

  signal_drain(const asio::any_io_executor& executor, drain_handler drain)
      : state_(std::make_shared<state>(executor, std::move(drain))) {
    ignore_broken_pipes();
    state_->signals.async_wait([state = state_](const std::error_code& error, int signal_number) {
      if (error || state->stopped) return;
      state->signals.clear();
      state->draining = true;
      std::signal(SIGINT, exit_now);
      std::signal(SIGTERM, exit_now);
      state->drain(signal_number);
    });
  }

  signal_drain(const signal_drain&) = delete;
  signal_drain& operator=(const signal_drain&) = delete;
  ~signal_drain() { stop(); }

  void stop() {
    if (std::exchange(state_->stopped, true)) return;
    std::error_code ignored;
    state_->signals.clear(ignored);
    state_->signals.cancel(ignored);
    if (!state_->draining) return;
    std::signal(SIGINT, SIG_DFL);
    std::signal(SIGTERM, SIG_DFL);
  }

 private:
  static void exit_now(int /*signal_number*/) { ::_exit(130); }

  // Shared with the waiting handler, which may run after this object is gone.
  struct state {
    state(const asio::any_io_executor& executor, drain_handler handler)
        : signals(executor, SIGINT, SIGTERM), drain(std::move(handler)) {}
    asio::signal_set signals;
    drain_handler drain;
    bool stopped = false;
    bool draining = false;
  };
  std::shared_ptr<state> state_;
};

}  // namespace lockstep::examples
