// A pool of threads, and when a piece of work is worth sharing among them.

#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace gptoss {

// Tasks are taken one by one from a counter: a helper whose core is busy elsewhere takes fewer, and nobody spins for it.
class Pool {
 public:
  explicit Pool(int num_threads) {
    for (int i = 1; i < num_threads; ++i) helpers_.emplace_back([this] { help(); });
  }

  ~Pool() {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      closing_ = true;
    }
    wake_.notify_all();
    for (auto& helper : helpers_) helper.join();
  }

  int size() const { return static_cast<int>(helpers_.size()) + 1; }

  // Runs task(index) for every index below count and returns when all are done.
  void run(int count, const std::function<void(int)>& task) {
    if (helpers_.empty() || count == 1) {
      for (int i = 0; i < count; ++i) task(i);
      return;
    }
    {
      std::lock_guard<std::mutex> lock(mutex_);
      task_ = &task;
      count_ = count;
      next_ = 0;
      ++round_;
    }
    wake_.notify_all();
    work(task, count);
    std::unique_lock<std::mutex> lock(mutex_);
    done_.wait(lock, [this] { return active_ == 0; });
    task_ = nullptr;
  }

 private:
  void work(const std::function<void(int)>& task, int count) {
    for (int i = next_++; i < count; i = next_++) task(i);
  }

  void help() {
    std::uint64_t seen = 0;
    std::unique_lock<std::mutex> lock(mutex_);
    while (true) {
      wake_.wait(lock, [&] { return closing_ || (task_ != nullptr && round_ != seen); });
      if (closing_) return;
      seen = round_;
      const auto* task = task_;
      const int count = count_;
      ++active_;
      lock.unlock();
      work(*task, count);
      lock.lock();
      if (--active_ == 0) done_.notify_all();
    }
  }

  std::vector<std::thread> helpers_;
  std::mutex mutex_;
  std::condition_variable wake_, done_;
  std::atomic<int> next_{0};
  const std::function<void(int)>* task_ = nullptr;  // guarded by mutex_, as is all below
  int count_ = 0;
  int active_ = 0;
  std::uint64_t round_ = 0;
  bool closing_ = false;
};

// Below this many multiplications, 20 MB of bfloat16, a piece of work is over before a helper is of use.
constexpr std::int64_t kWorthSharing = 10'000'000;
constexpr int kTasksPerThread = 4;  // so that a helper that is kept busy elsewhere takes fewer

inline bool is_worth_sharing(const Pool& pool, std::int64_t multiplications) {
  return pool.size() > 1 && multiplications >= kWorthSharing;
}

// Runs task(index) for every index below count, on several threads where that pays.
inline void share(Pool& pool, std::int64_t multiplications, int count, const std::function<void(int)>& task) {
  if (is_worth_sharing(pool, multiplications)) {
    pool.run(count, task);
  } else {
    for (int i = 0; i < count; ++i) task(i);
  }
}

}  // namespace gptoss
