// What a channel asks of its stream, answered for an environment's stream and for any other Asio stream (a bare
// socket, a TLS stream over one).
//
// An environment's stream (env/env.hpp) says these things itself. Of the others only async_read_some,
// async_write_some and lowest_layer() are needed; what they lack is left out.
#pragma once

#include "lockstep/core/bytes.hpp"

#include <concepts>
#include <span>
#include <string>
#include <system_error>
#include <type_traits>

namespace lockstep {

/// A stream that takes what it can at once, without suspending: what makes one syscall a batch.
template <class S>
concept writes_now = requires(S& stream, std::span<const bytes_view> gather, std::error_code& ec) {
  { stream.write_now(gather, ec) } -> std::same_as<std::size_t>;
};

namespace detail {

/// Ends this side's sending. A stream that can't say so is left as it is: its peer sees the end at close().
template <class S>
void shutdown_send(S& stream, std::error_code& ec) {
  if constexpr (requires { stream.shutdown_send(ec); }) {
    stream.shutdown_send(ec);
  } else if constexpr (requires { stream.lowest_layer().shutdown(S::lowest_layer_type::shutdown_send, ec); }) {
    (void)stream.lowest_layer().shutdown(S::lowest_layer_type::shutdown_send, ec);
  }
}

/// Ends both sides; pending operations complete with an error.
template <class S>
void close_stream(S& stream) {
  std::error_code ignored;
  if constexpr (requires { stream.lowest_layer().close(ignored); } && !writes_now<S>) {
    (void)stream.lowest_layer().close(ignored);
  } else {
    stream.close();
  }
}

/// For texts about the peer.
template <class S>
std::string remote_address(const S& stream) {
  if constexpr (requires {
                  { stream.remote_address() } -> std::convertible_to<std::string>;
                }) {
    return stream.remote_address();
  } else {
    return "(unnamed)";
  }
}

}  // namespace detail
}  // namespace lockstep
