// The program that ends in any state: its objects are destroyed while coroutines of catch-up are suspended anywhere.

#include "lockstep/catchup/source.hpp"

#include "lockstep/catchup/follower.hpp"
#include "world.hpp"

#include <gtest/gtest.h>

#include <chrono>
#include <functional>
#include <memory>
#include <optional>
#include <string>

namespace lockstep::test {
namespace {

using namespace std::chrono_literals;

// What a program holds, in the order in which it declares it: the end comes in the reverse order, without joins.
struct program {
  explicit program(const follower_options& options) : source(in, source_disk), follower(in, follower_disk, options) {}

  void connect() {
    auto pipes = connected_pipes(in);
    at_source.emplace(source.at.env, std::move(pipes.first), channel_of(1));
    at_follower.emplace(follower.at.env, std::move(pipes.second), channel_of(2));
    asio::co_spawn(in.io, serve(source.source, *at_source), ignore);
    asio::co_spawn(in.io, follow(follower.follower, *at_follower), ignore);
  }
  static void ignore(std::exception_ptr) {}

  // @return false when the program had nothing more to do before.
  bool run_handlers(unsigned count) {
    unsigned handlers = 0;
    return in.run_until([&] { return handlers++ == count; }, 3s);
  }

  faulty_disk source_disk;
  faulty_disk follower_disk;
  world in;
  leader source;
  replica follower;
  std::optional<test_channel> at_source;
  std::optional<test_channel> at_follower;
};

using preparation = void (*)(program&);

void to_push(program& of) {
  of.source.at.append(300, 1, "a record of some length, so that there are several batches");
  of.follower.at.append(3, 1, "a record of some length, so that there are several batches");
}
void to_search(program& of) {
  of.source.at.append(20, 3, "source's");
  of.follower.at.append(20, 2, "follower's");
}
void to_send_a_snapshot(program& of) {
  for (int i = 0; i < 100; ++i) of.source.at.append_one(1, std::string(600, 'f'));
  of.source.at.append(1);
  of.in.run(of.source.log().compact_prefix(80));
  of.source.snapshots.upto = of.source.at.at(90);
  of.source.snapshots.bytes = std::string(200'000, 's');
}

struct ending {
  const char* name;
  preparation prepare;
  bool pulls;
};

class catchup_lifetime : public testing::TestWithParam<ending> {
 protected:
  static follower_options options() {
    follower_options result = GetParam().pulls ? pulling(100ms) : follower_options();
    result.on_divergence = repair::save_and_truncate;
    result.max_batch_bytes = 2000;
    return result;
  }
  // All steps near the beginning, and then fewer.
  static unsigned next(unsigned step) { return step < 200 ? step + 1 : step + step / 20; }
};

TEST_P(catchup_lifetime, may_end_with_the_program_after_any_step) {
  bool more = true;
  for (unsigned step = 0; more && step < 3000; step = next(step)) {
    SCOPED_TRACE("ends after " + std::to_string(step) + " handlers");
    program ends(options());
    GetParam().prepare(ends);
    ends.connect();
    more = ends.run_handlers(step);
  }
}

TEST_P(catchup_lifetime, may_end_with_the_program_while_a_sync_is_under_way) {
  for (const bool at_source : {true, false}) {
    for (unsigned step = 0; step < 120; step += 3) {
      program ends(options());
      GetParam().prepare(ends);
      (at_source ? ends.source_disk : ends.follower_disk).hold_syncs();
      ends.connect();
      (void)ends.source.at.append_one(5, "staged");
      (void)ends.run_handlers(step);
    }
  }
}

TEST_P(catchup_lifetime, of_a_channel_may_end_after_any_step_while_the_rest_goes_on) {
  for (const bool of_the_source : {true, false}) {
    bool more = true;
    for (unsigned step = 0; more && step < 600; step = next(step)) {
      SCOPED_TRACE("ends after " + std::to_string(step) + " handlers");
      program goes_on(options());
      GetParam().prepare(goes_on);
      auto pipes = connected_pipes(goes_on.in);
      auto at_source = std::make_unique<test_channel>(goes_on.source.at.env, std::move(pipes.first), channel_of(1));
      auto at_follower =
          std::make_unique<test_channel>(goes_on.follower.at.env, std::move(pipes.second), channel_of(2));
      auto serving = start(goes_on.in.io, serve(goes_on.source.source, *at_source));
      auto following = start(goes_on.in.io, follow(goes_on.follower.follower, *at_follower));
      more = goes_on.run_handlers(step);
      (of_the_source ? at_source : at_follower)->abort();
      ASSERT_TRUE(goes_on.in.run_until([&] { return serving.done() && following.done(); }));
      at_source.reset();
      at_follower.reset();
      goes_on.in.settle();
      EXPECT_TRUE(goes_on.source.source.followers().empty());
      EXPECT_FALSE(goes_on.follower.follower.state().connected);
    }
  }
}

TEST_P(catchup_lifetime, of_the_sources_log_may_end_after_any_step) {
  bool more = true;
  for (unsigned step = 6; more && step < 600; step = next(step)) {
    SCOPED_TRACE("closes after " + std::to_string(step) + " handlers");
    program goes_on(options());
    GetParam().prepare(goes_on);
    auto pipes = connected_pipes(goes_on.in);
    test_channel at_source(goes_on.source.at.env, std::move(pipes.first), channel_of(1));
    test_channel at_follower(goes_on.follower.at.env, std::move(pipes.second), channel_of(2));
    auto serving = start(goes_on.in.io, serve(goes_on.source.source, at_source));
    auto following = start(goes_on.in.io, follow(goes_on.follower.follower, at_follower));
    more = goes_on.run_handlers(step);
    goes_on.source.at.close();
    ASSERT_TRUE(goes_on.in.run_until([&] { return serving.done() && following.done(); }));
    EXPECT_EQ(serving.error(), errc::closed);
    EXPECT_TRUE(following.failed());
  }
}

TEST_P(catchup_lifetime, of_the_followers_log_may_end_after_any_step) {
  bool more = true;
  for (unsigned step = 6; more && step < 600; step = next(step)) {
    SCOPED_TRACE("closes after " + std::to_string(step) + " handlers");
    program goes_on(options());
    GetParam().prepare(goes_on);
    auto pipes = connected_pipes(goes_on.in);
    test_channel at_source(goes_on.source.at.env, std::move(pipes.first), channel_of(1));
    test_channel at_follower(goes_on.follower.at.env, std::move(pipes.second), channel_of(2));
    auto serving = start(goes_on.in.io, serve(goes_on.source.source, at_source));
    auto following = start(goes_on.in.io, follow(goes_on.follower.follower, at_follower));
    more = goes_on.run_handlers(step);
    goes_on.follower.at.close();
    (void)goes_on.source.at.append_one(9, "what the closed log can't take");
    ASSERT_TRUE(goes_on.in.run_until([&] { return serving.done() && following.done(); }));
    EXPECT_EQ(following.error(), errc::closed);
  }
}

INSTANTIATE_TEST_SUITE_P(of, catchup_lifetime,
                         testing::Values(ending{"push", to_push, false}, ending{"pull", to_push, true},
                                         ending{"search", to_search, false},
                                         ending{"snapshot", to_send_a_snapshot, false}),
                         [](const auto& each) { return std::string(each.param.name); });

}  // namespace
}  // namespace lockstep::test
