// Rotation of queries and keys, head norms, and the way of keys and values into the cache.
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

inline void turn(const RopeJob& job, int64_t row, const float* norm, float* head) {
    const int d = job.shape.head_dim;
    if (job.norm == HeadNorm::before_rope) rms_norm(head, norm, job.eps, d, head);
    if (job.rotary_half) {
        const int64_t at = job.table_rows[row] * job.rotary_half;
        rotate(head, job.cos + at, job.sin + at, job.rotary_half);
    }
    if (job.norm == HeadNorm::after_rope) rms_norm(head, norm, job.eps, d, head);
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

/// Rows [first_row, end_row): queries are turned and scaled in place, keys and values go to the cache.
inline void rope(const RopeJob& job, int first_row, int end_row) {
    const HeadShape& s = job.shape;
    const LayerCache& cache = job.cache;
    const int64_t size = element_bytes(cache.type);
    alignas(64) float head[1024];
    for (int64_t row = first_row; row < end_row; ++row) {
        float* q = job.q + row * s.n_heads * s.head_dim;
        for (int h = 0; h < s.n_heads; ++h) turn(job, row, job.q_norm, q + h * s.head_dim);
        const int n_q = s.n_heads * s.head_dim;
        for (int i = 0; i < n_q; i += kLanes) {
            const int now = n_q - i < kLanes ? n_q - i : kLanes;
            store_some(q + i, mul(load_some(q + i, now), all(job.scale)), now);
        }
        const int64_t slot = job.write_slots[row], lane = slot % kTile;
        for (int h = 0; h < s.n_kv_heads; ++h) {
            std::memcpy(head, job.k + (row * s.n_kv_heads + h) * s.head_dim, sizeof(float) * static_cast<size_t>(s.head_dim));
            turn(job, row, job.k_norm, head);
            const float* v = job.v + (row * s.n_kv_heads + h) * s.head_dim;
            float k_inverse = 0.0f, v_inverse = 0.0f;
            const int64_t tile = cache.tile_of(s, slot, h);
            if (cache.type == CacheType::i8) {
                cache.key_scales[tile * kTile + lane] = int8_scale(head, s.head_dim, k_inverse);
                cache.value_scales[tile * kTile + lane] = int8_scale(v, s.head_dim, v_inverse);
            }
            uint8_t* keys = cache.tiles + tile * cache.tile_bytes(s);
            uint8_t* values = keys + cache.key_bytes(s) + lane * s.padded_dim * size;
            store_head(cache.type, head, s.head_dim, k_inverse, keys + lane * size, kTile);
            store_head(cache.type, v, s.head_dim, v_inverse, values, 1);
        }
    }
}

}  // namespace LANDRACE_ISA
}  // namespace landrace
