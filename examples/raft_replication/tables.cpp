#include "raft_replication/tables.hpp"

#include "common/output.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <vector>

namespace lockstep::raft_replication {

using json = nlohmann::ordered_json;

namespace {

std::string shown(const json& value) {
  if (value.is_null()) return "-";
  if (value.is_boolean()) return value.get<bool>() ? "yes" : "no";
  return value.is_string() ? examples::escape(value.get_ref<const std::string&>()) : json_text(value);
}

/// Columns of the fields `names`, each as wide as it needs to be, under their names in capitals.
std::string table(const json& rows, const std::vector<std::string>& names) {
  std::vector<std::vector<std::string>> lines(1);
  for (const std::string& name : names) {
    std::string title = name;
    for (char& c : title) c = c == '_' ? ' ' : static_cast<char>(std::toupper(static_cast<unsigned char>(c)));
    lines[0].push_back(title);
  }
  for (const json& row : rows) {
    std::vector<std::string>& line = lines.emplace_back();
    for (const std::string& name : names) line.push_back(shown(row.value(name, json())));
  }
  std::vector<std::size_t> widths(names.size());
  for (const auto& line : lines) {
    for (std::size_t i = 0; i < line.size(); ++i) widths[i] = std::max(widths[i], line[i].size());
  }
  std::string text;
  for (const auto& line : lines) {
    std::string one;
    for (std::size_t i = 0; i < line.size(); ++i) one += fmt::format("{:<{}}  ", line[i], widths[i]);
    text += one.substr(0, one.find_last_not_of(' ') + 1) + "\n";
  }
  text.pop_back();
  return text;
}

/// A line for each peer that the node of `status` cannot connect to.
std::string troubles(const json& status, const std::string& before) {
  std::string text;
  for (const json& peer : status.value("peers", json::array())) {
    const json trouble = peer.value("trouble", json());
    if (trouble.is_null()) continue;
    text += fmt::format("\n{}cannot connect to node {}: {}", before, shown(peer["id"]), shown(trouble));
  }
  return text;
}

}  // namespace

std::string json_text(const json& what, int indent) {
  return what.dump(indent, ' ', false, json::error_handler_t::replace);
}

std::string status_table(const json& status) {
  examples::report report;
  const auto text_of = [&](const char* name) { return shown(status.value(name, json())); };
  const std::string leader = status["leader"].is_null() ? text_of("leaderless") : "node " + text_of("leader");
  report.add("Node", status["id"], fmt::format("{} at {}", text_of("id"), text_of("address")))
      .add("Role", status["role"])
      .add("Leader", status["leader"], leader)
      .add("Term", status["term"])
      .add("Commit", status["commit"])
      .add("Applied", status["applied"])
      .add("Log", status["last"],
           fmt::format("{} to {}, durable to {}", text_of("first"), text_of("last"), text_of("durable")))
      .add("Snapshot", status["snapshot"])
      .add("Quorum", status["quorum"], fmt::format("{} of {}", text_of("quorum"), text_of("voters")))
      .add("Last election", status["last_election"]);
  std::string text = report.text();
  const json& peers = status["peers"];
  if (peers.empty()) {
    text.pop_back();
    return text;
  }
  return text + "\n" + table(peers, {"id", "address", "duty", "connected", "state", "match", "lag"}) +
         troubles(status, "");
}

std::string members_table(const json& members) {
  return table(members, {"id", "address", "duty", "leader", "connected"});
}

std::string endpoints_table(const json& endpoints) {
  std::string text =
      table(endpoints, {"endpoint", "id", "role", "leader", "term", "commit", "applied", "last", "snapshot", "quorum"});
  for (const json& each : endpoints) {
    const std::string where = shown(each["endpoint"]) + ": ";
    if (each.contains("error")) text += "\n" + where + shown(each["error"]);
    text += troubles(each, where);
  }
  return text;
}

}  // namespace lockstep::raft_replication
