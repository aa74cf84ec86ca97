// Connections that end anywhere: after each byte of each side, in parts of any size, again and again. The follower
// gets each record once, and in the end the logs are equal.

#include "lockstep/catchup/source.hpp"

#include "lockstep/catchup/follower.hpp"
#include "world.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <map>
#include <string>

namespace lockstep::test {
namespace {

// A source, a follower, and what they begin with.
struct scene {
  explicit scene(const std::function<void(scene&)>& prepare, follower_options options = repairing())
      : source(in, source_disk), follower(in, follower_disk, options) {
    prepare(*this);
  }
  ~scene() {
    source.at.close();
    follower.at.close();
  }

  // A connection that ends after so many bytes of one side. @return whether the follower has everything.
  bool connect(unsigned side, std::uint64_t cut_after, std::uint64_t chunk_seed) {
    wire_options wire;
    wire.cut_after[side] = cut_after;
    wire.chunk_seed = chunk_seed;
    connection link(in, source, follower, wire);
    EXPECT_TRUE(in.run_until([&] { return follower.has_all_of(source) || link.over(); }));
    in.settle();
    for (const auto* each : {&link.serving, &link.following}) {
      if (each->done()) expect_only_the_cut(each->error());
    }
    return follower.has_all_of(source);
  }

  // The connection's end is the only thing that goes wrong.
  static void expect_only_the_cut(std::error_code ec) {
    const bool cut = !ec || ec == asio::error::eof || ec == asio::error::connection_reset ||
                     ec == asio::error::broken_pipe || ec == errc::truncated || ec == errc::closed;
    EXPECT_TRUE(cut) << ec.message();
  }

