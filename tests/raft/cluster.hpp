// A Raft group of pure cores for tests: logs in memory, a network and disks that do what the test says or what chance
// brings, and the rules of figure 3 of the Raft paper checked after every step.
#pragma once

#include "lockstep/log/codec.hpp"
#include "lockstep/raft/core.hpp"

#include <gtest/gtest.h>

#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <random>
#include <set>
#include <string>
#include <vector>

namespace lockstep::raft::test {

/// What append_log is to a core.
class memory_log {
 public:
  [[nodiscard]] position base() const { return base_; }
  [[nodiscard]] position last() const { return records_.empty() ? base_ : records_.back().at; }
  [[nodiscard]] position acked() const { return acked_; }
  [[nodiscard]] std::optional<position> position_at(index_t index) const {
    if (index == base_.index) return base_;
    if (index < base_.index || index > last().index) return std::nullopt;
    return of(index).at;
  }

  void append(epoch_t epoch, record_kind kind, bytes_view payload) {
    stored made;
    made.bytes.resize(log_format::record_bytes(payload.size()));
    made.kind = kind;
    made.at = log_codec::encode_record(made.bytes.data(), last(), epoch, kind, {&payload, 1});
    records_.push_back(std::move(made));
  }
  /// @return whether all of them continue the log.
  bool append(const record_batch& batch) {
    bytes_view rest = batch.bytes();
    while (!rest.empty()) {
      record next;
      if (log_codec::decode_record(rest, last(), next) != log_codec::record_verdict::ok) return false;
      const std::size_t size = log_format::record_bytes(next.payload.size());
      records_.push_back(
          {next.position(), next.kind, {rest.begin(), rest.begin() + static_cast<std::ptrdiff_t>(size)}});
      rest = rest.subspan(size);
    }
    return true;
  }
  [[nodiscard]] record_batch batch(index_t first, std::size_t most) const {
    auto bytes = std::make_shared<std::vector<std::byte>>();
    index_t next = first;
    for (; next <= last().index && next - first < most; ++next) {
      bytes->insert(bytes->end(), of(next).bytes.begin(), of(next).bytes.end());
    }
    return {*bytes, first, next - 1, bytes};
  }
  [[nodiscard]] record_kind kind_of(index_t index) const { return of(index).kind; }
  [[nodiscard]] bytes_view payload_of(index_t index) const {
    record found;
    (void)log_codec::decode_record(of(index).bytes, *position_at(index - 1), found);
    return found.payload;
  }

  void truncate(index_t keep) {
    records_.resize(keep - base_.index);
    if (acked_.index > keep) acked_ = last();
  }
  void compact(index_t first_kept) {
    const position base = *position_at(first_kept - 1);
    records_.erase(records_.begin(), records_.begin() + static_cast<std::ptrdiff_t>(base.index - base_.index));
    base_ = base;
  }
  void reset(const position& to) {
    records_.clear();
    base_ = acked_ = to;
  }
  void sync(index_t up_to) {
    if (up_to > acked_.index) acked_ = *position_at(std::min(up_to, last().index));
  }
  /// What is not durable is gone.
  void lose_power() { truncate(acked_.index); }

 private:
  struct stored {
    position at;
    record_kind kind = data_record;
    std::vector<std::byte> bytes;
  };
  [[nodiscard]] const stored& of(index_t index) const { return records_[index - base_.index - 1]; }

  position base_, acked_;
  std::vector<stored> records_;
};

using core_type = core<memory_log>;

struct snapshot {
  position at;
  configuration config;
};

/// A node: what survives its crashes, and its core while it is up.
struct node {
  node_id id = 0;
  core_options options;
  memory_log log;
  hard_state hard;
  std::optional<snapshot> snap;
  configuration bootstrap;
  std::unique_ptr<core_type> core;
};

/// The network between two nodes, one way: what was sent and has not arrived.
using link_queue = std::deque<message>;

class cluster {
 public:
  instant now{};
  std::map<node_id, node> nodes;
  std::map<std::pair<node_id, node_id>, link_queue> links;
  std::set<std::pair<node_id, node_id>> cut;     // directed
  std::map<std::uint64_t, released_read> reads;  // answered
  std::map<term_t, node_id> leaders;             // of every term so far
  std::vector<position> committed;               // by index - 1, by whichever node was first
  bool ships_at_once = true;                     // perform() also ships whatever may be shipped

  /// Nodes 1 to `voters`, all up.
  explicit cluster(node_id voters, const core_options& like = {}) {
    configuration all;
    for (node_id id = 1; id <= voters; ++id) all.voters.incoming.insert(id);
    for (node_id id = 1; id <= voters; ++id) add(id, like, all);
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
    of.core = std::make_unique<core_type>(of.options, of.log, std::move(stored), now);
    for (const auto& [other, unused] : nodes) lose_connection(of.id, other);
  }
  void crash(node_id id, bool power = true) {
    node& of = nodes.at(id);
    of.core.reset();
    if (power) of.log.lose_power();
    for (const auto& [other, unused] : nodes) lose_connection(id, other);
  }

