// node: a member of a Raft group. Runs the core (raft/core.hpp) on a log, a network and a state machine.
//
//   raft::node_options options;
//   options.core.id = 1;
//   options.cluster = "orders";
//   options.directory = "/var/lib/orders";
//   options.members = {{1, "10.0.0.1:7101"}, {2, "10.0.0.2:7101"}, {3, "10.0.0.3:7101"}};
//   auto node = co_await raft::node<kv>::open(env, options, machine);
//   lockstep::server_options serving;
//   serving.channel = node->hello();
//   lockstep::server server(env, env.listen(where, ec), serving);
//   server.on("raft", [&](lockstep::channel& from) { return node->serve(from); });
//   group.spawn(server.run());
//   group.spawn(node->run());
//   ...
//   const raft::outcome done = co_await node->propose(command, 2s);
//   if (done.ok()) use(done.result.view());
//
// A record is encoded once, by the leader: the same bytes go to its disk, to the followers and to their disks. A
// command is applied on every node, in the order of the log; whoever proposed it gets what apply() answered.
//
// What it does not promise: that a command whose outcome is unknown (see outcome) was applied or was not; that it is
// applied once when it is proposed again (raft/sessions.hpp does); that a read of the state machine is up to date
// without read_barrier().
#pragma once

#include "lockstep/core/mutant.hpp"
#include "lockstep/core/task_group.hpp"
#include "lockstep/core/wait_list.hpp"
#include "lockstep/env/real.hpp"
#include "lockstep/frame/channel.hpp"
#include "lockstep/log/append_log.hpp"
#include "lockstep/raft/codec.hpp"
#include "lockstep/raft/core.hpp"
#include "lockstep/raft/hard_state_file.hpp"
#include "lockstep/raft/snapshot_store.hpp"
#include "lockstep/raft/state_machine.hpp"
#include "lockstep/rpc/backoff.hpp"
#include "lockstep/rpc/server.hpp"

#include <deque>
#include <exception>
#include <list>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace lockstep::raft {

/// The purpose of the connections between members.
inline constexpr const char* raft_purpose = "raft";

struct node_options {
  // Not an aggregate: g++ 12 destroys aggregate temporaries twice in expressions with co_await.
  node_options() {}

  core_options core;      ///< the id and the times
  std::string cluster;    ///< at most max_cluster_bytes long; the same on every member
  std::string directory;  ///< made when missing; its parent exists

  /// The first members and their addresses, the same on every one of them: used once, when the directory is new. Empty
  /// for a node that is to be added to a group that exists.
  std::map<node_id, std::string> members;

  /// This node is, or will be, a witness: it votes and keeps what is needed for that, and applies nothing.
  bool witness = false;

  /// A snapshot is taken when so many bytes of commands were applied since the last one; 0: never.
  std::uint64_t snapshot_after_bytes = 64u << 20;
  /// What of the log is kept behind the last snapshot, for followers that are not far behind.
  std::uint64_t keep_log_bytes = 64u << 20;

  log_options log;
  snapshot_options snapshots;
  /// Sizes and times; who is who is filled in, and so are `features`. Without a keepalive, one is chosen that fits the
  /// election timeout; without an idle_timeout likewise, on the connections that this node opens.
  channel_options channel;
  std::size_t max_batch_bytes = 256 << 10;  ///< of records in one message, except for a larger record
  duration connect_timeout = std::chrono::seconds(1);
  duration reconnect_least = std::chrono::milliseconds(20);
  duration reconnect_most = std::chrono::seconds(1);
};

/// What became of a proposal.
struct outcome {
  /// Nothing: it was applied. not_leader, overloaded, record_too_large, closed, or what the disk said: it was not, and
  /// will not be. timed_out: not known.
  std::error_code error;
  node_id leader = 0;  ///< who leads, as far as this node knows; 0: not known
  position at;         ///< of its record, when it was applied
  byte_buffer result;  ///< what apply() answered, when it was applied

  [[nodiscard]] bool ok() const noexcept { return !error; }
};

/// A node for people to look at. Plain data.
struct member_status {
  node_id id = 0;
  std::string address;
  bool votes = false;
  bool connected = false;
  std::optional<duration> silent_for;  ///< since its last message to this node; nothing: none came yet
  std::string trouble;                 ///< why the last attempt to connect to it failed; empty: it did not
  progress::state_t state = progress::state_t::probe;  ///< this and the rest are known by the leader only
  index_t match = 0;
  index_t lag = 0;  ///< how many records it is not known to have durable
};
struct node_status {
  core_status core;  ///< role, leader, term, commit, quorum, why the last election was held, and more
  std::string cluster;
  bool witness = false;
  index_t first = 0;     ///< the first record that the log keeps
  index_t durable = 0;   ///< the last that is durable here
  index_t applied = 0;   ///< the last that the state machine has applied
  index_t snapshot = 0;  ///< what the newest snapshot stands for; 0: there is none
  index_t refill = 0;    ///< not 0: this node does not vote until, after damage, it has the records up to here again
  std::optional<duration>
      leader_silent_for;               ///< since a leader was last heard; nothing: none was yet, or this one leads
  std::vector<member_status> members;  ///< all but this one
};

