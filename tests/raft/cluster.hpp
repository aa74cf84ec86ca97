// A Raft group of pure cores for tests: logs in memory, a network, disks and clocks that do what the test says or what
// chance brings, and Raft's rules checked after every step (rules.hpp).
#pragma once

#include "memory_log.hpp"
#include "rules.hpp"

#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

namespace lockstep::raft::test {

/// The network between two nodes, one way: what was sent and has not arrived.
using link_queue = std::deque<message>;

class cluster {
 public:
  instant now{};
  std::map<node_id, node> nodes;
  std::map<std::pair<node_id, node_id>, link_queue> links;
  std::set<std::pair<node_id, node_id>> cut;     // directed
  std::map<std::uint64_t, released_read> reads;  // answered
  raft::test::rules rules{nodes};
  bool ships_at_once = true;     // perform() also ships whatever may be shipped
  bool installs_at_once = true;  // a snapshot that is wanted is there at once; or when install() is called
  std::set<node_id> slow_disks;  // settle() does not wait for these
  std::set<node_id> paused;      // nothing arrives there, and it sees no time pass

  cluster() = default;
  cluster(const cluster&) = delete;
  /// Nodes 1 to `voters`, all up.
  explicit cluster(node_id voters, const core_options& like = {}) : cluster(first_voters(voters), like) {}
  /// The members of `first`, all up.
  explicit cluster(const configuration& first, const core_options& like = {}) {
    first.for_each_member([&](node_id id) { add(id, like, first); });
  }
  static configuration first_voters(node_id count) {
    configuration all;
    for (node_id id = 1; id <= count; ++id) all.voters.incoming.insert(id);
    return all;
  }

  /// A node that is down has a log from elsewhere: records of these terms, all durable.
  void give(node_id id, std::initializer_list<term_t> terms) {
    node& to = nodes.at(id);
    to.core.reset();
    for (const term_t term : terms) {
      to.log.append(term, data_record, as_bytes("given"));
      to.hard.term = term;
    }
    to.log.sync(to.log.last().index);
    start(to);
  }

  node& add(node_id id, core_options options, configuration bootstrap = {}) {
    node& made = nodes[id];
    made.id = id;
    options.id = id;
    options.seed = id * 7919;
    made.options = options;
    made.bootstrap = std::move(bootstrap);
    start(made);
    return made;
  }

  void start(node& of) {
    stored_state stored;
    stored.hard = of.hard;
    if (of.snap) {
      stored.commit = of.snap->at.index;
      stored.configurations.push_back({of.snap->at.index, of.snap->config});
    } else {
      stored.configurations.push_back({0, of.bootstrap});
    }
    for (index_t i = std::max(stored.commit, of.log.base().index) + 1; i <= of.log.last().index; ++i) {
      if (of.log.kind_of(i) != config_record) continue;
      stored.configurations.push_back({i, *decode_configuration(of.log.payload_of(i))});
    }
    of.core = std::make_unique<core_type>(of.options, of.log, std::move(stored), clock(of.id));
    rules.started(of, clock(of.id));
    lose_connections(of.id);
  }
  void start(node_id id) { start(nodes.at(id)); }
  void crash(node_id id, bool power = true) {
    node& of = nodes.at(id);
    of.core.reset();
    if (power) of.log.lose_power();
    wanted_snapshots_.erase(id);
    std::erase_if(asked_, [id](const auto& each) { return each.second.by == id; });
    lose_connections(id);
  }
  /// Its disk has lost all behind `kept`, and it knows. (design: C6)
  void damage(node_id id, index_t kept) {
    node& of = nodes.at(id);
    crash(id);
    of.options.must_refill = std::max(of.options.must_refill, of.log.acked().index);
    of.log.truncate(std::max(kept, of.log.base().index));
  }

  core_type& operator[](node_id id) { return *nodes.at(id).core; }
  [[nodiscard]] bool up(node_id id) const { return nodes.at(id).core != nullptr; }
  [[nodiscard]] index_t last(node_id id) const { return nodes.at(id).log.last().index; }
  /// The node's own clock.
  [[nodiscard]] instant clock(node_id id) const { return nodes.at(id).clock(now); }

