// The scenarios that sim_run knows. docs/simulation.md says how to write one.
#pragma once

#include "lockstep/log/options.hpp"
#include "lockstep/sim/explore.hpp"

#include <vector>

namespace lockstep::scenarios {

using namespace std::chrono_literals;

sim::scenario appending_log();    // log.cpp
sim::scenario damaged_log();      // log.cpp
sim::scenario framed_messages();  // frames.cpp
sim::scenario remote_calls();     // rpc.cpp
sim::scenario catch_up();         // catchup.cpp
sim::scenario city_hall();        // cityhall.cpp
sim::scenario raft_cores();       // raft_core.cpp
sim::scenario raft_sessions();    // raft_sessions.cpp
sim::scenario raft_files();       // raft_files.cpp
sim::scenario raft_group();       // raft.cpp
sim::scenario canary();           // canary.cpp: has a bug on purpose

inline std::vector<sim::scenario> all() {
  return {appending_log(), damaged_log(),   framed_messages(), remote_calls(), catch_up(), city_hall(),
          raft_cores(),    raft_sessions(), raft_files(),      raft_group(),   canary()};
}

/// Waits on the node's own clock.
inline awaitable<void> pause(sim::env& on, duration how_long) {
  sim::env::timer timer(on);
  timer.expires_after(how_long);
  if (co_await timer.wait()) throw std::system_error(asio::error::operation_aborted);
}

/// Small segments, so that short runs roll, recycle and compact them.
inline log_options drawn_log_options(sim::random_stream random) {
  log_options options;
  options.segment_bytes = std::uint64_t{4} << (10 + random.below(5));
  options.reserve_bytes = std::uint64_t{4} << (10 + random.below(3));
  options.prewrite_bytes = random.chance(0.3) ? 0 : std::uint64_t{4} << (10 + random.below(2));
  options.chunk_bytes = std::size_t{256} << random.below(6);
  options.hot_tail_bytes = random.chance(0.5) ? 0 : std::size_t{4} << (10 + random.below(4));
  options.max_unsynced_bytes = std::uint64_t{16} << (10 + random.below(4));
  options.recycled_segments = random.below(3);
  options.sync_where = random.chance(0.8) ? sync_on::disk_thread : sync_on::caller;
  return options;
}

}  // namespace lockstep::scenarios
