// Character classes that the patterns distinguish.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>

#include "unicode_tables.hpp"
#include "utf8.hpp"

namespace groundup {

// A set of character classes, one bit each. Every character has exactly one class; its number in unicode_tables.hpp is
// the index of the bit.
using CharacterSet = uint16_t;

inline constexpr CharacterSet kUpper = 1 << 0;        // \p{Lu} \p{Lt}
inline constexpr CharacterSet kLower = 1 << 1;        // \p{Ll}
inline constexpr CharacterSet kOtherLetter = 1 << 2;  // \p{Lm} \p{Lo}
inline constexpr CharacterSet kMark = 1 << 3;         // \p{M}
inline constexpr CharacterSet kNumber = 1 << 4;       // \p{N}
inline constexpr CharacterSet kNewline = 1 << 5;      // \r \n
inline constexpr CharacterSet kBlank = 1 << 6;        // all other \s
inline constexpr CharacterSet kOther = 1 << 7;        // everything else, and every byte that is not valid UTF-8
inline constexpr CharacterSet kEnd = 1 << 8;          // no character: the text ends here

inline constexpr CharacterSet kLetter = kUpper | kLower | kOtherLetter;  // \p{L}
inline constexpr CharacterSet kSpace = kNewline | kBlank;                // \s
inline constexpr CharacterSet kSymbol = kMark | kOther;                  // [^\s\p{L}\p{N}]

// Character classes of one Unicode version. Versions differ in the code points that were assigned in between.
class UnicodeTable {
   public:
    // The newest version.
    constexpr UnicodeTable() : UnicodeTable(kUnicodeVersions.size() - 1) {}

    static constexpr std::optional<UnicodeTable> of_version(std::string_view version) {
        for (size_t i = 0; i < kUnicodeVersions.size(); ++i) {
            if (kUnicodeVersions[i] == version) return UnicodeTable(i);
        }
        return std::nullopt;
    }

    CharacterSet class_of(uint32_t code_point) const {
        return static_cast<CharacterSet>(1 << kClassOfBlock[blocks_[code_point >> 8] * 256 + (code_point & 255)]);
    }

   private:
    explicit constexpr UnicodeTable(size_t number) : blocks_(kBlockOfCodePoint[number]) {}

    const uint8_t* blocks_;
};

// Class of every ASCII byte, the same in all Unicode versions; empty for other bytes. Most text is ASCII, and needs
// only this load.
inline constexpr std::array<CharacterSet, 256> kAsciiClass = [] {
    std::array<CharacterSet, 256> classes{};
    for (size_t byte = 0; byte < 0x80; ++byte) {
        classes[byte] = static_cast<CharacterSet>(1 << kClassOfBlock[kBlockOfCodePoint[0][0] * 256 + byte]);
    }
    return classes;
}();

}  // namespace groundup
