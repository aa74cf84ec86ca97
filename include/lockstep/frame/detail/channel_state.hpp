// channel_state: what a channel, its coroutines and its operations under way share.
//
// Operations hold it by shared_ptr, so that a channel can be destroyed at any time. It never holds a coroutine that
// nobody else would resume or destroy: when the executor drops an operation, whoever waits for it is let go.
#pragma once

#include "lockstep/core/errors.hpp"
#include "lockstep/core/mutant.hpp"
#include "lockstep/core/wait_list.hpp"
#include "lockstep/frame/channel_options.hpp"
#include "lockstep/frame/codec.hpp"
#include "lockstep/frame/detail/alarm.hpp"
#include "lockstep/frame/detail/operation_memory.hpp"
#include "lockstep/frame/detail/parked.hpp"
#include "lockstep/frame/detail/send_queue.hpp"
#include "lockstep/frame/stream_traits.hpp"

#include <algorithm>
#include <array>
#include <cassert>
#include <memory>
#include <string>
#include <utility>
#include <vector>

namespace lockstep::detail {

template <class Env, class Stream>
class channel_state : public std::enable_shared_from_this<channel_state<Env, Stream>> {
 public:
  static constexpr std::size_t most_in_batch = 512;
  static constexpr std::size_t most_in_write = 16;  ///< pieces: headers and payloads that are too long to be copied

  channel_state(Env& in, Stream over, channel_options with)
      : env(in),
        options(std::move(with)),
        stream(std::move(over)),
        executor(stream.get_executor()),
        decoder(options.max_frame_bytes, options.read_buffer_bytes),
        ended(executor),
        alarm_(in, [this](time_point now) { return sweep(now); }) {
    peer.address = remote_address(stream);
    batch.reserve(most_in_batch);
  }

  Env& env;
  const channel_options options;
  Stream stream;
  const asio::any_io_executor executor;
  peer_info peer;
  frame_decoder decoder;
  std::vector<frame_view> batch;  ///< the last receive_batch()'s
  parked* receiver = nullptr;     ///< waits for bytes or for the end of receiving
  wait_list ended;                ///< notified when the channel fails and when no operation is under way any more
  bool closing = false;           ///< close() has begun: only it still receives

  // --- Receiving ---

  enum class arrival { frame, nothing, failure };

  /// Takes the next whole frame that has arrived. After failure, see reason_for_receiver().
  arrival take_frame(frame_view& frame) {
    while (!closed_ && !closing) {
      const verdict found = decoder.next(frame);
      if (found == verdict::ok) {
        if (frame.kind == frame_kind::keepalive) continue;
        return arrival::frame;
      }
      if (found == verdict::need_more) return receive_error_ ? arrival::failure : arrival::nothing;
      fail(decoder.reason());
    }
    return arrival::failure;
  }

  /// Makes sure that a read is under way. Its end resumes the receiver, and what it brings is kept when there is none.
  void start_read() {
    assert((!receiver || sink) && "one receive at a time");
    if (reading_) return;
    reading_ = true;
    const mutable_bytes room = decoder.prepare();
    stream.async_read_some(asio::mutable_buffer(room.data(), room.size()), read_handler(this->shared_from_this()));
  }

  /// Where frames go as they arrive, while somebody is in deliver().
  struct frame_sink {
    const void* object = nullptr;
    bool (*use)(const void*, const frame_view&) = nullptr;  ///< @return whether to go on
    explicit operator bool() const noexcept { return use != nullptr; }
  };
  frame_sink sink;

  /// Gives the sink what has arrived. @return nothing: a read is under way for it; frame: it has had enough; failure,
  /// see reason_for_receiver().
  arrival pump() {
    const corked scope(*this);  // what is sent meanwhile leaves in one write
    for (;;) {
      frame_view frame;
      const arrival arrived = take_frame(frame);
      if (arrived == arrival::nothing) start_read();
      if (arrived != arrival::frame || !sink.use(sink.object, frame)) return arrived;
    }
  }

  /// Ends a receive that waits.
  void release_receiver(std::error_code result) {
    if (receiver) receiver->resume_later(executor, result);
  }

  [[nodiscard]] std::error_code reason_for_receiver() const noexcept {
    if (closed_) return closed_;
    if (closing) return errc::closed;
    const bool inside_a_message = receive_error_ == asio::error::eof && !decoder.unread().empty();
    return inside_a_message ? make_error_code(errc::truncated) : receive_error_;
  }

