// One of two units that include all of lockstep: a definition that is not inline does not link twice.
#include <lockstep.hpp>

#include <asio/io_context.hpp>

#include <cstdint>
#include <iostream>
#include <string_view>

std::uint64_t hash_in_other_unit(std::string_view text);
bool coroutine_runs_in_other_unit(asio::io_context& io);

int main() {
  const std::string_view text = "one history";
  if (lockstep::xxh3_64(lockstep::as_bytes(text)) != hash_in_other_unit(text)) {
    std::cerr << "the units disagree on a checksum\n";
    return 1;
  }
  asio::io_context io;
  if (!coroutine_runs_in_other_unit(io)) {
    std::cerr << "a task of a task_group did not run\n";
    return 1;
  }
  std::cout << "lockstep works in both units\n";
}
