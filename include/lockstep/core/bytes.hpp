// Byte spans and the growable buffer that everything else reads from and writes into.
//
// Views never own. A function that returns a `bytes_view` says for how long it stays valid.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <span>
#include <string_view>
#include <utility>

namespace lockstep {

using bytes_view = std::span<const std::byte>;
using mutable_bytes = std::span<std::byte>;

/// The bytes of `text`; valid as long as the characters are.
inline bytes_view as_bytes(std::string_view text) noexcept {
  return {reinterpret_cast<const std::byte*>(text.data()), text.size()};
}

/// `bytes` seen as characters, without a check of their encoding.
inline std::string_view as_text(bytes_view bytes) noexcept {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

inline bool equal(bytes_view a, bytes_view b) noexcept {
  return a.size() == b.size() && (a.empty() || std::memcmp(a.data(), b.data(), a.size()) == 0);
}

/// A growable byte array that leaves new bytes uninitialised and keeps its capacity when cleared,
/// so that a buffer in steady state neither allocates nor zeroes.
class byte_buffer {
 public:
  byte_buffer() = default;
  explicit byte_buffer(std::size_t capacity) { reserve(capacity); }
  byte_buffer(byte_buffer&& other) noexcept
      : data_(std::move(other.data_)),
        size_(std::exchange(other.size_, 0)),
        capacity_(std::exchange(other.capacity_, 0)) {}
  byte_buffer& operator=(byte_buffer&& other) noexcept {
    data_ = std::move(other.data_);
    size_ = std::exchange(other.size_, 0);
    capacity_ = std::exchange(other.capacity_, 0);
    return *this;
  }

  [[nodiscard]] std::byte* data() noexcept { return data_.get(); }
  [[nodiscard]] const std::byte* data() const noexcept { return data_.get(); }
  [[nodiscard]] std::size_t size() const noexcept { return size_; }
  [[nodiscard]] std::size_t capacity() const noexcept { return capacity_; }
  [[nodiscard]] bool empty() const noexcept { return size_ == 0; }
  [[nodiscard]] bytes_view view() const noexcept { return {data_.get(), size_}; }

  void clear() noexcept { size_ = 0; }

  void reserve(std::size_t capacity) {
    if (capacity <= capacity_) return;
    std::unique_ptr<std::byte[]> grown(new std::byte[capacity]);
    if (size_ != 0) std::memcpy(grown.get(), data_.get(), size_);
    data_ = std::move(grown);
    capacity_ = capacity;
  }

  /// Sets the size; bytes beyond the old size are uninitialised.
  void resize(std::size_t size) {
    grow_to(size);
    size_ = size;
  }

  /// Adds `count` uninitialised bytes and returns where they begin; valid until the next growth.
  std::byte* extend(std::size_t count) {
    const std::size_t old_size = size_;
    resize(size_ + count);
    return data_.get() + old_size;
  }

  /// Appends a copy of `bytes`, which must not lie in this buffer.
  void append(bytes_view bytes) {
    if (!bytes.empty()) std::memcpy(extend(bytes.size()), bytes.data(), bytes.size());
  }

  /// Drops the first `count` bytes and moves the rest to the front.
  void consume(std::size_t count) noexcept {
    size_ -= count;
    if (size_ != 0) std::memmove(data_.get(), data_.get() + count, size_);
  }

 private:
  void grow_to(std::size_t size) {
    if (size <= capacity_) return;
    reserve(size > capacity_ * 2 ? size : capacity_ * 2);
  }

  std::unique_ptr<std::byte[]> data_;
  std::size_t size_ = 0;
  std::size_t capacity_ = 0;
};

}  // namespace lockstep
