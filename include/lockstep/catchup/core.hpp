// The decisions of catch-up, pure: what a source answers to a follower's position, where two histories part, how far a
// follower lags, and the messages that carry this. The drivers are catchup/source.hpp and catchup/follower.hpp.
//
//   follower                                     source
//   subscribe(have, kept from, mode)  ------->   decides by the chain at have.index:
//                                     <-------   accepted(from)                        have is in the source's history
//                                     <-------   probe(index) ... probe_reply          search for the last common position
//                                     <-------   diverged(common)                      the follower repairs, subscribes anew
//                                     <-------   snapshot, snapshot_chunk*, snapshot_end   what follows is not kept any more
//   ack(durable)   <- - - - - - - - - - - - - -  records*, heartbeat*                  push
//   fetch(limit, wait)                ------->   records or heartbeat                  pull: one answer a fetch
#pragma once

#include "lockstep/core/bytes.hpp"
#include "lockstep/core/endian.hpp"
#include "lockstep/core/ids.hpp"

#include <array>
#include <chrono>
#include <cstdint>
#include <optional>
#include <span>

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
  position have;             ///< the follower's last durable record
  index_t base = 0;          ///< the index before the first record that the follower keeps: what it can answer probes for
  catchup::mode mode = mode::push;

  [[nodiscard]] auto encode() const noexcept {
    return words<5>{{have.epoch, have.index, have.chain, base, static_cast<std::uint64_t>(mode)}}.encode();
  }
  static std::optional<subscribe_message> decode(bytes_view bytes) noexcept {
    const auto raw = words<5>::decode(bytes);
    if (!raw || raw->values[4] > 1 || raw->values[3] > raw->values[1]) return std::nullopt;
    return subscribe_message{{raw->values[0], raw->values[1], raw->values[2]},
                             raw->values[3],
                             static_cast<catchup::mode>(raw->values[4])};
  }
};

/// ack, accepted, probe_reply, diverged: one position. snapshot, snapshot_end: see there.
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
  std::uint64_t wait_ns = 0;   ///< long poll: how long the source may hold its answer back while it has no records

  [[nodiscard]] auto encode() const noexcept { return words<2>{{max_bytes, wait_ns}}.encode(); }
  static std::optional<fetch_message> decode(bytes_view bytes) noexcept {
    const auto raw = words<2>::decode(bytes);
    if (!raw) return std::nullopt;
    return fetch_message{raw->values[0], raw->values[1]};
  }
};

/// Announces a snapshot of `size` bytes that stands for all records up to `upto`.
struct snapshot_message {
  position upto;
  std::uint64_t size = 0;

  [[nodiscard]] auto encode() const noexcept { return words<4>{{upto.epoch, upto.index, upto.chain, size}}.encode(); }
  static std::optional<snapshot_message> decode(bytes_view bytes) noexcept {
    const auto raw = words<4>::decode(bytes);
    if (!raw) return std::nullopt;
    return snapshot_message{{raw->values[0], raw->values[1], raw->values[2]}, raw->values[3]};
  }
};

struct heartbeat_message {
  position last;                ///< the source's last record that followers can have
  std::uint64_t clock_ns = 0;   ///< the source's wall clock

  [[nodiscard]] auto encode() const noexcept {
    return words<4>{{last.epoch, last.index, last.chain, clock_ns}}.encode();
  }
  static std::optional<heartbeat_message> decode(bytes_view bytes) noexcept {
    const auto raw = words<4>::decode(bytes);
    if (!raw) return std::nullopt;
    return heartbeat_message{{raw->values[0], raw->values[1], raw->values[2]}, raw->values[3]};
  }
};

/// Finds the last index in [lowest, highest] at which two histories agree, by bisection: histories that agree at one
/// position agree at all before it.
class divergence_search {
 public:
  divergence_search(index_t lowest, index_t highest) noexcept : lowest_(lowest), differs_from_(highest + 1) {}

  /// The index to compare next; nothing when the search has ended.
  [[nodiscard]] std::optional<index_t> next_probe() const noexcept {
    const index_t agreed_end = agreed_ ? *agreed_ + 1 : lowest_;
    if (agreed_end >= differs_from_) return std::nullopt;
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
  index_t lowest = 0;   ///< search: the first index that both still know
  index_t highest = 0;  ///< search: the last index that both have
};

/// Decides from the chain at the follower's position.
/// @param base, last  the first position that the source knows, and its last record that followers can have.
/// @param own         the source's position at subscription.have.index; nothing when it has none there.
inline decision decide(const subscribe_message& subscription, const position& base, const position& last,
                       const std::optional<position>& own) noexcept {
  decision result;
  if (own && *own == subscription.have && subscription.have.index >= base.index) return result;
  result.lowest = subscription.base > base.index ? subscription.base : base.index;
  result.highest = subscription.have.index < last.index ? subscription.have.index : last.index;
  // An index that was compared already need not be asked for.
  if (own && result.highest == subscription.have.index && result.highest > result.lowest) --result.highest;
  result.answer = result.lowest > result.highest ? answer::snapshot_required : answer::search;
  return result;
}

/// How far a follower lags behind its source, by the source's own clock: right when nothing is written, and never
/// negative, however the two machines' clocks differ.
class lag_tracker {
 public:
  /// @param source_last  the last index that the heartbeat names.
  /// @param clock        the source's clock in the heartbeat.
  void heard(index_t source_last, std::chrono::nanoseconds clock) noexcept {
    source_last_ = source_last;
    if (clock > clock_) clock_ = clock;
    if (have_ >= source_last_) {
      behind_since_.reset();
    } else if (!behind_since_) {
      behind_since_ = clock_;
    }
  }

  /// The follower has made everything up to `index` durable.
  void has(index_t index) noexcept {
    have_ = index;
    if (have_ >= source_last_) behind_since_.reset();
  }

  [[nodiscard]] std::uint64_t records() const noexcept { return source_last_ > have_ ? source_last_ - have_ : 0; }

  /// For how long the source has had records that the follower has not.
  [[nodiscard]] std::chrono::nanoseconds time() const noexcept {
    return behind_since_ ? clock_ - *behind_since_ : std::chrono::nanoseconds(0);
  }

  [[nodiscard]] index_t source_last() const noexcept { return source_last_; }

 private:
  index_t have_ = 0;
  index_t source_last_ = 0;
  std::chrono::nanoseconds clock_{0};
  std::optional<std::chrono::nanoseconds> behind_since_;
};

}  // namespace lockstep::catchup
