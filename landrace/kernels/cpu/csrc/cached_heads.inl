// What happens to a head's channels on their way into the cache: rotation, and the type they are kept in.
#pragma once

#include "activations.inl"

namespace landrace {
namespace LANDRACE_ISA {

/// Turns channels i and i + half of one head by the table's angles; the rest stay.
inline void rotate(float* head, const float* cos, const float* sin, int half) {
    int i = 0;
    for (; i + kLanes <= half; i += kLanes) {
        const Floats c = load(cos + i), s = load(sin + i), a = load(head + i), b = load(head + half + i);
        store(head + i, fnma(b, s, mul(a, c)));
        store(head + half + i, fma(a, s, mul(b, c)));
    }
    if (i < half) {
        const int n = half - i;
        const Floats c = load_some(cos + i, n), s = load_some(sin + i, n);
        const Floats a = load_some(head + i, n), b = load_some(head + half + i, n);
        store_some(head + i, fnma(b, s, mul(a, c)), n);
        store_some(head + half + i, fma(a, s, mul(b, c)), n);
    }
}

/// Scale that maps the greatest magnitude of x to 127; the inverse is 0 where everything is 0. NaN where x is no number.
inline float int8_scale(const float* x, int n, float& inverse) {
    float greatest_magnitude = 0.0f;
    bool number = true;
    for (int i = 0; i < n; ++i) {
        const float m = std::fabs(x[i]);
        number = number && m <= 3.40282347e38f;
        greatest_magnitude = m > greatest_magnitude ? m : greatest_magnitude;
    }
    inverse = number && greatest_magnitude >= 1e-30f ? 127.0f / greatest_magnitude : 0.0f;
    if (!number) return std::numeric_limits<float>::quiet_NaN();
    return greatest_magnitude >= 1e-30f ? greatest_magnitude / 127.0f : 0.0f;
}

/// One head's channels in an element type, `stride` elements apart.
inline void store_head(CacheType type, const float* x, int n, float inverse, uint8_t* at, int64_t stride) {
    if (type == CacheType::f32) {
        float* out = reinterpret_cast<float*>(at);
        for (int i = 0; i < n; ++i) out[i * stride] = x[i];
    } else if (type != CacheType::i8) {
        uint16_t* out = reinterpret_cast<uint16_t*>(at);
        uint16_t lanes[kLanes];
        for (int i = 0; i < n; i += kLanes) {
            const int now = n - i < kLanes ? n - i : kLanes;
            const Floats values = load_some(x + i, now);
            if (type == CacheType::bf16) store_bfloat(lanes, values);
            // What is finite stays finite; x * 0 makes NaN of what is not.
            else store_half(lanes, fma(values, all(0.0f), min(all(65504.0f), max(all(-65504.0f), values))));
            for (int j = 0; j < now; ++j) out[(i + j) * stride] = lanes[j];
        }
    } else {
        int8_t* out = reinterpret_cast<int8_t*>(at);
        int8_t lanes[kLanes];
        for (int i = 0; i < n; i += kLanes) {
            const int now = n - i < kLanes ? n - i : kLanes;
            store_i8(lanes, round_to_int(inverse == 0.0f ? all(0.0f) : mul(load_some(x + i, now), all(inverse))));
            for (int j = 0; j < now; ++j) out[(i + j) * stride] = lanes[j];
        }
    }
}

}  // namespace LANDRACE_ISA
}  // namespace landrace
