// inode: one simulated file's bytes, what of them is durable, and every state between that a power loss may leave.
//
// The cached bytes stand in one region. What no sync has covered is kept as a list of changes, oldest first, each
// with the bytes that it replaced: undone from the newest backwards they show each state that a page went through,
// and the oldest is the durable one. A write to the end of a file replaces nothing, and a sync that covers all forgets
// the list; neither copies a page. Only a crash makes pages of it.
//
// The exception are pages that a failed sync marked clean: what the disk holds of them can't be had by undoing, and
// stands in `stale` until they are written again and synced.
#pragma once

#include "lockstep/core/bytes.hpp"
#include "lockstep/sim/detail/disk_region.hpp"
#include "lockstep/sim/disk_faults.hpp"
#include "lockstep/sim/random.hpp"

#include <algorithm>
#include <array>
#include <atomic>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <map>
#include <memory>
#include <span>
#include <utility>
#include <vector>

namespace lockstep::sim::detail {

using page = std::array<std::byte, page_size>;

constexpr std::uint64_t pages_of(std::uint64_t bytes) { return (bytes + page_size - 1) / page_size; }

/// Numbers of pages.
class page_set {
 public:
  [[nodiscard]] std::uint64_t count() const noexcept { return count_; }
  [[nodiscard]] bool contains(std::uint64_t number) const noexcept {
    return number / 64 < words_.size() && (words_[static_cast<std::size_t>(number / 64)] >> (number % 64) & 1) != 0;
  }
  /// @return whether it is new.
  bool insert(std::uint64_t number) {
    if (contains(number)) return false;
    const auto word = static_cast<std::size_t>(number / 64);
    if (word >= words_.size()) words_.resize(word + 1);
    words_[word] |= std::uint64_t{1} << (number % 64);
    ++count_;
    return true;
  }
  /// Removes `from` and all after it. @return how many there were.
  std::uint64_t cut(std::uint64_t from) {
    const std::uint64_t before = count_;
    for (auto word = static_cast<std::size_t>(from / 64); word < words_.size(); ++word) {
      const bool partly = word == from / 64;
      const std::uint64_t kept = partly ? words_[word] & ((std::uint64_t{1} << (from % 64)) - 1) : 0;
      count_ -= static_cast<std::uint64_t>(std::popcount(words_[word] ^ kept));
      words_[word] = kept;
    }
    return before - count_;
  }
  void clear() noexcept {
    words_.clear();
    count_ = 0;
  }
  /// The number after the last; 0 when empty.
  [[nodiscard]] std::uint64_t end() const noexcept {
    for (std::size_t word = words_.size(); word-- > 0;) {
      if (words_[word] != 0) return word * 64 + 64 - static_cast<std::uint64_t>(std::countl_zero(words_[word]));
    }
    return 0;
  }

 private:
  std::vector<std::uint64_t> words_;
  std::uint64_t count_ = 0;
};

/// A number that nothing else in this process was given.
inline std::uint64_t unique_number() noexcept {
  constexpr std::uint64_t block = std::uint64_t{1} << 20;  // threads share only the numbers of blocks
  static std::atomic<std::uint64_t> blocks{0};
  thread_local std::uint64_t last = 0;
  if (last % block == 0) last = blocks.fetch_add(1, std::memory_order_relaxed) * block;
  return ++last;
}

struct live_file;

struct inode {
  /// A write, or a truncate that cut bytes off, that no sync has covered.
  struct change {
    std::uint64_t sequence = 0;
    std::uint64_t offset = 0;
    std::uint64_t length = 0;
    std::uint64_t replaced_at = 0;  ///< in `replaced`
    std::uint64_t replaced = 0;     ///< bytes; what stood after them was zeros
    bool cut = false;
    bool lost = false;  ///< marked clean by a failed sync

    [[nodiscard]] std::uint64_t end() const noexcept { return offset + length; }
  };
  struct size_change {
    std::uint64_t sequence = 0;
    std::uint64_t size = 0;
  };

