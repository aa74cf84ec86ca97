// What logs, catch-up and snapshots cost in memory and in reading: processes of their own, judged by their anonymous
// memory.
//
// Mapped files are the kernel's to drop and do not count; VmRSS and VmData would count them, or what was never touched.
// LOCKSTEP_BIG_TESTS=1 runs the same with a log of 10 GiB (20 GiB of disk under TMPDIR).
#include "lockstep/catchup.hpp"
#include "lockstep/log.hpp"
#include "lockstep/raft/node.hpp"
#include "run.hpp"
#include "support/raft_group.hpp"
#include "temporary_directory.hpp"

#include <gtest/gtest.h>
#include <asio/generic/stream_protocol.hpp>

#include <algorithm>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include <fcntl.h>
#include <poll.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define LOCKSTEP_SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define LOCKSTEP_SANITIZED 1
#endif
#endif

namespace lockstep::e2e {
namespace {

using test::temporary_directory;

constexpr std::uint64_t mib = 1 << 20;

/// Of this process now.
std::uint64_t anonymous_bytes() {
  std::ifstream status("/proc/self/status");
  std::string name;
  std::uint64_t kib = 0;
  while (status >> name) {
    if (name == "RssAnon:" && status >> kib) return kib << 10;
  }
  throw std::runtime_error("/proc/self/status has no RssAnon");
}

/// Samples anonymous_bytes() while its loop runs.
class memory_watch {
 public:
  explicit memory_watch(real::env& env) : timer_(env) { asio::co_spawn(env.get_executor(), watch(), asio::detached); }
  void look() { peak_ = std::max(peak_, anonymous_bytes()); }
  [[nodiscard]] std::uint64_t peak() {
    look();
    return peak_;
  }

 private:
  awaitable<void> watch() {
    for (;;) {
      look();
      timer_.expires_after(std::chrono::milliseconds(5));
      const std::error_code ec = co_await timer_.wait();
      if (ec) co_return;
    }
  }
  real::env::timer timer_;
  std::uint64_t peak_ = 0;
};

/// A process that computes one number, or says why it could not.
class child {
 public:
  explicit child(const std::function<std::uint64_t()>& work) {
    int ends[2];
    if (::pipe2(ends, O_CLOEXEC) != 0) throw std::system_error(errno, std::system_category(), "pipe");
    pid_ = ::fork();
    if (pid_ < 0) throw std::system_error(errno, std::system_category(), "fork");
    if (pid_ == 0) {
      ::prctl(PR_SET_PDEATHSIG, SIGKILL);
      std::string said;
      try {
        said = "=" + std::to_string(work());
      } catch (const std::exception& error) {
        said = error.what();
      }
      const ssize_t wrote = ::write(ends[1], said.data(), said.size());
      ::_exit(wrote == static_cast<ssize_t>(said.size()) ? 0 : 1);
    }
    ::close(ends[1]);
    from_ = ends[0];
  }
  child(const child&) = delete;
  ~child() {
    ::kill(pid_, SIGKILL);
    ::waitpid(pid_, nullptr, 0);
    ::close(from_);
  }

  std::uint64_t result(std::chrono::milliseconds deadline) {
    pollfd waiting{from_, POLLIN, 0};
    if (::poll(&waiting, 1, static_cast<int>(deadline.count())) != 1) throw std::runtime_error("the process hangs");
    std::string said(4096, ' ');
    const ssize_t got = ::read(from_, said.data(), said.size());
    said.resize(static_cast<std::size_t>(std::max<ssize_t>(got, 0)));
    if (said.empty() || said.front() != '=') throw std::runtime_error("the process said: " + said);
    return std::stoull(said.substr(1));
  }

