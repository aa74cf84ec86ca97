// simulation: one seed's run of a scenario: the world, what goes wrong in it, and what is required of it.
//
//   void my_scenario(sim::simulation& run) {
//     sim::node& server = run.add("server", [](sim::env& on) { return my_server(on); });
//     sim::node& client = run.add("client", [](sim::env& on) { return my_client(on); });
//     run.chaos();                                        // faults for half a minute, by this seed
//     run.calm();                                         // everything is mended
//     run.require(run.in().run_until([&] { return done(); }, 30s), "the client got no answer after the faults");
//   }
//
// explore.hpp runs a scenario for many seeds. docs/simulation.md has a whole program, tests/scenarios larger ones.
#pragma once

#include "lockstep/sim/faults.hpp"

#include <algorithm>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace lockstep::sim {

/// How a seed is run.
struct run_options {
  run_options() {}

  std::uint64_t seed = 1;
  fault_set without;                               ///< families switched off
  std::optional<std::vector<std::uint32_t>> only;  ///< the numbers of the faults that happen; nothing: all
  bool keep_timeline = false;
};

/// See the top of this file.
class simulation {
 public:
  explicit simulation(const run_options& options)
      : options_(options), world_(options.seed, schedule_of(options.seed)), restarts_(world_.random("restarts")) {
    world_.keep_timeline = options.keep_timeline;
    draw_network();
  }
  simulation(const simulation&) = delete;

  [[nodiscard]] world& in() noexcept { return world_; }
  [[nodiscard]] std::uint64_t seed() const noexcept { return options_.seed; }
  [[nodiscard]] random_stream random(std::string_view domain) const { return world_.random(domain); }
  /// What chaos() lets happen, and what run_options::only left out of that.
  [[nodiscard]] const std::vector<fault_event>& plan() const noexcept { return plan_; }

  /// A node with a started program, which is started again after a while whenever it ends.
  node& add(std::string name, node::program runs) {
    node& added = world_.add_node(std::move(name));
    run(added, std::move(runs));
    return added;
  }
  void run(node& on, node::program runs) {
    on.on_end = [this](node& ended) { program_ended(ended); };
    on.start(std::move(runs));
  }

  /// Keeps what programs use until the nodes are gone.
  void keep(std::shared_ptr<void> used) { kept_.push_back(std::move(used)); }

  /// Told when a node's program has ended by itself, before it is started again; throws what is wrong with that.
  /// By default: whatever it threw but a system_error, since connections break and disks fail.
  std::function<void(node& ended)> on_end = &forgive_system_errors;
  /// Told when a fault begins, before it changes anything. From a fault that damages() on, the node's disk need not
  /// hold what was written to it: a checker excuses what that copy has lost, and never what it makes up.
  std::function<void(const fault_event& fault, node& target)> on_fault;

  /// Lets bit_rot and misdirected damage the disks of at most `most` of these nodes in the whole run, as many copies
  /// as the tested promise tolerates; the seed says of which. Without it no disk is damaged. Once, before chaos().
  void allow_damage(std::vector<const node*> nodes, std::size_t most) {
    random_stream random = world_.random("damaged disks");
    while (damaged_.size() < most && !nodes.empty()) {
      const auto chosen = nodes.begin() + static_cast<std::ptrdiff_t>(random.below(nodes.size()));
      damaged_.push_back((*chosen)->index);
      nodes.erase(chosen);
    }
  }

  /// Runs for as long as `options` say, with this seed's faults.
  void chaos(fault_plan_options options = {}) {
    options.begin += world_.elapsed();
    options.damaged = damaged_;
    plan_ = draw_fault_plan(world_, world_.nodes().size(), options);
    for (const fault_event& each : plan_) {
      // What is left out takes its place in the queue all the same, so that the order of the other events stays.
      world_.at(each.at, [this, each, happens = is_on(each)] {
        if (happens) begin(each);
      });
    }
    std::erase_if(plan_, [this](const fault_event& each) { return options_.without.has(each.family); });
    world_.run_for(options.begin + options.lasts - world_.elapsed());
  }

  /// Ends every fault: paths heal, disks have space and time, and nodes that are down start.
  void calm() {
    mend_all();
    for (const auto& each : world_.nodes()) heal(*each);
  }

