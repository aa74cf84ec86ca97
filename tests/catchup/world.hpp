// world: the nodes of a catch-up test, their logs and their connections, on one virtual clock.
#pragma once

#include "pipe_env.hpp"
#include "run.hpp"

#include "lockstep/catchup/follower.hpp"
#include "lockstep/catchup/source.hpp"

#include <gtest/gtest.h>
#include <asio/io_context.hpp>

#include <functional>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

// Compiled once, by world.cpp.
namespace lockstep {

extern template class basic_append_log<test::pipe_env>;
extern template class basic_channel<test::pipe_env>;
extern template class basic_source<test::pipe_env>;
extern template class basic_follower<test::pipe_env>;
extern template class detail::source_session<test::pipe_env>;
extern template class detail::follower_session<test::pipe_env>;

}  // namespace lockstep

namespace lockstep::test {

using test_log = basic_append_log<pipe_env>;
using test_source = basic_source<pipe_env>;
using test_follower = basic_follower<pipe_env>;
using test_channel = basic_channel<pipe_env>;

/// Small segments, so that short tests roll them; `cold` keeps as little in memory as the log can.
inline log_options small_log() {
  log_options options;
  options.segment_bytes = 16 << 10;
  options.reserve_bytes = 16 << 10;
  options.prewrite_bytes = 4 << 10;
  options.chunk_bytes = 4 << 10;
  options.hot_tail_bytes = 64 << 10;
  return options;
}
inline log_options cold_log() {
  log_options options = small_log();
  options.hot_tail_bytes = 0;
  options.chunk_bytes = 256;
  return options;
}

class world {
 public:
  virtual_clock clock;  // before `io`, whose end destroys the timers that are left
  asio::io_context io;

  /// Runs what is ready, and moves time on when nothing is, until `condition()`.
  /// @return false when nothing is left that could bring it about, or after very long.
  template <class Condition>
  bool run_until(Condition condition, duration limit = std::chrono::hours(1)) {
    const time_point deadline = clock.now() + limit;
    for (std::uint64_t steps = 0; !condition(); ++steps) {
      if (steps > 20'000'000) return false;
      io.restart();
      if (io.poll_one() != 0) continue;
      if (!clock.advance_to_next() || clock.now() > deadline) return condition();
    }
    return true;
  }

  /// Runs what is ready, without moving time.
  void settle() {
    io.restart();
    io.poll();
  }

  void run_for(duration span) {
    const time_point end = clock.now() + span;
    (void)run_until([&] { return clock.now() >= end; }, span);
    settle();
  }

  template <class T>
  T run(awaitable<T> task) {
    auto running = start(io, std::move(task));
    if (!run_until([&] { return running.done(); })) throw std::runtime_error("the coroutine did not end");
    return running.result();
  }
};

/// What a record holds, whatever log it lies in.
struct content {
  epoch_t epoch = 0;
  record_kind kind = 0;
  std::string payload;
  friend bool operator==(const content&, const content&) = default;
};

/// A process: an environment on a disk, and a log.
class node {
 public:
  node(world& in, faulty_disk& disk, log_options options = small_log(), std::string directory = "/log")
      : in_(in), env(in.io.get_executor(), disk, in.clock) {
    auto opened = in.run(test_log::open(env, std::move(directory), options));
    if (!opened.log) throw std::runtime_error("corrupt: " + opened.report.reason);
    log = std::move(opened.log);
  }

  /// Appends `count` records that say who wrote them, and makes them durable. @return the last position.
  position append(std::size_t count, epoch_t epoch = 1, const std::string& by = "record") {
    for (std::size_t i = 0; i < count; ++i) append_one(epoch, by + " " + std::to_string(log->last().index + 1));
    in_.run(log->durable(log->last().index));
    return log->last();
  }
  position append_one(epoch_t epoch, const std::string& payload) { return log->append(epoch, as_bytes(payload)); }

  void close() { in_.run(log->close()); }

  [[nodiscard]] std::vector<content> records() const {
    std::vector<content> all;
    test_log::read_place place;
    place.next = log->first_index();
    while (place.next <= log->last().index) {
      const record_batch batch = log->read(place, 64 << 10, visibility::staged);
      for (const record each : batch) all.push_back({each.epoch, each.kind, std::string(as_text(each.payload))});
    }
    return all;
  }

  [[nodiscard]] position at(index_t index) const { return log->position_at(index).value(); }

 private:
  world& in_;

