// core: one node's part in the election of a leader by priority, as a pure state machine: no I/O, no clock, no
// suspension.
//
//   election::core core({.id = 2, .seed = seed}, {1, 2, 3}, stored, now);
//   perform(core.tick(now));                       // core.deadline() has come; the first one asks who leads
//   perform(core.receive(message, now));           // a message came
//   perform(core.suspect(leader, why, now));       // the failure detector has lost patience
//   perform(core.disconnected(other, now));        // or connected()
//
// Every input returns what must be done because of it. The driver does that in the order in which `effects` lists it,
// all of it before the next input; until then nothing that this core says of itself counts.
//
// The algorithm is the bully (Garcia-Molina, "Elections in a Distributed Computing System", IEEE Transactions on
// Computers C-31(1), 1982): who misses the leader asks the others, gives way to a higher one that lives, and leads when
// there is none. Every leader begins an epoch of its own. Two things are not as in the paper:
//   - Nobody is displaced. Also lower nodes are asked, and who hears a leader says so, which ends the election. So a
//     higher node that comes back follows the leader of the day.
//   - With the majority gate, whoever would lead claims an epoch, and leads it when a majority of the members agrees.
//
// It promises: epochs never fall on any node, crashes included, and no node speaks of one that it does not have
// durable. When messages arrive and nobody fails, exactly one member leads and all others follow it. With the gate, no
// epoch is ever led by two nodes, and who does not hear from a majority for an election timeout does not lead any more.
//
// It does not promise:
//   - Without the gate: one leader. Each side of a partition elects its own, perhaps of the same epoch. When they meet
//     again, the leader of the later epoch stays; two of one epoch both stand again, and a later one begins. A node
//     that can send and not receive displaces a leader. Who must not have two leaders at work needs the gate.
//   - With the gate: that an old leader knows at once that it is one. It leads an earlier epoch until then; what it
//     does is to be refused by epoch. And nobody leads where no majority is.
//   - That the highest node leads when messages are lost, or when it is not elected within an election timeout.
//   - A leader for a node that reaches others who hear the leader, but not the leader.
//   - Anything when members believe in different sets of members. With the gate, let one node join or leave at a time,
//     while there is a leader, and the next one when all follow it.
#pragma once

#include "lockstep/core/ids.hpp"
#include "lockstep/raft/quorum.hpp"

#include <algorithm>
#include <cassert>
#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <tuple>
#include <utility>
#include <variant>
#include <vector>

namespace lockstep::election {

/// Monotonic time since any fixed moment. Only differences mean something.
using instant = std::chrono::nanoseconds;

enum class role : std::uint8_t {
  joining,    ///< knows no leader, has asked who leads, or waits for the outcome of an election
  candidate,  ///< has asked whether it may lead
  follower,
  leader,
};

enum class message_type : std::uint8_t {
  probe = 1,            ///< who leads?
  election = 2,         ///< the sender would lead: does a higher node live, does anybody hear a leader?
  answer = 3,           ///< to probe and election, by who does not lead: it lives, and hears `leader`
  claim = 4,            ///< majority gate: the sender would lead `epoch`
  consent = 5,          ///< to a claim
  coordinator = 6,      ///< the sender leads `epoch`; also to a probe and an election
  heartbeat = 7,        ///< the sender still leads `epoch`
  heartbeat_reply = 8,  ///< to coordinator and heartbeat: whom the sender follows, in its epoch
};

/// What members say to each other. A field that a type does not name is zero.
struct message {
  message_type type = message_type::probe;
  node_id from = 0;
  node_id to = 0;
  epoch_t epoch = 0;           ///< the sender's
  std::uint64_t priority = 0;  ///< election, answer: the sender's
  std::uint64_t round = 0;     ///< probe, election: the sender's count of its questions; answer: of the question
  node_id leader = 0;    ///< answer: whom the sender hears. heartbeat_reply: the one that it may follow in `epoch`
  bool granted = false;  ///< consent: the sender agrees to no other leader of `epoch`, now or ever
};

/// What must be durable before anybody is told of it.
struct hard_state {
  epoch_t epoch = 0;
  node_id agreed = 0;  ///< the leader of `epoch` that this node has agreed to; 0: none

