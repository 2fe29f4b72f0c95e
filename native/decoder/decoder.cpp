#include "decoder.hpp"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <string_view>
#include <thread>

namespace groundup {

const Kernels& best_kernels() {
#if defined(__x86_64__) && !defined(_MSC_VER)
    const char* chosen = std::getenv("GROUNDUP_SIMD");
    const std::string_view wanted = chosen ? chosen : "";
    const auto is_wanted = [&](std::string_view name) { return wanted.empty() || wanted == name; };
    if (is_wanted("avx512") && __builtin_cpu_supports("avx512bw")) return kAvx512Kernels;
    if (is_wanted("avx2") && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return kAvx2Kernels;
#endif
    return kPortableKernels;
}

Decoder::Decoder(Shape shape, std::vector<Layer> layers, Matrix embedding, Matrix head, const float* final_norm,
                 int threads)
    : shape_(shape), layers_(std::move(layers)), embedding_(embedding), head_(head), final_norm_(final_norm),
      kernels_(best_kernels()), threads_(std::max(1, threads)), scores_(threads_) {}

void Decoder::set_cache(std::vector<CacheView> layers, size_t capacity) {
    cache_ = std::move(layers);
    capacity_ = capacity;
    for (auto& scores : scores_) scores.resize(capacity);
}

void Decoder::in_parallel(size_t work, const std::function<void(size_t, size_t, int)>& part) {
    if (threads_ == 1) return part(0, work, 0);
    std::vector<std::thread> others;
    const size_t each = (work + threads_ - 1) / threads_;
    for (int i = 1; i < threads_; ++i)
        others.emplace_back([&, i] { part(std::min(work, i * each), std::min(work, (i + 1) * each), i); });
    part(0, std::min(work, each), 0);
    for (auto& other : others) other.join();
}

void Decoder::linear(const Matrix& w, const float* x, float* y) {
    in_parallel((w.rows + 3) / 4, [&](size_t first, size_t last, int) {
        kernels_.linear(w, x, batch_, y, first * 4, std::min(w.rows, last * 4));
    });
}

void Decoder::norm(const float* gain, const float* x, float* y) {
    for (size_t b = 0; b < batch_; ++b)
        kernels_.rms_norm(x + b * shape_.d_model, gain, shape_.eps, shape_.d_model, y + b * shape_.d_model);
}

void Decoder::rotate(float* x, size_t position) const {
    const float* cos = cos_ + position * (shape_.head_size / 2);
    const float* sin = sin_ + position * (shape_.head_size / 2);
    for (size_t i = 0; i < shape_.head_size / 2; ++i) {
        const float even = x[2 * i], odd = x[2 * i + 1];
        x[2 * i] = even * cos[i] - odd * sin[i];
        x[2 * i + 1] = even * sin[i] + odd * cos[i];
    }
}

void Decoder::attention(size_t index, const float* x, float* y) {
    const Layer& layer = layers_[index];
    const CacheView& cache = cache_[index];
    const size_t size = shape_.head_size, heads = shape_.heads, kv_heads = shape_.kv_heads;
    linear(layer.qkv, x, qkv_.data());
    in_parallel(batch_ * kv_heads, [&](size_t first, size_t last, int thread) {
        for (size_t unit = first; unit < last; ++unit) {
            const size_t b = unit / kv_heads, group = unit % kv_heads, shared = heads / kv_heads;
            const size_t position = positions_[b], slot = position % capacity_;
            const size_t seen = std::min(position + 1, capacity_);
            float* q = qkv_.data() + b * layer.qkv.rows;
            float* k = q + (heads + group) * size;
            const float* v = q + (heads + kv_heads + group) * size;
            const auto prepared = [&](float* head, const float* gain) {
                if (gain) kernels_.rms_norm(head, gain, shape_.eps, size, head);
                if (shape_.rotates) rotate(head, position);
            };
            prepared(k, layer.k_norm);
            const size_t place = (first_row_ + b) * cache.row_stride + group * cache.head_stride;
            std::copy(k, k + size, cache.keys + place + slot * size);
            std::copy(v, v + size, cache.values + place + slot * size);
            for (size_t head = group * shared; head < (group + 1) * shared; ++head) {
                prepared(q + head * size, layer.q_norm);
                kernels_.attend(q + head * size, cache.keys + place, cache.values + place, seen, size,
                                scores_[thread].data(), attended_.data() + (b * heads + head) * size);
            }
        }
    });
    linear(layer.output, attended_.data(), y);
}

void Decoder::feed_forward(const Layer& layer, const float* x, float* y) {
    linear(layer.up, x, up_.data());
    for (size_t b = 0; b < batch_; ++b) {
        const float* a = up_.data() + b * layer.up.rows;
        kernels_.gate(a, shape_.gated ? a + shape_.d_ff : nullptr, shape_.d_ff, gated_.data() + b * shape_.d_ff);
    }
    linear(layer.down, gated_.data(), y);
}

void Decoder::step(const int64_t* ids, const int64_t* positions, size_t batch, size_t first_row, float* logits) {
    batch_ = batch, first_row_ = first_row, positions_ = positions;
    const size_t width = shape_.d_model;
    const auto fit = [&](std::vector<float>& buffer, size_t size) { buffer.resize(std::max(buffer.size(), batch * size)); };
    for (auto* buffer : {&x_, &normed_, &branch_}) fit(*buffer, width);
    fit(qkv_, (shape_.heads + 2 * shape_.kv_heads) * shape_.head_size);
    fit(attended_, shape_.heads * shape_.head_size);
    fit(up_, (shape_.gated ? 2 : 1) * shape_.d_ff);
    fit(gated_, shape_.d_ff);
    const float* table = static_cast<const float*>(embedding_.data);
    for (size_t b = 0; b < batch; ++b)
        for (size_t i = 0; i < width; ++i) x_[b * width + i] = table[ids[b] * width + i] * shape_.embedding_scale;
    const auto sublayer = [&](const float* gain, const auto& compute) {
        const float* input = x_.data();
        if (shape_.norm == NormPlace::kPre) {
            norm(gain, x_.data(), normed_.data());
            input = normed_.data();
        }
        compute(input, branch_.data());
        for (size_t i = 0; i < batch * width; ++i) x_[i] += branch_[i];
        if (shape_.norm == NormPlace::kPost) norm(gain, x_.data(), x_.data());
    };
    for (size_t i = 0; i < layers_.size(); ++i) {
        sublayer(layers_[i].norm1, [&](const float* x, float* y) { attention(i, x, y); });
        sublayer(layers_[i].norm2, [&](const float* x, float* y) { feed_forward(layers_[i], x, y); });
    }
    if (final_norm_) norm(final_norm_, x_.data(), x_.data());
    linear(head_, x_.data(), logits);
}

}  // namespace groundup
