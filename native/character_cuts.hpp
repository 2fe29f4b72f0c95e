// Cuts that do not change the ids of byte-pair encoding on characters, which merges over whole texts.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "text_view.hpp"
#include "utf8.hpp"

namespace groundup {

// SentencePiece treats a space in the text and U+2581 (LOWER ONE EIGHTH BLOCK) as the same character.
inline constexpr uint32_t kSpaceMark = 0x2581;

struct TextCharacter {
    uint32_t code;  // the code point, kSpaceMark for a space; kInvalidByte + byte for invalid UTF-8
    uint8_t length;
    bool truncated;  // the text ends inside it

    static constexpr uint32_t kInvalidByte = 0x110000;
};

// The character at text[0], of `size` >= 1 readable bytes.
inline TextCharacter text_character(const uint8_t* text, size_t size) {
    if (text[0] < 0x80) return {text[0] == ' ' ? kSpaceMark : text[0], 1, false};
    const Utf8Character found = decode_utf8(text, size);
    if (found.status == Utf8Status::Valid) return {found.code_point, found.length, false};
    return {TextCharacter::kInvalidByte + text[0], 1, found.status == Utf8Status::Truncated};
}

// The code of the last character of `size` >= 1 bytes.
inline uint32_t last_code(const uint8_t* text, size_t size) {
    for (size_t length = 1; length <= 4 && length <= size; ++length) {
        const TextCharacter found = text_character(text + size - length, length);
        if (found.code < TextCharacter::kInvalidByte && found.length == length) return found.code;
    }
    return TextCharacter::kInvalidByte + text[size - 1];
}

// A cut between two characters changes no ids if they are adjacent in no token that merges make: then no token crosses
// the cut, and the merges on one side do not depend on the other. Of all such cuts, those before spaces are preferred,
// because words with the space before them recur and are found in the cache.
class CharacterCuts {
   public:
    // `every_space`: cut before every space, regardless of merges, as Metaspace with `split` does.
    explicit CharacterCuts(bool every_space) : every_space_(every_space), joined_((size_t{1} << kBits) / 64) {}

    bool every_space() const { return every_space_; }

    // Records that the two characters are adjacent in some token.
    void join(uint32_t left, uint32_t right) {
        const size_t bit = bit_of(left, right);
        joined_[bit / 64] |= uint64_t{1} << bit % 64;
    }

    // Whether a cut between the two characters is known to change no ids.
    bool may_cut(uint32_t left, uint32_t right) const {
        const size_t bit = bit_of(left, right);
        return (joined_[bit / 64] >> bit % 64 & 1) == 0 || (every_space_ && right == kSpaceMark);
    }

    // The end of the piece that begins at `begin` (< text.size()), or nothing if it depends on later text. `progress`
    // belongs to the piece: empty at first, and passed again with more text.
    std::optional<size_t> piece_end(const TextView& text, size_t begin, Progress& progress) const {
        size_t position = begin;
        uint32_t last = 0;
        if (progress.position > begin) {
            position = progress.position;
            last = last_code(text.bytes() + begin, position - begin);
        }
        while (position < text.size()) {
            const TextCharacter next = text_character(text.bytes() + position, text.size() - position);
            if (next.truncated && !text.complete()) break;
            const size_t size = position - begin;
            if (size > 0 && (next.code == kSpaceMark || size >= kLongPiece) && may_cut(last, next.code)) {
                progress = {};
                return position;
            }
            last = next.code;
            position += next.length;
        }
        progress = text.complete() ? Progress{} : Progress{position, 0};
        return text.complete() ? std::optional(position) : std::nullopt;
    }

   private:
    static constexpr unsigned kBits = 19;
    static constexpr size_t kLongPiece = 12;  // longer pieces are cut not only before a space

    static size_t bit_of(uint32_t left, uint32_t right) {
        return (uint64_t{left} << 21 | right) * 0x9E3779B97F4A7C15u >> (64 - kBits);
    }

    bool every_space_;
    std::vector<uint64_t> joined_;  // bits of a hash set of pairs; a bit is set if one of its pairs is in a token
};

}  // namespace groundup
