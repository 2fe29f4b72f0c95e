// Caches of the ids of pretokens. A few ten thousand words make up nearly all text.
//
// Both caches have a fixed budget. When it is used up, new entries replace older ones; a frequent pretoken that was
// replaced is inserted again at once.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <utility>
#include <vector>

#include "huge_array.hpp"
#include "pretoken_key.hpp"

namespace groundup {

inline constexpr uint32_t kLargestId = (uint32_t{1} << 24) - 1;

// Cache of pretokens of up to 15 bytes and 4 ids, which are nearly all. A short text needs only a small table, which
// stays in the L2 cache; so the table starts small and doubles as it fills.
//
// Every key has four slots in two neighbouring cache lines. A look-up checks first the first slot of the key's own
// line, where the most recently used entry is.
//
// A pretoken with more ids has a slot with its marked key: the pretoken is known, and its ids are in LongPretokenCache.
class ShortPretokenCache {
   public:
    static constexpr size_t kMostIds = 4;

    struct Slot {
        PretokenKey key;       // length 0: the slot is empty
        uint64_t ids[2] = {};  // four ids of 32 bits; the highest byte of the first is their number

        // Copies kMostIds ids, valid or not, which needs no loop; returns the number of valid ids.
        size_t copy_ids(uint32_t* to) const {
            const uint64_t first = ids[0] & ~(uint64_t{0xFF} << 24), second = ids[1];
            std::memcpy(to, &first, 8);
            std::memcpy(to + 2, &second, 8);
            return ids[0] >> 24 & 0xFF;
        }

        void set_ids(std::span<const uint32_t> from) {
            uint32_t all[kMostIds] = {};
            std::copy(from.begin(), from.end(), all);
            all[0] |= static_cast<uint32_t>(from.size()) << 24;
            std::memcpy(ids, all, sizeof ids);
        }
    };
    static_assert(sizeof(Slot) == 32, "two slots fill a cache line");

    ShortPretokenCache() : slots_(kMostSlots) { slots_.make_ready(slot_count_); }

    // Returns a function from a key to its first slot, valid until the cache grows.
    auto home() {
        return [slots = slots_.data(), shift = shift_](const PretokenKey& key) {
            return slots + 2 * (key.hash() >> shift);
        };
    }

    // Whether the unmarked key is in the second slot, which is in the same cache line; if so, moves it to the first.
    static bool find_beside(Slot* home, const PretokenKey& key) {
        if (!(home[1].key == key)) return false;
        std::swap(home[0], home[1]);
        return true;
    }

    // Prefetches the slots that find() checks after the first.
    void prefetch_others(const Slot* home) const {
        __builtin_prefetch(slots_.data() + ((home - slots_.data()) ^ 2), 1);
    }

    // Whether the key is in the cache, marked or not; if so, moves it to its first slot.
    bool find(Slot* home, const PretokenKey& key) {
        for (Slot* slot : slots_of(home)) {
            if (!slot->key.same_pretoken(key)) continue;
            std::swap(*home, *slot);
            return true;
        }
        return false;
    }

    // Inserts a new key into its first slot.
    void insert(Slot* home, const PretokenKey& key, std::span<const uint32_t> ids) {
        Slot& slot = make_place(home);
        slot.key = ids.size() <= kMostIds ? key : key.marked();
        if (ids.size() <= kMostIds) slot.set_ids(ids);
    }

    // Doubles the table if it is full; call it from time to time. Slots are ordered by hash, so the entries keep their
    // order in a table of twice the size, and the table grows in place, from its end to its start.
    void grow_if_full() {
        if (4 * inserted_ < slot_count_ || slot_count_ == kMostSlots) return;
        slots_.make_ready(2 * slot_count_);
        --shift_;
        inserted_ = 0;
        const auto home_of = home();
        for (size_t group = slot_count_; group > 0;) {
            group -= kWays;
            std::array<Slot, kWays> old;
            std::copy_n(slots_.data() + group, kWays, old.begin());
            std::fill_n(slots_.data() + 2 * group, 2 * kWays, Slot{});
            for (const Slot& slot : old) {
                if (slot.key.size() > 0) make_place(home_of(slot.key)) = slot;
            }
        }
        slot_count_ *= 2;
    }

   private:
    static constexpr size_t kWays = 4;
    static constexpr size_t kMostSlots = size_t{1} << 20;  // 32 MiB; only the part in use is touched

