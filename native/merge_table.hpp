// Table of merges: rank and product of each pair of symbols.
//
// A symbol is the encoder's internal number of a token: 0..255 are the bytes, followed by the products of merges.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <stdexcept>
#include <vector>

#include "huge_array.hpp"
#include "pair_ranks.hpp"

namespace groundup {

// A merge, in ids of the vocabulary.
struct MergeRule {
    uint32_t left, right, merged;
};

class MergeTable {
   public:
    static constexpr size_t kMostRules = (size_t{1} << PairRanks::kMostSymbolBits) - 257;

    // `byte_ids`: the id of each byte, kNoRank for bytes without one. `rules`: the merges in order of rank. A rule with
    // a token that is neither a byte nor the product of a rule never applies.
    MergeTable(const std::array<uint32_t, 256>& byte_ids, std::span<const MergeRule> rules)
        : ids_(byte_ids.begin(), byte_ids.end()), ranks_(set_up(byte_ids, rules)) {}

    // The rank of the merge of two symbols; kNoRank if they do not merge.
    uint32_t rank(uint32_t left, uint32_t right) const { return ranks_(left, right); }

    // The same for two bytes.
    uint32_t byte_rank(uint8_t left, uint8_t right) const { return byte_ranks_[size_t{left} << 8 | right]; }

    // The product of the merge of that rank.
    uint32_t product(uint32_t rank) const { return products_.empty() ? 256 + rank : products_[rank]; }

    // Whether every product has one rule, after the rules of its parts, as in all trained tokenizers (the proper
    // dictionaries of Berglund and van der Merwe 2023).
    bool are_proper() const { return are_proper_; }

    // The number of bytes that a symbol covers, if the merges are proper.
    uint32_t length(uint32_t symbol) const { return lengths_[symbol]; }

    // The id of a symbol; kNoRank for a byte that the vocabulary lacks. The products of most vocabularies have
    // consecutive ids, which need no look-up.
    uint32_t id(uint32_t symbol) const {
        if (!in_order_) return ids_[symbol];
        const uint32_t of_byte = ids_[symbol % 256];
        return symbol < 256 ? of_byte : symbol - 256 + ids_[256];
    }

    // A symbol that merges with nothing.
    uint32_t no_symbol() const { return static_cast<uint32_t>(ids_.size()); }

   private:
    // Fills all members except the ranks, which it returns.
    PairRanks set_up(const std::array<uint32_t, 256>& byte_ids, std::span<const MergeRule> rules) {
        if (rules.size() > kMostRules) throw std::length_error("a tokenizer has at most 2,096,895 merges");
        uint32_t largest = 0;
        for (const uint32_t id : byte_ids) largest = id == kNoRank ? largest : std::max(largest, id);
        for (const MergeRule& rule : rules) largest = std::max({largest, rule.left, rule.right, rule.merged});
        HugeArray<uint32_t> symbol_of(size_t{largest} + 1);  // by id: symbol + 1, or 0 for none
        for (uint32_t byte = 0; byte < 256; ++byte) {
            if (byte_ids[byte] != kNoRank && symbol_of[byte_ids[byte]] == 0) symbol_of[byte_ids[byte]] = byte + 1;
        }
        bool each_is_new = true;
        products_.reserve(rules.size());
        for (const MergeRule& rule : rules) {
            uint32_t& symbol = symbol_of[rule.merged];
            if (symbol == 0) {
                ids_.push_back(rule.merged);
                symbol = static_cast<uint32_t>(ids_.size());
            } else {
                each_is_new = false;
            }
            products_.push_back(symbol - 1);
        }
        are_proper_ = each_is_new;
        in_order_ = ids_.size() > 256;
        for (size_t symbol = 257; symbol < ids_.size(); ++symbol) in_order_ &= ids_[symbol] == ids_[symbol - 1] + 1;
        lengths_.assign(ids_.size(), 1);
        byte_ranks_.fill(kNoRank);
        std::vector<SymbolPair> pairs(rules.size(), kNoPair);
        for (uint32_t rank = 0; rank < rules.size(); ++rank) {
            if (symbol_of[rules[rank].left] == 0 || symbol_of[rules[rank].right] == 0) {
                are_proper_ = false;
                continue;
            }
            const uint32_t left = symbol_of[rules[rank].left] - 1, right = symbol_of[rules[rank].right] - 1;
            are_proper_ &= std::max(left, right) < products_[rank];
            lengths_[products_[rank]] = lengths_[left] + lengths_[right];
            pairs[rank] = {left, right};
            if (left < 256 && right < 256) byte_ranks_[left << 8 | right] = rank;
        }
        if (each_is_new) products_ = {};  // symbol 256 + rank
        return PairRanks(pairs, ids_.size() + 1);
    }

    std::vector<uint32_t> ids_;       // by symbol
    std::vector<uint32_t> lengths_;   // by symbol
    std::vector<uint32_t> products_;  // by rank; empty if every merge makes a new symbol
    bool in_order_ = false;           // whether the ids of the products are consecutive
    bool are_proper_ = true;
    std::array<uint32_t, 65536> byte_ranks_;
    PairRanks ranks_;  // last: its initializer, set_up(), fills the other members
};

}  // namespace groundup
