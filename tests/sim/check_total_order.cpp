#include "lockstep/sim/check/total_order.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace lockstep::sim::check {
namespace {

using ::testing::HasSubstr;
using ::testing::Optional;
using ::testing::StartsWith;

/// Three nodes; senders 1 and 2 sent messages 1, 2, 3 each, with hash 10 * sender + number.
class check_total_order : public ::testing::Test {
 protected:
  check_total_order() {
    for (node_id node = 1; node <= 3; ++node) order.joined(node);
    for (node_id sender = 1; sender <= 2; ++sender) {
      for (std::uint64_t number = 1; number <= 3; ++number) {
        EXPECT_EQ(order.sent(sender, number, hash(sender, number), ++now), std::nullopt);
      }
    }
  }

  static std::uint64_t hash(node_id sender, std::uint64_t number) { return 10 * sender + number; }

  violation deliver(node_id node, std::uint64_t sequence, node_id sender, std::uint64_t number) {
    return order.delivered(node, sequence, sender, number, hash(sender, number), ++now);
  }
  /// All six in one order, from `from` on.
  void deliver_all(node_id node, std::uint64_t from = 1) {
    for (std::uint64_t sequence = from; sequence <= 6; ++sequence) {
      EXPECT_EQ(deliver(node, sequence, 2 - sequence % 2, (sequence + 1) / 2), std::nullopt);
    }
  }

