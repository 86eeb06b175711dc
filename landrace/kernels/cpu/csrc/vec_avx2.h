// The vectors of vec.h in AVX2, FMA and F16C, and AVX-VNNI where the compiler may use it. What each operation means is
// said in vec_avx512.h.
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstring>

namespace landrace {
namespace LANDRACE_ISA {

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
inline Floats load_f8(const void* p) {
    const __m256i wide = _mm256_cvtepu8_epi16(_mm_loadu_si128(static_cast<const __m128i*>(p)));
    const __m256i sign = _mm256_slli_epi16(_mm256_and_si256(wide, _mm256_set1_epi16(0x80)), 8);
    const __m256i half = _mm256_or_si256(sign, _mm256_slli_epi16(_mm256_and_si256(wide, _mm256_set1_epi16(0x7f)), 7));
    return {_mm256_cvtph_ps(_mm256_castsi256_si128(half)), _mm256_cvtph_ps(_mm256_extracti128_si256(half, 1))};
}
inline Floats load_e5m2(const void* p) {
    const __m256i half = _mm256_slli_epi16(_mm256_cvtepu8_epi16(_mm_loadu_si128(static_cast<const __m128i*>(p))), 8);
    return {_mm256_cvtph_ps(_mm256_castsi256_si128(half)), _mm256_cvtph_ps(_mm256_extracti128_si256(half, 1))};
}
inline Floats lookup_halves(const float table[16], const void* p, int shift) {
    const __m128i bytes = _mm_loadu_si128(static_cast<const __m128i*>(p)), count = _mm_cvtsi32_si128(shift);
    const __m256 low = _mm256_loadu_ps(table), high = _mm256_loadu_ps(table + 8);
    const auto entries = [&](__m128i all8) {
        const __m256i codes = _mm256_srl_epi32(_mm256_cvtepu8_epi32(all8), count);
        // Three bits choose in each half of the table, the fourth one, put on top, between the halves.
        return _mm256_blendv_ps(_mm256_permutevar8x32_ps(low, codes), _mm256_permutevar8x32_ps(high, codes), _mm256_castsi256_ps(_mm256_slli_epi32(codes, 28)));
    };
    return {entries(bytes), entries(_mm_srli_si128(bytes, 8))};
}
inline Floats load_u8(const void* p) {
    const __m128i all16 = _mm_loadu_si128(static_cast<const __m128i*>(p));
    return {_mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(all16)), _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_srli_si128(all16, 8)))};
}
inline Floats load_i8(const void* p) {
    const __m128i all16 = _mm_loadu_si128(static_cast<const __m128i*>(p));
    return {_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(all16)), _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_srli_si128(all16, 8)))};
}
inline void load_nibbles(const void* p, Floats& low, Floats& high) {
    const __m128i bytes = _mm_loadu_si128(static_cast<const __m128i*>(p)), mask = _mm_set1_epi8(15);
    const auto wide = [](__m128i all16) -> Floats {
        return {_mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(all16)), _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_srli_si128(all16, 8)))};
    };
    low = wide(_mm_and_si128(bytes, mask));
    high = wide(_mm_and_si128(_mm_srli_epi16(bytes, 4), mask));
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
inline Floats where_bits(uint32_t bits, Floats inside, Floats outside) {
    const __m256i low = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
    const auto pick = [&](uint32_t of, __m256 in, __m256 out) {
        const __m256i mine = _mm256_and_si256(_mm256_set1_epi32(static_cast<int32_t>(of)), low);
        return _mm256_blendv_ps(out, in, _mm256_castsi256_ps(_mm256_cmpeq_epi32(mine, low)));
    };
    return {pick(bits, inside.lo, outside.lo), pick(bits >> 8, inside.hi, outside.hi)};
}
inline Ints magnitude(Floats a) {
    const __m256i mask = _mm256_set1_epi32(0x7fffffff);
    return {_mm256_and_si256(_mm256_castps_si256(a.lo), mask), _mm256_and_si256(_mm256_castps_si256(a.hi), mask)};
}
inline Ints max(Ints a, Ints b) { return {_mm256_max_epi32(a.lo, b.lo), _mm256_max_epi32(a.hi, b.hi)}; }
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
inline Bytes lookup(const uint8_t table[16], Bytes codes) {
    const __m256i entries = _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(table)));
    return {_mm256_shuffle_epi8(entries, codes.lo), _mm256_shuffle_epi8(entries, codes.hi)};
}
template <int n> inline Bytes right(Bytes a) { return {_mm256_srli_epi16(a.lo, n), _mm256_srli_epi16(a.hi, n)}; }
template <int n> inline Bytes left(Bytes a) { return {_mm256_slli_epi16(a.lo, n), _mm256_slli_epi16(a.hi, n)}; }
#ifdef __AVXVNNI__
inline Ints dot(Ints acc, Bytes unsigned_bytes, int32_t quad) {
    const __m256i s = _mm256_set1_epi32(quad);
    return {_mm256_dpbusd_avx_epi32(acc.lo, unsigned_bytes.lo, s), _mm256_dpbusd_avx_epi32(acc.hi, unsigned_bytes.hi, s)};
}
#else
/// Products are added in pairs into 16 bits here, which saturate.
#define LANDRACE_DOTS_BY_PAIRS
template <int bits, int offset_bits, int n> inline Ints dot_quads(const Bytes* quads, const int8_t* x, Ints minus_sum) {
    const __m256i ones = _mm256_set1_epi16(1);
    Ints total = offset_bits && bits < 8 ? doubled<offset_bits>(minus_sum) : all_ints(0);
    // Quads whose pairs of products fit 16 bits together: 2 * 127 * (2^bits - 1) each.
    constexpr int together = bits == 4 ? 8 : bits == 5 ? 4 : bits == 6 ? 2 : 1;
    static_assert(bits == 8 || together * 2 * 127 * ((1 << bits) - 1) < (1 << 15), "16 bits would saturate");
    static_assert(bits < 8 || offset_bits == 7, "eight bits are a signed byte and 128");
    for (int first = 0; first < n; first += together) {
        __m256i lo = _mm256_setzero_si256(), hi = lo;
        for (int i = first; i < n && i < first + together; ++i) {
            int32_t quad;
            std::memcpy(&quad, x + 4 * i, 4);
            const __m256i s = _mm256_set1_epi32(quad);
            if constexpr (bits < 8) {
                lo = _mm256_add_epi16(lo, _mm256_maddubs_epi16(quads[i].lo, s));
                hi = _mm256_add_epi16(hi, _mm256_maddubs_epi16(quads[i].hi, s));
            } else {
                // |weight| * (x with the weight's sign): at most 2 * 128 * 127, which fits.
                const __m256i sign = _mm256_set1_epi8(static_cast<char>(0x80));
                const __m256i a = _mm256_xor_si256(quads[i].lo, sign), b = _mm256_xor_si256(quads[i].hi, sign);
                lo = _mm256_maddubs_epi16(_mm256_abs_epi8(a), _mm256_sign_epi8(s, a));
                hi = _mm256_maddubs_epi16(_mm256_abs_epi8(b), _mm256_sign_epi8(s, b));
            }
        }
        total = {_mm256_add_epi32(total.lo, _mm256_madd_epi16(lo, ones)), _mm256_add_epi32(total.hi, _mm256_madd_epi16(hi, ones))};
    }
    return total;
}
#endif
inline Pairs load_pairs(const void* p) {
    const auto* at = static_cast<const __m256i*>(p);
    return {_mm256_loadu_si256(at), _mm256_loadu_si256(at + 1)};
}
inline void store_pairs(void* p, Pairs a) {
    auto* at = static_cast<__m256i*>(p);
    _mm256_storeu_si256(at, a.lo);
    _mm256_storeu_si256(at + 1, a.hi);
}
struct Exponents { __m256i v; };
inline Exponents load_exponents(const uint8_t* p) {
    return {_mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)))};
}
inline void load_compact(const uint8_t* p, Exponents exponents, Pairs& first, Pairs& second) {
    const auto* at = reinterpret_cast<const __m128i*>(p);
    const auto number = [](__m128i rest, __m128i exponent) {
        const __m256i kept = _mm256_and_si256(_mm256_cvtepi8_epi16(rest), _mm256_set1_epi16(static_cast<short>(0x807f)));
        return _mm256_or_si256(kept, _mm256_slli_epi16(_mm256_cvtepu8_epi16(exponent), 7));
    };
    const auto numbers = [&](const __m128i* rest, __m256i codes) -> Pairs {
        const __m256i found = _mm256_shuffle_epi8(exponents.v, codes);
        return {number(_mm_loadu_si128(rest), _mm256_castsi256_si128(found)), number(_mm_loadu_si128(rest + 1), _mm256_extracti128_si256(found, 1))};
    };
    const __m256i codes = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(at + 4)), low = _mm256_set1_epi8(15);
    first = numbers(at, _mm256_and_si256(codes, low));
    second = numbers(at + 2, _mm256_and_si256(_mm256_srli_epi16(codes, 4), low));
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

}  // namespace LANDRACE_ISA
}  // namespace landrace
