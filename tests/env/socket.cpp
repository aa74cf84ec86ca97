#include "lockstep/env/socket.hpp"

#include "lockstep/env/real.hpp"

#include "support/run.hpp"
#include "support/temporary_directory.hpp"

#include <gtest/gtest.h>
#include <asio/io_context.hpp>
#include <asio/read.hpp>
#include <asio/write.hpp>

#include <dlfcn.h>
#include <netdb.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <optional>
#include <string>
#include <vector>

namespace {

// A name whose resolution hangs while a name_server_silence lives.
constexpr const char* silent_name = "silent.invalid";

class name_server_silence {
 public:
  name_server_silence() { silent() = true; }
  name_server_silence(const name_server_silence&) = delete;
  name_server_silence& operator=(const name_server_silence&) = delete;
  ~name_server_silence() {
    silent() = false;
    silent().notify_all();
  }
  static std::atomic<bool>& silent() {
    static std::atomic<bool> instance = false;
    return instance;
  }
};

}  // namespace

// The test program's own, found before the C library's.
extern "C" int getaddrinfo(const char* name, const char* service, const addrinfo* hints, addrinfo** found) {
  if (name && std::string_view(name) == silent_name) {
    name_server_silence::silent().wait(true);
    return EAI_AGAIN;
  }
  using resolve = int (*)(const char*, const char*, const addrinfo*, addrinfo**);
  return reinterpret_cast<resolve>(::dlsym(RTLD_NEXT, "getaddrinfo"))(name, service, hints, found);
}

namespace lockstep::real {
namespace {

using namespace std::chrono_literals;
using test::run;
using test::start;
using test::started;

constexpr duration patience = 20s;

// Asio 1.22's system category is not the standard's, and its codes do not equal std::errc's.
std::error_code system_error(int number) { return {number, asio::error::get_system_category()}; }

awaitable<std::string> read_all(stream& from) {
  std::string text;
  std::error_code ec;
  co_await asio::async_read(from, asio::dynamic_buffer(text), asio::redirect_error(use_awaitable, ec));
  if (ec != asio::error::eof) throw std::system_error(ec);
  co_return text;
}

awaitable<std::string> read_exactly(stream& from, std::size_t count) {
  std::string text(count, '\0');
  co_await asio::async_read(from, asio::buffer(text), use_awaitable);
  co_return text;
}

awaitable<void> write_all(stream& to, std::string text) {
  co_await asio::async_write(to, asio::buffer(text), use_awaitable);
}

std::size_t write_text(stream& to, std::string_view text, std::error_code& ec) {
  const std::array<bytes_view, 1> gather = {as_bytes(text)};
  return to.write_now(gather, ec);
}

struct socket_test : testing::Test {
  test::temporary_directory directory;
  asio::io_context io;
  env world{io.get_executor()};

  acceptor listen(const address& where) {
    std::error_code ec;
    acceptor result = world.listen(where, ec);
    if (ec) throw std::system_error(ec, "listen on " + where.to_string());
    return result;
  }
  std::error_code listen_error(const address& where) {
    std::error_code ec;
    (void)world.listen(where, ec);
    return ec;
  }
  stream connect(const address& where) { return run(io, world.connect(where, patience)); }

