// Many texts, or one large one, to ids on several threads.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "bpe_encoder.hpp"
#include "heartbeat.hpp"
#include "id_buffer.hpp"
#include "special_tokens.hpp"

namespace groundup {

struct EncodedTexts {
    IdBuffer ids;                // of all texts, one after the other
    std::vector<uint64_t> ends;  // where the ids of each text end
};

// The ids of each text, and `last` after them if it is given; the same for any number of threads. With one thread there
// is no heartbeat.
EncodedTexts encode_texts(const BpeEncoder& encoder, const SpecialTokens& specials,
                          std::span<const std::span<const uint8_t>> texts, std::optional<uint32_t> last,
                          size_t thread_count, const Heartbeat& heartbeat);

// How many ids encode_texts would give in all; in little memory.
uint64_t count_ids(const BpeEncoder& encoder, const SpecialTokens& specials, std::span<const uint8_t> text);

}  // namespace groundup
