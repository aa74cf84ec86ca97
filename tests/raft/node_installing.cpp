// Where a node's log, its snapshots and its state machine meet: crashes in between, pages, and who waits for whom.
#include "raft/node_group.hpp"

namespace lockstep::raft::test {
namespace {

// --- crashes between a snapshot and the log ---------------------------------------------------------------------

/// Disk operations by their numbers, both ends included.
struct operation_range {
  std::uint64_t first = 0;
  std::uint64_t last = 0;
  std::vector<std::string> what;  // each
};

template <class First, class Last>
std::optional<operation_range> find_range(const std::vector<sim::op>& history, First is_first, Last is_last) {
  const auto first = std::find_if(history.begin(), history.end(), is_first);
  const auto last = std::find_if(first, history.end(), is_last);
  if (last == history.end()) return std::nullopt;
  operation_range found;
  found.first = first->number;
  found.last = last->number;
  for (auto each = first; each != last + 1; ++each) found.what.push_back(each->description());
  return found;
}

bool is_met(const operation_range& in, std::string_view kind, std::string_view path) {
  return std::any_of(in.what.begin(), in.what.end(), [&](const std::string& each) {
    return each.find(kind) != std::string::npos && each.find(path) != std::string::npos;
  });
}

bool is_on(const sim::op& of, sim::op_kind kind, std::string_view suffix) {
  return of.kind == kind && of.path.ends_with(suffix);
}

enum class stop { process, power, power_with_everything, power_with_something };

void stop_node(sim::node& target, stop how, std::uint64_t seed) {
  using enum sim::survives;
  switch (how) {
    case stop::process:
      target.crash();
      target.storage.crash_process();
      break;
    case stop::power: target.lose_power({}); break;
    case stop::power_with_everything: target.lose_power({everything, everything, everything, 0}); break;
    case stop::power_with_something: target.lose_power(sim::power_cut::seeded(seed)); break;
  }
}

/// The disk takes nothing from the operation of this number on.
void crash_at(sim::node& target, std::uint64_t number) {
  target.storage.on_operation([&target, number](const sim::op& next) {
    if (next.number == number) target.storage.crash();
  });
}

void expect_to_catch_up(group& of, std::size_t which) {
  const std::size_t due = of.acknowledged.size() + 1;
  const sim::node& target = *of.world.nodes()[which];
  const auto has_all = [&] { return of.nodes[which] && of.machines[which]->applied.size() >= due && of.agrees(); };
  ASSERT_TRUE(of.world.run_until([&] { return !target.running() || has_all(); }, 60s));
  ASSERT_TRUE(target.running()) << target.failure_text();
}

/// A group in which a follower was away, until it needs a snapshot.
struct group_with_one_away : group {
  std::size_t away = 0;
  sim::node* target = nullptr;

