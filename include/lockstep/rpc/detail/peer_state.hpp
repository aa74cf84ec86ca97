// peer_state: what a peer, its calls, its handlers and its reader share.
//
// The reader resumes callers and handlers on the spot, inside the turn that its read began: what they send before they
// suspend leaves in one write, and a call that is answered at once costs no turn of the loop.
#pragma once

#include "lockstep/core/mutant.hpp"
#include "lockstep/core/wait_list.hpp"
#include "lockstep/frame/channel.hpp"
#include "lockstep/rpc/codec.hpp"
#include "lockstep/rpc/detail/call_table.hpp"
#include "lockstep/rpc/rpc_options.hpp"
#include "lockstep/rpc/service.hpp"
#include "lockstep/rpc/status.hpp"

#include <algorithm>
#include <array>
#include <deque>
#include <exception>
#include <list>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

namespace lockstep::detail {

template <class Env, class Stream>
class peer_state : public std::enable_shared_from_this<peer_state<Env, Stream>> {
 public:
  using channel_type = basic_channel<Env, Stream>;

  peer_state(channel_type over, const rpc_service& served, rpc_options with)
      : channel(std::move(over)),
        service(served),
        options(with),
        executor(channel.get_executor()),
        changed(executor),
        alarm_(channel.environment(), [this](time_point now) { return sweep(now); }) {}

  channel_type channel;
  const rpc_service& service;
  const rpc_options options;
  const asio::any_io_executor executor;
  wait_list changed;  ///< notified when something that close() or run() waits for may have happened

  // --- This side's calls ---

  struct stream_call;

  /// A call under way. Lies in its caller's frame, or in its stream.
  struct call {
    std::uint64_t id = 0;  ///< 0: not in the table
    time_point deadline = never;
    byte_buffer* result = nullptr;
    stream_call* stream = nullptr;  ///< itself, when it is one
    parked* waiter = nullptr;
    rpc_status status;
    bool ended = false;
  };

  struct stream_call : call {
    byte_buffer arriving;          ///< items as they come: u32 size, bytes
    byte_buffer current;           ///< items that are being read
    std::size_t read = 0;          ///< bytes of `current` that were
    std::size_t last_cost = 0;     ///< credit of the item that was read last
    std::size_t used_credit = 0;   ///< of items that were read, not given back yet
    std::int64_t open_credit = 0;  ///< what the server may still send
  };

  /// Why no call can be begun. @return an ok status when one can.
  [[nodiscard]] rpc_status reason_to_refuse() const {
    if (ended_ || said_goodbye_) return rpc_status(errc::closed);
    if (calls_.size() >= options.max_calls) return rpc_status(errc::overloaded);
    return rpc_status();
  }

  void begin(call& added) { added.id = calls_.insert(added); }

  /// Takes the call out of the table; an answer that still comes is ignored.
  void forget(call& gone) {
    if (gone.id == 0) return;
    calls_.erase(std::exchange(gone.id, 0));
    if (closing_) changed.notify_all();
  }

  void watch(call& of, time_point deadline) {
    if (deadline != never && mutated(mutant::ignore_call_deadline)) deadline = never;
    of.deadline = deadline;
    if (deadline != never) alarm_.at(deadline);
  }

  /// Tells the server that no answer is wanted any more.
  void abandon(call& gone) {
    if (gone.id == 0) return;
    if (!ended_) send_control({rpc_kind::cancel, {}, gone.id, 0});
    forget(gone);
  }

  void give_credit(stream_call& of) {
    if (of.id == 0 || of.used_credit < options.stream_window_bytes / 2) return;
    send_control({rpc_kind::credit, {}, of.id, static_cast<std::uint32_t>(of.used_credit)});
    of.open_credit += static_cast<std::int64_t>(of.used_credit);
    of.used_credit = 0;
  }

  // --- Reading ---

  /// Reads until the channel ends. @throws what it ended with; malformed.
  awaitable<void> read() {
    std::exception_ptr failure;
    auto use = [this, &failure](const frame_view& frame) {
      try {
        if (!handle(frame)) throw std::system_error(errc::malformed, "peer at " + channel.peer().address);
      } catch (...) {
        failure = std::current_exception();
      }
      return !failure && !ended_;
    };
    co_await channel.deliver(use);
    if (failure) std::rethrow_exception(failure);
  }

