// Groups of Raft's pure cores, without disks or connections: tests/raft/chaos.hpp has what goes wrong there and which
// rules hold all the same.
#include "scenarios.hpp"

#include "../raft/chaos.hpp"

namespace lockstep::scenarios {
namespace {

void run_cores(sim::simulation& of) {
  sim::random_stream random = of.random("raft_core");
  raft::test::chaos([&random] { return random(); }).run(10'000);
}

}  // namespace

sim::scenario raft_cores() {
  return {"raft_core", "groups of Raft cores elect, replicate, read and change", &run_cores};
}

}  // namespace lockstep::scenarios
