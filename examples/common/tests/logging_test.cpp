#include "common/logging.hpp"

#include <cstdlib>
#include <regex>
#include <stdexcept>

#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include "common/terminal.hpp"

namespace lockstep::examples {
namespace {

TEST(parse_log_level, KnowsItsNames) {
  EXPECT_EQ(parse_log_level("trace"), spdlog::level::trace);
  EXPECT_EQ(parse_log_level("warn"), spdlog::level::warn);
  EXPECT_EQ(parse_log_level("error"), spdlog::level::err);
  EXPECT_EQ(parse_log_level("off"), spdlog::level::off);
  try {
    (void)parse_log_level("loud");
    FAIL() << "must throw";
  } catch (const std::invalid_argument& error) {
    EXPECT_STREQ(error.what(), "'loud': expected one of trace,debug,info,warn,error,off");
  }
}

TEST(logging, WritesStampedLinesWithTheirComponentToStandardErrorOnly) {
  testing::internal::CaptureStdout();
  testing::internal::CaptureStderr();
  init_logging("cityhall", spdlog::level::info);
  component_logger("replica")->info("caught up at {}", 7);
  component_logger("replica")->debug("not shown");
  spdlog::error("default logger");
  const std::string err = testing::internal::GetCapturedStderr();
  EXPECT_EQ(testing::internal::GetCapturedStdout(), "");
  const std::regex lines(R"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}[+-]\d\d:?\d\d info    \[replica\] caught up at 7\n)"
                         R"(\S+ error   \[cityhall\] default logger\n)");
  EXPECT_TRUE(std::regex_match(err, lines)) << err;
}

TEST(logging, ChangesTheLevelOfLoggersMadeBefore) {
  const auto logger = component_logger("early");
  init_logging("cityhall", spdlog::level::debug);
  EXPECT_EQ(logger->level(), spdlog::level::debug);
  EXPECT_EQ(component_logger("early"), logger);
  init_logging("cityhall", spdlog::level::off);
  EXPECT_EQ(logger->level(), spdlog::level::off);
}

class environment_variable {
 public:
  environment_variable(const char* name, const char* value) : name_(name) {
    if (const char* old = std::getenv(name)) old_ = old;
    value ? ::setenv(name, value, 1) : ::unsetenv(name);
  }
  ~environment_variable() { old_ ? ::setenv(name_, old_->c_str(), 1) : ::unsetenv(name_); }

 private:
  const char* name_;
  std::optional<std::string> old_;
};

TEST(terminal, ColourNeedsATerminalAndNoNoColor) {
  const int pty = ::posix_openpt(O_RDWR | O_NOCTTY);
  ASSERT_GE(pty, 0);
  const environment_variable term("TERM", "xterm");
  {
    const environment_variable unset("NO_COLOR", nullptr);
    EXPECT_TRUE(is_terminal(pty));
    EXPECT_TRUE(wants_colour(pty));
  }
  {
    const environment_variable empty("NO_COLOR", "");
    EXPECT_TRUE(wants_colour(pty));
  }
  {
    const environment_variable set("NO_COLOR", "1");
    EXPECT_TRUE(is_terminal(pty));
    EXPECT_FALSE(wants_colour(pty));
  }
  {
    const environment_variable dumb("TERM", "dumb");
    EXPECT_FALSE(is_terminal(pty));
  }
  ::close(pty);
  const int file = ::open("/dev/null", O_WRONLY);
  EXPECT_FALSE(is_terminal(file));
  EXPECT_FALSE(wants_colour(file));
  ::close(file);
}

}  // namespace
}  // namespace lockstep::examples
