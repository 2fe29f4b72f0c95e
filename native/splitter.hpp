// Splitter of text into special tokens and pretokens, at once or in a stream.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

#include "character_cuts.hpp"
#include "pretoken_scanner.hpp"
#include "special_tokens.hpp"

namespace groundup {

// Special tokens are hard boundaries: the pretokens on either side are those of two separate texts.
//
// A Splitter stores three positions in a text that grows at its end, so every byte is read a bounded number of times,
// even if the text arrives in small pieces.
class Splitter {
   public:
    explicit Splitter(Pattern pattern, UnicodeTable unicode = {}) : pattern_(pattern), unicode_(unicode) {}

    // Splits into pieces by `cuts`, which must outlive the Splitter, instead of pretokens. `begins_text`: the text does
    // not begin at a cut in a longer text.
    Splitter(const CharacterCuts& cuts, bool begins_text)
        : pattern_(Pattern::Gpt2), cuts_(&cuts), at_stretch_(begins_text), at_text_(begins_text) {}

    // Reports, in order, everything in text[0, size) that later text cannot change: on_pretokens(begin, ends) for
    // consecutive pretokens, and on_special(id). With `complete` this is everything.
    template <typename OnPretokens, typename OnSpecial>
    void advance(const SpecialTokens& specials, const uint8_t* text, size_t size, bool complete,
                 OnPretokens&& on_pretokens, OnSpecial&& on_special) {
        for (;;) {
            // In ranges that stay in the cache from this search to the scan after it.
            const size_t stretch = std::min(size, searched_ + kStretchBytes);
            const SpecialMatch special = specials.find(text, searched_, stretch, size, complete);
            const bool found = special.kind == SpecialMatch::Kind::Found;
            const bool at_end = special.kind == SpecialMatch::Kind::None && stretch == size;
            split_plain(TextView(text, special.begin, found || (complete && at_end), unicode_), size, on_pretokens);
            searched_ = special.begin;
            if (found) {
                on_special(special.id);
                start_ = searched_ = special.begin + special.length;
                progress_ = {};
                at_stretch_ = true;
                at_text_ = false;
            } else if (at_end || special.kind == SpecialMatch::Kind::Undecided) {
                return;
            }
        }
    }

    // Bytes before this position have been reported.
    size_t start() const { return start_; }

    // With cuts, during a report: whether it is the first of a stretch between special tokens, and of the text.
    bool at_stretch() const { return at_stretch_; }
    bool at_text() const { return at_text_; }

    // Adjusts the positions after the first `count` (<= start()) bytes of the text were dropped.
    void drop_front(size_t count) {
        start_ -= count;
        searched_ -= count;
        progress_.position -= std::min(count, progress_.position);
    }

   private:
    static constexpr size_t kStretchBytes = size_t{1} << 15;

    template <typename OnPretokens>
    void split_plain(const TextView& text, size_t readable, OnPretokens&& on_pretokens) {
        if (cuts_ != nullptr) return split_by_cuts(text, on_pretokens);
        switch (pattern_) {
            case Pattern::Gpt2: return split_plain<Pattern::Gpt2>(text, readable, on_pretokens);
            case Pattern::Cl100k: return split_plain<Pattern::Cl100k>(text, readable, on_pretokens);
            case Pattern::Llama3: return split_plain<Pattern::Llama3>(text, readable, on_pretokens);
            case Pattern::Qwen2: return split_plain<Pattern::Qwen2>(text, readable, on_pretokens);
            case Pattern::O200k: return split_plain<Pattern::O200k>(text, readable, on_pretokens);
            case Pattern::Tekken: return split_plain<Pattern::Tekken>(text, readable, on_pretokens);
        }
    }

    template <Pattern pattern, typename OnPretokens>
    void split_plain(const TextView& text, size_t readable, OnPretokens&& on_pretokens) {
        const ClassifyWindow classify = classify_window();
        PretokenEnds ends;
        while (start_ < text.size()) {
            ends.clear();
            const size_t begin = start_;
            start_ = scan_pretokens<pattern>(classify, text, readable, begin, progress_, ends);
            if (start_ == begin) return;
            on_pretokens(begin, ends.ends());
        }
    }

    template <typename OnPretokens>
    void split_by_cuts(const TextView& text, OnPretokens&& on_pretokens) {
        PretokenEnds ends;
        while (start_ < text.size()) {
            ends.clear();
            const size_t begin = start_;
            while (start_ < text.size() && ends.has_room_for_window()) {
                const std::optional<size_t> end = cuts_->piece_end(text, start_, progress_);
                if (!end) break;
                ends.add(start_ = *end);
            }
            if (start_ == begin) return;
            on_pretokens(begin, ends.ends());
            at_stretch_ = at_text_ = false;
        }
    }

    Pattern pattern_;
    UnicodeTable unicode_;
    const CharacterCuts* cuts_ = nullptr;
    bool at_stretch_ = true, at_text_ = true;
    size_t start_ = 0;     // start of the first pretoken that is not reported yet
    Progress progress_;    // how far it has been read
    size_t searched_ = 0;  // no special token begins in [start_, searched_)
};

}  // namespace groundup
