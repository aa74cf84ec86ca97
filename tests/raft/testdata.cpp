// Runs cases written for another implementation of Raft: every file below the folder that LOCKSTEP_RAFT_TESTDATA names.
//
//   # comment
//   command argument=value argument=(value, value)
//   input
//   ----
//   expected output, up to an empty line
//
// The results must be the same to the byte. `committed` and `vote` ask quorum.hpp; `simple`, `enter-joint` and
// `leave-joint` change one configuration a file, whose members' progress is shown with it.
#include "lockstep/raft/confchange.hpp"
#include "lockstep/raft/progress.hpp"
#include "lockstep/raft/quorum.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <charconv>
#include <cstddef>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iomanip>
#include <map>
#include <optional>
#include <sstream>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace lockstep::raft {
namespace {

// --- The format ---

struct test_case {
  std::size_t line = 0;
  std::string command;
  std::map<std::string, std::vector<std::string>> arguments;
  std::string input;
  std::string expected;
};

std::uint64_t number(std::string_view text) {
  std::uint64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size()) {
    throw std::runtime_error("not a number: " + std::string(text));
  }
  return value;
}

/// `a`, or the elements of `(a, b)`.
std::vector<std::string> elements(std::string text) {
  std::replace_if(
      text.begin(), text.end(), [](char c) { return c == '(' || c == ')' || c == ','; }, ' ');
  std::istringstream words(text);
  std::vector<std::string> result;
  for (std::string word; words >> word;) result.push_back(word);
  return result;
}

void parse_command(std::string line, test_case& to) {
  // Blanks within parentheses separate elements, not arguments.
  int depth = 0;
  std::string tight;
  for (const char c : line) {
    depth += c == '(' ? 1 : c == ')' ? -1 : 0;
    if (depth == 0 || c != ' ') tight += c;
  }
  std::istringstream words(tight);
  words >> to.command;
  for (std::string word; words >> word;) {
    const std::size_t equals = word.find('=');
    if (equals == std::string::npos) throw std::runtime_error("not an argument: " + word);
    to.arguments[word.substr(0, equals)] = elements(word.substr(equals + 1));
  }
}

std::vector<test_case> parse(std::istream& file) {
  std::vector<test_case> cases;
  std::size_t number_of_line = 0;
  std::string line;
  const auto next_line = [&] {
    ++number_of_line;
    return static_cast<bool>(std::getline(file, line));
  };
  while (next_line()) {
    if (line.empty() || line.front() == '#') continue;
    test_case& parsed = cases.emplace_back();
    parsed.line = number_of_line;
    parse_command(line, parsed);
    while (next_line() && line != "----") parsed.input += line + '\n';
    while (next_line() && !line.empty()) parsed.expected += line + '\n';
  }
  return cases;
}

// --- Quorums ---

/// What `committed` and `vote` tell of the voters: the first word is of the first voter that cfg or cfgj names.
std::map<node_id, std::string> words_of_voters(const test_case& of, const std::string& argument) {
  std::vector<std::string> words;
  if (of.arguments.contains(argument)) words = of.arguments.at(argument);
  std::map<node_id, std::string> result;
  std::size_t used = 0;
  for (const std::string& config : {std::string("cfg"), std::string("cfgj")}) {
    if (!of.arguments.contains(config)) continue;
    for (const std::string& id : of.arguments.at(config)) {
      if (id == "zero" || result.contains(number(id))) continue;
      if (used == words.size()) throw std::runtime_error("a voter without a word");
      result[number(id)] = words[used++];
    }
  }
  if (used != words.size()) throw std::runtime_error("more words than voters");
  return result;
}

joint quorum_of(const test_case& of) {
  joint result;
  const auto fill = [&](const std::string& argument, majority& half) {
    if (!of.arguments.contains(argument)) return;
    for (const std::string& id : of.arguments.at(argument)) {
      if (id != "zero") half.insert(number(id));
    }
  };
  fill("cfg", result.incoming);
  fill("cfgj", result.outgoing);
  return result;
}

/// Each voter's index behind a bar, as long as there are voters with a lower index.
std::string chart(const std::map<node_id, std::optional<index_t>>& acked) {
  if (acked.empty()) return "<empty majority quorum>";
  const std::size_t voters = acked.size();
  std::ostringstream out;
  out << std::string(voters, ' ') << "    idx\n";
  for (const auto& [id, index] : acked) {
    const auto lower =
        static_cast<std::size_t>(std::count_if(acked.begin(), acked.end(), [own = index](const auto& other) {
          return other.second.value_or(0) < own.value_or(0);
        }));
    out << (index ? std::string(lower, 'x') + '>' + std::string(voters - lower, ' ') : '?' + std::string(voters, ' '));
    out << ' ' << std::setw(5) << index.value_or(0) << "    (id=" << id << ")\n";
  }
  return out.str();
}

std::string run_committed(const test_case& of) {
  std::map<node_id, std::optional<index_t>> acked;
  for (const auto& [id, word] : words_of_voters(of, "idx")) {
    acked[id] = word == "_" ? std::optional<index_t>() : number(word);
  }
  const joint quorum = quorum_of(of);
  const auto ask = [&](node_id id) { return acked.at(id); };
  const index_t index = of.arguments.contains("cfgj") ? quorum.committed(ask) : quorum.incoming.committed(ask);
  return chart(acked) + (index == every_index ? "∞" : std::to_string(index)) + '\n';
}

