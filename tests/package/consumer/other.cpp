#include <lockstep.hpp>

#include <asio/io_context.hpp>

#include <exception>
#include <stdexcept>
#include <string>

using namespace lockstep;

namespace {

awaitable<void> read(real::env& env, std::string directory, std::string& record) {
  auto opened = co_await append_log::open(env, directory);
  if (!opened.log) throw std::runtime_error(opened.report.reason);
  cursor reader(*opened.log, opened.log->first_index());
  const record_batch batch = co_await reader.next(64 * 1024);
  for (const auto each : batch) record += as_text(each.payload);
  co_await opened.log->close();
}

}  // namespace

std::string first_record(const std::string& directory) {
  std::string record;
  asio::io_context io;
  real::env env(io.get_executor());
  asio::co_spawn(io, read(env, directory, record), [](std::exception_ptr e) {
    if (e) std::rethrow_exception(e);
  });
  io.run();
  return record;
}
