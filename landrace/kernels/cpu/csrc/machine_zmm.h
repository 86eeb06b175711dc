// The steps that the two kinds of AVX-512 processors share.
#pragma once

#include <immintrin.h>

#include "machine_loops.h"

namespace landrace {
namespace {

struct Int8 {
    using Sum = __m512i;
    using Factor = __m512i;
    static constexpr int kCount = 16, kProducts = 64;
    static Sum zero() { return _mm512_setzero_si512(); }
    static Factor one() { return _mm512_set1_epi8(1); }
    static void multiply_add(Sum& sum, Factor a, Factor b) { sum = _mm512_dpbusd_epi32(sum, a, b); }
    static double total(Sum sum) { return total_of<double, int32_t>(sum); }
};

struct Fp32 {
    using Sum = __m512;
    using Factor = __m512;
    static constexpr int kCount = 16, kProducts = 16;
    static Sum zero() { return _mm512_setzero_ps(); }
    static Factor one() { return _mm512_set1_ps(1); }
    static void multiply_add(Sum& sum, Factor a, Factor b) { sum = _mm512_fmadd_ps(a, b, sum); }
    static double total(Sum sum) { return total_of<double, float>(sum); }
};

inline uint64_t read_sum(const uint64_t* words, size_t count) {
    constexpr int kSums = 8;
    __m512i sums[kSums];
    for (__m512i& sum : sums) sum = _mm512_setzero_si512();
    size_t at = 0;
    for (; at + 8 * kSums <= count; at += 8 * kSums) {
#pragma GCC unroll 8
        for (int i = 0; i < kSums; ++i) {
            const uint64_t* line = words + at + 8 * i;
            __builtin_prefetch(reinterpret_cast<const char*>(line) + kAhead);
            sums[i] = _mm512_add_epi64(sums[i], _mm512_loadu_si512(line));
        }
    }
    uint64_t total = 0;
    for (const __m512i& sum : sums) total += total_of<uint64_t, uint64_t>(sum);
    for (; at < count; ++at) total += words[at];
    return total;
}

}  // namespace
}  // namespace landrace
