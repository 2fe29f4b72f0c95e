#include "encode_texts.hpp"

#include "parallel.hpp"
#include "text_chunks.hpp"

namespace groundup {

namespace {

using Text = std::span<const uint8_t>;

constexpr size_t kChunkBytes = size_t{1} << 20;

// Unit of work of a thread: some texts, or a part of one.
struct Job {
    std::vector<Text> parts;
    std::vector<bool> begins_text, ends_text;  // by part
    IdBuffer ids;
    std::vector<uint64_t> ends;  // ends of the parts that end a text, relative to the first id of the job
};

std::vector<Job> jobs_of(const BpeEncoder& encoder, std::span<const Text> texts, const SpecialTokens& specials) {
    std::vector<Job> jobs;
    size_t room = 0;
    for (const Text& text : texts) {
        std::vector<Text> parts = chunks_of(
            text, kChunkBytes, [&](size_t position) { return encoder.is_safe_cut(text, position, specials); });
        if (parts.empty()) parts.push_back(text);  // an empty text has an end as well
        for (const Text& part : parts) {
            if (jobs.empty() || part.size() > room) {
                jobs.emplace_back();
                room = kChunkBytes;
            }
            jobs.back().parts.push_back(part);
            jobs.back().begins_text.push_back(&part == &parts.front());
            jobs.back().ends_text.push_back(&part == &parts.back());
            room -= std::min(room, part.size());
        }
    }
    return jobs;
}

// English has about four bytes a token. A text with fewer than three makes the buffer grow. Unused memory is never
// touched.
constexpr size_t expected_ids(size_t bytes) { return bytes / 3; }

}  // namespace

EncodedTexts encode_texts(const BpeEncoder& encoder, const SpecialTokens& specials, std::span<const Text> texts,
                          std::optional<uint32_t> last, size_t thread_count, const Heartbeat& heartbeat) {
    const auto encode_part = [&](Text part, bool begins_text, bool ends_text, BpeEncoder::Workspace& workspace,
                                 IdBuffer& ids, std::vector<uint64_t>& ends) {
        Splitter splitter = encoder.splitter(begins_text);
        encoder.encode(splitter, specials, part, true, workspace, ids);
        if (!ends_text) return;
        if (last) ids.push_back(*last);
        ends.push_back(ids.size());
    };
    EncodedTexts result;
    result.ends.reserve(texts.size());
    size_t bytes = 0;
    for (const Text& text : texts) bytes += text.size();
    if (thread_count <= 1 || bytes <= kChunkBytes) {
        result.ids.reserve(expected_ids(bytes));
        const BpeEncoder::BorrowedWorkspace workspace(encoder);
        for (const Text& text : texts) encode_part(text, true, true, *workspace, result.ids, result.ends);
        return result;
    }
    std::vector<Job> jobs = jobs_of(encoder, texts, specials);
    ParallelWork().run(
        jobs.size(), thread_count,
        [&](size_t i, size_t) {
            Job& job = jobs[i];
            const BpeEncoder::BorrowedWorkspace workspace(encoder);
            size_t bytes_of_job = 0;
            for (const Text& part : job.parts) bytes_of_job += part.size();
            job.ids.reserve(expected_ids(bytes_of_job));
            for (size_t part = 0; part < job.parts.size(); ++part) {
                encode_part(job.parts[part], job.begins_text[part], job.ends_text[part], *workspace, job.ids, job.ends);
            }
        },
        [] { return uint64_t{0}; }, heartbeat);
    size_t total = 0;
    for (const Job& job : jobs) total += job.ids.size();
    result.ids.reserve(total);
    for (Job& job : jobs) {
        for (const uint64_t end : job.ends) result.ends.push_back(result.ids.size() + end);
        result.ids.append(job.ids.ids());
        job = {};
    }
    return result;
}

uint64_t count_ids(const BpeEncoder& encoder, const SpecialTokens& specials, Text text) {
    constexpr size_t kManyIds = size_t{1} << 12;
    uint64_t count = 0;
    const BpeEncoder::BorrowedWorkspace workspace(encoder);
    IdBuffer ids;
    Splitter splitter = encoder.splitter();
    splitter.advance(
        specials, text.data(), text.size(), true,
        [&](size_t begin, std::span<const uint64_t> ends) {
            encoder.encode_found(splitter, text, begin, ends, *workspace, ids);
            if (ids.size() < kManyIds) return;
            encoder.insert_misses(*workspace, ids);
            count += ids.size();
            ids.clear();
        },
        [&](uint32_t) { ++count; });
    encoder.insert_misses(*workspace, ids);
    count += ids.size();
    return count;
}

}  // namespace groundup
