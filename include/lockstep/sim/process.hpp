// process: one life of a node's program, from its start to its end or death: an asio::execution_context whose executor
// puts work into the world's queue.
#pragma once

#include "lockstep/sim/world.hpp"

#include <asio/execution.hpp>
#include <asio/execution_context.hpp>

#include <type_traits>
#include <utility>

namespace lockstep::sim {

/// See the top of this file. Asio's own timers, sockets and resolvers must not be used on it: they would start threads.
class process : public asio::execution_context, public detail::event_owner {
 public:
  /// Any Asio executor; `post` happens at the same virtual time, `dispatch` at once or as a post, by chance.
  class executor_type {
   public:
    executor_type(process& of, bool may_run_now) noexcept : of_(&of), may_run_now_(may_run_now) {}

    [[nodiscard]] process& query(asio::execution::context_t) const noexcept { return *of_; }
    [[nodiscard]] asio::execution::blocking_t query(asio::execution::blocking_t) const noexcept {
      if (may_run_now_) return asio::execution::blocking.possibly;
      return asio::execution::blocking.never;
    }
    [[nodiscard]] executor_type require(asio::execution::blocking_t::never_t) const noexcept { return {*of_, false}; }
    [[nodiscard]] executor_type require(asio::execution::blocking_t::possibly_t) const noexcept { return {*of_, true}; }
    // Whether work is outstanding decides nothing here: a world ends when its scenario does.
    [[nodiscard]] executor_type require(asio::execution::outstanding_work_t::tracked_t) const noexcept { return *this; }
    [[nodiscard]] executor_type require(asio::execution::outstanding_work_t::untracked_t) const noexcept {
      return *this;
    }
    [[nodiscard]] executor_type require(asio::execution::relationship_t::fork_t) const noexcept { return *this; }
    [[nodiscard]] executor_type require(asio::execution::relationship_t::continuation_t) const noexcept {
      return *this;
    }

    template <class Function>
    void execute(Function&& function) const {
      world& in = of_->in_;
      if (may_run_now_ && in.current() == of_ && !of_->dead_ && in.dispatch_inline()) {
        std::decay_t<Function> now(std::forward<Function>(function));
        std::move(now)();
      } else {
        in.schedule(in.elapsed().count(), of_, detail::event_kind::handler, std::forward<Function>(function));
      }
    }

    friend bool operator==(const executor_type& a, const executor_type& b) noexcept {
      return a.of_ == b.of_ && a.may_run_now_ == b.may_run_now_;
    }
    friend bool operator!=(const executor_type& a, const executor_type& b) noexcept { return !(a == b); }

   private:
    process* of_;
    bool may_run_now_;
  };

  explicit process(world& in) : in_(in) { number = in.next_owner_id(); }
  process(const process&) = delete;
  process& operator=(const process&) = delete;
  ~process() { die(); }

  [[nodiscard]] world& in() const noexcept { return in_; }
  [[nodiscard]] executor_type get_executor() noexcept { return {*this, true}; }

  /// From now on nothing of it happens, and its disk and network take nothing from it.
  void mark_dead() noexcept { dead_ = true; }
  [[nodiscard]] bool dead() const noexcept { return dead_; }

  /// Destroys everything that it holds: what is queued, what waits, and the frames of its coroutines, which post their
  /// own ends. Not from within one of its events.
  void die() {
    mark_dead();
    assert(in_.current() != this);
    in_.drop_events_of(*this);
    shutdown();
    in_.drop_events_of(*this);
    destroy();
    in_.drop_events_of(*this);
  }

 private:
  world& in_;
  bool dead_ = false;
};

}  // namespace lockstep::sim
