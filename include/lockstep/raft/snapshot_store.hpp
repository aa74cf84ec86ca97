// snapshot_store: a node's snapshots of its state machine, in a directory of their own.
//
//   auto store = co_await snapshot_store::open(env, "/var/lib/me/snapshots");
//   if (const auto newest = store->newest()) restore(*store->read(newest->id.at.index));
//
//   auto writer = store->begin(applied, config);       // write one
//   co_await writer->write(bytes);                     // as often as it takes
//   co_await writer->finish();                         // only now is it the newest
//   co_await store->remove_older(2);                   // and the log may be compacted
//
//   auto reader = store->read(index);                  // stream one to a follower
//   for (auto offset = accepted.offset; offset < reader->info().id.bytes;) {
//     const bytes_view bytes = reader->chunk(offset);
//     co_await send(chunk, offset, bytes);
//     offset += bytes.size();
//   }
//
//   auto receiver = co_await store->receive(offered);  // take one from a leader
//   accept_from(receiver->offset());
//   co_await receiver->write(chunk.offset, chunk.bytes);
//   if (receiver->complete()) co_await receiver->finish();
//
// Neither side holds more of a state in memory than one block of it. The files are drawn in raft/snapshot_format.hpp:
//
//   00000000000000000040.snap   the snapshot of all records up to 40: complete, and synced before it got this name (D1)
//   00000000000000000040.tmp    being written; of no use after a crash
//   00000000000000000040.part   being received: as long as the file will be, with its trailer in place, which says what
//                               will be in it. The blocks that verify need not be sent again.
//
// Promises. A snapshot for which finish() completed is there after any crash, whole, or newest() or the reader says
// that it is damaged. A failed sync ends the store for good (log_failed): it can still be read. A full disk leaves it
// as it was. What it does not promise: a lock (the node's own covers it); that a damaged block is found before it is
// read.
#pragma once

#include "lockstep/core/bytes.hpp"
#include "lockstep/core/errors.hpp"
#include "lockstep/core/mutant.hpp"
#include "lockstep/env/env.hpp"
#include "lockstep/env/real.hpp"
#include "lockstep/log/directory.hpp"
#include "lockstep/raft/snapshot_format.hpp"

#include <algorithm>
#include <array>
#include <cassert>
#include <charconv>
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

/// Which snapshot: what a leader tells a follower of it.
struct snapshot_id {
  position at;                 ///< it stands for all records up to here
  std::uint64_t bytes = 0;     ///< of its file
  std::uint64_t checksum = 0;  ///< of all that the file holds

  friend bool operator==(const snapshot_id&, const snapshot_id&) = default;
};

struct snapshot_info {
  snapshot_id id;
  configuration config;           ///< in force at id.at
  std::uint64_t state_bytes = 0;  ///< what was written, and will be read
};

struct snapshot_options {
  std::uint32_t block_bytes = 64u << 10;  ///< at most snapshot_format::max_block_bytes
  std::uint64_t sync_bytes = 8u << 20;    ///< written between two syncs, so that the log's syncs do not wait for long
  sync_on sync_where = sync_on::disk_thread;
};

/// Thread safety: none; everything on the environment's executor. A writer, a receiver and any number of readers may be
/// at work at a time, and may outlive the store: then they leave the disk alone.
template <environment Env>
class basic_snapshot_store {
  struct passkey {};
  struct shared;
  class file_parts;

 public:
  class writer;
  class reader;
  class receiver;

  /// Opens the store in `directory`, which is created when missing (its parent must exist). Reads headers and trailers,
  /// and removes what a crash has left of work that cannot go on; when a snapshot is damaged, nothing is changed.
  /// @param env  must outlive the store.
  /// @throws what the file system said.
  static awaitable<std::unique_ptr<basic_snapshot_store>> open(Env& env, std::string directory,
                                                               snapshot_options options = {});

  basic_snapshot_store(passkey, Env& env, std::string directory, const snapshot_options& options)
      : shared_(std::make_shared<shared>(shared{&env, std::move(directory), options, {}, {}})) {}
  basic_snapshot_store(const basic_snapshot_store&) = delete;
  basic_snapshot_store& operator=(const basic_snapshot_store&) = delete;
  ~basic_snapshot_store() { shared_->env = nullptr; }

  /// The newest snapshot; nothing when there is none.
  /// @throws system_error: corrupt, naming the file, when it is damaged.
  [[nodiscard]] std::optional<snapshot_info> newest() const { return newest_before(~index_t{0}); }
  /// The newest one of an index before `index`: for whoever accepts that one, when a newer one is damaged.
  [[nodiscard]] std::optional<snapshot_info> newest_before(index_t index) const;

