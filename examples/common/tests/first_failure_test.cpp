#include "common/first_failure.hpp"

#include <gtest/gtest.h>
#include <asio/co_spawn.hpp>
#include <asio/io_context.hpp>

#include <stdexcept>
#include <string>

namespace lockstep::examples {
namespace {

awaitable<void> step(std::string& taken, char name, bool fails) {
  taken += name;
  if (fails) throw std::runtime_error(std::string(1, name));
  co_return;
}

awaitable<void> all(std::string& taken, std::string failing) {
  first_failure failure;
  for (const char name : {'a', 'b', 'c'}) {
    const bool fails = failing.find(name) != std::string::npos;
    co_await failure.of(step(taken, name, fails));
  }
  failure.rethrow();
}

TEST(first_failure, EveryStepIsTakenAndTheFirstFailureIsThrown) {
  for (const char* const failing : {"", "a", "c", "bc", "abc"}) {
    asio::io_context io(1);
    std::string taken, thrown;
    asio::co_spawn(io, all(taken, failing), [&](std::exception_ptr ended) {
      try {
        if (ended) std::rethrow_exception(ended);
      } catch (const std::runtime_error& error) {
        thrown = error.what();
      }
    });
    io.run();
    EXPECT_EQ(taken, "abc") << failing;
    EXPECT_EQ(thrown, std::string(failing).substr(0, 1));
  }
}

}  // namespace
}  // namespace lockstep::examples
