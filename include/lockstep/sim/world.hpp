// world: one queue of everything that will happen, its virtual time, and the trace of what happened.
//
//   sim::world world(seed);
//   sim::node& a = world.add_node("a");             // node.hpp
//   a.start([](sim::env& env) { return program(env); });
//   world.run_until([&] { return done; }, std::chrono::seconds(60));
//
// Nothing in it depends on the machine: the same seed is the same run, with every compiler, and trace_hash() says so.
// When nothing is left to do at an instant, time jumps to the next event. One world runs on one thread; any number of
// worlds run side by side on threads of their own.
#pragma once

#include "lockstep/env/env.hpp"
#include "lockstep/sim/detail/event.hpp"
#include "lockstep/sim/detail/run_scope.hpp"
#include "lockstep/sim/random.hpp"

#include <algorithm>
#include <cassert>
#include <chrono>
#include <functional>
#include <limits>
#include <memory>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace lockstep::sim {

class node;
class network;

/// What a scenario found wrong, in words. Thrown by simulation::require() and by the world itself.
class requirement_failed : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// What makes the scheduler's chances.
struct schedule_options {
  schedule_options() {}

  bool random_ties = true;       ///< events of one instant happen in any order; else in the order they were asked for
  double inline_dispatch = 0.5;  ///< how often dispatch() runs its function at once
  std::uint64_t most_events_at_once = 1'000'000;  ///< at one instant: more is taken for a loop that never waits
};

/// An entry of the timeline that a person reads.
struct timeline_entry {
  duration at{0};    ///< since the world's begin
  std::string node;  ///< empty: the world
  std::string kind;  ///< "fault", "message", "node", "note"
  std::string text;
  std::string to;     ///< of a message: who gets it
  duration until{0};  ///< of a message: when
};

/// See the top of this file.
class world {
 public:
  explicit world(std::uint64_t seed, schedule_options schedule = {});
  world(const world&) = delete;
  world& operator=(const world&) = delete;
  ~world();

  [[nodiscard]] std::uint64_t seed() const noexcept { return seed_; }
  /// The randomness of one domain of this seed, from its beginning.
  [[nodiscard]] random_stream random(std::string_view domain) const noexcept {
    return random_stream::of(seed_, domain);
  }

  /// A machine with a disk and an address. Lives as long as the world.
  node& add_node(std::string name);
  [[nodiscard]] const std::vector<std::unique_ptr<node>>& nodes() const noexcept { return nodes_; }
  [[nodiscard]] network& net() noexcept;

  // --- time
  // -----------------------------------------------------------------------------------------------------------

  /// Virtual time since the world's begin.
  [[nodiscard]] duration elapsed() const noexcept { return duration(now_); }
  [[nodiscard]] std::uint64_t events() const noexcept { return events_; }

  /// Lets the next event happen. @return false when there is none.
  bool step() {
    const detail::run_scope inside(*this);
    return happen_next();
  }

  /// Runs until nothing happens any more before `elapsed()` is `by` later, and is at that time then.
  void run_for(duration by);

  /// Runs until `condition()`, asked after each event. @return false when it does not hold within `limit`.
  template <class Condition>
  bool run_until(Condition condition, duration limit) {
    const detail::run_scope inside(*this);
    const std::int64_t end = now_ + limit.count();
    while (!condition()) {
      if (!happens_by(end)) {
        advance(end);
        return condition();
      }
      happen_next();
    }
    return true;
  }

  // --- what happens
  // ---------------------------------------------------------------------------------------------------

  /// `what` happens to the world itself at `at` (or now, when that has passed).
  template <class Function>
  void at(duration when, Function what) {
    schedule(when.count(), nullptr, detail::event_kind::world, std::move(what));
  }

  /// A rolling hash over every event and what traced() was given.
  [[nodiscard]] std::uint64_t trace_hash() const noexcept { return hash_; }
  void traced(std::uint64_t value) noexcept {
    hash_ = (hash_ ^ value) * 0x9e3779b97f4a7c15u;
    hash_ ^= hash_ >> 29;
  }

  /// Whether a timeline is kept; off by default, since its texts cost time.
  bool keep_timeline = false;
  void note(timeline_entry entry) {
    if (!keep_timeline) return;
    if (entry.at == duration(0)) entry.at = elapsed();
    timeline_.push_back(std::move(entry));
  }
  [[nodiscard]] const std::vector<timeline_entry>& timeline() const noexcept { return timeline_; }

  // --- for the simulated environment
  // ----------------------------------------------------------------------------------

