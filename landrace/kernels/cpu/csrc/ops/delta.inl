// The gated delta rule: of each value head a state S [key_dim, value_dim], which goes from row to row in order of position:
//
//     S <- e^decay S;  u = beta (v - S^T k);  S <- S + k u^T;  out = S^T q
//
// A lane is a column of S, which no other column meets. Its sums run over the key's channels in order. Threads share out
// heads and columns. Of guesses, what they bring into S is kept: k, v, e^decay and beta; their own S is the threads'.
#pragma once

#include <algorithm>
#include <stdexcept>

#include "prepared_rows.inl"

namespace landrace {
namespace LANDRACE_ISA {

/// One row's part in a head: `n` columns, in at most kVectors vectors.
struct DeltaRow {
    const float* q;
    const float* k;
    const float* v;
    float factor, beta;
    float* out;
    int n;
};

/// The state's columns, `key_dim` rows at a distance of `stride` floats, after the row is in them.
template <int kVectors> void delta_row(float* state, int key_dim, int64_t stride, const DeltaRow& row) {
    Floats known[kVectors], u[kVectors], out[kVectors];
    LANDRACE_UNROLL for (int j = 0; j < kVectors; ++j) known[j] = out[j] = all(0.0f);
    const Floats factor = all(row.factor), beta = all(row.beta);
    for (int i = 0; i < key_dim; ++i) {
        float* line = state + i * stride;
        const Floats k = all(row.k[i]);
        LANDRACE_UNROLL for (int j = 0; j < kVectors; ++j) {
            const Floats decayed = mul(load(line + j * kLanes), factor);
            store(line + j * kLanes, decayed);
            known[j] = fma(k, decayed, known[j]);
        }
    }
    LANDRACE_UNROLL for (int j = 0; j < kVectors; ++j) {
        const int left = row.n - j * kLanes;
        const Floats v = left >= kLanes ? load(row.v + j * kLanes) : load_some(row.v + j * kLanes, left);
        u[j] = mul(beta, sub(v, known[j]));
    }
    for (int i = 0; i < key_dim; ++i) {
        float* line = state + i * stride;
        const Floats k = all(row.k[i]), q = all(row.q[i]);
        LANDRACE_UNROLL for (int j = 0; j < kVectors; ++j) {
            const Floats changed = fma(k, u[j], load(line + j * kLanes));
            store(line + j * kLanes, changed);
            out[j] = fma(q, changed, out[j]);
        }
    }
    LANDRACE_UNROLL for (int j = 0; j < kVectors; ++j) {
        const int left = row.n - j * kLanes;
        if (left >= kLanes) store(row.out + j * kLanes, out[j]);
        else store_some(row.out + j * kLanes, out[j], left);
    }
}

class Delta final : public Operation {
public:
    static constexpr Field kSchema[] = {
        integer_field("n_heads"), integer_field("n_value_heads"), integer_field("key_dim"), integer_field("value_dim"), optional(flag_field("rounds")),
        buffer_field("q"), buffer_field("k"), buffer_field("v"), buffer_field("a"), buffer_field("b"), vector_field("a_log"), vector_field("dt_bias"),
        buffer_field("out"),
    };

    Delta(const Fields& fields, Workspace& workspace)
        : n_heads_(static_cast<int>(fields.integer("n_heads"))), n_value_heads_(static_cast<int>(fields.integer("n_value_heads"))),
          key_dim_(static_cast<int>(fields.integer("key_dim"))), value_dim_(static_cast<int>(fields.integer("value_dim"))), rounds_(fields.flag("rounds")),
          q_(fields.buffer("q")), k_(fields.buffer("k")), v_(fields.buffer("v")), a_(fields.buffer("a")), b_(fields.buffer("b")), out_(fields.buffer("out")),
          dt_bias_(fields.vector("dt_bias").data), own_rows_(workspace.state<ThreadRows>()) {
        if (n_heads_ < 1 || n_value_heads_ < 1 || n_value_heads_ % n_heads_ || key_dim_ < 1 || value_dim_ < 1) throw std::invalid_argument("there are no such heads");
        for (const int buffer : {q_, k_}) workspace.expect(buffer, n_heads_ * key_dim_);
        for (const int buffer : {v_, out_}) workspace.expect(buffer, n_value_heads_ * value_dim_);
        for (const int buffer : {a_, b_}) workspace.expect(buffer, n_value_heads_);
        const Vector a_log = fields.vector("a_log");
        if (a_log.size != n_value_heads_ || fields.vector("dt_bias").size != n_value_heads_) throw std::invalid_argument("each head has a decay of its own");
        for (int h = 0; h < n_value_heads_; ++h) rates_.push_back(-exp(a_log.data[h]));
        stride_ = ceil_div(value_dim_, kLanes) * kLanes;
        state_ = workspace.keep_state(n_value_heads_ * key_dim_ * stride_, 0);
        guesses_ = workspace.keep_state(0, kept_width());
        own_rows_.widen((key_dim_ + 1) * kBlock);
    }

    void run(const Context& c, int thread) override {
        c.share(thread, c.step.n_rows, [&](int row) { prepare(c, row); });
        const int n_blocks = ceil_div(value_dim_, kBlock);
        c.share(thread, c.step.n_sequences * n_value_heads_ * n_blocks, [&](int piece) {
            const int s = piece / (n_value_heads_ * n_blocks), head = piece / n_blocks % n_value_heads_;
            if (c.step.starts[s] < c.step.starts[s + 1]) advance(c, s, head, piece % n_blocks * kBlock, own_rows_.of(thread));
        });
        // Now that nobody reads earlier ones any more.
        if (c.step.has_guesses()) c.share(thread, c.step.n_sequences, [&](int s) { keep_guesses(c, s); });
    }

private:
    static constexpr int kBlock = 4 * kLanes;  // columns of a piece