  struct pair {
    stream client, server;
  };
  pair connected(const address& where) {
    acceptor listening = listen(where);
    auto accepted = start(io, listening.accept());
    stream client = connect(listening.local_address());
    test::run_until(io, [&] { return accepted.done(); });
    return {std::move(client), accepted.result()};
  }
  address unix_address() { return address::unix_socket(directory.file("socket")); }
};

// --- both kinds of socket ---

enum class kind { tcp, tcp6, unix_domain };

struct stream_test : socket_test, testing::WithParamInterface<kind> {
  address here() {
    switch (GetParam()) {
      case kind::tcp: return address("127.0.0.1", 0);
      case kind::tcp6: return address("::1", 0);
      case kind::unix_domain: return unix_address();
    }
    return {};
  }
  pair connected() { return socket_test::connected(here()); }
  void SetUp() override {
    if (GetParam() == kind::tcp6 && listen_error(here())) GTEST_SKIP() << "this machine has no IPv6";
  }
};

INSTANTIATE_TEST_SUITE_P(kinds, stream_test, testing::Values(kind::tcp, kind::tcp6, kind::unix_domain),
                         [](const auto& each) {
                           switch (each.param) {
                             case kind::tcp: return "tcp";
                             case kind::tcp6: return "tcp6";
                             case kind::unix_domain: return "unix_domain";
                           }
                           return "";
                         });

TEST_P(stream_test, carries_bytes_in_both_directions) {
  auto [client, server] = connected();
  run(io, write_all(client, "question"));
  EXPECT_EQ(run(io, read_exactly(server, 8)), "question");
  run(io, write_all(server, "answer"));
  EXPECT_EQ(run(io, read_exactly(client, 6)), "answer");
}

TEST_P(stream_test, write_now_sends_all_buffers_in_order) {
  auto [client, server] = connected();
  const std::array<bytes_view, 4> gather = {as_bytes("one "), bytes_view(), as_bytes("two "), as_bytes("three")};
  std::error_code ec = make_error_code(errc::closed);
  EXPECT_EQ(client.write_now(gather, ec), 13u);
  EXPECT_FALSE(ec);
  EXPECT_EQ(run(io, read_exactly(server, 13)), "one two three");
}

TEST_P(stream_test, write_now_takes_a_part_of_many_buffers) {
  auto [client, server] = connected();
  std::string expected;
  std::vector<std::string> texts;
  for (int i = 0; i < 200; ++i) expected += texts.emplace_back(std::to_string(i) + ",");
  std::vector<bytes_view> left;
  for (const std::string& each : texts) left.push_back(as_bytes(each));
  while (!left.empty()) {
    std::error_code ec;
    std::size_t sent = client.write_now(left, ec);
    ASSERT_FALSE(ec);
    ASSERT_GT(sent, 0u);
    while (sent > 0 && sent >= left.front().size()) {
      sent -= left.front().size();
      left.erase(left.begin());
    }
    if (sent > 0) left.front() = left.front().subspan(sent);
  }
  EXPECT_EQ(run(io, read_exactly(server, expected.size())), expected);
}

TEST_P(stream_test, write_now_finds_the_bytes_behind_many_empty_buffers) {
  auto [client, server] = connected();
  std::vector<bytes_view> gather(500);
  gather.push_back(as_bytes("x"));
  std::error_code ec;
  EXPECT_EQ(client.write_now(gather, ec), 1u);
  EXPECT_FALSE(ec);
  EXPECT_EQ(run(io, read_exactly(server, 1)), "x");
}

TEST_P(stream_test, write_now_of_nothing_sends_nothing) {
  auto [client, server] = connected();
  std::error_code ec = make_error_code(errc::closed);
  EXPECT_EQ(client.write_now({}, ec), 0u);
  EXPECT_FALSE(ec);
}

TEST_P(stream_test, write_now_says_would_block_when_the_peer_does_not_read) {
  auto [client, server] = connected();
  const std::string much(1 << 20, 'x');
  std::error_code ec;
  std::size_t total = 0;
  while (!ec) total += write_text(client, much, ec);
  EXPECT_EQ(ec, asio::error::would_block);
  EXPECT_GT(total, 0u);
  client.close();
  EXPECT_EQ(run(io, read_all(server)).size(), total);
}

TEST_P(stream_test, a_full_stream_can_be_written_again_when_the_peer_has_read) {
  auto [client, server] = connected();
  const std::string much(1 << 20, 'x');
  std::error_code ec;
  std::size_t total = 0;
  while (!ec) total += write_text(client, much, ec);
  auto writing = start(io, write_all(client, "the last"));
  const std::string received = run(io, read_exactly(server, total + 8));
  EXPECT_EQ(received.substr(total), "the last");
  test::run_until(io, [&, &w = writing] { return w.done(); });
  writing.result();
}

TEST_P(stream_test, a_peer_that_is_gone_is_an_error_code_and_no_signal) {
  struct sigaction before {};
  struct sigaction fatal {};
  fatal.sa_handler = SIG_DFL;
  ::sigaction(SIGPIPE, &fatal, &before);
  auto [client, server] = connected();
  server.close();
  std::error_code ec;
  // The first write may still be taken; the answer to it is that nobody is there.
  for (int i = 0; i < 1000 && !ec; ++i) {
    write_text(client, "anybody there?", ec);
    test::poll(io);
  }
  EXPECT_TRUE(ec == asio::error::broken_pipe || ec == asio::error::connection_reset) << ec.message();
  EXPECT_TRUE(test::error_of([&, &c = client] { run(io, write_all(c, "anybody?")); }));
  ::sigaction(SIGPIPE, &before, nullptr);
}

TEST_P(stream_test, shutdown_send_ends_one_direction_only) {
  auto [client, server] = connected();
  run(io, write_all(client, "the end"));
  std::error_code ec;
  client.shutdown_send(ec);
  EXPECT_FALSE(ec);
  EXPECT_EQ(run(io, read_all(server)), "the end");
  run(io, write_all(server, "understood"));
  EXPECT_EQ(run(io, read_exactly(client, 10)), "understood");
  write_text(client, "more", ec);
  EXPECT_EQ(ec, asio::error::broken_pipe);
}

TEST_P(stream_test, close_is_end_of_file_for_the_peer) {
  auto [client, server] = connected();
  run(io, write_all(client, "bye"));
  client.close();
  EXPECT_EQ(run(io, read_all(server)), "bye");
}

TEST_P(stream_test, close_ends_pending_operations) {
  auto [client, server] = connected();
  auto reading = start(io, read_exactly(client, 1));
  test::poll(io);
  client.close();
  ASSERT_TRUE(test::run_until(io, [&, &r = reading] { return r.done(); }));
  EXPECT_EQ(reading.error(), asio::error::operation_aborted);
}

TEST_P(stream_test, writing_to_a_closed_stream_is_an_error) {
  auto [client, server] = connected();
  client.close();
  std::error_code ec;
  EXPECT_EQ(write_text(client, "x", ec), 0u);
  EXPECT_EQ(ec, asio::error::bad_descriptor);
  client.shutdown_send(ec);
  EXPECT_TRUE(ec);
  client.close();
}

TEST_P(stream_test, a_read_can_be_cancelled_and_the_stream_goes_on) {
  auto [client, server] = connected();
  auto reading = start(io, read_exactly(server, 5));
  test::poll(io);
  reading.cancel();
  ASSERT_TRUE(test::run_until(io, [&, &r = reading] { return r.done(); }));
  EXPECT_EQ(reading.error(), asio::error::operation_aborted);
  run(io, write_all(client, "after"));
  EXPECT_EQ(run(io, read_exactly(server, 5)), "after");
}

TEST_P(stream_test, a_blocked_write_can_be_cancelled) {
  auto [client, server] = connected();
  auto writing = start(io, write_all(client, std::string(64 << 20, 'x')));
  test::poll(io);
  EXPECT_FALSE(writing.done());
  writing.cancel();
  ASSERT_TRUE(test::run_until(io, [&, &w = writing] { return w.done(); }));
  EXPECT_EQ(writing.error(), asio::error::operation_aborted);
}

TEST_P(stream_test, a_moved_stream_is_the_connection) {
  auto [client, server] = connected();
  stream moved(std::move(client));
  run(io, write_all(moved, "moved"));
  EXPECT_EQ(run(io, read_exactly(server, 5)), "moved");
}

TEST_P(stream_test, connections_are_accepted_in_turn) {
  acceptor listening = listen(here());
  std::vector<stream> clients;
  for (int i = 0; i < 3; ++i) clients.push_back(connect(listening.local_address()));
  for (std::size_t i = 0; i < 3; ++i) {
    stream server = run(io, listening.accept());
    run(io, write_all(clients[i], std::to_string(i)));
    EXPECT_EQ(run(io, read_exactly(server, 1)), std::to_string(i));
  }
}

TEST_P(stream_test, an_accept_can_be_cancelled_and_the_acceptor_goes_on) {
  acceptor listening = listen(here());
  auto accepting = start(io, listening.accept());
  test::poll(io);
  accepting.cancel();
  ASSERT_TRUE(test::run_until(io, [&] { return accepting.done(); }));
  EXPECT_EQ(accepting.error(), asio::error::operation_aborted);
  stream client = connect(listening.local_address());
  (void)run(io, listening.accept());
}

TEST_P(stream_test, closing_the_acceptor_ends_a_pending_accept) {
  acceptor listening = listen(here());
  auto accepting = start(io, listening.accept());
  test::poll(io);
  listening.close();
  ASSERT_TRUE(test::run_until(io, [&] { return accepting.done(); }));
  EXPECT_EQ(accepting.error(), asio::error::operation_aborted);
  EXPECT_TRUE(test::error_of([&] { (void)run(io, listening.accept()); }));
  listening.close();
}

TEST_P(stream_test, nobody_connects_to_a_closed_acceptor) {
  acceptor listening = listen(here());
  const address where = listening.local_address();
  listening.close();
  EXPECT_TRUE(test::error_of([&] { (void)connect(where); }));
}

TEST_P(stream_test, a_second_listener_finds_the_address_in_use) {
  acceptor listening = listen(here());
  const address where = listening.local_address();
  EXPECT_EQ(listen_error(where), asio::error::address_in_use);
  // … and has not taken it from the first.
  stream client = connect(where);
  EXPECT_EQ(listening.local_address(), where);
}

TEST_P(stream_test, an_address_is_free_again_after_the_acceptors_end) {
  const address where = [this] {
    acceptor listening = listen(here());
    return listening.local_address();
  }();
  acceptor again = listen(where);
  (void)connect(where);
}

TEST_P(stream_test, assigning_an_acceptor_closes_the_one_before) {
  acceptor listening = listen(here());
  const address before = listening.local_address();
  listening = listen(GetParam() == kind::unix_domain ? address::unix_socket(directory.file("other")) : here());
  EXPECT_NE(listening.local_address(), before);
  EXPECT_TRUE(test::error_of([&] { (void)connect(before); }));
  (void)connect(listening.local_address());
}

// --- TCP ---

using tcp_test = socket_test;

TEST_F(tcp_test, port_zero_becomes_a_real_port) {
  acceptor listening = listen(address("127.0.0.1", 0));
  EXPECT_EQ(listening.local_address().host, "127.0.0.1");
  EXPECT_NE(listening.local_address().port, 0);
}

TEST_F(tcp_test, remote_addresses_name_the_peer) {
  acceptor listening = listen(address("127.0.0.1", 0));
  stream client = connect(listening.local_address());
  stream server = run(io, listening.accept());
  EXPECT_EQ(client.remote_address(), listening.local_address().to_string());
  const auto seen = address::parse(server.remote_address());
  ASSERT_TRUE(seen) << server.remote_address();
  EXPECT_EQ(seen->host, "127.0.0.1");
  client.close();
  EXPECT_EQ(client.remote_address(), "disconnected");
}

TEST_F(tcp_test, an_ipv6_address_is_written_with_brackets) {
  std::error_code ec;
  acceptor listening = world.listen(address("::1", 0), ec);
  if (ec) GTEST_SKIP() << "this machine has no IPv6";
  EXPECT_EQ(listening.local_address().to_string().rfind("[::1]:", 0), 0u) << listening.local_address().to_string();
}

TEST_F(tcp_test, localhost_can_be_listened_on_and_connected_to) {
  acceptor listening = listen(address("localhost", 0));
  EXPECT_EQ(listening.local_address().host, "127.0.0.1");
  stream client = connect(address("localhost", listening.local_address().port));
  (void)run(io, listening.accept());
}

TEST_F(tcp_test, a_name_is_no_address_to_listen_on) {
  EXPECT_EQ(listen_error(address("no.such.host.invalid", 0)), asio::error::invalid_argument);
}

TEST_F(tcp_test, an_address_of_another_machine_is_no_address_to_listen_on) {
  EXPECT_EQ(listen_error(address("192.0.2.1", 0)), system_error(EADDRNOTAVAIL));
}

TEST_F(tcp_test, sends_without_delay) {
  auto [client, server] = connected(address("127.0.0.1", 0));
  for (stream* each : {&client, &server}) {
    int on = 0;
    socklen_t size = sizeof on;
    ASSERT_EQ(::getsockopt(each->native_handle(), IPPROTO_TCP, TCP_NODELAY, &on, &size), 0);
    EXPECT_NE(on, 0);
  }
}

TEST_F(tcp_test, a_refused_connection_names_the_address) {
  const address where = [this] { return listen(address("127.0.0.1", 0)).local_address(); }();
  try {
    (void)connect(where);
    FAIL() << "connected";
  } catch (const std::system_error& refused) {
    EXPECT_EQ(refused.code(), asio::error::connection_refused);
    EXPECT_NE(std::string(refused.what()).find("cannot connect to " + where.to_string()), std::string::npos)
        << refused.what();
  }
}

TEST_F(tcp_test, an_unresolvable_name_is_an_error_that_names_it) {
  try {
    (void)connect(address("no.such.host.invalid", 1));
    FAIL() << "connected";
  } catch (const std::system_error& thrown) {
    EXPECT_TRUE(thrown.code());
    EXPECT_NE(std::string(thrown.what()).find("no.such.host.invalid:1"), std::string::npos) << thrown.what();
  }
}

// A listener that nobody accepts from and whose queue is full: connecting to it neither succeeds nor fails.
class full_listener {
 public:
  explicit full_listener(const asio::generic::stream_protocol::endpoint& at)
      : fd_(::socket(at.protocol().family(), SOCK_STREAM, 0)) {
    if (::bind(fd_.get(), static_cast<const sockaddr*>(at.data()), static_cast<socklen_t>(at.size())) != 0 ||
        ::listen(fd_.get(), 0) != 0) {
      throw std::system_error(errno, std::system_category(), "full_listener");
    }
    sockaddr_storage bound{};
    socklen_t size = sizeof bound;
    ::getsockname(fd_.get(), reinterpret_cast<sockaddr*>(&bound), &size);
    asio::generic::stream_protocol::endpoint endpoint(&bound, size, at.protocol().protocol());
    where_ = detail::to_address(endpoint);
    for (int i = 0; i < 4; ++i) {
      clients_.emplace_back(::socket(at.protocol().family(), SOCK_STREAM | SOCK_NONBLOCK, 0));
      (void)::connect(clients_.back().get(), reinterpret_cast<const sockaddr*>(&bound), size);
    }
  }
  [[nodiscard]] const address& where() const { return where_; }

