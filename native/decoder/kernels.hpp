// Matmuls of a few rows, attention to a cache, and the elementwise parts of a step, for one instruction set each.
#pragma once

#include "decoder.hpp"

namespace groundup {

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
};

extern const Kernels kPortable, kAvx2, kAvx512;

}  // namespace groundup
