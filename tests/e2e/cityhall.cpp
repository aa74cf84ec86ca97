// CityHall, the real programs: the replication demo's document step by step, then what the programs promise beyond it.
#include "support/process.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

namespace lockstep::e2e {
namespace {

using nlohmann::json;
using testing::HasSubstr;
using testing::Not;
using testing::StartsWith;
using arguments = std::vector<std::string>;

arguments command(arguments words) {
  words.insert(words.begin(), std::string(LOCKSTEP_BIN_DIR) + "/cityhall");
  return words;
}

run_result cityhall(arguments words) { return run(command(std::move(words))); }

/// A leader or a replica, ready.
class node {
 public:
  explicit node(arguments words) : process_(command(std::move(words))), ready_(process_.wait_ready()) {}

  [[nodiscard]] const captured_stream& log() const { return process_.err(); }
  [[nodiscard]] std::string clients() const { return ready_.at("clients"); }
  [[nodiscard]] std::string replication() const { return ready_.at("replication"); }
  [[nodiscard]] const ready_line& ready() const { return ready_; }
  [[nodiscard]] pid_t pid() const { return process_.pid(); }
  [[nodiscard]] process& program() { return process_; }

  int interrupt() { return end(SIGINT); }
  int end(int signal) {
    process_.signal(signal);
    return process_.wait_exit();
  }

