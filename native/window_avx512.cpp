// Masks of a window with AVX-512. This file is compiled for processors with AVX-512; window.cpp checks that this
// processor has it.
//
// A range is tested by one unsigned subtraction, `byte - first < count`; letters of both cases by setting bit 5, which
// maps no other byte to 'a'..'z'.
#include <immintrin.h>

#include "window.hpp"

namespace groundup {

void classify_window_avx512(const uint8_t* bytes, Window& window) {
    const __m512i text = _mm512_loadu_si512(bytes);
    const auto is = [&](char byte) { return _mm512_cmpeq_epi8_mask(text, _mm512_set1_epi8(byte)); };
    const auto in_range = [](__m512i value, char first, char count) {
        return _mm512_cmplt_epu8_mask(_mm512_sub_epi8(value, _mm512_set1_epi8(first)), _mm512_set1_epi8(count));
    };
    window.letter = in_range(_mm512_or_si512(text, _mm512_set1_epi8(0x20)), 'a', 26);
    window.upper = in_range(text, 'A', 26);
    window.number = in_range(text, '0', 10);
    window.blank = is(' ');
    window.newline = is('\n') | is('\r');
    window.space = window.blank | in_range(text, '\t', 5);
    window.apostrophe = is('\'');
    window.not_ascii = _mm512_movepi8_mask(text);
}

}  // namespace groundup
