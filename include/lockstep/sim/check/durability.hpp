// durability_oracle: would a recovery from nothing but the durable bytes find this record?
//
//   struct durable_view {                                        // of a simulated disk
//     std::vector<std::pair<std::string, durable_file>> list(const std::string& directory);
//     std::uint64_t version(const std::string& directory);
//   };
//   struct durable_file {
//     std::uint64_t version();
//     std::size_t read(std::uint64_t offset, mutable_bytes to);
//   };
//   check::durability_oracle oracle(view, "/log");
//   … at each acknowledgement, before it is passed on …
//   auto broken = oracle.must_hold(position);
//
// The bytes are judged by the library's own recovery (log/recovery.hpp), with all records of all segments read, except
// that what stands behind the last good record is not measured against the in-flight limit.
//
// What was verified once is not read again, so that asking is cheap: of each segment whose file has changed the header
// is read, the last verified record, and what is new behind that. When the first two have changed it is read again from
// its beginning. Damage in the middle of verified bytes is seen after forget() only.
#pragma once

#include "lockstep/log/directory.hpp"
#include "lockstep/log/recovery.hpp"
#include "lockstep/sim/check/violation.hpp"

#include <algorithm>
#include <array>
#include <concepts>
#include <cstddef>
#include <map>
#include <optional>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

namespace lockstep::sim::check {

/// One file's durable bytes: what a power loss now would leave of it for sure.
/// `version` differs from every earlier one whenever the bytes have changed; it may be a number, a time, or the bytes
/// themselves. `read` copies bytes from `offset` on, and returns how many there were up to the file's durable end, at
/// most as many as fit.
template <class F>
concept durable_file_source = requires(F& file, std::uint64_t offset, mutable_bytes to) {
  { file.version() } -> std::equality_comparable;
  { file.read(offset, to) } -> std::convertible_to<std::size_t>;
};

/// Where durable files come from. `list` returns those of a directory that have a durable name there, each with its
/// name, in any order; `version` changes with the names and with which files they mean.
template <class T>
concept durable_source = requires(T& source, const std::string& directory) {
  { source.list(directory).begin()->first } -> std::convertible_to<std::string>;
  { source.list(directory).begin()->second } -> durable_file_source;
  { source.version(directory) } -> std::equality_comparable;
};

/// See the top of this file. The source outlives it.
template <durable_source Source>
class durability_oracle {
 public:
  durability_oracle(Source& source, std::string directory) : source_(source), directory_(std::move(directory)) {}

  /// What recovery would find now.
  const recovery_report& look() {
    bool changed = is_new(names_version(source_.version(directory_)), names_);
    if (changed) list();
    if (reset_file_) {  // opening the log finishes the reset: whatever else is there does not count
      if (const std::optional<position> reset = read_position(*reset_file_)) {
        forget();
        report_ = recovery_report();
        report_.last_good = *reset;
        return report_;
      }
    }
    auto image = images_.begin();
    for (auto& [first, each] : segments_) {
      if (each.refresh(first, buffer_)) *image = each.image(), changed = true;
      ++image;
    }
    if (watermark_file_ && is_new(file_version(watermark_file_->version()), watermark_version_)) {
      watermark_ = read_position(*watermark_file_).value_or(position{});
      changed = true;
    }
    if (changed) report_ = judge(images_, {watermark_, 0});
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
    const auto but_recovery = [&](const std::string& fails) {
      return directory_ + ": " + detail::text(at) + " was acknowledged, but recovery from the durable bytes would " +
             fails;
    };
    if (report_.verdict == log_verdict::corrupt) {
      return but_recovery("find the log corrupt: " + where() + report_.reason);
    }
    if (at.index > report_.last_good.index) {
      return but_recovery("end at record " + detail::text(report_.last_good.index) + why_it_ends());
    }
    const std::optional<position> held = find(at.index);
    if (held && *held != at) return but_recovery("find " + detail::text(*held) + " there");
    return std::nullopt;
  }

  /// Verifies everything again the next time.
  void forget() {
    segments_.clear();
    names_.reset();
  }

  /// How many bytes were asked of the source so far.
  [[nodiscard]] std::uint64_t bytes_read() const noexcept { return buffer_.bytes_read; }

 private:
  using file_type = std::decay_t<decltype(std::declval<Source&>().list(std::string()).begin()->second)>;
  using file_version = std::decay_t<decltype(std::declval<file_type&>().version())>;
  using names_version = std::decay_t<decltype(std::declval<Source&>().version(std::string()))>;

  /// Whether this is another version than the last; `last` is nothing before the first.
  template <class Version>
  static bool is_new(Version now, std::optional<Version>& last) {
    if (last == now) return false;
    last = std::move(now);
    return true;
  }

  struct read_buffer {
    std::vector<std::byte> bytes;
    std::uint64_t bytes_read = 0;