  /// Begins the snapshot that stands for all records up to `at`, where `config` is in force.
  /// @throws log_failed, or what the file system said.
  std::unique_ptr<writer> begin(position at, configuration config);

  /// Opens the snapshot at `index`. @throws corrupt, naming the file; no_such_file_or_directory.
  std::unique_ptr<reader> read(index_t index) const;

  /// Begins or goes on to receive a snapshot from elsewhere. What is there of another one is removed. Verifies what is
  /// there of this one, which takes as long as to read and write it.
  /// @throws malformed (no snapshot is so small), log_failed, or what the file system said; no_space_on_device when
  ///   there is no room for all of it.
  awaitable<std::unique_ptr<receiver>> receive(snapshot_id id);

  /// Removes all that are older than the newest `keep` good ones, oldest first. @param keep  not 0.
  /// @throws log_failed, or what the file system said.
  awaitable<void> remove_older(std::size_t keep);

  [[nodiscard]] const std::string& directory() const noexcept { return shared_->directory; }
  /// Why a sync failed; no error while none did.
  [[nodiscard]] const std::error_code& failure() const noexcept { return shared_->failure; }

 private:
  using file = typename Env::file;
  using file_ptr = std::shared_ptr<file>;  // disk threads may hold it longest

  static constexpr std::string_view suffix = ".snap";
  static constexpr std::string_view part_suffix = ".part";

  struct entry {
    index_t index = 0;
    std::optional<snapshot_info> good;
    std::string damage;  // why it is not good
  };

  struct shared {
    Env* env;  // null when the store is gone
    std::string directory;
    snapshot_options options;
    std::vector<entry> entries;  // by index
    std::error_code failure;
    bool writing = false;
    bool receiving = false;

    [[nodiscard]] std::string path(std::string_view name) const { return log_files::join(directory, name); }
    [[nodiscard]] std::string path(index_t index, std::string_view of) const {
      return path(log_files::numbered(index, of));
    }
    void throw_if_failed() const;
    void remove_quietly(const std::string& name) noexcept;
    awaitable<std::error_code> sync(file_ptr of);
    awaitable<std::error_code> sync_directory();
    awaitable<void> publish(file_ptr of, std::string from, snapshot_info info);
  };

  static index_t parse_name(std::string_view name, std::string_view of) noexcept;
  static entry examine(file_parts& parts, index_t index);

  std::shared_ptr<shared> shared_;
};

using snapshot_store = basic_snapshot_store<real::env>;

/// A snapshot's file, whose parts - the header, each block - are read and verified one by one.
template <environment Env>
class basic_snapshot_store<Env>::file_parts {
 public:
  file_parts(file_ptr of, std::string path) : file_(std::move(of)), path_(std::move(path)) {}

  enum class verdict { good, bad, incomplete };

  /// @param end  how far the file is written.
  verdict load_header(std::uint64_t end, std::uint64_t file_bytes);
  [[nodiscard]] bool load_block(std::uint64_t block);
  [[nodiscard]] std::optional<snapshot_format::trailer> load_trailer(std::uint64_t file_bytes);

  /// The part that was loaded last, as it lies in the file; valid until the next one.
  [[nodiscard]] bytes_view bytes() const noexcept { return buffer_.view().subspan(skipped_); }
  /// Of the part that was loaded last.
  [[nodiscard]] std::uint64_t check() const noexcept {
    return load_le<std::uint64_t>(buffer_.data() + buffer_.size() - snapshot_format::check_bytes);
  }
  [[nodiscard]] const snapshot_format::header& header() const noexcept { return header_; }
  [[nodiscard]] const snapshot_format::geometry& where() const noexcept { return where_; }
  [[nodiscard]] const file_ptr& handle() const noexcept { return file_; }
  [[nodiscard]] const std::string& path() const noexcept { return path_; }
  [[nodiscard]] snapshot_info info(std::uint64_t checksum) const {
    return {{header_.at, where_.file_bytes, checksum}, header_.config, where_.state_bytes()};
  }
  [[nodiscard]] std::system_error corrupt(const std::string& why) const {
    return {make_error_code(errc::corrupt), path_ + ": " + why + "; nothing was changed"};
  }

 private:
  bool load(std::uint64_t begin, std::uint64_t end);

  file_ptr file_;
  std::string path_;
  snapshot_format::header header_;
  snapshot_format::geometry where_;
  byte_buffer buffer_;
  std::size_t skipped_ = 0;  // what stands in the buffer before the part
};

