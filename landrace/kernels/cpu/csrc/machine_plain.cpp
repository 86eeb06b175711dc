// With sixteen-byte vectors, which every processor of the kinds we know has: the compiler chooses the instructions.
#include "machine_loops.h"

#if defined(__aarch64__)
#include <arm_neon.h>
#endif

namespace landrace {
namespace {

typedef float Floats __attribute__((vector_size(16)));
typedef int16_t Shorts __attribute__((vector_size(16)));
typedef int32_t Ints __attribute__((vector_size(16)));
typedef uint32_t Words __attribute__((vector_size(16)));

struct Int8 {
    using Sum = Words;  // two's complement: a sum may wrap
    using Factor = Shorts;
    static constexpr int kCount = 8, kProducts = 8;
    static Sum zero() { return Sum{}; }
    static Factor one() { return Factor{1, 1, 1, 1, 1, 1, 1, 1}; }
    static void multiply_add(Sum& sum, Factor a, Factor b) {
        const auto products = reinterpret_cast<Words>(a * b);  // an unsigned by a signed byte fits sixteen bits
        const Ints upper = reinterpret_cast<Ints>(products) >> 16, lower = reinterpret_cast<Ints>(products << 16) >> 16;
        sum += reinterpret_cast<Words>(upper) + reinterpret_cast<Words>(lower);
    }
    static double total(Sum sum) { return total_of<double, int32_t>(sum); }
};

struct Fp32 {
    using Sum = Floats;
    using Factor = Floats;
    static constexpr int kCount = 12, kProducts = 4;
    static Sum zero() { return Sum{}; }
    static Factor one() { return Factor{1, 1, 1, 1}; }
    static void multiply_add(Sum& sum, Factor a, Factor b) {
#if defined(__aarch64__)
        sum = vfmaq_f32(sum, a, b);
#else
        sum += a * b;
#endif
    }
    static double total(Sum sum) { return total_of<double, float>(sum); }
};

uint64_t read_sum(const uint64_t* words, size_t count) {
    constexpr int kSums = 16;
    uint64_t sums[kSums] = {};
    size_t at = 0;
    for (; at + kSums <= count; at += kSums) {
        for (int i = 0; i < kSums; i += 8) __builtin_prefetch(reinterpret_cast<const char*>(words + at + i) + kAhead);
        for (int i = 0; i < kSums; ++i) sums[i] += words[at + i];
    }
    uint64_t total = 0;
    for (uint64_t sum : sums) total += sum;
    for (; at < count; ++at) total += words[at];
    return total;
}

}  // namespace

constexpr MachineLoops machine_plain = {
    &read_sum, peak<Int8>("multiply of 16 bits, add of 32"), peak<Fp32>("multiply and add (float32)"),
    peak<Fp32>("multiply and add")};

}  // namespace landrace
