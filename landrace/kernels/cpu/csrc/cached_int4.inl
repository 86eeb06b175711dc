// Keys and values in four bits: every 32 channels of a head are scale * code + minimum. `LayerCache` says where they lie.
#pragma once

#include <limits>

#include "cached_elements.inl"
#include "half.h"

namespace landrace {
namespace LANDRACE_ISA {

/// Codes of n <= kGroup channels, and the float16 scale and minimum that they are rounded by: what is outside of float16's
/// range is cut off at it. Both are NaN where a channel is no number.
inline void int4_codes(const float* x, int n, int8_t codes[kGroup], uint16_t& scale, uint16_t& minimum) {
    constexpr float most_half = 65504.0f;
    float least = x[0], most = x[0];
    bool number = true;
    for (int i = 0; i < n; ++i) {
        number = number && std::fabs(x[i]) <= std::numeric_limits<float>::max();
        least = x[i] < least ? x[i] : least;
        most = x[i] > most ? x[i] : most;
    }
    if (!number) {
        scale = minimum = float_to_half(std::numeric_limits<float>::quiet_NaN());
        std::memset(codes, 0, kGroup);
        return;
    }
    minimum = float_to_half(least < -most_half ? -most_half : least > most_half ? most_half : least);
    const float from = half_to_float(minimum), range = (most - from) / 15.0f;
    scale = float_to_half(range < 0.0f ? 0.0f : range > most_half ? most_half : range);
    const float step = half_to_float(scale), inverse = step > 0.0f ? 1.0f / step : 0.0f;
    for (int i = 0; i < n; i += kLanes) {
        const int now = n - i < kLanes ? n - i : kLanes;
        const Floats steps = mul(sub(load_some(x + i, now), all(from)), all(inverse));
        store_i8(codes + i, round_to_int(min(all(15.0f), max(steps, all(0.0f)))));
    }
}

/// One head's channels into the slot in `lane` of a tile: channel c into the half byte that place(c) gives, {byte, whether it
/// is the high half}, of which the low one is first. `groups` are the tile's.
template <class Place> inline void store_int4(const float* x, int n, uint16_t* groups, int64_t lane, Place place) {
    for (int first = 0; first < n; first += kGroup, groups += 2 * kTile) {
        const int now = n - first < kGroup ? n - first : kGroup;
        int8_t codes[kGroup];
        int4_codes(x + first, now, codes, groups[lane], groups[kTile + lane]);
        for (int c = 0; c < now; ++c) {
            const auto [byte, high] = place(first + c);
            *byte = static_cast<uint8_t>(high ? *byte | codes[c] << 4 : codes[c]);
        }
    }
}

/// A head's key and value into the slot in `lane` of the tile `tile`.
inline void store_int4_head(const LayerCache& cache, const HeadShape& shape, int64_t tile, int64_t lane, const float* k, const float* v) {
    struct Half {
        uint8_t* byte;
        bool high;
    };
    uint8_t* keys = cache.tiles + tile * cache.tile_bytes(shape);
    uint8_t* values = keys + cache.key_bytes(shape) + lane * cache.value_bytes(shape);
    store_int4(k, shape.head_dim, cache.groups(cache.key_scales, shape, tile), lane, [&](int c) -> Half {
        return {keys + c / 2 * kTile + lane, c % 2 == 1};
    });
    store_int4(v, shape.head_dim, cache.groups(cache.value_scales, shape, tile), lane, [&](int c) -> Half {
        return {values + c / kGroup * kTile + c % kTile, c % kGroup >= kTile};
    });
}

/// Whether the slot whose first group's scale is at `group` holds numbers.
inline bool is_int4_number(const uint16_t* group, int n_groups) {
    for (int i = 0; i < n_groups; ++i, group += 2 * kTile)
        if ((group[0] & 0x7c00) == 0x7c00 || (group[kTile] & 0x7c00) == 0x7c00) return false;
    return true;
}

/// Scores of R queries with T tiles of sixteen keys, whose groups begin at `groups`. queries [head_dim rounded up to even, R].
template <int R, int T>
inline void int4_tile_scores(const float* queries, const uint8_t* const* keys, const uint16_t* const* groups, int head_dim, Floats out[R][T]) {
    LANDRACE_UNROLL for (int r = 0; r < R; ++r)
        LANDRACE_UNROLL for (int t = 0; t < T; ++t) out[r][t] = all(0.0f);
    for (int first = 0; first < head_dim; first += kGroup) {
        const int end = head_dim - first < kGroup ? head_dim : first + kGroup;
        Floats acc[R][T];
        float total[R] = {};
        LANDRACE_UNROLL for (int r = 0; r < R; ++r)
            LANDRACE_UNROLL for (int t = 0; t < T; ++t) acc[r][t] = all(0.0f);
        for (int c = first; c < end; c += 2) {
            Floats low[T], high[T];
            LANDRACE_UNROLL for (int t = 0; t < T; ++t) {
                load_nibbles(keys[t] + c / 2 * kTile, low[t], high[t]);
                prefetch(keys[t + kTilesAhead] + c / 2 * kTile);
            }
            LANDRACE_UNROLL for (int r = 0; r < R; ++r) {
                const float a = queries[c * R + r], b = queries[(c + 1) * R + r];
                total[r] += a;
                total[r] += b;
                LANDRACE_UNROLL for (int t = 0; t < T; ++t) acc[r][t] = fma(all(b), high[t], fma(all(a), low[t], acc[r][t]));
            }
        }
        LANDRACE_UNROLL for (int t = 0; t < T; ++t) {
            const uint16_t* group = groups[t] + first / kGroup * 2 * kTile;
            const Floats scale = load_half(group), minimum = load_half(group + kTile);
            LANDRACE_UNROLL for (int r = 0; r < R; ++r) out[r][t] = fma(scale, acc[r][t], fma(minimum, all(total[r]), out[r][t]));
        }
    }
}

/// weights [R, keys] times values first <= key < end into sums [R, padded_dim]; `groups` by tile.
template <int R>
inline void weigh_int4_values(
    const float* weights, const uint8_t* const* values, const uint16_t* const* groups, int first, int end, int n_groups, float* sums, int padded_dim
) {
    for (int group = 0; group < n_groups; ++group) {
        Floats low_sum[R], high_sum[R], minima[R];
        LANDRACE_UNROLL for (int r = 0; r < R; ++r) low_sum[r] = high_sum[r] = minima[r] = all(0.0f);
        for (int tile = first / kTile; tile * kTile < end; ++tile) {
            const int from = first > tile * kTile ? first % kTile : 0, until = end - tile * kTile < kTile ? end - tile * kTile : kTile;
            const uint16_t* at = groups[tile] + group * 2 * kTile;
            const Floats scale = load_half(at), minimum = load_half(at + kTile);
            alignas(64) float scaled[R][kTile];
            LANDRACE_UNROLL for (int r = 0; r < R; ++r) {
                const Floats weight = load(weights + r * kKeysPerChunk + tile * kTile);
                store(scaled[r], mul(weight, scale));
                minima[r] = add(minima[r], where_lane(from, until, mul(weight, minimum), all(0.0f)));
            }
            for (int key = from; key < until; ++key) {
                const int64_t place = (static_cast<int64_t>(key) * n_groups + group) * kTile;
                Floats low, high;
                load_nibbles(values[tile] + place, low, high);
                prefetch(values[tile + kTilesAhead] + place);
                LANDRACE_UNROLL for (int r = 0; r < R; ++r) {
                    const Floats w = all(scaled[r][key]);
                    low_sum[r] = fma(w, low, low_sum[r]);
                    high_sum[r] = fma(w, high, high_sum[r]);
                }
            }
        }
        for (int r = 0; r < R; ++r) {
            const Floats below = all(sum(minima[r]));
            float* into = sums + static_cast<int64_t>(r) * padded_dim + group * kGroup;
            store(into, add(low_sum[r], below));
            if (group * kGroup + kTile < padded_dim) store(into + kTile, add(high_sum[r], below));
        }
    }
}

}  // namespace LANDRACE_ISA
}  // namespace landrace
