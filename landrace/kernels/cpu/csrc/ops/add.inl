// out += x.
#pragma once

#include "activations.inl"
#include "operation.h"

namespace landrace {
namespace LANDRACE_ISA {

class Add final : public Operation {
public:
    static constexpr Field kSchema[] = {buffer_field("x"), buffer_field("out")};

    Add(const Fields& fields, Workspace& workspace) : x_(fields.buffer("x")), out_(fields.buffer("out")), width_(workspace.checked_width(x_)) {
        workspace.expect(out_, width_);
    }

    void run(const Context& c, int thread) override {
        c.share(thread, c.step.n_rows, [&](int row) { axpy(c.row(x_, row), 1.0f, width_, c.row(out_, row)); });
    }

private:
    int x_, out_, width_;
};

LANDRACE_OPERATION(add, Add)

}  // namespace LANDRACE_ISA
}  // namespace landrace
