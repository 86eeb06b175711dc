// out = silu(gate) * up.
#pragma once

#include "activations.inl"
#include "operation.h"

namespace landrace {
namespace LANDRACE_ISA {

inline void swiglu(const float* gate, const float* up, int n, float* out) {
    int i = 0;
    for (; i + kLanes <= n; i += kLanes) store(out + i, gated(load(gate + i), load(up + i)));
    if (i < n) {
        const int rest = n - i;
        store_some(out + i, gated(load_some(gate + i, rest), load_some(up + i, rest)), rest);
    }
}

class Swiglu final : public Operation {
public:
    static constexpr Field kSchema[] = {buffer_field("gate"), buffer_field("up"), buffer_field("out")};

    Swiglu(const Fields& fields, Workspace& workspace)
        : gate_(fields.buffer("gate")), up_(fields.buffer("up")), out_(fields.buffer("out")), width_(workspace.checked_width(gate_)) {
        workspace.expect(up_, width_);
        workspace.expect(out_, width_);
    }

    void run(const Context& c, int thread) override {
        c.share(thread, c.step.n_rows, [&](int row) { swiglu(c.row(gate_, row), c.row(up_, row), width_, c.row(out_, row)); });
    }

private:
    int gate_, up_, out_, width_;
};

LANDRACE_OPERATION(swiglu, Swiglu)

}  // namespace LANDRACE_ISA
}  // namespace landrace
