// real::file, real::mapping, real::file_lock: POSIX files as the concept environment_file asks for them.
#pragma once

#include "lockstep/core/detail/held_handler.hpp"
#include "lockstep/core/errors.hpp"
#include "lockstep/env/disk_threads.hpp"
#include "lockstep/env/env.hpp"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>
#include <asio/executor_work_guard.hpp>
#include <asio/io_context.hpp>
#include <asio/prefer.hpp>

#include <algorithm>
#include <array>
#include <cassert>
#include <cerrno>
#include <charconv>
#include <climits>
#include <cstddef>
#include <optional>

namespace lockstep::real {

namespace detail {

inline std::error_code last_error() noexcept { return {errno, std::system_category()}; }

/// Owns a file descriptor.
class descriptor {
 public:
  descriptor() = default;
  explicit descriptor(int fd) noexcept : fd_(fd) {}
  descriptor(descriptor&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  descriptor& operator=(descriptor&& other) noexcept {
    if (this != &other) {
      reset();
      fd_ = std::exchange(other.fd_, -1);
    }
    return *this;
  }
  ~descriptor() { reset(); }
  [[nodiscard]] int get() const noexcept { return fd_; }
  [[nodiscard]] bool is_open() const noexcept { return fd_ >= 0; }
  void reset() noexcept {
    if (fd_ >= 0) ::close(std::exchange(fd_, -1));
  }

 private:
  int fd_ = -1;
};

/// A call on its way to a disk thread and back. Lies in the awaiting coroutine's frame.
template <class Call>
class disk_call : disk_threads::job, lockstep::detail::held_handler {
 public:
  disk_call(const asio::any_io_executor& executor, disk_threads& on, const Call& call)
      : executor_(asio::prefer(executor, asio::execution::outstanding_work.tracked)), on_(on), call_(call) {}

  template <class Handler>
  void start(Handler&& handler) {
    hold(std::forward<Handler>(handler));
    job::run = [](job* started) {
      auto* const self = static_cast<disk_call*>(started);
      self->result_ = self->call_();
      const asio::any_io_executor back = self->executor_;
      if (const auto* const io = back.target<tracked_io_executor>()) {
        asio::post(*io, completion(self));
      } else {
        asio::post(back, completion(self));
      }
    };
    on_.submit(this);
  }

  [[nodiscard]] std::error_code result() const noexcept { return result_; }

 private:
  using tracked_io_executor = std::decay_t<decltype(asio::prefer(std::declval<asio::io_context::executor_type>(),
                                                                 asio::execution::outstanding_work.tracked))>;

  // A disk thread has no memory from Asio to reuse: what an io_context queues lies in the call, too.
  template <class T>
  struct room {
    using value_type = T;
    disk_call* in;

    explicit room(disk_call* of) noexcept : in(of) {}
    template <class U>
    room(const room<U>& other) noexcept : in(other.in) {}  // NOLINT(google-explicit-constructor)
    T* allocate(std::size_t count) {
      static_assert(sizeof(T) <= sizeof(disk_call::queued_) && alignof(T) <= alignof(std::max_align_t));
      assert(count == 1);
      (void)count;
      return reinterpret_cast<T*>(in->queued_);
    }
    void deallocate(T*, std::size_t) noexcept {}
    template <class U>
    friend bool operator==(const room& a, const room<U>& b) noexcept {
      return a.in == b.in;
    }
  };

  // Owns the suspended coroutine while it is queued.
  class completion {
   public:
    using allocator_type = room<void>;
    [[nodiscard]] allocator_type get_allocator() const noexcept { return allocator_type(of_); }

    explicit completion(disk_call* of) noexcept : of_(of) {}
    completion(completion&& other) noexcept : of_(std::exchange(other.of_, nullptr)) {}
    ~completion() {
      if (of_) of_->finish(false);
    }
    void operator()() { std::exchange(of_, nullptr)->finish(true); }

   private:
    disk_call* of_;
  };

