// Pre-tokenizer: the built-in patterns (groundup/tokenizer/patterns.py), matched character by character.
//
// This is the definition. The first one or two characters decide which alternative of a pattern applies, so
// alternatives are never tried in turn. The patterns have no look-behind, so the pretokens after a boundary depend only
// on the text after it.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>

#include "text_view.hpp"

namespace groundup {

enum class Pattern : uint8_t { Gpt2, Cl100k, Llama3, Qwen2, O200k, Tekken };

inline constexpr std::array<std::string_view, 6> kPatternNames = {"gpt2",  "cl100k", "llama3",
                                                                   "qwen2", "o200k",  "tekken"};

inline std::optional<Pattern> pattern_named(std::string_view name) {
    for (size_t i = 0; i < kPatternNames.size(); ++i) {
        if (kPatternNames[i] == name) return static_cast<Pattern>(i);
    }
    return std::nullopt;
}

// The length of a contraction ('s 'd 'm 't 'll 've 're) at an apostrophe; 0 for none. Where case is ignored, U+017F
// (C5 BF in UTF-8) is an s.
inline size_t contraction_length(TextView& text, size_t apostrophe, bool ignore_case) {
    const uint8_t byte = text.byte(apostrophe + 1);
    if (ignore_case && byte == 0xC5) return text.byte(apostrophe + 2) == 0xBF ? 3 : 0;
    const uint8_t first = ignore_case ? byte | 0x20 : byte;
    if (first == 's' || first == 'd' || first == 'm' || first == 't') return 2;
    if (first != 'l' && first != 'v' && first != 'r') return 0;
    const uint8_t second = text.byte(apostrophe + 2);
    return (ignore_case ? second | 0x20 : second) == (first == 'l' ? 'l' : 'e') ? 3 : 0;
}

// White space before other text ends before its last character, `\s+(?!\S)`. That character begins the next pretoken,
// or is a pretoken itself, `\s+`.
inline size_t end_of_white_space(TextView& text, size_t begin, size_t run_end) {
    if (text.undecided() || text.at(run_end).in(kEnd)) return run_end;
    size_t last = run_end - 1;
    while ((text.bytes()[last] & 0xC0) == 0x80) --last;
    return last == begin ? run_end : last;
}

// '(?:[sdmt]|ll|ve|re) | ?\p{L}+ | ?\p{N}+ | ?[^\s\p{L}\p{N}]+ | \s+(?!\S) | \s+
inline size_t gpt2_pretoken_end(TextView& text, size_t begin, Progress& progress) {
    size_t first = begin;
    Character character = text.at(begin);
    if (text.byte(begin) == '\'') {
        const size_t contraction = contraction_length(text, begin, false);
        if (contraction > 0) return begin + contraction;
    } else if (text.byte(begin) == ' ') {
        const Character next = text.at(begin + 1);
        if (!next.in(kSpace | kEnd)) {
            first = begin + 1;
            character = next;
        }
    }
    CharacterSet run = kSymbol;
    for (const CharacterSet set : {kLetter, kNumber, kSpace}) {
        if (character.in(set)) run = set;
    }
    const size_t end = run_end(text, first + character.length, run, 0, progress);
    return run == kSpace ? end_of_white_space(text, begin, end) : end;
}

// At most `most` numbers.
inline size_t end_of_numbers(TextView& text, size_t begin, int most) {
    for (; most > 0; --most) {
        const Character character = text.at(begin);
        if (!character.in(kNumber)) break;
        begin += character.length;
    }
    return begin;
}

// \s*[\r\n]+ | \s+(?!\S) | \s+
//
// `undivided_at_end`: white space at the end of the text is one pretoken, `\s++$`.
inline size_t end_of_lines(TextView& text, size_t begin, Progress& progress, bool undivided_at_end) {
    const size_t end = run_end(text, begin, kSpace, 0, progress);
    if (undivided_at_end && text.at(end).in(kEnd)) return end;
    for (size_t last = end; last > begin; --last) {
        if (text.bytes()[last - 1] == '\n' || text.bytes()[last - 1] == '\r') return last;
    }
    return end_of_white_space(text, begin, end);
}

// Differences between the patterns since GPT-4.
struct LineRules {
    int numbers;            // most numbers in a pretoken
    bool undivided_at_end;  // see end_of_lines
};

constexpr LineRules rules_of(Pattern pattern) {
    return {pattern == Pattern::Qwen2 ? 1 : 3, pattern == Pattern::Cl100k};
}

// '(?i:[sdmt]|ll|ve|re) | [^\r\n\p{L}\p{N}]?\p{L}+ | \p{N}{1,3} | ?[^\s\p{L}\p{N}]+[\r\n]* | white space
inline size_t line_pretoken_end(TextView& text, size_t begin, Progress& progress, LineRules rules) {
    const Character character = text.at(begin);
    if (character.in(kLetter)) return run_end(text, begin, kLetter, 0, progress);
    if (character.in(kNumber)) return end_of_numbers(text, begin, rules.numbers);
    if (text.byte(begin) == '\'') {
        const size_t contraction = contraction_length(text, begin, true);
        if (contraction > 0) return begin + contraction;
    }
    if (!character.in(kNewline)) {
        const size_t second = begin + character.length;
        const Character next = text.at(second);
        if (next.in(kLetter)) return run_end(text, second, kLetter, 0, progress);
        if (character.in(kSymbol) || (text.byte(begin) == ' ' && next.in(kSymbol))) {
            return run_end(text, run_end(text, second, kSymbol, 0, progress), kNewline, 1, progress);
        }
    }
    return end_of_lines(text, begin, progress, rules.undivided_at_end);
}

// Differences between the patterns that split words by case.
struct CasedRules {
    int numbers;        // most numbers in a pretoken
    bool contractions;  // a word includes its contraction
};

inline constexpr CasedRules kO200kRules{3, true}, kTekkenRules{1, false};

// The end of a word of GPT-4o, with U = [\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}] and L = [\p{Ll}\p{Lm}\p{Lo}\p{M}]: U*L+ or else
// U+L*, followed by its contraction if `contractions` is set. Characters in both U and L let `U*L+` match by
// backtracking: the word then ends after the last such character.
inline size_t end_of_cased_word(TextView& text, size_t begin, Progress& progress, bool contractions) {
    constexpr CharacterSet kUncased = kOtherLetter | kMark;
    const size_t uppers = run_end(text, begin, kUpper | kUncased, 0, progress);
    size_t end = run_end(text, uppers, kLower | kUncased, 1, progress);
    if (text.undecided()) return end;
    if (end == uppers) {
        for (size_t last = uppers; last > begin; --last) {
            if ((text.bytes()[last - 1] & 0xC0) == 0x80) continue;
            if (text.at(last - 1).in(kUncased)) {
                end = last - 1 + text.at(last - 1).length;
                break;
            }
        }
    }
    return contractions && text.byte(end) == '\'' ? end + contraction_length(text, end, true) : end;
}

// [^\r\n\p{L}\p{N}]?(word) | \p{N}{1,3} | ?[^\s\p{L}\p{N}]+[\r\n/]* | white space; single numbers in Tekken
//
// A mark may be the character before a word or begin the word; the pretoken is the same.
inline size_t cased_pretoken_end(TextView& text, size_t begin, Progress& progress, CasedRules rules) {
    constexpr CharacterSet kWord = kLetter | kMark;
    const Character character = text.at(begin);
    if (character.in(kWord)) return end_of_cased_word(text, begin, progress, rules.contractions);
    if (character.in(kNumber)) return end_of_numbers(text, begin, rules.numbers);
    if (!character.in(kNewline)) {
        const size_t second = begin + character.length;
        const Character next = text.at(second);
        if (next.in(kWord)) return end_of_cased_word(text, second, progress, rules.contractions);
        if (character.in(kSymbol) || (text.byte(begin) == ' ' && next.in(kSymbol))) {
            size_t end = run_end(text, second, kSymbol, 0, progress);
            do {
                end = run_end(text, end, kNewline, 1, progress);
                while (text.byte(end) == '/') progress = {++end, 1};
            } while (text.at(end).in(kNewline));
            return end;
        }
    }
    return end_of_lines(text, begin, progress, false);
}

// The end of the pretoken that begins at `begin` (< text.size()), or nothing if it depends on later text. `progress`
// belongs to the pretoken: empty at first, and passed again with more text.
inline std::optional<size_t> pretoken_end(Pattern pattern, TextView& text, size_t begin, Progress& progress) {
    size_t end = 0;
    switch (pattern) {
        case Pattern::Gpt2: end = gpt2_pretoken_end(text, begin, progress); break;
        case Pattern::O200k: end = cased_pretoken_end(text, begin, progress, kO200kRules); break;
        case Pattern::Tekken: end = cased_pretoken_end(text, begin, progress, kTekkenRules); break;
        default: end = line_pretoken_end(text, begin, progress, rules_of(pattern)); break;
    }
    const bool undecided = text.undecided();
    text.forget_end();
    if (undecided) return std::nullopt;
    progress = {};
    return end;
}

}  // namespace groundup
