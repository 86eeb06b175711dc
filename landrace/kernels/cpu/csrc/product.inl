// Matrix products: rows of activations times packed matrices.
//
// One lane is one output. Its sum runs over the inputs in order, group by group, whatever the number of rows beside it
// and wherever the work is cut, so a row's result is the same to the bit in every batch.
#pragma once

#include "activations.inl"

namespace landrace {
namespace LANDRACE_ISA {

/// How one kind's groups are unpacked: `quads` yields eight vectors of sixteen lanes by four inputs, as unsigned bytes
/// that are `offset` too great; value = scale * (byte - offset) + minimum.
template <Kind kind> struct Format;

inline void nibbles(const uint8_t* at, Bytes out[8]) {
    const Bytes mask = all_bytes(15);
    for (int i = 0; i < 4; ++i) {
        const Bytes pair = load_bytes(at + 64 * i);
        out[i] = both(pair, mask);
        out[i + 4] = both(right<4>(pair), mask);
    }
}

/// Bit q of each byte of a plane is the fifth bit of quad q.
inline void fifth_bits(const uint8_t* at, Bytes out[8]) {
    const Bytes plane = load_bytes(at), bit = all_bytes(16);
    out[0] = either(out[0], both(left<4>(plane), bit));
    out[1] = either(out[1], both(left<3>(plane), bit));
    out[2] = either(out[2], both(left<2>(plane), bit));
    out[3] = either(out[3], both(left<1>(plane), bit));
    out[4] = either(out[4], both(plane, bit));
    out[5] = either(out[5], both(right<1>(plane), bit));
    out[6] = either(out[6], both(right<2>(plane), bit));
    out[7] = either(out[7], both(right<3>(plane), bit));
}

/// Two bits a quad: bits 2i and 2i + 1 of the first plane belong to quad i, of the second to quad i + 4.
inline void top_bits(const uint8_t* at, Bytes out[8]) {
    const Bytes bits = all_bytes(48);
    for (int half = 0; half < 2; ++half) {
        const Bytes plane = load_bytes(at + 64 * half);
        Bytes* quads = out + 4 * half;
        quads[0] = either(quads[0], both(left<4>(plane), bits));
        quads[1] = either(quads[1], both(left<2>(plane), bits));
        quads[2] = either(quads[2], both(plane, bits));
        quads[3] = either(quads[3], both(right<2>(plane), bits));
    }
}

struct NoHeader {
    static void header(const uint8_t*, Floats&, Floats&) {}
};

template <> struct Format<Kind::q4_0> : NoHeader {
    static constexpr int offset = 8, offset_bits = 3;
    static constexpr bool has_minimum = false, halves = false;
    static void scales(const uint8_t* at, Floats, Floats, Floats& scale, Floats&) { scale = load_half(at); }
    static void quads(const uint8_t* at, Bytes out[8]) { nibbles(at + 32, out); }
};
template <> struct Format<Kind::q4_1> : NoHeader {
    static constexpr int offset = 0, offset_bits = 0;
    static constexpr bool has_minimum = true, halves = false;
    static void scales(const uint8_t* at, Floats, Floats, Floats& scale, Floats& minimum) {
        scale = load_half(at);
        minimum = load_half(at + 32);
    }
    static void quads(const uint8_t* at, Bytes out[8]) { nibbles(at + 64, out); }
};
template <> struct Format<Kind::q5_0> : NoHeader {
    static constexpr int offset = 16, offset_bits = 4;
    static constexpr bool has_minimum = false, halves = false;
    static void scales(const uint8_t* at, Floats, Floats, Floats& scale, Floats&) { scale = load_half(at); }
    static void quads(const uint8_t* at, Bytes out[8]) {
        nibbles(at + 32, out);
        fifth_bits(at + 288, out);
    }
};
template <> struct Format<Kind::q5_1> : NoHeader {
    static constexpr int offset = 0, offset_bits = 0;
    static constexpr bool has_minimum = true, halves = false;
    static void scales(const uint8_t* at, Floats, Floats, Floats& scale, Floats& minimum) {
        scale = load_half(at);
        minimum = load_half(at + 32);
    }
    static void quads(const uint8_t* at, Bytes out[8]) {
        nibbles(at + 64, out);
        fifth_bits(at + 320, out);
    }
};
template <> struct Format<Kind::q8_0> : NoHeader {
    static constexpr int offset = 128, offset_bits = 7;
    static constexpr bool has_minimum = false, halves = false;
    static void scales(const uint8_t* at, Floats, Floats, Floats& scale, Floats&) { scale = load_half(at); }
    static void quads(const uint8_t* at, Bytes out[8]) {
        for (int i = 0; i < 8; ++i) out[i] = load_bytes(at + 32 + 64 * i);
    }
};

/// Q4_K and Q5_K: scale = d * (byte), minimum = -dmin * (byte).
struct SuperWithMinimum {
    static constexpr int offset = 0, offset_bits = 0;
    static constexpr bool has_minimum = true, halves = false;
    static void header(const uint8_t* at, Floats& d, Floats& dmin) {
        d = load_half(at);
        dmin = load_half(at + 32);
    }
    static void scales(const uint8_t* at, Floats d, Floats dmin, Floats& scale, Floats& minimum) {
        scale = mul(d, load_u8(at));
        minimum = sub(all(0.0f), mul(dmin, load_u8(at + 16)));
    }
};
template <> struct Format<Kind::q4_k> : SuperWithMinimum {
    static void quads(const uint8_t* at, Bytes out[8]) { nibbles(at + 32, out); }
};
template <> struct Format<Kind::q5_k> : SuperWithMinimum {
    static void quads(const uint8_t* at, Bytes out[8]) {
        nibbles(at + 32, out);
        fifth_bits(at + 288, out);
    }
};
/// Q6_K has a scale for each half of a group: here `minimum` carries the second one.
template <> struct Format<Kind::q6_k> {
    static constexpr int offset = 32, offset_bits = 5;
    static constexpr bool has_minimum = false, halves = true;
    static void header(const uint8_t* at, Floats& d, Floats&) { d = load_half(at); }
    static void scales(const uint8_t* at, Floats d, Floats, Floats& scale, Floats& second) {
        scale = mul(d, load_i8(at));
        second = mul(d, load_i8(at + 16));
    }
    static void quads(const uint8_t* at, Bytes out[8]) {
        nibbles(at + 32, out);
        top_bits(at + 288, out);
    }
};

/// How far ahead of its use a weight is asked for.
constexpr int kPrefetchBytes = 4096;

/// acc + scale * (bytes of a row's group or of its remainder) * (bytes of the weights' group).
template <class F, class Group> inline Floats add_group(Floats acc, const Bytes quads[8], Floats scale, Floats second, const Group& x) {
    const Floats by = all(x.scale);
    if (F::halves) {
        const Ints first = all_ints(x.minus_first);
        Ints one = doubled<F::offset_bits>(first), two = doubled<F::offset_bits>(sub(all_ints(x.minus_sum), first));
        LANDRACE_UNROLL for (int i = 0; i < 4; ++i) one = dot(one, quads[i], load_quad(x.bytes + 4 * i));
        LANDRACE_UNROLL for (int i = 4; i < 8; ++i) two = dot(two, quads[i], load_quad(x.bytes + 4 * i));
        return fma(to_float(two), mul(second, by), fma(to_float(one), mul(scale, by), acc));
    }
    Ints total = F::offset ? doubled<F::offset_bits>(all_ints(x.minus_sum)) : all_ints(0);
    LANDRACE_UNROLL for (int i = 0; i < 8; ++i) total = dot(total, quads[i], load_quad(x.bytes + 4 * i));
    return fma(to_float(total), mul(scale, by), acc);
}

/// `n_rows` <= R rows, the first of them the first of a panel, times one tile: out [n_rows, 16]. What a panel holds past
/// the last row is computed too and dropped.
template <Kind kind, int R>
void quantised_rows(const uint8_t* at, const Rows& rows, int first, int n_rows, float* out) {
    using F = Format<kind>;
    const int n_groups = rows.n_groups();
    const int64_t stride = static_cast<int64_t>(n_groups) * kPanel;
    const QuantisedGroup* panels = rows.groups + first / kPanel * stride;
    const Remainder* remainders = rows.remainders + first / kPanel * stride;
    const uint8_t* with_remainder = rows.with_remainder + static_cast<int64_t>(first / kPanel) * n_groups;
    Floats acc[R];
    LANDRACE_UNROLL for (int r = 0; r < R; ++r) acc[r] = all(0.0f);
    Floats d = all(0.0f), dmin = all(0.0f);
    for (int g = 0; g < n_groups; ++g) {
        if (header_bytes(kind) && g % kSuper == 0) {
            F::header(at, d, dmin);
            at += header_bytes(kind);
        }
        Floats scale, minimum = all(0.0f);
        F::scales(at, d, dmin, scale, minimum);
        Bytes quads[8];
        F::quads(at, quads);
        // With several rows the processor is too busy to look far ahead by itself.
        for (int line = 0; line < group_bytes(kind); line += 64) prefetch(at + kPrefetchBytes + line);
        at += group_bytes(kind);
        const QuantisedGroup* group = panels + g * kPanel;
        LANDRACE_UNROLL for (int r = 0; r < R; ++r) {
            const QuantisedGroup& x = group[r / kPanel * stride + r % kPanel];
            acc[r] = add_group<F>(acc[r], quads, scale, minimum, x);
            if (F::has_minimum) acc[r] = fma(minimum, all(x.scaled_sum), acc[r]);
        }
        LANDRACE_UNROLL for (int r = 0; r < R; r += kPanel) {
            const unsigned which = with_remainder[r / kPanel * n_groups + g];
            if (!which) continue;
            const Remainder* left = remainders + r / kPanel * stride + g * kPanel;
            LANDRACE_UNROLL for (int i = 0; i < (R < kPanel ? R : kPanel); ++i)
                if (which >> i & 1) acc[r + i] = add_group<F>(acc[r + i], quads, scale, minimum, left[i]);
        }
    }
    for (int r = 0; r < n_rows; ++r) store(out + kTile * r, acc[r]);
}

template <Kind kind> inline Floats load_weights(const uint8_t* at, int k) {
    if (kind == Kind::f32) return load(reinterpret_cast<const float*>(at) + kTile * k);
    if (kind == Kind::f16) return load_half(at + 2 * kTile * k);
    return load_bfloat(at + 2 * kTile * k);
}

template <Kind kind, int R> void float_rows(const uint8_t* at, const Rows& rows, int first, int n_rows, float* out) {
    const int64_t stride = static_cast<int64_t>(rows.n_in) * kPanel;
    const float* panels = rows.floats + static_cast<int64_t>(first) * rows.n_in;
    Floats acc[R];
    LANDRACE_UNROLL for (int r = 0; r < R; ++r) acc[r] = all(0.0f);
    for (int k = 0; k < rows.n_in; ++k) {
        const Floats w = load_weights<kind>(at, k);
        constexpr int bytes = kind == Kind::f32 ? 4 * kTile : 2 * kTile;
        if (k * bytes % 64 == 0) prefetch(at + kPrefetchBytes + static_cast<int64_t>(k) * bytes);
        LANDRACE_UNROLL for (int r = 0; r < R; ++r) acc[r] = fma(w, all(panels[r / kPanel * stride + k * kPanel + r % kPanel]), acc[r]);
    }
    for (int r = 0; r < n_rows; ++r) store(out + kTile * r, acc[r]);
}

/// Rows that one pass over a tile serves: as many accumulators as there are registers for.
constexpr int kRowsTogether = LANDRACE_LANES == 512 ? 16 : 4;

template <Kind kind, int R> inline void pass(const uint8_t* at, const Rows& rows, int first, int n_rows, float* out) {
    if constexpr (is_quantised(kind)) quantised_rows<kind, R>(at, rows, first, n_rows, out);
    else float_rows<kind, R>(at, rows, first, n_rows, out);
}

/// Any number of rows times one tile: out [n_rows, 16].
template <Kind kind> void tile_product(const uint8_t* at, const Rows& rows, int first, int n_rows, float* out) {
    for (int done = 0; done < n_rows; done += kRowsTogether) {
        const int n = n_rows - done < kRowsTogether ? n_rows - done : kRowsTogether;
        float* to = out + done * kTile;
        if (n == 1) pass<kind, 1>(at, rows, first + done, n, to);
        else if (n == 2) pass<kind, 2>(at, rows, first + done, n, to);
        else if (n <= 4) pass<kind, 4>(at, rows, first + done, n, to);
        else if (n <= kRowsTogether / 2) pass<kind, kRowsTogether / 2>(at, rows, first + done, n, to);
        else if (n <= kRowsTogether * 3 / 4) pass<kind, kRowsTogether * 3 / 4>(at, rows, first + done, n, to);
        else pass<kind, kRowsTogether>(at, rows, first + done, n, to);
    }
}

inline void any_product(const Matrix& m, int tile, const Rows& rows, int first, int n, float* out) {
    const uint8_t* at = m.tile(tile);
    switch (m.kind) {
        case Kind::f32: return tile_product<Kind::f32>(at, rows, first, n, out);
        case Kind::f16: return tile_product<Kind::f16>(at, rows, first, n, out);
        case Kind::bf16: return tile_product<Kind::bf16>(at, rows, first, n, out);
        case Kind::q4_0: return tile_product<Kind::q4_0>(at, rows, first, n, out);
        case Kind::q4_1: return tile_product<Kind::q4_1>(at, rows, first, n, out);
        case Kind::q5_0: return tile_product<Kind::q5_0>(at, rows, first, n, out);
        case Kind::q5_1: return tile_product<Kind::q5_1>(at, rows, first, n, out);
        case Kind::q8_0: return tile_product<Kind::q8_0>(at, rows, first, n, out);
        case Kind::q4_k: return tile_product<Kind::q4_k>(at, rows, first, n, out);
        case Kind::q5_k: return tile_product<Kind::q5_k>(at, rows, first, n, out);
        case Kind::q6_k: return tile_product<Kind::q6_k>(at, rows, first, n, out);
    }
}

/// Rows [first, first + n_rows) (at most kRowsPerTask, the first of them the first of a panel) times tiles
/// [first_tile, end_tile), into the epilogue.
inline void product(const Product& job, const Rows& rows, int first, int n_rows, int first_tile, int end_tile) {
    alignas(64) float y[kRowsPerTask * kTile];
    alignas(64) float other[kRowsPerTask * kTile];
    const Matrix& matrix = *job.matrix;
    for (int tile = first_tile; tile < end_tile; ++tile) {
        any_product(matrix, tile, rows, first, n_rows, y);
        if (job.epilogue == Epilogue::swiglu) any_product(*job.gated, tile, rows, first, n_rows, other);
        const int column = tile * kTile;
        const int width = matrix.n_out - column < kTile ? matrix.n_out - column : kTile;
        const Floats bias = job.bias ? load_some(job.bias + column, width) : all(0.0f);
        const Floats other_bias = job.gated_bias ? load_some(job.gated_bias + column, width) : all(0.0f);
        for (int r = 0; r < n_rows; ++r) {
            const int64_t row = job.out_rows ? job.out_rows[first + r] : first + r;
            float* at = job.out + row * job.out_stride + column;
            Floats value = load(y + r * kTile);
            if (job.bias) value = add(value, bias);
            if (job.epilogue == Epilogue::swiglu) {
                Floats up = load(other + r * kTile);
                if (job.gated_bias) up = add(up, other_bias);
                value = gated(value, up);
            } else if (job.epilogue == Epilogue::add) {
                value = fma(all(job.factor), value, width == kTile ? load(at) : load_some(at, width));
            } else {
                value = mul(all(job.factor), value);
            }
            if (width == kTile) store(at, value);
            else store_some(at, value, width);
        }
    }
}

/// One row of a matrix as floats, times `factor`: what an embedding looks up.
template <Kind kind> void unpack_quantised_row(const Matrix& matrix, int row, float factor, float* out) {
    using F = Format<kind>;
    const int lane = row % kTile;
    const uint8_t* at = matrix.tile(row / kTile);
    Floats d = all(0.0f), dmin = all(0.0f);
    for (int g = 0; g < matrix.n_groups(); ++g) {
        if (header_bytes(kind) && g % kSuper == 0) {
            F::header(at, d, dmin);
            at += header_bytes(kind);
        }
        Floats scale, minimum = all(0.0f);
        F::scales(at, d, dmin, scale, minimum);
        float scales[kTile], minima[kTile];
        store(scales, scale);
        store(minima, minimum);
        Bytes quads[8];
        F::quads(at, quads);
        at += group_bytes(kind);
        uint8_t bytes[64];
        for (int i = 0; i < 8; ++i) {
            store_bytes(bytes, quads[i]);
            for (int j = 0; j < 4; ++j) {
                const int k = g * kGroup + 4 * i + j;
                if (k >= matrix.n_in) break;
                const float q = static_cast<float>(bytes[4 * lane + j] - F::offset);
                const float by = F::halves && i >= 4 ? minima[lane] : scales[lane];
                const float value = F::has_minimum ? by * q + minima[lane] : by * q;
                out[k] = value * factor;
            }
        }
    }
}

template <Kind kind> void unpack_float_row(const Matrix& matrix, int row, float factor, float* out) {
    const uint8_t* at = matrix.tile(row / kTile);
    for (int k = 0; k < matrix.n_in; ++k) {
        float lanes[kTile];
        store(lanes, load_weights<kind>(at, k));
        out[k] = lanes[row % kTile] * factor;
    }
}

inline void unpack_row(const Matrix& m, int row, float factor, float* out) {
    switch (m.kind) {
        case Kind::f32: return unpack_float_row<Kind::f32>(m, row, factor, out);
        case Kind::f16: return unpack_float_row<Kind::f16>(m, row, factor, out);
        case Kind::bf16: return unpack_float_row<Kind::bf16>(m, row, factor, out);
        case Kind::q4_0: return unpack_quantised_row<Kind::q4_0>(m, row, factor, out);
        case Kind::q4_1: return unpack_quantised_row<Kind::q4_1>(m, row, factor, out);
        case Kind::q5_0: return unpack_quantised_row<Kind::q5_0>(m, row, factor, out);
        case Kind::q5_1: return unpack_quantised_row<Kind::q5_1>(m, row, factor, out);
        case Kind::q8_0: return unpack_quantised_row<Kind::q8_0>(m, row, factor, out);
        case Kind::q4_k: return unpack_quantised_row<Kind::q4_k>(m, row, factor, out);
        case Kind::q5_k: return unpack_quantised_row<Kind::q5_k>(m, row, factor, out);
        case Kind::q6_k: return unpack_quantised_row<Kind::q6_k>(m, row, factor, out);
    }
}

}  // namespace LANDRACE_ISA
}  // namespace landrace