 private:
  process process_;
  ready_line ready_;
};

arguments joined(arguments words, const arguments& more) {
  words.insert(words.end(), more.begin(), more.end());
  return words;
}

arguments leader_on(const std::string& directory, const arguments& more = {}) {
  return joined({"leader", "--port", "0", "--replication-port", "0", "--data-dir", directory}, more);
}
arguments replica_of(const node& leader, const std::string& directory, const arguments& more = {}) {
  return joined({"replica", "--leader", leader.replication(), "--data-dir", directory}, more);
}

run_result client(const std::string& address, const arguments& words) {
  return cityhall(joined({"client", "--addr", address}, words));
}

/// An acknowledged put.
struct written {
  std::string printed;
  std::uint64_t index = 0;
};

written put(const std::string& address, const std::string& key, const std::string& value) {
  const run_result result = client(address, {"put", key, value, "-o", "json"});
  EXPECT_EQ(result.code, 0) << result.err;
  return {result.out, json::parse(result.out).at("index").get<std::uint64_t>()};
}

std::string get(const std::string& address, const std::string& key) {
  const run_result result = client(address, {"get", key});
  EXPECT_EQ(result.code, 0) << result.err;
  return result.out;
}

run_result get_at(const std::string& address, const std::string& key, const written& at,
                  const std::string& timeout = "20s") {
  return client(address, {"--timeout", timeout, "get", key, "--min-position", at.printed});
}

json status_of(const std::string& directory) {
  const run_result result = cityhall({"replica", "status", "--data-dir", directory, "-o", "json"});
  EXPECT_EQ(result.code, 0) << result.err;
  return json::parse(result.out);
}

void expect_totals(const std::string& directory, std::uint64_t segments, std::uint64_t entries) {
  const json status = status_of(directory);
  EXPECT_EQ(status["last_synced_segment"], segments) << status;
  EXPECT_EQ(status["total_entries"], entries) << status;
}

/// `text` as an expression that matches just it.
std::string literal(const std::string& text) {
  std::string expression;
  for (const char c : text) expression += std::string(std::ispunct(static_cast<unsigned char>(c)) ? "\\" : "") + c;
  return expression;
}

/// Of this process alone, so that nobody takes a stopped leader's ports.
std::string own_loopback_host() {
  const int pid = ::getpid();
  return "127." + std::to_string(1 + (pid >> 16) % 250) + "." + std::to_string((pid >> 8) & 255) + "." +
         std::to_string(1 + (pid & 255) % 254);
}

/// Like `before`, on its host and ports.
arguments leader_in_place_of(const node& before, const std::string& directory) {
  return {"leader",
          "--host",
          own_loopback_host(),
          "--port",
          std::to_string(before.ready().port("clients")),
          "--replication-port",
          std::to_string(before.ready().port("replication")),
          "--data-dir",
          directory};
}

/// One changed bit in the file of `directory`'s log that holds `text`, within that text.
void damage(const std::string& directory, const std::string& text) {
  for (const auto& file : std::filesystem::directory_iterator(directory + "/log")) {
    if (!file.is_regular_file()) continue;
    std::fstream stream(file.path(), std::ios::in | std::ios::out | std::ios::binary);
    const std::string bytes{std::istreambuf_iterator<char>(stream), {}};
    const std::size_t found = bytes.find(text);
    if (found == std::string::npos) continue;
    stream.clear();
    stream.seekp(static_cast<std::streamoff>(found));
    stream.put(static_cast<char>(text[0] ^ 1));
    return;
  }
  FAIL() << "no log file in " << directory << " holds " << text;
}

// --- the document, step by step --------------------------------------------------------------------------------------

TEST(cityhall_demo, the_whole_document_holds_step_by_step) {
  const temp_dir dir;
  const std::string leader_dir = dir / "leader";
  const std::string replica_dir = dir / "replica1";
  std::filesystem::create_directory(leader_dir);
  std::filesystem::create_directory(replica_dir);

  // Step 2: the leader starts.
  node leader(leader_on(leader_dir));
  leader.log().wait_for("leading with epoch 1");
  EXPECT_EQ(leader.ready().pid(), leader.pid());

  // Step 3: a replica of an empty leader is caught up.
  {
    node replica(replica_of(leader, replica_dir));
    replica.log().wait_for("caught up");
    expect_totals(replica_dir, 0, 0);

    // Steps 4 and 5: a write arrives.
    const run_result written = client(leader.clients(), {"put", "city", "Nairobi"});
    EXPECT_EQ(written.code, 0) << written.err;
    EXPECT_THAT(written.out, testing::MatchesRegex("OK epoch=1 index=2 chain=[0-9a-f]+ segment=1\n"));
    replica.log().wait_for("synced segment 1 \\(1 entry\\)");
    expect_totals(replica_dir, 1, 1);
    const run_result shown = cityhall({"replica", "status", "--data-dir", replica_dir});
    EXPECT_THAT(shown.out, HasSubstr("Last Synced Segment: 1\n"));
    EXPECT_THAT(shown.out, HasSubstr("Total Entries:       1\n"));
    EXPECT_THAT(shown.out, testing::ContainsRegex("Health: +caught up"));
    EXPECT_THAT(shown.out, HasSubstr(leader.replication()));

    // Step 6: Ctrl+C at the replica.
    EXPECT_EQ(replica.interrupt(), 0) << replica.program().describe();
    expect_totals(replica_dir, 1, 1);
    EXPECT_EQ(status_of(replica_dir)["health"], "stopped");
  }
  put(leader.clients(), "country", "Kenya");
  put(leader.clients(), "event", "RustAfrica");
  expect_totals(replica_dir, 1, 1);

  // Step 7: the same command again, and all that was missed arrives.
  node again(replica_of(leader, replica_dir));
  again.log().wait_for("behind by 2");
  const auto caught_up = again.log().wait_for("caught up at index 4");
  EXPECT_LT(again.log().wait_for("synced segment 3").number, caught_up.number);
  expect_totals(replica_dir, 3, 3);
  EXPECT_THAT(again.log().text(), HasSubstr("synced segment 2 "));
  EXPECT_THAT(again.log().text(), Not(HasSubstr("synced segment 1 ")));
  EXPECT_EQ(again.interrupt(), 0);
  EXPECT_EQ(leader.interrupt(), 0);
  EXPECT_EQ(cityhall({"verify", leader_dir, replica_dir}).code, 0);
}

TEST(cityhall_demo, status_for_scripts_names_replica_leader_position_and_time) {
  const temp_dir dir;
  node leader(leader_on(dir / "leader"));
  node replica(replica_of(leader, dir / "replica", {"--id", "7"}));
  put(leader.clients(), "city", "Nairobi");
  replica.log().wait_for("synced segment 1");
  const json status = status_of(dir / "replica");
  EXPECT_EQ(status["replica_id"], 7);
  EXPECT_EQ(status["leader"], leader.replication());
  EXPECT_EQ(status["position"]["epoch"], 1);
  EXPECT_EQ(status["position"]["index"], 2);
  EXPECT_EQ(status["position"]["chain"].get<std::string>().size(), 16U);
  EXPECT_EQ(replica.interrupt(), 0);
  EXPECT_GT(status_of(dir / "replica")["last_sync"].get<std::int64_t>(), 0);
}

// The leader's and the replica's own directories are in use, so that the verbatim flags parse and go no further.
TEST(cityhall_demo, the_documents_flags_parse_as_they_are_written) {
  const temp_dir dir;
  node leader(leader_on(dir / "leader"));
  node replica(replica_of(leader, dir / "replica1"));
  const run_result second_leader =
      cityhall({"leader", "--port", "7878", "--replication-port", "7879", "--data-dir", dir / "leader"});
  EXPECT_EQ(second_leader.code, 6) << second_leader.err;
  const run_result second_replica = cityhall({"replica", "--leader", "127.0.0.1:7879", "--data-dir", dir / "replica1"});
  EXPECT_EQ(second_replica.code, 6) << second_replica.err;
  EXPECT_EQ(cityhall({"replica", "status", "--data-dir", dir / "replica1"}).code, 0);
}

TEST(cityhall_demo, status_after_kill_9_says_what_the_log_holds) {
  const temp_dir dir;
  node leader(leader_on(dir / "leader"));
  node replica(replica_of(leader, dir / "replica"));
  put(leader.clients(), "a", "1");
  put(leader.clients(), "b", "2");
  replica.log().wait_for("synced segment 2");
  replica.program().kill();
  put(leader.clients(), "c", "3");
  expect_totals(dir / "replica", 2, 2);
  EXPECT_THAT(status_of(dir / "replica")["health"].get<std::string>(), StartsWith("stopped without a word"));
  node again(replica_of(leader, dir / "replica"));
  again.log().wait_for("behind by 1");
  again.log().wait_for("synced segment 3");
  expect_totals(dir / "replica", 3, 3);
}

TEST(cityhall_demo, status_of_a_directory_where_nothing_ever_started_says_so) {
  const temp_dir dir;
  const run_result missing = cityhall({"replica", "status", "--data-dir", dir / "missing"});
  EXPECT_EQ(missing.code, 1);
  EXPECT_THAT(missing.err, HasSubstr("directory " + (dir / "missing") + " does not exist"));
  EXPECT_EQ(cityhall({"verify", dir / "missing", dir / "missing"}).code, 1);
  std::filesystem::create_directory(dir / "empty");
  expect_totals(dir / "empty", 0, 0);
  EXPECT_EQ(status_of(dir / "empty")["health"], "never started");
  EXPECT_TRUE(std::filesystem::is_empty(dir / "empty"));
}

TEST(cityhall_demo, a_signal_at_once_ends_a_node_with_0) {
  const temp_dir dir;
  for (int i = 0; i < 10; ++i) {
    node leader(leader_on(dir / "leader"));
    node replica(replica_of(leader, dir / "replica", {"--port", "0"}));
    EXPECT_EQ(replica.interrupt(), 0) << replica.program().describe();
    EXPECT_EQ(leader.interrupt(), 0) << leader.program().describe();
    process not_ready(command(leader_on(dir / "leader")));
    (void)not_ready.err().wait_for("opened ");
    not_ready.signal(SIGINT);
    EXPECT_EQ(not_ready.wait_exit(), 0) << not_ready.describe();
  }
}

TEST(cityhall_demo, sigterm_drains_and_ends_with_0) {
  const temp_dir dir;
  node leader(leader_on(dir / "leader"));
  node replica(replica_of(leader, dir / "replica"));
  replica.log().wait_for("caught up");
  EXPECT_EQ(leader.end(SIGTERM), 0) << leader.program().describe();
  EXPECT_EQ(replica.end(SIGTERM), 0) << replica.program().describe();
}

// --- verify ----------------------------------------------------------------------------------------------------------

TEST(cityhall_verify, tells_equal_from_behind_from_corrupt) {
  const temp_dir dir;
  node leader(leader_on(dir / "leader"));
  {
    node replica(replica_of(leader, dir / "replica"));
    put(leader.clients(), "city", "Nairobi");
    replica.log().wait_for("synced segment 1");
    EXPECT_EQ(replica.interrupt(), 0);
  }
  const run_result equal = cityhall({"verify", dir / "leader", dir / "replica"});
  EXPECT_EQ(equal.code, 0) << equal.err;
  EXPECT_THAT(equal.out, StartsWith("equal: both end at epoch=1 index=2 "));

  put(leader.clients(), "country", "Kenya");
  EXPECT_EQ(leader.interrupt(), 0);
  const run_result behind = cityhall({"verify", dir / "leader", dir / "replica"});
  EXPECT_EQ(behind.code, 1) << behind.err;
  EXPECT_THAT(behind.out, HasSubstr((dir / "replica") + " is behind: it ends at index 2, "));
  const run_result swapped = cityhall({"verify", dir / "replica", dir / "leader"});
  EXPECT_EQ(swapped.code, 1);
  EXPECT_THAT(swapped.out, StartsWith((dir / "replica") + " is behind"));

  damage(dir / "replica", "Nairobi");
  const run_result corrupt = cityhall({"verify", dir / "leader", dir / "replica"});
  EXPECT_EQ(corrupt.code, 7) << corrupt.out;
  EXPECT_THAT(corrupt.err, HasSubstr((dir / "replica") + ": corrupt from record 2"));
}

TEST(cityhall_verify, a_node_refuses_a_corrupt_log_and_changes_nothing) {
  const temp_dir dir;
  {
    node leader(leader_on(dir / "leader"));
    put(leader.clients(), "city", "Nairobi");
    put(leader.clients(), "country", "Kenya");
    EXPECT_EQ(leader.interrupt(), 0);
  }
  damage(dir / "leader", "Nairobi");
  for (int attempt = 0; attempt < 2; ++attempt) {
    const run_result refused = cityhall(leader_on(dir / "leader"));
    EXPECT_EQ(refused.code, 7) << refused.err;
    EXPECT_THAT(refused.err, HasSubstr("corrupt from record 2"));
  }
  EXPECT_EQ(cityhall({"replica", "status", "--data-dir", dir / "leader"}).code, 7);
}

// --- clients ---------------------------------------------------------------------------------------------------------

TEST(cityhall_client, a_missing_key_is_not_found_on_standard_error) {
  const temp_dir dir;
  node leader(leader_on(dir / "leader"));
  const run_result missing = client(leader.clients(), {"get", "nothing"});
  EXPECT_EQ(missing.code, 1);
  EXPECT_EQ(missing.out, "");
  EXPECT_EQ(missing.err, "NOT_FOUND\n");
}

TEST(cityhall_client, keys_and_values_may_have_spaces_and_any_bytes) {
  const temp_dir dir;
  node leader(leader_on(dir / "leader"));
  const std::string at = leader.clients();
  put(at, "a key with spaces", " and its value ");
  EXPECT_EQ(get(at, "a key with spaces"), " and its value \n");
  put(at, "", "of the empty key");
  EXPECT_EQ(get(at, ""), "of the empty key\n");
  put(at, "empty value", "");
  EXPECT_EQ(get(at, "empty value"), "\n");

  const std::string bytes = "\x01\xff\n\\";
  put(at, bytes, bytes);
  EXPECT_EQ(get(at, bytes), "\\x01\\xff\\x0a\\\\\n");
  EXPECT_EQ(client(at, {"--raw", "get", bytes}).out, bytes + "\n");
  const json shown = json::parse(client(at, {"-o", "json", "get", bytes}).out);
  EXPECT_EQ(shown["value"]["hex"], "01ff0a5c");
  EXPECT_EQ(shown["key"]["hex"], "01ff0a5c");
}

TEST(cityhall_client, a_put_replaces_and_a_del_removes) {
  const temp_dir dir;
  node leader(leader_on(dir / "leader"));
  put(leader.clients(), "city", "Nairobi");
  put(leader.clients(), "city", "Mombasa");
  EXPECT_EQ(get(leader.clients(), "city"), "Mombasa\n");
  EXPECT_EQ(client(leader.clients(), {"del", "city"}).code, 0);
  EXPECT_EQ(client(leader.clients(), {"get", "city"}).code, 1);
}

TEST(cityhall_client, a_scan_keeps_to_its_prefix_and_limit) {
  const temp_dir dir;
  node leader(leader_on(dir / "leader"));
  for (const char* key : {"user:2", "user:1", "user:3", "use", "v"}) put(leader.clients(), key, "x");
  EXPECT_EQ(client(leader.clients(), {"scan", "user:"}).out, "user:1 = x\nuser:2 = x\nuser:3 = x\n");
  EXPECT_EQ(client(leader.clients(), {"scan", "user:", "--limit", "2"}).out, "user:1 = x\nuser:2 = x\n");
  const std::string all = client(leader.clients(), {"scan"}).out;
  EXPECT_EQ(std::count(all.begin(), all.end(), '\n'), 5);
  const run_result none = client(leader.clients(), {"scan", "w"});
  EXPECT_EQ(none.code, 0);
  EXPECT_EQ(none.out, "");
}

TEST(cityhall_client, a_watch_sees_changes_of_its_prefix) {
  const temp_dir dir;
  node leader(leader_on(dir / "leader"));
  process watch(command({"client", "--addr", leader.clients(), "watch", "user:"}));
  // It sees what comes after it was accepted, which nothing announces: write until it has seen one.
  bool seen = false;
  for (int i = 0; i < 100 && !seen; ++i) {
    put(leader.clients(), "user:first", "1");
    seen = watch.out().try_wait_for("^[0-9]+ put user:first = 1$", 0, 300ms).has_value();
  }
  ASSERT_TRUE(seen) << watch.describe();
  put(leader.clients(), "other", "2");
  EXPECT_EQ(client(leader.clients(), {"del", "user:first"}).code, 0);
  const std::uint64_t last = put(leader.clients(), "user:last", "3").index;
  watch.out().wait_for("^" + std::to_string(last) + " put user:last = 3$");
  EXPECT_THAT(watch.out().text(), HasSubstr(std::to_string(last - 1) + " del user:first\n"));
  EXPECT_THAT(watch.out().text(), Not(HasSubstr("other")));
  watch.signal(SIGINT);
  EXPECT_EQ(watch.wait_exit(), 0);
}

// --- reads at a replica ----------------------------------------------------------------------------------------------

TEST(cityhall_replica, serves_reads_of_ones_own_writes) {
  const temp_dir dir;
  node leader(leader_on(dir / "leader"));
  node replica(replica_of(leader, dir / "replica", {"--port", "0"}));
  for (int i = 0; i < 10; ++i) {
    const written at = put(leader.clients(), "counter", std::to_string(i));
    const run_result read = get_at(replica.clients(), "counter", at);
    EXPECT_EQ(read.code, 0) << read.err;
    EXPECT_EQ(read.out, std::to_string(i) + "\n");
  }
  EXPECT_EQ(client(replica.clients(), {"scan", "count"}).out, "counter = 9\n");
}

TEST(cityhall_replica, takes_for_a_position_what_put_printed_in_either_format) {
  const temp_dir dir;
  node leader(leader_on(dir / "leader"));
  node replica(replica_of(leader, dir / "replica", {"--port", "0"}));
  const run_result text = client(leader.clients(), {"put", "city", "Nairobi"});
  const std::string words = text.out.substr(3, text.out.find(" segment=") - 3);
  const run_result object = client(leader.clients(), {"put", "city", "Mombasa", "-o", "json"});
  for (const std::string& position : {text.out, words, object.out}) {
    const run_result read = client(replica.clients(), {"get", "city", "--min-position", position});
    EXPECT_EQ(read.code, 0) << position << read.err;
  }
  for (const std::string position : {"", "2", "epoch=1", "epoch=1 index=2 chain=xyz", "{\"epoch\": 1}"}) {
    EXPECT_EQ(client(replica.clients(), {"get", "city", "--min-position", position}).code, 2) << position;
  }
}

TEST(cityhall_replica, a_read_waits_for_its_position) {
  const temp_dir dir;
  node leader(leader_on(dir / "leader", {"--host", own_loopback_host()}));
  node replica(replica_of(leader, dir / "replica", {"--port", "0"}));
  (void)get_at(replica.clients(), "any", put(leader.clients(), "city", "Nairobi"));
  EXPECT_EQ(replica.interrupt(), 0);
  const written second = put(leader.clients(), "city", "Mombasa");
  EXPECT_EQ(leader.interrupt(), 0);

  node behind(replica_of(leader, dir / "replica", {"--port", "0"}));
  EXPECT_EQ(get(behind.clients(), "city"), "Nairobi\n");
  const run_result late = get_at(behind.clients(), "city", second, "200ms");
  EXPECT_EQ(late.code, 4);
  EXPECT_THAT(late.err, HasSubstr("timed out"));
  EXPECT_THAT(late.err, Not(HasSubstr("unknown")));  // a read has no outcome
  node again(leader_in_place_of(leader, dir / "leader"));
  EXPECT_EQ(get_at(behind.clients(), "city", second).out, "Mombasa\n");
}

TEST(cityhall_replica, refuses_writes_and_names_the_leader) {
  const temp_dir dir;
  node leader(leader_on(dir / "leader"));
  node replica(replica_of(leader, dir / "replica", {"--port", "0"}));
  (void)get_at(replica.clients(), "any", put(leader.clients(), "city", "Nairobi"));
  for (const arguments& change : {arguments{"put", "city", "Mombasa"}, arguments{"del", "city"}}) {
    const run_result refused = client(replica.clients(), change);
    EXPECT_EQ(refused.code, 3);
    EXPECT_THAT(refused.err, HasSubstr("write to the leader at " + leader.clients()));
  }
  EXPECT_EQ(get(leader.clients(), "city"), "Nairobi\n");
}

// --- refusals --------------------------------------------------------------------------------------------------------

TEST(cityhall_refusals, nobody_listening_ends_with_3_and_names_the_address) {
  std::string nobody;
  const temp_dir dir;
  {
    node leader(leader_on(dir / "leader", {"--host", own_loopback_host()}));
    nobody = leader.clients();
    EXPECT_EQ(leader.interrupt(), 0);
  }
  const run_result refused = client(nobody, {"put", "a", "b"});
  EXPECT_EQ(refused.code, 3);
  EXPECT_THAT(refused.err, HasSubstr("cannot connect to " + nobody + ": connection refused"));
}

TEST(cityhall_refusals, a_port_in_use_ends_with_5_and_names_the_address) {
  const temp_dir dir;
  node leader(leader_on(dir / "leader"));
  const std::string taken = std::to_string(leader.ready().port("clients"));
  const run_result refused =
      cityhall({"leader", "--port", taken, "--replication-port", "0", "--data-dir", dir / "other"});
  EXPECT_EQ(refused.code, 5);
  EXPECT_THAT(refused.err, HasSubstr("cannot listen on 127.0.0.1:" + taken + ": address already in use"));
  const run_result replica = cityhall(replica_of(leader, dir / "replica", {"--port", taken}));
  EXPECT_EQ(replica.code, 5) << replica.err;
}

TEST(cityhall_refusals, a_data_directory_in_use_ends_with_6_and_names_its_holder) {
  const temp_dir dir;
  node leader(leader_on(dir / "leader"));
  const run_result refused = cityhall(leader_on(dir / "leader"));
  EXPECT_EQ(refused.code, 6);
  EXPECT_THAT(refused.err, HasSubstr("data directory " + (dir / "leader") + " is locked by pid " +
                                     std::to_string(leader.pid()) + "\n"));
}

TEST(cityhall_refusals, missing_or_unknown_words_end_with_2) {
  const temp_dir dir;
  for (const arguments& words :
       {arguments{}, arguments{"leader"}, arguments{"replica"}, arguments{"replica", "--data-dir", dir / "r"},
        arguments{"replica", "--leader", "127.0.0.1:1"}, arguments{"replica", "status"}, arguments{"client"},
        arguments{"client", "get", "k"}, arguments{"client", "--addr", "127.0.0.1:1", "put", "k"},
        arguments{"client", "--addr", "nowhere", "get", "k"}, arguments{"verify", dir / "r"}, arguments{"lead"},
        arguments{"leader", "--port", "70000", "--data-dir", dir / "r"},
        arguments{"replica", "--leader", "127.0.0.1:1", "--data-dir", dir / "r", "--on-divergence", "maybe"}}) {
    const run_result refused = cityhall(words);
    EXPECT_EQ(refused.code, 2) << testing::PrintToString(words) << refused.err;
    EXPECT_EQ(refused.out, "") << testing::PrintToString(words);
    EXPECT_NE(refused.err, "") << testing::PrintToString(words);
  }
  EXPECT_FALSE(std::filesystem::exists(dir / "r"));
}

TEST(cityhall_refusals, help_begins_with_examples_everywhere) {
  for (const arguments& words : {arguments{"--help"}, arguments{"leader", "--help"}, arguments{"replica", "--help"},
                                 arguments{"replica", "status", "--help"}, arguments{"client", "--help"},
                                 arguments{"client", "put", "--help"}, arguments{"verify", "--help"}}) {
    const run_result help = cityhall(words);
    EXPECT_EQ(help.code, 0);
    EXPECT_THAT(help.out, StartsWith("Examples:\n")) << testing::PrintToString(words);
  }
}

// --- lives, snapshots, divergence ------------------------------------------------------------------------------------

TEST(cityhall_catchup, a_replica_that_retention_passed_by_is_given_an_announced_snapshot) {
  const temp_dir dir;
  node leader(
      leader_on(dir / "leader", {"--snapshot-every", "5", "--retain-bytes", "1", "--log-segment-bytes", "4KiB"}));
  const std::string value(1500, 'x');
  {
    node replica(replica_of(leader, dir / "replica"));
    put(leader.clients(), "before", "1");
    replica.log().wait_for("synced segment 1");
    EXPECT_EQ(replica.interrupt(), 0);
  }
  written last;
  for (int i = 0; i < 30; ++i) last = put(leader.clients(), "key" + std::to_string(i), value);

  node replica(replica_of(leader, dir / "replica", {"--port", "0"}));
  replica.log().wait_for("no longer keeps what is missing here: taking its snapshot");
  replica.log().wait_for("snapshot installed");
  replica.log().wait_for("caught up");
  EXPECT_EQ(get_at(replica.clients(), "key29", last).out, value + "\n");
  EXPECT_EQ(get(replica.clients(), "before"), "1\n");
  expect_totals(dir / "replica", 31, 31);

  // It goes on from there, also after its death.
  put(leader.clients(), "after", "2");
  replica.log().wait_for("synced segment 32");
  replica.program().kill();
  expect_totals(dir / "replica", 32, 32);
  last = put(leader.clients(), "at the end", "3");
  node again(replica_of(leader, dir / "replica", {"--port", "0"}));
  EXPECT_EQ(get_at(again.clients(), "before", last).out, "1\n");
  EXPECT_EQ(get(again.clients(), "after"), "2\n");
  expect_totals(dir / "replica", 33, 33);
  EXPECT_EQ(again.interrupt(), 0);
  EXPECT_EQ(leader.interrupt(), 0);
  const run_result verified = cityhall({"verify", dir / "leader", dir / "replica"});
  EXPECT_EQ(verified.code, 0) << verified.out << verified.err;
}

TEST(cityhall_catchup, a_leader_that_comes_back_is_found_without_a_restart) {
  const temp_dir dir;
  const arguments host{"--host", own_loopback_host()};
  node leader(leader_on(dir / "leader", host));
  node replica(replica_of(leader, dir / "replica"));
  put(leader.clients(), "city", "Nairobi");
  replica.log().wait_for("synced segment 1");
  leader.program().kill();
  replica.log().wait_for("disconnected from leader " + literal(leader.replication()) + ".*next attempt in [0-9]+ ms");
  EXPECT_THAT(status_of(dir / "replica")["health"].get<std::string>(), StartsWith("disconnected"));

  node again(leader_in_place_of(leader, dir / "leader"));
  again.log().wait_for("leading with epoch 2");
  EXPECT_EQ(get(again.clients(), "city"), "Nairobi\n");
  put(again.clients(), "country", "Kenya");
  replica.log().wait_for("synced segment 2");
  expect_totals(dir / "replica", 2, 2);
}

/// A leader's directory and that of a replica which has two entries, the second of which another life will not have.
/// @return that entry.
written make_two_lives(const temp_dir& dir) {
  {
    node leader(leader_on(dir / "A"));
    node replica(replica_of(leader, dir / "replica"));
    put(leader.clients(), "city", "Nairobi");
    replica.log().wait_for("synced segment 1");
    EXPECT_EQ(replica.interrupt(), 0);
    EXPECT_EQ(leader.interrupt(), 0);
  }
  std::filesystem::copy(dir / "A", dir / "B", std::filesystem::copy_options::recursive);
  node leader(leader_on(dir / "A"));
  node replica(replica_of(leader, dir / "replica"));
  const written only_in_a = put(leader.clients(), "only in A", "x");
  replica.log().wait_for("synced segment 2");
  EXPECT_EQ(replica.interrupt(), 0);
  return only_in_a;
}

constexpr const char* where_the_lives_part =
    "diverged from the leader behind index 2 \\(epoch 1\\): records 3 to 4 are not the leader's";

TEST(cityhall_divergence, a_replica_of_another_life_saves_its_records_aside_and_ends_equal) {
  const temp_dir dir;
  (void)make_two_lives(dir);
  node leader(leader_on(dir / "B"));
  const written last = put(leader.clients(), "only in B", "y");
  node replica(replica_of(leader, dir / "replica", {"--port", "0"}));
  const auto told = replica.log().wait_for(std::string(where_the_lives_part) + ", saved to (.*) and cut off");
  EXPECT_TRUE(std::filesystem::exists(told.groups[1])) << told.text;
  EXPECT_EQ(get_at(replica.clients(), "only in B", last).out, "y\n");
  EXPECT_EQ(client(replica.clients(), {"get", "only in A"}).code, 1);
  EXPECT_EQ(get(replica.clients(), "city"), "Nairobi\n");
  EXPECT_EQ(replica.interrupt(), 0);
  EXPECT_EQ(leader.interrupt(), 0);
  expect_totals(dir / "replica", 2, 2);
  const run_result verified = cityhall({"verify", dir / "B", dir / "replica"});
  EXPECT_EQ(verified.code, 0) << verified.out << verified.err;
  EXPECT_THAT(cityhall({"verify", dir / "A", dir / "replica"}).out, HasSubstr("different from index 3 on"));
}

TEST(cityhall_divergence, a_replica_that_shares_nothing_with_the_leader_starts_over_and_ends_equal) {
  const temp_dir dir;
  (void)make_two_lives(dir);
  // Its epoch rises with each start: it is not older than what the replica knows.
  for (int life = 0; life < 2; ++life) EXPECT_EQ(node(leader_on(dir / "C")).interrupt(), 0);
  node leader(leader_on(dir / "C"));
  const written last = put(leader.clients(), "only in C", "z");
  node replica(replica_of(leader, dir / "replica", {"--port", "0"}));
  replica.log().wait_for("diverged from the leader behind index 0 .*: records 1 to 4 are not the leader's, saved to");
  EXPECT_EQ(get_at(replica.clients(), "only in C", last).out, "z\n");
  EXPECT_EQ(client(replica.clients(), {"get", "city"}).code, 1);
  EXPECT_EQ(replica.interrupt(), 0);
  EXPECT_EQ(leader.interrupt(), 0);
  expect_totals(dir / "replica", 1, 1);
  const run_result verified = cityhall({"verify", dir / "C", dir / "replica"});
  EXPECT_EQ(verified.code, 0) << verified.out << verified.err;
}

// Its own record at that index is of another leader: whoever asks for B's write must not be answered without it.
TEST(cityhall_divergence, a_read_does_not_take_a_dead_leaders_record_for_the_one_it_names) {
  const temp_dir dir;
  (void)make_two_lives(dir);
  node leader(leader_on(dir / "B", {"--host", own_loopback_host()}));
  const written here = put(leader.clients(), "only in B", "y");
  EXPECT_EQ(leader.interrupt(), 0);

  node replica(replica_of(leader, dir / "replica", {"--port", "0"}));
  EXPECT_EQ(get(replica.clients(), "only in A"), "x\n");
  EXPECT_EQ(get_at(replica.clients(), "only in B", here, "200ms").code, 4);
  node again(leader_in_place_of(leader, dir / "B"));
  const run_result read = get_at(replica.clients(), "only in B", here);
  EXPECT_EQ(read.out, "y\n") << read.err;
}

TEST(cityhall_divergence, a_read_of_a_write_that_a_later_leader_lost_is_refused_with_1) {
  const temp_dir dir;
  const written gone = make_two_lives(dir);
  EXPECT_EQ(node(leader_on(dir / "B")).interrupt(), 0);
  node leader(leader_on(dir / "B"));  // of epoch 3
  node replica(replica_of(leader, dir / "replica", {"--port", "0"}));
  replica.log().wait_for("caught up");  // until it was cut, the replica reads from its own history
  for (const std::string& at : {leader.clients(), replica.clients()}) {
    const run_result refused = get_at(at, "only in A", gone);
    EXPECT_EQ(refused.code, 1);
    EXPECT_THAT(refused.err, HasSubstr("the record of epoch 2 at index 4 is lost: the history goes on without it"));
  }
}

/// What a replica that keeps little log must do when its leader's last records are of another life than its own, which
/// lie in its snapshot: start over.
void start_over(std::size_t shared_bytes) {
  const temp_dir dir;
  const arguments compacting{"--port",         "0", "--snapshot-every", "3", "--log-segment-bytes", "16KiB",
                             "--retain-bytes", "1"};
  const auto follow = [&](const node& leader, int writes, const std::string& key, std::size_t bytes) {
    node replica(replica_of(leader, dir / "replica", compacting));
    for (int i = 0; i < writes; ++i) {
      const written at = put(leader.clients(), key + std::to_string(i), std::string(bytes, 'x'));
      EXPECT_EQ(get_at(replica.clients(), key + "0", at).code, 0) << replica.program().describe();
    }
    EXPECT_EQ(replica.interrupt(), 0);
  };
  {
    node leader(leader_on(dir / "A"));
    follow(leader, 20, "shared", shared_bytes);
    EXPECT_EQ(leader.interrupt(), 0);
  }
  std::filesystem::copy(dir / "A", dir / "B", std::filesystem::copy_options::recursive);
  follow(node(leader_on(dir / "A")), 6, "only in A", 2000 - shared_bytes);
  EXPECT_EQ(node(leader_on(dir / "B")).interrupt(), 0);
  node leader(leader_on(dir / "B"));
  follow(leader, 1, "only in B", 1);
  node replica(replica_of(leader, dir / "replica", compacting));
  replica.log().wait_for("caught up");
  EXPECT_EQ(client(replica.clients(), {"get", "only in A0"}).code, 1);
  EXPECT_EQ(client(replica.clients(), {"scan"}).out, client(leader.clients(), {"scan"}).out);
  EXPECT_EQ(replica.interrupt(), 0);
  EXPECT_EQ(leader.interrupt(), 0);
  expect_totals(dir / "replica", 21, 21);
  EXPECT_EQ(cityhall({"verify", dir / "B", dir / "replica"}).code, 0);
}

TEST(cityhall_divergence, a_replica_that_must_cut_behind_its_snapshot_starts_over) { start_over(1900); }

TEST(cityhall_divergence, a_replica_whose_log_begins_behind_what_is_common_starts_over) { start_over(100); }

TEST(cityhall_divergence, a_replica_told_to_stop_there_ends_with_1_and_keeps_its_records) {
  const temp_dir dir;
  (void)make_two_lives(dir);
  node leader(leader_on(dir / "B"));
  put(leader.clients(), "only in B", "y");
  const run_result stopped = cityhall(replica_of(leader, dir / "replica", {"--on-divergence", "stop"}));
  EXPECT_EQ(stopped.code, 1) << stopped.err;
  EXPECT_THAT(stopped.err, HasSubstr("diverged from the leader behind index 2 (epoch 1): records 3 to 4"));
  expect_totals(dir / "replica", 2, 2);
  EXPECT_EQ(cityhall({"verify", dir / "A", dir / "replica"}).code, 0);
}

TEST(cityhall_divergence, a_leader_of_an_older_epoch_is_refused_until_the_right_one_is_back) {
  const temp_dir dir;
  (void)make_two_lives(dir);  // the replica knows epoch 2
  node wrong(leader_on(dir / "new", {"--host", own_loopback_host()}));
  put(wrong.clients(), "only here", "x");
  node replica(replica_of(wrong, dir / "replica"));
  replica.log().wait_for("disconnected from leader .*epoch is older than one already seen");
  expect_totals(dir / "replica", 2, 2);
  wrong.program().kill();

  node right(leader_in_place_of(wrong, dir / "A"));
  put(right.clients(), "more", "y");
  replica.log().wait_for("synced segment 3");
  expect_totals(dir / "replica", 3, 3);
  EXPECT_EQ(replica.interrupt(), 0);
  EXPECT_EQ(right.interrupt(), 0);
  EXPECT_EQ(cityhall({"verify", dir / "A", dir / "replica"}).code, 0);
}

}  // namespace
}  // namespace lockstep::e2e
