// What a replica tells of itself.
#include "raft_replication/replica.hpp"

#include <fmt/format.h>

namespace lockstep::raft_replication {

using json = nlohmann::ordered_json;

namespace {

double seconds(duration of) { return std::chrono::duration<double>(of).count(); }

std::string_view name_of(raft::progress::state_t state) noexcept {
  switch (state) {
    case raft::progress::state_t::probe: return "probe";
    case raft::progress::state_t::replicate: return "replicate";
    case raft::progress::state_t::snapshot: return "snapshot";
  }
  return "";
}

std::string_view duty_of(const raft::configuration& config, node_id id) {
  if (config.witnesses.contains(id)) return "witness";
  if (config.voters.incoming.contains(id)) return "voter";
  if (config.voters.outgoing.contains(id)) return "outgoing voter";
  return config.learners.contains(id) ? "learner" : "none";
}

}  // namespace

std::string_view name_of(raft::role role) noexcept {
  switch (role) {
    case raft::role::follower: return "follower";
    case raft::role::pre_candidate: return "pre-candidate";
    case raft::role::candidate: return "candidate";
    case raft::role::leader: return "leader";
  }
  return "";
}

std::string replica::leaderless() const {
  const auto& core = node_->core();
  if (core.leader() != 0) return {};
  std::optional<duration> silent = node_->status().leader_silent_for;
  if (const duration since = env_.now() - led_at_; led_at_ != time_point() && (!silent || since < *silent))
    silent = since;
  const std::string contact =
      silent ? fmt::format("last contact {:.1f} s", seconds(*silent)) : std::string("no contact yet");
  return fmt::format("no leader (term {}, {})", core.term(), contact);
}

std::string replica::not_ready() const {
  const auto& core = node_->core();
  if (core.members().voters.incoming.empty()) return "this node belongs to no group yet";
  if (std::string none = leaderless(); !none.empty()) return none;
  if (node_->applied() < core.applicable()) return "still applying what is committed";
  return {};
}

json replica::status() const {
  const raft::node_status all = node_->status();
  const raft::core_status& now = all.core;
  json told;
  told["id"] = options_.id;
  told["address"] = options_.listen.to_string();
  told["cluster"] = options_.cluster;
  told["role"] = name_of(now.role);
  told["duty"] = duty_of(now.members, options_.id);
  told["leader"] = now.leader == 0 ? json() : json(now.leader);
  told["term"] = now.term;
  told["commit"] = now.commit;
  told["applied"] = all.applied;
  told["durable"] = all.durable;
  told["last"] = now.last;
  told["first"] = all.first;
  told["snapshot"] = all.snapshot;
  told["quorum"] = now.quorum;
  told["voters"] = now.members.voters.incoming.size();
  told["members_committed"] = now.members_index <= now.commit;
  told["sessions"] = store_.sessions();
  const std::string& why = now.last_change;
  const std::string election = elected_ + (elected_.empty() || why.empty() ? "" : "; ") + why;
  told["last_election"] = election.empty() ? json() : json(election);
  const std::string none = leaderless();
  told["leaderless"] = none.empty() ? json() : json(none);
  told["uptime_s"] = seconds(env_.now() - began_);
  json peers = json::array();
  for (const raft::member_status& each : all.members) {
    json peer;
    peer["id"] = each.id;
    peer["address"] = each.address.empty() ? json() : json(each.address);
    peer["duty"] = duty_of(now.members, each.id);
    peer["connected"] = each.connected;
    peer["silent_s"] = each.silent_for ? json(seconds(*each.silent_for)) : json();
    peer["trouble"] = each.trouble.empty() ? json() : json(each.trouble);
    if (now.role == raft::role::leader) {
      peer["state"] = name_of(each.state);
      peer["match"] = each.match;
      peer["lag"] = each.lag;
    }
    peers.push_back(std::move(peer));
  }
  told["peers"] = std::move(peers);
  return told;
}

json replica::members() const {
  const raft::configuration& now = node_->core().members();
  json rows = json::array();
  now.for_each_member([&](node_id id) {
    const auto where = now.addresses.find(id);
    json row;
    row["id"] = id;
    row["address"] = where == now.addresses.end() ? json() : json(where->second);
    row["duty"] = duty_of(now, id);
    row["leader"] = id == node_->core().leader();
    row["connected"] = id == options_.id || node_->connected(id);
    rows.push_back(std::move(row));
  });
  return rows;
}

}  // namespace lockstep::raft_replication
