#include "lockstep/env/posix_file.hpp"

#include "lockstep/env/real.hpp"

#include "support/run.hpp"
#include "support/temporary_directory.hpp"

#include <gtest/gtest.h>
#include <asio/io_context.hpp>

#include <dlfcn.h>
#include <sys/mount.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <fstream>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

// What env/file_contract.cpp cannot ask of every environment: threads, processes, and errors of real disks.

namespace {

// Called in place of each fdatasync; set before the sync is asked for. @return an errno value, or 0 to go on.
std::function<int(int fd)>& instead_of_fdatasync() {
  static std::function<int(int)> instance;
  return instance;
}

}  // namespace

// The test program's own, found before the C library's.
extern "C" int fdatasync(int fd) {
  if (instead_of_fdatasync()) {
    if (const int error = instead_of_fdatasync()(fd)) {
      errno = error;
      return -1;
    }
  }
  return reinterpret_cast<int (*)(int)>(::dlsym(RTLD_NEXT, "fdatasync"))(fd);
}

namespace lockstep::real {
namespace {

using test::run;
using test::start;

// A gate for a disk thread: it stands there until the test opens it.
class gate {
 public:
  void pass() {
    reached_ = true;
    reached_.notify_all();
    open_.wait(false);
  }
  void wait_until_reached() { reached_.wait(false); }
  void open() {
    open_ = true;
    open_.notify_all();
  }

 private:
  std::atomic<bool> reached_ = false;
  std::atomic<bool> open_ = false;
};

struct posix_file_test : testing::Test {
  test::temporary_directory directory;
  asio::io_context io;
  std::optional<env> world{std::in_place, io.get_executor()};

  ~posix_file_test() override {
    world.reset();
    instead_of_fdatasync() = nullptr;
  }

