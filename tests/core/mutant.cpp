#include "lockstep/core/mutant.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <set>
#include <string>
#include <string_view>
#include <utility>

namespace lockstep {
namespace {

static_assert(mutants.size() >= 45);

TEST(mutant, the_table_holds_every_id_in_order) {
  for (std::size_t i = 0; i < mutants.size(); ++i) {
    EXPECT_EQ(static_cast<std::size_t>(mutants[i].id), i + 1) << mutants[i].name;
  }
}

TEST(mutant, no_two_have_the_same_name_or_the_same_bug) {
  std::set<std::string_view> names;
  std::set<std::string_view> bugs;
  for (const mutant_info& each : mutants) {
    EXPECT_TRUE(names.insert(each.name).second) << each.name;
    EXPECT_TRUE(bugs.insert(each.bug).second) << each.name;
  }
}

TEST(mutant, a_name_begins_with_its_block_and_can_be_typed) {
  for (const mutant_info& each : mutants) {
    EXPECT_FALSE(each.block.empty()) << each.name;
    EXPECT_TRUE(each.name.starts_with(std::string(each.block) + "-")) << each.name;
    EXPECT_TRUE(std::all_of(each.name.begin(), each.name.end(), [](char c) {
      return c == '-' || (c >= 'a' && c <= 'z');
    })) << each.name;
    EXPECT_TRUE(each.bug.ends_with('.')) << each.name;
  }
}

TEST(mutant, is_found_by_its_name) {
  for (const mutant_info& each : mutants) EXPECT_EQ(find_mutant(each.name), &each);
  static_assert(find_mutant("log-ack-before-sync")->id == mutant::ack_before_sync);
}

TEST(mutant, is_not_found_by_another_name) {
  for (const std::string_view name : {"", "none", "log", "log-ack-before-syn", "log-ack-before-sync-"}) {
    EXPECT_EQ(find_mutant(name), nullptr) << name;
  }
}

#ifdef LOCKSTEP_MUTANTS

TEST(mutant, only_the_active_one_mutates_and_is_counted) {
  EXPECT_EQ(active_mutant(), mutant::none);
  activate_mutant(mutant::ack_before_sync);
  for (const mutant_info& each : mutants) EXPECT_EQ(mutated(each.id), each.id == mutant::ack_before_sync) << each.name;
  EXPECT_EQ(times_mutated(), 1u);
  activate_mutant(mutant::none);
  for (const mutant_info& each : mutants) EXPECT_FALSE(mutated(each.id)) << each.name;
  EXPECT_EQ(times_mutated(), 0u);
}

#else

template <std::size_t... I>
constexpr bool none_mutates(std::index_sequence<I...>) {
  return (!mutated(mutants[I].id) && ...);
}
static_assert(none_mutates(std::make_index_sequence<mutants.size()>()), "production code has no bugs on purpose");

#endif

}  // namespace
}  // namespace lockstep
