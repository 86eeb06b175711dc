// Token choice: one row of logits to one token, without sorting the vocabulary. landrace/engine/sampler.py says what is
// kept of a row and how a uniform number chooses from it.
#pragma once

#include <cstdint>
#include <vector>

#include "thread_pool.h"

namespace landrace {

/// The fields of landrace.kernels.sampling_rule.SamplingRule.
struct SamplingRule {
    float temperature;
    int64_t top_k;
    float top_p;
    double min_p;
};

/// A token and what it is chosen by: x = (logit - the row's greatest) / temperature, and its weight e^x.
struct Candidates {
    std::vector<int32_t> ids;
    std::vector<float> x;
    std::vector<float> weights;
};

struct Weighed {
    uint32_t key;
    float weight;
};

/// A thread's memory for one row after another.
struct SamplingScratch {
    std::vector<float> lane_maxima;
    std::vector<double> block_weights;
    Candidates candidates;
    std::vector<Weighed> weighed;
};

/// The token of a row that holds NaN or +infinity, or no finite logit.
constexpr int64_t kNotFinite = -1;

/// Bit i % 32 of word i / 32 is set where token i may be chosen; none is beyond the words. Without words all may.
struct TokenMask {
    const uint32_t* words;
    int64_t n_words;

    /// The word of a token.
    uint32_t bits(int64_t id) const { return id / 32 < n_words ? words[id / 32] : 0; }
};

struct RowChoice {
    const float* logits;
    SamplingRule rule;
    /// In [0, 1); unused where the temperature is 0.
    double uniform;
    TokenMask mask;
};

using ChooseRow = int64_t (*)(const RowChoice&, int64_t vocab, SamplingScratch&);

/// The token of each row. A row's token depends on nothing but the row.
std::vector<int64_t> choose_tokens(ThreadPool& pool, int threads, ChooseRow choose, const std::vector<RowChoice>& rows, int64_t vocab);

}  // namespace landrace
