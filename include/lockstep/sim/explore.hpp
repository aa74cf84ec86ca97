// explore: a scenario, seed after seed, on all processors, until one fails; and then the few faults that it takes.
//
//   const sim::scenario mine{"mine", "what it shows", &my_scenario};
//   const sim::exploration found = sim::explore(mine, options);
//   if (found.failure) std::cout << sim::explain(*found.failure);
//
// A failure is replayed by its seed and the numbers of its faults: run_options{.seed, .only}.
#pragma once

#include "lockstep/sim/simulation.hpp"
#include "lockstep/sim/trace.hpp"

#include <atomic>
#include <map>
#include <mutex>
#include <sstream>
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
  std::vector<fault_event> plan;         ///< what was to happen, all of it
  std::vector<timeline_entry> timeline;  ///< when it was asked for; ends with the failure
  std::vector<std::string> nodes;
};

/// Runs one seed. An exception that leaves the scenario is its failure.
run_result run_seed(const scenario& of, const run_options& options);

/// `failure` without its words that hold a digit: failures of one class count as the same one.
std::string failure_class(std::string_view failure);

/// When shrink() is content with what it has.
struct shrink_limits {
  shrink_limits() {}

  std::size_t runs = 2000;
  std::chrono::nanoseconds time = std::chrono::seconds(40);  ///< of the real clock
};

struct explore_options {
  explore_options() {}

  std::uint64_t first_seed = 1;
  std::uint64_t seeds = 1000;
  std::size_t jobs = 0;                            ///< threads; 0: one a processor
  fault_set without;                               ///< families switched off
  std::optional<std::vector<std::uint32_t>> only;  ///< as in run_options: replays what was shrunk
  bool stop_at_failure = true;
  double run_twice = 0.01;  ///< the part of the seeds that is run a second time, which must be the same run
  bool shrink = true;
  shrink_limits limits;
  std::function<void()> on_thread;  ///< called on each thread before its first seed; one of them is the caller's
  /// Told every now and then, on one of the threads.
  std::function<void(std::uint64_t done, double seeds_a_minute)> progress;
};

struct shrunk_failure {
  run_result full;                  ///< the failing seed
  std::vector<std::uint32_t> only;  ///< the numbers of the faults that it takes, rising
  run_result small;                 ///< the run with these, with a timeline
  std::size_t runs = 0;             ///< how many it took to find them
};

struct exploration {
  std::uint64_t seeds = 0;
  std::uint64_t failures = 0;
  std::optional<std::uint64_t> first_failing_seed;
  std::optional<shrunk_failure> failure;  ///< of that seed
  std::uint64_t events = 0;
  duration virtual_time{0};
  double seconds = 0;            ///< of the real clock, without shrinking
  std::uint64_t trace_hash = 0;  ///< over all seeds in order
  std::uint64_t reruns = 0;
  std::vector<std::uint64_t> different;  ///< seeds whose second run was another one: something is not deterministic
};

/// A small set of the faults of `failed` that fails in the same way: without those that come later, without whole
/// families, with the last ones only, then by delta debugging (Zeller and Hildebrandt, "Simplifying and Isolating
/// Failure-Inducing Input", TSE 2002).
shrunk_failure shrink(const scenario& of, const run_options& options, const run_result& failed,
                      const shrink_limits& limits = {});

/// The first failing seed is the lowest one, and nothing but the times depends on how many jobs there are.
exploration explore(const scenario& of, const explore_options& options);

/// The families of the faults that it takes.
fault_set families_of(const shrunk_failure& failure);

/// For a person: what failed, the last lines of what happened, and how few faults it takes.
std::string explain(const shrunk_failure& failure, std::size_t most_lines = 60);

// ----------------------------------------------------------------------------------------------------------------------

inline run_result run_seed(const scenario& of, const run_options& options) {
  run_result result;
  result.seed = options.seed;
  simulation run(options);
  try {
    of.run(run);
  } catch (const std::exception& wrong) {
    result.failure = wrong.what();
  } catch (...) {
    result.failure = "an exception that is no std::exception";
  }
  if (result.failure) {
    timeline_entry last;
    last.kind = "failure";
    last.text = *result.failure;
    run.in().note(std::move(last));
  }
  result.trace_hash = run.in().trace_hash();
  result.events = run.in().events();
  result.virtual_time = run.in().elapsed();
  result.plan = run.plan();
  result.timeline = run.in().timeline();
  for (const auto& each : run.in().nodes()) result.nodes.push_back(each->name);
  return result;
}

inline std::string failure_class(std::string_view failure) {
  const auto in_word = [](char c) {
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_';
  };
  std::string kept;
  for (std::size_t at = 0; at < failure.size();) {
    std::size_t end = at;
    while (end < failure.size() && in_word(failure[end])) ++end;
    const std::string_view word = failure.substr(at, end - at);
    if (word.find_first_of("0123456789") == word.npos) kept += word;
    if (end < failure.size()) kept += failure[end];
    at = end + 1;
  }
  return kept;
}

namespace detail {

/// Leaves out faults as long as the failure stays.
class fault_shrinker {
 public:
  using numbers = std::vector<std::uint32_t>;

