// wait_registry: ends every wait of an execution context when the context ends.
//
// A wait lives in the waiting coroutine's frame, and so may the list on which it waits. Such a frame owns itself:
// without the context's help nobody would destroy it, nor release the files, sockets and locks in it.
#pragma once

#include "lockstep/core/asio_compat.hpp"

#include <asio/execution/context.hpp>
#include <asio/query.hpp>

#include <mutex>
#include <utility>

namespace lockstep::detail {

/// The lists of one execution context. Thread safety: its members may be made and destroyed on any thread.
class wait_registry final : public asio::execution_context::service {
 public:
  using key_type = wait_registry;
  inline static asio::execution_context::id id;

  /// Belongs to the registry of its executor's context from its construction to the end of either.
  class member {
   protected:
    using end_call = void (*)(member*);

    /// @param end  Called once when the context shuts down; may destroy the member.
    member(const asio::any_io_executor& executor, end_call end)
        : end_(end), registry_(&asio::use_service<wait_registry>(asio::query(executor, asio::execution::context))) {
      registry_->add(this);
    }
    member(const member&) = delete;
    member& operator=(const member&) = delete;
    ~member() {
      if (registry_) registry_->remove(this);
    }

   private:
    friend class wait_registry;
    end_call end_;
    wait_registry* registry_;  // null from the context's shutdown on
    member* previous_ = nullptr;
    member* next_ = nullptr;
  };

  explicit wait_registry(asio::execution_context& context) : service(context) {}

 private:
  void shutdown() override {
    while (member* const ending = take_first()) ending->end_(ending);
  }

  void add(member* added) {
    const std::lock_guard lock(mutex_);
    added->next_ = first_;
    if (first_) first_->previous_ = added;
    first_ = added;
  }

  void remove(member* gone) {
    const std::lock_guard lock(mutex_);
    unlink(gone);
  }

  member* take_first() {
    const std::lock_guard lock(mutex_);
    member* const taken = first_;
    if (taken) {
      unlink(taken);
      taken->registry_ = nullptr;
    }
    return taken;
  }

  void unlink(member* gone) noexcept {
    (gone->previous_ ? gone->previous_->next_ : first_) = gone->next_;
    if (gone->next_) gone->next_->previous_ = gone->previous_;
  }

  std::mutex mutex_;
  member* first_ = nullptr;
};

}  // namespace lockstep::detail
