// Crashes of either side at each operation of its disk, with whatever a power loss may leave: reopened and connected
// again the logs become equal, and what was acknowledged to the source was durable at the follower.

#include "lockstep/catchup/source.hpp"

#include "lockstep/catchup/follower.hpp"
#include "world.hpp"

#include <gtest/gtest.h>

#include <optional>
#include <string>

namespace lockstep::test {
namespace {

// One process, on a log in segments so small that the few records of a test roll them.
log_options tiny_log() {
  log_options options = small_log();
  options.segment_bytes = 8 << 10;
  options.reserve_bytes = 8 << 10;
  return options;
}

const std::string filler(500, 'f');

void write(node& to, index_t upto, epoch_t epoch, const std::string& by) {
  while (to.log->last().index < upto) to.append_one(epoch, by + std::to_string(to.log->last().index) + filler);
  to.append(1, epoch, by);
}

// What the source was told.
struct story {
  position acked;  // the last that it heard
};

// --- The follower crashes -------------------------------------------------------------------------------------------

// What the source holds and what the follower begins with.
struct plot {
  const char* name;
  void (*source)(world&, leader&);
  void (*follower)(node&);
};

void twenty_records(world&, leader& source) { write(source.at, 19, 1, "r"); }
void two_epochs(world&, leader& source) {
  write(source.at, 9, 1, "r");
  write(source.at, 19, 4, "new ");
}
void compacted(world& in, leader& source) {
  write(source.at, 79, 4, "new ");
  source.snapshots.upto = source.at.at(70);
  in.run(source.log().compact_prefix(60));
}
void nothing(node&) {}
void a_foreign_suffix(node& follower) {
  write(follower, 9, 1, "r");
  write(follower, 29, 2, "old ");
}

class catchup_crash_of_the_follower : public testing::TestWithParam<plot> {};

TEST_P(catchup_crash_of_the_follower, at_any_operation_loses_nothing_that_was_acknowledged_and_nothing_twice) {
  const plot& of = GetParam();
  faulty_disk source_disk;
  faulty_disk before;
  {
    world in;
    leader source(in, source_disk, tiny_log());
    of.source(in, source);
    source.at.close();
    node follower(in, before, tiny_log());
    of.follower(follower);
    follower.close();
  }
  const auto find_snapshot = [](leader& source) {
    source.snapshots.upto = source.log().base().index == 0 ? std::optional<position>() : source.at.at(70);
  };

  const auto live = [&](faulty_disk& disk) {
    story told;
    faulty_disk there = source_disk.process_crash();
    world in;
    leader source(in, there, tiny_log());
    find_snapshot(source);
    try {
      replica follower(in, disk, repairing(), tiny_log());
      connection link(in, source, follower);
      (void)in.run_until([&] {
        const position acked = source.follower().acked;
        // A follower that was cut back or took a snapshot presents what is durable then.
        if (acked != position{}) told.acked = acked;
        return follower.has_all_of(source) || link.over();
      });
      (void)in.run_until([&] {
        const position acked = source.follower().acked;
        if (acked != position{}) told.acked = acked;
        return acked == source.log().last() || link.over();
      });
    } catch (const std::system_error&) {  // the crash came while the log was being opened
    }
    return told;
  };

  const auto check = [&](faulty_disk& image, const story& told, const std::string& which) {
    SCOPED_TRACE(which);
    if (testing::Test::HasFatalFailure()) return;
    world in;
    faulty_disk there = source_disk.process_crash();
    leader source(in, there, tiny_log());
    find_snapshot(source);
    replica follower(in, image, repairing(), tiny_log());
    // Only what the source holds can have been acknowledged since.
    if (told.acked.index != 0 && source.log().position_at(told.acked.index) == told.acked) {
      ASSERT_GE(follower.log().last().index, told.acked.index);
      if (told.acked.index > follower.log().base().index) {
        ASSERT_EQ(follower.at.at(told.acked.index), told.acked);
      }
    }
    ASSERT_TRUE(catch_up(in, source, follower));
    expect_equal(source, follower);
    for (const auto& each : follower.told.divergences) {
      if (!each.saved_to.empty()) {
        EXPECT_TRUE(image.exists(each.saved_to, view::durable));
      }
    }
    source.at.close();
    follower.at.close();
  };

  // for_each_crash() of a disk that holds something already.
  unsigned operations = 0;
  for (;; ++operations) {
    faulty_disk disk = before.power_loss({survives::everything, survives::everything, survives::everything, 0});
    disk.crash_at(operations);
    const story told = live(disk);
    for_each_crash_image(disk, 6, [&](faulty_disk& image, const std::string& which) {
      check(image, told, "crash at operation " + std::to_string(operations) + ", " + which + "\n" + disk.story());
    });
    ASSERT_FALSE(HasFailure());
    if (!disk.crashed()) break;
  }
  EXPECT_GT(operations, 25u);
}

INSTANTIATE_TEST_SUITE_P(of, catchup_crash_of_the_follower,
                         testing::Values(plot{"plain", twenty_records, nothing},
                                         plot{"diverged", two_epochs, a_foreign_suffix},
                                         plot{"compacted", compacted, nothing},
                                         plot{"diverged_and_compacted", compacted, a_foreign_suffix}),
                         [](const auto& each) { return std::string(each.param.name); });

// --- The source crashes ---------------------------------------------------------------------------------------------

struct source_story {
  faulty_disk follower_disk;
  position acked_at_source;  // what the source's own program was promised
};

TEST(catchup_crash_of_the_source, at_any_operation_leaves_no_follower_ahead_of_what_it_recovers) {
  const auto live = [](faulty_disk& disk) {
    source_story told;
    world in;
    try {
      leader source(in, disk, tiny_log());
      replica follower(in, told.follower_disk, {}, tiny_log());
      connection link(in, source, follower);
      for (int i = 0; i < 10 && !disk.crashed(); ++i) {
        for (int n = 0; n < 4; ++n) source.at.append_one(1, "r" + filler);
        (void)in.run_until([&] {
          told.acked_at_source = source.log().acked();
          return follower.has_all_of(source) || link.over() || disk.crashed();
        });
        in.settle();
        told.acked_at_source = source.log().acked();
      }
    } catch (const std::system_error&) {
    }
    return told;
  };
  const auto check = [](faulty_disk& image, const source_story& told, const std::string& which) {
    SCOPED_TRACE(which);
    if (testing::Test::HasFatalFailure()) return;
    world in;
    leader source(in, image, tiny_log());
    faulty_disk there = told.follower_disk.process_crash();
    replica follower(in, there, {}, tiny_log());
    ASSERT_GE(source.log().last().index, told.acked_at_source.index);
    const position theirs = follower.log().last();
    ASSERT_GE(source.log().last().index, theirs.index) << "the follower got what was not durable";
    ASSERT_EQ(source.at.at(theirs.index), theirs);
    source.at.append(3, 2, "after the crash");
    ASSERT_TRUE(catch_up(in, source, follower));
    EXPECT_TRUE(follower.told.divergences.empty());
    expect_equal(source, follower);
    source.at.close();
    follower.at.close();
  };
  EXPECT_GT(for_each_crash(6, live, check), 25u);
}

TEST(catchup_crash_of_the_source, that_ships_what_is_not_durable_is_repaired_when_the_follower_may) {
  source_options staged;
  staged.ship = visibility::staged;
  unsigned repaired = 0;
  const auto live = [&](faulty_disk& disk) {
    source_story told;
    world in;
    try {
      leader source(in, disk, tiny_log(), staged);
      replica follower(in, told.follower_disk, {}, tiny_log());
      connection link(in, source, follower);
      for (int i = 0; i < 10 && !disk.crashed(); ++i) {
        for (int n = 0; n < 4; ++n) source.at.append_one(1, "r" + filler);
        (void)in.run_until([&] { return follower.has_all_of(source) || link.over(); });
        told.acked_at_source = source.log().acked();
      }
    } catch (const std::system_error&) {
    }
    return told;
  };
  const auto check = [&](faulty_disk& image, const source_story& told, const std::string& which) {
    SCOPED_TRACE(which);
    if (testing::Test::HasFatalFailure()) return;
    world in;
    leader source(in, image, tiny_log());
    faulty_disk there = told.follower_disk.process_crash();
    replica follower(in, there, repairing(), tiny_log());
    const index_t theirs = follower.log().last().index;
    const index_t ours = source.log().last().index;
    source.at.append(3, 2, "after the crash");
    ASSERT_TRUE(catch_up(in, source, follower));
    EXPECT_EQ(follower.told.divergences.size(), theirs > ours ? 1u : 0u);
    repaired += theirs > ours ? 1 : 0;
    expect_equal(source, follower);
    source.at.close();
    follower.at.close();
  };
  (void)for_each_crash(4, live, check);
  EXPECT_GT(repaired, 0u);
}

}  // namespace
}  // namespace lockstep::test
