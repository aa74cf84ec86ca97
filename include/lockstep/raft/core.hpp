// core: one node's part in a Raft group, as a pure state machine: no I/O, no clock, no suspension.
//
//   raft::core<log_type> core(options, log, stored, now);
//   perform(core.receive(message, now));            // a message came
//   perform(core.tick(now));                        // core.deadline() has come
//   perform(core.propose(data_record, bytes));      // somebody wants to write
//   perform(core.persisted(now));                   // log.acked() has risen
//
// Every input returns what must be done because of it. The driver does that in the order in which `effects` lists it,
// all of it before the next input, so that the log that the core looks at is always as the core thinks it is. Records
// are shipped by the driver: for each follower it asks next_append() what to send, whenever the channel has room.
//
// The algorithm is Raft (Ongaro and Ousterhout, "In Search of an Understandable Consensus Algorithm", called the paper
// here, and Ongaro, "Consensus: Bridging Theory and Practice", the dissertation) with pre-vote (dissertation, 9.6),
// leader stickiness and check-quorum (6.2, 9.6), leadership transfer (3.10), ReadIndex and leases (6.4), learners and
// joint configurations that count from the moment they are appended (4.1, 4.3), and a leader that writes to its own
// disk while its followers write to theirs (10.2.1).
#pragma once

#include "lockstep/core/bytes.hpp"
#include "lockstep/core/errors.hpp"
#include "lockstep/core/ids.hpp"
#include "lockstep/core/mutant.hpp"
#include "lockstep/log/format.hpp"
#include "lockstep/raft/confchange.hpp"
#include "lockstep/raft/config.hpp"
#include "lockstep/raft/message.hpp"
#include "lockstep/raft/progress.hpp"
#include "lockstep/raft/quorum.hpp"

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

namespace lockstep::raft {

/// Monotonic time since any fixed moment. Only differences mean something.
using instant = std::chrono::nanoseconds;

/// Kinds of records beside data_record. A leader begins its term with an epoch_record, which changes nothing.
inline constexpr record_kind config_record = 2;   ///< the payload is a configuration
inline constexpr record_kind witness_record = 3;  ///< in a witness's log, in the place of a record with a payload

enum class role : std::uint8_t { follower, pre_candidate, candidate, leader };

/// What must be durable before anybody is told of it.
struct hard_state {
  term_t term = 0;
  node_id vote = 0;  ///< whom this node voted for in `term`; 0: nobody

  friend bool operator==(const hard_state&, const hard_state&) = default;
};

/// A configuration and where in the log it stands.
struct placed_configuration {
  index_t index = 0;  ///< 0: given from outside, by a snapshot or a bootstrap
  configuration config;
};

struct core_options {
  node_id id = 0;
  std::uint64_t seed = 0;  ///< for the chance in election timeouts; different on every node

  /// Without a word from a leader for this long, and up to half as long again by chance, a voter asks to be one. A leader
  /// that has not heard from a quorum for this long steps down. The same on every node.
  instant election_timeout = std::chrono::milliseconds(1000);
  instant heartbeat_interval = std::chrono::milliseconds(100);

  /// How soon this node stands for election, compared with others: the timeout of one with less waits longer, up to
  /// another timeout at 1. 0: never; then the other voters should be a quorum without it, since one who has less than
  /// it has is not elected with its vote.
  std::uint8_t priority = 100;

  /// A leader reads by its lease when its clock and those of its followers run at rates that differ by no more than
  /// this fraction (0.01: one second in a hundred); 0: it asks a quorum for every round of reads.
  double lease_drift = 0;

  /// When all is committed and every member has it, and nothing has happened for so long, the leader says so and sends
  /// no more heartbeats, and nobody waits for them; 0: never. What then happens to a connection must be told at once,
  /// by disconnected(): it is all that shows a follower that its quiet leader is gone.
  instant quiesce_after{};

  inflights_limits in_flight;                       ///< what a follower is sent ahead of its answers
  std::uint64_t max_uncommitted_bytes = 64u << 20;  ///< more proposals are refused as overloaded

  /// A leader steps down when its own disk has not taken a record for so long, so that somebody else may go on.
  instant disk_stall_timeout = std::chrono::seconds(10);

