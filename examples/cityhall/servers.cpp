#include "cityhall/commands.hpp"
#include "cityhall/leader.hpp"
#include "cityhall/replica.hpp"
#include "cityhall/status.hpp"
#include "common/logging.hpp"
#include "common/progress.hpp"
#include "common/ready.hpp"
#include "common/signals.hpp"

#include <lockstep/core/task_group.hpp>

#include <asio/io_context.hpp>

#include <unistd.h>

namespace lockstep::cityhall {

namespace {

using examples::exit_code;
using examples::exit_error;

store_options to_store_options(const node_options& from) {
  store_options options;
  options.log.sync = from.sync;
  options.log.segment_bytes = from.segment_bytes;
  options.snapshot_every = from.snapshot_every;
  options.retain_bytes = from.retain_bytes;
  return options;
}

awaitable<std::unique_ptr<basic_store<real::env>>> open_store(real::env& env, const node_options& options) {
  try {
    co_return co_await basic_store<real::env>::open(env, options.data_dir, to_store_options(options));
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

/// Runs `serve` to its end; the first signal starts `stop`, which brings that about.
awaitable<void> until_signalled(real::env& env, awaitable<void> serve, std::function<awaitable<void>()> stop) {
  task_group stopping(env.get_executor());
  examples::signal_drain signals(env.get_executor(), [&](int signal_number) {
    examples::component_logger("cityhall")->info("stopping on signal {}; once more to stop at once", signal_number);
    stopping.spawn(stop());
  });
  std::exception_ptr failure;
  try {
    co_await std::move(serve);
  } catch (...) {
    failure = std::current_exception();  // rethrown when the stopping has ended
  }
  signals.stop();
  co_await stopping.join();
  if (failure) std::rethrow_exception(failure);
}

/// Runs `work` on an io_context of its own to its end.
void run_to_end(const std::function<awaitable<void>(real::env&)>& work) {
  asio::io_context io(1);
  real::env env(io.get_executor());
  std::exception_ptr failure;
  asio::co_spawn(io, work(env), [&failure](std::exception_ptr ended) { failure = ended; });
  io.run();
  if (failure) std::rethrow_exception(failure);
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

awaitable<void> lead_with(real::env& env, basic_store<real::env>& store, const leader_command& command) {
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
  co_await until_signalled(env, std::move(serve), stop);
}

awaitable<void> lead(real::env& env, leader_command command) {
  auto store = co_await open_store(env, command.server);
  tell_recovery(*examples::component_logger("leader"), *store);
  std::exception_ptr failure;
  try {
    co_await lead_with(env, *store, command);
  } catch (...) {
    failure = std::current_exception();  // rethrown when the store is closed
  }
  co_await store->close();
  if (failure) std::rethrow_exception(failure);
  examples::component_logger("leader")->info("stopped at index {}", store->state().at().index);
}

/// Keeps status.json true: when something changed, at most ten times a second, and once a second anyway.
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
  /// A change of health is written at once, everything else when the time has come.
  void changed() {
    changed_ = true;
    if (replica_ && replica_->health() != note_.health) write();
  }
  void stopped(const std::string& health) {
    replica_ = nullptr;
    note_.running = false;
    note_.health = health;
    write_note(store_.directory(), note_);
  }

 private:
  void write() {
    const follower_state state = replica_->following();
    note_.health = replica_->health();
    if (state.last_contact.time_since_epoch().count() != 0) {
      note_.last_sync_ns = state.last_contact.time_since_epoch().count();
    }
    write_note(store_.directory(), note_);
  }

  basic_store<real::env>& store_;
  basic_replica<real::env>* replica_ = nullptr;
  real::timer timer_;
  replica_note note_;
  bool changed_ = false;
};

awaitable<void> follow_with(real::env& env, basic_store<real::env>& store, note_keeper& note,
                            const replica_command& command) {
  const auto log = examples::component_logger("replica");
  std::optional<real::acceptor> readers;
  if (command.port) readers.emplace(listen(env, command.server.host, *command.port));
  examples::progress_options bar_options;
  bar_options.label = "catching up";
  std::optional<examples::progress> bar;
  replica_events events;
  events.info = [log](const std::string& text) { log->info("{}", text); };
  events.warning = [log](const std::string& text) { log->warn("{}", text); };
  events.changed = [&note] { note.changed(); };
  events.progress = [&](std::uint64_t done, std::uint64_t total) {
    if (!bar && done < total && total > 1000) bar.emplace(bar_options);
    if (!bar) return;
    bar->update(done, total);
    if (done < total) return;
    bar->finish();
    bar.reset();
  };
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
    co_await until_signalled(env, std::move(serve), stop);
  } catch (...) {
    failure = std::current_exception();  // rethrown when the noting has ended
  }
  noting.cancel();
  co_await noting.join();
  if (failure) std::rethrow_exception(failure);
}

awaitable<void> follow(real::env& env, replica_command command) {
  auto store = co_await open_store(env, command.server);
  tell_recovery(*examples::component_logger("replica"), *store);
  note_keeper note(env, *store, command);
  std::exception_ptr failure;
  std::string health = "stopped";
  try {
    co_await follow_with(env, *store, note, command);
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
    run_to_end([&command](real::env& env) { return lead(env, command); });
  } catch (const std::exception&) {
    rethrow_named(command.server);
  }
  return exit_code::ok;
}

exit_code run_replica(const replica_command& command) {
  if (command.server.data_dir.empty()) throw examples::usage_error("--data-dir is required");
  if (!command.leader) throw examples::usage_error("--leader is required");
  try {
    run_to_end([&command](real::env& env) { return follow(env, command); });
  } catch (const std::system_error& error) {
    if (error.code() == errc::diverged) throw exit_error(exit_code::negative, error.what());
    rethrow_named(command.server);
  } catch (const std::exception&) {
    rethrow_named(command.server);
  }
  return exit_code::ok;
}

}  // namespace lockstep::cityhall
