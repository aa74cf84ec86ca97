// sessions: a state machine whose commands are applied exactly once, however often their client had to send them.
//
//   kv::machine keys;                        // any state_machine
//   raft::sessions machine(keys);            // is one too: its entries are session_requests, its answers responses
//   machine.apply(next, response);
//
// A client opens a session and numbers its commands; an answer that it did not get, it asks for again by the same
// number, of whichever node leads then. The table of what was answered is part of the state: built from the log alone,
// and written into every snapshot.
//
// What is not promised: a session that expired, or that had to make room, forgets what it applied. Its commands are
// refused from then on and never applied again, but the client cannot learn whether the last ones were.
#pragma once

#include "lockstep/core/asio_compat.hpp"
#include "lockstep/core/bytes.hpp"
#include "lockstep/core/endian.hpp"
#include "lockstep/core/errors.hpp"
#include "lockstep/core/mutant.hpp"
#include "lockstep/raft/session_command.hpp"
#include "lockstep/raft/session_table.hpp"
#include "lockstep/raft/state_machine.hpp"

#include <algorithm>
#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <system_error>
#include <utility>
#include <variant>

namespace lockstep::raft {

/// See the top of this file, and session_command.hpp for the bytes. The machine is given each command's own payload,
/// and a log time that never goes back. Thread safety: none.
template <state_machine Machine>
class sessions {
 public:
  /// @param machine  outlives this, and is changed by nobody else.
  explicit sessions(Machine& machine) noexcept : machine_(machine) {}
  sessions(const sessions&) = delete;
  sessions& operator=(const sessions&) = delete;

  /// Appends a session_response. A payload that is no session_request is answered as malformed and changes nothing.
  void apply(const entry& next, byte_buffer& result);

  /// Before the machine's snapshot stands the table: u64 length and that many bytes (session_table.hpp).
  awaitable<void> snapshot(snapshot_sink& to);
  /// @throws system_error: errc::malformed, errc::truncated, and what the source and the machine throw.
  awaitable<void> restore(snapshot_source& from);

  [[nodiscard]] const session_table& table() const noexcept { return table_; }

 private:
  void apply_request(const entry&, const open_session& open, byte_buffer& result);
  void apply_request(const entry& next, const session_command& command, byte_buffer& result);
  void apply_request(const entry&, const keep_session_alive& kept, byte_buffer& result) {
    append_status(result, table_.keep_alive(kept));
  }
  void apply_request(const entry&, const close_session& closed, byte_buffer& result) {
    append_status(result, table_.close(closed));
  }

  static std::uint64_t log_time(const entry& next) noexcept {
    if (!mutated(mutant::expire_by_local_clock)) return next.time_ns;
    return static_cast<std::uint64_t>(std::chrono::system_clock::now().time_since_epoch().count());
  }
  static void append_status(byte_buffer& result, session_status status) {
    store_le(result.extend(1), static_cast<std::uint8_t>(status));
  }

  Machine& machine_;
  session_table table_;
};

// --- Implementation ---------------------------------------------------------------------------------------------

template <state_machine Machine>
void sessions<Machine>::apply(const entry& next, byte_buffer& result) {
  const auto request = decode_session_request(next.payload);
  if (request || mutated(mutant::malformed_advances_time)) table_.advance(next.at.index, log_time(next));
  if (!request) return append_status(result, session_status::malformed);
  std::visit([&](const auto& each) { apply_request(next, each, result); }, *request);
}

template <state_machine Machine>
void sessions<Machine>::apply_request(const entry&, const open_session& open, byte_buffer& result) {
  append_status(result, session_status::done);
  field_writer(result).number(table_.open(open.limits));
}

template <state_machine Machine>
void sessions<Machine>::apply_request(const entry& next, const session_command& command, byte_buffer& result) {
  if (const auto known = table_.answer_to(command)) {
    append_status(result, known->status);
    result.append(as_bytes(known->response));
    return;
  }
  append_status(result, session_status::done);
  const std::size_t before = result.size();
  machine_.apply(entry{next.at, table_.time_ns(), command.payload}, result);
  table_.keep_response(command, result.view().subspan(before));
}

namespace detail {

/// Writes `first` before anything else. So what comes first can be written without a suspension before the machine
/// behind it has taken its own view.
class sink_after final : public snapshot_sink {
 public:
  sink_after(bytes_view first, snapshot_sink& to) noexcept : first_(first), to_(to) {}

  awaitable<void> write(bytes_view bytes) override {
    co_await write_first();
    co_await to_.write(bytes);
  }
  /// For a machine that has written nothing.
  awaitable<void> write_first() {
    const bytes_view first = std::exchange(first_, bytes_view());
    if (!first.empty()) co_await to_.write(first);
  }

 private:
  bytes_view first_;
  snapshot_sink& to_;
};

}  // namespace detail

template <state_machine Machine>
awaitable<void> sessions<Machine>::snapshot(snapshot_sink& to) {
  byte_buffer bytes(sizeof(std::uint64_t));
  bytes.resize(sizeof(std::uint64_t));
  table_.encode(bytes);
  store_le(bytes.data(), std::uint64_t{bytes.size() - sizeof(std::uint64_t)});
  detail::sink_after rest(bytes.view(), to);
  if (mutated(mutant::write_table_before_view)) co_await rest.write_first();
  co_await machine_.snapshot(rest);
  co_await rest.write_first();
}

template <state_machine Machine>
awaitable<void> sessions<Machine>::restore(snapshot_source& from) {
  constexpr std::size_t piece = std::size_t{64} << 10;
  std::array<std::byte, sizeof(std::uint64_t)> length;
  const mutable_bytes header(length);
  co_await read_whole(from, header);
  byte_buffer bytes;
  // A length that is wrong ends with the source, before so much memory was taken.
  for (auto left = load_le<std::uint64_t>(length.data()); left != 0;) {
    const std::size_t count = static_cast<std::size_t>(std::min<std::uint64_t>(left, piece));
    const mutable_bytes next(bytes.extend(count), count);
    co_await read_whole(from, next);
    left -= count;
  }
  std::optional<session_table> table = session_table::decode(bytes.view());
  if (!table) throw std::system_error(errc::malformed);
  co_await machine_.restore(from);
  if (!mutated(mutant::drop_table_at_restore)) table_ = std::move(*table);
}

}  // namespace lockstep::raft
