#include "process.hpp"

#include <gtest/gtest.h>
#include <poll.h>
#include <sys/syscall.h>

namespace lockstep::e2e {
namespace {

std::vector<std::string> shell(const std::string& script) { return {"/bin/sh", "-c", script}; }

TEST(process_run, CollectsCodeAndBothStreamsExactly) {
  const run_result result = run(shell("printf 'a\\nb'; printf 'no newline' >&2; exit 3"));
  EXPECT_EQ(result.code, 3);
  EXPECT_EQ(result.out, "a\nb");
  EXPECT_EQ(result.err, "no newline");
}

TEST(process_run, FeedsStandardInputThatIsLargerThanAPipe) {
  const std::string megabyte(1 << 20, 'x');
  EXPECT_EQ(run({"cat"}, megabyte).out, megabyte);
}

TEST(process_run, SurvivesAProgramThatDoesNotReadItsInput) {
  EXPECT_EQ(run({"true"}, std::string(1 << 20, 'x')).code, 0);
}

TEST(process_run, ReportsASignalAs128More) { EXPECT_EQ(run(shell("kill -TERM $$")).code, 128 + SIGTERM); }

TEST(process_run, KillsAtTheDeadlineAndSaysWhatWasPrinted) {
  try {
    run(shell("echo started; exec sleep 600"), {}, 300ms);
    FAIL() << "must throw";
  } catch (const std::runtime_error& error) {
    EXPECT_NE(std::string(error.what()).find("still running after 300 ms"), std::string::npos) << error.what();
    EXPECT_NE(std::string(error.what()).find("started"), std::string::npos) << error.what();
  }
}

TEST(process_run, PassesEnvironmentAndDirectory) {
  const temp_dir dir;
  start_options options;
  options.env["LOCKSTEP_TEST_VALUE"] = "from the test";
  options.cwd = dir.path().string();
  const run_result result = run(shell("echo $LOCKSTEP_TEST_VALUE; pwd -P"), {}, default_deadline, options);
  EXPECT_EQ(result.out, "from the test\n" + std::filesystem::canonical(dir.path()).string() + "\n");
}

TEST(process, NamesAProgramThatCannotBeStarted) {
  try {
    process p({"/nonexistent/program"});
    FAIL() << "must throw";
  } catch (const std::system_error& error) {
    EXPECT_EQ(error.code(), std::errc::no_such_file_or_directory);
    EXPECT_NE(std::string(error.what()).find("/nonexistent/program"), std::string::npos);
  }
}

TEST(process, WaitsForALineAndForTheNextOneLikeIt) {
  start_options options;
  options.write_stdin = true;
  process p({"cat"}, options);
  p.write("synced 1\n");
  const auto first = p.out().wait_for("synced ([0-9]+)");
  EXPECT_EQ(first.groups.at(1), "1");
  p.write("other\nsynced 2\n");
  const auto second = p.out().wait_for("synced ([0-9]+)", first.number + 1);
  EXPECT_EQ(second.groups.at(1), "2");
  EXPECT_EQ(second.number, 2U);
  p.close_stdin();
  EXPECT_EQ(p.wait_exit(), 0);
}

TEST(process, StopsWaitingForALineWhenTheStreamEnds) {
  process p(shell("echo something else >&2"));
  try {
    p.err().wait_for("never");
    FAIL() << "must throw";
  } catch (const std::runtime_error& error) {
    EXPECT_NE(std::string(error.what()).find("something else"), std::string::npos) << error.what();
  }
}

TEST(process, StopsWaitingForALineAtTheDeadline) {
  process p(shell("exec sleep 600"));
  EXPECT_FALSE(p.out().try_wait_for("never", 0, 100ms));
  EXPECT_TRUE(p.running());
}

TEST(process, DeliversSignals) {
  process p(shell("trap 'echo bye; exit 7' TERM; echo up; while :; do sleep 0.05; done"));
  p.out().wait_for("up");
  p.signal(SIGTERM);
  EXPECT_EQ(p.wait_exit(), 7);
  EXPECT_EQ(p.out().text(), "up\nbye\n");
}

TEST(process, KillIsSigkill) {
  process p(shell("trap '' TERM INT; echo up; while :; do sleep 0.05; done"));
  p.out().wait_for("up");
  p.kill();
  EXPECT_FALSE(p.running());
  EXPECT_EQ(p.wait_exit(), 128 + SIGKILL);
}

TEST(process, LeavesNothingBehind) {
  unique_fd handle;
  {
    process p(shell("sleep 600 & echo $!; wait"));
    const int child_of_it = std::stoi(p.out().wait_for("[0-9]+").text);
    handle = unique_fd(static_cast<int>(::syscall(SYS_pidfd_open, child_of_it, 0)));
    ASSERT_GE(handle.get(), 0);
  }
  pollfd exited{handle.get(), POLLIN, 0};
  EXPECT_EQ(::poll(&exited, 1, 30'000), 1) << "it still runs";
}

TEST(process, FindsTheReadyLineAmongOthers) {
  process p(shell("echo hello; echo \"ready: clients=127.0.0.1:7878 replication=[::1]:7879 pid=$$\"; exec sleep 600"));
  const ready_line ready = p.wait_ready();
  EXPECT_EQ(ready.port("clients"), 7878);
  EXPECT_EQ(ready.at("replication"), "[::1]:7879");
  EXPECT_EQ(ready.port("replication"), 7879);
  EXPECT_EQ(ready.pid(), p.pid());
  EXPECT_THROW((void)ready.port("metrics"), std::out_of_range);
}

TEST(process, ShowsStandardErrorWhenTheReadyLineDoesNotCome) {
  process p(shell("echo 'address already in use' >&2; exit 5"));
  try {
    (void)p.wait_ready();
    FAIL() << "must throw";
  } catch (const std::runtime_error& error) {
    const std::string what = error.what();
    EXPECT_NE(what.find("no ready line from /bin/sh"), std::string::npos) << what;
    EXPECT_NE(what.find("address already in use"), std::string::npos) << what;
  }
}

TEST(temp_dir, IsRemovedWithItsContents) {
  std::filesystem::path path;
  {
    const temp_dir dir;
    path = dir.path();
    std::filesystem::create_directories(path / "a" / "b");
    EXPECT_EQ(dir / "a", (path / "a").string());
  }
  EXPECT_FALSE(std::filesystem::exists(path));
}

}  // namespace
}  // namespace lockstep::e2e
