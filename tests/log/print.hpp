// How gtest's messages show the log's types.
#pragma once

#include "lockstep/log/options.hpp"
#include "lockstep/log/recovery.hpp"

#include <array>
#include <cstddef>
#include <ostream>

namespace lockstep {

inline void PrintTo(log_verdict verdict, std::ostream* out) {
  *out << std::array{"clean", "torn_tail", "corrupt"}[static_cast<std::size_t>(verdict)];
}
inline void PrintTo(corruption rule, std::ostream* out) {
  *out << std::array{"none", "sealed_segment", "watermark", "known_durable", "in_flight_limit", "structure"}
          [static_cast<std::size_t>(rule)];
}
inline void PrintTo(sync_policy policy, std::ostream* out) {
  *out << std::array{"always", "interval", "never"}[static_cast<std::size_t>(policy)];
}
inline void PrintTo(sync_on where, std::ostream* out) {
  *out << std::array{"disk_thread", "caller"}[static_cast<std::size_t>(where)];
}
inline void PrintTo(const position& at, std::ostream* out) {
  *out << "{epoch " << at.epoch << ", index " << at.index << ", chain " << at.chain << "}";
}

}  // namespace lockstep