  disk_region cached;
  std::uint64_t size = 0;
  std::uint64_t durable_size = 0;
  std::uint64_t durable_version = unique_number();  // another one whenever the durable bytes change
  std::vector<change> changes;                      // by sequence
  std::vector<std::byte> replaced;                  // by the changes, in their order
  std::vector<size_change> sizes;                   // by sequence
  std::map<std::uint64_t, page> stale;              // by number: durable pages that the changes do not lead back to
  bool any_lost = false;                            // of the changes
  std::uint64_t fold_at = first_fold;               // the weight() from which on states in between are forgotten
  page_set blocks;                                  // pages that hold space
  std::size_t syncs_in_flight = 0;
  live_file* owner = nullptr;  // whoever counts the blocks

  inode() = default;
  inode(const inode&) = delete;
  inode& operator=(const inode&) = delete;

  // --- changes ---

  /// Writes the first `count` bytes of `from`.
  void write(std::uint64_t sequence, std::uint64_t offset, std::span<const bytes_view> from, std::uint64_t count) {
    remember(sequence, offset, count, size, false);
    grow(sequence, offset + count);
    std::byte* to = cached.data() + offset;
    for (const bytes_view each : from) {
      const std::size_t part = static_cast<std::size_t>(std::min<std::uint64_t>(each.size(), count));
      if (part != 0) std::memcpy(to, each.data(), part);
      to += part;
      count -= part;
    }
    if (weight() > fold_at && syncs_in_flight == 0) fold();
  }

  /// Cuts off, or adds zeros. @return how many blocks are free now.
  std::uint64_t truncate(std::uint64_t sequence, std::uint64_t length) {
    // Only pages with space hold anything else than zeros.
    if (length < size) remember(sequence, length, size - length, std::min(size, blocks.end() * page_size), true);
    const std::uint64_t freed = blocks.cut(pages_of(length));
    if (length == size) return freed;
    cached.resize(length);
    remember_size(sequence, length);
    return freed;
  }

  void grow(std::uint64_t sequence, std::uint64_t end) {
    if (end <= size) return;
    cached.resize(end);
    remember_size(sequence, end);
  }

  /// Applies change(std::byte&, std::size_t i) to the i-th of the bytes from `offset` on in every state of theirs.
  template <class Change>
  void alter(std::uint64_t offset, std::uint64_t count, Change apply) {
    durable_version = unique_number();
    const auto alter_some = [&](std::byte* bytes, std::uint64_t at, std::uint64_t end) {
      for (std::uint64_t i = std::max(at, offset); i < std::min(end, offset + count); ++i) {
        apply(bytes[i - at], static_cast<std::size_t>(i - offset));
      }
    };
    alter_some(cached.data(), 0, size);
    for (const change& each : changes) {
      alter_some(replaced.data() + each.replaced_at, each.offset, each.offset + each.replaced);
    }
    for (auto& [number, content] : stale) {
      alter_some(content.data(), number * page_size, std::min((number + 1) * page_size, durable_size));
    }
  }

  /// Bytes that are durable, with nothing pending and space for what is not zeros.
  void become(bytes_view bytes) {
    cached.resize(0);
    cached.resize(bytes.size());
    if (!bytes.empty()) std::memcpy(cached.data(), bytes.data(), bytes.size());
    size = durable_size = bytes.size();
    durable_version = unique_number();
    forget_changes();
    blocks.clear();
    give_space();
  }

  void copy_from(const inode& other) {
    cached.resize(other.size);
    if (other.size != 0) std::memcpy(cached.data(), other.cached.data(), static_cast<std::size_t>(other.size));
    size = other.size;
    durable_size = other.durable_size;
    changes = other.changes;
    replaced = other.replaced;
    sizes = other.sizes;
    stale = other.stale;
    any_lost = other.any_lost;
    fold_at = other.fold_at;
    blocks = other.blocks;
  }

  // --- syncs ---

  void make_durable(std::uint64_t up_to) {
    const auto newer =
        std::find_if(changes.rbegin(), changes.rend(), [up_to](const change& each) { return each.sequence <= up_to; });
    const auto covered = static_cast<std::size_t>(changes.rend() - newer);
    if (any_lost || !stale.empty()) leave_stale(covered);
    drop(covered);
    std::size_t sizes_covered = 0;
    while (sizes_covered < sizes.size() && sizes[sizes_covered].sequence <= up_to) ++sizes_covered;
    if (covered != 0 || sizes_covered != 0) durable_version = unique_number();
    if (sizes_covered == 0) return;
    durable_size = sizes[sizes_covered - 1].size;
    sizes.erase(sizes.begin(), sizes.begin() + static_cast<std::ptrdiff_t>(sizes_covered));
  }