  file open(const std::string& path, open_mode mode = open_mode::create) {
    std::error_code ec;
    file opened = world->open(path, mode, ec);
    if (ec) throw std::system_error(ec, "open " + path);
    return opened;
  }
  file open_new() { return open(directory.file("f"), open_mode::truncate); }
};

std::error_code write(file& to, std::string_view text) {
  const std::array<bytes_view, 1> gather = {as_bytes(text)};
  std::error_code ec;
  to.pwrite(0, gather, ec);
  return ec;
}

std::string content_of(const std::string& path) {
  std::ifstream from(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(from), {}};
}

// --- disk threads ---

using on_disk_thread = posix_file_test;

TEST_F(on_disk_thread, the_sync_runs_elsewhere_and_the_coroutine_resumes_here) {
  std::optional<std::thread::id> synced_on;
  instead_of_fdatasync() = [&](int) { return synced_on = std::this_thread::get_id(), 0; };
  file f = open_new();
  std::optional<std::thread::id> resumed_on;
  const auto sync = [](file& synced, std::optional<std::thread::id>& on) -> awaitable<std::error_code> {
    const std::error_code ec = co_await synced.datasync(sync_on::disk_thread);
    on = std::this_thread::get_id();
    co_return ec;
  };
  EXPECT_EQ(run(io, sync(f, resumed_on)), std::error_code());
  ASSERT_TRUE(synced_on);
  EXPECT_NE(synced_on, std::this_thread::get_id());
  EXPECT_EQ(resumed_on, std::this_thread::get_id());
}

TEST_F(on_disk_thread, the_node_goes_on_meanwhile) {
  gate disk;
  instead_of_fdatasync() = [&](int) { return disk.pass(), 0; };
  file f = open_new();
  auto syncing = start(io, f.datasync(sync_on::disk_thread));
  test::poll(io);
  disk.wait_until_reached();
  bool went_on = false;
  asio::post(io, [&] { went_on = true; });
  test::poll(io);
  EXPECT_TRUE(went_on);
  EXPECT_FALSE(syncing.done());
  disk.open();
  ASSERT_TRUE(test::run_until(io, [&] { return syncing.done(); }));
  EXPECT_EQ(syncing.result(), std::error_code());
}

TEST_F(on_disk_thread, the_io_context_does_not_run_out_of_work_before_the_sync_ends) {
  gate disk;
  instead_of_fdatasync() = [&](int) { return disk.pass(), 0; };
  file f = open_new();
  auto syncing = start(io, f.datasync(sync_on::disk_thread));
  std::thread opener([&] {
    disk.wait_until_reached();
    disk.open();
  });
  io.run();
  EXPECT_TRUE(syncing.done());
  opener.join();
}

TEST_F(on_disk_thread, a_sync_is_not_cancelled) {
  gate disk;
  instead_of_fdatasync() = [&](int) { return disk.pass(), 0; };
  file f = open_new();
  auto syncing = start(io, f.datasync(sync_on::disk_thread));
  test::poll(io);
  disk.wait_until_reached();
  syncing.cancel();
  test::poll(io);
  EXPECT_FALSE(syncing.done());
  disk.open();
  ASSERT_TRUE(test::run_until(io, [&] { return syncing.done(); }));
  EXPECT_EQ(syncing.result(), std::error_code());
}

TEST_F(on_disk_thread, a_failed_sync_is_reported) {
  instead_of_fdatasync() = [](int) { return EIO; };
  file f = open_new();
  EXPECT_EQ(run(io, f.datasync(sync_on::disk_thread)), std::errc::io_error);
  EXPECT_EQ(run(io, f.datasync(sync_on::caller)), std::errc::io_error);
}

TEST_F(on_disk_thread, pwrite_datasync_writes_before_it_syncs) {
  std::string synced;
  instead_of_fdatasync() = [&](int) { return synced = content_of(directory.file("f")), 0; };
  for (const auto where : {sync_on::disk_thread, sync_on::caller}) {
    file f = open_new();
    synced.clear();
    const std::array<bytes_view, 1> gather = {as_bytes("content")};
    EXPECT_EQ(run(io, f.pwrite_datasync(0, gather, where)), std::error_code());
    EXPECT_EQ(synced, "content");
  }
}

TEST_F(on_disk_thread, pwrite_datasync_reports_either_failure) {
  file f = open_new();
  const std::array<bytes_view, 1> gather = {as_bytes("content")};
  instead_of_fdatasync() = [](int) { return EIO; };
  EXPECT_EQ(run(io, f.pwrite_datasync(0, gather, sync_on::disk_thread)), std::errc::io_error);
  bool synced = false;
  instead_of_fdatasync() = [&](int) { return synced = true, 0; };
  file read_only = open(directory.file("f"), open_mode::read);
  EXPECT_EQ(run(io, read_only.pwrite_datasync(0, gather, sync_on::disk_thread)), std::errc::bad_file_descriptor);
  EXPECT_FALSE(synced);
}

TEST_F(on_disk_thread, syncs_of_several_files_end_in_their_order_on_one_thread) {
  std::vector<int> order;
  const auto sync = [](file& synced, int number, std::vector<int>& into) -> awaitable<void> {
    (void)co_await synced.datasync(sync_on::disk_thread);
    into.push_back(number);
  };
  std::vector<file> files;
  for (int i = 0; i < 5; ++i) files.push_back(open(directory.file(std::to_string(i))));
  std::vector<test::started<void>> syncing;
  for (int i = 0; i < 5; ++i) syncing.push_back(start(io, sync(files[static_cast<std::size_t>(i)], i, order)));
  ASSERT_TRUE(test::run_until(io, [&] { return order.size() == 5; }));
  EXPECT_EQ(order, (std::vector<int>{0, 1, 2, 3, 4}));
}

TEST_F(on_disk_thread, destroying_the_env_waits_for_what_runs_there) {
  gate disk;
  std::atomic<bool> synced = false;
  instead_of_fdatasync() = [&](int) { return disk.pass(), synced = true, 0; };
  file f = open_new();
  auto syncing = start(io, f.datasync(sync_on::disk_thread));
  test::poll(io);
  disk.wait_until_reached();
  std::thread opener([&] { disk.open(); });
  world.reset();
  EXPECT_TRUE(synced);
  opener.join();
  ASSERT_TRUE(test::run_until(io, [&] { return syncing.done(); }));
  EXPECT_EQ(syncing.result(), std::error_code());
}

class frame_mark {
 public:
  explicit frame_mark(bool& destroyed) : destroyed_(destroyed) {}
  frame_mark(const frame_mark&) = delete;
  frame_mark& operator=(const frame_mark&) = delete;
  ~frame_mark() { destroyed_ = true; }

