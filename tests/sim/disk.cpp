#include "lockstep/sim/disk.hpp"

#include "support/faulty_env.hpp"
#include "support/run.hpp"

#include <gtest/gtest.h>
#include <asio/io_context.hpp>

#include <algorithm>
#include <array>
#include <bit>
#include <functional>
#include <limits>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

// The model with which other tests crash is only useful when it is right: each rule of its header has a test here.
// That its files behave like real ones is asked by env/file_contract.cpp.

namespace lockstep::test {
namespace {

using file = faulty_env::file;
constexpr auto none = survives::nothing;
constexpr auto all = survives::everything;
constexpr power_cut nothing_survives{none, none, none, 0};
constexpr power_cut everything_survives{all, all, all, 0};

std::string page_of(char letter) { return std::string(page_size, letter); }

// A program and its disk.
struct disk_test : testing::Test {
  sim::disk disk;
  asio::io_context io;
  faulty_env env{io.get_executor(), disk};

  file open(const std::string& path, open_mode mode = open_mode::create) {
    std::error_code ec;
    file opened = env.open(path, mode, ec);
    if (ec) throw std::system_error(ec, "open " + path);
    return opened;
  }
  static std::error_code write(file& to, std::uint64_t offset, std::string_view text) {
    const std::array<bytes_view, 1> gather = {as_bytes(text)};
    std::error_code ec;
    to.pwrite(offset, gather, ec);
    return ec;
  }
  static std::error_code truncate(file& to, std::uint64_t length) {
    std::error_code ec;
    to.truncate(length, ec);
    return ec;
  }
  std::error_code sync(file& of) { return run(io, of.datasync(sync_on::caller)); }
  std::error_code sync_directory(const std::string& path = "/") {
    return run(io, env.sync_directory(path, sync_on::caller));
  }
  std::error_code create_directory(const std::string& path) {
    std::error_code ec;
    env.create_directory(path, ec);
    return ec;
  }
  std::error_code rename(const std::string& from, const std::string& to) {
    std::error_code ec;
    env.rename(from, to, ec);
    return ec;
  }
  std::error_code remove(const std::string& path) {
    std::error_code ec;
    env.remove(path, ec);
    return ec;
  }
  std::optional<std::string> read(file& from, std::uint64_t offset, std::size_t count) {
    std::string text(count, '?');
    std::error_code ec;
    text.resize(from.pread(offset, {reinterpret_cast<std::byte*>(text.data()), count}, ec));
    return ec ? std::nullopt : std::optional(text);
  }

  // A file that is durable with its name.
  file durable_file(const std::string& path, std::string_view content) {
    disk.replace(path, as_bytes(content));
    return open(path, open_mode::read_write);
  }

  static std::optional<std::string> text(const sim::disk& of, const std::string& path, view which = view::cached) {
    const auto bytes = of.bytes(path, which);
    if (!bytes) return std::nullopt;
    return std::string(as_text(*bytes));
  }
  std::optional<std::string> cached(const std::string& path) const { return text(disk, path); }
  std::optional<std::string> durable(const std::string& path) const { return text(disk, path, view::durable); }
  std::optional<std::string> after(const power_cut& cut, const std::string& path) const {
    return text(disk.power_loss(cut), path);
  }