 private:
  pid_t pid_ = -1;
  int from_ = -1;
};

// --- A leader and a follower with a big log
// -----------------------------------------------------------------------------

constexpr std::size_t payload_bytes = 16 << 10;

log_options fast() {
  log_options options;
  options.sync = sync_policy::never;
  return options;
}

channel_options as_node(node_id id) {
  channel_options options;
  options.cluster = "memory";
  options.node = id;
  return options;
}

real::stream stream_of(const real::env& env, int connected) {
  return real::stream(
      real::detail::generic_socket(env.get_executor(), asio::generic::stream_protocol(AF_UNIX, 0), connected));
}

std::unique_ptr<append_log> open_log(asio::io_context& io, real::env& env, const std::string& directory) {
  auto opened = test::run(io, append_log::open(env, directory, fast()));
  if (!opened.log) throw std::runtime_error(opened.report.reason);
  return std::move(opened.log);
}

awaitable<void> fill(append_log& log, std::uint64_t bytes) {
  const std::vector<std::byte> payload(payload_bytes, std::byte{7});
  while (log.size_bytes() < bytes) {
    for (std::size_t i = 0; i < mib / payload_bytes; ++i) log.append(1, payload);
    co_await log.durable(log.last().index);
  }
}

awaitable<void> lead(real::env& env, append_log& log, std::uint64_t bytes, int connected) {
  channel to(env, stream_of(env, connected), as_node(1));
  co_await to.handshake();
  co_await fill(log, bytes);
  catchup_source source(env, log);
  try {
    co_await source.serve(to);
  } catch (const std::system_error& error) {
    // The follower goes when it has everything: between frames, or while a heartbeat is on its way.
    if (error.code() != asio::error::broken_pipe && error.code() != asio::error::connection_reset) throw;
  }
}

// Throws itself out of its follower when everything is there.
struct done {};
class until_caught_up : public follower_events {
 public:
  void caught_up(const position&) override { throw done(); }
};

// Follows to the end, then reads what it has got.
awaitable<void> follow(real::env& env, append_log& log, std::uint64_t bytes, int connected) {
  channel from(env, stream_of(env, connected), as_node(2));
  co_await from.handshake();
  until_caught_up events;
  catchup_follower follower(env, log, events);
  try {
    co_await follower.run(from);
  } catch (const done&) {
    // below
  }
  if (log.size_bytes() < bytes) throw std::runtime_error("the follower lacks records");
  cursor reading(log, 1);
  index_t read = 0;
  while (read < log.last().index) {
    const record_batch batch = co_await reading.next(mib);
    for (const record& each : batch) {
      if (each.index != ++read || each.payload.size() != payload_bytes) throw std::runtime_error("a wrong record");
    }
  }
}

// Runs one side as a process. @return the most anonymous memory that it had.
template <class Side>
std::uint64_t run_side(Side side, const std::string& directory, std::uint64_t bytes, int connected) {
  asio::io_context io(1);
  real::env env(io.get_executor());
  const std::unique_ptr<append_log> log = open_log(io, env, directory);
  memory_watch watch(env);
  test::run(io, side(env, *log, bytes, connected), std::chrono::minutes(10));
  const std::uint64_t peak = watch.peak();
  test::run(io, log->close(), std::chrono::minutes(10));
  return peak;
}

TEST(memory, leader_and_follower_with_a_big_log_stay_small) {
#ifdef LOCKSTEP_SANITIZED
  GTEST_SKIP() << "a sanitizer keeps memory of its own";
#endif
  const char* const big = std::getenv("LOCKSTEP_BIG_TESTS");
  const std::uint64_t log_bytes = (big && *big != '0' ? 10 : 1) * 1024 * mib;
  const temporary_directory directory;
  const auto space = std::filesystem::space(directory.path()).available;
  if (space < 3 * log_bytes) GTEST_SKIP() << "needs " << (3 * log_bytes >> 30) << " GiB in " << directory.path();

  int ends[2];
  ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM, 0, ends), 0);
  child leader([&] {
    ::close(ends[1]);
    return run_side(lead, directory.file("leader"), log_bytes, ends[0]);
  });
  child follower([&] {
    ::close(ends[0]);
    return run_side(follow, directory.file("follower"), log_bytes, ends[1]);
  });
  ::close(ends[0]);
  ::close(ends[1]);

  const std::uint64_t of_follower = follower.result(std::chrono::minutes(9));
  const std::uint64_t of_leader = leader.result(std::chrono::minutes(1));
  std::printf("log of %llu MiB: leader %llu MiB, follower %llu MiB of anonymous memory\n",
              static_cast<unsigned long long>(log_bytes / mib), static_cast<unsigned long long>(of_leader / mib),
              static_cast<unsigned long long>(of_follower / mib));
  EXPECT_LT(of_leader, 64 * mib);
  EXPECT_LT(of_follower, 64 * mib);
  if (!big) std::printf("LOCKSTEP_BIG_TESTS=1 runs this with 10 GiB\n");
}

