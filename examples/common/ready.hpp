// The `ready:` line: the one line on standard output that says a server may be used, and where.
//
//   ready: clients=127.0.0.1:7878 replication=127.0.0.1:7879 pid=812
//
// NAME=VALUE pairs after "ready:", separated by single spaces, `pid` last. A value is an address in the form that
// --addr and the like accept; spaces and control characters in it (a socket's path) are escaped as by escape().
#pragma once

#include <initializer_list>
#include <string>
#include <string_view>

#include <asio/ip/tcp.hpp>
#include <lockstep/core/address.hpp>

namespace lockstep::examples {

/// Something that accepts connections; `at` holds the real port, never 0.
struct listening {
  std::string name;
  address at;
};

/// An acceptor's `local_endpoint()` as an address.
inline address to_address(const asio::ip::tcp::endpoint& endpoint) {
  return {endpoint.address().to_string(), endpoint.port()};
}

/// The line, without its newline.
std::string ready_line(std::initializer_list<listening> where);

/// Write the line to standard output and flush it. Call it when every listed address accepts connections.
/// @throws as flush_out().
void print_ready(std::initializer_list<listening> where);

}  // namespace lockstep::examples
