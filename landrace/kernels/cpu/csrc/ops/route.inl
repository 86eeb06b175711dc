// Which experts each row goes to and what they are worth, from the router's logits.
#pragma once

#include <algorithm>
#include <limits>

#include "activations.inl"
#include "operation.h"
#include "routing.h"

namespace landrace {
namespace LANDRACE_ISA {

constexpr int kMaxExperts = 1024;

enum class Score : int { softmax, sigmoid, sqrt_softplus, softmax_of_chosen, sigmoid_of_chosen };
/// What Python calls them, in order.
constexpr const char* kScores[] = {"softmax", "sigmoid", "sqrt_softplus", "softmax_of_chosen", "sigmoid_of_chosen"};
enum class GroupScore : int { max, top2_sum };
constexpr const char* kGroupScores[] = {"max", "top2_sum"};

/// log(1 + t) for 0 <= t <= 1: 2 artanh(t / (2 + t)), by its series.
inline Floats log_of_one_more(Floats t) {
    const Floats z = div(t, add(all(2.0f), t)), square = mul(z, z);
    Floats series = all(1.0f / 15);
    for (const float term : {1.0f / 13, 1.0f / 11, 1.0f / 9, 1.0f / 7, 1.0f / 5, 1.0f / 3, 1.0f}) series = fma(series, square, all(term));
    return mul(add(z, z), series);
}

/// Replaces n values by f of sixteen at a time.
template <class F> inline void for_vectors(float* values, int n, F f) {
    int i = 0;
    for (; i + kLanes <= n; i += kLanes) store(values + i, f(load(values + i)));
    if (i < n) store_some(values + i, f(load_some(values + i, n - i)), n - i);
}

/// Softmax of n values, in place; there is memory for whole vectors.
inline void softmax(float* values, int n) {
    const float nothing = -std::numeric_limits<float>::infinity();
    const int padded = ceil_div(n, kLanes) * kLanes;
    std::fill(values + n, values + padded, nothing);
    Floats most = all(nothing);
    for (int i = 0; i < n; i += kLanes) most = max(most, load(values + i));
    const Floats base = all(greatest(most));
    Floats total = all(0.0f);
    for_vectors(values, padded, [&](Floats x) {
        const Floats e = exp(sub(x, base));
        total = add(total, e);
        return e;
    });
    const Floats whole = all(sum(total));
    for_vectors(values, n, [&](Floats e) { return div(e, whole); });
}

inline void sigmoid(float* values, int n) {
    for_vectors(values, n, [](Floats x) { return sigmoid(x); });
}

inline void sqrt_softplus(float* values, int n) {
    for_vectors(values, n, [](Floats x) {
        const Floats minus = sub(all(0.0f), x);
        return add(max(all(0.0f), x), log_of_one_more(exp(min(minus, x))));
    });
    for (int i = 0; i < n; ++i) values[i] = std::sqrt(values[i]);
}

/// Whether a is the better score; what is no number is better than all numbers.
inline bool better(float a, float b) { return a > b || (a != a && b == b); }

/// The numbers of the n best of `size` values, of equal ones the first.
inline void best(const float* values, int size, int n, int32_t* out) {
    int found = 0;
    for (int i = 0; i < size; ++i) {
        if (found == n && !better(values[i], values[out[n - 1]])) continue;
        int at = found < n ? found++ : n - 1;
        for (; at > 0 && better(values[i], values[out[at - 1]]); --at) out[at] = out[at - 1];
        out[at] = i;
    }
}

class Route final : public Operation {
public:
    static constexpr Field kSchema[] = {
        buffer_field("logits"),
        integer_field("top_k"),
        choice_field("score", kScores),
        flag_field("renorm"),
        number_field("renorm_floor"),
        number_field("renorm_added"),
        number_field("scale"),
        integer_field("n_groups"),
        integer_field("top_groups"),
        choice_field("group_score", kGroupScores),
        optional(vector_field("choice_bias")),
        optional(vector_field("table")),
    };

    Route(const Fields& fields, Workspace& workspace)
        : logits_(fields.buffer("logits")), n_experts_(workspace.checked_width(logits_)), top_k_(static_cast<int>(fields.integer("top_k"))),
          score_(fields.choice<Score>("score")), renorm_(fields.flag("renorm")), floor_(fields.number("renorm_floor")),
          added_(fields.number("renorm_added")), scale_(fields.number("scale")), n_groups_(static_cast<int>(fields.integer("n_groups"))),
          top_groups_(static_cast<int>(fields.integer("top_groups"))), group_score_(fields.choice<GroupScore>("group_score")),
          choice_bias_(fields.vector("choice_bias")), table_(fields.vector("table")),
          routing_(workspace.state<Routing>(logits_, n_experts_, top_k_)) {
        if (n_experts_ > kMaxExperts) throw std::invalid_argument("there are more than " + std::to_string(kMaxExperts) + " experts");
        if (n_groups_ < 1 || n_experts_ % n_groups_ || top_groups_ < 1 || top_groups_ > n_groups_)
            throw std::invalid_argument(std::to_string(n_experts_) + " experts have no such groups");
        const int in_group = n_experts_ / n_groups_;
        if (group_score_ == GroupScore::top2_sum && n_groups_ > 1 && in_group < 2) throw std::invalid_argument("a group has only one expert");
        if (top_k_ < 1 || top_k_ > top_groups_ * in_group) throw std::invalid_argument("there are no " + std::to_string(top_k_) + " experts to choose");
        if (choice_bias_.data && choice_bias_.size != n_experts_) throw std::invalid_argument("the choice's bias has not one value for each expert");
        if (table_.data) check_table();
    }

