// A file that is mapped into memory, and that another program may cut off: bytes that are gone read as zeros.
//
// Without this a read beyond the new end is the signal SIGBUS, and ends the process. The handler puts a page of zeros
// in the place of the missing one and remembers it, so that the reader can refuse what it read (systemd reads its
// journals the same way). Signals of other addresses go where they went before.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <stdexcept>

#include "python_text.hpp"

#if defined(__unix__) || defined(__APPLE__)
#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>
#endif

namespace groundup {

class CutGuard {
   public:
    explicit CutGuard(nanobind::handle mapped) : text_(std::make_unique<PythonText>(mapped)) {
#if defined(__unix__) || defined(__APPLE__)
        listen();
        const auto begin = reinterpret_cast<uintptr_t>(text_->bytes().data());
        for (Range& range : ranges()) {
            uintptr_t free = 0;
            if (!range.begin.compare_exchange_strong(free, begin)) continue;
            range.was_cut = false;
            range.end = begin + text_->bytes().size();
            range_ = &range;
            return;
        }
        throw std::runtime_error("too many files are mapped at once");
#endif
    }

    ~CutGuard() { release(); }
    CutGuard(const CutGuard&) = delete;

    bool was_cut() const { return was_cut_ || (range_ != nullptr && range_->was_cut); }

    void release() {
        if (range_ != nullptr) {
            was_cut_ = range_->was_cut;
            range_->end = 0;
            range_->begin = 0;
            range_ = nullptr;
        }
        text_.reset();
    }

   private:
    struct Range {
        std::atomic<uintptr_t> begin{0}, end{0};
        std::atomic<bool> was_cut{false};
    };

    static Range (&ranges())[64] {
        static Range all[64];
        return all;
    }

#if defined(__unix__) || defined(__APPLE__)
    static void listen() {
        ranges();  // made here, not in the handler
        struct sigaction now {};
        sigaction(SIGBUS, nullptr, &now);
        if ((now.sa_flags & SA_SIGINFO) != 0 && now.sa_sigaction == &handle) return;
        before() = now;
        struct sigaction ours {};
        ours.sa_sigaction = &handle;
        ours.sa_flags = SA_SIGINFO;
        sigemptyset(&ours.sa_mask);
        sigaction(SIGBUS, &ours, nullptr);
    }

    static struct sigaction& before() {
        static struct sigaction saved {};
        return saved;
    }

    static void handle(int, siginfo_t* info, void*) {
        const auto address = reinterpret_cast<uintptr_t>(info->si_addr);
        for (Range& range : ranges()) {
            const uintptr_t end = range.end;
            if (end == 0 || address < range.begin || address >= end) continue;
            const auto page = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
            void* place = reinterpret_cast<void*>(address - address % page);
            if (mmap(place, page, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == place) {
                range.was_cut = true;
                return;
            }
        }
        sigaction(SIGBUS, &before(), nullptr);  // the read is repeated, and the signal goes there
    }
#endif

    std::unique_ptr<PythonText> text_;
    Range* range_ = nullptr;
    bool was_cut_ = false;
};

}  // namespace groundup
