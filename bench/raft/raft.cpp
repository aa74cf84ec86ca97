// lockstep_bench_raft: three Raft nodes over loopback TCP, each with its log on disk, and clients that propose at the
// leader, one proposal each at a time. Prints proposals a second and latencies, against the limits of the same run.
// docs/benchmarks.md says what the limits are.
#include <signal.h>
#include <sys/epoll.h>
#include <sys/wait.h>

#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include <array>
#include <cstdio>
#include <iostream>
#include <numeric>
#include <optional>
#include <thread>

#include "common.hpp"
#include "lockstep/core/task_group.hpp"
#include "raft_member.hpp"

namespace lockstep::bench {
namespace {

using json = nlohmann::ordered_json;
using namespace std::chrono_literals;

struct run_options {
  std::vector<std::size_t> clients = {1, 16, 64, 256, 1024};
  std::vector<std::size_t> bytes = {16, 256, 1024, 4096};
  bool sync = false;
  bool on_loop = false;
  std::size_t processes = 3;
  double seconds = 2;
  std::size_t rounds = 3;
  std::string as = "table";
};

constexpr std::size_t group_size = 3;
using addresses = std::vector<std::string>;

raft::node_options options_of(std::size_t number, const addresses& names, const std::string& directory,
                              const run_options& with) {
  raft::node_options options;
  options.core.id = number + 1;
  options.core.election_timeout = 300ms;
  options.core.heartbeat_interval = 50ms;
  options.core.priority = number == 0 ? 100 : 1;  // the clients' node leads
  options.cluster = "bench";
  options.directory = directory + "/" + std::to_string(number + 1);
  for (std::size_t i = 0; i < group_size; ++i) options.members[i + 1] = names[i];
  options.log.sync = with.sync ? sync_policy::always : sync_policy::never;
  if (with.on_loop) options.log.sync_where = sync_on::caller;
  options.log.max_unsynced_bytes = std::uint64_t{64} << 20;
  return options;
}

// --- Clients
// ----------------------------------------------------------------------------------------------------------

struct shape {
  std::size_t clients = 0;
  std::size_t bytes = 0;
};

struct result {
  shape of;
  double per_second = 0;
  double p50 = 0, p99 = 0, p999 = 0;  // microseconds
};

struct load {
  std::chrono::steady_clock::time_point ends;
  bool counts = false;
  std::vector<float> microseconds;  // of each proposal
};

awaitable<void> client(raft::node<no_machine>& node, bytes_view command, load& under) {
  for (;;) {
    const auto begin = std::chrono::steady_clock::now();
    if (begin >= under.ends) co_return;
    const raft::outcome done = co_await node.propose(command, 10s);
    if (!done.ok()) throw std::system_error(done.error, "a proposal");
    const std::chrono::duration<float, std::micro> took = std::chrono::steady_clock::now() - begin;
    if (under.counts) under.microseconds.push_back(took.count());
  }
}

awaitable<void> clients_for(real::env& env, raft::node<no_machine>& node, shape of, double seconds, load& under) {
  const std::vector<std::byte> command(of.bytes, std::byte{'x'});
  under.ends = std::chrono::steady_clock::now() +
               std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::duration<double>(seconds));
  task_group all(env.get_executor());
  for (std::size_t i = 0; i < of.clients; ++i) all.spawn(client(node, command, under));
  co_await all.join();
}

double percentile(std::vector<float>& sorted, double part) {
  const auto at = static_cast<std::size_t>(static_cast<double>(sorted.size()) * part);
  return sorted[std::min(sorted.size() - 1, at)];
}

awaitable<result> measured(real::env& env, raft::node<no_machine>& node, shape of, double seconds) {
  load under;
  under.microseconds.reserve(static_cast<std::size_t>(seconds * 2'000'000));
  co_await clients_for(env, node, of, seconds / 5, under);
  under.counts = true;
  const stopwatch watch;
  co_await clients_for(env, node, of, seconds, under);
  const double took = watch.seconds();
  std::vector<float>& all = under.microseconds;
  std::sort(all.begin(), all.end());
  result found;
  found.of = of;
  found.per_second = static_cast<double>(all.size()) / took;
  found.p50 = percentile(all, 0.5);
  found.p99 = percentile(all, 0.99);
  found.p999 = percentile(all, 0.999);
  co_return found;
}

awaitable<void> until_leading(real::env& env, raft::node<no_machine>& node) {
  real::timer timer(env);
  for (int tries = 0; tries < 1000; ++tries) {
    if (node.core().role() == raft::role::leader) co_return;
    timer.expires_after(10ms);
    (void)co_await timer.wait();
  }
  throw std::runtime_error("node 1 did not become the leader in 10 s");
}

// --- The group, in one process or in three
// ----------------------------------------------------------------------------------------------------------

// Another member in a process of its own, until it is killed.
class other_process {
 public:
  explicit other_process(const raft::node_options& options) : child_(::fork()) {
    if (child_ < 0) throw_errno("fork");
    if (child_ != 0) return;
    try {
      node on;
      std::unique_ptr<raft_member> here;
      on.run([](node& loop, const raft::node_options& with, std::unique_ptr<raft_member>& into) -> awaitable<void> {
        into = co_await raft_member::open(loop.env, with);
        co_await into->run();
      }(on, options, here));
    } catch (const std::exception& error) {
      std::fprintf(stderr, "node %zu: %s\n", static_cast<std::size_t>(options.core.id), error.what());
    }
    ::_exit(1);
  }
  other_process(const other_process&) = delete;
  ~other_process() {
    ::kill(child_, SIGKILL);
    ::waitpid(child_, nullptr, 0);
  }

