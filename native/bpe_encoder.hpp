// Encoder from bytes to token ids.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "bpe_merge.hpp"
#include "character_merges.hpp"
#include "id_buffer.hpp"
#include "merge_lanes.hpp"
#include "merge_table.hpp"
#include "missing_byte.hpp"
#include "pretoken_cache.hpp"
#include "special_tokens.hpp"
#include "splitter.hpp"
#include "text_chunks.hpp"

namespace groundup {

// Encoder of one vocabulary. It is immutable, so any number of threads may encode with it.
class BpeEncoder {
   public:
    // A pretoken that the first look-up did not find.
    struct Miss {
        const uint8_t* bytes;
        size_t size;
        PretokenKey key;
        ShortPretokenCache::Slot* home;
        size_t ids_before;            // ids of the found pretokens and special tokens before it
        uint64_t hash;                // for LongPretokenCache; 0 until it is needed
        uint32_t first_id, id_count;  // in Workspace::rare_ids

        std::span<const uint8_t> pretoken() const { return {bytes, size}; }
    };

    // What is stored of a miss at first: its index among the pretokens that are looked up together, and the number of
    // their ids before it.
    struct Missed {
        uint32_t index, ids_before;
    };

    // Number of misses that are handled together. It may be exceeded, because it is checked only between batches.
    static constexpr size_t kManyMisses = 64;

    // Caches and buffers of one thread at a time.
    struct Workspace {
        ShortPretokenCache short_pretokens;
        LongPretokenCache long_pretokens;
        MergeScratch scratch;
        MergeLanes<15, 16> lanes;
        std::array<PretokenKey, PretokenEnds::kCapacity> keys;
        std::array<ShortPretokenCache::Slot*, PretokenEnds::kCapacity> homes;
        std::array<Missed, PretokenEnds::kCapacity> missed;
        std::array<Miss, kManyMisses + PretokenEnds::kCapacity> misses;
        std::array<Miss*, kManyMisses + PretokenEnds::kCapacity> unseen, others;
        size_t miss_count = 0;  // misses whose ids are not inserted yet
        IdBuffer rare_ids;      // ids of the misses
        IdBuffer moved;         // ids around the misses
        IdBuffer ids;           // for short results
        std::vector<uint8_t> prefixed;  // a piece of text with a space before it
    };

    // Returns the workspace when the call ends, also by an exception.
    class BorrowedWorkspace {
       public:
        explicit BorrowedWorkspace(const BpeEncoder& encoder);
        ~BorrowedWorkspace();
        BorrowedWorkspace(const BorrowedWorkspace&) = delete;
        BorrowedWorkspace& operator=(const BorrowedWorkspace&) = delete;
        Workspace& operator*() const { return *workspace_; }
        Workspace* operator->() const { return workspace_.get(); }

       private:
        const BpeEncoder& encoder_;
        std::unique_ptr<Workspace> workspace_;
    };

    // `whole`: pretokens with one id, regardless of the merges.
    BpeEncoder(const std::array<uint32_t, 256>& byte_ids, std::span<const MergeRule> rules,
               const std::vector<std::pair<std::string, uint32_t>>& whole, Pattern pattern, UnicodeTable unicode = {});

    // Encoder of whole texts on characters. Its pretokens are pieces whose ids do not depend on the cuts
    // (CharacterCuts).
    explicit BpeEncoder(CharacterMerges characters);
    ~BpeEncoder();

    // A splitter for a text, or for the part of a text after a cut.
    Splitter splitter(bool begins_text = true) const {
        return characters_ ? Splitter(characters_->cuts(), begins_text) : Splitter(pattern_, unicode_);
    }

    // Whether cutting a text before `position` leaves the ids unchanged.
    bool is_safe_cut(std::span<const uint8_t> text, size_t position, const SpecialTokens& specials) const {
        return characters_ ? is_safe_cut_of_characters(text, position, characters_->cuts(), specials)
                           : groundup::is_safe_cut(text, position, specials, unicode_);
    }

