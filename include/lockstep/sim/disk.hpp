// disk: a disk in memory that fails on demand and knows what a crash may leave of it.
//
// It is the file system under a simulated environment, and outlives the programs that use it: a node is killed, its
// disk lives through crash_process() or lose_power(), and the node's next life finds what that left. Tests that look
// at everything a crash may leave take images instead:
//
//   sim::disk disk;
//   disk.crash_at(17);                        // the 18th operation from here and all after it fail
//   /* run the program on it until it gives up */
//   for_each_crash_image(disk, 50, [&](sim::disk& image, const std::string& which) { /* recover, and look */ });
//
// What it models, and where it is harsher than any one real file system (what POSIX promises is all it promises):
// - A file has *cached* bytes, which everybody reads, and *durable* bytes, which a power loss leaves. A write stays
//   pending, as whole pages of 4 KiB, until a datasync of that file that began after it has ended. A datasync of one
//   file makes no other file and no directory entry durable.
// - A power loss keeps of the pending page writes any subset, in any order, each page at any of the states it went
//   through and torn at sectors of 512 bytes; size changes survive in their order (as in a journal) but
//   independently of the bytes, so that zeros or old bytes may stand inside the size. Of very many states that no
//   sync covers, older ones are forgotten.
// - Directory entries (created, renamed, removed) are pending until sync_directory of their directory; a prefix of
//   the pending ones survives a power loss.
// - A failed datasync marks its pages clean: the cache keeps the bytes, the disk keeps the old ones, and no later
//   datasync writes them, unless a page is written to again. It is reported once.
// - Space is counted in pages, written or allocated. A write beyond the capacity takes what fits and fails by ENOSPC.
// - Bits rot (rot), sectors turn bad (fault::touching), and writes land elsewhere or nowhere (fault::misdirect).
// Directories cost no space; times, owners, permissions and links do not exist. Relative paths start at the root.
// A mapping of bytes that a fault would refuse to read shows them. How long I/O takes is the environment's affair.
//
// The same calls give the same outcome with every compiler and on every run.
#pragma once

#include "lockstep/core/bytes.hpp"
#include "lockstep/core/checksum.hpp"
#include "lockstep/sim/detail/disk_state.hpp"
#include "lockstep/sim/disk_faults.hpp"
#include "lockstep/sim/random.hpp"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <limits>
#include <memory>
#include <optional>
#include <set>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace lockstep::sim {

class env;
namespace detail {
struct disk_access;
}

/// What is durable of a file, whatever becomes of its name. Outlives the disk.
class durable_file {
 public:
  explicit durable_file(std::shared_ptr<const detail::inode> of) : file_(std::move(of)) {}
  /// Another number whenever the durable bytes are others than before; that of no other file.
  [[nodiscard]] std::uint64_t version() const noexcept { return file_->durable_version; }
  /// Copies durable bytes up to the durable end. @return how many.
  std::size_t read(std::uint64_t offset, mutable_bytes into) const {
    if (offset >= file_->durable_size) return 0;
    into = into.first(static_cast<std::size_t>(std::min<std::uint64_t>(into.size(), file_->durable_size - offset)));
    file_->read_durable(offset, into);
    return into.size();
  }

 private:
  std::shared_ptr<const detail::inode> file_;
};

/// See the top of this file. Thread safety: none; different disks may be used by different threads.
class disk {
 public:
  /// @param capacity  In bytes; unlimited by default. A file's size is limited to 256 MiB.
  explicit disk(std::uint64_t capacity = std::numeric_limits<std::uint64_t>::max());

  // --- faults -------------------------------------------------------------------------------------------------------
  void inject(fault what);
  /// inject() of the `nth` operation of any kind from now on.
  void fail_operation(std::uint64_t nth, int error_number = EIO);
  void clear_faults();
  /// How many operations met an injected fault.
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
  /// Whether history() and story() show operations from now on. Off by default: it costs more than most operations.
  void keep_history(bool keep);
  /// The operations since keep_history(true).
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
  /// The files in a directory whose names a power loss leaves for sure, with these names, sorted; none when there is no
  /// such directory.
  [[nodiscard]] std::vector<std::pair<std::string, durable_file>> durable_files(const std::string& directory) const;
  /// Another number whenever the durable names in a directory, or what they mean, are others than before; 0 when there
  /// is no such directory.
  [[nodiscard]] std::uint64_t durable_version(const std::string& directory) const;
  /// Makes the file's bytes these, cached and durable, as if they had been so all the time. Creates the file and its
  /// directories, durably.
  void replace(const std::string& path, bytes_view bytes);
  /// Turns a bit of the byte at `offset` over, wherever that byte lies: in the cache, on the disk, and in every state
  /// between. Throws std::logic_error when there is no such byte.
  void flip_bit(const std::string& path, std::uint64_t offset, unsigned bit = 0);
  /// flip_bit() of one among the durable bytes: latent rot, as if it had been so all the time.
  /// @return the byte's offset; nothing when the file is missing or has no durable byte.
  std::optional<std::uint64_t> rot(const std::string& path, random_stream& random);
  /// Creates a directory and those above it, durably.
  void make_directory(const std::string& path);
  /// Makes everything durable, as sync(2).
  void settle();
  /// A checksum of all cached files and their bytes.
  [[nodiscard]] std::uint64_t fingerprint() const;

