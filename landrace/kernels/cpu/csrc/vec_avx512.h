// The vectors of vec.h in AVX-512 F, BW, VL, DQ and VNNI, and BF16 where the compiler may use it. What each operation means
// is said here.
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstring>

namespace landrace {
namespace LANDRACE_ISA {

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
/// E4M3 (without infinities), 256 times smaller.
inline Floats load_f8(const void* p) {
    const __m256i wide = _mm256_cvtepu8_epi16(_mm_loadu_si128(static_cast<const __m128i*>(p)));
    const __m256i sign = _mm256_slli_epi16(_mm256_and_si256(wide, _mm256_set1_epi16(0x80)), 8);
    const __m256i rest = _mm256_slli_epi16(_mm256_and_si256(wide, _mm256_set1_epi16(0x7f)), 7);
    return {_mm512_cvtph_ps(_mm256_or_si256(sign, rest))};
}
/// E5M2: a float16 without its low byte.
inline Floats load_e5m2(const void* p) {
    return {_mm512_cvtph_ps(_mm256_slli_epi16(_mm256_cvtepu8_epi16(_mm_loadu_si128(static_cast<const __m128i*>(p))), 8))};
}
/// The table's entries for the four bits from `shift` on, 0 or 4, of sixteen bytes.
inline Floats lookup_halves(const float table[16], const void* p, int shift) {
    const __m512i bytes = _mm512_cvtepu8_epi32(_mm_loadu_si128(static_cast<const __m128i*>(p)));
    return {_mm512_permutexvar_ps(_mm512_srl_epi32(bytes, _mm_cvtsi32_si128(shift)), _mm512_loadu_ps(table))};
}
inline Floats load_u8(const void* p) {
    return {_mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128(static_cast<const __m128i*>(p))))};
}
inline Floats load_i8(const void* p) {
    return {_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(static_cast<const __m128i*>(p))))};
}
/// Of sixteen bytes the low halves and the high halves.
inline void load_nibbles(const void* p, Floats& low, Floats& high) {
    const __m512i wide = _mm512_cvtepu8_epi32(_mm_loadu_si128(static_cast<const __m128i*>(p)));
    low = {_mm512_cvtepi32_ps(_mm512_and_epi32(wide, _mm512_set1_epi32(15)))};
    high = {_mm512_cvtepi32_ps(_mm512_srli_epi32(wide, 4))};
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
/// Lane i of `inside` where bit i is set, else of `outside`.
inline Floats where_bits(uint32_t bits, Floats inside, Floats outside) {
    return {_mm512_mask_blend_ps(static_cast<__mmask16>(bits), outside.v, inside.v)};
}
/// |a| as an integer: ordered like the magnitudes, infinity above all numbers and NaN above infinity.
inline Ints magnitude(Floats a) { return {_mm512_and_epi32(_mm512_castps_si512(a.v), _mm512_set1_epi32(0x7fffffff))}; }
inline Ints max(Ints a, Ints b) { return {_mm512_max_epi32(a.v, b.v)}; }
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
/// The table's entry for every byte, which is below 16.
inline Bytes lookup(const uint8_t table[16], Bytes codes) {
    const __m128i entries = _mm_loadu_si128(reinterpret_cast<const __m128i*>(table));
    return {_mm512_shuffle_epi8(_mm512_broadcast_i32x4(entries), codes.v)};
}
/// acc + the dot product of every lane's four unsigned bytes with the four signed bytes of `quad`; exact.
inline Ints dot(Ints acc, Bytes unsigned_bytes, int32_t quad) {
    return {_mm512_dpbusd_epi32(acc.v, unsigned_bytes.v, _mm512_set1_epi32(quad))};
}
inline Pairs load_pairs(const void* p) { return {_mm512_loadu_si512(p)}; }
inline void store_pairs(void* p, Pairs a) { _mm512_storeu_si512(p, a.v); }
/// Sixteen exponents of bfloat16 numbers, by the codes that stand for them.
struct Exponents { __m512i v; };
inline Exponents load_exponents(const uint8_t* p) {
    const __m256i words = _mm256_slli_epi16(_mm256_cvtepu8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))), 7);
    return {_mm512_broadcast_i64x4(words)};  // twice: a code is looked up with the lowest bit of what stands above it
}
/// Two vectors of 32 bfloat16 out of 96 bytes: their signs and mantissas, the first vector's and then the second's, and 32
/// bytes with the code of a number's exponent in the low half for the first one, in the high half for the second.
inline void load_compact(const uint8_t* p, Exponents exponents, Pairs& first, Pairs& second) {
    const auto* at = reinterpret_cast<const __m256i*>(p);
    const auto number = [&](const __m256i* rest, __m512i codes) -> Pairs {
        const __m512i wide = _mm512_cvtepi8_epi16(_mm256_loadu_si256(rest)), kept = _mm512_set1_epi16(static_cast<short>(0x807f));
        constexpr int kAndThenOr = 0xea;  // (a & b) | c
        return {_mm512_ternarylogic_epi32(wide, kept, _mm512_permutexvar_epi16(codes, exponents.v), kAndThenOr)};
    };
    const __m512i codes = _mm512_cvtepu8_epi16(_mm256_loadu_si256(at + 2));
    first = number(at, codes);
    second = number(at + 1, _mm512_srli_epi16(codes, 4));
}
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

}  // namespace LANDRACE_ISA
}  // namespace landrace
