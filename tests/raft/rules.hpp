// What must hold in a Raft group whatever happens, asked of its nodes from outside after every step: the rules of
// figure 3 of the Raft paper, and what each message promises for its sender.
#pragma once

#include "memory_log.hpp"

#include "lockstep/raft/core.hpp"

#include <algorithm>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <sstream>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace lockstep::raft::test {

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
  double clock_rate = 1;
  std::unique_ptr<core_type> core;

  /// The node's own clock.
  [[nodiscard]] instant clock(instant now) const {
    return instant(static_cast<std::int64_t>(static_cast<double>(now.count()) * clock_rate));
  }
  /// Whether it lacks records that it has acknowledged.
  [[nodiscard]] bool refills() const { return log.acked().index < options.must_refill; }
};

class rules {
 public:
  explicit rules(const std::map<node_id, node>& nodes) : nodes_(nodes) {}

  std::map<term_t, node_id> leaders;  // of every term so far
  std::vector<position> committed;    // by index - 1, by whichever node was first

  void started(const node& at, instant clock) {
    seen& last = seen_[at.id] = {};
    last.members = at.core->members();
    if (at.options.lease_drift > 0) last.heard = clock;
  }

  /// After the core has received `of`, and before its effects are performed.
  void received(const node& at, const message& of, const effects& answer, instant clock) {
    seen& last = seen_[at.id];
    const bool is_of_term = of.term == at.core->term();
    switch (of.type) {
      case message_type::append:
      case message_type::heartbeat:
      case message_type::snapshot_offer:
        if (is_of_term) last.heard = clock;
        break;
      case message_type::append_response:
      case message_type::heartbeat_response:
        if (is_of_term) last.contacts[of.from] = clock;
        break;
      case message_type::vote_request:
        for (const message& each : answer.send) {
          if (each.type != message_type::vote_response || !each.granted || of.transfer) continue;
          require(last.role != role::leader, "node ", at.id, " votes while it leads");
          require(!last.heard || clock - *last.heard >= at.options.election_timeout, "node ", at.id,
                  " helps to replace a leader that it has just heard from (dissertation, 4.2.3)");
        }
        break;
      default: break;
    }
  }

  /// `of` goes out, and what had to be durable before is.
  void sent(const node& from, const message& of) {
    const bool of_next_term = of.pre && (of.type == message_type::vote_request || of.granted);
    require(of_next_term || of.term == from.hard.term, "node ", from.id, " speaks of a term that is not durable");
    switch (of.type) {
      case message_type::vote_request: return stands(from, of);
      case message_type::vote_response:
        if (of.granted) votes(from, of);
        return;
      case message_type::append_response:
      case message_type::heartbeat_response:
        require(of.rejected || of.index <= from.log.acked().index, "node ", from.id,
                " acknowledges what is not durable");
        return;
      case message_type::timeout_now:
        // A leader that removes itself does not wait for what is not committed.
        require(has_durable(of.to, from.core->members().voters.contains(from.id)
                                       ? from.log.last()
                                       : *from.log.position_at(from.core->commit())),
                "node ", of.to, " is to lead and lacks records");
        return;
      default: return;
    }
  }

  /// After every input, when its effects have been performed.
  void hold(const node& at, instant clock) {
    const core_type& core = *at.core;
    seen& last = seen_[at.id];
    const std::string broken = core.broken_rule();
    require(broken.empty(), "node ", at.id, ": ", broken);
    const bool leads = core.role() == role::leader;
    if (leads && (last.role != role::leader || last.term != core.term())) {
      last.leads_since = clock;
      last.contacts.clear();
      last.matches.clear();
      wins(at);
    }
    commits(at);
    if (leads) knows_its_followers(at);
    if (at.log.last() != last.log || core.commit() != last.commit) knows_its_members(at);
    if (core.members() != last.members) last.members_since = clock;
    if (core.deadline() == instant::max()) last.quiet = true;
    last.members = core.members();
    last.commit = core.commit();
    last.role = core.role();
    last.term = core.term();
    last.log = at.log.last();
    if (at.log.acked() == at.log.last())
      last.disk_waits_since.reset();
    else if (!last.disk_waits_since || at.log.acked() != last.acked)
      last.disk_waits_since = clock;
    last.acked = at.log.acked();
  }