 private:
  pid_t child_;
};

using shapes = std::vector<shape>;

awaitable<void> measure_all(node& on, std::vector<raft::node_options> here, const shapes& of, double seconds,
                            std::vector<result>& into) {
  std::vector<std::unique_ptr<raft_member>> members;
  for (const raft::node_options& each : here) members.push_back(co_await raft_member::open(on.env, each));
  raft::node<no_machine>& leader = members.front()->node();
  co_await until_leading(on.env, leader);
  for (const shape& each : of) into.push_back(co_await measured(on.env, leader, each, seconds));
  for (const auto& each : members) co_await each->close();
}

std::vector<result> run_group(const run_options& options, const shapes& of) {
  const temporary directory("raft");
  std::filesystem::create_directories(directory.path());
  const addresses names = free_addresses(group_size);
  std::vector<raft::node_options> here;
  std::vector<std::unique_ptr<other_process>> others;
  for (std::size_t i = 0; i < group_size; ++i) {
    raft::node_options one = options_of(i, names, directory.path(), options);
    if (i == 0 || options.processes == 1) {
      here.push_back(std::move(one));
    } else {
      others.push_back(std::make_unique<other_process>(one));
    }
  }
  std::vector<result> found;
  node on(here.size());
  on.run(measure_all(on, std::move(here), of, options.seconds, found));
  return found;
}

// --- Limits of the same run
// ----------------------------------------------------------------------------------------------------------

// Syncs of one batch each, one after the other: what a leader whose clients all wait for the same sync can do.
double datasyncs_per_second(std::size_t batch_bytes, double seconds, const std::string& file_name = "datasync") {
  const temporary file(file_name);
  const descriptor to(file.path(), O_CREAT | O_RDWR);
  const std::size_t length = std::max(std::size_t{4} << 20, 4 * batch_bytes);
  const std::vector<char> zeros(length, 0);
  write_all(to.get(), zeros.data(), length);
  if (::fsync(to.get()) != 0) throw_errno("fsync");
  const std::vector<char> batch(batch_bytes, 'x');
  std::uint64_t syncs = 0;
  off_t at = 0;
  const stopwatch watch;
  while (watch.seconds() < seconds) {
    if (::pwrite(to.get(), batch.data(), batch.size(), at) < 0 || ::fdatasync(to.get()) != 0) throw_errno("datasync");
    at = (at + static_cast<off_t>(batch.size())) % static_cast<off_t>(length - batch.size());
    ++syncs;
  }
  return static_cast<double>(syncs) / watch.seconds();
}

// A round trip between two processes, each of which waits for its socket as an event loop does; microseconds.
double ping_pong(std::size_t bytes, double seconds) {
  auto [here, there] = tcp_pair();
  const auto wait_and_read = [bytes](int fd, int poller, std::vector<char>& into) {
    for (std::size_t got = 0; got < bytes;) {
      epoll_event ready{};
      ::epoll_wait(poller, &ready, 1, -1);
      const ssize_t more = ::recv(fd, into.data(), bytes - got, 0);
      if (more <= 0) return false;
      got += static_cast<std::size_t>(more);
    }
    return true;
  };
  const auto poller_of = [](int fd) {
    descriptor made(::epoll_create1(EPOLL_CLOEXEC));
    epoll_event wanted{};
    wanted.events = EPOLLIN;
    if (::epoll_ctl(made.get(), EPOLL_CTL_ADD, fd, &wanted) != 0) throw_errno("epoll_ctl");
    return made;
  };
  std::vector<char> buffer(bytes, 'x');
  const pid_t child = ::fork();
  if (child < 0) throw_errno("fork");
  if (child == 0) {
    here.reset();
    const descriptor poller = poller_of(there.get());
    while (wait_and_read(there.get(), poller.get(), buffer)) write_all(there.get(), buffer.data(), bytes);
    ::_exit(0);
  }
  there.reset();
  const descriptor poller = poller_of(here.get());
  std::vector<float> took;
  const stopwatch watch;
  while (watch.seconds() < seconds) {
    const auto begin = std::chrono::steady_clock::now();
    write_all(here.get(), buffer.data(), bytes);
    if (!wait_and_read(here.get(), poller.get(), buffer)) throw std::runtime_error("ping-pong ended");
    const std::chrono::duration<float, std::micro> one = std::chrono::steady_clock::now() - begin;
    took.push_back(one.count());
  }
  here.reset();
  ::waitpid(child, nullptr, 0);
  std::sort(took.begin(), took.end());
  return percentile(took, 0.5);
}

// Of each of three logs that are synced at the same time.
double datasyncs_of_three(std::size_t batch_bytes, double seconds) {
  std::array<double, group_size> rates{};
  {
    std::vector<std::jthread> writers;
    for (std::size_t i = 0; i < group_size; ++i) {
      writers.emplace_back([&rates, i, batch_bytes, seconds] {
        rates[i] = datasyncs_per_second(batch_bytes, seconds, "datasync" + std::to_string(i));
      });
    }
  }
  return std::accumulate(rates.begin(), rates.end(), 0.0) / group_size;
}

struct row {
  result ours;
  double limit_per_second = 0;  // sync on: datasync rate x batch
  double limit_of_three = 0;    // the same of three logs on one disk
  double limit_p50 = 0;         // two round trips
};

json to_json(const row& of) {
  json one = {{"clients", of.ours.of.clients}, {"bytes", of.ours.of.bytes},  {"per_second", of.ours.per_second},
              {"p50_us", of.ours.p50},         {"p99_us", of.ours.p99},      {"p999_us", of.ours.p999},
              {"limit_p50_us", of.limit_p50},  {"limit_per_second", nullptr}};
  if (of.limit_per_second != 0) one["limit_per_second"] = of.limit_per_second;
  if (of.limit_of_three != 0) one["limit_of_three_per_second"] = of.limit_of_three;
  return one;
}

void print_table(const std::vector<row>& rows) {
  std::printf("%8s %7s %12s %10s %10s %10s %16s %16s %16s\n", "clients", "bytes", "per second", "p50 us", "p99 us",
              "p99.9 us", "of sync limit", "of three logs'", "p50 / 2 trips");
  for (const row& each : rows) {
    std::printf("%8zu %7zu %12.0f %10.0f %10.0f %10.0f", each.ours.of.clients, each.ours.of.bytes, each.ours.per_second,
                each.ours.p50, each.ours.p99, each.ours.p999);
    for (const double limit : {each.limit_per_second, each.limit_of_three}) {
      if (limit != 0)
        std::printf(" %16.2f", each.ours.per_second / limit);
      else
        std::printf(" %16s", "-");
    }
    std::printf(" %16.2f\n", each.ours.p50 / each.limit_p50);
  }
}

std::vector<row> measure(const run_options& options) {
  shapes of;
  for (const std::size_t bytes : options.bytes) {
    for (const std::size_t clients : options.clients) of.push_back({clients, bytes});
  }
  std::vector<std::vector<row>> rounds;
  for (std::size_t round = 0; round < options.rounds; ++round) {
    std::vector<row>& rows = rounds.emplace_back();
    for (const result& each : run_group(options, of)) {
      row& one = rows.emplace_back();
      one.ours = each;
      one.limit_p50 = 2 * ping_pong(each.of.bytes, 0.2);
      if (options.sync) {
        const std::size_t batch = each.of.clients * log_format::record_bytes(each.of.bytes + sizeof(std::uint64_t));
        one.limit_per_second = static_cast<double>(each.of.clients) * datasyncs_per_second(batch, 0.3);
        one.limit_of_three = static_cast<double>(each.of.clients) * datasyncs_of_three(batch, 0.3);
      }
    }
  }
  // The round with the median throughput, of each shape.
  std::vector<row> chosen;
  for (std::size_t i = 0; i < of.size(); ++i) {
    std::sort(rounds.begin(), rounds.end(),
              [i](const auto& a, const auto& b) { return a[i].ours.per_second < b[i].ours.per_second; });
    chosen.push_back(rounds[rounds.size() / 2][i]);
  }
  return chosen;
}

int run(int argc, char** argv) {
  run_options options;
  CLI::App app("Measures three Raft nodes over loopback TCP, each with its log on disk");
  app.add_option("--clients", options.clients, "how many proposals are under way")->delimiter(',');
  app.add_option("--bytes", options.bytes, "of a proposal")->delimiter(',');
  app.add_flag("--sync", options.sync, "a proposal is durable on a quorum; without it the disk has it when it will");
  app.add_flag("--on-loop", options.on_loop, "sync on the loop's own thread, which waits meanwhile")->needs("--sync");
  app.add_option("--processes", options.processes, "for the nodes: 1 or 3")->check(CLI::IsMember({1, 3}));
  app.add_option("--seconds", options.seconds, "for each measurement")->check(CLI::PositiveNumber);
  app.add_option("--rounds", options.rounds, "of all measurements; the median is printed")->check(CLI::PositiveNumber);
  app.add_option("-o,--output", options.as, "table or json")->check(CLI::IsMember({"table", "json"}));
  CLI11_PARSE(app, argc, argv);
  const std::vector<row> rows = measure(options);
  if (options.as == "json") {
    json all = {{"sync", options.sync}, {"processes", options.processes}, {"rows", json::array()}};
    for (const row& each : rows) all["rows"].push_back(to_json(each));
    std::cout << all.dump(2) << "\n";
  } else {
    std::printf("%zu process%s, sync %s\n", options.processes, options.processes == 1 ? "" : "es",
                options.sync ? "on" : "off");
    print_table(rows);
  }
  return 0;
}

}  // namespace
}  // namespace lockstep::bench

int main(int argc, char** argv) {
  try {
    return lockstep::bench::run(argc, argv);
  } catch (const std::exception& error) {
    std::cerr << "lockstep_bench_raft: " << error.what() << "\n";
    return 1;
  }
}
