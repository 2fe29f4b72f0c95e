// How often each distinct pretoken occurs.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <vector>

#include "hash.hpp"

namespace groundup {

// A hash table with linear probing whose keys lie one after the other in a single buffer.
class PretokenCounts {
   public:
    PretokenCounts() : slots_(kFirstCapacity) {}

    void add(std::span<const uint8_t> pretoken, uint64_t count) {
        if (2 * (size_ + 1) > slots_.size()) grow();
        const uint64_t hash = hash_bytes(pretoken.data(), pretoken.size());
        Slot& slot = find(pretoken, hash);
        if (slot.count == 0) {
            slot = {hash, bytes_.size(), pretoken.size(), 0};
            bytes_.insert(bytes_.end(), pretoken.begin(), pretoken.end());
            ++size_;
        }
        slot.count += count;
    }

    void add(const PretokenCounts& other) {
        other.for_each([this](std::span<const uint8_t> pretoken, uint64_t count) { add(pretoken, count); });
    }

    // Calls visit(bytes, count) for every distinct pretoken, in no particular order.
    template <typename Visit>
    void for_each(Visit&& visit) const {
        for (const Slot& slot : slots_) {
            if (slot.count > 0) visit(std::span(bytes_.data() + slot.begin, slot.size), slot.count);
        }
    }

    size_t size() const { return size_; }

    // Bytes of all distinct pretokens together.
    size_t byte_count() const { return bytes_.size(); }

   private:
    static constexpr size_t kFirstCapacity = size_t{1} << 12;

    struct Slot {
        uint64_t hash = 0;
        size_t begin = 0;
        size_t size = 0;
        uint64_t count = 0;  // 0: the slot is free
    };

    // The slot of the pretoken, or the free one where it would go.
    Slot& find(std::span<const uint8_t> pretoken, uint64_t hash) {
        const size_t mask = slots_.size() - 1;
        for (size_t index = hash & mask;; index = (index + 1) & mask) {
            Slot& slot = slots_[index];
            if (slot.count == 0) return slot;
            if (slot.hash == hash && slot.size == pretoken.size() &&
                std::memcmp(bytes_.data() + slot.begin, pretoken.data(), pretoken.size()) == 0) {
                return slot;
            }
        }
    }

    void grow() {
        std::vector<Slot> old(2 * slots_.size());
        old.swap(slots_);
        const size_t mask = slots_.size() - 1;
        for (const Slot& slot : old) {
            if (slot.count == 0) continue;
            size_t index = slot.hash & mask;
            while (slots_[index].count > 0) index = (index + 1) & mask;
            slots_[index] = slot;
        }
    }

    std::vector<Slot> slots_;  // a power of two of them, at most half taken
    std::vector<uint8_t> bytes_;
    size_t size_ = 0;
};

}  // namespace groundup
