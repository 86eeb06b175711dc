// Products with matrices of floats: rows as float32, or as pairs of bfloat16 where the matrix is bfloat16.
#pragma once

#include <algorithm>

#include "activations.inl"
#include "compact_tile.inl"
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
    using Weights = Floats;
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
/// Those of bitsandbytes' fp4: two bits of exponent and one of mantissa, over 12.
constexpr float kFp4Values[16] = {
    0.0f, 0.0625f / 12, 8.0f / 12, 1.0f, 4.0f / 12, 6.0f / 12, 2.0f / 12, 3.0f / 12,
    -0.0f, -0.0625f / 12, -8.0f / 12, -1.0f, -4.0f / 12, -6.0f / 12, -2.0f / 12, -3.0f / 12,
};
/// What codes of half a byte stand for.
template <Kind kind> constexpr const float* coded_values() { return kind == Kind::nf4_f32 ? kNf4Values : kFp4Values; }
template <Kind kind> struct CodedStep : FloatStep<Kind::f32> {
    static Floats weights(const uint8_t* tile, int64_t step) {
        const uint8_t* scales = tile + step / kGroup * group_bytes(kind);
        const uint8_t* codes = tile + step_offset(kind, step / 2 * 2);
        return mul(lookup_halves(coded_values<kind>(), codes, static_cast<int>(step % 2) * 4), load(reinterpret_cast<const float*>(scales)));
    }
};
template <> struct FloatStep<Kind::nf4_f32> : CodedStep<Kind::nf4_f32> {};
template <> struct FloatStep<Kind::fp4_f32> : CodedStep<Kind::fp4_f32> {};
template <> struct FloatStep<Kind::bf16> {
    using Mode = FlushDenormals;
    static const uint32_t* panels(const Rows& rows) { return rows.pairs; }
    static Pairs weights(const uint8_t* tile, int64_t step) { return load_pairs(tile + step_offset(Kind::bf16, step)); }
    static Pairs input(uint32_t x) { return all_pairs(x); }
    static Floats add(Floats acc, Pairs weights, Pairs input) { return dot(acc, weights, input); }
    using Weights = Pairs;
};
template <> struct FloatStep<Kind::bf12> : FloatStep<Kind::bf16> {};

/// Reads the weights of `kSteps` steps of a tile at a time.
template <Kind kind> class Reader {
public:
    static constexpr int kSteps = 1;

    Reader() = default;
    explicit Reader(const uint8_t* tile) : tile_(tile) {}
    void read(int64_t step, typename FloatStep<kind>::Weights* out) const { *out = FloatStep<kind>::weights(tile_, step); }

private:
    const uint8_t* tile_;
};
template <> class Reader<Kind::bf12> : public CompactReader {
public:
    using CompactReader::CompactReader;
};

/// Tiles and rows of one pass: as many accumulators as there are registers for. Two tiles share what loading a row's
/// inputs costs, and give a single row two sums that do not wait for each other.
constexpr int kFloatTiles = LANDRACE_LANES == 512 ? 2 : 1;
constexpr int kFloatRows = LANDRACE_LANES == 512 ? 8 : 4;
/// Rows of one pass over T tiles of a kind. What bf12 unpacks in registers serves as many as there are registers for.
template <Kind kind, int T> constexpr int kPassRows = kind == Kind::bf12 && T == 1 ? kFloatTiles * kFloatRows : kFloatRows;
/// Tiles of one pass over so many rows.
inline int tiles_together(Kind kind, int n_rows) {
    const bool alone = kind == Kind::bf12 && n_rows > kFloatRows && n_rows <= kPassRows<Kind::bf12, 1>;
    return alone ? 1 : kFloatTiles;
}
/// The most steps that all rows take before the next ones: their weights stay near meanwhile.
constexpr int kStepsTogether = 256;
/// The least: what is asked for during a stretch is what comes after it. Tiles of bf12 are passed in less time.
constexpr int steps_ahead(Kind kind) { return (kind == Kind::bf12 ? 2 : 1) * kPrefetchBytes / step_bytes(kind); }

/// A stretch of steps, and what a pass over some of the rows asks memory for: a share of the lines of the next stretch, so
/// that memory and processor are busy through all of the passes.
struct Stretch {
    int begin, end;
    int origin;                  // the step that what is read begins with
    const uint8_t* const* next;  // of each tile
    int n_bytes;                 // of the next stretch, about
    int pass, n_passes;
};

