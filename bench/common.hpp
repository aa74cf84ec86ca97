// What the benchmarks share: pairs of a limit and lockstep, scratch directories, payloads, coroutines run to their end.
//
// A benchmark is named `<what>/<variant>/limit` or `<what>/<variant>/lockstep` and reports items or bytes per second;
// bench/run.py runs the two sides alternately and prints their ratio. docs/benchmarks.md says what each limit is.
#pragma once

#include <benchmark/benchmark.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <sys/socket.h>
#include <unistd.h>
#include <asio/co_spawn.hpp>
#include <asio/io_context.hpp>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <exception>
#include <filesystem>
#include <functional>
#include <memory>
#include <stdexcept>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include "lockstep/core/asio_compat.hpp"
#include "lockstep/core/bytes.hpp"
#include "lockstep/env/real.hpp"
#include "lockstep/log/append_log.hpp"

namespace lockstep::bench {

[[noreturn]] inline void throw_errno(const std::string& what) {
  throw std::system_error(errno, std::system_category(), what);
}

/// What a program measured of itself.
struct measurement {
  double seconds = 0;
  std::uint64_t items = 0;
  std::uint64_t bytes = 0;

  [[nodiscard]] double work() const { return static_cast<double>(items != 0 ? items : bytes); }
};

/// Registers a benchmark that lets `run` measure itself `times` times and reports the run with the highest rate: what
/// another program that takes the processor away for a moment leaves undisturbed.
inline void add(const std::string& name, int times, std::function<measurement()> run) {
  benchmark::RegisterBenchmark(name.c_str(),
                               [times, run = std::move(run)](benchmark::State& state) {
                                 measurement best;
                                 try {
                                   for (auto _ : state) {
                                     for (int i = 0; i < times; ++i) {
                                       const measurement one = run();
                                       if (best.seconds == 0 || one.seconds * best.work() < best.seconds * one.work())
                                         best = one;
                                     }
                                     state.SetIterationTime(best.seconds);
                                   }
                                 } catch (const std::exception& error) {
                                   state.SkipWithError(error.what());
                                 }
                                 if (best.items != 0) state.SetItemsProcessed(static_cast<std::int64_t>(best.items));
                                 if (best.bytes != 0) state.SetBytesProcessed(static_cast<std::int64_t>(best.bytes));
                               })
      ->UseManualTime()
      ->Iterations(1)
      ->Unit(benchmark::kMillisecond);
}

class stopwatch {
 public:
  [[nodiscard]] double seconds() const {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin_).count();
  }

 private:
  std::chrono::steady_clock::time_point begin_ = std::chrono::steady_clock::now();
};

/// Keeps the calling thread on one processor, where there are so many. Threads that it starts later stay there, too.
inline void pin_to(unsigned processor) {
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(processor, &set);
  (void)::sched_setaffinity(0, sizeof set, &set);
}

/// Undoes pin_to() when the scope ends.
class pinned {
 public:
  explicit pinned(unsigned processor) {
    (void)::sched_getaffinity(0, sizeof before_, &before_);
    pin_to(processor);
  }
  pinned(const pinned&) = delete;
  ~pinned() { (void)::sched_setaffinity(0, sizeof before_, &before_); }

 private:
  cpu_set_t before_;
};

/// A path for files of the benchmarks: in LOCKSTEP_BENCH_DIR, or where the program was started.
inline std::string scratch(const std::string& name) {
  const char* const given = std::getenv("LOCKSTEP_BENCH_DIR");
  const std::filesystem::path directory = given ? given : "lockstep-bench-scratch";
  std::filesystem::create_directories(directory);
  return (directory / name).string();
}

/// A directory or file that is not there at the beginning and not at the end.
class temporary {
 public:
  explicit temporary(const std::string& name) : path_(scratch(name)) { std::filesystem::remove_all(path_); }
  temporary(const temporary&) = delete;
  ~temporary() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  [[nodiscard]] const std::string& path() const noexcept { return path_; }

 private:
  std::string path_;
};

/// A directory that `make(path)` fills once and that stays for later benchmarks with the same LOCKSTEP_BENCH_DIR.
template <class Make>
std::string fixture(const std::string& name, Make make) {
  const std::string path = scratch(name);
  if (std::filesystem::exists(path)) return path;
  const std::string unfinished = path + ".making";
  std::filesystem::remove_all(unfinished);
  make(unfinished);
  std::filesystem::rename(unfinished, path);
  return path;
}

/// An open file descriptor.
class descriptor {
 public:
  descriptor(const std::string& path, int flags) : fd_(::open(path.c_str(), flags | O_CLOEXEC, 0644)) {
    if (fd_ < 0) throw_errno("open " + path);
  }
  explicit descriptor(int fd) noexcept : fd_(fd) {}
  descriptor(descriptor&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  descriptor& operator=(descriptor&& other) noexcept {
    std::swap(fd_, other.fd_);
    return *this;
  }
  ~descriptor() { reset(); }
  [[nodiscard]] int get() const noexcept { return fd_; }
  [[nodiscard]] int release() noexcept { return std::exchange(fd_, -1); }
  void reset() noexcept {
    if (fd_ >= 0) ::close(std::exchange(fd_, -1));
  }

 private:
  int fd_;
};

inline void write_all(int fd, const char* from, std::size_t count) {
  while (count != 0) {
    const ssize_t wrote = ::write(fd, from, count);
    if (wrote < 0) throw_errno("write");
    from += wrote;
    count -= static_cast<std::size_t>(wrote);
  }
}

/// Payloads that differ, from 1 MiB of bytes that stay in the cache.
class payloads {
 public:
  explicit payloads(std::size_t record_bytes) : record_bytes_(record_bytes), bytes_(std::size_t{1} << 20) {
    for (std::size_t i = 0; i < bytes_.size(); ++i) bytes_[i] = static_cast<std::byte>(i * 2654435761U >> 11U);
  }
  bytes_view next() noexcept {
    const bytes_view result(bytes_.data() + at_, record_bytes_);
    at_ += (record_bytes_ + 63) / 64 * 64;
    if (at_ + record_bytes_ > bytes_.size()) at_ = 0;
    return result;
  }

