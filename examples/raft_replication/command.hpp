// What people and scripts ask a node for, as they type it, and the bytes of question and answer. Pure.
//
//   request   | verb u8 | flags u8: 1 stale, 2 expected | key (text) | value (text) | expected (text) | node u64 |
//             | address (text) |
//   reply     | code u8 | index u64 | term u64 | flags u8: 1 value | value (text) | words (text) |
//   text      | length u32 | that many bytes |            integers are little-endian
#pragma once

#include <lockstep/core/bytes.hpp>
#include <lockstep/core/ids.hpp>

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace lockstep::raft_replication {

enum class verb : std::uint8_t {
  put = 1,
  get,
  del,
  cas,
  watch,
  status,
  members,
  add,
  promote,
  remove,
  transfer,
  snapshot,
  // of the shell alone
  unwatch,
  help,
  exit,
};

struct request {
  verb what = verb::status;
  std::string key;
  std::string value;
  std::optional<std::string> expected;  ///< cas; nothing: the key must be absent
  node_id node = 0;                     ///< add, promote, remove, transfer
  std::string address;                  ///< add
  bool stale = false;                   ///< get: of this node's own state, which may be behind

  /// Whether it changes the map or the group, so that an answer that did not come leaves a doubt.
  [[nodiscard]] bool changes() const noexcept;

  friend bool operator==(const request&, const request&) = default;
};

enum class reply_code : std::uint8_t {
  ok = 0,
  absent = 1,           ///< get, del: there is no such key
  differs = 2,          ///< cas: the key is not as expected; nothing was changed
  refused = 3,          ///< it makes no sense here; `words` say why, nothing was changed
  no_leader = 4,        ///< until the deadline; nothing was changed
  outcome_unknown = 5,  ///< it may have taken effect, and may yet
  failed = 6,
};

struct reply {
  reply_code code = reply_code::ok;
  index_t index = 0;  ///< changes: of the entry in the log; get: of the entry that changed the key last
  epoch_t term = 0;   ///< changes: of that entry
  std::optional<std::string> value;
  std::string words;  ///< why not, for people; of status and members: JSON

  [[nodiscard]] bool ok() const noexcept { return code == reply_code::ok; }
  friend bool operator==(const reply&, const reply&) = default;
};

std::string_view name_of(verb what) noexcept;
std::string_view name_of(reply_code code) noexcept;

void encode(byte_buffer& to, const request& asked);
std::optional<request> decode_request(bytes_view bytes);
void encode(byte_buffer& to, const reply& answer);
std::optional<reply> decode_reply(bytes_view bytes);

/// The words of a line. A word in double quotes may have spaces, and `\"`, `\\` and `\xNN` in it; in single quotes
/// all stands for itself.
/// @throws std::invalid_argument: a quote without its end, an unknown use of a backslash.
std::vector<std::string> split_words(std::string_view line);

/// A command by its words; its name in any case.
/// @throws std::invalid_argument saying what is wrong, with the command's usage.
request parse_command(const std::vector<std::string>& words);

/// All commands, a line each.
std::string help_text();

/// What a shell prints, without a newline at the end; of status and members that is their JSON.
std::string describe(const request& asked, const reply& answer);

}  // namespace lockstep::raft_replication
