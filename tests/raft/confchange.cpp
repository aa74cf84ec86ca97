#include "lockstep/raft/confchange.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <map>
#include <optional>
#include <ostream>
#include <random>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace lockstep::raft {

void PrintTo(change_error error, std::ostream* to) { *to << describe(error); }

namespace {

change voter(node_id id, std::string address = {}) { return {change_type::add_voter, id, std::move(address)}; }
change learner(node_id id, std::string address = {}) { return {change_type::add_learner, id, std::move(address)}; }
change witness(node_id id, std::string address = {}) { return {change_type::add_witness, id, std::move(address)}; }
change removal(node_id id) { return {change_type::remove, id, {}}; }

using changes = std::vector<change>;

configuration of_voters(majority voters, id_set learners = {}, id_set witnesses = {}) {
  configuration c;
  c.voters.incoming = std::move(voters);
  c.learners = std::move(learners);
  c.witnesses = std::move(witnesses);
  return c;
}

/// What a change comes to, when it must succeed.
configuration done(const change_result& result) {
  EXPECT_EQ(result.error, change_error::none);
  return result.config;
}

configuration joint_of(const configuration& now, const changes& wanted) {
  return done(enter_joint(now, wanted, false));
}

// --- Simple changes ---

TEST(raft_confchange, a_simple_change_lets_one_voter_differ) {
  struct {
    configuration now;
    changes wanted;
    configuration then;
  } const table[]{
      {{}, {voter(1)}, of_voters({1})},
      {of_voters({1}), {voter(2)}, of_voters({1, 2})},
      {of_voters({1, 2}), {removal(2)}, of_voters({1})},
      {of_voters({1, 2}), {learner(2)}, of_voters({1}, {2})},
      {of_voters({1}, {2}), {voter(2)}, of_voters({1, 2})},
      {of_voters({1}), {learner(2), learner(3), voter(4)}, of_voters({1, 4}, {2, 3})},
      {of_voters({1}, {2, 3}), {removal(2), removal(3)}, of_voters({1})},
      {of_voters({1, 2}), {witness(3)}, of_voters({1, 2, 3}, {}, {3})},
      {of_voters({1, 2}, {3}), {witness(3)}, of_voters({1, 2, 3}, {}, {3})},
      {of_voters({1, 2, 3}), {witness(3)}, of_voters({1, 2, 3}, {}, {3})},
      {of_voters({1, 2, 3}, {}, {3}), {removal(3)}, of_voters({1, 2})},
  };
  for (const auto& row : table) EXPECT_EQ(done(simple_change(row.now, row.wanted)), row.then);
}

TEST(raft_confchange, the_last_change_of_a_node_counts) {
  const configuration now = of_voters({1, 2, 3});
  EXPECT_EQ(done(simple_change(now, changes{learner(3), voter(3)})), now);
  EXPECT_EQ(done(simple_change(now, changes{witness(3), voter(3)})), now);
  EXPECT_EQ(done(simple_change(now, changes{removal(3), voter(3)})), now);
  EXPECT_EQ(done(simple_change(now, changes{voter(3), learner(3)})), of_voters({1, 2}, {3}));
  EXPECT_EQ(done(simple_change(now, changes{witness(3), removal(3)})), of_voters({1, 2}));
}

TEST(raft_confchange, what_is_so_already_changes_nothing) {
  const configuration now = of_voters({1, 2, 3}, {4}, {3});
  EXPECT_EQ(done(simple_change(now, changes{voter(1), learner(4), witness(3), removal(9)})), now);
  EXPECT_EQ(done(simple_change(now, {})), now);
}

TEST(raft_confchange, node_0_is_ignored) {
  EXPECT_EQ(done(simple_change(of_voters({1}), changes{voter(0), learner(0), witness(0), removal(0)})), of_voters({1}));
}

TEST(raft_confchange, a_simple_change_of_two_voters_is_refused) {
  const configuration now = of_voters({1, 2, 3});
  for (const changes& each :
       {changes{voter(4), voter(5)}, changes{removal(3), voter(4)}, changes{removal(2), removal(3)},
        changes{learner(3), voter(4)}, changes{witness(3), voter(4)}, changes{witness(3), removal(2), voter(4)}}) {
    EXPECT_EQ(simple_change(now, each).error, change_error::too_many_voters);
  }
}

// --- Joint changes ---

TEST(raft_confchange, entering_keeps_the_old_voters_as_the_outgoing_half) {
  configuration then = of_voters({3, 4}, {5});
  then.voters.outgoing = {1, 2, 3};
  EXPECT_EQ(joint_of(of_voters({1, 2, 3}), {removal(1), removal(2), voter(4), learner(5)}), then);
}

TEST(raft_confchange, auto_leave_is_kept_while_the_configuration_is_joint) {
  const configuration joint = done(enter_joint(of_voters({1}), changes{voter(2)}, true));
  EXPECT_TRUE(joint.auto_leave);
  EXPECT_FALSE(done(leave_joint(joint)).auto_leave);
}

TEST(raft_confchange, a_demoted_voter_becomes_a_learner_when_the_joint_configuration_is_left) {
  const configuration joint = joint_of(of_voters({1, 2}), {learner(2)});
  EXPECT_EQ(joint.voters.incoming, majority({1}));
  EXPECT_EQ(joint.learners, id_set());
  EXPECT_EQ(joint.learners_next, id_set({2}));
  EXPECT_EQ(done(leave_joint(joint)), of_voters({1}, {2}));
}

TEST(raft_confchange, a_demotion_that_is_taken_back_leaves_no_trace) {
  const configuration now = of_voters({1, 2});
  for (const changes& each : {changes{learner(2), voter(2)}, changes{learner(2), removal(2), voter(2)}}) {
    EXPECT_EQ(done(leave_joint(joint_of(now, each))), now);
  }
  EXPECT_EQ(done(leave_joint(joint_of(now, {learner(2), removal(2)}))), of_voters({1}));
}

TEST(raft_confchange, an_outgoing_witness_is_one_until_the_joint_configuration_is_left) {
  const configuration now = of_voters({1, 2, 3}, {}, {3});
  const configuration joint = joint_of(now, {removal(3), voter(4)});
  EXPECT_EQ(joint.witnesses, id_set({3}));
  EXPECT_EQ(done(leave_joint(joint)), of_voters({1, 2, 4}));
  EXPECT_EQ(done(leave_joint(joint_of(now, {removal(3), witness(3)}))), now);
}

TEST(raft_confchange, an_outgoing_voter_that_becomes_a_witness_is_one_at_once) {
  const configuration now = of_voters({1, 2, 3});
  EXPECT_EQ(joint_of(now, {witness(3), voter(4)}).witnesses, id_set({3}));
  EXPECT_EQ(joint_of(now, {witness(3), removal(3)}).witnesses, id_set());
}

// --- Refusals ---

TEST(raft_confchange, a_joint_configuration_is_left_before_the_next_change) {
  const configuration joint = joint_of(of_voters({1}), {});
  EXPECT_EQ(simple_change(joint, changes{learner(2)}).error, change_error::already_joint);
  EXPECT_EQ(enter_joint(joint, changes{learner(2)}, true).error, change_error::already_joint);
}

TEST(raft_confchange, only_a_joint_configuration_can_be_left) {
  EXPECT_EQ(leave_joint(of_voters({1})).error, change_error::not_joint);
  EXPECT_EQ(leave_joint({}).error, change_error::not_joint);
}

TEST(raft_confchange, an_empty_configuration_cannot_become_joint) {
  EXPECT_EQ(enter_joint({}, changes{voter(1)}, true).error, change_error::no_voters_yet);
}

TEST(raft_confchange, the_last_voter_stays) {
  const configuration now = of_voters({1, 2});
  for (const changes& each : {changes{removal(1), removal(2)}, changes{learner(1), removal(2)}}) {
    EXPECT_EQ(simple_change(now, each).error, change_error::no_voters_left);
    EXPECT_EQ(enter_joint(now, each, true).error, change_error::no_voters_left);
  }
  EXPECT_EQ(simple_change({}, changes{learner(1)}).error, change_error::no_voters_left);
}

TEST(raft_confchange, a_witness_has_no_payloads_to_lead_or_to_learn_with) {
  const configuration now = of_voters({1, 2, 3}, {}, {3});
  for (const changes& each : {changes{voter(3)}, changes{learner(3)}, changes{removal(3), voter(3)}}) {
    EXPECT_EQ(simple_change(now, each).error, change_error::witness_has_no_log);
    EXPECT_EQ(enter_joint(now, each, true).error, change_error::witness_has_no_log);
  }
  const configuration without = done(simple_change(now, changes{removal(3)}));
  EXPECT_EQ(done(simple_change(without, changes{voter(3)})), of_voters({1, 2, 3}));
}

TEST(raft_confchange, witnesses_never_suffice_in_either_half) {
  EXPECT_EQ(simple_change({}, changes{witness(1)}).error, change_error::witnesses_suffice);
  EXPECT_EQ(simple_change(of_voters({1, 2, 3}, {}, {3}), changes{removal(1), removal(2), voter(2), witness(2)}).error,
            change_error::witnesses_suffice);
  // In the outgoing half alone: 2 and 3 would decide in {1, 2, 3}.
  EXPECT_EQ(enter_joint(of_voters({1, 2, 3}, {}, {3}), changes{witness(2), voter(4), voter(5)}, true).error,
            change_error::witnesses_suffice);
}

TEST(raft_confchange, a_set_has_room_for_255) {
  configuration full = of_voters({1});
  for (node_id id = 2; full.learners.size() < max_set_size; ++id) full.learners.insert(id);
  EXPECT_EQ(simple_change(full, changes{learner(1000)}).error, change_error::too_many_members);
  EXPECT_TRUE(simple_change(full, changes{removal(2), learner(1000)}));
}

TEST(raft_confchange, every_error_has_its_own_sentence) {
  std::set<std::string_view> sentences;
  for (int i = 0; i <= static_cast<int>(change_error::address_too_long); ++i) {
    sentences.insert(describe(static_cast<change_error>(i)));
  }
  EXPECT_EQ(sentences.size(), static_cast<std::size_t>(change_error::address_too_long) + 1);
  EXPECT_EQ(sentences.count("Unknown error."), 0u);
}

// --- Addresses ---

TEST(raft_confchange, an_address_comes_with_its_node_and_goes_with_it) {
  configuration c = done(simple_change({}, changes{voter(1, "a")}));
  c = done(simple_change(c, changes{learner(2, "b")}));
  EXPECT_EQ(c.addresses, (std::map<node_id, std::string>{{1, "a"}, {2, "b"}}));
  c = done(simple_change(c, changes{voter(2)}));
  EXPECT_EQ(c.addresses.at(2), "b") << "kept when no other is told";
  c = done(simple_change(c, changes{voter(2, "c")}));
  EXPECT_EQ(c.addresses.at(2), "c");
  const configuration joint = joint_of(c, {removal(2)});
  EXPECT_EQ(joint.addresses.at(2), "c") << "still a voter";
  EXPECT_EQ(done(leave_joint(joint)).addresses, (std::map<node_id, std::string>{{1, "a"}}));
}

TEST(raft_confchange, a_removal_tells_no_address) {
  change gone = removal(2);
  gone.address = "nowhere";
  EXPECT_EQ(joint_of(of_voters({1, 2}), {gone}).addresses.size(), 0u);
}

TEST(raft_confchange, an_address_has_at_most_255_bytes) {
  EXPECT_TRUE(simple_change({}, changes{voter(1, std::string(255, 'x'))}));
  EXPECT_EQ(simple_change({}, changes{voter(1, std::string(256, 'x'))}).error, change_error::address_too_long);
}

// --- Lists ---

TEST(raft_confchange, a_list_is_applied_as_it_says) {
  const configuration now = of_voters({1, 2});
  const changes wanted{voter(3)};
  EXPECT_EQ(apply(now, {transition::simple, wanted}).config, simple_change(now, wanted).config);
  EXPECT_EQ(apply(now, {transition::joint_explicit, wanted}).config, enter_joint(now, wanted, false).config);
  EXPECT_EQ(apply(now, {transition::joint_auto_leave, wanted}).config, enter_joint(now, wanted, true).config);
}

TEST(raft_confchange, a_joint_change_is_needed_when_several_voters_differ) {
  const configuration now = of_voters({1, 2, 3}, {4});
  for (const changes& each : {changes{}, changes{voter(4)}, changes{removal(3)}, changes{learner(5), learner(6)},
                              changes{learner(3), learner(5)}, changes{voter(5), removal(5)}}) {
    EXPECT_EQ(needed_transition(now, each), transition::simple);
  }
  for (const changes& each : {changes{voter(4), voter(5)}, changes{removal(3), voter(5)}, changes{learner(2), voter(4)},
                              changes{removal(2), removal(3)}}) {
    EXPECT_EQ(needed_transition(now, each), transition::joint_auto_leave);
  }
}

std::string encoded(const change_list& list) {
  byte_buffer bytes;
  encode_changes(bytes, list);
  return std::string(as_text(bytes.view()));
}

std::optional<change_list> decoded(std::string_view bytes) { return decode_changes(as_bytes(bytes)); }

const change_list some{transition::joint_explicit, {voter(1, "a"), learner(2), witness(300, "bc"), removal(0)}};

TEST(raft_confchange, the_bytes_of_a_list_are_as_drawn) {
  using namespace std::string_literals;
  EXPECT_EQ(encoded({transition::joint_auto_leave, {witness(258, "ab")}}),
            "\x01\x01\x01\0"s + "\x03\x02\x02\x01\0\0\0\0\0\0"s + "ab"s);
}

TEST(raft_confchange, a_list_comes_back_as_it_was) {
  change_list longest{transition::simple, changes(max_changes, voter(1, std::string(255, 'x')))};
  for (const change_list& each : {change_list(), some, longest}) EXPECT_EQ(decoded(encoded(each)), each);
}

TEST(raft_confchange, a_list_cut_short_or_continued_is_refused) {
  const std::string whole = encoded(some);
  for (std::size_t size = 0; size < whole.size(); ++size) {
    EXPECT_FALSE(decoded(std::string_view(whole).substr(0, size))) << size;
  }
  EXPECT_FALSE(decoded(whole + 'x'));
}

TEST(raft_confchange, malformed_lists_are_refused) {
  struct {
    std::string_view what;
    std::size_t at;
    char value;
  } const table[]{
      {"another version", 0, 2}, {"an unknown transition", 1, 3}, {"more changes than there are bytes", 2, 5},
      {"type 0", 4, 0},          {"an unknown type", 4, 5},       {"a length beyond the end", 5, '\xff'},
  };
  for (const auto& row : table) {
    std::string bad = encoded(some);
    bad[row.at] = row.value;
    EXPECT_FALSE(decoded(bad)) << row.what;
  }
}

TEST(raft_confchange, a_list_of_too_many_changes_is_refused) {
  std::string bytes = encoded({transition::simple, changes(max_changes, removal(1))});
  bytes += bytes.substr(4, 10);
  store_le<std::uint16_t>(reinterpret_cast<std::byte*>(bytes.data()) + 2, max_changes + 1);
  EXPECT_FALSE(decoded(bytes));
}

// --- Random sequences ---

changes some_changes(std::mt19937_64& random) {
  changes result;
  for (std::uint64_t left = random() % 4; left != 0; --left) {
    const auto type = static_cast<change_type>(1 + random() % 4);
    const node_id id = random() % 8;
    const std::uint64_t length = random() % 3;
    result.push_back({type, id, std::string(length, 'x')});
  }
  return result;
}

/// Whether each majority of the one shares a voter with each majority of the other.
bool majorities_overlap(const majority& a, const majority& b) {
  const std::size_t only_a = a.size() - a.common_with(b);
  const std::size_t only_b = b.size() - b.common_with(a);
  // A majority of a that avoids as much of the common part as it can leaves the rest of it to a majority of b.
  const std::size_t common_needed_by_a = a.quorum() > only_a ? a.quorum() - only_a : 0;
  const std::size_t common_needed_by_b = b.quorum() > only_b ? b.quorum() - only_b : 0;
  return common_needed_by_a + common_needed_by_b > a.common_with(b);
}

/// Nobody stores payloads who has been a witness since it was last no member.
void expect_no_witness_got_payloads(const configuration& before, const configuration& after) {
  for (const node_id id : before.witnesses) {
    EXPECT_TRUE(after.witnesses.contains(id) || !after.is_member(id)) << id;
  }
}

TEST(raft_confchange, random_sequences_keep_every_invariant) {
  std::mt19937_64 random(2);
  std::array<int, 3> succeeded{};
  configuration c = of_voters({1, 2, 3});
  for (int round = 0; round < 20'000; ++round) {
    const changes wanted = some_changes(random);
    const std::uint64_t operation = random() % 3;
    const bool auto_leave = random() % 2 == 0;
    const change_result result = operation == 0   ? simple_change(c, wanted)
                                 : operation == 1 ? enter_joint(c, wanted, auto_leave)
                                                  : leave_joint(c);
    if (!result) continue;
    ++succeeded.at(operation);
    const configuration& next = result.config;
    ASSERT_EQ(broken_invariant(next), std::nullopt) << round;
    ASSERT_EQ(next.is_joint(), operation == 1) << round;
    if (operation == 0) {
      ASSERT_TRUE(majorities_overlap(c.voters.incoming, next.voters.incoming)) << round;
    }
    if (operation == 1) {
      ASSERT_EQ(next.voters.outgoing, c.voters.incoming) << round;
    }
    if (operation == 2) {
      ASSERT_EQ(next.voters.incoming, c.voters.incoming) << round;
    }
    expect_no_witness_got_payloads(c, next);
    byte_buffer bytes;
    encode_configuration(bytes, next);
    ASSERT_EQ(decode_configuration(bytes.view()), next) << round;
    c = next;
  }
  for (const int count : succeeded) EXPECT_GT(count, 1000);
}

TEST(raft_confchange, a_joint_change_comes_to_what_a_simple_one_does) {
  std::mt19937_64 random(3);
  int compared = 0;
  configuration c = of_voters({1, 2, 3});
  for (int round = 0; round < 5000; ++round) {
    const change_result simple = simple_change(c, some_changes(random));
    const changes wanted = some_changes(random);
    const change_result direct = simple_change(c, wanted);
    const change_result joint = enter_joint(c, wanted, true);
    if (direct && joint) {
      ASSERT_EQ(done(leave_joint(joint.config)), direct.config) << round;
      ++compared;
    }
    if (simple) c = simple.config;
  }
  EXPECT_GT(compared, 1000);
}

}  // namespace
}  // namespace lockstep::raft