  /// A sync failed: no later one writes what is pending now.
  void mark_clean(std::uint64_t up_to) {
    for (change& each : changes) {
      if (each.sequence > up_to) break;
      each.lost = any_lost = true;
    }
  }

  /// Reads durable bytes; zeros beyond the durable size.
  void read_durable(std::uint64_t offset, mutable_bytes into) const {
    fill(into, offset);
    for (std::size_t i = changes.size(); i-- > 0;) undo(changes[i], into, offset);
    for (const auto& [number, content] : stale) {
      place(into, offset, number * page_size, content);
    }
    if (offset + into.size() <= durable_size) return;
    const std::uint64_t inside = durable_size > offset ? durable_size - offset : 0;
    std::fill(into.begin() + static_cast<std::ptrdiff_t>(inside), into.end(), std::byte{});
  }

  [[nodiscard]] std::vector<std::byte> durable_bytes() const {
    std::vector<std::byte> bytes(static_cast<std::size_t>(durable_size));
    read_durable(0, bytes);
    return bytes;
  }

  // --- power loss ---

  /// Becomes what the cut leaves of it, durable.
  void lose_power(const power_cut& cut, random_stream& random) {
    if (!changes.empty() || !stale.empty() || !sizes.empty()) become_survivor(cut, random);
    blocks.cut(pages_of(size));
    if (!owner) give_space();  // a removed file comes back
    syncs_in_flight = 0;
  }

 private:
  static constexpr std::uint64_t first_fold = std::uint64_t{1} << 20;

  // A page that a change touches: the i-th.
  struct touch {
    std::uint64_t number = 0;
    std::size_t i = 0;
    auto operator<=>(const touch&) const = default;
  };
  // A state that a power loss may leave of a page: the one after the first `changes` of the file's changes, with
  // zeros from `cut` on by a later truncate.
  struct candidate {
    std::uint64_t sequence = 0;
    std::size_t changes = 0;
    std::size_t cut = page_size;
    bool lost = false;
  };

  void remember(std::uint64_t sequence, std::uint64_t offset, std::uint64_t length, std::uint64_t nonzero_end,
                bool cut) {
    const std::uint64_t count = nonzero_end > offset ? std::min(length, nonzero_end - offset) : 0;
    changes.push_back({sequence, offset, length, replaced.size(), count, cut, false});
    if (count == 0) return;
    const std::byte* const from = cached.data() + offset;
    replaced.insert(replaced.end(), from, from + count);
  }

  void remember_size(std::uint64_t sequence, std::uint64_t changed) {
    size = changed;
    sizes.push_back({sequence, size});
    if (sizes.size() > 64 && syncs_in_flight == 0 && sizes[31].size < sizes[32].size &&
        sizes[32].size < sizes[33].size) {
      sizes.erase(sizes.begin() + 32);
    }
  }

  void forget_changes() {
    changes.clear();
    replaced.clear();
    sizes.clear();
    stale.clear();
    any_lost = false;
    fold_at = first_fold;
  }

  // Forgets the first `count` changes.
  void drop(std::size_t count) {
    if (count == changes.size()) {
      changes.clear();
      replaced.clear();
      any_lost = false;
      fold_at = first_fold;
      return;
    }
    if (count == 0) return;
    const std::uint64_t bytes = changes[count].replaced_at;
    changes.erase(changes.begin(), changes.begin() + static_cast<std::ptrdiff_t>(count));
    replaced.erase(replaced.begin(), replaced.begin() + static_cast<std::ptrdiff_t>(bytes));
    any_lost = false;
    for (change& each : changes) {
      each.replaced_at -= bytes;
      any_lost = any_lost || each.lost;
    }
  }

  [[nodiscard]] std::uint64_t weight() const noexcept { return replaced.size() + changes.size() * sizeof(change); }

