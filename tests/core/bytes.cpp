#include "lockstep/core/bytes.hpp"

#include <gtest/gtest.h>

#include <string>
#include <string_view>
#include <type_traits>
#include <utility>

namespace lockstep {
namespace {

using namespace std::string_view_literals;

TEST(bytes, text_and_bytes_are_two_views_of_the_same_characters) {
  constexpr std::string_view text = "a\0b\xff"sv;
  const bytes_view bytes = as_bytes(text);
  ASSERT_EQ(bytes.size(), 4u);
  EXPECT_EQ(static_cast<const void*>(bytes.data()), static_cast<const void*>(text.data()));
  EXPECT_EQ(bytes[3], std::byte{0xff});
  EXPECT_EQ(as_text(bytes), text);
}

TEST(bytes, equal_compares_size_and_content) {
  EXPECT_TRUE(equal(as_bytes("abc"), as_bytes("abc")));
  EXPECT_FALSE(equal(as_bytes("abc"), as_bytes("abd")));
  EXPECT_FALSE(equal(as_bytes("abc"), as_bytes("ab")));
  EXPECT_FALSE(equal(as_bytes("a\0b"sv), as_bytes("a\0c"sv)));
}

TEST(bytes, empty_views_are_equal_wherever_they_point) {
  EXPECT_TRUE(equal({}, {}));
  EXPECT_TRUE(equal({}, as_bytes("")));
  EXPECT_FALSE(equal({}, as_bytes("a")));
}

TEST(byte_buffer, starts_empty_without_memory) {
  const byte_buffer buffer;
  EXPECT_TRUE(buffer.empty());
  EXPECT_EQ(buffer.size(), 0u);
  EXPECT_EQ(buffer.capacity(), 0u);
  EXPECT_TRUE(buffer.view().empty());
}

TEST(byte_buffer, is_built_with_the_capacity_asked_for) {
  const byte_buffer buffer(100);
  EXPECT_TRUE(buffer.empty());
  EXPECT_EQ(buffer.capacity(), 100u);
}

TEST(byte_buffer, appends_in_order_and_keeps_what_it_holds_when_it_grows) {
  byte_buffer buffer;
  std::string expected;
  for (int i = 0; i < 1000; ++i) {
    const std::string piece(static_cast<std::size_t>(i % 7), static_cast<char>('a' + i % 26));
    buffer.append(as_bytes(piece));
    expected += piece;
  }
  EXPECT_EQ(as_text(buffer.view()), expected);
}

TEST(byte_buffer, appending_nothing_changes_nothing) {
  byte_buffer buffer;
  buffer.append({});
  EXPECT_TRUE(buffer.empty());
  EXPECT_EQ(buffer.capacity(), 0u);
}

TEST(byte_buffer, grows_at_least_by_doubling) {
  byte_buffer buffer;
  std::size_t growths = 0;
  for (std::size_t i = 0; i < 1 << 16; ++i) {
    const std::size_t before = buffer.capacity();
    buffer.append(as_bytes("x"));
    if (buffer.capacity() != before) {
      ++growths;
      EXPECT_GE(buffer.capacity(), 2 * before);
    }
  }
  EXPECT_LE(growths, 17u);
}

TEST(byte_buffer, reserve_never_shrinks_and_changes_no_bytes) {
  byte_buffer buffer;
  buffer.append(as_bytes("abc"));
  buffer.reserve(1000);
  EXPECT_EQ(buffer.capacity(), 1000u);
  buffer.reserve(10);
  EXPECT_EQ(buffer.capacity(), 1000u);
  EXPECT_EQ(as_text(buffer.view()), "abc");
}

TEST(byte_buffer, resize_keeps_the_front) {
  byte_buffer buffer;
  buffer.append(as_bytes("abcdef"));
  buffer.resize(3);
  EXPECT_EQ(as_text(buffer.view()), "abc");
  buffer.resize(5000);
  EXPECT_EQ(buffer.size(), 5000u);
  EXPECT_EQ(as_text(buffer.view()).substr(0, 3), "abc");
}

TEST(byte_buffer, extend_returns_where_the_new_bytes_begin) {
  byte_buffer buffer;
  buffer.append(as_bytes("abc"));
  std::byte* const added = buffer.extend(2);
  EXPECT_EQ(added, buffer.data() + 3);
  added[0] = std::byte{'d'};
  added[1] = std::byte{'e'};
  EXPECT_EQ(as_text(buffer.view()), "abcde");
}

TEST(byte_buffer, keeps_its_memory_when_cleared) {
  byte_buffer buffer;
  buffer.append(as_bytes("abcdef"));
  const std::byte* const memory = buffer.data();
  const std::size_t capacity = buffer.capacity();
  buffer.clear();
  EXPECT_TRUE(buffer.empty());
  EXPECT_EQ(buffer.capacity(), capacity);
  buffer.append(as_bytes("123456"));
  EXPECT_EQ(buffer.data(), memory);
  EXPECT_EQ(as_text(buffer.view()), "123456");
}

TEST(byte_buffer, consume_drops_the_front_also_when_the_rest_overlaps_it) {
  byte_buffer buffer;
  buffer.append(as_bytes("abcdefgh"));
  buffer.consume(0);
  EXPECT_EQ(as_text(buffer.view()), "abcdefgh");
  buffer.consume(2);
  EXPECT_EQ(as_text(buffer.view()), "cdefgh");
  buffer.consume(5);
  EXPECT_EQ(as_text(buffer.view()), "h");
  buffer.consume(1);
  EXPECT_TRUE(buffer.empty());
}

TEST(byte_buffer, a_moved_from_buffer_is_empty_and_usable) {
  static_assert(!std::is_copy_constructible_v<byte_buffer>);
  byte_buffer first;
  first.append(as_bytes("abc"));
  byte_buffer second(std::move(first));
  EXPECT_EQ(as_text(second.view()), "abc");
  EXPECT_TRUE(first.empty());  // NOLINT(bugprone-use-after-move): that is what is tested
  EXPECT_EQ(first.capacity(), 0u);
  first.append(as_bytes("new"));
  EXPECT_EQ(as_text(first.view()), "new");

  first = std::move(second);
  EXPECT_EQ(as_text(first.view()), "abc");
  EXPECT_TRUE(second.empty());  // NOLINT(bugprone-use-after-move)
  second.append(as_bytes("again"));
  EXPECT_EQ(as_text(second.view()), "again");
}

}  // namespace
}  // namespace lockstep
