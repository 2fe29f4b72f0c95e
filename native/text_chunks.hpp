// Cuts of a text that change no pretokens and no special tokens.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "character_class.hpp"
#include "character_cuts.hpp"
#include "special_tokens.hpp"

namespace groundup {

// The class of the last character of text[0, end); kOther if it is not valid UTF-8.
inline CharacterSet last_class(const uint8_t* text, size_t end, const UnicodeTable& unicode) {
    for (size_t length = 1; length <= 4 && length <= end; ++length) {
        const Utf8Character character = decode_utf8(text + end - length, length);
        if (character.status == Utf8Status::Valid && character.length == length) return unicode.class_of(character.code_point);
    }
    return end == 0 ? kEnd : kOther;
}

// Whether a cut before `position` leaves all pretokens of every built-in pattern unchanged. It does if:
//   a pretoken begins here: only white space is followed by white space, except symbols by line ends;
//   the one before does not end in white space, so the cut does not affect the look-aheads `\s+(?!\S)` and `\s++$`;
//   no special token crosses the cut.
// Special tokens are UTF-8: one that ended inside a character of the text would leave bytes that last_class misreads.
inline bool is_safe_cut(std::span<const uint8_t> text, size_t position, const SpecialTokens& specials,
                        const UnicodeTable& unicode) {
    const CharacterSet here = kAsciiClass[text[position]];
    if ((here & kSpace) == 0) return false;
    const CharacterSet before = last_class(text.data(), position, unicode);
    const CharacterSet allowed = here == kNewline ? kLetter | kNumber : kLetter | kNumber | kSymbol;
    return (before & allowed) != 0 && !specials.lies_across(text.data(), text.size(), position);
}

// The same for encoding of whole texts on characters. After a special token a space may be put before the text, but not
// after a cut.
inline bool is_safe_cut_of_characters(std::span<const uint8_t> text, size_t position, const CharacterCuts& cuts,
                                      const SpecialTokens& specials) {
    const TextCharacter here = text_character(text.data() + position, text.size() - position);
    return here.code < TextCharacter::kInvalidByte && cuts.may_cut(last_code(text.data(), position), here.code) &&
           !specials.lies_across(text.data(), text.size(), position) && !specials.end_at(text.data(), position);
}

// The end of the chunk that begins at `begin`: the first safe position after at least `chunk_bytes`, or the end of the
// text. A text without a safe cut is one chunk.
template <typename IsSafe>
size_t chunk_end(std::span<const uint8_t> text, size_t begin, size_t chunk_bytes, IsSafe&& is_safe) {
    size_t end = begin + std::min(chunk_bytes, text.size() - begin);
    while (end < text.size() && !is_safe(end)) ++end;
    return end;
}

// The whole text in such chunks.
template <typename IsSafe>
std::vector<std::span<const uint8_t>> chunks_of(std::span<const uint8_t> text, size_t chunk_bytes, IsSafe&& is_safe) {
    std::vector<std::span<const uint8_t>> chunks;
    for (size_t begin = 0; begin < text.size();) {
        const size_t end = chunk_end(text, begin, chunk_bytes, is_safe);
        chunks.push_back(text.subspan(begin, end - begin));
        begin = end;
    }
    return chunks;
}

}  // namespace groundup
