// Partial results of attention: merged chunk by chunk, in order, and finished when all are there.
#pragma once

#include <cmath>
#include <cstring>
#include <limits>

#include "attend_job.inl"

namespace landrace {
namespace LANDRACE_ISA {

/// Running softmax of one query row and head: its greatest score and the sum of its weights. Nothing seen yet: -inf, 0.
struct Partial {
    float greatest;
    float total;
};

inline bool is_empty(const Partial& p) { return p.total == 0.0f && p.greatest == -std::numeric_limits<float>::infinity(); }

/// Adds the partial results of the next chunk to those of the chunks before it.
inline void merge(Partial* into, float* into_sums, const Partial* part, const float* part_sums, int n, int padded_dim) {
    for (int i = 0; i < n; ++i) {
        float* a = into_sums + static_cast<int64_t>(i) * padded_dim;
        const float* b = part_sums + static_cast<int64_t>(i) * padded_dim;
        if (is_empty(part[i])) continue;
        if (is_empty(into[i])) {
            into[i] = part[i];
            std::memcpy(a, b, sizeof(float) * static_cast<size_t>(padded_dim));
            continue;
        }
        const float best = into[i].greatest > part[i].greatest ? into[i].greatest : part[i].greatest;
        const float keep = exp(into[i].greatest - best), gain = exp(part[i].greatest - best);
        into[i] = {best, std::fma(part[i].total, gain, into[i].total * keep)};
        for (int c = 0; c < padded_dim; c += kLanes)
            store(a + c, fma(load(b + c), all(gain), mul(load(a + c), all(keep))));
    }
}

/// What the weighted values are multiplied by: 1 / total weight, the sink's included.
inline float normaliser(const Partial& partial, const float* sink) {
    if (!sink) return 1.0f / partial.total;
    const float best = partial.greatest > *sink ? partial.greatest : *sink;
    const float keep = exp(partial.greatest - best);
    return keep / std::fma(partial.total, keep, exp(*sink - best));
}

/// Weighted values over total weight, to the job's output rows.
inline void finish(const AttendJob& job, const Partial* partials, const float* sums) {
    const HeadShape& s = job.shape;
    for (int i = 0; i < job.n_rows * job.n_heads; ++i) {
        const int head = job.first_head + i % job.n_heads;
        float* out = job.out + (static_cast<int64_t>(i / job.n_heads) * s.n_heads + head) * s.head_dim;
        const Floats inverse = all(normaliser(partials[i], job.sinks ? job.sinks + head : nullptr));
        for (int c = 0; c < s.head_dim; c += kLanes) {
            const Floats mixed = mul(load(sums + static_cast<int64_t>(i) * s.padded_dim + c), inverse);
            if (s.head_dim - c >= kLanes) store(out + c, mixed);
            else store_some(out + c, mixed, s.head_dim - c);
        }
    }
}

}  // namespace LANDRACE_ISA
}  // namespace landrace
