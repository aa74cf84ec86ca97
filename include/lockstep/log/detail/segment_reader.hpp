// segment_reader: a segment's file mapped for reading, with a sparse index made while it is walked.
#pragma once

#include "lockstep/env/env.hpp"
#include "lockstep/log/batch.hpp"

#include <algorithm>
#include <memory>
#include <vector>

namespace lockstep::detail {

template <environment Env>
class segment_reader {
 public:
  segment_reader(typename Env::mapping mapped, const position& base) : mapped_(std::move(mapped)) {
    marks_.push_back({base.index + 1, log_format::segment_header_bytes});
  }

  /// The offset of record `index`, which must lie before `end`, the end of the records in the file.
  /// @return 0 when the headers on the way are not sound.
  std::uint64_t offset_of(index_t index, std::uint64_t end) {
    const auto after = std::upper_bound(marks_.begin(), marks_.end(), index,
                                        [](index_t i, const mark& each) { return i < each.index; });
    mark at = *std::prev(after);
    const bytes_view bytes = mapped_.bytes();
    while (at.index < index) {
      const record_walk walk = walk_records(bytes.subspan(at.offset, end - at.offset), at.index, index, mark_bytes);
      if (walk.bytes == 0) return 0;
      at = {walk.next, at.offset + walk.bytes};
      if (at.index > marks_.back().index && at.offset >= marks_.back().offset + mark_bytes) marks_.push_back(at);
    }
    return at.offset;
  }

  [[nodiscard]] bytes_view bytes() const noexcept { return mapped_.bytes(); }

 private:
  static constexpr std::uint64_t mark_bytes = 256 << 10;
  struct mark {
    index_t index;
    std::uint64_t offset;
  };
  typename Env::mapping mapped_;
  std::vector<mark> marks_;  // rising; the first is the segment's first record
};

}  // namespace lockstep::detail
