// pipe_env: files of a faulty_disk, a clock that tests move, and connections in memory that tests cut: nothing of it
// depends on the machine, so that the same seed is the same run.
#pragma once

#include "faulty_env.hpp"

#include "lockstep/core/wait_list.hpp"

#include <algorithm>
#include <cstdint>
#include <limits>
#include <list>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <utility>
#include <vector>

namespace lockstep::test {

// --- Time -----------------------------------------------------------------------------------------------------------

/// The time of all nodes of a test. Timers fire inside advance_to_next(); what they wake runs when the test runs it.
class virtual_clock {
 public:
  class timer {
   public:
    timer(virtual_clock& on, const asio::any_io_executor& executor) : clock_(on), waiting_(executor) {
      place_ = clock_.timers_.insert(clock_.timers_.end(), this);
    }
    timer(const timer&) = delete;
    timer& operator=(const timer&) = delete;
    ~timer() { clock_.timers_.erase(place_); }

    void expires_at(time_point when) {
      cancel();
      when_ = when;
    }
    void expires_after(duration after) { expires_at(clock_.now_ + after); }
    void cancel() { waiting_.notify_all(asio::error::operation_aborted); }
    awaitable<std::error_code> wait() {
      if (when_ <= clock_.now_) co_return std::error_code();
      co_return co_await waiting_.wait();
    }

   private:
    friend class virtual_clock;
    virtual_clock& clock_;
    wait_list waiting_;
    time_point when_ = time_point::max();
    std::list<timer*>::iterator place_;
  };

  virtual_clock() = default;
  virtual_clock(const virtual_clock&) = delete;

  [[nodiscard]] time_point now() const noexcept { return now_; }
  [[nodiscard]] wall_time wall_now() const noexcept {
    return wall_time(std::chrono::hours(24 * 365 * 50)) + (now_ - time_point(std::chrono::hours(1)));
  }

  void advance(duration by) {
    now_ += by;
    for (timer* const each : timers_) {
      if (each->when_ <= now_) each->waiting_.notify_all();
    }
  }

  /// Advances to the first time that somebody waits for. @return false when nobody does.
  bool advance_to_next() {
    time_point next = time_point::max();
    for (const timer* const each : timers_) {
      if (!each->waiting_.empty()) next = std::min(next, each->when_);
    }
    if (next == time_point::max()) return false;
    advance(next > now_ ? next - now_ : duration(0));
    return true;
  }

 private:
  time_point now_{std::chrono::hours(1)};
  std::list<timer*> timers_;
};

// --- Connections ----------------------------------------------------------------------------------------------------

/// What is between two streams. Side 0 is the first of the pair.
struct wire_options {
  wire_options() {}

  static constexpr std::uint64_t forever = std::numeric_limits<std::uint64_t>::max();
  std::uint64_t cut_after[2] = {forever, forever};  ///< so many bytes of each side arrive; then both see a reset
  std::size_t capacity = std::size_t{64} << 10;     ///< bytes under way each way
  std::uint64_t chunk_seed = 0;                     ///< not 0: reads and writes take parts of random size
};

namespace detail {

struct io_handler {
  virtual ~io_handler() = default;
  virtual void call(std::error_code ec, std::size_t bytes) = 0;
};

template <class Handler>
struct io_handler_of final : io_handler {
  explicit io_handler_of(Handler&& of) : handler(std::move(of)) {}
  void call(std::error_code ec, std::size_t bytes) override { std::move(handler)(ec, bytes); }
  Handler handler;
};

class wire {
 public:
  wire(asio::any_io_executor executor, const wire_options& options)
      : executor_(std::move(executor)), options_(options), random_(options.chunk_seed) {}

  [[nodiscard]] const asio::any_io_executor& executor() const { return executor_; }
  [[nodiscard]] std::uint64_t carried(unsigned side) const { return ways_[side].carried; }

