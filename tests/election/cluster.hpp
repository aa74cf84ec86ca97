// Election cores with failure detectors for tests: a network, disks, clocks and processes that do what the test says or
// what chance brings, and the rules of the election checked from outside after every step.
#pragma once

#include "lockstep/election/core.hpp"
#include "lockstep/election/failure_detector.hpp"

#include <algorithm>
#include <chrono>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <sstream>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace lockstep::election::test {

using namespace std::chrono_literals;

struct rule_broken : std::logic_error {
  using std::logic_error::logic_error;
};

template <class... Text>
void require(bool holds, const Text&... text) {
  if (holds) return;
  std::ostringstream words;
  (words << ... << text);
  throw rule_broken(words.str());
}

/// A node: what survives its crashes, and its core while it is up.
struct node {
  node_id id = 0;
  core_options options;
  raft::majority members;
  hard_state hard;
  std::unique_ptr<election::core> core;
  std::unique_ptr<failure_detector> detector;
  std::uint64_t life = 0;
  bool paused = false;
  std::vector<event> events;             // of this life
  std::map<node_id, instant> confirmed;  // leader: when each last confirmed its epoch, or the begin of leading it
};

class cluster {
 public:
  instant now{};
  std::map<node_id, node> nodes;
  std::set<std::pair<node_id, node_id>> cut;  // directed
  detector_options detects{100ms, timeout_policy{500ms}, 200ms};
  /// What becomes of a message: when it arrives, perhaps more than once, perhaps never.
  std::function<std::vector<instant>()> fate = [] { return std::vector<instant>{1ms}; };
  /// Whether the node crashes at this point of performing its effects.
  std::function<bool()> crashes = [] { return false; };
  std::map<epoch_t, std::set<node_id>> leaders;  // of every epoch so far

  explicit cluster(node_id count, const core_options& like = {}) {
    raft::majority all;
    for (node_id id = 1; id <= count; ++id) all.insert(id);
    for (const node_id id : all) add(id, all, like);
  }
  cluster(const cluster&) = delete;
  cluster& operator=(const cluster&) = delete;

  node& add(node_id id, const raft::majority& members, core_options options) {
    node& made = nodes[id];
    made.id = id;
    options.id = id;
    made.options = options;
    made.members = members;
    start(id);
    return made;
  }

  core& operator[](node_id id) { return *nodes.at(id).core; }
  [[nodiscard]] bool up(node_id id) const { return nodes.at(id).core != nullptr; }

  void start(node_id id) {
    node& of = nodes.at(id);
    of.options.seed = id * 7919 + ++of.life;
    of.core = std::make_unique<core>(of.options, of.members, of.hard, now);
    of.detector = std::make_unique<failure_detector>(detects, now);
    of.paused = false;
    of.events.clear();
  }
  /// @param noticed  the others lose their connections with it.
  void crash(node_id id, bool noticed = false) {
    nodes.at(id).core.reset();
    if (!noticed) return;
    for (auto& [other, of] : nodes) {
      if (of.core) perform(other, of.core->disconnected(id, now));
    }
  }
  /// It sees no time pass and gets no messages, until it goes on with all that have come.
  void pause(node_id id) { nodes.at(id).paused = true; }
  void resume(node_id id) { nodes.at(id).paused = false; }

  void cut_off(node_id from, node_id to) { cut.insert({from, to}); }
  /// Nothing passes between nodes of different groups.
  void partition(const std::vector<std::set<node_id>>& groups) {
    cut.clear();
    for (const auto& one : groups) {
      for (const auto& other : groups) {
        if (&one == &other) continue;
        for (const node_id from : one) {
          for (const node_id to : other) cut_off(from, to);
        }
      }
    }
  }
  void isolate(node_id id) {
    for (const auto& [other, unused] : nodes) {
      if (other != id) cut_off(id, other), cut_off(other, id);
    }
  }
  void heal() { cut.clear(); }
  void change_members(const raft::majority& members) {
    for (auto& [id, of] : nodes) {
      of.members = members;
      if (of.core) perform(id, of.core->change_members(members, now));
    }
  }

