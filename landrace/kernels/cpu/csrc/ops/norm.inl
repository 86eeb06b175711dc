// out = factor * norm(x), or out += that; with groups, each of so many equal parts of a row is normalised by itself. With a
// bias, the norm also takes the mean away.
#pragma once

#include "prepared_rows.inl"

namespace landrace {
namespace LANDRACE_ISA {

class Norm final : public Operation {
public:
    static constexpr Field kSchema[] = {
        buffer_field("x"), vector_field("weight"), number_field("eps"), buffer_field("out"), number_field("factor"), optional(flag_field("add")),
        optional(integer_field("groups")), optional(vector_field("bias")),
    };

    Norm(const Fields& fields, Workspace& workspace)
        : x_(fields.buffer("x")), weight_(fields.vector("weight")), eps_(fields.number("eps")), out_(fields.buffer("out")),
          bias_(fields.vector("bias")), add_(fields.flag("add")), factor_(fields.number("factor")),
          groups_(std::max(1, static_cast<int>(fields.integer("groups")))),
          own_rows_(workspace.state<ThreadRows>()) {
        if (weight_.size % groups_) throw std::invalid_argument("rows are not whole groups");
        if (bias_.data && bias_.size != weight_.size) throw std::invalid_argument("a norm's bias is as long as its weight");
        workspace.expect(x_, weight_.size);
        workspace.expect(out_, weight_.size);
        own_rows_.widen(weight_.size);
    }

    void run(const Context& c, int thread) override {
        float* own = own_rows_.of(thread);
        c.share(thread, c.step.n_rows, [&](int row) {
            float *sum = c.row(out_, row), *out = add_ ? own : sum;
            const int size = weight_.size / groups_;
            for (int at = 0; at < weight_.size; at += size) {
                if (bias_.data) layer_norm(c.row(x_, row) + at, weight_.data + at, bias_.data + at, eps_, size, out + at);
                else rms_norm(c.row(x_, row) + at, weight_.data + at, eps_, size, out + at);
            }
            if (add_) axpy(own, factor_, weight_.size, sum);
            else if (factor_ != 1.0f) scale(out, factor_, weight_.size, out);
        });
    }

private:
    int x_;
    Vector weight_;
    float eps_;
    int out_;
    Vector bias_;
    bool add_;
    float factor_;
    int groups_;
    ThreadRows& own_rows_;
};

LANDRACE_OPERATION(norm, Norm)

}  // namespace LANDRACE_ISA
}  // namespace landrace
