// real::stream and real::acceptor: TCP and Unix-domain sockets as one type.
#pragma once

#include "lockstep/core/errors.hpp"
#include "lockstep/env/env.hpp"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>
#include <asio/basic_socket_acceptor.hpp>
#include <asio/basic_stream_socket.hpp>
#include <asio/generic/stream_protocol.hpp>
#include <asio/ip/tcp.hpp>
#include <asio/local/stream_protocol.hpp>

#include <algorithm>
#include <array>
#include <cerrno>

namespace lockstep::real {

namespace detail {

using generic_socket = asio::basic_stream_socket<asio::generic::stream_protocol>;

/// @return an empty endpoint and `ec` name_too_long for a path that does not fit into a socket's address.
inline asio::generic::stream_protocol::endpoint unix_endpoint(const std::string& path, std::error_code& ec) {
  if (path.size() >= sizeof(sockaddr_un::sun_path)) {
    ec = asio::error::name_too_long;
    return {};
  }
  ec.clear();
  return asio::local::stream_protocol::endpoint(path);
}

/// `endpoint` in the form of address::to_string().
inline address to_address(const asio::generic::stream_protocol::endpoint& endpoint) {
  std::array<char, INET6_ADDRSTRLEN> text{};
  const auto* const any = static_cast<const sockaddr*>(endpoint.data());
  if (any->sa_family == AF_INET) {
    sockaddr_in v4{};
    std::memcpy(&v4, any, sizeof v4);
    ::inet_ntop(AF_INET, &v4.sin_addr, text.data(), text.size());
    return address(text.data(), ntohs(v4.sin_port));
  }
  if (any->sa_family == AF_INET6) {
    sockaddr_in6 v6{};
    std::memcpy(&v6, any, sizeof v6);
    ::inet_ntop(AF_INET6, &v6.sin6_addr, text.data(), text.size());
    return address(text.data(), ntohs(v6.sin6_port));
  }
  const auto* const path = reinterpret_cast<const sockaddr_un*>(any)->sun_path;
  const std::size_t offset = offsetof(sockaddr_un, sun_path);
  return address::unix_socket(endpoint.size() > offset ? std::string(path, ::strnlen(path, endpoint.size() - offset))
                                                       : std::string());
}

}  // namespace detail

/// A connected TCP or Unix-domain socket, see environment_stream. TCP sends without delay (TCP_NODELAY).
class stream {
 public:
  using executor_type = asio::any_io_executor;
  using lowest_layer_type = detail::generic_socket;

