// Counts allocations, so that a test can say that there are none. Only in lockstep_allocation_tests, whose
// allocation/counter.cpp replaces the C library's allocator (Asio and operator new both come down to it).
#pragma once

#include <cstddef>

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

}  // namespace lockstep::test
