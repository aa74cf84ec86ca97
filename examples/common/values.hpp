// Values as people type and read them: addresses, ports, durations and byte sizes.
//
// Every parse function throws std::invalid_argument with a message that quotes the text and says what was expected.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <string_view>

#include <lockstep/core/address.hpp>

namespace lockstep::examples {

/// `HOST:PORT`, `[::1]:PORT` or `unix:PATH`.
address parse_address(std::string_view text);

/// 0 to 65535; 0 lets the system choose when listening.
std::uint16_t parse_port(std::string_view text);

/// A number with a unit: ns, us, ms, s, m, h or d. At most three decimals ("1.5s"); "0" needs no unit.
std::chrono::nanoseconds parse_duration(std::string_view text);

/// Bytes. A bare letter or the binary unit counts in 1024s ("64k", "1G", "64MiB"), KB, MB, GB and TB in 1000s.
/// Upper or lower case; at most three decimals, rounded down to whole bytes.
std::uint64_t parse_size(std::string_view text);

/// "800ms", "1.5s", "2m": what parse_duration() reads back, shortened to three decimals of a second or coarser unit.
std::string format_duration(std::chrono::nanoseconds duration);

/// "512 B", "64.0 MiB": binary units, one decimal.
std::string format_size(double bytes);

}  // namespace lockstep::examples
