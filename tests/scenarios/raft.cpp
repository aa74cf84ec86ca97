// A Raft group whole: nodes with their logs, snapshots and connections, clients with sessions, and somebody who changes
// the members and transfers leadership, through every fault.
#include "scenarios.hpp"

#include "lockstep/raft/node.hpp"
#include "lockstep/raft/sessions.hpp"
#include "lockstep/rpc/peer.hpp"
#include "lockstep/sim/check/durability.hpp"
#include "lockstep/sim/check/linearizability.hpp"
#include "lockstep/sim/durable_view.hpp"
#include "raft_replication/kv.hpp"

#include <map>
#include <set>

namespace lockstep::scenarios {
namespace {

using namespace raft;
using peer_type = basic_rpc_peer<sim::env>;
using sim::check::value_id;

constexpr const char* cluster_name = "raft";
constexpr const char* client_purpose = "client";
constexpr std::uint32_t propose_method = 1;   // a session_request -> a session_response
constexpr std::uint32_t read_method = 2;      // a key -> a value; not found: nothing
constexpr std::uint32_t change_method = 3;    // a change_list; none: leave the joint configuration
constexpr std::uint32_t transfer_method = 4;  // a node
constexpr std::uint32_t refused_leader = 1;   // somebody else leads, or nobody
constexpr std::uint32_t refused_unknown = 2;

value_id value_of(std::string_view text) {
  value_id number = 0;
  std::from_chars(text.data(), text.data() + text.size(), number);
  return number;
}

struct member;

// What is known of the group from outside, and what must hold there.
struct known {
  explicit known(sim::simulation& of) : run(of) {}

  sim::simulation& run;
  node_options options;
  std::size_t keys = 1;
  std::size_t filler = 1;              // values are longer by chance, up to so many bytes
  duration slow = 100ms;               // between the questions of a client, at most
  std::size_t members = 3;             // at first
  std::size_t nodes = 3;               // those, and others that may become members
  node_id damaged = 0;                 // whose disk has lost what was on it; the group has other copies
  index_t held_by_damaged = 0;         // acknowledged before that, and not asked for again yet
  node_id witness = 0;                 // the only one that may become a witness
  bool changes = false;                // of the members, and transfers, for now
  std::vector<member*> live;           // by id - 1; null: down
  std::vector<position> applied;       // by index - 1, by whichever node was first
  std::vector<std::uint64_t> answers;  // of each client
  value_id values = 0;
  std::uint64_t conversations = 0;
  sim::check::kv_history history;
  std::vector<sim::durable_view> disks;
  std::vector<std::unique_ptr<sim::check::durability_oracle<sim::durable_view>>> oracles;

  std::map<term_t, node_id> leaders;
  std::map<term_t, index_t> committed_in;                      // as far as nodes of that term knew
  std::map<std::pair<term_t, index_t>, std::uint64_t> chains;  // of records at the ends of logs
  std::map<node_id, std::pair<term_t, index_t>> led;           // by whom, how far its log reached then
  placed_configuration in_force;                               // the last that is known to be committed
  std::vector<placed_configuration> may_come;                  // behind it in somebody's log

  [[nodiscard]] std::uint64_t now() const { return static_cast<std::uint64_t>(run.in().elapsed().count()); }
  [[nodiscard]] std::string text_of(value_id value) const {
    return value == sim::check::absent ? "" : std::to_string(value) + std::string(value * 7919 % filler, '.');
  }
  /// As the last leader knows them; nobody, when nobody leads.
  [[nodiscard]] configuration now_members() const;

  // State machine safety: no two nodes apply different records of one index (paper, figure 3).
  void saw(const position& at) {
    if (applied.size() < at.index) applied.resize(at.index);
    position& first = applied[at.index - 1];
    if (first.index == 0) first = at;
    sim::simulation::require(first == at,
                             "two nodes have applied different records of index " + std::to_string(at.index));
  }

  // What is acknowledged is durable on a quorum: of the members when it was committed, and so of those in force now, or
  // of those that count already.
  void acknowledged(const position& at, const configuration& committed, const configuration& counting) {
    const auto holds = [&](node_id id) -> std::optional<bool> {
      auto& oracle = *oracles[id - 1];
      if (id == damaged) return true;
      if (id != witness) return !oracle.must_hold(at);
      const std::optional<position> last = oracle.last_durable();  // its records are its own
      return last && last->index >= at.index;
    };
    const bool enough =
        committed.voters.vote(holds) == vote_result::won || counting.voters.vote(holds) == vote_result::won;
    sim::simulation::require(
        enough, "record " + std::to_string(at.index) + " was acknowledged, and is not durable on a quorum");
  }

