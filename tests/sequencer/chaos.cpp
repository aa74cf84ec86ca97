// Sequencers' groups through whatever chance brings; then everything must come to work again.
#include "cluster.hpp"

#include <gtest/gtest.h>

#include <cstdlib>
#include <random>

namespace lockstep::sequencer::test {
namespace {

using namespace std::chrono_literals;

class chaos {
 public:
  chaos(std::uint64_t seed, bool quorum)
      : random_(seed),
        quorum_(quorum),
        trouble_(one_of<std::uint64_t>({2, 10, 30})),
        group_(draw_size(), draw_options()) {
    group_.most_records = 1 + below(5);
    group_.catches_up_at_once = false;
  }

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
  node_id draw_size() { return one_of<node_id>({1, 2, 3, 3, 3, 4, 5, 5}); }
  core_options draw_options() {
    core_options chosen;
    chosen.quorum_acks = quorum_;
    chosen.heartbeat_interval = 50ms;
    chosen.takeover_limit = 200ms;
    chosen.fetch_retry = 50ms;
    chosen.fetches_in_flight = 1 + below(3);
    chosen.holdback_bytes = one_of<std::uint64_t>({200, 1000, 1u << 20});
    chosen.most_behind = one_of<std::uint64_t>({10, 100, 1000});
    chosen.max_undelivered_bytes = one_of<std::uint64_t>({100, 1u << 20});
    chosen.senders.window = 1 + below(10);
    return chosen;
  }
  node_id any() { return 1 + below(group_.nodes.size()); }

  void step() {
    if (below(1000) < trouble_) return go_wrong();
    const node_id id = any();
    switch (below(10)) {
      case 0: return pass_time(id);
      case 1:
      case 2:
        if (group_.up(id)) say(id);
        return;
      case 3:
      case 4:
        if (group_.up(id)) group_.sync(id);
        return;
      default: return deliver();
    }
  }
  void pass_time(node_id id) {
    group_.now += std::chrono::milliseconds(below(20));
    if (group_.up(id)) group_.tick(id);
    if (below(20) == 0) group_.catch_up(id);
    if (below(50) == 0 && !group_.up(id)) group_.start(id);
  }
  // Any order, and some are lost, and some come twice.
  void deliver() {
    if (group_.wire.empty()) return;
    const std::size_t which = below(2) == 0 ? 0 : below(group_.wire.size());
    if (below(30) == 0) group_.wire.push_back(packet(group_.wire[which]));
    if (below(50) == 0) {
      group_.wire.erase(group_.wire.begin() + static_cast<std::ptrdiff_t>(which));
    } else {
      group_.deliver(which);
    }
  }
  // A client waits for nothing, repeats itself, and goes to another node whenever it likes.
  void say(node_id at) {
    const sender_id sender = 1 + below(4);
    std::uint64_t& newest = newest_[sender];
    if (newest < settled(sender) + 4) ++newest;
    const std::uint64_t back = std::min(below(5), newest - 1);
    const std::uint64_t n = below(3) == 0 ? newest - back : std::min(newest, settled(sender) + 1);
    group_.submit(at, sender, n, std::string(below(40), 'x') + std::to_string(sender) + "/" + std::to_string(n));
  }
  // How many of its messages the sender knows to be ordered.
  std::uint64_t settled(sender_id sender) {
    std::uint64_t& known = settled_[sender];
    for (const auto& [id, of] : group_.nodes) {
      for (auto at = of.answers.find({sender, known + 1}); at != of.answers.end();) {
        if (at->first.first != sender || at->first.second != known + 1) break;
        if (at->second.status != submit_status::ordered && at->second.status != submit_status::forgotten) break;
        ++known;
        at = of.answers.find({sender, known + 1});
      }
    }
    return known;
  }

