// Test of the encoder on characters (cuts, caches, heap, prefixes, streams, chunks) against merges over a whole stretch
// of text.
#include <array>
#include <map>
#include <memory>
#include <random>
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

const NumberedTokens kSpecials = {{"<|a|>", 9001}, {"<|a|>b", 9002}, {" x ", 9004}, {"é", 9005}, {"\n\n", 9006}};
const std::string kMark = "\xE2\x96\x81";  // U+2581

struct Vocabulary {
    SpacePrefix prefix;
    bool every_space;
    std::map<std::string, uint32_t> id_of;  // by character; a space is the mark
    std::array<uint32_t, 256> byte_ids;
    NaiveMerges merges;
    std::shared_ptr<const BpeEncoder> encoder;
};

// The characters of a text, with marks for spaces; invalid UTF-8 byte by byte.
std::vector<std::string> characters_of(std::string_view text) {
    std::vector<std::string> characters;
    for (size_t i = 0; i < text.size();) {
        const auto* const bytes = reinterpret_cast<const uint8_t*>(text.data()) + i;
        const Utf8Character found = decode_utf8(bytes, text.size() - i);
        characters.emplace_back(text[i] == ' ' ? kMark : std::string(text.substr(i, found.length)));
        i += found.length;
    }
    return characters;
}

Ids symbols_of(const Vocabulary& vocabulary, std::string_view text) {
    Ids symbols;
    for (const std::string& character : characters_of(text)) {
        const auto found = vocabulary.id_of.find(character);
        if (found != vocabulary.id_of.end()) {
            symbols.push_back(found->second);
        } else {
            for (const char byte : character) symbols.push_back(vocabulary.byte_ids[static_cast<uint8_t>(byte)]);
        }
    }
    return symbols;
}

// Vocabulary of merges of neighbours in random text, also over spaces, in the order of discovery or shuffled.
Vocabulary make_vocabulary(uint32_t seed) {
    std::mt19937 random(seed);
    const auto below = [&](size_t count) { return random() % count; };
    Vocabulary vocabulary{static_cast<SpacePrefix>(seed % 4), seed / 4 % 3 == 0, {}, {}, {}, nullptr};
    uint32_t next_id = 0;
    for (uint32_t& id : vocabulary.byte_ids) id = next_id++;
    std::map<uint32_t, std::string> text_of;
    std::vector<std::pair<uint32_t, uint32_t>> codes;
    for (const std::string_view fragment : kFragments) {
        for (const std::string& character : characters_of(fragment)) {
            const auto* const bytes = reinterpret_cast<const uint8_t*>(character.data());
            const Utf8Character found = decode_utf8(bytes, character.size());
            if (found.status != Utf8Status::Valid || below(8) == 0) continue;
            if (!vocabulary.id_of.try_emplace(character, next_id).second) continue;
            text_of[next_id] = character;
            codes.emplace_back(found.code_point, next_id++);
        }
    }
    std::map<std::string, uint32_t> id_of_text = vocabulary.id_of;
    std::vector<std::pair<uint32_t, uint32_t>> found;
    const size_t wanted = below(300);
    for (size_t trial = 0; trial < 4 * wanted && found.size() < wanted; ++trial) {
        std::string text;
        if (below(4) == 0) text.assign(2 + below(40), "a= z"[below(4)]);
        for (size_t left = 1 + below(3); left > 0; --left) text += kFragments[below(kFragments.size())];
        Ids symbols = symbols_of(vocabulary, text);
        naive_merge(vocabulary.merges, symbols);
        if (symbols.size() < 2) continue;
        const size_t place = below(symbols.size() - 1);
        const std::pair pair(symbols[place], symbols[place + 1]);
        if (pair.first < 256 || pair.second < 256) continue;
        const auto [entry, is_new] = id_of_text.try_emplace(text_of[pair.first] + text_of[pair.second], next_id);
        if (is_new) text_of[next_id++] = entry->first;
        vocabulary.merges[pair] = {static_cast<uint32_t>(found.size()), entry->second};
        found.push_back(pair);
    }
    if (seed % 3 == 0) {  // an order that no training gives: merges before the tokens that they need
        std::shuffle(found.begin(), found.end(), random);
        for (uint32_t rank = 0; rank < found.size(); ++rank) vocabulary.merges[found[rank]].first = rank;
    }
    std::vector<MergeRule> rules;
    for (const auto& pair : found) rules.push_back({pair.first, pair.second, vocabulary.merges[pair].second});
    vocabulary.encoder = std::make_shared<BpeEncoder>(
        CharacterMerges(codes, vocabulary.byte_ids, rules, vocabulary.prefix, vocabulary.every_space));
    return vocabulary;
}

