// The decisions of catch-up, pure: what a source answers to a follower's position, where two histories part, how far a
// follower lags, and the messages that carry this. The drivers are catchup/source.hpp and catchup/follower.hpp.
//
//   follower                           source
//   subscribe(have, base, mode)  -->   decides by the chain at have.index:
//                                <--   accepted, heartbeat          what follows is in the source's history
//   probe_reply                 <-->   probe                        ... search for the last common position
//                                                                   (a follower that has compacted what is asked for
//                                                                   subscribes anew)
//                                <--   diverged(common)             the follower repairs and subscribes anew
//                                <--   snapshot, chunks, end        what follows is not kept; subscribes anew
//                                <--   diverged({})                 nothing kept is common, and the source has all of
//                                                                   its records but no snapshot: begin from nothing
//   ack(durable)                <-->   records, heartbeats          push: whenever there are any
//   fetch(limit, wait)           -->   records or a heartbeat       pull: one answer a fetch
//                                <--   failed(why)                  at any time, and then the end
//
// A heartbeat that answers a fetch names a last record that the follower has; one that names a later record is followed
// by records. Records that do not continue the follower's log by its chain are refused by the follower, so that the
// worst that a wrong answer can do is to end the connection.
#pragma once

#include "lockstep/core/bytes.hpp"
#include "lockstep/core/endian.hpp"
#include "lockstep/core/ids.hpp"
#include "lockstep/core/mutant.hpp"

#include <algorithm>
#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <optional>

namespace lockstep::catchup {

/// Frame kinds. `records` carries encoded log records and is self-checked; `snapshot_chunk` carries bytes; all others
/// carry u64 words, little-endian, in the order of the fields below.
enum class message : std::uint8_t {
  subscribe = 1,
  probe_reply = 2,
  ack = 3,
  fetch = 4,
  accepted = 16,
  probe = 17,
  diverged = 18,
  snapshot = 19,
  snapshot_chunk = 20,
  snapshot_end = 21,
  records = 22,
  heartbeat = 23,
  failed = 24,
};

/// push: the source sends whenever there is something. pull: it answers each fetch, at the latest after its wait.
enum class mode : std::uint64_t { push = 0, pull = 1 };

/// A message of N words. Reading checks the size only; the frame's checksum covers the bytes.
template <std::size_t N>
struct words {
  std::array<std::uint64_t, N> values{};

  [[nodiscard]] std::array<std::byte, 8 * N> encode() const noexcept {
    std::array<std::byte, 8 * N> bytes;
    for (std::size_t i = 0; i < N; ++i) store_le(bytes.data() + 8 * i, values[i]);
    return bytes;
  }
  static std::optional<words> decode(bytes_view bytes) noexcept {
    if (bytes.size() != 8 * N) return std::nullopt;
    words result;
    for (std::size_t i = 0; i < N; ++i) result.values[i] = load_le<std::uint64_t>(bytes.data() + 8 * i);
    return result;
  }
};

struct subscribe_message {
  position have;     ///< the follower's last durable record
  index_t base = 0;  ///< the index before the first record that the follower keeps: what it can answer probes for
  catchup::mode mode = mode::push;
  std::uint64_t max_frame_bytes = 0;  ///< the largest frame that the follower takes

  [[nodiscard]] auto encode() const noexcept {
    return words<6>{{have.epoch, have.index, have.chain, base, static_cast<std::uint64_t>(mode), max_frame_bytes}}
        .encode();
  }
  static std::optional<subscribe_message> decode(bytes_view bytes) noexcept {
    const auto raw = words<6>::decode(bytes);
    if (!raw || raw->values[4] > 1 || raw->values[3] > raw->values[1]) return std::nullopt;
    return subscribe_message{{raw->values[0], raw->values[1], raw->values[2]},
                             raw->values[3],
                             static_cast<catchup::mode>(raw->values[4]),
                             raw->values[5]};
  }
};

/// ack, accepted, probe_reply: one position. snapshot_end: the snapshot's.
struct position_message {
  lockstep::position position;

  [[nodiscard]] auto encode() const noexcept {
    return words<3>{{position.epoch, position.index, position.chain}}.encode();
  }
  static std::optional<position_message> decode(bytes_view bytes) noexcept {
    const auto raw = words<3>::decode(bytes);
    if (!raw) return std::nullopt;
    return position_message{{raw->values[0], raw->values[1], raw->values[2]}};
  }
};

struct probe_message {
  index_t index = 0;

  [[nodiscard]] auto encode() const noexcept { return words<1>{{index}}.encode(); }
  static std::optional<probe_message> decode(bytes_view bytes) noexcept {
    const auto raw = words<1>::decode(bytes);
    if (!raw) return std::nullopt;
    return probe_message{raw->values[0]};
  }
};

struct fetch_message {
  std::uint64_t max_bytes = 0;
  std::uint64_t wait_ns = 0;  ///< long poll: how long the source may hold its answer back while it has no records

