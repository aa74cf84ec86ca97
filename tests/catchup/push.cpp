// Push: records flow as they come into being, whatever the two logs and their disks do meanwhile.

#include "lockstep/catchup/source.hpp"

#include "lockstep/catchup/follower.hpp"
#include "world.hpp"

#include <gtest/gtest.h>

#include <chrono>
#include <memory>
#include <string>

namespace lockstep::test {
namespace {

using namespace std::chrono_literals;

class catchup_push : public testing::Test {
 protected:
  world in;
  faulty_disk source_disk;
  faulty_disk follower_disk;
};

TEST_F(catchup_push, an_empty_follower_gets_everything_and_is_told_when_it_has_caught_up) {
  leader source(in, source_disk);
  replica follower(in, follower_disk);
  source.at.append(100);
  connection link(in, source, follower);
  ASSERT_TRUE(in.run_until([&] { return follower.caught_up(); }));
  expect_equal(source, follower);
  ASSERT_EQ(follower.told.subscriptions.size(), 1u);
  EXPECT_EQ(follower.told.subscriptions[0].first, position{});
  EXPECT_EQ(follower.told.subscriptions[0].second, 100u);
  EXPECT_EQ(follower.told.records, 100u);
  ASSERT_EQ(follower.told.caught_up_at.size(), 1u);
  EXPECT_EQ(follower.told.caught_up_at[0], source.log().last());
}

TEST_F(catchup_push, a_follower_of_an_empty_source_is_caught_up_at_once) {
  leader source(in, source_disk);
  replica follower(in, follower_disk);
  connection link(in, source, follower);
  ASSERT_TRUE(in.run_until([&] { return follower.caught_up(); }));
  EXPECT_EQ(follower.told.subscriptions.at(0).second, 0u);
  EXPECT_EQ(follower.told.records, 0u);
}

TEST_F(catchup_push, records_arrive_as_they_are_written_and_their_acks_come_back) {
  leader source(in, source_disk);
  replica follower(in, follower_disk);
  connection link(in, source, follower);
  for (epoch_t epoch = 1; epoch <= 30; ++epoch) {
    source.at.append(1 + epoch % 5, epoch);
    ASSERT_TRUE(in.run_until([&] { return follower.has_all_of(source); }));
    ASSERT_TRUE(in.run_until([&] { return source.follower().acked == source.log().last(); }));
  }
  expect_equal(source, follower);
  EXPECT_EQ(follower.told.records, source.log().last().index);
}

TEST_F(catchup_push, records_of_every_kind_arrive_as_they_are) {
  leader source(in, source_disk);
  replica follower(in, follower_disk);
  source.log().append(3, bytes_view(), epoch_record);
  source.log().append(3, as_bytes("user's"), first_user_kind);
  source.at.append(1, 4, std::string("\0binary\xff", 8));
  ASSERT_TRUE(catch_up(in, source, follower));
  expect_equal(source, follower);
  EXPECT_EQ(follower.at.records()[0].kind, epoch_record);
}

TEST_F(catchup_push, sealed_segments_ship_from_their_files_as_the_hot_tail_does_from_memory) {
  leader source(in, source_disk, cold_log());
  replica follower(in, follower_disk);
  for (int i = 0; i < 200; ++i) source.at.append_one(1, std::string(static_cast<std::size_t>(i * 7 % 900), 'x'));
  source.at.append(1);
  ASSERT_GT(source.log().segment_count(), 3u);
  ASSERT_TRUE(catch_up(in, source, follower));
  expect_equal(source, follower);
}

TEST_F(catchup_push, what_is_durable_before_the_follower_looks_is_acknowledged_too) {
  log_options unsynced = small_log();
  unsynced.sync = sync_policy::never;
  leader source(in, source_disk);
  replica follower(in, follower_disk, {}, unsynced);
  source.at.append(10);
  connection link(in, source, follower);
  ASSERT_TRUE(in.run_until([&] { return follower.caught_up(); }));
  source.at.append(1);
  EXPECT_TRUE(in.run_until([&] { return source.follower().acked == source.log().last(); }, 5s));
}

TEST_F(catchup_push, what_is_not_durable_at_the_source_is_not_shipped_unless_it_is_asked_to) {
  source_options staged;
  staged.ship = visibility::staged;
  for (const bool ships_staged : {false, true}) {
    faulty_disk here;
    faulty_disk there;
    leader source(in, here, small_log(), ships_staged ? staged : source_options());
    replica follower(in, there);
    source.at.append(3);
    connection link(in, source, follower);
    ASSERT_TRUE(in.run_until([&] { return follower.caught_up(); }));
    here.hold_syncs();
    source.at.append_one(1, "not safe yet");
    in.run_for(5s);
    EXPECT_EQ(follower.log().last().index, ships_staged ? 4u : 3u);
    EXPECT_TRUE(follower.caught_up());
    here.release_syncs();
    ASSERT_TRUE(in.run_until([&] { return follower.log().last().index == 4; }));
    link.end();
    source.at.close();
    follower.at.close();
  }
}

TEST_F(catchup_push, the_status_of_each_follower_says_who_it_is_and_what_it_has) {
  leader source(in, source_disk);
  replica follower(in, follower_disk);
  source.at.append(5);
  EXPECT_TRUE(source.source.followers().empty());
  {
    connection link(in, source, follower);
    ASSERT_TRUE(in.run_until([&] { return follower.caught_up(); }));
    ASSERT_TRUE(in.run_until([&] { return source.follower().acked.index == 5; }));
    EXPECT_EQ(source.follower().node, 2u);
    EXPECT_EQ(source.follower().address, "pipe:1");
    EXPECT_EQ(source.follower().mode, catchup::mode::push);
    EXPECT_TRUE(source.follower().subscribed);
    EXPECT_TRUE(follower.follower.state().connected);
  }
  EXPECT_TRUE(source.source.followers().empty());
  EXPECT_FALSE(follower.follower.state().connected);
  EXPECT_FALSE(follower.follower.state().caught_up);
}

TEST_F(catchup_push, two_followers_are_served_at_once_and_one_that_stands_still_does_not_hold_the_other) {
  faulty_disk third_disk;
  leader source(in, source_disk);
  replica follower(in, follower_disk);
  replica slow(in, third_disk, {}, [] {
    log_options small = small_log();
    small.max_unsynced_bytes = 2000;
    return small;
  }());
  connection link(in, source, follower);
  connection slow_link(in, source, slow);
  ASSERT_TRUE(in.run_until([&] { return follower.caught_up() && slow.caught_up(); }));
  ASSERT_EQ(source.source.followers().size(), 2u);
  third_disk.hold_syncs();
  source.at.append(2000);
  ASSERT_TRUE(in.run_until([&] { return follower.has_all_of(source); }));
  EXPECT_LT(slow.log().last().index, 100u);
  third_disk.release_syncs();
  ASSERT_TRUE(in.run_until([&] { return slow.has_all_of(source); }));
  expect_equal(source, follower);
  expect_equal(source, slow);
}

TEST_F(catchup_push, a_follower_resumes_behind_what_it_has_on_each_new_connection) {
  leader source(in, source_disk);
  replica follower(in, follower_disk);
  for (int life = 0; life < 5; ++life) {
    source.at.append(20);
    ASSERT_TRUE(catch_up(in, source, follower));
  }
  EXPECT_EQ(follower.told.records, 100u);
  expect_equal(source, follower);
}

TEST_F(catchup_push, a_follower_that_restarts_on_its_directory_resumes_there) {
  leader source(in, source_disk);
  source.at.append(50);
  {
    replica follower(in, follower_disk);
    ASSERT_TRUE(catch_up(in, source, follower));
    follower.at.close();
  }
  source.at.append(50, 2);
  replica follower(in, follower_disk);
  ASSERT_TRUE(catch_up(in, source, follower));
  EXPECT_EQ(follower.told.records, 50u);
  expect_equal(source, follower);
}

TEST_F(catchup_push, a_source_that_restarts_goes_on_where_it_was) {
  replica follower(in, follower_disk);
  for (epoch_t life = 1; life <= 3; ++life) {
    leader source(in, source_disk);
    source.at.append(10, life);
    ASSERT_TRUE(catch_up(in, source, follower));
    expect_equal(source, follower);
    source.at.close();
  }
  EXPECT_EQ(follower.told.records, 30u);
}

TEST_F(catchup_push, a_log_that_begins_at_a_later_index_is_followed_by_one_that_begins_there_too) {
  log_options late = small_log();
  late.start = {3, 1000, 77};
  leader source(in, source_disk, late);
  replica follower(in, follower_disk, {}, late);
  source.at.append(10, 3);
  ASSERT_TRUE(catch_up(in, source, follower));
  expect_equal(source, follower);
  EXPECT_EQ(follower.log().base().index, 1000u);
}

TEST_F(catchup_push, a_follower_chained_to_another_follower_gets_the_same_log) {
  leader source(in, source_disk);
  leader middle(in, follower_disk);  // also a follower:
  notes told;
  test_follower middle_follower(middle.at.env, middle.log(), told);
  faulty_disk last_disk;
  replica last(in, last_disk);

  auto pipes = connected_pipes(in);
  test_channel at_source(source.at.env, std::move(pipes.first), channel_of(1));
  test_channel at_middle(middle.at.env, std::move(pipes.second), channel_of(2));
  auto serving = start(in.io, serve(source.source, at_source));
  auto following = start(in.io, follow(middle_follower, at_middle));
  connection link(in, middle, last);
  for (int i = 0; i < 10; ++i) {
    source.at.append(10, static_cast<epoch_t>(i + 1));
    ASSERT_TRUE(in.run_until([&] { return last.has_all_of(source); }));
  }
  expect_equal(source, last);
  link.end();
  at_source.abort();
  ASSERT_TRUE(in.run_until([&] { return serving.done() && following.done(); }));
}

// --- Heartbeats and lag ---------------------------------------------------------------------------------------------

TEST_F(catchup_push, an_idle_follower_hears_heartbeats_and_its_lag_stays_zero) {
  leader source(in, source_disk);
  replica follower(in, follower_disk);
  source.at.append(5);
  source.at.env.wall_offset = -1h;  // the machines' clocks differ
  connection link(in, source, follower);
  ASSERT_TRUE(in.run_until([&] { return follower.caught_up(); }));
  for (int i = 0; i < 20; ++i) {
    in.run_for(1s);
    EXPECT_EQ(follower.follower.state().lag_records, 0u);
    EXPECT_EQ(follower.follower.state().lag_time, 0s);
    EXPECT_LE(follower.at.env.wall_now() - follower.follower.state().last_contact, 500ms);
  }
  EXPECT_EQ(follower.told.caught_up_at.size(), 1u) << "told once";
}

TEST_F(catchup_push, the_lag_of_a_follower_whose_disk_stands_still_grows_with_the_sources_clock) {
  leader source(in, source_disk);
  replica follower(in, follower_disk);
  source.at.append(5);
  connection link(in, source, follower);
  ASSERT_TRUE(in.run_until([&] { return follower.caught_up(); }));
  follower_disk.hold_syncs();
  source.at.append(7);
  in.run_for(10s);
  EXPECT_EQ(follower.follower.state().lag_records, 7u);
  EXPECT_GE(follower.follower.state().lag_time, 9s);
  EXPECT_LE(follower.follower.state().lag_time, 10s);
  EXPECT_FALSE(follower.caught_up());
  EXPECT_EQ(source.follower().acked.index, 5u);
  source.at.env.wall_offset = -2h;  // somebody sets its clock back
  in.run_for(10s);
  EXPECT_GE(follower.follower.state().lag_time, 18s);
  EXPECT_LE(follower.follower.state().lag_time, 20s);
  follower_disk.release_syncs();
  ASSERT_TRUE(in.run_until([&] { return follower.caught_up(); }));
  EXPECT_EQ(follower.follower.state().lag_records, 0u);
  EXPECT_EQ(follower.follower.state().lag_time, 0s);
}

// --- Sizes ----------------------------------------------------------------------------------------------------------

TEST_F(catchup_push, a_record_larger_than_a_batch_goes_alone) {
  source_options small;
  small.max_batch_bytes = 300;
  leader source(in, source_disk, small_log(), small);
  replica follower(in, follower_disk);
  source.at.append(3);
  source.at.append_one(1, std::string(40'000, 'L'));
  source.at.append(3);
  ASSERT_TRUE(catch_up(in, source, follower));
  expect_equal(source, follower);
  EXPECT_NE(std::find(follower.told.batches.begin(), follower.told.batches.end(), std::pair<index_t, index_t>(4, 4)),
            follower.told.batches.end());
}

TEST_F(catchup_push, batches_fit_into_the_frames_that_both_sides_take) {
  for (const bool small_at_source : {false, true}) {
    faulty_disk here;
    faulty_disk there;
    leader source(in, here);
    replica follower(in, there);
    source.at.append(200);
    channel_options narrow = channel_of(small_at_source ? 1 : 2);
    narrow.max_frame_bytes = 200;
    channel_options wide = channel_of(small_at_source ? 2 : 1);
    connection link(in, source, follower, {}, small_at_source ? narrow : wide, small_at_source ? wide : narrow);
    ASSERT_TRUE(in.run_until([&] { return follower.has_all_of(source) || link.over(); }));
    expect_equal(source, follower);
    link.end();
    source.at.close();
    follower.at.close();
  }
}

TEST_F(catchup_push, a_record_that_no_frame_can_hold_ends_with_an_error_that_both_sides_understand) {
  leader source(in, source_disk);
  replica follower(in, follower_disk);
  source.at.append(3);
  source.at.append_one(1, std::string(5000, 'L'));
  source.at.append(1);
  channel_options narrow = channel_of(2);
  narrow.max_frame_bytes = 4096;
  connection link(in, source, follower, {}, channel_of(1), narrow);
  ASSERT_TRUE(link.ends());
  EXPECT_EQ(link.serving.error(), errc::frame_too_large);
  EXPECT_EQ(link.following.error(), errc::remote_failure);
  try {
    link.serving.result();
  } catch (const std::system_error& error) {
    EXPECT_NE(std::string(error.what()).find("record 4 takes 5032 bytes"), std::string::npos) << error.what();
  }
  try {
    link.following.result();
  } catch (const std::system_error& error) {
    EXPECT_NE(std::string(error.what()).find("frame exceeds the size limit, at record 4"), std::string::npos)
        << error.what();
  }
  EXPECT_EQ(follower.log().last().index, 3u);
}

TEST_F(catchup_push, a_record_that_the_followers_log_does_not_take_is_named_by_the_follower) {
  log_options narrow = small_log();
  narrow.max_payload_bytes = 1000;
  leader source(in, source_disk);
  replica follower(in, follower_disk, {}, narrow);
  source.at.append(3);
  source.at.append_one(1, std::string(1001, 'L'));
  source.at.append(1);
  connection link(in, source, follower);
  ASSERT_TRUE(link.ends());
  EXPECT_EQ(link.following.error(), errc::record_too_large);
  EXPECT_EQ(follower.log().last().index, 3u);
}

TEST_F(catchup_push, a_follower_whose_log_takes_little_at_a_time_waits_for_its_syncs_under_every_policy) {
  for (const sync_policy policy : {sync_policy::always, sync_policy::interval, sync_policy::never}) {
    SCOPED_TRACE(static_cast<int>(policy));
    faulty_disk here;
    faulty_disk there;
    log_options tight = small_log();
    tight.sync = policy;
    tight.max_unsynced_bytes = 1000;
    leader source(in, here);
    replica follower(in, there, {}, tight);
    // Larger than half of what may be unsynced: under `interval` such a record finds a log that is full though flushed.
    for (int i = 0; i < 50; ++i) source.at.append_one(1, std::string(i % 3 == 0 ? 700 : 100, 'x'));
    source.at.append(1);
    ASSERT_TRUE(catch_up(in, source, follower));
    expect_equal(source, follower);
    source.at.close();
    follower.at.close();
  }
}

// --- Failing disks --------------------------------------------------------------------------------------------------

TEST_F(catchup_push, a_follower_whose_log_fails_stops_and_acknowledges_nothing_more) {
  leader source(in, source_disk);
  {
    replica follower(in, follower_disk);
    source.at.append(10);
    connection link(in, source, follower);
    ASSERT_TRUE(in.run_until([&] { return source.follower().acked.index == 10; }));
    follower_disk.inject({.kinds = {op_kind::datasync}});
    source.at.append(10);
    ASSERT_TRUE(link.ends());
    EXPECT_EQ(link.following.error(), errc::log_failed);
    EXPECT_EQ(link.serving.error(), std::error_code()) << "a follower that goes is no error";
    EXPECT_EQ(follower.log().acked().index, 10u);
    (void)error_of([&] { follower.at.close(); });
  }
  replica follower(in, follower_disk);  // reopened, it goes on
  ASSERT_TRUE(catch_up(in, source, follower));
  expect_equal(source, follower);
}

TEST_F(catchup_push, a_follower_whose_disk_is_full_stops_and_goes_on_when_there_is_room) {
  leader source(in, source_disk);
  replica follower(in, follower_disk);
  source.at.append(10);
  ASSERT_TRUE(catch_up(in, source, follower));
  follower_disk.set_capacity(follower_disk.used());
  source.at.append(500);
  {
    connection link(in, source, follower);
    ASSERT_TRUE(link.ends());
    EXPECT_EQ(link.following.error(), std::errc::no_space_on_device);
  }
  EXPECT_GE(follower.log().last().index, 10u);
  EXPECT_FALSE(follower.log().failure()) << "a refused append is no failure";
  EXPECT_EQ(follower.at.records().size(), follower.log().last().index);
  follower_disk.set_capacity(1 << 30);
  ASSERT_TRUE(catch_up(in, source, follower));
  expect_equal(source, follower);
  EXPECT_EQ(follower.told.last, 510u);
}

TEST_F(catchup_push, a_follower_that_is_stopped_while_a_sync_is_under_way_ends_at_once_and_keeps_what_it_got) {
  leader source(in, source_disk);
  replica follower(in, follower_disk);
  source.at.append(10);
  follower_disk.hold_syncs();
  connection link(in, source, follower);
  ASSERT_TRUE(in.run_until([&] { return follower.log().last().index == 10; }));
  in.settle();
  link.following.cancel();
  in.settle();
  EXPECT_TRUE(link.following.done());
  link.end();
  EXPECT_EQ(follower.log().acked().index, 0u);
  follower_disk.release_syncs();
  ASSERT_TRUE(catch_up(in, source, follower));
  expect_equal(source, follower);
  EXPECT_EQ(follower.told.records, 10u);
}

TEST_F(catchup_push, a_source_whose_log_is_closed_ends_and_says_so) {
  leader source(in, source_disk);
  replica follower(in, follower_disk);
  source.at.append(3);
  connection link(in, source, follower);
  ASSERT_TRUE(in.run_until([&] { return follower.caught_up(); }));
  source.at.close();
  ASSERT_TRUE(link.ends());
  EXPECT_EQ(link.serving.error(), errc::closed);
  EXPECT_EQ(link.following.error(), errc::remote_failure);
}

TEST_F(catchup_push, a_source_whose_log_fails_ends_and_ships_nothing_that_was_not_durable) {
  leader source(in, source_disk);
  replica follower(in, follower_disk);
  source.at.append(3);
  connection link(in, source, follower);
  ASSERT_TRUE(in.run_until([&] { return follower.caught_up(); }));
  source_disk.inject({.kinds = {op_kind::datasync}});
  source.at.append_one(1, "lost");
  ASSERT_TRUE(link.ends());
  EXPECT_EQ(link.serving.error(), errc::log_failed);
  EXPECT_EQ(link.following.error(), errc::remote_failure);
  EXPECT_EQ(follower.log().last().index, 3u);
}

TEST_F(catchup_push, damage_in_a_sealed_segment_of_the_source_never_reaches_a_followers_log) {
  log_options cold = cold_log();
  for (const bool in_a_header : {true, false}) {
    faulty_disk here;
    faulty_disk there;
    {
      leader source(in, here, cold);
      for (int i = 0; i < 100; ++i) source.at.append_one(1, std::string(500, 'x'));
      source.at.append(1);
      source.at.close();
    }
    leader source(in, here, cold);  // nothing is in memory
    replica follower(in, there);
    const std::uint64_t record = log_format::segment_header_bytes + 10 * log_format::record_bytes(500);
    here.flip_bit("/log/00000000000000000001.seg", record + (in_a_header ? 8 : 100));
    connection link(in, source, follower);
    ASSERT_TRUE(link.ends());
    EXPECT_EQ(follower.log().last().index, 10u);
    if (in_a_header) {
      EXPECT_EQ(link.serving.error(), errc::corrupt);
      EXPECT_EQ(link.following.error(), errc::remote_failure);
    } else {
      EXPECT_EQ(link.following.error(), errc::corrupt);
    }
    EXPECT_EQ(follower.at.records(), std::vector<content>(10, content{1, data_record, std::string(500, 'x')}));
    (void)error_of([&] { source.at.close(); });
    follower.at.close();
  }
}

// --- A source's log that changes under its followers ----------------------------------------------------------------

TEST_F(catchup_push, a_source_that_takes_back_what_it_shipped_ends_the_session_and_finds_the_divergence_in_the_next) {
  leader source(in, source_disk);
  replica follower(in, follower_disk, repairing());
  source.at.append(10, 1, "old");
  {
    connection link(in, source, follower);
    ASSERT_TRUE(in.run_until([&] { return follower.caught_up(); }));
    in.run(source.log().truncate_suffix(6));
    source.at.append(10, 2, "new");
    ASSERT_TRUE(link.ends());
    EXPECT_EQ(link.serving.error(), errc::diverged);
    EXPECT_EQ(link.following.error(), errc::remote_failure);
  }
  ASSERT_TRUE(catch_up(in, source, follower));
  ASSERT_EQ(follower.told.divergences.size(), 1u);
  EXPECT_EQ(follower.told.divergences[0].common.index, 6u);
  EXPECT_EQ(follower.told.divergences[0].last_lost, 10u);
  expect_equal(source, follower);
}

TEST_F(catchup_push, a_source_that_takes_records_back_before_it_shipped_anything_in_this_session_notices_too) {
  leader source(in, source_disk);
  replica follower(in, follower_disk);
  source.at.append(10, 1, "old");
  ASSERT_TRUE(catch_up(in, source, follower));
  connection link(in, source, follower);  // accepted at 10, nothing to ship
  ASSERT_TRUE(in.run_until([&] { return follower.caught_up(); }));
  in.run(source.log().truncate_suffix(6));
  source.at.append(10, 2, "new");
  ASSERT_TRUE(link.ends());
  EXPECT_EQ(link.serving.error(), errc::diverged);
  EXPECT_EQ(follower.log().last().index, 10u);
}

TEST_F(catchup_push, a_follower_that_compaction_passes_by_while_it_is_served_gets_the_snapshot_and_then_the_rest) {
  leader source(in, source_disk, cold_log());
  log_options tight = small_log();
  tight.max_unsynced_bytes = 2000;
  replica follower(in, follower_disk, {}, tight);
  connection link(in, source, follower);
  ASSERT_TRUE(in.run_until([&] { return follower.caught_up(); }));
  follower_disk.hold_syncs();
  const std::string filler(400, 'x');
  for (int i = 0; i < 3000; ++i) {
    source.at.append_one(1, filler);
    if (i % 10 == 0) in.run(source.log().durable(source.log().last().index));
  }
  in.run(source.log().durable(source.log().last().index));
  ASSERT_LT(follower.log().last().index, 200u);
  source.snapshots.upto = source.at.at(2900);
  source.snapshots.bytes = std::string(300'000, 'S');
  in.run(source.log().compact_prefix(2850));
  ASSERT_GT(source.log().base().index, 2500u);
  follower_disk.release_syncs();
  ASSERT_TRUE(in.run_until([&] { return follower.has_all_of(source) || link.over(); }));
  ASSERT_FALSE(link.over());
  ASSERT_EQ(follower.told.snapshots.size(), 1u);
  EXPECT_EQ(follower.told.snapshots[0], source.snapshots.bytes);
  EXPECT_EQ(follower.told.snapshot_upto.index, 2900u);
  EXPECT_EQ(follower.log().base(), source.at.at(2900));
  expect_equal(source, follower);
  EXPECT_TRUE(follower.told.divergences.empty());
}

TEST_F(catchup_push, a_source_whose_log_is_reset_ahead_of_the_follower_sends_the_snapshot) {
  leader source(in, source_disk);
  replica follower(in, follower_disk);
  source.at.append(10);
  connection link(in, source, follower);
  ASSERT_TRUE(in.run_until([&] { return follower.caught_up(); }));
  const position start{2, 500, 12345};
  source.snapshots.upto = start;
  in.run(source.log().reset(start));
  source.at.append(5, 2);
  ASSERT_TRUE(in.run_until([&] { return follower.has_all_of(source) || link.over(); }));
  ASSERT_FALSE(link.over());
  EXPECT_EQ(follower.told.snapshot_upto, start);
  expect_equal(source, follower);
}

}  // namespace
}  // namespace lockstep::test
