// The Python module groundup.generation._decoder. Its caller keeps every array alive (src/groundup/generation/native.py).
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/unique_ptr.h>
#include <nanobind/stl/vector.h>

#include <algorithm>

#include "decoder.hpp"

namespace nb = nanobind;
using namespace groundup;

namespace {

template <class T, size_t N>
using Array = nb::ndarray<T, nb::ndim<N>, nb::c_contig, nb::device::cpu>;
using Vector = std::optional<Array<float, 1>>;
using Table = Array<float, 2>;
using Stored = Array<float, 4>;
using Numbers = Array<const int64_t, 1>;
using Weight = nb::ndarray<nb::ndim<2>, nb::c_contig, nb::device::cpu>;

const float* pointer(const Vector& vector) { return vector ? vector->data() : nullptr; }

Matrix matrix(const Weight& weight, const Vector& scales, const Vector& bias) {
    const nb::dlpack::dtype type = weight.dtype();
    const Format format = type == nb::dtype<float>() ? Format::kFloat32
                          : type == nb::dtype<int8_t>() ? Format::kInt8
                                                        : Format::kBfloat16;  // as int16
    return {format, weight.data(), pointer(scales), pointer(bias), weight.shape(0), weight.shape(1)};
}

}  // namespace

NB_MODULE(_decoder, m) {
    m.def("kernels", &instruction_set);
    nb::class_<Matrix>(m, "Matrix")
        .def("__init__",
             [](Matrix* self, const Weight& weight, const Vector& scales, const Vector& bias) {
                 new (self) Matrix(matrix(weight, scales, bias));
             },
             nb::arg("weight"), nb::arg("scales").none(), nb::arg("bias").none());
    nb::class_<Layer>(m, "Layer").def(
        "__init__",
        [](Layer* self, const Matrix& qkv, const Matrix& output, const Matrix& up, const Matrix& down,
           const Vector& norm1, const Vector& norm2, const Vector& q_norm, const Vector& k_norm) {
            new (self) Layer{qkv, output, up, down, pointer(norm1), pointer(norm2), pointer(q_norm), pointer(k_norm)};
        },
        nb::arg("qkv"), nb::arg("output"), nb::arg("up"), nb::arg("down"), nb::arg("norm1").none(),
        nb::arg("norm2").none(), nb::arg("q_norm").none(), nb::arg("k_norm").none());
    nb::class_<Decoder>(m, "Decoder")
        .def("set_rotations",
             [](Decoder& self, const Table& cos, const Table& sin) { self.cos = cos.data(), self.sin = sin.data(); })
        .def("set_cache",
             [](Decoder& self, const std::vector<Stored>& keys, const std::vector<Stored>& values) {
                 Cache cache{{}, keys.at(0).shape(2)};
                 for (size_t i = 0; i < keys.size(); ++i)
                     cache.layers.push_back({keys[i].data(), values[i].data(), size_t(keys[i].stride(0)),
                                             size_t(keys[i].stride(1))});
                 self.cache = cache;
             })
        .def("step", [](Decoder& self, const Numbers& ids, const Numbers& positions, const Numbers& rows,
                        const Numbers& wanted, const Table& logits) {
            const nb::gil_scoped_release release;
            self.step(ids.data(), positions.data(), rows.data(), ids.shape(0), wanted.data(), wanted.shape(0),
                      logits.data());
        });
    m.def(
        "make_decoder",
        [](const std::vector<size_t>& sizes, int norm, bool gated, bool rotates, float eps, float embedding_scale,
           const std::vector<Layer>& layers, const Matrix& embedding, const Matrix& head, const Vector& final_norm,
           int threads) {
            return make_decoder({sizes[0], sizes[1], sizes[2], sizes[3], sizes[4], sizes[5],
                                 static_cast<NormPlace>(norm), gated, rotates, eps, embedding_scale, layers, embedding,
                                 head, pointer(final_norm)},
                                std::max(1, threads));
        },
        nb::arg("sizes"), nb::arg("norm"), nb::arg("gated"), nb::arg("rotates"), nb::arg("eps"),
        nb::arg("embedding_scale"), nb::arg("layers"), nb::arg("embedding"), nb::arg("head"),
        nb::arg("final_norm").none(), nb::arg("threads"));
}
