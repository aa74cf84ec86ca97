// follower: keeps a log equal to a source's. The protocol and its decisions are in catchup/core.hpp.
//
//   catchup_follower follower(env, log, events);
//   // for each connection (see rpc/link.hpp), after its handshake:
//   co_await follower.run(channel);
//
// The records go into this node's log, as the same bytes; a program applies them by reading its log with a cursor, so
// that state and apply are one commit.
//
// Promises. Each record is verified and appended once and in order, whenever the connection or either process ends;
// what was acknowledged to the source is durable here. Records that the source's history does not hold are never mixed
// with it: the follower stops, or saves them aside and cuts them off, and says so. A source whose life is older than
// what this log holds is refused.
// What it does not promise. It does not choose the source, and it does not know whether the source is the right one
// beyond its epoch. Between a snapshot's end and the log's reset a crash leaves both: the program compares them at start.
#pragma once

#include "lockstep/catchup/core.hpp"
#include "lockstep/core/task_group.hpp"
#include "lockstep/frame/channel.hpp"
#include "lockstep/log/append_log.hpp"

#include <string>

namespace lockstep {

/// What a follower does with records of its own that the source does not have.
enum class repair {
  stop,               ///< run() throws errc::diverged and nothing is changed
  save_and_truncate,  ///< they are written to a file in the log's directory and cut off; then catch-up goes on
};

struct follower_options {
  follower_options() {}

  catchup::mode mode = catchup::mode::push;
  duration poll_interval = std::chrono::seconds(1);      ///< pull: between a fetch that found nothing and the next
  duration long_poll{0};                                 ///< pull: how long the source may wait for records; replaces
                                                         ///< poll_interval when not 0
  std::size_t max_batch_bytes = std::size_t{256} << 10;  ///< pull: of one fetch
  repair on_divergence = repair::stop;
};

/// What a follower tells its program. All calls are on the environment's executor; views are valid during the call.
class follower_events {
 public:
  virtual ~follower_events() = default;

  /// The source continues behind `have`; `source_last` is its last record now.
  virtual void subscribed(const position& have, index_t source_last) { (void)have, (void)source_last; }
  /// Records first..last arrived, were verified and staged; they are not durable yet.
  virtual void received(index_t first, index_t last, std::size_t bytes) { (void)first, (void)last, (void)bytes; }
  /// Everything that the source had at its last heartbeat is durable here. Told when it becomes so.
  virtual void caught_up(const position& at) { (void)at; }
  /// This log and the source's agree up to `common`; the records first_lost..last_lost of this log are not the source's.
  /// @param saved_to  the file that they were written to; empty when the follower stops.
  virtual void diverged(const position& common, index_t first_lost, index_t last_lost, const std::string& saved_to) {
    (void)common, (void)first_lost, (void)last_lost, (void)saved_to;
  }
  /// The source sends a snapshot of `size` bytes in place of records up to `upto`. A program that takes none throws.
  virtual awaitable<void> snapshot_begin(position upto, std::uint64_t size) {
    (void)upto, (void)size;
    throw std::system_error(errc::snapshot_required, "this follower takes no snapshots");
    co_return;
  }
  virtual awaitable<void> snapshot_chunk(bytes_view bytes) {
    (void)bytes;
    co_return;
  }
  /// The snapshot is complete: make it durable before returning. Afterwards the log is reset behind it.
  virtual awaitable<void> snapshot_end() { co_return; }
};

/// What a follower knows about itself.
struct follower_state {
  bool connected = false;         ///< run() is under way and the source accepted
  bool caught_up = false;
  std::uint64_t lag_records = 0;  ///< by the source's last heartbeat
  duration lag_time{0};           ///< for how long, by the source's clock, it has had records that are not durable here
  index_t source_last = 0;
  wall_time last_contact{};       ///< of this node's clock; the epoch when there never was any
};

/// Follows one source at a time. The log, the environment and the events outlive it.
/// Thread safety: none; everything on the environment's executor.
template <environment Env>
class basic_follower {
 public:
  basic_follower(Env& env, basic_append_log<Env>& log, follower_events& events, follower_options options = {})
      : env_(env), log_(log), events_(events), options_(options), staged_(env.get_executor()) {}
  basic_follower(const basic_follower&) = delete;
  basic_follower& operator=(const basic_follower&) = delete;

  /// Follows the source on a channel that has completed its handshake, until the channel ends.
  /// @param channel  outlives this call, which is the only one that receives from it.
  /// @throws system_error: what the channel or the log said (asio::error::eof when the source closed), errc::diverged,
  ///   stale_epoch (the source's life is older than this log's), snapshot_required (the source no longer keeps what is
  ///   missing here and has no snapshot), malformed or corrupt (the source sent what does not continue this log).
  ///   After any of them, run() may be called again with a new channel.
  /// Cancellation: what was received is kept; the channel may then be closed.
  awaitable<void> run(basic_channel<Env>& channel) {
    task_group tasks(env_.get_executor());
    tasks.spawn(hear(channel));
    tasks.spawn(acknowledge(channel));
    const connected_mark mark(*this);
    co_await tasks.join_passing_cancellation();
  }

