// One row's token, in the instruction set of the including file.
//
// The first pass over the row finds its greatest logit, and the greatest logit of each lane of each block. Filters turn
// into a bound on the logit that certainly excludes only what they drop; the lane maxima say which blocks have something
// above it, so that all further work is on few candidates. Without filters, the blocks' total weights lead to the block in
// which the uniform number falls.
#pragma once

#include <algorithm>
#include <cfloat>
#include <limits>

#include "sampling.h"
#include "vec.h"

namespace landrace {
namespace LANDRACE_ISA {

constexpr int kBlock = 16 * kLanes;
constexpr uint32_t kBins = 2048;
/// So few values are sorted.
constexpr size_t kFew = 256;
constexpr float kInfinity = std::numeric_limits<float>::infinity();

/// The first n of 16 logits, -infinity in the other lanes.
inline Floats load_logits(const float* p, int64_t n) {
    if (n >= kLanes) return load(p);
    return where_lane(0, static_cast<int>(n), load_some(p, static_cast<int>(n)), all(-kInfinity));
}

struct Row {
    const float* logits;
    int64_t vocab;
    float temperature;
    TokenMask mask;
    float greatest = 0;

    /// The logits of 16 tokens from a multiple of 16 on, -infinity for those that may not be chosen or do not exist.
    Floats at(int64_t first) const { return allowed(first, load_logits(logits + first, vocab - first)); }
    Floats allowed(int64_t first, Floats given) const {
        return mask.words ? where_bits(mask.bits(first) >> first % 32, given, all(-kInfinity)) : given;
    }
    bool allows(int64_t id) const { return !mask.words || mask.bits(id) >> id % 32 & 1; }

    int64_t n_blocks() const { return (vocab + kBlock - 1) / kBlock; }
    int64_t block_size(int64_t block) const { return std::min<int64_t>(kBlock, vocab - block * kBlock); }
    Floats x(Floats logit) const { return div(sub(logit, all(greatest)), all(temperature)); }

