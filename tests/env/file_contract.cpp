#include "lockstep/env/env.hpp"

#include "lockstep/core/errors.hpp"
#include "lockstep/env/real.hpp"

#include "support/faulty_env.hpp"
#include "support/run.hpp"
#include "support/temporary_directory.hpp"

#include <gtest/gtest.h>
#include <asio/io_context.hpp>

#include <algorithm>
#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

// What every environment's files promise, asked of the real ones and of the model that tests crash.

namespace lockstep {
namespace {

using test::run;

struct real_world {
  using env_type = real::env;
  test::temporary_directory directory;
  asio::io_context io;
  real::env env{io.get_executor()};
  [[nodiscard]] std::string at(const std::string& name) const { return directory.file(name); }
};

struct faulty_world {
  using env_type = test::faulty_env;
  test::faulty_disk disk;
  asio::io_context io;
  test::faulty_env env{io.get_executor(), disk};
  [[nodiscard]] std::string at(const std::string& name) const { return name.empty() ? "/" : "/" + name; }
};

template <class World>
struct file_contract : testing::Test {
  using env_type = typename World::env_type;
  using file = typename env_type::file;

  World world;
  env_type& env = world.env;

  std::string at(const std::string& name) const { return world.at(name); }

  file open(const std::string& name, open_mode mode = open_mode::create) {
    std::error_code ec = make_error_code(errc::corrupt);
    file opened = env.open(at(name), mode, ec);
    if (ec) throw std::system_error(ec, "open " + name);
    return opened;
  }
  std::error_code open_error(const std::string& name, open_mode mode) {
    std::error_code ec;
    const file opened = env.open(at(name), mode, ec);
    EXPECT_NE(opened.is_open(), static_cast<bool>(ec));
    return ec;
  }
  void make_directory(const std::string& name) {
    std::error_code ec = make_error_code(errc::corrupt);
    env.create_directory(at(name), ec);
    if (ec) throw std::system_error(ec, "create_directory " + name);
  }
  std::vector<std::string> list(const std::string& name = "") {
    std::error_code ec = make_error_code(errc::corrupt);
    auto names = env.list(at(name), ec);
    if (ec) throw std::system_error(ec, "list " + name);
    std::sort(names.begin(), names.end());
    return names;
  }