  group_with_one_away() : group(21, with_small_snapshots()) {
    command_bytes = 200;
    EXPECT_TRUE(goes_on(20));
    away = (leader() + 1) % size;
    target = world.nodes()[away].get();
    const index_t last = nodes[away]->log().last().index;
    EXPECT_NE(nodes[away]->snapshot_index(), 0u) << "an older one is to be removed";
    target->crash();
    EXPECT_TRUE(world.run_until([&] { return nodes[leader()]->log().base().index > last; }, 60s));
  }
};

/// From the moment when all of the snapshot has come until the older ones are removed.
std::optional<operation_range> find_installation(const sim::disk& of) {
  bool removed = false;
  return find_range(
      of.history(), [](const sim::op& each) { return is_on(each, sim::op_kind::datasync, ".part"); },
      [&removed](const sim::op& each) {
        removed = removed || is_on(each, sim::op_kind::remove, ".snap");
        return removed && is_on(each, sim::op_kind::sync_directory, "/snapshots");
      });
}

operation_range range_of_installation() {
  group_with_one_away of;
  of.target->storage.keep_history(true);
  of.target->start();
  std::optional<operation_range> found;
  EXPECT_TRUE(of.world.run_until([&] { return (found = find_installation(of.target->storage)).has_value(); }, 60s));
  return found.value_or(operation_range());
}

TEST(raft_node_installing, a_crash_at_any_step_of_an_installation_is_mended) {
  const operation_range steps = range_of_installation();
  ASSERT_TRUE(is_met(steps, "datasync", ".part"));
  ASSERT_TRUE(is_met(steps, "rename", ".snap"));
  ASSERT_TRUE(is_met(steps, "sync_directory", "/snapshots"));
  ASSERT_TRUE(is_met(steps, "rename", "/log/reset")) << "the log begins anew";
  ASSERT_TRUE(is_met(steps, "remove", ".seg"));
  ASSERT_TRUE(is_met(steps, "remove", "/log/reset"));
  ASSERT_TRUE(is_met(steps, "remove", ".snap"));
  std::uint64_t met = 0;
  for (std::uint64_t step = steps.first; step <= steps.last + 1; ++step) {
    for (const stop how : {stop::process, stop::power, stop::power_with_everything, stop::power_with_something}) {
      SCOPED_TRACE("operation " + std::to_string(step) + ", stop " + std::to_string(static_cast<int>(how)));
      group_with_one_away of;
      crash_at(*of.target, step);
      of.target->start();
      ASSERT_TRUE(of.world.run_until([&] { return of.target->storage.crashed(); }, 60s));
      of.target->storage.on_operation(nullptr);
      stop_node(*of.target, how, step);
      of.target->start();
      expect_to_catch_up(of, of.away);
      if (HasFatalFailure()) return;
      ++met;
    }
  }
  EXPECT_EQ(met, 4 * (steps.what.size() + 1));
}

// The snapshot is durable, and the log is the old one: the next life mends that, and is interrupted in turn.
TEST(raft_node_installing, a_crash_while_a_crash_is_mended_is_mended) {
  const operation_range steps = range_of_installation();
  const auto reset = std::find_if(steps.what.begin(), steps.what.end(), [](const std::string& each) {
    return each.find("create") != std::string::npos && each.find("/log/reset") != std::string::npos;
  });
  ASSERT_NE(reset, steps.what.end());
  const std::uint64_t begins_anew = steps.first + static_cast<std::uint64_t>(reset - steps.what.begin());
  bool interrupted = true;
  std::uint64_t step = 0;
  for (; interrupted; ++step) {
    SCOPED_TRACE("operation " + std::to_string(step) + " of the life after");
    group_with_one_away of;
    crash_at(*of.target, begins_anew);
    of.target->start();
    ASSERT_TRUE(of.world.run_until([&] { return of.target->storage.crashed(); }, 60s));
    stop_node(*of.target, stop::power, 0);
    crash_at(*of.target, of.target->storage.operations() + step);
    of.target->start();
    ASSERT_TRUE(of.world.run_until([&] { return of.nodes[of.away] || of.target->storage.crashed(); }, 60s));
    interrupted = of.target->storage.crashed();
    of.target->storage.on_operation(nullptr);
    if (interrupted) {
      stop_node(*of.target, stop::power_with_something, step);
      of.target->start();
    }
    expect_to_catch_up(of, of.away);
    if (HasFatalFailure()) return;
  }
  EXPECT_GT(step, 20u) << "opening takes more operations than that";
}

/// From the sync of the first snapshot for which a segment is dropped, until that is durable.
std::optional<operation_range> find_compaction(const std::vector<sim::op>& history) {
  const auto drops = [](const sim::op& each) {
    return (each.kind == sim::op_kind::rename || each.kind == sim::op_kind::remove) && each.path.ends_with(".seg");
  };
  const auto dropped = std::find_if(history.begin(), history.end(), drops);
  std::uint64_t written = 0;
  for (auto each = history.begin(); each != dropped; ++each) {
    const bool is_snapshot = each->path.find("/snapshots/") != std::string::npos;
    if (is_snapshot && is_on(*each, sim::op_kind::datasync, ".tmp")) written = each->number;
  }
  bool is_dropped = false;
  return find_range(
      history, [written](const sim::op& each) { return each.number == written; },
      [&](const sim::op& each) {
        is_dropped = is_dropped || drops(each);
        return is_dropped && is_on(each, sim::op_kind::sync_directory, "/log");
      });
}

/// A group whose nodes' logs are compacted soon.
struct group_with_snapshots : group {
  group_with_snapshots() : group(22, with_small_snapshots()) { command_bytes = 200; }
};

TEST(raft_node_installing, a_crash_at_any_step_between_a_snapshot_and_the_compaction_of_the_log_is_mended) {
  operation_range steps;
  {
    group_with_snapshots of;
    sim::disk& disk = of.world.nodes()[1]->storage;
    disk.keep_history(true);
    ASSERT_TRUE(of.world.run_until([&] { return of.nodes[1] && of.nodes[1]->log().base().index != 0; }, 60s));
    ASSERT_TRUE(of.goes_on(1));
    const auto found = find_compaction(disk.history());
    ASSERT_TRUE(found) << disk.story(200);
    steps = *found;
  }
  ASSERT_TRUE(is_met(steps, "rename", ".snap"));
  ASSERT_TRUE(is_met(steps, "sync_directory", "/snapshots"));
  ASSERT_TRUE(is_met(steps, "remove", ".snap"));
  ASSERT_TRUE(is_met(steps, "sync_directory", "/log"));
  std::uint64_t met = 0;
  for (std::uint64_t step = steps.first; step <= steps.last + 1; ++step) {
    for (const stop how : {stop::process, stop::power, stop::power_with_everything, stop::power_with_something}) {
      SCOPED_TRACE("operation " + std::to_string(step) + ", stop " + std::to_string(static_cast<int>(how)));
      group_with_snapshots of;
      sim::node& target = *of.world.nodes()[1];
      crash_at(target, step);
      ASSERT_TRUE(of.world.run_until([&] { return target.storage.crashed(); }, 60s));
      target.storage.on_operation(nullptr);
      stop_node(target, how, step);
      target.start();
      expect_to_catch_up(of, 1);
      if (HasFatalFailure()) return;
      ++met;
    }
  }
  EXPECT_EQ(met, 4 * (steps.what.size() + 1));
}

// --- a leader that a test speaks as -----------------------------------------------------------------------------

/// Records as a leader of term 1 makes them, of the commands "2", "3" and so on, each at the index that it says, behind
/// the members' first configuration.
struct made_records {
  std::vector<position> at;  // by index
  std::vector<std::string> commands;
  std::vector<std::vector<std::byte>> bytes;

