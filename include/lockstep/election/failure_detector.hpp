// failure_detector: which of the nodes that ought to send heartbeats seem to be gone, and why. Pure: no clock, no
// timer.
//
//   election::failure_detector detector({.heartbeat_interval = 200ms, .by = timeout_policy{1s}}, now);
//   detector.watch(leader, now);
//   detector.beat(leader, now);                    // its heartbeat came; contact() for anything else from it
//   detector.tick(now);                            // at detector.deadline()
//   if (const auto why = detector.suspects(leader)) core.suspect(leader, describe(*why), now);
//
// Two policies. timeout: who is silent for so long. phi_accrual (Hayashibara, Defago, Yared and Katayama, "The phi
// Accrual Failure Detector", SRDS 2004): who is silent for longer than is plausible, by the intervals at which its
// heartbeats have come: phi is -log10 of the chance that one comes yet, were the intervals normally distributed.
//
// It promises: who is silent for long enough is suspected at the next tick(). After a pause of this process itself,
// which it knows by a deadline() that was missed by far, everybody gets the whole time anew, and the pause is part of
// no interval. Memory is bounded: `window` intervals for each watched node.
//
// It does not promise that whoever is suspected has failed: a late heartbeat is a lost one for as long as it is late.
// A pause not longer than `pause_tolerance` is not noticed, and counts as silence. Who sends less often than
// `heartbeat_interval` says may never be trusted for long: an interval that would be suspected is none to learn from.
#pragma once

#include "lockstep/core/ids.hpp"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <numbers>
#include <optional>
#include <string>
#include <utility>
#include <variant>
#include <vector>

namespace lockstep::election {

struct timeout_policy {
  std::chrono::nanoseconds timeout = std::chrono::milliseconds(1000);
};

struct phi_accrual_policy {
  /// Suspected from this phi on. At 1, one in 10 heartbeats that come is suspected before it does, at 8 one in 100
  /// million, were their intervals normally distributed.
  double threshold = 8;
  std::size_t window = 100;  ///< the last intervals, at least 2
  /// phi grows with the silence in units of the deviation of the intervals, which counts for no less than this: however
  /// regular heartbeats are, one may be late.
  std::chrono::nanoseconds min_deviation = std::chrono::milliseconds(50);
};

struct detector_options {
  std::chrono::nanoseconds heartbeat_interval = std::chrono::milliseconds(100);  ///< of all who are watched
  std::variant<timeout_policy, phi_accrual_policy> by;
  /// A process that misses a deadline() by more than this has stood still.
  std::chrono::nanoseconds pause_tolerance = std::chrono::milliseconds(200);
};

/// Why a node is suspected. Times are of the clock that the detector is given.
struct suspicion {
  std::optional<std::chrono::nanoseconds> last_contact;  ///< nothing: not since it is watched
  std::chrono::nanoseconds silence{};                    ///< since then, since it is watched, or since the own pause
  std::uint64_t missed_beats = 0;                        ///< heartbeats that should have come in the silence
  double phi = 0;                                        ///< 0 by a timeout_policy
  std::chrono::nanoseconds own_pause{};  ///< how long this process stood still since last_contact; not in `silence`
};

/// For people: "silent for 1250 ms, 12 heartbeats missed".
std::string describe(const suspicion& of);

/// What phi never exceeds.
inline constexpr double most_phi = 1000;

/// phi after a `silence`, by intervals of this mean and standard deviation, all in one unit. In [0, most_phi]; it never
/// falls as the silence grows. @param deviation  greater than 0.
double phi_of(double silence, double mean, double deviation) noexcept;

/// See the top of this file. Thread safety: none. Only watch() allocates.
class failure_detector {
 public:
  using instant = std::chrono::nanoseconds;

  failure_detector(const detector_options& options, instant now)
      : options_(options), now_(now), deadline_(now + options.heartbeat_interval / 2) {}

  // --- inputs ---

  /// From now on `id` should send heartbeats. Who is watched already is as if never heard from.
  void watch(node_id id, instant now);
  void forget(node_id id);
  /// A heartbeat of `id` has come; or anything else that shows that it lives. Ignored for who is not watched.
  void beat(node_id id, instant now);
  void contact(node_id id, instant now);
  /// `now` has come, which is deadline() or any other time.
  void tick(instant now);

  // --- what is so, at the last input ---

  [[nodiscard]] bool watches(node_id id) const noexcept { return find(id) != nullptr; }
  /// Nothing for who is not watched.
  [[nodiscard]] std::optional<suspicion> suspects(node_id id) const;
  /// 0 for who is not watched, and by a timeout_policy.
  [[nodiscard]] double phi(node_id id) const;
  /// When tick() is to be called: twice a heartbeat interval.
  [[nodiscard]] instant deadline() const noexcept { return deadline_; }

 private:
  struct watched {
    node_id id = 0;
    instant silent_since{};
    std::optional<instant> last_contact;
    std::optional<instant> last_beat;  // where the next interval begins
    instant own_pause{};
    std::vector<double> intervals;  // a ring, in nanoseconds; empty by a timeout_policy
    std::size_t next = 0;           // in the ring
    std::size_t count = 0;

    void add(double interval);
  };

  void begin(instant now);
  void heard(watched& from);
  [[nodiscard]] const watched* find(node_id id) const noexcept;
  [[nodiscard]] watched* find(node_id id) noexcept { return const_cast<watched*>(std::as_const(*this).find(id)); }
  [[nodiscard]] instant silence(const watched& of) const noexcept { return now_ - of.silent_since; }
  [[nodiscard]] bool is_too_long(instant silence, const watched& of) const;
  [[nodiscard]] double phi(instant silence, const watched& of) const;

