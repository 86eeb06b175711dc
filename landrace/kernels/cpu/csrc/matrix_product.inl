// Matrix products: rows of activations times packed matrices.
//
// One lane is one output. Its sum runs over the inputs in order, group by group, whatever the number of rows beside it
// and wherever the work is cut, so a row's result is the same to the bit in every batch.
#pragma once

#include <type_traits>

#include "float_product.inl"
#include "quantised_product.inl"

namespace landrace {
namespace LANDRACE_ISA {

/// Calls f with the kind as a constant.
template <class F> inline void with_kind(Kind kind, F f) {
    switch (kind) {
        case Kind::f32: return f(std::integral_constant<Kind, Kind::f32>());
        case Kind::f16: return f(std::integral_constant<Kind, Kind::f16>());
        case Kind::bf16: return f(std::integral_constant<Kind, Kind::bf16>());
        case Kind::f8_f32: return f(std::integral_constant<Kind, Kind::f8_f32>());
        case Kind::e5m2_f32: return f(std::integral_constant<Kind, Kind::e5m2_f32>());
        case Kind::nf4_f32: return f(std::integral_constant<Kind, Kind::nf4_f32>());
        case Kind::fp4_f32: return f(std::integral_constant<Kind, Kind::fp4_f32>());
        case Kind::q4_0: return f(std::integral_constant<Kind, Kind::q4_0>());
        case Kind::q4_1: return f(std::integral_constant<Kind, Kind::q4_1>());
        case Kind::q5_0: return f(std::integral_constant<Kind, Kind::q5_0>());
        case Kind::q5_1: return f(std::integral_constant<Kind, Kind::q5_1>());
        case Kind::q8_0: return f(std::integral_constant<Kind, Kind::q8_0>());
        case Kind::q4_k: return f(std::integral_constant<Kind, Kind::q4_k>());
        case Kind::q5_k: return f(std::integral_constant<Kind, Kind::q5_k>());
        case Kind::q6_k: return f(std::integral_constant<Kind, Kind::q6_k>());
        case Kind::iq4_nl: return f(std::integral_constant<Kind, Kind::iq4_nl>());
        case Kind::iq4_xs: return f(std::integral_constant<Kind, Kind::iq4_xs>());
        case Kind::mxfp4: return f(std::integral_constant<Kind, Kind::mxfp4>());
        case Kind::i4_f16: return f(std::integral_constant<Kind, Kind::i4_f16>());
        case Kind::i4_bf16: return f(std::integral_constant<Kind, Kind::i4_bf16>());
        case Kind::i8_f32: return f(std::integral_constant<Kind, Kind::i8_f32>());
        case Kind::nvfp4_f32: return f(std::integral_constant<Kind, Kind::nvfp4_f32>());
        case Kind::bf12: return f(std::integral_constant<Kind, Kind::bf12>());
    }
}

/// Rows times T tiles of one kind, after which come the `next` ones: out [T][n_rows rounded up to panels, 16].
template <int T>
inline void tiles_product(Kind kind, const uint8_t* const* tiles, const uint8_t* const* next, const Rows& rows, int first, int n_rows, float* const* out) {
    with_kind(kind, [&](auto constant) {
        constexpr Kind k = decltype(constant)::value;
        if constexpr (!is_quantised(k)) float_product<k, T>(tiles, next, rows, first, n_rows, out);
        else for (int t = 0; t < T; ++t) quantised_product<k>(tiles[t], rows, first, n_rows, out[t]);
    });
}

/// y (and, for a gate, the second matrix's) [n_rows, 16] of one tile to where the job wants them.
inline void deliver(const Product& job, int tile, int first, int n_rows, const float* y, const float* other) {
    const int column = tile * kTile;
    const int width = job.matrix->n_out - column < kTile ? job.matrix->n_out - column : kTile;
    const Floats bias = job.bias ? load_some(job.bias + column, width) : all(0.0f);
    const Floats other_bias = job.gated_bias ? load_some(job.gated_bias + column, width) : all(0.0f);
    for (int r = 0; r < n_rows; ++r) {
        const int64_t row = job.out_rows ? job.out_rows[first + r] : first + r;
        if (row < 0) continue;
        float* at = job.out + row * job.out_stride + column;
        Floats value = load(y + r * kTile);
        if (job.input_factors) value = mul(value, all(job.input_factors[first + r]));
        if (job.bias) value = add(value, bias);
        if (job.epilogue == Epilogue::gate) {
            Floats up = load(other + r * kTile);
            if (job.input_factors) up = mul(up, all(job.input_factors[first + r]));
            if (job.gated_bias) up = add(up, other_bias);
            value = gated(value, up, job.activation);
        } else {
            const Floats factor = all(job.row_factors ? job.factor * job.row_factors[first + r] : job.factor);
            value = job.epilogue == Epilogue::store ? mul(factor, value) : fma(factor, value, width == kTile ? load(at) : load_some(at, width));
        }
        if (width == kTile) store(at, value);
        else store_some(at, value, width);
    }
}

/// Asks for the memory that a tile will be added to.
inline void fetch_sums(const Product& job, int tile, int first, int n_rows) {
    for (int r = first; r < first + n_rows; ++r) {
        const int64_t row = job.out_rows ? job.out_rows[r] : r;
        if (row >= 0) prefetch(job.out + row * job.out_stride + tile * kTile);
    }
}

/// Rows [first, first + n_rows) (at most kRowsPerTask, the first of them the first of a panel) times tiles
/// [first_tile, end_tile), into the epilogue.
inline void product(const Product& job, const Rows& rows, int first, int n_rows, int first_tile, int end_tile) {
    alignas(64) float y[2][kRowsPerTask * kTile];
    float* const out[2] = {y[0], y[1]};
    const Matrix& matrix = *job.matrix;
    const bool with_gate = job.epilogue == Epilogue::gate;
    for (int tile = first_tile; tile < end_tile;) {
        // The second tile: of the gated matrix, or the next one of the same.
        const bool has_second = with_gate || tile + 1 < end_tile;
        const Matrix& other = with_gate ? *job.gated : matrix;
        const uint8_t* const tiles[2] = {matrix.tile(tile), other.tile(with_gate ? tile : tile + 1)};
        // After the last ones nobody knows: what is at hand already costs nothing.
        const int step = with_gate ? 1 : 2;
        const auto after = [&](int t, const Matrix& own) { return tiles[t] + (tile + step < end_tile ? static_cast<size_t>(step) * own.tile_bytes() : 0); };
        const uint8_t* const next[2] = {after(0, matrix), after(1, other)};
        if (job.epilogue == Epilogue::add) {
            fetch_sums(job, tile, first, n_rows);
            if (has_second) fetch_sums(job, tile + 1, first, n_rows);
        }
        if (tiles_together(matrix.kind, n_rows) == 2 && has_second && other.kind == matrix.kind) {
            tiles_product<kFloatTiles>(matrix.kind, tiles, next, rows, first, n_rows, out);
        } else {
            tiles_product<1>(matrix.kind, tiles, has_second ? tiles + 1 : next, rows, first, n_rows, out);
            if (has_second) tiles_product<1>(other.kind, tiles + 1, next, rows, first, n_rows, out + 1);
        }
        deliver(job, tile, first, n_rows, y[0], y[1]);
        if (has_second && !with_gate) deliver(job, tile + 1, first, n_rows, y[1], nullptr);
        tile += step;
    }
}

/// One row of a matrix as floats, times `factor`: what an embedding looks up.
inline void unpack_row(const Matrix& m, int row, float factor, float* out) {
    with_kind(m.kind, [&](auto constant) {
        constexpr Kind k = decltype(constant)::value;
        if constexpr (is_quantised(k)) unpack_quantised_row<k>(m, row, factor, out);
        else unpack_float_row<k>(m, row, factor, out);
    });
}

}  // namespace LANDRACE_ISA
}  // namespace landrace
