// How messages are numbered, held back, delivered and answered while one node leads.
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

// Node 1 leads, has numbered `count` messages of sender 7, and nothing of it has arrived anywhere.
void number_alone(cluster& c, std::uint64_t count) {
  c.elect(1);
  c.slow_disks = {1};
  for (std::uint64_t n = 1; n <= count; ++n) c.submit(1, 7, n, "7/" + std::to_string(n));
  c.wire.clear();
}

TEST(sequencer_order, messages_are_numbered_from_one_and_delivered_alike_everywhere) {
  cluster c(3);
  c.elect(3);
  say(c, 1, 9, 1, 3);
  for (node_id id = 1; id <= 3; ++id) {
    EXPECT_EQ(c.texts(id), (std::vector<std::string>{"9/1", "9/2", "9/3"}));
    EXPECT_EQ(c[id].delivered(), 3u);
    EXPECT_EQ(c.nodes.at(id).log.last(), c.nodes.at(3).log.last()) << "one chain proves one order";
  }
}

TEST(sequencer_order, messages_of_several_nodes_at_once_have_one_order) {
  cluster c(3);
  c.elect(2);
  for (std::uint64_t n = 1; n <= 2; ++n) {
    for (node_id at = 1; at <= 3; ++at) c.submit(at, 100 + at, n, std::to_string(at) + "/" + std::to_string(n));
  }
  c.settle();
  EXPECT_EQ(c.texts(1).size(), 6u);
  EXPECT_EQ(c.texts(1), c.texts(2));
  EXPECT_EQ(c.texts(3), c.texts(2));
}

TEST(sequencer_order, what_comes_too_early_is_held_back_and_delivered_in_order) {
  cluster c(3);
  number_alone(c, 4);
  c.receive(c.records(1, 2, 2, 4, 4));
  EXPECT_EQ(c.last(2), 0u);
  EXPECT_GT(c[2].held_bytes(), 0u);
  c.receive(c.records(1, 2, 1, 2, 4));
  EXPECT_EQ(c.last(2), 0u);
  c.receive(c.records(1, 2, 0, 1, 4));
  EXPECT_EQ(c.last(2), 4u);
  EXPECT_EQ(c[2].held_bytes(), 0u);
  c.sync(1);
  c.sync(2);
  EXPECT_EQ(c.texts(2), (std::vector<std::string>{"7/1", "7/2", "7/3", "7/4"}));
}

TEST(sequencer_order, what_is_held_back_is_bounded_by_bytes) {
  core_options few_bytes;
  few_bytes.holdback_bytes = 150;  // two records
  cluster c(3, few_bytes);
  number_alone(c, 6);
  for (index_t at = 5; at >= 1; --at) c.receive(c.records(1, 2, at, at + 1));
  EXPECT_LE(c[2].held_bytes(), 150u);
  c.receive(c.records(1, 2, 0, 1));
  EXPECT_EQ(c.last(2), 3u) << "those that are next are kept";
}

TEST(sequencer_order, what_was_held_back_and_does_not_follow_is_not_appended) {
  cluster c(3);
  number_alone(c, 2);
  memory_log other;
  const std::string zeros(40, '\1');
  for (int i = 0; i < 2; ++i) other.append(1, data_record, as_bytes(zeros));
  message liar = c.made(message_type::records, 1, 2);
  liar.at = *other.position_at(1);
  liar.index = 2;
  liar.records = other.batch(2, 1);
  c.receive(liar);
  c.receive(c.records(1, 2, 0, 1));
  EXPECT_EQ(c.last(2), 1u);
  EXPECT_EQ(c[2].held_bytes(), 0u);
}

TEST(sequencer_order, a_gap_is_asked_for_after_a_short_wait) {
  cluster c(3);
  number_alone(c, 3);
  c.receive(c.records(1, 2, 2, 3));
  EXPECT_FALSE(c.take(message_type::fetch, 2, 1));
  EXPECT_GE(c[2].deadline(), c.now + core_options{}.fetch_wait);
  EXPECT_LE(c[2].deadline(), c.now + core_options{}.fetch_wait * 3 / 2 + 1ns);
  c.now = c[2].deadline();
  c.tick(2);
  const auto fetch = c.take(message_type::fetch, 2, 1);
  ASSERT_TRUE(fetch);
  EXPECT_EQ(fetch->at, position());
  EXPECT_EQ(fetch->index, 2u);
  c.receive(*fetch);
  c.settle();
  EXPECT_EQ(c.last(2), 3u);
}