/// Damage to the log or a snapshot, of which the group will mend the node: its next open() begins with nothing, beside
/// the damaged files. Code: corrupt.
struct refill_begun : std::system_error {
  explicit refill_begun(const std::system_error& damage) : system_error(damage) {}
};

/// See the top of this file. Thread safety: none; everything on the environment's executor.
template <environment Env, state_machine Machine>
class basic_node {
 public:
  using log_type = basic_append_log<Env>;
  using channel_type = basic_channel<Env>;
  /// The log as the core sees it. A witness's records are its own, with another chain than its leader's: it has none to
  /// compare.
  struct log_view {
    log_type* log = nullptr;
    bool witness = false;

    [[nodiscard]] position base() const { return seen(log->base()); }
    [[nodiscard]] position last() const { return seen(log->last()); }
    [[nodiscard]] position acked() const {
      return seen(mutated(mutant::staged_counts_as_durable) ? log->last() : log->acked());
    }
    [[nodiscard]] std::optional<position> position_at(index_t index) {
      const std::optional<position> found = log->position_at(index);
      return found ? std::optional(seen(*found)) : std::nullopt;
    }

   private:
    [[nodiscard]] position seen(position at) const noexcept {
      if (witness) at.chain = 0;
      return at;
    }
  };
  using core_type = raft::core<log_view>;
  using store_type = basic_snapshot_store<Env>;

  /// Opens the directory, or makes it. The state machine is as it was made: what is committed is applied to it again.
  /// @param env, machine  outlive the node.
  /// @throws system_error: wrong_cluster, wrong_node (the directory is another node's), log_locked (the text names the
  ///   holder's pid), corrupt, or what the file system said. refill_begun: the next open(), with a state machine that is
  ///   new again, begins with nothing, and the group gives the node back what it had. That does not help when the only
  ///   member's disk is damaged, or the hard state: then it is corrupt, and nothing is changed.
  static awaitable<std::unique_ptr<basic_node>> open(Env& env, node_options options, Machine& machine);
  basic_node(const basic_node&) = delete;
  basic_node& operator=(const basic_node&) = delete;

  /// Takes part until close(). Once.
  /// @throws what made it stop: what the disk said (refill_begun as open()), or that somebody has broken Raft's rules.
  /// Cancellation: as close(), and throws operation_aborted.
  awaitable<void> run();

  /// Serves a member that has connected and shaken hands. For a server's session.
  awaitable<void> serve(channel_type& from);

  /// For a server that serves this node's members: who this side is. A member that is connected already is refused when
  /// it comes from another process. Not to be used when the node is gone.
  [[nodiscard]] channel_options hello() const;

  /// Wants `command` applied everywhere. On the leader only.
  /// @param command  stays until this completes.
  /// @param limit    how long to wait for the outcome.
  /// Cancellation: as a timeout: it may still be applied.
  awaitable<outcome> propose(bytes_view command, duration limit);

  /// When it completes, this node's state machine has applied all that was committed when it was called, on whatever
  /// node: a read of it is linearizable then. Followers ask their leader.
  /// @return nothing; not_leader (nobody leads, or leads no more), timed_out, closed, wrong_node (a witness has no
  /// state to read).
  awaitable<std::error_code> read_barrier(duration limit);

  /// Lets `to` lead. @return not_leader, wrong_node; nothing when it has been begun.
  awaitable<std::error_code> transfer(node_id to);

  /// Changes the members, and waits until the change is committed; a joint one that is left by itself, until it is
  /// left.
  /// @param why  what is wrong with the change itself: then nothing has happened.
  /// @return nothing; wrong_node (see core::change_members()); overloaded (the last change is under way, or there is no
  ///   room for this one), not_leader, closed: it was not made; timed_out: not known.
  awaitable<std::error_code> change_members(change_list changes, duration limit, change_error& why);
  /// One change of those, likewise: a new member, which follows and has no vote yet; a vote for one that follows; or
  /// one member less.
  awaitable<std::error_code> add(node_id who, std::string address, duration limit, change_error& why);
  awaitable<std::error_code> promote(node_id who, duration limit, change_error& why);
  awaitable<std::error_code> remove(node_id who, duration limit, change_error& why);
  /// Leaves a joint configuration that is not left by itself. Likewise.
  awaitable<std::error_code> leave_joint(duration limit, change_error& why);

