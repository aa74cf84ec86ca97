// CityHall under kill -9: clients write all the time while leader and replica die at random moments and come back on
// the same directories and ports. Nothing acknowledged may be missing, nothing may count twice.
#include "support/process.hpp"

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include <algorithm>
#include <condition_variable>
#include <iostream>
#include <map>
#include <memory>
#include <mutex>
#include <random>
#include <set>
#include <string>
#include <thread>
#include <vector>

namespace lockstep::e2e {
namespace {

using nlohmann::json;
using pairs = std::map<std::string, std::string>;

const std::string program = std::string(LOCKSTEP_BIN_DIR) + "/cityhall";

std::uint64_t chosen_seed() {
  if (const char* given = std::getenv("LOCKSTEP_SEED")) return std::stoull(given);
  return std::random_device{}();
}

/// Of this process alone, so that nobody takes the ports of a node while it is down.
std::string own_loopback_host() {
  const int pid = ::getpid();
  return "127." + std::to_string(1 + (pid >> 16) % 250) + "." + std::to_string((pid >> 8) & 255) + "." +
         std::to_string(1 + (pid & 255) % 254);
}

/// A leader and its replica, which keep their directories and ports over all their lives.
class cluster {
 public:
  explicit cluster(std::vector<std::string> node_flags) : flags_(std::move(node_flags)) {
    start_leader();
    start_replica();
  }

  void start_leader() {
    leader_ = std::make_unique<process>(leader_command());
    const ready_line ready = leader_->wait_ready();
    clients_ = ready.port("clients");
    replication_ = ready.port("replication");
  }
  void start_replica() {
    replica_ = std::make_unique<process>(replica_command());
    reads_ = replica_->wait_ready().port("clients");
  }
  void kill_leader() { leader_->kill(); }
  void kill_replica() { replica_->kill(); }

  /// A life that is over before it is ready, or about then.
  void start_and_kill_leader(bool recovering) { start_and_kill(leader_command(), recovering); }
  void start_and_kill_replica(bool recovering) { start_and_kill(replica_command(), recovering); }

  void stop() {
    for (process* each : {replica_.get(), leader_.get()}) {
      each->signal(SIGINT);
      EXPECT_EQ(each->wait_exit(), 0) << each->describe();
    }
  }

  [[nodiscard]] std::string leader_clients() const { return host_ + ":" + std::to_string(clients_); }
  [[nodiscard]] std::string replica_clients() const { return host_ + ":" + std::to_string(reads_); }
  [[nodiscard]] std::string leader_directory() const { return dir_ / "leader"; }
  [[nodiscard]] std::string replica_directory() const { return dir_ / "replica"; }
  [[nodiscard]] std::string describe() const { return leader_->describe() + "\n" + replica_->describe(); }

 private:
  [[nodiscard]] std::vector<std::string> with_flags(std::vector<std::string> argv) const {
    argv.insert(argv.end(), flags_.begin(), flags_.end());
    return argv;
  }
  [[nodiscard]] std::vector<std::string> leader_command() const {
    return with_flags({program, "leader", "--host", host_, "--port", std::to_string(clients_), "--replication-port",
                       std::to_string(replication_), "--data-dir", leader_directory()});
  }
  [[nodiscard]] std::vector<std::string> replica_command() const {
    return with_flags({program, "replica", "--host", host_, "--port", std::to_string(reads_), "--leader",
                       host_ + ":" + std::to_string(replication_), "--data-dir", replica_directory()});
  }
  static void start_and_kill(std::vector<std::string> argv, bool recovering) {
    process short_lived(std::move(argv));
    if (recovering) (void)short_lived.err().wait_for("opened ");
    short_lived.kill();
  }

