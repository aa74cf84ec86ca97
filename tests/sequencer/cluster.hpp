// A sequencer's group of pure cores for tests: logs in memory, a network and disks that do what the test says or what
// chance brings, leaders as the test appoints them, and the sequencer's promises checked after every step.
#pragma once

#include "lockstep/sequencer/core.hpp"
#include "raft/memory_log.hpp"

#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <sstream>
#include <stdexcept>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

namespace lockstep::sequencer::test {

using raft::test::memory_log;

struct rule_broken : std::logic_error {
  using std::logic_error::logic_error;
};

template <class... Text>
void require(bool holds, const Text&... text) {
  if (holds) return;
  std::ostringstream words;
  (words << ... << text);
  throw rule_broken(words.str());
}

using core_type = core<memory_log>;

struct delivered_message {
  position at;
  sender_id sender = 0;
  std::uint64_t n = 0;
  std::string text;

  friend bool operator==(const delivered_message&, const delivered_message&) = default;
};

/// A node: what survives its crashes, and its core while it is up.
struct node {
  node_id id = 0;
  core_options options;
  memory_log log;
  hard_state hard;
  index_t kept = 0;  // the program's state as of here is on its disk
  std::optional<sender_table> kept_senders;
  std::vector<delivered_message> program;  // all that was delivered
  std::unique_ptr<core_type> core;
  std::map<std::pair<sender_id, std::uint64_t>, answer> answers;
};

struct packet {
  message carried;
  std::string payload;
};

class cluster {
 public:
  instant now = std::chrono::seconds(1);
  std::map<node_id, node> nodes;
  std::deque<packet> wire;                    // in the order in which they were sent
  std::set<std::pair<node_id, node_id>> cut;  // directed
  std::set<node_id> slow_disks;               // settle() does not wait for these
  std::size_t most_records = 5;               // in one message
  std::vector<delivered_message> order;       // with quorum_acks: of everybody who has delivered
  std::map<std::pair<sender_id, std::uint64_t>, std::string> said;
  epoch_t epoch = 0;  // of the last leader that was appointed
  bool catches_up_at_once = true;
  std::map<node_id, node_id> to_catch_up;  // who, from whom
  std::map<node_id, int> taken_back;

  /// Nodes 1 to `count`, all up.
  explicit cluster(node_id count, core_options like = {}) : quorum_(like.quorum_acks) {
    for (node_id id = 1; id <= count; ++id) like.members.insert(id);
    for (node_id id = 1; id <= count; ++id) {
      node& made = nodes[id];
      made.id = like.id = id;
      like.seed = id * 7919;
      made.options = like;
      start(id);
    }
  }
  cluster(const cluster&) = delete;

  core_type& operator[](node_id id) { return *nodes.at(id).core; }
  [[nodiscard]] bool up(node_id id) const { return nodes.at(id).core != nullptr; }
  [[nodiscard]] index_t last(node_id id) const { return nodes.at(id).log.last().index; }

  void start(node_id id) {
    node& of = nodes.at(id);
    of.program.resize(of.kept);
    of.core = std::make_unique<core_type>(of.options, of.log, stored_state{of.hard, of.kept, of.kept_senders}, now);
    for (index_t i = of.kept + 1; i <= of.log.last().index; ++i) {
      record each;
      each.index = i;
      each.kind = of.log.kind_of(i);
      each.payload = of.log.payload_of(i);
      require(of.core->replay(each), "the log has what is no message");
    }
  }
  void crash(node_id id, bool power = true) {
    node& of = nodes.at(id);
    of.core.reset();
    if (power) of.log.lose_power();
    to_catch_up.erase(id);
    std::erase_if(wire, [id](const packet& each) { return each.carried.from == id || each.carried.to == id; });
  }
  void restart(node_id id) {
    crash(id);
    start(id);
  }
  /// The program's state is on its disk, and the log without what that stands for.
  void compact(node_id id) {
    node& of = nodes.at(id);
    of.kept = of.core->delivered();
    of.kept_senders = of.core->senders();
    if (of.kept > of.log.base().index) of.log.compact(of.kept + 1);
  }

  // --- roles, as an election would give them ---

