// hard_state_file: a node's term and vote, durable before anybody is told of them, and whose directory it is.
//
//   auto file = co_await hard_state_file::open(env, "/var/lib/me", {"orders", 3});
//   ... file->state() ...                              // what the life before was promised, or later
//   co_await file->write(*effects.persist);            // then send
//
// DIR/hard_state has two slots of a page each, which are written in turn, so that the last acknowledged state is never
// the one that is being overwritten:
//
//    0        8         12       16         24     32     40     48            112
//   +--------+---------+--------+----------+------+------+------+-------------+-------+-------
//   | magic  | version | length | sequence | term | vote | node | cluster[64] | check | zeros        512 bytes
//   +--------+---------+--------+----------+------+------+------+-------------+-------+-------
//
//   sequence  rises by one with each write; slot (sequence mod 2) holds it
//   cluster   its id, `length` bytes long, then zeros
//   check     XXH3-64 of the 112 bytes before it
//
// A slot is eight copies of this, one a sector. A disk writes a sector whole or not, so that in a slot that a crash
// tore each copy is of the old state or of the new, which nobody was told of: either may be taken, and the new one is.
// A bad copy is damage, and the others stand in for it. When a slot has no good one, it is not known any more whether
// it was the newest: the file is corrupt, for a node that forgot a vote could vote twice (the paper, section 5.2).
//
// What it does not promise. A write that the disk acknowledged and lost is not found. No lock: the node's own covers
// it.
#pragma once

#include "lockstep/core/bytes.hpp"
#include "lockstep/core/checksum.hpp"
#include "lockstep/core/endian.hpp"
#include "lockstep/core/errors.hpp"
#include "lockstep/core/mutant.hpp"
#include "lockstep/env/env.hpp"
#include "lockstep/env/real.hpp"
#include "lockstep/frame/hello.hpp"
#include "lockstep/log/directory.hpp"
#include "lockstep/raft/core.hpp"

#include <algorithm>
#include <array>
#include <cassert>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

namespace lockstep::raft {

/// Whose data it is.
struct node_identity {
  std::string cluster;  ///< at most max_cluster_bytes long
  node_id node = 0;     ///< not 0

  friend bool operator==(const node_identity&, const node_identity&) = default;
};

namespace hard_state_format {

inline constexpr std::string_view file_name = "hard_state";
inline constexpr std::uint64_t magic = 0x31545348'4b434f4c;  // "LOCKHST1"
inline constexpr std::uint32_t version = 1;
inline constexpr std::size_t copy_bytes = 512;
inline constexpr std::size_t copy_used = 120;
inline constexpr std::size_t slot_bytes = 4096;
inline constexpr std::size_t slots = 2;

static_assert(copy_used <= copy_bytes, "a sector is written whole or not");

/// @param page  slot_bytes long.
void encode_slot(mutable_bytes page, std::uint64_t sequence, const hard_state& state,
                 const node_identity& identity) noexcept;

/// What a slot says.
struct slot {
  std::uint64_t sequence = 0;
  hard_state state;
  node_identity identity;

  /// @param number  which slot it is.
  /// @return the newest of its copies; nothing when none is good.
  static std::optional<slot> decode(bytes_view page, std::size_t number);
};

}  // namespace hard_state_format

/// Thread safety: none; everything on the environment's executor.
template <environment Env>
class basic_hard_state_file {
  struct passkey {};

 public:
  /// Opens the file in `directory`, and makes what it finds durable before it returns. Creates both when the directory
  /// is missing (its parent must exist) or has neither this file nor any of a node's other ones.
  /// @param env  must outlive the file.
  /// @throws system_error: wrong_cluster or wrong_node, whose text names both; corrupt, and nothing was changed; or
  /// what
  ///   the file system said.
  /// Cancellation: not honoured once a sync has begun.
  static awaitable<std::unique_ptr<basic_hard_state_file>> open(Env& env, std::string directory, node_identity identity,
                                                                sync_on where = sync_on::disk_thread);

  basic_hard_state_file(passkey, std::string directory, node_identity identity, sync_on where)
      : directory_(std::move(directory)),
        identity_(std::move(identity)),
        where_(where),
        shared_(std::make_shared<shared>()) {}
  basic_hard_state_file(const basic_hard_state_file&) = delete;
  basic_hard_state_file& operator=(const basic_hard_state_file&) = delete;

  /// The last durable state.
  [[nodiscard]] const hard_state& state() const noexcept { return state_; }
  [[nodiscard]] const node_identity& identity() const noexcept { return identity_; }
  /// Why a write failed; no error while none did.
  [[nodiscard]] const std::error_code& failure() const noexcept { return failure_; }

