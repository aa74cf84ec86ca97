// What a program serves: handlers by method number.
#pragma once

#include "lockstep/core/asio_compat.hpp"
#include "lockstep/core/bytes.hpp"
#include "lockstep/env/env.hpp"
#include "lockstep/frame/channel_options.hpp"
#include "lockstep/rpc/status.hpp"

#include <cassert>
#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <utility>

namespace lockstep {

/// What a handler is asked. Everything in it is valid until the handler ends.
struct rpc_request {
  std::uint32_t method = 0;
  bytes_view arguments;
  const peer_info* peer = nullptr;          ///< who asks
  time_point deadline = time_point::max();  ///< when the caller gives up; it says so, and the handler is cancelled
};

/// Where a handler puts its result.
class rpc_reply {
 public:
  /// The result; empty at the beginning, with the capacity of earlier results.
  [[nodiscard]] byte_buffer& body() noexcept { return body_; }

  /// The caller gets errc::remote_failure with this code and text instead of the body: what throwing an rpc_error
  /// does too, for outcomes that are not worth an exception.
  void fail(std::uint32_t code, std::string text) {
    failed_ = true;
    code_ = code;
    text_ = std::move(text);
  }

  [[nodiscard]] bool failed() const noexcept { return failed_; }
  [[nodiscard]] std::uint32_t code() const noexcept { return code_; }
  [[nodiscard]] const std::string& text() const noexcept { return text_; }

  void reset() noexcept {
    body_.clear();
    failed_ = false;
    code_ = 0;
    text_.clear();
  }

 private:
  byte_buffer body_;
  bool failed_ = false;
  std::uint32_t code_ = 0;
  std::string text_;
};

/// Where a stream's handler puts its items.
class rpc_item_writer {
 public:
  /// Sends one item; waits while the reader has not asked for more. `item` is the caller's again when it completes.
  /// @throws system_error: the channel's error; operation_aborted when the reader has gone.
  /// Cancellation: the item is not sent, or sent whole.
  virtual awaitable<void> write(bytes_view item) = 0;

 protected:
  ~rpc_item_writer() = default;
};

/// Handlers by number. Made once, then shared by any number of peers, which it must outlive.
/// A handler is a coroutine; it is cancelled (operation_aborted) when its caller gives up or the connection ends, and
/// is joined before its peer's run() ends. What it throws becomes the caller's errc::remote_failure: an rpc_error with
/// its code and text, another exception with code 0 and its what().
class rpc_service {
 public:
  using unary_handler = std::function<awaitable<void>(const rpc_request&, rpc_reply&)>;
  using stream_handler = std::function<awaitable<void>(const rpc_request&, rpc_item_writer&)>;

  struct entry {
    unary_handler unary;
    stream_handler stream;
  };

  /// One request, one reply.
  rpc_service& on(std::uint32_t method, unary_handler handler) {
    entry& added = entries_[method];
    assert(!added.unary && !added.stream);
    added.unary = std::move(handler);
    return *this;
  }

  /// One request, any number of items; the stream ends when the handler does.
  rpc_service& on_stream(std::uint32_t method, stream_handler handler) {
    entry& added = entries_[method];
    assert(!added.unary && !added.stream);
    added.stream = std::move(handler);
    return *this;
  }

  /// @return null when nothing is registered under `method`.
  [[nodiscard]] const entry* find(std::uint32_t method) const {
    const auto found = entries_.find(method);
    return found == entries_.end() ? nullptr : &found->second;
  }

 private:
  std::map<std::uint32_t, entry> entries_;
};

}  // namespace lockstep
