// Matmuls of a few rows, attention to a cache, and the elementwise parts of a decoder step, for one instruction set each.
#pragma once

#include <cstddef>
#include <cstdint>

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

// Keys and values of one layer, (row, head, slot, feature).
struct CacheView {
    float *keys, *values;
    size_t row_stride, head_stride;
};

struct Kernels {
    // y[b][r] = W x[b] + bias for r in [first, last); x (batch, columns), y (batch, rows).
    void (*linear)(const Matrix& w, const float* x, size_t batch, float* y, size_t first, size_t last);
    // softmax(q k / sqrt(size)) v over the first `seen` slots of one head.
    void (*attend)(const float* q, const float* keys, const float* values, size_t seen, size_t size, float* scores,
                   float* out);
    // y = x / sqrt(mean(x^2) + eps) * gain; y may be x.
    void (*rms_norm)(const float* x, const float* gain, float eps, size_t size, float* y);
    // y = silu(a) * b, or silu(a) without b.
    void (*gate)(const float* a, const float* b, size_t size, float* y);
    const char* name;
};

extern const Kernels kPortableKernels, kAvx2Kernels, kAvx512Kernels;

// The fastest that this processor runs; GROUNDUP_SIMD chooses another, as for the tokenizer.
const Kernels& best_kernels();

}  // namespace groundup