  /// Ends every call and every handler. Calls that were sent have an unknown outcome.
  void end() {
    if (std::exchange(ended_, true)) return;
    alarm_.stop();
    parked::batch woken;
    calls_.for_each([&](call& each) {
      if (mutated(mutant::forget_calls_at_disconnect)) return;
      end_call_later(each, rpc_status(errc::closed, !mutated(mutant::unknown_outcome_reported_as_failure)), woken);
    });
    for (worker* const each : idle_) woken.add(each->idle, errc::closed);
    idle_.clear();
    if (!woken.empty()) asio::post(executor, std::move(woken));
    interrupt_all([](const worker&) { return true; });
    changed.notify_all();
  }

  // --- Closing ---

  void begin_closing() {
    if (std::exchange(closing_, true)) return;
    if (ended_) return;
    say_goodbye();
    drain_until_ = channel.environment().now() + options.drain_timeout;
    alarm_.at(drain_until_);
    interrupt_all([](const worker& each) { return each.handler && each.handler->stream; });
    parked::batch woken;
    calls_.for_each([&](call& each) {
      if (!each.stream) return;
      send_control({rpc_kind::cancel, {}, each.id, 0});
      end_call_later(each, rpc_status(errc::closed, true), woken);
    });
    if (!woken.empty()) asio::post(executor, std::move(woken));
  }

  [[nodiscard]] bool drained() const noexcept {
    // The peer's goodbye comes behind its last request: until then, one may have to be refused.
    const bool nothing_left = calls_.size() == 0 && idle_.size() == workers_.size() && controls_.empty();
    return ended_ || drain_expired_ || (peer_closing_ && nothing_left);
  }
  [[nodiscard]] bool joined() const noexcept { return workers_.empty() && !sending_controls_; }
  [[nodiscard]] bool closing() const noexcept { return closing_; }
  [[nodiscard]] bool ended() const noexcept { return ended_; }
  [[nodiscard]] std::size_t calls() const noexcept { return calls_.size(); }
  [[nodiscard]] std::size_t requests() const noexcept { return workers_.size() - idle_.size(); }
  awaitable<void> join_alarm() { return alarm_.join(); }

  bool running = false;  ///< run() is under way

 private:
  // --- Messages that nobody waits for ---

  struct control {
    rpc_kind kind;
    rpc_cause cause;
    std::uint64_t id;
    std::uint32_t number;
  };

  // At once, or when the queue has room again: the reader must never wait for its own sends, or two readers could wait
  // for each other.
  void send_control(const control& message) {
    if (controls_.empty() && try_control(message)) return;
    if (ended_) return;
    if (controls_.size() >= 2 * rpc_slots) return channel.abort();  // more than any correct peer provokes
    controls_.push_back(message);
    if (!std::exchange(sending_controls_, true)) {
      asio::co_spawn(executor, send_controls(), controls_end(this->shared_from_this()));
    }
  }

  static std::span<const std::byte> encode(const control& message, std::array<std::byte, 8>& room) noexcept {
    if (message.kind == rpc_kind::failure) {
      room = rpc_failure_message{message.cause, 0, {}}.encode_prefix();
      return room;
    }
    if (message.kind != rpc_kind::credit) return {};
    const auto bytes = rpc_credit_message{message.number}.encode();
    std::copy(bytes.begin(), bytes.end(), room.begin());
    return std::span(room).first(bytes.size());
  }

  bool try_control(const control& message) {
    std::array<std::byte, 8> room;
    return channel.try_send(static_cast<std::uint8_t>(message.kind), message.id, encode(message, room));
  }

  awaitable<void> send_controls() {
    while (!controls_.empty() && !ended_) {
      const control message = controls_.front();
      std::array<std::byte, 8> room;
      const bytes_view payload = encode(message, room);
      co_await channel.send(static_cast<std::uint8_t>(message.kind), message.id, payload);
      controls_.pop_front();
    }
  }

  struct controls_end {
    std::shared_ptr<peer_state> self;
    explicit controls_end(std::shared_ptr<peer_state> of) noexcept : self(std::move(of)) {}
    controls_end(controls_end&&) noexcept = default;
    controls_end& operator=(controls_end&&) = delete;
    ~controls_end() {
      if (self) finish();
    }
    void operator()(std::exception_ptr) {  // only the channel's error, which the reader meets too
      finish();
      self.reset();
    }
    void finish() {
      self->sending_controls_ = false;
      self->controls_.clear();
      self->changed.notify_all();
    }
  };

