#include <lockstep.hpp>

#include <asio/io_context.hpp>

#include <cstdlib>
#include <iostream>

namespace {
lockstep::awaitable<void> set(bool* done) {
  *done = true;
  co_return;
}
}  // namespace

int main() {
  asio::io_context io;
  lockstep::task_group tasks(io.get_executor());
  bool done = false;
  tasks.spawn(set(&done));
  io.run();
  const auto checksum = lockstep::xxh3_64(lockstep::as_bytes("one history"));
  std::cout << "lockstep works, checksum " << checksum << '\n';
  return done ? EXIT_SUCCESS : EXIT_FAILURE;
}
