// Lightning attention: of each head a state S [head_dim, head_dim], which goes from row to row in order of position:
//
//     S <- factor S + k v^T;  out = S^T q
//
// with silu of q, k and v, and a factor for each head that is the same for all rows. Sums run over the key's channels in
// order.
#pragma once

#include "activations.inl"
#include "head_states.inl"

namespace landrace {
namespace LANDRACE_ISA {

/// The columns' part of out, after the row is in the state.
template <int kVectors> void lightning_row(const HeadColumns& columns, int head_dim, float factor, const float* q, const float* k, const float* v, float* at) {
    Floats values[kVectors], out[kVectors];
    load_columns(v, columns.n, values);
    LANDRACE_UNROLL for (int j = 0; j < kVectors; ++j) out[j] = all(0.0f);
    const Floats kept = all(factor);
    for (int i = 0; i < head_dim; ++i) {
        float* line = columns.state + i * columns.stride;
        const Floats key = all(k[i]), query = all(q[i]);
        LANDRACE_UNROLL for (int j = 0; j < kVectors; ++j) {
            const Floats changed = fma(key, values[j], mul(kept, load(line + j * kLanes)));
            store(line + j * kLanes, changed);
            out[j] = fma(query, changed, out[j]);
        }
    }
    store_columns(out, columns.n, at);
}

class Lightning final : public Operation {
public:
    static constexpr Field kSchema[] = {
        integer_field("head_dim"), vector_field("rates"), buffer_field("q"), buffer_field("k"), buffer_field("v"), buffer_field("out"),
    };

    Lightning(const Fields& fields, Workspace& workspace)
        : head_dim_(static_cast<int>(fields.integer("head_dim"))), n_heads_(fields.vector("rates").size), q_(fields.buffer("q")),
          k_(fields.buffer("k")), v_(fields.buffer("v")), out_(fields.buffer("out")), states_(workspace, n_heads_, head_dim_, head_dim_) {
        for (const int buffer : {q_, k_, v_, out_}) workspace.expect(buffer, n_heads_ * head_dim_);
        for (int head = 0; head < n_heads_; ++head) factors_.push_back(exp(-fields.vector("rates").data[head]));
    }

    void run(const Context& c, int thread) override {
        c.share(thread, c.step.n_rows, [&](int row) {
            for (const int buffer : {q_, k_, v_}) silu(c.row(buffer, row));
        });
        states_.run(c, thread, [&](auto n_vectors, const HeadColumns& columns, int64_t row) {
            const int head = columns.head * head_dim_, values = head + columns.first;
            lightning_row<decltype(n_vectors)::value>(columns, head_dim_, factors_[static_cast<size_t>(columns.head)], c.row(q_, row) + head,
                                                      c.row(k_, row) + head, c.row(v_, row) + values, c.row(out_, row) + values);
        });
    }

private:
    void silu(float* x) const {
        const int width = n_heads_ * head_dim_;
        for (int i = 0; i < width; i += kLanes) {
            const int n = std::min(kLanes, width - i);
            const Floats value = load_some(x + i, n);
            store_some(x + i, swish(value, value), n);
        }
    }

    int head_dim_, n_heads_, q_, k_, v_, out_;
    std::vector<float> factors_;
    HeadStates states_;
};

LANDRACE_OPERATION(lightning, Lightning)

}  // namespace LANDRACE_ISA
}  // namespace landrace