  [[nodiscard]] bool receiving_ended() const noexcept { return receive_error_ || closed_; }

  // --- Sending ---

  /// A frame that waits for its turn in its sender's memory, or a mark without bytes. Lies in the sender's frame.
  struct waiting_frame : send_queue::reference {
    explicit waiting_frame(channel_state& of) : self(of.shared_from_this()) { this->header_sent = frame_header_bytes; }
    waiting_frame(const waiting_frame&) = delete;
    waiting_frame& operator=(const waiting_frame&) = delete;
    ~waiting_frame() { self->queue_.withdraw(*this); }

    void set(const frame_header& of, std::span<const bytes_view> payload, std::size_t payload_bytes) {
      const bool unhashed = (of.flags & frame_flag::self_checked) != 0;
      encode_frame_header(this->header.data(), of, payload_bytes, unhashed ? 0 : xxh3_64(payload));
      this->header_sent = 0;
      this->parts = payload;
      this->bytes = this->bytes_in_all = frame_header_bytes + payload_bytes;
    }

    const std::shared_ptr<channel_state> self;
    parked* sender = nullptr;
    time_point deadline = never;  ///< when the sender is resumed with timed_out
    std::error_code result{};
  };

  /// Why no frame of this size can be sent, now or later.
  [[nodiscard]] std::error_code reason_for_sender(std::size_t payload_bytes) const noexcept {
    if (send_error_) return send_error_;
    if (closing) return errc::closed;
    return payload_bytes > options.max_frame_bytes ? make_error_code(errc::frame_too_large) : std::error_code();
  }

  /// Copies the frame to the queue when it is small and need not wait. @pre !reason_for_sender()
  bool try_copy(const frame_header& header, std::span<const bytes_view> parts, std::size_t payload_bytes,
                std::size_t longest) {
    const std::size_t bytes = frame_header_bytes + payload_bytes;
    const std::size_t queued = queue_.owned_bytes();
    if (payload_bytes > longest) return false;
    if (queue_.has_references() && !mutated(mutant::small_frames_overtake_large)) return false;
    const bool full = queued != 0 && queued + bytes > options.send_queue_bytes;
    if (full && !mutated(mutant::ignore_backpressure)) return false;
    queue_.copy_frame(header, parts, payload_bytes);
    write_soon();
    return true;
  }

  /// Queues `frame` behind everything before it and writes what can be written. @return whether its sender must wait.
  bool submit(waiting_frame& frame, time_point deadline = never) {
    if (send_error_) {
      frame.result = send_error_;
      return false;
    }
    queue_.push(frame);
    if (!writing_) write();
    if (frame.queued && deadline != never) {
      frame.deadline = deadline;
      alarm_.at(deadline);
    }
    return frame.queued;
  }

  /// Bytes that are no frame: a handshake's. Follow by write().
  [[nodiscard]] byte_buffer& raw_output() noexcept { return queue_.copied(); }

  /// Hands over what is queued, as much as the stream takes now, and the rest when it takes more.
  void write() {
    if (writing_) return;
    parked::batch woken;
    write_and_collect(woken);
    resume_later(std::move(woken));
  }

  [[nodiscard]] std::size_t queued_bytes() const noexcept { return queue_.owned_bytes(); }

  // --- The end ---

  /// Closes the stream; operations under way and later ones end with `ec`. Only the first call counts.
  void fail(std::error_code ec, std::string text = {}) {
    if (closed_) return;
    closed_ = ec;
    text_ = std::move(text);
    close_stream(stream);
    alarm_.stop();
    parked::batch woken;
    end_sending(ec, woken);
    if (receiver) woken.add(receiver, ec);
    resume_later(std::move(woken));
    ended.notify_all();
  }

  [[nodiscard]] const std::error_code& closed() const noexcept { return closed_; }
  [[nodiscard]] bool busy() const noexcept { return reading_ || writing_; }
  awaitable<void> join_alarm() { return alarm_.join(); }

  [[noreturn]] void throw_error(std::error_code ec) const {
    throw std::system_error(ec, ec == closed_ && !text_.empty() ? text_ : "peer at " + peer.address);
  }

  // --- Deadlines ---

  /// The channel fails with `ec` at `when`, unless lift_limit() comes before.
  void set_limit(time_point when, std::error_code ec, std::string text = {}) {
    limit_ = when;
    limit_error_ = ec;
    limit_text_ = std::move(text);
    alarm_.at(when);
  }
  void lift_limit() noexcept { limit_ = never; }

