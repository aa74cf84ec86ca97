#include "lockstep/rpc/server.hpp"

#include "manual_time_env.hpp"
#include "run.hpp"

#include <gtest/gtest.h>
#include <asio/io_context.hpp>

#include <deque>
#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace lockstep {
namespace {

using test::run;
using test::start;
using namespace std::chrono_literals;

bool contains(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

/// The real network on manual time, with accepts that fail as the test says.
class failing_env : public test::manual_time_env {
 public:
  class acceptor {
   public:
    acceptor(failing_env& in, real::acceptor over) : env_(&in), over_(std::move(over)) {}
    awaitable<real::stream> accept() {
      ++env_->accepts;
      if (!env_->accept_errors.empty()) {
        const std::error_code failed = env_->accept_errors.front();
        env_->accept_errors.pop_front();
        throw std::system_error(failed);
      }
      real::stream next = co_await over_.accept();
      co_return next;
    }
    [[nodiscard]] address local_address() const { return over_.local_address(); }
    void close() { over_.close(); }

   private:
    failing_env* env_;
    real::acceptor over_;
  };

  using test::manual_time_env::manual_time_env;
  acceptor listen(const address& where, std::error_code& ec) {
    return acceptor(*this, test::manual_time_env::listen(where, ec));
  }

  std::deque<std::error_code> accept_errors;
  int accepts = 0;
};
static_assert(environment<failing_env>);

using server_type = basic_server<failing_env>;
using channel_type = basic_channel<failing_env>;
using peer_type = basic_rpc_peer<failing_env>;

awaitable<void> echo_frames(channel_type& up) {
  for (;;) {
    for (const frame_view& frame : co_await up.receive_batch()) co_await up.send(frame.kind, frame.id, frame.payload);
  }
}

awaitable<void> echo(const rpc_request& in, rpc_reply& out) {
  out.body().append(in.arguments);
  co_return;
}

struct scene {
  explicit scene(server_options with = server_options()) : under_test(env, listen(), watched(with)) {
    service.on(1, echo);
    service.on(2, [this](const rpc_request& in, rpc_reply& out) { return hold(*this, in, out); });
    under_test.on("echo", [](channel_type& up) { return echo_frames(up); });
    under_test.on("broken", [](channel_type&) { return fail_at_once(); });
    under_test.on("deaf", [this](channel_type&) { return wait_deaf(*this); });
    under_test.on("rpc", service);
    runs = start(io, under_test.run());
  }
  ~scene() {
    if (!runs->done()) runs->cancel();
    EXPECT_TRUE(test::run_until(io, [this] { return runs->done(); }));
  }

  failing_env::acceptor listen() {
    std::error_code ec;
    auto result = env.listen(address("127.0.0.1", 0), ec);
    EXPECT_FALSE(ec) << ec.message();
    return result;
  }

  server_options watched(server_options with) {
    with.channel.cluster = "c";
    with.channel.node = 1;
    with.on_event = [this](const server_event& event) {
      events.push_back(event.kind);
      errors.push_back(event.error);
      texts.push_back(event.text);
    };
    return with;
  }

  static awaitable<void> fail_at_once() {
    throw std::runtime_error("the disk is full");
    co_return;
  }
  static awaitable<void> hold(scene& of, const rpc_request& in, rpc_reply& out) {
    ++of.begun;
    if (const auto ec = co_await of.held.wait()) throw std::system_error(ec);
    out.body().append(in.arguments);
  }
  static awaitable<void> wait_deaf(scene& of) {
    if (const auto ec = co_await of.held.wait()) {
      ++of.cancelled;
      throw std::system_error(ec);
    }
  }

  static awaitable<void> connect(scene& of, std::string purpose, std::unique_ptr<channel_type>& into) {
    channel_options asking;
    asking.cluster = "c";
    asking.purpose = std::move(purpose);
    real::stream stream = co_await of.env.connect(of.under_test.local_address(), test::patience);
    into = std::make_unique<channel_type>(of.env, std::move(stream), asking);
    (void)co_await into->handshake();
  }
  std::unique_ptr<channel_type> client(const std::string& purpose) {
    std::unique_ptr<channel_type> result;
    run(io, connect(*this, purpose, result));
    return result;
  }
  std::error_code refused(const std::string& purpose, std::string& text) {
    std::unique_ptr<channel_type> result;
    try {
      run(io, connect(*this, purpose, result));
    } catch (const std::system_error& error) {
      text = error.what();
      return error.code();
    }
    return {};
  }

  asio::io_context io{1};
  failing_env env{io.get_executor()};
  rpc_service service;
  wait_list held{io.get_executor()};
  int begun = 0;
  int cancelled = 0;
  std::vector<server_event_kind> events;
  std::vector<std::error_code> errors;
  std::vector<std::string> texts;
  server_type under_test;
  std::optional<test::started<void>> runs;
};

using kinds = std::vector<server_event_kind>;
constexpr auto opened = server_event_kind::opened;
constexpr auto ended = server_event_kind::ended;
constexpr auto was_refused = server_event_kind::refused;
constexpr auto accept_failed = server_event_kind::accept_failed;

TEST(rpc_server, serves_each_purpose_with_its_session) {
  scene s;
  const auto frames = s.client("echo");
  run(s.io, frames->send(5, 6, as_bytes("frame")));
  EXPECT_EQ(as_text(run(s.io, frames->receive()).payload), "frame");

  const rpc_service none;
  peer_type peer(s.client("rpc")->share(), none);
  EXPECT_EQ(test::error_of([&] { run(s.io, peer.run()); }), std::error_code()) << "the channel it shared is gone";
  EXPECT_FALSE(peer.is_open());

  const auto over = s.client("rpc");
  peer_type caller(over->share(), none);
  auto calling = start(s.io, caller.run());
  byte_buffer result;
  EXPECT_TRUE(run(s.io, caller.call(1, as_bytes("call"), result, 0s)).ok());
  EXPECT_EQ(as_text(result.view()), "call");
  EXPECT_TRUE(test::run_until(s.io, [&] { return s.under_test.connections() == 2; }));
  caller.abort();
  EXPECT_TRUE(test::run_until(s.io, [&] { return calling.done() && s.under_test.connections() == 1; }));
}

TEST(rpc_server, an_unknown_purpose_hears_what_is_served) {
  scene s;
  std::string text;
  EXPECT_EQ(s.refused("gossip", text), errc::unknown_method);
  EXPECT_TRUE(contains(text, "this node serves 'broken', 'deaf', 'echo', 'rpc', not 'gossip'")) << text;
  EXPECT_TRUE(test::run_until(s.io, [&] { return s.events == kinds{was_refused}; }));
}

TEST(rpc_server, tells_of_connections_and_why_they_ended) {
  scene s;
  auto good = s.client("echo");
  ASSERT_TRUE(test::run_until(s.io, [&] { return s.events == kinds{opened}; }));
  good.reset();
  ASSERT_TRUE(test::run_until(s.io, [&] { return s.events == kinds({opened, ended}); }));
  EXPECT_FALSE(s.errors.back()) << "the peer's end is no error";
  const auto bad = s.client("broken");
  ASSERT_TRUE(test::run_until(s.io, [&] { return s.events.size() == 4; }));
  EXPECT_EQ(s.texts.back(), "the disk is full");
  EXPECT_FALSE(s.runs->done()) << "the others go on";
}

TEST(rpc_server, connections_beyond_the_limit_hear_why) {
  server_options options;
  options.max_connections = 2;
  scene s(options);
  auto first = s.client("echo");
  auto second = s.client("echo");
  std::string text;
  EXPECT_EQ(s.refused("echo", text), errc::overloaded);
  EXPECT_TRUE(contains(text, "has 2 connections and takes no more")) << text;
  first.reset();
  ASSERT_TRUE(test::run_until(s.io, [&] { return s.under_test.connections() == 1; }));
  const auto third = s.client("echo");
}

TEST(rpc_server, the_programs_own_admission_is_asked_too) {
  server_options options;
  options.channel.admit = [](const peer_info& peer) -> std::optional<refusal> {
    return refusal(errc::wrong_node, "node " + std::to_string(peer.node) + " is no member");
  };
  scene s(options);
  std::string text;
  EXPECT_EQ(s.refused("echo", text), errc::wrong_node);
  EXPECT_TRUE(contains(text, "node 0 is no member")) << text;
}

TEST(rpc_server, survives_accepts_that_fail) {
  scene s;
  ASSERT_TRUE(test::run_until(s.io, [&] { return s.env.accepts == 1; }));
  s.env.accept_errors = {asio::error::no_descriptors, asio::error::connection_aborted};
  const auto first = s.client("echo");  // the accept that was waiting
  ASSERT_TRUE(test::run_until(s.io, [&] { return s.env.accept_errors.size() == 1; }));
  const int accepts = s.env.accepts;
  test::poll(s.io);
  EXPECT_EQ(s.env.accepts, accepts) << "no descriptors: it pauses";
  s.env.advance(server_options().accept_pause);
  test::poll(s.io);
  EXPECT_EQ(s.env.accepts, accepts + 2) << "a peer that left: it does not";
  const auto second = s.client("echo");
  EXPECT_EQ(std::count(s.events.begin(), s.events.end(), accept_failed), 2);
}

TEST(rpc_server, stops_accepting_when_too_many_only_shake_hands) {
  server_options options;
  options.max_connections = 1;
  scene s(options);
  std::vector<real::stream> silent;
  for (int i = 0; i < 40; ++i) silent.push_back(run(s.io, s.env.connect(s.under_test.local_address(), test::patience)));
  test::poll(s.io);
  EXPECT_EQ(s.env.accepts, 17) << "one and the spare ones";
  s.env.advance(options.channel.handshake_timeout);
  ASSERT_TRUE(test::run_until(s.io, [&] { return s.env.accepts > 17; }));
  silent.clear();
}

TEST(rpc_server, closing_lets_handlers_finish_and_ends_frame_sessions) {
  scene s;
  const auto frames = s.client("echo");
  const rpc_service none;
  peer_type caller(s.client("rpc")->share(), none);
  const auto over = s.client("rpc");
  peer_type living(over->share(), none);
  auto living_runs = start(s.io, living.run());
  byte_buffer result;
  auto calling = start(s.io, living.call(2, as_bytes("held"), result, 0s));
  ASSERT_TRUE(test::run_until(s.io, [&] { return s.begun == 1; }));
  auto closing = start(s.io, s.under_test.close());
  EXPECT_EQ(test::error_of([&] { run(s.io, frames->receive()); }), asio::error::eof);
  frames->abort();
  test::poll(s.io);
  EXPECT_FALSE(closing.done());
  s.held.notify_all();
  ASSERT_TRUE(test::run_until(s.io, [&] { return closing.done() && calling.done() && living_runs.done(); }));
  EXPECT_TRUE(calling.result().ok());
  EXPECT_EQ(as_text(result.view()), "held");
  EXPECT_TRUE(s.runs->done());
  EXPECT_FALSE(s.runs->failed());
  EXPECT_EQ(s.under_test.connections(), 0u);
}

TEST(rpc_server, closing_refuses_whoever_is_still_shaking_hands) {
  scene s;
  const real::stream silent = run(s.io, s.env.connect(s.under_test.local_address(), test::patience));
  test::poll(s.io);
  run(s.io, s.under_test.close());
  EXPECT_TRUE(s.runs->done());
}

TEST(rpc_server, closing_cancels_sessions_that_do_not_notice) {
  scene s;
  const auto deaf = s.client("deaf");
  ASSERT_TRUE(test::run_until(s.io, [&] { return s.under_test.connections() == 1; }));
  auto closing = start(s.io, s.under_test.close());
  test::poll(s.io);
  deaf->abort();
  test::poll(s.io);
  EXPECT_FALSE(closing.done());
  s.env.advance(channel_options().close_timeout);
  test::poll(s.io);
  s.env.advance(server_options().drain_timeout);
  ASSERT_TRUE(test::run_until(s.io, [&] { return closing.done(); }));
  EXPECT_EQ(s.cancelled, 1);
}

TEST(rpc_server, close_when_cancelled_does_not_wait) {
  scene s;
  const auto deaf = s.client("deaf");
  ASSERT_TRUE(test::run_until(s.io, [&] { return s.under_test.connections() == 1; }));
  auto closing = start(s.io, s.under_test.close());
  test::poll(s.io);
  closing.cancel();
  ASSERT_TRUE(test::run_until(s.io, [&] { return closing.done() && s.runs->done(); }));
  EXPECT_FALSE(closing.failed());
}

TEST(rpc_server, can_be_closed_often_and_before_it_runs) {
  scene s;
  auto first = start(s.io, s.under_test.close());
  auto second = start(s.io, s.under_test.close());
  ASSERT_TRUE(test::run_until(s.io, [&] { return first.done() && second.done(); }));
  run(s.io, s.under_test.close());

  server_type never_run(s.env, s.listen(), server_options());
  run(s.io, never_run.close());
  run(s.io, never_run.run());
}

TEST(rpc_server, cancelling_run_ends_everything_at_once) {
  scene s;
  const auto frames = s.client("echo");
  ASSERT_TRUE(test::run_until(s.io, [&] { return s.under_test.connections() == 1; }));
  s.runs->cancel();
  ASSERT_TRUE(test::run_until(s.io, [&] { return s.runs->done(); }));
  EXPECT_EQ(s.runs->error(), asio::error::operation_aborted);
  EXPECT_EQ(test::error_of([&] { run(s.io, frames->receive()); }), asio::error::eof);
}

awaitable<void> own_and_run(real::env& env, const rpc_service& service) {
  std::error_code ec;
  basic_server<real::env> owned(env, env.listen(address("127.0.0.1", 0), ec), server_options());
  owned.on("rpc", service);
  co_await owned.run();
}

TEST(rpc_server, the_end_of_the_context_leaves_nothing) {
  const rpc_service service;
  auto io = std::make_unique<asio::io_context>(1);
  auto env = std::make_unique<real::env>(io->get_executor());
  asio::co_spawn(*io, own_and_run(*env, service), asio::detached);
  test::poll(*io);
  io.reset();
}

}  // namespace
}  // namespace lockstep
