// send_queue: the bytes that a channel has still to hand to its stream, in order, without I/O.
//
//   [ moving ][ copied ][ reference ][ reference ] ...
//
// `moving` stays where it is while an asynchronous write reads it; `copied` grows by frames that were copied;
// references are frames whose suspended senders still own the payload. While there are references, nothing is copied
// behind them except from the first: the order of the calls is the order on the wire.
#pragma once

#include "lockstep/core/bytes.hpp"
#include "lockstep/core/checksum.hpp"
#include "lockstep/core/mutant.hpp"
#include "lockstep/frame/codec.hpp"

#include <algorithm>
#include <array>
#include <cassert>
#include <span>
#include <utility>

namespace lockstep::detail {

class send_queue {
 public:
  /// A frame that is sent from its sender's memory, or a mark without bytes. Lies in the sender's frame.
  struct reference {
    std::array<std::byte, frame_header_bytes> header;
    std::size_t header_sent = 0;
    std::span<const bytes_view> parts;
    std::size_t part = 0;    ///< the first of `parts` that is not wholly sent
    std::size_t offset = 0;  ///< of what is unsent in it
    std::size_t bytes = 0;   ///< unsent, header included
    std::size_t bytes_in_all = 0;
    reference* previous = nullptr;
    reference* next = nullptr;
    bool queued = false;

    void take(std::size_t count) noexcept {
      bytes -= count;
      const std::size_t of_header = std::min(count, header.size() - header_sent);
      header_sent += of_header;
      count -= of_header;
      while (count != 0 || (part < parts.size() && offset == parts[part].size())) {
        const std::size_t of_part = std::min(count, parts[part].size() - offset);
        offset += of_part;
        count -= of_part;
        if (offset == parts[part].size()) {
          ++part;
          offset = 0;
        }
      }
    }

    /// Calls `use` with each unsent piece until it returns false.
    template <class Use>
    void for_each_piece(Use use) const {
      if (header_sent < header.size() && !use(bytes_view(header).subspan(header_sent))) return;
      std::size_t from = offset;
      for (std::size_t i = part; i < parts.size(); ++i, from = 0) {
        if (from < parts[i].size() && !use(parts[i].subspan(from))) return;
      }
    }
  };

  /// Bytes that this queue owns and that count against the limit.
  [[nodiscard]] std::size_t owned_bytes() const noexcept { return moving_.size() - moved_ + copied_.size(); }
  [[nodiscard]] bool empty() const noexcept { return owned_bytes() == 0 && !first_; }
  [[nodiscard]] bool has_references() const noexcept { return first_ != nullptr; }

  /// Copies one frame behind what was copied before. @pre no references.
  void copy_frame(const frame_header& header, std::span<const bytes_view> parts, std::size_t payload_bytes) {
    assert(!first_);
    std::byte* const to = copied_.extend(frame_header_bytes + payload_bytes);
    const bool unhashed = (header.flags & frame_flag::self_checked) != 0;
    std::uint64_t hash = 0;
    if (parts.size() == 1) {
      // Hashed where it lies: bytes that were just written are slow to read.
      if (!unhashed) hash = xxh3_64(parts.front());
      if (payload_bytes != 0) std::memcpy(to + frame_header_bytes, parts.front().data(), payload_bytes);
    } else {
      std::byte* payload = to + frame_header_bytes;
      for (const bytes_view part : parts) {
        if (!part.empty()) std::memcpy(payload, part.data(), part.size());
        payload += part.size();
      }
      if (!unhashed) hash = xxh3_64({to + frame_header_bytes, payload_bytes});
    }
    encode_frame_header(to, header, payload_bytes, hash);
  }

  /// Appends bytes that are no frame (a handshake's). @pre no references.
  [[nodiscard]] byte_buffer& copied() noexcept {
    assert(!first_);
    return copied_;
  }

  void push(reference& added) noexcept {
    added.previous = last_;
    added.next = nullptr;
    added.queued = true;
    (last_ ? last_->next : first_) = &added;
    last_ = &added;
  }

