// Hash functions of bytes and 64-bit keys for the open-addressing tables.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

namespace groundup {

// The finalizer of SplitMix64 (Steele, Lea and Flood 2014): every input bit reaches every output bit.
inline uint64_t mix(uint64_t key) {
    key = (key ^ (key >> 30)) * 0xBF58476D1CE4E5B9u;
    key = (key ^ (key >> 27)) * 0x94D049BB133111EBu;
    return key ^ (key >> 31);
}

inline uint64_t hash_bytes(const uint8_t* bytes, size_t size) {
    uint64_t hash = size * 0x9E3779B97F4A7C15u;
    uint64_t word = 0;
    for (; size >= 8; bytes += 8, size -= 8) {
        std::memcpy(&word, bytes, 8);
        hash = mix(hash ^ word);
    }
    word = 0;
    std::memcpy(&word, bytes, size);
    return mix(hash ^ word);
}

}  // namespace groundup
