// Borrowing the bytes of a Python object (bytes, bytearray, memoryview, mmap, ...) without copying them.
#pragma once

#include <nanobind/nanobind.h>

#include <cstdint>
#include <span>

namespace groundup {

// While it lives the object cannot be resized or closed, so its bytes may be read without the GIL.
class PythonBuffer {
   public:
    explicit PythonBuffer(nanobind::handle object) {
        if (PyObject_GetBuffer(object.ptr(), &view_, PyBUF_SIMPLE) != 0) throw nanobind::python_error();
    }
    ~PythonBuffer() {
        if (view_.obj) PyBuffer_Release(&view_);
    }
    PythonBuffer(PythonBuffer&& other) noexcept : view_(other.view_) { other.view_.obj = nullptr; }
    PythonBuffer& operator=(PythonBuffer&&) = delete;

    std::span<const uint8_t> bytes() const {
        return {static_cast<const uint8_t*>(view_.buf), static_cast<size_t>(view_.len)};
    }

   private:
    Py_buffer view_{};
};

}  // namespace groundup
