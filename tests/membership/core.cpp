#include "lockstep/membership/core.hpp"

#include <gtest/gtest.h>

#include <deque>
#include <map>
#include <memory>
#include <random>
#include <set>
#include <stdexcept>

namespace lockstep::membership {
namespace {

using namespace std::chrono_literals;

address at(node_id id) { return {"node" + std::to_string(id), 7000}; }
member node(node_id id, std::uint64_t life = 1) { return {id, life, at(id)}; }

// Nodes by where they listen, and a network that delivers in order unless it is told otherwise.
class cluster {
 public:
  struct seen {
    std::unique_ptr<membership::core> core;
    int joined = 0;
    bool left = false;
    std::optional<refused_join> refused;
  };
  instant now{};
  std::map<std::string, seen> nodes;
  std::deque<message> wire;
  std::set<node_id> lost;  // what goes to these is

  core& add(const member& self, std::initializer_list<node_id> seeds, const std::string& name = "chat") {
    core_options options;
    options.self = self;
    options.cluster = name;
    for (const node_id seed : seeds) options.seeds.push_back(at(seed));
    options.seed = self.id * 31 + self.life;
    seen& made = nodes[self.where.to_string()] = {};
    made.core = std::make_unique<membership::core>(options, now);
    return *made.core;
  }
  core& operator[](node_id id) { return *of(id).core; }
  seen& of(node_id id) { return nodes.at(at(id).to_string()); }
  void crash(node_id id) { nodes.erase(at(id).to_string()); }

