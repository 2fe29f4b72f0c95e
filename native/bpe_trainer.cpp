#include "bpe_trainer.hpp"

#include <algorithm>
#include <stdexcept>

namespace groundup {

BpeTrainer::BpeTrainer(const PretokenCounts& pretokens, const Heartbeat& heartbeat) {
    for (int byte = 0; byte < 256; ++byte) token_bytes_.emplace_back(1, static_cast<char>(byte));
    const Heartbeat nothing_merged = [&heartbeat](uint64_t) { heartbeat(0); };
    PacedHeartbeat paced(nothing_merged);
    lay_out(pretokens, paced);
    index_pairs(paced);
}

void BpeTrainer::lay_out(const PretokenCounts& pretokens, PacedHeartbeat& heartbeat) {
    const size_t position_count = pretokens.byte_count() + pretokens.size() + 1;
    if (position_count > kInside) {
        throw std::length_error("the corpus has more than 4 GiB of distinct pretokens");
    }
    token_.reserve(position_count);
    pretoken_.reserve(position_count);
    count_.reserve(pretokens.size());
    token_.push_back(kBorder);
    pretoken_.push_back(0);
    pretokens.for_each([&](std::span<const uint8_t> bytes, uint64_t count) {
        const auto pretoken = static_cast<uint32_t>(count_.size());
        count_.push_back(count);
        token_.insert(token_.end(), bytes.begin(), bytes.end());
        token_.push_back(kBorder);
        pretoken_.insert(pretoken_.end(), bytes.size() + 1, pretoken);
        heartbeat(0);
    });
    span_.assign(token_.size(), 1);
}

void BpeTrainer::index_pairs(PacedHeartbeat& heartbeat) {
    for (Position position = 0; position + 1 < token_.size(); ++position) {
        if (token_[position] == kBorder) {
            heartbeat(0);
        } else if (token_[position + 1] != kBorder) {
            add_pair(position, token_[position], token_[position + 1]);
        }
    }
    for (uint32_t pair = 0; pair < pairs_.size(); ++pair) enqueue(pair);
}

std::vector<std::pair<uint32_t, uint32_t>> BpeTrainer::learn(size_t merge_limit, const Heartbeat& heartbeat) {
    std::vector<std::pair<uint32_t, uint32_t>> merges;
    PacedHeartbeat paced(heartbeat);
    while (merges.size() < merge_limit) {
        const uint32_t pair = take_most_frequent();
        if (pair == PairTable::kNone) break;
        const uint32_t left = pairs_[pair].left, right = pairs_[pair].right;
        const auto product = static_cast<uint32_t>(token_bytes_.size());
        merges.emplace_back(left, right);
        token_bytes_.push_back(token_bytes_[left] + token_bytes_[right]);
        const uint32_t first_new_pair = pairs_.size();
        merge_everywhere(pair, product);
        // Only pairs with the product in them have become more frequent, and those are all new.
        for (uint32_t created = first_new_pair; created < pairs_.size(); ++created) enqueue(created);
        paced(merges.size());
    }
    heartbeat(merges.size());
    return merges;
}

// Positions come in ascending order, so overlapping occurrences (aaa) merge from the left: after the first, the
// position of the second no longer begins with the pair.
void BpeTrainer::merge_everywhere(uint32_t pair, uint32_t product) {
    const uint32_t left_token = pairs_[pair].left, right_token = pairs_[pair].right;
    const std::vector<Position> positions = std::move(pairs_[pair].positions);
    for (const Position left : positions) {
        if (token_[left] != left_token) continue;
        const Position right = right_of(left);
        if (token_[right] == right_token) merge_at(left, right, product);
    }
    pairs_[pair].count = 0;
    pairs_[pair].positions = {};
}

void BpeTrainer::merge_at(Position left, Position right, uint32_t product) {
    const Position next = right_of(right);
    if (token_[left - 1] != kBorder) {
        const Position previous = left_of(left);
        remove_pair(previous, token_[previous], token_[left]);
        add_pair(previous, token_[previous], product);
    }
    if (token_[next] != kBorder) {
        remove_pair(right, token_[right], token_[next]);
        add_pair(left, product, token_[next]);
    }
    token_[left] = product;
    token_[right] = kInside;
    span_[left] = span_[next - 1] = next - left;
}

void BpeTrainer::add_pair(Position position, uint32_t left, uint32_t right) {
    TokenPair& pair = pairs_[pairs_.number(left, right)];
    pair.count += count_[pretoken_[position]];
    pair.positions.push_back(position);
}

void BpeTrainer::remove_pair(Position position, uint32_t left, uint32_t right) {
    TokenPair& pair = pairs_[pairs_.number(left, right)];
    pair.count -= count_[pretoken_[position]];
    if (pair.count == 0) pair.positions = {};  // all of them are stale
}

uint32_t BpeTrainer::take_most_frequent() {
    const auto later = [this](const QueueEntry& a, const QueueEntry& b) { return comes_later(a, b); };
    while (!queue_.empty()) {
        std::pop_heap(queue_.begin(), queue_.end(), later);
        const QueueEntry entry = queue_.back();
        queue_.pop_back();
        if (entry.count == pairs_[entry.pair].count) return entry.pair;
        enqueue(entry.pair);
    }
    return PairTable::kNone;
}

void BpeTrainer::enqueue(uint32_t pair) {
    if (pairs_[pair].count == 0) return;
    queue_.push_back({pairs_[pair].count, pair});
    std::push_heap(queue_.begin(), queue_.end(),
                   [this](const QueueEntry& a, const QueueEntry& b) { return comes_later(a, b); });
}

bool BpeTrainer::comes_later(const QueueEntry& a, const QueueEntry& b) const {
    if (a.count != b.count) return a.count < b.count;
    const TokenPair &pair_a = pairs_[a.pair], &pair_b = pairs_[b.pair];
    if (pair_a.left != pair_b.left) return token_bytes_[pair_a.left] < token_bytes_[pair_b.left];
    return token_bytes_[pair_a.right] < token_bytes_[pair_b.right];
}

}  // namespace groundup
