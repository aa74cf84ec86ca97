// random_stream: the simulator's own randomness, the same with every compiler and standard library.
//
// Each domain of chance (the scheduler, the network, each kind of fault) draws from a stream of its own, so that
// switching one off does not move what the others draw.
#pragma once

#include <cstdint>
#include <string_view>

namespace lockstep::sim {

/// splitmix64 (Steele, Lea, Flood, "Fast Splittable Pseudorandom Number Generators", OOPSLA 2014).
class random_stream {
 public:
  explicit random_stream(std::uint64_t seed) noexcept : state_(seed) {}

  std::uint64_t operator()() noexcept { return mixed(state_ += 0x9e3779b97f4a7c15u); }

  /// Uniform in [0, bound); 0 for a bound of 0. By multiplication (Lemire 2019); its bias is below bound / 2^64.
  std::uint64_t below(std::uint64_t bound) noexcept {
    __extension__ using wide = unsigned __int128;
    return static_cast<std::uint64_t>((static_cast<wide>((*this)()) * bound) >> 64);
  }
  /// Uniform in [least, most].
  std::uint64_t between(std::uint64_t least, std::uint64_t most) noexcept { return least + below(most - least + 1); }

  /// Uniform in [0, 1).
  double unit() noexcept { return static_cast<double>((*this)() >> 11) * 0x1p-53; }
  /// True with probability `p`.
  bool chance(double p) noexcept { return unit() < p; }

  /// A stream that depends on this one's seed and the name alone, and not on what was drawn before from others.
  [[nodiscard]] static random_stream of(std::uint64_t seed, std::string_view name) noexcept {
    std::uint64_t hash = 0xcbf29ce484222325u;  // FNV-1a
    for (const char each : name) hash = (hash ^ static_cast<unsigned char>(each)) * 0x100000001b3u;
    return random_stream(mixed(mixed(seed) ^ hash));
  }

 private:
  static constexpr std::uint64_t mixed(std::uint64_t z) noexcept {
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
  }

  std::uint64_t state_;
};

}  // namespace lockstep::sim
