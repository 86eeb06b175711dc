// Products with matrices of floats: rows as float32, or as pairs of bfloat16 where the matrix is bfloat16.
#pragma once

#include <algorithm>

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
template <> struct FloatStep<Kind::e5m2_f32> : FloatStep<Kind::f32> {
    static Floats weights(const uint8_t* tile, int64_t step) {
        const uint8_t* scales = tile + step / kGroup * group_bytes(Kind::e5m2_f32);
        return mul(load_e5m2(tile + step_offset(Kind::e5m2_f32, step)), load(reinterpret_cast<const float*>(scales)));
    }
};
/// The values of 4-bit NormalFloats (Dettmers et al., 2023).
constexpr float kNf4Values[16] = {
    -1.0f, -0.6961928009986877f, -0.5250730514526367f, -0.39491748809814453f, -0.28444138169288635f, -0.18477343022823334f,
    -0.09105003625154495f, 0.0f, 0.07958029955625534f, 0.16093020141124725f, 0.24611230194568634f, 0.33791524171829224f,
    0.44070982933044434f, 0.5626170039176941f, 0.7229568362236023f, 1.0f,
};
template <> struct FloatStep<Kind::nf4_f32> : FloatStep<Kind::f32> {
    static Floats weights(const uint8_t* tile, int64_t step) {
        const uint8_t* scales = tile + step / kGroup * group_bytes(Kind::nf4_f32);
        const uint8_t* codes = tile + step_offset(Kind::nf4_f32, step / 2 * 2);
        return mul(lookup_halves(kNf4Values, codes, static_cast<int>(step % 2) * 4), load(reinterpret_cast<const float*>(scales)));
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
/// The most steps that all rows take before the next ones: their weights stay near meanwhile.
constexpr int kStepsTogether = 256;
/// The least: what is asked for during a stretch is what comes after it.
constexpr int steps_ahead(Kind kind) { return kPrefetchBytes / step_bytes(kind); }

/// A stretch of steps, and what a pass over some of the rows asks memory for: a share of the lines of the next stretch, so
/// that memory and processor are busy through all of the passes.
struct Stretch {
    int begin, end;
    const uint8_t* const* next;  // of each tile
    int pass, n_passes;
};

/// A stretch of T tiles for R rows, the first of them the first of a panel: adds to out [T][R, 16], or starts there with
/// the first step. What a panel holds past the last row is computed too.
template <Kind kind, int T, int R>
void float_pass(const uint8_t* const* tiles, const Stretch& stretch, const Rows& rows, int first, float* const* out) {
    using S = FloatStep<kind>;
    const int64_t n_steps = ceil_div(rows.n_in, step_inputs(kind));
    const auto* panels = S::panels(rows) + first / kPanel * n_steps * kPanel;
    // A line is asked for as often as it takes to have asked for the pass's share of them at its end.
    constexpr int kLine = 64;
    const int64_t n_bytes = step_offset(kind, stretch.end) - step_offset(kind, stretch.begin);
    const int every = std::max(1, static_cast<int>(stretch.n_passes * (stretch.end - stretch.begin) * kLine / n_bytes));
    int64_t line = ceil_div(static_cast<int>(n_bytes), stretch.n_passes * kLine) * stretch.pass * kLine;
    Floats acc[T][R];
    LANDRACE_UNROLL for (int t = 0; t < T; ++t)
        LANDRACE_UNROLL for (int r = 0; r < R; ++r) acc[t][r] = stretch.begin == 0 ? all(0.0f) : load(out[t] + r * kTile);
    for (int64_t step = stretch.begin; step < stretch.end; line += kLine) {
        LANDRACE_UNROLL for (int t = 0; t < T; ++t) prefetch(stretch.next[t] + line);
        for (const int64_t stop = std::min<int64_t>(step + every, stretch.end); step < stop; ++step) {
            decltype(S::weights(nullptr, 0)) weights[T];
            LANDRACE_UNROLL for (int t = 0; t < T; ++t) weights[t] = S::weights(tiles[t], step);
            LANDRACE_UNROLL for (int r = 0; r < R; ++r) {
                const auto input = S::input(panels[(r / kPanel * n_steps + step) * kPanel + r % kPanel]);
                LANDRACE_UNROLL for (int t = 0; t < T; ++t) acc[t][r] = S::add(acc[t][r], weights[t], input);
            }
        }
    }
    LANDRACE_UNROLL for (int t = 0; t < T; ++t)
        LANDRACE_UNROLL for (int r = 0; r < R; ++r) store(out[t] + r * kTile, acc[t][r]);
}

/// Any number of rows times T tiles, after which come the `next` ones: out [T][n_rows rounded up to panels, 16].
template <Kind kind, int T>
void float_product(const uint8_t* const* tiles, const uint8_t* const* next, const Rows& rows, int first, int n_rows, float* const* out) {
    const typename FloatStep<kind>::Mode mode;
    const int n_steps = ceil_div(rows.n_in, step_inputs(kind)), n_passes = ceil_div(n_rows, kFloatRows);
    const int n_stretches = ceil_div(n_steps, std::min(kStepsTogether, n_passes * steps_ahead(kind)));
    for (int index = 0; index < n_stretches; ++index) {
        const int begin = n_steps * index / n_stretches, end = n_steps * (index + 1) / n_stretches;
        const uint8_t* ahead[T];
        for (int t = 0; t < T; ++t) ahead[t] = end < n_steps ? tiles[t] + step_offset(kind, end) : next[t];
        for (int pass = 0; pass < n_passes; ++pass) {
            const Stretch stretch{begin, end, ahead, pass, n_passes};
            const int done = pass * kFloatRows, n = n_rows - done;
            float* to[T];
            for (int t = 0; t < T; ++t) to[t] = out[t] + done * kTile;
            if (n == 1) float_pass<kind, T, 1>(tiles, stretch, rows, first + done, to);
            else if (n == 2) float_pass<kind, T, 2>(tiles, stretch, rows, first + done, to);
            else if (n <= 4) float_pass<kind, T, 4>(tiles, stretch, rows, first + done, to);
            else float_pass<kind, T, kFloatRows>(tiles, stretch, rows, first + done, to);
        }
    }
}

/// One row of a matrix as floats, times `factor`.
template <Kind kind> void unpack_float_row(const Matrix& matrix, int row, float factor, float* out) {
    constexpr int inputs = step_inputs(kind), size = float_bytes(kind);
    const uint8_t* tile = matrix.tile(row / kTile);
    for (int k = 0; k < matrix.n_in; ++k) {
        const int step = kind == Kind::nf4_f32 ? k / 2 * 2 : k / inputs;
        const uint8_t* at = tile + step_offset(kind, step) + (kind == Kind::nf4_f32 ? row % kTile : (row % kTile * inputs + k % inputs) * size);
        float value;
        uint16_t half;
        if constexpr (kind == Kind::f32) {
            std::memcpy(&value, at, sizeof(value));
        } else if constexpr (group_bytes(kind) > 0) {
            float scale;
            std::memcpy(&scale, tile + k / kGroup * group_bytes(kind) + 4 * (row % kTile), sizeof(scale));
            if constexpr (kind == Kind::f8_f32) value = half_to_float(f8_as_half(*at)) * scale;
            else if constexpr (kind == Kind::e5m2_f32) value = half_to_float(static_cast<uint16_t>(*at << 8)) * scale;
            else value = kNf4Values[*at >> 4 * (k % 2) & 15] * scale;
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