    // The four slots, the first one first.
    std::array<Slot*, kWays> slots_of(Slot* home) {
        Slot* const neighbour = slots_.data() + ((home - slots_.data()) ^ 2);
        return {home, home + 1, neighbour + 1, neighbour};
    }

    // The first free slot, or else the second: most new pretokens are rare, and the one in the first slot is not.
    Slot& make_place(Slot* home) {
        ++inserted_;
        for (Slot* slot : slots_of(home)) {
            if (slot->key.size() == 0) return *slot;
        }
        return home[1];
    }

    HugeArray<Slot> slots_;
    size_t slot_count_ = size_t{1} << 14;  // 512 KiB
    int shift_ = 64 - 13;  // of a hash, to the index of a pair of slots
    size_t inserted_ = 0;  // since the last growth
};

// Cache of all other pretokens up to a few thousand bytes: long words, rules of dashes, indentation, other scripts.
class LongPretokenCache {
   public:
    static constexpr size_t kLongest = 4096;

    void prefetch(uint64_t hash) const { __builtin_prefetch(&slots_[hash & (slots_.size() - 1)]); }

    // The ids; empty if the pretoken is not in the cache. Valid until the next insert.
    std::span<const uint32_t> find(std::span<const uint8_t> pretoken, uint64_t hash) const {
        for (size_t index = hash & (slots_.size() - 1);; index = (index + 1) & (slots_.size() - 1)) {
            const Slot& slot = slots_[index];
            if (slot.size == 0) return {};
            if (slot.hash == hash && slot.size == pretoken.size() &&
                std::memcmp(bytes_.data() + slot.first_byte, pretoken.data(), pretoken.size()) == 0) {
                return {ids_.data() + slot.first_id, slot.id_count};
            }
        }
    }

    // Adds a new pretoken. When the budget is used up, the cache is cleared first.
    void insert(std::span<const uint8_t> pretoken, uint64_t hash, std::span<const uint32_t> ids) {
        const bool full = 4 * (count_ + 1) > 3 * slots_.size();
        if (byte_count_ + pretoken.size() > kMostBytes || (full && slots_.size() == kMostSlots)) {
            std::fill(slots_.begin(), slots_.end(), Slot());
            byte_count_ = id_count_ = count_ = 0;
        } else if (full) {
            std::vector<Slot> old(2 * slots_.size());
            old.swap(slots_);
            for (const Slot& slot : old) {
                if (slot.size > 0) free_slot(slot.hash) = slot;
            }
        }
        if (byte_count_ >= kMany) {
            bytes_.make_ready(byte_count_ + pretoken.size());
            ids_.make_ready(id_count_ + ids.size());
        }
        free_slot(hash) = {hash, static_cast<uint32_t>(byte_count_), static_cast<uint32_t>(pretoken.size()),
                           static_cast<uint32_t>(id_count_), static_cast<uint32_t>(ids.size())};
        std::copy(pretoken.begin(), pretoken.end(), bytes_.data() + byte_count_);
        std::copy(ids.begin(), ids.end(), ids_.data() + id_count_);
        byte_count_ += pretoken.size();
        id_count_ += ids.size();
        ++count_;
    }

   private:
    static constexpr size_t kMostSlots = size_t{1} << 19;  // 12 MiB
    static constexpr size_t kMostBytes = size_t{1} << 23;  // the ids take at most four times as much
    static constexpr size_t kMany = size_t{1} << 18;       // from here on huge pages pay off

    struct Slot {
        uint64_t hash = 0;
        uint32_t first_byte = 0, size = 0;  // size 0: the slot is free
        uint32_t first_id = 0, id_count = 0;
    };

    // The free slot for a new pretoken.
    Slot& free_slot(uint64_t hash) {
        size_t index = hash & (slots_.size() - 1);
        while (slots_[index].size > 0) index = (index + 1) & (slots_.size() - 1);
        return slots_[index];
    }

    std::vector<Slot> slots_ = std::vector<Slot>(size_t{1} << 10);
    // Allocated at their final size: they are never copied, and unused memory is never touched.
    HugeArray<uint8_t> bytes_{kMostBytes};
    HugeArray<uint32_t> ids_{kMostBytes};
    size_t byte_count_ = 0, id_count_ = 0, count_ = 0;
};

}  // namespace groundup
