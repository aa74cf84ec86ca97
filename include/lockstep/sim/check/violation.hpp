// violation: what a checker answers. Pure.
//
// The checkers of this folder are told what happened in a run and say what of it breaks a promise. They do no I/O, read
// no clock and keep no globals; times are whatever rises in the run: virtual nanoseconds, or a counter of events.
// Verdicts and messages depend on what was told only, so that a seed that fails once fails always, in the same words.
// Thread safety of all of them: none.
#pragma once

#include "lockstep/core/ids.hpp"

#include <cstdint>
#include <optional>
#include <string>

namespace lockstep::sim::check {

/// A broken promise as an English sentence that names the operation, or nothing.
using violation = std::optional<std::string>;

/// When something happened in a run; rises.
using moment = std::uint64_t;

namespace detail {

inline std::string text(std::uint64_t number) { return std::to_string(number); }

inline std::string hex(std::uint64_t number) {
  constexpr const char* digits = "0123456789abcdef";
  std::string result(16, '0');
  for (std::size_t i = result.size(); i-- > 0; number >>= 4) result[i] = digits[number & 0xf];
  return result;
}

inline std::string text(const position& at) {
  return "record " + text(at.index) + " (epoch " + text(at.epoch) + ", chain " + hex(at.chain) + ")";
}

inline std::string node(node_id id) { return "node " + text(id); }

}  // namespace detail
}  // namespace lockstep::sim::check
