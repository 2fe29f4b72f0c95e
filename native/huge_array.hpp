// A large table of zeros, on huge pages where the system has them.
#pragma once

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

inline constexpr size_t kHugePageBytes = size_t{1} << 21;

// Asks for huge pages for the whole ones within some memory: the system then hands it out in a five-hundredth of the
// steps. A wish: nothing depends on it.
inline void prefer_huge_pages(void* memory, size_t bytes) {
#if defined(__linux__)
    if (bytes < 2 * kHugePageBytes) return;
    const auto begin = (reinterpret_cast<uintptr_t>(memory) + kHugePageBytes - 1) & ~(kHugePageBytes - 1);
    const auto end = (reinterpret_cast<uintptr_t>(memory) + bytes) & ~(kHugePageBytes - 1);
    if (begin < end) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
#else
    (void)memory, (void)bytes;
#endif
}

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
        if (bytes >= kFewestHuge) madvise(aligned, bytes, MADV_HUGEPAGE);
        elements_ = static_cast<Element*>(aligned);
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

    Element* data() { return elements_; }
    size_t size() const { return size_; }
    Element& operator[](size_t index) { return elements_[index]; }
    const Element& operator[](size_t index) const { return elements_[index]; }

   private:
    void swap(HugeArray& other) {
        std::swap(elements_, other.elements_);
        std::swap(size_, other.size_);
#if defined(__linux__)
        std::swap(mapped_, other.mapped_);
        std::swap(mapped_bytes_, other.mapped_bytes_);
#endif
    }

    Element* elements_ = nullptr;
    size_t size_ = 0;
#if defined(__linux__)
    static constexpr size_t kFewestHuge = size_t{1} << 20;

    void* mapped_ = nullptr;
    size_t mapped_bytes_ = 0;
#endif
};

}  // namespace groundup
