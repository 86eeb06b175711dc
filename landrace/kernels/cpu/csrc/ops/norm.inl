// out = factor * norm(x), or out += that.
#pragma once

#include "prepared_rows.inl"

namespace landrace {
namespace LANDRACE_ISA {

class Norm final : public Operation {
public:
    static constexpr Field kSchema[] = {
        buffer_field("x"), vector_field("weight"), number_field("eps"), buffer_field("out"), number_field("factor"), optional(flag_field("add")),
    };

    Norm(const Fields& fields, Workspace& workspace)
        : x_(fields.buffer("x")), weight_(fields.vector("weight")), eps_(fields.number("eps")), out_(fields.buffer("out")),
          add_(fields.flag("add")), factor_(fields.number("factor")), own_rows_(workspace.state<ThreadRows>()) {
        workspace.expect(x_, weight_.size);
        workspace.expect(out_, weight_.size);
        own_rows_.widen(weight_.size);
    }

    void run(const Context& c, int thread) override {
        float* own = own_rows_.of(thread);
        c.share(thread, c.step.n_rows, [&](int row) {
            float* out = c.row(out_, row);
            rms_norm(c.row(x_, row), weight_.data, eps_, weight_.size, add_ ? own : out);
            if (add_) axpy(own, factor_, weight_.size, out);
            else if (factor_ != 1.0f) scale(out, factor_, weight_.size, out);
        });
    }

private:
    int x_;
    Vector weight_;
    float eps_;
    int out_;
    bool add_;
    float factor_;
    ThreadRows& own_rows_;
};

LANDRACE_OPERATION(norm, Norm)

}  // namespace LANDRACE_ISA
}  // namespace landrace
