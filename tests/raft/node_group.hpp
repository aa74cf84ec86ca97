// Raft nodes whole, with logs, connections and state machines, in a simulated world; and peers that a test speaks as.
#pragma once

#include "lockstep/raft/node.hpp"

#include "lockstep/sim.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace lockstep::raft::test {

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

using node_type = basic_node<sim::env, adder>;
using channel_type = basic_channel<sim::env>;

inline channel_options as_member(node_id id) {
  channel_options options;
  options.cluster = "test";
  options.node = id;
  options.features = 12345;
  options.purpose = raft_purpose;
  options.keepalive = 100ms;
  return options;
}

using session_type = std::function<awaitable<void>(channel_type&)>;

/// Listens where members do, and serves those who connect.
inline awaitable<void> serve_as(sim::env& on, channel_options hello, session_type session) {
  std::error_code ec;
  lockstep::server_options serving;
  serving.channel = std::move(hello);
  basic_server<sim::env> server(on, on.listen(address("0.0.0.0", 7000), ec), serving);
  if (ec) throw std::system_error(ec);
  server.on(raft_purpose, [&session](channel_type& from) { return session(from); });
  co_await server.run();
}

/// @param node  outlives this.
template <class Node>
awaitable<void> serve_members(sim::env& on, Node& node) {
  return serve_as(on, node.hello(), [&node](channel_type& from) { return node.serve(from); });
}

inline awaitable<void> accept_members(sim::env& on, node_id id, session_type session) {
  channel_options hello = as_member(id);
  hello.purpose.clear();
  return serve_as(on, std::move(hello), std::move(session));
}

struct group {
  std::size_t size;
  std::size_t founders;  // the first ones; whoever else is there may become a member
  node_id witness = 0;
  std::vector<std::shared_ptr<adder>> machines;
  std::vector<node_type*> nodes;
  using task = std::function<awaitable<void>(sim::env&, node_type&)>;
  std::vector<std::deque<task>> tasks;
  std::vector<sim::env*> envs;
  std::vector<std::string> acknowledged;
  std::uint64_t proposed = 0;
  std::size_t command_bytes = 0;  // at least
  bool proposes = true;
  node_options like;
  sim::world world;  // last: its end needs the rest

  explicit group(std::uint64_t seed, node_options options = node_options(), std::size_t of = 3)
      : size(of), founders(of), machines(of), nodes(of), tasks(of), envs(of), like(std::move(options)), world(seed) {
    for (std::size_t i = 0; i < size; ++i) {
      sim::node& made = world.add_node("n" + std::to_string(i + 1));
      made.start([this, i](sim::env& on) { return live(on, i); });
    }
  }

  [[nodiscard]] node_options options_of(std::size_t i) const {
    node_options options = like;
    options.core.id = i + 1;
    options.cluster = "test";
    options.directory = "/data";
    options.witness = options.core.id == witness;
    for (std::size_t other = 1; other <= founders && i < founders; ++other) {
      options.members[other] = "n" + std::to_string(other) + ":7000";
    }
    return options;
  }

  awaitable<void> live(sim::env& on, std::size_t i) {
    machines[i] = std::make_shared<adder>();
    const auto node = co_await node_type::open(on, options_of(i), *machines[i]);
    struct shown {
      node_type*& place;
      ~shown() { place = nullptr; }
    } const seen{nodes[i]};
    nodes[i] = node.get();
    envs[i] = &on;
    task_group running(on.get_executor());
    running.spawn(serve_members(on, *node));
    running.spawn(node->run());
    running.spawn(propose_now_and_then(on, *node));
    running.spawn(do_tasks(on, *node, i));
    std::exception_ptr failure;
    try {
      co_await running.join();
    } catch (...) {
      failure = std::current_exception();
    }
    try {
      co_await node->close();
    } catch (const std::system_error&) {
      // What made the node end says why.
    }
    if (failure) std::rethrow_exception(failure);
  }

  awaitable<void> do_tasks(sim::env& on, node_type& node, std::size_t i) {
    sim::env::timer timer(on);
    for (;;) {
      timer.expires_after(20ms);
      (void)co_await timer.wait();
      if (tasks[i].empty()) continue;
      const task next = std::move(tasks[i].front());
      tasks[i].pop_front();
      co_await next(on, node);
    }
  }
  /// Runs `what` on node i + 1, to its end.
  void run_on(std::size_t i, task what) {
    bool done = false;
    const auto noted = [&done, what = std::move(what)](sim::env& on, node_type& node) -> awaitable<void> {
      co_await what(on, node);
      done = true;
    };
    tasks[i].push_back(noted);
    ASSERT_TRUE(world.run_until([&] { return done; }, 300s));
  }
  /// Which one leads, when one does soon.
  std::size_t leader(duration within = 300s) {
    std::size_t found = size;
    (void)world.run_until(
        [&] {
          for (std::size_t i = 0; i < size; ++i) {
            if (nodes[i] && nodes[i]->core().role() == role::leader) found = i;
          }
          return found != size;
        },
        within);
    return found;
  }
  [[nodiscard]] bool goes_on(std::size_t more) {
    const std::size_t before = acknowledged.size();
    return world.run_until([&] { return acknowledged.size() >= before + more; }, 300s);
  }

  awaitable<void> propose_now_and_then(sim::env& on, node_type& node) {
    sim::env::timer timer(on);
    for (; proposes;) {
      timer.expires_after(std::chrono::milliseconds(1 + on.random() % 50));
      (void)co_await timer.wait();
      if (node.core().role() != role::leader) continue;
      std::string command = std::to_string(++proposed);
      command.resize(std::max(command.size(), command_bytes), '.');
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

inline node_options with_small_snapshots() {
  node_options options;
  options.snapshot_after_bytes = 1000;
  options.keep_log_bytes = 4000;
  options.log.segment_bytes = 8192;
  return options;
}

inline awaitable<void> hear_all(channel_type& from) {
  for (;;) (void)co_await from.receive();
}

inline awaitable<void> connect_to(sim::env& on, node_id id, std::size_t to, std::optional<channel_type>& made) {
  const address where("n" + std::to_string(to), 7000);
  auto stream = co_await on.connect(where, 1s);
  made.emplace(on, std::move(stream), as_member(id));
  (void)co_await made->handshake();
}

inline message from_leader(message_type type) {
  message made;
  made.type = type;
  made.from = 1;
  made.to = 2;
  made.term = 1;
  return made;
}

}  // namespace lockstep::raft::test