/// Writes one snapshot. Dropped without finish() having completed, it leaves nothing behind. Nor does one that a write
/// failed of: what follows throws closed.
template <environment Env>
class basic_snapshot_store<Env>::writer {
 public:
  writer(passkey, std::shared_ptr<shared> of, position at, configuration config);
  writer(const writer&) = delete;
  writer& operator=(const writer&) = delete;
  ~writer() {
    give_up();
    of_->writing = false;
  }

  /// Appends `state`, which must stay until it completes.
  /// @throws log_failed, or what the file system said: no_space_on_device.
  /// Cancellation: `state` was taken.
  awaitable<void> write(bytes_view state);

  /// Makes the snapshot durable and gives it its name.
  /// Cancellation: not honoured once the sync has begun.
  awaitable<snapshot_info> finish();

 private:
  friend class basic_snapshot_store;

  void begin();
  void put(std::span<const bytes_view> parts);
  void put_block(bytes_view state);
  void throw_if_over() const;
  void give_up() noexcept;

  std::shared_ptr<shared> of_;
  const snapshot_format::header header_;
  const std::string path_;
  file_ptr file_;  // null: finished or given up
  byte_buffer pending_;
  std::uint64_t check_ = 0;  // of the last part
  std::uint64_t end_ = 0;    // of what is in the file
  std::uint64_t synced_ = 0;
  std::uint64_t state_bytes_ = 0;
};

/// Reads one snapshot, which stays readable when it is removed. Every byte that it returns is verified.
/// Blocks for as long as it takes to read a block.
template <environment Env>
class basic_snapshot_store<Env>::reader {
 public:
  reader(passkey, file_parts parts, snapshot_info info) : parts_(std::move(parts)), info_(std::move(info)) {}

  [[nodiscard]] const snapshot_info& info() const noexcept { return info_; }

  /// Fills `into` with what follows of the state. @return how much; less than was asked for only at the end.
  /// @throws corrupt, naming the file, or what the file system said.
  std::size_t read(mutable_bytes into);

  /// What the file holds from `offset`, which lies before info().id.bytes, to the end of a block, of the header or of
  /// the file. Never empty; at most snapshot_format::max_header_bytes or a block and its check long.
  /// Valid until the next call. @throws as read().
  bytes_view chunk(std::uint64_t offset);

 private:
  bytes_view load(std::uint64_t block);

  file_parts parts_;
  snapshot_info info_;
  std::optional<std::uint64_t> loaded_;  // block
  std::array<std::byte, snapshot_format::trailer_bytes> trailer_;
  std::uint64_t read_ = 0;  // of the state
};

/// Receives one snapshot. Dropped, it leaves what has arrived to the next receive().
template <environment Env>
class basic_snapshot_store<Env>::receiver {
 public:
  receiver(passkey, std::shared_ptr<shared> of, const snapshot_id& id);
  receiver(const receiver&) = delete;
  receiver& operator=(const receiver&) = delete;
  ~receiver() { of_->receiving = false; }

  [[nodiscard]] const snapshot_id& id() const noexcept { return id_; }
  /// From where on bytes are wanted.
  [[nodiscard]] std::uint64_t offset() const noexcept { return offset_; }
  [[nodiscard]] bool complete() const noexcept { return offset_ == id_.bytes; }

  /// Takes the bytes of the file that follow. They must stay until it completes.
  /// @param offset  must be offset().
  /// @throws malformed, and nothing has changed; corrupt when they are not of this snapshot, and then offset() is where
  ///   to go on; log_failed; or what the file system said, and unless it was of a sync, nothing is left, and what
  ///   follows throws closed.
  /// Cancellation: `bytes` were taken.
  awaitable<void> write(std::uint64_t offset, bytes_view bytes);

  /// Makes the snapshot durable and gives it its name. @pre complete()
  /// Cancellation: not honoured once the sync has begun.
  awaitable<snapshot_info> finish();

 private:
  friend class basic_snapshot_store;

  void begin();
  awaitable<void> resume();
  typename file_parts::verdict verify_next(std::uint64_t end);
  bool verify(std::uint64_t end);
  void put(std::uint64_t offset, bytes_view bytes);
  [[nodiscard]] std::uint64_t trailer_begin() const noexcept { return id_.bytes - trailer_.size(); }
  void throw_if_over() const;
  void give_up() noexcept;

  std::shared_ptr<shared> of_;
  const snapshot_id id_;
  const std::string path_;
  const std::array<std::byte, snapshot_format::trailer_bytes> trailer_;
  std::optional<file_parts> parts_;  // none: finished or given up
  std::uint64_t offset_ = 0;
  std::uint64_t verified_ = 0;  // up to here; a part's end
  std::uint64_t synced_ = 0;
};

}  // namespace lockstep::raft

#include "lockstep/raft/detail/snapshot_store_impl.hpp"
