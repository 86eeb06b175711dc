// Blocks of 32 floats to Q8_0 and Q4_0, in the instruction set of the including file.
//
// landrace/kernels/reference/quantising.py says what the result is. Its sums run over the 32 values in order and round
// after every operation, and so do these: no fma here.
#pragma once

#include <algorithm>
#include <cfloat>
#include <cstring>

#include "half.h"
#include "quantising.h"
#include "vec.h"

namespace landrace {
namespace LANDRACE_ISA {

/// Candidates of Q4_0's search: the value of greatest magnitude becomes -kLeast, -kLeast - kStep, ... times the scale.
constexpr float kLeast = 5.5f, kStep = 0.25f;
constexpr int kCandidates = 17;
/// From here on, a scale of Q8_0 or Q4_0 rounds to infinity in float16: 65520 times the greatest integer.
constexpr float kTooLarge8 = 65520.0f * 127.0f, kTooLarge4 = 65520.0f * 8.0f;
/// Up to here, Q4_0's plain scale rounds to zero in float16.
constexpr float kTooSmall4 = 0x1p-22f;

inline int32_t bits_of(float x) {
    int32_t bits;
    std::memcpy(&bits, &x, 4);
    return bits;
}

/// Sixteen values from the `i`-th on.
template <Kind source> inline Floats load_from(const uint8_t* from, int64_t i) {
    if constexpr (source == Kind::f32) return load(reinterpret_cast<const float*>(from) + i);
    if constexpr (source == Kind::f16) return load_half(from + 2 * i);
    return load_bfloat(from + 2 * i);
}

inline Floats absolute(Floats a) { return max(a, sub(all(0.0f), a)); }

/// To the nearest integer, halves away from zero.
inline Ints round_away(Floats a) {
    const Floats raised = add(absolute(a), all(0.5f));
    const Floats nearest = to_float(round_to_int(raised));
    const Floats floor = where_less(raised, nearest, sub(nearest, all(1.0f)), nearest);
    return round_to_int(where_less(a, all(0.0f), sub(all(0.0f), floor), floor));
}

template <Kind source> bool to_q8_0(const uint8_t* from, int64_t n, uint8_t* to) {
    Ints largest = all_ints(0);
    for (int64_t block = 0; block < n; ++block, to += 34) {
        const Floats low = load_from<source>(from, block * kGroup), high = load_from<source>(from, block * kGroup + kLanes);
        largest = max(largest, max(magnitude(low), magnitude(high)));
        const float scale = greatest(max(absolute(low), absolute(high))) / 127.0f;
        // A scale so small that its inverse is infinite is zero in float16: any integers would do.
        const float inverse = scale == 0.0f || 1.0f / scale > FLT_MAX ? 0.0f : 1.0f / scale;
        const uint16_t half = float_to_half(scale);
        std::memcpy(to, &half, 2);
        store_i8(reinterpret_cast<int8_t*>(to + 2), round_away(mul(low, all(inverse))));
        store_i8(reinterpret_cast<int8_t*>(to + 2 + kLanes), round_away(mul(high, all(inverse))));
    }
    return greatest(largest) < bits_of(kTooLarge8);
}

/// Sixteen blocks, one to a lane.
struct Blocks {
    float values[kGroup][kLanes];
    float weights[kGroup][kLanes];
    float weighted[kGroup][kLanes];  // weight * value
    Floats extreme;                  // the value of greatest magnitude, the first of equals
};

/// Fills `blocks` with the `n` <= 16 blocks at `from`, and with zeros. False: see `QuantiseBlocks`.
template <Kind source> bool gather(const uint8_t* from, int n, Blocks& blocks) {
    Ints largest = all_ints(0);
    float block[kGroup];
    for (int lane = 0; lane < kLanes; ++lane) {
        for (int i = 0; i < kGroup; i += kLanes) {
            const Floats values = lane < n ? load_from<source>(from, lane * kGroup + i) : all(0.0f);
            largest = max(largest, magnitude(values));
            store(block + i, values);
        }
        for (int i = 0; i < kGroup; ++i) blocks.values[i][lane] = block[i];
    }
    Floats total = all(0.0f), most = all(0.0f);
    blocks.extreme = all(0.0f);
    for (int i = 0; i < kGroup; ++i) {
        const Floats value = load(blocks.values[i]), size = absolute(value);
        blocks.extreme = where_less(most, size, value, blocks.extreme);
        most = max(size, most);
        total = add(total, size);
    }
    const Floats mean = mul(total, all(1.0f / kGroup));
    for (int i = 0; i < kGroup; ++i) {
        const Floats value = load(blocks.values[i]), weight = add(mean, absolute(value));
        store(blocks.weights[i], weight);
        store(blocks.weighted[i], mul(weight, value));
    }
    return greatest(largest) < bits_of(kTooLarge4);
}

/// The integer of -8 to 7 for a value that was divided by its scale.
inline Ints code(Floats a) { return round_to_int(max(min(a, all(7.0f)), all(-8.0f))); }

/// 1 / a, and 0 for 0.
inline Floats inverse_of(Floats a) { return where_less(all(0.0f), absolute(a), div(all(1.0f), a), all(0.0f)); }

inline Floats as_half(Floats a) {
    uint16_t halves[kLanes];
    store_half(halves, a);
    return load_half(halves);
}

/// The weighted squared error of every block when it is stored with `scale`.
inline Floats error_of(const Blocks& blocks, Floats scale) {
    const Floats inverse = inverse_of(scale);
    Floats error = all(0.0f);
    for (int i = 0; i < kGroup; ++i) {
        const Floats value = load(blocks.values[i]);
        const Floats missed = sub(value, mul(scale, to_float(code(mul(value, inverse)))));
        error = add(error, mul(mul(load(blocks.weights[i]), missed), missed));
    }
    return error;
}

/// The scale of every block, exact in float16.
inline Floats search(const Blocks& blocks) {
    const Floats small = all(kTooSmall4), size = absolute(blocks.extreme);
    const Floats inverse = where_less(small, size, div(all(1.0f), blocks.extreme), all(0.0f));
    Floats best = all(0.0f), found = all(0.0f);
    for (int candidate = 0; candidate < kCandidates; ++candidate) {
        const Floats factor = mul(all(-(kLeast + kStep * static_cast<float>(candidate))), inverse);
        Floats with_value = all(0.0f), with_itself = all(0.0f);
        LANDRACE_UNROLL
        for (int i = 0; i < kGroup; ++i) {
            const Floats q = to_float(code(mul(load(blocks.values[i]), factor)));
            with_value = add(with_value, mul(load(blocks.weighted[i]), q));
            with_itself = add(with_itself, mul(mul(load(blocks.weights[i]), q), q));
        }
        const Floats scale = div(with_value, with_itself), saved = mul(scale, with_value);
        found = where_less(best, saved, scale, found);
        best = where_less(best, saved, saved, best);
    }
    const Floats fitted = as_half(found);
    const Floats plain = as_half(where_less(small, size, mul(blocks.extreme, all(-0.125f)), all(0.0f)));
    return where_less(error_of(blocks, fitted), error_of(blocks, plain), fitted, plain);
}

template <Kind source> bool to_q4_0(const uint8_t* from, int64_t n, uint8_t* to) {
    constexpr int64_t value_bytes = source == Kind::f32 ? 4 : 2;
    Blocks blocks;
    bool fits = true;
    for (int64_t first = 0; first < n; first += kLanes) {
        const int lanes = static_cast<int>(std::min<int64_t>(kLanes, n - first));
        fits = gather<source>(from + first * kGroup * value_bytes, lanes, blocks) && fits;
        const Floats scale = search(blocks), inverse = inverse_of(scale);
        uint16_t halves[kLanes];
        store_half(halves, scale);
        int32_t nibbles[kGroup][kLanes];
        for (int i = 0; i < kGroup; ++i) store_ints(nibbles[i], add(code(mul(load(blocks.values[i]), inverse)), all_ints(8)));
        for (int lane = 0; lane < lanes; ++lane, to += 18) {
            std::memcpy(to, &halves[lane], 2);
            for (int i = 0; i < kGroup / 2; ++i)
                to[2 + i] = static_cast<uint8_t>(nibbles[i][lane] | nibbles[kGroup / 2 + i][lane] << 4);
        }
    }
    return fits;
}

inline Quantisers all_quantisers() {
    return {
        {to_q8_0<Kind::f32>, to_q8_0<Kind::f16>, to_q8_0<Kind::bf16>},
        {to_q4_0<Kind::f32>, to_q4_0<Kind::f16>, to_q4_0<Kind::bf16>},
    };
}

}  // namespace LANDRACE_ISA
}  // namespace landrace
