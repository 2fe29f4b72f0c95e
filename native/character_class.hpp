// The four kinds of character that the GPT-2 pattern tells apart.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "unicode_tables.hpp"
#include "utf8.hpp"

namespace groundup {

// Every character has exactly one class; the numbers are those in unicode_tables.hpp.
enum class CharacterClass : uint8_t {
    Letter = 0,  // \p{L}
    Number = 1,  // \p{N}
    Space = 2,   // \s
    Other = 3,   // [^\s\p{L}\p{N}], and every byte that is not part of valid UTF-8
};

inline CharacterClass class_of(uint32_t code_point) {
    return static_cast<CharacterClass>(kClassOfBlock[kBlockOfCodePoint[code_point >> 8] * 256 + (code_point & 255)]);
}

// The class of every ASCII byte; kNotAscii for the others. Most text is ASCII, and one load decides it.
inline constexpr uint8_t kNotAscii = 0xFF;
inline constexpr std::array<uint8_t, 256> kAsciiClass = [] {
    std::array<uint8_t, 256> classes{};
    classes.fill(kNotAscii);
    for (size_t byte = 0; byte < 0x80; ++byte) classes[byte] = kClassOfBlock[kBlockOfCodePoint[0] * 256 + byte];
    return classes;
}();

struct ClassifiedCharacter {
    CharacterClass character_class;
    uint8_t length;  // 0: the text ends inside the character, and more of it may follow
};

// `text_is_complete` says that nothing follows text[size - 1]: a sequence cut off there is then invalid bytes.
inline ClassifiedCharacter classify(const uint8_t* text, size_t size, bool text_is_complete) {
    if (text[0] < 0x80) return {static_cast<CharacterClass>(kAsciiClass[text[0]]), 1};
    const Utf8Character character = decode_utf8(text, size);
    if (character.status == Utf8Status::Valid) return {class_of(character.code_point), character.length};
    if (character.status == Utf8Status::Truncated && !text_is_complete) return {CharacterClass::Other, 0};
    return {CharacterClass::Other, 1};
}

}  // namespace groundup