  /// From now on the peer's silence is measured, and this side's is broken by keepalives.
  void watch_silence() {
    tick_ = options.idle_timeout / 4;
    if (options.keepalive.count() != 0 && (tick_.count() == 0 || options.keepalive / 2 < tick_)) {
      tick_ = options.keepalive / 2;
    }
    if (tick_.count() == 0) return;
    heard_at_ = said_at_ = env.now();
    next_tick_ = heard_at_ + tick_;
    alarm_.at(next_tick_);
  }

 private:
  // --- Operations under way ---

  // Owns the state for an operation. `finish` gets its outcome; an operation that is dropped unrun fails the channel.
  template <void (channel_state::*finish)(std::error_code, std::size_t), operation_memory channel_state::*memory>
  class operation {
   public:
    using allocator_type = operation_allocator<void>;

    explicit operation(std::shared_ptr<channel_state> of) noexcept : memory_((*of).*memory), self_(std::move(of)) {}
    operation(operation&&) noexcept = default;
    operation& operator=(operation&&) = delete;
    ~operation() {
      if (!self_) return;
      self_->fail(asio::error::operation_aborted);  // nobody waits after that: nothing runs inside this
      ((*self_).*finish)(asio::error::operation_aborted, 0);
    }

    void operator()(std::error_code ec, std::size_t bytes) {
      const std::shared_ptr<channel_state> self = std::move(self_);
      ((*self).*finish)(ec, bytes);
    }

    [[nodiscard]] allocator_type get_allocator() const noexcept { return allocator_type(memory_); }

   private:
    operation_memory& memory_;
    std::shared_ptr<channel_state> self_;
  };

  void finish_read(std::error_code ec, std::size_t bytes) {
    reading_ = false;
    wrote_this_turn_ = false;
    if (ec) {
      if (!receive_error_) receive_error_ = ec;
    } else {
      ++reads_;
      decoder.commit(bytes);
    }
    if (receiver) {
      const corked scope(*this);  // what the receiver sends before it suspends leaves in one write
      const arrival arrived = sink ? pump() : arrival::frame;
      if (receiver && arrived != arrival::nothing) {
        receiver->resume_now(arrived == arrival::failure ? reason_for_receiver() : std::error_code());
      }
    }
    notify_ended();
  }

  void finish_write(std::error_code ec, std::size_t bytes) {
    writing_ = false;
    wrote_this_turn_ = false;
    parked::batch woken;
    if (!ec && mutated(mutant::short_write_counts_as_whole)) bytes = queue_.pin(0).size();
    queue_.sent(bytes, [&woken](send_queue::reference& sent) { wake(sent, {}, woken); });
    if (ec) end_sending(ec, woken);
    write_and_collect(woken);
    {
      const corked scope(*this);  // what senders that waited send next leaves in one write
      woken();
    }
    notify_ended();
  }

  void write_and_collect(parked::batch& woken) {
    const auto done = [&woken](send_queue::reference& sent) { wake(sent, {}, woken); };
    flush_on_uncork_ = false;
    while (!send_error_) {
      queue_.copy_references(options.copy_bytes, options.send_queue_bytes, done);
      queue_.sent(0, done);
      if (queue_.empty()) break;
      ++writes_;
      if constexpr (writes_now<Stream>) {
        std::array<bytes_view, most_in_write> pieces;
        std::size_t total = 0;
        const std::size_t count = queue_.gather(pieces, total);
        std::error_code ec;
        const std::size_t taken = stream.write_now(std::span<const bytes_view>(pieces.data(), count), ec);
        if (ec && ec != asio::error::would_block) {
          end_sending(ec, woken);
          break;
        }
        queue_.sent(taken, done);
        if (taken == total) continue;
      }
      start_write();
      break;
    }
  }

  void start_write() {
    // A stream that writes now is blocked and takes the rest by itself soon; a little suffices to be told when.
    constexpr std::size_t most_of_reference = writes_now<Stream> ? 4096 : 65536;
    const bytes_view first = queue_.pin(most_of_reference);
    writing_ = true;
    stream.async_write_some(asio::const_buffer(first.data(), first.size()), write_handler(this->shared_from_this()));
  }

  void notify_ended() {
    if (closed_ && !busy()) ended.notify_all();
  }

  // --- When to write ---

  struct corked {
    channel_state& self;
    explicit corked(channel_state& of) noexcept : self(of) { ++self.corked_; }
    corked(const corked&) = delete;
    ~corked() {
      if (--self.corked_ == 0 && self.flush_on_uncork_) self.write();
    }
  };