// --- A snapshot of a big state
// -----------------------------------------------------------------------------------

constexpr std::uint64_t state_bytes = 256 * mib;

/// A state that is made as it is written down, and looked at as it is read: nothing is kept of it.
struct generated_state {
  bool restored = false;

  static std::byte byte_at(std::uint64_t offset) { return std::byte((offset * 0x9e3779b97f4a7c15u) >> 56); }

  void apply(const raft::entry&, byte_buffer&) {}
  awaitable<void> snapshot(raft::snapshot_sink& to) {
    std::vector<std::byte> part(payload_bytes);
    for (std::uint64_t offset = 0; offset < state_bytes; offset += part.size()) {
      for (std::size_t i = 0; i < part.size(); ++i) part[i] = byte_at(offset + i);
      co_await to.write(part);
    }
  }
  awaitable<void> restore(raft::snapshot_source& from) {
    std::vector<std::byte> part(payload_bytes);
    for (std::uint64_t offset = 0; offset < state_bytes; offset += part.size()) {
      co_await raft::read_whole(from, part);
      for (std::size_t i = 0; i < part.size(); ++i) {
        if (part[i] != byte_at(offset + i)) throw std::runtime_error("a wrong byte of the state");
      }
    }
    restored = co_await from.read(part) == 0;
  }
};

using generating_node = raft::node<generated_state>;

raft::node_options member(node_id id, const std::string& directory) {
  raft::node_options options;
  options.core.id = id;
  options.cluster = "memory";
  options.directory = directory;
  options.snapshot_after_bytes = 0;
  options.keep_log_bytes = 0;
  options.log.segment_bytes = 64 << 10;
  return options;
}

awaitable<void> serve(real::env& env, generating_node& node, address where) {
  std::error_code ec;
  server_options serving;
  serving.channel = node.hello();
  server accepting(env, env.listen(where, ec), serving);
  if (ec) throw std::system_error(ec);
  accepting.on(raft::raft_purpose, [&node](channel& from) { return node.serve(from); });
  co_await accepting.run();
}

void must(const std::error_code& ec) {
  if (ec) throw std::system_error(ec);
}

// The leader has no log for the other one any more.
awaitable<void> grow_from_one_to_two(real::env& env, generating_node& leader, generating_node& other,
                                     const generated_state& of_other, std::string where) {
  const auto soon = [&env] { return env.now() + std::chrono::milliseconds(10); };
  while (leader.core().role() != raft::role::leader) must(co_await leader.changed(soon()));
  const std::vector<std::byte> command(payload_bytes);
  for (int i = 0; i < 20; ++i) {
    const raft::outcome done = co_await leader.propose(command, default_deadline);
    must(done.error);
  }
  must(co_await leader.snapshot(default_deadline));
  if (leader.log().base().index == 0) throw std::runtime_error("the leader's log is whole");
  raft::change_error why{};
  must(co_await leader.add(2, where, default_deadline, why));
  while (!of_other.restored || other.applied() < leader.applied()) must(co_await other.changed(soon()));
}

awaitable<void> send_a_snapshot(real::env& env, const std::string& directory) {
  const std::string host = raft_host();
  const address first(host, free_port(host));
  const address second(host, free_port(host));
  generated_state full, empty;
  raft::node_options founder = member(1, directory + "/leader");
  founder.members = {{1, first.to_string()}};
  const auto leader = co_await generating_node::open(env, founder, full);
  const raft::node_options joins = member(2, directory + "/follower");
  const auto follower = co_await generating_node::open(env, joins, empty);
  task_group running(env.get_executor());
  for (const auto& [node, where] : {std::pair(leader.get(), first), std::pair(follower.get(), second)}) {
    running.spawn(serve(env, *node, where));
    running.spawn(node->run());
  }
  co_await grow_from_one_to_two(env, *leader, *follower, empty, second.to_string());
  co_await leader->close();
  co_await follower->close();
  running.cancel();
  co_await running.join();
}

