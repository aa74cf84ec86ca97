// What follows from what a leader has said about something that it was asked for. Pure.
#pragma once

#include "raft_replication/command.hpp"

#include <lockstep/core/errors.hpp>
#include <lockstep/raft/session_command.hpp>

#include <system_error>

namespace lockstep::raft_replication {

/// What the node's word means. no_leader: surely nothing has happened, nor will, so it may be asked for again.
inline reply_code code_of(const std::error_code& error) noexcept {
  if (!error) return reply_code::ok;
  if (error == errc::not_leader || error == errc::overloaded) return reply_code::no_leader;
  if (error == errc::timed_out) return reply_code::outcome_unknown;
  if (error == errc::wrong_node || error == errc::record_too_large) return reply_code::refused;
  return reply_code::failed;
}

enum class session_verdict {
  answered,
  again,    ///< it was surely not applied: in a new session it may be sent again
  unknown,  ///< it may have been applied: sent again in another session, it could be applied twice
};

/// @param doubtful  whether an earlier try of the same command in this session may have had effect.
constexpr session_verdict judge(raft::session_status status, bool doubtful) noexcept {
  if (status == raft::session_status::done) return session_verdict::answered;
  const bool not_applied = status == raft::session_status::unknown_session && !doubtful;
  return not_applied ? session_verdict::again : session_verdict::unknown;
}

}  // namespace lockstep::raft_replication
