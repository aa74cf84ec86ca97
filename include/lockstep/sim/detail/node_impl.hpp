// The bodies of sim::node and of what the world does with nodes. See sim/node.hpp.
#pragma once

#include "lockstep/sim/env.hpp"

namespace lockstep::sim {

inline node::node(world& in, std::string its_name) : in_(in) { name = std::move(its_name); }
inline node::~node() { end_life(); }

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

inline void node::tell(std::string what) {
  if (!in_.keep_timeline) return;
  timeline_entry entry;
  entry.node = name;
  entry.kind = "node";
  entry.text = std::move(what);
  in_.note(std::move(entry));
}

inline void node::start(program runs) {
  program_ = std::move(runs);
  start();
}

inline void node::start() {
  const detail::run_scope inside(in_);
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
    tell(failure_ ? "its program ends: " + failure_text() : "its program ends");
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
  in_.net().lose_power(*this);
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
  const detail::run_scope inside(in_);
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

inline world::world(std::uint64_t seed, schedule_options schedule)
    : seed_(seed),
      schedule_(schedule),
      ties_(random_stream::of(seed, "ties")),
      coins_(random_stream::of(seed, "coins")) {}

inline node& world::add_node(std::string name) {
  nodes_.push_back(std::make_unique<node>(*this, std::move(name)));
  net().add(*nodes_.back());
  return *nodes_.back();
}

inline const node* world::current_node() const noexcept {
  for (const auto& each : nodes_) {
    if (current_ && each->life_.get() == current_) return each.get();
  }
  return nullptr;
}

inline network& world::net() noexcept {
  if (!network_) network_ = std::make_unique<network>(*this);
  return *network_;
}

inline world::~world() {
  for (const auto& each : nodes_) each->end_life();  // connections know the machines of both their ends
  while (!queue_.empty()) queue_.pop().what->finish(false);
  nodes_.clear();
}

}  // namespace lockstep::sim
