// rpc_peer: calls and streams over a channel, in both directions at once.
//
// @code
//   lockstep::rpc_service service;
//   service.on(1, echo);                       // awaitable<void> echo(const rpc_request& in, rpc_reply& out)
//   lockstep::rpc_peer peer(std::move(channel), service);
//   group.spawn(peer.run());
//   lockstep::byte_buffer result;
//   const lockstep::rpc_status status = co_await peer.call(1, arguments, result, 500ms);
// @endcode
//
// The messages are drawn in rpc/format.hpp.
//
// What it does not promise: exactly once (a call whose outcome is unknown may have taken effect, see rpc_status; make
// handlers idempotent or number the requests); an order among calls that are under way together; that a handler which
// was asked to stop stops at once; fairness between methods.
#pragma once

#include "lockstep/rpc/detail/peer_state.hpp"

#include <algorithm>
#include <array>
#include <exception>
#include <memory>
#include <optional>
#include <utility>

namespace lockstep {

template <class Env, class Stream>
class basic_rpc_peer;

/// The items that a stream's handler sends, on the reader's side. Movable; destroying it is cancel().
/// Thread safety: none; one next() at a time.
template <class Env, class Stream = typename Env::stream>
class basic_rpc_stream {
 public:
  basic_rpc_stream(basic_rpc_stream&&) noexcept = default;
  basic_rpc_stream& operator=(basic_rpc_stream&& other) noexcept {
    if (this != &other) {
      cancel();
      state_ = std::move(other.state_);
      call_ = std::move(other.call_);
    }
    return *this;
  }
  ~basic_rpc_stream() { cancel(); }

  /// The next item; nothing when the stream has ended, and status() then says how. The item is valid until the next
  /// next(). Reading on is what lets the server send more.
  /// Cancellation: no item is lost.
  awaitable<std::optional<bytes_view>> next();

  /// How the stream ended; ok while it has not.
  [[nodiscard]] const rpc_status& status() const noexcept { return call_->status; }

  /// No more items are wanted: the handler is asked to stop. What has arrived can still be read.
  void cancel() noexcept {
    if (call_ && !call_->ended) {
      state_->abandon(*call_);
      call_->ended = true;
    }
  }

 private:
  friend class basic_rpc_peer<Env, Stream>;
  using state = detail::peer_state<Env, Stream>;

  basic_rpc_stream(std::shared_ptr<state> of, std::unique_ptr<typename state::stream_call> call)
      : state_(std::move(of)), call_(std::move(call)) {}

  std::shared_ptr<state> state_;
  std::unique_ptr<typename state::stream_call> call_;
};

/// One end of a connection on which both sides call and serve.
///
/// Somebody must be in run() for anything to arrive; every call and handler ends with it.
/// Memory is bounded by rpc_options: calls, handlers with their arguments and results, and stream windows.
/// Destroying it aborts: let run() end before. Thread safety: none; on the channel's executor.
template <class Env, class Stream = typename Env::stream>
class basic_rpc_peer {
 public:
  using channel_type = basic_channel<Env, Stream>;
  using stream_type = basic_rpc_stream<Env, Stream>;

  /// @param over  has completed its handshake.
  /// @param service  what the other side may call; outlives the peer.
  basic_rpc_peer(channel_type over, const rpc_service& service, rpc_options options = rpc_options())
      : state_(std::make_shared<state>(std::move(over), service, options)) {}
  basic_rpc_peer(const basic_rpc_peer&) = delete;
  basic_rpc_peer& operator=(const basic_rpc_peer&) = delete;
  ~basic_rpc_peer() { abort(); }

  /// Reads until the connection ends; then ends the calls, stops the handlers, joins them and closes the channel. Once.
  /// @throws what the connection ended with, unless the peer ended it between frames or this side closed it.
  /// Cancellation: aborts the connection, joins the handlers, and throws operation_aborted.
  awaitable<void> run();

  /// Calls `method` at the other side.
  /// @param arguments  sent from where they are when they are long; the caller's again when the call completes.
  /// @param result  replaced by the result; reuse it, and its memory is reused. Must stay until the call completes.
  /// @param timeout  0: none. The other side is told how much time is left.
  /// @return how it ended; nothing is thrown for calls that fail.
  /// Cancellation: the handler is asked to stop; throws operation_aborted, the outcome is unknown.
  awaitable<rpc_status> call(std::uint32_t method, bytes_view arguments, byte_buffer& result, duration timeout);

