// follower_session: one connection of a follower to a source. See catchup/follower.hpp.
#pragma once

#include "lockstep/catchup/core.hpp"
#include "lockstep/catchup/follower_options.hpp"
#include "lockstep/core/mutant.hpp"
#include "lockstep/core/task_group.hpp"
#include "lockstep/frame/channel.hpp"
#include "lockstep/log/append_log.hpp"

#include <algorithm>
#include <array>
#include <chrono>
#include <memory>
#include <optional>
#include <string>

namespace lockstep::detail {

/// What the sessions of one follower have in common.
template <environment Env>
struct follower_parts {
  Env& env;
  basic_append_log<Env>& log;
  follower_events& events;
  const follower_options options;
};

/// What outlives a session.
struct follower_progress {
  catchup::lag_tracker lag;
  wall_time last_contact{};
  bool running = false;
  bool connected = false;
  bool caught_up = false;
};

/// Three coroutines: one hears, one acknowledges, one asks (pull). Lies in the frame of basic_follower::run(); its
/// destructor touches nothing outside but the progress, which it shares.
template <environment Env>
class follower_session {
 public:
  follower_session(const follower_parts<Env>& of, std::shared_ptr<follower_progress> progress,
                   basic_channel<Env>& connection)
      : of_(of),
        channel_(connection),
        progress_(std::move(progress)),
        staged_(of.env.get_executor()),
        answered_(of.env.get_executor()),
        tasks_(of.env.get_executor()) {
    progress_->running = true;
  }
  follower_session(const follower_session&) = delete;
  follower_session& operator=(const follower_session&) = delete;
  ~follower_session() { progress_->running = progress_->connected = progress_->caught_up = false; }

  /// Follows until something ends it, and throws that.
  awaitable<void> run() {
    tasks_.spawn(hear());
    tasks_.spawn(acknowledge());
    if (pulls()) tasks_.spawn(ask());
    co_await tasks_.join_passing_cancellation();
  }

 private:
  enum class stage { subscribed, following, receiving_snapshot };

  [[nodiscard]] bool pulls() const noexcept { return of_.options.mode == catchup::mode::pull; }

  // --- Saying -------------------------------------------------------------------------------------------------------

  template <class Message>
  awaitable<void> say(catchup::message kind, Message message) {
    const auto bytes = message.encode();
    co_await channel_.send(static_cast<std::uint8_t>(kind), 0, bytes_view(bytes));
  }

  // Whatever this log holds was verified when it was appended; made durable, it can be presented.
  awaitable<void> subscribe() {
    enter(stage::subscribed);
    if (!mutated(mutant::subscribe_from_staged_records)) co_await of_.log.durable(of_.log.last().index);
    catchup::subscribe_message message;
    message.have = of_.log.last();
    message.base = subscribed_base_ = of_.log.base().index;
    message.mode = of_.options.mode;
    message.max_frame_bytes = channel_.options().max_frame_bytes;
    acknowledged_ = message.have.index;
    progress_->lag.has(acknowledged_);
    co_await say(catchup::message::subscribe, message);
  }

  void enter(stage next) noexcept {
    at_ = next;
    announced_ = fetching_ = false;
    progress_->connected = next == stage::following;
    progress_->caught_up = false;
  }

  // Tells the source what is durable here, once a group commit. Records may be durable already when this wakes up.
  awaitable<void> acknowledge() {
    for (;;) {
      while (!may_acknowledge() && of_.log.acked().index >= of_.log.last().index) {
        const std::error_code ec = co_await staged_.wait();
        if (ec) throw std::system_error(ec);
      }
      co_await of_.log.durable(of_.log.last().index);
      if (!may_acknowledge()) continue;  // the next subscription will say it
      catchup::position_message message;
      message.position = mutated(mutant::ack_staged_records) ? of_.log.last() : of_.log.acked();
      acknowledged_ = message.position.index;
      update_caught_up();
      co_await say(catchup::message::ack, message);
    }
  }
  [[nodiscard]] bool may_acknowledge() const noexcept {
    if (of_.log.acked().index == acknowledged_ + 1 && mutated(mutant::keep_last_ack)) return false;
    return at_ == stage::following && of_.log.acked().index > acknowledged_;
  }

