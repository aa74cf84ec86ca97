// node's snapshots: taking them, sending them, installing those of a leader. See raft/node.hpp.
#pragma once

#include "lockstep/raft/node.hpp"

#include <algorithm>
#include <array>
#include <utility>

namespace lockstep::raft {

// The state as one writes it into the store, and reads it from there.
template <environment Env, state_machine Machine>
struct basic_node<Env, Machine>::stored_sink final : snapshot_sink {
  explicit stored_sink(typename store_type::writer& into) : to(into) {}
  awaitable<void> write(bytes_view bytes) override { return to.write(bytes); }
  typename store_type::writer& to;
};

template <environment Env, state_machine Machine>
struct basic_node<Env, Machine>::stored_source final : snapshot_source {
  explicit stored_source(typename store_type::reader& of) : from(of) {}
  awaitable<std::size_t> read(mutable_bytes into) override { co_return from.read(into); }
  typename store_type::reader& from;
};

// One at a time uses the state machine beside apply().
template <environment Env, state_machine Machine>
struct basic_node<Env, Machine>::machine_turn : visit {
  explicit machine_turn(basic_node& in) : visit(in) { in.machine_busy_ = true; }
  ~machine_turn() {
    if (visit::node_is_gone()) return;
    visit::of.machine_busy_ = false;
    visit::of.news_.notify_all();
  }
};

// --- taking -----------------------------------------------------------------------------------------------------

template <environment Env, state_machine Machine>
awaitable<void> basic_node<Env, Machine>::take_snapshots() {
  while (!closing_) {
    const bool due = options_.snapshot_after_bytes != 0 && applied_bytes_ >= options_.snapshot_after_bytes;
    if (!(due || snapshot_index_ < snapshot_wanted_) || machine_busy_) {
      (void)co_await news_.wait();
      continue;
    }
    const machine_turn held(*this);
    try {
      co_await take_snapshot();
    } catch (const std::system_error& error) {
      // There is none then, and the log stays as long as it is, until as much was applied again.
      if (error.code() != std::errc::no_space_on_device || store_->failure() || log_->failure()) throw;
    }
  }
}

template <environment Env, state_machine Machine>
awaitable<void> basic_node<Env, Machine>::take_snapshot() {
  applied_bytes_ = 0;
  snapshot_wanted_ = 0;
  const position at = applied_;
  retention kept;
  kept.max_bytes = std::max<std::uint64_t>(options_.keep_log_bytes, 1);
  if (mutated(mutant::compact_log_before_snapshot)) (void)co_await log_->apply_retention(kept, at.index);
  {
    const auto writer = store_->begin(at, applied_members_);
    stored_sink to(*writer);
    if (!options_.witness) co_await machine_.snapshot(to);
    // A log that ends before the snapshot is one that an installation has not reached: damage must not look like it.
    if (!mutated(mutant::snapshot_beyond_watermark)) co_await log_->sync_watermark();
    (void)co_await writer->finish();
  }
  snapshot_index_ = at.index;
  co_await store_->remove_older(1);
  (void)co_await log_->apply_retention(kept, at.index);
}

// --- sending ----------------------------------------------------------------------------------------------------

template <environment Env, state_machine Machine>
awaitable<void> basic_node<Env, Machine>::send_snapshot(node_id to, channel_type& over) {
  const std::optional<snapshot_info> newest = store_->newest();
  if (!newest) {
    fail(std::make_exception_ptr(std::system_error(errc::corrupt, "the log begins behind every snapshot")));
    co_return;
  }
  const auto reader = store_->read(newest->id.at.index);
  const snapshot_info& info = reader->info();
  core_->snapshot_sent(to, info.id.at.index);
  snapshot_offer offer;
  offer.announced.type = message_type::snapshot_offer;
  offer.announced.from = options_.core.id;
  offer.announced.to = to;
  offer.announced.term = core_->term();
  offer.announced.at = info.id.at;
  offer.config = info.config;
  offer.bytes = info.id.bytes;
  offer.checksum = info.id.checksum;
  byte_buffer bytes;
  encode_snapshot_offer(bytes, offer);
  member& target = member_of(to);
  target.answer.reset();
  target.offered = offer.checksum;
  co_await over.send(static_cast<std::uint8_t>(message_type::snapshot_offer), 0, bytes.view());

  // Until it is accepted, found needless, or refused; what has become of it then the follower's acknowledgement says.
  while (!target.answer && is_sending(to)) (void)co_await news_.wait();
  if (!is_sending(to)) co_return;
  if (target.answer->kind == snapshot_frame::accepted) {
    for (std::uint64_t offset = target.answer->offset; offset < info.id.bytes && is_sending(to);) {
      snapshot_chunk chunk;
      chunk.checksum = info.id.checksum;
      chunk.offset = offset;
      const bytes_view part = reader->chunk(offset);
      const encoded_words words = chunk.encode();
      const std::array<bytes_view, 2> parts{words.view(), part};
      target.answer.reset();
      co_await over.send(static_cast<std::uint8_t>(snapshot_frame::chunk), 0, parts, snapshot_chunk::frame_flags);
      offset += part.size();
    }
    while (!target.answer && is_sending(to)) (void)co_await news_.wait();
  }
  if (is_sending(to) && (!target.answer || target.answer->kind != snapshot_frame::done)) {
    core_->snapshot_failed(to);
    news_.notify_all();
  }
}

template <environment Env, state_machine Machine>
bool basic_node<Env, Machine>::is_sending(node_id to) const {
  const progress* const of = closing_ ? nullptr : core_->progress_of(to);
  return of && of->state() == progress::state_t::snapshot;
}

// --- installing -------------------------------------------------------------------------------------------------

// One at a time uses the receiver. A store whose sync has failed takes nothing more (F1): the node must start again.
template <environment Env, state_machine Machine>
struct basic_node<Env, Machine>::receiver_turn : visit {
  explicit receiver_turn(basic_node& in) : visit(in) { in.receiver_busy_ = true; }
  ~receiver_turn() {
    if (visit::node_is_gone()) return;
    basic_node& node = visit::of;
    node.receiver_busy_ = false;
    if (node.store_->failure() && !mutated(mutant::go_on_with_failed_snapshots)) {
      node.fail(std::make_exception_ptr(std::system_error(node.store_->failure(), node.store_->directory())));
    }
    node.news_.notify_all();
  }
};

template <environment Env, state_machine Machine>
awaitable<void> basic_node<Env, Machine>::hear_of_snapshot(const frame_view& frame, node_id id, channel_type& over) {
  member& from = member_of(id);
  if (frame.kind == static_cast<std::uint8_t>(message_type::snapshot_offer)) {
    const std::optional<snapshot_offer> offer = decode_snapshot_offer(frame);
    if (!offer || offer->announced.from != id || offer->announced.to != options_.core.id) {
      throw std::system_error(errc::malformed, "snapshot offer");
    }
    co_await accept_offer(*offer, over);
    co_return;
  }
  switch (static_cast<snapshot_frame>(frame.kind)) {
    case snapshot_frame::chunk: {
      const std::optional<snapshot_chunk> chunk = snapshot_chunk::decode(frame);
      if (!chunk) throw std::system_error(errc::malformed, "snapshot chunk");
      co_await take_chunk(*chunk, over);
      co_return;
    }
    case snapshot_frame::accepted:
      if (const auto accepted = snapshot_accepted::decode(frame)) {
        hear_answer(from, {snapshot_frame::accepted, accepted->checksum, accepted->offset});
      }
      co_return;
    case snapshot_frame::done:
      if (const auto done = snapshot_done::decode(frame)) hear_answer(from, {snapshot_frame::done, done->checksum, 0});
      co_return;
    case snapshot_frame::refused:
      if (const auto refused = snapshot_refused::decode(frame)) {
        hear_answer(from, {snapshot_frame::refused, refused->checksum, 0});
      }
      co_return;
  }
}

// An answer about the snapshot before may come when the next one is offered already.
template <environment Env, state_machine Machine>
void basic_node<Env, Machine>::hear_answer(member& from, snapshot_answer said) {
  if (said.checksum != from.offered && !mutated(mutant::take_late_snapshot_answer)) return;
  from.answer = said;
  news_.notify_all();
}

template <environment Env, state_machine Machine>
awaitable<void> basic_node<Env, Machine>::accept_offer(const snapshot_offer& offer, channel_type& over) {
  bool wanted = false;
  const auto what = [&](core_type& core) -> const effects& {
    const effects& doing = core.receive(offer.announced, now());
    wanted = doing.offer_accepted;
    return doing;
  };
  if (const std::error_code ec = co_await input(what)) throw std::system_error(ec);
  if (!wanted) {
    snapshot_refused refused;
    refused.checksum = offer.checksum;
    const encoded_words words = refused.encode();
    co_await over.send(static_cast<std::uint8_t>(snapshot_frame::refused), 0, words.view());
    co_return;
  }
  snapshot_id id;
  id.at = offer.announced.at;
  id.bytes = offer.bytes;
  id.checksum = offer.checksum;
  bool complete = false;
  while (receiver_busy_) (void)co_await news_.wait();
  {
    const receiver_turn held(*this);
    // What has come of it over another connection need not come again.
    if (!receiver_ || receiver_->id() != id) {
      receiver_.reset();
      receiver_ = co_await store_->receive(id);
    }
    complete = receiver_->complete();
    if (complete) co_await deaf(install());
  }
  if (complete) {
    co_await tell_of_installation(offer.checksum, over);
    co_return;
  }
  snapshot_accepted accepted;
  accepted.checksum = offer.checksum;
  accepted.offset = receiver_ ? receiver_->offset() : 0;
  const encoded_words words = accepted.encode();
  co_await over.send(static_cast<std::uint8_t>(snapshot_frame::accepted), 0, words.view());
}

template <environment Env, state_machine Machine>
awaitable<void> basic_node<Env, Machine>::take_chunk(const snapshot_chunk& chunk, channel_type& over) {
  while (receiver_busy_) (void)co_await news_.wait();
  if (!receiver_ || receiver_->id().checksum != chunk.checksum) co_return;  // of one given up
  {
    const receiver_turn held(*this);
    try {
      co_await receiver_->write(chunk.offset, chunk.bytes);
    } catch (const std::system_error& error) {
      const bool goes_on = is_cancelled(error.code()) || error.code() == errc::malformed;
      if (!goes_on) receiver_.reset();
      throw;
    }
    if (!receiver_->complete()) co_return;
    co_await deaf(install());
  }
  co_await tell_of_installation(chunk.checksum, over);
}

// The snapshot is durable before the log forgets what it stands for (D1, D3); a crash in between is mended by open().
template <environment Env, state_machine Machine>
awaitable<void> basic_node<Env, Machine>::install() {
  const auto receiver = std::exchange(receiver_, nullptr);
  const snapshot_info info = co_await receiver->finish();
  while (machine_busy_ || busy_) (void)co_await news_.wait();
  if (!core_->needs_snapshot(info.id.at)) co_return;
  {
    const machine_turn alone(*this);
    const turn held(*this);
    try {
      restoring_ = true;
      co_await restore(info.id.at.index);
      restoring_ = false;
      drop_proposals(0, errc::timed_out);
      co_await log_->reset(info.id.at);
      apply_place_ = {};
      apply_place_.next = info.id.at.index + 1;
      perform(core_->installed(info.id.at, info.config, now()));
    } catch (...) {
      fail(std::current_exception());
      throw;
    }
  }
  applied_news_.notify_up_to(applied_.index);
  co_await store_->remove_older(1);
}

template <environment Env, state_machine Machine>
awaitable<void> basic_node<Env, Machine>::tell_of_installation(std::uint64_t checksum, channel_type& over) {
  snapshot_done done;
  done.checksum = checksum;
  const encoded_words words = done.encode();
  co_await over.send(static_cast<std::uint8_t>(snapshot_frame::done), 0, words.view());
}

template <environment Env, state_machine Machine>
awaitable<void> basic_node<Env, Machine>::restore(index_t index) {
  const auto reader = store_->read(index);
  stored_source from(*reader);
  const bool wanted = !options_.witness && !(core_ && mutated(mutant::install_without_restore));
  if (wanted) co_await machine_.restore(from);
  applied_ = reader->info().id.at;
  applied_members_ = reader->info().config;
  applied_bytes_ = 0;
  snapshot_index_ = index;
}

}  // namespace lockstep::raft
