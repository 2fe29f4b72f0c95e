// Starts of pretokens in a window, by arithmetic on its masks.
//
// A window begins at the start of a pretoken, so the text before it does not matter. The result has the bits of all
// starts that the bytes of the window decide, without gaps: the pretoken at the highest bit is the first whose end is
// not known, and the next window begins with it. Equal to pretokenizer.hpp, which is the definition.
//
// Adding a bit to a run of ones clears the run from that bit on and sets the bit after it: `run + bit` finds ends of
// runs.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>

#include "pretokenizer.hpp"
#include "window.hpp"

namespace groundup {

// The characters that starts_in_window(pattern) supports. The definition handles the others, which are rare.
constexpr CharacterSet supported_characters(Pattern pattern) {
    switch (pattern) {
        case Pattern::Gpt2: return kLetter | kNumber | kSymbol;
        case Pattern::O200k:
        case Pattern::Tekken: return kUpper | kLower | kOther;
        default: return kLetter | kSymbol;
    }
}

// Clears the masks beyond the valid bytes, or sets them to white space if the text ends there: the last white space of
// a text then stays whole, as if more white space followed.
inline void limit_to_valid(Window& window) {
    const uint64_t valid = low_bits(window.valid);
    window.letter &= valid;
    window.upper &= valid;
    window.number &= valid;
    window.newline &= valid;
    window.blank &= valid;
    window.apostrophe &= valid;
    window.continuation &= valid;
    window.space = window.ends_text ? window.space | ~valid : window.space & valid;
}

// The certain ones of the starts: all up to the end of the text, which is a start too, or those before the last valid
// byte.
inline uint64_t certain_starts(const Window& window, uint64_t starts) {
    if (!window.ends_text) return starts & low_bits(window.valid - 1);
    return (starts & low_bits(window.valid)) | uint64_t{1} << window.valid;
}

// Calls found(position, length) for each contraction at one of the apostrophes, which are followed by a letter. Returns
// the position of the first apostrophe that the valid bytes do not decide, or 64.
template <typename Found>
unsigned for_each_contraction(const Window& window, const uint8_t* bytes, uint64_t apostrophes, bool ignore_case,
                              Found&& found) {
    for (; apostrophes != 0; apostrophes &= apostrophes - 1) {
        const auto position = static_cast<unsigned>(std::countr_zero(apostrophes));
        if (position + 4 > window.valid && !window.ends_text) return position;
        TextView text(bytes, window.valid, true);
        const size_t length = contraction_length(text, position, ignore_case);
        if (length > 0) found(position, static_cast<unsigned>(length));
    }
    return 64;
}

// Sets a bit if it is inside the window.
inline void set_bit(uint64_t& mask, unsigned position) {
    if (position < 64) mask |= uint64_t{1} << position;
}

inline uint64_t gpt2_starts(const Window& window, const uint8_t* bytes) {
    const uint64_t symbol = window.symbol();
    const uint64_t goes_on =
        (window.letter & window.letter << 1) | (window.number & window.number << 1) | (symbol & symbol << 1);
    const uint64_t before_other = window.space & ~(window.space >> 1);
    uint64_t starts = (~window.space & ~goes_on & ~(window.blank << 1)) | (window.space & ~(window.space << 1)) |
                      before_other;
    const unsigned undecided = for_each_contraction(
        window, bytes, window.apostrophe & starts & window.letter >> 1, false, [&](unsigned position, unsigned length) {
            starts &= ~(uint64_t{2} << position);
            set_bit(starts, position + length);
        });
    return certain_starts(window, starts) & low_bits(undecided + 1);
}

// White space of the patterns since GPT-4, in which white space before a line end belongs to it. `swallowed` line ends
// belong to the symbols before them.
struct LineStarts {
    uint64_t starts;
    unsigned undecided;  // first position from which the starts are not certain
};

inline LineStarts line_starts(const Window& window, uint64_t swallowed, bool undivided_at_end) {
    const uint64_t space = window.space & ~swallowed;
    const uint64_t inner = window.space & ~window.newline;  // white space within a line
    LineStarts result{(space & ~(space << 1)) | (inner & ~(window.space >> 1)), 64};
    // White space after a line end is a start, unless another line end follows it: then the pretoken extends to that
    // one.
    uint64_t indents = inner & (window.newline & ~swallowed) << 1;
    if (indents == 0) return result;
    const uint64_t behind = (indents + inner) & ~inner;
    for (uint64_t blank_lines = behind & window.newline; blank_lines != 0; blank_lines &= blank_lines - 1) {
        const uint64_t below = indents & ((blank_lines & -blank_lines) - 1);
        indents &= ~std::bit_floor(below);
    }
    // An indent that reaches the end of the window is undecided, except at the end of the text.
    const uint64_t last = std::bit_floor(indents);
    const uint64_t reach = (last + inner) & ~inner & ~(last - 1);
    const bool reaches_end = last != 0 && (reach == 0 || std::countr_zero(reach) >= static_cast<int>(window.valid));
    if (reaches_end && (undivided_at_end || !window.ends_text)) {
        indents &= ~last;
        if (!window.ends_text) result.undecided = static_cast<unsigned>(std::countr_zero(last));
    }
    result.starts |= indents;
    return result;
}

// A single symbol or inner white space before a letter belongs to the word: the positions after such characters.
inline uint64_t behind_prefix(const Window& window, uint64_t symbol_starts) {
    const uint64_t inner = window.space & ~window.newline;
    const uint64_t behind_symbol = ((symbol_starts << 1) + window.continuation) & ~window.continuation;
    return inner << 1 | behind_symbol;
}

// Starts within runs of numbers: the first and every third after it (`most` = 3), or every number (`most` = 1).
inline uint64_t number_starts(uint64_t number, int most) {
    if (most == 1) return number;
    uint64_t starts = number & ~(number << 1);
    const uint64_t goes_on = number & number << 1 & number << 2 & number << 3;
    for (uint64_t next = starts << 3 & goes_on; next != 0; next = next << 3 & goes_on) starts |= next;
    return starts;
}

inline uint64_t line_pattern_starts(const Window& window, const uint8_t* bytes, LineRules rules) {
    const uint64_t symbol = window.symbol() & (window.ends_text ? ~uint64_t{0} : low_bits(window.valid));
    const uint64_t swallowed = window.newline & ~(window.newline + (window.newline & symbol << 1));
    const LineStarts lines = line_starts(window, swallowed, rules.undivided_at_end);
    const uint64_t symbol_starts = symbol & ~(symbol << 1) & ~(window.blank << 1);
    const uint64_t word_starts = window.letter & ~(window.letter << 1) & ~behind_prefix(window, symbol_starts);
    uint64_t starts = lines.starts | symbol_starts | word_starts | number_starts(window.number, rules.numbers);
    const unsigned undecided = for_each_contraction(
        window, bytes, window.apostrophe & symbol_starts & window.letter >> 1, true,
        [&](unsigned position, unsigned length) { set_bit(starts, position + length); });
    return certain_starts(window, starts) & low_bits(undecided + 1) & low_bits(lines.undecided);
}

inline uint64_t cased_starts(const Window& window, const uint8_t* bytes, CasedRules rules) {
    uint64_t symbol = window.symbol() & (window.ends_text ? ~uint64_t{0} : low_bits(window.valid));
    uint64_t swallowed = 0;
    uint64_t slash = 0;
    for (uint64_t ends = window.newline & symbol << 1; ends != 0; ends &= ends - 1) {
        const uint64_t end = ends & -ends;
        if (end & swallowed) continue;
        if (slash == 0) {
            for (unsigned i = 0; i < window.valid; ++i) slash |= uint64_t{bytes[i] == '/'} << i;
        }
        const uint64_t run = window.newline | slash;
        swallowed |= run & ~(run + end) & ~(end - 1);
    }
    symbol &= ~swallowed;
    const LineStarts lines = line_starts(window, swallowed & window.newline, false);
    const uint64_t symbol_starts = symbol & ~(symbol << 1) & ~(window.blank << 1);
    const uint64_t lower = window.letter & ~window.upper;
    const uint64_t word_starts = (window.letter & ~(window.letter << 1) & ~behind_prefix(window, symbol_starts)) |
                                 (window.upper & lower << 1 & ~window.continuation);
    uint64_t starts = lines.starts | symbol_starts | word_starts | number_starts(window.number, rules.numbers);
    if (!rules.contractions) return certain_starts(window, starts) & low_bits(lines.undecided);
    // A contraction directly after a word is part of it. The letters of a contraction are not a word, so a contraction
    // directly after it is separate.
    uint64_t within = 0;
    const unsigned undecided = for_each_contraction(
        window, bytes, window.apostrophe & window.letter << 1 & window.letter >> 1, true,
        [&](unsigned position, unsigned length) {
            if (within >> position & 1) return;
            starts &= ~(low_bits(length) << position);
            set_bit(starts, position + length);
            within = low_bits(length + 1) << position;
        });
    return certain_starts(window, starts) & low_bits(undecided) & low_bits(lines.undecided);
}

template <Pattern pattern>
uint64_t starts_in_window(const Window& window, const uint8_t* bytes) {
    if constexpr (pattern == Pattern::Gpt2) return gpt2_starts(window, bytes);
    if constexpr (pattern == Pattern::O200k) return cased_starts(window, bytes, kO200kRules);
    if constexpr (pattern == Pattern::Tekken) return cased_starts(window, bytes, kTekkenRules);
    return line_pattern_starts(window, bytes, rules_of(pattern));
}

}  // namespace groundup
