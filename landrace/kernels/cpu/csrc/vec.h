// Vectors of sixteen lanes, in the instruction set of the file that includes this one.
//
// Every operation has one meaning in all instruction sets, to the bit: products and sums are rounded alike, `fma`
// rounds once, integers are exact, and reductions add lanes in one fixed tree. What is written with these vectors
// therefore gives the same numbers on every machine.
//
// The including file sets LANDRACE_ISA (a namespace) and LANDRACE_LANES: 512 (AVX-512 with VNNI, and BF16
// where __AVX512BF16__ is defined), 256 (AVX2 with FMA
// and F16C, and AVX-VNNI where __AVXVNNI__ is defined) or 0 (plain C++).
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#if LANDRACE_LANES > 0
#include <immintrin.h>
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

inline float half_to_float(uint16_t half) {
    const uint32_t sign = static_cast<uint32_t>(half & 0x8000u) << 16;
    const uint32_t exponent = (half >> 10) & 31u;
    const uint32_t mantissa = half & 1023u;
    uint32_t bits;
    if (exponent == 31) {
        // Hardware converters make a NaN quiet.
        bits = sign | 0x7f800000u | (mantissa << 13) | (mantissa ? 0x400000u : 0u);
    } else if (exponent != 0) {
        bits = sign | ((exponent + 112) << 23) | (mantissa << 13);
    } else {
        const float small = static_cast<float>(mantissa) * 0x1p-24f;
        std::memcpy(&bits, &small, 4);
        bits |= sign;
    }
    float value;
    std::memcpy(&value, &bits, 4);
    return value;
}

/// To nearest, ties to even.
inline uint16_t float_to_half(float value) {
    uint32_t bits;
    std::memcpy(&bits, &value, 4);
    const uint16_t sign = static_cast<uint16_t>(bits >> 16 & 0x8000u);
    const uint32_t magnitude = bits & 0x7fffffffu;
    if (magnitude > 0x7f800000u) return static_cast<uint16_t>(sign | 0x7e00u | (magnitude >> 13 & 0x3ffu));
    if (magnitude >= 0x477ff000u) return static_cast<uint16_t>(sign | 0x7c00u);  // 65520 and more
    if (magnitude < 0x38800000u) {
        // Below the normal range: adding 0.5 leaves the rounded multiple of 2^-24 in the low bits.
        float small;
        std::memcpy(&small, &magnitude, 4);
        small += 0.5f;
        std::memcpy(&bits, &small, 4);
        return static_cast<uint16_t>(sign | (bits - 0x3f000000u));
    }
    const uint32_t rounded = magnitude + 0xfffu + (magnitude >> 13 & 1u);
    return static_cast<uint16_t>(sign | (rounded - 0x38000000u) >> 13);
}

/// Asks for a cache line that will be read soon; `at` may lie outside of any memory.
inline void prefetch(const void* at) { __builtin_prefetch(at); }

inline int32_t load_quad(const void* at) {
    int32_t quad;
    std::memcpy(&quad, at, 4);
    return quad;
}

#if LANDRACE_LANES == 512

struct Floats { __m512 v; };
struct Ints { __m512i v; };
/// Sixty-four bytes: four to a lane.
struct Bytes { __m512i v; };
/// Two bfloat16 to a lane, the first in the low half. dot(acc, a, b) adds the product of the second ones and then that of
/// the first ones, each rounded once, and takes denormal numbers for zeros: what the vdpbf16ps instruction does.
/// Instruction sets without it need a `FlushDenormals`.
struct Pairs { __m512i v; };

