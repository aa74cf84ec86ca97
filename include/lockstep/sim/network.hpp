// network: the simulated machines' connections, and what may happen to them.
//
// A connection carries bytes as TCP does: in order, none twice, none lost while both ends live. Bytes that a partition
// holds up arrive when it heals; a sender that is held up for `give_up` sees timed_out. What is in flight when a
// connection is reset is lost. A process that dies closes its connections; a machine that loses power says nothing, so
// that the other end stays half-open until it sends something to the machine when it is up again. A one-way partition
// keeps back the answers too: a sender that gets none times out, and room that it is not told of it does not use.
//
// A connection is opened by three messages, and its server accepts it when the third has come. A reset comes behind
// what was sent before it, of which packets may be missing, since nobody sends them again (RFC 9293, section 3.5.2, and
// for resets behind a gap RFC 5961, section 3.2).
#pragma once

#include "lockstep/core/wait_list.hpp"
#include "lockstep/sim/process.hpp"

#include <asio/associated_allocator.hpp>
#include <asio/associated_executor.hpp>

#include <algorithm>
#include <cassert>
#include <cstring>
#include <deque>
#include <memory>
#include <span>
#include <string>
#include <vector>

namespace lockstep::sim {

struct network_options {
  network_options() {}

  duration latency = std::chrono::microseconds(200);  ///< one way, at least
  duration jitter = std::chrono::microseconds(300);   ///< and at most so much more
  std::uint64_t bytes_per_second = 0;                 ///< of each direction of a connection; 0: without limit
  std::size_t buffer_bytes = std::size_t{64} << 10;   ///< written and not yet read, a direction
  double partial = 0.0;                         ///< how often a read or write takes a random part of what it could
  std::size_t backlog = 128;                    ///< connections that wait to be accepted; more are dropped
  duration give_up = std::chrono::seconds(30);  ///< how long bytes are sent again before the sender sees timed_out
  duration resend = std::chrono::seconds(1);    ///< between attempts to connect, and at most after a partition
  double lost_by_resets = 0.25;                 ///< how often a reset comes, and what flew before it is missing
};

/// What the network knows of a machine.
struct machine {
  std::uint32_t index = 0;
  std::string name;
  bool powered = true;
  bool stopped = false;  ///< as a paused virtual machine

  [[nodiscard]] std::string ip() const { return "10.0.0." + std::to_string(index + 1); }
  [[nodiscard]] bool hears() const noexcept { return powered && !stopped; }
};

class stream;
class acceptor;

namespace detail {

struct parked_io {
  parked_io() = default;
  parked_io(const parked_io&) = delete;
  virtual ~parked_io() = default;
  virtual void complete(std::error_code ec, std::size_t bytes) = 0;
};

template <class Handler>
struct parked_handler final : parked_io {
  Handler handler;
  asio::any_io_executor fallback;
  parked_handler(Handler&& of, asio::any_io_executor executor)
      : handler(std::move(of)), fallback(std::move(executor)) {}
  void complete(std::error_code ec, std::size_t bytes) override {
    const auto executor = asio::get_associated_executor(handler, fallback);
    asio::post(executor, [taken = std::move(handler), ec, bytes]() mutable { std::move(taken)(ec, bytes); });
  }
};

struct pending_io {
  std::unique_ptr<parked_io> handler;
  std::byte* data = nullptr;
  std::size_t size = 0;
  std::uint64_t serial = 0;

  void complete(std::error_code ec, std::size_t bytes) { std::exchange(handler, nullptr)->complete(ec, bytes); }
};

class connection;

/// Who listens. Shared by the acceptor and by whoever is in its accept().
struct listener : std::enable_shared_from_this<listener> {
  process* owner;
  machine* at;
  address where;
  std::deque<std::shared_ptr<connection>> backlog;
  wait_list arrived;
  bool open = true;

  listener(process& of, machine& on, address listened)
      : owner(&of), at(&on), where(std::move(listened)), arrived(of.get_executor()) {}
};

}  // namespace detail

/// See the top of this file.
class network {
 public:
  explicit network(world& in) : in_(in), random_(in.random("network")), damage_(in.random("corruption")) {}
  network(const network&) = delete;

  network_options options;

  void add(machine& joined) {
    joined.index = static_cast<std::uint32_t>(machines_.size());
    machines_.push_back(&joined);
    for (auto& row : paths_) row.resize(machines_.size());
    paths_.emplace_back(machines_.size());
  }

  // --- faults
  // -----------------------------------------------------------------------------------------------------------