  /// Makes `next` durable: one write and one sync, and no allocation. One at a time.
  /// @param next  of a later term, or of the same with the vote that was given or with the first one.
  /// @throws system_error: what the file system said, and then log_failed for ever: whether `next` or the state before
  ///   is found by the next open() is not known.
  /// Cancellation: not honoured once the write has begun.
  awaitable<void> write(hard_state next);

 private:
  // Lives until the disk has ended what it was asked for, also when the executor is destroyed meanwhile.
  struct shared {
    typename Env::file file;
    std::array<std::byte, hard_state_format::slot_bytes> page{};
    bool writing = false;
  };
  class in_flight {
   public:
    explicit in_flight(std::shared_ptr<shared> of) noexcept : of_(std::move(of)) {
      assert(!of_->writing);
      of_->writing = true;
    }
    in_flight(const in_flight&) = delete;
    ~in_flight() { of_->writing = false; }

   private:
    std::shared_ptr<shared> of_;
  };

  [[nodiscard]] std::string path() const { return log_files::join(directory_, hard_state_format::file_name); }
  [[nodiscard]] std::system_error corrupt(const std::string& why) const {
    return {make_error_code(errc::corrupt), path() + ": " + why + "; nothing was changed"};
  }

  awaitable<void> create(Env& env, const std::vector<std::string>& names);
  void read();
  void check_identity(const node_identity& found) const;
  awaitable<std::error_code> write_slot(std::uint64_t sequence, hard_state state);

