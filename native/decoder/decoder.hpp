// One token of each sequence through a whole Transformer: what src/groundup/nn computes, without a call into Python.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "kernels.hpp"

namespace groundup {

struct Layer {
    Matrix qkv, output, up, down;  // `up` is W1 above W3 for SwiGLU, W1 alone for SiLU
    const float *norm1 = nullptr, *norm2 = nullptr, *q_norm = nullptr, *k_norm = nullptr;
};

enum class NormPlace { kPre, kPost, kNone };

struct Shape {
    size_t vocab_size, d_model, heads, kv_heads, head_size, d_ff;
    NormPlace norm;
    bool gated, rotates;
    float eps, embedding_scale;
};

class Decoder {
public:
    Decoder(Shape shape, std::vector<Layer> layers, Matrix embedding, Matrix head, const float* final_norm, int threads);

    void set_cache(std::vector<CacheView> layers, size_t capacity);
    void set_rotations(const float* cos, const float* sin) { cos_ = cos, sin_ = sin; }

    // Rows first_row, first_row + 1, … of the cache each take one token; logits (batch, vocab_size).
    void step(const int64_t* ids, const int64_t* positions, size_t batch, size_t first_row, float* logits);

private:
    void linear(const Matrix& w, const float* x, float* y);
    void norm(const float* gain, const float* x, float* y);
    void attention(size_t index, const float* x, float* y);
    void feed_forward(const Layer& layer, const float* x, float* y);
    void rotate(float* x, size_t position) const;
    void in_parallel(size_t work, const std::function<void(size_t, size_t, int)>& part);

    Shape shape_;
    std::vector<Layer> layers_;
    Matrix embedding_, head_;
    const float* final_norm_;
    const Kernels& kernels_;
    int threads_;
    std::vector<CacheView> cache_;
    size_t capacity_ = 0, batch_ = 0, first_row_ = 0;
    const float *cos_ = nullptr, *sin_ = nullptr;
    const int64_t* positions_ = nullptr;
    std::vector<float> x_, normed_, branch_, qkv_, attended_, up_, gated_;
    std::vector<std::vector<float>> scores_;
};

}  // namespace groundup
