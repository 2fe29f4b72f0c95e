// A large table of zeros, on huge pages where the system has them.
#pragma once

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <new>
#include <utility>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace groundup {

inline constexpr size_t kHugePageBytes = size_t{1} << 21, kSmallPageBytes = size_t{1} << 12;

// Memory that is about to be written for the first time, on huge pages as long as these are quick to be had.
//
// The system hands out memory page by page, zeroed; with pages of 2 MiB that takes a fifth of the time that it takes
// with pages of 4 KiB. In a virtual machine they may be ones that its host has to find first, and that takes four
// times as long. So pages are touched one by one as they are needed, and for a while after a slow one small pages have
// to do, for all memory: what is slow for one array is slow for the next.
class FreshMemory {
   public:
    FreshMemory() = default;
    FreshMemory(void* begin, void* end) : ready_(static_cast<uint8_t*>(begin)), end_(static_cast<uint8_t*>(end)) {
#if !defined(__linux__)
        ready_ = end_;
#endif
    }

    // To be called before anything below `end` is written.
    void make_ready(const void* end) {
        while (ready_ < end && ready_ < end_) advance();
    }

   private:
    void advance() {
#if defined(__linux__)
        constexpr auto kSlow = std::chrono::microseconds(500);
        constexpr auto kWhile = std::chrono::seconds(1);
        const auto start = Clock::now().time_since_epoch();
        const bool are_quick = start.count() >= next_try_.load(std::memory_order_relaxed);
        auto* const page = reinterpret_cast<uint8_t*>((reinterpret_cast<uintptr_t>(ready_) + kHugePageBytes - 1) &
                                                      ~(kHugePageBytes - 1));
        if (are_quick && page < end_ && static_cast<size_t>(end_ - page) >= kHugePageBytes) {
            madvise(page, kHugePageBytes, MADV_HUGEPAGE);
            *static_cast<volatile uint8_t*>(page) = 0;
            const auto now = Clock::now().time_since_epoch();
            if (now - start > kSlow) next_try_.store((now + kWhile).count(), std::memory_order_relaxed);
            ready_ = page + kHugePageBytes;
            return;
        }
        // Many small ones at a time, so that the program is not interrupted for each.
        constexpr size_t kSome = size_t{1} << 18;
        constexpr int kPopulateWrite = 23;  // MADV_POPULATE_WRITE, which older headers do not have
        auto* const begin = reinterpret_cast<uint8_t*>(reinterpret_cast<uintptr_t>(ready_) & ~(kSmallPageBytes - 1));
        if (!are_quick && static_cast<size_t>(end_ - begin) >= kSome && madvise(begin, kSome, kPopulateWrite) == 0) {
            ready_ = begin + kSome;
            return;
        }
#endif
        ready_ = end_;
    }

    uint8_t* ready_ = nullptr;  // memory below may be written
    uint8_t* end_ = nullptr;

    using Clock = std::chrono::steady_clock;
    static inline std::atomic<Clock::rep> next_try_ = 0;  // of a huge page
};

// Random reads of a table of many megabytes miss the TLB as often as the cache; with pages of 2 MiB they do not.
// Memory that is never used is never touched, so a short text pays for little of it.
template <typename Element>
class HugeArray {
   public:
    explicit HugeArray(size_t size) : size_(size) {
#if defined(__linux__)
        // Only whole, aligned huge pages are used as such, so the first one begins with the array.
        const size_t bytes = (size * sizeof(Element) + kHugePageBytes - 1) / kHugePageBytes * kHugePageBytes;
        mapped_bytes_ = bytes + kHugePageBytes;
        mapped_ = mmap(nullptr, mapped_bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (mapped_ == MAP_FAILED) throw std::bad_alloc();
        void* aligned = mapped_;
        size_t space = mapped_bytes_;
        std::align(kHugePageBytes, bytes, aligned, space);
        elements_ = static_cast<Element*>(aligned);
        fresh_ = FreshMemory(aligned, static_cast<uint8_t*>(aligned) + (bytes >= kFewestHuge ? bytes : 0));
#else
        elements_ = static_cast<Element*>(std::calloc(size, sizeof(Element)));
        if (elements_ == nullptr) throw std::bad_alloc();
#endif
    }

    HugeArray(HugeArray&& other) noexcept { swap(other); }
    HugeArray& operator=(HugeArray&& other) noexcept {
        swap(other);
        return *this;
    }

    ~HugeArray() {
#if defined(__linux__)
        if (mapped_ != nullptr) munmap(mapped_, mapped_bytes_);
#else
        std::free(elements_);
#endif
    }

    // To be called before the first `count` elements are written, if huge pages would be good for them.
    void make_ready(size_t count) { fresh_.make_ready(elements_ + count); }

    Element* data() { return elements_; }
    const Element* data() const { return elements_; }
    size_t size() const { return size_; }
    Element& operator[](size_t index) { return elements_[index]; }
    const Element& operator[](size_t index) const { return elements_[index]; }

   private:
    void swap(HugeArray& other) {
        std::swap(elements_, other.elements_);
        std::swap(size_, other.size_);
        std::swap(fresh_, other.fresh_);
#if defined(__linux__)
        std::swap(mapped_, other.mapped_);
        std::swap(mapped_bytes_, other.mapped_bytes_);
#endif
    }

    Element* elements_ = nullptr;
    size_t size_ = 0;
    FreshMemory fresh_;
#if defined(__linux__)
    static constexpr size_t kFewestHuge = size_t{1} << 20;

    void* mapped_ = nullptr;
    size_t mapped_bytes_ = 0;
#endif
};

}  // namespace groundup
