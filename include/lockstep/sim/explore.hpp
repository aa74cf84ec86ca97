// explore: a scenario, seed after seed, on all processors, until one fails; and then the few faults that it takes.
//
//   const sim::scenario mine{"mine", "what it shows", &my_scenario};
//   const sim::exploration found = sim::explore(mine, options);
//   if (found.failure) std::cout << sim::explain(*found.failure);
#pragma once

#include "lockstep/sim/simulation.hpp"

#include <atomic>
#include <condition_variable>
#include <map>
#include <mutex>
#include <thread>

namespace lockstep::sim {

struct scenario {
  std::string name;
  std::string what;  ///< one sentence
  std::function<void(simulation&)> run;
};

struct run_result {
  std::uint64_t seed = 0;
  std::optional<std::string> failure;  ///< what was wrong
  std::uint64_t trace_hash = 0;
  std::uint64_t events = 0;
  duration virtual_time{0};
  std::vector<fault_event> plan;  ///< what was to happen, all of it
  std::vector<timeline_entry> timeline;
  std::vector<std::string> nodes;
};

/// Runs one seed. An exception that leaves the scenario is its failure.
inline run_result run_seed(const scenario& of, const run_options& options) {
  run_result result;
  result.seed = options.seed;
  simulation run(options);
  try {
    of.run(run);
  } catch (const std::exception& wrong) {
    result.failure = wrong.what();
  }
  result.trace_hash = run.in().trace_hash();
  result.events = run.in().events();
  result.virtual_time = run.in().elapsed();
  result.plan = run.plan();
  result.timeline = run.in().timeline();
  for (const auto& each : run.in().nodes()) result.nodes.push_back(each->name);
  return result;
}

struct explore_options {
  explore_options() {}