  /// Takes a snapshot of what is applied now, whether one is due or not, and lets the log go that it stands for.
  /// @return nothing when it is durable; timed_out (it is taken all the same), closed.
  awaitable<std::error_code> snapshot(duration limit);

  /// Completes when anything may have changed that this node can be asked about: its role, its leader, what is
  /// committed or applied, its connections. At the latest at `until`. For those who look at it in a loop.
  /// @return nothing; closed.
  awaitable<std::error_code> changed(time_point until);

  /// Stops taking part, ends everything that waits, and closes the log. Idempotent. Cancellation: not honoured.
  awaitable<void> close();

  [[nodiscard]] const core_type& core() const noexcept { return *core_; }
  /// Whether all that core() has decided is done; else some of it waits for the disk, and log() is not yet as core()
  /// takes it to be.
  [[nodiscard]] bool settled() const noexcept { return !busy_; }
  [[nodiscard]] const log_type& log() const noexcept { return *log_; }
  [[nodiscard]] index_t applied() const noexcept { return applied_.index; }
  [[nodiscard]] node_status status() const;
  /// Of the newest snapshot; 0: there is none.
  [[nodiscard]] index_t snapshot_index() const noexcept { return snapshot_index_; }
  /// Whether there is a connection to that member.
  [[nodiscard]] bool connected(node_id to) const;

 private:
  // Lies in the proposer's frame.
  struct waiting_proposal {
    index_t index = 0;
    term_t term = 0;
    outcome* to = nullptr;
    bool ended = true;  // not in proposals_
    waiting_proposal* previous = nullptr;
    waiting_proposal* next = nullptr;
  };
  // By index.
  class proposal_list {
   public:
    [[nodiscard]] bool empty() const noexcept { return !first_; }
    [[nodiscard]] waiting_proposal* front() const noexcept { return first_; }
    [[nodiscard]] waiting_proposal* back() const noexcept { return last_; }
    void push_back(waiting_proposal& added) noexcept {
      added.ended = false;
      added.previous = last_;
      (last_ ? last_->next : first_) = &added;
      last_ = &added;
    }
    void end(waiting_proposal& gone) noexcept {
      gone.ended = true;
      (gone.previous ? gone.previous->next : first_) = gone.next;
      (gone.next ? gone.next->previous : last_) = gone.previous;
    }

   private:
    waiting_proposal* first_ = nullptr;
    waiting_proposal* last_ = nullptr;
  };
  struct waiting_read {
    std::uint64_t id = 0;
    std::optional<index_t> index;  // 0: refused
  };
  struct until_applied;
  struct snapshot_answer {
    snapshot_frame kind = snapshot_frame::refused;
    std::uint64_t checksum = 0;
    std::uint64_t offset = 0;
  };
  // An open connection.
  struct line {
    line(channel_type& channel, bool own, const asio::any_io_executor& on) : over(channel), ours(own), more(on) {}
    channel_type& over;
    bool ours;
    std::deque<message> unsent;  // while there is no room, or records are on their way that are not to be overtaken
    wait_list more;
  };
  struct member {
    std::string where;  // empty: not known
    bool dialled = false;
    typename Env::timer* next_attempt = nullptr;  // while it waits
    std::list<line> lines;                        // ours first, since it carries the records
    typename log_type::read_place place;
    position shipped;                       // the record before place.next
    std::uint64_t offered = 0;              // the checksum of the last snapshot that it was offered
    std::optional<snapshot_answer> answer;  // the last one of it, about that
    std::uint64_t life = 0;                 // of its process, while a channel is open
    std::optional<time_point> heard;        // its last message
    std::string trouble;                    // of the last attempt to connect
  };

  basic_node(Env& env, node_options options, Machine& machine);
  awaitable<void> open_files();
  void lock_directory();
  [[nodiscard]] static std::optional<std::system_error> damage_of(const std::exception_ptr& failure);
  [[nodiscard]] std::string folder(std::string_view name) const;
  void read_refill();
  awaitable<bool> begin_refill(index_t acknowledged);
  [[nodiscard]] index_t last_index_on_disk() const;

  struct visit;

  // One after the other.
  struct turn;
  template <class Input>  // const effects&(core_type&)
  awaitable<std::error_code> input(Input what);
  template <class Input>
  const effects* decide(const Input& what);
  awaitable<void> carry_out(const effects& doing);
  awaitable<void> write(const effects& doing);
  awaitable<void> deaf(awaitable<void> work);
  void perform(const effects& doing);
  void append(const effects& doing);
  void adopt(const record_batch& records);
  [[nodiscard]] bool contradicts(const configuration& config) const;
  [[nodiscard]] std::exception_ptr another_kind_of_member() const;
  void post(const message& of);
  [[nodiscard]] bool promises_too_early(const message& of) const;
  static std::exception_ptr rule_broken(const std::string& which) {
    return std::make_exception_ptr(std::system_error(errc::diverged, which));
  }
  void fail(std::exception_ptr why);
  void wake_everybody();
  [[nodiscard]] instant now() const { return env_.now().time_since_epoch(); }

