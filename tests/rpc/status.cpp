#include "lockstep/rpc/status.hpp"

#include <gtest/gtest.h>

#include <string>
#include <system_error>

namespace lockstep {
namespace {

TEST(rpc_status, says_that_the_outcome_is_unknown_only_when_it_is) {
  for (const errc code : {errc::timed_out, errc::closed}) {
    const std::string words = make_error_code(code).message();
    EXPECT_EQ(rpc_status(code).message(), words);
    EXPECT_EQ(rpc_status(code, true).message(), words + ", outcome unknown");
    EXPECT_EQ(words.find("unknown"), std::string::npos);
  }
}

TEST(rpc_status, of_a_handlers_error_says_its_words) {
  EXPECT_EQ(rpc_status(errc::remote_failure, 7, "no such key").message(), "no such key");
}

TEST(rpc_status, that_is_thrown_says_its_message) {
  EXPECT_NO_THROW(rpc_status().throw_if_failed());
  try {
    rpc_status(errc::timed_out, true).throw_if_failed();
    FAIL();
  } catch (const std::system_error& thrown) {
    EXPECT_EQ(thrown.code(), errc::timed_out);
    EXPECT_NE(std::string(thrown.what()).find("outcome unknown"), std::string::npos);
  }
}

}  // namespace
}  // namespace lockstep
