// append_log on the real environment: files of a temporary directory, syncs on disk threads.
#include "lockstep/log/append_log.hpp"
#include "lockstep/log/cursor.hpp"

#include "life.hpp"

#include <gtest/gtest.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <filesystem>
#include <new>
#include <string>
#include <vector>

namespace lockstep::test {
namespace {

/// A directory of this test's own, removed with all that is in it.
class temporary_directory {
 public:
  temporary_directory() {
    std::string pattern = (std::filesystem::temp_directory_path() / "lockstep-log-XXXXXX").string();
    if (!::mkdtemp(pattern.data())) throw std::system_error(errno, std::system_category(), pattern);
    path_ = pattern;
  }
  temporary_directory(const temporary_directory&) = delete;
  ~temporary_directory() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  [[nodiscard]] std::string operator/(const std::string& name) const { return path_ + "/" + name; }

 private:
  std::string path_;
};

struct real_life {
  asio::io_context io;
  real::env env{io.get_executor(), real::env_options{2, 1}};
  std::unique_ptr<append_log> log;

  real_life& opened(const std::string& directory, const log_options& options) {
    auto found = run(io, append_log::open(env, directory, options));
    if (!found.log) throw std::runtime_error("the log is corrupt: " + found.report.reason);
    log = std::move(found.log);
    return *this;
  }
  void write_up_to(index_t last) {
    while (log->last().index < last) {
      const std::string payload = "r" + std::to_string(log->last().index + 1);
      log->append(1, as_bytes(payload));
    }
    run(io, log->durable(last));
  }
  void close() {
    run(io, log->close());
    log.reset();
  }
};

struct append_log_on_real_files : testing::TestWithParam<std::tuple<sync_policy, sync_on>> {
  temporary_directory directory;
  [[nodiscard]] static log_options options() { return small_options(std::get<0>(GetParam()), std::get<1>(GetParam())); }
};
INSTANTIATE_TEST_SUITE_P(policies, append_log_on_real_files, policies(), name_of_policy);

TEST_P(append_log_on_real_files, a_long_life_with_restarts) {
  const std::string path = directory / "log";
  {
    real_life life;
    life.opened(path, options()).write_up_to(57);
    EXPECT_EQ(contents(*life.log), numbered(1, 57));
    run(life.io, life.log->truncate_suffix(33));
    EXPECT_EQ(contents(*life.log), numbered(1, 33));
    run(life.io, life.log->sync());
    EXPECT_EQ(run(life.io, life.log->compact_prefix(25)), 21u);
    life.write_up_to(66);  // into recycled files
    EXPECT_EQ(contents(*life.log), numbered(21, 66));
    life.close();
  }
  {
    real_life life;
    life.opened(path, options());
    EXPECT_EQ(contents(*life.log), numbered(21, 66));
    run(life.io, life.log->reset({2, 5, 9}));
    life.log->append(2, as_bytes("r6"));
    run(life.io, life.log->sync());
    life.close();
  }
  real_life life;
  life.opened(path, options());
  EXPECT_EQ(life.log->base(), (position{2, 5, 9}));
  EXPECT_EQ(contents(*life.log), numbered(6, 6));
  life.close();
}

awaitable<void> write_and_wait(append_log& log, int times, std::atomic<index_t>* acked) {
  for (int i = 0; i < times; ++i) {
    position at;
    for (;;) {
      std::error_code refused;
      try {
        const std::string payload = "r" + std::to_string(log.last().index + 1);
        at = log.append(1, as_bytes(payload));
        break;
      } catch (const std::system_error& error) {
        refused = error.code();
      }
      if (refused != errc::overloaded) throw std::system_error(refused);
      co_await log.durable(log.last().index);
    }
    co_await log.durable(at.index);
    if (acked) acked->store(std::max(acked->load(), at.index));
  }
}

awaitable<void> tail_the_log(basic_cursor<real::env> cursor, index_t upto, strings& into) {
  while (cursor.next_index() <= upto) {
    const record_batch batch = co_await cursor.next(300);
    for (const std::string& each : payloads(batch)) into.push_back(each);
  }
}

TEST_P(append_log_on_real_files, many_writers_and_readers_at_once) {
  constexpr int writers = 16, each = 12;
  constexpr index_t all = writers * each;
  real_life life;
  life.opened(directory / "log", options());
  std::vector<strings> found(4);
  std::vector<started<void>> running;
  for (std::size_t i = 0; i < found.size(); ++i) {
    const visibility seen = i % 2 ? visibility::durable : visibility::staged;
    running.push_back(start(life.io, tail_the_log(basic_cursor<real::env>(*life.log, 1, seen), all, found[i])));
  }
  for (int i = 0; i < writers; ++i) running.push_back(start(life.io, write_and_wait(*life.log, each, nullptr)));
  for (auto& one : running) {
    ASSERT_TRUE(run_until(life.io, [&] { return one.done(); }));
    one.result();
  }
  for (const strings& one : found) EXPECT_EQ(one, numbered(1, all));
  EXPECT_EQ(contents(*life.log), numbered(1, all));
  life.close();
  life.opened(directory / "log", options());
  EXPECT_EQ(contents(*life.log), numbered(1, all));
  life.close();
}

TEST_P(append_log_on_real_files, ends_of_the_log_change_while_records_are_on_their_way) {
  real_life life;
  life.opened(directory / "log", options()).write_up_to(40);
  auto writing = start(life.io, write_and_wait(*life.log, 40, nullptr));
  for (int round = 0; round < 10; ++round) {
    run(life.io, life.log->truncate_suffix(life.log->last().index - 1));
    (void)run(life.io, life.log->compact_prefix(life.log->synced().index));
    run(life.io, life.log->sync());
  }
  ASSERT_TRUE(run_until(life.io, [&] { return writing.done(); }));
  writing.result();
  const strings seen = contents(*life.log);
  life.close();
  life.opened(directory / "log", options());
  EXPECT_EQ(contents(*life.log), seen);
  life.close();
}

TEST_P(append_log_on_real_files, a_killed_process_loses_nothing_that_was_acknowledged) {
  void* const shared =
      ::mmap(nullptr, sizeof(std::atomic<index_t>), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  ASSERT_NE(shared, MAP_FAILED);
  auto* const acked = new (shared) std::atomic<index_t>(0);
  for (const index_t kill_after : std::initializer_list<index_t>{5, 23, 60}) {
    const std::string path = directory / std::to_string(kill_after);
    acked->store(0);
    const pid_t child = ::fork();
    if (child == 0) {
      try {
        real_life life;
        life.opened(path, options());
        std::vector<started<void>> writers;
        for (int i = 0; i < 4; ++i) writers.push_back(start(life.io, write_and_wait(*life.log, 1 << 20, acked)));
        life.io.restart();
        life.io.run();
      } catch (...) {
      }
      ::_exit(1);
    }
    ASSERT_GT(child, 0);
    int status = 0;
    bool gone = false;
    while (acked->load() < kill_after && !gone) {
      gone = ::waitpid(child, &status, WNOHANG) == child;
      ::sched_yield();
    }
    ASSERT_FALSE(gone) << "the child ended by itself: " << status;
    ::kill(child, SIGKILL);
    ::waitpid(child, &status, 0);
    const index_t promised = acked->load();
    real_life life;
    life.opened(path, options());
    const strings found = contents(*life.log);
    EXPECT_GE(found.size(), promised);
    EXPECT_EQ(found, numbered(1, found.size()));
    life.write_up_to(found.size() + 5);
    life.close();
  }
  ::munmap(shared, sizeof(std::atomic<index_t>));
}

TEST(append_log_real, of_a_locked_directory_names_the_pid) {
  const temporary_directory directory;
  real_life holder, other;
  holder.opened(directory / "log", small_options());
  try {
    other.opened(directory / "log", small_options());
    ADD_FAILURE() << "opened twice";
  } catch (const std::system_error& error) {
    EXPECT_EQ(error.code(), errc::log_locked);
    EXPECT_NE(std::string(error.what()).find("is locked by pid " + std::to_string(::getpid())), std::string::npos)
        << error.what();
  }
  holder.close();
  other.opened(directory / "log", small_options());
  other.close();
}

TEST(append_log_real, two_logs_share_an_environment) {
  const temporary_directory directory;
  real_life life;
  life.opened(directory / "one", small_options());
  auto second = run(life.io, append_log::open(life.env, directory / "two", small_options()));
  std::vector<started<void>> writers;
  for (int i = 0; i < 4; ++i) writers.push_back(start(life.io, write_and_wait(*life.log, 20, nullptr)));
  for (int i = 0; i < 4; ++i) writers.push_back(start(life.io, write_and_wait(*second.log, 20, nullptr)));
  for (auto& each : writers) {
    ASSERT_TRUE(run_until(life.io, [&] { return each.done(); }));
    each.result();
  }
  EXPECT_EQ(contents(*life.log), numbered(1, 80));
  EXPECT_EQ(contents(*second.log), numbered(1, 80));
  run(life.io, second.log->close());
  life.close();
}

TEST(append_log_real, with_the_options_of_a_default_takes_large_records) {
  const temporary_directory directory;
  log_options options;
  options.segment_bytes = 4 << 20;
  strings expected;
  {
    real_life life;
    life.opened(directory / "log", options);
    for (const std::size_t size :
         std::initializer_list<std::size_t>{std::size_t{0}, std::size_t{100}, std::size_t{300 << 10},
                                            std::size_t{5 << 20}, std::size_t{8 << 20}, std::size_t{1}}) {
      expected.emplace_back(size, static_cast<char>('a' + expected.size()));
      life.log->append(1, as_bytes(expected.back()));
      run(life.io, life.log->durable(life.log->last().index));
    }
    EXPECT_TRUE(contents(*life.log) == expected);
    life.close();
  }
  real_life life;
  life.opened(directory / "log", options);
  EXPECT_TRUE(contents(*life.log) == expected);
  EXPECT_GE(life.log->segment_count(), 3u);
  life.close();
}

}  // namespace
}  // namespace lockstep::test
