// Each head of x normalised and times silu or the sigmoid of its gate, in place.
#pragma once

#include <algorithm>
#include <stdexcept>

#include "activations.inl"
#include "operation.h"

namespace landrace {
namespace LANDRACE_ISA {

enum class GatedBy : int { silu, sigmoid };
/// What Python calls them, in order.
constexpr const char* kGatedBy[] = {"silu", "sigmoid"};

class GatedNorm final : public Operation {
public:
    static constexpr Field kSchema[] = {buffer_field("x"), buffer_field("gate"), vector_field("weight"), number_field("eps"), choice_field("by", kGatedBy)};

    GatedNorm(const Fields& fields, Workspace& workspace)
        : x_(fields.buffer("x")), gate_(fields.buffer("gate")), width_(workspace.checked_width(x_)), weight_(fields.vector("weight")), eps_(fields.number("eps")),
          by_(fields.choice<GatedBy>("by")) {
        if (weight_.size < 1 || width_ % weight_.size) throw std::invalid_argument("rows are not whole heads");
        workspace.expect(gate_, width_);
    }

    void run(const Context& c, int thread) override {
        c.share(thread, c.step.n_rows, [&](int row) {
            float* x = c.row(x_, row);
            for (int at = 0; at < width_; at += weight_.size) rms_norm(x + at, weight_.data, eps_, weight_.size, x + at);
            const float* gate = c.row(gate_, row);
            for (int i = 0; i < width_; i += kLanes) {
                const int n = std::min(kLanes, width_ - i);
                const Floats z = load_some(gate + i, n);
                store_some(x + i, mul(load_some(x + i, n), by_ == GatedBy::silu ? swish(z, z) : sigmoid(z)), n);
            }
        });
    }

private:
    int x_, gate_, width_;
    Vector weight_;
    float eps_;
    GatedBy by_;
};

LANDRACE_OPERATION(gated_norm, GatedNorm)

}  // namespace LANDRACE_ISA
}  // namespace landrace
