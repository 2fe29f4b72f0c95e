// Growing buffer of ids, without initialization and, if large, without copies.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <new>
#include <span>
#include <utility>

#include "huge_array.hpp"

namespace groundup {

// The system zeroes new large memory page by page, which takes longer than writing ids to it. So the memory of the last
// large result that was freed is kept here for the next result.
class SpareMemory {
   public:
    static constexpr size_t kLeastBytes = size_t{1} << 20;
    static constexpr size_t kMostBytes = size_t{1} << 28;

    struct Block {
        void* memory = nullptr;
        size_t bytes = 0;
    };

    // The spare block if it has between a quarter and four times as many bytes, otherwise an empty block.
    static Block take(size_t bytes) {
        if (bytes < kLeastBytes) return {};
        Block* const block = spare_.exchange(nullptr, std::memory_order_acquire);
        if (block == nullptr) return {};
        const bool fits = block->bytes / 4 <= bytes && bytes / 4 <= block->bytes;
        const Block taken = *block;
        if (fits) {
            delete block;
            return taken;
        }
        put_back(block);
        return {};
    }

    static void give(void* memory, size_t bytes) {
        if (bytes < kLeastBytes || bytes > kMostBytes) return std::free(memory);
        put_back(new Block{memory, bytes});
    }

   private:
    static void put_back(Block* block) {
        block = spare_.exchange(block, std::memory_order_acq_rel);
        if (block == nullptr) return;
        std::free(block->memory);
        delete block;
    }

    static inline std::atomic<Block*> spare_ = nullptr;
};

class IdBuffer {
   public:
    IdBuffer() = default;
    IdBuffer(IdBuffer&& other) noexcept { swap(other); }
    IdBuffer& operator=(IdBuffer&& other) noexcept {
        swap(other);
        return *this;
    }
    ~IdBuffer() {
        if (ids_ != nullptr) SpareMemory::give(ids_, capacity_ * sizeof(uint32_t));
    }

    uint32_t* data() { return ids_; }
    const uint32_t* data() const { return ids_; }
    size_t size() const { return size_; }
    size_t capacity() const { return capacity_; }
    uint32_t* end() { return ids_ + size_; }
    std::span<const uint32_t> ids() const { return {ids_, size_}; }

    // Allocates memory for `count` more ids without touching it.
    void reserve(size_t count) {
        if (size_ + count > capacity_) resize_memory(std::max(size_ + count, capacity_ + capacity_ / 2));
    }

    // Makes room for `count` more ids, to be written at end().
    void make_room(size_t count) {
        reserve(count);
        fresh_.make_ready(ids_ + size_ + count);
    }

    // Prefetches the memory for `count` ids, some distance after end(): a store to memory outside the cache stalls.
    void prefetch(size_t count) const {
        constexpr size_t kAhead = 256, kLine = 64 / sizeof(uint32_t);
        for (size_t i = 0; i < count; i += kLine) __builtin_prefetch(ids_ + size_ + kAhead + i, 1);
    }

    // Adds `count` ids that were written at end().
    void advance(size_t count) { size_ += count; }

    void push_back(uint32_t id) {
        make_room(1);
        ids_[size_++] = id;
    }

    void append(std::span<const uint32_t> ids) {
        make_room(ids.size());
        if (!ids.empty()) std::memcpy(end(), ids.data(), ids.size_bytes());
        size_ += ids.size();
    }

    void clear() { size_ = 0; }

    // Frees unused memory, if there is much of it.
    void shrink() {
        if (size_ < capacity_ / 2) resize_memory(size_);
    }

   private:
    void swap(IdBuffer& other) {
        std::swap(ids_, other.ids_);
        std::swap(size_, other.size_);
        std::swap(capacity_, other.capacity_);
        std::swap(fresh_, other.fresh_);
    }

    void resize_memory(size_t capacity) {
        capacity = std::max<size_t>(capacity, 1);
        if (ids_ == nullptr) {
            const SpareMemory::Block spare = SpareMemory::take(capacity * sizeof(uint32_t));
            ids_ = static_cast<uint32_t*>(spare.memory);
            capacity_ = spare.bytes / sizeof(uint32_t);
            fresh_ = {};
            if (capacity <= capacity_) return;
        }
        void* const memory = std::realloc(ids_, capacity * sizeof(uint32_t));
        if (memory == nullptr) throw std::bad_alloc();
        ids_ = static_cast<uint32_t*>(memory);
        capacity_ = capacity;
        fresh_ = FreshMemory(ids_ + size_, ids_ + capacity_);
    }

    uint32_t* ids_ = nullptr;
    size_t size_ = 0;
    size_t capacity_ = 0;
    FreshMemory fresh_;
};

}  // namespace groundup