  friend bool operator==(const hard_state&, const hard_state&) = default;
};

struct core_options {
  node_id id = 0;
  std::optional<std::uint64_t> priority;  ///< the higher leads; of equal ones, the higher id; nothing: the id
  std::uint64_t seed = 0;                 ///< for the chance in timeouts; different on every node and at every start
  bool majority_gate = true;              ///< the same on every node

  /// How long who has no leader waits for one before it stands; with the gate also, how long a leader leads without a
  /// word from a majority. More than three answer timeouts, in which a higher node is elected. This timeout and the
  /// next are longer by chance, by less than a half.
  instant election_timeout = std::chrono::milliseconds(1000);
  instant answer_timeout = std::chrono::milliseconds(300);  ///< how long a candidate waits for who does not answer
  instant heartbeat_interval = std::chrono::milliseconds(100);
};

/// Something for people or programs to know.
struct event {
  enum class what : std::uint8_t {
    leader_lost,     ///< `node` led and is not followed any more
    election_begun,  ///< this node stands; if it wins now, it leads `epoch` or a later one
    became_leader,   ///< this node leads `epoch`
    leader_known,    ///< this node follows `node`, the leader of `epoch`
    stepped_down,    ///< this node does not lead `epoch` any more
  };
  what is = what::leader_lost;
  node_id node = 0;
  epoch_t epoch = 0;

  friend bool operator==(const event&, const event&) = default;
};

/// What must be done after an input, in this order. References are valid until the next input.
struct effects {
  std::optional<hard_state> persist;  ///< 1. durable before anything else is done
  std::vector<message> send;          ///< 2.
  std::vector<event> events;          ///< 3. as they happened
  std::string broken;                 ///< not empty: two nodes lead one epoch in spite of the gate; the node must stop

  void clear() {
    persist.reset();
    send.clear();
    events.clear();
    broken.clear();
  }
};

/// A core for people to look at. Plain data.
struct peer_status {
  node_id id = 0;
  bool reachable = false;  ///< neither suspected nor disconnected since its last message
  bool heard = false;      ///< of a leader: it has confirmed this epoch within the last election timeout
};
struct core_status {
  node_id id = 0;
  election::role role = election::role::joining;
  node_id leader = 0;  ///< 0: none is known
  epoch_t epoch = 0;
  raft::majority members;
  std::vector<peer_status> peers;  ///< all other members
  std::string last_change;
};

// The states of a core.
namespace detail {
struct waiting {
  bool asked = false;    // who leads, or an election was held; not yet after the start
  node_id for_node = 0;  // the candidate that it gave way or agreed to; 0: none
  instant until{};
  raft::id_set leaderless;  // who has answered and hears no leader
};
struct following {
  node_id leader = 0;
};
struct standing {
  bool claims = false;  // has claimed hard_.epoch
  instant until{};
  raft::id_set agreeing;  // who has answered and has nothing against it; who has agreed to the claim, itself included
};
struct leading {
  instant heartbeat_due{};
};
}  // namespace detail

/// See the top of this file. Thread safety: none. While a leader leads and is followed, inputs allocate nothing.
class core {
 public:
  /// @param members  this node among them, unless it has not joined yet: then it only follows.
  /// @param stored  what was last to be persisted; an epoch known from elsewhere, such as a log, may raise it.
  core(const core_options& options, raft::majority members, hard_state stored, instant now);
  core(const core&) = delete;
  core& operator=(const core&) = delete;

  // --- inputs ---

  /// `now` has come, which is deadline() or any other time.
  const effects& tick(instant now);
  /// @param of  `of.to` is this node, and `of.from` who it says. Of who is no member only a probe is answered.
  const effects& receive(const message& of, instant now);
  /// Nothing is heard from `other`. Any message from it ends the suspicion. @param why  for people.
  const effects& suspect(node_id other, std::string_view why, instant now);
  const effects& connected(node_id other, instant now);
  /// As suspect(): the connection is lost, or cannot be made.
  const effects& disconnected(node_id other, instant now);
  /// Nodes have joined or left.
  const effects& change_members(raft::majority members, instant now);

  // --- what is so ---