  /// Asks for the items of `method`. A stream that could not be begun has ended, see its status().
  /// @param arguments  as in call(); the caller's again when this completes, while the stream goes on.
  /// @param timeout  for the whole stream; 0: none.
  /// Cancellation: the handler, if it was begun, is asked to stop; throws operation_aborted.
  awaitable<stream_type> open_stream(std::uint32_t method, bytes_view arguments, duration timeout = duration(0));

  /// Says goodbye (both sides begin no new requests of the other, or calls), stops streams, waits for calls and
  /// handlers to end (drain_timeout), closes the channel politely, and returns when run() has ended. Cancellation:
  /// aborts, then joins; completes normally.
  awaitable<void> close();

  /// Ends everything at once; calls end with errc::closed.
  void abort() noexcept {
    state_->channel.abort();
    state_->end();
  }

  /// False once calls are refused: after close(), abort(), the peer's goodbye, or the connection's end.
  [[nodiscard]] bool is_open() const { return state_->reason_to_refuse().code() != errc::closed; }
  [[nodiscard]] const peer_info& peer() const noexcept { return state_->channel.peer(); }
  [[nodiscard]] std::size_t calls_under_way() const noexcept { return state_->calls(); }
  [[nodiscard]] std::size_t requests_under_way() const noexcept { return state_->requests(); }

 private:
  using state = detail::peer_state<Env, Stream>;

  static std::uint32_t wire_milliseconds(duration timeout) noexcept {
    const auto rounded = std::chrono::ceil<std::chrono::milliseconds>(timeout).count();
    return static_cast<std::uint32_t>(std::clamp<std::int64_t>(rounded, 0, UINT32_MAX));
  }

  awaitable<rpc_status> send_request(state& self, std::uint64_t id, rpc_request_message message, time_point deadline);

  std::shared_ptr<state> state_;
};

using rpc_peer = basic_rpc_peer<real::env>;
using rpc_stream = basic_rpc_stream<real::env>;

// --- Implementation ---------------------------------------------------------------------------------------------

namespace detail {

/// The end of a peer's run(), also when its frame is destroyed.
template <class State>
class running_peer {
 public:
  explicit running_peer(State& of) noexcept : state_(of) { state_.running = true; }
  running_peer(const running_peer&) = delete;
  ~running_peer() {
    state_.end();
    state_.running = false;
    state_.changed.notify_all();
  }

