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
                       const std::vector<std::pair<std::string, uint32_t>>& whole, Pattern pattern)
    : merges_(byte_ids, rules), whole_(whole.begin(), whole.end()), pattern_(pattern) {}

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
    // One enormous text must not leave its memory behind.
    constexpr size_t kKeptSymbols = size_t{1} << 18;
    const MergeScratch& scratch = workspace_->scratch;
    if (std::max(scratch.symbols.capacity(), scratch.result.capacity()) > kKeptSymbols) workspace_->scratch = {};
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
            encode_pretokens(text.data(), text.size(), begin, ends, workspace, ids);
        },
        [&](uint32_t id) { ids.push_back(id); });
}

void BpeEncoder::encode_pretokens(const uint8_t* text, size_t readable, size_t begin, std::span<const uint64_t> ends,
                                  Workspace& workspace, IdBuffer& ids) const {
    ShortPretokenCache& cache = workspace.short_pretokens;
    cache.grow_if_full();
    // Two passes, so that the memory of all slots is on its way before the first is looked at.
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
    uint32_t* next = ids.end();
    for (size_t i = 0; i < ends.size(); ++i) {
        if (homes[i]->key == keys[i]) [[likely]] {
            next += homes[i]->copy_ids(next);
        } else {
            ids.advance(static_cast<size_t>(next - ids.end()));
            start = i == 0 ? begin : ends[i - 1];
            encode_rare({text + start, ends[i] - start}, homes[i], keys[i], workspace, ids);
            ids.make_room(kMostIds * (ends.size() - i));
            next = ids.end();
        }
    }
    ids.advance(static_cast<size_t>(next - ids.end()));
}

// Pretokens that are long, that have many ids, that were not seen before, or that share their place with others.
void BpeEncoder::encode_rare(std::span<const uint8_t> pretoken, ShortPretokenCache::Slot* home, const PretokenKey& key,
                             Workspace& workspace, IdBuffer& ids) const {
    const bool is_short = pretoken.size() <= PretokenKey::kLongest;
    const bool known = is_short && workspace.short_pretokens.find(home, key);
    if (known && home->key == key) {
        ids.make_room(ShortPretokenCache::kMostIds);
        return ids.advance(home->copy_ids(ids.end()));
    }
    LongPretokenCache& cache = workspace.long_pretokens;
    const bool cacheable = pretoken.size() <= LongPretokenCache::kLongest;
    const uint64_t hash = cacheable && (known || !is_short) ? hash_bytes(pretoken.data(), pretoken.size()) : 0;
    if (hash != 0) {
        const std::span<const uint32_t> found = cache.find(pretoken, hash);
        if (!found.empty()) return ids.append(found);
    }
    const std::span<const uint32_t> merged = merged_ids(pretoken, workspace);
    ids.append(merged);
    if (is_short && !known) workspace.short_pretokens.insert(home, key, merged);
    if (cacheable && !(is_short && merged.size() <= ShortPretokenCache::kMostIds)) {
        cache.insert(pretoken, hash_bytes(pretoken.data(), pretoken.size()), merged);
    }
}

std::span<const uint32_t> BpeEncoder::merged_ids(std::span<const uint8_t> pretoken, Workspace& workspace) const {
    if (!whole_.empty()) {
        const auto token = whole_.find(std::string(pretoken.begin(), pretoken.end()));
        if (token != whole_.end()) return {&token->second, 1};
    }
    const std::span<uint32_t> symbols = merge_pretoken(merges_, pretoken, workspace.scratch);
    for (uint32_t& symbol : symbols) {
        const uint32_t id = merges_.id(symbol);
        if (id == kNoRank) throw MissingByteError(static_cast<uint8_t>(symbol));
        symbol = id;
    }
    return symbols;
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
    splitter_ = Splitter(encoder_->pattern());
}

IdBuffer EncodeStream::advance(bool complete) {
    IdBuffer ids;
    try {
        const BpeEncoder::BorrowedWorkspace workspace(*encoder_);
        encoder_->encode(splitter_, *specials_, held_, complete, *workspace, ids);
    } catch (...) {
        reset();  // the ids before the error are lost, so this text cannot be continued
        throw;
    }
    // Moving the rest to the front only when it is the smaller part keeps the cost of a byte constant.
    if (splitter_.start() > held_.size() / 2) {
        held_.erase(held_.begin(), held_.begin() + static_cast<ptrdiff_t>(splitter_.start()));
        splitter_.drop_front(splitter_.start());
    }
    return ids;
}

}  // namespace groundup
