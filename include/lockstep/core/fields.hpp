// Fields of small formats: little-endian integers and texts with their length before them. Pure.
#pragma once

#include "lockstep/core/bytes.hpp"
#include "lockstep/core/endian.hpp"
#include "lockstep/core/ids.hpp"

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <string_view>
#include <utility>

namespace lockstep {

/// Appends fields to a buffer, which outlives it.
class field_writer {
 public:
  explicit field_writer(byte_buffer& to) noexcept : to_(to) {}

  template <std::unsigned_integral T>
  field_writer& number(T value) {
    store_le(to_.extend(sizeof value), value);
    return *this;
  }
  field_writer& at(const position& where) { return number(where.epoch).number(where.index).number(where.chain); }
  /// Any bytes, below 4 GiB.
  field_writer& text(std::string_view bytes) {
    number(static_cast<std::uint32_t>(bytes.size()));
    to_.append(as_bytes(bytes));
    return *this;
  }

 private:
  byte_buffer& to_;
};

/// Takes fields off the front of some bytes. After the first field that is not there every further one is 0 or empty,
/// and good() says so: read all, then ask once.
class field_reader {
 public:
  explicit field_reader(bytes_view from) noexcept : rest_(from) {}

  template <std::unsigned_integral T>
  T number() noexcept {
    return take(sizeof(T)) ? load_le<T>(taken_) : T{0};
  }
  position at() noexcept {
    position where;
    where.epoch = number<std::uint64_t>();
    where.index = number<std::uint64_t>();
    where.chain = number<std::uint64_t>();
    return where;
  }
  /// A view into the bytes that are read.
  std::string_view text() noexcept {
    const std::size_t size = number<std::uint32_t>();
    return take(size) ? as_text({taken_, size}) : std::string_view();
  }

  /// All that is left, and nothing is left then.
  bytes_view rest() noexcept { return good_ ? std::exchange(rest_, {}) : bytes_view(); }

  [[nodiscard]] std::size_t left() const noexcept { return rest_.size(); }
  [[nodiscard]] bool good() const noexcept { return good_; }
  /// Every field was there and nothing is left.
  [[nodiscard]] bool complete() const noexcept { return good_ && rest_.empty(); }

 private:
  bool take(std::size_t count) noexcept {
    good_ = good_ && count <= rest_.size();
    if (!good_) return false;
    taken_ = rest_.data();
    rest_ = rest_.subspan(count);
    return true;
  }

  bytes_view rest_;
  const std::byte* taken_ = nullptr;
  bool good_ = true;
};

}  // namespace lockstep
