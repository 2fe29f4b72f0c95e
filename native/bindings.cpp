// The Python module groundup.tokenizer._native (its stub is src/groundup/tokenizer/_native.pyi).
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "bpe_encoder.hpp"
#include "bpe_trainer.hpp"
#include "cut_guard.hpp"
#include "encode_texts.hpp"
#include "numpy_array.hpp"
#include "pretoken_counter.hpp"
#include "python_text.hpp"
#include "window.hpp"

namespace nb = nanobind;
using namespace nb::literals;
using namespace groundup;

namespace {

using Rules = nb::ndarray<const uint32_t, nb::shape<-1, 3>, nb::c_contig, nb::device::cpu>;
using Characters = nb::ndarray<const uint32_t, nb::shape<-1, 2>, nb::c_contig, nb::device::cpu>;
using Numbers = nb::ndarray<const uint64_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Specials = std::shared_ptr<const SpecialTokens>;

// Below this size, releasing and acquiring the GIL takes longer than encoding.
constexpr size_t kQuickBytes = 4096;

// Up to this size, copying the ids into a NumPy array is faster than passing the memory to NumPy.
constexpr size_t kShortBytes = size_t{1} << 16;

std::string newest_unicode() { return std::string(kUnicodeVersions.back()); }

Pattern checked_pattern(const std::string& name) {
    const std::optional<Pattern> pattern = pattern_named(name);
    if (!pattern) throw nb::value_error("the pattern is not built in");
    return *pattern;
}

UnicodeTable checked_unicode(const std::string& version) {
    const std::optional<UnicodeTable> table = UnicodeTable::of_version(version);
    if (!table) throw nb::value_error("there is no table of this version of Unicode");
    return *table;
}

std::string string_of(const nb::bytes& bytes) { return {bytes.c_str(), bytes.size()}; }

std::vector<std::string> strings_of(const std::vector<nb::bytes>& all) {
    std::vector<std::string> strings;
    for (const nb::bytes& bytes : all) strings.push_back(string_of(bytes));
    return strings;
}

std::vector<std::pair<std::string, uint32_t>> named_ids(const std::vector<std::pair<nb::bytes, uint32_t>>& tokens) {
    std::vector<std::pair<std::string, uint32_t>> named;
    for (const auto& [bytes, id] : tokens) named.emplace_back(string_of(bytes), id);
    return named;
}

std::span<const uint64_t> span_of(const Numbers& numbers) { return {numbers.data(), numbers.shape(0)}; }

// A NumPy array that takes over the memory.
nb::ndarray<nb::numpy, uint32_t, nb::ndim<1>> array_of(IdBuffer ids) {
    ids.shrink();
    const size_t size = ids.size();
    auto* const owner = new IdBuffer(std::move(ids));
    const nb::capsule capsule(owner, [](void* buffer) noexcept { delete static_cast<IdBuffer*>(buffer); });
    return {owner->data(), {size}, capsule};
}

template <typename Element>
nb::ndarray<nb::numpy, Element, nb::ndim<1>> array_of(std::vector<Element> elements) {
    auto* const owner = new std::vector<Element>(std::move(elements));
    const nb::capsule capsule(owner, [](void* vector) noexcept { delete static_cast<std::vector<Element>*>(vector); });
    return {owner->data(), {owner->size()}, capsule};
}

// Heartbeat that runs Python's signal handlers (Ctrl-C), and then calls progress(done) unless it is None.
Heartbeat heartbeat_to(const nb::object& progress) {
    return [&progress](uint64_t done) {
        nb::gil_scoped_acquire acquire;
        if (PyErr_CheckSignals() != 0) throw nb::python_error();
        if (!progress.is_none()) progress(done);
    };
}

// Cache of Python integers for ids: making a list then only increments reference counts.
class IdObjects {
   public:
    PyObject* operator[](uint32_t id) {
        if (id >= objects_.size()) objects_.resize(std::max<size_t>(id + 1, 2 * objects_.size()));
        nb::object& object = objects_[id];
        if (!object.is_valid()) object = nb::steal(PyLong_FromUnsignedLong(id));
        return object.ptr();
    }

