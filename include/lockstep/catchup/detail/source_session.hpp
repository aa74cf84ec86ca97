// source_session: one follower's service by a source. See catchup/source.hpp.
#pragma once

#include "lockstep/catchup/core.hpp"
#include "lockstep/catchup/source_options.hpp"
#include "lockstep/core/mutant.hpp"
#include "lockstep/core/task_group.hpp"
#include "lockstep/frame/channel.hpp"
#include "lockstep/log/cursor.hpp"

#include <algorithm>
#include <chrono>
#include <list>
#include <memory>
#include <optional>
#include <string>

namespace lockstep::detail {

/// What the sessions of one source have in common.
template <environment Env>
struct source_parts {
  Env& env;
  basic_append_log<Env>& log;
  const source_options options;
  snapshot_provider* const snapshots;
};

/// Three coroutines: one hears, one ships, one keeps time. Lies in the frame of basic_source::serve(); its destructor
/// touches nothing outside but the list of followers, which it shares.
template <environment Env>
class source_session {
 public:
  using follower_list = std::list<follower_status>;

  source_session(const source_parts<Env>& of, std::shared_ptr<follower_list> listed_in, basic_channel<Env>& connection)
      : of_(of),
        channel_(connection),
        followers_(std::move(listed_in)),
        status_(followers_->emplace(followers_->end())),
        changed_(of.env.get_executor()),
        timer_(of.env),
        tasks_(of.env.get_executor()) {
    status_->node = connection.peer().node;
    status_->address = connection.peer().address;
  }
  source_session(const source_session&) = delete;
  source_session& operator=(const source_session&) = delete;
  ~source_session() { followers_->erase(status_); }

  /// Serves until something ends it, and throws that.
  awaitable<void> run() {
    tasks_.spawn(hear());
    tasks_.spawn(ship());
    tasks_.spawn(keep_time());
    co_await tasks_.join_passing_cancellation();
  }

  /// Tells the follower why the service ended, if that can be said without waiting.
  void tell(std::error_code why) {
    if (is_cancelled(why)) return;
    catchup::failed_message message;
    message.code = why.category() == lockstep_category() ? static_cast<std::uint64_t>(why.value()) : 0;
    message.at = reading_;
    const auto bytes = message.encode();
    (void)channel_.try_send(static_cast<std::uint8_t>(catchup::message::failed), 0, bytes_view(bytes));
  }

 private:
  enum class stage { idle, searching, shipping, sending_snapshot };

  // --- The log, as followers may see it -----------------------------------------------------------------------------

  [[nodiscard]] const position& shippable() const {
    return of_.options.ship == visibility::durable ? of_.log.acked() : of_.log.last();
  }
  [[nodiscard]] std::optional<position> shippable_at(index_t index) const {
    if (index < of_.log.base().index || index > shippable().index) return std::nullopt;
    return of_.log.position_at(index);
  }
  [[nodiscard]] bool nothing_to_ship() const { return reader_->next_index() > shippable().index; }

  // The largest payload that both sides take.
  [[nodiscard]] std::size_t frame_limit() const {
    return static_cast<std::size_t>(
        std::min<std::uint64_t>(channel_.options().max_frame_bytes, subscription_.max_frame_bytes));
  }

  // --- Saying -------------------------------------------------------------------------------------------------------

  template <class Message>
  awaitable<void> say(catchup::message kind, Message message) {
    const auto bytes = message.encode();
    co_await channel_.send(static_cast<std::uint8_t>(kind), 0, bytes_view(bytes));
  }

  awaitable<void> say_heartbeat() {
    next_beat_ = of_.env.now() + heartbeat_interval();
    catchup::heartbeat_message message;
    message.last = shippable();
    const auto clock = of_.env.wall_now().time_since_epoch();
    message.clock_ns = static_cast<std::uint64_t>(std::max<std::int64_t>(clock.count(), 0));
    return say(catchup::message::heartbeat, message);
  }

  [[nodiscard]] duration heartbeat_interval() const {
    return std::max<duration>(of_.options.heartbeat_interval, std::chrono::milliseconds(1));
  }

  void enter(stage next) {
    at_ = next;
    status_->subscribed = next == stage::shipping;
    changed_.notify_all();
  }

  // --- Hearing ------------------------------------------------------------------------------------------------------

  template <class Message>
  static Message expect(bool now, std::optional<Message> decoded, const char* what) {
    if (!now || !decoded) throw std::system_error(errc::malformed, what);
    return *decoded;
  }

  awaitable<void> hear() {
    for (;;) {
      const frame_view frame = co_await channel_.receive();
      switch (static_cast<catchup::message>(frame.kind)) {
        case catchup::message::subscribe:
          // While searching: the follower has compacted what it was asked for.
          subscription_ = expect(at_ == stage::idle || at_ == stage::searching,
                                 catchup::subscribe_message::decode(frame.payload), "subscribe");
          co_await answer();
          break;
        case catchup::message::probe_reply: {
          const auto message =
              expect(at_ == stage::searching, catchup::position_message::decode(frame.payload), "probe reply");
          co_await compare(message.position);
          break;
        }
        case catchup::message::ack:
          hear_ack(expect(accepted_, catchup::position_message::decode(frame.payload), "ack").position);
          break;
        case catchup::message::fetch: {
          const bool pulling = at_ == stage::shipping && subscription_.mode == catchup::mode::pull;
          hear_fetch(expect(pulling && !fetch_, catchup::fetch_message::decode(frame.payload), "fetch"));
          break;
        }
        default: throw std::system_error(errc::malformed, "catch-up message " + std::to_string(frame.kind));
      }
    }
  }

