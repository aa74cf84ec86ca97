#include "lockstep/frame/detail/send_queue.hpp"

#include <gtest/gtest.h>

#include <array>
#include <list>
#include <random>
#include <string>
#include <vector>

namespace lockstep::detail {
namespace {

using reference = send_queue::reference;

struct sender {
  std::string text;
  std::array<bytes_view, 3> parts;
  reference frame;
  bool withdrawn = false;
  bool done = false;
};

/// A queue, and what a peer would have received from it.
class scene {
 public:
  void copy(const std::string& payload) {
    const bytes_view part = as_bytes(payload);
    queue.copy_frame({1, 0, next_id_++}, std::span(&part, 1), payload.size());
    expected.push_back(payload);
  }

  /// The payload goes in three parts, one of them empty.
  sender& refer(const std::string& payload) {
    sender& added = senders.emplace_back();
    added.text = payload;
    const bytes_view all = as_bytes(added.text);
    added.parts = {all.first(all.size() / 2), bytes_view(), all.subspan(all.size() / 2)};
    encode_frame_header(added.frame.header.data(), {1, 0, next_id_++}, payload.size(), xxh3_64(all));
    added.frame.parts = added.parts;
    added.frame.bytes = added.frame.bytes_in_all = frame_header_bytes + payload.size();
    queue.push(added.frame);
    return added;
  }

  auto finished() {
    return [this](reference& of) {
      for (sender& each : senders) {
        if (&each.frame == &of) each.done = true;
      }
    };
  }

  /// Hands over up to `most` bytes, as a stream that takes them now.
  void write_now(std::size_t most) {
    std::array<bytes_view, 5> pieces;
    std::size_t total = 0;
    const std::size_t count = queue.gather(pieces, total);
    std::size_t taken = 0;
    for (std::size_t i = 0; i < count; ++i) {
      const bytes_view piece = pieces[i].first(std::min(pieces[i].size(), most - taken));
      wire += as_text(piece);
      taken += piece.size();
    }
    queue.sent(taken, finished());
  }

  /// Hands over up to `most` bytes, as a stream that takes its time while `meanwhile` happens.
  template <class Meanwhile>
  void write_later(std::size_t most, Meanwhile meanwhile) {
    const bytes_view pinned = queue.pin(10);
    const std::string copy(as_text(pinned));
    meanwhile();
    ASSERT_EQ(as_text(pinned), copy) << "pinned bytes moved";
    const std::size_t taken = std::min(pinned.size(), most);
    wire += as_text(pinned.first(taken));
    queue.sent(taken, finished());
  }

  std::vector<std::string> received() const {
    std::vector<std::string> payloads;
    bytes_view rest = as_bytes(wire);
    for (auto found = decode_frame(rest, 1 << 20); found.is == verdict::ok; found = decode_frame(rest, 1 << 20)) {
      payloads.emplace_back(as_text(found.frame.payload));
      rest = rest.subspan(found.bytes);
    }
    EXPECT_TRUE(rest.empty()) << rest.size() << " bytes are no frame";
    return payloads;
  }

  send_queue queue;
  std::list<sender> senders;
  std::vector<std::string> expected;
  std::string wire;

