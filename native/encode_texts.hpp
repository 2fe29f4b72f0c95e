// Encoding of many texts, or one large text, on several threads.
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
    IdBuffer ids;                // of all texts, concatenated
    std::vector<uint64_t> ends;  // end of the ids of each text
};

// The ids of each text, followed by `last` if given. The result does not depend on the number of threads. With one
// thread there is no heartbeat.
EncodedTexts encode_texts(const BpeEncoder& encoder, const SpecialTokens& specials,
                          std::span<const std::span<const uint8_t>> texts, std::optional<uint32_t> last,
                          size_t thread_count, const Heartbeat& heartbeat);

// Number of ids of a text, in little memory.
uint64_t count_ids(const BpeEncoder& encoder, const SpecialTokens& specials, std::span<const uint8_t> text);

}  // namespace groundup
