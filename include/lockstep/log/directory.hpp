// log_directory: what the files of a log directory say, without a lock and without changing anything.
//
// The first half of opening a log, and all that tools need: `lockstep-log`, `cityhall verify`, `replica status`.
#pragma once

#include "lockstep/core/errors.hpp"
#include "lockstep/env/env.hpp"
#include "lockstep/log/recovery.hpp"

#include <algorithm>
#include <array>
#include <charconv>
#include <string>
#include <string_view>
#include <vector>

namespace lockstep {

namespace log_files {

inline constexpr std::string_view segment_suffix = ".seg";
inline constexpr std::string_view recycled_suffix = ".old";
inline constexpr std::string_view temporary_suffix = ".tmp";
inline constexpr std::string_view watermark = "watermark";
inline constexpr std::string_view reset_intent = "reset";
inline constexpr std::string_view lock = "LOCK";

inline std::string numbered(index_t number, std::string_view suffix) {
  std::string digits = std::to_string(number);
  std::string name(20 - digits.size(), '0');
  name += digits;
  name += suffix;
  return name;
}

inline std::string segment_name(index_t first_index) { return numbered(first_index, segment_suffix); }

/// @return the first index in a segment's file name, or 0 when it is no such name.
inline index_t parse_segment_name(std::string_view name) noexcept {
  if (name.size() != 20 + segment_suffix.size() || !name.ends_with(segment_suffix)) return 0;
  index_t index = 0;
  const auto [end, error] = std::from_chars(name.data(), name.data() + 20, index);
  return error == std::errc{} && end == name.data() + 20 ? index : 0;
}

inline std::string join(const std::string& directory, std::string_view name) {
  return directory + "/" + std::string(name);
}

/// The directory that holds the name `path`: what has to be synced for that name to last (D2).
inline std::string parent(std::string path) {
  while (path.size() > 1 && path.ends_with('/')) path.pop_back();
  const std::size_t slash = path.find_last_of('/');
  if (slash == std::string::npos) return ".";
  return slash == 0 ? "/" : path.substr(0, slash);
}

}  // namespace log_files

/// A directory as found. Segments are in order of their first indexes.
struct log_directory {
  std::vector<segment_image> segments;
  std::vector<std::string> leftovers;  ///< temporary files of work that a crash cut short
  std::vector<std::string> recycled;   ///< files kept for reuse
  position watermark;
  std::optional<position> reset_intent;  ///< a reset() that a crash cut short

  /// Lists `path` and reads the segment headers and the watermark.
  /// A file that disappears meanwhile (a writer compacts) is left out.
  /// @throws system_error naming the file that can't be read.
  template <environment Env>
  static log_directory read(Env& env, const std::string& path) {
    std::error_code ec;
    const std::vector<std::string> names = env.list(path, ec);
    if (ec) throw std::system_error(ec, "cannot list log directory " + path);
    log_directory found;
    for (const std::string& name : names) {
      if (name.ends_with(log_files::temporary_suffix)) found.leftovers.push_back(name);
      if (name.ends_with(log_files::recycled_suffix)) found.recycled.push_back(name);
      const index_t index = log_files::parse_segment_name(name);
      if (index == 0) continue;
      segment_image segment;
      segment.file = name;
      segment.named_index = index;
      const auto file = env.open(log_files::join(path, name), open_mode::read, ec);
      if (ec == std::errc::no_such_file_or_directory) continue;
      std::array<std::byte, log_format::segment_header_used> page;
      std::size_t got = 0;
      if (!ec) got = file.pread(0, page, ec);
      if (!ec) segment.file_bytes = file.size(ec);
      if (ec) throw std::system_error(ec, "cannot read " + log_files::join(path, name));
      segment.header = segment_header::decode({page.data(), got});
      found.segments.push_back(std::move(segment));
    }
    std::sort(found.segments.begin(), found.segments.end(),
              [](const segment_image& a, const segment_image& b) { return a.named_index < b.named_index; });
    std::sort(found.recycled.begin(), found.recycled.end());
    found.watermark = read_position(env, log_files::join(path, log_files::watermark)).value_or(position{});
    found.reset_intent = read_position(env, log_files::join(path, log_files::reset_intent));
    return found;
  }

  /// Scans segment `i`, calling `visit(const record&)` for each good record, and keeps the result.
  /// Does nothing when the segment's header is unreadable.
  template <environment Env, class Visit>
  void scan(Env& env, const std::string& path, std::size_t i, Visit&& visit) {
    segment_image& segment = segments[i];
    if (!segment.header) return;
    std::error_code ec;
    const std::string name = log_files::join(path, segment.file);
    const auto file = env.open(name, open_mode::read, ec);
    if (ec) throw std::system_error(ec, "cannot open " + name);
    const auto mapped = file.map(0, segment.file_bytes, ec);
    if (ec) throw std::system_error(ec, "cannot map " + name);
    segment.scan = scan_segment(mapped.bytes(), *segment.header, std::forward<Visit>(visit));
  }

  /// Scans the unsealed segments and judges the directory.
  template <environment Env>
  recovery_report recover(Env& env, const std::string& path, index_t known_durable) {
    for (std::size_t i = segments.size() - count_unsealed(segments, watermark); i < segments.size(); ++i) {
      scan(env, path, i, [](const record&) {});
    }
    return judge(segments, {watermark, known_durable});
  }

 private:
  template <environment Env>
  static std::optional<position> read_position(Env& env, const std::string& path) {
    std::error_code ec;
    const auto file = env.open(path, open_mode::read, ec);
    if (ec == std::errc::no_such_file_or_directory) return std::nullopt;
    std::array<std::byte, log_format::watermark_bytes> bytes;
    std::size_t got = 0;
    if (!ec) got = file.pread(0, bytes, ec);
    if (ec) throw std::system_error(ec, "cannot read " + path);
    return log_codec::decode_watermark({bytes.data(), got});
  }
};

}  // namespace lockstep
