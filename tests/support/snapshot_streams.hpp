// Snapshots of state machines in memory.
#pragma once

#include "lockstep/core/asio_compat.hpp"
#include "lockstep/core/bytes.hpp"
#include "lockstep/raft/state_machine.hpp"

#include <asio/io_context.hpp>

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <exception>
#include <functional>
#include <system_error>
#include <utility>

namespace lockstep::test {

/// Keeps what is written. `meanwhile` runs in each write, as whatever else the node does while a snapshot is written.
class memory_sink final : public raft::snapshot_sink {
 public:
  explicit memory_sink(std::function<void()> meanwhile = {}) : meanwhile_(std::move(meanwhile)) {}

  awaitable<void> write(bytes_view bytes) override {
    if (meanwhile_) meanwhile_();
    bytes_.append(bytes);
    co_return;
  }
  [[nodiscard]] byte_buffer take() { return std::move(bytes_); }

 private:
  std::function<void()> meanwhile_;
  byte_buffer bytes_;
};

/// Gives pieces of up to `piece` bytes.
class memory_source final : public raft::snapshot_source {
 public:
  memory_source(bytes_view bytes, std::size_t piece) : rest_(bytes), piece_(piece) {}

  awaitable<std::size_t> read(mutable_bytes into) override {
    const std::size_t count = std::min({into.size(), rest_.size(), piece_});
    if (count != 0) std::memcpy(into.data(), rest_.data(), count);
    rest_ = rest_.subspan(count);
    co_return count;
  }

 private:
  bytes_view rest_;
  std::size_t piece_;
};

/// Runs what waits for nothing but memory. Its exception is rethrown.
inline void run_in_memory(awaitable<void> task) {
  asio::io_context io;
  std::exception_ptr failure;
  asio::co_spawn(io, std::move(task), [&](std::exception_ptr ended) { failure = ended; });
  io.run();
  if (failure) std::rethrow_exception(failure);
}

template <raft::state_machine Machine>
byte_buffer snapshot_of(Machine& machine, std::function<void()> meanwhile = {}) {
  memory_sink sink(std::move(meanwhile));
  run_in_memory(machine.snapshot(sink));
  return sink.take();
}

/// @return the code of the system_error that it ends by, if it does.
template <raft::state_machine Machine>
std::error_code restore(Machine& machine, bytes_view snapshot, std::size_t piece = 4096) {
  memory_source source(snapshot, piece);
  try {
    run_in_memory(machine.restore(source));
  } catch (const std::system_error& refused) {
    return refused.code();
  }
  return {};
}

}  // namespace lockstep::test
