#include "raft_replication/command.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <stdexcept>
#include <string>
#include <vector>

namespace lockstep::raft_replication {
namespace {

using words = std::vector<std::string>;

std::string why_refused(const std::string& line) {
  try {
    (void)parse_command(split_words(line));
  } catch (const std::invalid_argument& error) {
    return error.what();
  }
  return "it was taken";
}

TEST(raft_replication_command, words_end_at_spaces_outside_quotes) {
  EXPECT_EQ(split_words(""), words());
  EXPECT_EQ(split_words("  put\ta  b\r"), (words{"put", "a", "b"}));
  EXPECT_EQ(split_words("put 'a b' \"c d\""), (words{"put", "a b", "c d"}));
  EXPECT_EQ(split_words("put '' \"\""), (words{"put", "", ""}));
  EXPECT_EQ(split_words("a'b c'd"), (words{"ab cd"}));
  EXPECT_EQ(split_words(R"("\"\\\x00\xfF" '\x' \)"), (words{std::string("\"\\\0\xff", 4), "\\x", "\\"}));
}

TEST(raft_replication_command, quotes_and_backslashes_that_are_wrong_are_refused) {
  for (const char* const line : {"'a", "\"a", "\"\\", "\"\\n\"", "\"\\x1\"", "\"\\xg0\""}) {
    EXPECT_THROW((void)split_words(line), std::invalid_argument) << line;
  }
}

TEST(raft_replication_command, commands_are_read_in_any_case) {
  const request put = parse_command(split_words("pUt key 'the value'"));
  EXPECT_EQ(put.what, verb::put);
  EXPECT_EQ(put.key, "key");
  EXPECT_EQ(put.value, "the value");
  EXPECT_EQ(parse_command({"quit"}).what, verb::exit);
  EXPECT_EQ(parse_command({"Status"}).what, verb::status);
  EXPECT_FALSE(parse_command({"get", "k"}).stale);
  EXPECT_TRUE(parse_command({"get", "--stale", "k"}).stale);
  EXPECT_EQ(parse_command({"get", "--stale", "k"}).key, "k");
  const request swapped = parse_command({"cas", "k", "old", "new"});
  EXPECT_EQ(swapped.expected, "old");
  EXPECT_EQ(swapped.value, "new");
  const request made = parse_command({"cas", "--absent", "k", "new"});
  EXPECT_EQ(made.expected, std::nullopt);
  EXPECT_EQ(made.key, "k");
  EXPECT_EQ(made.value, "new");
  const request added = parse_command({"add", "4", "127.0.0.1:7104"});
  EXPECT_EQ(added.node, 4U);
  EXPECT_EQ(added.address, "127.0.0.1:7104");
  EXPECT_EQ(parse_command({"transfer", "2"}).node, 2U);
}

TEST(raft_replication_command, what_is_no_command_is_refused_and_told_why) {
  EXPECT_EQ(why_refused("frob"), "unknown command 'frob'; HELP lists them");
  EXPECT_EQ(why_refused("put a"), "usage: PUT <key> <value>");
  EXPECT_EQ(why_refused("put a b c"), "usage: PUT <key> <value>; quote what has spaces");
  EXPECT_EQ(why_refused("status now"), "usage: STATUS");
  EXPECT_EQ(why_refused("put '' b"), "a key cannot be empty");
  EXPECT_EQ(why_refused("get " + std::string(70'000, 'k')), "a key has at most 64 KiB");
  EXPECT_EQ(why_refused("cas --absent k"), "usage: CAS <key> <old> <new>");
  for (const char* const id : {"0", "x", "-1", "1x", "99999999999999999999"}) {
    EXPECT_EQ(why_refused(std::string("remove ") + id),
              "'" + std::string(id) + "': expected the number of a node, from 1 on");
  }
  EXPECT_NE(why_refused("add 4 nowhere").find("nowhere"), std::string::npos);
}

TEST(raft_replication_command, help_names_every_command) {
  const std::string help = help_text();
  EXPECT_EQ(std::ranges::count(help, '\n'), 14);
  for (const char* const name : {"PUT <key> <value>", "GET ", "STATUS", "HELP", "EXIT"}) {
    EXPECT_NE(help.find(name), std::string::npos) << name;
  }
}

TEST(raft_replication_command, requests_and_replies_survive_their_bytes) {
  for (const char* const line : {"put k v", "get --stale k", "del k", "cas k a b", "cas --absent k b", "status",
                                 "members", "add 4 h:1", "promote 4", "remove 4", "transfer 4", "snapshot"}) {
    const request asked = parse_command(split_words(line));
    byte_buffer bytes;
    encode(bytes, asked);
    EXPECT_EQ(decode_request(bytes.view()), asked) << line;
    for (std::size_t cut = 0; cut < bytes.size(); ++cut) EXPECT_FALSE(decode_request(bytes.view().first(cut))) << cut;
  }
  reply answer;
  answer.code = reply_code::differs;
  answer.index = 7;
  answer.term = 3;
  answer.value = "v";
  answer.words = "why";
  byte_buffer bytes;
  encode(bytes, answer);
  EXPECT_EQ(decode_reply(bytes.view()), answer);
  for (std::size_t cut = 0; cut < bytes.size(); ++cut) EXPECT_FALSE(decode_reply(bytes.view().first(cut))) << cut;
}

TEST(raft_replication_command, the_shell_s_own_commands_are_no_requests) {
  for (const char* const line : {"help", "exit", "unwatch k"}) {
    byte_buffer bytes;
    encode(bytes, parse_command(split_words(line)));
    EXPECT_FALSE(decode_request(bytes.view())) << line;
  }
}

TEST(raft_replication_command, answers_read_as_the_document_says) {
  const request get = parse_command({"get", "city"});
  reply answer;
  answer.value = "Nairobi";
  EXPECT_EQ(describe(get, answer), "city -> Nairobi");
  answer.value = "two words\n";
  EXPECT_EQ(describe(get, answer), "city -> \"two words\\x0a\"");
  reply none;
  none.code = reply_code::absent;
  EXPECT_EQ(describe(get, none), "city -> not found");
  reply done;
  done.index = 9;
  done.term = 2;
  EXPECT_EQ(describe(parse_command({"put", "a", "b"}), done), "OK index=9 term=2");
  reply refused;
  refused.code = reply_code::no_leader;
  refused.words = "no leader (term 4, last contact 2.1 s)";
  EXPECT_EQ(describe(get, refused), "ERROR no leader (term 4, last contact 2.1 s)");
  refused.words = "\x1b[31mred";
  EXPECT_EQ(describe(get, refused), "ERROR \\x1b[31mred");
}

}  // namespace
}  // namespace lockstep::raft_replication