  static bool has_content(const std::byte* from, const std::byte* end) {
    return std::any_of(from, end, [](std::byte each) { return each != std::byte{}; });
  }

  // Space for each page that is not all zeros.
  void give_space() {
    for (std::uint64_t number = 0; number < pages_of(size); ++number) {
      const std::byte* const end = cached.data() + std::min((number + 1) * page_size, size);
      if (has_content(cached.data() + number * page_size, end)) blocks.insert(number);
    }
  }

  // --- windows: `into` shows the file's bytes from `offset` on ---

  void fill(mutable_bytes into, std::uint64_t offset) const {
    const std::uint64_t known =
        cached.size() > offset ? std::min<std::uint64_t>(cached.size() - offset, into.size()) : 0;
    if (known != 0) std::memcpy(into.data(), cached.data() + offset, static_cast<std::size_t>(known));
    std::fill(into.begin() + static_cast<std::ptrdiff_t>(known), into.end(), std::byte{});
  }

  void undo(const change& what, mutable_bytes into, std::uint64_t offset) const {
    place(into, offset, what.offset,
          bytes_view(replaced).subspan(static_cast<std::size_t>(what.replaced_at),
                                       static_cast<std::size_t>(what.replaced)));
    const std::uint64_t from = std::max(what.offset + what.replaced, offset);
    const std::uint64_t to = std::min(what.end(), offset + into.size());
    if (from < to) std::memset(into.data() + (from - offset), 0, static_cast<std::size_t>(to - from));
  }

  // Puts `content`, which stands at `at` of the file.
  static void place(mutable_bytes into, std::uint64_t offset, std::uint64_t at, bytes_view content) {
    const std::uint64_t from = std::max(at, offset);
    const std::uint64_t to = std::min(at + content.size(), offset + into.size());
    if (from < to) {
      std::memcpy(into.data() + (from - offset), content.data() + (from - at), static_cast<std::size_t>(to - from));
    }
  }

  // --- states of pages ---

  /// Sorted by page, and then by change.
  [[nodiscard]] std::vector<touch> touches(std::size_t first, std::size_t last) const {
    std::vector<touch> result;
    for (std::size_t i = first; i < last; ++i) {
      for (std::uint64_t number = changes[i].offset / page_size; number < pages_of(changes[i].end()); ++number) {
        result.push_back({number, i});
      }
    }
    std::sort(result.begin(), result.end());
    return result;
  }

  template <class Visit>  // void(std::uint64_t number, std::span<const touch>), by page
  static void for_each_page(std::span<const touch> all, Visit visit) {
    while (!all.empty()) {
      std::size_t count = 1;
      while (count < all.size() && all[count].number == all.front().number) ++count;
      visit(all.front().number, all.first(count));
      all = all.subspan(count);
    }
  }

  /// The page after the first `count` of the file's changes. `touching` are the changes of that page.
  [[nodiscard]] page state_after(std::size_t count, std::uint64_t number, std::span<const touch> touching) const {
    page result;
    fill(result, number * page_size);
    for (std::size_t i = touching.size(); i-- > 0 && touching[i].i >= count;) {
      undo(changes[touching[i].i], result, number * page_size);
    }
    return result;
  }

  [[nodiscard]] page durable_page(std::uint64_t number, std::span<const touch> touching) const {
    const auto known = stale.find(number);
    return known != stale.end() ? known->second : state_after(0, number, touching);
  }

  static std::size_t cut_within(std::uint64_t number, const change& truncate) {
    const std::uint64_t from = number * page_size;
    return truncate.offset > from ? static_cast<std::size_t>(truncate.offset - from) : 0;
  }

  static void cut_page(page& of, std::size_t cut) {
    std::fill(of.begin() + static_cast<std::ptrdiff_t>(cut), of.end(), std::byte{});
  }

  // Before the first `covered` changes are dropped by a good sync: keeps the durable states that differ from what
  // then is the oldest.
  void leave_stale(std::size_t covered) {
    const std::vector<touch> all = touches(0, changes.size());
    for_each_page(all, [&](std::uint64_t number, std::span<const touch> touching) {
      if (touching.front().i >= covered) return;
      page durable = durable_page(number, touching);
      for (const touch& each : touching) {
        const change& what = changes[each.i];
        if (each.i >= covered) break;
        if (what.cut)
          cut_page(durable, cut_within(number, what));
        else if (!what.lost)
          durable = state_after(each.i + 1, number, touching);
      }
      if (durable == state_after(covered, number, touching))
        stale.erase(number);
      else
        stale[number] = durable;
    });
  }