  // --- The other side's calls ---

  enum class stop_t { no, by_caller, by_server };

  /// A coroutine that serves one request after another.
  struct worker final : rpc_item_writer {
    explicit worker(peer_state& in) : of(in) {}

    peer_state& of;
    asio::cancellation_signal stop;
    stop_t stopped = stop_t::no;  ///< serves nothing more after this request
    parked* idle = nullptr;       ///< waits for its next request

    std::uint64_t id = 0;
    const rpc_service::entry* handler = nullptr;  ///< null while idle
    byte_buffer arguments;
    rpc_request request;
    rpc_reply reply;
    std::int64_t credit = 0;
    parked* waiting_for_credit = nullptr;

    awaitable<void> write(bytes_view item) override {
      while (credit <= 0) {
        parked waiter;
        co_await waiter.wait(of.executor, waiting_for_credit);
        if (waiter.result()) throw std::system_error(waiter.result(), "write item");
      }
      credit -= static_cast<std::int64_t>(item.size() + rpc_item_overhead);
      co_await of.channel.send(static_cast<std::uint8_t>(rpc_kind::item), id, item);
    }
  };

  struct worker_end {
    std::shared_ptr<peer_state> self;
    typename std::list<worker>::iterator place;
    worker_end(std::shared_ptr<peer_state> of, typename std::list<worker>::iterator at) noexcept
        : self(std::move(of)), place(at) {}
    worker_end(worker_end&&) noexcept = default;
    worker_end& operator=(worker_end&&) = delete;
    ~worker_end() {
      if (self) finish();
    }
    void operator()(std::exception_ptr) {  // only its own cancellation
      finish();
      self.reset();
    }
    void finish() {
      self->served_.erase(place->id);
      self->workers_.erase(place);
      self->changed.notify_all();
    }
  };

  void interrupt(worker& of, stop_t why) {
    if (!of.handler || of.stopped != stop_t::no) return;
    of.stopped = why;
    served_.erase(of.id);
    of.stop.emit(asio::cancellation_type::terminal);
  }

  template <class Choose>
  void interrupt_all(Choose chosen) {
    // A worker that ends inside emit() removes itself: step on before.
    for (auto each = workers_.begin(); each != workers_.end();) {
      worker& next = *each++;
      if (chosen(next)) interrupt(next, stop_t::by_server);
    }
  }

  awaitable<void> serve(worker& me) {
    for (;;) {
      try {
        if (me.handler->unary) {
          co_await me.handler->unary(me.request, me.reply);
        } else {
          co_await me.handler->stream(me.request, me);
        }
      } catch (const rpc_error& error) {
        me.reply.fail(error.code(), error.what());
      } catch (const std::exception& error) {
        me.reply.fail(0, error.what());
      } catch (...) {
        me.reply.fail(0, "unknown exception");
      }
      if (me.stopped != stop_t::no) {
        if (me.stopped == stop_t::by_server) send_control({rpc_kind::failure, rpc_cause::interrupted, me.id, 0});
        co_return;
      }
      served_.erase(me.id);
      if (!try_answer(me)) co_await answer(me);
      if (me.stopped != stop_t::no || ended_) co_return;
      me.handler = nullptr;
      if (me.arguments.capacity() > most_kept_bytes) me.arguments = byte_buffer();
      if (me.reply.body().capacity() > most_kept_bytes) me.reply.body() = byte_buffer();
      idle_.push_back(&me);
      if (closing_) changed.notify_all();
      parked waiter;
      co_await waiter.wait(executor, me.idle);
      if (waiter.result()) co_return;
    }
  }

  struct encoded_answer {
    rpc_kind kind;
    std::array<std::byte, rpc_failure_prefix_bytes> prefix;
    std::array<bytes_view, 2> parts;
  };

  static void encode(worker& me, encoded_answer& answer) {
    answer.parts = {};
    if (me.reply.failed()) {
      answer.kind = rpc_kind::failure;
      answer.prefix = rpc_failure_message{rpc_cause::handler, me.reply.code(), {}}.encode_prefix();
      answer.parts = {bytes_view(answer.prefix), as_bytes(me.reply.text())};
    } else if (me.handler->unary) {
      answer.kind = rpc_kind::reply;
      answer.parts[0] = me.reply.body().view();
    } else {
      answer.kind = rpc_kind::end;
    }
  }

