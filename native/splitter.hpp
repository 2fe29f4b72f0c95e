// Text into special tokens and pretokens, all at once or as the text arrives.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>

#include "pretokenizer.hpp"
#include "special_tokens.hpp"

namespace groundup {

// Special tokens are hard boundaries: the pretokens on either side are those of two separate texts.
//
// A Splitter remembers three positions in a text that grows at its end, so that every byte is looked at a bounded
// number of times however small the pieces are in which it arrives.
class Splitter {
   public:
    // Hands out, in order, everything in text[0, size) that text to come cannot change: on_pretoken(begin, end) and
    // on_special(id). With `complete` that is everything.
    template <typename OnPretoken, typename OnSpecial>
    void advance(const SpecialTokens& specials, const uint8_t* text, size_t size, bool complete,
                 OnPretoken&& on_pretoken, OnSpecial&& on_special) {
        for (;;) {
            const SpecialMatch special = specials.find(text, searched_, size, complete);
            const bool found = special.kind == SpecialMatch::Kind::Found;
            split_plain({text, special.begin, found || complete}, on_pretoken);
            searched_ = special.begin;
            if (!found) return;
            on_special(special.id);
            start_ = scanned_ = searched_ = special.begin + special.length;
        }
    }

    // Bytes before this position have been handed out.
    size_t start() const { return start_; }

    // Tells that the first `count` (<= start()) bytes of the text were dropped.
    void drop_front(size_t count) {
        start_ -= count;
        scanned_ -= count;
        searched_ -= count;
    }

   private:
    template <typename OnPretoken>
    void split_plain(const TextView& text, OnPretoken&& on_pretoken) {
        while (start_ < text.size) {
            const std::optional<size_t> end = pretoken_end(text, start_, scanned_);
            if (!end) return;
            on_pretoken(start_, *end);
            start_ = scanned_ = *end;
        }
    }

    size_t start_ = 0;     // where the pretoken begins that is not yet handed out
    size_t scanned_ = 0;   // from start_ to here the text is known to be one run (see pretoken_end)
    size_t searched_ = 0;  // no special token begins in [start_, searched_)
};

}  // namespace groundup
