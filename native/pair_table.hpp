// Table of pairs of neighbouring tokens, with counts and positions.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "hash.hpp"

namespace groundup {

struct TokenPair {
    uint32_t left, right;
    uint64_t count;
    // Its positions when it was added, ascending: a range of PairTable's positions. Some are stale, because the tokens
    // there have merged with others since.
    uint64_t first_position;
    uint32_t position_count;
};

// Pairs are numbered in order of insertion; the hash table holds only the numbers.
class PairTable {
   public:
    static constexpr uint32_t kNone = UINT32_MAX;

    TokenPair& operator[](uint32_t pair) { return pairs_[pair]; }
    const TokenPair& operator[](uint32_t pair) const { return pairs_[pair]; }
    uint32_t size() const { return static_cast<uint32_t>(pairs_.size()); }

    // Adds a new pair with room for `position_count` positions; returns its number.
    uint32_t add(uint32_t left, uint32_t right, uint64_t count, uint32_t position_count) {
        if (2 * (pairs_.size() + 1) > slots_.size()) grow();
        const uint32_t pair = size();
        pairs_.push_back({left, right, count, positions_.size(), position_count});
        positions_.resize(positions_.size() + position_count);
        slots_[slot_of(left, right)] = pair;
        return pair;
    }

    // The number of a pair; kNone if it is not in the table.
    uint32_t find(uint32_t left, uint32_t right) const { return slots_[slot_of(left, right)]; }

    std::span<uint32_t> positions(uint32_t pair) {
        return {positions_.data() + pairs_[pair].first_position, pairs_[pair].position_count};
    }

   private:
    size_t slot_of(uint32_t left, uint32_t right) const {
        const size_t mask = slots_.size() - 1;
        size_t index = mix(uint64_t{left} << 32 | right) & mask;
        while (slots_[index] != kNone && !(pairs_[slots_[index]].left == left && pairs_[slots_[index]].right == right)) {
            index = (index + 1) & mask;
        }
        return index;
    }

    void grow() {
        slots_.assign(2 * slots_.size(), kNone);
        for (uint32_t pair = 0; pair < size(); ++pair) slots_[slot_of(pairs_[pair].left, pairs_[pair].right)] = pair;
    }

    std::vector<TokenPair> pairs_;
    std::vector<uint32_t> positions_;
    std::vector<uint32_t> slots_ = std::vector<uint32_t>(size_t{1} << 12, kNone);  // at most half full
};

}  // namespace groundup