 public:
  pipe_env env;
  std::unique_ptr<test_log> log;
};

/// The logs end at the same position and hold the same bytes where both keep them.
inline void expect_equal(const node& a, const node& b) {
  EXPECT_EQ(a.log->last(), b.log->last());
  const auto first = std::max(a.log->first_index(), b.log->first_index());
  const auto tail = [first](const node& of) {
    auto all = of.records();
    all.erase(all.begin(), all.begin() + static_cast<std::ptrdiff_t>(
                                             std::min<std::size_t>(first - of.log->first_index(), all.size())));
    return all;
  };
  EXPECT_EQ(tail(a), tail(b));
}

/// What a follower told, and a program that takes snapshots.
class notes final : public follower_events {
 public:
  struct divergence {
    position common;
    index_t first_lost;
    index_t last_lost;
    std::string saved_to;
  };
  std::vector<std::pair<position, index_t>> subscriptions;
  std::vector<std::pair<index_t, index_t>> batches;
  std::vector<position> caught_up_at;
  std::vector<divergence> divergences;
  std::uint64_t records = 0;
  index_t last = 0;  ///< of the records received, or the snapshot

  bool takes_snapshots = true;
  std::vector<std::string> snapshots;  ///< those that were completed
  position snapshot_upto;
  std::string incoming;
  unsigned snapshots_begun = 0;
  std::function<void(const char*)> on_snapshot = [](const char*) {};

  void subscribed(const position& have, index_t source_last) override { subscriptions.emplace_back(have, source_last); }
  void received(index_t first, index_t to, std::size_t) override {
    EXPECT_LE(first, to);
    batches.emplace_back(first, to);
    records += to - first + 1;
    last = to;
  }
  void caught_up(const position& at) override { caught_up_at.push_back(at); }
  awaitable<void> diverged(position common, index_t first_lost, index_t last_lost, std::string saved_to) override {
    divergences.push_back({common, first_lost, last_lost, saved_to});
    co_return;
  }
  awaitable<void> snapshot_begin(position upto, std::uint64_t size) override {
    if (!takes_snapshots) co_await follower_events::snapshot_begin(upto, size);
    on_snapshot("begin");
    ++snapshots_begun;
    snapshot_upto = upto;
    incoming.clear();
  }
  awaitable<void> snapshot_chunk(bytes_view bytes) override {
    on_snapshot("chunk");
    incoming += as_text(bytes);
    co_return;
  }
  awaitable<void> snapshot_end() override {
    on_snapshot("end");
    snapshots.push_back(incoming);
    last = snapshot_upto.index;
    co_return;
  }
};

/// A snapshot that says for what it stands.
class snapshots_of final : public snapshot_provider {
 public:
  std::optional<position> upto;
  std::string bytes = std::string(1000, 's');
  unsigned asked = 0;

  std::optional<snapshot_image> latest() override {
    ++asked;
    if (!upto) return std::nullopt;
    const auto owner = std::make_shared<std::string>(bytes);
    snapshot_image image;
    image.upto = *upto;
    image.bytes = as_bytes(*owner);
    image.owner = owner;
    return image;
  }
};

/// A node with a source.
struct leader {
  leader(world& in, faulty_disk& disk, log_options log = small_log(), source_options options = {})
      : at(in, disk, log), source(at.env, *at.log, options, &snapshots) {}

  snapshots_of snapshots;
  node at;
  test_source source;

  [[nodiscard]] test_log& log() { return *at.log; }
  /// The first one that is connected.
  [[nodiscard]] follower_status follower() const {
    return source.followers().empty() ? follower_status() : source.followers().front();
  }
};

/// A node with a follower.
struct replica {
  replica(world& in, faulty_disk& disk, follower_options options = {}, log_options log = small_log())
      : at(in, disk, log), follower(at.env, *at.log, told, options) {}

  notes told;
  node at;
  test_follower follower;

  [[nodiscard]] test_log& log() { return *at.log; }
  [[nodiscard]] bool caught_up() const { return follower.state().caught_up; }
  /// It has everything that the leader has, durably.
  [[nodiscard]] bool has_all_of(leader& of) { return log().acked() == of.log().last(); }
};

inline void expect_equal(leader& a, replica& b) { expect_equal(a.at, b.at); }

inline follower_options pulling(duration long_poll = duration(0)) {
  follower_options options;
  options.mode = catchup::mode::pull;
  options.long_poll = long_poll;
  return options;
}
inline follower_options repairing() {
  follower_options options;
  options.on_divergence = repair::save_and_truncate;
  return options;
}

inline channel_options channel_of(node_id id) {
  channel_options options;
  options.cluster = "test";
  options.node = id;
  return options;
}

inline std::pair<pipe_stream, pipe_stream> connected_pipes(world& in, const wire_options& options = {}) {
  const auto wire = std::make_shared<detail::wire>(in.io.get_executor(), options);
  return {pipe_stream(wire, 0), pipe_stream(wire, 1)};
}

/// Ends the channel with the coroutine, however that ends; where the executor's end destroys it, the channel object is
/// gone already.
class closing {
 public:
  explicit closing(const test_channel& of) : channel_(of.share()) {}
  closing(const closing&) = delete;
  ~closing() { channel_.abort(); }

