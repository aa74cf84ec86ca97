#include "raft_replication/links.hpp"

#include "raft_replication/protocol.hpp"

namespace lockstep::raft_replication {

links::links(real::env& env, std::string cluster)
    : env_(env), cluster_(std::move(cluster)), running_(env.get_executor()) {}

links::one& links::to_member(node_id id, const address& where) {
  one& found = members_[id];
  if (found.way) {
    found.way->redirect(where);
    return found;
  }
  link_options options;
  options.channel.cluster = cluster_;
  options.channel.purpose = client_purpose;
  options.channel.expected_node = id;
  options.connect_timeout = std::chrono::seconds(1);
  options.backoff_max = std::chrono::milliseconds(500);
  found.way = std::make_unique<link>(env_, where, std::move(options),
                                     [this, &found](channel& over) { return hold(found, over); });
  running_.spawn(found.way->run());
  return found;
}

awaitable<void> links::hold(one& of, channel& over) {
  rpc_peer peer(over.share(), serves_nothing_);
  struct shown {
    rpc_peer*& place;
    ~shown() { place = nullptr; }
  } const seen{of.peer};
  of.peer = &peer;
  co_await peer.run();
}

awaitable<rpc_status> links::call(node_id to, const std::string& where, std::uint32_t method, bytes_view arguments,
                                  byte_buffer& result, duration timeout) {
  const std::optional<address> parsed = address::parse(where);
  if (!parsed) co_return rpc_status(errc::closed);
  one& member = to_member(to, *parsed);
  const time_point deadline = env_.now() + timeout;
  if (!member.peer) {
    const std::error_code down = co_await member.way->wait_until_up(std::min(deadline, env_.now() + connect_limit));
    if (is_cancelled(down)) throw std::system_error(down);
  }
  const duration left = deadline - env_.now();
  if (!member.peer || left <= duration(0)) co_return rpc_status(errc::closed);
  co_return co_await member.peer->call(method, arguments, result, left);
}

void links::drop(node_id to) {
  const auto found = members_.find(to);
  if (found != members_.end() && found->second.peer) found->second.peer->abort();
}

awaitable<void> links::close() {
  running_.cancel();
  co_await running_.join();
}

}  // namespace lockstep::raft_replication
