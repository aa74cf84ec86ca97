#include "lockstep/log/cursor.hpp"

#include "life.hpp"

#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace lockstep::test {
namespace {

struct log_cursor : every_policy {};
INSTANTIATE_TEST_SUITE_P(policies, log_cursor, policies(), name_of_policy);

using cursor_type = log_life::cursor_type;

strings next(log_life& life, cursor_type& cursor, std::size_t max_bytes = 1 << 20) {
  return payloads(run(life.io, cursor.next(max_bytes)));
}

/// Everything that is there now.
strings rest(cursor_type& cursor, std::size_t max_bytes = 100) {
  strings found;
  for (;;) {
    const record_batch batch = cursor.try_next(max_bytes);
    if (batch.empty()) return found;
    EXPECT_EQ(batch.last() + 1, cursor.next_index());
    for (const std::string& each : payloads(batch)) found.push_back(each);
  }
}

TEST_P(log_cursor, reads_sealed_segments_the_written_file_and_memory_alike) {
  log_life life(disk, options());
  life.opened().write_up_to(27);
  life.close();
  life.opened().write_up_to(36);  // the newest in memory
  for (const std::size_t max_bytes : std::initializer_list<std::size_t>{1, 100, 1 << 20}) {
    for (index_t first = 1; first <= 37; ++first) {
      cursor_type cursor(*life.log, first);
      EXPECT_EQ(cursor.next_index(), first);
      ASSERT_EQ(rest(cursor, max_bytes), numbered(first, 36)) << first << " " << max_bytes;
      EXPECT_EQ(cursor.next_index(), 37u);
    }
  }
  life.close();
}

TEST_P(log_cursor, moves_from_files_to_memory_and_on_while_the_log_grows) {
  log_life life(disk, options());
  life.opened();
  cursor_type cursor(*life.log, 1);
  strings found;
  for (index_t i = 1; i <= 60; ++i) {
    life.write_up_to(i);
    // Falls behind for a while, and catches up in small steps.
    if (i % 13 == 0) {
      for (int step = 0; step < 9; ++step) {
        for (const std::string& each : payloads(cursor.try_next(60))) found.push_back(each);
      }
    }
  }
  for (const std::string& each : rest(cursor)) found.push_back(each);
  EXPECT_EQ(found, numbered(1, 60));
  life.close();
}

TEST_P(log_cursor, waits_for_new_records) {
  log_life life(disk, options());
  life.opened().write_up_to(2);
  cursor_type cursor(*life.log, 3);
  auto waiting = start(life.io, cursor.next(1000));
  poll(life.io);
  EXPECT_FALSE(waiting.done());
  life.write_up_to(3);
  ASSERT_TRUE(run_until(life.io, [&] { return waiting.done(); }));
  EXPECT_EQ(payloads(waiting.result()), numbered(3, 3));
  life.close();
}

TEST(log_cursor_visibility, of_durable_waits_for_the_sync_and_of_staged_does_not) {
  faulty_disk disk;
  log_life life(disk);
  life.opened();
  cursor_type careful(*life.log, 1, visibility::durable);
  cursor_type eager(*life.log, 1, visibility::staged);
  auto carefully = start(life.io, careful.next(1000));
  auto eagerly = start(life.io, eager.next(1000));
  poll(life.io);
  disk.hold_syncs();
  life.append_up_to(2);
  poll(life.io);
  EXPECT_FALSE(carefully.done());
  ASSERT_TRUE(eagerly.done());
  EXPECT_EQ(payloads(eagerly.result()), numbered(1, 2));
  disk.release_syncs();
  ASSERT_TRUE(run_until(life.io, [&] { return carefully.done(); }));
  EXPECT_EQ(payloads(carefully.result()), numbered(1, 2));
  life.close();
}

TEST(log_cursor_visibility, of_durable_sees_only_the_synced_part_of_a_chunk) {
  faulty_disk disk;
  log_options options = small_options();
  options.chunk_bytes = options.hot_tail_bytes = 1 << 20;
  log_life life(disk, options);
  life.opened().write_up_to(3);
  life.append_up_to(6);
  cursor_type careful(*life.log, 1);
  EXPECT_EQ(rest(careful, 1 << 20), numbered(1, 3));
  EXPECT_TRUE(careful.try_next(100).empty());
  life.durable();
  EXPECT_EQ(rest(careful, 1 << 20), numbered(4, 6));
  life.close();
}

TEST_P(log_cursor, many_read_one_log_each_at_its_own_pace) {
  log_life life(disk, options());
  life.opened();
  std::vector<cursor_type> cursors;
  std::vector<strings> found(20);
  for (int i = 0; i < 20; ++i) cursors.emplace_back(*life.log, 1);
  for (index_t upto = 1; upto <= 50; ++upto) {
    life.write_up_to(upto);
    for (std::size_t i = 0; i < cursors.size(); ++i) {
      if (upto % (i + 1) != 0) continue;
      for (const std::string& each : payloads(cursors[i].try_next(60 + 10 * i))) found[i].push_back(each);
    }
  }
  for (std::size_t i = 0; i < cursors.size(); ++i) {
    for (const std::string& each : rest(cursors[i])) found[i].push_back(each);
    EXPECT_EQ(found[i], numbered(1, 50)) << i;
  }
  life.close();
}

TEST_P(log_cursor, many_wait_and_all_are_woken) {
  log_life life(disk, options());
  life.opened();
  std::vector<cursor_type> cursors;
  std::vector<started<record_batch>> waiting;
  for (int i = 0; i < 20; ++i) {
    cursors.emplace_back(*life.log, 1, i % 2 ? visibility::durable : visibility::staged);
  }
  for (auto& each : cursors) waiting.push_back(start(life.io, each.next(1000)));
  poll(life.io);
  life.write_up_to(1);
  for (auto& each : waiting) {
    ASSERT_TRUE(run_until(life.io, [&] { return each.done(); }));
    EXPECT_EQ(payloads(each.result()), numbered(1, 1));
  }
  life.close();
}

TEST_P(log_cursor, is_told_when_compaction_passed_it_by) {
  log_life life(disk, options());
  life.opened().write_up_to(35);
  life.sync();
  cursor_type behind(*life.log, 1), ahead(*life.log, 21);
  EXPECT_EQ(payloads(behind.try_next(100)), numbered(1, 2));
  life.compact(25);
  EXPECT_EQ(error_of([&] { (void)next(life, behind); }), errc::compacted);
  EXPECT_EQ(error_of([&] { (void)next(life, behind); }), errc::compacted) << "also when asked again";
  EXPECT_EQ(rest(ahead), numbered(21, 35));
  life.close();
}

TEST_P(log_cursor, goes_on_behind_a_cut_that_left_what_it_had_read) {
  log_life life(disk, options());
  life.opened().write_up_to(25);
  cursor_type cursor(*life.log, 1);
  strings found = payloads(cursor.try_next(120));
  ASSERT_EQ(found, numbered(1, 3));
  life.truncate(3);
  EXPECT_TRUE(cursor.try_next(100).empty());
  life.write_up_to(5, 2);
  EXPECT_EQ(rest(cursor), numbered(4, 5));
  life.close();
}

TEST_P(log_cursor, is_told_when_what_it_had_read_was_taken_back) {
  for (const bool refilled : {false, true}) {
    faulty_disk fresh;
    log_life life(fresh, options());
    life.opened().write_up_to(25);
    cursor_type cursor(*life.log, 1);
    ASSERT_EQ(payloads(cursor.try_next(200)), numbered(1, 5));
    life.truncate(4);
    if (refilled) life.write_up_to(25, 2);  // other records under the same indexes
    EXPECT_EQ(error_of([&] { (void)next(life, cursor); }), errc::diverged);
    EXPECT_EQ(error_of([&] { (void)next(life, cursor); }), errc::diverged) << "also when asked again";
    life.close();
  }
}

TEST_P(log_cursor, that_waits_is_told_when_what_it_had_read_is_taken_back) {
  log_life life(disk, options());
  life.opened().write_up_to(5);
  cursor_type cursor(*life.log, 1), fine(*life.log, 4);
  ASSERT_EQ(rest(cursor), numbered(1, 5));
  auto waiting = start(life.io, cursor.next(100));
  auto also = start(life.io, fine.next(40));
  poll(life.io);
  ASSERT_TRUE(also.done());
  life.truncate(4);
  ASSERT_TRUE(run_until(life.io, [&] { return waiting.done(); }));
  EXPECT_EQ(waiting.error(), errc::diverged);
  life.write_up_to(6, 2);
  EXPECT_EQ(rest(fine), numbered(5, 6));
  life.close();
}

TEST_P(log_cursor, that_waits_goes_on_waiting_when_the_cut_is_behind_it) {
  log_life life(disk, options());
  life.opened().write_up_to(5);
  life.append_up_to(9);
  cursor_type cursor(*life.log, 1);
  while (cursor.next_index() <= 5) (void)cursor.try_next(1);
  life.truncate(5);
  auto waiting = start(life.io, cursor.next(100));
  poll(life.io);
  EXPECT_FALSE(waiting.done());
  life.write_up_to(6, 2);
  ASSERT_TRUE(run_until(life.io, [&] { return waiting.done(); }));
  EXPECT_EQ(payloads(waiting.result()), numbered(6, 6));
  life.close();
}

TEST_P(log_cursor, that_has_read_nothing_is_told_when_its_place_is_taken_back) {
  log_life life(disk, options());
  life.opened().write_up_to(5);
  cursor_type at_end(*life.log, 6), within(*life.log, 3);
  life.truncate(3);
  EXPECT_EQ(error_of([&] { (void)next(life, at_end); }), errc::diverged);
  EXPECT_EQ(rest(within), numbered(3, 3)) << "it has seen nothing that is gone";
  life.close();
}

TEST_P(log_cursor, is_told_when_the_log_was_reset) {
  for (const index_t begin : {index_t{0}, index_t{3}, index_t{12}, index_t{500}}) {
    faulty_disk fresh;
    log_life life(fresh, options());
    life.opened().write_up_to(15);
    cursor_type cursor(*life.log, 1);
    ASSERT_EQ(payloads(cursor.try_next(200)).back(), "r5");
    life.reset({2, begin, 9});
    life.write_up_to(begin + 12, 2);
    const std::error_code ec = error_of([&] { (void)next(life, cursor); });
    EXPECT_EQ(ec, begin > 5 ? errc::compacted : errc::diverged) << begin;
    life.close();
  }
}

TEST_P(log_cursor, beyond_the_end_is_an_error_except_just_behind_it) {
  log_life life(disk, options());
  life.opened().write_up_to(5);
  cursor_type just_behind(*life.log, 6), beyond(*life.log, 7);
  EXPECT_TRUE(just_behind.try_next(100).empty());
  EXPECT_EQ(error_of([&] { (void)beyond.try_next(100); }), errc::out_of_range);
  life.close();
}

TEST_P(log_cursor, that_was_cancelled_has_read_nothing_and_may_go_on) {
  log_life life(disk, options());
  life.opened().write_up_to(1);
  cursor_type cursor(*life.log, 2);
  auto waiting = start(life.io, cursor.next(100));
  poll(life.io);
  waiting.cancel();
  ASSERT_TRUE(run_until(life.io, [&] { return waiting.done(); }));
  EXPECT_TRUE(is_cancelled(waiting.error()));
  life.write_up_to(3);
  EXPECT_EQ(next(life, cursor), numbered(2, 3));
  life.close();
}

TEST_P(log_cursor, that_waits_is_told_when_the_log_is_closed) {
  log_life life(disk, options());
  life.opened().write_up_to(1);
  cursor_type cursor(*life.log, 2);
  auto waiting = start(life.io, cursor.next(100));
  poll(life.io);
  life.close();  // and destroyed
  ASSERT_TRUE(waiting.done()) << "close() let it leave";
  EXPECT_EQ(waiting.error(), errc::closed);
}

TEST_P(log_cursor, that_waits_gets_what_close_flushes) {
  log_life life(disk, options());
  life.opened();
  cursor_type cursor(*life.log, 1);
  auto waiting = start(life.io, cursor.next(1000));
  poll(life.io);
  life.append_up_to(3);
  run(life.io, life.log->close());
  ASSERT_TRUE(run_until(life.io, [&] { return waiting.done(); }));
  if (!waiting.failed()) {
    EXPECT_EQ(payloads(waiting.result()), numbered(1, 3));
  }
}

TEST_P(log_cursor, reads_what_was_acknowledged_from_a_failed_log_and_is_told_then) {
  log_life life(disk, options());
  life.opened().write_up_to(25);
  cursor_type cursor(*life.log, 1);
  cursor_type waits(*life.log, 26);
  auto waiting = start(life.io, waits.next(100));
  poll(life.io);
  disk.inject({.kinds = {op_kind::pwrite}, .path_contains = "/log/0", .how_often = times::from_then_on});
  life.append_up_to(26);
  EXPECT_EQ(error_of([&] { life.durable(); }), errc::log_failed);
  ASSERT_TRUE(run_until(life.io, [&] { return waiting.done(); }));
  EXPECT_EQ(waiting.error(), errc::log_failed);
  EXPECT_EQ(rest(cursor), numbered(1, 25));
  EXPECT_EQ(error_of([&] { (void)next(life, cursor); }), errc::log_failed);
  (void)error_of([&] { run(life.io, life.log->close()); });
}

awaitable<void> tail_the_log(cursor_type cursor, std::size_t max_bytes, index_t upto, strings& into) {
  while (cursor.next_index() <= upto) {
    const record_batch batch = co_await cursor.next(max_bytes);
    EXPECT_LE(batch.count() == 1 ? 0 : batch.bytes().size(), max_bytes);
    for (const std::string& each : payloads(batch)) into.push_back(each);
  }
}

awaitable<void> write_numbered(log_life::log_type& log, index_t upto) {
  while (log.last().index < upto) {
    const std::string payload = "r" + std::to_string(log.last().index + 1);
    const position at = log.append(1, as_bytes(payload));
    if (at.index % 3 == 0) co_await log.durable(at.index);
  }
  co_await log.durable(upto);
}

TEST_P(log_cursor, follows_a_writer_live) {
  log_life life(disk, options());
  life.opened();
  std::vector<strings> found(6);
  std::vector<started<void>> readers;
  for (std::size_t i = 0; i < found.size(); ++i) {
    const visibility seen = i % 2 ? visibility::durable : visibility::staged;
    readers.push_back(start(life.io, tail_the_log(cursor_type(*life.log, 1, seen), 40 + 60 * i, 200, found[i])));
  }
  auto writing = start(life.io, write_numbered(*life.log, 200));
  for (auto& each : readers) {
    ASSERT_TRUE(run_until(life.io, [&] { return each.done(); }));
    each.result();
  }
  for (const strings& each : found) EXPECT_EQ(each, numbered(1, 200));
  ASSERT_TRUE(run_until(life.io, [&] { return writing.done(); }));
  life.close();
}

}  // namespace
}  // namespace lockstep::test