 private:
  State& state_;
};

/// A call that leaves the table with its caller's frame.
template <class State>
struct scoped_call : State::call {
  explicit scoped_call(State& of) noexcept : self(of) {}
  scoped_call(const scoped_call&) = delete;
  ~scoped_call() { self.forget(*this); }
  State& self;
};

}  // namespace detail

template <class Env, class Stream>
awaitable<void> basic_rpc_peer<Env, Stream>::run() {
  const std::shared_ptr<state> self = state_;
  const bool throws = co_await this_coro::throw_if_cancelled();
  co_await this_coro::throw_if_cancelled(false);
  std::exception_ptr failure;
  std::error_code code;
  {
    const detail::running_peer<state> mark(*self);
    try {
      co_await self->read();
    } catch (const std::system_error& error) {
      code = error.code();
      failure = std::current_exception();
    } catch (...) {
      failure = std::current_exception();
    }
    const bool peer_ended = code == asio::error::eof;
    if (!peer_ended) self->channel.abort();
    self->end();
    while (!self->joined()) (void)co_await self->changed.wait_uncancellable();
    co_await self->join_alarm();
    co_await self->channel.close();
  }
  co_await this_coro::throw_if_cancelled(throws);
  if (failure && code != asio::error::eof && code != errc::closed) std::rethrow_exception(failure);
}

template <class Env, class Stream>
awaitable<rpc_status> basic_rpc_peer<Env, Stream>::send_request(state& self, std::uint64_t id,
                                                                rpc_request_message message, time_point deadline) {
  const auto prefix = message.encode_prefix();
  const std::array<bytes_view, 2> parts = {bytes_view(prefix), message.arguments};
  bool begun = false;
  try {
    const bool sent = co_await self.channel.send_until(deadline, static_cast<std::uint8_t>(rpc_kind::request), id,
                                                       parts, frame_flag::none, &begun);
    co_return sent ? rpc_status() : rpc_status(errc::timed_out);
  } catch (const std::system_error& error) {
    if (is_cancelled(error.code()) && !self.ended()) throw;
    // The same code ends a channel to which a header with such a length came.
    const bool too_large = prefix.size() + message.arguments.size() > self.channel.options().max_frame_bytes;
    if (too_large && error.code() == errc::frame_too_large) co_return rpc_status(error.code());
  }
  co_return rpc_status(errc::closed, begun);
}

template <class Env, class Stream>
awaitable<rpc_status> basic_rpc_peer<Env, Stream>::call(std::uint32_t method, bytes_view arguments, byte_buffer& result,
                                                        duration timeout) {
  const std::shared_ptr<state> self = state_;
  rpc_status refused = self->reason_to_refuse();
  if (!refused.ok()) co_return refused;

  result.clear();
  detail::scoped_call<state> call(*self);
  call.result = &result;
  self->begin(call);
  const time_point deadline = timeout.count() == 0 ? detail::never : self->channel.environment().now() + timeout;
  rpc_request_message message;
  message.method = method;
  message.time_left_ms = wire_milliseconds(timeout);
  message.arguments = arguments;
  const auto prefix = message.encode_prefix();
  const std::array<bytes_view, 2> parts = {bytes_view(prefix), arguments};
  const bool small = arguments.size() <= self->channel.options().copy_bytes;
  if (!small || !self->channel.try_send(static_cast<std::uint8_t>(rpc_kind::request), call.id, parts)) {
    rpc_status sent;
    try {
      sent = co_await send_request(*self, call.id, message, deadline);
    } catch (...) {
      self->abandon(call);  // it may be sent whole from a copy
      throw;
    }
    if (!sent.ok()) co_return sent;
  }
  if (!call.ended) {
    self->watch(call, deadline);
    detail::parked waiter;
    co_await waiter.wait(self->executor, call.waiter);
    if (is_cancelled(waiter.result())) {
      self->abandon(call);
      throw std::system_error(waiter.result(), "call");
    }
  }
  co_return std::move(call.status);
}

template <class Env, class Stream>
awaitable<basic_rpc_stream<Env, Stream>> basic_rpc_peer<Env, Stream>::open_stream(std::uint32_t method,
                                                                                  bytes_view arguments,
                                                                                  duration timeout) {
  const std::shared_ptr<state> self = state_;
  auto call = std::make_unique<typename state::stream_call>();
  call->stream = call.get();
  call->status = self->reason_to_refuse();
  if (!call->status.ok()) {
    call->ended = true;
    co_return stream_type(self, std::move(call));
  }
  self->begin(*call);
  stream_type stream(self, std::move(call));
  auto& opened = *stream.call_;
  const std::size_t window = std::clamp<std::size_t>(self->options.stream_window_bytes, 1, UINT32_MAX);
  opened.open_credit = static_cast<std::int64_t>(window);
  rpc_request_message message;
  message.method = method;
  message.time_left_ms = wire_milliseconds(timeout);
  message.credit = static_cast<std::uint32_t>(window);
  message.arguments = arguments;
  const time_point deadline = timeout.count() == 0 ? detail::never : self->channel.environment().now() + timeout;
  rpc_status sent = co_await send_request(*self, opened.id, message, deadline);
  if (!sent.ok()) {
    opened.status = std::move(sent);
    opened.ended = true;
    self->forget(opened);
  } else if (!opened.ended) {
    self->watch(opened, deadline);
  }
  co_return std::move(stream);
}

template <class Env, class Stream>
awaitable<std::optional<bytes_view>> basic_rpc_stream<Env, Stream>::next() {
  auto& of = *call_;
  of.used_credit += std::exchange(of.last_cost, 0);
  state_->give_credit(of);
  for (;;) {
    if (of.read == of.current.size()) {
      of.current.clear();
      of.read = 0;
      std::swap(of.current, of.arriving);
    }
    if (of.read != of.current.size()) {
      const std::size_t size = load_le<std::uint32_t>(of.current.data() + of.read);
      const bytes_view item = of.current.view().subspan(of.read + 4, size);
      of.read += 4 + size;
      of.last_cost = size + rpc_item_overhead;
      co_return item;
    }
    if (of.ended) co_return std::nullopt;
    detail::parked waiter;
    co_await waiter.wait(state_->executor, of.waiter);
    if (waiter.result()) throw std::system_error(waiter.result(), "next item");
  }
}

template <class Env, class Stream>
awaitable<void> basic_rpc_peer<Env, Stream>::close() {
  const std::shared_ptr<state> self = state_;
  const bool throws = co_await this_coro::throw_if_cancelled();
  co_await this_coro::throw_if_cancelled(false);
  self->begin_closing();
  while (!self->drained()) {
    const std::error_code woken = co_await self->changed.wait();
    if (is_cancelled(woken)) {
      self->channel.abort();
      break;
    }
  }
  co_await self->channel.close();
  if (!self->running) self->end();
  while (self->running) (void)co_await self->changed.wait_uncancellable();
  co_await this_coro::throw_if_cancelled(throws);
}

}  // namespace lockstep
