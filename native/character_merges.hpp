// Byte-pair encoding on characters with byte fallback, as in SentencePiece.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <utility>
#include <vector>

#include "bpe_merge.hpp"
#include "character_cuts.hpp"
#include "merge_table.hpp"
#include "missing_byte.hpp"
#include "pair_ranks.hpp"

namespace groundup {

// Where a space is put before text: nowhere; before every stretch between special tokens; before stretches that do not
// begin with a space; or before the text, if it begins neither with a space nor with a special token.
enum class SpacePrefix : uint8_t { Never, Always, UnlessThere, FirstUnlessThere };

// Merges on characters. Symbols are ids of the vocabulary.
class CharacterMerges {
   public:
    static constexpr size_t kMostIds = size_t{1} << PairRanks::kMostSymbolBits;

    // `characters`: code points with ids. `byte_ids`: kNoRank for bytes that have none.
    CharacterMerges(std::span<const std::pair<uint32_t, uint32_t>> characters,
                    const std::array<uint32_t, 256>& byte_ids, std::span<const MergeRule> rules, SpacePrefix prefix,
                    bool every_space)
        : byte_ids_(byte_ids), ranks_(pairs_of(rules), kMostIds), prefix_(prefix), cuts_(every_space) {
        products_.reserve(rules.size());
        for (const MergeRule& rule : rules) products_.push_back(rule.merged);
        pages_.push_back(Page{});
        pages_[0].fill(kNoRank);
        for (const auto& [code, id] : characters) {
            uint16_t& page = page_of_[code / kPageSize];
            if (page == 0) {
                page = static_cast<uint16_t>(pages_.size());
                pages_.push_back(pages_[0]);
            }
            pages_[page][code % kPageSize] = id;
        }
        join_characters(characters, rules);
    }

    uint32_t rank(uint32_t left, uint32_t right) const { return ranks_(left, right); }
    uint32_t product(uint32_t rank) const { return products_[rank]; }

    const CharacterCuts& cuts() const { return cuts_; }

    // Whether a space is put before a stretch of text.
    bool takes_prefix(std::span<const uint8_t> stretch, bool begins_text) const {
        switch (prefix_) {
            case SpacePrefix::Never: return false;
            case SpacePrefix::Always: return true;
            case SpacePrefix::FirstUnlessThere:
                if (!begins_text) return false;
                [[fallthrough]];
            case SpacePrefix::UnlessThere: break;
        }
        return text_character(stretch.data(), stretch.size()).code != kSpaceMark;
    }

    // The ids of a piece of text, valid until the next call with this scratch.
    std::span<const uint32_t> ids(std::span<const uint8_t> piece, MergeScratch& scratch) const {
        scratch.symbols.clear();
        for (size_t i = 0; i < piece.size();) {
            const TextCharacter character = text_character(piece.data() + i, piece.size() - i);
            add_symbols(character.code, piece.subspan(i, character.length), scratch.symbols);
            i += character.length;
        }
        if (scratch.symbols.size() <= kLongestScanned) {
            merge_by_scanning(scratch);
        } else {
            merge_by_heap(*this, scratch);
        }
        return scratch.symbols;
    }

   private:
    static constexpr size_t kPageSize = 256, kLongestScanned = 48;
    using Page = std::array<uint32_t, kPageSize>;

    static std::vector<SymbolPair> pairs_of(std::span<const MergeRule> rules) {
        std::vector<SymbolPair> pairs;
        pairs.reserve(rules.size());
        for (const MergeRule& rule : rules) pairs.push_back({rule.left, rule.right});
        return pairs;
    }

    // Records adjacent characters of tokens: the last and the first character of the two parts of each merge.
    void join_characters(std::span<const std::pair<uint32_t, uint32_t>> characters, std::span<const MergeRule> rules) {
        constexpr uint32_t kUnknown = std::numeric_limits<uint32_t>::max();
        size_t ids = 0;
        for (const auto& [code, id] : characters) ids = std::max<size_t>(ids, size_t{id} + 1);
        for (const MergeRule& rule : rules) ids = std::max<size_t>({ids, rule.left + 1, rule.right + 1, rule.merged + 1});
        std::vector<uint32_t> first(ids, kUnknown), last(ids, kUnknown);
        for (const auto& [code, id] : characters) first[id] = last[id] = code;
        // A rule may come before those of its parts. A rule whose parts are never made never applies.
        for (bool found_more = true; found_more;) {
            found_more = false;
            for (const MergeRule& rule : rules) {
                if (first[rule.merged] != kUnknown || first[rule.left] == kUnknown || first[rule.right] == kUnknown) {
                    continue;
                }
                first[rule.merged] = first[rule.left];
                last[rule.merged] = last[rule.right];
                found_more = true;
            }
        }
        for (const MergeRule& rule : rules) {
            if (last[rule.left] != kUnknown && first[rule.right] != kUnknown) cuts_.join(last[rule.left], first[rule.right]);
        }
    }

    // A character without an id becomes its bytes. A space without an id becomes the bytes of U+2581.
    void add_symbols(uint32_t code, std::span<const uint8_t> bytes, std::vector<uint32_t>& symbols) const {
        if (code < TextCharacter::kInvalidByte) {
            const uint32_t id = pages_[page_of_[code / kPageSize]][code % kPageSize];
            if (id != kNoRank) return symbols.push_back(id);
        }
        static constexpr std::array<uint8_t, 3> kSpaceMarkBytes = {0xE2, 0x96, 0x81};
        for (const uint8_t byte : code == kSpaceMark ? std::span<const uint8_t>(kSpaceMarkBytes) : bytes) {
            if (byte_ids_[byte] == kNoRank) throw MissingByteError(byte);
            symbols.push_back(byte_ids_[byte]);
        }
    }

    // The definition, for a few symbols.
    void merge_by_scanning(MergeScratch& scratch) const {
        std::vector<uint32_t>&symbols = scratch.symbols, &ranks = scratch.ranks;
        if (symbols.size() < 2) return;
        ranks.resize(symbols.size() - 1);  // ranks[i]: rank of the pair that begins at symbol i
        for (size_t i = 0; i < ranks.size(); ++i) ranks[i] = rank(symbols[i], symbols[i + 1]);
        while (!ranks.empty()) {
            const auto least = std::min_element(ranks.begin(), ranks.end());
            if (*least == kNoRank) return;
            const auto i = least - ranks.begin();
            symbols[static_cast<size_t>(i)] = product(*least);
            symbols.erase(symbols.begin() + i + 1);
            ranks.erase(least);
            const auto at = static_cast<size_t>(i);
            if (at < ranks.size()) ranks[at] = rank(symbols[at], symbols[at + 1]);
            if (at > 0) ranks[at - 1] = rank(symbols[at - 1], symbols[at]);
        }
    }

    std::array<uint32_t, 256> byte_ids_;
    std::array<uint16_t, 0x110000 / kPageSize> page_of_{};  // 0 is the page of characters without ids
    std::vector<Page> pages_;
    PairRanks ranks_;
    std::vector<uint32_t> products_;  // by rank
    SpacePrefix prefix_;
    CharacterCuts cuts_;
};

}  // namespace groundup
