// faulty_disk: a disk in memory that fails on demand and knows what a crash may leave of it.
//
// It is the file system under faulty_env (faulty_env.hpp). It outlives the programs that use it:
//
//   faulty_disk disk;
//   disk.crash_at(17);                        // the 18th operation from here and all after it fail
//   { asio::io_context io; faulty_env env(io.get_executor(), disk); run(io, program(env)); }
//   for_each_crash_image(disk, 50, [&](faulty_disk& image, const std::string& which) {
//     SCOPED_TRACE(which);
//     asio::io_context io; faulty_env env(io.get_executor(), image); /* recover, and look */ });
//
// What it models, and where it is harsher than any one real file system (what POSIX promises is all it promises):
// - A file has *cached* bytes, which everybody reads, and *durable* bytes, which a power loss leaves. A write stays
//   pending, as whole pages of 4 KiB, until a datasync of that file that began after it has ended. A datasync of one
//   file makes no other file and no directory entry durable.
// - A power loss keeps of the pending page writes any subset, in any order, each page at any of the states it went
//   through and torn at sectors of 512 bytes; size changes survive in their order (as in a journal) but
//   independently of the bytes, so that zeros or old bytes may stand inside the size.
// - Directory entries (created, renamed, removed) are pending until sync_directory of their directory; a prefix of
//   the pending ones survives a power loss.
// - A failed datasync marks its pages clean: the cache keeps the bytes, the disk keeps the old ones, and no later
//   datasync writes them, unless a page is written to again.
// - Space is counted in pages, written or allocated. A write beyond the capacity takes what fits and fails by ENOSPC.
// Directories cost no space; times, owners, permissions and links do not exist. Relative paths start at the root.
#pragma once

#include "lockstep/core/checksum.hpp"
#include "lockstep/core/errors.hpp"
#include "lockstep/env/env.hpp"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cassert>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <functional>
#include <limits>
#include <map>
#include <memory>
#include <new>
#include <optional>
#include <random>
#include <set>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