 private:
  bool& destroyed_;
};

awaitable<void> sync_in_marked_frame(file synced, bool& destroyed) {
  const frame_mark mark(destroyed);
  (void)co_await synced.datasync(sync_on::disk_thread);
}

TEST(on_disk_thread_end, a_coroutine_whose_sync_came_back_too_late_ends_with_the_io_context) {
  const test::temporary_directory directory;
  bool destroyed = false;
  {
    asio::io_context io;
    {
      env world(io.get_executor());
      std::error_code ec;
      file synced = world.open(directory.file("f"), open_mode::create, ec);
      start(io, sync_in_marked_frame(std::move(synced), destroyed));
      test::poll(io);
    }
    EXPECT_FALSE(destroyed);
  }
  EXPECT_TRUE(destroyed);
}

using on_callers_thread = posix_file_test;

TEST_F(on_callers_thread, the_sync_runs_at_once_and_here) {
  std::optional<std::thread::id> synced_on;
  instead_of_fdatasync() = [&](int) { return synced_on = std::this_thread::get_id(), 0; };
  file f = open_new();
  auto syncing = start(io, f.datasync(sync_on::caller));
  io.poll_one();
  EXPECT_TRUE(syncing.done());
  EXPECT_EQ(synced_on, std::this_thread::get_id());
}

// --- errors of real disks ---

using disk_errors = posix_file_test;

TEST_F(disk_errors, a_full_device_fails_the_write) {
  file full = open("/dev/full", open_mode::read_write);
  EXPECT_EQ(write(full, "content"), std::errc::no_space_on_device);
  const std::array<bytes_view, 1> gather = {as_bytes("content")};
  EXPECT_EQ(run(io, full.pwrite_datasync(0, gather, sync_on::disk_thread)), std::errc::no_space_on_device);
}

// A file system of `size` bytes at a directory, while it lives.
class tiny_file_system {
 public:
  tiny_file_system(std::string at, std::size_t size) : at_(std::move(at)) {
    const std::string options = "size=" + std::to_string(size);
    error_ = ::mount("tmpfs", at_.c_str(), "tmpfs", 0, options.c_str()) == 0 ? 0 : errno;
  }
  tiny_file_system(const tiny_file_system&) = delete;
  tiny_file_system& operator=(const tiny_file_system&) = delete;
  ~tiny_file_system() {
    if (error_ == 0) ::umount2(at_.c_str(), MNT_DETACH);
  }
  [[nodiscard]] int error() const { return error_; }

