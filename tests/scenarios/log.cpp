// A log that is appended to, cut and compacted while its machine crashes and its disk fails.
#include "scenarios.hpp"

#include "lockstep/log/append_log.hpp"
#include "lockstep/log/cursor.hpp"
#include "lockstep/sim/check/durability.hpp"
#include "lockstep/sim/check/prefix.hpp"
#include "lockstep/sim/durable_view.hpp"

namespace lockstep::scenarios {
namespace {

using log_type = basic_append_log<sim::env>;

// What a scenario knows of the log, through all of its lives.
struct truth {
  explicit truth(sim::node& on) : disk(on.storage), oracle(disk, "/log") {}
  sim::durable_view disk;
  sim::check::log_history history;
  sim::check::durability_oracle<sim::durable_view> oracle;
  log_options options;
  std::uint64_t number = 0;
  std::uint64_t acknowledged = 0;

  // A cut under way, and what it takes the log back to.
  std::optional<index_t> cutting_to;
  std::uint64_t rewinds_before = 0;

  /// Whoever looks first learns that the cut is done.
  void see_cut(const log_type& log) {
    if (!cutting_to || log.rewinds() == rewinds_before) return;
    sim::simulation::require(history.truncated(*cutting_to));
    cutting_to.reset();
  }
};

void must(const sim::check::violation& found) { sim::simulation::require(found); }

awaitable<void> append_and_wait(sim::env& on, log_type& log, truth& know, std::uint64_t seed) {
  sim::random_stream random(seed);
  std::vector<std::byte> payload;
  epoch_t epoch = log.last().epoch + 1;
  for (;;) {
    const std::uint64_t burst = 1 + random.below(random.chance(0.1) ? 200 : 5);
    try {
      for (std::uint64_t i = 0; i < burst; ++i) {
        payload.resize(random.below(random.chance(0.05) ? 3000 : 200));
        for (std::byte& each : payload) each = static_cast<std::byte>(random());
        if (random.chance(0.02)) ++epoch;
        epoch = std::max(epoch, log.last().epoch);
        const position at = log.append(epoch, payload);
        know.see_cut(log);  // appends are taken again when a cut is done
        must(know.history.appended(at, xxh3_64(payload)));
      }
    } catch (const std::system_error& error) {
      if (error.code() != errc::overloaded && error.code() != std::errc::no_space_on_device) throw;
    }
    const position last = log.last();
    try {
      co_await log.durable(last.index);
      // What the other coroutine cuts off meanwhile promises nothing any more.
      if ((!know.cutting_to || last.index <= *know.cutting_to) && log.position_at(last.index) == last) {
        must(know.history.acknowledged(last.index));
        if (random.chance(0.1)) must(know.oracle.must_hold(last));
        ++know.acknowledged;
      }
    } catch (const std::system_error& error) {
      if (error.code() != errc::out_of_range) throw;
    }
    if (random.chance(0.3)) co_await pause(on, std::chrono::microseconds(random.below(20'000)));
  }
}

awaitable<void> cut_and_compact(sim::env& on, log_type& log, truth& know, std::uint64_t seed) {
  sim::random_stream random(seed);
  for (;;) {
    co_await pause(on, std::chrono::milliseconds(random.below(400)));
    const index_t first = log.base().index, last = log.last().index;
    if (last == first) continue;
    if (random.chance(0.5)) {
      const index_t keep = first + random.below(last - first + 1);
      know.history.truncating(keep);
      know.cutting_to = keep;
      know.rewinds_before = log.rewinds();
      co_await log.truncate_suffix(keep);
      know.see_cut(log);
    } else {
      const index_t upto = first + random.below(log.acked().index - first + 1);
      know.history.compacting(upto + 1);
      (void)co_await log.compact_prefix(upto + 1);
    }
  }
}

// Reads on from wherever it is and sees what was appended.
awaitable<void> read_on(sim::env& on, log_type& log) {
  for (;;) {
    basic_cursor<sim::env> reader(log, log.first_index());
    index_t expected = log.first_index();
    try {
      for (;;) {
        const record_batch batch = co_await reader.next(4096);
        for (const record each : batch) {
          if (each.index != expected) {
            throw std::logic_error("a reader got record " + std::to_string(each.index) + " where " +
                                   std::to_string(expected) + " was next");
          }
          ++expected;
        }
      }
    } catch (const std::system_error& error) {
      // Records were cut off or compacted away under the reader.
      if (error.code() != errc::compacted && error.code() != errc::out_of_range && error.code() != errc::diverged) {
        throw;
      }
    }
    co_await pause(on, 1ms);
  }
}

awaitable<void> program(sim::env& on, truth& know) {
  auto opened = co_await log_type::open(on, "/log", know.options);
  if (!opened.log) throw std::logic_error("the log is corrupt: " + opened.report.reason);
  log_type& log = *opened.log;
  know.cutting_to.reset();
  std::vector<sim::check::logged_record> found;
  typename log_type::read_place place;
  place.next = log.first_index();
  while (place.next <= log.last().index) {
    for (const record each : log.read(place, 4096)) found.push_back({each.position(), xxh3_64(each.payload)});
  }
  must(know.history.recovered(log.base(), found));
  task_group tasks(on.get_executor());
  tasks.spawn(append_and_wait(on, log, know, on.random()));
  tasks.spawn(read_on(on, log));
  tasks.spawn(cut_and_compact(on, log, know, on.random()));
  std::exception_ptr failure;
  try {
    co_await tasks.join();
  } catch (...) {
    failure = std::current_exception();  // rethrown when the log is closed
  }
  try {
    co_await log.close();
  } catch (const std::system_error&) {
    // The failed log's own words; what made the tasks end says why.
  }
  if (failure) std::rethrow_exception(failure);
}

void run(sim::simulation& of) {
  sim::node& one = of.in().add_node("one");
  const auto know = std::make_shared<truth>(one);
  of.keep(know);
  know->options = drawn_log_options(of.random("log options"));
  forgive_failed_disks(of);
  of.run(one, [know = know.get()](sim::env& on) { return program(on, *know); });
  sim::fault_plan_options faults;
  faults.lasts = 10s;
  faults.families = sim::fault_set()
                        .with(sim::fault_family::crash)
                        .with(sim::fault_family::power_loss)
                        .with(sim::fault_family::sync_failure)
                        .with(sim::fault_family::disk_full)
                        .with(sim::fault_family::slow_disk)
                        .with(sim::fault_family::pause)
                        .with(sim::fault_family::clock);
  faults.often = 6;
  faults.longest = 1s;
  of.chaos(faults);
  of.calm();
  const std::uint64_t before = know->acknowledged;
  sim::simulation::require(of.in().run_until([&] { return know->acknowledged > before + 10; }, 20s),
                           "nothing was acknowledged for 20 s after the faults");
}

}  // namespace

sim::scenario appending_log() {
  return {"log", "a log is appended to, cut and compacted through crashes and failing disks", &run};
}

}  // namespace lockstep::scenarios