  std::size_t write(unsigned side, bytes_view from, std::error_code& ec) {
    way& out = ways_[side];
    if (closed_[side] || out.ended) {
      ec = asio::error::broken_pipe;
      return 0;
    }
    if (reset_) {
      ec = asio::error::connection_reset;
      return 0;
    }
    if (closed_[1 - side]) {
      ec = asio::error::broken_pipe;
      return 0;
    }
    const std::uint64_t left = options_.cut_after[side] - out.carried;
    std::size_t room = options_.capacity - std::min(options_.capacity, out.bytes.size());
    room =
        std::min(part_of(std::min(room, from.size())), static_cast<std::size_t>(std::min<std::uint64_t>(left, room)));
    out.bytes.insert(out.bytes.end(), from.begin(), from.begin() + static_cast<std::ptrdiff_t>(room));
    out.carried += room;
    if (out.carried == options_.cut_after[side]) reset();
    if (room != 0) wake(1 - side);
    ec = room == 0 && !from.empty() ? std::error_code(asio::error::would_block) : std::error_code();
    return room;
  }

  std::size_t read(unsigned side, mutable_bytes into, std::error_code& ec) {
    way& in = ways_[1 - side];
    ec.clear();
    if (closed_[side]) {
      ec = asio::error::operation_aborted;
    } else if (!in.bytes.empty()) {
      const std::size_t count = part_of(std::min(into.size(), in.bytes.size()));
      std::memcpy(into.data(), in.bytes.data(), count);
      in.bytes.erase(in.bytes.begin(), in.bytes.begin() + static_cast<std::ptrdiff_t>(count));
      wake(1 - side);
      return count;
    } else if (reset_) {
      ec = asio::error::connection_reset;
    } else if (in.ended || closed_[1 - side]) {
      ec = asio::error::eof;
    } else {
      ec = asio::error::would_block;
    }
    return 0;
  }

  void end_sending(unsigned side) {
    ways_[side].ended = true;
    wake(1 - side);
  }
  void close(unsigned side) {
    closed_[side] = true;
    wake(0);
    wake(1);
  }
  void reset() {
    reset_ = true;
    wake(0);
    wake(1);
  }

  /// Keeps `handler` until trying again makes sense.
  void park(unsigned side, bool reading, std::unique_ptr<io_handler> handler, std::size_t size, void* data) {
    (reading ? readers_ : writers_)[side] = {std::move(handler), data, size};
  }

  void complete(std::unique_ptr<io_handler> handler, std::error_code ec, std::size_t bytes) {
    asio::post(executor_, [kept = std::move(handler), ec, bytes] { kept->call(ec, bytes); });
  }

 private:
  struct way {
    std::vector<std::byte> bytes;
    std::uint64_t carried = 0;
    bool ended = false;
  };
  struct parked_operation {
    std::unique_ptr<io_handler> handler;
    void* data = nullptr;
    std::size_t size = 0;
  };

  std::size_t part_of(std::size_t most) {
    return options_.chunk_seed == 0 || most < 2 ? most : 1 + random_() % (random_() % 4 == 0 ? 3 % most + 1 : most);
  }

  // Tries what `side` has parked again.
  void wake(unsigned side) {
    if (readers_[side].handler) {
      std::error_code ec;
      const auto& parked = readers_[side];
      const std::size_t got = read_quietly(side, {static_cast<std::byte*>(parked.data), parked.size}, ec);
      if (ec != asio::error::would_block) complete(std::move(readers_[side].handler), ec, got);
    }
    if (writers_[side].handler) {
      std::error_code ec;
      const parked_operation parked = std::move(writers_[side]);
      writers_[side] = {};
      const std::size_t took = write(side, {static_cast<const std::byte*>(parked.data), parked.size}, ec);
      auto& handler = const_cast<std::unique_ptr<io_handler>&>(parked.handler);
      if (ec == asio::error::would_block) {
        writers_[side] = {std::move(handler), parked.data, parked.size};
      } else {
        complete(std::move(handler), ec, took);
      }
    }
  }
  std::size_t read_quietly(unsigned side, mutable_bytes into, std::error_code& ec) {
    const parked_operation reader = std::move(readers_[side]);
    readers_[side] = {};
    const std::size_t got = read(side, into, ec);
    readers_[side] = {std::move(const_cast<std::unique_ptr<io_handler>&>(reader.handler)), reader.data, reader.size};
    return got;
  }

  asio::any_io_executor executor_;
  const wire_options options_;
  std::mt19937_64 random_;
  way ways_[2];
  parked_operation readers_[2];
  parked_operation writers_[2];
  bool closed_[2] = {false, false};
  bool reset_ = false;
};

}  // namespace detail

/// One end of a connection in memory, see environment_stream.
class pipe_stream {
 public:
  using executor_type = asio::any_io_executor;

