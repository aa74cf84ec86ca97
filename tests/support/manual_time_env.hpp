// manual_time_env: the real network with a clock that stands still until the test moves it.
#pragma once

#include "lockstep/core/wait_list.hpp"
#include "lockstep/env/real.hpp"

#include <list>
#include <memory>

namespace lockstep::test {

/// Timers fire inside advance(); what they wake runs when the test runs its io_context.
class manual_time_env : public real::env {
  struct shared_clock;

 public:
  class timer {
   public:
    explicit timer(manual_time_env& of) : clock_(of.clock_), waiting_(of.get_executor()) {
      place_ = clock_->timers.insert(clock_->timers.end(), this);
    }
    timer(const timer&) = delete;
    timer& operator=(const timer&) = delete;
    ~timer() { clock_->timers.erase(place_); }

    void expires_at(time_point when) {
      cancel();
      when_ = when;
    }
    void expires_after(duration after) { expires_at(clock_->now + after); }
    void cancel() { waiting_.notify_all(asio::error::operation_aborted); }

    awaitable<std::error_code> wait() {
      if (when_ <= clock_->now) co_return std::error_code();
      co_return co_await waiting_.wait();
    }

   private:
    friend class manual_time_env;
    std::shared_ptr<shared_clock> clock_;
    wait_list waiting_;
    time_point when_ = time_point::max();
    std::list<timer*>::iterator place_;
  };

  using real::env::env;

  [[nodiscard]] time_point now() const noexcept { return clock_->now; }

  void advance(duration by) {
    clock_->now += by;
    for (timer* const each : clock_->timers) {
      if (each->when_ <= clock_->now) each->waiting_.notify_all();
    }
  }

  /// How many timers somebody waits for.
  [[nodiscard]] std::size_t armed_timers() const noexcept {
    std::size_t count = 0;
    for (const timer* const each : clock_->timers) count += each->waiting_.empty() ? 0 : 1;
    return count;
  }

 private:
  // Shared, since the io_context destroys what is left of the coroutines after the env.
  struct shared_clock {
    time_point now{std::chrono::hours(1)};
    std::list<timer*> timers;
  };

  std::shared_ptr<shared_clock> clock_ = std::make_shared<shared_clock>();
};

static_assert(environment<manual_time_env>);

}  // namespace lockstep::test
