// Each head's channels times a matrix of the head's own: out[h] = factor * x[h] W[h]^T, stored or added.
//
// Rows of x and of `out` are as many heads side by side as there are matrices; a matrix takes and gives the first channels
// of its head. `rows`, `gather` and `scatter` are those of `product`.
#pragma once

#include <stdexcept>

#include "matrix_product.inl"
#include "prepared_rows.inl"

namespace landrace {
namespace LANDRACE_ISA {

/// A block of rows of one head for each thread, prepared.
class HeadRows final : public State {
public:
    bool serves() const { return true; }
    void widen(int n_in, const Forms& forms) {
        widest_ = std::max(widest_, n_in);
        forms_.add(forms);
    }
    void reserve(int, int threads) override {
        if (static_cast<int>(own_.size()) < threads) own_.resize(static_cast<size_t>(threads));
        for (Prepared& own : own_) own.reserve(kRowsPerTask, static_cast<size_t>(widest_), forms_);
    }
    Prepared& of(int thread) { return own_[static_cast<size_t>(thread)]; }

private:
    int widest_ = 0;
    Forms forms_;
    std::vector<Prepared> own_;
};

class HeadProduct final : public Operation {
    static constexpr Field kHeadSchema[] = {matrix_field("matrix")};

public:
    static constexpr Field kSchema[] = {
        buffer_field("x"), buffer_field("out"), records_field("heads", kHeadSchema), optional(flag_field("add")), number_field("factor"),
        integer_field("rows"), optional(flag_field("gather")), optional(flag_field("scatter")),
    };

    HeadProduct(const Fields& fields, Workspace& workspace)
        : x_(fields.buffer("x")), out_(fields.buffer("out")), add_(fields.flag("add")), factor_(fields.number("factor")),
          rows_(static_cast<int>(fields.integer("rows"))), gather_(fields.flag("gather")), scatter_(fields.flag("scatter")),
          own_(workspace.state<HeadRows>()) {
        for (const Fields& head : fields.records("heads")) matrices_.push_back(head.matrix("matrix"));
        if (matrices_.empty()) throw std::invalid_argument("there are no heads");
        if (rows_ < kAllRows) throw std::invalid_argument("there are no rows " + std::to_string(rows_));
        if ((gather_ || scatter_) && rows_ == kAllRows) throw std::invalid_argument("there are no places to gather from or scatter to");
        const int n_heads = static_cast<int>(matrices_.size());
        x_width_ = workspace.checked_width(x_) / n_heads;
        out_width_ = workspace.checked_width(out_) / n_heads;
        workspace.expect(x_, n_heads * x_width_);
        workspace.expect(out_, n_heads * out_width_);
        Forms forms;
        for (const Matrix& matrix : matrices_) {
            if (matrix.n_in > x_width_ || matrix.n_out > out_width_) throw std::invalid_argument("a head's matrix is wider than the head");
            forms.add(matrix.kind);
            own_.widen(matrix.n_in, forms);
        }
    }

    void run(const Context& c, int thread) override {
        const int n_rows = c.step.count(rows_), n_blocks = ceil_div(n_rows, kRowsPerTask);
        if (n_rows == 0) return;
        c.share(thread, static_cast<int>(matrices_.size()) * n_blocks, [&](int piece) {
            const int first = piece % n_blocks * kRowsPerTask;
            compute(c, own_.of(thread), piece / n_blocks, first, std::min(kRowsPerTask, n_rows - first));
        });
    }

private:
    void compute(const Context& c, Prepared& own, int head, int first, int n_rows) const {
        const Matrix& matrix = matrices_[static_cast<size_t>(head)];
        const int32_t* places = rows_ == kAllRows ? nullptr : c.step.adapter_rows[static_cast<size_t>(rows_)].data() + first;
        Forms forms;
        forms.add(matrix.kind);
        for (int row = 0; row < n_rows; ++row)
            own.put(c.row(x_, gather_ ? places[row] : first + row) + head * x_width_, matrix.n_in, row, forms);
        Product job{};
        job.matrix = &matrix;
        job.epilogue = add_ ? Epilogue::add : Epilogue::store;
        job.factor = factor_;
        job.out = c.row(out_, scatter_ ? 0 : first) + head * out_width_;
        job.out_stride = c.workspace.width(out_);
        job.out_rows = scatter_ ? places : nullptr;
        product(job, own.rows(matrix.n_in), 0, n_rows, 0, matrix.n_tiles());
    }

    int x_, out_, x_width_, out_width_;
    bool add_;
    float factor_;
    int rows_;
    bool gather_, scatter_;
    std::vector<Matrix> matrices_;
    HeadRows& own_;
};

LANDRACE_OPERATION(head_product, HeadProduct)

}  // namespace LANDRACE_ISA
}  // namespace landrace
