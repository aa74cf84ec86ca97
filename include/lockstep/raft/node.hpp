// node: a member of a Raft group. Runs the core (raft/core.hpp) on a log, a network and a state machine.
//
//   raft::node_options options;
//   options.core.id = 1;
//   options.cluster = "orders";
//   options.directory = "/var/lib/orders";
//   options.members = {{1, "10.0.0.1:7101"}, {2, "10.0.0.2:7101"}, {3, "10.0.0.3:7101"}};
//   auto node = co_await raft::node<kv>::open(env, options, machine);
//   lockstep::server server(env, env.listen(where, ec), node->server_options());
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

#include "lockstep/core/task_group.hpp"
#include "lockstep/core/wait_list.hpp"
#include "lockstep/env/real.hpp"
#include "lockstep/frame/channel.hpp"
#include "lockstep/frame/detail/alarm.hpp"
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
  channel_options channel;                  ///< sizes and times; who is who is filled in
  std::size_t max_batch_bytes = 256 << 10;  ///< of records in one message, except for a larger record
  duration connect_timeout = std::chrono::seconds(1);
  duration reconnect_least = std::chrono::milliseconds(20);
  duration reconnect_most = std::chrono::seconds(1);
};

/// What became of a proposal.
struct outcome {
  /// Nothing: it was applied. not_leader, overloaded, closed: it was not, and will not be. timed_out: not known.
  std::error_code error;
  node_id leader = 0;  ///< who leads, as far as this node knows; 0: not known
  position at;         ///< of its record, when it was applied
  byte_buffer result;  ///< what apply() answered, when it was applied

  [[nodiscard]] bool ok() const noexcept { return !error; }
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
    [[nodiscard]] position acked() const { return seen(log->acked()); }
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
  ///   holder's pid), corrupt, or what the file system said.
  static awaitable<std::unique_ptr<basic_node>> open(Env& env, node_options options, Machine& machine);
  basic_node(const basic_node&) = delete;
  basic_node& operator=(const basic_node&) = delete;

  /// Takes part until close(). Once.
  /// @throws what made it stop: what the disk said, or that somebody has broken Raft's rules.
  /// Cancellation: as close(), and throws operation_aborted.
  awaitable<void> run();

  /// Serves a member that has connected and shaken hands. For a server's session.
  awaitable<void> serve(channel_type& from);

  /// For a server that serves this node's members: who this side is.
  [[nodiscard]] channel_options hello() const;

  /// Wants `command` applied everywhere. On the leader only.
  /// @param command  stays until this completes.
  /// @param limit    how long to wait for the outcome.
  /// Cancellation: as a timeout: it may still be applied.
  awaitable<outcome> propose(bytes_view command, duration limit);

  /// When it completes, this node's state machine has applied all that was committed when it was called, on whatever
  /// node: a read of it is linearizable then. Followers ask their leader.
  /// @return nothing; not_leader (nobody leads, or leads no more), timed_out, closed.
  awaitable<std::error_code> read_barrier(duration limit);

  /// Lets `to` lead. @return not_leader, wrong_node; nothing when it has been begun.
  awaitable<std::error_code> transfer(node_id to);

