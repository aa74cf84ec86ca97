// The handshake's message, to bytes and back, without I/O.
//
// Each side sends an offer, reads the other's, and answers it with an acceptance or a refusal; frames may follow an
// acceptance once the other side's has arrived too. The first twelve bytes are the same in every protocol version, so
// that any two versions can tell each other who they are. Little-endian:
//
//      0          8         10      12     13      14         16     24         32
//     +----------+---------+-------+------+-------+----------+------+----------+---------+---------+--------+-------+
//     | lockstep | version | bytes | step | cause | reserved | node | features | cluster | purpose | reason | check |
//     | 8 chars  |   u16   |  u16  |  u8  |  u8   |  u16, 0  | u64  |   u64    |  text   |  text   |  text  |  u64  |
//     +----------+---------+-------+------+-------+----------+------+----------+---------+---------+--------+-------+
//
//   bytes     of the whole message, check included; at most 512
//   step      1 offer, 2 acceptance, 3 refusal
//   cause     of a refusal, see wire_cause(); 0 otherwise
//   text      u8 length, then that many bytes
//   check     XXH3-64 of everything before it
#pragma once

#include "lockstep/core/bytes.hpp"
#include "lockstep/core/checksum.hpp"
#include "lockstep/core/endian.hpp"
#include "lockstep/core/errors.hpp"
#include "lockstep/core/ids.hpp"
#include "lockstep/frame/codec.hpp"

#include <algorithm>
#include <cstdint>
#include <string>
#include <string_view>

namespace lockstep {

inline constexpr std::uint16_t protocol_version = 1;
inline constexpr std::size_t max_hello_bytes = 512;
inline constexpr std::size_t max_cluster_bytes = 64;
inline constexpr std::size_t max_purpose_bytes = 32;
inline constexpr std::size_t max_reason_bytes = 255;

struct hello {
  enum class step_t : std::uint8_t { offer = 1, acceptance = 2, refusal = 3 };

  hello() = default;

