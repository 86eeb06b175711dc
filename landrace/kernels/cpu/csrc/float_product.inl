// Products with matrices of floats: rows as float32, or as pairs of bfloat16 where the matrix is bfloat16.
#pragma once

#include "activations.inl"
#include "half.h"

namespace landrace {
namespace LANDRACE_ISA {

/// How one step over a tile is computed: the weights of `step_inputs` inputs, and what a row has for them; `Mode` lives
/// around all of it.
template <Kind kind> struct FloatStep;

template <> struct FloatStep<Kind::f32> {
    struct Mode {
        Mode() {}
    };
    static const float* panels(const Rows& rows) { return rows.floats; }
    static Floats weights(const uint8_t* tile, int64_t step) {
        return load(reinterpret_cast<const float*>(tile + step_offset(Kind::f32, step)));
    }
    static Floats input(float x) { return all(x); }
    static Floats add(Floats acc, Floats weights, Floats input) { return fma(weights, input, acc); }
};
template <> struct FloatStep<Kind::f16> : FloatStep<Kind::f32> {
    static Floats weights(const uint8_t* tile, int64_t step) { return load_half(tile + step_offset(Kind::f16, step)); }
};
template <> struct FloatStep<Kind::f8_f32> : FloatStep<Kind::f32> {
    static Floats weights(const uint8_t* tile, int64_t step) {
        const uint8_t* scales = tile + step / kGroup * group_bytes(Kind::f8_f32);
        return mul(load_f8(tile + step_offset(Kind::f8_f32, step)), load(reinterpret_cast<const float*>(scales)));
    }
};
template <> struct FloatStep<Kind::bf16> {
    using Mode = FlushDenormals;
    static const uint32_t* panels(const Rows& rows) { return rows.pairs; }
    static Pairs weights(const uint8_t* tile, int64_t step) { return load_pairs(tile + step_offset(Kind::bf16, step)); }
    static Pairs input(uint32_t x) { return all_pairs(x); }
    static Floats add(Floats acc, Pairs weights, Pairs input) { return dot(acc, weights, input); }
};

/// Tiles and rows of one pass: as many accumulators as there are registers for. Two tiles share what loading a row's
/// inputs costs, and give a single row two sums that do not wait for each other.
constexpr int kFloatTiles = LANDRACE_LANES == 512 ? 2 : 1;
constexpr int kFloatRows = LANDRACE_LANES == 512 ? 8 : 4;
/// Steps that all rows take before the next ones: their weights stay in the nearest cache meanwhile.
constexpr int kStepsTogether = 256;

/// Steps [begin, end) of T tiles for R rows, the first of them the first of a panel: adds to out [T][R, 16], or starts
/// there with the first step. What a panel holds past the last row is computed too.
template <Kind kind, int T, int R>
void float_pass(const uint8_t* const* tiles, int begin, int end, const Rows& rows, int first, float* const* out) {
    using S = FloatStep<kind>;
    const int64_t n_steps = ceil_div(rows.n_in, step_inputs(kind));
    const auto* panels = S::panels(rows) + first / kPanel * n_steps * kPanel;
    Floats acc[T][R];
    LANDRACE_UNROLL for (int t = 0; t < T; ++t)
        LANDRACE_UNROLL for (int r = 0; r < R; ++r) acc[t][r] = begin == 0 ? all(0.0f) : load(out[t] + r * kTile);
    for (int64_t step = begin; step < end; ++step) {
        decltype(S::weights(nullptr, 0)) weights[T];
        LANDRACE_UNROLL for (int t = 0; t < T; ++t) {
            weights[t] = S::weights(tiles[t], step);
            if (step_offset(kind, step) % 64 == 0) prefetch(tiles[t] + step_offset(kind, step) + kPrefetchBytes);
        }
        LANDRACE_UNROLL for (int r = 0; r < R; ++r) {
            const auto input = S::input(panels[(r / kPanel * n_steps + step) * kPanel + r % kPanel]);
            LANDRACE_UNROLL for (int t = 0; t < T; ++t) acc[t][r] = S::add(acc[t][r], weights[t], input);
        }
    }
    LANDRACE_UNROLL for (int t = 0; t < T; ++t)
        LANDRACE_UNROLL for (int r = 0; r < R; ++r) store(out[t] + r * kTile, acc[t][r]);
}

/// Any number of rows times T tiles: out [T][n_rows rounded up to panels, 16].
template <Kind kind, int T>
void float_product(const uint8_t* const* tiles, const Rows& rows, int first, int n_rows, float* const* out) {
    const typename FloatStep<kind>::Mode mode;
    const int n_steps = ceil_div(rows.n_in, step_inputs(kind));
    const int together = n_rows <= kFloatRows ? n_steps : kStepsTogether;
    for (int begin = 0; begin < n_steps; begin += together) {
        const int end = n_steps - begin < together ? n_steps : begin + together;
        for (int done = 0; done < n_rows; done += kFloatRows) {
            const int n = n_rows - done;
            float* to[T];
            for (int t = 0; t < T; ++t) to[t] = out[t] + done * kTile;
            if (n == 1) float_pass<kind, T, 1>(tiles, begin, end, rows, first + done, to);
            else if (n == 2) float_pass<kind, T, 2>(tiles, begin, end, rows, first + done, to);
            else if (n <= 4) float_pass<kind, T, 4>(tiles, begin, end, rows, first + done, to);
            else float_pass<kind, T, kFloatRows>(tiles, begin, end, rows, first + done, to);
        }
    }
}

/// One row of a matrix as floats, times `factor`.
template <Kind kind> void unpack_float_row(const Matrix& matrix, int row, float factor, float* out) {
    constexpr int inputs = step_inputs(kind), size = float_bytes(kind);
    const uint8_t* tile = matrix.tile(row / kTile);
    for (int k = 0; k < matrix.n_in; ++k) {
        const uint8_t* at = tile + step_offset(kind, k / inputs) + (row % kTile * inputs + k % inputs) * size;
        float value;
        uint16_t half;
        if constexpr (kind == Kind::f32) {
            std::memcpy(&value, at, sizeof(value));
        } else if constexpr (kind == Kind::f8_f32) {
            float scale;
            std::memcpy(&scale, tile + k / kGroup * group_bytes(kind) + 4 * (row % kTile), sizeof(scale));
            value = half_to_float(f8_as_half(*at)) * scale;
        } else {
            std::memcpy(&half, at, sizeof(half));
            const uint32_t bits = static_cast<uint32_t>(half) << 16;
            if constexpr (kind == Kind::f16) value = half_to_float(half);
            else std::memcpy(&value, &bits, sizeof(value));
        }
        out[k] = value * factor;
    }
}

}  // namespace LANDRACE_ISA
}  // namespace landrace
