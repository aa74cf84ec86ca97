#include "cityhall/records.hpp"

#include <gtest/gtest.h>

#include <string>
#include <string_view>
#include <vector>

namespace lockstep::cityhall {
namespace {

using namespace std::string_view_literals;

struct owned_entry {
  operation op;
  std::string key;
  std::string value;
  friend bool operator==(const owned_entry&, const owned_entry&) = default;
};

std::vector<owned_entry> entries_of(const segment_view& segment) {
  std::vector<owned_entry> result;
  segment.for_each([&](const entry& each) {
    result.push_back({each.op, std::string(each.key), std::string(each.value)});
  });
  return result;
}

TEST(cityhall_segment, gives_back_its_entries_in_order_whatever_bytes_they_hold) {
  const std::string binary("a\0b\xff \n", 6);
  segment_builder builder;
  builder.add({operation::put, "city", "Nairobi"});
  builder.add({operation::del, binary, {}});
  builder.add({operation::put, "", ""});
  builder.add({operation::put, "with spaces", binary});
  const auto segment = segment_view::parse(builder.payload());
  ASSERT_TRUE(segment);
  EXPECT_EQ(segment->count(), 4u);
  EXPECT_EQ(entries_of(*segment), (std::vector<owned_entry>{{operation::put, "city", "Nairobi"},
                                                            {operation::del, binary, ""},
                                                            {operation::put, "", ""},
                                                            {operation::put, "with spaces", binary}}));
}

TEST(cityhall_segment, builder_starts_anew_when_cleared) {
  segment_builder builder;
  builder.add({operation::put, "old", "1"});
  builder.clear();
  EXPECT_EQ(builder.count(), 0u);
  builder.add({operation::put, "new", "2"});
  const auto segment = segment_view::parse(builder.payload());
  ASSERT_TRUE(segment);
  EXPECT_EQ(entries_of(*segment), (std::vector<owned_entry>{{operation::put, "new", "2"}}));
}

TEST(cityhall_segment, builder_is_full_when_it_holds_enough_for_one_record) {
  segment_builder builder;
  const std::string value(full_segment_bytes / 2, 'v');
  builder.add({operation::put, "a", value});
  EXPECT_FALSE(builder.full());
  builder.add({operation::put, "b", value});
  EXPECT_TRUE(builder.full());
}

TEST(cityhall_segment, without_entries_is_none) {
  segment_builder builder;
  EXPECT_FALSE(segment_view::parse(builder.payload()));
  EXPECT_FALSE(segment_view::parse({}));
}

TEST(cityhall_segment, cut_short_or_too_long_is_none) {
  segment_builder builder;
  builder.add({operation::put, "city", "Nairobi"});
  builder.add({operation::del, "event", {}});
  const bytes_view whole = builder.payload();
  for (std::size_t size = 0; size < whole.size(); ++size) {
    EXPECT_FALSE(segment_view::parse(whole.first(size))) << size;
  }
  byte_buffer longer;
  longer.append(whole);
  longer.append(as_bytes("\0"sv));
  EXPECT_FALSE(segment_view::parse(longer.view()));
}

TEST(cityhall_segment, with_an_unknown_operation_or_an_oversized_key_is_none) {
  byte_buffer bytes;
  field_writer(bytes).number(std::uint32_t{1}).number(std::uint8_t{3}).text("k").text("v");
  EXPECT_FALSE(segment_view::parse(bytes.view()));

  bytes.clear();
  field_writer(bytes).number(std::uint32_t{1}).number(std::uint8_t{2}).text("k").text("a del has no value");
  EXPECT_FALSE(segment_view::parse(bytes.view()));

  bytes.clear();
  field_writer(bytes)
      .number(std::uint32_t{1})
      .number(std::uint8_t{1})
      .text(std::string(max_key_bytes + 1, 'k'))
      .text("v");
  EXPECT_FALSE(segment_view::parse(bytes.view()));
}

TEST(cityhall_segment, that_announces_more_entries_than_bytes_is_none) {
  byte_buffer bytes;
  field_writer(bytes).number(std::uint32_t{0xffffffff}).number(std::uint8_t{1}).text("k").text("v");
  EXPECT_FALSE(segment_view::parse(bytes.view()));
}

TEST(cityhall_life, gives_back_what_it_was_encoded_from) {
  life begun;
  begun.nonce = 0x0123456789abcdef;
  begun.clients = "127.0.0.1:7878";
  const byte_buffer bytes = begun.encode();
  const auto decoded = life::decode(bytes.view());
  ASSERT_TRUE(decoded);
  EXPECT_EQ(decoded->nonce, begun.nonce);
  EXPECT_EQ(decoded->clients, begun.clients);
  for (std::size_t size = 0; size < bytes.size(); ++size) EXPECT_FALSE(life::decode(bytes.view().first(size))) << size;
}

TEST(cityhall_fields, reader_that_ran_out_stays_bad_and_gives_zeros) {
  byte_buffer bytes;
  field_writer(bytes).number(std::uint32_t{100}).number(std::uint64_t{7});
  field_reader from(bytes.view());
  EXPECT_EQ(from.text(), "");
  EXPECT_FALSE(from.good());
  EXPECT_EQ(from.number<std::uint8_t>(), 0);
  EXPECT_FALSE(from.complete());
}

}  // namespace
}  // namespace lockstep::cityhall