  /// What a driver does with effects; then the rules.
  void perform(node_id id, const effects& of) {
    node& at = nodes.at(id);
    carry_out(at, of);
    rules.hold(at, clock(id));
    if (ships_at_once) ship(id);
  }

  /// A leader sends whatever may be sent. @return whether there was anything.
  bool ship(node_id id, std::size_t most_records = 5) {
    node& at = nodes.at(id);
    bool sent = false;
    if (!at.core || at.core->role() != role::leader) return sent;
    for (auto& [to, other] : nodes) {
      if (to != id) sent = ship(id, to, most_records) || sent;
    }
    return sent;
  }
  bool ship(node_id id, node_id to, std::size_t most_records = 5) {
    node& at = nodes.at(id);
    for (bool any = false;; any = true) {
      const append_plan plan = at.core->next_append(to);
      message made;
      made.from = id;
      made.to = to;
      made.term = at.core->term();
      made.commit = plan.commit;
      switch (plan.send) {
        case append_plan::what::nothing: return any;
        case append_plan::what::snapshot:
          if (!at.snap || at.snap->at.index < plan.next - 1) return any;
          made.type = message_type::snapshot_offer;
          made.at = at.snap->at;
          at.core->snapshot_sent(to, made.at.index);
          post(made);
          return true;
        case append_plan::what::records:
        case append_plan::what::commit: {
          made.type = message_type::append;
          made.at = *at.log.position_at(plan.next - 1);
          if (plan.send == append_plan::what::records) {
            const std::size_t most = std::min<std::size_t>(most_records, plan.last - plan.next + 1);
            made.records = at.log.batch(plan.next, most, plan.payloads);
          }
          const index_t last = made.records.empty() ? plan.next - 1 : made.records.last();
          at.core->sent(to, last, made.records.bytes().size(), plan);
          post(made);
        }
      }
    }
  }

  /// A message as `from` would send it now, of its term.
  [[nodiscard]] message made(message_type type, node_id from, node_id to) const {
    message made;
    made.type = type;
    made.from = from;
    made.to = to;
    made.term = nodes.at(from).hard.term;
    return made;
  }
  /// The first message of this type that is under way, which then is not any more.
  std::optional<message> take(message_type type, node_id from, node_id to) {
    auto& queue = links[{from, to}];
    const auto found = std::find_if(queue.begin(), queue.end(), [type](const message& of) { return of.type == type; });
    if (found == queue.end()) return std::nullopt;
    const message taken = *found;
    queue.erase(found);
    return taken;
  }
  void post(const message& of) {
    if (!cut.contains({of.from, of.to}) && nodes.contains(of.to) && up(of.to)) links[{of.from, of.to}].push_back(of);
  }
  bool deliver(node_id from, node_id to) {
    auto& queue = links[{from, to}];
    if (queue.empty()) return false;
    const message arrived = std::move(queue.front());
    queue.pop_front();
    if (up(to)) receive(arrived);
    return true;
  }
  void receive(const message& of) {
    node& to = nodes.at(of.to);
    const effects& answer = to.core->receive(of, clock(of.to));
    rules.received(to, of, answer, clock(of.to));
    if (answer.offer_accepted) wanted_snapshots_[of.to] = snapshots_.at(of.at.index);
    perform(of.to, answer);
    if (installs_at_once) install(of.to);
  }
  /// The bytes of the snapshot that the node wants have come, if it still needs them.
  void install(node_id id) {
    const auto wanted = wanted_snapshots_.find(id);
    if (wanted == wanted_snapshots_.end()) return;
    node& to = nodes.at(id);
    const snapshot sent = std::move(wanted->second);
    wanted_snapshots_.erase(wanted);
    if (!to.core->needs_snapshot(sent.at)) return;
    to.log.reset(sent.at);
    to.snap = sent;
    perform(id, to.core->installed(sent.at, sent.config, clock(id)));
  }
  void sync(node_id id) {
    node& of = nodes.at(id);
    of.log.sync(of.log.last().index);
    if (of.core) perform(id, of.core->persisted(clock(id)));
  }
  void lose_connection(node_id a, node_id b) {
    links[{a, b}].clear();
    links[{b, a}].clear();
    if (up(a)) perform(a, (*this)[a].disconnected(b, clock(a)));
    if (up(b)) perform(b, (*this)[b].disconnected(a, clock(b)));
  }
  void lose_connections(node_id id) {
    for (const auto& [other, unused] : nodes) {
      if (other != id) lose_connection(id, other);
    }
  }
  /// Nothing that `from` sends reaches `to`.
  void cut_off(node_id from, node_id to) {
    cut.insert({from, to});
    links[{from, to}].clear();
  }
  void isolate(node_id id) {
    for (const auto& [other, unused] : nodes) {
      if (other == id) continue;
      cut_off(id, other);
      cut_off(other, id);
    }
  }
  /// All can reach all, by new connections.
  void heal() {
    for (const auto& [from, to] : std::exchange(cut, {})) lose_connection(from, to);
  }
  /// A snapshot of what is committed, and the log without it.
  void compact(node_id id) {
    node& of = nodes.at(id);
    const index_t at = std::min(of.core->commit(), of.log.acked().index);
    if (at <= of.log.base().index) return;
    of.snap = snapshots_[at] = {*of.log.position_at(at), of.core->members_at(at)};
    of.log.compact(at + 1);
  }

