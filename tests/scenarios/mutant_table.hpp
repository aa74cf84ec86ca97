// How strong the simulator is: which deliberate bugs (core/mutant.hpp) it finds, how fast, and by which faults.
#pragma once

#include "report.hpp"

#include "lockstep/core/mutant.hpp"

#include <optional>
#include <string>
#include <vector>

namespace lockstep::scenarios {

/// A scenario's seed that fails with a mutant.
struct kill {
  std::string scenario;
  std::uint64_t first_seed = 0;
  std::uint64_t seed = 0;
  std::vector<std::uint32_t> only;  ///< the faults that it takes
  std::size_t planned = 0;
  std::vector<std::string> families;  ///< of these faults; empty: it fails without a fault
  std::string failure;

  [[nodiscard]] std::uint64_t seeds() const noexcept { return seed - first_seed + 1; }
};

/// A mutant's row of the table.
struct mutant_row {
  std::string name;
  std::string block;
  std::string bug;
  std::size_t tries = 0;      ///< ranges of seeds
  std::vector<kill> kills;    ///< from different seeds; fewer than were tried when some did not find it
  std::uint64_t reached = 0;  ///< how often its hooks made a difference; 0: no run could have found it
  std::string died;           ///< how the process ended with it, if it did: that finds it too

  [[nodiscard]] bool killed() const noexcept { return !kills.empty() || !died.empty(); }
  /// A range without a kill counts as more than any; null when that is the median.
  [[nodiscard]] std::optional<std::uint64_t> median_seeds() const;
  /// The kill with the median number of seeds, or with the most.
  [[nodiscard]] const kill* typical() const;
  /// Whether it was only ever killed with this family's help.
  [[nodiscard]] bool needs(std::string_view family) const;
};

struct mutant_options {
  std::uint64_t seeds = 2000;  ///< of each scenario
  std::size_t jobs = 0;
  std::string only;  ///< one mutant, or those of one block; empty: all
  std::vector<sim::fault_family> without;
  std::size_t ranges = 3;  ///< how many different seeds are begun with
};

/// Runs every mutant, each in a process of its own, since some of them end it.
std::vector<mutant_row> run_mutants(const mutant_options& options);

/// A family, and the mutants that nothing kills any more when it is switched off.
struct ablation {
  std::string family;
  std::size_t helps = 0;               ///< to kill so many
  std::vector<std::string> survivors;  ///< without it
};

/// Runs those mutants again that `rows` were killed with the help of a family, without that family: five times the
/// seeds that it took before, at least 100 and at most `options.seeds`. (A kill that does not take a family is the same
/// run when the family is off.)
std::vector<ablation> ablate(const std::vector<mutant_row>& rows, const mutant_options& options);

std::string as_text(const std::vector<mutant_row>& rows);
std::string as_markdown(const std::vector<mutant_row>& rows);
nlohmann::ordered_json as_json(const std::vector<mutant_row>& rows, const mutant_options& options);

std::string as_text(const std::vector<ablation>& without);
std::string as_markdown(const std::vector<ablation>& without);
nlohmann::ordered_json as_json(const std::vector<ablation>& without);

}  // namespace lockstep::scenarios