 private:
  std::size_t record_bytes_;
  std::size_t at_ = 0;
  std::vector<std::byte> bytes_;
};

/// One node: a loop and its environment.
struct node {
  explicit node(std::size_t logs = 1) : env(io.get_executor(), options_for(logs)) {}
  static real::env_options options_for(std::size_t logs) {
    real::env_options options;
    options.disk_threads = logs;
    return options;
  }

  asio::io_context io{1};
  real::env env;

  /// Runs `work` and whatever it needs to its end. @throws what it threw.
  void run(awaitable<void> work) {
    std::exception_ptr failure;
    bool ended = false;
    asio::co_spawn(io, std::move(work), [&](const std::exception_ptr& thrown) {
      failure = thrown;
      ended = true;
      io.stop();
    });
    // As programs do. A loop over run_one() would free what Asio keeps for the next frames and operations each turn.
    io.restart();
    io.run();
    if (failure) std::rethrow_exception(failure);
    if (!ended) throw std::runtime_error("a coroutine waits for ever");
  }
};

struct record_size {
  const char* name;
  std::size_t bytes;  ///< of payload
};
inline constexpr record_size record_sizes[] = {{"100B", 100}, {"1KiB", 1 << 10}, {"16KiB", 16 << 10}};

/// Opens a log that must be good.
inline awaitable<void> open_into(std::unique_ptr<append_log>& log, real::env& env, std::string directory,
                                 log_options options) {
  auto opened = co_await append_log::open(env, std::move(directory), options);
  if (!opened.log) throw std::runtime_error(opened.report.reason);
  log = std::move(opened.log);
}

inline constexpr std::size_t append_batch_bytes = std::size_t{1} << 20;

/// Appends `count` records, and waits for each MiB as the log's sync policy promises it.
inline awaitable<void> append_records(append_log& log, payloads& source, std::size_t payload_bytes, std::size_t count) {
  const std::size_t in_batch = std::max<std::size_t>(1, append_batch_bytes / log_format::record_bytes(payload_bytes));
  for (std::size_t done = 0; done < count;) {
    const std::size_t end = std::min(count, done + in_batch);
    for (; done < end; ++done) log.append(1, source.next());
    co_await log.durable(log.last().index);
  }
}

/// A fixture: the directory of a closed log with this many encoded bytes, all of them synced.
inline std::string log_fixture(const std::string& name, std::size_t payload_bytes, std::uint64_t bytes,
                               const log_options& options) {
  return fixture(name, [&](const std::string& unfinished) {
    node on;
    std::unique_ptr<append_log> log;
    on.run(open_into(log, on.env, unfinished, options));
    payloads source(payload_bytes);
    on.run(append_records(*log, source, payload_bytes, bytes / log_format::record_bytes(payload_bytes)));
    on.run(log->sync());
    on.run(log->close());
  });
}

/// BBR, where it is the default, paces loopback to half its speed.
inline void use_reno(int socket) {
  const char reno[] = "reno";
  (void)::setsockopt(socket, IPPROTO_TCP, TCP_CONGESTION, reno, sizeof reno - 1);
  const int on = 1;
  (void)::setsockopt(socket, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
}

/// Where nobody listens now.
inline std::vector<std::string> free_addresses(std::size_t count) {
  std::vector<descriptor> held;  // so that they differ
  std::vector<std::string> names;
  while (names.size() < count) {
    const descriptor& one = held.emplace_back(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_in where{};
    where.sin_family = AF_INET;
    where.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof where;
    auto* const raw = reinterpret_cast<sockaddr*>(&where);
    if (::bind(one.get(), raw, size) != 0 || ::getsockname(one.get(), raw, &size) != 0) throw_errno("bind");
    names.push_back("127.0.0.1:" + std::to_string(ntohs(where.sin_port)));
  }
  return names;
}

/// Two ends of a TCP connection over 127.0.0.1, blocking.
inline std::pair<descriptor, descriptor> tcp_pair() {
  descriptor listening(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  descriptor connecting(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (listening.get() < 0 || connecting.get() < 0) throw_errno("socket");
  sockaddr_in where{};
  where.sin_family = AF_INET;
  where.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  auto* const address = reinterpret_cast<sockaddr*>(&where);
  socklen_t size = sizeof where;
  if (::bind(listening.get(), address, size) != 0 || ::listen(listening.get(), 1) != 0 ||
      ::getsockname(listening.get(), address, &size) != 0 || ::connect(connecting.get(), address, size) != 0) {
    throw_errno("loopback connection");
  }
  descriptor accepted(::accept4(listening.get(), nullptr, nullptr, SOCK_CLOEXEC));
  if (accepted.get() < 0) throw_errno("accept");
  use_reno(connecting.get());
  use_reno(accepted.get());
  return {std::move(accepted), std::move(connecting)};
}

}  // namespace lockstep::bench