  [[nodiscard]] election::role role() const noexcept;
  [[nodiscard]] node_id id() const noexcept { return options_.id; }
  /// 0: none is known.
  [[nodiscard]] node_id leader() const noexcept;
  [[nodiscard]] epoch_t epoch() const noexcept { return hard_.epoch; }
  [[nodiscard]] const raft::majority& members() const noexcept { return members_; }
  /// When tick() has something to do; instant::max(): not before another input.
  [[nodiscard]] instant deadline() const noexcept;
  [[nodiscard]] core_status status() const;
  /// Why this node's role or leader last changed, for people.
  [[nodiscard]] const std::string& last_change() const noexcept { return last_change_; }

  /// What of the rules that always hold does not hold now; empty: all do. Costs time; for debugging and simulation.
  [[nodiscard]] std::string broken_rule() const;

 private:
  struct peer {
    node_id id = 0;
    bool reachable = true;  // whoever is not need not be waited for
    instant heard{};        // leader: when it last confirmed this epoch, or the begin of leading it
  };
  using waiting = detail::waiting;
  using following = detail::following;
  using standing = detail::standing;
  using leading = detail::leading;

  void begin(instant now);
  const effects& done();

  void seek(const std::string& why);
  void wait_for(node_id node, const std::string& why);
  void stand(const std::string& why);
  void conclude_if_all_answered();
  void conclude();
  void fail(const std::string& why);
  void lead();
  void follow(const message& of);
  void step_down(const std::string& why);
  void lose(node_id other, const std::string& why);
  void enter_epoch(epoch_t epoch, node_id agreed);

  void on_probe(const message& of);
  void on_election(const message& of);
  void on_answer(const message& of);
  void on_claim(const message& of);
  void on_consent(const message& of);
  void on_word_of_leader(const message& of);
  void on_heartbeat_reply(const message& of);

  [[nodiscard]] bool may_stand() const { return members_.contains(options_.id); }
  [[nodiscard]] epoch_t next_epoch() const noexcept { return std::max(hard_.epoch, seen_) + 1; }
  [[nodiscard]] bool outranked_by(const message& of) const;
  [[nodiscard]] bool hears_majority() const;
  [[nodiscard]] bool is_majority(const raft::id_set& nodes) const;
  void greet(node_id other);
  void greet_all();
  message& send(node_id to, message_type type);
  void answer(const message& of);
  void note(event::what is, node_id node, epoch_t epoch) { effects_.events.push_back({is, node, epoch}); }
  void changed(const std::string& why) { last_change_ = "epoch " + std::to_string(hard_.epoch) + ": " + why; }
  void set_peers();
  peer* find_peer(node_id id);
  [[nodiscard]] bool leads() const noexcept { return std::holds_alternative<leading>(state_); }
  [[nodiscard]] instant later(instant timeout);
  std::uint64_t random() noexcept;

