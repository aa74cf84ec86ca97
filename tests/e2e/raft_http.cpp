// What raft_node serves over HTTP, to monitoring and to browsers.
#include "support/raft_group.hpp"

#include <asio/io_context.hpp>
#include <asio/ip/tcp.hpp>
#include <asio/read.hpp>
#include <asio/read_until.hpp>
#include <asio/write.hpp>

#include <chrono>
#include <filesystem>
#include <stdexcept>
#include <string>
#include <utility>

namespace lockstep::e2e {
namespace {

struct http_answer {
  int status = 0;
  std::string body;
};

void ask(asio::ip::tcp::socket& over, const std::string& host, std::uint16_t port, const std::string& path) {
  over.connect({asio::ip::make_address(host), port});
  asio::write(over, asio::buffer("GET " + path + " HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"));
}

/// @param enough  of the body, for one that has no end.
http_answer http_get(const std::string& host, std::uint16_t port, const std::string& path,
                     std::string_view enough = {}) {
  asio::io_context io;
  asio::ip::tcp::socket socket(io);
  ask(socket, host, port, path);
  std::string text;
  std::error_code ec;
  if (enough.empty()) {
    asio::read(socket, asio::dynamic_buffer(text), ec);
  } else {
    asio::read_until(socket, asio::dynamic_buffer(text), std::string(enough), ec);
  }
  const std::size_t end = text.find("\r\n\r\n");
  return {std::stoi(text.substr(9, 3)), end == std::string::npos ? "" : text.substr(end + 4)};
}

/// What the last event of a stream shows that ends as an event does.
json last_event(const std::string& stream) {
  const std::size_t begin = stream.rfind("data: ") + 6;
  return json::parse(stream.substr(begin, stream.find('\n', begin) - begin));
}

/// Reads a page's events until `enough` holds of what one shows.
template <class Condition>
json watch_events(const std::string& host, std::uint16_t port, Condition enough) {
  asio::io_context io;
  asio::ip::tcp::socket socket(io);
  ask(socket, host, port, "/events");
  std::string text;
  // They come all the time, so that this is never stuck in reading.
  for (const auto until = std::chrono::steady_clock::now() + default_deadline;;) {
    const std::size_t size = asio::read_until(socket, asio::dynamic_buffer(text), "\n\n\r\n");
    json shown = last_event(text.substr(0, size));
    text.erase(0, size);
    if (enough(shown)) return shown;
    if (std::chrono::steady_clock::now() > until) throw std::runtime_error("not in time, at last: " + shown.dump());
  }
}

TEST(raft_http, tells_monitoring_how_the_group_is) {
  raft_group group(3);
  group.start_all({"--http", "0"});
  const std::uint16_t port = group.ready(1).port("http");
  const raft_group::id leader = group.leader(all_three);
  (void)group.type(1, "PUT k v", "^OK");
  EXPECT_EQ(http_get(group.host(), port, "/healthz").status, 200);
  EXPECT_EQ(http_get(group.host(), port, "/readyz").status, 200);
  EXPECT_EQ(http_get(group.host(), port, "/nothing").status, 404);
  const json status = json::parse(http_get(group.host(), port, "/status").body);
  EXPECT_EQ(status["id"], 1);
  EXPECT_EQ(status["leader"], leader);
  EXPECT_EQ(status["applied"], status["commit"]);
  const std::string metrics = http_get(group.host(), port, "/metrics").body;
  EXPECT_THAT(metrics, AllOf(HasSubstr("# TYPE raft_term gauge"), HasSubstr("raft_leader " + std::to_string(leader)),
                             HasSubstr("raft_requests_total{command=\"put\",outcome=\"ok\"} 1")));
  EXPECT_THAT(http_get(group.host(), port, "/").body, HasSubstr("new EventSource('events')"));
  const http_answer events = http_get(group.host(), port, "/events", "\n\n\r\n");
  EXPECT_EQ(events.status, 200);
  const json shown = last_event(events.body);
  EXPECT_EQ(shown["nodes"].size(), 3U);
  for (const json& node : shown["nodes"]) EXPECT_EQ(node["reached"], true) << node;
  // One that has looked and gone harms nobody.
  (void)group.type(1, "PUT k w", "^OK");
  EXPECT_EQ(http_get(group.host(), port, "/events", "\n\n\r\n").status, 200);

  group.node(2).kill();
  group.node(3).kill();
  (void)group.wait_until({1}, [](auto& told) { return told.at(1)["leader"].is_null(); });
  const http_answer not_ready = http_get(group.host(), port, "/readyz");
  EXPECT_EQ(not_ready.status, 503);
  EXPECT_THAT(not_ready.body, StartsWith("no leader (term "));
  EXPECT_EQ(http_get(group.host(), port, "/healthz").status, 200);
  group.node(1).signal(SIGTERM);
  EXPECT_EQ(group.node(1).wait_exit(), 0) << group.node(1).describe();
}

TEST(raft_http, a_node_that_was_not_added_yet_is_not_ready) {
  raft_group group(1);
  group.add_address(4);
  group.start(4, {"--http", "0"});
  const http_answer not_ready = http_get(group.host(), group.ready(4).port("http"), "/readyz");
  EXPECT_EQ(not_ready.status, 503);
  EXPECT_EQ(not_ready.body, "this node belongs to no group yet\n");
}

TEST(raft_http, events_show_the_new_leader_and_its_election) {
  raft_group group(3);
  group.start_all({"--http", "0"});
  const raft_group::id killed = group.leader(all_three);
  const std::uint64_t term = group.status(killed)["term"];
  const raft_group::id watcher = killed == 1 ? 2 : 1;
  bool began = false;
  const json shown = watch_events(group.host(), group.ready(watcher).port("http"), [&](const json& now) {
    if (!std::exchange(began, true)) group.node(killed).kill();
    for (const json& node : now["nodes"]) {
      if (node["reached"] == true && node["role"] == "leader" && node["term"] > term) return true;
    }
    return false;
  });
  for (const json& node : shown["nodes"]) {
    EXPECT_EQ(node["reached"], node["id"] != killed);
    if (node["reached"] == false || node["role"] != "leader") continue;
    EXPECT_THAT(node["last_election"].get<std::string>(), HasSubstr("did not hear from a leader"));
    const std::string leads = "node " + node["id"].dump() + " leads term " + node["term"].dump();
    (void)watch_events(group.host(), group.ready(watcher).port("http"),
                       [&](const json& now) { return now["events"].dump().find(leads) != std::string::npos; });
  }
}

TEST(raft_http, a_hostile_name_ends_no_page) {
  raft_group group(1);
  group.start(1, {"--http", "0"});
  (void)group.leader({1});
  const std::uint16_t port = group.ready(1).port("http");
  const std::string cluster = "\xff\xfe\x1b[2J</script>";
  const run_result refused = raft_group::ctl_at(group.address(1), {"--cluster", cluster, "-o", "json", "status"});
  EXPECT_EQ(refused.code, 3) << refused.err;
  EXPECT_THAT(json::parse(refused.out)[0]["error"].get<std::string>(), HasSubstr("raft_replication"));
  const json shown = watch_events(group.host(), port, [](const json& now) {
    return now["events"].dump().find("refused a connection of ") != std::string::npos;
  });
  EXPECT_EQ(shown["nodes"].size(), 1U);
  EXPECT_THAT(group.node(1).err().text(), AllOf(HasSubstr("\\xff\\xfe\\x1b[2J"), testing::Not(HasSubstr("\x1b[2J"))));
  for (int i = 0; i < 2; ++i) {
    EXPECT_EQ(http_get(group.host(), port, "/").status, 200);
    EXPECT_EQ(http_get(group.host(), port, "/events", "\n\n\r\n").status, 200);
  }
  group.node(1).signal(SIGTERM);
  EXPECT_EQ(group.node(1).wait_exit(), 0) << group.node(1).describe();
}

/// A headless browser, if there is one.
std::string chromium() {
  for (const char* const path : {"/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome"}) {
    if (std::filesystem::exists(path)) return path;
  }
  return {};
}

TEST(raft_http, a_browser_shows_the_group) {
  const std::string browser = chromium();
  if (browser.empty()) GTEST_SKIP() << "there is no chromium here to look at the page with";
  raft_group group(3);
  group.start_all({"--http", "0"});
  const raft_group::id leader = group.leader(all_three);
  const std::string url = "http://" + group.host() + ":" + std::to_string(group.ready(1).port("http")) + "/";
  const temp_dir profile;
  const run_result page = run({browser, "--headless", "--no-sandbox", "--disable-gpu", "--timeout=3000",
                               "--user-data-dir=" + (profile / "chromium"), "--dump-dom", url},
                              {}, 120s);
  EXPECT_THAT(page.out, AllOf(HasSubstr("node " + std::to_string(leader) + " leads term"),
                              HasSubstr("3 of 3 nodes reached"), HasSubstr("node 2"), HasSubstr("node 3")))
      << page.err;
}

}  // namespace
}  // namespace lockstep::e2e