  const detector_options options_;
  instant now_;
  instant deadline_;
  std::vector<watched> watched_;
};

// --- Implementation ---------------------------------------------------------------------------------------------

inline std::string describe(const suspicion& of) {
  const auto ms = [](std::chrono::nanoseconds time) {
    return std::to_string(std::chrono::duration_cast<std::chrono::milliseconds>(time).count()) + " ms";
  };
  std::string text = of.last_contact ? "silent for " : "never heard from, for ";
  text += ms(of.silence) + ", " + std::to_string(of.missed_beats) + " heartbeats missed";
  if (of.phi > 0) {
    char number[16];
    std::snprintf(number, sizeof number, "%.1f", of.phi);
    text += std::string(", phi ") + number;
  }
  if (of.own_pause.count() > 0) text += ", after an own pause of " + ms(of.own_pause);
  return text;
}

inline double phi_of(double silence, double mean, double deviation) noexcept {
  const double z = (silence - mean) / (deviation * std::numbers::sqrt2);
  // erfc(z) / 2 is how likely a longer interval is. It is 0 from z = 27 on, so that its logarithm is taken by its
  // asymptotic series there.
  const double phi = z < 25 ? -std::log10(std::erfc(z) / 2)
                            : z * z * std::numbers::log10e + std::log10(2 * z / std::numbers::inv_sqrtpi) -
                                  std::log10(1 - 1 / (2 * z * z));
  return std::min(std::max(0.0, phi), most_phi);  // and 0 where it is -0
}

inline void failure_detector::watched::add(double interval) {
  if (intervals.empty()) return;
  intervals[next] = interval;
  next = (next + 1) % intervals.size();
  count = std::min(count + 1, intervals.size());
}

// Whoever stood still could not hear anybody.
inline void failure_detector::begin(instant now) {
  now_ = std::max(now_, now);
  if (now_ - deadline_ <= options_.pause_tolerance) return;
  const instant pause = now_ - deadline_;
  deadline_ = now_ + options_.heartbeat_interval / 2;
  for (watched& each : watched_) {
    each.silent_since = now_;
    each.last_beat.reset();
    each.own_pause += pause;
  }
}

inline void failure_detector::watch(node_id id, instant now) {
  begin(now);
  forget(id);
  watched& added = watched_.emplace_back();
  added.id = id;
  added.silent_since = now_;
  const auto* const accrual = std::get_if<phi_accrual_policy>(&options_.by);
  if (!accrual) return;
  added.intervals.resize(std::max<std::size_t>(accrual->window, 2));
  // Until it is known better: heartbeats as they should come, with a deviation of a quarter.
  const auto expected = static_cast<double>(options_.heartbeat_interval.count());
  added.add(expected * 0.75);
  added.add(expected * 1.25);
}

inline void failure_detector::forget(node_id id) {
  std::erase_if(watched_, [id](const watched& each) { return each.id == id; });
}

inline void failure_detector::beat(node_id id, instant now) {
  begin(now);
  watched* const from = find(id);
  if (!from) return;
  const instant interval = now_ - from->last_beat.value_or(now_);
  if (from->last_beat && !is_too_long(interval, *from)) from->add(static_cast<double>(interval.count()));
  from->last_beat = now_;
  heard(*from);
}

inline void failure_detector::contact(node_id id, instant now) {
  begin(now);
  if (watched* const from = find(id)) heard(*from);
}

inline void failure_detector::tick(instant now) {
  begin(now);
  deadline_ = now_ + options_.heartbeat_interval / 2;
}

inline void failure_detector::heard(watched& from) {
  from.silent_since = now_;
  from.last_contact = now_;
  from.own_pause = {};
}

inline std::optional<suspicion> failure_detector::suspects(node_id id) const {
  const watched* const of = find(id);
  if (!of || !is_too_long(silence(*of), *of)) return std::nullopt;
  suspicion why;
  why.last_contact = of->last_contact;
  why.silence = silence(*of);
  why.missed_beats = static_cast<std::uint64_t>(why.silence / options_.heartbeat_interval);
  why.phi = phi(why.silence, *of);
  why.own_pause = of->own_pause;
  return why;
}

inline double failure_detector::phi(node_id id) const {
  const watched* const of = find(id);
  return of ? phi(silence(*of), *of) : 0;
}

inline bool failure_detector::is_too_long(instant silence, const watched& of) const {
  if (const auto* const fixed = std::get_if<timeout_policy>(&options_.by)) return silence >= fixed->timeout;
  return phi(silence, of) >= std::min(std::get<phi_accrual_policy>(options_.by).threshold, most_phi);
}

inline double failure_detector::phi(instant silence, const watched& of) const {
  const auto* const accrual = std::get_if<phi_accrual_policy>(&options_.by);
  if (!accrual) return 0;
  const auto n = static_cast<double>(of.count);
  double mean = 0;
  for (std::size_t i = 0; i < of.count; ++i) mean += of.intervals[i] / n;
  double variance = 0;
  for (std::size_t i = 0; i < of.count; ++i) variance += (of.intervals[i] - mean) * (of.intervals[i] - mean) / n;
  const double least = std::max(static_cast<double>(accrual->min_deviation.count()), 1.0);
  return phi_of(static_cast<double>(silence.count()), mean, std::max(std::sqrt(variance), least));
}

inline auto failure_detector::find(node_id id) const noexcept -> const watched* {
  const auto at = std::find_if(watched_.begin(), watched_.end(), [id](const watched& each) { return each.id == id; });
  return at != watched_.end() ? &*at : nullptr;
}

}  // namespace lockstep::election