  bool try_answer(worker& me) {
    encoded_answer encoded;
    encode(me, encoded);
    if (me.reply.body().size() > channel.options().copy_bytes) return false;
    return channel.try_send(static_cast<std::uint8_t>(encoded.kind), me.id, encoded.parts);
  }

  awaitable<void> answer(worker& me) {
    encoded_answer encoded;
    encode(me, encoded);
    try {
      co_await channel.send(static_cast<std::uint8_t>(encoded.kind), me.id, encoded.parts);
      co_return;
    } catch (const std::system_error& error) {
      if (error.code() != errc::frame_too_large) co_return;  // the reader meets it too
    }
    me.reply.reset();
    me.reply.fail(0, "result exceeds the size limit of a frame");
    if (!try_answer(me)) send_control({rpc_kind::failure, rpc_cause::handler, me.id, 0});
  }

  // --- Incoming frames; false: no correct peer sends this ---

  bool handle(const frame_view& frame) {
    switch (static_cast<rpc_kind>(frame.kind)) {
      case rpc_kind::request: return handle_request(frame);
      case rpc_kind::reply: return handle_reply(frame);
      case rpc_kind::failure: return handle_failure(frame);
      case rpc_kind::item: return handle_item(frame);
      case rpc_kind::end: return handle_end(frame);
      case rpc_kind::cancel: return handle_cancel(frame);
      case rpc_kind::credit: return handle_credit(frame);
      case rpc_kind::goodbye: return handle_goodbye(frame);
    }
    return false;
  }

  bool handle_request(const frame_view& frame) {
    const auto message = rpc_request_message::decode(frame.payload);
    if (!message || frame.id / rpc_slots == 0) return false;
    using place = typename served_table<worker>::place;
    const place at = served_.look(frame.id);
    if (at == place::taken) return false;
    if (at == place::taken_by_earlier) interrupt(*served_.holder(frame.id), stop_t::by_caller);

    const auto refuse = [&](rpc_cause cause) { send_control({rpc_kind::failure, cause, frame.id, 0}); };
    if (closing_) return refuse(rpc_cause::closing), true;
    const rpc_service::entry* const handler = service.find(message->method);
    const bool wants_stream = message->credit != 0;
    if (!handler || static_cast<bool>(handler->stream) != wants_stream) {
      return refuse(rpc_cause::unknown_method), true;
    }
    if (idle_.empty() && workers_.size() >= options.max_requests) return refuse(rpc_cause::overloaded), true;
    start(frame.id, *message, *handler);
    return true;
  }

  void start(std::uint64_t id, const rpc_request_message& message, const rpc_service::entry& handler) {
    const bool fresh = idle_.empty();
    const auto place = fresh ? workers_.emplace(workers_.end(), *this) : workers_.end();
    worker& chosen = fresh ? *place : *idle_.back();
    if (!fresh) idle_.pop_back();
    chosen.id = id;
    chosen.handler = &handler;
    chosen.arguments.clear();
    chosen.arguments.append(message.arguments);
    chosen.reply.reset();
    chosen.credit = message.credit;
    chosen.request.method = message.method;
    chosen.request.arguments = chosen.arguments.view();
    chosen.request.peer = &channel.peer();
    chosen.request.deadline = message.time_left_ms == 0
                                  ? time_point::max()
                                  : channel.environment().now() + std::chrono::milliseconds(message.time_left_ms);
    served_.insert(id, chosen);
    if (fresh) {
      asio::co_spawn(executor, serve(chosen),
                     asio::bind_cancellation_slot(chosen.stop.slot(), worker_end(this->shared_from_this(), place)));
    } else {
      chosen.idle->resume_now({});
    }
  }

  bool handle_reply(const frame_view& frame) {
    call* const of = calls_.find(frame.id);
    if (!of) return calls_.knows(frame.id);
    if (of->stream) return false;
    of->result->append(frame.payload);
    end_call_now(*of, rpc_status());
    return true;
  }

