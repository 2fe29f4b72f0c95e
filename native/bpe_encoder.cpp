#include "bpe_encoder.hpp"

#include <algorithm>
#include <cstdio>
#include <cstring>

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
    if (workspace_->rare_ids.capacity() > kKeptSymbols) workspace_->rare_ids = {};
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
    Miss* const misses = workspace.misses.data();
    size_t miss_count = 0;
    uint32_t* const first = ids.end();
    uint32_t* next = first;
    for (size_t i = 0; i < ends.size(); ++i) {
        if (homes[i]->key == keys[i]) [[likely]] {
            next += homes[i]->copy_ids(next);
        } else {
            misses[miss_count++] = {static_cast<uint32_t>(i), static_cast<uint32_t>(next - first), 0, 0, 0};
        }
    }
    const auto found = static_cast<size_t>(next - first);
    if (miss_count == 0) return ids.advance(found);
    encode_misses({text, begin, ends}, {misses, miss_count}, workspace);
    insert_ids(ids, found, {misses, miss_count}, workspace);
}

// Puts the ids of the misses between the `found` ones at the end of `ids`.
void BpeEncoder::insert_ids(IdBuffer& ids, size_t found, std::span<const Miss> misses, Workspace& workspace) {
    constexpr size_t kMostIds = ShortPretokenCache::kMostIds;
    const size_t unmoved = misses[0].ids_before;
    IdBuffer& moved = workspace.moved;
    moved.clear();
    moved.make_room(found - unmoved + 1);  // also of none, so that there is memory to copy nothing from
    moved.append({ids.end() + unmoved, found - unmoved});
    ids.make_room(found + workspace.rare_ids.size() + kMostIds);
    uint32_t* next = ids.end() + unmoved;
    for (size_t i = 0; i < misses.size(); ++i) {
        const Miss& miss = misses[i];
        const uint32_t* const rare = workspace.rare_ids.data() + miss.first_id;
        std::memcpy(next, rare, kMostIds * sizeof(uint32_t));
        if (miss.id_count > kMostIds) std::memcpy(next, rare, miss.id_count * sizeof(uint32_t));
        next += miss.id_count;
        const size_t behind = (i + 1 < misses.size() ? misses[i + 1].ids_before : found) - miss.ids_before;
        std::memcpy(next, moved.data() + miss.ids_before - unmoved, behind * sizeof(uint32_t));
        next += behind;
    }
    ids.advance(static_cast<size_t>(next - ids.end()));
}

// Pretokens that are long, that have many ids, that were not seen before, or that share their place with others; all
// at once, so that their memory is on its way together, and merges take turns.
void BpeEncoder::encode_misses(const Pretokens& pretokens, std::span<Miss> misses, Workspace& workspace) const {
    ShortPretokenCache& cache = workspace.short_pretokens;
    workspace.rare_ids.clear();
    workspace.rare_ids.make_room(ShortPretokenCache::kMostIds * (misses.size() + 1));
    for (const Miss& miss : misses) cache.prefetch_others(workspace.homes[miss.index]);
    size_t unseen = 0, others = 0;
    for (Miss& miss : misses) {
        const PretokenKey& key = workspace.keys[miss.index];
        ShortPretokenCache::Slot* const home = workspace.homes[miss.index];
        const std::span<const uint8_t> pretoken = pretokens[miss.index];
        if (pretoken.size() <= PretokenKey::kLongest) {
            if (!cache.find(home, key)) {
                workspace.unseen[unseen++] = &miss;
                continue;
            }
            if (home->key == key) {
                std::array<uint32_t, ShortPretokenCache::kMostIds> ids;
                set_ids(miss, {ids.data(), home->copy_ids(ids.data())}, workspace);
                continue;
            }
        }
        if (pretoken.size() <= LongPretokenCache::kLongest) {
            miss.hash = hash_bytes(pretoken.data(), pretoken.size());
            workspace.long_pretokens.prefetch(miss.hash);
        }
        workspace.others[others++] = &miss;
    }
    merge_misses(workspace.lanes, pretokens, {workspace.unseen.data(), unseen}, workspace);
    unseen = 0;
    for (Miss* const miss : std::span(workspace.others.data(), others)) {
        const std::span<const uint8_t> pretoken = pretokens[miss->index];
        if (pretoken.size() <= LongPretokenCache::kLongest) {
            const std::span<const uint32_t> found = workspace.long_pretokens.find(pretoken, miss->hash);
            if (!found.empty()) {
                set_ids(*miss, found, workspace);
                continue;
            }
        }
        if (pretoken.size() <= kLongestShort) {
            workspace.unseen[unseen++] = miss;
        } else {
            set_ids(*miss, merged_ids(pretoken, workspace), workspace);
            remember(pretoken, *miss, workspace);
        }
    }
    merge_misses(workspace.scratch.lanes, pretokens, {workspace.unseen.data(), unseen}, workspace);
    workspace.rare_ids.make_room(ShortPretokenCache::kMostIds);
}

