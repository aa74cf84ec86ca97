// Nodes that are killed and frozen at random while clients write and read: what the clients saw is linearizable, and
// nothing that was acknowledged is lost. How long a group is without a leader is measured and printed.
// LOCKSTEP_BIG_TESTS=1 runs 100 rounds.
#include "support/raft_group.hpp"

#include <lockstep/sim/check/linearizability.hpp>

#include <gtest/gtest.h>

#include <algorithm>
#include <condition_variable>
#include <iostream>
#include <mutex>
#include <random>
#include <thread>

namespace lockstep::e2e {
namespace {

namespace check = sim::check;
using steady = std::chrono::steady_clock;

std::uint64_t chosen_seed() {
  if (const char* given = std::getenv("LOCKSTEP_SEED")) return std::stoull(given);
  return std::random_device{}();
}

int chosen_rounds() {
  const char* const big = std::getenv("LOCKSTEP_BIG_TESTS");
  return big && *big != '0' ? 100 : 6;
}

/// Client processes that write, read and swap a few keys, each of its own endpoint first.
class clients {
 public:
  clients(const raft_group& group, unsigned nodes, std::size_t count, std::uint64_t seed) {
    for (std::size_t i = 0; i < count; ++i) {
      std::string endpoints;
      for (unsigned n = 0; n < nodes; ++n) {
        endpoints += (n == 0 ? "" : ",") + group.address(1 + static_cast<unsigned>((i + n) % nodes));
      }
      threads_.emplace_back([this, i, seed, endpoints] { work(i, endpoints, seed + i); });
    }
  }
  clients(const clients&) = delete;
  ~clients() { stop(); }

  void stop() {
    {
      const std::lock_guard lock(mutex_);
      stopped_ = true;
    }
    for (std::thread& each : threads_) each.join();
    threads_.clear();
  }

  /// Waits for writes that were begun after `since` and succeed. @return when the first of them did.
  /// @throws std::runtime_error when they do not come.
  steady::time_point wait_for_writes(std::size_t count, steady::time_point since = steady::now()) {
    std::unique_lock lock(mutex_);
    std::size_t more = 0;
    std::size_t seen = 0;
    std::optional<steady::time_point> first;
    const bool came = changed_.wait_for(lock, default_deadline, [&] {
      for (; seen < written_.size(); ++seen) {
        if (written_[seen].first < since) continue;
        if (!first) first = written_[seen].second;
        ++more;
      }
      return more >= count || !broken_.empty();
    });
    if (!broken_.empty()) throw std::runtime_error(broken_);
    if (!came) throw std::runtime_error("no write succeeds any more, last failure: " + last_failure_);
    return *first;
  }

  // After stop().
  [[nodiscard]] const check::kv_history& history() const { return history_; }
  [[nodiscard]] const std::string& broken() const { return broken_; }

 private:
  static constexpr int keys = 4;

  static check::moment now() { return static_cast<check::moment>(steady::now().time_since_epoch().count()); }

  void work(std::size_t client, const std::string& endpoints, std::uint64_t seed) {
    std::mt19937_64 random(seed);
    for (;;) {
      const std::string key = "k" + std::to_string(random() % keys);
      const auto what = random() % 10;
      check::kv_history::op op = 0;
      check::value_id value = 0;
      check::value_id expected = check::absent;
      const auto began = steady::now();
      {
        const std::lock_guard lock(mutex_);
        if (stopped_) return;
        value = ++last_value_;
        if (what < 4) op = history_.put(client, key, value, now());
        if (what >= 4 && what < 7) op = history_.get(client, key, now());
        if (what == 7) op = history_.erase(client, key, now());
        if (what >= 8) {
          const auto found = last_seen_.find(key);
          expected = found == last_seen_.end() ? check::absent : found->second;
          op = history_.compare_swap(client, key, expected, value, now());
        }
      }
      std::vector<std::string> words{"--timeout", "8s"};
      const std::string text = std::to_string(value);
      if (what < 4) words.insert(words.end(), {"put", key, text});
      if (what >= 4 && what < 7) words.insert(words.end(), {"get", key});
      if (what == 7) words.insert(words.end(), {"del", key});
      if (what >= 8 && expected != check::absent)
        words.insert(words.end(), {"cas", key, std::to_string(expected), text});
      if (what >= 8 && expected == check::absent) words.insert(words.end(), {"cas", "--absent", key, text});
      run_result result;
      try {
        result = raft_group::ctl_at(endpoints, words);
      } catch (const std::exception& error) {
        result.code = -1;
        result.err = error.what();
      }
      const std::lock_guard lock(mutex_);
      const bool wrote = what < 4 || what == 7 || (what >= 8 && result.code == 0);
      if (result.code == 4 || result.code == 3) {
        last_failure_ = result.err;
        // Nobody led, or nobody was asked: nothing has happened.
        if (result.code == 3) history_.failed(op, now());
      } else if (result.code != 0 && result.code != 1) {
        broken_ = "ended with " + std::to_string(result.code) + ": " + result.out + result.err;
      } else if (what >= 4 && what < 7) {
        const check::value_id read = result.code == 1 ? check::absent : std::stoull(result.out);
        history_.read(op, read, now());
        last_seen_[key] = read;
      } else if (what >= 8) {
        history_.swapped(op, result.code == 0, now());
      } else {
        history_.done(op, now());
      }
      if ((result.code == 0 || result.code == 1) && wrote) written_.emplace_back(began, steady::now());
      changed_.notify_all();
    }
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  check::kv_history history_;  // guarded by mutex_, as all below
  check::value_id last_value_ = 0;
  std::map<std::string, check::value_id> last_seen_;
  std::vector<std::pair<steady::time_point, steady::time_point>> written_;  // begun and acknowledged
  std::string last_failure_;
  std::string broken_;
  bool stopped_ = false;
  std::vector<std::thread> threads_;
};

std::string in_ms(steady::duration of) {
  return std::to_string(std::chrono::duration_cast<std::chrono::milliseconds>(of).count()) + " ms";
}

std::string median_and_worst(std::vector<steady::duration> times) {
  std::sort(times.begin(), times.end());
  return "median " + in_ms(times[times.size() / 2]) + ", worst " + in_ms(times.back());
}

/// What passed after a leader's end.
struct failovers {
  std::vector<steady::duration> until_led;      // until a survivor knew its successor
  std::vector<steady::duration> until_written;  // until the next write succeeded

