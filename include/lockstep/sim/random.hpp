// random_stream: the simulator's random numbers, the same on every compiler and machine.
#pragma once

#include <array>
#include <bit>
#include <cstdint>

namespace lockstep::sim {

/// Uniform random bits from one seed (xoshiro256**, seeded by splitmix64; Blackman and Vigna, 2018).
/// Not for secrets. Thread safety: none.
class random_stream {
 public:
  explicit random_stream(std::uint64_t seed) noexcept {
    for (std::uint64_t& each : words_) {
      std::uint64_t mixed = seed += 0x9e3779b97f4a7c15u;
      mixed = (mixed ^ (mixed >> 30)) * 0xbf58476d1ce4e5b9u;
      mixed = (mixed ^ (mixed >> 27)) * 0x94d049bb133111ebu;
      each = mixed ^ (mixed >> 31);
    }
  }

  std::uint64_t operator()() noexcept {
    const std::uint64_t result = std::rotl(words_[1] * 5, 7) * 9;
    const std::uint64_t shifted = words_[1] << 17;
    words_[2] ^= words_[0];
    words_[3] ^= words_[1];
    words_[1] ^= words_[2];
    words_[0] ^= words_[3];
    words_[2] ^= shifted;
    words_[3] = std::rotl(words_[3], 45);
    return result;
  }

  /// A number in [0, bound), each equally likely. `bound` must not be 0.
  std::uint64_t below(std::uint64_t bound) noexcept {
    const std::uint64_t unfair = (0 - bound) % bound;  // so many of the lowest values are one too many
    for (;;) {
      if (const std::uint64_t drawn = (*this)(); drawn >= unfair) return drawn % bound;
    }
  }

  /// True with probability `p`, which is 0 to 1.
  bool chance(double p) noexcept { return static_cast<double>((*this)() >> 11) * 0x1p-53 < p; }

 private:
  std::array<std::uint64_t, 4> words_{};
};

}  // namespace lockstep::sim