inline Floats load(const float* p) { return {_mm512_loadu_ps(p)}; }
inline Floats load_some(const float* p, int n) { return {_mm512_maskz_loadu_ps(static_cast<__mmask16>((1u << n) - 1), p)}; }
inline void store(float* p, Floats a) { _mm512_storeu_ps(p, a.v); }
inline void store_some(float* p, Floats a, int n) { _mm512_mask_storeu_ps(p, static_cast<__mmask16>((1u << n) - 1), a.v); }
inline Floats all(float x) { return {_mm512_set1_ps(x)}; }
inline Floats load_half(const void* p) { return {_mm512_cvtph_ps(_mm256_loadu_si256(static_cast<const __m256i*>(p)))}; }
inline Floats load_bfloat(const void* p) {
    const __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(static_cast<const __m256i*>(p)));
    return {_mm512_castsi512_ps(_mm512_slli_epi32(wide, 16))};
}
inline Floats load_u8(const void* p) {
    return {_mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128(static_cast<const __m128i*>(p))))};
}
inline Floats load_i8(const void* p) {
    return {_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(static_cast<const __m128i*>(p))))};
}
inline Floats add(Floats a, Floats b) { return {_mm512_add_ps(a.v, b.v)}; }
inline Floats sub(Floats a, Floats b) { return {_mm512_sub_ps(a.v, b.v)}; }
inline Floats mul(Floats a, Floats b) { return {_mm512_mul_ps(a.v, b.v)}; }
inline Floats div(Floats a, Floats b) { return {_mm512_div_ps(a.v, b.v)}; }
inline Floats fma(Floats a, Floats b, Floats c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
/// c - a * b.
inline Floats fnma(Floats a, Floats b, Floats c) { return {_mm512_fnmadd_ps(a.v, b.v, c.v)}; }
/// The greater lane; b where either is NaN. `min` likewise.
inline Floats max(Floats a, Floats b) { return {_mm512_max_ps(a.v, b.v)}; }
inline Floats min(Floats a, Floats b) { return {_mm512_min_ps(a.v, b.v)}; }
/// yes where a < b, else no.
inline Floats where_less(Floats a, Floats b, Floats yes, Floats no) {
    return {_mm512_mask_blend_ps(_mm512_cmp_ps_mask(a.v, b.v, _CMP_LT_OQ), no.v, yes.v)};
}
/// `inside` in lanes first <= i < end, else `outside`.
inline Floats where_lane(int first, int end, Floats inside, Floats outside) {
    const uint32_t mask = ((1u << end) - 1) & ~((1u << first) - 1);
    return {_mm512_mask_blend_ps(static_cast<__mmask16>(mask), outside.v, inside.v)};
}
/// |a| as an integer: ordered like the magnitudes, infinity above all numbers and NaN above infinity.
inline Ints magnitude(Floats a) { return {_mm512_and_epi32(_mm512_castps_si512(a.v), _mm512_set1_epi32(0x7fffffff))}; }
inline Ints max(Ints a, Ints b) { return {_mm512_max_epi32(a.v, b.v)}; }
inline Ints load_ints(const int32_t* p) { return {_mm512_loadu_si512(p)}; }
inline Ints all_ints(int32_t x) { return {_mm512_set1_epi32(x)}; }
inline Ints add(Ints a, Ints b) { return {_mm512_add_epi32(a.v, b.v)}; }
inline Ints sub(Ints a, Ints b) { return {_mm512_sub_epi32(a.v, b.v)}; }
/// a * 2^n.
template <int n> inline Ints doubled(Ints a) { return {_mm512_slli_epi32(a.v, n)}; }
inline Floats to_float(Ints a) { return {_mm512_cvtepi32_ps(a.v)}; }
/// To the nearest integer, ties to even; what does not fit becomes INT32_MIN.
inline Ints round_to_int(Floats a) { return {_mm512_cvtps_epi32(a.v)}; }
/// 2^n for -126 <= n <= 127.
inline Floats power_of_two(Ints n) {
    return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_add_epi32(n.v, _mm512_set1_epi32(127)), 23))};
}
/// The low byte of every lane, saturated from a signed integer.
inline void store_i8(int8_t* p, Ints a) { _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtsepi32_epi8(a.v)); }
inline void store_ints(int32_t* p, Ints a) { _mm512_storeu_si512(p, a.v); }
/// Rounded to float16, ties to even; NaN stays NaN.
inline void store_half(void* p, Floats a) {
    _mm256_storeu_si256(static_cast<__m256i*>(p), _mm512_cvtps_ph(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
/// Rounded to bfloat16, ties to even; NaN stays NaN.
inline void store_bfloat(void* p, Floats a) {
    const __m512i bits = _mm512_castps_si512(a.v);
    const __m512i odd = _mm512_and_epi32(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    const __m512i rounded = _mm512_srli_epi32(_mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff))), 16);
    const __m512i quiet = _mm512_or_epi32(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(0x40));
    const __m512i kept = _mm512_mask_blend_epi32(_mm512_cmp_ps_mask(a.v, a.v, _CMP_UNORD_Q), rounded, quiet);
    _mm256_storeu_si256(static_cast<__m256i*>(p), _mm512_cvtepi32_epi16(kept));
}
inline Bytes load_bytes(const void* p) { return {_mm512_loadu_si512(p)}; }
inline void store_bytes(void* p, Bytes a) { _mm512_storeu_si512(p, a.v); }
inline Bytes all_bytes(uint8_t x) { return {_mm512_set1_epi8(static_cast<char>(x))}; }
inline Bytes both(Bytes a, Bytes b) { return {_mm512_and_si512(a.v, b.v)}; }
inline Bytes either(Bytes a, Bytes b) { return {_mm512_or_si512(a.v, b.v)}; }
/// Shifts 16-bit pairs: the caller masks away what crosses a byte.
template <int n> inline Bytes right(Bytes a) { return {_mm512_srli_epi16(a.v, n)}; }
template <int n> inline Bytes left(Bytes a) { return {_mm512_slli_epi16(a.v, n)}; }
/// acc + the dot product of every lane's four unsigned bytes with the four signed bytes of `quad`; exact.
inline Ints dot(Ints acc, Bytes unsigned_bytes, int32_t quad) {
    return {_mm512_dpbusd_epi32(acc.v, unsigned_bytes.v, _mm512_set1_epi32(quad))};
}
inline Pairs load_pairs(const void* p) { return {_mm512_loadu_si512(p)}; }
inline Pairs all_pairs(uint32_t pair) { return {_mm512_set1_epi32(static_cast<int32_t>(pair))}; }
#ifdef __AVX512BF16__
inline Floats dot(Floats acc, Pairs a, Pairs b) {
    return {_mm512_dpbf16_ps(acc.v, reinterpret_cast<__m512bh>(a.v), reinterpret_cast<__m512bh>(b.v))};
}
#else
inline Floats dot(Floats acc, Pairs a, Pairs b) {
    const __m512i high = _mm512_set1_epi32(static_cast<int32_t>(0xffff0000u));
    const auto second = [&](Pairs x) { return _mm512_castsi512_ps(_mm512_and_si512(x.v, high)); };
    const auto first = [](Pairs x) { return _mm512_castsi512_ps(_mm512_slli_epi32(x.v, 16)); };
    return {_mm512_fmadd_ps(first(a), first(b), _mm512_fmadd_ps(second(a), second(b), acc.v))};
}
#endif
inline float sum(Floats a) {
    const __m256 eight = _mm256_add_ps(_mm512_castps512_ps256(a.v), _mm512_extractf32x8_ps(a.v, 1));
    const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps(two, two, 1)));
}
inline float greatest(Floats a) { return _mm512_reduce_max_ps(a.v); }
inline int32_t greatest(Ints a) { return _mm512_reduce_max_epi32(a.v); }
inline int32_t sum(Ints a) { return _mm512_reduce_add_epi32(a.v); }

