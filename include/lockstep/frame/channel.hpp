// channel: whole frames, in order, over any stream.
//
// Many coroutines send, one receives. Frames that are sent in one turn of the loop leave in one write; frames that one
// read brought are delivered together, as views into the read buffer. Every queue is bounded.
//
// @code
//   lockstep::channel_options options;
//   options.cluster = "orders";
//   lockstep::channel channel(env, co_await env.connect(where, 1s), options);
//   co_await channel.handshake();
//   co_await channel.send(kind, id, payload);
//   for (const frame_view& frame : co_await channel.receive_batch()) use(frame);
//   co_await channel.close();
// @endcode
//
// The bytes are drawn in frame/format.hpp (frames) and frame/hello.hpp (handshake).
//
// What it does not promise: that a frame which left has arrived, or that its receiver acted on it (there are no
// acknowledgements: rpc/ has answers, catchup/ has acked positions); that frames survive the connection; secrecy or
// protection from attackers (put it over a TLS stream); fairness between its senders beyond the order of their calls.
#pragma once

#include "lockstep/core/mutant.hpp"
#include "lockstep/env/real.hpp"
#include "lockstep/frame/channel_options.hpp"
#include "lockstep/frame/codec.hpp"
#include "lockstep/frame/detail/channel_state.hpp"
#include "lockstep/frame/detail/handshake.hpp"

#include <cassert>
#include <memory>
#include <span>
#include <utility>

namespace lockstep {

/// A connection that carries frames. See above, and channel_options.
///
/// Receiving and sending end separately: when the peer has ended its sending, frames can still be sent.
/// What is thrown is std::system_error, its text names the peer. Codes, besides the stream's own:
///   closed             close() or abort() was called here
///   frame_too_large    above max_frame_bytes, here or in an arriving header (nothing was allocated for it)
///   bad_checksum, malformed   arriving bytes are no frames; the channel is closed
///   idle_timeout       see channel_options; the channel is closed
///   asio::error::eof   the peer ended its sending between frames
///   truncated          ... inside a frame
/// Destroying it is abort(). Operations under way then end with errc::closed and touch nothing of it.
/// Thread safety: none; use it on its stream's executor. One receive at a time, any number of sends beside it.
/// @tparam Stream  an environment's stream, or any Asio AsyncReadStream and AsyncWriteStream with lowest_layer().
template <class Env, class Stream = typename Env::stream>
class basic_channel {
 public:
  using environment_type = Env;
  using stream_type = Stream;

  /// @param env  must outlive the channel and its last operation.
  basic_channel(Env& env, Stream stream, channel_options options)
      : state_(std::make_shared<state>(env, std::move(stream), std::move(options))) {}
  basic_channel(basic_channel&& other) noexcept = default;
  basic_channel& operator=(basic_channel&& other) noexcept {
    if (this != &other) {
      abort();
      state_ = std::move(other.state_);
    }
    return *this;
  }
  ~basic_channel() { abort(); }

  /// A second handle on the same connection, for a block that lives inside this one's scope. Whichever is destroyed
  /// first aborts for both.
  [[nodiscard]] basic_channel share() const { return basic_channel(state_); }

  /// Exchanges hellos: versions and clusters must match, the node ids must differ, and both sides must admit each
  /// other. The same call for the side that connected and the side that accepted; before any send or receive.
  /// @throws system_error whose text says what the other side has: not_lockstep, wrong_version, wrong_cluster,
  ///   wrong_node, timed_out (handshake_timeout), or the cause of the other side's refusal. The refused peer is told.
  /// Cancellation and errors: the channel is closed.
  awaitable<peer_info> handshake();

  /// Sends one frame. Payloads up to copy_bytes are copied, and the call suspends only while the queue is full;
  /// longer ones are handed to the stream from where they are, and the call suspends until that is done.
  /// Either way the payload is the caller's again when the call completes.
  /// @param kind  not 0.
  /// @param flags  frame_flag::self_checked and frame_flag::user_mask.
  /// Errors: a completed send may still be lost with the connection; the next operation says so.
  /// Cancellation: the frame is withdrawn, or sent whole from a copy when a part of it has left; the channel is
  ///   unharmed.
  awaitable<void> send(std::uint8_t kind, std::uint64_t id, bytes_view payload, std::uint8_t flags = frame_flag::none);

  /// The same for a payload in several parts; `parts` itself must stay too.
  awaitable<void> send(std::uint8_t kind, std::uint64_t id, std::span<const bytes_view> parts,
                       std::uint8_t flags = frame_flag::none);