  const core_options options_;
  raft::majority members_;
  std::vector<peer> peers_;  // all other members, by id
  hard_state hard_;
  hard_state stored_hard_;  // as the driver has it, or will have it once it has performed the effects
  epoch_t seen_ = 0;        // the latest that anybody has spoken of
  std::variant<waiting, following, standing, leading> state_;
  std::uint64_t round_ = 0;   // of the last question; answers to earlier ones count for nothing
  raft::id_set passed_over_;  // higher nodes that were waited for in vain, until a leader is known or this node fails
  instant now_{};
  std::uint64_t random_state_;
  std::string last_change_;
  effects effects_;
};

// --- Implementation ---------------------------------------------------------------------------------------------

inline core::core(const core_options& options, raft::majority members, hard_state stored, instant now)
    : options_(options),
      members_(std::move(members)),
      hard_(stored),
      stored_hard_(stored),
      now_(now),
      random_state_(options.seed) {
  round_ = random();  // so that no late answer to an earlier life is of a question of this one
  state_.emplace<waiting>().until = now;
  set_peers();
}

// --- inputs -----------------------------------------------------------------------------------------------------

inline void core::begin(instant now) {
  now_ = std::max(now_, now);
  effects_.clear();
}

inline const effects& core::done() {
  if (hard_ != stored_hard_) effects_.persist = stored_hard_ = hard_;
  return effects_;
}

inline const effects& core::tick(instant now) {
  begin(now);
  if (leading* const lead = std::get_if<leading>(&state_)) {
    if (options_.majority_gate && !hears_majority()) {
      step_down("as leader it did not hear from a majority");
    } else if (now_ >= lead->heartbeat_due) {
      lead->heartbeat_due = now_ + options_.heartbeat_interval;
      for (const peer& each : peers_) send(each.id, message_type::heartbeat);
    }
  } else if (const waiting* const wait = std::get_if<waiting>(&state_)) {
    if (now_ < wait->until) return done();
    if (!wait->asked || !may_stand()) {
      seek("it asks who leads");
    } else {
      if (wait->for_node != 0) passed_over_.insert(wait->for_node);
      stand("it did not hear from a leader");
    }
  } else if (const standing* const candidate = std::get_if<standing>(&state_)) {
    if (now_ < candidate->until) return done();
    if (candidate->claims)
      fail("a majority did not agree to it in time");
    else
      conclude();
  }
  return done();
}

inline const effects& core::receive(const message& of, instant now) {
  begin(now);
  if (of.epoch >= max_epoch) return done();  // no correct node is there
  peer* const from = find_peer(of.from);
  if (!from) {
    if (of.type == message_type::probe) on_probe(of);
    return done();
  }
  from->reachable = true;
  seen_ = std::max(seen_, of.epoch);
  switch (of.type) {
    case message_type::probe: on_probe(of); break;
    case message_type::election: on_election(of); break;
    case message_type::answer: on_answer(of); break;
    case message_type::claim: on_claim(of); break;
    case message_type::consent: on_consent(of); break;
    case message_type::coordinator:
    case message_type::heartbeat: on_word_of_leader(of); break;
    case message_type::heartbeat_reply: on_heartbeat_reply(of); break;
  }
  return done();
}

inline const effects& core::suspect(node_id other, std::string_view why, instant now) {
  begin(now);
  lose(other, "node " + std::to_string(other) + " is suspected: " + std::string(why));
  return done();
}

inline const effects& core::connected(node_id other, instant now) {
  begin(now);
  if (peer* const found = find_peer(other)) {
    found->reachable = true;
    greet(other);
  }
  return done();
}

inline const effects& core::disconnected(node_id other, instant now) {
  begin(now);
  lose(other, "the connection with node " + std::to_string(other) + " is lost");
  return done();
}

inline const effects& core::change_members(raft::majority members, instant now) {
  begin(now);
  const raft::majority before = std::exchange(members_, std::move(members));
  set_peers();
  const bool is_member = members_.contains(options_.id);
  const node_id followed = leads() ? 0 : leader();
  if (followed != 0 && !members_.contains(followed)) {
    note(event::what::leader_lost, followed, hard_.epoch);
    seek("its leader is no member any more");
  } else if (leads() && !is_member) {
    step_down("it is no member any more");
  } else if (std::holds_alternative<standing>(state_) && !is_member) {
    seek("it is no member any more");
  } else {
    for (const peer& each : peers_) {
      if (!before.contains(each.id)) greet(each.id);
    }
    conclude_if_all_answered();
  }
  return done();
}

// --- roles ------------------------------------------------------------------------------------------------------

// Asks all who leads.
inline void core::seek(const std::string& why) {
  wait_for(0, why);
  greet_all();
}

inline void core::wait_for(node_id node, const std::string& why) {
  changed(why);
  ++round_;
  waiting& wait = state_.emplace<waiting>();
  wait.asked = true;
  wait.for_node = node;
  wait.until = later(options_.election_timeout);
}

inline void core::stand(const std::string& why) {
  if (!may_stand()) return seek(why);
  changed(why);
  ++round_;
  note(event::what::election_begun, options_.id, next_epoch());
  state_.emplace<standing>().until = later(options_.answer_timeout);
  greet_all();
  conclude_if_all_answered();
}

inline void core::conclude_if_all_answered() {
  const standing* const candidate = std::get_if<standing>(&state_);
  if (!candidate || candidate->claims) return;
  const bool all = std::all_of(peers_.begin(), peers_.end(), [&](const peer& each) {
    return !each.reachable || candidate->agreeing.contains(each.id);
  });
  if (all) conclude();
}

// Nobody who has answered has anything against it.
inline void core::conclude() {
  standing& candidate = std::get<standing>(state_);
  if (!options_.majority_gate) {
    enter_epoch(next_epoch(), options_.id);
    return lead();
  }
  candidate.agreeing.insert(options_.id);
  // No epoch is begun that nobody could lead: a node that comes back with a later one would end the leader's.
  if (!is_majority(candidate.agreeing)) return fail("a majority did not answer it");
  enter_epoch(next_epoch(), options_.id);
  candidate.claims = true;
  candidate.until = later(options_.answer_timeout);
  candidate.agreeing = {options_.id};
  greet_all();
  if (is_majority(candidate.agreeing)) lead();
}

// If all passed all others over for ever, they would claim the same epochs, each for itself.
inline void core::fail(const std::string& why) {
  passed_over_.clear();
  wait_for(0, why);
}

inline void core::lead() {
  changed(options_.majority_gate ? "a majority agreed to it" : "no higher node answered it");
  state_.emplace<leading>().heartbeat_due = now_ + options_.heartbeat_interval;
  passed_over_.clear();
  for (peer& each : peers_) each.heard = now_;
  note(event::what::became_leader, options_.id, hard_.epoch);
  greet_all();
}

inline void core::follow(const message& of) {
  const bool is_new_epoch = of.epoch > hard_.epoch;
  if (!is_new_epoch && leader() == of.from) return;
  if (leads()) note(event::what::stepped_down, options_.id, hard_.epoch);
  if (is_new_epoch) enter_epoch(of.epoch, of.from);
  passed_over_.clear();
  state_ = following{of.from};
  changed("node " + std::to_string(of.from) + " leads");
  note(event::what::leader_known, of.from, hard_.epoch);
}

inline void core::step_down(const std::string& why) {
  note(event::what::stepped_down, options_.id, hard_.epoch);
  seek(why);
}

inline void core::lose(node_id other, const std::string& why) {
  peer* const lost = find_peer(other);
  if (!lost) return;
  const bool was_reachable = std::exchange(lost->reachable, false);
  const waiting* const wait = std::get_if<waiting>(&state_);
  if (leader() == other) {
    note(event::what::leader_lost, other, hard_.epoch);
    stand(why);
  } else if (wait && wait->for_node == other && was_reachable) {
    stand(why);
  } else {
    conclude_if_all_answered();
  }
}

inline void core::enter_epoch(epoch_t epoch, node_id agreed) {
  assert(epoch > hard_.epoch || (epoch == hard_.epoch && (hard_.agreed == 0 || hard_.agreed == agreed)));
  hard_ = {epoch, agreed};
}

// --- messages ---------------------------------------------------------------------------------------------------

inline void core::on_probe(const message& of) {
  if (leads()) {
    send(of.from, message_type::coordinator);
    return;
  }
  const bool was_leader = leader() == of.from;
  if (was_leader && of.epoch < hard_.epoch) return;  // asked before it led
  answer(of);
  if (!was_leader) return;
  note(event::what::leader_lost, of.from, hard_.epoch);
  stand("its leader asks who leads");
}

inline void core::on_election(const message& of) {
  if (leads()) {
    send(of.from, message_type::coordinator);
    return;
  }
  const bool was_leader = leader() == of.from;
  if (was_leader && of.epoch < hard_.epoch) return;  // asked before it led
  answer(of);
  if (was_leader) {
    note(event::what::leader_lost, of.from, hard_.epoch);
    wait_for(outranked_by(of) ? of.from : 0, "its leader holds an election");
  }
  if (std::holds_alternative<following>(state_)) return;
  if (outranked_by(of)) {
    if (std::holds_alternative<standing>(state_) && !passed_over_.contains(of.from)) {
      wait_for(of.from, "node " + std::to_string(of.from) + ", which is higher, holds an election");
    }
  } else if (const waiting* const wait = std::get_if<waiting>(&state_); wait && wait->for_node == 0 && may_stand()) {
    stand("node " + std::to_string(of.from) + ", which is lower, holds an election");
  }
}

inline void core::on_answer(const message& of) {
  if (of.round != round_) return;
  const std::string name = "node " + std::to_string(of.from);
  const node_id heard = of.leader == options_.id ? 0 : of.leader;
  if (waiting* const wait = std::get_if<waiting>(&state_)) {
    if (heard != 0) {
      wait->until = later(options_.election_timeout);
      return;
    }
    wait->leaderless.insert(of.from);
    const auto answered = [&](const peer& each) { return wait->leaderless.contains(each.id); };
    if (std::all_of(peers_.begin(), peers_.end(), answered)) stand("nobody hears a leader");
  } else if (standing* const candidate = std::get_if<standing>(&state_); candidate && !candidate->claims) {
    if (heard != 0) return wait_for(0, name + " hears node " + std::to_string(heard) + " lead");
    if (outranked_by(of) && !passed_over_.contains(of.from)) return wait_for(of.from, name + " is higher and lives");
    candidate->agreeing.insert(of.from);
    conclude_if_all_answered();
  }
}

inline void core::on_claim(const message& of) {
  const node_id heard = leader();
  if (heard == of.from && of.epoch <= hard_.epoch) return;  // it has won meanwhile
  const bool is_free =
      of.epoch > hard_.epoch || (of.epoch == hard_.epoch && (hard_.agreed == 0 || hard_.agreed == of.from));
  const bool is_content = heard != 0 && heard != of.from;
  const bool granted = is_free && !is_content;
  if (granted) {
    if (heard != 0) note(event::what::leader_lost, heard, hard_.epoch);
    enter_epoch(of.epoch, of.from);
    wait_for(of.from, "it agreed to node " + std::to_string(of.from));
  }
  send(of.from, message_type::consent).granted = granted;
}

inline void core::on_consent(const message& of) {
  standing* const candidate = std::get_if<standing>(&state_);
  if (!candidate || !candidate->claims || !of.granted || of.epoch != hard_.epoch) return;
  candidate->agreeing.insert(of.from);
  if (is_majority(candidate->agreeing)) lead();
}

// Who leads an earlier epoch learns of this one by the reply.
inline void core::on_word_of_leader(const message& of) {
  bool is_followed = of.epoch >= hard_.epoch;
  const node_id known = leader();
  if (of.epoch == hard_.epoch && options_.majority_gate) {
    if (known != 0 && known != of.from) {
      effects_.broken = "nodes " + std::to_string(known) + " and " + std::to_string(of.from) + " both lead epoch " +
                        std::to_string(hard_.epoch);
      return;
    }
  } else if (of.epoch == hard_.epoch) {
    // Nobody follows two leaders of one epoch. The second one learns of the first by the reply and stands again; if the
    // first leads still, it learns of the second as it answers.
    if (hard_.agreed == 0) hard_.agreed = of.from;
    is_followed = hard_.agreed == of.from;
  }
  if (is_followed) follow(of);
  message& reply = send(of.from, message_type::heartbeat_reply);
  reply.leader = of.epoch == reply.epoch && !is_followed ? hard_.agreed : leader();
}

inline void core::on_heartbeat_reply(const message& of) {
  if (!leads() || of.epoch < hard_.epoch) return;
  if (of.epoch > hard_.epoch) {
    step_down("node " + std::to_string(of.from) + " is in epoch " + std::to_string(of.epoch));
  } else if (of.leader == options_.id) {
    find_peer(of.from)->heard = now_;
  } else {
    note(event::what::stepped_down, options_.id, hard_.epoch);
    stand("node " + std::to_string(of.leader) + " has led the same epoch");
  }
}

// What this node has to say to all, to one that may not have heard it.
inline void core::greet(node_id other) {
  if (leads()) {
    send(other, message_type::coordinator);
  } else if (const standing* const candidate = std::get_if<standing>(&state_)) {
    send(other, candidate->claims ? message_type::claim : message_type::election);
  } else if (const waiting* const wait = std::get_if<waiting>(&state_); wait && wait->asked) {
    send(other, message_type::probe);
  }
}

inline void core::greet_all() {
  for (const peer& each : peers_) greet(each.id);
}

inline message& core::send(node_id to, message_type type) {
  message& sent = effects_.send.emplace_back();
  sent.type = type;
  sent.from = options_.id;
  sent.to = to;
  sent.epoch = hard_.epoch;
  if (type == message_type::election || type == message_type::answer) {
    sent.priority = options_.priority.value_or(options_.id);
  }
  if (type == message_type::election || type == message_type::probe) sent.round = round_;
  return sent;
}

inline void core::answer(const message& of) {
  message& sent = send(of.from, message_type::answer);
  sent.round = of.round;
  sent.leader = leader() == of.from ? 0 : leader();
}

// --- what is so -------------------------------------------------------------------------------------------------

inline election::role core::role() const noexcept {
  if (leads()) return role::leader;
  if (std::holds_alternative<following>(state_)) return role::follower;
  return std::holds_alternative<standing>(state_) ? role::candidate : role::joining;
}

inline node_id core::leader() const noexcept {
  if (leads()) return options_.id;
  const following* const follower = std::get_if<following>(&state_);
  return follower ? follower->leader : 0;
}

inline instant core::deadline() const noexcept {
  if (const waiting* const wait = std::get_if<waiting>(&state_)) return wait->until;
  if (const standing* const candidate = std::get_if<standing>(&state_)) return candidate->until;
  if (const leading* const lead = std::get_if<leading>(&state_)) return lead->heartbeat_due;
  return instant::max();
}

inline core_status core::status() const {
  core_status of;
  of.id = options_.id;
  of.role = role();
  of.leader = leader();
  of.epoch = hard_.epoch;
  of.members = members_;
  of.last_change = last_change_;
  for (const peer& each : peers_) {
    of.peers.push_back({each.id, each.reachable, leads() && now_ - each.heard < options_.election_timeout});
  }
  return of;
}

inline std::string core::broken_rule() const {
  if (hard_ != stored_hard_) return "its epoch is not to be persisted";
  const std::size_t others = members_.size() - (members_.contains(options_.id) ? 1 : 0);
  if (peers_.size() != others) return "it does not know all other members";
  for (const peer& each : peers_) {
    if (each.id == options_.id || !members_.contains(each.id)) return "it counts on who is no other member";
  }
  if (const node_id known = leader(); known != 0) {
    if (hard_.epoch == 0) return "a leader is known of no epoch";
    if (!members_.contains(known)) return "a node leads that is no member";
    if (!passed_over_.empty()) return "a higher node is passed over while there is a leader";
  }
  if (leads() && hard_.agreed != options_.id) return "it leads an epoch that it has not agreed to lead";
  if (!options_.majority_gate && !leads() && leader() != 0 && hard_.agreed != leader()) {
    return "it follows two leaders of one epoch";
  }
  const standing* const candidate = std::get_if<standing>(&state_);
  if (candidate && !members_.contains(options_.id)) return "a node stands that is no member";
  if (candidate && candidate->claims && hard_.agreed != options_.id) return "it claims an epoch that it gave away";
  if (candidate && candidate->claims && !options_.majority_gate) return "it claims an epoch without a gate";
  return {};
}

inline bool core::outranked_by(const message& of) const {
  return std::tuple(of.priority, of.from) > std::tuple(options_.priority.value_or(options_.id), options_.id);
}

inline bool core::hears_majority() const {
  return members_.vote([this](node_id id) -> std::optional<bool> {
    const auto found = std::find_if(peers_.begin(), peers_.end(), [id](const peer& each) { return each.id == id; });
    return found == peers_.end() || now_ - found->heard < options_.election_timeout;
  }) == raft::vote_result::won;
}

inline bool core::is_majority(const raft::id_set& nodes) const {
  return members_.vote([&](node_id id) { return std::optional(nodes.contains(id)); }) == raft::vote_result::won;
}

inline void core::set_peers() {
  const std::vector<peer> before = std::exchange(peers_, {});
  for (const node_id id : members_) {
    if (id == options_.id) continue;
    const auto known = std::find_if(before.begin(), before.end(), [id](const peer& each) { return each.id == id; });
    peers_.push_back(known != before.end() ? *known : peer{id, true, now_});
  }
}

inline auto core::find_peer(node_id id) -> peer* {
  const auto at = std::lower_bound(peers_.begin(), peers_.end(), id,
                                   [](const peer& each, node_id wanted) { return each.id < wanted; });
  return at != peers_.end() && at->id == id ? &*at : nullptr;
}

inline instant core::later(instant timeout) {
  const auto half = std::max<std::uint64_t>(static_cast<std::uint64_t>(timeout.count()) / 2, 1);
  return now_ + timeout + instant(static_cast<std::int64_t>(random() % half));
}

/// splitmix64 (Steele, Lea, Flood, "Fast Splittable Pseudorandom Number Generators", OOPSLA 2014).
inline std::uint64_t core::random() noexcept {
  std::uint64_t z = random_state_ += 0x9e3779b97f4a7c15u;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return z ^ (z >> 31);
}

}  // namespace lockstep::election
