#include "common/cli.hpp"

#include <exception>
#include <memory>
#include <system_error>

#include <fmt/format.h>
#include <unistd.h>

#include "common/logging.hpp"
#include "common/signals.hpp"
#include "common/terminal.hpp"

#ifndef LOCKSTEP_VERSION
#define LOCKSTEP_VERSION "unknown"
#endif

namespace lockstep::examples {
namespace {

class examples_first final : public CLI::Formatter {
 public:
  explicit examples_first(std::vector<example> examples) : examples_(std::move(examples)) { column_width(34); }

  std::string make_help(const CLI::App* app, std::string name, CLI::AppFormatMode mode) const override {
    std::string text = "Examples:\n";
    for (const auto& [purpose, command] : examples_) text += fmt::format("  # {}\n  {}\n", purpose, command);
    return text + "\n" + CLI::Formatter::make_help(app, std::move(name), mode);
  }

 private:
  std::vector<example> examples_;
};

std::string_view base_name(std::string_view path) {
  const std::size_t slash = path.rfind('/');
  return slash == std::string_view::npos ? path : path.substr(slash + 1);
}

void print_error(std::string_view program_name, std::string_view what) {
  status_line::standard_error().write_lines(fmt::format("{}: error: {}\n", program_name, what));
}

exit_code run_and_explain(std::string_view program_name, const std::function<exit_code()>& body) {
  try {
    return body();
  } catch (const exit_error& error) {
    if (*error.what() != '\0') print_error(program_name, error.what());
    return error.code();
  } catch (const CLI::Error& error) {
    print_error(program_name, error.what());
    return from_cli11(error.get_exit_code());
  } catch (const std::system_error& error) {
    print_error(program_name, error.what());
    return from_error(error.code());
  } catch (const std::exception& error) {
    print_error(program_name, error.what());
    return exit_code::failure;
  }
}

/// The command that the arguments name, and how they name it ("cityhall client put").
std::pair<CLI::App*, std::string> chosen_command(CLI::App& root) {
  CLI::App* chosen = &root;
  std::string path = root.get_name();
  while (!chosen->get_subcommands().empty()) {
    chosen = chosen->get_subcommands().front();
    path += " " + chosen->get_name();
  }
  return {chosen, path};
}

std::string names_of_commands(const CLI::App& app) {
  std::string names;
  for (const CLI::App* command : app.get_subcommands([](const CLI::App*) { return true; })) {
    names += (names.empty() ? "" : ", ") + command->get_name();
  }
  return names;
}

std::string explain(CLI::App& root, const CLI::ParseError& error) {
  const auto [chosen, path] = chosen_command(root);
  std::string what = error.what();
  const bool extra = dynamic_cast<const CLI::ExtrasError*>(&error) != nullptr;
  const bool missing = dynamic_cast<const CLI::RequiredError*>(&error) != nullptr;
  const bool command_missing = missing && chosen->get_require_subcommand_min() > 0;
  // CLI11 complains about the missing command first, and about the misspelt one not at all.
  const auto unknown = root.remaining(true);
  if (command_missing) {
    what = unknown.empty() ? "a command is missing" : fmt::format("unknown command '{}'", unknown.front());
    what += fmt::format(", expected one of {}", names_of_commands(*chosen));
  } else if (!unknown.empty() && (missing || extra)) {
    what = fmt::format("unexpected argument '{}'", unknown.front());
  }
  return fmt::format("{}\nRun '{} --help' for examples.", what, path);
}

}  // namespace

int run_main(int argc, const char* const* argv, const std::function<exit_code()>& body) {
  ignore_broken_pipes();
  const std::string_view program_name = argc > 0 ? base_name(argv[0]) : "program";
  const exit_code code = run_and_explain(program_name, body);
  const exit_code flushed = run_and_explain(program_name, [] {
    flush_out();
    return exit_code::ok;
  });
  return static_cast<int>(code == exit_code::ok ? flushed : code);
}

program::program(std::string name, std::string description, std::vector<example> examples, action run)
    : app_(std::move(description), std::move(name)) {
  app_.footer(exit_code_help());
  app_.set_version_flag("--version",
                        fmt::format("{} {} (lockstep {})", app_.get_name(), LOCKSTEP_VERSION, LOCKSTEP_VERSION),
                        "Print the version and exit");
  add_parsed(app_, "--log-level", log_level_, parse_log_level, fmt::format("{{{}}}", log_level_names),
             "How much to log on standard error")
      ->default_str("info");
  set_up(app_, std::move(examples), std::move(run));
}

CLI::App& program::add_command(CLI::App& parent, std::string name, std::string description,
                               std::vector<example> examples, action run) {
  // At most one command per level: CLI11 would take a key or a value that is spelt like a command for one.
  parent.require_subcommand(actions_.contains(&parent) ? 0 : 1, 1);
  CLI::App& app = *parent.add_subcommand(std::move(name), std::move(description));
  app.group("Commands")->fallthrough();
  set_up(app, std::move(examples), std::move(run));
  return app;
}

void program::set_up(CLI::App& app, std::vector<example> examples, action run) {
  app.formatter(std::make_shared<examples_first>(std::move(examples)));
  app.set_help_flag("-h,--help", "Print this help and exit");
  app.get_formatter()->label("SUBCOMMAND", "COMMAND");
  if (run) actions_.emplace(&app, std::move(run));
}

std::optional<program::action> program::parse(int argc, const char* const* argv) {
  try {
    app_.parse(argc, argv);
  } catch (const CLI::CallForHelp&) {
    write_out(app_.help());
    return std::nullopt;
  } catch (const CLI::CallForVersion& version) {
    write_out(std::string(version.what()) + "\n");
    return std::nullopt;
  } catch (const CLI::ParseError& error) {
    throw usage_error(explain(app_, error));
  }
  return actions_.at(chosen_command(app_).first);
}

int program::run(int argc, const char* const* argv) {
  return run_main(argc, argv, [&] {
    const auto chosen = parse(argc, argv);
    if (!chosen) return exit_code::ok;
    init_logging(app_.get_name(), log_level_);
    return (*chosen)();
  });
}

CLI::Option* add_output(CLI::App& app, output_format& target) {
  return add_parsed(app, "-o,--output", target, parse_output_format, "{text,json}", "How to print the result")
      ->default_str("text");
}

}  // namespace lockstep::examples