 private:
  std::string at_;
  int error_ = 0;
};

TEST_F(disk_errors, a_full_file_system_fails_writes_and_allocations_and_stays_readable) {
  const tiny_file_system tiny(directory.path(), 64 * 1024);
  if (tiny.error() != 0) GTEST_SKIP() << "cannot mount a tmpfs: " << std::generic_category().message(tiny.error());
  file f = open_new();
  EXPECT_FALSE(write(f, "content"));
  EXPECT_EQ(write(f, std::string(100 * 1024, 'x')), std::errc::no_space_on_device);
  std::error_code ec;
  f.truncate(7, ec);
  EXPECT_FALSE(ec);
  f.allocate(0, 100 * 1024, ec);
  EXPECT_EQ(ec, std::errc::no_space_on_device);
  f.allocate(0, 32 * 1024, ec);
  EXPECT_FALSE(ec);

  // What one file has allocated another cannot take.
  file other = open(directory.file("other"));
  EXPECT_EQ(write(other, std::string(60 * 1024, 'x')), std::errc::no_space_on_device);
  EXPECT_FALSE(write(f, std::string(32 * 1024, 'y')));
}

TEST_F(disk_errors, a_file_system_that_cannot_allocate_says_so) {
  file f = open("/dev/null", open_mode::read_write);
  std::error_code ec;
  f.allocate(0, 4096, ec);
  EXPECT_TRUE(ec);
  // proc is a file system without the call.
  file unsupported = open("/proc/self/comm", open_mode::read_write);
  unsupported.allocate(0, 4096, ec);
  EXPECT_EQ(ec, std::errc::not_supported);
}

TEST_F(disk_errors, permissions_are_asked) {
  if (::geteuid() == 0) GTEST_SKIP() << "root may do everything";
  open_new();
  ASSERT_EQ(::chmod(directory.file("f").c_str(), 0444), 0);
  std::error_code ec;
  (void)world->open(directory.file("f"), open_mode::read_write, ec);
  EXPECT_EQ(ec, std::errc::permission_denied);
}

TEST_F(disk_errors, a_file_is_not_left_open_to_programs_that_are_started) {
  file f = open_new();
  std::error_code ec;
  const auto lock = world->lock(directory.file("lock"), ec);
  for (const auto& entry : std::filesystem::directory_iterator("/proc/self/fd")) {
    const std::string target = std::filesystem::read_symlink(entry, ec).string();
    if (target.rfind(directory.path(), 0) != 0) continue;
    const int flags = ::fcntl(std::stoi(entry.path().filename().string()), F_GETFD);
    EXPECT_TRUE(flags & FD_CLOEXEC) << target;
  }
}

TEST_F(disk_errors, a_default_file_fails_every_call) {
  file closed;
  std::error_code ec;
  std::array<std::byte, 1> byte{};
  EXPECT_EQ(closed.pread(0, byte, ec), 0u);
  EXPECT_EQ(ec, std::errc::bad_file_descriptor);
  EXPECT_EQ(write(closed, "x"), std::errc::bad_file_descriptor);
  EXPECT_EQ(closed.size(ec), 0u);
  EXPECT_EQ(ec, std::errc::bad_file_descriptor);
  (void)closed.map(0, 1, ec);
  EXPECT_EQ(ec, std::errc::bad_file_descriptor);
}

// --- locks between processes ---

using locks = posix_file_test;

// A process that holds the lock until it is let go.
class holder {
 public:
  explicit holder(const std::string& path) {
    std::array<int, 2> up{}, down{};
    if (::pipe(up.data()) != 0 || ::pipe(down.data()) != 0) throw std::system_error(errno, std::system_category());
    pid_ = ::fork();
    if (pid_ == 0) {
      std::error_code ec;
      const auto lock = file_lock::acquire(path, ec);
      const char answer = ec ? '-' : '+';
      (void)!::write(up[1], &answer, 1);
      ::close(down[1]);
      char end = 0;
      (void)!::read(down[0], &end, 1);
      ::_exit(0);
    }
    ::close(up[1]);
    ::close(down[0]);
    let_go_ = detail::descriptor(down[1]);
    const detail::descriptor answers(up[0]);
    char answer = 0;
    if (::read(answers.get(), &answer, 1) != 1 || answer != '+') throw std::runtime_error("the child has no lock");
  }
  holder(const holder&) = delete;
  holder& operator=(const holder&) = delete;
  ~holder() { end(); }
  [[nodiscard]] long pid() const { return pid_; }
  void end() {
    let_go_.reset();
    if (pid_ > 0) ::waitpid(std::exchange(pid_, -1), nullptr, 0);
  }
  void kill() {
    ::kill(pid_, SIGKILL);
    end();
  }

 private:
  pid_t pid_ = -1;
  detail::descriptor let_go_;
};

TEST_F(locks, a_lock_of_another_process_names_its_pid) {
  holder other(directory.file("lock"));
  std::error_code ec;
  const auto refused = world->lock(directory.file("lock"), ec);
  EXPECT_EQ(ec, errc::log_locked);
  EXPECT_FALSE(refused.held());
  EXPECT_EQ(refused.holder_pid(), other.pid());
}

TEST_F(locks, a_lock_ends_with_its_process_also_when_it_is_killed) {
  holder other(directory.file("lock"));
  other.kill();
  std::error_code ec;
  const auto lock = world->lock(directory.file("lock"), ec);
  EXPECT_FALSE(ec);
  EXPECT_EQ(lock.holder_pid(), ::getpid());
}

TEST_F(locks, a_lock_file_without_a_pid_is_held_by_nobody_known) {
  std::error_code ec;
  const auto lock = world->lock(directory.file("lock"), ec);
  std::ofstream(directory.file("lock"), std::ios::trunc) << "";
  const auto refused = world->lock(directory.file("lock"), ec);
  EXPECT_EQ(ec, errc::log_locked);
  EXPECT_EQ(refused.holder_pid(), 0);
}

}  // namespace
}  // namespace lockstep::real
