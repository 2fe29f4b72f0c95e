// Learning the merges of byte-pair encoding from counted pretokens (Sennrich, Haddow and Birch 2016; on bytes as in
// Radford et al. 2019).
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "heartbeat.hpp"
#include "pair_table.hpp"
#include "pretoken_counts.hpp"

namespace groundup {

// All distinct pretokens lie one after the other in a sequence of positions, one position a byte. A token covers a
// stretch of positions, is kept at the first of them, and notes its length at the first and at the last: so the
// neighbours of a token are found in one step either way, and a merge moves nothing.
class BpeTrainer {
   public:
    explicit BpeTrainer(const PretokenCounts& pretokens, const Heartbeat& heartbeat);

    // The most frequent pair, and of equally frequent ones the greatest as a pair of byte strings, merges; until
    // `merge_limit` merges are made or no pair is left. Token 256 + i is the product of merge i. `heartbeat` gets the
    // number of merges made.
    std::vector<std::pair<uint32_t, uint32_t>> learn(size_t merge_limit, const Heartbeat& heartbeat);

   private:
    using Position = uint32_t;

    static constexpr uint32_t kBorder = UINT32_MAX;      // between pretokens, and at both ends
    static constexpr uint32_t kInside = UINT32_MAX - 1;  // a position that a token covers but does not begin at

    // What a pair's count was when the entry was made. Counts only fall afterwards, so the entry on top is either
    // right or too high; then it goes back with the count of today.
    struct QueueEntry {
        uint64_t count;
        uint32_t pair;
    };

    Position right_of(Position position) const { return position + span_[position]; }
    Position left_of(Position position) const { return position - span_[position - 1]; }

    void lay_out(const PretokenCounts& pretokens, PacedHeartbeat& heartbeat);
    void index_pairs(PacedHeartbeat& heartbeat);
    void add_pair(Position position, uint32_t left, uint32_t right);
    void remove_pair(Position position, uint32_t left, uint32_t right);
    void merge_everywhere(uint32_t pair, uint32_t product);
    void merge_at(Position left, Position right, uint32_t product);
    uint32_t take_most_frequent();
    void enqueue(uint32_t pair);
    bool comes_later(const QueueEntry& a, const QueueEntry& b) const;

    std::vector<uint32_t> token_;            // by position
    std::vector<uint32_t> span_;             // by position
    std::vector<uint32_t> pretoken_;         // by position: whose count applies
    std::vector<uint64_t> count_;            // by pretoken
    std::vector<std::string> token_bytes_;   // by token
    PairTable pairs_;
    std::vector<QueueEntry> queue_;          // a heap
};

}  // namespace groundup
