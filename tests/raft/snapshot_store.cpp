#include "lockstep/raft/snapshot_store.hpp"

#include "support/faulty_env.hpp"
#include "support/run.hpp"
#include "support/temporary_directory.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace lockstep::raft {
namespace {

using namespace test;
using byte_vector = std::vector<std::byte>;

constexpr std::uint32_t block_bytes = 16;
constexpr const char* directory = "/node/snapshots";

snapshot_options small_options(sync_on where = sync_on::disk_thread) {
  snapshot_options options;
  options.block_bytes = block_bytes;
  options.sync_bytes = 100;
  options.sync_where = where;
  return options;
}

configuration some_members() {
  configuration config;
  config.voters.incoming = {1};
  config.learners = {2};
  config.addresses = {{1, "a:1"}};
  return config;
}

position at(index_t index) { return {5, index, index * 1000003}; }

/// The state at `index`: another one, of another length, for each.
std::string state_at(index_t index, std::size_t size) {
  std::string state;
  for (std::size_t i = 0; i < size; ++i) state += static_cast<char>('a' + (i * i + index * 7 + i / 26) % 26);
  return state;
}
std::string state_at(index_t index) { return state_at(index, static_cast<std::size_t>(100 + 3 * index)); }

std::string file_name(index_t index, std::string_view suffix = ".snap") {
  return directory + ("/" + log_files::numbered(index, suffix));
}

template <class Env>
awaitable<snapshot_info> write_snapshot(basic_snapshot_store<Env>& store, index_t index, std::string state,
                                        std::size_t piece) {
  const auto writer = store.begin(at(index), some_members());
  for (bytes_view rest = as_bytes(state); !rest.empty();) {
    const bytes_view part = rest.first(std::min(piece, rest.size()));
    co_await writer->write(part);
    rest = rest.subspan(part.size());
  }
  co_return co_await writer->finish();
}

template <class Env>
std::string read_state(const basic_snapshot_store<Env>& store, index_t index, std::size_t piece = 7) {
  const auto reader = store.read(index);
  std::string state;
  std::vector<std::byte> into(piece);
  for (;;) {
    const std::size_t got = reader->read(into);
    state += as_text({into.data(), got});
    if (got < piece) return state;
  }
}

/// What the indexes of the good snapshots are, newest first, by asking for the one before each.
template <class Env>
std::vector<index_t> indexes(const basic_snapshot_store<Env>& store) {
  std::vector<index_t> found;
  for (index_t before = ~index_t{0};;) {
    const auto next = store.newest_before(before);
    if (!next) return found;
    before = next->id.at.index;
    found.push_back(before);
  }
}

/// Brings what follows in `file`, which may end before the snapshot does, `piece` bytes at a time.
template <class Receiver>
awaitable<void> bring(Receiver& to, bytes_view file, std::size_t piece) {
  while (to.offset() < file.size()) {
    const bytes_view next = file.subspan(to.offset()).first(std::min(piece, file.size() - to.offset()));
    co_await to.write(to.offset(), next);
  }
}

/// One life of a node that keeps its snapshots on a faulty_disk.
struct life {
  using store_type = basic_snapshot_store<faulty_env>;

  asio::io_context io;
  faulty_env env;
  std::unique_ptr<store_type> store;

  explicit life(faulty_disk& disk) : env(io.get_executor(), disk) { disk.make_directory("/node"); }

  life& opened(const snapshot_options& options = small_options()) {
    store = run(io, store_type::open(env, directory, options));
    return *this;
  }
  snapshot_info write(index_t index, const std::string& state, std::size_t piece = 23) {
    return run(io, write_snapshot(*store, index, state, piece));
  }
  snapshot_info write(index_t index) { return write(index, state_at(index)); }
  std::unique_ptr<store_type::receiver> receive(const snapshot_id& id) { return run(io, store->receive(id)); }
  snapshot_info receive_whole(const snapshot_id& id, bytes_view file, std::size_t piece = 23) {
    const auto receiver = receive(id);
    run(io, bring(*receiver, file, piece));
    return run(io, receiver->finish());
  }
  void remove_older(std::size_t keep) { run(io, store->remove_older(keep)); }
};

/// A snapshot that another node has.
struct elsewhere {
  snapshot_info info;
  byte_vector file;

