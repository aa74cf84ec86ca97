// The JSON of replica::status() and replica::members() as tables for people. Without a newline at the end.
#pragma once

#include <nlohmann/json.hpp>

#include <string>

namespace lockstep::raft_replication {

/// JSON as text, whatever bytes peers and users have put into it: what is no UTF-8 is replaced.
std::string json_text(const nlohmann::ordered_json& what, int indent = -1);

std::string status_table(const nlohmann::ordered_json& status);
std::string members_table(const nlohmann::ordered_json& members);

/// One row for each endpoint: its "endpoint" and its status, or "error".
std::string endpoints_table(const nlohmann::ordered_json& endpoints);

}  // namespace lockstep::raft_replication