  /// Lets nothing through from one machine to another until as many unblock() calls came. One-way: call it for both
  /// directions to cut both.
  void block(const machine& from, const machine& to) { ++path(from, to).blocked; }
  void unblock(const machine& from, const machine& to);
  [[nodiscard]] bool blocked(const machine& from, const machine& to) const { return path(from, to).blocked != 0; }

  /// What every byte from one machine to another takes longer.
  void delay(const machine& from, const machine& to, duration extra) { path(from, to).extra = extra; }
  void limit_bandwidth(const machine& from, const machine& to, std::uint64_t bytes_per_second) {
    path(from, to).bytes_per_second = bytes_per_second;
  }

  /// How often one byte of what arrives together is altered, in a way that TCP's checksum does not notice: a broken
  /// network card or proxy.
  void corrupt(const machine& from, const machine& to, double how_often) { path(from, to).corrupted = how_often; }
  [[nodiscard]] std::uint64_t bytes_corrupted() const noexcept { return bytes_corrupted_; }

  /// Resets all connections between two machines; what is in flight is lost. @return how many there were.
  std::size_t reset(const machine& a, const machine& b);

  [[nodiscard]] std::size_t open_connections() const { return connections_.size(); }

  // --- for the simulated environment
  // --------------------------------------------------------------------------------------

  struct path_state {
    int blocked = 0;
    duration extra{0};
    std::uint64_t bytes_per_second = 0;
    double corrupted = 0.0;
  };
  [[nodiscard]] path_state& path(const machine& from, const machine& to) { return paths_[from.index][to.index]; }
  [[nodiscard]] const path_state& path(const machine& from, const machine& to) const {
    return paths_[from.index][to.index];
  }

  /// When what leaves now arrives.
  [[nodiscard]] std::int64_t arrival(const machine& from, const machine& to) {
    const path_state& on = path(from, to);
    duration takes = &from == &to ? options.latency / 10 : options.latency;
    takes += duration(static_cast<std::int64_t>(random_.below(static_cast<std::uint64_t>(options.jitter.count()) + 1)));
    return (in_.elapsed() + takes + on.extra).count();
  }

  /// Bytes a second that a connection's direction carries; 0: without limit.
  [[nodiscard]] std::uint64_t rate(const machine& from, const machine& to) const {
    const std::uint64_t limited = path(from, to).bytes_per_second;
    return limited != 0 ? limited : options.bytes_per_second;
  }

  /// How many of `most` bytes an operation takes this time.
  [[nodiscard]] std::size_t part_of(std::size_t most) {
    if (most < 2 || options.partial <= 0 || !random_.chance(options.partial)) return most;
    const std::uint64_t bound = random_.chance(0.25) ? std::min<std::size_t>(most, 4) : most;
    return static_cast<std::size_t>(1 + random_.below(bound));
  }

  /// What becomes of one of `count` bytes that arrive together.
  struct damage {
    std::uint64_t offset = 0;
    std::byte flipped{0};  ///< none: no byte is altered
  };
  [[nodiscard]] damage drawn_damage(const machine& from, const machine& to, std::uint64_t count) {
    damage drawn;
    const double how_often = path(from, to).corrupted;
    if (how_often <= 0 || !damage_.chance(how_often)) return drawn;
    ++bytes_corrupted_;
    // Half of the time where a program trusts most, in the first words, which often say how much follows.
    drawn.offset = damage_.below(damage_.chance(0.5) ? std::min<std::uint64_t>(count, 8) : count);
    drawn.flipped = std::byte{1} << damage_.below(8);
    return drawn;
  }

  [[nodiscard]] machine* resolve(const machine& from, const std::string& host);
  [[nodiscard]] detail::listener* listening(const machine& at, const address& where);
  void listen(detail::listener& added, std::error_code& ec);
  void unlisten(detail::listener& gone) { std::erase(listeners_, &gone); }
  std::uint16_t free_port(const machine& at);

  void opened(std::shared_ptr<detail::connection> added) { connections_.push_back(std::move(added)); }
  void ended(const detail::connection* gone);
  /// A process ends: its connections close, or fall silent when the machine has no power.
  void abandon(const process& ended);
  /// What the machine had still to send is lost.
  void lose_power(const machine& gone);

  [[nodiscard]] world& in() const noexcept { return in_; }
  [[nodiscard]] random_stream& random() noexcept { return random_; }