  /// @return the event, which the caller may cancel() until it has happened.
  template <class Function>
  detail::event* schedule(std::int64_t when, detail::event_owner* owner, detail::event_kind kind, Function&& what) {
    using kept = detail::event_of<std::decay_t<Function>>;
    detail::event* const made = kept::make(pool_, std::forward<Function>(what));
    made->owner = owner;
    made->kind = kind;
    queue_.push({{when < now_ ? now_ : when, tie(), ++sequence_}, made});
    return made;
  }
  /// It will not happen; what it holds is destroyed when its time has come.
  static void cancel(detail::event*& scheduled) noexcept {
    if (detail::event* const gone = std::exchange(scheduled, nullptr)) gone->kind = detail::event_kind::cancelled;
  }
  [[nodiscard]] bool dispatch_inline() noexcept { return coins_.chance(schedule_.inline_dispatch); }
  /// In whose event the world is now; null outside of events.
  [[nodiscard]] detail::event_owner* current() const noexcept { return current_; }
  /// The node whose program runs now; null outside of its events.
  [[nodiscard]] const node* current_node() const noexcept;
  /// Destroys all that was to happen to `owner`, and what that brings about, until nothing is left.
  void drop_events_of(detail::event_owner& owner);
  /// Lets the events that were held meanwhile happen now, one after another.
  void release_held(detail::event_owner& owner);
  [[nodiscard]] std::uint32_t next_owner_id() noexcept { return ++owner_ids_; }

 private:
  struct in_event {
    world& of;
    in_event(world& entered, detail::event_owner* owner) : of(entered) { of.current_ = owner; }
    in_event(const in_event&) = delete;
    ~in_event() { of.current_ = nullptr; }
  };

  std::uint32_t tie() noexcept { return schedule_.random_ties ? static_cast<std::uint32_t>(ties_() >> 32) : 0; }

  bool happen_next();

  // Which of `owner`'s events happens now that `what` has come, which may be held instead; null: none.
  detail::event* turn_of(detail::event_owner& owner, detail::event* what);

  // Whether something happens not later than `end`.
  bool happens_by(std::int64_t end) {
    while (!queue_.empty() && queue_.top().what->kind == detail::event_kind::cancelled)
      queue_.pop().what->finish(false);
    return !queue_.empty() && queue_.top().when.at <= end;
  }

  void advance(std::int64_t to) noexcept {
    if (to > now_) {
      now_ = to;
      at_once_ = 0;
    }
  }

  const std::uint64_t seed_;
  const schedule_options schedule_;
  random_stream ties_;
  random_stream coins_;
  detail::block_pool pool_;  // outlives all events
  detail::event_queue queue_;
  std::int64_t now_ = 0;
  std::uint32_t sequence_ = 0;
  std::uint32_t owner_ids_ = 0;
  std::uint64_t events_ = 0;
  std::uint64_t at_once_ = 0;
  std::uint64_t hash_ = 0x6c6f636b73746570;  // "lockstep"
  detail::event_owner* current_ = nullptr;
  std::vector<timeline_entry> timeline_;
  std::unique_ptr<network> network_;
  std::vector<std::unique_ptr<node>> nodes_;
};

inline bool world::happen_next() {
  if (!happens_by(std::numeric_limits<std::int64_t>::max())) return false;
  const detail::event_queue::entry next = queue_.pop();
  detail::event* what = next.what;
  advance(next.when.at);
  detail::event_owner* const owner = what->owner;
  if (owner) what = turn_of(*owner, what);
  if (!what) return true;
  ++events_;
  if (++at_once_ > schedule_.most_events_at_once) {
    what->finish(false);
    throw requirement_failed("more than " + std::to_string(schedule_.most_events_at_once) +
                             " events at one instant: something loops without waiting");
  }
  traced(static_cast<std::uint64_t>(now_) ^ (static_cast<std::uint64_t>(owner ? owner->number : 0) << 48) ^
         (static_cast<std::uint64_t>(what->kind) << 40));
  const in_event mark(*this, owner);
  what->finish(true);
  return true;
}

inline void world::run_for(duration by) {
  const detail::run_scope inside(*this);
  const std::int64_t end = now_ + by.count();
  while (happens_by(end)) happen_next();
  advance(end);
}

inline void world::drop_events_of(detail::event_owner& owner) {
  for (;;) {
    std::vector<detail::event*> doomed = queue_.take_all_of(&owner);
    doomed.insert(doomed.end(), owner.held.begin(), owner.held.end());
    owner.held.clear();
    owner.releasing = nullptr;
    if (doomed.empty()) return;
    for (detail::event* const each : doomed) each->finish(false);
  }
}

inline void world::release_held(detail::event_owner& owner) {
  if (owner.releasing || owner.held.empty()) return;
  owner.releasing = schedule(now_, &owner, detail::event_kind::handler, [] {});
}

inline detail::event* world::turn_of(detail::event_owner& owner, detail::event* what) {
  if (what != owner.releasing) {
    const bool waits_for_none = owner.held.empty() && !owner.blocked_until;
    if (!owner.paused && (waits_for_none || what == owner.blocked_until)) return what;
    owner.held.push_back(what);
    return nullptr;
  }
  owner.releasing = nullptr;
  what->finish(false);
  if (owner.paused) return nullptr;
  while (!owner.held.empty() && owner.held.front()->kind == detail::event_kind::cancelled) {
    owner.held.front()->finish(false);
    owner.held.pop_front();
  }
  const auto next =
      owner.blocked_until ? std::find(owner.held.begin(), owner.held.end(), owner.blocked_until) : owner.held.begin();
  if (next == owner.held.end()) return nullptr;
  what = *next;
  owner.held.erase(next);
  release_held(owner);
  return what;
}

}  // namespace lockstep::sim
