// Tie rules: which of two equally frequent pairs merges first.
#pragma once

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

namespace groundup {

enum class TieRule : uint8_t {
    Bytes,        // the greatest pair of byte strings (CS336; GPT-2's reference)
    HuggingFace,  // the least pair of ids, bytes numbered in the order of their GPT-2 characters (tokenizers)
};

// Order of the tokens of a training, for ties.
class TokenOrder {
   public:
    explicit TokenOrder(TieRule rule) : rule_(rule) {
        for (int byte = 0; byte < 256; ++byte) add(std::string(1, static_cast<char>(byte)));
    }

    uint32_t size() const { return static_cast<uint32_t>(bytes_.size()); }
    size_t length(uint32_t token) const { return bytes_[token].size(); }

    void add_product(uint32_t left, uint32_t right) { add(bytes_[left] + bytes_[right]); }

    // Whether the pair (left_a, right_a) merges before the equally frequent pair (left_b, right_b).
    bool before(uint32_t left_a, uint32_t right_a, uint32_t left_b, uint32_t right_b) const {
        return left_a != left_b ? before(left_a, left_b) : right_a != right_b && before(right_a, right_b);
    }

   private:
    void add(std::string bytes) {
        const auto token = static_cast<uint32_t>(bytes_.size());
        if (rule_ == TieRule::Bytes) {
            uint64_t prefix = 0;
            for (size_t i = 0; i < 8; ++i) prefix = prefix << 8 | (i < bytes.size() ? static_cast<uint8_t>(bytes[i]) : 0);
            key_.push_back(prefix);
        } else {
            key_.push_back(token < 256 ? kCharacterRank[token] : token);
        }
        bytes_.push_back(std::move(bytes));
    }

    bool before(uint32_t a, uint32_t b) const {
        if (rule_ == TieRule::HuggingFace) return key_[a] < key_[b];
        return key_[a] != key_[b] ? key_[a] > key_[b] : bytes_[a] > bytes_[b];
    }

    // GPT-2 represents printable Latin-1 bytes by themselves, and the others, in order, by the characters from U+0100
    // on.
    static constexpr std::array<uint8_t, 256> kCharacterRank = [] {
        const auto printable = [](int byte) {
            return (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
        };
        std::array<uint8_t, 256> ranks{};
        uint8_t rank = 0;
        for (const bool wanted : {true, false}) {
            for (int byte = 0; byte < 256; ++byte) {
                if (printable(byte) == wanted) ranks[static_cast<size_t>(byte)] = rank++;
            }
        }
        return ranks;
    }();

    TieRule rule_;
    std::vector<std::string> bytes_;
    std::vector<uint64_t> key_;  // decides most comparisons: the first eight bytes, or the whole sort key
};

}  // namespace groundup