  explicit made_records(const position& first) : at{position(), first}, commands(2), bytes(2) {}

  void add(std::size_t size = 0) {
    std::string command = std::to_string(at.size());
    command.resize(std::max(command.size(), size), '.');
    const std::array<std::byte, sizeof(std::uint64_t)> time{};
    const std::array<bytes_view, 2> payload{bytes_view(time), as_bytes(command)};
    std::vector<std::byte> encoded(log_format::record_bytes(time.size() + command.size()));
    at.push_back(log_codec::encode_record(encoded.data(), at.back(), 1, data_record, payload));
    bytes.push_back(std::move(encoded));
    commands.push_back(std::move(command));
  }
  /// What a state machine has applied at `index`.
  [[nodiscard]] std::vector<std::string> applied_at(index_t index) const {
    return {commands.begin() + 2, commands.begin() + static_cast<std::ptrdiff_t>(index) + 1};
  }
  [[nodiscard]] message append(index_t first, index_t last, index_t commit) const {
    const auto together = std::make_shared<std::vector<std::byte>>();
    for (index_t index = first; index <= last; ++index) {
      together->insert(together->end(), bytes[index].begin(), bytes[index].end());
    }
    message made = from_leader(message_type::append);
    made.at = at[first - 1];
    made.commit = commit;
    made.records = record_batch(*together, first, last, together);
    return made;
  }
};

/// Plays a leader toward node 2: sends what it is told, and heartbeats now and then.
struct spoken_leader {
  node_id id;
  term_t term;
  index_t commit = 0;        // that the heartbeats name, and reads are answered with
  index_t acknowledged = 0;  // by node 2
  sim::env* env = nullptr;
  using speech = std::function<awaitable<void>(channel_type&)>;
  std::deque<speech> unsent;

  spoken_leader(node_id which, term_t of) : id(which), term(of) {}

