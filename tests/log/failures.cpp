// append_log: disks that are full, that fail, and that cannot reserve space.
#include "lockstep/log/append_log.hpp"

#include "life.hpp"

#include <gtest/gtest.h>

#include <cerrno>
#include <string>
#include <vector>

namespace lockstep::test {
namespace {

struct append_log_failures : every_policy {};
INSTANTIATE_TEST_SUITE_P(policies, append_log_failures, policies(), name_of_policy);

fault no_allocate() {
  return {.kinds = {op_kind::allocate},
          .error = std::make_error_code(std::errc::not_supported),
          .how_often = times::from_then_on};
}

// --- P3: a file system that cannot reserve space
// ----------------------------------------------------------------------------

TEST_P(append_log_failures, p3_a_file_system_without_allocate_is_written_zeros_instead) {
  disk.inject(no_allocate());
  log_life life(disk, options());
  life.opened();
  for (index_t i = 1; i <= 25; ++i) life.write_up_to(i);
  life.append_up_to(57);
  life.durable();
  life.truncate(48);
  life.sync();
  life.compact(25);
  life.write_up_to(75);
  EXPECT_EQ(life.contents(), numbered(21, 75));
  life.close();
  EXPECT_EQ(recovered(disk, options()), numbered(21, 75));
}

awaitable<void> write_in_bursts(log_life::log_type& log, int bursts, int each, std::vector<std::string>& payloads) {
  for (int burst = 0; burst < bursts; ++burst) {
    position last;
    for (int i = 0; i < each; ++i) {
      const std::string payload = "r" + std::to_string(log.last().index + 1);
      last = log.append(1, as_bytes(payload));
      payloads.push_back(payload);
      if (i % 3 == 2) co_await asio::post(use_awaitable);
    }
    co_await log.durable(last.index);
  }
}

TEST_P(append_log_failures, p3_zeros_never_reach_records_that_are_being_written) {
  for (const std::uint64_t reserve : std::initializer_list<std::uint64_t>{1, 64, 200, 1000}) {
    faulty_disk fresh;
    fresh.inject(no_allocate());
    log_options with = options();
    with.reserve_bytes = reserve;
    log_life life(fresh, with);
    life.opened();
    strings payloads;
    std::vector<started<void>> writers;
    for (int i = 0; i < 3; ++i) writers.push_back(start(life.io, write_in_bursts(*life.log, 10, 3 + i, payloads)));
    for (auto& each : writers) {
      ASSERT_TRUE(run_until(life.io, [&] { return each.done(); }));
      each.result();
    }
    ASSERT_EQ(payloads, numbered(1, payloads.size()));
    EXPECT_EQ(life.contents(), payloads) << reserve;
    life.close();
    EXPECT_EQ(recovered(fresh, options()), payloads) << reserve;
  }
}

TEST(append_log_p3, an_append_uses_zeros_that_an_earlier_one_wrote_in_vain) {
  // Room for the first reservation in part: what is there is enough for small records.
  faulty_disk disk;
  log_options options = small_options();
  options.segment_bytes = 1 << 20;
  options.reserve_bytes = 1 << 20;
  disk.inject(no_allocate());
  log_life life(disk, options);
  life.opened();
  disk.set_capacity(disk.used() + 20 * page_size);
  life.write_up_to(100);
  EXPECT_EQ(life.contents(), numbered(1, 100));
  life.close();
  disk.set_capacity(disk.used() + 20 * page_size);
  EXPECT_EQ(recovered(disk, options), numbered(1, 100));
}

// --- P4: a full disk
// --------------------------------------------------------------------------------------------------------

TEST_P(append_log_failures, p4_a_full_disk_refuses_the_append_whole_and_takes_it_when_there_is_space) {
  for (const bool can_allocate : {true, false}) {
    for (std::uint64_t pages = 0; pages < 14; ++pages) {
      SCOPED_TRACE(std::to_string(pages) + (can_allocate ? " pages" : " pages, without allocate"));
      faulty_disk fresh;
      if (!can_allocate) fresh.inject(no_allocate());
      log_life life(fresh, options());
      life.opened();
      const std::uint64_t capacity = fresh.used() + pages * page_size;
      fresh.set_capacity(capacity);
      std::error_code refused;
      index_t last = 0;
      for (int i = 0; i < 100 && !refused; ++i) {
        last = life.log->last().index;
        refused = error_of([&] { life.append_up_to(last + 1); });
        if (!refused && i % 4 == 0) life.durable();
      }
      ASSERT_EQ(refused, std::errc::no_space_on_device);
      ASSERT_EQ(life.log->last().index, last) << "nothing was staged";
      ASSERT_FALSE(life.log->failure());
      // What was staged was reserved: it can be written.
      life.durable();
      ASSERT_EQ(life.contents(), numbered(1, last));
      ASSERT_EQ(error_of([&] { life.append_up_to(last + 1); }), std::errc::no_space_on_device) << "still full";

      fresh.set_capacity(capacity + 100 * page_size);
      life.write_up_to(last + 15);
      ASSERT_EQ(life.contents(), numbered(1, last + 15));
      life.close();
      ASSERT_EQ(recovered(fresh, options()), numbered(1, last + 15));
    }
  }
}

TEST_P(append_log_failures, p4_a_full_disk_that_is_restarted_still_has_its_records) {
  log_life life(disk, options());
  life.opened();
  disk.set_capacity(disk.used() + 5 * page_size);
  while (!error_of([&] { life.append_up_to(life.log->last().index + 1); })) life.durable();
  const index_t last = life.log->last().index;
  life.close();
  // Opening writes the tail anew, for which there is no space either: an error, and nothing is lost.
  disk.set_capacity(disk.used());
  const std::error_code ec = error_of([&] { life.opened().close(); });
  EXPECT_TRUE(!ec || ec == std::errc::no_space_on_device) << ec.message();
  disk.set_capacity(disk.used() + 10 * page_size);
  EXPECT_EQ(recovered(disk, options()), numbered(1, last));
}

TEST_P(append_log_failures, p4_space_that_compaction_frees_is_used) {
  log_options with = options();
  with.recycled_segments = 0;
  log_life life(disk, with);
  life.opened().write_up_to(25);
  life.sync();
  disk.set_capacity(disk.used());
  while (!error_of([&] { life.append_up_to(life.log->last().index + 1); })) life.durable();
  const index_t last = life.log->last().index;
  life.sync();
  life.compact(21);
  life.write_up_to(last + 1);
  EXPECT_EQ(life.contents(), numbered(21, last + 1));
  life.close();
}

// --- F1: a failed write or sync ends the log
// ----------------------------------------------------------------------------------

/// What a log does when operation `what` fails while three records are on their way, in the file being written and
/// with a new segment ahead.
void expect_f1(const log_options& options, fault what, index_t written, const std::string& named) {
  SCOPED_TRACE(named);
  faulty_disk disk;
  log_life life(disk, options);
  life.opened().write_up_to(written);
  auto reading = start(life.io, life.log->readable(written + 1, visibility::durable));
  disk.inject(what);
  const bool refused = static_cast<bool>(error_of([&] { life.append_up_to(written + 3); }));
  auto waiting = start(life.io, life.log->durable(life.log->last().index));
  auto syncing = start(life.io, life.log->sync());
  ASSERT_TRUE(run_until(life.io, [&] { return syncing.done() && waiting.done(); }));
  ASSERT_EQ(disk.faults_hit(), 1u) << disk.story();
  disk.clear_faults();
  if (!life.log->failure()) {
    // Refused before anything was staged, or not needed by this policy.
    ASSERT_TRUE(refused) << disk.story();
    (void)error_of([&] { run(life.io, life.log->close()); });
    return;
  }
  EXPECT_EQ(life.log->failure(), what.error);
  EXPECT_TRUE(syncing.failed());
  const index_t acked = life.log->acked().index;
  if (acked < written + 3) {
    EXPECT_TRUE(waiting.failed() || refused);
  }

  // Nothing more is written, and nothing acknowledged.
  const std::uint64_t writes = disk.operations(op_kind::pwrite) + disk.operations(op_kind::datasync);
  EXPECT_EQ(error_of([&] { life.append("x"); }), errc::log_failed);
  EXPECT_EQ(error_of([&] { life.sync(); }), errc::log_failed);
  EXPECT_EQ(error_of([&] { life.truncate(1); }), errc::log_failed);
  EXPECT_EQ(error_of([&] { life.compact(1); }), errc::log_failed);
  EXPECT_EQ(error_of([&] { life.reset({}); }), errc::log_failed);
  if (acked < life.log->last().index) {
    EXPECT_EQ(error_of([&] { life.durable(); }), errc::log_failed);
  }
  poll(life.io);
  EXPECT_EQ(life.log->acked().index, acked);
  EXPECT_EQ(disk.operations(op_kind::pwrite) + disk.operations(op_kind::datasync), writes);
  ASSERT_TRUE(reading.done());

  // What was acknowledged stays readable.
  EXPECT_EQ(life.contents(), numbered(1, acked));
  (void)error_of([&] { run(life.io, life.log->close()); });
  EXPECT_EQ(disk.operations(op_kind::pwrite) + disk.operations(op_kind::datasync), writes) << "nor by close()";
  life.log.reset();

  // Opening it anew finds a prefix with all that was acknowledged, and goes on.
  life.opened();
  const strings found = life.contents();
  EXPECT_GE(found.size(), acked);
  EXPECT_EQ(found, numbered(1, found.size()));
  life.write_up_to(written + 20);
  life.close();
  EXPECT_EQ(recovered(disk, options), numbered(1, written + 20));
}

TEST_P(append_log_failures, f1_a_failed_write_or_sync_ends_the_log) {
  for (const int error : {EIO, ENOSPC}) {
    for (const index_t written : {index_t{3}, index_t{9}}) {
      const auto expect = [&](op_kind kind) {
        expect_f1(options(), {.kinds = {kind}, .path_contains = "/log", .error = disk_error(error)}, written,
                  std::string(to_string(kind)) + " after " + std::to_string(written) + ": " + std::to_string(error));
      };
      expect(op_kind::pwrite);
      expect(op_kind::datasync);
      if (written == 9) {  // a segment ends here
        expect(op_kind::create);
        expect(op_kind::rename);
        if (std::get<0>(GetParam()) != sync_policy::never) expect(op_kind::sync_directory);
      }
    }
  }
}

TEST(append_log_f1, everybody_who_waits_is_told) {
  faulty_disk disk;
  log_life life(disk);
  life.opened();
  disk.hold_syncs();
  life.append_up_to(1);
  auto in_flight = start(life.io, life.log->durable(1));
  poll(life.io);
  life.append_up_to(2);
  auto behind = start(life.io, life.log->durable(2));
  auto reading = start(life.io, life.log->readable(1, visibility::durable));
  auto reading_staged = start(life.io, life.log->readable(3, visibility::staged));
  auto cutting = start(life.io, life.log->truncate_suffix(0));
  auto compacting = start(life.io, life.log->compact_prefix(2));
  auto resetting = start(life.io, life.log->reset({}));
  auto syncing = start(life.io, life.log->sync());
  poll(life.io);
  disk.release_syncs();
  disk.inject({.kinds = {op_kind::datasync}});
  ASSERT_TRUE(run_until(life.io, [&] { return syncing.done(); }));
  poll(life.io);
  // The sync in flight was good; the one behind it failed.
  ASSERT_TRUE(in_flight.done() && behind.done() && reading.done() && reading_staged.done() && cutting.done() &&
              compacting.done() && resetting.done());
  EXPECT_FALSE(in_flight.failed());
  EXPECT_EQ(behind.error(), errc::log_failed);
  EXPECT_EQ(reading.result(), std::error_code());
  EXPECT_EQ(reading_staged.result(), errc::log_failed);
  EXPECT_TRUE(cutting.failed() && resetting.failed() && syncing.failed());
  EXPECT_EQ(life.log->acked().index, 1u);
  EXPECT_THROW(run(life.io, life.log->close()), std::system_error) << "record 2 is lost";
}

TEST(append_log_f1, the_text_says_what_the_disk_said) {
  faulty_disk disk;
  log_life life(disk);
  life.opened().append("x");
  disk.inject({.kinds = {op_kind::datasync}});
  try {
    life.durable();
    ADD_FAILURE();
  } catch (const std::system_error& error) {
    EXPECT_EQ(error.code(), errc::log_failed);
    EXPECT_NE(std::string(error.what()).find("Input/output error"), std::string::npos) << error.what();
    EXPECT_NE(std::string(error.what()).find("/log"), std::string::npos) << error.what();
  }
  EXPECT_THROW(run(life.io, life.log->close()), std::system_error);
}

TEST(append_log_f1, a_failed_background_sync_ends_a_log_that_syncs_now_and_then) {
  for (const sync_policy policy : {sync_policy::interval, sync_policy::never}) {
    faulty_disk disk;
    log_options options = small_options(policy);
    options.sync_interval = std::chrono::milliseconds(1);
    log_life life(disk, options);
    life.opened();
    disk.inject({.kinds = {op_kind::datasync}});
    (void)error_of([&] { life.write_up_to(15); });
    EXPECT_TRUE(run_until(life.io, [&] { return static_cast<bool>(life.log->failure()); }));
    EXPECT_EQ(error_of([&] { life.append("x"); }), errc::log_failed);
    (void)error_of([&] { run(life.io, life.log->close()); });
  }
}

TEST(append_log_f1, a_watermark_that_cannot_be_written_is_no_failure) {
  faulty_disk disk;
  log_life life(disk);
  life.opened();
  disk.inject({.kinds = {op_kind::pwrite}, .path_contains = "watermark", .how_often = times::from_then_on});
  life.write_up_to(25);
  EXPECT_GT(disk.faults_hit(), 0u);
  life.close();
  disk.clear_faults();
  EXPECT_EQ(recovered(disk), numbered(1, 25)) << "a lower bound is as true";
}

TEST(append_log_f1, a_watermark_that_was_synced_survives_a_power_loss_and_one_that_was_not_need_not) {
  for (const bool synced : {false, true}) {
    SCOPED_TRACE(synced);
    faulty_disk disk;
    log_life life(disk);
    life.opened().write_up_to(5);
    if (synced) run(life.io, life.log->sync_watermark());
    life.write_up_to(7);
    faulty_disk left(disk.power_loss({}));
    left.flip_bit(segment_path(1), log_format::segment_header_bytes + 50);  // record 2
    log_life next(left);
    const recovery_report found = next.open();
    EXPECT_EQ(found.verdict, synced ? log_verdict::corrupt : log_verdict::torn_tail);
    EXPECT_EQ(found.last_bad, synced ? 5u : 0u);
    if (next.log) next.close();
    life.close();
  }
}

TEST(append_log_f1, a_log_whose_watermark_cannot_be_synced_has_failed) {
  faulty_disk disk;
  log_life life(disk);
  life.opened().write_up_to(5);
  disk.inject({.kinds = {op_kind::datasync}, .path_contains = "watermark"});
  EXPECT_EQ(error_of([&] { run(life.io, life.log->sync_watermark()); }), std::errc::io_error);
  EXPECT_TRUE(life.log->failure());
  (void)error_of([&] { run(life.io, life.log->close()); });
}

// --- F2: what open() reads from the page cache need not be on the disk
// --------------------------------------------------------

TEST_P(append_log_failures, f2_what_open_found_in_the_cache_after_a_failed_sync_is_durable_when_it_returns) {
  {
    log_life life(disk, options());
    life.opened().write_up_to(3);
    life.sync();
    life.append_up_to(5);
    // The kernel marks the pages clean: they are in the cache and not on the disk, and no later sync writes them.
    disk.inject({.kinds = {op_kind::datasync}});
    EXPECT_TRUE(error_of([&] { life.sync(); }));
  }
  ASSERT_EQ(recovered(*std::make_unique<faulty_disk>(disk.power_loss(power_cut{})), options()), numbered(1, 3));
  faulty_disk restarted = disk.process_crash();
  log_life life(restarted, options());
  life.opened();
  EXPECT_EQ(life.contents(), numbered(1, 5)) << "from the cache";
  faulty_disk after = restarted.power_loss(power_cut{});
  EXPECT_EQ(recovered(after, options()), numbered(1, 5)) << "a reader may have acted on records 4 and 5";
  life.write_up_to(7);
  life.close();
  EXPECT_EQ(recovered(restarted, options()), numbered(1, 7));
}

TEST_P(append_log_failures, f2_also_when_the_pages_of_several_segments_were_marked_clean) {
  {
    log_life life(disk, options());
    life.opened().write_up_to(3);
    life.sync();
    disk.inject({.kinds = {op_kind::datasync}, .how_often = times::from_then_on});
    (void)error_of([&] { life.append_up_to(28); });
    (void)error_of([&] { life.sync(); });
  }
  disk.clear_faults();
  faulty_disk restarted = disk.process_crash();
  log_life life(restarted, options());
  life.opened();
  const strings found = life.contents();
  EXPECT_GE(found.size(), 3u);
  faulty_disk after = restarted.power_loss(power_cut{});
  EXPECT_EQ(recovered(after, options()), found);
  life.close();
}

// --- F3: an acknowledgement means a completed sync of the bytes and of the directory entry
// ------------------------------------

/// Where the record at `index` lies: its file and offset, by walking over the cached files.
bool record_is_durable(const faulty_disk& disk, index_t index, const std::string& payload) {
  for (const std::string& name : names(disk, view::durable)) {
    const index_t first = log_files::parse_segment_name(name);
    if (first == 0 || first > index) continue;
    const auto bytes = disk.bytes("/log/" + name, view::durable);
    const auto header = segment_header::decode(*bytes);
    if (!header || header->first_index() != first) continue;
    bool found = false;
    (void)scan_segment(*bytes, *header,
                       [&](const record& each) { found |= each.index == index && as_text(each.payload) == payload; });
    if (found) return true;
  }
  return false;
}

awaitable<void> write_watched(log_life::log_type& log, const faulty_disk& disk, std::string name, int times) {
  for (int i = 0; i < times; ++i) {
    const std::string payload = name + std::to_string(i);
    const position at = log.append(1, as_bytes(payload));
    co_await log.durable(at.index);
    EXPECT_TRUE(record_is_durable(disk, at.index, payload)) << payload << "\n" << disk.story();
  }
}

TEST(append_log_f3, at_each_acknowledgement_the_record_is_on_the_disk_under_its_name) {
  for (const sync_on where : {sync_on::disk_thread, sync_on::caller}) {
    faulty_disk disk;
    log_life life(disk, small_options(sync_policy::always, where));
    life.opened();
    std::vector<started<void>> writers;
    for (const char* name : {"a", "b", "c"}) {
      writers.push_back(start(life.io, write_watched(*life.log, disk, name, 15)));
    }
    for (auto& each : writers) {
      ASSERT_TRUE(run_until(life.io, [&] { return each.done(); }));
      each.result();
    }
    life.compact(30);
    run(life.io, write_watched(*life.log, disk, "recycled", 30));
    life.truncate(52);
    run(life.io, write_watched(*life.log, disk, "cut", 12));
    life.reset({1, 3, 7});
    run(life.io, write_watched(*life.log, disk, "reset", 12));
    life.close();
  }
}

TEST_P(append_log_failures, f3_what_sync_covers_is_on_the_disk_under_its_name) {
  log_life life(disk, options());
  life.opened();
  for (index_t upto = 4; upto <= 40; upto += 4) {
    life.append_up_to(upto);
    life.sync();
    for (index_t i = 1; i <= upto; ++i) ASSERT_TRUE(record_is_durable(disk, i, "r" + std::to_string(i))) << i;
  }
  life.close();
}

TEST_P(append_log_failures, f3_the_watermark_never_names_a_record_that_is_not_on_the_disk) {
  log_life life(disk, options());
  disk.on_operation([&](const op& each) {
    if (each.kind != op_kind::pwrite || each.path != "/log/watermark") return;
    // Before this write: the one before must be true, also if it was never synced.
    const auto bytes = disk.bytes("/log/watermark");
    const auto named = bytes ? log_codec::decode_watermark(*bytes) : std::nullopt;
    if (named && named->index != 0) {
      EXPECT_TRUE(record_is_durable(disk, named->index, "r" + std::to_string(named->index))) << disk.story();
    }
  });
  life.opened();
  life.write_up_to(15);
  life.append_up_to(37);
  life.truncate(33);
  life.write_up_to(45);
  life.truncate(21);
  life.write_up_to(40);
  life.close();
  life.opened();
  life.write_up_to(55);
  life.close();
}

}  // namespace
}  // namespace lockstep::test
