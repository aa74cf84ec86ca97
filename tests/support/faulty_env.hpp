// faulty_env: an environment whose network and timers are the real ones and whose files lie on a faulty_disk.
//
// The env is the program's process; the disk outlives it. To crash and come back: destroy the blocks, the env and
// the io_context, take an image of the disk, and build them again on the image (see faulty_disk.hpp).
//
// A sync on a disk thread is a posted one: the write of pwrite_datasync, the sync's beginning and its end run as
// separate handlers on the env's executor, so that other coroutines run in between, and a test can hold the end back
// (faulty_disk::hold_syncs). A sync covers what was written before it began. There are no threads.
#pragma once

#include "faulty_disk.hpp"

#include "lockstep/core/detail/held_handler.hpp"
#include "lockstep/env/env.hpp"
#include "lockstep/env/real.hpp"
#include "lockstep/sim/detail/disk_handles.hpp"

#include <asio/executor_work_guard.hpp>
#include <asio/prefer.hpp>

#include <memory>
#include <optional>
#include <span>
#include <string>
#include <system_error>
#include <type_traits>
#include <utility>
#include <vector>

namespace lockstep::test {

namespace detail {

/// A sync on its way: begun, perhaps held, ended, and then its coroutine resumed. Whoever holds the last reference
/// without having run it destroys the coroutine.
class sync_job : public std::enable_shared_from_this<sync_job> {
 public:
  using state = faulty_disk::state;

  sync_job(std::shared_ptr<state> disk, const asio::any_io_executor& executor, const void* owner,
           std::error_code* result)
      : disk_(std::move(disk)),
        executor_(asio::prefer(executor, asio::execution::outstanding_work.tracked)),
        owner_(owner),
        result_(result) {}
  sync_job(const sync_job&) = delete;
  ~sync_job() {
    if (waiting_) handler_.finish(false);
  }

  template <class Handler, class Begin>
  void start(Handler&& handler, Begin begin) {
    handler_.hold(std::forward<Handler>(handler));
    waiting_ = true;
    asio::post(executor_, [self = shared_from_this(), begin = std::move(begin)]() mutable { self->run(begin); });
  }

 private:
  // `begin` returns an error of a write before, or begins the sync.
  template <class Begin>
  void run(Begin& begin) {
    if (const std::error_code ec = begin(sync_)) return resume(ec);
    const auto end = [self = shared_from_this()] { asio::post(self->executor_, [self] { self->end(); }); };
    if (disk_->holding) {
      disk_->held.push_back({owner_, end});
    } else {
      end();
    }
  }

  void end() { resume(disk_->end_sync(sync_)); }

  void resume(std::error_code result) {
    *result_ = result;
    waiting_ = false;
    handler_.finish(true);
  }

  std::shared_ptr<state> disk_;
  asio::any_io_executor executor_;
  const void* owner_;
  std::error_code* result_;  // in the coroutine's frame, valid while waiting_
  bool waiting_ = false;
  lockstep::detail::held_handler handler_;
  state::sync sync_;
};

/// Runs `begin`, of signature std::error_code(state::sync&), and the sync that it begins, here or by posts.
template <class Begin>
awaitable<std::error_code> run_sync(std::shared_ptr<faulty_disk::state> disk, asio::any_io_executor executor,
                                    const void* owner, sync_on where, Begin begin) {
  std::error_code result;
  if (where == sync_on::caller) {
    faulty_disk::state::sync sync;
    result = begin(sync);
    if (!result) result = disk->end_sync(sync);
    co_return result;
  }
  auto job = std::make_shared<sync_job>(std::move(disk), executor, owner, &result);
  // The frame lets go of the job before it suspends: the job owns the frame.
  auto initiate = [&job, &begin](auto&& handler) {
    std::exchange(job, nullptr)->start(std::forward<decltype(handler)>(handler), std::move(begin));
  };
  co_await asio::async_initiate<const asio::use_awaitable_t<>, void()>(initiate, use_awaitable);
  co_return result;
}

}  // namespace detail

/// See the top of this file and the concept environment.
class faulty_env {
  using disk_state = faulty_disk::state;

 public:
  using stream = real::env::stream;
  using acceptor = real::env::acceptor;

  class timer;
  class file;
  using mapping = sim::detail::disk_mapping;
  using file_lock = sim::detail::disk_lock;

  /// @param disk  Shared: it stays as long as the env or a file of it does. Keeps its history from now on.
  faulty_env(asio::any_io_executor executor, faulty_disk& disk, std::uint64_t seed = 1)
      : real_(std::move(executor), real::env_options{1, seed}),
        disk_(sim::detail::disk_access::state_of(disk)),
        pid_(++disk_->last_pid) {
    disk.keep_history(true);
  }
  faulty_env(const faulty_env&) = delete;
  faulty_env& operator=(const faulty_env&) = delete;

  /// The held syncs of this env end when its executor runs, or are destroyed with it: the disk must not keep them.
  ~faulty_env() {
    std::vector<disk_state::held_sync> others;
    for (auto& each : std::exchange(disk_->held, {})) {
      if (each.owner == this)
        each.let_end();
      else
        others.push_back(std::move(each));
    }
    disk_->held = std::move(others);
  }

  [[nodiscard]] const asio::any_io_executor& get_executor() const noexcept { return real_.get_executor(); }
  [[nodiscard]] time_point now() const noexcept { return real_.now() + skipped_; }
  [[nodiscard]] wall_time wall_now() const noexcept {
    return (frozen_wall_ ? *frozen_wall_ : real_.wall_now()) + wall_offset_;
  }
  std::uint64_t random() noexcept { return real_.random(); }

