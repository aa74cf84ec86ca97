// durable_view: the durable bytes of a simulated disk, as check::durability_oracle asks for them.
#pragma once

#include "lockstep/sim/disk.hpp"

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
  std::size_t read(const std::string& path, std::uint64_t offset, mutable_bytes into) const {
    return disk_.read_durable(path, offset, into);
  }

 private:
  const disk& disk_;
};

}  // namespace lockstep::sim