  [[nodiscard]] auto encode() const noexcept { return words<2>{{max_bytes, wait_ns}}.encode(); }
  static std::optional<fetch_message> decode(bytes_view bytes) noexcept {
    const auto raw = words<2>::decode(bytes);
    if (!raw) return std::nullopt;
    return fetch_message{raw->values[0], raw->values[1]};
  }
};

/// The histories agree up to `common` and the source has no record of the follower's behind it. {}: nothing that both
/// keep is common, and the source's log holds its whole history.
struct diverged_message {
  position common;
  epoch_t source_epoch = 0;  ///< of the source's last record: a source of an older life must not cut a follower back

  [[nodiscard]] auto encode() const noexcept {
    return words<4>{{common.epoch, common.index, common.chain, source_epoch}}.encode();
  }
  static std::optional<diverged_message> decode(bytes_view bytes) noexcept {
    const auto raw = words<4>::decode(bytes);
    if (!raw) return std::nullopt;
    return diverged_message{{raw->values[0], raw->values[1], raw->values[2]}, raw->values[3]};
  }
};

/// Announces a snapshot of `size` bytes that stands for all records up to `upto`.
struct snapshot_message {
  position upto;
  std::uint64_t size = 0;
  index_t differs_from = 0;  ///< an index from which on the follower's records are known not to be the source's;
                             ///< 0: the follower only lies too far back
  epoch_t source_epoch = 0;  ///< as in diverged_message

  [[nodiscard]] auto encode() const noexcept {
    return words<6>{{upto.epoch, upto.index, upto.chain, size, differs_from, source_epoch}}.encode();
  }
  static std::optional<snapshot_message> decode(bytes_view bytes) noexcept {
    const auto raw = words<6>::decode(bytes);
    if (!raw || raw->values[1] == 0) return std::nullopt;
    return snapshot_message{
        {raw->values[0], raw->values[1], raw->values[2]}, raw->values[3], raw->values[4], raw->values[5]};
  }
};

struct heartbeat_message {
  position last;               ///< the source's last record that followers can have
  std::uint64_t clock_ns = 0;  ///< the source's wall clock; only differences are used

  [[nodiscard]] auto encode() const noexcept {
    return words<4>{{last.epoch, last.index, last.chain, clock_ns}}.encode();
  }
  static std::optional<heartbeat_message> decode(bytes_view bytes) noexcept {
    const auto raw = words<4>::decode(bytes);
    if (!raw || raw->values[3] > static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max())) {
      return std::nullopt;
    }
    return heartbeat_message{{raw->values[0], raw->values[1], raw->values[2]}, raw->values[3]};
  }
};

/// Why the source ends: for the follower's operator.
struct failed_message {
  std::uint64_t code = 0;  ///< a lockstep::errc; 0 when it was an error of another kind
  index_t at = 0;          ///< the record that would have been next; 0 when there was none

  [[nodiscard]] auto encode() const noexcept { return words<2>{{code, at}}.encode(); }
  static std::optional<failed_message> decode(bytes_view bytes) noexcept {
    const auto raw = words<2>::decode(bytes);
    if (!raw) return std::nullopt;
    return failed_message{raw->values[0], raw->values[1]};
  }
};

/// Finds the last index in [lowest, highest] at which two histories agree, by bisection: histories that agree at one
/// position agree at all before it.
class divergence_search {
 public:
  /// @param highest  at least lowest; below the largest index_t.
  divergence_search(index_t lowest, index_t highest) noexcept : lowest_(lowest), differs_from_(highest + 1) {}

  /// The index to compare next; nothing when the search has ended.
  [[nodiscard]] std::optional<index_t> next_probe() const noexcept {
    const index_t agreed_end = agreed_ ? *agreed_ + 1 : lowest_;
    if (agreed_end >= differs_from_) return std::nullopt;
    if (agreed_ && agreed_end + 1 == differs_from_ && mutated(mutant::search_stops_early)) return std::nullopt;
    return agreed_end + (differs_from_ - agreed_end) / 2;
  }

  /// @param probe  what next_probe() returned.
  void answer(index_t probe, bool agree) noexcept {
    if (agree) {
      agreed_ = probe;
    } else {
      differs_from_ = probe;
    }
  }

  /// After the end: the last common index; nothing when they differ at `lowest` already.
  [[nodiscard]] const std::optional<index_t>& common() const noexcept { return agreed_; }

  /// The lowest index that is known to differ; beyond `highest` while none is.
  [[nodiscard]] index_t differs_from() const noexcept { return differs_from_; }

 private:
  index_t lowest_;
  std::optional<index_t> agreed_;
  index_t differs_from_;
};

/// What a source answers to a subscription.
enum class answer {
  accept,             ///< continue behind the follower's position
  search,             ///< the histories may have parted: compare positions from lowest to highest
  snapshot_required,  ///< the records behind the follower's position are not kept any more, or nothing kept is common
};

