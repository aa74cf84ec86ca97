// Commands that look at data directories: replica status, verify.
#include "cityhall/commands.hpp"
#include "cityhall/positions.hpp"
#include "cityhall/status.hpp"

#include <fmt/chrono.h>
#include <fmt/format.h>
#include <asio/io_context.hpp>
#include <nlohmann/json.hpp>

#include <csignal>
#include <filesystem>
#include <fstream>

namespace lockstep::cityhall {

namespace {

using examples::exit_code;
using examples::exit_error;
using json = nlohmann::ordered_json;

std::string shown_time(std::int64_t ns) {
  if (ns == 0) return "never";
  return fmt::format("{:%Y-%m-%d %H:%M:%S}", fmt::localtime(static_cast<std::time_t>(ns / 1'000'000'000)));
}

/// A killed process that nobody has waited for yet (state Z) is not.
bool alive(long pid) {
  if (pid <= 0 || (::kill(static_cast<pid_t>(pid), 0) != 0 && errno != EPERM)) return false;
  std::ifstream file("/proc/" + std::to_string(pid) + "/stat");
  std::string line;
  std::getline(file, line);
  const std::size_t name_end = line.rfind(')');
  return name_end == std::string::npos || line.compare(name_end, 3, ") Z") != 0;
}

std::string health_of(const directory_contents& contents, const std::optional<replica_note>& note) {
  if (contents.report.verdict == log_verdict::corrupt) {
    return "corrupt from record " + std::to_string(contents.report.first_bad) + ": " + contents.report.reason;
  }
  if (!note) return "never started";
  if (!note->running) return note->health;
  return alive(note->pid) ? note->health : "stopped without a word (was: " + note->health + ")";
}

void require_directory(const std::string& directory) {
  if (!std::filesystem::exists(directory)) {
    throw exit_error(exit_code::negative, "directory " + directory + " does not exist");
  }
  if (!std::filesystem::is_directory(directory)) {
    throw exit_error(exit_code::negative, directory + " is not a directory");
  }
}

directory_contents contents_of(real::env& env, const std::string& directory) {
  try {
    return read_contents(env, directory);
  } catch (const store_corrupt& corrupt) {
    throw exit_error(exit_code::corruption, corrupt.what());
  }
}

std::string describe(const recovery_report& report) {
  return "corrupt from record " + std::to_string(report.first_bad) + " to " + std::to_string(report.last_bad) + " (" +
         report.file + ", offset " + std::to_string(report.offset) + "): " + report.reason;
}

}  // namespace

exit_code show_status(const std::string& data_dir, examples::output_format format) {
  if (data_dir.empty()) throw examples::usage_error("--data-dir is required");
  require_directory(data_dir);
  asio::io_context io;
  real::env env(io.get_executor());
  const directory_contents contents = contents_of(env, data_dir);
  const std::optional<replica_note> note = read_note(data_dir);
  examples::report report;
  report.add("Last Synced Segment", contents.counts.segments)
      .add("Total Entries", contents.counts.entries)
      .add("Replica Id", note ? json(note->id) : json())
      .add("Leader", note ? json(note->leader) : json())
      .add("Position", to_json(contents.at), shown(contents.at))
      .add("Last Sync", note && note->last_sync_ns != 0 ? json(note->last_sync_ns / 1'000'000'000) : json(),
           shown_time(note ? note->last_sync_ns : 0))
      .add("Health", health_of(contents, note));
  report.print(format);
  return contents.report.verdict == log_verdict::corrupt ? exit_code::corruption : exit_code::ok;
}

exit_code verify_directories(const std::string& first, const std::string& second) {
  for (const std::string& each : {first, second}) require_directory(log_path(each));
  asio::io_context io;
  real::env env(io.get_executor());
  const log_comparison compared = compare_logs(env, log_path(first), log_path(second));
  for (const auto& [directory, log] : {std::pair(first, &compared.first), std::pair(second, &compared.second)}) {
    if (log->report.verdict == log_verdict::corrupt) {
      throw exit_error(exit_code::corruption, directory + ": " + describe(log->report));
    }
  }
  const position at_first = compared.first.report.last_good;
  const position at_second = compared.second.report.last_good;
  switch (compared.relation) {
    case log_relation::equal: examples::write_out("equal: both end at " + shown(at_first) + "\n"); return exit_code::ok;
    case log_relation::first_continues:
      examples::write_out(fmt::format("{} is behind: it ends at index {}, {} goes on to index {}\n", second,
                                      at_second.index, first, at_first.index));
      return exit_code::negative;
    case log_relation::second_continues:
      examples::write_out(fmt::format("{} is behind: it ends at index {}, {} goes on to index {}\n", first,
                                      at_first.index, second, at_second.index));
      return exit_code::negative;
    case log_relation::diverged:
      examples::write_out(fmt::format("different from index {} on\n", compared.first_differing));
      return exit_code::negative;
    case log_relation::nothing_shared:
      examples::write_out("not comparable: they keep no record in common\n");
      return exit_code::negative;
    case log_relation::not_compared: break;
  }
  throw exit_error(exit_code::failure, "the directories could not be compared");
}

}  // namespace lockstep::cityhall