std::string run_vote(const test_case& of) {
  const std::map<node_id, std::string> words = words_of_voters(of, "votes");
  const joint quorum = quorum_of(of);
  const auto ask = [&](node_id id) {
    const std::string& word = words.at(id);
    return word == "_" ? std::optional<bool>() : word == "y";
  };
  switch (of.arguments.contains("cfgj") ? quorum.vote(ask) : quorum.incoming.vote(ask)) {
    case vote_result::pending: return "VotePending\n";
    case vote_result::lost: return "VoteLost\n";
    case vote_result::won: return "VoteWon\n";
  }
  return "";
}

// --- Changes ---

std::vector<change> changes_of(const std::string& input) {
  std::istringstream words(input);
  std::vector<change> result;
  for (std::string word; words >> word;) {
    const node_id id = number(std::string_view(word).substr(1));
    switch (word.front()) {
      case 'v': result.push_back({change_type::add_voter, id, {}}); break;
      case 'l': result.push_back({change_type::add_learner, id, {}}); break;
      case 'r': result.push_back({change_type::remove, id, {}}); break;
      case 'u': break;  // tells something else of a member: an address, here, which none of these cases has
      default: throw std::runtime_error("not a change: " + word);
    }
  }
  return result;
}

std::string words_for(change_error error, const std::string& command) {
  switch (error) {
    case change_error::already_joint:
      return command == "simple" ? "can't apply simple config change in joint config" : "config is already joint";
    case change_error::not_joint: return "can't leave a non-joint config";
    case change_error::no_voters_yet: return "can't make a zero-voter config joint";
    case change_error::no_voters_left: return "removed all voters";
    case change_error::too_many_voters: return "more than one voter changed without entering joint config";
    default: return std::string(describe(error));
  }
}

std::string list(const id_set& ids) {
  std::string result;
  for (const node_id id : ids) result += (result.empty() ? "" : " ") + std::to_string(id);
  return '(' + result + ')';
}

class cluster {
 public:
  std::string run(const test_case& of) {
    const index_t last_index = commands_++;
    const std::vector<change> changes = changes_of(of.input);
    const change_result result = apply(of, changes);
    if (!result) return words_for(result.error, of.command) + '\n';
    config_ = result.config;
    std::erase_if(followers_, [&](const auto& each) { return !config_.is_member(each.first); });
    config_.for_each_member([&](node_id id) {
      followers_.try_emplace(id, std::max<index_t>(last_index, 1)).first->second.learner =
          config_.learners.contains(id);
    });
    return show();
  }

 private:
  [[nodiscard]] change_result apply(const test_case& of, const std::vector<change>& changes) const {
    if (of.command == "simple") return simple_change(config_, changes);
    if (of.command == "leave-joint") return leave_joint(config_);
    if (of.command != "enter-joint") throw std::runtime_error("not a command: " + of.command);
    const auto auto_leave = of.arguments.find("autoleave");
    return enter_joint(config_, changes,
                       auto_leave != of.arguments.end() && auto_leave->second == std::vector<std::string>{"true"});
  }

  [[nodiscard]] std::string show() const {
    std::ostringstream out;
    out << "voters=" << list(config_.voters.incoming);
    if (config_.is_joint()) out << "&&" << list(config_.voters.outgoing);
    if (!config_.learners.empty()) out << " learners=" << list(config_.learners);
    if (!config_.learners_next.empty()) out << " learners_next=" << list(config_.learners_next);
    if (config_.auto_leave) out << " autoleave";
    out << '\n';
    for (const auto& [id, each] : followers_) {
      const bool probing = each.state() == progress::state_t::probe;
      out << id << ": " << (probing ? "StateProbe" : "?") << " match=" << each.match() << " next=" << each.next()
          << (each.learner ? " learner" : "") << '\n';
    }
    return out.str();
  }

  configuration config_;
  std::map<node_id, progress> followers_;
  index_t commands_ = 0;  // each stands for a record of the leader's log
};

// --- Files ---

void run_file(const std::filesystem::path& path) {
  std::ifstream file(path);
  const std::vector<test_case> cases = parse(file);
  EXPECT_FALSE(cases.empty()) << path;
  cluster changed;
  for (const test_case& each : cases) {
    const std::string result = each.command == "committed" ? run_committed(each)
                               : each.command == "vote"    ? run_vote(each)
                                                           : changed.run(each);
    EXPECT_EQ(result, each.expected) << path << ':' << each.line;
  }
}

TEST(raft_testdata, every_case_agrees) {
  const char* const folder = std::getenv("LOCKSTEP_RAFT_TESTDATA");
  if (folder == nullptr) GTEST_SKIP() << "LOCKSTEP_RAFT_TESTDATA names no folder of cases";
  if (!std::filesystem::is_directory(folder)) GTEST_SKIP() << "there is no folder " << folder;
  std::size_t files = 0;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(folder)) {
    if (!entry.is_regular_file()) continue;
    ++files;
    run_file(entry.path());
  }
  EXPECT_GT(files, 0u) << "no files below " << folder;
}

}  // namespace
}  // namespace lockstep::raft
