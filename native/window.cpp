#include "window.hpp"

#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <string>

namespace groundup {

void classify_window_scalar(const uint8_t* bytes, Window& window) {
    window.letter = window.upper = window.number = window.space = 0;
    window.newline = window.blank = window.apostrophe = window.not_ascii = 0;
    for (size_t i = 0; i < kWindowBytes; ++i) {
        const uint64_t bit = uint64_t{1} << i;
        const CharacterSet character_class = kAsciiClass[bytes[i]];
        if (character_class & kLetter) window.letter |= bit;
        if (character_class & kUpper) window.upper |= bit;
        if (character_class & kNumber) window.number |= bit;
        if (character_class & kSpace) window.space |= bit;
        if (character_class & kNewline) window.newline |= bit;
        if (bytes[i] == ' ') window.blank |= bit;
        if (bytes[i] == '\'') window.apostrophe |= bit;
        if (bytes[i] >= 0x80) window.not_ascii |= bit;
    }
}

namespace {

struct Choice {
    std::string_view name;
    ClassifyWindow classify;
};

// The first available implementation, fastest first.
Choice choose() {
    const char* const wanted = std::getenv("GROUNDUP_SIMD");
    const auto is_wanted = [wanted](const char* name) { return wanted == nullptr || std::strcmp(wanted, name) == 0; };
#if defined(__x86_64__) && !defined(_MSC_VER)
    if (is_wanted("avx512") && __builtin_cpu_supports("avx512bw")) return {"avx512", classify_window_avx512};
    if (is_wanted("avx2") && __builtin_cpu_supports("avx2")) return {"avx2", classify_window_avx2};
#elif defined(__aarch64__)
    if (is_wanted("neon")) return {"neon", classify_window_neon};
#endif
    if (wanted != nullptr && std::strcmp(wanted, "masks") == 0) return {"masks", classify_window_scalar};
    if (is_wanted("scalar")) return {"scalar", nullptr};
    throw std::runtime_error("GROUNDUP_SIMD=" + std::string(wanted) +
                             " is not known or not what this processor can run; give scalar, or leave it unset");
}

const Choice& choice() {
    static const Choice chosen = choose();
    return chosen;
}

}  // namespace

ClassifyWindow classify_window() { return choice().classify; }
std::string_view simd_name() { return choice().name; }

}  // namespace groundup
