// A source and its followers through every fault, while an operator restores the source's disk from a backup.
#include "scenarios.hpp"

#include "lockstep/catchup/follower.hpp"
#include "lockstep/catchup/source.hpp"
#include "lockstep/rpc/link.hpp"
#include "lockstep/rpc/server.hpp"
#include "lockstep/sim/check/convergence.hpp"
#include "lockstep/sim/check/durability.hpp"
#include "lockstep/sim/durable_view.hpp"

#include <deque>
#include <set>
#include <unordered_map>

namespace lockstep::scenarios {
namespace {

using log_type = basic_append_log<sim::env>;
using sim::check::violation;
using sim::check::detail::text;

constexpr const char* purpose = "catchup";
constexpr const char* snapshot_path = "/snapshot";

// One life of the source: it appends with one epoch, and takes nothing back.
struct life {
  epoch_t epoch = 0;
  std::vector<position> records;  // from the first on, also those that are compacted
  [[nodiscard]] bool holds(const position& at) const {
    if (at.index == 0) return at == position{};
    return at.index <= records.size() && records[at.index - 1] == at;
  }
};

// What is known of a follower from outside.
struct replica {
  replica(sim::node& runs, node_id number) : on(runs), id(number), disk(runs.storage), oracle(disk, "/log") {}
  sim::node& on;
  node_id id;
  sim::durable_view disk;
  sim::check::durability_oracle<sim::durable_view> oracle;
  bool stranger = false;  // of another cluster
  log_options log;
  follower_options options;
  duration compacts_every{0};
  std::set<std::uint64_t> given_up;      // chains of records that it cut off because the source does not have them
  std::set<std::uint64_t> snapshots{0};  // chains at the ends of those that were durable; 0: there is no need of one
  index_t compacted_to = 0;              // by its program
  position checked;                      // of what the source believes it has

  // While it is up.
  sim::env* env = nullptr;
  log_type* keeps = nullptr;
  basic_follower<sim::env>* follows = nullptr;
};

struct truth {
  struct appended {
    position at;
    std::uint64_t payload_hash = 0;
    std::uint64_t previous = 0;  // chain
  };

  sim::node* source_node = nullptr;
  std::deque<life> lives;  // of the source; it is node first_life + i of the cluster in its life i
  std::unordered_map<std::uint64_t, appended> records;  // by chain, whoever lost them since
  index_t most = 0;                                     // records in any life
  std::deque<replica> replicas;
  violation broken;

  log_options log;
  source_options options;
  channel_options channel;
  duration compacts_every{0};
  std::uint64_t longest = 0;  // payload of a record
  double slow = 0;            // how often the source's writer pauses
  epoch_t least_epoch = 1;    // of the source's next life, by its operator
  bool quiet = false;         // the writer writes no more
  bool one_more = false;      // than this
  static constexpr node_id first_life = 100;

  // While the source is up.
  log_type* log_of_source = nullptr;
  basic_source<sim::env>* source = nullptr;

  // What programs find wrong is said by the next look(): they must not end by it.
  void must(const violation& found) {
    if (found && !broken) broken = found;
  }
  void must(bool holds, const std::string& what) {
    if (!holds) must(violation(what));
  }
  [[nodiscard]] epoch_t highest_epoch() const {
    epoch_t highest = 0;
    for (const life& each : lives) highest = std::max(highest, each.epoch);
    return highest;
  }