  /// As send(), but gives up at `deadline`.
  /// @return false when the frame was withdrawn and nothing of it was sent; true when it was sent, or will be sent
  ///   whole from a copy since a part of it had left.
  /// @param begun  when this throws, set to whether a part of the frame had left: then all of it may have arrived.
  awaitable<bool> send_until(time_point deadline, std::uint8_t kind, std::uint64_t id,
                             std::span<const bytes_view> parts, std::uint8_t flags = frame_flag::none,
                             bool* begun = nullptr);

  /// Sends one frame if that needs no suspension: the cheapest way to send. The payload is copied, whatever its size.
  /// @return false when the queue is full, a frame is waiting, or no frame of this size can be sent any more (send()
  ///   says why).
  bool try_send(std::uint8_t kind, std::uint64_t id, bytes_view payload, std::uint8_t flags = frame_flag::none);
  bool try_send(std::uint8_t kind, std::uint64_t id, std::span<const bytes_view> parts,
                std::uint8_t flags = frame_flag::none);

  /// Waits until everything sent before has been handed to the stream.
  /// Cancellation: stops the waiting only.
  awaitable<void> flush();

  /// The next frame. Its payload is valid until the next receive, receive_batch or try_receive.
  /// Cancellation: nothing is lost; receive again.
  awaitable<frame_view> receive();

  /// All whole frames that have arrived, at least one and at most 512; waits for one if there is none.
  /// The span and the payloads are valid until the next receive, receive_batch or try_receive.
  /// Cancellation: nothing is lost; receive again.
  awaitable<std::span<const frame_view>> receive_batch();

  /// Gives each frame to `use` as it arrives, from the handler of the read that brought it, until `use` returns false
  /// or the channel ends: the cheapest way to receive, since no coroutine is resumed. What `use` sends, or whoever it
  /// resumes, leaves in one write when the frames that one read brought have been used.
  /// @param use  `bool(const frame_view&)`; the payload is valid during the call. It must not throw; it may destroy the
  ///   channel.
  /// @throws what the channel ended with. Cancellation: nothing is lost; receive again.
  template <class Use>
  awaitable<void> deliver(Use& use);

  /// The next frame if it has arrived already. @return false when receive() would wait or throw.
  bool try_receive(frame_view& frame) { return state_->take_frame(frame) == state::arrival::frame; }

  /// Sends what was queued, ends sending, waits until the peer has done the same (close_timeout bounds both), closes,
  /// and returns when nothing of the channel is under way any more. New sends and receives end with errc::closed at
  /// once, as does a receive that waits; arriving frames are discarded, and those received before stay valid until the
  /// channel is destroyed. Call it as often as you like.
  /// Cancellation: closes at once, and completes normally.
  awaitable<void> close();

  /// Closes at once; nothing more is sent. Operations under way end with errc::closed.
  void abort() noexcept {
    if (state_) state_->fail(errc::closed);
  }

  [[nodiscard]] bool is_open() const noexcept { return !state_->closed() && !state_->closing; }

  /// What the peer said in its handshake; before, only its address.
  [[nodiscard]] const peer_info& peer() const noexcept { return state_->peer; }

  /// Bytes that were copied and not handed to the stream yet.
  [[nodiscard]] std::size_t queued_bytes() const noexcept { return state_->queued_bytes(); }

  [[nodiscard]] const channel_options& options() const noexcept { return state_->options; }
  [[nodiscard]] const asio::any_io_executor& get_executor() const noexcept { return state_->executor; }
  [[nodiscard]] Env& environment() const noexcept { return state_->env; }

 private:
  using state = detail::channel_state<Env, Stream>;

  explicit basic_channel(std::shared_ptr<state> shared) noexcept : state_(std::move(shared)) {}

  static std::size_t size_of(std::span<const bytes_view> parts) noexcept {
    std::size_t bytes = 0;
    for (const bytes_view part : parts) bytes += part.size();
    return bytes;
  }

  awaitable<void> send_frame(frame_header header, bytes_view payload, std::span<const bytes_view> parts);

  std::shared_ptr<state> state_;
};

using channel = basic_channel<real::env>;

// --- Implementation ---------------------------------------------------------------------------------------------

namespace detail {

/// Aborts the channel when the scope is left before keep().
template <class State>
class abort_unless_kept {
 public:
  explicit abort_unless_kept(State& of) noexcept : state_(&of) {}
  abort_unless_kept(const abort_unless_kept&) = delete;
  ~abort_unless_kept() {
    if (state_) state_->fail(errc::closed);
  }
  void keep() noexcept { state_ = nullptr; }

