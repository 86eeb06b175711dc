// The states of a recurrent layer's heads, [key_dim, value_dim] each, which go from row to row in order of position.
//
// A lane is a column of a state, which no other column meets. Threads share out sequences, heads and columns. Of guesses,
// what they bring into the states is kept; the states with them in are the threads' own.
#pragma once

#include <algorithm>
#include <array>
#include <stdexcept>
#include <type_traits>
#include <utility>

#include "prepared_rows.inl"

namespace landrace {
namespace LANDRACE_ISA {

/// Some columns of a head's state.
struct HeadColumns {
    float* state;  // its first row's; the next one's are `stride` floats on
    int64_t stride;
    int head, first, n;
};

/// A row on its way through the states.
struct HeadRow {
    const float* q;
    std::array<const float*, 4> brings;  // k first
    float* out;                          // what some columns say to it, from their first one's on
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
    /// `brings`: the buffers of what a row brings into the states; first comes k, as wide as q.
    HeadStates(Workspace& workspace, int n_heads, int key_dim, int value_dim, int q, std::vector<int> brings, int out)
        : n_heads_(n_heads), key_dim_(key_dim), value_dim_(value_dim), stride_(ceil_div(value_dim, kLanes) * kLanes), q_(q), out_(out),
          brings_(std::move(brings)), own_rows_(workspace.state<ThreadRows>()) {
        if (n_heads < 1 || key_dim < 1 || value_dim < 1) throw std::invalid_argument("there are no such heads");
        for (const int buffer : brings_) kept_width_ += workspace.checked_width(buffer);
        states_ = workspace.keep_state(n_heads * key_dim * stride_, 0);
        guesses_ = workspace.keep_state(0, kept_width_);
        own_rows_.widen((key_dim + 1) * kBlock);
    }

    /// Calls advance(number of vectors, columns, row) for each row of each sequence, in order, those first that were right
    /// guesses; the number is a constant of its type.
    template <class Advance> void run(const Context& c, int thread, const Advance& advance) const {
        const int n_blocks = ceil_div(value_dim_, kBlock);
        c.share(thread, c.step.n_sequences * n_heads_ * n_blocks, [&](int piece) {
            const int s = piece / (n_heads_ * n_blocks);
            if (c.step.starts[s] == c.step.starts[s + 1]) return;
            const Passage passage = c.step.passage(s);
            float* own = own_rows_.of(thread);  // for these columns, and a row of them that nobody reads
            HeadColumns columns = take(c, s, piece / n_blocks % n_heads_, piece % n_blocks * kBlock, own);
            const auto through = [&](const HeadRow& row) {
                switch (ceil_div(columns.n, kLanes)) {
                    case 1: advance(std::integral_constant<int, 1>(), columns, row); break;
                    case 2: advance(std::integral_constant<int, 2>(), columns, row); break;
                    case 3: advance(std::integral_constant<int, 3>(), columns, row); break;
                    default: advance(std::integral_constant<int, 4>(), columns, row);
                }
            };
            for (int64_t i = 0; i < passage.kept; ++i) through(kept_row(c, passage.read, i, own + key_dim_ * kBlock));
            for (int64_t row = passage.begin; row < passage.end; ++row) {
                if (row == passage.guesses && columns.state != own) move(columns, own);
                through(step_row(c, row, columns));
            }
        });
        // Now that nobody reads earlier ones any more.
        if (c.step.has_guesses()) c.share(thread, c.step.n_sequences, [&](int s) { keep_guesses(c, s); });
    }

private:
    static constexpr int kBlock = 4 * kLanes;  // columns of a piece

    /// A head's columns from `first` on where the sequence leaves them, with what it goes on from. Where the state is left
    /// as it is, they are the thread's own from the beginning.
    HeadColumns take(const Context& c, int s, int head, int first, float* own) const {
        const Passage passage = c.step.passage(s);
        const int64_t at = static_cast<int64_t>(head) * key_dim_ * stride_ + first;
        const float* found = c.workspace.state(states_, passage.read) + at;
        const int n = std::min(kBlock, value_dim_ - first);
        const HeadColumns columns = passage.moves() ? HeadColumns{c.workspace.state(states_, passage.written) + at, stride_, head, first, n}
                                                    : HeadColumns{own, kBlock, head, first, n};
        const int n_vectors = ceil_div(n, kLanes);
        for (int i = 0; i < key_dim_; ++i) {
            float* line = columns.state + i * columns.stride;
            if (c.step.begins(s)) std::memset(line, 0, n_bytes(columns));
            else if (found != columns.state) std::memcpy(line, found + i * stride_, n_bytes(columns));
            // All of it at once: the rows that follow would ask for line after line.
            else for (int j = 0; j < n_vectors; ++j) prefetch(line + j * kLanes);
        }
        return columns;
    }

    void move(HeadColumns& columns, float* to) const {
        for (int i = 0; i < key_dim_; ++i) std::memcpy(to + i * kBlock, columns.state + i * columns.stride, n_bytes(columns));
        columns.state = to, columns.stride = kBlock;
    }

    static size_t n_bytes(const HeadColumns& columns) { return sizeof(float) * kLanes * static_cast<size_t>(ceil_div(columns.n, kLanes)); }

    HeadRow step_row(const Context& c, int64_t row, const HeadColumns& columns) const {
        HeadRow found{c.row(q_, row), {}, c.row(out_, row) + columns.head * value_dim_ + columns.first};
        for (size_t i = 0; i < brings_.size(); ++i) found.brings[i] = c.row(brings_[i], row);
        return found;
    }

    /// A guess that was right. What is said to it was said in an earlier step.
    HeadRow kept_row(const Context& c, int64_t state, int64_t place, float* out) const {
        const float* kept = c.workspace.state(guesses_, state) + place * kept_width_;
        HeadRow found{kept, {}, out};
        for (size_t i = 0; i < brings_.size(); ++i) {
            found.brings[i] = kept;
            kept += c.workspace.width(brings_[i]);
        }
        return found;
    }

    void keep_guesses(const Context& c, int s) const {
        const Passage passage = c.step.passage(s);
        for (int64_t row = passage.guesses; row < passage.end; ++row) {
            float* kept = c.workspace.state(guesses_, passage.written) + passage.place(row) * kept_width_;
            for (const int buffer : brings_) {
                const int64_t width = c.workspace.width(buffer);
                std::memcpy(kept, c.row(buffer, row), sizeof(float) * static_cast<size_t>(width));
                kept += width;
            }
        }
    }

    int n_heads_, key_dim_, value_dim_;
    int64_t stride_;
    int q_, out_;
    std::vector<int> brings_;
    int64_t kept_width_ = 0;
    int states_, guesses_;  // parts
    ThreadRows& own_rows_;
};

}  // namespace LANDRACE_ISA
}  // namespace landrace