 private:
  test_channel channel_;
};
/// As programs do it: a side that has ended closes its channel.
inline awaitable<void> serve(test_source& source, test_channel& with) {
  const closing mark(with);
  co_await with.handshake();
  std::exception_ptr failure;
  try {
    co_await source.serve(with);
  } catch (const std::system_error&) {
    failure = std::current_exception();
  }
  co_await with.close();
  if (failure) std::rethrow_exception(failure);
}
inline awaitable<void> follow(test_follower& follower, test_channel& with) {
  const closing mark(with);
  co_await with.handshake();
  co_await follower.run(with);
}

/// A connection between a source (side 0) and a follower (side 1), from its handshake to its end.
class connection {
 public:
  connection(world& in, leader& source, replica& follower, const wire_options& wire = {},
             const channel_options& source_says = channel_of(1), const channel_options& follower_says = channel_of(2))
      : connection(in, source, follower, connected_pipes(in, wire), source_says, follower_says) {}
  connection(const connection&) = delete;
  ~connection() { end(); }

  test_channel at_source;
  test_channel at_follower;
  started<void> serving;
  started<void> following;

  [[nodiscard]] bool over() const { return serving.done() && following.done(); }

  /// Waits until both sides have ended by themselves.
  [[nodiscard]] bool ends() {
    return in_.run_until([this] { return over(); });
  }

  /// Cuts the connection at once and waits until both sides have noticed.
  void end() {
    at_source.abort();
    at_follower.abort();
    if (!ends()) ADD_FAILURE() << "a side did not end with its channel";
  }

 private:
  connection(world& in, leader& source, replica& follower, std::pair<pipe_stream, pipe_stream> ends,
             const channel_options& source_says, const channel_options& follower_says)
      : at_source(source.at.env, std::move(ends.first), source_says),
        at_follower(follower.at.env, std::move(ends.second), follower_says),
        serving(start(in.io, serve(source.source, at_source))),
        following(start(in.io, follow(follower.follower, at_follower))),
        in_(in) {}

  world& in_;
};

/// Connects, lets the follower get everything, and disconnects. @return whether it got everything.
inline bool catch_up(world& in, leader& source, replica& follower) {
  connection link(in, source, follower);
  return in.run_until([&] { return follower.has_all_of(source) || link.over(); }) && follower.has_all_of(source);
}

/// One side of a connection that says what the test wants.
class scripted_peer {
 public:
  scripted_peer(world& in, pipe_env& env, pipe_stream stream, node_id id, channel_options options = channel_of(0))
      : in_(in), channel(env, std::move(stream), named(std::move(options), id)) {
    shaking_ = std::make_unique<started<peer_info>>(start(in.io, channel.handshake()));
  }

  template <class Message>
  void say(catchup::message kind, const Message& message) {
    const auto bytes = message.encode();
    say_bytes(kind, bytes);
  }
  void say_bytes(catchup::message kind, bytes_view payload, std::uint8_t flags = frame_flag::none) {
    in_.run(channel.send(static_cast<std::uint8_t>(kind), 0, payload, flags));
    in_.settle();
  }

  /// The next message, which must be of this kind. @return its payload.
  std::vector<std::byte> hear(catchup::message kind) {
    const frame_view frame = in_.run(channel.receive());
    EXPECT_EQ(static_cast<int>(frame.kind), static_cast<int>(kind));
    return {frame.payload.begin(), frame.payload.end()};
  }
  template <class Message>
  Message hear(catchup::message kind) {
    return Message::decode(hear(kind)).value();
  }

  void finish_handshake() {
    if (!in_.run_until([this] { return shaking_->done(); })) throw std::runtime_error("no handshake");
    (void)shaking_->result();
  }

 private:
  static channel_options named(channel_options options, node_id id) {
    options.node = id;
    return options;
  }
  world& in_;

 public:
  test_channel channel;

 private:
  std::unique_ptr<started<peer_info>> shaking_;
};

}  // namespace lockstep::test
