// out = softmax(scores) over the sums of a model's blocks: each one's score is its normalised row times a vector
// (attention residuals; Kimi Team, 2026).
#pragma once

#include <cmath>
#include <stdexcept>
#include <vector>

#include "prepared_rows.inl"

namespace landrace {
namespace LANDRACE_ISA {

class AttendBlocks final : public Operation {
public:
    static constexpr Field kBlock[] = {buffer_field("x")};
    static constexpr Field kSchema[] = {
        records_field("blocks", kBlock), optional(vector_field("norm")), vector_field("scores"), number_field("eps"), buffer_field("out"),
    };

    AttendBlocks(const Fields& fields, Workspace& workspace)
        : out_(fields.buffer("out")), width_(workspace.checked_width(out_)), eps_(fields.number("eps")), own_rows_(workspace.state<ThreadRows>()) {
        for (const Fields& block : fields.records("blocks")) {
            blocks_.push_back(block.buffer("x"));
            workspace.expect(blocks_.back(), width_);
            if (blocks_.back() == out_) throw std::invalid_argument("rows cannot become a part of themselves");
        }
        const Vector norm = fields.vector("norm"), scores = fields.vector("scores");
        if (blocks_.empty()) throw std::invalid_argument("there is no block");
        if (scores.size != width_ || (norm.data && norm.size != width_)) throw std::invalid_argument("blocks are scored value by value");
        weight_.assign(scores.data, scores.data + scores.size);
        for (int i = 0; norm.data && i < width_; ++i) weight_[static_cast<size_t>(i)] *= norm.data[i];
        own_rows_.widen(static_cast<int>(blocks_.size()));
    }

    void run(const Context& c, int thread) override {
        float* shares = own_rows_.of(thread);
        const int count = static_cast<int>(blocks_.size());
        c.share(thread, c.step.n_rows, [&](int row) {
            for (int b = 0; b < count; ++b) shares[b] = score(c.row(blocks_[static_cast<size_t>(b)], row));
            softmax(shares, count);
            float* out = c.row(out_, row);
            scale(c.row(blocks_[0], row), shares[0], width_, out);
            for (int b = 1; b < count; ++b) axpy(c.row(blocks_[static_cast<size_t>(b)], row), shares[b], width_, out);
        });
    }

private:
    float score(const float* x) const {
        Floats total = all(0.0f);
        for (int i = 0; i < width_; i += kLanes) {
            const int n = std::min(kLanes, width_ - i);
            total = fma(load_some(x + i, n), load_some(weight_.data() + i, n), total);
        }
        return sum(total) / std::sqrt(mean_square(x, width_) + eps_);
    }

    static void softmax(float* x, int n) {
        float greatest = x[0], total = 0.0f;
        for (int i = 1; i < n; ++i) greatest = x[i] > greatest ? x[i] : greatest;
        for (int i = 0; i < n; i += kLanes) {
            const int now = std::min(kLanes, n - i);
            store_some(x + i, exp(sub(load_some(x + i, now), all(greatest))), now);
        }
        for (int i = 0; i < n; ++i) total += x[i];
        for (int i = 0; i < n; ++i) x[i] /= total;
    }

    std::vector<int> blocks_;
    std::vector<float> weight_;
    int out_, width_;
    float eps_;
    ThreadRows& own_rows_;
};

LANDRACE_OPERATION(attend_blocks, AttendBlocks)

}  // namespace LANDRACE_ISA
}  // namespace landrace
