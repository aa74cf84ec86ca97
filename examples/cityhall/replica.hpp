// replica: follows a leader's log, reconnects by itself, and serves reads.
#pragma once

#include "cityhall/service.hpp"

#include <lockstep/catchup/follower.hpp>
#include <lockstep/rpc/link.hpp>
#include <lockstep/rpc/server.hpp>

#include <algorithm>
#include <functional>
#include <string>
#include <utility>

namespace lockstep::cityhall {

/// What a replica tells its program.
struct replica_events {
  std::function<void(const std::string& text)> info = [](const std::string&) {};
  std::function<void(const std::string& text)> warning = [](const std::string&) {};
  /// Of a catch-up, in records; of a snapshot, in bytes. It has ended when done == total.
  std::function<void(std::uint64_t done, std::uint64_t total)> progress = [](std::uint64_t, std::uint64_t) {};
  std::function<void(std::uint64_t done, std::uint64_t total)> snapshot_progress = [](std::uint64_t, std::uint64_t) {};
  std::function<void()> health_changed = [] {};  ///< told before the text that says so
  std::function<void()> position_changed = [] {};
};

struct replica_options {
  replica_options() {}

  address leader;
  node_id id = 2;
  repair on_divergence = repair::save_and_truncate;
  duration idle_timeout = std::chrono::seconds(5);  ///< the leader sends a heartbeat twice a second
};

template <environment Env>
class basic_replica : follower_events {
 public:
  basic_replica(Env& env, basic_store<Env>& store, replica_options options, replica_events events)
      : env_(env),
        store_(store),
        options_(std::move(options)),
        events_(std::move(events)),
        follower_(env, store.log(), *this, follow_options(options_)),
        link_(env, options_.leader, connect_options(), [this](basic_channel<Env>& up) { return follow(up); }),
        tasks_(env.get_executor()) {
    serve_reads(service_, store_);
    const auto refuse = [this](const rpc_request&, rpc_reply& out) { return refuse_write(out); };
    service_.on(put_method, refuse);
    service_.on(del_method, refuse);
    service_.on(status_method, [this](const rpc_request&, rpc_reply& out) { return status(out); });
    store_.on_applied = [this](const record& applied) { tell_applied(applied); };
  }

  /// Follows until close().
  /// @param readers  where clients read; nothing: no reads are served.
  /// @throws what ends a replica: a failed log, and divergence when it is told to stop there.
  awaitable<void> run(std::optional<typename Env::acceptor> readers) {
    if (readers) {
      server_options options;
      options.channel.cluster = cluster_name;
      options.on_event = [this](const server_event& event) { tell(event); };
      for_readers_.emplace(env_, std::move(*readers), options);
      for_readers_->on(client_purpose, service_);
      tasks_.spawn(for_readers_->run());
    }
    tasks_.spawn(store_.run());
    tasks_.spawn(link_.run());
    co_await tasks_.join_passing_cancellation();
    if (fatal_) std::rethrow_exception(fatal_);
  }

  /// Answers the reads under way, leaves the leader, and ends run().
  awaitable<void> close() {
    if (for_readers_) co_await for_readers_->close();
    co_await link_.close();
    tasks_.cancel();
  }

  /// For people: "caught up", "syncing (behind by 3)", "disconnected: … since …".
  [[nodiscard]] std::string health() const {
    const follower_state now = follower_.state();
    const link_report& line = link_.report();
    if (!now.connected) return line.text.empty() ? "connecting" : "disconnected: " + line.text;
    return now.caught_up ? "caught up" : "syncing (behind by " + std::to_string(now.lag_records) + ")";
  }
  [[nodiscard]] follower_state following() const { return follower_.state(); }

 private:
  static follower_options follow_options(const replica_options& from) {
    follower_options options;
    options.on_divergence = from.on_divergence;
    return options;
  }

  link_options connect_options() {
    link_options options;
    options.channel.cluster = cluster_name;
    options.channel.node = options_.id;
    options.channel.purpose = replication_purpose;
    options.channel.idle_timeout = options_.idle_timeout;
    options.on_change = [this](const link_report& line) { tell(line); };
    return options;
  }

  // One connection's life. What a new connection can't mend ends the replica.
  awaitable<void> follow(basic_channel<Env>& up) {
    try {
      co_await follower_.run(up);
    } catch (const std::system_error& error) {
      const std::error_code ec = error.code();
      if (ec == errc::diverged || ec == errc::log_failed || store_.log().failure()) {
        fatal_ = std::current_exception();
        tasks_.cancel();
      }
      throw;
    }
  }

