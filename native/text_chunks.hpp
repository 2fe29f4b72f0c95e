// Cutting a text where no pretoken and no special token can notice.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "character_class.hpp"
#include "special_tokens.hpp"

namespace groundup {

// Whether the last character of text[0, end) is white space. Bytes that end no valid character are not.
inline bool ends_in_white_space(const uint8_t* text, size_t end) {
    for (size_t length = 1; length <= 4 && length <= end; ++length) {
        const Utf8Character character = decode_utf8(text + end - length, length);
        if (character.status == Utf8Status::Valid && character.length == length) {
            return class_of(character.code_point) == CharacterClass::Space;
        }
    }
    return false;
}

// Whether cutting before `position` leaves all pretokens as they are, which needs three things:
//   a pretoken begins here: in the pattern nothing but white space is followed by white space;
//   the one before ends in something else than white space, so the look-ahead `\s+(?!\S)` is not involved;
//   no special token lies across the cut.
inline bool is_safe_cut(std::span<const uint8_t> text, size_t position, const SpecialTokens& specials) {
    const uint8_t byte = text[position];
    const bool ascii_white_space = byte == ' ' || (byte >= '\t' && byte <= '\r');
    return ascii_white_space && !ends_in_white_space(text.data(), position) &&
           !specials.lies_across(text.data(), text.size(), position);
}

// Consecutive chunks of at least `chunk_bytes` each, but for the last. A text without a safe cut is one chunk.
inline std::vector<std::span<const uint8_t>> chunks_of(std::span<const uint8_t> text, size_t chunk_bytes,
                                                       const SpecialTokens& specials) {
    std::vector<std::span<const uint8_t>> chunks;
    size_t begin = 0;
    while (begin < text.size()) {
        size_t end = begin + std::min(chunk_bytes, text.size() - begin);
        while (end < text.size() && !is_safe_cut(text, end, specials)) ++end;
        chunks.push_back(text.subspan(begin, end - begin));
        begin = end;
    }
    return chunks;
}

}  // namespace groundup