  void tell(message what) {
    what.from = id;
    what.term = term;
    const speech said = [what](channel_type& to) { return send(to, what); };
    unsent.push_back(said);
  }
  static awaitable<void> send(channel_type& to, message what) {
    const encoded_words words = encode_message(what);
    const std::array<bytes_view, 2> parts{words.view(), what.records.bytes()};
    co_await to.send(static_cast<std::uint8_t>(what.type), 0, parts, frame_flags_of(what.type));
  }

  awaitable<void> live(sim::env& on) {
    env = &on;
    sim::env::timer timer(on);
    for (;;) {
      try {
        std::optional<channel_type> over;
        co_await connect_to(on, id, 2, over);
        task_group both(on.get_executor());
        both.spawn(speak(on, *over));
        both.spawn(hear(*over));
        co_await both.join_passing_cancellation();
      } catch (const std::system_error&) {
        // Node 2 does not run yet, or has crashed.
      }
      timer.expires_after(20ms);
      (void)co_await timer.wait();
    }
  }

 private:
  awaitable<void> speak(sim::env& on, channel_type& to) {
    sim::env::timer timer(on);
    for (time_point due = on.now();;) {
      if (on.now() >= due) {
        due = on.now() + 100ms;
        message beat = from_leader(message_type::heartbeat);
        beat.from = id;
        beat.term = term;
        beat.commit = std::min(commit, acknowledged);
        beat.round = 1;
        co_await send(to, beat);
      }
      while (!unsent.empty()) {
        const speech next = std::move(unsent.front());
        unsent.pop_front();
        co_await next(to);
      }
      timer.expires_after(1ms);
      (void)co_await timer.wait();
    }
  }
  awaitable<void> hear(channel_type& from) {
    for (;;) {
      const frame_view frame = co_await from.receive();
      const auto heard = decode_message(frame);
      if (!heard) continue;
      if (heard->type == message_type::append_response && !heard->rejected) acknowledged = heard->index;
      if (heard->type != message_type::read_request) continue;
      message answer = from_leader(message_type::read_response);
      answer.from = id;
      answer.term = term;
      answer.index = commit;
      answer.round = heard->round;
      co_await send(from, answer);
    }
  }
};

// --- pages ------------------------------------------------------------------------------------------------------

TEST(raft_node_applying, what_is_applied_in_pages_is_neither_skipped_nor_applied_twice) {
  for (std::uint64_t seed = 1; seed <= 5; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    node_options options;
    options.log.segment_bytes = 256 << 10;
    options.log.chunk_bytes = 32 << 10;
    group of(seed, options, 2);
    spoken_leader leader(1, 1);
    leader.commit = 1;
    of.world.nodes()[0]->start([&](sim::env& on) { return leader.live(on); });
    ASSERT_TRUE(of.world.run_until([&] { return of.nodes[1] != nullptr; }, 10s));
    sim::random_stream random = of.world.random("pages");
    made_records records(of.nodes[1]->log().last());
    constexpr index_t last = 300;
    constexpr std::size_t page = 64 << 10;
    while (records.at.size() <= last) records.add(records.at.size() == 150 ? page + 1000 : random.below(9000));
    const auto has_applied = [&](index_t index) {
      EXPECT_TRUE(of.world.run_until([&] { return of.nodes[1] && of.nodes[1]->applied() >= index; }, 10s)) << index;
      EXPECT_EQ(of.nodes[1]->applied(), index);
      return of.machines[1]->applied == records.applied_at(index);
    };
    // While it grows, and then from what is there.
    for (index_t index = 2; index <= last;) {
      const index_t end = std::min<index_t>(index + random.below(20), last);
      leader.commit += random.below(std::max(end / 2, leader.commit) - leader.commit + 1);
      leader.tell(records.append(index, end, leader.commit));
      ASSERT_TRUE(of.world.run_until([&] { return leader.acknowledged == end; }, 10s));
      ASSERT_TRUE(has_applied(leader.commit));
      index = end + 1;
    }
    ASSERT_GT(of.nodes[1]->log().segment_count(), 4u);
    while (leader.commit < last) {
      leader.commit = std::min(last, leader.commit + 1 + random.below(40));
      ASSERT_TRUE(has_applied(leader.commit));
    }
    // A new life applies from the beginning, from the files, and again stops in the middle of a page.
    of.world.nodes()[1]->crash();
    leader.commit = 2 + random.below(last - 2);
    of.world.nodes()[1]->start();
    ASSERT_TRUE(has_applied(leader.commit));
    leader.commit = last;
    ASSERT_TRUE(has_applied(last));
  }
}

// --- a state machine that takes its time ------------------------------------------------------------------------

/// Where a state machine stands until it is let through.
struct gate {
  bool shut = false;
  std::optional<wait_list> waiting;

