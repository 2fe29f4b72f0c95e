// Which pairs of tokens merge, how early, and into what.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "hash.hpp"

namespace groundup {

inline constexpr uint32_t kNoRank = UINT32_MAX;

struct Merge {
    uint32_t rank = kNoRank;  // order of creation; kNoRank: the pair does not merge
    uint32_t token = 0;
};

// Open addressing with linear probing, at most half full.
class MergeTable {
   public:
    explicit MergeTable(size_t merge_count) : slots_(std::bit_ceil(2 * merge_count + 1)), mask_(slots_.size() - 1) {}

    void insert(uint32_t left, uint32_t right, Merge merge) { slot(left, right) = {key(left, right), merge}; }

    Merge find(uint32_t left, uint32_t right) const {
        return const_cast<MergeTable*>(this)->slot(left, right).merge;
    }

   private:
    struct Slot {
        uint64_t key = 0;
        Merge merge;
    };

    static uint64_t key(uint32_t left, uint32_t right) { return uint64_t{left} << 32 | right; }

    // The slot of the pair, or the empty one where it would go.
    Slot& slot(uint32_t left, uint32_t right) {
        const uint64_t wanted = key(left, right);
        size_t index = mix(wanted) & mask_;
        while (slots_[index].merge.rank != kNoRank && slots_[index].key != wanted) index = (index + 1) & mask_;
        return slots_[index];
    }

    std::vector<Slot> slots_;
    size_t mask_;
};

}  // namespace groundup
