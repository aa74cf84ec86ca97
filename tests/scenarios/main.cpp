// sim_run: runs the scenarios under the simulator. `sim_run --help`.
#include "scenarios.hpp"

#include <CLI/CLI.hpp>

#include <iostream>

namespace lockstep::scenarios {
namespace {

struct command {
  std::string scenario;
  std::uint64_t seeds = 1000;
  std::uint64_t from = 1;
  std::size_t jobs = 0;
};

int explore(const sim::scenario& of, const command& asked) {
  sim::explore_options options;
  options.first_seed = asked.from;
  options.seeds = asked.seeds;
  options.jobs = asked.jobs;
  const sim::exploration found = sim::explore(of, options);
  const double minutes = found.seconds / 60;
  std::cout << found.seeds << " seeds, " << found.failures << " failures, "
            << static_cast<double>(found.seeds) / minutes << " seeds/minute, "
            << static_cast<double>(found.events) / found.seconds << " events/s, "
            << std::chrono::duration<double>(found.virtual_time).count() / found.seconds << " virtual s/s, "
            << found.reruns << " reruns, " << found.different.size() << " different, hash " << std::hex
            << found.trace_hash << std::dec << "\n";
  if (found.failure) {
    const auto& small = found.failure->small;
    for (const auto& each : small.timeline) {
      if (each.kind == "message") continue;
      std::cout << std::chrono::duration<double>(each.at).count() << " " << each.node << " " << each.text << "\n";
    }
    std::cout << "seed " << small.seed << ": " << small.failure.value_or("(full run only) " + found.failure->full.failure.value_or("?"))
              << "\n" << found.failure->only.size() << " of " << small.plan.size() << " faults\n";
  }
  return found.failures == 0 ? 0 : 1;
}

}  // namespace
}  // namespace lockstep::scenarios

int main(int argc, char** argv) {
  using namespace lockstep;
  scenarios::command asked;
  CLI::App app("Runs programs under the deterministic simulator.");
  app.add_option("--scenario", asked.scenario)->required();
  app.add_option("--seeds", asked.seeds);
  app.add_option("--from", asked.from);
  app.add_option("--jobs", asked.jobs);
  CLI11_PARSE(app, argc, argv);
  for (const sim::scenario& each : scenarios::all()) {
    if (each.name == asked.scenario) return scenarios::explore(each, asked);
  }
  return 2;
}
