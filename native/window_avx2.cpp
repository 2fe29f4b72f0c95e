// Masks of a window with AVX2. This file is compiled for processors with AVX2; window.cpp checks that this processor
// has it.
//
// A range is tested by one unsigned subtraction, `byte - first < count`; letters of both cases by setting bit 5, which
// maps no other byte to 'a'..'z'.
#include <immintrin.h>

#include "window.hpp"

namespace groundup {

void classify_window_avx2(const uint8_t* bytes, Window& window) {
    const __m256i low = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(bytes));
    const __m256i high = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(bytes + 32));
    const auto mask_of = [](__m256i first, __m256i second) {
        return uint64_t{static_cast<uint32_t>(_mm256_movemask_epi8(second))} << 32 |
               static_cast<uint32_t>(_mm256_movemask_epi8(first));
    };
    const auto is = [&](char byte) {
        const __m256i wanted = _mm256_set1_epi8(byte);
        return mask_of(_mm256_cmpeq_epi8(low, wanted), _mm256_cmpeq_epi8(high, wanted));
    };
    // AVX2 has no unsigned comparison: min(x, count - 1) == x.
    const auto half_in_range = [](__m256i value, char first, char count) {
        const __m256i offset = _mm256_sub_epi8(value, _mm256_set1_epi8(first));
        return _mm256_cmpeq_epi8(_mm256_min_epu8(offset, _mm256_set1_epi8(static_cast<char>(count - 1))), offset);
    };
    const auto in_range = [&](__m256i first_half, __m256i second_half, char first, char count) {
        return mask_of(half_in_range(first_half, first, count), half_in_range(second_half, first, count));
    };
    const __m256i bit_5 = _mm256_set1_epi8(0x20);
    window.letter = in_range(_mm256_or_si256(low, bit_5), _mm256_or_si256(high, bit_5), 'a', 26);
    window.upper = in_range(low, high, 'A', 26);
    window.number = in_range(low, high, '0', 10);
    window.blank = is(' ');
    window.newline = is('\n') | is('\r');
    window.space = window.blank | in_range(low, high, '\t', 5);
    window.apostrophe = is('\'');
    window.not_ascii = mask_of(low, high);
}

}  // namespace groundup
