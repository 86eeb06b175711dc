// The heads of x with their last channels turned, neighbours together, or turned back, in place: first normalised where there
// is an eps, then times `scale`.
#pragma once

#include <stdexcept>
#include <string>

#include "pair_turning.inl"

namespace landrace {
namespace LANDRACE_ISA {

class TurnPairs final : public Operation {
public:
    static constexpr Field kSchema[] = {
        buffer_field("x"), integer_field("n_heads"), integer_field("head_dim"), integer_field("rotary"), integer_field("rotary_half"),
        optional(number_field("eps")), number_field("scale"), optional(flag_field("back")),
    };

    TurnPairs(const Fields& fields, Workspace& workspace)
        : x_(fields.buffer("x")), n_heads_(static_cast<int>(fields.integer("n_heads"))), head_dim_(index_shape(fields).head_dim),
          turning_(fields, head_dim_), normed_(fields.has("eps")), eps_(fields.number("eps")), scale_(fields.number("scale")), back_(fields.flag("back")) {
        workspace.expect(x_, n_heads_ * head_dim_);
    }

    void check(const Step& step) const override { turning_.check(step); }

    void run(const Context& c, int thread) override {
        const RotaryTable& table = c.step.rotary[turning_.table];
        c.share(thread, c.step.n_rows, [&](int row) {
            for (int h = 0; h < n_heads_; ++h) {
                float* head = c.row(x_, row) + h * head_dim_;
                if (normed_) rms_norm(head, nullptr, eps_, head_dim_, head);
                rotate_pairs(head, head_dim_, table, table.rows[row], turning_.half, back_);
                for (int i = 0; i < head_dim_; ++i) head[i] *= scale_;
            }
        });
    }

private:
    int x_, n_heads_, head_dim_;
    PairTurning turning_;
    bool normed_;
    float eps_, scale_;
    bool back_;
};

LANDRACE_OPERATION(turn_pairs, TurnPairs)

}  // namespace LANDRACE_ISA
}  // namespace landrace
