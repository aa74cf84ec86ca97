// Command lines on CLI11, alike in every example program: examples before anything else in --help, typed options with
// errors that quote the text, one place that turns exceptions into exit codes.
//
//   int main(int argc, char** argv) {
//     program p("cityhall", "A key-value store that ships its log.", {{"start a leader", "cityhall leader --port
//     7878"}}); leader_options options; auto& leader = p.add_command(p.root(), "leader", "Run a leader.", {{"on any
//     free port", "cityhall leader --port 0"}},
//                                  [&] { return run_leader(options); });
//     add_port(leader, "--port", options.port, "Port for clients");
//     return p.run(argc, argv);
//   }
#pragma once

#include <chrono>
#include <concepts>
#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include <spdlog/common.h>
#include <CLI/CLI.hpp>

#include "common/exit_codes.hpp"
#include "common/output.hpp"
#include "common/values.hpp"

namespace lockstep::examples {

/// Run `body` as a program's main: prints `program: error: …` on standard error for what it throws and returns the exit
/// code. exit_error gives its own code, std::system_error goes through from_error(), any other std::exception gives 70
/// (failure). What is not a std::exception is a defect and ends the process by std::terminate, with its core dump.
/// Standard output is flushed and its errors count; SIGPIPE is ignored.
int run_main(int argc, const char* const* argv, const std::function<exit_code()>& body);

/// A command as it can be pasted into a shell, and what it is good for.
struct example {
  std::string purpose;
  std::string command;
};

/// A command line with --help, --version, --log-level and nested commands.
class program {
 public:
  using action = std::function<exit_code()>;

  /// `run` is what the program does without a command; leave it empty when it needs one.
  program(std::string name, std::string description, std::vector<example> examples, action run = {});

  [[nodiscard]] CLI::App& root() noexcept { return app_; }

  /// Add a command below `parent` (the root or another command); `run` is called when it is the last one named. Leave
  /// `run` empty for a group of commands, which then needs one of them. The reference is valid as long as this is.
  /// Options of a parent may also stand after its commands' names. An option that a parent needs but its commands do
  /// not must not be CLI11-required(): check it in `run` and throw usage_error().
  CLI::App& add_command(CLI::App& parent, std::string name, std::string description, std::vector<example> examples,
                        action run = {});

  [[nodiscard]] spdlog::level::level_enum log_level() const noexcept { return log_level_; }

  /// Parse, set up logging, then call the chosen action, all under run_main().
  int run(int argc, const char* const* argv);

  /// Only parse. @return nothing when --help or --version was answered on standard output.
  /// @throws exit_error{usage}
  std::optional<action> parse(int argc, const char* const* argv);

 private:
  void set_up(CLI::App& app, std::vector<example> examples, action run);

  CLI::App app_;
  std::map<const CLI::App*, action> actions_;
  spdlog::level::level_enum log_level_ = spdlog::level::info;
};

namespace detail {
template <typename T>
struct stored {
  using type = T;
};
template <typename T>
struct stored<std::optional<T>> {
  using type = T;
};
}  // namespace detail

/// An option or positional whose text goes through `parse` into `target`, a T or an optional<T>; std::invalid_argument
/// becomes a usage error that names the option. `target` must live as long as the program. Given twice: an error.
template <typename Target, std::invocable<std::string_view> Parse>
CLI::Option* add_parsed(CLI::App& app, const std::string& name, Target& target, Parse parse,
                        const std::string& type_name, const std::string& description) {
  const auto assign = [&target, parse, name](const std::string& text) {
    try {
      target = parse(std::string_view(text));
    } catch (const std::invalid_argument& error) {
      throw CLI::ValidationError(name, error.what());
    }
  };
  return app.add_option_function<std::string>(name, assign, description)->type_name(type_name);
}

/// HOST:PORT, [V6]:PORT or unix:PATH. The default, if any, is shown.
template <typename Target>
requires std::same_as<typename detail::stored<Target>::type, address> CLI::Option* add_address(
    CLI::App& app, const std::string& name, Target& target, const std::string& description) {
  CLI::Option* option = add_parsed(app, name, target, parse_address, "HOST:PORT", description);
  if constexpr (std::same_as<Target, address>) {
    if (target != address{}) option->default_str(target.to_string());
  }
  return option;
}

/// 0 to 65535. The default is shown unless it is 0.
template <typename Target>
requires std::same_as<typename detail::stored<Target>::type, std::uint16_t> CLI::Option* add_port(
    CLI::App& app, const std::string& name, Target& target, const std::string& description) {
  CLI::Option* option = add_parsed(app, name, target, parse_port, "PORT", description);
  if constexpr (std::same_as<Target, std::uint16_t>) {
    if (target != 0) option->default_str(std::to_string(target));
  }
  return option;
}

/// "800ms", "2s", "1m"; finer than Target counts is an error. The default is shown unless it is 0.
template <typename Target>
requires std::constructible_from<std::chrono::nanoseconds, typename detail::stored<Target>::type> CLI::Option*
add_duration(CLI::App& app, const std::string& name, Target& target, const std::string& description) {
  using duration = typename detail::stored<Target>::type;
  const auto parse = [](std::string_view text) {
    const std::chrono::nanoseconds exact = parse_duration(text);
    const auto rounded = std::chrono::duration_cast<duration>(exact);
    if (rounded != exact) {
      throw std::invalid_argument("'" + std::string(text) + "': too fine, expected a multiple of " +
                                  format_duration(duration{1}));
    }
    return rounded;
  };
  CLI::Option* option = add_parsed(app, name, target, parse, "DURATION", description);
  if constexpr (std::same_as<Target, duration>) {
    if (target != duration::zero()) option->default_str(format_duration(target));
  }
  return option;
}

/// "64MiB", "1G". The default is not shown: write it in `description` as people say it.
template <typename Target>
requires std::unsigned_integral<typename detail::stored<Target>::type> CLI::Option* add_size(
    CLI::App& app, const std::string& name, Target& target, const std::string& description) {
  static_assert(sizeof(typename detail::stored<Target>::type) == sizeof(std::uint64_t));
  return add_parsed(app, name, target, parse_size, "SIZE", description);
}

/// `-o,--output text|json`.
CLI::Option* add_output(CLI::App& app, output_format& target);

}  // namespace lockstep::examples
