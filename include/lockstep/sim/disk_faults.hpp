// What a simulated disk is asked to do, what goes wrong there, and what a crash leaves: the words of sim/disk.hpp.
#pragma once

#include <array>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <system_error>
#include <vector>

namespace lockstep::sim {

inline constexpr std::size_t page_size = 4096;
inline constexpr std::size_t sector_size = 512;

enum class op_kind {
  open,    ///< of a file that exists
  create,  ///< open() that makes the file
  pread,
  pwrite,    ///< also the first half of pwrite_datasync
  datasync,  ///< counted when it begins
  truncate,  ///< also open() that empties an existing file: `open`, then `truncate`
  allocate,
  map,
  rename,
  remove,
  create_directory,
  list,
  sync_directory,  ///< counted when it begins
  lock,
};

inline constexpr std::size_t op_kinds = static_cast<std::size_t>(op_kind::lock) + 1;

inline const char* to_string(op_kind kind) {
  constexpr std::array<const char*, op_kinds> names = {
      "open", "create", "pread",  "pwrite",           "datasync", "truncate",       "allocate",
      "map",  "rename", "remove", "create_directory", "list",     "sync_directory", "lock"};
  return names[static_cast<std::size_t>(kind)];
}

/// One operation that a program asked of the disk.
struct op {
  std::uint64_t number = 0;  ///< 0 for the disk's first operation
  op_kind kind{};
  std::string path;
  std::string to;  ///< of a rename
  std::uint64_t offset = 0;
  std::uint64_t length = 0;
  std::error_code error;  ///< how it ended

  /// "12 pwrite /log/1.seg [4096, +100): No space left on device"
  [[nodiscard]] std::string description() const {
    std::string text = std::to_string(number) + " " + to_string(kind) + " " + path;
    if (!to.empty()) text += " -> " + to;
    if (kind == op_kind::truncate) text += " to " + std::to_string(length);
    if (kind == op_kind::pread || kind == op_kind::pwrite || kind == op_kind::allocate || kind == op_kind::map) {
      text += " [" + std::to_string(offset) + ", +" + std::to_string(length) + ")";
    }
    return error ? text + ": " + error.message() : text;
  }
};

/// An errno value as the real files report it.
inline std::error_code disk_error(int number) { return {number, std::system_category()}; }

namespace detail {

class crash_category final : public std::error_category {
 public:
  const char* name() const noexcept override { return "lockstep.sim.disk"; }
  std::string message(int) const override { return "simulated crash"; }
};

}  // namespace detail

/// What every operation answers from the crash on. Equal to nothing that a real file reports.
inline std::error_code crashed_error() {
  static const detail::crash_category category;
  return {1, category};
}

enum class times { once, from_then_on };

/// Where a misdirected write lands: at the same place within another page.
struct elsewhere {
  std::string path = {};   ///< empty: the file that was meant
  std::uint64_t page = 0;  ///< number of the page where its first byte lands
};

/// What goes wrong. Name the fields: `disk.inject({.nth = 2, .kinds = {op_kind::datasync}})`.
struct fault {
  std::uint64_t nth = 0;            ///< which of the matching operations from now on; 0 is the next
  std::vector<op_kind> kinds = {};  ///< empty: all
  std::string path_contains = {};   ///< empty: any path
  std::error_code error = disk_error(EIO);
  times how_often = times::once;
  std::uint64_t short_write = 0;  ///< bytes that a failing pwrite still puts into the cache
  /// Only a pread, pwrite, allocate or map whose range holds this byte: a bad sector.
  std::optional<std::uint64_t> touching = {};
  /// Only pwrite, which then does not fail. The file grows as asked, and keeps at the place that was meant what was
  /// there. The bytes replace those of the other place in the cache and on the disk at once, as far as that file
  /// reaches; when there is no such file, the write is lost.
  std::optional<elsewhere> misdirect = {};
};

/// What a power loss leaves of that which no sync covered.
enum class survives { nothing, everything, something };

struct power_cut {
  survives data = survives::nothing;
  survives size = survives::nothing;
  survives directory = survives::nothing;
  std::uint64_t seed = 0;  ///< decides every `something`

  static power_cut seeded(std::uint64_t seed) {
    return {survives::something, survives::something, survives::something, seed};
  }
};

/// Which bytes and names: those that everybody reads, or those that a power loss leaves for sure.
enum class view { cached, durable };

}  // namespace lockstep::sim
