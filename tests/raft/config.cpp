#include "lockstep/raft/config.hpp"

#include <gtest/gtest.h>

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace lockstep::raft {
namespace {

/// Joint, and with something in every set.
configuration busy() {
  configuration c;
  c.voters = {{1, 2, 300}, {2, 4, 5}};
  c.learners = {6, 7};
  c.learners_next = {4};
  c.witnesses = {5, 300};
  c.auto_leave = true;
  c.addresses = {{1, "one:7000"}, {7, "[::1]:7"}};
  return c;
}

configuration of_voters(majority voters) {
  configuration c;
  c.voters.incoming = std::move(voters);
  return c;
}

std::string encoded(const configuration& config) {
  byte_buffer bytes;
  encode_configuration(bytes, config);
  return std::string(as_text(bytes.view()));
}

std::optional<configuration> decoded(std::string_view bytes) { return decode_configuration(as_bytes(bytes)); }

std::string le64(node_id id) {
  std::byte bytes[8];
  store_le(bytes, id);
  return std::string(as_text(bytes));
}

/// Offsets of the encoding's fields.
constexpr std::size_t flags_at = 1;
constexpr std::size_t counts_at = 2;
constexpr std::size_t zero_at = 7;
constexpr std::size_t ids_at = 8;

TEST(raft_config, members_are_voters_of_both_halves_and_learners) {
  std::vector<node_id> members;
  busy().for_each_member([&](node_id id) { members.push_back(id); });
  EXPECT_EQ(members, (std::vector<node_id>{1, 2, 300, 4, 5, 6, 7}));
  for (const node_id id : members) EXPECT_TRUE(busy().is_member(id)) << id;
  EXPECT_FALSE(busy().is_member(3));
}

TEST(raft_config, sound_configurations_break_no_invariant) {
  EXPECT_FALSE(broken_invariant(configuration()));
  EXPECT_FALSE(broken_invariant(of_voters({1})));
  EXPECT_FALSE(broken_invariant(busy()));
}

TEST(raft_config, each_broken_invariant_is_told) {
  struct {
    std::string_view told;
    void (*broken)(configuration&);
  } const table[]{
      {"0 names no node.", [](configuration& c) { c.voters.incoming.insert(0); }},
      {"0 names no node.", [](configuration& c) { c.learners.insert(0); }},
      {"A set has more than 255 nodes.",
       [](configuration& c) {
         for (node_id id = 1000; id < 1000 + max_set_size; ++id) c.learners.insert(id);
       }},
      {"There are no voters.", [](configuration& c) { c.voters.incoming.clear(); }},
      {"There are no voters.",
       [](configuration& c) {
         c = configuration();
         c.learners = {1};
       }},
      {"An incoming voter is a learner.", [](configuration& c) { c.learners.insert(1); }},
      {"An outgoing voter is a learner already.", [](configuration& c) { c.learners.insert(4); }},
      {"One who becomes a learner later is not an outgoing voter.",
       [](configuration& c) { c.learners_next.insert(6); }},
      {"One who becomes a learner later is an incoming voter.", [](configuration& c) { c.learners_next.insert(2); }},
      {"A witness becomes a learner later.", [](configuration& c) { c.learners_next.insert(5); }},
      {"A configuration that is not joint cannot be left.",
       [](configuration& c) {
         c = of_voters({1});
         c.auto_leave = true;
       }},
      {"A witness is not a voter.", [](configuration& c) { c.witnesses.insert(6); }},
      {"A majority may consist of witnesses alone.", [](configuration& c) { c.witnesses.insert(1); }},
      {"A majority may consist of witnesses alone.", [](configuration& c) { c.witnesses.insert(2); }},
      {"A majority may consist of witnesses alone.",
       [](configuration& c) {
         c = of_voters({1, 2, 3, 4});
         c.voters.outgoing = {2, 3, 5};
         c.witnesses = {2, 3};
       }},
      {"An address belongs to no member.", [](configuration& c) { c.addresses[3] = "three"; }},
      {"An address is empty.", [](configuration& c) { c.addresses[2]; }},
      {"An address is longer than 255 bytes.", [](configuration& c) { c.addresses[2] = std::string(256, 'x'); }},
  };
  for (const auto& row : table) {
    configuration config = busy();
    row.broken(config);
    EXPECT_EQ(broken_invariant(config), row.told);
  }
}

TEST(raft_config, witnesses_may_be_half_of_an_even_number_but_not_a_majority) {
  configuration four = of_voters({1, 2, 3, 4});
  four.witnesses = {3, 4};
  EXPECT_FALSE(broken_invariant(four));
  four.witnesses = {2, 3, 4};
  EXPECT_TRUE(broken_invariant(four));
  configuration one = of_voters({1});
  one.witnesses = {1};
  EXPECT_TRUE(broken_invariant(one));
}

TEST(raft_config, the_bytes_are_as_drawn) {
  configuration c = of_voters({2, 1});
  c.learners = {3};
  c.witnesses = {2};
  c.addresses = {{3, "c"}, {1, "ab"}};
  using namespace std::string_literals;
  EXPECT_EQ(encoded(c), "\x01\0\x02\0\x01\0\x01\0"s + le64(1) + le64(2) + le64(3) + le64(2) +  //
                            le64(1) + "\x02"s + "ab"s + le64(3) + "\x01"s + "c"s);
}

TEST(raft_config, a_configuration_comes_back_as_it_was) {
  configuration long_address = of_voters({~node_id{0}});
  long_address.addresses[~node_id{0}] = std::string(255, 'x');
  configuration crowded = of_voters({1});
  for (node_id id = 2; crowded.learners.size() < max_set_size; ++id) crowded.learners.insert(id);
  for (const configuration& each : {configuration(), of_voters({1}), busy(), long_address, crowded}) {
    EXPECT_EQ(decoded(encoded(each)), each);
  }
}

TEST(raft_config, the_largest_configuration_has_the_largest_encoding) {
  configuration c;
  for (node_id id = 1; id <= max_set_size; ++id) {
    c.voters.incoming.insert(id);
    c.voters.outgoing.insert(id + 1000);
    c.learners.insert(id + 2000);
  }
  for (node_id id = 1; id <= 127; ++id) c.witnesses.insert(id);
  for (node_id id = 1001; id <= 1000 + max_set_size; ++id) c.learners_next.insert(id);
  c.for_each_member([&](node_id id) { c.addresses[id] = std::string(max_address_bytes, 'x'); });
  const std::string bytes = encoded(c);
  EXPECT_LE(bytes.size(), max_configuration_bytes);
  EXPECT_EQ(decoded(bytes), c);
}

TEST(raft_config, a_configuration_cut_short_anywhere_is_refused_or_another_whole_one) {
  const std::string whole = encoded(busy());
  for (std::size_t size = 0; size < whole.size(); ++size) {
    const auto got = decoded(std::string_view(whole).substr(0, size));
    if (got) {
      EXPECT_EQ(encoded(*got), whole.substr(0, size));
      EXPECT_LT(got->addresses.size(), busy().addresses.size());
    }
  }
}

TEST(raft_config, whatever_one_byte_changes_into_is_refused_or_canonical) {
  const std::string good = encoded(busy());
  std::size_t refused = 0;
  for (std::size_t at = 0; at < good.size(); ++at) {
    for (int value = 0; value < 256; ++value) {
      std::string changed = good;
      changed[at] = static_cast<char>(value);
      const auto got = decoded(changed);
      if (got) {
        ASSERT_EQ(encoded(*got), changed) << at;
      } else {
        ++refused;
      }
    }
  }
  EXPECT_GT(refused, 0u);
}

TEST(raft_config, malformed_bytes_are_refused) {
  const std::string good = encoded(busy());
  struct {
    std::string_view what;
    std::size_t at;
    char value;
  } const table[]{
      {"another version", 0, 2},
      {"an unknown flag", flags_at, 3},
      {"a byte that is reserved", zero_at, 1},
      {"more ids than there are bytes", counts_at + 4, '\xff'},
      {"an id twice", ids_at + 8, 1},
      {"ids out of order", ids_at, 3},
      {"node 0", ids_at, 0},
  };
  for (const auto& row : table) {
    std::string bad = good;
    ASSERT_NE(bad[row.at], row.value) << row.what;
    bad[row.at] = row.value;
    EXPECT_FALSE(decoded(bad)) << row.what;
  }
}

TEST(raft_config, malformed_addresses_are_refused) {
  using namespace std::string_literals;
  configuration two = of_voters({1, 2});
  const std::string ids = encoded(two);
  ASSERT_TRUE(decoded(ids + le64(1) + "\x01"s + "a"s + le64(2) + "\x01"s + "b"s));
  EXPECT_FALSE(decoded(ids + le64(2) + "\x01"s + "b"s + le64(1) + "\x01"s + "a"s)) << "out of order";
  EXPECT_FALSE(decoded(ids + le64(1) + "\x01"s + "a"s + le64(1) + "\x01"s + "a"s)) << "twice";
  EXPECT_FALSE(decoded(ids + le64(1) + "\0"s)) << "empty";
  EXPECT_FALSE(decoded(ids + le64(1) + "\x02"s + "a"s)) << "cut short";
  EXPECT_FALSE(decoded(ids + le64(1))) << "no length";
  EXPECT_FALSE(decoded(ids + le64(3) + "\x01"s + "a"s)) << "of no member";
}

TEST(raft_config, bytes_of_a_configuration_that_breaks_an_invariant_are_refused) {
  std::string bytes = encoded(of_voters({1}));
  bytes[flags_at] = 1;  // auto_leave, but not joint
  EXPECT_FALSE(decoded(bytes));
}

}  // namespace
}  // namespace lockstep::raft