  std::uint64_t first_seed = 1;
  std::uint64_t seeds = 1000;
  std::size_t jobs = 0;            ///< threads; 0: one a processor
  fault_set without;
  bool stop_at_failure = true;
  double run_twice = 0.01;         ///< the part of the seeds that is run a second time, which must be the same run
  bool shrink = true;
  std::function<void()> on_thread;  ///< called on each thread before its first seed
  /// Told now and then, on one of the threads.
  std::function<void(std::uint64_t done, double seeds_a_minute)> progress;
};

struct shrunk_failure {
  run_result full;                    ///< the failing seed, with a timeline
  std::vector<std::uint32_t> only;    ///< the numbers of the faults that it takes
  run_result small;                   ///< the run with these
  std::size_t runs = 0;               ///< how many it took to find them
};

struct exploration {
  std::uint64_t seeds = 0;
  std::uint64_t failures = 0;
  std::optional<std::uint64_t> first_failing_seed;
  std::optional<shrunk_failure> failure;
  std::uint64_t events = 0;
  duration virtual_time{0};
  double seconds = 0;
  std::uint64_t trace_hash = 0;  ///< over all seeds in order
  std::uint64_t reruns = 0;
  std::vector<std::uint64_t> different;  ///< seeds whose second run was another one
};

/// The smallest set of the faults of `failed` found that still fails, by delta debugging (Zeller and Hildebrandt,
/// "Simplifying and Isolating Failure-Inducing Input", TSE 2002).
shrunk_failure shrink(const scenario& of, const run_options& options, const run_result& failed,
                      std::size_t most_runs = 400);

exploration explore(const scenario& of, const explore_options& options);

// ----------------------------------------------------------------------------------------------------------------------

inline shrunk_failure shrink(const scenario& of, const run_options& options, const run_result& failed,
                             std::size_t most_runs) {
  shrunk_failure found;
  for (const fault_event& each : failed.plan) found.only.push_back(each.number);
  if (options.only) found.only = *options.only;
  const auto fails = [&](const std::vector<std::uint32_t>& with) {
    ++found.runs;
    run_options trying = options;
    trying.only = with;
    return run_seed(of, trying).failure.has_value();
  };
  if (fails({})) found.only.clear();
  std::size_t parts = 2;
  while (found.only.size() > 1 && found.runs < most_runs) {
    const std::size_t size = (found.only.size() + parts - 1) / parts;
    bool smaller = false;
    for (std::size_t at = 0; at < found.only.size() && found.runs < most_runs; at += size) {
      std::vector<std::uint32_t> rest = found.only;
      const auto first = rest.begin() + static_cast<std::ptrdiff_t>(at);
      rest.erase(first, first + static_cast<std::ptrdiff_t>(std::min(size, rest.size() - at)));
      if (!fails(rest)) continue;
      found.only = std::move(rest);
      smaller = true;
      break;
    }
    if (smaller) {
      parts = std::max<std::size_t>(2, parts - 1);
    } else if (size == 1) {
      break;
    } else {
      parts = std::min(found.only.size(), parts * 2);
    }
  }
  run_options last = options;
  last.only = found.only;
  last.keep_timeline = true;
  found.small = run_seed(of, last);
  last.only = options.only;
  found.full = run_seed(of, last);
  return found;
}

inline exploration explore(const scenario& of, const explore_options& options) {
  exploration all;
  std::mutex mutex;
  std::map<std::uint64_t, run_result> waiting;  // finished out of order
  std::uint64_t next_in_order = options.first_seed;
  std::atomic<std::uint64_t> next = options.first_seed;
  std::atomic<bool> stop = false;
  const std::uint64_t end = options.first_seed + options.seeds;
  const auto began = std::chrono::steady_clock::now();
  auto told = began;

  const auto take = [&](run_result&& result) {
    const std::lock_guard lock(mutex);
    waiting.emplace(result.seed, std::move(result));
    while (!waiting.empty() && waiting.begin()->first == next_in_order) {
      const run_result each = std::move(waiting.begin()->second);
      waiting.erase(waiting.begin());
      ++next_in_order;
      if (options.stop_at_failure && all.first_failing_seed) continue;  // of a seed behind it
      ++all.seeds;
      all.events += each.events;
      all.virtual_time += each.virtual_time;
      all.trace_hash = (all.trace_hash ^ each.trace_hash) * 0x9e3779b97f4a7c15u;
      all.trace_hash ^= all.trace_hash >> 29;
      if (!each.failure) continue;
      ++all.failures;
      if (!all.first_failing_seed) all.first_failing_seed = each.seed;
      if (options.stop_at_failure) stop = true;
    }
    const auto now = std::chrono::steady_clock::now();
    if (options.progress && now - told > std::chrono::seconds(2)) {
      told = now;
      options.progress(all.seeds, static_cast<double>(all.seeds) * 60 / std::chrono::duration<double>(now - began).count());
    }
  };
  const auto work = [&] {
    if (options.on_thread) options.on_thread();
    while (!stop) {
      const std::uint64_t seed = next++;
      if (seed >= end) return;
      run_options one;
      one.seed = seed;
      one.without = options.without;
      run_result result = run_seed(of, one);
      if (random_stream::of(seed, "run twice").chance(options.run_twice)) {
        const run_result again = run_seed(of, one);
        const std::lock_guard lock(mutex);
        ++all.reruns;
        if (again.trace_hash != result.trace_hash || again.failure != result.failure) all.different.push_back(seed);
      }
      take(std::move(result));
    }
  };

  const std::size_t jobs = options.jobs != 0 ? options.jobs : std::max(1u, std::thread::hardware_concurrency());
  std::vector<std::thread> threads;
  for (std::size_t i = 1; i < jobs; ++i) threads.emplace_back(work);
  work();
  for (std::thread& each : threads) each.join();
  all.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - began).count();

  if (all.first_failing_seed && options.shrink) {
    run_options failing;
    failing.seed = *all.first_failing_seed;
    failing.without = options.without;
    const run_result failed = run_seed(of, failing);
    if (failed.failure) all.failure = shrink(of, failing, failed);
  }
  return all;
}

}  // namespace lockstep::sim
