// Raft nodes whole, with logs, connections and state machines, in a simulated world.
#include "lockstep/raft/node.hpp"

#include "lockstep/sim.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <memory>
#include <string>
#include <vector>

namespace lockstep::raft::test {
namespace {

using namespace std::chrono_literals;

/// Adds up, and remembers in which order.
struct adder {
  std::vector<std::string> applied;

  void apply(const entry& next, byte_buffer& result) {
    applied.emplace_back(as_text(next.payload));
    result.append(as_bytes(std::to_string(applied.size())));
  }
  awaitable<void> snapshot(snapshot_sink& to) {
    const std::vector<std::string> now = applied;
    for (const std::string& each : now) {
      const std::string line = each + "\n";
      co_await to.write(as_bytes(line));
    }
  }
  awaitable<void> restore(snapshot_source& from) {
    std::string text;
    std::array<std::byte, 100> some;
    for (std::size_t got = 1; got != 0;) {
      got = co_await from.read(some);
      text += as_text(bytes_view(some).first(got));
    }
    applied.clear();
    for (std::size_t end = 0; !text.empty(); text.erase(0, end + 1)) {
      end = text.find('\n');
      applied.push_back(text.substr(0, end));
    }
  }
};
static_assert(state_machine<adder>);

struct group {
  std::size_t size;
  std::vector<std::shared_ptr<adder>> machines;
  std::vector<basic_node<sim::env, adder>*> nodes;
  std::vector<sim::env*> envs;
  std::vector<std::string> acknowledged;
  std::uint64_t proposed = 0;
  node_options like;
  sim::world world;  // last: its end needs the rest

  explicit group(std::uint64_t seed, node_options options = node_options(), std::size_t of = 3)
      : size(of), machines(of), nodes(of), envs(of), like(std::move(options)), world(seed) {
    for (std::size_t i = 0; i < size; ++i) {
      sim::node& made = world.add_node("n" + std::to_string(i + 1));
      made.start([this, i](sim::env& on) { return live(on, i); });
    }
  }

  awaitable<void> live(sim::env& on, std::size_t i) {
    machines[i] = std::make_shared<adder>();
    node_options options = like;
    options.core.id = i + 1;
    options.cluster = "test";
    options.directory = "/data";
    for (std::size_t other = 1; other <= size; ++other) {
      options.members[other] = "n" + std::to_string(other) + ":7000";
    }
    const auto node = co_await basic_node<sim::env, adder>::open(on, options, *machines[i]);
    struct shown {
      basic_node<sim::env, adder>*& place;
      ~shown() { place = nullptr; }
    } const seen{nodes[i]};
    nodes[i] = node.get();
    envs[i] = &on;
    std::error_code ec;
    lockstep::server_options serving;
    serving.channel = node->hello();
    basic_server<sim::env> server(on, on.listen(address("0.0.0.0", 7000), ec), serving);
    if (ec) throw std::system_error(ec);
    server.on(raft_purpose, [&](basic_channel<sim::env>& from) { return node->serve(from); });
    task_group running(on.get_executor());
    running.spawn(server.run());
    running.spawn(node->run());
    running.spawn(propose_now_and_then(on, *node));
    co_await running.join();
  }

  awaitable<void> propose_now_and_then(sim::env& on, basic_node<sim::env, adder>& node) {
    sim::env::timer timer(on);
    for (;;) {
      timer.expires_after(std::chrono::milliseconds(1 + on.random() % 50));
      (void)co_await timer.wait();
      if (node.core().role() != role::leader) continue;
      const std::string command = std::to_string(++proposed);
      const outcome done = co_await node.propose(as_bytes(command), 2s);
      if (done.ok()) acknowledged.push_back(command);
    }
  }

