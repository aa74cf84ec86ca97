// A source whose peer says what no follower says: it ends that session by a clear error and changes nothing.

#include "lockstep/catchup/source.hpp"

#include "world.hpp"

#include <gtest/gtest.h>

#include <chrono>
#include <cstdint>
#include <limits>
#include <memory>
#include <random>
#include <string>
#include <vector>

namespace lockstep::test {
namespace {

using namespace std::chrono_literals;
using catchup::message;

class catchup_hostile_follower : public testing::Test {
 protected:
  world in;
  faulty_disk disk;
  faulty_disk other_disk;
  leader source{in, disk};
  pipe_env peer_env{in.io.get_executor(), other_disk, in.clock};

  // One session of the source with a scripted peer.
  struct session {
    session(world& of, leader& source, pipe_env& peer_env)
        : in(of),
          pipes(connected_pipes(of)),
          at_source(source.at.env, std::move(pipes.first), channel_of(1)),
          peer(of, peer_env, std::move(pipes.second), 2),
          serving(start(of.io, serve(source.source, at_source))) {
      peer.finish_handshake();
    }
    ~session() {
      peer.channel.abort();
      if (!in.run_until([&] { return serving.done(); })) ADD_FAILURE() << "the session does not end";
    }
    // @return how serve() ended.
    std::error_code end() {
      if (!in.run_until([&] { return serving.done(); }, 1min)) return make_error_code(errc::timed_out);
      return serving.error();
    }

    world& in;
    std::pair<pipe_stream, pipe_stream> pipes;
    test_channel at_source;
    scripted_peer peer;
    started<void> serving;
  };
  std::unique_ptr<session> meet() { return std::make_unique<session>(in, source, peer_env); }

  static catchup::subscribe_message subscription(const position& have, catchup::mode mode = catchup::mode::push) {
    catchup::subscribe_message result;
    result.have = have;
    result.mode = mode;
    result.max_frame_bytes = 1 << 20;
    return result;
  }

  // Brings a session to where the source ships.
  static void subscribe(session& with, const position& have, catchup::mode mode = catchup::mode::push) {
    with.peer.say(message::subscribe, subscription(have, mode));
    EXPECT_EQ(with.peer.hear<catchup::position_message>(message::accepted).position, have);
    (void)with.peer.hear(message::heartbeat);
  }

