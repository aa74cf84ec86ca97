// A log that is appended to, cut, begun anew and compacted while its machine crashes and its disk fails; and the same
// log on a disk that loses and changes what was written.
#include "log_evidence.hpp"
#include "scenarios.hpp"

#include "lockstep/log/append_log.hpp"
#include "lockstep/log/cursor.hpp"
#include "lockstep/sim/check/durability.hpp"
#include "lockstep/sim/check/prefix.hpp"
#include "lockstep/sim/durable_view.hpp"

namespace lockstep::scenarios {
namespace {

using log_type = basic_append_log<sim::env>;

void must(const sim::check::violation& found) { sim::simulation::require(found); }
void must(bool holds, const std::string& text) { sim::simulation::require(holds, text); }

// truncate_suffix() or reset(), from the call until it is known to be done.
struct rewind {
  position to;
  bool resets = false;
  std::uint64_t rewinds_before = 0;
};

// What a scenario knows of the log, through all of its lives.
struct truth {
  explicit truth(sim::node& on) : disk(on.storage) { oracle.emplace(disk, directory); }

  sim::durable_view disk;
  std::string directory = "/log";
  std::uint64_t directories = 1;
  log_options options;
  sim::check::log_history history;
  std::optional<sim::check::durability_oracle<sim::durable_view>> oracle;

  const log_type* open = nullptr;
  index_t synced = 0;           // by the log that was open last
  bool closed = false;          // the log of the life before was, and nothing was lost since
  bool damaged = false;         // the disk does not keep what is written to it
  bool tells_known = false;     // to open(), what somebody else was told:
  index_t known_elsewhere = 0;  // the last record that was acknowledged, also when a power loss took it
  std::optional<rewind> rewinding;
  std::uint64_t acknowledged = 0;  // how often

  void power_lost() {
    closed = closed && options.sync != sync_policy::never;
    if (options.sync == sync_policy::always) return;
    history.truncating(std::max(open ? open->synced().index : synced, history.base().index));
  }

  /// Whoever looks first learns that the rewind is done.
  void see_rewind(const log_type& log) {
    if (!rewinding || log.rewinds() == rewinding->rewinds_before) return;
    if (rewinding->resets) {
      history.reset(rewinding->to);
      known_elsewhere = rewinding->to.index;
    } else {
      must(history.truncated(rewinding->to.index));
    }
    rewinding.reset();
  }

  /// Whether to ask the oracle, whose answer takes time for each segment.
  bool looks(sim::random_stream& random, const log_type& log) const {
    return random.below(8 + log.segment_count()) == 0 && !damaged && !rewinding;
  }

  void promised(index_t index) {
    if (index > history.last_acknowledged()) ++acknowledged;
    must(history.acknowledged(index));
    known_elsewhere = std::max(known_elsewhere, index);
  }

  /// The copy is given up, as that of a replica which is filled again from another one.
  void begin_afresh(sim::env& on) {
    std::error_code ec;
    for (const std::string& name : on.list(directory, ec)) on.remove(log_files::join(directory, name), ec);
    directory = "/log" + std::to_string(++directories);
    oracle.emplace(disk, directory);
    history = sim::check::log_history();
    rewinding.reset();
    synced = known_elsewhere = 0;
    closed = false;
  }
};

// While the log of a life is open.
class open_log {
 public:
  open_log(truth& know, const log_type& log) : know_(know) { know_.open = &log; }
  open_log(const open_log&) = delete;
  ~open_log() { know_.synced = std::exchange(know_.open, nullptr)->synced().index; }

