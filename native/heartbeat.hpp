// Heartbeat of long work: reports progress a few times a second, and can stop the work.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <utility>

namespace groundup {

inline constexpr std::chrono::milliseconds kHeartbeatInterval{100};

// Called with the amount of work done; throws to stop the work.
using Heartbeat = std::function<void(uint64_t done)>;

// Forwards at most one call per interval, so inner loops may call it often.
class PacedHeartbeat {
   public:
    explicit PacedHeartbeat(const Heartbeat& heartbeat) : heartbeat_(heartbeat) {}

    void operator()(uint64_t done) {
        if (++calls_ % kCallsPerLook == 0) look(done);
    }

    // The same for calls after a large piece of work: every call reads the clock.
    void look(uint64_t done) {
        const Clock::time_point now = Clock::now();
        if (now - last_ < kHeartbeatInterval) return;
        heartbeat_(done);
        last_ = Clock::now();
    }

   private:
    using Clock = std::chrono::steady_clock;

    static constexpr uint32_t kCallsPerLook = 16;  // reading the clock takes as long as some of the work

    const Heartbeat& heartbeat_;
    Clock::time_point last_ = Clock::now();
    uint32_t calls_ = 0;
};

}  // namespace groundup