  explicit stream(detail::generic_socket socket) : socket_(std::move(socket)) {
    std::error_code ignored;  // a Unix-domain socket has no such option
    const int on = 1;
    ::setsockopt(socket_.native_handle(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    socket_.native_non_blocking(true, ignored);
  }

  [[nodiscard]] executor_type get_executor() { return socket_.get_executor(); }
  [[nodiscard]] lowest_layer_type& lowest_layer() noexcept { return socket_; }
  [[nodiscard]] int native_handle() { return socket_.native_handle(); }

  template <class Buffers, class Token>
  auto async_read_some(const Buffers& buffers, Token&& token) {
    return socket_.async_read_some(buffers, std::forward<Token>(token));
  }
  template <class Buffers, class Token>
  auto async_write_some(const Buffers& buffers, Token&& token) {
    return socket_.async_write_some(buffers, std::forward<Token>(token));
  }

  std::size_t write_now(std::span<const bytes_view> gather, std::error_code& ec) {
    constexpr std::size_t most = 64;
    std::array<iovec, most> parts;
    std::size_t count = 0;
    for (const bytes_view each : gather) {
      if (count == most) break;
      // Empty ones would make a call that sends nothing look like a stream that takes nothing.
      if (!each.empty()) parts[count++] = {const_cast<std::byte*>(each.data()), each.size()};
    }
    msghdr message{};
    message.msg_iov = parts.data();
    message.msg_iovlen = count;
    const int fd = socket_.native_handle();
    constexpr int flags = MSG_NOSIGNAL | MSG_DONTWAIT;
    ssize_t sent = 0;
    do {
      // One part, what small frames are copied into, by the call that costs less.
      sent = count == 1 ? ::send(fd, parts[0].iov_base, parts[0].iov_len, flags) : ::sendmsg(fd, &message, flags);
    } while (sent < 0 && errno == EINTR);
    if (sent < 0) {
      ec.assign(errno, asio::error::get_system_category());  // as the stream's other calls report it
      return 0;
    }
    ec.clear();
    return static_cast<std::size_t>(sent);
  }

  void shutdown_send(std::error_code& ec) { socket_.shutdown(asio::socket_base::shutdown_send, ec); }

  void close() {
    std::error_code ignored;
    socket_.close(ignored);
  }

  [[nodiscard]] std::string remote_address() const {
    std::error_code ec;
    const auto endpoint = socket_.remote_endpoint(ec);
    if (ec) return "disconnected";
    const address remote = detail::to_address(endpoint);
    return remote == address() ? "unix:(unnamed)" : remote.to_string();
  }

 private:
  detail::generic_socket socket_;
};

/// A listening socket, see environment_acceptor. A Unix-domain socket's path is removed by close() and the destructor.
class acceptor {
 public:
  acceptor(acceptor&& other) noexcept
      : socket_(std::move(other.socket_)), unix_path_(std::exchange(other.unix_path_, {})) {}
  acceptor& operator=(acceptor&& other) noexcept {
    close();
    socket_ = std::move(other.socket_);
    unix_path_ = std::exchange(other.unix_path_, {});
    return *this;
  }
  ~acceptor() { close(); }

  static acceptor listen(const asio::any_io_executor& executor, const address& where, std::error_code& ec) {
    acceptor result(executor);
    asio::generic::stream_protocol::endpoint endpoint;
    if (where.is_unix()) {
      endpoint = detail::unix_endpoint(where.path, ec);
      if (ec) return result;
      remove_stale(executor, endpoint, where.path);
    } else {
      const auto ip = asio::ip::make_address(where.host == "localhost" ? "127.0.0.1" : where.host, ec);
      if (ec) return result;
      endpoint = asio::ip::tcp::endpoint(ip, where.port);
    }
    result.socket_.open(endpoint.protocol(), ec);
    if (!ec && !where.is_unix()) result.socket_.set_option(asio::socket_base::reuse_address(true), ec);
    if (!ec) result.socket_.bind(endpoint, ec);
    if (!ec) result.unix_path_ = where.path;
    if (!ec) result.socket_.listen(asio::socket_base::max_listen_connections, ec);
    return result;
  }

  awaitable<stream> accept() {
    detail::generic_socket peer(socket_.get_executor());
    co_await socket_.async_accept(peer, use_awaitable);
    co_return stream(std::move(peer));
  }

  [[nodiscard]] address local_address() const {
    std::error_code ec;
    const auto endpoint = socket_.local_endpoint(ec);
    return ec ? address() : detail::to_address(endpoint);
  }

  void close() {
    std::error_code ignored;
    socket_.close(ignored);
    if (!unix_path_.empty()) ::unlink(std::exchange(unix_path_, {}).c_str());
  }

 private:
  explicit acceptor(const asio::any_io_executor& executor) : socket_(executor) {}

  // A socket file that nobody listens on any more is what a killed process leaves. A file that is no socket refuses
  // connections too, and connecting to a listener with a full queue would block.
  static void remove_stale(const asio::any_io_executor& executor,
                           const asio::generic::stream_protocol::endpoint& endpoint, const std::string& path) {
    struct stat status {};
    if (::lstat(path.c_str(), &status) != 0 || !S_ISSOCK(status.st_mode)) return;
    detail::generic_socket probe(executor);
    std::error_code ec;
    probe.open(endpoint.protocol(), ec);
    if (!ec) probe.non_blocking(true, ec);
    if (!ec) probe.connect(endpoint, ec);
    if (ec == asio::error::connection_refused) ::unlink(path.c_str());
  }

  asio::basic_socket_acceptor<asio::generic::stream_protocol> socket_;
  std::string unix_path_;
};

}  // namespace lockstep::real
