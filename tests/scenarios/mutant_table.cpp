#include "mutant_table.hpp"

#include "scenarios.hpp"

#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <csignal>
#include <cstring>
#include <iomanip>
#include <iostream>
#include <sstream>

namespace lockstep::scenarios {
namespace {

using json = nlohmann::ordered_json;

constexpr unsigned longest_run_s = 60;  // real seconds; a run that takes longer hangs

// The scenarios that a block's mistakes should show in, the nearest first.
std::vector<sim::scenario> scenarios_for(std::string_view block) {
  std::vector<std::string> order;
  if (block == "log") order = {"log", "log_damage", "catchup", "cityhall"};
  if (block == "frame") order = {"frames", "rpc", "catchup", "cityhall"};
  if (block == "rpc") order = {"rpc", "frames", "catchup", "cityhall"};
  if (block == "catchup") order = {"catchup", "cityhall"};
  if (block == "cityhall") order = {"cityhall"};
  if (block == "raft") order = {"raft_core", "raft"};
  if (block == "sessions" || block == "kv") order = {"raft_sessions", "raft"};
  if (block == "hard-state" || block == "snapshots") order = {"raft_files", "raft"};
  std::vector<sim::scenario> chosen, rest;
  for (sim::scenario& each : all()) {
    if (each.name != "canary") rest.push_back(std::move(each));
  }
  for (const std::string& name : order) {
    const auto found = std::find_if(rest.begin(), rest.end(), [&](const auto& each) { return each.name == name; });
    if (found == rest.end()) continue;
    chosen.push_back(std::move(*found));
    rest.erase(found);
  }
  chosen.insert(chosen.end(), std::make_move_iterator(rest.begin()), std::make_move_iterator(rest.end()));
  return chosen;
}

// A scenario that counts how often the mutant made a difference, and whose hanging runs end the process.
sim::scenario watched(sim::scenario of, std::atomic<std::uint64_t>& reached) {
  auto run = std::move(of.run);
  of.run = [run = std::move(run), &reached](sim::simulation& in) {
    struct counted {
      std::atomic<std::uint64_t>& to;
      const std::uint64_t before = times_mutated();
      ~counted() { to += times_mutated() - before; }
    } const counts{reached};
    alarm(longest_run_s);
    run(in);
  };
  return of;
}

class hunt {
 public:
  hunt(const mutant_info& bug, const mutant_options& options) : bug_(bug), options_(options) {
    for (sim::scenario& each : scenarios_for(bug.block)) scenarios_.push_back({watched(std::move(each), reached_), 0});
  }

  mutant_row run() {
    mutant_row row;
    row.name = bug_.name;
    row.block = bug_.block;
    row.bug = bug_.bug;
    for (std::size_t range = 0; range < options_.ranges; ++range) {
      ++row.tries;
      const auto found = first_kill(1 + range * 1'000'000);
      // Who survives one range's seeds and is never reached survives the others' too.
      if (!found && reached_ == 0) break;
      if (found) row.kills.push_back(*found);
    }
    row.reached = reached_;
    return row;
  }

 private:
  struct place {
    sim::scenario of;
    std::uint64_t reached = 0;
    bool fails_anyway = false;
  };

  // A few seeds of each scenario first, then more and more of them: a late scenario may be quick to find it.
  std::optional<kill> first_kill(std::uint64_t first_seed) {
    std::uint64_t done = 0;
    for (std::uint64_t upto = std::min<std::uint64_t>(50, options_.seeds); done < options_.seeds;) {
      for (place& each : scenarios_) {
        // Where a few seeds have not come by the mistake, more are tried only as long as nobody has.
        const bool is_elsewhere = done != 0 && each.reached == 0 && reached_ != 0;
        if (each.fails_anyway || is_elsewhere) continue;
        if (const auto found = kill_between(each, first_seed, first_seed + done, upto - done)) return found;
      }
      done = upto;
      upto = std::min(options_.seeds, upto * 6);
    }
    return std::nullopt;
  }

