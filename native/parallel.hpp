// Sharing work out to threads that live no longer than the work: there is no pool that a fork could break.
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
    // Calls work(item, thread) for every item below `item_count`, the first ones first, on at most `thread_count`
    // threads. Meanwhile the caller gives a heartbeat with done(); if that throws, or a call of work does, the rest of
    // the items is left and the exception comes out here when all threads have stopped. `work` may ask cancelled().
    template <typename Work, typename Done>
    void run(size_t item_count, size_t thread_count, Work&& work, Done&& done, const Heartbeat& heartbeat) {
        std::vector<std::jthread> threads;  // joins them however this function is left
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

    // Whether what is not yet done is of no use any more.
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
