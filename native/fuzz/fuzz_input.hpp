// Choices from the bytes of a fuzzer's input, and text of pieces that are edge cases of tokenizers.
//
// The input is read as a list of choices, so a mutated input is again a list of choices and gives text that is mostly
// edge cases. At the end of the input every choice is the first option.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace groundup::fuzz {

using namespace std::string_view_literals;

class FuzzInput {
   public:
    FuzzInput(const uint8_t* data, size_t size) : data_(data), size_(size) {}

    bool at_end() const { return size_ == 0; }

    uint8_t byte() {
        if (size_ == 0) return 0;
        --size_;
        return *data_++;
    }

    // A number below `count` <= 65536.
    size_t below(size_t count) {
        size_t choice = byte();
        if (count > 256) choice = choice << 8 | byte();
        return choice % count;
    }

   private:
    const uint8_t* data_;
    size_t size_;
};

inline constexpr auto kFragments = std::to_array<std::string_view>({
    "a", "b", "z", "A", "B", "Z", "the", " the", "The", "tHE", "camelCase", "HTTPServer", "x1",
    "0", "9", "12", "123", "1234", "3.14", "½", "Ⅷ", "٣", "१२३", "𝟘",
    "'", "''", "'s", "'S", "'d", "'m", "'t", "'T", "'l", "'ll", "'Ll", "'LL", "'v", "'ve", "'vE", "'r", "'re", "'RE",
    "'ſ", "'ſſ", "ſ", "\xC5", "'\xC5", "’", "’s", "'é", "'sx", "'llx", "x's", "x'S's", "I'm", "WE'LL", "he'd've",
    " ", "  ", "   ", "\t", " \t", "\n", "\r", "\r\n", "\n\n", "\n \n", "\n  x", " \n", "  \n", "\v", "\f", "\n\t",
    "\x1C", "\x1F", "\xC2\x85", "\xC2\xA0", " \xC2\xA0", "\xE1\x9A\x80", "\xE2\x80\x83",
    "\xE2\x80\xA8", "\xE2\x80\xA9",
    "\xE3\x80\x80", "\xE3\x80\x80x", "\xE2\x80\x8B", "\xEF\xBB\xBF", "\n\xE2\x80\xA8", "\xC2\xA0\n",
    "/", "//", "/\n", "\n/", "\r\n/", "!", "!!", "!\n", "!\n/", "!/\n/x", "! \n", " !", "...",
    "=", "==", " ==", "_", "-",
    "<", "<|", "|>", "<|a|>", "<|a|>b", "<|a|><|a|>", " x ", "#", "@x", "(x)", "[",
    "{\n", "};\n\n", "\"", "\\n", "~", "`",
    "é", "É", "ß", "ñandú", "Привет", "МоСква", "ΑΒΓδ", "ǅ", "ǅx", "xǅ", "ʰ", "ʰX", "xʰ", "ª", "日", "日本", "日A", "A日",
    "日a", "की", "न", "न\xCC\x81", "한국", "ا", "שָׁ", "ก็", "𐐀", "𐐨", "𠀀",
    "\xCC\x81", "e\xCC\x81", "E\xCC\x81x", " \xCC\x81", "!\xCC\x81", "\xCC\x81!", "\n\xCC\x81", "1\xCC\x81",
    "\xE2\x83\xA3", "\xF0\x9E\xA5\x84", "🐈", "🐈‍⬛", "👩‍👩‍👧", "🇩🇪", "☺️", "←", "€", "“", "„x“", "…", "—",
    "\x80", "\xBF", "\xC0\x80", "\xC3", "\xE2", "\xE2\x82", "\xE3\x80", "\xED\xA0\x80", "\xEF\xBF", "\xF0\x9F",
    "\xF0\x9F\x90", "\xF4\x90\x80\x80", "\xF5", "\xFE", "\xFF", "\x00"sv, "\x7F", "\x01",
});
static_assert(kFragments.size() <= 224, "the choices from 224 on mean something else");

inline void append_utf8(std::string& text, uint32_t code_point) {
    const auto continuation = [&](int shift) { text += static_cast<char>(0x80 | (code_point >> shift & 0x3F)); };
    if (code_point < 0x80) {
        text += static_cast<char>(code_point);
    } else if (code_point < 0x800) {
        text += static_cast<char>(0xC0 | code_point >> 6);
        continuation(0);
    } else if (code_point < 0x10000) {  // surrogates too: they must count as invalid UTF-8
        text += static_cast<char>(0xE0 | code_point >> 12);
        continuation(6), continuation(0);
    } else {
        text += static_cast<char>(0xF0 | code_point >> 18);
        continuation(12), continuation(6), continuation(0);
    }
}

// Text of at most about `most` bytes; shorter if the input ends.
inline std::string edge_text(FuzzInput& input, size_t most) {
    std::string text;
    std::string_view fragment = "a";
    while (!input.at_end() && text.size() < most) {
        const uint8_t choice = input.byte();
        if (choice < 224) {
            text += fragment = kFragments[choice % kFragments.size()];
        } else if (choice < 232) {  // runs move the following text to the end of a window of 64 bytes
            text.append(input.below(72), "a \n0/A'!"[choice - 224]);
        } else if (choice < 236) {
            for (size_t left = input.below(24); left > 0; --left) text += fragment;
        } else if (choice < 244) {
            append_utf8(text, static_cast<uint32_t>(input.below(choice < 240 ? 0x3100 : 0x10000)));
        } else if (choice < 246) {
            append_utf8(text, 0x10000 + static_cast<uint32_t>(input.below(16) << 16 | input.below(0x10000)));
        } else if (choice < 248) {
            text += static_cast<char>(input.byte());
        } else {
            text += "aeiost r"[choice - 248];
        }
    }
    return text;
}

// Bytes in an allocation of exactly their size, so that a sanitizer detects reads beyond them.
class ExactBytes {
   public:
    explicit ExactBytes(std::string_view bytes) : size_(bytes.size()), bytes_(new uint8_t[bytes.size()]) {
        std::copy(bytes.begin(), bytes.end(), bytes_.get());
    }
    const uint8_t* data() const { return bytes_.get(); }
    size_t size() const { return size_; }
    std::span<const uint8_t> span() const { return {bytes_.get(), size_}; }

   private:
    size_t size_;
    std::unique_ptr<uint8_t[]> bytes_;
};

// Ascending positions in [0, size], at most four.
inline std::vector<size_t> cuts(FuzzInput& input, size_t size) {
    std::vector<size_t> positions(input.below(5));
    for (size_t& position : positions) position = input.below(std::min<size_t>(size, 65535) + 1);
    std::sort(positions.begin(), positions.end());
    return positions;
}

// Reports a failed case with its text, and aborts the process so that the fuzzer keeps the input.
[[noreturn]] inline void fail(std::string_view what, std::string_view text) {
    std::fprintf(stderr, "FAILED: %s\ntext (%zu bytes): b\"", std::string(what).c_str(), text.size());
    for (const char character : text) std::fprintf(stderr, "\\x%02x", static_cast<uint8_t>(character));
    std::fprintf(stderr, "\"\n");
    std::abort();
}

inline void check(bool holds, std::string_view what, std::string_view text) {
    if (!holds) fail(what, text);
}

}  // namespace groundup::fuzz
