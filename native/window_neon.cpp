// Masks of a window with NEON. This file is compiled for processors with NEON; window.cpp checks that this processor
// has it.
//
// A range is tested by one unsigned subtraction, `byte - first < count`; letters of both cases by setting bit 5, which
// maps no other byte to 'a'..'z'.
#include <arm_neon.h>

#include "window.hpp"

namespace groundup {

namespace {

// One bit a byte, from bytes that are 0x00 or 0xFF: each byte keeps the bit of its index modulo eight, and three
// pairwise additions combine them.
uint64_t mask_of(const uint8x16_t (&matches)[4]) {
    static constexpr uint8_t kPlaces[16] = {1, 2, 4, 8, 16, 32, 64, 128, 1, 2, 4, 8, 16, 32, 64, 128};
    const uint8x16_t place = vld1q_u8(kPlaces);
    const uint8x16_t first = vpaddq_u8(vandq_u8(matches[0], place), vandq_u8(matches[1], place));
    const uint8x16_t second = vpaddq_u8(vandq_u8(matches[2], place), vandq_u8(matches[3], place));
    const uint8x16_t quarters = vpaddq_u8(first, second);
    return vgetq_lane_u64(vreinterpretq_u64_u8(vpaddq_u8(quarters, quarters)), 0);
}

template <typename Matches>
uint64_t mask_where(const uint8_t* bytes, Matches&& matches) {
    const uint8x16_t found[4] = {matches(vld1q_u8(bytes)), matches(vld1q_u8(bytes + 16)), matches(vld1q_u8(bytes + 32)),
                                 matches(vld1q_u8(bytes + 48))};
    return mask_of(found);
}

}  // namespace

void classify_window_neon(const uint8_t* bytes, Window& window) {
    const auto is = [&](uint8_t byte) {
        return mask_where(bytes, [=](uint8x16_t text) { return vceqq_u8(text, vdupq_n_u8(byte)); });
    };
    const auto in_range = [&](uint8_t first, uint8_t count, uint8_t set_bits = 0) {
        return mask_where(bytes, [=](uint8x16_t text) {
            const uint8x16_t value = vorrq_u8(text, vdupq_n_u8(set_bits));
            return vcltq_u8(vsubq_u8(value, vdupq_n_u8(first)), vdupq_n_u8(count));
        });
    };
    window.letter = in_range('a', 26, 0x20);
    window.upper = in_range('A', 26);
    window.number = in_range('0', 10);
    window.blank = is(' ');
    window.newline = is('\n') | is('\r');
    window.space = window.blank | in_range('\t', 5);
    window.apostrophe = is('\'');
    window.not_ascii = in_range(0x80, 0x80);
}

}  // namespace groundup
