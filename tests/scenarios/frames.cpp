// Frames over connections that break: what a channel, a link and a server promise of them.
#include "connections.hpp"

#include "lockstep/core/checksum.hpp"
#include "lockstep/core/endian.hpp"
#include "lockstep/sim/check/prefix.hpp"

#include <array>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <span>

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
  std::uint64_t bytes_under_way = 0;  ///< of certain frames, headers included
  std::deque<doubtful_frame> doubtful;
  std::uint64_t last_doubtful = 0;
  bool received = false;                   ///< by one connection
  const channel_type* receiver = nullptr;  ///< while that lives
  bool flushed = false;                    ///< all of it was handed to the stream, and its sender lived to see it
  duration closing_until{0};  ///< its sender is in close() now, which hands over the rest unless it takes longer
};

struct client_progress {
  std::uint64_t to_server = 0;
  std::uint64_t to_client = 0;
};

struct frames_book {
  explicit frames_book(sim::simulation& of) : wrong(of) {}

  findings wrong;
  std::size_t max_frame_bytes = 0;
  std::size_t largest_read_buffer = 4096;
  std::map<std::uint64_t, std::shared_ptr<one_way>> ways;
  std::uint64_t last_way = 0;
  std::map<node_id, client_progress> clients;
  std::uint64_t strangers_refused = 0;
  std::uint64_t mutes_dropped = 0;

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

// A self-checked payload ends with the hash of what stands before it.
constexpr std::size_t own_check_bytes = 8;

void add_own_check(std::vector<std::byte>& payload) {
  const bytes_view checked = bytes_view(payload).first(payload.size() - own_check_bytes);
  store_le<std::uint64_t>(payload.data() + checked.size(), xxh3_64(checked));
}

bool has_own_check(bytes_view payload) {
  if (payload.size() < own_check_bytes) return false;
  const bytes_view checked = payload.first(payload.size() - own_check_bytes);
  return load_le<std::uint64_t>(payload.data() + checked.size()) == xxh3_64(checked);
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
  session(const session&) = delete;
  ~session() {
    if (in) in->receiver = nullptr;
  }

  sim::env& on;
  channel_type& over;
  frames_book& know;
  const std::shared_ptr<one_way> out;
  std::shared_ptr<one_way> in;  ///< known from the first frame on
  const node_id of;             ///< the client's
  const bool at_server;
  std::size_t senders = 0;
  bool stopping = false;
  bool damaged = false;  ///< a payload whose check is its receiver's own was altered
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
    check_under_way();
  }

  // Bytes are here, in the network, or with a receiver who waits for no more than one frame at the limit. One who
  // closes drops what arrives.
  void check_under_way() const {
    if (!out->receiver || !out->receiver->is_open()) return;
    constexpr std::size_t most_senders = 6;
    const channel_options& options = over.options();
    const std::size_t frame = options.max_frame_bytes + frame_header_bytes;
    const std::size_t most = options.send_queue_bytes + on.on().in().net().options.buffer_bytes +
                             know.largest_read_buffer + (most_senders + 1) * frame;
    know.wrong.must(out->bytes_under_way <= most, std::to_string(out->bytes_under_way) + " bytes are under way where " +
                                                      std::to_string(most) + " have room");
  }