  // A frame was copied. Inside a receiver's turn it leaves at the turn's end. Elsewhere the end of the turn can only
  // be told by a posted handler, which makes the reactor poll once more; so the first frame is written at once, and
  // only when a second one followed it in the same turn are frames collected, until a turn has brought just one.
  void write_soon() {
    if (writing_) return;
    if (queue_.owned_bytes() >= options.coalesce_bytes) return write();
    if (corked_ != 0) {
      flush_on_uncork_ = true;
    } else if (flush_posted_) {
      ++frames_collected_;
    } else if (!collecting_ && !wrote_this_turn_) {
      wrote_this_turn_ = true;
      write();
    } else {
      collecting_ = flush_posted_ = true;
      frames_collected_ = 1;
      asio::post(executor, [self = this->shared_from_this()] { self->end_turn(); });
    }
  }

  void end_turn() {
    flush_posted_ = wrote_this_turn_ = false;
    collecting_ = frames_collected_ > 1;
    write();
  }

  // --- Helpers ---

  static void wake(send_queue::reference& sent, std::error_code result, parked::batch& woken) noexcept {
    auto& frame = static_cast<waiting_frame&>(sent);
    frame.result = result;
    if (frame.sender) woken.add(frame.sender, result);
  }

  void end_sending(std::error_code ec, parked::batch& woken) {
    if (!send_error_) send_error_ = ec;
    queue_.clear([&](send_queue::reference& unsent) { wake(unsent, send_error_, woken); });
  }

  void resume_later(parked::batch&& woken) {
    if (!woken.empty()) asio::post(executor, std::move(woken));
  }

  time_point sweep(time_point now) {
    if (now >= limit_) {
      fail(limit_error_, std::move(limit_text_));
      return never;
    }
    if (now >= next_tick_) {
      next_tick_ = now + tick_;
      if (!check_silence(now)) return never;
    }
    return std::min({limit_, next_tick_, sweep_senders(now)});
  }

  time_point sweep_senders(time_point now) {
    time_point earliest = never;
    parked::batch late;
    queue_.for_each_reference([&](send_queue::reference& each) {
      auto& frame = static_cast<waiting_frame&>(each);
      if (now < frame.deadline) {
        earliest = std::min(earliest, frame.deadline);
      } else if (frame.sender) {
        late.add(frame.sender, errc::timed_out);
      }
    });
    resume_later(std::move(late));
    return earliest;
  }

  bool check_silence(time_point now) {
    if (reads_ != heard_ || !receiver) {
      heard_ = reads_;
      heard_at_ = now;
    } else if (options.idle_timeout.count() != 0 && now - heard_at_ >= options.idle_timeout &&
               !mutated(mutant::never_idle)) {
      fail(errc::idle_timeout);
      return false;
    }
    if (writes_ != said_ || !queue_.empty()) {
      said_ = writes_;
      said_at_ = now;
    } else if (options.keepalive.count() != 0 && now - said_at_ >= options.keepalive && !closing && !send_error_) {
      queue_.copy_frame({frame_kind::keepalive, frame_flag::none, 0}, {}, 0);
      write();
    }
    return true;
  }

  operation_memory read_memory_;
  operation_memory write_memory_;
  using read_handler = operation<&channel_state::finish_read, &channel_state::read_memory_>;
  using write_handler = operation<&channel_state::finish_write, &channel_state::write_memory_>;

  send_queue queue_;
  alarm<Env> alarm_;

  bool reading_ = false;
  bool writing_ = false;  // an asynchronous write reads the queue's pinned bytes
  unsigned corked_ = 0;
  bool flush_on_uncork_ = false;
  bool flush_posted_ = false;
  bool collecting_ = false;
  bool wrote_this_turn_ = false;
  std::size_t frames_collected_ = 0;

  std::error_code closed_;         // why the stream was closed from this side
  std::string text_;               // about closed_
  std::error_code receive_error_;  // how the peer's bytes ended; what arrived before is still delivered
  std::error_code send_error_;

  time_point limit_ = never;
  std::error_code limit_error_;
  std::string limit_text_;
  duration tick_{0};
  time_point next_tick_ = never;
  std::uint64_t reads_ = 0;
  std::uint64_t writes_ = 0;
  std::uint64_t heard_ = 0;  // reads_ at the last tick
  std::uint64_t said_ = 0;   // writes_ at the last tick
  time_point heard_at_{};
  time_point said_at_{};
};

}  // namespace lockstep::detail
