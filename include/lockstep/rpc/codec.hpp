// The fixed parts of rpc messages to bytes and back, without I/O. The layout is drawn in rpc/format.hpp.
#pragma once

#include "lockstep/core/bytes.hpp"
#include "lockstep/core/endian.hpp"
#include "lockstep/rpc/format.hpp"

#include <array>
#include <cstdint>
#include <optional>
#include <string_view>

namespace lockstep {

struct rpc_request_message {
  std::uint32_t method = 0;
  std::uint32_t time_left_ms = 0;  ///< 0: no limit
  std::uint32_t credit = 0;        ///< 0: one reply is wanted; otherwise a stream of items
  bytes_view arguments;            ///< not encoded by encode(): a part of its own

  /// What stands before the arguments.
  [[nodiscard]] std::array<std::byte, rpc_request_prefix_bytes> encode_prefix() const noexcept {
    std::array<std::byte, rpc_request_prefix_bytes> prefix;
    store_le(prefix.data(), method);
    store_le(prefix.data() + 4, time_left_ms);
    store_le(prefix.data() + 8, credit);
    return prefix;
  }

  /// @return nothing when `payload` is too short; the arguments are a view into it.
  static std::optional<rpc_request_message> decode(bytes_view payload) noexcept {
    if (payload.size() < rpc_request_prefix_bytes) return std::nullopt;
    rpc_request_message message;
    message.method = load_le<std::uint32_t>(payload.data());
    message.time_left_ms = load_le<std::uint32_t>(payload.data() + 4);
    message.credit = load_le<std::uint32_t>(payload.data() + 8);
    message.arguments = payload.subspan(rpc_request_prefix_bytes);
    return message;
  }
};

struct rpc_failure_message {
  rpc_cause cause = rpc_cause::handler;
  std::uint32_t code = 0;
  std::string_view text;  ///< not encoded by encode(): a part of its own

  /// What stands before the text.
  [[nodiscard]] std::array<std::byte, rpc_failure_prefix_bytes> encode_prefix() const noexcept {
    std::array<std::byte, rpc_failure_prefix_bytes> prefix{};
    store_le(prefix.data(), static_cast<std::uint8_t>(cause));
    store_le(prefix.data() + 4, code);
    return prefix;
  }

  /// @return nothing when no peer sends this; the text is a view into `payload`.
  static std::optional<rpc_failure_message> decode(bytes_view payload) noexcept {
    if (payload.size() < rpc_failure_prefix_bytes) return std::nullopt;
    const auto cause = load_le<std::uint8_t>(payload.data());
    if (cause < 1 || cause > 5 || (load_le<std::uint32_t>(payload.data()) >> 8) != 0) return std::nullopt;
    rpc_failure_message message;
    message.cause = static_cast<rpc_cause>(cause);
    message.code = load_le<std::uint32_t>(payload.data() + 4);
    message.text = as_text(payload.subspan(rpc_failure_prefix_bytes));
    return message;
  }
};

struct rpc_credit_message {
  std::uint32_t bytes = 0;

  [[nodiscard]] std::array<std::byte, 4> encode() const noexcept {
    std::array<std::byte, 4> payload;
    store_le(payload.data(), bytes);
    return payload;
  }

  static std::optional<rpc_credit_message> decode(bytes_view payload) noexcept {
    if (payload.size() != 4) return std::nullopt;
    return rpc_credit_message{load_le<std::uint32_t>(payload.data())};
  }
};

}  // namespace lockstep