  void begin_life(sim::env& on) { waiting.emplace(on.get_executor()); }
  awaitable<void> pass() {
    while (shut) (void)co_await waiting->wait();
  }
  void open() {
    shut = false;
    waiting->notify_all();
  }
};

struct held_adder : adder {
  gate& writing;
  gate& reading;
  bool snapshotting = false;
  bool restoring = false;
  bool disturbed = false;  // called when it must not be
  std::size_t restored = 0;

  held_adder(gate& of_snapshots, gate& of_restores) : writing(of_snapshots), reading(of_restores) {}

  struct busy {
    explicit busy(bool& which) : now(which) { now = true; }
    busy(const busy&) = delete;
    ~busy() { now = false; }
    bool& now;
  };
  void apply(const entry& next, byte_buffer& result) {
    disturbed = disturbed || restoring;
    adder::apply(next, result);
  }
  awaitable<void> snapshot(snapshot_sink& to) {
    disturbed = disturbed || restoring || snapshotting;
    const busy now(snapshotting);
    const adder then = *this;
    co_await writing.pass();
    for (const std::string& each : then.applied) {
      const std::string line = each + "\n";
      co_await to.write(as_bytes(line));
    }
  }
  awaitable<void> restore(snapshot_source& from) {
    disturbed = disturbed || restoring || snapshotting;
    const busy now(restoring);
    co_await reading.pass();
    co_await adder::restore(from);
    ++restored;
  }
};
static_assert(state_machine<held_adder>);

using held_node = basic_node<sim::env, held_adder>;

/// Node 2 of three; a test speaks as the others.
struct held_group {
  gate writing, reading;
  std::shared_ptr<held_adder> machine;
  held_node* node = nullptr;
  sim::env* env = nullptr;
  spoken_leader first{1, 1};
  spoken_leader next{3, 2};
  std::optional<made_records> records;
  sim::world world;  // last: its end needs the rest

  explicit held_group(std::uint64_t seed) : world(seed) {
    world.add_node("n1").start([this](sim::env& on) { return first.live(on); });
    world.add_node("n2").start([this](sim::env& on) { return live(on); });
    world.add_node("n3");
    EXPECT_TRUE(world.run_until([&] { return node != nullptr; }, 10s));
    records.emplace(node->log().last());
    while (records->at.size() <= 70) records->add();
  }

  awaitable<void> live(sim::env& on) {
    writing.begin_life(on);
    reading.begin_life(on);
    machine = std::make_shared<held_adder>(writing, reading);
    node_options options;
    options.core.id = 2;
    options.cluster = "test";
    options.directory = "/data";
    options.members = {{1, "n1:7000"}, {2, "n2:7000"}, {3, "n3:7000"}};
    options.snapshot_after_bytes = 0;
    const auto opened = co_await held_node::open(on, options, *machine);
    struct shown {
      held_node*& place;
      ~shown() { place = nullptr; }
    } const seen{node};
    node = opened.get();
    env = &on;
    task_group running(on.get_executor());
    running.spawn(serve_members(on, *opened));
    running.spawn(opened->run());
    co_await running.join();
  }

