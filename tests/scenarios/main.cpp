// sim_run: runs the scenarios under the simulator, and measures how strong it is. `sim_run --help`.
#include "mutant_table.hpp"
#include "report.hpp"
#include "scenarios.hpp"

#include "lockstep/core/mutant.hpp"
#include "lockstep/sim/guard.hpp"

#include <CLI/CLI.hpp>

#include <charconv>
#include <iostream>

namespace lockstep::scenarios {
namespace {

constexpr int ok = 0, failed = 1, usage = 2;

constexpr const char* examples = R"(Examples:
  # which scenarios there are
  sim_run --list
  # 10,000 seeds of the log, or until one fails
  sim_run --scenario log --seeds 10000
  # the same without power losses, for another program to read
  sim_run --scenario log --seeds 10000 --without power_loss --json
  # whether every seed is the same run the second time
  sim_run --scenario all --seeds 100 --twice 100
  # what a failure looks like, with a picture of it in traces/
  sim_run --scenario canary --trace traces
  # one seed with two of its faults
  sim_run --scenario log --from 19 --seeds 1 --only 57,32
  # with a deliberate bug
  sim_run --scenario log --mutant log-skip-flush-sync
  # which deliberate bugs are found, how fast and by which faults, and what each family of faults is good for
  sim_run --mutants --ablate

)";

constexpr const char* exit_codes = R"(
Exit codes:
  0  no seed failed; with --mutants: every mutant was killed
  1  one did: the last line on standard output is the command that replays it; or one was another run the second time;
     with --mutants: one survived
  2  the command line is wrong)";

class examples_first : public CLI::Formatter {
 public:
  std::string make_help(const CLI::App* app, std::string name, CLI::AppFormatMode mode) const override {
    return examples + CLI::Formatter::make_help(app, std::move(name), mode);
  }
};

/// What --scenario and others do not know.
struct usage_error : std::runtime_error {
  using std::runtime_error::runtime_error;
};

template <class Range, class Name>
std::string choices(const Range& range, Name name) {
  std::string text;
  for (const auto& each : range) (text += text.empty() ? "" : ", ") += name(each);
  return text;
}

std::vector<sim::scenario> chosen_scenarios(const std::string& name) {
  std::vector<sim::scenario> chosen;
  for (sim::scenario& each : all()) {
    if (name == "all" ? each.name != "canary" : each.name == name) chosen.push_back(std::move(each));
  }
  if (!chosen.empty()) return chosen;
  throw usage_error("--scenario: there is no scenario '" + name + "', only " +
                    choices(all(), [](const sim::scenario& each) { return each.name; }) + ", and all");
}

mutant chosen_mutant(const std::string& name) {
  if (name.empty()) return mutant::none;
  if (const mutant_info* const found = find_mutant(name)) return found->id;
  throw usage_error("--mutant: there is no mutant '" + name + "', only " +
                    choices(mutants, [](const mutant_info& each) { return std::string(each.name); }));
}

sim::fault_family chosen_family(const std::string& name) {
  if (const auto found = sim::parse_fault_family(name)) return *found;
  throw usage_error("--without: there is no fault family '" + name + "', only " +
                    choices(sim::fault_family_names, [](std::string_view each) { return std::string(each); }));
}

std::vector<std::uint32_t> fault_numbers(const std::string& text) {
  std::vector<std::uint32_t> numbers;
  if (text == "none") return numbers;
  const char* at = text.data();
  const char* const end = at + text.size();
  for (;;) {
    std::uint32_t number = 0;
    const auto [stopped, error] = std::from_chars(at, end, number);
    if (error != std::errc() || (stopped != end && *stopped != ',')) {
      throw usage_error("--only: '" + text + "' is not a list of fault numbers as 3,7,9, nor none");
    }
    numbers.push_back(number);
    if (stopped == end) return numbers;
    at = stopped + 1;
  }
}

// For CLI11: what is wrong with a number, or nothing.
std::string positive_number(const std::string& text) {
  const bool digits = !text.empty() && text.find_first_not_of("0123456789") == text.npos;
  return digits && text.find_first_not_of('0') != text.npos ? "" : "'" + text + "' is not a number above 0";
}