  explicit elsewhere(index_t index, const std::string& state) {
    faulty_disk disk;
    info = life(disk).opened().write(index, state);
    file = *disk.bytes(file_name(index));
  }
  explicit elsewhere(index_t index) : elsewhere(index, state_at(index)) {}
};

std::vector<index_t> found_in(faulty_disk& disk) {
  life next(disk);
  next.opened();
  const std::vector<index_t> found = indexes(*next.store);
  for (const index_t each : found) EXPECT_EQ(read_state(*next.store, each), state_at(each)) << each;
  return found;
}

using testing_list = std::vector<index_t>;

std::string what_of(const std::function<void()>& call) {
  try {
    call();
  } catch (const std::system_error& error) {
    EXPECT_EQ(error.code(), errc::corrupt) << error.what();
    return error.what();
  }
  return "";
}

// --- writing and reading --------------------------------------------------------------------------------------------

TEST(raft_snapshot_store, golden_file) {
  // Made by a C program that knows the drawing and xxHash, and nothing of this library.
  constexpr std::string_view expected =
      "4c4f434b534e503101000000080000000500000000000000"
      "2800000000000000efcdab00000000002400000000000000"
      "010001000100000001000000000000000200000000000000"
      "010000000000000003613a31000000001562921c9712aea2"
      "68656c6c6f2c2077cd1aa163e1dda5fa"
      "6f726c64455475281ffc6271"
      "4c4f434b534e50459c00000000000000455475281ffc627125941577f54ef548";
  faulty_disk disk;
  life now(disk);
  snapshot_options options = small_options();
  options.block_bytes = 8;
  now.opened(options);
  const auto writer = now.store->begin({5, 40, 0xabcdef}, some_members());
  run(now.io, writer->write(as_bytes("hello, world")));
  const snapshot_info info = run(now.io, writer->finish());
  const byte_vector file = *disk.bytes(file_name(40));
  std::string found;
  for (const std::byte each : file) {
    constexpr std::string_view digits = "0123456789abcdef";
    found += digits[std::to_integer<std::size_t>(each >> 4)];
    found += digits[std::to_integer<std::size_t>(each & std::byte{15})];
  }
  EXPECT_EQ(found, expected);
  EXPECT_EQ(info.id.at, (position{5, 40, 0xabcdef}));
  EXPECT_EQ(info.id.bytes, expected.size() / 2);
  EXPECT_EQ(info.id.checksum, 0x7162fc1f28755445u);
  EXPECT_EQ(info.state_bytes, 12u);
}

TEST(raft_snapshot_store, gives_back_states_of_any_length_however_they_are_cut) {
  for (const std::size_t size : std::initializer_list<std::size_t>{0, 1, 15, 16, 17, 31, 32, 33, 500}) {
    std::optional<byte_vector> file;
    for (const std::size_t piece : std::initializer_list<std::size_t>{1, 15, 16, 17, 40, 1000}) {
      SCOPED_TRACE(std::to_string(size) + " in pieces of " + std::to_string(piece));
      faulty_disk disk;
      life now(disk);
      const std::string state = state_at(1, size);
      const snapshot_info info = now.opened().write(9, state, piece);
      EXPECT_EQ(info.state_bytes, size);
      EXPECT_EQ(read_state(*now.store, 9, piece), state);
      EXPECT_EQ(now.store->read(9)->info().config, some_members());
      const auto bytes = disk.bytes(file_name(9));
      EXPECT_EQ(info.id.bytes, bytes->size());
      if (!file) file = bytes;
      EXPECT_EQ(bytes, file) << "equal states have equal files";
    }
  }
}

TEST(raft_snapshot_store, has_none_at_the_beginning) {
  faulty_disk disk;
  life now(disk);
  now.opened();
  EXPECT_FALSE(now.store->newest());
  EXPECT_EQ(error_of([&] { (void)now.store->read(1); }), std::errc::no_such_file_or_directory);
}

TEST(raft_snapshot_store, the_newest_is_the_one_of_the_highest_index_in_this_life_and_the_next) {
  faulty_disk disk;
  {
    life now(disk);
    now.opened().write(20);
    now.write(100);
    now.write(3);
    EXPECT_EQ(indexes(*now.store), (testing_list{100, 20, 3}));
    EXPECT_EQ(now.store->newest()->id.at, at(100));
    EXPECT_EQ(now.store->newest_before(100)->id.at, at(20));
    EXPECT_FALSE(now.store->newest_before(3));
  }
  EXPECT_EQ(found_in(disk), (testing_list{100, 20, 3}));
}

TEST(raft_snapshot_store, a_snapshot_replaces_the_one_at_the_same_index) {
  faulty_disk disk;
  life now(disk);
  now.opened().write(7, "old");
  const auto reader = now.store->read(7);
  now.write(7);
  EXPECT_EQ(now.store->newest()->state_bytes, state_at(7).size());
  EXPECT_EQ(found_in(disk), testing_list{7});
  std::array<std::byte, 10> into;
  EXPECT_EQ(reader->read(into), 3u) << "who reads the old one goes on";
  EXPECT_EQ(as_text({into.data(), 3}), "old");
}

TEST(raft_snapshot_store, what_is_being_written_is_no_snapshot_and_leaves_nothing_when_dropped) {
  faulty_disk disk;
  life now(disk);
  now.opened().write(1);
  const std::vector<std::string> before = disk.files();
  auto writer = now.store->begin(at(2), some_members());
  run(now.io, writer->write(as_bytes(state_at(2))));
  EXPECT_EQ(now.store->newest()->id.at, at(1));
  EXPECT_EQ(disk.files().size(), before.size() + 1);
  writer.reset();
  EXPECT_EQ(disk.files(), before);
  now.write(2);
  EXPECT_EQ(now.store->newest()->id.at, at(2));
}

TEST(raft_snapshot_store, is_synced_as_it_grows) {
  faulty_disk disk;
  const elsewhere other(9, state_at(9, 1000));
  life now(disk);
  now.opened();  // a sync each 100 bytes, with every fifth block
  const auto syncs = [&] { return disk.operations(op_kind::datasync); };
  std::uint64_t before = syncs();
  now.write(8, state_at(9, 1000), block_bytes);
  EXPECT_EQ(syncs() - before, other.file.size() / 5 / 24 + 1);
  before = syncs();
  now.receive_whole(other.info.id, other.file, 24);
  EXPECT_EQ(syncs() - before, other.file.size() / 5 / 24 + 1);
}

TEST(raft_snapshot_store, an_acknowledged_snapshot_is_durable) {
  faulty_disk disk;
  life now(disk);
  now.opened().write(4);
  faulty_disk after = disk.power_loss(power_cut{});
  EXPECT_EQ(found_in(after), testing_list{4});
}

TEST(raft_snapshot_store, writers_readers_and_receivers_may_outlive_it) {
  faulty_disk disk;
  const elsewhere other(9);
  life now(disk);
  now.opened().write(4);
  const auto writer = now.store->begin(at(5), some_members());
  const auto reader = now.store->read(4);
  const auto receiver = now.receive(other.info.id);
  now.store.reset();
  const std::uint64_t operations = disk.operations();
  EXPECT_EQ(error_of([&] { run(now.io, writer->write(as_bytes("x"))); }), errc::closed);
  EXPECT_EQ(error_of([&] { run(now.io, receiver->write(0, other.file)); }), errc::closed);
  EXPECT_EQ(disk.operations(), operations);
  std::array<std::byte, 3> into;
  EXPECT_EQ(reader->read(into), 3u);
}

// --- removing -------------------------------------------------------------------------------------------------------

TEST(raft_snapshot_store, removes_all_but_the_newest_oldest_first) {
  faulty_disk disk;
  life now(disk);
  now.opened();
  for (const index_t index : std::initializer_list<index_t>{1, 2, 3, 4, 5}) now.write(index);
  std::vector<std::string> removed;
  disk.on_operation([&](const op& each) {
    if (each.kind == op_kind::remove) removed.push_back(each.path);
  });
  now.remove_older(6);
  now.remove_older(5);
  EXPECT_TRUE(removed.empty());
  now.remove_older(2);
  EXPECT_EQ(removed, (std::vector<std::string>{file_name(1), file_name(2), file_name(3)}));
  EXPECT_EQ(indexes(*now.store), (testing_list{5, 4}));
  faulty_disk after = disk.power_loss(power_cut{});
  EXPECT_EQ(found_in(after), (testing_list{5, 4})) << "durably";
  now.remove_older(1);
  EXPECT_EQ(found_in(disk), testing_list{5});
}

TEST(raft_snapshot_store, one_that_is_removed_can_be_read_to_its_end_by_whoever_has_begun) {
  faulty_disk disk;
  life now(disk);
  now.opened().write(1);
  const auto reader = now.store->read(1);
  std::array<std::byte, 5> first;
  ASSERT_EQ(reader->read(first), first.size());
  now.write(2);
  now.remove_older(1);
  EXPECT_FALSE(disk.exists(file_name(1)));
  std::vector<std::byte> rest(1000);
  rest.resize(reader->read(rest));
  EXPECT_EQ(std::string(as_text(first)) + std::string(as_text(rest)), state_at(1));
  EXPECT_FALSE(reader->chunk(0).empty());
}

// --- damage ---------------------------------------------------------------------------------------------------------

/// Everything that a node reads of its newest snapshot.
void use_newest(faulty_disk& disk, std::string& state) {
  life now(disk);
  now.opened();
  const auto newest = now.store->newest();
  if (newest) state = read_state(*now.store, newest->id.at.index);
}

TEST(raft_snapshot_store, no_flipped_bit_is_passed_over_and_nothing_is_changed) {
  faulty_disk original;
  life(original).opened().write(4);
  { life(original).opened().write(9, state_at(9, 40)); }
  original.settle();
  const std::size_t size = original.bytes(file_name(9))->size();
  for (std::uint64_t offset = 0; offset < size; ++offset) {
    for (unsigned bit = 0; bit < 8; ++bit) {
      faulty_disk disk = original.process_crash();  // a copy
      disk.flip_bit(file_name(9), offset, bit);
      const std::uint64_t before = disk.fingerprint();
      std::string state;
      const std::string told = what_of([&] { use_newest(disk, state); });
      ASSERT_NE(told.find(file_name(9)), std::string::npos) << offset << " " << bit;
      ASSERT_EQ(state, "");
      ASSERT_EQ(disk.fingerprint(), before) << "C7";
    }
  }
}

TEST(raft_snapshot_store, no_flipped_bit_is_streamed_to_a_follower) {
  faulty_disk original;
  life(original).opened().write(9, state_at(9, 40));
  const elsewhere other(9, state_at(9, 40));
  for (std::uint64_t offset = 0; offset < other.file.size(); ++offset) {
    faulty_disk disk = original.process_crash();
    life now(disk);
    now.opened();
    const auto reader = now.store->read(9);
    disk.flip_bit(file_name(9), offset, offset % 8);  // after it was opened
    byte_vector sent;
    const std::string told = what_of([&] {
      while (sent.size() < reader->info().id.bytes) {
        const bytes_view next = reader->chunk(sent.size());
        sent.insert(sent.end(), next.begin(), next.end());
      }
    });
    const bool in_trailer = offset >= other.file.size() - snapshot_format::trailer_bytes;
    ASSERT_EQ(told.empty(), in_trailer) << offset << ": the trailer was read already";
    ASSERT_TRUE(std::equal(sent.begin(), sent.end(), other.file.begin())) << offset;
  }
}

TEST(raft_snapshot_store, a_file_of_another_length_is_damaged) {
  const elsewhere other(9, state_at(9, 40));
  for (std::size_t size = 0; size <= other.file.size() + 50; ++size) {
    if (size == other.file.size()) continue;
    byte_vector bytes = other.file;
    bytes.resize(size);
    faulty_disk disk;
    disk.replace(file_name(9), bytes);
    std::string state;
    ASSERT_NE(what_of([&] { use_newest(disk, state); }).find(file_name(9)), std::string::npos) << size;
  }
  // A block is missing, and the trailer moved up.
  byte_vector bytes = other.file;
  bytes.erase(bytes.end() - 32 - 24, bytes.end() - 32);
  const auto trailer = snapshot_format::trailer{bytes.size(), other.info.id.checksum}.encode();
  std::copy(trailer.begin(), trailer.end(), bytes.end() - 32);
  faulty_disk disk;
  disk.replace(file_name(9), bytes);
  std::string state;
  EXPECT_NE(what_of([&] { use_newest(disk, state); }), "");
  // The trailer of a longer file: this is told before a block is read.
  std::copy(other.file.end() - 32, other.file.end(), bytes.end() - 32);
  disk.replace(file_name(9), bytes);
  life now(disk);
  now.opened();
  EXPECT_NE(what_of([&] { (void)now.store->newest(); }).find("trailer"), std::string::npos);
}

TEST(raft_snapshot_store, blocks_that_are_good_and_a_trailer_that_names_others_are_damaged_and_not_received) {
  for (const std::size_t size : std::initializer_list<std::size_t>{0, 32, 40}) {
    elsewhere other(9, state_at(9, size));
    other.info.id.checksum += 1;
    const auto trailer = snapshot_format::trailer{other.info.id.bytes, other.info.id.checksum}.encode();
    std::copy(trailer.begin(), trailer.end(), other.file.end() - 32);
    faulty_disk disk;
    disk.replace(file_name(9), other.file);
    std::string state;
    EXPECT_NE(what_of([&] { use_newest(disk, state); }), "") << size;

    faulty_disk empty;
    life now(empty);
    EXPECT_EQ(error_of([&] { now.opened().receive_whole(other.info.id, other.file); }), errc::corrupt) << size;
    EXPECT_FALSE(now.store->newest());
  }
}

TEST(raft_snapshot_store, a_file_under_another_name_is_damaged) {
  const elsewhere other(9);
  faulty_disk disk;
  disk.replace(file_name(8), other.file);
  std::string state;
  EXPECT_NE(what_of([&] { use_newest(disk, state); }).find("index 9"), std::string::npos);
}

TEST(raft_snapshot_store, an_older_one_is_used_only_by_who_asks_for_it) {
  faulty_disk disk;
  {
    life now(disk);
    now.opened().write(3);
    now.write(4);
    now.write(5);
  }
  disk.flip_bit(file_name(5), 0);
  disk.replace(file_name(6, ".tmp"), as_bytes("half"));
  disk.replace(file_name(2, ".part"), as_bytes("half"));
  life now(disk);
  const std::uint64_t before = disk.fingerprint();
  now.opened();
  EXPECT_EQ(disk.fingerprint(), before) << "C7: what is left over stays too";
  EXPECT_NE(what_of([&] { (void)now.store->newest(); }).find(file_name(5)), std::string::npos);
  EXPECT_NE(what_of([&] { (void)now.store->read(5); }).find(file_name(5)), std::string::npos);
  EXPECT_EQ(now.store->newest_before(5)->id.at, at(4));
  EXPECT_EQ(read_state(*now.store, 4), state_at(4));
  // It is replaced by a newer one, and goes with what is older than that.
  now.write(7);
  EXPECT_EQ(now.store->newest()->id.at, at(7));
  now.remove_older(2);
  EXPECT_TRUE(disk.exists(file_name(4))) << "the damaged one does not count";
  now.remove_older(1);
  EXPECT_FALSE(disk.exists(file_name(5)));
}

TEST(raft_snapshot_store, what_a_crash_left_over_is_removed) {
  const elsewhere other(9);
  faulty_disk disk;
  { life(disk).opened().write(5); }
  disk.replace(file_name(8, ".tmp"), as_bytes("half"));
  disk.replace(file_name(5, ".part"), as_bytes("half"));
  disk.replace(file_name(6, ".part"), as_bytes("half"));
  disk.replace(std::string(directory) + "/README", as_bytes("mine"));
  disk.replace(std::string(directory) + "/5.snap", as_bytes("mine"));
  EXPECT_EQ(found_in(disk), testing_list{5});
  EXPECT_EQ(disk.files(),
            (std::vector<std::string>{file_name(5), file_name(6, ".part"), std::string(directory) + "/5.snap",
                                      std::string(directory) + "/README"}));
}

// --- receiving ------------------------------------------------------------------------------------------------------

TEST(raft_snapshot_store, chunks_from_any_offset_are_the_files_bytes) {
  faulty_disk disk;
  life now(disk);
  now.opened().write(9);
  const byte_vector file = *disk.bytes(file_name(9));
  const auto reader = now.store->read(9);
  for (std::size_t offset = 0; offset < file.size(); ++offset) {
    const bytes_view next = reader->chunk(offset);
    ASSERT_FALSE(next.empty());
    ASSERT_LE(next.size(), snapshot_format::header_bytes(36));
    ASSERT_TRUE(equal(next, bytes_view(file).subspan(offset, next.size()))) << offset;
  }
  // In between, the state is read on.
  EXPECT_EQ(read_state(*now.store, 9), state_at(9));
}

TEST(raft_snapshot_store, a_snapshot_from_elsewhere_is_taken_in_chunks_of_any_size) {
  for (const index_t index : std::initializer_list<index_t>{1, 9}) {
    const elsewhere other(index);
    for (const std::size_t piece : std::initializer_list<std::size_t>{1, 8, 23, 24, 25, 100, 100000}) {
      faulty_disk disk;
      life now(disk);
      const snapshot_info info = now.opened().receive_whole(other.info.id, other.file, piece);
      EXPECT_EQ(info.id, other.info.id);
      EXPECT_EQ(info.config, some_members());
      EXPECT_EQ(info.state_bytes, other.info.state_bytes);
      EXPECT_EQ(now.store->newest()->id, other.info.id);
      EXPECT_EQ(disk.bytes(file_name(index)), other.file);
      faulty_disk after = disk.power_loss(power_cut{});
      EXPECT_EQ(found_in(after), testing_list{index});
    }
  }
  faulty_disk disk;
  life now(disk);
  const elsewhere empty(3, "");
  EXPECT_EQ(now.opened().receive_whole(empty.info.id, empty.file).state_bytes, 0u);
  EXPECT_EQ(read_state(*now.store, 3), "");
}

TEST(raft_snapshot_store, what_has_arrived_is_no_snapshot_before_it_is_finished) {
  const elsewhere other(9);
  faulty_disk disk;
  life now(disk);
  now.opened();
  const auto receiver = now.receive(other.info.id);
  EXPECT_EQ(receiver->offset(), 0u);
  run(now.io, bring(*receiver, other.file, 50));
  EXPECT_TRUE(receiver->complete());
  EXPECT_FALSE(now.store->newest());
  run(now.io, receiver->finish());
  EXPECT_EQ(now.store->newest()->id, other.info.id);
  EXPECT_EQ(error_of([&] { run(now.io, receiver->write(other.file.size(), {})); }), errc::closed);
}

TEST(raft_snapshot_store, goes_on_where_the_last_verified_block_ended_after_a_restart) {
  const elsewhere other(9);
  const std::size_t header = snapshot_format::header_bytes(36);
  for (std::size_t arrived = 0; arrived <= other.file.size(); arrived += 5) {
    faulty_disk disk;
    {
      life now(disk);
      now.opened();
      const auto receiver = now.receive(other.info.id);
      run(now.io, bring(*receiver, bytes_view(other.file).first(arrived), 1000));
    }
    life next(disk);
    next.opened();
    const auto receiver = next.receive(other.info.id);
    const std::size_t before_trailer = std::min(arrived, other.file.size() - 32);
    const std::size_t last_block = (other.file.size() - 32 - header) % 24;
    std::size_t expected = arrived < header ? 0 : header + (before_trailer - header) / 24 * 24;
    if (before_trailer == other.file.size() - 32 && last_block != 0) expected = before_trailer;
    EXPECT_EQ(receiver->offset(), expected) << arrived;
    run(next.io, bring(*receiver, other.file, 1000));
    EXPECT_EQ(run(next.io, receiver->finish()).id, other.info.id);
    EXPECT_EQ(disk.bytes(file_name(9)), other.file);
  }
}

TEST(raft_snapshot_store, lets_others_run_while_it_verifies_what_has_arrived) {
  snapshot_options options;
  options.sync_bytes = std::uint64_t{1} << 30;
  const std::string state(std::size_t{4} << 20, 'x');
  faulty_disk source;
  const snapshot_info info = life(source).opened(options).write(9, state, state.size());
  const byte_vector file = *source.bytes(file_name(9));
  faulty_disk disk;
  life now(disk);
  now.opened(options);
  run(now.io, bring(*now.receive(info.id), file, file.size()));
  const auto receiving = start(now.io, now.store->receive(info.id));
  std::size_t turns = 0;
  for (now.io.restart(); !receiving.done(); ++turns) ASSERT_NE(now.io.poll_one(), 0u);
  EXPECT_GE(turns, state.size() >> 20) << "one for each MiB";
}

TEST(raft_snapshot_store, begins_anew_when_another_snapshot_is_offered) {
  const elsewhere first(9);
  const elsewhere same_place(9, state_at(8, state_at(9).size()));
  const elsewhere later(12);
  snapshot_id other_position = first.info.id;
  other_position.at.chain += 1;
  for (const snapshot_id& offered : {same_place.info.id, later.info.id, other_position}) {
    faulty_disk disk;
    life now(disk);
    now.opened();
    run(now.io, bring(*now.receive(first.info.id), bytes_view(first.file).first(200), 50));
    EXPECT_NE(now.receive(first.info.id)->offset(), 0u);
    EXPECT_EQ(now.receive(offered)->offset(), 0u);
    EXPECT_EQ(disk.files().size(), 1u) << "and nothing is left of the first";
  }
}

TEST(raft_snapshot_store, a_flipped_bit_on_the_way_is_found_and_what_was_good_is_kept) {
  const elsewhere other(9, state_at(9, 40));
  for (std::size_t offset = 0; offset < other.file.size(); ++offset) {
    faulty_disk disk;
    life now(disk);
    now.opened();
    const auto receiver = now.receive(other.info.id);
    byte_vector changed = other.file;
    changed[offset] ^= std::byte(1u << offset % 8);
    ASSERT_EQ(error_of([&] { run(now.io, bring(*receiver, changed, 17)); }), errc::corrupt) << offset;
    ASSERT_LE(receiver->offset(), offset);
    ASSERT_GE(receiver->offset() + snapshot_format::header_bytes(36), offset);
    run(now.io, bring(*receiver, other.file, 17));
    (void)run(now.io, receiver->finish());
    ASSERT_EQ(disk.bytes(file_name(9)), other.file);
  }
}

TEST(raft_snapshot_store, refuses_chunks_that_do_not_follow_and_offers_of_nothing) {
  const elsewhere other(9);
  faulty_disk disk;
  life now(disk);
  now.opened();
  {
    const auto receiver = now.receive(other.info.id);
    const bytes_view file(other.file);
    run(now.io, receiver->write(0, file.first(100)));
    for (const std::size_t offset : std::initializer_list<std::size_t>{0, 99, 101}) {
      EXPECT_EQ(error_of([&] { run(now.io, receiver->write(offset, file.subspan(offset, 5))); }), errc::malformed);
    }
    byte_vector longer = other.file;
    longer.push_back(std::byte{0});
    EXPECT_EQ(error_of([&] { run(now.io, receiver->write(100, bytes_view(longer).subspan(100))); }), errc::malformed);
    EXPECT_EQ(receiver->offset(), 100u);
    run(now.io, bring(*receiver, file, 1000));
    EXPECT_EQ(run(now.io, receiver->finish()).id, other.info.id);
  }
  snapshot_id small = other.info.id;
  small.bytes = 80;
  EXPECT_EQ(error_of([&] { (void)now.receive(small); }), errc::malformed);
  snapshot_id nowhere = other.info.id;
  nowhere.at = {};
  EXPECT_EQ(error_of([&] { (void)now.receive(nowhere); }), errc::malformed);
}

TEST(raft_snapshot_store, is_not_complete_when_the_header_claims_to_be_longer_than_the_file) {
  const elsewhere other(9, "");
  byte_vector changed = other.file;
  store_le(changed.data() + 40, std::uint32_t{5000});
  faulty_disk disk;
  life now(disk);
  now.opened();
  const auto receiver = now.receive(other.info.id);
  EXPECT_EQ(error_of([&] { run(now.io, receiver->write(0, changed)); }), errc::corrupt);
  EXPECT_EQ(receiver->offset(), 0u);
}

// --- cancellation ---------------------------------------------------------------------------------------------------

TEST(raft_snapshot_store, a_snapshot_that_is_being_made_durable_is_seen_through) {
  const elsewhere other(9);
  for (const bool receiving : {false, true}) {
    faulty_disk disk;
    life now(disk);
    now.opened();
    std::unique_ptr<life::store_type::writer> writer;
    std::unique_ptr<life::store_type::receiver> receiver;
    if (receiving) {
      receiver = now.receive(other.info.id);
      run(now.io, bring(*receiver, other.file, 1000));
    } else {
      writer = now.store->begin(at(9), some_members());
      run(now.io, writer->write(as_bytes(state_at(9))));
    }
    disk.hold_syncs();
    auto finishing = start(now.io, receiving ? receiver->finish() : writer->finish());
    (void)poll(now.io);
    ASSERT_EQ(disk.held_syncs(), 1u);
    finishing.cancel();
    disk.release_syncs();
    ASSERT_TRUE(run_until(now.io, [&] { return finishing.done(); }));
    EXPECT_EQ(finishing.error(), std::error_code());
    EXPECT_EQ(now.store->newest()->id.at, at(9));
    faulty_disk after = disk.power_loss(power_cut{});
    EXPECT_EQ(found_in(after), testing_list{9});
  }
}

awaitable<void> write_twice(life::store_type::receiver& to, bytes_view file) {
  co_await to.write(0, file.first(200));
  co_await to.write(200, file.subspan(200, 10));
}

TEST(raft_snapshot_store, who_is_cancelled_while_receiving_goes_on_where_it_was) {
  const elsewhere other(9);
  faulty_disk disk;
  life now(disk);
  now.opened();
  const auto receiver = now.receive(other.info.id);
  disk.hold_syncs();
  auto writing = start(now.io, write_twice(*receiver, other.file));
  (void)poll(now.io);
  ASSERT_EQ(disk.held_syncs(), 1u);
  writing.cancel();
  disk.release_syncs();
  ASSERT_TRUE(run_until(now.io, [&] { return writing.done(); }));
  EXPECT_EQ(writing.error(), asio::error::operation_aborted);
  EXPECT_EQ(receiver->offset(), 200u);
  run(now.io, bring(*receiver, other.file, 1000));
  EXPECT_EQ(run(now.io, receiver->finish()).id, other.info.id);
}

// --- full disks and failing ones ------------------------------------------------------------------------------------

TEST(raft_snapshot_store, p4_a_full_disk_leaves_it_as_it_was) {
  const elsewhere other(50, state_at(50, 20000));
  for (const bool allocates : {true, false}) {
    for (std::uint64_t pages = 0; pages < 5; ++pages) {
      SCOPED_TRACE(pages);
      faulty_disk disk;
      if (!allocates) {
        disk.inject({.kinds = {op_kind::allocate},
                     .error = std::make_error_code(std::errc::not_supported),
                     .how_often = times::from_then_on});
      }
      life now(disk);
      now.opened().write(4);
      const std::uint64_t before = disk.fingerprint();
      disk.set_capacity(disk.used() + pages * page_size);
      const std::uint64_t used = disk.used();
      EXPECT_EQ(error_of([&] { now.write(9, state_at(9, 20000)); }), std::errc::no_space_on_device);
      EXPECT_EQ(disk.fingerprint(), before);
      EXPECT_EQ(error_of([&] { now.receive_whole(other.info.id, other.file); }), std::errc::no_space_on_device);
      EXPECT_EQ(disk.fingerprint(), before);
      if (allocates) {
        EXPECT_EQ(error_of([&] { (void)now.receive(other.info.id); }), std::errc::no_space_on_device)
            << "before anything is sent";
      }
      EXPECT_EQ(disk.used(), used);
      EXPECT_FALSE(now.store->failure());
      disk.set_capacity(disk.used() + 50 * page_size);
      now.receive_whole(other.info.id, other.file);
      now.write(60);
      EXPECT_EQ(indexes(*now.store), (testing_list{60, 50, 4}));
    }
  }
}

TEST(raft_snapshot_store, f1_a_failed_sync_ends_it_for_good_and_it_can_still_be_read) {
  const elsewhere other(9);
  for (const op_kind kind : {op_kind::datasync, op_kind::sync_directory}) {
    for (const bool receiving : {false, true}) {
      faulty_disk disk;
      life now(disk);
      now.opened().write(4);
      disk.inject({.kinds = {kind}});
      const auto attempt = [&] { receiving ? now.receive_whole(other.info.id, other.file) : now.write(9); };
      EXPECT_EQ(error_of(attempt), disk_error(EIO));
      EXPECT_EQ(now.store->failure(), disk_error(EIO));
      EXPECT_EQ(error_of(attempt), errc::log_failed);
      EXPECT_EQ(error_of([&] { now.remove_older(1); }), errc::log_failed);
      EXPECT_EQ(now.store->newest()->id.at, at(4));
      EXPECT_EQ(read_state(*now.store, 4), state_at(4));
      EXPECT_FALSE(disk.exists(file_name(9, ".tmp")));
    }
  }
}

TEST(raft_snapshot_store, f2_what_a_failed_sync_left_of_a_part_is_written_again) {
  const std::string state = state_at(9, 20000);  // some pages
  const elsewhere other(9, state);
  snapshot_options options = small_options();
  options.sync_bytes = 1 << 20;
  faulty_disk disk;
  {
    life now(disk);
    now.opened(options);
    const auto receiver = now.receive(other.info.id);
    run(now.io, bring(*receiver, other.file, 1000));
    disk.inject({.kinds = {op_kind::datasync}});
    EXPECT_EQ(error_of([&] { (void)run(now.io, receiver->finish()); }), disk_error(EIO));
    EXPECT_TRUE(disk.exists(file_name(9, ".part")));
  }
  life(disk).opened(options).receive_whole(other.info.id, other.file);
  faulty_disk after = disk.power_loss(power_cut{});
  life last(after);
  EXPECT_EQ(last.opened().store->newest()->id, other.info.id);
  EXPECT_EQ(read_state(*last.store, 9), state);
}

TEST(raft_snapshot_store, f2_a_name_that_a_failed_sync_left_is_durable_before_a_new_life_sees_it) {
  faulty_disk disk;
  {
    life now(disk);
    now.opened();
    disk.inject({.kinds = {op_kind::sync_directory}});
    EXPECT_EQ(error_of([&] { now.write(9); }), disk_error(EIO));
    EXPECT_FALSE(now.store->newest());
  }
  EXPECT_EQ(found_in(disk), testing_list{9});
  faulty_disk after = disk.power_loss(power_cut{});
  EXPECT_EQ(found_in(after), testing_list{9});
}

// --- one story, told again and again --------------------------------------------------------------------------------

/// What a node knows of its snapshots.
struct knowledge {
  index_t newest = 0;  ///< acknowledged
  bool removing = false;

