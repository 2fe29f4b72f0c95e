// Which pairs of symbols merge, how early, and into what.
//
// A symbol is a token on the inside of the encoder: 0..255 are the bytes, the products of merges come after.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <span>
#include <stdexcept>
#include <unordered_map>
#include <vector>

namespace groundup {

inline constexpr uint32_t kNoRank = UINT32_MAX;

// A merge, in ids of the vocabulary.
struct MergeRule {
    uint32_t left, right, merged;
};

class MergeTable {
   public:
    static constexpr unsigned kSymbolBits = 21;  // three of them fill a slot: left, right and rank
    static constexpr size_t kMostRules = (size_t{1} << kSymbolBits) - 257;

    // The id of each byte, kNoRank for bytes that have none, and the merges, the earliest first. A rule with a token
    // that is neither a byte nor made by a rule can never apply.
    MergeTable(const std::array<uint32_t, 256>& byte_ids, std::span<const MergeRule> rules)
        : ids_(byte_ids.begin(), byte_ids.end()), slots_(std::bit_ceil(2 * rules.size() + 1), kEmpty) {
        if (rules.size() > kMostRules) throw std::length_error("a tokenizer has at most 2,096,895 merges");
        std::unordered_map<uint32_t, uint32_t> symbol_of;
        symbol_of.reserve(ids_.size() + rules.size());
        for (uint32_t byte = 0; byte < 256; ++byte) {
            if (byte_ids[byte] != kNoRank) symbol_of.emplace(byte_ids[byte], byte);
        }
        for (const MergeRule& rule : rules) {
            const auto [product, is_new] = symbol_of.try_emplace(rule.merged, static_cast<uint32_t>(ids_.size()));
            if (is_new) ids_.push_back(rule.merged);
            are_proper_ &= is_new;
            products_.push_back(product->second);
        }
        lengths_.assign(ids_.size(), 1);
        byte_ranks_.fill(kNoRank);
        for (uint32_t rank = 0; rank < rules.size(); ++rank) {
            const auto left = symbol_of.find(rules[rank].left), right = symbol_of.find(rules[rank].right);
            if (left == symbol_of.end() || right == symbol_of.end()) {
                are_proper_ = false;
                continue;
            }
            are_proper_ &= std::max(left->second, right->second) < products_[rank];
            lengths_[products_[rank]] = lengths_[left->second] + lengths_[right->second];
            const uint64_t pair = pair_of(left->second, right->second);
            size_t index = home(pair);
            while (slots_[index] != kEmpty) index = next(index);
            slots_[index] = pair << kSymbolBits | rank;
            if (left->second < 256 && right->second < 256) byte_ranks_[left->second << 8 | right->second] = rank;
        }
    }

    // The rank of the merge of two symbols; kNoRank if they do not merge.
    uint32_t rank(uint32_t left, uint32_t right) const {
        const uint64_t pair = pair_of(left, right);
        for (size_t index = home(pair);; index = next(index)) {
            const uint64_t slot = slots_[index];
            if (slot >> kSymbolBits == pair) return static_cast<uint32_t>(slot & ((1u << kSymbolBits) - 1));
            if (slot == kEmpty) return kNoRank;
        }
    }

    // The same for two bytes.
    uint32_t byte_rank(uint8_t left, uint8_t right) const { return byte_ranks_[size_t{left} << 8 | right]; }

    // What the merge of that rank makes.
    uint32_t product(uint32_t rank) const { return products_[rank]; }

    // Whether every product has one rule, which comes after the rules of its parts, as in all trained tokenizers (the
    // proper dictionaries of Berglund and van der Merwe 2023).
    bool are_proper() const { return are_proper_; }

    // The bytes that a symbol covers; if the merges are proper.
    uint32_t length(uint32_t symbol) const { return lengths_[symbol]; }

    // The id of a symbol; kNoRank for a byte that the vocabulary lacks.
    uint32_t id(uint32_t symbol) const { return ids_[symbol]; }

   private:
    static constexpr uint64_t kEmpty = UINT64_MAX;

    static uint64_t pair_of(uint32_t left, uint32_t right) { return uint64_t{left} << kSymbolBits | right; }

    // Linear probing, at most half full. Multiplying by an odd constant spreads pairs over the highest bits.
    size_t home(uint64_t pair) const { return pair * 0x9E3779B97F4A7C15u >> shift_; }
    size_t next(size_t index) const { return (index + 1) & (slots_.size() - 1); }

    std::vector<uint32_t> ids_;       // by symbol
    std::vector<uint32_t> lengths_;   // by symbol
    std::vector<uint32_t> products_;  // by rank
    bool are_proper_ = true;
    std::vector<uint64_t> slots_;
    int shift_ = std::min(63, std::countl_zero(slots_.size()) + 1);
    std::array<uint32_t, 65536> byte_ranks_;
};

}  // namespace groundup
