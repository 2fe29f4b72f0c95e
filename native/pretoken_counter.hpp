// Counting the pretokens of a corpus on several threads.
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

// The counts depend on the texts alone: neither on the number of threads nor on the size of the chunks.
class PretokenCounter {
   public:
    PretokenCounter(Pattern pattern, const std::vector<std::string>& special_tokens, size_t thread_count,
                    size_t chunk_bytes);

    // Adds texts, each on its own: no pretoken reaches from one into the next. Every pretoken counts `weight` times.
    // `mapped` says that the texts are a file mapped into memory, whose pages are given back as they are done with.
    // `heartbeat` gets the bytes counted so far, over all calls; if it throws, the counts are no longer of any use.
    void count(const std::vector<std::span<const uint8_t>>& texts, uint64_t weight, bool mapped,
               const Heartbeat& heartbeat);

    // Adds pretokens that are known already, `weight` times each: the first begins at 0.
    void add(std::span<const uint8_t> text, std::span<const uint64_t> ends, uint64_t weight);

    // Adds `counts[i]` times the pretoken that ends at ends[i].
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