    nb::list list_of(std::span<const uint32_t> ids) {
        const nb::object list = nb::steal(PyList_New(static_cast<Py_ssize_t>(ids.size())));
        if (!list.is_valid()) throw nb::python_error();
        for (size_t i = 0; i < ids.size(); ++i) {
            PyObject* const id = (*this)[ids[i]];
            Py_INCREF(id);
            PyList_SET_ITEM(list.ptr(), static_cast<Py_ssize_t>(i), id);
        }
        return nb::borrow<nb::list>(list);
    }

   private:
    std::vector<nb::object> objects_;
};

// Python class of an encoder.
class Encoder {
   public:
    Encoder(const std::vector<int64_t>& byte_ids, const Rules& rules,
            const std::vector<std::pair<nb::bytes, uint32_t>>& whole, const std::string& pattern,
            const std::string& unicode_version)
        : encoder_(std::make_shared<BpeEncoder>(ids_of_bytes(byte_ids), merge_rules(rules), named_ids(whole),
                                                checked_pattern(pattern), checked_unicode(unicode_version))) {
    }

    // Encoder of whole texts on characters. `prefix`: a SpacePrefix.
    static Encoder of_characters(const Characters& characters, const std::vector<int64_t>& byte_ids, const Rules& rules,
                                 uint8_t prefix, bool every_space) {
        if (prefix > static_cast<uint8_t>(SpacePrefix::FirstUnlessThere)) throw nb::value_error("no such prefix");
        std::vector<std::pair<uint32_t, uint32_t>> codes(characters.shape(0));
        for (size_t i = 0; i < codes.size(); ++i) codes[i] = {characters(i, 0), characters(i, 1)};
        std::vector<MergeRule> all_rules = merge_rules(rules);
        for (const auto& [code, id] : codes) {
            if (code > 0x10FFFF || id >= CharacterMerges::kMostIds) throw nb::value_error("a code point or id is too large");
        }
        for (const MergeRule& rule : all_rules) {
            if (std::max({rule.left, rule.right, rule.merged}) >= CharacterMerges::kMostIds) {
                throw nb::value_error("an id is too large");
            }
        }
        return Encoder(std::make_shared<BpeEncoder>(CharacterMerges(
            codes, ids_of_bytes(byte_ids), all_rules, static_cast<SpacePrefix>(prefix), every_space)));
    }

    const std::shared_ptr<const BpeEncoder>& shared() const { return encoder_; }

    nb::list encode_to_list(nb::handle text, const Specials& specials) {
        const PythonText bytes(text);
        if (bytes.bytes().size() > kQuickBytes) return objects_.list_of(encode({&bytes, 1}, *specials, {}, 1).ids.ids());
        const BpeEncoder::BorrowedWorkspace workspace(*encoder_);
        IdBuffer& ids = workspace->ids;
        ids.clear();
        Splitter splitter = encoder_->splitter();
        encoder_->encode(splitter, *specials, bytes.bytes(), true, *workspace, ids);
        return objects_.list_of(ids.ids());
    }

    nb::object encode_to_array(nb::handle text, const Specials& specials, size_t threads) {
        const PythonText bytes(text);
        if (bytes.bytes().size() > kShortBytes) {
            return nb::cast(array_of(encode({&bytes, 1}, *specials, {}, threads).ids));
        }
        const BpeEncoder::BorrowedWorkspace workspace(*encoder_);
        IdBuffer& ids = workspace->ids;
        ids.clear();
        const auto encode_all = [&] {
            Splitter splitter = encoder_->splitter();
            encoder_->encode(splitter, *specials, bytes.bytes(), true, *workspace, ids);
        };
        if (bytes.bytes().size() > kQuickBytes) {
            nb::gil_scoped_release release;
            encode_all();
        } else {
            encode_all();
        }
        return copy_to_array(ids.ids());
    }

    nb::list encode_batch_to_lists(const nb::list& texts, const Specials& specials, size_t threads) {
        const EncodedTexts encoded = encode(bytes_of(texts), *specials, {}, threads);
        nb::list lists;
        size_t begin = 0;
        for (const uint64_t end : encoded.ends) {
            lists.append(objects_.list_of(encoded.ids.ids().subspan(begin, end - begin)));
            begin = end;
        }
        return lists;
    }

