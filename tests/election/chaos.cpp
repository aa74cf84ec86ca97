// Election cores through whatever chance brings; the cluster checks the rules at every step, and afterwards everybody
// must come to follow one leader.
#include "cluster.hpp"

#include <gtest/gtest.h>

#include <cstdlib>
#include <random>

namespace lockstep::election::test {
namespace {

class chaos {
 public:
  chaos(std::uint64_t seed, bool gate)
      : random_(seed), trouble_(one_of({0, 2, 10})), cluster_(one_of({2, 3, 3, 4, 5, 5, 7}), options(gate)) {
    if (below(2) == 0) cluster_.detects.by = phi_accrual_policy{};
    for (auto& [id, of] : cluster_.nodes) {
      if (below(4) == 0) of.options.priority = below(3);
    }
    for (const node_id id : cluster_.all()) cluster_.start(id);
    disturb();
  }

  /// @throws rule_broken
  void run() {
    for (int i = 0; i < 40; ++i) {
      go_wrong();
      cluster_.run(std::chrono::milliseconds(below(one_of({50, 500, 3000}))));
    }
    settle_in_groups();
    settle();
    highest_comes_back();
  }

 private:
  std::uint64_t below(std::uint64_t bound) { return random_() % bound; }
  std::uint64_t one_of(std::initializer_list<std::uint64_t> choices) { return choices.begin()[below(choices.size())]; }
  node_id any() { return std::next(cluster_.nodes.begin(), static_cast<int>(below(cluster_.nodes.size())))->first; }
  static core_options options(bool gate) {
    core_options chosen;
    chosen.majority_gate = gate;
    return chosen;
  }

  void disturb() {
    cluster_.fate = [this] {
      std::vector<instant> copies;
      if (below(100) < trouble_) return copies;
      copies.emplace_back(std::chrono::milliseconds(1 + below(20)));
      if (below(100) < trouble_) copies.emplace_back(std::chrono::milliseconds(below(2000)));
      return copies;
    };
    cluster_.crashes = [this] { return below(2000) < trouble_; };
  }
  void calm() {
    cluster_.fate = [] { return std::vector<instant>{1ms}; };
    cluster_.crashes = [] { return false; };
    for (auto& [id, of] : cluster_.nodes) {
      of.paused = false;
      if (!of.core) cluster_.start(id);
      for (const node_id other : cluster_.all()) {
        if (other != id) cluster_.perform(id, of.core->connected(other, cluster_.now));
      }
    }
  }

  void go_wrong() {
    const node_id id = any(), other = any();
    switch (below(12)) {
      case 0: return cluster_.crash(id, below(2) == 0);
      case 1:
      case 2:
        if (!cluster_.up(id)) cluster_.start(id);
        return;
      case 3: return cluster_.isolate(id);
      case 4: return cluster_.partition(groups());
      case 5:
        if (id != other) cluster_.cut_off(id, other);
        return;
      case 6:
      case 7: return cluster_.heal();
      case 8:
        if (cluster_.up(id)) cluster_.pause(id);
        return;
      case 9: return cluster_.resume(id);
      case 10: return change_members();
      default:
        if (!cluster_.up(id) || id == other) return;
        cluster_.perform(id, below(2) == 0 ? cluster_[id].suspect(other, "chance", cluster_.now)
                                           : cluster_[id].disconnected(other, cluster_.now));
    }
  }
  // One at a time, and while all follow one leader.
  void change_members() {
    const bool is_well = std::all_of(cluster_.nodes.begin(), cluster_.nodes.end(),
                                     [](const auto& each) { return each.second.core && !each.second.paused; });
    if (!is_well || cluster_.leader() == 0) return;
    raft::majority members = cluster_.nodes.begin()->second.members;
    const node& like = cluster_.nodes.begin()->second;
    if (const node_id leaves = any(); members.size() > 3) {
      cluster_.crash(leaves);
      cluster_.nodes.erase(leaves);
      members.erase(leaves);
    } else {
      members.insert(++last_joined_);
      cluster_.add(last_joined_, members, options(like.options.majority_gate));
    }
    cluster_.change_members(members);
  }
  std::vector<std::set<node_id>> groups() {
    std::vector<std::set<node_id>> made(2);
    for (const node_id id : cluster_.all()) made[below(2)].insert(id);
    return made;
  }

  // In each part one leads, where the gate lets anybody lead.
  void settle_in_groups() {
    const std::vector<std::set<node_id>> parts = groups();
    cluster_.partition(parts);
    calm();
    cluster_.run(20s);
    for (const auto& part : parts) {
      const node& first = cluster_.nodes.begin()->second;
      const bool may_lead = !part.empty() && (!first.options.majority_gate || part.size() >= first.members.quorum());
      require((cluster_.leader_of(part) != 0) == may_lead, "a part of ", part.size(), " has a leader or none");
      if (!may_lead) {
        for (const node_id id : part) require(cluster_[id].role() != role::leader, "a minority has a leader");
      }
    }
  }

  void settle() {
    cluster_.heal();
    calm();
    require(cluster_.run_until([&] { return cluster_.leader() != 0; }, 20s), "no leader after all is well");
    const node_id leader = cluster_.leader();
    const epoch_t epoch = cluster_[leader].epoch();
    cluster_.run(5s);
    require(cluster_.leader() == leader && cluster_[leader].epoch() == epoch, "a leader changes without a reason");
    require(cluster_.leaders[epoch].size() == 1, "the last epoch had another leader");
  }

  void highest_comes_back() {
    const node_id before = cluster_.leader();
    cluster_.crash(before, below(2) == 0);
    if (cluster_.nodes.size() == 2 && cluster_.nodes.at(before).options.majority_gate) return;
    std::set<node_id> others = cluster_.all();
    others.erase(before);
    require(cluster_.run_until([&] { return cluster_.leader_of(others) != 0; }, 20s), "nobody takes over");
    const node_id leader = cluster_.leader_of(others);
    const epoch_t epoch = cluster_[leader].epoch();
    const auto rank = [&](node_id id) { return std::pair(cluster_.nodes.at(id).options.priority.value_or(id), id); };
    for (const node_id id : others) require(rank(id) <= rank(leader), "node ", id, " is higher and lives");
    cluster_.start(before);
    cluster_.run(5s);
    require(cluster_.leader() == leader && cluster_[leader].epoch() == epoch, "node ", before, " displaces a leader");
  }

  std::mt19937_64 random_;
  const std::uint64_t trouble_;  // of 100 messages
  node_id last_joined_ = 10;
  cluster cluster_;
};

void run(bool gate) {
  const char* const first = std::getenv("FIRST_SEED");
  const char* const count = std::getenv("SEEDS");
  const std::uint64_t from = first ? std::stoull(first) : 1;
  const std::uint64_t seeds = count ? std::stoull(count) : 40;
  for (std::uint64_t seed = from; seed < from + seeds; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    ASSERT_NO_THROW(chaos(seed, gate).run());
  }
}

TEST(election_chaos, with_the_gate_breaks_no_rule_and_goes_on_afterwards) { run(true); }
TEST(election_chaos, without_the_gate_breaks_no_rule_and_goes_on_afterwards) { run(false); }

}  // namespace
}  // namespace lockstep::election::test