TEST(sequencer_order, a_gap_that_is_filled_meanwhile_is_not_asked_for) {
  cluster c(3);
  number_alone(c, 3);
  c.receive(c.records(1, 2, 2, 3));
  c.receive(c.records(1, 2, 0, 2));
  EXPECT_EQ(c[2].deadline(), instant::max());
}

TEST(sequencer_order, several_gaps_are_asked_for_at_once_up_to_the_limit) {
  core_options two_at_once;
  two_at_once.fetches_in_flight = 2;
  cluster c(3, two_at_once);
  number_alone(c, 6);
  for (const index_t at : {index_t{1}, index_t{3}, index_t{5}}) c.receive(c.records(1, 2, at, at + 1));
  c.now = c[2].deadline();
  c.tick(2);
  EXPECT_EQ(c.take(message_type::fetch, 2, 1)->index, 1u);
  EXPECT_EQ(c.take(message_type::fetch, 2, 1)->index, 3u);
  EXPECT_FALSE(c.take(message_type::fetch, 2, 1));
  c.receive(c.records(1, 2, 0, 1));
  EXPECT_EQ(c.take(message_type::fetch, 2, 1)->index, 5u) << "an answer makes room for another";
}

TEST(sequencer_order, a_lost_request_is_made_again) {
  cluster c(3);
  number_alone(c, 3);
  c.receive(c.records(1, 2, 2, 3));
  c.now = c[2].deadline();
  c.tick(2);
  ASSERT_TRUE(c.take(message_type::fetch, 2, 1));
  c.now = c[2].deadline();
  c.tick(2);
  EXPECT_TRUE(c.take(message_type::fetch, 2, 1));
}

TEST(sequencer_order, the_next_heartbeat_shows_what_was_lost_last) {
  cluster c(3);
  number_alone(c, 3);
  c.slow_disks.clear();
  EXPECT_TRUE(c.run_until([&] { return c.texts(2).size() == 3 && c.texts(3).size() == 3; }, 1s));
}

TEST(sequencer_order, a_long_gap_is_filled_message_by_message_without_waiting) {
  cluster c(3);
  number_alone(c, 60);  // 12 messages of 5 records
  c.slow_disks.clear();
  ASSERT_TRUE(c.run_until([&] { return c.last(2) == 60; }, core_options{}.heartbeat_interval + 50ms));
}

TEST(sequencer_order, records_that_come_again_change_nothing) {
  cluster c(3);
  c.elect(1);
  say(c, 1, 7, 1, 4);
  const position before = c.nodes.at(2).log.last();
  for (index_t at = 0; at <= 4; ++at) {
    for (index_t last = at; last <= 4; ++last) c.receive(c.records(1, 2, at, last, 4));
  }
  EXPECT_EQ(c.nodes.at(2).log.last(), before);
  EXPECT_EQ(c.nodes.at(2).log.acked(), before);
}

TEST(sequencer_order, what_is_no_message_is_not_appended) {
  cluster c(3);
  c.elect(1);
  for (const record_kind kind : {data_record, epoch_record}) {
    memory_log other;
    const std::string zeros(kind == data_record ? 10 : 40, '\1');  // too short; another kind
    other.append(1, kind, as_bytes(zeros));
    message made = c.made(message_type::records, 1, 2);
    made.index = 1;
    made.records = other.batch(1, 1);
    c.receive(made);
    EXPECT_EQ(c.last(2), 0u);
  }
}

// --- exactly once -----------------------------------------------------------------------------------------------

TEST(sequencer_once, who_submits_again_gets_the_same_number) {
  cluster c(3);
  c.elect(1);
  say(c, 2, 7, 1, 2);
  ASSERT_EQ(c.answered(2, 7, 2)->index, 2u);
  say(c, 3, 7, 2, 2);
  EXPECT_EQ(c.answered(3, 7, 2)->status, submit_status::ordered);
  EXPECT_EQ(c.answered(3, 7, 2)->index, 2u);
  say(c, 1, 7, 1, 1);
  EXPECT_EQ(c.answered(1, 7, 1)->index, 1u);
  EXPECT_EQ(c.last(1), 2u);
}

TEST(sequencer_once, what_is_not_delivered_yet_is_not_numbered_again_and_whoever_asked_last_is_answered) {
  cluster c(3);
  number_alone(c, 1);
  c.submit(2, 7, 1, "");
  while (c.deliver()) {
  }
  EXPECT_EQ(c.last(1), 1u);
  EXPECT_FALSE(c.answered(2, 7, 1));
  c.slow_disks.clear();
  c.run_until([&] { return c[1].delivered() == 1; });
  EXPECT_EQ(c.answered(2, 7, 1)->index, 1u);
}

