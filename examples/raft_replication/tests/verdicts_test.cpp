#include "raft_replication/verdicts.hpp"

#include "raft_replication/kv_codec.hpp"

#include <lockstep/log/options.hpp>

#include <gtest/gtest.h>

#include <string>

namespace lockstep::raft_replication {
namespace {

TEST(raft_replication_verdicts, only_what_surely_never_takes_effect_counts_as_nothing_changed) {
  EXPECT_EQ(code_of({}), reply_code::ok);
  EXPECT_EQ(code_of(errc::not_leader), reply_code::no_leader);
  EXPECT_EQ(code_of(errc::overloaded), reply_code::no_leader);
  EXPECT_EQ(code_of(errc::timed_out), reply_code::outcome_unknown);
  EXPECT_EQ(code_of(errc::record_too_large), reply_code::refused);
  EXPECT_EQ(code_of(errc::wrong_node), reply_code::refused);
  EXPECT_EQ(code_of(std::make_error_code(std::errc::no_space_on_device)), reply_code::failed);
}

TEST(raft_replication_verdicts, what_may_have_been_applied_is_never_sent_in_a_new_session) {
  using raft::session_status;
  for (const bool doubtful : {false, true}) {
    EXPECT_EQ(judge(session_status::done, doubtful), session_verdict::answered);
    EXPECT_EQ(judge(session_status::forgotten, doubtful), session_verdict::unknown);
    EXPECT_EQ(judge(session_status::outside_window, doubtful), session_verdict::unknown);
    EXPECT_EQ(judge(session_status::malformed, doubtful), session_verdict::unknown);
  }
  EXPECT_EQ(judge(session_status::unknown_session, false), session_verdict::again);
  EXPECT_EQ(judge(session_status::unknown_session, true), session_verdict::unknown);
}

TEST(raft_replication_limits, the_longest_command_fits_into_a_record) {
  const std::string key(raft::kv::max_key_bytes, 'k');
  const std::string value(raft::kv::max_value_bytes, 'v');
  raft::kv::command longest;
  longest.op = raft::kv::operation::cas;
  longest.key = key;
  longest.value = value;
  longest.expected = value;
  ASSERT_TRUE(longest.sound());
  byte_buffer bytes;
  encode(bytes, longest);
  EXPECT_EQ(bytes.size(), raft::kv::max_command_bytes);
  raft::session_command sent;
  sent.session = 1;
  sent.sequence = 1;
  sent.payload = bytes.view();
  byte_buffer request;
  raft::encode_session_request(request, sent);
  EXPECT_LE(sizeof(std::uint64_t) + request.size(), log_options().max_payload_bytes) << "behind the entry's time";
}

}  // namespace
}  // namespace lockstep::raft_replication
