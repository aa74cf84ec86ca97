// raft_node: a member of a replicated key-value map, with a shell. This file is its command line and its assembly.
#include "common/cli.hpp"
#include "common/first_failure.hpp"
#include "common/logging.hpp"
#include "common/ready.hpp"
#include "common/run.hpp"
#include "raft_replication/http.hpp"
#include "raft_replication/shell.hpp"
#include "raft_replication/topology.hpp"

#include <fmt/format.h>

using namespace lockstep;
using namespace lockstep::raft_replication;
using namespace lockstep::examples;

namespace {

struct node_command {
  replica_options node;
  std::optional<address> listen;
  std::vector<std::string> peers;
  bool join = false;
  bool no_shell = false;
  std::optional<std::uint16_t> http;
  duration timeout = std::chrono::seconds(10);
};

void check(node_command& command) {
  replica_options& node = command.node;
  if (node.id == 0) throw usage_error("--id is required");
  if (!command.listen) throw usage_error("--listen is required");
  if (command.join == !command.peers.empty()) {
    throw usage_error(command.join ? "--join is for a node that another one ADDs: it takes no --peer"
                                   : "--peer is required: all nodes of the group, this one too; or --join");
  }
  node.listen = *command.listen;
  if (node.data_dir.empty()) node.data_dir = fmt::format("raft_node-{}", node.id);
  if (2 * node.heartbeat_interval > node.election_timeout) {
    throw usage_error("--heartbeat must be at most half of --election-timeout");
  }
  if (command.join) return;
  try {
    node.peers = parse_peers(command.peers);
    check_peers(node.peers, node.id, node.listen);
  } catch (const std::invalid_argument& error) {
    throw usage_error(error.what());
  }
}

awaitable<void> obey(real::env& env, replica& of, duration timeout) {
  shell typed(env, of, timeout);
  co_await typed.run();
}

// Its end is that of the program.
awaitable<void> type(real::env& env, replica& of, duration timeout, stop_signal& signal) {
  first_failure failure;
  co_await failure.of(obey(env, of, timeout));
  signal.stop();
  failure.rethrow();
}

awaitable<void> stop(task_group& typing, http_server* http, replica& member) {
  typing.cancel();
  first_failure failure;
  if (http) co_await failure.of(http->close());
  co_await failure.of(member.close());
  failure.rethrow();
}

awaitable<void> serve(real::env& env, stop_signal& signal, node_command command) {
  const auto log = component_logger("raft");
  const auto told = [log](const std::string& text) { log->info("{}", text); };
  const std::unique_ptr<replica> member = co_await replica::open(env, command.node, told);
  std::unique_ptr<http_server> http;
  if (command.http) {
    http = std::make_unique<http_server>(env, *member, address(command.node.listen.host, *command.http));
    print_ready({{"raft", command.node.listen}, {"http", http->local_address()}});
  } else {
    print_ready({{"raft", command.node.listen}});
  }
  task_group typing(env.get_executor());
  if (!command.no_shell) typing.spawn(type(env, *member, command.timeout, signal));
  std::function<awaitable<void>()> stop_all = [&] { return stop(typing, http.get(), *member); };
  first_failure failure;
  co_await failure.of(signal.run_until(member->run(), stop_all));
  co_await failure.of(stop(typing, http.get(), *member));
  co_await typing.join();
  failure.rethrow();
  log->info("stopped; applied up to index {}", member->node().applied());
}

exit_code run_node(node_command& command) {
  check(command);
  try {
    run_to_end([&command](real::env& env, stop_signal& signal) { return serve(env, signal, command); });
  } catch (const std::system_error& error) {
    const std::string& directory = command.node.data_dir;
    if (error.code() == errc::wrong_node || error.code() == errc::wrong_cluster) {
      throw usage_error(fmt::format("data directory {}: {}", directory, error.what()));
    }
    const bool refilled = dynamic_cast<const raft::refill_begun*>(&error) != nullptr;
    throw exit_error(
        from_error(error.code()),
        fmt::format("data directory {}: {}{}", directory, error.what(),
                    refilled ? "; start it again to be refilled by the others; the damaged files stay there" : ""));
  }
  return exit_code::ok;
}

}  // namespace

int main(int argc, char** argv) {
  node_command command;
  program p("raft_node", "A key-value map that a group of nodes keeps by Raft, with a shell in each.",
            {{"the first of three",
              "raft_node --id 1 --listen 127.0.0.1:7101 "
              "--peer 1=127.0.0.1:7101,2=127.0.0.1:7102,3=127.0.0.1:7103"},
             {"one that is added later (ADD 4 127.0.0.1:7104 in another's shell)",
              "raft_node --id 4 --listen 127.0.0.1:7104 --join"}},
            [&] { return run_node(command); });
  CLI::App& root = p.root();
  replica_options& node = command.node;
  root.add_option("--id", node.id, "This node's number")->check(CLI::Range(std::uint64_t{1}, UINT64_MAX));
  add_address(root, "--listen", command.listen, "Where the other nodes, raft_ctl and --peer find this one");
  root.add_option("--peer", command.peers, "All nodes of a new group, this one too; may be given more than once")
      ->type_name("ID=HOST:PORT[,...]")
      ->expected(1)
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll);
  root.add_flag("--join", command.join, "Wait to be added to a group that exists");
  root.add_option("--data-dir", node.data_dir, "Directory of log and snapshots; created when missing")
      ->default_str("raft_node-ID");
  root.add_option("--cluster", node.cluster, "Name of the group; others are refused")->capture_default_str();
  add_port(root, "--http", command.http, "Serve /metrics, /healthz, /readyz, /status and a page on this port");
  add_duration(root, "--timeout", command.timeout, "How long a command of the shell may take");
  root.add_flag("--no-shell", command.no_shell, "Read no commands; run until a signal comes");
  root.add_option("--sync", node.sync,
                  "When an entry counts as durable: always (synced), interval (within 100 ms), never")
      ->transform(CLI::CheckedTransformer(
          std::map<std::string, sync_policy>{
              {"always", sync_policy::always}, {"interval", sync_policy::interval}, {"never", sync_policy::never}},
          CLI::ignore_case));
  add_duration(root, "--election-timeout", node.election_timeout,
               "Silence of the leader after which another is elected; the same on every node");
  add_duration(root, "--heartbeat", node.heartbeat_interval, "How often a leader says that it is there");
  add_size(root, "--snapshot-bytes", node.snapshot_after_bytes,
           "Commands after which a snapshot is taken (64MiB); 0: never");
  add_size(root, "--keep-log-bytes", node.keep_log_bytes, "Log kept behind a snapshot for nodes that lag (64MiB)");
  add_size(root, "--log-segment-bytes", node.segment_bytes, "Size of a log file (64MiB)");
  return p.run(argc, argv);
}
