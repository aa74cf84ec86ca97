// A scenario that must fail: a program that says "done" before anything is durable. It shows that failures are found,
// shrunk and replayed.
#include "scenarios.hpp"

#include "lockstep/core/endian.hpp"

namespace lockstep::scenarios {
namespace {

struct ledger {
  std::uint64_t promised = 0;
};

awaitable<void> careless(sim::env& on, ledger& book) {
  std::error_code ec;
  sim::env::file file = on.open("/count", open_mode::create, ec);
  if (ec) throw std::system_error(ec, "/count");
  std::array<std::byte, 8> bytes{};
  (void)file.pread(0, bytes, ec);
  if (ec) throw std::system_error(ec, "/count");
  std::uint64_t count = load_le<std::uint64_t>(bytes.data());
  if (count < book.promised) {
    throw std::logic_error("counted to " + std::to_string(count) + " after it had promised " +
                           std::to_string(book.promised));
  }
  for (;;) {
    store_le(bytes.data(), ++count);
    const bytes_view view(bytes);
    file.pwrite(0, {&view, 1}, ec);
    if (ec) throw std::system_error(ec, "/count");
    book.promised = count;  // before the sync
    co_await pause(on, 100ms);
    ec = co_await file.datasync(sync_on::disk_thread);
    if (!ec) ec = co_await on.sync_directory("/", sync_on::disk_thread);
    if (ec) throw std::system_error(ec, "/count");
  }
}

void run(sim::simulation& of) {
  const auto owner = std::make_shared<ledger>();
  ledger& book = *owner;
  of.keep(owner);
  for (const char* const name : {"a", "b", "c"}) {
    if (name[0] == 'b')
      of.add(name, [&book](sim::env& on) { return careless(on, book); });
    else
      of.add(name, [](sim::env& on) { return pause(on, 1h); });
  }
  of.chaos();
  of.calm();
  of.in().run_for(5s);
}

}  // namespace

sim::scenario canary() { return {"canary", "counts, and promises each count before it is durable: must fail", &run}; }

}  // namespace lockstep::scenarios
