// Error of a text with a byte that the vocabulary lacks.
#pragma once

#include <cstdint>
#include <stdexcept>

namespace groundup {

// The vocabulary has no token for a byte of the text.
class MissingByteError : public std::runtime_error {
   public:
    explicit MissingByteError(uint8_t byte);
};

}  // namespace groundup
