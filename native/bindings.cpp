// What Python sees of the C++ core: the module groundup.tokenizer._native, described in _native.pyi.

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <array>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "bpe_encoder.hpp"
#include "bpe_trainer.hpp"
#include "character_class.hpp"
#include "pretoken_counter.hpp"
#include "python_buffer.hpp"
#include "splitter.hpp"

namespace nb = nanobind;
using namespace nb::literals;
using namespace groundup;

namespace {

using Ids = nb::ndarray<nb::numpy, uint32_t, nb::ndim<1>>;
using Rules = nb::ndarray<const uint32_t, nb::shape<-1, 3>, nb::c_contig, nb::device::cpu>;

std::string string_of(const nb::bytes& bytes) { return {bytes.c_str(), bytes.size()}; }

// Hands the memory of the vector over to NumPy.
Ids array_of(std::vector<uint32_t> ids) {
    auto owner = std::make_unique<std::vector<uint32_t>>(std::move(ids));
    std::vector<uint32_t>* const vector = owner.get();
    nb::capsule capsule(owner.release(), [](void* pointer) noexcept {
        delete static_cast<std::vector<uint32_t>*>(pointer);
    });
    return Ids(vector->data(), {vector->size()}, capsule);
}

// Runs `work` without the GIL on the bytes of a Python object.
template <typename Work>
Ids ids_from(nb::handle data, Work&& work) {
    const PythonBuffer buffer(data);
    std::vector<uint32_t> ids;
    {
        nb::gil_scoped_release release;
        ids = work(buffer.bytes());
    }
    return array_of(std::move(ids));
}

// Gives Python its turn: signal handlers (Ctrl-C) run, then progress(done) is called unless it is None.
Heartbeat heartbeat_to(const nb::object& progress) {
    return [&progress](uint64_t done) {
        nb::gil_scoped_acquire acquire;
        if (PyErr_CheckSignals() != 0) throw nb::python_error();
        if (!progress.is_none()) progress(done);
    };
}

std::shared_ptr<BpeEncoder> make_encoder(const std::vector<int64_t>& byte_ids, const Rules& rules,
                                         const std::vector<std::pair<nb::bytes, uint32_t>>& special_tokens) {
    if (byte_ids.size() != 256) throw nb::value_error("byte_ids must have 256 entries");
    std::array<uint32_t, 256> ids{};
    std::transform(byte_ids.begin(), byte_ids.end(), ids.begin(),
                   [](int64_t id) { return id < 0 ? kMissingByte : static_cast<uint32_t>(id); });
    std::vector<MergeRule> merge_rules(rules.shape(0));
    for (size_t i = 0; i < merge_rules.size(); ++i) merge_rules[i] = {rules(i, 0), rules(i, 1), rules(i, 2)};
    std::vector<std::pair<std::string, uint32_t>> specials;
    for (const auto& [bytes, id] : special_tokens) specials.emplace_back(string_of(bytes), id);
    return std::make_shared<BpeEncoder>(ids, merge_rules, specials);
}

// The two steps of training, with the counts in between.
class Trainer {
   public:
    Trainer(const std::vector<nb::bytes>& special_tokens, size_t thread_count, size_t chunk_bytes)
        : counter_(strings_of(special_tokens), std::max<size_t>(thread_count, 1), std::max<size_t>(chunk_bytes, 1)) {}

    void count(const nb::list& texts, const nb::object& progress) {
        std::vector<PythonBuffer> buffers;
        buffers.reserve(texts.size());
        std::vector<std::span<const uint8_t>> spans;
        for (const nb::handle text : texts) spans.push_back(buffers.emplace_back(text).bytes());
        const Heartbeat heartbeat = heartbeat_to(progress);
        nb::gil_scoped_release release;
        counter_.count(spans, heartbeat);
    }

    std::vector<std::pair<uint32_t, uint32_t>> learn(size_t merge_limit, const nb::object& progress) {
        const Heartbeat heartbeat = heartbeat_to(progress);
        nb::gil_scoped_release release;
        // The counts are laid out anew by the trainer, and not needed beside it.
        BpeTrainer trainer(counter_.take(), heartbeat);
        return trainer.learn(merge_limit, heartbeat);
    }

    uint64_t bytes_counted() const { return counter_.bytes_counted(); }

   private:
    static std::vector<std::string> strings_of(const std::vector<nb::bytes>& all) {
        std::vector<std::string> strings;
        for (const nb::bytes& bytes : all) strings.push_back(string_of(bytes));
        return strings;
    }

    PretokenCounter counter_;
};

nb::list pretokens(nb::handle data) {
    const PythonBuffer buffer(data);
    const std::span<const uint8_t> text = buffer.bytes();
    nb::list pieces;
    Splitter().advance(
        SpecialTokens({}), text.data(), text.size(), true,
        [&](size_t begin, size_t end) { pieces.append(nb::bytes(text.data() + begin, end - begin)); },
        [](uint32_t) {});
    return pieces;
}

nb::bytes character_classes() {
    std::string classes(0x110000, '\0');
    for (uint32_t code_point = 0; code_point < classes.size(); ++code_point) {
        classes[code_point] = static_cast<char>(class_of(code_point));
    }
    return nb::bytes(classes.data(), classes.size());
}

}  // namespace

NB_MODULE(_native, module) {
    const nb::object tokenizer_error = nb::module_::import_("groundup.errors").attr("TokenizerError");
    nb::exception<MissingByteError>(module, "MissingByteError", tokenizer_error);

    nb::class_<BpeEncoder>(module, "Encoder")
        .def(nb::new_(&make_encoder), "byte_ids"_a, "rules"_a, "special_tokens"_a)
        .def("encode", [](const BpeEncoder& encoder, nb::handle data) {
            return ids_from(data, [&](std::span<const uint8_t> text) { return encoder.encode(text); });
        }, "data"_a);

    nb::class_<EncodeStream>(module, "EncodeStream")
        .def(nb::new_([](std::shared_ptr<BpeEncoder> encoder) {
            return std::make_shared<EncodeStream>(std::move(encoder));
        }), "encoder"_a)
        .def("feed", [](EncodeStream& stream, nb::handle data) {
            return ids_from(data, [&](std::span<const uint8_t> piece) { return stream.feed(piece); });
        }, "data"_a)
        .def("finish", [](EncodeStream& stream) {
            return ids_from(nb::bytes("", 0), [&](std::span<const uint8_t>) { return stream.finish(); });
        });

    nb::class_<Trainer>(module, "Trainer")
        .def(nb::init<const std::vector<nb::bytes>&, size_t, size_t>(), "special_tokens"_a, "thread_count"_a,
             "chunk_bytes"_a)
        .def("count", &Trainer::count, "texts"_a, "progress"_a.none())
        .def("learn", &Trainer::learn, "merge_limit"_a, "progress"_a.none())
        .def_prop_ro("bytes_counted", &Trainer::bytes_counted);

    // For the tests, which hold these two against the `regex` package.
    module.def("pretokens", &pretokens, "data"_a);
    module.def("character_classes", &character_classes);
}
