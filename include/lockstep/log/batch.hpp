// record_batch: consecutive records as they lie in memory, on disk and on the wire. Pure.
#pragma once

#include "lockstep/log/codec.hpp"

#include <iterator>
#include <memory>

namespace lockstep {

/// Consecutive encoded records and what keeps them in memory. Copying shares, and copies no record.
/// The bytes stay valid as long as one copy of the batch lives. Iterating trusts the headers, which were checked when
/// the batch was made; payloads are verified by whoever receives them (log_codec::decode_record).
class record_batch {
 public:
  class iterator {
   public:
    using value_type = record;
    using difference_type = std::ptrdiff_t;
    using iterator_concept = std::forward_iterator_tag;

    iterator() = default;
    explicit iterator(const std::byte* at) noexcept : at_(at) {}
    record operator*() const noexcept {
      record result;
      const std::size_t length = load_le<std::uint32_t>(at_);
      const std::uint64_t epoch_and_kind = load_le<std::uint64_t>(at_ + 16);
      result.index = load_le<std::uint64_t>(at_ + 8);
      result.epoch = epoch_and_kind >> 8;
      result.kind = static_cast<record_kind>(epoch_and_kind & 0xff);
      result.chain = load_le<std::uint64_t>(at_ + 24);
      result.payload = {at_ + log_format::record_header_bytes, length};
      return result;
    }
    iterator& operator++() noexcept {
      at_ += log_format::record_bytes(load_le<std::uint32_t>(at_));
      return *this;
    }
    iterator operator++(int) noexcept {
      iterator before = *this;
      ++*this;
      return before;
    }
    friend bool operator==(const iterator&, const iterator&) = default;

   private:
    const std::byte* at_ = nullptr;
  };

  record_batch() = default;
  record_batch(bytes_view bytes, index_t first, index_t last, std::shared_ptr<const void> owner)
      : bytes_(bytes), first_(first), last_(last), owner_(std::move(owner)) {}

  [[nodiscard]] bool empty() const noexcept { return bytes_.empty(); }
  /// The encoded records, headers and padding included.
  [[nodiscard]] bytes_view bytes() const noexcept { return bytes_; }
  [[nodiscard]] index_t first() const noexcept { return first_; }
  [[nodiscard]] index_t last() const noexcept { return last_; }
  [[nodiscard]] std::size_t count() const noexcept { return empty() ? 0 : last_ - first_ + 1; }

  /// The same records without those before `first`, which are `bytes` long.
  [[nodiscard]] record_batch without_front(std::size_t bytes, index_t first) const {
    return {bytes_.subspan(bytes), first, last_, owner_};
  }

  /// The same records without those behind `last`, the first one's index or a later one.
  [[nodiscard]] record_batch up_to(index_t last) const {
    if (last >= last_) return *this;
    iterator end = begin();
    while ((*end).index <= last) ++end;
    return {
        bytes_.first(static_cast<std::size_t>((*end).payload.data() - bytes_.data()) - log_format::record_header_bytes),
        first_, last, owner_};
  }

  [[nodiscard]] iterator begin() const noexcept { return iterator(bytes_.data()); }
  [[nodiscard]] iterator end() const noexcept { return iterator(bytes_.data() + bytes_.size()); }

 private:
  bytes_view bytes_;
  index_t first_ = 0;
  index_t last_ = 0;
  std::shared_ptr<const void> owner_;
};

/// Where a walk over sound headers ended.
struct record_walk {
  std::size_t bytes = 0;    ///< of the records walked over
  index_t next = 0;         ///< the index that follows them
  std::uint64_t chain = 0;  ///< of the last of them
  bool sound = true;        ///< false: a header that does not fit stands there
};

/// Walks over the records at the front of `bytes` while they fit into `max_bytes` and their index is below `end`.
/// At least one record is walked over, even when it is larger than `max_bytes`, unless bytes or `end` forbid it.
/// @param first  the index that the first record must have.
inline record_walk walk_records(bytes_view bytes, index_t first, index_t end, std::size_t max_bytes) noexcept {
  record_walk walk;
  walk.next = first;
  while (walk.next < end && walk.bytes + log_format::record_header_bytes <= bytes.size()) {
    const auto header = log_codec::decode_header(bytes.data() + walk.bytes);
    if (!header || header->index != walk.next || walk.bytes + header->total_bytes() > bytes.size()) {
      walk.sound = false;
      break;
    }
    if (walk.bytes != 0 && walk.bytes + header->total_bytes() > max_bytes) break;
    walk.bytes += header->total_bytes();
    ++walk.next;
    walk.chain = header->chain;
  }
  return walk;
}

}  // namespace lockstep
