// CityHall whole: a leader, its replicas, clients that write at the leader and read everywhere; through every fault.
#include "scenarios.hpp"

#include "cityhall/leader.hpp"
#include "cityhall/replica.hpp"
#include "lockstep/rpc/peer.hpp"
#include "lockstep/sim/check/convergence.hpp"
#include "lockstep/sim/check/durability.hpp"
#include "lockstep/sim/check/linearizability.hpp"
#include "lockstep/sim/check/read_your_writes.hpp"
#include "lockstep/sim/durable_view.hpp"

namespace lockstep::scenarios {
namespace {

using namespace cityhall;
using store_type = basic_store<sim::env>;
using peer_type = basic_rpc_peer<sim::env>;
using sim::check::value_id;

void must(const sim::check::violation& found) { sim::simulation::require(found); }

value_id value_of(std::string_view text) {
  value_id number = 0;
  std::from_chars(text.data(), text.data() + text.size(), number);
  return number;
}

// What is known of the city from outside.
struct city {
  explicit city(sim::simulation& of) : run(of) {}

  sim::simulation& run;
  store_options options;
  std::size_t keys = 1;
  duration slow = 100ms;               // between the questions of a client, at most
  std::vector<store_type*> stores;     // by node; null while down
  std::vector<std::uint64_t> answers;  // of each client
  value_id values = 0;
  std::uint64_t conversations = 0;
  sim::check::kv_history history;
  sim::check::read_your_writes sessions;
  index_t told = 0;  // of the history, to `sessions`
  sim::check::convergence nodes;
  std::optional<sim::durable_view> leader_disk;
  std::optional<sim::check::durability_oracle<sim::durable_view>> oracle;

  [[nodiscard]] std::uint64_t now() const { return static_cast<std::uint64_t>(run.in().elapsed().count()); }

  // Of a record that is durable at the leader.
  void tell(const record& applied) {
    if (applied.kind != data_record || applied.index <= told) return;
    told = applied.index;
    const std::optional<segment_view> segment = segment_view::parse(applied.payload);
    std::map<std::string, value_id> last;
    segment->for_each([&last](const entry& each) {
      last[std::string(each.key)] = each.op == operation::del ? sim::check::absent : value_of(each.value);
    });
    for (const auto& [key, value] : last) must(sessions.committed(key, applied.index, value));
  }

