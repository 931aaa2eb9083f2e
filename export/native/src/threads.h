// A small pool: the caller and its workers share numbered pieces of one job at a time.
#ifndef FLSP_THREADS_H
#define FLSP_THREADS_H

#include <atomic>
#include <condition_variable>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace flsp {

class Pool {
 public:
  explicit Pool(int threads) {
    for (int i = 1; i < threads; i++) workers_.emplace_back([this, i] { work(i); });
  }
  ~Pool() {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      stop_ = true;
      job_++;
    }
    wake_.notify_all();
    for (auto& worker : workers_) worker.join();
  }
  Pool(const Pool&) = delete;
  Pool& operator=(const Pool&) = delete;

  int threads() const { return static_cast<int>(workers_.size()) + 1; }

  // Calls run(piece, thread) for every piece; returns when all are done. Pieces must
  // not throw.
  void each(int pieces, const std::function<void(int, int)>& run) {
    if (workers_.empty() || pieces < 2) {
      for (int i = 0; i < pieces; i++) run(i, 0);
      return;
    }
    {
      std::lock_guard<std::mutex> lock(mutex_);
      run_ = &run;
      pieces_ = pieces;
      next_ = 0;
      busy_ = static_cast<int>(workers_.size());
      job_++;
    }
    wake_.notify_all();
    take(0);
    // A layer takes microseconds: spinning a little is cheaper than sleeping.
    for (int i = 0; i < kSpins && busy_.load(std::memory_order_acquire); i++) pause();
    std::unique_lock<std::mutex> lock(mutex_);
    done_.wait(lock, [this] { return busy_.load() == 0; });
  }

 private:
  static constexpr int kSpins = 4000;

  static void pause() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
  }

  void take(int thread) {
    for (int i; (i = next_.fetch_add(1)) < pieces_;) (*run_)(i, thread);
  }

  void work(int thread) {
    unsigned seen = 0;
    for (;;) {
      for (int i = 0; i < kSpins && job_.load(std::memory_order_acquire) == seen; i++)
        pause();
      {
        std::unique_lock<std::mutex> lock(mutex_);
        wake_.wait(lock, [&] { return job_.load() != seen; });
        seen = job_;
        if (stop_) return;
      }
      take(thread);
      if (busy_.fetch_sub(1) == 1) {
        std::lock_guard<std::mutex> lock(mutex_);
        done_.notify_one();
      }
    }
  }

  std::vector<std::thread> workers_;
  std::mutex mutex_;
  std::condition_variable wake_, done_;
  std::atomic<unsigned> job_{0};
  std::atomic<int> next_{0}, busy_{0};
  const std::function<void(int, int)>* run_ = nullptr;
  int pieces_ = 0;
  bool stop_ = false;
};

}  // namespace flsp

#endif
