#include "lockstep/frame/channel.hpp"

#include "manual_time_env.hpp"
#include "run.hpp"
#include "streams.hpp"

#include <gtest/gtest.h>
#include <unistd.h>
#include <asio/io_context.hpp>

#include <optional>
#include <string>
#include <utility>

namespace lockstep {
namespace {

using manual = test::manual_time_env;

channel_options as(const std::string& cluster, node_id node, const std::string& purpose = "") {
  channel_options options;
  options.cluster = cluster;
  options.node = node;
  options.purpose = purpose;
  return options;
}

/// How a handshake ended.
struct outcome {
  peer_info peer;
  std::error_code code;
  std::string text;
};

outcome outcome_of(test::started<peer_info>& shaking) {
  outcome result;
  try {
    result.peer = shaking.result();
  } catch (const std::system_error& error) {
    result.code = error.code();
    result.text = error.what();
  }
  return result;
}

/// Both sides of a handshake over connected sockets.
std::pair<outcome, outcome> shake(const channel_options& first, const channel_options& second) {
  asio::io_context io(1);
  real::env env(io.get_executor());
  auto [ours, theirs] = test::connected_streams(io);
  channel here(env, std::move(ours), first);
  channel there(env, std::move(theirs), second);
  auto one = test::start(io, here.handshake());
  auto other = test::start(io, there.handshake());
  EXPECT_TRUE(test::run_until(io, [&] { return one.done() && other.done(); }));
  return {outcome_of(one), outcome_of(other)};
}

/// A handshake against bytes of the test's choice, on manual time.
struct against_bytes {
  explicit against_bytes(const channel_options& options = as("a", 1))
      : against_bytes(options, test::connected_sockets()) {}
  against_bytes(const channel_options& options, std::pair<int, int> sockets)
      : here(env, test::adopt(io, sockets.first), options),
        peer(sockets.second),
        shaking(test::start(io, here.handshake())) {
    test::poll(io);
  }

  outcome ended() {
    EXPECT_TRUE(test::run_until(io, [&] { return shaking.done(); }));
    return outcome_of(shaking);
  }

