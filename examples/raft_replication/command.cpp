#include "raft_replication/command.hpp"

#include "common/output.hpp"
#include "common/values.hpp"
#include "raft_replication/kv_codec.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <charconv>
#include <stdexcept>

namespace lockstep::raft_replication {

namespace {

struct command_form {
  verb what;
  std::string_view name;
  std::string_view usage;
  std::string_view purpose;
  std::size_t words;  // behind the name and its flag
};

constexpr std::array<command_form, 15> forms{{
    {verb::put, "PUT", "PUT <key> <value>", "set a key", 2},
    {verb::get, "GET", "GET [--stale] <key>", "read a key; --stale: as this node has it, without asking others", 1},
    {verb::del, "DEL", "DEL <key>", "remove a key", 1},
    {verb::cas, "CAS", "CAS <key> <old> <new>",
     "set a key that has the value <old>; CAS --absent <key> <new>: has none", 3},
    {verb::watch, "WATCH", "WATCH <key>", "print the key's changes from now on", 1},
    {verb::unwatch, "UNWATCH", "UNWATCH <key>", "and no more", 1},
    {verb::status, "STATUS", "STATUS", "what this node is and knows", 0},
    {verb::members, "MEMBERS", "MEMBERS", "who belongs to the group", 0},
    {verb::add, "ADD", "ADD <id> <host:port>", "let a node follow, without a vote", 2},
    {verb::promote, "PROMOTE", "PROMOTE <id>", "give a node that follows a vote", 1},
    {verb::remove, "REMOVE", "REMOVE <id>", "let a node go", 1},
    {verb::transfer, "TRANSFER", "TRANSFER <id>", "let another node lead", 1},
    {verb::snapshot, "SNAPSHOT", "SNAPSHOT", "write this node's state down, and shorten its log", 0},
    {verb::help, "HELP", "HELP", "this list", 0},
    {verb::exit, "EXIT", "EXIT", "stop this node", 0},
}};

const command_form& form_of(const std::string& word) {
  std::string name = word;
  std::ranges::transform(name, name.begin(), [](unsigned char c) { return static_cast<char>(std::toupper(c)); });
  if (name == "QUIT") name = "EXIT";
  const auto* const found = std::ranges::find(forms, name, &command_form::name);
  if (found == forms.end()) {
    throw std::invalid_argument("unknown command '" + examples::escape(word) + "'; HELP lists them");
  }
  return *found;
}

node_id parse_node(const std::string& word) {
  node_id id = 0;
  const auto [end, error] = std::from_chars(word.data(), word.data() + word.size(), id);
  if (error != std::errc() || end != word.data() + word.size() || id == 0) {
    throw std::invalid_argument("'" + examples::escape(word) + "': expected the number of a node, from 1 on");
  }
  return id;
}

char hex_digit(char c) {
  if (c >= '0' && c <= '9') return static_cast<char>(c - '0');
  const char lower = static_cast<char>(c | 0x20);
  if (lower >= 'a' && lower <= 'f') return static_cast<char>(lower - 'a' + 10);
  throw std::invalid_argument("a backslash in double quotes must be followed by \\, \" or xNN");
}

/// What a backslash at `at` stands for; `at` is moved to its last character.
char unescaped(std::string_view line, std::size_t& at) {
  const std::string_view rest = line.substr(at + 1);
  if (rest.starts_with('"') || rest.starts_with('\\')) return line[++at];
  if (rest.size() < 3 || rest[0] != 'x') {
    throw std::invalid_argument("a backslash in double quotes must be followed by \\, \" or xNN");
  }
  at += 3;
  return static_cast<char>(hex_digit(rest[1]) * 16 + hex_digit(rest[2]));
}

std::string in_quotes(std::string_view bytes) {
  const std::string shown = examples::escape(bytes);
  const bool plain = !shown.empty() && shown.find_first_of(" \"'") == std::string::npos;
  return plain ? shown : "\"" + shown + "\"";
}

}  // namespace

bool request::changes() const noexcept {
  switch (what) {
    case verb::put:
    case verb::del:
    case verb::cas:
    case verb::add:
    case verb::promote:
    case verb::remove:
    case verb::transfer: return true;
    default: return false;
  }
}

std::string_view name_of(verb what) noexcept {
  switch (what) {
    case verb::put: return "put";
    case verb::get: return "get";
    case verb::del: return "del";
    case verb::cas: return "cas";
    case verb::watch: return "watch";
    case verb::status: return "status";
    case verb::members: return "members";
    case verb::add: return "add";
    case verb::promote: return "promote";
    case verb::remove: return "remove";
    case verb::transfer: return "transfer";
    case verb::snapshot: return "snapshot";
    case verb::unwatch: return "unwatch";
    case verb::help: return "help";
    case verb::exit: return "exit";
  }
  return "";
}

std::string_view name_of(reply_code code) noexcept {
  switch (code) {
    case reply_code::ok: return "ok";
    case reply_code::absent: return "absent";
    case reply_code::differs: return "differs";
    case reply_code::refused: return "refused";
    case reply_code::no_leader: return "no_leader";
    case reply_code::outcome_unknown: return "outcome_unknown";
    case reply_code::failed: return "failed";
  }
  return "";
}

void encode(byte_buffer& to, const request& asked) {
  field_writer fields(to);
  fields.number(static_cast<std::uint8_t>(asked.what));
  fields.number(static_cast<std::uint8_t>((asked.stale ? 1 : 0) | (asked.expected ? 2 : 0)));
  fields.text(asked.key).text(asked.value).text(asked.expected.value_or(std::string()));
  fields.number(asked.node).text(asked.address);
}

std::optional<request> decode_request(bytes_view bytes) {
  field_reader from(bytes);
  request found;
  found.what = static_cast<verb>(from.number<std::uint8_t>());
  const auto flags = from.number<std::uint8_t>();
  found.key = from.text();
  found.value = from.text();
  const std::string_view expected = from.text();
  found.node = from.number<std::uint64_t>();
  found.address = from.text();
  if (!from.complete() || found.what < verb::put || found.what > verb::snapshot || flags > 3) return std::nullopt;
  found.stale = (flags & 1U) != 0;
  if ((flags & 2U) != 0) found.expected = expected;
  return found;
}

void encode(byte_buffer& to, const reply& answer) {
  field_writer fields(to);
  fields.number(static_cast<std::uint8_t>(answer.code)).number(answer.index).number(answer.term);
  fields.number(static_cast<std::uint8_t>(answer.value ? 1 : 0)).text(answer.value.value_or(std::string()));
  fields.text(answer.words);
}

std::optional<reply> decode_reply(bytes_view bytes) {
  field_reader from(bytes);
  reply found;
  found.code = static_cast<reply_code>(from.number<std::uint8_t>());
  found.index = from.number<std::uint64_t>();
  found.term = from.number<std::uint64_t>();
  const auto flags = from.number<std::uint8_t>();
  const std::string_view value = from.text();
  found.words = from.text();
  if (!from.complete() || found.code > reply_code::failed || flags > 1) return std::nullopt;
  if (flags == 1) found.value = value;
  return found;
}

std::vector<std::string> split_words(std::string_view line) {
  std::vector<std::string> words;
  bool in_word = false;
  char quote = 0;
  for (std::size_t at = 0; at < line.size(); ++at) {
    const char c = line[at];
    if (quote == 0 && std::isspace(static_cast<unsigned char>(c))) {
      in_word = false;
      continue;
    }
    if (!in_word) words.emplace_back();
    in_word = true;
    if (quote == 0 && (c == '"' || c == '\'')) {
      quote = c;
    } else if (c == quote) {
      quote = 0;
    } else {
      words.back() += quote == '"' && c == '\\' ? unescaped(line, at) : c;
    }
  }
  if (quote != 0) throw std::invalid_argument(std::string("a ") + quote + " without its end");
  return words;
}

request parse_command(const std::vector<std::string>& words) {
  if (words.empty()) throw std::invalid_argument("an empty command");
  const command_form& form = form_of(words[0]);
  std::vector<std::string> rest(words.begin() + 1, words.end());
  request made;
  made.what = form.what;
  std::size_t wanted = form.words;
  if (made.what == verb::get && !rest.empty() && rest[0] == "--stale") {
    made.stale = true;
    rest.erase(rest.begin());
  }
  const bool absent = made.what == verb::cas && !rest.empty() && rest[0] == "--absent";
  if (absent) {
    rest.erase(rest.begin());
    --wanted;
  }
  if (rest.size() != wanted) {
    const bool quotes = rest.size() > wanted && wanted != 0;
    throw std::invalid_argument(fmt::format("usage: {}{}", form.usage, quotes ? "; quote what has spaces" : ""));
  }
  switch (made.what) {
    case verb::put:
    case verb::cas:
      made.value = rest.back();
      if (made.what == verb::cas && !absent) made.expected = rest[1];
      [[fallthrough]];
    case verb::get:
    case verb::del:
    case verb::watch:
    case verb::unwatch:
      made.key = rest[0];
      if (made.key.empty()) throw std::invalid_argument("a key cannot be empty");
      if (made.key.size() > raft::kv::max_key_bytes) throw std::invalid_argument("a key has at most 64 KiB");
      if (std::max(made.value.size(), made.expected.value_or("").size()) > raft::kv::max_value_bytes) {
        throw std::invalid_argument("a value has at most 3 MiB");
      }
      break;
    case verb::add: made.address = examples::parse_address(rest[1]).to_string(); [[fallthrough]];
    case verb::promote:
    case verb::remove:
    case verb::transfer: made.node = parse_node(rest[0]); break;
    default: break;
  }
  return made;
}

std::string help_text() {
  std::string text;
  for (const command_form& each : forms) {
    text += fmt::format("{}{:<22} {}", text.empty() ? "" : "\n", each.usage, each.purpose);
  }
  return text;
}

std::string describe(const request& asked, const reply& answer) {
  const auto with_value = [&] { return fmt::format("{} -> {}", in_quotes(asked.key), in_quotes(*answer.value)); };
  switch (answer.code) {
    case reply_code::absent: return in_quotes(asked.key) + " -> not found";
    case reply_code::differs:
      return answer.value ? with_value() + " (differs, unchanged)" : in_quotes(asked.key) + " -> not found";
    case reply_code::ok:
      if (asked.what == verb::get) return with_value();
      if (asked.what == verb::status || asked.what == verb::members) return answer.words;
      if (!answer.words.empty()) return "OK " + examples::escape(answer.words);
      return fmt::format("OK index={} term={}", answer.index, answer.term);
    default: return "ERROR " + examples::escape(answer.words);
  }
}

}  // namespace lockstep::raft_replication
