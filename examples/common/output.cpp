#include "common/output.hpp"

#include <algorithm>
#include <array>
#include <cctype>
#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <stdexcept>
#include <system_error>

#include <fmt/format.h>

#include "common/exit_codes.hpp"

namespace lockstep::examples {
namespace {

[[noreturn]] void output_failed(int error) {
  if (error == EPIPE) throw exit_error(exit_code::ok, "");
  throw std::system_error(error, std::generic_category(), "cannot write to standard output");
}

struct code_point {
  char32_t value = 0;
  std::size_t length = 0;  // 0: not valid UTF-8
};

code_point decode_utf8(std::string_view bytes) {
  const auto byte = [bytes](std::size_t i) { return static_cast<unsigned char>(bytes[i]); };
  const unsigned char lead = byte(0);
  if (lead < 0x80) return {lead, 1};
  const std::size_t length = lead >= 0xf0 ? 4 : lead >= 0xe0 ? 3 : 2;
  if (lead < 0xc0 || lead > 0xf4 || bytes.size() < length) return {};
  char32_t value = lead & (0x7fU >> length);
  for (std::size_t i = 1; i < length; ++i) {
    if ((byte(i) & 0xc0U) != 0x80) return {};
    value = value << 6U | (byte(i) & 0x3fU);
  }
  constexpr std::array<char32_t, 5> shortest{0, 0, 0x80, 0x800, 0x10000};
  const bool surrogate = value >= 0xd800 && value <= 0xdfff;
  if (value < shortest[length] || value > 0x10ffff || surrogate) return {};
  return {value, length};
}

// Control characters, and the format characters that reorder, hide or break the text around them.
bool is_printable(char32_t c) {
  struct range {
    char32_t first, last;
  };
  constexpr std::array<range, 10> hidden{{{0, 0x1f},
                                          {0x7f, 0x9f},
                                          {0xad, 0xad},
                                          {0x61c, 0x61c},
                                          {0x200b, 0x200f},
                                          {0x2028, 0x202e},
                                          {0x2060, 0x206f},
                                          {0xfeff, 0xfeff},
                                          {0xfff9, 0xfffb},
                                          {0xe0000, 0xe007f}}};
  return std::ranges::none_of(hidden, [c](const range& r) { return c >= r.first && c <= r.last; });
}

void append_hex(std::string& out, char byte) { out += fmt::format("{:02x}", static_cast<unsigned char>(byte)); }

bool is_utf8(std::string_view bytes) {
  while (!bytes.empty()) {
    const code_point next = decode_utf8(bytes);
    if (next.length == 0) return false;
    bytes.remove_prefix(next.length);
  }
  return true;
}

int hex_digit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

std::string snake_case(std::string_view label) {
  std::string key;
  for (const char c : label) {
    const auto u = static_cast<unsigned char>(c);
    if (std::isalnum(u)) {
      key += static_cast<char>(std::tolower(u));
    } else if (!key.empty() && key.back() != '_') {
      key += '_';
    }
  }
  if (key.ends_with('_')) key.pop_back();
  return key;
}

std::string table_text(const report::json& value) {
  if (value.is_null()) return "-";
  if (value.is_string()) return escape(value.get_ref<const std::string&>());
  return value.dump();
}

}  // namespace

output_format parse_output_format(std::string_view text) {
  if (text == "text") return output_format::text;
  if (text == "json") return output_format::json;
  throw std::invalid_argument(fmt::format("'{}': expected text or json", text));
}

void write_out(std::string_view text) {
  if (std::fwrite(text.data(), 1, text.size(), stdout) != text.size()) output_failed(errno);
}

void flush_out() {
  if (std::fflush(stdout) != 0) output_failed(errno);
}

std::string escape(std::string_view bytes) {
  std::string text;
  text.reserve(bytes.size());
  while (!bytes.empty()) {
    const code_point next = decode_utf8(bytes);
    const std::size_t length = std::max<std::size_t>(next.length, 1);
    if (next.value == '\\') {
      text += "\\\\";
    } else if (next.length != 0 && is_printable(next.value)) {
      text += bytes.substr(0, length);
    } else {
      for (const char byte : bytes.substr(0, length)) append_hex(text += "\\x", byte);
    }
    bytes.remove_prefix(length);
  }
  return text;
}

std::string unescape(std::string_view text) {
  std::string bytes;
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '\\') {
      bytes += text[i];
    } else if (i + 1 < text.size() && text[i + 1] == '\\') {
      bytes += '\\';
      i += 1;
    } else if (i + 3 < text.size() && text[i + 1] == 'x' && hex_digit(text[i + 2]) >= 0 &&
               hex_digit(text[i + 3]) >= 0) {
      bytes += static_cast<char>(hex_digit(text[i + 2]) * 16 + hex_digit(text[i + 3]));
      i += 3;
    } else {
      throw std::invalid_argument(fmt::format("'{}': a backslash must be followed by \\ or xNN", text));
    }
  }
  return bytes;
}

nlohmann::ordered_json json_bytes(std::string_view bytes) {
  if (is_utf8(bytes)) return bytes;
  std::string hex;
  for (const char byte : bytes) append_hex(hex, byte);
  return {{"hex", hex}};
}

report& report::add(std::string label, json value) {
  std::string text = table_text(value);
  return add(std::move(label), std::move(value), std::move(text));
}

report& report::add(std::string label, json value, std::string text) {
  rows_.push_back({std::move(label), std::move(value), std::move(text)});
  return *this;
}

std::string report::text() const {
  std::size_t widest = 0;
  for (const row& r : rows_) widest = std::max(widest, r.label.size());
  std::string lines;
  for (const row& r : rows_) lines += fmt::format("{:<{}} {}\n", r.label + ":", widest + 1, r.text);
  return lines;
}

report::json report::object() const {
  json result = json::object();
  for (const row& r : rows_) result[snake_case(r.label)] = r.value;
  return result;
}

void report::print(output_format format) const {
  write_out(format == output_format::json ? object().dump(2) + "\n" : text());
}

}  // namespace lockstep::examples
