#include "lockstep/raft/sessions.hpp"

#include "session_traffic.hpp"
#include "support/snapshot_streams.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <random>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace lockstep::raft {
namespace {

using namespace lockstep::test;
using namespace raft::test;

/// Remembers each command that it applied, and answers how many these were.
class journal {
 public:
  void apply(const entry& next, byte_buffer& result) {
    lines_.emplace_back(as_text(next.payload));
    times_.push_back(next.time_ns);
    result.append(as_bytes(std::to_string(lines_.size()) + ":" + lines_.back()));
  }
  awaitable<void> snapshot(snapshot_sink& to) {
    byte_buffer bytes;
    field_writer fields(bytes);
    for (const std::string& line : lines_) fields.text(line);
    for (std::size_t at = 0; at < bytes.size(); at += 16) {
      co_await to.write(bytes.view().subspan(at, std::min<std::size_t>(16, bytes.size() - at)));
    }
  }
  awaitable<void> restore(snapshot_source& from) {
    byte_buffer bytes;
    for (std::size_t count = 1; count != 0;) {
      const mutable_bytes room(bytes.extend(64), 64);
      count = co_await from.read(room);
      bytes.resize(bytes.size() - 64 + count);
    }
    lines_.clear();
    for (field_reader fields(bytes.view()); fields.left() != 0;) {
      lines_.emplace_back(fields.text());
      if (!fields.good()) throw std::system_error(errc::malformed);
    }
  }

  [[nodiscard]] const std::vector<std::string>& lines() const { return lines_; }
  [[nodiscard]] const std::vector<std::uint64_t>& times() const { return times_; }

 private:
  std::vector<std::string> lines_;
  std::vector<std::uint64_t> times_;
};

/// A replica, and a log that ends at `index`.
struct replica {
  journal machine;
  raft::sessions<journal> sessions{machine};
  index_t index = 0;
  std::uint64_t time_ns = 1000;

  answer apply(bytes_view payload) {
    byte_buffer result;
    sessions.apply(entry{{1, ++index, 0}, time_ns, payload}, result);
    return answer::decoded(result.view());
  }
  answer apply(const session_request& request) { return apply(encoded(request).view()); }

