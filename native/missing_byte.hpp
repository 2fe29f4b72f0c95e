// The one thing that text can have and a vocabulary may lack.
#pragma once

#include <cstdint>
#include <stdexcept>

namespace groundup {

// Text needs a single byte that the vocabulary does not have.
class MissingByteError : public std::runtime_error {
   public:
    explicit MissingByteError(uint8_t byte);
};

}  // namespace groundup
