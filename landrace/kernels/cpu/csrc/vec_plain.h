// The vectors of vec.h in plain C++, for every other processor. What each operation means is said in vec_avx512.h.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "half.h"

namespace landrace {
namespace LANDRACE_ISA {

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
inline Floats load_f8(const void* p) {
    const auto* at = static_cast<const uint8_t*>(p);
    return each([&](int i) { return half_to_float(f8_as_half(at[i])); });
}
inline Floats load_e5m2(const void* p) {
    const auto* at = static_cast<const uint8_t*>(p);
    return each([&](int i) { return half_to_float(static_cast<uint16_t>(at[i] << 8)); });
}
inline Floats lookup_halves(const float table[16], const void* p, int shift) {
    const auto* at = static_cast<const uint8_t*>(p);
    return each([&](int i) { return table[at[i] >> shift & 15]; });
}
inline Floats load_u8(const void* p) { return each([&](int i) { return static_cast<float>(static_cast<const uint8_t*>(p)[i]); }); }
inline Floats load_i8(const void* p) { return each([&](int i) { return static_cast<float>(static_cast<const int8_t*>(p)[i]); }); }
inline void load_nibbles(const void* p, Floats& low, Floats& high) {
    const auto* at = static_cast<const uint8_t*>(p);
    low = each([&](int i) { return static_cast<float>(at[i] & 15); });
    high = each([&](int i) { return static_cast<float>(at[i] >> 4); });
}
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
inline Floats where_bits(uint32_t bits, Floats inside, Floats outside) {
    return each([&](int i) { return bits >> i & 1 ? inside.v[i] : outside.v[i]; });
}
inline Ints magnitude(Floats a) {
    return each_int([&](int i) {
        int32_t bits;
        std::memcpy(&bits, &a.v[i], 4);
        return bits & 0x7fffffff;
    });
}
inline Ints max(Ints a, Ints b) { return each_int([&](int i) { return a.v[i] > b.v[i] ? a.v[i] : b.v[i]; }); }
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
inline Bytes lookup(const uint8_t table[16], Bytes codes) { return each_byte([&](int i) { return table[codes.v[i]]; }); }
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
inline void store_pairs(void* p, Pairs a) { std::memcpy(p, a.v, 64); }
struct Exponents { const uint8_t* at; };
inline Exponents load_exponents(const uint8_t* p) { return {p}; }
inline void load_compact(const uint8_t* p, Exponents exponents, Pairs& first, Pairs& second) {
    const auto number = [&](int rest, int code) { return static_cast<uint32_t>((rest & 0x80) << 8 | exponents.at[code] << 7 | (rest & 0x7f)); };
    for (int i = 0; i < 16; ++i) {
        const uint8_t* codes = p + 64 + 2 * i;
        first.v[i] = number(p[2 * i], codes[0] & 15) | number(p[2 * i + 1], codes[1] & 15) << 16;
        second.v[i] = number(p[32 + 2 * i], codes[0] >> 4) | number(p[33 + 2 * i], codes[1] >> 4) << 16;
    }
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

}  // namespace LANDRACE_ISA
}  // namespace landrace
