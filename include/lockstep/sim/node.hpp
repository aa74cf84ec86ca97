// node: a machine of the simulated world and the program that it runs, one life after another.
#pragma once

#include "lockstep/sim/disk.hpp"
#include "lockstep/sim/network.hpp"

#include <functional>
#include <memory>
#include <optional>
#include <string>

namespace lockstep::sim {

class env;

/// How long a node's disk takes for a sync. One sync at a time; reads and writes reach the page cache and take no time.
struct disk_timing {
  duration least = std::chrono::microseconds(100);
  duration jitter = std::chrono::microseconds(400);
  duration extra{0};          ///< of a slow disk
  duration stalled_until{0};  ///< world time before which no sync begins
};

/// A machine's clocks, as far as they are wrong.
struct clock_fault {
  duration wall_offset{0};     ///< of the calendar
  std::int64_t drift_ppm = 0;  ///< how much faster the monotonic clock runs; set it while the node is down
};

/// A machine with one disk, one address and one program at a time. Made by world::add_node().
/// Nothing here may be called from within the node's own program: it would end the coroutine that calls.
class node : public machine {
 public:
  /// What it runs. Copied for each life; what it captures outlives the lives (the scenario's, not the machine's).
  using program = std::function<awaitable<void>(env&)>;

  node(world& in, std::string its_name);
  node(const node&) = delete;
  ~node();

  /// Begins a life. Without an argument: the same program as before. The machine is switched on when it is off.
  void start(program runs);
  void start();

  /// The process dies: nothing of it happens any more, its connections close, the page cache survives.
  void crash();
  /// The machine dies: its connections fall silent, and its disk keeps what a power loss leaves by `cut`.
  void lose_power(const power_cut& cut);
  /// As a stopped virtual machine: its time goes on, and nothing happens to it until resume().
  void pause();
  void resume();

  [[nodiscard]] bool running() const noexcept { return life_ && !ended_; }
  [[nodiscard]] bool paused() const noexcept { return stopped; }
  /// How often it was started.
  [[nodiscard]] std::uint64_t lives() const noexcept { return lives_; }
  /// Why the program ended by itself the last time; null when it returned, or did not end.
  [[nodiscard]] const std::exception_ptr& failure() const noexcept { return failure_; }
  [[nodiscard]] std::string failure_text() const;
  /// Told when the program ends by itself.
  std::function<void(node&)> on_end;

  disk storage;
  disk_timing disk_time;
  clock_fault clock;

  [[nodiscard]] world& in() const noexcept { return in_; }

  // --- for the simulated environment ---
  /// When a sync that is asked for now begins and ends, in world time.
  struct sync_times {
    duration begin;
    duration end;
  };
  sync_times next_sync();
  long next_pid() noexcept { return ++last_pid_; }

 private:
  friend class world;
  void end_life();
  void tell(std::string what);

  world& in_;
  program program_;
  std::unique_ptr<process> life_;
  std::unique_ptr<env> env_;  // dies before the process
  std::uint64_t lives_ = 0;
  bool ended_ = false;
  std::exception_ptr failure_;
  duration disk_free_{0};
  std::optional<random_stream> disk_random_;
  long last_pid_ = 1000;
};

}  // namespace lockstep::sim

#include "lockstep/sim/env.hpp"