  fault_shrinker(const scenario& of, const run_options& options, const run_result& failed, const shrink_limits& limits)
      : of_(of),
        options_(options),
        plan_(failed.plan),
        class_(failure_class(failed.failure.value_or(std::string()))),
        limits_(limits),
        began_(std::chrono::steady_clock::now()) {
    const auto& only = options.only;
    std::erase_if(plan_, [&only](const fault_event& each) {
      return only && std::find(only->begin(), only->end(), each.number) == only->end();
    });
    for (const fault_event& each : plan_) kept_.push_back(each.number);
    leave_out_after(failed.virtual_time);
  }

  [[nodiscard]] const numbers& kept() const noexcept { return kept_; }
  [[nodiscard]] std::size_t runs() const noexcept { return runs_; }

  void shrink() {
    if (kept_.empty() || try_with({})) return;
    keep_last_ones();
    leave_out_families();
    leave_out_parts();
    // A left out fault changes all that comes after it: what was needed before may not be needed now, and a few other
    // faults may do as well.
    const std::size_t goal = std::max<std::size_t>(1, plan_.size() / 10);
    random_stream random = random_stream::of(options_.seed, "shrink");
    while (kept_.size() > goal && !exhausted()) {
      if (try_with(random.chance(0.3) ? part_of_kept(random) : part_of_plan(random, goal))) leave_out_parts();
    }
  }

 private:
  [[nodiscard]] bool exhausted() const {
    return runs_ >= limits_.runs || std::chrono::steady_clock::now() - began_ >= limits_.time;
  }

  // Keeps `fewer` when it fails in the same way.
  bool try_with(numbers fewer) {
    if (exhausted()) return false;
    ++runs_;
    run_options trying = options_;
    trying.only = fewer;
    const run_result result = run_seed(of_, trying);
    if (!result.failure || failure_class(*result.failure) != class_) return false;
    kept_ = std::move(fewer);
    leave_out_after(result.virtual_time);
    return true;
  }

  // What would have come after the failure did not come: the run is the same one without it.
  void leave_out_after(duration end) {
    std::erase_if(kept_, [&](std::uint32_t number) { return event(number).at > end; });
  }

  [[nodiscard]] const fault_event& event(std::uint32_t number) const {
    return *std::find_if(plan_.begin(), plan_.end(), [&](const fault_event& each) { return each.number == number; });
  }

  void keep_last_ones() {
    for (std::size_t last = 1; last < kept_.size(); last *= 2) {
      if (try_with(numbers(kept_.end() - static_cast<std::ptrdiff_t>(last), kept_.end()))) return;
    }
  }

  void leave_out_families() {
    for (std::size_t i = 0; i < fault_families; ++i) {
      numbers fewer = kept_;
      std::erase_if(fewer, [&](std::uint32_t number) { return event(number).family == static_cast<fault_family>(i); });
      if (fewer.size() < kept_.size()) try_with(std::move(fewer));
    }
  }

  void leave_out_parts() {
    std::size_t parts = 2;
    while (kept_.size() > 1 && !exhausted()) {
      const std::size_t size = (kept_.size() + parts - 1) / parts;
      if (leave_out_one_part(size)) {
        parts = std::max<std::size_t>(2, parts - 1);
      } else if (size == 1) {
        return;
      } else {
        parts = std::min(kept_.size(), parts * 2);
      }
    }
  }

  bool leave_out_one_part(std::size_t size) {
    for (std::size_t at = 0; at < kept_.size(); at += size) {
      numbers rest = kept_;
      const auto first = rest.begin() + static_cast<std::ptrdiff_t>(at);
      rest.erase(first, first + static_cast<std::ptrdiff_t>(std::min(size, rest.size() - at)));
      if (try_with(std::move(rest))) return true;
    }
    return false;
  }

  [[nodiscard]] numbers part_of_kept(random_stream& random) const {
    numbers part;
    for (const std::uint32_t each : kept_) {
      if (random.chance(0.7)) part.push_back(each);
    }
    if (part.size() == kept_.size()) part.erase(part.begin() + static_cast<std::ptrdiff_t>(random.below(part.size())));
    return part;
  }

  [[nodiscard]] numbers part_of_plan(random_stream& random, std::size_t most) const {
    std::size_t wanted = most, left = plan_.size();
    numbers part;
    for (const fault_event& each : plan_) {
      if (random.below(left--) >= wanted) continue;
      part.push_back(each.number);
      --wanted;
    }
    return part;
  }

  const scenario& of_;
  const run_options options_;
  std::vector<fault_event> plan_;  // what may happen
  const std::string class_;
  const shrink_limits limits_;
  const std::chrono::steady_clock::time_point began_;
  numbers kept_;
  std::size_t runs_ = 0;
};

/// Takes the results of the threads and adds them up in the order of the seeds.
class seeds_in_order {
 public:
  struct finished {
    run_result first;
    bool rerun = false;
    bool different = false;
  };

  explicit seeds_in_order(const explore_options& options) : options_(options), next_(options.first_seed) {}

