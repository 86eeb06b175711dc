// Residual streams after a branch, in place: each becomes itself, or where they mix the sum of all of them times how much of
// each goes to it, plus the branch's result times the stream's own weight.
#pragma once

#include <algorithm>
#include <stdexcept>

#include "activations.inl"
#include "operation.h"
#include "streams.h"

namespace landrace {
namespace LANDRACE_ISA {

class Spread final : public Operation {
public:
    static constexpr Field kSchema[] = {
        buffer_field("streams"), buffer_field("branch"), buffer_field("weights"), integer_field("count"), integer_field("first"), flag_field("mixes"),
    };

    Spread(const Fields& fields, Workspace& workspace)
        : streams_(fields.buffer("streams")), branch_(fields.buffer("branch")), weights_(fields.buffer("weights")),
          count_(stream_count(fields, workspace, streams_)), first_(fields.integer("first")), mixes_(fields.flag("mixes")),
          width_(workspace.checked_width(streams_) / count_) {
        workspace.expect(branch_, width_);
        const int after = mixes_ ? count_ + count_ * count_ : count_;
        if (first_ < 0 || first_ + after > workspace.checked_width(weights_)) throw std::invalid_argument("there is not a weight for each stream");
    }

    void run(const Context& c, int thread) override {
        c.share(thread, c.step.n_rows, [&](int row) {
            float* streams = c.row(streams_, row);
            const float* branch = c.row(branch_, row);
            const float* weights = c.row(weights_, row) + first_;
            const float* mix = weights + count_;  // [from][to]
            for (int i = 0; i < width_; i += kLanes) {
                const int n = std::min(kLanes, width_ - i);
                const Floats result = load_some(branch + i, n);
                Floats before[kMostStreams];
                for (int s = 0; s < count_; ++s) before[s] = load_some(streams + s * width_ + i, n);
                for (int to = 0; to < count_; ++to) {
                    Floats kept = before[to];
                    if (mixes_) {
                        kept = mul(all(mix[to]), before[0]);
                        for (int from = 1; from < count_; ++from) kept = fma(all(mix[from * count_ + to]), before[from], kept);
                    }
                    store_some(streams + to * width_ + i, fma(all(weights[to]), result, kept), n);
                }
            }
        });
    }

private:
    int streams_, branch_, weights_, count_;
    int64_t first_;
    bool mixes_;
    int width_;
};

LANDRACE_OPERATION(spread, Spread)

}  // namespace LANDRACE_ISA
}  // namespace landrace
