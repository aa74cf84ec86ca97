// backoff: how long to wait before trying again.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstdint>

namespace lockstep {

/// Exponential backoff with "equal jitter" (Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog 2015): the
/// limit doubles with each failure up to a maximum, and a wait is drawn evenly from its upper half, so that many who
/// lost the same peer do not come back together, and nobody comes back at once. No clock, no source of randomness.
class backoff {
 public:
  using duration = std::chrono::nanoseconds;

  /// @param base  the first limit. @param max  the last, at least `base`.
  backoff(duration base, duration max) noexcept : base_(base), max_(std::max(base, max)), limit_(base) {}

  /// The wait after one more failure, within [limit / 2, limit]. @param random  uniform bits.
  duration next(std::uint64_t random) noexcept {
    const duration half = limit_ / 2;
    const auto spread = static_cast<std::uint64_t>((limit_ - half).count()) + 1;
    limit_ = limit_ > max_ / 2 ? max_ : limit_ * 2;
    return half + duration(static_cast<duration::rep>(random % spread));
  }

  /// The next failure is the first again.
  void reset() noexcept { limit_ = base_; }

 private:
  duration base_;
  duration max_;
  duration limit_;
};

}  // namespace lockstep