  world in;
  faulty_disk source_disk;
  faulty_disk follower_disk;
  leader source;
  replica follower;
};

// Twelve records, some of which the follower has.
void plain(scene& of) {
  of.source.at.append(12, 1, "r");
  of.follower.at.append(3, 1, "r");
}

// The follower has records of its own behind the fifth.
void diverged(scene& of) {
  of.source.at.append(5, 1, "common");
  of.follower.at.append(5, 1, "common");
  of.source.at.append(7, 3, "source's");
  of.follower.at.append(4, 2, "follower's");
}

// What the follower lacks is compacted.
void compacted(scene& of) {
  for (int i = 0; i < 60; ++i) of.source.at.append_one(1, std::string(700, 'f'));
  of.source.at.append(6);
  of.in.run(of.source.log().compact_prefix(50));
  ASSERT_GT(of.source.log().base().index, 20u);
  of.source.snapshots.upto = of.source.at.at(60);
  of.source.snapshots.bytes = std::string(500, 's');
}

const std::map<std::string, void (*)(scene&)> scenes = {
    {"plain", plain}, {"diverged", diverged}, {"compacted", compacted}};

class catchup_cutting : public testing::TestWithParam<std::string> {
 protected:
  static void expect_everything_once(scene& of) {
    expect_equal(of.source, of.follower);
    // Received in order, each once: the batches continue each other, except where the log was cut or reset.
    index_t next = 0;
    for (const auto& [first, last] : of.follower.told.batches) {
      if (next != 0) {
        EXPECT_EQ(first, next);
      }
      next = last + 1;
    }
    if (!of.follower.told.batches.empty()) {
      EXPECT_EQ(next, of.source.log().last().index + 1);
    }
  }
};

TEST_P(catchup_cutting, after_each_byte_of_either_side_leaves_what_the_next_connection_completes) {
  for (const unsigned side : {0u, 1u}) {
    unsigned incomplete = 0;
    for (std::uint64_t cut = 0;; ++cut) {
      SCOPED_TRACE("side " + std::to_string(side) + " cut after " + std::to_string(cut) + " bytes");
      scene of(scenes.at(GetParam()));
      const bool all = of.connect(side, cut, 0);
      if (!all) {
        ++incomplete;
        ASSERT_TRUE(of.connect(side, wire_options::forever, 0));
      }
      expect_everything_once(of);
      ASSERT_FALSE(HasFailure());
      ASSERT_LT(cut, 100'000u);
      // Past the last byte that matters, some more cuts change nothing.
      static constexpr unsigned calm = 30;
      if (all && cut > incomplete + calm) break;
    }
    EXPECT_GT(incomplete, 100u);
  }
}

TEST_P(catchup_cutting, again_and_again_in_parts_of_random_size_gets_everything_in_the_end) {
  for (std::uint64_t seed = 1; seed <= 150; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    std::mt19937_64 random(seed);
    scene of(scenes.at(GetParam()));
    bool all = false;
    for (int life = 0; !all; ++life) {
      ASSERT_LT(life, 500);
      const std::uint64_t most = 150 + static_cast<std::uint64_t>(life) * 40;
      all = of.connect(static_cast<unsigned>(random() % 2), random() % most, random() | 1);
      if (random() % 4 == 0) {
        of.source.at.append(1, 3);
        all = of.follower.has_all_of(of.source);
      }
    }
    expect_everything_once(of);
    ASSERT_FALSE(HasFailure());
  }
}

TEST_P(catchup_cutting, by_either_program_after_each_step_leaves_what_the_next_connection_completes) {
  for (const unsigned side : {0u, 1u}) {
    bool cut = true;
    for (unsigned step = 0; cut; ++step) {
      SCOPED_TRACE("side " + std::to_string(side) + " aborts after " + std::to_string(step) + " handlers");
      scene of(scenes.at(GetParam()));
      {
        connection link(of.in, of.source, of.follower);
        unsigned handlers = 0;
        ASSERT_TRUE(of.in.run_until([&] { return handlers++ == step || of.follower.has_all_of(of.source); }));
        cut = !of.follower.has_all_of(of.source);
        (side == 0 ? link.at_source : link.at_follower).abort();
        ASSERT_TRUE(link.ends());
        for (const auto* each : {&link.serving, &link.following}) scene::expect_only_the_cut(each->error());
      }
      ASSERT_TRUE(of.connect(0, wire_options::forever, 0));
      expect_everything_once(of);
      ASSERT_FALSE(HasFailure());
    }
  }
}

TEST_P(catchup_cutting, by_cancellation_of_either_side_after_each_step_leaves_what_the_next_connection_completes) {
  for (const unsigned side : {0u, 1u}) {
    bool cut = true;
    // By the sixth handler both coroutines run.
    for (unsigned step = 6; cut; ++step) {
      SCOPED_TRACE("side " + std::to_string(side) + " is cancelled after " + std::to_string(step) + " handlers");
      scene of(scenes.at(GetParam()));
      {
        connection link(of.in, of.source, of.follower);
        unsigned handlers = 0;
        ASSERT_TRUE(of.in.run_until([&] { return handlers++ == step || of.follower.has_all_of(of.source); }));
        cut = !of.follower.has_all_of(of.source);
        auto& cancelled = side == 0 ? link.serving : link.following;
        cancelled.cancel();
        ASSERT_TRUE(of.in.run_until([&] { return cancelled.done(); }));
        const std::error_code ec = cancelled.error();
        EXPECT_TRUE(!ec || is_cancelled(ec)) << ec.message();
        ASSERT_TRUE(link.ends());
      }
      ASSERT_TRUE(of.connect(0, wire_options::forever, 0));
      expect_everything_once(of);
      ASSERT_FALSE(HasFailure());
    }
  }
}

INSTANTIATE_TEST_SUITE_P(of, catchup_cutting, testing::Values("plain", "diverged", "compacted"),
                         [](const auto& of) { return of.param; });

TEST(catchup_cutting_a_pull, after_each_byte_leaves_what_the_next_connection_completes) {
  follower_options options = pulling(std::chrono::seconds(1));
  options.max_batch_bytes = 100;
  for (const unsigned side : {0u, 1u}) {
    for (std::uint64_t cut = 0; cut < 1500; ++cut) {
      SCOPED_TRACE("side " + std::to_string(side) + " cut after " + std::to_string(cut) + " bytes");
      scene of(plain, options);
      if (!of.connect(side, cut, cut)) {
        ASSERT_TRUE(of.connect(side, wire_options::forever, cut + 1));
      }
      expect_equal(of.source, of.follower);
      EXPECT_EQ(of.follower.told.records, 9u);
      ASSERT_FALSE(testing::Test::HasFailure());
    }
  }
}

}  // namespace
}  // namespace lockstep::test
