// What the scenarios over connections share: options as programs may choose them, the faults that they meet, and what
// may come of those.
#pragma once

#include "scenarios.hpp"

#include "lockstep/rpc/link.hpp"
#include "lockstep/rpc/server.hpp"
#include "lockstep/sim/check/violation.hpp"

#include <algorithm>
#include <exception>
#include <map>
#include <optional>
#include <string>
#include <utility>

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

  /// Whether connections may end so. Anything else is a mistake of somebody's; what names altered bytes is one unless
  /// the network has altered some.
  [[nodiscard]] bool may_end_by(const std::error_code& code) const {
    if (code == asio::error::eof || code == asio::error::connection_reset || code == asio::error::broken_pipe ||
        code == asio::error::timed_out || code == asio::error::connection_refused ||
        code == asio::error::connection_aborted || code == errc::truncated || code == errc::idle_timeout ||
        code == errc::timed_out || code == errc::closed) {
      return true;
    }
    const bool names_altered_bytes = code == errc::bad_checksum || code == errc::malformed ||
                                     code == errc::frame_too_large || code == errc::not_lockstep ||
                                     code == errc::wrong_version || code == errc::remote_failure;
    return names_altered_bytes && bytes_altered();
  }
  [[nodiscard]] bool bytes_altered() const { return of_.in().net().bytes_corrupted() != 0; }

 private:
  sim::simulation& of_;
  std::optional<std::string> first_;
};

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
                        .with(sim::fault_family::clock)
                        .with(sim::fault_family::corruption);
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

/// What a link tells of itself must fit together. Lies beside it.
class link_watch {
 public:
  /// @param at  which node listens where.
  link_watch(sim::env& on, findings& wrong, const link_options& options, std::map<std::string, node_id> at)
      : on_(on), wrong_(wrong), options_(options), at_(std::move(at)) {}

  void operator()(const link_report& report) {
    const bool was_redirected = std::exchange(redirected_, false);
    if (report.state == link_state::closed) return;
    if (was_redirected) {
      wrong_.must(report.state == link_state::connecting && report.where == where_,
                  "a link that was redirected does not connect at once");
    }
    if (report.state == link_state::up) {
      wrong_.must(report.peer.node == at_.at(report.where.host),
                  "a link to " + report.where.to_string() + " is up with node " + std::to_string(report.peer.node));
    }
    if (report.state == link_state::waiting && report.failures != 0) check_wait(report);
  }

  /// Redirects `link`, which must not wait before it connects then.
  void redirect(link_type& link, address where) {
    if (link.report().where != where && link.report().state != link_state::closed) redirected_ = true;
    where_ = where;
    link.redirect(std::move(where));
  }

 private:
  void check_wait(const link_report& report) {
    wrong_.must(report.error && !report.text.empty(), "a link that waits does not say why");
    duration limit = options_.backoff_base;
    for (unsigned i = 1; i < report.failures && limit < options_.backoff_max; ++i) limit *= 2;
    limit = std::min(limit, options_.backoff_max);
    const duration wait = report.next_attempt - on_.now();
    wrong_.must(wait >= limit / 2 && wait <= limit, "after " + std::to_string(report.failures) +
                                                        " failures a link waits " + std::to_string(wait.count()) +
                                                        " ns, with a limit of " + std::to_string(limit.count()));
  }

  sim::env& on_;
  findings& wrong_;
  const link_options options_;
  const std::map<std::string, node_id> at_;
  address where_;
  bool redirected_ = false;
};

/// A link that is not closed, by whoever sets `closing`, goes on for ever.
inline awaitable<void> run_link(link_type& link, findings& wrong, const bool& closing) {
  co_await link.run();
  wrong.must(closing, "a link ended by itself, after: " + link.report().text);
}

inline void no_program_may_fail(sim::simulation& of, findings& wrong) {
  of.on_end = [&wrong](sim::node& ended) {
    if (!ended.failure_text().empty()) wrong.must(false, ended.name + " ended by: " + ended.failure_text());
  };
}

}  // namespace lockstep::scenarios