  /// Everything that is under way arrives and becomes durable, until nothing is.
  void settle() {
    int rounds = 0;
    for (bool any = true; any;) {
      require(++rounds < 10000, "messages beget messages for ever");
      any = false;
      for (auto& [id, of] : nodes) {
        if (!of.core) continue;
        if (of.log.acked() != of.log.last() && !slow_disks.contains(id) && !paused.contains(id)) sync(id), any = true;
        any = ship(id) || any;
      }
      for (auto& [ends, queue] : links) {
        while (!paused.contains(ends.second) && deliver(ends.first, ends.second)) any = true;
      }
    }
  }
  /// Time passes for this node alone, until it has something to do.
  void wake(node_id id) {
    now = std::max(now, (*this)[id].deadline());
    tick(id);
  }
  void tick(node_id id) {
    node& of = nodes.at(id);
    const bool led = of.core->role() == role::leader;
    perform(id, of.core->tick(clock(id)));
    rules.ticked(of, led, clock(id));
  }
  void tick_all(instant by) {
    now += by;
    for (auto& [id, of] : nodes) {
      if (of.core && !paused.contains(id)) tick(id);
    }
  }
  /// Lets time pass, with everything working that is not cut off.
  bool run_until(const std::function<bool()>& condition, instant limit = std::chrono::seconds(60)) {
    const instant end = now + limit;
    while (!condition()) {
      if (now >= end) return false;
      tick_all(std::chrono::milliseconds(10));
      settle();
    }
    return true;
  }
  /// The leader of the highest term, when it is up; 0: there is none.
  [[nodiscard]] node_id leader() const {
    node_id found = 0;
    term_t term = 0;
    for (const auto& [id, of] : nodes) {
      if (of.core && of.core->role() == role::leader && of.core->term() > term) found = id, term = of.core->term();
    }
    return found;
  }
  /// The nodes beside the leader, from 1 on.
  [[nodiscard]] node_id follower(std::size_t which = 1) const {
    for (const auto& [id, unused] : nodes) {
      if (id != leader() && --which == 0) return id;
    }
    return 0;
  }
  /// This node leads.
  void elect(node_id id) {
    require(run_until([&] {
              if (leader() == 0) wake(id), settle();
              return leader() == id && (*this)[id].commit() == last(id);
            }),
            "node ", id, " does not lead");
  }
  node_id elect() {
    const bool elected = run_until([&] { return leader() != 0 && (*this)[leader()].commit() == last(leader()); });
    require(elected, "no leader");
    return leader();
  }

