// Test of counting and training against recounting every pair of every word after every merge.
#include <algorithm>
#include <map>
#include <numeric>
#include <string>
#include <string_view>
#include <vector>

#include "../bpe_trainer.hpp"
#include "../pretoken_counter.hpp"
#include "fuzz_input.hpp"
#include "naive.hpp"

namespace groundup::fuzz {

namespace {

using Counts = std::map<std::string, uint64_t>;
using Pair = std::pair<uint32_t, uint32_t>;

Counts counts_of(const PretokenCounts& counts) {
    Counts by_bytes;
    counts.for_each([&](std::span<const uint8_t> bytes, uint64_t count) {
        by_bytes[std::string(bytes.begin(), bytes.end())] += count;
    });
    return by_bytes;
}

// Index of a byte in Hugging Face's alphabet: printable Latin-1 first, then all others.
uint32_t alphabet_rank(uint32_t token) {
    static const std::vector<uint32_t> ranks = [] {
        std::vector<uint32_t> order;
        const auto add = [&](uint32_t first, uint32_t last) {
            for (uint32_t byte = first; byte <= last; ++byte) order.push_back(byte);
        };
        add('!', '~'), add(0xA1, 0xAC), add(0xAE, 0xFF);
        add(0, ' '), add(0x7F, 0xA0), add(0xAD, 0xAD);
        std::vector<uint32_t> rank_of(256);
        for (uint32_t rank = 0; rank < 256; ++rank) rank_of[order[rank]] = rank;
        return rank_of;
    }();
    return token < 256 ? ranks[token] : token;
}

Merges naive_learn(const Counts& counts, const TrainerOptions& options) {
    struct Word {
        std::vector<uint32_t> tokens;
        uint64_t count;
    };
    std::vector<Word> words;
    for (const auto& [bytes, count] : counts) {
        Word word{{}, count};
        for (const char byte : bytes) word.tokens.push_back(static_cast<uint8_t>(byte));
        words.push_back(std::move(word));
    }
    std::vector<std::string> bytes_of;
    for (int byte = 0; byte < 256; ++byte) bytes_of.emplace_back(1, static_cast<char>(byte));
    const auto merges_before = [&](const Pair& a, const Pair& b) {
        if (options.tie_rule == TieRule::HuggingFace) {
            return std::pair(alphabet_rank(a.first), alphabet_rank(a.second)) <
                   std::pair(alphabet_rank(b.first), alphabet_rank(b.second));
        }
        return std::pair(bytes_of[a.first], bytes_of[a.second]) > std::pair(bytes_of[b.first], bytes_of[b.second]);
    };
    Merges merges;
    while (merges.size() < options.merge_limit) {
        std::map<Pair, uint64_t> pairs;
        for (const Word& word : words) {
            for (size_t i = 0; i + 1 < word.tokens.size(); ++i) {
                pairs[{word.tokens[i], word.tokens[i + 1]}] += word.count;
            }
        }
        Pair best;
        uint64_t most = 0;
        for (const auto& [pair, count] : pairs) {
            if (count < options.min_frequency) continue;
            if (bytes_of[pair.first].size() + bytes_of[pair.second].size() > options.max_token_length) continue;
            if (count < most || (count == most && !merges_before(pair, best))) continue;
            best = pair;
            most = count;
        }
        if (most == 0) break;
        merges.push_back(best);
        const auto product = static_cast<uint32_t>(bytes_of.size());
        bytes_of.push_back(bytes_of[best.first] + bytes_of[best.second]);
        for (Word& word : words) {
            std::vector<uint32_t> merged;
            for (size_t i = 0; i < word.tokens.size(); ++i) {
                const bool here = i + 1 < word.tokens.size() && Pair(word.tokens[i], word.tokens[i + 1]) == best;
                merged.push_back(here ? product : word.tokens[i]);
                i += here;
            }
            word.tokens = std::move(merged);
        }
    }
    return merges;
}

// Text of two letters, so that pairs overlap and tie.
std::string repetitive_text(FuzzInput& input, size_t size) {
    std::string text;
    while (text.size() < size && !input.at_end()) {
        const uint8_t choice = input.byte();
        text.append(1 + choice / 16 % 12, "aabb ac "[choice % 8]);
    }
    return text;
}

void run(FuzzInput input) {
    const auto pattern = static_cast<Pattern>(input.below(kPatternNames.size()));
    const size_t threads = input.below(16) == 15 ? 3 : 1;
    const size_t chunk_bytes = 1 + input.below(60);
    const uint64_t weight = input.below(8) == 7 ? uint64_t{1} << 33 : 1 + input.below(3);
    TrainerOptions options{input.below(25)};
    if (input.below(2) == 1) options.tie_rule = TieRule::HuggingFace;
    if (input.below(4) == 3) options.min_frequency = 1 + input.below(5);
    if (input.below(4) == 3) options.max_token_length = 1 + input.below(6);
    const NumberedTokens specials = {{"<|a|>", 0}, {" x ", 1}};
    std::vector<std::string> special_bytes;
    for (const auto& [bytes, id] : specials) special_bytes.push_back(bytes);

    std::vector<std::string> texts(1 + input.below(3));
    for (std::string& text : texts) text = input.below(2) ? edge_text(input, 120) : repetitive_text(input, 150);
    const std::string all = std::accumulate(texts.begin(), texts.end(), std::string());
    std::vector<ExactBytes> exact;
    std::vector<std::span<const uint8_t>> spans;
    for (const std::string& text : texts) spans.push_back(exact.emplace_back(text).span());

    Counts expected;
    for (const std::string& text : texts) {
        naive_split(
            specials, text,
            [&](std::string_view plain) {
                for (const std::string& pretoken : naive_pretokens(pattern, plain)) expected[pretoken] += weight;
            },
            [](uint32_t) {});
    }
    const Heartbeat no_heartbeat = [](uint64_t) {};
    PretokenCounter counter(pattern, special_bytes, threads, chunk_bytes);
    counter.count(spans, weight, false, no_heartbeat);
    check(counter.bytes_counted() == all.size(), "bytes counted", all);
    check(counts_of(counter.counts()) == expected, "counts of pretokens", all);

    BpeTrainer trainer(counter.take(), options, no_heartbeat);
    check(trainer.learn(no_heartbeat) == naive_learn(expected, options), "merges", all);
}

}  // namespace

}  // namespace groundup::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    groundup::fuzz::run({data, size});
    return 0;
}