 private:
  world& in_;
  random_stream random_;
  random_stream damage_;
  std::uint64_t bytes_corrupted_ = 0;
  std::vector<machine*> machines_;
  std::vector<std::vector<path_state>> paths_;
  std::vector<detail::listener*> listeners_;
  std::vector<std::shared_ptr<detail::connection>> connections_;
  std::uint16_t next_port_ = 40000;
};

namespace detail {

/// Two ends and the two ways between them.
class connection : public std::enable_shared_from_this<connection> {
 public:
  struct end {
    machine* at = nullptr;
    process* owner = nullptr;  // null until accepted, and when closed
    address local;
    bool open = true;
    std::error_code broken;  // what every operation ends by
    pending_io reading;
    pending_io writing;
  };

  /// As a server's machine knows it that has answered a client's first message.
  connection(network& net, machine& client, process& owner, machine& server, address server_at,
             const std::shared_ptr<listener>& asked)
      : net_(net), listener_(asked), begun_(net.in().elapsed()) {
    ends_[0].at = &client;
    ends_[0].owner = &owner;
    ends_[0].local = address(client.ip(), net.free_port(client));
    ends_[1].at = &server;
    ends_[1].local = std::move(server_at);
  }
  connection(const connection&) = delete;

  [[nodiscard]] const end& at(unsigned side) const noexcept { return ends_[side]; }
  /// The server's answer has reached the client, for whom the connection is open now. Its server learns that by the
  /// third message, or by what the client sends next.
  void answered() {
    opening_ = opening::answered;
    acknowledge(net_.arrival(*ends_[0].at, *ends_[1].at));
  }
  void accepted_by(process& owner) { ends_[1].owner = &owner; }
  /// Nobody will accept it.
  void refuse() {
    if (ends_[1].at->powered) send_reset(1);
    forget();
  }
  [[nodiscard]] bool between(const machine& a, const machine& b) const noexcept {
    return (ends_[0].at == &a && ends_[1].at == &b) || (ends_[0].at == &b && ends_[1].at == &a);
  }

  std::size_t write(unsigned side, bytes_view from, std::error_code& ec) {
    way& out = ways_[side];
    if (!check(side, ec)) return 0;
    if (out.ended) return ec = asio::error::broken_pipe, 0;
    ec.clear();
    if (from.empty()) return 0;
    const auto unanswered = static_cast<std::size_t>(out.written - out.answered);
    const std::size_t room = net_.options.buffer_bytes - std::min(net_.options.buffer_bytes, unanswered);
    if (room == 0) {
      out.full = true;
      return ec = asio::error::would_block, 0;
    }
    const std::size_t taken = net_.part_of(std::min(room, from.size()));
    out.put(from.first(taken));
    transmit(side);
    return taken;
  }

  std::size_t read(unsigned side, mutable_bytes into, std::error_code& ec) {
    way& in = ways_[1 - side];
    ec.clear();
    if (!ends_[side].open) return ec = asio::error::bad_descriptor, 0;
    if (into.empty()) return 0;
    if (in.delivered != in.read) {
      const std::size_t taken =
          net_.part_of(static_cast<std::size_t>(std::min<std::uint64_t>(into.size(), in.delivered - in.read)));
      in.take(into.first(taken));
      answer(1 - side);
      return taken;
    }
    if (in.end_delivered) {
      ec = asio::error::eof;
    } else if (ends_[side].broken) {
      ec = ends_[side].broken;
    } else {
      ec = asio::error::would_block;
    }
    return 0;
  }

  void end_sending(unsigned side, std::error_code& ec) {
    if (!check(side, ec)) return;
    ways_[side].ended = true;
    transmit(side);
  }

  void close(unsigned side) {
    end& closing = ends_[side];
    if (!closing.open) return;
    const auto keeps = shared_from_this();
    closing.open = false;
    const bool silent = !closing.at->powered;
    const bool unread = ways_[1 - side].delivered != ways_[1 - side].read;
    complete(closing.reading, asio::error::operation_aborted);
    complete(closing.writing, asio::error::operation_aborted);
    closing.owner = nullptr;
    land_elsewhere(1 - side);
    if (opening_ == opening::asked) {
      ends_[1].open = false;  // the client's machine answers the server's answer by a reset
    } else if (silent || closing.broken) {
      forget_unsent(side);
    } else if (unread) {
      send_reset(side);
    } else {
      ways_[side].ended = true;
      transmit(side);
    }
    if (!ends_[1 - side].open) net_.ended(this);
  }

  /// The system of `gone` does not send any more what was left to it.
  void lose_power(const machine& gone) {
    for (const unsigned side : {0u, 1u}) {
      if (ends_[side].at == &gone) forget_unsent(side);
    }
  }

