// Frames and calls over connections that break: what a channel, a link, a server and a peer promise of them.
#include "scenarios.hpp"

#include "lockstep/core/checksum.hpp"
#include "lockstep/core/endian.hpp"
#include "lockstep/rpc/link.hpp"
#include "lockstep/rpc/server.hpp"
#include "lockstep/sim/check/prefix.hpp"

#include <deque>
#include <map>
#include <memory>
#include <set>

namespace lockstep::scenarios {
namespace {

using channel_type = basic_channel<sim::env>;
using link_type = basic_link<sim::env>;
using server_type = basic_server<sim::env>;
using peer_type = basic_rpc_peer<sim::env>;

constexpr std::uint16_t port = 7000;

// --- What both scenarios know ----------------------------------------------------------------------------------------

/// Remembers the first thing that is wrong: a block between the finder and the program may swallow exceptions.
class findings {
 public:
  explicit findings(sim::simulation& of) : of_(of) {}

  void must(const sim::check::violation& found) {
    if (found && !first_) first_ = *found;
  }
  void must(bool holds, const std::string& text) {
    if (!holds && !first_) first_ = text;
  }
  [[nodiscard]] const std::optional<std::string>& first() const noexcept { return first_; }

  /// Whether a fault of one of these families may have had a part in what happened on `on` since `begin`: it had not
  /// been over for `aftermath` by then.
  [[nodiscard]] bool disturbed(duration begin, duration aftermath, const sim::node* on = nullptr,
                               sim::fault_set families = sim::fault_set::all()) const {
    const duration now = of_.in().elapsed();
    for (const sim::fault_event& each : of_.plan()) {
      if (!families.has(each.family) || (on && each.target != on->index)) continue;
      if (each.at <= now && each.at + each.lasts + aftermath >= begin) return true;
    }
    return false;
  }

 private:
  sim::simulation& of_;
  std::optional<std::string> first_;
};

/// How connections end. Anything else is a mistake of somebody's, since TCP changes no bytes.
bool is_transport_failure(const std::error_code& code) {
  return code == asio::error::eof || code == asio::error::connection_reset || code == asio::error::broken_pipe ||
         code == asio::error::timed_out || code == asio::error::connection_refused ||
         code == asio::error::connection_aborted || code == errc::truncated || code == errc::idle_timeout ||
         code == errc::timed_out || code == errc::closed;
}

// Runs `task`, which may use what its caller awaits this with, and cancels it after a while.
awaitable<void> cancel_after(sim::env& on, awaitable<void> task, duration after) {
  const bool throws = co_await this_coro::throw_if_cancelled();
  co_await this_coro::throw_if_cancelled(false);
  task_group one(on.get_executor());
  one.spawn(std::move(task));
  std::exception_ptr failure;
  try {
    co_await pause(on, after);
  } catch (const std::system_error&) {
    failure = std::current_exception();
  }
  one.cancel();
  try {
    co_await one.join();
  } catch (const std::system_error&) {
    if (!failure) failure = std::current_exception();
  }
  co_await this_coro::throw_if_cancelled(throws);
  if (failure) std::rethrow_exception(failure);
}

sim::fault_plan_options network_faults(duration lasts) {
  sim::fault_plan_options faults;
  faults.lasts = lasts;
  faults.families = sim::fault_set()
                        .with(sim::fault_family::crash)
                        .with(sim::fault_family::power_loss)
                        .with(sim::fault_family::pause)
                        .with(sim::fault_family::partition)
                        .with(sim::fault_family::reset)
                        .with(sim::fault_family::slow_network)
                        .with(sim::fault_family::partial_io)
                        .with(sim::fault_family::clock);
  faults.often = 2;
  faults.longest = 3s;
  return faults;
}

/// Sizes as programs have them: many small ones, some at the limit.
std::size_t drawn_size(sim::random_stream& random, std::size_t most) {
  const std::uint64_t kind = random.below(100);
  if (kind < 3) return 0;
  if (kind < 5) return most;
  if (kind < 85) return random.below(std::min<std::size_t>(most, 300) + 1);
  return random.below(most + 1) >> random.below(6);
}

channel_options drawn_channel_options(sim::random_stream& random, std::size_t max_frame_bytes, node_id node) {
  channel_options options;
  options.cluster = "scenario";
  options.node = node;
  options.max_frame_bytes = max_frame_bytes;
  options.read_buffer_bytes = std::size_t{64} << random.below(11);
  options.send_queue_bytes = std::size_t{128} << random.below(10);
  options.coalesce_bytes = std::size_t{64} << random.below(10);
  options.copy_bytes = std::size_t{16} << random.below(11);
  options.handshake_timeout = std::chrono::milliseconds(random.between(200, 2000));
  options.close_timeout = std::chrono::milliseconds(random.between(50, 2000));
  // Keepalives come in time for every drawn timeout: they are due after a half more, by a clock that is a tenth slower.
  options.idle_timeout = std::chrono::milliseconds(random.between(1200, 2500));
  options.keepalive = std::chrono::milliseconds(random.between(50, 300));
  return options;
}

link_options drawn_link_options(sim::random_stream& random, std::size_t max_frame_bytes, node_id node,
                                const char* purpose) {
  link_options options;
  options.channel = drawn_channel_options(random, max_frame_bytes, node);
  options.channel.purpose = purpose;
  options.connect_timeout = std::chrono::milliseconds(random.between(100, 2000));
  options.backoff_base = std::chrono::milliseconds(random.between(5, 100));
  options.backoff_max = std::chrono::milliseconds(random.between(100, 2000));
  return options;
}

void no_program_may_fail(sim::simulation& of, findings& wrong) {
  of.on_end = [&wrong](sim::node& ended) {
    if (!ended.failure_text().empty()) wrong.must(false, ended.name + " ended by: " + ended.failure_text());
  };
}

// --- Frames ----------------------------------------------------------------------------------------------------------

/// One direction of one connection.
struct one_way {
  explicit one_way(std::uint64_t number) : id(number), certain("direction " + std::to_string(number)) {}

