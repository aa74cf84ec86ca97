// Shipping records to another process, against bare sockets.
//
// Each side is a process on a processor of its own, over a loopback connection without BBR. The sender's clock runs
// from the moment when both are ready until the receiver says that it has everything.

#include <signal.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <asio/generic/stream_protocol.hpp>
#include <asio/posix/stream_descriptor.hpp>

#include <algorithm>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "common.hpp"
#include "lockstep/catchup/follower.hpp"
#include "lockstep/catchup/source.hpp"
#include "lockstep/core/checksum.hpp"
#include "lockstep/core/task_group.hpp"
#include "lockstep/frame/channel.hpp"
#include "lockstep/log/cursor.hpp"
#include "raft_member.hpp"

namespace lockstep::bench {
namespace {

constexpr std::size_t chunk_bytes = 256 << 10;
constexpr std::uint64_t shipped_bytes = std::uint64_t{256} << 20;

// --- Two processes
// ----------------------------------------------------------------------------------------------------

// The receiver runs in a child process. It says twice that it has got somewhere: ready, and done.
class receiver {
 public:
  class reporter {
   public:
    explicit reporter(int to) : to_(to) {}
    void say(char what) const {
      if (::write(to_, &what, 1) != 1) ::_exit(1);
    }

   private:
    int to_;
  };

  template <class Work>
  explicit receiver(Work work) {
    int ends[2];
    if (::pipe(ends) != 0) throw_errno("pipe");
    from_ = descriptor(ends[0]);
    const descriptor to(ends[1]);
    child_ = ::fork();
    if (child_ < 0) throw_errno("fork");
    if (child_ != 0) return;
    const reporter reports(to.get());
    try {
      pin_to(1);
      work(reports);
    } catch (const std::exception& error) {
      reports.say('!');
      write_all(to.get(), error.what(), std::char_traits<char>::length(error.what()));
    }
    ::_exit(0);
  }
  receiver(const receiver&) = delete;
  ~receiver() {
    ::kill(child_, SIGKILL);
    ::waitpid(child_, nullptr, 0);
  }

  /// Waits for the receiver's next word. @throws what the receiver failed with.
  void wait() const {
    char said = 0;
    if (::read(from_.get(), &said, 1) != 1) throw std::runtime_error("the receiver is gone");
    if (said == '!') throw_its_failure();
  }

  /// The same while other coroutines of `on` run.
  awaitable<void> wait_in(node& on) const {
    asio::posix::stream_descriptor from(on.env.get_executor(), ::dup(from_.get()));
    char said = 0;
    (void)co_await from.async_read_some(asio::buffer(&said, 1), use_awaitable);
    if (said == '!') throw_its_failure();
  }

 private:
  [[noreturn]] void throw_its_failure() const {
    std::string why(256, ' ');
    const ssize_t got = ::read(from_.get(), why.data(), why.size());
    throw std::runtime_error("receiver: " + why.substr(0, static_cast<std::size_t>(std::max<ssize_t>(0, got))));
  }