  // Nodes that stand at the same record have the same history and the same state.
  void look() {
    for (std::size_t i = 0; i < stores.size(); ++i) {
      if (!stores[i]) continue;
      const kv_state& state = stores[i]->state();
      if (state.at().index == 0) continue;
      const byte_buffer bytes = encode_snapshot(state);
      must(nodes.holds(i + 1, state.at(), now(), xxh3_64(bytes.view())));
    }
  }
};

// While it lives, the city sees the store.
struct shown {
  store_type*& place;
  shown(city& in, std::size_t number, store_type& of) : place(in.stores[number]) { place = &of; }
  shown(const shown&) = delete;
  ~shown() { place = nullptr; }
};

sim::env::acceptor listen(sim::env& on, std::uint16_t port) {
  std::error_code ec;
  sim::env::acceptor made = on.listen(address("0.0.0.0", port), ec);
  if (ec) throw std::system_error(ec, "listen");
  return made;
}

awaitable<void> lead_with(sim::env& on, store_type& store, city& in) {
  sim::env::acceptor clients = listen(on, 7878);
  sim::env::acceptor replicas = listen(on, 7879);
  // What was durable and not applied when the last life ended.
  typename basic_append_log<sim::env>::read_place place;
  place.next = std::max(in.told + 1, store.log().first_index());
  while (place.next <= store.state().at().index) {
    for (const record each : store.log().read(place, 4096)) in.tell(each);
  }
  store.on_applied = [&in](const record& applied) { in.tell(applied); };
  basic_leader<sim::env> leader(on, store, leader_events());
  co_await leader.begin_life("leader:7878");
  co_await leader.run(std::move(clients), std::move(replicas));
}

awaitable<void> follow_with(sim::env& on, store_type& store, node_id id) {
  std::optional<sim::env::acceptor> readers;
  readers.emplace(listen(on, 7878));
  replica_options options;
  options.leader = address("leader", 7879);
  options.id = id;
  basic_replica<sim::env> replica(on, store, options, replica_events());
  co_await replica.run(std::move(readers));
}

// A node's life: opens its store, serves, closes the store whatever ends it.
awaitable<void> serve(sim::env& on, city& in, std::size_t number) {
  store_options options = in.options;
  options.start_over = number != 0;
  const auto store = co_await store_type::open(on, "/data", options);
  const shown seen(in, number, *store);
  std::exception_ptr failure;
  try {
    if (number == 0)
      co_await lead_with(on, *store, in);
    else
      co_await follow_with(on, *store, number + 1);
  } catch (...) {
    failure = std::current_exception();  // rethrown when the store is closed
  }
  try {
    co_await store->close();
  } catch (const std::system_error&) {
    // What made the node end says why.
  }
  if (failure) std::rethrow_exception(failure);
}

// --- Clients
// ----------------------------------------------------------------------------------------------------------

struct session {
  std::uint64_t client = 0;
  std::uint64_t id = 0;  // of one life of the client: a crash forgets what was seen
  position seen;         // what its reads of replicas must hold
};

awaitable<void> change_something(sim::env& on, city& in, peer_type& leader, session& mine, const std::string& key) {
  const bool erases = on.random() % 8 == 0;
  const value_id value = ++in.values;
  const std::string text = std::to_string(value) + std::string(on.random() % 200, '.');
  const auto op = erases ? in.history.erase(mine.id, key, in.now()) : in.history.put(mine.id, key, value, in.now());
  change_request request;
  request.key = key;
  if (!erases) request.value = text;
  const byte_buffer bytes = request.encode();
  byte_buffer result;
  const rpc_status status = co_await leader.call(erases ? del_method : put_method, bytes.view(), result, 2s);
  if (status.ok()) {
    const auto reply = change_reply::decode(result.view());
    sim::simulation::require(reply.has_value(), "a change was answered by nonsense");
    in.history.done(op, in.now(), 0);
    must(in.oracle->must_hold(reply->at));
    mine.seen = reply->at;
    in.sessions.wrote(mine.id, reply->at.index);
    ++in.answers[mine.client];
  } else if (!status.outcome_unknown() && status.code() != errc::timed_out && status.remote_code() != refused_storage) {
    in.history.failed(op, in.now());
  }
}

awaitable<void> read_something(sim::env&, city& in, peer_type& from, session& mine, const std::string& key,
                               bool at_leader) {
  const auto op = at_leader ? std::optional(in.history.get(mine.id, key, in.now())) : std::nullopt;
  get_request request;
  request.key = key;
  if (!at_leader) request.min_position = mine.seen;
  const byte_buffer bytes = request.encode();
  byte_buffer result;
  const rpc_status status = co_await from.call(get_method, bytes.view(), result, 2s);
  if (!status.ok()) {
    sim::simulation::require(status.remote_code() != refused_lost,
                             "a replica says that an acknowledged record is lost");
    if (op) in.history.failed(*op, in.now());
    co_return;
  }
  const auto reply = get_reply::decode(result.view());
  sim::simulation::require(reply.has_value(), "a read was answered by nonsense");
  const value_id value = reply->value ? value_of(*reply->value) : sim::check::absent;
  ++in.answers[mine.client];
  if (op) {
    in.history.read(*op, value, in.now(), 0);
    co_return;
  }
  must(in.sessions.read(mine.id, key, request.min_position.index, reply->at.index, value, in.now()));
  if (reply->at.index > mine.seen.index) mine.seen = reply->at;
}

awaitable<void> converse(sim::env& on, city& in, peer_type& with, session& mine, bool at_leader, std::uint64_t turns) {
  while (turns-- != 0) {
    const std::string key = "key" + std::to_string(on.random() % in.keys);
    if (at_leader && on.random() % 3 != 0)
      co_await change_something(on, in, with, mine, key);
    else
      co_await read_something(on, in, with, mine, key, at_leader);
    co_await pause(on, duration(static_cast<std::int64_t>(on.random() % static_cast<std::uint64_t>(in.slow.count()))));
  }
}

// One connection, to the leader or to a replica, and some questions.
awaitable<void> visit(sim::env& on, city& in, session& mine) {
  const std::size_t where = on.random() % 3 != 0 ? 0 : on.random() % in.stores.size();
  const std::string host = where == 0 ? "leader" : "replica" + std::to_string(where);
  sim::env::stream stream = co_await on.connect(address(host, 7878), 2s);
  channel_options options;
  options.cluster = cluster_name;
  options.purpose = client_purpose;
  basic_channel<sim::env> connection(on, std::move(stream), options);
  (void)co_await connection.handshake();
  const rpc_service nothing_served;
  peer_type peer(std::move(connection), nothing_served);
  task_group running(on.get_executor());
  running.spawn(peer.run());
  std::exception_ptr failure;
  try {
    co_await converse(on, in, peer, mine, where == 0, 1 + on.random() % 50);
  } catch (...) {
    failure = std::current_exception();  // rethrown when the connection is closed
  }
  peer.abort();
  try {
    co_await running.join();
  } catch (const std::system_error&) {
    // How the connection ended.
  }
  if (failure) std::rethrow_exception(failure);
}

awaitable<void> ask_forever(sim::env& on, city& in, std::uint64_t id) {
  session mine;
  mine.client = id;
  mine.id = ++in.conversations;
  for (;;) {
    try {
      co_await visit(on, in, mine);
    } catch (const std::system_error&) {
      // Not reached, or cut off: it comes again.
    }
    co_await pause(on, std::chrono::milliseconds(10 + on.random() % 200));
  }
}

// --- The scenario
// -----------------------------------------------------------------------------------------------------

void look_now_and_then(city& in) {
  in.run.in().at(in.run.in().elapsed() + 50ms, [&in] {
    in.look();
    look_now_and_then(in);
  });
}

void run(sim::simulation& of) {
  // Outlives the nodes, whose programs use it until they are destroyed.
  const auto in_owner = std::make_shared<city>(of);
  city& in = *in_owner;
  sim::random_stream random = of.random("city");
  in.options.log = drawn_log_options(of.random("log options"));
  in.options.snapshot_every = random.chance(0.3) ? 0 : 10 + random.below(200);
  in.options.retain_bytes = random.below(2) * (std::uint64_t{16} << 10);
  in.keys = 1 + random.below(6);
  in.slow = std::chrono::milliseconds(20 + random.below(400));
  const std::size_t replicas = 1 + random.below(3), clients = 1 + random.below(3);
  in.stores.resize(1 + replicas);
  in.answers.resize(clients);
  forgive_failed_disks(of);
  sim::node& leader = of.in().add_node("leader");
  in.leader_disk.emplace(leader.storage);
  in.oracle.emplace(*in.leader_disk, "/data/log");
  of.run(leader, [&in](sim::env& on) { return serve(on, in, 0); });
  for (std::size_t i = 1; i <= replicas; ++i) {
    of.add("replica" + std::to_string(i), [&in, i](sim::env& on) { return serve(on, in, i); });
  }
  for (std::uint64_t i = 0; i < clients; ++i) {
    of.add("client" + std::to_string(i + 1), [&in, i](sim::env& on) { return ask_forever(on, in, i); });
  }
  of.keep(in_owner);
  look_now_and_then(in);

  sim::fault_plan_options faults;
  faults.lasts = 45s;
  of.chaos(faults);
  of.calm();
  const std::vector<std::uint64_t> before = in.answers;
  const auto all_served = [&] {
    for (std::size_t i = 0; i < before.size(); ++i) {
      if (in.answers[i] < before[i] + 3) return false;
    }
    return true;
  };
  sim::simulation::require(of.in().run_until(all_served, 60s), "a client was not served for 60 s after the faults");
  for (std::size_t i = replicas + 1; i < of.in().nodes().size(); ++i) of.in().nodes()[i]->crash();  // the clients
  const auto converged = [&] {
    for (const store_type* const each : in.stores) {
      if (!each || each->state().at() != in.stores[0]->state().at()) return false;
    }
    return true;
  };
  sim::simulation::require(of.in().run_until(converged, 60s), "a replica did not catch up in 60 s after the faults");
  in.look();
  must(in.sessions.finished());
  must(sim::check::check_linearizable(in.history).broken());
}

}  // namespace

sim::scenario city_hall() { return {"cityhall", "CityHall's leader, replicas and clients, through every fault", &run}; }

}  // namespace lockstep::scenarios
