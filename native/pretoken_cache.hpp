// The ids of pretokens seen before. Text repeats itself: a few ten thousand words are nearly all of it.
//
// Both caches have a fixed budget. When it is used up, what is new takes the place of something older, and what is
// frequent wins its place back at once.
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

// Pretokens of up to 15 bytes and 4 ids, which are nearly all that there are. A short text needs a small table, which
// stays in the L2 cache; so it begins small and doubles as it fills.
//
// Every key has four slots, in two neighbouring cache lines, and one of the four is where it is looked for first: the
// first of its own line. There lies what was used last.
//
// A pretoken with more ids has a slot with its marked key: it is known, and its ids lie elsewhere.
class ShortPretokenCache {
   public:
    static constexpr size_t kMostIds = 4;

    struct Slot {
        PretokenKey key;       // of length 0: the slot is empty
        uint64_t ids[2] = {};  // four of 32 bits; the first has their number in its highest byte

        // Copies kMostIds ids whether they mean something or not, which needs no loop, and returns how many do.
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

    // Tells the first slot of a key, until the cache grows.
    auto home() {
        return [slots = slots_.data(), shift = shift_](const PretokenKey& key) {
            return slots + 2 * (key.hash() >> shift);
        };
    }

    // Whether the key, not marked, is in the second slot, which is in the same cache line; then it is in the first.
    static bool find_beside(Slot* home, const PretokenKey& key) {
        if (!(home[1].key == key)) return false;
        std::swap(home[0], home[1]);
        return true;
    }

    // Brings the slots that find() looks at after the first into the processor's cache.
    void prefetch_others(const Slot* home) const {
        __builtin_prefetch(slots_.data() + ((home - slots_.data()) ^ 2), 1);
    }

    // Whether the key is here, marked or not; then it is in its first slot.
    bool find(Slot* home, const PretokenKey& key) {
        for (Slot* slot : slots_of(home)) {
            if (!slot->key.same_pretoken(key)) continue;
            std::swap(*home, *slot);
            return true;
        }
        return false;
    }

    // Puts a key that is not here into its first slot.
    void insert(Slot* home, const PretokenKey& key, std::span<const uint32_t> ids) {
        Slot& slot = make_place(home);
        slot.key = ids.size() <= kMostIds ? key : key.marked();
        if (ids.size() <= kMostIds) slot.set_ids(ids);
    }

    // To be called now and then. Places are ordered by hash, so that twice as many take what was there in order: the
    // table grows in its own memory, from the end to the beginning.
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
    static constexpr size_t kMostSlots = size_t{1} << 20;  // 32 MiB, of which no more is touched than is in use

    // The four slots, the first one first.
    std::array<Slot*, kWays> slots_of(Slot* home) {
        Slot* const neighbour = slots_.data() + ((home - slots_.data()) ^ 2);
        return {home, home + 1, neighbour + 1, neighbour};
    }

    // The first slot that is free, or else the second: most of what is new is rare, and what lies in the first is not.
    Slot& make_place(Slot* home) {
        ++inserted_;
        for (Slot* slot : slots_of(home)) {
            if (slot->key.size() == 0) return *slot;
        }
        return home[1];
    }

    HugeArray<Slot> slots_;
    size_t slot_count_ = size_t{1} << 14;  // 512 KiB
    int shift_ = 64 - 13;  // leaves as many bits of a hash as there are pairs of slots
    size_t inserted_ = 0;  // since it has this size
};

// The others, up to a few thousand bytes: long words, rules of dashes, indentation, other scripts.
class LongPretokenCache {
   public:
    static constexpr size_t kLongest = 4096;

    void prefetch(uint64_t hash) const { __builtin_prefetch(&slots_[hash & (slots_.size() - 1)]); }

    // The ids; empty if they are not here. Valid until the next insert.
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

    // Adds a pretoken that is not here. When the budget is used up, everything starts afresh.
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
    static constexpr size_t kMostBytes = size_t{1} << 23;  // and at most four times as much for the ids
    static constexpr size_t kMany = size_t{1} << 18;       // few need no huge pages

    struct Slot {
        uint64_t hash = 0;
        uint32_t first_byte = 0, size = 0;  // of size 0: the slot is free
        uint32_t first_id = 0, id_count = 0;
    };

    // Where a pretoken that is not here would go.
    Slot& free_slot(uint64_t hash) {
        size_t index = hash & (slots_.size() - 1);
        while (slots_[index].size > 0) index = (index + 1) & (slots_.size() - 1);
        return slots_[index];
    }

    std::vector<Slot> slots_ = std::vector<Slot>(size_t{1} << 10);
    // As large as they can become, since nothing is copied then, and what is not used is never touched.
    HugeArray<uint8_t> bytes_{kMostBytes};
    HugeArray<uint32_t> ids_{kMostBytes};
    size_t byte_count_ = 0, id_count_ = 0, count_ = 0;
};

}  // namespace groundup
