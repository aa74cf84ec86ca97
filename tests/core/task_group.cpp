#include "lockstep/core/task_group.hpp"

#include "support/run.hpp"

#include <gtest/gtest.h>
#include <asio/io_context.hpp>
#include <asio/steady_timer.hpp>

#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

namespace lockstep {
namespace {

using test::poll;
using test::run;
using test::start;
using test::started;

class frame_mark {
 public:
  explicit frame_mark(int& destroyed) : destroyed_(destroyed) {}
  frame_mark(const frame_mark&) = delete;
  frame_mark& operator=(const frame_mark&) = delete;
  ~frame_mark() { ++destroyed_; }

 private:
  int& destroyed_;
};

awaitable<void> end_at_once(int& ended) {
  ++ended;
  co_return;
}

awaitable<void> end_when_told(wait_list& told, int& ended) {
  (void)co_await told.wait_uncancellable();
  ++ended;
}

awaitable<void> end_when_told_or_cancelled(wait_list& told, int& ended) {
  const std::error_code ec = co_await told.wait();
  ++ended;
  if (ec) throw std::system_error(ec);
}

awaitable<void> throw_when_told(wait_list& told, std::string what) {
  (void)co_await told.wait();
  throw std::runtime_error(what);
}

awaitable<void> throw_at_once(std::string what) {
  throw std::runtime_error(what);
  co_return;
}

awaitable<void> join(task_group& group) { co_await group.join(); }

std::string message_of(started<void>& ended) {
  try {
    ended.result();
  } catch (const std::exception& thrown) {
    return thrown.what();
  }
  return "";
}

struct group_test : testing::Test {
  asio::io_context io;
  wait_list told{io.get_executor()};
  task_group group{io.get_executor()};
  int ended = 0;
};

struct a_task_group : group_test {};

TEST_F(a_task_group, without_tasks_is_joined_at_once) {
  EXPECT_TRUE(group.idle());
  run(io, join(group));
}

TEST_F(a_task_group, does_not_run_a_task_inside_spawn) {
  group.spawn(end_at_once(ended));
  EXPECT_EQ(ended, 0);
  EXPECT_FALSE(group.idle());
  poll(io);
  EXPECT_EQ(ended, 1);
  EXPECT_TRUE(group.idle());
}

TEST_F(a_task_group, joins_tasks_that_ended_before) {
  group.spawn(end_at_once(ended));
  group.spawn(end_at_once(ended));
  poll(io);
  run(io, join(group));
  EXPECT_EQ(ended, 2);
}

TEST_F(a_task_group, join_waits_for_the_last_task) {
  for (int i = 0; i < 3; ++i) group.spawn(end_when_told(told, ended));
  auto joining = start(io, join(group));
  poll(io);
  told.notify_one();
  told.notify_one();
  poll(io);
  EXPECT_EQ(ended, 2);
  EXPECT_FALSE(joining.done());
  told.notify_one();
  poll(io);
  EXPECT_TRUE(joining.done());
  EXPECT_FALSE(joining.failed());
}

TEST_F(a_task_group, join_waits_for_tasks_spawned_while_it_waits) {
  group.spawn(end_when_told(told, ended));
  auto joining = start(io, join(group));
  poll(io);
  group.spawn(end_when_told(told, ended));
  told.notify_one();
  poll(io);
  EXPECT_FALSE(joining.done());
  told.notify_all();
  poll(io);
  EXPECT_TRUE(joining.done());
}

TEST_F(a_task_group, join_waits_for_a_task_spawned_between_the_last_ones_end_and_its_own_resumption) {
  group.spawn(end_when_told(told, ended));
  auto joining = start(io, join(group));
  poll(io);
  told.notify_one();
  while (!group.idle()) io.poll_one();
  group.spawn(end_when_told(told, ended));
  poll(io);
  EXPECT_FALSE(joining.done());
  told.notify_all();
  poll(io);
  EXPECT_TRUE(joining.done());
}

TEST_F(a_task_group, may_be_joined_by_several_and_again) {
  group.spawn(end_when_told(told, ended));
  auto first = start(io, join(group));
  auto second = start(io, join(group));
  poll(io);
  told.notify_all();
  poll(io);
  EXPECT_TRUE(first.done() && second.done());
  run(io, join(group));
}

// --- failures ---

TEST_F(a_task_group, the_first_exception_cancels_the_others_and_is_rethrown) {
  wait_list other(io.get_executor());
  group.spawn(end_when_told_or_cancelled(told, ended));
  group.spawn(throw_when_told(other, "first"));
  group.spawn(end_when_told_or_cancelled(told, ended));
  auto joining = start(io, join(group));
  poll(io);
  other.notify_all();
  poll(io);
  EXPECT_EQ(ended, 2);
  EXPECT_EQ(message_of(joining), "first");
}

TEST_F(a_task_group, only_the_first_exception_is_kept) {
  group.spawn(throw_when_told(told, "first"));
  group.spawn(throw_when_told(told, "second"));
  auto joining = start(io, join(group));
  poll(io);
  told.notify_all();
  poll(io);
  EXPECT_EQ(message_of(joining), "first");
}

TEST_F(a_task_group, an_exception_is_rethrown_once) {
  group.spawn(throw_at_once("once"));
  auto first = start(io, join(group));
  poll(io);
  EXPECT_EQ(message_of(first), "once");
  run(io, join(group));
}

TEST_F(a_task_group, a_failed_group_starts_nothing_more) {
  group.spawn(throw_at_once("failed"));
  poll(io);
  group.spawn(end_at_once(ended));
  poll(io);
  EXPECT_EQ(ended, 0);
  EXPECT_TRUE(group.idle());
}

TEST_F(a_task_group, join_waits_for_the_others_before_it_throws) {
  group.spawn(end_when_told(told, ended));
  group.spawn(throw_at_once("early"));
  auto joining = start(io, join(group));
  poll(io);
  EXPECT_FALSE(joining.done());
  told.notify_all();
  poll(io);
  EXPECT_EQ(ended, 1);
  EXPECT_EQ(message_of(joining), "early");
}

TEST_F(a_task_group, operation_aborted_without_a_cancellation_is_a_failure) {
  group.spawn(end_when_told_or_cancelled(told, ended));
  poll(io);
  told.notify_all(asio::error::operation_aborted);
  auto joining = start(io, join(group));
  poll(io);
  EXPECT_EQ(joining.error(), asio::error::operation_aborted);
}

// --- cancel ---

TEST_F(a_task_group, cancel_ends_every_task_and_is_no_failure) {
  for (int i = 0; i < 3; ++i) group.spawn(end_when_told_or_cancelled(told, ended));
  poll(io);
  group.cancel();
  run(io, join(group));
  EXPECT_EQ(ended, 3);
  EXPECT_TRUE(told.empty());
}

TEST_F(a_task_group, may_be_cancelled_twice) {
  group.spawn(end_when_told_or_cancelled(told, ended));
  poll(io);
  group.cancel();
  group.cancel();
  poll(io);
  group.cancel();
  run(io, join(group));
  EXPECT_EQ(ended, 1);
}

TEST_F(a_task_group, another_error_than_operation_aborted_is_a_failure_after_cancel_too) {
  group.spawn(throw_when_told(told, "while stopping"));
  poll(io);
  group.cancel();
  auto joining = start(io, join(group));
  poll(io);
  EXPECT_EQ(message_of(joining), "while stopping");
}

awaitable<void> count_copies(std::shared_ptr<int> argument, int& ended) {
  ++ended;
  (void)argument;
  co_return;
}

TEST_F(a_task_group, a_task_spawned_after_cancel_is_destroyed_unrun) {
  group.cancel();
  const auto argument = std::make_shared<int>(1);
  group.spawn(count_copies(argument, ended));
  EXPECT_EQ(argument.use_count(), 1);
  poll(io);
  EXPECT_EQ(ended, 0);
  run(io, join(group));
}

TEST_F(a_task_group, cancel_reaches_a_task_that_has_not_begun) {
  group.spawn(end_when_told_or_cancelled(told, ended));
  group.cancel();
  run(io, join(group));
  EXPECT_TRUE(told.empty());
}

awaitable<void> cancel_own_group(task_group& group, int& ended) {
  group.cancel();
  ++ended;
  co_return;
}

TEST_F(a_task_group, a_task_may_cancel_its_own_group) {
  group.spawn(end_when_told_or_cancelled(told, ended));
  group.spawn(cancel_own_group(group, ended));
  run(io, join(group));
  EXPECT_EQ(ended, 2);
}

awaitable<void> spawn_more(task_group& group, int depth, int& ended) {
  ++ended;
  if (depth > 0) group.spawn(spawn_more(group, depth - 1, ended));
  co_return;
}

TEST_F(a_task_group, a_task_may_spawn_into_its_own_group) {
  group.spawn(spawn_more(group, 20, ended));
  run(io, join(group));
  EXPECT_EQ(ended, 21);
}

// An operation that completes inside its own cancellation.
struct ends_inside_cancel {
  template <class Handler>
  void operator()(Handler&& handler) const {
    auto slot = asio::get_associated_cancellation_slot(handler);
    auto held = std::make_shared<std::decay_t<Handler>>(std::forward<Handler>(handler));
    slot.assign([held](asio::cancellation_type) mutable {
      const auto running = std::move(held);
      std::move (*running)();
    });
  }
};

awaitable<void> wait_for_cancel(int& ended) {
  co_await asio::async_initiate<const asio::use_awaitable_t<>, void()>(ends_inside_cancel{}, use_awaitable);
  ++ended;
}

awaitable<void> cancel(task_group& group) {
  group.cancel();
  co_return;
}

TEST_F(a_task_group, tasks_that_end_inside_cancel_are_joined) {
  for (int i = 0; i < 3; ++i) group.spawn(wait_for_cancel(ended));
  poll(io);
  run(io, cancel(group));
  run(io, join(group));
  EXPECT_EQ(ended, 3);
}

// --- a caller that is cancelled ---

TEST_F(a_task_group, join_goes_on_while_its_caller_is_cancelled) {
  group.spawn(end_when_told(told, ended));
  auto joining = start(io, join(group));
  poll(io);
  joining.cancel();
  poll(io);
  EXPECT_FALSE(joining.done());
  told.notify_all();
  poll(io);
  EXPECT_TRUE(joining.done());
  EXPECT_FALSE(joining.failed());
}

TEST_F(a_task_group, a_cancelled_caller_waits_for_a_task_spawned_late_too) {
  group.spawn(end_when_told(told, ended));
  auto joining = start(io, join(group));
  poll(io);
  joining.cancel();
  told.notify_one();
  while (!group.idle()) io.poll_one();
  group.spawn(end_when_told(told, ended));
  poll(io);
  EXPECT_FALSE(joining.done());
  told.notify_all();
  poll(io);
  EXPECT_TRUE(joining.done());
  EXPECT_FALSE(joining.failed());
}

awaitable<void> be_cancelled_then_join(wait_list& told, task_group& group, std::error_code& after) {
  (void)co_await told.wait();
  co_await this_coro::reset_cancellation_state(asio::enable_terminal_cancellation());
  group.cancel();
  co_await group.join();
  after = co_await told.wait();
}

TEST_F(a_task_group, a_caller_that_was_cancelled_before_joins_after_resetting_its_cancellation) {
  wait_list other(io.get_executor());
  std::error_code after;
  group.spawn(end_when_told(told, ended));
  auto caller = start(io, be_cancelled_then_join(other, group, after));
  poll(io);
  caller.cancel();
  poll(io);
  EXPECT_FALSE(caller.done());
  told.notify_all();
  poll(io);
  EXPECT_EQ(ended, 1);
  caller.cancel();  // what follows the join is cancellable as before
  poll(io);
  EXPECT_EQ(after, asio::error::operation_aborted);
}

awaitable<void> join_then_wait(task_group& group, wait_list& told, int& reached) {
  co_await group.join();
  ++reached;
  (void)co_await told.wait();
  ++reached;
}

TEST_F(a_task_group, a_cancellation_that_came_during_the_join_is_seen_after_it) {
  wait_list other(io.get_executor());
  int reached = 0;
  group.spawn(end_when_told(told, ended));
  auto caller = start(io, join_then_wait(group, other, reached));
  poll(io);
  caller.cancel();
  told.notify_all();
  poll(io);
  EXPECT_EQ(reached, 1);
  EXPECT_EQ(caller.error(), asio::error::operation_aborted);
}

awaitable<void> join_passing(task_group& group, int& joined) {
  co_await group.join_passing_cancellation();
  ++joined;
}

TEST_F(a_task_group, joined_passing_cancellation_is_cancelled_with_its_caller) {
  int joined = 0;
  group.spawn(end_when_told_or_cancelled(told, ended));
  wait_list other(io.get_executor());
  group.spawn(end_when_told(other, ended));
  auto caller = start(io, join_passing(group, joined));
  poll(io);
  caller.cancel();
  poll(io);
  EXPECT_EQ(ended, 1);
  EXPECT_EQ(joined, 0);  // one of them has not ended yet
  other.notify_all();
  poll(io);
  EXPECT_EQ(ended, 2);
  EXPECT_EQ(joined, 1);
  EXPECT_FALSE(caller.failed());
}

TEST_F(a_task_group, joined_passing_cancellation_waits_and_rethrows_as_any_join) {
  int joined = 0;
  auto idle = start(io, join_passing(group, joined));
  poll(io);
  EXPECT_EQ(joined, 1);
  group.spawn(end_when_told(told, ended));
  group.spawn(throw_at_once("failed"));
  auto caller = start(io, join_passing(group, joined));
  poll(io);
  EXPECT_FALSE(caller.done());
  told.notify_all();
  poll(io);
  EXPECT_EQ(message_of(caller), "failed");
}

TEST_F(a_task_group, joined_passing_cancellation_after_cancel_is_deaf) {
  int joined = 0;
  group.spawn(end_when_told(told, ended));
  poll(io);
  group.cancel();
  auto caller = start(io, join_passing(group, joined));
  poll(io);
  caller.cancel();
  poll(io);
  EXPECT_FALSE(caller.done());
  told.notify_all();
  poll(io);
  EXPECT_EQ(joined, 1);
}

// --- destruction ---

awaitable<void> wait_in_marked_frame(wait_list& list, int& destroyed) {
  const frame_mark mark(destroyed);
  (void)co_await list.wait();
}

TEST(task_group_end, destruction_without_join_cancels_the_tasks) {
  int ended = 0;
  asio::io_context io;
  wait_list told(io.get_executor());
  std::optional<task_group> group(io.get_executor());
  group->spawn(end_when_told_or_cancelled(told, ended));
  poll(io);
  group.reset();
  EXPECT_EQ(ended, 0);
  poll(io);
  EXPECT_EQ(ended, 1);
}

TEST(task_group_end, tasks_that_run_end_with_the_io_context) {
  int destroyed = 0;
  {
    asio::io_context io;
    wait_list told(io.get_executor());
    task_group group(io.get_executor());
    group.spawn(wait_in_marked_frame(told, destroyed));
    poll(io);
  }
  EXPECT_EQ(destroyed, 1);
}

TEST(task_group_end, tasks_that_have_not_begun_end_with_the_io_context) {
  const auto argument = std::make_shared<int>(1);
  int ended = 0;
  {
    asio::io_context io;
    task_group group(io.get_executor());
    group.spawn(count_copies(argument, ended));
  }
  EXPECT_EQ(argument.use_count(), 1);
  EXPECT_EQ(ended, 0);
}

awaitable<void> join_in_marked_frame(task_group& group, int& destroyed) {
  const frame_mark mark(destroyed);
  co_await group.join();
}

TEST(task_group_end, a_join_that_waits_ends_with_the_io_context) {
  int destroyed = 0;
  {
    asio::io_context io;
    wait_list told(io.get_executor());
    task_group group(io.get_executor());
    group.spawn(wait_in_marked_frame(told, destroyed));
    start(io, join_in_marked_frame(group, destroyed));
    poll(io);
  }
  EXPECT_EQ(destroyed, 2);
}

awaitable<void> own_everything(int& destroyed) {
  const auto executor = co_await this_coro::executor;
  const frame_mark mark(destroyed);
  wait_list told(executor);
  task_group group(executor);
  group.spawn(wait_in_marked_frame(told, destroyed));
  co_await group.join();
}

TEST(task_group_end, a_coroutine_that_owns_its_group_ends_with_the_io_context) {
  int destroyed = 0;
  {
    asio::io_context io;
    start(io, own_everything(destroyed));
    poll(io);
  }
  EXPECT_EQ(destroyed, 2);
}

awaitable<void> wait_for_timer(int& destroyed) {
  const frame_mark mark(destroyed);
  asio::steady_timer timer(co_await this_coro::executor, std::chrono::hours(1));
  co_await timer.async_wait(use_awaitable);
}

awaitable<void> own_task_with_timer(int& destroyed) {
  const frame_mark mark(destroyed);
  task_group group(co_await this_coro::executor);
  group.spawn(wait_for_timer(destroyed));
  co_await group.join();
}

TEST(task_group_end, a_group_that_goes_after_its_tasks_does_not_cancel_what_they_waited_for) {
  int destroyed = 0;
  {
    asio::io_context io;
    start(io, own_task_with_timer(destroyed));
    poll(io);
  }
  EXPECT_EQ(destroyed, 2);
}

TEST(task_group_end, the_group_may_outlive_the_io_context) {
  int destroyed = 0;
  std::optional<asio::io_context> io(std::in_place);
  const auto told = std::make_unique<wait_list>(io->get_executor());
  const auto group = std::make_unique<task_group>(io->get_executor());
  group->spawn(wait_in_marked_frame(*told, destroyed));
  poll(*io);
  io.reset();
  EXPECT_EQ(destroyed, 1);
}

}  // namespace
}  // namespace lockstep