  /// Heals `survivors` for good. Each of the others is left dead, without power, stopped, or cut off, as this seed has
  /// it, until calm(): what a quorum promises, it must do without them.
  void calm(const std::vector<node*>& survivors) {
    mend_all();
    random_stream random = world_.random("left behind");
    for (const auto& each : world_.nodes()) {
      if (std::find(survivors.begin(), survivors.end(), each.get()) == survivors.end()) {
        leave_behind(*each, random);
      } else {
        heal(*each);
      }
    }
  }

  /// @throws requirement_failed with `text` unless `holds`.
  static void require(bool holds, const std::string& text) {
    if (!holds) throw requirement_failed(text);
  }
  /// What a checker found, if it found something.
  static void require(const std::optional<std::string>& found) {
    if (found) throw requirement_failed(*found);
  }

 private:
  [[nodiscard]] bool is_on(const fault_event& fault) const {
    if (options_.without.has(fault.family)) return false;
    const auto& only = options_.only;
    return !only || std::find(only->begin(), only->end(), fault.number) != only->end();
  }

  static schedule_options schedule_of(std::uint64_t seed) {
    random_stream random = random_stream::of(seed, "schedule");
    schedule_options options;
    options.random_ties = random.chance(0.75);
    options.inline_dispatch = random.chance(0.5) ? random.unit() : 1.0;
    return options;
  }