#elif LANDRACE_LANES == 256

struct Floats { __m256 lo, hi; };
struct Ints { __m256i lo, hi; };
struct Bytes { __m256i lo, hi; };
struct Pairs { __m256i lo, hi; };

inline Floats load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
inline void store(float* p, Floats a) { _mm256_storeu_ps(p, a.lo); _mm256_storeu_ps(p + 8, a.hi); }
inline Floats load_some(const float* p, int n) {
    float buffer[16] = {};
    std::memcpy(buffer, p, sizeof(float) * static_cast<size_t>(n));
    return load(buffer);
}
inline void store_some(float* p, Floats a, int n) {
    float buffer[16];
    store(buffer, a);
    std::memcpy(p, buffer, sizeof(float) * static_cast<size_t>(n));
}
inline Floats all(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
inline Floats load_half(const void* p) {
    const auto* at = static_cast<const __m128i*>(p);
    return {_mm256_cvtph_ps(_mm_loadu_si128(at)), _mm256_cvtph_ps(_mm_loadu_si128(at + 1))};
}
inline Floats load_bfloat(const void* p) {
    const auto* at = static_cast<const __m128i*>(p);
    const __m256i lo = _mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128(at)), 16);
    const __m256i hi = _mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128(at + 1)), 16);
    return {_mm256_castsi256_ps(lo), _mm256_castsi256_ps(hi)};
}
inline Floats load_u8(const void* p) {
    const __m128i all16 = _mm_loadu_si128(static_cast<const __m128i*>(p));
    return {_mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(all16)), _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_srli_si128(all16, 8)))};
}
inline Floats load_i8(const void* p) {
    const __m128i all16 = _mm_loadu_si128(static_cast<const __m128i*>(p));
    return {_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(all16)), _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_srli_si128(all16, 8)))};
}
inline Floats add(Floats a, Floats b) { return {_mm256_add_ps(a.lo, b.lo), _mm256_add_ps(a.hi, b.hi)}; }
inline Floats sub(Floats a, Floats b) { return {_mm256_sub_ps(a.lo, b.lo), _mm256_sub_ps(a.hi, b.hi)}; }
inline Floats mul(Floats a, Floats b) { return {_mm256_mul_ps(a.lo, b.lo), _mm256_mul_ps(a.hi, b.hi)}; }
inline Floats div(Floats a, Floats b) { return {_mm256_div_ps(a.lo, b.lo), _mm256_div_ps(a.hi, b.hi)}; }
inline Floats fma(Floats a, Floats b, Floats c) { return {_mm256_fmadd_ps(a.lo, b.lo, c.lo), _mm256_fmadd_ps(a.hi, b.hi, c.hi)}; }
inline Floats fnma(Floats a, Floats b, Floats c) { return {_mm256_fnmadd_ps(a.lo, b.lo, c.lo), _mm256_fnmadd_ps(a.hi, b.hi, c.hi)}; }
inline Floats max(Floats a, Floats b) { return {_mm256_max_ps(a.lo, b.lo), _mm256_max_ps(a.hi, b.hi)}; }
inline Floats min(Floats a, Floats b) { return {_mm256_min_ps(a.lo, b.lo), _mm256_min_ps(a.hi, b.hi)}; }
inline Floats where_less(Floats a, Floats b, Floats yes, Floats no) {
    return {_mm256_blendv_ps(no.lo, yes.lo, _mm256_cmp_ps(a.lo, b.lo, _CMP_LT_OQ)),
            _mm256_blendv_ps(no.hi, yes.hi, _mm256_cmp_ps(a.hi, b.hi, _CMP_LT_OQ))};
}
inline Floats where_lane(int first, int end, Floats inside, Floats outside) {
    const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    const auto pick = [&](__m256i lanes, __m256 in, __m256 out) {
        const __m256i from = _mm256_cmpgt_epi32(lanes, _mm256_set1_epi32(first - 1));
        const __m256i until = _mm256_cmpgt_epi32(_mm256_set1_epi32(end), lanes);
        return _mm256_blendv_ps(out, in, _mm256_castsi256_ps(_mm256_and_si256(from, until)));
    };
    return {pick(lane, inside.lo, outside.lo), pick(_mm256_add_epi32(lane, _mm256_set1_epi32(8)), inside.hi, outside.hi)};
}
inline Ints magnitude(Floats a) {
    const __m256i mask = _mm256_set1_epi32(0x7fffffff);
    return {_mm256_and_si256(_mm256_castps_si256(a.lo), mask), _mm256_and_si256(_mm256_castps_si256(a.hi), mask)};
}
inline Ints max(Ints a, Ints b) { return {_mm256_max_epi32(a.lo, b.lo), _mm256_max_epi32(a.hi, b.hi)}; }
inline Ints load_ints(const int32_t* p) {
    const auto* at = reinterpret_cast<const __m256i*>(p);
    return {_mm256_loadu_si256(at), _mm256_loadu_si256(at + 1)};
}
inline Ints all_ints(int32_t x) { return {_mm256_set1_epi32(x), _mm256_set1_epi32(x)}; }
inline Ints add(Ints a, Ints b) { return {_mm256_add_epi32(a.lo, b.lo), _mm256_add_epi32(a.hi, b.hi)}; }
inline Ints sub(Ints a, Ints b) { return {_mm256_sub_epi32(a.lo, b.lo), _mm256_sub_epi32(a.hi, b.hi)}; }
template <int n> inline Ints doubled(Ints a) { return {_mm256_slli_epi32(a.lo, n), _mm256_slli_epi32(a.hi, n)}; }
inline Floats to_float(Ints a) { return {_mm256_cvtepi32_ps(a.lo), _mm256_cvtepi32_ps(a.hi)}; }
inline Ints round_to_int(Floats a) { return {_mm256_cvtps_epi32(a.lo), _mm256_cvtps_epi32(a.hi)}; }
inline Floats power_of_two(Ints n) {
    const __m256i bias = _mm256_set1_epi32(127);
    return {_mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(n.lo, bias), 23)),
            _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(n.hi, bias), 23))};
}
inline void store_i8(int8_t* p, Ints a) {
    const __m256i words = _mm256_permute4x64_epi64(_mm256_packs_epi32(a.lo, a.hi), 0xd8);
    const __m256i bytes = _mm256_packs_epi16(words, words);
    _mm_storel_epi64(reinterpret_cast<__m128i*>(p), _mm256_castsi256_si128(bytes));
    _mm_storel_epi64(reinterpret_cast<__m128i*>(p + 8), _mm256_extracti128_si256(bytes, 1));
}
inline void store_ints(int32_t* p, Ints a) {
    auto* at = reinterpret_cast<__m256i*>(p);
    _mm256_storeu_si256(at, a.lo);
    _mm256_storeu_si256(at + 1, a.hi);
}
inline void store_half(void* p, Floats a) {
    auto* at = static_cast<__m128i*>(p);
    _mm_storeu_si128(at, _mm256_cvtps_ph(a.lo, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
    _mm_storeu_si128(at + 1, _mm256_cvtps_ph(a.hi, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
inline void store_bfloat(void* p, Floats a) {
    const auto narrow = [](__m256 half) {
        const __m256i bits = _mm256_castps_si256(half);
        const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
        const __m256i rounded = _mm256_srli_epi32(_mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff))), 16);
        const __m256i quiet = _mm256_or_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(0x40));
        return _mm256_blendv_epi8(rounded, quiet, _mm256_castps_si256(_mm256_cmp_ps(half, half, _CMP_UNORD_Q)));
    };
    const __m256i words = _mm256_packus_epi32(narrow(a.lo), narrow(a.hi));
    _mm256_storeu_si256(static_cast<__m256i*>(p), _mm256_permute4x64_epi64(words, 0xd8));
}
inline Bytes load_bytes(const void* p) {
    const auto* at = static_cast<const __m256i*>(p);
    return {_mm256_loadu_si256(at), _mm256_loadu_si256(at + 1)};
}
inline void store_bytes(void* p, Bytes a) {
    auto* at = static_cast<__m256i*>(p);
    _mm256_storeu_si256(at, a.lo);
    _mm256_storeu_si256(at + 1, a.hi);
}
inline Bytes all_bytes(uint8_t x) { return {_mm256_set1_epi8(static_cast<char>(x)), _mm256_set1_epi8(static_cast<char>(x))}; }
inline Bytes both(Bytes a, Bytes b) { return {_mm256_and_si256(a.lo, b.lo), _mm256_and_si256(a.hi, b.hi)}; }
inline Bytes either(Bytes a, Bytes b) { return {_mm256_or_si256(a.lo, b.lo), _mm256_or_si256(a.hi, b.hi)}; }
template <int n> inline Bytes right(Bytes a) { return {_mm256_srli_epi16(a.lo, n), _mm256_srli_epi16(a.hi, n)}; }
template <int n> inline Bytes left(Bytes a) { return {_mm256_slli_epi16(a.lo, n), _mm256_slli_epi16(a.hi, n)}; }
inline __m256i dot_half(__m256i acc, __m256i u, __m256i s) {
#ifdef __AVXVNNI__
    return _mm256_dpbusd_avx_epi32(acc, u, s);
#else
    // maddubs would saturate at 255 * 127 * 2; even and odd bytes apart stay exact in 16-bit products.
    const __m256i low = _mm256_set1_epi16(0xff);
    const __m256i even = _mm256_madd_epi16(_mm256_and_si256(u, low), _mm256_srai_epi16(_mm256_slli_epi16(s, 8), 8));
    const __m256i odd = _mm256_madd_epi16(_mm256_srli_epi16(u, 8), _mm256_srai_epi16(s, 8));
    return _mm256_add_epi32(acc, _mm256_add_epi32(even, odd));
#endif
}
inline Ints dot(Ints acc, Bytes unsigned_bytes, int32_t quad) {
    const __m256i s = _mm256_set1_epi32(quad);
    return {dot_half(acc.lo, unsigned_bytes.lo, s), dot_half(acc.hi, unsigned_bytes.hi, s)};
}
inline Pairs load_pairs(const void* p) {
    const auto* at = static_cast<const __m256i*>(p);
    return {_mm256_loadu_si256(at), _mm256_loadu_si256(at + 1)};
}
inline Pairs all_pairs(uint32_t pair) {
    const __m256i all8 = _mm256_set1_epi32(static_cast<int32_t>(pair));
    return {all8, all8};
}
inline Floats dot(Floats acc, Pairs a, Pairs b) {
    const __m256i high = _mm256_set1_epi32(static_cast<int32_t>(0xffff0000u));
    const auto second = [&](__m256i x) { return _mm256_castsi256_ps(_mm256_and_si256(x, high)); };
    const auto first = [](__m256i x) { return _mm256_castsi256_ps(_mm256_slli_epi32(x, 16)); };
    return {_mm256_fmadd_ps(first(a.lo), first(b.lo), _mm256_fmadd_ps(second(a.lo), second(b.lo), acc.lo)),
            _mm256_fmadd_ps(first(a.hi), first(b.hi), _mm256_fmadd_ps(second(a.hi), second(b.hi), acc.hi))};
}
inline float sum(Floats a) {
    const __m256 eight = _mm256_add_ps(a.lo, a.hi);
    const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps(two, two, 1)));
}
inline float greatest(Floats a) {
    const __m256 eight = _mm256_max_ps(a.lo, a.hi);
    const __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_max_ss(two, _mm_shuffle_ps(two, two, 1)));
}
inline int32_t greatest(Ints a) {
    int32_t lanes[16];
    store_ints(lanes, a);
    int32_t best = lanes[0];
    for (int i = 1; i < 16; ++i) best = lanes[i] > best ? lanes[i] : best;
    return best;
}
inline int32_t sum(Ints a) {
    int32_t lanes[16];
    store_ints(lanes, a);
    int32_t total = 0;
    for (int i = 0; i < 16; ++i) total += lanes[i];
    return total;
}

