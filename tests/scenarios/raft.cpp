// A Raft group whole: nodes with their logs, snapshots and connections, clients with sessions, through every fault.
#include "scenarios.hpp"

#include "lockstep/raft/node.hpp"
#include "lockstep/raft/sessions.hpp"
#include "lockstep/rpc/peer.hpp"
#include "lockstep/sim/check/durability.hpp"
#include "lockstep/sim/check/linearizability.hpp"
#include "lockstep/sim/durable_view.hpp"
#include "raft_replication/kv.hpp"

namespace lockstep::scenarios {
namespace {

using namespace raft;
using peer_type = basic_rpc_peer<sim::env>;
using sim::check::value_id;

constexpr const char* cluster_name = "raft";
constexpr const char* client_purpose = "client";
constexpr std::uint32_t propose_method = 1;  // a session_request -> a session_response
constexpr std::uint32_t read_method = 2;     // a key -> a value; not found: nothing
constexpr std::uint32_t refused_leader = 1;  // somebody else leads, or nobody
constexpr std::uint32_t refused_unknown = 2;

value_id value_of(std::string_view text) {
  value_id number = 0;
  std::from_chars(text.data(), text.data() + text.size(), number);
  return number;
}

// What is known of the group from outside.
struct known {
  explicit known(sim::simulation& of) : run(of) {}

  sim::simulation& run;
  node_options options;
  std::size_t keys = 1;
  duration slow = 100ms;  // between the questions of a client, at most
  std::size_t members = 3;
  std::vector<position> applied;       // by index - 1, by whichever node was first
  std::vector<std::uint64_t> answers;  // of each client
  value_id values = 0;
  std::uint64_t conversations = 0;
  sim::check::kv_history history;
  std::vector<sim::durable_view> disks;
  std::vector<std::unique_ptr<sim::check::durability_oracle<sim::durable_view>>> oracles;

  [[nodiscard]] std::uint64_t now() const { return static_cast<std::uint64_t>(run.in().elapsed().count()); }

  // State machine safety: no two nodes apply different records of one index (paper, figure 3).
  void saw(const position& at) {
    if (applied.size() < at.index) applied.resize(at.index);
    position& first = applied[at.index - 1];
    if (first.index == 0) first = at;
    sim::simulation::require(first == at,
                             "two nodes have applied different records of index " + std::to_string(at.index));
  }
  // What is acknowledged is durable on a quorum.
  void acknowledged(const position& at) {
    std::size_t holders = 0;
    for (const auto& each : oracles) holders += each->must_hold(at) ? 0 : 1;
    sim::simulation::require(holders > members / 2, "record " + std::to_string(at.index) +
                                                        " was acknowledged, and is durable on " +
                                                        std::to_string(holders) + " nodes only");
  }
};

// A state machine that lets the scenario see what is applied.
template <class Machine>
struct watched {
  Machine& machine;
  known& in;

  void apply(const entry& next, byte_buffer& result) {
    in.saw(next.at);
    machine.apply(next, result);
  }
  awaitable<void> snapshot(snapshot_sink& to) { return machine.snapshot(to); }
  awaitable<void> restore(snapshot_source& from) { return machine.restore(from); }
};

// --- Members ----------------------------------------------------------------------------------------------------

struct member {
  member(sim::env& on, known& in) : env(on), group(in), sessions(keys), seen{sessions, in} {}

  using machine_type = watched<raft::sessions<kv::machine>>;

  sim::env& env;
  known& group;
  kv::machine keys;
  raft::sessions<kv::machine> sessions;
  machine_type seen;
  std::unique_ptr<basic_node<sim::env, machine_type>> node;
  rpc_service service;

  awaitable<void> propose(const rpc_request& in, rpc_reply& out) {
    const raft::outcome done = co_await node->propose(in.arguments, 2s);
    if (done.ok()) {
      group.acknowledged(done.at);
      out.body().append(done.result.view());
    } else {
      out.fail(done.error == errc::timed_out ? refused_unknown : refused_leader, done.error.message());
    }
  }