  /// A process that owns `side` is gone: nobody hears of what it waited for.
  void abandon(unsigned side, std::vector<std::unique_ptr<parked_io>>& doomed) {
    for (pending_io* const each : {&ends_[side].reading, &ends_[side].writing}) {
      if (each->handler) doomed.push_back(std::move(each->handler));
    }
    close(side);
  }

  /// Both ends see a reset, and what is in flight is lost.
  void reset() {
    for (const unsigned side : {0u, 1u}) {
      forget_flying(side);
      if (ends_[side].open) break_end(side, asio::error::connection_reset);
    }
  }

  /// What was held up from one of these machines to the other goes on.
  void heal(const machine& from, const machine& to) {
    for (const unsigned side : {0u, 1u}) {
      way& out = ways_[side];
      if (ends_[1 - side].at == &from && ends_[side].at == &to) {
        out.awaits_answer = false;
        answer(side);
      }
      if (ends_[side].at != &from || ends_[1 - side].at != &to || !out.stuck) continue;
      out.stuck = false;
      resend_delay_ = duration(
          static_cast<std::int64_t>(net_.random().below(static_cast<std::uint64_t>(net_.options.resend.count()) + 1)));
      transmit(side);
      resend_delay_ = duration(0);
    }
  }

  void park(unsigned side, bool reads, std::unique_ptr<parked_io> handler, std::byte* data, std::size_t size) {
    pending_io& into = reads ? ends_[side].reading : ends_[side].writing;
    assert(!into.handler);
    into = pending_io{std::move(handler), data, size, ++serials_};
  }
  [[nodiscard]] std::uint64_t last_serial() const noexcept { return serials_; }

  void cancel(unsigned side, bool reads, std::uint64_t serial) {
    pending_io& which = reads ? ends_[side].reading : ends_[side].writing;
    if (which.handler && which.serial == serial) which.complete(asio::error::operation_aborted, 0);
  }

 private:
  static constexpr std::uint64_t least_carried = 1460;  // bytes: as a packet

  // The bytes that `side` has written and the other has not read.
  struct way {
    std::vector<std::byte> ring;
    std::uint64_t written = 0;
    std::uint64_t flying = 0;  // of `written`, sent on their way
    std::uint64_t delivered = 0;
    std::uint64_t read = 0;
    std::uint64_t answered = 0;  // of `read`, known to the writer: its buffer has room again
    bool ended = false;
    bool end_flying = false;
    bool end_delivered = false;
    bool full = false;           // somebody found no room
    bool stuck = false;          // held up by a partition or a machine that does not hear
    bool held = false;           // has been stuck, and nothing arrived since
    bool awaits_answer = false;  // something arrived, and a partition keeps the writer from knowing
    bool once = false;           // what is lost is not sent again
    bool pacing = false;         // transmit() comes back when the path has carried what it has got
    std::int64_t busy_until = 0;
    std::int64_t last_arrival = 0;
    std::uint64_t attempt = 0;  // deliveries of earlier ones are void
    std::uint64_t waits = 0;    // held or awaits_answer, counted

    [[nodiscard]] std::size_t size() const noexcept { return static_cast<std::size_t>(written - read); }
    void alter(std::uint64_t at, std::byte flipped) { ring[at & (ring.size() - 1)] ^= flipped; }
    void put(bytes_view from) {
      if (size() + from.size() > ring.size()) grow(size() + from.size());
      copy(from, written);
      written += from.size();
    }
    void take(mutable_bytes into) {
      const std::size_t at = static_cast<std::size_t>(read & (ring.size() - 1));
      const std::size_t first = std::min(into.size(), ring.size() - at);
      std::memcpy(into.data(), ring.data() + at, first);
      if (first != into.size()) std::memcpy(into.data() + first, ring.data(), into.size() - first);
      read += into.size();
    }

   private:
    void copy(bytes_view from, std::uint64_t to) {
      const std::size_t at = static_cast<std::size_t>(to & (ring.size() - 1));
      const std::size_t first = std::min(from.size(), ring.size() - at);
      std::memcpy(ring.data() + at, from.data(), first);
      if (first != from.size()) std::memcpy(ring.data(), from.data() + first, from.size() - first);
    }
    void grow(std::size_t needed) {
      std::size_t room = std::max<std::size_t>(ring.size(), 1024);
      while (room < needed) room *= 2;
      std::vector<std::byte> old(size());
      const std::uint64_t begin = read;
      if (!old.empty()) take(old);
      read = begin;
      ring.resize(room);
      if (!old.empty()) copy(old, begin);
    }
  };

  enum class opening : std::uint8_t {
    asked,     // the server has answered the client's first message
    answered,  // the client knows
    done,      // the server knows
  };

