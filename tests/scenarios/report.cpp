#include "report.hpp"

#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <iomanip>
#include <iostream>
#include <sstream>

namespace lockstep::scenarios {
namespace {

std::string hex(std::uint64_t value) {
  std::ostringstream text;
  text << std::hex << std::setw(16) << std::setfill('0') << value;
  return text.str();
}

double per(double amount, double seconds) { return seconds > 0 ? amount / seconds : 0; }

double seeds_per_minute(const sim::exploration& of) { return per(60 * static_cast<double>(of.seeds), of.seconds); }
double events_per_second(const sim::exploration& of) { return per(static_cast<double>(of.events), of.seconds); }
double virtual_seconds_per_second(const sim::exploration& of) {
  return per(std::chrono::duration<double>(of.virtual_time).count(), of.seconds);
}

// As a shell takes it.
std::string quoted(const std::string& word) {
  if (!word.empty() &&
      word.find_first_not_of("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-+./=,:@%") == word.npos) {
    return word;
  }
  std::string text = "'";
  for (const char c : word) text += c == '\'' ? std::string("'\\''") : std::string(1, c);
  return text + "'";
}

std::ofstream created(const std::filesystem::path& path) {
  std::ofstream file(path, std::ios::binary);
  if (!file) throw std::runtime_error(path.string() + " cannot be written");
  return file;
}

}  // namespace

sim::fault_set families(const std::vector<sim::fault_family>& of) {
  sim::fault_set set;
  for (const sim::fault_family each : of) set = set.with(each);
  return set;
}

std::vector<std::string> names(const sim::fault_set& families) {
  std::vector<std::string> found;
  for (std::size_t i = 0; i < sim::fault_families; ++i) {
    if (families.has(static_cast<sim::fault_family>(i))) found.emplace_back(sim::fault_family_names[i]);
  }
  return found;
}

std::string listed(const std::vector<std::string>& words) {
  std::string text;
  for (std::size_t i = 0; i < words.size(); ++i) {
    if (i != 0) text += i + 1 == words.size() ? " and " : ", ";
    text += words[i];
  }
  return text;
}

std::string replay_command(const std::string& program, const request& asked, const std::string& scenario,
                           const sim::shrunk_failure& failure) {
  std::ostringstream command;
  command << quoted(program) << " --scenario " << scenario << " --from " << failure.small.seed << " --seeds 1";
  if (!asked.mutant.empty()) command << " --mutant " << asked.mutant;
  for (const sim::fault_family each : asked.without) command << " --without " << to_string(each);
  command << " --only ";
  if (failure.only.empty()) command << "none";
  for (std::size_t i = 0; i < failure.only.size(); ++i) command << (i == 0 ? "" : ",") << failure.only[i];
  return command.str();
}

std::string summary(const std::string& scenario, const sim::exploration& found) {
  std::ostringstream text;
  text << scenario << ": " << found.seeds << (found.seeds == 1 ? " seed, " : " seeds, ") << found.failures
       << (found.failures == 1 ? " failure" : " failures") << std::fixed << std::setprecision(0) << "; "
       << seeds_per_minute(found) << " seeds a minute, " << events_per_second(found) << " events a second, "
       << virtual_seconds_per_second(found) << " virtual seconds a second; " << found.reruns << " run twice, "
       << found.different.size() << " of them different; trace " << hex(found.trace_hash);
  return text.str();
}

nlohmann::ordered_json to_json(const std::string& scenario, const request& asked, const sim::exploration& found) {
  nlohmann::ordered_json object;
  object["scenario"] = scenario;
  object["seeds"] = found.seeds;
  object["failures"] = found.failures;
  object["first_failing_seed"] = nullptr;
  if (found.first_failing_seed) object["first_failing_seed"] = *found.first_failing_seed;
  object["seeds_per_minute"] = seeds_per_minute(found);
  object["events_per_second"] = events_per_second(found);
  object["virtual_seconds_per_second"] = virtual_seconds_per_second(found);
  object["trace_hash"] = hex(found.trace_hash);
  object["mutant"] = nullptr;
  if (!asked.mutant.empty()) object["mutant"] = asked.mutant;
  object["without"] = names(families(asked.without));
  object["reruns"] = found.reruns;
  object["different"] = found.different;
  object["seconds"] = found.seconds;
  return object;
}

nlohmann::ordered_json together(const nlohmann::ordered_json& objects) {
  nlohmann::ordered_json sum = objects.back();  // the failing one is the last
  sum["scenario"] = "all";
  double seconds = 0, events = 0, virtual_seconds = 0;
  std::uint64_t seeds = 0, reruns = 0, hash = 0;
  for (const auto& each : objects) {
    const double took = each["seconds"];
    seconds += took;
    events += took * each["events_per_second"].get<double>();
    virtual_seconds += took * each["virtual_seconds_per_second"].get<double>();
    seeds += each["seeds"].get<std::uint64_t>();
    reruns += each["reruns"].get<std::uint64_t>();
    hash = (hash ^ std::stoull(each["trace_hash"].get<std::string>(), nullptr, 16)) * 0x9e3779b97f4a7c15u;
  }
  sum["seeds"] = seeds;
  sum["seeds_per_minute"] = per(60 * static_cast<double>(seeds), seconds);
  sum["events_per_second"] = per(events, seconds);
  sum["virtual_seconds_per_second"] = per(virtual_seconds, seconds);
  sum["trace_hash"] = hex(hash);
  sum["reruns"] = reruns;
  sum["different"] = nlohmann::ordered_json::array();
  for (const auto& each : objects) {
    for (const auto& seed : each["different"]) sum["different"].push_back(seed);
  }
  sum["seconds"] = seconds;
  sum["scenarios"] = objects;
  return sum;
}

void write_traces(const std::string& directory, const std::string& scenario, const sim::run_result& run) {
  std::filesystem::create_directories(directory);
  const std::string stem = scenario + "-" + std::to_string(run.seed);
  std::ofstream lines = created(std::filesystem::path(directory) / (stem + ".jsonl"));
  sim::write_json_trace(lines, run.timeline);
  std::ofstream picture = created(std::filesystem::path(directory) / (stem + ".svg"));
  sim::svg_trace_options options;
  options.title = scenario + ", seed " + std::to_string(run.seed);
  sim::write_svg_trace(picture, run.timeline, run.nodes, options);
  if (!lines.flush() || !picture.flush()) throw std::runtime_error("traces cannot be written to " + directory);
}

progress_line::progress_line() : terminal_(isatty(STDERR_FILENO) == 1) {}

void progress_line::say(const std::string& text) {
  const std::lock_guard lock(mutex_);
  const auto now = std::chrono::steady_clock::now();
  if (terminal_) {
    std::cerr << "\r\033[K" << text << std::flush;
    shown_ = true;
  } else if (now - said_ >= std::chrono::seconds(10)) {
    std::cerr << text << std::endl;
    said_ = now;
  }
}

void progress_line::clear() {
  const std::lock_guard lock(mutex_);
  if (std::exchange(shown_, false)) std::cerr << "\r\033[K" << std::flush;
}

}  // namespace lockstep::scenarios