TEST(sequencer_once, a_new_leader_knows_what_the_old_one_has_numbered) {
  cluster c(3);
  c.elect(1);
  say(c, 2, 7, 1, 3);
  c.crash(1);
  c.elect(2);
  say(c, 3, 7, 3, 4);
  EXPECT_EQ(c.answered(3, 7, 3)->index, 3u);
  EXPECT_EQ(c.answered(3, 7, 4)->index, 4u);
}

TEST(sequencer_once, a_new_leader_knows_also_what_it_has_not_delivered_yet) {
  cluster c(3);
  c.elect(1);
  c.isolate(3);
  c.slow_disks = {1};
  c.submit(1, 7, 1, "a");
  c.settle();
  c.crash(1);
  ASSERT_EQ(c.last(2), 1u);
  ASSERT_EQ(c[2].delivered(), 0u);
  c.heal();
  c.slow_disks = {3};
  c.elect(2);
  ASSERT_EQ(c[2].delivered(), 0u);
  c.submit(2, 7, 1, "a");
  EXPECT_EQ(c.last(2), 1u);
  c.slow_disks.clear();
  ASSERT_TRUE(c.run_until([&] { return c.answered(2, 7, 1).has_value(); }, 1s));
  EXPECT_EQ(c.answered(2, 7, 1)->index, 1u);
}

TEST(sequencer_once, a_message_waits_for_those_before_it) {
  cluster c(3);
  c.elect(1);
  say(c, 2, 7, 2, 2);
  EXPECT_EQ(c.answered(2, 7, 2)->status, submit_status::unknown_sender);
  say(c, 2, 7, 1, 1);
  say(c, 2, 7, 3, 3);
  EXPECT_EQ(c.answered(2, 7, 3)->status, submit_status::out_of_turn);
  say(c, 2, 7, 2, 3);
  EXPECT_EQ(c.answered(2, 7, 3)->index, 3u);
}

TEST(sequencer_once, senders_expire_by_log_time_alike_on_every_node) {
  core_options short_lived;
  short_lived.senders.expiry_ns = std::chrono::nanoseconds(10s).count();
  cluster c(3, short_lived);
  c.elect(1);
  const std::uint64_t begun = c.wall();
  c.submit(1, 7, 1, "7/1", begun);
  c.settle();
  c.now += 20s;  // nobody says anything, and no log time passes
  c.submit(1, 7, 2, "7/2", begun);
  c.settle();
  ASSERT_EQ(c.answered(1, 7, 2)->index, 2u);
  c.now += 20s;
  c.submit(1, 8, 1, "8/1", c.wall());
  c.settle();
  EXPECT_EQ(c[1].senders().size(), 1u);
  EXPECT_EQ(c[1].senders(), c[2].senders());
  c.submit(1, 7, 1, "", begun);
  EXPECT_EQ(c.answered(1, 7, 1)->status, submit_status::unknown_sender) << "it is ordered once already";
  c.submit(1, 7, 3, "7/3", begun);
  EXPECT_EQ(c.answered(1, 7, 3)->status, submit_status::unknown_sender);
  c.restart(2);
  c.run_until([&] { return c[2].delivered() == 3; });
  EXPECT_EQ(c[1].senders(), c[2].senders()) << "made anew of the log";
}

TEST(sequencer_once, log_time_does_not_go_back_under_a_leader_whose_clock_is_behind) {
  cluster c(3);
  c.elect(1);
  say(c, 1, 7, 1, 1);
  const std::uint64_t before = c[1].log_time_ns();
  c.crash(1);
  std::error_code ec;
  c.perform(2, c[2].lead(2, c.now, 5, ec));
  c.run_until([&] { return c[2].role() == role::leader; });
  say(c, 2, 7, 2, 2);
  EXPECT_EQ(c[2].log_time_ns(), before);
  EXPECT_EQ(decode_entry(c.nodes.at(2).log.payload_of(2))->time_ns, before);
}

TEST(sequencer_once, too_much_that_is_not_delivered_is_refused) {
  core_options few_bytes;
  few_bytes.max_undelivered_bytes = 10;
  cluster c(3, few_bytes);
  number_alone(c, 2);
  c.submit(1, 7, 3, "seven bytes");
  EXPECT_EQ(c.answered(1, 7, 3)->status, submit_status::overloaded);
  c.slow_disks.clear();
  c.run_until([&] { return c[1].undelivered_bytes() == 0; });
  c.submit(1, 7, 3, "");
  c.settle();
  EXPECT_EQ(c.answered(1, 7, 3)->index, 3u) << "one is always taken";
}