    /// A logit below all logits whose x is at least `least`. Logits so close that they share an x lie within a few units
    /// in the last place of the larger operand of the subtraction.
    float bound(double least) const {
        const double logit = greatest + temperature * least;
        const double slack = (std::fabs(logit) + std::fabs(greatest)) * 0x1p-20 + FLT_MIN;
        return static_cast<float>(std::max(logit - slack, -static_cast<double>(FLT_MAX)));
    }
};

/// Finds the greatest logit that may be chosen and fills `lane_maxima`. False where the row cannot be chosen from: one
/// that holds NaN or +infinity is none, whatever is allowed.
inline bool scan(Row& row, std::vector<float>& lane_maxima) {
    lane_maxima.resize(static_cast<size_t>(row.n_blocks() * kLanes));
    Floats best = all(-kInfinity), highest = best;
    Ints largest = all_ints(0);
    for (int64_t block = 0; block < row.n_blocks(); ++block) {
        const int64_t first = block * kBlock, end = first + row.block_size(block);
        Floats lanes = all(-kInfinity);
        for (int64_t i = first; i < end; i += kLanes) {
            const Floats given = load_logits(row.logits + i, end - i);
            lanes = max(row.allowed(i, given), lanes);
            highest = max(given, highest);
            largest = max(largest, magnitude(given));
        }
        store(lane_maxima.data() + block * kLanes, lanes);
        best = max(lanes, best);
    }
    row.greatest = greatest(best);
    constexpr int32_t infinity = 0x7f800000;
    return greatest(largest) <= infinity && greatest(highest) <= FLT_MAX && row.greatest >= -FLT_MAX;
}

inline int64_t first_greatest(const Row& row, const std::vector<float>& lane_maxima) {
    int64_t block = 0;
    while (greatest(load(lane_maxima.data() + block * kLanes)) != row.greatest) ++block;
    int64_t id = block * kBlock;
    while (row.logits[id] != row.greatest || !row.allows(id)) ++id;
    return id;
}

inline Floats weights(const Row& row, Floats logits) { return exp(row.x(logits)); }

/// The weight of each block, and their sum.
inline double weigh_blocks(const Row& row, std::vector<double>& block_weights) {
    block_weights.resize(static_cast<size_t>(row.n_blocks()));
    double total = 0;
    for (int64_t block = 0; block < row.n_blocks(); ++block) {
        const int64_t first = block * kBlock, end = first + row.block_size(block);
        double lanes[kLanes] = {};
        for (int64_t i = first; i < end; i += kLanes) {
            float some[kLanes];
            store(some, weights(row, row.at(i)));
            for (int lane = 0; lane < kLanes; ++lane) lanes[lane] += some[lane];
        }
        double weight = 0;
        for (const double lane : lanes) weight += lane;
        block_weights[static_cast<size_t>(block)] = weight;
        total += weight;
    }
    return total;
}

/// The first index whose weight and those before it exceed `target`; the last one with a weight where rounding leaves
/// their sum short of it.
inline size_t look_up(const float* some, size_t n, double target) {
    double sum = 0;
    size_t last = 0;
    for (size_t i = 0; i < n; ++i) {
        sum += some[i];
        if (sum > target) return i;
        if (some[i] > 0) last = i;
    }
    return last;
}

inline int64_t draw_from_all(const Row& row, double uniform, std::vector<double>& block_weights) {
    // A uniform number is at most 1 - 2^-53, and its product with the total is rounded to less than the total.
    const double target = uniform * weigh_blocks(row, block_weights);
    double before = 0;
    int64_t block = 0;
    while (before + block_weights[static_cast<size_t>(block)] <= target) before += block_weights[static_cast<size_t>(block++)];
    const int64_t first = block * kBlock, n = row.block_size(block);
    float some[kBlock];
    for (int64_t i = 0; i < n; i += kLanes) store(some + i, weights(row, row.at(first + i)));
    return first + static_cast<int64_t>(look_up(some, static_cast<size_t>(n), target - before));
}

/// Ordered like the number.
inline uint32_t key_of(float x) {
    uint32_t bits;
    std::memcpy(&bits, &x, 4);
    return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

inline float value_of(uint32_t key) {
    const uint32_t bits = key & 0x80000000u ? key & 0x7fffffffu : ~key;
    float x;
    std::memcpy(&x, &bits, 4);
    return x;
}

/// The least value such that all greater ones weigh less than `target`: a radix select, in place.
inline float least_kept(std::vector<Weighed>& items, double target) {
    double above = 0;
    while (items.size() > kFew) {
        uint32_t low = UINT32_MAX, high = 0;
        for (const Weighed& item : items) {
            low = std::min(low, item.key);
            high = std::max(high, item.key);
        }
        if (low == high) return value_of(low);
        int shift = 0;
        while ((high - low) >> shift >= kBins) ++shift;
        double bins[kBins] = {};
        for (const Weighed& item : items) bins[(high - item.key) >> shift] += item.weight;
        const uint32_t last = (high - low) >> shift;
        uint32_t bin = 0;
        while (bin < last && above + bins[bin] < target) above += bins[bin++];
        size_t n = 0;
        for (const Weighed& item : items) {
            items[n] = item;
            n += (high - item.key) >> shift == bin;
        }
        items.resize(n);
    }
    std::sort(items.begin(), items.end(), [](const Weighed& a, const Weighed& b) { return a.key > b.key; });
    uint32_t least = items.front().key;
    for (const Weighed& item : items) {
        if (above >= target) break;
        least = item.key;
        above += item.weight;
    }
    return value_of(least);
}

/// Fills the candidates with the tokens whose logit is at least `bound`, in order of id.
inline void gather(const Row& row, float bound, SamplingScratch& scratch) {
    Candidates& found = scratch.candidates;
    size_t n = 0;
    for (int64_t block = 0; block < row.n_blocks(); ++block) {
        if (greatest(load(scratch.lane_maxima.data() + block * kLanes)) < bound) continue;
        if (found.ids.size() < n + kBlock) {
            found.ids.resize(2 * n + kBlock);
            found.x.resize(2 * n + kBlock);
        }
        const int64_t begin = block * kBlock, end = begin + row.block_size(block);
        for (int64_t first = begin; first < end; first += kLanes) {
            float some[kLanes];
            store(some, row.at(first));
            for (int lane = 0; lane < kLanes; ++lane) {
                found.ids[n] = static_cast<int32_t>(first + lane);
                found.x[n] = some[lane];
                n += some[lane] >= bound;
            }
        }
    }
    found.ids.resize(n);
    found.x.resize((n + kLanes - 1) / kLanes * kLanes);
    found.weights.resize(found.x.size());
    for (size_t i = 0; i < n; i += kLanes) {
        const Floats x = row.x(load(found.x.data() + i));
        store(found.x.data() + i, x);
        store(found.weights.data() + i, exp(x));
    }
    found.x.resize(n);
    found.weights.resize(n);
}

/// Drops the candidates with x below `floor` and returns the weight of the others.
inline double drop_below(float floor, Candidates& from) {
    double total = 0;
    size_t n = 0;
    for (size_t i = 0; i < from.ids.size(); ++i) {
        const bool kept = !(from.x[i] < floor);
        total += kept ? from.weights[i] : 0.0f;
        from.ids[n] = from.ids[i];
        from.x[n] = from.x[i];
        from.weights[n] = from.weights[i];
        n += kept;
    }
    from.ids.resize(n);
    from.x.resize(n);
    from.weights.resize(n);
    return total;
}

/// Candidates that include the k most likely tokens and what equals the last of them; returns what they weigh together.
inline double keep_top_k(const Row& row, int64_t k, SamplingScratch& scratch) {
    std::vector<Weighed>& items = scratch.weighed;
    const auto enough = [&] { return items.size() >= static_cast<size_t>(k); };
    items.clear();
    for (const float most : scratch.lane_maxima)
        if (most >= -FLT_MAX) items.push_back({key_of(most), 1.0f});
    // Where k lanes have a logit of at least this, so have the k most likely tokens.
    float bound = -FLT_MAX;
    if (enough()) bound = row.bound((static_cast<double>(least_kept(items, static_cast<double>(k))) - row.greatest) / row.temperature);
    gather(row, bound, scratch);
    items.resize(scratch.candidates.x.size());
    for (size_t i = 0; i < items.size(); ++i) items[i] = {key_of(scratch.candidates.x[i]), 1.0f};
    return drop_below(enough() ? least_kept(items, static_cast<double>(k)) : -kInfinity, scratch.candidates);
}

/// Candidates that include the nucleus: tokens that weigh less than an even share of what may be left out, all together
/// weigh less than it. Returns the weight of the whole row.
inline double gather_nucleus(const Row& row, double top_p, SamplingScratch& scratch) {
    const double total = weigh_blocks(row, scratch.block_weights);
    const double least_weight = (1 - top_p) * total / static_cast<double>(row.vocab);
    // Weights are rounded, by far less than this.
    constexpr double margin = 1e-3;
    gather(row, row.bound(std::log(least_weight) - margin), scratch);
    return total;
}

inline int64_t choose_row(const RowChoice& choice, int64_t vocab, SamplingScratch& scratch) {
    const SamplingRule& rule = choice.rule;
    const double uniform = choice.uniform;
    Row row{choice.logits, vocab, rule.temperature, choice.mask};
    if (!scan(row, scratch.lane_maxima)) return kNotFinite;
    if (rule.temperature == 0) return first_greatest(row, scratch.lane_maxima);
    const bool by_rank = 0 < rule.top_k && rule.top_k < vocab, by_share = rule.top_p < 1;
    if (!by_rank && !by_share && rule.min_p <= 0) return draw_from_all(row, uniform, scratch.block_weights);
    float floor = rule.min_p > 0 ? static_cast<float>(std::log(rule.min_p)) : -kInfinity;
    Candidates& candidates = scratch.candidates;
    double weight = 0;
    if (by_rank) weight = keep_top_k(row, rule.top_k, scratch);
    else if (by_share) weight = gather_nucleus(row, rule.top_p, scratch);
    else gather(row, row.bound(floor), scratch);
    if (by_share) {
        scratch.weighed.resize(candidates.ids.size());
        for (size_t i = 0; i < candidates.ids.size(); ++i) scratch.weighed[i] = {key_of(candidates.x[i]), candidates.weights[i]};
        floor = std::max(floor, least_kept(scratch.weighed, rule.top_p * weight));
    }
    const double kept = drop_below(floor, candidates);
    return candidates.ids[look_up(candidates.weights.data(), candidates.ids.size(), uniform * kept)];
}

}  // namespace LANDRACE_ISA
}  // namespace landrace