  asio::any_io_executor executor_;
  disk_threads& on_;
  Call call_;
  std::error_code result_;
  alignas(std::max_align_t) std::byte queued_[96];
};

/// Runs `call` (of signature std::error_code()) on a disk thread and resumes on `executor`. Not cancellable.
template <class Call>
awaitable<std::error_code> run_on_disk_thread(const asio::any_io_executor& executor, disk_threads& on,
                                              const Call& call) {
  disk_call<Call> running(executor, on, call);
  disk_call<Call>* const at = &running;
  auto start = [at](auto&& handler) { at->start(std::forward<decltype(handler)>(handler)); };
  co_await asio::async_initiate<const asio::use_awaitable_t<>, void()>(start, use_awaitable);
  co_return running.result();
}

inline std::error_code sync_directory(const std::string& path) {
  const descriptor directory(::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!directory.is_open() || ::fsync(directory.get()) != 0) return last_error();
  return {};
}

inline int open_flags(open_mode mode) noexcept {
  switch (mode) {
    case open_mode::read: return O_RDONLY;
    case open_mode::read_write: return O_RDWR;
    case open_mode::create: return O_RDWR | O_CREAT;
    case open_mode::create_new: return O_RDWR | O_CREAT | O_EXCL;
    case open_mode::truncate: return O_RDWR | O_CREAT | O_TRUNC;
  }
  return O_RDONLY;
}

}  // namespace detail

/// Bytes of a file, mapped for reading. A read error of the disk under them arrives as SIGBUS.
class mapping {
 public:
  mapping() = default;
  mapping(mapping&& other) noexcept
      : base_(std::exchange(other.base_, nullptr)),
        mapped_(std::exchange(other.mapped_, 0)),
        bytes_(std::exchange(other.bytes_, {})) {}
  mapping& operator=(mapping&& other) noexcept {
    if (this != &other) {
      unmap();
      base_ = std::exchange(other.base_, nullptr);
      mapped_ = std::exchange(other.mapped_, 0);
      bytes_ = std::exchange(other.bytes_, {});
    }
    return *this;
  }
  ~mapping() { unmap(); }

  static mapping of(int fd, std::uint64_t offset, std::uint64_t length, std::error_code& ec) {
    mapping result;
    ec.clear();
    if (length == 0) return result;
    static const auto page = static_cast<std::uint64_t>(::sysconf(_SC_PAGESIZE));
    const std::uint64_t before = offset % page;
    void* const base = ::mmap(nullptr, length + before, PROT_READ, MAP_SHARED, fd, static_cast<off_t>(offset - before));
    if (base == MAP_FAILED) {
      ec = detail::last_error();
      return result;
    }
    result.base_ = base;
    result.mapped_ = length + before;
    result.bytes_ = {static_cast<const std::byte*>(base) + before, length};
    return result;
  }

  /// Valid until this mapping is destroyed or assigned to.
  [[nodiscard]] bytes_view bytes() const noexcept { return bytes_; }

 private:
  void unmap() noexcept {
    if (base_) ::munmap(base_, mapped_);
  }
  void* base_ = nullptr;
  std::size_t mapped_ = 0;
  bytes_view bytes_;
};

/// See environment_file. Thread safety: none, though a mapping of it may be read anywhere.
class file {
 public:
  file() = default;

  static file open(const std::string& path, open_mode mode, const asio::any_io_executor& executor, disk_threads& disk,
                   std::error_code& ec) {
    file result;
    result.fd_ = detail::descriptor(::open(path.c_str(), detail::open_flags(mode) | O_CLOEXEC, 0644));
    ec = result.is_open() ? std::error_code() : detail::last_error();
    result.executor_ = executor;
    result.disk_ = &disk;
    return result;
  }

  [[nodiscard]] bool is_open() const noexcept { return fd_.is_open(); }

  std::size_t pread(std::uint64_t offset, mutable_bytes into, std::error_code& ec) const {
    ec.clear();
    std::size_t done = 0;
    while (done < into.size()) {
      const ssize_t got = ::pread(fd_.get(), into.data() + done, into.size() - done, static_cast<off_t>(offset + done));
      if (got < 0 && errno == EINTR) continue;
      if (got < 0) ec = detail::last_error();
      if (got <= 0) break;
      done += static_cast<std::size_t>(got);
    }
    return done;
  }

  void pwrite(std::uint64_t offset, std::span<const bytes_view> from, std::error_code& ec) {
    ec = write_all(fd_.get(), offset, from);
  }

  awaitable<std::error_code> datasync(sync_on where) {
    const auto sync = [fd = fd_.get()] { return sync_data(fd); };
    if (where == sync_on::caller) co_return sync();
    co_return co_await detail::run_on_disk_thread(executor_, *disk_, sync);
  }

  awaitable<std::error_code> pwrite_datasync(std::uint64_t offset, std::span<const bytes_view> from, sync_on where) {
    const auto write_and_sync = [fd = fd_.get(), offset, from] {
      const std::error_code ec = write_all(fd, offset, from);
      return ec ? ec : sync_data(fd);
    };
    if (where == sync_on::caller) co_return write_and_sync();
    co_return co_await detail::run_on_disk_thread(executor_, *disk_, write_and_sync);
  }

