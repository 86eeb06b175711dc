// out = activation(gate, up).
#pragma once

#include <algorithm>

#include "activation_fields.h"
#include "activations.inl"
#include "operation.h"

namespace landrace {
namespace LANDRACE_ISA {

class Gated final : public Operation {
public:
    static constexpr Field kSchema[] = {
        buffer_field("gate"), buffer_field("up"), buffer_field("out"), kActivationField, kLimitField, kAlphaField,
    };

    Gated(const Fields& fields, Workspace& workspace)
        : gate_(fields.buffer("gate")), up_(fields.buffer("up")), out_(fields.buffer("out")), width_(workspace.checked_width(gate_)),
          activation_(activation_of(fields)) {
        workspace.expect(up_, width_);
        workspace.expect(out_, width_);
    }

    void run(const Context& c, int thread) override {
        c.share(thread, c.step.n_rows, [&](int row) { compute(c.row(gate_, row), c.row(up_, row), c.row(out_, row)); });
    }

private:
    void compute(const float* gate, const float* up, float* out) const {
        for (int i = 0; i < width_; i += kLanes) {
            const int n = std::min(kLanes, width_ - i);
            store_some(out + i, gated(activation_, load_some(gate + i, n), load_some(up + i, n)), n);
        }
    }

    int gate_, up_, out_, width_;
    Activation activation_;
};

LANDRACE_OPERATION(gated, Gated)

}  // namespace LANDRACE_ISA
}  // namespace landrace
