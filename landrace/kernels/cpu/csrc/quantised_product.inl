// Products with quantised matrices: rows in bytes, sums of a group in integers.
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
    static constexpr int bits = 4, offset = 8, offset_bits = 3;
    static constexpr bool has_minimum = false, halves = false;
    static void scales(const uint8_t* at, Floats, Floats, Floats& scale, Floats&) { scale = load_half(at); }
    static void quads(const uint8_t* at, Bytes out[8]) { nibbles(at + 32, out); }
};
template <> struct Format<Kind::q4_1> : NoHeader {
    static constexpr int bits = 4, offset = 0, offset_bits = 0;
    static constexpr bool has_minimum = true, halves = false;
    static void scales(const uint8_t* at, Floats, Floats, Floats& scale, Floats& minimum) {
        scale = load_half(at);
        minimum = load_half(at + 32);
    }
    static void quads(const uint8_t* at, Bytes out[8]) { nibbles(at + 64, out); }
};
template <> struct Format<Kind::q5_0> : NoHeader {
    static constexpr int bits = 5, offset = 16, offset_bits = 4;
    static constexpr bool has_minimum = false, halves = false;
    static void scales(const uint8_t* at, Floats, Floats, Floats& scale, Floats&) { scale = load_half(at); }
    static void quads(const uint8_t* at, Bytes out[8]) {
        nibbles(at + 32, out);
        fifth_bits(at + 288, out);
    }
};
template <> struct Format<Kind::q5_1> : NoHeader {
    static constexpr int bits = 5, offset = 0, offset_bits = 0;
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
    static constexpr int bits = 8, offset = 128, offset_bits = 7;
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
    static constexpr int bits = 4;
    static void quads(const uint8_t* at, Bytes out[8]) { nibbles(at + 32, out); }
};
template <> struct Format<Kind::q5_k> : SuperWithMinimum {
    static constexpr int bits = 5;
    static void quads(const uint8_t* at, Bytes out[8]) {
        nibbles(at + 32, out);
        fifth_bits(at + 288, out);
    }
};
/// Q6_K has a scale for each half of a group: here `minimum` carries the second one.
template <> struct Format<Kind::q6_k> {
    static constexpr int bits = 6, offset = 32, offset_bits = 5;
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

/// Nibbles that name values of a table, which has `offset` added.
inline void named(const uint8_t* at, const uint8_t table[16], Bytes out[8]) {
    nibbles(at, out);
    for (int i = 0; i < 8; ++i) out[i] = lookup(table, out[i]);
}
/// ggml's values for 4 bits, with 128 added.
constexpr uint8_t kIq4Values[16] = {1, 24, 45, 63, 79, 93, 106, 118, 129, 141, 153, 166, 181, 197, 217, 241};
/// Twice the values of a 4-bit float (E2M1), with 16 added.
constexpr uint8_t kE2m1Values[16] = {16, 17, 18, 19, 20, 22, 24, 28, 16, 15, 14, 13, 12, 10, 8, 4};

template <> struct Format<Kind::iq4_nl> : NoHeader {
    static constexpr int bits = 8, offset = 128, offset_bits = 7;
    static constexpr bool has_minimum = false, halves = false;
    static void scales(const uint8_t* at, Floats, Floats, Floats& scale, Floats&) { scale = load_half(at); }
    static void quads(const uint8_t* at, Bytes out[8]) { named(at + 32, kIq4Values, out); }
};
template <> struct Format<Kind::iq4_xs> {
    static constexpr int bits = 8, offset = 128, offset_bits = 7;
    static constexpr bool has_minimum = false, halves = false;
    static void header(const uint8_t* at, Floats& d, Floats&) { d = load_half(at); }
    static void scales(const uint8_t* at, Floats d, Floats, Floats& scale, Floats&) { scale = mul(d, load_i8(at)); }
    static void quads(const uint8_t* at, Bytes out[8]) { named(at + 32, kIq4Values, out); }
};
template <> struct Format<Kind::mxfp4> : NoHeader {
    static constexpr int bits = 5, offset = 16, offset_bits = 4;
    static constexpr bool has_minimum = false, halves = false;
    static void scales(const uint8_t* at, Floats, Floats, Floats& scale, Floats&) { scale = load_bfloat(at); }
    static void quads(const uint8_t* at, Bytes out[8]) { named(at + 32, kE2m1Values, out); }
};

/// scale * (q - zero point) as a scale and a minimum; both are exact.
struct WithZeroPoint : NoHeader {
    static constexpr int bits = 4, offset = 0, offset_bits = 0;
    static constexpr bool has_minimum = true, halves = false;
    static Floats minimum(Floats scale, const uint8_t* at) { return sub(all(0.0f), mul(scale, load_u8(at + 32))); }
    static void quads(const uint8_t* at, Bytes out[8]) { nibbles(at + 48, out); }
};
template <> struct Format<Kind::i4_f16> : WithZeroPoint {
    static void scales(const uint8_t* at, Floats, Floats, Floats& scale, Floats& least) {
        scale = load_half(at);
        least = minimum(scale, at);
    }
};
template <> struct Format<Kind::i4_bf16> : WithZeroPoint {
    static void scales(const uint8_t* at, Floats, Floats, Floats& scale, Floats& least) {
        scale = load_bfloat(at);
        least = minimum(scale, at);
    }
};

/// The zero points of its lanes are less by `offset`, so that there is no minimum where they are in the middle.
template <> struct Format<Kind::i8_f32> : NoHeader {
    static constexpr int bits = 8, offset = 128, offset_bits = 7;
    static constexpr bool has_minimum = true, halves = false;
    static void scales(const uint8_t* at, Floats, Floats, Floats& scale, Floats& minimum) {
        scale = load(reinterpret_cast<const float*>(at));
        minimum = mul(scale, sub(all(128.0f), load_u8(at + 64)));
    }
    static void quads(const uint8_t* at, Bytes out[8]) {
        for (int i = 0; i < 8; ++i) out[i] = load_bytes(at + 80 + 64 * i);
    }
};
/// As MXFP4, with a scale for each half of a group, as Q6_K.
template <> struct Format<Kind::nvfp4_f32> {
    static constexpr int bits = 5, offset = 16, offset_bits = 4;
    static constexpr bool has_minimum = false, halves = true;
    static void header(const uint8_t* at, Floats& d, Floats&) { d = load(reinterpret_cast<const float*>(at)); }
    static void scales(const uint8_t* at, Floats d, Floats, Floats& scale, Floats& second) {
        scale = mul(d, load_f8(at));
        second = mul(d, load_f8(at + 16));
    }
    static void quads(const uint8_t* at, Bytes out[8]) { named(at + 32, kE2m1Values, out); }
};

/// acc + scale * (bytes of a row's group or of its remainder) * (bytes of the weights' group).
template <class F, class Group> inline Floats add_group(Floats acc, const Bytes quads[8], Floats scale, Floats second, const Group& x) {
    const Floats by = all(x.scale);
    if (F::halves) {
        const Ints first = all_ints(x.minus_first);
        const Ints one = dot_quads<F::bits, F::offset_bits, 4>(quads, x.bytes, first);
        const Ints two = dot_quads<F::bits, F::offset_bits, 4>(quads + 4, x.bytes + 16, sub(all_ints(x.minus_sum), first));
        return fma(to_float(two), mul(second, by), fma(to_float(one), mul(scale, by), acc));
    }
    const Ints total = dot_quads<F::bits, F::offset_bits, 8>(quads, x.bytes, all_ints(x.minus_sum));
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

/// Any number of rows times one tile: out [n_rows, 16].
template <Kind kind> void quantised_product(const uint8_t* at, const Rows& rows, int first, int n_rows, float* out) {
    // As many accumulators as there are registers for.
    constexpr int together = LANDRACE_LANES == 512 ? 16 : 4;
    for (int done = 0; done < n_rows; done += together) {
        const int n = n_rows - done < together ? n_rows - done : together;
        float* to = out + done * kTile;
        if (n == 1) quantised_rows<kind, 1>(at, rows, first + done, n, to);
        else if (n == 2) quantised_rows<kind, 2>(at, rows, first + done, n, to);
        else if (n <= 4) quantised_rows<kind, 4>(at, rows, first + done, n, to);
        else if (n <= together / 2) quantised_rows<kind, together / 2>(at, rows, first + done, n, to);
        else if (n <= together * 3 / 4) quantised_rows<kind, together * 3 / 4>(at, rows, first + done, n, to);
        else quantised_rows<kind, together>(at, rows, first + done, n, to);
    }
}

/// One row of a matrix as floats, times `factor`.
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
        const uint8_t* start = at;
        at += group_bytes(kind);
        uint8_t bytes[64];
        for (int i = 0; i < 8; ++i) {
            store_bytes(bytes, quads[i]);
            for (int j = 0; j < 4; ++j) {
                const int k = g * kGroup + 4 * i + j;
                if (k >= matrix.n_in) break;
                const float q = static_cast<float>(bytes[4 * lane + j] - F::offset);
                const float by = F::halves && i >= 4 ? minima[lane] : scales[lane];
                float value = F::has_minimum ? by * q + minima[lane] : by * q;
                // Of its scales, not every product with 8 bits is exact.
                if (kind == Kind::i8_f32) value = by * (q + static_cast<float>(F::offset - start[64 + lane]));
                out[k] = value * factor;
            }
        }
    }
}

}  // namespace LANDRACE_ISA
}  // namespace landrace
