#include "cityhall/kv_state.hpp"

#include <gtest/gtest.h>

#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace lockstep::cityhall {
namespace {

/// Records as a log would number and chain them.
class history {
 public:
  apply_verdict begin_life(kv_state& state, const std::string& clients) {
    life begun;
    begun.nonce = 1;
    begun.clients = clients;
    ++epoch_;
    const byte_buffer payload = begun.encode();
    return apply(state, epoch_record, payload.view());
  }
  apply_verdict commit(kv_state& state, const std::vector<entry>& entries) {
    segment_builder builder;
    for (const entry& each : entries) builder.add(each);
    return apply(state, data_record, builder.payload());
  }
  apply_verdict apply(kv_state& state, record_kind kind, bytes_view payload) {
    record next;
    next.index = state.at().index + 1;
    next.epoch = epoch_;
    next.kind = kind;
    next.chain = next.index * 1000;
    next.payload = payload;
    return state.apply(next);
  }

 private:
  epoch_t epoch_ = 0;
};

entry put(std::string_view key, std::string_view value) { return {operation::put, key, value}; }
entry del(std::string_view key) { return {operation::del, key, {}}; }

std::vector<std::string> scanned(const kv_state& state, std::string_view prefix, const std::string* after = nullptr) {
  std::vector<std::string> keys;
  state.scan(prefix, after, [&](std::string_view key, std::string_view) {
    keys.emplace_back(key);
    return true;
  });
  return keys;
}

TEST(cityhall_kv_state, begins_empty) {
  const kv_state state;
  EXPECT_EQ(state.at(), position{});
  EXPECT_EQ(state.counts(), totals{});
  EXPECT_EQ(state.find("city"), nullptr);
}

TEST(cityhall_kv_state, counts_a_segment_for_each_data_record_and_each_of_its_entries) {
  kv_state state;
  history log;
  EXPECT_EQ(log.begin_life(state, "127.0.0.1:7878"), apply_verdict::ok);
  EXPECT_EQ(state.counts(), (totals{0, 0})) << "a leader's life is no segment";
  EXPECT_EQ(log.commit(state, {put("city", "Nairobi")}), apply_verdict::ok);
  EXPECT_EQ(state.counts(), (totals{1, 1}));
  EXPECT_EQ(log.commit(state, {put("country", "Kenya"), put("event", "RustAfrica")}), apply_verdict::ok);
  EXPECT_EQ(state.counts(), (totals{2, 3}));
  EXPECT_EQ(state.at(), (position{1, 3, 3000}));
}

TEST(cityhall_kv_state, later_entries_win_also_within_a_segment) {
  kv_state state;
  history log;
  log.commit(state, {put("k", "1"), put("k", "2")});
  EXPECT_EQ(*state.find("k"), "2");
  log.commit(state, {del("k"), put("k", "3"), put("other", "x"), del("other")});
  EXPECT_EQ(*state.find("k"), "3");
  EXPECT_EQ(state.find("other"), nullptr);
  log.commit(state, {del("k"), del("never there")});
  EXPECT_EQ(state.pairs().size(), 0u);
  EXPECT_EQ(state.counts(), (totals{3, 8})) << "a del counts as an entry, also of a missing key";
}

TEST(cityhall_kv_state, knows_where_the_latest_leader_serves_clients) {
  kv_state state;
  history log;
  EXPECT_EQ(state.leader_clients(), "");
  log.begin_life(state, "127.0.0.1:7878");
  log.begin_life(state, "127.0.0.1:9999");
  EXPECT_EQ(state.leader_clients(), "127.0.0.1:9999");
}

TEST(cityhall_kv_state, changes_nothing_when_a_record_is_not_its_own) {
  kv_state state;
  history log;
  log.commit(state, {put("city", "Nairobi")});
  const kv_state before = state;
  EXPECT_EQ(log.apply(state, data_record, as_bytes("no segment")), apply_verdict::malformed);
  EXPECT_EQ(log.apply(state, epoch_record, as_bytes("x")), apply_verdict::malformed);
  EXPECT_EQ(log.apply(state, first_user_kind, {}), apply_verdict::unknown_kind);
  EXPECT_EQ(state, before);
}

TEST(cityhall_kv_state, scans_a_prefix_in_order_and_goes_on_behind_a_key) {
  kv_state state;
  history log;
  log.commit(state, {put("b", "1"), put("a", "1"), put("ba", "1"), put("bb", "1"), put("c", "1"), put("", "1")});
  EXPECT_EQ(scanned(state, ""), (std::vector<std::string>{"", "a", "b", "ba", "bb", "c"}));
  EXPECT_EQ(scanned(state, "b"), (std::vector<std::string>{"b", "ba", "bb"}));
  EXPECT_EQ(scanned(state, "bx"), std::vector<std::string>{});
  const std::string after = "ba";
  EXPECT_EQ(scanned(state, "b", &after), (std::vector<std::string>{"bb"}));
  const std::string before_prefix = "a";
  EXPECT_EQ(scanned(state, "b", &before_prefix), (std::vector<std::string>{"b", "ba", "bb"}));
  const std::string empty;
  EXPECT_EQ(scanned(state, "", &empty).front(), "a");
}

TEST(cityhall_kv_state, scan_ends_when_the_visitor_has_enough) {
  kv_state state;
  history log;
  log.commit(state, {put("a", "1"), put("b", "1"), put("c", "1")});
  int seen = 0;
  state.scan("", nullptr, [&](std::string_view, std::string_view) { return ++seen < 2; });
  EXPECT_EQ(seen, 2);
}

}  // namespace
}  // namespace lockstep::cityhall