struct decision {
  catchup::answer answer = answer::accept;
  index_t lowest = 0;        ///< search: the first index that both still know
  index_t highest = 0;       ///< search: the last index that both have and that is not known to differ
  index_t differs_from = 0;  ///< snapshot_required: see snapshot_message
};

/// Decides from the chain at the follower's position.
/// @param base, last  the first position that the source knows, and its last record that followers can have.
/// @param own         the source's position at subscription.have.index; nothing when it has none there.
inline decision decide(const subscribe_message& subscription, const position& base, const position& last,
                       const std::optional<position>& own) noexcept {
  decision result;
  const index_t have = subscription.have.index;
  const bool both_have = own && have >= base.index && have <= last.index;
  if (both_have && *own == subscription.have) return result;
  if (both_have && own->epoch == subscription.have.epoch && mutated(mutant::compare_chains_never)) return result;
  if (both_have && mutated(mutant::ignore_divergence)) return result;
  if (have > last.index && mutated(mutant::skip_divergence_search)) return result;
  result.lowest = std::max(subscription.base, base.index);
  result.highest = std::min(have, last.index);
  if (result.lowest > result.highest) {
    // Either the source has compacted what follows `have`, or it ends before all that the follower keeps.
    result.answer = answer::snapshot_required;
    if (have > last.index) result.differs_from = last.index + 1;
  } else if (!both_have) {
    result.answer = answer::search;
  } else if (result.lowest == have) {
    result.answer = answer::snapshot_required;
    result.differs_from = have;
  } else {
    result.answer = answer::search;
    --result.highest;  // was just compared
  }
  return result;
}

/// How far a follower lags behind its source, by the source's own clock: right when nothing is written, and never
/// negative, however the two machines' clocks differ or jump.
class lag_tracker {
 public:
  using time = std::chrono::nanoseconds;

  /// @param source_last  the last index that the heartbeat names.
  /// @param clock        the source's clock in the heartbeat, not negative. When it goes back, no time has passed.
  void heard(index_t source_last, time clock) noexcept {
    if (heard_ && clock > clock_) passed_ += std::min(clock - clock_, time::max() - passed_);
    heard_ = true;
    clock_ = clock;
    while (count_ != 0 && samples_[count_ - 1].last > source_last) --count_;  // the source took records back
    source_last_ = source_last;
    if (source_last > have_ && (count_ == 0 || samples_[count_ - 1].last < source_last)) remember(source_last);
  }

  /// The follower has made everything up to `index` durable.
  void has(index_t index) noexcept {
    have_ = index;
    std::size_t had = 0;
    while (had < count_ && samples_[had].last <= index) ++had;
    drop(0, had);
  }

  /// How many records of the source are not durable here, as of its last heartbeat.
  [[nodiscard]] std::uint64_t records() const noexcept {
    return source_last_ > have_ || mutated(mutant::negative_lag) ? source_last_ - have_ : 0;
  }

  /// For how long the source has had the oldest record that is not durable here: not longer than it had, and shorter by
  /// at most the time between two heartbeats. When more than most_samples heartbeats named records that are missing,
  /// some are forgotten, and what is shown can be shorter by a 30th of the greatest lag.
  [[nodiscard]] time behind_for() const noexcept { return count_ == 0 ? time(0) : passed_ - samples_[0].when; }

  [[nodiscard]] index_t source_last() const noexcept { return source_last_; }

  static constexpr std::size_t most_samples = 64;

 private:
  struct sample {
    index_t last = 0;
    time when{0};  // of the source's clock, as passed_ counts it
  };

  void remember(index_t last) noexcept {
    if (count_ == most_samples) forget_one();
    samples_[count_++] = {last, passed_};
  }

  // The sample whose neighbours lie closest together; never the oldest.
  void forget_one() noexcept {
    std::size_t least = 1;
    const auto gap = [this](std::size_t i) { return samples_[i + 1].when - samples_[i - 1].when; };
    for (std::size_t i = 2; i + 1 < count_; ++i) {
      if (gap(i) < gap(least)) least = i;
    }
    drop(least, least + 1);
  }

  void drop(std::size_t from, std::size_t to) noexcept {
    const auto begin = samples_.begin();
    std::copy(begin + static_cast<std::ptrdiff_t>(to), begin + static_cast<std::ptrdiff_t>(count_),
              begin + static_cast<std::ptrdiff_t>(from));
    count_ -= to - from;
  }

  index_t have_ = 0;
  index_t source_last_ = 0;
  bool heard_ = false;
  time clock_{0};
  time passed_{0};
  // Heartbeats that named records which are not durable here yet: rising in both fields.
  std::array<sample, most_samples> samples_{};
  std::size_t count_ = 0;
};

}  // namespace lockstep::catchup
