#include "pretoken_counter.hpp"

#include <atomic>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <string>
#include <thread>
#include <utility>

#include "splitter.hpp"
#include "text_chunks.hpp"

namespace groundup {

namespace {

using Text = std::span<const uint8_t>;

struct Cancelled {};

// One round of counting: threads take the next chunk until none is left, someone fails, or the caller gives up.
class CountingRound {
   public:
    CountingRound(const SpecialTokens& special_tokens, const std::vector<Text>& chunks)
        : special_tokens_(special_tokens), chunks_(chunks) {}

    void run(std::vector<PretokenCounts>& counts_of_thread, const Heartbeat& heartbeat, uint64_t bytes_before) {
        std::vector<std::jthread> threads;  // joins them however this function is left
        running_ = std::min(counts_of_thread.size(), chunks_.size());
        for (size_t i = 0, count = running_; i < count; ++i) {
            threads.emplace_back([this, &counts = counts_of_thread[i]] { work(counts); });
        }
        try {
            std::unique_lock lock(mutex_);
            while (!all_done_.wait_for(lock, kHeartbeatInterval, [this] { return running_ == 0; })) {
                lock.unlock();
                heartbeat(bytes_before + bytes_done_);
                lock.lock();
            }
        } catch (...) {
            cancelled_ = true;
            throw;
        }
        if (error_) std::rethrow_exception(error_);
    }

   private:
    void work(PretokenCounts& counts) noexcept {
        std::exception_ptr error;
        try {
            for (size_t i = next_chunk_++; i < chunks_.size(); i = next_chunk_++) {
                count_chunk(chunks_[i], counts);
                bytes_done_ += chunks_[i].size();
            }
        } catch (const Cancelled&) {
        } catch (...) {
            error = std::current_exception();
            cancelled_ = true;
        }
        const std::lock_guard lock(mutex_);
        if (error) error_ = error;
        if (--running_ == 0) all_done_.notify_one();
    }

    void count_chunk(Text text, PretokenCounts& counts) const {
        Splitter splitter;
        splitter.advance(
            special_tokens_, text.data(), text.size(), true,
            [&](size_t begin, size_t end) {
                if (cancelled_.load(std::memory_order_relaxed)) throw Cancelled();
                counts.add(text.subspan(begin, end - begin), 1);
            },
            [](uint32_t) {});
    }

    const SpecialTokens& special_tokens_;
    const std::vector<Text>& chunks_;
    std::atomic<size_t> next_chunk_ = 0;
    std::atomic<uint64_t> bytes_done_ = 0;
    std::atomic<bool> cancelled_ = false;
    std::mutex mutex_;
    std::condition_variable all_done_;
    size_t running_ = 0;        // guarded by mutex_
    std::exception_ptr error_;  // guarded by mutex_
};

std::vector<std::pair<std::string, uint32_t>> numbered(const std::vector<std::string>& tokens) {
    std::vector<std::pair<std::string, uint32_t>> pairs;
    for (const std::string& token : tokens) pairs.emplace_back(token, static_cast<uint32_t>(pairs.size()));
    return pairs;
}

}  // namespace

PretokenCounter::PretokenCounter(const std::vector<std::string>& special_tokens, size_t thread_count,
                                 size_t chunk_bytes)
    : special_tokens_(numbered(special_tokens)), chunk_bytes_(chunk_bytes), counts_of_thread_(thread_count) {}

void PretokenCounter::count(const std::vector<Text>& texts, const Heartbeat& heartbeat) {
    std::vector<Text> chunks;
    uint64_t bytes = 0;
    for (const Text& text : texts) {
        const std::vector<Text> pieces = chunks_of(text, chunk_bytes_, special_tokens_);
        chunks.insert(chunks.end(), pieces.begin(), pieces.end());
        bytes += text.size();
    }
    CountingRound(special_tokens_, chunks).run(counts_of_thread_, heartbeat, bytes_counted_);
    bytes_counted_ += bytes;
    heartbeat(bytes_counted_);
}

PretokenCounts PretokenCounter::take() {
    PretokenCounts total = std::exchange(counts_of_thread_.front(), {});
    for (size_t i = 1; i < counts_of_thread_.size(); ++i) total.add(std::exchange(counts_of_thread_[i], {}));
    bytes_counted_ = 0;
    return total;
}

}  // namespace groundup