  std::optional<kill> kill_between(place& where, std::uint64_t first_seed, std::uint64_t from, std::uint64_t seeds) {
    sim::explore_options options;
    options.first_seed = from;
    options.seeds = seeds;
    options.jobs = options_.jobs;
    options.without = families(options_.without);
    options.run_twice = 0;
    options.limits.runs = 300;
    options.limits.time = std::chrono::seconds(15);
    options.on_thread = [id = bug_.id] { activate_mutant(id); };
    const std::uint64_t before = reached_;
    const sim::exploration found = sim::explore(where.of, options);
    where.reached += reached_ - before;
    if (!found.failure) return std::nullopt;
    if (fails_without_mutant(where.of, *found.failure)) {
      std::cerr << where.of.name << " fails without a mutant too, seed " << *found.first_failing_seed << "\n";
      where.fails_anyway = true;
      return std::nullopt;
    }
    kill result;
    result.scenario = where.of.name;
    result.first_seed = first_seed;
    result.seed = *found.first_failing_seed;
    result.only = found.failure->only;
    result.planned = found.failure->full.plan.size();
    result.families = names(families_of(*found.failure));
    result.failure = found.failure->small.failure.value_or("");
    return result;
  }

  // Then it says nothing about the mutant.
  [[nodiscard]] bool fails_without_mutant(const sim::scenario& of, const sim::shrunk_failure& failure) const {
    sim::run_options options;
    options.seed = failure.small.seed;
    options.without = families(options_.without);
    options.only = failure.only;
    activate_mutant(mutant::none);
    const bool fails = sim::run_seed(of, options).failure.has_value();
    activate_mutant(bug_.id);
    return fails;
  }

