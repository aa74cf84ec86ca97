// store: a node's data directory. The log is the state: what leader and replica hold is what its records add up to.
//
//   D/LOCK      held while a node runs; its holder's pid
//   D/log/      the log, see lockstep/log.hpp
//   D/snapshot  the state up to some record, so that the log before it may go
//
// A record counts once, because applying it is nothing but reading the log on: kill -9 at any moment neither loses nor
// double-counts.
#pragma once

#include "cityhall/history.hpp"
#include "cityhall/snapshot.hpp"

#include <lockstep/catchup/source_options.hpp>
#include <lockstep/core/mutant.hpp>
#include <lockstep/log.hpp>

#include <cassert>
#include <functional>
#include <memory>
#include <string>
#include <utility>

namespace lockstep::cityhall {

inline std::string log_path(const std::string& directory) { return directory + "/log"; }
inline std::string snapshot_path(const std::string& directory) { return directory + "/snapshot"; }

struct store_options {
  store_options() {}

  log_options log;
  std::uint64_t snapshot_every = 1'000'000;             ///< records after which a snapshot is written; 0: never
  std::uint64_t retain_bytes = std::uint64_t{1} << 30;  ///< log kept behind a snapshot for replicas that lag
  bool start_over = false;  ///< what no snapshot continues any more is dropped: a replica gets everything again
};

/// Thrown by open() when stored data is damaged; what() names the range and the reason.
class store_corrupt : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// Thrown by open(): another process runs on the directory.
class store_locked : public std::runtime_error {
 public:
  store_locked(std::string directory, long pid)
      : std::runtime_error("data directory " + directory + " is locked by pid " + std::to_string(pid)),
        directory_(std::move(directory)),
        pid_(pid) {}
  [[nodiscard]] const std::string& directory() const noexcept { return directory_; }
  [[nodiscard]] long pid() const noexcept { return pid_; }

 private:
  std::string directory_;
  long pid_;
};

/// Thread safety: none; everything on the environment's executor. close() before the destructor.
template <environment Env>
class basic_store : public snapshot_provider {
 public:
  /// Opens or creates the directory and applies what its log holds.
  /// @throws store_locked, store_corrupt, system_error.
  static awaitable<std::unique_ptr<basic_store>> open(Env& env, std::string directory, store_options options);

  basic_store(Env& env, std::string directory, store_options options)
      : env_(env),
        directory_(std::move(directory)),
        options_(std::move(options)),
        stored_(env.get_executor()),
        applied_(env.get_executor()) {}

  [[nodiscard]] basic_append_log<Env>& log() noexcept { return *log_; }
  [[nodiscard]] const kv_state& state() const noexcept { return state_; }
  [[nodiscard]] const recovery_report& recovery() const noexcept { return recovery_; }
  [[nodiscard]] const std::string& directory() const noexcept { return directory_; }

  /// Told of each record after it was applied.
  std::function<void(const record&)> on_applied;

  /// Waits until the state holds the record at `wanted`; see holds().
  /// @return nothing; diverged when it never will, closed, operation_aborted.
  awaitable<std::error_code> holding(position wanted) {
    while (!stopped_) {
      const held found = applied_holds(wanted);
      if (found == held::never) co_return errc::diverged;
      if (found == held::yes) co_return std::error_code();
      const std::error_code ec = co_await applied_.wait();
      if (is_cancelled(ec)) co_return ec;
    }
    co_return errc::closed;
  }

  /// Applies records as they become durable, and writes snapshots, until close(). Its failure is the node's.
  awaitable<void> run() {
    for (;;) {
      while (rewinds_ != log_->rewinds() && !mutated(mutant::keep_state_after_rewind)) {
        if (!rebuild()) co_await start_over();
      }
      apply_new();
      if (snapshot_is_due()) {
        co_await write_snapshot();
        continue;  // records may have been taken back meanwhile
      }
      const std::error_code ec = co_await log_->readable(state_.at().index + 1, visibility::durable);
      if (ec == errc::closed) co_return;
      if (ec) throw std::system_error(ec, directory_);
    }
  }

  /// Makes the present state durable as the snapshot, and lets go of log that it replaces, except for retain_bytes.
  awaitable<void> write_snapshot() {
    const byte_buffer bytes = encode_snapshot(state_);
    const position at = state_.at();
    const std::uint64_t given_up = given_up_;
    retention limits;
    limits.max_bytes = options_.retain_bytes;
    if (mutated(mutant::compact_before_snapshot)) (void)co_await log_->apply_retention(limits, at.index);
    co_await store_snapshot(bytes.view(), at);
    if (given_up != given_up_) co_return;
    const index_t replaceable = mutated(mutant::compact_beyond_snapshot) ? log_->last().index : at.index;
    (void)co_await log_->apply_retention(limits, replaceable);
  }