  // The third message.
  void acknowledge(std::int64_t arrives) {
    ways_[0].last_arrival = std::max(ways_[0].last_arrival, arrives);
    net_.in().schedule(arrives, nullptr, event_kind::delivery, [self = shared_from_this()] { self->acknowledged(); });
  }

  void acknowledged() {
    const machine& server = *ends_[1].at;
    if (server.hears() && !net_.blocked(*ends_[0].at, server) && establish()) return;
    // The server asks again for a while, unless the client says that it knows of nothing.
    const duration now = net_.in().elapsed();
    if (ways_[0].once || now - begun_ >= net_.options.give_up) return forget();
    acknowledge((now + net_.options.resend).count());
  }

  // The server's machine forgets what nobody has accepted.
  void forget() {
    opening_ = opening::done;
    ends_[1].open = false;
    forget_unsent(1);
    if (!ends_[0].open) net_.ended(this);
  }

  // The server has heard from a client that knows of the connection. @return false when it has no room for it yet.
  bool establish() {
    if (opening_ == opening::done) return true;
    const std::shared_ptr<listener> to = listener_.lock();
    if (!to || !to->open || ends_[1].broken) return refuse(), true;
    if (to->backlog.size() >= net_.options.backlog) return false;
    opening_ = opening::done;
    to->backlog.push_back(shared_from_this());
    to->arrived.notify_one();
    return true;
  }

  [[nodiscard]] bool check(unsigned side, std::error_code& ec) {
    ec.clear();
    if (!ends_[side].open) ec = asio::error::bad_descriptor;
    if (!ec) ec = ends_[side].broken;
    return !ec;
  }