  bool handle_failure(const frame_view& frame) {
    const auto message = rpc_failure_message::decode(frame.payload);
    if (!message) return false;
    call* const of = calls_.find(frame.id);
    if (!of) return calls_.knows(frame.id);
    switch (message->cause) {
      case rpc_cause::handler:
        end_call_now(*of, rpc_status(errc::remote_failure, message->code, std::string(message->text)));
        break;
      case rpc_cause::unknown_method: end_call_now(*of, rpc_status(errc::unknown_method)); break;
      case rpc_cause::overloaded: end_call_now(*of, rpc_status(errc::overloaded)); break;
      case rpc_cause::closing: end_call_now(*of, rpc_status(errc::closed)); break;
      case rpc_cause::interrupted: end_call_now(*of, rpc_status(errc::closed, true)); break;
    }
    return true;
  }

  bool handle_item(const frame_view& frame) {
    call* const of = calls_.find(frame.id);
    if (!of) return calls_.knows(frame.id);
    stream_call* const stream = of->stream;
    if (!stream || stream->open_credit <= 0) return false;
    stream->open_credit -= static_cast<std::int64_t>(frame.payload.size() + rpc_item_overhead);
    store_le<std::uint32_t>(stream->arriving.extend(4), static_cast<std::uint32_t>(frame.payload.size()));
    stream->arriving.append(frame.payload);
    if (stream->waiter) stream->waiter->resume_now({});
    return true;
  }

  bool handle_end(const frame_view& frame) {
    call* const of = calls_.find(frame.id);
    if (!of) return calls_.knows(frame.id);
    if (!of->stream || !frame.payload.empty()) return false;
    end_call_now(*of, rpc_status());
    return true;
  }

  bool handle_cancel(const frame_view& frame) {
    if (worker* const of = served_.find(frame.id)) interrupt(*of, stop_t::by_caller);
    return frame.payload.empty();
  }

  bool handle_credit(const frame_view& frame) {
    const auto message = rpc_credit_message::decode(frame.payload);
    if (!message) return false;
    if (worker* const of = served_.find(frame.id)) {
      of->credit += message->bytes;
      if (of->credit > 0 && of->waiting_for_credit) of->waiting_for_credit->resume_now({});
    }
    return true;
  }

  bool handle_goodbye(const frame_view& frame) {
    peer_closing_ = true;
    say_goodbye();
    changed.notify_all();
    return frame.id == 0 && frame.payload.empty();
  }

  void say_goodbye() {
    if (!std::exchange(said_goodbye_, true)) send_control({rpc_kind::goodbye, {}, 0, 0});
  }

  void end_call(call& of, rpc_status status) {
    of.status = std::move(status);
    of.ended = true;
    forget(of);
  }

  void end_call_now(call& of, rpc_status status) {
    end_call(of, std::move(status));
    if (of.waiter) of.waiter->resume_now({});
  }

  void end_call_later(call& of, rpc_status status, parked::batch& woken) {
    end_call(of, std::move(status));
    if (of.waiter) woken.add(of.waiter, {});
  }

  time_point sweep(time_point now) {
    time_point earliest = never;
    parked::batch woken;
    calls_.for_each([&](call& each) {
      if (now < each.deadline) {
        earliest = std::min(earliest, each.deadline);
        return;
      }
      send_control({rpc_kind::cancel, {}, each.id, 0});
      const bool unknown = !mutated(mutant::unknown_outcome_reported_as_failure);
      end_call_later(each, rpc_status(errc::timed_out, unknown), woken);
    });
    if (!woken.empty()) asio::post(executor, std::move(woken));
    if (now < drain_until_) return std::min(earliest, drain_until_);
    drain_until_ = never;
    drain_expired_ = true;
    changed.notify_all();
    return earliest;
  }

  static constexpr std::size_t most_kept_bytes = 64 << 10;  // of an idle worker's buffers

  alarm<Env> alarm_;
  call_table<call> calls_;
  served_table<worker> served_;
  std::list<worker> workers_;
  std::vector<worker*> idle_;
  std::deque<control> controls_;
  bool sending_controls_ = false;
  bool closing_ = false;       // close() was called here
  bool said_goodbye_ = false;  // no call is begun any more
  bool peer_closing_ = false;  // the peer said goodbye: it begins no call any more
  bool ended_ = false;         // the channel has ended
  time_point drain_until_ = never;
  bool drain_expired_ = false;
};

}  // namespace lockstep::detail
