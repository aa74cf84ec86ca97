// source: ships a log to followers. The protocol and its decisions are in catchup/core.hpp.
//
//   catchup_source source(env, log);
//   // for each accepted and handshaken connection:
//   co_await source.serve(channel);
//
// Promises. A follower gets exactly the records behind the position that it presented, in order, as the bytes that lie
// in this log; a follower whose history is not this log's is told the last common position; one that retention has
// passed by is sent the latest snapshot, announced as such. Nothing is skipped silently.
// What it does not promise. It does not wait for followers: retention and acknowledgement quorums are the program's
// business (followers() says who has what). It does not verify what it ships; the follower does.
#pragma once

#include "lockstep/catchup/core.hpp"
#include "lockstep/core/task_group.hpp"
#include "lockstep/frame/channel.hpp"
#include "lockstep/log/cursor.hpp"

#include <list>
#include <memory>
#include <string>

namespace lockstep {

struct source_options {
  source_options() {}

  visibility ship = visibility::durable;                ///< staged ships records that a crash of this node may lose
  std::size_t max_batch_bytes = std::size_t{256} << 10; ///< of one records frame; a larger record goes alone
  duration heartbeat_interval = std::chrono::milliseconds(500);
};

/// A snapshot as it is streamed: bytes that stand for all records up to `upto`.
struct snapshot_image {
  snapshot_image() {}

  position upto;
  bytes_view bytes;                   ///< valid as long as `owner` lives
  std::shared_ptr<const void> owner;
};

/// Where a source finds the snapshot for followers that its log can't serve any more.
class snapshot_provider {
 public:
  virtual ~snapshot_provider() = default;
  /// The latest durable snapshot; nothing when there is none.
  virtual std::optional<snapshot_image> latest() = 0;
};

/// What a source knows of one connected follower.
struct follower_status {
  node_id node = 0;
  std::string address;
  catchup::mode mode = catchup::mode::push;
  position acked;                     ///< everything up to here is durable at the follower
  bool subscribed = false;            ///< records are being shipped
};

/// Serves any number of followers. The log, the environment and the snapshot provider outlive it.
/// Thread safety: none; everything on the environment's executor.
template <environment Env>
class basic_source {
 public:
  basic_source(Env& env, basic_append_log<Env>& log, source_options options = {}, snapshot_provider* snapshots = nullptr)
      : env_(env), log_(log), options_(options), snapshots_(snapshots) {}
  basic_source(const basic_source&) = delete;
  basic_source& operator=(const basic_source&) = delete;

  /// Serves one follower on a channel that has completed its handshake; ends with the channel.
  /// @param channel  outlives this call, which is the only one that receives from it.
  /// @throws system_error: what the channel or the log said; errc::malformed, snapshot_required (no snapshot can stand
  ///   for what the follower lacks; the follower is told). A follower that closes its end is no error.
  /// Cancellation: ends the service; the channel may then be closed.
  awaitable<void> serve(basic_channel<Env>& channel) {
    session serving(*this, channel);
    serving.tasks.spawn(serving.hear());
    serving.tasks.spawn(serving.ship());
    serving.tasks.spawn(serving.beat());
    std::error_code end;
    try {
      co_await serving.tasks.join_passing_cancellation();
    } catch (const std::system_error& error) {
      end = error.code();
      if (end != asio::error::eof) throw;
    }
  }

  /// The followers connected now, in the order of their connections.
  [[nodiscard]] const std::list<follower_status>& followers() const noexcept { return followers_; }

 private:
  struct session {
    session(basic_source& source, basic_channel<Env>& on)
        : of(source),
          channel(on),
          status(source.followers_.emplace(source.followers_.end())),
          changed(source.env_.get_executor()),
          beating(source.env_),
          tasks(source.env_.get_executor()) {
      status->node = on.peer().node;
      status->address = on.peer().address;
    }
    session(const session&) = delete;
    session& operator=(const session&) = delete;
    ~session() { of.followers_.erase(status); }

    enum class stage { idle, searching, shipping, sending_snapshot };

    basic_source& of;
    basic_channel<Env>& channel;
    typename std::list<follower_status>::iterator status;
    stage at = stage::idle;
    wait_list changed;                       // stage or fetch
    typename Env::timer beating;
    std::optional<basic_cursor<Env>> reader; // while shipping
    std::optional<catchup::divergence_search> search;
    catchup::subscribe_message subscription;
    std::optional<catchup::fetch_message> fetch;
    task_group tasks;                        // last: its coroutines use the rest