  // A follower acknowledges what it was sent, and never less than before.
  void hear_ack(const position& durable) {
    const bool possible = durable.index >= status_->acked.index && durable.index < reader_->next_index();
    const bool ours = durable.index != shippable().index || durable == shippable() || rewinds_ != of_.log.rewinds();
    if (!possible || !ours) throw std::system_error(errc::malformed, "ack of record " + std::to_string(durable.index));
    status_->acked = durable;
  }

  void hear_fetch(const catchup::fetch_message& asked) {
    constexpr duration longest = std::chrono::hours(1);
    const auto wait = static_cast<std::int64_t>(std::min<std::uint64_t>(asked.wait_ns, longest.count()));
    fetch_ = asked;
    fetch_until_ = of_.env.now() + duration(wait);
    changed_.notify_all();
    if (fetch_until_ < timer_due_) timer_.cancel();  // keep_time() looks again
  }

  // --- Answering a subscription -------------------------------------------------------------------------------------

  awaitable<void> answer() {
    status_->mode = subscription_.mode;
    fetch_.reset();
    const catchup::decision decided =
        catchup::decide(subscription_, of_.log.base(), shippable(), shippable_at(subscription_.have.index));
    differs_from_ = decided.differs_from;
    switch (decided.answer) {
      case catchup::answer::accept: {
        accepted_ = true;
        status_->acked = subscription_.have;
        reader_.emplace(of_.log, subscription_.have.index + (mutated(mutant::ship_last_record_again) ? 0 : 1),
                        of_.options.ship);
        rewinds_ = of_.log.rewinds();
        catchup::position_message accepted;
        accepted.position = subscription_.have;
        co_await say(catchup::message::accepted, accepted);
        co_await say_heartbeat();
        enter(stage::shipping);
        break;
      }
      case catchup::answer::search:
        search_.emplace(decided.lowest, decided.highest);
        enter(stage::searching);
        co_await probe();
        break;
      case catchup::answer::snapshot_required: enter(stage::sending_snapshot); break;
    }
  }

  awaitable<void> compare(position theirs) {
    const auto expected = search_->next_probe();
    if (!expected || theirs.index != *expected) throw std::system_error(errc::malformed, "probe reply");
    if (*expected < of_.log.base().index) {  // compacted since it was asked for: begin again with what is kept now
      co_await answer();
      co_return;
    }
    const bool agree = shippable_at(*expected) == theirs;
    if (agree) common_ = theirs;
    search_->answer(*expected, agree);
    co_await probe();
  }

  awaitable<void> probe() {
    if (const auto index = search_->next_probe()) {
      catchup::probe_message message;
      message.index = *index;
      co_await say(catchup::message::probe, message);
    } else if (!search_->common()) {
      differs_from_ = search_->differs_from();
      enter(stage::sending_snapshot);
    } else if (shippable_at(common_.index) != common_) {  // compacted or cut off since it was compared
      co_await answer();
    } else {
      co_await say_diverged(common_);
    }
  }

  awaitable<void> say_diverged(position common) {
    catchup::diverged_message message;
    message.common = common;
    message.source_epoch = shippable().epoch;
    enter(stage::idle);  // before it is said: the follower subscribes anew as soon as it has repaired its log
    return say(catchup::message::diverged, message);
  }

  // --- Shipping -----------------------------------------------------------------------------------------------------

  awaitable<void> ship() {
    for (;;) {
      if (at_ == stage::sending_snapshot) {
        co_await send_snapshot();
        continue;
      }
      const bool pulling = subscription_.mode == catchup::mode::pull;
      if (at_ != stage::shipping || (pulling && !fetch_)) {
        const std::error_code ec = co_await changed_.wait();
        if (ec) throw std::system_error(ec);
        continue;
      }
      const record_batch batch = next_batch();
      if (at_ != stage::shipping) continue;  // compaction has passed the follower by
      if (batch.empty()) {
        const std::error_code ec = co_await of_.log.readable(reader_->next_index(), of_.options.ship);
        if (ec) throw std::system_error(ec, of_.log.directory());
        continue;
      }
      if (pulling) {
        fetch_.reset();
        if (of_.env.now() >= next_beat_) co_await say_heartbeat();
      }
      // The bytes go from the log's memory or mapping to the socket; the batch holds them for as long.
      co_await channel_.send(static_cast<std::uint8_t>(catchup::message::records), 0, batch.bytes(),
                             frame_flag::self_checked);
    }
  }