  /// @return false when no more seeds are needed.
  bool take(finished&& one) {
    const std::lock_guard lock(mutex_);
    const std::uint64_t seed = one.first.seed;
    waiting_.emplace(seed, std::move(one));
    while (!done_ && !waiting_.empty() && waiting_.begin()->first == next_) {
      add(waiting_.begin()->second);
      waiting_.erase(waiting_.begin());
      ++next_;
    }
    tell();
    return !done_;
  }

  [[nodiscard]] double seconds() const {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - began_).count();
  }

  exploration all;
  std::optional<run_result> failed;  ///< the first one

 private:
  void add(finished& one) {
    const run_result& run = one.first;
    ++all.seeds;
    all.events += run.events;
    all.virtual_time += run.virtual_time;
    all.trace_hash = (all.trace_hash ^ run.trace_hash) * 0x9e3779b97f4a7c15u;
    all.trace_hash ^= all.trace_hash >> 29;
    if (one.rerun) ++all.reruns;
    if (one.different) all.different.push_back(run.seed);
    if (!run.failure) return;
    ++all.failures;
    if (options_.stop_at_failure) done_ = true;
    if (all.first_failing_seed) return;
    all.first_failing_seed = run.seed;
    failed = std::move(one.first);
  }

  void tell() {
    const auto now = std::chrono::steady_clock::now();
    if (!options_.progress || now - told_ < std::chrono::seconds(1)) return;
    told_ = now;
    options_.progress(all.seeds, static_cast<double>(all.seeds) * 60 / seconds());
  }

  const explore_options& options_;
  const std::chrono::steady_clock::time_point began_ = std::chrono::steady_clock::now();
  std::chrono::steady_clock::time_point told_ = began_;
  std::mutex mutex_;
  std::map<std::uint64_t, finished> waiting_;  // before the one that is next
  std::uint64_t next_;
  bool done_ = false;
};

}  // namespace detail

inline shrunk_failure shrink(const scenario& of, const run_options& options, const run_result& failed,
                             const shrink_limits& limits) {
  detail::fault_shrinker shrinker(of, options, failed, limits);
  shrinker.shrink();
  shrunk_failure found;
  found.full = failed;
  found.only = shrinker.kept();
  std::sort(found.only.begin(), found.only.end());
  found.runs = shrinker.runs();
  run_options last = options;
  last.only = found.only;
  last.keep_timeline = true;
  found.small = run_seed(of, last);
  return found;
}

inline exploration explore(const scenario& of, const explore_options& options) {
  detail::seeds_in_order results(options);
  std::atomic<std::uint64_t> next = options.first_seed;
  std::atomic<bool> stop = false;
  const auto options_of = [&](std::uint64_t seed) {
    run_options one;
    one.seed = seed;
    one.without = options.without;
    one.only = options.only;
    return one;
  };
  const auto work = [&] {
    if (options.on_thread) options.on_thread();
    while (!stop) {
      const std::uint64_t seed = next++;
      if (seed - options.first_seed >= options.seeds) return;
      detail::seeds_in_order::finished one;
      one.first = run_seed(of, options_of(seed));
      one.rerun = random_stream::of(seed, "run twice").chance(options.run_twice);
      if (one.rerun) {
        const run_result again = run_seed(of, options_of(seed));
        one.different = again.trace_hash != one.first.trace_hash || again.failure != one.first.failure;
      }
      if (!results.take(std::move(one))) stop = true;
    }
  };

  const std::size_t jobs = options.jobs != 0 ? options.jobs : std::max(1u, std::thread::hardware_concurrency());
  std::vector<std::thread> threads;
  for (std::size_t i = 1; i < jobs; ++i) threads.emplace_back(work);
  work();
  for (std::thread& each : threads) each.join();
  exploration all = std::move(results.all);
  all.seconds = results.seconds();
  if (results.failed) {
    shrink_limits limits = options.limits;
    if (!options.shrink) limits.runs = 0;
    all.failure = shrink(of, options_of(*all.first_failing_seed), *results.failed, limits);
  }
  return all;
}

inline fault_set families_of(const shrunk_failure& failure) {
  fault_set found;
  for (const fault_event& each : failure.full.plan) {
    if (std::find(failure.only.begin(), failure.only.end(), each.number) != failure.only.end()) {
      found = found.with(each.family);
    }
  }
  return found;
}

inline std::string explain(const shrunk_failure& failure, std::size_t most_lines) {
  std::ostringstream text;
  const run_result& small = failure.small;
  text << "seed " << small.seed << " failed at " << detail::trace_time(small.virtual_time) << ": "
       << small.failure.value_or(failure.full.failure.value_or("not any more: something is not deterministic"))
       << "\n\n";
  text_trace_options options;
  options.most_lines = most_lines;
  write_text_trace(text, small.timeline, options);
  text << "\n" << failure.only.size() << " of " << failure.full.plan.size() << " faults";
  for (std::size_t i = 0; i < failure.only.size(); ++i) text << (i == 0 ? ": " : ", ") << failure.only[i];
  text << "\n";
  return text.str();
}

}  // namespace lockstep::sim
