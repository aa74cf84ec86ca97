#include "common/cli.hpp"

#include <chrono>
#include <optional>
#include <stdexcept>
#include <string>
#include <system_error>
#include <vector>

#include <gtest/gtest.h>

namespace lockstep::examples {
namespace {

using namespace std::chrono_literals;
using testing::internal::CaptureStderr;
using testing::internal::CaptureStdout;
using testing::internal::GetCapturedStderr;
using testing::internal::GetCapturedStdout;

struct outcome {
  int code;
  std::string out;
  std::string err;
};

outcome captured(const std::function<int()>& run) {
  CaptureStdout();
  CaptureStderr();
  const int code = run();
  const std::string err = GetCapturedStderr();
  return {code, GetCapturedStdout(), err};
}

/// A program of the shape that the examples have; `did` tells which command ran.
struct town {
  std::string did;
  std::uint16_t port = 7878;
  std::optional<address> leader;
  address addr{"127.0.0.1", 7878};
  std::chrono::milliseconds timeout = 5s;
  std::uint64_t segment_size = 0;
  output_format format = output_format::text;
  std::string key, value;
  program p{"town", "A small town.", {{"start a leader", "town leader --port 7878"}}};

  town() {
    CLI::App& leader_command =
        p.add_command(p.root(), "leader", "Run a leader.", {{"on any port", "town leader --port 0"}}, does("leader"));
    add_port(leader_command, "--port", port, "Port for clients");
    add_size(leader_command, "--segment-size", segment_size, "When a segment is full (default 64MiB)");

    CLI::App& replica =
        p.add_command(p.root(), "replica", "Run a replica.", {{"follow", "town replica"}}, does("replica"));
    add_address(replica, "--leader", leader, "Where the leader is");
    CLI::App& status =
        p.add_command(replica, "status", "Show it.", {{"as JSON", "town replica status -o json"}}, does("status"));
    p.add_command(replica, "rename", "Name it.", {{"name it", "town replica rename one"}}, does("rename"))
        .add_option("NAME", key, "The name");
    add_output(status, format);

    CLI::App& client = p.add_command(p.root(), "client", "Talk to a node.", {{"write", "town client put k v"}});
    add_address(client, "--addr", addr, "The node");
    add_duration(client, "--timeout", timeout, "How long to wait");
    CLI::App& put = p.add_command(client, "put", "Write.", {{"write", "town client put k v"}}, does("put"));
    put.add_option("KEY", key, "The key")->required();
    put.add_option("VALUE", value, "The value")->required();
    p.add_command(client, "get", "Read.", {{"read", "town client get k"}}, does("get"))
        .add_option("KEY", key, "The key")
        ->required();
  }

  program::action does(std::string what) {
    return [this, what] {
      did = what;
      return exit_code::ok;
    };
  }

