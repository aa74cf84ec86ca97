#include "lockstep/raft/hard_state_file.hpp"

#include "support/faulty_env.hpp"
#include "support/run.hpp"
#include "support/temporary_directory.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace lockstep::raft {

inline void PrintTo(const hard_state& state, std::ostream* out) {
  *out << "{term " << state.term << ", vote " << state.vote << "}";
}

namespace {

using namespace test;

constexpr std::size_t slot_bytes = hard_state_format::slot_bytes;
constexpr const char* path = "/node/hard_state";
const node_identity me{"orders", 3};

/// One life of a node that keeps its hard state on a faulty_disk.
struct life {
  asio::io_context io;
  faulty_env env;
  std::unique_ptr<basic_hard_state_file<faulty_env>> file;

  explicit life(faulty_disk& disk) : env(io.get_executor(), disk) {}

  life& opened(const node_identity& identity = me, sync_on where = sync_on::disk_thread) {
    file = run(io, basic_hard_state_file<faulty_env>::open(env, "/node", identity, where));
    return *this;
  }
  void write(const hard_state& next) { run(io, file->write(next)); }
};

hard_state found_in(faulty_disk& disk) {
  life next(disk);
  return next.opened().file->state();
}

/// The text of the exception that open() throws; empty when there is none.
std::string refusal(faulty_disk& disk, errc expected, const node_identity& identity = me) {
  life next(disk);
  try {
    next.opened(identity);
  } catch (const std::system_error& error) {
    EXPECT_EQ(error.code(), expected) << error.what();
    return error.what();
  }
  return "";
}

/// The states of a story: terms begin, and some of them with a vote that comes later.
std::vector<hard_state> story() { return {{1, 0}, {1, 3}, {2, 2}, {4, 0}, {4, 1}, {5, 3}, {9, 0}}; }

/// What a node knows of its hard state.
struct knowledge {
  std::size_t acknowledged = 0;  ///< so many of the story's states
  std::size_t attempted = 0;

