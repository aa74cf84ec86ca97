// Calls to the other nodes of the group, over connections that are made when they are first needed and then kept.
#pragma once

#include <lockstep/core/task_group.hpp>
#include <lockstep/env/real.hpp>
#include <lockstep/rpc/link.hpp>
#include <lockstep/rpc/peer.hpp>

#include <map>
#include <memory>
#include <string>

namespace lockstep::raft_replication {

/// Thread safety: none.
class links {
 public:
  /// @param cluster  who this side belongs to. @param env  outlives the links.
  links(real::env& env, std::string cluster);
  links(const links&) = delete;

  /// As rpc_peer::call(); closed, and nothing was sent, when there is no connection within `connect_limit`, which is
  /// short, since somebody else may lead by then. It is made all the same, for the next call.
  awaitable<rpc_status> call(node_id to, const std::string& where, std::uint32_t method, bytes_view arguments,
                             byte_buffer& result, duration timeout);

  /// Ends the connection and with it the calls under way, whose outcome is not known then.
  void drop(node_id to);

  awaitable<void> close();

 private:
  static constexpr duration connect_limit = std::chrono::milliseconds(100);

  struct one {
    std::unique_ptr<link> way;
    rpc_peer* peer = nullptr;  // while there is a connection
  };

  one& to_member(node_id id, const address& where);
  awaitable<void> hold(one& of, channel& over);

  real::env& env_;
  const std::string cluster_;
  const rpc_service serves_nothing_;
  std::map<node_id, one> members_;
  task_group running_;
};

}  // namespace lockstep::raft_replication