  [[nodiscard]] bool has_applied(index_t index) {
    const bool done = world.run_until([&] { return node && node->applied() >= index; }, 10s);
    return done && node->applied() == index && machine->applied == records->applied_at(index);
  }
  /// Appends up to `last` and commits that.
  void append(spoken_leader& by, index_t from, index_t last) {
    by.commit = last;
    by.tell(records->append(from, last, last));
  }
  /// A snapshot is begun, and held until writing.open().
  [[nodiscard]] bool hold_snapshot(std::optional<std::error_code>& ended) {
    writing.shut = true;
    const auto done = [&ended](std::exception_ptr, std::error_code result) { ended = result; };
    asio::co_spawn(env->get_executor(), node->snapshot(60s), done);
    return world.run_until([&] { return machine->snapshotting; }, 10s);
  }
  void read(std::optional<std::error_code>& ended, std::function<void()> then) {
    const auto done = [&ended, then](std::exception_ptr, std::error_code result) {
      ended = result;
      then();
    };
    asio::co_spawn(env->get_executor(), node->read_barrier(60s), done);
  }
  /// The first leader sends a snapshot that stands for the records up to `index`, and does not wait for answers.
  void send_snapshot(index_t index) {
    const spoken_leader::speech whole = [this, index](channel_type& to) { return make_and_send_snapshot(to, index); };
    first.unsent.push_back(whole);
  }
  [[nodiscard]] bool has_received_snapshot(index_t index) {
    const std::string path = "/data/snapshots/" + log_files::numbered(index, ".snap");
    return world.run_until([&] { return world.nodes()[1]->storage.exists(path, sim::view::durable); }, 10s);
  }
  void restart() {
    world.nodes()[1]->lose_power({});
    ASSERT_EQ(node, nullptr);
    world.nodes()[1]->start();
  }

