// Pull: the follower asks, the source answers each question once, at the latest after its wait.

#include "lockstep/catchup/source.hpp"

#include "lockstep/catchup/follower.hpp"
#include "world.hpp"

#include <gtest/gtest.h>

#include <chrono>
#include <string>

namespace lockstep::test {
namespace {

using namespace std::chrono_literals;

class catchup_pull : public testing::Test {
 protected:
  world in;
  faulty_disk source_disk;
  faulty_disk follower_disk;

  static follower_options polling_every(duration interval) {
    follower_options options = pulling();
    options.poll_interval = interval;
    return options;
  }
};

TEST_F(catchup_pull, a_follower_gets_everything_and_goes_on_polling) {
  leader source(in, source_disk);
  replica follower(in, follower_disk, polling_every(1s));
  source.at.append(100);
  connection link(in, source, follower);
  for (epoch_t epoch = 2; epoch < 10; ++epoch) {
    ASSERT_TRUE(in.run_until([&] { return follower.caught_up() && follower.has_all_of(source); }));
    source.at.append(10, epoch);
  }
  ASSERT_TRUE(in.run_until([&] { return follower.has_all_of(source); }));
  expect_equal(source, follower);
  EXPECT_EQ(source.follower().mode, catchup::mode::pull);
  ASSERT_TRUE(in.run_until([&] { return source.follower().acked == source.log().last(); }));
}

TEST_F(catchup_pull, a_follower_is_told_at_once_how_far_the_source_is) {
  leader source(in, source_disk);
  follower_options small = polling_every(1s);
  small.max_batch_bytes = 100;
  replica follower(in, follower_disk, small);
  source.at.append(100);
  connection link(in, source, follower);
  ASSERT_TRUE(in.run_until([&] { return !follower.told.subscriptions.empty(); }));
  EXPECT_EQ(follower.told.subscriptions[0].second, 100u);
  EXPECT_EQ(follower.follower.state().lag_records, 100u);
  EXPECT_EQ(follower.told.records, 0u);
  ASSERT_TRUE(in.run_until([&] { return follower.caught_up(); }));
  EXPECT_EQ(follower.told.records, 100u);
}

TEST_F(catchup_pull, a_poll_that_found_nothing_is_repeated_after_the_interval_and_not_before) {
  leader source(in, source_disk);
  replica follower(in, follower_disk, polling_every(10s));
  connection link(in, source, follower);
  ASSERT_TRUE(in.run_until([&] { return follower.caught_up(); }));
  in.settle();
  source.at.append(1);
  in.run_for(9s);
  EXPECT_EQ(follower.log().last().index, 0u);
  in.run_for(2s);
  EXPECT_EQ(follower.log().last().index, 1u);
}

TEST_F(catchup_pull, a_follower_that_is_behind_does_not_rest_between_batches) {
  leader source(in, source_disk);
  follower_options small = polling_every(24h);
  small.max_batch_bytes = 200;
  replica follower(in, follower_disk, small);
  source.at.append(500);
  connection link(in, source, follower);
  ASSERT_TRUE(in.run_until([&] { return follower.has_all_of(source); }, 1min));
  for (const auto& [first, last] : follower.told.batches) EXPECT_LE(last - first, 4u) << "the batch limit holds";
}

TEST_F(catchup_pull, a_long_poll_brings_records_as_soon_as_they_are_durable) {
  leader source(in, source_disk);
  replica follower(in, follower_disk, pulling(1min));
  connection link(in, source, follower);
  ASSERT_TRUE(in.run_until([&] { return follower.caught_up(); }));
  for (int i = 0; i < 20; ++i) {
    const time_point before = in.clock.now();
    source.at.append(1);
    ASSERT_TRUE(in.run_until([&] { return follower.has_all_of(source); }));
    EXPECT_EQ(in.clock.now(), before) << "no time had to pass";
    in.run_for(7s);
  }
  expect_equal(source, follower);
}

TEST_F(catchup_pull, a_long_poll_is_answered_by_a_heartbeat_after_its_wait) {
  leader source(in, source_disk);
  replica follower(in, follower_disk, pulling(1min));
  connection link(in, source, follower);
  ASSERT_TRUE(in.run_until([&] { return follower.caught_up(); }));
  in.settle();
  const wall_time heard = follower.follower.state().last_contact;
  in.run_for(59s);
  EXPECT_EQ(follower.follower.state().last_contact, heard);
  in.run_for(2s);
  EXPECT_GT(follower.follower.state().last_contact, heard);
  in.run_for(1min);
  EXPECT_GT(follower.follower.state().last_contact, heard + 61s) << "and is asked anew";
}

TEST_F(catchup_pull, the_lag_is_right_while_a_follower_is_behind_batch_after_batch) {
  leader source(in, source_disk);
  follower_options small = polling_every(1s);
  small.max_batch_bytes = 100;
  replica follower(in, follower_disk, small);
  source.at.append(1000);
  connection link(in, source, follower);
  ASSERT_TRUE(in.run_until([&] { return follower.log().last().index == 50; }));
  source.at.append(1000);
  in.clock.advance(1s);  // the source beats with the next answer
  ASSERT_TRUE(in.run_until([&] { return follower.log().last().index == 100; }));
  EXPECT_GE(follower.follower.state().lag_records, 1900u);
  EXPECT_GE(follower.follower.state().lag_time, 1s);
  EXPECT_FALSE(follower.caught_up());
  ASSERT_TRUE(in.run_until([&] { return follower.caught_up(); }));
  EXPECT_EQ(follower.log().last().index, 2000u);
  expect_equal(source, follower);
}

TEST_F(catchup_pull, a_long_poll_ends_when_the_sources_log_closes) {
  leader source(in, source_disk);
  replica follower(in, follower_disk, pulling(1min));
  connection link(in, source, follower);
  ASSERT_TRUE(in.run_until([&] { return follower.caught_up(); }));
  in.settle();
  source.at.close();
  ASSERT_TRUE(in.run_until([&] { return link.over(); }, 10s));
  EXPECT_EQ(link.serving.error(), errc::closed);
  EXPECT_EQ(link.following.error(), errc::remote_failure);
}

TEST_F(catchup_pull, a_resting_follower_notices_at_once_that_the_connection_is_gone) {
  leader source(in, source_disk);
  replica follower(in, follower_disk, polling_every(24h));
  connection link(in, source, follower);
  ASSERT_TRUE(in.run_until([&] { return follower.caught_up(); }));
  in.run_for(1min);
  link.at_source.abort();
  in.settle();
  EXPECT_TRUE(link.following.done());
}

TEST_F(catchup_pull, a_resting_follower_can_be_stopped) {
  leader source(in, source_disk);
  for (const auto& options : {polling_every(24h), pulling(24h)}) {
    faulty_disk disk;
    replica follower(in, disk, options);
    connection link(in, source, follower);
    ASSERT_TRUE(in.run_until([&] { return follower.caught_up(); }));
    in.settle();
    link.following.cancel();
    in.settle();
    EXPECT_TRUE(link.following.done());
    link.end();
    follower.at.close();
  }
}

TEST_F(catchup_pull, a_source_that_takes_back_only_what_it_has_not_shipped_goes_on) {
  leader source(in, source_disk);
  replica follower(in, follower_disk, polling_every(1h));
  source.at.append(10, 1, "old");
  connection link(in, source, follower);
  ASSERT_TRUE(in.run_until([&] { return follower.caught_up(); }));
  in.settle();
  source.at.append(10, 1, "old");
  in.run(source.log().truncate_suffix(10));
  source.at.append(5, 2, "new");
  ASSERT_TRUE(in.run_until([&] { return follower.has_all_of(source) || link.over(); }, 10h));
  ASSERT_FALSE(link.over());
  expect_equal(source, follower);
}

TEST_F(catchup_pull, a_source_that_takes_back_what_it_shipped_ends_a_long_poll) {
  leader source(in, source_disk);
  replica follower(in, follower_disk, pulling(1h));
  source.at.append(10);
  connection link(in, source, follower);
  ASSERT_TRUE(in.run_until([&] { return follower.caught_up(); }));
  in.settle();
  in.run(source.log().truncate_suffix(4));
  ASSERT_TRUE(in.run_until([&] { return link.over(); }, 10s));
  EXPECT_EQ(link.serving.error(), errc::diverged);
}

TEST_F(catchup_pull, a_follower_that_compaction_passes_by_gets_the_snapshot_as_its_answer) {
  for (const bool long_poll : {false, true}) {
    faulty_disk here;
    faulty_disk there;
    leader source(in, here);
    follower_options options = long_poll ? pulling(1s) : polling_every(1s);
    options.max_batch_bytes = 1000;
    replica follower(in, there, options);
    for (int i = 0; i < 300; ++i) source.at.append_one(1, std::string(400, 'x'));
    source.at.append(1);
    there.hold_syncs();
    connection link(in, source, follower);
    ASSERT_TRUE(in.run_until([&] { return follower.log().last().index >= 10; }));
    source.snapshots.upto = source.at.at(290);
    in.run(source.log().compact_prefix(280));
    ASSERT_GT(source.log().base().index, 100u);
    there.release_syncs();
    ASSERT_TRUE(in.run_until([&] { return follower.has_all_of(source) || link.over(); }));
    EXPECT_EQ(follower.told.snapshots.size(), 1u);
    expect_equal(source, follower);
    source.at.append(10);
    ASSERT_TRUE(in.run_until([&] { return follower.has_all_of(source) || link.over(); }));
    expect_equal(source, follower);
    link.end();
    source.at.close();
    follower.at.close();
  }
}

}  // namespace
}  // namespace lockstep::test
