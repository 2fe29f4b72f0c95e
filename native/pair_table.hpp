// Pairs of neighbouring tokens: how often they occur, and where.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "hash.hpp"

namespace groundup {

struct TokenPair {
    uint32_t left, right;
    uint64_t count = 0;
    // Where the pair was seen, ascending. Some of it is stale: the tokens there have merged with others since.
    std::vector<uint32_t> positions;
};

// Pairs are numbered as they appear, and keep their number; the hash table holds numbers only.
class PairTable {
   public:
    static constexpr uint32_t kNone = UINT32_MAX;

    TokenPair& operator[](uint32_t pair) { return pairs_[pair]; }
    const TokenPair& operator[](uint32_t pair) const { return pairs_[pair]; }
    uint32_t size() const { return static_cast<uint32_t>(pairs_.size()); }

    // The number of a pair, a new one if need be.
    uint32_t number(uint32_t left, uint32_t right) {
        if (2 * (pairs_.size() + 1) > slots_.size()) grow();
        uint32_t& slot = slots_[slot_of(left, right)];
        if (slot == kNone) {
            slot = size();
            pairs_.push_back({left, right, 0, {}});
        }
        return slot;
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
    std::vector<uint32_t> slots_ = std::vector<uint32_t>(size_t{1} << 12, kNone);  // at most half taken
};

}  // namespace groundup
