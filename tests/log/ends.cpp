// append_log: changes of its two ends: suffix truncation, prefix compaction, retention, reset.
#include "lockstep/log/append_log.hpp"

#include "life.hpp"

#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace lockstep::test {
namespace {

struct append_log_ends : every_policy {};
INSTANTIATE_TEST_SUITE_P(policies, append_log_ends, policies(), name_of_policy);

// --- truncate_suffix
// ------------------------------------------------------------------------------------------------------

TEST_P(append_log_ends, a_cut_takes_back_the_records_behind_it_wherever_it_is) {
  for (index_t keep = 0; keep <= 35; ++keep) {
    faulty_disk fresh;
    log_life life(fresh, options());
    life.opened().write_up_to(35);
    const position last = *life.log->position_at(keep);
    life.truncate(keep);
    ASSERT_EQ(life.log->last(), last) << keep;
    ASSERT_EQ(life.log->acked(), last) << keep;
    ASSERT_EQ(life.log->synced(), last) << keep;
    ASSERT_EQ(life.log->position_at(keep), last);
    ASSERT_EQ(life.log->position_at(keep + 1), std::nullopt);
    ASSERT_EQ(life.contents(), numbered(1, keep));
    // Cut at a segment's end: the next record begins a new segment.
    life.append("another", 2);
    life.durable();
    strings expected = numbered(1, keep);
    expected.push_back("another");
    ASSERT_EQ(life.contents(), expected) << keep;
    life.close();
    ASSERT_EQ(recovered(fresh, options()), expected) << keep;
  }
}

TEST_P(append_log_ends, a_cut_is_durable_when_it_returns) {
  for (const index_t keep : std::initializer_list<index_t>{0, 5, 10, 12, 20, 24}) {
    faulty_disk fresh;
    log_life life(fresh, options());
    life.opened().write_up_to(25);
    life.truncate(keep);
    for (std::uint64_t seed = 0; seed < 5; ++seed) {
      faulty_disk after = fresh.power_loss(seed == 0 ? power_cut{} : power_cut::seeded(seed));
      ASSERT_EQ(recovered(after, options()), numbered(1, keep)) << "seed " << seed << "\n" << fresh.story();
    }
    life.close();
  }
}

TEST_P(append_log_ends, a_cut_takes_back_staged_records_too) {
  log_life life(disk, options());
  life.opened().write_up_to(8);
  life.append_up_to(33);
  life.truncate(9);
  EXPECT_EQ(life.log->last().index, 9u);
  life.write_up_to(12, 2);
  EXPECT_EQ(life.contents(), numbered(1, 12));
  life.close();
  EXPECT_EQ(recovered(disk, options()), numbered(1, 12));
}

TEST_P(append_log_ends, a_cut_behind_the_last_record_changes_nothing) {
  log_life life(disk, options());
  life.opened().write_up_to(12);
  const std::uint64_t rewinds = life.log->rewinds();
  life.truncate(12);
  life.truncate(100);
  EXPECT_EQ(life.log->rewinds(), rewinds);
  EXPECT_EQ(life.contents(), numbered(1, 12));
  life.close();
}

TEST_P(append_log_ends, a_cut_before_the_first_kept_record_is_refused_and_the_log_goes_on) {
  log_life life(disk, options());
  life.opened().write_up_to(25);
  life.sync();
  life.compact(15);
  EXPECT_EQ(error_of([&] { life.truncate(9); }), errc::compacted);
  EXPECT_EQ(life.log->failure(), std::error_code());
  life.write_up_to(26);
  EXPECT_EQ(life.contents(), numbered(11, 26));
  life.truncate(10);
  EXPECT_EQ(life.contents(), strings{}) << "everything that was left";
  EXPECT_EQ(life.log->base().index, 10u);
  life.write_up_to(11);
  life.close();
  EXPECT_EQ(recovered(disk, options()), numbered(11, 11));
}

TEST_P(append_log_ends, cuts_may_follow_each_other) {
  log_life life(disk, options());
  life.opened();
  for (index_t round = 1; round <= 12; ++round) {
    life.write_up_to(3 * round + 10, round);
    life.truncate(2 * round);
  }
  EXPECT_EQ(life.contents(), numbered(1, 24));
  life.close();
  EXPECT_EQ(recovered(disk, options()), numbered(1, 24));
}

TEST_P(append_log_ends, readers_keep_their_bytes_when_the_records_are_taken_back) {
  log_life life(disk, options());
  life.opened().write_up_to(35);
  // One batch of each record: from sealed segments, from the file being written, and from memory.
  std::vector<record_batch> batches;
  std::vector<log_life::log_type::read_place> places;
  for (index_t i = 1; i <= 35; ++i) {
    log_life::log_type::read_place place;
    place.next = i;
    batches.push_back(life.log->read(place, 1));
    places.push_back(place);
  }
  life.truncate(3);
  life.write_up_to(35, 2);
  life.truncate(0);
  life.write_up_to(35, 3);
  life.compact(25);
  life.write_up_to(60, 3);
  life.close();
  for (index_t i = 1; i <= 35; ++i) {
    EXPECT_EQ(payloads(batches[i - 1]), numbered(i, i));
    EXPECT_EQ((*batches[i - 1].begin()).epoch, 1u);
  }
}

TEST_P(append_log_ends, what_waits_for_a_record_is_not_left_behind_when_it_is_taken_back) {
  for (int steps = 0; steps < 60; ++steps) {
    faulty_disk fresh;
    log_life life(fresh, options());
    life.opened().append_up_to(15);
    auto waiting = start(life.io, life.log->durable(15));
    auto reading = start(life.io, life.log->readable(15, visibility::durable));
    auto cutting = start(life.io, life.log->truncate_suffix(3));
    life.io.restart();
    for (int step = 0; step < steps; ++step) life.io.poll_one();
    ASSERT_TRUE(run_until(life.io, [&] { return waiting.done() && cutting.done() && reading.done(); })) << steps;
    ASSERT_FALSE(cutting.failed());
    ASSERT_FALSE(waiting.failed()) << "it was acknowledged before it was taken back";
    ASSERT_EQ(life.contents(), numbered(1, 3)) << steps;
    life.write_up_to(30, 2);
    life.close();
    ASSERT_EQ(recovered(fresh, options()), numbered(1, 30)) << steps;
  }
}

awaitable<void> append_after_one_refusal(log_life::log_type& log) {
  try {
    log.append(log.last().epoch + 1, as_bytes("x"));
    co_return;
  } catch (const std::system_error& error) {
    EXPECT_EQ(error.code(), errc::overloaded);
  }
  co_await log.durable(log.last().index);
  log.append(log.last().epoch + 1, as_bytes("x"));
}

TEST_P(append_log_ends, whoever_is_refused_during_a_cut_waits_once_for_its_end) {
  for (int begun = 0; begun < 8; ++begun) {
    for (int steps = 0; steps < 40; ++steps) {
      faulty_disk fresh;
      log_life life(fresh, options());
      life.opened().append_up_to(15);
      life.io.restart();
      for (int step = 0; step < begun; ++step) life.io.poll_one();
      life.append_up_to(20);  // behind a write that is under way: not durable when the cut begins
      auto cutting = start(life.io, life.log->truncate_suffix(3));
      for (int step = 0; step < steps; ++step) life.io.poll_one();
      auto writing = start(life.io, append_after_one_refusal(*life.log));
      ASSERT_TRUE(run_until(life.io, [&] { return cutting.done() && writing.done(); })) << begun << ' ' << steps;
      ASSERT_FALSE(writing.failed()) << begun << ' ' << steps;
      life.close();
    }
  }
}

awaitable<void> append_when_possible(log_life::log_type& log, int times, std::vector<position>& acked) {
  for (int i = 0; i < times; ++i) {
    const std::uint64_t rewinds = log.rewinds();
    position at;
    std::error_code refused;
    try {
      at = log.append(log.last().epoch + 1, as_bytes("x"));
    } catch (const std::system_error& error) {
      refused = error.code();
    }
    if (refused) {
      EXPECT_EQ(refused, errc::overloaded);
      co_await log.durable(log.last().index);  // as append() says
      continue;
    }
    co_await log.durable(at.index);
    if (log.rewinds() == rewinds) acked.push_back(at);
  }
}

TEST_P(append_log_ends, appends_beside_a_cut_are_staged_behind_it_or_refused_and_never_lost) {
  for (int round = 0; round < 30; ++round) {
    faulty_disk fresh;
    log_life life(fresh, options());
    life.opened().write_up_to(27);
    const std::uint64_t rewinds = life.log->rewinds();
    std::vector<position> acked;
    std::vector<started<void>> writers;
    for (int i = 0; i < 4; ++i) writers.push_back(start(life.io, append_when_possible(*life.log, 12, acked)));
    life.io.restart();
    for (int step = 0; step < round; ++step) life.io.poll_one();
    auto cutting = start(life.io, life.log->truncate_suffix(14));
    ASSERT_TRUE(run_until(life.io, [&] { return life.log->rewinds() > rewinds; }));
    acked.clear();  // all that was acknowledged so far may be gone
    for (auto& each : writers) ASSERT_TRUE(run_until(life.io, [&] { return each.done(); }));
    for (auto& each : writers) ASSERT_FALSE(each.failed());
    ASSERT_TRUE(run_until(life.io, [&] { return cutting.done(); }));
    ASSERT_FALSE(cutting.failed());
    for (const position& each : acked) ASSERT_EQ(life.log->position_at(each.index), each);
    const strings seen = life.contents();
    life.close();
    ASSERT_EQ(recovered(fresh, options()), seen);
  }
}

TEST_P(append_log_ends, a_caller_that_is_cancelled_does_not_stop_a_cut) {
  for (int steps = 4; steps < 40; ++steps) {  // it has begun
    faulty_disk fresh;
    log_life life(fresh, options());
    life.opened().write_up_to(25);
    auto cutting = start(life.io, life.log->truncate_suffix(3));
    life.io.restart();
    for (int step = 0; step < steps; ++step) life.io.poll_one();
    cutting.cancel();
    ASSERT_TRUE(run_until(life.io, [&] { return cutting.done(); }));
    ASSERT_TRUE(!cutting.failed() || is_cancelled(cutting.error()));
    life.sync();  // takes its turn behind the cut
    ASSERT_EQ(life.log->last().index, 3u);
    life.close();
    ASSERT_EQ(recovered(fresh, options()), numbered(1, 3));
  }
}

// --- compact_prefix
// -------------------------------------------------------------------------------------------------------

TEST_P(append_log_ends, compaction_drops_whole_segments_before_the_index) {
  for (const auto& [first_kept, expected] : std::vector<std::pair<index_t, index_t>>{
           {0, 1}, {1, 1}, {10, 1}, {11, 11}, {12, 11}, {20, 11}, {21, 21}, {31, 31}, {36, 31}, {1000, 31}}) {
    faulty_disk fresh;
    log_life life(fresh, options());
    life.opened().write_up_to(35);
    life.sync();
    EXPECT_EQ(life.compact(first_kept), expected) << first_kept;
    EXPECT_EQ(life.log->first_index(), expected);
    EXPECT_EQ(life.contents(), numbered(expected, 35));
    life.write_up_to(45);
    life.close();
    EXPECT_EQ(recovered(fresh, options()), numbered(expected, 45)) << first_kept;
  }
}

TEST_P(append_log_ends, compaction_removes_the_oldest_first_and_each_for_good_before_the_next) {
  log_life life(disk, options());
  life.opened().write_up_to(45);
  life.sync();
  // After each operation of the compaction the directory must be without a gap, also when power goes.
  disk.on_operation([&](const op&) {
    for (const std::uint64_t seed : std::initializer_list<std::uint64_t>{0, 1, 2, 3, 4, 5}) {
      const faulty_disk after = disk.power_loss(seed == 0 ? power_cut{} : power_cut::seeded(seed));
      strings segments;
      for (const std::string& each : names(after)) {
        if (each.ends_with(".seg")) segments.push_back(each);
      }
      for (std::size_t i = 0; i < segments.size(); ++i) {
        EXPECT_EQ(segments[i], log_files::segment_name(41 - 10 * (segments.size() - 1 - i)));
      }
    }
  });
  life.compact(45);
  disk.on_operation({});
  EXPECT_EQ(life.log->first_index(), 41u);
  life.close();
}

TEST(append_log_compaction, keeps_a_segment_whose_successor_would_not_survive_as_the_first) {
  faulty_disk disk;
  const log_options never = small_options(sync_policy::never);
  log_life life(disk, never);
  life.opened().write_up_to(11);
  // The full segment is synced in the background; the header of the next one is not.
  ASSERT_TRUE(run_until(life.io, [&] { return life.log->synced().index == 10; }));
  life.compact(11);
  faulty_disk after = disk.power_loss(power_cut{});
  EXPECT_EQ(recovered(after, never), numbered(1, 10));
  // A record behind it shows that it is.
  life.sync();
  EXPECT_EQ(life.compact(11), 11u);
  after = disk.power_loss(power_cut{});
  EXPECT_EQ(recovered(after, never), numbered(11, 11));
  life.close();
}

TEST_P(append_log_ends, compaction_keeps_files_for_reuse_but_not_more_than_asked_for) {
  for (const std::size_t most : std::initializer_list<std::size_t>{std::size_t{0}, std::size_t{1}, std::size_t{3}}) {
    faulty_disk fresh;
    log_options with = options();
    with.recycled_segments = most;
    log_life life(fresh, with);
    life.opened().write_up_to(45);
    life.sync();
    life.compact(45);
    std::size_t kept = 0;
    for (const std::string& each : names(fresh)) kept += each.ends_with(".old");
    EXPECT_EQ(kept, most);
    life.close();
  }
}

TEST_P(append_log_ends, a_compacted_file_that_is_being_read_is_not_reused) {
  log_life life(disk, options());
  life.opened().write_up_to(35);
  life.sync();
  log_life::log_type::read_place place;
  const record_batch held = life.log->read(place, 1000);
  ASSERT_EQ(payloads(held), numbered(1, 10));
  life.compact(25);
  life.write_up_to(95);
  EXPECT_EQ(payloads(held), numbered(1, 10));
  life.close();
  EXPECT_EQ(payloads(held), numbered(1, 10)) << "nor when the log is closed";
}

TEST(append_log_recycling, writes_the_next_segments_into_the_old_files) {
  faulty_disk disk;
  log_life life(disk);
  life.opened().write_up_to(25);
  life.compact(21);
  const auto created = disk.operations(op_kind::create);
  life.write_up_to(45);
  EXPECT_EQ(disk.operations(op_kind::create), created);
  EXPECT_EQ(life.contents(), numbered(21, 45));
  life.close();
  EXPECT_EQ(recovered(disk), numbered(21, 45));
}

TEST(append_log_recycling, goes_on_with_the_old_files_after_a_restart) {
  faulty_disk disk;
  log_life life(disk);
  life.opened().write_up_to(25);
  life.compact(21);
  life.close();
  life.opened();
  const auto created = disk.operations(op_kind::create);
  life.write_up_to(45);
  EXPECT_EQ(disk.operations(op_kind::create), created);
  life.close();
  EXPECT_EQ(recovered(disk), numbered(21, 45));
}

// P2: the process ends with a recycled segment that is still mostly full of its older life.
TEST(append_log_recycling, p2_records_of_the_older_life_never_come_back) {
  for (index_t last = 31; last <= 51; ++last) {
    faulty_disk disk;
    log_life life(disk);
    life.opened().write_up_to(25);
    life.compact(21);
    life.write_up_to(last);
    faulty_disk image = disk.process_crash();
    EXPECT_EQ(recovered(image), numbered(21, last));
    life.close();
    EXPECT_EQ(recovered(disk), numbered(21, last));
  }
}

TEST(append_log_recycling, goes_on_without_a_file_that_cannot_be_reused) {
  faulty_disk disk;
  log_life life(disk);
  life.opened().write_up_to(25);
  life.compact(21);
  std::error_code ec;
  for (const std::string& each : names(disk)) {
    if (each.ends_with(".old")) life.env.remove("/log/" + each, ec);
  }
  life.write_up_to(30);
  for (int refused = 0; refused < 2; ++refused) {
    EXPECT_EQ(error_of([&] { life.append("r31"); }), std::errc::no_such_file_or_directory);
  }
  life.write_up_to(45);
  EXPECT_EQ(life.contents(), numbered(21, 45));
  life.close();
}

TEST(append_log_compaction, says_compacted_to_whoever_reads_a_segment_that_is_just_being_removed) {
  for (const std::size_t recycled : std::initializer_list<std::size_t>{0, 2}) {
    faulty_disk disk;
    log_options options = small_options();
    options.recycled_segments = recycled;
    log_life life(disk, options);
    life.opened().write_up_to(35);
    disk.hold_syncs();
    auto compacting = start(life.io, life.log->compact_prefix(11));
    poll(life.io);
    EXPECT_FALSE(compacting.done());
    EXPECT_FALSE(disk.exists(segment_path(1)));
    log_life::log_type::read_place place;
    place.next = 5;
    EXPECT_EQ(error_of([&] { (void)life.log->read(place, 100); }), errc::compacted);
    EXPECT_EQ(life.log->position_at(5), std::nullopt);
    EXPECT_EQ(life.contents(), numbered(11, 35));
    disk.release_syncs();
    EXPECT_TRUE(run_until(life.io, [&] { return compacting.done(); }));
    life.close();
    EXPECT_EQ(recovered(disk, options), numbered(11, 35));
  }
}

TEST(append_log_compaction, leaves_what_no_sync_has_covered) {
  faulty_disk disk;
  log_life life(disk, small_options(sync_policy::never));
  life.opened();
  disk.hold_syncs();
  life.write_up_to(35);
  EXPECT_EQ(life.compact(30), 1u);
  disk.release_syncs();
  life.sync();
  EXPECT_EQ(life.compact(30), 21u);
  life.close();
}

// --- apply_retention
// ------------------------------------------------------------------------------------------------------

TEST_P(append_log_ends, retention_without_limits_keeps_everything) {
  log_life life(disk, options());
  life.opened().write_up_to(35);
  life.sync();
  EXPECT_EQ(run(life.io, life.log->apply_retention({}, 35)), 1u);
  life.close();
}

TEST_P(append_log_ends, retention_by_bytes_drops_the_oldest_until_the_rest_fits) {
  constexpr std::uint64_t full = log_format::segment_header_bytes + 400;
  for (const auto& [max_bytes, first] :
       std::vector<std::pair<std::uint64_t, index_t>>{{10 * full, 1},
                                                      {3 * full + full / 2 + 2048 + 200, 1},
                                                      {3 * full + 4296, 1},
                                                      {3 * full + 4295, 11},
                                                      {full, 31},
                                                      {1, 31}}) {
    faulty_disk fresh;
    log_life life(fresh, options());
    life.opened().write_up_to(35);
    life.sync();
    ASSERT_EQ(life.log->size_bytes(), 3 * full + 4296);
    retention limits;
    limits.max_bytes = max_bytes;
    EXPECT_EQ(run(life.io, life.log->apply_retention(limits, 35)), first) << max_bytes;
    EXPECT_EQ(life.contents(), numbered(first, 35));
    life.close();
  }
}

TEST_P(append_log_ends, retention_by_age_drops_what_ended_long_ago) {
  log_life life(disk, options());
  life.env.set_wall(wall_time(std::chrono::hours(1000)));
  life.opened();
  for (index_t i = 1; i <= 35; ++i) {
    life.write_up_to(i);
    life.env.advance_wall(std::chrono::minutes(1));
  }
  life.sync();
  // Segments end when the next begins: after 10, 20 and 30 minutes. It is minute 35 now.
  retention limits;
  limits.max_age = std::chrono::minutes(26);
  EXPECT_EQ(run(life.io, life.log->apply_retention(limits, 35)), 1u);
  limits.max_age = std::chrono::minutes(24);
  EXPECT_EQ(run(life.io, life.log->apply_retention(limits, 35)), 11u);
  limits.max_age = std::chrono::minutes(1);
  EXPECT_EQ(run(life.io, life.log->apply_retention(limits, 35)), 31u) << "never the segment that is written";
  life.close();
}

TEST_P(append_log_ends, retention_keeps_what_no_snapshot_replaces) {
  for (const auto& [replaceable, first] :
       std::vector<std::pair<index_t, index_t>>{{0, 1}, {9, 1}, {10, 11}, {29, 21}}) {
    faulty_disk fresh;
    log_life life(fresh, options());
    life.opened().write_up_to(35);
    life.sync();
    retention limits;
    limits.max_bytes = 1;
    EXPECT_EQ(run(life.io, life.log->apply_retention(limits, replaceable)), first) << replaceable;
    life.close();
  }
}

TEST_P(append_log_ends, retention_survives_a_calendar_that_jumps_back) {
  log_life life(disk, options());
  life.env.set_wall(wall_time(std::chrono::hours(1000)));
  life.opened().write_up_to(35);
  life.sync();
  life.env.advance_wall(-std::chrono::hours(500));
  retention limits;
  limits.max_age = std::chrono::hours(1);
  EXPECT_EQ(run(life.io, life.log->apply_retention(limits, 35)), 1u);
  life.close();
}

// --- reset
// ----------------------------------------------------------------------------------------------------------------

TEST_P(append_log_ends, reset_begins_a_new_history_before_within_and_behind_the_old_one) {
  for (const index_t begin : {index_t{0}, index_t{5}, index_t{20}, index_t{35}, index_t{1000}}) {
    faulty_disk fresh;
    log_life life(fresh, options());
    life.opened().write_up_to(25);
    life.sync();
    life.compact(15);  // leaves files for reuse
    life.write_up_to(35);
    const position start{7, begin, 0xfeed};
    life.reset(start);
    EXPECT_EQ(life.log->base(), start);
    EXPECT_EQ(life.log->last(), start);
    EXPECT_EQ(life.log->acked(), start);
    EXPECT_EQ(life.log->synced(), start);
    EXPECT_EQ(life.log->segment_count(), 1u);
    EXPECT_EQ(life.contents(), strings{});
    EXPECT_EQ(error_of([&] { life.append("old", 6); }), errc::stale_epoch);
    life.write_up_to(begin + 25, 7);
    EXPECT_EQ(life.contents(), numbered(begin + 1, begin + 25));
    life.close();
    EXPECT_EQ(recovered(fresh, options()), numbered(begin + 1, begin + 25));
  }
}

TEST_P(append_log_ends, reset_is_durable_when_it_returns) {
  log_life life(disk, options());
  life.opened().write_up_to(25);
  life.reset({7, 100, 1});
  for (std::uint64_t seed = 0; seed < 5; ++seed) {
    faulty_disk after = disk.power_loss(seed == 0 ? power_cut{} : power_cut::seeded(seed));
    log_life again(after, options());
    EXPECT_EQ(again.open().last_good, (position{7, 100, 1})) << disk.story();
    again.close();
  }
  EXPECT_FALSE(disk.exists("/log/reset"));
  life.close();
}

TEST_P(append_log_ends, reset_leaves_readers_their_bytes) {
  log_life life(disk, options());
  life.opened().write_up_to(35);
  std::vector<record_batch> batches;
  for (index_t i = 1; i <= 35; ++i) {
    log_life::log_type::read_place place;
    place.next = i;
    batches.push_back(life.log->read(place, 1));
  }
  life.reset({});
  life.write_up_to(60, 2);
  for (index_t i = 1; i <= 35; ++i) EXPECT_EQ(payloads(batches[i - 1]), numbered(i, i));
  life.close();
}

// A reader asks again and again while the ends change under it.
void look_around(log_life& life, index_t upto) {
  log_life::log_type& log = *life.log;
  (void)log.segment_count();
  (void)log.size_bytes();
  for (index_t i = 0; i <= upto; ++i) {
    (void)log.segment_of(i);
    log_life::log_type::read_place place;
    place.next = i;
    strings found;
    try {
      found = payloads(log.read(place, 1, visibility::durable));
      (void)log.position_at(i);
    } catch (const std::system_error& error) {
      ASSERT_TRUE(error.code() == errc::compacted || error.code() == errc::out_of_range) << error.what();
    }
    ASSERT_TRUE(found.empty() || found == numbered(i, i)) << i;
  }
  ASSERT_LE(log.base().index, log.acked().index);
  ASSERT_LE(log.synced().index, log.acked().index);
  ASSERT_LE(log.acked().index, log.last().index);
}

TEST_P(append_log_ends, a_log_can_be_read_at_every_step_of_a_change) {
  enum class change { cut, cut_everything, compact, reset, reset_ahead };
  for (const change what : {change::cut, change::cut_everything, change::compact, change::reset, change::reset_ahead}) {
    faulty_disk fresh;
    log_life life(fresh, options());
    life.opened().write_up_to(28);
    life.append_up_to(35);
    auto changing = what == change::cut              ? start(life.io, life.log->truncate_suffix(13))
                    : what == change::cut_everything ? start(life.io, life.log->truncate_suffix(0))
                    : what == change::reset          ? start(life.io, life.log->reset({3, 17, 5}))
                                                     : start(life.io, life.log->reset({3, 1000, 5}));
    if (what == change::compact) {
      changing = start(life.io, [](log_life::log_type& log) -> awaitable<void> {
        (void)co_await log.compact_prefix(25);
      }(*life.log));
    }
    for (int step = 0; !changing.done() && step < 1000; ++step) {
      ASSERT_NO_FATAL_FAILURE(look_around(life, 40)) << "step " << step << "\n" << fresh.story(5);
      life.io.restart();
      life.io.poll_one();
    }
    ASSERT_TRUE(changing.done());
    EXPECT_FALSE(changing.failed());
    ASSERT_NO_FATAL_FAILURE(look_around(life, 40));
    life.close();
  }
}

TEST_P(append_log_ends, a_change_that_failed_leaves_a_log_that_can_be_looked_at) {
  for (const bool resets : {false, true}) {
    for (std::uint64_t nth = 0;; ++nth) {
      faulty_disk fresh;
      log_life life(fresh, options());
      life.opened().write_up_to(28);
      fresh.fail_operation(nth);
      const std::error_code ec = error_of([&] {
        if (resets) {
          life.reset({3, 17, 5});
        } else {
          life.truncate(3);
        }
      });
      const bool hit = fresh.faults_hit() != 0;
      fresh.clear_faults();
      if (!hit) {
        EXPECT_FALSE(ec) << ec.message();
        life.close();
        break;
      }
      // A read error before anything changed fails the call and not the log.
      if (life.log->failure()) {
        EXPECT_TRUE(ec);
        EXPECT_EQ(error_of([&] { life.append("x", 9); }), errc::log_failed);
      }
      EXPECT_GE(life.log->segment_count(), 1u);
      EXPECT_LE(life.log->base().index, life.log->last().index);
      try {
        (void)life.contents();
      } catch (const std::system_error&) {
        // Files may be gone, but nothing else is wrong with asking.
      }
      (void)error_of([&] { run(life.io, life.log->close()); });
      life.log.reset();
      life.opened();
      const strings found = life.contents();
      if (resets) {
        EXPECT_TRUE(found == numbered(1, 28) || (found.empty() && life.log->base().index == 17)) << fresh.story();
      } else {
        EXPECT_GE(found.size(), 3u);
        EXPECT_EQ(found, numbered(1, found.size()));
      }
      life.close();
    }
  }
}

TEST_P(append_log_ends, changes_queue_up_behind_each_other) {
  log_life life(disk, options());
  life.opened().append_up_to(35);
  auto one = start(life.io, life.log->truncate_suffix(30));
  auto two = start(life.io, life.log->truncate_suffix(20));
  auto three = start(life.io, life.log->sync());
  auto four = start(life.io, life.log->truncate_suffix(12));
  ASSERT_TRUE(run_until(life.io, [&] { return one.done() && two.done() && three.done() && four.done(); }));
  EXPECT_FALSE(one.failed() || two.failed() || three.failed() || four.failed());
  EXPECT_EQ(life.contents(), numbered(1, 12));
  EXPECT_EQ(life.compact(11), 11u);
  life.reset({2, 50, 3});
  life.write_up_to(55, 2);
  EXPECT_EQ(life.contents(), numbered(51, 55));
  life.close();
  EXPECT_EQ(recovered(disk, options()), numbered(51, 55));
}

}  // namespace
}  // namespace lockstep::test
