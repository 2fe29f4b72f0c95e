// Trainer of byte-pair encoding: learns merges from counted pretokens (Sennrich, Haddow and Birch 2016; on bytes as in
// Radford et al. 2019).
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "heartbeat.hpp"
#include "pair_queue.hpp"
#include "pair_table.hpp"
#include "pretoken_counts.hpp"
#include "token_order.hpp"

namespace groundup {

struct TrainerOptions {
    size_t merge_limit;
    TieRule tie_rule = TieRule::Bytes;
    uint64_t min_frequency = 1;              // rarer pairs do not merge
    size_t max_token_length = SIZE_MAX;  // pairs that make longer tokens do not merge
};

using Merges = std::vector<std::pair<uint32_t, uint32_t>>;

// All distinct pretokens are concatenated in a sequence of positions, one a byte. A token is stored at the first
// position that it covers; the second and the last position hold its length. So the neighbours of a token are found in
// one step on either side, and a merge moves no data.
class BpeTrainer {
   public:
    BpeTrainer(const PretokenCounts& pretokens, const TrainerOptions& options, const Heartbeat& heartbeat);

    // Merges the most frequent pair of neighbours repeatedly, until the limit is reached or no pair is left. Token
    // 256 + i is the product of merge i. `heartbeat` gets the number of merges made.
    Merges learn(const Heartbeat& heartbeat);

   private:
    using Position = uint32_t;

    static constexpr uint32_t kLength = uint32_t{1} << 31;  // a length, not a token
    static constexpr uint32_t kBorder = kLength - 1;        // between pretokens, and at both ends

    // Token and pretoken of a position, in one cache line.
    struct Place {
        uint32_t token;
        uint32_t pretoken;  // its count applies
    };

    // New pairs with the product of a merge, grouped by the other token of the pair.
    struct Side {
        struct Neighbour {
            uint64_t count = 0;
            uint32_t places = 0;
            uint32_t pair = 0;
        };
        std::vector<Neighbour> of_token;                    // by token; only those in `tokens` are set
        std::vector<uint32_t> tokens;                       // neighbours, in order of their first occurrence
        std::vector<std::pair<uint32_t, Position>> places;  // neighbour, and start of the new pair

        void meet(uint32_t token, Position position, uint64_t count);
    };

    Position right_of(Position position) const;
    Position left_of(Position position) const;

    void lay_out(const PretokenCounts& pretokens, PacedHeartbeat& heartbeat);
    void index_pairs(PacedHeartbeat& heartbeat);
    template <typename Look>
    void merge_everywhere(uint32_t pair, uint32_t product, Look&& look);
    void add_new_pairs(Side& side, uint32_t product, bool product_is_left);
    void forget_old_pairs(const Side& side, uint32_t token, bool token_is_left);
    bool may_merge(uint32_t left, uint32_t right) const;

    TrainerOptions options_;
    std::vector<Place> places_;
    std::vector<uint64_t> count_;  // by pretoken
    TokenOrder order_;
    PairTable pairs_;
    PairQueue queue_;
    Side left_side_, right_side_;
};

}  // namespace groundup
