#include "common/values.hpp"

#include <algorithm>
#include <array>
#include <cctype>
#include <charconv>
#include <limits>
#include <optional>
#include <span>
#include <stdexcept>

#include <fmt/format.h>

namespace lockstep::examples {
namespace {

[[noreturn]] void reject(std::string_view text, std::string_view why) {
  throw std::invalid_argument(fmt::format("'{}': {}", text, why));
}

bool is_digit(char c) { return c >= '0' && c <= '9'; }

std::optional<std::uint64_t> digits_to_number(std::string_view digits) {
  std::uint64_t value = 0;
  const char* const end = digits.data() + digits.size();
  const auto [stop, error] = std::from_chars(digits.data(), end, value);
  if (error != std::errc{} || stop != end) return std::nullopt;
  return value;
}

struct unit {
  std::string_view name;
  std::uint64_t factor;
};

/// "12.5" and "MiB" out of "12.5MiB".
struct quantity {
  std::uint64_t whole = 0;
  std::uint64_t thousandths = 0;
  std::string_view unit_name;
};

quantity split_quantity(std::string_view text, std::string_view expected) {
  const auto skip_digits = [text](std::size_t from) {
    while (from < text.size() && is_digit(text[from])) ++from;
    return from;
  };
  quantity result;
  const std::size_t whole_end = skip_digits(0);
  std::size_t number_end = whole_end;
  if (whole_end == 0) reject(text, expected);
  if (whole_end < text.size() && text[whole_end] == '.') {
    number_end = skip_digits(whole_end + 1);
    const std::string_view decimals = text.substr(whole_end + 1, number_end - whole_end - 1);
    if (decimals.empty() || decimals.size() > 3) reject(text, "expected one to three decimals");
    result.thousandths = *digits_to_number(decimals);
    for (std::size_t i = decimals.size(); i < 3; ++i) result.thousandths *= 10;
  }
  const auto whole = digits_to_number(text.substr(0, whole_end));
  if (!whole) reject(text, "too large");
  result.whole = *whole;
  result.unit_name = text.substr(number_end);
  while (result.unit_name.starts_with(' ')) result.unit_name.remove_prefix(1);
  return result;
}

/// `limit` is the largest result that fits the caller's type.
std::uint64_t scale(std::string_view text, const quantity& q, std::uint64_t factor, std::uint64_t limit) {
  const std::uint64_t fraction = q.thousandths * (factor / 1000) + q.thousandths * (factor % 1000) / 1000;
  if (fraction > limit || q.whole > (limit - fraction) / factor) reject(text, "too large");
  return q.whole * factor + fraction;
}

std::optional<std::uint64_t> find_unit(std::span<const unit> units, std::string_view name) {
  const auto found = std::ranges::find(units, name, &unit::name);
  if (found == units.end()) return std::nullopt;
  return found->factor;
}

constexpr std::uint64_t second_ns = 1'000'000'000;
constexpr std::array<unit, 7> duration_units{{{"ns", 1},
                                              {"us", 1'000},
                                              {"ms", 1'000'000},
                                              {"s", second_ns},
                                              {"m", 60 * second_ns},
                                              {"h", 3600 * second_ns},
                                              {"d", 86400 * second_ns}}};

constexpr std::uint64_t kibi = 1024;
constexpr std::array<unit, 14> size_units{{{"", 1},
                                           {"b", 1},
                                           {"k", kibi},
                                           {"kib", kibi},
                                           {"kb", 1'000},
                                           {"m", kibi* kibi},
                                           {"mib", kibi* kibi},
                                           {"mb", 1'000'000},
                                           {"g", kibi* kibi* kibi},
                                           {"gib", kibi* kibi* kibi},
                                           {"gb", 1'000'000'000},
                                           {"t", kibi* kibi* kibi* kibi},
                                           {"tib", kibi* kibi* kibi* kibi},
                                           {"tb", 1'000'000'000'000}}};

constexpr std::string_view duration_expected =
    "expected a number and a unit (ns, us, ms, s, m, h, d), as in 800ms or 2s";
constexpr std::string_view size_expected =
    "expected bytes with an optional unit (KiB, MiB, GiB, TiB), as in 64MiB or 1G";
constexpr std::string_view address_expected = "expected HOST:PORT, as in 127.0.0.1:7878 or [::1]:7878";

std::string_view why_not_an_address(std::string_view text) {
  const std::size_t colon = text.rfind(':');
  if (colon == std::string_view::npos) return "the port is missing";
  const std::string_view host = text.substr(0, colon);
  const std::string_view port = text.substr(colon + 1);
  if (host.empty()) return "the host is missing";
  if (host.find(':') != std::string_view::npos && !host.starts_with('[')) return "an IPv6 host needs brackets";
  if (port.empty() || text.ends_with(']')) return "the port is missing";
  if (!std::ranges::all_of(port, is_digit)) return "the port is not a number";
  return "the port must be at most 65535";
}

}  // namespace

address parse_address(std::string_view text) {
  const auto parsed = address::parse(text);
  if (!parsed && text.starts_with("unix:")) reject(text, "the socket's path is missing");
  if (!parsed) reject(text, fmt::format("{}; {}", why_not_an_address(text), address_expected));
  if (std::ranges::any_of(parsed->host, [](unsigned char c) { return std::isspace(c) || c == '[' || c == ']'; })) {
    reject(text, address_expected);
  }
  return *parsed;
}

std::uint16_t parse_port(std::string_view text) {
  const auto port = digits_to_number(text);
  if (!port || *port > std::numeric_limits<std::uint16_t>::max()) reject(text, "expected a port from 0 to 65535");
  return static_cast<std::uint16_t>(*port);
}

std::chrono::nanoseconds parse_duration(std::string_view text) {
  if (text == "0") return std::chrono::nanoseconds{0};
  const quantity q = split_quantity(text, duration_expected);
  const auto factor = find_unit(duration_units, q.unit_name);
  if (!factor) reject(text, duration_expected);
  using rep = std::chrono::nanoseconds::rep;
  return std::chrono::nanoseconds{
      static_cast<rep>(scale(text, q, *factor, static_cast<std::uint64_t>(std::numeric_limits<rep>::max())))};
}

std::uint64_t parse_size(std::string_view text) {
  const quantity q = split_quantity(text, size_expected);
  std::string unit_name(q.unit_name);
  std::ranges::transform(unit_name, unit_name.begin(),
                         [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  const auto factor = find_unit(size_units, unit_name);
  if (!factor) reject(text, size_expected);
  return scale(text, q, *factor, std::numeric_limits<std::uint64_t>::max());
}

std::string format_duration(std::chrono::nanoseconds duration) {
  if (duration.count() < 0) return "-" + format_duration(-duration);
  const auto ns = static_cast<std::uint64_t>(duration.count());
  if (ns == 0) return "0s";
  // The largest unit that the value fills, but no minutes or longer for a value that they would make crooked (90s).
  const unit* chosen = &duration_units.front();
  for (const unit& candidate : duration_units) {
    const bool fits = candidate.factor <= second_ns ? ns >= candidate.factor : ns % candidate.factor == 0;
    if (fits) chosen = &candidate;
  }
  std::string text = std::to_string(ns / chosen->factor);
  if (const std::uint64_t thousandths = chosen->factor < 1000 ? 0 : ns % chosen->factor / (chosen->factor / 1000)) {
    text += fmt::format(".{:03}", thousandths);
    text.erase(text.find_last_not_of('0') + 1);
  }
  return text + std::string(chosen->name);
}

std::string format_size(double bytes) {
  constexpr std::array<std::string_view, 5> names{"KiB", "MiB", "GiB", "TiB", "PiB"};
  if (bytes < 1024) return fmt::format("{:.0f} B", bytes);
  std::size_t name = 0;
  bytes /= 1024;
  while (bytes >= 1023.95 && name + 1 < names.size()) {
    bytes /= 1024;
    ++name;
  }
  return fmt::format("{:.1f} {}", bytes, names[name]);
}

}  // namespace lockstep::examples
