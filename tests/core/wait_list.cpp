#include "lockstep/core/wait_list.hpp"

#include "support/run.hpp"

#include <gtest/gtest.h>
#include <asio/io_context.hpp>

#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

namespace lockstep {
namespace {

using test::poll;
using test::start;
using test::started;
using numbers = std::vector<int>;

// Sets its flag when the coroutine frame in which it lies is destroyed.
class frame_mark {
 public:
  explicit frame_mark(int& destroyed) : destroyed_(destroyed) {}
  frame_mark(const frame_mark&) = delete;
  frame_mark& operator=(const frame_mark&) = delete;
  ~frame_mark() { ++destroyed_; }

 private:
  int& destroyed_;
};

awaitable<std::error_code> wait(wait_list& list) { co_return co_await list.wait(); }

awaitable<void> wait_and_note(wait_list& list, int id, numbers& woken) {
  (void)co_await list.wait();
  woken.push_back(id);
}

awaitable<void> wait_in_marked_frame(wait_list& list, int& destroyed) {
  const frame_mark mark(destroyed);
  (void)co_await list.wait();
}

awaitable<void> wait_repeatedly(wait_list& list, int times, int id, numbers& woken) {
  for (int i = 0; i < times; ++i) {
    (void)co_await list.wait();
    woken.push_back(id);
  }
}

struct wait_list_test : testing::Test {
  asio::io_context io;
  wait_list list{io.get_executor()};
  numbers woken;

  void start_waiters(int count) {
    for (int id = 1; id <= count; ++id) start(io, wait_and_note(list, id, woken));
    poll(io);
  }
};

struct waiting : wait_list_test {};

TEST_F(waiting, woken_in_the_order_of_waiting) {
  start_waiters(5);
  list.notify_all();
  poll(io);
  EXPECT_EQ(woken, (numbers{1, 2, 3, 4, 5}));
}

TEST_F(waiting, notify_one_wakes_the_longest_waiting) {
  start_waiters(3);
  EXPECT_TRUE(list.notify_one());
  poll(io);
  EXPECT_EQ(woken, numbers{1});
  EXPECT_TRUE(list.notify_one());
  EXPECT_TRUE(list.notify_one());
  poll(io);
  EXPECT_EQ(woken, (numbers{1, 2, 3}));
  EXPECT_FALSE(list.notify_one());
}

TEST_F(waiting, notifying_an_empty_list_is_not_remembered) {
  EXPECT_TRUE(list.empty());
  EXPECT_FALSE(list.notify_one());
  list.notify_all();
  start_waiters(1);
  EXPECT_FALSE(list.empty());
  poll(io);
  EXPECT_TRUE(woken.empty());
  list.notify_all();
  poll(io);
  EXPECT_EQ(woken, numbers{1});
}

TEST_F(waiting, nobody_resumes_inside_the_call_that_notifies) {
  start_waiters(2);
  list.notify_all();
  EXPECT_TRUE(list.empty());
  EXPECT_TRUE(woken.empty());
  poll(io);
  EXPECT_EQ(woken.size(), 2u);
}

TEST_F(waiting, who_comes_after_the_notification_waits_for_the_next) {
  start_waiters(1);
  list.notify_all();
  start(io, wait_and_note(list, 2, woken));
  poll(io);
  EXPECT_EQ(woken, numbers{1});
  list.notify_all();
  poll(io);
  EXPECT_EQ(woken, (numbers{1, 2}));
}

TEST_F(waiting, everybody_gets_the_code_given_to_notify) {
  auto first = start(io, wait(list));
  auto second = start(io, wait(list));
  poll(io);
  list.notify_one(make_error_code(std::errc::io_error));
  list.notify_one();
  poll(io);
  EXPECT_EQ(first.result(), std::errc::io_error);
  EXPECT_EQ(second.result(), std::error_code());
}

TEST_F(waiting, a_woken_coroutine_that_waits_again_is_woken_by_the_next_notification_only) {
  start(io, wait_repeatedly(list, 3, 1, woken));
  start(io, wait_repeatedly(list, 3, 2, woken));
  poll(io);
  for (int round = 1; round <= 3; ++round) {
    list.notify_all();
    poll(io);
    EXPECT_EQ(woken.size(), static_cast<std::size_t>(2 * round));
  }
  EXPECT_EQ(woken, (numbers{1, 2, 1, 2, 1, 2}));
  EXPECT_TRUE(list.empty());
}

awaitable<void> pass_on(wait_list& list, int id, numbers& woken) {
  (void)co_await list.wait();
  woken.push_back(id);
  list.notify_one();
}

TEST_F(waiting, a_woken_coroutine_may_notify) {
  for (int id = 1; id <= 4; ++id) start(io, pass_on(list, id, woken));
  poll(io);
  list.notify_one();
  poll(io);
  EXPECT_EQ(woken, (numbers{1, 2, 3, 4}));
}

awaitable<void> wait_at_places(wait_list& list, std::vector<std::error_code>& results) {
  for (int i = 0; i < 2; ++i) {
    wait_list::place here;
    co_await list.wait_at(here);
    results.push_back(here.result());
  }
}

TEST_F(waiting, a_wait_at_a_place_of_the_callers_is_a_wait) {
  std::vector<std::error_code> results;
  auto waiter = start(io, wait_at_places(list, results));
  start(io, wait_and_note(list, 2, woken));
  poll(io);
  EXPECT_TRUE(list.notify_one(make_error_code(std::errc::io_error)));
  poll(io);
  EXPECT_EQ(results.size(), 1u);
  EXPECT_EQ(results.at(0), std::errc::io_error);
  EXPECT_TRUE(woken.empty());
  waiter.cancel();
  poll(io);
  EXPECT_EQ(results.at(1), asio::error::operation_aborted);
  EXPECT_TRUE(waiter.done());
}

/// Waits until its number is reached; may end at once.
struct numbered_wait {
  std::uint64_t number = 0;
  std::optional<std::error_code> at_once{};

