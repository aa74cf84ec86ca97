// durability_oracle: would a recovery from nothing but the durable bytes find this record?
//
//   struct durable_view {                                        // of a simulated disk
//     std::vector<std::string> list(const std::string& directory);
//     std::size_t read(const std::string& path, std::uint64_t offset, mutable_bytes to);
//   };
//   check::durability_oracle oracle(view, "/log");
//   … at each acknowledgement, before it is passed on …
//   auto broken = oracle.must_hold(position);
//
// The bytes are judged by the library's own recovery (log/recovery.hpp), with all records of all segments read, except
// that what stands behind the last good record is not measured against the in-flight limit.
//
// What was verified once is not read again, so that asking is cheap: each time the header of every segment is read, its
// last verified record, and what is new behind that. A segment in which the first two changed is read again from its
// beginning. Damage in the middle of verified bytes is seen after forget() only.
#pragma once

#include "lockstep/log/directory.hpp"
#include "lockstep/log/recovery.hpp"
#include "lockstep/sim/check/violation.hpp"

#include <algorithm>
#include <array>
#include <concepts>
#include <cstddef>
#include <map>
#include <string>
#include <utility>
#include <vector>

namespace lockstep::sim::check {

/// Where durable bytes come from: what a power loss now would leave for sure.
/// `list` returns the names, not paths, of the files in a directory whose entries are durable, in any order.
/// `read` copies durable bytes of a file from `offset` on, and returns how many there were up to the file's durable
/// end, at most as many as fit; 0 when there is no such file.
template <class T>
concept durable_source = requires(T& source, const std::string& path, std::uint64_t offset, mutable_bytes to) {
  { source.list(path) } -> std::convertible_to<std::vector<std::string>>;
  { source.read(path, offset, to) } -> std::convertible_to<std::size_t>;
};

/// See the top of this file. The source outlives it.
template <durable_source Source>
class durability_oracle {
 public:
  durability_oracle(Source& source, std::string directory) : source_(source), directory_(std::move(directory)) {}

  /// What recovery would find now.
  const recovery_report& look() {
    bool listed_reset = false;
    bool listed_watermark = false;
    std::map<index_t, segment> present;
    for (const std::string& name : source_.list(directory_)) {
      listed_reset = listed_reset || name == log_files::reset_intent;
      listed_watermark = listed_watermark || name == log_files::watermark;
      const index_t first = log_files::parse_segment_name(name);
      if (first == 0) continue;
      auto known = segments_.extract(first);
      present[first] = known ? std::move(known.mapped()) : segment(log_files::join(directory_, name));
    }
    segments_ = std::move(present);
    const std::optional<position> reset = listed_reset ? read_position(log_files::reset_intent) : std::nullopt;
    if (reset) {  // opening the log finishes the reset: whatever else is there does not count
      segments_.clear();
      report_ = recovery_report();
      report_.last_good = *reset;
      return report_;
    }
    std::vector<segment_image> images;
    for (auto& [first, each] : segments_) images.push_back(each.refresh(source_, first, buffer_));
    const std::optional<position> watermark = listed_watermark ? read_position(log_files::watermark) : std::nullopt;
    report_ = judge(images, {watermark.value_or(position{}), 0});
    return report_;
  }

  /// The last record that recovery would find now, or the position before the first. Nothing when the directory would
  /// be found corrupt.
  std::optional<position> last_durable() {
    look();
    return report_.verdict == log_verdict::corrupt ? std::nullopt : std::optional(report_.last_good);
  }

  /// What is wrong with acknowledging the record at `at` now; a record below the log's base counts as held.
  violation must_hold(const position& at) {
    look();
    const std::string record = directory_ + ": " + detail::text(at) + " was acknowledged, but recovery ";
    if (report_.verdict == log_verdict::corrupt) {
      return record + "from the durable bytes would find the log corrupt: " + where() + report_.reason;
    }
    if (at.index > report_.last_good.index) {
      return record + "from the durable bytes would end at record " + detail::text(report_.last_good.index) +
             why_it_ends();
    }
    const std::optional<position> held = find(at.index);
    if (held && *held != at) return record + "from the durable bytes would find " + detail::text(*held) + " there";
    return std::nullopt;
  }

  /// Verifies everything again the next time.
  void forget() { segments_.clear(); }

  /// How many bytes were asked of the source so far.
  [[nodiscard]] std::uint64_t bytes_read() const noexcept { return buffer_.bytes_read; }

 private:
  struct read_buffer {
    std::vector<std::byte> bytes;
    std::uint64_t bytes_read = 0;

    bytes_view read(Source& source, const std::string& path, std::uint64_t offset, std::size_t size) {
      if (bytes.size() < size) bytes.resize(size);
      const std::size_t got = source.read(path, offset, mutable_bytes(bytes).first(size));
      bytes_read += got;
      return {bytes.data(), std::min(got, size)};
    }
  };

  /// What was verified of one segment's file.
  class segment {
   public:
    segment() = default;
    explicit segment(std::string path) : path_(std::move(path)) {}