  descriptor from_{-1};
  pid_t child_ = -1;
};

real::stream stream_of(node& on, descriptor& connected) {
  real::detail::generic_socket socket(on.env.get_executor(), asio::generic::stream_protocol(AF_INET, IPPROTO_TCP),
                                      connected.release());
  return real::stream(std::move(socket));
}

// --- The limits
// -------------------------------------------------------------------------------------------------------

std::string plain_file() {
  return fixture("shipped", [](const std::string& unfinished) {
    const descriptor made(unfinished, O_WRONLY | O_CREAT | O_TRUNC);
    payloads source(64 << 10);
    for (std::uint64_t done = 0; done < shipped_bytes; done += 64 << 10) {
      write_all(made.get(), reinterpret_cast<const char*>(source.next().data()), 64 << 10);
    }
  });
}

// Receives until the sender's end, and lets `use` see each full buffer and the last one.
template <class Use>
void receive_all(int from, Use use) {
  std::vector<char> buffer(chunk_bytes, 1);
  std::size_t filled = 0;
  for (;;) {
    const ssize_t got = ::recv(from, buffer.data() + filled, buffer.size() - filled, 0);
    if (got < 0) throw_errno("recv");
    filled += static_cast<std::size_t>(got);
    if (got == 0 || filled == buffer.size()) {
      use(buffer.data(), filled);
      filled = 0;
    }
    if (got == 0) return;
  }
}

// sendfile to a receiver that looks at nothing.
measurement plain_sendfile() {
  const descriptor file(plain_file(), O_RDONLY);
  auto [here, there] = tcp_pair();
  const receiver receiving([&, from = there.get()](const receiver::reporter& reports) {
    here.reset();
    reports.say('r');
    receive_all(from, [](const char*, std::size_t) {});
    reports.say('d');
  });
  there.reset();
  const pinned to_first(0);
  receiving.wait();
  const stopwatch watch;
  off_t at = 0;
  while (static_cast<std::uint64_t>(at) < shipped_bytes) {
    if (::sendfile(here.get(), file.get(), &at, chunk_bytes) < 0) throw_errno("sendfile");
  }
  ::shutdown(here.get(), SHUT_WR);
  receiving.wait();
  return {watch.seconds(), 0, shipped_bytes};
}

// The file mapped and sent, to a receiver that hashes and writes what it gets to a new file.
measurement mapped_send_hashed_and_written() {
  const descriptor file(plain_file(), O_RDONLY);
  const temporary copy("shipped-copy");
  auto [here, there] = tcp_pair();
  const receiver receiving([&, from = there.get()](const receiver::reporter& reports) {
    here.reset();
    const descriptor to(copy.path(), O_WRONLY | O_CREAT | O_TRUNC);
    reports.say('r');
    receive_all(from, [&](const char* bytes, std::size_t count) {
      benchmark::DoNotOptimize(xxh3_64({reinterpret_cast<const std::byte*>(bytes), count}));
      write_all(to.get(), bytes, count);
    });
    reports.say('d');
  });
  there.reset();
  const pinned to_first(0);
  receiving.wait();
  const stopwatch watch;
  void* const mapped = ::mmap(nullptr, shipped_bytes, PROT_READ, MAP_SHARED, file.get(), 0);
  if (mapped == MAP_FAILED) throw_errno("mmap");
  for (std::uint64_t at = 0; at < shipped_bytes;) {
    const ssize_t sent = ::send(here.get(), static_cast<const char*>(mapped) + at,
                                std::min<std::uint64_t>(chunk_bytes, shipped_bytes - at), MSG_NOSIGNAL);
    if (sent < 0) throw_errno("send");
    at += static_cast<std::uint64_t>(sent);
  }
  ::shutdown(here.get(), SHUT_WR);
  receiving.wait();
  const double seconds = watch.seconds();
  ::munmap(mapped, shipped_bytes);
  return {seconds, 0, shipped_bytes};
}

// --- Records over a channel, verified -------------------------------------------------------------------------------

channel_options options_of(node_id id) {
  channel_options options;
  options.cluster = "bench";
  options.node = id;
  return options;
}

constexpr auto records_kind = static_cast<std::uint8_t>(catchup::message::records);

// Verifies records as a follower does. They are sent again and again from the first to the one at `last`.
awaitable<void> receive_records(node& on, descriptor& from, index_t last, std::size_t times,
                                const receiver::reporter& reports) {
  channel receiving(on.env, stream_of(on, from), options_of(2));
  co_await receiving.handshake();
  reports.say('r');
  position at;
  for (std::size_t done = 0; done < times;) {
    const frame_view frame = co_await receiving.receive();
    bytes_view rest = frame.payload;
    while (!rest.empty()) {
      record found;
      if (log_codec::decode_record(rest, at, found) != log_codec::record_verdict::ok) {
        throw std::runtime_error("a bad record behind " + std::to_string(at.index));
      }
      at = found.position();
      rest = rest.subspan(log_format::record_bytes(found.payload.size()));
    }
    if (at.index != last) continue;
    at = {};
    ++done;
  }
  reports.say('d');
}

awaitable<void> send_records(channel& sending, append_log& log, std::size_t times) {
  for (std::size_t done = 0; done < times; ++done) {
    cursor reading(log, 1);
    while (reading.next_index() <= log.last().index) {
      const record_batch batch = reading.try_next(chunk_bytes);
      co_await sending.send(records_kind, 0, batch.bytes(), frame_flag::self_checked);
    }
  }
  co_await sending.flush();
}

std::uint64_t record_bytes_in(const append_log& log) {
  return log.size_bytes() - log.segment_count() * log_format::segment_header_bytes;
}

awaitable<void> shake_hands(channel& with) { co_await with.handshake(); }

// Ships all of `log` so many times to a process that verifies it.
measurement ship_to_verifier(node& on, append_log& log, std::size_t times) {
  auto [here, there] = tcp_pair();
  const receiver receiving([&, last = log.last().index](const receiver::reporter& reports) {
    here.reset();
    node alone;
    alone.run(receive_records(alone, there, last, times, reports));
  });
  there.reset();
  const pinned to_first(0);
  channel sending(on.env, stream_of(on, here), options_of(1));
  on.run(shake_hands(sending));
  receiving.wait();
  const std::uint64_t bytes = times * record_bytes_in(log);
  const stopwatch watch;
  on.run(send_records(sending, log, times));
  receiving.wait();
  return {watch.seconds(), 0, bytes};
}

// The newest records, as they lie in memory.
measurement ship_from_memory(std::size_t payload_bytes) {
  const temporary directory("ship-memory");
  node on;
  log_options options;
  options.sync = sync_policy::never;
  std::unique_ptr<append_log> log;
  on.run(open_into(log, on.env, directory.path(), options));
  payloads source(payload_bytes);
  const std::size_t tail_bytes = options.hot_tail_bytes * 3 / 4;
  on.run(append_records(*log, source, payload_bytes, tail_bytes / log_format::record_bytes(payload_bytes)));
  const measurement result = ship_to_verifier(on, *log, shipped_bytes / tail_bytes);
  on.run(log->close());
  return result;
}

// A log of sealed segments and a short tail, nothing of it in the log's memory.
std::string log_to_ship(const record_size& size) {
  log_options options;
  options.sync = sync_policy::never;
  return log_fixture(std::string("to-ship-") + size.name, size.bytes, shipped_bytes, options);
}

measurement ship_sealed(const record_size& size) {
  const std::string directory = log_to_ship(size);
  node on;
  std::unique_ptr<append_log> log;
  on.run(open_into(log, on.env, directory, log_options()));
  const measurement result = ship_to_verifier(on, *log, 1);
  on.run(log->close());
  return result;
}

// --- From log to log
// --------------------------------------------------------------------------------------------------

class until_caught_up : public follower_events {
 public:
  explicit until_caught_up(const receiver::reporter& reports) : reports_(reports) {}
  void caught_up(const position&) override { reports_.say('d'); }

