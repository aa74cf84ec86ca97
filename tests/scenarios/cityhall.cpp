// CityHall whole: a leader, its replicas, clients that write at the leader and read everywhere; through every fault.
//
// In some runs an operator puts an older copy of its disk back under the leader. What was acknowledged since is lost
// then, and a new history goes on from the copy: clients start again with it, and replicas give up what it lacks.
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

  using writes = std::map<std::string, value_id>;
  struct known_record {
    position at;
    writes changes;
  };

  sim::simulation& run;
  store_options options;
  std::size_t keys = 1;
  std::size_t value_bytes = 1;
  duration slow = 100ms;               // between the questions of a client, at most
  std::vector<store_type*> stores;     // by node; null while down
  std::vector<bool> went_along;        // by node: it was seen in the history that goes on behind the last restore
  std::vector<std::uint64_t> answers;  // of each client
  std::vector<position> remembered;    // by each client, also when it starts again
  value_id values = 0;
  std::uint64_t conversations = 0;
  std::vector<known_record> records;  // of the leader's history, from the first
  sim::check::kv_history history;
  sim::check::read_your_writes sessions;
  sim::check::convergence nodes;
  std::optional<sim::durable_view> leader_disk;
  std::optional<sim::check::durability_oracle<sim::durable_view>> oracle;
  std::size_t restores = 0;     // of the leader's disk
  bool chaotic = true;          // until the faults are over
  bool continues_copy = false;  // no life of the leader began since the last one
  epoch_t last_epoch = 0;       // of the leader's disk
  epoch_t highest_epoch = 0;    // of all of them
  epoch_t lost_epoch = 0;       // the highest one of before the last restore
  epoch_t least_epoch = 0;      // that the next life must have

  [[nodiscard]] std::uint64_t now() const { return static_cast<std::uint64_t>(run.in().elapsed().count()); }

  // Of a record that is durable at the leader.
  void tell(const record& applied) {
    if (applied.index <= records.size()) return;
    sim::simulation::require(applied.index == records.size() + 1, "the leader passed over a record");
    known_record& told = records.emplace_back();
    told.at = applied.position();
    if (applied.kind == data_record) {
      const std::optional<segment_view> segment = segment_view::parse(applied.payload);
      segment->for_each([&told](const entry& each) {
        told.changes[std::string(each.key)] = each.op == operation::del ? sim::check::absent : value_of(each.value);
      });
    }
    commit(told);
  }
  void commit(const known_record& told) {
    for (const auto& [key, value] : told.changes) must(sessions.committed(key, told.at.index, value));
  }

  [[nodiscard]] bool has(const position& at) const {
    return at.index == 0 || (at.index <= records.size() && records[at.index - 1].at == at);
  }
  // Whether what a replica stands at can be compared: after a restore it may stand in the history that was lost.
  [[nodiscard]] bool knows(const position& at) const { return restores == 0 || has(at); }

  // Nodes that stand at the same record have the same history and the same state.
  void look() {
    for (std::size_t i = 0; i < stores.size(); ++i) {
      if (!stores[i]) continue;
      const kv_state& state = stores[i]->state();
      if (state.at().index == 0 || !knows(state.at())) continue;
      if (state.at().epoch > lost_epoch) went_along[i] = true;
      const byte_buffer bytes = encode_snapshot(state);
      must(nodes.holds(i + 1, state.at(), now(), xxh3_64(bytes.view())));
    }
  }

  // A node has opened its store and stands at `at`.
  void opened(std::size_t number, const position& at) const {
    sim::simulation::require(!went_along[number] || at.epoch > lost_epoch || has(at),
                             "a node has gone back to the history that was lost");
  }

  // The leader goes on behind what a copy of its disk was told of.
  void restored(std::vector<known_record> kept) {
    must(sim::check::check_linearizable(history).broken());
    ++restores;
    continues_copy = true;
    last_epoch = 0;
    lost_epoch = highest_epoch;
    went_along.assign(stores.size(), false);
    records = std::move(kept);
    history = sim::check::kv_history();
    sessions = sim::check::read_your_writes();
    for (const known_record& each : records) commit(each);
    nodes = sim::check::convergence();
    oracle->forget();
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
  place.next = std::max(index_t{in.records.size()} + 1, store.log().first_index());
  while (place.next <= store.state().at().index) {
    for (const record each : store.log().read(place, 4096)) in.tell(each);
  }
  if (std::exchange(in.continues_copy, false)) {
    for (const auto& [key, value] : store.state().pairs()) {
      in.history.done(in.history.put(0, key, value_of(value), in.now()), in.now(), 0);
    }
  }
  store.on_applied = [&in](const record& applied) { in.tell(applied); };
  basic_leader<sim::env> leader(on, store, leader_events());
  do {
    co_await leader.begin_life("leader:7878");
    must(in.oracle->must_hold(store.log().last()));
    sim::simulation::require(leader.epoch() > in.last_epoch, "two lives of the leader have the same epoch");
    in.last_epoch = leader.epoch();
    in.highest_epoch = std::max(in.highest_epoch, leader.epoch());
  } while (leader.epoch() < in.least_epoch);
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
  const auto kept = on.on().storage.bytes(snapshot_path("/data"), sim::view::cached);
  const auto store = co_await store_type::open(on, "/data", options);
  if (const auto snapshot = kept ? read_snapshot_summary(*kept) : std::nullopt; snapshot && in.restores == 0) {
    sim::simulation::require(store->state().at().index >= snapshot->at.index, "a snapshot was forgotten");
  }
  in.opened(number, store->state().at());
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

awaitable<void> read_something(sim::env&, city& in, peer_type& from, session& mine, const std::string& key,
                               bool at_leader) {
  const auto op = at_leader ? std::optional(in.history.get(mine.id, key, in.now())) : std::nullopt;
  get_request request;
  request.key = key;
  if (!at_leader) request.min_position = mine.seen;
  const byte_buffer bytes = request.encode();
  byte_buffer result;
  const rpc_status status = co_await from.call(get_method, bytes.view(), result, 2s);
  const position& wanted = request.min_position;
  if (!status.ok()) {
    if (op) in.history.failed(*op, in.now());
    if (status.remote_code() != refused_lost) co_return;
    // A replica of the lost history takes what lives of earlier epochs write for older than its own.
    sim::simulation::require(!in.knows(wanted) || wanted.epoch <= in.lost_epoch,
                             "a replica says that a record is lost which the leader has");
    mine.id = ++in.conversations;
    mine.seen = position();
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
  if (in.knows(reply->at)) {
    if (in.knows(wanted)) {
      must(in.sessions.read(mine.id, key, wanted.index, reply->at.index, value, in.now()));
    } else if (in.options.snapshot_every == 0) {
      // With its log from the beginning a replica can tell.
      throw sim::requirement_failed("a read that asked for a lost record was answered from a history without it");
    }
  }
  if (reply->at.index > mine.seen.index) mine.seen = in.remembered[mine.client] = reply->at;
}

awaitable<void> change_something(sim::env& on, city& in, peer_type& leader, session& mine, const std::string& key) {
  const bool erases = on.random() % 8 == 0;
  const value_id value = ++in.values;
  const std::string text = std::to_string(value) + std::string(on.random() % in.value_bytes, '.');
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
    mine.seen = in.remembered[mine.client] = reply->at;
    in.sessions.wrote(mine.id, reply->at.index);
    ++in.answers[mine.client];
    if (on.random() % 2 == 0) co_await read_something(on, in, leader, mine, key, true);
  } else if (!status.outcome_unknown() && status.code() != errc::timed_out && status.remote_code() != refused_storage) {
    in.history.failed(op, in.now());
  }
}

awaitable<void> converse(sim::env& on, city& in, peer_type& with, session& mine, bool at_leader, std::uint64_t turns) {
  while (turns-- != 0) {
    const std::string key = "key" + std::to_string(on.random() % in.keys);
    const std::uint64_t answered = in.answers[mine.client];
    if (at_leader && on.random() % 3 != 0)
      co_await change_something(on, in, with, mine, key);
    else
      co_await read_something(on, in, with, mine, key, at_leader);
    if (in.answers[mine.client] == answered) co_return;  // it goes elsewhere
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
  if (on.random() % 2 == 0) mine.seen = in.remembered[id];
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

void crash_clients(city& in) {
  const auto& nodes = in.run.in().nodes();
  for (std::size_t i = in.stores.size(); i < nodes.size(); ++i) nodes[i]->crash();
}

// Copies the leader's files, and puts the copy back when the leader has gone on for a while.
void restore_a_copy(city& in, sim::random_stream& random) {
  sim::world& world = in.run.in();
  const auto copied_at = std::chrono::milliseconds(random.below(30'000));
  const auto restored_at = copied_at + std::chrono::milliseconds(random.below(15'000));
  const bool knows_epoch = random.chance(0.5);
  world.at(copied_at, [&in, &world, restored_at, knows_epoch] {
    const auto copy = std::make_shared<sim::disk>(world.nodes()[0]->storage.process_crash());
    copy->settle();
    copy->set_capacity(std::numeric_limits<std::uint64_t>::max());  // it may be full just now
    world.at(restored_at, [&in, &world, copy, kept = in.records, knows_epoch]() mutable {
      sim::node& leader = *world.nodes()[0];
      leader.crash();
      crash_clients(in);
      leader.storage = *copy;
      in.restored(std::move(kept));
      if (knows_epoch) in.least_epoch = in.highest_epoch + 1;
      for (const auto& each : world.nodes()) {
        if (!each->running()) each->start();
      }
    });
  });
}

// Much depends on the order in which a snapshot is installed: some replicas die there.
void die_at_snapshots(city& in, sim::node& replica) {
  const auto random = std::make_shared<sim::random_stream>(in.run.random("snapshots of " + replica.name));
  replica.storage.on_operation([&in, &replica, random](const sim::op& asked) {
    if (asked.kind != sim::op_kind::rename || asked.to != snapshot_path("/data") || !random->chance(0.4)) return;
    sim::world& world = in.run.in();
    const auto dies_at = world.elapsed() + std::chrono::microseconds(random->below(3000));
    world.at(dies_at, [&in, &replica] {
      if (in.chaotic) replica.crash();
    });
    world.at(dies_at + 100ms, [&in, &replica] {
      if (in.chaotic && !replica.running() && replica.powered) replica.start();
    });
  });
}

// A node goes on through everything but what its own disk refuses: then it ends, and is started again.
void must_be_the_disk(sim::node& ended) {
  sim::simulation::require(ended.failure() != nullptr, ended.name + " ended for no reason");
  try {
    std::rethrow_exception(ended.failure());
  } catch (const std::system_error& error) {
    const std::error_code ec = error.code();
    const bool refused = ec == std::errc::io_error || ec == std::errc::no_space_on_device || ec == errc::log_failed;
    sim::simulation::require(refused, ended.name + " ended, and not because of its disk: " + error.what());
  }
}

[[nodiscard]] bool converged(const city& in, const std::vector<sim::node*>& among) {
  const auto stands_with_leader = [&in](const sim::node* each) {
    const store_type* const store = each->index < in.stores.size() ? in.stores[each->index] : in.stores[0];
    return store && in.stores[0] && store->state().at() == in.stores[0]->state().at();
  };
  return std::all_of(among.begin(), among.end(), stands_with_leader);
}

// Clients are served and replicas catch up, once more.
void goes_on(city& in, const std::vector<sim::node*>& among, const std::string& when) {
  const std::vector<std::uint64_t> before = in.answers;
  const auto all_served = [&] {
    for (std::size_t i = 0; i < before.size(); ++i) {
      if (in.answers[i] < before[i] + 3) return false;
    }
    return true;
  };
  sim::simulation::require(in.run.in().run_until(all_served, 60s), "a client was not served for 60 s " + when);
  crash_clients(in);
  sim::simulation::require(in.run.in().run_until([&] { return converged(in, among); }, 60s),
                           "a replica did not catch up in 60 s " + when);
  in.look();
}

void run(sim::simulation& of) {
  // Outlives the nodes, whose programs use it until they are destroyed.
  const auto in_owner = std::make_shared<city>(of);
  city& in = *in_owner;
  of.keep(in_owner);
  sim::random_stream random = of.random("city");
  in.options.log = drawn_log_options(of.random("log options"));
  in.options.snapshot_every = random.chance(0.3) ? 0 : 10 + random.below(200);
  in.options.retain_bytes = random.below(2) * (std::uint64_t{16} << 10);
  in.keys = 1 + random.below(6);
  in.value_bytes = std::size_t{20} << random.below(8);
  in.slow = std::chrono::milliseconds(20 + random.below(400));
  const std::size_t replicas = 1 + random.below(3), clients = 1 + random.below(3);
  in.stores.resize(1 + replicas);
  in.went_along.resize(1 + replicas);
  in.answers.resize(clients);
  in.remembered.resize(clients);
  sim::node& leader = of.in().add_node("leader");
  in.leader_disk.emplace(leader.storage);
  in.oracle.emplace(*in.leader_disk, "/data/log");
  of.run(leader, [&in](sim::env& on) { return serve(on, in, 0); });
  for (std::size_t i = 1; i <= replicas; ++i) {
    die_at_snapshots(in, of.add("replica" + std::to_string(i), [&in, i](sim::env& on) { return serve(on, in, i); }));
  }
  for (std::uint64_t i = 0; i < clients; ++i) {
    of.add("client" + std::to_string(i + 1), [&in, i](sim::env& on) { return ask_forever(on, in, i); });
  }
  of.on_end = &must_be_the_disk;
  look_now_and_then(in);
  for (std::uint64_t copies = random.chance(0.6) ? 0 : 1 + random.below(2); copies != 0; --copies) {
    restore_a_copy(in, random);
  }

  sim::fault_plan_options faults;
  faults.lasts = 45s;
  of.chaos(faults);
  in.chaotic = false;
  // Some replicas stay behind for good; the leader and its clients go on without them.
  std::vector<sim::node*> survivors, everybody;
  for (const auto& each : of.in().nodes()) {
    const bool is_replica = each->index != 0 && each->index <= replicas;
    everybody.push_back(each.get());
    if (!is_replica || random.chance(0.5)) survivors.push_back(each.get());
  }
  in.least_epoch = in.highest_epoch + 1;
  leader.crash();  // so that replicas follow it, whatever copy it has
  of.calm(survivors);
  goes_on(in, survivors, "after the faults, without the nodes that were left behind");
  of.calm();
  goes_on(in, everybody, "after all faults");
  must(in.sessions.finished());
  must(sim::check::check_linearizable(in.history).broken());
}

}  // namespace

sim::scenario city_hall() { return {"cityhall", "CityHall's leader, replicas and clients, through every fault", &run}; }

}  // namespace lockstep::scenarios