    [[nodiscard]] const position& shippable() const {
      return of.options_.ship == visibility::durable ? of.log_.acked() : of.log_.last();
    }

    template <class Message>
    awaitable<void> say(catchup::message kind, Message message) {
      const auto bytes = message.encode();
      co_await channel.send(static_cast<std::uint8_t>(kind), 0, bytes_view(bytes));
    }
    awaitable<void> say_heartbeat() {
      catchup::heartbeat_message message;
      message.last = shippable();
      message.clock_ns = static_cast<std::uint64_t>(of.env_.wall_now().time_since_epoch().count());
      co_await say(catchup::message::heartbeat, message);
    }

    void enter(stage next) {
      at = next;
      status->subscribed = next == stage::shipping;
      changed.notify_all();
    }

    // What the follower says.
    awaitable<void> hear() {
      for (;;) {
        const frame_view frame = co_await channel.receive();
        switch (static_cast<catchup::message>(frame.kind)) {
          case catchup::message::subscribe: {
            const auto message = catchup::subscribe_message::decode(frame.payload);
            if (!message || at != stage::idle) throw std::system_error(errc::malformed, "subscribe");
            subscription = *message;
            co_await answer();
            break;
          }
          case catchup::message::probe_reply: {
            const auto message = catchup::position_message::decode(frame.payload);
            if (!message || at != stage::searching) throw std::system_error(errc::malformed, "probe reply");
            co_await compare(message->position);
            break;
          }
          case catchup::message::ack: {
            const auto message = catchup::position_message::decode(frame.payload);
            if (!message) throw std::system_error(errc::malformed, "ack");
            status->acked = message->position;
            break;
          }
          case catchup::message::fetch: {
            const auto message = catchup::fetch_message::decode(frame.payload);
            if (!message || fetch) throw std::system_error(errc::malformed, "fetch");
            fetch = *message;
            changed.notify_all();
            break;
          }
          default: throw std::system_error(errc::malformed, "catch-up message " + std::to_string(frame.kind));
        }
      }
    }

    awaitable<void> answer() {
      status->mode = subscription.mode;
      fetch.reset();
      const index_t index = subscription.have.index;
      std::optional<position> own;
      if (index >= of.log_.base().index && index <= shippable().index) own = of.log_.position_at(index);
      const catchup::decision decided = catchup::decide(subscription, of.log_.base(), shippable(), own);
      switch (decided.answer) {
        case catchup::answer::accept: {
          status->acked = subscription.have;
          reader.emplace(of.log_, index + 1, of.options_.ship);
          catchup::position_message accepted;
          accepted.position = subscription.have;
          co_await say(catchup::message::accepted, accepted);
          if (subscription.mode == catchup::mode::push) co_await say_heartbeat();
          enter(stage::shipping);
          break;
        }
        case catchup::answer::search:
          search.emplace(decided.lowest, decided.highest);
          enter(stage::searching);
          co_await probe();
          break;
        case catchup::answer::snapshot_required: enter(stage::sending_snapshot); break;
      }
    }

    awaitable<void> probe() {
      if (const auto index = search->next_probe()) {
        catchup::probe_message message;
        message.index = *index;
        co_await say(catchup::message::probe, message);
        co_return;
      }
      if (!search->common()) {
        enter(stage::sending_snapshot);
        co_return;
      }
      catchup::position_message message;
      // Compaction may have passed the common position while the search went on: the follower will then be told so.
      message.position = of.log_.position_at(*search->common()).value_or(of.log_.base());
      enter(stage::idle);
      co_await say(catchup::message::diverged, message);
    }

    awaitable<void> compare(position theirs) {
      const auto expected = search->next_probe();
      if (!expected || theirs.index != *expected) throw std::system_error(errc::malformed, "probe reply");
      const std::optional<position> own =
          *expected >= of.log_.base().index ? of.log_.position_at(*expected) : std::optional<position>();
      search->answer(*expected, own == theirs);
      co_await probe();
    }

    awaitable<void> beat() {
      for (;;) {
        beating.expires_after(of.options_.heartbeat_interval);
        const std::error_code ec = co_await beating.wait();
        if (ec) throw std::system_error(ec);
        if (at == stage::shipping && subscription.mode == catchup::mode::push) co_await say_heartbeat();
        changed.notify_all();  // a long poll may be over
      }
    }