  const mutant_info& bug_;
  const mutant_options& options_;
  std::atomic<std::uint64_t> reached_ = 0;
  std::vector<place> scenarios_;
};

json to_json(const kill& of) {
  return {{"scenario", of.scenario}, {"first_seed", of.first_seed}, {"seed", of.seed},         {"seeds", of.seeds()},
          {"only", of.only},         {"planned", of.planned},       {"families", of.families}, {"failure", of.failure}};
}

kill kill_from(const json& from) {
  kill result;
  result.scenario = from["scenario"];
  result.first_seed = from["first_seed"];
  result.seed = from["seed"];
  result.only = from["only"].get<std::vector<std::uint32_t>>();
  result.planned = from["planned"];
  result.families = from["families"].get<std::vector<std::string>>();
  result.failure = from["failure"];
  return result;
}

json to_json(const mutant_row& of) {
  json object = {{"mutant", of.name},
                 {"block", of.block},
                 {"bug", of.bug},
                 {"killed", of.killed()},
                 {"seeds", nullptr},
                 {"scenario", nullptr},
                 {"families", json::array()},
                 {"reached", of.reached},
                 {"tries", of.tries},
                 {"died", nullptr}};
  if (!of.died.empty()) object["died"] = of.died;
  if (const auto median = of.median_seeds()) object["seeds"] = *median;
  if (const kill* const typical = of.typical()) {
    object["scenario"] = typical->scenario;
    object["families"] = typical->families;
  }
  object["kills"] = json::array();
  for (const kill& each : of.kills) object["kills"].push_back(to_json(each));
  return object;
}

mutant_row row_from(const json& from) {
  mutant_row row;
  row.name = from["mutant"];
  row.block = from["block"];
  row.bug = from["bug"];
  row.reached = from["reached"];
  row.tries = from["tries"];
  for (const json& each : from["kills"]) row.kills.push_back(kill_from(each));
  return row;
}

std::string how_it_died(int status) {
  if (WIFEXITED(status)) return "ends with " + std::to_string(WEXITSTATUS(status));
  if (WTERMSIG(status) == SIGALRM) return "hangs";
  return strsignal(WTERMSIG(status));
}

// What `find` makes in a process of its own, whose end is no harm.
template <class Find>
mutant_row in_a_child(const mutant_info& bug, Find find) {
  int ends[2];
  if (pipe(ends) != 0) throw std::system_error(errno, std::generic_category(), "pipe");
  std::cout.flush();
  const pid_t child = fork();
  if (child < 0) throw std::system_error(errno, std::generic_category(), "fork");
  if (child == 0) {
    close(ends[0]);
    const std::string text = to_json(find()).dump(-1, ' ', false, json::error_handler_t::replace);
    for (std::size_t sent = 0; sent < text.size();) {
      const ssize_t now = write(ends[1], text.data() + sent, text.size() - sent);
      if (now <= 0) _exit(1);
      sent += static_cast<std::size_t>(now);
    }
    _exit(0);
  }
  close(ends[1]);
  std::string text;
  char some[4096];
  for (ssize_t got = 0; (got = read(ends[0], some, sizeof some)) > 0;) text.append(some, static_cast<std::size_t>(got));
  close(ends[0]);
  int status = 0;
  waitpid(child, &status, 0);
  if (WIFEXITED(status) && WEXITSTATUS(status) == 0) return row_from(json::parse(text));
  mutant_row row;
  row.name = bug.name;
  row.block = bug.block;
  row.bug = bug.bug;
  row.died = how_it_died(status);
  return row;
}

std::string families_text(const mutant_row& of) {
  const kill* const typical = of.typical();
  if (!typical) return "";
  return typical->families.empty() ? "none" : listed(typical->families);
}

std::string result_text(const mutant_row& of) {
  if (!of.died.empty()) return "killed: " + of.died;
  if (of.killed() && of.kills.size() < of.tries) {
    return "killed by " + std::to_string(of.kills.size()) + " of " + std::to_string(of.tries) + " ranges of seeds";
  }
  if (of.killed()) return "killed";
  return of.reached == 0 ? "survived, never reached" : "survived";
}

std::string seeds_text(std::optional<std::uint64_t> seeds) { return seeds ? std::to_string(*seeds) : "too many"; }

std::string seeds_text(const mutant_row& of) { return of.kills.empty() ? "" : seeds_text(of.median_seeds()); }

std::size_t number_killed(const std::vector<mutant_row>& rows) {
  return static_cast<std::size_t>(
      std::count_if(rows.begin(), rows.end(), [](const auto& each) { return each.killed(); }));
}

// What so many of a hundred mutants are killed within; null: more than were tried. Those that end the process are left
// out, since the seeds that it took went with it.
std::optional<std::uint64_t> seeds_of_percentile(const std::vector<mutant_row>& rows, std::size_t percent) {
  std::vector<std::uint64_t> seeds;
  for (const mutant_row& each : rows) {
    if (each.died.empty()) seeds.push_back(each.median_seeds().value_or(UINT64_MAX));
  }
  if (seeds.empty()) return std::nullopt;
  std::sort(seeds.begin(), seeds.end());
  const std::uint64_t found = seeds[std::min(seeds.size() - 1, seeds.size() * percent / 100)];
  return found == UINT64_MAX ? std::nullopt : std::optional(found);
}

std::string sum(const std::vector<mutant_row>& rows) {
  return std::to_string(number_killed(rows)) + " of " + std::to_string(rows.size()) +
         " mutants are killed; half of them within " + seeds_text(seeds_of_percentile(rows, 50)) +
         " seeds, 95 % within " + seeds_text(seeds_of_percentile(rows, 95)) + ".";
}

// Columns as wide as their widest cell.
std::string aligned(const std::vector<std::vector<std::string>>& rows) {
  std::vector<std::size_t> widths(rows.front().size());
  for (const auto& row : rows) {
    for (std::size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], row[i].size());
  }
  std::string text;
  for (const auto& row : rows) {
    std::string line;
    for (std::size_t i = 0; i < row.size(); ++i) line += row[i] + std::string(widths[i] - row[i].size() + 2, ' ');
    text += line.substr(0, line.find_last_not_of(' ') + 1) + "\n";
  }
  return text;
}

std::string markdown(const std::vector<std::vector<std::string>>& rows) {
  std::string text;
  for (std::size_t line = 0; line < rows.size(); ++line) {
    for (const std::string& cell : rows[line]) text += "| " + cell + " ";
    text += "|\n";
    if (line != 0) continue;
    for (std::size_t i = 0; i < rows[line].size(); ++i) text += "|---";
    text += "|\n";
  }
  return text;
}

}  // namespace

const kill* mutant_row::typical() const {
  if (kills.empty()) return nullptr;
  std::vector<const kill*> sorted;
  for (const kill& each : kills) sorted.push_back(&each);
  std::sort(sorted.begin(), sorted.end(), [](const kill* a, const kill* b) { return a->seeds() < b->seeds(); });
  return sorted[std::min(sorted.size() - 1, tries / 2)];
}

std::optional<std::uint64_t> mutant_row::median_seeds() const {
  return kills.size() > tries / 2 ? std::optional(typical()->seeds()) : std::nullopt;
}

bool mutant_row::needs(std::string_view family) const {
  return !kills.empty() && std::all_of(kills.begin(), kills.end(), [family](const kill& each) {
    return std::find(each.families.begin(), each.families.end(), family) != each.families.end();
  });
}

