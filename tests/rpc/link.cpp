#include "lockstep/rpc/link.hpp"

#include "manual_time_env.hpp"
#include "run.hpp"

#include <gtest/gtest.h>
#include <unistd.h>
#include <asio/io_context.hpp>

#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace lockstep {
namespace {

using manual = test::manual_time_env;
using link_type = basic_link<manual>;
using channel_type = basic_channel<manual>;
using test::run;
using test::start;
using namespace std::chrono_literals;

bool contains(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

/// A link on manual time and the listener that it looks for, which the test opens and closes.
struct scene {
  scene() { where = address::unix_socket("/tmp/lockstep-link-" + std::to_string(::getpid())); }
  ~scene() {
    if (runs && !runs->done()) {
      runs->cancel();
      EXPECT_TRUE(test::run_until(io, [this] { return runs->done(); }));
    }
    ::unlink(where.path.c_str());
  }

  link_options options() {
    link_options result;
    result.channel.cluster = "c";
    result.channel.node = 1;
    result.backoff_base = 100ms;
    result.backoff_max = 1s;
    result.on_change = [this](const link_report& report) { states.push_back(report.state); };
    return result;
  }

  void begin(const link_options& with, link_type::session_type session) {
    link_under_test.emplace(env, where, with, std::move(session));
    runs = start(io, link_under_test->run());
  }
  void begin() {
    begin(options(), [this](channel_type& up) { return receive_until_end(*this, up); });
  }

  static awaitable<void> receive_until_end(scene& of, channel_type& up) {
    ++of.sessions;
    for (;;) of.received = (co_await up.receive()).id;
  }

  void listen() {
    std::error_code ec;
    listener.emplace(env.listen(where, ec));
    ASSERT_FALSE(ec) << ec.message();
  }

  static awaitable<void> accept(scene& of, std::string cluster, std::unique_ptr<channel_type>& into) {
    channel_options accepting;
    accepting.cluster = std::move(cluster);
    accepting.node = 2;
    real::stream stream = co_await of.listener->accept();
    into = std::make_unique<channel_type>(of.env, std::move(stream), accepting);
    (void)co_await into->handshake();
  }

  /// The other end of a connection that is up.
  std::unique_ptr<channel_type> accepted() {
    std::unique_ptr<channel_type> other;
    const int before = sessions;
    run(io, accept(*this, "c", other));
    EXPECT_TRUE(test::run_until(io, [&] { return sessions > before; }));
    return other;
  }

  bool is_down_after(unsigned failures) {
    return test::run_until(io, [&] {
      const link_report& report = link_under_test->report();
      return report.state == link_state::waiting && report.failures == failures;
    });
  }

  bool is(link_state state) {
    return test::run_until(io, [&] { return link_under_test->report().state == state; });
  }

  /// Lets the present wait pass.
  void pass_wait() {
    env.advance(link_under_test->report().next_attempt - env.now());
    test::poll(io);
  }

  asio::io_context io{1};
  manual env{io.get_executor(), [] {
               real::env_options seeded;
               seeded.seed = 7;
               return seeded;
             }()};
  address where;
  std::optional<real::acceptor> listener;
  std::optional<link_type> link_under_test;
  std::optional<test::started<void>> runs;
  std::vector<link_state> states;
  int sessions = 0;
  std::uint64_t received = 0;
};

TEST(rpc_link, connects_shakes_hands_and_runs_its_session) {
  scene s;
  s.listen();
  s.begin();
  const auto other = s.accepted();
  EXPECT_EQ(other->peer().node, 1u);
  EXPECT_EQ(s.link_under_test->report().peer.node, 2u);
  EXPECT_TRUE(other->try_send(1, 77, bytes_view()));
  EXPECT_TRUE(test::run_until(s.io, [&] { return s.received == 77; }));
  EXPECT_EQ(s.states, (std::vector<link_state>{link_state::connecting, link_state::up}));
}

TEST(rpc_link, says_why_it_is_down_since_when_and_until_when) {
  scene s;
  s.begin();
  ASSERT_TRUE(s.is_down_after(1));
  const link_report& report = s.link_under_test->report();
  EXPECT_TRUE(report.error);
  EXPECT_TRUE(contains(report.text, "cannot connect to " + s.where.to_string())) << report.text;
  EXPECT_EQ(report.since, s.env.now());
  EXPECT_GE(report.next_attempt, s.env.now() + 50ms);
  EXPECT_LE(report.next_attempt, s.env.now() + 100ms);
  EXPECT_EQ(report.failures, 1u);
}

TEST(rpc_link, waits_longer_after_each_failure_up_to_the_maximum) {
  scene s;
  s.begin();
  duration limit = 100ms;
  for (unsigned failures = 1; failures <= 8; ++failures) {
    const link_report& report = s.link_under_test->report();
    ASSERT_TRUE(s.is_down_after(failures));
    EXPECT_GE(report.next_attempt - s.env.now(), limit / 2);
    EXPECT_LE(report.next_attempt - s.env.now(), limit);
    limit = std::min<duration>(limit * 2, 1s);
    s.pass_wait();
  }
}

TEST(rpc_link, comes_back_when_its_peer_does) {
  scene s;
  s.begin();
  for (unsigned failures = 1; failures <= 3; ++failures) {
    ASSERT_TRUE(s.is_down_after(failures));
    s.pass_wait();
  }
  ASSERT_TRUE(s.is_down_after(4));
  s.listen();
  s.env.advance(1s);
  auto other = s.accepted();
  other->abort();
  ASSERT_TRUE(s.is(link_state::waiting));
  EXPECT_TRUE(contains(s.link_under_test->report().text, "End of file")) << s.link_under_test->report().text;
  s.env.advance(1s);
  other = s.accepted();
  EXPECT_EQ(s.sessions, 2);
}

TEST(rpc_link, a_short_session_does_not_reset_the_wait_and_a_long_one_does) {
  scene s;
  s.listen();
  s.begin();
  auto other = s.accepted();
  for (int i = 0; i < 4; ++i) {
    other->abort();
    ASSERT_TRUE(s.is(link_state::waiting));
    s.env.advance(1s);
    other = s.accepted();
  }
  other->abort();
  ASSERT_TRUE(s.is(link_state::waiting));
  EXPECT_GE(s.link_under_test->report().next_attempt - s.env.now(), 500ms);
  EXPECT_EQ(s.link_under_test->report().failures, 5u);
  s.env.advance(1s);
  other = s.accepted();
  s.env.advance(10s);
  other->abort();
  ASSERT_TRUE(s.is(link_state::waiting));
  EXPECT_LE(s.link_under_test->report().next_attempt - s.env.now(), 100ms);
  EXPECT_EQ(s.link_under_test->report().failures, 1u);
}

TEST(rpc_link, a_refusal_is_reported_in_the_refusers_words) {
  scene s;
  s.listen();
  s.begin();
  std::unique_ptr<channel_type> other;
  EXPECT_EQ(test::error_of([&] { run(s.io, scene::accept(s, "another", other)); }), errc::wrong_cluster);
  ASSERT_TRUE(s.is(link_state::waiting));
  EXPECT_EQ(s.link_under_test->report().error, errc::wrong_cluster);
  EXPECT_TRUE(contains(s.link_under_test->report().text, "belongs to cluster 'another', this node to 'c'"));
}

awaitable<void> throw_at_once(scene& of) {
  ++of.sessions;
  throw std::runtime_error("the disk is full");
  co_return;
}

awaitable<void> return_at_once(scene& of) {
  ++of.sessions;
  co_return;
}

TEST(rpc_link, a_session_that_fails_is_reported_and_begun_anew) {
  scene s;
  s.listen();
  s.begin(s.options(), [&s](channel_type&) { return throw_at_once(s); });
  auto other = s.accepted();
  ASSERT_TRUE(s.is(link_state::waiting));
  EXPECT_EQ(s.link_under_test->report().text, "the disk is full");
  s.env.advance(1s);
  other = s.accepted();
}

TEST(rpc_link, a_session_that_returns_closes_its_connection_and_is_begun_anew) {
  scene s;
  s.listen();
  s.begin(s.options(), [&s](channel_type&) { return return_at_once(s); });
  auto other = s.accepted();
  EXPECT_EQ(test::error_of([&] { run(s.io, other->receive()); }), asio::error::eof);
  other.reset();
  ASSERT_TRUE(s.is(link_state::waiting));
  s.env.advance(1s);
  other = s.accepted();
}

TEST(rpc_link, lets_coroutines_wait_until_it_is_up) {
  scene s;
  s.begin();
  ASSERT_TRUE(s.is_down_after(1));
  auto patient = start(s.io, s.link_under_test->wait_until_up(s.env.now() + 60s));
  auto hasty = start(s.io, s.link_under_test->wait_until_up(s.env.now() + 10ms));
  auto cancelled = start(s.io, s.link_under_test->wait_until_up(s.env.now() + 60s));
  test::poll(s.io);
  s.env.advance(10ms);
  test::poll(s.io);
  ASSERT_TRUE(hasty.done());
  EXPECT_EQ(hasty.result(), errc::timed_out);
  cancelled.cancel();
  test::poll(s.io);
  ASSERT_TRUE(cancelled.done());
  EXPECT_FALSE(patient.done());
  s.listen();
  s.env.advance(1s);
  const auto other = s.accepted();
  ASSERT_TRUE(test::run_until(s.io, [&] { return patient.done(); }));
  EXPECT_FALSE(patient.result());
  EXPECT_FALSE(run(s.io, s.link_under_test->wait_until_up(s.env.now()))) << "up already";
}

TEST(rpc_link, can_be_told_to_try_now) {
  scene s;
  s.begin();
  ASSERT_TRUE(s.is_down_after(1));
  s.listen();
  s.link_under_test->retry_now();
  const auto other = s.accepted();
}

TEST(rpc_link, can_be_sent_elsewhere_without_a_wait) {
  scene s;
  s.begin();
  ASSERT_TRUE(s.is_down_after(1));
  s.where.path += "-elsewhere";
  s.listen();
  s.link_under_test->redirect(s.where);
  auto first = s.accepted();
  s.where.path += "-again";
  s.listen();
  s.link_under_test->redirect(s.where);
  const auto second = s.accepted();
  EXPECT_EQ(s.link_under_test->report().where, s.where);
  EXPECT_EQ(test::error_of([&] { run(s.io, first->receive()); }), asio::error::eof);
}

// The waits went on growing when the link was sent elsewhere while it waited; the count of failures always did.
TEST(rpc_link, sent_elsewhere_the_next_failure_is_the_first) {
  scene s;
  s.begin();
  for (unsigned failures = 1; failures <= 4; ++failures) {
    ASSERT_TRUE(s.is_down_after(failures));
    if (failures < 4) s.pass_wait();
  }
  s.where.path += "-elsewhere";
  s.link_under_test->redirect(s.where);
  ASSERT_TRUE(s.is_down_after(1));
  EXPECT_LE(s.link_under_test->report().next_attempt - s.env.now(), 100ms);
}

TEST(rpc_link, closing_ends_the_session_politely) {
  scene s;
  s.listen();
  s.begin();
  const auto other = s.accepted();
  auto closing = start(s.io, s.link_under_test->close());
  EXPECT_EQ(test::error_of([&] { run(s.io, other->receive()); }), asio::error::eof);
  other->abort();
  ASSERT_TRUE(test::run_until(s.io, [&] { return closing.done() && s.runs->done(); }));
  EXPECT_FALSE(closing.failed());
  EXPECT_FALSE(s.runs->failed());
  EXPECT_EQ(s.link_under_test->report().state, link_state::closed);
  EXPECT_EQ(run(s.io, s.link_under_test->wait_until_up(s.env.now() + 60s)), errc::closed);
}

TEST(rpc_link, can_be_closed_in_every_state_and_often) {
  {
    scene waiting;
    waiting.begin();
    ASSERT_TRUE(waiting.is_down_after(1));
    auto asking = start(waiting.io, waiting.link_under_test->wait_until_up(waiting.env.now() + 60s));
    test::poll(waiting.io);
    run(waiting.io, waiting.link_under_test->close());
    ASSERT_TRUE(test::run_until(waiting.io, [&] { return asking.done() && waiting.runs->done(); }));
    EXPECT_EQ(asking.result(), errc::closed);
    run(waiting.io, waiting.link_under_test->close());
  }
  {
    scene shaking;
    shaking.listen();
    shaking.begin();
    ASSERT_TRUE(shaking.is(link_state::connecting));
    test::poll(shaking.io);
    run(shaking.io, shaking.link_under_test->close());
    ASSERT_TRUE(test::run_until(shaking.io, [&] { return shaking.runs->done(); }));
  }
  {
    scene never_run;
    never_run.link_under_test.emplace(never_run.env, never_run.where, never_run.options(),
                                      [&never_run](channel_type&) { return return_at_once(never_run); });
    run(never_run.io, never_run.link_under_test->close());
    run(never_run.io, never_run.link_under_test->run());
  }
}

awaitable<void> wait_forever(scene& of, wait_list& where) {
  ++of.sessions;
  const std::error_code woken = co_await where.wait();
  if (woken) throw std::system_error(woken);
}

TEST(rpc_link, closing_cancels_a_session_that_does_not_notice) {
  scene s;
  wait_list forever(s.io.get_executor());
  s.listen();
  s.begin(s.options(), [&](channel_type&) { return wait_forever(s, forever); });
  auto other = s.accepted();
  auto closing = start(s.io, s.link_under_test->close());
  test::poll(s.io);
  other->abort();
  ASSERT_TRUE(test::run_until(s.io, [&] { return closing.done() && s.runs->done(); }));
}

TEST(rpc_link, cancelling_run_ends_everything_at_once) {
  scene s;
  s.listen();
  s.begin();
  const auto other = s.accepted();
  s.runs->cancel();
  ASSERT_TRUE(test::run_until(s.io, [&] { return s.runs->done(); }));
  EXPECT_EQ(s.runs->error(), asio::error::operation_aborted);
  EXPECT_EQ(s.link_under_test->report().state, link_state::closed);
}

awaitable<void> own_and_run(real::env& env, address where) {
  basic_link<real::env> owned(env, where, link_options(), [](channel& up) { return up.flush(); });
  co_await owned.run();
}

TEST(rpc_link, the_end_of_the_context_leaves_nothing) {
  auto io = std::make_unique<asio::io_context>(1);
  auto env = std::make_unique<real::env>(io->get_executor());
  asio::co_spawn(*io, own_and_run(*env, address::unix_socket("/tmp/lockstep-nobody")), asio::detached);
  test::poll(*io);
  io.reset();
}

}  // namespace
}  // namespace lockstep
