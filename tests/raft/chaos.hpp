// A Raft group of pure cores through whatever chance brings; then everything must come to work again.
#pragma once

#include "cluster.hpp"

#include <array>
#include <chrono>
#include <functional>

namespace lockstep::raft::test {

using namespace std::chrono_literals;

class chaos {
 public:
  /// @param random  64 bits of chance at each call; the same ones make the same run.
  explicit chaos(std::function<std::uint64_t()> random)
      : random_(std::move(random)),
        trouble_(one_of<std::uint64_t>({1, 4, 15, 60})),
        changes_members_(below(3) != 0),
        damages_(!changes_members_ && below(2) == 0),
        like_(draw_options()),
        group_(draw_members(), like_) {
    group_.ships_at_once = false;
    group_.installs_at_once = false;
    for (auto& [id, of] : group_.nodes) {
      settle_in(of);
      if (of.bootstrap.witnesses.contains(id)) were_witnesses_.insert(id);
    }
  }

  /// @throws rule_broken
  void run(int steps) {
    for (int i = 0; i < steps; ++i) step();
    heal();
  }

 private:
  std::uint64_t below(std::uint64_t bound) { return random_() % bound; }
  template <class T>
  T one_of(std::initializer_list<T> choices) {
    return choices.begin()[below(choices.size())];
  }
  node_id any() {
    return std::next(group_.nodes.begin(), static_cast<std::ptrdiff_t>(below(group_.nodes.size())))->first;
  }

  core_options draw_options() {
    core_options chosen;
    chosen.election_timeout = 200ms * one_of({1, 2, 5});
    chosen.heartbeat_interval = chosen.election_timeout / 10;
    chosen.in_flight.messages = 1 + below(4);
    chosen.max_uncommitted_bytes = one_of<std::uint64_t>({100, 1 << 20, 1 << 20});
    chosen.lease_drift = one_of({0.0, 0.05, 0.3});
    chosen.disk_stall_timeout = chosen.election_timeout * one_of({2, 10});
    chosen.quiesce_after = chosen.election_timeout * one_of({0, 0, 1});
    return chosen;
  }
  configuration draw_members() {
    configuration first = cluster::first_voters(one_of<node_id>({1, 2, 3, 3, 3, 4, 5, 5}));
    const std::size_t voters = first.voters.incoming.size();
    if (below(3) == 0) first.learners.insert(voters + 1);
    if (voters >= 3 && below(3) == 0) first.witnesses.insert(2);
    return first;
  }
  // What is different on every node: its clock, within the drift that leases allow for, and its priority.
  void settle_in(node& of) {
    const double drift = of.options.lease_drift;
    of.clock_rate = one_of({1.0, 1 + drift, 1 - drift});
    of.options.priority = one_of<std::uint8_t>({100, 100, 60, 1});
    // A group whose last voter with all records may not lead has no leader.
    const bool may_rest = !changes_members_ && !damages_ && of.bootstrap.voters.incoming.size() >= 3;
    if (may_rest && of.bootstrap.witnesses.empty() && of.id == 1 && below(4) == 0) of.options.priority = 0;
    group_.start(of);
  }

  void step() {
    const node_id id = any();
    const node_id other = any();
    if (below(1000) >= trouble_) {
      go_on(id, other);
    } else {
      go_wrong(id, other);
    }
  }

  void go_on(node_id id, node_id other) {
    const std::uint64_t what = below(10);
    if (what == 0) return pass_time(id);
    if (what >= 6) return deliver();
    if (!group_.up(id)) return;
    switch (what) {
      case 1: return propose(id);
      case 2:
        if (below(2) == 0) (void)group_.read(id, ++reads_);
        return;
      case 3: return group_.sync(id);
      default:
        if (id != other) (void)group_.ship(id, other, 1 + below(5));
    }
  }

  // More often in some seeds than in others.
  void go_wrong(node_id id, node_id other) {
    switch (below(14)) {
      case 0:
        if (id != other) group_.lose_connection(id, other);
        return;
      case 1: return group_.isolate(id);
      case 2:
        if (id != other) group_.cut_off(id, other);
        return;
      case 3:
      case 4: return group_.heal();
      case 5: return group_.up(id) ? group_.crash(id, below(2) == 0) : group_.start(id);
      case 6: return group_.up(id) ? group_.compact(id) : group_.start(id);
      case 7:
        if (group_.up(id)) (void)group_.transfer(id, other);
        return;
      case 8:
      case 9:
        if (group_.up(id) && changes_members_) change_members(id);
        return;
      case 10:
        if (damages_) damage(id);
        return;
      case 11: return quiet_time();
      case 12: group_.isolate(id); return quiet_time();
      default: return pause(id);
    }
  }