  /// After a tick.
  void ticked(const node& at, bool led, instant clock) {
    seen& last = seen_[at.id];
    if (std::exchange(last.quiet, at.core->deadline() == instant::max())) last.leads_since = clock;
    if (!led || at.core->role() != role::leader) return;
    if (at.core->deadline() == instant::max()) return;
    const auto heard = [&](node_id id) -> std::optional<bool> {
      if (id == at.id) return true;
      const auto contact = last.contacts.find(id);
      const instant before = std::max(last.leads_since, last.members_since);
      const instant when = contact == last.contacts.end() ? before : std::max(before, contact->second);
      return clock - when < at.options.election_timeout;
    };
    require(last.members.voters.vote(heard) == vote_result::won, "node ", at.id,
            " leads on without a quorum (dissertation, 6.2)");
    const instant waits_since = std::max(last.leads_since, last.disk_waits_since.value_or(clock));
    require(clock - waits_since < at.options.disk_stall_timeout, "node ", at.id, " leads on without its disk");
  }

  /// Records were taken back, the first of them `was`; then others were appended.
  void truncated(const node& at, const position& was) const {
    require(at.log.position_at(was.index) != was, "node ", at.id, " takes back what it has in common with its leader");
  }

  /// A leader without leases answers a read that came then.
  void confirmed(const node& at, instant asked) {
    const seen& last = seen_[at.id];
    const auto answered = [&](node_id id) -> std::optional<bool> {
      const auto contact = last.contacts.find(id);
      return id == at.id || (contact != last.contacts.end() && contact->second >= asked);
    };
    require(last.members.voters.vote(answered) == vote_result::won, "node ", at.id,
            " answers a read that no quorum has confirmed (dissertation, 6.4)");
  }

  /// A leader answers a read at once.
  void served(const node& at, instant now) {
    require(leaders.rbegin()->first == at.core->term(), "node ", at.id, " serves a read after its reign");
    const auto may_elect_another = [&](node_id id) -> std::optional<bool> {
      const auto found = nodes_.find(id);
      if (id == at.id || found == nodes_.end() || !found->second.core) return false;
      const std::optional<instant> heard = seen_[id].heard;
      return !heard || found->second.clock(now) - *heard >= at.options.election_timeout;
    };
    require(seen_[at.id].members.voters.vote(may_elect_another) != vote_result::won, "node ", at.id,
            " serves a read when another one may be elected (dissertation, 6.4.1)");
  }

 private:
  struct seen {
    configuration members;
    index_t commit = 0;
    raft::role role = role::follower;
    term_t term = 0;
    position log, acked;
    std::optional<instant> heard;  // from a leader of its term
    instant leads_since{}, members_since{};
    std::optional<instant> disk_waits_since;
    bool quiet = false;                   // was, before the last tick
    std::map<node_id, index_t> matches;   // of a leader, in its term
    std::map<node_id, instant> contacts;  // of a leader, in its term
  };

  void stands(const node& from, const message& of) {
    require(!from.refills(), "node ", from.id, " stands for election without what it has acknowledged");
    require(!from.core->members().witnesses.contains(from.id), "a witness, node ", from.id, ", stands for election");
    // By the configuration in force or one behind it; and it must have all that it would have to send.
    bool is_voter = from.core->members_at(from.core->commit()).voters.contains(from.id);
    for (index_t i = from.log.base().index + 1; i <= from.log.last().index; ++i) {
      require(from.log.kind_of(i) != witness_record, "node ", from.id, " stands for election without payloads");
      if (i <= from.core->commit() || from.log.kind_of(i) != config_record) continue;
      is_voter = is_voter || decode_configuration(from.log.payload_of(i))->voters.contains(from.id);
    }
    require(is_voter, "node ", from.id, " stands for election and is no voter");
    if (of.pre) return;
    require(from.hard.vote == from.id, "node ", from.id, " stands for election without a durable vote for itself");
    vote_once(from.id, of.term, from.id);
    const auto helps = [&](node_id id) -> std::optional<bool> {
      return id == from.id || promises_.contains({{of.term, id}, from.id});
    };
    require(of.transfer || from.core->members().voters.vote(helps) == vote_result::won, "node ", from.id,
            " begins a term that nobody wants (dissertation, 9.6)");
  }

  void votes(const node& from, const message& of) {
    require(!from.refills(), "node ", from.id, " votes without what it has acknowledged");
    if (of.pre) {
      promises_.insert({{of.term, from.id}, of.to});
    } else {
      require(from.hard == hard_state{of.term, of.to}, "node ", from.id, " grants a vote that is not durable");
      vote_once(from.id, of.term, of.to);
    }
  }

  void vote_once(node_id voter, term_t term, node_id candidate) {
    const auto [vote, is_new] = votes_.try_emplace({term, voter}, candidate);
    require(vote->second == candidate, "node ", voter, " votes twice in term ", term);
  }

