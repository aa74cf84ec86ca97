// Who belongs to a new group, as the command line says it. Pure.
#pragma once

#include <lockstep/core/address.hpp>
#include <lockstep/core/ids.hpp>

#include <map>
#include <string>
#include <vector>

namespace lockstep::raft_replication {

/// Reads `1=127.0.0.1:7101,2=127.0.0.1:7102`; more than one such list is read as one.
/// @throws std::invalid_argument: malformed; a node or an address twice (both places are named).
std::map<node_id, std::string> parse_peers(const std::vector<std::string>& lists);

/// @throws std::invalid_argument: `id` is not among the peers, or stands there with another address than `listen`; an
/// even number of peers.
void check_peers(const std::map<node_id, std::string>& peers, node_id id, const address& listen);

}  // namespace lockstep::raft_replication
