// Frames to bytes and back, without I/O: the encoder of headers, and a decoder that takes bytes in any chunks.
//
// The format is drawn in frame/format.hpp.
#pragma once

#include "lockstep/core/bytes.hpp"
#include "lockstep/core/checksum.hpp"
#include "lockstep/core/endian.hpp"
#include "lockstep/core/errors.hpp"
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
///   for (auto found = decoder.next(); found.is == verdict::ok; found = decoder.next()) use(found.frame);
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
    assert(count <= buffer_.size() - end_);
    end_ += count;
  }

  /// The next frame, in order; its payload is valid until prepare(), or until this decoder is destroyed.
  decoded_frame next() noexcept;

  /// Bytes that arrived and were not taken yet: not zero at the stream's end means that it ended inside a frame.
  [[nodiscard]] bytes_view unread() const noexcept { return {buffer_.data() + begin_, end_ - begin_}; }

  /// Takes `count` unread bytes that are no frame (a handshake's).
  void skip(std::size_t count) noexcept {
    assert(count <= end_ - begin_);
    begin_ += count;
  }

  /// Takes everything that is unread, whatever it is.
  void discard() noexcept {
    begin_ = end_;
    wanted_ = frame_header_bytes;
  }

  [[nodiscard]] std::size_t max_payload_bytes() const noexcept { return max_payload_; }

 private:
  // After so many preparations in a row that needed no more than buffer_bytes_, a larger buffer is given back.
  static constexpr unsigned patience = 256;

  void reallocate(std::size_t capacity);

  std::size_t max_payload_;
  std::size_t buffer_bytes_;
  byte_buffer buffer_;  // its size is its capacity; [begin_, end_) is unread
  std::size_t begin_ = 0;
  std::size_t end_ = 0;
  std::size_t wanted_ = frame_header_bytes;  // bytes of the frame at begin_, as far as known
  unsigned calm_ = 0;
};

// --- Implementation ---------------------------------------------------------------------------------------------

namespace detail {

/// The value of the `check` field for a header whose first 16 bytes stand at `header`.
inline std::uint64_t frame_check(const std::byte* header, std::uint8_t flags, std::uint64_t payload_hash) noexcept {
  std::byte checked[frame_checked_header_bytes + sizeof payload_hash];
  std::memcpy(checked, header, frame_checked_header_bytes);
  store_le<std::uint64_t>(checked + frame_checked_header_bytes, flags & frame_flag::self_checked ? 0 : payload_hash);
  return xxh3_64({checked, sizeof checked});
}

}  // namespace detail

inline void encode_frame_header(std::byte* to, const frame_header& header, std::size_t payload_bytes,
                                std::uint64_t payload_hash) noexcept {
  assert(payload_bytes <= UINT32_MAX);
  store_le<std::uint32_t>(to, static_cast<std::uint32_t>(payload_bytes));
  store_le<std::uint8_t>(to + 4, header.kind);
  store_le<std::uint8_t>(to + 5, header.flags);
  store_le<std::uint16_t>(to + 6, 0);
  store_le<std::uint64_t>(to + 8, header.id);
  store_le<std::uint64_t>(to + 16, detail::frame_check(to, header.flags, payload_hash));
}

inline decoded_frame decode_frame(bytes_view input, std::size_t max_payload_bytes) noexcept {
  decoded_frame result;
  result.bytes = frame_header_bytes;
  if (input.size() < sizeof(std::uint32_t)) return result;

  const auto corrupt = [&result](errc reason) {
    result.is = verdict::corrupt;
    result.reason = reason;
    return result;
  };
  const std::byte* const at = input.data();
  const std::size_t length = load_le<std::uint32_t>(at);
  if (length > max_payload_bytes) return corrupt(errc::frame_too_large);
  if (input.size() < frame_header_bytes) return result;

  const auto flags = load_le<std::uint8_t>(at + 5);
  constexpr std::uint8_t known_flags = frame_flag::self_checked | frame_flag::user_mask;
  if ((flags & ~known_flags) != 0 || load_le<std::uint16_t>(at + 6) != 0) return corrupt(errc::malformed);
  result.bytes = frame_header_bytes + length;
  if (input.size() < result.bytes) return result;

  const bytes_view payload = input.subspan(frame_header_bytes, length);
  const std::uint64_t payload_hash = flags & frame_flag::self_checked ? 0 : xxh3_64(payload);
  if (load_le<std::uint64_t>(at + 16) != detail::frame_check(at, flags, payload_hash)) {
    return corrupt(errc::bad_checksum);
  }
  result.is = verdict::ok;
  result.frame = {load_le<std::uint8_t>(at + 4), flags, load_le<std::uint64_t>(at + 8), payload};
  return result;
}

inline mutable_bytes frame_decoder::prepare() {
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
    std::memmove(buffer_.data(), buffer_.data() + begin_, end_ - begin_);
    end_ -= begin_;
    begin_ = 0;
  }
  return {buffer_.data() + end_, buffer_.size() - end_};
}

inline decoded_frame frame_decoder::next() noexcept {
  const decoded_frame found = decode_frame(unread(), max_payload_);
  if (found.is == verdict::ok) {
    begin_ += found.bytes;
    wanted_ = frame_header_bytes;
  } else {
    wanted_ = found.bytes;
  }
  return found;
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