  // Forgets states in between, which only forgets something that a crash might have left: the longest row of writes
  // among the older changes becomes one change a page.
  void fold() {
    std::size_t first = 0, last = 0;
    for (std::size_t begin = 0, i = 0; i < changes.size() * 3 / 4; ++i) {
      if (changes[i].cut || changes[i].lost) begin = i + 1;
      if (i + 1 - begin > last - first && begin <= i) first = begin, last = i + 1;
    }
    if (last - first > 1) fold(first, last);
    fold_at = first_fold + 2 * weight();
  }

  void fold(std::size_t first, std::size_t last) {
    std::vector<change> folded(changes.begin(), changes.begin() + static_cast<std::ptrdiff_t>(first));
    std::vector<std::byte> bytes(replaced.begin(),
                                 replaced.begin() + static_cast<std::ptrdiff_t>(changes[first].replaced_at));
    const std::vector<touch> all = touches(first, changes.size());
    for_each_page(all, [&](std::uint64_t number, std::span<const touch> touching) {
      if (touching.front().i >= last) return;
      change whole;
      whole.offset = number * page_size;
      for (const touch& each : touching) {
        if (each.i >= last) break;
        whole.sequence = changes[each.i].sequence;
        whole.length = std::max(whole.length, std::min(changes[each.i].end() - whole.offset, std::uint64_t{page_size}));
      }
      const page before = state_after(first, number, touching);
      whole.replaced_at = bytes.size();
      whole.replaced = whole.length;
      bytes.insert(bytes.end(), before.begin(), before.begin() + static_cast<std::ptrdiff_t>(whole.length));
      folded.push_back(whole);
    });
    // The offsets decide among pages of one write, so that the order is the same everywhere.
    const auto of_pages = folded.begin() + static_cast<std::ptrdiff_t>(first);
    std::sort(of_pages, folded.end(), [](const change& a, const change& b) {
      return std::pair(a.sequence, a.offset) < std::pair(b.sequence, b.offset);
    });
    std::vector<std::byte> in_order(bytes.begin(),
                                    bytes.begin() + static_cast<std::ptrdiff_t>(changes[first].replaced_at));
    const auto append = [&in_order](change& what, const std::vector<std::byte>& from) {
      const auto at = from.begin() + static_cast<std::ptrdiff_t>(what.replaced_at);
      what.replaced_at = in_order.size();
      in_order.insert(in_order.end(), at, at + static_cast<std::ptrdiff_t>(what.replaced));
    };
    for (auto at = of_pages; at != folded.end(); ++at) append(*at, bytes);
    for (std::size_t i = last; i < changes.size(); ++i) {
      folded.push_back(changes[i]);
      append(folded.back(), replaced);
    }
    changes = std::move(folded);
    replaced = std::move(in_order);
  }

  // --- what a power loss chooses ---