  pipe_stream(std::shared_ptr<detail::wire> on, unsigned side) : wire_(std::move(on)), side_(side) {}
  pipe_stream(pipe_stream&&) noexcept = default;
  pipe_stream& operator=(pipe_stream&&) noexcept = default;

  [[nodiscard]] executor_type get_executor() const { return wire_->executor(); }

  template <class Token>
  auto async_read_some(const asio::mutable_buffer& into, Token&& token) {
    return asio::async_initiate<Token, void(std::error_code, std::size_t)>(
        [on = wire_, side = side_, into](auto&& handler) {
          auto kept = erase(std::forward<decltype(handler)>(handler));
          std::error_code ec;
          const std::size_t got = on->read(side, {static_cast<std::byte*>(into.data()), into.size()}, ec);
          if (ec == asio::error::would_block) {
            on->park(side, true, std::move(kept), into.size(), into.data());
          } else {
            on->complete(std::move(kept), ec, got);
          }
        },
        token);
  }

  template <class Token>
  auto async_write_some(const asio::const_buffer& from, Token&& token) {
    return asio::async_initiate<Token, void(std::error_code, std::size_t)>(
        [on = wire_, side = side_, from](auto&& handler) {
          auto kept = erase(std::forward<decltype(handler)>(handler));
          std::error_code ec;
          const std::size_t took = on->write(side, {static_cast<const std::byte*>(from.data()), from.size()}, ec);
          if (ec == asio::error::would_block) {
            on->park(side, false, std::move(kept), from.size(), const_cast<void*>(from.data()));
          } else {
            on->complete(std::move(kept), ec, took);
          }
        },
        token);
  }

  std::size_t write_now(std::span<const bytes_view> gather, std::error_code& ec) {
    std::size_t total = 0;
    for (const bytes_view piece : gather) {
      const std::size_t took = wire_->write(side_, piece, ec);
      total += took;
      if (took != piece.size()) break;
    }
    if (total != 0) ec.clear();
    return total;
  }

  void shutdown_send(std::error_code& ec) {
    ec.clear();
    wire_->end_sending(side_);
  }
  void close() { wire_->close(side_); }
  [[nodiscard]] std::string remote_address() const { return side_ == 0 ? "pipe:1" : "pipe:0"; }

  /// Bytes that this side has sent, handshake included.
  [[nodiscard]] std::uint64_t carried() const { return wire_->carried(side_); }

 private:
  template <class Handler>
  static std::unique_ptr<detail::io_handler> erase(Handler&& handler) {
    return std::make_unique<detail::io_handler_of<std::decay_t<Handler>>>(std::forward<Handler>(handler));
  }
  std::shared_ptr<detail::wire> wire_;
  unsigned side_;
};

// --- The environment ------------------------------------------------------------------------------------------------

class pipe_env : public faulty_env {
 public:
  using stream = pipe_stream;

  class timer : public virtual_clock::timer {
   public:
    explicit timer(pipe_env& of) : virtual_clock::timer(of.clock_, of.get_executor()) {}
  };

  // Connections are made by the tests.
  struct acceptor {
    acceptor() = default;
    acceptor(acceptor&&) = default;
    acceptor& operator=(acceptor&&) = default;
    awaitable<stream> accept() {
      throw std::system_error(asio::error::operation_not_supported);
      co_return stream(nullptr, 0);
    }
    [[nodiscard]] address local_address() const { return {}; }
    void close() {}
  };
  awaitable<stream> connect(const address&, duration) {
    throw std::system_error(asio::error::operation_not_supported);
    co_return stream(nullptr, 0);
  }
  acceptor listen(const address&, std::error_code& ec) {
    ec = asio::error::operation_not_supported;
    return {};
  }

  pipe_env(asio::any_io_executor executor, faulty_disk& disk, virtual_clock& clock, std::uint64_t seed = 1)
      : faulty_env(std::move(executor), disk, seed), clock_(clock) {}

  [[nodiscard]] time_point now() const noexcept { return clock_.now(); }
  /// Of this node: `wall_offset` moves it against the others'.
  [[nodiscard]] wall_time wall_now() const noexcept { return clock_.wall_now() + wall_offset; }
  duration wall_offset{0};

 private:
  virtual_clock& clock_;
};

}  // namespace lockstep::test

static_assert(lockstep::environment<lockstep::test::pipe_env>);
