#include "bpe_encoder.hpp"

#include <algorithm>
#include <cstdio>

namespace groundup {

namespace {

std::string missing_byte_message(uint8_t byte) {
    char message[128];
    std::snprintf(message, sizeof message,
                  "the text has the byte 0x%02X, which the vocabulary lacks; use a vocabulary with all 256 bytes", byte);
    return message;
}

}  // namespace

MissingByteError::MissingByteError(uint8_t byte) : std::runtime_error(missing_byte_message(byte)) {}

BpeEncoder::BpeEncoder(const std::array<uint32_t, 256>& byte_ids, std::span<const MergeRule> rules,
                       const std::vector<std::pair<std::string, uint32_t>>& whole, Pattern pattern,
                       UnicodeTable unicode)
    : merges_(byte_ids, rules), whole_(whole.begin(), whole.end()), pattern_(pattern), unicode_(unicode) {}

BpeEncoder::BpeEncoder(CharacterMerges characters)
    : merges_({}, {}), pattern_(Pattern::Gpt2), characters_(std::move(characters)) {}

BpeEncoder::~BpeEncoder() {
    for (std::atomic<Workspace*>& place : idle_) delete place.load();
}

BpeEncoder::BorrowedWorkspace::BorrowedWorkspace(const BpeEncoder& encoder) : encoder_(encoder) {
    for (std::atomic<Workspace*>& place : encoder.idle_) {
        if (place.load(std::memory_order_relaxed) == nullptr) continue;
        workspace_.reset(place.exchange(nullptr, std::memory_order_acquire));
        if (workspace_) return;
    }
    workspace_ = std::make_unique<Workspace>();
}

BpeEncoder::BorrowedWorkspace::~BorrowedWorkspace() {
    // Free the memory of an exceptionally long text.
    constexpr size_t kKeptSymbols = size_t{1} << 18;
    const MergeScratch& scratch = workspace_->scratch;
    if (std::max(scratch.symbols.capacity(), scratch.result.capacity()) > kKeptSymbols) workspace_->scratch = {};
    if (workspace_->rare_ids.capacity() > kKeptSymbols) workspace_->rare_ids = {};
    if (workspace_->prefixed.capacity() > kKeptSymbols) workspace_->prefixed = {};
    workspace_->miss_count = 0;  // it is not 0 after an exception
    for (std::atomic<Workspace*>& place : encoder_.idle_) {
        Workspace* expected = nullptr;
        if (place.compare_exchange_strong(expected, workspace_.get(), std::memory_order_release)) {
            workspace_.release();
            return;
        }
    }
}

void BpeEncoder::encode(Splitter& splitter, const SpecialTokens& specials, std::span<const uint8_t> text, bool complete,
                        Workspace& workspace, IdBuffer& ids) const {
    splitter.advance(
        specials, text.data(), text.size(), complete,
        [&](size_t begin, std::span<const uint64_t> ends) {
            encode_found(splitter, text, begin, ends, workspace, ids);
        },
        [&](uint32_t id) { ids.push_back(id); });
    insert_misses(workspace, ids);
}

// Encodes the first pretoken of a stretch with a space before it, if the prefix option says so; returns its end, or
// `begin` without a prefix.
size_t BpeEncoder::encode_prefixed(const Splitter& splitter, std::span<const uint8_t> text, size_t begin,
                                   std::span<const uint64_t> ends, Workspace& workspace, IdBuffer& ids) const {
    const std::span<const uint8_t> first = text.subspan(begin, ends.front() - begin);
    if (!characters_->takes_prefix(first, splitter.at_text())) return begin;
    insert_misses(workspace, ids);
    workspace.prefixed.assign(1, ' ');
    workspace.prefixed.insert(workspace.prefixed.end(), first.begin(), first.end());
    const size_t size = workspace.prefixed.size();
    const std::array<uint64_t, 2> first_ends = {1, size};
    const bool begins_with_space = text_character(first.data(), first.size()).code == kSpaceMark;
    const bool is_apart = begins_with_space && characters_->cuts().every_space();
    encode_pretokens(workspace.prefixed.data(), size, 0, std::span(first_ends).subspan(is_apart ? 0 : 1), workspace,
                     ids);
    insert_misses(workspace, ids);
    return ends.front();
}

void BpeEncoder::encode_pretokens(const uint8_t* text, size_t readable, size_t begin, std::span<const uint64_t> ends,
                                  Workspace& workspace, IdBuffer& ids) const {
    ShortPretokenCache& cache = workspace.short_pretokens;
    // Two passes: the first prefetches all slots, the second reads them.
    const auto home_of = cache.home();
    PretokenKey* const keys = workspace.keys.data();
    ShortPretokenCache::Slot** const homes = workspace.homes.data();
    size_t start = begin;
    for (size_t i = 0; i < ends.size(); ++i) {
        keys[i] = key_of(text + start, ends[i] - start, readable - start);
        homes[i] = home_of(keys[i]);
        __builtin_prefetch(homes[i]);
        start = ends[i];
    }
    constexpr size_t kMostIds = ShortPretokenCache::kMostIds;
    ids.make_room(kMostIds * ends.size());
    ids.prefetch(ends.size());
    Missed* const missed = workspace.missed.data();
    size_t missed_count = 0;
    uint32_t* const first = ids.end();
    uint32_t* next = first;
    for (size_t i = 0; i < ends.size(); ++i) {
        if (homes[i]->key == keys[i]) [[likely]] {
            next += homes[i]->copy_ids(next);
        } else if (cache.find_beside(homes[i], keys[i])) {
            next += homes[i]->copy_ids(next);
        } else {
            missed[missed_count++] = {static_cast<uint32_t>(i), static_cast<uint32_t>(next - first)};
        }
    }
    if (missed_count > 0) collect_misses({missed, missed_count}, text, begin, ends, ids.size(), workspace);
    ids.advance(static_cast<size_t>(next - first));
    if (workspace.miss_count >= kManyMisses) insert_misses(workspace, ids);
}

IdBuffer EncodeStream::feed(std::span<const uint8_t> piece) {
    const std::lock_guard lock(mutex_);
    held_.insert(held_.end(), piece.begin(), piece.end());
    return advance(false);
}

IdBuffer EncodeStream::finish() {
    const std::lock_guard lock(mutex_);
    IdBuffer ids = advance(true);
    reset();
    return ids;
}

void EncodeStream::reset() {
    held_ = {};
    splitter_ = encoder_->splitter();
}

IdBuffer EncodeStream::advance(bool complete) {
    IdBuffer ids;
    try {
        const BpeEncoder::BorrowedWorkspace workspace(*encoder_);
        encoder_->encode(splitter_, *specials_, held_, complete, *workspace, ids);
    } catch (...) {
        reset();  // the ids before the error are lost, so the text cannot be continued
        throw;
    }
    // Move the rest to the front only when it is the smaller part: the cost per byte is then constant.
    if (splitter_.start() > held_.size() / 2) {
        held_.erase(held_.begin(), held_.begin() + static_cast<ptrdiff_t>(splitter_.start()));
        splitter_.drop_front(splitter_.start());
    }
    return ids;
}

}  // namespace groundup
