#include "raft_replication/shell.hpp"

#include "raft_replication/tables.hpp"

#include <fmt/format.h>

#include <stdexcept>

namespace lockstep::raft_replication {

using namespace std::chrono_literals;

shell::shell(real::env& env, replica& of, duration timeout)
    : env_(env),
      replica_(of),
      timeout_(timeout),
      input_(env.get_executor(), fmt::format("raft {}> ", of.options().id)) {}

awaitable<void> shell::run() {
  std::exception_ptr failure;
  try {
    if (input_.interactive()) print("HELP lists the commands.");
    for (;;) {
      std::optional<std::string> line = co_await input_.next();
      if (!line) break;
      if (co_await obey(std::move(*line))) break;
    }
  } catch (...) {
    failure = std::current_exception();  // rethrown when the watches have ended
  }
  for (auto& [key, each] : watches_) each->cancel();
  co_await this_coro::reset_cancellation_state();
  for (auto& [key, each] : watches_) co_await each->join();
  if (failure) std::rethrow_exception(failure);
}

void shell::print(const std::string& lines) { input_.print(lines + "\n"); }

// @return whether that was all.
awaitable<bool> shell::obey(std::string line) {
  request asked;
  try {
    const std::vector<std::string> words = split_words(line);
    if (words.empty()) co_return false;
    asked = parse_command(words);
  } catch (const std::invalid_argument& error) {
    print(std::string("ERROR ") + error.what());
    co_return false;
  }
  switch (asked.what) {
    case verb::exit: co_return true;
    case verb::help: print(help_text()); co_return false;
    case verb::status: {
      const auto status = co_await replica_.status_with_lags(500ms);
      print(status_table(status));
      co_return false;
    }
    case verb::watch: {
      auto& group = watches_[asked.key];
      if (!group) {
        group = std::make_unique<task_group>(env_.get_executor());
        group->spawn(watch(asked.key));
      }
      print("OK watching; UNWATCH ends it");
      co_return false;
    }
    case verb::unwatch: {
      const auto found = watches_.find(asked.key);
      if (found == watches_.end()) {
        print("ERROR nobody watches that");
        co_return false;
      }
      const std::unique_ptr<task_group> ending = std::move(found->second);
      watches_.erase(found);
      ending->cancel();
      co_await ending->join();
      print("OK");
      co_return false;
    }
    default: break;
  }
  task_group reporting(env_.get_executor());
  const bool local = asked.stale || asked.what == verb::members || asked.what == verb::snapshot;
  if (!local) reporting.spawn(report_no_leader());
  std::exception_ptr failure;
  reply answer;
  try {
    answer = co_await replica_.carry_out(asked, timeout_);
  } catch (...) {
    failure = std::current_exception();  // rethrown when the reporting has ended
  }
  reporting.cancel();
  co_await this_coro::reset_cancellation_state();
  co_await reporting.join();
  if (failure) std::rethrow_exception(failure);
  const bool tabular = answer.ok() && asked.what == verb::members;
  print(tabular ? members_table(nlohmann::ordered_json::parse(answer.words)) : describe(asked, answer));
  co_return false;
}

// While a command is under way.
awaitable<void> shell::report_no_leader() {
  for (time_point next{};;) {
    const std::string none = replica_.leaderless();
    const time_point now = env_.now();
    if (!none.empty() && now >= next) {
      print(none + "; retrying");
      next = now + 2s;
    }
    if (co_await replica_.changed(none.empty() ? now + 1h : next)) co_return;
  }
}

awaitable<void> shell::watch(std::string key) {
  store::watch watching(replica_.keys(), key);
  request shown;
  shown.what = verb::get;
  shown.key = key;
  for (;;) {
    key_change change = co_await watching.next();
    reply now;
    now.code = change.value ? reply_code::ok : reply_code::absent;
    now.value = std::move(change.value);
    print("WATCH " + describe(shown, now));
  }
}

}  // namespace lockstep::raft_replication