  void got(const frame_view& frame) {
    check_queue();
    if ((frame.flags & frame_flag::self_checked) != 0 && !has_own_check(frame.payload)) {
      know.wrong.must(know.wrong.bytes_altered(), "a payload was altered, and not by the network");
      damaged = true;
    }
    if (damaged) return;  // the receiver ends the connection
    if (frame.payload.size() >= 8) {
      const auto id = load_le<std::uint64_t>(frame.payload.data());
      if (!in) {
        const auto found = know.ways.find(id);
        know.wrong.must(found != know.ways.end(), "a frame names a direction that never was: " + std::to_string(id));
        if (found == know.ways.end()) return;
        know.wrong.must(!found->second->received, "two connections brought frames of direction " + std::to_string(id));
        in = found->second;
        in->received = true;
        in->receiver = &over;
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
      in->bytes_under_way -= frame_header_bytes + frame.payload.size();
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
    if (random.chance(0.2) && size >= 8 + own_check_bytes) {
      flags = frame_flag::self_checked;
      add_own_check(payload);
    }
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
  of.know.wrong.must(code == errc::frame_too_large || of.know.wrong.may_end_by(code),
                     "a frame beyond the limit was taken, or refused with: " + code.message());
  if (code != errc::frame_too_large) throw std::system_error(code);
}

void sending_certain(session& of, const drawn_frame& frame) {
  const std::uint64_t number = ++of.out->sent;
  of.out->bytes_under_way += frame_header_bytes + frame.payload.size();
  of.know.wrong.must(
      of.out->certain.sent(number, hash_of(static_cast<std::uint8_t>(sent_as::certain), number, frame.payload)));
}

awaitable<void> send_certain(session& of, drawn_frame& frame) {
  sending_certain(of, frame);
  co_await of.over.send(static_cast<std::uint8_t>(sent_as::certain), of.out->sent, frame.parts, frame.flags);
}

void try_send_certain(session& of, const drawn_frame& frame) {
  const auto kind = static_cast<std::uint8_t>(sent_as::certain);
  // It arrives later, also when it is written on the spot.
  if (of.over.try_send(kind, of.out->sent + 1, frame.parts, frame.flags)) sending_certain(of, frame);
}

awaitable<void> send_frames(session& of, std::uint64_t seed) {
  sim::random_stream random(seed);
  const std::uint64_t longest_pause_us = std::uint64_t{1000} << random.below(9);
  while (!of.stopping) {
    drawn_frame frame(random, of, of.out->sent == 0);
    const std::uint64_t way = of.out->sent == 0 ? 0 : random.below(100);
    if (way < 15 && of.out->sent != 0) {
      try_send_certain(of, frame);
    } else if (way < 70) {
      co_await send_certain(of, frame);
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

// A view is valid until the next receive, whatever arrives meanwhile.
awaitable<void> keep_for_a_while(session& of, frame_view frame, duration how_long) {
  const std::uint64_t before = xxh3_64(frame.payload);
  co_await pause(of.on, how_long);
  of.know.wrong.must(xxh3_64(frame.payload) == before, "a frame changed while its receiver used it");
}

awaitable<void> receive_some(session& of, sim::random_stream& random) {
  const bool keeps = random.chance(0.05);
  const auto how_long = std::chrono::microseconds(random.below(10'000));
  switch (random.below(3)) {
    case 0: {
      const frame_view frame = co_await of.over.receive();
      of.got(frame);
      if (keeps) co_await keep_for_a_while(of, frame, how_long);
      break;
    }
    case 1: {
      const std::span<const frame_view> batch = co_await of.over.receive_batch();
      for (const frame_view& each : batch) of.got(each);
      if (keeps) co_await keep_for_a_while(of, batch.front(), how_long);
      break;
    }
    default: {
      std::uint64_t left = 1 + random.below(20);
      auto use = [&of, &left](const frame_view& frame) {
        of.got(frame);
        return --left != 0 && !of.damaged;
      };
      co_await of.over.deliver(use);
    }
  }
  frame_view frame;
  while (random.chance(0.2) && of.over.try_receive(frame)) of.got(frame);
  if (of.damaged) throw std::system_error(errc::bad_checksum);
}

// How the other side's bytes ended, as far as it is known what was among them.
void check_received(const session& of, const std::error_code& code) {
  if (!of.in) return;
  findings& wrong = of.know.wrong;
  const bool closing = of.on.on().in().elapsed() < of.in->closing_until;
  if (code == asio::error::eof && (of.in->flushed || closing)) wrong.must(of.in->certain.all_delivered());
  if (code == errc::truncated && of.in->flushed) {
    // An altered length may be waited for, up to the limit.
    wrong.must(wrong.bytes_altered(), "a connection ended inside a frame although all was flushed");
    const std::size_t most = frame_header_bytes + of.know.max_frame_bytes;
    wrong.must(of.in->bytes_under_way <= most, "a frame of at most " + std::to_string(most) +
                                                   " bytes was waited for through " +
                                                   std::to_string(of.in->bytes_under_way));
  }
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
    check_received(of, code);
    if (code != asio::error::eof && (code != errc::closed || !of.stopping)) throw;
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
  of.know.wrong.must(of.know.wrong.may_end_by(sent), "a closed channel says to its sender: " + sent.message());
  of.know.wrong.must(of.know.wrong.may_end_by(received),
                     "a closed channel says to its receiver: " + received.message());
}

awaitable<void> wake_after(session& of, duration lasts) {
  co_await pause(of.on, lasts);
  of.stop();
}

// close() alone hands over what is queued, too.
awaitable<void> close_politely(session& of, bool flushes) {
  struct closing_mark {
    one_way& of;
    closing_mark(one_way& marked, duration until) : of(marked) { of.closing_until = until; }
    closing_mark(const closing_mark&) = delete;
    ~closing_mark() { of.closing_until = duration(0); }
  };
  if (flushes) {
    co_await of.over.flush();
    // But for a keepalive, all senders having ended.
    of.know.wrong.must(of.over.queued_bytes() <= frame_header_bytes,
                       "flush() leaves " + std::to_string(of.over.queued_bytes()) + " bytes in the queue");
    of.out->flushed = true;
  }
  // The node's clock may be fast.
  const duration patience = of.over.options().close_timeout / 10 * 9;
  const closing_mark mark(*of.out, of.on.on().in().elapsed() + patience);
  co_await of.over.close();
}

enum class ending : std::uint8_t { abort, close, flush_and_close };

awaitable<void> finish(session& of, ending how, std::uint64_t seed) {
  while (!of.stopping || of.senders != 0) {
    if (const std::error_code ec = co_await of.changed.wait()) throw std::system_error(ec);
  }
  sim::random_stream random(seed);
  for (std::uint64_t i = of.out->sent == 0 ? 0 : random.below(6); i != 0; --i) {
    const drawn_frame last_words(random, of, false);
    try_send_certain(of, last_words);
  }
  if (how == ending::abort) {
    of.over.abort();
  } else {
    co_await close_politely(of, how == ending::flush_and_close);
  }
  co_await after_the_end(of);
}

void check_end(const session& of, const std::error_code& code, duration since) {
  of.know.wrong.must(of.know.wrong.may_end_by(code) || is_cancelled(code),
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
  know.wrong.must(over.peer().cluster == over.options().cluster, "a peer of another cluster was accepted");
  task_group tasks(on.get_executor());
  of.senders = random.between(1, 4);
  for (std::size_t i = of.senders; i != 0; --i) tasks.spawn(send_frames(of, random()));
  tasks.spawn(receive_frames(of, random()));
  const std::uint64_t end = random.below(10);
  const ending how = end < 2 ? ending::abort : end < 6 ? ending::close : ending::flush_and_close;
  tasks.spawn(finish(of, how, random()));
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
  link_watch watch(on, know.wrong, options, {{"server", 1}});
  options.on_change = std::ref(watch);
  const node_id self = options.channel.node;
  bool closing = false;
  link_type link(on, address("server", port), std::move(options),
                 [&on, &know, self](channel_type& over) { return exchange(on, over, know, self, false); });
  task_group tasks(on.get_executor());
  tasks.spawn(run_link(link, know.wrong, closing));
  tasks.spawn(ask_whether_up(on, link, know));
  sim::random_stream random(on.random());
  if (random.chance(0.3)) {
    co_await pause(on, std::chrono::milliseconds(random.below(10'000)));
    closing = true;
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
      know.wrong.must(know.wrong.may_end_by(error.code()), std::string("a connection ended by: ") + error.what());
    }
    co_await pause(on, 200ms);
  }
}

/// A node of another cluster, with a wrong address.
awaitable<void> come_from_another_cluster(sim::env& on, frames_book& know, channel_options options) {
  options.cluster = "another";
  options.purpose = "frames";
  for (;;) {
    try {
      sim::env::stream stream = co_await on.connect(address("server", port), 1s);
      channel_type over(on, std::move(stream), options);
      (void)co_await over.handshake();
      know.wrong.must(false, "a server of another cluster was accepted");
    } catch (const std::system_error& error) {
      const std::string words = error.what();
      if (error.code() == errc::wrong_cluster) {
        ++know.strangers_refused;
        know.wrong.must(words.find("'another'") != words.npos && words.find("'scenario'") != words.npos,
                        "a refusal does not name the clusters: " + words);
      } else {
        know.wrong.must(know.wrong.may_end_by(error.code()), "a stranger was refused by: " + words);
      }
    }
    co_await pause(on, 500ms);
  }
}

awaitable<void> read_to_the_end(sim::env::stream& from, bool& ended) {
  std::array<std::byte, 64> room;
  std::error_code ec;
  while (!ec) {
    (void)co_await from.async_read_some(asio::mutable_buffer(room.data(), room.size()),
                                        asio::redirect_error(use_awaitable, ec));
  }
  ended = !is_cancelled(ec);
}

/// Something that connects, says at most half a hello, and waits.
awaitable<void> connect_and_be_mute(sim::env& on, frames_book& know) {
  const sim::world& in = on.on().in();
  for (;;) {
    const duration begin = in.elapsed();
    try {
      sim::env::stream stream = co_await on.connect(address("server", port), 1s);
      const bytes_view half = as_bytes("lockst");
      std::error_code ignored;
      (void)stream.write_now({&half, 1}, ignored);
      bool ended = false;
      co_await cancel_after(on, read_to_the_end(stream, ended), 5s);
      know.wrong.must(ended || know.wrong.disturbed(begin, 5s), "a handshake took longer than its timeout");
      if (ended) ++know.mutes_dropped;
    } catch (const std::system_error& error) {
      know.wrong.must(know.wrong.may_end_by(error.code()), std::string("a connect failed by: ") + error.what());
    }
    co_await pause(on, 100ms);
  }
}

void run_frames(sim::simulation& of) {
  sim::random_stream random = of.random("frames");
  frames_book know(of);
  know.max_frame_bytes = std::size_t{64} << random.below(12);
  no_program_may_fail(of, know.wrong);
  const channel_options serving = drawn_channel_options(random, know.max_frame_bytes, 1);
  know.largest_read_buffer = std::max(know.largest_read_buffer, serving.read_buffer_bytes);
  of.add("server", [&know, serving](sim::env& on) { return serve_frames(on, know, serving); });
  const std::uint64_t clients = random.between(1, 4);
  for (node_id node = 2; node < 2 + clients; ++node) {
    link_options connecting = drawn_link_options(random, know.max_frame_bytes, node, "frames");
    know.largest_read_buffer = std::max(know.largest_read_buffer, connecting.channel.read_buffer_bytes);
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
  const bool stranger = random.chance(0.2), mute = random.chance(0.2);
  if (stranger) {
    of.add("stranger", [&know, options = drawn_channel_options(random, know.max_frame_bytes, 99)](sim::env& on) {
      return come_from_another_cluster(on, know, options);
    });
  }
  if (mute) of.add("mute", [&know](sim::env& on) { return connect_and_be_mute(on, know); });
  of.chaos(network_faults(10s));
  of.require(know.wrong.first());
  of.calm();
  const std::map<node_id, client_progress> before = know.clients;
  const std::uint64_t refused = know.strangers_refused, dropped = know.mutes_dropped;
  const auto all_went_on = [&] {
    for (const auto& [client, progress] : know.clients) {
      const client_progress& then = before.at(client);
      if (progress.to_client < then.to_client + 5 || progress.to_server < then.to_server + 5) return false;
    }
    return (!stranger || know.strangers_refused != refused) && (!mute || know.mutes_dropped != dropped);
  };
  const bool live = of.in().run_until([&] { return know.wrong.first() || all_went_on(); }, 20s);
  of.require(know.wrong.first());
  of.require(live, "no frames for 20 s after the faults");
  const std::size_t most = 2 * of.in().nodes().size();
  of.require(of.in().run_until([&] { return of.in().net().open_connections() <= most; }, 10s),
             "connections pile up: " + std::to_string(of.in().net().open_connections()));
}

}  // namespace

sim::scenario framed_messages() {
  return {"frames", "clients and a server send frames over links and channels that break, and come back", &run_frames};
}

}  // namespace lockstep::scenarios
