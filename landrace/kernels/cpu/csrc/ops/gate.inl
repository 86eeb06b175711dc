// out = activation(gate, up).
#pragma once

#include "activations.inl"
#include "operation.h"

namespace landrace {
namespace LANDRACE_ISA {

class Gate final : public Operation {
public:
    static constexpr Field kSchema[] = {buffer_field("gate"), buffer_field("up"), buffer_field("out"), activation_field()};

    Gate(const Fields& fields, Workspace& workspace)
        : gate_(fields.buffer("gate")), up_(fields.buffer("up")), out_(fields.buffer("out")), width_(workspace.checked_width(gate_)),
          activation_(activation_of(fields)) {
        workspace.expect(up_, width_);
        workspace.expect(out_, width_);
    }

    void run(const Context& c, int thread) override {
        c.share(thread, c.step.n_rows, [&](int row) { gate_row(c.row(gate_, row), c.row(up_, row), width_, activation_, c.row(out_, row)); });
    }

private:
    int gate_, up_, out_, width_;
    Activation activation_;
};

LANDRACE_OPERATION(gate, Gate)

}  // namespace LANDRACE_ISA
}  // namespace landrace
