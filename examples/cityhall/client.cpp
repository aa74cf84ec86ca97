#include "cityhall/commands.hpp"
#include "cityhall/positions.hpp"
#include "cityhall/protocol.hpp"
#include "cityhall/status.hpp"
#include "common/converse.hpp"
#include "common/values.hpp"

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include <csignal>

namespace lockstep::cityhall {

namespace {

using examples::exit_code;
using examples::exit_error;
using json = nlohmann::ordered_json;
using question = std::function<awaitable<exit_code>(rpc_peer&)>;

exit_code run(const client_command& command, const question& ask) {
  if (command.addr == address{}) throw examples::usage_error("--addr is required");
  const examples::contact server{command.addr, cluster_name, client_purpose, command.timeout};
  exit_code code = exit_code::ok;
  const examples::conversation talk = [&](rpc_peer& peer) -> awaitable<void> { code = co_await ask(peer); };
  examples::run_client([&](real::env& env) { return examples::converse(env, server, talk); });
  return code;
}

enum class effect { reads, writes };

/// Throws what a failed call means to a script. A read that got no answer has no outcome that could be unknown.
void check(const rpc_status& status, const client_command& command, effect of) {
  if (status.ok()) return;
  if (of == effect::reads && status.code() == errc::timed_out) {
    throw exit_error(exit_code::outcome_unknown, command.addr.to_string() + ": " + status.code().message());
  }
  if (of == effect::reads && status.code() == errc::closed) {
    throw exit_error(exit_code::unreachable,
                     command.addr.to_string() + ": the connection ended before the answer came");
  }
  const std::string text = command.addr.to_string() + ": " + status.message();
  if (status.code() == errc::remote_failure) {
    const bool not_leader = status.remote_code() == refused_not_leader;
    const bool too_large = status.remote_code() == refused_too_large;
    const bool unknown = status.remote_code() == refused_storage;
    const bool lost = status.remote_code() == refused_lost;
    throw exit_error(not_leader  ? exit_code::unreachable
                     : too_large ? exit_code::usage
                     : unknown   ? exit_code::outcome_unknown
                     : lost      ? exit_code::negative
                                 : exit_code::failure,
                     text);
  }
  const bool unknown = status.outcome_unknown() || status.code() == errc::timed_out;
  throw exit_error(unknown ? exit_code::outcome_unknown : exit_code::unreachable, text);
}

template <class Reply>
Reply expect(std::optional<Reply> reply, const client_command& command) {
  if (!reply) throw exit_error(exit_code::failure, command.addr.to_string() + ": malformed answer");
  return std::move(*reply);
}

awaitable<exit_code> change(rpc_peer& peer, const client_command& command, method which) {
  change_request request;
  request.key = command.key;
  request.value = command.value;
  const byte_buffer arguments = request.encode();
  byte_buffer result;
  const rpc_status status = co_await peer.call(which, arguments.view(), result, command.timeout);
  check(status, command, effect::writes);
  const change_reply reply = expect(change_reply::decode(result.view()), command);
  if (command.format == examples::output_format::json) {
    json out = to_json(reply.at);
    out["segment"] = reply.segment;
    examples::write_out(out.dump() + "\n");
  } else {
    examples::write_out(fmt::format("OK {} segment={}\n", shown(reply.at), reply.segment));
  }
  co_return exit_code::ok;
}

awaitable<exit_code> get(rpc_peer& peer, const client_command& command) {
  get_request request;
  request.key = command.key;
  request.min_position = command.min_position;
  const byte_buffer arguments = request.encode();
  byte_buffer result;
  const rpc_status status = co_await peer.call(get_method, arguments.view(), result, command.timeout);
  check(status, command, effect::reads);
  const get_reply reply = expect(get_reply::decode(result.view()), command);
  if (!reply.value) {
    fmt::print(stderr, "NOT_FOUND\n");
    co_return exit_code::negative;
  }
  if (command.format == examples::output_format::json) {
    json out;
    out["key"] = examples::json_bytes(command.key);
    out["value"] = examples::json_bytes(*reply.value);
    out["position"] = to_json(reply.at);
    examples::write_out(out.dump() + "\n");
  } else {
    examples::write_out(examples::shown(*reply.value, command.raw) + "\n");
  }
  co_return exit_code::ok;
}

void print_item(const change_item& item, const client_command& command, bool watching) {
  const bool deleted = item.change.op == operation::del;
  if (command.format == examples::output_format::json) {
    json out;
    if (watching) {
      out["index"] = item.index;
      out["op"] = deleted ? "del" : "put";
    }
    out["key"] = examples::json_bytes(item.change.key);
    if (!deleted) out["value"] = examples::json_bytes(item.change.value);
    examples::write_out(out.dump() + "\n");
    return;
  }
  std::string line;
  if (watching) line = fmt::format("{} {} ", item.index, deleted ? "del" : "put");
  line += examples::shown(item.change.key, command.raw);
  if (!deleted) line += " = " + examples::shown(item.change.value, command.raw);
  examples::write_out(line + "\n");
}

awaitable<exit_code> read_items(rpc_peer& peer, const client_command& command, method which) {
  scan_request request;
  request.prefix = command.key;
  request.limit = command.limit;
  const byte_buffer arguments = request.encode();
  const bool watching = which == watch_method;
  rpc_stream items = co_await peer.open_stream(which, arguments.view(), watching ? duration(0) : command.timeout);
  for (;;) {
    const std::optional<bytes_view> bytes = co_await items.next();
    if (!bytes) break;
    print_item(expect(change_item::decode(*bytes), command), command, watching);
    if (watching) examples::flush_out();
  }
  check(items.status(), command, effect::reads);
  co_return exit_code::ok;
}

awaitable<exit_code> status(rpc_peer& peer, const client_command& command) {
  byte_buffer result;
  const rpc_status outcome = co_await peer.call(status_method, {}, result, command.timeout);
  check(outcome, command, effect::reads);
  const status_reply reply = expect(status_reply::decode(result.view()), command);
  examples::report report;
  report.add("Role", reply.role)
      .add("Health", reply.health)
      .add("Last Segment", reply.counts.segments)
      .add("Total Entries", reply.counts.entries)
      .add("Keys", reply.keys)
      .add("Position", to_json(reply.at), shown(reply.at))
      .add("Leader", reply.leader);
  if (reply.role == "leader") report.add("Replicas", reply.followers);
  report.print(command.format);
  co_return exit_code::ok;
}

}  // namespace

exit_code client_put(const client_command& command) {
  return run(command, [&](rpc_peer& peer) { return change(peer, command, put_method); });
}
exit_code client_del(const client_command& command) {
  return run(command, [&](rpc_peer& peer) { return change(peer, command, del_method); });
}
exit_code client_get(const client_command& command) {
  return run(command, [&](rpc_peer& peer) { return get(peer, command); });
}
exit_code client_scan(const client_command& command) {
  return run(command, [&](rpc_peer& peer) { return read_items(peer, command, scan_method); });
}
exit_code client_watch(const client_command& command) {
  // Nothing to drain: what was printed is flushed.
  for (const int number : {SIGINT, SIGTERM}) std::signal(number, [](int) { std::_Exit(0); });
  return run(command, [&](rpc_peer& peer) { return read_items(peer, command, watch_method); });
}
exit_code client_status(const client_command& command) {
  return run(command, [&](rpc_peer& peer) { return status(peer, command); });
}

}  // namespace lockstep::cityhall
