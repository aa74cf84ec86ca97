// Reads a fuzzer's input as numbers and byte strings; at its end everything reads as zero and empty.
#pragma once

#include "lockstep/core/bytes.hpp"

#include <algorithm>
#include <cstddef>
#include <cstdint>

namespace lockstep::test {

class fuzz_input {
 public:
  fuzz_input(const std::uint8_t* data, std::size_t size) : rest_(reinterpret_cast<const std::byte*>(data), size) {}

  std::size_t number(std::size_t bytes) {
    std::size_t value = 0;
    for (const std::byte each : take(bytes)) value = value << 8 | std::to_integer<std::size_t>(each);
    return value;
  }
  bytes_view take(std::size_t most) {
    const bytes_view taken = rest_.first(std::min(most, rest_.size()));
    rest_ = rest_.subspan(taken.size());
    return taken;
  }
  [[nodiscard]] bool empty() const { return rest_.empty(); }

 private:
  bytes_view rest_;
};

}  // namespace lockstep::test
