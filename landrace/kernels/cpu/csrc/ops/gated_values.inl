// out = the values for each residual stream, times the sigmoid of the root of how its key meets its query.
#pragma once

#include <algorithm>
#include <cmath>

#include "activations.inl"
#include "operation.h"
#include "streams.h"

namespace landrace {
namespace LANDRACE_ISA {

class GatedValues final : public Operation {
public:
    static constexpr Field kSchema[] = {buffer_field("keys"), buffer_field("queries"), buffer_field("values"), integer_field("count"), buffer_field("out")};

    GatedValues(const Fields& fields, Workspace& workspace)
        : keys_(fields.buffer("keys")), queries_(fields.buffer("queries")), values_(fields.buffer("values")),
          count_(stream_count(fields, workspace, keys_)), out_(fields.buffer("out")), width_(workspace.checked_width(keys_) / count_) {
        workspace.expect(queries_, count_ * width_);
        workspace.expect(values_, width_);
        workspace.expect(out_, count_ * width_);
    }

    void run(const Context& c, int thread) override {
        c.share(thread, c.step.n_rows, [&](int row) {
            for (int s = 0; s < count_; ++s) {
                const int64_t at = int64_t{s} * width_;
                const Floats gate = all(sigmoid(root(met(c.row(keys_, row) + at, c.row(queries_, row) + at))));
                for (int i = 0; i < width_; i += kLanes) {
                    const int n = std::min(kLanes, width_ - i);
                    store_some(c.row(out_, row) + at + i, mul(load_some(c.row(values_, row) + i, n), gate), n);
                }
            }
        });
    }

private:
    float met(const float* key, const float* query) const {
        Floats total = all(0.0f);
        for (int i = 0; i < width_; i += kLanes) {
            const int n = std::min(kLanes, width_ - i);
            total = fma(load_some(key + i, n), load_some(query + i, n), total);
        }
        return sum(total) / std::sqrt(static_cast<float>(width_));
    }

    static float root(float x) {
        if (x == 0.0f) return 0.0f;
        const float size = std::sqrt(std::fabs(x) < 1e-6f ? 1e-6f : std::fabs(x));
        return x < 0.0f ? -size : size;
    }

    int keys_, queries_, values_, count_, out_, width_;
};

LANDRACE_OPERATION(gated_values, GatedValues)

}  // namespace LANDRACE_ISA
}  // namespace landrace
