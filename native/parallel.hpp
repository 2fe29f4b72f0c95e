// Parallel loop over threads that end with the loop. There is no thread pool, which a fork would break.
#pragma once

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <mutex>
#include <thread>
#include <vector>

#include "heartbeat.hpp"

namespace groundup {

class ParallelWork {
   public:
    // Calls work(item, thread) for every item below `item_count`, in ascending order, on at most `thread_count`
    // threads. Meanwhile the calling thread calls the heartbeat with done(). If the heartbeat or `work` throws, the
    // remaining items are skipped, and the exception is rethrown here when all threads have stopped. `work` may check
    // cancelled().
    template <typename Work, typename Done>
    void run(size_t item_count, size_t thread_count, Work&& work, Done&& done, const Heartbeat& heartbeat) {
        std::vector<std::jthread> threads;  // joined on every exit from this function
        running_ = std::min(thread_count, item_count);
        for (size_t thread = 0, count = running_; thread < count; ++thread) {
            threads.emplace_back([this, thread, item_count, &work] { work_on(item_count, thread, work); });
        }
        try {
            std::unique_lock lock(mutex_);
            while (!all_done_.wait_for(lock, kHeartbeatInterval, [this] { return running_ == 0; })) {
                lock.unlock();
                heartbeat(done());
                lock.lock();
            }
        } catch (...) {
            cancelled_ = true;
            throw;
        }
        if (error_) std::rethrow_exception(error_);
    }

    // Whether the remaining work is cancelled.
    bool cancelled() const { return cancelled_.load(std::memory_order_relaxed); }

   private:
    template <typename Work>
    void work_on(size_t item_count, size_t thread, Work& work) noexcept {
        std::exception_ptr error;
        try {
            for (size_t i = next_++; i < item_count && !cancelled(); i = next_++) work(i, thread);
        } catch (...) {
            error = std::current_exception();
            cancelled_ = true;
        }
        const std::lock_guard lock(mutex_);
        if (error) error_ = error;
        if (--running_ == 0) all_done_.notify_one();
    }

    std::atomic<size_t> next_ = 0;
    std::atomic<bool> cancelled_ = false;
    std::mutex mutex_;
    std::condition_variable all_done_;
    size_t running_ = 0;        // guarded by mutex_
    std::exception_ptr error_;  // guarded by mutex_
};

}  // namespace groundup