TEST(memory, a_snapshot_goes_from_disk_to_disk_without_the_state_in_memory) {
#ifdef LOCKSTEP_SANITIZED
  GTEST_SKIP() << "a sanitizer keeps memory of its own";
#endif
  const temporary_directory directory;
  if (std::filesystem::space(directory.path()).available < 3 * state_bytes) GTEST_SKIP() << "needs 768 MiB";
  child both([&] {
    asio::io_context io(1);
    real::env env(io.get_executor());
    memory_watch watch(env);
    const std::uint64_t before = anonymous_bytes();
    test::run(io, send_a_snapshot(env, directory.path()), std::chrono::minutes(5));
    return watch.peak() - before;
  });
  const std::uint64_t grown = both.result(std::chrono::minutes(5));
  std::printf("snapshot of %llu MiB: leader and follower together %llu KiB of anonymous memory\n",
              static_cast<unsigned long long>(state_bytes / mib), static_cast<unsigned long long>(grown >> 10));
  EXPECT_LT(grown, 64 * mib);
}

// --- Opening many segments
// ----------------------------------------------------------------------------------------------

// The real environment, which counts what is read of files, and does not sync: these tests pull no plug.
class counting_env : public real::env {
 public:
  class file : public real::file {
   public:
    file() = default;
    file(real::file opened, counting_env& of) : real::file(std::move(opened)), env_(&of) {}

    std::size_t pread(std::uint64_t offset, mutable_bytes into, std::error_code& ec) const {
      const std::size_t got = real::file::pread(offset, into, ec);
      env_->bytes_read_ += got;
      return got;
    }
    [[nodiscard]] real::mapping map(std::uint64_t offset, std::uint64_t length, std::error_code& ec) const {
      env_->bytes_read_ += length;
      return real::file::map(offset, length, ec);
    }
    awaitable<std::error_code> datasync(sync_on) { co_return std::error_code(); }
    awaitable<std::error_code> pwrite_datasync(std::uint64_t offset, std::span<const bytes_view> from, sync_on) {
      std::error_code ec;
      pwrite(offset, from, ec);
      co_return ec;
    }

   private:
    counting_env* env_ = nullptr;
  };

  using real::env::env;
  file open(const std::string& path, open_mode mode, std::error_code& ec) {
    return file(real::env::open(path, mode, ec), *this);
  }
  awaitable<std::error_code> sync_directory(const std::string&, sync_on) { co_return std::error_code(); }

  std::uint64_t take_bytes_read() { return std::exchange(bytes_read_, 0); }

 private:
  std::uint64_t bytes_read_ = 0;
};

using counted_log = basic_append_log<counting_env>;

std::unique_ptr<counted_log> open_log(asio::io_context& io, counting_env& env, const std::string& directory,
                                      const log_options& options) {
  auto opened = test::run(io, counted_log::open(env, directory, options));
  if (!opened.log) throw std::runtime_error(opened.report.reason);
  return std::move(opened.log);
}

awaitable<void> fill_segments(counted_log& log, std::size_t segments) {
  const std::vector<std::byte> payload(1000, std::byte{7});
  while (log.segment_count() < segments) {
    log.append(1, payload);
    co_await log.durable(log.last().index);
  }
}

TEST(memory, open_reads_headers_and_the_unsealed_tail_only) {
  constexpr std::size_t segments = 1001;
  log_options options;
  options.sync_where = sync_on::caller;
  options.segment_bytes = 32 << 10;
  options.reserve_bytes = 0;
  options.prewrite_bytes = 0;

  const temporary_directory directory;
  asio::io_context io(1);
  counting_env env(io.get_executor());
  position last;
  std::uint64_t tail = 0;
  {
    const auto log = open_log(io, env, directory.file("log"), options);
    test::run(io, fill_segments(*log, segments));
    last = log->last();
    const std::string name = log_files::segment_name(log->segment_of(last.index));
    test::run(io, log->close());
    tail = std::filesystem::file_size(directory.file("log/" + name));
  }

  (void)env.take_bytes_read();
  const auto log = open_log(io, env, directory.file("log"), options);
  const std::uint64_t read = env.take_bytes_read();
  EXPECT_EQ(log->last(), last);
  EXPECT_EQ(log->segment_count(), segments);
  // The tail is read twice: to verify it, and to write it anew.
  EXPECT_LE(read, segments * log_format::segment_header_used + 2 * tail + 2 * log_format::watermark_bytes);
  EXPECT_GE(read, segments * log_format::segment_header_used);
  test::run(io, log->close());
}

}  // namespace
}  // namespace lockstep::e2e