/// A stretch of T tiles for R rows, the first of them the first of a panel: adds to out [T][R, 16], or starts there with
/// the first step. What a panel holds past the last row is computed too.
template <Kind kind, int T, int R>
void float_pass(Reader<kind>* tiles, const Stretch& stretch, const Rows& rows, int first, float* const* out) {
    using S = FloatStep<kind>;
    constexpr int kSteps = Reader<kind>::kSteps;
    const int64_t n_steps = ceil_div(rows.n_in, step_inputs(kind));
    const auto* panels = S::panels(rows) + first / kPanel * n_steps * kPanel;
    // A line is asked for as often as it takes to have asked for the pass's share of them at its end. Tiles of which steps
    // are read together have one pass, in which each step asks for one.
    constexpr int kLine = 64;
    constexpr bool kByStep = kSteps > 1;
    const int n = stretch.end - stretch.begin, every = kByStep ? n : std::max(1, stretch.n_passes * n * kLine / stretch.n_bytes);
    int64_t line = ceil_div(stretch.n_bytes, stretch.n_passes * kLine) * stretch.pass * kLine;
    Floats acc[T][R];
    LANDRACE_UNROLL for (int t = 0; t < T; ++t)
        LANDRACE_UNROLL for (int r = 0; r < R; ++r) acc[t][r] = stretch.begin == 0 ? all(0.0f) : load(out[t] + r * kTile);
    for (int64_t step = stretch.begin; step < stretch.end; line += kLine) {
        LANDRACE_UNROLL for (int t = 0; t < T && !kByStep; ++t) prefetch(stretch.next[t] + line);
        for (const int64_t stop = std::min<int64_t>(step + every, stretch.end); step < stop; step += kSteps) {
            typename S::Weights weights[T][kSteps];
            LANDRACE_UNROLL for (int t = 0; t < T; ++t) {
                tiles[t].read(step - stretch.origin, weights[t]);
                LANDRACE_UNROLL for (int i = 0; i < kSteps && kByStep; ++i) prefetch(stretch.next[t] + (step - stretch.begin + i) * step_bytes(kind));
            }
            LANDRACE_UNROLL for (int i = 0; i < kSteps; ++i) {
                if (i > 0 && step + i == stretch.end) break;
                LANDRACE_UNROLL for (int r = 0; r < R; ++r) {
                    const auto input = S::input(panels[(r / kPanel * n_steps + step + i) * kPanel + r % kPanel]);
                    LANDRACE_UNROLL for (int t = 0; t < T; ++t) acc[t][r] = S::add(acc[t][r], weights[t][i], input);
                }
            }
        }
    }
    LANDRACE_UNROLL for (int t = 0; t < T; ++t)
        LANDRACE_UNROLL for (int r = 0; r < R; ++r) store(out[t] + r * kTile, acc[t][r]);
}

/// All passes of a stretch.
template <Kind kind, int T>
void float_passes(Reader<kind>* tiles, Stretch stretch, const Rows& rows, int first, int n_rows, float* const* out) {
    for (; stretch.pass < stretch.n_passes; ++stretch.pass) {
        const int done = stretch.pass * kPassRows<kind, T>, n = n_rows - done;
        float* to[T];
        for (int t = 0; t < T; ++t) to[t] = out[t] + done * kTile;
        if (n == 1) float_pass<kind, T, 1>(tiles, stretch, rows, first + done, to);
        else if (n == 2) float_pass<kind, T, 2>(tiles, stretch, rows, first + done, to);
        else if (n <= 4) float_pass<kind, T, 4>(tiles, stretch, rows, first + done, to);
        else if (n <= kFloatRows || kPassRows<kind, T> == kFloatRows) float_pass<kind, T, kFloatRows>(tiles, stretch, rows, first + done, to);
        else if (n <= kFloatRows + kPanel) float_pass<kind, T, std::min(kFloatRows + kPanel, kPassRows<kind, T>)>(tiles, stretch, rows, first + done, to);
        else float_pass<kind, T, kPassRows<kind, T>>(tiles, stretch, rows, first + done, to);
    }
}

/// Several passes of a stretch over tiles of bf12, which are unpacked for them.
template <int T>
void unpacked_passes(Reader<Kind::bf12>* tiles, Stretch stretch, const Rows& rows, int first, int n_rows, float* const* out) {
    alignas(64) uint8_t unpacked[T][kStepsTogether * step_bytes(Kind::bf16)];
    Reader<Kind::bf16> readers[T];
    for (int t = 0; t < T; ++t) {
        uint8_t* to = unpacked[t];
        for (int64_t step = stretch.begin; step < stretch.end; step += kCompactSteps) {
            Pairs weights[kCompactSteps];
            tiles[t].read(step, weights);
            LANDRACE_UNROLL for (int i = 0; i < kCompactSteps; ++i, to += step_bytes(Kind::bf16)) store_pairs(to, weights[i]);
        }
        readers[t] = Reader<Kind::bf16>(unpacked[t]);
    }
    stretch.origin = stretch.begin;
    float_passes<Kind::bf16, T>(readers, stretch, rows, first, n_rows, out);
}

