// What a Raft node keeps beside its log: term and vote, and snapshots that are taken and received, while its machine
// crashes and its disk fails.
#include "scenarios.hpp"

#include "lockstep/core/task_group.hpp"
#include "lockstep/raft/hard_state_file.hpp"
#include "lockstep/raft/snapshot_store.hpp"

#include <cstring>

namespace lockstep::scenarios {
namespace {

using namespace raft;
using hard_state_type = basic_hard_state_file<sim::env>;
using store_type = basic_snapshot_store<sim::env>;

void must(bool holds, const std::string& text) { sim::simulation::require(holds, text); }

position position_of(index_t index) { return {1, index, index * 1'000'003}; }

configuration members_at(index_t index) {
  configuration config;
  config.voters.incoming = {1, 2, index};
  return config;
}

/// Another one, of another length, at each index.
std::vector<std::byte> state_at(index_t index) {
  sim::random_stream random(index);
  std::vector<std::byte> state(random.below(6000));
  for (std::byte& each : state) each = static_cast<std::byte>(random());
  return state;
}

/// A snapshot as another node has it, whose blocks may be of another size. By docs/formats.md.
struct announced {
  snapshot_id id;
  byte_buffer file;

  announced(index_t index, std::uint32_t block_bytes) {
    snapshot_format::header header;
    header.block_bytes = block_bytes;
    header.at = id.at = position_of(index);
    header.config = members_at(index);
    header.encode(file);
    id.checksum = load_le<std::uint64_t>(file.data() + file.size() - snapshot_format::check_bytes);
    const std::vector<std::byte> state = state_at(index);
    for (bytes_view rest(state); !rest.empty();) {
      const bytes_view block = rest.first(std::min<std::size_t>(rest.size(), block_bytes));
      id.checksum = snapshot_format::block_check(id.checksum, block);
      file.append(block);
      store_le(file.extend(snapshot_format::check_bytes), id.checksum);
      rest = rest.subspan(block.size());
    }
    id.bytes = file.size() + snapshot_format::trailer_bytes;
    const auto trailer = snapshot_format::trailer{id.bytes, id.checksum}.encode();
    file.append(trailer);
  }
};

// What the scenario knows of the node, through all of its lives.
struct truth {
  std::string directory = "/node";
  std::uint64_t directories = 1;
  snapshot_options options;
  std::uint64_t taken_every_ms = 1, received_every_ms = 1;  // at most
  bool damaged = false;                                     // the disk does not keep what is written to it

  bool is_ours = false;  // the directory has our identity
  hard_state acknowledged;
  std::optional<hard_state> attempted;

  index_t newest = 0;   // of the snapshots that are durable
  index_t highest = 0;  // of those that were begun
  std::shared_ptr<const announced> arriving;
  std::uint64_t promises = 0;  // made so far

  void finished(index_t index) {
    newest = std::max(newest, index);
    ++promises;
  }
  index_t begin_one(sim::random_stream& random) { return highest += 1 + random.below(3); }

