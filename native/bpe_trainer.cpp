#include "bpe_trainer.hpp"

#include <stdexcept>

namespace groundup {

static constexpr size_t kPlacesPerLook = size_t{1} << 16;  // positions between two readings of the clock

BpeTrainer::BpeTrainer(const PretokenCounts& pretokens, const TrainerOptions& options, const Heartbeat& heartbeat)
    : options_(options), order_(options.tie_rule) {
    const Heartbeat nothing_merged = [&heartbeat](uint64_t) { heartbeat(0); };
    PacedHeartbeat paced(nothing_merged);
    lay_out(pretokens, paced);
    index_pairs(paced);
}

BpeTrainer::Position BpeTrainer::right_of(Position position) const {
    const uint32_t next = places_[position + 1].token;
    return position + (next & kLength ? next & ~kLength : 1);
}

BpeTrainer::Position BpeTrainer::left_of(Position position) const {
    const uint32_t previous = places_[position - 1].token;
    return position - (previous & kLength ? previous & ~kLength : 1);
}

void BpeTrainer::lay_out(const PretokenCounts& pretokens, PacedHeartbeat& heartbeat) {
    const size_t place_count = pretokens.byte_count() + pretokens.size() + 1;
    if (place_count >= kBorder) throw std::length_error("the corpus has more than 2 GiB of distinct pretokens");
    places_.reserve(place_count);
    count_.reserve(pretokens.size());
    places_.push_back({kBorder, 0});
    pretokens.for_each([&](std::span<const uint8_t> bytes, uint64_t count) {
        const auto pretoken = static_cast<uint32_t>(count_.size());
        count_.push_back(count);
        for (const uint8_t byte : bytes) places_.push_back({byte, pretoken});
        places_.push_back({kBorder, pretoken});
        heartbeat(0);
    });
}

// Pairs of bytes fit in an array, so they are counted first; then each position is stored with its pair.
void BpeTrainer::index_pairs(PacedHeartbeat& heartbeat) {
    struct Found {
        uint64_t count = 0;
        uint32_t positions = 0;
        uint32_t pair = 0;
    };
    std::vector<Found> found(65536);
    const auto for_each_pair = [&](auto&& visit) {
        for (Position position = 0; position + 1 < places_.size(); ++position) {
            const uint32_t left = places_[position].token, right = places_[position + 1].token;
            if (position % kPlacesPerLook == 0) heartbeat.look(0);
            if (left != kBorder && right != kBorder) {
                visit(position, found[left << 8 | right]);
            }
        }
    };
    for_each_pair([&](Position position, Found& pair) {
        pair.count += count_[places_[position].pretoken];
        ++pair.positions;
    });
    for (uint32_t bytes = 0; bytes < found.size(); ++bytes) {
        Found& pair = found[bytes];
        if (pair.positions > 0) pair.pair = pairs_.add(bytes >> 8, bytes & 255, pair.count, pair.positions);
        pair.positions = 0;
    }
    for_each_pair([&](Position position, Found& pair) { pairs_.positions(pair.pair)[pair.positions++] = position; });
}

bool BpeTrainer::may_merge(uint32_t left, uint32_t right) const {
    return order_.length(left) + order_.length(right) <= options_.max_token_length;
}

void BpeTrainer::Side::meet(uint32_t token, Position position, uint64_t count) {
    Neighbour& neighbour = of_token[token];
    if (neighbour.places == 0) tokens.push_back(token);
    neighbour.count += count;
    ++neighbour.places;
    places.emplace_back(token, position);
}

// Positions come in ascending order, so overlapping occurrences (aaa) merge from the left: after the first, the
// position of the second no longer begins with the pair.
//
// Changes are grouped by neighbour first: a frequent pair occurs at many positions with few neighbours, and the table
// of pairs is looked up once for each neighbour. Every position with x before the pair (left, right) loses a pair (x,
// left) and gains a pair (x, product), so both have the same count; likewise after the pair.
template <typename Look>
void BpeTrainer::merge_everywhere(uint32_t pair, uint32_t product, Look&& look) {
    constexpr size_t kFarAhead = 24, kAhead = 12;
    const uint32_t left_token = pairs_[pair].left, right_token = pairs_[pair].right;
    left_side_.of_token.resize(product + 1);
    right_side_.of_token.resize(product + 1);
    const std::span<const Position> positions = pairs_.positions(pair);
    for (size_t i = 0; i < positions.size(); ++i) {
        if (i % kPlacesPerLook == kPlacesPerLook - 1) look();
        if (i + kFarAhead < positions.size()) {
            __builtin_prefetch(&places_[positions[i + kFarAhead]], 1);
            __builtin_prefetch(&count_[places_[positions[i + kAhead]].pretoken]);
        }
        const Position left = positions[i];
        if (places_[left].token != left_token) continue;
        const Position right = right_of(left);
        if (places_[right].token != right_token) continue;
        const Position next = right_of(right);
        const uint64_t count = count_[places_[left].pretoken];
        if (places_[left - 1].token != kBorder) {
            const Position previous = left_of(left);
            left_side_.meet(places_[previous].token, previous, count);
        }
        if (places_[next].token != kBorder) right_side_.meet(places_[next].token, left, count);
        places_[left].token = product;
        places_[right].token = kLength;  // no token begins here any more, even if the next line does not write here
        places_[left + 1].token = places_[next - 1].token = kLength | (next - left);
    }
    add_new_pairs(left_side_, product, false);
    add_new_pairs(right_side_, product, true);
    forget_old_pairs(left_side_, left_token, false);
    forget_old_pairs(right_side_, right_token, true);
    pairs_[pair].count = 0;
    for (Side* side : {&left_side_, &right_side_}) {
        for (const uint32_t token : side->tokens) side->of_token[token] = {};
        side->tokens.clear();
        side->places.clear();
    }
}

void BpeTrainer::add_new_pairs(Side& side, uint32_t product, bool product_is_left) {
    for (const uint32_t token : side.tokens) {
        Side::Neighbour& neighbour = side.of_token[token];
        neighbour.pair = product_is_left ? pairs_.add(product, token, neighbour.count, neighbour.places)
                                         : pairs_.add(token, product, neighbour.count, neighbour.places);
        neighbour.places = 0;
    }
    for (const auto& [token, position] : side.places) {
        Side::Neighbour& neighbour = side.of_token[token];
        pairs_.positions(neighbour.pair)[neighbour.places++] = position;
    }
}

void BpeTrainer::forget_old_pairs(const Side& side, uint32_t token, bool token_is_left) {
    for (const uint32_t other : side.tokens) {
        const uint32_t pair = token_is_left ? pairs_.find(token, other) : pairs_.find(other, token);
        pairs_[pair].count -= side.of_token[other].count;
    }
}

Merges BpeTrainer::learn(const Heartbeat& heartbeat) {
    Merges merges;
    PacedHeartbeat paced(heartbeat);
    const uint64_t least = std::max<uint64_t>(options_.min_frequency, 1);
    while (merges.size() < options_.merge_limit) {
        const uint32_t pair =
            queue_.take(pairs_, order_, least, [this](uint32_t left, uint32_t right) { return may_merge(left, right); });
        if (pair == PairTable::kNone) break;
        const uint32_t left = pairs_[pair].left, right = pairs_[pair].right;
        merges.emplace_back(left, right);
        const uint32_t product = order_.size();
        order_.add_product(left, right);
        const uint32_t first_new_pair = pairs_.size();
        merge_everywhere(pair, product, [&] { paced.look(merges.size()); });
        // Only pairs with the product have become more frequent, and all of them are new.
        for (uint32_t created = first_new_pair; created < pairs_.size(); ++created) queue_.add(created, pairs_, order_);
        paced(merges.size());
    }
    heartbeat(merges.size());
    return merges;
}

}  // namespace groundup