    /// q and k of length 1, q divided by sqrt(key_dim); e^decay where a was, beta where b was.
    void prepare(const Context& c, int row) const {
        const float scale = 1.0f / std::sqrt(static_cast<float>(key_dim_));
        for (int head = 0; head < n_heads_; ++head) {
            unit(c.row(q_, row) + head * key_dim_, scale);
            unit(c.row(k_, row) + head * key_dim_, 1.0f);
        }
        float *a = c.row(a_, row), *b = c.row(b_, row);
        for (int h = 0; h < n_value_heads_; ++h) {
            a[h] = exp(rates_[static_cast<size_t>(h)] * softplus(a[h] + dt_bias_[h]));
            b[h] = sigmoid(b[h]);
        }
    }

    void unit(float* x, float scale) const {
        Floats squares = all(0.0f);
        for (int i = 0; i < key_dim_; i += kLanes) {
            const Floats part = load_some(x + i, std::min(kLanes, key_dim_ - i));
            squares = fma(part, part, squares);
        }
        const Floats factor = all(scale / std::sqrt(sum(squares) + 1e-6f));
        for (int i = 0; i < key_dim_; i += kLanes) {
            const int n = std::min(kLanes, key_dim_ - i);
            store_some(x + i, mul(load_some(x + i, n), factor), n);
        }
    }

    int64_t kept_width() const { return int64_t{n_heads_} * key_dim_ + n_value_heads_ * (int64_t{value_dim_} + 2); }

    /// A sequence's rows through a head's columns from `column` on. `own` has room for these columns and a row of them.
    void advance(const Context& c, int s, int head, int column, float* own) const {
        const Passage passage = c.step.passage(s);
        const int64_t at = static_cast<int64_t>(head) * key_dim_ * stride_ + column;
        const float* found = c.workspace.state(state_, passage.read) + at;
        const int n = std::min(kBlock, value_dim_ - column), n_vectors = ceil_div(n, kLanes);
        // Where the state is left as it is, its columns are the thread's from the beginning.
        float* state = passage.moves() ? c.workspace.state(state_, passage.written) + at : own;
        int64_t stride = passage.moves() ? stride_ : kBlock;
        const bool begins = c.step.begins(s);
        for (int i = 0; i < key_dim_; ++i) {
            if (begins || found != state) copy(found + i * stride_, state + i * stride, n_vectors, begins);
            // All of it at once: the rows below would ask for line after line.
            else for (int j = 0; j < n_vectors; ++j) prefetch(state + i * stride + j * kLanes);
        }
        const int of_keys = (rounds_ ? head % n_heads_ : head / (n_value_heads_ / n_heads_)) * key_dim_, of_values = head * value_dim_ + column;
        for (int64_t j = 0; j < passage.kept; ++j) {
            const float* k = c.workspace.state(guesses_, passage.read) + j * kept_width();
            const float *v = k + int64_t{n_heads_} * key_dim_, *a = v + int64_t{n_value_heads_} * value_dim_, *b = a + n_value_heads_;
            through(state, stride, n_vectors, {k + of_keys, k + of_keys, v + of_values, a[head], b[head], own + key_dim_ * kBlock, n});
        }
        for (int64_t row = passage.begin; row < passage.end; ++row) {
            if (row == passage.guesses && state != own) {
                for (int i = 0; i < key_dim_; ++i) copy(state + i * stride, own + int64_t{i} * kBlock, n_vectors, false);
                state = own, stride = kBlock;
            }
            through(state, stride, n_vectors, {c.row(q_, row) + of_keys, c.row(k_, row) + of_keys, c.row(v_, row) + of_values, c.row(a_, row)[head],
                                               c.row(b_, row)[head], c.row(out_, row) + of_values, n});
        }
    }

    static void copy(const float* from, float* to, int n_vectors, bool zeros) {
        const size_t n_bytes = sizeof(float) * kLanes * static_cast<size_t>(n_vectors);
        if (zeros) std::memset(to, 0, n_bytes);
        else std::memcpy(to, from, n_bytes);
    }

    void through(float* state, int64_t stride, int n_vectors, const DeltaRow& row) const {
        switch (n_vectors) {
            case 1: delta_row<1>(state, key_dim_, stride, row); break;
            case 2: delta_row<2>(state, key_dim_, stride, row); break;
            case 3: delta_row<3>(state, key_dim_, stride, row); break;
            default: delta_row<4>(state, key_dim_, stride, row);
        }
    }

    void keep_guesses(const Context& c, int s) const {
        const Passage passage = c.step.passage(s);
        for (int64_t row = passage.guesses; row < passage.end; ++row) {
            float* kept = c.workspace.state(guesses_, passage.written) + passage.place(row) * kept_width();
            for (const int buffer : {k_, v_, a_, b_}) {
                const int64_t width = c.workspace.width(buffer);
                std::memcpy(kept, c.row(buffer, row), sizeof(float) * static_cast<size_t>(width));
                kept += width;
            }
        }
    }

    int n_heads_, n_value_heads_, key_dim_, value_dim_;
    bool rounds_;
    int q_, k_, v_, a_, b_, out_;
    const float* dt_bias_;
    std::vector<float> rates_;  // -e^a_log
    int64_t stride_;
    int state_, guesses_;
    ThreadRows& own_rows_;
};

LANDRACE_OPERATION(delta, Delta)

}  // namespace LANDRACE_ISA
}  // namespace landrace
