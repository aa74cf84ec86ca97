// What a channel may use and who it says it is.
#pragma once

#include "lockstep/core/errors.hpp"
#include "lockstep/core/ids.hpp"
#include "lockstep/env/env.hpp"

#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <utility>

namespace lockstep {

/// Who is at the other end, as it said in its handshake.
struct peer_info {
  peer_info() {}

  node_id node = 0;  ///< 0: a client that is no member
  std::uint64_t features = 0;
  std::string cluster;
  std::string purpose;  ///< what the other side opened the connection for; empty: it accepted it
  std::string address;  ///< for texts: "127.0.0.1:7879"
};

/// Why a connection is refused; the text reaches the people at both ends.
struct refusal {
  refusal(errc why, std::string text) : cause(why), reason(std::move(text)) {}

  errc cause;          ///< wrong_node, overloaded, unknown_method and closed arrive as such, others as remote_failure
  std::string reason;  ///< what of it the other side's error says; at most 255 bytes
};

struct channel_options {
  // Not an aggregate: g++ 12 destroys aggregate temporaries twice in expressions with co_await.
  channel_options() {}

  // Who this side is.
  std::string cluster;         ///< at most 64 bytes; must be equal on both sides
  node_id node = 0;            ///< 0: a client that is no member
  std::uint64_t features = 0;  ///< one bit each, given meaning by the program; both sides see the other's
  std::string purpose;         ///< what this side opens the connection for, at most 32 bytes; empty when accepting

  // Whom it talks to.
  node_id expected_node = 0;  ///< refuse any other; 0: any
  /// Asked about a peer that passed all other tests; refuses by returning a refusal.
  std::function<std::optional<refusal>(const peer_info&)> admit;

  // Sizes.
  std::size_t max_frame_bytes = std::size_t{16} << 20;     ///< largest payload, sent or received; below 4 GiB
  std::size_t read_buffer_bytes = std::size_t{256} << 10;  ///< what one read brings at most
  std::size_t send_queue_bytes = std::size_t{1} << 20;     ///< copied but unsent bytes at which senders wait
  std::size_t coalesce_bytes = std::size_t{256} << 10;     ///< copied bytes at which a write does not wait for more
  std::size_t copy_bytes = std::size_t{16} << 10;          ///< larger payloads are sent from their sender's memory

  // Times; 0 means none, except where said.
  duration handshake_timeout = std::chrono::seconds(5);  ///< 0 is not allowed
  duration close_timeout = std::chrono::seconds(2);      ///< of close(); 0 is not allowed
  duration idle_timeout{0};  ///< of a receive: the peer was silent for so long (up to a quarter more is measured)
  duration keepalive{0};     ///< when nothing was sent for so long (up to a half more), say that this side is alive
};

}  // namespace lockstep