// Vocabularies are reused across cases, so most pieces are found in caches that other texts have filled.
const Vocabulary& kept_vocabulary(size_t seed) {
    static std::map<size_t, Vocabulary> kept;
    if (!kept.contains(seed)) kept.emplace(seed, make_vocabulary(static_cast<uint32_t>(seed)));
    return kept.at(seed);
}

Ids naive_ids(const Vocabulary& vocabulary, const NumberedTokens& specials, std::string_view text) {
    Ids ids;
    naive_split(
        specials, text,
        [&](std::string_view plain) {
            const bool is_there = plain.starts_with(' ') || plain.starts_with(kMark);
            const bool begins_text = plain.data() == text.data();
            const bool takes = vocabulary.prefix == SpacePrefix::Always ||
                               (vocabulary.prefix == SpacePrefix::UnlessThere && !is_there) ||
                               (vocabulary.prefix == SpacePrefix::FirstUnlessThere && !is_there && begins_text);
            const std::string whole = (takes ? " " : "") + std::string(plain);
            std::vector<std::string> words(1);
            for (const std::string& character : characters_of(whole)) {
                if (vocabulary.every_space && character == kMark && !words.back().empty()) words.emplace_back();
                words.back() += character;
            }
            for (const std::string& word : words) {
                Ids symbols = symbols_of(vocabulary, word);
                naive_merge(vocabulary.merges, symbols);
                ids.insert(ids.end(), symbols.begin(), symbols.end());
            }
        },
        [&](uint32_t id) { ids.push_back(id); });
    return ids;
}

void append(Ids& ids, std::span<const uint32_t> more) { ids.insert(ids.end(), more.begin(), more.end()); }

void run(FuzzInput input) {
    const size_t seed = input.below(120);
    const NumberedTokens tokens(kSpecials.begin(), kSpecials.begin() + static_cast<ptrdiff_t>(input.below(6)));
    const Vocabulary& vocabulary = kept_vocabulary(seed);
    const BpeEncoder& encoder = *vocabulary.encoder;
    const auto specials = std::make_shared<const SpecialTokens>(tokens);
    const size_t chunk_bytes = 1 + input.below(40);
    const size_t most = input.below(16) == 15 ? 600 : 130;
    std::vector<size_t> ends = cuts(input, most);
    const std::string text = edge_text(input, most);
    const ExactBytes bytes(text);
    const Ids expected = naive_ids(vocabulary, tokens, text);
    const std::string name =
        "vocabulary " + std::to_string(seed) + ", " + std::to_string(tokens.size()) + " special tokens, ";

    const Heartbeat no_heartbeat = [](uint64_t) {};
    const std::array<std::span<const uint8_t>, 1> one = {bytes.span()};
    Ids whole;
    append(whole, encode_texts(encoder, *specials, one, std::nullopt, 1, no_heartbeat).ids.ids());
    check(whole == expected, name + "whole", text);
    check(count_ids(encoder, *specials, bytes.span()) == expected.size(), name + "count", text);

    const auto is_safe = [&](size_t position) { return encoder.is_safe_cut(bytes.span(), position, *specials); };
    Ids chunked;
    bool begins_text = true;
    for (const auto chunk : chunks_of(bytes.span(), chunk_bytes, is_safe)) {
        const BpeEncoder::BorrowedWorkspace workspace(encoder);
        IdBuffer ids;
        Splitter splitter = encoder.splitter(begins_text);
        encoder.encode(splitter, *specials, chunk, true, *workspace, ids);
        append(chunked, ids.ids());
        begins_text = false;
    }
    check(chunked == expected, name + "in chunks", text);

    EncodeStream stream(vocabulary.encoder, specials);
    std::erase_if(ends, [&](size_t end) { return end > text.size(); });
    ends.push_back(text.size());
    for (int round = 0; round < 2; ++round) {
        Ids streamed;
        size_t begin = 0;
        for (const size_t end : ends) {
            const ExactBytes piece(std::string_view(text).substr(begin, end - begin));
            append(streamed, stream.feed(piece.span()).ids());
            begin = end;
        }
        append(streamed, stream.finish().ids());
        check(streamed == expected, name + "in pieces", text);
    }
}

}  // namespace

}  // namespace groundup::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    groundup::fuzz::run({data, size});
    return 0;
}
