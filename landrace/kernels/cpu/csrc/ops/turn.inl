// out = x with each of its heads turned by the table's angles: what was turned to one place is turned on to another.
#pragma once

#include <algorithm>
#include <stdexcept>
#include <string>

#include "cached_heads.inl"
#include "operation.h"

namespace landrace {
namespace LANDRACE_ISA {

class Turn final : public Operation {
public:
    static constexpr Field kSchema[] = {
        buffer_field("x"), buffer_field("out"), integer_field("n_heads"), integer_field("head_dim"), integer_field("rotary"), integer_field("rotary_half"),
    };

    Turn(const Fields& fields, Workspace& workspace)
        : x_(fields.buffer("x")), out_(fields.buffer("out")), n_heads_(static_cast<int>(fields.integer("n_heads"))),
          head_dim_(static_cast<int>(fields.integer("head_dim"))), half_(static_cast<int>(fields.integer("rotary_half"))),
          rotary_(static_cast<size_t>(fields.integer("rotary"))) {
        workspace.expect(x_, n_heads_ * head_dim_);
        workspace.expect(out_, n_heads_ * head_dim_);
        if (half_ < 1 || 2 * half_ > head_dim_)
            throw std::invalid_argument(std::to_string(head_dim_) + " channels cannot turn in " + std::to_string(half_) + " pairs");
    }

    void check(const Step& step) const override { expect_within(static_cast<int64_t>(rotary_), static_cast<int64_t>(step.rotary.size()), "table of angles"); }

    void run(const Context& c, int thread) override {
        const RotaryTable& table = c.step.rotary[rotary_];
        c.share(thread, c.step.n_rows, [&](int row) {
            float* out = c.row(out_, row);
            std::copy_n(c.row(x_, row), n_heads_ * head_dim_, out);
            const int64_t at = table.rows[row] * half_;
            for (int h = 0; h < n_heads_; ++h) rotate(out + h * head_dim_, table.cos + at, table.sin + at, half_);
        });
    }

private:
    int x_, out_, n_heads_, head_dim_, half_;
    size_t rotary_;
};

LANDRACE_OPERATION(turn, Turn)

}  // namespace LANDRACE_ISA
}  // namespace landrace
