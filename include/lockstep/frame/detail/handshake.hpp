// The handshake over a channel's state: who is there, and whether the two sides want each other.
#pragma once

#include "lockstep/core/mutant.hpp"
#include "lockstep/frame/detail/channel_state.hpp"
#include "lockstep/frame/hello.hpp"

#include <memory>
#include <optional>
#include <string>
#include <utility>

namespace lockstep::detail {

/// Why a hello could not be had, with a text that names the peer. An empty reason for the peer means that telling it
/// makes no sense.
struct handshake_error {
  handshake_error(std::error_code what, std::string for_us, std::string for_peer = {})
      : code(what), text(std::move(for_us)), reason_for_peer(std::move(for_peer)) {}
  std::error_code code;
  std::string text;
  std::string reason_for_peer;
};

template <class State>
void send_hello(State& self, hello::step_t step, errc cause = {}, std::string reason = {}) {
  hello message;
  message.step = step;
  message.node = self.options.node;
  message.features = self.options.features;
  message.cluster = self.options.cluster;
  message.purpose = self.options.purpose;
  message.cause = cause;
  message.reason = std::move(reason);
  if (self.reason_for_sender(0)) return;  // the reads tell
  encode_hello(self.raw_output(), message);
  self.write();
}

template <class State>
awaitable<decoded_hello> read_hello(State& self) {
  for (;;) {
    decoded_hello found = decode_hello(self.decoder.unread());
    if (found.is != verdict::need_more) {
      self.decoder.skip(found.bytes);
      co_return found;
    }
    if (self.receiving_ended()) self.throw_error(self.reason_for_receiver());
    self.start_read();
    parked waiter;
    co_await waiter.wait(self.executor, self.receiver);
    if (waiter.result()) self.throw_error(waiter.result());
  }
}

/// @return what is wrong with the hello, if anything.
template <class State>
std::optional<handshake_error> find_fault(State& self, const decoded_hello& found, hello::step_t expected) {
  const std::string peer = "peer at " + self.peer.address;
  if (found.is == verdict::corrupt) {
    if (found.reason == errc::not_lockstep) {
      return handshake_error(found.reason, peer + " does not speak the lockstep protocol");
    }
    if (found.reason == errc::wrong_version) {
      const std::string theirs = std::to_string(found.message.version);
      const std::string ours = std::to_string(protocol_version);
      return handshake_error(found.reason, peer + " speaks protocol version " + theirs + ", this node " + ours,
                             "this node speaks protocol version " + ours + ", not " + theirs);
    }
    return handshake_error(found.reason, peer + " sent a broken hello", "broken hello");
  }
  if (found.message.step == hello::step_t::refusal) {
    return handshake_error(found.message.cause, peer + " refused the connection: " + found.message.reason);
  }
  if (found.message.step != expected) {
    return handshake_error(errc::malformed, peer + " sent an unexpected hello", "unexpected hello");
  }
  return std::nullopt;
}

/// @return why this side does not want the peer, if so.
template <class State>
std::optional<handshake_error> find_objection(State& self, const hello& theirs) {
  const channel_options& ours = self.options;
  const std::string peer = "peer at " + self.peer.address;
  if (theirs.cluster != ours.cluster && !mutated(mutant::skip_cluster_check)) {
    return handshake_error(errc::wrong_cluster,
                           peer + " belongs to cluster '" + theirs.cluster + "', this node to '" + ours.cluster + "'",
                           "this node belongs to cluster '" + ours.cluster + "', not '" + theirs.cluster + "'");
  }
  const std::string their_id = std::to_string(theirs.node);
  if (theirs.node != 0 && theirs.node == ours.node) {
    return handshake_error(errc::wrong_node, peer + " carries this node's own id " + their_id,
                           "this node carries id " + their_id + " too");
  }
  if (ours.expected_node != 0 && theirs.node != ours.expected_node) {
    const std::string expected = std::to_string(ours.expected_node);
    return handshake_error(errc::wrong_node, peer + " is node " + their_id + ", not node " + expected,
                           "node " + expected + " was expected here, not node " + their_id);
  }
  if (ours.admit) {
    if (auto refused = ours.admit(self.peer)) {
      return handshake_error(refused->cause, "refused " + peer + ": " + refused->reason, refused->reason);
    }
  }
  return std::nullopt;
}

/// Tells the peer why, and lets it read that before the connection goes: bytes still unread when a socket is closed
/// would make the peer lose ours.
template <class State>
awaitable<void> refuse(State& self, const handshake_error& why) {
  if (!why.reason_for_peer.empty()) {
    const bool ours = why.code.category() == lockstep_category();
    send_hello(self, hello::step_t::refusal, ours ? static_cast<errc>(why.code.value()) : errc::remote_failure,
               why.reason_for_peer);
  }
  std::error_code ignored;
  shutdown_send(self.stream, ignored);
  while (!self.receiving_ended()) {
    self.decoder.discard();
    self.start_read();
    parked waiter;
    co_await waiter.wait(self.executor, self.receiver);
    if (waiter.result()) break;
  }
  self.fail(why.code, why.text);
}

template <class State>
awaitable<void> shake_hands(State& self) {
  const auto limit = std::chrono::duration_cast<std::chrono::milliseconds>(self.options.handshake_timeout);
  self.set_limit(
      self.env.now() + self.options.handshake_timeout, errc::timed_out,
      "peer at " + self.peer.address + " did not finish the handshake within " + std::to_string(limit.count()) + " ms");
  if (mutated(mutant::skip_handshake_timeout)) self.lift_limit();
  send_hello(self, hello::step_t::offer);
  const decoded_hello offer = co_await read_hello(self);
  std::optional<handshake_error> wrong = find_fault(self, offer, hello::step_t::offer);
  if (!wrong) {
    self.peer.node = offer.message.node;
    self.peer.features = offer.message.features;
    self.peer.cluster = offer.message.cluster;
    self.peer.purpose = offer.message.purpose;
    wrong = find_objection(self, offer.message);
  }
  if (!wrong) {
    send_hello(self, hello::step_t::acceptance);
    const decoded_hello answer = co_await read_hello(self);
    wrong = find_fault(self, answer, hello::step_t::acceptance);
  }
  if (wrong) {
    co_await refuse(self, *wrong);
    self.throw_error(self.closed());
  }
  self.lift_limit();
  self.watch_silence();
}

}  // namespace lockstep::detail
