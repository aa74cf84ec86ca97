// Who leads, and when. The paper is Garcia-Molina's: see election/core.hpp.
#include "lockstep/election/core.hpp"

#include "cluster.hpp"

#include <gtest/gtest.h>

#include <ostream>

namespace lockstep::election {

void PrintTo(const event& of, std::ostream* to) {
  *to << "event " << static_cast<int>(of.is) << " of node " << of.node << ", epoch " << of.epoch;
}

namespace test {
namespace {

using what = event::what;

constexpr instant timeout = core_options{}.election_timeout;
constexpr instant answer_timeout = core_options{}.answer_timeout;

core_options without_gate() {
  core_options chosen;
  chosen.majority_gate = false;
  return chosen;
}

// What is so with the gate and without.
class election_of_any_kind : public ::testing::TestWithParam<bool> {
 protected:
  [[nodiscard]] static core_options options() {
    core_options chosen;
    chosen.majority_gate = GetParam();
    return chosen;
  }
};
INSTANTIATE_TEST_SUITE_P(gate, election_of_any_kind, ::testing::Bool(),
                         [](const auto& gate) { return std::string(gate.param ? "on" : "off"); });

TEST_P(election_of_any_kind, the_highest_of_those_who_start_together_leads) {
  cluster c(3, options());
  EXPECT_EQ(c.elect(), 3u);
  EXPECT_EQ(c[3].epoch(), 1u);
  EXPECT_LT(c.now, answer_timeout);  // all have answered: nobody had to wait
  EXPECT_EQ(c.nodes.at(1).events.back(), (event{what::leader_known, 3, 1}));
}

TEST_P(election_of_any_kind, the_next_highest_follows_a_leader_that_fails) {  // Garcia-Molina
  cluster c(3, options());
  c.elect();
  for (auto& [id, of] : c.nodes) of.events.clear();
  c.crash(3);
  EXPECT_EQ(c.elect(), 2u);
  const std::vector<event> expected = {
      {what::leader_lost, 3, 1}, {what::election_begun, 2, 2}, {what::became_leader, 2, 2}};
  EXPECT_EQ(c.nodes.at(2).events, expected);
  EXPECT_EQ(c.nodes.at(1).events.back(), (event{what::leader_known, 2, 2}));
  EXPECT_EQ(c[1].last_change(), "epoch 2: node 2 leads");
}

TEST_P(election_of_any_kind, a_higher_node_that_comes_back_follows_the_leader_of_the_day) {
  cluster c(3, options());
  c.elect();
  c.crash(3);
  ASSERT_EQ(c.elect(), 2u);
  c.start(3);
  ASSERT_TRUE(c.run_until([&] { return c.leader() == 2; }, 50ms));
  c.run(20 * timeout);
  EXPECT_EQ(c.leader(), 2u);
  EXPECT_EQ(c[2].epoch(), 2u);
  EXPECT_EQ(c.nodes.at(3).events, std::vector<event>({{what::leader_known, 2, 2}}));
}

TEST_P(election_of_any_kind, a_higher_node_that_wrongly_suspects_the_leader_does_not_displace_it) {
  cluster c(3, options());
  c.elect();
  c.crash(3);
  ASSERT_EQ(c.elect(), 2u);
  c.start(3);
  c.elect();
  c.perform(3, c[3].suspect(2, "silent", c.now));
  EXPECT_EQ(c[3].role(), role::candidate);
  EXPECT_EQ(c[3].last_change(), "epoch 2: node 2 is suspected: silent");
  c.run(5 * timeout);
  EXPECT_EQ(c.leader(), 2u);
  EXPECT_EQ(c[3].epoch(), 2u);
}

TEST_P(election_of_any_kind, who_cannot_hear_the_leader_and_hears_who_does_gives_way) {
  cluster c(3, options());
  c.elect();
  c.crash(3);
  ASSERT_EQ(c.elect(), 2u);
  c.start(3);
  c.elect();
  c.cut_off(2, 3);
  c.cut_off(3, 2);
  c.run(20 * timeout);
  EXPECT_EQ(c.leader_of({1, 2}), 2u);
  EXPECT_EQ(c[2].epoch(), 2u);
  EXPECT_EQ(c[3].leader(), 0u);
  c.heal();
  EXPECT_TRUE(c.run_until([&] { return c.leader() == 2; }));
}

TEST_P(election_of_any_kind, a_connection_that_is_lost_with_the_leader_is_enough) {
  cluster c(3, options());
  c.elect();
  c.crash(3, true);
  EXPECT_TRUE(c.run_until([&] { return c.leader() == 2; }, 50ms));  // and nobody waits for the one that is gone
}

TEST_P(election_of_any_kind, who_was_suspected_and_speaks_is_waited_for_again) {
  cluster c(3, options());
  c.elect();
  c.perform(1, c[1].suspect(2, "silent", c.now));
  EXPECT_FALSE(c[1].status().peers[0].reachable);
  c.receive(c.made(message_type::probe, 2, 1));
  EXPECT_TRUE(c[1].status().peers[0].reachable);
  c.crash(3);
  c.perform(1, c[1].disconnected(3, c.now));
  EXPECT_EQ(c[1].role(), role::candidate);
  c.perform(1, c[1].suspect(2, "silent", c.now));
  EXPECT_NE(c[1].role(), role::candidate);
}

TEST_P(election_of_any_kind, priority_comes_before_the_id) {
  cluster c(3, options());
  c.nodes.at(1).options.priority = 10;
  c.nodes.at(2).options.priority = 10;
  for (const node_id id : c.all()) c.start(id);
  EXPECT_EQ(c.elect(), 2u);  // of equal ones, the higher id
}

TEST_P(election_of_any_kind, a_candidate_gives_way_to_a_higher_one_that_lives) {  // Garcia-Molina
  cluster c(3, options());
  c.elect();
  c.crash(3);
  c.perform(1, c[1].suspect(3, "silent", c.now));
  c.perform(2, c[2].suspect(3, "silent", c.now));
  c.receive(c.made(message_type::answer, 2, 1));  // to no question of this node
  EXPECT_EQ(c[1].role(), role::candidate);
  c.receive(c.made(message_type::election, 2, 1));
  EXPECT_EQ(c[1].role(), role::joining);
  EXPECT_EQ(c[1].last_change(), "epoch 1: node 2, which is higher, holds an election");
  EXPECT_EQ(c.elect(), 2u);
}

TEST_P(election_of_any_kind, one_election_is_enough_for_many_candidates) {
  cluster c(3, options());
  c.elect();
  c.crash(3);
  c.perform(1, c[1].disconnected(3, c.now));
  c.receive(c.made(message_type::election, 2, 1));
  c.nodes.at(1).events.clear();
  for (const message_type type : {message_type::election, message_type::probe}) {
    message lower = c.made(type, 2, 1);
    lower.priority = 0;
    c.receive(lower);
  }
  EXPECT_TRUE(c.nodes.at(1).events.empty());  // it waits for the one that it gave way to
}

TEST_P(election_of_any_kind, a_higher_node_takes_over_the_election_of_a_lower_one) {  // Garcia-Molina
  cluster c(3, options());
  c.elect();
  c.crash(3);
  c.nodes.at(2).paused = true;  // it would suspect node 3 by itself
  c.run(3 * timeout / 5);
  c.resume(2);
  c.perform(2, c[2].disconnected(3, c.now));
  EXPECT_EQ(c.elect(), 2u);
}

TEST_P(election_of_any_kind, a_higher_node_does_not_wait_for_a_leader_that_a_lower_one_misses_too) {
  cluster c(3, options());
  c.elect();
  c.crash(3);
  c.perform(2, c[2].suspect(3, "silent", c.now));
  c.run(10ms);
  ASSERT_EQ(c[2].last_change(), "epoch 1: node 1 hears node 3 lead");
  c.perform(1, c[1].disconnected(3, c.now));
  c.run(10ms);
  EXPECT_EQ(c[2].last_change(), "epoch 1: node 1, which is lower, holds an election");
  EXPECT_EQ(c.elect(), 2u);
}

TEST_P(election_of_any_kind, who_is_asked_by_a_lower_one_stands) {
  cluster c(2, options());
  const auto answer = c.reply(c.made(message_type::election, 1, 2), message_type::answer);
  ASSERT_TRUE(answer);
  EXPECT_EQ(answer->priority, 2u);
  EXPECT_EQ(c[2].role(), role::candidate);
  EXPECT_EQ(c[2].last_change(), "epoch 0: node 1, which is lower, holds an election");
  c.receive(c.made(message_type::election, 2, 1));
  EXPECT_EQ(c[1].role(), role::joining);  // who is asked by a higher one only answers
}

TEST_P(election_of_any_kind, a_higher_node_that_takes_too_long_is_passed_over) {
  cluster c(4, options());
  c.crash(4);
  c.nodes.at(3).options.answer_timeout = 60s;  // it waits for node 4
  c.start(3);
  ASSERT_TRUE(c.run_until([&] { return c[3].role() == role::candidate; }));
  EXPECT_TRUE(c.run_until([&] { return c.leader_of({1, 2, 3}) == 2; }, 4 * timeout));
}

TEST_P(election_of_any_kind, whoever_waits_for_a_candidate_that_fails_stands_again) {
  cluster c(3, options());
  c.elect();
  c.crash(3);
  c.perform(1, c[1].disconnected(3, c.now));
  c.receive(c.made(message_type::election, 2, 1));
  ASSERT_EQ(c[1].role(), role::joining);
  c.nodes.at(1).events.clear();
  c.perform(1, c[1].disconnected(2, c.now));
  ASSERT_FALSE(c.nodes.at(1).events.empty());
  EXPECT_EQ(c.nodes.at(1).events[0], (event{what::election_begun, 1, 2}));
}

TEST_P(election_of_any_kind, timeouts_are_longer_by_less_than_a_half) {
  instant least = instant::max(), most{};
  for (std::uint64_t seed = 1; seed <= 200; ++seed) {
    core_options chosen = options();
    chosen.id = 1;
    chosen.seed = seed;
    core alone(chosen, {1, 2, 3}, {}, 0s);
    alone.tick(0s);
    least = std::min(least, alone.deadline());
    most = std::max(most, alone.deadline());
    alone.tick(alone.deadline());
    const instant asked = alone.deadline() - 2 * timeout;
    EXPECT_LT(asked, answer_timeout * 3 / 2);
  }
  EXPECT_GE(least, timeout);
  EXPECT_LT(least, timeout * 21 / 20);
  EXPECT_LT(most, timeout * 3 / 2);
  EXPECT_GT(most, timeout * 29 / 20);
}

TEST_P(election_of_any_kind, an_epoch_is_not_begun_again_after_a_restart) {
  cluster c(3, options());
  c.elect();
  c.crash(3);
  c.start(3);  // before anybody has noticed
  c.elect();
  EXPECT_EQ(c.nodes.at(3).hard.epoch, 2u);
  for (const node_id id : c.all()) c.crash(id);
  for (const node_id id : c.all()) c.start(id);
  c.elect();
  EXPECT_EQ(c[3].epoch(), 3u);
}

TEST_P(election_of_any_kind, an_epoch_known_from_elsewhere_is_not_begun_again) {
  cluster c(3, options());
  c.nodes.at(1).hard.epoch = 7;
  c.start(1);
  EXPECT_EQ(c.elect(), 3u);
  EXPECT_EQ(c[3].epoch(), 8u);
}

TEST_P(election_of_any_kind, the_epoch_is_durable_before_anybody_hears_of_it) {
  cluster c(2, options());
  const instant end = c.now + 5s;
  for (bool led = false; !led && c.now < end; c.step()) {
    const effects& doing = c[2].tick(c.now);
    led = std::any_of(doing.send.begin(), doing.send.end(), [](const message& of) { return of.epoch != 0; });
    EXPECT_EQ(led, doing.persist.has_value());
    c.perform(2, doing);  // which checks each message against what is durable
  }
  c.elect();
  EXPECT_EQ(c.nodes.at(1).hard, (hard_state{1, 2}));
}

TEST_P(election_of_any_kind, an_old_leader_steps_down_when_it_meets_a_later_epoch) {
  cluster c(3, options());
  c.elect();
  c.pause(3);
  ASSERT_TRUE(c.run_until([&] { return c.leader_of({1, 2}) == 2; }));
  ASSERT_EQ(c[3].role(), role::leader);
  const auto reply = c.reply(c.made(message_type::heartbeat, 3, 1), message_type::heartbeat_reply);
  ASSERT_TRUE(reply);
  EXPECT_EQ(reply->epoch, 2u);
  EXPECT_EQ(c[1].leader(), 2u);
  c.receive(*reply);
  EXPECT_EQ(c[3].role(), role::joining);
  EXPECT_EQ(c[3].last_change(), "epoch 1: node 1 is in epoch 2");
  EXPECT_EQ(c.nodes.at(3).events.back(), (event{what::stepped_down, 3, 1}));
  c.resume(3);
  EXPECT_TRUE(c.run_until([&] { return c.leader() == 2; }, timeout));
}

TEST_P(election_of_any_kind, a_leader_follows_the_leader_of_a_later_epoch) {
  cluster c(3, options());
  c.elect();
  message later = c.made(message_type::coordinator, 1, 3);
  later.epoch = 5;
  c.receive(later);
  EXPECT_EQ(c[3].leader(), 1u);
  EXPECT_EQ(c.nodes.at(3).hard, (hard_state{5, 1}));
  const std::vector<event>& events = c.nodes.at(3).events;
  EXPECT_EQ(events[events.size() - 2], (event{what::stepped_down, 3, 1}));
  EXPECT_EQ(events.back(), (event{what::leader_known, 1, 5}));
}

TEST_P(election_of_any_kind, a_leader_that_asks_who_leads_is_not_followed_any_more) {
  cluster c(3, options());
  c.elect();
  c.crash(3);
  c.start(3);  // so fast that nobody suspects it
  EXPECT_TRUE(c.run_until([&] { return c.leader() == 3; }, 50ms));
  EXPECT_EQ(c[3].epoch(), 2u);
  c.receive(c.made(message_type::probe, 3, 1));
  EXPECT_EQ(c[1].role(), role::candidate);
  EXPECT_EQ(c[1].last_change(), "epoch 2: its leader asks who leads");
  c.receive(c.made(message_type::election, 3, 2));
  EXPECT_EQ(c[2].role(), role::joining);
  EXPECT_EQ(c[2].last_change(), "epoch 2: its leader holds an election");
}

TEST_P(election_of_any_kind, what_a_leader_asked_before_it_led_changes_nothing) {
  cluster c(3, options());
  c.elect();
  for (const message_type late : {message_type::probe, message_type::election}) {
    message asked = c.made(late, 3, 1);
    asked.epoch = 0;
    EXPECT_FALSE(c.reply(asked, message_type::answer));
    EXPECT_EQ(c[1].leader(), 3u);
  }
  message claim = c.made(message_type::claim, 3, 1);
  c.receive(claim);
  EXPECT_EQ(c[1].leader(), 3u);
}

TEST_P(election_of_any_kind, heartbeats_are_confirmed_and_go_out_at_their_interval) {
  cluster c(3, options());
  c.elect();
  const instant due = c[3].deadline();
  EXPECT_EQ(c[3].tick(due - 1ns).send.size(), 0u);
  const effects& beat = c[3].tick(due);
  ASSERT_EQ(beat.send.size(), 2u);
  EXPECT_EQ(beat.send[0].type, message_type::heartbeat);
  EXPECT_EQ(beat.send[0].epoch, 1u);
  EXPECT_EQ(c[3].deadline(), due + core_options{}.heartbeat_interval);
  const auto reply = c.reply(beat.send[0], message_type::heartbeat_reply);
  ASSERT_TRUE(reply);
  EXPECT_EQ(reply->leader, 3u);
  EXPECT_EQ(c[1].deadline(), instant::max());
}

TEST_P(election_of_any_kind, what_was_said_of_an_earlier_epoch_says_nothing_of_this_one) {
  cluster c(3, options());
  c.elect();
  c.crash(3);
  c.start(3);
  ASSERT_EQ(c.elect(), 3u);
  ASSERT_EQ(c[3].epoch(), 2u);
  c.crash(2);
  c.run(2 * timeout);
  message late = c.made(message_type::heartbeat_reply, 2, 3);
  late.epoch = 1;
  for (const node_id leader : raft::id_set{2, 3}) {
    late.leader = leader;
    c.receive(late);
    EXPECT_EQ(c[3].role(), role::leader);
    EXPECT_FALSE(c[3].status().peers[1].heard);
  }
}

TEST_P(election_of_any_kind, who_is_connected_hears_at_once_what_there_is_to_say) {
  cluster c(3, options());
  const auto said = [&](node_id id, node_id to) {
    const effects& greeting = c[id].connected(to, c.now);
    return greeting.send.empty() ? std::optional<message_type>() : greeting.send.front().type;
  };
  EXPECT_EQ(said(1, 2), std::nullopt);  // not before the first tick
  c.perform(1, c[1].tick(c.now));
  EXPECT_EQ(said(1, 2), message_type::probe);
  c.receive(c.made(message_type::election, 1, 2));
  EXPECT_EQ(said(2, 3), message_type::election);
  EXPECT_EQ(said(2, 99), std::nullopt);
  c.elect();
  EXPECT_EQ(said(3, 2), message_type::coordinator);
  EXPECT_EQ(said(1, 2), std::nullopt);
}

TEST_P(election_of_any_kind, a_single_node_leads) {
  cluster c(1, options());
  EXPECT_EQ(c.elect(), 1u);
  c.run(20 * timeout);
  EXPECT_EQ(c[1].epoch(), 1u);
}

TEST_P(election_of_any_kind, an_epoch_beyond_all_is_of_no_correct_node) {
  cluster c(3, options());
  c.elect();
  message wrong = c.made(message_type::coordinator, 2, 1);
  wrong.epoch = max_epoch;
  c.receive(wrong);
  EXPECT_EQ(c[1].leader(), 3u);
  EXPECT_EQ(c[1].epoch(), 1u);
}

TEST_P(election_of_any_kind, a_process_that_stood_still_accuses_nobody) {
  cluster c(3, options());
  c.elect();
  c.pause(1);
  c.run(20 * timeout);
  c.nodes.at(1).events.clear();
  c.resume(1);
  c.tick(1);  // before it has read what has come
  c.run(5 * timeout);
  EXPECT_TRUE(c.nodes.at(1).events.empty());
  EXPECT_EQ(c.leader(), 3u);
}

// --- the members ------------------------------------------------------------------------------------------------

TEST_P(election_of_any_kind, nodes_join_and_leave_while_it_runs) {
  cluster c(3, options());
  c.elect();
  c.add(4, {1, 2, 3, 4}, options());
  c.change_members({1, 2, 3, 4});
  ASSERT_TRUE(c.run_until([&] { return c.leader() == 3; }));
  EXPECT_EQ(c[4].epoch(), 1u);
  c.change_members({1, 2, 4});
  EXPECT_EQ(c[3].role(), role::joining);
  EXPECT_EQ(c[3].last_change(), "epoch 1: it is no member any more");
  EXPECT_TRUE(c.run_until([&] { return c.leader_of({1, 2, 4}) == 4; }));
  c.nodes.at(3).events.clear();
  c.run(5 * timeout);
  for (const event& each : c.nodes.at(3).events) EXPECT_NE(each.is, what::election_begun);
}

TEST_P(election_of_any_kind, a_leader_that_is_no_member_any_more_is_not_followed) {
  cluster c(3, options());
  c.elect();
  c.perform(1, c[1].change_members({1, 2}, c.now));
  EXPECT_EQ(c[1].leader(), 0u);
  EXPECT_EQ(c.nodes.at(1).events.back(), (event{what::leader_lost, 3, 1}));
  c.receive(c.made(message_type::heartbeat, 3, 1));
  EXPECT_EQ(c[1].leader(), 0u);
}

TEST_P(election_of_any_kind, a_candidate_does_not_wait_for_who_has_left) {
  cluster c(3, options());
  c.elect();
  c.crash(3);
  c.cut_off(2, 1);
  c.perform(2, c[2].suspect(3, "silent", c.now));
  const message asked = c.made(message_type::election, 2, 1);
  c.receive(asked);
  ASSERT_EQ(c[2].role(), role::candidate);
  c.nodes.at(2).members = {2};
  c.perform(2, c[2].change_members({2}, c.now));
  EXPECT_EQ(c[2].role(), role::leader);
}

TEST_P(election_of_any_kind, a_stranger_learns_who_leads_and_decides_nothing) {
  cluster c(3, options());
  c.elect();
  c.add(9, {1, 2, 3, 9}, options());
  const auto coordinator = c.reply(c.made(message_type::probe, 9, 3), message_type::coordinator);
  ASSERT_TRUE(coordinator);
  const auto answer = c.reply(c.made(message_type::probe, 9, 1), message_type::answer);
  ASSERT_TRUE(answer);
  EXPECT_EQ(answer->leader, 3u);
  c.receive(*coordinator);
  EXPECT_EQ(c[9].leader(), 3u);
  for (const message_type type : {message_type::election, message_type::claim, message_type::coordinator,
                                  message_type::heartbeat, message_type::heartbeat_reply}) {
    message wrong = c.made(type, 9, 3);
    wrong.epoch = 50;
    c.receive(wrong);
    wrong.to = 1;
    c.receive(wrong);
  }
  EXPECT_EQ(c.leader_of({1, 2, 3}), 3u);
  EXPECT_EQ(c[3].epoch(), 1u);
}

TEST_P(election_of_any_kind, status_tells_people) {
  cluster c(3, options());
  c.elect();
  c.run(2 * timeout);
  c.crash(1);
  c.run(2 * timeout);
  c.perform(3, c[3].suspect(1, "silent", c.now));
  const core_status of = c[3].status();
  EXPECT_EQ(of.id, 3u);
  EXPECT_EQ(of.role, role::leader);
  EXPECT_EQ(of.leader, 3u);
  EXPECT_EQ(of.epoch, 1u);
  EXPECT_EQ(of.members, raft::majority({1, 2, 3}));
  ASSERT_EQ(of.peers.size(), 2u);
  EXPECT_FALSE(of.peers[0].reachable || of.peers[0].heard);
  EXPECT_TRUE(of.peers[1].reachable && of.peers[1].heard);
  EXPECT_EQ(of.last_change, GetParam() ? "epoch 1: a majority agreed to it" : "epoch 1: no higher node answered it");
}

// --- with the gate ----------------------------------------------------------------------------------------------

TEST(election_gate, a_minority_elects_nobody_and_begins_no_epoch) {
  cluster c(5);
  c.elect();
  c.partition({{4, 5}, {1, 2, 3}});
  c.run(20 * timeout);
  EXPECT_EQ(c.leader_of({1, 2, 3}), 3u);
  EXPECT_EQ(c[5].role() == role::leader || c[4].role() == role::leader, false);
  EXPECT_EQ(c[5].epoch(), 1u);
  c.heal();
  ASSERT_TRUE(c.run_until([&] { return c.leader() != 0; }));
  EXPECT_EQ(c.leader(), 3u);
  EXPECT_EQ(c[3].epoch(), 2u);  // who comes back with the highest id disturbs nobody
}

TEST(election_gate, a_leader_that_hears_no_majority_steps_down) {
  cluster c(3);
  c.elect();
  c.cut_off(1, 3);
  c.run(3 * timeout);
  EXPECT_EQ(c[3].role(), role::leader);  // one other is enough
  c.cut_off(2, 3);                       // which hears it nonetheless
  EXPECT_TRUE(c.run_until([&] { return c[3].role() != role::leader; }, timeout + 100ms));
  EXPECT_EQ(c[3].last_change(), "epoch 1: as leader it did not hear from a majority");
}

// Node 5 reaches node 4 alone, and wants to lead.
TEST(election_gate, a_higher_node_that_reaches_no_majority_is_passed_over) {
  cluster c(5);
  for (const node_id id : raft::id_set{1, 2, 3}) c.cut_off(id, 5), c.cut_off(5, id);
  EXPECT_TRUE(c.run_until([&] { return c.leader_of({1, 2, 3, 4}) != 0; }, 10 * timeout));
}

TEST(election_gate, who_passes_a_higher_node_over_and_fails_gives_way_again) {
  core_options chosen;
  chosen.id = 1;
  core c(chosen, {1, 2, 3}, {}, 0s);
  c.tick(0s);
  const auto stand_and_hear_of_a_higher_one = [&c] {
    message answer = c.tick(c.deadline()).send.front();
    EXPECT_EQ(std::exchange(answer.type, message_type::answer), message_type::election);
    answer.from = answer.priority = 2;
    answer.to = 1;
    c.receive(answer, 0s);
    return c.role();
  };
  EXPECT_EQ(stand_and_hear_of_a_higher_one(), role::joining);
  EXPECT_EQ(stand_and_hear_of_a_higher_one(), role::candidate);
  c.tick(c.deadline());
  EXPECT_EQ(c.epoch(), 1u);  // which it claims
  c.tick(c.deadline());
  EXPECT_EQ(stand_and_hear_of_a_higher_one(), role::joining);
}

// What `to` says to a claim.
std::optional<bool> agrees(cluster& c, node_id from, node_id to, epoch_t epoch) {
  message claim = c.made(message_type::claim, from, to);
  claim.epoch = epoch;
  const auto consent = c.reply(claim, message_type::consent);
  return consent ? std::optional(consent->granted) : std::nullopt;
}

TEST(election_gate, nobody_agrees_to_two_leaders_of_one_epoch_crashes_included) {
  cluster c(3);
  EXPECT_EQ(agrees(c, 1, 2, 4), true);
  EXPECT_EQ(agrees(c, 3, 2, 4), false);
  EXPECT_EQ(agrees(c, 1, 2, 4), true);
  c.crash(2);
  c.start(2);
  EXPECT_EQ(agrees(c, 3, 2, 4), false);
  EXPECT_EQ(agrees(c, 3, 2, 3), false);
  EXPECT_EQ(agrees(c, 3, 2, 5), true);
}

TEST(election_gate, who_hears_a_leader_agrees_to_no_other) {
  cluster c(3);
  c.elect();
  EXPECT_EQ(agrees(c, 2, 1, 9), false);
  EXPECT_EQ(agrees(c, 2, 3, 9), false);
  EXPECT_EQ(c[1].epoch(), 1u);
  EXPECT_EQ(c[1].leader(), 3u);
  EXPECT_EQ(agrees(c, 3, 1, 9), true);  // but to its own leader, which then does not lead any more
  EXPECT_EQ(c[1].role(), role::joining);
}

// Node 1 has claimed an epoch and waits for consents.
void make_claimant(cluster& c) {
  c.elect();
  for (const node_id id : c.all()) {
    if (id != 1) c.crash(id);
  }
  c.perform(1, c[1].suspect(c[1].leader(), "silent", c.now));
  const effects& asking = c[1].connected(2, c.now);
  ASSERT_EQ(asking.send.size(), 1u);
  ASSERT_EQ(asking.send[0].type, message_type::election);
  const std::uint64_t round = asking.send[0].round;
  for (const node_id id : c.all()) {
    if (id == 1) continue;
    message answer = c.made(message_type::answer, id, 1);
    answer.round = round;
    answer.priority = 0;
    c.receive(answer);
  }
}

TEST(election_gate, consents_count_once_and_for_their_epoch) {
  cluster c(5);
  make_claimant(c);
  ASSERT_EQ(c[1].epoch(), 2u);
  ASSERT_EQ(c[1].role(), role::candidate);
  message consent = c.made(message_type::consent, 2, 1);
  consent.granted = true;
  consent.from = 3;
  c.receive(consent);  // to a claim of epoch 1
  consent.epoch = 2;
  consent.granted = false;
  consent.from = 4;
  c.receive(consent);
  consent.granted = true;
  consent.from = 2;
  c.receive(consent);
  c.receive(consent);
  EXPECT_EQ(c[1].role(), role::candidate);
  consent.from = 5;
  const effects& won = c[1].receive(consent, c.now);
  EXPECT_EQ(c[1].role(), role::leader);
  ASSERT_EQ(won.send.size(), 4u);
  EXPECT_EQ(won.send[0].type, message_type::coordinator);
}

TEST(election_gate, a_claim_is_said_again_to_who_is_connected_and_given_up_in_time) {
  cluster c(5);
  make_claimant(c);
  const effects& greeting = c[1].connected(4, c.now);
  ASSERT_EQ(greeting.send.size(), 1u);
  EXPECT_EQ(greeting.send[0].type, message_type::claim);
  EXPECT_EQ(greeting.send[0].epoch, 2u);
  c.run(answer_timeout * 3 / 2);
  EXPECT_EQ(c[1].role(), role::joining);
  EXPECT_EQ(c[1].last_change(), "epoch 2: a majority did not agree to it in time");
}

TEST(election_gate, a_claimant_follows_who_has_won_its_epoch) {
  cluster c(5);
  make_claimant(c);
  message coordinator = c.made(message_type::coordinator, 2, 1);
  coordinator.epoch = 2;
  c.receive(coordinator);
  EXPECT_EQ(c[1].leader(), 2u);
  EXPECT_EQ(c.nodes.at(1).hard, (hard_state{2, 1}));
}

TEST(election_gate, two_leaders_of_one_epoch_stop_whoever_meets_them) {
  cluster c(3);
  c.elect();
  message other = c.made(message_type::heartbeat, 2, 1);
  EXPECT_THROW(c.receive(other), rule_broken);
  other.to = 3;
  EXPECT_EQ(c[3].receive(other, c.now).broken, "nodes 3 and 2 both lead epoch 1");
}

TEST(election_gate, a_majority_is_one_of_the_members_of_now) {
  cluster c(3);
  c.elect();
  c.change_members({1, 2, 3, 4, 5});  // who are not there
  c.run(2 * timeout);
  EXPECT_EQ(c.leader(), 3u);
  c.crash(1);
  EXPECT_TRUE(c.run_until([&] { return c[3].role() != role::leader; }, 2 * timeout));
  c.change_members({2, 3});
  EXPECT_TRUE(c.run_until([&] { return c.leader_of({2, 3}) != 0; }));
}

// --- without the gate -------------------------------------------------------------------------------------------

TEST(election_without_gate, each_side_of_a_partition_has_a_leader_and_the_later_epoch_stays) {
  cluster c(5, without_gate());
  c.elect();
  c.partition({{4, 5}, {1, 2, 3}});
  ASSERT_TRUE(c.run_until([&] { return c.leader_of({1, 2, 3}) == 3; }));
  EXPECT_EQ(c.leader_of({4, 5}), 5u);
  EXPECT_EQ(c[3].epoch(), 2u);
  c.heal();
  ASSERT_TRUE(c.run_until([&] { return c.leader() != 0; }));
  EXPECT_EQ(c.leader(), 3u);
  EXPECT_EQ(c[3].epoch(), 2u);
}

TEST(election_without_gate, two_leaders_of_one_epoch_begin_a_later_one_when_they_meet) {
  cluster c(5, without_gate());
  c.elect();
  c.crash(5);
  c.partition({{1, 2}, {3, 4}});
  ASSERT_TRUE(c.run_until([&] { return c.leader_of({1, 2}) == 2 && c.leader_of({3, 4}) == 4; }));
  ASSERT_EQ(c[2].epoch(), c[4].epoch());
  c.heal();
  ASSERT_TRUE(c.run_until([&] { return c.leader() != 0; }));
  EXPECT_EQ(c.leader(), 4u);
  EXPECT_EQ(c[4].epoch(), 3u);
  EXPECT_EQ(c.leaders[3], std::set<node_id>{4});
}

TEST(election_without_gate, nobody_follows_two_leaders_of_one_epoch_crashes_included) {
  cluster c(4, without_gate());
  c.elect();  // 4 leads epoch 1
  c.crash(4);
  c.crash(1);
  c.start(1);
  message second = c.made(message_type::coordinator, 2, 1);  // of epoch 1
  const auto reply = c.reply(second, message_type::heartbeat_reply);
  ASSERT_TRUE(reply);
  EXPECT_EQ(reply->leader, 4u);
  EXPECT_EQ(c[1].leader(), 0u);
}

TEST(election_without_gate, a_leader_that_hears_of_another_one_of_its_epoch_stands_again) {
  cluster c(3, without_gate());
  c.elect();
  message reply = c.made(message_type::heartbeat_reply, 1, 3);
  reply.leader = 2;
  c.receive(reply);
  EXPECT_EQ(c[3].role(), role::candidate);
  EXPECT_EQ(c[3].last_change(), "epoch 1: node 2 has led the same epoch");
  EXPECT_EQ(c.elect(), 3u);
  EXPECT_EQ(c[3].epoch(), 2u);
}

TEST(election_without_gate, a_leader_without_followers_goes_on) {
  cluster c(3, without_gate());
  c.elect();
  c.isolate(3);
  c.run(20 * timeout);
  EXPECT_EQ(c[3].role(), role::leader);
  EXPECT_EQ(c.leader_of({1, 2}), 2u);
}

}  // namespace
}  // namespace test
}  // namespace lockstep::election
