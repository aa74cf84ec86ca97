// wait_list: suspended coroutines in FIFO order, the primitive under every queue and condition of the library.
//
// Why not asio::experimental::channel: a cancelled receive leaves it deaf, and close() loses what it holds. Why not a
// timer that never expires: one allocation and a reactor operation a wait. A wait here lives in the waiting
// coroutine's own frame and allocates nothing in steady state.
#pragma once

#include "lockstep/core/asio_compat.hpp"
#include "lockstep/core/detail/held_handler.hpp"
#include "lockstep/core/detail/wait_registry.hpp"

#include <system_error>
#include <utility>

namespace lockstep {

/// Coroutines waiting to be told. Like a condition variable: re-check the condition after each wait.
///
/// Notified coroutines resume from one posted batch on the list's executor, in the order in which they began to wait,
/// never inside the call that notifies. Destroying the list, or the execution context, destroys the coroutines that
/// still wait; the list may outlive the context, and must not be notified then.
/// Thread safety: none; use it on its executor only, and wait only from coroutines that run there.
class wait_list : detail::wait_registry::member {
  struct node;

 public:
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
    node self;
    co_await asio::async_initiate<const asio::use_awaitable_t<>, void()>(start_waiting{this, &self, true},
                                                                         use_awaitable);
    co_return self.result;
  }

  /// Like wait(), but deaf to cancellation: for joins.
  awaitable<std::error_code> wait_uncancellable() {
    node self;
    co_await asio::async_initiate<const asio::use_awaitable_t<>, void()>(start_waiting{this, &self, false},
                                                                         use_awaitable);
    co_return self.result;
  }

  /// Resumes the longest waiting coroutine, if any. @return whether there was one.
  bool notify_one(std::error_code result = {}) {
    if (empty()) return false;
    node* const first = waiting_.head;
    waiting_.unlink(first);
    list one;
    one.push_back(first);
    resume(std::move(one), result);
    return true;
  }

  /// Resumes every coroutine that waits now.
  void notify_all(std::error_code result = {}) {
    if (!empty()) resume(std::move(waiting_), result);
  }

 private:
  // A list of nodes that lie in the frames of suspended coroutines.
  struct list {
    node* head = nullptr;
    node* tail = nullptr;
    list() = default;
    list(list&& other) noexcept : head(std::exchange(other.head, nullptr)), tail(std::exchange(other.tail, nullptr)) {}
    list& operator=(list&&) = delete;
    void push_back(node* added) noexcept {
      added->previous = tail;
      added->next = nullptr;
      (tail ? tail->next : head) = added;
      tail = added;
    }
    void unlink(node* gone) noexcept {
      (gone->previous ? gone->previous->next : head) = gone->next;
      (gone->next ? gone->next->previous : tail) = gone->previous;
    }
  };

  // Lies in the waiting coroutine's frame.
  struct node : detail::held_handler {
    node* previous = nullptr;
    node* next = nullptr;
    std::error_code result{};
    asio::cancellation_slot slot{};
  };

  // Owns notified waits until they have run; a batch that is dropped unrun destroys its coroutines.
  struct batch {
    list nodes;
    explicit batch(list&& from) : nodes(std::move(from)) {
      for (node* each = nodes.head; each; each = each->next) each->slot.clear();
    }
    batch(batch&&) noexcept = default;
    batch& operator=(batch&&) = delete;
    ~batch() { finish_all(false); }
    void operator()() { finish_all(true); }

   private:
    void finish_all(bool run) {
      while (node* const first = nodes.head) {
        nodes.unlink(first);
        first->finish(run);
      }
    }
  };

  struct start_waiting {
    wait_list* self;
    node* added;
    bool cancellable;
    template <class Handler>
    void operator()(Handler&& handler) const {
      added->slot = cancellable ? asio::get_associated_cancellation_slot(handler) : asio::cancellation_slot{};
      added->hold(std::forward<Handler>(handler));
      self->waiting_.push_back(added);
      if (added->slot.is_connected()) {
        added->slot.assign([list_of = self, waiter = added](asio::cancellation_type type) mutable {
          if (type == asio::cancellation_type::none || !waiter) return;
          // This handler stays in its slot until the coroutine's next operation: it must act only once, and must
          // not be cleared by the batch while it runs.
          node* const cancelled = std::exchange(waiter, nullptr);
          cancelled->slot = {};
          list_of->waiting_.unlink(cancelled);
          list one;
          one.push_back(cancelled);
          list_of->resume(std::move(one), asio::error::operation_aborted);
        });
      }
    }
  };

  // May end this list, when it lies in a waiting coroutine's frame.
  void destroy_waiting() { const batch dying(std::move(waiting_)); }

  void resume(list&& woken, std::error_code result) {
    for (node* each = woken.head; each; each = each->next) each->result = result;
    asio::post(executor_, batch(std::move(woken)));
  }

  asio::any_io_executor executor_;
  list waiting_;
};

}  // namespace lockstep
