// Byte-pair encoding of one pretoken: again and again, the pair that was learned first merges, leftmost first.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <queue>
#include <vector>

#include "merge_table.hpp"

namespace groundup {

// Memory that is kept from one pretoken to the next.
struct MergeScratch {
    std::vector<Merge> pairs;              // by scanning: what each symbol and the next one merge into
    std::vector<uint32_t> previous, next;  // by heap: the linked list
};

// The definition: look for the lowest rank, merge there, close the gap. Quadratic, and the fastest way for the
// handful of symbols of an ordinary word.
inline void merge_by_scanning(const MergeTable& merges, std::vector<uint32_t>& symbols, MergeScratch& scratch) {
    std::vector<Merge>& pairs = scratch.pairs;
    pairs.resize(symbols.size() - 1);
    for (size_t i = 0; i < pairs.size(); ++i) pairs[i] = merges.find(symbols[i], symbols[i + 1]);
    while (!pairs.empty()) {
        const auto lowest = std::min_element(pairs.begin(), pairs.end(),
                                             [](const Merge& a, const Merge& b) { return a.rank < b.rank; });
        if (lowest->rank == kNoRank) return;
        const auto i = static_cast<size_t>(lowest - pairs.begin());
        symbols[i] = lowest->token;
        symbols.erase(symbols.begin() + static_cast<ptrdiff_t>(i) + 1);
        pairs.erase(lowest);
        if (i > 0) pairs[i - 1] = merges.find(symbols[i - 1], symbols[i]);
        if (i < pairs.size()) pairs[i] = merges.find(symbols[i], symbols[i + 1]);
    }
}

struct MergeCandidate {
    uint32_t rank;
    uint32_t position;
    uint32_t left, right;

    bool operator>(const MergeCandidate& other) const {
        return rank != other.rank ? rank > other.rank : position > other.position;
    }
};

// The same result in O(n log n), for the pretoken that is a megabyte of one letter: a heap of candidate pairs over a
// doubly linked list. A candidate is stale when its two tokens are no longer the ones it was made for.
inline void merge_by_heap(const MergeTable& merges, std::vector<uint32_t>& symbols, MergeScratch& scratch) {
    constexpr uint32_t kMerged = UINT32_MAX;  // the symbol was absorbed by its left neighbour
    const auto count = static_cast<uint32_t>(symbols.size());
    std::vector<uint32_t>&previous = scratch.previous, &next = scratch.next;
    previous.resize(count);
    next.resize(count);
    std::priority_queue<MergeCandidate, std::vector<MergeCandidate>, std::greater<>> candidates;
    const auto consider = [&](uint32_t left) {
        const uint32_t right = next[left];
        if (right == count) return;
        const Merge merge = merges.find(symbols[left], symbols[right]);
        if (merge.rank != kNoRank) candidates.push({merge.rank, left, symbols[left], symbols[right]});
    };
    for (uint32_t i = 0; i < count; ++i) {
        previous[i] = i - 1;  // never read for i = 0
        next[i] = i + 1;
    }
    for (uint32_t i = 0; i < count; ++i) consider(i);
    while (!candidates.empty()) {
        const MergeCandidate candidate = candidates.top();
        candidates.pop();
        const uint32_t left = candidate.position;
        if (symbols[left] != candidate.left) continue;
        const uint32_t right = next[left];
        if (right == count || symbols[right] != candidate.right) continue;
        symbols[left] = merges.find(candidate.left, candidate.right).token;
        symbols[right] = kMerged;
        next[left] = next[right];
        if (next[left] != count) previous[next[left]] = left;
        if (left > 0) consider(previous[left]);
        consider(left);
    }
    symbols.erase(std::remove(symbols.begin(), symbols.end(), kMerged), symbols.end());
}

// Applies the merges to `symbols`, the single-byte tokens of a pretoken, in place.
inline void merge_symbols(const MergeTable& merges, std::vector<uint32_t>& symbols, MergeScratch& scratch) {
    constexpr size_t kLongestScanned = 48;
    if (symbols.size() <= kLongestScanned) {
        merge_by_scanning(merges, symbols, scratch);
    } else {
        merge_by_heap(merges, symbols, scratch);
    }
}

}  // namespace groundup
