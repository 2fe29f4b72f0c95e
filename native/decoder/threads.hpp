// A few threads that share the rows of each matmul: they wait actively for 0.1 ms, then sleep.
#pragma once

#include <atomic>
#include <cstddef>
#include <functional>
#include <thread>
#include <vector>

namespace groundup {

class Team {
public:
    using Part = std::function<void(size_t, size_t, int)>;

    explicit Team(int size) : size_(size) {
        for (int i = 1; i < size; ++i) others_.emplace_back([this, i] { work(i); });
    }
    ~Team() {
        part_ = nullptr;
        start();
        for (auto& other : others_) other.join();
    }

    // part(first, last, thread) for a share of [0, work) on each thread; returns when all are done.
    void run(size_t work, const Part& part) {
        if (size_ == 1) return part(0, work, 0);
        part_ = &part, work_ = work;
        left_.store(size_ - 1, std::memory_order_relaxed);
        start();
        share(0);
        for (int left; (left = left_.load(std::memory_order_acquire)) != 0;) wait(left_, left);
    }

private:
    void start() {
        turn_.fetch_add(1, std::memory_order_release);
        turn_.notify_all();
    }
    void share(int thread) const {
        const size_t each = (work_ + size_ - 1) / size_, first = each * thread;
        if (first < work_) (*part_)(first, first + each < work_ ? first + each : work_, thread);
    }
    void work(int thread) {
        for (int seen = 0;; ++seen) {
            while (turn_.load(std::memory_order_acquire) == seen) wait(turn_, seen);
            if (part_ == nullptr) return;
            share(thread);
            if (left_.fetch_sub(1, std::memory_order_acq_rel) == 1) left_.notify_one();
        }
    }
    // About 0.1 ms: longer than what one thread does alone between two matmuls. To wake a sleeper takes 50 microseconds.
    static constexpr int kSpins = 10000;
    static void wait(const std::atomic<int>& value, int old) {
        for (int i = 0; i < kSpins; ++i) {
            if (value.load(std::memory_order_acquire) != old) return;
#if defined(__x86_64__)
            __builtin_ia32_pause();
#endif
        }
        value.wait(old, std::memory_order_acquire);
    }

    const int size_;
    const Part* part_ = nullptr;
    size_t work_ = 0;
    std::atomic<int> turn_{0}, left_{0};
    std::vector<std::thread> others_;
};

}  // namespace groundup
