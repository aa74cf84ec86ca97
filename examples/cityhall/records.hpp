// What CityHall writes into its log. Pure.
//
//   data record    a segment: what one group commit changed, 1..N entries
//     +-----------+----------------------------------------------------------+
//     | count u32 | count times: | op u8 | key (u32, bytes) | value (likewise) |
//     +-----------+----------------------------------------------------------+
//   epoch record   a leader's life begins
//     +-----------+------------------------+
//     | nonce u64 | clients (u32, bytes)   |
//     +-----------+------------------------+
//
// Segments are numbered 1, 2, 3… by counting data records from the beginning of the history.
#pragma once

#include <lockstep/core/fields.hpp>

#include <cassert>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace lockstep::cityhall {

inline constexpr std::size_t max_key_bytes = std::size_t{64} << 10;
inline constexpr std::size_t max_value_bytes = std::size_t{4} << 20;
/// A segment takes no further entry once it is this large.
inline constexpr std::size_t full_segment_bytes = std::size_t{1} << 20;

enum class operation : std::uint8_t { put = 1, del = 2 };

/// One change. A view: whoever hands it out says for how long it is valid. A del has no value.
struct entry {
  operation op = operation::put;
  std::string_view key;
  std::string_view value;

  friend bool operator==(const entry&, const entry&) = default;
};

/// Encodes one segment after the other into the same memory.
class segment_builder {
 public:
  segment_builder() { clear(); }

  /// Copies `added`, whose key and value keep to their limits.
  void add(const entry& added) {
    assert(added.key.size() <= max_key_bytes && added.value.size() <= max_value_bytes);
    field_writer(bytes_).number(static_cast<std::uint8_t>(added.op)).text(added.key).text(added.value);
    store_le(bytes_.data(), ++count_);
  }

  [[nodiscard]] std::uint32_t count() const noexcept { return count_; }
  [[nodiscard]] bool full() const noexcept { return bytes_.size() >= full_segment_bytes; }
  /// Valid until the next add() or clear().
  [[nodiscard]] bytes_view payload() const noexcept { return bytes_.view(); }

  void clear() {
    bytes_.clear();
    field_writer(bytes_).number(count_ = 0);
  }

 private:
  byte_buffer bytes_;
  std::uint32_t count_ = 0;
};

/// A segment's entries, in order. A view into its payload.
class segment_view {
 public:
  /// @return nothing when `payload` is no segment; then nothing of it may be used.
  static std::optional<segment_view> parse(bytes_view payload) noexcept {
    const segment_view found(payload);
    field_reader from(payload);
    (void)from.number<std::uint32_t>();
    for (std::uint32_t i = 0; i < found.count_ && from.good(); ++i) {
      const entry next = take(from);
      const bool known = next.op == operation::put || (next.op == operation::del && next.value.empty());
      if (!known || next.key.size() > max_key_bytes || next.value.size() > max_value_bytes) return std::nullopt;
    }
    if (!from.complete() || found.count_ == 0) return std::nullopt;
    return found;
  }

  [[nodiscard]] std::uint32_t count() const noexcept { return count_; }

  /// Calls `visit(const entry&)` for each.
  template <class Visit>
  void for_each(Visit&& visit) const {
    field_reader from(payload_);
    (void)from.number<std::uint32_t>();
    for (std::uint32_t i = 0; i < count_; ++i) visit(static_cast<const entry&>(take(from)));
  }

 private:
  explicit segment_view(bytes_view payload) noexcept
      : payload_(payload), count_(field_reader(payload).number<std::uint32_t>()) {}

  static entry take(field_reader& from) noexcept {
    entry next;
    next.op = static_cast<operation>(from.number<std::uint8_t>());
    next.key = from.text();
    next.value = from.text();
    return next;
  }

  bytes_view payload_;
  std::uint32_t count_ = 0;
};

/// A leader's life.
struct life {
  std::uint64_t nonce = 0;  ///< random: two lives of the same epoch differ from their first record on
  std::string clients;      ///< where its clients connect: what a replica tells those who want to write

  [[nodiscard]] byte_buffer encode() const {
    byte_buffer bytes;
    field_writer(bytes).number(nonce).text(clients);
    return bytes;
  }
  /// @return nothing when `payload` is none.
  static std::optional<life> decode(bytes_view payload) {
    field_reader from(payload);
    life found;
    found.nonce = from.number<std::uint64_t>();
    found.clients = std::string(from.text());
    if (!from.complete()) return std::nullopt;
    return found;
  }
};

}  // namespace lockstep::cityhall