  void become_survivor(const power_cut& cut, random_stream& random) {
    std::size_t sizes_kept = cut.size == survives::everything ? sizes.size() : 0;
    if (cut.size == survives::something) sizes_kept = static_cast<std::size_t>(random.below(sizes.size() + 1));
    const std::uint64_t truncated_up_to = sizes_kept == 0 ? 0 : sizes[sizes_kept - 1].sequence;
    const std::uint64_t kept_size = sizes_kept == 0 ? durable_size : sizes[sizes_kept - 1].size;

    // Half of the time the pages went out in the order of writing, and only the last of them may be torn.
    const bool in_order = random.below(2) == 0;
    const std::uint64_t first = changes.empty() ? 0 : changes.front().sequence;
    const std::uint64_t last = changes.empty() ? 0 : changes.back().sequence;
    const std::uint64_t written_up_to = changes.empty() ? 0 : first - 1 + random.below(last - first + 2);

    cached.resize(std::max(size, kept_size));
    const auto keep = [&](std::uint64_t number, const page& content) {
      const std::uint64_t at = number * page_size;
      if (at >= kept_size) return;
      const auto count = static_cast<std::size_t>(std::min<std::uint64_t>(page_size, kept_size - at));
      std::memcpy(cached.data() + at, content.data(), count);
      if (has_content(content.data(), content.data() + count)) blocks.insert(number);
    };
    for (const auto& [number, content] : stale) {
      const bool is_changed = std::any_of(
          changes.begin(), changes.end(),
          [at = number * page_size](const change& each) { return each.offset < at + page_size && each.end() > at; });
      if (!is_changed) keep(number, content);
    }
    const std::vector<touch> all = touches(0, changes.size());
    for_each_page(all, [&](std::uint64_t number, std::span<const touch> touching) {
      const std::vector<candidate> candidates = candidates_of(number, touching, truncated_up_to);
      std::size_t chosen = 0;
      bool torn = false;
      if (cut.data == survives::everything) {
        for (std::size_t i = 0; i < candidates.size(); ++i) {
          if (!candidates[i].lost) chosen = i;
        }
      } else if (cut.data == survives::something) {
        if (in_order) {
          while (chosen + 1 < candidates.size() && candidates[chosen + 1].sequence <= written_up_to) ++chosen;
        } else {
          chosen = static_cast<std::size_t>(random.below(candidates.size()));
        }
        torn = chosen + 1 < candidates.size() && random.below(4) == 0;
      }
      page content = content_of(candidates[chosen], number, touching);
      if (torn) tear(content, content_of(candidates[chosen + 1], number, touching), random);
      keep(number, content);
    });
    cached.resize(kept_size);
    size = durable_size = kept_size;
    durable_version = unique_number();
    forget_changes();
  }

  /// The states that a power loss may leave, given which truncates survived: the durable one first.
  [[nodiscard]] std::vector<candidate> candidates_of(std::uint64_t number, std::span<const touch> touching,
                                                     std::uint64_t truncated_up_to) const {
    std::vector<candidate> result(1);
    for (const touch& each : touching) {
      const change& what = changes[each.i];
      if (!what.cut) {
        result.push_back({what.sequence, each.i + 1, page_size, what.lost});
        continue;
      }
      // What was written after a truncate that was lost lies in blocks that no file owns.
      if (what.sequence > truncated_up_to) break;
      const std::size_t cut = cut_within(number, what);
      for (candidate& before : result) before.cut = std::min(before.cut, cut);
      if (cut == 0) result.resize(1);
    }
    return result;
  }

  [[nodiscard]] page content_of(const candidate& of, std::uint64_t number, std::span<const touch> touching) const {
    page result = of.changes == 0 ? durable_page(number, touching) : state_after(of.changes, number, touching);
    cut_page(result, of.cut);
    return result;
  }

  static void tear(page& older, const page& newer, random_stream& random) {
    for (std::size_t at = 0; at < page_size; at += sector_size) {
      if (random.below(2) == 0) std::memcpy(older.data() + at, newer.data() + at, sector_size);
    }
  }
};

/// Space that the files of a disk take, from one crash to the next.
struct disk_space {
  std::uint64_t pages_used = 0;
  bool is_past = false;  ///< a crash has ended the life that counts here
};

/// A file that a name or an open handle keeps alive; when the last goes, its space is free again.
struct live_file : std::enable_shared_from_this<live_file> {
  live_file(std::shared_ptr<inode> of, std::shared_ptr<disk_space> counted_in)
      : node(std::move(of)), space(std::move(counted_in)) {
    node->owner = this;
  }
  live_file(const live_file&) = delete;
  live_file& operator=(const live_file&) = delete;
  ~live_file() {
    if (node->owner == this) node->owner = nullptr;
    if (is_past()) return;
    space->pages_used -= node->blocks.count();
    node->blocks.clear();
  }
  /// Whether a crash has ended the life in which it was opened: whoever holds it must not touch the disk by it.
  [[nodiscard]] bool is_past() const noexcept { return space->is_past; }

  std::shared_ptr<inode> node;
  std::shared_ptr<disk_space> space;
};

}  // namespace lockstep::sim::detail
