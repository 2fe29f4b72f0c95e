// New NumPy arrays through NumPy's C API: calling numpy.empty takes longer than encoding a short text.
#pragma once

#include <nanobind/nanobind.h>
// Version of NumPy's C API, without deprecated functions.
#define NPY_NO_DEPRECATED_API NPY_1_23_API_VERSION
#include <numpy/arrayobject.h>

#include <cstdint>
#include <cstring>
#include <span>

namespace groundup {

inline nanobind::object copy_to_array(std::span<const uint32_t> ids) {
    // Imported here, so that this module can be imported without NumPy.
    if (PyArray_API == nullptr && _import_array() < 0) throw nanobind::python_error();
    npy_intp size = static_cast<npy_intp>(ids.size());
    nanobind::object array = nanobind::steal(PyArray_SimpleNew(1, &size, NPY_UINT32));
    if (!array.is_valid()) throw nanobind::python_error();
    auto* const elements = PyArray_DATA(reinterpret_cast<PyArrayObject*>(array.ptr()));
    if (!ids.empty()) std::memcpy(elements, ids.data(), ids.size_bytes());
    return array;
}

}  // namespace groundup