  /// After damage the log may lack records that this node has acknowledged. Until it has them again, up to here, it
  /// neither votes nor stands for election. (design: C6)
  index_t must_refill = 0;
};

/// What a core has of its life before.
struct stored_state {
  hard_state hard;
  index_t commit = 0;  ///< known to be committed, as the index of a snapshot is; the log begins there or before
  std::vector<placed_configuration> configurations;  ///< in force at `commit`, and all behind it in the log
};

/// The log as the core sees it: basic_append_log is one. Only the driver changes it, and only as effects say.
template <class L>
concept core_log = requires(L& log, index_t index) {
  { log.base() } -> std::convertible_to<position>;                      // before the first record
  { log.last() } -> std::convertible_to<position>;                      // staged
  { log.acked() } -> std::convertible_to<position>;                     // durable as the sync policy promises
  { log.position_at(index) } -> std::same_as<std::optional<position>>;  // of one in [base, last]
};

struct own_record {
  record_kind kind = data_record;
  bytes_view payload;  ///< valid until the next input; of a proposal, as long as the proposer's bytes are
};

/// A read that was asked for may be answered from a state that has applied all up to `index`.
struct released_read {
  std::uint64_t id = 0;
  index_t index = 0;  ///< 0: refused, this node does not lead any more
};

/// What must be done after an input, in this order. References are valid until the next input.
struct effects {
  std::optional<hard_state> persist;   ///< 1. durable before anything else is done
  std::optional<index_t> truncate;     ///< 2. takes the records behind this index back
  record_batch append;                 ///< 3. stages these as they are, they continue the log
  std::vector<own_record> append_own;  ///<    or makes records of these, of term()
  std::vector<message> send;           ///< 4. neither waits for what is staged to be durable
  std::vector<released_read> reads;    ///< 5.
  bool offer_accepted = false;         ///< 6. the snapshot that was offered is wanted
  std::string broken;                  ///< not empty: the group has broken Raft's own rules; the node must stop

  void clear() {
    persist.reset();
    truncate.reset();
    append = {};
    append_own.clear();
    send.clear();
    reads.clear();
    offer_accepted = false;
    broken.clear();
  }
};

/// What a follower is to be sent next.
struct append_plan {
  enum class what : std::uint8_t {
    nothing,   ///< wait: it has everything, or its window is full
    records,   ///< from `next` on, not beyond `last`, as many as fit a message, at least one
    commit,    ///< no records; it should know `commit`, or be probed
    snapshot,  ///< the record before `next` is not kept any more
  };
  what send = what::nothing;
  index_t next = 0;
  index_t last = 0;
  index_t commit = 0;
  bool payloads = true;  ///< false: it is a witness, and a witness_record may stand for each data_record
};

/// A core for people to look at. Plain data.
struct peer_status {
  node_id id = 0;
  bool votes = false;
  bool heard = false;  ///< from it within the last election timeout
  progress::state_t state = progress::state_t::probe;
  index_t match = 0;
  index_t next = 0;
  index_t lag = 0;  ///< how many records it is not known to have durable
};
struct core_status {
  node_id id = 0;
  raft::role role = raft::role::follower;
  node_id leader = 0;  ///< 0: none is known
  term_t term = 0;
  index_t commit = 0;
  index_t applicable = 0;
  index_t last = 0;
  bool quiet = false;
  configuration members;
  index_t members_index = 0;       ///< not committed while above `commit`
  std::size_t quorum = 0;          ///< how many of the incoming voters decide
  std::vector<peer_status> peers;  ///< of a leader: all other members
  std::string last_change;         ///< why it last stood for election or gave up leading
};

/// See the top of this file. Thread safety: none.
template <core_log Log>
class core {
 public:
  /// @param log  outlives this. Its records behind stored.commit may be taken back.
  core(const core_options& options, Log& log, stored_state stored, instant now);
  core(const core&) = delete;
  core& operator=(const core&) = delete;

  // --- inputs ---

  /// `now` has come, which is deadline() or any other time.
  const effects& tick(instant now);
  /// @param of  from a member, or from somebody who may become one; `of.to` is this node.
  const effects& receive(const message& of, instant now);
  /// log.acked() may have risen.
  const effects& persisted(instant now);

  /// A record of this kind is wanted in the log. Leaders only.
  /// @param ec  not_leader; overloaded: too much is not committed yet, or leadership is being transferred.
  const effects& propose(record_kind kind, bytes_view payload, std::error_code& ec);
  /// Changes the members. @param ec  as propose(); overloaded: the last change is not committed yet; wrong_node: the
  /// leader would become a witness, with records that nobody else has.
  /// @param why  what is wrong with the change itself; nothing happens then.
  const effects& change_members(const change_list& changes, std::error_code& ec, change_error& why);
  /// Leaves a joint configuration that is not left by itself.
  const effects& leave_joint(std::error_code& ec, change_error& why);

