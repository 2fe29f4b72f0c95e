// Counts of distinct pretokens.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <utility>
#include <vector>

#include "hash.hpp"
#include "huge_array.hpp"
#include "pretoken_key.hpp"
#include "pretoken_scanner.hpp"

namespace groundup {

// Two hash tables with linear probing: short pretokens are their own keys; the bytes of long ones are in one buffer.
class PretokenCounts {
   public:
    // Counts consecutive pretokens that begin at `begin`, each `weight` times. `readable` bytes of the text may be
    // read.
    void add(const uint8_t* text, size_t readable, size_t begin, std::span<const uint64_t> ends, uint64_t weight) {
        make_room(ends.size());
        // Two passes: the first prefetches all slots, the second reads them.
        std::array<PretokenKey, PretokenEnds::kCapacity> keys;
        std::array<size_t, PretokenEnds::kCapacity> homes;
        size_t start = begin;
        for (size_t i = 0; i < ends.size(); ++i) {
            keys[i] = key_of(text + start, ends[i] - start, readable - start);
            homes[i] = home(keys[i]);
            __builtin_prefetch(&slots_[homes[i]]);
            start = ends[i];
        }
        start = begin;
        for (size_t i = 0; i < ends.size(); ++i) {
            if (keys[i].size() <= PretokenKey::kLongest) [[likely]] {
                add(keys[i], homes[i], weight);
            } else {
                add_long({text + start, ends[i] - start}, weight);
            }
            start = ends[i];
        }
    }

    void add(std::span<const uint8_t> pretoken, uint64_t weight) {
        if (pretoken.size() > PretokenKey::kLongest) return add_long(pretoken, weight);
        make_room(1);
        const PretokenKey key(pretoken.data(), pretoken.size());
        add(key, home(key), weight);
    }

    void add(const PretokenCounts& other) {
        other.for_each([this](std::span<const uint8_t> pretoken, uint64_t count) { add(pretoken, count); });
    }

    // Calls visit(bytes, count) for every distinct pretoken, in no particular order.
    template <typename Visit>
    void for_each(Visit&& visit) const {
        for (size_t i = 0; i < slots_.size(); ++i) {
            const PretokenKey& key = slots_[i].key;
            if (key.size() == 0) continue;
            const std::array<uint8_t, 16> bytes = key.bytes();
            visit(std::span<const uint8_t>(bytes.data(), key.size()), slots_[i].count);
        }
        for (const LongSlot& slot : long_slots_) {
            if (slot.count > 0) visit(std::span<const uint8_t>(bytes_of(slot), slot.size), slot.count);
        }
    }

    size_t size() const { return short_count_ + long_count_; }

    // Bytes of all distinct pretokens together.
    size_t byte_count() const { return short_bytes_ + long_bytes_.size(); }

   private:
    static constexpr size_t kFirstCapacity = size_t{1} << 12;

    struct Slot {
        PretokenKey key;  // length 0: the slot is free
        uint64_t count;
    };

    struct LongSlot {
        uint64_t hash = 0;
        size_t begin = 0;
        size_t size = 0;
        uint64_t count = 0;  // 0: the slot is free
    };

    size_t home(const PretokenKey& key) const { return key.hash() >> shift_; }
    const uint8_t* bytes_of(const LongSlot& slot) const { return long_bytes_.data() + slot.begin; }

    void add(const PretokenKey& key, size_t index, uint64_t weight) {
        for (;; index = (index + 1) & (slots_.size() - 1)) {
            Slot& slot = slots_[index];
            if (slot.key == key) {
                slot.count += weight;
                return;
            }
            if (slot.key.size() == 0) {
                slot = {key, weight};
                ++short_count_;
                short_bytes_ += key.size();
                return;
            }
        }
    }

    // Grows the table so that it is at most two thirds full with `more` pretokens.
    void make_room(size_t more) {
        if (3 * (short_count_ + more) <= 2 * slots_.size()) return;
        HugeArray<Slot> old(2 * slots_.size());
        old.make_ready(old.size());
        std::swap(old, slots_);
        --shift_;
        for (size_t i = 0; i < old.size(); ++i) {
            if (old[i].key.size() == 0) continue;
            size_t index = home(old[i].key);
            while (slots_[index].key.size() > 0) index = (index + 1) & (slots_.size() - 1);
            slots_[index] = old[i];
        }
    }

    void add_long(std::span<const uint8_t> pretoken, uint64_t weight) {
        if (2 * (long_count_ + 1) > long_slots_.size()) grow_long();
        const uint64_t hash = hash_bytes(pretoken.data(), pretoken.size());
        LongSlot& slot = find_long(pretoken, hash);
        if (slot.count == 0) {
            slot = {hash, long_bytes_.size(), pretoken.size(), 0};
            long_bytes_.insert(long_bytes_.end(), pretoken.begin(), pretoken.end());
            ++long_count_;
        }
        slot.count += weight;
    }

    // The slot of the pretoken, or the free slot for it.
    LongSlot& find_long(std::span<const uint8_t> pretoken, uint64_t hash) {
        const size_t mask = long_slots_.size() - 1;
        for (size_t index = hash & mask;; index = (index + 1) & mask) {
            LongSlot& slot = long_slots_[index];
            if (slot.count == 0) return slot;
            if (slot.hash == hash && slot.size == pretoken.size() &&
                std::memcmp(bytes_of(slot), pretoken.data(), pretoken.size()) == 0) {
                return slot;
            }
        }
    }

    void grow_long() {
        std::vector<LongSlot> old(2 * long_slots_.size());
        old.swap(long_slots_);
        const size_t mask = long_slots_.size() - 1;
        for (const LongSlot& slot : old) {
            if (slot.count == 0) continue;
            size_t index = slot.hash & mask;
            while (long_slots_[index].count > 0) index = (index + 1) & mask;
            long_slots_[index] = slot;
        }
    }

    HugeArray<Slot> slots_{kFirstCapacity};  // the size of all tables here is a power of two
    int shift_ = 64 - 12;  // of a hash, to the index of a slot
    size_t short_count_ = 0;
    size_t short_bytes_ = 0;
    std::vector<LongSlot> long_slots_ = std::vector<LongSlot>(kFirstCapacity);  // at most half full
    std::vector<uint8_t> long_bytes_;
    size_t long_count_ = 0;
};

}  // namespace groundup
