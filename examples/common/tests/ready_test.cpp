#include "common/ready.hpp"

#include <gtest/gtest.h>
#include <unistd.h>
#include <asio/ip/address.hpp>

namespace lockstep::examples {
namespace {

std::string pid() { return "pid=" + std::to_string(::getpid()); }

TEST(ready_line, NamesRealPortsAndThePid) {
  EXPECT_EQ(ready_line({{"clients", address("127.0.0.1", 7878)}, {"replication", address("127.0.0.1", 7879)}}),
            "ready: clients=127.0.0.1:7878 replication=127.0.0.1:7879 " + pid());
  EXPECT_EQ(ready_line({}), "ready: " + pid());
}

TEST(ready_line, BracketsIpv6) {
  const asio::ip::tcp::endpoint endpoint(asio::ip::make_address("::1"), 80);
  EXPECT_EQ(ready_line({{"clients", to_address(endpoint)}}), "ready: clients=[::1]:80 " + pid());
}

TEST(ready_line, StaysOneWordPerAddress) {
  EXPECT_EQ(ready_line({{"clients", address::unix_socket("/tmp/my socket\n")}}),
            "ready: clients=unix:/tmp/my\\x20socket\\x0a " + pid());
}

TEST(print_ready, WritesOneLineToStandardOutput) {
  testing::internal::CaptureStdout();
  print_ready({{"clients", address("127.0.0.1", 1)}});
  EXPECT_EQ(testing::internal::GetCapturedStdout(), "ready: clients=127.0.0.1:1 " + pid() + "\n");
}

}  // namespace
}  // namespace lockstep::examples
