// The same over real sockets, with real files and with faulty ones.

#include "lockstep/catchup/source.hpp"

#include "faulty_env.hpp"
#include "run.hpp"
#include "temporary_directory.hpp"

#include "lockstep/catchup/follower.hpp"

#include <gtest/gtest.h>
#include <asio/io_context.hpp>

#include <chrono>
#include <memory>
#include <string>
#include <thread>
#include <utility>

namespace lockstep::test {
namespace {

using namespace std::chrono_literals;

channel_options options_of(node_id id) {
  channel_options options;
  options.cluster = "test";
  options.node = id;
  return options;
}

template <class Env>
awaitable<std::unique_ptr<basic_append_log<Env>>> open_log(Env& env, std::string directory) {
  log_options options;
  options.segment_bytes = 64 << 10;
  options.hot_tail_bytes = 32 << 10;
  options.chunk_bytes = 8 << 10;
  auto opened = co_await basic_append_log<Env>::open(env, std::move(directory), options);
  co_return std::move(opened.log);
}

// Serves `count` connections, one after the other.
template <class Env>
awaitable<void> serve_connections(Env& env, typename Env::acceptor& on, basic_source<Env>& source, int count) {
  for (int i = 0; i < count; ++i) {
    typename Env::stream accepted = co_await on.accept();
    basic_channel<Env> with(env, std::move(accepted), options_of(1));
    try {
      co_await with.handshake();
      co_await source.serve(with);
    } catch (const std::system_error&) {  // of a connection that was cut
    }
  }
}

// Follows until the log ends at `upto`.
template <class Env>
awaitable<void> follow_until(Env& env, address where, basic_follower<Env>& follower, basic_append_log<Env>& log,
                             index_t upto) {
  typename Env::stream stream = co_await env.connect(where, 10s);
  basic_channel<Env> with(env, std::move(stream), options_of(2));
  co_await with.handshake();
  task_group running(env.get_executor());
  running.spawn(follower.run(with));
  while (log.acked().index < upto) {
    const std::error_code ec = co_await log.readable(log.acked().index + 1, visibility::durable);
    if (ec) throw std::system_error(ec);
  }
  running.cancel();
  co_await running.join();
}

template <class Env>
void fill(basic_append_log<Env>& log, index_t upto, std::size_t size) {
  while (log.last().index < upto) log.append(1, as_bytes(std::string(size, static_cast<char>(log.last().index))));
}

struct no_events : follower_events {};

template <class Env>
void ship_over_sockets(asio::io_context& io, Env& source_env, const std::string& source_directory, Env& follower_env,
                       const std::string& follower_directory, const address& where, follower_options options) {
  auto source_log = run(io, open_log(source_env, source_directory));
  auto follower_log = run(io, open_log(follower_env, follower_directory));
  std::error_code ec;
  auto acceptor = source_env.listen(where, ec);
  ASSERT_FALSE(ec) << ec.message();
  basic_source<Env> source(source_env, *source_log);
  no_events events;
  basic_follower<Env> follower(follower_env, *follower_log, events, options);
  constexpr int lives = 4;
  auto serving = start(io, serve_connections(source_env, acceptor, source, lives));
  for (int life = 1; life <= lives; ++life) {
    fill(*source_log, static_cast<index_t>(life) * 500, 500);
    run(io, source_log->durable(source_log->last().index));
    run(io, follow_until(follower_env, acceptor.local_address(), follower, *follower_log, source_log->last().index));
    EXPECT_EQ(follower_log->last(), source_log->last());
  }
  run_until(io, [&] { return serving.done(); });
  run(io, source_log->close());
  run(io, follower_log->close());
}

class catchup_over_sockets : public testing::TestWithParam<bool> {
 protected:
  temporary_directory directory;
  asio::io_context io;

  static follower_options options() {
    follower_options result;
    if (GetParam()) {
      result.mode = catchup::mode::pull;
      result.long_poll = 1s;
    }
    return result;
  }
};

TEST_P(catchup_over_sockets, of_tcp_with_files_of_the_system_the_logs_become_equal) {
  real::env env(io.get_executor());
  ship_over_sockets(io, env, directory.file("source"), env, directory.file("follower"), address("127.0.0.1", 0),
                    options());
}

TEST_P(catchup_over_sockets, of_the_unix_domain_with_files_of_the_system_the_logs_become_equal) {
  real::env env(io.get_executor());
  ship_over_sockets(io, env, directory.file("source"), env, directory.file("follower"),
                    address::unix_socket(directory.file("socket")), options());
}

TEST_P(catchup_over_sockets, of_tcp_with_files_in_memory_the_logs_become_equal) {
  faulty_disk here;
  faulty_disk there;
  faulty_env source_env(io.get_executor(), here);
  faulty_env follower_env(io.get_executor(), there);
  ship_over_sockets(io, source_env, "/log", follower_env, "/log", address("127.0.0.1", 0), options());
}

TEST_P(catchup_over_sockets, with_a_thread_for_each_side_the_logs_become_equal) {
  constexpr index_t count = 3000;
  real::env source_env(io.get_executor());
  auto source_log = run(io, open_log(source_env, directory.file("source")));
  std::error_code ec;
  auto acceptor = source_env.listen(address("127.0.0.1", 0), ec);
  ASSERT_FALSE(ec);
  fill(*source_log, count, 300);
  run(io, source_log->durable(count));
  basic_source<real::env> source(source_env, *source_log);

  position reached;
  std::exception_ptr failure;
  std::thread other([&, where = acceptor.local_address()] {
    try {
      asio::io_context its_io;
      real::env env(its_io.get_executor());
      auto log = run(its_io, open_log(env, directory.file("follower")));
      no_events events;
      basic_follower<real::env> follower(env, *log, events, options());
      run(its_io, follow_until(env, where, follower, *log, count));
      reached = log->last();
      run(its_io, log->close());
    } catch (...) {
      failure = std::current_exception();
    }
  });
  EXPECT_NO_THROW(run(io, serve_connections(source_env, acceptor, source, 1)));
  other.join();
  if (failure) std::rethrow_exception(failure);
  EXPECT_EQ(reached, source_log->last());
  run(io, source_log->close());
}

INSTANTIATE_TEST_SUITE_P(by, catchup_over_sockets, testing::Values(false, true),
                         [](const auto& each) { return each.param ? "pull" : "push"; });

}  // namespace
}  // namespace lockstep::test
