// Counts allocations, so that a test can say that there are none. Only in lockstep_allocation_tests, whose
// allocation/counter.cpp replaces the C library's allocator (Asio and operator new both come down to it).
#pragma once

#include <asio/co_spawn.hpp>
#include <asio/io_context.hpp>

#include <cstddef>
#include <exception>
#include <utility>

#include "lockstep/core/asio_compat.hpp"

namespace lockstep::test {

/// Allocations by any thread since the program began.
std::size_t allocations() noexcept;

/// How many there were since it was made.
class allocation_count {
 public:
  [[nodiscard]] std::size_t operator()() const noexcept { return allocations() - before_; }

 private:
  std::size_t before_ = allocations();
};

/// Runs `io` until `counting` has ended, as programs do: in one call of run(). Each call begins without the memory that
/// Asio keeps for the next operations, and frees it at its end, so that a loop over run_one() allocates at every turn.
/// @return what it counted.
inline std::size_t run_counting(asio::io_context& io, awaitable<std::size_t> counting) {
  std::size_t counted = 0;
  asio::co_spawn(io, std::move(counting), [&](const std::exception_ptr& failure, std::size_t result) {
    io.stop();
    if (failure) std::rethrow_exception(failure);
    counted = result;
  });
  io.restart();
  io.run();
  io.restart();
  return counted;
}

}  // namespace lockstep::test
