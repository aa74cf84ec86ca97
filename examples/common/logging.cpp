#include "common/logging.hpp"

#include <array>
#include <stdexcept>
#include <utility>

#include <fmt/format.h>
#include <spdlog/sinks/base_sink.h>
#include <unistd.h>

#include "common/terminal.hpp"

namespace lockstep::examples {
namespace {

using spdlog::level::level_enum;

constexpr std::array<std::pair<std::string_view, level_enum>, 6> levels{{{"trace", level_enum::trace},
                                                                         {"debug", level_enum::debug},
                                                                         {"info", level_enum::info},
                                                                         {"warn", level_enum::warn},
                                                                         {"error", level_enum::err},
                                                                         {"off", level_enum::off}}};

std::string_view colour_of(level_enum level) {
  switch (level) {
    case level_enum::trace:
    case level_enum::debug: return "\x1b[36m";
    case level_enum::info: return "\x1b[32m";
    case level_enum::warn: return "\x1b[33m";
    default: return "\x1b[31m";
  }
}

class standard_error_sink final : public spdlog::sinks::base_sink<std::mutex> {
 public:
  standard_error_sink() : colour_(wants_colour(STDERR_FILENO)) {}

 private:
  void sink_it_(const spdlog::details::log_msg& message) override {
    message.color_range_start = message.color_range_end = 0;
    spdlog::memory_buf_t formatted;
    formatter_->format(message, formatted);
    const std::string_view line(formatted.data(), formatted.size());
    if (!colour_ || message.color_range_end <= message.color_range_start) return out_.write_lines(line);
    const std::string_view level =
        line.substr(message.color_range_start, message.color_range_end - message.color_range_start);
    out_.write_lines(fmt::format("{}{}{}\x1b[0m{}", line.substr(0, message.color_range_start), colour_of(message.level),
                                 level, line.substr(message.color_range_end)));
  }
  void flush_() override {}

  status_line& out_ = status_line::standard_error();
  const bool colour_;
};

const std::shared_ptr<spdlog::sinks::sink>& shared_sink() {
  static const std::shared_ptr<spdlog::sinks::sink> sink = std::make_shared<standard_error_sink>();
  return sink;
}

std::shared_ptr<spdlog::logger> make_logger(const std::string& name) {
  return std::make_shared<spdlog::logger>(name, shared_sink());
}

}  // namespace

level_enum parse_log_level(std::string_view text) {
  for (const auto& [name, level] : levels) {
    if (name == text) return level;
  }
  throw std::invalid_argument(fmt::format("'{}': expected one of {}", text, log_level_names));
}

void init_logging(const std::string& program, level_enum level) {
  spdlog::drop(program);
  spdlog::set_default_logger(make_logger(program));
  spdlog::set_pattern("%Y-%m-%dT%H:%M:%S.%e%z %^%-7l%$ [%n] %v");
  spdlog::set_level(level);
}

std::shared_ptr<spdlog::logger> component_logger(const std::string& component) {
  if (auto existing = spdlog::get(component)) return existing;
  auto created = make_logger(component);
  spdlog::initialize_logger(created);
  return created;
}

}  // namespace lockstep::examples
