// Rows, normalised first where there is a norm, times every part's matrix, and what becomes of each result. A part with a
// `row_gate` is multiplied by the sigmoid of the one number that the row has there.
//
// `rows` says how many rows and which: with `gather` they are taken from their places in `x`, with `scatter` put into their
// places in the output; otherwise they lie densely. With an `order`, the matrices' inputs are a row's values in that order.
#pragma once

#include "matrix_product.inl"
#include "prepared_rows.inl"

namespace landrace {
namespace LANDRACE_ISA {

class ProductOperation final : public Operation {
    struct Part {
        Matrix matrix, gated;
        bool is_gated;
        Vector bias, gated_bias;
        Epilogue epilogue;
        Activation activation;
        float factor;
        bool has_row_gate;
        int row_gate, out;
    };

    static constexpr Field kPartSchema[] = {
        matrix_field("matrix"),           buffer_field("out"),
        optional(vector_field("bias")),   choice_field("epilogue", kEpilogues),
        number_field("factor"),           optional(buffer_field("row_gate")),
        optional(matrix_field("gated")),  optional(vector_field("gated_bias")),
        optional(activation_field()),
    };

public:
    static constexpr Field kSchema[] = {
        buffer_field("x"),        records_field("parts", kPartSchema), optional(vector_field("norm")), optional(number_field("eps")),
        integer_field("rows"),    optional(flag_field("gather")),      optional(flag_field("scatter")),
        optional(vector_field("order")),
    };

    ProductOperation(const Fields& fields, Workspace& workspace)
        : x_(fields.buffer("x")), n_in_(workspace.checked_width(x_)), norm_(fields.vector("norm")), eps_(fields.number("eps")),
          rows_(static_cast<int>(fields.integer("rows"))), gather_(fields.flag("gather")), scatter_(fields.flag("scatter")),
          prepared_(workspace.state<PreparedRows>()), own_rows_(workspace.state<ThreadRows>()) {
        const std::vector<Fields> parts = fields.records("parts");
        if (parts.empty()) throw std::invalid_argument("a product needs a matrix");
        if (rows_ < kLogitRows) throw std::invalid_argument("there are no rows " + std::to_string(rows_));
        if (norm_.data) workspace.expect(x_, norm_.size);
        if ((gather_ && rows_ == kAllRows) || (scatter_ && rows_ < 0)) throw std::invalid_argument("there are no places to gather from or scatter to");
        for (const Fields& part : parts) add(part, workspace);
        set_order(fields.vector("order"));
        prepared_.widen(n_in_, forms_);
        own_rows_.widen(order_.empty() ? n_in_ : 2 * n_in_);
    }

