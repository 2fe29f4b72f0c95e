#include "pretoken_counter.hpp"

#include <atomic>
#include <string>
#include <utility>

#include "parallel.hpp"
#include "splitter.hpp"
#include "text_chunks.hpp"

#if defined(__linux__)
#include <sys/mman.h>
#include <unistd.h>
#endif

namespace groundup {

namespace {

using Text = std::span<const uint8_t>;

struct Cancelled {};

std::vector<std::pair<std::string, uint32_t>> numbered(const std::vector<std::string>& tokens) {
    std::vector<std::pair<std::string, uint32_t>> pairs;
    for (const std::string& token : tokens) pairs.emplace_back(token, static_cast<uint32_t>(pairs.size()));
    return pairs;
}

// Pages of a mapped file that were read count as memory of this process until the system reclaims them. Releasing the
// pages within the text costs nothing: they stay in the page cache.
void give_back_pages([[maybe_unused]] Text text) {
#if defined(__linux__)
    const auto page = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
    const auto begin = (reinterpret_cast<uintptr_t>(text.data()) + page - 1) / page * page;
    const auto end = (reinterpret_cast<uintptr_t>(text.data()) + text.size()) / page * page;
    if (begin < end) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_DONTNEED);
#endif
}

}  // namespace

PretokenCounter::PretokenCounter(Pattern pattern, const std::vector<std::string>& special_tokens, size_t thread_count,
                                 size_t chunk_bytes)
    : pattern_(pattern),
      special_tokens_(numbered(special_tokens)),
      chunk_bytes_(chunk_bytes),
      counts_of_thread_(thread_count) {}

void PretokenCounter::count(const std::vector<Text>& texts, uint64_t weight, bool mapped, const Heartbeat& heartbeat) {
    // Some chunks at a time: searching the ends of all chunks would read much of a mapped file into memory.
    constexpr size_t kBytesAtOnce = size_t{1} << 26;
    std::vector<Text> chunks;
    uint64_t bytes = 0;
    const auto count_chunks = [&] {
        ParallelWork work;
        std::atomic<uint64_t> bytes_done = bytes_counted_;
        const auto count_chunk = [&](size_t i, size_t thread) {
            const Text text = chunks[i];
            Splitter(pattern_).advance(
                special_tokens_, text.data(), text.size(), true,
                [&](size_t begin, std::span<const uint64_t> ends) {
                    if (work.cancelled()) throw Cancelled();
                    counts_of_thread_[thread].add(text.data(), text.size(), begin, ends, weight);
                },
                [](uint32_t) {});
            if (mapped) give_back_pages(text);
            bytes_done += text.size();
        };
        work.run(chunks.size(), counts_of_thread_.size(), count_chunk, [&] { return bytes_done.load(); }, heartbeat);
        bytes_counted_ += std::exchange(bytes, 0);
        chunks.clear();
    };
    for (const Text& text : texts) {
        for (size_t begin = 0; begin < text.size();) {
            const size_t end = chunk_end(text, begin, chunk_bytes_, [&](size_t position) {
                return is_safe_cut(text, position, special_tokens_, {});
            });
            chunks.push_back(text.subspan(begin, end - begin));
            bytes += end - begin;
            begin = end;
            if (bytes >= kBytesAtOnce) count_chunks();
        }
    }
    count_chunks();
    heartbeat(bytes_counted_);
}

void PretokenCounter::add(Text text, std::span<const uint64_t> ends, uint64_t weight) {
    size_t begin = 0;
    for (size_t i = 0; i < ends.size(); i += PretokenEnds::kCapacity) {
        const std::span<const uint64_t> some = ends.subspan(i, std::min(PretokenEnds::kCapacity, ends.size() - i));
        counts_of_thread_.front().add(text.data(), text.size(), begin, some, weight);
        begin = some.back();
    }
    bytes_counted_ += begin;
}

void PretokenCounter::add(Text text, std::span<const uint64_t> ends, std::span<const uint64_t> counts) {
    size_t begin = 0;
    for (size_t i = 0; i < ends.size(); ++i) {
        counts_of_thread_.front().add(text.subspan(begin, ends[i] - begin), counts[i]);
        bytes_counted_ += (ends[i] - begin) * counts[i];
        begin = ends[i];
    }
}

const PretokenCounts& PretokenCounter::counts() {
    PretokenCounts& total = counts_of_thread_.front();
    for (size_t i = 1; i < counts_of_thread_.size(); ++i) {
        if (counts_of_thread_[i].size() > 0) total.add(std::exchange(counts_of_thread_[i], PretokenCounts()));
    }
    return total;
}

PretokenCounts PretokenCounter::take() {
    counts();
    bytes_counted_ = 0;
    return std::exchange(counts_of_thread_.front(), PretokenCounts());
}

}  // namespace groundup
