// Divergence: where two histories part is found, told and repaired as the follower was asked to, and never papered
// over.

#include "lockstep/catchup/source.hpp"

#include "lockstep/catchup/follower.hpp"
#include "world.hpp"

#include <gtest/gtest.h>

#include <chrono>
#include <string>

namespace lockstep::test {
namespace {

using namespace std::chrono_literals;

class catchup_divergence : public testing::Test {
 protected:
  world in;
  faulty_disk source_disk;
  faulty_disk follower_disk;

  // Two logs with `common` records in common, and then records of their own.
  void part(leader& source, replica& follower, index_t common, index_t source_last, index_t follower_last) {
    source.at.append(common, 1, "common");
    follower.at.append(common, 1, "common");
    source.at.append(source_last - common, 3, "source's");
    follower.at.append(follower_last - common, 2, "follower's");
  }
};

TEST_F(catchup_divergence, stops_a_follower_that_may_not_repair_and_changes_nothing) {
  leader source(in, source_disk);
  replica follower(in, follower_disk);
  part(source, follower, 10, 20, 17);
  const auto before = follower.at.records();
  const auto files = follower_disk.files();
  connection link(in, source, follower);
  ASSERT_TRUE(link.ends());
  EXPECT_EQ(link.following.error(), errc::diverged);
  EXPECT_EQ(link.serving.error(), std::error_code());
  ASSERT_EQ(follower.told.divergences.size(), 1u);
  const auto& told = follower.told.divergences[0];
  EXPECT_EQ(told.common, source.at.at(10));
  EXPECT_EQ(told.first_lost, 11u);
  EXPECT_EQ(told.last_lost, 17u);
  EXPECT_EQ(told.saved_to, "");
  EXPECT_EQ(follower.at.records(), before);
  EXPECT_EQ(follower_disk.files(), files);
}

TEST_F(catchup_divergence, is_repaired_for_every_common_length_and_every_pair_of_lengths) {
  for (index_t common = 0; common <= 4; ++common) {
    for (index_t source_last = common; source_last <= 6; ++source_last) {
      for (index_t follower_last = common; follower_last <= 6; ++follower_last) {
        SCOPED_TRACE(std::to_string(common) + " common, " + std::to_string(source_last) + " at the source, " +
                     std::to_string(follower_last) + " at the follower");
        faulty_disk here;
        faulty_disk there;
        leader source(in, here);
        replica follower(in, there, repairing());
        part(source, follower, common, source_last, follower_last);
        // A source without records of its own would be of an older life than the follower's own records.
        const bool older = source_last == common && follower_last > common;
        ASSERT_EQ(catch_up(in, source, follower), !older);
        if (older) {
          EXPECT_EQ(follower.log().last().index, follower_last);
        } else {
          expect_equal(source, follower);
          EXPECT_EQ(follower.told.divergences.size(), follower_last > common ? 1u : 0u);
        }
        source.at.close();
        follower.at.close();
      }
    }
  }
}

TEST_F(catchup_divergence, saves_the_lost_records_as_a_segment_that_opens_as_a_log) {
  leader source(in, source_disk);
  replica follower(in, follower_disk, repairing());
  part(source, follower, 10, 20, 17);
  const auto lost = follower.at.records();
  const position last_lost = follower.log().last();
  ASSERT_TRUE(catch_up(in, source, follower));
  ASSERT_EQ(follower.told.divergences.size(), 1u);
  const std::string saved = follower.told.divergences[0].saved_to;
  const auto bytes = follower_disk.bytes(saved, view::durable);
  ASSERT_TRUE(bytes.has_value()) << saved << " must be durable";

  faulty_disk rescue;
  rescue.replace("/log/00000000000000000011.seg", *bytes);
  node found(in, rescue);
  EXPECT_EQ(found.log->base(), source.at.at(10));
  EXPECT_EQ(found.log->last(), last_lost);
  EXPECT_EQ(found.records(), std::vector<content>(lost.begin() + 10, lost.end()));
}

TEST_F(catchup_divergence, leaves_saved_records_alone_when_the_follower_reopens_its_log) {
  leader source(in, source_disk);
  std::string saved;
  {
    replica follower(in, follower_disk, repairing());
    part(source, follower, 10, 20, 17);
    ASSERT_TRUE(catch_up(in, source, follower));
    saved = follower.told.divergences.at(0).saved_to;
    follower.at.close();
  }
  replica follower(in, follower_disk);
  EXPECT_TRUE(follower_disk.exists(saved));
  ASSERT_TRUE(catch_up(in, source, follower));
  expect_equal(source, follower);
}

TEST_F(catchup_divergence, of_a_follower_that_is_ahead_takes_what_the_source_does_not_have) {
  leader source(in, source_disk);
  replica follower(in, follower_disk, repairing());
  part(source, follower, 10, 10, 10);
  follower.at.append(5, 1, "never confirmed");
  connection link(in, source, follower);
  ASSERT_TRUE(in.run_until([&] { return follower.caught_up(); }));
  EXPECT_EQ(follower.told.divergences.at(0).common.index, 10u);
  expect_equal(source, follower);
  source.at.append(5);
  ASSERT_TRUE(in.run_until([&] { return follower.has_all_of(source); }));
  expect_equal(source, follower);
}

TEST_F(catchup_divergence, of_a_pulling_follower_is_repaired_too) {
  leader source(in, source_disk);
  follower_options options = pulling(1s);
  options.on_divergence = repair::save_and_truncate;
  replica follower(in, follower_disk, options);
  part(source, follower, 10, 2000, 1500);
  connection link(in, source, follower);
  ASSERT_TRUE(in.run_until([&] { return follower.has_all_of(source); }));
  expect_equal(source, follower);
}

TEST_F(catchup_divergence, in_segments_that_only_the_disk_holds_is_found) {
  log_options cold = cold_log();
  leader source(in, source_disk, cold);
  replica follower(in, follower_disk, repairing(), cold);
  const std::string filler(300, 'f');
  for (index_t i = 1; i <= 400; ++i) {
    source.at.append_one(i <= 123 ? 1 : 3, filler);
    follower.at.append_one(i <= 123 ? 1 : 2, filler);
  }
  source.at.append(1, 3);
  follower.at.append(1, 2);
  ASSERT_GT(source.log().segment_count(), 5u);
  ASSERT_TRUE(catch_up(in, source, follower));
  EXPECT_EQ(follower.told.divergences.at(0).common.index, 123u);
  expect_equal(source, follower);
}

TEST_F(catchup_divergence, with_bases_on_both_sides_is_found_between_them) {
  log_options cold = cold_log();
  leader source(in, source_disk, cold);
  replica follower(in, follower_disk, repairing(), cold);
  const std::string filler(300, 'f');
  for (index_t i = 1; i <= 600; ++i) {
    source.at.append_one(i <= 323 ? 1 : 3, filler);
    follower.at.append_one(i <= 323 ? 1 : 2, filler);
  }
  source.at.append(1, 3);
  follower.at.append(1, 2);
  in.run(source.log().compact_prefix(150));
  in.run(follower.log().compact_prefix(300));
  ASSERT_GT(source.log().base().index, 0u);
  ASSERT_GT(follower.log().base().index, source.log().base().index);
  ASSERT_TRUE(catch_up(in, source, follower));
  EXPECT_EQ(follower.told.divergences.at(0).common.index, 323u);
  expect_equal(source, follower);
}

// --- Sources that must not be believed ------------------------------------------------------------------------------

TEST_F(catchup_divergence, with_a_source_of_an_older_life_never_cuts_a_follower_back) {
  leader source(in, source_disk);
  replica follower(in, follower_disk, repairing());
  source.at.append(10, 1, "common");
  follower.at.append(10, 1, "common");
  source.at.append(10, 2, "of an old leader");
  follower.at.append(3, 5, "of the new leader");
  const auto before = follower.at.records();
  connection link(in, source, follower);
  ASSERT_TRUE(link.ends());
  EXPECT_EQ(link.following.error(), errc::stale_epoch);
  EXPECT_EQ(follower.at.records(), before);
  EXPECT_TRUE(follower.told.divergences.empty());
}

TEST_F(catchup_divergence, behind_what_a_compacted_follower_keeps_begins_from_nothing_at_a_source_that_keeps_all) {
  for (const bool stops : {true, false}) {
    faulty_disk here;
    faulty_disk there;
    leader source(in, here);
    replica follower(in, there, stops ? follower_options() : repairing());
    source.at.append(300, 2, "theirs");
    for (int i = 0; i < 200; ++i) follower.at.append_one(1, std::string(300, 'f'));
    follower.at.append(1);
    in.run(follower.log().compact_prefix(100));
    const position base = follower.log().base();
    ASSERT_GT(base.index, 0u);
    connection link(in, source, follower);
    if (stops) {
      ASSERT_TRUE(in.run_until([&] { return link.following.done(); }));
      EXPECT_EQ(link.following.error(), errc::diverged);
      EXPECT_EQ(follower.log().base(), base);
      EXPECT_EQ(follower.log().last().index, 201u);
    } else {
      ASSERT_TRUE(in.run_until([&] { return follower.has_all_of(source); }));
      EXPECT_EQ(follower.log().base(), position{});
      expect_equal(source, follower);
    }
    ASSERT_EQ(follower.told.divergences.size(), 1u);
    EXPECT_EQ(follower.told.divergences[0].common, position{});
    EXPECT_EQ(follower.told.divergences[0].first_lost, base.index + 1);
    EXPECT_EQ(follower.told.divergences[0].last_lost, 201u);
    EXPECT_EQ(follower.told.divergences[0].saved_to.empty(), stops);
    EXPECT_EQ(follower.told.snapshots_begun, 0u);
    link.end();
    source.at.close();
    follower.at.close();
  }
}

TEST_F(catchup_divergence, with_a_compacted_source_of_an_older_life_is_not_overwritten_by_its_snapshot) {
  leader source(in, source_disk, cold_log());
  replica follower(in, follower_disk, repairing());
  for (int i = 0; i < 200; ++i) source.at.append_one(2, std::string(300, 'f'));
  source.at.append(1, 2);
  source.snapshots.upto = source.log().last();
  in.run(source.log().compact_prefix(150));
  ASSERT_GT(source.log().base().index, 50u);
  follower.at.append(10, 5, "of the new leader");
  connection link(in, source, follower);
  ASSERT_TRUE(link.ends());
  EXPECT_EQ(link.following.error(), errc::stale_epoch);
  EXPECT_EQ(follower.log().last().index, 10u);
  EXPECT_EQ(follower.told.snapshots_begun, 0u);
}

TEST_F(catchup_divergence, of_two_followers_is_each_ones_own) {
  faulty_disk third_disk;
  leader source(in, source_disk);
  replica follower(in, follower_disk, repairing());
  replica other(in, third_disk, repairing());
  part(source, follower, 10, 100, 60);
  other.at.append(10, 1, "common");
  connection link(in, source, follower);
  connection other_link(in, source, other);
  ASSERT_TRUE(in.run_until([&] { return follower.has_all_of(source) && other.has_all_of(source); }));
  EXPECT_EQ(follower.told.divergences.size(), 1u);
  EXPECT_TRUE(other.told.divergences.empty());
  expect_equal(source, follower);
  expect_equal(source, other);
}

// --- Changes while the search goes on --------------------------------------------------------------------------------

TEST_F(catchup_divergence,
       that_compaction_passes_by_during_the_search_ends_in_a_snapshot_or_a_repair_never_in_an_error) {
  bool interfered = true;
  unsigned snapshots = 0;
  unsigned repairs = 0;
  for (unsigned step = 0; interfered; ++step) {
    SCOPED_TRACE("compacted after " + std::to_string(step) + " handlers");
    faulty_disk here;
    faulty_disk there;
    leader source(in, here, cold_log());
    replica follower(in, there, repairing(), cold_log());
    const std::string filler(300, 'f');
    for (index_t i = 1; i <= 200; ++i) {
      source.at.append_one(i <= 60 ? 1 : 3, filler);
      follower.at.append_one(i <= 60 ? 1 : 2, filler);
    }
    source.at.append(1, 3);
    follower.at.append(1, 2);
    source.snapshots.upto = source.at.at(190);
    unsigned handlers = 0;
    {
      connection link(in, source, follower);
      ASSERT_TRUE(in.run_until([&] { return handlers++ == step || follower.has_all_of(source); }));
      interfered = !follower.has_all_of(source);
      in.run(source.log().compact_prefix(180));
      ASSERT_GT(source.log().base().index, 100u);
      ASSERT_TRUE(in.run_until([&] { return follower.has_all_of(source) || link.over(); }));
      // A segment whose file is just being removed can't be read: the follower comes back.
      if (link.over()) {
        ASSERT_EQ(link.serving.error(), std::errc::no_such_file_or_directory);
      }
    }
    ASSERT_TRUE(follower.has_all_of(source) || catch_up(in, source, follower));
    expect_equal(source, follower);
    snapshots += follower.told.snapshots.empty() ? 0 : 1;
    repairs += follower.told.snapshots.empty() && !follower.told.divergences.empty() ? 1 : 0;
    EXPECT_EQ(follower.told.divergences.size(), 1u) << "told once";
    source.at.close();
    follower.at.close();
  }
  EXPECT_GT(snapshots, 10u);
  EXPECT_GT(repairs, 0u);
}

TEST_F(catchup_divergence, of_a_follower_that_compacts_during_the_search_is_searched_in_what_it_keeps_then) {
  bool interfered = true;
  unsigned cut = 0;
  unsigned begun_anew = 0;
  for (unsigned step = 0; interfered; ++step) {
    SCOPED_TRACE("compacted after " + std::to_string(step) + " handlers");
    faulty_disk here;
    faulty_disk there;
    leader source(in, here, cold_log());
    replica follower(in, there, repairing(), cold_log());
    const std::string filler(300, 'f');
    for (index_t i = 1; i <= 200; ++i) {
      source.at.append_one(i <= 60 ? 1 : 3, filler);
      follower.at.append_one(i <= 60 ? 1 : 2, filler);
    }
    source.at.append(1, 3);
    follower.at.append(1, 2);
    unsigned handlers = 0;
    {
      connection link(in, source, follower);
      ASSERT_TRUE(in.run_until([&] { return handlers++ == step || !follower.told.divergences.empty(); }));
      interfered = follower.told.divergences.empty();
      if (interfered) in.run(follower.log().compact_prefix(180));
      ASSERT_TRUE(in.run_until([&] { return follower.has_all_of(source) || link.over(); }));
      // While the records are saved, compaction may pass by what they are cut back to: the follower comes back. And a
      // segment whose file is just being removed can't be read.
      if (link.over()) {
        const std::error_code ec = link.following.error();
        ASSERT_TRUE(ec == errc::compacted || ec == std::errc::no_such_file_or_directory) << ec.message();
      }
    }
    ASSERT_TRUE(follower.has_all_of(source) || catch_up(in, source, follower));
    expect_equal(source, follower);
    (follower.told.divergences.front().common.index == 60 ? cut : begun_anew) += 1;
    source.at.close();
    follower.at.close();
  }
  EXPECT_GT(cut, 0u);
  EXPECT_GT(begun_anew, 10u);
}

TEST_F(catchup_divergence, is_found_again_when_the_source_takes_records_back_during_the_search) {
  bool interfered = true;
  for (unsigned step = 0; interfered; ++step) {
    SCOPED_TRACE("cut back after " + std::to_string(step) + " handlers");
    faulty_disk here;
    faulty_disk there;
    leader source(in, here);
    replica follower(in, there, repairing());
    part(source, follower, 60, 100, 90);
    unsigned handlers = 0;
    {
      connection link(in, source, follower);
      ASSERT_TRUE(in.run_until([&] { return handlers++ == step || follower.has_all_of(source); }));
      interfered = !follower.has_all_of(source);
      in.run(source.log().truncate_suffix(30));
      source.at.append(50, 4, "again");
      (void)in.run_until([&] { return follower.has_all_of(source) || link.over(); });
    }
    ASSERT_TRUE(follower.has_all_of(source) || catch_up(in, source, follower));
    expect_equal(source, follower);
    source.at.close();
    follower.at.close();
  }
}

}  // namespace
}  // namespace lockstep::test
