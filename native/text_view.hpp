// View of a text that is split into pretokens and may still grow.
#pragma once

#include <cstddef>
#include <cstdint>

#include "character_class.hpp"

namespace groundup {

struct Character {
    CharacterSet character_class;
    uint8_t length;

    bool in(CharacterSet set) const { return (character_class & set) != 0; }
};

// A scanner reads a view as if the text ended with it. If it reads beyond the end of an incomplete text, `undecided` is
// set and its result is invalid: it must start again with more text.
class TextView {
   public:
    // `complete`: the text ends at `size`; no more follows.
    TextView(const uint8_t* bytes, size_t size, bool complete, UnicodeTable unicode = {})
        : bytes_(bytes), size_(size), complete_(complete), unicode_(unicode) {}

    const uint8_t* bytes() const { return bytes_; }
    size_t size() const { return size_; }
    bool complete() const { return complete_; }
    const UnicodeTable& unicode() const { return unicode_; }
    bool undecided() const { return reached_end_ && !complete_; }
    void forget_end() { reached_end_ = false; }

    Character at(size_t position) {
        if (position >= size_) return end();
        const uint8_t lead = bytes_[position];
        if (lead < 0x80) return {kAsciiClass[lead], 1};
        const Utf8Character character = decode_utf8(bytes_ + position, size_ - position);
        if (character.status == Utf8Status::Valid) return {unicode_.class_of(character.code_point), character.length};
        if (character.status == Utf8Status::Truncated && !complete_) return end();
        return {kOther, 1};
    }

    // The byte at the position; 0 beyond the end.
    uint8_t byte(size_t position) {
        if (position < size_) return bytes_[position];
        reached_end_ = true;
        return 0;
    }

    // The position after the run of ASCII characters of the set that begins at `position`.
    size_t skip_ascii(size_t position, CharacterSet set) const {
        while (position < size_ && (kAsciiClass[bytes_[position]] & set) != 0) ++position;
        return position;
    }

   private:
    Character end() {
        reached_end_ = true;
        return {kEnd, 0};
    }

    const uint8_t* bytes_;
    size_t size_;
    bool complete_;
    bool reached_end_ = false;
    UnicodeTable unicode_;
};

// How far an undecided pretoken has been read, so that a pretoken in many pieces is read once: the runs before `stage`
// are complete, and the run of `stage` reaches at least to `position`.
struct Progress {
    size_t position = 0;
    int stage = 0;
};

// The end of the run of characters of the set that begins at `from`. The runs of a pretoken have rising stages.
inline size_t run_end(TextView& text, size_t from, CharacterSet set, int stage, Progress& progress) {
    if (progress.stage > stage || text.undecided()) return from;
    if (progress.stage == stage && progress.position > from) from = progress.position;
    for (;;) {
        from = text.skip_ascii(from, set);
        const Character character = text.at(from);
        if (!character.in(set)) break;
        from += character.length;
    }
    progress = {from, stage};
    return from;
}

}  // namespace groundup