  /// Asks for an index to read at: effects.reads answers by the same id, now or later. Followers ask their leader.
  /// @param id  different for each read that this node waits for.
  /// @param ec  not_leader: there is no leader to ask.
  const effects& read(std::uint64_t id, instant now, std::error_code& ec);

  /// Lets `to` become leader, as soon as it has everything. Given up after an election timeout.
  /// @param ec  not_leader, wrong_node (no voter that can lead).
  const effects& transfer(node_id to, instant now, std::error_code& ec);

  /// Gives up leading, because the log does not take what a leader has to write: what was to be appended is not there.
  const effects& resign(std::string why);

  /// What follows in the log was verified as it was appended: a configuration that counts from now on.
  const effects& adopt(index_t index, configuration config);

  /// A snapshot that was offered replaces the log up to `at`, where the log begins now; `config` was in force there.
  /// Not unless needs_snapshot(at), which the driver asks before it touches the log: while the snapshot was under way,
  /// this node may have got, and acknowledged, what follows it.
  const effects& installed(const position& at, configuration config, instant now);
  [[nodiscard]] bool needs_snapshot(const position& at);

  /// The connection with `other` is lost, and what was under way. Reads that a follower has asked its leader for are
  /// refused: the answer may be lost, or belong to one that asked before a crash. Who has lost a quiet leader waits for
  /// it, or another one, no longer than usual.
  const effects& disconnected(node_id other, instant now);

  // --- shipping: what the driver asks of a leader for each other member ---

  [[nodiscard]] append_plan next_append(node_id to);
  /// An append with the records up to `last`, `bytes` long, was sent; without records, `last` is the one before.
  void sent(node_id to, index_t last, std::uint64_t bytes, const append_plan& plan);
  /// A snapshot of the records up to `index` is under way; or has failed; or has arrived, which its answer confirms.
  void snapshot_sent(node_id to, index_t index);
  void snapshot_failed(node_id to);

  // --- what is so ---

  [[nodiscard]] raft::role role() const noexcept;
  [[nodiscard]] term_t term() const noexcept { return hard_.term; }
  [[nodiscard]] node_id vote() const noexcept { return hard_.vote; }
  [[nodiscard]] node_id id() const noexcept { return options_.id; }
  /// 0: none is known.
  [[nodiscard]] node_id leader() const noexcept;
  [[nodiscard]] index_t commit() const noexcept { return commit_; }
  /// What may be applied: committed, and durable here too, so that no state is ahead of its log after a crash.
  [[nodiscard]] index_t applicable() const noexcept { return std::min(commit_, durable_); }
  [[nodiscard]] const configuration& members() const noexcept { return configurations_.back().config; }
  /// The configuration in force at `index`, which is not below the last compacted one.
  [[nodiscard]] const configuration& members_at(index_t index) const;
  /// Where members() stands in the log; not committed while above commit().
  [[nodiscard]] index_t members_index() const noexcept { return configurations_.back().index; }
  /// When tick() has something to do; instant::max(): not before another input.
  [[nodiscard]] instant deadline() const noexcept;
  [[nodiscard]] core_status status() const;
  /// Of a leader: what it knows of another member; null for a stranger and when this node does not lead.
  [[nodiscard]] const progress* progress_of(node_id id) const;
  [[nodiscard]] std::uint64_t uncommitted_bytes() const noexcept { return uncommitted_.bytes(); }
  /// Why this node last stood for election or gave up leading, for people.
  [[nodiscard]] const std::string& last_change() const noexcept { return last_change_; }

  /// What of the rules that always hold does not hold now; empty: all do. Costs time; for debugging and simulation.
  [[nodiscard]] std::string broken_rule() const;

 private:
  struct peer {
    node_id id = 0;
    raft::progress progress;
    instant heard{};          // its last message of this term, or the begin of leading it
    index_t commit_sent = 0;  // what it was told is committed
    std::uint64_t round = 0;  // the last one that it answered
  };
  struct following {
    node_id leader = 0;
    bool quiet = false;  // that leader sends no heartbeats
  };
  struct standing {
    bool pre = false;
    std::vector<std::pair<node_id, bool>> votes;
  };
  struct pending_read {
    std::uint64_t id = 0;
    node_id from = 0;         // 0: this node
    std::uint64_t round = 0;  // that confirms it
    index_t index = 0;
  };
  struct sent_round {
    std::uint64_t round = 0;
    instant at{};
  };
  struct leading {
    index_t first_index = 0;  // of this term: its epoch_record's
    std::vector<peer> peers;  // all other members, by id
    enum class pace_t : std::uint8_t { beating, quiet, waking } pace = pace_t::beating;
    instant active{};  // the last time that something happened
    instant heartbeat_due{};
    std::uint64_t round = 0;            // the last that was begun
    std::uint64_t confirmed = 0;        // the last that a quorum has answered
    std::optional<instant> lease_from;  // when that was begun
    std::vector<sent_round> rounds;     // begun and not confirmed
    std::vector<pending_read> reads;
    node_id transfer_to = 0;
    instant transfer_until{};
    bool gave_way = false;  // a timeout_now was sent: whenever it arrives, nobody waits for this leader's lease to end
    std::optional<instant> disk_waits_since;  // while not all is durable: the last time that more became durable
  };

