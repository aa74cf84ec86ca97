// A group of real raft_node processes on addresses of their own.
//
//   raft_group group(3);
//   group.start_all();
//   const node_id leader = group.leader();            // waits until all that run agree on one
//   EXPECT_EQ(group.ctl({"put", "k", "v"}).code, 0);  // asks any of them
#pragma once

#include "process.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include <arpa/inet.h>
#include <netinet/in.h>

#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

namespace lockstep::e2e {

using nlohmann::json;
using testing::AllOf;
using testing::HasSubstr;
using testing::StartsWith;

/// Of this process alone, so that nobody takes a stopped node's port.
inline std::string raft_host() {
  const int pid = ::getpid();
  return "127." + std::to_string(1 + (pid >> 16) % 250) + "." + std::to_string((pid >> 8) & 255) + "." +
         std::to_string(1 + (pid & 255) % 254);
}

/// A port of `host` that nobody listens on.
inline std::uint16_t free_port(const std::string& host) {
  const unique_fd probe(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_in at{};
  at.sin_family = AF_INET;
  ::inet_pton(AF_INET, host.c_str(), &at.sin_addr);
  socklen_t size = sizeof at;
  if (::bind(probe.get(), reinterpret_cast<sockaddr*>(&at), size) != 0 ||
      ::getsockname(probe.get(), reinterpret_cast<sockaddr*>(&at), &size) != 0) {
    throw_errno("a free port of " + host);
  }
  return ntohs(at.sin_port);
}

/// Use it on one thread.
class raft_group {
 public:
  using id = unsigned;

  explicit raft_group(id size, std::vector<std::string> flags = {}) : flags_(std::move(flags)) {
    for (id each = 1; each <= size; ++each) {
      add_address(each);
      peers_ += (each == 1 ? "" : ",") + std::to_string(each) + "=" + address(each);
    }
  }

  /// An id that is not among the peers.
  void add_address(id added) {
    std::uint16_t port = free_port(host_);
    while (!ports_.insert(port).second) port = free_port(host_);
    addresses_[added] = host_ + ":" + std::to_string(port);
  }

  [[nodiscard]] const std::string& host() const { return host_; }
  [[nodiscard]] const std::string& address(id of) const { return addresses_.at(of); }
  [[nodiscard]] const std::string& peers() const { return peers_; }
  [[nodiscard]] std::string directory(id of) const { return dir_ / ("node" + std::to_string(of)); }
  [[nodiscard]] static std::string program() { return std::string(LOCKSTEP_BIN_DIR) + "/raft_node"; }

  [[nodiscard]] std::vector<std::string> command(id of, const std::vector<std::string>& more = {}) const {
    std::vector<std::string> argv{program(),   "--id",       std::to_string(of), "--listen",
                                  address(of), "--data-dir", directory(of)};
    const bool is_peer = ("," + peers_).find("," + std::to_string(of) + "=") != std::string::npos;
    if (is_peer) {
      argv.insert(argv.end(), {"--peer", peers_});
    } else {
      argv.emplace_back("--join");
    }
    argv.insert(argv.end(), flags_.begin(), flags_.end());
    argv.insert(argv.end(), more.begin(), more.end());
    return argv;
  }

  /// Starts it, in the place of one that has ended.
  process& start(id of, const std::vector<std::string>& more = {}) {
    start_options options;
    options.write_stdin = true;
    nodes_[of].reset();
    nodes_[of] = std::make_unique<process>(command(of, more), options);
    ready_.insert_or_assign(of, nodes_[of]->wait_ready());
    return *nodes_[of];
  }
  void start_all(const std::vector<std::string>& more = {}) {
    for (const auto& [each, where] : addresses_) start(each, more);
  }

  [[nodiscard]] process& node(id of) { return *nodes_.at(of); }
  [[nodiscard]] const ready_line& ready(id of) const { return ready_.at(of); }

  /// What a shell prints next that matches `pattern`, when it is told `line`.
  std::string type(id at, const std::string& line, const std::string& pattern) {
    const std::size_t from = node(at).out().line_count();
    node(at).write(line + "\n");
    return node(at).out().wait_for(pattern, from).text;
  }

  [[nodiscard]] std::string endpoints() const {
    std::string all;
    for (const auto& [each, where] : addresses_) all += (all.empty() ? "" : ",") + where;
    return all;
  }
  [[nodiscard]] run_result ctl(std::vector<std::string> words) const { return ctl_at(endpoints(), std::move(words)); }
  [[nodiscard]] static run_result ctl_at(const std::string& endpoints, std::vector<std::string> words) {
    std::vector<std::string> argv{std::string(LOCKSTEP_BIN_DIR) + "/raft_ctl", "--endpoints", endpoints};
    argv.insert(argv.end(), words.begin(), words.end());
    return run(std::move(argv));
  }

  /// What `of` says of itself.
  [[nodiscard]] json status(id of) const {
    const run_result told = ctl_at(address(of), {"status", "-o", "json"});
    if (told.code != 0) throw std::runtime_error("status of " + std::to_string(of) + ": " + told.out + told.err);
    return json::parse(told.out).at(0);
  }

  /// Asks those of `among` until `agreed` holds of their answers.
  template <class Condition>
  std::map<id, json> wait_until(const std::set<id>& among, Condition agreed) const {
    const auto until = std::chrono::steady_clock::now() + default_deadline;
    std::map<id, json> told;
    for (;;) {
      for (const id each : among) told[each] = status(each);
      if (agreed(told)) return told;
      if (std::chrono::steady_clock::now() > until) {
        throw std::runtime_error("not in time, at last: " + json(told).dump());
      }
    }
  }

  /// The leader that all of `among` follow.
  [[nodiscard]] id leader(const std::set<id>& among) const {
    const auto told = wait_until(among, [](const auto& all) {
      for (const auto& [each, status] : all) {
        if (status["leader"].is_null() || status["leader"] != all.begin()->second["leader"]) return false;
      }
      return true;
    });
    return told.begin()->second["leader"].get<id>();
  }

 private:
  const temp_dir dir_;
  const std::string host_ = raft_host();
  const std::vector<std::string> flags_;
  std::set<std::uint16_t> ports_;
  std::map<id, std::string> addresses_;
  std::string peers_;
  std::map<id, std::unique_ptr<process>> nodes_;
  std::map<id, ready_line> ready_;
};

inline const std::set<raft_group::id> all_three{1, 2, 3};

}  // namespace lockstep::e2e
