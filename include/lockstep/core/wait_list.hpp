// wait_list: suspended coroutines in FIFO order, the primitive under every queue and condition of the library.
//
// Why not asio::experimental::channel: a cancelled receive leaves it deaf, and close() loses what it holds. Why not a
// timer that never expires: one allocation and a reactor operation a wait. A wait here lives in the waiting
// coroutine's own frame and allocates nothing in steady state.
#pragma once

#include "lockstep/core/asio_compat.hpp"
#include "lockstep/core/detail/held_handler.hpp"
#include "lockstep/core/detail/wait_registry.hpp"

#include <cstdint>
#include <exception>
#include <optional>
#include <system_error>
#include <type_traits>
#include <utility>

namespace lockstep {

/// Coroutines waiting to be told. Like a condition variable: re-check the condition after each wait.
///
/// Notified coroutines resume from one posted batch on the list's executor, in the order in which they began to wait,
/// never inside the call that notifies. Destroying the list, or the execution context, destroys the coroutines that
/// still wait; the list may outlive the context, and must not be notified then.
/// Thread safety: none; use it on its executor only, and wait only from coroutines that run there.
class wait_list : detail::wait_registry::member {
 public:
  /// A waiting coroutine's place in the list. Lies in that coroutine's frame.
  class place : detail::held_handler {
   public:
    place() = default;
    /// After the wait: what wait() returns.
    [[nodiscard]] const std::error_code& result() const noexcept { return result_; }

   private:
    friend class wait_list;
    wait_list* list_ = nullptr;  // null once notified or cancelled
    place* previous_ = nullptr;
    place* next_ = nullptr;
    std::uint64_t number_ = 0;
    std::error_code result_{};
    asio::cancellation_slot slot_{};
  };

  explicit wait_list(asio::any_io_executor executor)
      : member(executor, [](member* self) { static_cast<wait_list*>(self)->destroy_waiting(); }),
        executor_(std::move(executor)) {}
  wait_list(const wait_list&) = delete;
  wait_list& operator=(const wait_list&) = delete;
  ~wait_list() { destroy_waiting(); }

  [[nodiscard]] bool empty() const noexcept { return waiting_.head == nullptr; }
  [[nodiscard]] const asio::any_io_executor& get_executor() const noexcept { return executor_; }

  /// Suspends until notified.
  /// @return the code given to notify; operation_aborted when cancelled, and then the wait has left the list.
  awaitable<std::error_code> wait() {
    place self;
    co_await wait_at(self);
    co_return self.result();
  }

  /// wait() for hot paths, with one coroutine frame less. `at` stays until the wait has ended.
  awaitable<void> wait_at(place& at) {
    return asio::async_initiate<const asio::use_awaitable_t<>, void()>(start_waiting{this, &at, true}, use_awaitable);
  }

  /// Like wait(), but deaf to cancellation: for joins.
  awaitable<std::error_code> wait_uncancellable() {
    place self;
    co_await asio::async_initiate<const asio::use_awaitable_t<>, void()>(start_waiting{this, &self, false},
                                                                         use_awaitable);
    co_return self.result();
  }

  /// The cheapest wait: `how` and the place lie in the only coroutine frame that it takes.
  /// @param how  moved into the frame, and has
  ///   - `std::uint64_t number`, what notify_up_to() compares;
  ///   - `std::optional<std::error_code> begin()`, called when the wait begins: what it ends with at once, if it does;
  ///   - `std::exception_ptr end(std::error_code)`, called when the coroutine resumes: what wait_as() throws, or null.
  ///     The code is the one given to notify, or operation_aborted.
  template <class How>
  awaitable<void> wait_as(How how) {
    return asio::async_initiate<const asio::use_awaitable_t<>, void(std::exception_ptr)>(
        start_as<How>(*this, std::move(how)), use_awaitable);
  }

  /// Resumes the longest waiting coroutine, if any. @return whether there was one.
  bool notify_one(std::error_code result = {}) {
    if (empty()) return false;
    resume_alone(waiting_.head, result);
    return true;
  }

  /// Resumes every coroutine that waits now.
  void notify_all(std::error_code result = {}) {
    if (!empty()) resume(std::move(waiting_), result);
  }

  /// Resumes the coroutines in wait_as() whose number is at most `limit`. Another wait has the number 0.
  void notify_up_to(std::uint64_t limit) {
    list woken;
    for (place* each = waiting_.head; each;) {
      place* const next = each->next_;
      if (each->number_ <= limit) {
        waiting_.unlink(each);
        woken.push_back(each);
      }
      each = next;
    }
    if (woken.head) resume(std::move(woken), {});
  }

