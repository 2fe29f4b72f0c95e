// Learning the merges of byte-pair encoding from counted pretokens (Sennrich, Haddow and Birch 2016; on bytes as in
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

// All distinct pretokens lie one after the other in a sequence of positions, one position a byte. A token is kept at
// the first position it covers; the second and the last then hold its length, so that the neighbours of a token are
// found in one step either way, and a merge moves nothing.
class BpeTrainer {
   public:
    BpeTrainer(const PretokenCounts& pretokens, const TrainerOptions& options, const Heartbeat& heartbeat);

    // Again and again the most frequent pair of neighbours merges, until the limit is reached or no pair is left.
    // Token 256 + i is the product of merge i. `heartbeat` gets the number of merges made.
    Merges learn(const Heartbeat& heartbeat);

   private:
    using Position = uint32_t;

    static constexpr uint32_t kLength = uint32_t{1} << 31;  // a length, not a token
    static constexpr uint32_t kBorder = kLength - 1;        // between pretokens, and at both ends

    // What stands beside a token, in one place: reading it brings the neighbours along.
    struct Place {
        uint32_t token;
        uint32_t pretoken;  // whose count applies
    };

    // New pairs with the product of a merge, gathered by the token on the other side of them.
    struct Side {
        struct Neighbour {
            uint64_t count = 0;
            uint32_t places = 0;
            uint32_t pair = 0;
        };
        std::vector<Neighbour> of_token;                    // by token; empty but for those in `tokens`
        std::vector<uint32_t> tokens;                       // the neighbours met, in order
        std::vector<std::pair<uint32_t, Position>> places;  // neighbour, and where the new pair begins

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
