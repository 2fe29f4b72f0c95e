// Hash table of the ranks of pairs. A look-up reads one slot, for pairs that merge and pairs that do not.
#pragma once

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <numeric>
#include <optional>
#include <span>
#include <vector>

namespace groundup {

inline constexpr uint32_t kNoRank = UINT32_MAX;

// Two symbols that merge; their rank is their index among the pairs.
struct SymbolPair {
    uint32_t left, right;
    bool operator==(const SymbolPair&) const = default;
};

// Placeholder for a rank without a pair.
inline constexpr SymbolPair kNoPair{UINT32_MAX, UINT32_MAX};

// A perfect hash by hash and displace (Belazzougui, Botelho and Dietzfelbinger 2009): the upper bits of a pair's hash
// select a bucket of about three pairs, the lower bits a slot. Each bucket has a displacement, which is XORed to the
// slot and gives each of its pairs a distinct slot. No branch depends on the slot of a pair, so none is mispredicted.
//
// The hash is a permutation of all pairs of symbols. So the slot and the upper bits of the hash, which also select the
// bucket, identify the pair, and a slot stores only those bits and a rank (quotienting, Cleary 1984): four bytes for
// 16-bit symbols. The table shares the L2 cache with all other data.
template <unsigned kSymbolBits, unsigned kSlotBits, typename Slot>
class PairHash {
   public:
    // Symbols are below 2^kSymbolBits.
    static bool has_room_for(size_t pairs, size_t symbols) {
        return symbols <= size_t{1} << kSymbolBits && pairs <= (size_t{1} << kSlotBits) / 5 * 4;
    }

    // Of equal pairs the first counts.
    explicit PairHash(std::span<const SymbolPair> pairs) {
        while (!place_all(pairs)) multiplier_ *= kMultiplier;
    }

    // kNoRank if the two do not merge.
    uint32_t operator()(uint32_t left, uint32_t right) const {
        const uint64_t hash = hash_of({left, right});
        const Slot slot = slots_[slot_of(hash, displacements_[hash >> kBucketShift])];
        // A mask, because a compiler may compile a condition to a branch, and whether a pair merges is unpredictable.
        const uint32_t found = -static_cast<uint32_t>(slot >> kSymbolBits == hash >> kSlotBits);
        return (static_cast<uint32_t>(slot & kSymbols) & found) - 1;
    }

   private:
    static constexpr uint64_t kSymbols = (uint64_t{1} << kSymbolBits) - 1;
    static constexpr uint64_t kPairs = (uint64_t{1} << 2 * kSymbolBits) - 1;
    static constexpr uint64_t kSlots = uint64_t{1} << kSlotBits, kBuckets = kSlots / 4;
    static constexpr unsigned kBucketShift = 2 * kSymbolBits - kSlotBits + 2;
    static constexpr uint64_t kMultiplier = 0x9E3779B97F4A7C15u;
    static_assert(3 * kSymbolBits - kSlotBits <= 8 * sizeof(Slot));

    // Multiplication by an odd number is a permutation of the numbers of a given width, and so is adding their upper
    // half to the lower.
    uint64_t hash_of(SymbolPair pair) const {
        const uint64_t product = (uint64_t{pair.left} << kSymbolBits | pair.right) * multiplier_ & kPairs;
        return product ^ product >> kSymbolBits;
    }

    size_t slot_of(uint64_t hash, uint32_t displacement) const { return hash % kSlots ^ displacement; }