  void draw_network() {
    random_stream random = world_.random("network options");
    network_options& options = world_.net().options;
    options.latency = std::chrono::microseconds(random.between(20, 2000));
    options.jitter = std::chrono::microseconds(random.between(1, 3000));
    if (random.chance(0.3)) options.bytes_per_second = random.between(100'000, 100'000'000);
    options.buffer_bytes = std::size_t{1} << random.between(12, 18);
    options.backlog = random.between(1, 128);
  }

  static void forgive_system_errors(node& ended) {
    if (!ended.failure()) return;
    try {
      std::rethrow_exception(ended.failure());
    } catch (const std::system_error&) {
    }
  }

  void program_ended(node& ended) {
    if (on_end) on_end(ended);
    restart_later(ended, duration(static_cast<std::int64_t>(restarts_.between(1'000'000, 500'000'000))));
  }

  void restart_later(node& down, duration after) {
    world_.at(world_.elapsed() + after, [this, &down, life = down.lives()] {
      const bool stays_down = std::find(left_behind_.begin(), left_behind_.end(), &down) != left_behind_.end();
      if (!down.running() && down.lives() == life && !stays_down) down.start();
    });
  }

  // From now on nothing begins to go wrong.
  void mend_all() {
    calm_ = true;
    for (auto& each : std::exchange(to_mend_, {})) each.second();
    left_behind_.clear();
  }

  static void heal(node& broken) {
    broken.storage.clear_faults();
    broken.disk_time = disk_timing();
    broken.resume();
    if (!broken.running()) broken.start();
  }

  void leave_behind(node& broken, random_stream& random) {
    left_behind_.push_back(&broken);
    switch (random.below(4)) {
      case 0: return broken.crash();
      case 1: return broken.lose_power(power_cut::seeded(random()));
      case 2: return broken.pause();
      default: break;
    }
    network& net = world_.net();
    const auto with_others = [this, &broken](auto change) {
      for (const auto& other : world_.nodes()) {
        if (other.get() == &broken) continue;
        change(broken, *other);
        change(*other, broken);
      }
    };
    with_others([&net](node& from, node& to) { net.block(from, to); });
    to_mend_.emplace_back(
        no_fault, [&net, with_others] { with_others([&net](node& from, node& to) { net.unblock(from, to); }); });
  }

  // A fault begins.
  void tell(const fault_event& fault, node& on, std::string text) {
    note(fault, on, std::move(text));
    if (on_fault) on_fault(fault, on);
  }

  void note(const fault_event& fault, const node& on, std::string text) {
    if (!world_.keep_timeline) return;
    timeline_entry entry;
    entry.node = on.name;
    entry.kind = "fault";
    entry.text = std::move(text) + " (fault " + std::to_string(fault.number) + ")";
    world_.note(std::move(entry));
  }

  // `mend` is done when the fault has lasted, or by calm().
  void mend_later(const fault_event& fault, std::function<void()> mend) {
    to_mend_.emplace_back(fault.number, [this, fault, mends = std::move(mend)] {
      note(fault, *world_.nodes()[fault.target], "mended: " + std::string(to_string(fault.family)));
      mends();
    });
    world_.at(world_.elapsed() + fault.lasts, [this, number = fault.number] {
      const auto found =
          std::find_if(to_mend_.begin(), to_mend_.end(), [number](const auto& each) { return each.first == number; });
      if (found == to_mend_.end()) return;
      const std::function<void()> mends = std::move(found->second);
      to_mend_.erase(found);
      mends();
    });
  }

  void begin(const fault_event& fault) {
    if (calm_) return;
    node& target = *world_.nodes()[fault.target];
    switch (fault.family) {
      case fault_family::crash:
        if (!target.running()) return;
        tell(fault, target, "crash");
        target.crash();
        return restart_later(target, fault.lasts);
      case fault_family::power_loss:
        if (!target.running()) return;
        tell(fault, target, "power loss");
        target.lose_power(power_cut::seeded(fault.detail));
        return restart_later(target, fault.lasts);
      case fault_family::pause:
        if (target.paused()) return;
        tell(fault, target, "pause");
        target.pause();
        return mend_later(fault, [&target] { target.resume(); });
      case fault_family::partition: return partition(fault);
      case fault_family::reset: {
        node& other = *world_.nodes()[fault.detail % world_.nodes().size()];
        tell(fault, target, "connections with " + other.name + " reset");
        (void)world_.net().reset(target, other);
        return;
      }
      case fault_family::slow_network: return slow_path(fault);
      case fault_family::partial_io:
        world_.net().options.partial = static_cast<double>(fault.detail % 100 + 1) / 100.0;
        return tell(fault, target, "all nodes read and write in parts");
      case fault_family::clock: {
        const std::int64_t most = std::chrono::nanoseconds(std::chrono::hours(1)).count();
        const auto by = static_cast<std::int64_t>(fault.detail % static_cast<std::uint64_t>(2 * most)) - most;
        tell(fault, target, "calendar jumps by " + std::to_string(by / 1'000'000) + " ms");
        target.clock.wall_offset += duration(by);
        target.clock.drift_ppm = static_cast<std::int64_t>(fault.detail / 7 % 100'001) - 50'000;
        return;
      }
      case fault_family::sync_failure: {
        tell(fault, target, "next sync fails");
        sim::fault failing;
        failing.kinds = {op_kind::datasync};
        target.storage.inject(failing);
        return;
      }
      case fault_family::disk_full:
        tell(fault, target, "disk full");
        target.storage.set_capacity(target.storage.used() + fault.detail % 4 * page_size);
        return mend_later(fault, [&target] { target.storage.set_capacity(std::numeric_limits<std::uint64_t>::max()); });
      case fault_family::slow_disk:
        tell(fault, target, fault.detail % 2 == 0 ? "disk stands still" : "disk is slow");
        if (fault.detail % 2 == 0) {
          target.disk_time.stalled_until = world_.elapsed() + fault.lasts;
          return;
        }
        target.disk_time.extra = std::chrono::milliseconds(1 + fault.detail / 2 % 200);
        return mend_later(fault, [&target] { target.disk_time.extra = duration(0); });
      case fault_family::bit_rot: return rot(fault, target);
      case fault_family::misdirected: return misdirect(fault, target);
      case fault_family::corruption: return corrupt_path(fault);
    }
  }

  void rot(const fault_event& fault, node& target) {
    random_stream random(fault.detail);
    disk& on = target.storage;
    const std::string path = any_file(on, random);
    if (path.empty()) return;
    const std::vector<std::byte> bytes = *on.bytes(path);
    const std::uint64_t at = random.below(bytes.size());
    const std::uint64_t shape = random.below(4);
    // As after a repair of the file system. A program that has the file mapped would die of it.
    if (shape < 2 && !target.running()) {
      tell(fault, target, path + " loses its end from byte " + std::to_string(at) + " on");
      return on.replace(path, bytes_view(bytes).first(static_cast<std::size_t>(at)));
    }
    if (shape < 3) {
      tell(fault, target, "a bit of " + path + " flips");
      (void)on.rot(path, random);
      return;
    }
    tell(fault, target, "the next to read byte " + std::to_string(at) + " of " + path + " fails");
    sim::fault bad_sector;
    bad_sector.kinds = {op_kind::pread, op_kind::map};
    bad_sector.path_contains = path;
    bad_sector.touching = at;
    on.inject(bad_sector);
  }

  void misdirect(const fault_event& fault, node& target) {
    random_stream random(fault.detail);
    elsewhere lands;
    lands.path = any_file(target.storage, random);
    if (lands.path.empty()) return;
    lands.page = random.below(target.storage.bytes(lands.path)->size() / page_size + 1);
    const std::uint64_t shape = random.below(3);
    if (shape == 0) lands.path = "/nowhere";
    if (shape == 1) lands.path.clear();
    const std::string where = lands.path.empty() ? "its file" : lands.path;
    tell(fault, target,
         shape == 0 ? "a write soon is lost"
                    : "a write soon lands in page " + std::to_string(lands.page) + " of " + where);
    sim::fault astray;
    astray.nth = random.below(8);
    astray.kinds = {op_kind::pwrite};
    astray.misdirect = std::move(lands);
    target.storage.inject(astray);
  }

  // One that is not empty; none: empty.
  static std::string any_file(const disk& on, random_stream& random) {
    std::vector<std::string> files = on.files();
    std::erase_if(files, [&on](const std::string& path) { return on.bytes(path)->empty(); });
    return files.empty() ? std::string() : files[static_cast<std::size_t>(random.below(files.size()))];
  }

  void partition(const fault_event& fault) {
    std::vector<std::pair<node*, node*>> cut;
    const auto& all = world_.nodes();
    random_stream random(fault.detail);
    const std::uint64_t shape = random.below(3);
    const std::uint64_t group = random();  // a bit for each node
    std::string text = shape == 0 ? "cut off from all" : shape == 1 ? "does not reach" : "split:";
    for (const auto& from : all) {
      for (const auto& to : all) {
        if (from == to) continue;
        const bool from_target = from->index == fault.target;
        const bool to_target = to->index == fault.target;
        const bool first = ((group >> from->index) & 1) != 0, second = ((group >> to->index) & 1) != 0;
        const bool is_cut = shape == 0   ? from_target || to_target
                            : shape == 1 ? from_target && second
                                         : first != second;
        if (!is_cut) continue;
        cut.emplace_back(from.get(), to.get());
        if (shape == 1) text += " " + to->name;
        if (shape == 2 && first) text += " " + from->name + "|" + to->name;
      }
    }
    if (cut.empty()) return;
    tell(fault, *all[fault.target], text);
    network& net = world_.net();
    for (const auto& [from, to] : cut) net.block(*from, *to);
    mend_later(fault, [&net, cut] {
      for (const auto& [from, to] : cut) net.unblock(*from, *to);
    });
  }

  void slow_path(const fault_event& fault) {
    node& from = *world_.nodes()[fault.target];
    node& to = *world_.nodes()[fault.detail % world_.nodes().size()];
    network& net = world_.net();
    if (fault.detail / 16 % 2 == 0) {
      const auto extra = std::chrono::milliseconds(fault.detail / 32 % 2000);
      tell(fault, from, "path to " + to.name + " takes " + std::to_string(extra.count()) + " ms longer");
      net.delay(from, to, extra);
    } else {
      tell(fault, from, "path to " + to.name + " carries little");
      net.limit_bandwidth(from, to, 1000 + fault.detail / 32 % 100'000);
    }
    mend_later(fault, [&net, &from, &to] {
      net.delay(from, to, duration(0));
      net.limit_bandwidth(from, to, 0);
    });
  }

  void corrupt_path(const fault_event& fault) {
    const auto& all = world_.nodes();
    if (all.size() < 2) return;
    node& from = *all[fault.target];
    node& to = *all[(fault.target + 1 + fault.detail % (all.size() - 1)) % all.size()];
    tell(fault, from, "path to " + to.name + " alters bytes");
    network& net = world_.net();
    net.corrupt(from, to, 1.0 / static_cast<double>(1 + fault.detail / 16 % 64));
    mend_later(fault, [&net, &from, &to] { net.corrupt(from, to, 0); });
  }

  const run_options options_;
  std::vector<std::shared_ptr<void>> kept_;  // outlives the world
  world world_;
  random_stream restarts_;
  std::vector<fault_event> plan_;
  std::vector<std::uint32_t> damaged_;  // the nodes whose disks may be
  static constexpr std::uint32_t no_fault = std::numeric_limits<std::uint32_t>::max();
  std::vector<std::pair<std::uint32_t, std::function<void()>>> to_mend_;  // by the numbers of faults
  std::vector<const node*> left_behind_;
  bool calm_ = false;
};

}  // namespace lockstep::sim