  /// What is wrong with what a new life finds; empty when it is what was promised.
  [[nodiscard]] std::string objection(const std::vector<index_t>& found) const {
    const index_t first = found.empty() ? 0 : found.front();
    if (first < newest) return "the newest is " + std::to_string(first) + " of " + std::to_string(newest);
    std::vector<index_t> all;
    for (const index_t each : std::initializer_list<index_t>{30, 20, 10}) {
      if (each <= first) all.push_back(each);
    }
    if (found == all) return "";
    if (removing && found == std::vector<index_t>{30, 20}) return "";
    return testing::PrintToString(found);
  }
};

/// Snapshots are written, received and removed, in lives as many as it takes, until all is done or the disk crashes.
knowledge tell(faulty_disk& disk, knowledge known = {}) {
  static const elsewhere other(20);
  for (int lives = 0; lives < 4 && !disk.crashed(); ++lives) {
    life now(disk);
    try {
      now.opened();
      const std::vector<index_t> found = indexes(*now.store);
      for (const index_t each : found) EXPECT_EQ(read_state(*now.store, each), state_at(each)) << each;
      EXPECT_EQ(known.objection(found), "") << disk.story();
      known.newest = found.empty() ? 0 : found.front();
      if (known.newest < 10) known.newest = now.write(10).id.at.index;
      if (known.newest < 20) known.newest = now.receive_whole(other.info.id, other.file, 111).id.at.index;
      if (known.newest < 30) known.newest = now.write(30).id.at.index;
      known.removing = true;
      now.remove_older(2);
      EXPECT_EQ(indexes(*now.store), (testing_list{30, 20}));
      return known;
    } catch (const std::system_error& error) {
      EXPECT_NE(error.code(), errc::corrupt) << error.what();
    }
  }
  return known;
}

TEST(raft_snapshot_store, at_every_crash_what_was_acknowledged_is_found_whole) {
  const std::uint64_t operations = for_each_crash(
      40, [](faulty_disk& disk) { return tell(disk); },
      [](faulty_disk& image, const knowledge& known, const std::string& which) {
        if (testing::Test::HasFailure()) return;
        SCOPED_TRACE(which);
        EXPECT_EQ(tell(image, known).newest, 30u);
        EXPECT_EQ(image.files(), (std::vector<std::string>{file_name(20), file_name(30)}));
      });
  EXPECT_GT(operations, 60u);
}

TEST(raft_snapshot_store, also_when_the_write_is_torn_and_when_the_next_life_crashes_in_turn) {
  for (std::uint64_t at_first = 0;; at_first += 3) {
    faulty_disk disk;
    disk.crash_at(at_first, at_first % 20);
    const knowledge known = tell(disk);
    for_each_crash_image(disk, 8, [&](faulty_disk& image, const std::string& which) {
      for (std::uint64_t again = at_first % 5; again < 60; again += 5) {
        faulty_disk second = image.process_crash();  // a copy
        second.crash_at(again, 11);
        const knowledge then = tell(second, known);
        for_each_crash_image(second, 5, [&](faulty_disk& last, const std::string& which_of_both) {
          if (testing::Test::HasFailure()) return;
          SCOPED_TRACE("operation " + std::to_string(at_first) + ", " + which + ", then operation " +
                       std::to_string(again) + ", " + which_of_both + "\n" + second.story());
          EXPECT_EQ(tell(last, then).newest, 30u);
        });
      }
    });
    if (!disk.crashed() || HasFailure()) break;
  }
}

TEST(raft_snapshot_store, an_operation_that_fails_is_told_and_breaks_no_promise) {
  for (const int error : {EIO, ENOSPC}) {
    for (std::uint64_t at_operation = 0;; ++at_operation) {
      faulty_disk disk;
      disk.fail_operation(at_operation, error);
      const knowledge known = tell(disk);
      EXPECT_EQ(known.newest, 30u) << "another life tells the rest";
      for_each_crash_image(disk, 4, [&](faulty_disk& image, const std::string& which) {
        SCOPED_TRACE("operation " + std::to_string(at_operation) + " fails, then " + which);
        EXPECT_EQ(known.objection(found_in(image)), "");
      });
      if (disk.faults_hit() == 0 || HasFailure()) break;
    }
  }
}

// --- the real environment -------------------------------------------------------------------------------------------

TEST(raft_snapshot_store, keeps_its_contract_on_real_files) {
  temporary_directory scratch;
  const std::string state = state_at(7, 300000);
  for (const sync_on where : {sync_on::disk_thread, sync_on::caller}) {
    snapshot_options options;
    options.block_bytes = 4096;
    options.sync_bytes = 64 << 10;
    options.sync_where = where;
    const std::string name = where == sync_on::caller ? "caller" : "thread";
    asio::io_context io;
    real::env env(io.get_executor(), real::env_options{1, 1});
    const auto leader = run(io, snapshot_store::open(env, scratch.file(name + "-leader"), options));
    const snapshot_info written = run(io, write_snapshot(*leader, 7, state, 10000));
    EXPECT_EQ(read_state(*leader, 7, 9999), state);
    const auto reader = leader->read(7);

    auto follower = run(io, snapshot_store::open(env, scratch.file(name + "-follower"), options));
    auto receiver = run(io, follower->receive(written.id));
    while (receiver->offset() < 100000) run(io, receiver->write(receiver->offset(), reader->chunk(receiver->offset())));
    receiver.reset();
    follower = run(io, snapshot_store::open(env, scratch.file(name + "-follower"), options));
    receiver = run(io, follower->receive(written.id));
    EXPECT_GE(receiver->offset(), 100000u);
    run(io, write_snapshot(*leader, 8, "later", 5));
    run(io, leader->remove_older(1));
    while (!receiver->complete()) run(io, receiver->write(receiver->offset(), reader->chunk(receiver->offset())));
    EXPECT_EQ(run(io, receiver->finish()).id, written.id);
    EXPECT_EQ(read_state(*follower, 7, 12345), state);
    EXPECT_EQ(indexes(*leader), testing_list{8});
  }
}

}  // namespace
}  // namespace lockstep::raft
