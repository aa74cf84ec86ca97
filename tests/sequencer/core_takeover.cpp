// What becomes of the order when its leader does: fencing, takeover, and records of older epochs.
#include "cluster.hpp"

#include <gtest/gtest.h>

namespace lockstep::sequencer::test {
namespace {

using namespace std::chrono_literals;

core_options without_quorum() {
  core_options of;
  of.quorum_acks = false;
  return of;
}

void say(cluster& c, node_id at, sender_id sender, std::uint64_t from, std::uint64_t to) {
  for (std::uint64_t n = from; n <= to; ++n) {
    c.submit(at, sender, n, std::to_string(sender) + "/" + std::to_string(n));
    c.settle();
  }
}

// A node that is down has a log from elsewhere: messages of `sender`, one of each of these epochs, all durable.
void give(cluster& c, node_id id, sender_id sender, std::initializer_list<epoch_t> epochs, hard_state hard) {
  node& to = c.nodes.at(id);
  to.core.reset();
  std::uint64_t n = 0;
  for (const epoch_t epoch : epochs) {
    ++n;
    const auto [text, is_new] = c.said.try_emplace({sender, n}, std::to_string(sender) + "/" + std::to_string(n));
    std::vector<std::byte> bytes(entry_head_bytes + text->second.size());
    const auto head = encode_head({sender, n, n, {}});
    std::copy(head.begin(), head.end(), bytes.begin());
    std::copy_n(as_bytes(text->second).begin(), text->second.size(), bytes.begin() + entry_head_bytes);
    to.log.append(epoch, data_record, bytes);
  }
  to.log.sync(to.log.last().index);
  to.hard = hard;
  c.epoch = std::max(c.epoch, hard.epoch);
  c.start(id);
}

TEST(sequencer_takeover, numbers_go_on_across_a_failover) {
  cluster c(3);
  c.elect(3);
  say(c, 1, 7, 1, 5);
  c.crash(3);
  c.elect(2);
  say(c, 1, 7, 6, 6);
  EXPECT_EQ(c.answered(1, 7, 6)->index, 6u);
  EXPECT_EQ(c.nodes.at(1).program[4].at.epoch, 1u);
  EXPECT_EQ(c.nodes.at(1).program[5].at.epoch, 2u);
}

TEST(sequencer_takeover, an_old_leader_comes_back_as_a_follower_and_gets_what_it_has_missed) {
  cluster c(3);
  c.elect(3);
  say(c, 1, 7, 1, 5);
  c.crash(3);
  c.elect(2);
  say(c, 1, 7, 6, 8);
  c.start(3);
  EXPECT_TRUE(c.run_until([&] { return c[3].delivered() == 8; }));
  EXPECT_EQ(c[3].role(), role::follower);
  EXPECT_EQ(c[3].leader(), 2u);
  say(c, 3, 7, 9, 9);
  EXPECT_EQ(c.answered(3, 7, 9)->index, 9u);
  EXPECT_EQ(c.texts(3), c.texts(1));
}

TEST(sequencer_takeover, when_all_were_down_numbers_go_on_where_they_ended) {
  for (const bool quorum : {true, false}) {
    core_options like;
    like.quorum_acks = quorum;
    cluster c(3, like);
    c.elect(1);
    say(c, 2, 7, 1, 10);
    for (node_id id = 1; id <= 3; ++id) c.crash(id);
    for (node_id id = 1; id <= 3; ++id) c.start(id);
    c.elect(3);
    say(c, 2, 7, 11, 11);
    EXPECT_EQ(c.answered(2, 7, 11)->index, 11u);
    EXPECT_EQ(c.texts(1).size(), 11u);
  }
}

TEST(sequencer_takeover, what_an_old_leader_sends_is_refused_and_it_learns_that_it_is_over) {
  cluster c(3);
  c.elect(1);
  c.submit(1, 7, 1, "late");
  const std::deque<packet> late = std::exchange(c.wire, {});
  c.cut = {{2, 1}, {3, 1}};
  c.elect(2);
  c.cut.clear();
  ASSERT_EQ(c[1].role(), role::leader) << "it has heard of nothing";
  for (const packet& each : late) c.receive(each);
  EXPECT_EQ(c.last(2), 0u);
  EXPECT_EQ(c.last(3), 0u);
  c.settle();
  EXPECT_EQ(c[1].role(), role::follower);
}

TEST(sequencer_takeover, a_refused_leader_follows) {
  cluster c(3);
  c.elect(1);
  c.isolate(1);
  c.elect(2);
  c.cut = {{2, 1}};  // it hears of the new leader by others only
  ASSERT_EQ(c[1].role(), role::leader);
  EXPECT_TRUE(c.run_until([&] { return c[1].role() == role::follower; }, 1s));
  EXPECT_EQ(c[1].leader(), 2u);
  EXPECT_EQ(c[1].epoch(), 2u);
}

TEST(sequencer_takeover, nobody_forgets_which_leader_it_has_promised_to_follow) {
  cluster c(3);
  c.elect(1);
  c.submit(1, 7, 1, "late");
  const std::deque<packet> late = std::exchange(c.wire, {});
  c.isolate(1);
  c.cut.insert({2, 3});
  ASSERT_FALSE(c.appoint(2));
  c.cut.erase({2, 3});
  ASSERT_FALSE(c.follow(3, 2, 2));
  c.restart(3);
  c.heal();
  for (const packet& each : late) c.receive(each);
  EXPECT_EQ(c.last(3), 0u);
  EXPECT_EQ(c[3].leader(), 2u);
}

TEST(sequencer_takeover, one_epoch_has_one_leader_for_each_follower) {
  cluster c(3);
  ASSERT_FALSE(c.follow(3, 1, 1));
  EXPECT_EQ(c.follow(3, 2, 1), errc::stale_epoch);
  EXPECT_EQ(c.follow(3, 1, 0), errc::stale_epoch);
  EXPECT_EQ(c.follow(3, 3, 2), errc::wrong_node);
  EXPECT_EQ(c.follow(3, 9, 2), errc::wrong_node);
  EXPECT_EQ(c.appoint(3, 1), errc::stale_epoch);
  c.cut = {{1, 2}, {2, 1}};  // an election without a majority: both lead epoch 1
  ASSERT_FALSE(c.appoint(1, 1));
  ASSERT_FALSE(c.appoint(2, 1));
  EXPECT_FALSE(c.run_until([&] { return c[2].role() == role::leader; }, 5s));
  EXPECT_EQ(c[1].role(), role::leader);
}

TEST(sequencer_takeover, nobody_leads_an_epoch_twice) {
  cluster c(3);
  c.elect(1);
  c.submit(1, 7, 1, "lost");
  c.restart(1);
  EXPECT_EQ(c.appoint(1, 1), errc::stale_epoch);
  EXPECT_EQ(c.appoint(1, 0), errc::stale_epoch);
  EXPECT_FALSE(c.appoint(1, 2));
}

TEST(sequencer_takeover, nothing_is_numbered_before_it_ends) {
  cluster c(3);
  ASSERT_FALSE(c.appoint(1));
  c.submit(1, 7, 1, "a");
  EXPECT_EQ(c.answered(1, 7, 1)->status, submit_status::not_leader);
  EXPECT_EQ(c.last(1), 0u);
  c.settle();
  c.submit(1, 7, 1, "a");
  EXPECT_EQ(c.last(1), 1u);
}

TEST(sequencer_takeover, with_quorum_acks_it_needs_a_majority) {
  cluster c(5);
  c.crash(3);
  c.crash(4);
  c.crash(5);
  ASSERT_FALSE(c.appoint(1));
  EXPECT_FALSE(c.run_until([&] { return c[1].role() == role::leader; }, 10s));
  c.start(4);
  EXPECT_TRUE(c.run_until([&] { return c[1].role() == role::leader; }, 2s));
}

TEST(sequencer_takeover, without_quorum_acks_it_waits_for_all_within_a_limit) {
  cluster c(5, without_quorum());
  c.crash(3);
  ASSERT_FALSE(c.appoint(1));
  EXPECT_FALSE(c.run_until([&] { return c[1].role() == role::leader; }, core_options{}.takeover_limit - 20ms));
  EXPECT_TRUE(c.run_until([&] { return c[1].role() == role::leader; }, 40ms));
  c.start(3);
  ASSERT_FALSE(c.appoint(2));
  EXPECT_TRUE(c.run_until([&] { return c[2].role() == role::leader; }, 10ms)) << "all have answered";
}

TEST(sequencer_takeover, a_new_leader_adopts_what_was_acknowledged_without_it) {
  cluster c(3);
  c.elect(1);
  c.isolate(3);
  say(c, 1, 7, 1, 20);
  ASSERT_EQ(c[1].delivered(), 20u);
  ASSERT_EQ(c.last(3), 0u);
  c.heal();
  c.crash(1);
  c.elect(3);
  EXPECT_EQ(c.texts(3).size(), 20u);
  say(c, 3, 7, 21, 21);
  EXPECT_EQ(c.answered(3, 7, 21)->index, 21u);
}

TEST(sequencer_takeover, the_order_of_the_latest_epoch_counts_and_not_the_longest) {
  cluster c(3);
  give(c, 1, 7, {1, 1, 1, 1}, {1, 1, 1});  // numbered by a leader of epoch 1 that was alone
  give(c, 2, 8, {2, 2}, {2, 2, 2});
  give(c, 3, 8, {2, 2}, {2, 2, 2});
  c.elect(1);
  EXPECT_EQ(c.texts(1), (std::vector<std::string>{"8/1", "8/2"}));
}

// Ongaro and Ousterhout, "In Search of an Understandable Consensus Algorithm", figure 8, which here no epoch of a
// record decides: a leader that adopts an old record and has a majority hold it can acknowledge it, as everybody who
// holds it has accepted its epoch.
TEST(sequencer_takeover, what_a_later_epoch_has_adopted_outlives_records_of_an_epoch_between) {
  cluster c(5);
  give(c, 1, 7, {1, 2}, {2, 1, 2});
  give(c, 2, 7, {1, 2}, {2, 1, 2});
  give(c, 3, 7, {1}, {3, 5, 1});
  give(c, 4, 7, {1}, {3, 5, 1});
  give(c, 5, 7, {1, 3}, {3, 5, 3});
  c.isolate(4);
  c.isolate(5);
  c.elect(1);  // of epoch 4
  ASSERT_TRUE(c.run_until([&] { return c[1].delivered() == 2; }, 1s));
  ASSERT_EQ(c.order[1].at.epoch, 2u);
  c.heal();
  c.crash(1);
  c.elect(5);
  EXPECT_EQ(c.nodes.at(5).program[1].at.epoch, 2u);
  EXPECT_TRUE(c.run_until([&] { return c[4].delivered() == 2; }));
}

TEST(sequencer_takeover, a_new_leader_takes_back_its_own_records_of_an_older_epoch) {
  cluster c(3);
  give(c, 1, 7, {1, 1, 1, 1, 1}, {1, 1, 1});
  give(c, 2, 7, {1, 1, 3}, {3, 2, 3});
  c.crash(3);
  c.elect(1);
  EXPECT_EQ(c.nodes.at(1).log.last(), c.nodes.at(2).log.last());
  EXPECT_EQ(c[1].delivered(), 3u);
}

TEST(sequencer_takeover, it_begins_anew_when_whoever_has_the_order_is_gone) {
  cluster c(5);
  give(c, 2, 7, {1, 1, 1}, {1, 2, 1});
  give(c, 3, 7, {1, 1}, {1, 2, 1});
  ASSERT_FALSE(c.appoint(1));
  while (!c.take(message_type::fetch, 1, 2)) ASSERT_TRUE(c.deliver());
  c.crash(2);
  c.settle();
  ASSERT_EQ(c[1].role(), role::taking_over);
  EXPECT_TRUE(c.run_until([&] { return c[1].role() == role::leader; }, 3s));
  EXPECT_TRUE(c.run_until([&] { return c[1].delivered() == c.last(1); }, 1s));
  EXPECT_EQ(c.texts(1).size(), 2u) << "a majority without it has not delivered more";
}

TEST(sequencer_takeover, its_questions_are_asked_again_when_they_are_lost) {
  cluster c(3);
  ASSERT_FALSE(c.appoint(1));
  c.wire.clear();
  EXPECT_TRUE(c.run_until([&] { return c[1].role() == role::leader; }, 1s));
}

TEST(sequencer_takeover, a_leader_leads_only_when_what_it_begins_with_is_durable) {
  cluster c(3);
  give(c, 2, 7, {1, 1}, {1, 2, 1});
  c.crash(3);
  c.slow_disks = {1};
  ASSERT_FALSE(c.appoint(1));
  c.settle();
  ASSERT_EQ(c.last(1), 2u);
  EXPECT_EQ(c[1].role(), role::taking_over);
  c.sync(1);
  EXPECT_EQ(c[1].role(), role::leader);
}

// --- followers --------------------------------------------------------------------------------------------------

TEST(sequencer_tails, a_follower_takes_back_what_the_new_leader_does_not_have) {
  cluster c(3);
  c.elect(1);
  say(c, 1, 7, 1, 3);
  c.isolate(1);
  say(c, 1, 7, 4, 8);
  ASSERT_EQ(c.last(1), 8u);
  c.elect(2);
  c.submit(2, 8, 1, "8/1");
  c.settle();
  c.heal();
  EXPECT_TRUE(c.run_until([&] { return c[1].delivered() == 4; }));
  EXPECT_EQ(c.texts(1), c.texts(2));
  EXPECT_EQ(c.nodes.at(1).log.last(), c.nodes.at(2).log.last());
}

TEST(sequencer_tails, the_common_point_is_found_by_bisection) {
  cluster c(3, without_quorum());
  c.elect(1);
  c.crash(3);
  say(c, 1, 7, 1, 70);
  c.isolate(1);
  say(c, 1, 7, 71, 500);
  ASSERT_FALSE(c.appoint(2));
  ASSERT_TRUE(c.run_until([&] { return c[2].role() == role::leader; }));
  c.isolate(2);
  say(c, 2, 8, 1, 600);
  c.crash(1);
  c.start(1);
  c.heal();
  c.pass(core_options{}.heartbeat_interval);
  int fetches = 0;
  while (c.last(1) != 70u) {
    ASSERT_LT(fetches, 12);
    const std::size_t before = c.wire.size();
    if (before == 0) c.pass(20ms);
    if (!c.wire.empty() && c.wire.front().carried.type == message_type::fetch) ++fetches;
    c.deliver();
  }
  EXPECT_TRUE(c.run_until([&] { return c.texts(1) == c.texts(2); }));
}

TEST(sequencer_tails, without_quorum_acks_what_was_delivered_can_be_taken_back) {
  cluster c(3, without_quorum());
  c.elect(1);
  say(c, 1, 7, 1, 2);
  c.isolate(1);
  say(c, 1, 7, 3, 4);
  ASSERT_EQ(c.answered(1, 7, 4)->index, 4u) << "acknowledged, and lost";
  c.elect(2);
  say(c, 2, 8, 1, 1);
  c.heal();
  EXPECT_TRUE(c.run_until([&] { return c.texts(1) == c.texts(2); }));
  EXPECT_EQ(c.taken_back[1], 1);
  EXPECT_EQ(c.taken_back[3], 0);
  EXPECT_EQ(c.texts(1), (std::vector<std::string>{"7/1", "7/2", "8/1"}));
}

TEST(sequencer_tails, what_an_old_leader_has_let_deliver_says_nothing_of_the_new_one_s_records) {
  cluster c(3, without_quorum());
  c.elect(1);
  c.isolate(1);
  say(c, 1, 7, 1, 5);
  c.heal();
  c.receive(c.records(1, 3, 5, 5, 5));
  c.crash(1);
  ASSERT_FALSE(c.appoint(2));
  ASSERT_TRUE(c.run_until([&] { return c[2].role() == role::leader; }));
  c.slow_disks = {2};
  say(c, 2, 8, 1, 1);
  ASSERT_EQ(c.nodes.at(3).log.acked().index, 1u);
  EXPECT_EQ(c[3].delivered(), 0u);
}

TEST(sequencer_tails, an_epoch_is_accepted_when_all_that_it_began_with_is_durable) {
  cluster c(3);
  c.elect(1);
  c.isolate(3);
  say(c, 1, 7, 1, 4);
  c.heal();
  c.slow_disks = {3};
  c.elect(2);
  c.run_until([&] { return c.last(3) == 4; });
  EXPECT_EQ(c.nodes.at(3).hard, (hard_state{2, 2, 1}));
  c.sync(3);
  EXPECT_EQ(c.nodes.at(3).hard, (hard_state{2, 2, 2}));
}

TEST(sequencer_tails, an_epoch_is_not_accepted_with_records_of_an_older_one_behind_its_start) {
  cluster c(3);
  give(c, 1, 7, {1, 1}, {1, 3, 1});
  give(c, 2, 7, {1, 1}, {1, 3, 1});
  give(c, 3, 7, {1, 1, 1, 1}, {1, 3, 1});
  c.isolate(3);
  c.elect(1);
  c.heal();
  ASSERT_TRUE(c.run_until([&] { return c.nodes.at(3).hard.accepted == 2; }, 1s));
  EXPECT_EQ(c.last(3), 2u) << "a later takeover would take them for epoch 2's";
}

TEST(sequencer_tails, who_is_far_behind_is_told_to_catch_up) {
  core_options near;
  near.most_behind = 10;
  cluster c(3, near);
  c.catches_up_at_once = false;
  c.elect(1);
  c.isolate(3);
  say(c, 1, 7, 1, 11);
  c.heal();
  ASSERT_TRUE(c.run_until([&] { return c.to_catch_up.contains(3); }));
  EXPECT_EQ(c.to_catch_up[3], 1u);
  EXPECT_EQ(c[3].role(), role::retired);
  EXPECT_EQ(c[3].deadline(), instant::max());
  EXPECT_EQ(c.appoint(3), errc::closed);
  EXPECT_EQ(c.follow(3, 1, 9), errc::closed);
  c.submit(3, 8, 1, "8/1");
  EXPECT_EQ(c.answered(3, 8, 1)->status, submit_status::not_leader);
  c.catch_up(3);
  EXPECT_TRUE(c.run_until([&] { return c[3].delivered() == 11; }));
}

TEST(sequencer_tails, who_needs_what_is_not_kept_is_told_to_catch_up) {
  cluster c(3);
  c.catches_up_at_once = false;
  c.elect(1);
  c.isolate(3);
  say(c, 1, 7, 1, 9);
  c.compact(1);
  say(c, 1, 7, 10, 11);
  c.heal();
  ASSERT_TRUE(c.run_until([&] { return c.to_catch_up.contains(3); }));
  c.catch_up(3);
  say(c, 3, 7, 12, 12);
  EXPECT_TRUE(c.run_until([&] { return c[3].delivered() == 12; }));
  EXPECT_EQ(c[3].senders(), c[1].senders());
}

TEST(sequencer_tails, a_new_leader_that_is_far_behind_catches_up_first_and_then_leads) {
  core_options near;
  near.most_behind = 10;
  cluster c(3, near);
  c.elect(1);
  c.isolate(3);
  say(c, 1, 7, 1, 30);
  c.heal();
  c.crash(1);
  c.elect(3);
  EXPECT_EQ(c[3].epoch(), 2u);
  EXPECT_EQ(c.texts(3).size(), 30u);
}

TEST(sequencer_tails, a_node_stops_when_its_leader_has_not_what_was_delivered) {
  cluster c(3);
  c.elect(1);
  say(c, 1, 7, 1, 2);
  message liar = c.made(message_type::records, 1, 3);
  liar.at = {1, 2, 12345};
  std::string broken;
  EXPECT_THROW(c.receive(liar), rule_broken);
  EXPECT_EQ(c[3].role(), role::retired);
  EXPECT_EQ(c.last(3), 2u);
}

TEST(sequencer_tails, records_from_a_later_epoch_than_is_known_bind_a_node_to_that_epoch) {
  cluster c(3);
  give(c, 3, 7, {1, 4}, {1, 1, 1});  // by catch-up
  EXPECT_EQ(c[3].epoch(), 4u);
  EXPECT_EQ(c[3].leader(), 0u);
  EXPECT_EQ(c.appoint(3, 4), errc::stale_epoch);
  EXPECT_EQ(c.follow(3, 1, 3), errc::stale_epoch);
  EXPECT_FALSE(c.follow(3, 1, 4));
  EXPECT_EQ(c.follow(3, 2, 4), errc::stale_epoch);
}

}  // namespace
}  // namespace lockstep::sequencer::test
