#include "lockstep/catchup/source.hpp"

#include "lockstep/catchup/follower.hpp"
#include "world.hpp"

#include <gtest/gtest.h>

namespace lockstep::test {
namespace {

using namespace std::chrono_literals;

// One source and one follower.
class catchup_push : public testing::Test {
 protected:
  world in;
  faulty_disk source_disk;
  faulty_disk follower_disk;
  notes told;
};

TEST_F(catchup_push, an_empty_follower_gets_everything_and_is_told_when_it_has_caught_up) {
  node leader(in, source_disk);
  node replica(in, follower_disk);
  leader.append(100);
  test_source source(leader.env, *leader.log);
  test_follower follower(replica.env, *replica.log, told);
  connection link(in, source, leader.env, follower, replica.env);
  ASSERT_TRUE(in.run_until([&] { return follower.state().caught_up; }));
  expect_equal(leader, replica);
  ASSERT_EQ(told.subscriptions.size(), 1u);
  EXPECT_EQ(told.subscriptions[0].first, position{});
  EXPECT_EQ(told.subscriptions[0].second, 100u);
  EXPECT_EQ(told.records, 100u);
  link.end();
  leader.close();
  replica.close();
}

}  // namespace
}  // namespace lockstep::test
