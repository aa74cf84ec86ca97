// core: one node's part in a total order of messages that one leader makes, as a pure state machine: no I/O, no clock,
// no suspension.
//
//   sequencer::core<log_type> core(options, log, stored, now);
//   for (each record behind stored.delivered) core.replay(record);
//   perform(core.lead(epoch, now, wall_ns, ec));    // the election says: this node, or
//   perform(core.follow(leader, epoch, now, ec));   // another one
//   perform(core.submit(message, now));             // somebody has something to say, here
//   perform(core.receive(message, now));            // a message of another node came
//   perform(core.tick(now));                        // core.deadline() has come
//   perform(core.persisted(now));                   // log.acked() has risen
//
// Every input returns what must be done because of it. The driver does that in the order in which `effects` lists it,
// all of it before the next input. What is delivered is read from the log, up to the index that the effects name.
//
// The leader numbers messages 1, 2, 3…: a message's number is its record's index, and the record's `position` proves
// all of the order up to there. A new leader goes on at the number after the last. Before it numbers anything it takes
// over: it asks the others what they have, each of whom then refuses what older leaders send, and adopts the longest
// order of the latest epoch; nodes that have other records behind it take them back. (That is the recovery of Zab:
// Junqueira, Reed, Serafini, "Zab: High-performance broadcast for primary-backup systems", DSN 2011. The bully and the
// fixed sequencer are the usual textbooks' own.)
//
// It promises, on every node: messages are delivered in the order of their numbers, without gaps, each (sender, n) once
// and the messages of a sender in the order of their n; a delivered message is durable here; what the leader of an
// older epoch sends changes nothing. Who submits a message again gets the number that it already has.
// With quorum_acks also: a delivered message is durable on a majority of the members, so that every member that goes on
// delivers it under the same number, whoever crashes (uniform total order); and a message is answered as ordered only
// then.
//
// It does not promise:
//   - A leader, or one epoch for one leader: that is the election's part. With quorum_acks two leaders, of different
//     epochs or of the same, cannot both have anything delivered; without it, each side of a partition goes on alone.
//   - Without quorum_acks, to keep what was acknowledged: it is durable on the leader and nowhere else for certain.
//     What a new leader does not find, because the old one is down or cannot be reached within takeover_limit, is lost:
//     its numbers are given to other messages, and nodes that have delivered it take it back (effects::taken_back).
//   - To keep what has been submitted and not been answered: submit it again, here or elsewhere, under the same n.
//   - To know a sender for ever: see sender_limits. One that was forgotten is refused, not ordered twice.
//   - To bring a node back that lies far behind, or that needs what is not kept: catch-up does (effects::catch_up).
//   - A change of the members.
#pragma once

#include "lockstep/core/bytes.hpp"
#include "lockstep/core/ids.hpp"
#include "lockstep/log/batch.hpp"
#include "lockstep/log/format.hpp"
#include "lockstep/raft/quorum.hpp"
#include "lockstep/sequencer/detail/ring.hpp"
#include "lockstep/sequencer/entry.hpp"
#include "lockstep/sequencer/holdback.hpp"
#include "lockstep/sequencer/message.hpp"
#include "lockstep/sequencer/sender_table.hpp"

#include <algorithm>
#include <chrono>
#include <concepts>
#include <cstdint>
#include <limits>
#include <optional>
#include <string>
#include <system_error>
#include <utility>
#include <variant>
#include <vector>

namespace lockstep::sequencer {

/// Monotonic time since any fixed moment. Only differences mean something.
using instant = std::chrono::nanoseconds;

enum class role : std::uint8_t {
  follower,
  taking_over,  ///< chosen to lead; looks for what was ordered before
  leader,
  retired,  ///< does nothing any more: effects have said what is to be done before a new core is made
};

/// What must be durable before anybody is told of it.
struct hard_state {
  epoch_t epoch = 0;     ///< nothing of an older one is taken
  node_id leader = 0;    ///< of that epoch, and nobody else; 0: nobody
  epoch_t accepted = 0;  ///< the latest epoch whose leader's order, as it stood when it began, is in the log here

  friend bool operator==(const hard_state&, const hard_state&) = default;
};

struct core_options {
  node_id id = 0;
  std::uint64_t seed = 0;  ///< for the chance in waits; different on every node

  /// All nodes, this one too; the same on every node. Others are not listened to.
  raft::majority members;
  /// Delivered and acknowledged is what a majority of the members has durable; otherwise, what the leader has. The same
  /// on every node.
  bool quorum_acks = true;

  instant heartbeat_interval = std::chrono::milliseconds(100);
  /// How long a new leader waits for the others: for all of them without quorum_acks, and for one that it fetches from.
  instant takeover_limit = std::chrono::seconds(1);

  /// A gap is asked for when it has been there for so long, up to half as long again by chance, and again after
  /// fetch_retry when no answer comes.
  instant fetch_wait = std::chrono::milliseconds(10);
  instant fetch_retry = std::chrono::milliseconds(200);
  std::size_t fetches_in_flight = 4;        ///< at least 1
  std::uint64_t holdback_bytes = 4u << 20;  ///< of records that came too early
  std::uint64_t most_behind = 100'000;      ///< records; who lacks more is to catch up by other means

