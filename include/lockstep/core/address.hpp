// Where a stream connects to or listens: host and port, or the path of a Unix-domain socket.
#pragma once

#include <charconv>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <system_error>

namespace lockstep {

/// `HOST:PORT`, `[V6]:PORT` or `unix:PATH`. The host may be a name; resolving it is the environment's work.
struct address {
  std::string host;        ///< empty for a Unix-domain socket
  std::uint16_t port = 0;  ///< 0 lets the system choose when listening
  std::string path;        ///< not empty: a Unix-domain socket

  address() = default;
  address(std::string host_name, std::uint16_t port_number) : host(std::move(host_name)), port(port_number) {}

  static address unix_socket(std::string socket_path) {
    address result;
    result.path = std::move(socket_path);
    return result;
  }

  [[nodiscard]] bool is_unix() const noexcept { return !path.empty(); }

  /// The form that parse() reads.
  [[nodiscard]] std::string to_string() const {
    if (is_unix()) return "unix:" + path;
    const bool v6 = host.find(':') != std::string::npos;
    return (v6 ? "[" + host + "]" : host) + ":" + std::to_string(port);
  }

  /// @return nothing when `text` is none of the three forms, has no host, or a port above 65535.
  static std::optional<address> parse(std::string_view text) {
    constexpr std::string_view unix_prefix = "unix:";
    if (text.starts_with(unix_prefix)) {
      text.remove_prefix(unix_prefix.size());
      if (text.empty()) return std::nullopt;
      return unix_socket(std::string(text));
    }
    const std::size_t colon = text.rfind(':');
    if (colon == std::string_view::npos) return std::nullopt;
    std::string_view host = text.substr(0, colon);
    const std::string_view digits = text.substr(colon + 1);
    if (host.starts_with('[') && host.ends_with(']')) {
      host = host.substr(1, host.size() - 2);
    } else if (host.find(':') != std::string_view::npos) {
      return std::nullopt;
    }
    std::uint16_t port = 0;
    const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), port);
    if (host.empty() || error != std::errc{} || end != digits.data() + digits.size()) return std::nullopt;
    return address(std::string(host), port);
  }

  friend bool operator==(const address&, const address&) = default;
};

}  // namespace lockstep