  [[nodiscard]] follower_state state() const {
    follower_state result;
    result.connected = accepted_;
    result.caught_up = caught_up_;
    result.lag_records = lag_.records();
    result.lag_time = lag_.time();
    result.source_last = lag_.source_last();
    result.last_contact = last_contact_;
    return result;
  }

 private:
  struct connected_mark {
    explicit connected_mark(basic_follower& of) : self(of) {}
    connected_mark(const connected_mark&) = delete;
    ~connected_mark() { self.accepted_ = self.caught_up_ = false; }
    basic_follower& self;
  };

  template <class Message>
  awaitable<void> say(basic_channel<Env>& channel, catchup::message kind, Message message) {
    const auto bytes = message.encode();
    co_await channel.send(static_cast<std::uint8_t>(kind), 0, bytes_view(bytes));
  }

  awaitable<void> subscribe(basic_channel<Env>& channel) {
    co_await log_.durable(log_.last().index);
    catchup::subscribe_message message;
    message.have = log_.last();
    message.base = log_.base().index;
    message.mode = options_.mode;
    accepted_ = caught_up_ = announced_ = false;
    lag_.has(log_.last().index);
    co_await say(channel, catchup::message::subscribe, message);
  }

  template <class Message>
  static Message expect(std::optional<Message> decoded, const char* what) {
    if (!decoded) throw std::system_error(errc::malformed, what);
    return *decoded;
  }

  // What the source says.
  awaitable<void> hear(basic_channel<Env>& channel) {
    co_await subscribe(channel);
    for (;;) {
      const frame_view frame = co_await channel.receive();
      last_contact_ = env_.wall_now();
      switch (static_cast<catchup::message>(frame.kind)) {
        case catchup::message::accepted: {
          const auto message = expect(catchup::position_message::decode(frame.payload), "accepted");
          if (message.position != log_.last()) throw std::system_error(errc::malformed, "accepted another position");
          accepted_ = true;
          if (options_.mode == catchup::mode::pull) co_await fetch(channel);
          break;
        }
        case catchup::message::records:
          co_await take_records(frame.payload);
          if (options_.mode == catchup::mode::pull) co_await fetch(channel);
          break;
        case catchup::message::heartbeat: {
          hear_heartbeat(expect(catchup::heartbeat_message::decode(frame.payload), "heartbeat"));
          if (options_.mode == catchup::mode::pull) {
            if (options_.long_poll.count() == 0) co_await rest();
            co_await fetch(channel);
          }
          break;
        }
        case catchup::message::probe: {
          const auto message = expect(catchup::probe_message::decode(frame.payload), "probe");
          const auto own = message.index < log_.base().index ? std::nullopt : log_.position_at(message.index);
          if (!own) throw std::system_error(errc::malformed, "probe for an index that this log does not hold");
          catchup::position_message reply;
          reply.position = *own;
          co_await say(channel, catchup::message::probe_reply, reply);
          break;
        }
        case catchup::message::diverged: {
          const auto message = expect(catchup::position_message::decode(frame.payload), "diverged");
          co_await cut_back(message.position);
          co_await subscribe(channel);
          break;
        }
        case catchup::message::snapshot: {
          const auto message = expect(catchup::snapshot_message::decode(frame.payload), "snapshot");
          co_await begin_snapshot(message);
          break;
        }
        case catchup::message::snapshot_chunk:
          if (frame.payload.size() > snapshot_left_) throw std::system_error(errc::malformed, "snapshot too long");
          snapshot_left_ -= frame.payload.size();
          co_await events_.snapshot_chunk(frame.payload);
          break;
        case catchup::message::snapshot_end: {
          const auto message = expect(catchup::snapshot_message::decode(frame.payload), "snapshot end");
          if (message.upto != snapshot_upto_ || snapshot_left_ != 0) {
            throw std::system_error(errc::malformed, "snapshot cut short");
          }
          co_await events_.snapshot_end();
          co_await log_.reset(message.upto);
          co_await subscribe(channel);
          break;
        }
        default: throw std::system_error(errc::malformed, "catch-up message " + std::to_string(frame.kind));
      }
    }
  }

  awaitable<void> take_records(bytes_view records) {
    const index_t first = log_.last().index + 1;
    const std::size_t bytes = records.size();
    if (!accepted_) throw std::system_error(errc::malformed, "records before acceptance");
    while (!records.empty()) {
      bool full = false;
      try {
        const log_codec::record_verdict verdict = log_.append_encoded(records);
        if (verdict != log_codec::record_verdict::ok) {
          const bool damaged = verdict == log_codec::record_verdict::bad_chain ||
                               verdict == log_codec::record_verdict::bad_header ||
                               verdict == log_codec::record_verdict::bad_padding;
          throw std::system_error(damaged ? errc::corrupt : errc::malformed,
                                  "record " + std::to_string(log_.last().index + 1) + " from the source: " +
                                      log_codec::explain(verdict));
        }
      } catch (const std::system_error& error) {
        if (error.code() != errc::overloaded) throw;
        full = true;
      }
      staged_.notify_all();
      if (full) co_await log_.durable(log_.last().index);
    }
    events_.received(first, log_.last().index, bytes);
  }

