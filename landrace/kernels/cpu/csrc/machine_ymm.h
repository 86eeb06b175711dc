// The steps that the two kinds of AVX2 processors share.
#pragma once

#include <immintrin.h>

#include "machine_loops.h"

namespace landrace {
namespace {

struct Fp32 {
    using Sum = __m256;
    using Factor = __m256;
    static constexpr int kCount = 12, kProducts = 8;
    static Sum zero() { return _mm256_setzero_ps(); }
    static Factor one() { return _mm256_set1_ps(1); }
    static void multiply_add(Sum& sum, Factor a, Factor b) { sum = _mm256_fmadd_ps(a, b, sum); }
    static double total(Sum sum) { return total_of<double, float>(sum); }
};

inline uint64_t read_sum(const uint64_t* words, size_t count) {
    constexpr int kSums = 8;
    __m256i sums[kSums];
    for (__m256i& sum : sums) sum = _mm256_setzero_si256();
    size_t at = 0;
    for (; at + 4 * kSums <= count; at += 4 * kSums) {
#pragma GCC unroll 8
        for (int i = 0; i < kSums; ++i) {
            const auto* half_line = reinterpret_cast<const __m256i*>(words + at + 4 * i);
            if (i % 2 == 0) __builtin_prefetch(reinterpret_cast<const char*>(half_line) + kAhead);
            sums[i] = _mm256_add_epi64(sums[i], _mm256_loadu_si256(half_line));
        }
    }
    uint64_t total = 0;
    for (const __m256i& sum : sums) total += total_of<uint64_t, uint64_t>(sum);
    for (; at < count; ++at) total += words[at];
    return total;
}

}  // namespace
}  // namespace landrace
