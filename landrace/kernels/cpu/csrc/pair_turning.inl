// Rows whose last channels turn in pairs of neighbours, and which are keys and values at once.
#pragma once

#include "cached_heads.inl"
#include "operation.h"

namespace landrace {
namespace LANDRACE_ISA {

/// Turns the last 2 * half of n channels, neighbours together, by the angles of a table's row, or back by them: which is to
/// turn them with the two of each pair in each other's place.
inline void rotate_pairs(float* channels, int n, const RotaryTable& table, int64_t table_row, int half, bool back = false) {
    alignas(64) float apart[kMaxHeadDim];
    float* turned = channels + n - 2 * half;
    const int first = back ? half : 0, second = half - first;
    for (int i = 0; i < half; ++i) {
        apart[first + i] = turned[2 * i];
        apart[second + i] = turned[2 * i + 1];
    }
    rotate(apart, table.cos + table_row * half, table.sin + table_row * half, half);
    for (int i = 0; i < half; ++i) {
        turned[2 * i] = apart[first + i];
        turned[2 * i + 1] = apart[second + i];
    }
}

/// A key that is its own value, its channels padded with zeros, into a cache of latents without anything beside them.
inline void keep_key(const LayerCache& cache, const LatentShape& shape, int64_t slot, const float* key) {
    float inverse = 0.0f;
    if (cache.type == CacheType::i8) {
        cache.value_scales[slot] = int8_scale(key, shape.rank, inverse);
        cache.key_scales[slot] = 0.0f;
    }
    store_head(cache.type, key, shape.padded_rank(), inverse, cache.latent(shape, slot), 1);
}

/// The fields rotary and rotary_half, for heads of so many channels.
struct PairTurning {
    size_t table;
    int half;

    PairTurning(const Fields& fields, int n_channels)
        : table(static_cast<size_t>(fields.integer("rotary"))), half(static_cast<int>(fields.integer("rotary_half"))) {
        if (half < 1 || 2 * half > n_channels)
            throw std::invalid_argument(std::to_string(n_channels) + " channels cannot turn in " + std::to_string(half) + " pairs");
    }
    void check(const Step& step) const { expect_within(static_cast<int64_t>(table), static_cast<int64_t>(step.rotary.size()), "table of angles"); }
};

}  // namespace LANDRACE_ISA
}  // namespace landrace
