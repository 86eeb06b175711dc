// Rows on their way into a product: normalised, and in the forms that the matrices are multiplied with.
#pragma once

#include <algorithm>
#include <vector>

#include "activations.inl"
#include "operation.h"

namespace landrace {
namespace LANDRACE_ISA {

/// A row for each thread, as wide as the widest that was asked for.
class ThreadRows final : public State {
public:
    bool serves() const { return true; }
    void widen(int width) { widest_ = std::max(widest_, width); }
    void reserve(int, int threads) override {
        if (static_cast<int>(rows_.size()) < threads) rows_.resize(static_cast<size_t>(threads));
        for (auto& row : rows_) row.resize(static_cast<size_t>(widest_));
    }
    float* of(int thread) { return rows_[static_cast<size_t>(thread)].data(); }

private:
    int widest_ = 0;
    std::vector<std::vector<float>> rows_;
};

/// The forms that some matrices want their input in.
struct Forms {
    bool groups = false, pairs = false, floats = false;

    void add(Kind kind) { (is_quantised(kind) ? groups : kind == Kind::bf16 ? pairs : floats) = true; }
};

/// Memory for prepared rows.
class Prepared {
public:
    void reserve(size_t n_rows, size_t n_in) {
        const size_t n_groups = n_rows * ((n_in + kGroup - 1) / kGroup);
        if (floats_.size() < n_rows * n_in) floats_.resize(n_rows * n_in);
        if (pairs_.size() < n_rows * ((n_in + 1) / 2)) pairs_.resize(n_rows * ((n_in + 1) / 2));
        if (groups_.size() >= n_groups) return;
        groups_.resize(n_groups);
        remainders_.resize(n_groups);
        with_remainder_.resize(n_groups);
    }

    /// Puts x into its place as row `row` of those prepared together. The first row of a panel comes before its others.
    void put(const float* x, int n_in, int row, const Forms& forms) {
        const int64_t panel = row / kPanel, inner = row % kPanel;
        if (forms.groups) {
            const int n_groups = ceil_div(n_in, kGroup);
            uint8_t* with_remainder = with_remainder_.data() + panel * n_groups;
            if (inner == 0) std::memset(with_remainder, 0, static_cast<size_t>(n_groups));
            const int64_t at = panel * n_groups * kPanel + inner;
            quantise(x, n_in, static_cast<int>(inner), groups_.data() + at, remainders_.data() + at, with_remainder);
        }
        if (forms.pairs) pair_up(x, n_in, pairs_.data() + panel * ceil_div(n_in, 2) * kPanel + inner);
        if (forms.floats) {
            float* to = floats_.data() + panel * n_in * kPanel + inner;
            for (int k = 0; k < n_in; ++k) to[static_cast<int64_t>(k) * kPanel] = x[k];
        }
    }

    Rows rows(int n_in) const { return {floats_.data(), pairs_.data(), groups_.data(), remainders_.data(), with_remainder_.data(), n_in}; }

private:
    std::vector<float> floats_;
    std::vector<uint32_t> pairs_;
    std::vector<QuantisedGroup> groups_;
    std::vector<Remainder> remainders_;
    std::vector<uint8_t> with_remainder_;
};

/// The prepared rows of one product after another.
class PreparedRows final : public State {
public:
    bool serves() const { return true; }
    void widen(int n_in) { widest_ = std::max(widest_, n_in); }
    void reserve(int n_rows, int threads) override {
        const auto n = static_cast<size_t>(n_rows), width = static_cast<size_t>(widest_);
        if (static_cast<int>(own_.size()) < threads) own_.resize(static_cast<size_t>(threads));
        if (threads > 1) shared_.reserve(n, width);
        // One thread prepares every row by itself; with more of them, each does so for single rows only.
        for (Prepared& own : own_) own.reserve(threads == 1 && &own == &own_[0] ? n : kPanel, width);
    }

    /// Prepares rows 0 to n_rows: calls fetch(row), which returns the row's n_in values, for those that this thread finds.
    /// They are all there when it returns.
    template <class F> Rows prepare(const Context& c, int thread, int n_rows, int n_in, const Forms& forms, F fetch) {
        // A single row is prepared by every thread for itself: that is quicker than waiting for another to do it.
        if (n_rows == 1 || c.threads == 1) {
            Prepared& own = own_[static_cast<size_t>(thread)];
            for (int row = 0; row < n_rows; ++row) own.put(fetch(row), n_in, row, forms);
            return own.rows(n_in);
        }
        c.share(thread, ceil_div(n_rows, kPanel), [&](int panel) {
            for (int row = panel * kPanel; row < std::min(n_rows, (panel + 1) * kPanel); ++row) shared_.put(fetch(row), n_in, row, forms);
        });
        return shared_.rows(n_in);
    }

private:
    int widest_ = 0;
    Prepared shared_;
    std::vector<Prepared> own_;
};

}  // namespace LANDRACE_ISA
}  // namespace landrace