  /// What a driver does with effects; then the rules.
  void perform(node_id id, const effects& of) {
    node& at = nodes.at(id);
    require(of.broken.empty(), "node ", id, ": ", of.broken);
    if (crashes()) return crash(id);
    if (of.persist) {
      require(of.persist->epoch >= at.hard.epoch, "node ", id, "'s epoch falls");
      require(of.persist->epoch > at.hard.epoch || at.hard.agreed == 0 || of.persist->agreed == at.hard.agreed, "node ",
              id, " agrees to two leaders of epoch ", at.hard.epoch);
      at.hard = *of.persist;
    }
    if (crashes()) return crash(id);
    for (const message& each : of.send) {
      require(each.from == id && each.to != id && each.to != 0, "a message to nobody");
      require(each.epoch <= at.hard.epoch, "node ", id, " speaks of an epoch that is not durable");
      sent(each);
      post(each);
    }
    for (const event& each : of.events) happened(at, each);
    const std::string broken = at.core->broken_rule();
    require(broken.empty(), "node ", id, ": ", broken);
  }

  void receive(const message& of) {
    node& to = nodes.at(of.to);
    to.detector->contact(of.from, now);
    if (of.type == message_type::heartbeat) to.detector->beat(of.from, now);
    const node_id heard = to.core->leader();
    const effects& answer = to.core->receive(of, now);
    for (const message& each : answer.send) {
      if (each.type != message_type::consent || !each.granted) continue;
      require(heard == 0 || heard == each.to, "node ", to.id, " helps to displace a leader");
      require(to.members.contains(each.to), "node ", to.id, " agrees to a stranger");
    }
    if (of.type == message_type::heartbeat_reply && of.epoch == to.hard.epoch) to.confirmed[of.from] = now;
    perform(of.to, answer);
  }

  void tick(node_id id) {
    node& of = nodes.at(id);
    of.detector->tick(now);
    const bool is_due = now >= of.core->deadline();
    perform(id, of.core->tick(now));
    if (!of.core) return;
    require(!is_due || of.core->deadline() > now, "node ", id, " would be woken for ever");
    leads_with_majority(of);
    const node_id leader = of.core->leader();
    if (leader == 0 || leader == id) return;
    if (!of.detector->watches(leader)) return of.detector->watch(leader, now);
    if (const auto why = of.detector->suspects(leader)) perform(id, of.core->suspect(leader, describe(*why), now));
  }

  void step(instant by = 5ms) {
    now += by;
    for (auto at = under_way_.begin(); at != under_way_.end() && at->first <= now;) {
      auto& [of, life] = at->second;
      const auto to = nodes.find(of.to);
      const bool lives = to != nodes.end() && to->second.core && to->second.life == life;
      if (lives && to->second.paused) {
        ++at;
        continue;
      }
      const bool arrives = lives && !cut.contains({of.from, of.to});
      const message arrived = of;
      at = under_way_.erase(at);
      if (arrives) receive(arrived);
    }
    for (auto& [id, of] : nodes) {
      if (of.core && !of.paused) tick(id);
    }
  }
  void run(instant time) {
    for (const instant end = now + time; now < end;) step();
  }
  bool run_until(const std::function<bool()>& condition, instant limit = 60s) {
    for (const instant end = now + limit; !condition();) {
      if (now >= end) return false;
      step();
    }
    return true;
  }

