#include "raft_replication/topology.hpp"

#include "common/values.hpp"

#include <fmt/format.h>

#include <charconv>
#include <stdexcept>
#include <string_view>

namespace lockstep::raft_replication {

namespace {

void add_peer(std::string_view text, std::map<node_id, std::string>& to) {
  const std::size_t equals = text.find('=');
  node_id id = 0;
  const std::string_view number = text.substr(0, equals);
  const auto [end, error] = std::from_chars(number.data(), number.data() + number.size(), id);
  if (equals == std::string_view::npos || error != std::errc() || end != number.data() + number.size() || id == 0) {
    throw std::invalid_argument(fmt::format("'{}': expected ID=HOST:PORT, the ID a number from 1 on", text));
  }
  const std::string where = examples::parse_address(text.substr(equals + 1)).to_string();
  for (const auto& [other, address] : to) {
    if (other == id) throw std::invalid_argument(fmt::format("node {} is there twice: {} and {}", id, address, where));
    if (address == where) {
      throw std::invalid_argument(fmt::format("nodes {} and {} have the same address {}", other, id, where));
    }
  }
  to.emplace(id, where);
}

std::string names_of(const std::map<node_id, std::string>& peers) {
  std::string names;
  for (const auto& [id, address] : peers) names += (names.empty() ? "" : ", ") + std::to_string(id);
  return names;
}

}  // namespace

std::map<node_id, std::string> parse_peers(const std::vector<std::string>& lists) {
  std::map<node_id, std::string> peers;
  for (std::string_view list : lists) {
    for (bool more = true; more;) {
      const std::size_t comma = list.find(',');
      add_peer(list.substr(0, comma), peers);
      more = comma != std::string_view::npos;
      if (more) list.remove_prefix(comma + 1);
    }
  }
  return peers;
}

void check_peers(const std::map<node_id, std::string>& peers, node_id id, const address& listen) {
  const auto self = peers.find(id);
  if (self == peers.end()) {
    throw std::invalid_argument(fmt::format("--id {} is not among the nodes of --peer: {}", id, names_of(peers)));
  }
  if (self->second != listen.to_string()) {
    throw std::invalid_argument(
        fmt::format("--listen {} differs from --peer {}={}", listen.to_string(), id, self->second));
  }
  if (peers.size() % 2 == 0) {
    throw std::invalid_argument(
        fmt::format("--peer names {} nodes ({}): an even number survives no more failures than {}, name an odd number",
                    peers.size(), names_of(peers), peers.size() - 1));
  }
}

}  // namespace lockstep::raft_replication