    bytes_view read(file_type& file, std::uint64_t offset, std::size_t size) {
      if (bytes.size() < size) bytes.resize(size);
      const std::size_t got = file.read(offset, mutable_bytes(bytes).first(size));
      bytes_read += got;
      return {bytes.data(), std::min(got, size)};
    }
  };

  /// What was verified of one segment's file.
  class segment {
   public:
    segment() = default;
    explicit segment(std::string name) : name_(std::move(name)) {}

    /// To be read from now on, unless it is what was read already.
    void open(file_type file) { file_.emplace(std::move(file)); }

    /// Reads what is new, and says what recovery has to know. @return whether there is anything new.
    bool refresh(index_t named, read_buffer& buffer) {
      if (!is_new(file_version(file_->version()), version_)) return false;
      segment_image& image = image_;
      image = segment_image();
      image.file = name_;
      image.named_index = named;
      const bytes_view page = buffer.read(*file_, 0, log_format::segment_header_used);
      image.header = segment_header::decode(page);
      if (!std::equal(page.begin(), page.end(), page_.begin(), page_.end())) {
        page_.assign(page.begin(), page.end());
        forget_records(image.header);
      }
      if (!image.readable()) return true;
      if (!records_.empty() && !last_is_there(buffer)) forget_records(image.header);
      read_on(buffer);
      image.file_bytes = end_;
      image.scan = segment_scan{last(), end_, 0, stopped_by_};
      return true;
    }

    [[nodiscard]] const segment_image& image() const noexcept { return image_; }
    [[nodiscard]] const position& base() const noexcept { return base_; }
    [[nodiscard]] const position& last() const noexcept { return records_.empty() ? base_ : records_.back(); }
    /// `index` lies in (base().index, last().index].
    [[nodiscard]] const position& at(index_t index) const { return records_[index - base_.index - 1]; }

    [[nodiscard]] std::string why_it_ends() const {
      return name_ + " at byte " + detail::text(end_) + ", record " + detail::text(last().index + 1) + ": " +
             log_codec::explain(stopped_by_);
    }

   private:
    static constexpr std::size_t first_read = 4096;
    static constexpr std::size_t most_read = std::size_t{1} << 20;

    void forget_records(const std::optional<segment_header>& header) {
      base_ = header ? header->base : position{};
      records_.clear();
      end_ = log_format::segment_header_bytes;
    }

    bool last_is_there(read_buffer& buffer) {
      const position& previous = records_.size() > 1 ? records_[records_.size() - 2] : base_;
      const bytes_view bytes = buffer.read(*file_, last_begins_, end_ - last_begins_);
      record found;
      return log_codec::decode_record(bytes, previous, found) == log_codec::record_verdict::ok &&
             found.position() == last();
    }

    void read_on(read_buffer& buffer) {
      std::size_t size = first_read;
      for (;;) {
        const bytes_view bytes = buffer.read(*file_, end_, size);
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

    std::string name_;
    std::optional<file_type> file_;
    std::optional<file_version> version_;  // as read last
    segment_image image_;                  // as read last
    std::vector<std::byte> page_;          // the used bytes of the header, as read last
    position base_;
    std::vector<position> records_;                         // verified, behind base_ without gaps
    std::uint64_t last_begins_ = 0;                         // where the last of records_ begins, if there is one
    std::uint64_t end_ = log_format::segment_header_bytes;  // of records_
    log_codec::record_verdict stopped_by_ = log_codec::record_verdict::incomplete;
  };

  // Forgets the segments that are gone.
  void list() {
    reset_file_.reset();
    watermark_file_.reset();
    watermark_version_.reset();
    watermark_ = position{};
    std::map<index_t, segment> present;
    for (auto& [name, file] : source_.list(directory_)) {
      if (name == log_files::reset_intent)
        reset_file_.emplace(std::move(file));
      else if (name == log_files::watermark)
        watermark_file_.emplace(std::move(file));
      else if (const index_t first = log_files::parse_segment_name(name); first != 0) {
        auto known = segments_.extract(first);
        if (!known) known = std::map<index_t, segment>{{first, segment(name)}}.extract(first);
        known.mapped().open(std::move(file));
        present.insert(present.end(), std::move(known));
      }
    }
    segments_ = std::move(present);
    images_.clear();
    for (const auto& [first, each] : segments_) images_.push_back(each.image());
  }

  std::optional<position> read_position(file_type& file) {
    return log_codec::decode_watermark(buffer_.read(file, 0, log_format::watermark_bytes));
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
  std::optional<names_version> names_;   // of the files below
  std::map<index_t, segment> segments_;  // by the first index that the name says
  std::vector<segment_image> images_;    // of them, in their order
  std::optional<file_type> reset_file_;
  std::optional<file_type> watermark_file_;
  std::optional<file_version> watermark_version_;  // as read last
  position watermark_;                             // what it says
  recovery_report report_;                         // as found last
  read_buffer buffer_;
};

}  // namespace lockstep::sim::check