  session_id open(const session_limits& limits = small) {
    byte_buffer result;
    sessions.apply(entry{{1, ++index, 0}, time_ns, encoded(open_session{limits}).view()}, result);
    const auto response = decode_session_response(result.view());
    const auto opened = response ? decode_opened_session(*response) : std::nullopt;
    EXPECT_TRUE(opened);
    return opened.value_or(0);
  }
  answer command(session_id session, std::uint64_t sequence, std::uint64_t acknowledged, std::string_view what) {
    return apply(session_command{session, sequence, acknowledged, as_bytes(what)});
  }
  [[nodiscard]] const std::vector<std::string>& lines() const { return machine.lines(); }
};
using lines = std::vector<std::string>;

// --- Bytes ---

std::vector<session_request> one_of_each() {
  return {open_session{{1, 2, 3, 4}}, session_command{7, 9, 8, as_bytes("payload")}, session_command{1, 1, 0, {}},
          keep_session_alive{7, ~std::uint64_t{0}}, close_session{~std::uint64_t{0}}};
}

TEST(raft_session_request, is_decoded_as_it_was_encoded) {
  for (const session_request& each : one_of_each()) {
    const byte_buffer bytes = encoded(each);
    const auto found = decode_session_request(bytes.view());
    ASSERT_TRUE(found);
    ASSERT_EQ(found->index(), each.index());
    EXPECT_TRUE(equal(encoded(*found).view(), bytes.view()));
  }
  const byte_buffer bytes = encoded(session_command{7, 9, 8, as_bytes("payload")});
  const auto found = decode_session_request(bytes.view());
  ASSERT_TRUE(found && std::holds_alternative<session_command>(*found));
  const auto& command = std::get<session_command>(*found);
  EXPECT_EQ(command.session, 7u);
  EXPECT_EQ(command.sequence, 9u);
  EXPECT_EQ(command.acknowledged, 8u);
  EXPECT_EQ(as_text(command.payload), "payload");
}

TEST(raft_session_request, cut_short_is_none) {
  for (const session_request& each : one_of_each()) {
    const byte_buffer bytes = encoded(each);
    const auto* const command = std::get_if<session_command>(&each);
    const std::size_t needed = bytes.size() - (command ? command->payload.size() : 0);  // a payload ends anywhere
    for (std::size_t size = 0; size < needed; ++size) {
      EXPECT_FALSE(decode_session_request(bytes.view().first(size))) << each.index() << " of " << size;
    }
  }
}

TEST(raft_session_request, with_bytes_behind_it_is_none_unless_a_payload_takes_them) {
  for (const session_request& each : one_of_each()) {
    byte_buffer bytes = encoded(each);
    bytes.append(as_bytes("x"));
    EXPECT_EQ(decode_session_request(bytes.view()).has_value(), std::holds_alternative<session_command>(each));
  }
}

TEST(raft_session_request, with_values_that_make_no_sense_is_none) {
  const auto with = [](session_request request, std::size_t at, std::uint8_t value) {
    byte_buffer bytes = encoded(request);
    bytes.data()[at] = std::byte{value};
    return decode_session_request(bytes.view());
  };
  const session_command command{1, 2, 1, {}};
  ASSERT_TRUE(with(command, 0, 2));
  EXPECT_FALSE(with(command, 0, 0));
  EXPECT_FALSE(with(command, 0, 5));
  EXPECT_FALSE(with(command, 1, 0)) << "no session";
  EXPECT_FALSE(with(command, 9, 1)) << "acknowledges itself";
  EXPECT_FALSE(with(command, 17, 2)) << "acknowledges itself";
  EXPECT_FALSE(with(keep_session_alive{1, 0}, 1, 0)) << "no session";
  EXPECT_FALSE(with(close_session{1}, 1, 0)) << "no session";
  EXPECT_FALSE(with(open_session{{1, 1, 1, 1}}, 9, 0)) << "room for no session";
  EXPECT_FALSE(with(open_session{{1, 1, 1, 1}}, 13, 0)) << "a window for no command";
}

TEST(raft_session_request, of_random_bytes_is_none_or_encodes_to_them) {
  std::mt19937_64 random(1);
  std::size_t decoded = 0;
  for (int round = 0; round < 20'000; ++round) {
    byte_buffer bytes;
    bytes.resize(random() % 40);
    for (std::size_t i = 0; i < bytes.size(); ++i) bytes.data()[i] = static_cast<std::byte>(random());
    if (!bytes.empty() && round % 2 == 0) bytes.data()[0] = static_cast<std::byte>(1 + random() % 4);
    const auto found = decode_session_request(bytes.view());
    if (!found) continue;
    ++decoded;
    ASSERT_TRUE(equal(encoded(*found).view(), bytes.view()));
  }
  EXPECT_GT(decoded, 100u);
}

TEST(raft_session_response, is_a_known_status_and_has_a_body_only_when_done) {
  const auto decoded = [](std::string_view bytes) { return decode_session_response(as_bytes(bytes)).has_value(); };
  EXPECT_FALSE(decoded(""));
  EXPECT_TRUE(decoded(std::string_view("\0", 1)));
  EXPECT_TRUE(decoded(std::string_view("\0body", 5)));
  EXPECT_TRUE(decoded("\4"));
  EXPECT_FALSE(decoded("\4body"));
  EXPECT_FALSE(decoded("\5"));
}

TEST(raft_session_response, names_the_opened_session) {
  byte_buffer body;
  field_writer(body).number(std::uint64_t{17});
  EXPECT_EQ(decode_opened_session({session_status::done, body.view()}), session_id{17});
  EXPECT_FALSE(decode_opened_session({session_status::malformed, {}}));
  EXPECT_FALSE(decode_opened_session({session_status::done, body.view().first(7)}));
}

// --- Once ---

TEST(raft_sessions, a_session_is_named_by_the_index_that_opened_it) {
  replica r;
  EXPECT_EQ(r.open(), 1u);
  EXPECT_EQ(r.open(), 2u);
}

TEST(raft_sessions, a_repeated_command_is_applied_once_and_answered_as_before) {
  replica r;
  const session_id s = r.open();
  EXPECT_EQ(r.command(s, 1, 0, "a"), done("1:a"));
  EXPECT_EQ(r.command(s, 2, 0, "b"), done("2:b"));
  EXPECT_EQ(r.command(s, 1, 0, "a"), done("1:a"));
  EXPECT_EQ(r.lines(), (lines{"a", "b"}));
}

TEST(raft_sessions, sessions_have_sequences_of_their_own) {
  replica r;
  const session_id one = r.open();
  const session_id other = r.open();
  EXPECT_EQ(r.command(one, 1, 0, "a"), done("1:a"));
  EXPECT_EQ(r.command(other, 1, 0, "b"), done("2:b"));
}

TEST(raft_sessions, outstanding_commands_come_in_any_order) {
  replica r;
  const session_id s = r.open();
  EXPECT_EQ(r.command(s, 3, 0, "c"), done("1:c"));
  EXPECT_EQ(r.command(s, 1, 0, "a"), done("2:a"));
  EXPECT_EQ(r.command(s, 2, 0, "b"), done("3:b"));
  EXPECT_EQ(r.command(s, 3, 0, "c"), done("1:c"));
  EXPECT_EQ(r.lines(), (lines{"c", "a", "b"}));
}

TEST(raft_sessions, an_acknowledged_command_is_forgotten_and_never_applied_again) {
  replica r;
  const session_id s = r.open();
  r.command(s, 1, 0, "a");
  r.command(s, 2, 0, "b");
  EXPECT_EQ(r.command(s, 3, 1, "c"), done("3:c"));
  EXPECT_EQ(r.command(s, 1, 0, "a"), refused(session_status::forgotten));
  EXPECT_EQ(r.command(s, 2, 0, "b"), done("2:b")) << "not acknowledged";
  EXPECT_EQ(r.lines(), (lines{"a", "b", "c"}));
}

TEST(raft_sessions, a_command_that_comes_after_its_client_gave_it_up_is_not_applied) {
  replica r;
  const session_id s = r.open();
  EXPECT_EQ(r.command(s, 3, 2, "c"), done("1:c"));
  EXPECT_EQ(r.command(s, 2, 0, "b"), refused(session_status::forgotten));
  EXPECT_EQ(r.lines(), lines{"c"});
}

TEST(raft_sessions, an_acknowledgement_is_not_taken_back) {
  replica r;
  const session_id s = r.open();
  r.command(s, 3, 2, "c");
  r.command(s, 4, 0, "d");
  EXPECT_EQ(r.command(s, 2, 0, "b"), refused(session_status::forgotten));
}

TEST(raft_sessions, a_command_outside_the_window_waits_for_an_acknowledgement) {
  replica r;
  const session_id s = r.open();
  EXPECT_EQ(r.command(s, small.window, 0, "d"), done("1:d"));
  EXPECT_EQ(r.command(s, small.window + 1, 0, "e"), refused(session_status::outside_window));
  EXPECT_EQ(r.lines(), lines{"d"});
  EXPECT_EQ(r.command(s, small.window + 1, 1, "e"), done("2:e"));
}

TEST(raft_sessions, the_highest_sequence_and_acknowledgement_are_numbers_like_others) {
  replica r;
  const session_id s = r.open();
  const std::uint64_t highest = ~std::uint64_t{0};
  EXPECT_EQ(r.command(s, highest, 0, "z"), refused(session_status::outside_window));
  EXPECT_EQ(r.command(s, highest, highest - 1, "z"), done("1:z"));
  EXPECT_EQ(r.command(s, 1, 0, "a"), refused(session_status::forgotten));
}

TEST(raft_sessions, a_long_answer_is_given_and_not_kept) {
  replica r;
  const session_id s = r.open();
  const std::string fits(small.max_response_bytes - 2, 'f');
  const std::string longer(small.max_response_bytes - 1, 'l');
  EXPECT_EQ(r.command(s, 1, 0, fits), done("1:" + fits));
  EXPECT_EQ(r.command(s, 1, 0, fits), done("1:" + fits));
  EXPECT_EQ(r.command(s, 2, 0, longer), done("2:" + longer));
  EXPECT_EQ(r.command(s, 2, 0, longer), refused(session_status::forgotten));
  EXPECT_EQ(r.lines().size(), 2u);
}

TEST(raft_sessions, an_empty_answer_is_kept_too) {
  struct mute {
    int applied = 0;
    void apply(const entry&, byte_buffer&) { ++applied; }
    awaitable<void> snapshot(snapshot_sink&) { co_return; }
    awaitable<void> restore(snapshot_source&) { co_return; }
  } machine;
  raft::sessions sessions(machine);
  const auto apply = [&](index_t index, const session_request& request) {
    byte_buffer result;
    const byte_buffer payload = encoded(request);
    sessions.apply(entry{{1, index, 0}, 0, payload.view()}, result);
    return decode_session_response(result.view());
  };
  apply(1, open_session{});
  EXPECT_EQ(apply(2, session_command{1, 1, 0, {}})->status, session_status::done);
  EXPECT_EQ(apply(3, session_command{1, 1, 0, {}})->status, session_status::done);
  EXPECT_EQ(machine.applied, 1);
  const byte_buffer snapshot = snapshot_of(sessions);
  mute other;
  raft::sessions again(other);
  EXPECT_FALSE(restore(again, snapshot.view())) << "of a machine that writes nothing";
  EXPECT_EQ(again.table().size(), 1u);
}

TEST(raft_sessions, the_answer_goes_behind_what_the_buffer_holds) {
  replica r;
  const session_id s = r.open();
  byte_buffer result = copy_of(as_bytes("before"));
  const byte_buffer payload = encoded(session_command{s, 1, 0, as_bytes("a")});
  r.sessions.apply(entry{{1, ++r.index, 0}, r.time_ns, payload.view()}, result);
  EXPECT_EQ(as_text(result.view()), std::string_view("before\0001:a", 10));
  EXPECT_EQ(r.command(s, 1, 0, "a"), done("1:a"));
}

// --- Sessions that end ---

TEST(raft_sessions, a_command_of_no_session_is_not_applied) {
  replica r;
  EXPECT_EQ(r.command(17, 1, 0, "a"), refused(session_status::unknown_session));
  EXPECT_EQ(r.apply(keep_session_alive{17, 0}), refused(session_status::unknown_session));
  EXPECT_EQ(r.apply(close_session{17}), refused(session_status::unknown_session));
  EXPECT_EQ(r.lines(), lines{});
}

TEST(raft_sessions, a_closed_session_is_gone) {
  replica r;
  const session_id s = r.open();
  EXPECT_EQ(r.apply(close_session{s}), done(""));
  EXPECT_EQ(r.command(s, 1, 0, "a"), refused(session_status::unknown_session));
  EXPECT_EQ(r.apply(close_session{s}), refused(session_status::unknown_session));
  EXPECT_EQ(r.sessions.table().size(), 0u);
}

TEST(raft_sessions, a_session_expires_when_it_was_not_used_for_longer_than_the_limit) {
  replica r;
  const session_id one = r.open();
  const session_id other = r.open();
  r.time_ns += small.expiry_ns;
  EXPECT_EQ(r.command(one, 1, 0, "a"), done("1:a"));
  r.time_ns += 1;
  EXPECT_EQ(r.command(one, 2, 0, "b"), done("2:b")) << "used meanwhile";
  EXPECT_EQ(r.command(other, 1, 0, "c"), refused(session_status::unknown_session));
  EXPECT_EQ(r.lines(), (lines{"a", "b"}));
}

TEST(raft_sessions, a_repeat_and_a_refusal_and_keep_alive_use_a_session) {
  replica r;
  const session_id s = r.open();
  r.command(s, 1, 0, "a");
  r.time_ns += small.expiry_ns;
  r.command(s, 1, 0, "a");
  r.time_ns += small.expiry_ns;
  EXPECT_EQ(r.command(s, 100, 0, "z"), refused(session_status::outside_window));
  r.time_ns += small.expiry_ns;
  EXPECT_EQ(r.apply(keep_session_alive{s, 1}), done(""));
  r.time_ns += small.expiry_ns;
  EXPECT_EQ(r.command(s, 1, 0, "a"), refused(session_status::forgotten)) << "keep_alive acknowledged it";
}

TEST(raft_sessions, log_time_never_goes_back) {
  replica r;
  const session_id s = r.open();
  r.time_ns = 2000;
  EXPECT_EQ(r.command(s, 1, 0, "a"), refused(session_status::unknown_session));
  const session_id next = r.open();
  r.time_ns = 500;  // another leader, another clock
  EXPECT_EQ(r.command(next, 1, 0, "b"), done("1:b"));
  EXPECT_EQ(r.sessions.table().time_ns(), 2000u);
  r.time_ns = 2000 + small.expiry_ns;
  EXPECT_EQ(r.command(next, 2, 0, "c"), done("2:c")) << "used at 2000, whatever that leader's clock said";
  EXPECT_EQ(r.machine.times(), (std::vector<std::uint64_t>{2000, 2100}));
}

TEST(raft_sessions, one_session_too_many_costs_the_one_used_longest_ago_even_at_one_time) {
  replica r;
  const session_id one = r.open();
  const session_id two = r.open();
  const session_id three = r.open();
  r.command(one, 1, 0, "a");
  const session_id four = r.open();
  EXPECT_EQ(r.command(two, 1, 0, "b"), refused(session_status::unknown_session));
  for (const session_id each : {one, three, four}) EXPECT_TRUE(r.sessions.table().contains(each)) << each;
}

TEST(raft_sessions, the_limits_of_the_last_open_count_for_all) {
  replica r;
  const session_id one = r.open();
  const session_id two = r.open();
  r.command(one, 1, 0, "a");
  session_limits fewer = small;
  fewer.max_sessions = 2;
  fewer.window = 1;
  const session_id three = r.open(fewer);
  EXPECT_EQ(r.command(two, 1, 0, "b"), refused(session_status::unknown_session));
  EXPECT_EQ(r.command(one, 2, 0, "c"), refused(session_status::outside_window));
  EXPECT_EQ(r.command(three, 1, 0, "d"), done("2:d"));
}

TEST(raft_sessions, a_malformed_request_changes_nothing) {
  replica r;
  const session_id s = r.open();
  r.command(s, 1, 0, "a");
  const byte_buffer before = snapshot_of(r.sessions);
  r.time_ns += 10 * small.expiry_ns;
  EXPECT_EQ(r.apply(as_bytes("no request")), refused(session_status::malformed));
  EXPECT_EQ(r.apply(bytes_view()), refused(session_status::malformed));
  EXPECT_TRUE(equal(snapshot_of(r.sessions).view(), before.view()));
}

// --- Snapshots ---

TEST(raft_sessions, what_was_applied_before_a_snapshot_is_not_applied_after_it) {
  replica before;
  const session_id s = before.open();
  before.command(s, 1, 0, "a");
  const std::string longer(small.max_response_bytes, 'l');
  before.command(s, 2, 0, longer);
  const byte_buffer snapshot = snapshot_of(before.sessions);

  for (const std::size_t piece : {1u, 7u, 100'000u}) {
    replica after;
    ASSERT_FALSE(restore(after.sessions, snapshot.view(), piece));
    after.index = before.index;
    EXPECT_EQ(after.lines(), (lines{"a", longer}));
    EXPECT_TRUE(equal(snapshot_of(after.sessions).view(), snapshot.view()));
    EXPECT_EQ(after.command(s, 1, 0, "a"), done("1:a"));
    EXPECT_EQ(after.command(s, 2, 0, longer), refused(session_status::forgotten));
    EXPECT_EQ(after.command(s, 3, 0, "b"), done("3:b"));
  }
}

TEST(raft_sessions, the_time_is_in_the_snapshot) {
  replica before;
  before.time_ns = 5000;
  before.apply(close_session{before.open()});
  replica after;
  ASSERT_FALSE(restore(after.sessions, snapshot_of(before.sessions).view()));
  after.index = before.index;
  after.time_ns = 10;
  after.open();
  EXPECT_EQ(after.sessions.table().time_ns(), 5000u);
}

TEST(raft_sessions, what_is_applied_while_a_snapshot_is_written_is_not_in_it) {
  replica r;
  const session_id s = r.open();
  for (std::uint64_t i = 1; i <= small.window; ++i) r.command(s, i, 0, "a command like others");
  const byte_buffer at_the_start = snapshot_of(r.sessions);
  std::uint64_t next = small.window;
  const byte_buffer meanwhile = snapshot_of(r.sessions, [&] {
    ++next;
    r.command(s, next, next - 1, "too late");
  });
  EXPECT_GT(next, small.window + 2) << "written in several pieces";
  EXPECT_TRUE(equal(meanwhile.view(), at_the_start.view()));
}

TEST(raft_sessions, a_snapshot_that_ends_inside_the_table_is_refused) {
  replica r;
  const session_id s = r.open();
  r.command(s, 1, 0, "a");
  byte_buffer snapshot = snapshot_of(r.sessions);
  const std::size_t table_end = 8 + static_cast<std::size_t>(load_le<std::uint64_t>(snapshot.data()));
  for (std::size_t size = 0; size < table_end; ++size) {
    replica other;
    EXPECT_EQ(restore(other.sessions, snapshot.view().first(size)), errc::truncated) << size;
  }
  store_le(snapshot.data(), ~std::uint64_t{0});
  replica other;
  EXPECT_EQ(restore(other.sessions, snapshot.view()), errc::truncated);
}

TEST(raft_sessions, a_snapshot_whose_table_is_none_is_refused) {
  byte_buffer snapshot;
  field_writer(snapshot).number(std::uint64_t{3});
  snapshot.append(as_bytes("bad"));
  replica r;
  EXPECT_EQ(restore(r.sessions, snapshot.view()), errc::malformed);
}

TEST(raft_session_table, of_changed_or_cut_bytes_is_none_or_encodes_to_them) {
  replica r;
  const session_id one = r.open();
  const session_id other = r.open();
  r.command(one, 1, 0, "a");
  r.command(one, 2, 0, std::string(small.max_response_bytes, 'l'));
  r.command(other, 2, 1, "b");
  byte_buffer bytes;
  r.sessions.table().encode(bytes);
  ASSERT_TRUE(session_table::decode(bytes.view()));
  for (std::size_t size = 0; size < bytes.size(); ++size) {
    EXPECT_FALSE(session_table::decode(bytes.view().first(size))) << size;
  }
  byte_buffer longer = copy_of(bytes.view());
  longer.append(as_bytes("x"));
  EXPECT_FALSE(session_table::decode(longer.view()));

  std::size_t refused_ones = 0;
  for (std::size_t i = 0; i < bytes.size(); ++i) {
    for (int bit = 0; bit < 8; ++bit) {
      byte_buffer changed = copy_of(bytes.view());
      changed.data()[i] ^= static_cast<std::byte>(1 << bit);
      const auto found = session_table::decode(changed.view());
      if (!found) {
        ++refused_ones;
        continue;
      }
      byte_buffer again;
      found->encode(again);
      EXPECT_TRUE(equal(again.view(), changed.view())) << "byte " << i << " bit " << bit;
    }
  }
  EXPECT_GT(refused_ones, bytes.size());
}

// --- Chance ---

TEST(raft_sessions, of_replicas_agree_with_each_other_and_the_model_whatever_comes) {
  std::map<session_status, std::size_t> seen;
  std::size_t repeats = 0;
  for (std::uint64_t seed = 1; seed <= 40; ++seed) {
    SCOPED_TRACE(seed);
    session_traffic clients{std::mt19937_64(seed)};
    lines applied_once;
    session_model expected([&](index_t, bytes_view command) {
      applied_once.emplace_back(as_text(command));
      return std::to_string(applied_once.size()) + ":" + applied_once.back();
    });
    replica steady;
    auto restarting = std::make_unique<replica>();  // from a snapshot, again and again
    for (int step = 0; step < 1500; ++step) {
      const byte_buffer payload = clients.next();
      steady.time_ns = restarting->time_ns = clients.time();
      const std::size_t applied = steady.lines().size();
      const answer got = steady.apply(payload.view());
      ASSERT_EQ(got, expected.apply(steady.index, steady.time_ns, payload.view()));
      ASSERT_EQ(got, restarting->apply(payload.view()));
      ++seen[*got.status];
      const auto request = decode_session_request(payload.view());
      if (request && std::holds_alternative<open_session>(*request)) clients.opened(steady.index);
      if (request && std::holds_alternative<session_command>(*request) && got.status == session_status::done) {
        repeats += steady.lines().size() == applied ? 1 : 0;
      }
      if (clients.chance(100)) {
        auto restarted = std::make_unique<replica>();
        ASSERT_FALSE(restore(restarted->sessions, snapshot_of(restarting->sessions).view(), 1 + clients.below(300)));
        restarted->index = restarting->index;
        restarting = std::move(restarted);
      }
    }
    EXPECT_EQ(steady.lines(), applied_once);
    const std::set<std::string> different(steady.lines().begin(), steady.lines().end());
    EXPECT_EQ(different.size(), steady.lines().size()) << "each command has other words, and is applied once";
    EXPECT_TRUE(equal(snapshot_of(steady.sessions).view(), snapshot_of(restarting->sessions).view()));
  }
  EXPECT_GT(repeats, 1000u);
  for (auto status = session_status::done; status <= session_status::malformed;
       status = static_cast<session_status>(static_cast<int>(status) + 1)) {
    EXPECT_GT(seen[status], 100u) << static_cast<int>(status);
  }
}

}  // namespace
}  // namespace lockstep::raft
