#include "cityhall/commands.hpp"
#include "cityhall/leader.hpp"
#include "cityhall/replica.hpp"
#include "cityhall/status.hpp"
#include "common/logging.hpp"
#include "common/progress.hpp"
#include "common/ready.hpp"
#include "common/run.hpp"

#include <lockstep/core/task_group.hpp>

#include <unistd.h>

namespace lockstep::cityhall {

namespace {

using examples::exit_code;
using examples::exit_error;
using examples::run_to_end;
using examples::stop_signal;

store_options to_store_options(const node_options& from, bool start_over) {
  store_options options;
  options.log.sync = from.sync;
  options.log.segment_bytes = from.segment_bytes;
  options.snapshot_every = from.snapshot_every;
  options.retain_bytes = from.retain_bytes;
  options.start_over = start_over;
  return options;
}

awaitable<std::unique_ptr<basic_store<real::env>>> open_store(real::env& env, const node_options& options,
                                                              bool start_over) {
  try {
    co_return co_await basic_store<real::env>::open(env, options.data_dir, to_store_options(options, start_over));
  } catch (const store_locked& locked) {
    throw examples::data_dir_locked(locked.directory(), locked.pid());
  } catch (const store_corrupt& corrupt) {
    throw exit_error(exit_code::corruption, corrupt.what());
  }
}

void tell_recovery(spdlog::logger& log, basic_store<real::env>& store) {
  const recovery_report& report = store.recovery();
  if (report.truncated_from) {
    log.warn("cut off a torn tail from record {} on, which was never acknowledged: {}", *report.truncated_from,
             report.reason);
  }
  log.info("opened {} at epoch {} index {}: {} segments, {} entries, {} keys", store.directory(),
           store.state().at().epoch, store.state().at().index, store.state().counts().segments,
           store.state().counts().entries, store.state().pairs().size());
}

real::acceptor listen(real::env& env, const std::string& host, std::uint16_t port) {
  const address where(host, port);
  std::error_code ec;
  real::acceptor acceptor = env.listen(where, ec);
  if (ec) throw examples::cannot_listen(where.to_string(), ec);
  return acceptor;
}

[[noreturn]] void rethrow_named(const node_options& options) {
  try {
    throw;
  } catch (const store_corrupt& corrupt) {
    throw exit_error(exit_code::corruption, corrupt.what());
  } catch (const std::system_error& error) {
    if (error.code() == errc::log_failed) {
      throw exit_error(exit_code::failure, "the log in " + options.data_dir + " failed and takes nothing more: " +
                                               error.what() + "; start again when the disk is well");
    }
    throw;
  }
}

awaitable<void> lead_with(real::env& env, stop_signal& signal, basic_store<real::env>& store,
                          const leader_command& command) {
  const auto log = examples::component_logger("leader");
  real::acceptor clients = listen(env, command.server.host, command.port);
  real::acceptor replicas = listen(env, command.server.host, command.replication_port);
  const address clients_at = clients.local_address();
  const address replicas_at = replicas.local_address();
  leader_events events;
  events.info = [log](const std::string& text) { log->info("{}", text); };
  events.warning = [log](const std::string& text) { log->warn("{}", text); };
  basic_leader<real::env> leader(env, store, events);
  co_await leader.begin_life(clients_at.to_string());
  log->info("leading with epoch {}; clients at {}, replicas at {}", leader.epoch(), clients_at.to_string(),
            replicas_at.to_string());
  examples::print_ready({{"clients", clients_at}, {"replication", replicas_at}});
  awaitable<void> serve = leader.run(std::move(clients), std::move(replicas));
  std::function<awaitable<void>()> stop = [&leader] { return leader.close(); };
  co_await signal.run_until(std::move(serve), stop);
}

awaitable<void> lead(real::env& env, stop_signal& signal, leader_command command) {
  auto store = co_await open_store(env, command.server, false);
  tell_recovery(*examples::component_logger("leader"), *store);
  std::exception_ptr failure;
  try {
    co_await lead_with(env, signal, *store, command);
  } catch (...) {
    failure = std::current_exception();  // rethrown when the store is closed
  }
  co_await store->close();
  if (failure) std::rethrow_exception(failure);
  examples::component_logger("leader")->info("stopped at index {}", store->state().at().index);
}

/// Keeps status.json true: a change of health is written at once, a new position at most ten times a second, and all
/// once a second anyway.
class note_keeper {
 public:
  note_keeper(real::env& env, basic_store<real::env>& store, const replica_command& command)
      : store_(store), timer_(env) {
    note_.id = command.id;
    note_.leader = command.leader->to_string();
    note_.pid = ::getpid();
    note_.running = true;
  }

  awaitable<void> run(basic_replica<real::env>& replica) {
    replica_ = &replica;
    for (;;) {
      write();
      timer_.expires_after(std::chrono::milliseconds(100));
      for (int tenths = 0; tenths < 10 && !changed_; ++tenths) {
        if (co_await timer_.wait()) throw std::system_error(asio::error::operation_aborted);
        timer_.expires_after(std::chrono::milliseconds(100));
      }
      changed_ = false;
    }
  }
  void position_changed() { changed_ = true; }
  void health_changed() {
    if (replica_) write();
  }
  void stopped(const std::string& health) {
    replica_ = nullptr;
    note_.running = false;
    note_.health = health;
    write_out();
  }

