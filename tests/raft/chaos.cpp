// Raft groups of pure cores through whatever chance brings.
#include "cluster.hpp"

namespace lockstep::raft::test {
namespace {

using namespace std::chrono_literals;

class chaos {
 public:
  explicit chaos(std::uint64_t seed) : random_(seed), group_(sizes(seed), options(seed)) {
    group_.ships_at_once = false;
  }

  void run(int steps) {
    for (int i = 0; i < steps && !::testing::Test::HasFatalFailure(); ++i) step();
    heal();
  }

 private:
  static node_id sizes(std::uint64_t seed) { return std::array<node_id, 4>{3, 5, 1, 4}[seed % 4]; }
  static core_options options(std::uint64_t seed) {
    core_options chosen;
    chosen.election_timeout = 200ms * (1 + seed / 16 % 5);
    chosen.heartbeat_interval = chosen.election_timeout / 10;
    chosen.in_flight.messages = 1 + seed / 4 % 4;
    chosen.max_uncommitted_bytes = seed % 3 == 0 ? 100 : 1 << 20;
    return chosen;
  }
  std::uint64_t below(std::uint64_t bound) { return random_() % bound; }
  node_id any() {
    return std::next(group_.nodes.begin(), static_cast<std::ptrdiff_t>(below(group_.nodes.size())))->first;
  }

  void step() {
    const node_id id = any();
    const node_id other = any();
    const bool up = group_.up(id);
    // What goes on all the time, and what happens now and then, more often in some seeds than in others.
    if (below(1000) >= trouble_) {
      switch (below(10)) {
        case 0: pass_time(id); break;
        case 1:
          if (up) propose(id);
          break;
        case 2:
          if (up && below(2) == 0) read(id);
          break;
        case 3:
          if (up) group_.sync(id);
          break;
        case 4:
        case 5:
          if (up && id != other) group_.ship(id, other, 1 + below(5));
          break;
        default: deliver();
      }
      return;
    }
    switch (below(9)) {
      case 0: group_.lose_connection(id, other); break;
      case 1: group_.isolate(id); break;
      case 2: group_.cut_off(id, other); break;
      case 3:
      case 4: group_.heal(); break;
      case 5:
        if (up)
          group_.crash(id);
        else
          group_.start(group_.nodes.at(id));
        break;
      case 6:
        if (up) group_.compact(id);
        break;
      case 7:
        if (up) transfer(id, other);
        break;
      case 8:
        if (up) change_members(id);
        break;
    }
  }

  void pass_time(node_id id) {
    group_.now += std::chrono::milliseconds(below(20));
    if (group_.up(id)) group_.perform(id, group_[id].tick(group_.now));
    if (below(50) == 0 && !group_.up(id)) group_.start(group_.nodes.at(id));
  }
  void deliver() {
    std::vector<std::pair<node_id, node_id>> waiting;
    for (const auto& [ends, queue] : group_.links) {
      if (!queue.empty()) waiting.push_back(ends);
    }
    if (waiting.empty()) return;
    const auto [from, to] = waiting[below(waiting.size())];
    group_.deliver(from, to);
  }
  void propose(node_id id) {
    const std::string filler(below(60), 'x');
    group_.propose(id, filler + std::to_string(++proposals_));
  }
  void transfer(node_id id, node_id to) {
    std::error_code ec;
    group_.perform(id, group_[id].transfer(to, group_.now, ec));
  }

  void read(node_id id) {
    const std::uint64_t read_id = ++reads_;
    asked_[read_id] = group_.committed.size();
    (void)group_.read(id, read_id);
    look_at_reads();
  }
  void look_at_reads() {
    for (const auto& [id, each] : group_.reads) {
      if (each.index != 0) {
        ASSERT_GE(each.index, asked_[id]) << "a read missed what was committed when it was asked for";
      }
    }
    group_.reads.clear();
  }

  void change_members(node_id id) {
    change_list list;
    for (std::uint64_t count = 1 + below(2); count != 0; --count) {
      change one;
      one.type = std::array{change_type::add_voter, change_type::add_learner, change_type::remove}[below(3)];
      one.node = 1 + below(6);
      list.changes.push_back(one);
    }
    list.how = needed_transition(group_[id].members(), list.changes);
    std::error_code ec;
    change_error why{};
    for (const change& each : list.changes) {
      if (!group_.nodes.contains(each.node)) group_.add(each.node, group_.nodes.begin()->second.options);
    }
    group_.perform(id, group_[id].change_members(list, ec, why));
  }

  // Then everything must come to work again.
  void heal() {
    if (::testing::Test::HasFatalFailure()) return;
    group_.heal();
    for (auto& [id, of] : group_.nodes) {
      if (!of.core) group_.start(of);
    }
    group_.ships_at_once = true;
    const std::uint64_t before = group_.committed.size();
    ASSERT_TRUE(group_.run_until([&] {
      if (group_.leader() != 0) (void)group_.propose(group_.leader(), "healed");
      group_.settle();
      return group_.committed.size() > before + 3;
    })) << "nothing is committed any more";
    ASSERT_TRUE(group_.run_until([&] {
      const node_id leader = group_.leader();
      if (leader == 0) return false;
      const configuration& members = group_[leader].members();
      bool equal = !members.is_joint();
      members.for_each_member([&](node_id id) { equal = equal && group_[id].commit() == group_.committed.size(); });
      return equal;
    })) << "somebody does not catch up";
    look_at_reads();
  }

  std::mt19937_64 random_;
  const std::uint64_t trouble_ = std::array<std::uint64_t, 4>{1, 4, 15, 60}[random_() % 4];  // of 1000 steps
  cluster group_;
  std::uint64_t proposals_ = 0, reads_ = 0;
  std::map<std::uint64_t, std::size_t> asked_;
};

TEST(raft_chaos, breaks_no_rule_and_goes_on_afterwards) {
  const char* const first = std::getenv("FIRST_SEED");
  const char* const count = std::getenv("SEEDS");
  const std::uint64_t from = first ? std::stoull(first) : 1;
  const std::uint64_t seeds = count ? std::stoull(count) : 300;
  for (std::uint64_t seed = from; seed < from + seeds; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    chaos(seed).run(10000);
    if (HasFailure()) return;
  }
}

}  // namespace
}  // namespace lockstep::raft::test
