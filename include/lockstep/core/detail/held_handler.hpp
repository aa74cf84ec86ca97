// held_handler: one completion handler, type-erased in place, so that an operation that lives in the waiting
// coroutine's frame allocates nothing.
#pragma once

#include <cstddef>
#include <memory>
#include <new>
#include <type_traits>
#include <utility>

namespace lockstep::detail {

/// Holds a handler of signature void() until finish(). It lies in the frame that the handler owns, and running or
/// destroying the handler may destroy that frame: finish() moves the handler out first and touches nothing after.
class held_handler {
 public:
  held_handler() = default;
  held_handler(const held_handler&) = delete;
  held_handler& operator=(const held_handler&) = delete;

  template <class Handler>
  void hold(Handler&& handler) {
    using held = std::decay_t<Handler>;
    if constexpr (sizeof(held) <= inline_size && alignof(held) <= alignof(std::max_align_t)) {
      ::new (static_cast<void*>(storage_)) held(std::forward<Handler>(handler));
      finish_ = [](held_handler* self, bool run) {
        held* const stored = std::launder(reinterpret_cast<held*>(self->storage_));
        held taken(std::move(*stored));
        stored->~held();
        if (run) std::move(taken)();
      };
    } else {
      ::new (static_cast<void*>(storage_)) held*(new held(std::forward<Handler>(handler)));
      finish_ = [](held_handler* self, bool run) {
        const std::unique_ptr<held> taken(*std::launder(reinterpret_cast<held**>(self->storage_)));
        if (run) std::move (*taken)();
      };
    }
  }

  /// Runs the handler, or destroys it unrun. Call once.
  void finish(bool run) { finish_(this, run); }

 private:
  static constexpr std::size_t inline_size = 64;
  void (*finish_)(held_handler*, bool) = nullptr;
  alignas(std::max_align_t) std::byte storage_[inline_size];
};

}  // namespace lockstep::detail
