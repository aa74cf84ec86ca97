// Frames to bytes and back, without I/O: the encoder of headers, and a decoder that takes bytes in any chunks.
//
// The format is drawn in frame/format.hpp.
#pragma once

#include "lockstep/core/bytes.hpp"
#include "lockstep/core/checksum.hpp"
#include "lockstep/core/endian.hpp"
#include "lockstep/core/errors.hpp"
#include "lockstep/core/mutant.hpp"
#include "lockstep/frame/format.hpp"

#include <algorithm>
#include <cassert>
#include <cstdint>
#include <span>

namespace lockstep {

/// What a frame says beside its payload.
struct frame_header {
  std::uint8_t kind = 0;
  std::uint8_t flags = frame_flag::none;
  std::uint64_t id = 0;
};

/// A received frame. The payload is a view into the read buffer; who hands it out says for how long it is valid.
struct frame_view {
  std::uint8_t kind = 0;
  std::uint8_t flags = frame_flag::none;
  std::uint64_t id = 0;
  bytes_view payload;
};

enum class verdict : std::uint8_t { ok, need_more, corrupt };

/// What decode_frame() makes of the bytes it was shown.
struct decoded_frame {
  verdict is = verdict::need_more;
  errc reason{};          ///< when corrupt: frame_too_large, malformed or bad_checksum
  std::size_t bytes = 0;  ///< ok: how many the frame takes; need_more: how many must be there to know more
  frame_view frame;       ///< when ok
};

/// Writes the 24 bytes of a header to `to`.
/// @param payload_hash  XXH3-64 of the payload; ignored for self-checked frames.
void encode_frame_header(std::byte* to, const frame_header& header, std::size_t payload_bytes,
                         std::uint64_t payload_hash) noexcept;

/// Looks at the frame that begins at `input`, which may hold less than one frame, or more.
/// A payload longer than `max_payload_bytes` is corrupt as soon as its length is there. Reads nothing outside `input`.
/// @return the frame's payload is a view into `input`.
decoded_frame decode_frame(bytes_view input, std::size_t max_payload_bytes) noexcept;

/// The read buffer and the frames in it. Fill prepare() from the stream, say commit(), take frames with next():
/// @code
///   const mutable_bytes room = decoder.prepare();
///   decoder.commit(read(room));
///   for (frame_view frame; decoder.next(frame) == verdict::ok;) use(frame);
/// @endcode
/// A corrupt verdict is final: the boundaries of what follows are unknown.
/// Memory: `buffer_bytes`, and while a longer frame arrives, the size of that frame (never above the limit). A frame's
/// memory is asked for when its header has arrived and its length was found within the limit.
/// Thread safety: none.
class frame_decoder {
 public:
  frame_decoder(std::size_t max_payload_bytes, std::size_t buffer_bytes)
      : max_payload_(max_payload_bytes), buffer_bytes_(std::max(buffer_bytes, std::size_t{4096})) {}

  /// Room for more bytes: never empty, and enough for the frame that is being received.
  /// Ends the validity of views handed out before. @pre next() found need_more in what is unread.
  [[nodiscard]] mutable_bytes prepare();

  /// `count` bytes were written to the front of prepare()'s room.
  void commit(std::size_t count) noexcept {
    if (discarding_) return;
    assert(count <= buffer_.size() - end_);
    end_ += count;
  }

  /// Takes the next frame, in order; its payload is valid until prepare(), or until this decoder is destroyed.
  /// @return ok, and then `frame` is set; corrupt, see reason().
  verdict next(frame_view& frame) noexcept;

  /// After a corrupt verdict.
  [[nodiscard]] errc reason() const noexcept { return reason_; }

  /// Bytes that arrived and were not taken yet: not zero at the stream's end means that it ended inside a frame.
  [[nodiscard]] bytes_view unread() const noexcept { return {buffer_.data() + begin_, end_ - begin_}; }

