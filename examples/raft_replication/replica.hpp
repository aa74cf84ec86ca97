// One member of the group: Raft's node, its store, and everything that it can be asked for, wherever the leader is.
#pragma once

#include "raft_replication/command.hpp"
#include "raft_replication/links.hpp"
#include "raft_replication/protocol.hpp"
#include "raft_replication/store.hpp"

#include <lockstep/raft/node.hpp>
#include <lockstep/rpc/server.hpp>

#include <nlohmann/json.hpp>

#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>

namespace lockstep::raft_replication {

struct replica_options {
  replica_options() {}

  node_id id = 0;
  address listen;
  std::map<node_id, std::string> peers;  ///< empty: it is to be added to a group that exists
  std::string cluster = "raft_replication";
  std::string data_dir;
  sync_policy sync = sync_policy::always;
  duration election_timeout = std::chrono::seconds(1);
  duration heartbeat_interval = std::chrono::milliseconds(100);
  std::uint64_t snapshot_after_bytes = std::uint64_t{64} << 20;
  std::uint64_t keep_log_bytes = std::uint64_t{64} << 20;
  std::uint64_t segment_bytes = std::uint64_t{64} << 20;
};

/// Something that happened to the group, as this node saw it.
struct group_event {
  wall_time when;
  std::string text;
};

struct replica_counters {
  std::uint64_t leader_changes = 0;
  std::map<std::pair<verb, reply_code>, std::uint64_t> requests;  ///< by what became of them
};

/// Thread safety: none.
class replica {
 public:
  using node_type = raft::node<store>;
  /// Told of what happens, for logs.
  using event_handler = std::function<void(const std::string&)>;

  /// Opens the data directory, or makes it, and listens.
  /// @throws exit_error with the code and words that main() ends with; what raft::node::open() throws.
  static awaitable<std::unique_ptr<replica>> open(real::env& env, replica_options options, event_handler on_event);
  replica(const replica&) = delete;

  /// Takes part and serves until close(). @throws what made the node stop.
  awaitable<void> run();
  /// Ends what is under way, as `closed`. Idempotent.
  awaitable<void> close();

  /// Does what is asked, here or by the leader, and waits until this node's own state shows it.
  /// A change is made once, however often the leader changes meanwhile.
  /// @param limit  after it no_leader or outcome_unknown is answered. Not for watch.
  awaitable<reply> carry_out(request asked, duration limit);

  /// "no leader (term 4, last contact 2.1 s)"; empty while there is one.
  [[nodiscard]] std::string leaderless() const;
  [[nodiscard]] nlohmann::ordered_json status() const;
  /// The same with what the leader knows of the peers and of its election, if it answers in `limit`.
  awaitable<nlohmann::ordered_json> status_with_lags(duration limit);
  [[nodiscard]] nlohmann::ordered_json members() const;
  /// The status of every member that answers in `limit`; of the others their id, address and "reached": false.
  awaitable<nlohmann::ordered_json> group_status(duration limit);
  /// Nothing when this node can serve clients; otherwise why not.
  [[nodiscard]] std::string not_ready() const;

  [[nodiscard]] store& keys() noexcept { return store_; }
  [[nodiscard]] const node_type& node() const noexcept { return *node_; }
  awaitable<std::error_code> changed(time_point until) { return node_->changed(until); }
  [[nodiscard]] const replica_options& options() const noexcept { return options_; }
  /// The newest last.
  [[nodiscard]] const std::deque<group_event>& events() const noexcept { return events_; }
  [[nodiscard]] const replica_counters& counters() const noexcept { return counters_; }

 private:
  /// What became of something that the leader was asked for.
  struct led {
    reply_code code = reply_code::ok;
    std::string words;
    position at;
    byte_buffer result;
    bool doubtful = false;  // an earlier try may have had effect

    [[nodiscard]] bool gave_up() const noexcept {
      return code == reply_code::no_leader || code == reply_code::outcome_unknown;
    }
  };

  replica(real::env& env, replica_options options, event_handler on_event);

  awaitable<reply> dispatch(request asked, time_point deadline);
  awaitable<reply> write(const request& asked, time_point deadline);
  awaitable<reply> read(const request& asked, time_point deadline);
  awaitable<reply> change(const request& asked, time_point deadline);
  awaitable<reply> transfer(const request& asked, time_point deadline);
  awaitable<reply> take_snapshot(time_point deadline);

  awaitable<led> in_session(bytes_view command, time_point deadline);
  awaitable<led> open_session(time_point deadline);
  awaitable<led> by_leader(method which, bytes_view arguments, time_point deadline);
  awaitable<led> here(method which, bytes_view arguments, duration limit);
  awaitable<led> there(node_id leader, method which, bytes_view arguments, duration limit);
  awaitable<void> pause(time_point deadline);

  awaitable<void> answer_ask(const rpc_request& in, rpc_reply& out);
  awaitable<void> answer_watch(const rpc_request& in, rpc_item_writer& out);
  awaitable<void> answer_led(method which, const rpc_request& in, rpc_reply& out);

  awaitable<void> observe();
  void tell(std::string_view what);
  void tell_refused(const server_event& what);
  [[nodiscard]] reply gave_up(reply_code code, std::string why = {}) const;
  awaitable<void> ask_status(node_id of, std::string where, duration limit, nlohmann::ordered_json& into);

  real::env& env_;
  const replica_options options_;
  const event_handler on_event_;
  store store_;
  std::unique_ptr<node_type> node_;
  rpc_service service_;
  std::unique_ptr<server> server_;
  links links_;
  time_point began_;
  time_point led_at_{};  // when this node last led
  bool closed_ = false;

  std::string elected_;  // whom, when a leader was last heard of that was not heard of before

  // The session in which this node numbers its clients' commands.
  raft::session_id session_ = 0;
  bool opening_ = false;
  std::uint64_t sequence_ = 0;
  std::set<std::uint64_t> in_flight_;

  std::deque<group_event> events_;
  replica_counters counters_;
  std::set<std::string> refused_;  // why connections were
};

std::string_view name_of(raft::role role) noexcept;

}  // namespace lockstep::raft_replication