  const std::string directory_;
  const node_identity identity_;
  const sync_on where_;
  std::shared_ptr<shared> shared_;
  hard_state state_;
  std::uint64_t sequence_ = 0;
  std::error_code failure_;
};

using hard_state_file = basic_hard_state_file<real::env>;

// --- Implementation ---------------------------------------------------------------------------------------------

namespace hard_state_format {

inline void encode_slot(mutable_bytes page, std::uint64_t sequence, const hard_state& state,
                        const node_identity& identity) noexcept {
  assert(page.size() == slot_bytes && identity.cluster.size() <= max_cluster_bytes);
  std::memset(page.data(), 0, copy_bytes);
  std::byte* const to = page.data();
  store_le(to, magic);
  store_le(to + 8, version);
  store_le(to + 12, static_cast<std::uint32_t>(identity.cluster.size()));
  store_le(to + 16, sequence);
  store_le(to + 24, state.term);
  store_le(to + 32, state.vote);
  store_le(to + 40, identity.node);
  std::memcpy(to + 48, identity.cluster.data(), identity.cluster.size());
  store_le(to + 112, xxh3_64({to, 112}));
  for (std::size_t at = copy_bytes; at < slot_bytes; at += copy_bytes) std::memcpy(to + at, to, copy_bytes);
}

inline std::optional<slot> slot::decode(bytes_view page, std::size_t number) {
  std::optional<slot> newest;
  for (std::size_t at = 0; at + copy_bytes <= page.size(); at += copy_bytes) {
    const std::byte* const from = page.data() + at;
    const auto length = load_le<std::uint32_t>(from + 12);
    const auto sequence = load_le<std::uint64_t>(from + 16);
    const bool good = load_le<std::uint64_t>(from) == magic && load_le<std::uint32_t>(from + 8) == version &&
                      load_le<std::uint64_t>(from + 112) == xxh3_64({from, 112}) && sequence % slots == number &&
                      length <= max_cluster_bytes;
    if (!good || (newest && newest->sequence >= sequence)) continue;
    newest.emplace();
    newest->sequence = sequence;
    newest->state = {load_le<std::uint64_t>(from + 24), load_le<std::uint64_t>(from + 32)};
    newest->identity = {std::string(as_text({from + 48, length})), load_le<std::uint64_t>(from + 40)};
  }
  return newest;
}

}  // namespace hard_state_format

template <environment Env>
auto basic_hard_state_file<Env>::open(Env& env, std::string directory, node_identity identity, sync_on where)
    -> awaitable<std::unique_ptr<basic_hard_state_file>> {
  assert(identity.node != 0 && identity.cluster.size() <= max_cluster_bytes);
  auto result = std::make_unique<basic_hard_state_file>(passkey(), directory, std::move(identity), where);
  std::error_code ec;
  const std::vector<std::string> names = env.list(directory, ec);
  if (ec == std::errc::no_such_file_or_directory) env.create_directory(directory, ec);
  if (ec) throw std::system_error(ec, "cannot open node directory " + directory);
  const bool exists = std::find(names.begin(), names.end(), hard_state_format::file_name) != names.end();
  if (!exists) co_await result->create(env, names);

  result->shared_->file = env.open(result->path(), open_mode::read_write, ec);
  if (ec) throw std::system_error(ec, "cannot open " + result->path());
  result->read();
  // F2. What was read may be in the page cache only, left there by a write whose sync failed; so may the name.
  if (!mutated(mutant::skip_hard_state_rewrite)) {
    ec = co_await result->write_slot(result->sequence_, result->state_);
  }
  if (!ec && !mutated(mutant::skip_hard_state_directory_sync)) ec = co_await env.sync_directory(directory, where);
  if (ec) throw std::system_error(ec, "cannot sync " + result->path());
  co_return result;
}

// D1. Both slots are good from the beginning, so that a bad one is never the one that was not written yet.
template <environment Env>
awaitable<void> basic_hard_state_file<Env>::create(Env& env, const std::vector<std::string>& names) {
  for (const std::string_view other : {"log", "snapshots", "refill"}) {
    if (std::find(names.begin(), names.end(), other) == names.end()) continue;
    throw corrupt("it is missing, and the directory has " + std::string(other) + " already");
  }
  // D2; also when the directory was there: whoever made it may have died before.
  std::error_code ec;
  if (!mutated(mutant::skip_hard_state_parent_sync)) {
    ec = co_await env.sync_directory(log_files::parent(directory_), where_);
  }
  const std::string temporary = path() + std::string(log_files::temporary_suffix);
  if (!ec) shared_->file = env.open(temporary, open_mode::truncate, ec);
  const bool named_early = !ec && mutated(mutant::rename_hard_state_before_sync);
  if (named_early) env.rename(temporary, path(), ec);
  for (std::uint64_t sequence = 0; sequence < hard_state_format::slots && !ec; ++sequence) {
    ec = co_await write_slot(sequence, hard_state());
  }
  if (!ec && !named_early) env.rename(temporary, path(), ec);  // open() syncs the directory
  if (ec) throw std::system_error(ec, "cannot create " + path());
}

template <environment Env>
void basic_hard_state_file<Env>::read() {
  std::error_code ec;
  const std::uint64_t size = shared_->file.size(ec);
  if (!ec && size != hard_state_format::slots * hard_state_format::slot_bytes) {
    throw corrupt("it is " + std::to_string(size) + " bytes long");
  }
  std::optional<hard_state_format::slot> newest;
  for (std::size_t number = 0; number < hard_state_format::slots && !ec; ++number) {
    (void)shared_->file.pread(number * hard_state_format::slot_bytes, shared_->page, ec);
    if (ec) break;
    auto found = hard_state_format::slot::decode(shared_->page, number);
    if (!found) throw corrupt("slot " + std::to_string(number) + " is damaged, or of another version");
    if (!newest || (newest->sequence < found->sequence && !mutated(mutant::take_first_slot))) newest = std::move(found);
  }
  if (ec) throw std::system_error(ec, "cannot read " + path());
  check_identity(newest->identity);
  state_ = newest->state;
  sequence_ = newest->sequence;
}

template <environment Env>
void basic_hard_state_file<Env>::check_identity(const node_identity& found) const {
  if (found == identity_ || mutated(mutant::skip_identity_check)) return;
  const auto named = [](const node_identity& of) {
    return "node " + std::to_string(of.node) + " of cluster " + of.cluster;
  };
  throw std::system_error(found.cluster == identity_.cluster ? errc::wrong_node : errc::wrong_cluster,
                          directory_ + " belongs to " + named(found) + ", not to " + named(identity_));
}

template <environment Env>
awaitable<std::error_code> basic_hard_state_file<Env>::write_slot(std::uint64_t sequence, hard_state state) {
  const in_flight writing(shared_);
  hard_state_format::encode_slot(shared_->page, sequence, state, identity_);
  const bytes_view page(shared_->page);
  const std::span<const bytes_view> gather(&page, 1);
  const std::uint64_t offset = sequence % hard_state_format::slots * hard_state_format::slot_bytes;
  if (mutated(mutant::write_hard_state_unsynced)) {
    std::error_code ec;
    shared_->file.pwrite(offset, gather, ec);
    co_return ec;
  }
  co_return co_await shared_->file.pwrite_datasync(offset, gather, where_);
}

template <environment Env>
awaitable<void> basic_hard_state_file<Env>::write(hard_state next) {
  if (failure_) throw std::system_error(errc::log_failed, path() + " (" + failure_.message() + ")");
  assert(next.term > state_.term || (next.term == state_.term && (state_.vote == 0 || next.vote == state_.vote)));
  const std::error_code ec = co_await write_slot(sequence_ + 1, next);
  failure_ = ec;  // F1
  if (ec) throw std::system_error(ec, "cannot write " + path());
  ++sequence_;
  state_ = next;
}

}  // namespace lockstep::raft