  // Pull: a fetch at a time.
  awaitable<void> ask() {
    typename Env::timer timer(of_.env);
    for (;;) {
      while (!may_ask()) {
        const std::error_code ec = co_await answered_.wait();
        if (ec) throw std::system_error(ec);
      }
      if (found_nothing_ && of_.options.long_poll.count() == 0) {
        timer.expires_after(of_.options.poll_interval);
        (void)co_await timer.wait();
        if (!may_ask()) continue;
      }
      fetching_ = true;
      catchup::fetch_message message;
      message.max_bytes = of_.options.max_batch_bytes;
      message.wait_ns = static_cast<std::uint64_t>(std::max<duration>(of_.options.long_poll, duration(0)).count());
      co_await say(catchup::message::fetch, message);
    }
  }
  [[nodiscard]] bool may_ask() const noexcept { return at_ == stage::following && announced_ && !fetching_; }

  void hear_answer(bool nothing) {
    fetching_ = false;
    found_nothing_ = nothing;
    answered_.notify_all();
  }

  // --- Hearing ------------------------------------------------------------------------------------------------------

  template <class Message>
  static Message expect(bool now, std::optional<Message> decoded, const char* what) {
    if (!now || !decoded) throw std::system_error(errc::malformed, what);
    return *decoded;
  }

  awaitable<void> hear() {
    co_await subscribe();
    for (;;) {
      const frame_view frame = co_await channel_.receive();
      progress_->last_contact = of_.env.wall_now();
      const bool following = at_ == stage::following;
      switch (static_cast<catchup::message>(frame.kind)) {
        case catchup::message::accepted: {
          const auto message =
              expect(at_ == stage::subscribed, catchup::position_message::decode(frame.payload), "accepted");
          if (message.position != of_.log.last()) throw std::system_error(errc::malformed, "accepted another position");
          enter(stage::following);
          break;
        }
        case catchup::message::records: {
          if (!announced_ || frame.payload.empty() || (pulls() && !fetching_)) {
            throw std::system_error(errc::malformed, "records that were not asked for");
          }
          const index_t first = of_.log.last().index + 1;
          bytes_view rest = frame.payload;
          while (!stage_records(rest)) co_await of_.log.make_room();
          of_.events.received(first, of_.log.last().index, frame.payload.size());
          if (pulls()) hear_answer(false);
          break;
        }
        case catchup::message::heartbeat:
          hear_heartbeat(expect(following, catchup::heartbeat_message::decode(frame.payload), "heartbeat"));
          break;
        case catchup::message::probe: {
          const auto message = expect(at_ == stage::subscribed, catchup::probe_message::decode(frame.payload), "probe");
          if (compacted_since_subscribed(message.index)) {  // begin again with what is kept now
            co_await subscribe();
            break;
          }
          const std::optional<position> own = position_at(message.index);
          if (!own) throw std::system_error(errc::malformed, "probe for an index that this log does not hold");
          catchup::position_message reply;
          reply.position = *own;
          co_await say(catchup::message::probe_reply, reply);
          break;
        }
        case catchup::message::diverged: {
          const auto message =
              expect(at_ == stage::subscribed, catchup::diverged_message::decode(frame.payload), "diverged");
          co_await cut_back(message);
          co_await subscribe();
          break;
        }
        case catchup::message::snapshot: {
          const auto message = expect(at_ == stage::subscribed || following,
                                      catchup::snapshot_message::decode(frame.payload), "snapshot");
          co_await begin_snapshot(message);
          break;
        }
        case catchup::message::snapshot_chunk:
          if (at_ != stage::receiving_snapshot || frame.payload.empty() || frame.payload.size() > snapshot_left_) {
            throw std::system_error(errc::malformed, "snapshot chunk");
          }
          snapshot_left_ -= frame.payload.size();
          co_await of_.events.snapshot_chunk(frame.payload);
          break;
        case catchup::message::snapshot_end: {
          const auto message = expect(at_ == stage::receiving_snapshot,
                                      catchup::position_message::decode(frame.payload), "snapshot end");
          if (message.position != snapshot_upto_ || snapshot_left_ != 0) {
            throw std::system_error(errc::malformed, "snapshot cut short");
          }
          if (mutated(mutant::reset_before_snapshot_is_durable)) co_await finish(of_.log.reset(snapshot_upto_));
          co_await of_.events.snapshot_end();
          co_await finish(of_.log.reset(snapshot_upto_));
          co_await subscribe();
          break;
        }
        case catchup::message::failed:
          hear_failure(expect(true, catchup::failed_message::decode(frame.payload), "failure"));
        default: throw std::system_error(errc::malformed, "catch-up message " + std::to_string(frame.kind));
      }
    }
  }