    awaitable<void> ship() {
      for (;;) {
        while (at != stage::shipping && at != stage::sending_snapshot) co_await wait_for_change();
        if (at == stage::sending_snapshot) {
          co_await send_snapshot();
          continue;
        }
        bool passed_by = false;
        try {
          if (subscription.mode == catchup::mode::push) {
            co_await push();
          } else {
            co_await answer_fetch();
          }
        } catch (const std::system_error& error) {
          if (error.code() == errc::diverged) throw std::system_error(errc::closed, "the log was rewound");
          if (error.code() != errc::compacted) throw;
          passed_by = true;
        }
        if (passed_by) enter(stage::sending_snapshot);
      }
    }

    awaitable<void> wait_for_change() {
      const std::error_code ec = co_await changed.wait();
      if (ec) throw std::system_error(ec);
    }

    // The bytes go from the log's memory or mapping to the socket; the batch holds them for as long.
    awaitable<void> send_records(record_batch batch) {
      co_await channel.send(static_cast<std::uint8_t>(catchup::message::records), 0, batch.bytes(), frame_flag::self_checked);
    }

    awaitable<void> push() {
      record_batch batch = co_await reader->next(of.options_.max_batch_bytes);
      co_await send_records(std::move(batch));
    }

    awaitable<void> answer_fetch() {
      while (!fetch) co_await wait_for_change();
      const catchup::fetch_message asked = *fetch;
      const time_point until = of.env_.now() + duration(static_cast<std::int64_t>(asked.wait_ns));
      const std::size_t limit = std::min<std::size_t>(asked.max_bytes, of.options_.max_batch_bytes);
      record_batch batch = reader->try_next(limit);
      if (batch.empty() && of.env_.now() < until) {
        // The wait ends by a record or by the time: two tasks, the first to end notifies.
        waiting_for_records waiting(*this, until);
        co_await waiting.end();
        batch = reader->try_next(limit);
      }
      fetch.reset();
      if (batch.empty()) {
        co_await say_heartbeat();
      } else {
        co_await send_records(std::move(batch));
      }
    }

    // A long poll's wait.
    struct waiting_for_records {
      waiting_for_records(session& in, time_point limit)
          : of(in), until(limit), timer(in.of.env_), tasks(in.of.env_.get_executor()) {}
      session& of;
      time_point until;
      typename Env::timer timer;
      task_group tasks;

      awaitable<void> end() {
        tasks.spawn(wait_for_record());
        tasks.spawn(wait_for_time());
        co_await tasks.join_passing_cancellation();
      }
      awaitable<void> wait_for_record() {
        const std::error_code ec = co_await of.of.log_.readable(of.reader->next_index(), of.of.options_.ship);
        if (ec && !is_cancelled(ec)) throw std::system_error(ec, of.of.log_.directory());
        tasks.cancel();
      }
      awaitable<void> wait_for_time() {
        timer.expires_at(until);
        (void)co_await timer.wait();
        tasks.cancel();
      }
    };

    awaitable<void> send_snapshot() {
      std::optional<snapshot_image> image;
      if (of.snapshots_) image = of.snapshots_->latest();
      if (image && image->upto.index < of.log_.base().index) image.reset();
      catchup::snapshot_message announced;
      if (!image) {
        co_await say(catchup::message::snapshot, announced);
        co_await channel.flush();
        throw std::system_error(errc::snapshot_required, "for follower " + status->address);
      }
      announced.upto = image->upto;
      announced.size = image->bytes.size();
      co_await say(catchup::message::snapshot, announced);
      bytes_view rest = image->bytes;
      while (!rest.empty()) {
        const bytes_view chunk = rest.first(std::min(rest.size(), of.options_.max_batch_bytes));
        co_await channel.send(static_cast<std::uint8_t>(catchup::message::snapshot_chunk), 0, chunk);
        rest = rest.subspan(chunk.size());
      }
      enter(stage::idle);
      co_await say(catchup::message::snapshot_end, announced);
    }
  };

  Env& env_;
  basic_append_log<Env>& log_;
  const source_options options_;
  snapshot_provider* snapshots_;
  std::list<follower_status> followers_;
};

using catchup_source = basic_source<real::env>;

}  // namespace lockstep