  std::error_code appoint(node_id id, epoch_t to) {
    std::error_code ec;
    epoch = std::max(epoch, to);
    appointed_[id] = to;
    const effects& of = (*this)[id].lead(to, now, wall(), ec);
    perform(id, of);
    return ec;
  }
  std::error_code appoint(node_id id) { return appoint(id, epoch + 1); }
  /// This node leads, and everybody who can be reached has what it has.
  void elect(node_id id) {
    require(!appoint(id), "node ", id, " may not lead");
    const bool leads = run_until([&] { return (*this)[id].role() == role::leader; });
    require(leads, "node ", id, " does not lead");
    settle();
  }
  std::error_code follow(node_id id, node_id leader, epoch_t of) {
    std::error_code ec;
    perform(id, (*this)[id].follow(leader, of, now, ec));
    return ec;
  }

  // --- what is said ---

  void submit(node_id at, sender_id sender, std::uint64_t n, std::string text, std::uint64_t since = 0) {
    const auto [known, is_new] = said.try_emplace({sender, n}, std::move(text));
    perform(at, (*this)[at].submit({sender, n, since, as_bytes(known->second)}, now));
  }
  /// What was answered at this node last; nothing when nothing was.
  [[nodiscard]] std::optional<answer> answered(node_id at, sender_id sender, std::uint64_t n) const {
    const auto& answers = nodes.at(at).answers;
    const auto found = answers.find({sender, n});
    return found == answers.end() ? std::nullopt : std::optional(found->second);
  }
  [[nodiscard]] std::vector<std::string> texts(node_id id) const {
    std::vector<std::string> all;
    for (const delivered_message& each : nodes.at(id).program) all.push_back(each.text);
    return all;
  }

  // --- the world ---

  [[nodiscard]] message made(message_type type, node_id from, node_id to) const {
    message of;
    of.type = type;
    of.from = from;
    of.to = to;
    of.epoch = nodes.at(from).hard.epoch;
    return of;
  }
  /// What `leader` has behind `at`, up to `last`.
  [[nodiscard]] message records(node_id leader, node_id to, index_t at, index_t last, index_t bound = 0) const {
    message of = made(message_type::records, leader, to);
    const memory_log& log = nodes.at(leader).log;
    of.at = *log.position_at(at);
    of.index = last;
    of.bound = bound;
    if (last > at) of.records = log.batch(at + 1, last - at);
    return of;
  }
  /// The first message of this type that is under way, which then is not any more.
  std::optional<message> take(message_type type, node_id from, node_id to) {
    for (auto at = wire.begin(); at != wire.end(); ++at) {
      if (at->carried.type != type || at->carried.from != from || at->carried.to != to) continue;
      const message taken = at->carried;
      wire.erase(at);
      return taken;
    }
    return std::nullopt;
  }
  bool deliver(std::size_t which = 0) {
    if (which >= wire.size()) return false;
    packet arrived = std::move(wire[which]);
    wire.erase(wire.begin() + static_cast<std::ptrdiff_t>(which));
    receive(arrived);
    return true;
  }
  void receive(const packet& of) {
    if (!up(of.carried.to) || cut.contains({of.carried.from, of.carried.to})) return;
    message arrived = of.carried;
    arrived.payload = as_bytes(of.payload);
    perform(arrived.to, (*this)[arrived.to].receive(arrived, now));
  }
  void receive(const message& of) { receive(packet{of, std::string(as_text(of.payload))}); }
  void sync(node_id id) {
    node& of = nodes.at(id);
    of.log.sync(of.log.last().index);
    if (of.core) perform(id, of.core->persisted(now));
  }
  void isolate(node_id id) {
    for (const auto& [other, unused] : nodes) {
      if (other != id) cut.insert({id, other}), cut.insert({other, id});
    }
  }
  void heal() { cut.clear(); }
  /// Everything that is under way arrives and becomes durable, until nothing is.
  void settle() {
    int arrived = 0;
    for (bool any = true; any;) {
      any = false;
      for (; deliver(); any = true) require(++arrived < 1'000'000, "messages beget messages for ever");
      for (auto& [id, of] : nodes) {
        if (!of.core || slow_disks.contains(id) || of.log.acked() == of.log.last()) continue;
        sync(id);
        any = true;
      }
    }
  }
  void tick(node_id id) { perform(id, (*this)[id].tick(now)); }
  void pass(instant by) {
    now += by;
    for (auto& [id, of] : nodes) {
      if (of.core) tick(id);
    }
  }
  /// Lets time pass, with everything working that is not cut off.
  bool run_until(const std::function<bool()>& condition, instant limit = std::chrono::seconds(60)) {
    for (const instant end = now + limit; !condition(); settle()) {
      if (now >= end) return false;
      pass(std::chrono::milliseconds(10));
    }
    return true;
  }
  [[nodiscard]] std::uint64_t wall() const { return 1'000'000'000'000u + static_cast<std::uint64_t>(now.count()); }

