// What goes between the nodes beside Raft's own messages, and between raft_ctl and a node: rpc on the same port. Pure.
//
//   ask         a request (command.hpp), before it u32 limit_ms: how long the node may try; the reply is a reply
//   watch       a key (text); items: | index u64 | there u8 | value (text) |
//   propose     of the leader alone: a session_request (raft/session_command.hpp); the reply:
//               | at (position) | what the state machine answered |
//   change      of the leader alone: a change_list (raft/confchange.hpp)
//   transfer    of the leader alone: node u64
#pragma once

#include <cstdint>

namespace lockstep::raft_replication {

inline constexpr const char* client_purpose = "client";

enum method : std::uint32_t { ask_method = 1, watch_method, propose_method, change_method, transfer_method };

/// What a handler refuses with: rpc_status::remote_code().
enum refused : std::uint32_t {
  refused_malformed = 1,
  refused_not_leader = 2,  ///< nothing was changed
  refused_overloaded = 3,  ///< nothing was changed, it may be tried again
  refused_change = 4,      ///< it makes no sense; the text says why
  refused_unknown = 5,     ///< the outcome is not known
};

}  // namespace lockstep::raft_replication