  // --- crashes ------------------------------------------------------------------------------------------------------
  // Files, locks and syncs of the life before are of the past: an environment must not touch the disk by them, and
  // mappings of the life before may be held but show the next one's bytes. Injected faults stay, except of a crash,
  // and so do the counts, the history and the hook. No sync is held.

  /// The program is killed: the cache survives, with what is pending still pending. Copies nothing.
  void crash_process();
  /// The machine loses power: only what is durable survives, and of the rest what `cut` says. Copies only pages that
  /// something is pending of.
  void lose_power(const power_cut& cut);

  // --- images: new disks of the same capacity, without injected faults, counts, history or locks --------------------
  /// What crash_process() would leave.
  [[nodiscard]] disk process_crash() const;
  /// What lose_power() would leave.
  [[nodiscard]] disk power_loss(const power_cut& cut) const;
  [[nodiscard]] disk power_loss(std::uint64_t seed) const { return power_loss(power_cut::seeded(seed)); }

  using state = detail::disk_state;

 private:
  friend class env;
  friend struct detail::disk_access;
  explicit disk(std::shared_ptr<state> of) : state_(std::move(of)) {}
  std::shared_ptr<state> state_;
};

namespace detail {

/// For environments other than sim::env: the operations of a disk.
struct disk_access {
  static const std::shared_ptr<disk::state>& state_of(disk& of) noexcept { return of.state_; }
};

}  // namespace detail

