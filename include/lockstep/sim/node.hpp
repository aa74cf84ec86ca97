// node: a machine of the simulated world and the program that it runs, one life after another.
#pragma once

#include "lockstep/sim/env.hpp"

#include <functional>
#include <memory>
#include <optional>
#include <string>

namespace lockstep::sim {

/// A machine with one disk, one address and one program at a time. Made by world::add_node().
/// Nothing here may be called from within the node's own program: it would end the coroutine that calls.
class node : public machine {
 public:
  /// What it runs. Copied for each life; what it captures outlives the lives (the scenario's, not the machine's).
  using program = std::function<awaitable<void>(env&)>;

  node(world& in, std::string its_name) : in_(in) { name = std::move(its_name); }
  node(const node&) = delete;
  ~node() { end_life(); }

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
  /// The present life's environment; null when there is none.
  [[nodiscard]] env* environment() noexcept { return env_.get(); }

  // --- for the simulated environment ---
  /// When a sync that is asked for now begins and ends, in world time.
  struct sync_times {
    duration begin;
    duration end;
  };
  sync_times next_sync();
  long next_pid() noexcept { return ++last_pid_; }

 private:
  void end_life();
  void tell(const char* what);

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

inline node::sync_times node::next_sync() {
  if (!disk_random_) disk_random_ = in_.random("disk/" + name);
  sync_times times{};
  times.begin = std::max({in_.elapsed(), disk_free_, disk_time.stalled_until});
  const auto jitter = static_cast<std::uint64_t>(disk_time.jitter.count());
  times.end = times.begin + disk_time.least + disk_time.extra +
              duration(static_cast<std::int64_t>(disk_random_->below(jitter + 1)));
  disk_free_ = times.end;
  return times;
}

inline void node::tell(const char* what) {
  if (!in_.keep_timeline) return;
  timeline_entry entry;
  entry.node = name;
  entry.kind = "node";
  entry.text = what;
  in_.note(std::move(entry));
}

inline void node::start(program runs) {
  program_ = std::move(runs);
  start();
}

inline void node::start() {
  end_life();
  powered = true;
  ended_ = false;
  failure_ = nullptr;
  disk_free_ = in_.elapsed();
  life_ = std::make_unique<process>(in_);
  life_->paused = stopped;
  ++lives_;
  env_ = std::make_unique<env>(*life_, *this, in_.random("node/" + name + "/" + std::to_string(lives_)));
  tell(lives_ == 1 ? "starts" : "starts again");
  asio::co_spawn(life_->get_executor(), program_(*env_), [this](const std::exception_ptr& failure) {
    ended_ = true;
    failure_ = failure;
    tell("its program ends");
    // Not from within its own event.
    in_.schedule(in_.elapsed().count(), nullptr, detail::event_kind::world, [this, life = lives_] {
      if (life != lives_ || !life_) return;
      end_life();
      if (on_end) on_end(*this);
    });
  });
}

inline void node::crash() {
  if (!life_) return;
  tell("crashes");
  end_life();
}

inline void node::lose_power(const power_cut& cut) {
  tell("loses power");
  powered = false;
  end_life();
  storage.lose_power(cut);
  if (stopped) resume();
}

inline void node::pause() {
  if (stopped) return;
  tell("is paused");
  stopped = true;
  if (life_) life_->paused = true;
}

inline void node::resume() {
  if (!stopped) return;
  tell("goes on");
  stopped = false;
  if (!life_) return;
  life_->paused = false;
  in_.release_held(*life_);
}

inline void node::end_life() {
  if (!life_) return;
  life_->mark_dead();
  in_.net().abandon(*life_);
  life_->die();
  env_ = nullptr;
  life_ = nullptr;
}

inline std::string node::failure_text() const {
  if (!failure_) return {};
  try {
    std::rethrow_exception(failure_);
  } catch (const std::exception& error) {
    return error.what();
  } catch (...) {
    return "an exception that is no std::exception";
  }
}

inline node& world::add_node(std::string name) {
  if (!network_) network_ = std::make_unique<network>(*this);
  nodes_.push_back(std::make_unique<node>(*this, std::move(name)));
  network_->add(*nodes_.back());
  return *nodes_.back();
}

inline network& world::net() noexcept {
  if (!network_) network_ = std::make_unique<network>(*this);
  return *network_;
}

inline world::~world() {
  nodes_.clear();
  while (!queue_.empty()) queue_.pop().what->finish(false);
}

}  // namespace lockstep::sim
