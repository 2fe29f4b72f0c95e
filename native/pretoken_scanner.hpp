// Scanner of pretokens, many at a time: by masks if a window of the text allows it, otherwise by the definition.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>
#include <span>

#include "pretokenizer.hpp"
#include "window.hpp"
#include "window_starts.hpp"

namespace groundup {

// Ends of consecutive pretokens. The first begins at the start of the scan, each other one at the end before it.
class PretokenEnds {
   public:
    static constexpr size_t kCapacity = 256;

    std::span<const uint64_t> ends() const { return {ends_.data(), size_}; }
    bool has_room_for_window() const { return size_ + kWindowBytes <= kCapacity; }
    void clear() { size_ = 0; }
    void add(size_t end) { ends_[size_++] = end; }

    // Adds the position of each bit, relative to `base`. Four at a time, even if there are fewer, because the number of
    // rounds is then nearly always predicted.
    void add_bits(uint64_t bits, size_t base) {
        uint64_t* next = ends_.data() + size_;
        size_ += static_cast<size_t>(std::popcount(bits));
        while (bits != 0) {
            for (int i = 0; i < 4; ++i) {
                next[i] = base + static_cast<size_t>(std::countr_zero(bits));
                bits &= bits - 1;
            }
            next += 4;
        }
    }

   private:
    std::array<uint64_t, kCapacity + 4> ends_;
    size_t size_ = 0;
};

// The masks of the window at `bytes`. The text has `size` bytes from there; `readable` >= size bytes may be read.
inline Window window_at(ClassifyWindow classify, const uint8_t* bytes, size_t size, size_t readable, bool complete,
                        CharacterSet supported, const UnicodeTable& unicode) {
    Window window;
    if (readable >= kWindowBytes) {
        classify(bytes, window);
    } else {
        uint8_t padded[kWindowBytes] = {};
        std::memcpy(padded, bytes, readable);
        classify(padded, window);
    }
    window.continuation = 0;
    window.valid = static_cast<unsigned>(std::min(size, kWindowBytes));
    window.ends_text = complete && size < kWindowBytes;
    if (window.not_ascii != 0) add_unicode(window, bytes, size, supported, unicode);
    if (window.valid < kWindowBytes) limit_to_valid(window);
    return window;
}

// Adds the ends of the pretokens from `begin` on, until `ends` is full, the text ends, or the next end depends on later
// text; returns the start of the next pretoken. `progress` is that of the pretoken at `begin`, and then of the next.
template <Pattern pattern>
size_t scan_pretokens(ClassifyWindow classify, TextView text, size_t readable, size_t begin, Progress& progress,
                      PretokenEnds& ends) {
    while (begin < text.size() && ends.has_room_for_window()) {
        const uint8_t* const bytes = text.bytes() + begin;
        if (classify != nullptr && progress.position == 0) {
            const Window window = window_at(classify, bytes, text.size() - begin, readable - begin, text.complete(),
                                            supported_characters(pattern), text.unicode());
            if (window.valid > 1 || window.ends_text) {
                const uint64_t found = starts_in_window<pattern>(window, bytes) & ~uint64_t{1};
                if (found != 0) {
                    ends.add_bits(found, begin);
                    begin += static_cast<size_t>(std::bit_width(found)) - 1;
                    continue;
                }
            }
        }
        const std::optional<size_t> end = pretoken_end(pattern, text, begin, progress);
        if (!end) break;
        ends.add(begin = *end);
    }
    return begin;
}

}  // namespace groundup
