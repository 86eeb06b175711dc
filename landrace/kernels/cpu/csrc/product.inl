// Matrix products: rows of activations times packed matrices.
//
// One lane is one output. Its sum runs over the inputs in order, group by group, whatever the number of rows beside it
// and wherever the work is cut, so a row's result is the same to the bit in every batch.
#pragma once

#include "activations.inl"

#include <type_traits>

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
    static constexpr int offset = 8;
    static constexpr bool has_minimum = false, halves = false;
    static void scales(const uint8_t* at, Floats, Floats, Floats& scale, Floats&) { scale = load_half(at); }
    static void quads(const uint8_t* at, Bytes out[8]) { nibbles(at + 32, out); }
};
template <> struct Format<Kind::q4_1> : NoHeader {
    static constexpr int offset = 0;
    static constexpr bool has_minimum = true, halves = false;
    static void scales(const uint8_t* at, Floats, Floats, Floats& scale, Floats& minimum) {
        scale = load_half(at);
        minimum = load_half(at + 32);
    }
    static void quads(const uint8_t* at, Bytes out[8]) { nibbles(at + 64, out); }
};
template <> struct Format<Kind::q5_0> : NoHeader {
    static constexpr int offset = 16;
    static constexpr bool has_minimum = false, halves = false;
    static void scales(const uint8_t* at, Floats, Floats, Floats& scale, Floats&) { scale = load_half(at); }
    static void quads(const uint8_t* at, Bytes out[8]) {
        nibbles(at + 32, out);
        fifth_bits(at + 288, out);
    }
};
template <> struct Format<Kind::q5_1> : NoHeader {
    static constexpr int offset = 0;
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
    static constexpr int offset = 128;
    static constexpr bool has_minimum = false, halves = false;
    static void scales(const uint8_t* at, Floats, Floats, Floats& scale, Floats&) { scale = load_half(at); }
    static void quads(const uint8_t* at, Bytes out[8]) {
        for (int i = 0; i < 8; ++i) out[i] = load_bytes(at + 32 + 64 * i);
    }
};

