// A follower whose peer says what no source says: it ends by a clear error, and its log is never wrong.

#include "lockstep/catchup/follower.hpp"

#include "world.hpp"

#include <gtest/gtest.h>

#include <chrono>
#include <cstdint>
#include <functional>
#include <limits>
#include <memory>
#include <random>
#include <string>
#include <vector>

namespace lockstep::test {
namespace {

using namespace std::chrono_literals;
using catchup::message;

class catchup_hostile_source : public testing::Test {
 protected:
  world in;
  faulty_disk disk;
  faulty_disk honest_disk;
  node honest{in, honest_disk};  // a log to take records from
  std::unique_ptr<replica> follower;

  // A follower with 5 records, the first of the honest log's.
  void make_follower(follower_options options = {}) {
    if (follower) {
      (void)error_of([&] { follower->at.close(); });
      follower.reset();
    }
    disk = faulty_disk();
    follower = std::make_unique<replica>(in, disk, options);
    if (honest.log->last().index == 0) honest.append(20, 1, "common");
    follower->at.append(5, 1, "common");
    ASSERT_EQ(follower->log().last(), honest.at(5));
  }

  struct session {
    session(world& of, replica& follower, pipe_env& peer_env)
        : in(of),
          pipes(connected_pipes(of)),
          at_follower(follower.at.env, std::move(pipes.second), channel_of(2)),
          peer(of, peer_env, std::move(pipes.first), 1),
          following(start(of.io, follow(follower.follower, at_follower))) {
      peer.finish_handshake();
      subscription = peer.hear<catchup::subscribe_message>(message::subscribe);
    }
    ~session() {
      peer.channel.abort();
      if (!in.run_until([&] { return following.done(); })) ADD_FAILURE() << "the session does not end";
    }
    std::error_code end() {
      if (!in.run_until([&] { return following.done(); }, 1min)) return make_error_code(errc::timed_out);
      return following.error();
    }

    world& in;
    std::pair<pipe_stream, pipe_stream> pipes;
    test_channel at_follower;
    scripted_peer peer;
    started<void> following;
    catchup::subscribe_message subscription;
  };
  std::unique_ptr<session> meet() { return std::make_unique<session>(in, *follower, honest.env); }

  // Stages of the protocol, and how a source brings a follower there.
  enum class stage { subscribed, accepted, following, pulling, receiving_snapshot };
  static constexpr std::array all_stages = {stage::subscribed, stage::accepted, stage::following, stage::pulling,
                                            stage::receiving_snapshot};

  std::unique_ptr<session> bring_to(stage where) {
    auto met = meet();
    scripted_peer& peer = met->peer;
    if (where == stage::subscribed) return met;
    if (where == stage::receiving_snapshot) {
      peer.say(message::snapshot, snapshot_of(100, 10));
      return met;
    }
    peer.say(message::accepted, catchup::position_message{follower->log().last()});
    if (where == stage::accepted) return met;
    peer.say(message::heartbeat, beat(honest.log->last()));
    if (where == stage::pulling) (void)peer.hear(message::fetch);
    return met;
  }
  void make_follower_for(stage where) { make_follower(where == stage::pulling ? pulling(1h) : follower_options()); }

  static catchup::heartbeat_message beat(const position& last) {
    catchup::heartbeat_message result;
    result.last = last;
    result.clock_ns = 1'000'000'000;
    return result;
  }
  static catchup::snapshot_message snapshot_of(index_t upto, std::uint64_t size) {
    catchup::snapshot_message result;
    result.upto = {3, upto, 4711};
    result.size = size;
    result.source_epoch = 3;
    return result;
  }

  std::vector<std::byte> records(index_t first, index_t last) {
    test_log::read_place place;
    place.next = first;
    std::vector<std::byte> bytes;
    while (place.next <= last) {
      const record_batch batch = honest.log->read(place, 1);
      bytes.insert(bytes.end(), batch.bytes().begin(), batch.bytes().end());
    }
    return bytes;
  }