    auto encode_batch_to_arrays(const nb::list& texts, const Specials& specials, size_t threads,
                                std::optional<uint32_t> last) {
        EncodedTexts encoded = encode(bytes_of(texts), *specials, last, threads);
        return std::pair(array_of(std::move(encoded.ids)), array_of(std::move(encoded.ends)));
    }

    auto encode_pretokens(nb::handle text, const Numbers& ends) const {
        const PythonText bytes(text);
        IdBuffer ids;
        {
            nb::gil_scoped_release release;
            const BpeEncoder::BorrowedWorkspace workspace(*encoder_);
            size_t begin = 0;
            for (size_t i = 0; i < ends.shape(0); i += PretokenEnds::kCapacity) {
                const auto some = span_of(ends).subspan(i, std::min(PretokenEnds::kCapacity, ends.shape(0) - i));
                encoder_->encode_pretokens(bytes.bytes().data(), bytes.bytes().size(), begin, some, *workspace, ids);
                begin = some.back();
            }
            encoder_->insert_misses(*workspace, ids);
        }
        return array_of(std::move(ids));
    }

    uint64_t count(nb::handle text, const Specials& specials) const {
        const PythonText bytes(text);
        nb::gil_scoped_release release;
        return count_ids(*encoder_, *specials, bytes.bytes());
    }

   private:
    explicit Encoder(std::shared_ptr<const BpeEncoder> encoder) : encoder_(std::move(encoder)) {}

    static std::array<uint32_t, 256> ids_of_bytes(const std::vector<int64_t>& byte_ids) {
        if (byte_ids.size() != 256) throw nb::value_error("byte_ids must have 256 entries");
        std::array<uint32_t, 256> ids{};
        std::transform(byte_ids.begin(), byte_ids.end(), ids.begin(),
                       [](int64_t id) { return id < 0 ? kNoRank : static_cast<uint32_t>(id); });
        return ids;
    }

    static std::vector<MergeRule> merge_rules(const Rules& rules) {
        std::vector<MergeRule> all(rules.shape(0));
        for (size_t i = 0; i < all.size(); ++i) all[i] = {rules(i, 0), rules(i, 1), rules(i, 2)};
        return all;
    }

    static std::vector<PythonText> bytes_of(const nb::list& texts) {
        std::vector<PythonText> all;
        all.reserve(texts.size());
        for (const nb::handle text : texts) all.emplace_back(text);
        return all;
    }

    EncodedTexts encode(std::span<const PythonText> texts, const SpecialTokens& specials, std::optional<uint32_t> last,
                        size_t threads) const {
        std::vector<std::span<const uint8_t>> spans;
        spans.reserve(texts.size());
        size_t bytes = 0;
        for (const PythonText& text : texts) {
            spans.push_back(text.bytes());
            bytes += text.bytes().size();
        }
        const nb::object no_progress = nb::none();
        const Heartbeat heartbeat = heartbeat_to(no_progress);
        if (bytes <= kQuickBytes) return encode_texts(*encoder_, specials, spans, last, 1, heartbeat);
        nb::gil_scoped_release release;
        return encode_texts(*encoder_, specials, spans, last, threads, heartbeat);
    }

    std::shared_ptr<const BpeEncoder> encoder_;
    IdObjects objects_;
};

std::shared_ptr<SpecialTokens> make_special_tokens(const std::vector<std::pair<nb::bytes, uint32_t>>& tokens) {
    return std::make_shared<SpecialTokens>(named_ids(tokens));
}

// The first special token at or after a position, as (begin, end, id).
std::optional<std::array<uint64_t, 3>> find_special(const SpecialTokens& specials, nb::handle text, size_t from) {
    const PythonText bytes(text);
    const size_t size = bytes.bytes().size();
    const SpecialMatch match = specials.find(bytes.bytes().data(), std::min(from, size), size, size, true);
    if (match.kind != SpecialMatch::Kind::Found) return std::nullopt;
    return std::array<uint64_t, 3>{match.begin, match.begin + match.length, match.id};
}

// Python class of pretoken counts.
class Counts {
   public:
    Counts(const std::string& pattern, const std::vector<nb::bytes>& special_tokens, size_t threads, size_t chunk_bytes)
        : counter_(pattern_named(pattern).value(), strings_of(special_tokens),
                   std::max<size_t>(threads, 1), std::max<size_t>(chunk_bytes, 1)) {}

