// Each head of x, or each of its values, times the sigmoid of its own gate.
#pragma once

#include <algorithm>
#include <stdexcept>

#include "activations.inl"
#include "operation.h"

namespace landrace {
namespace LANDRACE_ISA {

class GateHeads final : public Operation {
public:
    static constexpr Field kSchema[] = {buffer_field("x"), buffer_field("gate"), buffer_field("out")};

    GateHeads(const Fields& fields, Workspace& workspace)
        : x_(fields.buffer("x")), gate_(fields.buffer("gate")), out_(fields.buffer("out")), n_heads_(workspace.checked_width(gate_)),
          head_dim_(workspace.checked_width(x_) / n_heads_) {
        if (head_dim_ * n_heads_ != workspace.checked_width(x_)) throw std::invalid_argument("rows are not whole heads");
        workspace.expect(out_, head_dim_ * n_heads_);
    }

    void run(const Context& c, int thread) override {
        c.share(thread, c.step.n_rows, [&](int row) {
            if (head_dim_ == 1) return gate_all(c.row(x_, row), c.row(gate_, row), c.row(out_, row));
            for (int head = 0; head < n_heads_; ++head)
                scale(c.row(x_, row) + head * head_dim_, sigmoid(c.row(gate_, row)[head]), head_dim_, c.row(out_, row) + head * head_dim_);
        });
    }

private:
    void gate_all(const float* x, const float* gate, float* out) const {
        for (int i = 0; i < n_heads_; i += kLanes) {
            const int n = std::min(kLanes, n_heads_ - i);
            store_some(out + i, mul(load_some(x + i, n), sigmoid(load_some(gate + i, n))), n);
        }
    }

    int x_, gate_, out_, n_heads_, head_dim_;
};

LANDRACE_OPERATION(gate_heads, GateHeads)

}  // namespace LANDRACE_ISA
}  // namespace landrace
