#include "lockstep/rpc/detail/call_table.hpp"

#include <gtest/gtest.h>

#include <set>
#include <vector>

namespace lockstep::detail {
namespace {

TEST(rpc_call_table, finds_calls_by_their_ids_until_they_end) {
  call_table<int> table;
  int first = 1;
  int second = 2;
  const std::uint64_t one = table.insert(first);
  const std::uint64_t two = table.insert(second);
  EXPECT_EQ(table.find(one), &first);
  EXPECT_EQ(table.find(two), &second);
  EXPECT_EQ(table.size(), 2u);
  table.erase(one);
  EXPECT_EQ(table.find(one), nullptr);
  EXPECT_EQ(table.find(two), &second);
}

TEST(rpc_call_table, never_gives_an_id_twice_though_it_reuses_slots) {
  call_table<int> table;
  int call = 0;
  std::set<std::uint64_t> ids;
  std::set<std::uint64_t> slots;
  for (int i = 0; i < 1000; ++i) {
    const std::uint64_t id = table.insert(call);
    EXPECT_NE(id, 0u);
    EXPECT_TRUE(ids.insert(id).second);
    slots.insert(id % rpc_slots);
    table.erase(id);
  }
  EXPECT_EQ(slots.size(), 1u);
}

TEST(rpc_call_table, tells_late_answers_from_nonsense) {
  call_table<int> table;
  int call = 0;
  const std::uint64_t id = table.insert(call);
  table.erase(id);
  EXPECT_TRUE(table.knows(id)) << "it was begun once";
  EXPECT_FALSE(table.knows(id + rpc_slots)) << "a later generation";
  EXPECT_FALSE(table.knows(id + 1)) << "a slot that was never used";
  EXPECT_FALSE(table.knows(id % rpc_slots)) << "no generation";
  EXPECT_EQ(table.find(id + 1), nullptr);
}

TEST(rpc_call_table, visits_what_is_under_way_also_while_it_ends) {
  call_table<std::uint64_t> table;
  std::vector<std::uint64_t> calls(10);
  for (auto& each : calls) each = table.insert(each);
  std::size_t visited = 0;
  table.for_each([&](std::uint64_t& each) {
    ++visited;
    table.erase(each);
  });
  EXPECT_EQ(visited, 10u);
  EXPECT_EQ(table.size(), 0u);
}

TEST(rpc_call_table, what_is_served_holds_its_slot_until_a_later_call_takes_it) {
  using place = served_table<int>::place;
  served_table<int> table;
  int served = 0;
  const std::uint64_t id = 5 * rpc_slots + 3;
  EXPECT_EQ(table.look(id), place::vacant);
  table.insert(id, served);
  EXPECT_EQ(table.find(id), &served);
  EXPECT_EQ(table.look(id), place::taken);
  EXPECT_EQ(table.look(id - rpc_slots), place::taken);
  EXPECT_EQ(table.look(id + rpc_slots), place::taken_by_earlier);
  EXPECT_EQ(table.holder(id + rpc_slots), &served);
  table.erase(id + rpc_slots);
  EXPECT_EQ(table.find(id), &served) << "only its own id takes it out";
  table.erase(id);
  EXPECT_EQ(table.find(id), nullptr);
  EXPECT_EQ(table.look(id), place::vacant);
}

}  // namespace
}  // namespace lockstep::detail
