// Byte-pair encoding of several pretokens at a time.
//
// A merge waits for two look-ups, and the next merge of the same pretoken waits for both. So pretokens take turns: one
// merge each, none of which depends on those of the others, and the processor works on many at once.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>

#include "merge_table.hpp"

namespace groundup {

// A pretoken of at least one byte, and at most as many as Mask has bits, on its way to symbols.
//
// The definition: look for the lowest rank, merge there. Symbols stay at the position of their first byte, and a bit
// mask says which positions still have one. Rank and position are one number, so the least is the leftmost lowest. In
// the arrays position i is at i + 1, with something before and behind that merges with nothing, so that all symbols
// have neighbours.
template <typename Mask>
class MergeLane {
   public:
    static constexpr size_t kMostBytes = 8 * sizeof(Mask);

    void start(const MergeTable& merges, std::span<const uint8_t> bytes) {
        size_ = bytes.size();
        candidates_.fill(kNone);
        symbols_.front() = symbols_.back() = merges.no_symbol();
        for (size_t i = 0; i < size_; ++i) symbols_[i + 1] = bytes[i];
        for (size_t i = 0; i + 1 < size_; ++i) {
            candidates_[i + 1] = candidate(merges.byte_rank(bytes[i], bytes[i + 1]), i);
        }
        present_ = static_cast<Mask>(static_cast<Mask>(~Mask{0}) >> (kMostBytes - size_));
    }

    // Makes the merge that comes first; false if there is none.
    bool step(const MergeTable& merges) {
        const uint32_t least = least_candidate();
        if (least >= kNone) return false;
        const uint32_t left = least % kMostBytes;
        const auto after = static_cast<Mask>(present_ & ~Mask{1} << left);
        const auto before = static_cast<Mask>(present_ & ((Mask{1} << left) - 1));
        const size_t right = lowest(after), next = lowest(static_cast<Mask>(after & (after - 1)));
        const size_t previous = width(before);  // counted from one
        const uint32_t product = merges.product(least / kMostBytes);
        present_ = static_cast<Mask>(present_ & ~(Mask{1} << right));
        symbols_[left + 1] = product;
        candidates_[right + 1] = kNone;
        candidates_[left + 1] = candidate(merges.rank(product, symbols_[next + 1]), left);
        candidates_[previous] = candidate(merges.rank(symbols_[previous], product), previous - 1);
        return true;
    }

    // Calls found(symbol) for each symbol that is left, in order.
    template <typename Found>
    void for_each_symbol(Found&& found) const {
        for (Mask left = present_; left != 0; left = static_cast<Mask>(left & (left - 1))) {
            found(symbols_[static_cast<size_t>(std::countr_zero(left)) + 1]);
        }
    }

   private:
    static constexpr uint32_t kNone = kNoRank / kMostBytes * kMostBytes;  // and above

    static uint32_t candidate(uint32_t rank, size_t position) {
        return rank * static_cast<uint32_t>(kMostBytes) | static_cast<uint32_t>(position % kMostBytes);
    }

    // std::countr_zero and std::bit_width, without the branch that some processors need for zero.
    static size_t lowest(Mask mask) {
        if constexpr (kMostBytes == 64) return static_cast<size_t>(std::countr_zero(mask));
        return static_cast<size_t>(std::countr_zero(uint64_t{mask} | uint64_t{1} << (kMostBytes % 64)));
    }
    static size_t width(Mask mask) {
        if constexpr (kMostBytes == 64) return static_cast<size_t>(std::bit_width(mask));
        return static_cast<size_t>(std::bit_width(uint64_t{mask} << 1 | 1)) - 1;
    }

    uint32_t least_candidate() const {
        uint32_t least = candidates_[0];
        if constexpr (kMostBytes == 16) {
            // Not by vectors: they would wait for the last three stores.
            for (size_t i = 1; i < kMostBytes; ++i) least = std::min(least, candidates_[i]);
        } else {
            for (size_t i = 1; i < size_; ++i) least = std::min(least, candidates_[i]);
        }
        return least;
    }

    std::array<uint32_t, kMostBytes + 1> candidates_;
    std::array<uint32_t, kMostBytes + 2> symbols_;
    Mask present_;
    size_t size_;
};

// Some pretokens, and one merge in each after the other until none is left in any.
template <typename Mask, size_t lane_count>
class MergeLanes {
   public:
    using Lane = MergeLane<Mask>;

    // Calls bytes_of(i) for the bytes of pretoken i < count, and done(i, lane) when it is merged, in any order.
    template <typename BytesOf, typename Done>
    void merge(const MergeTable& merges, size_t count, BytesOf&& bytes_of, Done&& done) {
        std::array<size_t, lane_count> pretokens, lanes;  // of those at work
        size_t started = 0, working = 0;
        for (; started < std::min(count, lane_count); ++started, ++working) {
            pretokens[working] = lanes[working] = started;
            lanes_[working].start(merges, bytes_of(started));
        }
        while (working > 0) {
            for (size_t i = 0; i < working;) {
                Lane& lane = lanes_[lanes[i]];
                if (lane.step(merges)) {
                    ++i;
                    continue;
                }
                done(pretokens[i], lane);
                if (started < count) {
                    pretokens[i] = started;
                    lane.start(merges, bytes_of(started++));
                } else {
                    --working;
                    pretokens[i] = pretokens[working];
                    std::swap(lanes[i], lanes[working]);
                }
            }
        }
    }

   private:
    std::array<Lane, lane_count> lanes_;
};

}  // namespace groundup
