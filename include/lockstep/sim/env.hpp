// sim::env: the environment whose world is simulated. What a program asks of it depends on the seed and nothing else.
//
// A node's program gets one for each of its lives (node.hpp). Its executor, timers, connections and files honour
// cancellation as the real ones do; a dead program's calls do nothing and fail with crashed_error().
#pragma once

#include "lockstep/core/detail/held_handler.hpp"
#include "lockstep/sim/detail/disk_handles.hpp"
#include "lockstep/sim/node.hpp"

#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

namespace lockstep::sim {

/// See the top of this file and the concept `environment`.
class env {
 public:
  using stream = sim::stream;
  using acceptor = sim::acceptor;

  class timer;
  class file;
  using mapping = detail::disk_mapping;
  using file_lock = detail::disk_lock;

  env(process& life, node& on, random_stream random);
  env(const env&) = delete;
  env& operator=(const env&) = delete;

  [[nodiscard]] const asio::any_io_executor& get_executor() const noexcept { return executor_; }
  [[nodiscard]] time_point now() const noexcept { return local_time(life_.in().elapsed()); }
  [[nodiscard]] wall_time wall_now() const noexcept;
  std::uint64_t random() noexcept { return random_(); }

  awaitable<stream> connect(address where, duration timeout);
  acceptor listen(const address& where, std::error_code& ec);

  file open(const std::string& path, open_mode mode, std::error_code& ec);
  void rename(const std::string& from, const std::string& to, std::error_code& ec);
  void remove(const std::string& path, std::error_code& ec);
  void create_directory(const std::string& path, std::error_code& ec);
  std::vector<std::string> list(const std::string& path, std::error_code& ec);
  awaitable<std::error_code> sync_directory(std::string path, sync_on where);
  file_lock lock(const std::string& path, std::error_code& ec);

  /// The node it runs on: for scenarios; a program that asks it is not one that runs anywhere else.
  [[nodiscard]] node& on() const noexcept { return on_; }

 private:
  friend class timer;
  friend class file;
  using disk_state = disk::state;

  struct sync_job;
  struct connecting;

  // Of a dead program every call is refused.
  [[nodiscard]] bool dead(std::error_code& ec) const {
    ec = life_.dead() ? crashed_error() : std::error_code();
    return life_.dead();
  }

  [[nodiscard]] time_point local_time(duration world_time) const noexcept;
  // The first world time at which now() is not before `local`.
  [[nodiscard]] duration world_time(time_point local) const noexcept;

  template <class Begin>
  awaitable<std::error_code> run_sync(sync_on where, Begin begin);

  process& life_;
  node& on_;
  std::shared_ptr<disk_state> disk_;
  asio::any_io_executor executor_;
  random_stream random_;
  const duration born_;
  const std::int64_t drift_ppm_;
};

/// One-shot timer on the node's monotonic clock, see environment_timer.
class env::timer {
 public:
  explicit timer(env& of) : env_(of), waiting_(of.executor_) {}
  timer(const timer&) = delete;
  timer& operator=(const timer&) = delete;
  ~timer() {
    if (!env_.life_.dead()) world::cancel(scheduled_);
  }

  void expires_at(time_point when) {
    cancel();
    when_ = when;
  }
  void expires_after(duration after) { expires_at(env_.now() + after); }
  void cancel() {
    world::cancel(scheduled_);
    waiting_.notify_all(asio::error::operation_aborted);
  }
  awaitable<std::error_code> wait() {
    if (!scheduled_) {
      scheduled_ =
          env_.life_.in().schedule(env_.world_time(when_).count(), &env_.life_, detail::event_kind::timer, [this] {
            scheduled_ = nullptr;
            waiting_.notify_all();
          });
    }
    return waiting_.wait();
  }

 private:
  env& env_;
  wait_list waiting_;
  time_point when_{};
  detail::event* scheduled_ = nullptr;
};

/// A file on the node's disk, see environment_file.
class env::file {
 public:
  file() = default;

  [[nodiscard]] bool is_open() const noexcept { return file_ != nullptr; }

  std::size_t pread(std::uint64_t offset, mutable_bytes into, std::error_code& ec) const {
    if (env_->dead(ec)) return 0;
    return env_->disk_->pread(*file_->node, path_, offset, into, ec);
  }
  void pwrite(std::uint64_t offset, std::span<const bytes_view> from, std::error_code& ec) {
    if (!env_->dead(ec)) ec = env_->disk_->pwrite(*file_->node, path_, offset, from, writable_);
  }
  awaitable<std::error_code> datasync(sync_on where) {
    return env_->run_sync(where, [disk = env_->disk_, file = file_, path = path_](disk_state::sync& sync) {
      sync = disk->begin_datasync(file->node, path);
      return std::error_code();
    });
  }
  awaitable<std::error_code> pwrite_datasync(std::uint64_t offset, std::span<const bytes_view> from, sync_on where) {
    return env_->run_sync(where, [disk = env_->disk_, file = file_, path = path_, offset, from,
                                  writable = writable_](disk_state::sync& sync) {
      const std::error_code ec = disk->pwrite(*file->node, path, offset, from, writable);
      if (!ec) sync = disk->begin_datasync(file->node, path);
      return ec;
    });
  }
  void truncate(std::uint64_t length, std::error_code& ec) {
    if (!env_->dead(ec)) env_->disk_->truncate(*file_->node, path_, length, ec, writable_);
  }
  void allocate(std::uint64_t offset, std::uint64_t length, std::error_code& ec) {
    if (!env_->dead(ec)) env_->disk_->allocate(*file_->node, path_, offset, length, ec, writable_);
  }
  [[nodiscard]] std::uint64_t size(std::error_code& ec) const { return env_->dead(ec) ? 0 : file_->node->size; }
  [[nodiscard]] env::mapping map(std::uint64_t offset, std::uint64_t length, std::error_code& ec) const {
    if (env_->dead(ec)) return {};
    const bytes_view bytes = env_->disk_->map(*file_->node, path_, offset, length, ec);
    return ec ? env::mapping() : env::mapping(file_, bytes);
  }

 private:
  friend class env;
  env* env_ = nullptr;
  std::shared_ptr<detail::live_file> file_;
  std::string path_;
  bool writable_ = false;
};

}  // namespace lockstep::sim

#include "lockstep/sim/detail/env_impl.hpp"
#include "lockstep/sim/detail/node_impl.hpp"
