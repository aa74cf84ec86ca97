#include <lockstep.hpp>
#include <asio/io_context.hpp>
#include <iostream>
using namespace lockstep;

awaitable<void> remember(real::env& env) {
  auto opened = co_await append_log::open(env, "quickstart.log");
  if (!opened.log) throw std::runtime_error(opened.report.reason);  // damaged: nothing was changed
  append_log& log = *opened.log;
  const position at = log.append(log.last().epoch, as_bytes("hello, log"));
  co_await log.durable(at.index);  // from here on it survives kill -9 and power loss
  cursor reader(log, log.first_index());
  const record_batch batch = co_await reader.next(64 * 1024);
  for (const record each : batch) std::cout << each.index << ": " << as_text(each.payload) << '\n';
  co_await log.close();
}

int main() {
  asio::io_context io;
  real::env env(io.get_executor());
  asio::co_spawn(io, remember(env), [](std::exception_ptr e) { if (e) std::rethrow_exception(e); });
  io.run();
}
