#include "lockstep/core/errors.hpp"

#include <gtest/gtest.h>

#include <set>
#include <string>
#include <system_error>

namespace lockstep {
namespace {

// The codes are numbered without a gap: the last is the one before the first without a message.
bool is_known(int value) {
  return std::error_code(value, lockstep_category()).message().find("unknown lockstep error") == std::string::npos;
}
const int last = [] {
  int value = 0;
  while (is_known(value + 1)) ++value;
  return value;
}();

TEST(errors, every_code_has_a_message_of_its_own) {
  EXPECT_GE(last, static_cast<int>(errc::snapshot_required));
  for (int value = last + 1; value < 1000; ++value) EXPECT_FALSE(is_known(value)) << value << " comes after a gap";
  std::set<std::string> messages;
  for (int value = 1; value <= last; ++value) {
    const std::string message = make_error_code(static_cast<errc>(value)).message();
    EXPECT_FALSE(message.empty()) << value;
    EXPECT_TRUE(messages.insert(message).second) << value << " repeats \"" << message << "\"";
  }
}

TEST(errors, a_value_that_is_no_code_says_its_number) {
  for (const int value : {0, -1, last + 1, 12345}) {
    const std::error_code code(value, lockstep_category());
    EXPECT_EQ(code.message(), "unknown lockstep error " + std::to_string(value));
  }
}

TEST(errors, a_code_converts_to_an_error_code_and_compares_with_it) {
  static_assert(std::is_error_code_enum_v<errc>);
  const std::error_code code = errc::corrupt;
  EXPECT_TRUE(code);
  EXPECT_EQ(code, errc::corrupt);
  EXPECT_NE(code, errc::diverged);
  EXPECT_EQ(code.value(), static_cast<int>(errc::corrupt));
  EXPECT_EQ(code.category(), lockstep_category());
  EXPECT_STREQ(code.category().name(), "lockstep");
}

TEST(errors, no_code_equals_the_system_error_of_the_same_number) {
  for (int value = 1; value <= last; ++value) {
    EXPECT_NE(make_error_code(static_cast<errc>(value)), std::error_code(value, std::system_category()));
    EXPECT_NE(make_error_code(static_cast<errc>(value)), std::error_code(value, std::generic_category()));
  }
}

TEST(errors, a_default_error_code_is_no_error_of_ours) {
  EXPECT_NE(std::error_code(), errc::closed);
  EXPECT_FALSE(std::error_code());
}

TEST(errors, thrown_as_system_error_it_says_what_failed) {
  try {
    throw std::system_error(errc::log_locked, "data directory /tmp/x");
  } catch (const std::system_error& error) {
    EXPECT_EQ(error.code(), errc::log_locked);
    EXPECT_EQ(std::string(error.what()), "data directory /tmp/x: log directory is locked by another process");
  }
}

}  // namespace
}  // namespace lockstep
