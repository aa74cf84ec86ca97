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
struct basic_node<Env, Machine>::machine_turn {
  explicit machine_turn(basic_node& in) : of(in) { of.machine_busy_ = true; }
  machine_turn(const machine_turn&) = delete;
  ~machine_turn() {
    of.machine_busy_ = false;
    of.news_.notify_all();
  }
  basic_node& of;
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
    snapshot_wanted_ = 0;
    applied_bytes_ = 0;
    const position at = applied_;
    {
      const auto writer = store_->begin(at, core_->members_at(at.index));
      stored_sink to(*writer);
      co_await machine_.snapshot(to);
      (void)co_await writer->finish();
    }
    snapshot_index_ = at.index;
    co_await store_->remove_older(1);
    retention kept;
    kept.max_bytes = std::max<std::uint64_t>(options_.keep_log_bytes, 1);
    (void)co_await log_->apply_retention(kept, at.index);
  }
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
  co_await over.send(static_cast<std::uint8_t>(message_type::snapshot_offer), 0, bytes.view());

  // Until it is accepted, found needless, or refused; what has become of it then the follower's acknowledgement says.
  while (!target.answer && is_sending(to)) (void)co_await news_.wait();
  if (!is_sending(to)) co_return;
  if (target.answer->kind == snapshot_frame::accepted && target.answer->checksum == info.id.checksum) {
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

template <environment Env, state_machine Machine>
awaitable<bool> basic_node<Env, Machine>::hear_of_snapshot(const frame_view& frame, member& from, channel_type& over) {
  if (frame.kind == static_cast<std::uint8_t>(message_type::snapshot_offer)) {
    const std::optional<snapshot_offer> offer = decode_snapshot_offer(frame);
    if (!offer || offer->announced.to != options_.core.id) throw std::system_error(errc::malformed, "snapshot offer");
    co_await accept_offer(*offer, from, over);
    co_return true;
  }
  switch (static_cast<snapshot_frame>(frame.kind)) {
    case snapshot_frame::chunk: {
      const std::optional<snapshot_chunk> chunk = snapshot_chunk::decode(frame);
      if (!chunk) throw std::system_error(errc::malformed, "snapshot chunk");
      if (!from.receiver || from.receiver->id().checksum != chunk->checksum) co_return true;  // of one given up
      co_await from.receiver->write(chunk->offset, chunk->bytes);
      if (from.receiver->complete()) co_await install(from, over);
      co_return true;
    }
    case snapshot_frame::accepted:
      if (const auto accepted = snapshot_accepted::decode(frame)) {
        from.answer = snapshot_answer{snapshot_frame::accepted, accepted->checksum, accepted->offset};
      }
      break;
    case snapshot_frame::done:
      if (const auto done = snapshot_done::decode(frame)) {
        from.answer = snapshot_answer{snapshot_frame::done, done->checksum, 0};
      }
      break;
    case snapshot_frame::refused:
      if (const auto refused = snapshot_refused::decode(frame)) {
        from.answer = snapshot_answer{snapshot_frame::refused, refused->checksum, 0};
      }
      break;
    default: co_return false;
  }
  news_.notify_all();
  co_return true;
}

template <environment Env, state_machine Machine>
awaitable<void> basic_node<Env, Machine>::accept_offer(const snapshot_offer& offer, member& from, channel_type& over) {
  bool wanted = false;
  const auto what = [&](core_type& core) -> const effects& {
    const effects& doing = core.receive(offer.announced, now());
    wanted = doing.offer_accepted;
    return doing;
  };
  co_await input(what);
  if (!wanted) {
    snapshot_refused refused;
    refused.checksum = offer.checksum;
    const encoded_words words = refused.encode();
    co_await over.send(static_cast<std::uint8_t>(snapshot_frame::refused), 0, words.view());
    co_return;
  }
  for (auto& [id, other] : members_) other.receiver.reset();  // one at a time
  snapshot_id id;
  id.at = offer.announced.at;
  id.bytes = offer.bytes;
  id.checksum = offer.checksum;
  from.receiver = co_await store_->receive(id);
  from.offered_config = offer.config;
  if (from.receiver->complete()) {
    co_await install(from, over);
    co_return;
  }
  snapshot_accepted accepted;
  accepted.checksum = offer.checksum;
  accepted.offset = from.receiver->offset();
  const encoded_words words = accepted.encode();
  co_await over.send(static_cast<std::uint8_t>(snapshot_frame::accepted), 0, words.view());
}

// The snapshot is durable before the log forgets what it stands for (D1, D3); a crash in between is mended by open().
template <environment Env, state_machine Machine>
awaitable<void> basic_node<Env, Machine>::install(member& from, channel_type& over) {
  const auto receiver = std::exchange(from.receiver, nullptr);
  const snapshot_info info = co_await receiver->finish();
  while (machine_busy_ || busy_) (void)co_await news_.wait();
  if (core_->needs_snapshot(info.id.at)) {
    const machine_turn alone(*this);
    const turn held(*this);
    try {
      co_await restore(info.id.at.index);
      drop_proposals(0, errc::timed_out);
      co_await log_->reset(info.id.at);
      apply_place_ = {};
      apply_place_.next = info.id.at.index + 1;
      perform(core_->installed(info.id.at, info.config, now()));
    } catch (...) {
      fail(std::current_exception());
      throw;
    }
    co_await store_->remove_older(1);
  }
  snapshot_done done;
  done.checksum = info.id.checksum;
  const encoded_words words = done.encode();
  co_await over.send(static_cast<std::uint8_t>(snapshot_frame::done), 0, words.view());
}

template <environment Env, state_machine Machine>
awaitable<void> basic_node<Env, Machine>::restore(index_t index) {
  const auto reader = store_->read(index);
  stored_source from(*reader);
  co_await machine_.restore(from);
  applied_ = reader->info().id.at;
  applied_bytes_ = 0;
  snapshot_index_ = index;
}

}  // namespace lockstep::raft
