// cityhall: a key-value store that ships its log. This file is its command line; the node is leader.hpp and
// replica.hpp.
#include "cityhall/commands.hpp"
#include "cityhall/positions.hpp"
#include "common/cli.hpp"

using namespace lockstep;
using namespace lockstep::cityhall;
using namespace lockstep::examples;

namespace {

void add_server_options(CLI::App& to, node_options& options) {
  to.add_option("--data-dir", options.data_dir, "Directory of log and snapshot; created when missing");
  to.add_option("--host", options.host, "Address to listen on")->capture_default_str();
  to.add_option("--sync", options.sync, "When an answer is given: always (synced), interval (within 100 ms), never")
      ->transform(CLI::CheckedTransformer(
          std::map<std::string, sync_policy>{
              {"always", sync_policy::always}, {"interval", sync_policy::interval}, {"never", sync_policy::never}},
          CLI::ignore_case));
  to.add_option("--snapshot-every", options.snapshot_every, "Records after which a snapshot is written; 0: never")
      ->capture_default_str();
  add_size(to, "--retain-bytes", options.retain_bytes, "Log kept behind a snapshot for replicas that lag");
  add_size(to, "--log-segment-bytes", options.segment_bytes, "Size of a log file");
}

CLI::App& add_client_command(program& p, CLI::App& client, const char* name, const char* text, const char* command_line,
                             client_command& options, exit_code (*run)(const client_command&)) {
  return p.add_command(client, name, text, {{"for example", command_line}}, [&options, run] { return run(options); });
}

}  // namespace

int main(int argc, char** argv) {
  program p("cityhall", "A key-value store whose leader ships its log to replicas.",
            {{"a leader", "cityhall leader --port 7878 --replication-port 7879 --data-dir /tmp/leader"},
             {"a replica", "cityhall replica --leader 127.0.0.1:7879 --data-dir /tmp/replica1"},
             {"a write", "cityhall client --addr 127.0.0.1:7878 put city Nairobi"},
             {"what a replica has", "cityhall replica status --data-dir /tmp/replica1"}});

  leader_command leader_options;
  CLI::App& leader = p.add_command(
      p.root(), "leader", "Take writes and ship the log.",
      {{"on the usual ports", "cityhall leader --port 7878 --replication-port 7879 --data-dir /tmp/leader"},
       {"on free ports, which the ready: line names", "cityhall leader --port 0 --replication-port 0 --data-dir D"}},
      [&] { return run_leader(leader_options); });
  add_port(leader, "--port", leader_options.port, "Port for clients");
  add_port(leader, "--replication-port", leader_options.replication_port, "Port for replicas");
  add_server_options(leader, leader_options.server);

  replica_command replica_options;
  CLI::App& replica = p.add_command(
      p.root(), "replica", "Follow a leader.",
      {{"follow", "cityhall replica --leader 127.0.0.1:7879 --data-dir /tmp/replica1"},
       {"and serve reads", "cityhall replica --leader 127.0.0.1:7879 --data-dir /tmp/replica1 --port 7880"},
       {"what it has, running or not", "cityhall replica status --data-dir /tmp/replica1"}},
      [&] { return run_replica(replica_options); });
  add_address(replica, "--leader", replica_options.leader, "The leader's replication address");
  add_port(replica, "--port", replica_options.port, "Port that serves reads; none by default");
  replica.add_option("--id", replica_options.id, "This replica's number, not the leader's 1")
      ->check(CLI::Range(std::uint64_t{2}, UINT64_MAX))
      ->capture_default_str();
  replica
      .add_option("--on-divergence", replica_options.on_divergence,
                  "Records that the leader does not have: repair (save them aside, cut them off, go on) or stop")
      ->check(CLI::IsMember({"repair", "stop"}))
      ->capture_default_str();
  add_server_options(replica, replica_options.server);
  output_format status_format = output_format::text;
  CLI::App& status = p.add_command(replica, "status", "Show what a replica's directory holds; takes no lock.",
                                   {{"as a table", "cityhall replica status --data-dir /tmp/replica1"},
                                    {"for a script", "cityhall replica status --data-dir /tmp/replica1 -o json"}},
                                   [&] { return show_status(replica_options.server.data_dir, status_format); });
  add_output(status, status_format);

  client_command client_options;
  CLI::App& client = p.add_command(p.root(), "client", "Ask a leader or a replica.",
                                   {{"write", "cityhall client --addr 127.0.0.1:7878 put city Nairobi"},
                                    {"read", "cityhall client --addr 127.0.0.1:7878 get city"}});
  add_address(client, "--addr", client_options.addr, "Where to connect");
  add_duration(client, "--timeout", client_options.timeout, "How long to wait for connection and answer");
  add_output(client, client_options.format);
  client.add_flag("--raw", client_options.raw, "Print bytes as they are, not escaped");
  CLI::App& put = add_client_command(p, client, "put", "Set a key.", "cityhall client --addr H:P put city Nairobi",
                                     client_options, client_put);
  put.add_option("key", client_options.key)->required();
  put.add_option("value", client_options.value)->required();
  CLI::App& get = add_client_command(p, client, "get", "Print a key's value.", "cityhall client --addr H:P get city",
                                     client_options, client_get);
  get.add_option("key", client_options.key)->required();
  add_parsed(get, "--min-position", client_options.min_position, parse_position, "POSITION",
             "Answer from a state that holds this write, waiting for it: what put printed, in quotes");
  CLI::App& del = add_client_command(p, client, "del", "Remove a key.", "cityhall client --addr H:P del city",
                                     client_options, client_del);
  del.add_option("key", client_options.key)->required();
  CLI::App& scan = add_client_command(p, client, "scan", "Print the pairs whose key begins with PREFIX.",
                                      "cityhall client --addr H:P scan user: --limit 10", client_options, client_scan);
  scan.add_option("prefix", client_options.key);
  scan.add_option("--limit", client_options.limit, "At most so many; 0: all");
  CLI::App& watch = add_client_command(p, client, "watch", "Print changes of keys that begin with PREFIX, from now on.",
                                       "cityhall client --addr H:P watch user:", client_options, client_watch);
  watch.add_option("prefix", client_options.key);
  add_client_command(p, client, "status", "Show what a running node has.", "cityhall client --addr H:P status",
                     client_options, client_status);

  std::string first;
  std::string second;
  CLI::App& verify = p.add_command(p.root(), "verify", "Prove by their chains that two data directories are equal.",
                                   {{"leader and replica", "cityhall verify /tmp/leader /tmp/replica1"}},
                                   [&] { return verify_directories(first, second); });
  verify.add_option("first", first)->required();
  verify.add_option("second", second)->required();

  return p.run(argc, argv);
}