  /// The node is given up.
  void begin_afresh() {
    directory = "/node" + std::to_string(++directories);
    is_ours = false;
    acknowledged = hard_state();
    attempted.reset();
    newest = 0;
    arriving.reset();
  }
};

node_identity us() {
  node_identity identity;
  identity.cluster = "scenario";
  identity.node = 3;
  return identity;
}

/// @throws corrupt when the disk has damaged it.
void must_hold_its_state(const store_type& store, index_t index) {
  const auto reader = store.read(index);
  must(reader->info().id.at == position_of(index) && reader->info().config == members_at(index),
       "a snapshot's header is another one's");
  const std::vector<std::byte> expected = state_at(index);
  std::vector<std::byte> found(expected.size() + 1);
  const std::size_t got = reader->read(found);
  must(equal(bytes_view(found).first(got), bytes_view(expected)), "a snapshot holds another state");
}

// --- Opening ----------------------------------------------------------------------------------------------------

awaitable<void> must_refuse_others(sim::env& on, truth& know) {
  node_identity other = us();
  if (on.random() % 2 == 0)
    other.node = 4;
  else
    other.cluster = "another";
  std::error_code refused;
  try {
    (void)co_await hard_state_type::open(on, know.directory, other);
  } catch (const std::system_error& error) {
    if (error.code() != errc::wrong_node && error.code() != errc::wrong_cluster) throw;
    refused = error.code();
  }
  must(refused == (other.node == us().node ? errc::wrong_cluster : errc::wrong_node),
       "a node was given another's vote");
}

awaitable<std::unique_ptr<hard_state_type>> open_hard_state(sim::env& on, truth& know) {
  if (know.is_ours && on.random() % 5 == 0) co_await must_refuse_others(on, know);
  auto file = co_await hard_state_type::open(on, know.directory, us());
  const hard_state& found = file->state();
  must(found == know.acknowledged || found == know.attempted, "term or vote was lost");
  know.acknowledged = found;
  know.attempted.reset();
  know.is_ours = true;
  co_return file;
}

awaitable<std::unique_ptr<store_type>> open_snapshots(sim::env& on, truth& know) {
  auto store = co_await store_type::open(on, know.directory + "/snapshots", know.options);
  const std::optional<snapshot_info> newest = store->newest();
  const index_t found = newest ? newest->id.at.index : 0;
  must(found >= know.newest, "a snapshot was lost");
  must(found <= know.highest, "a snapshot was made up");
  for (std::optional<snapshot_info> each = newest; each; each = store->newest_before(each->id.at.index)) {
    must_hold_its_state(*store, each->id.at.index);
  }
  know.newest = found;
  co_return store;
}

// --- At work ----------------------------------------------------------------------------------------------------

awaitable<void> vote_once(hard_state_type& file, truth& know, sim::random_stream& random) {
  hard_state next = file.state();
  if (next.vote != 0 || random.chance(0.5)) next = {next.term + 1 + random.below(2), 0};
  if (random.chance(0.5)) next.vote = 1 + random.below(3);
  know.attempted = next;
  co_await file.write(next);
  must(file.state() == next, "what was written is not what is so");
  know.acknowledged = next;
  know.attempted.reset();
  ++know.promises;
}

awaitable<void> vote(sim::env& on, hard_state_type& file, truth& know, std::uint64_t seed) {
  sim::random_stream random(seed);
  for (;;) {
    co_await vote_once(file, know, random);
    if (random.chance(0.7)) co_await pause(on, std::chrono::microseconds(random.below(50'000)));
  }
}

awaitable<void> take_one(store_type& store, truth& know, sim::random_stream& random) {
  const index_t index = know.begin_one(random);
  const std::vector<std::byte> state = state_at(index);
  const auto writer = store.begin(position_of(index), members_at(index));
  std::exception_ptr failure;
  try {
    for (bytes_view rest(state); !rest.empty();) {
      const bytes_view part = rest.first(std::min<std::size_t>(1 + random.below(2000), rest.size()));
      co_await writer->write(part);
      rest = rest.subspan(part.size());
      if (random.chance(0.02)) co_return;
    }
  } catch (const std::system_error&) {
    failure = std::current_exception();
  }
  bool is_finished = false;
  try {
    (void)co_await writer->finish();
    is_finished = true;
  } catch (const std::system_error&) {
    if (!failure) failure = std::current_exception();
  }
  must(!is_finished || !failure, "a snapshot was finished though a write of it has failed (F1)");
  if (failure) std::rethrow_exception(failure);
  know.finished(index);
}

awaitable<void> take(sim::env& on, store_type& store, truth& know, std::uint64_t seed) {
  sim::random_stream random(seed);
  for (;;) {
    co_await pause(on, std::chrono::milliseconds(random.below(know.taken_every_ms)));
    co_await take_one(store, know, random);
    if (random.chance(0.3)) co_await store.remove_older(1 + random.below(3));
  }
}

/// @return whether all of it has arrived.
awaitable<bool> bring(sim::env& on, store_type::receiver& to, const announced& from, const truth& know,
                      sim::random_stream& random) {
  bool is_wrong = false;
  while (!to.complete()) {
    if (random.chance(0.05)) co_return false;  // the connection is lost
    const bytes_view rest = from.file.view().subspan(to.offset());
    const bytes_view part = rest.first(std::min<std::size_t>(1 + random.below(1000), rest.size()));
    std::vector<std::byte> chunk(part.begin(), part.end());
    if (random.chance(0.03)) {
      chunk[random.below(chunk.size())] ^= std::byte{1};
      is_wrong = true;
    }
    try {
      co_await to.write(to.offset(), chunk);
    } catch (const std::system_error& error) {
      if (error.code() != errc::corrupt) throw;
      must(is_wrong || know.damaged, "what belongs to a snapshot was refused");
      is_wrong = false;
    }
    if (random.chance(0.3)) co_await pause(on, std::chrono::milliseconds(random.below(20)));
  }
  must(!is_wrong, "what does not belong to a snapshot was taken");
  co_return true;
}

awaitable<void> receive(sim::env& on, store_type& store, truth& know, std::uint64_t seed) {
  sim::random_stream random(seed);
  for (;;) {
    co_await pause(on, std::chrono::milliseconds(random.below(know.received_every_ms)));
    if (!know.arriving || random.chance(0.1)) {
      const index_t index = know.arriving && random.chance(0.5) ? know.arriving->id.at.index : know.begin_one(random);
      const auto block_bytes = static_cast<std::uint32_t>(500 + 20 * random.below(10));
      know.arriving = std::make_shared<const announced>(index, block_bytes);
    }
    const std::shared_ptr<const announced> from = know.arriving;
    const auto receiver = co_await store.receive(from->id);
    if (co_await bring(on, *receiver, *from, know, random)) {
      const snapshot_info info = co_await receiver->finish();
      must(info.id == from->id, "another snapshot has arrived than was announced");
      know.finished(from->id.at.index);
      know.arriving.reset();
    }
  }
}

struct life_is_over {};

awaitable<void> end_after(sim::env& on, duration how_long) {
  co_await pause(on, how_long);
  throw life_is_over();
}

awaitable<void> use(sim::env& on, hard_state_type& file, store_type& store, truth& know) {
  task_group tasks(on.get_executor());
  sim::random_stream random(on.random());
  tasks.spawn(vote(on, file, know, random()));
  tasks.spawn(take(on, store, know, random()));
  tasks.spawn(receive(on, store, know, random()));
  if (random.chance(0.3)) tasks.spawn(end_after(on, std::chrono::milliseconds(random.below(1000))));
  try {
    co_await tasks.join();
  } catch (const life_is_over&) {
    // As it was meant to.
  }
}

awaitable<void> program(sim::env& on, truth& know) {
  try {
    const auto file = co_await open_hard_state(on, know);
    // Before the directory is synced for other reasons.
    sim::random_stream random(on.random());
    if (random.chance(0.5)) co_await vote_once(*file, know, random);
    if (random.chance(0.3)) co_await pause(on, std::chrono::milliseconds(random.below(300)));
    const auto store = co_await open_snapshots(on, know);
    co_await use(on, *file, *store, know);
  } catch (const std::system_error& error) {
    if (error.code() != errc::corrupt || !know.damaged) throw;
    know.begin_afresh();
  }
}

void run(sim::simulation& of) {
  sim::node& one = of.in().add_node("one");
  const auto know_owner = std::make_shared<truth>();
  truth& know = *know_owner;
  of.keep(know_owner);
  sim::random_stream random = of.random("options");
  know.options.block_bytes = static_cast<std::uint32_t>(100 + random.below(1000));
  know.options.sync_bytes = std::uint64_t{500} << random.below(5);
  if (random.chance(0.2)) know.options.sync_where = sync_on::caller;
  know.taken_every_ms = std::uint64_t{100} << random.below(7);
  know.received_every_ms = std::uint64_t{100} << random.below(7);
  if (random.chance(0.2)) of.allow_damage({&one}, 1);
  of.on_end = [](sim::node& ended) {
    try {
      if (ended.failure()) std::rethrow_exception(ended.failure());
    } catch (const std::system_error& error) {
      // What the disk said ends a life, and not the scenario.
      const bool is_ours = error.code().category() == make_error_code(errc::corrupt).category();
      if (is_ours && error.code() != errc::log_failed) throw;
    }
  };
  of.on_fault = [&know](const sim::fault_event& fault, sim::node&) {
    if (sim::damages(fault.family)) know.damaged = true;
  };
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
                        .with(sim::fault_family::bit_rot);
  faults.often = 6;
  faults.longest = 1s;
  of.chaos(faults);
  of.calm();
  const std::uint64_t before = know.promises;
  must(of.in().run_until([&] { return know.promises > before + 10; }, 20s),
       "nothing was made durable for 20 s after the faults");
}

}  // namespace

sim::scenario raft_files() {
  return {"raft_files", "term, vote and snapshots through crashes and failing disks", &run};
}

}  // namespace lockstep::scenarios
