// Priority queue of the most frequent pairs.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "pair_table.hpp"
#include "token_order.hpp"

namespace groundup {

// A heap of the pairs that occur at least `threshold_` times. Most pairs are rare and never merge; they are considered
// only when the heap is empty and the threshold is lowered.
//
// After a pair has been added its count only falls, so the count of an entry is exact or too high. An entry that is too
// high is put back with the current count when it reaches the top.
class PairQueue {
    struct Entry {
        uint64_t count;
        uint32_t pair;
    };

    static auto later(const PairTable& pairs, const TokenOrder& order) {
        return [&](const Entry& a, const Entry& b) {
            if (a.count != b.count) return a.count < b.count;
            const TokenPair &pair_a = pairs[a.pair], &pair_b = pairs[b.pair];
            return order.before(pair_b.left, pair_b.right, pair_a.left, pair_a.right);
        };
    }

   public:
    // Adds a new pair, with its final positions and greatest count.
    void add(uint32_t pair, const PairTable& pairs, const TokenOrder& order) {
        if (pairs[pair].count >= threshold_) push(pair, pairs, order);
    }

    // Removes and returns the pair that merges next, of those that occur at least `least` >= 1 times and may merge;
    // kNone without one.
    template <typename MayMerge>
    uint32_t take(const PairTable& pairs, const TokenOrder& order, uint64_t least, MayMerge&& may_merge) {
        for (;;) {
            while (!heap_.empty()) {
                std::pop_heap(heap_.begin(), heap_.end(), later(pairs, order));
                const Entry entry = heap_.back();
                heap_.pop_back();
                const TokenPair& pair = pairs[entry.pair];
                if (entry.count != pair.count) {
                    add(entry.pair, pairs, order);
                } else if (may_merge(pair.left, pair.right)) {
                    return entry.pair;
                }
            }
            if (threshold_ <= least) return PairTable::kNone;
            lower_threshold(pairs, order, least);
        }
    }

   private:
    void push(uint32_t pair, const PairTable& pairs, const TokenOrder& order) {
        heap_.push_back({pairs[pair].count, pair});
        std::push_heap(heap_.begin(), heap_.end(), later(pairs, order));
    }

    // Lowers the threshold to half of the greatest count below it.
    void lower_threshold(const PairTable& pairs, const TokenOrder& order, uint64_t least) {
        uint64_t greatest = 0;
        for (uint32_t pair = 0; pair < pairs.size(); ++pair) {
            if (pairs[pair].count < threshold_) greatest = std::max(greatest, pairs[pair].count);
        }
        const uint64_t above = threshold_;
        threshold_ = std::max(greatest / 2, least);
        for (uint32_t pair = 0; pair < pairs.size(); ++pair) {
            const uint64_t count = pairs[pair].count;
            if (count >= threshold_ && count < above) heap_.push_back({count, pair});
        }
        std::make_heap(heap_.begin(), heap_.end(), later(pairs, order));
    }

    std::vector<Entry> heap_;
    uint64_t threshold_ = UINT64_MAX;
};

}  // namespace groundup
