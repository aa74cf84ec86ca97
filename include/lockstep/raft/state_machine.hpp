// state_machine: what a Raft group replicates. The driver hands it every committed command in the order of the log, and
// each node's machine comes to the same state.
//
//   struct counter {
//     std::uint64_t sum = 0;
//     void apply(const raft::entry& next, byte_buffer& result);            // changes sum, appends the answer
//     awaitable<void> snapshot(raft::snapshot_sink& to);                   // writes what restore() reads
//     awaitable<void> restore(raft::snapshot_source& from);
//   };
//   static_assert(raft::state_machine<counter>);
//
// Apply goes on while a snapshot is written. What snapshot() does before it first suspends belongs to one moment: the
// driver awaits it where it notes the last index applied, and what it writes is the state of then. So it begins with a
// view that is cheap to take (copy-on-write, a shared immutable root, a small state's copy) and drops it when it ends,
// in whatever way. Writing suspends for as long as the disk or the network takes; a state goes in pieces, so that it is
// never held twice.
#pragma once

#include "lockstep/core/asio_compat.hpp"
#include "lockstep/core/bytes.hpp"
#include "lockstep/core/errors.hpp"
#include "lockstep/core/ids.hpp"

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <system_error>

namespace lockstep::raft {

/// A committed command.
struct entry {
  position at;
  /// Log time, nanoseconds since 1970: the wall clock of the leader that proposed it. Clocks differ, so that it may go
  /// back from one leader to the next; sessions hands it on as a time that never does.
  std::uint64_t time_ns = 0;
  bytes_view payload;  ///< valid until apply() returns
};

/// Where a snapshot goes.
class snapshot_sink {
 public:
  /// Takes all of `bytes`, which stay until it completes. One write at a time. Throws what its medium throws.
  virtual awaitable<void> write(bytes_view bytes) = 0;

 protected:
  ~snapshot_sink() = default;
};

/// Where a snapshot comes from. Its bytes are those that were written, in pieces of other sizes.
class snapshot_source {
 public:
  /// Reads up to into.size() bytes. One read at a time. Throws what its medium throws.
  /// @return how many; 0 only at the end, or when `into` is empty.
  virtual awaitable<std::size_t> read(mutable_bytes into) = 0;

 protected:
  ~snapshot_source() = default;
};

/// Reads until `into` is full.
/// @throws system_error: errc::truncated when the source ends before.
inline awaitable<void> read_whole(snapshot_source& from, mutable_bytes into) {
  while (!into.empty()) {
    const std::size_t count = co_await from.read(into);
    if (count == 0) throw std::system_error(errc::truncated);
    into = into.subspan(count);
  }
}

/// `apply(entry, result)` makes the change and appends the answer to `result`, leaving what stands there. It is a
/// function of the state and the entry and of nothing else: no clock, no chance, no address, no order of a hash table.
/// It takes any payload (one that is no command is answered so, and changes nothing) and throws nothing.
///
/// `snapshot(sink)` as said above; equal states write equal bytes. One at a time. When it ends by an exception or by
/// cancellation, the state is what it was.
///
/// `restore(source)` replaces the state by the one that was written, reading to the source's end; bytes that no
/// snapshot() wrote are refused by an exception. No apply() and no snapshot() meanwhile. When it ends by an exception
/// or by cancellation, the state is lost: only another restore() may follow.
///
/// All on one thread at a time.
template <class M>
concept state_machine = requires(M& machine, const entry& next, byte_buffer& result, snapshot_sink& to,
                                 snapshot_source& from) {
  { machine.apply(next, result) } -> std::same_as<void>;
  { machine.snapshot(to) } -> std::same_as<awaitable<void>>;
  { machine.restore(from) } -> std::same_as<awaitable<void>>;
};

}  // namespace lockstep::raft
