// core: one node's part in who belongs to a cluster, as a pure state machine: no I/O, no clock, no suspension.
//
//   membership::core core({.self = {2, life, here}, .cluster = "chat", .seeds = {there}, .seed = seed}, now);
//   perform(core.tick(now));                 // core.deadline() has come; the first one asks the seeds
//   perform(core.receive(message, now));     // a message came
//   perform(core.lead_by(leader, epoch));    // the election says who leads
//   perform(core.leave(now));                // this node goes for good
//
// Every input returns what must be done because of it, before the next input. A node asks its seeds until it belongs to
// the cluster. Who leads keeps the list: a seed that follows says who that is, and the node asks there. While nobody
// leads, as when a cluster begins, seeds take nodes in themselves, and the first leader's list counts from then on: who
// is missing in it asks again. No gossip: the answer, and what the leader announces at each change and now and then, is
// the list.
//
// It promises: a list with one node for each id; a later list of the leader's (by epoch, then version) is never
// replaced by an earlier one; a node of another cluster, and one whose id belongs to another node, is refused and told
// why. When messages arrive, a node that asks becomes a member on every member's list, and one that leaves does not
// stay on any.
//
// It does not promise:
//   - To find out who is dead: a member stays one until it leaves, or remove() is called.
//   - One list at one time, or that a majority agrees to it: it is no base for quorums. Use Raft's members for that.
//   - That a node that left stays away: what it asked before, and arrives late, takes it in again.
//   - To tell friend from foe: a node is what it says it is.
#pragma once

#include "lockstep/core/address.hpp"
#include "lockstep/core/errors.hpp"
#include "lockstep/core/ids.hpp"
#include "lockstep/rpc/backoff.hpp"

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <system_error>
#include <tuple>
#include <utility>
#include <variant>
#include <vector>

namespace lockstep::membership {

/// Monotonic time since any fixed moment. Only differences mean something.
using instant = std::chrono::nanoseconds;

struct member {
  node_id id = 0;
  std::uint64_t life = 0;  ///< drawn when the node's data began, and kept with it: tells two nodes of one id apart
  address where;

  friend bool operator==(const member&, const member&) = default;
};

enum class message_type : std::uint8_t {
  join = 1,      ///< take me in
  join_ack = 2,  ///< you are a member; or not yet, ask the leader
  refused = 3,   ///< you cannot be one
  leave = 4,     ///< I go
  leave_ack = 5,
  members = 6,  ///< the leader's list
};

enum class refusal : std::uint8_t {
  wrong_cluster,   ///< the seed belongs to another cluster
  duplicate_node,  ///< a node of this id is a member already, with another life
};

constexpr std::string_view to_string(refusal why) noexcept {
  return why == refusal::wrong_cluster ? "the seed belongs to another cluster"
                                       : "another node with this id is a member of the cluster";
}

/// A field that a type does not name is empty.
struct message {
  message_type type = message_type::join;
  std::string cluster;
  member from;
  address to;
  std::uint64_t life = 0;  ///< join_ack, refused, leave_ack: of the node that is answered

  bool joined = false;          ///< join_ack
  refusal why{};                ///< refused
  node_id leader = 0;           ///< join_ack, members; 0: none is known
  epoch_t epoch = 0;            ///< join_ack, members: the leader's
  std::uint64_t version = 0;    ///< join_ack, members: rises with each change in an epoch
  std::vector<member> members;  ///< join_ack, members: ascending by id
};

struct core_options {
  member self;
  std::string cluster;
  std::vector<address> seeds;  ///< may name this node too; nobody else: it begins a cluster
  std::uint64_t seed = 0;      ///< for the chance in waits

  /// Between two rounds of asking: see backoff.
  instant first_wait = std::chrono::milliseconds(200);
  instant longest_wait = std::chrono::seconds(10);
  /// How often a leader announces its list when nothing changes.
  instant announce_interval = std::chrono::seconds(5);
  /// Who gets no answer to its leaving goes without, after so many rounds.
  int leave_rounds = 5;
};

enum class state : std::uint8_t { joining, joined, leaving, left, refused };

/// Why this node is not a member, and cannot be.
struct refused_join {
  refusal why{};
  member by;
};

/// What must be done after an input. References are valid until the next input.
struct effects {
  std::vector<message> send;
  bool members_changed = false;         ///< see members()
  bool joined = false;                  ///< this node is a member from now on
  bool left = false;                    ///< it is none any more, by its own wish
  std::optional<refused_join> refused;  ///< it cannot be one; nothing happens here any more

  void clear() {
    send.clear();
    members_changed = joined = left = false;
    refused.reset();
  }
};

/// See the top of this file. Thread safety: none.
class core {
 public:
  core(core_options options, instant now);
  core(const core&) = delete;
  core& operator=(const core&) = delete;