  awaitable<void> read(const rpc_request& in, rpc_reply& out) {
    const std::error_code ec = co_await node->read_barrier(2s);
    if (ec) {
      out.fail(refused_leader, ec.message());
      co_return;
    }
    if (const kv::item* const found = keys.find(as_text(in.arguments))) out.body().append(as_bytes(found->value));
  }
};

awaitable<void> live(sim::env& on, known& in, std::size_t number) {
  member self(on, in);
  node_options options = in.options;
  options.core.id = number + 1;
  for (std::size_t i = 1; i <= in.members; ++i) options.members[i] = "n" + std::to_string(i) + ":7000";
  self.node = co_await basic_node<sim::env, member::machine_type>::open(on, options, self.seen);
  self.service.on(propose_method,
                  [&self](const rpc_request& asked, rpc_reply& out) { return self.propose(asked, out); });
  self.service.on(read_method, [&self](const rpc_request& asked, rpc_reply& out) { return self.read(asked, out); });
  std::error_code ec;
  server_options serving;
  serving.channel = self.node->hello();
  basic_server<sim::env> server(on, on.listen(address("0.0.0.0", 7000), ec), serving);
  if (ec) throw std::system_error(ec, "listen");
  server.on(raft_purpose, [&self](basic_channel<sim::env>& from) { return self.node->serve(from); });
  server.on(client_purpose, self.service);
  task_group running(on.get_executor());
  running.spawn(server.run());
  running.spawn(self.node->run());
  std::exception_ptr failure;
  try {
    co_await running.join();
  } catch (...) {
    failure = std::current_exception();  // rethrown when the node is closed
  }
  try {
    co_await self.node->close();
  } catch (const std::system_error&) {
    // What made the node end says why.
  }
  if (failure) std::rethrow_exception(failure);
}

// --- Clients ----------------------------------------------------------------------------------------------------

struct client {
  std::uint64_t number = 0;
  std::uint64_t conversation = 0;  // of one session
  session_id session = 0;
  std::uint64_t sequence = 0;
};

// Of whichever member it reaches.
awaitable<rpc_status> ask_once(sim::env& on, known& in, std::uint32_t method, bytes_view arguments,
                               byte_buffer& result) {
  const std::size_t where = 1 + on.random() % in.members;
  const address there("n" + std::to_string(where), 7000);
  sim::env::stream stream = co_await on.connect(there, 500ms);
  channel_options options;
  options.cluster = cluster_name;
  options.purpose = client_purpose;
  basic_channel<sim::env> channel(on, std::move(stream), options);
  (void)co_await channel.handshake();
  const rpc_service nothing_served;
  peer_type peer(std::move(channel), nothing_served);
  task_group running(on.get_executor());
  running.spawn(peer.run());
  const rpc_status status = co_await peer.call(method, arguments, result, 2s);
  peer.abort();
  try {
    co_await running.join();
  } catch (const std::system_error&) {
    // How the connection ended.
  }
  co_return status;
}

// @return false: nobody answered.
awaitable<bool> ask(sim::env& on, known& in, std::uint32_t method, bytes_view arguments, byte_buffer& result,
                    std::size_t tries) {
  for (; tries != 0; --tries) {
    try {
      result.clear();
      const rpc_status status = co_await ask_once(on, in, method, arguments, result);
      if (status.ok()) co_return true;
    } catch (const std::system_error&) {
      // Not reached, or cut off.
    }
    co_await pause(on, std::chrono::milliseconds(5 + on.random() % 100));
  }
  co_return false;
}

awaitable<bool> begin_session(sim::env& on, known& in, client& mine) {
  open_session open;
  open.limits.max_response_bytes = 1000;
  byte_buffer request, result;
  encode_session_request(request, open);
  if (!co_await ask(on, in, propose_method, request.view(), result, 20)) co_return false;
  const auto response = decode_session_response(result.view());
  sim::simulation::require(response && response->status == session_status::done, "a session was not opened");
  mine.session = *decode_opened_session(*response);
  mine.sequence = 0;
  mine.conversation = ++in.conversations;
  co_return true;
}

// A command of the session, sent again until it is answered. @return whether the session goes on.
awaitable<bool> change(sim::env& on, known& in, client& mine) {
  const std::string key = "key" + std::to_string(on.random() % in.keys);
  const std::uint64_t kind = on.random() % 4;
  const value_id value = ++in.values;
  const value_id expected = value > 1 ? 1 + on.random() % (value - 1) : sim::check::absent;
  const std::string text = std::to_string(value), old = std::to_string(expected);
  kv::command command;
  command.key = key;
  std::size_t op = 0;
  if (kind == 0) {
    command.op = kv::operation::del;
    op = in.history.erase(mine.conversation, key, in.now());
  } else if (kind == 1) {
    command.op = kv::operation::cas;
    command.value = text;
    if (expected != sim::check::absent) command.expected = old;
    op = in.history.compare_swap(mine.conversation, key, expected, value, in.now());
  } else {
    command.op = kv::operation::put;
    command.value = text;
    op = in.history.put(mine.conversation, key, value, in.now());
  }
  byte_buffer payload, request, result;
  kv::encode(payload, command);
  session_command wrapped;
  wrapped.session = mine.session;
  wrapped.sequence = ++mine.sequence;
  wrapped.acknowledged = mine.sequence - 1;
  wrapped.payload = payload.view();
  encode_session_request(request, wrapped);
  if (!co_await ask(on, in, propose_method, request.view(), result, 30)) co_return false;
  const auto response = decode_session_response(result.view());
  sim::simulation::require(response.has_value(), "a command was answered by nonsense");
  if (response->status == session_status::unknown_session) co_return false;  // it may have been applied before
  sim::simulation::require(response->status == session_status::done, "a command was not taken");
  field_reader fields(response->body);
  const auto is = static_cast<kv::outcome>(fields.number<std::uint8_t>());
  if (kind == 1)
    in.history.swapped(op, is == kv::outcome::ok, in.now());
  else
    in.history.done(op, in.now());
  ++in.answers[mine.number];
  co_return true;
}

awaitable<void> look_up(sim::env& on, known& in, client& mine) {
  const std::string key = "key" + std::to_string(on.random() % in.keys);
  const auto op = in.history.get(mine.conversation, key, in.now());
  byte_buffer result;
  if (!co_await ask(on, in, read_method, as_bytes(key), result, 10)) co_return;
  in.history.read(op, result.empty() ? sim::check::absent : value_of(as_text(result.view())), in.now());
  ++in.answers[mine.number];
}

awaitable<void> ask_forever(sim::env& on, known& in, std::uint64_t number) {
  client mine;
  mine.number = number;
  for (;;) {
    if (!co_await begin_session(on, in, mine)) continue;
    for (bool goes_on = true; goes_on && on.random() % 50 != 0;) {
      if (on.random() % 2 == 0)
        goes_on = co_await change(on, in, mine);
      else
        co_await look_up(on, in, mine);
      const auto slow = static_cast<std::uint64_t>(in.slow.count());
      co_await pause(on, duration(static_cast<std::int64_t>(on.random() % slow)));
    }
  }
}

// --- The scenario -----------------------------------------------------------------------------------------------

void served_again(known& in, const std::string& when) {
  const std::vector<std::uint64_t> before = in.answers;
  const auto all_served = [&] {
    for (std::size_t i = 0; i < before.size(); ++i) {
      if (in.answers[i] < before[i] + 3) return false;
    }
    return true;
  };
  sim::simulation::require(in.run.in().run_until(all_served, 60s), "a client was not served for 60 s " + when);
}

void run(sim::simulation& of) {
  const auto in_owner = std::make_shared<known>(of);
  known& in = *in_owner;
  of.keep(in_owner);
  sim::random_stream random = of.random("group");
  in.members = std::array<std::size_t, 4>{3, 3, 5, 1}[random.below(4)];
  in.keys = 1 + random.below(5);
  in.slow = std::chrono::milliseconds(10 + random.below(300));
  in.options.cluster = cluster_name;
  in.options.directory = "/data";
  in.options.log = drawn_log_options(of.random("log options"));
  in.options.log.max_unsynced_bytes = 16u << 20;
  in.options.snapshot_after_bytes = random.chance(0.3) ? 0 : std::uint64_t{500} << random.below(6);
  in.options.keep_log_bytes = random.below(2) * (std::uint64_t{8} << 10);
  in.options.core.election_timeout = std::chrono::milliseconds(300 + random.below(1000));
  in.options.core.heartbeat_interval = in.options.core.election_timeout / 10;
  in.options.max_batch_bytes = std::size_t{1} << (8 + random.below(10));
  const std::size_t clients = 1 + random.below(4);
  in.answers.resize(clients);
  std::vector<sim::node*> members, everybody;
  for (std::size_t i = 0; i < in.members; ++i) {
    members.push_back(&of.add("n" + std::to_string(i + 1), [&in, i](sim::env& on) { return live(on, in, i); }));
    in.disks.emplace_back(members.back()->storage);
  }
  for (sim::durable_view& each : in.disks) {
    in.oracles.push_back(std::make_unique<sim::check::durability_oracle<sim::durable_view>>(each, "/data/log"));
  }
  for (std::size_t i = 0; i < clients; ++i) {
    of.add("client" + std::to_string(i + 1), [&in, i](sim::env& on) { return ask_forever(on, in, i); });
  }

  sim::fault_plan_options faults;
  faults.lasts = 45s;
  of.chaos(faults);
  // A quorum goes on without the others.
  std::vector<sim::node*> survivors;
  std::size_t may_fail = (in.members - 1) / 2;
  for (const auto& each : of.in().nodes()) {
    const bool fails = each->index < in.members && may_fail != 0 && random.chance(0.5);
    if (fails) --may_fail;
    if (!fails) survivors.push_back(each.get());
  }
  of.calm(survivors);
  served_again(in, "after the faults, by a quorum");
  of.calm();
  served_again(in, "after all faults");
  sim::simulation::require(sim::check::check_linearizable(in.history).broken());
}

}  // namespace

sim::scenario raft_group() {
  return {"raft", "Raft nodes, with snapshots, and clients with sessions, through every fault", &run};
}

}  // namespace lockstep::scenarios