  // A frame that its sender may have taken back.
  struct doubtful_frame {
    std::uint64_t number = 0;
    std::uint64_t hash = 0;
    std::uint64_t behind = 0;  ///< so many certain frames came before it
    bool withdrawn = false;    ///< for sure
  };

  const std::uint64_t id;
  sim::check::delivered_prefix certain;
  std::uint64_t sent = 0;
  std::uint64_t delivered = 0;
  std::deque<doubtful_frame> doubtful;
  std::uint64_t last_doubtful = 0;
  bool received = false;  ///< by one connection
  bool flushed = false;   ///< all of it was handed to the stream, and its sender lived to see it
};

struct client_progress {
  std::uint64_t to_server = 0;
  std::uint64_t to_client = 0;
};

struct frames_book {
  explicit frames_book(sim::simulation& of) : wrong(of) {}

  findings wrong;
  std::size_t max_frame_bytes = 0;
  std::map<std::uint64_t, std::shared_ptr<one_way>> ways;
  std::uint64_t last_way = 0;
  std::map<node_id, client_progress> clients;
  std::uint64_t complete = 0;  ///< directions that ended in good order

  std::shared_ptr<one_way> open() {
    const std::uint64_t number = ++last_way;
    return ways[number] = std::make_shared<one_way>(number);
  }
};

/// The kinds of frames.
enum class sent_as : std::uint8_t { certain = 7, doubtful = 200 };

std::uint64_t hash_of(std::uint8_t kind, std::uint64_t id, bytes_view payload) {
  return xxh3_64(payload) ^ (id * 0x9e3779b97f4a7c15u) ^ kind;
}

/// What the coroutines of one side of a connection share. Lies in exchange()'s frame.
struct session {
  session(sim::env& env, channel_type& channel, frames_book& book, node_id client, bool is_server)
      : on(env),
        over(channel),
        know(book),
        out(book.open()),
        of(client),
        at_server(is_server),
        changed(env.get_executor()) {}

  sim::env& on;
  channel_type& over;
  frames_book& know;
  const std::shared_ptr<one_way> out;
  std::shared_ptr<one_way> in;  ///< known from the first frame on
  const node_id of;             ///< the client's
  const bool at_server;
  std::size_t senders = 0;
  bool stopping = false;
  wait_list changed;

  void stop() {
    stopping = true;
    changed.notify_all();
  }

  void check_queue() const {
    // A frame more than the queue takes may be in it alone, and the rest of one that was taken back.
    const channel_options& options = over.options();
    const std::size_t most = options.send_queue_bytes + 2 * (options.max_frame_bytes + frame_header_bytes) + 4096;
    know.wrong.must(over.queued_bytes() <= most, "a channel has queued " + std::to_string(over.queued_bytes()) +
                                                     " bytes where at most " + std::to_string(most) + " are allowed");
  }

  void got(const frame_view& frame) {
    check_queue();
    if (frame.payload.size() >= 8) {
      const auto id = load_le<std::uint64_t>(frame.payload.data());
      if (!in) {
        const auto found = know.ways.find(id);
        know.wrong.must(found != know.ways.end(), "a frame names a direction that never was: " + std::to_string(id));
        if (found == know.ways.end()) return;
        know.wrong.must(!found->second->received, "two connections brought frames of direction " + std::to_string(id));
        in = found->second;
        in->received = true;
      }
      know.wrong.must(in->id == id, "a connection brought frames of direction " + std::to_string(in->id) + " and of " +
                                        std::to_string(id));
    }
    know.wrong.must(in != nullptr, "a short frame came first");
    if (!in) return;
    const std::uint64_t hash = hash_of(frame.kind, frame.id, frame.payload);
    if (frame.kind == static_cast<std::uint8_t>(sent_as::certain)) {
      know.wrong.must(in->certain.delivered(frame.id, hash));
      ++in->delivered;
    } else {
      got_doubtful(frame.id, hash);
    }
    client_progress& progress = know.clients[of];
    ++(at_server ? progress.to_server : progress.to_client);
  }

  void got_doubtful(std::uint64_t number, std::uint64_t hash) {
    const std::string frame = "doubtful frame " + std::to_string(number) + " of direction " + std::to_string(in->id);
    while (!in->doubtful.empty() && in->doubtful.front().number < number) in->doubtful.pop_front();
    if (in->doubtful.empty() || in->doubtful.front().number != number) {
      return know.wrong.must(false, frame + " was delivered twice, too late, or never sent");
    }
    const one_way::doubtful_frame sent = in->doubtful.front();
    in->doubtful.pop_front();
    know.wrong.must(sent.hash == hash, frame + " was changed");
    know.wrong.must(!sent.withdrawn, frame + " was delivered although it had been withdrawn");
    know.wrong.must(sent.behind == in->delivered, frame + " was sent behind " + std::to_string(sent.behind) +
                                                      " others and delivered behind " + std::to_string(in->delivered));
  }
};

/// One frame in its sender's memory.
struct drawn_frame {
  std::vector<std::byte> payload;
  std::vector<bytes_view> parts;
  std::uint8_t flags = 0;