 private:
  truth& know_;
};

// By docs/formats.md, and not by the code that the log uses.
position position_behind(const position& last, epoch_t epoch, bytes_view payload) {
  const index_t index = last.index + 1;
  const std::array<std::uint64_t, 5> words{last.chain, payload.size(), index, epoch << 8 | data_record,
                                           xxh3_64(payload)};
  return {epoch, index, log_codec::hash_words(words)};
}

void must_refuse_stale_epoch(log_type& log) {
  const position last = log.last();
  if (last.epoch == 0) return;
  std::error_code refused;
  try {
    (void)log.append(last.epoch - 1, bytes_view());
  } catch (const std::system_error& error) {
    refused = error.code();
  }
  must(refused == errc::stale_epoch && log.last() == last, "a record of an older epoch was appended");
}

void append_one(log_type& log, truth& know, epoch_t epoch, bytes_view payload) {
  const position last = log.last();
  const position at = log.append(epoch, payload);
  know.see_rewind(log);  // appends are taken again when it is done
  must(at == position_behind(last, epoch, payload), "the position does not name the record and its history");
  must(know.history.appended(at, xxh3_64(payload)));
}

awaitable<void> append_and_wait(sim::env& on, log_type& log, truth& know, std::uint64_t seed) {
  sim::random_stream random(seed);
  std::vector<std::byte> payload;
  epoch_t epoch = log.last().epoch + 1;
  for (;;) {
    const std::uint64_t burst = 1 + random.below(random.chance(0.1) ? 200 : 5);
    try {
      for (std::uint64_t i = 0; i < burst; ++i) {
        payload.resize(random.below(random.chance(0.05) ? 3000 : 200));
        for (std::byte& each : payload) each = static_cast<std::byte>(random());
        if (random.chance(0.02)) ++epoch;
        epoch = std::max(epoch, log.last().epoch);
        append_one(log, know, epoch, payload);
      }
    } catch (const std::system_error& error) {
      if (error.code() != errc::overloaded && error.code() != std::errc::no_space_on_device) throw;
      must(!log.failure(), "an append that was refused has failed the log");
    }
    if (random.chance(0.05)) must_refuse_stale_epoch(log);
    const position last = log.last();
    try {
      co_await log.durable(last.index);
      // What is taken back meanwhile promises nothing any more.
      const auto& rewinding = know.rewinding;
      if ((!rewinding || (!rewinding->resets && last.index <= rewinding->to.index)) &&
          log.position_at(last.index) == last) {
        know.promised(last.index);
        if (know.options.sync == sync_policy::always && know.looks(random, log)) must(know.oracle->must_hold(last));
      }
      if (know.looks(random, log)) must(know.oracle->must_hold(log.synced()));
    } catch (const std::system_error& error) {
      if (error.code() != errc::out_of_range) throw;
    }
    if (random.chance(0.5)) co_await pause(on, std::chrono::microseconds(random.below(20'000)));
  }
}

awaitable<void> cut(log_type& log, truth& know, index_t keep) {
  know.history.truncating(keep);
  know.known_elsewhere = std::min(know.known_elsewhere, keep);
  know.rewinding = rewind{position{0, keep, 0}, false, log.rewinds()};
  co_await log.truncate_suffix(keep);
  know.see_rewind(log);
  know.rewinding.reset();  // nothing stood behind `keep`
}

awaitable<void> begin_anew(log_type& log, truth& know, position start) {
  know.known_elsewhere = std::min(know.known_elsewhere, start.index);
  know.rewinding = rewind{start, true, log.rewinds()};
  co_await log.reset(start);
  know.see_rewind(log);
}

awaitable<void> compact(log_type& log, truth& know, index_t upto, std::uint64_t max_bytes) {
  know.history.compacting(upto + 1);
  index_t first = 0;
  if (max_bytes == 0) {
    first = co_await log.compact_prefix(upto + 1);
  } else {
    retention limits;
    limits.max_bytes = max_bytes;
    first = co_await log.apply_retention(limits, upto);
  }
  must(first <= upto + 1, "compaction dropped records that were to be kept");
}

awaitable<void> sync_all(log_type& log, truth& know) {
  const position last = log.last();
  co_await log.sync();
  must(log.synced().index >= last.index, "sync() left records unsynced");
  know.promised(last.index);
  if (!know.damaged) must(know.oracle->must_hold(last));
}

awaitable<void> change_ends(sim::env& on, log_type& log, truth& know, std::uint64_t seed) {
  sim::random_stream random(seed);
  for (;;) {
    co_await pause(on, std::chrono::milliseconds(random.below(300)));
    const index_t base = log.base().index, last = log.last().index;
    const std::uint64_t which = random.below(8);
    if (which == 0) {
      const index_t index = last / 2 + random.below(last + 10);
      const epoch_t epoch = log.last().epoch + random.below(2);
      co_await begin_anew(log, know, position{epoch, index, random()});
    } else if (which <= 3) {
      co_await cut(log, know, base + random.below(last - base + 1));
    } else if (which <= 6) {
      const index_t upto = base + random.below(log.acked().index - base + 1);
      co_await compact(log, know, upto, random.below(2) * 10'000);
    } else {
      co_await sync_all(log, know);
    }
  }
}

// Verifies the records as those that follow `last`, which is the last of them then. Calls visit(const record&).
template <class Visit>
void verify(const record_batch& batch, position& last, Visit visit) {
  record next;
  for (bytes_view rest = batch.bytes(); !rest.empty();) {
    const log_codec::record_verdict verdict = log_codec::decode_record(rest, last, next);
    if (verdict != log_codec::record_verdict::ok) {
      const std::string which = "record " + std::to_string(last.index + 1);
      throw std::system_error(errc::corrupt, which + ": " + log_codec::explain(verdict));
    }
    visit(next);
    last = next.position();
    rest = rest.subspan(log_format::record_bytes(next.payload.size()));
  }
}

// Reads on from wherever it is, and sees what was appended, each record behind the one before.
awaitable<void> read_on(sim::env& on, log_type& log, truth& know, std::uint64_t seed) {
  sim::random_stream random(seed);
  bool damage_found = false;
  for (;;) {
    // Behind the damage, when there is some.
    const position begin = damage_found ? log.last() : log.base();
    const std::uint64_t rewinds = log.rewinds();
    const visibility seen = random.chance(0.7) ? visibility::durable : visibility::staged;
    basic_cursor<sim::env> reader(log, begin.index + 1, seen);
    position last = begin;
    try {
      while (!random.chance(0.003)) {
        const record_batch batch = co_await reader.next(4096);
        // What stands before the first record that it returns may be taken back under a cursor.
        if (last == begin && log.rewinds() != rewinds) break;
        verify(batch, last, [](const record&) {});
        if (seen == visibility::staged) continue;
        must(last.index <= log.acked().index, "a reader of durable records was given one that is not");
        if (know.options.sync == sync_policy::always && know.looks(random, log)) must(know.oracle->must_hold(last));
      }
    } catch (const std::system_error& error) {
      damage_found = error.code() == errc::corrupt && know.damaged;
      if (!damage_found && error.code() != errc::compacted && error.code() != errc::diverged) throw;
    }
    co_await pause(on, 1ms);
  }
}

// Damage is told. What only somebody else's knowledge can prove may be lost without a word: the last writes.
void must_notice_damage(const truth& know, const log_options& options, const evidence& before,
                        const recovery_report& report) {
  must(!before.sealed_segment_is_short, "a sealed segment has lost its end, and open() did not notice (C1)");
  const index_t known = std::max(before.watermark, options.known_durable);
  must(report.last_good.index >= std::min(known, know.history.last_acknowledged()),
       "open() lost a record that is known to be durable (C2, C3, P1)");
  if (report.verdict != log_verdict::torn_tail || options.sync == sync_policy::never) return;
  const auto end = before.ends.find(report.file);
  const std::uint64_t limit =
      std::max<std::uint64_t>(options.max_unsynced_bytes, log_format::record_bytes(options.max_payload_bytes));
  must(end == before.ends.end() || end->second <= report.offset + limit,
       "open() cut off more than can have been in flight (C4)");
}

// All that the log holds, verified; nothing when damage was found.
std::optional<std::vector<sim::check::logged_record>> read_all(log_type& log, bool damaged) {
  std::vector<sim::check::logged_record> found;
  const auto keep = [&found](const record& each) { found.push_back({each.position(), xxh3_64(each.payload)}); };
  typename log_type::read_place place;
  place.next = log.first_index();
  position last = log.base();
  try {
    while (place.next <= log.last().index) verify(log.read(place, 4096), last, keep);
  } catch (const std::system_error& error) {
    if (error.code() != errc::corrupt || !damaged) throw;
    return std::nullopt;
  }
  return found;
}

void must_have_excuse(truth& know, const log_options& options, const recovery_report& report) {
  const bool lost_with_power =
      report.rule == corruption::known_durable && options.known_durable > know.history.last_acknowledged();
  must(know.damaged || lost_with_power, "the log is corrupt: " + report.reason);
  know.known_elsewhere = know.history.last_acknowledged();
}

// @return false when the copy is to be given up.
bool is_as_promised(log_type& log, truth& know, const evidence& before, const recovery_report& report) {
  const bool resetting = know.rewinding && know.rewinding->resets;
  if (resetting && log.base() == know.rewinding->to && log.last() == log.base()) {
    know.history.reset(log.base());
  } else if (resetting && know.damaged) {
    return false;  // without its intent a part of the old log is left
  } else {
    must(log.last().index >= log.options().known_durable, "open() lost a record that is known from elsewhere (C3)");
    if (know.damaged) must_notice_damage(know, log.options(), before, report);
  }
  must(!know.closed || know.damaged || report.verdict == log_verdict::clean, "a closed log was found torn");

  const auto found = read_all(log, know.damaged);
  if (!found) return false;
  if (know.damaged) know.history.truncating(std::max(log.last().index, know.history.base().index));
  must(know.history.recovered(log.base(), *found));
  know.rewinding.reset();
  know.closed = false;
  know.known_elsewhere = know.history.last_acknowledged();
  return true;
}

struct life_is_over {};

awaitable<void> end_after(sim::env& on, duration how_long) {
  co_await pause(on, how_long);
  throw life_is_over();
}

awaitable<void> use(sim::env& on, log_type& log, truth& know) {
  task_group tasks(on.get_executor());
  sim::random_stream random(on.random());
  tasks.spawn(append_and_wait(on, log, know, random()));
  tasks.spawn(read_on(on, log, know, random()));
  tasks.spawn(change_ends(on, log, know, random()));
  if (random.chance(0.3)) tasks.spawn(end_after(on, std::chrono::milliseconds(random.below(1000))));
  try {
    co_await tasks.join();
  } catch (const life_is_over&) {
    // As it was meant to.
  }
}

awaitable<void> close(log_type& log, truth& know) {
  try {
    co_await log.close();
    know.closed = !log.failure();
  } catch (const std::system_error&) {
    // The failed log's own words; what made the tasks end says why.
  }
}

awaitable<void> program(sim::env& on, truth& know) {
  log_options options = know.options;
  if (know.tells_known) options.known_durable = know.known_elsewhere;
  evidence before;
  if (know.damaged) before = evidence_in(on.on().storage, know.directory);
  const auto opened = co_await log_type::open(on, know.directory, options);
  bool given_up = !opened.log && know.damaged;
  if (!opened.log) must_have_excuse(know, options, opened.report);
  if (opened.log) {
    log_type& log = *opened.log;
    const open_log mark(know, log);
    std::exception_ptr failure;
    try {
      given_up = !is_as_promised(log, know, before, opened.report);
      if (!given_up) co_await use(on, log, know);
    } catch (...) {
      failure = std::current_exception();  // rethrown when the log is closed
    }
    must(log.failure() != std::errc::no_space_on_device || know.rewinding || know.damaged,
         "a full disk has failed the log, not the append (P4)");
    co_await close(log, know);
    if (failure) std::rethrow_exception(failure);
  }
  if (given_up) know.begin_afresh(on);
}

void run_log(sim::simulation& of, bool with_damage) {
  sim::node& one = of.in().add_node("one");
  const auto know_owner = std::make_shared<truth>(one);
  truth& know = *know_owner;
  of.keep(know_owner);
  sim::random_stream random = of.random("policy");
  know.options = drawn_log_options(of.random("log options"));
  know.options.max_payload_bytes = 4096;
  know.options.max_unsynced_bytes = std::uint64_t{4096} << random.below(6);
  if (random.chance(0.4)) know.options.sync = random.chance(0.6) ? sync_policy::interval : sync_policy::never;
  know.options.sync_interval = std::chrono::milliseconds(1 + random.below(300));
  know.tells_known = random.chance(0.5);
  of.on_end = [&know](sim::node& ended) {
    try {
      if (ended.failure()) std::rethrow_exception(ended.failure());
    } catch (const std::system_error& error) {
      // What the disk said ends a life, and not the scenario.
      const bool is_the_logs = error.code().category() == make_error_code(errc::corrupt).category();
      const bool damage_told = error.code() == errc::corrupt && know.damaged;
      if (is_the_logs && error.code() != errc::log_failed && !damage_told) throw;
    }
  };
  of.on_fault = [&know](const sim::fault_event& fault, sim::node&) {
    if (fault.family == sim::fault_family::power_loss) know.power_lost();
    if (sim::damages(fault.family)) know.damaged = true;
  };
  if (with_damage) of.allow_damage({&one}, 1);
  of.run(one, [&know](sim::env& on) { return program(on, know); });
  sim::fault_plan_options faults;
  faults.lasts = 10s;
  faults.families = sim::fault_set()
                        .with(sim::fault_family::crash)
                        .with(sim::fault_family::power_loss)
                        .with(sim::fault_family::sync_failure)
                        .with(sim::fault_family::disk_full)
                        .with(sim::fault_family::slow_disk)
                        .with(sim::fault_family::pause)
                        .with(sim::fault_family::clock)
                        .with(sim::fault_family::bit_rot)
                        .with(sim::fault_family::misdirected);
  faults.often = 6;
  faults.longest = 1s;
  of.chaos(faults);
  of.calm();
  const std::uint64_t before = know.acknowledged;
  must(of.in().run_until([&] { return know.acknowledged > before + 10; }, 20s),
       "nothing was acknowledged for 20 s after the faults");
}

}  // namespace

sim::scenario appending_log() {
  return {"log", "a log is appended to, cut and compacted through crashes and failing disks",
          [](sim::simulation& of) { run_log(of, false); }};
}

sim::scenario damaged_log() {
  return {"log_damage", "the same log on a disk that loses and changes what was written",
          [](sim::simulation& of) { run_log(of, true); }};
}

}  // namespace lockstep::scenarios
