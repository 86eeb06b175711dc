// Which rows each expert gets: what `route` leaves for `experts`.
#pragma once

#include <algorithm>
#include <utility>
#include <vector>

#include "product.h"
#include "workspace.h"

namespace landrace {

/// Where the rows of a step go. Every row has a place with each of its experts: an expert's places follow one another in the
/// order of its rows, and the first of them begins a panel.
class Routing final : public State {
public:
    /// Rows of one expert, at most as many as a task of a product takes.
    struct Block {
        int expert, first_place, n_rows;
    };

    /// Of the logits in a buffer.
    Routing(int logits, int n_experts, int top_k) : logits_(logits), n_experts_(n_experts), top_k_(top_k) {}
    bool serves(int logits, int n_experts, int top_k) const { return logits == logits_ && n_experts == n_experts_ && top_k == top_k_; }
    int n_experts() const { return n_experts_; }
    int top_k() const { return top_k_; }
    /// A step of `n_rows` rows has at most so many places.
    static int max_places(int n_rows, int n_experts, int top_k) { return n_rows * top_k + (kPanel - 1) * std::min(n_experts, n_rows * top_k); }

    void reserve(int n_rows, int) override {
        const auto n_chosen = static_cast<size_t>(n_rows) * static_cast<size_t>(top_k_);
        if (experts_.size() < n_chosen) {
            experts_.resize(n_chosen);
            weights_.resize(n_chosen);
            const auto n_places = static_cast<size_t>(max_places(n_rows, n_experts_, top_k_));
            rows_.resize(n_places);
            worth_.resize(n_places);
        }
        next_.resize(static_cast<size_t>(n_experts_));
    }

    /// A row's experts, in order of their numbers, and what they are worth: [top_k].
    int32_t* experts(int row) { return experts_.data() + static_cast<int64_t>(row) * top_k_; }
    float* weights(int row) { return weights_.data() + static_cast<int64_t>(row) * top_k_; }

    /// Gives the first `n_rows` rows their places.
    void place(int n_rows) {
        std::fill(next_.begin(), next_.end(), 0);
        const int n_chosen = n_rows * top_k_;
        for (int i = 0; i < n_chosen; ++i) ++next_[static_cast<size_t>(experts_[static_cast<size_t>(i)])];
        blocks_.clear();
        int first = 0;
        for (int expert = 0; expert < n_experts_; ++expert) {
            int& next = next_[static_cast<size_t>(expert)];
            for (int done = 0; done < next; done += kRowsPerTask) blocks_.push_back({expert, first + done, std::min(kRowsPerTask, next - done)});
            first += ceil_div(std::exchange(next, first), kPanel) * kPanel;
        }
        for (int i = 0; i < n_chosen; ++i) {
            const auto own = static_cast<size_t>(next_[static_cast<size_t>(experts_[static_cast<size_t>(i)])]++);
            rows_[own] = i / top_k_;
            worth_[own] = weights_[static_cast<size_t>(i)];
        }
    }

    /// In the order of the experts' numbers.
    const std::vector<Block>& blocks() const { return blocks_; }
    /// By place: the row, and what the expert is worth to it.
    const int32_t* rows() const { return rows_.data(); }
    const float* worth() const { return worth_.data(); }

private:
    int logits_, n_experts_, top_k_;
    std::vector<int32_t> experts_;
    std::vector<float> weights_;
    std::vector<int> next_;
    std::vector<Block> blocks_;
    std::vector<int32_t> rows_;
    std::vector<float> worth_;
};

}  // namespace landrace