  drawn_frame(sim::random_stream& random, const session& in, bool first) {
    std::size_t size = drawn_size(random, in.know.max_frame_bytes);
    if (first) size = std::max<std::size_t>(size, 8);
    payload.resize(size);
    std::uint64_t bits = random();
    for (std::byte& each : payload) {
      each = static_cast<std::byte>(bits);
      bits = bits * 0x2545f4914f6cdd1du + 1;
    }
    if (size >= 8) store_le<std::uint64_t>(payload.data(), in.out->id);
    if (random.chance(0.2)) flags = frame_flag::self_checked;
    bytes_view left(payload);
    while (random.chance(0.3)) {
      parts.push_back(left.first(random.below(left.size() + 1)));
      left = left.subspan(parts.back().size());
    }
    parts.push_back(left);
  }
};

// Its promise to the caller: what it threw or returned says what became of the frame.
awaitable<void> send_doubtful(session& of, drawn_frame& frame, std::optional<time_point> deadline) {
  const std::uint64_t number = ++of.out->last_doubtful;
  const auto kind = static_cast<std::uint8_t>(sent_as::doubtful);
  const std::shared_ptr<one_way> out = of.out;
  out->doubtful.push_back({number, hash_of(kind, number, frame.payload), out->sent, false});
  if (!deadline) {
    co_await of.over.send(kind, number, frame.parts, frame.flags);
    co_return;
  }
  if (co_await of.over.send_until(*deadline, kind, number, frame.parts, frame.flags)) co_return;
  for (one_way::doubtful_frame& each : out->doubtful) {
    if (each.number == number) each.withdrawn = true;
  }
  of.know.wrong.must(of.on.now() >= *deadline, "send_until gave up before its deadline");
}

awaitable<void> send_too_large(session& of) {
  const std::vector<std::byte> payload(of.over.options().max_frame_bytes + 1);
  std::error_code code;
  try {
    co_await of.over.send(1, 1, payload);
  } catch (const std::system_error& error) {
    code = error.code();
  }
  of.know.wrong.must(code == errc::frame_too_large || is_transport_failure(code),
                     "a frame beyond the limit was taken, or refused with: " + code.message());
  if (code != errc::frame_too_large) throw std::system_error(code);
}

awaitable<void> send_certain(session& of, drawn_frame& frame, bool without_waiting) {
  const auto kind = static_cast<std::uint8_t>(sent_as::certain);
  const std::uint64_t number = of.out->sent + 1;
  const std::uint64_t hash = hash_of(kind, number, frame.payload);
  if (without_waiting) {
    // Told before: a write on the spot may bring the frame to the other side only later, never earlier.
    if (!of.over.try_send(kind, number, frame.parts, frame.flags)) co_return;
    ++of.out->sent;
    of.know.wrong.must(of.out->certain.sent(number, hash));
    co_return;
  }
  ++of.out->sent;
  of.know.wrong.must(of.out->certain.sent(number, hash));
  co_await of.over.send(kind, number, frame.parts, frame.flags);
}

awaitable<void> send_frames(session& of, std::uint64_t seed) {
  sim::random_stream random(seed);
  const std::uint64_t longest_pause_us = std::uint64_t{1000} << random.below(9);
  while (!of.stopping) {
    drawn_frame frame(random, of, of.out->sent == 0);
    const std::uint64_t way = of.out->sent == 0 ? 0 : random.below(100);
    if (way < 70) {
      co_await send_certain(of, frame, way < 15 && of.out->sent != 0);
    } else if (way < 80) {
      const time_point deadline = of.on.now() + std::chrono::microseconds(random.below(20'000));
      co_await send_doubtful(of, frame, deadline);
    } else if (way < 88) {
      co_await cancel_after(of.on, send_doubtful(of, frame, std::nullopt),
                            std::chrono::microseconds(random.below(5000)));
    } else if (way < 90) {
      co_await send_too_large(of);
    } else if (way < 95) {
      co_await of.over.flush();
    }
    of.check_queue();
    if (random.chance(0.5)) co_await pause(of.on, std::chrono::microseconds(random.below(longest_pause_us)));
    if (random.chance(0.01)) co_await pause(of.on, std::chrono::milliseconds(random.below(3000)));
  }
  --of.senders;  // one that ends otherwise ends the others too
  of.changed.notify_all();
}

awaitable<void> receive_some(session& of, sim::random_stream& random) {
  switch (random.below(3)) {
    case 0: {
      const frame_view frame = co_await of.over.receive();
      of.got(frame);
      break;
    }
    case 1: {
      for (const frame_view& each : co_await of.over.receive_batch()) of.got(each);
      break;
    }
    default: {
      std::uint64_t left = 1 + random.below(20);
      auto use = [&of, &left](const frame_view& frame) {
        of.got(frame);
        return --left != 0;
      };
      co_await of.over.deliver(use);
    }
  }
  frame_view frame;
  while (random.chance(0.2) && of.over.try_receive(frame)) of.got(frame);
}

awaitable<void> receive_frames(session& of, std::uint64_t seed) {
  sim::random_stream random(seed);
  const bool slow = random.chance(0.3);
  std::error_code code;
  try {
    for (;;) {
      co_await receive_some(of, random);
      if (slow && random.chance(0.1)) co_await pause(of.on, std::chrono::milliseconds(random.below(300)));
    }
  } catch (const std::system_error& error) {
    code = error.code();
    if (code != asio::error::eof && (code != errc::closed || !of.stopping)) throw;
  }
  if (code == asio::error::eof && of.in && of.in->flushed) {
    of.know.wrong.must(of.in->certain.all_delivered());
    ++of.know.complete;
  }
  of.stop();
}

awaitable<void> after_the_end(session& of) {
  of.know.wrong.must(!of.over.is_open(), "a channel is open after its close()");
  of.know.wrong.must(!of.over.try_send(1, 1, bytes_view()), "a closed channel took a frame");
  std::error_code sent, received;
  try {
    co_await of.over.send(1, 1, bytes_view());
  } catch (const std::system_error& error) {
    sent = error.code();
  }
  try {
    (void)co_await of.over.receive();
  } catch (const std::system_error& error) {
    received = error.code();
  }
  // What ended it first is what it goes on to say.
  of.know.wrong.must(is_transport_failure(sent), "a closed channel says to its sender: " + sent.message());
  of.know.wrong.must(is_transport_failure(received), "a closed channel says to its receiver: " + received.message());
}

awaitable<void> wake_after(session& of, duration lasts) {
  co_await pause(of.on, lasts);
  of.stop();
}

awaitable<void> finish(session& of, bool gracefully) {
  while (!of.stopping || of.senders != 0) {
    if (const std::error_code ec = co_await of.changed.wait()) throw std::system_error(ec);
  }
  if (gracefully) {
    co_await of.over.flush();
    of.out->flushed = true;
    co_await of.over.close();
  } else {
    of.over.abort();
  }
  co_await after_the_end(of);
}

void check_end(const session& of, const std::error_code& code, duration since) {
  of.know.wrong.must(is_transport_failure(code) || is_cancelled(code),
                     "a connection ended by: " + code.message() + " (" + code.category().name() + ")");
  if (code == errc::idle_timeout) {
    of.know.wrong.must(of.know.wrong.disturbed(std::max(duration(0), since - 4s), 4s),
                       "a peer was found silent although nothing held up its keepalives");
  }
}

/// Both directions of one connection, from its handshake to its end.
awaitable<void> exchange(sim::env& on, channel_type& over, frames_book& know, node_id client, bool at_server) {
  sim::random_stream random(on.random());
  session of(on, over, know, client, at_server);
  const duration lasts = std::chrono::milliseconds(random.below(at_server ? 20'000 : 8'000));
  task_group tasks(on.get_executor());
  of.senders = random.between(1, 4);
  for (std::size_t i = of.senders; i != 0; --i) tasks.spawn(send_frames(of, random()));
  tasks.spawn(receive_frames(of, random()));
  tasks.spawn(finish(of, random.chance(0.8)));
  task_group timer(on.get_executor());
  timer.spawn(wake_after(of, lasts));
  const bool throws = co_await this_coro::throw_if_cancelled();
  co_await this_coro::throw_if_cancelled(false);
  std::exception_ptr failure;
  try {
    co_await tasks.join_passing_cancellation();
  } catch (const std::system_error& error) {
    failure = std::current_exception();
    check_end(of, error.code(), on.on().in().elapsed());
  }
  timer.cancel();
  co_await timer.join();
  co_await this_coro::throw_if_cancelled(throws);
  if (failure) std::rethrow_exception(failure);
}

awaitable<void> serve_frames(sim::env& on, frames_book& know, channel_options options) {
  std::error_code ec;
  sim::env::acceptor acceptor = on.listen(address("0.0.0.0", port), ec);
  if (ec) throw std::logic_error("cannot listen: " + ec.message());
  server_options serving;
  serving.channel = std::move(options);
  server_type server(on, std::move(acceptor), serving);
  server.on("frames", [&](channel_type& over) { return exchange(on, over, know, over.peer().node, true); });
  task_group tasks(on.get_executor());
  tasks.spawn(server.run());
  sim::random_stream random(on.random());
  if (random.chance(0.3)) {
    co_await pause(on, std::chrono::milliseconds(random.below(10'000)));
    co_await server.close();
    know.wrong.must(server.connections() == 0, "a closed server has connections");
  }
  co_await tasks.join();
}

/// What a link told of itself must fit together.
class link_watch {
 public:
  link_watch(sim::env& on, frames_book& know, const link_options& options) : on_(on), know_(know), options_(options) {}

  void operator()(const link_report& report) const {
    if (report.state != link_state::waiting || report.failures == 0) return;
    know_.wrong.must(report.error && !report.text.empty(), "a link that waits does not say why");
    duration limit = options_.backoff_base;
    for (unsigned i = 1; i < report.failures && limit < options_.backoff_max; ++i) limit *= 2;
    limit = std::min(limit, options_.backoff_max);
    const duration wait = report.next_attempt - on_.now();
    know_.wrong.must(wait >= limit / 2 && wait <= limit, "after " + std::to_string(report.failures) +
                                                             " failures a link waits " + std::to_string(wait.count()) +
                                                             " ns, with a limit of " + std::to_string(limit.count()));
  }

 private:
  sim::env& on_;
  frames_book& know_;
  const link_options options_;
};

awaitable<void> ask_whether_up(sim::env& on, link_type& link, frames_book& know) {
  for (;;) {
    const time_point deadline = on.now() + 700ms;
    const std::error_code ec = co_await link.wait_until_up(deadline);
    if (is_cancelled(ec)) co_return;
    if (ec == errc::closed && link.report().state == link_state::closed) co_return;
    const bool up = link.report().state == link_state::up;
    if (!ec) {
      know.wrong.must(up, "a link that is down was said to be up");
    } else {
      know.wrong.must(ec == errc::timed_out && on.now() >= deadline && !up,
                      "waiting for a link ended wrong: " + ec.message());
    }
    co_await pause(on, 500ms);
  }
}

awaitable<void> keep_link(sim::env& on, frames_book& know, link_options options) {
  options.on_change = link_watch(on, know, options);
  const node_id self = options.channel.node;
  link_type link(on, address("server", port), std::move(options),
                 [&on, &know, self](channel_type& over) { return exchange(on, over, know, self, false); });
  task_group tasks(on.get_executor());
  tasks.spawn(link.run());
  tasks.spawn(ask_whether_up(on, link, know));
  sim::random_stream random(on.random());
  if (random.chance(0.3)) {
    co_await pause(on, std::chrono::milliseconds(random.below(10'000)));
    co_await link.close();
    know.wrong.must(link.report().state == link_state::closed, "a closed link is not closed");
    tasks.cancel();
  }
  co_await tasks.join();
}

awaitable<void> reconnect_by_hand(sim::env& on, frames_book& know, channel_options options) {
  for (;;) {
    try {
      sim::env::stream stream = co_await on.connect(address("server", port), 1s);
      channel_type over(on, std::move(stream), options);
      (void)co_await over.handshake();
      co_await exchange(on, over, know, options.node, false);
    } catch (const std::system_error& error) {
      know.wrong.must(is_transport_failure(error.code()), std::string("a connection ended by: ") + error.what());
    }
    co_await pause(on, 200ms);
  }
}

void run_frames(sim::simulation& of) {
  sim::random_stream random = of.random("frames");
  frames_book know(of);
  know.max_frame_bytes = std::size_t{64} << random.below(12);
  no_program_may_fail(of, know.wrong);
  const channel_options serving = drawn_channel_options(random, know.max_frame_bytes, 1);
  of.add("server", [&know, serving](sim::env& on) { return serve_frames(on, know, serving); });
  const std::uint64_t clients = random.between(1, 4);
  for (node_id node = 2; node < 2 + clients; ++node) {
    link_options connecting = drawn_link_options(random, know.max_frame_bytes, node, "frames");
    connecting.stable_after = std::chrono::milliseconds(random.between(100, 4000));
    know.clients[node];
    const std::string name = "client" + std::to_string(node - 1);
    if (random.chance(0.6)) {
      of.add(name, [&know, connecting](sim::env& on) { return keep_link(on, know, connecting); });
    } else {
      of.add(name,
             [&know, options = connecting.channel](sim::env& on) { return reconnect_by_hand(on, know, options); });
    }
  }
  of.chaos(network_faults(10s));
  of.require(know.wrong.first());
  of.calm();
  const std::map<node_id, client_progress> before = know.clients;
  const auto all_went_on = [&] {
    for (const auto& [client, progress] : know.clients) {
      const client_progress& then = before.at(client);
      if (progress.to_client < then.to_client + 5 || progress.to_server < then.to_server + 5) return false;
    }
    return true;
  };
  const bool live = of.in().run_until([&] { return know.wrong.first() || all_went_on(); }, 20s);
  of.require(know.wrong.first());
  of.require(live, "no frames for 20 s after the faults");
  of.require(of.in().run_until([&] { return of.in().net().open_connections() <= 2 * clients; }, 10s),
             "connections pile up: " + std::to_string(of.in().net().open_connections()));
}

// --- Calls -----------------------------------------------------------------------------------------------------------

namespace method {
constexpr std::uint32_t echo = 1;
constexpr std::uint32_t slow = 2;
constexpr std::uint32_t failing = 3;
constexpr std::uint32_t count = 4;
constexpr std::uint32_t items = 5;
constexpr std::uint32_t nobodys = 99;
}  // namespace method

/// What a caller asks for; the whole of it is drawn by the caller, so that both sides know the right answer.
struct asked {
  std::uint64_t number = 0;  ///< of the request, through all lives
  std::uint64_t caller = 0;
  std::uint32_t wait_us = 0;  ///< that the handler takes
  std::uint32_t items = 0;    ///< of a stream
  std::uint8_t fails = 0;     ///< after them; or with a result that exceeds a frame

  static constexpr std::size_t bytes = 25;

  void encode(std::byte* to) const {
    store_le(to, number);
    store_le(to + 8, caller);
    store_le(to + 16, wait_us);
    store_le(to + 20, items);
    to[24] = static_cast<std::byte>(fails);
  }
  static asked decode(bytes_view from) {
    asked found;
    if (from.size() < bytes) throw std::logic_error("a handler got too few arguments");
    found.number = load_le<std::uint64_t>(from.data());
    found.caller = load_le<std::uint64_t>(from.data() + 8);
    found.wait_us = load_le<std::uint32_t>(from.data() + 16);
    found.items = load_le<std::uint32_t>(from.data() + 20);
    found.fails = static_cast<std::uint8_t>(from[24]);
    return found;
  }
};

struct calls_book {
  explicit calls_book(sim::simulation& of) : wrong(of) {}

  findings wrong;
  std::uint64_t last_request = 0;
  std::map<std::uint64_t, unsigned> applied;        ///< by the counting handler, by request
  std::set<std::uint64_t> surely_not_applied;       ///< their callers were told so
  std::map<std::uint64_t, std::uint64_t> answered;  ///< by caller

  void check_applied() {
    for (const std::uint64_t each : surely_not_applied) {
      wrong.must(!applied.contains(each),
                 "request " + std::to_string(each) + " was applied although its caller was told otherwise");
    }
    for (const auto& [each, times] : applied) {
      wrong.must(times == 1, "request " + std::to_string(each) + " was applied " + std::to_string(times) + " times");
    }
  }
};

// --- Handlers ---

awaitable<void> echo(const rpc_request& in, rpc_reply& out) {
  out.body().append(in.arguments);
  co_return;
}

awaitable<void> echo_slowly(sim::env& on, const rpc_request& in, rpc_reply& out) {
  const asked what = asked::decode(in.arguments);
  co_await pause(on, std::chrono::microseconds(what.wait_us));
  out.body().append(in.arguments);
}

awaitable<void> fail_as_asked(sim::env& on, const rpc_request& in, rpc_reply& out) {
  const asked what = asked::decode(in.arguments);
  if (what.wait_us % 2 == 0) co_await pause(on, std::chrono::microseconds(what.wait_us));
  const std::string words = "request " + std::to_string(what.number) + " fails";
  switch (what.fails % 4) {
    case 0: throw rpc_error(static_cast<std::uint32_t>(what.number), words);
    case 1: throw std::runtime_error(words);
    case 2: out.fail(static_cast<std::uint32_t>(what.number), words); break;
    default: (void)out.body().extend(1 << 20);
  }
}

awaitable<void> count_once(sim::env& on, calls_book& know, const rpc_request& in, rpc_reply& out) {
  const asked what = asked::decode(in.arguments);
  if (what.wait_us % 2 == 0) co_await pause(on, std::chrono::microseconds(what.wait_us));
  ++know.applied[what.number];
  if (what.wait_us % 3 == 0) co_await pause(on, std::chrono::microseconds(what.wait_us));
  out.body().append(in.arguments);
}

void fill_item(std::vector<std::byte>& item, const asked& of, std::uint32_t number) {
  item.assign(12 + (of.number * 31 + number * 7) % 90, static_cast<std::byte>(number));
  store_le(item.data(), of.number);
  store_le(item.data() + 8, number);
}

awaitable<void> stream_items(sim::env& on, const rpc_request& in, rpc_item_writer& out) {
  const asked what = asked::decode(in.arguments);
  std::vector<std::byte> item;
  for (std::uint32_t i = 0; i < what.items; ++i) {
    if (i % 8 == 0 && what.wait_us % 2 == 0) co_await pause(on, std::chrono::microseconds(what.wait_us / 8));
    fill_item(item, what, i);
    co_await out.write(item);
  }
  if (what.fails != 0) throw rpc_error(what.fails, "stream " + std::to_string(what.number) + " fails");
}

// --- Callers ---

/// One call's arguments in its caller's memory, and what may come of it.
struct drawn_call {
  std::uint32_t method = 0;
  asked what;
  std::vector<std::byte> arguments;
  duration timeout{0};
  bool cancel = false;

  drawn_call(sim::random_stream& random, calls_book& know, std::uint64_t caller, std::size_t max_frame_bytes) {
    const std::uint64_t kind = random.below(100);
    method = kind < 30   ? method::echo
             : kind < 45 ? method::slow
             : kind < 55 ? method::failing
             : kind < 80 ? method::count
             : kind < 98 ? method::items
                         : method::nobodys;
    what.number = ++know.last_request;
    what.caller = caller;
    what.wait_us = static_cast<std::uint32_t>(random.below(random.chance(0.1) ? 500'000 : 10'000));
    what.items = static_cast<std::uint32_t>(random.below(random.chance(0.1) ? 400 : 20));
    what.fails = static_cast<std::uint8_t>(method == method::items ? (random.chance(0.2) ? 7 : 0) : random.below(4));
    // A request has a prefix of its own in the frame; some are too large.
    const std::size_t most = max_frame_bytes + (random.chance(0.02) ? 1 : 0);
    arguments.resize(std::max(asked::bytes, random.chance(0.1) ? most : drawn_size(random, max_frame_bytes - 64)));
    for (std::size_t i = 0; i < arguments.size(); ++i) arguments[i] = static_cast<std::byte>(what.number + i);
    what.encode(arguments.data());
    if (!random.chance(0.1))
      timeout = std::chrono::microseconds(random.between(1000, random.chance(0.3) ? 20'000 : 2'000'000));
    cancel = random.chance(0.1);
  }

  [[nodiscard]] std::string name() const {
    return "request " + std::to_string(what.number) + " of method " + std::to_string(method);
  }
};

/// A connection's end, as its callers know it. Lies in the session's frame.
struct call_site {
  call_site(sim::env& env, peer_type& with, calls_book& book, std::uint64_t self, std::size_t largest)
      : on(env), peer(with), know(book), caller(self), max_frame_bytes(largest) {}

  sim::env& on;
  peer_type& peer;
  calls_book& know;
  const std::uint64_t caller;
  const std::size_t max_frame_bytes;
  bool closing = false;

  void check_time(const drawn_call& of, time_point begin, duration begin_in_world) const {
    if (of.timeout.count() == 0) return;
    // Drift makes the node's clock tick in coarser steps than the world's.
    const duration took = on.now() - begin;
    const bool stood_still =
        know.wrong.disturbed(begin_in_world, 0s, &on.on(), sim::fault_set().with(sim::fault_family::pause));
    know.wrong.must(took <= of.timeout + 1ms || stood_still, of.name() + " took " + std::to_string(took.count()) +
                                                                 " ns with a timeout of " +
                                                                 std::to_string(of.timeout.count()) + " ns");
  }

  // Only what the table in status.hpp allows.
  void check_status(const drawn_call& of, const rpc_status& status) const {
    const std::error_code& code = status.code();
    const bool expected = status.ok() || code == errc::remote_failure || code == errc::unknown_method ||
                          code == errc::overloaded || code == errc::closed || code == errc::timed_out ||
                          code == errc::frame_too_large;
    know.wrong.must(expected, of.name() + " ended by: " + status.message());
    know.wrong.must(!status.outcome_unknown() || code == errc::closed || code == errc::timed_out,
                    of.name() + " has an unknown outcome by: " + status.message());
    know.wrong.must((code == errc::unknown_method) == (of.method == method::nobodys) ||
                        !(status.ok() || code == errc::unknown_method),
                    of.name() + " is known or not: " + status.message());
    know.wrong.must(code != errc::timed_out || of.timeout.count() != 0, of.name() + " timed out without a timeout");
    know.wrong.must(code != errc::frame_too_large || of.arguments.size() + 64 > max_frame_bytes,
                    of.name() + " was found too large");
  }

  void check_failure(const drawn_call& of, const rpc_status& status) const {
    if (status.code() != errc::remote_failure) return;
    const bool named = of.what.fails % 4 == 0 || of.what.fails % 4 == 2;
    const std::string words = "request " + std::to_string(of.what.number) + " fails";
    const std::uint32_t number = named ? static_cast<std::uint32_t>(of.what.number) : 0;
    const bool right = of.method == method::failing && status.remote_code() == number &&
                       (of.what.fails % 4 == 3 || status.text() == words);
    know.wrong.must(right, of.name() + " failed with another one's words: " + status.message());
  }

  void check_counted(const drawn_call& of, const rpc_status& status) const {
    if (of.method != method::count) return;
    const auto found = know.applied.find(of.what.number);
    const unsigned times = found == know.applied.end() ? 0 : found->second;
    if (status.ok()) {
      know.wrong.must(times == 1, of.name() + " is done and was applied " + std::to_string(times) + " times");
    } else if (!status.outcome_unknown() && status.code() != errc::remote_failure) {
      know.surely_not_applied.insert(of.what.number);
    }
  }
};

awaitable<void> call(call_site& of, drawn_call& drawn) {
  byte_buffer result;
  const time_point begin = of.on.now();
  const duration begin_in_world = of.on.on().in().elapsed();
  const rpc_status status = co_await of.peer.call(drawn.method, drawn.arguments, result, drawn.timeout);
  of.check_time(drawn, begin, begin_in_world);
  of.check_status(drawn, status);
  of.check_failure(drawn, status);
  of.check_counted(drawn, status);
  if (!status.ok()) co_return;
  const bool right = result.size() == drawn.arguments.size() &&
                     std::equal(drawn.arguments.begin(), drawn.arguments.end(), result.data());
  of.know.wrong.must(right && drawn.method != method::failing, drawn.name() + " got another one's answer");
  ++of.know.answered[of.caller];
}

awaitable<void> read_items(call_site& of, drawn_call& drawn, std::uint64_t seed) {
  sim::random_stream random(seed);
  const time_point begin = of.on.now();
  const duration begin_in_world = of.on.on().in().elapsed();
  auto stream = co_await of.peer.open_stream(drawn.method, drawn.arguments, drawn.timeout);
  std::vector<std::byte> expected;
  std::uint32_t next = 0;
  const bool slow = random.chance(0.2);
  const std::uint32_t enough = random.chance(0.2) ? static_cast<std::uint32_t>(random.below(20)) : ~0u;
  for (;;) {
    const std::optional<bytes_view> item = co_await stream.next();
    if (!item) break;
    fill_item(expected, drawn.what, next);
    const bool right = item->size() == expected.size() && std::equal(expected.begin(), expected.end(), item->data());
    of.know.wrong.must(right && next < drawn.what.items,
                       drawn.name() + " got a wrong item where item " + std::to_string(next) + " was next");
    ++next;
    if (next == enough) co_return;  // the rest is not wanted
    if (slow) co_await pause(of.on, std::chrono::microseconds(random.below(3000)));
  }
  const rpc_status& status = stream.status();
  if (!slow) of.check_time(drawn, begin, begin_in_world);
  of.check_status(drawn, status);
  if (status.ok()) {
    of.know.wrong.must(next == drawn.what.items && drawn.what.fails == 0,
                       drawn.name() + " ended well after " + std::to_string(next) + " of " +
                           std::to_string(drawn.what.items) + " items");
    ++of.know.answered[of.caller];
  } else if (status.code() == errc::remote_failure) {
    of.know.wrong.must(next == drawn.what.items && status.remote_code() == drawn.what.fails,
                       drawn.name() + " failed wrong: " + status.message());
  }
}

awaitable<void> ask_once(call_site& of, drawn_call& drawn, std::uint64_t seed) {
  if (drawn.method == method::items) {
    co_await read_items(of, drawn, seed);
  } else {
    co_await call(of, drawn);
  }
}

awaitable<void> ask(call_site& of, std::uint64_t seed) {
  sim::random_stream random(seed);
  const std::uint64_t longest_pause_us = std::uint64_t{1000} << random.below(9);
  while (of.peer.is_open() && !of.closing) {
    drawn_call drawn(random, of.know, of.caller, of.max_frame_bytes);
    if (drawn.cancel) {
      co_await cancel_after(of.on, ask_once(of, drawn, random()), std::chrono::microseconds(random.below(5000)));
    } else {
      co_await ask_once(of, drawn, random());
    }
    if (random.chance(0.5)) co_await pause(of.on, std::chrono::microseconds(random.below(longest_pause_us)));
  }
}

awaitable<void> close_after(call_site& of, duration lasts, bool gracefully) {
  co_await pause(of.on, lasts);
  of.closing = true;
  if (gracefully) {
    co_await of.peer.close();
    of.know.wrong.must(of.peer.calls_under_way() == 0 && of.peer.requests_under_way() == 0,
                       "a closed peer has calls under way");
  } else {
    of.peer.abort();
  }
}

struct rpc_site {
  rpc_options options;
  std::size_t max_frame_bytes = 0;
};

// A connection that lasts a while, with calls from many coroutines.
awaitable<void> make_calls(sim::env& on, channel_type& over, calls_book& know, std::uint64_t caller, rpc_site site) {
  sim::random_stream random(on.random());
  const rpc_service nothing;
  peer_type peer(over.share(), nothing, site.options);
  call_site of(on, peer, know, caller, site.max_frame_bytes);
  task_group callers(on.get_executor());
  task_group closing(on.get_executor());
  for (std::uint64_t i = random.between(1, 8); i != 0; --i) callers.spawn(ask(of, random()));
  const auto lasts = std::chrono::milliseconds(random.below(8000));
  closing.spawn(close_after(of, lasts, random.chance(0.7)));
  const bool throws = co_await this_coro::throw_if_cancelled();
  co_await this_coro::throw_if_cancelled(false);
  std::exception_ptr failure;
  try {
    co_await peer.run();
  } catch (const std::system_error& error) {
    failure = std::current_exception();
    know.wrong.must(is_transport_failure(error.code()) || is_cancelled(error.code()),
                    std::string("a peer's run ended by: ") + error.what());
  }
  // Every call ends with the connection; who waits for something else is told.
  know.wrong.must(peer.calls_under_way() == 0 && peer.requests_under_way() == 0,
                  "calls have outlived their connection");
  closing.cancel();
  co_await closing.join();
  callers.cancel();
  co_await callers.join();
  co_await this_coro::throw_if_cancelled(throws);
  if (failure) std::rethrow_exception(failure);
}

awaitable<void> serve_calls(sim::env& on, calls_book& know, channel_options options, rpc_options with) {
  rpc_service service;
  service.on(method::echo, echo);
  service.on(method::slow, [&on](const rpc_request& in, rpc_reply& out) { return echo_slowly(on, in, out); });
  service.on(method::failing, [&on](const rpc_request& in, rpc_reply& out) { return fail_as_asked(on, in, out); });
  service.on(method::count, [&](const rpc_request& in, rpc_reply& out) { return count_once(on, know, in, out); });
  service.on_stream(method::items,
                    [&on](const rpc_request& in, rpc_item_writer& out) { return stream_items(on, in, out); });
  std::error_code ec;
  sim::env::acceptor acceptor = on.listen(address("0.0.0.0", port), ec);
  if (ec) throw std::logic_error("cannot listen: " + ec.message());
  server_options serving;
  serving.channel = std::move(options);
  server_type server(on, std::move(acceptor), serving);
  server.on("calls", service, with);
  task_group tasks(on.get_executor());
  tasks.spawn(server.run());
  sim::random_stream random(on.random());
  if (random.chance(0.3)) {
    co_await pause(on, std::chrono::milliseconds(random.below(10'000)));
    co_await server.close();
    know.wrong.must(server.connections() == 0, "a closed server has connections");
  }
  co_await tasks.join();
}

awaitable<void> keep_calling(sim::env& on, calls_book& know, link_options options, rpc_site site) {
  const std::uint64_t caller = options.channel.node;
  link_type link(on, address("server", port), std::move(options),
                 [&, caller, site](channel_type& over) { return make_calls(on, over, know, caller, site); });
  co_await link.run();
}

rpc_options drawn_rpc_options(sim::random_stream& random) {
  rpc_options options;
  options.max_calls = random.chance(0.3) ? random.between(1, 6) : 1024;
  options.max_requests = random.chance(0.3) ? random.between(1, 6) : 256;
  options.stream_window_bytes = std::size_t{1} << random.below(14);
  options.drain_timeout = std::chrono::milliseconds(random.between(10, 3000));
  return options;
}

void run_calls(sim::simulation& of) {
  sim::random_stream random = of.random("rpc");
  calls_book know(of);
  rpc_site site;
  site.max_frame_bytes = std::size_t{256} << random.below(10);
  no_program_may_fail(of, know.wrong);
  const channel_options serving = drawn_channel_options(random, site.max_frame_bytes, 1);
  const rpc_options with = drawn_rpc_options(random);
  of.add("server", [&know, serving, with](sim::env& on) { return serve_calls(on, know, serving, with); });
  const std::uint64_t clients = random.between(1, 3);
  for (node_id node = 2; node < 2 + clients; ++node) {
    const link_options connecting = drawn_link_options(random, site.max_frame_bytes, node, "calls");
    site.options = drawn_rpc_options(random);
    know.answered[node] = 0;
    of.add("client" + std::to_string(node - 1),
           [&know, connecting, site](sim::env& on) { return keep_calling(on, know, connecting, site); });
  }
  of.chaos(network_faults(10s));
  of.require(know.wrong.first());
  of.calm();
  const std::map<std::uint64_t, std::uint64_t> before = know.answered;
  const auto all_answered = [&] {
    for (const auto& [caller, answers] : know.answered) {
      if (answers < before.at(caller) + 5) return false;
    }
    return true;
  };
  const bool live = of.in().run_until([&] { return know.wrong.first() || all_answered(); }, 20s);
  of.require(know.wrong.first());
  of.require(live, "no answers for 20 s after the faults");
  know.check_applied();
  of.require(know.wrong.first());
}

}  // namespace

sim::scenario framed_messages() {
  return {"frames", "clients and a server send frames over links and channels that break, and come back", &run_frames};
}

sim::scenario remote_calls() {
  return {"rpc", "clients call a server while connections break, and know what became of each call", &run_calls};
}

}  // namespace lockstep::scenarios