  asio::io_context io{1};
  manual env{io.get_executor()};
  basic_channel<manual> here;
  test::raw_peer peer;
  test::started<peer_info> shaking;
};

std::string encoded(hello::step_t step, const std::string& cluster, node_id node) {
  hello message;
  message.step = step;
  message.cluster = cluster;
  message.node = node;
  byte_buffer bytes;
  encode_hello(bytes, message);
  return std::string(as_text(bytes.view()));
}

/// The second hello that `bytes` holds.
hello answer_in(const std::string& bytes) {
  const decoded_hello offer = decode_hello(as_bytes(bytes));
  const decoded_hello answer = decode_hello(as_bytes(bytes).subspan(offer.bytes));
  EXPECT_EQ(answer.is, verdict::ok);
  return answer.message;
}

bool contains(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

TEST(frame_handshake, both_sides_learn_who_the_other_is) {
  channel_options first = as("orders", 1, "catchup");
  first.features = 0x11;
  channel_options second = as("orders", 2);
  second.features = 0x22;
  const auto [one, other] = shake(first, second);
  EXPECT_FALSE(one.code);
  EXPECT_FALSE(other.code);
  EXPECT_EQ(one.peer.node, 2u);
  EXPECT_EQ(one.peer.features, 0x22u);
  EXPECT_EQ(one.peer.purpose, "");
  EXPECT_EQ(other.peer.node, 1u);
  EXPECT_EQ(other.peer.features, 0x11u);
  EXPECT_EQ(other.peer.purpose, "catchup");
  EXPECT_EQ(other.peer.cluster, "orders");
}

TEST(frame_handshake, two_clients_without_an_id_are_not_the_same_node) {
  const auto [one, other] = shake(as("a", 0), as("a", 0));
  EXPECT_FALSE(one.code);
  EXPECT_FALSE(other.code);
}

TEST(frame_handshake, another_cluster_is_named_on_both_sides) {
  const auto [one, other] = shake(as("a", 1), as("b", 2));
  EXPECT_EQ(one.code, errc::wrong_cluster);
  EXPECT_TRUE(contains(one.text, "belongs to cluster 'b', this node to 'a'")) << one.text;
  EXPECT_EQ(other.code, errc::wrong_cluster);
  EXPECT_TRUE(contains(other.text, "belongs to cluster 'a', this node to 'b'")) << other.text;
}

TEST(frame_handshake, a_peer_with_this_nodes_own_id_is_refused_on_both_sides) {
  const auto [one, other] = shake(as("a", 3), as("a", 3));
  EXPECT_EQ(one.code, errc::wrong_node);
  EXPECT_EQ(other.code, errc::wrong_node);
  EXPECT_TRUE(contains(one.text, "this node's own id 3")) << one.text;
}

TEST(frame_handshake, a_node_that_was_not_expected_hears_whom_the_other_wanted) {
  channel_options first = as("a", 1);
  first.expected_node = 7;
  const auto [one, other] = shake(first, as("a", 2));
  EXPECT_EQ(one.code, errc::wrong_node);
  EXPECT_TRUE(contains(one.text, "is node 2, not node 7")) << one.text;
  EXPECT_EQ(other.code, errc::wrong_node);
  EXPECT_TRUE(contains(other.text, "refused the connection: node 7 was expected here, not node 2")) << other.text;
}

TEST(frame_handshake, a_refusal_by_the_program_reaches_both_sides_with_its_reason) {
  channel_options first = as("a", 1);
  std::string asked_about;
  first.admit = [&asked_about](const peer_info& peer) -> std::optional<refusal> {
    asked_about = peer.purpose;
    return refusal(errc::overloaded, "100 connections are open, no more are allowed");
  };
  const auto [one, other] = shake(first, as("a", 2, "catchup"));
  EXPECT_EQ(asked_about, "catchup");
  EXPECT_EQ(one.code, errc::overloaded);
  EXPECT_TRUE(contains(one.text, "100 connections")) << one.text;
  EXPECT_EQ(other.code, errc::overloaded);
  EXPECT_TRUE(contains(other.text, "100 connections")) << other.text;
}

TEST(frame_handshake, another_protocol_is_not_lockstep) {
  against_bytes c;
  c.peer.send("HTTP/1.1 400 Bad Request\r\n\r\n");
  c.peer.close();
  const outcome ended = c.ended();
  EXPECT_EQ(ended.code, errc::not_lockstep);
  EXPECT_TRUE(contains(ended.text, "does not speak the lockstep protocol")) << ended.text;
}

TEST(frame_handshake, another_version_is_refused_and_told_why) {
  against_bytes c;
  std::string theirs = encoded(hello::step_t::offer, "a", 2);
  theirs[8] = 9;
  c.peer.send(theirs);
  test::poll(c.io);
  const std::string received = c.peer.receive();
  const hello refused = answer_in(received);
  EXPECT_EQ(refused.step, hello::step_t::refusal);
  EXPECT_EQ(refused.cause, errc::wrong_version);
  EXPECT_TRUE(contains(refused.reason, "version 1, not 9")) << refused.reason;
  c.peer.close();
  const outcome ended = c.ended();
  EXPECT_EQ(ended.code, errc::wrong_version);
  EXPECT_TRUE(contains(ended.text, "speaks protocol version 9, this node 1")) << ended.text;
}

TEST(frame_handshake, a_refuser_waits_until_its_reason_was_taken) {
  against_bytes c;
  c.peer.send(encoded(hello::step_t::offer, "b", 2) + "frames that nobody will read");
  test::poll(c.io);
  EXPECT_FALSE(c.shaking.done());
  EXPECT_EQ(answer_in(c.peer.receive()).cause, errc::wrong_cluster);
  EXPECT_TRUE(c.peer.sees_end());
  c.peer.close();
  EXPECT_EQ(c.ended().code, errc::wrong_cluster);
}

TEST(frame_handshake, a_refused_peer_that_does_not_go_is_left_at_the_timeout) {
  against_bytes c;
  c.peer.send(encoded(hello::step_t::offer, "b", 2));
  test::poll(c.io);
  c.env.advance(c.here.options().handshake_timeout);
  test::poll(c.io);
  ASSERT_TRUE(c.shaking.done());
  EXPECT_FALSE(c.here.is_open());
  EXPECT_TRUE(c.shaking.failed());
}

TEST(frame_handshake, a_broken_hello_is_refused) {
  against_bytes c;
  std::string theirs = encoded(hello::step_t::offer, "a", 2);
  theirs.back() = static_cast<char>(theirs.back() ^ 1);
  c.peer.send(theirs);
  c.peer.close();
  EXPECT_EQ(c.ended().code, errc::bad_checksum);
}

TEST(frame_handshake, an_answer_before_an_offer_is_malformed) {
  against_bytes c;
  c.peer.send(encoded(hello::step_t::acceptance, "a", 2));
  c.peer.close();
  EXPECT_EQ(c.ended().code, errc::malformed);
}

TEST(frame_handshake, a_peer_that_says_nothing_is_given_up_in_time) {
  against_bytes c;
  c.env.advance(c.here.options().handshake_timeout);
  test::poll(c.io);
  ASSERT_TRUE(c.shaking.done());
  const outcome ended = outcome_of(c.shaking);
  EXPECT_EQ(ended.code, errc::timed_out);
  EXPECT_TRUE(contains(ended.text, "did not finish the handshake within 5000 ms")) << ended.text;
  EXPECT_TRUE(c.peer.receive().size() > 0);
  EXPECT_TRUE(c.peer.sees_end());
}

TEST(frame_handshake, a_handshake_that_ended_in_time_is_not_cut_later) {
  against_bytes c;
  c.peer.send(encoded(hello::step_t::offer, "a", 2) + encoded(hello::step_t::acceptance, "a", 2));
  EXPECT_FALSE(c.ended().code);
  c.env.advance(10 * c.here.options().handshake_timeout);
  test::poll(c.io);
  EXPECT_TRUE(c.here.is_open());
}

TEST(frame_handshake, a_peer_that_goes_in_the_middle_is_reported_wherever_it_goes) {
  const std::string theirs = encoded(hello::step_t::offer, "a", 2) + encoded(hello::step_t::acceptance, "a", 2);
  const std::size_t offer = encoded(hello::step_t::offer, "a", 2).size();
  for (std::size_t cut = 0; cut < theirs.size(); ++cut) {
    against_bytes c;
    c.peer.send(theirs.substr(0, cut));
    c.peer.end_sending();
    const std::error_code expected =
        cut == 0 || cut == offer ? std::error_code(asio::error::eof) : make_error_code(errc::truncated);
    EXPECT_EQ(c.ended().code, expected) << "cut at " << cut;
    EXPECT_FALSE(c.here.is_open());
  }
}

TEST(frame_handshake, frames_right_behind_an_acceptance_are_kept) {
  against_bytes c;
  std::string frame(frame_header_bytes, '\0');
  encode_frame_header(reinterpret_cast<std::byte*>(frame.data()), {5, 0, 77}, 0, xxh3_64(bytes_view()));
  c.peer.send(encoded(hello::step_t::offer, "a", 2) + encoded(hello::step_t::acceptance, "a", 2) + frame);
  EXPECT_FALSE(c.ended().code);
  EXPECT_EQ(test::run(c.io, c.here.receive()).id, 77u);
}

TEST(frame_handshake, a_hello_may_come_byte_by_byte) {
  against_bytes c;
  for (const char byte : encoded(hello::step_t::offer, "a", 2) + encoded(hello::step_t::acceptance, "a", 2)) {
    EXPECT_FALSE(c.shaking.done());
    c.peer.send({&byte, 1});
    test::poll(c.io);
  }
  EXPECT_FALSE(c.ended().code);
}

TEST(frame_handshake, cancelling_it_closes_the_channel) {
  against_bytes c;
  c.shaking.cancel();
  test::poll(c.io);
  ASSERT_TRUE(c.shaking.done());
  EXPECT_EQ(c.shaking.error(), asio::error::operation_aborted);
  EXPECT_FALSE(c.here.is_open());
}

awaitable<peer_info> accept_and_shake(real::env& env, real::acceptor& acceptor, channel_options options) {
  channel accepted(env, co_await acceptor.accept(), options);
  peer_info peer = co_await accepted.handshake();
  co_await accepted.close();
  co_return peer;
}

void shake_over(const address& where) {
  asio::io_context io(1);
  real::env env(io.get_executor());
  std::error_code ec;
  auto acceptor = env.listen(where, ec);
  ASSERT_FALSE(ec) << ec.message();
  auto accepting = test::start(io, accept_and_shake(env, acceptor, as("a", 2)));
  channel here(env, test::run(io, env.connect(acceptor.local_address(), test::patience)), as("a", 1));
  const peer_info peer = test::run(io, here.handshake());
  EXPECT_EQ(peer.node, 2u);
  EXPECT_EQ(peer.address, acceptor.local_address().to_string());
  test::run(io, here.close());
  ASSERT_TRUE(test::run_until(io, [&] { return accepting.done(); }));
  EXPECT_EQ(accepting.result().node, 1u);
}

TEST(frame_handshake, works_over_tcp) { shake_over(address("127.0.0.1", 0)); }

TEST(frame_handshake, works_over_a_unix_domain_socket) {
  shake_over(address::unix_socket("/tmp/lockstep-handshake-" + std::to_string(::getpid())));
}

}  // namespace
}  // namespace lockstep
