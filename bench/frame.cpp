// Frames over a channel, against bare sockets.
//
// Echo: both sides are processes on one processor, so that software shows and not the wake-up of an idle processor.
// Pipelined: each side is a process on a processor of its own.

#include <poll.h>
#include <sys/epoll.h>
#include <sys/wait.h>
#include <unistd.h>

#include <asio/generic/stream_protocol.hpp>

#include <cstring>
#include <string>
#include <vector>

#include "common.hpp"
#include "lockstep/frame/channel.hpp"

namespace lockstep::bench {
namespace {

constexpr std::size_t echo_warm_up = 2'000;
constexpr std::size_t echo_rounds = 20'000;
constexpr std::size_t pipelined_payload = 100;
constexpr std::size_t pipelined_frames = 8'000'000;
constexpr std::size_t pipelined_warm_up = 200'000;

/// The other side of a measurement, in a process of its own on `processor`.
class other_side {
 public:
  template <class Work>
  other_side(unsigned processor, Work work) : child_(::fork()) {
    if (child_ < 0) throw_errno("fork");
    if (child_ != 0) return;
    pin_to(processor);
    try {
      work();
    } catch (const std::exception&) {
      ::_exit(1);
    }
    ::_exit(0);
  }
  other_side(const other_side&) = delete;
  ~other_side() { ::waitpid(child_, nullptr, 0); }

 private:
  pid_t child_;
};

void make_non_blocking(int fd) { ::fcntl(fd, F_SETFL, ::fcntl(fd, F_GETFL) | O_NONBLOCK); }

real::stream stream_of(node& on, descriptor& connected) {
  real::detail::generic_socket socket(on.env.get_executor(), asio::generic::stream_protocol(AF_INET, IPPROTO_TCP),
                                      connected.release());
  return real::stream(std::move(socket));
}

// --- Echo ----------------------------------------------------------------------------------------------------------

// One side of a ping-pong with what the kernel offers: wait for the descriptor, read, write.
class raw_side {
 public:
  raw_side(int fd, std::size_t bytes) : fd_(fd), epoll_(::epoll_create1(EPOLL_CLOEXEC)), buffer_(bytes, 'x') {
    make_non_blocking(fd);
    epoll_event wanted{};
    wanted.events = EPOLLIN;
    if (::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, fd, &wanted) != 0) throw_errno("epoll_ctl");
  }

  void send() {
    if (::send(fd_, buffer_.data(), buffer_.size(), MSG_NOSIGNAL) != static_cast<ssize_t>(buffer_.size())) {
      throw_errno("send");
    }
  }

  /// @return false at the end.
  bool receive() {
    for (std::size_t got = 0; got < buffer_.size();) {
      epoll_event ready{};
      ::epoll_wait(epoll_.get(), &ready, 1, -1);
      const ssize_t more = ::recv(fd_, buffer_.data() + got, buffer_.size() - got, 0);
      if (more == 0) return false;
      if (more > 0) got += static_cast<std::size_t>(more);
    }
    return true;
  }

