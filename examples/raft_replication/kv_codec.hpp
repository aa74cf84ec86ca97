// What the key-value machine is told, what it answers, and its snapshot. Pure.
//
//   command   | op u8 | key (text) | by op:
//     put 1     | value (text) |
//     get 2     |
//     del 3     |
//     cas 4     | expects u8: 0 absent, 1 a value | 1: expected (text) | value (text) |
//   result    | outcome u8 | revision u64 | value (text) |
//   snapshot  | pair after pair, ascending by key | an empty text |
//   pair      | key (text) | revision u64 | value (text) |
//   text      | length u32 | that many bytes |            integers are little-endian
#pragma once

#include <lockstep/core/fields.hpp>

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>

namespace lockstep::raft::kv {

inline constexpr std::size_t max_key_bytes = std::size_t{64} << 10;
inline constexpr std::size_t max_value_bytes = std::size_t{3} << 20;
/// Of an encoded command: a CAS has two values. It fits into a record of the log (log_options::max_payload_bytes).
inline constexpr std::size_t max_command_bytes = 14 + max_key_bytes + 2 * max_value_bytes;

enum class operation : std::uint8_t { put = 1, get = 2, del = 3, cas = 4 };

/// A view: whoever hands it out says for how long it is valid.
struct command {
  operation op = operation::get;
  std::string_view key;                      ///< not empty
  std::string_view value;                    ///< put and cas: the new one
  std::optional<std::string_view> expected;  ///< cas: the old one; nothing: the key must be absent

  [[nodiscard]] bool sound() const noexcept {
    const bool sizes = key.size() <= max_key_bytes && value.size() <= max_value_bytes &&
                       expected.value_or(std::string_view()).size() <= max_value_bytes;
    const bool has_value = op == operation::put || op == operation::cas;
    return sizes && !key.empty() && (has_value || value.empty()) && (op == operation::cas || !expected);
  }
  friend bool operator==(const command&, const command&) = default;
};

enum class outcome : std::uint8_t {
  ok = 0,
  absent = 1,     ///< get, del: there is no such key
  differs = 2,    ///< cas: the key is not as expected; nothing was changed
  malformed = 3,  ///< not a command; nothing was changed
};

/// A view, likewise.
struct result {
  outcome is = outcome::ok;
  std::uint64_t revision = 0;  ///< of the key: the index of the entry that changed it last; 0: it is absent
  std::string_view value;      ///< get, and cas that differs: the key's; otherwise empty

  friend bool operator==(const result&, const result&) = default;
};

/// Appends a sound command.
inline void encode(byte_buffer& to, const command& told) {
  field_writer fields(to);
  fields.number(static_cast<std::uint8_t>(told.op)).text(told.key);
  if (told.op == operation::cas) fields.number(static_cast<std::uint8_t>(told.expected ? 1 : 0));
  if (told.expected) fields.text(*told.expected);
  if (told.op == operation::put || told.op == operation::cas) fields.text(told.value);
}

/// @return nothing when `bytes` are no command; a view into them.
inline std::optional<command> decode_command(bytes_view bytes) noexcept {
  field_reader from(bytes);
  command found;
  found.op = static_cast<operation>(from.number<std::uint8_t>());
  if (found.op < operation::put || found.op > operation::cas) return std::nullopt;
  found.key = from.text();
  if (found.op == operation::cas) {
    const auto expects = from.number<std::uint8_t>();
    if (expects > 1) return std::nullopt;
    if (expects == 1) found.expected = from.text();
  }
  if (found.op == operation::put || found.op == operation::cas) found.value = from.text();
  if (!from.complete() || !found.sound()) return std::nullopt;
  return found;
}

inline void encode(byte_buffer& to, const result& answer) {
  field_writer(to).number(static_cast<std::uint8_t>(answer.is)).number(answer.revision).text(answer.value);
}

/// @return nothing when `bytes` are no result; a view into them.
inline std::optional<result> decode_result(bytes_view bytes) noexcept {
  field_reader from(bytes);
  result found;
  found.is = static_cast<outcome>(from.number<std::uint8_t>());
  found.revision = from.number<std::uint64_t>();
  found.value = from.text();
  if (!from.complete() || found.is > outcome::malformed) return std::nullopt;
  return found;
}

/// A view, likewise.
struct stored_pair {
  std::string_view key;  ///< empty: the end of a snapshot, without what follows
  std::uint64_t revision = 0;
  std::string_view value;
};

inline void encode(byte_buffer& to, const stored_pair& pair) {
  field_writer fields(to);
  fields.text(pair.key);
  if (!pair.key.empty()) fields.number(pair.revision).text(pair.value);
}

/// Takes one off the front. @return nothing when it is not whole.
inline std::optional<stored_pair> take_pair(field_reader& from) noexcept {
  stored_pair found;
  found.key = from.text();
  if (!found.key.empty()) {
    found.revision = from.number<std::uint64_t>();
    found.value = from.text();
  }
  if (!from.good()) return std::nullopt;
  return found;
}

}  // namespace lockstep::raft::kv
