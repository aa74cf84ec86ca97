// session_table: which commands of which client were applied, and what they were answered (Ongaro's dissertation,
// section 6.3). Pure: a function of the entries that it was shown, and so the same on every node.
//
//   encoded, little-endian; equal tables have equal bytes
//     | version u8, 1 | time_ns u64 | limits, as in open_session | sessions u32 | session after session |
//   a session; the one used longest ago comes first
//     | id u64 | used u64 | used_ns u64 | acknowledged u64 | responses u32 | response after response |
//   a response, ascending by sequence
//     | sequence u64 | kept u8, 0 or 1 | when kept: u32 length and that many bytes |
//
// Its memory is bounded by max_sessions * window * (max_response_bytes and about 100 bytes).
#pragma once

#include "lockstep/core/bytes.hpp"
#include "lockstep/core/fields.hpp"
#include "lockstep/core/ids.hpp"
#include "lockstep/core/mutant.hpp"
#include "lockstep/raft/session_command.hpp"

#include <algorithm>
#include <cassert>
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

namespace lockstep::raft {

/// Thread safety: none.
class session_table {
 public:
  /// What a command is answered without being applied.
  struct known_answer {
    session_status status = session_status::done;
    std::string_view response;  ///< done: what it was answered the first time; valid until the table changes
  };

  /// The entry at `index`, behind all earlier ones, has this log time; what has expired by then is forgotten.
  /// The table's time is the highest that it was shown: a leader whose clock is behind makes it stand still. One whose
  /// clock runs ahead makes sessions expire early, which costs their clients a session and applies nothing twice.
  void advance(index_t index, std::uint64_t time_ns);

  // --- by the entry that advance() told of ---

  session_id open(const session_limits& limits);
  /// Uses the session and takes the acknowledgement.
  /// @return nothing when the command is to be applied, and its response given to keep_response().
  std::optional<known_answer> answer_to(const session_command& command);
  void keep_response(const session_command& command, bytes_view response);
  session_status keep_alive(const keep_session_alive& kept);
  session_status close(const close_session& closed);

  // --- what is so ---

  [[nodiscard]] std::uint64_t time_ns() const noexcept { return time_ns_; }
  [[nodiscard]] std::size_t size() const noexcept { return sessions_.size(); }
  [[nodiscard]] bool contains(session_id id) const { return sessions_.contains(id); }

  void encode(byte_buffer& to) const;
  /// @return nothing when `bytes` are not exactly what encode() appends for some table.
  static std::optional<session_table> decode(bytes_view bytes);

 private:
  struct session {
    index_t used = 0;           // the last entry that used it
    std::uint64_t used_ns = 0;  // its log time
    std::uint64_t acknowledged = 0;
    std::map<std::uint64_t, std::optional<std::string>> responses;  // by sequence; nothing: it was too long to keep
  };

  session* use(session_id id, std::uint64_t acknowledged);
  void forget_oldest();
  bool read_session(field_reader& from);

