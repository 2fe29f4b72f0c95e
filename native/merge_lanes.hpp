// Byte-pair encoding of several pretokens at a time.
//
// A merge waits for two look-ups, and the next merge of the same pretoken depends on both. So several pretokens are
// interleaved, one merge each. Their merges are independent, and the processor executes them in parallel.
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

// State of a pretoken of 1 to `most_bytes` bytes that is being merged.
//
// The definition: find the lowest rank and merge there. Symbols stay at the place of their first byte, in a doubly
// linked list. Rank and place are packed into one number, so the least number is the leftmost pair of the lowest rank.
// Places begin at 1. A symbol before and one after the pretoken, which merge with nothing, give all symbols neighbours.
template <size_t most_bytes>
class MergeLane {
   public:
    static constexpr size_t kMostBytes = most_bytes;

    // For a lane of up to 15 bytes, 16 bytes must be readable: then all loops have a fixed length.
    void start(const MergeTable& merges, std::span<const uint8_t> bytes) {
        size_ = bytes.size();
        const size_t end = kMostBytes < 16 ? kMostBytes : size_;
        const uint8_t* const byte = bytes.data();
        next_ = kFollowing;
        previous_ = kPreceding;
        candidates_.fill(kNone);
        for (size_t i = 0; i < end; ++i) symbols_[i + 1] = byte[i];
        for (size_t i = 1; i < end; ++i) {
            const uint32_t first = candidate(merges.byte_rank(byte[i - 1], byte[i]), i);
            candidates_[i] = i < size_ ? first : kNone;
        }
        symbols_[0] = symbols_[size_ + 1] = merges.no_symbol();
    }

    // Applies the next merge; false if there is none.
    bool step(const MergeTable& merges) {
        const uint32_t least = least_candidate();
        if (least >= kNone) return false;
        const size_t left = least % kPlaces, right = next_[left], after = next_[right], before = previous_[left];
        const uint32_t product = merges.product(least / kPlaces);
        next_[left] = static_cast<uint8_t>(after);
        previous_[after] = static_cast<uint8_t>(left);
        symbols_[left] = product;
        candidates_[right] = kNone;
        candidates_[left] = candidate(merges.rank(product, symbols_[after]), left);
        candidates_[before] = candidate(merges.rank(symbols_[before], product), before);
        return true;
    }

    // Calls found(symbol) for each symbol, in order.
    template <typename Found>
    void for_each_symbol(Found&& found) const {
        for (size_t i = 1; i <= size_; i = next_[i]) found(symbols_[i]);
    }

   private:
    static constexpr size_t kPlaces = std::bit_ceil(kMostBytes + 1);
    static constexpr uint32_t kNone = kNoRank / kPlaces * kPlaces;  // and above
    using Links = std::array<uint8_t, kMostBytes + 2>;

    static constexpr Links kFollowing = [] {
        Links links{};
        for (size_t i = 0; i < links.size(); ++i) links[i] = static_cast<uint8_t>(i + 1);
        return links;
    }();
    static constexpr Links kPreceding = [] {
        Links links{};
        for (size_t i = 1; i < links.size(); ++i) links[i] = static_cast<uint8_t>(i - 1);
        return links;
    }();

    static uint32_t candidate(uint32_t rank, size_t place) {
        return rank * static_cast<uint32_t>(kPlaces) | static_cast<uint32_t>(place);
    }

    uint32_t least_candidate() const {
        if constexpr (kMostBytes < 16) {
            // Eight independent minima, without vector loads: those would wait for the last stores.
            std::array<uint32_t, 8> least;
            for (size_t i = 0; i < 8; ++i) least[i] = std::min(candidates_[i], candidates_[i + 8]);
            for (size_t i = 0; i < 4; ++i) least[i] = std::min(least[i], least[i + 4]);
            return std::min(std::min(least[0], least[1]), std::min(least[2], least[3]));
        }
        uint32_t least = kNone;
        for (size_t i = 1; i < size_; ++i) least = std::min(least, candidates_[i]);
        return least;
    }

    std::array<uint32_t, kMostBytes + 1> candidates_;
    std::array<uint32_t, kMostBytes + 2> symbols_;
    Links next_, previous_;
    size_t size_;
};

// Lanes of pretokens that are merged in turn, one merge at a time, until all are merged.
template <size_t most_bytes, size_t lane_count>
class MergeLanes {
   public:
    using Lane = MergeLane<most_bytes>;

    // Calls bytes_of(i) for the bytes of pretoken i < count, and done(i, lane) when it is merged, in any order.
    template <typename BytesOf, typename Done>
    void merge(const MergeTable& merges, size_t count, BytesOf&& bytes_of, Done&& done) {
        std::array<size_t, lane_count> pretokens, lanes;  // of the pretokens that are being merged
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
