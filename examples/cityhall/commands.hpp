// The commands behind `cityhall`'s command line.
#pragma once

#include "common/exit_codes.hpp"
#include "common/output.hpp"

#include <lockstep/catchup/follower_options.hpp>
#include <lockstep/core/address.hpp>
#include <lockstep/env/env.hpp>
#include <lockstep/log/options.hpp>

#include <optional>
#include <string>

namespace lockstep::cityhall {

struct node_options {
  std::string data_dir;
  std::string host = "127.0.0.1";
  sync_policy sync = sync_policy::always;
  std::uint64_t snapshot_every = 1'000'000;
  std::uint64_t retain_bytes = std::uint64_t{1} << 30;
  std::uint64_t segment_bytes = std::uint64_t{64} << 20;
};

struct leader_command {
  node_options server;
  std::uint16_t port = 7878;
  std::uint16_t replication_port = 7879;
};
examples::exit_code run_leader(const leader_command& command);

struct replica_command {
  node_options server;
  std::optional<address> leader;
  std::optional<std::uint16_t> port;
  std::uint64_t id = 2;
  std::string on_divergence = "repair";
};
examples::exit_code run_replica(const replica_command& command);

examples::exit_code show_status(const std::string& data_dir, examples::output_format format);
examples::exit_code verify_directories(const std::string& first, const std::string& second);

struct client_command {
  address addr;
  std::chrono::nanoseconds timeout = std::chrono::seconds(5);
  examples::output_format format = examples::output_format::text;
  bool raw = false;
  std::string key;
  std::string value;
  std::uint64_t limit = 0;
  position min_position;
};
examples::exit_code client_put(const client_command& command);
examples::exit_code client_get(const client_command& command);
examples::exit_code client_del(const client_command& command);
examples::exit_code client_scan(const client_command& command);
examples::exit_code client_watch(const client_command& command);
examples::exit_code client_status(const client_command& command);

}  // namespace lockstep::cityhall