TEST(sequencer_once, who_knows_no_leader_says_so_and_so_does_who_does_not_lead) {
  cluster c(3);
  c.submit(2, 7, 1, "a");
  EXPECT_EQ(c.answered(2, 7, 1)->status, submit_status::not_leader);
  c.follow(2, 1, 5);
  c.nodes.at(2).answers.clear();
  c.submit(2, 7, 1, "a");
  EXPECT_FALSE(c.answered(2, 7, 1));
  c.settle();
  EXPECT_EQ(c.answered(2, 7, 1)->status, submit_status::not_leader);
}

// --- durable ----------------------------------------------------------------------------------------------------

TEST(sequencer_durable, delivered_means_durable_here) {
  cluster c(3);
  c.elect(1);
  c.slow_disks = {2};
  say(c, 1, 7, 1, 1);
  EXPECT_EQ(c[1].delivered(), 1u);
  EXPECT_EQ(c[3].delivered(), 1u);
  EXPECT_EQ(c.last(2), 1u);
  EXPECT_EQ(c[2].delivered(), 0u);
  c.sync(2);
  EXPECT_EQ(c[2].delivered(), 1u);
}

TEST(sequencer_durable, with_quorum_acks_a_message_is_delivered_when_a_majority_has_it_durable) {
  cluster c(5);
  c.elect(1);
  c.slow_disks = {2, 3, 4, 5};
  say(c, 1, 7, 1, 1);
  EXPECT_EQ(c[1].delivered(), 0u);
  c.sync(2);
  while (c.deliver()) {
  }
  EXPECT_EQ(c[1].delivered(), 0u);
  EXPECT_FALSE(c.answered(1, 7, 1));
  c.sync(3);
  while (c.deliver()) {
  }
  EXPECT_EQ(c[1].delivered(), 1u);
  EXPECT_EQ(c[2].delivered(), 1u) << "followers learn it from the leader";
  EXPECT_EQ(c[4].delivered(), 0u);
  EXPECT_EQ(c.answered(1, 7, 1)->index, 1u);
}

TEST(sequencer_durable, a_leader_counts_its_own_disk_when_it_has_the_message) {
  cluster c(3);
  c.elect(1);
  c.slow_disks = {1, 3};
  say(c, 1, 7, 1, 1);
  EXPECT_EQ(c[2].delivered(), 0u);
  c.sync(1);
  c.settle();
  EXPECT_EQ(c[1].delivered(), 1u);
  EXPECT_EQ(c[2].delivered(), 1u);
}

TEST(sequencer_durable, without_quorum_acks_the_leader_s_disk_is_enough_and_nobody_is_ahead_of_it) {
  cluster c(3, without_quorum());
  c.elect(1);
  c.slow_disks = {1};
  say(c, 1, 7, 1, 1);
  ASSERT_EQ(c.nodes.at(2).log.acked().index, 1u);
  EXPECT_EQ(c[2].delivered(), 0u);
  c.slow_disks = {2, 3};
  c.sync(1);
  EXPECT_EQ(c.answered(1, 7, 1)->index, 1u);
  EXPECT_EQ(c[1].delivered(), 1u);
  c.settle();
  EXPECT_EQ(c[2].delivered(), 1u);
}

TEST(sequencer_durable, a_lost_acknowledgement_is_made_up_for_by_the_next_heartbeat) {
  cluster c(3);
  c.elect(1);
  c.crash(3);
  c.slow_disks = {2};
  say(c, 1, 7, 1, 1);
  c.sync(2);
  ASSERT_TRUE(c.take(message_type::ack, 2, 1));
  c.settle();
  ASSERT_EQ(c[1].delivered(), 0u);
  EXPECT_TRUE(c.run_until([&] { return c[1].delivered() == 1; }, 1s));
}

TEST(sequencer_durable, acknowledgements_count_for_members_only_and_never_beyond_the_log) {
  cluster c(3);
  number_alone(c, 1);
  c.sync(1);
  message ack = c.made(message_type::ack, 2, 1);
  ack.index = 100;  // nobody who follows this leader says that
  c.receive(ack);
  ack.index = 1;
  ack.from = 9;
  c.receive(ack);
  EXPECT_EQ(c[1].acked_by(2), 0u);
  EXPECT_EQ(c[1].delivered(), 0u);
}

}  // namespace
}  // namespace lockstep::sequencer::test
