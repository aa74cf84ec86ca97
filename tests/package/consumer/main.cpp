// One of two units that include all of lockstep and instantiate the same templates: a definition that is not inline
// would not link. This one writes a record to a log, the other reads it back.
#include <lockstep.hpp>

#include <asio/io_context.hpp>

#include <cstdlib>
#include <exception>
#include <filesystem>
#include <iostream>
#include <stdexcept>
#include <string>

using namespace lockstep;

std::string first_record(const std::string& directory);

namespace {

awaitable<void> write(real::env& env, std::string directory) {
  auto opened = co_await append_log::open(env, directory);
  if (!opened.log) throw std::runtime_error(opened.report.reason);
  const position at = opened.log->append(1, as_bytes("one history"));
  co_await opened.log->durable(at.index);
  co_await opened.log->close();
}

}  // namespace

int main() try {
  std::string directory = (std::filesystem::temp_directory_path() / "lockstep-consumer-XXXXXX").string();
  if (::mkdtemp(directory.data()) == nullptr) throw std::runtime_error("cannot make " + directory);

  asio::io_context io;
  real::env env(io.get_executor());
  asio::co_spawn(io, write(env, directory), [](std::exception_ptr e) {
    if (e) std::rethrow_exception(e);
  });
  io.run();
  const std::string record = first_record(directory);
  std::filesystem::remove_all(directory);

  if (record != "one history") throw std::runtime_error("the other unit read: " + record);
  std::cout << "lockstep works in both units\n";
} catch (const std::exception& e) {
  std::cerr << e.what() << '\n';
  return 1;
}