  /// A node has the log of another one by other means than the sequencer's.
  void catch_up(node_id id) {
    const auto found = to_catch_up.find(id);
    if (found == to_catch_up.end() || !up(found->second)) return;
    node& of = nodes.at(id);
    node& from = nodes.at(found->second);
    to_catch_up.erase(found);
    index_t common = std::min(of.log.last().index, from.log.last().index);
    const index_t lowest = std::max(of.log.base().index, from.log.base().index);
    while (common > lowest && of.log.position_at(common) != from.log.position_at(common)) --common;
    if (common < lowest || of.log.position_at(common) != from.log.position_at(common)) {
      of.log.reset(from.log.base());
      common = from.log.base().index;
      of.kept = from.kept;
      of.kept_senders = from.kept_senders;
      of.program.assign(from.program.begin(), from.program.begin() + static_cast<std::ptrdiff_t>(from.kept));
    } else {
      of.log.truncate(common);
    }
    const index_t durable = from.log.acked().index;
    if (durable > common) require(of.log.append(from.log.batch(common + 1, durable - common)), "catch-up fails");
    of.log.sync(of.log.last().index);
    begin_again(id);
  }

  /// After every input.
  void perform(node_id id, const effects& of) {
    node& at = nodes.at(id);
    const effects doing = of;
    std::vector<packet> sent;
    for (const message& each : doing.send) sent.push_back({each, std::string(as_text(each.payload))});
    require(doing.broken.empty(), "node ", id, ": ", doing.broken);
    if (doing.truncate) {
      require(!quorum_ || *doing.truncate >= at.program.size(), "node ", id, " takes back what it has delivered");
      at.log.truncate(*doing.truncate);
    }
    for (const record_batch& each : doing.append) {
      require(at.log.append(each), "node ", id, " is to append what does not continue its log");
    }
    if (doing.append_own) append_own(at, *doing.append_own);
    if (doing.persist) {
      require(doing.persist->epoch >= at.hard.epoch && doing.persist->accepted >= at.hard.accepted, "node ", id,
              " goes back to an older epoch");
      at.hard = *doing.persist;
    }
    for (packet& each : sent) {
      leave(at, each);
    }
    if (doing.deliver) deliver_to_program(at, *doing.deliver);
    for (const answer& each : doing.answers) {
      at.answers[{each.sender, each.n}] = each;
      if (each.status == submit_status::ordered) check_answer(at, each);
    }
    if (doing.catch_up != 0) {
      to_catch_up[id] = doing.catch_up;
      require(at.core->role() == role::retired, "node ", id, " goes on while it catches up");
      if (catches_up_at_once) return catch_up(id);
    }
    if (doing.taken_back) {
      ++taken_back[id];
      at.kept = 0;
      at.kept_senders.reset();
      return begin_again(id);
    }
    check(at);
  }

 private:
  void append_own(node& at, const entry& of) {
    std::vector<std::byte> bytes(entry_head_bytes + of.payload.size());
    const auto head = encode_head(of);
    std::copy(head.begin(), head.end(), bytes.begin());
    std::copy(of.payload.begin(), of.payload.end(), bytes.begin() + entry_head_bytes);
    at.log.append(at.core->epoch(), data_record, bytes);
  }