  /// Takes a reference out before its payload goes away. Of a frame that has begun to leave, the rest is copied, so
  /// that the peer still receives whole frames.
  void withdraw(reference& gone) {
    if (!gone.queued) return;
    if (gone.bytes != gone.bytes_in_all && !mutated(mutant::cancelled_send_leaves_half_a_frame)) {
      gone.for_each_piece([this](bytes_view piece) {
        copied_.append(piece);
        return true;
      });
    }
    unlink(gone);
  }

  /// Copies references from the front while they are no longer than `longest` and `limit` owned bytes are not exceeded,
  /// and tells `done` of each.
  template <class Done>
  void copy_references(std::size_t longest, std::size_t limit, Done done) {
    while (first_ && first_->bytes_in_all != 0 && first_->bytes == first_->bytes_in_all && first_->bytes <= longest &&
           owned_bytes() + first_->bytes <= limit) {
      first_->for_each_piece([this](bytes_view piece) {
        copied_.append(piece);
        return true;
      });
      finish_first(done);
    }
  }

  /// The unsent bytes from the front on, as pieces. @return how many pieces there are; `total` is their size.
  std::size_t gather(std::span<bytes_view> into, std::size_t& total) const noexcept {
    std::size_t count = 0;
    total = 0;
    const auto add = [&](bytes_view piece) {
      into[count++] = piece;
      total += piece.size();
      return count < into.size();
    };
    if (moved_ < moving_.size() && !add(moving_.view().subspan(moved_))) return count;
    if (!copied_.empty() && !add(copied_.view())) return count;
    for (const reference* each = first_; each && count < into.size(); each = each->next) each->for_each_piece(add);
    return count;
  }

  /// The first unsent bytes, moved to where they stay until sent() has taken them: never the sender's memory, which
  /// the sender may want back at any time. Not empty unless the queue is.
  bytes_view pin(std::size_t most_of_reference) {
    if (moved_ == moving_.size()) {
      moving_.clear();
      moved_ = 0;
      std::swap(moving_, copied_);
      if (moving_.empty() && first_ && first_->bytes != 0) {
        std::size_t room = most_of_reference;
        first_->for_each_piece([&](bytes_view piece) {
          const bytes_view taken = piece.first(std::min(piece.size(), room));
          moving_.append(taken);
          room -= taken.size();
          return room != 0;
        });
        first_->take(moving_.size());
      }
    }
    return moving_.view().subspan(moved_);
  }

  /// `count` bytes from the front were handed over. Tells `done` of each reference that is finished by that.
  template <class Done>
  void sent(std::size_t count, Done done) {
    const std::size_t of_moving = std::min(count, moving_.size() - moved_);
    moved_ += of_moving;
    count -= of_moving;
    if (moved_ != moving_.size()) return;
    moving_.clear();
    moved_ = 0;
    if (count < copied_.size()) {
      if (count == 0) return;
      std::swap(moving_, copied_);
      moved_ = count;
      return;
    }
    count -= copied_.size();
    copied_.clear();
    while (first_) {
      const std::size_t of_reference = std::min(count, first_->bytes);
      first_->take(of_reference);
      count -= of_reference;
      if (first_->bytes != 0) return;
      finish_first(done);
    }
  }

  template <class Use>
  void for_each_reference(Use use) {
    for (reference* each = first_; each; each = each->next) use(*each);
  }

  /// Forgets everything, and tells `done` of each reference.
  template <class Done>
  void clear(Done done) {
    // The bytes of `moving` may still be read by an asynchronous write.
    copied_.clear();
    while (first_) finish_first(done);
  }

 private:
  template <class Done>
  void finish_first(Done& done) {
    reference& finished = *first_;
    unlink(finished);
    done(finished);
  }

  void unlink(reference& gone) noexcept {
    (gone.previous ? gone.previous->next : first_) = gone.next;
    (gone.next ? gone.next->previous : last_) = gone.previous;
    gone.queued = false;
  }

  byte_buffer moving_;
  std::size_t moved_ = 0;  // bytes of moving_ that were sent
  byte_buffer copied_;
  reference* first_ = nullptr;
  reference* last_ = nullptr;
};

}  // namespace lockstep::detail