  void tell(const link_report& line) {
    events_.health_changed();
    if (line.state == link_state::waiting && line.error) {
      const auto wait = std::chrono::duration_cast<std::chrono::milliseconds>(line.next_attempt - env_.now());
      events_.warning("disconnected from leader " + line.where.to_string() + ": " + line.text + "; next attempt in " +
                      std::to_string(wait.count()) + " ms");
      events_.progress(0, 0);
      events_.snapshot_progress(0, 0);
    }
  }

  void tell(const server_event& event) {
    if (event.kind == server_event_kind::refused || event.kind == server_event_kind::accept_failed) {
      events_.warning(event.text);
    }
  }

  // --- follower_events ---

  void subscribed(const position& have, index_t source_last) override {
    catching_up_from_ = have.index;
    catching_up_to_ = source_last;
    events_.health_changed();
    if (source_last > have.index) {
      events_.info("connected to leader " + options_.leader.to_string() + ", behind by " +
                   std::to_string(source_last - have.index));
    } else {
      events_.info("connected to leader " + options_.leader.to_string());
    }
  }

  void caught_up(const position& at) override {
    events_.health_changed();
    tasks_.spawn(tell_caught_up(at));
  }

  // After the segments that it took.
  awaitable<void> tell_caught_up(position at) {
    const std::error_code ec = co_await store_.holding(at);
    if (!ec) events_.info("caught up at index " + std::to_string(at.index));
  }

  awaitable<void> diverged(position common, index_t first_lost, index_t last_lost, std::string saved_to) override {
    events_.warning("diverged from the leader behind index " + std::to_string(common.index) + " (epoch " +
                    std::to_string(common.epoch) + "): records " + std::to_string(first_lost) + " to " +
                    std::to_string(last_lost) + " are not the leader's" +
                    (saved_to.empty() ? std::string() : ", saved to " + saved_to + " and cut off"));
    if (options_.on_divergence != repair::stop) co_await store_.give_up_snapshot_behind(common.index);
  }

  awaitable<void> snapshot_begin(position upto, std::uint64_t size) override {
    events_.info("the leader no longer keeps what is missing here: taking its snapshot at index " +
                 std::to_string(upto.index) + " (" + std::to_string(size) + " bytes)");
    arriving_.clear();
    arriving_upto_ = upto;
    arriving_size_ = size;
    co_return;
  }
  awaitable<void> snapshot_chunk(bytes_view bytes) override {
    arriving_.append(bytes);
    events_.snapshot_progress(arriving_.size(), arriving_size_);
    co_return;
  }
  awaitable<void> snapshot_end() override {
    const auto summary = read_snapshot_summary(arriving_.view());
    if (!summary || summary->at != arriving_upto_) throw std::system_error(errc::corrupt, "the leader's snapshot");
    co_await store_.install_snapshot(arriving_.view(), summary->at);
    arriving_ = byte_buffer();
    events_.info("snapshot installed");
  }

  // --- the rest ---

  void tell_applied(const record& applied) {
    if (applied.kind == data_record) {
      const auto segment = segment_view::parse(applied.payload);
      const std::uint32_t entries = segment ? segment->count() : 0;
      // A long catch-up is told of by its progress.
      const bool few = catching_up_to_ - catching_up_from_ <= 1000 || applied.index > catching_up_to_;
      if (few) {
        events_.info("synced segment " + std::to_string(store_.state().counts().segments) + " (" +
                     std::to_string(entries) + (entries == 1 ? " entry" : " entries") + ") at index " +
                     std::to_string(applied.index));
      }
    }
    if (applied.index <= catching_up_to_) {
      events_.progress(applied.index - catching_up_from_, catching_up_to_ - catching_up_from_);
    }
    events_.position_changed();
  }

  awaitable<void> refuse_write(rpc_reply& out) {
    const std::string& leader = store_.state().leader_clients();
    out.fail(refused_not_leader, leader.empty() ? "this is a replica; its leader is not known yet"
                                                : "this is a replica; write to the leader at " + leader);
    co_return;
  }

  awaitable<void> status(rpc_reply& out) {
    status_reply reply;
    reply.role = "replica";
    reply.at = store_.state().at();
    reply.counts = store_.state().counts();
    reply.keys = store_.state().pairs().size();
    reply.leader = store_.state().leader_clients();
    reply.health = health();
    reply.encode(out.body());
    co_return;
  }

  Env& env_;
  basic_store<Env>& store_;
  const replica_options options_;
  const replica_events events_;
  basic_follower<Env> follower_;
  basic_link<Env> link_;
  rpc_service service_;
  std::optional<basic_server<Env>> for_readers_;
  std::exception_ptr fatal_;
  index_t catching_up_from_ = 0;
  index_t catching_up_to_ = 0;
  byte_buffer arriving_;
  position arriving_upto_;
  std::uint64_t arriving_size_ = 0;
  task_group tasks_;
};

}  // namespace lockstep::cityhall