  std::optional<std::error_code> begin() { return at_once; }
  std::exception_ptr end(std::error_code ec) {
    return ec ? std::make_exception_ptr(std::system_error(ec, "wait " + std::to_string(number))) : nullptr;
  }
};

TEST_F(waiting, numbered_waits_end_when_their_number_is_reached) {
  auto third = start(io, list.wait_as(numbered_wait{3}));
  auto first = start(io, list.wait_as(numbered_wait{1}));
  auto second = start(io, list.wait_as(numbered_wait{2}));
  poll(io);
  list.notify_up_to(0);
  poll(io);
  EXPECT_FALSE(first.done());
  list.notify_up_to(2);
  EXPECT_FALSE(first.done()) << "never inside the call that notifies";
  poll(io);
  EXPECT_TRUE(first.done() && second.done());
  EXPECT_FALSE(third.done());
  list.notify_all(make_error_code(std::errc::io_error));
  poll(io);
  EXPECT_EQ(third.error(), std::errc::io_error);
  EXPECT_TRUE(list.empty());
}

TEST_F(waiting, a_wait_may_end_when_it_begins) {
  auto good = start(io, list.wait_as(numbered_wait{5, std::error_code()}));
  auto bad = start(io, list.wait_as(numbered_wait{6, make_error_code(std::errc::io_error)}));
  poll(io);
  EXPECT_TRUE(good.done());
  EXPECT_FALSE(good.failed());
  EXPECT_EQ(bad.error(), std::errc::io_error);
  EXPECT_TRUE(list.empty());
}

TEST_F(waiting, a_numbered_wait_can_be_cancelled_and_says_what_it_waited_for) {
  auto waiter = start(io, list.wait_as(numbered_wait{7}));
  auto other = start(io, list.wait_as(numbered_wait{7}));
  poll(io);
  waiter.cancel();
  poll(io);
  EXPECT_EQ(waiter.error(), asio::error::operation_aborted);
  try {
    waiter.result();
  } catch (const std::system_error& error) {
    EXPECT_NE(std::string(error.what()).find("wait 7"), std::string::npos);
  }
  EXPECT_FALSE(other.done());
  list.notify_up_to(7);
  poll(io);
  EXPECT_FALSE(other.failed());
  EXPECT_TRUE(other.done());
}

TEST_F(waiting, a_list_that_ends_ends_the_frames_of_numbered_waits) {
  struct marked : numbered_wait {
    std::unique_ptr<frame_mark> mark;
  };
  int destroyed = 0;
  {
    wait_list ending(io.get_executor());
    start(io, ending.wait_as(marked{{1}, std::make_unique<frame_mark>(destroyed)}));
    poll(io);
    EXPECT_EQ(destroyed, 0);
  }
  poll(io);
  EXPECT_EQ(destroyed, 1);
}

// --- cancellation ---

TEST_F(waiting, a_cancelled_wait_ends_with_operation_aborted_and_leaves_the_list) {
  auto waiter = start(io, wait(list));
  poll(io);
  waiter.cancel();
  EXPECT_TRUE(list.empty());
  EXPECT_FALSE(waiter.done());
  poll(io);
  EXPECT_EQ(waiter.result(), asio::error::operation_aborted);
}

TEST_F(waiting, cancelling_one_leaves_the_others_in_order) {
  auto first = start(io, wait_and_note(list, 1, woken));
  auto second = start(io, wait_and_note(list, 2, woken));
  auto third = start(io, wait_and_note(list, 3, woken));
  poll(io);
  second.cancel();
  poll(io);
  EXPECT_EQ(woken, numbers{2});
  list.notify_all();
  poll(io);
  EXPECT_EQ(woken, (numbers{2, 1, 3}));
}

TEST_F(waiting, first_and_last_can_be_cancelled) {
  auto first = start(io, wait_and_note(list, 1, woken));
  start(io, wait_and_note(list, 2, woken));
  auto last = start(io, wait_and_note(list, 3, woken));
  poll(io);
  first.cancel();
  last.cancel();
  poll(io);
  start(io, wait_and_note(list, 4, woken));
  poll(io);
  list.notify_one();
  list.notify_one();
  poll(io);
  EXPECT_EQ(woken, (numbers{1, 3, 2, 4}));
}

TEST_F(waiting, a_cancellation_after_the_notification_does_not_take_it_back) {
  auto waiter = start(io, wait(list));
  poll(io);
  list.notify_all();
  waiter.cancel();
  poll(io);
  EXPECT_EQ(waiter.result(), std::error_code());
}

TEST_F(waiting, a_notification_after_the_cancellation_goes_to_the_next) {
  auto cancelled = start(io, wait(list));
  auto next = start(io, wait(list));
  poll(io);
  cancelled.cancel();
  EXPECT_TRUE(list.notify_one());
  EXPECT_FALSE(list.notify_one());
  poll(io);
  EXPECT_EQ(cancelled.result(), asio::error::operation_aborted);
  EXPECT_EQ(next.result(), std::error_code());
}

TEST_F(waiting, cancelling_twice_is_cancelling_once) {
  auto waiter = start(io, wait(list));
  poll(io);
  waiter.cancel();
  waiter.cancel();
  poll(io);
  waiter.cancel();
  EXPECT_EQ(waiter.result(), asio::error::operation_aborted);
}

TEST_F(waiting, cancelled_waits_resume_in_a_batch_of_their_own) {
  auto waiter = start(io, wait_and_note(list, 1, woken));
  poll(io);
  waiter.cancel();
  EXPECT_TRUE(woken.empty());
  poll(io);
  EXPECT_EQ(woken, numbers{1});
}

awaitable<void> cancel_and_note(wait_list& list, started<void>& other, int id, numbers& woken) {
  (void)co_await list.wait();
  woken.push_back(id);
  other.cancel();
}

TEST_F(waiting, a_woken_coroutine_may_cancel_one_that_was_woken_with_it) {
  started<void> second;
  start(io, cancel_and_note(list, second, 1, woken));
  second = start(io, wait_and_note(list, 2, woken));
  poll(io);
  list.notify_all();
  poll(io);
  EXPECT_EQ(woken, (numbers{1, 2}));
}

awaitable<std::vector<std::error_code>> wait_after_reset(wait_list& list) {
  std::vector<std::error_code> results;
  results.push_back(co_await list.wait());
  co_await this_coro::reset_cancellation_state(asio::enable_terminal_cancellation());
  results.push_back(co_await list.wait());
  co_return results;
}

TEST_F(waiting, a_coroutine_may_wait_again_after_its_cancellation_was_reset) {
  auto waiter = start(io, wait_after_reset(list));
  poll(io);
  waiter.cancel();
  poll(io);
  EXPECT_FALSE(list.empty());
  list.notify_all();
  poll(io);
  const auto results = waiter.result();
  EXPECT_EQ(results.at(0), asio::error::operation_aborted);
  EXPECT_EQ(results.at(1), std::error_code());
}

TEST_F(waiting, a_second_cancellation_ends_the_second_wait) {
  auto waiter = start(io, wait_after_reset(list));
  poll(io);
  waiter.cancel();
  poll(io);
  waiter.cancel();
  poll(io);
  const auto results = waiter.result();
  EXPECT_EQ(results.at(1), asio::error::operation_aborted);
}

awaitable<std::error_code> wait_deaf(wait_list& list) { co_return co_await list.wait_uncancellable(); }

TEST_F(waiting, an_uncancellable_wait_ends_by_notification_only) {
  auto waiter = start(io, wait_deaf(list));
  poll(io);
  waiter.cancel();
  poll(io);
  EXPECT_FALSE(waiter.done());
  EXPECT_FALSE(list.empty());
  list.notify_all();
  poll(io);
  EXPECT_EQ(waiter.result(), std::error_code());
}

// --- exceptions ---

awaitable<void> wait_and_throw(wait_list& list) {
  (void)co_await list.wait();
  throw std::runtime_error("after the wait");
}

TEST_F(waiting, an_exception_in_a_woken_coroutine_is_its_own) {
  start(io, wait_and_note(list, 1, woken));
  auto throwing = start(io, wait_and_throw(list));
  start(io, wait_and_note(list, 3, woken));
  poll(io);
  list.notify_all();
  poll(io);
  EXPECT_EQ(woken, (numbers{1, 3}));
  EXPECT_THROW(throwing.result(), std::runtime_error);
}

TEST_F(waiting, an_exception_that_leaves_io_run_loses_nobody_else) {
  start(io, wait_and_note(list, 1, woken));
  asio::co_spawn(io, wait_and_throw(list), [](std::exception_ptr thrown) {
    if (thrown) std::rethrow_exception(thrown);
  });
  start(io, wait_and_note(list, 3, woken));
  poll(io);
  list.notify_all();
  EXPECT_THROW(poll(io), std::runtime_error);
  poll(io);
  EXPECT_EQ(woken, (numbers{1, 3}));
}

// --- destruction ---

TEST(wait_list_end, destroying_the_list_destroys_the_coroutines_that_wait) {
  int destroyed = 0;
  asio::io_context io;
  std::optional<wait_list> list(io.get_executor());
  start(io, wait_in_marked_frame(*list, destroyed));
  start(io, wait_in_marked_frame(*list, destroyed));
  poll(io);
  list.reset();
  poll(io);
  EXPECT_EQ(destroyed, 2);
}

TEST(wait_list_end, destroying_the_list_keeps_those_that_were_notified) {
  asio::io_context io;
  numbers woken;
  std::optional<wait_list> list(io.get_executor());
  start(io, wait_and_note(*list, 1, woken));
  poll(io);
  list->notify_all();
  list.reset();
  poll(io);
  EXPECT_EQ(woken, numbers{1});
}

TEST(wait_list_end, destroying_the_list_keeps_those_that_were_cancelled) {
  asio::io_context io;
  std::optional<wait_list> list(io.get_executor());
  auto waiter = start(io, wait(*list));
  poll(io);
  waiter.cancel();
  list.reset();
  poll(io);
  EXPECT_EQ(waiter.result(), asio::error::operation_aborted);
}

TEST(wait_list_end, a_cancellation_after_the_lists_end_is_nobodys) {
  int destroyed = 0;
  asio::io_context io;
  std::optional<wait_list> list(io.get_executor());
  auto waiter = start(io, wait_in_marked_frame(*list, destroyed));
  poll(io);
  list.reset();
  waiter.cancel();
  poll(io);
  waiter.cancel();
  EXPECT_EQ(destroyed, 1);
  EXPECT_FALSE(waiter.done());
}

TEST(wait_list_end, waiters_end_with_an_io_context_that_ends_after_the_list) {
  int destroyed = 0;
  {
    asio::io_context io;
    wait_list list(io.get_executor());
    start(io, wait_in_marked_frame(list, destroyed));
    poll(io);
  }
  EXPECT_EQ(destroyed, 1);
}

TEST(wait_list_end, an_undelivered_batch_ends_with_the_io_context) {
  int destroyed = 0;
  {
    asio::io_context io;
    wait_list list(io.get_executor());
    start(io, wait_in_marked_frame(list, destroyed));
    start(io, wait_in_marked_frame(list, destroyed));
    poll(io);
    list.notify_all();
  }
  EXPECT_EQ(destroyed, 2);
}

TEST(wait_list_end, an_undelivered_cancellation_ends_with_the_io_context) {
  int destroyed = 0;
  {
    asio::io_context io;
    wait_list list(io.get_executor());
    auto waiter = start(io, wait_in_marked_frame(list, destroyed));
    poll(io);
    waiter.cancel();
  }
  EXPECT_EQ(destroyed, 1);
}

awaitable<void> wait_on_own_list(int& destroyed) {
  wait_list own(co_await this_coro::executor);
  const frame_mark mark(destroyed);
  (void)co_await own.wait();
}

TEST(wait_list_end, a_coroutine_that_waits_on_a_list_of_its_own_ends_with_the_io_context) {
  int destroyed = 0;
  {
    asio::io_context io;
    start(io, wait_on_own_list(destroyed));
    poll(io);
  }
  EXPECT_EQ(destroyed, 1);
}

awaitable<void> wait_on_shared_list(std::shared_ptr<wait_list> list, int& destroyed) {
  const frame_mark mark(destroyed);
  (void)co_await list->wait();
}

TEST(wait_list_end, coroutines_that_keep_the_list_alive_on_which_they_wait_end_with_the_io_context) {
  int destroyed = 0;
  {
    asio::io_context io;
    {
      const auto list = std::make_shared<wait_list>(io.get_executor());
      start(io, wait_on_shared_list(list, destroyed));
      start(io, wait_on_shared_list(list, destroyed));
    }
    poll(io);
  }
  EXPECT_EQ(destroyed, 2);
}

TEST(wait_list_end, the_list_may_outlive_the_io_context) {
  int destroyed = 0;
  std::optional<asio::io_context> io(std::in_place);
  const auto list = std::make_unique<wait_list>(io->get_executor());
  start(*io, wait_in_marked_frame(*list, destroyed));
  poll(*io);
  io.reset();
  EXPECT_EQ(destroyed, 1);
  EXPECT_TRUE(list->empty());
}

}  // namespace
}  // namespace lockstep
