// out = factor * (the rows of a matrix that the tokens name, or their positions, or their types), or out += that.
#pragma once

#include "matrix_product.inl"
#include "prepared_rows.inl"

namespace landrace {
namespace LANDRACE_ISA {

class Embedding final : public Operation {
    enum class Of { tokens, positions, types };
    static constexpr const char* kOf[] = {"tokens", "positions", "types"};

public:
    static constexpr Field kSchema[] = {
        matrix_field("table"), number_field("factor"), buffer_field("out"), optional(choice_field("of", kOf)), optional(flag_field("add")),
    };

    Embedding(const Fields& fields, Workspace& workspace)
        : table_(fields.matrix("table")), factor_(fields.number("factor")), out_(fields.buffer("out")), of_(fields.choice<Of>("of")),
          add_(fields.flag("add")), own_rows_(workspace.state<ThreadRows>()) {
        workspace.expect(out_, table_.n_in);
        own_rows_.widen(table_.n_in);
    }

    void check(const Step& step) const override {
        const char* const what = of_ == Of::tokens ? "token" : of_ == Of::positions ? "position" : "token type";
        for (int i = 0; i < step.n_rows; ++i) expect_within(number(step, i), table_.n_out, what);
    }

    void run(const Context& c, int thread) override {
        float* own = own_rows_.of(thread);
        c.share(thread, c.step.n_rows, [&](int row) {
            float* sum = c.row(out_, row);
            unpack_row(table_, static_cast<int>(number(c.step, row)), factor_, add_ ? own : sum);
            if (add_) axpy(own, 1.0f, table_.n_in, sum);
        });
    }

private:
    /// Which row of the table a row of the step takes.
    int64_t number(const Step& step, int row) const {
        if (of_ == Of::types) return step.token_types ? step.token_types[row] : 0;
        return of_ == Of::positions ? step.positions[row] : step.token_ids[row];
    }

    Matrix table_;
    float factor_;
    int out_;
    Of of_;
    bool add_;
    ThreadRows& own_rows_;
};

LANDRACE_OPERATION(embedding, Embedding)

}  // namespace LANDRACE_ISA
}  // namespace landrace
