#include "cityhall/history.hpp"

#include <gtest/gtest.h>

namespace lockstep::cityhall {
namespace {

constexpr position base{2, 10, 0xb};
constexpr position last{4, 20, 0xe};

TEST(cityhall_history, holds_what_its_own_record_equals) {
  EXPECT_EQ(holds({3, 15, 1}, base, last, position{3, 15, 1}), held::yes);
  EXPECT_EQ(holds(base, base, last, base), held::yes);
  EXPECT_EQ(holds(last, base, last, last), held::yes);
}

TEST(cityhall_history, holds_nothing_always) {
  EXPECT_EQ(holds({}, base, last, std::nullopt), held::yes);
  EXPECT_EQ(holds({}, {}, {}, position{}), held::yes);
}

TEST(cityhall_history, may_still_get_what_lies_behind_its_end) {
  EXPECT_EQ(holds({4, 21, 1}, base, last, std::nullopt), held::not_yet);
  EXPECT_EQ(holds({5, 21, 1}, base, last, std::nullopt), held::not_yet);
  EXPECT_EQ(holds({1, 1, 1}, {}, {}, std::nullopt), held::not_yet);
}

TEST(cityhall_history, may_still_get_a_record_of_its_last_leader_or_a_later_one_in_place_of_its_own) {
  EXPECT_EQ(holds({4, 15, 1}, base, last, position{3, 15, 2}), held::not_yet);
  EXPECT_EQ(holds({4, 20, 1}, base, last, last), held::not_yet);
  EXPECT_EQ(holds({5, 15, 1}, base, last, position{3, 15, 2}), held::not_yet);
}

TEST(cityhall_history, never_gets_what_a_later_leader_has_replaced) {
  EXPECT_EQ(holds({3, 15, 1}, base, last, position{3, 15, 2}), held::never);
  EXPECT_EQ(holds({3, 18, 1}, base, last, position{4, 18, 2}), held::never);
  EXPECT_EQ(holds({3, 21, 1}, base, last, std::nullopt), held::never);
}

TEST(cityhall_history, counts_what_lies_before_its_base_as_held_unless_that_is_of_an_earlier_leader) {
  EXPECT_EQ(holds({1, 5, 1}, base, last, std::nullopt), held::yes);
  EXPECT_EQ(holds({2, 5, 1}, base, last, std::nullopt), held::yes);
  EXPECT_EQ(holds({3, 5, 1}, base, last, std::nullopt), held::never);
  EXPECT_EQ(holds({4, 5, 1}, base, last, std::nullopt), held::not_yet);
  EXPECT_EQ(holds({2, 10, 1}, base, last, base), held::never);
}

}  // namespace
}  // namespace lockstep::cityhall