  void begin(instant now);
  const effects& done();
  /// Who elects and commits.
  [[nodiscard]] const configuration& deciding() const noexcept {
    return mutated(mutant::count_configuration_when_committed) ? configurations_.front().config : members();
  }

  void become_follower(term_t term, node_id new_leader, std::string why);
  void enter_term(hard_state next);
  void follow(node_id new_leader);
  void stand(bool pre, bool transferred, std::string why);
  void count_votes();
  void become_leader();
  [[nodiscard]] bool may_stand() const;
  [[nodiscard]] bool hears_leader() const;
  [[nodiscard]] bool is_quiet() const noexcept;
  [[nodiscard]] bool may_fall_quiet() const;
  void fall_quiet();
  void wake();
  void resume();
  void reset_election_deadline();

  void on_vote_request(const message& of);
  void on_vote_response(const message& of);
  void on_append(const message& of);
  void on_append_response(const message& of);
  void on_heartbeat(const message& of);
  void on_heartbeat_response(const message& of);
  void match_rose(node_id follower);
  void on_read_request(const message& of);
  void on_read_response(const message& of);
  void on_timeout_now(const message& of);
  void on_snapshot_offer(const message& of);
  bool accept_leader(const message& of);
  bool same_history(const position& theirs);
  void take_back(index_t keep);
  void commit_what_is_known();
  void acknowledge(node_id to);
  [[nodiscard]] index_t acknowledgeable() const;
  void reject_append(const message& of);
  message& send(node_id to, message_type type);
  message& answer(const message& of, message_type type) { return send(of.from, type); }

  void add_own(record_kind kind, bytes_view payload);
  bool may_change_members(std::error_code& ec, change_error& why);
  void begin_configuration(configuration config);
  void update_peers();
  void update_commit();
  void commit_to(index_t index);
  void begin_round();
  void confirm_rounds();
  void add_read(std::uint64_t id, node_id from);
  [[nodiscard]] bool has_lease() const;
  void release_reads();
  void answer_read(const pending_read& read, index_t index);
  void refuse_reads();
  [[nodiscard]] index_t durable_at_full_voters();
  void send_timeout_now_if_ready(const peer& to);
  void hand_over();
  peer* find_peer(node_id id);
  leading* as_leader() { return std::get_if<leading>(&state_); }
  [[nodiscard]] const leading* as_leader() const { return std::get_if<leading>(&state_); }

  void look_at_log();
  [[nodiscard]] term_t term_at(index_t index);
  std::uint64_t random() noexcept;

  const core_options options_;
  Log& log_;
  hard_state hard_;
  hard_state stored_hard_;    // as the driver has it, or will have it once it has performed the effects
  index_t last_index_ = 0;    // of the log once the effects are performed
  term_t last_term_ = 0;      // of that record
  index_t durable_ = 0;       // in the log here
  index_t commit_ = 0;        // never falls
  index_t matched_ = 0;       // follower: up to here the log is as the leader of this term has it
  index_t acknowledged_ = 0;  // follower: what the leader of this term was told
  index_t known_commit_ = 0;  // follower: what some leader has committed, whether it is here or not
  std::vector<placed_configuration> configurations_;  // the one in force at commit_, and all behind it
  std::variant<following, standing, leading> state_;
  instant now_{};
  std::optional<instant> heard_leader_;  // the last message of whoever led
  instant election_deadline_{};
  inflights uncommitted_;                       // leader: its own records that are not committed
  byte_buffer config_bytes_;                    // leader: of the config_record in the effects
  std::vector<std::uint64_t> forwarded_reads_;  // follower: that its leader was asked for
  std::uint64_t random_state_;
  std::string last_change_;
  effects effects_;
};

}  // namespace lockstep::raft

#include "lockstep/raft/detail/core_impl.hpp"