  awaitable<stream> connect(const address& where, duration timeout) { return real_.connect(where, timeout); }
  acceptor listen(const address& where, std::error_code& ec) { return real_.listen(where, ec); }

  file open(const std::string& path, open_mode mode, std::error_code& ec);
  void rename(const std::string& from, const std::string& to, std::error_code& ec) { disk_->rename(from, to, ec); }
  void remove(const std::string& path, std::error_code& ec) { disk_->remove(path, ec); }
  void create_directory(const std::string& path, std::error_code& ec) { disk_->create_directory(path, ec); }
  std::vector<std::string> list(const std::string& path, std::error_code& ec) { return disk_->list(path, ec); }
  awaitable<std::error_code> sync_directory(const std::string& path, sync_on where) {
    return detail::run_sync(disk_, get_executor(), this, where, [disk = disk_, path](disk_state::sync& sync) {
      sync = disk->begin_sync_directory(path);
      return std::error_code();
    });
  }
  file_lock lock(const std::string& path, std::error_code& ec);

  // --- for tests ---

  /// The process id that locks of this env show; another one for each env of a disk.
  [[nodiscard]] long pid() const noexcept { return pid_; }
  /// Moves now() ahead. Timers that were set before keep their real time.
  void advance(duration by) { skipped_ += by; }
  /// Stops the calendar at `when`; advance_wall() moves it on.
  void set_wall(wall_time when) {
    frozen_wall_ = when;
    wall_offset_ = duration::zero();
  }
  /// Moves the calendar; a negative value moves it back.
  void advance_wall(duration by) { wall_offset_ += by; }

 private:
  real::env real_;
  std::shared_ptr<disk_state> disk_;
  long pid_;
  duration skipped_ = duration::zero();
  duration wall_offset_ = duration::zero();
  std::optional<wall_time> frozen_wall_;
};

class faulty_env::timer {
 public:
  explicit timer(faulty_env& of) : env_(of), timer_(of.real_) {}
  void expires_at(time_point when) { timer_.expires_at(when - env_.skipped_); }
  void expires_after(duration after) { timer_.expires_after(after); }
  awaitable<std::error_code> wait() { return timer_.wait(); }
  void cancel() { timer_.cancel(); }

 private:
  faulty_env& env_;
  real::env::timer timer_;
};

class faulty_env::file {
 public:
  file() = default;

  [[nodiscard]] bool is_open() const noexcept { return file_ != nullptr; }

  std::size_t pread(std::uint64_t offset, mutable_bytes into, std::error_code& ec) const {
    return disk_->pread(*file_->node, path_, offset, into, ec);
  }
  void pwrite(std::uint64_t offset, std::span<const bytes_view> from, std::error_code& ec) {
    ec = disk_->pwrite(*file_->node, path_, offset, from, writable_);
  }
  awaitable<std::error_code> datasync(sync_on where) {
    return detail::run_sync(disk_, executor_, owner_, where,
                            [disk = disk_, file = file_, path = path_](disk_state::sync& sync) {
                              sync = disk->begin_datasync(file->node, path);
                              return std::error_code();
                            });
  }
  awaitable<std::error_code> pwrite_datasync(std::uint64_t offset, std::span<const bytes_view> from, sync_on where) {
    return detail::run_sync(
        disk_, executor_, owner_, where,
        [disk = disk_, file = file_, path = path_, offset, from, writable = writable_](disk_state::sync& sync) {
          const std::error_code ec = disk->pwrite(*file->node, path, offset, from, writable);
          if (!ec) sync = disk->begin_datasync(file->node, path);
          return ec;
        });
  }
  void truncate(std::uint64_t length, std::error_code& ec) {
    disk_->truncate(*file_->node, path_, length, ec, writable_);
  }
  void allocate(std::uint64_t offset, std::uint64_t length, std::error_code& ec) {
    disk_->allocate(*file_->node, path_, offset, length, ec, writable_);
  }
  [[nodiscard]] std::uint64_t size(std::error_code& ec) const {
    ec = disk_->is_crashed ? crashed_error() : std::error_code();
    return ec ? 0 : file_->node->size;
  }
  [[nodiscard]] faulty_env::mapping map(std::uint64_t offset, std::uint64_t length, std::error_code& ec) const {
    const bytes_view bytes = disk_->map(*file_->node, path_, offset, length, ec);
    return ec ? faulty_env::mapping() : faulty_env::mapping(file_, bytes);
  }

 private:
  friend class faulty_env;
  std::shared_ptr<disk_state> disk_;
  std::shared_ptr<disk_state::live_file> file_;
  asio::any_io_executor executor_;
  const void* owner_ = nullptr;
  std::string path_;
  bool writable_ = false;
};

inline faulty_env::file faulty_env::open(const std::string& path, open_mode mode, std::error_code& ec) {
  file result;
  result.file_ = disk_->open(path, mode, ec);
  result.disk_ = disk_;
  result.executor_ = get_executor();
  result.owner_ = this;
  result.path_ = path;
  result.writable_ = mode != open_mode::read;
  return result;
}

inline faulty_env::file_lock faulty_env::lock(const std::string& path, std::error_code& ec) {
  return file_lock(disk_, path, pid_, ec);
}

}  // namespace lockstep::test

static_assert(lockstep::environment<lockstep::test::faulty_env>);