  /// Changes the members, and waits until the change is committed; a joint one that is left by itself, until it is
  /// left.
  /// @return nothing; not_leader, overloaded (the last change is under way), wrong_node (see core::change_members()),
  ///   timed_out, closed. @param why  what is wrong with the change itself: then nothing has happened.
  awaitable<std::error_code> change_members(change_list changes, duration limit, change_error& why);
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
  [[nodiscard]] const log_type& log() const noexcept { return *log_; }
  [[nodiscard]] index_t applied() const noexcept { return applied_.index; }
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
    bool ended = false;
  };
  struct waiting_read {
    std::uint64_t id = 0;
    std::optional<index_t> index;  // 0: refused
  };
  struct snapshot_answer {
    snapshot_frame kind = snapshot_frame::refused;
    std::uint64_t checksum = 0;
    std::uint64_t offset = 0;
  };
  struct member {
    std::string where;  // empty: not known
    bool dialled = false;
    std::list<channel_type*> channels;  // open; ours first, since it carries the records
    typename log_type::read_place place;
    position shipped;                                         // the record before place.next
    std::optional<snapshot_answer> answer;                    // the last one of it, about ours
    std::unique_ptr<typename store_type::receiver> receiver;  // of its snapshot
    configuration offered_config;
  };

  basic_node(Env& env, node_options options, Machine& machine);
  void lock_directory();

  // One after the other.
  struct turn;
  template <class Input>  // const effects&(core_type&)
  awaitable<void> input(Input what);
  void perform(const effects& doing);
  void append(const effects& doing);
  void adopt(const record_batch& records);
  void post(const message& of);
  void fail(std::exception_ptr why);
  [[nodiscard]] instant now() const { return env_.now().time_since_epoch(); }

  awaitable<void> tick();
  awaitable<void> flush();
  awaitable<void> apply();
  void apply_some();
  void answer_proposal(const record& applied);
  void drop_proposals(index_t keep, std::error_code why);
  awaitable<void> dial_members();
  awaitable<void> dial(node_id id);
  awaitable<void> talk(node_id with, channel_type& over, bool ours);
  void lose(node_id with);

  struct stored_sink;
  struct stored_source;
  struct machine_turn;
  awaitable<void> take_snapshots();
  awaitable<void> send_snapshot(node_id to, channel_type& over);
  [[nodiscard]] bool is_sending(node_id to) const;
  awaitable<bool> hear_of_snapshot(const frame_view& frame, member& from, channel_type& over);
  awaitable<void> accept_offer(const snapshot_offer& offer, member& from, channel_type& over);
  awaitable<void> install(member& from, channel_type& over);
  awaitable<void> restore(index_t index);

  awaitable<void> hear(node_id from, channel_type& over);
  awaitable<void> ship(node_id to, channel_type& over);
  record_batch for_witness(const record_batch& records, index_t last);
  awaitable<std::error_code> committed_members(std::error_code refused, change_error why, time_point deadline);
  member& member_of(node_id id) { return members_[id]; }

  Env& env_;
  const node_options options_;
  Machine& machine_;
  task_group group_;
  typename Env::file_lock lock_;  // of the directory
  std::unique_ptr<basic_hard_state_file<Env>> hard_;
  std::unique_ptr<log_type> log_;
  log_view seen_log_;
  std::optional<core_type> core_;
  std::unique_ptr<store_type> store_;
  position applied_;
  index_t snapshot_index_ = 0;       // of the newest
  std::uint64_t applied_bytes_ = 0;  // since the last snapshot
  bool machine_busy_ = false;        // a snapshot is taken or restored
  typename log_type::read_place apply_place_;
  byte_buffer result_;
  index_t snapshot_wanted_ = 0;  // by snapshot(): one that stands for this or more
  lockstep::detail::alarm<Env> changes_alarm_{env_, [this](time_point) {
                                                news_.notify_all();
                                                return lockstep::detail::never;
                                              }};
  std::map<node_id, member> members_;
  std::deque<waiting_proposal*> proposals_;  // by index
  std::vector<waiting_read*> reads_;
  std::uint64_t last_read_ = 0;
  bool busy_ = false;          // an input's effects wait for the disk
  std::vector<node_id> lost_;  // connections meanwhile
  bool closing_ = false;
  bool bad_records_ = false;  // what was to be appended is not what its sender said
  wait_list turns_;           // for the end of busy_
  wait_list news_;            // whoever waits for the core, the log or what is applied looks again
  typename Env::timer ticker_;
  instant ticks_at_{};
  std::exception_ptr failure_;
};

template <state_machine Machine>
using node = basic_node<real::env, Machine>;

}  // namespace lockstep::raft

#include "lockstep/raft/detail/node_impl.hpp"
#include "lockstep/raft/detail/node_snapshots.hpp"
