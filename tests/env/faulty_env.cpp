#include "support/faulty_env.hpp"

#include "support/run.hpp"

#include <gtest/gtest.h>
#include <asio/io_context.hpp>
#include <asio/read.hpp>
#include <asio/write.hpp>

#include <array>
#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace lockstep::test {
namespace {

using namespace std::chrono_literals;

struct faulty_env_test : testing::Test {
  faulty_disk disk;
  asio::io_context io;
  faulty_env env{io.get_executor(), disk};

  faulty_env::file open(const std::string& path) {
    std::error_code ec;
    auto opened = env.open(path, open_mode::create, ec);
    if (ec) throw std::system_error(ec, "open " + path);
    return opened;
  }
};

// --- syncs on a disk thread ---

struct syncs : faulty_env_test {
  syncs() { disk.replace("/f", {}); }
  faulty_env::file f = open("/f");
  const std::string text = "content";
  const std::array<bytes_view, 1> gather = {as_bytes(text)};
};

awaitable<void> look_on(faulty_disk& disk, const bool& stop, std::vector<std::string>& seen) {
  while (!stop) {
    const std::string now = std::to_string(disk.operations()) + " operations, " +
                            (disk.is_durable("/f", 0, as_bytes("content")) ? "durable" : "not durable");
    if (seen.empty() || seen.back() != now) seen.push_back(now);
    co_await asio::post(use_awaitable);
  }
}

awaitable<std::error_code> then(awaitable<std::error_code> sync, bool& stop) {
  const std::error_code ec = co_await std::move(sync);
  stop = true;
  co_return ec;
}

TEST_F(syncs, let_other_coroutines_run_before_them_and_while_they_last) {
  std::vector<std::string> seen;
  bool stop = false;
  const std::uint64_t before = disk.operations();
  auto looking = start(io, look_on(disk, stop, seen));
  EXPECT_EQ(run(io, then(f.pwrite_datasync(0, gather, sync_on::disk_thread), stop)), std::error_code());
  EXPECT_EQ(seen, (std::vector<std::string>{std::to_string(before) + " operations, not durable",
                                            std::to_string(before + 2) + " operations, not durable"}));
  EXPECT_TRUE(disk.is_durable("/f", 0, as_bytes("content")));
}

TEST_F(syncs, on_the_callers_thread_end_without_a_suspension) {
  auto syncing = start(io, f.pwrite_datasync(0, gather, sync_on::caller));
  io.poll_one();
  EXPECT_TRUE(syncing.done());
  EXPECT_TRUE(disk.is_durable("/f", 0, as_bytes("content")));
}

TEST_F(syncs, on_the_callers_thread_are_never_held) {
  disk.hold_syncs();
  EXPECT_EQ(run(io, f.pwrite_datasync(0, gather, sync_on::caller)), std::error_code());
}

TEST_F(syncs, can_be_held_between_the_write_and_its_durability) {
  disk.hold_syncs();
  auto syncing = start(io, f.pwrite_datasync(0, gather, sync_on::disk_thread));
  EXPECT_EQ(disk.held_syncs(), 0u);
  poll(io);
  EXPECT_EQ(disk.held_syncs(), 1u);
  EXPECT_FALSE(syncing.done());
  EXPECT_EQ(disk.operations(op_kind::datasync), 1u);
  EXPECT_EQ(as_text(*disk.bytes("/f")), "content");
  EXPECT_FALSE(disk.is_durable("/f", 0, as_bytes("content")));
  disk.release_syncs();
  EXPECT_FALSE(syncing.done());
  poll(io);
  EXPECT_EQ(syncing.result(), std::error_code());
  EXPECT_TRUE(disk.is_durable("/f", 0, as_bytes("content")));
}

TEST_F(syncs, held_of_directories_too) {
  open("/new");
  disk.hold_syncs();
  auto syncing = start(io, env.sync_directory("/", sync_on::disk_thread));
  poll(io);
  EXPECT_FALSE(disk.exists("/new", view::durable));
  open("/newer");
  disk.release_syncs();
  poll(io);
  EXPECT_EQ(syncing.result(), std::error_code());
  EXPECT_TRUE(disk.exists("/new", view::durable));
  EXPECT_FALSE(disk.exists("/newer", view::durable));
}

TEST_F(syncs, after_the_release_are_not_held) {
  disk.hold_syncs();
  disk.release_syncs();
  EXPECT_EQ(run(io, f.datasync(sync_on::disk_thread)), std::error_code());
}

awaitable<void> note(awaitable<std::error_code> sync, int id, std::vector<int>& order) {
  (void)co_await std::move(sync);
  order.push_back(id);
}

TEST_F(syncs, are_released_in_the_order_in_which_they_began) {
  disk.hold_syncs();
  std::vector<int> order;
  for (int id = 1; id <= 3; ++id) start(io, note(f.datasync(sync_on::disk_thread), id, order));
  poll(io);
  disk.release_syncs();
  poll(io);
  EXPECT_EQ(order, (std::vector<int>{1, 2, 3}));
}

TEST_F(syncs, are_not_cancelled) {
  disk.hold_syncs();
  auto syncing = start(io, f.datasync(sync_on::disk_thread));
  poll(io);
  syncing.cancel();
  poll(io);
  EXPECT_FALSE(syncing.done());
  disk.release_syncs();
  poll(io);
  EXPECT_EQ(syncing.result(), std::error_code());
}

TEST_F(syncs, keep_the_io_context_at_work_while_they_are_held) {
  disk.hold_syncs();
  auto syncing = start(io, f.datasync(sync_on::disk_thread));
  poll(io);
  EXPECT_FALSE(io.stopped());
  disk.release_syncs();
  poll(io);
  EXPECT_TRUE(io.stopped());
}

TEST_F(syncs, that_fail_fail_when_they_end) {
  disk.inject({.kinds = {op_kind::datasync}});
  disk.hold_syncs();
  auto syncing = start(io, f.pwrite_datasync(0, gather, sync_on::disk_thread));
  poll(io);
  EXPECT_FALSE(syncing.done());
  disk.release_syncs();
  poll(io);
  EXPECT_EQ(syncing.result(), std::errc::io_error);
}

TEST_F(syncs, are_not_begun_after_a_write_that_failed) {
  disk.inject({.kinds = {op_kind::pwrite}});
  EXPECT_EQ(run(io, f.pwrite_datasync(0, gather, sync_on::disk_thread)), std::errc::io_error);
  EXPECT_EQ(disk.operations(op_kind::datasync), 0u);
}

class frame_mark {
 public:
  explicit frame_mark(int& destroyed) : destroyed_(destroyed) {}
  frame_mark(const frame_mark&) = delete;
  frame_mark& operator=(const frame_mark&) = delete;
  ~frame_mark() { ++destroyed_; }

