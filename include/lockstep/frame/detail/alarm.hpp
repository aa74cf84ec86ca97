// alarm: one timer for many deadlines. What has deadlines keeps them in variables of its own and sweeps them when told.
#pragma once

#include "lockstep/core/wait_list.hpp"
#include "lockstep/env/env.hpp"

#include <exception>
#include <functional>
#include <memory>
#include <utility>

namespace lockstep::detail {

inline constexpr time_point never = time_point::max();

/// Calls `sweep(now)` at the earliest time asked for by at(), and again at the time that each call returns.
/// Runs a coroutine only while a time is asked for. The destructor stops it; join() waits until it has ended.
/// Thread safety: none.
template <class Env>
class alarm {
 public:
  /// @param sweep  called with the present time; returns when to be called next, or `never`. Must not throw.
  alarm(Env& env, std::function<time_point(time_point)> sweep)
      : state_(std::make_shared<state>(env, std::move(sweep))) {}
  alarm(const alarm&) = delete;
  alarm& operator=(const alarm&) = delete;
  ~alarm() { stop(); }

  /// Asks for a sweep at `when`, never inside this call.
  void at(time_point when) {
    if (state_->stopped || when >= state_->due) return;
    state_->due = when;
    if (state_->running) {
      state_->timer.cancel();
    } else {
      asio::co_spawn(state_->env.get_executor(), run(running_mark(state_)), rethrow());
    }
  }

  /// No sweep happens from now on.
  void stop() noexcept {
    if (std::exchange(state_->stopped, true)) return;
    state_->timer.cancel();
  }

  /// Waits until nothing of it is left on the executor, also while the caller is being cancelled. stop() first.
  awaitable<void> join() {
    const std::shared_ptr<state> joined = state_;
    while (joined->running) (void)co_await joined->ended.wait_uncancellable();
  }

 private:
  struct state {
    state(Env& in, std::function<time_point(time_point)> to_sweep)
        : env(in), timer(in), sweep(std::move(to_sweep)), ended(in.get_executor()) {}
    Env& env;
    typename Env::timer timer;
    std::function<time_point(time_point)> sweep;
    wait_list ended;
    time_point due = never;
    bool running = false;
    bool stopped = false;
  };

  // A parameter of the coroutine: also when its frame is destroyed unrun by the end of the executor, joins end.
  struct running_mark {
    std::shared_ptr<state> of;
    explicit running_mark(std::shared_ptr<state> marked) : of(std::move(marked)) { of->running = true; }
    running_mark(running_mark&&) noexcept = default;
    running_mark& operator=(running_mark&&) = delete;
    ~running_mark() {
      if (!of) return;
      of->running = false;
      of->ended.notify_all();
    }
  };

  struct rethrow {
    void operator()(std::exception_ptr failure) const {
      if (failure) std::rethrow_exception(failure);
    }
  };

  static awaitable<void> run(running_mark mark) {
    state* const self = mark.of.get();
    bool inside_at = true;  // co_spawn runs a coroutine on the spot until it suspends
    while (!self->stopped && self->due != never) {
      const time_point now = self->env.now();
      if (now < self->due) {
        self->timer.expires_at(self->due);
        (void)co_await self->timer.wait();
        inside_at = false;
        continue;
      }
      if (std::exchange(inside_at, false)) {
        co_await asio::post(self->env.get_executor(), use_awaitable);
        continue;
      }
      self->due = never;
      const time_point next = self->sweep(now);
      if (next < self->due) self->due = next;
    }
  }

  std::shared_ptr<state> state_;
};

}  // namespace lockstep::detail
