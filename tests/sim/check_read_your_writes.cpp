#include "lockstep/sim/check/read_your_writes.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace lockstep::sim::check {
namespace {

using ::testing::HasSubstr;
using ::testing::Optional;

/// Key x has 1 from index 3 on, 2 from index 5 on, and nothing from index 8 on.
read_your_writes three_versions() {
  read_your_writes reads;
  EXPECT_EQ(reads.committed("x", 3, 1), std::nullopt);
  EXPECT_EQ(reads.committed("x", 5, 2), std::nullopt);
  EXPECT_EQ(reads.committed("x", 8, absent), std::nullopt);
  return reads;
}

TEST(check_read_your_writes, accepts_stale_reads_that_their_sessions_allow) {
  read_your_writes reads = three_versions();
  EXPECT_EQ(reads.read(1, "x", 0, 2, absent, 10), std::nullopt);
  EXPECT_EQ(reads.read(1, "x", 3, 4, 1, 20), std::nullopt);
  EXPECT_EQ(reads.read(2, "x", 0, 1, absent, 30), std::nullopt) << "another session may lag behind";
  EXPECT_EQ(reads.read(1, "x", 3, 7, 2, 40), std::nullopt);
  EXPECT_EQ(reads.read(1, "x", 8, 0, absent, 50), std::nullopt);
  EXPECT_EQ(reads.read(3, "y", 0, 9, absent, 60), std::nullopt);
  EXPECT_EQ(reads.finished(), std::nullopt);
}

TEST(check_read_your_writes, commits_may_be_told_after_the_reads) {
  read_your_writes reads;
  EXPECT_EQ(reads.read(1, "x", 3, 3, 1, 20), std::nullopt);
  EXPECT_EQ(reads.committed("x", 3, 1), std::nullopt);
  EXPECT_EQ(reads.finished(), std::nullopt);
}

TEST(check_read_your_writes, catches_a_state_below_the_minimum) {
  read_your_writes reads = three_versions();
  EXPECT_EQ(reads.read(1, "x", 5, 4, 1, 10),
            "session 1's read of key 'x' at time 10 returned 1 from index 4, but it asked for at least index 5");
}

TEST(check_read_your_writes, catches_a_session_that_does_not_ask_for_its_own_writes) {
  read_your_writes reads = three_versions();
  reads.wrote(1, 5);
  EXPECT_EQ(reads.read(2, "x", 3, 3, 1, 10), std::nullopt);
  EXPECT_THAT(reads.read(1, "x", 3, 5, 2, 20),
              Optional(HasSubstr("asked for index 3 or later, but its session wrote")));
}

TEST(check_read_your_writes, catches_a_session_that_goes_back_in_time) {
  read_your_writes reads = three_versions();
  EXPECT_EQ(reads.read(1, "x", 3, 6, 2, 10), std::nullopt);
  EXPECT_THAT(reads.read(1, "x", 3, 4, 1, 20), Optional(HasSubstr("but its session saw before index 6")));
}

TEST(check_read_your_writes, catches_a_value_that_is_not_that_of_its_state) {
  read_your_writes reads = three_versions();
  EXPECT_EQ(reads.read(1, "x", 3, 6, 1, 10), std::nullopt);
  EXPECT_EQ(reads.finished(),
            "session 1's read of key 'x' at time 10 returned 1 from index 6, but its value there is 2, written at "
            "index 5");
}

TEST(check_read_your_writes, catches_a_value_older_than_the_minimum_or_invented) {
  for (const value_id wrong : {1U, 9U}) {
    read_your_writes reads = three_versions();
    EXPECT_EQ(reads.read(1, "x", 5, 0, wrong, 10), std::nullopt);
    EXPECT_THAT(reads.finished(), Optional(HasSubstr("older than 2, written at index 5, or was never committed")));
  }
}

TEST(check_read_your_writes, catches_values_that_go_back_in_time) {
  read_your_writes reads = three_versions();
  EXPECT_EQ(reads.read(1, "x", 3, 0, 2, 10), std::nullopt);
  EXPECT_EQ(reads.read(1, "x", 3, 0, 1, 20), std::nullopt);
  EXPECT_THAT(reads.finished(), Optional(HasSubstr("at time 20 returned 1, which is older than 2")));
}

TEST(check_read_your_writes, wants_commits_in_order) {
  read_your_writes reads = three_versions();
  EXPECT_THAT(reads.committed("x", 8, 4), Optional(HasSubstr("at index 8 behind index 8")));
}

}  // namespace
}  // namespace lockstep::sim::check
