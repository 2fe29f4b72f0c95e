// Search for special tokens in text: the leftmost, and of several at one position the longest.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace groundup {

struct SpecialMatch {
    enum class Kind : uint8_t {
        None,       // no special token begins in the searched range
        Found,      // `length` bytes at `begin` are the special token `id`
        Undecided,  // whether a special token begins at `begin` depends on later text
    };
    Kind kind;
    size_t begin;
    size_t length;
    uint32_t id;
};

// A trie over the bytes of the special tokens. One walk from a position finds the longest token.
class SpecialTokens {
   public:
    explicit SpecialTokens(const std::vector<std::pair<std::string, uint32_t>>& tokens) : tokens_(tokens) {
        for (const auto& [bytes, id] : tokens) add(bytes, id);
    }

    std::vector<uint32_t> ids() const {
        std::vector<uint32_t> all;
        for (const auto& [bytes, id] : tokens_) all.push_back(id);
        return all;
    }

    // Finds a special token that begins in text[from, to). The text ends at `size` (>= to). With `complete` no text
    // follows, and no result is undecided.
    SpecialMatch find(const uint8_t* text, size_t from, size_t to, size_t size, bool complete) const {
        for (size_t begin = candidate(text, from, to); begin < to; begin = candidate(text, begin + 1, to)) {
            const SpecialMatch match = match_at(text, begin, size, complete);
            if (match.kind != SpecialMatch::Kind::None) return match;
        }
        return {SpecialMatch::Kind::None, to, 0, 0};
    }

    // Whether some special token, matched by find() or not, begins before `position` and ends after it.
    bool lies_across(const uint8_t* text, size_t size, size_t position) const {
        for (const auto& [bytes, id] : tokens_) {
            for (size_t before = 1; before < bytes.size() && before <= position; ++before) {
                if (position - before + bytes.size() > size) continue;
                if (std::memcmp(text + position - before, bytes.data(), bytes.size()) == 0) return true;
            }
        }
        return false;
    }

    // Whether some special token, matched by find() or not, ends at `position`.
    bool end_at(const uint8_t* text, size_t position) const {
        for (const auto& [bytes, id] : tokens_) {
            if (bytes.size() > position) continue;
            if (std::memcmp(text + position - bytes.size(), bytes.data(), bytes.size()) == 0) return true;
        }
        return false;
    }

   private:
    static constexpr uint32_t kNoToken = UINT32_MAX;

    struct Node {
        uint32_t id = kNoToken;
        std::vector<std::pair<uint8_t, uint32_t>> children;  // byte and node; nearly always one
    };

    uint32_t child_of(uint32_t node, uint8_t byte) const {
        for (const auto& [child_byte, child] : nodes_[node].children) {
            if (child_byte == byte) return child;
        }
        return 0;  // the root, which is not a child
    }

    void add(std::string_view bytes, uint32_t id) {
        if (bytes.empty()) throw std::invalid_argument("a special token is empty");
        uint32_t node = 0;
        for (const char character : bytes) {
            const auto byte = static_cast<uint8_t>(character);
            uint32_t child = child_of(node, byte);
            if (child == 0) {
                child = static_cast<uint32_t>(nodes_.size());
                nodes_[node].children.emplace_back(byte, child);
                nodes_.emplace_back();
            }
            node = child;
        }
        nodes_[node].id = id;
        const auto first = static_cast<uint8_t>(bytes.front());
        if (!begins_token_[first]) {
            begins_token_[first] = true;
            ++first_byte_count_;
            only_first_byte_ = first;
        }
    }

    // The next position at which a special token may begin; `size` without one.
    size_t candidate(const uint8_t* text, size_t from, size_t size) const {
        if (first_byte_count_ == 0 || from >= size) return size;
        if (first_byte_count_ == 1) {
            const void* found = std::memchr(text + from, only_first_byte_, size - from);
            return found ? static_cast<size_t>(static_cast<const uint8_t*>(found) - text) : size;
        }
        while (from < size && !begins_token_[text[from]]) ++from;
        return from;
    }

    SpecialMatch match_at(const uint8_t* text, size_t begin, size_t size, bool complete) const {
        SpecialMatch longest{SpecialMatch::Kind::None, begin, 0, 0};
        uint32_t node = 0;
        for (size_t position = begin; position < size; ++position) {
            node = child_of(node, text[position]);
            if (node == 0) return longest;
            if (nodes_[node].id != kNoToken) {
                longest = {SpecialMatch::Kind::Found, begin, position + 1 - begin, nodes_[node].id};
            }
        }
        if (!complete && !nodes_[node].children.empty()) return {SpecialMatch::Kind::Undecided, begin, 0, 0};
        return longest;
    }

    std::vector<std::pair<std::string, uint32_t>> tokens_;
    std::vector<Node> nodes_{1};
    std::array<bool, 256> begins_token_{};
    size_t first_byte_count_ = 0;
    uint8_t only_first_byte_ = 0;
};

}  // namespace groundup