  /// Takes `count` unread bytes that are no frame (a handshake's).
  void skip(std::size_t count) noexcept {
    assert(count <= end_ - begin_);
    begin_ += count;
  }

  /// Takes everything that is unread and everything that is still to come, whatever it is. Views handed out before stay
  /// valid until this decoder is destroyed.
  void discard() noexcept {
    begin_ = end_;
    discarding_ = true;
  }

  [[nodiscard]] std::size_t max_payload_bytes() const noexcept { return max_payload_; }

 private:
  // After so many preparations in a row that needed no more than buffer_bytes_, a larger buffer is given back.
  static constexpr unsigned patience = 256;
  static constexpr std::size_t most_discarded_at_once = std::size_t{16} << 10;

  void reallocate(std::size_t capacity);
  verdict examine() noexcept;

  std::size_t max_payload_;
  std::size_t buffer_bytes_;
  byte_buffer buffer_;  // its size is its capacity; [begin_, end_) is unread
  std::size_t begin_ = 0;
  std::size_t end_ = 0;
  std::size_t wanted_ = frame_header_bytes;  // bytes of the frame at begin_, as far as known
  unsigned calm_ = 0;
  bool discarding_ = false;
  byte_buffer discarded_;
  errc reason_{};
};

// --- Implementation ---------------------------------------------------------------------------------------------

namespace detail {

/// The first 16 bytes of a header as two little-endian words: the whole header is made and checked in registers, since
/// reading back bytes that were just written piece by piece stalls the processor.
struct header_words {
  std::uint64_t first;  ///< length, kind, flags, reserved
  std::uint64_t id;

  header_words(const frame_header& header, std::size_t payload_bytes) noexcept
      : first(payload_bytes | std::uint64_t{header.kind} << 32 | std::uint64_t{header.flags} << 40), id(header.id) {}
  explicit header_words(const std::byte* from) noexcept
      : first(load_le<std::uint64_t>(from)), id(load_le<std::uint64_t>(from + 8)) {}

  [[nodiscard]] std::size_t length() const noexcept { return static_cast<std::uint32_t>(first); }
  [[nodiscard]] std::uint8_t kind() const noexcept { return static_cast<std::uint8_t>(first >> 32); }
  [[nodiscard]] std::uint8_t flags() const noexcept { return static_cast<std::uint8_t>(first >> 40); }
  [[nodiscard]] bool self_checked() const noexcept { return (flags() & frame_flag::self_checked) != 0; }
  [[nodiscard]] bool well_formed() const noexcept {
    constexpr std::uint64_t known_flags = frame_flag::self_checked | frame_flag::user_mask;
    constexpr std::uint64_t known = 0xff'ffff'ffff | known_flags << 40;
    return (first & ~known) == 0;
  }