namespace lockstep::test {

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

inline const char* to_string(op_kind kind) {
  constexpr std::array names = {"open",           "create", "pread",  "pwrite", "datasync",         "truncate",
                                "allocate",       "map",    "rename", "remove", "create_directory", "list",
                                "sync_directory", "lock"};
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

/// What every operation answers from the crash on. Equal to nothing that a real file reports.
std::error_code crashed_error();

enum class times { once, from_then_on };

/// What goes wrong. Name the fields: `disk.inject({.nth = 2, .kinds = {op_kind::datasync}})`.
struct fault {
  std::uint64_t nth = 0;            ///< which of the matching operations from now on; 0 is the next
  std::vector<op_kind> kinds = {};  ///< empty: all
  std::string path_contains = {};   ///< empty: any path
  std::error_code error = disk_error(EIO);
  times how_often = times::once;
  std::uint64_t short_write = 0;  ///< bytes that a failing pwrite still puts into the cache
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

enum class view { cached, durable };

/// See the top of this file. Thread safety: none.
class faulty_disk {
 public:
  /// @param capacity  In bytes; unlimited by default. A file's size is limited to 256 MiB.
  explicit faulty_disk(std::uint64_t capacity = std::numeric_limits<std::uint64_t>::max());

  // --- faults -------------------------------------------------------------------------------------------------------
  void inject(fault what);
  /// inject() of the `nth` operation of any kind from now on.
  void fail_operation(std::uint64_t nth, int error_number = EIO);
  void clear_faults();
  /// How many operations failed by an injected fault.
  [[nodiscard]] std::uint64_t faults_hit() const;

  /// The nth operation from now on (0 is the next) and all after it fail with crashed_error() and change nothing,
  /// except that the pwrite which it hits leaves its first `short_write` bytes in the cache.
  void crash_at(std::uint64_t nth, std::uint64_t short_write = 0);
  void crash();
  [[nodiscard]] bool crashed() const;

  /// Changes the capacity, also below what is used.
  void set_capacity(std::uint64_t bytes);
  [[nodiscard]] std::uint64_t used() const;

  // --- syncs in flight ----------------------------------------------------------------------------------------------
  /// From now on syncs on disk threads begin and do not end, until release_syncs(). Those of sync_on::caller end.
  void hold_syncs();
  /// Lets the held ones end, in their order, when the program's executor runs; and no new one is held.
  void release_syncs();
  [[nodiscard]] std::size_t held_syncs() const;

  // --- what happened ------------------------------------------------------------------------------------------------
  [[nodiscard]] std::uint64_t operations() const;
  [[nodiscard]] std::uint64_t operations(op_kind kind) const;
  [[nodiscard]] const std::vector<op>& history() const;
  /// The last operations, one a line, for a failed test's message.
  [[nodiscard]] std::string story(std::size_t last = 30) const;
  /// Called as each operation begins, before it is decided whether it fails: may inject(), crash(), hold_syncs() and
  /// look, and must not use an env of this disk.
  void on_operation(std::function<void(const op&)> hook);

  // --- what is on it (no operation is counted) ----------------------------------------------------------------------
  /// Paths of all files, sorted. Durable: those that a power loss leaves for sure.
  [[nodiscard]] std::vector<std::string> files(view which = view::cached) const;
  [[nodiscard]] bool exists(const std::string& path, view which = view::cached) const;
  /// Bytes of a file; nothing when there is no such file. Durable: its durable bytes under its durable name.
  [[nodiscard]] std::optional<std::vector<std::byte>> bytes(const std::string& path, view which = view::cached) const;
  /// Whether `expected` lies durable at `offset` of the file: the oracle for "an ack means a completed sync".
  [[nodiscard]] bool is_durable(const std::string& path, std::uint64_t offset, bytes_view expected) const;
  /// Makes the file's bytes these, cached and durable, as if they had been so all the time. Creates the file and its
  /// directories, durably.
  void replace(const std::string& path, bytes_view bytes);
  void flip_bit(const std::string& path, std::uint64_t offset, unsigned bit = 0);
  /// Creates a directory and those above it, durably.
  void make_directory(const std::string& path);
  /// Makes everything durable, as sync(2).
  void settle();
  /// A checksum of all cached files and their bytes.
  [[nodiscard]] std::uint64_t fingerprint() const;

  // --- images: new disks without faults, history or locks -----------------------------------------------------------
  /// The program was killed: the cache survives, with what is pending still pending.
  [[nodiscard]] faulty_disk process_crash() const;
  /// The machine lost power: only what is durable survives, and of the rest what `cut` says.
  [[nodiscard]] faulty_disk power_loss(const power_cut& cut) const;
  [[nodiscard]] faulty_disk power_loss(std::uint64_t seed) const { return power_loss(power_cut::seeded(seed)); }

  struct state;  // for faulty_env

 private:
  friend class faulty_env;
  explicit faulty_disk(std::shared_ptr<state> of) : state_(std::move(of)) {}
  std::shared_ptr<state> state_;
};

/// Calls check(faulty_disk& image, const std::string& which) with what a crash now may leave: the process crash, the
/// corner cases of a power loss, and seeded ones, at most `budget` in all and none twice.
template <class Check>
void for_each_crash_image(const faulty_disk& disk, std::size_t budget, Check check) {
  constexpr auto none = survives::nothing;
  constexpr auto all = survives::everything;
  struct corner {
    const char* which;
    power_cut cut;
  };
  static const std::array corners = {
      corner{"power loss, only what was synced survives", {none, none, none, 0}},
      corner{"power loss, everything survives", {all, all, all, 0}},
      corner{"power loss, sizes and names survive without data", {none, all, all, 0}},
      corner{"power loss, data survives without names", {all, all, none, 0}},
      corner{"power loss, names survive without data and sizes", {none, none, all, 0}},
      corner{"power loss, data and names survive without sizes", {all, none, all, 0}},
  };
  std::set<std::uint64_t> seen;
  std::size_t shown = 0;
  if (shown < budget) {
    faulty_disk image = disk.process_crash();
    ++shown;
    check(image, std::string("process crash"));
  }
  // @return whether it was a new one.
  const auto show = [&](const power_cut& cut, const std::string& which) {
    if (shown >= budget) return false;
    faulty_disk image = disk.power_loss(cut);
    if (!seen.insert(image.fingerprint()).second) return false;
    ++shown;
    check(image, which);
    return true;
  };
  for (const corner& each : corners) show(each.cut, each.which);
  // A long row of seeds that show nothing new is taken for the end.
  std::size_t in_vain = 0;
  for (std::uint64_t seed = 1; shown < budget && in_vain < 30; ++seed) {
    in_vain = show(power_cut::seeded(seed), "power loss, seed " + std::to_string(seed)) ? 0 : in_vain + 1;
  }
}

/// Crashes `program` at each of its operations in turn, on a new disk each time, and checks every image.
/// @param program  story(faulty_disk&): runs to its end or to the crash; returns what it was promised (its acks).
/// @param check    void(faulty_disk& image, const story&, const std::string& which)
/// @return the number of the program's operations.
template <class Program, class Check>
std::uint64_t for_each_crash(std::size_t images_per_crash, Program program, Check check) {
  for (std::uint64_t at = 0;; ++at) {
    faulty_disk disk;
    disk.crash_at(at);
    const auto story = program(disk);
    const std::string where =
        disk.crashed() ? "crash at operation " + std::to_string(at) : std::string("crash at the end");
    for_each_crash_image(disk, images_per_crash, [&](faulty_disk& image, const std::string& which) {
      check(image, story, where + ", " + which + "\n" + disk.story());
    });
    if (!disk.crashed()) return at;
  }
}

// --------------------------------------------------------------------------------------------------------------------

namespace detail {

class crash_category final : public std::error_category {
 public:
  const char* name() const noexcept override { return "faulty_disk"; }
  std::string message(int) const override { return "simulated crash"; }
};

using page = std::array<std::byte, page_size>;
using page_ptr = std::shared_ptr<const page>;  // null: zeros

inline page_ptr page_of(const std::byte* from) {
  const bool zeros = std::all_of(from, from + page_size, [](std::byte b) { return b == std::byte{}; });
  if (zeros) return nullptr;
  const auto copy = std::make_shared<page>();
  std::memcpy(copy->data(), from, page_size);
  return copy;
}

/// `of` with zeros from `cut` on.
inline page_ptr cut_page(const page_ptr& of, std::size_t cut) {
  if (!of || cut >= page_size) return of;
  page copy = *of;
  std::fill(copy.begin() + static_cast<std::ptrdiff_t>(cut), copy.end(), std::byte{});
  return page_of(copy.data());
}

constexpr std::uint64_t pages_of(std::uint64_t bytes) { return (bytes + page_size - 1) / page_size; }

/// The cached bytes of one file, at one address for its whole life. Touching bytes beyond the last page faults, as
/// a mapping beyond a real file's end does.
class region {
 public:
  static constexpr std::uint64_t most = std::uint64_t{256} << 20;

  region()
      : base_(static_cast<std::byte*>(
            ::mmap(nullptr, most, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0))) {
    if (base_ == MAP_FAILED) throw std::bad_alloc();
  }
  region(const region&) = delete;
  region& operator=(const region&) = delete;
  ~region() { ::munmap(base_, most); }

  [[nodiscard]] std::byte* data() noexcept { return base_; }
  [[nodiscard]] const std::byte* data() const noexcept { return base_; }

  /// New bytes are zeros, and so are those that come back after a shrink.
  void resize(std::uint64_t size) {
    const std::uint64_t accessible = rounded(size);
    if (accessible > accessible_) {
      protect(accessible_, accessible, PROT_READ | PROT_WRITE);
    } else if (accessible < accessible_) {
      ::madvise(base_ + accessible, accessible_ - accessible, MADV_DONTNEED);
      protect(accessible, accessible_, PROT_NONE);
    }
    accessible_ = accessible;
    if (size < size_) std::memset(base_ + size, 0, std::min(size_, accessible) - size);
    size_ = size;
  }

 private:
  static std::uint64_t rounded(std::uint64_t size) {
    static const auto unit = std::max<std::uint64_t>(page_size, static_cast<std::uint64_t>(::sysconf(_SC_PAGESIZE)));
    return (size + unit - 1) / unit * unit;
  }
  void protect(std::uint64_t from, std::uint64_t to, int how) {
    if (::mprotect(base_ + from, to - from, how) != 0) throw std::bad_alloc();
  }
  std::byte* base_;
  std::uint64_t size_ = 0;
  std::uint64_t accessible_ = 0;
};

struct inode {
  // A state that a page went through and that no sync has covered yet.
  struct page_state {
    std::uint64_t sequence = 0;
    page_ptr content;
    std::optional<std::size_t> cut;  // it came about by a truncate that zeroed the page from here on
    bool lost = false;               // marked clean by a failed sync
  };
  struct size_state {
    std::uint64_t sequence = 0;
    std::uint64_t size = 0;
  };

  region cached;
  std::uint64_t size = 0;
  std::map<std::uint64_t, page_ptr> durable;
  std::uint64_t durable_size = 0;
  std::map<std::uint64_t, std::vector<page_state>> pending;  // by page, oldest first, never empty vectors
  std::vector<size_state> sizes;
  std::set<std::uint64_t> blocks;  // pages that hold space
  std::size_t syncs_in_flight = 0;

  void remember_page(std::uint64_t number, std::uint64_t sequence, std::optional<std::size_t> cut) {
    auto& states = pending[number];
    states.push_back({sequence, cut == 0 ? nullptr : page_of(cached.data() + number * page_size), cut, false});
    // Forgetting a state in the middle only forgets something that a crash might have left.
    constexpr std::size_t remembered = 12;
    if (states.size() > remembered && syncs_in_flight == 0 && !states[remembered / 2].cut) {
      states.erase(states.begin() + remembered / 2);
    }
  }

  void remember_size(std::uint64_t sequence, std::uint64_t changed) {
    size = changed;
    sizes.push_back({sequence, size});
    if (sizes.size() > 64 && syncs_in_flight == 0 && sizes[31].size < sizes[32].size &&
        sizes[32].size < sizes[33].size) {
      sizes.erase(sizes.begin() + 32);
    }
  }

  void make_durable(std::uint64_t up_to) {
    for (auto at = pending.begin(); at != pending.end();) {
      auto& states = at->second;
      auto covered = states.begin();
      page_ptr content;
      if (const auto old = durable.find(at->first); old != durable.end()) content = old->second;
      for (; covered != states.end() && covered->sequence <= up_to; ++covered) {
        if (covered->cut)
          content = cut_page(content, *covered->cut);
        else if (!covered->lost)
          content = covered->content;
      }
      if (content)
        durable[at->first] = content;
      else
        durable.erase(at->first);
      states.erase(states.begin(), covered);
      at = states.empty() ? pending.erase(at) : std::next(at);
    }
    while (!sizes.empty() && sizes.front().sequence <= up_to) {
      durable_size = sizes.front().size;
      sizes.erase(sizes.begin());
    }
  }

  void mark_clean(std::uint64_t up_to) {
    for (auto& [number, states] : pending) {
      for (page_state& each : states) {
        if (each.sequence <= up_to) each.lost = true;
      }
    }
  }

  [[nodiscard]] std::vector<std::byte> durable_bytes() const {
    std::vector<std::byte> bytes(durable_size);
    for (const auto& [number, content] : durable) place(bytes, number, content);
    return bytes;
  }

  static void place(std::vector<std::byte>& bytes, std::uint64_t number, const page_ptr& content) {
    const std::uint64_t at = number * page_size;
    if (!content || at >= bytes.size()) return;
    std::memcpy(bytes.data() + at, content->data(), std::min<std::uint64_t>(page_size, bytes.size() - at));
  }

  /// Bytes that are durable and have nothing pending.
  void become(bytes_view bytes) {
    cached.resize(0);
    cached.resize(bytes.size());
    size = durable_size = bytes.size();
    durable.clear();
    pending.clear();
    sizes.clear();
    if (!bytes.empty()) std::memcpy(cached.data(), bytes.data(), bytes.size());
    for (std::uint64_t number = 0; number < pages_of(size); ++number) {
      if (page_ptr content = page_of(cached.data() + number * page_size)) durable[number] = std::move(content);
    }
  }
};

/// A file that a name or an open handle keeps alive; when the last goes, its space is free again.
struct live_file {
  live_file(std::shared_ptr<inode> of, std::shared_ptr<std::uint64_t> used)
      : node(std::move(of)), pages_used(std::move(used)) {}
  live_file(const live_file&) = delete;
  live_file& operator=(const live_file&) = delete;
  ~live_file() {
    *pages_used -= node->blocks.size();
    node->blocks.clear();
  }
  std::shared_ptr<inode> node;
  std::shared_ptr<std::uint64_t> pages_used;
};

struct directory {
  struct cached_entry {
    std::shared_ptr<live_file> file;
    std::shared_ptr<directory> folder;
  };
  struct durable_entry {
    std::shared_ptr<inode> file;
    std::shared_ptr<directory> folder;
  };
  std::map<std::string, cached_entry> cached;
  std::map<std::string, durable_entry> durable;
};

// A change of names that no sync_directory has covered: `what` leaves `from` (if any) and arrives at `to` (if any).
struct name_change {
  std::uint64_t sequence = 0;
  std::shared_ptr<directory> from, to;
  std::string from_name, to_name;
  directory::durable_entry what;

  [[nodiscard]] bool concerns(const std::set<const directory*>& some) const {
    return some.contains(from.get()) || some.contains(to.get());
  }
  template <class EntriesOf>  // std::map<std::string, durable_entry>&(directory&)
  void apply(EntriesOf entries_of) const {
    if (from) entries_of(*from).erase(from_name);
    if (to) entries_of(*to)[to_name] = what;
  }
};

inline std::vector<std::string> parts_of(const std::string& path) {
  std::vector<std::string> parts;
  for (const auto& each : std::filesystem::path(path).lexically_normal()) {
    if (const std::string part = each.string(); !part.empty() && part != "/" && part != ".") parts.push_back(part);
  }
  return parts;
}

inline std::string joined(const std::vector<std::string>& parts) {
  std::string path;
  for (const std::string& each : parts) path += "/" + each;
  return path.empty() ? "/" : path;
}

}  // namespace detail

inline std::error_code crashed_error() {
  static const detail::crash_category category;
  return {1, category};
}

/// The operations, as faulty_env asks for them.
struct faulty_disk::state : std::enable_shared_from_this<faulty_disk::state> {
  using inode = detail::inode;
  using directory = detail::directory;
  using live_file = detail::live_file;

  // A sync that has begun and has not ended.
  struct sync {
    std::error_code error;  // decided at its beginning
    std::uint64_t up_to = 0;
    std::shared_ptr<inode> file;
    std::shared_ptr<directory> folder;
    std::uint64_t number = 0;
  };
  struct held_sync {
    const void* owner = nullptr;  // the env that waits for it
    std::function<void()> let_end;
  };

  std::shared_ptr<directory> root = std::make_shared<directory>();
  std::vector<detail::name_change> name_changes;
  std::uint64_t sequence = 0;  // of changes
  std::uint64_t capacity_pages = 0;
  std::shared_ptr<std::uint64_t> used_pages = std::make_shared<std::uint64_t>(0);
  std::map<const inode*, long> locks;  // and who holds each
  long last_pid = 1000;

  std::vector<fault> faults;
  std::uint64_t hit = 0;
  bool is_crashed = false;
  std::vector<op> history;
  std::function<void(const op&)> hook;
  bool holding = false;
  std::vector<held_sync> held;

  // --- bookkeeping ---

  struct verdict {
    std::error_code error;
    std::uint64_t short_write = 0;
    std::uint64_t number = 0;
  };

  verdict begin(op_kind kind, const std::string& path, std::uint64_t offset = 0, std::uint64_t length = 0,
                const std::string& to = {}) {
    if (is_crashed) return {crashed_error(), 0, history.size()};
    verdict result;
    result.number = history.size();
    history.push_back({result.number, kind, path, to, offset, length, {}});
    if (hook) {
      const op shown = history.back();
      hook(shown);
    }
    if (is_crashed) result.error = crashed_error();
    for (std::size_t i = 0; i < faults.size();) {
      fault& each = faults[i];
      const bool matches =
          (each.kinds.empty() || std::find(each.kinds.begin(), each.kinds.end(), kind) != each.kinds.end()) &&
          (path + to).find(each.path_contains) != std::string::npos;
      if (!matches || each.nth > 0) {
        if (matches) --each.nth;
        ++i;
        continue;
      }
      if (!result.error) {
        result.error = each.error;
        result.short_write = each.short_write;
        ++hit;
        if (each.error == crashed_error()) is_crashed = true;
      }
      if (each.how_often == times::once)
        faults.erase(faults.begin() + static_cast<std::ptrdiff_t>(i));
      else
        ++i;
    }
    history.back().error = result.error;
    return result;
  }

  std::error_code end(const verdict& begun, std::error_code error) {
    if (begun.number < history.size()) history[begun.number].error = error;
    return error;
  }

  // --- names ---

  struct place {
    std::shared_ptr<directory> parent;
    std::string name;
    [[nodiscard]] directory::cached_entry* entry() const {
      const auto found = parent->cached.find(name);
      return found == parent->cached.end() ? nullptr : &found->second;
    }
  };

  std::shared_ptr<directory> find_directory(const std::vector<std::string>& parts, std::error_code& ec) const {
    std::shared_ptr<directory> at = root;
    for (const std::string& each : parts) {
      const auto found = at->cached.find(each);
      if (found == at->cached.end()) return ec = disk_error(ENOENT), nullptr;
      if (!found->second.folder) return ec = disk_error(ENOTDIR), nullptr;
      at = found->second.folder;
    }
    return at;
  }

  std::optional<place> find_place(const std::string& path, std::error_code& ec) const {
    std::vector<std::string> parts = detail::parts_of(path);
    if (parts.empty()) return ec = disk_error(EISDIR), std::nullopt;
    std::string name = std::move(parts.back());
    parts.pop_back();
    auto parent = find_directory(parts, ec);
    if (!parent) return std::nullopt;
    return place{std::move(parent), std::move(name)};
  }

  std::shared_ptr<live_file> find_file(const std::string& path) const {
    std::error_code ec;
    const auto where = find_place(path, ec);
    const auto* const entry = where ? where->entry() : nullptr;
    return entry ? entry->file : nullptr;
  }

  std::shared_ptr<live_file> create_file(const place& where) {
    auto file = std::make_shared<live_file>(std::make_shared<inode>(), used_pages);
    where.parent->cached[where.name] = {file, nullptr};
    name_changes.push_back({++sequence, nullptr, where.parent, {}, where.name, {file->node, nullptr}});
    return file;
  }

  std::shared_ptr<live_file> open(const std::string& path, open_mode mode, std::error_code& ec) {
    ec.clear();
    const auto where = find_place(path, ec);
    const auto* const entry = where ? where->entry() : nullptr;
    const bool may_create = mode != open_mode::read && mode != open_mode::read_write;
    const bool creates = where && !entry && may_create;
    verdict begun = begin(creates ? op_kind::create : op_kind::open, path);
    if (!begun.error) begun.error = ec;
    if (!begun.error && !entry && !may_create) begun.error = disk_error(ENOENT);
    if (!begun.error && entry && mode == open_mode::create_new) begun.error = disk_error(EEXIST);
    if (!begun.error && entry && entry->folder) begun.error = disk_error(EISDIR);
    ec = end(begun, begun.error);
    if (ec) return nullptr;
    if (creates) return create_file(*where);
    std::shared_ptr<live_file> file = entry->file;
    if (mode == open_mode::truncate) truncate(*file->node, path, 0, ec);
    return ec ? nullptr : file;
  }

  void rename(const std::string& from, const std::string& to, std::error_code& ec) {
    const verdict begun = begin(op_kind::rename, from, 0, 0, to);
    ec = begun.error;
    const auto source = ec ? std::nullopt : find_place(from, ec);
    const auto target = ec ? std::nullopt : find_place(to, ec);
    if (!ec && !source->entry()) ec = disk_error(ENOENT);
    if (!ec) {
      const auto* const moved = source->entry();
      const auto* const there = target->entry();
      if (there && there->folder && !moved->folder) ec = disk_error(EISDIR);
      if (there && !there->folder && moved->folder) ec = disk_error(ENOTDIR);
      if (there && there->folder && moved->folder && !there->folder->cached.empty()) ec = disk_error(ENOTEMPTY);
    }
    if (end(begun, ec)) return;
    if (source->parent == target->parent && source->name == target->name) return;
    const directory::cached_entry moved = *source->entry();
    source->parent->cached.erase(source->name);
    target->parent->cached[target->name] = moved;
    name_changes.push_back({++sequence,
                            source->parent,
                            target->parent,
                            source->name,
                            target->name,
                            {moved.file ? moved.file->node : nullptr, moved.folder}});
  }

  void remove(const std::string& path, std::error_code& ec) {
    const verdict begun = begin(op_kind::remove, path);
    ec = begun.error;
    const auto where = ec ? std::nullopt : find_place(path, ec);
    const auto* const entry = where ? where->entry() : nullptr;
    if (!ec && !entry) ec = disk_error(ENOENT);
    if (!ec && entry->folder && !entry->folder->cached.empty()) ec = disk_error(ENOTEMPTY);
    if (end(begun, ec)) return;
    where->parent->cached.erase(where->name);
    name_changes.push_back({++sequence, where->parent, nullptr, where->name, {}, {}});
  }

  void create_directory(const std::string& path, std::error_code& ec) {
    const verdict begun = begin(op_kind::create_directory, path);
    ec = begun.error;
    if (!ec && detail::parts_of(path).empty()) return;
    const auto where = ec ? std::nullopt : find_place(path, ec);
    const auto* const entry = where ? where->entry() : nullptr;
    if (!ec && entry && entry->file) ec = disk_error(ENOTDIR);
    if (end(begun, ec) || entry) return;
    const auto made = std::make_shared<directory>();
    where->parent->cached[where->name] = {nullptr, made};
    name_changes.push_back({++sequence, nullptr, where->parent, {}, where->name, {nullptr, made}});
  }

  std::vector<std::string> list(const std::string& path, std::error_code& ec) {
    const verdict begun = begin(op_kind::list, path);
    ec = begun.error;
    const auto listed = ec ? nullptr : find_directory(detail::parts_of(path), ec);
    std::vector<std::string> names;
    if (end(begun, ec)) return names;
    for (const auto& [name, entry] : listed->cached) names.push_back(name);
    return names;
  }

  // --- bytes ---

  // Puts the first `most` bytes of `from` into the cache, as far as there is space.
  std::error_code store(inode& file, std::uint64_t offset, std::span<const bytes_view> from, std::uint64_t most) {
    std::uint64_t total = 0;
    for (const bytes_view each : from) total += each.size();
    if (offset + total > detail::region::most) return disk_error(EFBIG);
    const std::uint64_t begins = offset;
    std::error_code ec;
    for (bytes_view each : from) {
      while (!each.empty() && most != 0 && !ec) {
        const std::uint64_t room = page_size - offset % page_size;
        const auto count = static_cast<std::size_t>(std::min<std::uint64_t>({each.size(), room, most}));
        if (!reserve(file, offset / page_size)) {
          ec = disk_error(ENOSPC);
          break;
        }
        const std::uint64_t ends = offset + count;
        if (ends > file.size) {
          file.cached.resize(ends);
          file.size = ends;
        }
        std::memcpy(file.cached.data() + offset, each.data(), count);
        offset = ends;
        most -= count;
        each = each.subspan(count);
      }
    }
    if (offset == begins) return ec;
    ++sequence;
    for (std::uint64_t number = begins / page_size; number < detail::pages_of(offset); ++number) {
      file.remember_page(number, sequence, std::nullopt);
    }
    const std::uint64_t known = file.sizes.empty() ? file.durable_size : file.sizes.back().size;
    if (file.size != known) file.remember_size(sequence, file.size);
    return ec;
  }

  bool reserve(inode& file, std::uint64_t page_number) {
    if (file.blocks.contains(page_number)) return true;
    if (*used_pages >= capacity_pages) return false;
    file.blocks.insert(page_number);
    ++*used_pages;
    return true;
  }

  std::error_code pwrite(inode& file, const std::string& path, std::uint64_t offset, std::span<const bytes_view> from,
                         bool writable) {
    std::uint64_t total = 0;
    for (const bytes_view each : from) total += each.size();
    const verdict begun = begin(op_kind::pwrite, path, offset, total);
    if (!writable) return end(begun, disk_error(EBADF));
    if (begun.error) {
      (void)store(file, offset, from, begun.short_write);
      return begun.error;
    }
    return end(begun, store(file, offset, from, total));
  }

  std::size_t pread(const inode& file, const std::string& path, std::uint64_t offset, mutable_bytes into,
                    std::error_code& ec) {
    ec = begin(op_kind::pread, path, offset, into.size()).error;
    if (ec || offset >= file.size) return 0;
    const auto count = static_cast<std::size_t>(std::min<std::uint64_t>(into.size(), file.size - offset));
    if (count != 0) std::memcpy(into.data(), file.cached.data() + offset, count);
    return count;
  }

  void truncate(inode& file, const std::string& path, std::uint64_t length, std::error_code& ec, bool writable = true) {
    const verdict begun = begin(op_kind::truncate, path, 0, length);
    ec = begun.error;
    if (!ec && !writable) ec = disk_error(EINVAL);
    if (!ec && length > detail::region::most) ec = disk_error(EFBIG);
    if (end(begun, ec)) return;
    const std::uint64_t old_size = file.size;
    file.cached.resize(length);
    std::uint64_t freed = 0;
    for (auto at = file.blocks.lower_bound(detail::pages_of(length)); at != file.blocks.end(); ++freed) {
      at = file.blocks.erase(at);
    }
    *used_pages -= freed;
    if (length == old_size) return;
    ++sequence;
    for (std::uint64_t number = length / page_size; number < detail::pages_of(old_size); ++number) {
      const std::uint64_t cut = length > number * page_size ? length - number * page_size : 0;
      file.remember_page(number, sequence, static_cast<std::size_t>(cut));
    }
    file.remember_size(sequence, length);
  }

  void allocate(inode& file, const std::string& path, std::uint64_t offset, std::uint64_t length, std::error_code& ec,
                bool writable) {
    const verdict begun = begin(op_kind::allocate, path, offset, length);
    ec = begun.error;
    if (!ec && !writable) ec = disk_error(EBADF);
    if (!ec && length == 0) ec = disk_error(EINVAL);
    if (!ec && offset + length > detail::region::most) ec = disk_error(EFBIG);
    std::vector<std::uint64_t> missing;
    for (std::uint64_t n = offset / page_size; !ec && n < detail::pages_of(offset + length); ++n) {
      if (!file.blocks.contains(n)) missing.push_back(n);
    }
    if (!ec && *used_pages + missing.size() > capacity_pages) ec = disk_error(ENOSPC);
    if (end(begun, ec)) return;
    for (const std::uint64_t each : missing) reserve(file, each);
  }

  bytes_view map(const inode& file, const std::string& path, std::uint64_t offset, std::uint64_t length,
                 std::error_code& ec) {
    const verdict begun = begin(op_kind::map, path, offset, length);
    ec = begun.error;
    if (!ec && offset + length > detail::region::most) ec = disk_error(ENOMEM);
    if (end(begun, ec) || length == 0) return {};
    return {file.cached.data() + offset, static_cast<std::size_t>(length)};
  }

  // --- syncs ---

  sync begin_datasync(const std::shared_ptr<inode>& file, const std::string& path) {
    const verdict begun = begin(op_kind::datasync, path);
    ++file->syncs_in_flight;
    return {begun.error, sequence, file, nullptr, begun.number};
  }

  sync begin_sync_directory(const std::string& path) {
    const verdict begun = begin(op_kind::sync_directory, path);
    std::error_code ec = begun.error;
    auto folder = ec ? nullptr : find_directory(detail::parts_of(path), ec);
    return {end(begun, ec), sequence, nullptr, std::move(folder), begun.number};
  }

  std::error_code end_sync(const sync& ending) {
    if (ending.file) --ending.file->syncs_in_flight;
    if (is_crashed) return crashed_error();
    if (ending.error) {
      if (ending.file) ending.file->mark_clean(ending.up_to);
      return ending.error;
    }
    if (ending.file) ending.file->make_durable(ending.up_to);
    if (ending.folder) make_names_durable(ending.folder, ending.up_to);
    return {};
  }

  void make_names_durable(const std::shared_ptr<directory>& folder, std::uint64_t up_to) {
    // A rename between directories drags along what happened before in the other one.
    std::set<const directory*> concerned{folder.get()};
    concerned.erase(nullptr);
    std::vector<bool> covered(name_changes.size());
    for (std::size_t i = name_changes.size(); i-- > 0;) {
      const detail::name_change& each = name_changes[i];
      if (each.sequence > up_to || !each.concerns(concerned)) continue;
      covered[i] = true;
      if (each.from) concerned.insert(each.from.get());
      if (each.to) concerned.insert(each.to.get());
    }
    std::vector<detail::name_change> left;
    for (std::size_t i = 0; i < name_changes.size(); ++i) {
      if (covered[i])
        name_changes[i].apply([](directory & of) -> auto& { return of.durable; });
      else
        left.push_back(std::move(name_changes[i]));
    }
    name_changes = std::move(left);
  }

  // --- locks ---

  /// @return the locked file; nullptr with `ec`, and then `holder` says who holds it (0: nobody).
  std::shared_ptr<live_file> lock(const std::string& path, long pid, long& holder, std::error_code& ec) {
    const verdict begun = begin(op_kind::lock, path);
    holder = 0;
    ec = begun.error;
    const auto where = ec ? std::nullopt : find_place(path, ec);
    const auto* const entry = where ? where->entry() : nullptr;
    if (!ec && entry && entry->folder) ec = disk_error(EISDIR);
    if (!ec && entry && locks.contains(entry->file->node.get())) {
      holder = locks.at(entry->file->node.get());
      ec = errc::log_locked;
    }
    if (end(begun, ec)) return nullptr;
    const auto file = entry ? entry->file : create_file(*where);
    const std::string text = std::to_string(pid) + "\n";
    const std::array<bytes_view, 1> content = {as_bytes(text)};
    file->node->cached.resize(0);
    file->node->size = 0;
    ec = end(begun, store(*file->node, 0, content, text.size()));
    if (ec) return nullptr;
    locks[file->node.get()] = pid;
    holder = pid;
    return file;
  }

  // --- whole disks ---

  template <class Visit>  // void(const std::string& path, const std::shared_ptr<inode>&)
  static void walk_cached(const directory& at, const std::string& prefix, Visit visit) {
    for (const auto& [name, entry] : at.cached) {
      if (entry.file)
        visit(prefix + "/" + name, entry.file->node);
      else
        walk_cached(*entry.folder, prefix + "/" + name, visit);
    }
  }
  template <class Visit>
  static void walk_durable(const directory& at, const std::string& prefix, Visit visit) {
    for (const auto& [name, entry] : at.durable) {
      if (entry.file)
        visit(prefix + "/" + name, entry.file);
      else
        walk_durable(*entry.folder, prefix + "/" + name, visit);
    }
  }

  [[nodiscard]] std::shared_ptr<inode> find(const std::string& path, view which) const {
    const std::string wanted = detail::joined(detail::parts_of(path));
    std::shared_ptr<inode> found;
    const auto visit = [&](const std::string& at, const std::shared_ptr<inode>& node) {
      if (at == wanted) found = node;
    };
    if (which == view::cached)
      walk_cached(*root, "", visit);
    else
      walk_durable(*root, "", visit);
    return found;
  }

  std::shared_ptr<directory> make_directory(const std::vector<std::string>& parts) {
    std::shared_ptr<directory> at = root;
    for (const std::string& each : parts) {
      auto& entry = at->cached[each];
      if (entry.file) throw std::logic_error("faulty_disk: " + each + " is a file");
      if (!entry.folder) entry.folder = std::make_shared<directory>();
      at->durable[each] = {nullptr, entry.folder};
      at = entry.folder;
    }
    return at;
  }

  // Copies of inodes and directories, each made once.
  struct copier {
    std::shared_ptr<std::uint64_t> used_pages;
    std::map<const inode*, std::shared_ptr<inode>> inodes;
    std::map<const directory*, std::shared_ptr<directory>> directories;

    std::shared_ptr<inode> copy(const std::shared_ptr<inode>& of) {
      if (!of) return nullptr;
      auto& made = inodes[of.get()];
      if (made) return made;
      made = std::make_shared<inode>();
      made->cached.resize(of->size);
      if (of->size != 0) std::memcpy(made->cached.data(), of->cached.data(), of->size);
      made->size = of->size;
      made->durable = of->durable;
      made->durable_size = of->durable_size;
      made->pending = of->pending;
      made->sizes = of->sizes;
      made->blocks = of->blocks;
      return made;
    }

    std::shared_ptr<live_file> copy(const std::shared_ptr<live_file>& of) {
      if (!of) return nullptr;
      auto made = std::make_shared<live_file>(copy(of->node), used_pages);
      *used_pages += made->node->blocks.size();
      return made;
    }

    std::shared_ptr<directory> copy(const std::shared_ptr<directory>& of) {
      if (!of) return nullptr;
      if (const auto known = directories.find(of.get()); known != directories.end()) return known->second;
      const auto made = directories[of.get()] = std::make_shared<directory>();
      for (const auto& [name, entry] : of->cached) made->cached[name] = {copy(entry.file), copy(entry.folder)};
      for (const auto& [name, entry] : of->durable) made->durable[name] = {copy(entry.file), copy(entry.folder)};
      return made;
    }
  };

  [[nodiscard]] std::shared_ptr<state> after_process_crash() const {
    auto image = std::make_shared<state>();
    copier copies{image->used_pages, {}, {}};
    image->root = copies.copy(root);
    for (const detail::name_change& each : name_changes) {
      image->name_changes.push_back({each.sequence,
                                     copies.copy(each.from),
                                     copies.copy(each.to),
                                     each.from_name,
                                     each.to_name,
                                     {copies.copy(each.what.file), copies.copy(each.what.folder)}});
    }
    image->sequence = sequence;
    image->capacity_pages = capacity_pages;
    image->last_pid = last_pid;
    return image;
  }

  struct candidate {
    std::uint64_t sequence = 0;
    detail::page_ptr content;
    bool lost = false;
  };

  // What a power loss makes of one file.
  static std::vector<std::byte> surviving_bytes(const inode& file, const power_cut& cut, std::mt19937_64& random) {
    std::size_t sizes_kept = cut.size == survives::everything ? file.sizes.size() : 0;
    if (cut.size == survives::something) sizes_kept = random() % (file.sizes.size() + 1);
    const std::uint64_t truncated_up_to = sizes_kept == 0 ? 0 : file.sizes[sizes_kept - 1].sequence;
    std::vector<std::byte> bytes(sizes_kept == 0 ? file.durable_size : file.sizes[sizes_kept - 1].size);

    // Half of the time the pages went out in the order of writing, and only the last of them may be torn.
    std::uint64_t first = std::numeric_limits<std::uint64_t>::max(), last = 0;
    for (const auto& [number, states] : file.pending) {
      first = std::min(first, states.front().sequence);
      last = std::max(last, states.back().sequence);
    }
    const bool in_order = random() % 2 == 0;
    const std::uint64_t written_up_to = last == 0 ? 0 : first - 1 + random() % (last - first + 2);

    for (const auto& [number, content] : file.durable) {
      if (!file.pending.contains(number)) inode::place(bytes, number, content);
    }
    for (const auto& [number, states] : file.pending) {
      const std::vector<candidate> candidates = candidates_of(file, number, states, truncated_up_to);
      std::size_t chosen = 0;
      bool torn = false;
      if (cut.data == survives::everything) {
        for (std::size_t i = 0; i < candidates.size(); ++i) {
          if (!candidates[i].lost) chosen = i;
        }
      } else if (cut.data == survives::something && in_order) {
        while (chosen + 1 < candidates.size() && candidates[chosen + 1].sequence <= written_up_to) ++chosen;
        torn = chosen + 1 < candidates.size() && random() % 4 == 0;
      } else if (cut.data == survives::something) {
        chosen = random() % candidates.size();
        torn = chosen + 1 < candidates.size() && random() % 4 == 0;
      }
      inode::place(bytes, number,
                   torn ? mixed(candidates[chosen].content, candidates[chosen + 1].content, random)
                        : candidates[chosen].content);
    }
    return bytes;
  }

  // The states of a page that a power loss may leave, given which truncates survived: the durable one first.
  static std::vector<candidate> candidates_of(const inode& file, std::uint64_t number,
                                              const std::vector<inode::page_state>& states,
                                              std::uint64_t truncated_up_to) {
    std::vector<candidate> result(1);
    if (const auto old = file.durable.find(number); old != file.durable.end()) result[0].content = old->second;
    for (const inode::page_state& each : states) {
      if (!each.cut) {
        result.push_back({each.sequence, each.content, each.lost});
        continue;
      }
      // What was written after a truncate that was lost lies in blocks that no file owns.
      if (each.sequence > truncated_up_to) break;
      for (candidate& before : result) before.content = detail::cut_page(before.content, *each.cut);
      if (*each.cut == 0) result.resize(1);
    }
    return result;
  }

  static detail::page_ptr mixed(const detail::page_ptr& a, const detail::page_ptr& b, std::mt19937_64& random) {
    detail::page result{};
    if (a) result = *a;
    for (std::size_t at = 0; at < page_size; at += sector_size) {
      if (random() % 2 == 0) continue;
      if (b)
        std::memcpy(result.data() + at, b->data() + at, sector_size);
      else
        std::memset(result.data() + at, 0, sector_size);
    }
    return detail::page_of(result.data());
  }

  [[nodiscard]] std::shared_ptr<state> after_power_loss(const power_cut& cut) const {
    std::mt19937_64 random(cut.seed * 0x9e3779b97f4a7c15u + 1);
    std::size_t changes_kept = cut.directory == survives::everything ? name_changes.size() : 0;
    if (cut.directory == survives::something) changes_kept = random() % (name_changes.size() + 1);

    std::map<const directory*, std::map<std::string, directory::durable_entry>> entries;
    const auto entries_of = [&entries](const directory& of) -> auto& {
      return entries.try_emplace(&of, of.durable).first->second;
    };
    for (std::size_t i = 0; i < changes_kept; ++i) name_changes[i].apply(entries_of);

    auto image = std::make_shared<state>();
    image->capacity_pages = capacity_pages;
    image->last_pid = last_pid;
    std::map<const inode*, std::shared_ptr<live_file>> files;
    const std::function<std::shared_ptr<directory>(const directory&)> survive = [&](const directory& of) {
      const auto made = std::make_shared<directory>();
      for (const auto& [name, entry] : entries_of(of)) {
        if (entry.folder) {
          const auto folder = survive(*entry.folder);
          made->cached[name] = {nullptr, folder};
          made->durable[name] = {nullptr, folder};
          continue;
        }
        auto& file = files[entry.file.get()];
        if (!file) {
          file = std::make_shared<live_file>(std::make_shared<inode>(), image->used_pages);
          file->node->become(surviving_bytes(*entry.file, cut, random));
          for (const auto& [number, content] : file->node->durable) file->node->blocks.insert(number);
          for (const std::uint64_t each : entry.file->blocks) {
            if (each < detail::pages_of(file->node->size)) file->node->blocks.insert(each);
          }
          *image->used_pages += file->node->blocks.size();
        }
        made->cached[name] = {file, nullptr};
        made->durable[name] = {file->node, nullptr};
      }
      return made;
    };
    image->root = survive(*root);
    return image;
  }
};

inline faulty_disk::faulty_disk(std::uint64_t capacity) : state_(std::make_shared<state>()) { set_capacity(capacity); }

inline void faulty_disk::inject(fault what) { state_->faults.push_back(std::move(what)); }
inline void faulty_disk::fail_operation(std::uint64_t nth, int error_number) {
  inject({.nth = nth, .error = disk_error(error_number)});
}
inline void faulty_disk::clear_faults() { state_->faults.clear(); }
inline std::uint64_t faulty_disk::faults_hit() const { return state_->hit; }
inline void faulty_disk::crash_at(std::uint64_t nth, std::uint64_t short_write) {
  inject({.nth = nth, .error = crashed_error(), .how_often = times::from_then_on, .short_write = short_write});
}
inline void faulty_disk::crash() { state_->is_crashed = true; }
inline bool faulty_disk::crashed() const { return state_->is_crashed; }
inline void faulty_disk::set_capacity(std::uint64_t bytes) { state_->capacity_pages = bytes / page_size; }
inline std::uint64_t faulty_disk::used() const { return *state_->used_pages * page_size; }

inline void faulty_disk::hold_syncs() { state_->holding = true; }
inline void faulty_disk::release_syncs() {
  state_->holding = false;
  const auto released = std::exchange(state_->held, {});
  for (const auto& each : released) each.let_end();
}
inline std::size_t faulty_disk::held_syncs() const { return state_->held.size(); }

inline std::uint64_t faulty_disk::operations() const { return state_->history.size(); }
inline std::uint64_t faulty_disk::operations(op_kind kind) const {
  return static_cast<std::uint64_t>(std::count_if(state_->history.begin(), state_->history.end(),
                                                  [kind](const op& each) { return each.kind == kind; }));
}
inline const std::vector<op>& faulty_disk::history() const { return state_->history; }
inline std::string faulty_disk::story(std::size_t last) const {
  std::string text;
  const auto& all = state_->history;
  for (std::size_t i = all.size() > last ? all.size() - last : 0; i < all.size(); ++i)
    text += all[i].description() + "\n";
  return text;
}
inline void faulty_disk::on_operation(std::function<void(const op&)> hook) { state_->hook = std::move(hook); }

inline std::vector<std::string> faulty_disk::files(view which) const {
  std::vector<std::string> paths;
  const auto visit = [&paths](const std::string& path, const auto&) { paths.push_back(path); };
  if (which == view::cached)
    state::walk_cached(*state_->root, "", visit);
  else
    state::walk_durable(*state_->root, "", visit);
  std::sort(paths.begin(), paths.end());
  return paths;
}
inline bool faulty_disk::exists(const std::string& path, view which) const {
  return state_->find(path, which) != nullptr;
}
inline std::optional<std::vector<std::byte>> faulty_disk::bytes(const std::string& path, view which) const {
  const auto found = state_->find(path, which);
  if (!found) return std::nullopt;
  if (which == view::durable) return found->durable_bytes();
  return std::vector<std::byte>(found->cached.data(), found->cached.data() + found->size);
}
inline bool faulty_disk::is_durable(const std::string& path, std::uint64_t offset, bytes_view expected) const {
  const auto all = bytes(path, view::durable);
  return all && all->size() >= offset + expected.size() &&
         equal(bytes_view(*all).subspan(static_cast<std::size_t>(offset), expected.size()), expected);
}
inline void faulty_disk::replace(const std::string& path, bytes_view bytes) {
  auto parts = detail::parts_of(path);
  const std::string name = parts.back();
  parts.pop_back();
  const auto parent = state_->make_directory(parts);
  auto& entry = parent->cached[name];
  if (entry.folder) throw std::logic_error("faulty_disk: " + path + " is a directory");
  if (!entry.file)
    entry.file = std::make_shared<detail::live_file>(std::make_shared<detail::inode>(), state_->used_pages);
  detail::inode& file = *entry.file->node;
  file.become(bytes);
  *state_->used_pages -= file.blocks.size();
  file.blocks.clear();
  for (const auto& [number, content] : file.durable) file.blocks.insert(number);
  *state_->used_pages += file.blocks.size();
  parent->durable[name] = {entry.file->node, nullptr};
}
inline void faulty_disk::flip_bit(const std::string& path, std::uint64_t offset, unsigned bit) {
  const auto file = state_->find_file(path);
  if (!file || offset >= file->node->size) throw std::logic_error("faulty_disk: no such byte in " + path);
  const auto mask = static_cast<std::byte>(1u << bit);
  detail::inode& node = *file->node;
  node.cached.data()[offset] ^= mask;
  const auto flip = [&](detail::page_ptr& content) {
    detail::page copy = content ? *content : detail::page{};
    copy[static_cast<std::size_t>(offset % page_size)] ^= mask;
    content = detail::page_of(copy.data());
  };
  if (offset < node.durable_size) flip(node.durable[offset / page_size]);
  if (const auto states = node.pending.find(offset / page_size); states != node.pending.end()) {
    for (auto& each : states->second) flip(each.content);
  }
}
inline void faulty_disk::make_directory(const std::string& path) {
  (void)state_->make_directory(detail::parts_of(path));
}
inline void faulty_disk::settle() {
  for (const auto& each : state_->name_changes) each.apply([](detail::directory & of) -> auto& { return of.durable; });
  state_->name_changes.clear();
  state::walk_cached(*state_->root, "", [this](const std::string&, const std::shared_ptr<detail::inode>& file) {
    file->make_durable(state_->sequence);
  });
}
inline std::uint64_t faulty_disk::fingerprint() const {
  std::string all;
  const auto add_number = [&all](std::uint64_t value) {
    all.append(reinterpret_cast<const char*>(&value), sizeof value);
  };
  state::walk_cached(*state_->root, "", [&](const std::string& path, const std::shared_ptr<detail::inode>& file) {
    all += path;
    add_number(file->size);
    add_number(xxh3_64({file->cached.data(), static_cast<std::size_t>(file->size)}));
  });
  return xxh3_64(as_bytes(all));
}
inline faulty_disk faulty_disk::process_crash() const { return faulty_disk(state_->after_process_crash()); }
inline faulty_disk faulty_disk::power_loss(const power_cut& cut) const {
  return faulty_disk(state_->after_power_loss(cut));
}

}  // namespace lockstep::test
