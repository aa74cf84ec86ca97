// What clients ask: method numbers and the bytes of requests and answers. Pure.
#pragma once

#include "cityhall/kv_state.hpp"
#include "cityhall/records.hpp"

#include <lockstep/core/fields.hpp>

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace lockstep::cityhall {

inline constexpr const char* cluster_name = "cityhall";
inline constexpr const char* client_purpose = "client";
inline constexpr const char* replication_purpose = "replication";

enum method : std::uint32_t { put_method = 1, del_method, get_method, scan_method, watch_method, status_method };

/// What a handler refuses with: rpc_status::remote_code().
enum refused : std::uint32_t {
  refused_not_leader = 1,  ///< the text names the leader
  refused_too_large = 2,
  refused_malformed = 3,
  refused_storage = 4,  ///< the log failed; whether the change survives is unknown
  refused_lost = 5,     ///< get: the history goes on without the record at min_position
};

/// put and del.
struct change_request {
  std::string_view key;
  std::string_view value;

  [[nodiscard]] byte_buffer encode() const {
    byte_buffer bytes;
    field_writer(bytes).text(key).text(value);
    return bytes;
  }
  static std::optional<change_request> decode(bytes_view bytes) noexcept {
    field_reader from(bytes);
    change_request found;
    found.key = from.text();
    found.value = from.text();
    if (!from.complete()) return std::nullopt;
    return found;
  }
};

struct change_reply {
  position at;
  std::uint64_t segment = 0;

  void encode(byte_buffer& to) const { field_writer(to).at(at).number(segment); }
  static std::optional<change_reply> decode(bytes_view bytes) noexcept {
    field_reader from(bytes);
    change_reply found;
    found.at = from.at();
    found.segment = from.number<std::uint64_t>();
    if (!from.complete()) return std::nullopt;
    return found;
  }
};

struct get_request {
  std::string_view key;
  position min_position;  ///< answer from a state that holds this record; index 0: from any

  [[nodiscard]] byte_buffer encode() const {
    byte_buffer bytes;
    field_writer(bytes).text(key).at(min_position);
    return bytes;
  }
  static std::optional<get_request> decode(bytes_view bytes) noexcept {
    field_reader from(bytes);
    get_request found;
    found.key = from.text();
    found.min_position = from.at();
    if (!from.complete()) return std::nullopt;
    return found;
  }
};

struct get_reply {
  position at;
  std::optional<std::string> value;

  static void encode(byte_buffer& to, const position& at, const std::string* value) {
    field_writer(to).at(at).number(static_cast<std::uint8_t>(value != nullptr));
    field_writer(to).text(value ? std::string_view(*value) : std::string_view());
  }
  static std::optional<get_reply> decode(bytes_view bytes) {
    field_reader from(bytes);
    get_reply found;
    found.at = from.at();
    const bool there = from.number<std::uint8_t>() != 0;
    const std::string_view value = from.text();
    if (!from.complete()) return std::nullopt;
    if (there) found.value = std::string(value);
    return found;
  }
};

/// scan: pairs whose key begins with `prefix`, at most `limit` (0: all). watch: changes of such keys from now on.
struct scan_request {
  std::string_view prefix;
  std::uint64_t limit = 0;

  [[nodiscard]] byte_buffer encode() const {
    byte_buffer bytes;
    field_writer(bytes).text(prefix).number(limit);
    return bytes;
  }
  static std::optional<scan_request> decode(bytes_view bytes) noexcept {
    field_reader from(bytes);
    scan_request found;
    found.prefix = from.text();
    found.limit = from.number<std::uint64_t>();
    if (!from.complete()) return std::nullopt;
    return found;
  }
};

/// An item of scan (index 0) and of watch. A view into the item.
struct change_item {
  index_t index = 0;
  entry change;

  void encode(byte_buffer& to) const {
    to.clear();
    field_writer(to).number(index).number(static_cast<std::uint8_t>(change.op)).text(change.key).text(change.value);
  }
  static std::optional<change_item> decode(bytes_view bytes) noexcept {
    field_reader from(bytes);
    change_item found;
    found.index = from.number<std::uint64_t>();
    found.change.op = static_cast<operation>(from.number<std::uint8_t>());
    found.change.key = from.text();
    found.change.value = from.text();
    if (!from.complete()) return std::nullopt;
    return found;
  }
};

struct status_reply {
  std::string role;
  position at;
  totals counts;
  std::uint64_t keys = 0;
  std::uint64_t followers = 0;
  std::string leader;  ///< where writes go
  std::string health;

  void encode(byte_buffer& to) const {
    field_writer(to).text(role).at(at).number(counts.segments).number(counts.entries).number(keys).number(followers);
    field_writer(to).text(leader).text(health);
  }
  static std::optional<status_reply> decode(bytes_view bytes) {
    field_reader from(bytes);
    status_reply found;
    found.role = std::string(from.text());
    found.at = from.at();
    found.counts.segments = from.number<std::uint64_t>();
    found.counts.entries = from.number<std::uint64_t>();
    found.keys = from.number<std::uint64_t>();
    found.followers = from.number<std::uint64_t>();
    found.leader = std::string(from.text());
    found.health = std::string(from.text());
    if (!from.complete()) return std::nullopt;
    return found;
  }
};

}  // namespace lockstep::cityhall