  bool propose(node_id id, std::string_view text) {
    std::error_code ec;
    const effects& wanted = (*this)[id].propose(data_record, as_bytes(text), ec);
    if (!ec) {
      const handover& last = handovers_[id];
      const bool gives_way =
          last.term == (*this)[id].term() && clock(id) < last.until && (*this)[id].progress_of(last.to) != nullptr;
      require(!gives_way, "node ", id, " takes a proposal while it gives way to another leader");
    }
    perform(id, wanted);
    return !ec;
  }
  /// Asks for an index to read at; `reads` will have it.
  std::error_code read(node_id id, std::uint64_t read_id) {
    std::error_code ec;
    asked_[read_id] = {id, rules.committed.size(), clock(id)};
    const effects& answer = (*this)[id].read(read_id, clock(id), ec);
    if (ec) asked_.erase(read_id);
    const bool leads = (*this)[id].role() == role::leader;
    if (leads && !answer.reads.empty() && answer.reads.back().id == read_id) rules.served(nodes.at(id), now);
    perform(id, answer);
    return ec;
  }
  /// Every read has an answer, or nobody waits for it any more.
  [[nodiscard]] bool all_reads_answered() const {
    return std::all_of(asked_.begin(), asked_.end(), [this](const auto& each) { return reads.contains(each.first); });
  }
  change_error change_members(node_id id, const change_list& changes, std::error_code& ec) {
    change_error why{};
    perform(id, (*this)[id].change_members(changes, ec, why));
    return why;
  }
  std::error_code transfer(node_id id, node_id to) {
    std::error_code ec;
    perform(id, (*this)[id].transfer(to, clock(id), ec));
    if (!ec && to != id) handovers_[id] = {to, (*this)[id].term(), clock(id) + nodes.at(id).options.heartbeat_interval};
    return ec;
  }

 private:
  void carry_out(node& at, const effects& of) {
    require(of.broken.empty(), "node ", at.id, ": ", of.broken);
    const effects doing = of;  // what is done may be another input
    if (doing.persist) at.hard = *doing.persist;
    const index_t first_lost = doing.truncate.value_or(at.log.last().index) + 1;
    const std::optional<position> was = at.log.position_at(first_lost);
    if (doing.truncate) at.log.truncate(*doing.truncate);
    const index_t before = at.log.last().index;
    require(at.log.append(doing.append), "node ", at.id, " is to append what does not continue its log");
    if (was) rules.truncated(at, *was);
    for (const own_record& each : doing.append_own) at.log.append(at.core->term(), each.kind, each.payload);
    for (index_t i = before + 1; !doing.append.empty() && i <= at.log.last().index; ++i) {
      if (at.log.kind_of(i) == config_record) {
        carry_out(at, at.core->adopt(i, *decode_configuration(at.log.payload_of(i))));
      }
    }
    for (const message& each : doing.send) {
      rules.sent(at, each);
      post(each);
    }
    for (const released_read& each : doing.reads) {
      require(each.index == 0 || each.index >= asked_[each.id].committed,
              "a read misses what was committed when it was asked for (dissertation, 6.4)");
      if (each.index != 0 && at.core->role() == role::leader && at.options.lease_drift <= 0) {
        rules.confirmed(at, asked_[each.id].at);
      }
      reads[each.id] = each;
    }
  }

  std::map<index_t, snapshot> snapshots_;  // that anybody has made
  std::map<node_id, snapshot> wanted_snapshots_;
  struct asked_read {
    node_id by = 0;
    std::size_t committed = 0;  // then
    instant at{};
  };
  std::map<std::uint64_t, asked_read> asked_;
  struct handover {
    node_id to = 0;
    term_t term = 0;
    instant until{};
  };
  std::map<node_id, handover> handovers_;  // by whom
};

}  // namespace lockstep::raft::test
