// Connected streams for tests: pairs of sockets, and streams that are less or more than an environment's.
#pragma once

#include "lockstep/env/real.hpp"

#include <gtest/gtest.h>
#include <sys/socket.h>
#include <unistd.h>
#include <asio/io_context.hpp>

#include <cerrno>
#include <span>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

namespace lockstep::test {

/// Takes over the connected Unix-domain socket `fd`.
inline real::stream adopt(asio::io_context& io, int fd) {
  real::detail::generic_socket socket(io.get_executor());
  socket.assign(asio::generic::stream_protocol(AF_UNIX, 0), fd);
  return real::stream(std::move(socket));
}

/// Two connected sockets. `buffer_bytes` bounds what the kernel keeps between them, 0 leaves it as it is.
inline std::pair<int, int> connected_sockets(int buffer_bytes = 0) {
  int fds[2];
  if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) != 0) {
    throw std::system_error(errno, std::system_category(), "socketpair");
  }
  for (const int fd : fds) {
    if (buffer_bytes != 0) ::setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &buffer_bytes, sizeof buffer_bytes);
  }
  return {fds[0], fds[1]};
}

inline std::pair<real::stream, real::stream> connected_streams(asio::io_context& io, int buffer_bytes = 0) {
  const auto [first, second] = connected_sockets(buffer_bytes);
  return {adopt(io, first), adopt(io, second)};
}

/// A peer that sends bytes of the test's choice; blocking.
class raw_peer {
 public:
  explicit raw_peer(int fd) : fd_(fd) {}
  raw_peer(raw_peer&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  raw_peer& operator=(raw_peer&&) = delete;
  ~raw_peer() { close(); }

  void send(std::string_view bytes) const {
    ASSERT_EQ(::send(fd_, bytes.data(), bytes.size(), MSG_NOSIGNAL), static_cast<ssize_t>(bytes.size()));
  }
  void end_sending() const { ::shutdown(fd_, SHUT_WR); }
  void close() {
    if (fd_ >= 0) ::close(std::exchange(fd_, -1));
  }

  /// What has arrived, up to `most` bytes; empty when nothing has, or at the end.
  [[nodiscard]] std::string receive(std::size_t most = 1 << 20) const {
    std::string bytes(most, '\0');
    const ssize_t count = ::recv(fd_, bytes.data(), bytes.size(), MSG_DONTWAIT);
    bytes.resize(count > 0 ? static_cast<std::size_t>(count) : 0);
    return bytes;
  }

  [[nodiscard]] bool sees_end() const {
    char byte = 0;
    return ::recv(fd_, &byte, 1, MSG_DONTWAIT | MSG_PEEK) == 0;
  }

 private:
  int fd_;
};

inline std::pair<real::stream, raw_peer> stream_and_raw_peer(asio::io_context& io, int buffer_bytes = 0) {
  const auto [ours, theirs] = connected_sockets(buffer_bytes);
  return {adopt(io, ours), raw_peer(theirs)};
}

/// Only what Asio asks of a stream, as a TLS stream offers it: no write_now, no names, no shutdown of its own.
class plain_stream {
 public:
  using lowest_layer_type = real::stream::lowest_layer_type;
  using executor_type = real::stream::executor_type;

  explicit plain_stream(real::stream over) : over_(std::move(over)) {}

  [[nodiscard]] executor_type get_executor() { return over_.get_executor(); }
  [[nodiscard]] lowest_layer_type& lowest_layer() { return over_.lowest_layer(); }

  template <class Buffers, class Token>
  auto async_read_some(const Buffers& buffers, Token&& token) {
    return over_.async_read_some(buffers, std::forward<Token>(token));
  }
  template <class Buffers, class Token>
  auto async_write_some(const Buffers& buffers, Token&& token) {
    return over_.async_write_some(buffers, std::forward<Token>(token));
  }

 private:
  real::stream over_;
};

/// What an observed_stream was asked to write.
struct observed_writes {
  struct write {
    std::vector<const std::byte*> pieces;
    std::size_t bytes = 0;
  };
  std::vector<write> writes;
};

/// A real stream that notes its writes.
class observed_stream {
 public:
  using executor_type = real::stream::executor_type;

  observed_stream(real::stream over, observed_writes& notes) : over_(std::move(over)), notes_(&notes) {}

  [[nodiscard]] executor_type get_executor() { return over_.get_executor(); }
  template <class Buffers, class Token>
  auto async_read_some(const Buffers& buffers, Token&& token) {
    return over_.async_read_some(buffers, std::forward<Token>(token));
  }
  template <class Buffers, class Token>
  auto async_write_some(const Buffers& buffers, Token&& token) {
    return over_.async_write_some(buffers, std::forward<Token>(token));
  }
  std::size_t write_now(std::span<const bytes_view> gather, std::error_code& ec) {
    observed_writes::write noted;
    for (const bytes_view piece : gather) noted.pieces.push_back(piece.data());
    noted.bytes = over_.write_now(gather, ec);
    notes_->writes.push_back(noted);
    return noted.bytes;
  }
  void shutdown_send(std::error_code& ec) { over_.shutdown_send(ec); }
  void close() { over_.close(); }
  [[nodiscard]] std::string remote_address() const { return over_.remote_address(); }

 private:
  real::stream over_;
  observed_writes* notes_;
};

}  // namespace lockstep::test