  awaitable<void> tick();
  awaitable<void> watch_deadlines();
  void wake_at(time_point deadline);
  awaitable<void> flush();
  awaitable<void> apply();
  void apply_some();
  [[nodiscard]] index_t applicable() const;
  void answer_proposal(const record& applied);
  void drop_proposals(index_t keep, std::error_code why);
  awaitable<void> dial_members();
  awaitable<void> dial(node_id id);
  awaitable<void> talk(node_id with, channel_type& over, bool ours);
  [[nodiscard]] std::optional<refusal> admit(const peer_info& peer) const;
  [[nodiscard]] duration silence_limit() const;
  void lose(node_id with);

  struct stored_sink;
  struct stored_source;
  struct machine_turn;
  struct receiver_turn;
  awaitable<void> take_snapshots();
  awaitable<void> take_snapshot();
  awaitable<void> send_snapshot(node_id to, channel_type& over);
  [[nodiscard]] bool is_sending(node_id to) const;
  awaitable<void> hear_of_snapshot(const frame_view& frame, node_id id, channel_type& over);
  void hear_answer(member& from, snapshot_answer said);
  awaitable<void> accept_offer(const snapshot_offer& offer, channel_type& over);
  awaitable<void> take_chunk(const snapshot_chunk& chunk, channel_type& over);
  awaitable<void> install();
  awaitable<void> tell_of_installation(std::uint64_t checksum, channel_type& over);
  awaitable<void> restore(index_t index);

  awaitable<void> hear(node_id from, channel_type& over);
  awaitable<void> speak(line& to);
  awaitable<void> ship(node_id to, channel_type& over);
  record_batch for_witness(const record_batch& records);
  awaitable<std::error_code> change_one(change what, duration limit, change_error& why);
  awaitable<std::error_code> changed_members(index_t change, time_point deadline);
  member& member_of(node_id id) { return members_[id]; }

  Env& env_;
  const node_options options_;
  Machine& machine_;
  const std::uint64_t life_;  // this process's, as other members see it
  task_group group_;
  typename Env::file_lock lock_;  // of the directory
  std::uint64_t generation_ = 0;  // of the folders in it
  index_t refill_ = 0;            // up to here records may have been acknowledged that were lost by damage
  std::unique_ptr<basic_hard_state_file<Env>> hard_;
  std::unique_ptr<log_type> log_;
  log_view seen_log_;
  std::optional<core_type> core_;
  std::unique_ptr<store_type> store_;
  std::unique_ptr<typename store_type::receiver> receiver_;  // of a snapshot, also while nobody sends it
  bool receiver_busy_ = false;
  position applied_;
  configuration applied_members_;    // in force there
  index_t snapshot_index_ = 0;       // of the newest
  std::uint64_t applied_bytes_ = 0;  // since the last snapshot
  bool machine_busy_ = false;        // a snapshot is taken or restored
  bool restoring_ = false;           // the machine is not as applied_ says
  typename log_type::read_place apply_place_;
  index_t found_at_open_ = 0;  // the last record of the log
  byte_buffer result_;
  index_t snapshot_wanted_ = 0;  // by snapshot(): one that stands for this or more
  std::map<node_id, member> members_;
  proposal_list proposals_;
  std::vector<waiting_read*> reads_;  // by id
  std::uint64_t last_read_ = 0;
  bool busy_ = false;          // an input's effects wait for the disk
  std::vector<node_id> lost_;  // connections meanwhile
  bool closing_ = false;
  bool bad_records_ = false;  // what was to be appended is not what its sender said
  wait_list turns_;           // for the end of busy_
  wait_list news_;            // whoever waits for the core or the log looks again
  wait_list applied_news_;    // proposals and reads, by the index that is to be applied
  wait_list read_news_;       // reads without an index
  typename Env::timer ticker_;
  instant ticks_at_{};
  typename Env::timer alarm_;
  time_point alarm_at_ = time_point::max();  // not after the first deadline of those who wait
  std::optional<time_point> heard_leader_;
  std::exception_ptr failure_;
  std::size_t visits_ = 0;  // of coroutines
  std::shared_ptr<const void> alive_ = std::make_shared<char>();
};

template <state_machine Machine>
using node = basic_node<real::env, Machine>;

}  // namespace lockstep::raft

#include "lockstep/raft/detail/node_impl.hpp"
#include "lockstep/raft/detail/node_refill.hpp"
#include "lockstep/raft/detail/node_snapshots.hpp"
