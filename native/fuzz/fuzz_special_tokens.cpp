// Test of the search for special tokens, and of cuts that change no pretoken and no special token, against trying every
// position.
#include <string>
#include <string_view>
#include <vector>

#include "../special_tokens.hpp"
#include "../splitter.hpp"
#include "../text_chunks.hpp"
#include "fuzz_input.hpp"
#include "naive.hpp"

namespace groundup::fuzz {

namespace {

// Text of few letters, so that tokens overlap, contain and begin one another. Special tokens are UTF-8; text need not
// be.
std::string overlapping_text(FuzzInput& input, size_t size, bool is_utf8) {
    constexpr auto kLetters = std::to_array<std::string_view>({"<", "<", "|", "a", ">", " ", "\n", "é", "s", "'"});
    std::string text;
    while (text.size() < size) {
        const size_t choice = input.below(kLetters.size() + (is_utf8 ? 0 : 2));
        text += choice < kLetters.size() ? kLetters[choice] : kFragments[kFragments.size() - 1 - input.below(24)];
    }
    return text;
}

NumberedTokens special_tokens(FuzzInput& input) {
    NumberedTokens tokens;
    for (size_t left = input.below(6); left > 0; --left) {
        std::string token = overlapping_text(input, 1 + input.below(5), true);
        const auto is_same = [&](const auto& other) { return other.first == token; };
        if (std::any_of(tokens.begin(), tokens.end(), is_same)) continue;
        tokens.emplace_back(token, static_cast<uint32_t>(1000 + tokens.size()));
    }
    return tokens;
}

SpecialMatch naive_find(const NumberedTokens& tokens, std::string_view text, size_t from, size_t to, bool complete) {
    for (size_t begin = from; begin < to; ++begin) {
        const std::string_view rest = text.substr(begin);
        for (const auto& [bytes, id] : tokens) {
            if (!complete && bytes.size() > rest.size() && bytes.starts_with(rest)) {
                return {SpecialMatch::Kind::Undecided, begin, 0, 0};
            }
        }
        if (const auto* const special = naive_special_at(tokens, text, begin)) {
            return {SpecialMatch::Kind::Found, begin, special->first.size(), special->second};
        }
    }
    return {SpecialMatch::Kind::None, to, 0, 0};
}

bool naive_lies_across(const NumberedTokens& tokens, std::string_view text, size_t position) {
    for (size_t begin = 0; begin < position; ++begin) {
        for (const auto& [bytes, id] : tokens) {
            if (begin + bytes.size() > position && text.substr(begin).starts_with(bytes)) return true;
        }
    }
    return false;
}

// Pretokens as text, special tokens as their ids.
using Pieces = std::vector<std::string>;

void split_into(Pieces& pieces, Pattern pattern, const SpecialTokens& specials, std::span<const uint8_t> text) {
    Splitter(pattern).advance(
        specials, text.data(), text.size(), true,
        [&](size_t begin, std::span<const uint64_t> ends) {
            for (const uint64_t end : ends) {
                pieces.emplace_back(reinterpret_cast<const char*>(text.data()) + begin, end - begin);
                begin = end;
            }
        },
        [&](uint32_t id) { pieces.push_back(std::to_string(id)); });
}

void run(FuzzInput input) {
    const NumberedTokens tokens = special_tokens(input);
    const SpecialTokens specials(tokens);
    const auto pattern = static_cast<Pattern>(input.below(kPatternNames.size()));
    const bool complete = input.below(2) == 0;
    const size_t chunk_bytes = 1 + input.below(40);
    const size_t first = input.below(120), second = input.below(120);
    const bool of_edges = input.below(2) == 0;
    const std::string text = of_edges ? edge_text(input, 120) : overlapping_text(input, input.below(120), false);
    const ExactBytes bytes(text);

    const size_t to = std::min(std::max(first, second), text.size()), from = std::min({first, second, to});
    const SpecialMatch found = specials.find(bytes.data(), from, to, bytes.size(), complete);
    const SpecialMatch expected = naive_find(tokens, text, from, to, complete);
    check(found.kind == expected.kind && found.begin == expected.begin && found.length == expected.length &&
              found.id == expected.id, "special token found", text);
    check(specials.lies_across(bytes.data(), bytes.size(), to) == naive_lies_across(tokens, text, to),
          "special token across a position", text);

    Pieces pieces, naive_pieces, chunked_pieces;
    split_into(pieces, pattern, specials, bytes.span());
    naive_split(
        tokens, text,
        [&](std::string_view plain) {
            for (const std::string& pretoken : naive_pretokens(pattern, plain)) naive_pieces.push_back(pretoken);
        },
        [&](uint32_t id) { naive_pieces.push_back(std::to_string(id)); });
    check(pieces == naive_pieces, "split", text);

    size_t total = 0;
    const auto is_safe = [&](size_t position) { return is_safe_cut(bytes.span(), position, specials, {}); };
    for (const std::span<const uint8_t> chunk : chunks_of(bytes.span(), chunk_bytes, is_safe)) {
        check(chunk.data() == bytes.data() + total && !chunk.empty(), "chunks follow one another", text);
        total += chunk.size();
        split_into(chunked_pieces, pattern, specials, chunk);
    }
    check(total == text.size() && chunked_pieces == naive_pieces, "split in chunks", text);
}

}  // namespace

}  // namespace groundup::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    groundup::fuzz::run({data, size});
    return 0;
}
