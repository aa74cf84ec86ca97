// A program that asks a server and ends.
//
//   run_client([&](real::env& env) { return converse(env, server, talk); });
#pragma once

#include <functional>
#include <string>

#include <lockstep/env/real.hpp>
#include <lockstep/rpc/peer.hpp>

namespace lockstep::examples {

struct contact {
  address where;
  std::string cluster;
  std::string purpose;
  duration patience{};  ///< with the connection, and with the handshake
};

/// What is said over one connection.
using conversation = std::function<awaitable<void>(rpc_peer&)>;

/// Connects, talks, closes.
/// @param with, talk  outlive this.
/// @throws exit_error{unreachable}: no connection; what `talk` throws.
awaitable<void> converse(real::env& env, const contact& with, const conversation& talk);

/// Runs `work` on an io_context of its own to its end, and throws what it throws; an exit_error with its text escaped,
/// since it may have a peer's bytes in it.
void run_client(const std::function<awaitable<void>(real::env&)>& work);

}  // namespace lockstep::examples
