#include "lockstep/sim/check/convergence.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace lockstep::sim::check {
namespace {

using ::testing::HasSubstr;
using ::testing::Optional;

TEST(check_convergence, accepts_nodes_that_agree_at_different_times) {
  convergence replicas;
  EXPECT_EQ(replicas.holds(1, {1, 1, 11}, 10), std::nullopt);
  EXPECT_EQ(replicas.holds(1, {1, 2, 12}, 20), std::nullopt);
  EXPECT_EQ(replicas.holds(2, {1, 1, 11}, 30, 5), std::nullopt);
  EXPECT_EQ(replicas.holds(3, {1, 1, 11}, 40, 5), std::nullopt);
  EXPECT_EQ(replicas.holds(3, {2, 2, 99}, 50), std::nullopt) << "another epoch may have written another record";
}

TEST(check_convergence, catches_two_chains_in_one_place) {
  convergence replicas;
  EXPECT_EQ(replicas.holds(1, {1, 2, 12}, 20), std::nullopt);
  EXPECT_EQ(replicas.holds(2, {1, 2, 13}, 30),
            "node 2 holds record 2 (epoch 1, chain 000000000000000d) at time 30, but node 1 held chain "
            "000000000000000c there at time 20");
}

TEST(check_convergence, catches_two_states_after_one_history) {
  convergence replicas;
  EXPECT_EQ(replicas.holds(1, {1, 2, 12}, 20), std::nullopt);
  EXPECT_EQ(replicas.holds(2, {1, 2, 12}, 30, 5), std::nullopt);
  EXPECT_THAT(replicas.holds(3, {1, 2, 12}, 40, 6), Optional(HasSubstr("node 2 had state 0000000000000005 there at")));
}

TEST(check_convergence, accepts_that_all_end_with_the_leader) {
  convergence replicas;
  replicas.ends(1, {2, 9, 7}, 5);
  replicas.ends(2, {1, 3, 7}, 5);
  replicas.ends(2, {2, 9, 7}, 5);
  replicas.ends(3, {2, 9, 7});
  EXPECT_EQ(replicas.converged(1), std::nullopt);
}

TEST(check_convergence, catches_a_node_that_ends_elsewhere) {
  for (const position elsewhere : {position{1, 9, 7}, position{2, 8, 7}, position{2, 9, 6}}) {
    convergence replicas;
    replicas.ends(1, {2, 9, 7});
    replicas.ends(2, elsewhere);
    EXPECT_THAT(replicas.converged(1), Optional(HasSubstr("node 2 ends at record")));
  }
}

TEST(check_convergence, catches_a_node_that_ends_in_another_state) {
  convergence replicas;
  replicas.ends(1, {2, 9, 7}, 5);
  replicas.ends(2, {2, 9, 7}, 6);
  EXPECT_THAT(replicas.converged(1), Optional(HasSubstr("with state 0000000000000006, but the leader, node 1")));
}

TEST(check_convergence, wants_to_know_where_the_leader_ends) {
  EXPECT_THAT(convergence().converged(4), Optional(HasSubstr("node 4, did not tell where it ends")));
}

}  // namespace
}  // namespace lockstep::sim::check