  std::uint64_t max_undelivered_bytes = 64u << 20;  ///< of a leader; more is refused as overloaded
  sender_limits senders;
};

/// What a core has of its life before.
struct stored_state {
  hard_state hard;
  /// Up to here the program's own state has everything; not before log.base(). Nothing else is delivered again.
  index_t delivered = 0;
  /// As of there; std::nullopt when `delivered` is 0.
  std::optional<sender_table> senders;
};

/// The log as the core sees it: basic_append_log is one. Only the driver changes it, and only as effects say.
template <class L>
concept core_log = requires(L& log, index_t index) {
  { log.base() } -> std::convertible_to<position>;                      // before the first record
  { log.last() } -> std::convertible_to<position>;                      // staged
  { log.acked() } -> std::convertible_to<position>;                     // durable as the sync policy promises
  { log.position_at(index) } -> std::same_as<std::optional<position>>;  // of one in [base, last]
};

/// What somebody wants to have ordered. It is submitted again, unchanged, until it is answered as ordered; before that,
/// the sender's next message may be submitted already.
struct submission {
  sender_id sender = 0;
  std::uint64_t n = 0;         ///< 1, 2, 3… of each sender
  std::uint64_t since_ns = 0;  ///< log_time_ns() when the sender began, not when this message was made
  bytes_view payload;
};

/// To whoever submitted a message at this node.
struct answer {
  sender_id sender = 0;
  std::uint64_t n = 0;
  submit_status status = submit_status::ordered;
  index_t index = 0;  ///< ordered: the message's number
};

/// What must be done after an input, in this order. References are valid until the next input.
struct effects {
  std::optional<index_t> truncate;    ///< 1. takes the records behind this index back; durable when it is done
  std::vector<record_batch> append;   ///< 2. stages these as they are, they continue the log
  std::optional<entry> append_own;    ///<    or makes a data_record of epoch() of this
  std::optional<hard_state> persist;  ///< 3. durable before anything else is done
  std::vector<message> send;          ///< 4. does not wait for what is staged to be durable
  std::optional<index_t> deliver;     ///< 5. everything up to here that was not delivered yet
  std::vector<answer> answers;        ///< 6.

  /// The core has retired, when one of these is set. A new one is made of the log and the stored state, when
  /// the log has caught up with this node's (catch-up's follower), and then given the same role again;
  node_id catch_up = 0;
  /// at once, but the program's state and the table of senders must be ones from before `truncate`;
  bool taken_back = false;
  /// or never: nodes have broken the rules, and this one must stop.
  std::string broken;

  void clear() {
    truncate.reset();
    append.clear();
    append_own.reset();
    persist.reset();
    send.clear();
    deliver.reset();
    answers.clear();
    catch_up = 0;
    taken_back = false;
    broken.clear();
  }
};

/// See the top of this file. Thread safety: none.
template <core_log Log>
class core {
 public:
  /// @param log  outlives this.
  core(const core_options& options, Log& log, stored_state stored, instant now);
  core(const core&) = delete;
  core& operator=(const core&) = delete;

  /// Before any input: the records of the log behind stored.delivered, in order.
  /// @return false when one is not a message; the log is not a sequencer's then.
  [[nodiscard]] bool replay(const record& next);

  // --- inputs ---

  /// This node is chosen to lead.
  /// @param epoch    that nobody else leads.
  /// @param wall_ns  wall clock, for log time.
  /// @param ec       stale_epoch: it does not lie behind epoch(), or was given to another leader; closed: retired.
  /// Nothing
  ///   happens then.
  const effects& lead(epoch_t epoch, instant now, std::uint64_t wall_ns, std::error_code& ec);
  /// Another one is. It need not be told when the leader's messages come first. @param ec  as lead();
  /// wrong_node: this node, or no member.
  const effects& follow(node_id leader, epoch_t epoch, instant now, std::error_code& ec);

  /// effects.answers, of this input or a later one, has the answer, or there is none: a message and the answer can be
  /// lost on the way to and from the leader.
  const effects& submit(const submission& of, instant now);
  /// @param of  `of.to` is this node.
  const effects& receive(const message& of, instant now);
  /// log.acked() may have risen.
  const effects& persisted(instant now);
  /// `now` has come, which is deadline() or any other time.
  const effects& tick(instant now);

  // --- what is so ---

