// One token of each sequence through a whole Transformer: what src/groundup/nn computes, without a call into Python.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

namespace groundup {

enum class Format { kFloat32, kBfloat16, kInt8 };

// A weight matrix (rows, columns), row by row. With int8 each row has a scale: weight = scale * int8.
struct Matrix {
    Format format = Format::kFloat32;
    const void* data = nullptr;
    const float* scales = nullptr;
    const float* bias = nullptr;
    size_t rows = 0, columns = 0;
};

struct Layer {
    Matrix qkv, output, up, down;  // `up` is W1 above W3 for SwiGLU, W1 alone for SiLU
    const float *norm1 = nullptr, *norm2 = nullptr, *q_norm = nullptr, *k_norm = nullptr;
};

enum class NormPlace { kPre, kPost, kNone };

struct Model {
    size_t vocab_size, d_model, heads, kv_heads, head_size, d_ff;
    NormPlace norm;
    bool gated, rotates;
    float eps, embedding_scale;
    std::vector<Layer> layers;
    Matrix embedding, head;
    const float* final_norm;
};

// Keys and values of one layer, (row, head, slot, feature).
struct CacheView {
    float *keys, *values;
    size_t row_stride, head_stride;
};

struct Cache {
    std::vector<CacheView> layers;
    size_t capacity = 0;
};

class Decoder {
public:
    virtual ~Decoder() = default;
    Cache cache;
    const float *cos = nullptr, *sin = nullptr;  // (positions, head_size / 2)

    // `batch` tokens, each with its position and its row of the cache; those of one row in their order. Logits
    // (count, vocab_size) are those after the tokens with the numbers `wanted`.
    virtual void step(const int64_t* ids, const int64_t* positions, const int64_t* rows, size_t batch,
                      const int64_t* wanted, size_t count, float* logits) = 0;
};

// The fastest instruction set that this processor has; GROUNDUP_SIMD chooses another, as for the tokenizer.
const char* instruction_set();
std::unique_ptr<Decoder> make_decoder(Model model, int threads);

}  // namespace groundup