  void print(const char* what) const {
    if (until_led.empty()) return;
    std::cout << what << ": " << until_led.size()
              << " times, until a new leader was known: " << median_and_worst(until_led)
              << "; until the next write succeeded: " << median_and_worst(until_written) << std::endl;
  }
};

/// Returns when one of `survivors` knows who leads after `gone`.
void wait_for_successor(const raft_group& group, const std::set<raft_group::id>& survivors, raft_group::id gone) {
  (void)group.wait_until(survivors, [gone](const auto& told) {
    return std::any_of(told.begin(), told.end(), [gone](const auto& each) {
      const nlohmann::json& leader = each.second["leader"];
      return !leader.is_null() && leader != gone;
    });
  });
}

TEST(raft_kill, killed_and_frozen_nodes_lose_nothing_and_the_history_is_linearizable) {
  const std::uint64_t seed = chosen_seed();
  const int rounds = chosen_rounds();
  std::cout << "seed " << seed << " (LOCKSTEP_SEED sets it), " << rounds
            << " rounds (LOCKSTEP_BIG_TESTS=1 makes it 100)" << std::endl;
  SCOPED_TRACE("LOCKSTEP_SEED=" + std::to_string(seed));
  std::mt19937_64 random(seed);
  const std::set<raft_group::id> all{1, 2, 3};
  raft_group group(3, {"--snapshot-bytes", "8KiB", "--keep-log-bytes", "4KiB", "--log-segment-bytes", "4KiB"});
  group.start_all();
  raft_group::id leader = group.leader(all);
  clients asking(group, 3, 4, seed);
  failovers after_kill;
  failovers after_freeze;
  for (int round = 0; round < rounds; ++round) {
    SCOPED_TRACE("round " + std::to_string(round));
    (void)asking.wait_for_writes(1 + random() % 5);
    leader = group.leader(all);
    const bool aim_at_leader = random() % 3 != 0;
    const auto victim = aim_at_leader ? leader : static_cast<raft_group::id>(1 + random() % 3);
    const bool freeze = random() % 2 == 0;
    group.node(victim).signal(freeze ? SIGSTOP : SIGKILL);
    const auto began = steady::now();
    if (victim == leader) {
      failovers& times = freeze ? after_freeze : after_kill;
      std::set<raft_group::id> survivors = all;
      survivors.erase(victim);
      wait_for_successor(group, survivors, victim);
      times.until_led.push_back(steady::now() - began);
      times.until_written.push_back(asking.wait_for_writes(1, began) - began);
    }
    (void)asking.wait_for_writes(1 + random() % 3);
    if (freeze) {
      group.node(victim).signal(SIGCONT);
    } else {
      group.start(victim);
    }
  }
  (void)asking.wait_for_writes(5);
  asking.stop();
  ASSERT_EQ(asking.broken(), "");

  const check::linearizability_result judged = check::check_linearizable(asking.history());
  EXPECT_EQ(judged.broken(), std::nullopt) << *judged.broken();
  EXPECT_EQ(judged.verdict, check::linearizability::ok) << judged.message;
  // All come to the same state.
  (void)group.wait_until(all, [](const auto& told) {
    for (const auto& [each, status] : told) {
      if (status["applied"] != told.begin()->second["last"]) return false;
    }
    return true;
  });
  for (int key = 0; key < 4; ++key) {
    std::set<std::string> values;
    for (const raft_group::id each : all) {
      values.insert(raft_group::ctl_at(group.address(each), {"get", "--stale", "k" + std::to_string(key)}).out);
    }
    EXPECT_EQ(values.size(), 1U) << "key k" << key;
  }
  std::cout << asking.history().operations().size() << " operations, " << judged.steps << " steps to judge them"
            << std::endl;
  after_kill.print("the leader was killed");
  after_freeze.print("the leader was frozen");
  for (const raft_group::id each : all) {
    group.node(each).signal(SIGTERM);
    EXPECT_EQ(group.node(each).wait_exit(), 0) << group.node(each).describe();
  }
}

}  // namespace
}  // namespace lockstep::e2e