  [[nodiscard]] std::uint64_t check(std::uint64_t payload_hash) const noexcept {
    std::byte checked[frame_header_bytes];
    store_le(checked, first);
    store_le(checked + 8, id);
    store_le(checked + 16, self_checked() ? std::uint64_t{0} : payload_hash);
    return xxh3_64_of<sizeof checked>(checked);
  }
};

/// @return whether `input` begins with a whole and good frame, and then sets `frame`.
inline bool take_whole_frame(bytes_view input, std::size_t max_payload_bytes, frame_view& frame) noexcept {
  if (input.size() < frame_header_bytes) return false;
  const header_words words(input.data());
  const std::size_t length = words.length();
  if (length > max_payload_bytes && !mutated(mutant::skip_frame_size_limit)) return false;
  if (input.size() - frame_header_bytes < length || !words.well_formed()) return false;
  const bytes_view payload(input.data() + frame_header_bytes, length);
  const std::uint64_t payload_hash = words.self_checked() ? 0 : xxh3_64(payload);
  if (load_le<std::uint64_t>(input.data() + 16) != words.check(payload_hash) && !mutated(mutant::skip_frame_checksum)) {
    return false;
  }
  frame = {words.kind(), words.flags(), words.id, payload};
  return true;
}

}  // namespace detail

inline void encode_frame_header(std::byte* to, const frame_header& header, std::size_t payload_bytes,
                                std::uint64_t payload_hash) noexcept {
  assert(payload_bytes <= UINT32_MAX);
  const detail::header_words words(header, payload_bytes);
  store_le(to, words.first);
  store_le(to + 8, words.id);
  store_le(to + 16, words.check(payload_hash));
}

inline decoded_frame decode_frame(bytes_view input, std::size_t max_payload_bytes) noexcept {
  decoded_frame result;
  if (detail::take_whole_frame(input, max_payload_bytes, result.frame)) {
    result.is = verdict::ok;
    result.bytes = frame_header_bytes + result.frame.payload.size();
    return result;
  }
  const auto corrupt = [&result](errc reason) {
    result.is = verdict::corrupt;
    result.reason = reason;
    return result;
  };
  result.bytes = frame_header_bytes;
  if (input.size() < sizeof(std::uint32_t)) return result;
  const std::size_t length = load_le<std::uint32_t>(input.data());
  if (length > max_payload_bytes && !mutated(mutant::skip_frame_size_limit)) return corrupt(errc::frame_too_large);
  if (input.size() < frame_header_bytes) return result;
  if (!detail::header_words(input.data()).well_formed()) return corrupt(errc::malformed);
  result.bytes = frame_header_bytes + length;
  return input.size() < result.bytes ? result : corrupt(errc::bad_checksum);
}

inline mutable_bytes frame_decoder::prepare() {
  if (discarding_) {
    discarded_.resize(std::min(buffer_bytes_, most_discarded_at_once));
    return {discarded_.data(), discarded_.size()};
  }
  if (begin_ == end_) begin_ = end_ = 0;
  if (wanted_ > buffer_bytes_) {
    calm_ = 0;
    if (wanted_ > buffer_.size()) reallocate(wanted_);
  } else if (buffer_.size() < buffer_bytes_ ||
             (buffer_.size() > buffer_bytes_ && end_ - begin_ < buffer_bytes_ && ++calm_ > patience)) {
    reallocate(buffer_bytes_);
  }
  // Moving the rest of a frame to the front costs less than a read into little room.
  if (begin_ != 0 && (begin_ + wanted_ > buffer_.size() || buffer_.size() - end_ < buffer_.size() / 2)) {
    const std::size_t lost = end_ != begin_ && mutated(mutant::partial_frame_loses_last_byte) ? 1 : 0;
    std::memmove(buffer_.data(), buffer_.data() + begin_, end_ - begin_ - lost);
    end_ -= begin_;
    begin_ = 0;
  }
  return {buffer_.data() + end_, buffer_.size() - end_};
}

inline verdict frame_decoder::next(frame_view& frame) noexcept {
  if (!detail::take_whole_frame(unread(), max_payload_, frame)) return examine();
  begin_ += frame_header_bytes + frame.payload.size();
  if (begin_ != end_ && mutated(mutant::drop_frames_read_together)) begin_ = end_;
  wanted_ = frame_header_bytes;
  return verdict::ok;
}

// Why there is no frame.
inline verdict frame_decoder::examine() noexcept {
  const decoded_frame found = decode_frame(unread(), max_payload_);
  assert(found.is != verdict::ok);
  wanted_ = found.bytes;
  reason_ = found.reason;
  return found.is;
}

inline void frame_decoder::reallocate(std::size_t capacity) {
  byte_buffer other;
  other.resize(capacity);
  if (end_ != begin_) std::memcpy(other.data(), buffer_.data() + begin_, end_ - begin_);
  buffer_ = std::move(other);
  end_ -= begin_;
  begin_ = 0;
  calm_ = 0;
}

}  // namespace lockstep