  // Verifies and stages from the front of `records`. @return false when the log is full: wait until it has synced.
  bool stage_records(bytes_view& records) {
    bool all = true;
    try {
      const log_codec::record_verdict verdict = of_.log.append_encoded(records);
      if (verdict != log_codec::record_verdict::ok) refuse_record(verdict);
    } catch (const std::system_error& error) {
      if (error.code() != errc::overloaded) throw;
      all = false;
    }
    staged_.notify_all();
    return all;
  }

  [[noreturn]] void refuse_record(log_codec::record_verdict verdict) const {
    using log_codec::record_verdict;
    const bool damaged = verdict == record_verdict::bad_chain || verdict == record_verdict::bad_header ||
                         verdict == record_verdict::bad_padding;
    throw std::system_error(
        damaged ? errc::corrupt : errc::malformed,
        "record " + std::to_string(of_.log.last().index + 1) + " from the source: " + log_codec::explain(verdict));
  }

  void hear_heartbeat(const catchup::heartbeat_message& message) {
    refuse_older_life(message.last.epoch);
    progress_->lag.heard(message.last.index, std::chrono::nanoseconds(static_cast<std::int64_t>(message.clock_ns)));
    const bool first = !announced_;
    announced_ = true;
    if (first) of_.events.subscribed(of_.log.last(), message.last.index);
    update_caught_up();
    if (!pulls()) return;
    if (first) {
      hear_answer(false);
    } else if (message.last.index <= of_.log.last().index) {  // else records follow
      if (!fetching_) throw std::system_error(errc::malformed, "an answer that was not asked for");
      hear_answer(true);
    }
  }

  void update_caught_up() {
    progress_->lag.has(mutated(mutant::caught_up_before_durable) ? of_.log.last().index : of_.log.acked().index);
    const bool before = progress_->caught_up;
    progress_->caught_up = announced_ && progress_->lag.records() == 0;
    if (progress_->caught_up && !before) of_.events.caught_up(of_.log.acked());
  }

  [[noreturn]] static void hear_failure(const catchup::failed_message& message) {
    const auto code = static_cast<errc>(message.code);
    if (code == errc::snapshot_required) throw std::system_error(code, "the source has none");
    const std::string why = message.code == 0 ? "an error" : make_error_code(code).message();
    throw std::system_error(
        errc::remote_failure,
        "the source ended by: " + why + (message.at == 0 ? "" : ", at record " + std::to_string(message.at)));
  }

  // --- Repair -------------------------------------------------------------------------------------------------------

  [[nodiscard]] std::optional<position> position_at(index_t index) const {
    return index < of_.log.base().index ? std::nullopt : of_.log.position_at(index);
  }

  [[nodiscard]] bool compacted_since_subscribed(index_t index) const {
    return index >= subscribed_base_ && index < of_.log.base().index;
  }

  void refuse_older_life(epoch_t source_epoch) const {
    if (source_epoch >= of_.log.last().epoch || mutated(mutant::follow_older_life)) return;
    throw std::system_error(errc::stale_epoch, "the source is at epoch " + std::to_string(source_epoch) +
                                                   ", this log at " + std::to_string(of_.log.last().epoch));
  }

  awaitable<void> cut_back(catchup::diverged_message message) {
    refuse_older_life(message.source_epoch);
    const position common = message.common;
    if (common == position{} && of_.log.base().index != 0) {  // all of the source's history is in its log
      co_await give_up_records(of_.log.base(), common);
      co_await finish(of_.log.reset(common));
      co_return;
    }
    if (compacted_since_subscribed(common.index)) co_return;  // the next subscription finds what is common now
    if (common.index >= of_.log.last().index || position_at(common.index) != common) {
      throw std::system_error(errc::malformed, "diverged");
    }
    co_await give_up_records(common, common);
    co_await finish(of_.log.truncate_suffix(common.index));
  }