    void check(const Step& step) const override {
        if (!table_.data) return;
        for (int row = 0; row < step.n_rows; ++row) expect_within(step.token_ids[row], table_.size / top_k_, "token");
    }

    void run(const Context& c, int thread) override {
        if (c.step.n_rows == 1) {
            if (thread == 0) choose(c, 0);
        } else {
            c.share(thread, c.step.n_rows, [&](int row) { choose(c, row); });
        }
        if (thread == 0) routing_.place(c.step.n_rows);
        c.pool.barrier();
    }

private:
    void check_table() const {
        if (table_.size % top_k_) throw std::invalid_argument("the table has no whole rows");
        for (int i = 0; i < table_.size; i += top_k_)
            for (int j = 0; j < top_k_; ++j) {
                const float expert = table_.data[i + j];
                const bool exists = expert >= 0 && expert < static_cast<float>(n_experts_) && expert == std::floor(expert);
                if (!exists || std::find(table_.data + i, table_.data + i + j, expert) != table_.data + i + j)
                    throw std::invalid_argument("the table does not name different experts for token " + std::to_string(i / top_k_));
            }
    }

    void choose(const Context& c, int row) {
        float scores[kMaxExperts];
        std::copy_n(c.row(logits_, row), n_experts_, scores);
        if (score_ == Score::softmax) softmax(scores, n_experts_);
        else if (score_ == Score::sigmoid) sigmoid(scores, n_experts_);
        else if (score_ == Score::sqrt_softplus) sqrt_softplus(scores, n_experts_);
        int32_t* experts = routing_.experts(row);
        if (table_.data) std::copy_n(table_.data + c.step.token_ids[row] * top_k_, top_k_, experts);
        else pick(scores, experts);
        std::sort(experts, experts + top_k_);
        weigh(scores, experts, routing_.weights(row));
    }

    /// The experts with the best scores, the choice's bias included, among those of the best groups.
    void pick(const float* scores, int32_t* experts) const {
        float choice[kMaxExperts];
        for (int i = 0; i < n_experts_; ++i) choice[i] = choice_bias_.data ? scores[i] + choice_bias_.data[i] : scores[i];
        if (n_groups_ > 1) leave_groups(choice);
        best(choice, n_experts_, top_k_, experts);
    }

    /// Puts experts outside of the best groups behind all others.
    void leave_groups(float* choice) const {
        const int in_group = n_experts_ / n_groups_;
        float values[kMaxExperts];
        int32_t first[2], chosen[kMaxExperts];
        for (int g = 0; g < n_groups_; ++g) {
            const float* own = choice + g * in_group;
            best(own, in_group, group_score_ == GroupScore::max ? 1 : 2, first);
            values[g] = group_score_ == GroupScore::max ? own[first[0]] : own[first[0]] + own[first[1]];
        }
        best(values, n_groups_, top_groups_, chosen);
        std::sort(chosen, chosen + top_groups_);
        for (int g = 0, next = 0; g < n_groups_; ++g) {
            if (next < top_groups_ && chosen[next] == g) ++next;
            else std::fill_n(choice + g * in_group, in_group, -std::numeric_limits<float>::infinity());
        }
    }

    void weigh(const float* scores, const int32_t* experts, float* weights) const {
        float worth[kMaxExperts];
        for (int i = 0; i < top_k_; ++i) worth[i] = scores[experts[i]];
        if (score_ == Score::softmax_of_chosen) softmax(worth, top_k_);
        else if (score_ == Score::sigmoid_of_chosen) sigmoid(worth, top_k_);
        float divisor = 1.0f;
        if (renorm_) {
            float total = 0.0f;
            for (int i = 0; i < top_k_; ++i) total += worth[i];
            divisor = (total < floor_ ? floor_ : total) + added_;
        }
        for (int i = 0; i < top_k_; ++i) weights[i] = worth[i] / divisor * scale_;
    }

    int logits_, n_experts_, top_k_;
    Score score_;
    bool renorm_;
    float floor_, added_, scale_;
    int n_groups_, top_groups_;
    GroupScore group_score_;
    Vector choice_bias_;
    Vector table_;  // [vocabulary, top_k], numbers of experts
    Routing& routing_;
};

LANDRACE_OPERATION(route, Route)

}  // namespace LANDRACE_ISA
}  // namespace landrace
