// An office that hands out numbered tickets, and a visitor who draws them: no number is handed out twice, whatever
// crashes. docs/simulation.md tells how that is tested.
#pragma once

#include <lockstep.hpp>

#include <functional>

namespace tickets {

using namespace lockstep;
using namespace std::chrono_literals;

/// A ticket is a record of the log, and its number the record's.
template <class Env>
awaitable<void> serve(basic_append_log<Env>& log, basic_channel<Env>& visitor, bool careless) {
  for (;;) {
    const frame_view asked = co_await visitor.receive();
    const position ticket = log.append(log.last().epoch, asked.payload);
    if (!careless) co_await log.durable(ticket.index);
    co_await visitor.send(1, ticket.index, bytes_view());
  }
}

/// @param careless  hands tickets out before they survive a crash: a bug.
template <class Env>
awaitable<void> office(Env& env, std::string directory, address where, bool careless = false) {
  auto opened = co_await basic_append_log<Env>::open(env, directory);
  if (!opened.log) throw std::runtime_error(opened.report.reason);
  std::error_code ec;
  basic_server<Env> server(env, env.listen(where, ec), server_options());
  if (ec) throw std::system_error(ec, where.to_string());
  server.on("tickets", [&](basic_channel<Env>& visitor) { return serve(*opened.log, visitor, careless); });
  co_await server.run();
}

/// Draws tickets, one after another, and gives each number to `take`.
template <class Env>
awaitable<void> visit(Env& env, address where, std::uint64_t count, std::function<void(std::uint64_t)> take) {
  channel_options options;
  options.purpose = "tickets";
  options.idle_timeout = 2s;
  auto connected = co_await env.connect(where, 1s);
  basic_channel<Env> office(env, std::move(connected), options);
  co_await office.handshake();
  for (; count != 0; --count) {
    co_await office.send(1, 0, bytes_view());
    const frame_view ticket = co_await office.receive();
    take(ticket.id);
  }
  co_await office.close();
}

}  // namespace tickets
