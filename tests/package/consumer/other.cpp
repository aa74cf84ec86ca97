#include <lockstep.hpp>

#include <asio/io_context.hpp>

#include <cstdint>
#include <string_view>

std::uint64_t hash_in_other_unit(std::string_view text) { return lockstep::xxh3_64(lockstep::as_bytes(text)); }

namespace {
lockstep::awaitable<void> set(bool* done) {
  *done = true;
  co_return;
}
}  // namespace

bool coroutine_runs_in_other_unit(asio::io_context& io) {
  bool done = false;
  lockstep::real::env env(io.get_executor());
  lockstep::task_group tasks(env.get_executor());
  tasks.spawn(set(&done));
  io.run();
  return done && tasks.idle();
}