  void truncate(std::uint64_t length, std::error_code& ec) {
    ec = ::ftruncate(fd_.get(), static_cast<off_t>(length)) == 0 ? std::error_code() : detail::last_error();
  }

  void allocate(std::uint64_t offset, std::uint64_t length, std::error_code& ec) {
#ifdef FALLOC_FL_KEEP_SIZE
    const int rc = ::fallocate(fd_.get(), FALLOC_FL_KEEP_SIZE, static_cast<off_t>(offset), static_cast<off_t>(length));
    ec = rc == 0 ? std::error_code() : detail::last_error();
    if (ec == std::errc::operation_not_supported) ec = std::make_error_code(std::errc::not_supported);
#else
    (void)offset, (void)length;
    ec = std::make_error_code(std::errc::not_supported);
#endif
  }

  [[nodiscard]] std::uint64_t size(std::error_code& ec) const {
    struct stat status {};
    if (::fstat(fd_.get(), &status) != 0) {
      ec = detail::last_error();
      return 0;
    }
    ec.clear();
    return static_cast<std::uint64_t>(status.st_size);
  }

  [[nodiscard]] real::mapping map(std::uint64_t offset, std::uint64_t length, std::error_code& ec) const {
    return real::mapping::of(fd_.get(), offset, length, ec);
  }

 private:
  static std::error_code sync_data(int fd) { return ::fdatasync(fd) == 0 ? std::error_code() : detail::last_error(); }

  static std::error_code write_all(int fd, std::uint64_t offset, std::span<const bytes_view> from) {
    constexpr std::size_t most = 64;
    std::size_t skip = 0;  // bytes of from.front() that are written already
    while (!from.empty()) {
      if (from.front().empty()) {  // a call that writes nothing must not look like a file that takes nothing
        from = from.subspan(1);
        continue;
      }
      std::array<iovec, most> gather;
      std::size_t count = 0;
      for (; count < std::min(from.size(), most); ++count) {
        gather[count] = {const_cast<std::byte*>(from[count].data()), from[count].size()};
      }
      gather[0].iov_base = static_cast<std::byte*>(gather[0].iov_base) + skip;
      gather[0].iov_len -= skip;
      const ssize_t wrote = ::pwritev(fd, gather.data(), static_cast<int>(count), static_cast<off_t>(offset));
      if (wrote < 0 && errno == EINTR) continue;
      if (wrote < 0) return detail::last_error();
      offset += static_cast<std::uint64_t>(wrote);
      skip += static_cast<std::size_t>(wrote);
      while (!from.empty() && skip >= from.front().size()) {
        skip -= from.front().size();
        from = from.subspan(1);
      }
      if (wrote == 0 && !from.empty()) return std::make_error_code(std::errc::io_error);
    }
    return {};
  }

  detail::descriptor fd_;
  asio::any_io_executor executor_;
  disk_threads* disk_ = nullptr;
};

/// An flock(2) on a file that holds its holder's pid. Released by the destructor and by the process's end.
class file_lock {
 public:
  file_lock() = default;

  static file_lock acquire(const std::string& path, std::error_code& ec) {
    file_lock result;
    detail::descriptor fd(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644));
    ec = fd.is_open() ? std::error_code() : detail::last_error();
    if (ec) return result;
    if (::flock(fd.get(), LOCK_EX | LOCK_NB) != 0) {
      ec = errno == EWOULDBLOCK ? make_error_code(errc::log_locked) : detail::last_error();
      result.holder_pid_ = read_pid(fd.get());
      return result;
    }
    const std::string pid = std::to_string(::getpid()) + "\n";
    if (::ftruncate(fd.get(), 0) != 0 || ::pwrite(fd.get(), pid.data(), pid.size(), 0) < 0) {
      ec = detail::last_error();
      return result;
    }
    result.holder_pid_ = ::getpid();
    result.fd_ = std::move(fd);
    return result;
  }

  [[nodiscard]] bool held() const noexcept { return fd_.is_open(); }
  /// Who holds the lock: this process, or the one that refused it; 0 when not known.
  [[nodiscard]] long holder_pid() const noexcept { return holder_pid_; }

 private:
  static long read_pid(int fd) {
    std::array<char, 32> text{};
    const ssize_t got = ::pread(fd, text.data(), text.size(), 0);
    long pid = 0;
    if (got > 0) std::from_chars(text.data(), text.data() + got, pid);
    return pid;
  }
  detail::descriptor fd_;
  long holder_pid_ = 0;
};

}  // namespace lockstep::real
