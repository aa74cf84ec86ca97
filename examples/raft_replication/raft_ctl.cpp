// raft_ctl: asks a group of raft_nodes, for scripts. Any node answers; it forwards what only the leader can do.
#include "common/cli.hpp"
#include "common/converse.hpp"
#include "raft_replication/command.hpp"
#include "raft_replication/protocol.hpp"
#include "raft_replication/tables.hpp"

#include <lockstep/core/fields.hpp>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include <csignal>
#include <cstdlib>

using namespace lockstep;
using namespace lockstep::raft_replication;
using namespace lockstep::examples;
using json = nlohmann::ordered_json;

namespace {

struct ctl_command {
  std::vector<address> endpoints;
  std::string cluster = "raft_replication";
  duration timeout = std::chrono::seconds(10);
  bool json = false;
  bool raw = false;
  bool absent = false;
  request asked;
  std::vector<std::string> words;  // cas: old and new
};

std::vector<address> parse_endpoints(std::string_view text) {
  std::vector<address> found;
  for (bool more = true; more;) {
    const std::size_t comma = text.find(',');
    found.push_back(parse_address(text.substr(0, comma)));
    more = comma != std::string_view::npos;
    if (more) text.remove_prefix(comma + 1);
  }
  return found;
}

bool parse_table_or_json(std::string_view text) {
  if (text != "table" && text != "json") {
    throw std::invalid_argument(fmt::format("'{}': expected table or json", text));
  }
  return text == "json";
}

contact contact_of(const ctl_command& command, const address& where) {
  return {where, command.cluster, client_purpose, std::min<duration>(command.timeout, std::chrono::seconds(2))};
}

/// @throws exit_error{unreachable}: it was not asked, another node may be; outcome_unknown.
awaitable<void> ask_over(rpc_peer& peer, const ctl_command& command, const address& where, reply& answer) {
  using std::chrono::milliseconds;
  byte_buffer arguments;
  const auto limit = std::chrono::ceil<milliseconds>(command.timeout).count();
  field_writer(arguments).number(static_cast<std::uint32_t>(limit));
  encode(arguments, command.asked);
  byte_buffer result;
  // The node knows better why it takes too long: it is given the time to say so.
  const duration patience = command.timeout + std::chrono::seconds(1);
  const rpc_status status = co_await peer.call(ask_method, arguments.view(), result, patience);
  if (!status.ok()) {
    const bool unknown = status.outcome_unknown() && command.asked.changes();
    const bool silent = status.code() == errc::timed_out;
    const exit_code code = unknown || silent                       ? exit_code::outcome_unknown
                           : status.code() == errc::remote_failure ? exit_code::failure
                                                                   : exit_code::unreachable;
    throw exit_error(code, where.to_string() + ": " + status.message());
  }
  std::optional<reply> found = decode_reply(result.view());
  if (!found) throw exit_error(exit_code::failure, where.to_string() + ": malformed answer");
  answer = std::move(*found);
}

awaitable<void> ask(real::env& env, const ctl_command& command, const address& where, reply& answer) {
  const conversation talk = [&](rpc_peer& peer) { return ask_over(peer, command, where, answer); };
  const contact endpoint = contact_of(command, where);
  co_await converse(env, endpoint, talk);
}

/// Of the first endpoint that can be reached.
awaitable<reply> ask_any(real::env& env, const ctl_command& command) {
  std::string why;
  reply answer;
  for (const address& where : command.endpoints) {
    try {
      co_await ask(env, command, where, answer);
      co_return answer;
    } catch (const exit_error& error) {
      if (error.code() != exit_code::unreachable) throw;
      why += (why.empty() ? "" : "; ") + std::string(error.what());
    }
  }
  throw exit_error(exit_code::unreachable, why);
}

exit_code exit_code_of(const reply& answer) {
  switch (answer.code) {
    case reply_code::ok: return exit_code::ok;
    case reply_code::absent:
    case reply_code::differs:
    case reply_code::refused: return exit_code::negative;
    case reply_code::no_leader: return exit_code::unreachable;
    case reply_code::outcome_unknown: return exit_code::outcome_unknown;
    case reply_code::failed: break;
  }
  return exit_code::failure;
}

/// Of status and members.
json parse_words(const reply& answer) {
  try {
    return json::parse(answer.words);
  } catch (const json::parse_error& error) {
    throw exit_error(exit_code::failure, std::string("malformed answer: ") + error.what());
  }
}

json as_json(const ctl_command& command, const reply& answer) {
  json out;
  out["outcome"] = name_of(answer.code);
  if (!command.asked.key.empty()) out["key"] = json_bytes(command.asked.key);
  if (answer.value) out["value"] = json_bytes(*answer.value);
  if (answer.index != 0) out["index"] = answer.index;
  if (answer.term != 0) out["term"] = answer.term;
  if (!answer.words.empty()) out["text"] = answer.words;
  return out;
}

awaitable<void> carry_out(real::env& env, const ctl_command& command, exit_code& code) {
  const reply answer = co_await ask_any(env, command);
  code = exit_code_of(answer);
  const bool tabular = command.asked.what == verb::members && answer.ok();
  if (command.json) {
    const json out = tabular ? parse_words(answer) : as_json(command, answer);
    write_out(json_text(out, tabular ? 2 : -1) + "\n");
  } else if (tabular) {
    write_out(members_table(parse_words(answer)) + "\n");
  } else if (command.asked.what == verb::get && answer.ok()) {
    write_out(shown(*answer.value, command.raw) + "\n");
  } else if (answer.code == reply_code::absent || answer.code == reply_code::differs || answer.ok()) {
    write_out(describe(command.asked, answer) + "\n");
  } else {
    throw exit_error(code, answer.words);
  }
}

/// Every endpoint is asked for itself.
awaitable<void> show_status(real::env& env, const ctl_command& command, exit_code& code) {
  json all = json::array();
  bool reached = false;
  for (const address& where : command.endpoints) {
    json one;
    one["endpoint"] = where.to_string();
    try {
      reply answer;
      co_await ask(env, command, where, answer);
      one.update(parse_words(answer));
      reached = true;
    } catch (const exit_error& error) {
      one["error"] = error.what();
    }
    all.push_back(std::move(one));
  }
  code = reached ? exit_code::ok : exit_code::unreachable;
  write_out((command.json ? json_text(all, 2) : endpoints_table(all)) + "\n");
}

awaitable<void> watch_over(rpc_peer& peer, const ctl_command& command) {
  rpc_stream items = co_await peer.open_stream(watch_method, as_bytes(command.asked.key));
  for (;;) {
    const std::optional<bytes_view> bytes = co_await items.next();
    if (!bytes) break;
    field_reader from(*bytes);
    reply change;
    change.index = from.number<std::uint64_t>();
    const bool there = from.number<std::uint8_t>() != 0;
    change.code = there ? reply_code::ok : reply_code::absent;
    if (there) change.value = std::string(from.text());
    request shown_as;
    shown_as.what = verb::get;
    shown_as.key = command.asked.key;
    write_out((command.json ? json_text(as_json(command, change)) : describe(shown_as, change)) + "\n");
    flush_out();
  }
  throw exit_error(exit_code::unreachable, "the watch has ended: " + items.status().message());
}

awaitable<void> watch(real::env& env, const ctl_command& command, exit_code&) {
  std::string why;
  for (const address& where : command.endpoints) {
    const conversation talk = [&](rpc_peer& peer) { return watch_over(peer, command); };
    const contact endpoint = contact_of(command, where);
    try {
      co_await converse(env, endpoint, talk);
    } catch (const exit_error& error) {
      if (error.code() != exit_code::unreachable) throw;
      why += (why.empty() ? "" : "; ") + std::string(error.what());
    }
  }
  throw exit_error(exit_code::unreachable, why);
}

using action = awaitable<void> (*)(real::env&, const ctl_command&, exit_code&);

exit_code run(ctl_command& command, verb what, action doing) {
  if (command.endpoints.empty()) throw usage_error("--endpoints is required");
  command.asked.what = what;
  if (what == verb::cas) {
    if (command.words.size() != (command.absent ? 1U : 2U)) {
      throw usage_error("cas takes the key, the old value and the new one; with --absent no old one");
    }
    if (!command.absent) command.asked.expected = command.words.front();
    command.asked.value = command.words.back();
  }
  if (what == verb::watch) {
    // Nothing to drain: what was printed is flushed.
    for (const int number : {SIGINT, SIGTERM}) std::signal(number, [](int) { std::_Exit(0); });
  }
  exit_code code = exit_code::ok;
  run_client([&](real::env& env) { return doing(env, command, code); });
  return code;
}

}  // namespace

