// disk_region: the cached bytes of one simulated file, at one address for as long as it lives.
//
// Bytes beyond the size are zeros, also when they come back after a shrink. Once the file was mapped, touching bytes
// beyond its last page faults, as a mapping beyond a real file's end does. Address space is reserved for the largest
// file and handed on from file to file within a thread, because system calls and page faults would otherwise be most
// of what a simulated file costs.
#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <new>
#include <utility>
#include <vector>

namespace lockstep::sim::detail {

/// Address space of a file that is gone: its first `accessible` bytes are zeros, to be read and written.
struct address_space {
  std::byte* base = nullptr;
  std::uint64_t accessible = 0;
};

/// The address spaces that a thread has to spare.
class address_space_pool {
 public:
  /// @return nullptr when the thread is about to end.
  static address_space_pool* of_this_thread() {
    if (ended()) return nullptr;
    thread_local address_space_pool pool;
    return &pool;
  }
  address_space_pool() = default;
  address_space_pool(const address_space_pool&) = delete;
  address_space_pool& operator=(const address_space_pool&) = delete;
  ~address_space_pool() {
    ended() = true;
    for (const address_space& each : spare_) ::munmap(each.base, size_of_each);
  }

  static constexpr std::uint64_t size_of_each = std::uint64_t{256} << 20;

  static address_space take() {
    if (address_space_pool* const pool = of_this_thread(); pool && !pool->spare_.empty()) {
      const address_space taken = pool->spare_.back();
      pool->spare_.pop_back();
      return taken;
    }
    void* const base = ::mmap(nullptr, size_of_each, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (base == MAP_FAILED) throw std::bad_alloc();
    return {static_cast<std::byte*>(base), 0};
  }

  /// @param used  How many of the first bytes may be other than zero.
  static void give_back(address_space returned, std::uint64_t used) noexcept {
    constexpr std::size_t most_spare = 256;
    constexpr std::uint64_t most_resident = 128 << 10;
    address_space_pool* const pool = of_this_thread();
    if (!pool || pool->spare_.size() >= most_spare) {
      ::munmap(returned.base, size_of_each);
      return;
    }
    if (used > most_resident) {
      ::madvise(returned.base + most_resident, returned.accessible - most_resident, MADV_DONTNEED);
    }
    std::memset(returned.base, 0, static_cast<std::size_t>(std::min(used, most_resident)));
    if (pool->spare_.capacity() == 0) pool->spare_.reserve(most_spare);
    pool->spare_.push_back(returned);
  }

 private:
  static bool& ended() {
    thread_local bool value = false;
    return value;
  }
  std::vector<address_space> spare_;
};

class disk_region {
 public:
  static constexpr std::uint64_t most = address_space_pool::size_of_each;

  disk_region() = default;
  disk_region(const disk_region&) = delete;
  disk_region& operator=(const disk_region&) = delete;
  ~disk_region() {
    if (space_.base) address_space_pool::give_back(space_, size_);
  }

  /// nullptr until the first byte comes or mapped() is called.
  [[nodiscard]] std::byte* data() noexcept { return space_.base; }
  [[nodiscard]] const std::byte* data() const noexcept { return space_.base; }
  [[nodiscard]] std::uint64_t size() const noexcept { return size_; }

  void resize(std::uint64_t size) {
    if (size > space_.accessible) extend(size);
    if (size < size_) clear_from(size);
    size_ = size;
    if (is_mapped_) forbid_beyond_end();
  }

  /// From now on what lies beyond the last page can't be touched.
  std::byte* mapped() {
    if (!space_.base) space_ = address_space_pool::take();
    is_mapped_ = true;
    forbid_beyond_end();
    return space_.base;
  }

 private:
  static std::uint64_t rounded(std::uint64_t size) {
    static const auto unit = static_cast<std::uint64_t>(::sysconf(_SC_PAGESIZE));
    return (size + unit - 1) / unit * unit;
  }
  void extend(std::uint64_t size) {
    if (!space_.base) space_ = address_space_pool::take();
    std::uint64_t wanted = rounded(size);
    if (wanted <= space_.accessible) return;
    constexpr std::uint64_t step = 128 << 10;
    if (!is_mapped_) wanted = std::min(most, std::max({wanted, 2 * space_.accessible, step}));
    protect(space_.accessible, wanted, PROT_READ | PROT_WRITE);
    space_.accessible = wanted;
  }
  void clear_from(std::uint64_t size) {
    constexpr std::uint64_t worth_a_call = 256 << 10;
    const std::uint64_t whole_pages = rounded(size);
    std::uint64_t up_to = size_;
    if (size_ > whole_pages + worth_a_call) {
      ::madvise(space_.base + whole_pages, space_.accessible - whole_pages, MADV_DONTNEED);
      up_to = whole_pages;
    }
    std::memset(space_.base + size, 0, static_cast<std::size_t>(up_to - size));
  }
  void forbid_beyond_end() {
    const std::uint64_t last = rounded(size_);
    if (last == space_.accessible) return;
    protect(last, space_.accessible, PROT_NONE);
    space_.accessible = last;
  }
  void protect(std::uint64_t from, std::uint64_t to, int how) {
    if (::mprotect(space_.base + from, to - from, how) != 0) throw std::bad_alloc();
  }

  address_space space_;
  std::uint64_t size_ = 0;
  bool is_mapped_ = false;
};

}  // namespace lockstep::sim::detail
