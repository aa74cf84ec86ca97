// Histories of maps for the tests of their checkers: made from a run of a real map, or at random.
#pragma once

#include "lockstep/sim/check/kv_history.hpp"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <vector>

namespace lockstep::sim::check::test {

class splitmix64 {
 public:
  explicit splitmix64(std::uint64_t seed) : state_(seed) {}
  std::uint64_t next() {
    std::uint64_t z = state_ += 0x9e3779b97f4a7c15U;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9U;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebU;
    return z ^ (z >> 31);
  }
  std::uint64_t below(std::uint64_t end) { return next() % end; }
  bool one_in(std::uint64_t n) { return n != 0 && below(n) == 0; }

 private:
  std::uint64_t state_;
};

struct run_options {
  std::uint64_t seed = 1;
  std::size_t clients = 10;
  std::size_t keys = 20;
  std::size_t operations = 100;
  std::uint64_t one_in_times_out = 0;  ///< 0: none
  bool reads_tell_states = true;
  bool all_commits_told = true;  ///< also of writes that timed out
};

/// Puts operations into a history, all at once, in order of their invocation.
inline kv_history told(std::vector<kv_operation> operations) {
  std::stable_sort(operations.begin(), operations.end(),
                   [](const kv_operation& a, const kv_operation& b) { return a.invoked < b.invoked; });
  kv_history history;
  for (const kv_operation& each : operations) {
    const std::string key = "k" + std::to_string(each.key);
    kv_history::op op = 0;
    switch (each.action) {
      case kv_action::put: op = history.put(each.client, key, each.value, each.invoked); break;
      case kv_action::get: op = history.get(each.client, key, each.invoked); break;
      case kv_action::erase: op = history.erase(each.client, key, each.invoked); break;
      case kv_action::compare_swap:
        op = history.compare_swap(each.client, key, each.expected, each.value, each.invoked);
        break;
    }
    if (each.outcome == kv_outcome::failed) history.failed(op, each.returned);
    if (each.outcome == kv_outcome::unknown && each.commit != 0) history.committed(op, each.commit);
    if (each.outcome != kv_outcome::done) continue;
    if (each.action == kv_action::get) {
      history.read(op, each.value, each.returned, each.commit);
    } else if (each.action == kv_action::compare_swap) {
      history.swapped(op, each.swapped, each.returned, each.commit);
    } else {
      history.done(op, each.returned, each.commit);
    }
  }
  return history;
}

/// Draws what `op` does; a value that it writes is the next of `values`, so that no two are equal.
inline void draw_action(kv_operation& op, splitmix64& random, value_id& values) {
  const std::uint64_t action = random.below(10);
  op.action = action < 4   ? kv_action::get
              : action < 7 ? kv_action::put
              : action < 9 ? kv_action::compare_swap
                           : kv_action::erase;
  if (op.action == kv_action::put || op.action == kv_action::compare_swap) op.value = ++values;
}

/// What clients see of a map that applies each operation at one moment while it is under way.
inline std::vector<kv_operation> run_of_a_map(const run_options& options) {
  splitmix64 random(options.seed);
  std::vector<kv_operation> all;
  std::vector<std::pair<moment, std::size_t>> effects;
  std::vector<moment> clocks(options.clients);
  value_id values = 0;
  for (std::size_t i = 0; i < options.operations; ++i) {
    kv_operation op;
    op.client = i % options.clients;
    moment& clock = clocks[op.client];
    op.key = random.below(options.keys);
    draw_action(op, random, values);
    // Often what was written lately, so that many succeed.
    if (op.action == kv_action::compare_swap) op.expected = values - random.below(std::min<value_id>(values, 4));
    op.invoked = clock + random.below(20);
    moment effect = op.invoked + 1 + random.below(20);
    clock = effect + 1 + random.below(20);
    if (random.one_in(options.one_in_times_out)) {
      effect += random.below(1000);
      if (random.one_in(2)) effect = never;
    } else {
      op.outcome = kv_outcome::done;
      op.returned = clock;
    }
    if (effect != never) effects.emplace_back(effect, i);
    all.push_back(op);
  }
  std::sort(effects.begin(), effects.end());
  std::map<std::size_t, value_id> map;
  std::uint64_t commit = 0;
  for (const auto& [when, i] : effects) {
    kv_operation& op = all[i];
    value_id& value = map[op.key];
    const bool writes = op.action == kv_action::put || op.action == kv_action::erase ||
                        (op.action == kv_action::compare_swap && value == op.expected);
    if (writes) {
      value = op.action == kv_action::erase ? absent : op.value;
      op.swapped = op.action == kv_action::compare_swap && op.is_done();
      ++commit;
      if (op.is_done() || options.all_commits_told) op.commit = commit;
    } else if (op.is_done()) {
      if (op.action == kv_action::get) op.value = value;
      if (options.reads_tell_states) op.commit = commit;
    }
  }
  return all;
}

/// A few operations on one key with answers out of thin air.
inline std::vector<kv_operation> random_operations(splitmix64& random, std::size_t most, bool with_unknown) {
  std::vector<kv_operation> all(2 + random.below(most - 1));
  const std::uint64_t span = 2 + random.below(20);
  value_id values = 0;
  for (kv_operation& op : all) {
    draw_action(op, random, values);
  }
  std::uint64_t client = 0;
  for (kv_operation& op : all) {
    op.client = ++client;
    op.invoked = random.below(span);
    if (op.action == kv_action::compare_swap) op.expected = random.below(values + 1);
    if (op.expected == op.value) op.expected = absent;
    if (with_unknown && random.one_in(3)) {
      if (random.one_in(4)) {
        op.outcome = kv_outcome::failed;
        op.returned = op.invoked + 1 + random.below(10);
      }
      continue;
    }
    op.outcome = kv_outcome::done;
    op.returned = op.invoked + random.below(10);
    if (op.action == kv_action::get) op.value = random.below(values + 1);
    if (op.action == kv_action::compare_swap) op.swapped = random.one_in(2);
  }
  return all;
}

/// Whether the operations, at most some 7, can be ordered: tries all orders of all choices of the unknown ones.
inline bool can_be_ordered(const std::vector<kv_operation>& all) {
  for (std::size_t choice = 0; choice < (std::size_t{1} << all.size()); ++choice) {
    std::vector<const kv_operation*> order;
    bool sensible = true;
    for (std::size_t i = 0; i < all.size(); ++i) {
      const bool chosen = (choice >> i & 1) != 0;
      if (all[i].is_done() && !chosen) sensible = false;
      if (all[i].outcome == kv_outcome::failed && chosen) sensible = false;
      if (chosen) order.push_back(&all[i]);
    }
    if (!sensible) continue;
    std::sort(order.begin(), order.end());
    do {
      bool right = true;
      value_id value = absent;
      for (std::size_t i = 0; i < order.size() && right; ++i) {
        const kv_operation& op = *order[i];
        for (std::size_t later = i + 1; later < order.size(); ++later) {
          if (order[later]->returned < op.invoked) right = false;
        }
        if (op.action == kv_action::get && op.is_done() && op.value != value) right = false;
        if (op.action == kv_action::put) value = op.value;
        if (op.action == kv_action::erase) value = absent;
        if (op.action == kv_action::compare_swap) {
          const bool swaps = value == op.expected;
          if (op.is_done() && swaps != op.swapped) right = false;
          if (swaps) value = op.value;
        }
      }
      if (right) return true;
    } while (std::next_permutation(order.begin(), order.end()));
  }
  return false;
}

}  // namespace lockstep::sim::check::test
