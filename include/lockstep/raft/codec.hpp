// Raft's messages and the snapshot stream to bytes and back, without I/O. Each is one frame.
//
// The kind of a message's frame is its message_type. The payload is u64 words, little-endian; of the fields in the
// first row each type has those in its own row, in this order:
//
//   kind                   from, to, term | at (epoch, index, chain) | commit | index | round | flags | check | records
//    1 vote_request              x                    x                                           x
//    2 vote_response             x                                                                x
//    3 append                    x                    x                  x                                x        x
//    4 append_response           x                    x                           x               x
//    5 heartbeat                 x                                       x                x       x
//    6 heartbeat_response        x                                                x       x
//    7 read_request              x                                                        x
//    8 read_response             x                                                x       x
//    9 timeout_now               x
//
//   flags     1 pre, 2 transfer, 4 granted, 8 rejected, 16 quiet, 32 lost; a type has those only that it names
//   (raft/message.hpp) check     XXH3-64 of the words before it: the frame is self-checked, so that records, which
//   carry their own
//             checks, are not hashed twice
//   records   encoded log records, whole
//
// A snapshot is streamed as its file's bytes (raft/snapshot_format.hpp). It is named by its checksum:
//
//   kind                   from       payload
//   10 snapshot_offer      leader     from, to, term, at | bytes | checksum | configuration, up to the end
//   32 snapshot_accepted   follower   checksum | offset: chunks are wanted from there on
//   33 snapshot_chunk      leader     checksum | offset | check of these two | bytes of the file; self-checked
//   34 snapshot_done       follower   checksum: verified and durable
//   35 snapshot_refused    both       checksum | code, a lockstep::errc or 0 | text for people
#pragma once

#include "lockstep/core/bytes.hpp"
#include "lockstep/core/checksum.hpp"
#include "lockstep/core/endian.hpp"
#include "lockstep/core/ids.hpp"
#include "lockstep/frame/codec.hpp"
#include "lockstep/raft/config.hpp"
#include "lockstep/raft/message.hpp"

#include <array>
#include <cassert>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <memory>
#include <optional>
#include <string_view>
#include <utility>

namespace lockstep::raft {

/// Kinds of the snapshot stream's frames beside message_type::snapshot_offer.
enum class snapshot_frame : std::uint8_t { accepted = 32, chunk = 33, done = 34, refused = 35 };

/// Whether a frame is of the snapshot stream, its offer among them.
constexpr bool is_of_snapshots(std::uint8_t kind) noexcept {
  return kind == static_cast<std::uint8_t>(message_type::snapshot_offer) ||
         (kind >= static_cast<std::uint8_t>(snapshot_frame::accepted) &&
          kind <= static_cast<std::uint8_t>(snapshot_frame::refused));
}

/// Words in an array of their own, so that a sender can gather them with what follows.
class encoded_words {
 public:
  [[nodiscard]] bytes_view view() const noexcept { return {bytes_.data(), size_}; }

  encoded_words& add(std::uint64_t word) noexcept {
    assert(size_ + sizeof word <= bytes_.size());
    store_le(bytes_.data() + size_, word);
    size_ += sizeof word;
    return *this;
  }

 private:
  std::array<std::byte, 9 * sizeof(std::uint64_t)> bytes_;
  std::size_t size_ = 0;
};

/// The frame flags that a message of this type is sent with.
constexpr std::uint8_t frame_flags_of(message_type type) noexcept {
  return type == message_type::append ? frame_flag::self_checked : frame_flag::none;
}

/// The payload of `of`, except that records follow it: {encode_message(of).view(), of.records.bytes()}.
/// @param of  any type but snapshot_offer.
encoded_words encode_message(const message& of) noexcept;

/// @param owner  what keeps the payload in memory; the message's records share it.
/// @return nothing for a payload that encode_message() and sound records do not make, and for other kinds of frames.
///   Of the records the headers are verified, and that their indexes follow `at`.
std::optional<message> decode_message(const frame_view& from, std::shared_ptr<const void> owner = {});

/// A leader's snapshot, as it is offered to a follower.
struct snapshot_offer {
  message announced;  ///< for core::receive(); of type snapshot_offer
  configuration config;
  std::uint64_t bytes = 0;     ///< of the file
  std::uint64_t checksum = 0;  ///< of the file
};

/// Appends the payload of `offer`, whose configuration is sound, to `to`.
void encode_snapshot_offer(byte_buffer& to, const snapshot_offer& offer);
std::optional<snapshot_offer> decode_snapshot_offer(const frame_view& from);

struct snapshot_accepted {
  std::uint64_t checksum = 0;
  std::uint64_t offset = 0;

  [[nodiscard]] encoded_words encode() const noexcept { return encoded_words().add(checksum).add(offset); }
  static std::optional<snapshot_accepted> decode(const frame_view& from) noexcept;
};

struct snapshot_chunk {
  static constexpr std::uint8_t frame_flags = frame_flag::self_checked;

  std::uint64_t checksum = 0;
  std::uint64_t offset = 0;
  bytes_view bytes;  ///< not encoded by encode(): a part of its own; decoded, a view into the frame