  void transmit(unsigned side) {
    way& out = ways_[side];
    if (out.flying == out.written && out.ended == out.end_flying) return;
    if (out.stuck || out.pacing) return;
    const machine& from = *ends_[side].at;
    const machine& to = *ends_[1 - side].at;
    if (from.stopped || net_.blocked(from, to)) return hold_up(side);
    const std::int64_t now = net_.in().elapsed().count();
    const std::uint64_t rate = net_.rate(from, to);
    if (rate != 0 && out.busy_until > now) return transmit_later(side);
    out.busy_until = now;
    std::uint64_t up_to = out.written;
    if (rate != 0) {
      up_to = std::min(up_to, out.flying + std::max<std::uint64_t>(least_carried, rate / 50));
      out.busy_until += static_cast<std::int64_t>((up_to - out.flying) * 1'000'000'000u / rate);
    }
    out.flying = up_to;
    out.end_flying = out.ended && up_to == out.written;
    out.last_arrival =
        std::max(out.last_arrival + 1, net_.arrival(from, to) + out.busy_until - now + resend_delay_.count());
    land(side, ends_[1 - side].owner);
    if (up_to != out.written) transmit_later(side);
  }

  // A narrow path carries a little at a time, so that it can become wider meanwhile.
  void transmit_later(unsigned side) {
    way& out = ways_[side];
    out.pacing = true;
    net_.in().schedule(out.busy_until, nullptr, event_kind::delivery, [self = shared_from_this(), side] {
      self->ways_[side].pacing = false;
      self->transmit(side);
    });
  }

  // Everything that flies arrives at last_arrival.
  void land(unsigned side, process* receiver) {
    const way& out = ways_[side];
    net_.in().schedule(
        out.last_arrival, receiver, event_kind::delivery,
        [self = shared_from_this(), side, up_to = out.flying, ends = out.end_flying, attempt = out.attempt,
         sent = net_.in().elapsed().count()] { self->arrive(side, up_to, ends, attempt, sent); });
  }

  // What flies was to happen to a process that is gone: it happens to its machine.
  void land_elsewhere(unsigned side) {
    way& out = ways_[side];
    if (out.flying == out.delivered && out.end_flying == out.end_delivered) return;
    ++out.attempt;
    land(side, nullptr);
  }

  void forget_unsent(unsigned side) {
    way& out = ways_[side];
    out.written = out.flying;
    out.ended = out.end_flying;
    out.once = true;
  }

  void arrive(unsigned side, std::uint64_t up_to, bool ends, std::uint64_t attempt, std::int64_t sent) {
    way& out = ways_[side];
    if (attempt != out.attempt) return;
    assert(up_to >= out.delivered);
    connection::end& to = ends_[1 - side];
    if (!to.at->hears() || net_.blocked(*ends_[side].at, *to.at)) return hold_up(side);
    if (side == 0 && !establish()) return hold_up(side);
    out.held = false;
    if (!to.open || to.broken) return send_reset(1 - side);
    net_.in().traced(up_to);
    if (up_to != out.delivered) {
      const network::damage done = net_.drawn_damage(*ends_[side].at, *to.at, up_to - out.delivered);
      if (done.flipped != std::byte{0}) out.alter(out.delivered + done.offset, done.flipped);
    }
    if (net_.in().keep_timeline && up_to != out.delivered) {
      timeline_entry entry;
      entry.at = duration(sent);
      entry.node = ends_[side].at->name;
      entry.kind = "message";
      entry.text = std::to_string(up_to - out.delivered) + " bytes";
      entry.to = to.at->name;
      entry.until = net_.in().elapsed();
      net_.in().note(std::move(entry));
    }
    out.delivered = up_to;
    out.end_delivered = out.end_delivered || ends;
    if (net_.blocked(*to.at, *ends_[side].at) && !out.awaits_answer) {
      out.awaits_answer = true;
      give_up_later(side);
    }
    wake_reader(1 - side);
  }

  // Everything that is not delivered will be sent again.
  void hold_up(unsigned side) {
    forget_flying(side);
    way& out = ways_[side];
    if (out.once) forget_unsent(side);
    if (out.stuck || out.once) return;
    out.stuck = true;
    if (!std::exchange(out.held, true)) give_up_later(side);
    // A machine that is down or stopped hears again without telling the network.
    retry_later(side, out.attempt);
  }

  void give_up_later(unsigned side) {
    world& in = net_.in();
    in.schedule((in.elapsed() + net_.options.give_up).count(), nullptr, event_kind::world,
                [self = shared_from_this(), side, wait = ++ways_[side].waits] {
                  const way& waiting = self->ways_[side];
                  if (waiting.waits != wait || !(waiting.held || waiting.awaits_answer)) return;
                  self->break_end(side, asio::error::timed_out);
                });
  }

  void retry_later(unsigned side, std::uint64_t attempt) {
    world& in = net_.in();
    in.schedule((in.elapsed() + net_.options.resend).count(), nullptr, event_kind::world,
                [self = shared_from_this(), side, attempt] {
                  way& waiting = self->ways_[side];
                  if (!waiting.stuck || waiting.attempt != attempt || self->ends_[side].broken) return;
                  const machine& from = *self->ends_[side].at;
                  const machine& to = *self->ends_[1 - side].at;
                  if (from.stopped || !to.hears() || self->net_.blocked(from, to)) {
                    return self->retry_later(side, attempt);
                  }
                  waiting.stuck = false;
                  self->transmit(side);
                });
  }

  void forget_flying(unsigned side) {
    way& out = ways_[side];
    out.flying = out.delivered;
    out.end_flying = out.end_delivered;
    ++out.attempt;
  }

  // The writer learns how much was read, and goes on if it lacked the room.
  void answer(unsigned side) {
    way& out = ways_[side];
    const machine& reader = *ends_[1 - side].at;
    const end& writer = ends_[side];
    if (net_.blocked(reader, *writer.at)) return;
    out.answered = out.read;
    if (!out.full || !writer.open) return;
    out.full = false;
    net_.in().schedule(net_.arrival(reader, *writer.at), writer.owner, event_kind::delivery,
                       [self = shared_from_this(), side] { self->wake_writer(side); });
  }

  // What `side` sends instead of an answer, or of what it had still to send.
  void send_reset(unsigned side) {
    forget_unsent(side);
    end& told = ends_[1 - side];
    if (!told.open || told.broken) return;
    if (net_.blocked(*ends_[side].at, *told.at)) return lose_reset(side);
    way& out = ways_[side];
    out.last_arrival = std::max(out.last_arrival + 1, net_.arrival(*ends_[side].at, *told.at));
    if (out.flying != out.delivered && net_.random().chance(net_.options.lost_by_resets)) forget_flying(side);
    net_.in().schedule(out.last_arrival, told.owner, event_kind::delivery,
                       [self = shared_from_this(), side] { self->reset_by(side); });
  }

  void reset_by(unsigned side) {
    end& told = ends_[1 - side];
    if (!told.open) return;
    if (!told.at->hears() || net_.blocked(*ends_[side].at, *told.at)) return lose_reset(side);
    const bool ended_before = ways_[side].end_delivered;
    break_end(1 - side, ended_before ? asio::error::broken_pipe : asio::error::connection_reset);
  }

  // Bytes that it was to answer are sent again.
  void lose_reset(unsigned side) {
    const way& other = ways_[1 - side];
    if (other.flying != other.delivered || other.end_flying != other.end_delivered) hold_up(1 - side);
  }

  void break_end(unsigned side, std::error_code why) {
    const auto keeps = shared_from_this();
    end& broken = ends_[side];
    if (broken.broken) return;
    broken.broken = why;
    // Some systems drop what was received and not read.
    way& in = ways_[1 - side];
    if (in.read != in.delivered && net_.random().chance(0.5)) {
      in.read = in.delivered;
      in.end_delivered = false;
    }
    forget_unsent(side);
    wake_reader(side);
    wake_writer(side);
  }

  void wake_reader(unsigned side) {
    pending_io& reading = ends_[side].reading;
    if (!reading.handler) return;
    std::error_code ec;
    const std::size_t got = read(side, {reading.data, reading.size}, ec);
    if (ec != asio::error::would_block) reading.complete(ec, got);
  }

  void wake_writer(unsigned side) {
    pending_io& writing = ends_[side].writing;
    if (!writing.handler) return;
    std::error_code ec;
    const std::size_t took = write(side, {writing.data, writing.size}, ec);
    if (ec != asio::error::would_block) writing.complete(ec, took);
  }

  static void complete(pending_io& which, std::error_code ec) {
    if (which.handler) which.complete(ec, 0);
  }

  network& net_;
  const std::weak_ptr<listener> listener_;
  const duration begun_;
  opening opening_ = opening::asked;
  end ends_[2];
  way ways_[2];
  std::uint64_t serials_ = 0;
  duration resend_delay_{0};
};

}  // namespace detail

inline void network::unblock(const machine& from, const machine& to) {
  assert(path(from, to).blocked > 0);
  if (--path(from, to).blocked != 0) return;
  const std::vector<std::shared_ptr<detail::connection>> all = connections_;
  for (const auto& each : all) each->heal(from, to);
}

inline std::size_t network::reset(const machine& a, const machine& b) {
  const std::vector<std::shared_ptr<detail::connection>> all = connections_;
  std::size_t found = 0;
  for (const auto& each : all) {
    if (!each->between(a, b)) continue;
    each->reset();
    ++found;
  }
  return found;
}

inline machine* network::resolve(const machine& from, const std::string& host) {
  const bool itself = host == "localhost" || host == "127.0.0.1" || host == "::1" || host == "0.0.0.0" || host == "::";
  for (machine* const each : machines_) {
    if (itself ? each == &from : host == each->name || host == each->ip()) return each;
  }
  return nullptr;
}

inline detail::listener* network::listening(const machine& at, const address& where) {
  for (detail::listener* const each : listeners_) {
    if (each->at == &at && each->where.port == where.port && each->where.path == where.path) return each;
  }
  return nullptr;
}

inline void network::listen(detail::listener& added, std::error_code& ec) {
  ec.clear();
  if (!added.where.is_unix() && resolve(*added.at, added.where.host) != added.at) {
    ec = std::error_code(EADDRNOTAVAIL, asio::error::get_system_category());
    return;
  }
  if (!added.where.is_unix() && added.where.port == 0) added.where.port = free_port(*added.at);
  if (listening(*added.at, added.where)) {
    ec = asio::error::address_in_use;
    return;
  }
  listeners_.push_back(&added);
}

inline std::uint16_t network::free_port(const machine& at) {
  for (;;) {
    if (++next_port_ == 0) next_port_ = 40000;
    if (!listening(at, address("0.0.0.0", next_port_))) return next_port_;
  }
}

inline void network::ended(const detail::connection* gone) {
  std::erase_if(connections_, [gone](const auto& each) { return each.get() == gone; });
}

inline void network::abandon(const process& ended) {
  std::vector<std::unique_ptr<detail::parked_io>> doomed;
  const std::vector<std::shared_ptr<detail::connection>> all = connections_;
  for (const auto& each : all) {
    for (const unsigned side : {0u, 1u}) {
      if (each->at(side).owner == &ended) each->abandon(side, doomed);
    }
  }
  std::erase_if(listeners_, [&ended](const detail::listener* each) { return each->owner == &ended; });
}

inline void network::lose_power(const machine& gone) {
  for (const auto& each : connections_) each->lose_power(gone);
}

/// One end of a simulated connection, see environment_stream.
class stream {
 public:
  using executor_type = asio::any_io_executor;