 private:
  State* state_;
};

/// Hands over what is queued, ends sending and waits for the peer's end; gives up at close_timeout or when cancelled.
template <class State>
awaitable<void> end_politely(State& self) {
  self.set_limit(self.env.now() + self.options.close_timeout, errc::closed);
  self.release_receiver(errc::closed);
  typename State::waiting_frame mark(self);
  if (self.submit(mark) && !mutated(mutant::close_drops_queue)) {
    parked waiter;
    co_await waiter.wait(self.executor, mark.sender);
    if (is_cancelled(waiter.result())) co_return;
  }
  if (self.closed()) co_return;
  std::error_code ignored;
  shutdown_send(self.stream, ignored);
  while (!self.receiving_ended()) {
    self.decoder.discard();
    self.start_read();
    parked waiter;
    co_await waiter.wait(self.executor, self.receiver);
    if (waiter.result()) co_return;
  }
}

}  // namespace detail

template <class Env, class Stream>
awaitable<peer_info> basic_channel<Env, Stream>::handshake() {
  const std::shared_ptr<state> self = state_;
  detail::abort_unless_kept<state> guard(*self);
  co_await detail::shake_hands(*self);
  guard.keep();
  co_return self->peer;
}

template <class Env, class Stream>
awaitable<void> basic_channel<Env, Stream>::send(std::uint8_t kind, std::uint64_t id, bytes_view payload,
                                                 std::uint8_t flags) {
  return send_frame({kind, flags, id}, payload, {});
}

template <class Env, class Stream>
awaitable<void> basic_channel<Env, Stream>::send(std::uint8_t kind, std::uint64_t id, std::span<const bytes_view> parts,
                                                 std::uint8_t flags) {
  return send_frame({kind, flags, id}, {}, parts);
}

// `parts`, or when there are none, `payload`. One coroutine whether it waits or not: a second one would cost each send.
template <class Env, class Stream>
awaitable<void> basic_channel<Env, Stream>::send_frame(frame_header header, bytes_view payload,
                                                       std::span<const bytes_view> parts) {
  assert(header.kind != frame_kind::keepalive);
  if (parts.empty()) parts = std::span<const bytes_view>(&payload, 1);
  const std::size_t bytes = size_of(parts);
  if (const auto reason = state_->reason_for_sender(bytes)) state_->throw_error(reason);
  if (state_->try_copy(header, parts, bytes, state_->options.copy_bytes)) co_return;

  typename state::waiting_frame frame(*state_);
  frame.set(header, parts, bytes);
  if (frame.self->submit(frame)) {
    detail::parked waiter;
    co_await waiter.wait(frame.self->executor, frame.sender);
    if (waiter.result()) frame.self->throw_error(waiter.result());
  }
  if (frame.result) frame.self->throw_error(frame.result);
}

template <class Env, class Stream>
awaitable<bool> basic_channel<Env, Stream>::send_until(time_point deadline, std::uint8_t kind, std::uint64_t id,
                                                       std::span<const bytes_view> parts, std::uint8_t flags,
                                                       bool* begun) {
  assert(kind != frame_kind::keepalive);
  if (begun) *begun = false;
  const std::size_t bytes = size_of(parts);
  if (const auto reason = state_->reason_for_sender(bytes)) state_->throw_error(reason);
  if (state_->try_copy({kind, flags, id}, parts, bytes, state_->options.copy_bytes)) co_return true;

  typename state::waiting_frame frame(*state_);
  frame.set({kind, flags, id}, parts, bytes);
  std::error_code failure;
  if (frame.self->submit(frame, deadline)) {
    detail::parked waiter;
    co_await waiter.wait(frame.self->executor, frame.sender);
    failure = waiter.result();
    if (failure == errc::timed_out && frame.queued) co_return frame.bytes != frame.bytes_in_all;
  }
  if (!failure) failure = frame.result;
  if (!failure) co_return true;
  if (begun) *begun = frame.bytes != frame.bytes_in_all;
  frame.self->throw_error(failure);
}

template <class Env, class Stream>
bool basic_channel<Env, Stream>::try_send(std::uint8_t kind, std::uint64_t id, bytes_view payload, std::uint8_t flags) {
  assert(kind != frame_kind::keepalive);
  // Not by way of the other: adding up sizes that were just written costs as much as the checksum.
  const std::span<const bytes_view> parts(&payload, 1);
  const std::size_t bytes = payload.size();
  return !state_->reason_for_sender(bytes) && state_->try_copy({kind, flags, id}, parts, bytes, bytes);
}

template <class Env, class Stream>
bool basic_channel<Env, Stream>::try_send(std::uint8_t kind, std::uint64_t id, std::span<const bytes_view> parts,
                                          std::uint8_t flags) {
  assert(kind != frame_kind::keepalive);
  const std::size_t bytes = size_of(parts);
  return !state_->reason_for_sender(bytes) && state_->try_copy({kind, flags, id}, parts, bytes, bytes);
}

template <class Env, class Stream>
awaitable<void> basic_channel<Env, Stream>::flush() {
  if (const auto reason = state_->reason_for_sender(0)) state_->throw_error(reason);
  typename state::waiting_frame mark(*state_);
  if (mark.self->submit(mark) && !mutated(mutant::flush_returns_early)) {
    detail::parked waiter;
    co_await waiter.wait(mark.self->executor, mark.sender);
    if (waiter.result()) mark.self->throw_error(waiter.result());
  }
  if (mark.result) mark.self->throw_error(mark.result);
}

template <class Env, class Stream>
awaitable<frame_view> basic_channel<Env, Stream>::receive() {
  for (;;) {
    frame_view frame;
    const auto arrived = state_->take_frame(frame);
    if (arrived == state::arrival::frame && mutated(mutant::read_ahead_into_delivered_frame)) state_->start_read();
    if (arrived == state::arrival::frame) co_return frame;
    if (arrived == state::arrival::failure) state_->throw_error(state_->reason_for_receiver());
    state_->start_read();
    detail::parked waiter;
    co_await waiter.wait(state_->executor, state_->receiver);
    // Only a failing channel, which may be gone by now, and cancellation resume with an error.
    if (waiter.result()) throw std::system_error(waiter.result(), "receive");
  }
}

template <class Env, class Stream>
awaitable<std::span<const frame_view>> basic_channel<Env, Stream>::receive_batch() {
  for (;;) {
    auto& batch = state_->batch;
    batch.clear();
    frame_view frame;
    auto arrived = state::arrival::nothing;
    while (batch.size() < state::most_in_batch) {
      arrived = state_->take_frame(frame);
      if (arrived != state::arrival::frame) break;
      batch.push_back(frame);
    }
    // What came before a failure is delivered; the next receive meets the failure again.
    if (!batch.empty()) co_return std::span<const frame_view>(batch);
    if (arrived == state::arrival::failure) state_->throw_error(state_->reason_for_receiver());
    state_->start_read();
    detail::parked waiter;
    co_await waiter.wait(state_->executor, state_->receiver);
    if (waiter.result()) throw std::system_error(waiter.result(), "receive");
  }
}

template <class Env, class Stream>
template <class Use>
awaitable<void> basic_channel<Env, Stream>::deliver(Use& use) {
  struct sink_guard {
    std::shared_ptr<state> self;
    sink_guard(std::shared_ptr<state> of, Use& with) : self(std::move(of)) {
      assert(!self->sink && "one receive at a time");
      self->sink.object = &with;
      self->sink.use = [](const void* object, const frame_view& frame) {
        return (*const_cast<Use*>(static_cast<const Use*>(object)))(frame);
      };
    }
    sink_guard(const sink_guard&) = delete;
    ~sink_guard() { self->sink = {}; }
  };
  const sink_guard guard(state_, use);
  const auto arrived = guard.self->pump();
  if (arrived == state::arrival::failure) guard.self->throw_error(guard.self->reason_for_receiver());
  if (arrived == state::arrival::frame) co_return;
  detail::parked waiter;
  co_await waiter.wait(guard.self->executor, guard.self->receiver);
  if (waiter.result()) guard.self->throw_error(waiter.result());
}

template <class Env, class Stream>
awaitable<void> basic_channel<Env, Stream>::close() {
  const std::shared_ptr<state> self = state_;
  // Cancellation stops the politeness, not the joins: waits report it by their results instead of throwing.
  const bool throws = co_await this_coro::throw_if_cancelled();
  co_await this_coro::throw_if_cancelled(false);
  if (!self->closed() && !self->closing) {
    self->closing = true;
    co_await detail::end_politely(*self);
    self->fail(errc::closed);
  }
  while (!self->closed() || self->busy()) (void)co_await self->ended.wait_uncancellable();
  co_await self->join_alarm();
  co_await this_coro::throw_if_cancelled(throws);
}

}  // namespace lockstep