    // Appends the ids of a text; while it is not complete, only those that later text cannot change.
    void encode(Splitter& splitter, const SpecialTokens& specials, std::span<const uint8_t> text, bool complete,
                Workspace& workspace, IdBuffer& ids) const;

    // encode_pretokens() for the last output of the splitter, with a space before it if the prefix option says so.
    void encode_found(const Splitter& splitter, std::span<const uint8_t> text, size_t begin,
                      std::span<const uint64_t> ends, Workspace& workspace, IdBuffer& ids) const {
        if (characters_ && splitter.at_stretch()) [[unlikely]] {
            begin = encode_prefixed(splitter, text, begin, ends, workspace, ids);
            ends = ends.subspan(begin == ends.front() ? 1 : 0);
        }
        encode_pretokens(text.data(), text.size(), begin, ends, workspace, ids);
    }

    // Appends the ids of consecutive pretokens that begin at `begin`. Ids of misses are added by insert_misses(); until
    // then `readable` bytes of the text must stay readable.
    void encode_pretokens(const uint8_t* text, size_t readable, size_t begin, std::span<const uint64_t> ends,
                          Workspace& workspace, IdBuffer& ids) const;

    // Inserts the ids of all misses at their positions.
    void insert_misses(Workspace& workspace, IdBuffer& ids) const;

   private:
    static constexpr size_t kIdleWorkspaces = 64;

    size_t encode_prefixed(const Splitter& splitter, std::span<const uint8_t> text, size_t begin,
                           std::span<const uint64_t> ends, Workspace& workspace, IdBuffer& ids) const;
    static void collect_misses(std::span<const Missed> missed, const uint8_t* text, size_t begin,
                               std::span<const uint64_t> ends, size_t ids_before, Workspace& workspace);
    static void insert_ids(IdBuffer& ids, std::span<const Miss> misses, Workspace& workspace);
    void encode_misses(std::span<Miss> misses, Workspace& workspace) const;
    template <typename Lanes>
    void merge_misses(Lanes& lanes, std::span<Miss* const> misses, Workspace& workspace) const;
    static void set_ids(Miss& miss, std::span<const uint32_t> ids, Workspace& workspace);
    static void remember(const Miss& miss, Workspace& workspace);
    // Whether pretokens need more than byte merges.
    bool merges_one_by_one() const { return characters_.has_value() || !whole_.empty(); }
    std::span<const uint32_t> merged_ids(std::span<const uint8_t> pretoken, Workspace& workspace) const;

    uint32_t id_of(uint32_t symbol) const {
        const uint32_t id = merges_.id(symbol);
        if (id == kNoRank) [[unlikely]] throw MissingByteError(static_cast<uint8_t>(symbol));
        return id;
    }

    MergeTable merges_;
    std::unordered_map<std::string, uint32_t> whole_;
    Pattern pattern_;
    UnicodeTable unicode_;
    std::optional<CharacterMerges> characters_;  // if set, the other tables are empty
    // Workspaces outlive a call, so that the next text finds the caches filled. They are taken and returned by atomic
    // exchange: a forked child could find a lock held forever.
    mutable std::array<std::atomic<Workspace*>, kIdleWorkspaces> idle_{};
};

// Encoder of a text that arrives in pieces. The ids of all calls together are those of the whole text, for any pieces.
class EncodeStream {
   public:
    EncodeStream(std::shared_ptr<const BpeEncoder> encoder, std::shared_ptr<const SpecialTokens> specials)
        : encoder_(std::move(encoder)), specials_(std::move(specials)), splitter_(encoder_->splitter()) {}

    // The ids that later bytes cannot change. The rest of the text is held back.
    IdBuffer feed(std::span<const uint8_t> piece);

    // The ids of the text held back. The stream is then ready for another text.
    IdBuffer finish();

   private:
    IdBuffer advance(bool complete);
    void reset();

    std::shared_ptr<const BpeEncoder> encoder_;
    std::shared_ptr<const SpecialTokens> specials_;
    std::mutex mutex_;  // a stream has one text; two threads that feed it take turns
    Splitter splitter_;
    std::vector<uint8_t> held_;
};

}  // namespace groundup
