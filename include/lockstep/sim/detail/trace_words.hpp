// Words for the timeline, and how they are escaped. See sim/trace.hpp.
#pragma once

#include "lockstep/sim/world.hpp"

#include <algorithm>
#include <cstdio>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace lockstep::sim::detail {

/// "12.345678 s"
inline std::string trace_time(duration at) {
  char text[40];
  std::snprintf(text, sizeof text, "%.6f s", std::chrono::duration<double>(at).count());
  return text;
}

/// The length of the UTF-8 sequence that `text` begins with; 0 when it begins with none.
inline std::size_t utf8_length(std::string_view text) {
  const auto byte = [text](std::size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned char first = byte(0);
  if (first < 0x80) return 1;
  const std::size_t length = first >= 0xc2 && first < 0xe0   ? 2
                             : (first & 0xf0) == 0xe0        ? 3
                             : first >= 0xf0 && first < 0xf5 ? 4
                                                             : 0;
  if (length == 0 || text.size() < length) return 0;
  std::uint32_t value = first & (0x7fu >> length);
  for (std::size_t i = 1; i < length; ++i) {
    if ((byte(i) & 0xc0) != 0x80) return 0;
    value = value << 6 | (byte(i) & 0x3fu);
  }
  const bool overlong = (length == 3 && value < 0x800) || (length == 4 && value < 0x10000);
  const bool surrogate = value >= 0xd800 && value < 0xe000;
  return overlong || surrogate || value > 0x10ffff ? 0 : length;
}

inline constexpr std::string_view replacement_character = "\xef\xbf\xbd";

/// `text` with `escape(out, character)` for each character of one byte that it writes otherwise (it returns whether it
/// did), and the replacement character for what is no UTF-8.
template <class Escape>
std::string escaped(std::string_view text, Escape escape) {
  std::string out;
  while (!text.empty()) {
    const std::size_t length = utf8_length(text);
    if (length == 0) {
      out += replacement_character;
    } else if (!escape(out, text.front())) {
      out += text.substr(0, length);
    }
    text.remove_prefix(std::max<std::size_t>(length, 1));
  }
  return out;
}

/// `text` as it stands between the quotes of a JSON string.
inline std::string json_escaped(std::string_view text) {
  return escaped(text, [](std::string& out, char c) {
    if (c == '"' || c == '\\') {
      (out += '\\') += c;
    } else if (static_cast<unsigned char>(c) < 0x20) {
      char code[8];
      std::snprintf(code, sizeof code, "\\u%04x", static_cast<unsigned>(c));
      out += code;
    } else {
      return false;
    }
    return true;
  });
}

/// `text` as it stands in an XML element or attribute. XML has no way to write control characters.
inline std::string xml_escaped(std::string_view text) {
  return escaped(text, [](std::string& out, char c) {
    if (c == '&') {
      out += "&amp;";
    } else if (c == '<') {
      out += "&lt;";
    } else if (c == '>') {
      out += "&gt;";
    } else if (c == '"') {
      out += "&quot;";
    } else if (c == '\n' || c == '\t') {
      out += ' ';
    } else if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) {
      out += replacement_character;
    } else {
      return false;
    }
    return true;
  });
}

/// In the order of time: messages are kept when they are delivered, and stand where they were sent.
inline std::vector<const timeline_entry*> in_order_of_time(std::span<const timeline_entry> timeline) {
  std::vector<const timeline_entry*> sorted;
  for (const timeline_entry& each : timeline) sorted.push_back(&each);
  std::stable_sort(sorted.begin(), sorted.end(),
                   [](const timeline_entry* a, const timeline_entry* b) { return a->at < b->at; });
  return sorted;
}

/// Whether `before` says it already: a node's crash beside the fault that crashes it.
inline bool says_the_same(const timeline_entry& note, const timeline_entry* before) {
  return note.kind == "node" && before && before->kind == "fault" && before->node == note.node &&
         before->at == note.at && !note.text.starts_with("starts");
}

inline std::string trace_sentence(const timeline_entry& of) {
  if (of.kind != "message") return of.kind == "failure" ? "FAILED: " + of.text : of.text;
  char took[40];
  std::snprintf(took, sizeof took, "%.3f ms", std::chrono::duration<double, std::milli>(of.until - of.at).count());
  return "-> " + of.to + ": " + of.text + ", " + took;
}

}  // namespace lockstep::sim::detail
