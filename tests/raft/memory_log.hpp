// What append_log is to a core, in memory.
#pragma once

#include "lockstep/log/codec.hpp"
#include "lockstep/raft/core.hpp"

#include <algorithm>
#include <memory>
#include <optional>
#include <vector>

namespace lockstep::raft::test {

class memory_log {
 public:
  [[nodiscard]] position base() const { return base_; }
  [[nodiscard]] position last() const { return records_.empty() ? base_ : records_.back().at; }
  [[nodiscard]] position acked() const { return acked_; }
  [[nodiscard]] std::optional<position> position_at(index_t index) const {
    if (index == base_.index) return base_;
    if (index < base_.index || index > last().index) return std::nullopt;
    return of(index).at;
  }

  void append(epoch_t epoch, record_kind kind, bytes_view payload) {
    stored made;
    made.bytes.resize(log_format::record_bytes(payload.size()));
    made.kind = kind;
    made.at = log_codec::encode_record(made.bytes.data(), last(), epoch, kind, {&payload, 1});
    records_.push_back(std::move(made));
  }
  /// @return whether all of them continue the log.
  bool append(const record_batch& batch) {
    bytes_view rest = batch.bytes();
    for (const record& each : batch) {
      record verified = each;
      // What a witness is sent keeps the chain of the record that it stands for.
      if (each.kind != witness_record &&
          log_codec::decode_record(rest, last(), verified) != log_codec::record_verdict::ok) {
        return false;
      }
      if (each.index != last().index + 1) return false;
      const std::size_t size = log_format::record_bytes(each.payload.size());
      records_.push_back(
          {each.position(), each.kind, {rest.begin(), rest.begin() + static_cast<std::ptrdiff_t>(size)}});
      rest = rest.subspan(size);
    }
    return true;
  }
  [[nodiscard]] record_batch batch(index_t first, std::size_t most, bool payloads = true) const {
    auto bytes = std::make_shared<std::vector<std::byte>>();
    index_t next = first;
    for (; next <= last().index && next - first < most; ++next) {
      if (payloads || of(next).kind != data_record) {
        bytes->insert(bytes->end(), of(next).bytes.begin(), of(next).bytes.end());
      } else {
        append_header(*bytes, of(next).at);
      }
    }
    return {*bytes, first, next - 1, bytes};
  }
  [[nodiscard]] record_kind kind_of(index_t index) const { return of(index).kind; }
  [[nodiscard]] bytes_view payload_of(index_t index) const {
    return (*record_batch::iterator(of(index).bytes.data())).payload;
  }

  void truncate(index_t keep) {
    records_.resize(keep - base_.index);
    if (acked_.index > keep) acked_ = last();
  }
  void compact(index_t first_kept) {
    const position base = *position_at(first_kept - 1);
    records_.erase(records_.begin(), records_.begin() + static_cast<std::ptrdiff_t>(base.index - base_.index));
    base_ = base;
  }
  void reset(const position& to) {
    records_.clear();
    base_ = acked_ = to;
  }
  void sync(index_t up_to) {
    if (up_to > acked_.index) acked_ = *position_at(std::min(up_to, last().index));
  }
  /// What is not durable is gone.
  void lose_power() { truncate(acked_.index); }

 private:
  struct stored {
    position at;
    record_kind kind = data_record;
    std::vector<std::byte> bytes;
  };
  [[nodiscard]] const stored& of(index_t index) const { return records_[index - base_.index - 1]; }

  static void append_header(std::vector<std::byte>& to, const position& of) {
    const std::size_t begin = to.size();
    to.resize(begin + log_format::record_bytes(0));
    const bytes_view nothing;
    (void)log_codec::encode_record(to.data() + begin, {0, of.index - 1, 0}, of.epoch, witness_record, {&nothing, 1});
    store_le<std::uint64_t>(to.data() + begin + 24, of.chain);
  }

  position base_, acked_;
  std::vector<stored> records_;
};

}  // namespace lockstep::raft::test
