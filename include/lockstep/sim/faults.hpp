// faults: what can go wrong in a simulated world, by family, and a seed's plan of it.
//
// A plan is drawn before the run, each family from a stream of its own: switching a family off, or leaving single
// events out, does not move the others. So a failing plan can be shrunk to the few events that matter.
#pragma once

#include "lockstep/sim/env.hpp"

#include <array>
#include <cmath>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace lockstep::sim {

enum class fault_family : std::uint8_t {
  crash,         ///< a process dies; its page cache survives
  power_loss,    ///< a machine dies; its disk keeps what was synced, and of the rest what chance leaves
  pause,         ///< a machine stands still, as a stopped virtual machine
  partition,     ///< some machines do not hear others: both ways, one way, or in groups
  reset,         ///< the connections between two machines are reset
  slow_network,  ///< a path takes longer, or carries less
  partial_io,    ///< reads and writes take parts
  clock,         ///< a calendar jumps; a monotonic clock drifts from the next start on
  sync_failure,  ///< a datasync fails once, and its pages count as clean
  disk_full,     ///< no space for a while
  slow_disk,     ///< syncs take long, or stand still for a while
  bit_rot,       ///< what lies on a disk goes bad: a bit flips, a file loses its end, a sector cannot be read once
  misdirected,   ///< a write lands elsewhere, or nowhere
  corruption,    ///< a path alters bytes, and TCP's checksum does not notice; only for scenarios that ask for it
};
inline constexpr std::size_t fault_families = 14;

inline constexpr std::array<std::string_view, fault_families> fault_family_names = {
    "crash", "power_loss",   "pause",     "partition", "reset",   "slow_network", "partial_io",
    "clock", "sync_failure", "disk_full", "slow_disk", "bit_rot", "misdirected",  "corruption"};

/// Whether the family destroys what a disk keeps. No promise of one copy covers that: see simulation::allow_damage().
constexpr bool damages(fault_family family) noexcept {
  return family == fault_family::bit_rot || family == fault_family::misdirected;
}

constexpr std::string_view to_string(fault_family family) {
  return fault_family_names[static_cast<std::size_t>(family)];
}

inline std::optional<fault_family> parse_fault_family(std::string_view name) {
  for (std::size_t i = 0; i < fault_families; ++i) {
    if (fault_family_names[i] == name) return static_cast<fault_family>(i);
  }
  return std::nullopt;
}

/// A set of families.
class fault_set {
 public:
  constexpr fault_set() = default;
  static constexpr fault_set all() noexcept { return fault_set((1u << fault_families) - 1); }
  [[nodiscard]] constexpr fault_set with(fault_family f) const noexcept { return fault_set(bits_ | bit(f)); }
  [[nodiscard]] constexpr fault_set without(fault_family f) const noexcept { return fault_set(bits_ & ~bit(f)); }
  [[nodiscard]] constexpr bool has(fault_family f) const noexcept { return (bits_ & bit(f)) != 0; }

 private:
  explicit constexpr fault_set(std::uint32_t bits) noexcept : bits_(bits) {}
  static constexpr std::uint32_t bit(fault_family f) noexcept { return 1u << static_cast<unsigned>(f); }
  std::uint32_t bits_ = 0;
};

/// One thing that goes wrong, and for how long.
struct fault_event {
  std::uint32_t number = 0;  ///< in the seed's plan, whatever is left out of it
  fault_family family{};
  duration at{0};            ///< since the world's begin
  duration lasts{0};         ///< until it is mended, or the node starts again
  std::uint32_t target = 0;  ///< the node's number
  std::uint64_t detail = 0;  ///< what else chance decided
};

struct fault_plan_options {
  fault_plan_options() {}

  duration begin{0};  ///< world time of the first that may come
  duration lasts = std::chrono::seconds(30);
  /// Those that the scenario's promise covers.
  fault_set families = fault_set::all().without(fault_family::corruption);
  fault_set without;                           ///< those switched off for this run
  double often = 1.0;                          ///< more is more
  duration longest = std::chrono::seconds(5);  ///< of one fault
  std::vector<std::uint32_t> damaged;          ///< the nodes whose disks families that damages() may hit
};

/// Draws a plan: which families are on, how often, when, on whom. In the order of time.
inline std::vector<fault_event> draw_fault_plan(const world& in, std::size_t nodes, const fault_plan_options& options) {
  std::vector<fault_event> plan;
  std::uint32_t number = 0;
  for (std::size_t i = 0; i < fault_families; ++i) {
    const auto family = static_cast<fault_family>(i);
    random_stream random = in.random("faults/" + std::string(to_string(family)));
    const bool on = random.chance(0.6);
    // Most seeds see a fault of a family a few times, some very often.
    const double a_minute = 2.0 * std::pow(2.0, static_cast<double>(random.below(6))) * options.often;
    const double count = a_minute * std::chrono::duration<double>(options.lasts).count() / 60.0;
    const bool lasting = family == fault_family::partial_io;
    const std::size_t events = lasting ? 1 : static_cast<std::size_t>(count + random.unit());
    for (std::size_t each = 0; each < events; ++each) {
      fault_event event;
      event.number = number++;
      event.family = family;
      event.at = options.begin + (lasting ? duration(0)
                                          : duration(static_cast<std::int64_t>(
                                                random.below(static_cast<std::uint64_t>(options.lasts.count())))));
      // Short ones are as likely as long ones, on a scale of powers.
      const auto most = static_cast<std::uint64_t>(options.longest.count());
      event.lasts = duration(static_cast<std::int64_t>(random.below(most >> random.below(8)) + 1));
      event.target = static_cast<std::uint32_t>(random.below(nodes));
      event.detail = random();
      if (damages(family)) {
        if (options.damaged.empty()) continue;
        event.target = options.damaged[event.target % options.damaged.size()];
      }
      if (on && options.families.has(family) && !options.without.has(family)) plan.push_back(event);
    }
  }
  std::stable_sort(plan.begin(), plan.end(), [](const fault_event& a, const fault_event& b) { return a.at < b.at; });
  return plan;
}

}  // namespace lockstep::sim
