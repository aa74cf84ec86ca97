// disk_state: the operations of a simulated disk, as an environment asks for them.
//
// A call that takes an inode is made by an open file, whose path is only for faults and the history. Nothing here
// depends on addresses: sets and maps of pointers are only looked up, never walked.
#pragma once

#include "lockstep/core/bytes.hpp"
#include "lockstep/core/errors.hpp"
#include "lockstep/env/env.hpp"
#include "lockstep/sim/detail/inode.hpp"
#include "lockstep/sim/disk_faults.hpp"
#include "lockstep/sim/random.hpp"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

namespace lockstep::sim::detail {

struct directory {
  struct cached_entry {
    std::shared_ptr<live_file> file;
    std::shared_ptr<directory> folder;
  };
  struct durable_entry {
    std::shared_ptr<inode> file;
    std::shared_ptr<directory> folder;
  };
  std::map<std::string, cached_entry, std::less<>> cached;
  std::map<std::string, durable_entry, std::less<>> durable;
  std::uint64_t durable_version = unique_number();  // another one whenever the durable names change

  void erase_durable(const std::string& name) {
    durable.erase(name);
    durable_version = unique_number();
  }
  void set_durable(const std::string& name, durable_entry what) {
    durable[name] = std::move(what);
    durable_version = unique_number();
  }
};

/// A change of names that no sync_directory has covered: `what` leaves `from` (if any) and arrives at `to` (if any).
struct name_change {
  std::uint64_t sequence = 0;
  std::shared_ptr<directory> from, to;
  std::string from_name, to_name;
  directory::durable_entry what;

  void make_durable() const {
    if (from) from->erase_durable(from_name);
    if (to) to->set_durable(to_name, what);
  }
};

/// The names on the way, which live as long as `path`; ".", ".." and "//" are resolved as written.
inline std::vector<std::string_view> parts_of(std::string_view path) {
  std::vector<std::string_view> parts;
  while (!path.empty()) {
    const std::string_view part = path.substr(0, path.find('/'));
    path.remove_prefix(std::min(part.size() + 1, path.size()));
    if (part.empty() || part == ".") continue;
    if (part != "..")
      parts.push_back(part);
    else if (!parts.empty())
      parts.pop_back();
  }
  return parts;
}

struct disk_state : std::enable_shared_from_this<disk_state> {
  using inode = detail::inode;
  using directory = detail::directory;
  using live_file = detail::live_file;

  /// A sync that has begun and has not ended.
  struct sync {
    std::error_code error;  ///< decided at its beginning
    std::uint64_t up_to = 0;
    std::shared_ptr<inode> file;
    std::shared_ptr<directory> folder;
    std::uint64_t life = 0;  ///< in which it began
  };
  struct held_sync {
    const void* owner = nullptr;  ///< the env that waits for it
    std::function<void()> let_end;
  };

  std::shared_ptr<directory> root = std::make_shared<directory>();
  std::vector<name_change> name_changes;  // by sequence
  std::uint64_t sequence = 0;             // of changes
  std::uint64_t capacity_pages = 0;
  std::shared_ptr<disk_space> space = std::make_shared<disk_space>();
  std::map<const inode*, long> locks;  // and who holds each
  long last_pid = 1000;
  std::uint64_t life = 0;  // crashes in place so far

  std::vector<fault> faults;
  std::uint64_t hit = 0;
  bool is_crashed = false;
  std::uint64_t operations = 0;
  std::array<std::uint64_t, op_kinds> operations_of{};
  bool keeps_history = false;
  std::vector<op> history;  // the last ones, without gaps
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
                std::string_view to = {}) {
    if (is_crashed) return {crashed_error(), 0, operations};
    verdict result;
    result.number = operations++;
    ++operations_of[static_cast<std::size_t>(kind)];
    if (keeps_history || hook) show({result.number, kind, path, std::string(to), offset, length, {}});
    if (is_crashed) result.error = crashed_error();
    if (!faults.empty()) meet_faults(kind, path, offset, length, to, result);
    return result;
  }

