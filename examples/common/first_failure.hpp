// Steps that are all taken, however many of them fail.
//
//   first_failure failure;
//   co_await failure.of(server.close());
//   co_await failure.of(store.close());
//   failure.rethrow();
#pragma once

#include <exception>
#include <utility>

#include <lockstep/core/asio_compat.hpp>

namespace lockstep::examples {

class first_failure {
 public:
  /// Completes when `step` has ended, in whatever way.
  awaitable<void> of(awaitable<void> step) {
    try {
      co_await std::move(step);
    } catch (...) {
      if (!kept_) kept_ = std::current_exception();
    }
  }

  /// @throws what the first step threw that failed; nothing when none did.
  void rethrow() const {
    if (kept_) std::rethrow_exception(kept_);
  }

 private:
  std::exception_ptr kept_;
};

}  // namespace lockstep::examples