  step_t step = step_t::offer;
  std::uint16_t version = protocol_version;
  node_id node = 0;            ///< 0: a client that is no member
  std::uint64_t features = 0;  ///< one bit each, given meaning by the program
  std::string cluster;
  std::string purpose;  ///< what the sender opened the connection for; empty: accepts
  errc cause{};         ///< of a refusal
  std::string reason;   ///< of a refusal, for people
};

struct decoded_hello {
  verdict is = verdict::need_more;
  errc reason{};          ///< when corrupt: not_lockstep, wrong_version, malformed or bad_checksum
  std::size_t bytes = 0;  ///< ok: what it takes
  hello message;          ///< when ok; when wrong_version, its version
};

/// Appends `message` to `to`. Texts longer than their limits are cut.
void encode_hello(byte_buffer& to, const hello& message);

/// Looks at the hello that begins at `input`. Not lockstep is said as soon as a byte of the name differs.
decoded_hello decode_hello(bytes_view input);

// --- Implementation ---------------------------------------------------------------------------------------------

namespace detail {

inline constexpr std::string_view hello_magic = "lockstep";
inline constexpr std::size_t hello_fixed_bytes = 32;

/// The number that stands for `cause` on the wire; enumerators may be renumbered, these may not.
inline std::uint8_t wire_cause(errc cause) noexcept {
  switch (cause) {
    case errc::wrong_version: return 1;
    case errc::wrong_cluster: return 2;
    case errc::wrong_node: return 3;
    case errc::overloaded: return 4;
    case errc::unknown_method: return 5;
    case errc::closed: return 6;
    default: return 255;
  }
}

inline errc cause_from_wire(std::uint8_t number) noexcept {
  switch (number) {
    case 1: return errc::wrong_version;
    case 2: return errc::wrong_cluster;
    case 3: return errc::wrong_node;
    case 4: return errc::overloaded;
    case 5: return errc::unknown_method;
    case 6: return errc::closed;
    default: return errc::remote_failure;
  }
}

inline void append_text(byte_buffer& to, std::string_view text, std::size_t limit) {
  text = text.substr(0, limit);
  store_le<std::uint8_t>(to.extend(1), static_cast<std::uint8_t>(text.size()));
  to.append(as_bytes(text));
}

/// Takes a text off the front of `from`. @return false when it is cut short or longer than `limit`.
inline bool take_text(bytes_view& from, std::size_t limit, std::string& to) {
  if (from.empty()) return false;
  const std::size_t size = load_le<std::uint8_t>(from.data());
  if (size > limit || size + 1 > from.size()) return false;
  to = as_text(from.subspan(1, size));
  from = from.subspan(size + 1);
  return true;
}

}  // namespace detail

inline void encode_hello(byte_buffer& to, const hello& message) {
  const std::size_t start = to.size();
  std::byte* const fixed = to.extend(detail::hello_fixed_bytes);
  std::memcpy(fixed, detail::hello_magic.data(), detail::hello_magic.size());
  store_le<std::uint16_t>(fixed + 8, message.version);
  store_le<std::uint8_t>(fixed + 12, static_cast<std::uint8_t>(message.step));
  store_le<std::uint8_t>(fixed + 13,
                         message.step == hello::step_t::refusal ? detail::wire_cause(message.cause) : std::uint8_t{0});
  store_le<std::uint16_t>(fixed + 14, 0);
  store_le<std::uint64_t>(fixed + 16, message.node);
  store_le<std::uint64_t>(fixed + 24, message.features);
  detail::append_text(to, message.cluster, max_cluster_bytes);
  detail::append_text(to, message.purpose, max_purpose_bytes);
  const std::size_t room = max_hello_bytes - (to.size() - start) - 1 - sizeof(std::uint64_t);
  detail::append_text(to, message.reason, std::min(room, max_reason_bytes));
  const std::size_t bytes = to.size() - start + sizeof(std::uint64_t);
  store_le<std::uint16_t>(to.data() + start + 10, static_cast<std::uint16_t>(bytes));
  const std::uint64_t check = xxh3_64(to.view().subspan(start));
  store_le<std::uint64_t>(to.extend(sizeof check), check);
}

inline decoded_hello decode_hello(bytes_view input) {
  decoded_hello result;
  const auto corrupt = [&result](errc reason) {
    result.is = verdict::corrupt;
    result.reason = reason;
  };
  const std::size_t named = std::min(input.size(), detail::hello_magic.size());
  if (!equal(input.first(named), as_bytes(detail::hello_magic).first(named))) {
    corrupt(errc::not_lockstep);
    return result;
  }
  constexpr std::size_t same_in_every_version = 12;
  if (input.size() < same_in_every_version) return result;

  hello& message = result.message;
  message.version = load_le<std::uint16_t>(input.data() + 8);
  const std::size_t bytes = load_le<std::uint16_t>(input.data() + 10);
  if (message.version != protocol_version) {
    corrupt(errc::wrong_version);
    return result;
  }
  if (bytes < detail::hello_fixed_bytes + 3 + sizeof(std::uint64_t) || bytes > max_hello_bytes) {
    corrupt(errc::malformed);
    return result;
  }
  if (input.size() < bytes) return result;

  const bytes_view checked = input.first(bytes - sizeof(std::uint64_t));
  if (load_le<std::uint64_t>(checked.data() + checked.size()) != xxh3_64(checked)) {
    corrupt(errc::bad_checksum);
    return result;
  }
  const auto step = load_le<std::uint8_t>(input.data() + 12);
  bytes_view texts = checked.subspan(detail::hello_fixed_bytes);
  if (step < 1 || step > 3 || load_le<std::uint16_t>(input.data() + 14) != 0 ||
      !detail::take_text(texts, max_cluster_bytes, message.cluster) ||
      !detail::take_text(texts, max_purpose_bytes, message.purpose) ||
      !detail::take_text(texts, max_reason_bytes, message.reason) || !texts.empty()) {
    corrupt(errc::malformed);
    return result;
  }
  message.step = static_cast<hello::step_t>(step);
  if (message.step == hello::step_t::refusal) {
    message.cause = detail::cause_from_wire(load_le<std::uint8_t>(input.data() + 13));
  }
  message.node = load_le<std::uint64_t>(input.data() + 16);
  message.features = load_le<std::uint64_t>(input.data() + 24);
  result.is = verdict::ok;
  result.bytes = bytes;
  return result;
}

}  // namespace lockstep