 private:
  detail::descriptor fd_;
  std::vector<detail::descriptor> clients_;
  address where_;
};

TEST_F(tcp_test, connecting_to_a_full_listener_times_out) {
  const full_listener full(asio::ip::tcp::endpoint(asio::ip::address_v4::loopback(), 0));
  try {
    (void)run(io, world.connect(full.where(), 50ms));
    FAIL() << "connected";
  } catch (const std::system_error& thrown) {
    EXPECT_EQ(thrown.code(), errc::timed_out);
    EXPECT_NE(std::string(thrown.what()).find(full.where().to_string()), std::string::npos) << thrown.what();
  }
}

TEST_F(tcp_test, a_connect_can_be_cancelled) {
  const full_listener full(asio::ip::tcp::endpoint(asio::ip::address_v4::loopback(), 0));
  auto connecting = start(io, world.connect(full.where(), patience));
  test::poll(io);
  EXPECT_FALSE(connecting.done());
  connecting.cancel();
  ASSERT_TRUE(test::run_until(io, [&] { return connecting.done(); }));
  EXPECT_EQ(connecting.error(), asio::error::operation_aborted);
}

TEST_F(tcp_test, a_connect_leaves_no_timer_behind) {
  acceptor listening = listen(address("127.0.0.1", 0));
  stream client = connect(listening.local_address());
  test::poll(io);
  EXPECT_TRUE(io.stopped());  // with a timer that waits, the context would not run out of work
}

TEST_F(tcp_test, a_pending_connect_ends_with_the_io_context) {
  const full_listener full(asio::ip::tcp::endpoint(asio::ip::address_v4::loopback(), 0));
  asio::io_context other;
  env there(other.get_executor());
  auto connecting = start(other, there.connect(full.where(), patience));
  test::poll(other);
  EXPECT_FALSE(connecting.done());
}

TEST_F(tcp_test, a_name_server_that_does_not_answer_holds_up_neither_timeout_nor_cancellation) {
  const address nowhere(silent_name, 1);
  name_server_silence silence;
  EXPECT_EQ(test::error_of([&] { (void)run(io, world.connect(nowhere, 50ms)); }), errc::timed_out);

  auto connecting = start(io, world.connect(nowhere, patience));
  test::poll(io);
  connecting.cancel();
  ASSERT_TRUE(test::run_until(io, [&] { return connecting.done(); }));
  EXPECT_EQ(connecting.error(), asio::error::operation_aborted);
}

// --- Unix-domain sockets ---

using unix_test = socket_test;

TEST_F(unix_test, the_path_is_the_local_address_and_the_clients_remote_one) {
  acceptor listening = listen(unix_address());
  EXPECT_EQ(listening.local_address(), unix_address());
  stream client = connect(unix_address());
  EXPECT_EQ(client.remote_address(), unix_address().to_string());
  stream server = run(io, listening.accept());
  EXPECT_EQ(server.remote_address().rfind("unix:", 0), 0u) << server.remote_address();
}

TEST_F(unix_test, the_path_is_removed_by_close_and_by_the_destructor) {
  {
    acceptor listening = listen(unix_address());
    EXPECT_TRUE(std::filesystem::exists(unix_address().path));
    listening.close();
    EXPECT_FALSE(std::filesystem::exists(unix_address().path));
  }
  { acceptor listening = listen(unix_address()); }
  EXPECT_FALSE(std::filesystem::exists(unix_address().path));
}

TEST_F(unix_test, a_moved_from_acceptor_does_not_remove_the_path) {
  std::optional<acceptor> first(listen(unix_address()));
  const acceptor second(std::move(*first));
  first.reset();
  EXPECT_TRUE(std::filesystem::exists(unix_address().path));
  (void)connect(unix_address());
}

TEST_F(unix_test, closing_late_does_not_remove_the_next_listeners_path) {
  acceptor first = listen(unix_address());
  first.close();
  acceptor second = listen(unix_address());
  first.close();
  EXPECT_TRUE(std::filesystem::exists(unix_address().path));
}

// What a process leaves that was killed: a socket file that nobody listens on.
void leave_stale_socket(const std::string& path) {
  const detail::descriptor fd(::socket(AF_UNIX, SOCK_STREAM, 0));
  const asio::local::stream_protocol::endpoint at(path);
  ASSERT_EQ(::bind(fd.get(), static_cast<const sockaddr*>(at.data()), static_cast<socklen_t>(at.size())), 0);
  ASSERT_EQ(::listen(fd.get(), 1), 0);
}

TEST_F(unix_test, a_stale_socket_file_is_replaced) {
  leave_stale_socket(unix_address().path);
  acceptor listening = listen(unix_address());
  (void)connect(unix_address());
}

TEST_F(unix_test, a_file_that_is_no_socket_is_left_alone) {
  std::ofstream(unix_address().path) << "precious";
  EXPECT_EQ(listen_error(unix_address()), asio::error::address_in_use);
  std::string content;
  std::ifstream(unix_address().path) >> content;
  EXPECT_EQ(content, "precious");
}

TEST_F(unix_test, a_listener_with_a_full_queue_is_not_stale) {
  const full_listener full(asio::local::stream_protocol::endpoint(unix_address().path));
  EXPECT_EQ(listen_error(unix_address()), asio::error::address_in_use);
  EXPECT_TRUE(std::filesystem::exists(unix_address().path));
}

TEST_F(unix_test, connecting_to_a_stale_socket_is_refused) {
  leave_stale_socket(unix_address().path);
  EXPECT_EQ(test::error_of([&] { (void)connect(unix_address()); }), asio::error::connection_refused);
}

TEST_F(unix_test, connecting_to_a_missing_path_names_it) {
  try {
    (void)connect(unix_address());
    FAIL() << "connected";
  } catch (const std::system_error& thrown) {
    EXPECT_EQ(thrown.code(), system_error(ENOENT));
    EXPECT_NE(std::string(thrown.what()).find(unix_address().to_string()), std::string::npos) << thrown.what();
  }
}

TEST_F(unix_test, connecting_to_a_full_listener_fails_and_does_not_block) {
  const full_listener full(asio::local::stream_protocol::endpoint(unix_address().path));
  EXPECT_EQ(test::error_of([&] { (void)connect(full.where()); }), asio::error::no_buffer_space);
}

TEST_F(unix_test, a_path_that_is_too_long_is_an_error_code) {
  const address where = address::unix_socket(directory.file(std::string(200, 'x')));
  EXPECT_EQ(listen_error(where), asio::error::name_too_long);
  try {
    (void)connect(where);
    FAIL() << "connected";
  } catch (const std::system_error& thrown) {
    EXPECT_EQ(thrown.code(), asio::error::name_too_long);
    EXPECT_NE(std::string(thrown.what()).find("cannot connect to unix:"), std::string::npos) << thrown.what();
  }
}

TEST_F(unix_test, a_directory_that_is_missing_is_an_error_code) {
  EXPECT_EQ(listen_error(address::unix_socket(directory.file("missing/socket"))), system_error(ENOENT));
}

}  // namespace
}  // namespace lockstep::real