 private:
  int fd_;
  descriptor epoll_;
  std::vector<char> buffer_;
};

measurement raw_echo(std::size_t bytes) {
  auto [here, there] = tcp_pair();
  const other_side echoing(0, [&, fd = there.get()] {
    here.reset();
    raw_side side(fd, bytes);
    while (side.receive()) side.send();
  });
  there.reset();
  const pinned to_first(0);
  raw_side side(here.get(), bytes);
  const auto round_trips = [&](std::size_t count) {
    for (std::size_t i = 0; i < count; ++i) {
      side.send();
      side.receive();
    }
  };
  round_trips(echo_warm_up);
  const stopwatch watch;
  round_trips(echo_rounds);
  const double seconds = watch.seconds();
  here.reset();
  return {seconds, echo_rounds, 0};
}

awaitable<void> echo_frames(channel over) {
  const auto echo = [&over](const frame_view& frame) { return over.try_send(frame.kind, frame.id, frame.payload); };
  try {
    co_await over.deliver(echo);
  } catch (const std::system_error&) {
    // The other side is done.
  }
}

awaitable<void> round_trips(channel& over, bytes_view payload, std::size_t count) {
  for (std::size_t i = 0; i < count; ++i) {
    co_await over.send(1, i, payload);
    (void)co_await over.receive();
  }
}

awaitable<void> timed_round_trips(channel& over, std::size_t bytes, double& seconds) {
  const std::vector<std::byte> payload(bytes, std::byte{1});
  co_await round_trips(over, payload, echo_warm_up);
  const stopwatch watch;
  co_await round_trips(over, payload, echo_rounds);
  seconds = watch.seconds();
}

measurement channel_echo(std::size_t bytes) {
  auto [here, there] = tcp_pair();
  const other_side echoing(0, [&] {
    here.reset();
    node alone;
    alone.run(echo_frames(channel(alone.env, stream_of(alone, there), channel_options())));
  });
  there.reset();
  const pinned to_first(0);
  node on;
  channel over(on.env, stream_of(on, here), channel_options());
  double seconds = 0;
  on.run(timed_round_trips(over, bytes, seconds));
  return {seconds, echo_rounds, 0};
}

// --- Pipelined -----------------------------------------------------------------------------------------------------

// The receiver reads until it has all, and answers with one byte.
void receive_raw(int fd, std::size_t bytes) {
  std::vector<char> buffer(256 << 10);
  for (std::size_t got = 0; got < bytes;) {
    const ssize_t more = ::recv(fd, buffer.data(), buffer.size(), 0);
    if (more <= 0) throw_errno("recv");
    got += static_cast<std::size_t>(more);
  }
  write_all(fd, "d", 1);
}

void wait_for_answer(int fd) {
  pollfd waited{fd, POLLIN, 0};
  ::poll(&waited, 1, -1);
  char byte = 0;
  if (::recv(fd, &byte, 1, 0) != 1) throw_errno("recv");
}

constexpr std::size_t wire_frame = frame_header_bytes + pipelined_payload;

// Frames copied together into 64 KiB and sent, without looking at them.
void send_coalesced(int fd, payloads& source, std::size_t frames) {
  static std::vector<char> buffer(64 << 10);
  std::size_t used = 0;
  for (std::size_t i = 0; i < frames; ++i) {
    if (used + wire_frame > buffer.size()) {
      write_all(fd, buffer.data(), used);
      used = 0;
    }
    std::memcpy(buffer.data() + used, source.next().data(), wire_frame);
    used += wire_frame;
  }
  write_all(fd, buffer.data(), used);
}

measurement raw_pipelined() {
  auto [here, there] = tcp_pair();
  const other_side receiving(1, [&, fd = there.get()] {
    here.reset();
    receive_raw(fd, pipelined_warm_up * wire_frame);
    receive_raw(fd, pipelined_frames * wire_frame);
  });
  there.reset();
  const pinned to_first(0);
  payloads source(wire_frame);
  send_coalesced(here.get(), source, pipelined_warm_up);
  wait_for_answer(here.get());
  const stopwatch watch;
  send_coalesced(here.get(), source, pipelined_frames);
  wait_for_answer(here.get());
  return {watch.seconds(), pipelined_frames, 0};
}

awaitable<void> receive_frames(channel& over, std::size_t frames) {
  for (std::size_t got = 0; got < frames;) got += (co_await over.receive_batch()).size();
  co_await over.send(1, 0, bytes_view());
}

awaitable<void> receive_measured(channel over) {
  co_await receive_frames(over, pipelined_warm_up);
  co_await receive_frames(over, pipelined_frames);
  co_await over.close();
}

awaitable<void> send_frames(channel& over, payloads& source, std::size_t frames) {
  for (std::size_t i = 0; i < frames; ++i) {
    const bytes_view payload = source.next();
    if (!over.try_send(1, i, payload)) co_await over.send(1, i, payload);
  }
  co_await over.flush();
  (void)co_await over.receive();
}

awaitable<void> send_measured(channel& over, double& seconds) {
  payloads source(pipelined_payload);
  co_await send_frames(over, source, pipelined_warm_up);
  const stopwatch watch;
  co_await send_frames(over, source, pipelined_frames);
  seconds = watch.seconds();
  co_await over.close();
}

measurement channel_pipelined() {
  auto [here, there] = tcp_pair();
  const other_side receiving(1, [&] {
    here.reset();
    node alone;
    alone.run(receive_measured(channel(alone.env, stream_of(alone, there), channel_options())));
  });
  there.reset();
  const pinned to_first(0);
  node on;
  channel over(on.env, stream_of(on, here), channel_options());
  double seconds = 0;
  on.run(send_measured(over, seconds));
  return {seconds, pipelined_frames, 0};
}

const bool registered = [] {
  for (const auto& [name, bytes] : {std::pair("64B", 64), std::pair("1KiB", 1024)}) {
    const std::string pair = std::string("frame/echo/") + name;
    add(pair + "/limit", 5, [bytes = static_cast<std::size_t>(bytes)] { return raw_echo(bytes); });
    add(pair + "/lockstep", 5, [bytes = static_cast<std::size_t>(bytes)] { return channel_echo(bytes); });
  }
  add("frame/pipelined/100B/limit", 3, raw_pipelined);
  add("frame/pipelined/100B/lockstep", 3, channel_pipelined);
  return true;
}();

}  // namespace
}  // namespace lockstep::bench
