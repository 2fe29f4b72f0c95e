// Driver of a fuzz target without libFuzzer (g++, other processors under qemu): runs it on random inputs, or on inputs
// from files. The options are libFuzzer's: -runs=N -max_total_time=SECONDS -seed=N -max_len=BYTES.
#include <chrono>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <random>
#include <string>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);
extern "C" void __sanitizer_set_death_callback(void (*callback)()) __attribute__((weak));

namespace {

std::vector<uint8_t> input;

void keep_input() {
    std::ofstream("crash-input", std::ios::binary).write(reinterpret_cast<const char*>(input.data()),
                                                         static_cast<std::streamsize>(input.size()));
    std::fprintf(stderr, "the input that failed is in crash-input\n");
}

void keep_input_and_abort(int) {
    keep_input();
    std::signal(SIGABRT, SIG_DFL);
    std::abort();
}

// The value of an option `-name=value`, or nothing.
const char* value_of(const char* argument, const char* name) {
    const size_t length = std::strlen(name);
    return std::strncmp(argument, name, length) == 0 && argument[length] == '=' ? argument + length + 1 : nullptr;
}

void run_file(const char* path) {
    std::ifstream file(path, std::ios::binary);
    if (!file) {
        std::fprintf(stderr, "%s cannot be read; give the path of an input that failed\n", path);
        std::exit(2);
    }
    input.assign(std::istreambuf_iterator<char>(file), {});
    const std::vector<uint8_t> exact = input;
    LLVMFuzzerTestOneInput(exact.data(), exact.size());
}

}  // namespace

int main(int argument_count, char** arguments) {
    uint64_t runs = UINT64_MAX, seed = std::random_device{}();
    double seconds = 1e18;
    size_t most = 200, files = 0;
    if (__sanitizer_set_death_callback != nullptr) __sanitizer_set_death_callback(keep_input);
    std::signal(SIGABRT, keep_input_and_abort);
    for (int i = 1; i < argument_count; ++i) {
        const char* const argument = arguments[i];
        if (const char* value = value_of(argument, "-runs")) runs = std::strtoull(value, nullptr, 10);
        else if (const char* value = value_of(argument, "-max_total_time")) seconds = std::strtod(value, nullptr);
        else if (const char* value = value_of(argument, "-seed")) seed = std::strtoull(value, nullptr, 10);
        else if (const char* value = value_of(argument, "-max_len")) most = std::strtoull(value, nullptr, 10);
        else if (argument[0] != '-') run_file(argument), ++files;
        else return std::fprintf(stderr, "%s: give -runs, -max_total_time, -seed, -max_len\n", argument), 2;
    }
    if (files > 0) return 0;

    using Clock = std::chrono::steady_clock;
    const Clock::time_point start = Clock::now();
    const auto elapsed = [&] { return std::chrono::duration<double>(Clock::now() - start).count(); };
    std::fprintf(stderr, "random inputs, seed %llu\n", static_cast<unsigned long long>(seed));
    std::mt19937_64 random(seed);
    uint64_t done = 0;
    while (done < runs && (done % 256 != 0 || elapsed() < seconds)) {
        input.resize(random() % ((random() % 4 == 0 ? most : most / 4) + 1));
        for (uint8_t& byte : input) byte = static_cast<uint8_t>(random());
        LLVMFuzzerTestOneInput(input.data(), input.size());
        ++done;
    }
    std::fprintf(stderr, "Done %llu runs in %.0f second(s)\n", static_cast<unsigned long long>(done), elapsed());
}
