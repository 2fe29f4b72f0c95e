// The ids of pretokens seen before. Text repeats itself: a few ten thousand words are nearly all of it.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>
#include <span>
#include <vector>

#include "hash.hpp"

namespace groundup {

static_assert(std::endian::native == std::endian::little, "PretokenKey masks words as little-endian ones");

// A pretoken of at most 15 bytes is its own key: the bytes, zero-filled, and their number in the last byte.
struct PretokenKey {
    static constexpr size_t kLongest = 15;

    uint64_t low = 0;
    uint64_t high = 0;

    PretokenKey() = default;

    // `readable` >= size bytes may be read at `bytes`. With 16 of them two loads and a mask replace a copy whose
    // length the processor cannot foresee.
    PretokenKey(const uint8_t* bytes, size_t size, size_t readable) {
        uint8_t packed[16] = {};
        std::memcpy(packed, bytes, readable >= 16 ? 16 : size);
        std::memcpy(&low, packed, 8);
        std::memcpy(&high, packed + 8, 8);
        low &= mask_of(size);
        high &= mask_of(size > 8 ? size - 8 : 0);
        high |= uint64_t{size} << 56;
    }

    bool operator==(const PretokenKey&) const = default;
    uint64_t hash() const { return mix(low ^ (high * 0x9E3779B97F4A7C15u)); }

   private:
    // Keeps the first `size` bytes of a word.
    static uint64_t mask_of(size_t size) { return size >= 8 ? UINT64_MAX : (uint64_t{1} << (8 * size)) - 1; }
};

// Direct-mapped and of fixed size: a newcomer takes the slot of whoever had it. It never has to grow or be searched,
// and the frequent pretokens win back their slots at once.
class PretokenCache {
   public:
    // calloc, because pages that are never used are then never touched: a short text pays for a short cache.
    PretokenCache() : slots_(static_cast<Slot*>(std::calloc(kSlotCount, sizeof(Slot)))) {
        if (!slots_) throw std::bad_alloc();
    }

    // The ids of the pretoken; empty if it is not here. Valid until the next insert.
    std::span<const uint32_t> find(const PretokenKey& key) const {
        const Slot& slot = slots_[key.hash() & (kSlotCount - 1)];
        if (!(slot.key == key)) return {};
        if (slot.count <= kInline) return {slot.ids, slot.count};
        return {spilled_.data() + slot.ids[0], slot.count};
    }

    void insert(const PretokenKey& key, std::span<const uint32_t> ids) {
        const bool spills = ids.size() > kInline;
        if (spills && spilled_.size() + ids.size() > kSpillCapacity) clear();
        Slot& slot = slots_[key.hash() & (kSlotCount - 1)];
        slot.key = key;
        slot.count = static_cast<uint32_t>(ids.size());
        if (spills) {
            slot.ids[0] = static_cast<uint32_t>(spilled_.size());
            spilled_.insert(spilled_.end(), ids.begin(), ids.end());
        } else {
            std::memcpy(slot.ids, ids.data(), ids.size_bytes());
        }
    }

   private:
    static constexpr size_t kSlotCount = size_t{1} << 17;      // 4 MiB
    static constexpr size_t kSpillCapacity = size_t{1} << 19;  // 2 MiB
    static constexpr size_t kInline = 3;

    struct Slot {
        PretokenKey key;  // all zero: empty, since no pretoken has length 0
        uint32_t count;
        uint32_t ids[kInline];  // more than three ids lie in spilled_ from ids[0] on
    };
    static_assert(sizeof(Slot) == 32, "two slots fill a cache line");

    // Slots that lost their place leave their ids in spilled_ behind, so now and then everything starts afresh.
    void clear() {
        std::memset(static_cast<void*>(slots_.get()), 0, kSlotCount * sizeof(Slot));
        spilled_.clear();
    }

    struct Free {
        void operator()(Slot* slots) const { std::free(slots); }
    };

    std::unique_ptr<Slot[], Free> slots_;
    std::vector<uint32_t> spilled_;
};

}  // namespace groundup
