// Logs go to standard error, results to standard output: a pipe never mixes them.
//
// A line: `2024-05-01T12:00:00.123+0200 info    [replica] caught up at 3.17`. The level is coloured on a terminal only
// (NO_COLOR is honoured), and lines do not tear a progress bar.
#pragma once

#include <memory>
#include <string>
#include <string_view>

#include <spdlog/spdlog.h>

namespace lockstep::examples {

/// The levels of --log-level, for its help and its errors.
inline constexpr std::string_view log_level_names = "trace,debug,info,warn,error,off";

/// @throws std::invalid_argument naming `text` when it is none of log_level_names.
spdlog::level::level_enum parse_log_level(std::string_view text);

/// Set up spdlog: the default logger is called `program`, and every logger, made before or later, has `level`.
/// program::run() calls it. Call it on one thread, before others log.
void init_logging(const std::string& program, spdlog::level::level_enum level);

/// The logger of one component, made at first use; the same object for the same name. Logging is thread-safe, the
/// first use of a name is not.
std::shared_ptr<spdlog::logger> component_logger(const std::string& component);

}  // namespace lockstep::examples