  std::error_code end(const verdict& begun, std::error_code error) {
    if (error && !history.empty()) {
      const std::uint64_t at = begun.number - history.front().number;
      if (at < history.size()) history[static_cast<std::size_t>(at)].error = error;
    }
    return error;
  }

  // --- names ---

  struct place {
    std::shared_ptr<directory> parent;
    std::string_view name;  // of the path that was asked for
    [[nodiscard]] directory::cached_entry* entry() const {
      const auto found = parent->cached.find(name);
      return found == parent->cached.end() ? nullptr : &found->second;
    }
  };

  std::shared_ptr<directory> find_directory(std::span<const std::string_view> parts, std::error_code& ec) const {
    const std::shared_ptr<directory>* at = &root;
    for (const std::string_view each : parts) {
      const auto found = (*at)->cached.find(each);
      if (found == (*at)->cached.end()) return ec = disk_error(ENOENT), nullptr;
      if (!found->second.folder) return ec = disk_error(ENOTDIR), nullptr;
      at = &found->second.folder;
    }
    return *at;
  }

  std::optional<place> find_place(const std::string& path, std::error_code& ec) const {
    const std::vector<std::string_view> parts = parts_of(path);
    if (parts.empty()) return ec = disk_error(EISDIR), std::nullopt;
    auto parent = find_directory(std::span(parts).first(parts.size() - 1), ec);
    if (!parent) return std::nullopt;
    return place{std::move(parent), parts.back()};
  }

  std::shared_ptr<live_file> find_file(const std::string& path) const {
    std::error_code ec;
    const auto where = find_place(path, ec);
    const auto* const entry = where ? where->entry() : nullptr;
    return entry ? entry->file : nullptr;
  }