  void wins(const node& at) {
    const term_t term = at.core->term();
    const auto [known, is_new] = leaders.try_emplace(term, at.id);
    require(known->second == at.id, "two leaders in term ", term);
    const auto voted = [&](node_id id) -> std::optional<bool> {
      const auto vote = votes_.find({term, id});
      return id == at.id || (vote != votes_.end() && vote->second == at.id);
    };
    require(seen_[at.id].members.voters.vote(voted) == vote_result::won, "node ", at.id, " leads without a quorum");
    // Leader completeness: it has all that was committed in earlier terms. (Answers that come late may elect it when a
    // later one leads, which may have committed records of earlier terms.)
    const auto of_this_term =
        std::partition_point(committed_in_.begin(), committed_in_.end(), [term](term_t each) { return each < term; });
    const auto due = static_cast<index_t>(of_this_term - committed_in_.begin());
    if (due == 0 || at.log.base().index >= due) return;
    require(at.log.position_at(due) == committed[due - 1], "node ", at.id, " leads and lacks a committed record");
  }

  void commits(const node& at) {
    const core_type& core = *at.core;
    const seen& last = seen_[at.id];
    require(core.commit() >= last.commit, "node ", at.id, " takes back what it has committed");
    for (index_t i = committed.size() + 1; i <= core.commit(); ++i) {
      require(i > at.log.base().index, "node ", at.id, " has committed behind a gap");
      committed.push_back(*at.log.position_at(i));
      committed_in_.push_back(core.term());
    }
    if (core.commit() == 0) return;
    const position end = *at.log.position_at(core.commit());
    require(end == committed[core.commit() - 1], "two nodes have committed different records");
    if (core.commit() == last.commit) return;
    if (core.role() != role::leader && last.role != role::leader) {
      require(end.index <= at.log.acked().index, "a follower has committed what is not durable");
      return;
    }
    require(end.epoch == core.term(), "a record of an older term is committed by counting (paper, 5.4.2)");
    const index_t of_quorum = last.members.voters.committed(
        [&](node_id id) { return std::optional<index_t>(has_durable(id, end) ? end.index : 0); });
    require(of_quorum >= end.index, "the leader has committed what no quorum has");
  }

  void knows_its_followers(const node& at) {
    std::map<node_id, index_t>& matches = seen_[at.id].matches;
    for (const auto& [id, of] : nodes_) {
      const progress* const known = at.core->progress_of(id);
      if (!known) matches.erase(id);
      if (!known) continue;
      require(known->match() >= matches[id] || of.options.must_refill != 0, "node ", at.id,
              " forgets what a follower has");
      matches[id] = known->match();
    }
  }

  // A configuration counts from the moment it is appended (paper, 6).
  void knows_its_members(const node& at) const {
    const core_type& core = *at.core;
    configuration counts = at.snap ? at.snap->config : at.bootstrap;
    configuration in_force = counts;
    index_t last_change = 0;
    for (index_t i = at.log.base().index + 1; i <= at.log.last().index; ++i) {
      if (at.log.kind_of(i) != config_record) continue;
      const bool of_leader = core.role() == role::leader && at.log.position_at(i)->epoch == core.term();
      require(!of_leader || (core.commit() != 0 && committed[core.commit() - 1].epoch == core.term()),
              "a leader changes the members before it has committed a record of its term");
      require(!of_leader || last_change <= core.commit(), "a change of the members does not wait for the last one");
      last_change = i;
      counts = *decode_configuration(at.log.payload_of(i));
      if (i <= core.commit()) in_force = counts;
    }
    require(core.members() == counts, "node ", at.id, " does not go by the last configuration of its log");
    require(core.members_at(core.commit()) == in_force, "node ", at.id, " forgets the configuration in force");
  }

  [[nodiscard]] bool has_durable(node_id id, const position& record) const {
    const auto found = nodes_.find(id);
    if (found == nodes_.end()) return false;
    const node& of = found->second;
    if (of.options.must_refill >= record.index || of.log.base().index >= record.index) return true;
    return of.log.acked().index >= record.index && of.log.position_at(record.index) == record;
  }

  const std::map<node_id, node>& nodes_;
  std::map<node_id, seen> seen_;
  std::vector<term_t> committed_in_;  // by index - 1: the term that the first one was in
  std::map<std::pair<term_t, node_id>, node_id> votes_;
  std::set<std::pair<std::pair<term_t, node_id>, node_id>> promises_;  // pre-votes: term, voter, candidate
};

}  // namespace lockstep::raft::test
