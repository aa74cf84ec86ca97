#include "raft_replication/kv.hpp"

#include "support/snapshot_streams.hpp"

#include <lockstep/raft/sessions.hpp>

#include <gtest/gtest.h>

#include <cstdint>
#include <map>
#include <optional>
#include <ostream>
#include <random>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace lockstep::raft::kv {

void PrintTo(const result& r, std::ostream* to) {
  *to << static_cast<int>(r.is) << " @" << r.revision << " '" << r.value << "'";
}

namespace {

using test::restore;
using test::snapshot_of;

template <class T>
byte_buffer encoded(const T& what) {
  byte_buffer bytes;
  encode(bytes, what);
  return bytes;
}

command put(std::string_view key, std::string_view value) { return {operation::put, key, value, {}}; }
command get(std::string_view key) { return {operation::get, key, {}, {}}; }
command del(std::string_view key) { return {operation::del, key, {}, {}}; }
command cas(std::string_view key, std::optional<std::string_view> old, std::string_view value) {
  return {operation::cas, key, value, old};
}

/// A machine, and a log that ends at `index`.
struct store {
  std::vector<std::string> seen;
  kv::machine machine{[this](std::string_view key, const item* now) {
    seen.push_back(std::string(key) + (now ? "=" + now->value + "@" + std::to_string(now->revision) : " deleted"));
  }};
  index_t index = 0;
  byte_buffer answered;

