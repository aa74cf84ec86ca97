// durable_view: the durable files of a simulated disk, as check::durability_oracle asks for them.
#pragma once

#include "lockstep/sim/disk.hpp"

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace lockstep::sim {

/// A check::durable_source. The disk outlives it.
class durable_view {
 public:
  explicit durable_view(const disk& of) : disk_(of) {}
  [[nodiscard]] std::vector<std::pair<std::string, durable_file>> list(const std::string& directory) const {
    return disk_.durable_files(directory);
  }
  [[nodiscard]] std::uint64_t version(const std::string& directory) const { return disk_.durable_version(directory); }

 private:
  const disk& disk_;
};

}  // namespace lockstep::sim
