#include "lockstep/core/address.hpp"

#include <gtest/gtest.h>

#include <array>
#include <string>
#include <string_view>

namespace lockstep {
namespace {

TEST(address, reads_a_host_and_a_port) {
  const auto parsed = address::parse("example.org:7878");
  ASSERT_TRUE(parsed);
  EXPECT_EQ(parsed->host, "example.org");
  EXPECT_EQ(parsed->port, 7878);
  EXPECT_FALSE(parsed->is_unix());
}

TEST(address, reads_an_ipv6_host_in_brackets) {
  const auto parsed = address::parse("[fe80::1%eth0]:65535");
  ASSERT_TRUE(parsed);
  EXPECT_EQ(parsed->host, "fe80::1%eth0");
  EXPECT_EQ(parsed->port, 65535);
}

TEST(address, reads_a_path_with_anything_in_it) {
  const auto parsed = address::parse("unix:/run/lock step:7/[x].sock");
  ASSERT_TRUE(parsed);
  EXPECT_TRUE(parsed->is_unix());
  EXPECT_EQ(parsed->path, "/run/lock step:7/[x].sock");
  EXPECT_TRUE(parsed->host.empty());
  EXPECT_EQ(parsed->port, 0);
}

TEST(address, port_zero_is_a_port) {
  const auto parsed = address::parse("127.0.0.1:0");
  ASSERT_TRUE(parsed);
  EXPECT_EQ(*parsed, address("127.0.0.1", 0));
}

TEST(address, is_written_as_it_is_read) {
  for (const std::string_view text : {"localhost:1", "127.0.0.1:0", "a.b-c.d:65535", "[::1]:7878", "[::]:0",
                                      "[2001:db8::5]:443", "unix:/tmp/x", "unix:relative", "unix:with:colon:80"}) {
    const auto parsed = address::parse(text);
    ASSERT_TRUE(parsed) << text;
    EXPECT_EQ(parsed->to_string(), text);
    EXPECT_EQ(address::parse(parsed->to_string()), parsed);
  }
}

TEST(address, what_is_built_by_hand_reads_back) {
  for (const address& each : {address("host", 80), address("::1", 80), address::unix_socket("/a b")}) {
    EXPECT_EQ(address::parse(each.to_string()), each) << each.to_string();
  }
}

TEST(address, malformed_text_is_refused) {
  constexpr std::array malformed = {
      "",                 // nothing
      ":",                // neither host nor port
      "host",             // no port
      "host:",            // an empty port
      ":80",              // an empty host
      "[]:80",            // an empty IPv6 host
      "[::1]",            // IPv6 without a port
      "[::1]:",           // … with an empty one
      "::1:80",           // IPv6 without brackets
      "[::1:80",          // an open bracket
      "::1]:80",          // a closing one alone
      "[::1]x:80",        // something behind the bracket
      "x[::1]:80",        // … and before it
      "host:80:90",       // two ports
      "host:65536",       // above the largest port
      "host:4294967376",  // 80 after an overflow
      "host:-1",
      "host:+80",
      "host: 80",
      "host:80 ",
      "host:0x50",
      "host:http",
      "host:8_0",
      "unix:",  // no path
  };
  for (const std::string_view text : malformed) {
    const auto parsed = address::parse(text);
    EXPECT_FALSE(parsed) << "\"" << text << "\" was read as " << parsed->to_string();
  }
}

TEST(address, equality_looks_at_every_field) {
  EXPECT_EQ(address("a", 1), address("a", 1));
  EXPECT_NE(address("a", 1), address("b", 1));
  EXPECT_NE(address("a", 1), address("a", 2));
  EXPECT_NE(address::unix_socket("/a"), address::unix_socket("/b"));
  EXPECT_NE(address(), address::unix_socket("/a"));
}

}  // namespace
}  // namespace lockstep
