#include "lockstep/sim/faults.hpp"

#include "lockstep/sim/explore.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>

namespace lockstep::sim {
namespace {

using namespace std::chrono_literals;
using ::testing::ElementsAre;
using ::testing::ElementsAreArray;
using ::testing::IsEmpty;
using ::testing::SizeIs;

constexpr std::size_t pages = 8;

std::vector<std::byte> page(std::size_t number) {
  return std::vector<std::byte>(page_size, static_cast<std::byte>(number + 1));
}

// Writes the first pages again and again, of a file that is whole from the beginning. The others stay as they are.
awaitable<void> writes(env& on) {
  std::error_code ec;
  env::file file = on.open("/file", open_mode::read_write, ec);
  env::timer timer(on);
  for (std::size_t i = 0;; ++i) {
    const std::vector<std::byte> bytes = page(i % 4);
    const bytes_view view(bytes);
    file.pwrite(i % 4 * page_size, {&view, 1}, ec);
    timer.expires_after(100ms);
    (void)co_await timer.wait();
  }
}

bool is_whole(const node& of) {
  std::vector<std::byte> expected;
  for (std::size_t i = 0; i < pages; ++i) {
    const std::vector<std::byte> each = page(i);
    expected.insert(expected.end(), each.begin(), each.end());
  }
  return of.storage.bytes("/file") == expected;
}

struct damaged_run {
  std::set<std::string> told;     // of which nodes
  std::set<std::string> damaged;  // the nodes whose file is not what was written
  std::vector<fault_event> plan;
};

// Four nodes, of which the first three may be damaged, `most` of them.
damaged_run run_with_damage(std::uint64_t seed, fault_set families, std::size_t most) {
  run_options with;
  with.seed = seed;
  simulation run(with);
  std::vector<const node*> may_be_damaged;
  for (const char* const name : {"a", "b", "c", "d"}) {
    node& added = run.in().add_node(name);
    for (std::size_t i = 0; i < pages; ++i) {
      std::vector<std::byte> bytes = added.storage.bytes("/file").value_or(std::vector<std::byte>());
      const std::vector<std::byte> next = page(i);
      bytes.insert(bytes.end(), next.begin(), next.end());
      added.storage.replace("/file", bytes);
    }
    run.run(added, writes);
    if (added.name != "d") may_be_damaged.push_back(&added);
  }
  run.allow_damage(may_be_damaged, most);
  damaged_run seen;
  run.on_fault = [&seen](const fault_event& fault, node& target) {
    if (damages(fault.family)) seen.told.insert(target.name);
  };
  fault_plan_options faults;
  faults.lasts = 5s;
  faults.families = families;
  faults.often = 4;
  run.chaos(faults);
  seen.plan = run.plan();
  for (const auto& each : run.in().nodes()) {
    if (!is_whole(*each)) seen.damaged.insert(each->name);
  }
  return seen;
}

std::vector<std::uint32_t> numbers_without_damage(const std::vector<fault_event>& plan) {
  std::vector<std::uint32_t> numbers;
  for (const fault_event& each : plan) {
    if (!damages(each.family)) numbers.push_back(each.number);
  }
  return numbers;
}

TEST(sim_faults, EachFamilyHasAName) {
  for (std::size_t i = 0; i < fault_families; ++i) {
    const auto family = static_cast<fault_family>(i);
    EXPECT_FALSE(to_string(family).empty());
    EXPECT_EQ(parse_fault_family(to_string(family)), family);
  }
}

TEST(sim_faults, DamageStaysOnTheAllowedDisksAndBelowTheNumber) {
  for (const fault_family family : {fault_family::bit_rot, fault_family::misdirected}) {
    std::set<std::string> ever;
    std::size_t most_at_once = 0;
    for (std::uint64_t seed = 1; seed <= 60; ++seed) {
      const damaged_run seen = run_with_damage(seed, fault_set().with(family), 2);
      EXPECT_LE(seen.told.size(), 2u) << "seed " << seed;
      // Whoever was damaged was told of.
      for (const std::string& each : seen.damaged) EXPECT_TRUE(seen.told.contains(each)) << "seed " << seed;
      ever.insert(seen.damaged.begin(), seen.damaged.end());
      most_at_once = std::max(most_at_once, seen.damaged.size());
    }
    EXPECT_THAT(ever, ElementsAre("a", "b", "c")) << to_string(family);
    EXPECT_EQ(most_at_once, 2u) << to_string(family);
  }
}

TEST(sim_faults, NothingIsDamagedUnlessItIsAllowed) {
  const fault_set both = fault_set().with(fault_family::bit_rot).with(fault_family::misdirected);
  for (std::uint64_t seed = 1; seed <= 20; ++seed) {
    const damaged_run seen = run_with_damage(seed, both, 0);
    EXPECT_THAT(seen.plan, IsEmpty());
    EXPECT_THAT(seen.damaged, IsEmpty());
  }
}

TEST(sim_faults, AllowedDamageDoesNotMoveTheOtherFaults) {
  bool differed = false;
  for (std::uint64_t seed = 1; seed <= 10; ++seed) {
    const std::vector<fault_event> without = run_with_damage(seed, fault_set::all(), 0).plan;
    const std::vector<fault_event> with = run_with_damage(seed, fault_set::all(), 1).plan;
    EXPECT_THAT(numbers_without_damage(with), ElementsAreArray(numbers_without_damage(without)));
    EXPECT_THAT(without, SizeIs(numbers_without_damage(without).size()));
    differed = differed || with.size() > without.size();
  }
  EXPECT_TRUE(differed);
}

}  // namespace
}  // namespace lockstep::sim
