// out = factor * (the rows of a matrix that the tokens name).
#pragma once

#include "matrix_product.inl"
#include "operation.h"

namespace landrace {
namespace LANDRACE_ISA {

class Embedding final : public Operation {
public:
    static constexpr Field kSchema[] = {matrix_field("table"), number_field("factor"), buffer_field("out")};

    Embedding(const Fields& fields, Workspace& workspace) : table_(fields.matrix("table")), factor_(fields.number("factor")), out_(fields.buffer("out")) {
        workspace.expect(out_, table_.n_in);
    }

    void check(const Step& step) const override {
        for (int i = 0; i < step.n_rows; ++i) expect_within(step.token_ids[i], table_.n_out, "token");
    }

    void run(const Context& c, int thread) override {
        c.share(thread, c.step.n_rows, [&](int row) { unpack_row(table_, static_cast<int>(c.step.token_ids[row]), factor_, c.row(out_, row)); });
    }

private:
    Matrix table_;
    float factor_;
    int out_;
};

LANDRACE_OPERATION(embedding, Embedding)

}  // namespace LANDRACE_ISA
}  // namespace landrace