/// Calls check(disk& image, const std::string& which) with what a crash now may leave: the process crash, the
/// corner cases of a power loss, and seeded ones, at most `budget` in all and none twice.
template <class Check>
void for_each_crash_image(const disk& of, std::size_t budget, Check check) {
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
    disk image = of.process_crash();
    ++shown;
    check(image, std::string("process crash"));
  }
  // @return whether it was a new one.
  const auto show = [&](const power_cut& cut, const std::string& which) {
    if (shown >= budget) return false;
    disk image = of.power_loss(cut);
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
/// @param program  story(disk&): runs to its end or to the crash; returns what it was promised (its acks).
/// @param check    void(disk& image, const story&, const std::string& which)
/// @return the number of the program's operations.
template <class Program, class Check>
std::uint64_t for_each_crash(std::size_t images_per_crash, Program program, Check check) {
  for (std::uint64_t at = 0;; ++at) {
    disk crashing;
    crashing.keep_history(true);
    crashing.crash_at(at);
    const auto story = program(crashing);
    const std::string where =
        crashing.crashed() ? "crash at operation " + std::to_string(at) : std::string("crash at the end");
    for_each_crash_image(crashing, images_per_crash, [&](disk& image, const std::string& which) {
      check(image, story, where + ", " + which + "\n" + crashing.story());
    });
    if (!crashing.crashed()) return at;
  }
}

// --------------------------------------------------------------------------------------------------------------------

inline disk::disk(std::uint64_t capacity) : state_(std::make_shared<state>()) { set_capacity(capacity); }

inline void disk::inject(fault what) { state_->faults.push_back(std::move(what)); }
inline void disk::fail_operation(std::uint64_t nth, int error_number) {
  inject({.nth = nth, .error = disk_error(error_number)});
}
inline void disk::clear_faults() { state_->faults.clear(); }
inline std::uint64_t disk::faults_hit() const { return state_->hit; }
inline void disk::crash_at(std::uint64_t nth, std::uint64_t short_write) {
  inject({.nth = nth, .error = crashed_error(), .how_often = times::from_then_on, .short_write = short_write});
}
inline void disk::crash() { state_->is_crashed = true; }
inline bool disk::crashed() const { return state_->is_crashed; }
inline void disk::set_capacity(std::uint64_t bytes) { state_->capacity_pages = bytes / page_size; }
inline std::uint64_t disk::used() const { return state_->space->pages_used * page_size; }

inline void disk::hold_syncs() { state_->holding = true; }
inline void disk::release_syncs() {
  state_->holding = false;
  const auto released = std::exchange(state_->held, {});
  for (const auto& each : released) each.let_end();
}
inline std::size_t disk::held_syncs() const { return state_->held.size(); }

inline std::uint64_t disk::operations() const { return state_->operations; }
inline std::uint64_t disk::operations(op_kind kind) const {
  return state_->operations_of[static_cast<std::size_t>(kind)];
}
inline void disk::keep_history(bool keep) {
  state_->keeps_history = keep;
  if (!keep) state_->history.clear();
}
inline const std::vector<op>& disk::history() const { return state_->history; }
inline std::string disk::story(std::size_t last) const {
  std::string text;
  const auto& all = state_->history;
  for (std::size_t i = all.size() > last ? all.size() - last : 0; i < all.size(); ++i)
    text += all[i].description() + "\n";
  return text;
}
inline void disk::on_operation(std::function<void(const op&)> hook) { state_->hook = std::move(hook); }

inline std::vector<std::string> disk::files(view which) const {
  std::vector<std::string> paths;
  state::walk(*state_->root, which, "", [&paths](const std::string& path, const auto&) { paths.push_back(path); });
  std::sort(paths.begin(), paths.end());
  return paths;
}
inline bool disk::exists(const std::string& path, view which) const { return state_->find(path, which) != nullptr; }
inline std::optional<std::vector<std::byte>> disk::bytes(const std::string& path, view which) const {
  const auto found = state_->find(path, which);
  if (!found) return std::nullopt;
  if (which == view::durable) return found->durable_bytes();
  return std::vector<std::byte>(found->cached.data(), found->cached.data() + found->size);
}
inline std::vector<std::pair<std::string, durable_file>> disk::durable_files(const std::string& directory) const {
  std::vector<std::pair<std::string, durable_file>> files;
  const auto folder = state_->find_durable(directory).folder;
  if (!folder) return files;
  for (const auto& [name, entry] : folder->durable) {
    if (entry.file) files.emplace_back(name, durable_file(entry.file));
  }
  return files;
}
inline std::uint64_t disk::durable_version(const std::string& directory) const {
  const auto folder = state_->find_durable(directory).folder;
  return folder ? folder->durable_version : 0;
}
inline bool disk::is_durable(const std::string& path, std::uint64_t offset, bytes_view expected) const {
  const auto found = state_->find(path, view::durable);
  if (!found || offset > found->durable_size || expected.size() > found->durable_size - offset) return false;
  std::vector<std::byte> bytes(expected.size());
  found->read_durable(offset, bytes);
  return equal(bytes, expected);
}
inline void disk::replace(const std::string& path, bytes_view bytes) { state_->replace(path, bytes); }
inline void disk::flip_bit(const std::string& path, std::uint64_t offset, unsigned bit) {
  const auto file = state_->find_file(path);
  if (!file || offset >= file->node->size) throw std::logic_error("disk: no such byte in " + path);
  file->node->alter(offset, 1, [bit](std::byte& byte, std::size_t) { byte ^= static_cast<std::byte>(1u << bit); });
}
inline std::optional<std::uint64_t> disk::rot(const std::string& path, random_stream& random) {
  const auto file = state_->find_file(path);
  const std::uint64_t size = file ? std::min(file->node->size, file->node->durable_size) : 0;
  if (size == 0) return std::nullopt;
  const std::uint64_t offset = random.below(size);
  flip_bit(path, offset, static_cast<unsigned>(random.below(8)));
  return offset;
}
inline void disk::make_directory(const std::string& path) { (void)state_->make_directory(detail::parts_of(path)); }
inline void disk::settle() { state_->settle(); }
inline std::uint64_t disk::fingerprint() const {
  std::string all;
  const auto add_number = [&all](std::uint64_t value) {
    for (int shift = 0; shift < 64; shift += 8) all.push_back(static_cast<char>(value >> shift & 0xff));
  };
  state::walk(*state_->root, view::cached, "",
              [&](const std::string& path, const std::shared_ptr<detail::inode>& file) {
                all += path;
                add_number(file->size);
                add_number(xxh3_64({file->cached.data(), static_cast<std::size_t>(file->size)}));
              });
  return xxh3_64(as_bytes(all));
}

inline void disk::crash_process() { state_->crash_process(); }
inline void disk::lose_power(const power_cut& cut) { state_->lose_power(cut); }
inline disk disk::process_crash() const {
  disk image(state_->copy());
  image.crash_process();
  return image;
}
inline disk disk::power_loss(const power_cut& cut) const {
  disk image(state_->copy());
  image.lose_power(cut);
  return image;
}

}  // namespace lockstep::sim
