// Norms, activation functions, and rows quantised to signed bytes.
#pragma once

#include "product.h"
#include "vec.h"

#include <limits>

namespace landrace {
namespace LANDRACE_ISA {

/// x / sqrt(mean(x^2) + eps) * weight; a null weight is one of ones. Sums in sixteen lanes, added in one fixed tree.
inline void rms_norm(const float* x, const float* weight, float eps, int n, float* out) {
    Floats squares = all(0.0f);
    const int whole = n / kLanes * kLanes;
    for (int i = 0; i < whole; i += kLanes) {
        const Floats v = load(x + i);
        squares = fma(v, v, squares);
    }
    if (whole < n) {
        const Floats v = load_some(x + whole, n - whole);
        squares = fma(v, v, squares);
    }
    const Floats inverse = all(1.0f / std::sqrt(sum(squares) / static_cast<float>(n) + eps));
    for (int i = 0; i < whole; i += kLanes) {
        const Floats scaled = mul(load(x + i), inverse);
        store(out + i, weight ? mul(scaled, load(weight + i)) : scaled);
    }
    if (whole < n) {
        const int rest = n - whole;
        const Floats scaled = mul(load_some(x + whole, rest), inverse);
        store_some(out + whole, weight ? mul(scaled, load_some(weight + whole, rest)) : scaled, rest);
    }
}

/// (x - mean) / sqrt(variance + eps) * weight + bias. Sums in sixteen lanes, added in one fixed tree.
inline void layer_norm(const float* x, const float* weight, const float* bias, float eps, int n, float* out) {
    const auto rest = [&](int i) { return n - i < kLanes ? n - i : kLanes; };
    Floats total = all(0.0f), squares = all(0.0f);
    for (int i = 0; i < n; i += kLanes) total = add(total, load_some(x + i, rest(i)));
    const Floats mean = all(sum(total) / static_cast<float>(n));
    for (int i = 0; i < n; i += kLanes) {
        const Floats v = where_lane(0, rest(i), sub(load_some(x + i, rest(i)), mean), all(0.0f));
        squares = fma(v, v, squares);
    }
    const Floats inverse = all(1.0f / std::sqrt(sum(squares) / static_cast<float>(n) + eps));
    for (int i = 0; i < n; i += kLanes) {
        const Floats scaled = mul(sub(load_some(x + i, rest(i)), mean), inverse);
        store_some(out + i, fma(scaled, load_some(weight + i, rest(i)), load_some(bias + i, rest(i))), rest(i));
    }
}

/// The mean of x's squares. Sums in sixteen lanes, added in one fixed tree.
inline float mean_square(const float* x, int n) {
    Floats squares = all(0.0f);
    for (int i = 0; i < n; i += kLanes) {
        const Floats v = n - i >= kLanes ? load(x + i) : load_some(x + i, n - i);
        squares = fma(v, v, squares);
    }
    return sum(squares) / static_cast<float>(n);
}

inline float root_mean_square(const float* x, int n) { return std::sqrt(mean_square(x, n)); }

/// A row into its place in a panel: for each group of 32, scale = (greatest magnitude) / 127 and byte = x / scale rounded
/// to nearest. A group with outliers also keeps what rounding left over, in 254ths of the scale. A group with an infinity
/// or a NaN keeps no bytes and a scale that makes NaN of whatever is computed. For groups with a remainder the bit of
/// `panel_row`, the row's number in its panel, is set in `with_remainder`; other bits are left alone.
inline void quantise(const float* x, int n, int panel_row, QuantisedGroup* groups, Remainder* remainders, uint8_t* with_remainder) {
    const int n_groups = (n + kGroup - 1) / kGroup;
    const float outlier = kOutlier * root_mean_square(x, n);
    for (int g = 0; g < n_groups; ++g) {
        const int at = g * kGroup, left = n - at;
        const Floats low = left >= kLanes ? load(x + at) : load_some(x + at, left);
        const Floats high = left >= kGroup ? load(x + at + kLanes)
                            : left > kLanes ? load_some(x + at + kLanes, left - kLanes) : all(0.0f);
        const int32_t bits = greatest(max(magnitude(low), magnitude(high)));
        float greatest_magnitude;
        std::memcpy(&greatest_magnitude, &bits, 4);
        QuantisedGroup& group = groups[static_cast<int64_t>(g) * kPanel];
        // Below 1e-30 the inverse would overflow: such a group is zero. Above the greatest float it is not a number.
        if (!(greatest_magnitude >= 1e-30f && greatest_magnitude <= 3.40282347e38f)) {
            std::memset(&group, 0, sizeof(group));
            group.scale = group.scaled_sum = greatest_magnitude < 1e-30f ? 0.0f : std::numeric_limits<float>::quiet_NaN();
            continue;
        }
        const Floats inverse = all(127.0f / greatest_magnitude);
        const Floats u = mul(low, inverse), v = mul(high, inverse);
        const Ints a = round_to_int(u), b = round_to_int(v);
        store_i8(group.bytes, a);
        store_i8(group.bytes + kLanes, b);
        const int32_t first = sum(a), total = first + sum(b);
        group.minus_first = -first;
        group.minus_sum = -total;
        group.scale = greatest_magnitude / 127.0f;
        group.scaled_sum = group.scale * static_cast<float>(total);
        if (greatest_magnitude <= outlier) continue;
        const Ints c = round_to_int(mul(sub(u, to_float(a)), all(254.0f)));
        const Ints d = round_to_int(mul(sub(v, to_float(b)), all(254.0f)));
        Remainder& remainder = remainders[static_cast<int64_t>(g) * kPanel];
        store_i8(remainder.bytes, c);
        store_i8(remainder.bytes + kLanes, d);
        const int32_t first_left = sum(c), total_left = first_left + sum(d);
        remainder.minus_first = -first_left;
        remainder.minus_sum = -total_left;
        remainder.scale = group.scale / 254.0f;
        group.scaled_sum = std::fma(remainder.scale, static_cast<float>(total_left), group.scaled_sum);
        with_remainder[g] = static_cast<uint8_t>(with_remainder[g] | 1 << panel_row);
    }
}

/// A row into its place in a panel as pairs of bfloat16, rounded to nearest, ties to even; an odd last one gets a zero.
inline void pair_up(const float* x, int n, uint32_t* pairs) {
    for (int i = 0; i < n; i += kLanes) {
        const int now = n - i < kLanes ? n - i : kLanes;
        uint16_t rounded[kLanes];
        store_bfloat(rounded, now == kLanes ? load(x + i) : load_some(x + i, now));
        for (int j = 0; j < now; j += 2)
            pairs[static_cast<int64_t>(i + j) / 2 * kPanel] = rounded[j] | static_cast<uint32_t>(rounded[j + 1]) << 16;
    }
}

/// 1 / (1 + e^-x).
inline Floats sigmoid(Floats x) { return div(all(1.0f), add(all(1.0f), exp(sub(all(0.0f), x)))); }

inline float sigmoid(float x) {
    float lanes[kLanes];
    store(lanes, sigmoid(all(x)));
    return lanes[0];
}

/// ln(x), x >= 1, within 1e-15: by additions and products alone, so that it is the same everywhere.
inline double natural_log(double x) {
    int exponent = 0;
    double part = std::frexp(x, &exponent);  // in [0.5, 1)
    if (part < 0.70710678118654752) {
        part *= 2;
        --exponent;
    }
    // ln(part) = 2 artanh(t), |t| < 0.172.
    const double t = (part - 1) / (part + 1), square = t * t;
    double sum = 0;
    for (int i = 25; i > 0; i -= 2) sum = sum * square + 1.0 / i;
    return exponent * 0.69314718055994531 + 2 * t * sum;
}

/// ln(1 + e^x) = max(x, 0) + ln(1 + y), y = e^-|x|, within a few units in the last place: ln(1 + y) = 2 artanh(t) with
/// t = y / (2 + y) <= 1/3.
inline Floats softplus(Floats x) {
    const Floats y = exp(min(x, sub(all(0.0f), x)));
    const Floats t = div(y, add(all(2.0f), y)), square = mul(t, t);
    Floats series = all(1.0f / 15);
    for (int i = 13; i > 0; i -= 2) series = fma(series, square, all(1.0f / static_cast<float>(i)));
    return fma(add(t, t), series, max(x, all(0.0f)));
}

/// x * sigmoid(alpha * x).
inline Floats swish(Floats x, Floats alpha_x) { return div(x, add(all(1.0f), exp(sub(all(0.0f), alpha_x)))); }

/// tanh(x), within a few units in the last place: near 0 by four steps of its continued fraction, elsewhere out of e^-2|x|.
inline Floats tanh(Floats x) {
    const Floats size = max(x, sub(all(0.0f), x)), square = mul(x, x);
    const Floats above = fma(add(square, all(105.0f)), square, all(945.0f));
    const Floats below = fma(fma(all(15.0f), square, all(420.0f)), square, all(945.0f));
    const Floats small = div(mul(x, above), below);
    const Floats faded = exp(mul(all(-2.0f), size));
    const Floats large = div(sub(all(1.0f), faded), add(all(1.0f), faded));
    return where_less(size, all(0.5f), small, where_less(x, all(0.0f), sub(all(0.0f), large), large));
}

/// x * Phi(x), Phi the distribution function of the normal distribution (GELU; Hendrycks and Gimpel, 2016), within 4e-7 and a
/// unit in the last place: 2 Phi(-a) = e^(-a P(a)) for a >= 0, with P a polynomial that was fitted for 0 <= a <= 9 and grows
/// faster beyond.
inline Floats gelu(Floats x) {
    static constexpr float kFitted[] = {
        8.877558552357988e-09f, -3.233491503084903e-07f, 4.862065305581184e-06f, -3.8158861850207266e-05f, 1.4642072902342935e-04f,
        9.21751698089786e-05f, -4.922757417786874e-03f, 3.6420726991368724e-02f, 3.182840047623967e-01f, 7.978874982408309e-01f,
    };
    const Floats size = max(x, sub(all(0.0f), x));
    Floats p = all(kFitted[0]);
    for (int i = 1; i < 10; ++i) p = fma(p, size, all(kFitted[i]));
    const Floats tail = mul(all(0.5f), exp(sub(all(0.0f), mul(size, p))));
    return mul(x, where_less(x, all(0.0f), tail, sub(all(1.0f), tail)));
}

/// The same by 1/2 (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) in place of Phi(x).
inline Floats gelu_tanh(Floats x) {
    const Floats inner = mul(mul(all(0.7978845608028654f), x), fma(mul(all(0.044715f), x), x, all(1.0f)));
    return mul(mul(all(0.5f), x), add(all(1.0f), tanh(inner)));
}

/// l tanh(x / l), which stays within +-l.
inline Floats bounded(Floats x, float limit) { return mul(all(limit), tanh(mul(x, all(1.0f / limit)))); }

/// A gate and an up as one.
inline Floats gated(Floats gate, Floats up, const Activation& activation) {
    if (activation.kind == ActivationKind::swiglu) return mul(swish(gate, gate), up);
    if (activation.kind == ActivationKind::situ) {
        if (std::isfinite(activation.limit)) up = bounded(up, activation.limit);
        return mul(mul(bounded(gate, activation.alpha), sigmoid(gate)), up);
    }
    // What is no number stays so: min and max return their second operand then.
    const Floats limit = all(activation.limit);
    up = max(all(-activation.limit), min(limit, up));
    if (activation.kind == ActivationKind::clamp_after) return mul(min(limit, swish(gate, gate)), up);
    gate = min(limit, gate);
    if (activation.kind == ActivationKind::clamp_before) return mul(swish(gate, gate), up);
    return mul(swish(gate, mul(all(activation.alpha), gate)), add(up, all(1.0f)));
}

/// n values of each.
inline void gate_row(const float* gate, const float* up, int n, const Activation& activation, float* out) {
    int i = 0;
    for (; i + kLanes <= n; i += kLanes) store(out + i, gated(load(gate + i), load(up + i), activation));
    if (i < n) {
        const int rest = n - i;
        store_some(out + i, gated(load_some(gate + i, rest), load_some(up + i, rest), activation), rest);
    }
}

/// out = factor * x.
inline void scale(const float* x, float factor, int n, float* out) {
    for (int i = 0; i < n; i += kLanes) {
        const int now = n - i < kLanes ? n - i : kLanes;
        store_some(out + i, mul(load_some(x + i, now), all(factor)), now);
    }
}

/// out += factor * x.
inline void axpy(const float* x, float factor, int n, float* out) {
    int i = 0;
    for (; i + kLanes <= n; i += kLanes) store(out + i, fma(all(factor), load(x + i), load(out + i)));
    if (i < n) {
        const int rest = n - i;
        store_some(out + i, fma(all(factor), load_some(x + i, rest), load_some(out + i, rest)), rest);
    }
}

}  // namespace LANDRACE_ISA
}  // namespace landrace
