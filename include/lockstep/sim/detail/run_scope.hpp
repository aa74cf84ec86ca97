// run_scope: marks a thread as being inside a simulated run. See sim/guard.hpp.
#pragma once

namespace lockstep::sim {

class world;

namespace detail {

/// The world that runs on this thread now; null outside of a simulated run.
inline constinit thread_local const world* running_world = nullptr;

class run_scope {
 public:
  explicit run_scope(const world& entered) noexcept : before_(running_world) { running_world = &entered; }
  run_scope(const run_scope&) = delete;
  run_scope& operator=(const run_scope&) = delete;
  ~run_scope() { running_world = before_; }

 private:
  const world* const before_;
};

}  // namespace detail
}  // namespace lockstep::sim