  stream(std::shared_ptr<detail::connection> on, unsigned side, asio::any_io_executor executor)
      : on_(std::move(on)), side_(side), executor_(std::move(executor)) {}
  stream(stream&& other) noexcept : on_(std::move(other.on_)), side_(other.side_), executor_(other.executor_) {}
  stream& operator=(stream&& other) noexcept {
    close();
    on_ = std::move(other.on_);
    side_ = other.side_;
    executor_ = other.executor_;
    return *this;
  }
  ~stream() { close(); }

  [[nodiscard]] executor_type get_executor() const { return executor_; }

  template <class Buffers, class Token>
  auto async_read_some(const Buffers& buffers, Token&& token) {
    const auto& into = *asio::buffer_sequence_begin(buffers);
    return asio::async_initiate<Token, void(std::error_code, std::size_t)>(
        start_io{this, true, static_cast<std::byte*>(asio::mutable_buffer(into).data()),
                 asio::mutable_buffer(into).size()},
        token);
  }

  template <class Buffers, class Token>
  auto async_write_some(const Buffers& buffers, Token&& token) {
    const asio::const_buffer from(*asio::buffer_sequence_begin(buffers));
    return asio::async_initiate<Token, void(std::error_code, std::size_t)>(
        start_io{this, false, const_cast<std::byte*>(static_cast<const std::byte*>(from.data())), from.size()}, token);
  }