/// Q4_K and Q5_K: scale = d * (byte), minimum = -dmin * (byte).
struct SuperWithMinimum {
    static constexpr int offset = 0;
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
    static constexpr int offset = 32;
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

/// Unpacks all groups of a tile into `scratch`, 512 bytes a group, for the passes over many rows.
template <Kind kind> void unpack_tile(const uint8_t* at, int n_groups, uint8_t* scratch) {
    for (int g = 0; g < n_groups; ++g) {
        if (header_bytes(kind) && g % kSuper == 0) at += header_bytes(kind);
        Bytes quads[8];
        Format<kind>::quads(at, quads);
        for (int i = 0; i < 8; ++i) store_bytes(scratch + 512 * g + 64 * i, quads[i]);
        at += group_bytes(kind);
    }
}

/// `n_rows` <= R rows, the first of them the first of a panel, times one tile: out [n_rows, 16]. What a panel holds past
/// the last row is computed too and dropped.
template <Kind kind, int R, bool unpacked>
void quantised_rows(const uint8_t* at, const uint8_t* scratch, const Rows& rows, int first, int n_rows, float* out) {
    using F = Format<kind>;
    const int n_groups = rows.n_groups();
    const QuantisedGroup* panels = rows.groups + static_cast<int64_t>(first) * n_groups;
    const int64_t stride = static_cast<int64_t>(n_groups) * kPanel;
    Floats acc[R];
    for (int r = 0; r < R; ++r) acc[r] = all(0.0f);
    Floats d = all(0.0f), dmin = all(0.0f);
    for (int g = 0; g < n_groups; ++g) {
        if (header_bytes(kind) && g % kSuper == 0) {
            F::header(at, d, dmin);
            at += header_bytes(kind);
        }
        Floats scale, minimum = all(0.0f);
        F::scales(at, d, dmin, scale, minimum);
        Bytes quads[8];
        if (unpacked) {
            for (int i = 0; i < 8; ++i) quads[i] = load_bytes(scratch + 512 * g + 64 * i);
        } else {
            F::quads(at, quads);
        }
        at += group_bytes(kind);
        for (int r = 0; r < R; ++r) {
            const QuantisedGroup& x = panels[r / kPanel * stride + g * kPanel + r % kPanel];
            const Floats by = all(x.scale);
            if (F::halves) {
                Ints one = all_ints(-F::offset * x.half_sums[0]), two = all_ints(-F::offset * x.half_sums[1]);
                for (int i = 0; i < 4; ++i) one = dot(one, quads[i], load_quad(x.bytes + 4 * i));
                for (int i = 4; i < 8; ++i) two = dot(two, quads[i], load_quad(x.bytes + 4 * i));
                acc[r] = fma(to_float(one), mul(scale, by), acc[r]);
                acc[r] = fma(to_float(two), mul(minimum, by), acc[r]);
            } else {
                Ints total = all_ints(F::offset ? -F::offset * (x.half_sums[0] + x.half_sums[1]) : 0);
                for (int i = 0; i < 8; ++i) total = dot(total, quads[i], load_quad(x.bytes + 4 * i));
                acc[r] = fma(to_float(total), mul(scale, by), acc[r]);
                if (F::has_minimum) acc[r] = fma(minimum, all(x.scaled_sum), acc[r]);
            }
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
    for (int r = 0; r < R; ++r) acc[r] = all(0.0f);
    for (int k = 0; k < rows.n_in; ++k) {
        const Floats w = load_weights<kind>(at, k);
        for (int r = 0; r < R; ++r) acc[r] = fma(w, all(panels[r / kPanel * stride + k * kPanel + r % kPanel]), acc[r]);
    }
    for (int r = 0; r < n_rows; ++r) store(out + kTile * r, acc[r]);
}

/// Calls `body` with the smallest of the row counts compiled that covers what is left, at most the greatest.
template <class Body> void by_rows(int n_rows, Body body) {
    for (int done = 0; done < n_rows;) {
        const int left = n_rows - done;
        if (left == 1) body(std::integral_constant<int, 1>(), done, 1), done += 1;
        else if (left == 2) body(std::integral_constant<int, 2>(), done, 2), done += 2;
        else if (left <= 4) body(std::integral_constant<int, 4>(), done, left), done += left;
        else if (left <= 8) body(std::integral_constant<int, 8>(), done, left), done += left;
        else {
            const int now = left < 12 ? left : 12;
            body(std::integral_constant<int, 12>(), done, now), done += now;
        }
    }
}

template <Kind kind>
void tile_product(const Matrix& matrix, int tile, const Rows& rows, int first, int n_rows, float* out, uint8_t* scratch) {
    const uint8_t* at = matrix.tile(tile);
    if constexpr (is_quantised(kind)) {
        if (n_rows > 12) {
            unpack_tile<kind>(at, rows.n_groups(), scratch);
            by_rows(n_rows, [&](auto size, int done, int now) {
                quantised_rows<kind, decltype(size)::value, true>(at, scratch, rows, first + done, now, out + kTile * done);
            });
        } else {
            by_rows(n_rows, [&](auto size, int done, int now) {
                quantised_rows<kind, decltype(size)::value, false>(at, nullptr, rows, first + done, now, out + kTile * done);
            });
        }
    } else {
        by_rows(n_rows, [&](auto size, int done, int now) {
            float_rows<kind, decltype(size)::value>(at, rows, first + done, now, out + kTile * done);
        });
    }
}

inline void any_tile_product(const Matrix& m, int tile, const Rows& rows, int first, int n, float* out, uint8_t* scratch) {
    switch (m.kind) {
        case Kind::f32: return tile_product<Kind::f32>(m, tile, rows, first, n, out, scratch);
        case Kind::f16: return tile_product<Kind::f16>(m, tile, rows, first, n, out, scratch);
        case Kind::bf16: return tile_product<Kind::bf16>(m, tile, rows, first, n, out, scratch);
        case Kind::q4_0: return tile_product<Kind::q4_0>(m, tile, rows, first, n, out, scratch);
        case Kind::q4_1: return tile_product<Kind::q4_1>(m, tile, rows, first, n, out, scratch);
        case Kind::q5_0: return tile_product<Kind::q5_0>(m, tile, rows, first, n, out, scratch);
        case Kind::q5_1: return tile_product<Kind::q5_1>(m, tile, rows, first, n, out, scratch);
        case Kind::q8_0: return tile_product<Kind::q8_0>(m, tile, rows, first, n, out, scratch);
        case Kind::q4_k: return tile_product<Kind::q4_k>(m, tile, rows, first, n, out, scratch);
        case Kind::q5_k: return tile_product<Kind::q5_k>(m, tile, rows, first, n, out, scratch);
        case Kind::q6_k: return tile_product<Kind::q6_k>(m, tile, rows, first, n, out, scratch);
    }
}

/// Rows [first, first + n_rows) (at most kRowsPerTask, the first of them the first of a panel) times tiles [first_tile, end_tile), into the epilogue.
inline void product(
    const Product& job, const Rows& rows, int first, int n_rows, int first_tile, int end_tile, uint8_t* scratch
) {
    alignas(64) float y[kRowsPerTask * kTile];
    alignas(64) float other[kRowsPerTask * kTile];
    const Matrix& matrix = *job.matrix;
    for (int tile = first_tile; tile < end_tile; ++tile) {
        const int column = tile * kTile;
        const int width = matrix.n_out - column < kTile ? matrix.n_out - column : kTile;
        any_tile_product(matrix, tile, rows, first, n_rows, y, scratch);
        if (job.epilogue == Epilogue::swiglu) any_tile_product(*job.gated, tile, rows, first, n_rows, other, scratch);
        const Floats bias = job.bias ? load_some(job.bias + column, width) : all(0.0f);
        const Floats other_bias = job.gated_bias ? load_some(job.gated_bias + column, width) : all(0.0f);
        for (int r = 0; r < n_rows; ++r) {
            const int64_t row = job.out_rows ? job.out_rows[first + r] : first + r;
            float* at = job.out + row * job.out_stride + column;
            Floats value = load(y + kTile * r);
            if (job.bias) value = add(value, bias);
            if (job.epilogue == Epilogue::swiglu) {
                Floats up = load(other + kTile * r);
                if (job.gated_bias) up = add(up, other_bias);
                value = gated(value, up);
            } else if (job.epilogue == Epilogue::add) {
                value = fma(all(job.factor), value, width == kTile ? load(at) : load_some(at, width));
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
