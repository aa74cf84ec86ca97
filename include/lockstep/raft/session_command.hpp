// What stands in the log for a group with sessions, and what its commands are answered. Pure.
//
//   request, little-endian
//     open         | 1 u8 | expiry_ns u64 | max_sessions u32 | window u32 | max_response_bytes u32 |
//     command      | 2 u8 | session u64 | sequence u64 | acknowledged u64 | the machine's command, up to the end |
//     keep_alive   | 3 u8 | session u64 | acknowledged u64 |
//     close        | 4 u8 | session u64 |
//   response
//     | status u8 | of a command: the machine's answer; of open: session u64; otherwise nothing |
#pragma once

#include "lockstep/core/bytes.hpp"
#include "lockstep/core/fields.hpp"
#include "lockstep/core/ids.hpp"

#include <cassert>
#include <cstdint>
#include <optional>
#include <type_traits>
#include <variant>

namespace lockstep::raft {

/// The index of the entry that opened it.
using session_id = index_t;

/// What sessions may take. They are in the log, not in each node's options, so that no two nodes can differ: the leader
/// puts its own into every open_session, and from there on they count for all sessions.
struct session_limits {
  std::uint64_t expiry_ns = 3600ull * 1'000'000'000;  ///< of log time: one that is not used for longer is forgotten
  std::uint32_t max_sessions = 1024;                  ///< one more, and the one used longest ago is forgotten
  std::uint32_t window = 64;                          ///< sequences behind the acknowledged one that may be used
  std::uint32_t max_response_bytes = 4096;            ///< a longer one is answered, and not kept for a repeat

  [[nodiscard]] bool sound() const noexcept { return max_sessions != 0 && window != 0; }
  friend bool operator==(const session_limits&, const session_limits&) = default;
};

/// Begins a session. A client that does not know whether it was heard sends another; the other session expires.
struct open_session {
  session_limits limits;  ///< sound

  friend bool operator==(const open_session&, const open_session&) = default;
};

/// A command of a client, which numbers its commands 1, 2, 3… and sends each again, unchanged, until it is answered.
struct session_command {
  session_id session = 0;
  std::uint64_t sequence = 0;
  std::uint64_t acknowledged = 0;  ///< below sequence: the client waits for no answer up to this one
  bytes_view payload;              ///< not owned
};

/// Uses a session whose client has nothing to say, so that it does not expire.
struct keep_session_alive {
  session_id session = 0;
  std::uint64_t acknowledged = 0;  ///< as of a session_command

  friend bool operator==(const keep_session_alive&, const keep_session_alive&) = default;
};

struct close_session {
  session_id session = 0;

  friend bool operator==(const close_session&, const close_session&) = default;
};

using session_request = std::variant<open_session, session_command, keep_session_alive, close_session>;

enum class session_status : std::uint8_t {
  done = 0,
  unknown_session = 1,  ///< never opened, closed, expired or one too many: nobody knows what was applied in it
  forgotten = 2,        ///< acknowledged, or answered at too great a length to be kept; not applied again
  outside_window = 3,   ///< not applied: the client must acknowledge earlier answers, then it may send it again
  malformed = 4,        ///< not one of these requests; not applied
};

/// A view into the response's bytes.
struct session_response {
  session_status status = session_status::done;
  bytes_view body;  ///< empty unless done
};

/// Appends `request` to `to`. Its numbers keep to what is said of them.
void encode_session_request(byte_buffer& to, const session_request& request);

/// @return nothing when `from` is not exactly what encode_session_request() appends for some request; views into
/// `from`.
std::optional<session_request> decode_session_request(bytes_view from) noexcept;

/// @return nothing when `from` is no response; a view into `from`.
std::optional<session_response> decode_session_response(bytes_view from) noexcept;

/// The session in the body of the response to open_session. @return nothing when there is none.
std::optional<session_id> decode_opened_session(const session_response& response) noexcept;

// --- Implementation ---------------------------------------------------------------------------------------------

namespace detail {

enum class session_request_kind : std::uint8_t { open = 1, command = 2, keep_alive = 3, close = 4 };

inline void write_limits(field_writer to, const session_limits& limits) {
  to.number(limits.expiry_ns).number(limits.max_sessions).number(limits.window).number(limits.max_response_bytes);
}

inline session_limits read_limits(field_reader& from) noexcept {
  session_limits limits;
  limits.expiry_ns = from.number<std::uint64_t>();
  limits.max_sessions = from.number<std::uint32_t>();
  limits.window = from.number<std::uint32_t>();
  limits.max_response_bytes = from.number<std::uint32_t>();
  return limits;
}

struct session_request_encoder {
  byte_buffer& to;

  void operator()(const open_session& open) const {
    assert(open.limits.sound());
    write_limits(begin(session_request_kind::open), open.limits);
  }
  void operator()(const session_command& command) const {
    assert(command.session != 0 && command.acknowledged < command.sequence);
    begin(session_request_kind::command).number(command.session).number(command.sequence).number(command.acknowledged);
    to.append(command.payload);
  }
  void operator()(const keep_session_alive& kept) const {
    assert(kept.session != 0);
    begin(session_request_kind::keep_alive).number(kept.session).number(kept.acknowledged);
  }
  void operator()(const close_session& closed) const {
    assert(closed.session != 0);
    begin(session_request_kind::close).number(closed.session);
  }

 private:
  [[nodiscard]] field_writer begin(session_request_kind kind) const {
    return field_writer(to).number(static_cast<std::uint8_t>(kind));
  }
};

}  // namespace detail

inline void encode_session_request(byte_buffer& to, const session_request& request) {
  std::visit(detail::session_request_encoder{to}, request);
}

inline std::optional<session_request> decode_session_request(bytes_view bytes) noexcept {
  field_reader from(bytes);
  std::optional<session_request> found;
  bool sound = true;
  switch (static_cast<detail::session_request_kind>(from.number<std::uint8_t>())) {
    case detail::session_request_kind::open: {
      const open_session open{detail::read_limits(from)};
      sound = open.limits.sound();
      found = open;
      break;
    }
    case detail::session_request_kind::command: {
      session_command command;
      command.session = from.number<std::uint64_t>();
      command.sequence = from.number<std::uint64_t>();
      command.acknowledged = from.number<std::uint64_t>();
      command.payload = from.rest();
      sound = command.session != 0 && command.acknowledged < command.sequence;
      found = command;
      break;
    }
    case detail::session_request_kind::keep_alive: {
      keep_session_alive kept;
      kept.session = from.number<std::uint64_t>();
      kept.acknowledged = from.number<std::uint64_t>();
      sound = kept.session != 0;
      found = kept;
      break;
    }
    case detail::session_request_kind::close: {
      const close_session closed{from.number<std::uint64_t>()};
      sound = closed.session != 0;
      found = closed;
      break;
    }
  }
  if (!found || !sound || !from.complete()) return std::nullopt;
  return found;
}

inline std::optional<session_response> decode_session_response(bytes_view bytes) noexcept {
  field_reader from(bytes);
  session_response found;
  found.status = static_cast<session_status>(from.number<std::uint8_t>());
  found.body = from.rest();
  const bool known = found.status <= session_status::malformed;
  if (!from.complete() || !known || (found.status != session_status::done && !found.body.empty())) return std::nullopt;
  return found;
}

inline std::optional<session_id> decode_opened_session(const session_response& response) noexcept {
  field_reader from(response.body);
  const session_id session = from.number<std::uint64_t>();
  if (response.status != session_status::done || session == 0 || !from.complete()) return std::nullopt;
  return session;
}

}  // namespace lockstep::raft