  /// The one who leads, and whom all others of `group` that are up follow in its epoch; 0: not so.
  [[nodiscard]] node_id leader_of(const std::set<node_id>& group) const {
    node_id found = 0;
    for (const node_id id : group) {
      const node& of = nodes.at(id);
      if (!of.core || of.paused) continue;
      if (found == 0) found = of.core->leader();
      if (found == 0 || of.core->leader() != found || !group.contains(found)) return 0;
      const node& leader = nodes.at(found);
      if (!leader.core || leader.core->role() != role::leader || leader.hard.epoch != of.hard.epoch) return 0;
    }
    return found;
  }
  [[nodiscard]] std::set<node_id> all() const {
    std::set<node_id> ids;
    for (const auto& [id, of] : nodes) ids.insert(id);
    return ids;
  }
  [[nodiscard]] node_id leader() const { return leader_of(all()); }
  /// Everybody follows one leader, whose id is the result.
  node_id elect(instant limit = 60s) {
    require(run_until([&] { return leader() != 0; }, limit), "no leader");
    return leader();
  }

  /// A message as `from` would send it now.
  [[nodiscard]] message made(message_type type, node_id from, node_id to) const {
    message made;
    made.type = type;
    made.from = from;
    made.to = to;
    made.epoch = nodes.at(from).hard.epoch;
    made.priority = nodes.at(from).options.priority.value_or(from);
    return made;
  }
  /// What `to` says to `from` when this arrives now, of this type.
  std::optional<message> reply(const message& of, message_type type) {
    last_sent_.clear();
    receive(of);
    const auto found = std::find_if(last_sent_.begin(), last_sent_.end(), [&](const message& each) {
      return each.type == type && each.from == of.to && each.to == of.from;
    });
    return found != last_sent_.end() ? std::optional(*found) : std::nullopt;
  }

 private:
  void post(const message& of) {
    last_sent_.push_back(of);
    if (!nodes.contains(of.to) || !up(of.to)) return;
    for (const instant after : fate()) under_way_.insert({now + after, {of, nodes.at(of.to).life}});
  }

  // Consents are durable, and so count as given from the moment of sending.
  void sent(const message& of) {
    if (of.type != message_type::consent || !of.granted) return;
    node_id& to = consents_[{of.from, of.epoch}];
    require(to == 0 || to == of.to, "node ", of.from, " agrees to nodes ", to, " and ", of.to, " in epoch ", of.epoch);
    to = of.to;
  }

  void happened(node& at, const event& of) {
    at.events.push_back(of);
    if (of.is != event::what::became_leader) return;
    require(of.node == at.id && at.members.contains(at.id), "a stranger leads");
    std::set<node_id>& led_by = leaders[of.epoch];
    require(!led_by.contains(at.id), "node ", at.id, " leads epoch ", of.epoch, " twice");
    led_by.insert(at.id);
    for (const node_id id : at.members) at.confirmed[id] = now;
    if (!at.options.majority_gate) return;
    require(led_by.size() == 1, "two nodes lead epoch ", of.epoch);
    const auto agrees = [&](node_id id) {
      const auto found = consents_.find({id, of.epoch});
      return id == at.id || (found != consents_.end() && found->second == at.id);
    };
    const auto count = static_cast<std::size_t>(std::count_if(at.members.begin(), at.members.end(), agrees));
    require(count >= at.members.quorum(), "node ", at.id, " leads without a majority");
  }

  void leads_with_majority(const node& of) {
    if (!of.options.majority_gate || of.core->role() != role::leader) return;
    const auto hears = [&](node_id id) {
      const auto found = of.confirmed.find(id);
      return id == of.id || found == of.confirmed.end() || now - found->second < of.options.election_timeout;
    };
    const auto count = static_cast<std::size_t>(std::count_if(of.members.begin(), of.members.end(), hears));
    require(count >= of.members.quorum(), "node ", of.id, " leads and hears no majority");
  }

  std::multimap<instant, std::pair<message, std::uint64_t>> under_way_;  // with the receiver's life
  std::map<std::pair<node_id, epoch_t>, node_id> consents_;              // by whom, in which epoch: to whom
  std::vector<message> last_sent_;
};

}  // namespace lockstep::election::test