  const temp_dir dir_;
  const std::string host_ = own_loopback_host();
  const std::vector<std::string> flags_;
  std::uint16_t clients_ = 0;  // chosen by the first life, as the other ports
  std::uint16_t replication_ = 0;
  std::uint16_t reads_ = 0;
  std::unique_ptr<process> leader_;
  std::unique_ptr<process> replica_;
};

/// Client processes that put, each attempt under a key of its own.
class load {
 public:
  load(std::string leader, std::size_t writers, std::uint64_t seed) : leader_(std::move(leader)) {
    for (std::size_t i = 0; i < writers; ++i) threads_.emplace_back([this, i, seed] { write_all(i, seed + i); });
  }
  load(const load&) = delete;
  ~load() { stop(); }

  /// @throws std::runtime_error when they do not come.
  void wait_for_acknowledged(std::size_t more) {
    std::unique_lock lock(mutex_);
    const std::size_t target = acknowledged_.size() + more;
    if (!changed_.wait_for(lock, default_deadline,
                           [&] { return acknowledged_.size() >= target || !broken_.empty(); })) {
      throw std::runtime_error("no more acknowledged writes, last failure: " + last_failure_);
    }
    if (!broken_.empty()) throw std::runtime_error(broken_);
  }

  /// Writers that a dead leader had failed go on.
  void leader_is_back() {
    const std::lock_guard lock(mutex_);
    lives_ += 1;
    changed_.notify_all();
  }

  void stop() {
    {
      const std::lock_guard lock(mutex_);
      stopped_ = true;
      changed_.notify_all();
    }
    for (std::thread& each : threads_) each.join();
    threads_.clear();
  }

  // After stop().
  [[nodiscard]] const pairs& attempted() const { return attempted_; }
  [[nodiscard]] const std::set<std::string>& acknowledged() const { return acknowledged_; }
  [[nodiscard]] const std::string& broken() const { return broken_; }

 private:
  void write_all(std::size_t writer, std::uint64_t seed) {
    std::mt19937_64 random(seed);
    for (std::size_t n = 0;; ++n) {
      const std::string key = "w" + std::to_string(writer) + "-" + std::to_string(n);
      const std::string value = std::to_string(random()) + std::string(random() % 300, 'v');
      std::size_t life = 0;
      {
        const std::lock_guard lock(mutex_);
        if (stopped_) return;
        life = lives_;
        attempted_[key] = value;
      }
      run_result put;
      try {
        put = run({program, "client", "--addr", leader_, "--timeout", "20s", "put", key, value});
      } catch (const std::exception& error) {
        put.code = -1;
        put.err = error.what();
      }
      std::unique_lock lock(mutex_);
      if (put.code == 0 && put.out.starts_with("OK ")) {
        acknowledged_.insert(key);
      } else if (put.code == 3 || put.code == 4) {
        last_failure_ = put.err;
        changed_.wait(lock, [&] { return stopped_ || lives_ > life; });
      } else {
        broken_ = "put of " + key + " ended with " + std::to_string(put.code) + ": " + put.out + put.err;
      }
      changed_.notify_all();
    }
  }

