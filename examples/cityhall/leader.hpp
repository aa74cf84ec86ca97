// leader: takes writes, group-commits them as segments, and ships its log.
#pragma once

#include "cityhall/service.hpp"

#include <lockstep/catchup/source.hpp>
#include <lockstep/core/mutant.hpp>
#include <lockstep/rpc/server.hpp>

#include <functional>
#include <memory>
#include <string>
#include <utility>

namespace lockstep::cityhall {

/// What a leader tells its program.
struct leader_events {
  std::function<void(const std::string& text)> info = [](const std::string&) {};
  std::function<void(const std::string& text)> warning = [](const std::string&) {};
};

/// A segment is one group commit: a data record with the changes that arrived while the one before was being synced.
/// A change is answered when its segment is as safe as the log's sync policy promises, and applied.
template <environment Env>
class basic_leader {
 public:
  basic_leader(Env& env, basic_store<Env>& store, leader_events events)
      : env_(env),
        store_(store),
        events_(std::move(events)),
        source_(env, store.log(), source_options(), &store),
        filling_(std::make_shared<segment>()),
        work_(env.get_executor()),
        committed_(env.get_executor()),
        tasks_(env.get_executor()) {
    serve_reads(service_, store_);
    service_.on(put_method, [this](const rpc_request& in, rpc_reply& out) { return change(operation::put, in, out); });
    service_.on(del_method, [this](const rpc_request& in, rpc_reply& out) { return change(operation::del, in, out); });
    service_.on(status_method, [this](const rpc_request&, rpc_reply& out) { return status(out); });
  }

  /// Begins a life: an epoch higher than any before, durable before a client is served.
  /// @param clients  the address that replicas name to those who want to write.
  awaitable<void> begin_life(std::string clients) {
    life begun;
    begun.nonce = env_.random();
    begun.clients = std::move(clients);
    epoch_ = store_.log().last().epoch + (mutated(mutant::keep_epoch_at_start) ? 0 : 1);
    const byte_buffer payload = begun.encode();
    const position at = store_.log().append(epoch_, payload.view(), epoch_record);
    if (!mutated(mutant::serve_before_epoch_is_durable)) co_await store_.log().durable(at.index);
  }

  /// Serves clients and replicas until close().
  /// @throws what makes a leader useless: a failed log.
  awaitable<void> run(typename Env::acceptor clients, typename Env::acceptor replicas) {
    server_options options;
    options.channel.cluster = cluster_name;
    options.on_event = [this](const server_event& event) { tell(event); };
    for_clients_.emplace(env_, std::move(clients), options);
    for_clients_->on(client_purpose, service_);
    options.channel.node = leader_node;
    for_replicas_.emplace(env_, std::move(replicas), options);
    for_replicas_->on(replication_purpose, [this](basic_channel<Env>& on) { return serve_replica(on); });
    tasks_.spawn(store_.run());
    tasks_.spawn(commit());
    tasks_.spawn(for_clients_->run());
    tasks_.spawn(for_replicas_->run());
    co_await tasks_.join_passing_cancellation();
  }

  /// Takes no more requests, answers those under way, says goodbye, and ends run().
  awaitable<void> close() {
    if (for_clients_) co_await for_clients_->close();
    if (for_replicas_) co_await for_replicas_->close();
    tasks_.cancel();
  }

  [[nodiscard]] epoch_t epoch() const noexcept { return epoch_; }

  static constexpr node_id leader_node = 1;

 private:
  // Changes that will be, or are being, committed together.
  struct segment {
    segment_builder entries;
    bool done = false;
    std::error_code failure;
    position at;
    std::uint64_t number = 0;
  };

  awaitable<void> change(operation op, const rpc_request& in, rpc_reply& out) {
    const change_request request = decode_or_refuse<change_request>(in.arguments);
    if (request.key.size() > max_key_bytes || request.value.size() > max_value_bytes) {
      throw rpc_error(refused_too_large, "key or value too large: at most " + std::to_string(max_key_bytes) + " and " +
                                             std::to_string(max_value_bytes) + " bytes");
    }
    while (filling_->entries.full()) {
      if (co_await committed_.wait()) throw std::system_error(asio::error::operation_aborted);
    }
    const std::shared_ptr<segment> mine = filling_;
    mine->entries.add({op, request.key, request.value});
    work_.notify_one();
    while (!mine->done) {
      if (co_await committed_.wait()) throw std::system_error(asio::error::operation_aborted);
    }
    if (mine->failure) throw rpc_error(refused_storage, "the leader's log failed: " + mine->failure.message());
    change_reply reply;
    reply.at = mine->at;
    reply.segment = mine->number;
    reply.encode(out.body());
  }

  awaitable<void> commit() {
    for (;;) {
      while (filling_->entries.count() == 0) {
        if (co_await work_.wait()) throw std::system_error(asio::error::operation_aborted);
      }
      const std::shared_ptr<segment> taken = std::exchange(filling_, std::make_shared<segment>());
      std::error_code failure;
      try {
        taken->at = store_.log().append(epoch_, taken->entries.payload());
        const bool hasty = mutated(mutant::answer_before_durable);
        if (!hasty) co_await store_.log().durable(taken->at.index);
        if (!hasty && !mutated(mutant::answer_before_applied)) failure = co_await store_.holding(taken->at);
      } catch (const std::system_error& error) {
        failure = error.code();
      }
      if (!failure || !mutated(mutant::answer_failed_change)) taken->failure = failure;
      taken->number = store_.state().counts().segments;
      taken->done = true;
      committed_.notify_all();
      // A full disk refuses this segment only; the log goes on when there is space again.
      if (failure && failure != std::errc::no_space_on_device) throw std::system_error(failure, store_.directory());
    }
  }

  awaitable<void> status(rpc_reply& out) {
    status_reply reply;
    reply.role = "leader";
    reply.at = store_.state().at();
    reply.counts = store_.state().counts();
    reply.keys = store_.state().pairs().size();
    reply.followers = source_.followers().size();
    reply.leader = store_.state().leader_clients();
    reply.health = "ok";
    reply.encode(out.body());
    co_return;
  }

  void tell(const server_event& event) {
    if (event.kind == server_event_kind::refused || event.kind == server_event_kind::accept_failed) {
      events_.warning(event.text);
    }
  }

  awaitable<void> serve_replica(basic_channel<Env>& on) {
    const std::string who = "replica " + std::to_string(on.peer().node) + " at " + on.peer().address;
    events_.info(who + " connected");
    std::string why = "it closed the connection";
    bool cancelled = false;
    try {
      co_await source_.serve(on);
    } catch (const std::system_error& error) {
      cancelled = is_cancelled(error.code());
      why = error.what();
    }
    if (cancelled) throw std::system_error(asio::error::operation_aborted);
    events_.info(who + " disconnected: " + why);
  }

  Env& env_;
  basic_store<Env>& store_;
  const leader_events events_;
  basic_source<Env> source_;
  rpc_service service_;
  epoch_t epoch_ = 0;
  std::shared_ptr<segment> filling_;
  wait_list work_;
  wait_list committed_;
  std::optional<basic_server<Env>> for_clients_;
  std::optional<basic_server<Env>> for_replicas_;
  task_group tasks_;
};

}  // namespace lockstep::cityhall