#else

struct Floats { float v[16]; };
struct Ints { int32_t v[16]; };
struct Bytes { uint8_t v[64]; };
struct Pairs { uint32_t v[16]; };

template <class F> inline Floats each(F f) {
    Floats out;
    for (int i = 0; i < 16; ++i) out.v[i] = f(i);
    return out;
}
template <class F> inline Ints each_int(F f) {
    Ints out;
    for (int i = 0; i < 16; ++i) out.v[i] = f(i);
    return out;
}
inline Floats load(const float* p) { return each([&](int i) { return p[i]; }); }
inline Floats load_some(const float* p, int n) { return each([&](int i) { return i < n ? p[i] : 0.0f; }); }
inline void store(float* p, Floats a) { std::memcpy(p, a.v, sizeof(a.v)); }
inline void store_some(float* p, Floats a, int n) { std::memcpy(p, a.v, sizeof(float) * static_cast<size_t>(n)); }
inline Floats all(float x) { return each([&](int) { return x; }); }
inline Floats load_half(const void* p) {
    uint16_t half[16];
    std::memcpy(half, p, sizeof(half));
    return each([&](int i) { return half_to_float(half[i]); });
}
inline Floats load_bfloat(const void* p) {
    uint16_t half[16];
    std::memcpy(half, p, sizeof(half));
    return each([&](int i) {
        const uint32_t bits = static_cast<uint32_t>(half[i]) << 16;
        float value;
        std::memcpy(&value, &bits, 4);
        return value;
    });
}
inline Floats load_u8(const void* p) { return each([&](int i) { return static_cast<float>(static_cast<const uint8_t*>(p)[i]); }); }
inline Floats load_i8(const void* p) { return each([&](int i) { return static_cast<float>(static_cast<const int8_t*>(p)[i]); }); }
inline Floats add(Floats a, Floats b) { return each([&](int i) { return a.v[i] + b.v[i]; }); }
inline Floats sub(Floats a, Floats b) { return each([&](int i) { return a.v[i] - b.v[i]; }); }
inline Floats mul(Floats a, Floats b) { return each([&](int i) { return a.v[i] * b.v[i]; }); }
inline Floats div(Floats a, Floats b) { return each([&](int i) { return a.v[i] / b.v[i]; }); }
inline Floats fma(Floats a, Floats b, Floats c) { return each([&](int i) { return std::fma(a.v[i], b.v[i], c.v[i]); }); }
inline Floats fnma(Floats a, Floats b, Floats c) { return each([&](int i) { return std::fma(-a.v[i], b.v[i], c.v[i]); }); }
inline Floats max(Floats a, Floats b) { return each([&](int i) { return a.v[i] > b.v[i] ? a.v[i] : b.v[i]; }); }
inline Floats min(Floats a, Floats b) { return each([&](int i) { return a.v[i] < b.v[i] ? a.v[i] : b.v[i]; }); }
inline Floats where_less(Floats a, Floats b, Floats yes, Floats no) { return each([&](int i) { return a.v[i] < b.v[i] ? yes.v[i] : no.v[i]; }); }
inline Floats where_lane(int first, int end, Floats inside, Floats outside) {
    return each([&](int i) { return first <= i && i < end ? inside.v[i] : outside.v[i]; });
}
inline Ints magnitude(Floats a) {
    return each_int([&](int i) {
        int32_t bits;
        std::memcpy(&bits, &a.v[i], 4);
        return bits & 0x7fffffff;
    });
}
inline Ints max(Ints a, Ints b) { return each_int([&](int i) { return a.v[i] > b.v[i] ? a.v[i] : b.v[i]; }); }
inline Ints load_ints(const int32_t* p) { return each_int([&](int i) { return p[i]; }); }
inline Ints all_ints(int32_t x) { return each_int([&](int) { return x; }); }
inline Ints add(Ints a, Ints b) {
    return each_int([&](int i) { return static_cast<int32_t>(static_cast<uint32_t>(a.v[i]) + static_cast<uint32_t>(b.v[i])); });
}
inline Ints sub(Ints a, Ints b) {
    return each_int([&](int i) { return static_cast<int32_t>(static_cast<uint32_t>(a.v[i]) - static_cast<uint32_t>(b.v[i])); });
}
template <int n> inline Ints doubled(Ints a) {
    return each_int([&](int i) { return static_cast<int32_t>(static_cast<uint32_t>(a.v[i]) << n); });
}
inline Floats to_float(Ints a) { return each([&](int i) { return static_cast<float>(a.v[i]); }); }
inline Ints round_to_int(Floats a) {
    return each_int([&](int i) {
        const float x = a.v[i];
        return x >= -2147483648.0f && x < 2147483648.0f ? static_cast<int32_t>(std::nearbyint(x)) : INT32_MIN;
    });
}
inline Floats power_of_two(Ints n) {
    return each([&](int i) {
        const uint32_t bits = (static_cast<uint32_t>(n.v[i]) + 127u) << 23;
        float value;
        std::memcpy(&value, &bits, 4);
        return value;
    });
}
inline void store_i8(int8_t* p, Ints a) {
    for (int i = 0; i < 16; ++i) p[i] = static_cast<int8_t>(a.v[i] < -128 ? -128 : a.v[i] > 127 ? 127 : a.v[i]);
}
inline void store_ints(int32_t* p, Ints a) { std::memcpy(p, a.v, sizeof(a.v)); }
inline void store_half(void* p, Floats a) {
    uint16_t out[16];
    for (int i = 0; i < 16; ++i) out[i] = float_to_half(a.v[i]);
    std::memcpy(p, out, sizeof(out));
}
inline void store_bfloat(void* p, Floats a) {
    uint16_t out[16];
    for (int i = 0; i < 16; ++i) {
        uint32_t bits;
        std::memcpy(&bits, &a.v[i], 4);
        const uint32_t rounded = (bits + ((bits >> 16 & 1u) + 0x7fffu)) >> 16;
        out[i] = static_cast<uint16_t>(a.v[i] != a.v[i] ? (bits >> 16) | 0x40u : rounded);
    }
    std::memcpy(p, out, sizeof(out));
}
inline Bytes load_bytes(const void* p) {
    Bytes out;
    std::memcpy(out.v, p, 64);
    return out;
}
inline void store_bytes(void* p, Bytes a) { std::memcpy(p, a.v, 64); }
template <class F> inline Bytes each_byte(F f) {
    Bytes out;
    for (int i = 0; i < 64; ++i) out.v[i] = static_cast<uint8_t>(f(i));
    return out;
}
inline Bytes all_bytes(uint8_t x) { return each_byte([&](int) { return x; }); }
inline Bytes both(Bytes a, Bytes b) { return each_byte([&](int i) { return a.v[i] & b.v[i]; }); }
inline Bytes either(Bytes a, Bytes b) { return each_byte([&](int i) { return a.v[i] | b.v[i]; }); }
/// Callers mask away what would cross a byte, so shifting bytes alone is the same.
template <int n> inline Bytes right(Bytes a) { return each_byte([&](int i) { return a.v[i] >> n; }); }
template <int n> inline Bytes left(Bytes a) { return each_byte([&](int i) { return a.v[i] << n; }); }
inline Ints dot(Ints acc, Bytes unsigned_bytes, int32_t quad) {
    int8_t s[4];
    std::memcpy(s, &quad, 4);
    return each_int([&](int i) {
        const uint8_t* u = unsigned_bytes.v + 4 * i;
        return acc.v[i] + u[0] * s[0] + u[1] * s[1] + u[2] * s[2] + u[3] * s[3];
    });
}
inline Pairs load_pairs(const void* p) {
    Pairs out;
    std::memcpy(out.v, p, 64);
    return out;
}
inline Pairs all_pairs(uint32_t pair) {
    Pairs out;
    for (uint32_t& lane : out.v) lane = pair;
    return out;
}
inline Floats dot(Floats acc, Pairs a, Pairs b) {
    const auto flushed = [](float x) { return std::fabs(x) < 0x1p-126f ? std::copysign(0.0f, x) : x; };
    const auto number = [&](uint32_t bits) {
        float value;
        std::memcpy(&value, &bits, 4);
        return flushed(value);
    };
    return each([&](int i) {
        const float one = flushed(std::fma(number(a.v[i] & 0xffff0000u), number(b.v[i] & 0xffff0000u), acc.v[i]));
        return flushed(std::fma(number(a.v[i] << 16), number(b.v[i] << 16), one));
    });
}
inline float sum(Floats a) {
    for (int half = 8; half > 0; half /= 2)
        for (int i = 0; i < half; ++i) a.v[i] += a.v[i + half];
    return a.v[0];
}
inline float greatest(Floats a) {
    for (int half = 8; half > 0; half /= 2)
        for (int i = 0; i < half; ++i) a.v[i] = a.v[i] > a.v[i + half] ? a.v[i] : a.v[i + half];
    return a.v[0];
}
inline int32_t greatest(Ints a) {
    int32_t best = a.v[0];
    for (int i = 1; i < 16; ++i) best = a.v[i] > best ? a.v[i] : best;
    return best;
}
inline int32_t sum(Ints a) {
    int32_t total = 0;
    for (int i = 0; i < 16; ++i) total += a.v[i];
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