  void keep_looking() {
    look();
    run.in().at(run.in().elapsed() + 5ms, [this] { keep_looking(); });
  }
  void look();
  void look_at(const member& at);
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

std::string address_of(node_id id) { return "n" + std::to_string(id) + ":7000"; }

struct member {
  member(sim::env& on, known& in) : env(on), group(in), sessions(keys), seen{sessions, in} {}
  member(const member&) = delete;
  ~member() {
    if (node) group.live[node->core().id() - 1] = nullptr;
  }

  using machine_type = watched<raft::sessions<kv::machine>>;
  using node_type = basic_node<sim::env, machine_type>;

  sim::env& env;
  known& group;
  kv::machine keys;
  raft::sessions<kv::machine> sessions;
  machine_type seen;
  std::unique_ptr<node_type> node;
  rpc_service service;

  static void refuse(rpc_reply& out, std::error_code why) {
    out.fail(why == errc::timed_out ? refused_unknown : refused_leader, why.message());
  }

  awaitable<void> propose(const rpc_request& in, rpc_reply& out) {
    const raft::outcome done = co_await node->propose(in.arguments, 2s);
    if (!done.ok()) {
      refuse(out, done.error);
      co_return;
    }
    group.acknowledged(done.at, node->core().members_at(node->core().commit()), node->core().members());
    out.body().append(done.result.view());
  }

  awaitable<void> read(const rpc_request& in, rpc_reply& out) {
    const std::error_code ec = co_await node->read_barrier(2s);
    if (ec) {
      refuse(out, ec);
      co_return;
    }
    if (const kv::item* const found = keys.find(as_text(in.arguments))) out.body().append(as_bytes(found->value));
  }

  awaitable<void> change_members(const rpc_request& in, rpc_reply& out) {
    const std::optional<change_list> list = decode_changes(in.arguments);
    sim::simulation::require(list.has_value(), "a list of changes came as another one");
    change_error why{};
    std::error_code ec = errc::not_leader;
    if (!group.changes) {
      // What was asked for in time, and came too late.
    } else if (list->changes.empty())
      ec = co_await node->leave_joint(2s, why);
    else
      ec = co_await node->change_members(*list, 2s, why);
    if (ec) refuse(out, ec);
  }

