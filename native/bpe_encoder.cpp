#include "bpe_encoder.hpp"

#include <cstdio>

namespace groundup {

namespace {

// Gives the workspace back when the call ends, also by an exception.
class BorrowedWorkspace {
   public:
    explicit BorrowedWorkspace(const BpeEncoder& encoder) : encoder_(encoder), workspace_(encoder.borrow_workspace()) {}
    ~BorrowedWorkspace() { encoder_.return_workspace(std::move(workspace_)); }
    BorrowedWorkspace(const BorrowedWorkspace&) = delete;
    BorrowedWorkspace& operator=(const BorrowedWorkspace&) = delete;
    BpeEncoder::Workspace& operator*() const { return *workspace_; }

   private:
    const BpeEncoder& encoder_;
    std::unique_ptr<BpeEncoder::Workspace> workspace_;
};

std::vector<uint32_t> encode_available(const BpeEncoder& encoder, Splitter& splitter, std::span<const uint8_t> text,
                                       bool complete) {
    BorrowedWorkspace workspace(encoder);
    std::vector<uint32_t> ids;
    splitter.advance(
        encoder.special_tokens(), text.data(), text.size(), complete,
        [&](size_t begin, size_t end) {
            encoder.encode_pretoken(text.data() + begin, end - begin, text.size() - begin, *workspace, ids);
        },
        [&](uint32_t id) { ids.push_back(id); });
    return ids;
}

std::string missing_byte_message(uint8_t byte) {
    char message[128];
    std::snprintf(message, sizeof message,
                  "the text has the byte 0x%02X, which the vocabulary lacks; use a vocabulary with all 256 bytes", byte);
    return message;
}

}  // namespace

MissingByteError::MissingByteError(uint8_t byte) : std::runtime_error(missing_byte_message(byte)) {}

BpeEncoder::BpeEncoder(const std::array<uint32_t, 256>& byte_ids, std::span<const MergeRule> rules,
                       const std::vector<std::pair<std::string, uint32_t>>& special_tokens)
    : byte_ids_(byte_ids), merges_(rules.size()), special_tokens_(special_tokens) {
    for (size_t rank = 0; rank < rules.size(); ++rank) {
        const auto& [left, right, merged] = rules[rank];
        merges_.insert(left, right, {static_cast<uint32_t>(rank), merged});
    }
}

void BpeEncoder::encode_pretoken(const uint8_t* bytes, size_t size, size_t readable, Workspace& workspace,
                                 std::vector<uint32_t>& ids) const {
    const bool cacheable = size <= PretokenKey::kLongest;
    PretokenKey key;
    if (cacheable) {
        key = PretokenKey(bytes, size, readable);
        const std::span<const uint32_t> known = workspace.cache.find(key);
        if (!known.empty()) {
            for (const uint32_t id : known) ids.push_back(id);
            return;
        }
    }
    std::vector<uint32_t>& symbols = workspace.symbols;
    symbols.resize(size);
    for (size_t i = 0; i < size; ++i) {
        symbols[i] = byte_ids_[bytes[i]];
        if (symbols[i] == kMissingByte) throw MissingByteError(bytes[i]);
    }
    merge_symbols(merges_, symbols, workspace.scratch);
    ids.insert(ids.end(), symbols.begin(), symbols.end());
    if (cacheable) workspace.cache.insert(key, symbols);
}

std::vector<uint32_t> BpeEncoder::encode(std::span<const uint8_t> text) const {
    Splitter splitter;
    return encode_available(*this, splitter, text, true);
}

std::unique_ptr<BpeEncoder::Workspace> BpeEncoder::borrow_workspace() const {
    const std::lock_guard lock(idle_mutex_);
    if (idle_.empty()) return std::make_unique<Workspace>();
    std::unique_ptr<Workspace> workspace = std::move(idle_.back());
    idle_.pop_back();
    return workspace;
}

void BpeEncoder::return_workspace(std::unique_ptr<Workspace> workspace) const {
    // One enormous pretoken must not leave its memory behind.
    constexpr size_t kKeptSymbols = size_t{1} << 18;
    if (workspace->symbols.capacity() > kKeptSymbols) {
        workspace->symbols = {};
        workspace->scratch = {};
    }
    const std::lock_guard lock(idle_mutex_);
    idle_.push_back(std::move(workspace));
}

std::vector<uint32_t> EncodeStream::feed(std::span<const uint8_t> piece) {
    const std::lock_guard lock(mutex_);
    held_.insert(held_.end(), piece.begin(), piece.end());
    return advance(false);
}

std::vector<uint32_t> EncodeStream::finish() {
    const std::lock_guard lock(mutex_);
    std::vector<uint32_t> ids = advance(true);
    reset();
    return ids;
}

void EncodeStream::reset() {
    held_ = {};
    splitter_ = {};
}

std::vector<uint32_t> EncodeStream::advance(bool complete) {
    std::vector<uint32_t> ids;
    try {
        ids = encode_available(*encoder_, splitter_, held_, complete);
    } catch (...) {
        reset();  // the ids before the error are lost, so this text cannot be continued
        throw;
    }
    // Moving the rest to the front only when it is the smaller part keeps the cost of a byte constant.
    if (splitter_.start() > held_.size() / 2) {
        held_.erase(held_.begin(), held_.begin() + static_cast<ptrdiff_t>(splitter_.start()));
        splitter_.drop_front(splitter_.start());
    }
    return ids;
}

}  // namespace groundup
