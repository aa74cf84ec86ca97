// A Raft node for benchmarks, with its server.
#pragma once

#include <memory>
#include <optional>

#include "common.hpp"
#include "lockstep/core/task_group.hpp"
#include "lockstep/raft/node.hpp"

namespace lockstep::bench {

/// No state, as the published figures have it: what is measured is the replication.
struct no_machine {
  void apply(const raft::entry&, byte_buffer&) {}
  awaitable<void> snapshot(raft::snapshot_sink&) { co_return; }
  awaitable<void> restore(raft::snapshot_source&) { co_return; }
};
static_assert(raft::state_machine<no_machine>);

/// A member, on a loop of its own or of others.
class raft_member {
 public:
  /// @param where  it listens; empty: where options.members say, or, when the group is older, nowhere.
  static awaitable<std::unique_ptr<raft_member>> open(real::env& env, raft::node_options options,
                                                      std::string where = std::string()) {
    std::unique_ptr<raft_member> made(new raft_member(env));
    made->node_ = co_await raft::node<no_machine>::open(env, options, made->machine_);
    if (where.empty() && !options.members.empty()) where = options.members.at(options.core.id);
    raft::node<no_machine>& node = *made->node_;
    made->running_.spawn(node.run());
    if (where.empty()) co_return made;
    std::error_code ec;
    const std::optional<address> parsed = address::parse(where);
    real::acceptor listening = env.listen(*parsed, ec);
    if (ec) throw std::system_error(ec, where);
    server_options serving;
    serving.channel = made->node_->hello();
    made->server_.emplace(env, std::move(listening), serving);
    made->server_->on(raft::raft_purpose, [&node](channel& from) { return node.serve(from); });
    made->running_.spawn(made->server_->run());
    co_return made;
  }

  [[nodiscard]] raft::node<no_machine>& node() noexcept { return *node_; }
  awaitable<void> run() { co_await running_.join_passing_cancellation(); }
  awaitable<void> close() {
    if (server_) co_await server_->close();
    co_await node_->close();
    co_await running_.join();
  }

 private:
  explicit raft_member(real::env& env) : running_(env.get_executor()) {}

  no_machine machine_;
  std::unique_ptr<raft::node<no_machine>> node_;
  std::optional<server> server_;
  task_group running_;
};

}  // namespace lockstep::bench