  void perform(const address& where, const effects& done) {
    seen& by = nodes.at(where.to_string());
    for (const message& each : done.send) wire.push_back(each);
    by.joined += done.joined;
    by.left = by.left || done.left;
    if (done.refused) by.refused = done.refused;
    if (const std::string broken = by.core->broken_rule(); !broken.empty()) throw std::logic_error(broken);
  }
  void perform(node_id id, const effects& done) { perform(at(id), done); }
  void deliver(std::size_t which = 0) {
    const message next = wire[which];
    wire.erase(wire.begin() + static_cast<std::ptrdiff_t>(which));
    const auto to = nodes.find(next.to.to_string());
    if (to == nodes.end()) return;
    for (const node_id id : lost) {
      if (next.to == at(id)) return;
    }
    perform(next.to, to->second.core->receive(next, now));
  }
  void settle() {
    while (!wire.empty()) deliver();
  }
  void pass(instant by) {
    const instant step = by > 1s ? 100ms : 10ms;
    for (const instant end = now + by; now < end; settle()) {
      now += step;
      for (auto& [where, each] : nodes) perform(*address::parse(where), each.core->tick(now));
    }
  }
  void lead(node_id leader, epoch_t epoch) {
    for (auto& [where, each] : nodes) perform(*address::parse(where), each.core->lead_by(leader, epoch, now));
    settle();
  }
  std::vector<node_id> ids(node_id id) {
    std::vector<node_id> all;
    for (const member& each : (*this)[id].members()) all.push_back(each.id);
    return all;
  }
};

// Nodes 1 to 3 are members, and node 1 leads epoch 1.
struct three : cluster {
  three() {
    for (node_id id = 1; id <= 3; ++id) add(node(id), {1, 2, 3});
    pass(1s);
    lead(1, 1);
  }
};

using ids = std::vector<node_id>;

TEST(membership, a_node_without_seeds_begins_a_cluster) {
  cluster c;
  c.add(node(1), {});
  c.add(node(2), {2});
  c.pass(10ms);
  EXPECT_EQ(c[1].state(), state::joined);
  EXPECT_EQ(c[2].state(), state::joined);
  EXPECT_EQ(c[1].deadline(), instant::max());
}

TEST(membership, nodes_that_begin_together_take_each_other_in_and_the_first_leader_s_list_counts) {
  cluster c;
  c.add(node(1), {});
  c.add(node(2), {1});
  c.add(node(3), {1});
  c.pass(1s);
  for (node_id id = 1; id <= 3; ++id) EXPECT_EQ(c[id].state(), state::joined);
  ASSERT_EQ(c.ids(1), (ids{1, 2, 3}));
  c.perform(1, c[1].lead_by(2, 1, c.now));
  c.perform(2, c[2].lead_by(2, 1, c.now));  // which has not heard of node 3
  c.pass(20s);
  for (node_id id = 1; id <= 3; ++id) {
    EXPECT_EQ(c.ids(id), (ids{1, 2, 3}));
    EXPECT_EQ(c[id].leader(), 2u);
    EXPECT_EQ(c.of(id).joined, 1);
  }
  EXPECT_EQ(c[3].deadline(), instant::max());
}

TEST(membership, a_seed_that_follows_sends_a_node_to_the_leader) {
  three c;
  c.add(node(4), {3});
  c.pass(10ms);
  EXPECT_EQ(c[4].state(), state::joined);
  EXPECT_EQ(c[4].leader(), 1u);
  EXPECT_EQ(c[4].epoch(), 1u);
  for (node_id id = 1; id <= 4; ++id) EXPECT_EQ(c.ids(id), (ids{1, 2, 3, 4}));
}

TEST(membership, a_seed_takes_nobody_in_while_the_leader_is_gone) {
  three c;
  c.crash(1);
  c.lead(0, 1);
  c.add(node(4), {2, 3});
  c.pass(2s);
  EXPECT_EQ(c[4].state(), state::joining);
  c.perform(2, c[2].lead_by(2, 2, c.now));
  c.perform(3, c[3].lead_by(2, 2, c.now));
  c.pass(20s);
  EXPECT_EQ(c[4].state(), state::joined);
  EXPECT_EQ(c.ids(3), (ids{1, 2, 3, 4}));
}

TEST(membership, a_node_of_another_cluster_is_refused_and_told_why) {
  three c;
  c.add(node(4), {2}, "other");
  c.pass(10ms);
  EXPECT_EQ(c[4].state(), state::refused);
  EXPECT_EQ(c.of(4).refused->why, refusal::wrong_cluster);
  EXPECT_EQ(c.of(4).refused->by, node(2));
  EXPECT_EQ(to_string(c.of(4).refused->why), "the seed belongs to another cluster");
  EXPECT_EQ(c.ids(1), (ids{1, 2, 3}));
  EXPECT_EQ(c[4].deadline(), instant::max());
}

TEST(membership, an_id_that_belongs_to_another_node_is_refused) {
  three c;
  for (const node_id seed : {1u, 2u, 3u}) {  // the leader, the node itself, and another
    member twin = node(2, 99);
    twin.where = at(20 + seed);
    c.add(twin, {seed});
    c.pass(10ms);
    EXPECT_EQ(c[20 + seed].state(), state::refused);
    EXPECT_EQ(c.of(20 + seed).refused->why, refusal::duplicate_node);
  }
  EXPECT_EQ(*c[1].find(2), node(2));
}

TEST(membership, a_node_that_comes_back_is_the_same_one_wherever_it_listens_now) {
  three c;
  c.crash(3);
  member moved = node(3);
  moved.where = at(30);
  c.add(moved, {1});
  c.pass(10ms);
  EXPECT_EQ(c[30].state(), state::joined);
  EXPECT_EQ(*c[2].find(3), moved);
}

TEST(membership, a_node_asks_again_and_waits_longer_each_time) {
  cluster c;
  core& lonely = c.add(node(2), {1});
  std::vector<instant> waits;
  for (int i = 0; i < 12; ++i) {
    c.now = lonely.deadline();
    c.perform(2, lonely.tick(c.now));
    EXPECT_EQ(c.wire.size(), 1u);
    c.wire.clear();
    EXPECT_TRUE(lonely.tick(c.now).send.empty());
    waits.push_back(lonely.deadline() - c.now);
  }
  EXPECT_GE(waits.front(), core_options{}.first_wait / 2);
  EXPECT_LE(waits.front(), core_options{}.first_wait);
  EXPECT_GE(waits.back(), core_options{}.longest_wait / 2);
  EXPECT_LE(waits.back(), core_options{}.longest_wait);
  c.add(node(1), {});
  c.pass(core_options{}.longest_wait);
  EXPECT_EQ(lonely.state(), state::joined);
}

TEST(membership, who_leaves_is_on_nobody_s_list) {
  three c;
  c.perform(3, c[3].leave(c.now));
  c.settle();
  EXPECT_EQ(c[3].state(), state::left);
  EXPECT_TRUE(c.of(3).left);
  EXPECT_EQ(c.ids(1), (ids{1, 2}));
  EXPECT_EQ(c.ids(2), (ids{1, 2}));
}

TEST(membership, leaving_is_asked_again_and_ends_without_an_answer) {
  three c;
  c.lost = {3};  // the answers
  c.perform(3, c[3].leave(c.now));
  c.settle();
  EXPECT_EQ(c[3].state(), state::leaving);
  EXPECT_EQ(c.ids(1), (ids{1, 2}));
  c.pass(60s);
  EXPECT_EQ(c[3].state(), state::left);
}

TEST(membership, a_leader_that_leaves_tells_the_others) {
  three c;
  c.perform(1, c[1].leave(c.now));
  c.settle();
  EXPECT_EQ(c[1].state(), state::left);
  EXPECT_EQ(c.ids(2), (ids{2, 3}));
  EXPECT_EQ(c.ids(3), (ids{2, 3}));
}

TEST(membership, only_the_leader_removes_a_node_that_is_gone_for_good) {
  three c;
  std::error_code ec;
  c.perform(2, c[2].remove(3, c.now, ec));
  EXPECT_EQ(ec, errc::not_leader);
  c.perform(1, c[1].remove(9, c.now, ec));
  EXPECT_EQ(ec, errc::wrong_node);
  c.perform(1, c[1].remove(1, c.now, ec));
  EXPECT_EQ(ec, errc::wrong_node);
  c.crash(3);
  c.perform(1, c[1].remove(3, c.now, ec));
  c.settle();
  EXPECT_FALSE(ec);
  EXPECT_EQ(c.ids(2), (ids{1, 2}));
  c.add(node(3, 2), {2});  // with other data
  c.pass(10ms);
  EXPECT_EQ(c[3].state(), state::joined);
}

TEST(membership, an_earlier_list_replaces_no_later_one) {
  three c;
  c.add(node(4), {1});
  c.perform(4, c[4].tick(c.now));
  c.deliver();
  std::deque<message> announced;
  std::swap(announced, c.wire);
  c.add(node(5), {1});
  c.pass(10ms);
  ASSERT_EQ(c.ids(2), (ids{1, 2, 3, 4, 5}));
  c.wire = announced;
  c.settle();
  EXPECT_EQ(c.ids(2), (ids{1, 2, 3, 4, 5}));
  c.perform(2, c[2].lead_by(3, 2, c.now));
  for (message& each : announced) each.version += 100;
  c.wire = announced;
  c.settle();
  EXPECT_EQ(c.ids(2), (ids{1, 2, 3, 4, 5})) << "an older leader's";
  EXPECT_EQ(c[2].leader(), 3u);
}

TEST(membership, a_lost_announcement_is_made_up_for) {
  three c;
  c.lost = {3};
  c.add(node(4), {1});
  c.pass(10ms);
  ASSERT_EQ(c.ids(3), (ids{1, 2, 3}));
  c.lost.clear();
  c.pass(core_options{}.announce_interval);
  EXPECT_EQ(c.ids(3), (ids{1, 2, 3, 4}));
}

TEST(membership, who_is_missing_in_a_new_leader_s_list_asks_there) {
  three c;
  c.lost = {2};
  c.add(node(4), {1});
  c.pass(10ms);
  c.lost.clear();
  c.crash(1);
  c.lead(2, 2);
  ASSERT_EQ(c.ids(2), (ids{1, 2, 3}));
  c.pass(core_options{}.longest_wait);
  EXPECT_EQ(c.ids(2), (ids{1, 2, 3, 4}));
  EXPECT_EQ(c[4].state(), state::joined);
  EXPECT_EQ(c.ids(3), (ids{1, 2, 3, 4}));
}

TEST(membership, all_agree_after_losses_repeats_and_new_leaders) {
  for (std::uint64_t seed = 1; seed <= 40; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    std::mt19937_64 random(seed);
    cluster c;
    for (node_id id = 1; id <= 6; ++id) c.add(node(id), {1, 2});
    epoch_t epoch = 0;
    for (int step = 0; step < 500; ++step) {
      const node_id id = 1 + random() % 6;
      c.now += 5ms;
      c.perform(id, c[id].tick(c.now));
      if (random() % 100 == 0) {
        ++epoch;
        for (node_id hears = 1; hears <= 6; ++hears) {
          if (random() % 4 != 0) c.perform(hears, c[hears].lead_by(id, epoch, c.now));
        }
      }
      if (c.wire.empty()) continue;
      const std::size_t which = random() % c.wire.size();
      if (random() % 10 == 0) c.wire.push_back(message(c.wire[which]));
      if (random() % 5 == 0) {
        c.wire.erase(c.wire.begin() + static_cast<std::ptrdiff_t>(which));
      } else {
        c.deliver(which);
      }
    }
    c.lead(1, epoch + 1);
    c.pass(30s);
    for (node_id id = 1; id <= 6; ++id) {
      EXPECT_EQ(c[id].state(), state::joined);
      EXPECT_EQ(c.ids(id), (ids{1, 2, 3, 4, 5, 6})) << "node " << id;
      EXPECT_EQ(c[id].leader(), 1u);
    }
  }
}

}  // namespace
}  // namespace lockstep::membership