  // The source serves an honest follower, and its log is what it was.
  void expect_unharmed() {
    faulty_disk honest_disk;
    replica honest(in, honest_disk);
    ASSERT_TRUE(catch_up(in, source, honest));
    expect_equal(source, honest);
    honest.at.close();
  }
};

TEST_F(catchup_hostile_follower, that_says_anything_before_subscribing_is_refused) {
  source.at.append(5);
  for (unsigned kind = 1; kind < 256; ++kind) {
    if (kind == static_cast<unsigned>(message::subscribe)) continue;
    SCOPED_TRACE(kind);
    const auto met = meet();
    met->peer.say(static_cast<message>(kind), catchup::position_message{});
    EXPECT_EQ(met->end(), errc::malformed);
    (void)met->peer.hear(message::failed);
  }
  expect_unharmed();
}

TEST_F(catchup_hostile_follower, whose_subscription_is_cut_or_padded_is_refused) {
  source.at.append(5);
  const auto whole = subscription({}).encode();
  std::vector<std::byte> bytes(whole.begin(), whole.end());
  bytes.resize(64);
  for (std::size_t length = 0; length <= bytes.size(); ++length) {
    if (length == whole.size()) continue;
    const auto met = meet();
    met->peer.say_bytes(message::subscribe, bytes_view(bytes).first(length));
    EXPECT_EQ(met->end(), errc::malformed);
  }
}

TEST_F(catchup_hostile_follower, that_subscribes_while_it_is_served_is_refused) {
  source.at.append(5);
  const auto met = meet();
  subscribe(*met, {});
  met->peer.say(message::subscribe, subscription({}));
  EXPECT_EQ(met->end(), errc::malformed);
}

TEST_F(catchup_hostile_follower, that_subscribes_twice_in_one_breath_is_refused) {
  source.at.append(5);
  const auto met = meet();
  const auto bytes = subscription({}).encode();
  ASSERT_TRUE(met->peer.channel.try_send(1, 0, bytes_view(bytes)));
  ASSERT_TRUE(met->peer.channel.try_send(1, 0, bytes_view(bytes)));
  EXPECT_EQ(met->end(), errc::malformed);
}

// It may have compacted what it was asked for. What it replies to the question before is nothing any more.
TEST_F(catchup_hostile_follower, that_subscribes_anew_during_a_search_is_answered_anew) {
  source.at.append(5, 2);
  const auto met = meet();
  met->peer.say(message::subscribe, subscription({1, 5, 99}));
  (void)met->peer.hear(message::probe);
  met->peer.say(message::subscribe, subscription({}));
  (void)met->peer.hear(message::accepted);
  met->peer.say(message::probe_reply, catchup::position_message{{2, 3, 99}});
  EXPECT_EQ(met->end(), errc::malformed);
}

TEST_F(catchup_hostile_follower, that_subscribes_during_a_snapshot_is_refused) {
  source.at.append(5, 2);
  for (int i = 0; i < 100; ++i) source.at.append_one(2, std::string(400, 'f'));
  const position last = source.at.append(1, 2);
  in.run(source.log().compact_prefix(100));
  source.snapshots.upto = last;
  source.snapshots.bytes = std::string(10'000'000, 's');
  const auto met = meet();
  met->peer.say(message::subscribe, subscription({}));
  (void)met->peer.hear(message::snapshot);
  met->peer.say(message::subscribe, subscription({}));
  EXPECT_EQ(met->end(), errc::malformed);
}

TEST_F(catchup_hostile_follower, that_answers_another_probe_than_it_was_asked_is_refused) {
  source.at.append(50, 2);
  for (const index_t wrong : {index_t{0}, index_t{1}, index_t{49}, std::numeric_limits<index_t>::max()}) {
    const auto met = meet();
    met->peer.say(message::subscribe, subscription({1, 50, 99}));
    const auto asked = met->peer.hear<catchup::probe_message>(message::probe).index;
    ASSERT_NE(asked, wrong);
    met->peer.say(message::probe_reply, catchup::position_message{{1, wrong, 5}});
    EXPECT_EQ(met->end(), errc::malformed);
  }
}

TEST_F(catchup_hostile_follower, that_answers_probes_which_nobody_asked_is_refused) {
  source.at.append(5);
  const auto met = meet();
  subscribe(*met, {});
  met->peer.say(message::probe_reply, catchup::position_message{source.at.at(3)});
  EXPECT_EQ(met->end(), errc::malformed);
}

TEST_F(catchup_hostile_follower, that_acknowledges_what_it_cannot_have_is_refused_and_not_believed) {
  source.at.append(5);
  const position last = source.log().last();
  const std::vector<position> impossible = {
      {1, 6, 4711},                                    // was never shipped
      {1, std::numeric_limits<index_t>::max(), 4711},  // likewise
      {last.epoch, last.index, last.chain + 1},        // is not the source's
      {last.epoch + 1, last.index, last.chain},        // likewise
      source.at.at(2),                                 // less than it presented
  };
  for (const position& lie : impossible) {
    SCOPED_TRACE(lie.index);
    const auto met = meet();
    subscribe(*met, source.at.at(3));
    (void)met->peer.hear(message::records);
    met->peer.say(message::ack, catchup::position_message{lie});
    EXPECT_EQ(met->end(), errc::malformed);
  }
  const auto met = meet();
  subscribe(*met, source.at.at(3));
  (void)met->peer.hear(message::records);
  met->peer.say(message::ack, catchup::position_message{source.at.at(4)});
  EXPECT_EQ(source.follower().acked, source.at.at(4));
  met->peer.say(message::ack, catchup::position_message{last});
  EXPECT_EQ(source.follower().acked, last);
  met->peer.say(message::ack, catchup::position_message{source.at.at(4)});
  EXPECT_EQ(met->end(), errc::malformed) << "durable records do not vanish";
}

TEST_F(catchup_hostile_follower, that_fetches_in_push_mode_or_twice_is_refused) {
  source.at.append(5);
  {
    const auto met = meet();
    subscribe(*met, {});
    met->peer.say(message::fetch, catchup::fetch_message{100, 0});
    EXPECT_EQ(met->end(), errc::malformed);
  }
  const auto met = meet();
  subscribe(*met, source.log().last(), catchup::mode::pull);
  met->peer.say(message::fetch, catchup::fetch_message{100, 1'000'000'000});
  met->peer.say(message::fetch, catchup::fetch_message{100, 1'000'000'000});
  EXPECT_EQ(met->end(), errc::malformed);
}

TEST_F(catchup_hostile_follower, gets_nothing_in_pull_mode_that_it_did_not_ask_for) {
  source.at.append(5);
  const auto met = meet();
  subscribe(*met, {}, catchup::mode::pull);
  in.run_for(1min);
  frame_view frame;
  EXPECT_FALSE(met->peer.channel.try_receive(frame));
}

TEST_F(catchup_hostile_follower, whose_fetch_asks_for_no_bytes_and_endless_waiting_gets_a_record_and_waits_an_hour) {
  source.at.append(2);
  const auto met = meet();
  subscribe(*met, {}, catchup::mode::pull);
  const std::uint64_t endless = std::numeric_limits<std::uint64_t>::max();
  for (const index_t each : {1u, 2u}) {
    met->peer.say(message::fetch, catchup::fetch_message{0, endless});
    const auto bytes = met->peer.hear(message::records);
    record_header header = log_codec::decode_header(bytes.data()).value();
    EXPECT_EQ(header.index, each);
    EXPECT_EQ(header.total_bytes(), bytes.size());
  }
  met->peer.say(message::fetch, catchup::fetch_message{endless, endless});
  const time_point asked = in.clock.now();
  EXPECT_EQ(met->peer.hear<catchup::heartbeat_message>(message::heartbeat).last, source.log().last());
  EXPECT_EQ(in.clock.now() - asked, 1h);
}

TEST_F(catchup_hostile_follower, that_takes_no_frames_at_all_is_told_so) {
  source.at.append(2);
  const auto met = meet();
  auto nothing = subscription({});
  nothing.max_frame_bytes = 0;
  met->peer.say(message::subscribe, nothing);
  EXPECT_EQ(met->end(), errc::frame_too_large);
}

TEST_F(catchup_hostile_follower, that_reads_nothing_holds_no_other_follower_and_ends_with_its_channel) {
  for (int i = 0; i < 1000; ++i) source.at.append_one(1, std::string(1000, 'f'));
  source.at.append(1);
  const auto met = meet();
  met->peer.say(message::subscribe, subscription({}));
  in.run_for(1min);
  EXPECT_FALSE(met->serving.done());
  expect_unharmed();
  met->serving.cancel();
  in.settle();
  EXPECT_TRUE(met->serving.done());
  EXPECT_TRUE(source.source.followers().empty());
}

TEST_F(catchup_hostile_follower, of_every_seed_harms_nobody) {
  for (int i = 0; i < 100; ++i) source.at.append_one(2, std::string(400, 'f'));
  source.at.append(10, 3);
  in.run(source.log().compact_prefix(60));
  ASSERT_GT(source.log().base().index, 20u);
  source.snapshots.upto = source.at.at(80);
  const std::vector<message> kinds = {message::subscribe, message::probe_reply, message::ack, message::fetch};
  unsigned ended = 0;
  for (std::uint64_t seed = 1; seed <= 300; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    std::mt19937_64 random(seed);
    const auto some = [&](std::uint64_t below) { return random() % below; };
    const auto some_position = [&]() -> position {
      const index_t index = some(4) == 0 ? random() : some(130);
      const auto known = source.log().position_at(index);
      if (known && some(3) != 0) return *known;
      return {some(4), index, random()};
    };
    const auto met = meet();
    for (int step = 0; step < 30 && !met->serving.done(); ++step) {
      std::array<std::byte, 48> bytes{};
      const message kind = kinds[step == 0 ? 0 : some(kinds.size())];
      std::size_t size = kind == message::subscribe ? 48 : kind == message::fetch ? 16 : 24;
      const position at = some_position();
      if (kind == message::subscribe) {
        auto asked = subscription(at, some(2) == 0 ? catchup::mode::push : catchup::mode::pull);
        asked.base = some(3) == 0 ? some(at.index + 1) : 0;
        bytes = asked.encode();
      } else if (kind == message::fetch) {
        store_le<std::uint64_t>(bytes.data(), random());
        store_le<std::uint64_t>(bytes.data() + 8, random());
      } else {
        const auto encoded = catchup::position_message{at}.encode();
        std::copy(encoded.begin(), encoded.end(), bytes.begin());
      }
      if (some(20) == 0) size = some(49);
      if (!met->peer.channel.try_send(static_cast<std::uint8_t>(kind), 0, bytes_view(bytes).first(size))) break;
      in.settle();
      frame_view frame;
      while (met->peer.channel.try_receive(frame)) {
        // An honest answer now and then leads further into the protocol.
        if (frame.kind != static_cast<std::uint8_t>(message::probe) || some(2) == 0) continue;
        position reply = some_position();
        reply.index = catchup::probe_message::decode(frame.payload).value().index;
        const auto encoded = catchup::position_message{reply}.encode();
        (void)met->peer.channel.try_send(static_cast<std::uint8_t>(message::probe_reply), 0, bytes_view(encoded));
        in.settle();
      }
    }
    const std::error_code ec = met->end();
    if (ec == errc::timed_out) continue;  // nothing that it said was wrong
    ++ended;
    EXPECT_TRUE(ec == errc::malformed || ec == errc::snapshot_required) << ec.message();
  }
  EXPECT_GT(ended, 200u);
  faulty_disk honest_disk;
  replica honest(in, honest_disk);
  ASSERT_TRUE(catch_up(in, source, honest));
  expect_equal(source, honest);
  honest.at.close();
}

}  // namespace
}  // namespace lockstep::test
