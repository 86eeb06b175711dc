// out = one row of residual streams: their sum, each times its weight; or their mean, where there are gates each value times
// the sigmoid of its own.
#pragma once

#include <algorithm>
#include <stdexcept>

#include "activations.inl"
#include "operation.h"
#include "streams.h"

namespace landrace {
namespace LANDRACE_ISA {

class Collapse final : public Operation {
public:
    static constexpr Field kSchema[] = {
        buffer_field("streams"), integer_field("count"), optional(buffer_field("weights")), optional(buffer_field("gates")), buffer_field("out"),
    };

    Collapse(const Fields& fields, Workspace& workspace)
        : streams_(fields.buffer("streams")), count_(stream_count(fields, workspace, streams_)), weighted_(fields.has("weights")),
          weights_(fields.buffer("weights")), gated_(fields.has("gates")), gates_(fields.buffer("gates")), out_(fields.buffer("out")),
          width_(workspace.checked_width(streams_) / count_) {
        if (weighted_ && workspace.checked_width(weights_) < count_) throw std::invalid_argument("there is not a weight for each stream");
        if (weighted_ && gated_) throw std::invalid_argument("streams have weights or gates");
        if (gated_) workspace.expect(gates_, count_ * width_);
        workspace.expect(out_, width_);
    }

    void run(const Context& c, int thread) override {
        c.share(thread, c.step.n_rows, [&](int row) {
            const float* streams = c.row(streams_, row);
            const float* gates = gated_ ? c.row(gates_, row) : nullptr;
            float weights[kMostStreams];
            std::fill_n(weights, count_, 1.0f / static_cast<float>(count_));
            if (weighted_) std::copy_n(c.row(weights_, row), count_, weights);
            float* out = c.row(out_, row);
            for (int i = 0; i < width_; i += kLanes) {
                const int n = std::min(kLanes, width_ - i);
                Floats total = all(0.0f);
                for (int s = 0; s < count_; ++s) {
                    Floats x = load_some(streams + s * width_ + i, n);
                    if (gates) x = mul(x, sigmoid(load_some(gates + s * width_ + i, n)));
                    total = fma(x, all(weights[s]), total);
                }
                store_some(out + i, total, n);
            }
        });
    }

private:
    int streams_, count_;
    bool weighted_;
    int weights_;
    bool gated_;
    int gates_, out_, width_;
};

LANDRACE_OPERATION(collapse, Collapse)

}  // namespace LANDRACE_ISA
}  // namespace landrace
