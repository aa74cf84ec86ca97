// task_group: owns the coroutines that a block spawns. Everything spawned is joined.
#pragma once

#include "lockstep/core/asio_compat.hpp"
#include "lockstep/core/wait_list.hpp"

#include <cassert>
#include <exception>
#include <list>
#include <memory>
#include <utility>

namespace lockstep {

/// Spawned coroutines with one end. Spawned coroutines take values, since they may outlive the caller's frame.
///
/// A coroutine that ends by an exception cancels the others, and join() rethrows the first such exception. Ending by
/// operation_aborted after cancel() is no error.
/// The destructor never blocks: join first. Coroutines that are still running then are cancelled and left to end on
/// their own, which is right only when their executor is about to be destroyed with them.
/// Thread safety: none; use it on its executor only.
class task_group {
 public:
  explicit task_group(asio::any_io_executor executor) : state_(std::make_shared<state>(std::move(executor))) {}
  task_group(const task_group&) = delete;
  task_group& operator=(const task_group&) = delete;
  ~task_group() { state_->cancel(); }

  /// Starts `task` on the group's executor, at the earliest at the caller's next suspension.
  /// After cancel() the task is destroyed without having run.
  void spawn(awaitable<void> task) {
    if (state_->cancelled) return;
    auto child = state_->children.emplace(state_->children.end());
    asio::co_spawn(state_->executor, std::move(task),
                   asio::bind_cancellation_slot(child->slot(), finished(state_, child)));
  }

  [[nodiscard]] bool idle() const noexcept { return state_->children.empty(); }

  /// Asks every coroutine to stop (terminal cancellation) and lets no new one start.
  void cancel() { state_->cancel(); }

  /// Waits until every coroutine has ended, also while the caller is being cancelled. A caller that was cancelled
  /// before must reset its cancellation state first, since Asio throws at any `co_await` of it.
  /// @throws the first exception that a coroutine ended by.
  awaitable<void> join() { co_await wait_for_end(state_, false); }

  /// As join(), but when the caller is cancelled, cancels the group and waits for its end.
  awaitable<void> join_passing_cancellation() { co_await wait_for_end(state_, true); }

 private:
  struct state {
    explicit state(asio::any_io_executor on) : executor(std::move(on)), ended(executor) {}
    asio::any_io_executor executor;
    std::list<asio::cancellation_signal> children;
    wait_list ended;
    std::exception_ptr failure;
    bool cancelled = false;

    void cancel() {
      cancelled = true;
      // A child that ends inside emit() removes itself: step on before.
      for (auto child = children.begin(); child != children.end();) (child++)->emit(asio::cancellation_type::terminal);
    }
  };

  static awaitable<void> wait_for_end(std::shared_ptr<state> joined, bool pass_cancellation) {
    const bool throws = co_await this_coro::throw_if_cancelled();
    co_await this_coro::throw_if_cancelled(false);
    while (!joined->children.empty()) {
      const auto caller = co_await this_coro::cancellation_state;
      if (pass_cancellation && caller.cancelled() != asio::cancellation_type::none && !joined->cancelled) {
        joined->cancel();
      }
      if (pass_cancellation && !joined->cancelled) {
        (void)co_await joined->ended.wait();
      } else {
        (void)co_await joined->ended.wait_uncancellable();
      }
    }
    co_await this_coro::throw_if_cancelled(throws);
    if (joined->failure) std::rethrow_exception(std::exchange(joined->failure, nullptr));
  }

  struct finished {
    std::shared_ptr<state> of;
    std::list<asio::cancellation_signal>::iterator child;

    finished(std::shared_ptr<state> group, std::list<asio::cancellation_signal>::iterator task) noexcept
        : of(std::move(group)), child(task) {}
    finished(finished&&) noexcept = default;
    finished& operator=(finished&&) = delete;
    // Dropped with its task, whose operations are gone: the signal still leads to them.
    ~finished() {
      if (of) of->children.erase(child);
    }

    void operator()(std::exception_ptr failure) {
      const std::shared_ptr<state> group = std::move(of);
      group->children.erase(child);
      finish(*group, failure);
    }

   private:
    static void finish(state& group, const std::exception_ptr& failure) {
      if (failure && !is_stop(group, failure) && !group.failure) {
        group.failure = failure;
        group.cancel();
      }
      if (group.children.empty()) group.ended.notify_all();
    }

    static bool is_stop(const state& group, const std::exception_ptr& failure) {
      if (!group.cancelled) return false;
      try {
        std::rethrow_exception(failure);
      } catch (const std::system_error& error) {
        return is_cancelled(error.code());
      } catch (...) {
        return false;
      }
    }
  };

  std::shared_ptr<state> state_;
};

}  // namespace lockstep
