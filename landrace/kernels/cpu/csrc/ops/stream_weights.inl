// In place: from products with residual streams to what the streams are weighted by (hyper-connections; Xie et al., 2026).
//
// A row of `weights` has one number for each stream, by which it goes into a branch; or then one for each, by which the
// branch's result goes back to it; or then for each stream a row of how much of it goes to each, with rows and columns that
// sum to 1 nearly (Sinkhorn and Knopp, 1967).
#pragma once

#include <cmath>
#include <stdexcept>
#include <vector>

#include "activations.inl"
#include "operation.h"
#include "streams.h"

namespace landrace {
namespace LANDRACE_ISA {

class StreamWeights final : public Operation {
public:
    static constexpr Field kSchema[] = {
        buffer_field("streams"),   buffer_field("weights"), vector_field("base"),        vector_field("scale"),     integer_field("count"),
        number_field("norm_eps"),  number_field("eps"),     number_field("post_factor"), number_field("post_eps"), integer_field("iterations"),
    };

    StreamWeights(const Fields& fields, Workspace& workspace)
        : streams_(fields.buffer("streams")), weights_(fields.buffer("weights")), base_(fields.vector("base")),
          count_(stream_count(fields, workspace, streams_)), norm_eps_(fields.number("norm_eps")), eps_(fields.number("eps")),
          iterations_(static_cast<int>(fields.integer("iterations"))) {
        const Vector scale = fields.vector("scale");
        const int most[] = {count_, count_, count_ * count_};
        if (scale.size < 1 || scale.size > 3) throw std::invalid_argument("streams are weighted in one to three parts");
        mixes_ = scale.size == 3;
        if (mixes_ && iterations_ < 1) throw std::invalid_argument("a mixing is normalised at least once");
        for (int part = 0; part < scale.size; ++part) {
            scales_.insert(scales_.end(), static_cast<size_t>(most[part]), scale.data[part]);
            factors_.insert(factors_.end(), static_cast<size_t>(most[part]), part ? fields.number("post_factor") : 1.0f);
            added_.insert(added_.end(), static_cast<size_t>(most[part]), part ? fields.number("post_eps") : eps_);
        }
        workspace.expect(weights_, base_.size);
        if (base_.size != static_cast<int>(scales_.size())) throw std::invalid_argument("there is not one bias for each weight");
    }

    void run(const Context& c, int thread) override {
        const int width = c.workspace.checked_width(streams_), n_sigmoids = mixes_ ? 2 * count_ : base_.size;
        c.share(thread, c.step.n_rows, [&](int row) {
            float* weights = c.row(weights_, row);
            const float inverse = 1.0f / std::sqrt(mean_square(c.row(streams_, row), width) + norm_eps_);
            for (int i = 0; i < base_.size; ++i) weights[i] = std::fma(weights[i] * inverse, scales_[static_cast<size_t>(i)], base_.data[i]);
            for (int i = 0; i < n_sigmoids; i += kLanes) {
                const int n = n_sigmoids - i < kLanes ? n_sigmoids - i : kLanes;
                const Floats of_all = sigmoid(load_some(weights + i, n));
                store_some(weights + i, fma(of_all, load_some(factors_.data() + i, n), load_some(added_.data() + i, n)), n);
            }
            if (mixes_) normalise(weights + 2 * count_);
        });
    }

private:
    /// The softmax of each row, then columns and rows in turn divided by their sums.
    void normalise(float* mix) const {
        const int n = count_;
        for (int j = 0; j < n; ++j) {
            float* row = mix + j * n;
            float greatest = row[0];
            for (int k = 1; k < n; ++k) greatest = row[k] > greatest ? row[k] : greatest;
            store_some(row, exp(sub(load_some(row, n), all(greatest))), n);
            const float total = sum_of(row, n, 1);
            for (int k = 0; k < n; ++k) row[k] = row[k] / total + eps_;
        }
        for (int turn = 0; turn < iterations_; ++turn) {
            if (turn > 0)
                for (int j = 0; j < n; ++j) divide(mix + j * n, n, 1);
            for (int k = 0; k < n; ++k) divide(mix + k, n, n);
        }
    }

    static float sum_of(const float* x, int n, int step) {
        float total = 0.0f;
        for (int i = 0; i < n; ++i) total += x[i * step];
        return total;
    }

    void divide(float* x, int n, int step) const {
        const float total = sum_of(x, n, step) + eps_;
        for (int i = 0; i < n; ++i) x[i * step] /= total;
    }

    int streams_, weights_;
    Vector base_;
    int count_;
    float norm_eps_, eps_;
    int iterations_;
    bool mixes_ = false;
    std::vector<float> scales_, factors_, added_;
};

LANDRACE_OPERATION(stream_weights, StreamWeights)

}  // namespace LANDRACE_ISA
}  // namespace landrace