 private:
  awaitable<void> make_and_send_snapshot(channel_type& to, index_t index) {
    const auto store = co_await basic_snapshot_store<sim::env>::open(*first.env, "/made");
    configuration config = node->core().members();
    {
      const auto writer = store->begin(records->at[index], config);
      for (const std::string& each : records->applied_at(index)) {
        const std::string line = each + "\n";
        co_await writer->write(as_bytes(line));
      }
      (void)co_await writer->finish();
    }
    const auto reader = store->read(index);
    snapshot_offer offer;
    offer.announced = from_leader(message_type::snapshot_offer);
    offer.announced.at = records->at[index];
    offer.config = config;
    offer.bytes = reader->info().id.bytes;
    offer.checksum = reader->info().id.checksum;
    byte_buffer bytes;
    encode_snapshot_offer(bytes, offer);
    co_await to.send(static_cast<std::uint8_t>(message_type::snapshot_offer), 0, bytes.view());
    for (std::uint64_t offset = 0; offset < offer.bytes;) {
      snapshot_chunk chunk;
      chunk.checksum = offer.checksum;
      chunk.offset = offset;
      const bytes_view part = reader->chunk(offset);
      const encoded_words words = chunk.encode();
      const std::array<bytes_view, 2> parts{words.view(), part};
      co_await to.send(static_cast<std::uint8_t>(snapshot_frame::chunk), 0, parts, snapshot_chunk::frame_flags);
      offset += part.size();
    }
  }
};

TEST(raft_node_installing, waits_for_a_snapshot_that_is_being_taken) {
  held_group of(31);
  of.append(of.first, 2, 30);
  ASSERT_TRUE(of.has_applied(30));
  std::optional<std::error_code> taken;
  ASSERT_TRUE(of.hold_snapshot(taken));
  of.append(of.first, 31, 40);
  ASSERT_TRUE(of.has_applied(40)) << "applying goes on meanwhile";
  of.send_snapshot(60);
  ASSERT_TRUE(of.has_received_snapshot(60));
  of.world.run_for(300ms);
  EXPECT_FALSE(of.machine->disturbed);
  EXPECT_EQ(of.machine->restored, 0u);
  EXPECT_FALSE(taken);
  EXPECT_TRUE(of.has_applied(40));
  of.writing.open();
  EXPECT_TRUE(of.has_applied(60));
  EXPECT_TRUE(of.world.run_until([&] { return taken.has_value(); }, 10s));
  EXPECT_EQ(*taken, std::error_code());
  EXPECT_EQ(of.machine->restored, 1u);
  EXPECT_TRUE(of.world.run_until([&] { return of.node->log().base().index == 60; }, 10s));
  of.append(of.first, 61, 70);
  EXPECT_TRUE(of.has_applied(70));
  EXPECT_FALSE(of.machine->disturbed);
  of.restart();
  EXPECT_TRUE(of.has_applied(70));
}

// Another leader brings the records themselves while the snapshot waits: to install it would take back what is applied,
// or acknowledged.
TEST(raft_node_installing, does_nothing_when_it_has_got_more_meanwhile) {
  for (const index_t committed : {index_t{50}, index_t{65}}) {
    SCOPED_TRACE(committed);
    held_group of(32);
    of.append(of.first, 2, 30);
    ASSERT_TRUE(of.has_applied(30));
    std::optional<std::error_code> taken;
    ASSERT_TRUE(of.hold_snapshot(taken));
    of.send_snapshot(60);
    ASSERT_TRUE(of.has_received_snapshot(60));
    of.world.nodes()[0]->crash();
    of.world.nodes()[2]->start([&](sim::env& on) { return of.next.live(on); });
    of.next.commit = committed;
    of.next.tell(of.records->append(31, 65, committed));
    ASSERT_TRUE(of.has_applied(committed));
    ASSERT_TRUE(of.world.run_until([&] { return of.next.acknowledged == 65; }, 10s));
    of.writing.open();
    ASSERT_TRUE(of.world.run_until([&] { return taken.has_value(); }, 10s));
    of.world.run_for(100ms);
    EXPECT_EQ(of.node->log().last().index, 65u);
    of.append(of.next, 66, 70);
    EXPECT_TRUE(of.has_applied(70));
    EXPECT_EQ(of.machine->restored, 0u);
    EXPECT_FALSE(of.machine->disturbed);
    of.restart();
    EXPECT_TRUE(of.has_applied(70));
  }
}

TEST(raft_node_installing, what_is_applied_while_a_snapshot_is_taken_is_not_in_it_and_is_applied_again) {
  held_group of(33);
  of.append(of.first, 2, 30);
  ASSERT_TRUE(of.has_applied(30));
  std::optional<std::error_code> taken;
  ASSERT_TRUE(of.hold_snapshot(taken));
  of.append(of.first, 31, 40);
  ASSERT_TRUE(of.has_applied(40));
  of.writing.open();
  ASSERT_TRUE(of.world.run_until([&] { return taken.has_value(); }, 10s));
  EXPECT_EQ(of.node->snapshot_index(), 30u);
  of.world.nodes()[0]->crash();  // so that nobody says that more is committed than the snapshot does
  of.restart();
  EXPECT_TRUE(of.has_applied(30));
  of.world.nodes()[0]->start();
  EXPECT_TRUE(of.has_applied(40));
}

TEST(raft_node_installing, no_read_is_answered_while_a_state_is_restored) {
  held_group of(34);
  of.append(of.first, 2, 30);
  ASSERT_TRUE(of.has_applied(30));
  of.reading.shut = true;
  of.first.commit = 60;
  std::size_t seen_before = 0;
  std::size_t seen_meanwhile = 0;
  std::optional<std::error_code> before, meanwhile;
  of.read(before, [&] { seen_before = of.machine->restoring ? 0 : of.machine->applied.size(); });
  of.world.run_for(100ms);  // its index is known then
  EXPECT_FALSE(before);
  of.send_snapshot(60);
  ASSERT_TRUE(of.world.run_until([&] { return of.machine->restoring; }, 10s));
  of.read(meanwhile, [&] { seen_meanwhile = of.machine->restoring ? 0 : of.machine->applied.size(); });
  of.world.run_for(300ms);
  EXPECT_TRUE(of.machine->restoring);
  EXPECT_FALSE(before);
  EXPECT_FALSE(meanwhile);
  EXPECT_EQ(of.node->applied(), 30u);
  of.reading.open();
  ASSERT_TRUE(of.world.run_until([&] { return before && meanwhile; }, 10s));
  EXPECT_EQ(*before, std::error_code());
  EXPECT_EQ(*meanwhile, std::error_code());
  EXPECT_EQ(seen_before, of.records->applied_at(60).size());
  EXPECT_EQ(seen_meanwhile, of.records->applied_at(60).size());
  EXPECT_TRUE(of.has_applied(60));
  EXPECT_FALSE(of.machine->disturbed);
}

}  // namespace
}  // namespace lockstep::raft::test