  // What many power losses make of a file.
  std::set<std::optional<std::string>> seeded_outcomes(const std::string& path, std::uint64_t seeds = 300) const {
    std::set<std::optional<std::string>> outcomes;
    for (std::uint64_t seed = 1; seed <= seeds; ++seed) outcomes.insert(text(disk.power_loss(seed), path));
    return outcomes;
  }
};

// --- operations are counted, described and shown ---

using counted_operations = disk_test;

TEST_F(counted_operations, each_call_is_one_operation_with_a_description) {
  ASSERT_FALSE(create_directory("/d"));
  file f = open("/d/f", open_mode::create_new);
  ASSERT_FALSE(write(f, 5, "hello"));
  std::error_code ec;
  f.allocate(0, 8192, ec);
  ASSERT_FALSE(truncate(f, 7));
  ASSERT_TRUE(read(f, 1, 3));
  (void)f.map(0, 7, ec);
  ASSERT_FALSE(sync(f));
  ASSERT_FALSE(rename("/d/f", "/d/g"));
  ASSERT_FALSE(sync_directory("/d"));
  (void)env.list("/d", ec);
  (void)env.lock("/lock", ec);
  ASSERT_FALSE(remove("/d/g"));
  open("/lock", open_mode::read);
  EXPECT_EQ(disk.operations(), 14u);
  EXPECT_EQ(disk.story(100),
            "0 create_directory /d\n"
            "1 create /d/f\n"
            "2 pwrite /d/f [5, +5)\n"
            "3 allocate /d/f [0, +8192)\n"
            "4 truncate /d/f to 7\n"
            "5 pread /d/f [1, +3)\n"
            "6 map /d/f [0, +7)\n"
            "7 datasync /d/f\n"
            "8 rename /d/f -> /d/g\n"
            "9 sync_directory /d\n"
            "10 list /d\n"
            "11 lock /lock\n"
            "12 remove /d/g\n"
            "13 open /lock\n");
}

TEST_F(counted_operations, pwrite_datasync_is_two) {
  file f = open("/f");
  const std::array<bytes_view, 1> gather = {as_bytes("content")};
  for (const auto where : {sync_on::caller, sync_on::disk_thread}) {
    const std::uint64_t before = disk.operations();
    EXPECT_FALSE(run(io, f.pwrite_datasync(0, gather, where)));
    ASSERT_EQ(disk.operations(), before + 2);
    EXPECT_EQ(disk.history()[before].kind, op_kind::pwrite);
    EXPECT_EQ(disk.history()[before + 1].kind, op_kind::datasync);
  }
}

TEST_F(counted_operations, a_failed_one_is_described_with_its_error) {
  std::error_code ec;
  (void)env.open("/missing", open_mode::read, ec);
  EXPECT_EQ(disk.history().back().error, std::errc::no_such_file_or_directory);
  EXPECT_EQ(disk.story(1), "0 open /missing: No such file or directory\n");
}

TEST_F(counted_operations, are_counted_by_kind) {
  file f = open("/f");
  ASSERT_FALSE(write(f, 0, "a"));
  ASSERT_FALSE(write(f, 1, "b"));
  EXPECT_EQ(disk.operations(op_kind::pwrite), 2u);
  EXPECT_EQ(disk.operations(op_kind::create), 1u);
  EXPECT_EQ(disk.operations(op_kind::datasync), 0u);
}

TEST_F(counted_operations, looking_at_the_disk_is_none) {
  open("/f");
  const std::uint64_t before = disk.operations();
  disk.replace("/g", as_bytes("x"));
  disk.flip_bit("/g", 0);
  disk.make_directory("/d");
  (void)disk.files();
  (void)disk.bytes("/f");
  (void)disk.process_crash();
  (void)disk.power_loss(1);
  disk.settle();
  EXPECT_EQ(disk.operations(), before);
}

TEST_F(counted_operations, the_hook_sees_each_before_it_happens) {
  std::vector<std::string> seen;
  disk.on_operation([&](const op& each) {
    seen.push_back(std::string(to_string(each.kind)) + " " + text(disk, "/f").value_or("(missing)"));
  });
  file f = open("/f");
  ASSERT_FALSE(write(f, 0, "content"));
  ASSERT_FALSE(sync(f));
  EXPECT_EQ(seen, (std::vector<std::string>{"create (missing)", "pwrite ", "datasync content"}));
}

TEST_F(counted_operations, the_hook_may_decide_that_the_operation_fails) {
  disk.on_operation([&](const op& each) {
    if (each.kind == op_kind::pwrite && each.offset == 100) disk.fail_operation(0, EIO);
  });
  file f = open("/f");
  EXPECT_FALSE(write(f, 0, "a"));
  EXPECT_EQ(write(f, 100, "b"), std::errc::io_error);
  EXPECT_FALSE(write(f, 0, "c"));
}

TEST_F(counted_operations, the_hook_may_crash_the_program) {
  disk.on_operation([&](const op& each) {
    if (each.kind == op_kind::pwrite) disk.crash();
  });
  file f = open("/f");
  EXPECT_EQ(write(f, 0, "a"), crashed_error());
  EXPECT_EQ(cached("/f"), "");
}

// --- injected faults ---

using faults = disk_test;

TEST_F(faults, the_nth_operation_fails_once_and_changes_nothing) {
  file f = open("/f");
  disk.fail_operation(1, ENOSPC);
  EXPECT_FALSE(write(f, 0, "first"));
  EXPECT_EQ(write(f, 0, "second"), std::errc::no_space_on_device);
  EXPECT_EQ(cached("/f"), "first");
  EXPECT_FALSE(write(f, 0, "third"));
  EXPECT_EQ(disk.faults_hit(), 1u);
}

TEST_F(faults, count_from_the_time_of_injection) {
  file f = open("/f");
  ASSERT_FALSE(write(f, 0, "a"));
  disk.fail_operation(0);
  EXPECT_EQ(write(f, 0, "b"), std::errc::io_error);
}

TEST_F(faults, may_ask_for_kinds_and_a_path) {
  disk.inject({.nth = 1, .kinds = {op_kind::pwrite, op_kind::truncate}, .path_contains = "f"});
  file f = open("/f");
  file g = open("/g");
  EXPECT_FALSE(write(f, 0, "0"));
  EXPECT_FALSE(write(g, 0, "another file"));
  EXPECT_FALSE(sync(f));
  EXPECT_EQ(truncate(f, 0), std::errc::io_error);
  EXPECT_FALSE(truncate(f, 0));
}

TEST_F(faults, may_last) {
  disk.inject({.nth = 1, .kinds = {op_kind::pwrite}, .error = disk_error(EROFS), .how_often = times::from_then_on});
  file f = open("/f");
  EXPECT_FALSE(write(f, 0, "a"));
  for (int i = 0; i < 3; ++i) EXPECT_EQ(write(f, 0, "b"), std::errc::read_only_file_system);
  EXPECT_FALSE(sync(f));
  disk.clear_faults();
  EXPECT_FALSE(write(f, 0, "c"));
  EXPECT_EQ(disk.faults_hit(), 3u);
}

TEST_F(faults, several_count_independently) {
  disk.inject({.nth = 0, .kinds = {op_kind::pwrite}, .error = disk_error(EIO)});
  disk.inject({.nth = 1, .kinds = {op_kind::pwrite}, .error = disk_error(ENOSPC)});
  file f = open("/f");
  EXPECT_EQ(write(f, 0, "a"), std::errc::io_error);
  EXPECT_EQ(write(f, 0, "b"), std::errc::no_space_on_device);
  EXPECT_FALSE(write(f, 0, "c"));
}

TEST_F(faults, a_failing_write_may_be_short) {
  file f = open("/f");
  disk.inject({.kinds = {op_kind::pwrite}, .error = disk_error(ENOSPC), .short_write = 5000});
  EXPECT_EQ(write(f, 10, std::string(9000, 'x')), std::errc::no_space_on_device);
  EXPECT_EQ(cached("/f"), std::string(10, '\0') + std::string(5000, 'x'));
}

TEST_F(faults, every_kind_of_operation_can_fail_and_then_changes_nothing) {
  file f = durable_file("/f", "content");
  disk.make_directory("/empty");
  std::error_code ec;
  std::array<std::byte, 4> into{};
  const std::map<op_kind, std::function<void()>> calls = {
      {op_kind::open, [&] { (void)env.open("/f", open_mode::read, ec); }},
      {op_kind::create, [&] { (void)env.open("/new", open_mode::create, ec); }},
      {op_kind::pread, [&] { EXPECT_EQ(f.pread(0, into, ec), 0u); }},
      {op_kind::pwrite, [&] { ec = write(f, 0, "other"); }},
      {op_kind::datasync, [&] { ec = sync(f); }},
      {op_kind::truncate, [&] { ec = truncate(f, 0); }},
      {op_kind::allocate, [&] { f.allocate(0, 100'000, ec); }},
      {op_kind::map, [&] { EXPECT_TRUE(f.map(0, 1, ec).bytes().empty()); }},
      {op_kind::rename, [&] { ec = rename("/f", "/g"); }},
      {op_kind::remove, [&] { ec = remove("/empty"); }},
      {op_kind::create_directory, [&] { ec = create_directory("/d"); }},
      {op_kind::list, [&] { EXPECT_TRUE(env.list("/", ec).empty()); }},
      {op_kind::sync_directory, [&] { ec = sync_directory("/"); }},
      {op_kind::lock, [&] { EXPECT_FALSE(env.lock("/lock", ec).held()); }},
  };
  const std::uint64_t before = disk.fingerprint();
  const std::uint64_t used = disk.used();
  for (const auto& [kind, call] : calls) {
    disk.inject({.kinds = {kind}, .error = disk_error(EDQUOT)});
    ec.clear();
    call();
    EXPECT_EQ(ec, disk_error(EDQUOT)) << to_string(kind);
    EXPECT_EQ(disk.history().back().kind, kind);
    EXPECT_EQ(disk.fingerprint(), before) << to_string(kind);
    EXPECT_EQ(disk.used(), used) << to_string(kind);
  }
  EXPECT_EQ(calls.size(), static_cast<std::size_t>(op_kind::lock) + 1);
  EXPECT_TRUE(env.list("/empty", ec).empty());
  EXPECT_FALSE(ec);
}

TEST_F(faults, opening_with_truncate_fails_as_a_whole_when_its_truncation_does) {
  durable_file("/f", "content");
  disk.inject({.kinds = {op_kind::truncate}});
  std::error_code ec;
  EXPECT_FALSE(env.open("/f", open_mode::truncate, ec).is_open());
  EXPECT_EQ(ec, std::errc::io_error);
  EXPECT_EQ(cached("/f"), "content");
}

// --- space ---

struct space : disk_test {
  space() { disk.set_capacity(4 * page_size); }
};

TEST_F(space, is_counted_in_pages) {
  file f = open("/f");
  EXPECT_EQ(disk.used(), 0u);
  ASSERT_FALSE(write(f, 0, "x"));
  EXPECT_EQ(disk.used(), page_size);
  ASSERT_FALSE(write(f, 1, "y"));
  EXPECT_EQ(disk.used(), page_size);
  ASSERT_FALSE(write(f, page_size - 1, "xx"));
  EXPECT_EQ(disk.used(), 2 * page_size);
}

TEST_F(space, a_hole_costs_nothing) {
  file f = open("/f");
  ASSERT_FALSE(write(f, 100 * page_size, "x"));
  EXPECT_EQ(disk.used(), page_size);
  ASSERT_FALSE(truncate(f, 200 * page_size));
  EXPECT_EQ(disk.used(), page_size);
}

TEST_F(space, a_write_that_does_not_fit_fails_after_what_fits) {
  file f = open("/f");
  EXPECT_EQ(write(f, 0, std::string(5 * page_size, 'x')), std::errc::no_space_on_device);
  EXPECT_EQ(cached("/f"), std::string(4 * page_size, 'x'));
  EXPECT_EQ(write(f, 4 * page_size, "x"), std::errc::no_space_on_device);
  EXPECT_FALSE(write(f, 0, std::string(4 * page_size, 'y')));
}

TEST_F(space, what_is_allocated_is_there_for_the_file_and_for_no_other) {
  file f = open("/f");
  file g = open("/g");
  std::error_code ec;
  f.allocate(0, 3 * page_size, ec);
  ASSERT_FALSE(ec);
  EXPECT_EQ(disk.used(), 3 * page_size);
  EXPECT_EQ(write(g, 0, std::string(2 * page_size, 'g')), std::errc::no_space_on_device);
  EXPECT_FALSE(write(f, 0, std::string(3 * page_size, 'f')));
  EXPECT_EQ(disk.used(), 4 * page_size);
}

TEST_F(space, an_allocation_that_does_not_fit_takes_nothing) {
  file f = open("/f");
  std::error_code ec;
  f.allocate(0, 5 * page_size, ec);
  EXPECT_EQ(ec, std::errc::no_space_on_device);
  EXPECT_EQ(disk.used(), 0u);
}

TEST_F(space, is_free_again_after_truncate_and_remove) {
  {
    file f = open("/f");
    ASSERT_FALSE(write(f, 0, std::string(4 * page_size, 'x')));
    ASSERT_FALSE(truncate(f, page_size));
    EXPECT_EQ(disk.used(), page_size);
    ASSERT_FALSE(remove("/f"));
    EXPECT_EQ(disk.used(), page_size);  // the file is still open
  }
  EXPECT_EQ(disk.used(), 0u);
}

TEST_F(space, of_a_replaced_file_is_free) {
  {
    file f = open("/f");
    file g = open("/g");
    ASSERT_FALSE(write(f, 0, "x"));
    ASSERT_FALSE(write(g, 0, "x"));
  }
  ASSERT_FALSE(rename("/g", "/f"));
  EXPECT_EQ(disk.used(), page_size);
}

TEST_F(space, the_capacity_may_change) {
  file f = open("/f");
  ASSERT_FALSE(write(f, 0, std::string(4 * page_size, 'x')));
  disk.set_capacity(page_size);
  EXPECT_EQ(write(f, 4 * page_size, "x"), std::errc::no_space_on_device);
  disk.set_capacity(5 * page_size);
  EXPECT_FALSE(write(f, 4 * page_size, "x"));
}

TEST_F(space, images_count_their_own) {
  file f = open("/f");
  ASSERT_FALSE(write(f, 0, std::string(3 * page_size, 'x')));
  EXPECT_EQ(disk.process_crash().used(), 3 * page_size);
  EXPECT_EQ(disk.power_loss(everything_survives).used(), 3 * page_size);
  EXPECT_EQ(disk.power_loss(nothing_survives).used(), 0u);
  // … and have the same capacity.
  sim::disk image = disk.power_loss(everything_survives);
  faulty_env other(io.get_executor(), image);
  std::error_code ec;
  file g = other.open("/g", open_mode::create, ec);
  EXPECT_FALSE(write(g, 0, "x"));
  EXPECT_EQ(write(g, page_size, "x"), std::errc::no_space_on_device);
}

TEST_F(space, a_file_has_a_largest_size) {
  disk.set_capacity(std::numeric_limits<std::uint64_t>::max());
  file f = open("/f");
  EXPECT_EQ(write(f, std::uint64_t{256} << 20, "x"), std::errc::file_too_large);
  EXPECT_EQ(truncate(f, (std::uint64_t{256} << 20) + 1), std::errc::file_too_large);
}

// --- what a sync makes durable ---

using durability = disk_test;

TEST_F(durability, a_write_alone_makes_nothing_durable) {
  file f = durable_file("/f", "old");
  ASSERT_FALSE(write(f, 0, "new"));
  EXPECT_EQ(cached("/f"), "new");
  EXPECT_EQ(durable("/f"), "old");
  EXPECT_EQ(after(nothing_survives, "/f"), "old");
}

TEST_F(durability, a_datasync_makes_the_bytes_and_the_size_durable) {
  file f = durable_file("/f", "old");
  ASSERT_FALSE(write(f, 2 * page_size, "new"));
  ASSERT_FALSE(sync(f));
  const std::string expected = "old" + std::string(2 * page_size - 3, '\0') + "new";
  EXPECT_EQ(durable("/f"), expected);
  EXPECT_EQ(seeded_outcomes("/f"), std::set{std::optional(expected)});
}

TEST_F(durability, a_datasync_makes_a_truncate_durable) {
  file f = durable_file("/f", page_of('a') + page_of('b'));
  ASSERT_FALSE(truncate(f, 100));
  EXPECT_EQ(durable("/f")->size(), 2 * page_size);
  ASSERT_FALSE(truncate(f, 2 * page_size));
  ASSERT_FALSE(sync(f));
  EXPECT_EQ(durable("/f"), std::string(100, 'a') + std::string(2 * page_size - 100, '\0'));
}

TEST_F(durability, a_datasync_of_one_file_is_none_of_another) {
  file f = durable_file("/f", "old");
  file g = durable_file("/g", "old");
  ASSERT_FALSE(write(f, 0, "new"));
  ASSERT_FALSE(write(g, 0, "new"));
  ASSERT_FALSE(sync(f));
  EXPECT_EQ(durable("/f"), "new");
  EXPECT_EQ(durable("/g"), "old");
}

TEST_F(durability, any_handle_of_the_file_may_sync_it) {
  file f = durable_file("/f", "old");
  file other = open("/f", open_mode::read);
  ASSERT_FALSE(write(f, 0, "new"));
  ASSERT_FALSE(sync(other));
  EXPECT_EQ(durable("/f"), "new");
}

TEST_F(durability, a_sync_covers_what_was_written_before_it_began) {
  file f = durable_file("/f", "0000");
  ASSERT_FALSE(write(f, 0, "1"));
  disk.hold_syncs();
  auto syncing = start(io, f.datasync(sync_on::disk_thread));
  poll(io);
  ASSERT_FALSE(write(f, 1, "2"));
  EXPECT_EQ(durable("/f"), "0000");
  disk.release_syncs();
  poll(io);
  ASSERT_FALSE(syncing.result());
  EXPECT_EQ(durable("/f"), "1000");
  EXPECT_EQ(cached("/f"), "1200");
  ASSERT_FALSE(sync(f));
  EXPECT_EQ(durable("/f"), "1200");
}

TEST_F(durability, is_durable_is_the_oracle_of_an_ack) {
  file f = durable_file("/f", "");
  ASSERT_FALSE(write(f, 0, "record one"));
  EXPECT_FALSE(disk.is_durable("/f", 7, as_bytes("one")));
  ASSERT_FALSE(sync(f));
  EXPECT_TRUE(disk.is_durable("/f", 7, as_bytes("one")));
  EXPECT_FALSE(disk.is_durable("/f", 7, as_bytes("two")));
  EXPECT_FALSE(disk.is_durable("/f", 8, as_bytes("one")));
  EXPECT_FALSE(disk.is_durable("/missing", 0, as_bytes("one")));
}

TEST_F(durability, bytes_without_a_durable_name_are_not_durable) {
  file f = open("/f");
  ASSERT_FALSE(write(f, 0, "content"));
  ASSERT_FALSE(sync(f));
  EXPECT_EQ(durable("/f"), std::nullopt);
  EXPECT_FALSE(disk.is_durable("/f", 0, as_bytes("content")));
  ASSERT_FALSE(sync_directory());
  EXPECT_TRUE(disk.is_durable("/f", 0, as_bytes("content")));
}

TEST_F(durability, the_version_changes_with_the_durable_bytes_and_only_then) {
  const auto files = [&] {
    const auto listed = disk.durable_files("/");
    return std::map<std::string, sim::durable_file>(listed.begin(), listed.end());
  };
  EXPECT_TRUE(files().empty());
  file f = durable_file("/f", "one");
  file g = durable_file("/g", "another file");
  const sim::durable_file watched = files().at("f");
  std::set<std::uint64_t> seen = {files().at("g").version()};
  const auto is_new = [&] { return seen.insert(watched.version()).second; };
  EXPECT_TRUE(is_new());
  ASSERT_FALSE(write(f, 0, "two"));
  ASSERT_FALSE(write(g, 0, "two"));
  ASSERT_FALSE(sync(g));
  EXPECT_FALSE(is_new()) << "nothing of it is durable yet";
  ASSERT_FALSE(sync(f));
  EXPECT_TRUE(is_new());
  ASSERT_FALSE(sync(f));
  EXPECT_FALSE(is_new()) << "there was nothing to sync";
  ASSERT_FALSE(truncate(f, 1));
  ASSERT_FALSE(sync(f));
  EXPECT_TRUE(is_new());
  disk.crash_process();
  EXPECT_FALSE(is_new());
  disk.flip_bit("/f", 0);
  EXPECT_TRUE(is_new());
  file again = open("/f", open_mode::read_write);
  ASSERT_FALSE(write(again, 0, "three"));
  disk.lose_power({survives::everything, survives::everything, survives::everything, 0});
  EXPECT_TRUE(is_new());
  disk.replace("/f", as_bytes("four"));
  EXPECT_TRUE(is_new());
  ASSERT_FALSE(rename("/g", "/f"));
  ASSERT_FALSE(sync_directory());
  EXPECT_FALSE(is_new()) << "it has lost its name, and no byte";
  EXPECT_NE(files().at("f").version(), watched.version());
  EXPECT_FALSE(files().contains("g"));
}

TEST_F(durability, a_directorys_version_changes_with_its_durable_names_and_only_then) {
  file f = durable_file("/d/f", "one");
  std::set<std::uint64_t> seen;
  const auto is_new = [&] { return seen.insert(disk.durable_version("/d")).second; };
  EXPECT_TRUE(is_new());
  ASSERT_FALSE(write(f, 0, "two"));
  ASSERT_FALSE(sync(f));
  EXPECT_FALSE(is_new());
  open("/d/g", open_mode::create_new);
  EXPECT_FALSE(is_new());
  ASSERT_FALSE(sync_directory("/d"));
  EXPECT_TRUE(is_new());
  ASSERT_FALSE(remove("/d/f"));
  ASSERT_FALSE(sync_directory("/"));
  EXPECT_FALSE(is_new()) << "another directory";
  ASSERT_FALSE(sync_directory("/d"));
  EXPECT_TRUE(is_new());
}

TEST_F(durability, settle_makes_everything_durable) {
  ASSERT_FALSE(create_directory("/d"));
  file f = open("/d/f");
  ASSERT_FALSE(write(f, 0, "content"));
  disk.settle();
  EXPECT_EQ(durable("/d/f"), "content");
  EXPECT_EQ(after(nothing_survives, "/d/f"), "content");
}

// --- failed syncs (fsyncgate) ---

struct failed_sync : disk_test {
  file f = durable_file("/f", page_of('0') + page_of('0'));

  void SetUp() override {
    ASSERT_FALSE(write(f, 0, page_of('1')));
    disk.inject({.kinds = {op_kind::datasync}});
    ASSERT_EQ(sync(f), std::errc::io_error);
  }
};

TEST_F(failed_sync, leaves_the_new_bytes_in_the_cache_and_the_old_ones_on_the_disk) {
  EXPECT_EQ(cached("/f"), page_of('1') + page_of('0'));
  EXPECT_EQ(durable("/f"), page_of('0') + page_of('0'));
}

TEST_F(failed_sync, is_not_made_good_by_the_next_one) {
  EXPECT_FALSE(sync(f));
  EXPECT_EQ(durable("/f"), page_of('0') + page_of('0'));
  EXPECT_EQ(after(everything_survives, "/f"), page_of('0') + page_of('0'));
}

TEST_F(failed_sync, does_not_stop_what_is_written_later) {
  ASSERT_FALSE(write(f, page_size, page_of('2')));
  ASSERT_FALSE(sync(f));
  EXPECT_EQ(durable("/f"), page_of('0') + page_of('2'));
  EXPECT_EQ(cached("/f"), page_of('1') + page_of('2'));
}

TEST_F(failed_sync, a_page_that_is_written_again_is_written_whole) {
  ASSERT_FALSE(write(f, 10, "x"));
  ASSERT_FALSE(sync(f));
  std::string expected = page_of('1');
  expected[10] = 'x';
  EXPECT_EQ(durable("/f"), expected + page_of('0'));
}

TEST_F(failed_sync, may_have_written_a_part_all_the_same) {
  const auto outcomes = seeded_outcomes("/f");
  EXPECT_TRUE(outcomes.contains(page_of('0') + page_of('0')));
  EXPECT_TRUE(outcomes.contains(page_of('1') + page_of('0')));
}

TEST_F(failed_sync, leaves_a_hole_when_the_file_has_grown) {
  ASSERT_FALSE(write(f, 2 * page_size, page_of('3')));
  disk.inject({.kinds = {op_kind::datasync}});
  ASSERT_TRUE(sync(f));
  ASSERT_FALSE(write(f, 3 * page_size, page_of('4')));
  ASSERT_FALSE(sync(f));
  EXPECT_EQ(durable("/f"), page_of('0') + page_of('0') + page_of('\0') + page_of('4'));
}

TEST_F(failed_sync, of_a_directory_leaves_its_entries_pending) {
  open("/g");
  disk.inject({.kinds = {op_kind::sync_directory}});
  EXPECT_EQ(sync_directory(), std::errc::io_error);
  EXPECT_FALSE(disk.exists("/g", view::durable));
  EXPECT_FALSE(sync_directory());
  EXPECT_TRUE(disk.exists("/g", view::durable));
}

// --- power loss: bytes ---

using power_loss = disk_test;

TEST_F(power_loss, leaves_a_disk_on_which_all_is_durable) {
  file f = durable_file("/f", "old");
  ASSERT_FALSE(write(f, 0, "new"));
  const sim::disk image = disk.power_loss(everything_survives);
  EXPECT_EQ(text(image, "/f"), "new");
  EXPECT_EQ(text(image, "/f", view::durable), "new");
  EXPECT_EQ(text(image.power_loss(nothing_survives), "/f"), "new");
}

TEST_F(power_loss, changes_nothing_on_the_disk_that_it_is_taken_of) {
  file f = durable_file("/f", "old");
  ASSERT_FALSE(write(f, 0, "new"));
  {
    sim::disk image = disk.power_loss(everything_survives);
    image.replace("/f", as_bytes("changed"));
  }
  EXPECT_EQ(cached("/f"), "new");
  EXPECT_EQ(durable("/f"), "old");
}

TEST_F(power_loss, of_the_same_seed_is_the_same) {
  file f = durable_file("/f", std::string(8 * page_size, '0'));
  for (std::uint64_t i = 0; i < 8; ++i) ASSERT_FALSE(write(f, i * page_size, page_of(static_cast<char>('a' + i))));
  std::set<std::uint64_t> outcomes;
  for (std::uint64_t seed = 1; seed <= 50; ++seed) {
    EXPECT_EQ(disk.power_loss(seed).fingerprint(), disk.power_loss(seed).fingerprint());
    outcomes.insert(disk.power_loss(seed).fingerprint());
  }
  EXPECT_GT(outcomes.size(), 20u);
}

TEST_F(power_loss, keeps_any_subset_of_the_pages) {
  file f = durable_file("/f", std::string(3 * page_size, '0'));
  ASSERT_FALSE(write(f, 0, page_of('1') + page_of('1') + page_of('1')));
  std::set<std::string> whole_pages;
  for (const auto& outcome : seeded_outcomes("/f", 1000)) {
    ASSERT_EQ(outcome->size(), 3 * page_size);
    std::string letters;
    for (std::size_t i = 0; i < 3; ++i) {
      const std::string page = outcome->substr(i * page_size, page_size);
      if (page == page_of(page[0])) letters += page[0];
    }
    if (letters.size() == 3) whole_pages.insert(letters);
  }
  EXPECT_EQ(whole_pages, (std::set<std::string>{"000", "001", "010", "011", "100", "101", "110", "111"}));
}

TEST_F(power_loss, may_keep_any_state_that_a_page_went_through) {
  file f = durable_file("/f", page_of('0'));
  ASSERT_FALSE(write(f, 0, page_of('1')));
  ASSERT_FALSE(write(f, 0, page_of('2')));
  const auto outcomes = seeded_outcomes("/f");
  for (const char letter : {'0', '1', '2'}) EXPECT_TRUE(outcomes.contains(page_of(letter))) << letter;
}

TEST_F(power_loss, tears_pages_at_sectors_only) {
  file f = durable_file("/f", page_of('0'));
  ASSERT_FALSE(write(f, 0, page_of('1')));
  std::size_t torn = 0;
  std::set<char> first_sectors;
  for (const auto& outcome : seeded_outcomes("/f", 1000)) {
    for (std::size_t at = 0; at < page_size; at += sector_size) {
      const std::string sector = outcome->substr(at, sector_size);
      ASSERT_TRUE(sector == std::string(sector_size, '0') || sector == std::string(sector_size, '1'));
    }
    if (*outcome == page_of('0') || *outcome == page_of('1')) continue;
    ++torn;
    first_sectors.insert(outcome->front());
  }
  EXPECT_GT(torn, 20u);
  EXPECT_EQ(first_sectors, (std::set<char>{'0', '1'}));  // torn at the front as well as at the end
}

TEST_F(power_loss, keeps_in_half_of_the_cases_what_was_written_first) {
  file f = durable_file("/f", std::string(4 * page_size, '0'));
  for (std::uint64_t i = 0; i < 4; ++i) ASSERT_FALSE(write(f, i * page_size, page_of('1')));
  const auto outcomes = seeded_outcomes("/f");
  for (std::size_t written = 0; written <= 4; ++written) {
    EXPECT_TRUE(outcomes.contains(std::string(written * page_size, '1') + std::string((4 - written) * page_size, '0')))
        << written;
  }
}

TEST_F(power_loss, may_keep_a_size_without_its_bytes) {
  file f = durable_file("/f", "old");
  ASSERT_FALSE(write(f, 3, std::string(10'000, 'x')));
  EXPECT_EQ(after({none, all, all, 0}, "/f"), "old" + std::string(10'000, '\0'));
}

TEST_F(power_loss, may_keep_bytes_and_not_the_size_and_then_they_are_gone) {
  file f = durable_file("/f", "old");
  ASSERT_FALSE(write(f, 3, std::string(10'000, 'x')));
  const sim::disk image = disk.power_loss({all, none, all, 0});
  EXPECT_EQ(text(image, "/f"), "old");
  // What lies beyond the size does not come back when the file grows again.
  sim::disk grown = image.process_crash();
  faulty_env other(io.get_executor(), grown);
  std::error_code ec;
  file again = other.open("/f", open_mode::read_write, ec);
  ASSERT_FALSE(truncate(again, 6));
  EXPECT_EQ(text(grown, "/f"), "old" + std::string(3, '\0'));
}

TEST_F(power_loss, keeps_any_of_the_sizes) {
  file f = durable_file("/f", "");
  for (std::uint64_t i = 0; i < 3; ++i) ASSERT_FALSE(write(f, i, "x"));
  std::set<std::size_t> sizes;
  for (const auto& outcome : seeded_outcomes("/f")) sizes.insert(outcome->size());
  EXPECT_EQ(sizes, (std::set<std::size_t>{0, 1, 2, 3}));
}

TEST_F(power_loss, may_lose_a_truncate_and_keep_it) {
  file f = durable_file("/f", page_of('a') + page_of('b'));
  ASSERT_FALSE(truncate(f, 10));
  EXPECT_EQ(after(nothing_survives, "/f"), page_of('a') + page_of('b'));
  EXPECT_EQ(after(everything_survives, "/f"), std::string(10, 'a'));
  EXPECT_EQ(seeded_outcomes("/f"),
            (std::set{std::optional(page_of('a') + page_of('b')), std::optional(std::string(10, 'a'))}));
}

TEST_F(power_loss, a_truncate_that_survives_leaves_zeros_where_the_file_grew_again) {
  file f = durable_file("/f", page_of('a') + page_of('b'));
  ASSERT_FALSE(truncate(f, 10));
  ASSERT_FALSE(write(f, 2 * page_size - 1, "z"));
  for (const auto& outcome : seeded_outcomes("/f")) {
    if (outcome->size() != 2 * page_size || outcome == page_of('a') + page_of('b')) continue;
    EXPECT_EQ(outcome->substr(0, 10), std::string(10, 'a'));
    EXPECT_EQ(outcome->substr(10, 2 * page_size - 11), std::string(2 * page_size - 11, '\0'));
  }
  EXPECT_TRUE(seeded_outcomes("/f").contains(std::string(10, 'a') + std::string(2 * page_size - 10, '\0')));
}

TEST_F(power_loss, what_was_written_after_a_lost_truncate_is_lost_with_it) {
  file f = durable_file("/f", page_of('a'));
  ASSERT_FALSE(truncate(f, 0));
  ASSERT_FALSE(write(f, 0, page_of('b')));
  for (const auto& outcome : seeded_outcomes("/f")) {
    if (outcome->empty()) continue;
    // The old file, or a mixture of zeros and new bytes; never a mixture of old and new.
    const bool has_old = outcome->find('a') != std::string::npos;
    const bool has_new = outcome->find('b') != std::string::npos;
    EXPECT_FALSE(has_old && has_new);
  }
  EXPECT_EQ(after({all, none, all, 0}, "/f"), page_of('a'));
}

TEST_F(power_loss, in_the_middle_of_a_sync_keeps_anything_that_was_pending) {
  file f = durable_file("/f", page_of('0'));
  ASSERT_FALSE(write(f, 0, page_of('1')));
  disk.hold_syncs();
  auto syncing = start(io, f.datasync(sync_on::disk_thread));
  poll(io);
  const auto outcomes = seeded_outcomes("/f");
  EXPECT_TRUE(outcomes.contains(page_of('0')));
  EXPECT_TRUE(outcomes.contains(page_of('1')));
  disk.release_syncs();
  poll(io);
  EXPECT_EQ(seeded_outcomes("/f"), std::set{std::optional(page_of('1'))});
}

TEST_F(power_loss, many_states_of_a_page_are_not_all_remembered_and_the_last_always_is) {
  file f = durable_file("/f", page_of('0'));
  for (int i = 0; i < 1000; ++i) ASSERT_FALSE(write(f, 0, page_of(static_cast<char>('a' + i % 20))));
  EXPECT_EQ(after(everything_survives, "/f"), page_of(static_cast<char>('a' + 999 % 20)));
  EXPECT_EQ(after(nothing_survives, "/f"), page_of('0'));
  ASSERT_FALSE(sync(f));
  EXPECT_EQ(durable("/f"), page_of(static_cast<char>('a' + 999 % 20)));
}

TEST_F(power_loss, a_file_that_grows_often_keeps_its_sizes_in_order) {
  file f = durable_file("/f", "");
  for (std::uint64_t i = 0; i < 500; ++i) ASSERT_FALSE(write(f, i, "x"));
  for (std::uint64_t seed = 1; seed <= 100; ++seed) {
    const auto outcome = text(disk.power_loss(seed), "/f");
    ASSERT_LE(outcome->size(), 500u);
  }
  EXPECT_EQ(after(everything_survives, "/f"), std::string(500, 'x'));
  ASSERT_FALSE(sync(f));
  EXPECT_EQ(durable("/f"), std::string(500, 'x'));
}

// --- power loss: names ---

using names = disk_test;

TEST_F(names, are_pending_until_their_directory_is_synced) {
  open("/f");
  EXPECT_TRUE(disk.exists("/f"));
  EXPECT_FALSE(disk.exists("/f", view::durable));
  EXPECT_EQ(after(nothing_survives, "/f"), std::nullopt);
  EXPECT_EQ(after(everything_survives, "/f"), "");
  ASSERT_FALSE(sync_directory());
  EXPECT_TRUE(disk.exists("/f", view::durable));
  EXPECT_EQ(after(nothing_survives, "/f"), "");
}

TEST_F(names, a_datasync_of_the_file_does_not_keep_its_name) {
  file f = open("/f");
  ASSERT_FALSE(sync(f));
  EXPECT_EQ(after(nothing_survives, "/f"), std::nullopt);
}

TEST_F(names, a_new_directory_is_lost_with_all_in_it_unless_its_parent_is_synced) {
  ASSERT_FALSE(create_directory("/d"));
  file f = open("/d/f");
  ASSERT_FALSE(write(f, 0, "content"));
  ASSERT_FALSE(sync(f));
  ASSERT_FALSE(sync_directory("/d"));
  EXPECT_TRUE(disk.power_loss(nothing_survives).files().empty());
  ASSERT_FALSE(sync_directory("/"));
  EXPECT_EQ(after(nothing_survives, "/d/f"), "content");
}

TEST_F(names, a_sync_of_one_directory_is_none_of_another) {
  disk.make_directory("/d");
  disk.make_directory("/e");
  open("/d/f");
  open("/e/f");
  ASSERT_FALSE(sync_directory("/d"));
  EXPECT_EQ(disk.files(view::durable), std::vector<std::string>{"/d/f"});
}

TEST_F(names, a_rename_that_is_not_synced_may_be_lost_whole) {
  durable_file("/old", "old content");
  durable_file("/new", "new content");
  ASSERT_FALSE(rename("/new", "/old"));
  const sim::disk lost = disk.power_loss(nothing_survives);
  EXPECT_EQ(text(lost, "/old"), "old content");
  EXPECT_EQ(text(lost, "/new"), "new content");
  const sim::disk kept = disk.power_loss(everything_survives);
  EXPECT_EQ(text(kept, "/old"), "new content");
  EXPECT_EQ(text(kept, "/new"), std::nullopt);
  for (std::uint64_t seed = 1; seed < 50; ++seed) {
    EXPECT_NE(disk.power_loss(seed).exists("/new"), text(disk.power_loss(seed), "/old") == "new content");
  }
}

TEST_F(names, a_rename_may_survive_the_bytes_that_it_renames) {
  durable_file("/file", "old content");
  file written = open("/tmp", open_mode::create_new);
  ASSERT_FALSE(write(written, 0, "new content"));
  ASSERT_FALSE(rename("/tmp", "/file"));
  EXPECT_EQ(after({none, none, all, 0}, "/file"), "");
  EXPECT_EQ(after({none, all, all, 0}, "/file"), std::string(11, '\0'));
}

TEST_F(names, a_removed_file_comes_back_with_its_durable_bytes) {
  {
    file f = durable_file("/f", "old");
    ASSERT_FALSE(write(f, 0, "new"));
    ASSERT_FALSE(sync(f));
  }
  ASSERT_FALSE(remove("/f"));
  EXPECT_FALSE(disk.exists("/f"));
  EXPECT_EQ(after(nothing_survives, "/f"), "new");
  EXPECT_EQ(after(everything_survives, "/f"), std::nullopt);
  ASSERT_FALSE(sync_directory());
  EXPECT_EQ(after(nothing_survives, "/f"), std::nullopt);
}

TEST_F(names, a_file_that_is_removed_and_made_again_is_another_file) {
  durable_file("/f", "old");
  ASSERT_FALSE(remove("/f"));
  file again = open("/f", open_mode::create_new);
  ASSERT_FALSE(write(again, 0, "new"));
  ASSERT_FALSE(sync(again));
  const auto outcomes = seeded_outcomes("/f");
  EXPECT_EQ(outcomes, (std::set<std::optional<std::string>>{std::nullopt, "old", "new"}));
}

TEST_F(names, survive_in_their_order) {
  for (const char* each : {"/a", "/b", "/c"}) open(each);
  ASSERT_FALSE(remove("/a"));
  std::set<std::vector<std::string>> outcomes;
  for (std::uint64_t seed = 1; seed <= 200; ++seed) outcomes.insert(disk.power_loss(seed).files());
  EXPECT_EQ(outcomes, (std::set<std::vector<std::string>>{{}, {"/a"}, {"/a", "/b"}, {"/a", "/b", "/c"}, {"/b", "/c"}}));
}

TEST_F(names, a_rename_between_directories_takes_what_came_before_with_it) {
  disk.make_directory("/d");
  disk.make_directory("/e");
  open("/d/f");
  ASSERT_FALSE(rename("/d/f", "/e/f"));
  ASSERT_FALSE(sync_directory("/e"));
  EXPECT_EQ(disk.files(view::durable), std::vector<std::string>{"/e/f"});
  ASSERT_FALSE(sync_directory("/d"));
  EXPECT_EQ(disk.files(view::durable), std::vector<std::string>{"/e/f"});
  EXPECT_EQ(disk.power_loss(nothing_survives).files(), std::vector<std::string>{"/e/f"});
}

TEST_F(names, a_removed_directory_comes_back_too) {
  disk.make_directory("/d");
  durable_file("/d/f", "content");
  ASSERT_FALSE(remove("/d/f"));
  ASSERT_FALSE(remove("/d"));
  EXPECT_EQ(after(nothing_survives, "/d/f"), "content");
  ASSERT_FALSE(sync_directory("/"));
  EXPECT_TRUE(disk.power_loss(nothing_survives).files().empty());
}

TEST_F(names, may_be_written_in_any_form) {
  ASSERT_FALSE(create_directory("d"));
  file f = open("d/./f");
  ASSERT_FALSE(write(f, 0, "content"));
  EXPECT_EQ(cached("/d/f"), "content");
  EXPECT_EQ(cached("d//f"), "content");
  std::error_code ec;
  EXPECT_EQ(env.list("/d/", ec), std::vector<std::string>{"f"});
  for (const char* root : {"", ".", "/", "./"}) EXPECT_FALSE(sync_directory(root));
  EXPECT_FALSE(create_directory("/"));
}

// --- crashes ---

using crashes = disk_test;

TEST_F(crashes, from_the_crash_on_every_operation_fails_and_nothing_changes) {
  file f = durable_file("/f", "content");
  std::error_code ec;
  const auto mapped = f.map(0, 7, ec);
  disk.crash_at(1);
  ASSERT_FALSE(write(f, 0, "C"));
  EXPECT_FALSE(disk.crashed());
  EXPECT_EQ(write(f, 1, "O"), crashed_error());
  EXPECT_TRUE(disk.crashed());
  const std::uint64_t before = disk.operations();

  EXPECT_EQ(sync(f), crashed_error());
  EXPECT_EQ(run(io, f.datasync(sync_on::disk_thread)), crashed_error());
  EXPECT_EQ(truncate(f, 0), crashed_error());
  EXPECT_EQ(rename("/f", "/g"), crashed_error());
  EXPECT_EQ(remove("/f"), crashed_error());
  EXPECT_EQ(create_directory("/d"), crashed_error());
  EXPECT_EQ(sync_directory(), crashed_error());
  EXPECT_FALSE(read(f, 0, 1));
  EXPECT_EQ(f.size(ec), 0u);
  EXPECT_EQ(ec, crashed_error());
  f.allocate(0, 1, ec);
  EXPECT_EQ(ec, crashed_error());
  (void)f.map(0, 1, ec);
  EXPECT_EQ(ec, crashed_error());
  (void)env.open("/f", open_mode::read, ec);
  EXPECT_EQ(ec, crashed_error());
  (void)env.list("/", ec);
  EXPECT_EQ(ec, crashed_error());
  (void)env.lock("/lock", ec);
  EXPECT_EQ(ec, crashed_error());

  EXPECT_EQ(disk.operations(), before);
  EXPECT_EQ(cached("/f"), "Content");
  EXPECT_EQ(durable("/f"), "content");
  EXPECT_EQ(as_text(mapped.bytes()), "Content");
  EXPECT_EQ(disk.files(), std::vector<std::string>{"/f"});
  EXPECT_EQ(disk.faults_hit(), 1u);
}

TEST_F(crashes, the_error_equals_no_other) {
  EXPECT_TRUE(crashed_error());
  EXPECT_EQ(crashed_error(), crashed_error());
  EXPECT_NE(crashed_error(), std::errc::io_error);
  EXPECT_NE(crashed_error(), std::errc::operation_not_permitted);
  EXPECT_EQ(crashed_error().message(), "simulated crash");
}

TEST_F(crashes, the_write_that_is_hit_may_be_half_done) {
  file f = open("/f");
  disk.crash_at(0, 3);
  EXPECT_EQ(write(f, 0, "content"), crashed_error());
  EXPECT_EQ(text(disk.process_crash(), "/f"), "con");
}

TEST_F(crashes, a_sync_that_has_begun_does_not_end_well_after_the_crash) {
  file f = durable_file("/f", "old");
  ASSERT_FALSE(write(f, 0, "new"));
  disk.hold_syncs();
  auto syncing = start(io, f.datasync(sync_on::disk_thread));
  poll(io);
  disk.crash();
  disk.release_syncs();
  poll(io);
  EXPECT_EQ(syncing.result(), crashed_error());
  EXPECT_EQ(durable("/f"), "old");
}

TEST_F(crashes, after_a_process_crash_the_cache_is_there_and_still_not_durable) {
  file f = durable_file("/f", "old");
  ASSERT_FALSE(write(f, 0, "new"));
  open("/g");
  disk.crash();
  const sim::disk image = disk.process_crash();
  EXPECT_FALSE(image.crashed());
  EXPECT_EQ(image.operations(), 0u);
  EXPECT_EQ(text(image, "/f"), "new");
  EXPECT_EQ(text(image, "/f", view::durable), "old");
  EXPECT_EQ(image.files(), (std::vector<std::string>{"/f", "/g"}));
  // The machine loses power after all.
  EXPECT_EQ(text(image.power_loss(nothing_survives), "/f"), "old");
  EXPECT_EQ(image.power_loss(nothing_survives).files(), std::vector<std::string>{"/f"});
  EXPECT_EQ(text(image.power_loss(everything_survives), "/f"), "new");
}

TEST_F(crashes, the_next_program_can_make_durable_what_the_last_one_wrote) {
  {
    file f = durable_file("/f", "old");
    ASSERT_FALSE(write(f, 0, "new"));
    open("/g");
  }
  sim::disk image = disk.process_crash();
  faulty_env next(io.get_executor(), image);
  std::error_code ec;
  file f = next.open("/f", open_mode::read_write, ec);
  EXPECT_FALSE(run(io, f.datasync(sync_on::caller)));
  EXPECT_FALSE(run(io, next.sync_directory("/", sync_on::caller)));
  EXPECT_EQ(text(image, "/f", view::durable), "new");
  EXPECT_TRUE(image.exists("/g", view::durable));
  EXPECT_EQ(durable("/f"), "old");  // the disk from which the image was taken
}

TEST_F(crashes, a_page_marked_clean_stays_so_across_a_process_crash) {
  {
    file f = durable_file("/f", "old");
    ASSERT_FALSE(write(f, 0, "new"));
    disk.inject({.kinds = {op_kind::datasync}});
    ASSERT_TRUE(sync(f));
  }
  sim::disk image = disk.process_crash();
  faulty_env next(io.get_executor(), image);
  std::error_code ec;
  file f = next.open("/f", open_mode::read_write, ec);
  EXPECT_FALSE(run(io, f.datasync(sync_on::caller)));
  EXPECT_EQ(text(image, "/f"), "new");
  EXPECT_EQ(text(image, "/f", view::durable), "old");
}

TEST_F(crashes, locks_end_with_the_program_and_faults_with_the_image) {
  std::error_code ec;
  const auto lock = env.lock("/lock", ec);
  ASSERT_FALSE(ec);
  disk.fail_operation(0);
  for (sim::disk* image : {std::make_unique<sim::disk>(disk.process_crash()).release(),
                           std::make_unique<sim::disk>(disk.power_loss(everything_survives)).release()}) {
    const std::unique_ptr<sim::disk> owned(image);
    faulty_env next(io.get_executor(), *image);
    const auto relocked = next.lock("/lock", ec);
    EXPECT_FALSE(ec);
    EXPECT_NE(relocked.holder_pid(), lock.holder_pid());
  }
}

TEST_F(crashes, a_file_that_was_removed_and_open_is_gone_after_a_process_crash) {
  disk.set_capacity(4 * page_size);
  file f = durable_file("/f", page_of('x'));
  ASSERT_FALSE(remove("/f"));
  EXPECT_EQ(disk.used(), page_size);
  const sim::disk image = disk.process_crash();
  EXPECT_TRUE(image.files().empty());
  EXPECT_EQ(image.used(), 0u);
  EXPECT_EQ(text(image.power_loss(nothing_survives), "/f"), page_of('x'));
}

// --- direct access ---

using direct_access = disk_test;

TEST_F(direct_access, replace_is_seen_by_open_files_and_is_durable) {
  file f = durable_file("/f", "old content");
  ASSERT_FALSE(write(f, 0, "pending"));
  std::error_code ec;
  const auto mapped = f.map(0, 3, ec);
  disk.replace("/f", as_bytes("new"));
  EXPECT_EQ(read(f, 0, 100), "new");
  EXPECT_EQ(as_text(mapped.bytes()), "new");
  EXPECT_EQ(after(nothing_survives, "/f"), "new");
  EXPECT_EQ(after(everything_survives, "/f"), "new");
}

TEST_F(direct_access, replace_makes_files_and_their_directories) {
  disk.replace("/a/b/f", as_bytes("content"));
  EXPECT_EQ(after(nothing_survives, "/a/b/f"), "content");
  EXPECT_EQ(disk.used(), page_size);
}

TEST_F(direct_access, flip_bit_changes_one_bit_wherever_the_byte_lies) {
  file f = durable_file("/f", "aaaa");
  ASSERT_FALSE(write(f, 0, "bb"));
  disk.flip_bit("/f", 1, 0);
  disk.flip_bit("/f", 3, 5);
  EXPECT_EQ(cached("/f"), "bcaA");
  EXPECT_EQ(durable("/f"), "a`aA");
  EXPECT_EQ(after(everything_survives, "/f"), "bcaA");
  EXPECT_EQ(after(nothing_survives, "/f"), "a`aA");
  disk.flip_bit("/f", 1, 0);
  disk.flip_bit("/f", 3, 5);
  EXPECT_EQ(cached("/f"), "bbaa");
  EXPECT_THROW(disk.flip_bit("/f", 4), std::logic_error);
  EXPECT_THROW(disk.flip_bit("/missing", 0), std::logic_error);
}

TEST_F(direct_access, files_lists_paths_of_both_views) {
  durable_file("/d/b", "");
  durable_file("/a", "");
  open("/d/a");
  ASSERT_FALSE(remove("/a"));
  EXPECT_EQ(disk.files(), (std::vector<std::string>{"/d/a", "/d/b"}));
  EXPECT_EQ(disk.files(view::durable), (std::vector<std::string>{"/a", "/d/b"}));
}

TEST_F(direct_access, the_fingerprint_is_of_names_and_bytes) {
  disk.replace("/f", as_bytes("content"));
  const std::uint64_t before = disk.fingerprint();
  disk.flip_bit("/f", 3);
  EXPECT_NE(disk.fingerprint(), before);
  disk.flip_bit("/f", 3);
  EXPECT_EQ(disk.fingerprint(), before);
  ASSERT_FALSE(rename("/f", "/g"));
  EXPECT_NE(disk.fingerprint(), before);
}

// --- the history ---

TEST(disk_history, is_kept_only_when_asked_for_and_operations_are_counted_without_it) {
  sim::disk disk;
  auto& operations = *sim::detail::disk_access::state_of(disk);
  std::error_code ec;
  operations.create_directory("/d", ec);
  EXPECT_EQ(disk.operations(), 1u);
  EXPECT_EQ(disk.operations(op_kind::create_directory), 1u);
  EXPECT_TRUE(disk.history().empty());
  disk.keep_history(true);
  operations.create_directory("/d/e", ec);
  operations.remove("/missing", ec);
  EXPECT_EQ(disk.story(), "1 create_directory /d/e\n2 remove /missing: No such file or directory\n");
  disk.keep_history(false);
  EXPECT_TRUE(disk.history().empty());
  EXPECT_EQ(disk.operations(), 3u);
}

// --- rot ---

using bit_rot = disk_test;

std::size_t differing_bits(const std::string& a, const std::string& b) {
  std::size_t count = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    count += static_cast<std::size_t>(std::popcount(static_cast<unsigned char>(a[i] ^ b[i])));
  }
  return count;
}

TEST_F(bit_rot, turns_one_durable_bit_as_if_it_had_been_so_all_the_time) {
  const std::string content = page_of('a') + page_of('b');
  file f = durable_file("/f", content);
  std::error_code ec;
  const auto mapped = f.map(0, content.size(), ec);
  sim::random_stream random(7);
  const auto offset = disk.rot("/f", random);
  ASSERT_TRUE(offset);
  const std::string rotten = *cached("/f");
  EXPECT_EQ(differing_bits(rotten, content), 1u);
  EXPECT_NE(rotten[static_cast<std::size_t>(*offset)], content[static_cast<std::size_t>(*offset)]);
  EXPECT_EQ(read(f, 0, content.size()), rotten);
  EXPECT_EQ(as_text(mapped.bytes()), rotten);
  EXPECT_EQ(durable("/f"), rotten);
  EXPECT_EQ(after(nothing_survives, "/f"), rotten);
  EXPECT_EQ(text(disk.process_crash(), "/f"), rotten);
}

TEST_F(bit_rot, spares_what_is_not_durable) {
  file f = durable_file("/f", "abcd");
  ASSERT_FALSE(write(f, 4, page_of('x')));
  sim::random_stream random(1);
  for (int i = 0; i < 100; ++i) EXPECT_LT(disk.rot("/f", random), 4u);
}

TEST_F(bit_rot, needs_a_byte) {
  durable_file("/f", "");
  sim::random_stream random(1);
  EXPECT_EQ(disk.rot("/f", random), std::nullopt);
  EXPECT_EQ(disk.rot("/missing", random), std::nullopt);
}

TEST_F(bit_rot, is_in_the_pending_states_of_its_byte_too) {
  file f = durable_file("/f", "aaaa");
  ASSERT_FALSE(write(f, 0, "bb"));
  ASSERT_FALSE(write(f, 0, "cc"));
  disk.flip_bit("/f", 1, 1);
  for (const auto& outcome : seeded_outcomes("/f")) {
    EXPECT_TRUE(outcome == "acaa" || outcome == "b`aa" || outcome == "caaa") << *outcome;
  }
}

TEST_F(bit_rot, is_in_pages_that_a_failed_sync_marked_clean) {
  file f = durable_file("/f", "aaaa");
  ASSERT_FALSE(write(f, 0, "bb"));
  disk.inject({.kinds = {op_kind::datasync}});
  ASSERT_TRUE(sync(f));
  ASSERT_FALSE(sync(f));
  disk.flip_bit("/f", 0, 1);
  EXPECT_EQ(cached("/f"), "`baa");
  EXPECT_EQ(durable("/f"), "caaa");
}

// --- misdirected writes ---

using misdirected_write = disk_test;

TEST_F(misdirected_write, lands_on_another_page_of_the_file_and_reports_success) {
  file f = durable_file("/f", page_of('0') + page_of('1') + page_of('2'));
  disk.inject({.misdirect = sim::elsewhere{.page = 2}});
  EXPECT_FALSE(write(f, 10, "lost"));
  EXPECT_EQ(disk.faults_hit(), 1u);
  std::string expected = page_of('0') + page_of('1') + page_of('2');
  expected.replace(2 * page_size + 10, 4, "lost");
  EXPECT_EQ(cached("/f"), expected);
  EXPECT_EQ(durable("/f"), expected);
  ASSERT_FALSE(write(f, 10, "kept"));
  EXPECT_EQ(read(f, 10, 4), "kept");
}

TEST_F(misdirected_write, lands_in_another_file_as_far_as_that_reaches) {
  file f = durable_file("/f", "meant");
  durable_file("/g", page_of('g') + "gg");
  disk.inject({.path_contains = "/f", .misdirect = sim::elsewhere{"/g", 1}});
  EXPECT_FALSE(write(f, 0, "MEANT"));
  EXPECT_EQ(cached("/f"), "meant");
  EXPECT_EQ(cached("/g"), page_of('g') + "ME");
  EXPECT_EQ(after(nothing_survives, "/g"), page_of('g') + "ME");
}

TEST_F(misdirected_write, that_appends_leaves_zeros_within_the_new_size) {
  file f = durable_file("/f", page_of('0'));
  disk.inject({.misdirect = sim::elsewhere{.page = 0}});
  EXPECT_FALSE(write(f, page_size, "appended"));
  EXPECT_FALSE(sync(f));
  const std::string expected = "appended" + page_of('0').substr(8) + std::string(8, '\0');
  EXPECT_EQ(cached("/f"), expected);
  EXPECT_EQ(after(nothing_survives, "/f"), expected);
  EXPECT_EQ(disk.used(), 2 * page_size);
}

TEST_F(misdirected_write, is_lost_where_no_file_is) {
  file f = durable_file("/f", "meant");
  disk.inject({.misdirect = sim::elsewhere{"/nowhere", 0}});
  EXPECT_FALSE(write(f, 0, "MEANT"));
  EXPECT_EQ(cached("/f"), "meant");
  EXPECT_EQ(disk.files(), std::vector<std::string>{"/f"});
}

TEST_F(misdirected_write, hits_every_state_of_the_bytes_where_it_lands) {
  file f = durable_file("/f", page_of('0') + page_of('0'));
  ASSERT_FALSE(write(f, page_size, page_of('1')));
  disk.inject({.misdirect = sim::elsewhere{.page = 1}});
  ASSERT_FALSE(write(f, 0, "x"));
  for (const auto& outcome : seeded_outcomes("/f")) EXPECT_EQ((*outcome)[page_size], 'x');
}

TEST_F(misdirected_write, is_a_pwrite_only) {
  file f = durable_file("/f", page_of('0') + page_of('1'));
  disk.inject({.nth = 1, .misdirect = sim::elsewhere{.page = 1}});
  EXPECT_TRUE(read(f, 0, 1));
  ASSERT_FALSE(write(f, 0, "a"));
  ASSERT_FALSE(sync(f));
  ASSERT_FALSE(write(f, 0, "b"));
  EXPECT_EQ(read(f, 0, 1), "a");
  EXPECT_EQ(read(f, page_size, 1), "b");
}

// --- reads and syncs that fail ---

using bad_device = disk_test;

TEST_F(bad_device, a_read_may_fail_once) {
  file f = durable_file("/f", "content");
  disk.inject({.kinds = {op_kind::pread}, .path_contains = "/f"});
  std::array<std::byte, 7> into{};
  std::error_code ec;
  EXPECT_EQ(f.pread(0, into, ec), 0u);
  EXPECT_EQ(ec, std::errc::io_error);
  EXPECT_EQ(read(f, 0, 7), "content");
}

TEST_F(bad_device, a_bad_sector_fails_what_touches_it_and_nothing_else) {
  file f = durable_file("/f", std::string(3 * sector_size, 'x'));
  disk.inject({.kinds = {op_kind::pread}, .how_often = times::from_then_on, .touching = sector_size + 5});
  EXPECT_TRUE(read(f, 0, sector_size));
  EXPECT_TRUE(read(f, 0, sector_size + 5));
  EXPECT_TRUE(read(f, sector_size + 6, sector_size));
  EXPECT_FALSE(read(f, sector_size + 5, 1));
  EXPECT_FALSE(read(f, 0, 3 * sector_size));
  EXPECT_FALSE(write(f, sector_size, "written"));
  EXPECT_FALSE(sync(f));
  disk.clear_faults();
  EXPECT_EQ(read(f, sector_size, 7), "written");
}

TEST_F(bad_device, a_sync_may_find_no_space_and_then_its_pages_are_lost) {
  file f = durable_file("/f", page_of('0'));
  ASSERT_FALSE(write(f, 0, page_of('1')));
  disk.inject({.kinds = {op_kind::datasync}, .error = disk_error(ENOSPC)});
  EXPECT_EQ(sync(f), std::errc::no_space_on_device);
  EXPECT_FALSE(sync(f)) << "it is reported once";
  EXPECT_EQ(cached("/f"), page_of('1'));
  EXPECT_EQ(durable("/f"), page_of('0'));
  EXPECT_EQ(after(everything_survives, "/f"), page_of('0'));
}

// --- crashes in place ---

using crash_in_place = disk_test;

struct program_with_changes : disk_test {
  void TestBody() override {}
};

// Something pending of each kind.
void fill(disk_test& with) {
  file a = with.durable_file("/a", page_of('a') + page_of('b') + page_of('c'));
  file b = with.open("/b");
  for (std::uint64_t i = 0; i < 20; ++i) (void)disk_test::write(a, i * 700, std::string(300, 'n'));
  (void)with.sync(b);
  (void)disk_test::truncate(a, 5000);
  (void)disk_test::write(b, 0, page_of('x') + "y");
  (void)with.rename("/b", "/c");
  (void)with.create_directory("/d");
}

TEST(crash_in_place_of_the_machine, leaves_what_the_image_shows) {
  for (std::uint64_t seed = 0; seed < 200; ++seed) {
    const power_cut cut = seed == 0 ? everything_survives : seed == 1 ? nothing_survives : power_cut::seeded(seed);
    program_with_changes program;
    fill(program);
    sim::disk& disk = program.disk;
    const sim::disk image = disk.power_loss(cut);
    disk.lose_power(cut);
    ASSERT_EQ(disk.fingerprint(), image.fingerprint()) << seed;
    ASSERT_EQ(disk.used(), image.used()) << seed;
    ASSERT_EQ(disk.files(view::durable), image.files(view::durable)) << seed;
    ASSERT_EQ(disk.power_loss(nothing_survives).fingerprint(), image.fingerprint()) << seed;
  }
}

TEST_F(crash_in_place, of_the_program_leaves_what_the_image_shows) {
  fill(*this);
  const sim::disk image = disk.process_crash();
  disk.crash_process();
  EXPECT_EQ(disk.fingerprint(), image.fingerprint());
  EXPECT_EQ(disk.used(), image.used());
  for (std::uint64_t seed = 1; seed < 50; ++seed) {
    EXPECT_EQ(disk.power_loss(seed).fingerprint(), image.power_loss(seed).fingerprint());
  }
}

TEST_F(crash_in_place, ends_a_crash_and_keeps_the_counts_and_the_other_faults) {
  disk.inject({.kinds = {op_kind::create}, .how_often = times::from_then_on});
  disk.crash_at(1);
  (void)create_directory("/d");
  EXPECT_EQ(create_directory("/e"), crashed_error());
  disk.lose_power(everything_survives);
  EXPECT_FALSE(disk.crashed());
  EXPECT_EQ(disk.operations(), 2u);
  EXPECT_FALSE(create_directory("/e"));
  std::error_code ec;
  (void)env.open("/f", open_mode::create, ec);
  EXPECT_EQ(ec, std::errc::io_error);
}

TEST_F(crash_in_place, ends_locks_also_those_that_are_released_later) {
  std::error_code ec;
  std::optional<faulty_env::file_lock> old = env.lock("/lock", ec);
  disk.settle();
  disk.crash_process();
  faulty_env next(io.get_executor(), disk);
  const auto lock = next.lock("/lock", ec);
  EXPECT_FALSE(ec);
  old.reset();
  (void)next.lock("/lock", ec);
  EXPECT_EQ(ec, errc::log_locked);
}

TEST_F(crash_in_place, a_sync_of_the_life_before_makes_nothing_durable) {
  auto& operations = *sim::detail::disk_access::state_of(disk);
  file f = durable_file("/f", "old");
  ASSERT_FALSE(write(f, 0, "new"));
  const auto syncing = operations.begin_datasync(operations.find_file("/f")->node, "/f");
  disk.crash_process();
  EXPECT_EQ(operations.end_sync(syncing), crashed_error());
  EXPECT_EQ(durable("/f"), "old");
  file again = open("/f");
  EXPECT_FALSE(sync(again));
  EXPECT_EQ(durable("/f"), "new");
}

TEST_F(crash_in_place, files_that_are_still_held_neither_keep_nor_free_space) {
  {
    file removed = durable_file("/f", page_of('x'));
    file kept = durable_file("/g", page_of('x'));
    ASSERT_FALSE(remove("/f"));
    EXPECT_EQ(disk.used(), 2 * page_size);
    disk.crash_process();
    EXPECT_EQ(disk.used(), page_size);
    disk.lose_power(nothing_survives);
    EXPECT_EQ(disk.used(), 2 * page_size);
  }
  EXPECT_EQ(disk.used(), 2 * page_size);
  EXPECT_EQ(cached("/f"), page_of('x'));
}

TEST_F(crash_in_place, a_mapping_of_the_life_before_may_be_held) {
  file f = durable_file("/f", "content");
  std::error_code ec;
  const auto mapped = f.map(0, 7, ec);
  f = file();
  ASSERT_FALSE(remove("/f"));
  disk.lose_power(everything_survives);
  EXPECT_EQ(as_text(mapped.bytes()), "content");
}

// --- files as a whole ---

TEST_F(durability, many_changes_of_all_kinds_leave_the_bytes_of_the_last_sync) {
  sim::random_stream random(11);
  file f = durable_file("/f", "");
  std::string now, synced;
  for (int i = 0; i < 3000; ++i) {
    const auto offset = static_cast<std::size_t>(random.below(40'000));
    if (random.chance(0.05)) {
      ASSERT_FALSE(truncate(f, offset));
      now.resize(offset);
    } else if (random.chance(0.01)) {
      ASSERT_FALSE(sync(f));
      synced = now;
    } else {
      const std::string text(static_cast<std::size_t>(1 + random.below(9000)),
                             static_cast<char>('a' + random.below(26)));
      ASSERT_FALSE(write(f, offset, text));
      if (now.size() < offset + text.size()) now.resize(offset + text.size());
      now.replace(offset, text.size(), text);
    }
    if (i % 50 != 0) continue;
    ASSERT_EQ(cached("/f"), now);
    ASSERT_EQ(durable("/f"), synced);
    ASSERT_EQ(after(everything_survives, "/f"), now);
    ASSERT_EQ(after(nothing_survives, "/f"), synced);
    ASSERT_TRUE(disk.is_durable("/f", 0, as_bytes(synced)));
  }
}

TEST_F(power_loss, of_very_many_unsynced_writes_keeps_the_oldest_and_the_newest_state_of_each_page) {
  file f = durable_file("/f", page_of('0') + page_of('0'));
  for (std::uint64_t i = 0; i < 50'000; ++i) {
    ASSERT_FALSE(write(f, i % (2 * page_size - 8), std::string(8, static_cast<char>('a' + i % 26))));
  }
  EXPECT_EQ(after(everything_survives, "/f"), cached("/f"));
  EXPECT_EQ(after(nothing_survives, "/f"), page_of('0') + page_of('0'));
  EXPECT_GT(seeded_outcomes("/f", 50).size(), 20u);
}

TEST_F(crash_in_place, address_space_that_was_used_before_is_empty) {
  for (const std::size_t size : {std::size_t{100}, std::size_t{100'000}, std::size_t{3'000'000}}) {
    sim::disk first;
    first.replace("/f", as_bytes(std::string(size, 'x')));
  }
  file f = open("/f");
  ASSERT_FALSE(write(f, 3'999'999, "y"));
  EXPECT_EQ(cached("/f"), std::string(3'999'999, '\0') + "y");
}

// --- enumeration ---

using enumeration = disk_test;

std::vector<std::string> images_of(const sim::disk& disk, std::size_t budget) {
  std::vector<std::string> which;
  for_each_crash_image(disk, budget, [&](sim::disk&, const std::string& name) { which.push_back(name); });
  return which;
}

TEST_F(enumeration, a_disk_without_anything_pending_has_one_image_of_each_crash) {
  durable_file("/f", "content");
  EXPECT_EQ(images_of(disk, 100),
            (std::vector<std::string>{"process crash", "power loss, only what was synced survives"}));
}

TEST_F(enumeration, shows_the_corner_cases_and_no_image_twice) {
  file f = durable_file("/f", page_of('0'));
  ASSERT_FALSE(write(f, 0, page_of('1') + page_of('1')));
  open("/g");
  std::set<std::uint64_t> fingerprints;
  std::size_t shown = 0;
  for_each_crash_image(disk, 40, [&](sim::disk& image, const std::string& which) {
    if (which == "process crash") return;
    ++shown;
    EXPECT_TRUE(fingerprints.insert(image.fingerprint()).second) << which;
  });
  EXPECT_GE(shown, 10u);
  for (const power_cut& cut : {nothing_survives, everything_survives, power_cut{none, all, all, 0}}) {
    EXPECT_TRUE(fingerprints.contains(disk.power_loss(cut).fingerprint()));
  }
}

TEST_F(enumeration, keeps_to_its_budget) {
  file f = durable_file("/f", "");
  for (std::uint64_t i = 0; i < 10; ++i) ASSERT_FALSE(write(f, i * page_size, page_of('x')));
  for (const std::size_t budget : std::initializer_list<std::size_t>{0u, 1u, 3u, 20u})
    EXPECT_EQ(images_of(disk, budget).size(), budget);
}

// The smallest program with a promise: it acks each record after its sync.
awaitable<int> append_records(faulty_env& env, bool with_directory_sync) {
  int acked = 0;
  std::error_code ec;
  env.create_directory("/log", ec);
  if (ec) co_return acked;
  ec = co_await env.sync_directory("/", sync_on::disk_thread);
  if (ec) co_return acked;
  file log = env.open("/log/records", open_mode::create_new, ec);
  if (ec) co_return acked;
  if (with_directory_sync) ec = co_await env.sync_directory("/log", sync_on::disk_thread);
  for (int i = 0; i < 3 && !ec; ++i) {
    const std::string record = std::to_string(i);
    const std::array<bytes_view, 1> gather = {as_bytes(record)};
    ec = co_await log.pwrite_datasync(static_cast<std::uint64_t>(i), gather, sync_on::disk_thread);
    if (!ec) ++acked;
  }
  co_return acked;
}

// @return the crash images in which an acked record is missing.
std::vector<std::string> lost_records(bool with_directory_sync, std::uint64_t& total, std::size_t& images) {
  std::vector<std::string> lost;
  total = for_each_crash(
      30,
      [&](sim::disk& disk) {
        asio::io_context io;
        faulty_env env(io.get_executor(), disk);
        return run(io, append_records(env, with_directory_sync));
      },
      [&](sim::disk& image, int acked, const std::string& which) {
        ++images;
        const std::string promised = std::string("012").substr(0, static_cast<std::size_t>(acked));
        const auto bytes = image.bytes("/log/records");
        const std::string found = bytes ? std::string(as_text(*bytes)) : std::string();
        if (found.rfind(promised, 0) != 0) lost.push_back(which);
      });
  return lost;
}

TEST_F(enumeration, a_program_that_keeps_the_rules_loses_nothing_at_any_crash) {
  std::uint64_t total = 0;
  std::size_t images = 0;
  EXPECT_EQ(lost_records(true, total, images), std::vector<std::string>());
  EXPECT_EQ(total, 10u);
  EXPECT_GT(images, 20u);
}

TEST_F(enumeration, a_program_that_forgets_to_sync_its_directory_is_found_out) {
  std::uint64_t total = 0;
  std::size_t images = 0;
  const auto lost = lost_records(false, total, images);
  ASSERT_FALSE(lost.empty());
  EXPECT_NE(lost.front().find("power loss, only what was synced survives"), std::string::npos) << lost.front();
  EXPECT_NE(lost.front().find("datasync /log/records"), std::string::npos) << lost.front();
}

}  // namespace
}  // namespace lockstep::test