  awaitable<void> transfer(const rpc_request& in, rpc_reply& out) {
    const std::error_code ec = co_await node->transfer(load_le<node_id>(in.arguments.data()));
    if (ec) refuse(out, ec);
  }
};

configuration known::now_members() const {
  term_t newest = 0;
  configuration found;
  for (const member* const each : live) {
    if (!each || each->node->core().role() != role::leader || each->node->core().term() <= newest) continue;
    newest = each->node->core().term();
    found = each->node->core().members();
  }
  return found;
}

void known::look() {
  for (const member* const each : live) {
    if (each) look_at(*each);
  }
}

// What holds of every node at any time (paper, figure 3).
void known::look_at(const member& at) {
  const auto& core = at.node->core();
  const std::string name = "node " + std::to_string(core.id());
  const std::string broken = at.node->settled() ? core.broken_rule() : "";
  sim::simulation::require(broken.empty(), name + ": " + broken);
  // Log matching: a record's chain stands for all that is before it.
  const position last = at.node->log().last();
  if (core.id() != witness && last.index != 0) {
    const auto [first, is_new] = chains.try_emplace({last.epoch, last.index}, last.chain);
    sim::simulation::require(first->second == last.chain, name + " has another history up to record " +
                                                              std::to_string(last.index) + " of the same term");
  }
  const placed_configuration its{core.members_index(), core.members()};
  if (its.index > in_force.index) {
    if (its.index <= core.commit()) {
      in_force = its;
      std::erase_if(may_come, [&](const auto& each) { return each.index <= its.index; });
    } else if (std::none_of(may_come.begin(), may_come.end(),
                            [&](const auto& each) { return each.index == its.index && each.config == its.config; })) {
      may_come.push_back(its);
    }
  }
  index_t& upto = committed_in[core.term()];
  upto = std::max(upto, core.commit());
  if (core.role() != role::leader) return;
  const auto [leader, is_new] = leaders.try_emplace(core.term(), core.id());
  sim::simulation::require(leader->second == core.id(), "two nodes have led term " + std::to_string(core.term()));
  auto& [term, reached] = led[core.id()];
  if (std::exchange(term, core.term()) == core.term()) {
    sim::simulation::require(last.index >= reached, name + " has taken records back while it led");
  } else {
    // Leader completeness; what it has instead would be applied, and seen. A late answer may elect it when a later one
    // leads, and has committed more.
    for (const auto& [in_term, index] : committed_in) {
      sim::simulation::require(in_term >= core.term() || last.index >= index,
                               name + " leads and lacks a committed record");
    }
  }
  reached = last.index;
}

awaitable<void> live(sim::env& on, known& in, node_id id) {
  member self(on, in);
  node_options options = in.options;
  options.core.id = id;
  options.witness = id == in.witness;
  for (node_id each = 1; each <= in.members && id <= in.members; ++each) options.members[each] = address_of(each);
  self.node = co_await member::node_type::open(on, options, self.seen);
  in.live[id - 1] = &self;
  if (id == in.damaged) {
    const index_t held = std::exchange(in.held_by_damaged, 0);
    const node_status has = self.node->status();
    sim::simulation::require(has.durable >= held || has.refill >= held,
                             "a damaged node has forgotten what it has lost");
  }
  self.service.on(propose_method,
                  [&self](const rpc_request& asked, rpc_reply& out) { return self.propose(asked, out); });
  self.service.on(read_method, [&self](const rpc_request& asked, rpc_reply& out) { return self.read(asked, out); });
  self.service.on(change_method,
                  [&self](const rpc_request& asked, rpc_reply& out) { return self.change_members(asked, out); });
  self.service.on(transfer_method,
                  [&self](const rpc_request& asked, rpc_reply& out) { return self.transfer(asked, out); });
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

// Disks fail and fill up; but only one is damaged, and nobody breaks Raft's rules.
void may_end(const known& in, sim::node& ended) {
  if (!ended.failure()) return;
  try {
    std::rethrow_exception(ended.failure());
  } catch (const std::system_error& error) {
    const bool is_ours = error.code().category() == lockstep_category();
    const bool forgiven = !is_ours || error.code() == errc::log_failed || error.code() == errc::closed ||
                          (error.code() == errc::corrupt && ended.index + 1 == in.damaged);
    sim::simulation::require(forgiven, ended.name + " has ended: " + error.what());
  }
}

// --- Clients ----------------------------------------------------------------------------------------------------

struct client {
  std::uint64_t number = 0;
  std::uint64_t conversation = 0;  // of one session
  session_id session = 0;
  std::uint64_t sequence = 0;
};

awaitable<rpc_status> ask_once(sim::env& on, node_id whom, std::uint32_t method, bytes_view arguments,
                               byte_buffer& result) {
  const address there("n" + std::to_string(whom), 7000);
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

// Whoever leads, as far as anybody sees that; now and then anybody. @return false: nobody answered.
awaitable<bool> ask(sim::env& on, known& in, std::uint32_t method, bytes_view arguments, byte_buffer& result,
                    std::size_t tries) {
  for (; tries != 0; --tries) {
    node_id whom = 1 + on.random() % in.nodes;
    const bool anybody = on.random() % 4 == 0;
    if (!anybody && !in.leaders.empty()) whom = in.leaders.rbegin()->second;
    try {
      result.clear();
      const rpc_status status = co_await ask_once(on, whom, method, arguments, result);
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
  open.limits.max_response_bytes = 20'000;  // more than any value
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
  const std::string text = in.text_of(value), old = in.text_of(expected);
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

// --- Changes ----------------------------------------------------------------------------------------------------

void draw_change(known& in, const configuration& now, sim::env& on, change_list& list) {
  raft::change one;
  one.node = 1 + on.random() % in.nodes;
  one.address = address_of(one.node);
  const bool is_voter = now.voters.contains(one.node);
  if (now.is_member(one.node) && (is_voter || on.random() % 3 == 0))
    one.type = change_type::remove;
  else if (one.node == in.witness)
    one.type = change_type::add_witness;
  else if (now.is_member(one.node) || on.random() % 2 == 0)
    one.type = change_type::add_voter;
  else
    one.type = change_type::add_learner;
  list.changes.push_back(std::move(one));
}

// Never to fewer than three voters when there were more, so that there is somebody who can fail.
bool is_fine(const known& in, const configuration& now, const change_list& list) {
  const change_result after = raft::apply(now, list);
  return after && after.config.voters.incoming.size() >= std::min<std::size_t>(in.members, 3);
}

awaitable<void> change_something(sim::env& on, known& in) {
  const configuration now = in.now_members();
  byte_buffer request, result;
  if (on.random() % 4 == 0) {
    store_le<node_id>(request.extend(sizeof(node_id)), 1 + on.random() % in.nodes);
    (void)co_await ask(on, in, transfer_method, request.view(), result, 2);
    co_return;
  }
  change_list list;
  if (now == configuration()) co_return;
  if (!now.is_joint()) {
    for (std::uint64_t count = 1 + on.random() % 2; count != 0; --count) draw_change(in, now, on, list);
    list.how = needed_transition(now, list.changes);
    const std::uint64_t other = on.random() % 6;
    if (other == 0) list.how = transition::joint_explicit;
    if (other == 1) list.how = transition::joint_auto_leave;
    if (!is_fine(in, now, list)) co_return;
  }
  encode_changes(request, list);
  (void)co_await ask(on, in, change_method, request.view(), result, 3);
}

awaitable<void> administer(sim::env& on, known& in) {
  for (;;) {
    co_await pause(on, std::chrono::milliseconds(200 + on.random() % 3000));
    if (in.changes) co_await change_something(on, in);
  }
}

// --- The scenario -----------------------------------------------------------------------------------------------

// Where the records up to `last` end in a segment file.
std::uint64_t end_of_records(bytes_view segment, index_t last) {
  std::uint64_t end = log_format::segment_header_bytes;
  while (end + log_format::record_header_bytes <= segment.size()) {
    const auto header = log_codec::decode_header(segment.data() + end);
    if (!header || header->index > last) break;
    end += header->total_bytes();
  }
  return end;
}

// A machine that loses power, and a bit of what its newest snapshot stands for, in the segment where its log ends.
// @return whether there was such a bit.
bool damage_below_snapshot(known& in, node_id id, sim::random_stream& random) {
  sim::node& target = *in.run.in().nodes()[id - 1];
  const member* const life = in.live[id - 1];
  std::vector<std::string> files = target.storage.files();
  std::erase_if(files, [](const std::string& path) { return !path.ends_with(".seg"); });
  if (!life || files.empty()) return false;
  const std::uint64_t end = end_of_records(*target.storage.bytes(files.back()), life->node->snapshot_index());
  if (end == log_format::segment_header_bytes) return false;
  in.held_by_damaged = life->node->log().acked().index;
  const std::uint64_t where = random.between(log_format::segment_header_bytes, end - 1);
  target.lose_power(sim::power_cut::seeded(random()));
  target.storage.flip_bit(files.back(), where);
  in.damaged = id;
  target.start();
  return true;
}

// One file of a process that has just died, so that the log's watermark tells of all that it has acknowledged: what no
// log could know to be missing, this one does not promise to miss. After a power loss it may know of no more than its
// newest snapshot stands for.
void damage(known& in, node_id id, sim::random_stream random) {
  sim::node& target = *in.run.in().nodes()[id - 1];
  std::vector<std::string> files = target.storage.files();
  std::erase_if(files, [&](const std::string& path) {
    return target.storage.bytes(path)->empty() || !(path.ends_with(".seg") || path.ends_with(".snap"));
  });
  if (!target.running() || files.empty()) return;
  if (random.chance(0.5) && damage_below_snapshot(in, id, random)) return;
  target.crash();
  in.damaged = id;
  const std::string path = files[random.below(files.size())];
  const std::vector<std::byte> bytes = *target.storage.bytes(path);
  if (random.chance(0.3))
    target.storage.replace(path, bytes_view(bytes).first(random.below(bytes.size())));
  else
    (void)target.storage.rot(path, random);
  target.start();
}

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

// Every member catches up with what was committed by now.
void all_catch_up(known& in) {
  in.look();
  const index_t wanted = in.applied.size();
  std::string lacking;
  const auto caught_up = [&] {
    const configuration members = in.now_members();
    lacking = members == configuration() ? "nobody leads" : "";
    members.for_each_member([&](node_id id) {
      const index_t has = in.live[id - 1] ? in.live[id - 1]->node->applied() : 0;
      if (has < wanted) lacking += "node " + std::to_string(id) + " has " + std::to_string(has) + ", ";
    });
    return lacking.empty();
  };
  const bool all = in.run.in().run_until(caught_up, 60s);
  sim::simulation::require(
      all, "not every member has caught up with record " + std::to_string(wanted) + " within 60 s: " + lacking);
}

// Whom the others can do without, whichever of the last configurations comes to be. Witnesses may be needed by others
// who have less than those who fail now.
std::vector<sim::node*> draw_survivors(known& in, sim::random_stream& random) {
  in.look();
  std::set<node_id> failed;
  if (in.damaged != 0) failed.insert(in.damaged);  // it may not vote yet
  const auto survives = [&](node_id id) -> std::optional<bool> { return !failed.contains(id); };
  for (node_id id = 1; id <= in.nodes; ++id) {
    if (!random.chance(0.5) || id == in.damaged) continue;
    failed.insert(id);
    const auto goes_on = [&](const placed_configuration& each) {
      const configuration& config = each.config;
      return config.voters.vote(survives) == vote_result::won &&
             (config.witnesses.empty() || !config.voters.contains(id) || config.witnesses.contains(id));
    };
    const bool go_on = goes_on(in.in_force) && std::all_of(in.may_come.begin(), in.may_come.end(), goes_on);
    if (!go_on) failed.erase(id);
  }
  std::vector<sim::node*> survivors;
  for (const auto& each : in.run.in().nodes()) {
    if (!failed.contains(each->index + 1)) survivors.push_back(each.get());
  }
  return survivors;
}

void draw_options(known& in, sim::random_stream random) {
  in.members = std::array<std::size_t, 6>{3, 3, 3, 5, 7, 1}[random.below(6)];
  const bool spares = random.chance(0.6);
  in.nodes = in.members + (spares ? 1 + random.below(2) : 0);
  if (spares && random.chance(0.4)) in.witness = in.nodes;
  in.changes = spares || random.chance(0.3);
  in.keys = 1 + random.below(5);
  in.filler = random.chance(0.3) ? 10'000 : 1;
  in.slow = std::chrono::milliseconds(10 + random.below(300));
  in.options.cluster = cluster_name;
  in.options.directory = "/data";
  in.options.log = drawn_log_options(in.run.random("log options"));
  in.options.log.max_unsynced_bytes = 16u << 20;
  in.options.snapshot_after_bytes = random.chance(0.3) ? 0 : std::uint64_t{500} << random.below(6);
  in.options.keep_log_bytes = random.below(2) * (std::uint64_t{8} << 10);
  in.options.snapshots.block_bytes = std::uint32_t{256} << random.below(9);
  in.options.max_batch_bytes = std::size_t{1} << (8 + random.below(10));
  core_options& core = in.options.core;
  core.election_timeout = std::chrono::milliseconds(300 + random.below(1000));
  core.heartbeat_interval = core.election_timeout / 10;
  core.disk_stall_timeout = core.election_timeout * (1 + random.below(10));
  core.in_flight.messages = 1 + random.below(8);
  if (random.chance(0.4)) core.lease_drift = 0.05;  // as much as clocks drift here
  if (random.chance(0.2)) core.quiesce_after = core.election_timeout;
  if (random.chance(0.2)) core.max_uncommitted_bytes = 2000;
}

void run(sim::simulation& of) {
  const auto in_owner = std::make_shared<known>(of);
  known& in = *in_owner;
  of.keep(in_owner);
  draw_options(in, of.random("group"));
  of.on_end = [&in](sim::node& ended) { may_end(in, ended); };
  in.live.resize(in.nodes);
  sim::random_stream random = of.random("clients");
  const std::size_t clients = 1 + random.below(4);
  in.answers.resize(clients);
  for (node_id id = 1; id <= in.nodes; ++id) {
    sim::node& made = of.add("n" + std::to_string(id), [&in, id](sim::env& on) { return live(on, in, id); });
    in.disks.emplace_back(made.storage);
  }
  for (sim::durable_view& each : in.disks) {
    in.oracles.push_back(std::make_unique<sim::check::durability_oracle<sim::durable_view>>(each, "/data/log"));
  }
  for (std::size_t i = 0; i < clients; ++i) {
    of.add("client" + std::to_string(i + 1), [&in, i](sim::env& on) { return ask_forever(on, in, i); });
  }
  of.add("operator", [&in](sim::env& on) { return administer(on, in); });
  in.keep_looking();

  if (in.members >= 3 && in.witness == 0 && random.chance(0.3)) {
    const node_id victim = 1 + random.below(in.members);
    const auto when = std::chrono::milliseconds(5000 + random.below(35'000));
    of.in().at(when, [&in, victim, dice = of.random("damage")] { damage(in, victim, dice); });
  }
  sim::fault_plan_options faults;
  faults.lasts = 45s;
  of.chaos(faults);
  in.changes = false;
  of.calm(draw_survivors(in, random));
  served_again(in, "after the faults, by a quorum");
  of.calm();
  served_again(in, "after all faults");
  all_catch_up(in);
  sim::simulation::require(sim::check::check_linearizable(in.history).broken());
}

}  // namespace

sim::scenario raft_group() {
  return {"raft", "Raft nodes, with snapshots, and clients with sessions, through every fault", &run};
}

}  // namespace lockstep::scenarios