  static std::error_code write(file& to, std::uint64_t offset, std::string_view text) {
    const std::array<bytes_view, 1> gather = {as_bytes(text)};
    std::error_code ec = make_error_code(errc::corrupt);
    to.pwrite(offset, gather, ec);
    return ec;
  }
  static std::string read(const file& from, std::uint64_t offset, std::size_t count) {
    std::string text(count, '?');
    std::error_code ec = make_error_code(errc::corrupt);
    const std::size_t got = from.pread(offset, {reinterpret_cast<std::byte*>(text.data()), count}, ec);
    if (ec) throw std::system_error(ec, "pread");
    text.resize(got);
    return text;
  }
  static std::string all(const file& from) { return read(from, 0, static_cast<std::size_t>(size(from))); }
  static std::uint64_t size(const file& of) {
    std::error_code ec = make_error_code(errc::corrupt);
    const std::uint64_t result = of.size(ec);
    if (ec) throw std::system_error(ec, "size");
    return result;
  }
  void put(const std::string& name, std::string_view content) {
    file to = open(name, open_mode::truncate);
    if (const std::error_code ec = write(to, 0, content)) throw std::system_error(ec, "pwrite " + name);
  }
  std::string content(const std::string& name) { return all(open(name, open_mode::read)); }
};

using worlds = testing::Types<real_world, faulty_world>;
struct world_names {
  template <class World>
  static std::string GetName(int) {
    return std::is_same_v<World, real_world> ? "real" : "faulty";
  }
};
TYPED_TEST_SUITE(file_contract, worlds, world_names);

// --- open ---

TYPED_TEST(file_contract, read_and_read_write_want_a_file_that_exists) {
  EXPECT_EQ(this->open_error("f", open_mode::read), std::errc::no_such_file_or_directory);
  EXPECT_EQ(this->open_error("f", open_mode::read_write), std::errc::no_such_file_or_directory);
  EXPECT_TRUE(this->list().empty());
  this->put("f", "content");
  EXPECT_EQ(this->all(this->open("f", open_mode::read)), "content");
  EXPECT_EQ(this->all(this->open("f", open_mode::read_write)), "content");
}

TYPED_TEST(file_contract, create_makes_an_empty_file_and_keeps_an_old_one) {
  EXPECT_EQ(this->all(this->open("f", open_mode::create)), "");
  this->put("f", "content");
  EXPECT_EQ(this->all(this->open("f", open_mode::create)), "content");
}

TYPED_TEST(file_contract, create_new_wants_no_file_there) {
  EXPECT_EQ(this->all(this->open("f", open_mode::create_new)), "");
  EXPECT_EQ(this->open_error("f", open_mode::create_new), std::errc::file_exists);
}

TYPED_TEST(file_contract, truncate_makes_an_empty_file_and_empties_an_old_one) {
  EXPECT_EQ(this->all(this->open("f", open_mode::truncate)), "");
  this->put("f", "content");
  EXPECT_EQ(this->all(this->open("f", open_mode::truncate)), "");
}

TYPED_TEST(file_contract, a_missing_directory_is_an_error_in_every_mode) {
  for (const auto mode :
       {open_mode::read, open_mode::read_write, open_mode::create, open_mode::create_new, open_mode::truncate}) {
    EXPECT_EQ(this->open_error("missing/f", mode), std::errc::no_such_file_or_directory);
  }
}

TYPED_TEST(file_contract, a_file_is_no_directory) {
  this->put("f", "");
  EXPECT_EQ(this->open_error("f/g", open_mode::create), std::errc::not_a_directory);
}

TYPED_TEST(file_contract, a_directory_is_not_opened_for_writing) {
  this->make_directory("d");
  EXPECT_EQ(this->open_error("d", open_mode::read_write), std::errc::is_a_directory);
  EXPECT_EQ(this->open_error("d", open_mode::create), std::errc::is_a_directory);
  EXPECT_EQ(this->open_error("d", open_mode::truncate), std::errc::is_a_directory);
  EXPECT_EQ(this->open_error("d", open_mode::create_new), std::errc::file_exists);
}

TYPED_TEST(file_contract, a_default_file_is_not_open) {
  EXPECT_FALSE(typename TestFixture::file().is_open());
  EXPECT_TRUE(this->open("f").is_open());
}

TYPED_TEST(file_contract, a_moved_file_is_the_open_one) {
  auto first = this->open("f");
  auto second = std::move(first);
  EXPECT_FALSE(first.is_open());  // NOLINT(bugprone-use-after-move)
  ASSERT_TRUE(second.is_open());
  EXPECT_FALSE(this->write(second, 0, "moved"));
  first = std::move(second);
  EXPECT_EQ(this->all(first), "moved");
}

TYPED_TEST(file_contract, two_handles_see_the_same_bytes) {
  auto first = this->open("f");
  const auto second = this->open("f", open_mode::read);
  EXPECT_FALSE(this->write(first, 0, "seen"));
  EXPECT_EQ(this->all(second), "seen");
}

// --- pread and pwrite ---

TYPED_TEST(file_contract, reads_stop_at_the_end_of_the_file) {
  auto f = this->open("f");
  EXPECT_FALSE(this->write(f, 0, "0123456789"));
  EXPECT_EQ(this->read(f, 0, 10), "0123456789");
  EXPECT_EQ(this->read(f, 3, 4), "3456");
  EXPECT_EQ(this->read(f, 8, 100), "89");
  EXPECT_EQ(this->read(f, 10, 1), "");
  EXPECT_EQ(this->read(f, 1'000'000, 1), "");
  EXPECT_EQ(this->read(f, 0, 0), "");
}

TYPED_TEST(file_contract, writes_overwrite_and_extend) {
  auto f = this->open("f");
  EXPECT_FALSE(this->write(f, 0, "aaaaaa"));
  EXPECT_FALSE(this->write(f, 2, "bb"));
  EXPECT_FALSE(this->write(f, 5, "cc"));
  EXPECT_EQ(this->all(f), "aabbacc");
}

TYPED_TEST(file_contract, a_write_beyond_the_end_leaves_zeros_between) {
  auto f = this->open("f");
  EXPECT_FALSE(this->write(f, 10'000, "x"));
  EXPECT_EQ(this->all(f), std::string(10'000, '\0') + "x");
}

TYPED_TEST(file_contract, a_gather_write_puts_all_buffers_in_order) {
  auto f = this->open("f");
  const std::array<bytes_view, 3> gather = {as_bytes("one "), as_bytes("two "), as_bytes("three")};
  std::error_code ec = make_error_code(errc::corrupt);
  f.pwrite(5, gather, ec);
  EXPECT_FALSE(ec);
  EXPECT_EQ(this->all(f), std::string(5, '\0') + "one two three");
}

TYPED_TEST(file_contract, a_gather_write_takes_any_number_of_buffers) {
  for (const std::size_t count : std::initializer_list<std::size_t>{1u, 63u, 64u, 65u, 128u, 129u, 1000u}) {
    auto f = this->open("f", open_mode::truncate);
    std::vector<std::string> texts;
    for (std::size_t i = 0; i < count; ++i) texts.push_back(std::to_string(i) + ";");
    std::string expected;
    std::vector<bytes_view> gather;
    for (const std::string& each : texts) {
      gather.push_back(as_bytes(each));
      expected += each;
    }
    std::error_code ec = make_error_code(errc::corrupt);
    f.pwrite(0, gather, ec);
    EXPECT_FALSE(ec);
    EXPECT_EQ(this->all(f), expected) << count << " buffers";
  }
}

TYPED_TEST(file_contract, empty_buffers_do_not_matter_wherever_they_stand) {
  for (const std::size_t empties : std::initializer_list<std::size_t>{1u, 63u, 64u, 65u, 200u}) {
    auto f = this->open("f", open_mode::truncate);
    std::vector<bytes_view> gather;
    const auto add_empties = [&] { gather.insert(gather.end(), empties, bytes_view()); };
    add_empties();
    gather.push_back(as_bytes("one "));
    add_empties();
    gather.push_back(as_bytes("two"));
    add_empties();
    std::error_code ec = make_error_code(errc::corrupt);
    f.pwrite(0, gather, ec);
    EXPECT_FALSE(ec) << ec.message();
    EXPECT_EQ(this->all(f), "one two") << empties << " empty buffers";
  }
}

TYPED_TEST(file_contract, writing_nothing_is_no_error_and_no_change) {
  auto f = this->open("f");
  std::error_code ec = make_error_code(errc::corrupt);
  f.pwrite(100, {}, ec);
  EXPECT_FALSE(ec);
  EXPECT_FALSE(this->write(f, 100, ""));
  EXPECT_EQ(this->size(f), 0u);
}

TYPED_TEST(file_contract, a_file_opened_for_reading_is_not_changed) {
  this->put("f", "content");
  auto f = this->open("f", open_mode::read);
  EXPECT_EQ(this->write(f, 0, "x"), std::errc::bad_file_descriptor);
  std::error_code ec;
  f.truncate(0, ec);
  EXPECT_EQ(ec, std::errc::invalid_argument);
  f.allocate(0, 4096, ec);
  EXPECT_EQ(ec, std::errc::bad_file_descriptor);
  EXPECT_EQ(this->all(f), "content");
}

// --- truncate, allocate, size ---

TYPED_TEST(file_contract, truncate_cuts_and_extends_with_zeros) {
  auto f = this->open("f");
  EXPECT_FALSE(this->write(f, 0, "0123456789"));
  std::error_code ec = make_error_code(errc::corrupt);
  f.truncate(4, ec);
  EXPECT_FALSE(ec);
  EXPECT_EQ(this->all(f), "0123");
  f.truncate(10'000, ec);
  EXPECT_FALSE(ec);
  EXPECT_EQ(this->all(f), "0123" + std::string(9'996, '\0'));
}

TYPED_TEST(file_contract, what_was_cut_off_does_not_come_back) {
  auto f = this->open("f");
  EXPECT_FALSE(this->write(f, 0, std::string(20'000, 'x')));
  std::error_code ec;
  f.truncate(100, ec);
  EXPECT_FALSE(this->write(f, 20'000, "y"));
  EXPECT_EQ(this->all(f), std::string(100, 'x') + std::string(19'900, '\0') + "y");
}

TYPED_TEST(file_contract, allocate_changes_neither_size_nor_bytes) {
  auto f = this->open("f");
  EXPECT_FALSE(this->write(f, 0, "content"));
  std::error_code ec = make_error_code(errc::corrupt);
  f.allocate(0, 1 << 20, ec);
  if (ec == std::errc::not_supported) GTEST_SKIP() << "this file system does not allocate";
  EXPECT_FALSE(ec);
  EXPECT_EQ(this->all(f), "content");
  EXPECT_FALSE(this->write(f, 500'000, "x"));
  EXPECT_EQ(this->size(f), 500'001u);
}

TYPED_TEST(file_contract, allocating_nothing_is_an_error) {
  auto f = this->open("f");
  std::error_code ec;
  f.allocate(0, 0, ec);
  EXPECT_TRUE(ec);
}

// --- map ---

TYPED_TEST(file_contract, a_map_shows_the_bytes_at_any_offset) {
  auto f = this->open("f");
  std::string content;
  for (int i = 0; content.size() < 20'000; ++i) content += std::to_string(i) + ",";
  EXPECT_FALSE(this->write(f, 0, content));
  for (const std::size_t offset : std::initializer_list<std::size_t>{0u, 1u, 4095u, 4096u, 4097u, 10'000u, 19'999u}) {
    for (const std::size_t length :
         std::initializer_list<std::size_t>{std::size_t{1}, std::size_t{5000}, content.size() - offset}) {
      if (offset + length > content.size()) continue;
      std::error_code ec = make_error_code(errc::corrupt);
      const auto mapped = f.map(offset, length, ec);
      ASSERT_FALSE(ec);
      EXPECT_EQ(as_text(mapped.bytes()), std::string_view(content).substr(offset, length)) << offset;
    }
  }
}

TYPED_TEST(file_contract, a_map_of_nothing_is_empty) {
  auto f = this->open("f");
  std::error_code ec = make_error_code(errc::corrupt);
  const auto mapped = f.map(0, 0, ec);
  EXPECT_FALSE(ec);
  EXPECT_TRUE(mapped.bytes().empty());
  EXPECT_TRUE(typename TestFixture::env_type::mapping().bytes().empty());
}

TYPED_TEST(file_contract, a_map_sees_later_writes) {
  auto f = this->open("f");
  EXPECT_FALSE(this->write(f, 0, std::string(10'000, 'a')));
  std::error_code ec;
  const auto mapped = f.map(5, 9'000, ec);
  EXPECT_FALSE(this->write(f, 4'000, "later"));
  EXPECT_EQ(as_text(mapped.bytes().subspan(3'995, 5)), "later");
  EXPECT_FALSE(this->write(f, 1'000'000, "the file grows"));
  EXPECT_EQ(as_text(mapped.bytes().subspan(3'995, 5)), "later");
}

TYPED_TEST(file_contract, a_map_outlives_its_handle_and_its_name) {
  std::optional<typename TestFixture::file> f(this->open("f"));
  EXPECT_FALSE(this->write(*f, 0, "content"));
  std::error_code ec;
  const auto mapped = f->map(0, 7, ec);
  f.reset();
  this->env.remove(this->at("f"), ec);
  EXPECT_FALSE(ec);
  EXPECT_EQ(as_text(mapped.bytes()), "content");
}

TYPED_TEST(file_contract, a_moved_map_keeps_its_address) {
  auto f = this->open("f");
  EXPECT_FALSE(this->write(f, 0, "content and more"));
  std::error_code ec;
  auto first = f.map(0, 7, ec);
  const std::byte* const address = first.bytes().data();
  auto second = std::move(first);
  EXPECT_TRUE(first.bytes().empty());  // NOLINT(bugprone-use-after-move)
  EXPECT_EQ(second.bytes().data(), address);
  auto third = f.map(8, 3, ec);
  third = std::move(second);
  EXPECT_EQ(as_text(third.bytes()), "content");
}

// --- sync ---

TYPED_TEST(file_contract, syncs_on_either_thread_report_success) {
  for (const auto where : {sync_on::caller, sync_on::disk_thread}) {
    auto f = this->open("f");
    EXPECT_FALSE(this->write(f, 0, "content"));
    EXPECT_EQ(run(this->world.io, f.datasync(where)), std::error_code());
    const std::array<bytes_view, 2> gather = {as_bytes("new "), as_bytes("content")};
    EXPECT_EQ(run(this->world.io, f.pwrite_datasync(3, gather, where)), std::error_code());
    EXPECT_EQ(this->all(f), "connew content");
    EXPECT_EQ(run(this->world.io, this->env.sync_directory(this->at(""), where)), std::error_code());
  }
}

TYPED_TEST(file_contract, a_write_that_fails_is_not_synced) {
  this->put("f", "content");
  const std::array<bytes_view, 1> gather = {as_bytes("x")};
  for (const auto where : {sync_on::caller, sync_on::disk_thread}) {
    auto f = this->open("f", open_mode::read);
    EXPECT_EQ(run(this->world.io, f.pwrite_datasync(0, gather, where)), std::errc::bad_file_descriptor);
  }
}

TYPED_TEST(file_contract, a_missing_directory_is_not_synced) {
  for (const auto where : {sync_on::caller, sync_on::disk_thread}) {
    EXPECT_EQ(run(this->world.io, this->env.sync_directory(this->at("missing"), where)),
              std::errc::no_such_file_or_directory);
  }
  this->put("f", "");
  EXPECT_EQ(run(this->world.io, this->env.sync_directory(this->at("f"), sync_on::caller)), std::errc::not_a_directory);
}

// --- names ---

TYPED_TEST(file_contract, list_gives_names_and_no_paths) {
  this->put("a", "");
  this->put("b", "");
  this->make_directory("d");
  this->put("d/inner", "");
  EXPECT_EQ(this->list(), (std::vector<std::string>{"a", "b", "d"}));
  EXPECT_EQ(this->list("d"), std::vector<std::string>{"inner"});
}

TYPED_TEST(file_contract, only_a_directory_that_exists_is_listed) {
  std::error_code ec;
  EXPECT_TRUE(this->env.list(this->at("missing"), ec).empty());
  EXPECT_EQ(ec, std::errc::no_such_file_or_directory);
  this->put("f", "");
  EXPECT_TRUE(this->env.list(this->at("f"), ec).empty());
  EXPECT_EQ(ec, std::errc::not_a_directory);
}

TYPED_TEST(file_contract, rename_moves_the_content) {
  this->put("old", "content");
  std::error_code ec = make_error_code(errc::corrupt);
  this->env.rename(this->at("old"), this->at("new"), ec);
  EXPECT_FALSE(ec);
  EXPECT_EQ(this->list(), std::vector<std::string>{"new"});
  EXPECT_EQ(this->content("new"), "content");
}

TYPED_TEST(file_contract, rename_replaces_a_file_that_is_there) {
  this->put("old", "old content");
  this->put("new", "new content");
  std::error_code ec = make_error_code(errc::corrupt);
  this->env.rename(this->at("new"), this->at("old"), ec);
  EXPECT_FALSE(ec);
  EXPECT_EQ(this->list(), std::vector<std::string>{"old"});
  EXPECT_EQ(this->content("old"), "new content");
}

TYPED_TEST(file_contract, rename_to_its_own_name_changes_nothing) {
  this->put("f", "content");
  std::error_code ec = make_error_code(errc::corrupt);
  this->env.rename(this->at("f"), this->at("f"), ec);
  EXPECT_FALSE(ec);
  EXPECT_EQ(this->content("f"), "content");
}

TYPED_TEST(file_contract, rename_moves_between_directories_and_moves_directories) {
  this->make_directory("d");
  this->make_directory("e");
  this->put("d/f", "content");
  std::error_code ec;
  this->env.rename(this->at("d/f"), this->at("e/g"), ec);
  EXPECT_FALSE(ec);
  EXPECT_TRUE(this->list("d").empty());
  this->env.rename(this->at("e"), this->at("d"), ec);  // d is empty, and may be replaced
  EXPECT_FALSE(ec);
  EXPECT_EQ(this->content("d/g"), "content");
}

TYPED_TEST(file_contract, rename_that_cannot_be_is_an_error_and_changes_nothing) {
  this->put("f", "content");
  this->make_directory("d");
  this->put("d/inner", "");
  this->make_directory("e");
  const auto rename_error = [this](const std::string& from, const std::string& to) {
    std::error_code ec;
    this->env.rename(this->at(from), this->at(to), ec);
    return ec;
  };
  EXPECT_EQ(rename_error("missing", "x"), std::errc::no_such_file_or_directory);
  EXPECT_EQ(rename_error("f", "missing/x"), std::errc::no_such_file_or_directory);
  EXPECT_EQ(rename_error("f", "d"), std::errc::is_a_directory);
  EXPECT_EQ(rename_error("d", "f"), std::errc::not_a_directory);
  EXPECT_EQ(rename_error("e", "d"), std::errc::directory_not_empty);
  EXPECT_EQ(this->list(), (std::vector<std::string>{"d", "e", "f"}));
  EXPECT_EQ(this->content("f"), "content");
}

TYPED_TEST(file_contract, a_replaced_file_stays_readable_to_who_has_it_open) {
  this->put("old", "old content");
  this->put("new", "new content");
  const auto open_old = this->open("old", open_mode::read);
  std::error_code ec;
  this->env.rename(this->at("new"), this->at("old"), ec);
  EXPECT_EQ(this->all(open_old), "old content");
}

TYPED_TEST(file_contract, remove_takes_the_name_and_not_the_open_file) {
  auto f = this->open("f");
  EXPECT_FALSE(this->write(f, 0, "content"));
  std::error_code ec = make_error_code(errc::corrupt);
  this->env.remove(this->at("f"), ec);
  EXPECT_FALSE(ec);
  EXPECT_TRUE(this->list().empty());
  EXPECT_FALSE(this->write(f, 7, "!"));
  EXPECT_EQ(this->all(f), "content!");
  this->put("f", "another");
  EXPECT_EQ(this->all(f), "content!");
}

TYPED_TEST(file_contract, remove_takes_empty_directories_only) {
  this->make_directory("d");
  this->put("d/f", "");
  std::error_code ec;
  this->env.remove(this->at("d"), ec);
  EXPECT_EQ(ec, std::errc::directory_not_empty);
  this->env.remove(this->at("d/f"), ec);
  EXPECT_FALSE(ec);
  this->env.remove(this->at("d"), ec);
  EXPECT_FALSE(ec);
  EXPECT_TRUE(this->list().empty());
  this->env.remove(this->at("d"), ec);
  EXPECT_EQ(ec, std::errc::no_such_file_or_directory);
}

TYPED_TEST(file_contract, a_directory_that_exists_is_created_without_an_error) {
  this->make_directory("d");
  this->put("d/f", "content");
  this->make_directory("d");
  EXPECT_EQ(this->content("d/f"), "content");
}

TYPED_TEST(file_contract, a_directory_is_not_created_over_a_file_or_without_its_parent) {
  this->put("f", "content");
  std::error_code ec;
  this->env.create_directory(this->at("f"), ec);
  EXPECT_TRUE(ec);
  EXPECT_EQ(this->content("f"), "content");
  this->env.create_directory(this->at("missing/d"), ec);
  EXPECT_EQ(ec, std::errc::no_such_file_or_directory);
}

// --- lock ---

TYPED_TEST(file_contract, a_lock_is_held_until_its_end) {
  std::error_code ec = make_error_code(errc::corrupt);
  {
    const auto first = this->env.lock(this->at("lock"), ec);
    EXPECT_FALSE(ec);
    EXPECT_TRUE(first.held());
    const auto second = this->env.lock(this->at("lock"), ec);
    EXPECT_EQ(ec, errc::log_locked);
    EXPECT_FALSE(second.held());
    EXPECT_NE(first.holder_pid(), 0);
    EXPECT_EQ(second.holder_pid(), first.holder_pid());
  }
  const auto third = this->env.lock(this->at("lock"), ec);
  EXPECT_FALSE(ec);
  EXPECT_TRUE(third.held());
}

TYPED_TEST(file_contract, the_lock_file_holds_the_pid) {
  std::error_code ec;
  const auto lock = this->env.lock(this->at("lock"), ec);
  EXPECT_EQ(this->content("lock"), std::to_string(lock.holder_pid()) + "\n");
}

TYPED_TEST(file_contract, a_longer_old_pid_is_not_left_behind) {
  this->put("lock", "99999999999999999\n");
  std::error_code ec;
  const auto lock = this->env.lock(this->at("lock"), ec);
  EXPECT_EQ(this->content("lock"), std::to_string(lock.holder_pid()) + "\n");
}

TYPED_TEST(file_contract, a_moved_lock_is_held_by_its_new_owner) {
  std::error_code ec;
  auto first = this->env.lock(this->at("a"), ec);
  auto second = std::move(first);
  EXPECT_FALSE(first.held());  // NOLINT(bugprone-use-after-move)
  EXPECT_TRUE(second.held());
  (void)this->env.lock(this->at("a"), ec);
  EXPECT_EQ(ec, errc::log_locked);
  second = this->env.lock(this->at("b"), ec);
  EXPECT_FALSE(ec);
  const auto again = this->env.lock(this->at("a"), ec);
  EXPECT_FALSE(ec);
}

TYPED_TEST(file_contract, a_lock_without_its_directory_is_an_error) {
  std::error_code ec;
  const auto lock = this->env.lock(this->at("missing/lock"), ec);
  EXPECT_EQ(ec, std::errc::no_such_file_or_directory);
  EXPECT_FALSE(lock.held());
  EXPECT_EQ(lock.holder_pid(), 0);
}

TYPED_TEST(file_contract, different_files_are_locked_independently) {
  std::error_code ec;
  const auto a = this->env.lock(this->at("a"), ec);
  EXPECT_FALSE(ec);
  const auto b = this->env.lock(this->at("b"), ec);
  EXPECT_FALSE(ec);
}

}  // namespace
}  // namespace lockstep