 private:
  int& destroyed_;
};

awaitable<void> sync_in_marked_frame(faulty_env& env, int& destroyed) {
  const frame_mark mark(destroyed);
  std::error_code ec;
  auto synced = env.open("/f", open_mode::create, ec);
  (void)co_await synced.datasync(sync_on::disk_thread);
}

TEST(faulty_env_end, a_program_that_dies_in_a_held_sync_leaves_nothing_behind) {
  faulty_disk disk;
  int destroyed = 0;
  {
    asio::io_context io;
    faulty_env env(io.get_executor(), disk);
    disk.hold_syncs();
    start(io, sync_in_marked_frame(env, destroyed));
    poll(io);
    EXPECT_EQ(disk.held_syncs(), 1u);
  }
  EXPECT_EQ(destroyed, 1);
  EXPECT_EQ(disk.held_syncs(), 0u);
}

TEST(faulty_env_end, a_program_that_dies_before_or_after_its_sync_leaves_nothing_behind) {
  for (int steps = 0; steps < 5; ++steps) {
    faulty_disk disk;
    int destroyed = 0;
    {
      asio::io_context io;
      faulty_env env(io.get_executor(), disk);
      start(io, sync_in_marked_frame(env, destroyed));
      for (int i = 0; i <= steps; ++i) io.poll_one();
    }
    EXPECT_EQ(destroyed, 1) << steps;
  }
}

TEST(faulty_env_end, the_held_syncs_of_another_program_stay) {
  faulty_disk disk;
  asio::io_context io;
  int destroyed = 0;
  faulty_env first(io.get_executor(), disk);
  disk.hold_syncs();
  auto syncing = start(io, sync_in_marked_frame(first, destroyed));
  {
    faulty_env second(io.get_executor(), disk);
    auto other = start(io, sync_in_marked_frame(second, destroyed));
    poll(io);
    EXPECT_EQ(disk.held_syncs(), 2u);
  }
  EXPECT_EQ(disk.held_syncs(), 1u);
  disk.release_syncs();
  poll(io);
  EXPECT_EQ(destroyed, 2);
}

TEST(faulty_env_end, files_and_maps_outlive_the_disk) {
  asio::io_context io;
  auto disk = std::make_unique<faulty_disk>();
  faulty_env env(io.get_executor(), *disk);
  disk->replace("/f", as_bytes("content"));
  std::error_code ec;
  auto f = env.open("/f", open_mode::read_write, ec);
  const auto mapped = f.map(0, 7, ec);
  disk.reset();
  EXPECT_EQ(as_text(mapped.bytes()), "content");
  EXPECT_EQ(f.size(ec), 7u);
}

// --- several programs on one disk ---

using programs = faulty_env_test;

TEST_F(programs, see_each_others_files_and_locks) {
  faulty_env other(io.get_executor(), disk);
  EXPECT_NE(env.pid(), other.pid());
  std::error_code ec;
  const auto lock = env.lock("/lock", ec);
  EXPECT_EQ(lock.holder_pid(), env.pid());
  const auto refused = other.lock("/lock", ec);
  EXPECT_EQ(ec, errc::log_locked);
  EXPECT_EQ(refused.holder_pid(), env.pid());
}

// --- clocks and chance ---

using clocks = faulty_env_test;

TEST_F(clocks, now_can_be_advanced) {
  const time_point before = env.now();
  env.advance(24h);
  EXPECT_GE(env.now() - before, 24h);
  EXPECT_LT(env.now() - before, 25h);
}

TEST_F(clocks, a_timer_set_after_an_advance_takes_its_time) {
  env.advance(24h);
  faulty_env::timer timer(env);
  timer.expires_at(env.now() + 1ms);
  EXPECT_EQ(run(io, timer.wait()), std::error_code());
  timer.expires_after(1ms);
  EXPECT_EQ(run(io, timer.wait()), std::error_code());
  timer.expires_after(1h);
  auto waiting = start(io, timer.wait());
  poll(io);
  timer.cancel();
  poll(io);
  EXPECT_EQ(waiting.result(), asio::error::operation_aborted);
}

TEST_F(clocks, the_calendar_can_be_moved_and_stopped) {
  const wall_time before = env.wall_now();
  env.advance_wall(48h);
  EXPECT_GE(env.wall_now() - before, 48h);
  env.advance_wall(-96h);
  EXPECT_LT(env.wall_now(), before);
  const wall_time stopped{1'000'000s};
  env.set_wall(stopped);
  EXPECT_EQ(env.wall_now(), stopped);
  env.advance_wall(1s);
  EXPECT_EQ(env.wall_now(), stopped + 1s);
}

TEST_F(clocks, chance_is_the_same_for_the_same_seed) {
  faulty_env one(io.get_executor(), disk), same(io.get_executor(), disk), other(io.get_executor(), disk, 2);
  const std::uint64_t drawn = one.random();
  EXPECT_EQ(same.random(), drawn);
  EXPECT_NE(other.random(), drawn);
}

// --- the real network ---

using network = faulty_env_test;

TEST_F(network, is_the_real_one) {
  std::error_code ec;
  auto listening = env.listen(address("127.0.0.1", 0), ec);
  ASSERT_FALSE(ec);
  auto client = run(io, env.connect(listening.local_address(), 20s));
  auto server = run(io, listening.accept());
  const std::string sent = "hello";
  run(io, asio::async_write(client, asio::buffer(sent), use_awaitable));
  std::string received(5, '\0');
  run(io, asio::async_read(server, asio::buffer(received), use_awaitable));
  EXPECT_EQ(received, sent);
}

// --- the helpers that run coroutines ---

awaitable<int> give(int value) { co_return value; }
awaitable<int> fail(std::error_code with) {
  throw std::system_error(with);
  co_return 0;
}
awaitable<void> never(faulty_env& env) {
  faulty_env::timer timer(env);
  timer.expires_after(1h);
  if (const std::error_code ec = co_await timer.wait()) throw std::system_error(ec);
}

using run_helper = faulty_env_test;

TEST_F(run_helper, returns_the_value_and_rethrows_the_exception) {
  EXPECT_EQ(run(io, give(7)), 7);
  EXPECT_EQ(error_of([&] { (void)run(io, fail(disk_error(EIO))); }), std::errc::io_error);
  EXPECT_EQ(error_of([] {}), std::error_code());
}

TEST_F(run_helper, a_hang_is_an_exception_that_names_the_test) {
  try {
    run(io, never(env), 1ms);
    FAIL();
  } catch (const std::runtime_error& thrown) {
    EXPECT_EQ(std::string(thrown.what()),
              "run_helper.a_hang_is_an_exception_that_names_the_test: the coroutine did not end before the deadline");
  }
}

TEST_F(run_helper, run_until_ends_when_its_condition_cannot_come_about) {
  EXPECT_FALSE(run_until(io, [] { return false; }));
  EXPECT_TRUE(run_until(io, [] { return true; }));
}

TEST_F(run_helper, the_result_of_what_has_not_ended_is_a_mistake) {
  auto waiting = start(io, never(env));
  poll(io);
  EXPECT_THROW(waiting.result(), std::logic_error);
  waiting.cancel();
  poll(io);
  EXPECT_EQ(waiting.error(), asio::error::operation_aborted);
}

}  // namespace
}  // namespace lockstep::test