  // The records of a log, from `first` on, are some that a source appended (and `by` holds, when it is given).
  void see_copy(log_type& of, index_t first, const life* by = nullptr) {
    typename log_type::read_place place;
    place.next = first;
    while (place.next <= of.last().index) {
      for (const record each : of.read(place, 64 << 10, visibility::staged)) {
        const auto known = records.find(each.chain);
        const bool true_copy = known != records.end() && known->second.payload_hash == xxh3_64(each.payload);
        if (true_copy && (!by || by->holds(each.position()))) continue;
        must(false, of.directory() + " holds " + text(each.position()) + ", which its source never appended");
      }
    }
  }
};

/// What points into a program, while that lives.
template <class T>
struct shown {
  T*& place;
  shown(T*& pointer, T& to) : place(pointer) { place = &to; }
  shown(const shown&) = delete;
  ~shown() { place = nullptr; }
};

std::unique_ptr<log_type> usable(log_type::open_result opened) {
  if (!opened.log) throw std::logic_error("the log is corrupt: " + opened.report.reason);
  return std::move(opened.log);
}

awaitable<void> join_and_close(task_group& tasks, log_type& log) {
  std::exception_ptr failure;
  try {
    co_await tasks.join();
  } catch (...) {
    failure = std::current_exception();  // rethrown when the log is closed
  }
  try {
    co_await log.close();
  } catch (const std::system_error&) {
    // The failed log's own words; what made the tasks end says why.
  }
  if (failure) std::rethrow_exception(failure);
}

// --- The source ------------------------------------------------------------------------------------------------------

// As many bytes as its chain says, which follow from it.
std::vector<std::byte> snapshot_at(const position& upto) {
  sim::random_stream random(upto.chain);
  std::vector<std::byte> bytes(random.below(20'000));
  for (std::byte& each : bytes) each = static_cast<std::byte>(random());
  return bytes;
}

class leading final : public snapshot_provider {
 public:
  leading(sim::env& on, truth& in, log_type& log)
      : on_(on), in_(in), log_(log), source_(on, log, in.options, this), random_(on.random()) {}

  awaitable<void> run() {
    begin_life();
    if (life_->epoch != log_.last().epoch) append(0);
    co_await log_.durable(log_.last().index);
    std::error_code ec;
    sim::env::acceptor accepts = on_.listen(address("0.0.0.0", 7000), ec);
    if (ec) throw std::system_error(ec, "listen");
    server_options options;
    options.channel = in_.channel;
    options.channel.node = truth::first_life + in_.lives.size() - 1;
    options.channel.idle_timeout = 3s;
    basic_server<sim::env> server(on_, std::move(accepts), options);
    server.on(purpose, [this](basic_channel<sim::env>& up) { return serve(up); });
    const shown source_shown(in_.source, source_);
    const shown log_shown(in_.log_of_source, log_);
    task_group tasks(on_.get_executor());
    tasks.spawn(server.run());
    tasks.spawn(write());
    if (in_.compacts_every.count() != 0) tasks.spawn(compact());
    co_await join_and_close(tasks, log_);
  }

  std::optional<snapshot_image> latest() override {
    snapshot_image image;
    image.upto = *log_.position_at(std::max(snapshot_, log_.base().index));
    if (image.upto.index == 0) return std::nullopt;
    const auto bytes = std::make_shared<std::vector<std::byte>>(snapshot_at(image.upto));
    image.bytes = *bytes;
    image.owner = bytes;
    return image;
  }

 private:
  // A life goes on with the epoch of the one before, which may have lost records, or with a higher one.
  void begin_life() {
    life next;
    for (std::uint64_t chain = log_.last().chain; chain != 0; chain = in_.records.at(chain).previous) {
      next.records.push_back(in_.records.at(chain).at);
    }
    std::reverse(next.records.begin(), next.records.end());
    next.epoch = std::max(log_.last().epoch + random_.below(2), in_.least_epoch);
    in_.lives.push_back(std::move(next));
    life_ = &in_.lives.back();
  }

  void append(std::size_t size) {
    std::vector<std::byte> payload(size);
    for (std::byte& each : payload) each = static_cast<std::byte>(random_());
    const std::uint64_t previous = log_.last().chain;
    const position at = log_.append(life_->epoch, payload);
    in_.records.emplace(at.chain, truth::appended{at, xxh3_64(payload), previous});
    life_->records.push_back(at);
    in_.most = std::max(in_.most, at.index);
  }

  awaitable<void> write() {
    for (;;) {
      while (in_.quiet && !in_.one_more) {
        if (log_.failure()) throw std::system_error(log_.failure(), log_.directory());
        co_await pause(on_, 5ms);
      }
      in_.one_more = false;
      const std::uint64_t many = random_.chance(0.05) ? 50 : 5;
      const std::uint64_t burst = in_.quiet ? 1 : 1 + random_.below(many);
      try {
        for (std::uint64_t i = 0; i < burst; ++i) append(random_.below(in_.longest));
      } catch (const std::system_error& error) {
        if (error.code() != errc::overloaded && error.code() != std::errc::no_space_on_device) throw;
        in_.one_more = in_.quiet;
      }
      if (random_.chance(0.5)) co_await log_.durable(log_.last().index);
      if (random_.chance(in_.slow)) co_await pause(on_, std::chrono::microseconds(random_.below(200'000)));
      co_await pause(on_, std::chrono::microseconds(random_.below(20'000)));
    }
  }

  awaitable<void> compact() {
    for (;;) {
      co_await pause(on_, in_.compacts_every);
      snapshot_ = log_.acked().index;
      (void)co_await log_.compact_prefix(snapshot_ + 1);
    }
  }

  awaitable<void> serve(basic_channel<sim::env>& up) {
    try {
      co_await source_.serve(up);
    } catch (const std::system_error& error) {
      const std::error_code ec = error.code();
      in_.must(ec != errc::malformed && ec != errc::corrupt && ec != errc::diverged && ec != errc::frame_too_large &&
                   ec != errc::snapshot_required,
               "the source could not serve a follower: " + std::string(error.what()));
      throw;
    }
  }

  sim::env& on_;
  truth& in_;
  log_type& log_;
  basic_source<sim::env> source_;
  sim::random_stream random_;
  life* life_ = nullptr;
  index_t snapshot_ = 0;
};

awaitable<void> lead(sim::env& on, truth& in) {
  auto opened = co_await log_type::open(on, "/log", in.log);
  const std::unique_ptr<log_type> log = usable(std::move(opened));
  in.see_copy(*log, log->first_index());
  leading program(on, in, *log);
  co_await program.run();
}

// --- A follower ------------------------------------------------------------------------------------------------------

// Follows, and judges what the follower tells and does.
class following final : public follower_events {
 public:
  following(sim::env& on, truth& in, replica& is, log_type& log)
      : on_(on),
        in_(in),
        is_(is),
        log_(log),
        follower_(on, log, *this, is.options),
        link_(on, address("source", 7000), connect_options(),
              [this](basic_channel<sim::env>& up) { return follow(up); }),
        tasks_(on.get_executor()) {}

  awaitable<void> run() {
    const shown env_shown(is_.env, on_);
    const shown log_shown(is_.keeps, log_);
    const shown follower_shown(is_.follows, follower_);
    tasks_.spawn(link_.run());
    if (is_.compacts_every.count() != 0) tasks_.spawn(compact());
    co_await join_and_close(tasks_, log_);
  }

  void subscribed(const position& have, index_t) override {
    see_source("subscribed behind " + text(have));
    must(source_->holds(have), "follows a source that does not hold its " + text(have));
    next_ = have.index + 1;
  }

  void received(index_t first, index_t last, std::size_t) override {
    must(first == next_ && last == log_.last().index, "was told of other records than those that arrived");
    next_ = last + 1;
    in_.see_copy(log_, first, source_);
    for (index_t i = first; !is_.given_up.empty() && i <= last; ++i) is_.given_up.erase(log_.position_at(i)->chain);
  }

  void caught_up(const position& at) override {
    must(source_->holds(at), "caught up at " + text(at) + ", which the source does not hold");
    const auto durable = is_.oracle.last_durable();
    const index_t named = follower_.state().source_last;
    must(durable && durable->index >= named, "caught up before record " + text(named) + " was durable");
  }

  awaitable<void> diverged(position common, index_t first_lost, index_t last_lost, std::string saved_to) override {
    see_source("diverged");
    must(last_lost == log_.last().index && !source_->holds(log_.last()), "gives up what the source holds");
    const bool repairs = is_.options.on_divergence == repair::save_and_truncate;
    if (repairs && first_lost <= last_lost) see_saved(first_lost, saved_to);
    position lost;  // the first; not asked of the log, which may have compacted it by now
    for (std::uint64_t at = log_.last().chain; at != common.chain && at != 0; at = in_.records.at(at).previous) {
      lost = in_.records.at(at).at;
      if (repairs) is_.given_up.insert(at);
    }
    must(common.index == 0 || (source_->holds(common) && first_lost == common.index + 1 && lost.index == first_lost &&
                               !source_->holds(lost)),
         "was told that its history and the source's part behind " + text(common));
    co_return;
  }

  awaitable<void> snapshot_begin(position upto, std::uint64_t size) override {
    see_source("takes a snapshot");
    must(source_->holds(upto), "takes a snapshot of " + text(upto) + ", which the source does not hold");
    upto_ = upto;
    arriving_.clear();
    announced_ = size;
    co_return;
  }
  awaitable<void> snapshot_chunk(bytes_view bytes) override {
    arriving_.insert(arriving_.end(), bytes.begin(), bytes.end());
    co_return;
  }
  awaitable<void> snapshot_end() override {
    must(arriving_.size() == announced_ && arriving_ == snapshot_at(upto_), "took another snapshot than was sent");
    see_base();
    const std::string temporary = std::string(snapshot_path) + ".tmp";
    std::error_code ec;
    sim::env::file to = on_.open(temporary, open_mode::truncate, ec);
    const bytes_view bytes(arriving_);
    if (!ec) to.pwrite(0, {&bytes, 1}, ec);
    if (!ec) ec = co_await to.datasync(sync_on::disk_thread);
    if (!ec) on_.rename(temporary, snapshot_path, ec);
    if (!ec) ec = co_await on_.sync_directory("/", sync_on::disk_thread);
    if (ec) throw std::system_error(ec, snapshot_path);
    is_.snapshots.insert(upto_.chain);
  }

  // What the log begins behind was replaced by a durable snapshot first.
  void see_base() const {
    must(log_.base().index <= is_.compacted_to || is_.snapshots.contains(log_.base().chain),
         "begins behind " + text(log_.base()) + " without a durable snapshot");
  }

 private:
  void must(bool holds, const std::string& what) const { in_.must(holds, is_.on.name + " " + what); }

  void see_source(const std::string& what) const {
    must(source_->epoch >= log_.last().epoch,
         what + ", by a source of epoch " + text(source_->epoch) + ", while it holds " + text(log_.last()));
  }

  // The file holds what will be cut off, and nothing else, and is durable.
  void see_saved(index_t first, const std::string& path) const {
    const auto bytes = is_.on.storage.bytes(path, sim::view::durable);
    const bytes_view file = bytes ? bytes_view(*bytes) : bytes_view();
    const auto header = segment_header::decode(file.first(std::min(file.size(), log_format::segment_header_used)));
    const bool begins = header && header->base.index + 1 == first;
    const segment_scan found = begins ? scan_segment(file, *header) : segment_scan();
    const bool same = begins && found.last == log_.last() && found.good_bytes == file.size();
    must(same, "cuts records from " + text(first) + " off that '" + path + "' does not hold durably");
  }

  link_options connect_options() const {
    link_options options;
    options.channel = in_.channel;
    options.channel.node = is_.id;
    options.channel.purpose = purpose;
    options.channel.idle_timeout = 3s;
    options.channel.keepalive = 1s;
    if (is_.stranger) options.channel.cluster = "other";
    options.backoff_base = 5ms;
    options.backoff_max = 500ms;
    return options;
  }

  awaitable<void> follow(basic_channel<sim::env>& up) {
    must(!is_.stranger, "of another cluster was let in");
    source_ = &in_.lives.at(up.peer().node - truth::first_life);
    const position had = log_.last();
    const std::uint64_t rewinds = log_.rewinds();
    try {
      co_await follower_.run(up);
    } catch (const std::system_error& error) {
      const std::error_code ec = error.code();
      must(ec != errc::malformed && ec != errc::corrupt && ec != errc::snapshot_required,
           "could not follow: " + std::string(error.what()));
      const bool older = source_->epoch < had.epoch;
      must(!older || (log_.last() == had && log_.rewinds() == rewinds), "was changed by an older life of the source");
      must(older || ec != errc::stale_epoch, "took the source's life for an older one");
      if (ec == errc::diverged) {
        must(is_.options.on_divergence == repair::stop && log_.rewinds() == rewinds, "was cut though it was to stop");
        is_.options.on_divergence = repair::save_and_truncate;  // says its operator, and starts it again
      }
      if (ec == errc::diverged || log_.failure()) tasks_.cancel();
      throw;
    }
  }

  awaitable<void> compact() {
    for (;;) {
      co_await pause(on_, is_.compacts_every);
      const index_t kept = log_.acked().index - (log_.acked().index - log_.base().index) / 2;
      is_.compacted_to = std::max(is_.compacted_to, kept);
      (void)co_await log_.compact_prefix(kept + 1);
    }
  }

  sim::env& on_;
  truth& in_;
  replica& is_;
  log_type& log_;
  basic_follower<sim::env> follower_;
  basic_link<sim::env> link_;
  task_group tasks_;
  const life* source_ = nullptr;  // the one that it is connected to
  index_t next_ = 0;
  position upto_;
  std::vector<std::byte> arriving_;
  std::uint64_t announced_ = 0;
};

awaitable<void> follow(sim::env& on, truth& in, replica& is) {
  auto opened = co_await log_type::open(on, "/log", is.log);
  const std::unique_ptr<log_type> log = usable(std::move(opened));
  in.see_copy(*log, log->first_index());
  following program(on, in, is, *log);
  program.see_base();
  co_await program.run();
}

// --- The scenario ----------------------------------------------------------------------------------------------------

void look(truth& in) {
  sim::simulation::require(in.broken);
  for (replica& each : in.replicas) {
    if (!each.follows) continue;
    const follower_state state = each.follows->state();
    sim::simulation::require(state.lag_records <= in.most && state.lag_time.count() >= 0,
                             each.on.name + " lags by " + text(state.lag_records) + " records");
    sim::simulation::require(!state.caught_up || each.keeps->acked().index >= state.source_last,
                             each.on.name + " says that it is caught up");
  }
  if (!in.source) return;
  for (const follower_status& each : in.source->followers()) {
    replica& is = in.replicas.at(each.node - 1);
    if (each.acked == is.checked || each.acked.index == 0 || is.given_up.contains(each.acked.chain)) continue;
    sim::simulation::require(is.oracle.must_hold(each.acked));
    is.checked = each.acked;
  }
}

void look_now_and_then(sim::world& world, truth& in) {
  world.at(world.elapsed() + 3ms, [&world, &in] {
    look(in);
    look_now_and_then(world, in);
  });
}

// Puts an older disk, or an empty one, into the source, and begins a life that is older than what followers know, or as
// old, or younger.
void plan_restore(sim::world& world, truth& in) {
  sim::random_stream random = world.random("operator");
  if (random.chance(0.4)) return;
  const auto backup = std::make_shared<sim::disk>();
  const duration saved = std::chrono::milliseconds(random.below(6000));
  const duration restored = saved + std::chrono::milliseconds(random.below(4000));
  if (random.chance(0.7)) world.at(saved, [&in, backup] { *backup = in.source_node->storage.process_crash(); });
  world.at(restored, [&in, backup, life = random.below(3)] {
    in.source_node->crash();
    in.source_node->storage = std::move(*backup);
    in.source_node->storage.set_capacity(std::numeric_limits<std::uint64_t>::max());  // it may have been full then
    if (life != 0) in.least_epoch = in.highest_epoch() + life - 1;
    in.source_node->start();
  });
}

void draw(truth& in, sim::simulation& of) {
  sim::random_stream random = of.random("catchup");
  in.log = drawn_log_options(of.random("log options"));
  if (random.chance(0.5)) in.options.ship = visibility::staged;
  in.options.max_batch_bytes = std::size_t{256} << random.below(8);
  in.options.heartbeat_interval = std::chrono::milliseconds(10 << random.below(7));
  in.channel.cluster = "test";
  in.channel.max_frame_bytes = std::size_t{4} << (10 + random.below(6));
  in.channel.send_queue_bytes = std::size_t{4} << (10 + random.below(6));
  in.compacts_every = random.chance(0.3) ? duration(0) : std::chrono::milliseconds(50 + random.below(2000));
  in.slow = random.unit();
  in.longest = std::uint64_t{1} << (4 + random.below(8));
  in.source_node = &of.in().add_node("source");
  const std::uint64_t followers = 1 + random.below(3);
  for (node_id id = 1; id <= followers; ++id) {
    sim::node& on = of.in().add_node("follower" + std::to_string(id));
    if (random.chance(0.5)) on.disk_time.least = std::chrono::milliseconds(random.below(30));
    replica& is = in.replicas.emplace_back(on, id);
    is.stranger = random.chance(0.05);
    is.log = drawn_log_options(of.random("log options of " + on.name));
    if (random.chance(0.5)) is.options.mode = catchup::mode::pull;
    is.options.poll_interval = std::chrono::milliseconds(4 << random.below(7));
    const std::uint64_t polls = random.below(2);
    is.options.long_poll = std::chrono::milliseconds(polls << random.below(9));
    is.options.max_batch_bytes = std::size_t{256} << random.below(10);
    if (random.chance(0.8)) is.options.on_divergence = repair::save_and_truncate;
    if (random.chance(0.6)) is.compacts_every = std::chrono::milliseconds(50 + random.below(2000));
  }
}

// Within a minute every follower has what the source has, durably, and the source knows it.
void require_all_caught_up(sim::simulation& of, truth& in) {
  const auto all = [&in] {
    if (!in.source || in.one_more || in.broken) return in.broken.has_value();
    const position last = in.log_of_source->last();
    std::set<node_id> known;
    for (const follower_status& each : in.source->followers()) {
      if (each.acked == last) known.insert(each.node);
    }
    for (const replica& each : in.replicas) {
      if (each.stranger) continue;
      if (!each.follows || each.keeps->acked() != last || !each.follows->state().caught_up) return false;
      if (!known.contains(each.id)) return false;
    }
    return true;
  };
  const bool caught_up = of.in().run_until(all, 60s);
  look(in);
  sim::simulation::require(caught_up, "a follower did not catch up in 60 s after the faults");
}

void require_heartbeats(sim::simulation& of, truth& in) {
  of.in().run_for(3 * in.options.heartbeat_interval + 100ms);
  for (const replica& each : in.replicas) {
    if (each.stranger || each.options.mode == catchup::mode::pull) continue;
    sim::simulation::require(each.follows && each.env->wall_now() - each.follows->state().last_contact <=
                                                 in.options.heartbeat_interval * 6 / 5 + 50ms,
                             each.on.name + " did not hear a heartbeat in time");
  }
}

void run(sim::simulation& of) {
  const auto in_owner = std::make_shared<truth>();
  truth& in = *in_owner;
  of.keep(in_owner);
  draw(in, of);
  of.run(*in.source_node, [&in](sim::env& on) { return lead(on, in); });
  for (replica& each : in.replicas) of.run(each.on, [&in, &each](sim::env& on) { return follow(on, in, each); });
  look_now_and_then(of.in(), in);
  plan_restore(of.in(), in);

  sim::fault_plan_options faults;
  faults.lasts = 10s;
  faults.often = 3;
  faults.longest = 2s;
  of.chaos(faults);
  in.quiet = true;
  of.calm();
  in.least_epoch = in.highest_epoch() + 1;
  if (in.lives.back().epoch + 1 < in.least_epoch) {  // followers refuse the present life
    in.source_node->crash();
    in.source_node->start();
  }
  require_all_caught_up(of, in);
  in.one_more = true;
  require_all_caught_up(of, in);
  require_heartbeats(of, in);
  sim::check::convergence ends;
  ends.ends(truth::first_life, in.log_of_source->last());
  for (replica& each : in.replicas) {
    if (!each.stranger) ends.ends(each.id, each.oracle.last_durable().value_or(position{}));
    in.must(!each.stranger || each.keeps->last() == position{}, each.on.name + " holds another cluster's records");
  }
  sim::simulation::require(in.broken);
  sim::simulation::require(ends.converged(truth::first_life));
}

}  // namespace

sim::scenario catch_up() {
  return {"catchup", "a source ships its log to followers; its disk is replaced by older ones", &run};
}

}  // namespace lockstep::scenarios
