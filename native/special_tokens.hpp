// Finding special tokens in text: the leftmost, and of those that begin there the longest.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <stdexcept>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

namespace groundup {

struct SpecialMatch {
    enum class Kind : uint8_t {
        None,       // no special token begins where it was looked for
        Found,      // `length` bytes at `begin` are the special token `id`
        Undecided,  // what begins at `begin` depends on text to come
    };
    Kind kind;
    size_t begin;
    size_t length;
    uint32_t id;
};

// A trie over the bytes of the special tokens. One walk from a position finds the longest, however many there are.
class SpecialTokens {
   public:
    explicit SpecialTokens(const std::vector<std::pair<std::string, uint32_t>>& tokens) : tokens_(tokens) {
        for (const auto& [bytes, id] : tokens) add(bytes, id);
    }

    // Looks for special tokens that begin in text[from, to). The text ends at `size` (>= to); `complete` says that
    // nothing follows, so that nothing is left undecided.
    SpecialMatch find(const uint8_t* text, size_t from, size_t to, size_t size, bool complete) const {
        for (size_t begin = candidate(text, from, to); begin < to; begin = candidate(text, begin + 1, to)) {
            const SpecialMatch match = match_at(text, begin, size, complete);
            if (match.kind != SpecialMatch::Kind::None) return match;
        }
        return {SpecialMatch::Kind::None, to, 0, 0};
    }

    // Whether some special token, taken or not, lies across `position`: begins before it and ends after it.
    bool lies_across(const uint8_t* text, size_t size, size_t position) const {
        for (const auto& [bytes, id] : tokens_) {
            for (size_t before = 1; before < bytes.size() && before <= position; ++before) {
                if (position - before + bytes.size() > size) continue;
                if (std::memcmp(text + position - before, bytes.data(), bytes.size()) == 0) return true;
            }
        }
        return false;
    }

   private:
    static constexpr uint32_t kNoToken = UINT32_MAX;

    struct Node {
        uint32_t id = kNoToken;
        bool has_children = false;
    };

    static uint64_t edge(uint32_t node, uint8_t byte) { return uint64_t{node} << 8 | byte; }

    void add(std::string_view bytes, uint32_t id) {
        if (bytes.empty()) throw std::invalid_argument("a special token is empty");
        uint32_t node = 0;
        for (const char character : bytes) {
            const auto byte = static_cast<uint8_t>(character);
            nodes_[node].has_children = true;
            const auto [child, is_new] = edges_.try_emplace(edge(node, byte), static_cast<uint32_t>(nodes_.size()));
            if (is_new) nodes_.emplace_back();
            node = child->second;
        }
        nodes_[node].id = id;
        const auto first = static_cast<uint8_t>(bytes.front());
        if (!begins_token_[first]) {
            begins_token_[first] = true;
            ++first_byte_count_;
            only_first_byte_ = first;
        }
    }

    // The next position at which a special token may begin; `size` if there is none.
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
            const auto child = edges_.find(edge(node, text[position]));
            if (child == edges_.end()) return longest;
            node = child->second;
            if (nodes_[node].id != kNoToken) {
                longest = {SpecialMatch::Kind::Found, begin, position + 1 - begin, nodes_[node].id};
            }
        }
        if (!complete && nodes_[node].has_children) return {SpecialMatch::Kind::Undecided, begin, 0, 0};
        return longest;
    }

    std::vector<std::pair<std::string, uint32_t>> tokens_;
    std::vector<Node> nodes_{1};
    std::unordered_map<uint64_t, uint32_t> edges_;
    std::array<bool, 256> begins_token_{};
    size_t first_byte_count_ = 0;
    uint8_t only_first_byte_ = 0;
};

}  // namespace groundup
