// The states of a recurrent layer's heads, [key_dim, value_dim] each, which go from row to row in order of position.
//
// A lane is a column of a state, which no other column meets. Threads share out sequences, heads and columns.
#pragma once

#include <algorithm>
#include <stdexcept>
#include <type_traits>

#include "operation.h"

namespace landrace {
namespace LANDRACE_ISA {

/// Some columns of a head's state.
struct HeadColumns {
    float* state;  // its first row's; the next one's are `stride` floats on
    int64_t stride;
    int head, first, n;
};

/// What a head's columns say to a row, from the row's place on.
template <int kVectors> void store_columns(const Floats (&out)[kVectors], int n, float* at) {
    LANDRACE_UNROLL for (int j = 0; j < kVectors; ++j) {
        const int left = n - j * kLanes;
        if (left >= kLanes) store(at + j * kLanes, out[j]);
        else store_some(at + j * kLanes, out[j], left);
    }
}

template <int kVectors> void load_columns(const float* at, int n, Floats (&out)[kVectors]) {
    LANDRACE_UNROLL for (int j = 0; j < kVectors; ++j) {
        const int left = n - j * kLanes;
        out[j] = left >= kLanes ? load(at + j * kLanes) : load_some(at + j * kLanes, left);
    }
}

class HeadStates {
public:
    HeadStates(Workspace& workspace, int n_heads, int key_dim, int value_dim)
        : n_heads_(n_heads), key_dim_(key_dim), value_dim_(value_dim), stride_(ceil_div(value_dim, kLanes) * kLanes) {
        if (n_heads < 1 || key_dim < 1 || value_dim < 1) throw std::invalid_argument("there are no such heads");
        part_ = workspace.keep_state(n_heads * key_dim * stride_);
    }

    /// Calls advance(number of vectors, columns, row) for each row of each sequence, in order; the number is a constant of
    /// its type.
    template <class Advance> void run(const Context& c, int thread, const Advance& advance) const {
        const int n_blocks = ceil_div(value_dim_, kBlock);
        c.share(thread, c.step.n_sequences * n_heads_ * n_blocks, [&](int piece) {
            const int s = piece / (n_heads_ * n_blocks);
            if (c.step.starts[s] == c.step.starts[s + 1]) return;
            const HeadColumns columns = take(c, s, piece / n_blocks % n_heads_, piece % n_blocks * kBlock);
            for (int64_t row = c.step.starts[s]; row < c.step.starts[s + 1]; ++row)
                switch (ceil_div(columns.n, kLanes)) {
                    case 1: advance(std::integral_constant<int, 1>(), columns, row); break;
                    case 2: advance(std::integral_constant<int, 2>(), columns, row); break;
                    case 3: advance(std::integral_constant<int, 3>(), columns, row); break;
                    default: advance(std::integral_constant<int, 4>(), columns, row);
                }
        });
    }

private:
    static constexpr int kBlock = 4 * kLanes;  // columns of a piece

    /// A head's columns from `first` on where the sequence leaves them, with what it goes on from.
    HeadColumns take(const Context& c, int s, int head, int first) const {
        const int64_t at = static_cast<int64_t>(head) * key_dim_ * stride_ + first;
        float* state = c.workspace.state(part_, c.step.states[2 * s + 1]) + at;
        const float* found = c.workspace.state(part_, c.step.states[2 * s]) + at;
        const int n = std::min(kBlock, value_dim_ - first);
        const int n_vectors = ceil_div(n, kLanes);
        const size_t n_bytes = sizeof(float) * kLanes * static_cast<size_t>(n_vectors);
        for (int i = 0; i < key_dim_; ++i) {
            if (c.step.begins(s)) std::memset(state + i * stride_, 0, n_bytes);
            else if (found != state) std::memcpy(state + i * stride_, found + i * stride_, n_bytes);
            // All of it at once: the rows that follow would ask for line after line.
            else for (int j = 0; j < n_vectors; ++j) prefetch(state + i * stride_ + j * kLanes);
        }
        return {state, stride_, head, first, n};
    }

    int n_heads_, key_dim_, value_dim_;
    int64_t stride_;
    int part_;
};

}  // namespace LANDRACE_ISA
}  // namespace landrace