void BpeEncoder::set_ids(Miss& miss, std::span<const uint32_t> ids, Workspace& workspace) {
    miss.first_id = static_cast<uint32_t>(workspace.rare_ids.size());
    miss.id_count = static_cast<uint32_t>(ids.size());
    workspace.rare_ids.append(ids);
}

// Puts the ids of a miss where they will be found.
void BpeEncoder::remember(std::span<const uint8_t> pretoken, const Miss& miss, Workspace& workspace) {
    const std::span<const uint32_t> ids = workspace.rare_ids.ids().subspan(miss.first_id, miss.id_count);
    const bool is_short = pretoken.size() <= PretokenKey::kLongest;
    if (is_short) {
        const PretokenKey& key = workspace.keys[miss.index];
        ShortPretokenCache::Slot* const home = workspace.homes[miss.index];
        // It is there if it occurs twice among the misses, or if it has many ids and these were forgotten.
        if (!workspace.short_pretokens.find(home, key)) workspace.short_pretokens.insert(home, key, ids);
    }
    const bool lies_in_slot = is_short && ids.size() <= ShortPretokenCache::kMostIds;
    if (lies_in_slot || pretoken.size() > LongPretokenCache::kLongest) return;
    const uint64_t hash = miss.hash != 0 ? miss.hash : hash_bytes(pretoken.data(), pretoken.size());
    workspace.long_pretokens.insert(pretoken, hash, ids);
}

// Pretokens that are in no cache.
template <typename Lanes>
void BpeEncoder::merge_misses(Lanes& lanes, const Pretokens& pretokens, std::span<Miss* const> misses,
                              Workspace& workspace) const {
    if (!whole_.empty()) {
        for (Miss* const miss : misses) {
            set_ids(*miss, merged_ids(pretokens[miss->index], workspace), workspace);
            remember(pretokens[miss->index], *miss, workspace);
        }
        return;
    }
    lanes.merge(
        merges_, misses.size(), [&](size_t i) { return pretokens[misses[i]->index]; },
        [&](size_t i, const auto& lane) {
            std::array<uint32_t, Lanes::Lane::kMostBytes> ids;
            size_t count = 0;
            lane.for_each_symbol([&](uint32_t symbol) { ids[count++] = id_of(symbol); });
            set_ids(*misses[i], {ids.data(), count}, workspace);
            remember(pretokens[misses[i]->index], *misses[i], workspace);
        });
}

uint32_t BpeEncoder::id_of(uint32_t symbol) const {
    const uint32_t id = merges_.id(symbol);
    if (id == kNoRank) throw MissingByteError(static_cast<uint8_t>(symbol));
    return id;
}

std::span<const uint32_t> BpeEncoder::merged_ids(std::span<const uint8_t> pretoken, Workspace& workspace) const {
    if (!whole_.empty()) {
        const auto token = whole_.find(std::string(pretoken.begin(), pretoken.end()));
        if (token != whole_.end()) return {&token->second, 1};
    }
    const std::span<uint32_t> symbols = merge_pretoken(merges_, pretoken, workspace.scratch);
    for (uint32_t& symbol : symbols) symbol = id_of(symbol);
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
