// Running coroutines in tests: to their end or to a point, never longer than a deadline, so that a hang is a failure
// with a name and not a stuck build.
#pragma once

#include "lockstep/core/asio_compat.hpp"

#include <gtest/gtest.h>
#include <asio/io_context.hpp>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <utility>
#include <variant>

namespace lockstep::test {

/// How long a test may wait for something that must happen. Generous: it only decides how soon a hang is reported.
inline constexpr std::chrono::seconds patience{30};

inline std::string current_test_name() {
  const auto* const test = testing::UnitTest::GetInstance()->current_test_info();
  return test ? std::string(test->test_suite_name()) + "." + test->name() : std::string("(no test)");
}

/// Runs every handler that is ready, and those that they make ready, without waiting for timers or sockets.
/// @return how many ran.
inline std::size_t poll(asio::io_context& io) {
  io.restart();
  return io.poll();
}

/// Runs `io` until `condition()`. @return false when the deadline passed, or `io` has neither handlers nor coroutines.
template <class Condition>
bool run_until(asio::io_context& io, Condition condition, std::chrono::nanoseconds limit = patience) {
  const auto deadline = std::chrono::steady_clock::now() + limit;
  while (!condition()) {
    if (std::chrono::steady_clock::now() >= deadline) return false;
    io.restart();
    if (io.run_one_until(deadline) == 0) return condition();
  }
  return true;
}

/// Runs `io` for `span` of real time, to see that something does not happen.
inline void run_for(asio::io_context& io, std::chrono::nanoseconds span) {
  (void)run_until(
      io, [] { return false; }, span);
}

/// A coroutine that was started by start(). Copies refer to the same coroutine.
template <class T>
class started {
 public:
  [[nodiscard]] bool done() const noexcept { return state_->done; }
  [[nodiscard]] bool failed() const noexcept { return state_->failure != nullptr; }

  void cancel(asio::cancellation_type type = asio::cancellation_type::terminal) { state_->stop.emit(type); }

  /// Its value, or its exception rethrown. It must be done().
  T result() {
    if (!done()) throw std::logic_error(current_test_name() + ": the coroutine has not ended");
    if (state_->failure) std::rethrow_exception(state_->failure);
    if constexpr (!std::is_void_v<T>) return std::move(*state_->value);
  }

  /// The code of the std::system_error that it ended by; no error when it ended by its value.
  [[nodiscard]] std::error_code error() const {
    if (!failed()) return {};
    try {
      std::rethrow_exception(state_->failure);
    } catch (const std::system_error& thrown) {
      return thrown.code();
    }
  }

 private:
  template <class U>
  friend started<U> start(asio::any_io_executor, awaitable<U>);

  struct state {
    asio::cancellation_signal stop;
    std::optional<std::conditional_t<std::is_void_v<T>, std::monostate, T>> value;
    std::exception_ptr failure;
    bool done = false;
  };

  static awaitable<void> record(awaitable<T> task, std::shared_ptr<state> into) {
    try {
      if constexpr (std::is_void_v<T>) {
        co_await std::move(task);
        into->value.emplace();
      } else {
        T value = co_await std::move(task);
        into->value.emplace(std::move(value));
      }
    } catch (...) {
      into->failure = std::current_exception();
    }
    into->done = true;
  }

  std::shared_ptr<state> state_ = std::make_shared<state>();
};

/// Starts `task` beside the test; it runs when the test runs its io_context. Its arguments must outlive it.
template <class T>
started<T> start(asio::any_io_executor executor, awaitable<T> task) {
  started<T> result;
  auto slot = result.state_->stop.slot();
  asio::co_spawn(executor, started<T>::record(std::move(task), result.state_),
                 asio::bind_cancellation_slot(slot, [state = result.state_](std::exception_ptr) {}));
  return result;
}

template <class T>
started<T> start(asio::io_context& io, awaitable<T> task) {
  return start(asio::any_io_executor(io.get_executor()), std::move(task));
}

/// Runs `io` until `task` has ended. @return its value, or its exception rethrown.
/// When the deadline passes, the task is cancelled and the test fails by an exception that says so; a task that does
/// not even end by cancellation ends the process, since its frame cannot be destroyed safely.
template <class T>
T run(asio::io_context& io, awaitable<T> task, std::chrono::nanoseconds limit = patience) {
  auto running = start(io, std::move(task));
  const auto done = [&running] { return running.done(); };
  if (run_until(io, done, limit)) return running.result();
  const std::string what = current_test_name() + ": the coroutine did not end before the deadline";
  running.cancel();
  if (!run_until(io, done, std::chrono::seconds(2))) {
    std::fprintf(stderr, "%s, nor when cancelled\n", what.c_str());
    std::abort();
  }
  throw std::runtime_error(what);
}

/// The code of the std::system_error that `call` throws; no error when it throws none.
template <class Call>
std::error_code error_of(Call call) {
  try {
    call();
  } catch (const std::system_error& thrown) {
    return thrown.code();
  }
  return {};
}

}  // namespace lockstep::test
