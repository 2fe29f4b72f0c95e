// Byte-pair encoding of one pretoken: again and again, the pair that was learned first merges, leftmost first.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "hash.hpp"
#include "merge_table.hpp"

namespace groundup {

struct MergeCandidate {
    uint32_t rank;
    uint32_t position;
    uint32_t left, right;

    // For a heap, on top of which is what comes first.
    bool operator<(const MergeCandidate& other) const {
        return rank != other.rank ? rank > other.rank : position > other.position;
    }
};

// Memory that is kept from one pretoken to the next.
struct MergeScratch {
    std::vector<uint32_t> symbols;
    std::vector<uint32_t> previous, next;  // the linked list of merge_by_heap
    std::vector<MergeCandidate> heap;

    // Of merge_in_blocks: a join, the token at it, and how things were before.
    struct Join {
        size_t begin_before, result_before;
        uint32_t token;
    };
    std::vector<uint32_t> block, result;
    std::vector<Join> joins;

    // Long blocks and their symbols. Text that needs long blocks repeats itself: rules of dashes, indentation.
    struct LongBlock {
        std::vector<uint8_t> bytes;
        std::vector<uint32_t> symbols;
    };
    std::array<LongBlock, 32> long_blocks;
};

inline constexpr size_t kLongestShort = 64;

// Merges a pretoken of at most kLongestShort bytes into `symbols`, and returns how many are left.
//
// The definition: look for the lowest rank, merge there. Symbols stay at the position of their first byte, and a bit
// mask says which positions still have one. Rank and position are one number, so the least is the leftmost lowest.
inline size_t merge_short(const MergeTable& merges, std::span<const uint8_t> bytes, uint32_t* symbols) {
    const size_t size = bytes.size();
    constexpr unsigned kPositionBits = 6;
    uint32_t candidates[kLongestShort];
    const auto candidate = [](uint32_t rank, size_t position) {
        return rank == kNoRank ? kNoRank : rank << kPositionBits | static_cast<uint32_t>(position);
    };
    symbols[0] = bytes[0];
    for (size_t i = 0; i + 1 < size; ++i) {
        symbols[i + 1] = bytes[i + 1];
        candidates[i] = candidate(merges.byte_rank(bytes[i], bytes[i + 1]), i);
    }
    candidates[size - 1] = kNoRank;
    uint64_t present = ~uint64_t{0} >> (64 - size);
    for (;;) {
        uint32_t least = kNoRank;
        for (size_t i = 0; i < size; ++i) least = std::min(least, candidates[i]);
        if (least == kNoRank) break;
        const unsigned left = least & (kLongestShort - 1);
        const uint64_t after = present & (~uint64_t{1} << left);
        const auto right = static_cast<unsigned>(std::countr_zero(after));
        const uint64_t beyond = after & (after - 1), before = present & ((uint64_t{1} << left) - 1);
        const uint32_t product = merges.product(least >> kPositionBits);
        symbols[left] = product;
        candidates[right] = candidates[left] = kNoRank;
        present &= ~(uint64_t{1} << right);
        if (beyond != 0) candidates[left] = candidate(merges.rank(product, symbols[std::countr_zero(beyond)]), left);
        if (before != 0) {
            const auto previous = static_cast<unsigned>(std::bit_width(before)) - 1;
            candidates[previous] = candidate(merges.rank(symbols[previous], product), previous);
        }
    }
    size_t count = 0;
    for (; present != 0; present &= present - 1) symbols[count++] = symbols[std::countr_zero(present)];
    return count;
}

// The same result in O(n log n): a heap of candidate pairs over a doubly linked list. A candidate is stale when its two
// symbols are no longer the ones it was made for.
inline void merge_by_heap(const MergeTable& merges, MergeScratch& scratch) {
    constexpr uint32_t kMerged = UINT32_MAX;  // the symbol was absorbed by its left neighbour
    std::vector<uint32_t>&symbols = scratch.symbols, &previous = scratch.previous, &next = scratch.next;
    const auto count = static_cast<uint32_t>(symbols.size());
    previous.resize(count);
    next.resize(count);
    std::vector<MergeCandidate>& heap = scratch.heap;
    heap.clear();
    // Whether a pair begins at `left` that merges; then it is the last candidate.
    const auto consider = [&](uint32_t left) {
        const uint32_t right = next[left];
        if (right == count) return false;
        const uint32_t rank = merges.rank(symbols[left], symbols[right]);
        if (rank == kNoRank) return false;
        heap.push_back({rank, left, symbols[left], symbols[right]});
        return true;
    };
    for (uint32_t i = 0; i < count; ++i) {
        previous[i] = i - 1;  // never read for i = 0
        next[i] = i + 1;
    }
    for (uint32_t i = 0; i < count; ++i) consider(i);
    std::make_heap(heap.begin(), heap.end());
    while (!heap.empty()) {
        std::pop_heap(heap.begin(), heap.end());
        const MergeCandidate candidate = heap.back();
        heap.pop_back();
        const uint32_t left = candidate.position;
        if (symbols[left] != candidate.left) continue;
        const uint32_t right = next[left];
        if (right == count || symbols[right] != candidate.right) continue;
        symbols[left] = merges.product(candidate.rank);
        symbols[right] = kMerged;
        next[left] = next[right];
        if (next[left] != count) previous[next[left]] = left;
        if (left > 0 && consider(previous[left])) std::push_heap(heap.begin(), heap.end());
        if (consider(left)) std::push_heap(heap.begin(), heap.end());
    }
    symbols.erase(std::remove(symbols.begin(), symbols.end(), kMerged), symbols.end());
}

// The symbols of some bytes, valid until the next call with this scratch.
inline std::span<uint32_t> merge_at_once(const MergeTable& merges, std::span<const uint8_t> bytes,
                                         MergeScratch& scratch) {
    if (bytes.size() <= kLongestShort) {
        scratch.symbols.resize(kLongestShort);
        return {scratch.symbols.data(), merge_short(merges, bytes, scratch.symbols.data())};
    }
    scratch.symbols.assign(bytes.begin(), bytes.end());
    merge_by_heap(merges, scratch);
    return scratch.symbols;
}

// The same, with the long blocks that were merged before remembered.
inline std::span<const uint32_t> merge_block(const MergeTable& merges, std::span<const uint8_t> bytes,
                                             MergeScratch& scratch) {
    constexpr size_t kLongestKept = 1024;
    if (bytes.size() <= kLongestShort || bytes.size() > kLongestKept) return merge_at_once(merges, bytes, scratch);
    const uint64_t hash = hash_bytes(bytes.data(), bytes.size());
    MergeScratch::LongBlock& kept = scratch.long_blocks[hash % scratch.long_blocks.size()];
    if (!std::ranges::equal(kept.bytes, bytes)) {
        const std::span<const uint32_t> symbols = merge_at_once(merges, bytes, scratch);
        kept.symbols.assign(symbols.begin(), symbols.end());
        kept.bytes.assign(bytes.begin(), bytes.end());
    }
    return kept.symbols;
}

// The same in O(n), for the pretoken that is a megabyte of one letter: block by block, into scratch.result.
//
// If the merges are proper, then tokens one after the other are what their bytes encode to if and only if any two
// neighbours are what theirs encode to. So two encodings of overlapping blocks may be joined at a token that both have
// in the same place: no neighbours meet that were not neighbours in one of them. The block that is cut off at its end
// differs from the next one only near that end.
inline void merge_in_blocks(const MergeTable& merges, std::span<const uint8_t> bytes, MergeScratch& scratch) {
    std::vector<uint32_t>&block = scratch.block, &result = scratch.result;
    std::vector<MergeScratch::Join>& joins = scratch.joins;
    const auto encode_block = [&](size_t begin, size_t size) {
        return merge_block(merges, bytes.subspan(begin, std::min(size, bytes.size() - begin)), scratch);
    };
    const auto take = [&block](std::span<const uint32_t> symbols) { block.assign(symbols.begin(), symbols.end()); };
    result.clear();
    joins.clear();
    size_t begin = 0, size = kLongestShort;
    size_t least = kLongestShort, hard = 0;  // up to position `hard`, blocks have at least so many bytes
    take(encode_block(begin, size));
    while (begin + size < bytes.size()) {
        // The last token to begin in the first six eighths is tried first; the rest is enough for most cut-off tokens.
        size_t kept = 0, kept_bytes = 0;
        while (kept_bytes + merges.length(block[kept]) <= size * 6 / 8) kept_bytes += merges.length(block[kept++]);
        for (; kept > 0; kept_bytes -= merges.length(block[--kept])) {
            const std::span<const uint32_t> next = encode_block(begin + kept_bytes, least);
            if (next[0] == block[kept]) {
                joins.push_back({begin, result.size(), next[0]});
                result.insert(result.end(), block.begin(), block.begin() + static_cast<ptrdiff_t>(kept));
                take(next);
                begin += kept_bytes;
                size = least;
                if (begin > hard) least = kLongestShort;
                break;
            }
        }
        if (kept > 0) continue;
        // A token about as long as the block. A longer block may begin with another token than the one it was joined
        // at; then that join was none, and the block before has to be longer as well.
        take(encode_block(begin, size *= 2));
        while (!joins.empty() && block[0] != joins.back().token) {
            hard = std::max(hard, begin + size);
            least = size *= 2;
            begin = joins.back().begin_before;
            result.resize(joins.back().result_before);
            joins.pop_back();
            take(encode_block(begin, size));
        }
    }
    result.insert(result.end(), block.begin(), block.end());
}

// The symbols of a pretoken, valid until the next call with this scratch.
inline std::span<uint32_t> merge_pretoken(const MergeTable& merges, std::span<const uint8_t> pretoken,
                                          MergeScratch& scratch) {
    if (pretoken.size() <= kLongestShort || !merges.are_proper()) return merge_at_once(merges, pretoken, scratch);
    merge_in_blocks(merges, pretoken, scratch);
    return scratch.result;
}

}  // namespace groundup
