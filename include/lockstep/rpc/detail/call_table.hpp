// call_table: the calls that one side of a connection has under way, found by the ids in their answers.
#pragma once

#include "lockstep/core/mutant.hpp"
#include "lockstep/rpc/format.hpp"

#include <cassert>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace lockstep::detail {

/// Ids are made of a slot and a generation, so that an answer to an earlier call of the same slot finds nothing.
/// The lowest free slot is taken. Allocates only while the number of calls under way reaches a new height.
template <class Call>
class call_table {
 public:
  [[nodiscard]] std::size_t size() const noexcept { return used_; }

  /// @pre size() < rpc_slots. @return the call's id, never 0.
  std::uint64_t insert(Call& added) {
    std::size_t slot = free_;
    if (slot == none) {
      slot = slots_.size();
      slots_.emplace_back();
    } else {
      free_ = slots_[slot].next_free;
    }
    assert(slot < rpc_slots);
    slots_[slot].call = &added;
    ++slots_[slot].generation;
    ++used_;
    return slots_[slot].generation * rpc_slots + slot;
  }

  void erase(std::uint64_t id) noexcept {
    entry& gone = slots_[id % rpc_slots];
    assert(gone.call && gone.generation == id / rpc_slots);
    gone.call = nullptr;
    gone.next_free = free_;
    free_ = static_cast<std::size_t>(id % rpc_slots);
    --used_;
  }

  /// @return null when no call of this id is under way.
  [[nodiscard]] Call* find(std::uint64_t id) const noexcept {
    const std::size_t slot = id % rpc_slots;
    if (slot >= slots_.size()) return nullptr;
    const bool earlier = slots_[slot].generation != id / rpc_slots;
    if (earlier && !mutated(mutant::ignore_call_generation)) return nullptr;
    return slots_[slot].call;
  }

  /// @return whether a call of this id was ever begun: an answer to another one is nonsense.
  [[nodiscard]] bool knows(std::uint64_t id) const noexcept {
    const std::size_t slot = id % rpc_slots;
    return slot < slots_.size() && id / rpc_slots != 0 && id / rpc_slots <= slots_[slot].generation;
  }

  template <class Use>
  void for_each(Use use) const {
    for (const entry& each : slots_) {
      if (each.call) use(*each.call);
    }
  }

 private:
  static constexpr std::size_t none = ~std::size_t{0};

  struct entry {
    Call* call = nullptr;
    std::uint64_t generation = 0;
    std::size_t next_free = none;
  };

  std::vector<entry> slots_;
  std::size_t free_ = none;
  std::size_t used_ = 0;
};

/// The other side's calls that are served here, found by their ids: at most one a slot.
template <class Served>
class served_table {
 public:
  enum class place { vacant, taken_by_earlier, taken };

  /// A later call of a slot means that its caller has given the earlier one up.
  [[nodiscard]] place look(std::uint64_t id) const noexcept {
    const std::size_t slot = id % rpc_slots;
    if (slot >= slots_.size() || !slots_[slot].served) return place::vacant;
    return slots_[slot].id < id ? place::taken_by_earlier : place::taken;
  }

  /// @pre look(id) is vacant.
  void insert(std::uint64_t id, Served& added) {
    const std::size_t slot = id % rpc_slots;
    if (slot >= slots_.size()) slots_.resize(slot + 1);
    slots_[slot] = {id, &added};
  }

  void erase(std::uint64_t id) noexcept {
    if (find(id)) slots_[id % rpc_slots].served = nullptr;
  }

  /// @return null when this call is not served (any more).
  [[nodiscard]] Served* find(std::uint64_t id) const noexcept {
    const std::size_t slot = id % rpc_slots;
    return slot < slots_.size() && slots_[slot].id == id ? slots_[slot].served : nullptr;
  }

  /// The call that holds the slot of `id`, if any.
  [[nodiscard]] Served* holder(std::uint64_t id) const noexcept {
    const std::size_t slot = id % rpc_slots;
    return slot < slots_.size() ? slots_[slot].served : nullptr;
  }

 private:
  struct entry {
    std::uint64_t id = 0;
    Served* served = nullptr;
  };

  std::vector<entry> slots_;
};

}  // namespace lockstep::detail