  // --- inputs ---

  /// `now` has come, which is deadline() or any other time.
  const effects& tick(instant now);
  const effects& receive(const message& of, instant now);
  /// 0: nobody leads any more. An epoch older than the last is not listened to.
  const effects& lead_by(node_id leader, epoch_t epoch, instant now);
  const effects& leave(instant now);
  /// That node is gone for good. @param ec  not_leader; wrong_node: no member, or this node.
  const effects& remove(node_id id, instant now, std::error_code& ec);

  // --- what is so ---

  [[nodiscard]] membership::state state() const noexcept { return static_cast<membership::state>(state_.index()); }
  /// Ascending by id; this node among them from the beginning.
  [[nodiscard]] const std::vector<member>& members() const noexcept { return members_; }
  [[nodiscard]] const member* find(node_id id) const noexcept;
  /// 0: none is known.
  [[nodiscard]] node_id leader() const noexcept { return leader_; }
  [[nodiscard]] epoch_t epoch() const noexcept { return epoch_; }
  /// When tick() has something to do; instant::max(): not before another input.
  [[nodiscard]] instant deadline() const noexcept;

  /// What of the rules that always hold does not hold now; empty: all do.
  [[nodiscard]] std::string broken_rule() const;

 private:
  struct joining {
    instant ask_due{};
  };
  struct joined {
    instant ask_due = instant::max();  // until it has the list of whoever leads
  };
  struct leaving {
    instant ask_due{};
    int rounds = 0;
  };
  struct left {};
  struct refused {};

  void begin(instant now);
  [[nodiscard]] bool is_over() const noexcept {
    return std::holds_alternative<left>(state_) || std::holds_alternative<refused>(state_);
  }
  [[nodiscard]] bool has_leaders_list() const noexcept { return list_epoch_ != 0 && list_epoch_ == epoch_; }
  [[nodiscard]] bool leads() const noexcept { return leader_ == options_.self.id; }

  void ask_to_join();
  void ask_to_leave();
  void on_join(const message& of);
  void on_join_ack(const message& of);
  void on_leave(const message& of);
  void on_members(const message& of);
  void become_member();
  void take_list(const message& of);
  void put(const member& who);
  void drop(node_id id);
  void changed();
  void announce();
  message& list_to(const address& to, message_type type);
  message& send(const address& to, message_type type);
  std::uint64_t random() noexcept;

