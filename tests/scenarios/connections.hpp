// What the scenarios over connections share: options as programs may choose them, the faults that they meet, and what
// may come of those.
#pragma once

#include "scenarios.hpp"

#include "lockstep/rpc/link.hpp"
#include "lockstep/rpc/server.hpp"
#include "lockstep/sim/check/violation.hpp"

#include <algorithm>
#include <exception>
#include <optional>
#include <string>

namespace lockstep::scenarios {

using channel_type = basic_channel<sim::env>;
using link_type = basic_link<sim::env>;
using server_type = basic_server<sim::env>;

constexpr std::uint16_t port = 7000;

/// Remembers the first thing that is wrong: a block between the finder and the program may swallow exceptions.
class findings {
 public:
  explicit findings(sim::simulation& of) : of_(of) {}

  void must(const sim::check::violation& found) {
    if (found && !first_) first_ = *found;
  }
  void must(bool holds, const std::string& text) {
    if (!holds && !first_) first_ = text;
  }
  [[nodiscard]] const std::optional<std::string>& first() const noexcept { return first_; }

  /// Whether a fault of one of these families may have had a part in what happened on `on` since `begin`: it had not
  /// been over for `aftermath` by then.
  [[nodiscard]] bool disturbed(duration begin, duration aftermath, const sim::node* on = nullptr,
                               sim::fault_set families = sim::fault_set::all()) const {
    const duration now = of_.in().elapsed();
    for (const sim::fault_event& each : of_.plan()) {
      if (!families.has(each.family) || (on && each.target != on->index)) continue;
      if (each.at <= now && each.at + each.lasts + aftermath >= begin) return true;
    }
    return false;
  }

 private:
  sim::simulation& of_;
  std::optional<std::string> first_;
};

/// How connections end. Anything else is a mistake of somebody's, since TCP changes no bytes.
inline bool is_transport_failure(const std::error_code& code) {
  return code == asio::error::eof || code == asio::error::connection_reset || code == asio::error::broken_pipe ||
         code == asio::error::timed_out || code == asio::error::connection_refused ||
         code == asio::error::connection_aborted || code == errc::truncated || code == errc::idle_timeout ||
         code == errc::timed_out || code == errc::closed;
}

// Runs `task`, which may use what its caller awaits this with, and cancels it after a while.
inline awaitable<void> cancel_after(sim::env& on, awaitable<void> task, duration after) {
  const bool throws = co_await this_coro::throw_if_cancelled();
  co_await this_coro::throw_if_cancelled(false);
  task_group one(on.get_executor());
  one.spawn(std::move(task));
  std::exception_ptr failure;
  try {
    co_await pause(on, after);
  } catch (const std::system_error&) {
    failure = std::current_exception();
  }
  one.cancel();
  try {
    co_await one.join();
  } catch (const std::system_error&) {
    if (!failure) failure = std::current_exception();
  }
  co_await this_coro::throw_if_cancelled(throws);
  if (failure) std::rethrow_exception(failure);
}

inline sim::fault_plan_options network_faults(duration lasts) {
  sim::fault_plan_options faults;
  faults.lasts = lasts;
  faults.families = sim::fault_set()
                        .with(sim::fault_family::crash)
                        .with(sim::fault_family::power_loss)
                        .with(sim::fault_family::pause)
                        .with(sim::fault_family::partition)
                        .with(sim::fault_family::reset)
                        .with(sim::fault_family::slow_network)
                        .with(sim::fault_family::partial_io)
                        .with(sim::fault_family::clock);
  faults.often = 2;
  faults.longest = 3s;
  return faults;
}

/// Sizes as programs have them: many small ones, some at the limit.
inline std::size_t drawn_size(sim::random_stream& random, std::size_t most) {
  const std::uint64_t kind = random.below(100);
  if (kind < 3) return 0;
  if (kind < 5) return most;
  if (kind < 85) return random.below(std::min<std::size_t>(most, 300) + 1);
  return random.below(most + 1) >> random.below(6);
}

inline channel_options drawn_channel_options(sim::random_stream& random, std::size_t max_frame_bytes, node_id node) {
  channel_options options;
  options.cluster = "scenario";
  options.node = node;
  options.max_frame_bytes = max_frame_bytes;
  options.read_buffer_bytes = std::size_t{64} << random.below(11);
  options.send_queue_bytes = std::size_t{128} << random.below(10);
  options.coalesce_bytes = std::size_t{64} << random.below(10);
  options.copy_bytes = std::size_t{16} << random.below(11);
  options.handshake_timeout = std::chrono::milliseconds(random.between(200, 2000));
  options.close_timeout = std::chrono::milliseconds(random.between(50, 2000));
  // Keepalives come in time for every drawn timeout: they are due after a half more, by a clock that is a tenth slower.
  options.idle_timeout = std::chrono::milliseconds(random.between(1200, 2500));
  options.keepalive = std::chrono::milliseconds(random.between(50, 300));
  return options;
}

inline link_options drawn_link_options(sim::random_stream& random, std::size_t max_frame_bytes, node_id node,
                                       const char* purpose) {
  link_options options;
  options.channel = drawn_channel_options(random, max_frame_bytes, node);
  options.channel.purpose = purpose;
  options.connect_timeout = std::chrono::milliseconds(random.between(100, 2000));
  options.backoff_base = std::chrono::milliseconds(random.between(5, 100));
  options.backoff_max = std::chrono::milliseconds(random.between(100, 2000));
  return options;
}

inline void no_program_may_fail(sim::simulation& of, findings& wrong) {
  of.on_end = [&wrong](sim::node& ended) {
    if (!ended.failure_text().empty()) wrong.must(false, ended.name + " ended by: " + ended.failure_text());
  };
}

}  // namespace lockstep::scenarios
