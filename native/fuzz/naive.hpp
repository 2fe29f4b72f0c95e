// Naive reference of the C++ core: no masks, no tables, no caches, no streams.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "../pretokenizer.hpp"

namespace groundup::fuzz {

using NumberedTokens = std::vector<std::pair<std::string, uint32_t>>;

// Ends of the pretokens, by the definition: each is found separately in the complete text.
inline std::vector<uint64_t> naive_ends(Pattern pattern, std::string_view text) {
    std::vector<uint64_t> ends;
    for (size_t begin = 0; begin < text.size(); begin = ends.back()) {
        TextView view(reinterpret_cast<const uint8_t*>(text.data()), text.size(), true);
        Progress progress;
        ends.push_back(*pretoken_end(pattern, view, begin, progress));
    }
    return ends;
}

inline std::vector<std::string> naive_pretokens(Pattern pattern, std::string_view text) {
    std::vector<std::string> pretokens;
    size_t begin = 0;
    for (const uint64_t end : naive_ends(pattern, text)) {
        pretokens.emplace_back(text.substr(begin, end - begin));
        begin = end;
    }
    return pretokens;
}

// The longest special token that begins at the position, or null.
inline const std::pair<std::string, uint32_t>* naive_special_at(const NumberedTokens& specials, std::string_view text,
                                                                size_t position) {
    const std::pair<std::string, uint32_t>* longest = nullptr;
    for (const auto& special : specials) {
        if (text.substr(position).starts_with(special.first) &&
            (longest == nullptr || special.first.size() > longest->first.size())) {
            longest = &special;
        }
    }
    return longest;
}

// Calls on_plain(text between special tokens) and on_special(id), in order; empty stretches are skipped.
template <typename OnPlain, typename OnSpecial>
void naive_split(const NumberedTokens& specials, std::string_view text, OnPlain&& on_plain, OnSpecial&& on_special) {
    size_t begin = 0;
    for (size_t position = 0; position < text.size();) {
        const auto* const special = naive_special_at(specials, text, position);
        if (special == nullptr) {
            ++position;
            continue;
        }
        if (position > begin) on_plain(text.substr(begin, position - begin));
        on_special(special->second);
        begin = position += special->first.size();
    }
    if (begin < text.size()) on_plain(text.substr(begin));
}

// Rank and product by pair of ids.
using NaiveMerges = std::map<std::pair<uint32_t, uint32_t>, std::pair<uint32_t, uint32_t>>;

// While a pair merges, applies the merge of the lowest rank, leftmost first.
inline void naive_merge(const NaiveMerges& merges, std::vector<uint32_t>& ids) {
    for (;;) {
        auto best = merges.end();
        size_t place = 0;
        for (size_t i = 0; i + 1 < ids.size(); ++i) {
            const auto found = merges.find({ids[i], ids[i + 1]});
            if (found == merges.end() || (best != merges.end() && found->second.first >= best->second.first)) continue;
            best = found;
            place = i;
        }
        if (best == merges.end()) return;
        ids[place] = best->second.second;
        ids.erase(ids.begin() + static_cast<ptrdiff_t>(place) + 1);
    }
}

}  // namespace groundup::fuzz
