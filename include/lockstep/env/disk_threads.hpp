// disk_threads: the few threads that run blocking disk calls for real::env.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <mutex>
#include <thread>
#include <vector>

namespace lockstep::real {

/// Runs jobs in FIFO order on a fixed number of threads, started by the first job.
/// A job is an intrusive node in its submitter's storage, so submitting allocates nothing.
/// Thread safety: submit from any thread. The destructor runs what was submitted and joins.
class disk_threads {
 public:
  struct job {
    void (*run)(job*) = nullptr;  ///< called once on a disk thread; the job may be gone when it returns
    job* next = nullptr;
  };

  explicit disk_threads(std::size_t count) : count_(count == 0 ? 1 : count) {}
  disk_threads(const disk_threads&) = delete;
  disk_threads& operator=(const disk_threads&) = delete;
  ~disk_threads() {
    {
      const std::lock_guard lock(mutex_);
      stopping_ = true;
    }
    wake_.notify_all();
    for (std::thread& each : threads_) each.join();
  }

  void submit(job* added) {
    added->next = nullptr;
    {
      const std::lock_guard lock(mutex_);
      (tail_ ? tail_->next : head_) = added;
      tail_ = added;
      while (threads_.size() < count_) threads_.emplace_back([this] { work(); });
    }
    wake_.notify_one();
  }

 private:
  void work() {
    std::unique_lock lock(mutex_);
    for (;;) {
      wake_.wait(lock, [this] { return head_ || stopping_; });
      if (!head_) return;
      job* const taken = head_;
      head_ = taken->next;
      if (!head_) tail_ = nullptr;
      lock.unlock();
      taken->run(taken);
      lock.lock();
    }
  }

  const std::size_t count_;
  std::mutex mutex_;
  std::condition_variable wake_;
  job* head_ = nullptr;
  job* tail_ = nullptr;
  bool stopping_ = false;
  std::vector<std::thread> threads_;
};

}  // namespace lockstep::real