  void hear_heartbeat(const catchup::heartbeat_message& message) {
    if (message.last.epoch < log_.last().epoch) {
      throw std::system_error(errc::stale_epoch, "the source is at epoch " + std::to_string(message.last.epoch) +
                                                     ", this log at " + std::to_string(log_.last().epoch));
    }
    lag_.heard(message.last.index, std::chrono::nanoseconds(static_cast<std::int64_t>(message.clock_ns)));
    if (!announced_) events_.subscribed(log_.last(), message.last.index);
    announced_ = true;
    update_caught_up();
  }

  void update_caught_up() {
    lag_.has(log_.acked().index);
    const bool now = accepted_ && announced_ && lag_.records() == 0;
    if (now && !caught_up_) {
      caught_up_ = true;
      events_.caught_up(log_.acked());
    }
    caught_up_ = now;
  }

  awaitable<void> fetch(basic_channel<Env>& channel) {
    catchup::fetch_message message;
    message.max_bytes = options_.max_batch_bytes;
    message.wait_ns = static_cast<std::uint64_t>(options_.long_poll.count());
    co_await say(channel, catchup::message::fetch, message);
  }

  awaitable<void> rest() {
    typename Env::timer timer(env_);
    timer.expires_after(options_.poll_interval);
    const std::error_code ec = co_await timer.wait();
    if (ec) throw std::system_error(ec);
  }

  // Tells the source what is durable here, once a group commit.
  awaitable<void> acknowledge(basic_channel<Env>& channel) {
    for (;;) {
      while (log_.acked().index >= log_.last().index) {
        const std::error_code ec = co_await staged_.wait();
        if (ec) throw std::system_error(ec);
      }
      co_await log_.durable(log_.last().index);
      update_caught_up();
      catchup::position_message message;
      message.position = log_.acked();
      co_await say(channel, catchup::message::ack, message);
    }
  }

  awaitable<void> cut_back(position common) {
    const index_t first_lost = common.index + 1;
    const index_t last_lost = log_.last().index;
    const std::optional<position> own =
        common.index < log_.base().index ? std::nullopt : log_.position_at(common.index);
    if (own != common || last_lost < first_lost) throw std::system_error(errc::malformed, "diverged");
    if (options_.on_divergence == repair::stop) {
      events_.diverged(common, first_lost, last_lost, std::string());
      throw std::system_error(errc::diverged, "records " + std::to_string(first_lost) + " to " +
                                                  std::to_string(last_lost) + " are not the source's");
    }
    const std::string saved = co_await save_records(first_lost);
    co_await log_.truncate_suffix(common.index);
    events_.diverged(common, first_lost, last_lost, saved);
  }

  // D1: complete and durable before the records are cut off. The file holds encoded records as a segment does.
  awaitable<std::string> save_records(index_t first) {
    const std::string name = log_.directory() + "/diverged-" + std::to_string(first) + "-" +
                             std::to_string(log_.last().chain) + ".records";
    std::error_code ec;
    typename Env::file to = env_.open(name + ".tmp", open_mode::truncate, ec);
    typename basic_append_log<Env>::read_place place;
    place.next = first;
    std::uint64_t offset = 0;
    while (!ec && place.next <= log_.last().index) {
      const record_batch batch = log_.read(place, std::size_t{1} << 20, visibility::staged);
      const bytes_view bytes = batch.bytes();
      to.pwrite(offset, {&bytes, 1}, ec);
      offset += bytes.size();
    }
    if (!ec) ec = co_await to.datasync(sync_on::disk_thread);
    if (!ec) env_.rename(name + ".tmp", name, ec);
    if (!ec) ec = co_await env_.sync_directory(log_.directory(), sync_on::disk_thread);
    if (ec) throw std::system_error(ec, "cannot save diverged records to " + name);
    co_return name;
  }

  awaitable<void> begin_snapshot(catchup::snapshot_message announced) {
    accepted_ = false;
    if (announced.upto.index == 0) {
      throw std::system_error(errc::snapshot_required, "the source has none");
    }
    if (announced.upto.epoch < log_.last().epoch) {
      throw std::system_error(errc::stale_epoch, "the source's snapshot is of an older epoch than this log");
    }
    snapshot_upto_ = announced.upto;
    snapshot_left_ = announced.size;
    co_await events_.snapshot_begin(announced.upto, announced.size);
  }

  Env& env_;
  basic_append_log<Env>& log_;
  follower_events& events_;
  const follower_options options_;
  wait_list staged_;
  catchup::lag_tracker lag_;
  bool accepted_ = false;
  bool announced_ = false;   // the first heartbeat of this subscription was heard
  bool caught_up_ = false;
  wall_time last_contact_{};
  position snapshot_upto_;
  std::uint64_t snapshot_left_ = 0;
};

using catchup_follower = basic_follower<real::env>;

}  // namespace lockstep