  awaitable<void> begin_snapshot(catchup::snapshot_message message) {
    refuse_older_life(message.source_epoch);
    const bool ahead = message.upto.index > of_.log.last().index;
    const bool same_again = installed_ && *installed_ == message.upto;
    if ((!ahead && message.differs_from == 0) || message.differs_from > of_.log.last().index || same_again ||
        message.upto.epoch > message.source_epoch) {
      throw std::system_error(errc::malformed, "snapshot up to record " + std::to_string(message.upto.index));
    }
    enter(stage::receiving_snapshot);
    if (message.differs_from != 0) co_await give_up_records(of_.log.base(), position{});
    installed_ = snapshot_upto_ = message.upto;
    snapshot_left_ = message.size;
    co_await of_.events.snapshot_begin(message.upto, message.size);
  }

  // Stops here, or saves the records behind `kept`, which the caller then drops.
  awaitable<void> give_up_records(position kept, position common) {
    const index_t first_lost = kept.index + 1;
    const index_t last_lost = of_.log.last().index;
    if (of_.options.on_divergence == repair::stop) {
      co_await of_.events.diverged(common, first_lost, last_lost, std::string());
      throw std::system_error(errc::diverged, "records " + std::to_string(first_lost) + " to " +
                                                  std::to_string(last_lost) + " are not the source's");
    }
    std::string saved;
    if (first_lost <= last_lost && !mutated(mutant::skip_saving_diverged_records)) saved = co_await save_records(kept);
    co_await of_.events.diverged(common, first_lost, last_lost, saved);
  }

  // D1: complete and durable before the records are cut off. The file is a segment's: alone in a directory under its
  // segment's name it is a log.
  awaitable<std::string> save_records(position before) {
    const std::string name = of_.log.directory() + "/diverged-" + std::to_string(before.index + 1) + "-" +
                             std::to_string(of_.log.last().chain) + ".records";
    const std::string temporary = name + ".tmp";
    std::error_code ec;
    typename Env::file to = of_.env.open(temporary, open_mode::truncate, ec);
    if (!ec) write_segment(to, before, ec);
    if (!ec && !mutated(mutant::save_diverged_records_unsynced)) ec = co_await to.datasync(sync_on::disk_thread);
    if (!ec) of_.env.rename(temporary, name, ec);
    if (!ec) ec = co_await of_.env.sync_directory(of_.log.directory(), sync_on::disk_thread);
    if (ec) {
      std::error_code ignored;
      of_.env.remove(temporary, ignored);
      throw std::system_error(ec, "cannot save diverged records to " + name);
    }
    co_return name;
  }

  void write_segment(typename Env::file& to, const position& before, std::error_code& ec) {
    segment_header header;
    header.base = before;
    header.created_ns = static_cast<std::uint64_t>(of_.env.wall_now().time_since_epoch().count());
    std::array<std::byte, log_format::segment_header_bytes> page;
    header.encode(page);
    const bytes_view head(page);
    to.pwrite(0, {&head, 1}, ec);
    std::uint64_t offset = page.size();
    typename basic_append_log<Env>::read_place place;
    place.next = before.index + 1;
    while (!ec && place.next <= of_.log.last().index) {
      const record_batch batch = of_.log.read(place, std::size_t{1} << 20, visibility::staged);
      const bytes_view bytes = batch.bytes();
      to.pwrite(offset, {&bytes, 1}, ec);
      offset += bytes.size();
    }
  }

  // Runs a change of the log to its end, also while this session is being cancelled: the next one must not find it
  // half way.
  awaitable<void> finish(awaitable<void> change) {
    task_group changing(of_.env.get_executor());
    changing.spawn(std::move(change));
    co_await changing.join();
  }

  const follower_parts<Env>& of_;
  basic_channel<Env>& channel_;
  const std::shared_ptr<follower_progress> progress_;

  stage at_ = stage::subscribed;
  index_t subscribed_base_ = 0;  // what the source was told last
  bool announced_ = false;       // following: the subscription's first heartbeat was heard
  index_t acknowledged_ = 0;     // what the source was told last
  wait_list staged_;             // for acknowledge()

  bool fetching_ = false;       // pull: asked and not answered
  bool found_nothing_ = false;  // by the last answer
  wait_list answered_;          // for ask()

  position snapshot_upto_;  // receiving_snapshot
  std::uint64_t snapshot_left_ = 0;
  std::optional<position> installed_;  // the last snapshot that this session was sent

  task_group tasks_;  // last: its coroutines use the rest
};

}  // namespace lockstep::detail
