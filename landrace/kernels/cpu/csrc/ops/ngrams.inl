// out = the rows of a matrix that the n-grams ending at each token are hashed to, side by side. The tokens before a step's are
// kept from step to step, as 1 + their numbers.
#pragma once

#include <algorithm>
#include <stdexcept>
#include <vector>

#include "matrix_product.inl"
#include "operation.h"

namespace landrace {
namespace LANDRACE_ISA {

class NGrams final : public Operation {
    static constexpr Field kNumber[] = {integer_field("value")};

public:
    static constexpr Field kSchema[] = {
        matrix_field("table"), records_field("multipliers", kNumber), records_field("sizes", kNumber), integer_field("filler"), buffer_field("out"),
    };

    NGrams(const Fields& fields, Workspace& workspace)
        : table_(fields.matrix("table")), filler_(fields.integer("filler")), out_(fields.buffer("out")) {
        for (const Fields& one : fields.records("multipliers")) multipliers_.push_back(one.integer("value"));
        for (const Fields& one : fields.records("sizes")) sizes_.push_back(one.integer("value"));
        const auto longest = static_cast<int>(multipliers_.size()), tables = static_cast<int>(sizes_.size());
        if (longest < 2 || longest > kMostTokens || tables < 1 || tables % (longest - 1)) throw std::invalid_argument("there are no such n-grams");
        per_length_ = tables / (longest - 1);
        int64_t rows = 0;
        for (const int64_t size : sizes_) {
            if (size < 1) throw std::invalid_argument("a table has rows");
            rows += size;
        }
        if (rows > table_.n_out) throw std::invalid_argument("the tables are larger than their matrix");
        workspace.expect(out_, tables * table_.n_in);
        state_ = workspace.keep_state(longest - 1);
    }

    void run(const Context& c, int thread) override {
        const int n_before = static_cast<int>(multipliers_.size()) - 1;
        c.share(thread, c.step.n_rows, [&](int row) {
            const int s = static_cast<int>(std::upper_bound(c.step.starts, c.step.starts + c.step.n_sequences + 1, int64_t{row}) - c.step.starts) - 1;
            int64_t tokens[kMostTokens];
            tokens[0] = c.step.token_ids[row];
            for (int j = 1; j <= n_before; ++j) {
                tokens[j] = tokens[j - 1] == filler_ && j > 1 ? filler_ : before(c, s, row - c.step.starts[s], j);
                if (tokens[j] < 0) tokens[j] = filler_;
            }
            unpack(tokens, c.row(out_, row));
        });
        c.share(thread, c.step.n_sequences, [&](int s) {
            const int64_t n = c.step.starts[s + 1] - c.step.starts[s];
            if (n == 0) return;
            float last[kMostTokens];
            for (int j = 1; j <= n_before; ++j) last[j - 1] = static_cast<float>(before(c, s, n, j) + 1);
            std::copy_n(last, n_before, c.workspace.state(state_, c.step.states[2 * s + 1]));
        });
    }

private:
    static constexpr int kMostTokens = 8;

    /// The token `back` before row `at` of a sequence's rows in this step; -1: there is none.
    int64_t before(const Context& c, int s, int64_t at, int back) const {
        if (back <= at) return c.step.token_ids[c.step.starts[s] + at - back];
        if (c.step.begins(s)) return -1;
        return static_cast<int64_t>(c.workspace.state(state_, c.step.states[2 * s])[back - at - 1]) - 1;
    }

    void unpack(const int64_t* tokens, float* out) const {
        // Products wrap around, as numbers without a sign do.
        auto mixed = static_cast<uint64_t>(tokens[0]) * static_cast<uint64_t>(multipliers_[0]);
        int64_t first = 0;
        for (size_t table = 0; table < sizes_.size(); ++table) {
            if (table % static_cast<size_t>(per_length_) == 0) {
                const size_t place = table / static_cast<size_t>(per_length_) + 1;
                mixed ^= static_cast<uint64_t>(tokens[place]) * static_cast<uint64_t>(multipliers_[place]);
            }
            const int64_t size = sizes_[table], rest = static_cast<int64_t>(mixed) % size;
            unpack_row(table_, static_cast<int>(first + (rest < 0 ? rest + size : rest)), 1.0f, out + static_cast<int64_t>(table) * table_.n_in);
            first += size;
        }
    }

    Matrix table_;
    std::vector<int64_t> multipliers_, sizes_;
    int64_t filler_;
    int out_, per_length_ = 1, state_ = 0;
};

LANDRACE_OPERATION(ngrams, NGrams)

}  // namespace LANDRACE_ISA
}  // namespace landrace
