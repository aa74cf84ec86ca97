// durable_view: the durable files of a simulated disk, as check::durability_oracle asks for them.
#pragma once

#include "lockstep/sim/disk.hpp"

#include <cstdint>
#include <string>
#include <vector>

namespace lockstep::sim {

/// A check::durable_source. The disk outlives it.
class durable_view {
 public:
  explicit durable_view(const disk& of) : disk_(of) {}
  [[nodiscard]] std::vector<std::string> list(const std::string& directory) const {
    return disk_.durable_names(directory);
  }
  [[nodiscard]] std::uint64_t version(const std::string& directory) const { return disk_.durable_version(directory); }
  [[nodiscard]] durable_file open(const std::string& path) const { return disk_.open_durable(path); }

 private:
  const disk& disk_;
};

}  // namespace lockstep::sim
