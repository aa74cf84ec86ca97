#include "lockstep/log/codec.hpp"

#include "images.hpp"

#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <string>
#include <string_view>

namespace lockstep {
namespace {

using log_codec::record_verdict;
using test::byte_vector;
using test::encoded;

constexpr position before{5, 41, 0x0123456789abcdef};

std::string hex(bytes_view bytes) {
  std::string text;
  for (const std::byte each : bytes) {
    constexpr std::string_view digits = "0123456789abcdef";
    text += digits[static_cast<unsigned>(each) >> 4];
    text += digits[static_cast<unsigned>(each) & 15];
  }
  return text;
}

record_verdict verdict_on(bytes_view bytes, const position& previous = before) {
  record ignored;
  return log_codec::decode_record(bytes, previous, ignored);
}

// --- golden bytes: made by a C program that knows the drawing in format.hpp and xxHash, and nothing of this library
// ---

TEST(log_format_golden, a_record_with_payload_and_padding) {
  EXPECT_EQ(hex(encoded(before, 7, "hello", first_user_kind)),
            "05000000"
            "7c2e9303"
            "2a00000000000000"
            "1007000000000000"
            "28ab31247c2dae2f"
            "68656c6c6f000000");
}

TEST(log_format_golden, the_first_record_of_all_without_payload) {
  EXPECT_EQ(hex(encoded({}, 1, "")),
            "00000000"
            "72022695"
            "0100000000000000"
            "0001000000000000"
            "e9001c98fde71177");
}

TEST(log_format_golden, a_segment_header) {
  segment_header header;
  header.flags = log_format::predecessor_sealed | log_format::recycled;
  header.base = before;
  header.previous_first = 30;
  header.predecessor_bytes = 123456;
  header.created_ns = 1'700'000'000'000'000'000;
  header.in_flight_limit = 16 << 20;
  byte_vector page(log_format::segment_header_bytes, std::byte{0xee});
  header.encode(page);
  EXPECT_EQ(hex(bytes_view(page).first(log_format::segment_header_used)),
            "4c4f434b53454731"
            "01000000"
            "03000000"
            "2900000000000000"
            "0500000000000000"
            "efcdab8967452301"
            "1e00000000000000"
            "40e2010000000000"
            "00002a36fe9c9717"
            "0000000100000000"
            "a2b05bac50831607");
  for (const std::byte each : bytes_view(page).subspan(log_format::segment_header_used)) {
    ASSERT_EQ(each, std::byte{0});
  }
}

TEST(log_format_golden, a_watermark) {
  byte_vector bytes(log_format::watermark_bytes);
  log_codec::encode_watermark(bytes.data(), {7, 42, 0x1122334455667788});
  EXPECT_EQ(hex(bytes),
            "4c4f434b57524b31"
            "2a00000000000000"
            "0700000000000000"
            "8877665544332211"
            "8c4416fffc3b63f0");
}

TEST(log_format_golden, sizes_are_multiples_of_eight_that_hold_header_and_payload) {
  EXPECT_EQ(log_format::record_bytes(0), 32u);
  EXPECT_EQ(log_format::record_bytes(1), 40u);
  EXPECT_EQ(log_format::record_bytes(8), 40u);
  EXPECT_EQ(log_format::record_bytes(9), 48u);
  EXPECT_EQ(log_format::record_bytes(log_format::max_payload_bytes), (std::size_t{1} << 30) + 32);
}

// --- records
// ----------------------------------------------------------------------------------------------------------

TEST(log_record, comes_back_as_it_was_encoded) {
  for (const std::size_t size : std::initializer_list<std::size_t>{0, 1, 7, 8, 9, 100, 4096}) {
    const std::string payload(size, 'p');
    const byte_vector bytes = encoded(before, 9, payload, 200);
    record read;
    ASSERT_EQ(log_codec::decode_record(bytes, before, read), record_verdict::ok) << size;
    EXPECT_EQ(read.index, 42u);
    EXPECT_EQ(read.epoch, 9u);
    EXPECT_EQ(read.kind, 200);
    EXPECT_EQ(as_text(read.payload), payload);
    EXPECT_EQ(read.payload.data(), bytes.data() + log_format::record_header_bytes) << "a view, not a copy";
  }
}

TEST(log_record, concatenates_a_payload_in_parts) {
  const std::array<bytes_view, 4> parts{as_bytes("ab"), bytes_view(), as_bytes("c"), as_bytes("def")};
  byte_vector bytes(log_format::record_bytes(6));
  const position at = log_codec::encode_record(bytes.data(), before, 7, data_record, parts);
  EXPECT_EQ(bytes, encoded(before, 7, "abcdef"));
  EXPECT_EQ(at.index, 42u);
  EXPECT_EQ(at.epoch, 7u);
}

TEST(log_record, keeps_the_largest_epoch_apart_from_its_kind) {
  const byte_vector bytes = encoded(before, max_epoch, "x", 255);
  record read;
  ASSERT_EQ(log_codec::decode_record(bytes, before, read), record_verdict::ok);
  EXPECT_EQ(read.epoch, max_epoch);
  EXPECT_EQ(read.kind, 255);
}

TEST(log_record, no_changed_bit_goes_unnoticed_wherever_it_is) {
  byte_vector bytes = encoded(before, 7, "hello");  // three bytes of padding
  for (std::size_t at = 0; at < bytes.size(); ++at) {
    for (unsigned bit = 0; bit < 8; ++bit) {
      bytes[at] ^= std::byte(1u << bit);
      // Length, check, index, epoch and kind are covered by the header's check; chain and payload by the chain.
      const record_verdict expected = at < 24   ? record_verdict::bad_header
                                      : at < 37 ? record_verdict::bad_chain
                                                : record_verdict::bad_padding;
      EXPECT_EQ(verdict_on(bytes), expected) << "byte " << at << " bit " << bit;
      bytes[at] ^= std::byte(1u << bit);
    }
  }
  EXPECT_EQ(verdict_on(bytes), record_verdict::ok);
}

TEST(log_record, is_incomplete_however_many_bytes_are_missing) {
  const byte_vector bytes = encoded(before, 7, "hello");
  for (std::size_t size = 0; size < bytes.size(); ++size) {
    EXPECT_EQ(verdict_on(bytes_view(bytes).first(size)), record_verdict::incomplete) << size;
  }
}

TEST(log_record, leaves_what_follows_it_alone) {
  byte_vector bytes = encoded(before, 7, "hello");
  bytes.resize(bytes.size() + 16, std::byte{0xff});
  EXPECT_EQ(verdict_on(bytes), record_verdict::ok);
}

TEST(log_record, follows_only_the_record_that_it_was_encoded_behind) {
  const byte_vector bytes = encoded(before, 7, "hello");
  EXPECT_EQ(verdict_on(bytes, {5, 40, before.chain}), record_verdict::wrong_index);
  EXPECT_EQ(verdict_on(bytes, {5, 42, before.chain}), record_verdict::wrong_index);
  EXPECT_EQ(verdict_on(bytes, {5, 41, before.chain + 1}), record_verdict::bad_chain) << "another history";
  EXPECT_EQ(verdict_on(bytes, {8, 41, before.chain}), record_verdict::stale_epoch);
  EXPECT_EQ(verdict_on(bytes, {7, 41, before.chain}), record_verdict::ok) << "an epoch lasts for many records";
}

TEST(log_record, zeros_are_no_record) {
  const byte_vector zeros(64);
  EXPECT_EQ(verdict_on(zeros, {}), record_verdict::bad_header);
}

TEST(log_record, with_index_zero_is_none_even_with_a_matching_check) {
  byte_vector bytes(log_format::record_header_bytes);
  store_le(bytes.data() + 4, log_codec::header_check(0, 0, 0));
  EXPECT_FALSE(log_codec::decode_header(bytes.data()));
}

TEST(log_record, longer_than_any_record_is_none_even_with_a_matching_check) {
  byte_vector bytes(log_format::record_header_bytes);
  const std::uint32_t length = log_format::max_payload_bytes + 1;
  store_le(bytes.data(), length);
  store_le(bytes.data() + 4, log_codec::header_check(length, 1, 256));
  store_le<std::uint64_t>(bytes.data() + 8, 1);
  store_le<std::uint64_t>(bytes.data() + 16, 256);
  EXPECT_FALSE(log_codec::decode_header(bytes.data()));
}

TEST(log_record, is_read_at_any_address) {
  const byte_vector bytes = encoded(before, 7, "hello");
  for (std::size_t shift = 0; shift < 9; ++shift) {
    byte_vector moved(shift);
    moved.insert(moved.end(), bytes.begin(), bytes.end());
    EXPECT_EQ(verdict_on(bytes_view(moved).subspan(shift)), record_verdict::ok) << shift;
  }
}

TEST(log_record, its_chain_names_the_whole_history) {
  test::record_run one, other;
  one.add("a").add("b").add("c");
  other.add("a").add("B").add("c");
  EXPECT_NE(one.last.chain, other.last.chain);
  EXPECT_EQ(one.last.chain, test::record_run().add("a").add("b").add("c").last.chain);
  EXPECT_NE(one.last.chain, test::record_run().add("a").add("b").add("c", 2).last.chain) << "the epoch is in it";
  EXPECT_NE(one.last.chain, test::record_run().add("a").add("b").add("c", 1, 16).last.chain) << "so is the kind";
}

// --- segment headers
// ----------------------------------------------------------------------------------------------------

segment_header some_header() {
  segment_header header;
  header.flags = log_format::predecessor_sealed;
  header.base = before;
  header.previous_first = 30;
  header.predecessor_bytes = 8192;
  header.created_ns = 77;
  header.in_flight_limit = 1 << 20;
  return header;
}

byte_vector page_of(const segment_header& header) {
  byte_vector page(log_format::segment_header_bytes);
  header.encode(page);
  return page;
}

TEST(log_segment_header, comes_back_as_it_was_encoded) {
  const auto read = segment_header::decode(page_of(some_header()));
  ASSERT_TRUE(read);
  EXPECT_EQ(read->flags, log_format::predecessor_sealed);
  EXPECT_EQ(read->base, before);
  EXPECT_EQ(read->first_index(), 42u);
  EXPECT_EQ(read->previous_first, 30u);
  EXPECT_EQ(read->predecessor_bytes, 8192u);
  EXPECT_EQ(read->created_ns, 77u);
  EXPECT_EQ(read->in_flight_limit, 1u << 20);
}

TEST(log_segment_header, no_changed_bit_goes_unnoticed) {
  byte_vector page = page_of(some_header());
  for (std::size_t at = 0; at < log_format::segment_header_used; ++at) {
    for (unsigned bit = 0; bit < 8; ++bit) {
      page[at] ^= std::byte(1u << bit);
      EXPECT_FALSE(segment_header::decode(page)) << "byte " << at << " bit " << bit;
      page[at] ^= std::byte(1u << bit);
    }
  }
  EXPECT_TRUE(segment_header::decode(page));
}

TEST(log_segment_header, is_read_from_its_used_bytes_alone_and_from_no_fewer) {
  const byte_vector page = page_of(some_header());
  EXPECT_TRUE(segment_header::decode(bytes_view(page).first(log_format::segment_header_used)));
  for (std::size_t size = 0; size < log_format::segment_header_used; ++size) {
    EXPECT_FALSE(segment_header::decode(bytes_view(page).first(size))) << size;
  }
}

void sign(byte_vector& page) {
  constexpr std::size_t checked = log_format::segment_header_used - 8;
  store_le(page.data() + checked, xxh3_64(bytes_view(page).first(checked)));
}

TEST(log_segment_header, of_another_version_is_refused_though_its_check_matches) {
  byte_vector page = page_of(some_header());
  store_le<std::uint32_t>(page.data() + 8, log_format::version + 1);
  sign(page);
  EXPECT_FALSE(segment_header::decode(page));
}

TEST(log_segment_header, with_a_flag_that_this_version_does_not_know_is_refused_though_its_check_matches) {
  byte_vector page = page_of(some_header());
  store_le<std::uint32_t>(page.data() + 12, 4);
  sign(page);
  EXPECT_FALSE(segment_header::decode(page));
}

TEST(log_segment_header, of_zeros_is_none) { EXPECT_FALSE(segment_header::decode(byte_vector(4096))); }

// --- watermarks
// ---------------------------------------------------------------------------------------------------------

TEST(log_watermark, comes_back_as_it_was_encoded) {
  byte_vector bytes(log_format::watermark_bytes);
  log_codec::encode_watermark(bytes.data(), before);
  EXPECT_EQ(log_codec::decode_watermark(bytes), before);
}

TEST(log_watermark, no_changed_bit_goes_unnoticed) {
  byte_vector bytes(log_format::watermark_bytes);
  log_codec::encode_watermark(bytes.data(), before);
  for (std::size_t at = 0; at < bytes.size(); ++at) {
    for (unsigned bit = 0; bit < 8; ++bit) {
      bytes[at] ^= std::byte(1u << bit);
      EXPECT_FALSE(log_codec::decode_watermark(bytes)) << "byte " << at << " bit " << bit;
      bytes[at] ^= std::byte(1u << bit);
    }
  }
}

TEST(log_watermark, cut_short_or_empty_says_nothing) {
  byte_vector bytes(log_format::watermark_bytes);
  log_codec::encode_watermark(bytes.data(), before);
  for (std::size_t size = 0; size < bytes.size(); ++size) {
    EXPECT_FALSE(log_codec::decode_watermark(bytes_view(bytes).first(size))) << size;
  }
}

}  // namespace
}  // namespace lockstep
