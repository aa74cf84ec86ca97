#include "lockstep/frame/codec.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <vector>

namespace lockstep {
namespace {

constexpr std::size_t limit = 1 << 20;

struct owned_frame {
  std::uint8_t kind;
  std::uint8_t flags;
  std::uint64_t id;
  std::string payload;

  explicit owned_frame(const frame_view& view)
      : kind(view.kind), flags(view.flags), id(view.id), payload(as_text(view.payload)) {}
  owned_frame(std::uint8_t k, std::uint8_t f, std::uint64_t i, std::string p)
      : kind(k), flags(f), id(i), payload(std::move(p)) {}
  friend bool operator==(const owned_frame&, const owned_frame&) = default;
};

std::string encoded(const owned_frame& frame) {
  std::string bytes(frame_header_bytes, '\0');
  encode_frame_header(reinterpret_cast<std::byte*>(bytes.data()), {frame.kind, frame.flags, frame.id},
                      frame.payload.size(), xxh3_64(as_bytes(frame.payload)));
  return bytes + frame.payload;
}

std::string encoded(const std::vector<owned_frame>& frames) {
  std::string bytes;
  for (const owned_frame& each : frames) bytes += encoded(each);
  return bytes;
}

void take_all(frame_decoder& decoder, std::vector<owned_frame>& into) {
  frame_view frame;
  verdict found = decoder.next(frame);
  for (; found == verdict::ok; found = decoder.next(frame)) into.emplace_back(frame);
  ASSERT_EQ(found, verdict::need_more);
}

/// As a stream delivers: as much as there is room for, the frames in it, and so on.
void feed(frame_decoder& decoder, std::string_view bytes, std::vector<owned_frame>& into) {
  while (!bytes.empty()) {
    const mutable_bytes room = decoder.prepare();
    ASSERT_FALSE(room.empty());
    const std::size_t count = std::min(room.size(), bytes.size());
    std::memcpy(room.data(), bytes.data(), count);
    decoder.commit(count);
    bytes.remove_prefix(count);
    if (!bytes.empty()) take_all(decoder, into);
  }
}

/// The same for bytes that fit into the buffer.
void feed(frame_decoder& decoder, std::string_view bytes) {
  std::vector<owned_frame> none;
  feed(decoder, bytes, none);
  ASSERT_TRUE(none.empty());
}

std::vector<owned_frame> decoded_in_chunks(std::string_view bytes, const std::vector<std::size_t>& cuts) {
  frame_decoder decoder(limit, 4096);
  std::vector<owned_frame> frames;
  std::size_t from = 0;
  for (const std::size_t cut : cuts) {
    feed(decoder, bytes.substr(from, cut - from), frames);
    take_all(decoder, frames);
    from = cut;
  }
  feed(decoder, bytes.substr(from), frames);
  take_all(decoder, frames);
  return frames;
}

const std::vector<owned_frame> three_frames = {
    {1, frame_flag::none, 7, ""}, {2, 0x50, ~std::uint64_t{0}, "x"}, {255, frame_flag::self_checked, 0, "hello"}};

verdict decode(std::string_view bytes) { return decode_frame(as_bytes(bytes), limit).is; }

TEST(frame_codec, one_byte_at_a_time_gives_the_same_frames) {
  const std::string bytes = encoded(three_frames);
  std::vector<std::size_t> cuts;
  for (std::size_t i = 1; i < bytes.size(); ++i) cuts.push_back(i);
  EXPECT_EQ(decoded_in_chunks(bytes, cuts), three_frames);
}

TEST(frame_codec, every_pair_of_cuts_gives_the_same_frames) {
  const std::string bytes = encoded(three_frames);
  for (std::size_t first = 0; first <= bytes.size(); ++first) {
    for (std::size_t second = first; second <= bytes.size(); ++second) {
      ASSERT_EQ(decoded_in_chunks(bytes, {first, second}), three_frames) << first << " and " << second;
    }
  }
}

TEST(frame_codec, a_cut_frame_needs_more_and_says_how_much) {
  const std::string bytes = encoded({1, 0, 1, "abc"});
  for (std::size_t size = 0; size < bytes.size(); ++size) {
    const decoded_frame found = decode_frame(as_bytes(std::string_view(bytes).substr(0, size)), limit);
    ASSERT_EQ(found.is, verdict::need_more) << size;
    EXPECT_EQ(found.bytes, size < frame_header_bytes ? frame_header_bytes : bytes.size()) << size;
  }
}

TEST(frame_codec, no_flipped_bit_goes_unnoticed) {
  const std::string good = encoded({3, 0x20, 42, "payload"});
  for (std::size_t bit = 0; bit < good.size() * 8; ++bit) {
    std::string bad = good;
    bad[bit / 8] = static_cast<char>(bad[bit / 8] ^ (1 << bit % 8));
    EXPECT_NE(decode(bad), verdict::ok) << "bit " << bit;
  }
}

TEST(frame_codec, a_self_checked_frame_checks_its_header_and_leaves_its_payload_to_its_receiver) {
  const std::string good = encoded({3, frame_flag::self_checked, 42, "payload"});
  for (std::size_t bit = 0; bit < frame_header_bytes * 8; ++bit) {
    std::string bad = good;
    bad[bit / 8] = static_cast<char>(bad[bit / 8] ^ (1 << bit % 8));
    EXPECT_NE(decode(bad), verdict::ok) << "bit " << bit;
  }
  std::string changed = good;
  changed.back() = '!';
  EXPECT_EQ(decode(changed), verdict::ok);
}

TEST(frame_codec, a_length_above_the_limit_is_refused_before_anything_else_arrives) {
  std::byte length[4];
  store_le<std::uint32_t>(length, 1001);
  const decoded_frame found = decode_frame(length, 1000);
  EXPECT_EQ(found.is, verdict::corrupt);
  EXPECT_EQ(found.reason, errc::frame_too_large);
  store_le<std::uint32_t>(length, 1000);
  EXPECT_EQ(decode_frame(length, 1000).is, verdict::need_more);
}

TEST(frame_codec, memory_for_a_payload_waits_for_its_whole_header) {
  const std::string bytes = encoded({1, 0, 1, std::string(limit, 'x')});
  frame_view frame;
  frame_decoder decoder(limit, 4096);
  feed(decoder, bytes.substr(0, frame_header_bytes - 1));
  EXPECT_EQ(decoder.next(frame), verdict::need_more);
  EXPECT_LE(decoder.prepare().size(), 4096u);
  feed(decoder, bytes.substr(frame_header_bytes - 1, 1));
  EXPECT_EQ(decoder.next(frame), verdict::need_more);
  EXPECT_EQ(decoder.prepare().size(), limit);
}

TEST(frame_codec, an_unknown_flag_is_malformed) {
  const decoded_frame found = decode_frame(as_bytes(encoded({1, 0x02, 1, ""})), limit);
  EXPECT_EQ(found.is, verdict::corrupt);
  EXPECT_EQ(found.reason, errc::malformed);
}

TEST(frame_codec, reserved_bits_are_malformed_even_under_a_right_check) {
  std::string bytes = encoded({1, 0, 1, ""});
  bytes[6] = 1;
  auto* const at = reinterpret_cast<std::byte*>(bytes.data());
  store_le<std::uint64_t>(at + 16, detail::header_words(at).check(xxh3_64(bytes_view())));
  EXPECT_EQ(decode_frame(as_bytes(bytes), limit).reason, errc::malformed);
}

TEST(frame_codec, a_frame_larger_than_the_buffer_arrives_whole) {
  const std::vector<owned_frame> frames = {
      {1, 0, 1, "small"}, {2, 0, 2, std::string(100'000, 'b')}, {3, 0, 3, "after"}};
  EXPECT_EQ(decoded_in_chunks(encoded(frames), {}), frames);
}

TEST(frame_codec, a_buffer_that_grew_is_given_back_after_a_while) {
  frame_decoder decoder(limit, 4096);
  std::vector<owned_frame> frames;
  feed(decoder, encoded({1, 0, 1, std::string(100'000, 'b')}), frames);
  take_all(decoder, frames);
  EXPECT_GT(decoder.prepare().size(), 4096u);
  for (int i = 0; i < 1000; ++i) {
    feed(decoder, encoded({1, 0, 1, "small"}));
    take_all(decoder, frames);
  }
  EXPECT_EQ(decoder.prepare().size(), 4096u);
  EXPECT_EQ(frames.size(), 1001u);
}

TEST(frame_codec, views_stay_good_until_the_next_preparation) {
  frame_decoder decoder(limit, 4096);
  feed(decoder, encoded(three_frames));
  std::vector<frame_view> views;
  for (frame_view frame; decoder.next(frame) == verdict::ok;) views.push_back(frame);
  ASSERT_EQ(views.size(), three_frames.size());
  for (std::size_t i = 0; i < views.size(); ++i) EXPECT_EQ(owned_frame(views[i]), three_frames[i]);
}

TEST(frame_codec, what_is_left_of_a_cut_stream_can_be_seen) {
  frame_view frame;
  frame_decoder decoder(limit, 4096);
  feed(decoder, encoded({1, 0, 1, "whole"}) + "cut");
  EXPECT_EQ(decoder.next(frame), verdict::ok);
  EXPECT_EQ(decoder.next(frame), verdict::need_more);
  EXPECT_EQ(as_text(decoder.unread()), "cut");
  decoder.discard();
  EXPECT_TRUE(decoder.unread().empty());
}

TEST(frame_codec, what_is_discarded_does_not_touch_the_frames_before_it) {
  frame_view frame;
  frame_decoder decoder(limit, 4096);
  feed(decoder, encoded({1, 0, 1, "kept"}));
  ASSERT_EQ(decoder.next(frame), verdict::ok);
  decoder.discard();
  for (int i = 0; i < 10; ++i) feed(decoder, std::string(1000, '?'));
  EXPECT_TRUE(decoder.unread().empty());
  EXPECT_EQ(as_text(frame.payload), "kept");
}

TEST(frame_codec, a_corrupt_verdict_is_final) {
  frame_view frame;
  frame_decoder decoder(limit, 4096);
  std::string bytes = encoded({1, 0, 1, "abc"});
  bytes.back() = '?';
  feed(decoder, bytes + encoded({2, 0, 2, "good"}));
  for (int i = 0; i < 2; ++i) {
    EXPECT_EQ(decoder.next(frame), verdict::corrupt);
    EXPECT_EQ(decoder.reason(), errc::bad_checksum);
  }
}

}  // namespace
}  // namespace lockstep
