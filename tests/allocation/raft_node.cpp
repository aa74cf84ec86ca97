// Proposing allocates nothing of its own, in any of a group's nodes, once they have warmed up.
#include "lockstep/core/task_group.hpp"
#include "lockstep/raft/node.hpp"

#include "support/allocation_counter.hpp"
#include "support/run.hpp"
#include "support/temporary_directory.hpp"

#include <gtest/gtest.h>
#include <asio/io_context.hpp>

#include <array>
#include <chrono>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace lockstep::raft {
namespace {

constexpr std::size_t warm_up = 3000;
constexpr std::size_t measured = 2000;
constexpr std::size_t group_size = 3;

struct counter {
  std::uint64_t applied = 0;
  void apply(const entry&, byte_buffer&) { ++applied; }
  awaitable<void> snapshot(snapshot_sink&) { co_return; }
  awaitable<void> restore(snapshot_source&) { co_return; }
};

/// The disk does not decide how long a test takes, and no segment is rolled.
log_options quick_log() {
  log_options options;
  options.sync = sync_policy::interval;
  options.sync_interval = std::chrono::hours(1);
  options.sync_where = sync_on::caller;
  options.chunk_bytes = 32 << 10;
  options.hot_tail_bytes = 64 << 10;
  options.max_unsynced_bytes = 2 << 20;
  return options;
}

/// Three nodes in one process, over loopback.
struct raft_allocation_group : testing::TestWithParam<std::size_t> {
  raft_allocation_group() {
    std::error_code ec;
    std::vector<real::acceptor> listening;
    std::map<node_id, std::string> members;
    for (std::size_t i = 0; i < group_size; ++i) {
      listening.push_back(env.listen(address("127.0.0.1", 0), ec));
      if (ec) throw std::system_error(ec, "listen");
      members[i + 1] = listening.back().local_address().to_string();
    }
    for (std::size_t i = 0; i < group_size; ++i) {
      node_options options;
      options.core.id = i + 1;
      options.core.priority = i == 0 ? 100 : 0;
      options.cluster = "allocation";
      options.directory = directory.file(std::to_string(i + 1));
      options.log = quick_log();
      options.members = members;
      nodes[i] = test::run(io, node<counter>::open(env, options, machines[i]));
      server_options serving;
      serving.channel = nodes[i]->hello();
      servers[i].emplace(env, std::move(listening[i]), serving);
      servers[i]->on(raft_purpose, [&node = *nodes[i]](channel& from) { return node.serve(from); });
      running.spawn(servers[i]->run());
      running.spawn(nodes[i]->run());
    }
  }
  void TearDown() override {
    for (std::size_t i = 0; i < group_size; ++i) {
      test::run(io, servers[i]->close());
      test::run(io, nodes[i]->close());
    }
    test::run(io, running.join());
  }

  test::temporary_directory directory;
  asio::io_context io{1};
  real::env env{io.get_executor()};
  task_group running{env.get_executor()};
  std::array<counter, group_size> machines;
  std::array<std::unique_ptr<node<counter>>, group_size> nodes;
  std::array<std::optional<server>, group_size> servers;
};

awaitable<void> propose(node<counter>& leader, std::size_t commands, const std::string& command) {
  for (std::size_t i = 0; i < commands; ++i) {
    const outcome done = co_await leader.propose(as_bytes(command), std::chrono::seconds(30));
    if (!done.ok()) throw std::system_error(done.error);
  }
}

// The clients are the same before and after, so that their own beginning does not count.
awaitable<void> propose_and_count(node<counter>& leader, const std::string& command, std::size_t& busy,
                                  std::size_t clients, std::size_t& before, std::size_t& after) {
  co_await propose(leader, warm_up, command);
  if (++busy == clients) before = test::allocations();
  co_await propose(leader, measured, command);
  if (busy-- == clients) after = test::allocations();
}

awaitable<std::size_t> counted_proposals(node<counter>& leader, std::size_t clients) {
  const std::string command(256, 'x');
  std::size_t busy = 0, before = 0, after = 0;
  task_group all(co_await this_coro::executor);
  for (std::size_t i = 0; i < clients; ++i) {
    all.spawn(propose_and_count(leader, command, busy, clients, before, after));
  }
  co_await all.join();
  co_return after - before;
}

TEST_P(raft_allocation_group, allocates_nothing_for_a_proposal) {
  ASSERT_TRUE(test::run_until(io, [&] { return nodes[0]->core().role() == role::leader; }));
  // Three nodes on one thread seldom have the same coroutines at once: where Asio has kept no frame that is large
  // enough, it gives one up and allocates. That is an event of the timing, not of a proposal.
  constexpr std::size_t proposals_for_one = 20;
  const std::size_t counted = test::run_counting(io, counted_proposals(*nodes[0], GetParam()));
  EXPECT_LT(counted, GetParam() * measured / proposals_for_one);
  EXPECT_GE(machines[0].applied, GetParam() * (warm_up + measured));
}

INSTANTIATE_TEST_SUITE_P(of_clients, raft_allocation_group, testing::Values(1, 16),
                         [](const auto& each) { return std::to_string(each.param); });

}  // namespace
}  // namespace lockstep::raft
