// UTF-8 decoder that never loses a byte: a byte that begins no valid sequence is one invalid byte.
#pragma once

#include <cstddef>
#include <cstdint>

namespace groundup {

enum class Utf8Status : uint8_t {
    Valid,      // `length` bytes encode `code_point`
    Invalid,    // the byte begins no valid sequence; length is 1
    Truncated,  // the text ends inside a sequence that is valid so far
};

struct Utf8Character {
    uint32_t code_point;
    uint8_t length;
    Utf8Status status;
};

// Decodes the character at text[0], of `size` >= 1 readable bytes. Valid sequences are those of table 3-7 of the
// Unicode standard, as in Python's decoder: no overlong forms, no surrogates, no code points above U+10FFFF.
inline Utf8Character decode_utf8(const uint8_t* text, size_t size) {
    const uint8_t lead = text[0];
    if (lead < 0x80) return {lead, 1, Utf8Status::Valid};
    if (lead < 0xC2 || lead > 0xF4) return {lead, 1, Utf8Status::Invalid};
    const size_t length = lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;

    // Only the range of the second byte depends on the lead byte. It excludes overlong forms (E0, F0), surrogates (ED)
    // and code points that are too large (F4).
    uint8_t lowest = lead == 0xE0 ? 0xA0 : lead == 0xF0 ? 0x90 : 0x80;
    uint8_t highest = lead == 0xED ? 0x9F : lead == 0xF4 ? 0x8F : 0xBF;
    uint32_t code_point = lead & (0xFFu >> (length + 1));
    for (size_t i = 1; i < length; ++i) {
        if (i == size) return {lead, 1, Utf8Status::Truncated};
        if (text[i] < lowest || text[i] > highest) return {lead, 1, Utf8Status::Invalid};
        code_point = code_point << 6 | (text[i] & 0x3F);
        lowest = 0x80;
        highest = 0xBF;
    }
    return {code_point, static_cast<uint8_t>(length), Utf8Status::Valid};
}

}  // namespace groundup
