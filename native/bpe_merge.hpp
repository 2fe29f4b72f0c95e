// Byte-pair encoding of one pretoken of any length. The pair of the lowest rank merges first; of equal pairs, the
// leftmost.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <tuple>
#include <vector>

#include "hash.hpp"
#include "merge_lanes.hpp"
#include "merge_table.hpp"

namespace groundup {

struct MergeCandidate {
    uint32_t rank;
    uint32_t position;
    uint32_t left, right;

    // Order of a heap whose top merges first.
    bool operator<(const MergeCandidate& other) const {
        return rank != other.rank ? rank > other.rank : position > other.position;
    }
};

// Pretokens up to this length merge by a scan of all pairs (merge_lanes.hpp).
using ShortLanes = MergeLanes<64, 8>;
inline constexpr size_t kLongestShort = ShortLanes::Lane::kMostBytes;

// Sweeps take 8 bytes a symbol.
inline constexpr size_t kLongestSwept = 4096;

// Buffers that are reused from one pretoken to the next.
struct MergeScratch {
    ShortLanes lanes;
    std::vector<uint32_t> symbols;
    std::vector<uint32_t> ranks;           // for merge_in_sweeps
    std::vector<uint32_t> previous, next;  // linked list of merge_by_heap
    std::vector<MergeCandidate> heap;

    // A join of BlockMerger: the token at it, and the state before.
    struct Join {
        size_t begin_before, result_before;
        uint32_t token;
    };
    std::vector<uint32_t> block, result;
    std::array<std::vector<uint32_t>, 8> blocks;  // encoded at the same time
    std::vector<Join> joins;

