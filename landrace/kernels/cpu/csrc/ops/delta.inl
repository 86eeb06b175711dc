// The gated delta rule: of each value head a state S [key_dim, value_dim], which goes from row to row in order of position:
//
//     S <- e^decay S;  u = beta (v - S^T k);  S <- S + k u^T;  out = S^T q
//
// A head has one decay, or one for each channel of its key: -e^a_log softplus(a + dt_bias), or, where decays have a floor,
// floor * sigmoid(e^a_log (a + dt_bias)). Sums run over the key's channels in order.
#pragma once

#include "activations.inl"
#include "head_states.inl"

namespace landrace {
namespace LANDRACE_ISA {

/// One row's part in a head's columns.
struct DeltaRow {
    const float* q;
    const float* k;
    const float* v;
    const float* factors;  // e^decay
    int step;              // from a channel's factor to the next one's; 0: it is the same for all
    float beta;
    float* out;
};

/// The state's columns after the row is in them.
template <int kVectors> void delta_row(const HeadColumns& columns, int key_dim, const DeltaRow& row) {
    Floats known[kVectors], u[kVectors], out[kVectors];
    LANDRACE_UNROLL for (int j = 0; j < kVectors; ++j) known[j] = out[j] = all(0.0f);
    for (int i = 0; i < key_dim; ++i) {
        float* line = columns.state + i * columns.stride;
        const Floats k = all(row.k[i]), factor = all(row.factors[i * row.step]);
        LANDRACE_UNROLL for (int j = 0; j < kVectors; ++j) {
            const Floats decayed = mul(load(line + j * kLanes), factor);
            store(line + j * kLanes, decayed);
            known[j] = fma(k, decayed, known[j]);
        }
    }
    load_columns(row.v, columns.n, u);
    const Floats beta = all(row.beta);
    LANDRACE_UNROLL for (int j = 0; j < kVectors; ++j) u[j] = mul(beta, sub(u[j], known[j]));
    for (int i = 0; i < key_dim; ++i) {
        float* line = columns.state + i * columns.stride;
        const Floats k = all(row.k[i]), q = all(row.q[i]);
        LANDRACE_UNROLL for (int j = 0; j < kVectors; ++j) {
            const Floats changed = fma(k, u[j], load(line + j * kLanes));
            store(line + j * kLanes, changed);
            out[j] = fma(q, changed, out[j]);
        }
    }
    store_columns(out, columns.n, row.out);
}

class Delta final : public Operation {
public:
    static constexpr Field kSchema[] = {
        integer_field("n_heads"), integer_field("n_value_heads"), integer_field("key_dim"), integer_field("value_dim"), optional(flag_field("rounds")),
        optional(number_field("floor")), buffer_field("q"), buffer_field("k"), buffer_field("v"), buffer_field("a"), buffer_field("b"),
        vector_field("a_log"), vector_field("dt_bias"), buffer_field("out"),
    };

    Delta(const Fields& fields, Workspace& workspace)
        : n_heads_(static_cast<int>(fields.integer("n_heads"))), n_value_heads_(static_cast<int>(fields.integer("n_value_heads"))),
          key_dim_(static_cast<int>(fields.integer("key_dim"))), value_dim_(static_cast<int>(fields.integer("value_dim"))), rounds_(fields.flag("rounds")),
          floor_(fields.number("floor")), q_(fields.buffer("q")), k_(fields.buffer("k")), v_(fields.buffer("v")), a_(fields.buffer("a")),
          b_(fields.buffer("b")), out_(fields.buffer("out")), dt_bias_(fields.vector("dt_bias")),
          states_(workspace, n_value_heads_, key_dim_, value_dim_, q_, {k_, v_, a_, b_}, out_) {
        if (n_heads_ < 1 || n_value_heads_ % n_heads_) throw std::invalid_argument("there are no such heads");
        if (floor_ > 0.0f) throw std::invalid_argument("a decay is negative");
        for (const int buffer : {q_, k_}) workspace.expect(buffer, n_heads_ * key_dim_);
        for (const int buffer : {v_, out_}) workspace.expect(buffer, n_value_heads_ * value_dim_);
        workspace.expect(b_, n_value_heads_);
        const Vector a_log = fields.vector("a_log");
        each_ = dt_bias_.size / n_value_heads_;
        if (a_log.size != n_value_heads_ || dt_bias_.size != each_ * n_value_heads_ || (each_ != 1 && each_ != key_dim_))
            throw std::invalid_argument("each head has a decay of its own, or one for each channel");
        workspace.expect(a_, dt_bias_.size);
        for (int i = 0; i < dt_bias_.size; ++i) rates_.push_back(exp(a_log.data[i / each_]));
    }

    void run(const Context& c, int thread) override {
        c.share(thread, c.step.n_rows, [&](int row) { prepare(c, row); });
        states_.run(c, thread, [&](auto n_vectors, const HeadColumns& columns, const HeadRow& row) {
            const int of_keys = (rounds_ ? columns.head % n_heads_ : columns.head / (n_value_heads_ / n_heads_)) * key_dim_;
            const auto [k, v, a, b] = row.brings;
            const DeltaRow now{row.q + of_keys, k + of_keys, v + columns.head * value_dim_ + columns.first, a + columns.head * each_,
                               each_ > 1, b[columns.head], row.out};
            delta_row<decltype(n_vectors)::value>(columns, key_dim_, now);
        });
    }

private:
    /// q and k of length 1, q divided by sqrt(key_dim); e^decay where a was, beta where b was.
    void prepare(const Context& c, int row) const {
        const float of_queries = 1.0f / std::sqrt(static_cast<float>(key_dim_));
        for (int head = 0; head < n_heads_; ++head) {
            unit(c.row(q_, row) + head * key_dim_, of_queries);
            unit(c.row(k_, row) + head * key_dim_, 1.0f);
        }
        float *a = c.row(a_, row), *b = c.row(b_, row);
        for (int i = 0; i < dt_bias_.size; i += kLanes) {
            const int n = std::min(kLanes, dt_bias_.size - i);
            const Floats x = add(load_some(a + i, n), load_some(dt_bias_.data + i, n)), rate = load_some(rates_.data() + i, n);
            const Floats decay = floor_ < 0.0f ? mul(all(floor_), sigmoid(mul(rate, x))) : sub(all(0.0f), mul(rate, softplus(x)));
            store_some(a + i, exp(decay), n);
        }
        for (int i = 0; i < n_value_heads_; i += kLanes) {
            const int n = std::min(kLanes, n_value_heads_ - i);
            store_some(b + i, sigmoid(load_some(b + i, n)), n);
        }
    }

    void unit(float* x, float factor) const {
        Floats squares = all(0.0f);
        for (int i = 0; i < key_dim_; i += kLanes) {
            const Floats part = load_some(x + i, std::min(kLanes, key_dim_ - i));
            squares = fma(part, part, squares);
        }
        scale(x, factor / std::sqrt(sum(squares) + 1e-6f), key_dim_, x);
    }

    int n_heads_, n_value_heads_, key_dim_, value_dim_;
    bool rounds_;
    float floor_;  // of decays; 0: none
    int q_, k_, v_, a_, b_, out_;
    Vector dt_bias_;
    int each_;                  // decays of a head
    std::vector<float> rates_;  // e^a_log, for each decay
    HeadStates states_;
};

LANDRACE_OPERATION(delta, Delta)

}  // namespace LANDRACE_ISA
}  // namespace landrace
