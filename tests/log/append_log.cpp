// append_log: a record's life from append() to durable() and back, and its end.
#include "lockstep/log/append_log.hpp"

#include "life.hpp"

#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace lockstep::test {
namespace {

// --- what is appended comes back
// ------------------------------------------------------------------------------------------

INSTANTIATE_TEST_SUITE_P(append_log, every_policy, policies(), name_of_policy);

TEST_P(every_policy, what_is_durable_is_read_back) {
  log_life life(disk, options());
  life.opened();
  life.write_up_to(3);
  EXPECT_EQ(life.contents(), numbered(1, 3));
  life.close();
}

TEST_P(every_policy, what_is_durable_is_there_after_a_restart) {
  {
    log_life life(disk, options());
    life.opened().write_up_to(3);
    life.close();
  }
  EXPECT_EQ(recovered(disk, options()), numbered(1, 3));
}

TEST_P(every_policy, a_log_of_many_segments_is_read_back_before_and_after_a_restart) {
  {
    log_life life(disk, options());
    life.opened();
    for (index_t i = 1; i <= 57; ++i) life.write_up_to(i);
    EXPECT_EQ(life.log->segment_count(), 6u);
    EXPECT_EQ(life.contents(), numbered(1, 57));
    life.close();
  }
  EXPECT_EQ(recovered(disk, options()), numbered(1, 57));
}

TEST_P(every_policy, a_burst_over_many_segments_is_written_in_one_go) {
  log_life life(disk, options());
  life.opened().append_up_to(57);
  EXPECT_EQ(life.contents(visibility::staged), numbered(1, 57));
  life.durable();
  EXPECT_EQ(life.contents(), numbered(1, 57));
  EXPECT_EQ(life.log->segment_count(), 6u);
  life.close();
  EXPECT_EQ(recovered(disk, options()), numbered(1, 57));
}

TEST_P(every_policy, close_makes_staged_records_safe) {
  log_life life(disk, options());
  life.opened().append_up_to(25);
  life.close();
  faulty_disk after =
      std::get<0>(GetParam()) == sync_policy::never ? disk.process_crash() : disk.power_loss(power_cut{});
  EXPECT_EQ(recovered(after, options()), numbered(1, 25));
}

TEST_P(every_policy, sync_makes_everything_durable) {
  log_life life(disk, options());
  life.opened().append_up_to(25);
  life.sync();
  EXPECT_EQ(life.log->synced().index, 25u);
  EXPECT_EQ(life.log->acked().index, 25u);
  faulty_disk after = disk.power_loss(power_cut{});
  EXPECT_EQ(recovered(after, options()), numbered(1, 25));
  life.close();
}

TEST_P(every_policy, positions_are_known_for_every_index_in_memory_and_on_disk) {
  std::vector<position> expected{position{}};
  log_life life(disk, options());
  life.opened();
  for (index_t i = 1; i <= 33; ++i) expected.push_back(life.append("r" + std::to_string(i), 1 + i / 10));
  const auto check = [&] {
    for (index_t i = 0; i <= 33; ++i) EXPECT_EQ(life.log->position_at(i), expected[i]) << i;
    EXPECT_EQ(life.log->position_at(34), std::nullopt);
  };
  check();
  life.durable();
  check();
  life.close();
  life.opened();
  check();
  life.compact(15);
  EXPECT_EQ(life.log->first_index(), 11u);
  EXPECT_EQ(life.log->position_at(9), std::nullopt);
  for (index_t i = 10; i <= 33; ++i) EXPECT_EQ(life.log->position_at(i), expected[i]) << i;
  life.close();
}

TEST_P(every_policy, records_of_any_size_come_back) {
  strings expected;
  log_life life(disk, options());
  life.opened();
  // Smaller and larger than a chunk, the room left in a segment, and a whole segment.
  for (const std::size_t size :
       std::initializer_list<std::size_t>{0, 1, 7, 8, 9, 150, 168, 169, 400, 0, 4096, 3, 1000}) {
    expected.push_back(std::string(size, static_cast<char>('a' + expected.size())));
    life.append(expected.back());
  }
  life.durable();
  EXPECT_EQ(life.contents(), expected);
  life.close();
  EXPECT_EQ(recovered(disk, options()), expected);
}

TEST(append_log, a_wait_for_durability_may_start_long_after_it_was_made) {
  faulty_disk disk;
  log_life life(disk);
  life.opened().append_up_to(3);
  awaitable<void> of_the_second = life.log->durable(2);
  awaitable<void> of_none = life.log->durable(4);
  life.durable(3);
  test::run(life.io, std::move(of_the_second));
  EXPECT_EQ(test::error_of([&] { test::run(life.io, std::move(of_none)); }), errc::out_of_range);
  awaitable<void> of_the_fourth = life.log->durable(4);
  life.append("r4");
  test::run(life.io, std::move(of_the_fourth));
  EXPECT_EQ(life.log->acked().index, 4u);
  life.close();
}

TEST(append_log, gives_each_record_its_position) {
  faulty_disk disk;
  log_life life(disk);
  life.opened();
  const position first = life.append("a", 3);
  const position second = life.append("b", 4);
  EXPECT_EQ(first.index, 1u);
  EXPECT_EQ(first.epoch, 3u);
  EXPECT_EQ(second.index, 2u);
  EXPECT_EQ(second.epoch, 4u);
  EXPECT_NE(first.chain, second.chain);
  EXPECT_EQ(life.log->last(), second);
  EXPECT_EQ(life.log->acked(), position{});
  life.durable(2);
  EXPECT_EQ(life.log->acked(), second);
  EXPECT_EQ(life.log->synced(), second);
  life.close();
}

TEST(append_log, copies_a_payload_given_in_parts) {
  faulty_disk disk;
  log_life life(disk);
  life.opened();
  {
    const std::string front = "front ", back = "back";
    const std::array<bytes_view, 3> parts{as_bytes(front), bytes_view(), as_bytes(back)};
    life.log->append(1, parts, first_user_kind);
  }
  life.durable();
  EXPECT_EQ(life.contents(), strings{"front back"});
  life.close();
}

TEST(append_log, keeps_a_records_kind_and_epoch) {
  faulty_disk disk;
  log_life life(disk);
  life.opened();
  life.log->append(max_epoch, as_bytes("x"), 255);
  life.durable();
  log_life::log_type::read_place place;
  const record_batch batch = life.log->read(place, 100);
  EXPECT_EQ((*batch.begin()).epoch, max_epoch);
  EXPECT_EQ((*batch.begin()).kind, 255);
  life.close();
}

TEST(append_log, begins_behind_the_position_that_it_was_given) {
  faulty_disk disk;
  log_options options = small_options();
  options.start = {4, 100, 0xabc};
  {
    log_life life(disk, options);
    const recovery_report report = life.open();
    EXPECT_EQ(report.last_good, options.start);
    EXPECT_EQ(life.log->base(), options.start);
    EXPECT_EQ(life.log->first_index(), 101u);
    EXPECT_EQ(life.append("next", 4).index, 101u);
    life.durable();
    life.close();
  }
  options.start = {9, 999, 0};  // ignored from now on
  log_life life(disk, options);
  EXPECT_EQ(life.open().last_good.index, 101u);
  EXPECT_EQ(life.log->base().index, 100u);
  life.close();
}

TEST(append_log, knows_its_segments) {
  faulty_disk disk;
  log_life life(disk);
  life.opened().write_up_to(25);
  EXPECT_EQ(life.log->segment_count(), 3u);
  EXPECT_EQ(life.log->segment_of(1), 1u);
  EXPECT_EQ(life.log->segment_of(10), 1u);
  EXPECT_EQ(life.log->segment_of(11), 11u);
  EXPECT_EQ(life.log->segment_of(25), 21u);
  EXPECT_EQ(life.log->segment_of(0), 0u);
  EXPECT_EQ(life.log->segment_of(26), 0u);
  EXPECT_EQ(life.log->size_bytes(), 3 * log_format::segment_header_bytes + 25 * 40);
  EXPECT_EQ(life.log->directory(), "/log");
  life.close();
}

// --- durable
// ------------------------------------------------------------------------------------------------------------

TEST(append_log_durable, of_what_is_durable_already_returns_at_once) {
  faulty_disk disk;
  log_life life(disk);
  life.opened().write_up_to(2);
  const auto operations = disk.operations();
  life.durable(0);
  life.durable(1);
  life.durable(2);
  EXPECT_EQ(disk.operations(), operations);
  life.close();
}

TEST(append_log_durable, of_an_index_that_nobody_appended_is_out_of_range) {
  faulty_disk disk;
  log_life life(disk);
  life.opened().append_up_to(2);
  EXPECT_EQ(error_of([&] { life.durable(3); }), errc::out_of_range);
  life.close();
}

TEST(append_log_durable, waits_for_the_sync_and_not_for_the_write) {
  faulty_disk disk;
  log_life life(disk);
  life.opened();
  disk.hold_syncs();
  life.append_up_to(1);
  auto waiting = start(life.io, life.log->durable(1));
  poll(life.io);
  EXPECT_EQ(disk.held_syncs(), 1u);
  EXPECT_FALSE(waiting.done());
  EXPECT_EQ(life.log->acked().index, 0u);
  disk.release_syncs();
  EXPECT_TRUE(run_until(life.io, [&] { return waiting.done(); }));
  EXPECT_FALSE(waiting.failed());
  life.close();
}

TEST(append_log_durable, that_was_cancelled_leaves_the_record_to_become_durable) {
  faulty_disk disk;
  log_life life(disk);
  life.opened();
  disk.hold_syncs();
  life.append_up_to(2);
  auto cancelled = start(life.io, life.log->durable(1));
  auto patient = start(life.io, life.log->durable(2));
  poll(life.io);
  cancelled.cancel();
  EXPECT_TRUE(run_until(life.io, [&] { return cancelled.done(); }));
  EXPECT_TRUE(is_cancelled(cancelled.error()));
  disk.release_syncs();
  EXPECT_TRUE(run_until(life.io, [&] { return patient.done(); }));
  EXPECT_FALSE(patient.failed());
  EXPECT_EQ(life.contents(), numbered(1, 2));
  life.close();
}

awaitable<void> append_and_wait(log_life::log_type& log, std::string payload, int times) {
  for (int i = 0; i < times; ++i) {
    const position at = log.append(1, as_bytes(payload));
    co_await log.durable(at.index);
    EXPECT_GE(log.acked().index, at.index);
  }
}

TEST(append_log_durable, many_waiters_share_a_sync) {
  faulty_disk disk;
  log_options options = small_options();
  options.segment_bytes = 1 << 20;
  log_life life(disk, options);
  life.opened();
  const auto syncs = disk.operations(op_kind::datasync);
  std::vector<started<void>> writers;
  constexpr int each = 20;
  for (int i = 0; i < 64; ++i) writers.push_back(start(life.io, append_and_wait(*life.log, "x", each)));
  for (auto& writer : writers) {
    ASSERT_TRUE(run_until(life.io, [&] { return writer.done(); }));
    EXPECT_FALSE(writer.failed());
  }
  EXPECT_EQ(life.log->acked().index, 64u * each);
  EXPECT_LE(disk.operations(op_kind::datasync) - syncs, each + 2) << "one a round, not one a record";
  life.close();
}

TEST(append_log_durable, whoever_comes_while_a_sync_is_under_way_joins_the_next_one) {
  faulty_disk disk;
  log_life life(disk);
  life.opened();
  disk.hold_syncs();
  life.append_up_to(1);
  auto first = start(life.io, life.log->durable(1));
  poll(life.io);
  life.append_up_to(2);
  auto second = start(life.io, life.log->durable(2));
  auto also_first = start(life.io, life.log->durable(1));
  poll(life.io);
  disk.release_syncs();
  disk.hold_syncs();
  poll(life.io);
  EXPECT_TRUE(first.done());
  EXPECT_TRUE(also_first.done());
  EXPECT_FALSE(second.done()) << "the sync that ended began before record 2 was written";
  EXPECT_EQ(life.log->acked().index, 1u);
  disk.release_syncs();
  EXPECT_TRUE(run_until(life.io, [&] { return second.done(); }));
  life.close();
}

TEST(append_log_durable, under_interval_and_never_does_not_wait_for_a_sync) {
  for (const sync_policy policy : {sync_policy::interval, sync_policy::never}) {
    faulty_disk disk;
    log_life life(disk, small_options(policy));
    life.opened();
    const auto syncs = disk.operations(op_kind::datasync);
    life.write_up_to(5);
    EXPECT_EQ(disk.operations(op_kind::datasync), syncs);
    EXPECT_EQ(life.log->acked().index, 5u);
    EXPECT_EQ(life.log->synced().index, 0u);
    life.close();
  }
}

TEST(append_log_interval, syncs_by_itself_when_the_interval_is_over) {
  faulty_disk disk;
  log_options options = small_options(sync_policy::interval);
  options.sync_interval = std::chrono::milliseconds(1);
  log_life life(disk, options);
  life.opened().write_up_to(5);
  EXPECT_TRUE(run_until(life.io, [&] { return life.log->synced().index == 5; }));
  life.close();
}

TEST(append_log_interval, syncs_before_half_of_what_may_be_unsynced_is_written) {
  faulty_disk disk;
  log_options options = small_options(sync_policy::interval);
  options.segment_bytes = 1 << 20;
  options.max_unsynced_bytes = 800;
  log_life life(disk, options);
  life.opened();
  for (index_t i = 1; i <= 200; ++i) life.write_up_to(i);  // never overloaded
  EXPECT_GE(life.log->synced().index, 190u);
  life.close();
}

TEST(append_log_never, syncs_full_segments_in_the_background) {
  faulty_disk disk;
  log_life life(disk, small_options(sync_policy::never));
  life.opened().write_up_to(25);
  EXPECT_TRUE(run_until(life.io, [&] { return life.log->synced().index == 20; }));
  faulty_disk after = disk.power_loss(power_cut{});
  EXPECT_EQ(recovered(after, life.options), numbered(1, 20));
  life.close();
}

// --- encoded records
// ------------------------------------------------------------------------------------------------------

byte_buffer encoded_records(index_t first, index_t last) {
  faulty_disk disk;
  log_options options = small_options();
  options.segment_bytes = 1 << 20;
  log_life source(disk, options);
  source.opened().write_up_to(last);
  byte_buffer bytes;
  log_life::log_type::read_place place;
  place.next = first;
  for (;;) {
    const record_batch batch = source.log->read(place, 1 << 20);
    if (batch.empty()) break;
    bytes.append(batch.bytes());
  }
  source.close();
  return bytes;
}

TEST(append_log_encoded, the_same_bytes_make_the_same_log) {
  const byte_buffer bytes = encoded_records(1, 25);
  faulty_disk disk;
  log_life life(disk);
  life.opened();
  bytes_view rest = bytes.view();
  EXPECT_EQ(life.log->append_encoded(rest), log_codec::record_verdict::ok);
  EXPECT_TRUE(rest.empty());
  life.durable();
  EXPECT_EQ(life.contents(), numbered(1, 25));
  EXPECT_EQ(life.log->segment_count(), 3u) << "segments are local";
  life.close();
  EXPECT_EQ(recovered(disk), numbered(1, 25));
}

TEST(append_log_encoded, stops_at_the_first_bad_record_and_keeps_those_before) {
  byte_buffer bytes = encoded_records(1, 10);
  bytes.data()[6 * 40 + 33] ^= std::byte{1};
  faulty_disk disk;
  log_life life(disk);
  life.opened();
  bytes_view rest = bytes.view();
  EXPECT_EQ(life.log->append_encoded(rest), log_codec::record_verdict::bad_chain);
  EXPECT_EQ(life.log->last().index, 6u);
  EXPECT_EQ(rest.data(), bytes.data() + 6 * 40);
  life.durable();
  EXPECT_EQ(life.contents(), numbered(1, 6));
  life.close();
}

TEST(append_log_encoded, refuses_a_gap_a_repetition_and_another_history) {
  const byte_buffer bytes = encoded_records(1, 5);
  faulty_disk disk;
  log_life life(disk);
  life.opened();
  bytes_view gap = bytes.view().subspan(40);
  EXPECT_EQ(life.log->append_encoded(gap), log_codec::record_verdict::wrong_index);
  life.append("r1");
  bytes_view repetition = bytes.view();
  EXPECT_EQ(life.log->append_encoded(repetition), log_codec::record_verdict::wrong_index);
  life.append("not r2");
  bytes_view other = bytes.view().subspan(80);
  EXPECT_EQ(life.log->append_encoded(other), log_codec::record_verdict::bad_chain);
  EXPECT_EQ(life.log->last().index, 2u);
  life.close();
}

TEST(append_log_encoded, refuses_an_older_epoch) {
  const byte_buffer bytes = encoded_records(1, 5);
  faulty_disk disk;
  log_options options = small_options();
  options.start = {2, 0, 0};
  log_life life(disk, options);
  life.opened();
  bytes_view rest = bytes.view();
  EXPECT_EQ(life.log->append_encoded(rest), log_codec::record_verdict::stale_epoch);
  life.close();
}

TEST(append_log_encoded, waits_for_the_rest_of_a_record) {
  const byte_buffer bytes = encoded_records(1, 3);
  faulty_disk disk;
  log_life life(disk);
  life.opened();
  bytes_view rest = bytes.view().first(100);
  EXPECT_EQ(life.log->append_encoded(rest), log_codec::record_verdict::incomplete);
  EXPECT_EQ(rest.size(), 20u);
  EXPECT_EQ(life.log->last().index, 2u);
  life.close();
}

TEST(append_log_encoded, says_how_far_it_came_when_the_queue_is_full) {
  const byte_buffer bytes = encoded_records(1, 10);
  faulty_disk disk;
  log_options options = small_options();
  options.max_unsynced_bytes = 200;
  log_life life(disk, options);
  life.opened();
  bytes_view rest = bytes.view();
  EXPECT_EQ(error_of([&] { (void)life.log->append_encoded(rest); }), errc::overloaded);
  EXPECT_EQ(life.log->last().index, 5u);
  EXPECT_EQ(rest.data(), bytes.data() + 5 * 40);
  life.durable();
  EXPECT_EQ(life.log->append_encoded(rest), log_codec::record_verdict::ok);
  life.durable();
  EXPECT_EQ(life.contents(), numbered(1, 10));
  life.close();
}

TEST(append_log_encoded, refuses_a_record_beyond_this_logs_limit) {
  const std::string payload(5000, 'x');
  const bytes_view part = as_bytes(payload);
  byte_buffer bytes;
  bytes.resize(log_format::record_bytes(payload.size()));
  log_codec::encode_record(bytes.data(), position{}, 1, data_record, {&part, 1});
  faulty_disk disk;
  log_life life(disk);
  life.opened();
  bytes_view rest = bytes.view();
  EXPECT_EQ(error_of([&] { (void)life.log->append_encoded(rest); }), errc::record_too_large);
  EXPECT_EQ(rest.size(), bytes.size());
  EXPECT_EQ(life.log->last().index, 0u);
  life.close();
}

// --- what append refuses
// ------------------------------------------------------------------------------------------------

TEST(append_log_refuses, a_payload_beyond_the_limit_and_takes_one_at_it) {
  faulty_disk disk;
  log_life life(disk);
  life.opened();
  EXPECT_EQ(error_of([&] { life.append(std::string(4097, 'x')); }), errc::record_too_large);
  EXPECT_EQ(life.log->last().index, 0u);
  life.append(std::string(4096, 'x'));
  life.durable();
  life.close();
}

TEST(append_log_refuses, an_older_epoch_and_one_that_has_no_room) {
  faulty_disk disk;
  log_life life(disk);
  life.opened();
  life.append("a", 5);
  EXPECT_EQ(error_of([&] { life.append("b", 4); }), errc::stale_epoch);
  EXPECT_EQ(error_of([&] { life.append("b", max_epoch + 1); }), errc::stale_epoch);
  EXPECT_EQ(life.log->last().index, 1u);
  life.append("b", 5);
  life.append("c", max_epoch);
  life.durable();
  EXPECT_EQ(life.contents(), (strings{"a", "b", "c"}));
  life.close();
}

TEST(append_log_refuses, an_older_epoch_than_the_log_held_before_a_restart) {
  faulty_disk disk;
  log_life life(disk);
  life.opened().append("a", 5);
  life.close();
  life.opened();
  EXPECT_EQ(error_of([&] { life.append("b", 4); }), errc::stale_epoch);
  life.close();
}

TEST(append_log_refuses, more_than_may_be_unsynced_until_some_is) {
  faulty_disk disk;
  log_options options = small_options();
  options.max_unsynced_bytes = 120;
  log_life life(disk, options);
  life.opened().append_up_to(3);
  EXPECT_EQ(error_of([&] { life.append("r4"); }), errc::overloaded);
  EXPECT_EQ(life.log->last().index, 3u);
  life.durable();
  life.append_up_to(6);
  EXPECT_EQ(error_of([&] { life.append("r7"); }), errc::overloaded);
  life.durable();
  EXPECT_EQ(life.contents(), numbered(1, 6));
  life.close();
}

TEST(append_log_refuses, no_single_record_for_being_larger_than_what_may_be_unsynced) {
  faulty_disk disk;
  log_options options = small_options();
  options.max_unsynced_bytes = 100;
  log_life life(disk, options);
  life.opened().append(std::string(1000, 'x'));
  EXPECT_EQ(error_of([&] { life.append("y"); }), errc::overloaded);
  life.durable();
  life.append("y");
  life.durable();
  life.close();
}

TEST(append_log_refuses, to_wait_for_what_a_closed_log_will_never_hold) {
  faulty_disk disk;
  log_life life(disk);
  life.opened().write_up_to(3);
  run(life.io, life.log->close());
  EXPECT_EQ(error_of([&] { life.durable(4); }), errc::closed);
  auto waiting = test::start(life.io, life.log->durable(5));
  life.io.restart();
  while (life.io.poll_one() != 0 && !waiting.done()) {
    life.log.reset();  // after close(), whoever asks may find it gone
  }
  test::poll(life.io);
  EXPECT_EQ(waiting.error(), errc::closed);
}

TEST(append_log_refuses, everything_but_reading_when_it_is_closing_and_that_too_when_it_is_closed) {
  faulty_disk disk;
  log_life life(disk);
  life.opened().append_up_to(3);
  disk.hold_syncs();
  auto closing = start(life.io, life.log->close());
  poll(life.io);
  ASSERT_FALSE(closing.done());
  EXPECT_EQ(error_of([&] { life.append("x"); }), errc::closed);
  EXPECT_EQ(error_of([&] { life.truncate(1); }), errc::closed);
  EXPECT_EQ(error_of([&] { life.compact(1); }), errc::closed);
  EXPECT_EQ(error_of([&] { life.reset({}); }), errc::closed);
  EXPECT_EQ(error_of([&] { life.sync(); }), errc::closed);
  EXPECT_EQ(life.contents(visibility::staged), numbered(1, 3));
  disk.release_syncs();
  EXPECT_TRUE(run_until(life.io, [&] { return closing.done(); }));
  log_life::log_type::read_place place;
  EXPECT_EQ(error_of([&] { (void)life.log->read(place, 100); }), errc::closed);
  EXPECT_EQ(error_of([&] { life.append("x"); }), errc::closed);
  EXPECT_EQ(life.log->last().index, 3u) << "still known";
}

// --- reading
// ------------------------------------------------------------------------------------------------------------

TEST(append_log_read, of_durable_records_does_not_see_staged_ones) {
  faulty_disk disk;
  log_life life(disk);
  life.opened().write_up_to(3);
  life.append_up_to(5);
  EXPECT_EQ(life.contents(visibility::durable), numbered(1, 3));
  EXPECT_EQ(life.contents(visibility::staged), numbered(1, 5));
  life.durable();
  EXPECT_EQ(life.contents(visibility::durable), numbered(1, 5));
  life.close();
}

TEST(append_log_read, takes_as_many_records_as_fit_and_at_least_one) {
  faulty_disk disk;
  log_options options = small_options();
  options.chunk_bytes = options.hot_tail_bytes = 1 << 20;
  log_life life(disk, options);
  life.opened().write_up_to(6);
  for (const bool from_memory : {true, false}) {
    if (!from_memory) {
      life.close();
      life.opened();
    }
    const auto count = [&](std::size_t max_bytes) {
      log_life::log_type::read_place place;
      return life.log->read(place, max_bytes).count();
    };
    EXPECT_EQ(count(0), 1u);
    EXPECT_EQ(count(39), 1u);
    EXPECT_EQ(count(79), 1u);
    EXPECT_EQ(count(80), 2u);
    EXPECT_EQ(count(240), 6u);
    EXPECT_EQ(count(1 << 20), 6u);
  }
  life.close();
}

TEST(append_log_read, starts_anywhere_in_memory_and_on_disk) {
  faulty_disk disk;
  log_life life(disk);
  life.opened().write_up_to(35);
  for (const bool from_memory : {true, false}) {
    if (!from_memory) {
      life.close();
      life.opened();
    }
    for (index_t first = 1; first <= 35; ++first) {
      for (const std::size_t max_bytes : std::initializer_list<std::size_t>{1, 100, 100000}) {
        strings found;
        log_life::log_type::read_place place;
        place.next = first;
        for (;;) {
          const record_batch batch = life.log->read(place, max_bytes);
          if (batch.empty()) break;
          EXPECT_EQ(batch.first(), first + found.size());
          for (const std::string& each : payloads(batch)) found.push_back(each);
        }
        ASSERT_EQ(found, numbered(first, 35)) << first << " " << max_bytes;
      }
    }
  }
  life.close();
}

TEST(append_log_read, remembers_the_chain_of_what_it_returned_last) {
  faulty_disk disk;
  log_life life(disk);
  life.opened().write_up_to(23);
  life.append_up_to(25);
  for (const visibility seen : {visibility::durable, visibility::staged}) {
    for (const std::size_t max_bytes : std::initializer_list<std::size_t>{1, 90, 100000}) {
      log_life::log_type::read_place place;
      while (!life.log->read(place, max_bytes, seen).empty()) {
        ASSERT_EQ(place.chain, life.log->position_at(place.next - 1)->chain) << place.next;
      }
    }
  }
  life.close();
}

TEST(append_log_read, outside_of_what_is_kept_is_an_error) {
  faulty_disk disk;
  log_life life(disk);
  life.opened().write_up_to(25);
  life.compact(15);
  log_life::log_type::read_place place;
  place.next = 10;
  EXPECT_EQ(error_of([&] { (void)life.log->read(place, 100); }), errc::compacted);
  place.next = 27;
  EXPECT_EQ(error_of([&] { (void)life.log->read(place, 100); }), errc::out_of_range);
  place.next = 26;
  EXPECT_TRUE(life.log->read(place, 100).empty());
  life.close();
}

TEST(append_log_read, notices_a_damaged_header_in_a_sealed_segment) {
  faulty_disk disk;
  log_life life(disk);
  life.opened().write_up_to(25);
  disk.flip_bit(segment_path(1), log_format::segment_header_bytes + 4 * 40 + 8);
  log_life::log_type::read_place place;
  EXPECT_EQ(life.log->read(place, 100000).last(), 4u);
  EXPECT_EQ(error_of([&] { (void)life.log->read(place, 100000); }), errc::corrupt);
  EXPECT_EQ(error_of([&] { (void)life.log->read(place, 100000); }), errc::corrupt) << "also when asked again";
  place.next = 8;
  EXPECT_EQ(error_of([&] { (void)life.log->read(place, 100000); }), errc::corrupt) << "the way there is unknown";
  life.close();
}

TEST(append_log_read, of_a_file_that_is_gone_is_an_error_that_names_it) {
  faulty_disk disk;
  log_life life(disk);
  life.opened().write_up_to(25);
  std::error_code ec;
  life.env.remove(segment_path(1), ec);
  log_life::log_type::read_place place;
  try {
    (void)life.log->read(place, 100);
    ADD_FAILURE() << "read a file that is gone";
  } catch (const std::system_error& error) {
    EXPECT_EQ(error.code(), std::errc::no_such_file_or_directory);
    EXPECT_NE(std::string(error.what()).find(segment_path(1)), std::string::npos) << error.what();
  }
  life.close();
}

// --- opening and closing
// ------------------------------------------------------------------------------------------------

TEST(append_log_open, makes_the_directory_and_syncs_its_parent) {
  faulty_disk disk;
  log_life life(disk);
  EXPECT_EQ(life.open().verdict, log_verdict::clean);
  life.write_up_to(1);
  faulty_disk after = disk.power_loss(power_cut{});
  EXPECT_EQ(recovered(after), numbered(1, 1));
  life.close();
}

TEST(append_log_open, in_a_directory_that_nobody_synced_syncs_its_parent) {
  faulty_disk disk;
  log_life life(disk);
  std::error_code ec;
  life.env.create_directory("/log", ec);
  life.opened().write_up_to(1);
  faulty_disk after = disk.power_loss(power_cut{});
  EXPECT_EQ(recovered(after), numbered(1, 1));
  life.close();
}

TEST(append_log_open, of_a_path_with_a_slash_at_its_end_syncs_the_parent_too) {
  faulty_disk disk;
  disk.make_directory("/data");
  log_life life(disk);
  life.log = run(life.io, log_life::log_type::open(life.env, "/data/log/", life.options)).log;
  life.write_up_to(1);
  life.close();
  faulty_disk after = disk.power_loss(power_cut{});
  log_life second(after);
  second.log = run(second.io, log_life::log_type::open(second.env, "/data/log", second.options)).log;
  EXPECT_EQ(second.contents(), numbered(1, 1));
  second.close();
}

TEST(append_log_open, without_a_parent_directory_fails) {
  faulty_disk disk;
  log_life life(disk);
  EXPECT_EQ(error_of([&] { run(life.io, log_life::log_type::open(life.env, "/no/log", life.options)); }),
            std::errc::no_such_file_or_directory);
}

TEST(append_log_open, of_a_locked_directory_names_the_holders_pid) {
  faulty_disk disk;
  log_life holder(disk);
  holder.opened();
  log_life other(disk);
  try {
    other.open();
    ADD_FAILURE() << "opened twice";
  } catch (const std::system_error& error) {
    EXPECT_EQ(error.code(), errc::log_locked);
    EXPECT_NE(std::string(error.what()).find("/log is locked by pid " + std::to_string(holder.env.pid())),
              std::string::npos)
        << error.what();
  }
  holder.close();
  other.opened().close();
}

TEST(append_log_open, again_after_each_close_continues_the_log) {
  faulty_disk disk;
  for (index_t i = 1; i <= 25; ++i) {
    log_life life(disk);
    EXPECT_EQ(life.open().verdict, log_verdict::clean);
    life.write_up_to(i);
    life.close();
  }
  EXPECT_EQ(recovered(disk), numbered(1, 25));
}

TEST(append_log_open, cuts_off_what_was_half_written_and_says_so) {
  faulty_disk disk;
  {
    log_life life(disk);
    life.opened().write_up_to(3);
    disk.crash_at(0, 50);  // in the next write: one record and a quarter
    life.append_up_to(6);
    EXPECT_THROW(life.durable(), std::system_error);
  }
  faulty_disk image = disk.process_crash();
  log_life life(image);
  const recovery_report report = life.open();
  EXPECT_EQ(report.verdict, log_verdict::torn_tail);
  EXPECT_EQ(report.truncated_from, 5u);
  EXPECT_EQ(report.last_good.index, 4u);
  EXPECT_EQ(life.contents(), numbered(1, 4));
  life.write_up_to(6);
  life.close();
  EXPECT_EQ(recovered(image), numbered(1, 6));
}

TEST(append_log_open, reads_only_the_headers_of_sealed_segments) {
  faulty_disk disk;
  {
    log_life life(disk);
    life.opened().write_up_to(95);
    life.close();
  }
  log_life life(disk);
  const auto maps = disk.operations(op_kind::map);
  life.opened();
  EXPECT_EQ(life.log->segment_count(), 10u);
  EXPECT_LE(disk.operations(op_kind::map) - maps, 2u) << "the last segment, to scan it and to write it anew";
  std::uint64_t bytes = 0;
  for (const op& each : disk.history()) {
    if (each.kind == op_kind::pread) bytes += each.length;
  }
  EXPECT_LE(bytes, 13 * log_format::segment_header_used);
  life.close();
}

TEST(append_log_open, below_an_index_known_durable_is_corrupt) {
  faulty_disk disk;
  log_options options = small_options();
  {
    log_life life(disk, options);
    life.opened().write_up_to(5);
    life.close();
  }
  options.known_durable = 6;
  log_life life(disk, options);
  const recovery_report report = life.open();
  EXPECT_EQ(report.verdict, log_verdict::corrupt);
  EXPECT_EQ(report.rule, corruption::known_durable);
  life.options.known_durable = 5;
  life.opened().close();
}

TEST(append_log_open, of_a_new_log_that_begins_at_the_index_known_durable_is_clean) {
  faulty_disk disk;
  log_options options = small_options();
  options.start = {1, 100, 7};
  options.known_durable = 100;  // a snapshot covers it
  log_life life(disk, options);
  EXPECT_EQ(life.open().verdict, log_verdict::clean);
  life.close();
}

TEST(append_log_open, of_a_corrupt_log_releases_the_directory) {
  faulty_disk disk;
  {
    log_life life(disk);
    life.opened().write_up_to(5);
    life.close();
  }
  disk.flip_bit(segment_path(1), log_format::segment_header_bytes + 40);
  log_life life(disk);
  EXPECT_EQ(life.open().rule, corruption::watermark);
  EXPECT_EQ(life.open().rule, corruption::watermark) << "not locked";
}

TEST(append_log_close, of_an_unused_log_and_twice_and_together) {
  faulty_disk disk;
  log_life life(disk);
  life.opened();
  auto one = start(life.io, life.log->close());
  auto two = start(life.io, life.log->close());
  EXPECT_TRUE(run_until(life.io, [&] { return one.done() && two.done(); }));
  run(life.io, life.log->close());
  poll(life.io);
  EXPECT_TRUE(life.io.stopped()) << "nothing of it is left to run";
}

TEST_P(every_policy, close_leaves_nothing_to_run_whatever_is_under_way) {
  for (int busy = 0; busy < 40; ++busy) {
    faulty_disk fresh;
    log_life life(fresh, options());
    life.opened().append_up_to(15);
    auto waiting = start(life.io, life.log->durable(15));
    auto syncing = start(life.io, life.log->sync());
    auto cutting = start(life.io, life.log->truncate_suffix(12));
    auto compacting = start(life.io, life.log->compact_prefix(12));
    // A few steps further each time.
    life.io.restart();
    for (int step = 0; step < busy; ++step) life.io.poll_one();
    run(life.io, life.log->close());
    poll(life.io);
    EXPECT_TRUE(life.io.stopped()) << busy;
    EXPECT_TRUE(waiting.done() && syncing.done() && cutting.done() && compacting.done()) << busy;
    life.log.reset();
    const strings found = recovered(fresh, options());
    EXPECT_TRUE(found == numbered(1, 15) || found == numbered(1, 12) || found == numbered(11, 12) ||
                found == numbered(11, 15))
        << testing::PrintToString(found);
  }
}

TEST(append_log_close, ends_those_who_wait) {
  faulty_disk disk;
  log_life life(disk);
  life.opened();
  auto reading = start(life.io, life.log->readable(1, visibility::durable));
  auto reading_staged = start(life.io, life.log->readable(1, visibility::staged));
  poll(life.io);
  life.close();
  poll(life.io);
  ASSERT_TRUE(reading.done() && reading_staged.done());
  EXPECT_EQ(reading.result(), errc::closed);
  EXPECT_EQ(reading_staged.result(), errc::closed);
}

TEST(append_log_close, serves_those_who_wait_for_a_sync_first) {
  faulty_disk disk;
  log_life life(disk);
  life.opened().append_up_to(13);
  auto waiting = start(life.io, life.log->durable(13));
  life.close();
  poll(life.io);
  ASSERT_TRUE(waiting.done());
  EXPECT_FALSE(waiting.failed());
}

TEST(append_log_close, throws_what_the_last_flush_met_after_everything_is_released) {
  faulty_disk disk;
  log_life life(disk);
  life.opened().append_up_to(3);
  disk.inject({.kinds = {op_kind::datasync}});
  EXPECT_EQ(error_of([&] { run(life.io, life.log->close()); }), disk_error(EIO));
  run(life.io, life.log->close());
  life.log.reset();
  life.opened().close();
}

// Programs that end without close(): their executor never runs again.
void run_some(asio::io_context& io, int steps) {
  io.restart();
  for (int step = 0; step < steps; ++step) io.poll_one();
}

TEST_P(every_policy, a_log_may_be_destroyed_before_its_executor_at_any_step) {
  for (int steps = 0; steps < 60; ++steps) {
    faulty_disk fresh;
    log_life life(fresh, options());
    life.opened().append_up_to(15);
    auto waiting = start(life.io, life.log->durable(15));
    auto syncing = start(life.io, life.log->sync());
    auto cutting = start(life.io, life.log->truncate_suffix(12));
    auto reading = start(life.io, life.log->readable(20, visibility::durable));
    run_some(life.io, steps);
  }
}

awaitable<void> keep_a_log(faulty_env& env, log_options options) {
  auto opened = co_await log_life::log_type::open(env, "/log", options);
  for (int i = 0; i < 15; ++i) opened.log->append(1, as_bytes("payload"));
  auto cutting = start(env.get_executor(), opened.log->truncate_suffix(12));
  auto reading = start(env.get_executor(), opened.log->readable(20, visibility::durable));
  co_await opened.log->sync();
  co_await opened.log->durable(12);
  (void)co_await opened.log->readable(100, visibility::durable);
}

TEST_P(every_policy, a_log_in_a_coroutine_may_be_destroyed_by_its_executor_at_any_step) {
  for (int steps = 0; steps < 120; ++steps) {
    faulty_disk fresh;
    asio::io_context io;
    faulty_env env(io.get_executor(), fresh);
    auto keeping = start(io, keep_a_log(env, options()));
    run_some(io, steps);
  }
}

}  // namespace
}  // namespace lockstep::test