  /// Valid until the next one.
  result apply(bytes_view payload) {
    answered.clear();
    machine.apply(entry{{1, ++index, 0}, 0, payload}, answered);
    const auto found = decode_result(answered.view());
    EXPECT_TRUE(found);
    return found.value_or(result{outcome::malformed, ~std::uint64_t{0}, "not even a result"});
  }
  result apply(const command& told) { return apply(encoded(told).view()); }
};

// --- Bytes ---

const std::string binary("\0\xff\n", 3);

std::vector<command> one_of_each() {
  return {put("key", "value"), put(binary, binary),      put("k", ""),       get("key"),
          del(binary),         cas("key", "old", "new"), cas("key", "", ""), cas("key", std::nullopt, "new")};
}

TEST(raft_kv_command, is_decoded_as_it_was_encoded) {
  for (const command& each : one_of_each()) {
    const byte_buffer bytes = encoded(each);
    const auto found = decode_command(bytes.view());
    ASSERT_TRUE(found);
    EXPECT_EQ(*found, each);
  }
}

TEST(raft_kv_command, cut_short_or_with_bytes_behind_it_is_none) {
  for (const command& each : one_of_each()) {
    byte_buffer bytes = encoded(each);
    for (std::size_t size = 0; size < bytes.size(); ++size) {
      EXPECT_FALSE(decode_command(bytes.view().first(size))) << size;
    }
    bytes.append(as_bytes("x"));
    EXPECT_FALSE(decode_command(bytes.view()));
  }
}

TEST(raft_kv_command, with_values_that_make_no_sense_is_none) {
  const std::string longest_key(max_key_bytes, 'k');
  const std::string longest_value(max_value_bytes, 'v');
  EXPECT_TRUE(decode_command(encoded(put(longest_key, longest_value)).view()));
  EXPECT_FALSE(decode_command(encoded(put(longest_key + 'k', "")).view()));
  EXPECT_FALSE(decode_command(encoded(put("k", longest_value + 'v')).view()));
  EXPECT_FALSE(decode_command(encoded(cas("k", longest_value + 'v', "")).view()));
  EXPECT_FALSE(decode_command(encoded(get("")).view()));
  for (const int op : {0, 5, 255}) {
    byte_buffer bytes = encoded(get("k"));
    bytes.data()[0] = static_cast<std::byte>(op);
    EXPECT_FALSE(decode_command(bytes.view())) << op;
  }
  byte_buffer bytes = encoded(cas("k", std::nullopt, ""));
  bytes.data()[6] = std::byte{2};
  EXPECT_FALSE(decode_command(bytes.view())) << "neither absent nor a value";
}

TEST(raft_kv_command, of_random_bytes_is_none_or_encodes_to_them) {
  std::mt19937_64 random(1);
  const bytes_view mostly_zero = as_bytes(std::string_view("\0\0\0\0\0\1\2\3\4", 9));
  std::size_t commands = 0;
  for (int round = 0; round < 50'000; ++round) {
    byte_buffer bytes;
    bytes.resize(random() % 24);
    for (std::size_t i = 0; i < bytes.size(); ++i) bytes.data()[i] = mostly_zero[random() % mostly_zero.size()];
    if (const auto found = decode_command(bytes.view())) {
      ++commands;
      ASSERT_TRUE(equal(encoded(*found).view(), bytes.view()));
    }
    if (const auto found = decode_result(bytes.view())) {
      ASSERT_TRUE(equal(encoded(*found).view(), bytes.view()));
    }
  }
  EXPECT_GT(commands, 20u);
}

TEST(raft_kv_result, is_decoded_as_it_was_encoded_and_cut_short_is_none) {
  for (const result& each : {result{outcome::ok, 7, "value"}, result{outcome::absent, 0, ""},
                             result{outcome::differs, ~std::uint64_t{0}, binary}, result{outcome::malformed, 0, ""}}) {
    byte_buffer bytes = encoded(each);
    EXPECT_EQ(decode_result(bytes.view()), each);
    for (std::size_t size = 0; size < bytes.size(); ++size) EXPECT_FALSE(decode_result(bytes.view().first(size)));
    bytes.append(as_bytes("x"));
    EXPECT_FALSE(decode_result(bytes.view()));
  }
  byte_buffer unknown = encoded(result());
  unknown.data()[0] = std::byte{4};
  EXPECT_FALSE(decode_result(unknown.view()));
}

// --- Commands ---

TEST(raft_kv, a_key_has_the_value_and_the_index_of_its_last_change) {
  store s;
  EXPECT_EQ(s.apply(get("city")), (result{outcome::absent, 0, ""}));
  EXPECT_EQ(s.apply(put("city", "Nairobi")), (result{outcome::ok, 2, ""}));
  EXPECT_EQ(s.apply(get("city")), (result{outcome::ok, 2, "Nairobi"}));
  EXPECT_EQ(s.apply(put("city", "Accra")), (result{outcome::ok, 4, ""}));
  EXPECT_EQ(s.apply(put("other", "")), (result{outcome::ok, 5, ""}));
  EXPECT_EQ(s.apply(get("city")), (result{outcome::ok, 4, "Accra"}));
  ASSERT_TRUE(s.machine.find("city"));
  EXPECT_EQ(s.machine.find("city")->value, "Accra");
  EXPECT_EQ(s.machine.find("city")->revision, 4u);
}

TEST(raft_kv, a_deleted_key_is_absent) {
  store s;
  s.apply(put("k", "v"));
  EXPECT_EQ(s.apply(del("k")), (result{outcome::ok, 0, ""}));
  EXPECT_EQ(s.apply(del("k")), (result{outcome::absent, 0, ""}));
  EXPECT_EQ(s.apply(get("k")), (result{outcome::absent, 0, ""}));
  EXPECT_FALSE(s.machine.find("k"));
}

TEST(raft_kv, cas_changes_a_key_that_is_as_expected) {
  store s;
  EXPECT_EQ(s.apply(cas("k", "a", "b")), (result{outcome::differs, 0, ""}));
  EXPECT_EQ(s.apply(cas("k", std::nullopt, "a")), (result{outcome::ok, 2, ""}));
  EXPECT_EQ(s.apply(cas("k", std::nullopt, "b")), (result{outcome::differs, 2, "a"}));
  EXPECT_EQ(s.apply(cas("k", "x", "b")), (result{outcome::differs, 2, "a"}));
  EXPECT_EQ(s.apply(cas("k", "", "b")), (result{outcome::differs, 2, "a"}));
  EXPECT_EQ(s.apply(get("k")), (result{outcome::ok, 2, "a"}));
  EXPECT_EQ(s.apply(cas("k", "a", "b")), (result{outcome::ok, 7, ""}));
  EXPECT_EQ(s.apply(get("k")), (result{outcome::ok, 7, "b"}));
}

TEST(raft_kv, watchers_are_told_of_changes_and_of_nothing_else) {
  store s;
  s.apply(put("k", "a"));
  s.apply(get("k"));
  s.apply(cas("k", "x", "y"));
  s.apply(cas("k", "a", "b"));
  s.apply(del("other"));
  s.apply(del("k"));
  s.apply(as_bytes("no command"));
  EXPECT_EQ(s.seen, (std::vector<std::string>{"k=a@1", "k=b@4", "k deleted"}));
}

TEST(raft_kv, a_malformed_command_is_answered_so_and_changes_nothing) {
  store s;
  s.apply(put("k", "a"));
  const byte_buffer before = snapshot_of(s.machine);
  EXPECT_EQ(s.apply(as_bytes("no command")), (result{outcome::malformed, 0, ""}));
  EXPECT_EQ(s.apply(bytes_view()), (result{outcome::malformed, 0, ""}));
  EXPECT_TRUE(equal(snapshot_of(s.machine).view(), before.view()));
}

// --- Snapshots ---

/// So long that a piece of a snapshot holds only a few.
std::string long_value(std::uint64_t of) {
  std::string value = std::to_string(of);
  value.resize(25'000, '.');
  return value;
}

TEST(raft_kv, a_snapshot_gives_back_the_state) {
  store before;
  before.apply(put(binary, binary));
  for (std::uint64_t i = 0; i < 10; ++i) before.apply(put("key" + std::to_string(i), long_value(i)));
  before.apply(del("key3"));
  const byte_buffer snapshot = snapshot_of(before.machine);
  for (const std::size_t piece : {std::size_t{1000}, std::size_t{1} << 30}) {
    store after;
    after.apply(put("gone", "with the old state"));
    ASSERT_FALSE(restore(after.machine, snapshot.view(), piece));
    after.index = before.index;
    EXPECT_TRUE(equal(snapshot_of(after.machine).view(), snapshot.view()));
    EXPECT_EQ(after.apply(get(binary)), (result{outcome::ok, 1, binary}));
    EXPECT_EQ(after.apply(get("key9")), (result{outcome::ok, 11, long_value(9)}));
    EXPECT_EQ(after.apply(get("gone")), (result{outcome::absent, 0, ""}));
  }
}

TEST(raft_kv, a_snapshot_of_nothing_is_one_too) {
  store s;
  const byte_buffer snapshot = snapshot_of(s.machine);
  store other;
  other.apply(put("gone", ""));
  EXPECT_FALSE(restore(other.machine, snapshot.view()));
  EXPECT_FALSE(other.machine.find("gone"));
}

TEST(raft_kv, equal_states_have_equal_snapshots_however_they_came_to_be) {
  std::string by_each[2];
  for (const bool reversed : {false, true}) {
    store s;
    s.index = 10;
    for (int i = 0; i < 5; ++i) {
      const int n = reversed ? 4 - i : i;
      s.index = 10 + static_cast<index_t>(n);
      s.apply(put("key" + std::to_string(n), "v"));
    }
    by_each[reversed ? 1 : 0] = as_text(snapshot_of(s.machine).view());
  }
  EXPECT_EQ(by_each[0], by_each[1]);
}

TEST(raft_kv, a_snapshot_that_is_cut_short_or_goes_on_or_is_out_of_order_is_refused) {
  store s;
  s.apply(put("a", "1"));
  s.apply(put("b", "2"));
  byte_buffer snapshot = snapshot_of(s.machine);
  for (std::size_t size = 0; size < snapshot.size(); ++size) {
    store other;
    EXPECT_EQ(restore(other.machine, snapshot.view().first(size), 5), errc::malformed) << size;
  }
  snapshot.append(as_bytes("x"));
  for (const std::size_t piece : {1u, 1000u}) {
    store other;
    EXPECT_EQ(restore(other.machine, snapshot.view(), piece), errc::malformed);
  }
  for (const std::string_view second : {"a", "b"}) {
    byte_buffer unordered = encoded(stored_pair{"b", 1, ""});
    encode(unordered, stored_pair{second, 1, ""});
    encode(unordered, stored_pair());
    store other;
    EXPECT_EQ(restore(other.machine, unordered.view()), errc::malformed);
  }
}

TEST(raft_kv, what_changes_while_a_snapshot_is_written_is_not_in_it) {
  store s;
  for (char key = 'b'; key <= 'j'; ++key) s.apply(put(std::string(1, key), long_value(1)));
  const byte_buffer at_the_start = snapshot_of(s.machine);
  int writes = 0;
  const byte_buffer meanwhile = snapshot_of(s.machine, [&] {
    if (++writes != 1) return;
    s.apply(put("a", "before all, new"));
    s.apply(put("b", "written already"));
    s.apply(del("h"));
    s.apply(put("h", "deleted and there again"));
    s.apply(put("i", "changed"));
    s.apply(put("i", "changed twice"));
    s.apply(put("ii", "new"));
    s.apply(del("ii"));
    s.apply(put("z", "behind all, new"));
    s.apply(del("j"));
  });
  EXPECT_GT(writes, 2);
  EXPECT_TRUE(equal(meanwhile.view(), at_the_start.view()));
  EXPECT_EQ(s.apply(get("i")).value, "changed twice");
  EXPECT_EQ(s.apply(get("j")).is, outcome::absent);
  EXPECT_EQ(s.apply(get("h")).value, "deleted and there again");
}

TEST(raft_kv, a_snapshot_that_fails_leaves_the_state_and_room_for_another) {
  store s;
  for (char key = 'a'; key <= 'j'; ++key) s.apply(put(std::string(1, key), long_value(1)));
  for (int fail_at = 1; fail_at <= 3; ++fail_at) {
    int writes = 0;
    const auto fail = [&] {
      s.apply(put("j", std::to_string(fail_at)));
      if (++writes == fail_at) throw std::runtime_error("disk full");
    };
    EXPECT_THROW(snapshot_of(s.machine, fail), std::runtime_error);
    EXPECT_EQ(s.apply(get("j")).value, std::to_string(fail_at));
    store other;
    EXPECT_FALSE(restore(other.machine, snapshot_of(s.machine).view()));
    ASSERT_TRUE(other.machine.find("j"));
    EXPECT_EQ(other.machine.find("j")->value, std::to_string(fail_at));
  }
}

// --- Chance ---

/// Random commands over a few keys, and what a plain map makes of them.
class commands {
 public:
  explicit commands(std::uint64_t seed) : random_(seed) {}

  byte_buffer next() {
    const std::string key(1 + below(2), static_cast<char>('a' + below(12)));
    const std::string value = below(3) == 0 ? long_value(below(5)) : std::to_string(below(5));
    const auto found = pairs_.find(key);
    const bool guess_right = below(2) == 0;
    switch (below(5)) {
      case 0: return encoded(get(key));
      case 1: return encoded(del(key));
      case 2:
        return encoded(found != pairs_.end() && guess_right ? cas(key, found->second, value)
                                                            : cas(key, std::nullopt, value));
      default: return encoded(put(key, value));
    }
  }
  /// What the machine must answer.
  result apply(bytes_view payload, index_t index) {
    const command told = *decode_command(payload);
    const std::string key(told.key);
    const bool there = pairs_.contains(key);
    const std::uint64_t revision = there ? revisions_[key] : 0;
    old_ = there ? pairs_[key] : "";
    switch (told.op) {
      case operation::get: return {there ? outcome::ok : outcome::absent, revision, old_};
      case operation::del: pairs_.erase(key); return {there ? outcome::ok : outcome::absent, 0, ""};
      case operation::cas:
        if (there != told.expected.has_value() || (there && *told.expected != old_)) {
          return {outcome::differs, revision, old_};
        }
        break;
      case operation::put: break;
    }
    pairs_[key] = told.value;
    revisions_[key] = index;
    return {outcome::ok, index, ""};
  }
  std::uint64_t below(std::uint64_t end) { return random_() % end; }

 private:
  std::mt19937_64 random_;
  std::map<std::string, std::string> pairs_;
  std::map<std::string, std::uint64_t> revisions_;
  std::string old_;
};

TEST(raft_kv, answers_as_a_map_does_and_its_snapshots_are_of_one_moment) {
  for (std::uint64_t seed = 1; seed <= 20; ++seed) {
    SCOPED_TRACE(seed);
    commands source(seed);
    store s;
    const auto apply_some = [&](std::uint64_t count) {
      for (; count != 0; --count) {
        const byte_buffer payload = source.next();
        const result got = s.apply(payload.view());
        ASSERT_EQ(got, source.apply(payload.view(), s.index));
      }
    };
    for (int round = 0; round < 20; ++round) {
      apply_some(20);
      const byte_buffer at_the_start = snapshot_of(s.machine);
      const byte_buffer meanwhile = snapshot_of(s.machine, [&] { apply_some(source.below(6)); });
      ASSERT_TRUE(equal(meanwhile.view(), at_the_start.view()));
      store other;
      ASSERT_FALSE(restore(other.machine, meanwhile.view(), 1 + source.below(100'000)));
      ASSERT_TRUE(equal(snapshot_of(other.machine).view(), at_the_start.view()));
    }
  }
}

TEST(raft_kv, with_sessions_a_repeated_cas_succeeds_once_and_says_so_again) {
  kv::machine keys;
  raft::sessions machine(keys);
  index_t index = 0;
  const auto apply = [&](const session_request& request) {
    byte_buffer payload;
    encode_session_request(payload, request);
    byte_buffer answered;
    machine.apply(entry{{1, ++index, 0}, 0, payload.view()}, answered);
    return answered;
  };
  apply(open_session{});
  const byte_buffer told = encoded(cas("lock", std::nullopt, "mine"));
  const byte_buffer first = apply(session_command{1, 1, 0, told.view()});
  const byte_buffer again = apply(session_command{1, 1, 0, told.view()});
  EXPECT_TRUE(equal(first.view(), again.view()));
  const auto response = decode_session_response(again.view());
  ASSERT_TRUE(response);
  EXPECT_EQ(decode_result(response->body), (result{outcome::ok, 2, ""}));

  const byte_buffer snapshot = snapshot_of(machine);
  kv::machine other_keys;
  raft::sessions other(other_keys);
  ASSERT_FALSE(restore(other, snapshot.view(), 10));
  EXPECT_TRUE(equal(snapshot_of(other).view(), snapshot.view()));
  ASSERT_TRUE(other_keys.find("lock"));
  EXPECT_EQ(other_keys.find("lock")->value, "mine");
}

}  // namespace
}  // namespace lockstep::raft::kv