  void pass_time(node_id id) {
    group_.now += std::chrono::milliseconds(below(20));
    if (group_.up(id)) group_.tick(id);
    if (below(50) == 0 && !group_.up(id)) group_.start(id);
  }
  // Nobody writes for a while, and everything arrives, but what is cut off.
  void quiet_time() {
    for (std::uint64_t ticks = below(100); ticks != 0; --ticks) {
      group_.tick_all(like_.heartbeat_interval / 2);
      if (below(4) != 0) group_.settle();
      const node_id reader = any();
      if (group_.up(reader) && below(4) == 0) (void)group_.read(reader, ++reads_);
    }
  }
  // A process stands still, wakes up to find that it has waited too long, and only then gets its messages.
  void pause(node_id id) {
    group_.paused = {id};
    quiet_time();
    group_.paused.clear();
    if (!group_.up(id)) return;
    if (below(2) == 0) hear_before_looking_at_the_clock(id);
    group_.tick(id);
    group_.sync(id);
  }
  // Of what has come meanwhile, a part.
  void hear_before_looking_at_the_clock(node_id id) {
    for (const auto& [ends, queue] : group_.links) {
      for (std::uint64_t most = below(4); ends.second == id && most != 0; --most) group_.deliver(ends.first, id);
    }
    (void)group_.read(id, ++reads_);
  }
  void deliver() {
    std::vector<std::pair<node_id, node_id>> waiting;
    for (const auto& [ends, queue] : group_.links) {
      if (!queue.empty()) waiting.push_back(ends);
    }
    if (waiting.empty()) return;
    const auto ends = waiting[below(waiting.size())];
    // A few come twice, the second time after all that has been sent since.
    const message& next = group_.links[ends].front();
    if (below(next.rejected ? 2 : 20) == 0) group_.links[ends].push_back(message(next));
    group_.deliver(ends.first, ends.second);
    group_.install(any());
  }
  void propose(node_id id) {
    const std::string filler(below(60), 'x');
    group_.propose(id, filler + std::to_string(++proposals_));
  }

  // At most one node at a time, which the others can do without.
  void damage(node_id id) {
    for (const auto& [each, of] : group_.nodes) {
      if (of.refills()) return;
    }
    const node& of = group_.nodes.at(id);
    if (of.bootstrap.voters.incoming.size() < 3 || of.bootstrap.witnesses.contains(2)) return;
    const index_t kept = of.log.acked().index - std::min(of.log.acked().index, below(10));
    group_.damage(id, kept);
  }

  void change_members(node_id id) {
    std::error_code ec;
    if (group_[id].members().is_joint() && below(2) == 0) {
      change_error why{};
      group_.perform(id, group_[id].leave_joint(ec, why));
      return;
    }
    change_list list;
    for (std::uint64_t count = 1 + below(2); count != 0; --count) {
      change one;
      one.type = one_of({change_type::add_voter, change_type::add_voter, change_type::add_learner,
                         change_type::add_witness, change_type::remove});
      one.node = 1 + below(6);
      // Whoever has been a witness has no payloads: as anything else it would begin with an empty disk.
      const bool witness = one.type == change_type::add_witness;
      if (!witness && one.type != change_type::remove && were_witnesses_.contains(one.node)) return;
      list.changes.push_back(one);
    }
    list.how = needed_transition(group_[id].members(), list.changes);
    if (below(4) == 0) list.how = one_of({transition::joint_auto_leave, transition::joint_explicit});
    for (const change& each : list.changes) {
      if (each.type == change_type::add_witness) were_witnesses_.insert(each.node);
      if (!group_.nodes.contains(each.node)) settle_in(group_.add(each.node, like_));
    }
    (void)group_.change_members(id, list, ec);
  }

  void heal() {
    group_.heal();
    for (auto& [id, of] : group_.nodes) {
      if (!of.core) group_.start(of);
    }
    group_.ships_at_once = group_.installs_at_once = true;
    const std::uint64_t before = group_.rules.committed.size();
    require(group_.run_until([&] {
      if (group_.leader() != 0) (void)group_.propose(group_.leader(), "healed");
      return group_.rules.committed.size() > before + 3;
    }),
            "nothing is committed any more");
    require(group_.run_until([&] { return everybody_has_everything(); }), "somebody does not catch up");
    everybody_reads();
  }

  bool everybody_has_everything() {
    const node_id leader = group_.leader();
    if (leader == 0) return false;
    const configuration members = group_[leader].members();
    if (members.is_joint() && !members.auto_leave) {
      std::error_code ec;
      change_error why{};
      group_.perform(leader, group_[leader].leave_joint(ec, why));
    }
    bool equal = !members.is_joint();
    members.for_each_member([&](node_id id) { equal = equal && group_[id].commit() == group_.rules.committed.size(); });
    return equal;
  }

  void everybody_reads() {
    group_[group_.leader()].members().for_each_member([&](node_id id) {
      const bool served = group_.run_until([&] {
        const std::uint64_t read = ++reads_;
        (void)group_.read(id, read);
        group_.settle();
        return group_.reads.contains(read) && group_.reads[read].index != 0;
      });
      require(served, "node ", id, " cannot read");
    });
    require(group_.run_until([&] { return group_.all_reads_answered(); }), "a read gets no answer");
  }

  std::function<std::uint64_t()> random_;
  const std::uint64_t trouble_;  // of 1000 steps
  const bool changes_members_, damages_;
  const core_options like_;
  cluster group_;
  std::set<node_id> were_witnesses_;
  std::uint64_t proposals_ = 0, reads_ = 0;
};

}  // namespace lockstep::raft::test