  [[nodiscard]] encoded_words encode() const noexcept;
  static std::optional<snapshot_chunk> decode(const frame_view& from) noexcept;
};

struct snapshot_done {
  std::uint64_t checksum = 0;

  [[nodiscard]] encoded_words encode() const noexcept { return encoded_words().add(checksum); }
  static std::optional<snapshot_done> decode(const frame_view& from) noexcept;
};

struct snapshot_refused {
  std::uint64_t checksum = 0;
  std::uint64_t code = 0;  ///< a lockstep::errc; 0 when it was an error of another kind
  std::string_view why;    ///< not encoded by encode(): a part of its own; decoded, a view into the frame

  [[nodiscard]] encoded_words encode() const noexcept { return encoded_words().add(checksum).add(code); }
  static std::optional<snapshot_refused> decode(const frame_view& from) noexcept;
};

// --- Implementation ---------------------------------------------------------------------------------------------

namespace detail {

/// Which fields a type has, beside from, to and term.
struct message_fields {
  bool at = false;
  bool commit = false;
  bool index = false;
  bool round = false;
  std::uint64_t flags = 0;  ///< that it may set; 0: it has none
  bool records = false;     ///< and a check before them
};

inline constexpr std::uint64_t pre_flag = 1;
inline constexpr std::uint64_t transfer_flag = 2;
inline constexpr std::uint64_t granted_flag = 4;
inline constexpr std::uint64_t rejected_flag = 8;
inline constexpr std::uint64_t quiet_flag = 16;
inline constexpr std::uint64_t lost_flag = 32;

constexpr std::optional<message_fields> fields_of(message_type type) noexcept {
  switch (type) {
    case message_type::vote_request: return message_fields{.at = true, .flags = pre_flag | transfer_flag};
    case message_type::vote_response: return message_fields{.flags = pre_flag | granted_flag};
    case message_type::append: return message_fields{.at = true, .commit = true, .records = true};
    case message_type::append_response:
      return message_fields{.at = true, .index = true, .flags = rejected_flag | lost_flag};
    case message_type::heartbeat: return message_fields{.commit = true, .round = true, .flags = quiet_flag};
    case message_type::heartbeat_response: return message_fields{.index = true, .round = true};
    case message_type::read_request: return message_fields{.round = true};
    case message_type::read_response: return message_fields{.index = true, .round = true};
    case message_type::timeout_now: return message_fields{};
    case message_type::snapshot_offer: return message_fields{.at = true};
  }
  return std::nullopt;
}

/// Calls `visit` with each field that is a word, in order.
template <class Message, class Visit>
void for_each_word(const message_fields& has, Message& of, Visit visit) {
  visit(of.from);
  visit(of.to);
  visit(of.term);
  if (has.at) {
    visit(of.at.epoch);
    visit(of.at.index);
    visit(of.at.chain);
  }
  if (has.commit) visit(of.commit);
  if (has.index) visit(of.index);
  if (has.round) visit(of.round);
}

inline encoded_words encode_fields(const message_fields& has, const message& of) noexcept {
  encoded_words to;
  for_each_word(has, of, [&to](std::uint64_t word) { to.add(word); });
  if (has.flags != 0) {
    const std::uint64_t set = (of.pre ? pre_flag : 0) | (of.transfer ? transfer_flag : 0) |
                              (of.granted ? granted_flag : 0) | (of.rejected ? rejected_flag : 0) |
                              (of.quiet ? quiet_flag : 0) | (of.lost ? lost_flag : 0);
    assert((set & ~has.flags) == 0);
    to.add(set);
  }
  if (has.records) to.add(xxh3_64(to.view()));
  return to;
}

/// Takes a word off the front of `from`. @return false when it is cut short.
inline bool take_word(bytes_view& from, std::uint64_t& to) noexcept {
  if (from.size() < sizeof to) return false;
  to = load_le<std::uint64_t>(from.data());
  from = from.subspan(sizeof to);
  return true;
}

/// Takes a check of the bytes from `begin` to `from` off the front of `from`.
inline bool take_check(const std::byte* begin, bytes_view& from) noexcept {
  const bytes_view checked(begin, static_cast<std::size_t>(from.data() - begin));
  std::uint64_t check = 0;
  return take_word(from, check) && check == xxh3_64(checked);
}

/// Takes a message but its records off the front of `from`; nothing when no node says this.
inline std::optional<message> take_fields(message_type type, const message_fields& has, bytes_view& from) noexcept {
  const std::byte* const begin = from.data();
  message of;
  of.type = type;
  bool good = true;
  for_each_word(has, of, [&](std::uint64_t& word) { good = good && take_word(from, word); });
  std::uint64_t flags = 0;
  if (has.flags != 0) good = good && take_word(from, flags);
  if (has.records) good = good && take_check(begin, from);
  if (!good || (flags & ~has.flags) != 0) return std::nullopt;
  of.pre = (flags & pre_flag) != 0;
  of.transfer = (flags & transfer_flag) != 0;
  of.granted = (flags & granted_flag) != 0;
  of.rejected = (flags & rejected_flag) != 0;
  of.quiet = (flags & quiet_flag) != 0;
  of.lost = (flags & lost_flag) != 0;

  const bool from_nowhere = of.at.index == 0 && of.at != position();
  if (of.from == 0 || of.to == 0 || of.term > max_epoch || of.at.epoch > of.term || from_nowhere) return std::nullopt;
  return of;
}

inline bool is_frame(const frame_view& from, std::uint8_t kind, std::uint8_t flags) noexcept {
  return from.kind == kind && (from.flags & ~frame_flag::user_mask) == flags;
}
inline bool is_frame(const frame_view& from, snapshot_frame kind, std::uint8_t flags = frame_flag::none) noexcept {
  return is_frame(from, static_cast<std::uint8_t>(kind), flags);
}

}  // namespace detail

inline encoded_words encode_message(const message& of) noexcept {
  assert(of.type != message_type::snapshot_offer);
  return detail::encode_fields(*detail::fields_of(of.type), of);
}

inline std::optional<message> decode_message(const frame_view& from, std::shared_ptr<const void> owner) {
  const auto type = static_cast<message_type>(from.kind);
  const auto has = detail::fields_of(type);
  if (!has || type == message_type::snapshot_offer) return std::nullopt;
  if (!detail::is_frame(from, from.kind, frame_flags_of(type))) return std::nullopt;
  bytes_view rest = from.payload;
  std::optional<message> of = detail::take_fields(type, *has, rest);
  if (!of || rest.empty()) return of;
  if (!has->records) return std::nullopt;
  constexpr auto all = std::numeric_limits<std::size_t>::max();
  const record_walk walk = walk_records(rest, of->at.index + 1, std::numeric_limits<index_t>::max(), all);
  if (walk.bytes != rest.size()) return std::nullopt;
  of->records = record_batch(rest, of->at.index + 1, walk.next - 1, std::move(owner));
  return of;
}

inline void encode_snapshot_offer(byte_buffer& to, const snapshot_offer& offer) {
  assert(offer.announced.type == message_type::snapshot_offer);
  encoded_words fixed = detail::encode_fields(*detail::fields_of(offer.announced.type), offer.announced);
  fixed.add(offer.bytes).add(offer.checksum);
  to.append(fixed.view());
  encode_configuration(to, offer.config);
}

inline std::optional<snapshot_offer> decode_snapshot_offer(const frame_view& from) {
  constexpr auto type = message_type::snapshot_offer;
  if (!detail::is_frame(from, static_cast<std::uint8_t>(type), frame_flags_of(type))) return std::nullopt;
  bytes_view rest = from.payload;
  std::optional<message> announced = detail::take_fields(type, *detail::fields_of(type), rest);
  snapshot_offer offer;
  if (!announced || announced->at.index == 0) return std::nullopt;
  if (!detail::take_word(rest, offer.bytes) || !detail::take_word(rest, offer.checksum)) return std::nullopt;
  std::optional<configuration> config = decode_configuration(rest);
  if (!config) return std::nullopt;
  offer.announced = std::move(*announced);
  offer.config = std::move(*config);
  return offer;
}

inline std::optional<snapshot_accepted> snapshot_accepted::decode(const frame_view& from) noexcept {
  bytes_view rest = from.payload;
  snapshot_accepted result;
  const bool good = detail::is_frame(from, snapshot_frame::accepted) && detail::take_word(rest, result.checksum) &&
                    detail::take_word(rest, result.offset) && rest.empty();
  return good ? std::optional(result) : std::nullopt;
}

inline encoded_words snapshot_chunk::encode() const noexcept {
  encoded_words to;
  to.add(checksum).add(offset);
  return to.add(xxh3_64(to.view()));
}

inline std::optional<snapshot_chunk> snapshot_chunk::decode(const frame_view& from) noexcept {
  bytes_view rest = from.payload;
  snapshot_chunk result;
  const bool good = detail::is_frame(from, snapshot_frame::chunk, frame_flags) &&
                    detail::take_word(rest, result.checksum) && detail::take_word(rest, result.offset) &&
                    detail::take_check(from.payload.data(), rest) && !rest.empty();
  if (!good) return std::nullopt;
  result.bytes = rest;
  return result;
}

inline std::optional<snapshot_done> snapshot_done::decode(const frame_view& from) noexcept {
  bytes_view rest = from.payload;
  snapshot_done result;
  const bool good =
      detail::is_frame(from, snapshot_frame::done) && detail::take_word(rest, result.checksum) && rest.empty();
  return good ? std::optional(result) : std::nullopt;
}

inline std::optional<snapshot_refused> snapshot_refused::decode(const frame_view& from) noexcept {
  bytes_view rest = from.payload;
  snapshot_refused result;
  const bool good = detail::is_frame(from, snapshot_frame::refused) && detail::take_word(rest, result.checksum) &&
                    detail::take_word(rest, result.code);
  if (!good) return std::nullopt;
  result.why = as_text(rest);
  return result;
}

}  // namespace lockstep::raft