  outcome run(std::vector<const char*> arguments) {
    arguments.insert(arguments.begin(), "/usr/bin/town");
    return captured([&] { return p.run(static_cast<int>(arguments.size()), arguments.data()); });
  }
};

TEST(program, HelpShowsExamplesFirst) {
  const outcome help = town().run({"--help"});
  EXPECT_EQ(help.code, 0);
  EXPECT_EQ(help.err, "");
  EXPECT_TRUE(help.out.starts_with("Examples:\n  # start a leader\n  town leader --port 7878\n\n")) << help.out;
  const auto usage = help.out.find("Usage: town");
  const auto options = help.out.find("--log-level");
  ASSERT_NE(usage, std::string::npos);
  ASSERT_NE(options, std::string::npos);
  EXPECT_LT(help.out.find("Examples:"), usage);
  EXPECT_LT(usage, options);
  EXPECT_NE(help.out.find("Commands:"), std::string::npos);
  EXPECT_NE(help.out.find("\n  3   cannot connect, or there is no leader\n"), std::string::npos);
}

TEST(program, EveryCommandHasItsOwnHelpWithExamplesFirst) {
  const outcome leader = town().run({"leader", "--help"});
  EXPECT_TRUE(leader.out.starts_with("Examples:\n  # on any port\n  town leader --port 0\n")) << leader.out;
  EXPECT_NE(leader.out.find("Usage: town leader"), std::string::npos) << leader.out;
  EXPECT_NE(leader.out.find("PORT=7878"), std::string::npos) << "shows the default";

  const outcome status = town().run({"replica", "status", "-h"});
  EXPECT_TRUE(status.out.starts_with("Examples:\n  # as JSON\n")) << status.out;
  EXPECT_NE(status.out.find("Usage: town replica status"), std::string::npos) << status.out;
}

TEST(program, PrintsItsVersion) {
  const outcome version = town().run({"--version"});
  EXPECT_EQ(version.code, 0);
  EXPECT_TRUE(version.out.starts_with("town ")) << version.out;
  EXPECT_NE(version.out.find("(lockstep "), std::string::npos) << version.out;
  EXPECT_EQ(version.out.back(), '\n');
}

TEST(program, RunsTheLastCommandNamed) {
  town t;
  EXPECT_EQ(t.run({"replica", "--leader", "[::1]:9"}).code, 0);
  EXPECT_EQ(t.did, "replica");
  EXPECT_EQ(t.leader, address("::1", 9));

  town nested;
  EXPECT_EQ(nested.run({"replica", "status", "-o", "json"}).code, 0);
  EXPECT_EQ(nested.did, "status");
  EXPECT_EQ(nested.format, output_format::json);
}

TEST(program, OptionsOfAParentMayStandBeforeOrAfterTheCommand) {
  for (const std::vector<const char*>& arguments :
       {std::vector<const char*>{"--log-level", "debug", "client", "--addr", "h:1", "put", "k", "v"},
        std::vector<const char*>{"client", "put", "--addr", "h:1", "k", "v", "--log-level=debug"}}) {
    town t;
    EXPECT_EQ(t.run(arguments).code, 0);
    EXPECT_EQ(t.did, "put");
    EXPECT_EQ(t.addr, address("h", 1));
    EXPECT_EQ(t.p.log_level(), spdlog::level::debug);
  }
}

TEST(program, KeysAndValuesMayBeSpeltLikeCommandsOrBeEmptyOrOdd) {
  const std::vector<std::pair<const char*, const char*>> pairs{
      {"leader", "status"}, {"get", "put"}, {"with space", ""}, {"", "x"},
      {"[a,b]", "{}"},      {"-5", "a=b"},  {"%%", "\xff\n"}};
  for (const auto& [key, value] : pairs) {
    town t;
    const outcome result = t.run({"client", "put", key, value});
    EXPECT_EQ(result.code, 0) << key << ' ' << value << ": " << result.err;
    EXPECT_EQ(t.did, "put");
    EXPECT_EQ(t.key, key);
    EXPECT_EQ(t.value, value);
  }
  town replica;
  EXPECT_EQ(replica.run({"replica", "rename", "status"}).code, 0);
  EXPECT_EQ(replica.did, "rename");
  EXPECT_EQ(replica.key, "status");
  town dashes;
  EXPECT_EQ(dashes.run({"client", "put", "--", "--key", "-v"}).code, 0);
  EXPECT_EQ(dashes.key, "--key");
  EXPECT_EQ(dashes.value, "-v");
}

TEST(program, ReadsTypedOptions) {
  town t;
  EXPECT_EQ(t.run({"leader", "--port", "0", "--segment-size", "64MiB"}).code, 0);
  EXPECT_EQ(t.port, 0);
  EXPECT_EQ(t.segment_size, 64U << 20U);
  EXPECT_EQ(t.run({"client", "--timeout", "1.5s", "get", "k"}).code, 0);
  EXPECT_EQ(t.timeout, 1500ms);
}

TEST(program, UsageErrorsExit2AndNameOptionTextAndHelp) {
  const auto error_of = [](std::vector<const char*> arguments) {
    town t;
    const outcome result = t.run(std::move(arguments));
    EXPECT_EQ(result.code, 2) << result.err;
    EXPECT_EQ(result.out, "");
    EXPECT_EQ(t.did, "");
    return result.err;
  };
  EXPECT_EQ(error_of({"leader", "--port", "70000"}),
            "town: error: --port: '70000': expected a port from 0 to 65535\n"
            "Run 'town leader --help' for examples.\n");
  EXPECT_EQ(error_of({"replica", "--leader", "localhost"}),
            "town: error: --leader: 'localhost': the port is missing; expected HOST:PORT, as in 127.0.0.1:7878 or "
            "[::1]:7878\n"
            "Run 'town replica --help' for examples.\n");
  EXPECT_EQ(error_of({"client", "--timeout", "10us", "get", "k"}),
            "town: error: --timeout: '10us': too fine, expected a multiple of 1ms\n"
            "Run 'town client get --help' for examples.\n");
  EXPECT_EQ(error_of({"leadr"}),
            "town: error: unknown command 'leadr', expected one of leader, replica, client\nRun 'town --help' for "
            "examples.\n");
  EXPECT_EQ(error_of({"client", "pu", "k", "v"}),
            "town: error: unknown command 'pu', expected one of put, get\nRun 'town client --help' for examples.\n");
  EXPECT_EQ(error_of({"leader", "now"}),
            "town: error: unexpected argument 'now'\nRun 'town leader --help' for examples.\n");
  EXPECT_EQ(error_of({"leader", "--prot", "1"}),
            "town: error: unexpected argument '--prot'\nRun 'town leader --help' for examples.\n");
  EXPECT_EQ(
      error_of({}),
      "town: error: a command is missing, expected one of leader, replica, client\nRun 'town --help' for examples.\n");
  EXPECT_NE(error_of({"client", "put", "k"}).find("VALUE is required"), std::string::npos);
  EXPECT_NE(error_of({"--log-level", "loud", "leader"}).find("--log-level: 'loud': expected one of trace"),
            std::string::npos);
  EXPECT_NE(error_of({"replica", "status", "-o", "xml"}).find("'xml': expected text or json"), std::string::npos);
  EXPECT_NE(error_of({"leader", "--port", "1", "--port", "2"}).find("--port"), std::string::npos);
}

TEST(program, RunsWithoutACommandWhenItHasNone) {
  bool ran = false;
  program p("solo", "One thing.", {{"do it", "solo"}}, [&] {
    ran = true;
    return exit_code::negative;
  });
  const char* argv[] = {"solo"};
  EXPECT_EQ(p.run(1, argv), 1);
  EXPECT_TRUE(ran);
}

outcome main_that_throws(const std::function<void()>& thrower) {
  const char* argv[] = {"/somewhere/bin/town"};
  return captured([&] {
    return run_main(1, argv, [&]() -> exit_code {
      thrower();
      return exit_code::ok;
    });
  });
}

TEST(run_main, ReturnsTheCodeOfTheBody) {
  const char* argv[] = {"town"};
  EXPECT_EQ(run_main(1, argv, [] { return exit_code::negative; }), 1);
}

TEST(run_main, PrintsErrorsAndMapsThem) {
  const outcome exits = main_that_throws([] { throw exit_error(exit_code::corruption, "segment 3 is corrupt"); });
  EXPECT_EQ(exits.code, 7);
  EXPECT_EQ(exits.err, "town: error: segment 3 is corrupt\n");
  EXPECT_EQ(exits.out, "");

  const outcome system = main_that_throws(
      [] { throw std::system_error(std::make_error_code(std::errc::address_in_use), "bind 127.0.0.1:1"); });
  EXPECT_EQ(system.code, 5);
  EXPECT_EQ(system.err, "town: error: bind 127.0.0.1:1: Address already in use\n");

  const outcome unknown = main_that_throws([] { throw std::runtime_error("the roof is on fire"); });
  EXPECT_EQ(unknown.code, 70);
  EXPECT_EQ(unknown.err, "town: error: the roof is on fire\n");

  const outcome usage = main_that_throws([] { throw CLI::ValidationError("--x", "bad"); });
  EXPECT_EQ(usage.code, 2);
}

TEST(run_main, IsQuietWhenThereIsNothingToSay) {
  const outcome quiet = main_that_throws([] { throw exit_error(exit_code::negative, ""); });
  EXPECT_EQ(quiet.code, 1);
  EXPECT_EQ(quiet.err, "");
}

TEST(run_main, DoesNotHideWhatIsNotAnException) {
  EXPECT_DEATH(main_that_throws([] { throw 42; }), "");
}

}  // namespace
}  // namespace lockstep::examples