sim::explore_options options_of(const request& asked) {
  sim::explore_options options;
  options.first_seed = asked.from;
  options.seeds = asked.seeds;
  options.jobs = asked.jobs;
  options.without = families(asked.without);
  options.only = asked.only;
  options.shrink = !asked.only;
  options.stop_at_failure = !asked.keep_going;
  options.run_twice = asked.twice / 100;
  options.on_thread = [bug = chosen_mutant(asked.mutant)] { activate_mutant(bug); };
  return options;
}

sim::exploration explore(const sim::scenario& of, const request& asked) {
  progress_line progress;
  sim::explore_options options = options_of(asked);
  options.progress = [&](std::uint64_t done, double a_minute) {
    progress.say(of.name + ": " + std::to_string(done) + " of " + std::to_string(asked.seeds) + " seeds, " +
                 std::to_string(static_cast<std::uint64_t>(a_minute)) + " seeds a minute");
  };
  return sim::explore(of, options);
}

// The failing seed's, or that of the first seed.
void trace(const sim::scenario& of, const request& asked, const sim::exploration& found) {
  if (asked.trace_directory.empty()) return;
  if (found.failure) return write_traces(asked.trace_directory, of.name, found.failure->small);
  sim::run_options options;
  options.seed = asked.from;
  options.without = families(asked.without);
  options.only = asked.only;
  options.keep_timeline = true;
  write_traces(asked.trace_directory, of.name, sim::run_seed(of, options));
}

void say_what_differs(const std::string& scenario, const sim::exploration& found, std::ostream& to) {
  for (const std::uint64_t seed : found.different) {
    to << scenario << ": seed " << seed << " was another run the second time; something in it is not deterministic\n";
  }
}

int run(const std::string& program, const request& asked) {
  const std::vector<sim::scenario> scenarios = chosen_scenarios(asked.scenario);
  nlohmann::ordered_json objects = nlohmann::ordered_json::array();
  // With --json, standard output is for it alone.
  std::ostream& words = asked.json ? std::cerr : std::cout;
  int result = ok;
  std::string replay;
  for (const sim::scenario& each : scenarios) {
    const sim::exploration found = explore(each, asked);
    words << summary(each.name, found) << std::endl;
    say_what_differs(each.name, found, words);
    trace(each, asked, found);
    objects.push_back(to_json(each.name, asked, found));
    if (found.failures != 0 || !found.different.empty()) result = failed;
    if (!found.failure) continue;
    const auto most_lines = asked.trace_directory.empty() ? 60 : std::numeric_limits<std::size_t>::max();
    words << "\n" << each.name << ", " << sim::explain(*found.failure, most_lines);
    if (const auto families = names(families_of(*found.failure)); !families.empty()) {
      words << "of the families " << listed(families) << "\n";
    }
    replay = replay_command(program, asked, each.name, *found.failure);
    words << "To see it again:\n" << replay << std::endl;
    objects.back()["failure"] = found.failure->small.failure.value_or("");
    objects.back()["faults"] = found.failure->only.size();
    objects.back()["faults_planned"] = found.failure->full.plan.size();
    objects.back()["replay"] = replay;
    break;
  }
  if (asked.json) std::cout << (asked.scenario == "all" ? together(objects) : objects.front()).dump(2) << std::endl;
  return result;
}

enum class table_format { text, json, markdown };

int make_mutant_table(const mutant_options& options, table_format format, bool ablates) {
  const std::vector<mutant_row> rows = run_mutants(options);
  const auto ablated = [&] { return ablates ? ablate(rows, options) : std::vector<ablation>(); };
  if (format == table_format::json) {
    nlohmann::ordered_json object = as_json(rows, options);
    if (ablates) object["ablation"] = as_json(ablated());
    std::cout << object.dump(2, ' ', false, nlohmann::ordered_json::error_handler_t::replace) << "\n";
  } else {
    const bool markdown = format == table_format::markdown;
    std::cout << (markdown ? as_markdown(rows) : as_text(rows)) << std::flush;
    if (ablates) std::cout << "\n" << (markdown ? as_markdown(ablated()) : as_text(ablated()));
  }
  const bool survivors = std::any_of(rows.begin(), rows.end(), [](const mutant_row& each) { return !each.killed(); });
  return survivors ? failed : ok;
}

