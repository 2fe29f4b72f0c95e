// Test of the mask scanners, with every mask implementation that this processor supports, against the definition of the
// patterns.
#include <array>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "../pretoken_scanner.hpp"
#include "fuzz_input.hpp"
#include "naive.hpp"

namespace groundup::fuzz {

namespace {

struct MaskMaker {
    std::string_view name;
    ClassifyWindow classify;
};

const std::vector<MaskMaker>& mask_makers() {
    static const std::vector<MaskMaker> available = [] {
        std::vector<MaskMaker> makers = {{"definition", nullptr}, {"masks", classify_window_scalar}};
#if defined(__x86_64__)
        if (__builtin_cpu_supports("avx2")) makers.push_back({"avx2", classify_window_avx2});
        if (__builtin_cpu_supports("avx512bw")) makers.push_back({"avx512", classify_window_avx512});
#elif defined(__aarch64__)
        makers.push_back({"neon", classify_window_neon});
#endif
        std::fprintf(stderr, "compared with the definition:");
        for (const MaskMaker& maker : makers) std::fprintf(stderr, " %s", maker.name.data());
        std::fprintf(stderr, "\n");
        return makers;
    }();
    return available;
}

using Scan = size_t (*)(ClassifyWindow, TextView, size_t, size_t, Progress&, PretokenEnds&);
constexpr std::array<Scan, kPatternNames.size()> kScans = {&scan_pretokens<Pattern::Gpt2>, &scan_pretokens<Pattern::Cl100k>,
                                        &scan_pretokens<Pattern::Llama3>, &scan_pretokens<Pattern::Qwen2>,
                                        &scan_pretokens<Pattern::O200k>,  &scan_pretokens<Pattern::Tekken>};

// Scan of a growing text.
struct Scanner {
    Scan scan;
    ClassifyWindow classify;
    size_t begin = 0;
    Progress progress = {};
    std::vector<uint64_t> found = {};

    void advance(const uint8_t* bytes, size_t size, size_t readable, bool complete) {
        PretokenEnds ends;
        for (;;) {
            const size_t before = begin;
            begin = scan(classify, TextView(bytes, size, complete), readable, begin, progress, ends);
            found.insert(found.end(), ends.ends().begin(), ends.ends().end());
            ends.clear();
            if (begin == before) return;
        }
    }
};

bool same_masks(const Window& a, const Window& b) {
    return a.letter == b.letter && a.upper == b.upper && a.number == b.number && a.space == b.space &&
           a.newline == b.newline && a.blank == b.blank && a.apostrophe == b.apostrophe && a.not_ascii == b.not_ascii;
}

void run(FuzzInput input) {
    const auto pattern = static_cast<Pattern>(input.below(kPatternNames.size()));
    const size_t most = input.below(8) == 0 ? 1200 : 150;
    const size_t beyond_size = input.below(70);
    std::vector<size_t> pieces = cuts(input, most);
    const std::string text = edge_text(input, most);
    const std::vector<uint64_t> expected = naive_ends(pattern, text);

    const ExactBytes whole(text);
    const std::string beyond = (edge_text(input, beyond_size) + std::string(beyond_size, 's')).substr(0, beyond_size);
    const ExactBytes followed(text + beyond);  // followed by readable bytes outside the text
    std::erase_if(pieces, [&](size_t end) { return end >= text.size(); });
    std::vector<ExactBytes> beginnings;
    for (const size_t end : pieces) beginnings.emplace_back(std::string_view(text).substr(0, end));

    for (const MaskMaker& maker : mask_makers()) {
        const auto same = [&](bool holds, std::string_view how) {
            if (holds) return;
            fail(std::string(kPatternNames[static_cast<size_t>(pattern)]) + ", " + std::string(maker.name) + ", " +
                 std::string(how), text);
        };
        const Scan scan = kScans[static_cast<size_t>(pattern)];
        Scanner once{scan, maker.classify};
        once.advance(whole.data(), whole.size(), whole.size(), true);
        same(once.found == expected, "whole");

        Scanner within{scan, maker.classify};
        within.advance(followed.data(), text.size(), followed.size(), true);
        same(within.found == expected, "with other text behind it");

        Scanner growing{scan, maker.classify};
        for (const ExactBytes& beginning : beginnings) {
            growing.advance(beginning.data(), beginning.size(), beginning.size(), false);
            same(growing.found.size() <= expected.size() &&
                     std::equal(growing.found.begin(), growing.found.end(), expected.begin()),
                 "an end that later text changes");
        }
        growing.advance(whole.data(), whole.size(), whole.size(), true);
        same(growing.found == expected, "in pieces");

        if (maker.classify != nullptr && text.size() >= kWindowBytes) {
            Window masks{}, defined{};
            maker.classify(whole.data() + text.size() - kWindowBytes, masks);
            classify_window_scalar(whole.data() + text.size() - kWindowBytes, defined);
            same(same_masks(masks, defined), "masks of a window");
        }
    }
}

}  // namespace

}  // namespace groundup::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    groundup::fuzz::run({data, size});
    return 0;
}