    /// Reads what is new, and says what recovery has to know.
    segment_image refresh(Source& source, index_t named, read_buffer& buffer) {
      segment_image image;
      image.file = name();
      image.named_index = named;
      const bytes_view page = buffer.read(source, path_, 0, log_format::segment_header_used);
      image.header = segment_header::decode(page);
      if (!std::equal(page.begin(), page.end(), page_.begin(), page_.end())) {
        page_.assign(page.begin(), page.end());
        forget(image.header);
      }
      if (!image.readable()) return image;
      if (!records_.empty() && !last_is_there(source, buffer)) forget(image.header);
      read_on(source, buffer);
      image.file_bytes = end_;
      image.scan = segment_scan{last(), end_, 0, stopped_by_};
      return image;
    }

    [[nodiscard]] const position& base() const noexcept { return base_; }
    [[nodiscard]] const position& last() const noexcept { return records_.empty() ? base_ : records_.back(); }
    /// `index` lies in (base().index, last().index].
    [[nodiscard]] const position& at(index_t index) const { return records_[index - base_.index - 1]; }

    [[nodiscard]] std::string why_it_ends() const {
      return name() + " at byte " + detail::text(end_) + ", record " + detail::text(last().index + 1) + ": " +
             log_codec::explain(stopped_by_);
    }

   private:
    static constexpr std::size_t first_read = 4096;
    static constexpr std::size_t most_read = std::size_t{1} << 20;

    [[nodiscard]] std::string name() const { return path_.substr(path_.rfind('/') + 1); }

    void forget(const std::optional<segment_header>& header) {
      base_ = header ? header->base : position{};
      records_.clear();
      end_ = log_format::segment_header_bytes;
    }

    bool last_is_there(Source& source, read_buffer& buffer) const {
      const position& previous = records_.size() > 1 ? records_[records_.size() - 2] : base_;
      const bytes_view bytes = buffer.read(source, path_, last_begins_, end_ - last_begins_);
      record found;
      return log_codec::decode_record(bytes, previous, found) == log_codec::record_verdict::ok &&
             found.position() == last();
    }

    void read_on(Source& source, read_buffer& buffer) {
      std::size_t size = first_read;
      for (;;) {
        const bytes_view bytes = buffer.read(source, path_, end_, size);
        const std::size_t taken = take(bytes);
        end_ += taken;
        if (stopped_by_ != log_codec::record_verdict::incomplete || bytes.size() < size) return;
        // The record at the end of what was read may be larger than that.
        const bytes_view rest = bytes.subspan(taken);
        const auto header =
            rest.size() < log_format::record_header_bytes ? std::nullopt : log_codec::decode_header(rest.data());
        size = std::max(std::min(size * 2, most_read), header ? header->total_bytes() : 0);
      }
    }

    /// Verifies the records at the front of `bytes`. @return how many bytes they take.
    std::size_t take(bytes_view bytes) {
      std::size_t taken = 0;
      record found;
      for (;;) {
        stopped_by_ = log_codec::decode_record(bytes.subspan(taken), last(), found);
        if (stopped_by_ != log_codec::record_verdict::ok) return taken;
        records_.push_back(found.position());
        last_begins_ = end_ + taken;
        taken += log_format::record_bytes(found.payload.size());
      }
    }

    std::string path_;
    std::vector<std::byte> page_;  // the used bytes of the header, as read last
    position base_;
    std::vector<position> records_;                         // verified, behind base_ without gaps
    std::uint64_t last_begins_ = 0;                         // where the last of records_ begins, if there is one
    std::uint64_t end_ = log_format::segment_header_bytes;  // of records_
    log_codec::record_verdict stopped_by_ = log_codec::record_verdict::incomplete;
  };

  std::optional<position> read_position(std::string_view name) {
    return log_codec::decode_watermark(
        buffer_.read(source_, log_files::join(directory_, name), 0, log_format::watermark_bytes));
  }

  [[nodiscard]] std::string where() const {
    if (report_.file.empty()) return {};
    return report_.file + " at byte " + detail::text(report_.offset) + ", ";
  }

  [[nodiscard]] std::string why_it_ends() const {
    if (!report_.reason.empty()) return ": " + where() + report_.reason;
    return segments_.empty() ? "" : ": " + segments_.rbegin()->second.why_it_ends();
  }

  /// Where the log has a record `index`, or its base there; nothing below.
  [[nodiscard]] std::optional<position> find(index_t index) const {
    if (index == report_.last_good.index) return report_.last_good;
    auto behind = segments_.upper_bound(index);  // named by their first index
    if (behind != segments_.begin()) return std::prev(behind)->second.at(index);
    if (behind != segments_.end() && behind->second.base().index == index) return behind->second.base();
    return std::nullopt;
  }

  Source& source_;
  std::string directory_;
  std::map<index_t, segment> segments_;  // by the first index that the name says
  recovery_report report_;               // as found last
  read_buffer buffer_;
};

}  // namespace lockstep::sim::check