 private:
  void write() {
    const follower_state state = replica_->following();
    note_.health = replica_->health();
    if (state.last_contact.time_since_epoch().count() != 0) {
      note_.last_sync_ns = state.last_contact.time_since_epoch().count();
    }
    write_out();
  }
  // A note that can't be written is no reason to stop following.
  void write_out() {
    try {
      write_note(store_.directory(), note_);
      failed_ = false;
    } catch (const std::system_error& error) {
      if (!std::exchange(failed_, true)) examples::component_logger("replica")->warn("{}", error.what());
    }
  }

  basic_store<real::env>& store_;
  basic_replica<real::env>* replica_ = nullptr;
  real::timer timer_;
  replica_note note_;
  bool changed_ = false;
  bool failed_ = false;
};

/// A bar on a terminal, and a line now and then elsewhere, for what takes more than `short_below`.
class catch_up_bar {
 public:
  catch_up_bar(std::string label, examples::progress_unit unit, std::uint64_t short_below, spdlog::logger& log)
      : short_below_(short_below) {
    options_.label = std::move(label);
    options_.unit = unit;
    options_.log = [&log](const std::string& line) { log.info("{}", line); };
  }

  void update(std::uint64_t done, std::uint64_t total) {
    if (!bar_ && done < total && total > short_below_) bar_.emplace(options_);
    if (!bar_) return;
    bar_->update(done, total);
    if (done >= total) bar_.reset();
  }

 private:
  const std::uint64_t short_below_;
  examples::progress_options options_;
  std::optional<examples::progress> bar_;
};

awaitable<void> follow_with(real::env& env, stop_signal& signal, basic_store<real::env>& store, note_keeper& note,
                            const replica_command& command) {
  const auto log = examples::component_logger("replica");
  std::optional<real::acceptor> readers;
  if (command.port) readers.emplace(listen(env, command.server.host, *command.port));
  catch_up_bar records("catching up", examples::progress_unit::records, 1000, *log);
  catch_up_bar snapshot("taking the snapshot", examples::progress_unit::bytes, std::uint64_t{1} << 20, *log);
  replica_events events;
  events.info = [log](const std::string& text) { log->info("{}", text); };
  events.warning = [log](const std::string& text) { log->warn("{}", text); };
  events.health_changed = [&note] { note.health_changed(); };
  events.position_changed = [&note] { note.position_changed(); };
  events.progress = [&records](std::uint64_t done, std::uint64_t total) { records.update(done, total); };
  events.snapshot_progress = [&snapshot](std::uint64_t done, std::uint64_t total) { snapshot.update(done, total); };
  replica_options options;
  options.leader = *command.leader;
  options.id = command.id;
  options.on_divergence = command.on_divergence == "stop" ? repair::stop : repair::save_and_truncate;
  basic_replica<real::env> replica(env, store, options, events);
  log->info("replica {} follows {}", command.id, command.leader->to_string());
  if (readers) {
    examples::print_ready({{"clients", readers->local_address()}});
  } else {
    examples::print_ready({});
  }
  task_group noting(env.get_executor());
  noting.spawn(note.run(replica));
  awaitable<void> serve = replica.run(std::move(readers));
  std::function<awaitable<void>()> stop = [&replica] { return replica.close(); };
  std::exception_ptr failure;
  try {
    co_await signal.run_until(std::move(serve), stop);
  } catch (...) {
    failure = std::current_exception();  // rethrown when the noting has ended
  }
  noting.cancel();
  co_await noting.join();
  if (failure) std::rethrow_exception(failure);
}

awaitable<void> follow(real::env& env, stop_signal& signal, replica_command command) {
  auto store = co_await open_store(env, command.server, true);
  tell_recovery(*examples::component_logger("replica"), *store);
  note_keeper note(env, *store, command);
  std::exception_ptr failure;
  std::string health = "stopped";
  try {
    co_await follow_with(env, signal, *store, note, command);
  } catch (const std::exception& error) {
    failure = std::current_exception();  // rethrown when the store is closed
    health = std::string("failed: ") + error.what();
  }
  co_await store->close();
  note.stopped(health);
  if (failure) std::rethrow_exception(failure);
  examples::component_logger("replica")->info("stopped at index {}", store->state().at().index);
}

}  // namespace

exit_code run_leader(const leader_command& command) {
  if (command.server.data_dir.empty()) throw examples::usage_error("--data-dir is required");
  try {
    run_to_end([&command](real::env& env, stop_signal& signal) { return lead(env, signal, command); });
  } catch (const std::exception&) {
    rethrow_named(command.server);
  }
  return exit_code::ok;
}

exit_code run_replica(const replica_command& command) {
  if (command.server.data_dir.empty()) throw examples::usage_error("--data-dir is required");
  if (!command.leader) throw examples::usage_error("--leader is required");
  try {
    run_to_end([&command](real::env& env, stop_signal& signal) { return follow(env, signal, command); });
  } catch (const std::system_error& error) {
    if (error.code() == errc::diverged) throw exit_error(exit_code::negative, error.what());
    rethrow_named(command.server);
  } catch (const std::exception&) {
    rethrow_named(command.server);
  }
  return exit_code::ok;
}

}  // namespace lockstep::cityhall