int list() {
  std::size_t longest = 0;
  for (const sim::scenario& each : all()) longest = std::max(longest, each.name.size());
  for (const sim::scenario& each : all()) {
    std::cout << each.name << std::string(longest - each.name.size() + 2, ' ') << each.what << "\n";
  }
  return ok;
}

}  // namespace
}  // namespace lockstep::scenarios

int main(int argc, char** argv) {
  using namespace lockstep::scenarios;
  request asked;
  std::vector<std::string> without;
  std::string only;
  bool lists = false, tries_mutants = false, ablates = false, markdown = false;
  CLI::App app("Runs programs built from lockstep's blocks under the deterministic simulator.", "sim_run");
  app.formatter(std::make_shared<examples_first>());
  app.footer(exit_codes);
  app.add_flag("--list", lists, "List the scenarios");
  app.add_option("--scenario", asked.scenario, "Which one to run; all: every one but the canary")->type_name("NAME");
  app.add_option("--seeds", asked.seeds, "How many")->type_name("N")->check(positive_number)->capture_default_str();
  app.add_option("--from", asked.from, "The first seed")->type_name("S")->capture_default_str();
  app.add_option("--jobs", asked.jobs, "Threads; default: one a processor")->type_name("J")->check(positive_number);
  app.add_option("--mutant", asked.mutant, "Run with this deliberate bug")->type_name("NAME");
  app.add_option("--without", without, "Switch a fault family off; may be given more than once")
      ->type_name("FAULT_FAMILY")
      ->allow_extra_args(false);
  app.add_option("--only", only, "Let only these of a seed's faults happen, or none")->type_name("3,7,9");
  app.add_flag("--keep-going", asked.keep_going, "Run all seeds, also behind one that fails");
  app.add_option("--twice", asked.twice, "Run so many per cent of the seeds twice; fail when one was another run then")
      ->type_name("PERCENT")
      ->check(CLI::Range(0.0, 100.0).description(""))
      ->capture_default_str();
  app.add_option("--trace", asked.trace_directory,
                 "Write the failing seed's timeline, or the first seed's, as JSON lines and as SVG")
      ->type_name("DIR");
  app.add_flag("--json", asked.json, "Print one JSON object on standard output, and everything else on standard error");
  app.add_flag("--mutants", tries_mutants,
               "Try every mutant, or --mutant's, which may name a block: how many --seeds (2000) of each scenario kill "
               "it, and which faults");
  app.add_flag("--ablate", ablates, "With --mutants: also switch each fault family off; which ones survive then?")
      ->needs("--mutants");
  app.add_flag("--markdown", markdown, "With --mutants: print a table for documents")
      ->needs("--mutants")
      ->excludes("--json");
  try {
    app.parse(argc, argv);
    for (const std::string& each : without) asked.without.push_back(chosen_family(each));
    if (app.count("--only") != 0) asked.only = fault_numbers(only);
    if (lists) return list();
    if (tries_mutants) {
      mutant_options options;
      if (app.count("--seeds") != 0) options.seeds = asked.seeds;
      options.jobs = asked.jobs;
      options.without = asked.without;
      const auto is_of_block = [&](const lockstep::mutant_info& each) { return each.block == asked.mutant; };
      if (std::none_of(lockstep::mutants.begin(), lockstep::mutants.end(), is_of_block))
        (void)chosen_mutant(asked.mutant);
      options.only = asked.mutant;
      const table_format format = asked.json ? table_format::json
                                  : markdown ? table_format::markdown
                                             : table_format::text;
      return make_mutant_table(options, format, ablates);
    }
    if (asked.scenario.empty()) throw usage_error("nothing to do: give --scenario NAME, --mutants or --list");
    return run(argv[0], asked);
  } catch (const CLI::CallForHelp&) {
    std::cout << app.help();
    return ok;
  } catch (const CLI::ParseError& error) {
    std::cerr << "sim_run: " << error.what() << "\n`sim_run --help` has examples.\n";
    return usage;
  } catch (const usage_error& error) {
    std::cerr << "sim_run: " << error.what() << "\n";
    return usage;
  } catch (const std::exception& error) {
    std::cerr << "sim_run: " << error.what() << "\n";
    return failed;
  }
}
