#include "lockstep/frame/hello.hpp"

#include <gtest/gtest.h>

#include <string>

namespace lockstep {
namespace {

hello sample() {
  hello message;
  message.step = hello::step_t::refusal;
  message.node = 7;
  message.features = 0x8000000000000001;
  message.cluster = "orders";
  message.purpose = "catchup";
  message.cause = errc::wrong_cluster;
  message.reason = "this node belongs to cluster 'orders'";
  return message;
}

std::string encoded(const hello& message) {
  byte_buffer bytes;
  encode_hello(bytes, message);
  return std::string(as_text(bytes.view()));
}

TEST(frame_hello, comes_back_as_it_was) {
  const std::string bytes = encoded(sample());
  const decoded_hello found = decode_hello(as_bytes(bytes + "what follows"));
  ASSERT_EQ(found.is, verdict::ok);
  EXPECT_EQ(found.bytes, bytes.size());
  EXPECT_EQ(found.message.step, hello::step_t::refusal);
  EXPECT_EQ(found.message.node, 7u);
  EXPECT_EQ(found.message.features, 0x8000000000000001);
  EXPECT_EQ(found.message.cluster, "orders");
  EXPECT_EQ(found.message.purpose, "catchup");
  EXPECT_EQ(found.message.cause, errc::wrong_cluster);
  EXPECT_EQ(found.message.reason, "this node belongs to cluster 'orders'");
}

TEST(frame_hello, every_cause_survives_the_wire) {
  for (const errc cause : {errc::wrong_version, errc::wrong_cluster, errc::wrong_node, errc::overloaded,
                           errc::unknown_method, errc::closed, errc::remote_failure}) {
    hello message = sample();
    message.cause = cause;
    EXPECT_EQ(decode_hello(as_bytes(encoded(message))).message.cause, cause);
  }
}

TEST(frame_hello, needs_more_until_it_is_whole) {
  const std::string bytes = encoded(sample());
  for (std::size_t size = 0; size < bytes.size(); ++size) {
    EXPECT_EQ(decode_hello(as_bytes(std::string_view(bytes).substr(0, size))).is, verdict::need_more) << size;
  }
}

TEST(frame_hello, no_flipped_bit_goes_unnoticed) {
  const std::string good = encoded(sample());
  for (std::size_t bit = 0; bit < good.size() * 8; ++bit) {
    std::string bad = good;
    bad[bit / 8] = static_cast<char>(bad[bit / 8] ^ (1 << bit % 8));
    EXPECT_NE(decode_hello(as_bytes(bad)).is, verdict::ok) << "bit " << bit;
  }
}

TEST(frame_hello, another_protocol_is_recognised_by_its_first_bytes) {
  for (const std::string_view start : {"G", "GET / HTTP/1.1\r\n", "SSH-2.0", "lockdown"}) {
    EXPECT_EQ(decode_hello(as_bytes(start)).reason, errc::not_lockstep) << start;
  }
}

TEST(frame_hello, another_version_is_named_whatever_follows) {
  std::string bytes = encoded(sample());
  bytes[8] = 2;
  const decoded_hello found = decode_hello(as_bytes(std::string_view(bytes).substr(0, 12)));
  EXPECT_EQ(found.reason, errc::wrong_version);
  EXPECT_EQ(found.message.version, 2);
}

TEST(frame_hello, an_impossible_size_is_malformed) {
  for (const std::uint16_t size : {std::uint16_t{0}, std::uint16_t{42}, std::uint16_t{513}, std::uint16_t{65535}}) {
    std::string bytes = encoded(sample());
    store_le<std::uint16_t>(reinterpret_cast<std::byte*>(bytes.data()) + 10, size);
    EXPECT_EQ(decode_hello(as_bytes(bytes)).reason, errc::malformed) << size;
  }
}

TEST(frame_hello, texts_beyond_their_limits_are_cut_and_the_whole_stays_within_its_own) {
  hello message = sample();
  message.cluster = std::string(1000, 'c');
  message.purpose = std::string(1000, 'p');
  message.reason = std::string(1000, 'r');
  const std::string bytes = encoded(message);
  EXPECT_LE(bytes.size(), max_hello_bytes);
  const decoded_hello found = decode_hello(as_bytes(bytes));
  ASSERT_EQ(found.is, verdict::ok);
  EXPECT_EQ(found.message.cluster, std::string(max_cluster_bytes, 'c'));
  EXPECT_EQ(found.message.purpose, std::string(max_purpose_bytes, 'p'));
  EXPECT_FALSE(found.message.reason.empty());
}

}  // namespace
}  // namespace lockstep
