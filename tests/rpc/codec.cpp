#include "lockstep/rpc/codec.hpp"

#include <gtest/gtest.h>

#include <array>
#include <string>

namespace lockstep {
namespace {

template <std::size_t Size>
std::string text(const std::array<std::byte, Size>& bytes) {
  return std::string(as_text(bytes));
}

TEST(rpc_codec, a_request_comes_back_as_it_was) {
  rpc_request_message sent;
  sent.method = 7;
  sent.time_left_ms = 1500;
  sent.credit = 65536;
  const std::string bytes = text(sent.encode_prefix()) + "arguments";
  const auto received = rpc_request_message::decode(as_bytes(bytes));
  ASSERT_TRUE(received);
  EXPECT_EQ(received->method, 7u);
  EXPECT_EQ(received->time_left_ms, 1500u);
  EXPECT_EQ(received->credit, 65536u);
  EXPECT_EQ(as_text(received->arguments), "arguments");
}

TEST(rpc_codec, a_failure_comes_back_as_it_was) {
  for (const rpc_cause cause : {rpc_cause::handler, rpc_cause::unknown_method, rpc_cause::overloaded,
                                rpc_cause::closing, rpc_cause::interrupted}) {
    const rpc_failure_message sent{cause, 42, {}};
    const std::string bytes = text(sent.encode_prefix()) + "no such key";
    const auto received = rpc_failure_message::decode(as_bytes(bytes));
    ASSERT_TRUE(received);
    EXPECT_EQ(received->cause, cause);
    EXPECT_EQ(received->code, 42u);
    EXPECT_EQ(received->text, "no such key");
  }
}

TEST(rpc_codec, credit_comes_back_as_it_was) {
  const auto bytes = rpc_credit_message{123456}.encode();
  ASSERT_TRUE(rpc_credit_message::decode(bytes));
  EXPECT_EQ(rpc_credit_message::decode(bytes)->bytes, 123456u);
}

TEST(rpc_codec, what_is_too_short_is_refused) {
  const std::string zeros(12, '\0');
  for (std::size_t size = 0; size < rpc_request_prefix_bytes; ++size) {
    EXPECT_FALSE(rpc_request_message::decode(as_bytes(zeros).first(size)));
  }
  const std::string failure = text(rpc_failure_message{}.encode_prefix());
  for (std::size_t size = 0; size < failure.size(); ++size) {
    EXPECT_FALSE(rpc_failure_message::decode(as_bytes(failure).first(size)));
  }
  for (const std::size_t size : std::initializer_list<std::size_t>{0u, 3u, 5u})
    EXPECT_FALSE(rpc_credit_message::decode(as_bytes(zeros).first(size)));
}

TEST(rpc_codec, causes_and_reserved_bytes_that_nobody_sends_are_refused) {
  const std::string good = text(rpc_failure_message{}.encode_prefix());
  for (const int cause : {0, 6, 255}) {
    std::string bad = good;
    bad[0] = static_cast<char>(cause);
    EXPECT_FALSE(rpc_failure_message::decode(as_bytes(bad))) << cause;
  }
  for (const std::size_t reserved : std::initializer_list<std::size_t>{1u, 2u, 3u}) {
    std::string bad = good;
    bad[reserved] = 1;
    EXPECT_FALSE(rpc_failure_message::decode(as_bytes(bad))) << reserved;
  }
}

}  // namespace
}  // namespace lockstep
