// Keys and values as a cache holds them, sixteen at a time, in every type whose elements have a place of their own.
#pragma once

#include "activations.inl"

namespace landrace {
namespace LANDRACE_ISA {

/// Keys attended to at a time; partial results are merged in this rhythm wherever a sequence is cut.
constexpr int kKeysPerChunk = 256;

template <CacheType type> inline Floats load_elements(const uint8_t* at, int64_t element) {
    if constexpr (type == CacheType::f32) return load(reinterpret_cast<const float*>(at) + element);
    if constexpr (type == CacheType::f16) return load_half(at + 2 * element);
    if constexpr (type == CacheType::bf16) return load_bfloat(at + 2 * element);
    return load_i8(at + element);
}

/// How many tiles ahead of its use memory is asked for a tile.
constexpr int kTilesAhead = 4;

/// Asks for the N vectors of elements from `element` on.
template <CacheType type, int N> inline void prefetch_elements(const uint8_t* at, int64_t element) {
    constexpr int64_t bytes = N * kLanes * element_bytes(type);
    for (int64_t i = 0; i < bytes; i += 64) prefetch(at + element * element_bytes(type) + i);
}

/// Scores of R queries with T tiles of sixteen keys. queries [head_dim, R].
template <CacheType type, int R, int T>
inline void tile_scores(const float* queries, const uint8_t* const* keys, int head_dim, Floats out[R][T]) {
    LANDRACE_UNROLL for (int r = 0; r < R; ++r)
        LANDRACE_UNROLL for (int t = 0; t < T; ++t) out[r][t] = all(0.0f);
    for (int c = 0; c < head_dim; ++c) {
        Floats k[T];
        LANDRACE_UNROLL for (int t = 0; t < T; ++t) {
            k[t] = load_elements<type>(keys[t], static_cast<int64_t>(c) * kLanes);
            prefetch_elements<type, 1>(keys[t + kTilesAhead], static_cast<int64_t>(c) * kLanes);
        }
        LANDRACE_UNROLL for (int r = 0; r < R; ++r) {
            const Floats q = all(queries[c * R + r]);
            LANDRACE_UNROLL for (int t = 0; t < T; ++t) out[r][t] = fma(q, k[t], out[r][t]);
        }
    }
}

/// Where the values of a chunk's keys lie: in tiles, those of a tile `stride` elements apart.
template <CacheType type> struct TiledValues {
    const uint8_t* const* tiles;
    int64_t stride;

    const uint8_t* at(int key) const { return tiles[key / kTile] + key % kTile * stride * element_bytes(type); }
    const uint8_t* ahead(int key) const { return at(key + kTilesAhead * kTile); }
};

/// The same where each lies by itself.
struct ListedValues {
    const uint8_t* const* keys;

    const uint8_t* at(int key) const { return keys[key]; }
    const uint8_t* ahead(int key) const { return at(key + kTilesAhead * kTile); }
};

/// weights [R, keys] times values [keys, padded_dim] into sums [R, padded_dim], for V vectors of channels from `channel` on
/// and keys first <= key < end.
template <CacheType type, int R, int V, class Values>
inline void weigh_values(const float* weights, const Values& values, int first, int end, int64_t channel, float* sums, int padded_dim) {
    Floats acc[R][V];
    LANDRACE_UNROLL for (int r = 0; r < R; ++r)
        LANDRACE_UNROLL for (int v = 0; v < V; ++v) acc[r][v] = all(0.0f);
    for (int key = first; key < end; ++key) {
        const uint8_t* at = values.at(key);
        Floats value[V];
        LANDRACE_UNROLL for (int v = 0; v < V; ++v) value[v] = load_elements<type>(at, channel + v * kLanes);
        prefetch_elements<type, V>(values.ahead(key), channel);
        LANDRACE_UNROLL for (int r = 0; r < R; ++r) {
            const Floats w = all(weights[r * kKeysPerChunk + key]);
            LANDRACE_UNROLL for (int v = 0; v < V; ++v) acc[r][v] = fma(w, value[v], acc[r][v]);
        }
    }
    LANDRACE_UNROLL for (int r = 0; r < R; ++r)
        LANDRACE_UNROLL for (int v = 0; v < V; ++v) store(sums + static_cast<int64_t>(r) * padded_dim + channel + v * kLanes, acc[r][v]);
}

template <CacheType type, int R, class Values>
inline void weigh_all_values(const float* weights, const Values& values, int first, int end, float* sums, int padded_dim) {
    int channel = 0;
    for (; channel + 4 * kLanes <= padded_dim; channel += 4 * kLanes)
        weigh_values<type, R, 4>(weights, values, first, end, channel, sums, padded_dim);
    for (; channel < padded_dim; channel += kLanes) weigh_values<type, R, 1>(weights, values, first, end, channel, sums, padded_dim);
}

}  // namespace LANDRACE_ISA
}  // namespace landrace
