#include "raft_replication/http.hpp"

#include <prometheus/metric_family.h>
#include <prometheus/text_serializer.h>

namespace lockstep::raft_replication {

namespace {

using labels = std::vector<prometheus::ClientMetric::Label>;

class families {
 public:
  void gauge(const std::string& name, const std::string& help, double value, labels with = {}) {
    add(name, help, prometheus::MetricType::Gauge, std::move(with)).gauge.value = value;
  }
  void counter(const std::string& name, const std::string& help, std::uint64_t value, labels with = {}) {
    add(name, help, prometheus::MetricType::Counter, std::move(with)).counter.value = static_cast<double>(value);
  }
  [[nodiscard]] std::string text() const { return prometheus::TextSerializer().Serialize(all_); }

 private:
  // Metrics of one family follow each other.
  prometheus::ClientMetric& add(const std::string& name, const std::string& help, prometheus::MetricType type,
                                labels with) {
    if (all_.empty() || all_.back().name != name) {
      prometheus::MetricFamily family;
      family.name = name;
      family.help = help;
      family.type = type;
      all_.push_back(std::move(family));
    }
    prometheus::ClientMetric metric;
    metric.label = std::move(with);
    return all_.back().metric.emplace_back(std::move(metric));
  }

  std::vector<prometheus::MetricFamily> all_;
};

}  // namespace

std::string metrics_text(const replica& of) {
  const raft::core_status now = of.node().core().status();
  const auto number = [](auto value) { return static_cast<double>(value); };
  families all;
  for (const raft::role role :
       {raft::role::follower, raft::role::pre_candidate, raft::role::candidate, raft::role::leader}) {
    all.gauge("raft_role", "1 for the node's role", role == now.role ? 1 : 0, {{"role", std::string(name_of(role))}});
  }
  all.gauge("raft_leader", "Id of the leader, 0 when none is known", number(now.leader));
  all.gauge("raft_term", "Current term", number(now.term));
  all.gauge("raft_commit_index", "Last entry known to be committed", number(now.commit));
  all.gauge("raft_applied_index", "Last entry applied to the state machine", number(of.node().applied()));
  all.gauge("raft_durable_index", "Last entry durable on this node", number(of.node().log().acked().index));
  all.gauge("raft_last_index", "Last entry in the log", number(now.last));
  all.gauge("raft_first_index", "First entry that the log still has", number(of.node().log().base().index + 1));
  all.gauge("raft_snapshot_index", "Last entry of the newest snapshot", number(of.node().snapshot_index()));
  all.gauge("raft_voters", "Members with a vote", number(now.members.voters.incoming.size()));
  all.gauge("raft_ready", "1 when the node can serve clients", of.not_ready().empty() ? 1 : 0);
  for (const raft::peer_status& peer : now.peers) {
    all.gauge("raft_peer_lag", "Entries that a peer is not known to have (leader only)", number(peer.lag),
              {{"peer", std::to_string(peer.id)}});
  }
  for (const raft::peer_status& peer : now.peers) {
    all.gauge("raft_peer_heard", "1 when a peer was heard within an election timeout (leader only)", peer.heard ? 1 : 0,
              {{"peer", std::to_string(peer.id)}});
  }
  all.counter("raft_leader_changes_total", "Changes of the leader as this node saw them", of.counters().leader_changes);
  for (const auto& [what, count] : of.counters().requests) {
    all.counter("raft_requests_total", "Requests that this node has answered", count,
                {{"command", std::string(name_of(what.first))}, {"outcome", std::string(name_of(what.second))}});
  }
  return all.text();
}

}  // namespace lockstep::raft_replication