  core_type& operator[](node_id id) { return *nodes.at(id).core; }
  [[nodiscard]] bool up(node_id id) const { return nodes.at(id).core != nullptr; }

  /// What a driver does with effects, and the rules.
  void perform(node_id id, const effects& of) {
    node& at = nodes.at(id);
    if (!of.broken.empty()) {
      ADD_FAILURE() << "node " << id << ": " << of.broken;
      return;
    }
    const effects doing = of;  // what is done may be another input
    if (doing.persist) at.hard = *doing.persist;
    if (doing.truncate) at.log.truncate(*doing.truncate);
    const index_t before = at.log.last().index;
    EXPECT_TRUE(at.log.append(doing.append));
    for (const own_record& each : doing.append_own) at.log.append(at.core->term(), each.kind, each.payload);
    if (!doing.append.empty()) {
      for (index_t i = before + 1; i <= at.log.last().index; ++i) {
        if (at.log.kind_of(i) == config_record) {
          perform(id, at.core->adopt(i, *decode_configuration(at.log.payload_of(i))));
        }
      }
    }
    for (const message& each : doing.send) post(each);
    for (const released_read& each : doing.reads) reads[each.id] = each;
    if (doing.offer_accepted) wants_snapshot.insert(id);
    check(at);
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
          if (plan.send == append_plan::what::records) made.records = at.log.batch(plan.next, most_records);
          const index_t last = made.records.empty() ? plan.next - 1 : made.records.last();
          at.core->sent(to, last, made.records.bytes().size(), plan);
          post(made);
        }
      }
    }
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
    perform(of.to, to.core->receive(of, now));
    if (!wants_snapshot.erase(of.to)) return;
    // The bytes of a snapshot come in one piece here.
    const std::optional<snapshot>& sent = nodes.at(of.from).snap;
    if (!sent || sent->at.index < of.at.index) return;
    to.log.reset(sent->at);
    to.snap = sent;
    perform(of.to, to.core->installed(sent->at, sent->config, now));
  }
  void sync(node_id id) {
    node& of = nodes.at(id);
    of.log.sync(of.log.last().index);
    if (of.core) perform(id, of.core->persisted(now));
  }
  void lose_connection(node_id a, node_id b) {
    links[{a, b}].clear();
    links[{b, a}].clear();
    if (up(a)) (*this)[a].disconnected(b);
    if (up(b)) (*this)[b].disconnected(a);
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
    of.snap = snapshot{*of.log.position_at(at), of.core->members_at(at)};
    of.log.compact(at + 1);
  }

  /// Everything that is under way arrives and becomes durable, until nothing is.
  void settle() {
    for (bool any = true; any;) {
      any = false;
      for (auto& [id, of] : nodes) {
        if (!of.core) continue;
        if (of.log.acked() != of.log.last()) sync(id), any = true;
        any = ship(id) || any;
      }
      for (auto& [ends, queue] : links) {
        while (deliver(ends.first, ends.second)) any = true;
      }
    }
  }
  void tick_all(instant by) {
    now += by;
    for (auto& [id, of] : nodes) {
      if (of.core) perform(id, of.core->tick(now));
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
  node_id elect() {
    EXPECT_TRUE(run_until([&] {
      const node_id id = leader();
      return id != 0 && (*this)[id].commit() == nodes.at(id).log.last().index;
    })) << "no leader";
    return leader();
  }

  bool propose(node_id id, std::string_view text) {
    std::error_code ec;
    perform(id, (*this)[id].propose(data_record, as_bytes(text), ec));
    return !ec;
  }
  std::error_code read(node_id id, std::uint64_t read_id) {
    std::error_code ec;
    perform(id, (*this)[id].read(read_id, now, ec));
    return ec;
  }

 private:
  // Figure 3 of the paper.
  void check(const node& at) {
    const core_type& core = *at.core;
    ASSERT_EQ(core.broken_rule(), "") << "node " << at.id;
    if (core.role() == role::leader) {
      const auto [known, is_new] = leaders.try_emplace(core.term(), at.id);
      ASSERT_EQ(known->second, at.id) << "two leaders in term " << core.term();
      // Leader completeness: it has all that is committed, when its term begins.
      if (is_new) {
        for (index_t i = std::max<index_t>(at.log.base().index, 1); i <= committed.size(); ++i) {
          ASSERT_EQ(at.log.position_at(i), committed[i - 1]) << "the leader lacks a committed record";
        }
      }
    }
    for (index_t i = at.log.base().index + 1; i <= core.commit(); ++i) {
      if (i > committed.size()) {
        ASSERT_EQ(i, committed.size() + 1) << "somebody has committed behind a gap";
        committed.push_back(*at.log.position_at(i));
      }
      ASSERT_EQ(*at.log.position_at(i), committed[i - 1]) << "two nodes have committed different records";
    }
  }

  std::set<node_id> wants_snapshot;
};

}  // namespace lockstep::raft::test