  [[nodiscard]] sequencer::role role() const noexcept;
  [[nodiscard]] node_id id() const noexcept { return options_.id; }
  [[nodiscard]] epoch_t epoch() const noexcept { return hard_.epoch; }
  [[nodiscard]] const hard_state& hard() const noexcept { return hard_; }
  /// 0: none is known.
  [[nodiscard]] node_id leader() const noexcept;
  [[nodiscard]] index_t delivered() const noexcept { return delivered_; }
  /// Of what is delivered here.
  [[nodiscard]] std::uint64_t log_time_ns() const noexcept { return senders_.time_ns(); }
  [[nodiscard]] const sender_table& senders() const noexcept { return senders_; }
  [[nodiscard]] std::uint64_t undelivered_bytes() const noexcept { return undelivered_bytes_; }
  /// Of records that came too early.
  [[nodiscard]] std::uint64_t held_bytes() const noexcept { return held_.bytes(); }
  /// Of a leader: what this member has acknowledged.
  [[nodiscard]] index_t acked_by(node_id id) const noexcept;
  /// When tick() has something to do; instant::max(): not before another input.
  [[nodiscard]] instant deadline() const noexcept;

  /// What of the rules that always hold does not hold now; empty: all do. Costs time; for debugging and simulation.
  [[nodiscard]] std::string broken_rule() const;

 private:
  struct following {
    node_id leader = 0;
  };
  struct taking_over {
    struct member {
      node_id id = 0;
      epoch_t accepted = 0;
      position last;
    };
    std::vector<member> answers;  // of others
    node_id source = 0;           // who has the order to adopt; 0: not decided
    position target;              // its end
    instant ask_due{};
    instant until{};
  };
  struct leading {
    struct peer {
      node_id id = 0;
      index_t acked = 0;
    };
    position start;           // where the order stood when this epoch began
    std::vector<peer> peers;  // all other members
    index_t bound_told = 0;
    instant heartbeat_due{};
  };
  struct retired {};

  // How the log here compares with another's: a follower's leader, or the source of a takeover.
  struct comparison {
    std::optional<position> start;  // once it is known
    index_t matched = 0;            // up to here both are the same
    std::optional<index_t> differs_from;
    index_t last = 0;            // of the other log, as far as it is known
    std::vector<index_t> asked;  // the indexes that follow the positions in fetches which are under way
    std::optional<instant> ask_due;
  };

  // A record that is not delivered.
  struct numbered {
    sender_id sender = 0;
    std::uint64_t n = 0;
    std::uint64_t time_ns = 0;
    std::uint64_t bytes = 0;
    node_id asked_by = 0;  // who waits for the answer; 0: nobody
  };

  void begin(instant now);
  const effects& done();
  [[nodiscard]] bool refuses(epoch_t epoch, node_id leader) const;
  void enter(epoch_t epoch, node_id leader);
  void retire();
  void compare_anew();

  void begin_takeover();
  void ask_what_others_have();
  void go_on_taking_over();
  void on_takeover(const message& of);
  void on_takeover_answer(const message& of);
  void choose_order();
  void end_takeover();
  void become_leader();

  void on_submit(const submission& of, node_id from);
  void number(const submission& of, node_id from);
  void answer_to(node_id from, const submission& of, submit_status status, index_t index = 0);

  void on_records(const message& of);
  void learn(const position& theirs);
  void take_back_what_differs();
  void take_back(index_t keep);
  void take(const position& at, const record_batch& records);
  bool append_what_follows(record_batch records);
  void take_held();
  void ask_for_what_is_missing();
  void ask_now();
  void ask_for(const position& at, index_t last);
  [[nodiscard]] bool misses_something() const noexcept;
  [[nodiscard]] node_id source() const noexcept;
  [[nodiscard]] index_t wanted() const noexcept;

  void on_fetch(const message& of);
  void on_ack(const message& of);
  void accept_epoch();
  void acknowledge(bool again);
  void update_bound();
  void deliver();
  void broadcast(const position& at, index_t last, bool wants_ack);
  message& records_message(node_id to, const position& at, index_t last);
  message& send(node_id to, message_type type);

  [[nodiscard]] std::optional<position> own(index_t index);
  [[nodiscard]] instant by_chance(instant wait) noexcept;
  [[nodiscard]] taking_over* as_taking_over() { return std::get_if<taking_over>(&state_); }
  [[nodiscard]] leading* as_leader() { return std::get_if<leading>(&state_); }

  const core_options options_;
  Log& log_;
  hard_state hard_;
  hard_state stored_hard_;  // as the driver has it, or will have it once it has performed the effects
  position last_;           // of the log once the effects are performed; with append_own, before it
  index_t durable_ = 0;     // in the log here
  index_t delivered_ = 0;   // never falls
  index_t bound_ = 0;       // what may be delivered of the order of this epoch
  index_t acked_ = 0;       // follower: what the leader of this epoch was told
  std::variant<following, taking_over, leading, retired> state_;
  comparison with_;
  holdback held_;
  detail::ring<numbered> undelivered_;  // the records in (delivered_, last_]
  std::uint64_t undelivered_bytes_ = 0;
  sender_table senders_;
  std::uint64_t wall_ns_ = 0;  // leader: when its life began
  instant wall_at_{};
  instant now_{};
  std::uint64_t random_state_;
  effects effects_;
};

}  // namespace lockstep::sequencer

#include "lockstep/sequencer/detail/core_impl.hpp"