  // Never suspends, so that what it finds is what a heartbeat said in the same turn names.
  record_batch next_batch() {
    reading_ = reader_->next_index();
    try {
      // A cursor knows its place by the last record that it read; before, this session does.
      if (rewinds_ != of_.log.rewinds()) {
        rewinds_ = of_.log.rewinds();
        const index_t last = reading_ - 1;
        const bool unread = last == subscription_.have.index && last >= of_.log.base().index;
        if (unread && of_.log.position_at(last) != subscription_.have) {
          throw std::system_error(errc::diverged, "the source's log was rewound behind record " + std::to_string(last));
        }
      }
      const std::size_t limit = frame_limit();
      std::size_t most = std::min(of_.options.max_batch_bytes, limit);
      if (fetch_) most = static_cast<std::size_t>(std::min<std::uint64_t>(fetch_->max_bytes, most));
      record_batch batch = reader_->try_next(most);
      if (batch.bytes().size() > limit) {
        throw std::system_error(errc::frame_too_large, "record " + std::to_string(batch.first()) + " takes " +
                                                           std::to_string(batch.bytes().size()) +
                                                           " bytes, and frames to follower " + status_->address +
                                                           " at most " + std::to_string(limit));
      }
      return batch;
    } catch (const std::system_error& error) {
      if (error.code() != errc::compacted) throw;
      enter(stage::sending_snapshot);
      return {};
    }
  }

  // Heartbeats of push, and the answers to fetches for which no record came in time.
  awaitable<void> keep_time() {
    for (;;) {
      const time_point now = of_.env.now();
      const bool pushing = subscription_.mode == catchup::mode::push;
      if (pushing && mutated(mutant::send_no_heartbeats)) next_beat_ = now + heartbeat_interval();
      if (at_ == stage::shipping &&
          (pushing ? now >= next_beat_ : fetch_ && now >= fetch_until_ && nothing_to_ship())) {
        fetch_.reset();
        co_await say_heartbeat();
        continue;
      }
      timer_due_ = now + heartbeat_interval();
      if (pushing && at_ == stage::shipping) timer_due_ = next_beat_;
      if (fetch_ && fetch_until_ > now) timer_due_ = std::min(timer_due_, fetch_until_);
      timer_.expires_at(timer_due_);
      (void)co_await timer_.wait();
    }
  }

  // --- Snapshots ----------------------------------------------------------------------------------------------------

  awaitable<void> send_snapshot() {
    std::optional<snapshot_image> image;
    if (of_.snapshots) image = of_.snapshots->latest();
    if (image && (image->upto.index == 0 || shippable_at(image->upto.index) != image->upto)) image.reset();
    if (!image && of_.log.base() == position{}) {  // nothing is missing here: the follower can begin anew
      co_await say_diverged(position{});
      co_return;
    }
    if (!image) throw std::system_error(errc::snapshot_required, why_no_record_helps());

    catchup::snapshot_message announced;
    announced.upto = image->upto;
    announced.size = image->bytes.size();
    announced.differs_from = differs_from_;
    announced.source_epoch = shippable().epoch;
    co_await say(catchup::message::snapshot, announced);
    const std::size_t most = std::max<std::size_t>(std::min(of_.options.max_batch_bytes, frame_limit()), 1);
    bytes_view rest = image->bytes;
    while (!rest.empty()) {
      const bytes_view chunk = rest.first(std::min(rest.size(), most));
      co_await channel_.send(static_cast<std::uint8_t>(catchup::message::snapshot_chunk), 0, chunk);
      rest = rest.subspan(chunk.size());
    }
    catchup::position_message end;
    end.position = image->upto;
    enter(stage::idle);  // before the end is said: the follower subscribes anew as soon as it hears it
    co_await say(catchup::message::snapshot_end, end);
  }

  [[nodiscard]] std::string why_no_record_helps() const {
    std::string why = "follower " + status_->address;
    if (differs_from_ != 0) why += ", whose records differ from " + std::to_string(differs_from_) + " on,";
    return why + " cannot be served from record " + std::to_string(of_.log.first_index()) +
           " on, the first that is kept, and there is no snapshot";
  }

  const source_parts<Env>& of_;
  basic_channel<Env>& channel_;
  const std::shared_ptr<follower_list> followers_;
  const follower_list::iterator status_;

  stage at_ = stage::idle;
  wait_list changed_;                        // at_ or fetch_
  catchup::subscribe_message subscription_;  // the latest
  bool accepted_ = false;                    // some subscription was; reader_ is there from then on
  std::optional<basic_cursor<Env>> reader_;
  index_t reading_ = 0;                               // the first record of the batch that is or was being read
  std::uint64_t rewinds_ = 0;                         // of the log, when it was last made sure that reader_ continues
  std::optional<catchup::divergence_search> search_;  // while searching
  position common_;                                   // the highest position that agreed, when there is one
  index_t differs_from_ = 0;                          // while sending_snapshot, see snapshot_message

  std::optional<catchup::fetch_message> fetch_;  // pull: asked and not answered
  time_point fetch_until_{};
  time_point next_beat_{};
  time_point timer_due_{};
  typename Env::timer timer_;
  task_group tasks_;  // last: its coroutines use the rest
};

}  // namespace lockstep::detail
