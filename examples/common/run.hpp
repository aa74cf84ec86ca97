// Running one coroutine as a program: an io_context of its own, and an orderly end at SIGINT or SIGTERM.
//
//   run_to_end([&](real::env& env, stop_signal& signal) { return serve(env, signal, options); });
//
//   awaitable<void> serve(real::env& env, stop_signal& signal, options with) {
//     ...
//     std::function<awaitable<void>()> stop = [&server] { return server.close(); };
//     co_await signal.run_until(server.run(), stop);
//   }
#pragma once

#include <exception>
#include <functional>
#include <utility>

#include <spdlog/spdlog.h>
#include <asio/co_spawn.hpp>
#include <asio/io_context.hpp>
#include <lockstep/core/task_group.hpp>
#include <lockstep/env/real.hpp>

#include "common/first_failure.hpp"
#include "common/signals.hpp"

namespace lockstep::examples {

/// Takes the first signal from its construction on, so that one that comes early ends a program as cleanly as a late
/// one. A second one ends it at once.
class stop_signal {
 public:
  explicit stop_signal(const asio::any_io_executor& executor)
      : stopping_(executor), drain_(executor, [this](int signal_number) {
          spdlog::info("stopping on signal {}; once more to stop at once", signal_number);
          stop();
        }) {}

  /// As the first signal does; only once.
  void stop() {
    if (std::exchange(came_, true)) return;
    if (stop_) stopping_.spawn(stop_());
  }

  /// Runs `serve` to its end, which the signal brings about by `stop`; not at all when the signal came before.
  awaitable<void> run_until(awaitable<void> serve, std::function<awaitable<void>()> stop) {
    if (came_) co_return;
    stop_ = std::move(stop);
    first_failure failure;
    co_await failure.of(std::move(serve));
    stop_ = nullptr;
    co_await failure.of(stopping_.join());
    failure.rethrow();
  }

  /// Nothing waits for signals any more.
  void dismiss() { drain_.stop(); }

 private:
  task_group stopping_;
  std::function<awaitable<void>()> stop_;
  bool came_ = false;
  signal_drain drain_;
};

/// Runs `work` on an io_context of its own to its end, and throws what it throws. What still waits on the io_context
/// then, as a library's idle connections do, is dropped.
inline void run_to_end(const std::function<awaitable<void>(real::env&, stop_signal&)>& work) {
  asio::io_context io(1);
  real::env env(io.get_executor());
  stop_signal signal(io.get_executor());
  std::exception_ptr failure;
  asio::co_spawn(io, work(env, signal), [&](std::exception_ptr ended) {
    failure = ended;
    signal.dismiss();
    io.stop();
  });
  io.run();
  if (failure) std::rethrow_exception(failure);
}

}  // namespace lockstep::examples
