// Counter of the pretokens of a corpus, on several threads.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "heartbeat.hpp"
#include "pretoken_counts.hpp"
#include "pretokenizer.hpp"
#include "special_tokens.hpp"

namespace groundup {

// The counts depend only on the texts, not on the number of threads or the size of the chunks.
class PretokenCounter {
   public:
    PretokenCounter(Pattern pattern, const std::vector<std::string>& special_tokens, size_t thread_count,
                    size_t chunk_bytes);

    // Adds separate texts: no pretoken crosses from one into the next. Every pretoken counts `weight` times. `mapped`:
    // the texts are a memory-mapped file, whose pages are released after use. `heartbeat` gets the bytes counted so
    // far, over all calls; if it throws, the counts are invalid.
    void count(const std::vector<std::span<const uint8_t>>& texts, uint64_t weight, bool mapped,
               const Heartbeat& heartbeat);

    // Adds given pretokens, `weight` times each; the first begins at 0.
    void add(std::span<const uint8_t> text, std::span<const uint64_t> ends, uint64_t weight);

    // Adds the pretoken that ends at ends[i] `counts[i]` times.
    void add(std::span<const uint8_t> text, std::span<const uint64_t> ends, std::span<const uint64_t> counts);

    uint64_t bytes_counted() const { return bytes_counted_; }

    // The counts of everything so far.
    const PretokenCounts& counts();

    // The same; the counter is empty afterwards.
    PretokenCounts take();

   private:
    Pattern pattern_;
    SpecialTokens special_tokens_;
    size_t chunk_bytes_;
    std::vector<PretokenCounts> counts_of_thread_;
    uint64_t bytes_counted_ = 0;
};

}  // namespace groundup
