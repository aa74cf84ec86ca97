#include "lockstep/core/detail/held_handler.hpp"

#include <gtest/gtest.h>

#include <array>
#include <cstdint>
#include <memory>
#include <stdexcept>
#include <utility>

namespace lockstep::detail {
namespace {

// A move-only handler of at least `Size` bytes that counts its runs and its lives.
template <std::size_t Size>
class handler {
 public:
  struct counts {
    int runs = 0;
    int alive = 0;
  };
  explicit handler(counts& to) : counts_(&to) { ++counts_->alive; }
  handler(handler&& other) noexcept : counts_(other.counts_) { ++counts_->alive; }
  handler& operator=(handler&&) = delete;
  ~handler() { --counts_->alive; }
  void operator()() && { ++counts_->runs; }

 private:
  counts* counts_;
  [[maybe_unused]] std::array<char, Size> ballast_{};
};

template <class Handler>
class held_handlers : public testing::Test {};
using sizes = testing::Types<handler<1>, handler<56>, handler<57>, handler<1000>>;
TYPED_TEST_SUITE(held_handlers, sizes);

TYPED_TEST(held_handlers, runs_once_and_is_gone) {
  typename TypeParam::counts counts;
  held_handler held;
  held.hold(TypeParam(counts));
  EXPECT_EQ(counts.alive, 1);
  EXPECT_EQ(counts.runs, 0);
  held.finish(true);
  EXPECT_EQ(counts.runs, 1);
  EXPECT_EQ(counts.alive, 0);
}

TYPED_TEST(held_handlers, is_destroyed_without_having_run) {
  typename TypeParam::counts counts;
  held_handler held;
  held.hold(TypeParam(counts));
  held.finish(false);
  EXPECT_EQ(counts.runs, 0);
  EXPECT_EQ(counts.alive, 0);
}

TYPED_TEST(held_handlers, can_hold_again_after_it_has_finished) {
  typename TypeParam::counts counts;
  held_handler held;
  for (int i = 0; i < 3; ++i) {
    held.hold(TypeParam(counts));
    held.finish(true);
  }
  EXPECT_EQ(counts.runs, 3);
  EXPECT_EQ(counts.alive, 0);
}

// A handler owns the coroutine's frame in which its held_handler lies.
template <std::size_t Size>
struct owner {
  std::unique_ptr<held_handler>* frame;
  bool* ran;
  std::array<char, Size> ballast{};
  void operator()() && {
    frame->reset();
    *ran = true;
  }
};

TEST(held_handler, may_be_destroyed_by_the_handler_that_it_runs) {
  bool ran_small = false;
  auto small = std::make_unique<held_handler>();
  small->hold(owner<1>{&small, &ran_small});
  small->finish(true);
  EXPECT_TRUE(ran_small);
  EXPECT_EQ(small, nullptr);

  bool ran_large = false;
  auto large = std::make_unique<held_handler>();
  large->hold(owner<500>{&large, &ran_large});
  large->finish(true);
  EXPECT_TRUE(ran_large);
  EXPECT_EQ(large, nullptr);
}

TEST(held_handler, may_be_destroyed_by_the_destruction_of_the_handler_that_it_drops) {
  auto frame = std::make_unique<held_handler>();
  held_handler* const at = frame.get();
  struct ends_frame {
    std::unique_ptr<held_handler> frame;
    void operator()() {}
  };
  at->hold(ends_frame{std::move(frame)});
  at->finish(false);
}

TEST(held_handler, a_handler_may_hold_the_next_one_in_the_same_place) {
  held_handler held;
  int second_runs = 0;
  held.hold([&held, &second_runs] { held.hold([&second_runs] { ++second_runs; }); });
  held.finish(true);
  EXPECT_EQ(second_runs, 0);
  held.finish(true);
  EXPECT_EQ(second_runs, 1);
}

TEST(held_handler, an_exception_passes_through_and_leaves_nothing_behind) {
  handler<1>::counts counts;
  held_handler held;
  held.hold([kept = handler<1>(counts)]() { throw std::runtime_error("from the handler"); });
  EXPECT_THROW(held.finish(true), std::runtime_error);
  EXPECT_EQ(counts.alive, 0);
}

// Notes whether it ever stood at an address that its type forbids.
struct alignas(64) overaligned {
  explicit overaligned(bool& to) : misaligned(&to) { look(); }
  overaligned(overaligned&& other) noexcept : misaligned(other.misaligned) { look(); }
  void look() const {
    const void* volatile here = this;  // the compiler may take for granted what is looked at
    if (reinterpret_cast<std::uintptr_t>(here) % 64 != 0) *misaligned = true;
  }
  void operator()() const {}
  bool* misaligned;
};

TEST(held_handler, a_handler_of_large_alignment_is_aligned) {
  bool misaligned = false;
  std::array<held_handler, 4> held;  // at different distances from a multiple of 64
  for (held_handler& each : held) each.hold(overaligned(misaligned));
  for (held_handler& each : held) each.finish(true);
  EXPECT_FALSE(misaligned);
}

}  // namespace
}  // namespace lockstep::detail