std::vector<mutant_row> run_mutants(const mutant_options& options) {
  std::vector<mutant_row> rows;
  progress_line progress;
  for (const mutant_info& each : mutants) {
    if (!options.only.empty() && each.name != options.only && each.block != options.only) continue;
    progress.say(std::to_string(rows.size()) + " of " + std::to_string(mutants.size()) + " mutants, " +
                 std::to_string(number_killed(rows)) + " killed; now " + std::string(each.name));
    rows.push_back(in_a_child(each, [&] { return hunt(each, options).run(); }));
  }
  return rows;
}

std::vector<ablation> ablate(const std::vector<mutant_row>& rows, const mutant_options& options) {
  std::vector<ablation> all;
  progress_line progress;
  for (const std::string_view family : sim::fault_family_names) {
    ablation one;
    one.family = family;
    mutant_options without = options;
    without.without.push_back(*sim::parse_fault_family(family));
    without.ranges = 1;
    for (const mutant_row& row : rows) {
      one.helps +=
          std::any_of(row.kills.begin(), row.kills.end(),
                      [&](const kill& each) {
                        return std::find(each.families.begin(), each.families.end(), family) != each.families.end();
                      })
              ? 1
              : 0;
      if (!row.needs(family)) continue;
      progress.say("without " + one.family + ": " + row.name);
      without.seeds =
          std::min(options.seeds, std::max<std::uint64_t>(100, 5 * row.median_seeds().value_or(options.seeds)));
      const mutant_info& bug = *find_mutant(row.name);
      if (!in_a_child(bug, [&] { return hunt(bug, without).run(); }).killed()) one.survivors.push_back(row.name);
    }
    all.push_back(std::move(one));
  }
  return all;
}

std::string as_text(const std::vector<mutant_row>& rows) {
  std::vector<std::vector<std::string>> cells = {{"mutant", "result", "seeds", "scenario", "fault families"}};
  for (const mutant_row& each : rows) {
    const kill* const typical = each.typical();
    cells.push_back(
        {each.name, result_text(each), seeds_text(each), typical ? typical->scenario : "", families_text(each)});
  }
  return aligned(cells) + "\n" + sum(rows) + "\n";
}

std::string as_markdown(const std::vector<mutant_row>& rows) {
  std::vector<std::vector<std::string>> cells = {
      {"Mutant", "Bug", "Result", "Seeds to kill", "Scenario", "Fault families that it takes"}};
  for (const mutant_row& each : rows) {
    const kill* const typical = each.typical();
    cells.push_back({"`" + each.name + "`", each.bug, result_text(each), seeds_text(each),
                     typical ? typical->scenario : "", families_text(each)});
  }
  return markdown(cells) + "\n" + sum(rows) + "\n";
}

json as_json(const std::vector<mutant_row>& rows, const mutant_options& options) {
  json object = {{"mutants", rows.size()},  {"killed", number_killed(rows)}, {"seeds_tried", options.seeds},
                 {"median_seeds", nullptr}, {"p95_seeds", nullptr},          {"rows", json::array()}};
  if (const auto median = seeds_of_percentile(rows, 50)) object["median_seeds"] = *median;
  if (const auto p95 = seeds_of_percentile(rows, 95)) object["p95_seeds"] = *p95;
  for (const mutant_row& each : rows) object["rows"].push_back(to_json(each));
  return object;
}

std::string as_text(const std::vector<ablation>& without) {
  std::vector<std::vector<std::string>> cells = {{"without", "helps to kill", "then survive"}};
  for (const ablation& each : without) {
    cells.push_back(
        {each.family, std::to_string(each.helps), each.survivors.empty() ? "none" : listed(each.survivors)});
  }
  return aligned(cells);
}

std::string as_markdown(const std::vector<ablation>& without) {
  std::vector<std::vector<std::string>> cells = {
      {"Without", "Mutants that it helps to kill", "Mutants that survive without it"}};
  for (const ablation& each : without) {
    cells.push_back({"`" + each.family + "`", std::to_string(each.helps),
                     each.survivors.empty() ? "none" : listed(each.survivors)});
  }
  return markdown(cells);
}

json as_json(const std::vector<ablation>& without) {
  json array = json::array();
  for (const ablation& each : without) {
    array.push_back({{"without", each.family}, {"helps", each.helps}, {"survivors", each.survivors}});
  }
  return array;
}

}  // namespace lockstep::scenarios
