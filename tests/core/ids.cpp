#include "lockstep/core/ids.hpp"

#include <gtest/gtest.h>

namespace lockstep {
namespace {

TEST(ids, a_default_position_is_the_empty_history) { EXPECT_EQ(position(), (position{0, 0, 0})); }

TEST(ids, positions_differ_when_any_of_their_parts_differs) {
  const position one{1, 2, 3};
  EXPECT_EQ(one, (position{1, 2, 3}));
  EXPECT_NE(one, (position{9, 2, 3}));
  EXPECT_NE(one, (position{1, 9, 3}));
  EXPECT_NE(one, (position{1, 2, 9}));
}

static_assert(max_epoch >> 55 == 1 && max_epoch >> 56 == 0, "an epoch has 56 bits in the record format");

}  // namespace
}  // namespace lockstep
