// What sim_run was asked, and what it says about it.
#pragma once

#include "lockstep/sim/explore.hpp"

#include <nlohmann/json.hpp>

#include <chrono>
#include <iosfwd>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

namespace lockstep::scenarios {

/// Which seeds of what to run, and with what left out.
struct request {
  std::string scenario;
  std::uint64_t seeds = 1000;
  std::uint64_t from = 1;
  std::size_t jobs = 0;
  std::string mutant;
  std::vector<sim::fault_family> without;
  std::optional<std::vector<std::uint32_t>> only;
  bool keep_going = false;
  double twice = 1;             ///< how many per cent of the seeds are run a second time
  std::string trace_directory;  ///< empty: no traces
  bool json = false;
};

sim::fault_set families(const std::vector<sim::fault_family>& of);
std::vector<std::string> names(const sim::fault_set& families);
/// "a, b and c"
std::string listed(const std::vector<std::string>& words);

/// What a shell takes to run the shrunk failure of `scenario` again; `program` is how this one was called.
std::string replay_command(const std::string& program, const request& asked, const std::string& scenario,
                           const sim::shrunk_failure& failure);

/// A line on how the exploration of `scenario` went.
std::string summary(const std::string& scenario, const sim::exploration& found);

/// The same for programs.
nlohmann::ordered_json to_json(const std::string& scenario, const request& asked, const sim::exploration& found);

/// One object for the objects of all scenarios, which are in it as "scenarios".
nlohmann::ordered_json together(const nlohmann::ordered_json& objects);

/// DIRECTORY/SCENARIO-SEED.jsonl and .svg. @throws std::runtime_error
void write_traces(const std::string& directory, const std::string& scenario, const sim::run_result& run);

/// Tells how far it is on standard error: on a terminal by a line that is rewritten, else by one every 10 seconds.
/// Any thread may call it.
class progress_line {
 public:
  progress_line();
  progress_line(const progress_line&) = delete;
  ~progress_line() { clear(); }

  void say(const std::string& text);
  /// Takes the line off the terminal.
  void clear();

 private:
  std::mutex mutex_;
  const bool terminal_;
  bool shown_ = false;
  std::chrono::steady_clock::time_point said_ = std::chrono::steady_clock::now();
};

}  // namespace lockstep::scenarios
