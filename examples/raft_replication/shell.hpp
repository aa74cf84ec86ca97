// What a person, or a script by a pipe, types into a running node.
#pragma once

#include "raft_replication/replica.hpp"

#include "common/line_input.hpp"

#include <lockstep/core/task_group.hpp>

#include <map>
#include <memory>
#include <string>

namespace lockstep::raft_replication {

/// Thread safety: none.
class shell {
 public:
  /// @param timeout  of one command.
  shell(real::env& env, replica& of, duration timeout);
  shell(const shell&) = delete;

  /// Carries out one line after the other, until EXIT or the end of the input.
  /// Cancellation: throws operation_aborted.
  awaitable<void> run();

 private:
  awaitable<bool> obey(std::string line);
  awaitable<void> report_no_leader();
  awaitable<void> watch(std::string key);
  void print(const std::string& lines);

  real::env& env_;
  replica& replica_;
  const duration timeout_;
  examples::line_input input_;
  std::map<std::string, std::unique_ptr<task_group>> watches_;
};

}  // namespace lockstep::raft_replication