  const std::string leader_;
  std::mutex mutex_;
  std::condition_variable changed_;
  pairs attempted_;  // guarded by mutex_, as all below
  std::set<std::string> acknowledged_;
  std::string last_failure_;
  std::string broken_;
  std::size_t lives_ = 0;
  bool stopped_ = false;
  std::vector<std::thread> threads_;
};

std::string succeed(std::vector<std::string> arguments) {
  arguments.insert(arguments.begin(), program);
  const run_result result = run(std::move(arguments));
  EXPECT_EQ(result.code, 0) << result.out << result.err;
  return result.out;
}

/// @throws std::runtime_error when a key is there twice.
pairs scan(const std::string& address) {
  std::istringstream lines(succeed({"client", "--addr", address, "scan"}));
  pairs found;
  for (std::string line; std::getline(lines, line);) {
    const std::size_t middle = line.find(" = ");
    if (!found.emplace(line.substr(0, middle), line.substr(middle + 3)).second) {
      throw std::runtime_error("twice in a scan: " + line);
    }
  }
  return found;
}

json status(const std::string& address) {
  return json::parse(succeed({"client", "--addr", address, "status", "-o", "json"}));
}

void expect_what_was_written(const pairs& found, const load& writes) {
  for (const std::string& key : writes.acknowledged()) {
    EXPECT_TRUE(found.contains(key)) << "acknowledged and lost: " << key;
  }
  for (const auto& [key, value] : found) {
    const auto attempt = writes.attempted().find(key);
    ASSERT_NE(attempt, writes.attempted().end()) << "never written: " << key;
    EXPECT_EQ(attempt->second, value) << key;
  }
}

void kill_at_random(int rounds, const std::vector<std::string>& node_flags) {
  const std::uint64_t seed = chosen_seed();
  std::cout << "seed " << seed << " (LOCKSTEP_SEED sets it)" << std::endl;
  SCOPED_TRACE("LOCKSTEP_SEED=" + std::to_string(seed));
  std::mt19937_64 random(seed);
  cluster nodes(node_flags);
  load writes(nodes.leader_clients(), 3, seed);
  for (int round = 0; round < rounds; ++round) {
    SCOPED_TRACE("round " + std::to_string(round));
    writes.wait_for_acknowledged(random() % 6);
    const auto victims = random() % 5;  // 0, 1: the leader; 2, 3: the replica; 4: both
    const bool leader = victims <= 1 || victims == 4;
    const bool replica = victims >= 2;
    if (leader) nodes.kill_leader();
    if (replica) nodes.kill_replica();
    if (leader) {
      if (random() % 4 == 0) nodes.start_and_kill_leader(random() % 2 == 0);
      nodes.start_leader();
      writes.leader_is_back();
    }
    if (replica) {
      writes.wait_for_acknowledged(random() % 4);
      if (random() % 4 == 0) nodes.start_and_kill_replica(random() % 2 == 0);
      nodes.start_replica();
    }
  }
  writes.stop();
  ASSERT_EQ(writes.broken(), "");

  const json leader = status(nodes.leader_clients());
  const run_result caught_up = run({program, "client", "--addr", nodes.replica_clients(), "--timeout", "20s", "get",
                                    "any", "--min-position", leader["position"].dump()});
  EXPECT_EQ(caught_up.err, "NOT_FOUND\n") << nodes.describe();
  const json replica = status(nodes.replica_clients());
  EXPECT_EQ(replica["position"], leader["position"]) << nodes.describe();

  const pairs at_leader = scan(nodes.leader_clients());
  expect_what_was_written(at_leader, writes);
  EXPECT_EQ(scan(nodes.replica_clients()), at_leader);
  // Each attempt has a key of its own: an entry counted twice would make more entries than keys.
  EXPECT_EQ(leader["total_entries"], at_leader.size());
  EXPECT_EQ(replica["total_entries"], at_leader.size());
  EXPECT_GE(at_leader.size(), writes.acknowledged().size());
  EXPECT_LE(at_leader.size(), writes.attempted().size());

  nodes.stop();
  const run_result verified = run({program, "verify", nodes.leader_directory(), nodes.replica_directory()});
  EXPECT_EQ(verified.code, 0) << verified.out << verified.err;
  EXPECT_TRUE(verified.out.starts_with("equal: ")) << verified.out;
  const json stopped =
      json::parse(succeed({"replica", "status", "--data-dir", nodes.replica_directory(), "-o", "json"}));
  EXPECT_EQ(stopped["total_entries"], at_leader.size());
  std::cout << writes.attempted().size() << " attempted, " << writes.acknowledged().size() << " acknowledged, "
            << at_leader.size() << " stored" << std::endl;
}

TEST(cityhall_kill, fifty_kills_lose_no_acknowledged_write_and_count_none_twice) { kill_at_random(50, {}); }

// Snapshots and dropped segments all the time: some kills fall between a snapshot and the log's change after it.
TEST(cityhall_kill, kills_between_snapshots_lose_no_acknowledged_write_and_count_none_twice) {
  kill_at_random(15, {"--snapshot-every", "3", "--log-segment-bytes", "4KiB", "--retain-bytes", "1"});
}

}  // namespace
}  // namespace lockstep::e2e
