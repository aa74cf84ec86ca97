#include "raft_replication/replica.hpp"

#include "common/exit_codes.hpp"
#include "common/first_failure.hpp"
#include "common/output.hpp"

#include <fmt/format.h>

#include <algorithm>

namespace lockstep::raft_replication {

using namespace std::chrono_literals;

replica::replica(real::env& env, replica_options options, event_handler on_event)
    : env_(env),
      options_(std::move(options)),
      on_event_(std::move(on_event)),
      store_(env.get_executor()),
      links_(env, options_.cluster),
      began_(env.now()) {}

awaitable<std::unique_ptr<replica>> replica::open(real::env& env, replica_options options, event_handler on_event) {
  std::unique_ptr<replica> made(new replica(env, std::move(options), std::move(on_event)));
  replica& self = *made;
  const replica_options& with = self.options_;
  std::error_code refused;
  real::acceptor acceptor = env.listen(with.listen, refused);
  if (refused) throw examples::cannot_listen(with.listen.to_string(), refused);

  raft::node_options node;
  node.core.id = with.id;
  node.core.election_timeout = with.election_timeout;
  node.core.heartbeat_interval = with.heartbeat_interval;
  node.cluster = with.cluster;
  node.directory = with.data_dir;
  node.members = with.peers;
  node.log.sync = with.sync;
  node.log.segment_bytes = with.segment_bytes;
  node.snapshot_after_bytes = with.snapshot_after_bytes;
  node.keep_log_bytes = with.keep_log_bytes;
  self.node_ = co_await node_type::open(env, std::move(node), self.store_);

  self.service_.on(ask_method, [&self](const rpc_request& in, rpc_reply& out) { return self.answer_ask(in, out); });
  self.service_.on_stream(watch_method,
                          [&self](const rpc_request& in, rpc_item_writer& out) { return self.answer_watch(in, out); });
  for (const method each : {propose_method, change_method, transfer_method}) {
    self.service_.on(each,
                     [&self, each](const rpc_request& in, rpc_reply& out) { return self.answer_led(each, in, out); });
  }
  server_options serving;
  serving.channel = self.node_->hello();
  serving.drain_timeout = 1s;
  serving.on_event = [&self](const server_event& event) {
    if (event.kind == server_event_kind::refused && event.error != asio::error::eof) {
      self.tell_refused(event);
    }
  };
  self.server_ = std::make_unique<server>(env, std::move(acceptor), std::move(serving));
  self.server_->on(raft::raft_purpose, [&self](channel& from) { return self.node_->serve(from); });
  self.server_->on(client_purpose, self.service_);
  co_return made;
}

awaitable<void> replica::run() {
  task_group running(env_.get_executor());
  running.spawn(server_->run());
  running.spawn(node_->run());
  running.spawn(observe());
  co_await running.join_passing_cancellation();
}

awaitable<void> replica::close() {
  if (std::exchange(closed_, true)) co_return;
  examples::first_failure failure;
  co_await failure.of(node_->close());
  co_await failure.of(links_.close());
  co_await failure.of(server_->close());
  failure.rethrow();
}

// It may have a peer's bytes in it.
void replica::tell(std::string_view what) {
  const std::string text = examples::escape(what);
  constexpr std::size_t most_events = 100;
  if (events_.size() == most_events) events_.pop_front();
  events_.push_back({env_.wall_now(), text});
  if (on_event_) on_event_(text);
}

// Once, however often it is tried again, each time from another port.
void replica::tell_refused(const server_event& what) {
  const std::string& from = what.peer.address;
  const std::string host = from.substr(0, from.rfind(':'));
  std::string why = what.text;
  if (const std::size_t at = why.find(from); at != std::string::npos) why.replace(at, from.size(), host);
  constexpr std::size_t most = 100;
  if (refused_.size() == most) refused_.clear();
  std::string text = "refused a connection of " + host + ": " + why;
  if (refused_.insert(text).second) tell(text);
}

// Raft's own state, as others should hear of it: each new leader, and what this node becomes.
awaitable<void> replica::observe() {
  raft::role role = raft::role::follower;
  node_id leader = 0;
  std::string why;
  index_t members_index = node_->core().members_index();
  std::map<node_id, std::string> troubles;
  time_point look_for_troubles{};
  for (;;) {
    const auto& core = node_->core();
    if (core.role() == raft::role::leader) led_at_ = env_.now();
    if (core.last_change() != why) {
      why = core.last_change();
      tell(why);
    }
    if (core.role() != role) {
      role = core.role();
      if (role != raft::role::leader) tell(fmt::format("is {} in term {}", name_of(role), core.term()));
    }
    if (core.leader() != leader) {
      // What it was asked for and has not answered, its successor is asked for.
      if (leader != 0) links_.drop(leader);
      leader = core.leader();
      if (leader != 0) elected_ = fmt::format("node {} for term {}", leader, core.term());
      ++counters_.leader_changes;
      tell(leader == 0 ? fmt::format("no leader in term {}", core.term())
                       : fmt::format("node {} leads term {}", leader, core.term()));
    }
    if (core.members_index() != members_index) {
      members_index = core.members_index();
      std::string voters;
      for (const node_id id : core.members().voters.incoming) voters += " " + std::to_string(id);
      std::string learners;
      for (const node_id id : core.members().learners) learners += " " + std::to_string(id);
      tell("members: voters" + voters + (learners.empty() ? "" : ", learners" + learners));
    }
    // Now and then: an attempt to connect that has failed is no news.
    if (const time_point now = env_.now(); now >= look_for_troubles) {
      look_for_troubles = now + 1s;
      for (const raft::member_status& each : node_->status().members) {
        std::string& known = troubles[each.id];
        if (each.trouble == known) continue;
        known = each.trouble;
        if (!known.empty()) tell(fmt::format("cannot connect to node {}: {}", each.id, known));
      }
    }
    if (co_await node_->changed(look_for_troubles)) co_return;
  }
}

// --- what others ask ---------------------------------------------------------------------------------------------

awaitable<void> replica::answer_ask(const rpc_request& in, rpc_reply& out) {
  field_reader from(in.arguments);
  const auto limit = std::chrono::milliseconds(from.number<std::uint32_t>());
  std::optional<request> asked = decode_request(from.rest());
  if (!asked) throw rpc_error(refused_malformed, "malformed request");
  const reply answer = co_await carry_out(std::move(*asked), limit);
  encode(out.body(), answer);
}

awaitable<void> replica::answer_watch(const rpc_request& in, rpc_item_writer& out) {
  store::watch watching(store_, std::string(as_text(in.arguments)));
  byte_buffer item;
  for (;;) {
    const key_change change = co_await watching.next();
    item.clear();
    field_writer(item).number(change.index).number(static_cast<std::uint8_t>(change.value ? 1 : 0));
    field_writer(item).text(change.value.value_or(std::string()));
    co_await out.write(item.view());
  }
}

awaitable<void> replica::ask_status(node_id of, std::string where, duration limit, nlohmann::ordered_json& into) {
  byte_buffer arguments;
  field_writer(arguments).number(static_cast<std::uint32_t>(limit / 1ms));
  encode(arguments, request());
  byte_buffer result;
  const rpc_status status = co_await links_.call(of, where, ask_method, arguments.view(), result, limit);
  const std::optional<reply> answer = status.ok() ? decode_reply(result.view()) : std::nullopt;
  if (answer && answer->ok()) into = nlohmann::ordered_json::parse(answer->words, nullptr, false);
  if (!into.is_object()) into = nlohmann::ordered_json::object();
  into["reached"] = answer.has_value();
  into["id"] = of;
  into["address"] = where;
}

awaitable<nlohmann::ordered_json> replica::status_with_lags(duration limit) {
  nlohmann::ordered_json told = status();
  const auto& core = node_->core();
  const auto where = core.members().addresses.find(core.leader());
  if (core.leader() == options_.id || where == core.members().addresses.end()) co_return told;
  nlohmann::ordered_json of_leader;
  co_await ask_status(core.leader(), where->second, limit, of_leader);
  if (!of_leader.contains("peers")) co_return told;
  told["last_election"] = of_leader["last_election"];
  for (nlohmann::ordered_json& peer : told["peers"]) {
    if (peer["id"] == of_leader["id"]) peer["lag"] = 0;
    for (const nlohmann::ordered_json& known : of_leader["peers"]) {
      if (known["id"] != peer["id"] || !known.contains("lag")) continue;
      for (const char* const field : {"state", "match", "lag"}) peer[field] = known[field];
    }
  }
  co_return told;
}

awaitable<nlohmann::ordered_json> replica::group_status(duration limit) {
  const std::map<node_id, std::string> addresses = node_->core().members().addresses;
  std::map<node_id, nlohmann::ordered_json> found;
  task_group asking(env_.get_executor());
  for (const auto& [id, where] : addresses) {
    if (id != options_.id) asking.spawn(ask_status(id, where, limit, found[id]));
  }
  co_await asking.join_passing_cancellation();
  found[options_.id] = status();
  found[options_.id]["reached"] = true;
  nlohmann::ordered_json all = nlohmann::ordered_json::array();
  for (auto& [id, each] : found) all.push_back(std::move(each));
  co_return all;
}

}  // namespace lockstep::raft_replication
