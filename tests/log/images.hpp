// Hand-made log files in memory, for tests of the pure half of the log: codec, batch, recovery.
#pragma once

#include "lockstep/log/recovery.hpp"

#include <gtest/gtest.h>

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

namespace lockstep::test {

using byte_vector = std::vector<std::byte>;

inline byte_vector encoded(const position& previous, epoch_t epoch, std::string_view payload,
                           record_kind kind = data_record) {
  byte_vector bytes(log_format::record_bytes(payload.size()), std::byte{0xee});
  const bytes_view part = as_bytes(payload);
  log_codec::encode_record(bytes.data(), previous, epoch, kind, {&part, 1});
  return bytes;
}

/// Records one after the other, as they lie in a segment, a chunk or a frame.
struct record_run {
  position last;
  byte_vector bytes;
  std::vector<std::size_t> begins;  ///< where each record begins

  record_run() = default;
  explicit record_run(const position& behind) : last(behind) {}

  record_run& add(std::string_view payload, epoch_t epoch = 1, record_kind kind = data_record) {
    const bytes_view part = as_bytes(payload);
    const std::size_t begin = bytes.size();
    begins.push_back(begin);
    bytes.resize(begin + log_format::record_bytes(payload.size()));
    last = log_codec::encode_record(bytes.data() + begin, last, epoch, kind, {&part, 1});
    return *this;
  }
};

/// A segment's file.
struct segment_file {
  segment_header header;
  byte_vector bytes;                ///< header page and records, and what is written behind them
  std::vector<std::size_t> begins;  ///< where each record begins in the file
  position last;

  explicit segment_file(const segment_header& with = {}) : header(with), last(with.base) {
    bytes.resize(log_format::segment_header_bytes);
    header.encode(bytes);
  }

  segment_file& add(std::string_view payload, epoch_t epoch = 1) {
    const byte_vector next = encoded(last, epoch, payload);
    begins.push_back(bytes.size());
    bytes.insert(bytes.end(), next.begin(), next.end());
    record read;
    EXPECT_EQ(log_codec::decode_record(next, last, read), log_codec::record_verdict::ok);
    last = read.position();
    return *this;
  }
  segment_file& add_many(std::size_t count, std::string_view payload = "payload") {
    for (std::size_t i = 0; i < count; ++i) add(payload);
    return *this;
  }
  segment_file& zeros(std::size_t count) {
    bytes.resize(bytes.size() + count);
    return *this;
  }
  segment_file& garbage(std::size_t count) {
    bytes.resize(bytes.size() + count, std::byte{0x5a});
    return *this;
  }
  /// Changes one bit of record `number`, counted from 0, at `offset` from its beginning.
  segment_file& damage(std::size_t number, std::size_t offset = log_format::record_header_bytes) {
    bytes[begins[number] + offset] ^= std::byte{1};
    return *this;
  }
  segment_file& cut(std::size_t size) {
    bytes.resize(size);
    return *this;
  }
  /// The header of the segment that follows this one.
  [[nodiscard]] segment_header successor(std::uint32_t flags = log_format::predecessor_sealed) const {
    segment_header next;
    next.flags = flags;
    next.base = last;
    next.previous_first = header.first_index();
    next.predecessor_bytes = bytes.size();
    next.in_flight_limit = header.in_flight_limit;
    return next;
  }

  [[nodiscard]] segment_scan scan() const { return scan_segment(bytes, header); }
};

}  // namespace lockstep::test