 private:
  struct list {
    place* head = nullptr;
    place* tail = nullptr;
    list() = default;
    list(list&& other) noexcept : head(std::exchange(other.head, nullptr)), tail(std::exchange(other.tail, nullptr)) {}
    list& operator=(list&&) = delete;
    void push_back(place* added) noexcept {
      added->previous_ = tail;
      added->next_ = nullptr;
      (tail ? tail->next_ : head) = added;
      tail = added;
    }
    void unlink(place* gone) noexcept {
      (gone->previous_ ? gone->previous_->next_ : head) = gone->next_;
      (gone->next_ ? gone->next_->previous_ : tail) = gone->previous_;
    }
  };

  // Owns notified waits until they have run; a batch that is dropped unrun destroys its coroutines.
  struct batch {
    list nodes;
    explicit batch(list&& from) : nodes(std::move(from)) {}
    batch(batch&&) noexcept = default;
    batch& operator=(batch&&) = delete;
    ~batch() { finish_all(false); }
    void operator()() { finish_all(true); }

   private:
    void finish_all(bool run) {
      while (place* const first = nodes.head) {
        nodes.unlink(first);
        // Only now, so that the memory of the slot's handler goes straight to the coroutine's next wait.
        first->slot_.clear();
        first->finish(run);
      }
    }
  };

  struct start_waiting {
    wait_list* self;
    place* added;
    bool cancellable;
    template <class Handler>
    void operator()(Handler&& handler) const {
      const asio::cancellation_slot slot =
          cancellable ? asio::get_associated_cancellation_slot(handler) : asio::cancellation_slot{};
      self->begin(*added, slot, std::forward<Handler>(handler));
    }
  };

  // Asio keeps it in the frame of the wait until that ends.
  template <class How>
  struct start_as {
    wait_list* self;
    How how;
    place at{};

    start_as(wait_list& of, How&& with) : self(&of), how(std::move(with)) {}
    start_as(start_as&& other) noexcept : self(other.self), how(std::move(other.how)) {}

    template <class Handler>
    void operator()(Handler&& handler) {
      at.number_ = how.number;
      const asio::cancellation_slot slot = asio::get_associated_cancellation_slot(handler);
      self->begin(at, slot, resumption<How, std::decay_t<Handler>>{this, std::forward<Handler>(handler)});
      if (const std::optional<std::error_code> ended = how.begin()) self->resume_alone(&at, *ended);
    }
  };

  template <class How, class Handler>
  struct resumption {
    start_as<How>* wait;
    Handler handler;
    void operator()() {
      std::exception_ptr thrown = wait->how.end(wait->at.result_);
      std::move(handler)(std::move(thrown));  // the end of the wait
    }
  };

  template <class Handler>
  void begin(place& added, const asio::cancellation_slot& slot, Handler&& handler) {
    added.list_ = this;
    added.slot_ = slot;
    added.hold(std::forward<Handler>(handler));
    waiting_.push_back(&added);
    if (slot.is_connected()) added.slot_.assign(on_cancel{&added});
  }

  // Stays in its slot until the coroutine's next operation, also after it acted: it must act only once.
  struct on_cancel {
    place* waiter;
    void operator()(asio::cancellation_type type) {
      if (type == asio::cancellation_type::none || !waiter || !waiter->list_) return;
      place* const cancelled = std::exchange(waiter, nullptr);
      cancelled->slot_ = {};  // the batch must not clear the slot that this runs in
      cancelled->list_->resume_alone(cancelled, asio::error::operation_aborted);
    }
  };

  // May end this list, when it lies in a waiting coroutine's frame.
  void destroy_waiting() {
    const batch dying(std::move(waiting_));
    for (place* each = dying.nodes.head; each; each = each->next_) each->list_ = nullptr;
  }

  void resume_alone(place* woken, std::error_code result) {
    waiting_.unlink(woken);
    list one;
    one.push_back(woken);
    resume(std::move(one), result);
  }

  void resume(list&& woken, std::error_code result) {
    for (place* each = woken.head; each; each = each->next_) {
      each->list_ = nullptr;
      each->result_ = result;
    }
    asio::post(executor_, batch(std::move(woken)));
  }

  asio::any_io_executor executor_;
  list waiting_;
};

}  // namespace lockstep