  [[nodiscard]] bool agrees() const {
    const std::vector<std::string>* longest = nullptr;
    for (const auto& each : machines) {
      if (each && (!longest || each->applied.size() > longest->size())) longest = &each->applied;
    }
    for (const auto& each : machines) {
      if (each && !std::equal(each->applied.begin(), each->applied.end(), longest->begin())) return false;
    }
    for (const std::string& each : acknowledged) {
      if (std::count(longest->begin(), longest->end(), each) != 1) return false;
    }
    return true;
  }
};

TEST(raft_node, three_nodes_elect_a_leader_and_apply_what_it_takes) {
  group of(1);
  ASSERT_TRUE(of.world.run_until([&] { return of.acknowledged.size() >= 100; }, 30s));
  EXPECT_TRUE(of.agrees());
}

TEST(raft_node, crashes_and_power_losses_lose_nothing_that_was_acknowledged) {
  for (std::uint64_t seed = 1; seed <= 20; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    group of(seed);
    sim::random_stream random = of.world.random("crashes");
    for (int round = 0; round < 10; ++round) {
      of.world.run_for(std::chrono::milliseconds(random.below(4000)));
      sim::node& victim = *of.world.nodes()[random.below(of.size)];
      if (random.chance(0.5))
        victim.crash();
      else
        victim.lose_power(sim::power_cut::seeded(random()));
      of.world.run_for(std::chrono::milliseconds(random.below(4000)));
      victim.start();
      ASSERT_TRUE(of.agrees()) << "round " << round;
    }
    const std::size_t before = of.acknowledged.size();
    ASSERT_TRUE(of.world.run_until([&] { return of.acknowledged.size() >= before + 20; }, 30s));
    EXPECT_TRUE(of.agrees());
  }
}

node_options with_small_snapshots() {
  node_options options;
  options.snapshot_after_bytes = 1000;
  options.keep_log_bytes = 4000;
  options.log.segment_bytes = 8192;
  return options;
}

TEST(raft_node, whoever_was_away_for_long_gets_a_snapshot_and_then_the_rest) {
  group of(7, with_small_snapshots());
  ASSERT_TRUE(of.world.run_until([&] { return of.acknowledged.size() >= 20; }, 30s));
  std::size_t away = 0;
  while (of.nodes[away]->core().role() == role::leader) ++away;
  of.world.nodes()[away]->crash();
  const std::size_t before = of.acknowledged.size();
  ASSERT_TRUE(of.world.run_until([&] { return of.acknowledged.size() >= before + 2000; }, 300s));
  for (const auto* const each : of.nodes) {
    if (each) {
      EXPECT_GT(each->log().base().index, before) << "the log was not compacted";
    }
  }
  of.world.nodes()[away]->start();
  ASSERT_TRUE(
      of.world.run_until([&] { return of.machines[away]->applied.size() >= before + 2000 && of.agrees(); }, 30s));
  EXPECT_GT(of.nodes[away]->log().base().index, before);
}

TEST(raft_node, a_snapshot_is_taken_when_somebody_wants_one) {
  group of(3);
  ASSERT_TRUE(of.world.run_until([&] { return of.acknowledged.size() >= 20; }, 30s));
  basic_node<sim::env, adder>& node = *of.nodes[1];
  EXPECT_EQ(node.snapshot_index(), 0U) << "none is due";
  const index_t applied = node.applied();
  std::optional<std::error_code> ended;
  const auto done = [&](std::exception_ptr, std::error_code result) { ended = result; };
  asio::co_spawn(of.envs[1]->get_executor(), node.snapshot(5s), done);
  ASSERT_TRUE(of.world.run_until([&] { return ended.has_value(); }, 10s));
  EXPECT_EQ(*ended, std::error_code());
  EXPECT_GE(node.snapshot_index(), applied);
  const index_t taken = node.snapshot_index();
  of.world.nodes()[1]->crash();
  of.world.nodes()[1]->start();
  ASSERT_TRUE(of.world.run_until([&] { return of.nodes[1] && of.nodes[1]->applied() > taken; }, 30s));
  EXPECT_EQ(of.nodes[1]->snapshot_index(), taken);
  EXPECT_TRUE(of.agrees());
}

// What it read, it would write back, over what the one that runs there has voted since.
TEST(raft_node, a_directory_on_which_a_node_runs_is_refused_before_it_is_touched) {
  group of(5);
  ASSERT_TRUE(of.world.run_until([&] { return of.acknowledged.size() >= 1; }, 30s));
  node_options options;
  options.core.id = 9;
  options.cluster = "test";
  options.directory = "/data";
  adder other;
  std::error_code refused;
  bool ended = false;
  const auto done = [&](std::exception_ptr failure, const std::unique_ptr<basic_node<sim::env, adder>>&) {
    ended = true;
    try {
      if (failure) std::rethrow_exception(failure);
    } catch (const std::system_error& error) {
      refused = error.code();
    }
  };
  asio::co_spawn(of.envs[0]->get_executor(), basic_node<sim::env, adder>::open(*of.envs[0], options, other), done);
  ASSERT_TRUE(of.world.run_until([&] { return ended; }, 10s));
  EXPECT_EQ(refused, errc::log_locked);
}

TEST(raft_node, whoever_waits_for_a_change_is_told_of_it_or_that_the_time_is_up) {
  group of(4);
  ASSERT_TRUE(of.world.run_until([&] { return of.acknowledged.size() >= 1; }, 30s));
  // No connection, no commands, long timeouts: nothing happens but the end of the time.
  for (std::size_t i = 1; i < of.size; ++i) of.world.nodes()[i]->crash();
  of.world.run_for(10s);
  const index_t before = of.nodes[0]->applied();
  std::optional<std::error_code> ended;
  const auto done = [&](std::exception_ptr, std::error_code result) { ended = result; };
  asio::co_spawn(of.envs[0]->get_executor(), of.nodes[0]->changed(of.envs[0]->now() + 1ms), done);
  ASSERT_TRUE(of.world.run_until([&] { return ended.has_value(); }, 100ms));
  EXPECT_EQ(*ended, std::error_code());
  EXPECT_EQ(of.nodes[0]->applied(), before);
}

TEST(raft_node, snapshots_crashes_and_power_losses_lose_nothing_that_was_acknowledged) {
  for (std::uint64_t seed = 1; seed <= 20; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    group of(seed, with_small_snapshots());
    sim::random_stream random = of.world.random("crashes");
    for (int round = 0; round < 10; ++round) {
      of.world.run_for(std::chrono::milliseconds(random.below(4000)));
      sim::node& victim = *of.world.nodes()[random.below(of.size)];
      if (random.chance(0.5))
        victim.crash();
      else
        victim.lose_power(sim::power_cut::seeded(random()));
      of.world.run_for(std::chrono::milliseconds(random.below(20000)));
      victim.start();
      ASSERT_TRUE(of.agrees()) << "round " << round;
    }
    const std::size_t before = of.acknowledged.size();
    ASSERT_TRUE(of.world.run_until([&] { return of.acknowledged.size() >= before + 20; }, 30s));
    EXPECT_TRUE(of.agrees());
  }
}

}  // namespace
}  // namespace lockstep::raft::test
