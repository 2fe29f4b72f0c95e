// Key of a short pretoken: its bytes, zero-padded, and their number in the last byte.
#pragma once

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>

#include "hash.hpp"

namespace groundup {

static_assert(std::endian::native == std::endian::little, "PretokenKey masks words as little-endian ones");

// Two keys are equal if and only if their pretokens are equal.
struct PretokenKey {
    static constexpr size_t kLongest = 15;

    uint64_t low = 0;
    uint64_t high = 0;

    PretokenKey() = default;

    // The key of `size` <= kLongest bytes, of which only these may be read.
    PretokenKey(const uint8_t* bytes, size_t size) {
        uint8_t packed[16] = {};
        std::memcpy(packed, bytes, size);
        *this = of_readable(packed, size);
    }

    // The same if 16 bytes may be read: two loads and two masks replace a copy of unpredictable length.
    static PretokenKey of_readable(const uint8_t* bytes, size_t size) {
        PretokenKey key;
        std::memcpy(&key.low, bytes, 8);
        std::memcpy(&key.high, bytes + 8, 8);
        key.low &= kMasks[size].low;
        key.high = (key.high & kMasks[size].high) | uint64_t{size} << 56;
        return key;
    }

    // No pretoken has this key.
    static PretokenKey none() {
        PretokenKey key;
        key.high = ~uint64_t{0};
        return key;
    }

    bool operator==(const PretokenKey& other) const {
        return ((low ^ other.low) | (high ^ other.high)) == 0;  // one branch instead of two
    }

    // Use the highest bits: they are mixed best.
    uint64_t hash() const { return (low + high * 0x9E3779B97F4A7C15u) * 0xD6E8FEB86659FD93u; }

    size_t size() const { return high >> 56 & 0x7F; }

    // A second key for the same pretoken; it differs in the highest bit.
    PretokenKey marked() const {
        PretokenKey key = *this;
        key.high |= uint64_t{1} << 63;
        return key;
    }

    // Whether the pretoken is the same, marked or not.
    bool same_pretoken(const PretokenKey& other) const {
        return ((low ^ other.low) | (high ^ other.high) << 1) == 0;
    }

    std::array<uint8_t, 16> bytes() const {
        std::array<uint8_t, 16> bytes{};
        std::memcpy(bytes.data(), &low, 8);
        std::memcpy(bytes.data() + 8, &high, 8);
        return bytes;
    }

    // The bytes of the pretoken inside this key; 16 bytes may be read.
    std::span<const uint8_t> view() const { return {reinterpret_cast<const uint8_t*>(this), size()}; }

   private:
    struct Mask {
        uint64_t low, high;
    };

    // For every size, the mask of the first `size` bytes.
    static constexpr std::array<Mask, kLongest + 1> kMasks = [] {
        std::array<Mask, kLongest + 1> masks{};
        for (size_t size = 0; size <= kLongest; ++size) {
            for (size_t byte = 0; byte < size; ++byte) {
                (byte < 8 ? masks[size].low : masks[size].high) |= uint64_t{0xFF} << (8 * (byte % 8));
            }
        }
        return masks;
    }();
};

// The key of a pretoken of any size; none() for long ones. `readable` >= size bytes may be read.
inline PretokenKey key_of(const uint8_t* bytes, size_t size, size_t readable) {
    if (size > PretokenKey::kLongest) return PretokenKey::none();
    return readable >= 16 ? PretokenKey::of_readable(bytes, size) : PretokenKey(bytes, size);
}

}  // namespace groundup