  /// D1. Makes a leader's snapshot durable; the log is reset behind it afterwards, and until then no other one is
  /// stored. @param bytes  an encoded snapshot at `at`; stay until this returns.
  awaitable<void> install_snapshot(bytes_view bytes, position at) {
    changing_ = true;
    while (storing_) (void)co_await stored_.wait_uncancellable();
    co_await store_snapshot(bytes, at);
  }

  /// The records behind `kept` are about to be taken back: a snapshot that holds some of them goes before them, also
  /// one that is being written; for good (D3), so that a crash leaves a log with its snapshot, or one that starts over.
  awaitable<void> give_up_snapshot_behind(index_t kept) {
    ++given_up_;
    changing_ = true;
    if (snapshot_.index <= kept || mutated(mutant::keep_snapshot_of_lost_records)) co_return;
    std::error_code ec;
    env_.remove(snapshot_path(directory_), ec);
    if (!ec) ec = co_await env_.sync_directory(directory_, sync_on::disk_thread);
    if (ec) throw std::system_error(ec, "cannot remove " + snapshot_path(directory_));
    snapshot_ = position{};
  }

  std::optional<snapshot_image> latest() override {
    const auto kept = map_snapshot();
    // A newer one may have taken the name already while its directory is being synced: what the bytes say counts.
    const auto summary = kept ? read_snapshot_summary(kept->bytes()) : std::nullopt;
    snapshot_image image;
    if (summary) {
      image.upto = mutated(mutant::announce_snapshot_at_applied_position) ? state_.at() : summary->at;
      image.bytes = kept->bytes();
      image.owner = kept;
    } else {
      // The log still begins at the beginning: what is applied is as durable.
      if (state_.at().index == 0) return std::nullopt;
      const auto encoded = std::make_shared<byte_buffer>(encode_snapshot(state_));
      image.upto = state_.at();
      image.bytes = encoded->view();
      image.owner = encoded;
    }
    return image;
  }

  /// Everything staged is flushed and the directory released.
  awaitable<void> close() {
    stopped_ = true;
    applied_.notify_all(errc::closed);
    if (log_) co_await log_->close();
    lock_ = typename Env::file_lock();
  }

 private:
  struct storing_mark {
    explicit storing_mark(basic_store& in) : of(in), alive(in.alive_) { of.storing_ = true; }
    storing_mark(const storing_mark&) = delete;
    ~storing_mark() {
      if (alive.expired()) return;
      of.storing_ = false;
      of.stored_.notify_one();
    }
    basic_store& of;
    std::weak_ptr<const void> alive;
  };

  [[nodiscard]] bool snapshot_is_due() const {
    return options_.snapshot_every != 0 && !changing_ && !storing_ &&
           state_.at().index >= snapshot_.index + options_.snapshot_every;
  }

  // One at a time.
  awaitable<void> store_snapshot(bytes_view bytes, position at) {
    assert(!storing_);
    const storing_mark mark(*this);
    const std::uint64_t given_up = given_up_;
    const std::string path = snapshot_path(directory_);
    std::error_code ec;
    typename Env::file to = env_.open(path + ".tmp", open_mode::truncate, ec);
    if (!ec && mutated(mutant::rename_snapshot_before_sync)) {
      to.pwrite(0, {&bytes, 1}, ec);
    } else if (!ec) {
      ec = co_await to.pwrite_datasync(0, {&bytes, 1}, sync_on::disk_thread);
    }
    if (!ec && given_up != given_up_) co_return;
    if (!ec) {
      env_.rename(path + ".tmp", path, ec);
      if (!ec) snapshot_ = at;
    }
    if (!ec && !mutated(mutant::skip_snapshot_directory_sync)) {
      ec = co_await env_.sync_directory(directory_, sync_on::disk_thread);
    }
    if (ec) throw std::system_error(ec, "cannot write " + path);
  }

  held applied_holds(const position& wanted) {
    if (wanted == state_.at()) return held::yes;
    if (rewinds_ != log_->rewinds()) return held::not_yet;  // the state is of records that may be gone
    const bool known = wanted.index >= log_->base().index && wanted.index <= state_.at().index;
    return holds(wanted, log_->base(), state_.at(), known ? log_->position_at(wanted.index) : std::nullopt);
  }

  // Null when there is none.
  std::shared_ptr<typename Env::mapping> map_snapshot() {
    std::error_code ec;
    const std::string path = snapshot_path(directory_);
    const typename Env::file from = env_.open(path, open_mode::read, ec);
    if (ec == std::errc::no_such_file_or_directory) return nullptr;
    std::uint64_t size = 0;
    if (!ec) size = from.size(ec);
    auto mapped = std::make_shared<typename Env::mapping>();
    if (!ec) *mapped = from.map(0, size, ec);
    if (ec) throw std::system_error(ec, "cannot read " + path);
    return mapped;
  }