  std::shared_ptr<live_file> create_file(const place& where) {
    auto file = std::make_shared<live_file>(std::make_shared<inode>(), space);
    const std::string name(where.name);
    where.parent->cached[name] = {file, nullptr};
    name_changes.push_back({++sequence, nullptr, where.parent, {}, name, {file->node, nullptr}});
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
    const std::string from_name(source->name), to_name(target->name);
    source->parent->cached.erase(from_name);
    target->parent->cached[to_name] = moved;
    name_changes.push_back({++sequence,
                            source->parent,
                            target->parent,
                            from_name,
                            to_name,
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
    const std::string name(where->name);
    where->parent->cached.erase(name);
    name_changes.push_back({++sequence, where->parent, nullptr, name, {}, {}});
  }

  void create_directory(const std::string& path, std::error_code& ec) {
    const verdict begun = begin(op_kind::create_directory, path);
    ec = begun.error;
    if (!ec && parts_of(path).empty()) return;
    const auto where = ec ? std::nullopt : find_place(path, ec);
    const auto* const entry = where ? where->entry() : nullptr;
    if (!ec && entry && entry->file) ec = disk_error(ENOTDIR);
    if (end(begun, ec) || entry) return;
    const auto made = std::make_shared<directory>();
    const std::string name(where->name);
    where->parent->cached[name] = {nullptr, made};
    name_changes.push_back({++sequence, nullptr, where->parent, {}, name, {nullptr, made}});
  }

  std::vector<std::string> list(const std::string& path, std::error_code& ec) {
    const verdict begun = begin(op_kind::list, path);
    ec = begun.error;
    const auto listed = ec ? nullptr : find_directory(parts_of(path), ec);
    std::vector<std::string> names;
    if (end(begun, ec)) return names;
    names.reserve(listed->cached.size());
    for (const auto& [name, entry] : listed->cached) names.push_back(name);
    return names;
  }

  // --- bytes ---

  std::error_code pwrite(inode& file, const std::string& path, std::uint64_t offset, std::span<const bytes_view> from,
                         bool writable) {
    std::uint64_t total = 0;
    for (const bytes_view each : from) total += each.size();
    const verdict begun = begin(op_kind::pwrite, path, offset, total);
    const std::optional<elsewhere> astray = std::exchange(astray_, std::nullopt);
    if (!writable) return end(begun, disk_error(EBADF));
    if (begun.error) {
      (void)store(file, offset, from, std::min(begun.short_write, total));
      return begun.error;
    }
    if (astray) return end(begun, store_astray(file, offset, from, total, *astray));
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
    if (!ec && length > disk_region::most) ec = disk_error(EFBIG);
    if (end(begun, ec)) return;
    space->pages_used -= file.truncate(++sequence, length);
  }

  void allocate(inode& file, const std::string& path, std::uint64_t offset, std::uint64_t length, std::error_code& ec,
                bool writable) {
    const verdict begun = begin(op_kind::allocate, path, offset, length);
    ec = begun.error;
    if (!ec && !writable) ec = disk_error(EBADF);
    if (!ec && length == 0) ec = disk_error(EINVAL);
    if (!ec && !is_within_largest(offset, length)) ec = disk_error(EFBIG);
    std::uint64_t missing = 0;
    for (std::uint64_t n = offset / page_size; !ec && n < pages_of(offset + length); ++n) {
      if (!file.blocks.contains(n)) ++missing;
    }
    if (!ec && missing > free_pages()) ec = disk_error(ENOSPC);
    if (!end(begun, ec)) (void)reserve(file, offset, length);
  }

  bytes_view map(inode& file, const std::string& path, std::uint64_t offset, std::uint64_t length,
                 std::error_code& ec) {
    const verdict begun = begin(op_kind::map, path, offset, length);
    ec = begun.error;
    if (!ec && !is_within_largest(offset, length)) ec = disk_error(ENOMEM);
    if (end(begun, ec) || length == 0) return {};
    return {file.cached.mapped() + offset, static_cast<std::size_t>(length)};
  }

  // --- syncs ---

  sync begin_datasync(const std::shared_ptr<inode>& file, const std::string& path) {
    const verdict begun = begin(op_kind::datasync, path);
    ++file->syncs_in_flight;
    return {end(begun, begun.error), sequence, file, nullptr, life};
  }

  sync begin_sync_directory(const std::string& path) {
    const verdict begun = begin(op_kind::sync_directory, path);
    std::error_code ec = begun.error;
    auto folder = ec ? nullptr : find_directory(parts_of(path), ec);
    return {end(begun, ec), sequence, nullptr, std::move(folder), life};
  }

  std::error_code end_sync(const sync& ending) {
    if (ending.life != life) return crashed_error();
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
    auto file = entry ? entry->file : create_file(*where);
    const std::string text = std::to_string(pid) + "\n";
    const std::array<bytes_view, 1> content = {as_bytes(text)};
    if (file->node->size != 0) space->pages_used -= file->node->truncate(++sequence, 0);
    ec = end(begun, store(*file->node, 0, content, text.size()));
    if (ec) return nullptr;
    locks[file->node.get()] = pid;
    holder = pid;
    return file;
  }

  /// Nothing when a crash has ended the lock.
  void unlock(const live_file& locked) noexcept {
    if (!locked.is_past()) locks.erase(locked.node.get());
  }

  // --- whole disks ---

  /// Calls visit(const std::string& path, const std::shared_ptr<inode>&) for each file.
  template <class Visit>
  static void walk(const directory& at, view which, const std::string& prefix, const Visit& visit) {
    const auto walk_entry = [&](const std::string& path, const std::shared_ptr<inode>& file,
                                const std::shared_ptr<directory>& folder) {
      if (folder)
        walk(*folder, which, path, visit);
      else
        visit(path, file);
    };
    if (which == view::durable) {
      for (const auto& [name, entry] : at.durable) walk_entry(prefix + "/" + name, entry.file, entry.folder);
    } else {
      for (const auto& [name, entry] : at.cached) {
        walk_entry(prefix + "/" + name, entry.file ? entry.file->node : nullptr, entry.folder);
      }
    }
  }

  /// The file or the directory that has this durable name.
  [[nodiscard]] directory::durable_entry find_durable(std::string_view path) const {
    const directory::durable_entry top{nullptr, root};
    const directory::durable_entry* at = &top;
    for (const std::string_view each : parts_of(path)) {
      if (!at->folder) return {};
      const auto found = at->folder->durable.find(each);
      if (found == at->folder->durable.end()) return {};
      at = &found->second;
    }
    return *at;
  }

  [[nodiscard]] std::shared_ptr<const inode> find(const std::string& path, view which) const {
    if (which == view::durable) return find_durable(path).file;
    const auto file = find_file(path);
    return file ? file->node : nullptr;
  }

  std::shared_ptr<directory> make_directory(std::span<const std::string_view> parts) {
    std::shared_ptr<directory> at = root;
    for (const std::string_view each : parts) {
      const std::string name(each);
      auto& entry = at->cached[name];
      if (entry.file) throw std::logic_error("disk: " + name + " is a file");
      if (!entry.folder) entry.folder = std::make_shared<directory>();
      at->set_durable(name, {nullptr, entry.folder});
      at = std::shared_ptr<directory>(entry.folder);
    }
    return at;
  }

  void replace(const std::string& path, bytes_view bytes) {
    const std::vector<std::string_view> parts = parts_of(path);
    if (parts.empty()) throw std::logic_error("disk: " + path + " is a directory");
    const auto parent = make_directory(std::span(parts).first(parts.size() - 1));
    const std::string name(parts.back());
    auto& entry = parent->cached[name];
    if (entry.folder) throw std::logic_error("disk: " + path + " is a directory");
    if (!entry.file) entry.file = std::make_shared<live_file>(std::make_shared<inode>(), space);
    inode& file = *entry.file->node;
    space->pages_used -= file.blocks.count();
    file.become(bytes);
    space->pages_used += file.blocks.count();
    parent->set_durable(name, {entry.file->node, nullptr});
  }

  void settle() {
    for (const name_change& each : name_changes) each.make_durable();
    name_changes.clear();
    walk(*root, view::cached, "",
         [this](const std::string&, const std::shared_ptr<inode>& file) { file->make_durable(sequence); });
  }

  // --- crashes ---

  /// The program ends; open files and syncs of before belong to a past life.
  void crash_process() {
    const auto ended = begin_life();
    revive(*root);
    const auto forget_if_unnamed = [this](const std::shared_ptr<inode>& file) {
      if (!file) return;
      file->syncs_in_flight = 0;
      if (file->owner && file->owner->space == space) return;
      file->owner = nullptr;
      file->blocks.clear();
    };
    for_each_durable_name(*root, forget_if_unnamed);
    for (const name_change& each : name_changes) {
      forget_if_unnamed(each.what.file);
      if (each.what.folder) for_each_durable_name(*each.what.folder, forget_if_unnamed);
    }
  }

  void lose_power(const power_cut& cut) {
    const auto ended = begin_life();
    random_stream random(cut.seed);
    std::size_t kept = cut.directory == survives::everything ? name_changes.size() : 0;
    if (cut.directory == survives::something) kept = static_cast<std::size_t>(random.below(name_changes.size() + 1));
    for (std::size_t i = 0; i < kept; ++i) name_changes[i].make_durable();
    // The names that did not survive own files and directories until the new ones are known.
    const std::vector<name_change> lost = std::exchange(name_changes, {});
    survive(*root, cut, random);
  }

  /// Another disk of the same content, with what is pending still pending; without faults, history or locks.
  [[nodiscard]] std::shared_ptr<disk_state> copy() const {
    auto image = std::make_shared<disk_state>();
    copier copies{*image, {}, {}};
    image->root = copies.copy(root);
    for (const name_change& each : name_changes) {
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
    image->keeps_history = keeps_history;
    return image;
  }

 private:
  static bool is_within_largest(std::uint64_t offset, std::uint64_t length) {
    return offset <= disk_region::most && length <= disk_region::most - offset;
  }

  [[nodiscard]] std::uint64_t free_pages() const {
    return capacity_pages > space->pages_used ? capacity_pages - space->pages_used : 0;
  }

  void show(op shown) {
    if (keeps_history) history.push_back(shown);
    if (hook) hook(shown);
  }

  void meet_faults(op_kind kind, const std::string& path, std::uint64_t offset, std::uint64_t length,
                   std::string_view to, verdict& result) {
    for (std::size_t i = 0; i < faults.size();) {
      fault& each = faults[i];
      const bool matches = concerns(each, kind, path, offset, length, to);
      if (!matches || each.nth > 0) {
        if (matches) --each.nth;
        ++i;
        continue;
      }
      if (!result.error && !astray_) {
        ++hit;
        if (each.misdirect) {
          astray_ = each.misdirect;
        } else {
          result.error = each.error;
          result.short_write = each.short_write;
          if (each.error == crashed_error()) is_crashed = true;
        }
      }
      if (each.how_often == times::once)
        faults.erase(faults.begin() + static_cast<std::ptrdiff_t>(i));
      else
        ++i;
    }
    (void)end(result, result.error);
  }

  static bool concerns(const fault& what, op_kind kind, const std::string& path, std::uint64_t offset,
                       std::uint64_t length, std::string_view to) {
    if (!what.kinds.empty() && std::find(what.kinds.begin(), what.kinds.end(), kind) == what.kinds.end()) return false;
    if (what.misdirect && kind != op_kind::pwrite) return false;
    if (what.touching) {
      const bool has_range =
          kind == op_kind::pread || kind == op_kind::pwrite || kind == op_kind::allocate || kind == op_kind::map;
      if (!has_range || *what.touching < offset || *what.touching - offset >= length) return false;
    }
    if (what.path_contains.empty()) return true;
    if (to.empty()) return path.find(what.path_contains) != std::string::npos;
    return (path + std::string(to)).find(what.path_contains) != std::string::npos;
  }

  // Takes space for the bytes. @return for how many of them there was some.
  std::uint64_t reserve(inode& file, std::uint64_t offset, std::uint64_t count) {
    for (std::uint64_t number = offset / page_size; number < pages_of(offset + count); ++number) {
      if (file.blocks.contains(number)) continue;
      if (free_pages() == 0) return number * page_size > offset ? number * page_size - offset : 0;
      file.blocks.insert(number);
      ++space->pages_used;
    }
    return count;
  }

  // Puts the first `count` bytes of `from` into the cache, as far as there is space.
  std::error_code store(inode& file, std::uint64_t offset, std::span<const bytes_view> from, std::uint64_t count) {
    if (!is_within_largest(offset, count)) return disk_error(EFBIG);
    if (count == 0) return {};
    const std::uint64_t fitting = reserve(file, offset, count);
    if (fitting != 0) file.write(++sequence, offset, from, fitting);
    return fitting == count ? std::error_code() : disk_error(ENOSPC);
  }

  std::error_code store_astray(inode& meant, std::uint64_t offset, std::span<const bytes_view> from,
                               std::uint64_t count, const elsewhere& where) {
    if (!is_within_largest(offset, count)) return disk_error(EFBIG);
    const std::uint64_t fitting = reserve(meant, offset, count);
    meant.grow(++sequence, offset + fitting);
    const std::shared_ptr<live_file> other = where.path.empty() ? nullptr : find_file(where.path);
    inode* const hit_file = where.path.empty() ? &meant : other ? other->node.get() : nullptr;
    std::uint64_t at = where.page * page_size + offset % page_size;
    for (const bytes_view each : from) {
      if (hit_file) hit_file->alter(at, each.size(), [each](std::byte& byte, std::size_t i) { byte = each[i]; });
      at += each.size();
    }
    return fitting == count ? std::error_code() : disk_error(ENOSPC);
  }

  void make_names_durable(const std::shared_ptr<directory>& folder, std::uint64_t up_to) {
    if (name_changes.empty()) return;
    // A rename between directories drags along what happened before in the other one.
    std::vector<const directory*> concerned{folder.get()};
    const auto concerns = [&concerned](const std::shared_ptr<directory>& some) {
      return some && std::find(concerned.begin(), concerned.end(), some.get()) != concerned.end();
    };
    std::vector<bool> covered(name_changes.size());
    for (std::size_t i = name_changes.size(); i-- > 0;) {
      const name_change& each = name_changes[i];
      if (each.sequence > up_to || (!concerns(each.from) && !concerns(each.to))) continue;
      covered[i] = true;
      if (each.from && !concerns(each.from)) concerned.push_back(each.from.get());
      if (each.to && !concerns(each.to)) concerned.push_back(each.to.get());
    }
    std::vector<name_change> left;
    for (std::size_t i = 0; i < name_changes.size(); ++i) {
      if (covered[i])
        name_changes[i].make_durable();
      else
        left.push_back(std::move(name_changes[i]));
    }
    name_changes = std::move(left);
  }

  // --- crashes ---

  // @return what the dead program waited for. It may be destroyed when the disk has become another.
  std::vector<held_sync> begin_life() {
    ++life;
    is_crashed = false;
    locks.clear();
    std::erase_if(faults, [](const fault& each) { return each.error == crashed_error(); });
    space->is_past = true;
    space = std::make_shared<disk_space>();
    holding = false;
    return std::exchange(held, {});
  }

  // From now on the file is this life's. @return the one that names refer to.
  std::shared_ptr<live_file> revived(const std::shared_ptr<inode>& file) {
    if (file->owner && file->owner->space == space) return file->owner->shared_from_this();
    auto made = std::make_shared<live_file>(file, space);
    space->pages_used += file->blocks.count();
    return made;
  }

  void revive(directory& at) {
    for (auto& [name, entry] : at.cached) {
      if (entry.folder)
        revive(*entry.folder);
      else
        entry.file = revived(entry.file->node);
    }
  }

  template <class Visit>  // void(const std::shared_ptr<inode>&)
  static void for_each_durable_name(const directory& at, const Visit& visit) {
    for (const auto& [name, entry] : at.durable) {
      if (entry.folder)
        for_each_durable_name(*entry.folder, visit);
      else
        visit(entry.file);
    }
  }

  void survive(directory& at, const power_cut& cut, random_stream& random) {
    std::map<std::string, directory::cached_entry, std::less<>> names;
    for (const auto& [name, entry] : at.durable) {
      directory::cached_entry& made = names.emplace_hint(names.end(), name, directory::cached_entry())->second;
      if (entry.folder) {
        survive(*entry.folder, cut, random);
        made.folder = entry.folder;
        continue;
      }
      const bool is_known = entry.file->owner && entry.file->owner->space == space;
      if (!is_known) entry.file->lose_power(cut, random);
      made.file = revived(entry.file);
    }
    at.cached = std::move(names);
  }

  // Copies of inodes and directories, each made once.
  struct copier {
    disk_state& image;
    std::map<const inode*, std::shared_ptr<inode>> inodes;
    std::map<const directory*, std::shared_ptr<directory>> directories;

    std::shared_ptr<inode> copy(const std::shared_ptr<inode>& of) {
      if (!of) return nullptr;
      auto& made = inodes[of.get()];
      if (made) return made;
      made = std::make_shared<inode>();
      made->copy_from(*of);
      return made;
    }

    std::shared_ptr<live_file> copy(const std::shared_ptr<live_file>& of) {
      return of ? image.revived(copy(of->node)) : nullptr;
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

  std::optional<elsewhere> astray_;  // where the pwrite that has begun lands
};

}  // namespace lockstep::sim::detail
