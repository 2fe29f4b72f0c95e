// Large zero-initialized table, on huge pages if the system has them.
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

// Memory before its first write, on huge pages as long as these are fast to get.
//
// The system zeroes memory page by page. With 2 MiB pages this takes a fifth of the time of 4 KiB pages. In a virtual
// machine the host may have to find a huge page first, which takes four times as long. So pages are touched one by one
// when needed. After a slow one, all arrays use small pages for a while, because the next huge page would be slow too.
class FreshMemory {
   public:
    FreshMemory() = default;
    FreshMemory(void* begin, void* end) : ready_(static_cast<uint8_t*>(begin)), end_(static_cast<uint8_t*>(end)) {
#if !defined(__linux__)
        ready_ = end_;
#endif
    }

    // Call this before writing anything below `end`.
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
        // Many small pages at a time, to avoid a page fault for each.
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
    static inline std::atomic<Clock::rep> next_try_ = 0;  // time of the next attempt at a huge page
};

// With 4 KiB pages, random reads of a table of many megabytes miss the TLB as often as the cache; with 2 MiB pages they
// do not. Unused memory is never touched, so a short text pays for little of it.
template <typename Element>
class HugeArray {
   public:
    explicit HugeArray(size_t size) : size_(size) {
#if defined(__linux__)
        // The system uses only whole, aligned huge pages, so the array begins at the start of one.
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

    // Call this before writing the first `count` elements, if they should be on huge pages.
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
