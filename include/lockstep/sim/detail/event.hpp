// event: something that will happen in a simulated world, and the memory in which it waits.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <new>
#include <type_traits>
#include <utility>
#include <vector>

namespace lockstep::sim {

namespace detail {

/// Blocks in a few sizes, each used again: in steady state no event costs an allocation.
class block_pool {
 public:
  block_pool() = default;
  block_pool(const block_pool&) = delete;
  block_pool& operator=(const block_pool&) = delete;
  ~block_pool() {
    for (free_block* first : free_) {
      while (first) ::operator delete(std::exchange(first, first->next));
    }
  }

  void* take(std::size_t bytes) {
    const std::size_t size_class = class_of(bytes);
    if (size_class == classes) return ::operator new(bytes);
    if (free_block* const found = free_[size_class]) {
      free_[size_class] = found->next;
      return found;
    }
    return ::operator new((size_class + 1) * granule);
  }
  void give_back(void* block, std::size_t bytes) noexcept {
    const std::size_t size_class = class_of(bytes);
    if (size_class == classes) return ::operator delete(block);
    free_[size_class] = ::new (block) free_block{free_[size_class]};
  }

 private:
  struct free_block {
    free_block* next;
  };
  static constexpr std::size_t granule = 64;
  static constexpr std::size_t classes = 8;
  static constexpr std::size_t class_of(std::size_t bytes) noexcept {
    const std::size_t size_class = (bytes - 1) / granule;
    return size_class < classes ? size_class : classes;
  }
  std::array<free_block*, classes> free_{};
};

class event;

/// In whose life events happen: a process. While it stands still they are held, and happen then in their order, before
/// what comes later.
struct event_owner {
  std::uint32_t number = 0;
  bool paused = false;
  const event* blocked_until = nullptr;  ///< the one event that may happen: its thread is in a call until then
  std::deque<event*> held;
  const event* releasing = nullptr;  ///< lets the first of those held happen
};

/// What an event is about: enters the trace hash.
enum class event_kind : std::uint8_t { cancelled, handler, timer, delivery, disk, world };

class event {
 public:
  event(const event&) = delete;
  event& operator=(const event&) = delete;

  /// Runs it, or destroys it unrun; either frees it first.
  void finish(bool run) { finish_(this, run); }

  event_owner* owner = nullptr;  ///< null: it happens to the world itself
  event_kind kind = event_kind::handler;

 protected:
  explicit event(void (*how)(event*, bool)) noexcept : finish_(how) {}
  ~event() = default;

 private:
  void (*finish_)(event*, bool);
};

template <class Function>
class event_of final : public event {
 public:
  template <class From>
  static event* make(block_pool& pool, From&& from) {
    static_assert(alignof(event_of) <= alignof(std::max_align_t));
    return ::new (pool.take(sizeof(event_of))) event_of(pool, std::forward<From>(from));
  }

 private:
  template <class From>
  event_of(block_pool& pool, From&& from) : event(&event_of::end), pool_(pool), function_(std::forward<From>(from)) {}

  static void end(event* of, bool run) {
    auto* const self = static_cast<event_of*>(of);
    block_pool& pool = self->pool_;
    Function function(std::move(self->function_));
    self->~event_of();
    pool.give_back(self, sizeof(event_of));
    if (run) std::move(function)();
  }

  block_pool& pool_;
  Function function_;
};

/// When an event happens. Equal times are settled by chance, and then by the order in which they were asked for.
struct event_time {
  std::int64_t at = 0;  ///< virtual nanoseconds
  std::uint32_t tie = 0;
  std::uint32_t sequence = 0;
  friend bool operator<(const event_time& a, const event_time& b) noexcept {
    if (a.at != b.at) return a.at < b.at;
    if (a.tie != b.tie) return a.tie < b.tie;
    return a.sequence < b.sequence;
  }
};

/// A heap with four children a node.
class event_queue {
 public:
  struct entry {
    event_time when;
    event* what = nullptr;
  };

  [[nodiscard]] bool empty() const noexcept { return heap_.empty(); }
  [[nodiscard]] std::size_t size() const noexcept { return heap_.size(); }
  [[nodiscard]] const entry& top() const noexcept { return heap_.front(); }

  void push(const entry& added) {
    std::size_t at = heap_.size();
    heap_.push_back(added);
    while (at != 0) {
      const std::size_t above = (at - 1) / 4;
      if (!(added.when < heap_[above].when)) break;
      heap_[at] = heap_[above];
      at = above;
    }
    heap_[at] = added;
  }

  entry pop() {
    const entry first = heap_.front();
    const entry last = heap_.back();
    heap_.pop_back();
    if (!heap_.empty()) sink(0, last);
    return first;
  }

  /// Takes out every event of `owner`, in the order of their times.
  std::vector<event*> take_all_of(const event_owner* owner);

 private:
  void sink(std::size_t at, const entry& moved) {
    const std::size_t count = heap_.size();
    for (;;) {
      const std::size_t first = at * 4 + 1;
      if (first >= count) break;
      std::size_t least = first;
      for (std::size_t i = first + 1; i < first + 4 && i < count; ++i) {
        if (heap_[i].when < heap_[least].when) least = i;
      }
      if (!(heap_[least].when < moved.when)) break;
      heap_[at] = heap_[least];
      at = least;
    }
    heap_[at] = moved;
  }

  std::vector<entry> heap_;
};

inline std::vector<event*> event_queue::take_all_of(const event_owner* owner) {
  std::vector<entry> taken, left;
  for (const entry& each : heap_) (each.what->owner == owner ? taken : left).push_back(each);
  if (taken.empty()) return {};
  heap_.clear();
  for (const entry& each : left) push(each);
  std::vector<event*> events;
  event_queue sorted;
  for (const entry& each : taken) sorted.push(each);
  while (!sorted.empty()) events.push_back(sorted.pop().what);
  return events;
}

}  // namespace detail
}  // namespace lockstep::sim
