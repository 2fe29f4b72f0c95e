// Long work reports how far it is, and can be stopped, a few times a second.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <utility>

namespace groundup {

inline constexpr std::chrono::milliseconds kHeartbeatInterval{100};

// Called with the amount of work done; throws to stop the work.
using Heartbeat = std::function<void(uint64_t done)>;

// Passes a call on at most once per interval, so that inner loops may call it freely.
class PacedHeartbeat {
   public:
    explicit PacedHeartbeat(const Heartbeat& heartbeat) : heartbeat_(heartbeat) {}

    void operator()(uint64_t done) {
        if (++calls_ % kCallsPerLook == 0) look(done);
    }

    // The same where a call is the end of some work, so that every one of them looks at the clock.
    void look(uint64_t done) {
        const Clock::time_point now = Clock::now();
        if (now - last_ < kHeartbeatInterval) return;
        heartbeat_(done);
        last_ = Clock::now();
    }

   private:
    using Clock = std::chrono::steady_clock;

    static constexpr uint32_t kCallsPerLook = 16;  // a look at the clock takes as long as some of the work

    const Heartbeat& heartbeat_;
    Clock::time_point last_ = Clock::now();
    uint32_t calls_ = 0;
};

}  // namespace groundup