  void go_wrong() {
    const node_id id = any();
    switch (below(9)) {
      case 8: return quiet_time(id);
      case 0:
      case 1:
        if (group_.up(id)) (void)group_.appoint(id);
        return;
      case 2: return group_.isolate(id);
      case 3: group_.cut.insert({id, any()}); return;
      case 4: return group_.heal();
      case 5: return group_.up(id) ? group_.crash(id, below(2) == 0) : group_.start(id);
      case 6:
        if (group_.up(id) && group_.epoch != 0 && below(2) == 0) return announce(id);
        return;
      default:
        if (quorum_ && group_.up(id) && group_[id].role() != role::retired) group_.compact(id);
    }
  }
  // Nothing fails that has not failed already.
  void quiet_time(node_id leader) {
    if (group_.up(leader)) (void)group_.appoint(leader);
    for (std::uint64_t ticks = below(60); ticks != 0; --ticks) {
      const node_id id = any();
      if (group_.up(id)) say(id);
      group_.pass(10ms);
      if (below(4) != 0) group_.settle();
      group_.catch_up(id);
    }
  }
  // Its own election tells it of a leader, perhaps late.
  void announce(node_id id) {
    for (const auto& [other, of] : group_.nodes) {
      if (other != id && of.core && of.core->role() == role::leader) {
        (void)group_.follow(id, other, of.core->epoch());
        return;
      }
    }
  }

  void heal() {
    group_.heal();
    group_.catches_up_at_once = true;
    for (auto& [id, of] : group_.nodes) {
      if (!of.core) group_.start(id);
    }
    for (auto& [id, of] : group_.nodes) group_.catch_up(id);
    const node_id leader = any();
    (void)group_.appoint(leader);
    require(group_.run_until([&] { return group_[leader].role() == role::leader; }), "node ", leader,
            " cannot take over");
    require(group_.run_until([&] { return everybody_has_everything(leader); }), "nobody goes on after the takeover");
    for (sender_id sender = 1; sender <= 4; ++sender) say_the_rest(leader, sender);
    require(group_.run_until([&] { return everybody_has_everything(leader); }), "somebody does not catch up");
    for (const auto& [id, of] : group_.nodes) {
      require(of.program == group_.nodes.at(leader).program, "node ", id, " has another order");
      require(of.log.last() == group_.nodes.at(leader).log.last(), "node ", id, " has another chain");
      require(of.core->senders() == group_[leader].senders(), "node ", id, " knows other senders");
    }
  }
  // Without quorum_acks what was answered can be lost: the sender must go back to what is there.
  void say_the_rest(node_id leader, sender_id sender) {
    const std::uint64_t there = static_cast<std::uint64_t>(
        std::count_if(group_.nodes.at(leader).program.begin(), group_.nodes.at(leader).program.end(),
                      [sender](const delivered_message& each) { return each.sender == sender; }));
    if (quorum_) require(there >= settled_[sender], "a message that was acknowledged is lost");
    for (std::uint64_t n = there + 1; n <= newest_[sender]; ++n) {
      const bool ordered = group_.run_until([&] {
        const auto text = std::to_string(sender) + "/" + std::to_string(n);
        group_.nodes.at(leader).answers.erase({sender, n});
        group_.submit(leader, sender, n, text);
        group_.settle();
        const auto answer = group_.answered(leader, sender, n);
        return answer && (answer->status == submit_status::ordered || answer->status == submit_status::forgotten);
      });
      require(ordered, "a message is never ordered");
    }
  }
  bool everybody_has_everything(node_id leader) {
    for (const auto& [id, of] : group_.nodes) {
      if (of.core->role() == role::retired || of.core->delivered() != group_.last(leader)) return false;
    }
    return true;
  }

  std::mt19937_64 random_;
  const bool quorum_;
  const std::uint64_t trouble_;  // of 1000 steps
  cluster group_;
  std::map<sender_id, std::uint64_t> newest_, settled_;
};

void run_seeds(bool quorum) {
  const char* const first = std::getenv("FIRST_SEED");
  const char* const count = std::getenv("SEEDS");
  const std::uint64_t from = first ? std::stoull(first) : 1;
  const std::uint64_t seeds = count ? std::stoull(count) : 150;
  for (std::uint64_t seed = from; seed < from + seeds; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    ASSERT_NO_THROW(chaos(seed, quorum).run(3000));
  }
}

TEST(sequencer_chaos, uniform_order_breaks_no_rule_and_goes_on_afterwards) { run_seeds(true); }
TEST(sequencer_chaos, the_leader_s_order_breaks_no_rule_and_goes_on_afterwards) { run_seeds(false); }

}  // namespace
}  // namespace lockstep::sequencer::test