/// Any number of rows times T tiles, after which come the `next` ones: out [T][n_rows rounded up to panels, 16].
template <Kind kind, int T>
void float_product(const uint8_t* const* tiles, const uint8_t* const* next, const Rows& rows, int first, int n_rows, float* const* out) {
    const typename FloatStep<kind>::Mode mode;
    constexpr int kSteps = Reader<kind>::kSteps;
    const int n_steps = ceil_div(rows.n_in, step_inputs(kind));
    const int n_passes = n_rows <= kPassRows<kind, T> ? 1 : ceil_div(n_rows, kFloatRows);
    const int64_t n_units = ceil_div(n_steps, kSteps);  // of steps that are read together
    const auto n_stretches = ceil_div(static_cast<int>(n_units), std::min(kStepsTogether, n_passes * steps_ahead(kind)) / kSteps);
    const auto border = [&](int index) { return std::min(n_steps, static_cast<int>(n_units * index / n_stretches) * kSteps); };
    Reader<kind> readers[T];
    for (int t = 0; t < T; ++t) readers[t] = Reader<kind>(tiles[t]);
    for (int index = 0; index < n_stretches; ++index) {
        const int begin = border(index), end = border(index + 1);
        const uint8_t* ahead[T];
        for (int t = 0; t < T; ++t) ahead[t] = end < n_steps ? tiles[t] + step_offset(kind, end) : next[t];
        const auto n_bytes = static_cast<int>(step_offset(kind, end) - step_offset(kind, begin));
        const Stretch stretch{begin, end, 0, ahead, n_bytes, 0, n_passes};
        if constexpr (kind == Kind::bf12) {
            if (n_passes > 1) {
                unpacked_passes<T>(readers, stretch, rows, first, n_rows, out);
                continue;
            }
        }
        float_passes<kind, T>(readers, stretch, rows, first, n_rows, out);
    }
}

inline float bfloat_to_float(uint16_t half) {
    const uint32_t bits = static_cast<uint32_t>(half) << 16;
    float value;
    std::memcpy(&value, &bits, sizeof(value));
    return value;
}

/// One row of a matrix as floats, times `factor`.
template <Kind kind> void unpack_float_row(const Matrix& matrix, int row, float factor, float* out) {
    constexpr int inputs = step_inputs(kind), size = float_bytes(kind);
    const uint8_t* tile = matrix.tile(row / kTile);
    const int lane = row % kTile;
    for (int k = 0; k < matrix.n_in; ++k) {
        const int step = is_coded(kind) ? k / 2 * 2 : k / inputs;
        const uint8_t* at = tile + step_offset(kind, step) + (is_coded(kind) ? lane : (lane * inputs + k % inputs) * size);
        float value;
        uint16_t half;
        if constexpr (kind == Kind::f32) {
            std::memcpy(&value, at, sizeof(value));
        } else if constexpr (group_bytes(kind) > 0) {
            float scale;
            std::memcpy(&scale, tile + k / kGroup * group_bytes(kind) + 4 * lane, sizeof(scale));
            if constexpr (kind == Kind::f8_f32) value = half_to_float(f8_as_half(*at)) * scale;
            else if constexpr (kind == Kind::e5m2_f32) value = half_to_float(static_cast<uint16_t>(*at << 8)) * scale;
            else value = coded_values<kind>()[*at >> 4 * (k % 2) & 15] * scale;
        } else if constexpr (kind == Kind::bf12) {
            value = bfloat_to_float(compact_weight(tile, lane, k));
        } else {
            std::memcpy(&half, at, sizeof(half));
            value = kind == Kind::f16 ? half_to_float(half) : bfloat_to_float(half);
        }
        out[k] = value * factor;
    }
    if constexpr (kind == Kind::bf12) {
        const CompactHead& head = CompactHead::of(tile);
        for (const RareWeight* rare = head.rare_begin(); rare < head.rare_end(); ++rare) {
            const int64_t k = int64_t{inputs} * rare->step + rare->place % inputs;
            if (rare->place / inputs == lane && k < matrix.n_in) out[k] = bfloat_to_float(rare->bits) * factor;
        }
    }
}

}  // namespace LANDRACE_ISA
}  // namespace landrace
