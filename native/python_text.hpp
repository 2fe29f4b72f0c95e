// The bytes of Python texts: str, or any object with a contiguous buffer (bytes, bytearray, memoryview, mmap, ...).
#pragma once

#include <nanobind/nanobind.h>

#include <cstdint>
#include <span>

namespace groundup {

// While it exists the Python object cannot be resized or closed, so its bytes may be read without the GIL. An ASCII str
// and a buffer are not copied. A lone surrogate, which is not a character, becomes U+FFFD, as in tiktoken; a surrogate
// pair becomes the character that it encodes.
class PythonText {
   public:
    explicit PythonText(nanobind::handle object) {
        if (!PyUnicode_Check(object.ptr())) {
            if (PyObject_GetBuffer(object.ptr(), &view_, PyBUF_SIMPLE) != 0) throw nanobind::python_error();
            bytes_ = {static_cast<const uint8_t*>(view_.buf), static_cast<size_t>(view_.len)};
            return;
        }
        PyObject* text = object.ptr();
        if (PyUnicode_IS_COMPACT_ASCII(text)) {
            owner_ = nanobind::borrow(object);
            bytes_ = {static_cast<const uint8_t*>(PyUnicode_DATA(text)), static_cast<size_t>(PyUnicode_GET_LENGTH(text))};
            return;
        }
        owner_ = nanobind::steal(PyUnicode_AsUTF8String(text));
        if (!owner_.is_valid()) {
            if (!PyErr_ExceptionMatches(PyExc_UnicodeEncodeError)) throw nanobind::python_error();
            PyErr_Clear();
            const auto pairs = checked(PyUnicode_AsEncodedString(text, "utf-16-le", "surrogatepass"));
            const auto repaired = checked(PyUnicode_Decode(PyBytes_AS_STRING(pairs.ptr()), PyBytes_GET_SIZE(pairs.ptr()),
                                                           "utf-16-le", "replace"));
            owner_ = checked(PyUnicode_AsUTF8String(repaired.ptr()));
        }
        bytes_ = {reinterpret_cast<const uint8_t*>(PyBytes_AS_STRING(owner_.ptr())),
                  static_cast<size_t>(PyBytes_GET_SIZE(owner_.ptr()))};
    }

    ~PythonText() {
        if (view_.obj) PyBuffer_Release(&view_);
    }

    PythonText(PythonText&& other) noexcept : view_(other.view_), owner_(std::move(other.owner_)), bytes_(other.bytes_) {
        other.view_.obj = nullptr;
    }
    PythonText& operator=(PythonText&&) = delete;

    std::span<const uint8_t> bytes() const { return bytes_; }

   private:
    static nanobind::object checked(PyObject* result) {
        if (result == nullptr) throw nanobind::python_error();
        return nanobind::steal(result);
    }

    Py_buffer view_{};
    nanobind::object owner_;
    std::span<const uint8_t> bytes_;
};

}  // namespace groundup
