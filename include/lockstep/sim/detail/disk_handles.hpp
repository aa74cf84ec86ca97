// What a program holds of a simulated disk: mappings and locks, the same for every environment that stands on one.
#pragma once

#include "lockstep/sim/detail/disk_state.hpp"

#include <memory>
#include <utility>

namespace lockstep::sim::detail {

/// Sees later writes, and stays valid while held, also when the file is removed or the disk is gone. Touching bytes
/// beyond the file's last page ends the process, as SIGBUS would.
class disk_mapping {
 public:
  disk_mapping() = default;
  disk_mapping(std::shared_ptr<const live_file> of, bytes_view bytes) : file_(std::move(of)), bytes_(bytes) {}
  disk_mapping(disk_mapping&& other) noexcept
      : file_(std::move(other.file_)), bytes_(std::exchange(other.bytes_, {})) {}
  disk_mapping& operator=(disk_mapping&& other) noexcept {
    file_ = std::move(other.file_);
    bytes_ = std::exchange(other.bytes_, {});
    return *this;
  }
  [[nodiscard]] bytes_view bytes() const noexcept { return bytes_; }

 private:
  std::shared_ptr<const live_file> file_;
  bytes_view bytes_;
};

/// See environment's lock(): released by the destructor; of an earlier life of the disk it holds nothing any more.
class disk_lock {
 public:
  disk_lock() = default;
  /// Asks for the lock. Afterwards held(), or `ec` and who holds it.
  disk_lock(std::shared_ptr<disk_state> disk, const std::string& path, long pid, std::error_code& ec)
      : disk_(std::move(disk)), file_(disk_->lock(path, pid, holder_pid_, ec)) {}
  disk_lock(disk_lock&& other) noexcept
      : holder_pid_(std::exchange(other.holder_pid_, 0)),
        disk_(std::move(other.disk_)),
        file_(std::move(other.file_)) {}
  disk_lock& operator=(disk_lock&& other) noexcept {
    release();
    disk_ = std::move(other.disk_);
    file_ = std::move(other.file_);
    holder_pid_ = std::exchange(other.holder_pid_, 0);
    return *this;
  }
  ~disk_lock() { release(); }

  [[nodiscard]] bool held() const noexcept { return file_ != nullptr; }
  [[nodiscard]] long holder_pid() const noexcept { return holder_pid_; }

 private:
  void release() noexcept {
    if (file_) disk_->unlock(*file_);
    file_ = nullptr;
  }
  long holder_pid_ = 0;  // before file_, whose initializer sets it
  std::shared_ptr<disk_state> disk_;
  std::shared_ptr<live_file> file_;
};

}  // namespace lockstep::sim::detail
