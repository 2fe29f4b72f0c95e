// Part of BpeEncoder for the few pretokens that the first look-up does not find. A separate file, so that the compiler
// does not trade the speed of the common case for it.
#include <algorithm>
#include <array>
#include <cstring>

#include "bpe_encoder.hpp"

namespace groundup {

// Stores the misses of one look-up; `ids_before` ids precede them.
void BpeEncoder::collect_misses(std::span<const Missed> missed, const uint8_t* text, size_t begin,
                                std::span<const uint64_t> ends, size_t ids_before, Workspace& workspace) {
    for (const auto [index, ids_between] : missed) {
        ShortPretokenCache::Slot* const home = workspace.homes[index];
        // The other slots are in the cache when the miss is handled.
        workspace.short_pretokens.prefetch_others(home);
        const size_t start = index == 0 ? begin : ends[index - 1];
        workspace.misses[workspace.miss_count++] = {text + start, ends[index] - start, workspace.keys[index], home,
                                                    ids_before + ids_between, 0, 0, 0};
    }
}

void BpeEncoder::insert_misses(Workspace& workspace, IdBuffer& ids) const {
    if (workspace.miss_count == 0) return;
    const std::span<Miss> misses(workspace.misses.data(), workspace.miss_count);
    encode_misses(misses, workspace);
    insert_ids(ids, misses, workspace);
    workspace.miss_count = 0;
    workspace.short_pretokens.grow_if_full();
}

// Inserts the ids of the misses between the other ids.
void BpeEncoder::insert_ids(IdBuffer& ids, std::span<const Miss> misses, Workspace& workspace) {
    constexpr size_t kMostIds = ShortPretokenCache::kMostIds;
    const size_t unmoved = misses[0].ids_before, found = ids.size();
    IdBuffer& moved = workspace.moved;
    moved.clear();
    moved.make_room(found - unmoved + 1);  // never 0, so that there is memory even if no id is moved
    moved.append(ids.ids().subspan(unmoved));
    ids.make_room(workspace.rare_ids.size() + kMostIds);
    uint32_t* next = ids.data() + unmoved;
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

// Encodes pretokens that are long, have many ids, are new, or share their slots with others. All of them together, so
// that their cache misses overlap and their merges are interleaved.
void BpeEncoder::encode_misses(std::span<Miss> misses, Workspace& workspace) const {
    ShortPretokenCache& cache = workspace.short_pretokens;
    workspace.rare_ids.clear();
    workspace.rare_ids.make_room(ShortPretokenCache::kMostIds * (misses.size() + 1));
    size_t unseen = 0, others = 0;
    for (Miss& miss : misses) {
        if (miss.size <= PretokenKey::kLongest) {
            if (!cache.find(miss.home, miss.key)) {
                workspace.unseen[unseen++] = &miss;
                continue;
            }
            if (miss.home->key == miss.key) {
                std::array<uint32_t, ShortPretokenCache::kMostIds> ids;
                set_ids(miss, {ids.data(), miss.home->copy_ids(ids.data())}, workspace);
                continue;
            }
        }
        if (miss.size <= LongPretokenCache::kLongest) {
            miss.hash = hash_bytes(miss.bytes, miss.size);
            workspace.long_pretokens.prefetch(miss.hash);
        }
        workspace.others[others++] = &miss;
    }
    merge_misses(workspace.lanes, {workspace.unseen.data(), unseen}, workspace);
    unseen = 0;
    for (Miss* const miss : std::span(workspace.others.data(), others)) {
        const std::span<const uint8_t> pretoken = miss->pretoken();
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
            remember(*miss, workspace);
        }
    }
    merge_misses(workspace.scratch.lanes, {workspace.unseen.data(), unseen}, workspace);
    workspace.rare_ids.make_room(ShortPretokenCache::kMostIds);
}

void BpeEncoder::set_ids(Miss& miss, std::span<const uint32_t> ids, Workspace& workspace) {
    miss.first_id = static_cast<uint32_t>(workspace.rare_ids.size());
    miss.id_count = static_cast<uint32_t>(ids.size());
    workspace.rare_ids.append(ids);
}

// Stores the ids of a miss in a cache.
void BpeEncoder::remember(const Miss& miss, Workspace& workspace) {
    const std::span<const uint8_t> pretoken = miss.pretoken();
    const std::span<const uint32_t> ids = workspace.rare_ids.ids().subspan(miss.first_id, miss.id_count);
    const bool is_short = pretoken.size() <= PretokenKey::kLongest;
    if (is_short) {
        // It is in the cache already if it occurs twice among the misses, or if it has many ids that were evicted.
        ShortPretokenCache& cache = workspace.short_pretokens;
        if (!cache.find(miss.home, miss.key)) cache.insert(miss.home, miss.key, ids);
    }
    const bool lies_in_slot = is_short && ids.size() <= ShortPretokenCache::kMostIds;
    if (lies_in_slot || pretoken.size() > LongPretokenCache::kLongest) return;
    const uint64_t hash = miss.hash != 0 ? miss.hash : hash_bytes(pretoken.data(), pretoken.size());
    workspace.long_pretokens.insert(pretoken, hash, ids);
}

// Encodes pretokens that are in no cache.
template <typename Lanes>
void BpeEncoder::merge_misses(Lanes& lanes, std::span<Miss* const> misses, Workspace& workspace) const {
    if (merges_one_by_one()) {
        for (Miss* const miss : misses) {
            set_ids(*miss, merged_ids(miss->pretoken(), workspace), workspace);
            remember(*miss, workspace);
        }
        return;
    }
    lanes.merge(
        merges_, misses.size(),
        [&](size_t i) {
            return Lanes::Lane::kMostBytes <= PretokenKey::kLongest ? misses[i]->key.view() : misses[i]->pretoken();
        },
        [&](size_t i, const auto& lane) {
            IdBuffer& ids = workspace.rare_ids;
            ids.make_room(Lanes::Lane::kMostBytes);
            uint32_t* next = ids.end();
            lane.for_each_symbol([&](uint32_t symbol) { *next++ = id_of(symbol); });
            misses[i]->first_id = static_cast<uint32_t>(ids.size());
            misses[i]->id_count = static_cast<uint32_t>(next - ids.end());
            ids.advance(misses[i]->id_count);
            remember(*misses[i], workspace);
        });
}

std::span<const uint32_t> BpeEncoder::merged_ids(std::span<const uint8_t> pretoken, Workspace& workspace) const {
    if (characters_) return characters_->ids(pretoken, workspace.scratch);
    if (!whole_.empty()) {
        const auto token = whole_.find(std::string(pretoken.begin(), pretoken.end()));
        if (token != whole_.end()) return {&token->second, 1};
    }
    const std::span<uint32_t> symbols = merge_pretoken(merges_, pretoken, workspace.scratch);
    for (uint32_t& symbol : symbols) symbol = id_of(symbol);
    return symbols;
}

}  // namespace groundup
