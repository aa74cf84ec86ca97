// Calls over connections that break: what a peer, a link and a server promise of them.
#include "connections.hpp"

#include "lockstep/core/endian.hpp"

#include <functional>
#include <map>
#include <set>

namespace lockstep::scenarios {
namespace {

using peer_type = basic_rpc_peer<sim::env>;

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
      const auto after = std::chrono::microseconds(random.below(5000));
      co_await cancel_after(of.on, ask_once(of, drawn, random()), after);
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

/// What a seed's nodes have in common.
struct calls_setup {
  bool both_ways = false;             ///< servers call their clients, too
  bool two_servers = false;           ///< clients go from one to the other
  std::size_t max_connections = 100;  ///< of a server

  [[nodiscard]] bool limited() const noexcept { return max_connections != 100; }
};

// Their ids, and what they are as callers of a client's methods.
constexpr node_id first_server = 1, second_server = 9;
constexpr std::uint64_t called_by_server(node_id client) { return 1000 + client; }

// A connection that lasts a while, with calls from many coroutines.
awaitable<void> make_calls(sim::env& on, channel_type& over, calls_book& know, std::uint64_t caller,
                           const rpc_service& service, rpc_options options, calls_setup setup) {
  sim::random_stream random(on.random());
  peer_type peer(over.share(), service, options);
  call_site of(on, peer, know, caller, over.options().max_frame_bytes);
  task_group callers(on.get_executor());
  task_group closing(on.get_executor());
  for (std::uint64_t i = random.between(1, setup.both_ways ? 4 : 8); i != 0; --i) callers.spawn(ask(of, random()));
  const auto lasts = std::chrono::milliseconds(random.below(8000));
  closing.spawn(close_after(of, lasts, random.chance(0.7)));
  const bool throws = co_await this_coro::throw_if_cancelled();
  co_await this_coro::throw_if_cancelled(false);
  std::exception_ptr failure;
  try {
    co_await peer.run();
  } catch (const std::system_error& error) {
    failure = std::current_exception();
    know.wrong.must(know.wrong.may_end_by(error.code()) || is_cancelled(error.code()),
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

void add_methods(rpc_service& to, sim::env& on, calls_book& know) {
  to.on(method::echo, echo);
  to.on(method::slow, [&on](const rpc_request& in, rpc_reply& out) { return echo_slowly(on, in, out); });
  to.on(method::failing, [&on](const rpc_request& in, rpc_reply& out) { return fail_as_asked(on, in, out); });
  to.on(method::count, [&](const rpc_request& in, rpc_reply& out) { return count_once(on, know, in, out); });
  to.on_stream(method::items, [&on](const rpc_request& in, rpc_item_writer& out) { return stream_items(on, in, out); });
}

awaitable<void> serve_calls(sim::env& on, calls_book& know, channel_options options, rpc_options with,
                            calls_setup setup) {
  rpc_service service;
  add_methods(service, on, know);
  std::error_code ec;
  sim::env::acceptor acceptor = on.listen(address("0.0.0.0", port), ec);
  if (ec) throw std::logic_error("cannot listen: " + ec.message());
  server_options serving;
  serving.channel = std::move(options);
  serving.max_connections = setup.max_connections;
  server_type server(on, std::move(acceptor), serving);
  if (setup.both_ways) {
    server.on("calls", [&on, &know, &service, with, setup](channel_type& over) {
      return make_calls(on, over, know, called_by_server(over.peer().node), service, with, setup);
    });
  } else {
    server.on("calls", service, with);
  }
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

awaitable<void> go_from_server_to_server(sim::env& on, link_type& link, link_watch& watch, std::uint64_t seed) {
  sim::random_stream random(seed);
  for (;;) {
    co_await pause(on, std::chrono::milliseconds(random.below(4000)));
    watch.redirect(link, address(random.chance(0.5) ? "server" : "server2", port));
  }
}

// For ever; where there is not room for all, until it leaves its place to the others.
awaitable<void> call_for_a_while(sim::env& on, calls_book& know, link_options options, rpc_options with,
                                 calls_setup setup) {
  rpc_service service;
  add_methods(service, on, know);
  sim::random_stream random(on.random());
  const node_id self = options.channel.node;
  link_watch watch(on, know.wrong, options, {{"server", first_server}, {"server2", second_server}});
  options.on_change = std::ref(watch);
  link_type link(on, address("server", port), std::move(options), [&, self, with, setup](channel_type& over) {
    return make_calls(on, over, know, self, service, with, setup);
  });
  bool closing = false;
  task_group tasks(on.get_executor());
  tasks.spawn(run_link(link, know.wrong, closing));
  if (setup.two_servers) tasks.spawn(go_from_server_to_server(on, link, watch, random()));
  if (setup.limited()) {
    (void)co_await link.wait_until_up(on.now() + 10s);
    co_await pause(on, std::chrono::milliseconds(random.below(3000)));
    closing = true;
    co_await link.close();
    tasks.cancel();
  }
  co_await tasks.join();
}

awaitable<void> keep_calling(sim::env& on, calls_book& know, link_options options, rpc_options with,
                             calls_setup setup) {
  for (;;) {
    co_await call_for_a_while(on, know, options, with, setup);
    co_await pause(on, 2500ms);  // whoever waits tries in that time
  }
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
  no_program_may_fail(of, know.wrong);
  const std::size_t max_frame_bytes = std::size_t{256} << random.below(10);
  const std::uint64_t clients = random.between(1, 3);
  calls_setup setup;
  setup.both_ways = random.chance(0.4);
  setup.two_servers = random.chance(0.25);
  if (random.chance(0.2)) setup.max_connections = random.between(1, clients);
  const auto add_server = [&](const std::string& name, node_id node) {
    const channel_options serving = drawn_channel_options(random, max_frame_bytes, node);
    const rpc_options with = drawn_rpc_options(random);
    of.add(name, [&know, serving, with, setup](sim::env& on) { return serve_calls(on, know, serving, with, setup); });
  };
  add_server("server", first_server);
  for (node_id node = 2; node < 2 + clients; ++node) {
    const link_options connecting = drawn_link_options(random, max_frame_bytes, node, "calls");
    const rpc_options with = drawn_rpc_options(random);
    know.answered[node] = 0;
    if (setup.both_ways) know.answered[called_by_server(node)] = 0;
    of.add("client" + std::to_string(node - 1),
           [&know, connecting, with, setup](sim::env& on) { return keep_calling(on, know, connecting, with, setup); });
  }
  if (setup.two_servers) add_server("server2", second_server);
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
  const duration patience = setup.limited() ? 90s : 20s;
  const bool live = of.in().run_until([&] { return know.wrong.first() || all_answered(); }, patience);
  of.require(know.wrong.first());
  of.require(live, "a caller got no answers for " + std::to_string(patience / 1s) + " s after the faults");
  know.check_applied();
  of.require(know.wrong.first());
}

}  // namespace

sim::scenario remote_calls() {
  return {"rpc", "clients call a server while connections break, and know what became of each call", &run_calls};
}

}  // namespace lockstep::scenarios
