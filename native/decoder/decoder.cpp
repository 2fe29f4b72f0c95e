#include "decoder.hpp"

#include <algorithm>
#include <cstdlib>
#include <string_view>
#include <utility>

#include "kernels.hpp"
#include "threads.hpp"

namespace groundup {
namespace {

class DecoderOf final : public Decoder {
public:
    DecoderOf(Model model, const Kernels& kernels, int threads)
        : m_(std::move(model)), k_(kernels), team_(threads), scores_(threads) {}

    void step(const int64_t* ids, const int64_t* positions, const int64_t* rows, size_t batch, const int64_t* wanted,
              size_t count, float* logits) override {
        batch_ = batch, rows_ = rows, positions_ = positions;
        const size_t width = m_.d_model;
        const auto fit = [&](auto& buffer, size_t size) { buffer.resize(std::max(buffer.size(), batch * size)); };
        for (auto* buffer : {&x_, &normed_, &branch_}) fit(*buffer, width);
        fit(qkv_, (m_.heads + 2 * m_.kv_heads) * m_.head_size);
        fit(attended_, m_.heads * m_.head_size);
        fit(up_, (m_.gated ? 2 : 1) * m_.d_ff);
        fit(gated_, m_.d_ff);
        for (auto& scores : scores_) scores.resize(cache.capacity);
        const float* table = static_cast<const float*>(m_.embedding.data);
        for (size_t b = 0; b < batch; ++b)
            for (size_t i = 0; i < width; ++i) x_[b * width + i] = table[ids[b] * width + i] * m_.embedding_scale;
        const auto sublayer = [&](const float* gain, const auto& compute) {
            const float* input = x_.data();
            if (m_.norm == NormPlace::kPre) {
                norm(gain, x_.data(), normed_.data());
                input = normed_.data();
            }
            compute(input, branch_.data());
            for (size_t i = 0; i < batch * width; ++i) x_[i] += branch_[i];
            if (m_.norm == NormPlace::kPost) norm(gain, x_.data(), x_.data());
        };
        for (size_t i = 0; i < m_.layers.size(); ++i) {
            sublayer(m_.layers[i].norm1, [&](const float* x, float* y) { attention(i, x, y); });
            sublayer(m_.layers[i].norm2, [&](const float* x, float* y) { feed_forward(m_.layers[i], x, y); });
        }
        for (size_t i = 0; i < count; ++i)
            std::copy_n(x_.data() + wanted[i] * width, width, normed_.data() + i * width);
        batch_ = count;
        if (m_.final_norm) norm(m_.final_norm, normed_.data(), normed_.data());
        linear(m_.head, normed_.data(), logits);
    }

private:
    void linear(const Matrix& w, const float* x, float* y) {
        team_.run((w.rows + 3) / 4, [&](size_t first, size_t last, int) {
            k_.linear(w, x, batch_, y, first * 4, std::min(w.rows, last * 4));
        });
    }

    void norm(const float* gain, const float* x, float* y) {
        for (size_t b = 0; b < batch_ * m_.d_model; b += m_.d_model) k_.rms_norm(x + b, gain, m_.eps, m_.d_model, y + b);
    }

    void prepare(float* head, const float* gain, size_t position) const {
        const size_t pairs = m_.head_size / 2;
        if (gain) k_.rms_norm(head, gain, m_.eps, m_.head_size, head);
        for (size_t i = 0; m_.rotates && i < pairs; ++i) {
            const float even = head[2 * i], odd = head[2 * i + 1];
            const float c = cos[position * pairs + i], s = sin[position * pairs + i];
            head[2 * i] = even * c - odd * s;
            head[2 * i + 1] = even * s + odd * c;
        }
    }

    void attention(size_t index, const float* x, float* y) {
        const Layer& layer = m_.layers[index];
        const CacheView& view = cache.layers[index];
        const size_t size = m_.head_size, shared = m_.heads / m_.kv_heads;
        linear(layer.qkv, x, qkv_.data());
        const auto place = [&](size_t b, size_t group) { return rows_[b] * view.row_stride + group * view.head_stride; };
        for (size_t b = 0; b < batch_; ++b)
            for (size_t group = 0; group < m_.kv_heads; ++group) {
                float* k = qkv_.data() + b * layer.qkv.rows + (m_.heads + group) * size;
                const size_t slot = place(b, group) + positions_[b] % cache.capacity * size;
                prepare(k, layer.k_norm, positions_[b]);
                std::copy_n(k, size, view.keys + slot);
                std::copy_n(k + m_.kv_heads * size, size, view.values + slot);
            }
        team_.run(batch_ * m_.kv_heads, [&](size_t first, size_t last, int thread) {
            for (size_t unit = first; unit < last; ++unit) {
                const size_t b = unit / m_.kv_heads, group = unit % m_.kv_heads, position = positions_[b];
                const size_t seen = std::min(position + 1, cache.capacity), begin = place(b, group);
                float* q = qkv_.data() + b * layer.qkv.rows;
                for (size_t head = group * shared; head < (group + 1) * shared; ++head) {
                    prepare(q + head * size, layer.q_norm, position);
                    k_.attend(q + head * size, view.keys + begin, view.values + begin, seen, size,
                              scores_[thread].data(), attended_.data() + (b * m_.heads + head) * size);
                }
            }
        });
        linear(layer.output, attended_.data(), y);
    }

    void feed_forward(const Layer& layer, const float* x, float* y) {
        linear(layer.up, x, up_.data());
        for (size_t b = 0; b < batch_; ++b) {
            const float* a = up_.data() + b * layer.up.rows;
            k_.gate(a, m_.gated ? a + m_.d_ff : nullptr, m_.d_ff, gated_.data() + b * m_.d_ff);
        }
        linear(layer.down, gated_.data(), y);
    }

    const Model m_;
    const Kernels& k_;
    Team team_;
    size_t batch_ = 0;
    const int64_t *rows_ = nullptr, *positions_ = nullptr;
    std::vector<float> x_, normed_, branch_, qkv_, attended_, up_, gated_;
    std::vector<std::vector<float>> scores_;
};

bool is_wanted(std::string_view name) {
    const char* chosen = std::getenv("GROUNDUP_SIMD");
    return chosen == nullptr || *chosen == 0 || name == chosen;
}

}  // namespace

const char* instruction_set() {
#if defined(__x86_64__) && !defined(_MSC_VER)
    if (is_wanted("avx512") && __builtin_cpu_supports("avx512bw")) return "avx512";
    if (is_wanted("avx2") && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return "avx2";
#endif
    return "portable";
}

std::unique_ptr<Decoder> make_decoder(Model model, int threads) {
    const Kernels* kernels = &kPortable;
#if defined(__x86_64__) && !defined(_MSC_VER)
    const std::string_view set = instruction_set();
    kernels = set == "avx512" ? &kAvx512 : set == "avx2" ? &kAvx2 : kernels;
#endif
    return std::make_unique<DecoderOf>(std::move(model), *kernels, threads);
}

}  // namespace groundup
