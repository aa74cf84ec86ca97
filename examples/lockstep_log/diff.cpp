#include <algorithm>
#include <thread>

#include <fmt/format.h>

#include "commands.hpp"
#include "show.hpp"

namespace lockstep::examples {
namespace {

constexpr std::uint64_t preview_bytes = 64;

std::string range_of(const std::string& directory, const verified_log& log) {
  const std::string range = log.base.index == log.report.last_good.index
                                ? "no records"
                                : fmt::format("records {} to {}", log.base.index + 1, log.report.last_good.index);
  return fmt::format("{} ({})", directory, range);
}

report::json facts_of(const std::string& directory, const verified_log& log) {
  return {{"directory", directory}, {"base", json_of(log.base)}, {"last", json_of(log.report.last_good)}};
}

void add_next(report& to, const std::string& label, const std::optional<stored_record>& next) {
  if (!next) {
    to.add(label, nullptr);
    return;
  }
  const record shown{next->position.index, next->position.epoch, next->kind, next->position.chain, next->payload};
  const std::string line = text_of(shown, payload_style::text, preview_bytes);
  to.add(label, json_of(shown, payload_style::text), line.substr(line.find_first_not_of(' ')));
}

void add_relation(report& to, const log_comparison& found) {
  const auto records = [](index_t count) { return fmt::format("{} record{}", count, count == 1 ? "" : "s"); };
  const index_t first = found.first.report.last_good.index;
  const index_t second = found.second.report.last_good.index;
  switch (found.relation) {
    case log_relation::equal: to.add("Verdict", "equal"); return;
    case log_relation::first_continues:
      to.add("Verdict", "first_continues",
             fmt::format("the second is a prefix: the first goes on for {}", records(first - second)));
      return;
    case log_relation::second_continues:
      to.add("Verdict", "second_continues",
             fmt::format("the first is a prefix: the second goes on for {}", records(second - first)));
      return;
    case log_relation::diverged:
      to.add("Verdict", "diverged",
             found.last_common ? fmt::format("different from index {} on", found.first_differing)
                               : fmt::format("different at index {}, before which they keep nothing to compare",
                                             found.first_differing));
      to.add("First Differing", found.first_differing);
      return;
    case log_relation::nothing_shared:
      to.add("Verdict", "nothing_shared", "not comparable: one ends before the other begins to keep records");
      return;
    case log_relation::not_compared: return;
  }
}

}  // namespace

exit_code run_diff(const diff_arguments& arguments) {
  require_log_directory(arguments.first);
  require_log_directory(arguments.second);
  file_reader files;
  verify_options options;
  options.depth = arguments.verify ? verify_depth::all : verify_depth::tail;
  options.threads = std::max(1U, std::thread::hardware_concurrency());
  const log_comparison found = compare_logs(files.env, arguments.first, arguments.second, options);
  if (found.first.report.verdict == log_verdict::corrupt) throw corrupt_log(arguments.first, found.first.report);
  if (found.second.report.verdict == log_verdict::corrupt) throw corrupt_log(arguments.second, found.second.report);

  report result;
  result.add("First", facts_of(arguments.first, found.first), range_of(arguments.first, found.first));
  result.add("Second", facts_of(arguments.second, found.second), range_of(arguments.second, found.second));
  if (found.last_common) {
    result.add("Last Common", json_of(*found.last_common), text_of(*found.last_common));
  } else {
    result.add("Last Common", nullptr);
  }
  add_next(result, "Next In First", found.next_in_first);
  add_next(result, "Next In Second", found.next_in_second);
  add_relation(result, found);
  result.print(arguments.output);
  return found.relation == log_relation::equal ? exit_code::ok : exit_code::negative;
}

}  // namespace lockstep::examples
