// Snapshots: what a follower gets in place of records that the source does not keep any more.

#include "lockstep/catchup/source.hpp"

#include "lockstep/catchup/follower.hpp"
#include "world.hpp"

#include <gtest/gtest.h>

#include <asio/detached.hpp>

#include <chrono>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace lockstep::test {
namespace {

using namespace std::chrono_literals;

class catchup_snapshot : public testing::Test {
 protected:
  world in;
  faulty_disk source_disk;
  faulty_disk follower_disk;

  // A source of 201 records that keeps only the last hundred or so.
  void write_and_compact(leader& source, epoch_t epoch = 1, const std::string& filler = std::string(300, 'f')) {
    for (int i = 0; i < 200; ++i) source.at.append_one(epoch, filler);
    source.at.append(1, epoch);
    in.run(source.log().compact_prefix(100));
    ASSERT_GT(source.log().base().index, 50u);
  }

  static awaitable<void> compact(leader& source) {
    co_await source.log().durable(source.log().last().index);
    co_await source.log().compact_prefix(500);
    source.snapshots.upto = source.log().position_at(550);
  }
};

TEST_F(catchup_snapshot, stands_for_the_records_that_retention_has_removed) {
  leader source(in, source_disk);
  replica follower(in, follower_disk);
  write_and_compact(source);
  source.snapshots.upto = source.at.at(150);
  source.snapshots.bytes = std::string(1'000'000, 'S');
  connection link(in, source, follower);
  ASSERT_TRUE(in.run_until([&] { return follower.caught_up(); }));
  ASSERT_EQ(follower.told.snapshots.size(), 1u);
  EXPECT_EQ(follower.told.snapshots[0], source.snapshots.bytes);
  EXPECT_EQ(follower.log().base(), source.at.at(150));
  EXPECT_EQ(follower.told.records, 51u);
  EXPECT_TRUE(follower.told.divergences.empty());
  EXPECT_EQ(follower.told.subscriptions.at(0).first, source.at.at(150));
  expect_equal(source, follower);
}

TEST_F(catchup_snapshot, may_be_empty_and_may_stand_for_everything) {
  leader source(in, source_disk);
  replica follower(in, follower_disk);
  write_and_compact(source);
  source.snapshots.upto = source.log().last();
  source.snapshots.bytes = "";
  connection link(in, source, follower);
  ASSERT_TRUE(in.run_until([&] { return follower.caught_up(); }));
  EXPECT_EQ(follower.told.snapshots, std::vector<std::string>{""});
  EXPECT_EQ(follower.log().base(), source.log().last());
  source.at.append(5);
  ASSERT_TRUE(in.run_until([&] { return follower.has_all_of(source); }));
  expect_equal(source, follower);
}

TEST_F(catchup_snapshot, may_stand_exactly_for_what_the_log_does_not_keep) {
  leader source(in, source_disk);
  replica follower(in, follower_disk);
  write_and_compact(source);
  source.snapshots.upto = source.log().base();
  ASSERT_TRUE(catch_up(in, source, follower));
  EXPECT_EQ(follower.log().base(), source.log().base());
  expect_equal(source, follower);
}

TEST_F(catchup_snapshot, is_given_to_a_pulling_follower_too) {
  leader source(in, source_disk);
  replica follower(in, follower_disk, pulling(1s));
  write_and_compact(source);
  source.snapshots.upto = source.at.at(150);
  ASSERT_TRUE(catch_up(in, source, follower));
  expect_equal(source, follower);
}

TEST_F(catchup_snapshot, travels_in_chunks_that_both_sides_take) {
  leader source(in, source_disk);
  replica follower(in, follower_disk);
  write_and_compact(source);
  source.snapshots.upto = source.at.at(150);
  channel_options narrow = channel_of(2);
  narrow.max_frame_bytes = 400;
  connection link(in, source, follower, {}, channel_of(1), narrow);
  ASSERT_TRUE(in.run_until([&] { return follower.has_all_of(source) || link.over(); }));
  EXPECT_EQ(follower.told.snapshots.size(), 1u);
  expect_equal(source, follower);
}

TEST_F(catchup_snapshot, is_missed_clearly_by_both_sides_when_there_is_none_that_the_log_continues) {
  leader source(in, source_disk);
  write_and_compact(source);
  const position base = source.log().base();
  const position last = source.log().last();
  const std::vector<std::optional<position>> unfit = {
      std::nullopt,
      position{},                                        // of nothing
      position{1, base.index - 1, 1234},                 // before what the log keeps
      position{base.epoch, base.index, base.chain + 1},  // of another history
      position{1, base.index + 10, 4711},                // likewise
      position{last.epoch, last.index + 1, last.chain},  // of records that the log does not have
  };
  for (std::size_t i = 0; i < unfit.size(); ++i) {
    SCOPED_TRACE(i);
    faulty_disk disk;
    replica follower(in, disk);
    follower.at.append(3, 1, "kept");
    source.snapshots.upto = unfit[i];
    connection link(in, source, follower);
    ASSERT_TRUE(link.ends());
    EXPECT_EQ(link.serving.error(), errc::snapshot_required);
    EXPECT_EQ(link.following.error(), errc::snapshot_required);
    EXPECT_EQ(follower.log().last().index, 3u);
    EXPECT_EQ(follower.told.snapshots_begun, 0u);
    follower.at.close();
  }
}

TEST_F(catchup_snapshot, is_refused_by_a_program_that_takes_none) {
  leader source(in, source_disk);
  replica follower(in, follower_disk);
  follower.told.takes_snapshots = false;
  write_and_compact(source);
  source.snapshots.upto = source.at.at(150);
  connection link(in, source, follower);
  ASSERT_TRUE(link.ends());
  EXPECT_EQ(link.following.error(), errc::snapshot_required);
  EXPECT_EQ(follower.log().last().index, 0u);
}

TEST_F(catchup_snapshot, that_the_program_fails_to_store_leaves_the_log_as_it_was) {
  for (const std::string failing : {"begin", "chunk", "end"}) {
    SCOPED_TRACE(failing);
    faulty_disk here;
    faulty_disk there;
    leader source(in, here);
    replica follower(in, there);
    follower.at.append(3, 1, "kept");
    write_and_compact(source);
    source.snapshots.upto = source.at.at(150);
    follower.told.on_snapshot = [&](const char* step) {
      if (step == failing) throw std::system_error(make_error_code(std::errc::no_space_on_device), "test");
    };
    {
      connection link(in, source, follower);
      ASSERT_TRUE(link.ends());
      EXPECT_EQ(link.following.error(), std::errc::no_space_on_device);
    }
    EXPECT_EQ(follower.log().last().index, 3u);
    follower.told.on_snapshot = [](const char*) {};
    ASSERT_TRUE(catch_up(in, source, follower));
    expect_equal(source, follower);
    source.at.close();
    follower.at.close();
  }
}

TEST_F(catchup_snapshot, that_is_outdated_when_it_has_arrived_is_followed_by_another) {
  leader source(in, source_disk);
  replica follower(in, follower_disk);
  write_and_compact(source);
  source.snapshots.upto = source.at.at(150);
  bool compacted = false;
  follower.told.on_snapshot = [&](const char* step) {
    if (std::string_view(step) != "end" || std::exchange(compacted, true)) return;
    for (int i = 0; i < 400; ++i) source.at.append_one(1, std::string(300, 'g'));
    asio::co_spawn(in.io, compact(source), asio::detached);
  };
  connection link(in, source, follower);
  ASSERT_TRUE(in.run_until([&] { return follower.has_all_of(source) || link.over(); }));
  ASSERT_FALSE(link.over()) << link.serving.error().message();
  expect_equal(source, follower);
  EXPECT_LE(follower.told.snapshots.size(), 2u);
}

TEST_F(catchup_snapshot, that_replaces_foreign_records_needs_the_permission_to_repair) {
  for (const bool may_repair : {false, true}) {
    SCOPED_TRACE(may_repair);
    faulty_disk here;
    faulty_disk there;
    leader source(in, here);
    replica follower(in, there, may_repair ? repairing() : follower_options());
    write_and_compact(source, 3);
    for (int i = 0; i < 180; ++i) follower.at.append_one(2, "foreign");
    follower.at.append(1, 2);
    const auto before = follower.at.records();
    source.snapshots.upto = source.at.at(150);
    connection link(in, source, follower);
    ASSERT_TRUE(in.run_until([&] { return follower.has_all_of(source) || link.over(); }));
    ASSERT_EQ(follower.told.divergences.size(), 1u);
    const auto& told = follower.told.divergences[0];
    EXPECT_EQ(told.common, position{});
    EXPECT_EQ(told.first_lost, 1u);
    EXPECT_EQ(told.last_lost, 181u);
    if (may_repair) {
      expect_equal(source, follower);
      faulty_disk rescue;
      rescue.replace("/log/00000000000000000001.seg", there.bytes(told.saved_to, view::durable).value());
      node found(in, rescue);
      EXPECT_EQ(found.records(), before);
      found.close();
    } else {
      EXPECT_EQ(link.following.error(), errc::diverged);
      EXPECT_EQ(follower.at.records(), before);
      EXPECT_EQ(follower.told.snapshots_begun, 0u);
    }
    link.end();
    source.at.close();
    follower.at.close();
  }
}

TEST_F(catchup_snapshot, of_a_source_that_ends_before_a_followers_log_begins_needs_the_permission_to_repair) {
  for (const bool may_repair : {false, true}) {
    SCOPED_TRACE(may_repair);
    faulty_disk here;
    faulty_disk there;
    log_options late = small_log();
    late.start = {1, 1000, 77};
    leader source(in, here);
    replica follower(in, there, may_repair ? repairing() : follower_options(), late);
    follower.at.append(5);
    source.at.append(20);
    source.snapshots.upto = source.at.at(20);
    connection link(in, source, follower);
    ASSERT_TRUE(in.run_until([&] { return follower.has_all_of(source) || link.over(); }));
    ASSERT_EQ(follower.told.divergences.size(), 1u);
    EXPECT_EQ(follower.told.divergences[0].first_lost, 1001u);
    EXPECT_EQ(follower.told.divergences[0].last_lost, 1005u);
    if (may_repair) {
      expect_equal(source, follower);
    } else {
      EXPECT_EQ(link.following.error(), errc::diverged);
      EXPECT_EQ(follower.log().last().index, 1005u);
    }
    link.end();
    source.at.close();
    follower.at.close();
  }
}

TEST_F(catchup_snapshot, may_replace_a_foreign_snapshot_on_which_no_record_stands) {
  log_options foreign = small_log();
  foreign.start = {1, 150, 77};
  leader source(in, source_disk);
  replica follower(in, follower_disk, repairing(), foreign);
  write_and_compact(source);
  source.snapshots.upto = source.at.at(160);
  ASSERT_TRUE(catch_up(in, source, follower));
  ASSERT_EQ(follower.told.divergences.size(), 1u);
  EXPECT_EQ(follower.told.divergences[0].first_lost, 151u);
  EXPECT_EQ(follower.told.divergences[0].last_lost, 150u);
  EXPECT_EQ(follower.told.divergences[0].saved_to, "");
  expect_equal(source, follower);
}

}  // namespace
}  // namespace lockstep::test
