// Test of the encoder with arbitrary merges (caches, heap, streams, chunks) against merging one pair after the other.
#include <array>
#include <map>
#include <memory>
#include <optional>
#include <random>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "../bpe_encoder.hpp"
#include "../encode_texts.hpp"
#include "../text_chunks.hpp"
#include "fuzz_input.hpp"
#include "naive.hpp"

namespace groundup::fuzz {

namespace {

using Ids = std::vector<uint32_t>;

const NumberedTokens kSpecials = {{"<|a|>", 9001}, {"<|a|>b", 9002}, {"<|a|><|a|>", 9003}, {" x ", 9004}, {"é", 9005},
                                  {"\n\n", 9006}};

struct Vocabulary {
    Pattern pattern;
    std::array<uint32_t, 256> byte_ids;  // kNoRank for a missing byte
    NaiveMerges merges;
    std::map<std::string, uint32_t> whole;  // pretokens with one id, regardless of the merges
    std::shared_ptr<const BpeEncoder> encoder;
};

// Vocabulary of merges of neighbours in random text, in the order of discovery or shuffled, with ids in any order.
// Pairs that make the same bytes have one product, as in every vocabulary.
Vocabulary make_vocabulary(uint32_t seed) {
    std::mt19937 random(seed);
    const auto below = [&](size_t count) { return random() % count; };
    std::vector<uint32_t> ids(9000);
    for (uint32_t id = 0; id < ids.size(); ++id) ids[id] = id;
    std::shuffle(ids.begin(), ids.end(), random);
    if (seed % 4 == 3) ids.back() = kLargestId;  // taken first

    Vocabulary vocabulary{static_cast<Pattern>(seed % kPatternNames.size()), {}, {}, {}, nullptr};
    std::map<std::string, uint32_t> id_of;
    std::map<uint32_t, std::string> bytes_of;
    const auto id_of_bytes = [&](const std::string& bytes) {
        const auto [entry, is_new] = id_of.try_emplace(bytes, ids.back());
        if (is_new) {
            bytes_of[ids.back()] = bytes;
            ids.pop_back();
        }
        return entry->second;
    };
    vocabulary.byte_ids.fill(kNoRank);
    const bool is_whole = seed % 8 != 5;
    for (int byte = 0; byte < 256; ++byte) {
        if (is_whole || (byte != 'z' && byte != 0xFF)) {
            vocabulary.byte_ids[static_cast<size_t>(byte)] = id_of_bytes(std::string(1, static_cast<char>(byte)));
        }
    }

    std::vector<std::pair<uint32_t, uint32_t>> found;
    const size_t wanted = below(300);
    for (size_t trial = 0; trial < 4 * wanted && found.size() < wanted; ++trial) {
        std::string text;
        if (below(4) == 0) {
            text.assign(2 + below(40), "a= z"[below(4)]);
        } else {
            for (size_t left = 1 + below(3); left > 0; --left) text += kFragments[below(kFragments.size())];
        }
        const std::vector<std::string> pretokens = naive_pretokens(vocabulary.pattern, text);
        const std::string& pretoken = pretokens[below(pretokens.size())];
        Ids symbols;
        for (const char byte : pretoken) symbols.push_back(vocabulary.byte_ids[static_cast<uint8_t>(byte)]);
        naive_merge(vocabulary.merges, symbols);
        if (symbols.size() < 2 || std::find(symbols.begin(), symbols.end(), kNoRank) != symbols.end()) continue;
        const size_t place = below(symbols.size() - 1);
        const std::pair pair(symbols[place], symbols[place + 1]);
        const uint32_t product = id_of_bytes(bytes_of[pair.first] + bytes_of[pair.second]);
        vocabulary.merges[pair] = {static_cast<uint32_t>(found.size()), product};
        found.push_back(pair);
    }
    if (seed % 3 == 0) {  // an order that no training gives: merges before the tokens that they need
        std::shuffle(found.begin(), found.end(), random);
        for (uint32_t rank = 0; rank < found.size(); ++rank) vocabulary.merges[found[rank]].first = rank;
    }
    std::vector<MergeRule> rules;
    for (const auto& pair : found) rules.push_back({pair.first, pair.second, vocabulary.merges[pair].second});
    if (seed % 6 == 4) {
        for (size_t left = below(20); left > 0; --left) {
            const std::string_view fragment = kFragments[below(kFragments.size())];
            for (const std::string& pretoken : naive_pretokens(vocabulary.pattern, fragment)) {
                vocabulary.whole.try_emplace(pretoken, static_cast<uint32_t>(9100 + vocabulary.whole.size()));
            }
        }
    }
    vocabulary.encoder = std::make_shared<BpeEncoder>(
        vocabulary.byte_ids, rules, NumberedTokens(vocabulary.whole.begin(), vocabulary.whole.end()),
        vocabulary.pattern);
    return vocabulary;
}

// Vocabularies are reused across cases, so most pretokens are found in caches that other texts have filled.
const Vocabulary& kept_vocabulary(size_t seed) {
    static std::map<size_t, Vocabulary> kept;
    if (!kept.contains(seed)) kept.emplace(seed, make_vocabulary(static_cast<uint32_t>(seed)));
    return kept.at(seed);
}

// The expected ids; nothing if the vocabulary lacks a byte of the text.
std::optional<Ids> naive_ids(const Vocabulary& vocabulary, const NumberedTokens& specials, std::string_view text) {
    Ids ids;
    bool lacks = false;
    naive_split(
        specials, text,
        [&](std::string_view plain) {
            for (const std::string& pretoken : naive_pretokens(vocabulary.pattern, plain)) {
                const auto whole = vocabulary.whole.find(pretoken);
                if (whole != vocabulary.whole.end()) {
                    ids.push_back(whole->second);
                    continue;
                }
                Ids symbols;
                for (const char byte : pretoken) symbols.push_back(vocabulary.byte_ids[static_cast<uint8_t>(byte)]);
                naive_merge(vocabulary.merges, symbols);
                for (const uint32_t symbol : symbols) lacks |= symbol == kNoRank;
                ids.insert(ids.end(), symbols.begin(), symbols.end());
            }
        },
        [&](uint32_t id) { ids.push_back(id); });
    return lacks ? std::nullopt : std::optional(ids);
}

// The result of a call; nothing if it throws MissingByteError.
template <typename Encode>
std::optional<Ids> ids_of(Encode&& encode) {
    try {
        return encode();
    } catch (const MissingByteError&) {
        return std::nullopt;
    }
}

Ids copied(std::span<const uint32_t> ids) { return {ids.begin(), ids.end()}; }

void append(Ids& ids, std::span<const uint32_t> more) { ids.insert(ids.end(), more.begin(), more.end()); }

void run(FuzzInput input) {
    const size_t seed = input.below(80);
    const bool afresh = input.below(64) == 63;
    const NumberedTokens tokens(kSpecials.begin(), kSpecials.begin() + static_cast<ptrdiff_t>(input.below(7)));
    std::optional<Vocabulary> fresh;
    if (afresh) fresh = make_vocabulary(static_cast<uint32_t>(seed));
    const Vocabulary& vocabulary = afresh ? *fresh : kept_vocabulary(seed);
    const BpeEncoder& encoder = *vocabulary.encoder;
    const auto specials = std::make_shared<const SpecialTokens>(tokens);
    const size_t chunk_bytes = 1 + input.below(40);
    const size_t most = input.below(16) == 15 ? 600 : 130;
    std::vector<size_t> ends = cuts(input, most);
    const std::string text = edge_text(input, most);
    const ExactBytes bytes(text);
    const std::optional<Ids> expected = naive_ids(vocabulary, tokens, text);
    const std::string name =
        "vocabulary " + std::to_string(seed) + ", " + std::to_string(tokens.size()) + " special tokens, ";

    const Heartbeat no_heartbeat = [](uint64_t) {};
    const auto whole = ids_of([&] {
        const std::array<std::span<const uint8_t>, 1> one = {bytes.span()};
        return copied(encode_texts(encoder, *specials, one, std::nullopt, 1, no_heartbeat).ids.ids());
    });
    check(whole == expected, name + "whole", text);

    constexpr uint32_t kLast = 12345;
    std::vector<uint64_t> text_ends;
    const auto batch = ids_of([&] {
        const std::array<std::span<const uint8_t>, 3> texts = {bytes.span(), {}, bytes.span()};
        EncodedTexts encoded = encode_texts(encoder, *specials, texts, kLast, 1, no_heartbeat);
        text_ends = encoded.ends;
        return copied(encoded.ids.ids());
    });
    check(batch.has_value() == expected.has_value(), name + "batch", text);
    if (expected) {
        Ids twice = *expected;
        const uint64_t size = twice.size();
        append(twice, std::array{kLast, kLast});
        append(twice, *expected);
        twice.push_back(kLast);
        check(batch == twice && text_ends == std::vector{size + 1, size + 2, 2 * size + 3}, name + "batch", text);
    }

    std::optional<uint64_t> count;
    ids_of([&] {
        count = count_ids(encoder, *specials, bytes.span());
        return Ids();
    });
    check(count.has_value() == expected.has_value() && (!count || *count == expected->size()), name + "count", text);

    const std::optional<Ids> chunked = ids_of([&] {
        Ids ids;
        const auto is_safe = [&](size_t position) { return is_safe_cut(bytes.span(), position, *specials, {}); };
        for (const auto chunk : chunks_of(bytes.span(), chunk_bytes, is_safe)) {
            const std::array<std::span<const uint8_t>, 1> one = {chunk};
            append(ids, encode_texts(encoder, *specials, one, std::nullopt, 1, no_heartbeat).ids.ids());
        }
        return ids;
    });
    check(chunked == expected, name + "in chunks", text);

    // Twice with the same stream: after finish() or an error it is ready for another text.
    EncodeStream stream(vocabulary.encoder, specials);
    std::erase_if(ends, [&](size_t end) { return end > text.size(); });
    ends.push_back(text.size());
    for (int round = 0; round < 2; ++round) {
        const std::optional<Ids> streamed = ids_of([&] {
            Ids ids;
            size_t begin = 0;
            for (const size_t end : ends) {
                const ExactBytes piece(std::string_view(text).substr(begin, end - begin));
                append(ids, stream.feed(piece.span()).ids());
                begin = end;
            }
            append(ids, stream.finish().ids());
            return ids;
        });
        check(streamed == expected, name + "in pieces", text);
    }
}

}  // namespace

}  // namespace groundup::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    groundup::fuzz::run({data, size});
    return 0;
}
