// Connections, programs and machines that end at every step of a simulated run.
#include "lockstep/rpc/link.hpp"
#include "lockstep/rpc/server.hpp"
#include "lockstep/sim/env.hpp"

#include <gtest/gtest.h>

#include <array>
#include <optional>
#include <vector>

namespace lockstep {
namespace {

using namespace std::chrono_literals;

using channel_type = basic_channel<sim::env>;
using peer_type = basic_rpc_peer<sim::env>;

const address server_at("server", 7000);

sim::schedule_options in_order() {
  sim::schedule_options options;
  options.random_ties = false;
  options.inline_dispatch = 1;
  return options;
}

struct called {
  peer_type* peer = nullptr;  ///< while it is connected
  std::array<std::optional<rpc_status>, 2> status;
  std::array<int, 2> applied{};

  [[nodiscard]] bool ended() const { return status[0] && status[1]; }
};

awaitable<void> apply(called& know, const rpc_request& in, rpc_reply&) {
  ++know.applied[static_cast<std::size_t>(in.arguments[0])];
  co_return;
}

awaitable<void> serve(sim::env& on, called& know) {
  rpc_service service;
  service.on(1, [&know](const rpc_request& in, rpc_reply& out) { return apply(know, in, out); });
  std::error_code ec;
  sim::env::acceptor acceptor = on.listen(address("0.0.0.0", server_at.port), ec);
  server_options options;
  basic_server<sim::env> server(on, std::move(acceptor), options);
  server.on("calls", service);
  task_group tasks(on.get_executor());
  tasks.spawn(server.run());
  co_await tasks.join();
}

awaitable<void> call_once(peer_type& peer, called& know, std::size_t number) {
  const std::vector<std::byte> arguments(3000, static_cast<std::byte>(number));
  byte_buffer result;
  rpc_status status = co_await peer.call(1, arguments, result, 10s);
  know.status[number] = std::move(status);
}

awaitable<void> call_over(sim::env& on, channel_type& over, called& know) {
  const rpc_service nothing;
  peer_type peer(over.share(), nothing);
  know.peer = &peer;
  task_group tasks(on.get_executor());
  tasks.spawn(call_once(peer, know, 0));
  tasks.spawn(call_once(peer, know, 1));
  co_await peer.run();
  know.peer = nullptr;
  co_await tasks.join();
}

awaitable<void> keep_calling(sim::env& on, called& know) {
  link_options options;
  options.channel.purpose = "calls";
  options.channel.copy_bytes = 100;
  basic_link<sim::env> link(on, server_at, options,
                            [&on, &know](channel_type& over) { return call_over(on, over, know); });
  task_group tasks(on.get_executor());
  tasks.spawn(link.run());
  co_await tasks.join();
}

struct two_nodes {
  sim::world in{1, in_order()};
  sim::node& server = in.add_node("server");
  sim::node& client = in.add_node("client");
  called know;

  two_nodes() {
    in.net().options.buffer_bytes = 1000;  // a request takes several writes
    server.start([this](sim::env& on) { return serve(on, know); });
    client.start([this](sim::env& on) { return keep_calling(on, know); });
  }
  ~two_nodes() {
    server.crash();
    client.crash();
  }
  // @return false when the call had ended before.
  bool take_steps(int steps) {
    for (int i = 0; i < steps; ++i) {
      if (know.ended() || !in.step()) return false;
    }
    return true;
  }
};

// The last bytes of a request had been taken by the stream, the connection ended before that was reported, and the
// caller was told that nothing had been sent.
TEST(rpc_ends, ACallThatWasCutOffAnywhereSaysTruthfullyWhetherItMayHaveBegun) {
  int unknown = 0, surely_not = 0;
  for (int steps = 0;; ++steps) {
    two_nodes both;
    if (!both.take_steps(steps)) break;
    if (!both.know.peer) continue;
    both.know.peer->abort();
    ASSERT_TRUE(both.in.run_until([&] { return both.know.ended(); }, 20s));
    both.client.crash();  // no second connection
    both.in.run_for(5s);
    for (const std::size_t i : {0u, 1u}) {
      const rpc_status& status = *both.know.status[i];
      if (status.ok()) continue;
      ++(status.outcome_unknown() ? unknown : surely_not);
      EXPECT_TRUE(status.outcome_unknown() || both.know.applied[i] == 0) << "after " << steps << " steps";
    }
  }
  EXPECT_GT(unknown, 0);
  EXPECT_GT(surely_not, 0);
}

// The executor's end destroys coroutine frames in any order: the server's or the link's before those of its
// connections, which then took themselves off lists that were gone.
TEST(rpc_ends, AProgramMayEndWithItsExecutorAtAnyStep) {
  for (int steps = 0;; ++steps) {
    two_nodes both;
    if (!both.take_steps(steps)) break;
    (steps % 2 == 0 ? both.server : both.client).crash();
    both.in.run_for(1s);
    both.server.crash();
    both.client.crash();
    EXPECT_EQ(both.in.net().open_connections(), 0u);
  }
}

}  // namespace
}  // namespace lockstep
