#include "common/converse.hpp"

#include <exception>
#include <optional>
#include <system_error>
#include <utility>

#include <asio/co_spawn.hpp>
#include <asio/io_context.hpp>
#include <lockstep/core/task_group.hpp>

#include "common/exit_codes.hpp"
#include "common/first_failure.hpp"
#include "common/output.hpp"

namespace lockstep::examples {

awaitable<void> converse(real::env& env, const contact& with, const conversation& talk) {
  std::optional<real::stream> stream;
  std::error_code refused;
  try {
    stream.emplace(co_await env.connect(with.where, with.patience));
  } catch (const std::system_error& error) {
    refused = error.code();
  }
  if (!stream) throw cannot_connect(with.where.to_string(), refused);
  channel_options options;
  options.cluster = with.cluster;
  options.purpose = with.purpose;
  options.handshake_timeout = with.patience;
  channel connection(env, std::move(*stream), options);
  try {
    (void)co_await connection.handshake();
  } catch (const std::system_error& error) {
    throw exit_error(exit_code::unreachable, error.what());
  }
  const rpc_service nothing_served;
  rpc_peer peer(std::move(connection), nothing_served);
  task_group running(env.get_executor());
  running.spawn(peer.run());
  first_failure failure;
  co_await failure.of(talk(peer));
  peer.abort();
  try {
    co_await running.join();
  } catch (const std::system_error&) {
    // How the connection ended; what that means, the answer has said.
  }
  failure.rethrow();
}

void run_client(const std::function<awaitable<void>(real::env&)>& work) {
  asio::io_context io(1);
  real::env env(io.get_executor());
  std::exception_ptr failure;
  asio::co_spawn(io, work(env), [&](std::exception_ptr ended) { failure = ended; });
  io.run();
  try {
    if (failure) std::rethrow_exception(failure);
  } catch (const exit_error& error) {
    throw exit_error(error.code(), escape(error.what()));
  }
}

}  // namespace lockstep::examples
