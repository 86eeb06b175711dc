// Vectors of sixteen lanes, in the instruction set of the file that includes this one.
//
// Every operation has one meaning in all instruction sets, to the bit: products and sums are rounded alike, `fma`
// rounds once, integers are exact, and reductions add lanes in one fixed tree. What is written with these vectors
// therefore gives the same numbers on every machine.
//
// The including file sets LANDRACE_ISA (a namespace) and LANDRACE_LANES: 512 (AVX-512 with VNNI, and BF16 where
// __AVX512BF16__ is defined), 256 (AVX2 with FMA and F16C, and AVX-VNNI where __AVXVNNI__ is defined) or 0 (plain C++).
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#if LANDRACE_LANES == 512
#include "vec_avx512.h"
#elif LANDRACE_LANES == 256
#include "vec_avx2.h"
#else
#include "vec_plain.h"
#endif

namespace landrace {
namespace LANDRACE_ISA {

constexpr int kLanes = 16;

/// Before a loop whose accumulators are to stay in registers: it is written out.
#if LANDRACE_LANES == 512
#define LANDRACE_UNROLL _Pragma("GCC unroll 16")
#else
#define LANDRACE_UNROLL
#endif

/// Asks for a cache line that will be read soon; `at` may lie outside of any memory.
inline void prefetch(const void* at) { __builtin_prefetch(at); }

#ifndef LANDRACE_DOTS_BY_PAIRS
/// Sum of (byte - offset) * x over n quads of sixteen lanes, exact: unsigned bytes below 2^bits, `offset` 0 or 2^offset_bits,
/// x from -127 to 127 and the same in every lane; `minus_sum` is -(sum of x).
template <int bits, int offset_bits, int n> inline Ints dot_quads(const Bytes* quads, const int8_t* x, Ints minus_sum) {
    Ints total = offset_bits ? doubled<offset_bits>(minus_sum) : all_ints(0);
    LANDRACE_UNROLL for (int i = 0; i < n; ++i) {
        int32_t quad;
        std::memcpy(&quad, x + 4 * i, 4);
        total = dot(total, quads[i], quad);
    }
    return total;
}
#endif

/// While it lives, this thread's arithmetic takes denormal numbers for zeros where `dot` of pairs is made of other
/// instructions.
class FlushDenormals {
#if LANDRACE_LANES > 0 && !defined(__AVX512BF16__)
public:
    FlushDenormals() : before_(_mm_getcsr()) { _mm_setcsr(before_ | kZeroResults | kZeroInputs); }
    ~FlushDenormals() { _mm_setcsr(before_); }
    FlushDenormals(const FlushDenormals&) = delete;
    FlushDenormals& operator=(const FlushDenormals&) = delete;

private:
    static constexpr unsigned kZeroResults = 0x8000, kZeroInputs = 0x40;
    unsigned before_;
#else
public:
    FlushDenormals() {}  // not trivial, so that nobody is warned of an unused variable
#endif
};

/// e^x: 2^n * p(r) with n = round(x / ln 2) and a polynomial of degree 6 in r = x - n ln 2, |r| <= ln 2 / 2; within two
/// units in the last place. 0 below -87, where float32 would be denormal; NaN stays NaN.
inline Floats exp(Floats x) {
    const Floats clamped = min(all(88.0f), x);
    const Ints n = round_to_int(mul(clamped, all(1.44269504088896341f)));
    const Floats whole = to_float(n);
    Floats r = fnma(whole, all(0.693359375f), clamped);
    r = fnma(whole, all(-2.12194440e-4f), r);
    Floats p = all(1.0f / 720);
    p = fma(p, r, all(1.0f / 120));
    p = fma(p, r, all(1.0f / 24));
    p = fma(p, r, all(1.0f / 6));
    p = fma(p, r, all(0.5f));
    p = fma(p, r, all(1.0f));
    p = fma(p, r, all(1.0f));
    return where_less(x, all(-87.0f), all(0.0f), mul(p, power_of_two(n)));
}

inline float exp(float x) {
    float lanes[16];
    store(lanes, exp(all(x)));
    return lanes[0];
}

}  // namespace LANDRACE_ISA
}  // namespace landrace