  void load_snapshot() {
    state_ = kv_state();
    snapshot_ = position{};
    const auto mapped = map_snapshot();
    if (!mapped) return;
    std::optional<kv_state> found = decode_snapshot(mapped->bytes());
    if (!found) throw store_corrupt(snapshot_path(directory_) + " is damaged");
    state_ = std::move(*found);
    snapshot_ = state_.at();
  }

  // From the snapshot and the log, after records were taken back or replaced by a snapshot.
  // @return false when the log begins behind the snapshot's record, or another one.
  bool rebuild() {
    rewinds_ = log_->rewinds();
    changing_ = false;
    load_snapshot();
    const bool continues = log_->position_at(state_.at().index) == state_.at();
    if (!continues) {
      state_ = kv_state();
      snapshot_ = position{};
    }
    place_ = typename basic_append_log<Env>::read_place();
    place_.next = state_.at().index + 1;
    if (state_.at().index > log_->base().index && mutated(mutant::apply_snapshot_record_again)) --place_.next;
    applied_.notify_all();
    return continues || log_->base().index == 0;
  }

  // The snapshot first: whatever is killed in between starts over again.
  awaitable<void> start_over() {
    if (!options_.start_over) {
      throw store_corrupt("the log in " + directory_ + " begins behind index " + std::to_string(log_->base().index) +
                          ", and no snapshot stands for what came before");
    }
    std::error_code ec;
    env_.remove(snapshot_path(directory_), ec);
    if (ec == std::errc::no_such_file_or_directory) ec.clear();
    if (!ec) ec = co_await env_.sync_directory(directory_, sync_on::disk_thread);
    if (ec) throw std::system_error(ec, "cannot remove " + snapshot_path(directory_));
    co_await log_->reset(position{});
  }

  void apply_new() {
    for (;;) {
      const record_batch batch = log_->read(place_, std::size_t{1} << 20);
      if (batch.empty()) return;
      for (const record each : batch) {
        const apply_verdict verdict = state_.apply(each);
        if (verdict != apply_verdict::ok) {
          throw store_corrupt("record " + std::to_string(each.index) + " in " + directory_ + ": " + explain(verdict));
        }
        if (on_applied) on_applied(each);
      }
      applied_.notify_all();
    }
  }

  Env& env_;
  const std::string directory_;
  const store_options options_;
  typename Env::file_lock lock_;
  recovery_report recovery_;
  std::unique_ptr<basic_append_log<Env>> log_;
  kv_state state_;
  position snapshot_;
  typename basic_append_log<Env>::read_place place_;
  std::uint64_t rewinds_ = 0;
  bool stopped_ = false;
  bool storing_ = false;
  bool changing_ = false;       // the log is about to be: what is applied must not become a snapshot any more
  std::uint64_t given_up_ = 0;  // how often a snapshot was
  wait_list stored_;
  wait_list applied_;
  // Coroutines that still wait are destroyed with the executor, maybe after the store.
  std::shared_ptr<const void> alive_ = std::make_shared<char>();
};

template <environment Env>
awaitable<std::unique_ptr<basic_store<Env>>> basic_store<Env>::open(Env& env, std::string directory,
                                                                    store_options options) {
  auto store = std::make_unique<basic_store>(env, directory, options);
  std::error_code ec;
  env.create_directory(directory, ec);
  // D2; also when it was there: what made it may have died before.
  if (!ec) ec = co_await env.sync_directory(log_files::parent(directory), sync_on::disk_thread);
  if (ec) throw std::system_error(ec, "cannot create data directory " + directory);
  store->lock_ = env.lock(directory + "/LOCK", ec);
  if (ec == errc::log_locked) throw store_locked(directory, store->lock_.holder_pid());
  if (ec) throw std::system_error(ec, "cannot lock data directory " + directory);

  store->load_snapshot();
  auto opened = co_await basic_append_log<Env>::open(env, log_path(directory), options.log);
  store->recovery_ = opened.report;
  if (!opened.log) {
    throw store_corrupt("the log in " + log_path(directory) + " is corrupt from record " +
                        std::to_string(opened.report.first_bad) + " to " + std::to_string(opened.report.last_bad) +
                        " (" + opened.report.file + ", offset " + std::to_string(opened.report.offset) +
                        "): " + opened.report.reason + "; nothing was changed");
  }
  store->log_ = std::move(opened.log);
  // A crash between a snapshot's installation and the log's reset.
  const bool interrupted = store->snapshot_.index > store->log_->last().index;
  if (interrupted && !mutated(mutant::forget_interrupted_installation)) {
    co_await store->log_->reset(store->snapshot_);
  }
  while (!store->rebuild()) co_await store->start_over();
  store->apply_new();
  co_return store;
}

}  // namespace lockstep::cityhall