  void expect_unchanged() {
    EXPECT_EQ(follower->log().last(), honest.at(5));
    EXPECT_EQ(follower->at.records().size(), 5u);
    EXPECT_TRUE(follower->told.snapshots.empty());
  }
};

// --- The right thing at the wrong time ------------------------------------------------------------------------------

TEST_F(catchup_hostile_source, that_says_something_out_of_turn_is_refused_in_every_stage) {
  make_follower();
  const auto good_records = records(6, 7);
  const std::vector<std::byte> chunk(10);
  const auto to_vector = [](const auto& encoded) { return std::vector<std::byte>(encoded.begin(), encoded.end()); };
  struct saying {
    message kind;
    std::vector<std::byte> bytes;
    std::vector<stage> right_in;
  };
  const std::vector<saying> sayings = {
      {message::accepted, to_vector(catchup::position_message{honest.at(5)}.encode()), {stage::subscribed}},
      {message::probe, to_vector(catchup::probe_message{3}.encode()), {stage::subscribed}},
      {message::diverged, to_vector(catchup::diverged_message{honest.at(3), 1}.encode()), {stage::subscribed}},
      {message::snapshot,
       to_vector(snapshot_of(100, 10).encode()),
       {stage::subscribed, stage::accepted, stage::following, stage::pulling}},
      {message::snapshot_chunk, chunk, {stage::receiving_snapshot}},
      {message::snapshot_end, to_vector(catchup::position_message{snapshot_of(100, 10).upto}.encode()), {}},
      {message::snapshot_end, to_vector(catchup::position_message{}.encode()), {}},
      {message::records, good_records, {stage::following, stage::pulling}},
      {message::heartbeat,
       to_vector(beat(honest.log->last()).encode()),
       {stage::accepted, stage::following, stage::pulling}},
      {message::heartbeat, to_vector(beat(honest.at(5)).encode()), {stage::accepted, stage::following, stage::pulling}},
      {message::subscribe, to_vector(catchup::subscribe_message{}.encode()), {}},
      {message::probe_reply, to_vector(catchup::position_message{honest.at(3)}.encode()), {}},
      {message::ack, to_vector(catchup::position_message{honest.at(3)}.encode()), {}},
      {message::fetch, to_vector(catchup::fetch_message{}.encode()), {}},
      {static_cast<message>(99), {}, {}},
      {static_cast<message>(255), chunk, {}},
  };
  for (const stage where : all_stages) {
    for (const saying& each : sayings) {
      SCOPED_TRACE("stage " + std::to_string(static_cast<int>(where)) + ", message " +
                   std::to_string(static_cast<int>(each.kind)));
      const bool right = std::find(each.right_in.begin(), each.right_in.end(), where) != each.right_in.end();
      make_follower_for(where);
      const auto met = bring_to(where);
      met->peer.say_bytes(each.kind, each.bytes);
      if (right) {
        const auto error = met->following.done() ? met->following.error() : std::error_code();
        EXPECT_TRUE(!error || error == errc::diverged) << error.message();
      } else {
        EXPECT_EQ(met->end(), errc::malformed);
        expect_unchanged();
      }
    }
  }
}

TEST_F(catchup_hostile_source, whose_messages_are_cut_at_any_length_is_refused) {
  const std::vector<std::pair<message, std::size_t>> sizes = {
      {message::accepted, 24},     {message::probe, 8},      {message::diverged, 32}, {message::snapshot, 48},
      {message::snapshot_end, 24}, {message::heartbeat, 32}, {message::failed, 16}};
  for (const stage where : all_stages) {
    for (const auto& [kind, size] : sizes) {
      for (std::size_t length = 0; length < size; length += length % 8 == 7 || length % 8 == 0 ? 1 : 6) {
        SCOPED_TRACE(std::to_string(static_cast<int>(kind)) + " of " + std::to_string(length) + " bytes");
        make_follower_for(where);
        const auto met = bring_to(where);
        met->peer.say_bytes(kind, std::vector<std::byte>(length));
        EXPECT_EQ(met->end(), errc::malformed);
        expect_unchanged();
      }
    }
  }
}

// --- Positions ------------------------------------------------------------------------------------------------------

TEST_F(catchup_hostile_source, that_accepts_another_position_than_was_presented_is_refused) {
  make_follower();
  const position have = honest.at(5);
  for (const position& wrong :
       {position{}, honest.at(4), honest.at(6), position{have.epoch + 1, have.index, have.chain},
        position{have.epoch, have.index, have.chain + 1}}) {
    make_follower();
    const auto met = meet();
    met->peer.say(message::accepted, catchup::position_message{wrong});
    EXPECT_EQ(met->end(), errc::malformed);
    expect_unchanged();
  }
}

TEST_F(catchup_hostile_source, that_probes_what_the_follower_does_not_keep_is_refused) {
  for (const index_t wrong : {index_t{6}, std::numeric_limits<index_t>::max()}) {
    make_follower();
    const auto met = meet();
    met->peer.say(message::probe, catchup::probe_message{wrong});
    EXPECT_EQ(met->end(), errc::malformed);
  }
  make_follower();
  in.run(follower->log().reset({1, 100, 7}));
  const auto met = meet();
  EXPECT_EQ(met->subscription.base, 100u);
  met->peer.say(message::probe, catchup::probe_message{100});
  EXPECT_EQ(met->peer.hear<catchup::position_message>(message::probe_reply).position, (position{1, 100, 7}));
  met->peer.say(message::probe, catchup::probe_message{99});
  EXPECT_EQ(met->end(), errc::malformed);
}

TEST_F(catchup_hostile_source, that_names_a_divergence_which_is_none_cuts_nothing) {
  make_follower();
  const position at3 = honest.at(3);
  const std::vector<catchup::diverged_message> lies = {
      {honest.at(5), 1},                           // nothing would be lost
      {honest.at(6), 1},                           // beyond the log
      {{at3.epoch, at3.index, at3.chain + 1}, 1},  // not common
      {{at3.epoch + 1, at3.index, at3.chain}, 1},  // not common
      {{1, std::numeric_limits<index_t>::max(), 3}, 1},
  };
  for (const auto& lie : lies) {
    make_follower(repairing());
    const auto met = meet();
    met->peer.say(message::diverged, lie);
    EXPECT_EQ(met->end(), errc::malformed);
    expect_unchanged();
    EXPECT_TRUE(follower->told.divergences.empty());
  }
}

TEST_F(catchup_hostile_source, of_an_older_life_is_refused_in_whatever_it_says) {
  make_follower(repairing());
  const auto newer = [&] { follower->at.append(1, 7, "of a newer life"); };
  newer();
  const position have = follower->log().last();
  {
    const auto met = meet();
    met->peer.say(message::diverged, catchup::diverged_message{honest.at(5), 6});
    EXPECT_EQ(met->end(), errc::stale_epoch);
  }
  {
    const auto met = meet();
    auto snapshot = snapshot_of(100, 10);
    snapshot.source_epoch = 6;
    met->peer.say(message::snapshot, snapshot);
    EXPECT_EQ(met->end(), errc::stale_epoch);
  }
  {
    const auto met = meet();
    met->peer.say(message::accepted, catchup::position_message{have});
    met->peer.say(message::heartbeat, beat({6, 50, 1}));
    EXPECT_EQ(met->end(), errc::stale_epoch);
  }
  EXPECT_EQ(follower->log().last(), have);
  EXPECT_TRUE(follower->told.divergences.empty());
  EXPECT_EQ(follower->told.snapshots_begun, 0u);
}

// --- Records --------------------------------------------------------------------------------------------------------

TEST_F(catchup_hostile_source, whose_records_have_any_bit_flipped_gets_no_wrong_byte_into_the_log) {
  make_follower();
  const auto good = records(6, 8);
  for (std::size_t at = 0; at < good.size(); ++at) {
    SCOPED_TRACE("byte " + std::to_string(at));
    make_follower();
    auto bad = good;
    bad[at] ^= std::byte{1} << (at % 8);
    const auto met = bring_to(stage::following);
    met->peer.say_bytes(message::records, bad, frame_flag::self_checked);
    const auto error = met->end();
    EXPECT_TRUE(error == errc::corrupt || error == errc::malformed) << error.message();
    const index_t last = follower->log().last().index;
    EXPECT_EQ(follower->log().last(), honest.at(last));
    EXPECT_EQ(last, 5 + at / (good.size() / 3)) << "what came before the damage is good";
  }
}

TEST_F(catchup_hostile_source, whose_records_are_cut_at_any_length_gets_only_whole_ones_into_the_log) {
  make_follower();
  const auto good = records(6, 8);
  for (std::size_t length = 0; length < good.size(); ++length) {
    SCOPED_TRACE(length);
    make_follower();
    const auto met = bring_to(stage::following);
    met->peer.say_bytes(message::records, bytes_view(good).first(length), frame_flag::self_checked);
    const std::size_t whole = length / (good.size() / 3);
    if (length != 0 && length % (good.size() / 3) == 0) {
      EXPECT_FALSE(met->following.done());
    } else {
      EXPECT_EQ(met->end(), errc::malformed);
    }
    EXPECT_EQ(follower->log().last(), honest.at(5 + whole));
  }
}

TEST_F(catchup_hostile_source, whose_records_do_not_follow_each_other_is_refused) {
  make_follower();
  for (const auto& [first, last] : {std::pair<index_t, index_t>{5, 6}, {4, 4}, {7, 8}, {1, 20}}) {
    make_follower();
    const auto met = bring_to(stage::following);
    met->peer.say_bytes(message::records, records(first, last), frame_flag::self_checked);
    EXPECT_EQ(met->end(), errc::malformed);
    expect_unchanged();
  }
}

TEST_F(catchup_hostile_source, whose_records_are_of_another_history_is_refused) {
  faulty_disk other_disk;
  node other(in, other_disk);
  other.append(20, 1, "other history");
  make_follower();
  test_log::read_place place;
  place.next = 6;
  const record_batch batch = other.log->read(place, 1000);
  const auto met = bring_to(stage::following);
  met->peer.say_bytes(message::records, batch.bytes(), frame_flag::self_checked);
  EXPECT_EQ(met->end(), errc::corrupt);
  expect_unchanged();
}

TEST_F(catchup_hostile_source, whose_records_belong_to_an_older_epoch_is_refused) {
  make_follower();
  follower->at.append(1, 9, "newer");
  std::array<std::byte, 40> bytes;
  const bytes_view payload = as_bytes("12345678");
  (void)log_codec::encode_record(bytes.data(), follower->log().last(), 8, data_record, {&payload, 1});
  const auto met = meet();
  met->peer.say(message::accepted, catchup::position_message{follower->log().last()});
  met->peer.say(message::heartbeat, beat({9, 50, 1}));
  met->peer.say_bytes(message::records, bytes, frame_flag::self_checked);
  EXPECT_EQ(met->end(), errc::malformed);
  EXPECT_EQ(follower->log().last().index, 6u);
}

TEST_F(catchup_hostile_source, that_answers_a_pulling_follower_while_it_rests_is_refused) {
  for (const bool by_records : {true, false}) {
    make_follower(pulling());
    const auto met = bring_to(stage::pulling);
    met->peer.say(message::heartbeat, beat(honest.at(5)));  // nothing new: the follower rests
    EXPECT_FALSE(met->following.done());
    if (by_records) {
      met->peer.say_bytes(message::records, records(6, 6), frame_flag::self_checked);
    } else {
      met->peer.say(message::heartbeat, beat(honest.at(5)));
    }
    EXPECT_EQ(met->end(), errc::malformed);
    expect_unchanged();
  }
}

// --- Heartbeats -----------------------------------------------------------------------------------------------------

TEST_F(catchup_hostile_source, whose_heartbeats_are_absurd_makes_no_negative_lag) {
  make_follower();
  const auto met = bring_to(stage::following);
  constexpr auto longest = static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max());
  for (int i = 0; i < 6; ++i) {
    catchup::heartbeat_message absurd;
    absurd.last = {max_epoch, std::numeric_limits<index_t>::max(), 1};
    absurd.clock_ns = i % 2 == 0 ? longest : 0;
    met->peer.say(message::heartbeat, absurd);
    EXPECT_EQ(follower->follower.state().lag_records, std::numeric_limits<index_t>::max() - 5);
    EXPECT_GE(follower->follower.state().lag_time, 0s);
  }
  EXPECT_FALSE(met->following.done());
}

// --- Snapshots ------------------------------------------------------------------------------------------------------

TEST_F(catchup_hostile_source, whose_snapshot_makes_no_sense_is_refused_before_the_program_hears_of_it) {
  make_follower();
  const auto with = [](auto change) {
    catchup::snapshot_message result = snapshot_of(100, 10);
    change(result);
    return result;
  };
  const std::vector<catchup::snapshot_message> senseless = {
      with([](auto& of) { of.upto = {}; }),
      with([](auto& of) { of.upto.index = 5; }),                    // not ahead, and no reason why
      with([](auto& of) { of.upto.index = 3; }),                    // likewise
      with([](auto& of) { of.upto.epoch = of.source_epoch + 1; }),  // newer than its source
      with([](auto& of) { of.differs_from = 6; }),                  // differs where the follower has nothing
      with([](auto& of) { of.differs_from = std::numeric_limits<index_t>::max(); }),
  };
  for (const auto& each : senseless) {
    make_follower(repairing());
    const auto met = meet();
    met->peer.say(message::snapshot, each);
    EXPECT_EQ(met->end(), errc::malformed);
    expect_unchanged();
    EXPECT_EQ(follower->told.snapshots_begun, 0u);
    EXPECT_TRUE(follower->told.divergences.empty());
  }
}

TEST_F(catchup_hostile_source, whose_snapshot_is_not_as_long_as_announced_or_ends_as_another_leaves_the_log_alone) {
  const std::vector<std::byte> chunk(6);
  const auto upto = snapshot_of(100, 10).upto;
  using script = std::function<void(scripted_peer&)>;
  const std::vector<script> scripts = {
      [&](scripted_peer& peer) { peer.say(message::snapshot_end, catchup::position_message{upto}); },
      [&](scripted_peer& peer) {
        peer.say_bytes(message::snapshot_chunk, chunk);
        peer.say(message::snapshot_end, catchup::position_message{upto});
      },
      [&](scripted_peer& peer) {
        peer.say_bytes(message::snapshot_chunk, chunk);
        peer.say_bytes(message::snapshot_chunk, chunk);
      },
      [&](scripted_peer& peer) { peer.say_bytes(message::snapshot_chunk, {}); },
      [&](scripted_peer& peer) {
        peer.say_bytes(message::snapshot_chunk, bytes_view(chunk).first(5));
        peer.say_bytes(message::snapshot_chunk, bytes_view(chunk).first(5));
        peer.say(message::snapshot_end, catchup::position_message{{upto.epoch, upto.index, upto.chain + 1}});
      },
      [&](scripted_peer& peer) { peer.say(message::snapshot, snapshot_of(100, 10)); },
      [&](scripted_peer& peer) { peer.say(message::accepted, catchup::position_message{honest.at(5)}); },
  };
  for (std::size_t i = 0; i < scripts.size(); ++i) {
    SCOPED_TRACE(i);
    make_follower();
    const auto met = bring_to(stage::receiving_snapshot);
    scripts[i](met->peer);
    EXPECT_EQ(met->end(), errc::malformed);
    expect_unchanged();
  }
}

TEST_F(catchup_hostile_source, that_ends_a_snapshot_which_an_earlier_connection_began_is_refused) {
  make_follower();
  const std::vector<std::byte> whole(10);
  const auto upto = snapshot_of(100, 10).upto;
  {
    const auto met = bring_to(stage::receiving_snapshot);
    met->peer.say_bytes(message::snapshot_chunk, whole);
  }
  const auto met = meet();
  met->peer.say(message::snapshot_end, catchup::position_message{upto});
  EXPECT_EQ(met->end(), errc::malformed);
  expect_unchanged();
}

TEST_F(catchup_hostile_source, that_does_not_continue_its_own_snapshot_is_refused_the_second_time) {
  make_follower(repairing());
  const auto met = meet();
  auto snapshot = snapshot_of(100, 0);
  met->peer.say(message::snapshot, snapshot);
  met->peer.say(message::snapshot_end, catchup::position_message{snapshot.upto});
  EXPECT_EQ(met->peer.hear<catchup::subscribe_message>(message::subscribe).have, snapshot.upto);
  snapshot.differs_from = 100;
  met->peer.say(message::snapshot, snapshot);
  EXPECT_EQ(met->end(), errc::malformed);
  EXPECT_EQ(follower->log().last(), snapshot.upto);
}

// --- Failures and chance --------------------------------------------------------------------------------------------

TEST_F(catchup_hostile_source, that_says_it_failed_is_believed_in_every_stage_whatever_the_code) {
  for (const stage where : all_stages) {
    for (const std::uint64_t code :
         std::initializer_list<std::uint64_t>{std::uint64_t{0}, std::uint64_t{17}, std::uint64_t{22}, std::uint64_t{23},
                                              std::uint64_t{999}, std::numeric_limits<std::uint64_t>::max()}) {
      make_follower_for(where);
      const auto met = bring_to(where);
      met->peer.say(message::failed, catchup::failed_message{code, 7});
      const bool missing = code == static_cast<std::uint64_t>(errc::snapshot_required);
      EXPECT_EQ(met->end(), missing ? errc::snapshot_required : errc::remote_failure) << code;
      expect_unchanged();
    }
  }
}

TEST_F(catchup_hostile_source, of_every_seed_gets_nothing_into_the_log_that_the_honest_one_does_not_hold) {
  unsigned refused = 0;
  for (std::uint64_t seed = 1; seed <= 400; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    std::mt19937_64 random(seed);
    const auto some = [&](std::uint64_t below) { return random() % below; };
    make_follower(some(2) == 0 ? follower_options() : pulling(1s));
    follower->told.takes_snapshots = false;
    const auto some_position = [&]() -> position {
      const index_t index = some(4) == 0 ? random() : some(22);
      if (index <= 20 && some(4) != 0) return honest.at(index);
      return {some(3), index, random()};
    };
    const auto met = some(3) == 0 ? meet() : bring_to(some(2) == 0 ? stage::accepted : stage::following);
    for (int step = 0; step < 20 && !met->following.done(); ++step) {
      std::vector<std::byte> bytes(some(60));
      for (std::byte& each : bytes) each = static_cast<std::byte>(random());
      const auto use = [&](const auto& encoded) { bytes.assign(encoded.begin(), encoded.end()); };
      auto kind = static_cast<message>(16 + some(9));
      if (some(8) == 0) kind = static_cast<message>(1 + some(255));
      if (some(10) != 0) {
        switch (kind) {
          case message::accepted: use(catchup::position_message{some_position()}.encode()); break;
          case message::probe: use(catchup::probe_message{some(7)}.encode()); break;
          case message::diverged: use(catchup::diverged_message{some_position(), some(3)}.encode()); break;
          case message::snapshot:
            use(catchup::snapshot_message{some_position(), some(100), some(8), some(3)}.encode());
            break;
          case message::snapshot_end: use(catchup::position_message{some_position()}.encode()); break;
          case message::heartbeat: use(beat(some_position()).encode()); break;
          case message::records: {
            const index_t first = some(3) == 0 ? 1 + some(20) : std::min<index_t>(follower->log().last().index + 1, 20);
            bytes = records(first, first + some(21 - first));
            if (some(3) == 0) bytes[some(bytes.size())] ^= std::byte{1};
            break;
          }
          default: break;
        }
      }
      const std::uint8_t flags = some(2) == 0 ? frame_flag::self_checked : frame_flag::none;
      if (!met->peer.channel.try_send(static_cast<std::uint8_t>(kind == message{} ? message::ack : kind), 0, bytes,
                                      flags)) {
        break;
      }
      in.settle();
      frame_view frame;
      while (met->peer.channel.try_receive(frame)) {
      }
    }
    refused += met->following.done() ? 1 : 0;
    const position last = follower->log().last();
    ASSERT_GE(last.index, 5u);
    ASSERT_EQ(last, honest.at(last.index));
    const auto all = honest.records();
    EXPECT_EQ(follower->at.records(),
              std::vector<content>(all.begin(), all.begin() + static_cast<std::ptrdiff_t>(last.index)));
  }
  EXPECT_GT(refused, 300u);
}

}  // namespace
}  // namespace lockstep::test