 private:
  const receiver::reporter& reports_;
};

// Ends when the source closes the connection.
awaitable<void> follow(node& on, append_log& log, descriptor& from, const receiver::reporter& reports) {
  channel receiving(on.env, stream_of(on, from), options_of(2));
  co_await receiving.handshake();
  reports.say('r');
  until_caught_up events(reports);
  catchup_follower follower(on.env, log, events);
  try {
    co_await follower.run(receiving);
  } catch (const std::system_error&) {
    // The other side has got its answer and is gone.
  }
}

awaitable<void> serve(catchup_source& source, channel& sending) { co_await source.serve(sending); }

awaitable<void> serve_until_done(node& on, append_log& log, channel& sending, const receiver& receiving,
                                 double& seconds) {
  catchup_source source(on.env, log);
  task_group tasks(on.env.get_executor());
  const stopwatch watch;
  tasks.spawn(serve(source, sending));
  co_await receiving.wait_in(on);
  seconds = watch.seconds();
  tasks.cancel();
  co_await tasks.join();
}

measurement ship_to_follower(const record_size& size) {
  const std::string directory = log_to_ship(size);
  const temporary copy("ship-follower");
  auto [here, there] = tcp_pair();
  const receiver receiving([&](const receiver::reporter& reports) {
    here.reset();
    node alone;
    log_options options;
    options.sync = sync_policy::never;
    std::unique_ptr<append_log> log;
    alone.run(open_into(log, alone.env, copy.path(), options));
    alone.run(follow(alone, *log, there, reports));
  });
  there.reset();
  const pinned to_first(0);
  node on;
  std::unique_ptr<append_log> log;
  on.run(open_into(log, on.env, directory, log_options()));
  const std::uint64_t bytes = record_bytes_in(*log);
  double seconds = 0;
  {
    channel sending(on.env, stream_of(on, here), options_of(1));
    on.run(shake_hands(sending));
    receiving.wait();
    on.run(serve_until_done(on, *log, sending, receiving, seconds));
  }
  on.run(log->close());
  return {seconds, 0, bytes};
}

// --- To a new member of a Raft group
// ----------------------------------------------------------------------------------

raft::node_options raft_options(node_id id, const std::string& directory) {
  raft::node_options options;
  options.core.id = id;
  options.core.election_timeout = std::chrono::milliseconds(200);
  options.core.heartbeat_interval = std::chrono::milliseconds(50);
  options.cluster = "bench";
  options.directory = directory;
  options.snapshot_after_bytes = 0;  // records, not a snapshot
  options.log.sync = sync_policy::never;
  return options;
}

awaitable<void> until_leading(real::env& env, raft_member& of) {
  real::timer timer(env);
  while (of.node().core().role() != raft::role::leader) {
    timer.expires_after(std::chrono::milliseconds(10));
    (void)co_await timer.wait();
  }
}

awaitable<void> propose(raft_member& to, payloads& source, std::size_t commands) {
  for (std::size_t i = 0; i < commands; ++i) {
    const raft::outcome done = co_await to.node().propose(source.next(), std::chrono::seconds(10));
    if (!done.ok()) throw std::system_error(done.error, "a proposal");
  }
}

awaitable<void> fill_group(node& on, const raft::node_options& options, std::size_t payload_bytes) {
  constexpr std::size_t clients = 256;
  const auto only = co_await raft_member::open(on.env, options);
  co_await until_leading(on.env, *only);
  payloads source(payload_bytes);
  task_group all(on.env.get_executor());
  const std::uint64_t record_bytes = log_format::record_bytes(payload_bytes + sizeof(std::uint64_t));
  for (std::size_t i = 0; i < clients; ++i) all.spawn(propose(*only, source, shipped_bytes / record_bytes / clients));
  co_await all.join();
  co_await only->close();
}

// Takes part until its log has as much as the leader's had.
awaitable<void> join_group(node& on, const raft::node_options& options, std::string where, index_t last,
                           const receiver::reporter& reports) {
  const auto here = co_await raft_member::open(on.env, options, where);
  reports.say('r');
  real::timer timer(on.env);
  while (here->node().log().acked().index < last) {
    timer.expires_after(std::chrono::milliseconds(1));
    (void)co_await timer.wait();
  }
  reports.say('d');
  co_await here->close();
}

awaitable<void> ship_to_member(node& on, const raft::node_options& options, const std::string& new_member,
                               const receiver& receiving, double& seconds) {
  const auto leader = co_await raft_member::open(on.env, options);
  co_await until_leading(on.env, *leader);
  // What its log holds, a leader has applied long ago.
  if (const auto ec = co_await leader->node().read_barrier(std::chrono::seconds(10))) throw std::system_error(ec);
  const stopwatch watch;
  raft::change_error why{};
  const std::error_code ec = co_await leader->node().add(2, new_member, std::chrono::seconds(10), why);
  if (ec || why != raft::change_error::none) throw std::system_error(ec, "adding a learner");
  co_await receiving.wait_in(on);
  seconds = watch.seconds();
  co_await leader->close();
}

measurement ship_to_new_member(const record_size& size) {
  const std::string directory = fixture(std::string("raft-") + size.name, [&](const std::string& unfinished) {
    raft::node_options options = raft_options(1, unfinished);
    options.members[1] = free_addresses(1).front();
    node on;
    on.run(fill_group(on, options, size.bytes));
  });
  const temporary original("raft-leader"), copy("raft-new");
  std::filesystem::copy(directory, original.path(), std::filesystem::copy_options::recursive);
  index_t last = 0;
  std::uint64_t bytes = 0;
  {
    node on;
    std::unique_ptr<append_log> log;
    on.run(open_into(log, on.env, original.path() + "/log", log_options()));
    last = log->last().index;
    bytes = record_bytes_in(*log);
    on.run(log->close());
  }
  const std::string where = free_addresses(1).front();
  const receiver receiving([&](const receiver::reporter& reports) {
    node alone;
    alone.run(join_group(alone, raft_options(2, copy.path()), where, last, reports));
  });
  receiving.wait();
  const pinned to_first(0);
  node on;
  double seconds = 0;
  on.run(ship_to_member(on, raft_options(1, original.path()), where, receiving, seconds));
  return {seconds, 0, bytes};
}

const bool registered = [] {
  for (const record_size& size : record_sizes) {
    const std::string name = size.name;
    add("ship/memory/" + name + "/limit", 3, plain_sendfile);
    add("ship/memory/" + name + "/lockstep", 3, [size] { return ship_from_memory(size.bytes); });
    add("ship/sealed/" + name + "/limit", 3, plain_sendfile);
    add("ship/sealed/" + name + "/lockstep", 3, [size] { return ship_sealed(size); });
    add("ship/follower_log/" + name + "/limit", 3, mapped_send_hashed_and_written);
    add("ship/follower_log/" + name + "/lockstep", 3, [size] { return ship_to_follower(size); });
    add("ship/raft_member/" + name + "/limit", 3, [size] { return ship_to_follower(size); });
    add("ship/raft_member/" + name + "/lockstep", 3, [size] { return ship_to_new_member(size); });
  }
  return true;
}();

}  // namespace
}  // namespace lockstep::bench