  std::size_t write_now(std::span<const bytes_view> gather, std::error_code& ec) {
    ec.clear();
    std::size_t total = 0;
    for (const bytes_view piece : gather) {
      const std::size_t taken = on_->write(side_, piece, ec);
      total += taken;
      if (taken != piece.size()) break;
    }
    if (total != 0) ec.clear();
    return total;
  }

  void shutdown_send(std::error_code& ec) { on_->end_sending(side_, ec); }
  void close() {
    if (on_) on_->close(side_);
  }
  [[nodiscard]] std::string remote_address() const { return on_->at(1 - side_).local.to_string(); }

 private:
  struct start_io {
    stream* self;
    bool reads;
    std::byte* data;
    std::size_t size;

    template <class Handler>
    void operator()(Handler&& handler) const {
      using kept = detail::parked_handler<std::decay_t<Handler>>;
      detail::connection& on = *self->on_;
      const unsigned side = self->side_;
      asio::cancellation_slot slot = asio::get_associated_cancellation_slot(handler);
      auto parked = std::make_unique<kept>(std::decay_t<Handler>(std::forward<Handler>(handler)), self->executor_);
      std::error_code ec;
      const std::size_t done = reads ? on.read(side, {data, size}, ec) : on.write(side, {data, size}, ec);
      if (ec != asio::error::would_block) return parked->complete(ec, done);
      on.park(side, reads, std::move(parked), data, size);
      if (slot.is_connected()) {
        slot.assign(
            [kept_alive = self->on_, side, what = reads, serial = on.last_serial()](asio::cancellation_type type) {
              if (type != asio::cancellation_type::none) kept_alive->cancel(side, what, serial);
            });
      }
    }
  };

  std::shared_ptr<detail::connection> on_;
  unsigned side_;
  asio::any_io_executor executor_;
};

/// A listening socket, see environment_acceptor.
class acceptor {
 public:
  acceptor() = default;
  acceptor(network& on, process& owner, machine& at, const address& where, std::error_code& ec)
      : on_(&on), listener_(std::make_shared<detail::listener>(owner, at, where)) {
    on.listen(*listener_, ec);
    if (ec) listener_ = nullptr;
  }
  acceptor(acceptor&&) noexcept = default;
  acceptor& operator=(acceptor&& other) noexcept {
    close();
    on_ = other.on_;
    listener_ = std::move(other.listener_);
    return *this;
  }
  ~acceptor() { close(); }

  awaitable<stream> accept() {
    const std::shared_ptr<detail::listener> kept = listener_;  // the acceptor may be destroyed meanwhile
    detail::listener& on = *kept;
    while (on.backlog.empty()) {
      if (!on.open) throw std::system_error(asio::error::operation_aborted);
      const std::error_code ec = co_await on.arrived.wait();
      if (ec) throw std::system_error(ec);
    }
    const std::shared_ptr<detail::connection> taken = std::move(on.backlog.front());
    on.backlog.pop_front();
    taken->accepted_by(*on.owner);
    co_return stream(taken, 1, on.owner->get_executor());
  }

  [[nodiscard]] address local_address() const { return listener_ ? listener_->where : address(); }

  void close() {
    if (!listener_ || !std::exchange(listener_->open, false)) return;
    on_->unlisten(*listener_);
    for (const auto& each : std::exchange(listener_->backlog, {})) each->refuse();
    if (!listener_->owner->dead()) listener_->arrived.notify_all(asio::error::operation_aborted);
  }

 private:
  network* on_ = nullptr;
  std::shared_ptr<detail::listener> listener_;
};

}  // namespace lockstep::sim
