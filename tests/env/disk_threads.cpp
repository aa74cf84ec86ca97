#include "lockstep/env/disk_threads.hpp"

#include <gtest/gtest.h>

#include <atomic>
#include <deque>
#include <functional>
#include <future>
#include <mutex>
#include <optional>
#include <set>
#include <thread>
#include <vector>

namespace lockstep::real {
namespace {

// A job that calls what it was given.
class calling : public disk_threads::job {
 public:
  explicit calling(std::function<void()> call) : call_(std::move(call)) {
    run = [](job* self) { static_cast<calling*>(self)->call_(); };
  }

 private:
  std::function<void()> call_;
};

TEST(disk_threads, runs_jobs_on_another_thread) {
  std::promise<std::thread::id> ran_on;
  calling job([&] { ran_on.set_value(std::this_thread::get_id()); });
  disk_threads threads(1);
  threads.submit(&job);
  EXPECT_NE(ran_on.get_future().get(), std::this_thread::get_id());
}

TEST(disk_threads, one_thread_runs_jobs_in_the_order_of_submission) {
  std::vector<int> order;
  std::deque<calling> jobs;
  {
    disk_threads threads(1);
    for (int i = 0; i < 1000; ++i) threads.submit(&jobs.emplace_back([&order, i] { order.push_back(i); }));
  }
  ASSERT_EQ(order.size(), 1000u);
  for (int i = 0; i < 1000; ++i) EXPECT_EQ(order[static_cast<std::size_t>(i)], i);
}

TEST(disk_threads, as_many_jobs_run_at_once_as_there_are_threads) {
  constexpr std::size_t count = 3;
  std::mutex mutex;
  std::condition_variable all_here;
  std::size_t here = 0;
  // Each waits for the others: with fewer threads this would never end.
  const auto meet = [&] {
    std::unique_lock lock(mutex);
    ++here;
    all_here.notify_all();
    all_here.wait(lock, [&] { return here == count; });
  };
  std::deque<calling> jobs;
  disk_threads threads(count);
  for (std::size_t i = 0; i < count; ++i) threads.submit(&jobs.emplace_back(meet));
}

TEST(disk_threads, there_is_at_least_one_thread) {
  std::promise<void> ran;
  calling job([&] { ran.set_value(); });
  disk_threads threads(0);
  threads.submit(&job);
  ran.get_future().get();
}

TEST(disk_threads, no_thread_is_started_without_a_job) {
  const disk_threads threads(1'000'000);  // so many could not be started
  (void)threads;
}

TEST(disk_threads, the_destructor_runs_what_was_submitted) {
  std::promise<void> go;
  const auto gone = go.get_future().share();
  std::atomic<int> ran = 0;
  std::deque<calling> jobs;
  {
    std::optional<disk_threads> threads(std::in_place, 2u);
    for (int i = 0; i < 100; ++i) {
      threads->submit(&jobs.emplace_back([&ran, gone] {
        gone.wait();
        ++ran;
      }));
    }
    go.set_value();
    threads.reset();
    EXPECT_EQ(ran, 100);
  }
}

TEST(disk_threads, any_thread_may_submit) {
  constexpr int submitters = 4, each = 500;
  std::atomic<int> ran = 0;
  std::vector<std::deque<calling>> jobs(submitters);
  {
    disk_threads threads(2);
    std::vector<std::thread> others;
    for (int i = 0; i < submitters; ++i) {
      others.emplace_back([&, mine = &jobs[static_cast<std::size_t>(i)]] {
        for (int n = 0; n < each; ++n) threads.submit(&mine->emplace_back([&ran] { ++ran; }));
      });
    }
    for (std::thread& other : others) other.join();
  }
  EXPECT_EQ(ran, submitters * each);
}

TEST(disk_threads, a_job_may_be_gone_when_it_has_run) {
  std::atomic<int> ran = 0;
  {
    disk_threads threads(1);
    for (int i = 0; i < 100; ++i) {
      struct dying : disk_threads::job {
        std::atomic<int>* ran;
      };
      auto* const job = new dying{{}, &ran};
      job->run = [](disk_threads::job* self) {
        auto* const mine = static_cast<dying*>(self);
        ++*mine->ran;
        delete mine;
      };
      threads.submit(job);
    }
  }
  EXPECT_EQ(ran, 100);
}

TEST(disk_threads, a_job_may_submit_the_next) {
  std::promise<void> ran;
  disk_threads threads(1);
  calling second([&] { ran.set_value(); });
  calling first([&] { threads.submit(&second); });
  threads.submit(&first);
  ran.get_future().get();
}

}  // namespace
}  // namespace lockstep::real
