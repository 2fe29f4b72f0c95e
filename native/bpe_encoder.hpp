// Bytes to token ids.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <span>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "bpe_merge.hpp"
#include "merge_table.hpp"
#include "pretoken_cache.hpp"
#include "special_tokens.hpp"
#include "splitter.hpp"

namespace groundup {

inline constexpr uint32_t kMissingByte = UINT32_MAX;

// Text needs a single byte that the vocabulary does not have.
class MissingByteError : public std::runtime_error {
   public:
    explicit MissingByteError(uint8_t byte);
};

struct MergeRule {
    uint32_t left, right, merged;
};

// What a vocabulary says; never changes once made, so that any number of threads may encode with it.
class BpeEncoder {
   public:
    // What one thread at a time works with.
    struct Workspace {
        PretokenCache cache;
        MergeScratch scratch;
        std::vector<uint32_t> symbols;
    };

    BpeEncoder(const std::array<uint32_t, 256>& byte_ids, std::span<const MergeRule> rules,
               const std::vector<std::pair<std::string, uint32_t>>& special_tokens);

    const SpecialTokens& special_tokens() const { return special_tokens_; }

    // The ids of a whole text.
    std::vector<uint32_t> encode(std::span<const uint8_t> text) const;

    // Appends the ids of the pretoken at `bytes`, from where `readable` >= size bytes may be read.
    void encode_pretoken(const uint8_t* bytes, size_t size, size_t readable, Workspace& workspace,
                         std::vector<uint32_t>& ids) const;

    // Workspaces outlive a call, so that the next text finds the cache filled. There are never more of them than
    // threads that encode at the same time.
    std::unique_ptr<Workspace> borrow_workspace() const;
    void return_workspace(std::unique_ptr<Workspace> workspace) const;

   private:
    std::array<uint32_t, 256> byte_ids_;
    MergeTable merges_;
    SpecialTokens special_tokens_;
    mutable std::mutex idle_mutex_;
    mutable std::vector<std::unique_ptr<Workspace>> idle_;
};

// A text that arrives in pieces. The ids of all calls together are those of the whole text, however it was cut.
class EncodeStream {
   public:
    explicit EncodeStream(std::shared_ptr<const BpeEncoder> encoder) : encoder_(std::move(encoder)) {}

    // The ids that are certain after these bytes. What may still change is held back.
    std::vector<uint32_t> feed(std::span<const uint8_t> piece);

    // The ids of what was held back. The stream is then ready for another text.
    std::vector<uint32_t> finish();

   private:
    std::vector<uint32_t> advance(bool complete);
    void reset();

    std::shared_ptr<const BpeEncoder> encoder_;
    std::mutex mutex_;  // a stream has one text; two threads that feed it take turns
    Splitter splitter_;
    std::vector<uint8_t> held_;
};

}  // namespace groundup