  const core_options options_;
  std::variant<joining, joined, leaving, left, refused> state_;  // in the order of enum state
  std::vector<member> members_;
  node_id leader_ = 0;
  epoch_t epoch_ = 0;          // of the last leader
  epoch_t list_epoch_ = 0;     // of whose list members_ is; 0: nobody's
  std::uint64_t version_ = 0;  // of it
  address leader_at_;          // as a seed has said; empty: nobody has
  instant announce_due_{};     // leader
  backoff wait_;
  instant now_{};
  std::uint64_t random_state_;
  effects effects_;
};

// --- Implementation ---------------------------------------------------------------------------------------------

inline core::core(core_options options, instant now)
    : options_(std::move(options)),
      state_(joining{now}),
      members_{options_.self},
      wait_(options_.first_wait, options_.longest_wait),
      now_(now),
      random_state_(options_.seed) {}

inline void core::begin(instant now) {
  now_ = std::max(now_, now);
  effects_.clear();
}

inline const effects& core::tick(instant now) {
  begin(now);
  const joining* const asks = std::get_if<joining>(&state_);
  const joined* const is_in = std::get_if<joined>(&state_);
  if (asks ? now_ >= asks->ask_due : is_in && now_ >= is_in->ask_due) ask_to_join();
  if (const leaving* const goes = std::get_if<leaving>(&state_); goes && now_ >= goes->ask_due) ask_to_leave();
  if (std::holds_alternative<joined>(state_) && leads() && now_ >= announce_due_) announce();
  return effects_;
}

inline const effects& core::receive(const message& of, instant now) {
  begin(now);
  if (is_over()) return effects_;
  if (of.cluster != options_.cluster) {
    if (of.type == message_type::join) {
      message& answer = send(of.from.where, message_type::refused);
      answer.why = refusal::wrong_cluster;
      answer.life = of.from.life;
    }
    // A refusal comes from another cluster when it is for that reason.
    if (of.type != message_type::refused) return effects_;
  }
  const bool is_answer =
      of.type == message_type::join_ack || of.type == message_type::refused || of.type == message_type::leave_ack;
  if (is_answer && of.life != options_.self.life) return effects_;
  switch (of.type) {
    case message_type::join: on_join(of); break;
    case message_type::join_ack: on_join_ack(of); break;
    case message_type::refused:
      if (!std::holds_alternative<joining>(state_)) break;
      effects_.refused = refused_join{of.why, of.from};
      state_ = refused{};
      break;
    case message_type::leave: on_leave(of); break;
    case message_type::leave_ack:
      if (!std::holds_alternative<leaving>(state_)) break;
      state_ = left{};
      effects_.left = true;
      break;
    case message_type::members: on_members(of); break;
  }
  return effects_;
}

inline const effects& core::lead_by(node_id leader, epoch_t epoch, instant now) {
  begin(now);
  if (is_over() || epoch < epoch_) return effects_;
  const bool is_new = leader != leader_ || epoch != epoch_;
  leader_ = leader;
  epoch_ = epoch;
  if (leads() && std::holds_alternative<joining>(state_)) become_member();
  if (is_new && leads()) changed();
  if (!is_new || !std::holds_alternative<joined>(state_)) return effects_;
  wait_.reset();
  if (has_leaders_list()) {
    state_ = joined{};
  } else {
    state_ = joined{now_ + wait_.next(random())};
  }
  return effects_;
}

inline const effects& core::leave(instant now) {
  begin(now);
  if (is_over() || std::holds_alternative<leaving>(state_)) return effects_;
  wait_.reset();
  state_ = leaving{now_};
  ask_to_leave();
  return effects_;
}

inline const effects& core::remove(node_id id, instant now, std::error_code& ec) {
  begin(now);
  ec = {};
  if (!leads() || is_over()) {
    ec = errc::not_leader;
  } else if (id == options_.self.id || !find(id)) {
    ec = errc::wrong_node;
  } else {
    drop(id);
    changed();
  }
  return effects_;
}

inline void core::ask_to_join() {
  std::vector<address> whom = options_.seeds;
  whom.push_back(leader_at_);
  if (const member* const leader = find(leader_)) whom.push_back(leader->where);
  const bool is_alone = std::all_of(whom.begin(), whom.end(), [this](const address& each) {
    return each == address() || each == options_.self.where;
  });
  if (is_alone && std::holds_alternative<joining>(state_)) return become_member();
  for (auto at = whom.begin(); at != whom.end(); ++at) {
    if (*at != address() && *at != options_.self.where && std::find(whom.begin(), at, *at) == at) {
      send(*at, message_type::join);
    }
  }
  const instant ask_due = now_ + wait_.next(random());
  if (std::holds_alternative<joined>(state_)) {
    state_ = joined{ask_due};
  } else {
    state_ = joining{ask_due};
  }
}

// A leader's list without it is all that its followers need to know.
inline void core::ask_to_leave() {
  leaving& goes = std::get<leaving>(state_);
  const member* const leader = find(leader_);
  const bool is_alone = members_.size() == 1;
  if (leads() || is_alone || ++goes.rounds > options_.leave_rounds) {
    const std::vector<member> others = std::exchange(members_, {options_.self});
    ++version_;
    for (const member& each : others) {
      if (!leads() || each.id == options_.self.id) continue;
      message& list = list_to(each.where, message_type::members);
      list.members = others;
      std::erase_if(list.members, [this](const member& one) { return one.id == options_.self.id; });
    }
    state_ = left{};
    effects_.left = true;
    return;
  }
  for (const member& each : members_) {
    if (each.id != options_.self.id && (!leader || each.id == leader->id)) send(each.where, message_type::leave);
  }
  goes.ask_due = now_ + wait_.next(random());
}

inline void core::on_join(const message& of) {
  const member* const known = find(of.from.id);
  if (of.from.id == options_.self.id ? of.from.life != options_.self.life : known && known->life != of.from.life) {
    message& answer = send(of.from.where, message_type::refused);
    answer.why = refusal::duplicate_node;
    answer.life = of.from.life;
    return;
  }
  const bool takes_in = leads() || (leader_ == 0 && list_epoch_ == 0);
  if (of.from.id == options_.self.id || std::holds_alternative<leaving>(state_)) return;
  if (takes_in && (!known || *known != of.from)) {
    put(of.from);
    changed();
  }
  message& answer = list_to(of.from.where, message_type::join_ack);
  answer.joined = takes_in;
  answer.life = of.from.life;
}

inline void core::on_join_ack(const message& of) {
  const bool is_in = std::holds_alternative<joined>(state_);
  if (!std::holds_alternative<joining>(state_) && !(is_in && !has_leaders_list())) return;
  if (of.joined) {
    take_list(of);
    if (!is_in || has_leaders_list()) become_member();
    return;
  }
  const auto leader =
      std::find_if(of.members.begin(), of.members.end(), [&of](const member& each) { return each.id == of.leader; });
  if (leader == of.members.end() || leader->where == leader_at_) return;
  leader_at_ = leader->where;
  send(leader_at_, message_type::join);
}

inline void core::on_leave(const message& of) {
  const member* const known = find(of.from.id);
  const bool is_member = known && known->life == of.from.life && of.from.id != options_.self.id;
  // Whoever leads answers, and while nobody does, everybody.
  if (!leads() && leader_ != 0) return;
  if (is_member) {
    drop(of.from.id);
    changed();
  }
  send(of.from.where, message_type::leave_ack).life = of.from.life;
}

inline void core::on_members(const message& of) {
  if (of.epoch < epoch_ || of.leader == options_.self.id) return;
  take_list(of);
  const member* const self = find(options_.self.id);
  if (self && *self == options_.self) {
    if (std::holds_alternative<joined>(state_) && has_leaders_list()) state_ = joined{};
    return;
  }
  put(options_.self);
  if (!std::holds_alternative<joined>(state_)) return;
  // The list is older than this node's joining, or another leader's.
  const auto leader = find(of.leader);
  if (leader) leader_at_ = leader->where;
  wait_.reset();
  state_ = joining{now_};
  ask_to_join();
}

inline void core::become_member() {
  wait_.reset();
  effects_.joined = !std::holds_alternative<joined>(state_);
  if (has_leaders_list() || members_.size() == 1) {
    state_ = joined{};
  } else {
    state_ = joined{now_ + wait_.next(random())};
  }
}

// While nobody leads, all who take nodes in are right.
inline void core::take_list(const message& of) {
  if (of.epoch == 0 && list_epoch_ == 0) {
    for (const member& each : of.members) {
      if (!find(each.id)) put(each);
    }
    return;
  }
  if (std::pair(of.epoch, of.version) <= std::pair(list_epoch_, version_)) return;
  list_epoch_ = of.epoch;
  version_ = of.version;
  if (of.epoch >= epoch_) {
    epoch_ = of.epoch;
    leader_ = of.leader;
  }
  if (members_ == of.members) return;
  members_ = of.members;
  effects_.members_changed = true;
}

inline void core::put(const member& who) {
  const auto at = std::lower_bound(members_.begin(), members_.end(), who.id,
                                   [](const member& each, node_id id) { return each.id < id; });
  if (at != members_.end() && at->id == who.id) {
    *at = who;
  } else {
    members_.insert(at, who);
  }
  effects_.members_changed = true;
}

inline void core::drop(node_id id) {
  std::erase_if(members_, [id](const member& each) { return each.id == id; });
  effects_.members_changed = true;
}

/// The list is this node's own from now on.
inline void core::changed() {
  if (!leads()) return;
  version_ = list_epoch_ == epoch_ ? version_ + 1 : 1;
  list_epoch_ = epoch_;
  announce();
}

inline void core::announce() {
  announce_due_ = now_ + options_.announce_interval;
  for (const member& each : members_) {
    if (each.id != options_.self.id) list_to(each.where, message_type::members);
  }
}

inline message& core::list_to(const address& to, message_type type) {
  message& made = send(to, type);
  made.leader = leader_;
  made.epoch = list_epoch_;
  made.version = version_;
  made.members = members_;
  return made;
}

inline message& core::send(const address& to, message_type type) {
  message& made = effects_.send.emplace_back();
  made.type = type;
  made.cluster = options_.cluster;
  made.from = options_.self;
  made.to = to;
  return made;
}

inline const member* core::find(node_id id) const noexcept {
  const auto at = std::lower_bound(members_.begin(), members_.end(), id,
                                   [](const member& each, node_id one) { return each.id < one; });
  return at != members_.end() && at->id == id ? &*at : nullptr;
}

inline instant core::deadline() const noexcept {
  if (const joining* const asks = std::get_if<joining>(&state_)) return asks->ask_due;
  if (const leaving* const goes = std::get_if<leaving>(&state_)) return goes->ask_due;
  const joined* const is_in = std::get_if<joined>(&state_);
  if (!is_in) return instant::max();
  return leads() ? std::min(is_in->ask_due, announce_due_) : is_in->ask_due;
}

inline std::string core::broken_rule() const {
  for (std::size_t i = 1; i < members_.size(); ++i) {
    if (members_[i].id <= members_[i - 1].id) return "two members have one id, or they are out of order";
  }
  const member* const self = find(options_.self.id);
  if (!self || *self != options_.self) return "a node is missing in its own list";
  if (list_epoch_ > epoch_) return "the list is of an epoch that is not known";
  return {};
}

inline std::uint64_t core::random() noexcept {
  // splitmix64 (Steele, Lea, Flood, "Fast Splittable Pseudorandom Number Generators", OOPSLA 2014).
  std::uint64_t z = random_state_ += 0x9e3779b97f4a7c15u;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return z ^ (z >> 31);
}

}  // namespace lockstep::membership