    Counts(const Counts&) = delete;
    Counts& operator=(const Counts&) = delete;

    void count(const nb::list& texts, uint64_t weight, bool mapped, const nb::object& progress) {
        std::vector<PythonText> buffers;
        buffers.reserve(texts.size());
        std::vector<std::span<const uint8_t>> spans;
        for (const nb::handle text : texts) spans.push_back(buffers.emplace_back(text).bytes());
        const Heartbeat heartbeat = heartbeat_to(progress);
        nb::gil_scoped_release release;
        counter_.count(spans, weight, mapped, heartbeat);
    }

    void add_pretokens(nb::handle text, const Numbers& ends, uint64_t weight) {
        const PythonText bytes(text);
        nb::gil_scoped_release release;
        counter_.add(bytes.bytes(), span_of(ends), weight);
    }

    void add_counts(nb::handle text, const Numbers& ends, const Numbers& counts) {
        const PythonText bytes(text);
        nb::gil_scoped_release release;
        counter_.add(bytes.bytes(), span_of(ends), span_of(counts));
    }

    // All pretokens concatenated, the end of each, and the count of each; in the order of their bytes.
    nb::tuple arrays() {
        struct Counted {
            std::string bytes;
            uint64_t count;
        };
        std::vector<uint8_t> bytes;
        std::vector<uint64_t> ends, counts;
        {
            nb::gil_scoped_release release;
            std::vector<Counted> sorted;
            counter_.counts().for_each([&](std::span<const uint8_t> pretoken, uint64_t count) {
                sorted.push_back({std::string(pretoken.begin(), pretoken.end()), count});
            });
            std::sort(sorted.begin(), sorted.end(),
                      [](const Counted& a, const Counted& b) { return a.bytes < b.bytes; });
            for (const Counted& pretoken : sorted) {
                bytes.insert(bytes.end(), pretoken.bytes.begin(), pretoken.bytes.end());
                ends.push_back(bytes.size());
                counts.push_back(pretoken.count);
            }
        }
        return nb::make_tuple(array_of(std::move(bytes)), array_of(std::move(ends)), array_of(std::move(counts)));
    }

    Merges learn(size_t merge_limit, const std::string& tie_rule, uint64_t min_frequency,
                 std::optional<size_t> max_token_length, const nb::object& progress) {
        const TrainerOptions options{merge_limit,
                                     tie_rule == "huggingface" ? TieRule::HuggingFace : TieRule::Bytes, min_frequency,
                                     max_token_length.value_or(SIZE_MAX)};
        const Heartbeat heartbeat = heartbeat_to(progress);
        nb::gil_scoped_release release;
        // The trainer copies the counts into its own layout, so they are freed.
        BpeTrainer trainer(counter_.take(), options, heartbeat);
        return trainer.learn(heartbeat);
    }

    uint64_t bytes_counted() const { return counter_.bytes_counted(); }
    size_t size() { return counter_.counts().size(); }

   private:
    PretokenCounter counter_;
};

nb::list pretokens(nb::handle data, const std::string& pattern, const std::string& unicode_version) {
    const PythonText text(data);
    nb::list pieces;
    const std::span<const uint8_t> bytes = text.bytes();
    Splitter(checked_pattern(pattern), checked_unicode(unicode_version))
        .advance(
            SpecialTokens({}), bytes.data(), bytes.size(), true,
            [&](size_t begin, std::span<const uint64_t> ends) {
                for (const uint64_t end : ends) {
                    pieces.append(nb::bytes(bytes.data() + begin, end - begin));
                    begin = end;
                }
            },
            [](uint32_t) {});
    return pieces;
}

nb::bytes character_classes(const std::string& unicode_version) {
    const UnicodeTable unicode = checked_unicode(unicode_version);
    std::string classes(0x110000, '\0');
    for (uint32_t code_point = 0; code_point < classes.size(); ++code_point) {
        classes[code_point] = static_cast<char>(std::countr_zero(unicode.class_of(code_point)));
    }
    return nb::bytes(classes.data(), classes.size());
}

}  // namespace