  total_order order;
  moment now = 0;
};

TEST_F(check_total_order, accepts_one_order_at_all_nodes) {
  for (node_id node = 1; node <= 3; ++node) deliver_all(node);
  EXPECT_EQ(order.finished(), std::nullopt);
}

TEST_F(check_total_order, validity_wants_every_message_delivered) {
  for (node_id node = 1; node <= 3; ++node) deliver_all(node);
  EXPECT_EQ(order.sent(2, 9, 0, 77), std::nullopt);
  EXPECT_EQ(order.finished(), "validity: message 9 of sender 2, sent at time 77, was never delivered");
}

TEST_F(check_total_order, validity_forgives_what_a_crash_may_have_lost) {
  for (node_id node = 1; node <= 3; ++node) deliver_all(node);
  EXPECT_EQ(order.sent(2, 9, 0, 77), std::nullopt);
  order.crashed(2);
  EXPECT_EQ(order.restarted(2, 6), std::nullopt);
  EXPECT_EQ(order.finished(), std::nullopt);
  EXPECT_EQ(order.sent(2, 10, 0, 78), std::nullopt);
  EXPECT_THAT(order.finished(), Optional(HasSubstr("message 10 of sender 2")));
  order.given_up(2, 10);
  EXPECT_EQ(order.finished(), std::nullopt);
}

TEST_F(check_total_order, agreement_wants_every_node_to_deliver_what_one_did) {
  deliver_all(1);
  deliver_all(2);
  EXPECT_EQ(deliver(3, 1, 1, 1), std::nullopt);
  EXPECT_THAT(order.finished(), Optional(StartsWith("agreement: node 3 never delivered message 1 of sender 2 "
                                                    "(sequence 2), which node 1 delivered at time")));
}

TEST_F(check_total_order, agreement_forgives_who_is_down_at_the_end) {
  deliver_all(1);
  deliver_all(2);
  order.crashed(3);
  EXPECT_EQ(order.finished(), std::nullopt);
  EXPECT_EQ(order.restarted(3, 0), std::nullopt);
  EXPECT_THAT(order.finished(), Optional(StartsWith("agreement: node 3 ")));
}

TEST_F(check_total_order, integrity_refuses_what_was_never_sent_or_changed) {
  EXPECT_THAT(deliver(1, 1, 1, 8),
              Optional(HasSubstr("message 8 of sender 1 as sequence 1 at time 7, but it was never")));
  EXPECT_THAT(deliver(1, 1, 5, 1), Optional(StartsWith("integrity: ")));
  EXPECT_THAT(order.delivered(1, 1, 1, 1, 99, 9), Optional(HasSubstr("with hash 0000000000000063, but it was sent")));
}

TEST_F(check_total_order, integrity_refuses_a_message_twice) {
  EXPECT_EQ(deliver(1, 1, 1, 1), std::nullopt);
  EXPECT_THAT(deliver(1, 1, 1, 1), Optional(HasSubstr("which it had delivered already")));
  EXPECT_THAT(deliver(1, 2, 1, 1), Optional(HasSubstr("but it is sequence 1 already")));
}

TEST_F(check_total_order, integrity_refuses_deliveries_of_who_is_down) {
  order.crashed(1);
  EXPECT_THAT(deliver(1, 1, 1, 1), Optional(HasSubstr("while it was down")));
}

TEST_F(check_total_order, one_sequence_names_one_message) {
  EXPECT_EQ(deliver(1, 1, 1, 1), std::nullopt);
  EXPECT_THAT(deliver(2, 1, 2, 1),
              Optional(HasSubstr("total order: node 2 delivered message 1 of sender 2 as sequence 1 "
                                 "at time 8, but node 1 delivered message 1 of sender 1 as that")));
}

TEST_F(check_total_order, sequences_have_no_gaps) {
  EXPECT_EQ(deliver(1, 1, 1, 1), std::nullopt);
  EXPECT_THAT(deliver(1, 3, 1, 2), Optional(StartsWith("gap: node 1 delivered message 2 of sender 1 as sequence 3")));
}

TEST_F(check_total_order, messages_of_one_sender_stay_in_order) {
  EXPECT_THAT(deliver(1, 1, 1, 2), Optional(HasSubstr("before its earlier message 1")));
  order.given_up(1, 1);
  EXPECT_EQ(deliver(1, 1, 1, 2), std::nullopt);
  EXPECT_THAT(deliver(1, 2, 1, 1), Optional(StartsWith("FIFO: node 1 ")));
  EXPECT_THAT(deliver(1, 2, 1, 1), Optional(HasSubstr("after its later message 2")));
}

TEST_F(check_total_order, a_restarted_node_delivers_again_behind_its_durable_position) {
  deliver_all(1);
  order.crashed(1);
  EXPECT_EQ(order.restarted(1, 4), std::nullopt);
  EXPECT_THAT(deliver(1, 7, 1, 3), Optional(StartsWith("gap: ")));
  deliver_all(1, 5);
  deliver_all(2);
  deliver_all(3);
  EXPECT_EQ(order.finished(), std::nullopt);
}

TEST_F(check_total_order, a_restarted_node_delivers_the_same_again) {
  deliver_all(1);
  order.crashed(1);
  EXPECT_EQ(order.restarted(1, 4), std::nullopt);
  EXPECT_THAT(deliver(1, 5, 2, 3), Optional(StartsWith("total order: ")));
}

TEST_F(check_total_order, nobody_restarts_behind_what_it_never_delivered) {
  EXPECT_EQ(deliver(1, 1, 1, 1), std::nullopt);
  order.crashed(1);
  EXPECT_THAT(order.restarted(1, 2), Optional(HasSubstr("restarted behind sequence 2, but it had delivered only up")));
}

TEST_F(check_total_order, a_snapshot_replaces_deliveries) {
  deliver_all(1);
  deliver_all(2);
  EXPECT_EQ(order.installed(3, 4), std::nullopt);
  deliver_all(3, 5);
  EXPECT_EQ(order.finished(), std::nullopt);
  EXPECT_THAT(order.installed(3, 7), Optional(HasSubstr("but nobody delivered more than 6")));
}

TEST_F(check_total_order, numbers_of_a_sender_rise) {
  EXPECT_THAT(order.sent(1, 3, 0, 50), Optional(StartsWith("misuse: message 3 of sender 1")));
}

}  // namespace
}  // namespace lockstep::sim::check
