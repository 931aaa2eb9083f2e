// A small pool: the caller and its workers take numbered pieces of one job at a time.
//
// The caller waits for pieces, not for workers: on a busy machine a worker may get no
// processor for milliseconds, and then the caller does all pieces itself.
#ifndef FLSP_THREADS_H
#define FLSP_THREADS_H

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace flsp {

class Pool {
 public:
  using Run = std::function<void(int, int)>;

  explicit Pool(int threads) {
    try {
      for (int i = 1; i < threads; i++) workers_.emplace_back([this, i] { work(i); });
    } catch (...) {  // the system gives no more threads: those that run must end first
      stop();
      throw;
    }
  }
  ~Pool() { stop(); }
  Pool(const Pool&) = delete;
  Pool& operator=(const Pool&) = delete;

  int threads() const { return static_cast<int>(workers_.size()) + 1; }

  // Calls run(piece, thread) for every piece; returns when all are done. Pieces must
  // not throw.
  void each(int pieces, const Run& run) {
    if (workers_.empty() || pieces < 2) {
      for (int i = 0; i < pieces; i++) run(i, 0);
      return;
    }
    run_ = &run;
    pieces_ = pieces;
    done_ = 0;
    job_++;
    ticket_ = static_cast<uint64_t>(job_) << 32;  // from here on workers may take
    if (asleep_ > 0) {
      { std::lock_guard<std::mutex> lock(mutex_); }
      wake_.notify_all();
    }
    take(0);
    for (int i = 0; done_ < pieces; i++) i < kSpins ? pause() : std::this_thread::yield();
    ticket_ = static_cast<uint64_t>(job_) << 32 | kClosed;
  }

 private:
  static constexpr uint32_t kClosed = 0xFFFFFFFFu;
  static constexpr int kSpins = 2000;  // some tens of microseconds: about one layer

  void stop() {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      stop_ = true;
    }
    wake_.notify_all();
    for (auto& worker : workers_) worker.join();
  }

  static void pause() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
  }

  // The ticket is the job's number and its next piece. It is closed before another job
  // is set up, so whoever reads the new job with the old ticket fails to exchange it.
  bool take(int thread) {
    bool any = false;
    for (uint64_t ticket = ticket_;;) {
      const Run* run = run_;
      const uint32_t piece = static_cast<uint32_t>(ticket);
      if (piece == kClosed || piece >= static_cast<uint32_t>(pieces_)) return any;
      if (!ticket_.compare_exchange_weak(ticket, ticket + 1)) continue;
      (*run)(static_cast<int>(piece), thread);
      done_++;
      any = true;
      ticket = ticket_;
    }
  }

  void work(int thread) {
    for (int idle = 0;;) {
      if (take(thread)) idle = 0;
      if (idle++ < kSpins) {
        pause();
        if (stop_) return;
        continue;
      }
      std::unique_lock<std::mutex> lock(mutex_);
      const uint64_t seen = ticket_;
      asleep_++;
      wake_.wait(lock, [&] { return stop_ || (ticket_ >> 32) != (seen >> 32); });
      asleep_--;
      if (stop_) return;
      idle = 0;
    }
  }

  std::vector<std::thread> workers_;
  std::mutex mutex_;
  std::condition_variable wake_;
  // Closed from the start: an open (job 0, piece 0) let a worker that was just born take
  // a piece of the first job while it was being set up, and that piece ran twice.
  std::atomic<uint64_t> ticket_{kClosed};
  std::atomic<const Run*> run_{nullptr};
  std::atomic<int> pieces_{0}, done_{0}, asleep_{0};
  std::atomic<bool> stop_{false};
  uint32_t job_ = 0;  // the caller's
};

}  // namespace flsp

#endif
