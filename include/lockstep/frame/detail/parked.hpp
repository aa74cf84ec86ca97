// parked: one suspended coroutine, which its resumer may run on the spot.
//
// A wait_list resumes by a posted handler. Where the resumer itself runs in a completion handler with nothing else to
// do (a read that brought frames), that post costs a turn of the loop, and the turn a poll of the reactor.
#pragma once

#include "lockstep/core/asio_compat.hpp"
#include "lockstep/core/detail/held_handler.hpp"

#include <system_error>
#include <utility>

namespace lockstep::detail {

/// Lies in the waiting coroutine's frame and names itself in its resumer's pointer while it waits.
/// Thread safety: none; wait and resume on one executor.
class parked : held_handler {
 public:
  parked() = default;

  /// Suspends until resumed. `named_by` points here meanwhile and is null again before the coroutine continues.
  /// Whoever destroys what `named_by` lies in resumes first.
  /// Cancellation: result() is operation_aborted.
  awaitable<void> wait(const asio::any_io_executor& executor, parked*& named_by) {
    return asio::async_initiate<const asio::use_awaitable_t<>, void()>(start{this, &executor, &named_by},
                                                                       use_awaitable);
  }

  /// Like wait(), but deaf to cancellation: for joins.
  awaitable<void> wait_uncancellable(parked*& named_by) {
    return asio::async_initiate<const asio::use_awaitable_t<>, void()>(start{this, nullptr, &named_by}, use_awaitable);
  }

  [[nodiscard]] const std::error_code& result() const noexcept { return result_; }

  /// Runs the coroutine inside this call, until it suspends or ends.
  void resume_now(std::error_code result) {
    leave(result);
    finish_left(true);
  }

  /// Runs the coroutine from a handler posted to `executor`.
  void resume_later(const asio::any_io_executor& executor, std::error_code result) {
    leave(result);
    asio::post(executor, batch(this));
  }

  /// Coroutines that have left their places and are resumed by one posted handler, in order.
  class batch {
   public:
    batch() = default;
    explicit batch(parked* only) noexcept : first_(only), last_(only) {}
    batch(batch&& other) noexcept
        : first_(std::exchange(other.first_, nullptr)), last_(std::exchange(other.last_, nullptr)) {}
    batch& operator=(batch&&) = delete;
    ~batch() { finish_all(false); }

    void operator()() { finish_all(true); }

    [[nodiscard]] bool empty() const noexcept { return first_ == nullptr; }

    void add(parked* woken, std::error_code result) noexcept {
      woken->leave(result);
      (last_ ? last_->next_ : first_) = woken;
      last_ = woken;
    }

   private:
    void finish_all(bool run) {
      while (parked* const each = first_) {
        first_ = each->next_;
        each->finish_left(run);
      }
    }

    parked* first_ = nullptr;
    parked* last_ = nullptr;
  };

 private:
  struct start {
    parked* self;
    const asio::any_io_executor* executor;
    parked** named_by;

    template <class Handler>
    void operator()(Handler&& handler) const {
      if (executor) self->slot_ = asio::get_associated_cancellation_slot(handler);
      self->hold(std::forward<Handler>(handler));
      self->named_by_ = named_by;
      *named_by = self;
      if (self->slot_.is_connected()) self->slot_.assign(on_cancel{self, executor});
    }
  };

  // Stays in its slot until the coroutine continues, also after it acted or the coroutine left: it must act only once.
  struct on_cancel {
    parked* waiter;
    const asio::any_io_executor* executor;

    void operator()(asio::cancellation_type type) {
      if (type == asio::cancellation_type::none || !waiter || !waiter->named_by_) return;
      parked* const cancelled = std::exchange(waiter, nullptr);
      cancelled->slot_ = {};  // the slot must not be cleared while this runs in it
      cancelled->resume_later(*executor, asio::error::operation_aborted);
    }
  };

  void leave(std::error_code result) noexcept {
    result_ = result;
    *std::exchange(named_by_, nullptr) = nullptr;
  }

  void finish_left(bool run) {
    slot_.clear();  // only now: its memory goes straight to the coroutine's next wait
    finish(run);
  }

  parked** named_by_ = nullptr;
  parked* next_ = nullptr;
  std::error_code result_{};
  asio::cancellation_slot slot_{};
};

}  // namespace lockstep::detail
