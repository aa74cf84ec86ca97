// What monitoring and browsers ask a node for.
//
//   /          a page that shows the group live       /events    what the page is fed with (server-sent events)
//   /metrics   for Prometheus                         /status    the node's status as JSON
//   /healthz   200 while the process works            /readyz    200 when it can serve clients, otherwise 503 and why
#pragma once

#include "raft_replication/replica.hpp"

#include <memory>
#include <string>

namespace lockstep::raft_replication {

/// Serves from its construction to close(), on the environment's executor, which is an io_context's. Connections that
/// idle then are left to the end of that io_context. Thread safety: none.
class http_server {
 public:
  /// @param of  outlives it. @throws exit_error: the address cannot be listened on.
  http_server(real::env& env, replica& of, const address& where);
  http_server(const http_server&) = delete;
  ~http_server();

  /// Takes no more requests, and ends the pages' event streams. Idempotent.
  awaitable<void> close();
  [[nodiscard]] const address& local_address() const;

 private:
  class implementation;
  std::unique_ptr<implementation> implementation_;
};

/// What /metrics answers.
std::string metrics_text(const replica& of);

}  // namespace lockstep::raft_replication