int main(int argc, char** argv) {
  ctl_command command;
  program p("raft_ctl", "Asks a group of raft_nodes.",
            {{"what the nodes are doing", "raft_ctl --endpoints 127.0.0.1:7101,127.0.0.1:7102 status"},
             {"a write", "raft_ctl --endpoints 127.0.0.1:7101,127.0.0.1:7102 put city Nairobi"},
             {"for a script", "raft_ctl --endpoints 127.0.0.1:7101 -o json get city"}});
  add_parsed(p.root(), "--endpoints", command.endpoints, parse_endpoints, "HOST:PORT[,...]",
             "Nodes to ask: the first that can be reached, status every one");
  add_parsed(p.root(), "-o,--output", command.json, parse_table_or_json, "{table,json}", "How to print the result")
      ->default_str("table");
  add_duration(p.root(), "--timeout", command.timeout, "How long to try");
  p.root().add_option("--cluster", command.cluster, "Name of the group")->capture_default_str();
  p.root().add_flag("--raw", command.raw, "get: print the bytes as they are, not escaped");

  const auto add = [&](const char* name, const char* text, verb what, const std::string& arguments,
                       action doing = carry_out) -> CLI::App& {
    const std::string line = "raft_ctl --endpoints H:P " + std::string(name) + arguments;
    return p.add_command(p.root(), name, text, {{"for example", line}},
                         [&command, what, doing] { return run(command, what, doing); });
  };
  const auto add_key = [&](CLI::App& to) { to.add_option("key", command.asked.key)->required(); };
  const auto add_node = [&](CLI::App& to) {
    to.add_option("id", command.asked.node)->required()->check(CLI::Range(std::uint64_t{1}, UINT64_MAX));
  };
  add("status", "Show what each endpoint is doing.", verb::status, "", show_status);
  add("members", "Show who belongs to the group.", verb::members, "");
  CLI::App& get = add("get", "Print a key's value.", verb::get, " city");
  add_key(get);
  get.add_flag("--stale", command.asked.stale, "As the endpoint has it, which may be behind");
  CLI::App& put = add("put", "Set a key.", verb::put, " city Nairobi");
  add_key(put);
  put.add_option("value", command.asked.value)->required();
  add_key(add("del", "Remove a key.", verb::del, " city"));
  CLI::App& cas = add("cas", "Set a key that has the value OLD.", verb::cas, " city Nairobi Mombasa");
  add_key(cas);
  cas.add_option("values", command.words, "OLD and NEW")->required();
  cas.add_flag("--absent", command.absent, "Set a key that has none; no OLD then");
  add_key(add("watch", "Print a key's changes from now on.", verb::watch, " city", watch));
  CLI::App& joining = add("add", "Let a node follow, without a vote.", verb::add, " 4 127.0.0.1:7104");
  add_node(joining);
  joining
      .add_option_function<std::string>(
          "address", [&](const std::string& text) { command.asked.address = parse_address(text).to_string(); })
      ->required();
  add_node(add("promote", "Give a node that follows a vote.", verb::promote, " 4"));
  add_node(add("remove", "Let a node go.", verb::remove, " 4"));
  add_node(add("transfer", "Let another node lead.", verb::transfer, " 2"));
  add("snapshot", "Write the endpoint's state down, and shorten its log.", verb::snapshot, "");
  return p.run(argc, argv);
}
