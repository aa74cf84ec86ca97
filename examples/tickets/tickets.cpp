// The office and a visitor on real disks and networks. `tickets office DIRECTORY ADDRESS`, `tickets visit ADDRESS
// COUNT`.
#include "tickets.hpp"

#include <asio/io_context.hpp>

#include <iostream>

namespace {

using namespace tickets;

awaitable<void> chosen(real::env& env, std::span<char*> words) {
  const std::string_view what = words.size() == 3 ? words[0] : "";
  const auto where = address::parse(what == "office" ? words[2] : what == "visit" ? words[1] : "");
  if (!where) throw std::invalid_argument("usage: tickets office DIRECTORY ADDRESS | tickets visit ADDRESS COUNT");
  if (what == "office") return office(env, words[1], *where);
  return visit(env, *where, std::stoull(words[2]), [](std::uint64_t number) { std::cout << number << std::endl; });
}

}  // namespace

int main(int argc, char** argv) try {
  asio::io_context io;
  real::env env(io.get_executor());
  asio::co_spawn(io, chosen(env, std::span(argv, static_cast<std::size_t>(argc)).subspan(1)), [](std::exception_ptr e) {
    if (e) std::rethrow_exception(e);
  });
  io.run();
} catch (const std::exception& error) {
  std::cerr << "tickets: " << error.what() << "\n";
  return 1;
}
