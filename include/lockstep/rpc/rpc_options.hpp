// What a peer may use.
#pragma once

#include "lockstep/env/env.hpp"

#include <cstddef>

namespace lockstep {

struct rpc_options {
  // Not an aggregate: g++ 12 destroys aggregate temporaries twice in expressions with co_await.
  rpc_options() {}

  std::size_t max_calls = 1024;    ///< calls and streams under way from this side; below 65,536
  std::size_t max_requests = 256;  ///< handlers at work on this side
  /// What of a stream its server may send ahead of its reader, and its reader therefore stores; one item more at most.
  std::size_t stream_window_bytes = std::size_t{256} << 10;
  duration drain_timeout = std::chrono::seconds(5);  ///< of close(): for calls and handlers to end
};

}  // namespace lockstep
