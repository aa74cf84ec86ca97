#include "lockstep/raft/codec.hpp"

#include "log/images.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <limits>
#include <string>
#include <string_view>
#include <vector>

namespace lockstep::raft {
namespace {

using test::byte_vector;
using test::record_run;

constexpr index_t highest = std::numeric_limits<index_t>::max();

std::string hex(bytes_view bytes) {
  std::string text;
  for (const std::byte each : bytes) {
    constexpr std::string_view digits = "0123456789abcdef";
    text += digits[std::to_integer<std::size_t>(each >> 4)];
    text += digits[std::to_integer<std::size_t>(each & std::byte{15})];
  }
  return text;
}

configuration two_members() {
  configuration config;
  config.voters.incoming = {1};
  config.learners = {2};
  config.addresses = {{1, "a:1"}};
  return config;
}

record_batch batch_of(const record_run& run, index_t first) { return {run.bytes, first, run.last.index, nullptr}; }

/// One message of each type that encode_message() takes, with another number in each of its fields.
std::vector<message> one_of_each() {
  static const record_run records = record_run({4, 20, 5}).add("one", 4).add("", 5).add("three", 5);
  const position at{4, 20, 5};
  std::vector<message> all(9);
  for (std::size_t i = 0; i < all.size(); ++i) {
    all[i].type = static_cast<message_type>(i + 1);
    all[i].from = 100 + i;
    all[i].to = 200 + i;
    all[i].term = 300 + i;
  }
  const auto of = [&all](message_type type) -> message& { return all[static_cast<std::size_t>(type) - 1]; };
  of(message_type::vote_request).at = at;
  of(message_type::vote_request).pre = true;
  of(message_type::vote_request).transfer = true;
  of(message_type::vote_response).pre = true;
  of(message_type::vote_response).granted = true;
  of(message_type::append).at = at;
  of(message_type::append).commit = 17;
  of(message_type::append).records = batch_of(records, 21);
  of(message_type::append_response).at = at;
  of(message_type::append_response).index = 19;
  of(message_type::append_response).rejected = true;
  of(message_type::append_response).lost = true;
  of(message_type::heartbeat).commit = 21;
  of(message_type::heartbeat).round = 22;
  of(message_type::heartbeat).quiet = true;
  of(message_type::heartbeat_response).index = highest;
  of(message_type::heartbeat_response).round = 25;
  of(message_type::read_request).round = 23;
  of(message_type::read_response).index = highest;
  of(message_type::read_response).round = 24;
  return all;
}

byte_vector payload_of(const message& of) {
  const encoded_words fixed = encode_message(of);
  byte_vector bytes(fixed.view().begin(), fixed.view().end());
  bytes.insert(bytes.end(), of.records.bytes().begin(), of.records.bytes().end());
  return bytes;
}

frame_view frame_of(message_type type, bytes_view payload) {
  return {static_cast<std::uint8_t>(type), frame_flags_of(type), 7, payload};
}
frame_view frame_of(snapshot_frame kind, bytes_view payload) {
  const bool is_chunk = kind == snapshot_frame::chunk;
  return {static_cast<std::uint8_t>(kind), is_chunk ? snapshot_chunk::frame_flags : frame_flag::none, 7, payload};
}

std::optional<message> decoded(message_type type, bytes_view payload) {
  return decode_message(frame_of(type, payload));
}

std::string text_of(const message& of) {
  std::string text;
  for (const std::uint64_t each :
       {std::uint64_t{static_cast<std::uint8_t>(of.type)}, of.from, of.to, of.term, of.at.epoch, of.at.index,
        of.at.chain, of.commit, of.index, of.round, of.records.first(), of.records.last()}) {
    text += std::to_string(each) + " ";
  }
  for (const bool each : {of.pre, of.transfer, of.granted, of.rejected, of.quiet, of.lost})
    text += each ? "yes " : "no ";
  return text + hex(of.records.bytes());
}

snapshot_offer some_offer() {
  snapshot_offer offer;
  offer.announced.type = message_type::snapshot_offer;
  offer.announced.from = 1;
  offer.announced.to = 2;
  offer.announced.term = 7;
  offer.announced.at = {5, 40, 0xabcdef};
  offer.config = two_members();
  offer.bytes = 1000;
  offer.checksum = 0x1122334455667788;
  return offer;
}

byte_vector payload_of(const snapshot_offer& offer) {
  byte_buffer bytes;
  encode_snapshot_offer(bytes, offer);
  return {bytes.view().begin(), bytes.view().end()};
}

byte_vector joined(bytes_view fixed, std::string_view rest) {
  byte_vector bytes(fixed.begin(), fixed.end());
  bytes.insert(bytes.end(), as_bytes(rest).begin(), as_bytes(rest).end());
  return bytes;
}

/// Every message there is, as a frame.
struct any_frame {
  std::uint8_t kind = 0;
  std::uint8_t flags = 0;
  byte_vector payload;
  std::size_t fixed = 0;  ///< bytes in front of what carries its own checks
};

std::vector<any_frame> every_frame() {
  std::vector<any_frame> all;
  const auto add = [&all](const frame_view& of, std::size_t fixed) {
    all.push_back({of.kind, of.flags, byte_vector(of.payload.begin(), of.payload.end()), fixed});
  };
  const auto add_whole = [&add](const frame_view& of) { add(of, of.payload.size()); };
  for (const message& each : one_of_each()) {
    add(frame_of(each.type, payload_of(each)), encode_message(each).view().size());
  }
  add_whole(frame_of(message_type::snapshot_offer, payload_of(some_offer())));
  add_whole(frame_of(snapshot_frame::accepted, snapshot_accepted{5, 6}.encode().view()));
  const snapshot_chunk chunk{5, 6, {}};
  add(frame_of(snapshot_frame::chunk, joined(chunk.encode().view(), "bytes")), chunk.encode().view().size());
  add_whole(frame_of(snapshot_frame::done, snapshot_done{5}.encode().view()));
  const snapshot_refused refused{5, 6, {}};
  add_whole(frame_of(snapshot_frame::refused, joined(refused.encode().view(), "no room")));
  return all;
}

/// Whether a node would take it for anything.
bool is_understood(const frame_view& frame) {
  return decode_message(frame) || decode_snapshot_offer(frame) || snapshot_accepted::decode(frame) ||
         snapshot_chunk::decode(frame) || snapshot_done::decode(frame) || snapshot_refused::decode(frame);
}

// --- golden bytes: made by a C program that knows the drawing in codec.hpp and xxHash, and nothing of this library ---

TEST(raft_codec_golden, a_pre_vote_request) {
  message of;
  of.type = message_type::vote_request;
  of.from = 2;
  of.to = 3;
  of.term = 7;
  of.at = {6, 41, 0};
  of.pre = true;
  EXPECT_EQ(hex(payload_of(of)),
            "02000000000000000300000000000000070000000000000006000000000000002900000000000000"
            "00000000000000000100000000000000");
}

TEST(raft_codec_golden, an_append_with_the_first_record_of_all) {
  const record_run records = record_run().add("hello");
  message of;
  of.type = message_type::append;
  of.from = 1;
  of.to = 2;
  of.term = 1;
  of.commit = 1;
  of.records = batch_of(records, 1);
  EXPECT_EQ(hex(payload_of(of)),
            "01000000000000000200000000000000010000000000000000000000000000000000000000000000"
            "0000000000000000010000000000000034888fc589fe0417"
            "0500000081be77ec01000000000000000001000000000000c20552773b17a94068656c6c6f000000");
}

TEST(raft_codec_golden, a_rejection) {
  message of;
  of.type = message_type::append_response;
  of.from = 2;
  of.to = 1;
  of.term = 7;
  of.at = {5, 40, 0};
  of.index = 41;
  of.rejected = true;
  EXPECT_EQ(hex(payload_of(of)),
            "02000000000000000100000000000000070000000000000005000000000000002800000000000000"
            "000000000000000029000000000000000800000000000000");
}

TEST(raft_codec_golden, a_snapshot_offer) {
  EXPECT_EQ(hex(payload_of(some_offer())),
            "01000000000000000200000000000000070000000000000005000000000000002800000000000000"
            "efcdab0000000000e8030000000000008877665544332211"
            "010001000100000001000000000000000200000000000000010000000000000003613a31");
}

TEST(raft_codec_golden, a_snapshot_chunk_and_a_refusal) {
  const snapshot_chunk chunk{0x1122334455667788, 4096, {}};
  EXPECT_EQ(hex(chunk.encode().view()), "88776655443322110010000000000000c4ef386e444ec260");
  const snapshot_refused refused{0x1122334455667788, 17, {}};
  EXPECT_EQ(hex(refused.encode().view()), "88776655443322111100000000000000");
}

// --- round trips ----------------------------------------------------------------------------------------------------

TEST(raft_codec, gives_back_each_message_with_all_its_fields) {
  for (const message& each : one_of_each()) {
    const byte_vector payload = payload_of(each);
    const auto found = decoded(each.type, payload);
    ASSERT_TRUE(found) << text_of(each);
    EXPECT_EQ(text_of(*found), text_of(each));
  }
}

TEST(raft_codec, gives_back_each_flag_by_itself) {
  for (const message& each : one_of_each()) {
    for (bool message::*flag :
         {&message::pre, &message::transfer, &message::granted, &message::rejected, &message::quiet, &message::lost}) {
      if (!(each.*flag)) continue;
      message of = each;
      of.pre = of.transfer = of.granted = of.rejected = of.quiet = of.lost = false;
      EXPECT_EQ(text_of(decoded(of.type, payload_of(of)).value()), text_of(of));
      of.*flag = true;
      EXPECT_EQ(text_of(decoded(of.type, payload_of(of)).value()), text_of(of));
    }
  }
}

TEST(raft_codec, gives_back_an_append_without_records) {
  message of = one_of_each()[2];
  of.records = {};
  const auto found = decoded(message_type::append, payload_of(of));
  ASSERT_TRUE(found);
  EXPECT_TRUE(found->records.empty());
  of.at = {};
  EXPECT_TRUE(decoded(message_type::append, payload_of(of))) << "behind the empty history";
}

TEST(raft_codec, records_are_a_view_that_keeps_its_owner) {
  const auto payload = std::make_shared<byte_vector>(payload_of(one_of_each()[2]));
  const std::weak_ptr<byte_vector> watched = payload;
  auto found = decode_message(frame_of(message_type::append, *payload), payload);
  ASSERT_TRUE(found);
  const std::size_t fixed = payload->size() - found->records.bytes().size();
  EXPECT_EQ(found->records.bytes().data(), payload->data() + fixed);
  EXPECT_EQ(watched.use_count(), 2);
  found.reset();
  EXPECT_EQ(watched.use_count(), 1);
}

TEST(raft_codec, gives_back_what_the_snapshot_stream_says) {
  const byte_vector payload = payload_of(some_offer());
  const auto offer = decode_snapshot_offer(frame_of(message_type::snapshot_offer, payload));
  ASSERT_TRUE(offer);
  EXPECT_EQ(text_of(offer->announced), text_of(some_offer().announced));
  EXPECT_EQ(offer->config, two_members());
  EXPECT_EQ(offer->bytes, 1000u);
  EXPECT_EQ(offer->checksum, 0x1122334455667788u);

  const encoded_words accepted = snapshot_accepted{5, 6}.encode();
  const auto found_accepted = snapshot_accepted::decode(frame_of(snapshot_frame::accepted, accepted.view()));
  ASSERT_TRUE(found_accepted);
  EXPECT_EQ(found_accepted->checksum, 5u);
  EXPECT_EQ(found_accepted->offset, 6u);

  const byte_vector chunk = joined(snapshot_chunk{5, 6, {}}.encode().view(), "bytes");
  const auto found_chunk = snapshot_chunk::decode(frame_of(snapshot_frame::chunk, chunk));
  ASSERT_TRUE(found_chunk);
  EXPECT_EQ(found_chunk->checksum, 5u);
  EXPECT_EQ(found_chunk->offset, 6u);
  EXPECT_EQ(as_text(found_chunk->bytes), "bytes");

  const encoded_words done = snapshot_done{5}.encode();
  const auto found_done = snapshot_done::decode(frame_of(snapshot_frame::done, done.view()));
  ASSERT_TRUE(found_done);
  EXPECT_EQ(found_done->checksum, 5u);

  const byte_vector refused = joined(snapshot_refused{5, 6, {}}.encode().view(), "no room");
  const auto found_refused = snapshot_refused::decode(frame_of(snapshot_frame::refused, refused));
  ASSERT_TRUE(found_refused);
  EXPECT_EQ(found_refused->checksum, 5u);
  EXPECT_EQ(found_refused->code, 6u);
  EXPECT_EQ(found_refused->why, "no room");
}

// --- what no node says ----------------------------------------------------------------------------------------------

TEST(raft_codec, refuses_each_frame_cut_within_its_fixed_part_and_with_a_byte_behind_it) {
  for (const any_frame& each : every_frame()) {
    SCOPED_TRACE("kind " + std::to_string(each.kind));
    const frame_view whole{each.kind, each.flags, 7, each.payload};
    ASSERT_TRUE(is_understood(whole));
    const bool ends_with_text = each.kind == static_cast<std::uint8_t>(snapshot_frame::refused);
    const std::size_t fixed = ends_with_text ? 16 : each.fixed;
    // An offer's configuration is as long as the frame says: without its last address it is another one.
    const bool is_offer = each.kind == static_cast<std::uint8_t>(message_type::snapshot_offer);
    const std::size_t without_address = fixed - sizeof(node_id) - 1 - two_members().addresses.at(1).size();
    for (std::size_t size = 0; size < fixed; ++size) {
      if (is_offer && size == without_address) continue;
      const frame_view cut{each.kind, each.flags, 7, whole.payload.first(size)};
      ASSERT_FALSE(is_understood(cut)) << size;
    }
    const bool ends_with_bytes = each.kind == static_cast<std::uint8_t>(snapshot_frame::chunk);
    if (ends_with_text || ends_with_bytes) continue;
    byte_vector longer = each.payload;
    longer.push_back(std::byte{0});
    const frame_view with_more{each.kind, each.flags, 7, longer};
    EXPECT_FALSE(is_understood(with_more));
  }
}

TEST(raft_codec, refuses_an_append_whose_last_record_is_cut) {
  const byte_vector payload = payload_of(one_of_each()[2]);
  const std::size_t fixed = encode_message(one_of_each()[2]).view().size();
  std::size_t taken = 0;
  for (std::size_t size = fixed; size < payload.size(); ++size) {
    if (decoded(message_type::append, bytes_view(payload).first(size))) ++taken;
  }
  EXPECT_EQ(taken, 3u) << "without records, and with one and two of the three";
}

TEST(raft_codec, refuses_an_empty_chunk) {
  const snapshot_chunk chunk{5, 6, {}};
  EXPECT_FALSE(snapshot_chunk::decode(frame_of(snapshot_frame::chunk, chunk.encode().view())));
}

TEST(raft_codec, no_flipped_bit_of_a_frame_but_in_what_is_checked_later_is_taken) {
  for (const any_frame& each : every_frame()) {
    byte_vector bytes(frame_header_bytes);
    encode_frame_header(bytes.data(), {each.kind, each.flags, 7}, each.payload.size(), xxh3_64(each.payload));
    bytes.insert(bytes.end(), each.payload.begin(), each.payload.end());
    for (std::size_t at = 0; at < frame_header_bytes + each.fixed; ++at) {
      for (unsigned bit = 0; bit < 8; ++bit) {
        bytes[at] ^= std::byte(1u << bit);
        const decoded_frame found = decode_frame(bytes, bytes.size());
        ASSERT_FALSE(found.is == verdict::ok && is_understood(found.frame))
            << "kind " << int{each.kind} << " byte " << at << " bit " << bit;
        bytes[at] ^= std::byte(1u << bit);
      }
    }
  }
}

TEST(raft_codec, no_flipped_bit_of_a_records_length_check_index_epoch_or_kind_is_taken) {
  const message of = one_of_each()[2];
  byte_vector payload = payload_of(of);
  std::size_t begin = encode_message(of).view().size();
  for (const record each : of.records) {
    for (std::size_t at = begin; at < begin + 24; ++at) {
      for (unsigned bit = 0; bit < 8; ++bit) {
        payload[at] ^= std::byte(1u << bit);
        ASSERT_FALSE(decoded(message_type::append, payload)) << "record " << each.index << " byte " << at - begin;
        payload[at] ^= std::byte(1u << bit);
      }
    }
    begin += log_format::record_bytes(each.payload.size());
  }
  EXPECT_EQ(begin, payload.size());
}

TEST(raft_codec, refuses_frames_of_other_kinds_and_those_whose_payload_nobody_has_checked) {
  for (const any_frame& each : every_frame()) {
    for (unsigned kind = 0; kind < 256; ++kind) {
      const frame_view other{static_cast<std::uint8_t>(kind), each.flags, 7, each.payload};
      if (kind == each.kind || !is_understood(other)) continue;
      // Of the same size and fields.
      EXPECT_EQ(other.payload.size(), each.payload.size()) << kind << " for " << int{each.kind};
    }
    const auto swapped = static_cast<std::uint8_t>(each.flags ^ frame_flag::self_checked);
    const frame_view unchecked{each.kind, swapped, 7, each.payload};
    EXPECT_FALSE(is_understood(unchecked)) << int{each.kind};
    const auto flagged = static_cast<std::uint8_t>(each.flags | 0x40);
    const frame_view with_users_flag{each.kind, flagged, 7, each.payload};
    EXPECT_TRUE(is_understood(with_users_flag)) << int{each.kind};
  }
  const byte_vector nothing;
  for (const unsigned kind : {0u, 11u, 31u, 36u, 255u}) {
    const frame_view unknown{static_cast<std::uint8_t>(kind), 0, 7, nothing};
    EXPECT_FALSE(is_understood(unknown)) << kind;
  }
}

TEST(raft_codec, refuses_flags_that_a_type_does_not_have) {
  for (const message& each : one_of_each()) {
    const auto has = detail::fields_of(each.type);
    if (has->flags == 0) continue;
    byte_vector payload = payload_of(each);
    std::byte* const flags = payload.data() + payload.size() - sizeof(std::uint64_t);
    for (unsigned bit = 0; bit < 64; ++bit) {
      store_le(flags, std::uint64_t{1} << bit);
      EXPECT_EQ(decoded(each.type, payload).has_value(), (has->flags >> bit & 1) != 0) << bit;
    }
  }
}

TEST(raft_codec, refuses_what_no_node_can_mean) {
  const struct {
    std::string_view what;
    void (*change)(message&);
    bool has_records = false;
  } table[] = {
      {"from nobody", [](message& of) { of.from = 0; }},
      {"to nobody", [](message& of) { of.to = 0; }},
      {"a term that no record can have", [](message& of) { of.term = max_epoch + 1; }},
      {"a record of a later term", [](message& of) { of.at.epoch = of.term + 1; }},
      {"the empty history with a term",
       [](message& of) {
         of.at = {1, 0, 0};
       }},
      {"the empty history with a chain",
       [](message& of) {
         of.at = {0, 0, 1};
       }},
      {"records that do not follow", [](message& of) { of.at.index -= 1; }, true},
      {"records behind the last index of all", [](message& of) { of.at.index = highest; }, true},
  };
  for (const auto& each : table) {
    message of = one_of_each()[each.has_records ? 2 : 0];
    ASSERT_TRUE(decoded(of.type, payload_of(of)));
    each.change(of);
    EXPECT_FALSE(decoded(of.type, payload_of(of))) << each.what;
  }
  message last_term = one_of_each()[2];
  last_term.term = max_epoch;
  EXPECT_TRUE(decoded(message_type::append, payload_of(last_term)));
  last_term.term = last_term.at.epoch;
  EXPECT_TRUE(decoded(message_type::append, payload_of(last_term)));
}

TEST(raft_codec, refuses_offers_of_nothing_and_with_a_configuration_that_is_none) {
  snapshot_offer offer = some_offer();
  offer.announced.at = {};
  EXPECT_FALSE(decode_snapshot_offer(frame_of(message_type::snapshot_offer, payload_of(offer))));
  byte_vector payload = payload_of(some_offer());
  payload[8 * 8] = std::byte{2};  // a version that nobody knows
  EXPECT_FALSE(decode_snapshot_offer(frame_of(message_type::snapshot_offer, payload)));
}

}  // namespace
}  // namespace lockstep::raft
