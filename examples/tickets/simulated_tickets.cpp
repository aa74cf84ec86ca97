#include "tickets.hpp"

#include <lockstep/sim.hpp>
#include <lockstep/sim/guard.hpp>

#include <iostream>
#include <set>

using namespace tickets;

void draw_tickets(sim::simulation& run, bool careless) {
  const auto drawn = std::make_shared<std::set<std::uint64_t>>();
  const auto take = [drawn](std::uint64_t number) {
    sim::simulation::require(drawn->insert(number).second, "ticket " + std::to_string(number) + " was drawn twice");
  };
  const address desk("office", 80);
  run.add("office", [=](sim::env& env) { return office(env, "/tickets", desk, careless); });
  run.add("ann", [=](sim::env& env) { return visit(env, desk, 1'000'000, take); });
  run.add("bob", [=](sim::env& env) { return visit(env, desk, 1'000'000, take); });
  sim::fault_plan_options faults;
  faults.lasts = 10s;
  faults.longest = 1s;
  faults.families = sim::fault_set::all().without(sim::fault_family::sync_failure);  // which ends a log for good
  run.chaos(faults);
  run.calm();
  const std::size_t before = drawn->size();
  run.require(run.in().run_until([&] { return drawn->size() > before; }, 20s), "nobody got a ticket after the faults");
}

int main(int argc, char** argv) {
  const bool careless = argc == 2 && std::string_view(argv[1]) == "careless";
  sim::explore_options options;
  options.seeds = 200;
  const auto found = sim::explore({"tickets", "", [=](auto& run) { draw_tickets(run, careless); }}, options);
  std::cout << found.seeds << " seeds, " << found.failures << " failed, " << found.different.size()
            << " ran differently the second time\n";
  if (found.failure) std::cout << sim::explain(*found.failure, 16);
  return found.failure || !found.different.empty() ? 1 : 0;
}