NB_MODULE(_native, module) {
#ifdef NDEBUG
    // Tokenizers in module variables at the end of the process are not leaks: no report in release builds.
    nb::set_leak_warnings(false);
#endif
    const nb::object tokenizer_error = nb::module_::import_("groundup.errors").attr("TokenizerError");
    nb::exception<MissingByteError>(module, "MissingByteError", tokenizer_error);

    nb::class_<CutGuard>(module, "CutGuard")
        .def(nb::init<nb::handle>(), "mapped"_a)
        .def_prop_ro("was_cut", &CutGuard::was_cut)
        .def("release", &CutGuard::release);

    nb::class_<SpecialTokens>(module, "SpecialTokens")
        .def(nb::new_(&make_special_tokens), "tokens"_a)
        .def("find", [](const SpecialTokens& specials, nb::handle text, size_t from) -> nb::object {
            const auto found = find_special(specials, text, from);
            return found ? nb::object(nb::make_tuple((*found)[0], (*found)[1], (*found)[2])) : nb::none();
        }, "text"_a, "start"_a = 0)
        .def_prop_ro("ids", &SpecialTokens::ids);

    nb::class_<Encoder>(module, "Encoder")
        .def(nb::init<const std::vector<int64_t>&, const Rules&, const std::vector<std::pair<nb::bytes, uint32_t>>&,
                      const std::string&, const std::string&>(),
             "byte_ids"_a, "rules"_a, "whole"_a, "pattern"_a, "unicode_version"_a = newest_unicode())
        .def_static("of_characters", &Encoder::of_characters, "characters"_a, "byte_ids"_a, "rules"_a, "prefix"_a,
                    "every_space"_a)
        .def("encode_to_list", &Encoder::encode_to_list, "text"_a, "specials"_a)
        .def("encode_to_array", &Encoder::encode_to_array, "text"_a, "specials"_a, "threads"_a = 1)
        .def("encode_batch_to_lists", &Encoder::encode_batch_to_lists, "texts"_a, "specials"_a, "threads"_a = 1)
        .def("encode_batch_to_arrays", &Encoder::encode_batch_to_arrays, "texts"_a, "specials"_a, "threads"_a = 1,
             "last"_a = nb::none())
        .def("encode_pretokens", &Encoder::encode_pretokens, "text"_a, "ends"_a)
        .def("count", &Encoder::count, "text"_a, "specials"_a)
        .def("stream", [](const Encoder& encoder, Specials specials) {
            return std::make_shared<EncodeStream>(encoder.shared(), std::move(specials));
        }, "specials"_a);

    nb::class_<EncodeStream>(module, "EncodeStream")
        .def("feed", [](EncodeStream& stream, nb::handle data) {
            const PythonText piece(data);
            IdBuffer ids;
            {
                nb::gil_scoped_release release;
                ids = stream.feed(piece.bytes());
            }
            return array_of(std::move(ids));
        }, "data"_a)
        .def("finish", [](EncodeStream& stream) { return array_of(stream.finish()); });

    nb::class_<Counts>(module, "PretokenCounts")
        .def(nb::init<const std::string&, const std::vector<nb::bytes>&, size_t, size_t>(), "pattern"_a,
             "special_tokens"_a, "threads"_a, "chunk_bytes"_a)
        .def("count", &Counts::count, "texts"_a, "weight"_a, "mapped"_a, "progress"_a.none())
        .def("add_pretokens", &Counts::add_pretokens, "text"_a, "ends"_a, "weight"_a)
        .def("add_counts", &Counts::add_counts, "text"_a, "ends"_a, "counts"_a)
        .def("arrays", &Counts::arrays)
        .def("learn", &Counts::learn, "merge_limit"_a, "tie_rule"_a, "min_frequency"_a, "max_token_length"_a.none(),
             "progress"_a.none())
        .def_prop_ro("bytes_counted", &Counts::bytes_counted)
        .def("__len__", &Counts::size);

    // For the tests, which compare these with the `regex` package.
    module.def("pretokens", &pretokens, "data"_a, "pattern"_a, "unicode_version"_a = newest_unicode());
    module.def("character_classes", &character_classes, "unicode_version"_a = newest_unicode());
    module.def("simd_name", [] { return std::string(simd_name()); });
}
