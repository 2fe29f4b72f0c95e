// Where a pretoken ends: the GPT-2 pattern as a scanner.
//
//     '(?:[sdmt]|ll|ve|re) | ?\p{L}+ | ?\p{N}+ | ?[^\s\p{L}\p{N}]+ | \s+(?!\S) | \s+
//
// The alternatives never have to be tried in turn, because the first one or two characters tell which applies.
// Nothing in the pattern looks back, so the pretokens from a boundary on depend only on the text from there on.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <optional>

#include "character_class.hpp"

namespace groundup {

// A stretch of text in which pretokens are looked for.
struct TextView {
    const uint8_t* bytes;
    size_t size;
    bool complete;  // nothing follows: the pattern sees the end of the text at `size`

    ClassifiedCharacter at(size_t position) const {
        return classify(bytes + position, size - position, complete);
    }
};

struct Run {
    size_t end;
    bool open;  // the view ended before a character that stops the run was seen
};

// The longest run of characters of one class from `position` on.
inline Run run_of(CharacterClass wanted, const TextView& text, size_t position) {
    for (;;) {
        while (position < text.size && kAsciiClass[text.bytes[position]] == static_cast<uint8_t>(wanted)) ++position;
        if (position == text.size) return {position, !text.complete};
        const ClassifiedCharacter character = text.at(position);
        if (character.length == 0) return {position, true};
        if (character.character_class != wanted) return {position, false};
        position += character.length;
    }
}

// The length of a contraction ('s 'd 'm 't 'll 've 're) at an apostrophe; 0 for none; nothing if undecided.
inline std::optional<size_t> contraction_at(const TextView& text, size_t apostrophe) {
    const size_t left = text.size - apostrophe;
    if (left < 2) return text.complete ? std::optional<size_t>(0) : std::nullopt;
    const uint8_t first = text.bytes[apostrophe + 1];
    if (first == 's' || first == 'd' || first == 'm' || first == 't') return 2;
    if (first != 'l' && first != 'v' && first != 'r') return 0;
    if (left < 3) return text.complete ? std::optional<size_t>(0) : std::nullopt;
    return text.bytes[apostrophe + 2] == (first == 'l' ? 'l' : 'e') ? 3 : 0;
}

// White space before a word gives up its last character, `\s+(?!\S)`: a space then joins the word, and any other
// white space is a pretoken of its own, `\s+`.
inline size_t end_of_white_space(const TextView& text, size_t begin, size_t run_end) {
    if (run_end == text.size) return run_end;
    size_t last = run_end - 1;
    while ((text.bytes[last] & 0xC0) == 0x80) --last;
    return last == begin ? run_end : last;
}

// The end of the pretoken that begins at `begin` (< text.size), or nothing while it depends on text to come.
//
// `scanned` lets a pretoken that arrives in many pieces be read once: it is where the last undecided call for this
// `begin` stopped, on a character boundary of the run, or `begin` itself.
inline std::optional<size_t> pretoken_end(const TextView& text, size_t begin, size_t& scanned) {
    size_t first = begin;
    ClassifiedCharacter character = text.at(first);
    if (character.length == 0) return std::nullopt;
    if (text.bytes[begin] == '\'') {
        const std::optional<size_t> contraction = contraction_at(text, begin);
        if (!contraction) return std::nullopt;
        if (*contraction > 0) return begin + *contraction;
    } else if (text.bytes[begin] == ' ') {
        if (begin + 1 == text.size) return text.complete ? std::optional<size_t>(text.size) : std::nullopt;
        const ClassifiedCharacter next = text.at(begin + 1);
        if (next.length == 0) return std::nullopt;
        if (next.character_class != CharacterClass::Space) {
            first = begin + 1;
            character = next;
        }
    }
    const Run run = run_of(character.character_class, text, std::max(first + character.length, scanned));
    if (run.open) {
        scanned = run.end;
        return std::nullopt;
    }
    return character.character_class == CharacterClass::Space ? end_of_white_space(text, begin, run.end) : run.end;
}

}  // namespace groundup