 private:
  std::uint64_t next_id_ = 1;
};

TEST(frame_send_queue, references_follow_what_was_copied) {
  scene s;
  s.copy("first");
  sender& second = s.refer("second");
  sender& third = s.refer("third");
  s.write_now(1 << 20);
  EXPECT_TRUE(second.done);
  EXPECT_FALSE(third.done) << "five pieces end inside it";
  s.write_now(1 << 20);
  EXPECT_TRUE(third.done);
  EXPECT_TRUE(s.queue.empty());
  EXPECT_EQ(s.received(), (std::vector<std::string>{"first", "second", "third"}));
}

TEST(frame_send_queue, a_mark_is_finished_by_what_stands_before_it) {
  scene s;
  s.copy("before");
  reference mark;
  mark.header_sent = frame_header_bytes;
  s.queue.push(mark);
  bool reached = false;
  const auto done = [&](reference& of) { reached = &of == &mark; };
  s.queue.sent(10, done);
  EXPECT_FALSE(reached);
  s.queue.sent(frame_header_bytes + 6 - 10, done);
  EXPECT_TRUE(reached);
  EXPECT_FALSE(mark.queued);
}

TEST(frame_send_queue, a_mark_on_an_empty_queue_is_finished_at_once) {
  send_queue queue;
  reference mark;
  mark.header_sent = frame_header_bytes;
  queue.push(mark);
  bool reached = false;
  queue.sent(0, [&](reference&) { reached = true; });
  EXPECT_TRUE(reached);
}

TEST(frame_send_queue, a_frame_that_has_not_begun_to_leave_is_withdrawn_without_a_trace) {
  scene s;
  s.copy("before");
  sender& gone = s.refer("gone");
  s.refer("after");
  s.queue.withdraw(gone.frame);
  while (!s.queue.empty()) s.write_now(7);
  EXPECT_EQ(s.received(), (std::vector<std::string>{"before", "after"}));
}

TEST(frame_send_queue, a_frame_that_has_begun_to_leave_is_sent_whole_from_a_copy) {
  for (std::size_t begun = 1; begun < frame_header_bytes + 10; ++begun) {
    scene s;
    sender& gone = s.refer("ten bytes.");
    s.refer("after");
    s.write_now(begun);
    s.queue.withdraw(gone.frame);
    gone.text.assign(10, '#');
    while (!s.queue.empty()) s.write_now(7);
    ASSERT_EQ(s.received(), (std::vector<std::string>{"ten bytes.", "after"})) << begun;
  }
}

TEST(frame_send_queue, waiting_frames_are_copied_while_there_is_room) {
  scene s;
  sender& small = s.refer("small");
  sender& large = s.refer(std::string(100, 'l'));
  sender& last = s.refer("last");
  s.queue.copy_references(50, 1000, s.finished());
  EXPECT_TRUE(small.done);
  EXPECT_FALSE(large.done);
  EXPECT_FALSE(last.done) << "it must not overtake";
  EXPECT_EQ(s.queue.owned_bytes(), frame_header_bytes + 5);
  s.queue.copy_references(1000, frame_header_bytes + 5 + 10, s.finished());
  EXPECT_FALSE(large.done) << "beyond the limit";
  while (!s.queue.empty()) s.write_now(1 << 20);
  EXPECT_EQ(s.received(), (std::vector<std::string>{"small", std::string(100, 'l'), "last"}));
}

TEST(frame_send_queue, any_history_gives_whole_frames_in_order) {
  for (unsigned seed = 0; seed < 500; ++seed) {
    std::mt19937 random(seed);
    const auto below = [&random](std::size_t end) {
      return std::uniform_int_distribution<std::size_t>(0, end - 1)(random);
    };
    scene s;
    std::size_t number = 0;
    const auto add = [&] {
      const std::string payload = std::to_string(number++) + std::string(below(40), '.');
      if (s.queue.has_references() || below(2) == 0) {
        s.refer(payload);
      } else {
        s.copy(payload);
        s.refer(std::to_string(number++));
      }
    };
    const auto withdraw_one = [&] {
      for (sender& each : s.senders) {
        if (!each.frame.queued || below(3) != 0) continue;
        const bool begun = each.frame.bytes != each.frame.bytes_in_all;
        s.queue.withdraw(each.frame);
        each.withdrawn = !begun;
        each.text.assign(each.text.size(), '#');
        return;
      }
    };
    for (int step = 0; step < 60; ++step) {
      switch (below(6)) {
        case 0:
        case 1: add(); break;
        case 2: s.write_now(below(60)); break;
        case 3:
          if (!s.queue.empty()) {
            s.write_later(1 + below(30), [&] {
              if (below(3) == 0) withdraw_one();
              if (below(3) == 0) add();
            });
          }
          break;
        case 4: withdraw_one(); break;
        default: s.queue.copy_references(30, 100, s.finished()); break;
      }
    }
    while (!s.queue.empty()) s.write_now(50);

    std::vector<std::string> numbers;
    for (const std::string& each : s.received()) numbers.push_back(each.substr(0, each.find('.')));
    std::vector<std::string> all;
    for (std::size_t i = 0; i < number; ++i) all.push_back(std::to_string(i));
    std::size_t withdrawn = 0;
    for (const sender& each : s.senders) withdrawn += each.withdrawn;
    EXPECT_EQ(numbers.size() + withdrawn, all.size()) << "seed " << seed;
    std::size_t at = 0;
    for (const std::string& each : numbers) {
      while (at < all.size() && all[at] != each) ++at;
      ASSERT_LT(at, all.size()) << each << " came out of order, seed " << seed;
      ++at;
    }
    for (sender& each : s.senders) s.queue.withdraw(each.frame);
  }
}

}  // namespace
}  // namespace lockstep::detail