  std::uint64_t time_ns_ = 0;
  index_t index_ = 0;  // of the entry that advance() told of
  session_limits limits_;
  std::map<session_id, session> sessions_;
  std::map<index_t, session_id> by_use_;  // the same sessions by `used`, and so by used_ns as well
};

// --- Implementation ---------------------------------------------------------------------------------------------

inline void session_table::advance(index_t index, std::uint64_t time_ns) {
  assert(by_use_.empty() || index > by_use_.rbegin()->first);
  index_ = index;
  if (time_ns > time_ns_ || mutated(mutant::time_goes_back)) time_ns_ = time_ns;
  while (!by_use_.empty() && time_ns_ - sessions_.at(by_use_.begin()->second).used_ns > limits_.expiry_ns &&
         !mutated(mutant::never_expire)) {
    forget_oldest();
  }
}

inline session_id session_table::open(const session_limits& limits) {
  limits_ = limits;
  while (sessions_.size() >= limits_.max_sessions) forget_oldest();
  session& opened = sessions_[index_];
  opened.used = index_;
  opened.used_ns = time_ns_;
  by_use_.emplace_hint(by_use_.end(), index_, index_);
  return index_;
}

inline std::optional<session_table::known_answer> session_table::answer_to(const session_command& command) {
  const session* const client = use(command.session, command.acknowledged);
  if (!client) return known_answer{session_status::unknown_session, {}};
  if (command.sequence <= client->acknowledged) {
    if (mutated(mutant::apply_acknowledged)) return std::nullopt;
    return known_answer{session_status::forgotten, {}};
  }
  if (const auto found = client->responses.find(command.sequence); found != client->responses.end()) {
    if (mutated(found->second ? mutant::apply_repeat : mutant::apply_unkept_repeat)) return std::nullopt;
    if (!found->second) return known_answer{session_status::forgotten, {}};
    return known_answer{session_status::done, *found->second};
  }
  if (command.sequence - client->acknowledged > limits_.window && !mutated(mutant::ignore_window)) {
    return known_answer{session_status::outside_window, {}};
  }
  return std::nullopt;
}

inline void session_table::keep_response(const session_command& command, bytes_view response) {
  std::optional<std::string> kept;
  if (response.size() <= limits_.max_response_bytes) kept = as_text(response);
  sessions_.at(command.session).responses.emplace(command.sequence, std::move(kept));
}

inline session_status session_table::keep_alive(const keep_session_alive& kept) {
  return use(kept.session, kept.acknowledged) ? session_status::done : session_status::unknown_session;
}

inline session_status session_table::close(const close_session& closed) {
  const auto found = sessions_.find(closed.session);
  if (found == sessions_.end()) return session_status::unknown_session;
  by_use_.erase(found->second.used);
  sessions_.erase(found);
  return session_status::done;
}

inline session_table::session* session_table::use(session_id id, std::uint64_t acknowledged) {
  auto found = sessions_.find(id);
  if (found == sessions_.end()) {
    if (!mutated(mutant::reopen_unknown)) return nullptr;
    found = sessions_.try_emplace(id).first;
    found->second.used = index_;
    by_use_.emplace(index_, id);
  }
  session& client = found->second;
  auto place = by_use_.extract(client.used);
  place.key() = index_;
  by_use_.insert(by_use_.end(), std::move(place));
  client.used = index_;
  if (!mutated(mutant::use_keeps_time)) client.used_ns = time_ns_;
  if (acknowledged > client.acknowledged || mutated(mutant::acknowledgement_goes_back)) {
    client.acknowledged = acknowledged;
  }
  auto end = client.responses.upper_bound(client.acknowledged);
  if (end != client.responses.end() && mutated(mutant::forget_one_too_many)) ++end;
  client.responses.erase(client.responses.begin(), end);
  return &client;
}

inline void session_table::forget_oldest() {
  const auto oldest = by_use_.size() > 1 && mutated(mutant::forget_newest) ? std::prev(by_use_.end()) : by_use_.begin();
  sessions_.erase(oldest->second);
  by_use_.erase(oldest);
}

namespace detail {
inline constexpr std::uint8_t session_table_version = 1;
}  // namespace detail

inline void session_table::encode(byte_buffer& to) const {
  field_writer fields(to);
  fields.number(detail::session_table_version).number(time_ns_);
  detail::write_limits(fields, limits_);
  fields.number(static_cast<std::uint32_t>(sessions_.size()));
  for (const auto& [used, id] : by_use_) {
    const session& each = sessions_.at(id);
    fields.number(id).number(used).number(each.used_ns).number(each.acknowledged);
    fields.number(static_cast<std::uint32_t>(each.responses.size()));
    for (const auto& [sequence, response] : each.responses) {
      fields.number(sequence).number(static_cast<std::uint8_t>(response ? 1 : 0));
      if (response) fields.text(*response);
    }
  }
}

inline std::optional<session_table> session_table::decode(bytes_view bytes) {
  session_table table;
  field_reader from(bytes);
  if (from.number<std::uint8_t>() != detail::session_table_version) return std::nullopt;
  table.time_ns_ = from.number<std::uint64_t>();
  table.limits_ = detail::read_limits(from);
  const auto count = from.number<std::uint32_t>();
  if (!table.limits_.sound() || count > table.limits_.max_sessions) return std::nullopt;
  for (std::uint32_t i = 0; i < count; ++i) {
    if (!table.read_session(from)) return std::nullopt;
  }
  if (!from.complete()) return std::nullopt;
  return table;
}

/// @return whether it was there and may follow those read before.
inline bool session_table::read_session(field_reader& from) {
  const auto id = from.number<std::uint64_t>();
  session next;
  next.used = from.number<std::uint64_t>();
  next.used_ns = from.number<std::uint64_t>();
  next.acknowledged = from.number<std::uint64_t>();
  std::uint64_t last = next.acknowledged;
  for (auto left = from.number<std::uint32_t>(); left != 0; --left) {
    const auto sequence = from.number<std::uint64_t>();
    const auto kept = from.number<std::uint8_t>();
    if (sequence <= last || kept > 1) return false;
    last = sequence;
    auto& response = next.responses.emplace_hint(next.responses.end(), sequence, std::nullopt)->second;
    if (kept == 1) response = from.text();
  }
  if (!from.good() || id == 0 || id > next.used || next.used_ns > time_ns_) return false;
  if (!by_use_.empty()) {
    const auto& [used, before] = *by_use_.rbegin();
    if (next.used <= used || next.used_ns < sessions_.at(before).used_ns) return false;
  }
  by_use_.emplace_hint(by_use_.end(), next.used, id);
  return sessions_.emplace(id, std::move(next)).second;
}

}  // namespace lockstep::raft
