// What the bytes of a damaged log directory say to whoever looks before open() does.
#pragma once

#include "lockstep/log/directory.hpp"
#include "lockstep/sim/disk.hpp"

#include <algorithm>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

namespace lockstep::scenarios {

/// What open() must notice of a directory, found without recovery's own judgement.
struct evidence {
  index_t watermark = 0;
  bool sealed_segment_is_short = false;  ///< shorter than its successor says
  /// Where the last byte that is not zero ends, by the segment's file. Not of recycled ones, which hold older records.
  std::map<std::string, std::uint64_t> ends;
};

inline evidence evidence_in(const sim::disk& disk, const std::string& directory) {
  evidence found;
  std::optional<std::uint64_t> bytes_before;
  for (const std::string& path : disk.files()) {
    if (!path.starts_with(directory + "/")) continue;
    const std::string name = path.substr(directory.size() + 1);
    const std::vector<std::byte> bytes = *disk.bytes(path);
    if (name == log_files::watermark) found.watermark = log_codec::decode_watermark(bytes).value_or(position{}).index;
    const index_t first = log_files::parse_segment_name(name);
    if (first == 0) continue;
    const auto header =
        segment_header::decode(bytes_view(bytes).first(std::min(bytes.size(), log_format::segment_header_used)));
    // A recycled file may still have the header of its older life.
    if (header && header->first_index() == first) {
      if (header->has(log_format::predecessor_sealed) && bytes_before && *bytes_before < header->predecessor_bytes) {
        found.sealed_segment_is_short = true;
      }
      if (!header->has(log_format::recycled)) found.ends[name] = log_codec::end_of_nonzero(bytes);
    }
    bytes_before = bytes.size();
  }
  return found;
}

}  // namespace lockstep::scenarios
