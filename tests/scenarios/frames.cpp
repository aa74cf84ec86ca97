// Frames over connections that break: what a channel, a link and a server promise of them.
#include "connections.hpp"

#include "lockstep/core/checksum.hpp"
#include "lockstep/core/endian.hpp"
#include "lockstep/sim/check/prefix.hpp"

#include <deque>
#include <map>
#include <memory>

namespace lockstep::scenarios {
namespace {

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

}  // namespace

sim::scenario framed_messages() {
  return {"frames", "clients and a server send frames over links and channels that break, and come back", &run_frames};
}

}  // namespace lockstep::scenarios