    void run(const Context& c, int thread) override {
        const int n_rows = c.step.count(rows_);
        if (n_rows == 0) return;
        float* own = own_rows_.of(thread);
        const Rows input = prepared_.prepare(c, thread, n_rows, n_in_, forms_, [&](int row) -> const float* {
            const float* x = c.row(x_, gather_ ? place(c.step, row) : row);
            if (norm_.data) {
                rms_norm(x, norm_.data, eps_, n_in_, own);
                x = own;
            }
            if (order_.empty()) return x;
            float* ordered = own + n_in_;
            for (int k = 0; k < n_in_; ++k) ordered[k] = x[order_[static_cast<size_t>(k)]];
            return ordered;
        });
        const int n_blocks = ceil_div(n_rows, kRowsPerTask);
        const int together = pieces_together(c.threads, n_tiles_);
        c.share(thread, ceil_div(n_tiles_, together) * n_blocks, [&](int piece) {
            const int first = piece % n_blocks * kRowsPerTask;
            const int begin = piece / n_blocks * together;
            compute(c, thread, input, first, std::min(kRowsPerTask, n_rows - first), begin, std::min(n_tiles_, begin + together));
        });
    }

private:
    void add(const Fields& fields, Workspace& workspace) {
        const Part part{
            fields.matrix("matrix"), fields.matrix("gated"), fields.has("gated"), fields.vector("bias"), fields.vector("gated_bias"),
            fields.choice<Epilogue>("epilogue"), activation_of(fields), fields.number("factor"), fields.has("row_gate"),
            fields.buffer("row_gate"), fields.buffer("out"),
        };
        const Matrix& matrix = part.matrix;
        if (matrix.n_in != n_in_)
            throw std::invalid_argument("a matrix with " + std::to_string(matrix.n_in) + " inputs cannot take rows of " + std::to_string(n_in_) + " values");
        if (part.is_gated != (part.epilogue == Epilogue::gate)) throw std::invalid_argument("a second matrix goes with a gate, and a gate with a second matrix");
        if (part.has_row_gate) workspace.expect(part.row_gate, 1);
        if (part.has_row_gate && (part.is_gated || rows_ == kLogitRows)) throw std::invalid_argument("a row's gate is for sums of rows of the step");
        if (part.is_gated && (part.gated.n_in != n_in_ || part.gated.n_out != matrix.n_out))
            throw std::invalid_argument("two matrices of different shapes cannot gate one another");
        for (const Vector& bias : {part.bias, part.gated_bias})
            if (bias.data && bias.size != matrix.n_out)
                throw std::invalid_argument("a bias of " + std::to_string(bias.size) + " does not fit " + std::to_string(matrix.n_out) + " outputs");
        if (part.out == kLogits) {
            if (part.epilogue != Epilogue::store || rows_ != kLogitRows) throw std::invalid_argument("logits are stored, for the rows that are wanted");
            workspace.store_logits(matrix.n_out);
        } else {
            workspace.expect(part.out, matrix.n_out);
        }
        forms_.add(matrix.kind);
        if (part.is_gated) forms_.add(part.gated.kind);
        n_tiles_ += matrix.n_tiles();
        parts_.push_back(part);
    }

    void set_order(const Vector& order) {
        if (!order.data) return;
        if (order.size != n_in_) throw std::invalid_argument("an order of " + std::to_string(order.size) + " values cannot be that of " + std::to_string(n_in_));
        for (int k = 0; k < n_in_; ++k) {
            if (!(order.data[k] >= 0 && order.data[k] < static_cast<float>(n_in_))) throw std::invalid_argument("an order names values that a row does not have");
            order_.push_back(static_cast<int32_t>(order.data[k]));
        }
    }

    int64_t place(const Step& step, int row) const {
        return rows_ == kLogitRows ? step.logit_rows[row] : step.adapter_rows[static_cast<size_t>(rows_)][static_cast<size_t>(row)];
    }

    /// Rows [first, first + n_rows) times tiles [begin, end), counted through all parts.
    void compute(const Context& c, int thread, const Rows& input, int first, int n_rows, int begin, int end) const {
        int passed = 0;
        for (const Part& part : parts_) {
            const int tiles = part.matrix.n_tiles();
            const int from = std::max(begin - passed, 0), until = std::min(end - passed, tiles);
            passed += tiles;
            if (from >= until) continue;
            Product job{};
            job.matrix = &part.matrix;
            job.gated = part.is_gated ? &part.gated : nullptr;
            job.bias = part.bias.data;
            job.gated_bias = part.gated_bias.data;
            job.epilogue = part.epilogue;
            job.activation = part.activation;
            job.factor = part.factor;
            if (part.has_row_gate) {
                // Rows are prepared, so the thread's own row is free.
                float* factors = own_rows_.of(thread);
                for (int row = first; row < first + n_rows; ++row) factors[row] = sigmoid(*c.row(part.row_gate, rows_ < 0 ? row : place(c.step, row)));
                job.row_factors = factors;
            }
            job.out = part.out == kLogits ? c.step.logits : c.workspace.rows(part.out);
            job.out_stride = part.matrix.n_out;
            job.out_rows = scatter_ ? c.step.adapter_rows[static_cast<size_t>(rows_)].data() : nullptr;
            product(job, input, first, n_rows, from, until);
        }
    }

    int x_, n_in_;
    Vector norm_;
    float eps_;
    int rows_;
    bool gather_, scatter_;
    std::vector<Part> parts_;
    std::vector<int32_t> order_;
    int n_tiles_ = 0;
    Forms forms_;
    PreparedRows& prepared_;
    ThreadRows& own_rows_;
};

LANDRACE_OPERATION(product, ProductOperation)

}  // namespace LANDRACE_ISA
}  // namespace landrace