    // Whether a slot was found for every pair.
    bool place_all(std::span<const SymbolPair> pairs) {
        displacements_.assign(kBuckets, 0);
        slots_.assign(kSlots, 0);

        // Ranks grouped by bucket, in order within each bucket.
        std::vector<uint64_t> hashes(pairs.size());
        std::vector<uint32_t> ends(kBuckets + 1), ranks(pairs.size());
        for (size_t rank = 0; rank < pairs.size(); ++rank) {
            if (pairs[rank] == kNoPair) continue;
            hashes[rank] = hash_of(pairs[rank]);
            ++ends[(hashes[rank] >> kBucketShift) + 1];
        }
        std::partial_sum(ends.begin(), ends.end(), ends.begin());
        for (uint32_t rank = 0; rank < pairs.size(); ++rank) {
            if (pairs[rank] != kNoPair) ranks[ends[hashes[rank] >> kBucketShift]++] = rank;
        }

        // The largest buckets first, while most slots are free.
        std::vector<std::vector<uint32_t>> buckets_of_size(1);
        for (uint32_t bucket = 0, begin = 0; bucket < kBuckets; begin = ends[bucket++]) {
            const size_t size = ends[bucket] - begin;
            if (size >= buckets_of_size.size()) buckets_of_size.resize(size + 1);
            buckets_of_size[size].push_back(bucket);
        }
        std::vector<uint32_t> different;
        for (size_t size = buckets_of_size.size() - 1; size > 0; --size) {
            for (const uint32_t bucket : buckets_of_size[size]) {
                different.clear();
                for (const uint32_t rank : std::span(ranks).subspan(ends[bucket] - size, size)) {
                    const auto is_same = [&](uint32_t other) { return hashes[other] == hashes[rank]; };
                    if (std::none_of(different.begin(), different.end(), is_same)) different.push_back(rank);
                }
                if (!place(bucket, different, hashes)) return false;
            }
        }
        return true;
    }

    // A slot holds the upper bits of the hash and the rank plus one; 0 is an empty slot.
    bool place(uint32_t bucket, std::span<const uint32_t> ranks, std::span<const uint64_t> hashes) {
        for (size_t i = 1; i < ranks.size(); ++i) {  // two pairs that no displacement can separate
            for (size_t j = 0; j < i; ++j) {
                if (((hashes[ranks[i]] ^ hashes[ranks[j]]) % kSlots) == 0) return false;
            }
        }
        const auto fits = [&](uint32_t displacement) {
            return std::all_of(ranks.begin(), ranks.end(), [&](uint32_t rank) {
                return slots_[slot_of(hashes[rank], displacement)] == 0;
            });
        };
        uint32_t displacement = 0;
        while (!fits(displacement)) {
            if (++displacement > UINT16_MAX) return false;
        }
        displacements_[bucket] = static_cast<uint16_t>(displacement);
        for (const uint32_t rank : ranks) {
            slots_[slot_of(hashes[rank], displacement)] =
                static_cast<Slot>(hashes[rank] >> kSlotBits << kSymbolBits | (uint64_t{rank} + 1));
        }
        return true;
    }

    uint64_t multiplier_ = kMultiplier;
    std::vector<uint16_t> displacements_;  // by bucket
    std::vector<Slot> slots_;
};

// The table, in the smallest sufficient size.
class PairRanks {
   public:
    static constexpr unsigned kMostSymbolBits = 21;

    PairRanks(std::span<const SymbolPair> pairs, size_t symbols) {
        if (Small::has_room_for(pairs.size(), symbols)) {
            small_.emplace(pairs);
        } else if (Middle::has_room_for(pairs.size(), symbols)) {
            middle_.emplace(pairs);
        } else {
            large_.emplace(pairs);
        }
    }

    // kNoRank if the two do not merge.
    uint32_t operator()(uint32_t left, uint32_t right) const {
        if (small_) return (*small_)(left, right);
        return middle_ ? (*middle_)(left, right) : (*large_)(left, right);
    }

   private:
    using Small = PairHash<16, 16, uint32_t>;   // up to 52,428 pairs, 288 KiB
    using Middle = PairHash<19, 18, uint64_t>;  // 209,712, 2.1 MiB
    using Large = PairHash<21, 22, uint64_t>;   // the largest possible number, 34 MiB
    std::optional<Small> small_;
    std::optional<Middle> middle_;
    std::optional<Large> large_;
};

}  // namespace groundup