    // Cache of long blocks and their symbols. Text that needs long blocks is repetitive: rules of dashes, indentation.
    struct LongBlock {
        std::vector<uint8_t> bytes;
        std::vector<uint32_t> symbols;
    };
    std::array<LongBlock, 32> long_blocks;
};

// The definition in O(n log n): a heap of candidate pairs over a doubly linked list. A candidate is stale if one of its
// two symbols has changed.
template <typename Merges>
void merge_by_heap(const Merges& merges, MergeScratch& scratch) {
    constexpr uint32_t kMerged = UINT32_MAX;  // the symbol was absorbed by its left neighbour
    std::vector<uint32_t>&symbols = scratch.symbols, &previous = scratch.previous, &next = scratch.next;
    const auto count = static_cast<uint32_t>(symbols.size());
    previous.resize(count);
    next.resize(count);
    std::vector<MergeCandidate>& heap = scratch.heap;
    heap.clear();
    // Whether the pair that begins at `left` merges; if so, it is appended to the candidates.
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

// The definition for proper merges of repetitive bytes, such as rules of dashes: all merges of the lowest rank in one
// sweep. This is correct because the product of a merge has only later merges. Returns false if so many different
// merges apply that other algorithms are faster; scratch.symbols is then undefined.
inline bool merge_in_sweeps(const MergeTable& merges, std::span<const uint8_t> bytes, MergeScratch& scratch) {
    std::vector<uint32_t>&symbols = scratch.symbols, &ranks = scratch.ranks;
    symbols.assign(bytes.begin(), bytes.end());
    ranks.resize(bytes.size());  // ranks[i]: rank of the pair that begins at symbol i
    for (size_t i = 0; i + 1 < bytes.size(); ++i) ranks[i] = merges.byte_rank(bytes[i], bytes[i + 1]);
    ranks.back() = kNoRank;
    for (size_t swept = 0; swept < 3 * bytes.size(); swept += symbols.size()) {
        const uint32_t least = *std::min_element(ranks.begin(), ranks.end());
        if (least == kNoRank) return true;
        const uint32_t product = merges.product(least);
        size_t kept = 0;
        for (size_t i = 0; i < symbols.size(); ++kept) {
            const bool merges_here = ranks[i] == least;
            const uint32_t symbol = merges_here ? product : symbols[i];
            if (kept > 0) {
                const bool is_new = merges_here || symbols[kept - 1] == product;
                ranks[kept - 1] = is_new ? merges.rank(symbols[kept - 1], symbol) : ranks[i - 1];
            }
            symbols[kept] = symbol;
            i += merges_here ? 2 : 1;
        }
        symbols.resize(kept);
        ranks.resize(kept);
        ranks.back() = kNoRank;
    }
    return false;
}

// The symbols of some bytes, valid until the next call with this scratch.
inline std::span<uint32_t> merge_at_once(const MergeTable& merges, std::span<const uint8_t> bytes,
                                         MergeScratch& scratch) {
    if (bytes.size() <= kLongestShort) {
        scratch.symbols.clear();
        scratch.lanes.merge(
            merges, 1, [&](size_t) { return bytes; },
            [&](size_t, const auto& lane) {
                lane.for_each_symbol([&](uint32_t symbol) { scratch.symbols.push_back(symbol); });
            });
        return scratch.symbols;
    }
    if (merges.are_proper() && merge_in_sweeps(merges, bytes, scratch)) return scratch.symbols;
    scratch.symbols.assign(bytes.begin(), bytes.end());
    merge_by_heap(merges, scratch);
    return scratch.symbols;
}

// The same, with a cache of long blocks.
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

// The same in O(n), for pretokens such as a megabyte of one letter: block by block, into scratch.result.
//
// If the merges are proper, a sequence of tokens is the encoding of its bytes if and only if every two neighbours are
// the encoding of theirs. So the encodings of two overlapping blocks may be joined at a token that both have at the
// same position: all neighbours in the result are neighbours in one of them. The encoding of a block differs from that
// of the whole pretoken only near the ends of the block.
class BlockMerger {
   public:
    BlockMerger(const MergeTable& merges, std::span<const uint8_t> bytes, MergeScratch& scratch)
        : merges_(merges), bytes_(bytes), scratch_(scratch), block_(scratch.block), result_(scratch.result),
          joins_(scratch.joins) {}

    void run() {
        result_.clear();
        joins_.clear();
        take(encode_block(0, end_));
        size_t next_try = 0;
        while (end_ < bytes_.size()) {
            if (begin_ >= next_try && begin_ >= hard_ && join_many()) continue;
            // If this fails, it usually fails again for the next blocks.
            if (begin_ >= next_try) next_try = begin_ + 16 * kLongestShort;
            if (!join_next()) lengthen();
        }
        result_.insert(result_.end(), block_.begin(), block_.end());
    }

   private:
    using Symbols = std::vector<uint32_t>;

    std::span<const uint32_t> encode_block(size_t begin, size_t end) {
        return merge_block(merges_, bytes_.subspan(begin, std::min(end, bytes_.size()) - begin), scratch_);
    }

    void take(std::span<const uint32_t> symbols) { block_.assign(symbols.begin(), symbols.end()); }

    // Keeps the first `kept` tokens of the block, which cover `kept_bytes`; the next block covers the rest.
    void keep(size_t kept, size_t kept_bytes) {
        joins_.push_back({begin_, result_.size(), block_[kept]});
        result_.insert(result_.end(), block_.begin(), block_.begin() + static_cast<ptrdiff_t>(kept));
        begin_ += kept_bytes;
    }

    // Joins several blocks whose starts do not depend on tokens, so that they are encoded at the same time; returns
    // whether it joined any.
    bool join_many() {
        constexpr size_t kStep = kLongestShort - 20;  // an overlap of 20 is enough for the tokens cut at either side
        const size_t first = end_ - (kLongestShort - kStep);
        const size_t last_end = first + kStep * (kBlocks - 1) + kLongestShort;
        if (end_ - begin_ > kLongestShort || last_end > bytes_.size()) return false;
        const auto begin_of = [&](size_t i) { return first + i * kStep; };
        scratch_.lanes.merge(
            merges_, kBlocks, [&](size_t i) { return bytes_.subspan(begin_of(i), kLongestShort); },
            [&](size_t i, const auto& lane) {
                scratch_.blocks[i].clear();
                lane.for_each_symbol([&](uint32_t symbol) { scratch_.blocks[i].push_back(symbol); });
            });
        for (size_t i = 0; i < kBlocks; ++i) {
            if (!join(scratch_.blocks[i], begin_of(i))) return i > 0;
        }
        return true;
    }

    // Joins a block with the previous one, at the first token after its begin that both have at the same position.
    bool join(const Symbols& next, size_t next_begin) {
        size_t position = begin_, next_position = next_begin, i = 0, j = 0;
        while (i < block_.size() && j < next.size()) {
            if (position < next_position || (position == next_position && i == 0)) {
                position += merges_.length(block_[i++]);
            } else if (next_position < position) {
                next_position += merges_.length(next[j++]);
            } else if (block_[i] != next[j]) {
                position += merges_.length(block_[i++]);
                next_position += merges_.length(next[j++]);
            } else {
                keep(i, position - begin_);
                block_.assign(next.begin() + static_cast<ptrdiff_t>(j), next.end());
                end_ = next_begin + kLongestShort;
                return true;
            }
        }
        return false;
    }

    // Joins a block that begins with a token of this one.
    bool join_next() {
        // Try the last token that begins in the first six eighths first; the rest is long enough for most cut tokens.
        size_t kept = 0, kept_bytes = 0;
        while (kept_bytes + merges_.length(block_[kept]) <= (end_ - begin_) * 6 / 8) {
            kept_bytes += merges_.length(block_[kept++]);
        }
        for (; kept > 0; kept_bytes -= merges_.length(block_[--kept])) {
            const std::span<const uint32_t> next = encode_block(begin_ + kept_bytes, begin_ + kept_bytes + least_);
            if (next[0] != block_[kept]) continue;
            keep(kept, kept_bytes);
            take(next);
            end_ = begin_ + least_;
            if (begin_ > hard_) least_ = kLongestShort;
            return true;
        }
        return false;
    }

    // Doubles the block, after a token about as long as the block. The longer block may begin with another token than
    // the one it was joined at. Then that join is undone, and the previous block is lengthened too.
    void lengthen() {
        size_t size = 2 * (end_ - begin_);
        take(encode_block(begin_, end_ = begin_ + size));
        while (!joins_.empty() && block_[0] != joins_.back().token) {
            hard_ = std::max(hard_, end_);
            least_ = size *= 2;
            begin_ = joins_.back().begin_before;
            result_.resize(joins_.back().result_before);
            joins_.pop_back();
            take(encode_block(begin_, end_ = begin_ + size));
        }
    }

    const MergeTable& merges_;
    std::span<const uint8_t> bytes_;
    MergeScratch& scratch_;
    Symbols& block_;   // encoding of the bytes from begin_ to end_
    Symbols& result_;  // encoding of the bytes before begin_
    std::vector<MergeScratch::Join>& joins_;
    static constexpr size_t kBlocks = std::tuple_size_v<decltype(MergeScratch::blocks)>;
    size_t begin_ = 0, end_ = kLongestShort;
    size_t least_ = kLongestShort, hard_ = 0;  // up to position hard_, blocks have at least least_ bytes
};

// The symbols of a pretoken, valid until the next call with this scratch.
inline std::span<uint32_t> merge_pretoken(const MergeTable& merges, std::span<const uint8_t> pretoken,
                                          MergeScratch& scratch) {
    if (pretoken.size() <= kLongestShort || !merges.are_proper()) return merge_at_once(merges, pretoken, scratch);
    if (pretoken.size() <= kLongestSwept && merge_in_sweeps(merges, pretoken, scratch)) return scratch.symbols;
    BlockMerger(merges, pretoken, scratch).run();
    return scratch.result;
}

}  // namespace groundup