  void leave(node& at, packet& of) {
    message& made = of.carried;
    require(made.from == at.id && made.epoch == at.hard.epoch, "node ", at.id, " speaks of what is not durable");
    if (made.type == message_type::records) {
      require(at.log.position_at(made.at.index) == made.at, "node ", at.id, " sends a position that it does not have");
      if (made.index > made.at.index) {
        const std::size_t most = std::min<std::size_t>(most_records, made.index - made.at.index);
        made.records = at.log.batch(made.at.index + 1, most);
      }
    }
    if (made.type == message_type::ack) {
      require(made.index <= at.log.acked().index, "node ", at.id, " acknowledges what is not durable");
      require(at.hard.accepted == made.epoch, "node ", at.id, " acknowledges in an epoch that it has not accepted");
    }
    if (made.type == message_type::takeover_answer) {
      require(made.at == at.log.acked(), "node ", at.id, " answers with what is not durable");
    }
    if (!cut.contains({made.from, made.to}) && up(made.to)) wire.push_back(std::move(of));
  }

  void deliver_to_program(node& at, index_t end) {
    require(end <= at.log.acked().index, "node ", at.id, " delivers what is not durable");
    require(end > at.program.size(), "node ", at.id, " delivers again");
    if (quorum_) {
      std::size_t have = 0;
      for (const auto& [id, of] : nodes) {
        have += end <= of.log.base().index ||
                (of.log.acked().index >= end && of.log.position_at(end) == at.log.position_at(end));
      }
      require(have >= at.options.members.quorum(), "node ", at.id, " delivers what no majority has durable");
    }
    while (at.program.size() < end) {
      const index_t index = at.program.size() + 1;
      const entry of = *decode_entry(at.log.payload_of(index));
      delivered_message next{*at.log.position_at(index), of.sender, of.n, std::string(as_text(of.payload))};
      require(said.contains({of.sender, of.n}) && said.at({of.sender, of.n}) == next.text, "node ", at.id,
              " delivers what nobody has said");
      std::uint64_t before = 0;
      for (const delivered_message& each : at.program) {
        if (each.sender != of.sender) continue;
        require(each.n != of.n, "node ", at.id, " delivers a message twice");
        before = std::max(before, each.n);
      }
      require(of.n == before + 1, "node ", at.id, " delivers a sender's messages out of order");
      if (quorum_) {
        if (order.size() < index) order.push_back(next);
        require(order[index - 1] == next, "two nodes have delivered different messages as number ", index);
      }
      at.program.push_back(std::move(next));
    }
  }

  void check_answer(const node& at, const answer& of) const {
    if (!quorum_) return;
    require(of.index != 0 && of.index <= order.size(), "an answer to node ", at.id, " comes before delivery");
    const delivered_message& there = order[of.index - 1];
    require(there.sender == of.sender && there.n == of.n, "node ", at.id, " is answered with another's number");
  }

  void check(node& at) {
    const std::string broken = at.core->broken_rule();
    require(broken.empty(), "node ", at.id, ": ", broken);
    if (at.core->role() == role::retired) return;
    require(at.core->hard() == at.hard, "node ", at.id, " has not said what must be durable");
    require(at.core->delivered() == at.program.size(), "node ", at.id, " delivers other than it says");
    if (at.core->role() == role::leader) {
      const auto [known, is_new] = leaders_.try_emplace(at.core->epoch(), at.id);
      require(known->second == at.id, "two leaders of epoch ", at.core->epoch());
      if (!is_new || !quorum_) return;
      require(at.log.last().index >= order.size() || at.core->epoch() < epoch_of_order(), "a leader lacks messages");
    }
  }
  [[nodiscard]] epoch_t epoch_of_order() const { return order.empty() ? 0 : order.back().at.epoch; }

  // A new core, in the same role.
  void begin_again(node_id id) {
    start(id);
    const auto found = appointed_.find(id);
    if (found == appointed_.end() || nodes.at(id).hard.leader != id || nodes.at(id).hard.epoch != found->second) return;
    std::error_code ec;
    perform(id, (*this)[id].lead(found->second, now, wall(), ec));
  }

  const bool quorum_;
  std::map<node_id, epoch_t> appointed_;
  std::map<epoch_t, node_id> leaders_;
};

}  // namespace lockstep::sequencer::test
