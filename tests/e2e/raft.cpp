// raft_node and raft_ctl, the real programs: the document's three terminals, then what the programs promise beyond it.
#include "support/raft_group.hpp"

#include <pty.h>
#include <sys/ioctl.h>

#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

namespace lockstep::e2e {
namespace {

using arguments = std::vector<std::string>;

std::set<raft_group::id> without(raft_group::id one) {
  std::set<raft_group::id> rest = all_three;
  rest.erase(one);
  return rest;
}

// --- the document ----------------------------------------------------------------------------------------------------

TEST(raft_demo, three_terminals_elect_a_leader_and_any_of_them_writes_and_reads) {
  raft_group group(3);
  group.start_all();
  const raft_group::id leader = group.leader(all_three);
  for (const raft_group::id at : all_three) {
    const std::string key = "key" + std::to_string(at);
    EXPECT_THAT(group.type(at, "PUT " + key + " 'value " + std::to_string(at) + "'", "^(OK|ERROR)"), StartsWith("OK "));
    for (const raft_group::id reader : all_three) {
      EXPECT_EQ(group.type(reader, "GET " + key, " -> "), key + " -> \"value " + std::to_string(at) + "\"");
    }
  }
  EXPECT_EQ(group.type(1, "get nothing", " -> "), "nothing -> not found");
  for (const char* const line :
       {"^Role: +(leader|follower)", "^Leader: +node [123]$", "^Term: +[1-9]", "^Commit: +[1-9]", "^Applied: +[1-9]",
        "^Quorum: +2 of 3$", "^Last election: +node [123] for term [1-9]", "^ID +ADDRESS"}) {
    (void)group.type(2, "STATUS", line);
  }
  (void)group.type(leader, "STATUS", "^Last election: +node [123] for term .*did not hear from a leader$");
  for (const raft_group::id at : all_three) {
    const std::string other = at == 1 ? "^2 .*" : "^1 .*";
    EXPECT_THAT(group.type(at, "STATUS", other), testing::MatchesRegex(".* voter +yes .* [0-9]+")) << "with its lag";
  }
  for (const char* const name : {"PUT", "GET", "STATUS", "HELP", "EXIT", "CAS", "WATCH", "TRANSFER"}) {
    (void)group.type(3, "help", std::string("^") + name + " ");
  }
  // Each leaves in its own way, and all of them cleanly.
  group.node(1).write("EXIT\n");
  EXPECT_EQ(group.node(1).wait_exit(), 0) << group.node(1).describe();
  group.node(2).close_stdin();
  EXPECT_EQ(group.node(2).wait_exit(), 0) << group.node(2).describe();
  group.node(3).signal(SIGINT);
  EXPECT_EQ(group.node(3).wait_exit(), 0) << group.node(3).describe();
}

TEST(raft_demo, a_piped_script_is_carried_out_line_by_line) {
  raft_group group(1);
  const run_result done = run(group.command(1),
                              "put a 1\nGET a\ncas a 1 2\nCAS a 1 3\nDEL a\nget a\nCAS --absent a 4\nGET --stale a\n"
                              "\nFROB\nput a\nput 'a\nget \"\\x61\"");
  EXPECT_EQ(done.code, 0) << done.err;
  const std::string answers = done.out.substr(done.out.find('\n') + 1);
  EXPECT_THAT(answers, testing::MatchesRegex("(no leader \\(term 0, no contact yet\\); retrying\n)?"
                                             "OK index=[0-9]+ term=1\n"
                                             "a -> 1\n"
                                             "OK index=[0-9]+ term=1\n"
                                             "a -> 2 \\(differs, unchanged\\)\n"
                                             "OK index=[0-9]+ term=1\n"
                                             "a -> not found\n"
                                             "OK index=[0-9]+ term=1\n"
                                             "a -> 4\n"
                                             "ERROR unknown command 'FROB'; HELP lists them\n"
                                             "ERROR usage: PUT <key> <value>\n"
                                             "ERROR a ' without its end\n"
                                             "a -> 4\n"));
}

// --- leaders and followers -------------------------------------------------------------------------------------------

TEST(raft_node_program, ok_at_a_follower_means_that_it_has_applied_the_write_itself) {
  raft_group group(3);
  group.start_all();
  const raft_group::id leader = group.leader(all_three);
  const raft_group::id follower = leader == 1 ? 2 : 1;
  for (int i = 0; i < 50; ++i) {
    const std::string value = std::to_string(i);
    EXPECT_THAT(group.type(follower, "PUT k " + value, "^(OK|ERROR)"), StartsWith("OK "));
    EXPECT_EQ(group.type(follower, "GET --stale k", " -> "), "k -> " + value);
  }
}

TEST(raft_node_program, a_killed_leader_is_replaced_and_comes_back_with_everything) {
  raft_group group(3);
  group.start_all();
  const raft_group::id leader = group.leader(all_three);
  EXPECT_THAT(group.type(leader, "PUT before 1", "^(OK|ERROR)"), StartsWith("OK "));
  group.node(leader).kill();
  for (const raft_group::id survivor : without(leader)) {
    EXPECT_EQ(group.type(survivor, "GET before", " -> "), "before -> 1");
    EXPECT_THAT(group.type(survivor, "PUT after" + std::to_string(survivor) + " 2", "^(OK|ERROR)"), StartsWith("OK "));
  }
  group.start(leader);
  for (const raft_group::id survivor : without(leader)) {
    EXPECT_EQ(group.type(leader, "GET after" + std::to_string(survivor), " -> "),
              "after" + std::to_string(survivor) + " -> 2");
  }
  EXPECT_EQ(group.type(leader, "GET --stale before", " -> "), "before -> 1");
}

TEST(raft_node_program, a_frozen_leader_is_replaced_and_steps_down_when_it_wakes) {
  raft_group group(3);
  group.start_all();
  const raft_group::id leader = group.leader(all_three);
  group.node(leader).signal(SIGSTOP);
  const raft_group::id survivor = *without(leader).begin();
  EXPECT_THAT(group.type(survivor, "PUT k 1", "^(OK|ERROR)"), StartsWith("OK "));
  group.node(leader).signal(SIGCONT);
  EXPECT_EQ(group.type(leader, "GET k", " -> "), "k -> 1");
}

TEST(raft_node_program, without_a_quorum_it_says_so_and_gives_up_in_time) {
  raft_group group(3);
  group.start(1, {"--timeout", "1s"});
  const std::size_t from = group.node(1).out().line_count();
  EXPECT_THAT(group.type(1, "PUT k v", "^(OK|ERROR)"), StartsWith("ERROR no leader (term 0, no contact yet)"));
  EXPECT_EQ(group.node(1).out().wait_for("retrying", from).text, "no leader (term 0, no contact yet); retrying");
  EXPECT_THAT(group.type(1, "GET k", "^ERROR| -> "), StartsWith("ERROR no leader"));
  EXPECT_EQ(group.type(1, "GET --stale k", "^ERROR| -> "), "k -> not found");

  group.start(2, {"--timeout", "1s"});
  (void)group.leader({1, 2});
  EXPECT_THAT(group.type(1, "PUT k v", "^OK"), StartsWith("OK "));
  group.node(2).kill();
  (void)group.wait_until({1}, [](auto& told) { return told.at(1)["leader"].is_null(); });
  EXPECT_THAT(group.type(1, "GET k", "retrying"),
              testing::MatchesRegex("no leader \\(term [1-9][0-9]*, last contact [0-9]+\\.[0-9] s\\); retrying"));
}

// --- what is refused -------------------------------------------------------------------------------------------------

TEST(raft_node_program, wrong_flags_are_refused_and_both_sides_are_named) {
  struct wrong {
    arguments flags;
    std::vector<std::string> named;
  };
  const std::string program = raft_group::program();
  const std::vector<wrong> all{
      {{"--listen", "127.0.0.1:1", "--peer", "1=127.0.0.1:1"}, {"--id is required"}},
      {{"--id", "1", "--peer", "1=127.0.0.1:1"}, {"--listen is required"}},
      {{"--id", "1", "--listen", "127.0.0.1:1"}, {"--peer is required", "--join"}},
      {{"--id", "1", "--listen", "127.0.0.1:1", "--join", "--peer", "1=127.0.0.1:1"}, {"--join", "--peer"}},
      {{"--id", "0", "--listen", "127.0.0.1:1", "--peer", "1=127.0.0.1:1"}, {"--id"}},
      {{"--id", "1", "--listen", "127.0.0.1:1", "--peer", "1=127.0.0.1:2"}, {"127.0.0.1:1 ", "1=127.0.0.1:2"}},
      {{"--id", "4", "--listen", "127.0.0.1:1", "--peer", "1=127.0.0.1:1"}, {"--id 4", ": 1"}},
      {{"--id", "1", "--listen", "127.0.0.1:1", "--peer", "1=127.0.0.1:1,2=127.0.0.1:2"}, {"2 nodes (1, 2)", "odd"}},
      {{"--id", "1", "--listen", "127.0.0.1:1", "--peer", "1=127.0.0.1:1", "--peer", "1=127.0.0.1:3"},
       {"node 1", "127.0.0.1:1 and 127.0.0.1:3"}},
      {{"--id", "1", "--listen", "127.0.0.1:1", "--peer", "1=127.0.0.1:1,2=127.0.0.1:1"},
       {"nodes 1 and 2", "127.0.0.1:1"}},
      {{"--id", "1", "--listen", "127.0.0.1:1", "--peer", "127.0.0.1:1"}, {"'127.0.0.1:1'", "ID=HOST:PORT"}},
      {{"--id", "1", "--listen", "127.0.0.1:1", "--peer", "1=127.0.0.1:1,"}, {"''", "ID=HOST:PORT"}},
      {{"--id", "1", "--listen", "127.0.0.1", "--peer", "1=127.0.0.1:1"}, {"--listen", "'127.0.0.1'"}},
      {{"--id", "1", "--listen", "127.0.0.1:1", "--peer", "1=127.0.0.1:1", "--heartbeat", "600ms"},
       {"--heartbeat", "--election-timeout"}},
      {{"--id", "1", "--listen", "127.0.0.1:1", "--peer", "1=127.0.0.1:1", "--sync", "sometimes"}, {"--sync"}},
  };
  for (const wrong& each : all) {
    arguments argv{program};
    argv.insert(argv.end(), each.flags.begin(), each.flags.end());
    const run_result refused = run(argv);
    EXPECT_EQ(refused.code, 2) << refused.err;
    for (const std::string& named : each.named) EXPECT_THAT(refused.err, HasSubstr(named));
  }
}

TEST(raft_node_program, an_address_or_a_directory_in_use_is_refused) {
  raft_group group(1);
  group.start(1);
  const run_result same_address = run(group.command(1));
  EXPECT_EQ(same_address.code, 5) << same_address.err;
  EXPECT_THAT(same_address.err, AllOf(HasSubstr(group.address(1)), HasSubstr("in use")));

  group.add_address(2);
  arguments same_directory = group.command(2);
  same_directory[6] = group.directory(1);
  same_directory[2] = "1";
  const run_result locked = run(same_directory);
  EXPECT_EQ(locked.code, 6) << locked.err;
  EXPECT_THAT(locked.err, AllOf(HasSubstr(group.directory(1)), HasSubstr(std::to_string(group.node(1).pid()))));

  group.node(1).kill();
  same_directory[2] = "2";
  const run_result of_another = run(same_directory);
  EXPECT_EQ(of_another.code, 2) << of_another.err;
  EXPECT_THAT(of_another.err, HasSubstr(group.directory(1)));
}

TEST(raft_node_program, the_data_directory_lies_below_the_current_one_and_peers_come_in_several_flags) {
  raft_group group(3);
  const temp_dir here;
  start_options in;
  in.cwd = here.path();
  const process node({raft_group::program(), "--no-shell", "--id", "1", "--listen", group.address(1), "--peer",
                      "1=" + group.address(1) + ",2=" + group.address(2), "--peer", "3=" + group.address(3)},
                     in);
  (void)node.wait_ready();
  EXPECT_TRUE(std::filesystem::is_directory(here.path() / "raft_node-1" / "log"));
  node.signal(SIGINT);
  EXPECT_EQ(node.wait_exit(), 0) << node.describe();
}

TEST(raft_node_program, entries_may_count_as_durable_before_they_are_synced) {
  for (const char* const sync : {"interval", "never"}) {
    raft_group group(1, {"--sync", sync});
    group.start(1);
    EXPECT_THAT(group.type(1, "PUT k v", "^(OK|ERROR)"), StartsWith("OK ")) << sync;
    group.node(1).write("EXIT\n");
    EXPECT_EQ(group.node(1).wait_exit(), 0) << group.node(1).describe();
    group.start(1);
    EXPECT_EQ(group.type(1, "GET k", " -> "), "k -> v") << sync;
  }
}

TEST(raft_node_program, the_longest_values_are_taken_and_longer_ones_are_refused) {
  raft_group group(1);
  const std::string old_value(std::size_t{3} << 20, 'a');
  const std::string new_value(std::size_t{3} << 20, 'b');
  const run_result done = run(group.command(1), "PUT k " + old_value + "\nCAS k " + old_value + " " + new_value +
                                                    "\nPUT k " + new_value + "c\nCAS k " + new_value + "c d\n");
  EXPECT_EQ(done.code, 0) << done.err;
  EXPECT_THAT(done.out, testing::ContainsRegex("\nOK index=[0-9]+ term=1\nOK index=[0-9]+ term=1\n"
                                               "ERROR a value has at most 3 MiB\nERROR a value has at most 3 MiB\n$"));
}

TEST(raft_node_program, a_taken_id_and_another_cluster_are_refused_and_told_why) {
  raft_group group(3);
  group.start_all();
  (void)group.leader(all_three);
  group.add_address(9);
  const std::string where = group.address(9);
  const temp_dir directories;
  struct intruder {
    std::string cluster;
    std::string why;
    std::string seen_as;  // by who refuses it
  };
  for (const intruder& each : {intruder{"raft_replication", "another process is connected as node 2", "as node 2"},
                               intruder{"other", "belongs to cluster 'raft_replication'", "'other'"}}) {
    start_options options;
    options.write_stdin = true;
    const process node(
        {raft_group::program(), "--id", "2", "--listen", where, "--cluster", each.cluster, "--data-dir",
         directories / each.cluster, "--peer", "1=" + group.address(1) + ",2=" + where + ",3=" + group.address(3)},
        options);
    (void)node.wait_ready();
    const std::string told = "cannot connect to node 1: .*" + each.why;
    (void)node.err().wait_for(told);
    (void)node.err().wait_for("cannot connect to node 3: .*" + each.why);
    node.write("STATUS\n");
    (void)node.out().wait_for("^" + told);
    EXPECT_THAT(raft_group::ctl_at(where, {"--cluster", each.cluster, "status"}).out,
                HasSubstr("\n" + where + ": cannot connect to node 1: "));
    const json status = json::parse(raft_group::ctl_at(where, {"--cluster", each.cluster, "status", "-o", "json"}).out);
    EXPECT_THAT(status[0]["peers"][0]["trouble"].get<std::string>(), HasSubstr(each.why));
    (void)group.node(1).err().wait_for("refused a connection of .*" + each.seen_as);
  }
  // Told once by whoever was tried so often. Nobody was harmed.
  const std::string log = group.node(1).err().text();
  const std::string refusal = "another process is connected as node 2";
  EXPECT_EQ(log.find(refusal, log.find(refusal) + 1), std::string::npos) << log;
  (void)group.wait_until(all_three, [](const auto& told) {
    for (const auto& [each, status] : told) {
      for (const json& peer : status["peers"]) {
        if (!peer["connected"].template get<bool>() || !peer["trouble"].is_null()) return false;
      }
    }
    return true;
  });
  EXPECT_THAT(group.type(2, "PUT k v", "^(OK|ERROR)"), StartsWith("OK "));
}

// --- damage ----------------------------------------------------------------------------------------------------------

/// Changes a byte of the first record of `directory`'s log that holds `text`, not in its last segment.
void damage_record(const std::filesystem::path& directory, const std::string& text) {
  std::set<std::filesystem::path> segments;
  for (const auto& each : std::filesystem::directory_iterator(directory / "log")) {
    if (each.path().filename().string().find_first_of("0123456789") == 0) segments.insert(each.path());
  }
  if (segments.size() < 2) throw std::runtime_error("no sealed segment in " + directory.string());
  segments.erase(std::prev(segments.end()));
  for (const std::filesystem::path& each : segments) {
    std::fstream file(each, std::ios::in | std::ios::out | std::ios::binary);
    const std::string bytes{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
    const std::size_t at = bytes.find(text);
    if (at == std::string::npos) continue;
    file.seekp(static_cast<std::streamoff>(at));
    file.put('!');
    return;
  }
  throw std::runtime_error("no sealed segment of " + directory.string() + " holds " + text);
}

TEST(raft_node_program, after_damage_it_ends_and_says_so_and_the_others_give_it_back_what_it_had) {
  raft_group group(3, {"--log-segment-bytes", "4KiB"});
  group.start_all();
  const raft_group::id leader = group.leader(all_three);
  const raft_group::id damaged = leader == 1 ? 2 : 1;
  const std::string value(500, 'v');
  for (int i = 0; i < 30; ++i) {
    EXPECT_THAT(group.type(damaged, "PUT k" + std::to_string(i) + " " + value, "^(OK|ERROR)"), StartsWith("OK "));
  }
  group.node(damaged).kill();
  const std::string directory = group.directory(damaged);
  damage_record(directory, value);
  const run_result ended = run(group.command(damaged, {"--no-shell"}));
  EXPECT_EQ(ended.code, 7) << ended.err;
  EXPECT_THAT(ended.err, AllOf(HasSubstr(directory), HasSubstr("start it again to be refilled by the others"),
                               HasSubstr("the damaged files stay there")));
  group.start(damaged);
  for (const int i : {29, 0}) {
    EXPECT_EQ(group.type(damaged, "GET k" + std::to_string(i), " -> "), "k" + std::to_string(i) + " -> " + value);
  }
  EXPECT_TRUE(std::filesystem::is_directory(std::filesystem::path(directory) / "log"));
  EXPECT_THAT(group.type(damaged, "PUT k0 w", "^(OK|ERROR)"), StartsWith("OK "));
}

// --- members ---------------------------------------------------------------------------------------------------------

TEST(raft_node_program, members_are_added_promoted_given_the_lead_and_removed) {
  raft_group group(3);
  group.start_all();
  (void)group.leader(all_three);
  EXPECT_EQ(group.ctl({"put", "k", "v"}).code, 0);
  group.add_address(4);
  group.start(4);
  EXPECT_THAT(group.type(1, "ADD 4 " + group.address(4), "^(OK|ERROR)"), StartsWith("OK "));
  EXPECT_THAT(group.type(1, "ADD 4 " + group.address(4), "^(OK|ERROR)"), HasSubstr("a member already"));
  EXPECT_EQ(group.type(4, "GET k", " -> "), "k -> v");
  EXPECT_THAT(group.type(2, "MEMBERS", "^4 "), HasSubstr("learner"));
  EXPECT_THAT(group.type(2, "TRANSFER 4", "^(OK|ERROR)"), StartsWith("ERROR "));
  EXPECT_THAT(group.type(4, "PROMOTE 4", "^(OK|ERROR)"), StartsWith("OK "));
  EXPECT_THAT(group.type(2, "TRANSFER 4", "^(OK|ERROR)"), StartsWith("OK node 4 leads"));
  EXPECT_EQ(group.leader({1, 2, 3, 4}), 4U);
  EXPECT_THAT(group.type(1, "REMOVE 4", "^(OK|ERROR)"), StartsWith("OK "));
  const raft_group::id next = group.leader(all_three);
  EXPECT_NE(next, 4U);
  EXPECT_THAT(group.type(next, "PUT k w", "^(OK|ERROR)"), StartsWith("OK "));
  EXPECT_THAT(group.type(next, "REMOVE 4", "^(OK|ERROR)"), HasSubstr("not a member"));
}

TEST(raft_node_program, a_node_that_was_away_gets_a_snapshot) {
  raft_group group(3, {"--keep-log-bytes", "1", "--log-segment-bytes", "4KiB"});
  group.start_all();
  const raft_group::id leader = group.leader(all_three);
  const raft_group::id away = leader == 1 ? 2 : 1;
  group.node(away).kill();
  const std::string value(1000, 'v');
  for (int i = 0; i < 20; ++i) {
    EXPECT_THAT(group.type(leader, "PUT k" + std::to_string(i) + " " + value, "^(OK|ERROR)"), StartsWith("OK "));
  }
  EXPECT_THAT(group.type(leader, "SNAPSHOT", "^(OK|ERROR)"), StartsWith("OK snapshot at index"));
  EXPECT_GT(group.status(leader)["first"], 5);
  group.start(away);
  EXPECT_EQ(group.type(away, "GET k0", " -> "), "k0 -> " + value);
  EXPECT_GT(group.status(away)["snapshot"], 5);
}

// --- watching --------------------------------------------------------------------------------------------------------

TEST(raft_node_program, a_watch_prints_every_change_until_it_ends) {
  raft_group group(3);
  group.start_all();
  (void)group.leader(all_three);
  (void)group.type(1, "WATCH k", "^OK");
  const std::size_t from = group.node(1).out().line_count();
  process ctl({std::string(LOCKSTEP_BIN_DIR) + "/raft_ctl", "--endpoints", group.address(3), "watch", "other"});
  (void)group.type(2, "PUT k 1", "^OK");
  (void)group.type(2, "PUT k 2", "^OK");
  (void)group.type(2, "DEL k", "^OK");
  (void)group.node(1).out().wait_for("^WATCH k -> not found$", from);
  const std::string seen = group.node(1).out().text();
  EXPECT_THAT(seen, HasSubstr("WATCH k -> 1\nWATCH k -> 2\nWATCH k -> not found\n"));
  (void)group.type(1, "UNWATCH k", "^OK");
  (void)group.type(1, "PUT k 3", "^OK");
  EXPECT_EQ(group.node(1).out().text().find("WATCH k -> 3"), std::string::npos);
  // When the watch has begun nobody can see: it is written until it is noticed.
  for (int i = 0; !ctl.out().try_wait_for("^other -> ", 0, 100ms) && i < 300; ++i) {
    (void)group.type(2, "PUT other " + std::to_string(i), "^OK");
  }
  ctl.signal(SIGINT);
  EXPECT_EQ(ctl.wait_exit(), 0) << ctl.describe();
}

// --- a terminal ------------------------------------------------------------------------------------------------------

/// A program that thinks that somebody sits before it.
class terminal {
 public:
  explicit terminal(std::vector<std::string> argv) {
    std::vector<char*> pointers;
    for (std::string& each : argv) pointers.push_back(each.data());
    pointers.push_back(nullptr);
    int screen = -1;
    winsize size{};
    size.ws_row = 24;
    size.ws_col = 40;
    pid_ = ::forkpty(&screen, nullptr, nullptr, &size);
    if (pid_ < 0) throw_errno("forkpty");
    if (pid_ == 0) {
      ::setenv("TERM", "xterm", 1);
      ::execv(pointers[0], pointers.data());
      ::_exit(127);
    }
    keyboard_ = unique_fd(::dup(screen));
    screen_.emplace(unique_fd(screen));
  }
  ~terminal() {
    if (pid_ <= 0) return;
    ::kill(pid_, SIGKILL);
    ::waitpid(pid_, nullptr, 0);
  }

  [[nodiscard]] const captured_stream& screen() const { return *screen_; }
  void type(const std::string& keys) const {
    if (::write(keyboard_.get(), keys.data(), keys.size()) != static_cast<ssize_t>(keys.size())) throw_errno("typing");
  }
  /// @return the exit code.
  int wait_exit() {
    EXPECT_TRUE(screen_->wait_end());
    int status = 0;
    ::waitpid(std::exchange(pid_, -1), &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  }

 private:
  pid_t pid_ = -1;
  unique_fd keyboard_;
  std::optional<captured_stream> screen_;
};

TEST(raft_terminal, what_is_printed_appears_above_the_line_that_is_typed) {
  const raft_group group(1);
  terminal at(group.command(1));
  at.screen().wait_for("leads term");
  at.type("WATCH k\r");
  at.screen().wait_for("OK watching");
  // Longer than a row of 40 columns, and with the cursor not at its end.
  const std::string typed = "PUT k 'a value that is longer than a row";
  at.type(typed + "\x1b[D\x1b[D\x1b[D");
  at.screen().wait_for_text("\b\b\b");
  EXPECT_EQ(group.ctl({"put", "k", "other"}).code, 0);
  at.screen().wait_for("WATCH k -> other");
  at.type("\x05!'\r");
  at.screen().wait_for("WATCH k -> \"a value that is longer than a row!\"");
  // One row up, and all below it erased; then the line of the watch, then what was typed, again.
  const std::string seen = at.screen().text();
  const std::size_t printed = seen.find("\r\x1b[1A\x1b[JWATCH k -> other\r\n");
  ASSERT_NE(printed, std::string::npos) << seen;
  EXPECT_EQ(seen.find("raft 1> PUT k 'a value", printed), seen.find("raft 1> ", printed)) << seen;
  at.type("EXIT\r");
  EXPECT_EQ(at.wait_exit(), 0) << at.screen().text();
}

TEST(raft_terminal, ctrl_c_and_the_end_of_input_leave_cleanly) {
  for (const char* const key : {"\x03", "\x04"}) {
    const raft_group group(1);
    terminal at(group.command(1));
    at.screen().wait_for_text("raft 1> ");
    at.screen().wait_for("leads term");
    at.type(key);
    EXPECT_EQ(at.wait_exit(), 0) << at.screen().text();
    EXPECT_THAT(at.screen().text(), HasSubstr("stopped; applied up to index"));
  }
}

// --- raft_ctl --------------------------------------------------------------------------------------------------------

TEST(raft_ctl_program, its_exit_codes_say_what_happened) {
  raft_group group(3);
  group.start_all();
  (void)group.leader(all_three);
  EXPECT_EQ(group.ctl({"get", "k"}).code, 1);
  const run_result put = group.ctl({"put", "k", "two words"});
  EXPECT_EQ(put.code, 0) << put.err;
  EXPECT_THAT(put.out, StartsWith("OK index="));
  EXPECT_EQ(group.ctl({"get", "k"}).out, "two words\n");
  const json got = json::parse(group.ctl({"-o", "json", "get", "k"}).out);
  EXPECT_EQ(got["outcome"], "ok");
  EXPECT_EQ(got["value"], "two words");
  EXPECT_EQ(group.ctl({"get", "--stale", "nothing"}).code, 1);
  EXPECT_EQ(group.ctl({"cas", "k", "one", "three"}).code, 1);
  EXPECT_EQ(group.ctl({"cas", "k", "two words", "three"}).code, 0);
  EXPECT_EQ(group.ctl({"cas", "--absent", "k", "four"}).code, 1);
  EXPECT_EQ(group.ctl({"del", "k"}).code, 0);
  EXPECT_EQ(group.ctl({"del", "k"}).code, 1);
  EXPECT_EQ(group.ctl({"cas", "--absent", "k", "four"}).code, 0);
  EXPECT_EQ(group.ctl({"remove", "9"}).code, 1);
  EXPECT_EQ(group.ctl({"snapshot"}).code, 0);
  EXPECT_EQ(json::parse(group.ctl({"members", "-o", "json"}).out).size(), 3U);
  EXPECT_EQ(group.ctl({"frob"}).code, 2);
  EXPECT_EQ(group.ctl({"cas", "k", "one"}).code, 2);
  EXPECT_EQ(group.ctl({"-o", "text", "status"}).code, 2);
  EXPECT_EQ(run({std::string(LOCKSTEP_BIN_DIR) + "/raft_ctl", "status"}).code, 2);

  group.node(1).kill();
  EXPECT_EQ(group.ctl({"get", "k"}).out, "four\n") << "the next endpoint is asked";
  const run_result status = group.ctl({"status"});
  EXPECT_EQ(status.code, 0);
  EXPECT_THAT(status.out, AllOf(StartsWith("ENDPOINT"), HasSubstr("leader"), HasSubstr("cannot connect")));
  group.node(2).kill();
  EXPECT_EQ(group.ctl({"--timeout", "1s", "get", "k"}).code, 3) << "no leader";
  group.node(3).kill();
  EXPECT_EQ(group.ctl({"get", "k"}).code, 3);
  EXPECT_EQ(group.ctl({"status"}).code, 3);
}

TEST(raft_ctl_program, what_a_peer_says_is_escaped_on_standard_error_too) {
  raft_group group(1, {"--cluster", "\x1b[31mred"});
  group.start_all();
  const run_result refused = group.ctl({"get", "k"});
  EXPECT_EQ(refused.code, 3);
  EXPECT_THAT(refused.err, AllOf(HasSubstr("'\\x1b[31mred'"), testing::Not(HasSubstr("\x1b"))));
  EXPECT_THAT(group.ctl({"status"}).out, AllOf(HasSubstr("'\\x1b[31mred'"), testing::Not(HasSubstr("\x1b"))));
}

TEST(raft_ctl_program, members_are_added_promoted_given_the_lead_and_removed) {
  raft_group group(3);
  group.start_all();
  (void)group.leader(all_three);
  group.add_address(4);
  group.start(4);
  const run_result added = group.ctl({"add", "4", group.address(4)});
  EXPECT_EQ(added.code, 0) << added.err;
  EXPECT_THAT(added.out, StartsWith("OK index="));
  EXPECT_EQ(group.ctl({"add", "4", group.address(4)}).code, 1);
  EXPECT_EQ(group.ctl({"put", "k", "v"}).code, 0);
  EXPECT_EQ(raft_group::ctl_at(group.address(4), {"get", "k"}).out, "v\n");
  EXPECT_EQ(group.ctl({"transfer", "4"}).code, 1) << "it has no vote yet";
  const run_result promoted = group.ctl({"promote", "4"});
  EXPECT_EQ(promoted.code, 0) << promoted.err;
  const run_result led = group.ctl({"transfer", "4"});
  EXPECT_EQ(led.code, 0) << led.err;
  EXPECT_THAT(led.out, StartsWith("OK node 4 leads term "));
  const run_result removed = group.ctl({"remove", "4"});
  EXPECT_EQ(removed.code, 0) << removed.err;
  (void)group.leader(all_three);
  EXPECT_EQ(json::parse(group.ctl({"members", "-o", "json"}).out).size(), 3U);
}

TEST(raft_ctl_program, prints_bytes_as_they_are_and_changes_as_json) {
  raft_group group(1);
  group.start(1);
  const std::string bytes = "a\x01\xff\\b";
  EXPECT_EQ(group.ctl({"put", "k", bytes}).code, 0);
  EXPECT_EQ(group.ctl({"get", "k"}).out, "a\\x01\\xff\\\\b\n");
  EXPECT_EQ(group.ctl({"--raw", "get", "k"}).out, bytes + "\n");
  EXPECT_EQ(json::parse(group.ctl({"-o", "json", "get", "k"}).out)["value"]["hex"], "6101ff5c62");

  const process watching(
      {std::string(LOCKSTEP_BIN_DIR) + "/raft_ctl", "--endpoints", group.address(1), "-o", "json", "watch", "k"});
  // When the watch has begun nobody can see: it is written until it is noticed.
  for (int i = 0; !watching.out().try_wait_for("ok", 0, 100ms) && i < 300; ++i) {
    EXPECT_EQ(group.ctl({"put", "k", "seen"}).code, 0);
  }
  EXPECT_EQ(group.ctl({"del", "k"}).code, 0);
  const json set = json::parse(watching.out().wait_for("\"ok\"").text);
  EXPECT_EQ(set["key"], "k");
  EXPECT_EQ(set["value"], "seen");
  EXPECT_GT(set["index"], 0);
  const json gone = json::parse(watching.out().wait_for("\"absent\"").text);
  EXPECT_FALSE(gone.contains("value")) << gone;
  watching.signal(SIGINT);
  EXPECT_EQ(watching.wait_exit(), 0) << watching.describe();
}

TEST(raft_ctl_program, a_write_that_no_quorum_takes_has_an_unknown_outcome) {
  raft_group group(3, {"--election-timeout", "3s"});
  group.start_all();
  const raft_group::id leader = group.leader(all_three);
  EXPECT_EQ(raft_group::ctl_at(group.address(leader), {"put", "k", "1"}).code, 0);
  for (const raft_group::id follower : without(leader)) group.node(follower).kill();
  // It leads until it has missed them for an election timeout.
  const run_result put = raft_group::ctl_at(group.address(leader), {"--timeout", "2s", "put", "k", "2"});
  EXPECT_EQ(put.code, 4) << put.out << put.err;
  EXPECT_THAT(put.err, HasSubstr("outcome unknown"));
  for (const raft_group::id follower : without(leader)) group.start(follower);
  EXPECT_THAT(group.ctl({"get", "k"}).out, testing::AnyOf("1\n", "2\n"));
}

TEST(raft_ctl_program, a_frozen_endpoint_is_passed_over) {
  raft_group group(3);
  group.start_all();
  (void)group.leader(all_three);
  group.node(1).signal(SIGSTOP);
  EXPECT_EQ(group.ctl({"put", "k", "1"}).code, 0);
  group.node(1).signal(SIGCONT);
}

}  // namespace
}  // namespace lockstep::e2e
