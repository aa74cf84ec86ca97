#include "lockstep/sequencer/sender_table.hpp"

#include <gtest/gtest.h>

namespace lockstep::sequencer {
namespace {

using what = sender_table::what;

class table : public sender_table {
 public:
  explicit table(const sender_limits& limits = {}) : sender_table(limits) {}
  void say(sender_id sender, std::uint64_t n, std::uint64_t time_ns = 0) { deliver({sender, n, time_ns, {}}, ++last_); }
  [[nodiscard]] what is(sender_id sender, std::uint64_t n, std::uint64_t since_ns = 0) const {
    return check(sender, n, since_ns).is;
  }

 private:
  index_t last_ = 0;
};

TEST(sequencer_senders, a_sender_begins_with_its_first_message_and_goes_on_with_the_next) {
  table of;
  EXPECT_EQ(of.is(7, 2), what::unknown);
  EXPECT_EQ(of.is(7, 1), what::next);
  of.say(7, 1);
  EXPECT_EQ(of.is(7, 2), what::next);
  EXPECT_EQ(of.is(7, 3), what::out_of_turn);
}

TEST(sequencer_senders, the_numbers_of_a_window_are_remembered) {
  sender_limits three;
  three.window = 3;
  table of(three);
  for (std::uint64_t n = 1; n <= 5; ++n) of.say(7, n), of.say(8, n);
  EXPECT_EQ(of.is(7, 2), what::forgotten);
  for (std::uint64_t n = 3; n <= 5; ++n) {
    EXPECT_EQ(of.is(7, n), what::ordered);
    EXPECT_EQ(of.check(7, n, 0).index, 2 * n - 1);
  }
}

TEST(sequencer_senders, what_is_numbered_and_not_delivered_is_pending) {
  table of;
  of.say(7, 1);
  of.number(7, 2);
  of.number(7, 3);
  of.number(8, 1);
  EXPECT_EQ(of.is(7, 1), what::ordered);
  EXPECT_EQ(of.is(7, 2), what::pending);
  EXPECT_EQ(of.is(7, 3), what::pending);
  EXPECT_EQ(of.is(7, 4), what::next);
  EXPECT_EQ(of.is(8, 2), what::next);
  of.say(7, 2);
  EXPECT_EQ(of.is(7, 2), what::ordered);
  EXPECT_EQ(of.is(7, 3), what::pending);
  of.forget_pending();
  EXPECT_EQ(of.is(7, 3), what::next);
  EXPECT_EQ(of.is(8, 1), what::next);
}

TEST(sequencer_senders, who_is_silent_for_longer_than_allowed_is_forgotten_and_not_ordered_twice) {
  sender_limits short_lived;
  short_lived.expiry_ns = 10;
  table of(short_lived);
  of.say(7, 1, 100);
  of.say(8, 1, 110);
  EXPECT_EQ(of.is(7, 2, 100), what::next);
  of.say(8, 2, 111);
  EXPECT_EQ(of.is(7, 2, 100), what::unknown);
  EXPECT_EQ(of.is(7, 1, 100), what::unknown) << "it may have been ordered and forgotten";
  EXPECT_EQ(of.is(7, 1, 101), what::next) << "it was not: what began then is remembered still";
  EXPECT_EQ(of.size(), 1u);
}

TEST(sequencer_senders, time_never_goes_back) {
  table of;
  of.say(7, 1, 100);
  of.say(7, 2, 50);
  EXPECT_EQ(of.time_ns(), 100u);
}

TEST(sequencer_senders, one_too_many_is_refused_and_forgets_nobody) {
  sender_limits two;
  two.max_senders = 2;
  table of(two);
  of.say(7, 1);
  of.number(8, 1);
  EXPECT_EQ(of.is(9, 1), what::full);
  EXPECT_EQ(of.is(7, 2), what::next);
  EXPECT_EQ(of.is(8, 2), what::next);
}

TEST(sequencer_senders, what_is_pending_changes_nothing_of_what_others_remember) {
  sender_limits short_lived;
  short_lived.expiry_ns = 10;
  table leader(short_lived);
  table follower(short_lived);
  const auto both = [&](sender_id sender, std::uint64_t n, std::uint64_t time_ns) {
    leader.say(sender, n, time_ns);
    follower.say(sender, n, time_ns);
  };
  both(7, 1, 100);
  both(9, 1, 100);
  leader.number(7, 2);
  both(8, 1, 120);  // 7 expires while its next message is under way
  EXPECT_TRUE(leader == follower);
  EXPECT_EQ(follower.size(), 1u);
  EXPECT_EQ(leader.is(7, 1), what::forgotten);
  EXPECT_EQ(leader.is(7, 2), what::pending);
  both(7, 2, 121);
  EXPECT_TRUE(leader == follower);
  EXPECT_EQ(follower.is(7, 3), what::next);
  EXPECT_EQ(follower.is(7, 1), what::forgotten);
  both(8, 2, 122);
  const table copied = leader;
  EXPECT_TRUE(copied == follower);
  leader.say(8, 3, 123);
  EXPECT_FALSE(leader == follower);
  EXPECT_TRUE(copied == follower);
}

}  // namespace
}  // namespace lockstep::sequencer