  /// What is wrong with what a new life finds; empty when it is what was acknowledged, or later.
  [[nodiscard]] std::string objection(const hard_state& found) const {
    const std::vector<hard_state> all = story();
    for (std::size_t i = acknowledged; i <= attempted; ++i) {
      if (found == (i == 0 ? hard_state() : all[i - 1])) return "";
    }
    return testing::PrintToString(found) + " is none of " + std::to_string(acknowledged) + " to " +
           std::to_string(attempted);
  }
};

/// Tells the rest of the story, in lives as many as it takes, until it ends or the disk crashes.
knowledge tell(faulty_disk& disk, knowledge known = {}, sync_on where = sync_on::disk_thread) {
  for (int lives = 0; lives < 4 && !disk.crashed(); ++lives) {
    life now(disk);
    try {
      now.opened(me, where);
      const hard_state& state = now.file->state();
      EXPECT_EQ(known.objection(state), "") << disk.story();
      const std::vector<hard_state> all = story();
      const auto at = std::find(all.begin(), all.end(), state);
      known.acknowledged = at == all.end() ? 0 : static_cast<std::size_t>(at - all.begin()) + 1;
      known.attempted = known.acknowledged;
      while (known.acknowledged < all.size()) {
        ++known.attempted;
        now.write(all[known.acknowledged]);
        known.acknowledged = known.attempted;
      }
      return known;
    } catch (const std::system_error&) {
      if (now.file) {
        EXPECT_TRUE(now.file->failure());
        EXPECT_EQ(error_of([&] { now.write({100, 0}); }), errc::log_failed) << "F1";
      }
    }
  }
  return known;
}

faulty_disk disk_after_the_story() {
  faulty_disk disk;
  tell(disk);
  disk.settle();
  return disk;
}

// --- what it is for -------------------------------------------------------------------------------------------------

TEST(raft_hard_state_file, of_a_new_directory_has_no_term_and_no_vote) {
  faulty_disk disk;
  EXPECT_EQ(found_in(disk), hard_state());
  EXPECT_EQ(disk.files(), std::vector<std::string>{path});
  EXPECT_EQ(found_in(disk), hard_state());
}

TEST(raft_hard_state_file, gives_back_what_was_written_last) {
  for (const sync_on where : {sync_on::disk_thread, sync_on::caller}) {
    faulty_disk disk;
    for (const hard_state& each : story()) {
      life now(disk);
      now.opened(me, where).write(each);
      EXPECT_EQ(now.file->state(), each);
      EXPECT_EQ(found_in(disk), each);
    }
    life now(disk);
    now.opened(me, where);
    now.write({10, 1});
    now.write({11, 0});
    now.write({11, 2});
    EXPECT_EQ(found_in(disk), (hard_state{11, 2}));
  }
}

TEST(raft_hard_state_file, writes_its_slots_in_turn) {
  faulty_disk disk;
  life now(disk);
  now.opened();
  std::vector<std::uint64_t> offsets;
  disk.on_operation([&](const op& each) {
    if (each.kind == op_kind::pwrite) offsets.push_back(each.offset);
  });
  for (const term_t term : std::initializer_list<term_t>{1, 2, 3, 4}) now.write({term, 0});
  ASSERT_EQ(offsets.size(), 4u);
  EXPECT_NE(offsets[0], offsets[1]);
  EXPECT_EQ(offsets[2], offsets[0]);
  EXPECT_EQ(offsets[3], offsets[1]);
}

TEST(raft_hard_state_file, a_new_life_leaves_the_last_ones_newest_slot_alone_until_there_is_another) {
  faulty_disk disk;
  std::uint64_t last = slot_bytes;  // where a new file's newest slot is
  for (const term_t term : std::initializer_list<term_t>{1, 2, 3, 4, 5}) {
    life now(disk);
    now.opened();
    std::uint64_t offset = last;
    disk.on_operation([&](const op& each) {
      if (each.kind == op_kind::pwrite) offset = each.offset;
    });
    now.write({term, 0});
    disk.on_operation({});
    EXPECT_NE(offset, last) << term;
    last = offset;
  }
}

TEST(raft_hard_state_file, an_acknowledged_state_is_durable) {
  faulty_disk disk;
  life now(disk);
  now.opened().write({7, 2});
  faulty_disk after = disk.power_loss(power_cut{});
  EXPECT_EQ(found_in(after), (hard_state{7, 2}));
}

TEST(raft_hard_state_file, golden_copy) {
  // Made by a C program that knows the drawing and xxHash, and nothing of this library.
  std::array<std::byte, slot_bytes> page;
  page.fill(std::byte{0xee});
  hard_state_format::encode_slot(page, 5, {7, 3}, {"orders", 2});
  const std::array<unsigned char, 120> expected = {
      0x4c, 0x4f, 0x43, 0x4b, 0x48, 0x53, 0x54, 0x31, 1, 0, 0, 0, 6, 0, 0, 0,  //
      5,    0,    0,    0,    0,    0,    0,    0,    7, 0, 0, 0, 0, 0, 0, 0,  //
      3,    0,    0,    0,    0,    0,    0,    0,    2, 0, 0, 0, 0, 0, 0, 0,  //
      'o',  'r',  'd',  'e',  'r',  's'};
  for (std::size_t copy = 0; copy < slot_bytes; copy += 512) {
    for (std::size_t i = 0; i < 112; ++i) EXPECT_EQ(std::to_integer<int>(page[copy + i]), expected[i]) << i;
    EXPECT_EQ(load_le<std::uint64_t>(page.data() + copy + 112), 0x725891c58aae47b0u);
    for (std::size_t i = 120; i < 512; ++i) EXPECT_EQ(page[copy + i], std::byte{0}) << i;
  }
}

// --- whose directory it is ------------------------------------------------------------------------------------------

TEST(raft_hard_state_file, of_another_node_is_refused_and_both_are_named) {
  faulty_disk disk;
  { life(disk).opened({"x", 2}); }
  const std::uint64_t before = disk.fingerprint();
  EXPECT_NE(refusal(disk, errc::wrong_cluster, {"y", 3})
                .find("/node belongs to node 2 of cluster x, not to node 3 of cluster y"),
            std::string::npos);
  EXPECT_NE(refusal(disk, errc::wrong_node, {"x", 3})
                .find("/node belongs to node 2 of cluster x, not to node 3 of cluster x"),
            std::string::npos);
  EXPECT_NE(refusal(disk, errc::wrong_cluster, {"", 2}), "");
  EXPECT_EQ(disk.fingerprint(), before);
  EXPECT_EQ(refusal(disk, errc::wrong_node, {"x", 2}), "");
}

TEST(raft_hard_state_file, keeps_the_longest_cluster_id) {
  faulty_disk disk;
  const node_identity longest{std::string(max_cluster_bytes, 'c'), ~node_id{0}};
  { life(disk).opened(longest).write({1, longest.node}); }
  life now(disk);
  EXPECT_EQ(now.opened(longest).file->state(), (hard_state{1, longest.node}));
  EXPECT_EQ(now.file->identity(), longest);
}

TEST(raft_hard_state_file, that_is_missing_beside_what_else_a_node_has_is_corrupt) {
  for (const char* other : {"/node/log", "/node/snapshots"}) {
    faulty_disk disk;
    disk.make_directory(other);
    EXPECT_NE(refusal(disk, errc::corrupt).find(std::string(other).substr(6)), std::string::npos);
    EXPECT_TRUE(disk.files().empty());
  }
  faulty_disk refilled;
  refilled.replace("/node/refill", as_bytes("of a node whose log.1 and snapshots.1 are there"));
  EXPECT_NE(refusal(refilled, errc::corrupt).find("refill"), std::string::npos);
  faulty_disk locked;
  locked.replace("/node/LOCK", as_bytes("1\n"));
  EXPECT_EQ(found_in(locked), hard_state()) << "the node's lock comes first";
}

// --- damage ---------------------------------------------------------------------------------------------------------

TEST(raft_hard_state_file, any_flipped_bit_leaves_the_state_as_it_was) {
  const faulty_disk original = disk_after_the_story();
  for (std::uint64_t at = 0; at < 2 * slot_bytes; ++at) {
    const bool used = at % 512 < hard_state_format::copy_used;
    if (!used && at % 7 != 0) continue;
    faulty_disk disk = original.process_crash();  // a copy
    disk.flip_bit(path, at, at / 3 % 8);
    ASSERT_EQ(found_in(disk), story().back()) << at;
  }
}

TEST(raft_hard_state_file, any_bad_sector_but_one_that_cannot_be_read_leaves_the_state_as_it_was) {
  const faulty_disk original = disk_after_the_story();
  for (std::size_t sector = 0; sector < 2 * slot_bytes; sector += 512) {
    std::vector<std::byte> bytes = *original.bytes(path);
    std::fill_n(bytes.begin() + static_cast<std::ptrdiff_t>(sector), 512, std::byte{0x5a});
    faulty_disk disk = original.process_crash();
    disk.replace(path, bytes);
    ASSERT_EQ(found_in(disk), story().back()) << sector;

    faulty_disk unreadable = original.process_crash();
    unreadable.inject({.kinds = {op_kind::pread}, .touching = sector});
    life next(unreadable);
    ASSERT_EQ(error_of([&] { next.opened(); }), disk_error(EIO)) << sector;
  }
}

TEST(raft_hard_state_file, a_slot_without_a_good_copy_is_corrupt_and_nothing_is_changed) {
  const faulty_disk original = disk_after_the_story();
  const auto expect_corrupt = [&](const std::vector<std::byte>& bytes) {
    faulty_disk disk = original.process_crash();
    disk.replace(path, bytes);
    EXPECT_NE(refusal(disk, errc::corrupt).find(path), std::string::npos);
    EXPECT_EQ(disk.bytes(path), bytes) << "C7";
  };
  const std::vector<std::byte> good = *original.bytes(path);
  for (const unsigned bad_slots : {1u, 2u, 3u}) {
    for (const std::byte with : {std::byte{0}, std::byte{0xff}}) {
      std::vector<std::byte> bytes = good;
      for (std::size_t at = 0; at < bytes.size(); ++at) {
        if ((bad_slots >> at / slot_bytes & 1) != 0) bytes[at] = with;
      }
      expect_corrupt(bytes);
    }
  }
  std::vector<std::byte> swapped = good;
  std::rotate(swapped.begin(), swapped.begin() + slot_bytes, swapped.end());
  expect_corrupt(swapped);
  for (const std::size_t size : {std::size_t{0}, std::size_t{1}, slot_bytes, 2 * slot_bytes - 1, 2 * slot_bytes + 1}) {
    std::vector<std::byte> other_size = good;
    other_size.resize(size);
    expect_corrupt(other_size);
  }
}

// --- crashes and failures -------------------------------------------------------------------------------------------

TEST(raft_hard_state_file, at_every_crash_an_acknowledged_state_or_a_later_one_is_found) {
  for (const sync_on where : {sync_on::disk_thread, sync_on::caller}) {
    const auto program = [&](faulty_disk& disk) { return tell(disk, {}, where); };
    const std::uint64_t operations =
        for_each_crash(20, program, [](faulty_disk& image, const knowledge& known, const std::string& which) {
          if (testing::Test::HasFailure()) return;
          SCOPED_TRACE(which);
          EXPECT_EQ(tell(image, known).acknowledged, story().size());
        });
    EXPECT_GT(operations, 2 * story().size());
  }
}

TEST(raft_hard_state_file, also_when_the_write_is_torn_and_when_the_next_life_crashes_in_turn) {
  for (const std::uint64_t torn : std::initializer_list<std::uint64_t>{1, 600, 4095}) {
    for (std::uint64_t at = 0;; ++at) {
      faulty_disk disk;
      disk.crash_at(at, torn);
      const knowledge known = tell(disk);
      for_each_crash_image(disk, 6, [&](faulty_disk& image, const std::string& which) {
        for (std::uint64_t again = 0; again < 12; ++again) {
          faulty_disk second = image.process_crash();  // a copy
          second.crash_at(again, torn);
          const knowledge then = tell(second, known);
          for_each_crash_image(second, 4, [&](faulty_disk& last, const std::string& which_of_both) {
            if (testing::Test::HasFailure()) return;
            SCOPED_TRACE("operation " + std::to_string(at) + ", " + which + ", then operation " +
                         std::to_string(again) + ", " + which_of_both + "\n" + second.story());
            EXPECT_EQ(tell(last, then).acknowledged, story().size());
          });
        }
      });
      if (!disk.crashed() || HasFailure()) break;
    }
  }
}

TEST(raft_hard_state_file, an_operation_that_fails_is_told_and_breaks_no_promise) {
  for (const int error : {EIO, ENOSPC}) {
    for (std::uint64_t at = 0;; ++at) {
      faulty_disk disk;
      disk.fail_operation(at, error);
      const knowledge known = tell(disk);
      EXPECT_EQ(known.acknowledged, story().size()) << "another life tells the rest";
      for_each_crash_image(disk, 6, [&](faulty_disk& image, const std::string& which) {
        SCOPED_TRACE("operation " + std::to_string(at) + " fails, then " + which);
        EXPECT_EQ(known.objection(found_in(image)), "");
      });
      if (disk.faults_hit() == 0 || HasFailure()) break;
    }
  }
}

TEST(raft_hard_state_file, f2_what_a_failed_sync_left_in_the_cache_is_durable_before_a_new_life_sees_it) {
  faulty_disk disk;
  {
    life now(disk);
    now.opened().write({1, 1});
    disk.inject({.kinds = {op_kind::datasync}});
    EXPECT_EQ(error_of([&] { now.write({2, 2}); }), disk_error(EIO));
    EXPECT_EQ(now.file->state(), (hard_state{1, 1}));
    EXPECT_EQ(error_of([&] { now.write({3, 0}); }), errc::log_failed);
  }
  const hard_state found = found_in(disk);
  EXPECT_EQ(found, (hard_state{2, 2})) << "as the cache shows it";
  faulty_disk after = disk.power_loss(power_cut{});
  EXPECT_EQ(found_in(after), found);
}

TEST(raft_hard_state_file, a_write_that_has_begun_is_seen_through) {
  faulty_disk disk;
  life now(disk);
  now.opened();
  disk.hold_syncs();
  auto writing = start(now.io, now.file->write({1, 2}));
  (void)poll(now.io);
  ASSERT_EQ(disk.held_syncs(), 1u);
  EXPECT_EQ(now.file->state(), hard_state());
  writing.cancel();
  disk.release_syncs();
  ASSERT_TRUE(run_until(now.io, [&] { return writing.done(); }));
  EXPECT_EQ(writing.error(), std::error_code());
  EXPECT_EQ(now.file->state(), (hard_state{1, 2}));
}

// --- the real environment -------------------------------------------------------------------------------------------

TEST(raft_hard_state_file, keeps_its_contract_on_real_files) {
  temporary_directory directory;
  const std::string node = directory.file("node");
  for (const sync_on where : {sync_on::disk_thread, sync_on::caller}) {
    asio::io_context io;
    real::env env(io.get_executor(), real::env_options{1, 1});
    auto file = run(io, hard_state_file::open(env, node, me, where));
    const term_t before = file->state().term;
    for (const term_t term : std::initializer_list<term_t>{before + 1, before + 2, before + 3}) {
      run(io, file->write({term, 0}));
      run(io, file->write({term, 3}));
    }
    file = run(io, hard_state_file::open(env, node, me, where));
    EXPECT_EQ(file->state(), (hard_state{before + 3, 3}));
    EXPECT_EQ(error_of([&] {
                (void)run(io, hard_state_file::open(env, node, {"orders", 4}, where));
              }),
              errc::wrong_node);
  }
}

TEST(raft_hard_state_file, may_go_while_a_disk_thread_writes) {
  temporary_directory directory;
  for (int i = 0; i < 20; ++i) {
    asio::io_context io;
    real::env env(io.get_executor(), real::env_options{1, 1});
    auto file = run(io, hard_state_file::open(env, directory.path(), me));
    const term_t before = file->state().term;
    const auto writing = start(io, file->write({before + 1, 0}));
    (void)poll(io);
    file.reset();
  }
}

}  // namespace
}  // namespace lockstep::raft
