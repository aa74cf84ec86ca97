#include "lockstep/catchup/core.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <limits>
#include <optional>
#include <random>
#include <string>
#include <vector>

namespace lockstep::catchup {
namespace {

using namespace std::chrono_literals;

// --- Histories ------------------------------------------------------------------------------------------------------

// What one side knows: positions at [base, last]. Chains name histories: equal exactly when all before is equal.
struct history {
  std::vector<position> at;  // by index, 0 included
  index_t base = 0;

  [[nodiscard]] index_t last() const { return at.size() - 1; }
  [[nodiscard]] std::optional<position> known(index_t index) const {
    if (index < base || index > last()) return std::nullopt;
    return at[index];
  }
};

// `common` records, then records of its own up to `last`.
history make_history(index_t common, index_t last, std::uint64_t own_chain, index_t base) {
  history result;
  result.base = base;
  for (index_t i = 0; i <= last; ++i) {
    const bool shared = i <= common;
    result.at.push_back({i == 0 ? 0u : shared ? 1u : own_chain, i, i == 0 ? 0 : shared ? i : own_chain * 1000 + i});
  }
  return result;
}

subscribe_message subscription_of(const history& follower) {
  subscribe_message result;
  result.have = follower.at.back();
  result.base = follower.base;
  return result;
}

// Calls check(source, follower, common) for all histories of up to `most` records that part behind `common`.
template <class Check>
void for_all_histories(index_t most, Check check) {
  for (index_t common = 0; common <= most; ++common) {
    for (index_t source_last = common; source_last <= most; ++source_last) {
      for (index_t follower_last = common; follower_last <= most; ++follower_last) {
        for (index_t source_base = 0; source_base <= source_last; ++source_base) {
          for (index_t follower_base = 0; follower_base <= follower_last; ++follower_base) {
            check(make_history(common, source_last, 2, source_base),
                  make_history(common, follower_last, 3, follower_base), common);
          }
        }
      }
    }
  }
}

TEST(catchup_decide, accepts_exactly_positions_of_the_sources_history_whose_successors_it_keeps) {
  for_all_histories(5, [](const history& source, const history& follower, index_t common) {
    const auto decided =
        decide(subscription_of(follower), source.at[source.base], source.at.back(), source.known(follower.last()));
    const bool in_history = follower.last() <= common && follower.last() >= source.base;
    EXPECT_EQ(decided.answer == answer::accept, in_history);
  });
}

TEST(catchup_decide, followed_by_the_search_finds_the_last_position_that_both_keep_or_says_that_there_is_none) {
  for_all_histories(5, [](const history& source, const history& follower, index_t common) {
    const auto decided =
        decide(subscription_of(follower), source.at[source.base], source.at.back(), source.known(follower.last()));
    if (decided.answer == answer::accept) return;
    const index_t lowest = std::max(source.base, follower.base);
    std::optional<index_t> expected;  // the last index that both know and at which they agree
    if (lowest <= std::min(source.last(), follower.last()) && lowest <= common) {
      expected = std::min({common, source.last(), follower.last()});
    }
    std::optional<index_t> found;
    index_t differs_from = decided.differs_from;
    if (decided.answer == answer::search) {
      divergence_search search(decided.lowest, decided.highest);
      unsigned probes = 0;
      while (const auto probe = search.next_probe()) {
        ASSERT_LE(++probes, 4u);
        ASSERT_TRUE(source.known(*probe) && follower.known(*probe)) << "both must be able to answer";
        search.answer(*probe, source.at[*probe] == follower.at[*probe]);
      }
      found = search.common();
      differs_from = search.differs_from();
    }
    EXPECT_EQ(found, expected);
    if (found) {
      EXPECT_LT(*found, follower.last()) << "a divergence takes something away";
      return;
    }
    // A snapshot is required: either the follower only lies too far back, or a record of it is known to be foreign.
    if (differs_from == 0) {
      EXPECT_LT(follower.last(), source.base);
    } else {
      ASSERT_LE(differs_from, follower.last());
      EXPECT_TRUE(differs_from > source.last() || follower.at[differs_from] != source.at[differs_from]);
    }
  });
}

TEST(catchup_decide, accepts_an_empty_follower_of_an_empty_source) {
  EXPECT_EQ(decide({}, {}, {}, position{}).answer, answer::accept);
}

TEST(catchup_decide, sends_an_empty_follower_of_a_compacted_source_to_the_snapshot_without_a_suspicion) {
  const position base{1, 10, 77};
  const auto decided = decide({}, base, {1, 20, 88}, std::nullopt);
  EXPECT_EQ(decided.answer, answer::snapshot_required);
  EXPECT_EQ(decided.differs_from, 0u);
}

TEST(catchup_decide, suspects_a_follower_that_begins_where_the_source_has_not_come_yet) {
  subscribe_message subscription;
  subscription.have = {1, 30, 5};
  subscription.base = 25;
  const auto decided = decide(subscription, {}, {1, 20, 88}, std::nullopt);
  EXPECT_EQ(decided.answer, answer::snapshot_required);
  EXPECT_EQ(decided.differs_from, 21u);
}

TEST(catchup_decide, survives_the_largest_index) {
  subscribe_message subscription;
  subscription.have = {1, std::numeric_limits<index_t>::max(), 5};
  const auto decided = decide(subscription, {}, {1, 20, 88}, std::nullopt);
  EXPECT_EQ(decided.answer, answer::search);
  EXPECT_EQ(decided.highest, 20u);
}

TEST(divergence_search, finds_every_common_index_in_logarithmically_many_probes) {
  for (index_t lowest = 0; lowest <= 3; ++lowest) {
    for (index_t highest = lowest; highest <= lowest + 66; ++highest) {
      // Agreement up to `common`; lowest - 1 stands for none.
      for (index_t common = lowest; common <= highest + 1; ++common) {
        const bool none = common == lowest;
        divergence_search search(lowest, highest);
        unsigned probes = 0;
        while (const auto probe = search.next_probe()) {
          ASSERT_GE(*probe, lowest);
          ASSERT_LE(*probe, highest);
          search.answer(*probe, *probe < common);
          ++probes;
        }
        EXPECT_EQ(search.common(), none ? std::nullopt : std::optional(common - 1));
        EXPECT_EQ(search.differs_from(), common);
        unsigned bits = 0;
        while ((std::uint64_t{1} << bits) < highest - lowest + 2) ++bits;
        EXPECT_LE(probes, bits);
      }
    }
  }
}

TEST(divergence_search, of_an_interval_at_the_end_of_all_indexes_ends) {
  const index_t end = std::numeric_limits<index_t>::max() - 1;
  divergence_search search(end - 10, end);
  unsigned probes = 0;
  while (const auto probe = search.next_probe()) {
    search.answer(*probe, *probe <= end - 3);
    ASSERT_LE(++probes, 4u);
  }
  EXPECT_EQ(search.common(), end - 3);
}

// --- Lag ------------------------------------------------------------------------------------------------------------

TEST(lag_tracker, knows_of_no_lag_before_it_heard_anything) {
  const lag_tracker lag;
  EXPECT_EQ(lag.records(), 0u);
  EXPECT_EQ(lag.behind_for(), 0ns);
}

TEST(lag_tracker, is_zero_while_an_idle_source_goes_on_beating) {
  lag_tracker lag;
  lag.has(10);
  for (int i = 0; i < 100; ++i) {
    lag.heard(10, i * 1s);
    EXPECT_EQ(lag.records(), 0u);
    EXPECT_EQ(lag.behind_for(), 0ns);
  }
}

TEST(lag_tracker, grows_by_the_sources_clock_while_nothing_arrives) {
  lag_tracker lag;
  lag.has(10);
  lag.heard(10, 100s);
  lag.heard(12, 101s);
  EXPECT_EQ(lag.records(), 2u);
  EXPECT_EQ(lag.behind_for(), 0s);
  lag.heard(12, 105s);
  EXPECT_EQ(lag.behind_for(), 4s);
  lag.has(11);
  EXPECT_EQ(lag.records(), 1u);
  EXPECT_EQ(lag.behind_for(), 4s);
  lag.has(12);
  EXPECT_EQ(lag.records(), 0u);
  EXPECT_EQ(lag.behind_for(), 0s);
}

TEST(lag_tracker, stays_constant_for_a_follower_that_runs_a_constant_time_behind_a_busy_source) {
  lag_tracker lag;
  for (int second = 1; second <= 1000; ++second) {
    lag.heard(static_cast<index_t>(second) * 10, second * 1s);
    if (second > 3) lag.has(static_cast<index_t>(second - 3) * 10);
    if (second > 3) {
      EXPECT_EQ(lag.records(), 30u);
      EXPECT_EQ(lag.behind_for(), 2s);  // the oldest missing record was first named by the heartbeat 2 s ago
    }
  }
}

TEST(lag_tracker, far_behind_a_busy_source_never_says_too_much_and_forgets_little) {
  lag_tracker lag;
  lag.heard(0, 0s);
  for (int second = 1; second <= 10'000; ++second) lag.heard(static_cast<index_t>(second), second * 1s);
  EXPECT_EQ(lag.behind_for(), 9'999s);
  for (int has = 0; has < 10'000; has += 7) {
    lag.has(static_cast<index_t>(has));
    const auto truth = (10'000 - has - 1) * 1s;
    EXPECT_LE(lag.behind_for(), truth);
    EXPECT_GE(lag.behind_for() + 10'000s / 30, truth);
  }
  lag.has(10'000);
  EXPECT_EQ(lag.behind_for(), 0s);
}

TEST(lag_tracker, takes_a_clock_that_goes_back_as_standing_still) {
  lag_tracker lag;
  lag.heard(0, 100s);
  lag.heard(5, 101s);
  lag.heard(5, 50s);
  EXPECT_EQ(lag.behind_for(), 0s);
  lag.heard(5, 53s);
  EXPECT_EQ(lag.behind_for(), 3s);
}

TEST(lag_tracker, forgets_records_that_the_source_took_back) {
  lag_tracker lag;
  lag.heard(10, 1s);
  lag.heard(10, 5s);
  EXPECT_EQ(lag.behind_for(), 4s);
  lag.heard(0, 6s);
  EXPECT_EQ(lag.records(), 0u);
  EXPECT_EQ(lag.behind_for(), 0s);
  lag.heard(3, 7s);
  lag.heard(3, 9s);
  EXPECT_EQ(lag.records(), 3u);
  EXPECT_EQ(lag.behind_for(), 2s);
}

TEST(lag_tracker, is_never_negative_whatever_it_hears) {
  const std::uint64_t seed = 20240521;
  SCOPED_TRACE("seed " + std::to_string(seed));
  std::mt19937_64 random(seed);
  constexpr auto longest = std::chrono::nanoseconds::max();
  for (int round = 0; round < 200; ++round) {
    lag_tracker lag;
    for (int step = 0; step < 300; ++step) {
      const auto some = [&](std::uint64_t most) { return random() % (most + 1); };
      if (some(1) == 0) {
        lag.has(some(3) == 0 ? random() : some(40));
      } else {
        const std::chrono::nanoseconds clock(static_cast<std::int64_t>(random() >> 1));
        lag.heard(some(5) == 0 ? random() : some(40), some(9) == 0 ? longest : clock);
      }
      ASSERT_GE(lag.behind_for(), 0ns);
      if (lag.records() == 0) {
        ASSERT_EQ(lag.behind_for(), 0ns);
      }
    }
  }
}

// --- Messages -------------------------------------------------------------------------------------------------------

// Every truncation and every extension of an encoded message is refused; the message itself is read as it was.
template <class Message, class Same>
void check_codec(const Message& sent, Same same) {
  const auto bytes = sent.encode();
  const auto read = Message::decode(bytes_view(bytes));
  ASSERT_TRUE(read.has_value());
  EXPECT_TRUE(same(*read, sent));
  std::vector<std::byte> longer(bytes.begin(), bytes.end());
  for (std::size_t length = 0; length < bytes.size(); ++length) {
    EXPECT_FALSE(Message::decode(bytes_view(longer).first(length)).has_value()) << length;
  }
  for (int more = 1; more <= 16; ++more) {
    longer.push_back(std::byte{0});
    EXPECT_FALSE(Message::decode(longer).has_value());
  }
}

constexpr position somewhere{0x1122334455667788, 0x99aabbccddeeff00, 0x0123456789abcdef};

TEST(catchup_messages, are_read_as_they_were_sent_and_at_no_other_length) {
  subscribe_message subscribe;
  subscribe.have = somewhere;
  subscribe.base = 17;
  subscribe.mode = mode::pull;
  subscribe.max_frame_bytes = 1 << 20;
  check_codec(subscribe, [](const auto& a, const auto& b) {
    return a.have == b.have && a.base == b.base && a.mode == b.mode && a.max_frame_bytes == b.max_frame_bytes;
  });
  check_codec(position_message{somewhere}, [](const auto& a, const auto& b) { return a.position == b.position; });
  check_codec(probe_message{42}, [](const auto& a, const auto& b) { return a.index == b.index; });
  check_codec(fetch_message{1, 2},
              [](const auto& a, const auto& b) { return a.max_bytes == b.max_bytes && a.wait_ns == b.wait_ns; });
  check_codec(diverged_message{somewhere, 9},
              [](const auto& a, const auto& b) { return a.common == b.common && a.source_epoch == b.source_epoch; });
  check_codec(snapshot_message{somewhere, 3, 4, 5}, [](const auto& a, const auto& b) {
    return a.upto == b.upto && a.size == b.size && a.differs_from == b.differs_from && a.source_epoch == b.source_epoch;
  });
  check_codec(heartbeat_message{somewhere, 7},
              [](const auto& a, const auto& b) { return a.last == b.last && a.clock_ns == b.clock_ns; });
  check_codec(failed_message{20, 21}, [](const auto& a, const auto& b) { return a.code == b.code && a.at == b.at; });
}

TEST(catchup_messages, lie_in_words_of_little_endian) {
  const auto bytes = position_message{somewhere}.encode();
  EXPECT_EQ(bytes[0], std::byte{0x88});
  EXPECT_EQ(bytes[7], std::byte{0x11});
  EXPECT_EQ(bytes[8], std::byte{0x00});
  EXPECT_EQ(bytes[23], std::byte{0x01});
}

TEST(catchup_messages, that_no_correct_peer_sends_are_refused) {
  subscribe_message subscribe;
  subscribe.have = {1, 10, 1};
  subscribe.base = 11;  // keeps nothing, not even the position that it presents
  EXPECT_FALSE(subscribe_message::decode(subscribe.encode()));
  subscribe.base = 10;
  EXPECT_TRUE(subscribe_message::decode(subscribe.encode()));
  subscribe.mode = static_cast<mode>(2);
  EXPECT_FALSE(subscribe_message::decode(subscribe.encode()));

  EXPECT_FALSE(snapshot_message::decode(snapshot_message{}.encode())) << "stands for nothing";

  heartbeat_message heartbeat;
  heartbeat.clock_ns = std::uint64_t{1} << 63;
  EXPECT_FALSE(heartbeat_message::decode(heartbeat.encode())) << "before 1970 by the reader's arithmetic";
  --heartbeat.clock_ns;
  EXPECT_TRUE(heartbeat_message::decode(heartbeat.encode()));
}

}  // namespace
}  // namespace lockstep::catchup
