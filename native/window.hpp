// Window of 64 bytes of text as bit masks: bit i of a mask says whether byte i is in a class.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "character_class.hpp"

namespace groundup {

inline constexpr size_t kWindowBytes = 64;

struct Window {
    uint64_t letter, upper, number, space, newline, blank, apostrophe;  // `blank` is only ' '
    uint64_t not_ascii;     // in none of the masks above until add_unicode()
    uint64_t continuation;  // all bytes of a character except its first
    unsigned valid;         // number of bytes for which the masks are valid; no character crosses this end
    bool ends_text;         // the text ends at `valid`

    uint64_t symbol() const { return ~(letter | number | space); }
};

// The `count` lowest bits.
constexpr uint64_t low_bits(size_t count) { return count >= 64 ? ~uint64_t{0} : (uint64_t{1} << count) - 1; }

// Sets the masks of the ASCII bytes among the 64 at `bytes`; does not set `continuation`, `valid` and `ends_text`.
using ClassifyWindow = void (*)(const uint8_t* bytes, Window& window);

// The definition: byte by byte. The other implementations equal it.
void classify_window_scalar(const uint8_t* bytes, Window& window);
void classify_window_avx2(const uint8_t* bytes, Window& window);
void classify_window_avx512(const uint8_t* bytes, Window& window);
void classify_window_neon(const uint8_t* bytes, Window& window);

// The fastest implementation that this processor can run, or none if the definition of the patterns is as fast. For
// tests, the environment variable GROUNDUP_SIMD (scalar, avx2, avx512, neon or masks) selects another one.
ClassifyWindow classify_window();

// Name of the implementation that classify_window() chose.
std::string_view simd_name();

// Adds the non-ASCII characters of the set to the masks; `valid` ends before the first non-ASCII character outside the
// set. `size` bytes are text.
inline void add_unicode(Window& window, const uint8_t* bytes, size_t size, CharacterSet supported,
                        const UnicodeTable& unicode) {
    uint64_t left = window.not_ascii & low_bits(window.valid);
    while (left != 0) {
        const auto begin = static_cast<unsigned>(std::countr_zero(left));
        const Utf8Character character = decode_utf8(bytes + begin, size - begin);
        const bool is_valid = character.status == Utf8Status::Valid;
        const CharacterSet character_class = is_valid ? unicode.class_of(character.code_point) : kOther;
        const unsigned length = is_valid ? character.length : 1;
        const bool cut_off = character.status == Utf8Status::Truncated && !window.ends_text;
        if ((character_class & supported) == 0 || begin + length > window.valid || cut_off) {
            window.valid = begin;
            window.ends_text = false;
            return;
        }
        const uint64_t run = low_bits(length) << begin;
        if (character_class & kLetter) window.letter |= run;
        if (character_class & kUpper) window.upper |= run;
        if (character_class & kNumber) window.number |= run;
        window.continuation |= run & ~(uint64_t{1} << begin);
        left &= ~run;
    }
}

}  // namespace groundup
