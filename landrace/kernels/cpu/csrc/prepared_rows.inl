// Rows on their way into a product: normalised, and in the forms that the matrices are multiplied with.
#pragma once

#include <algorithm>
#include <vector>

#include "activations.inl"
#include "operation.h"

namespace landrace {
namespace LANDRACE_ISA {

/// Pieces a thread should find, so that one that is late or slow costs little.
constexpr int kPiecesPerThread = 6;
/// So many of `n` equal pieces of work at a time are enough pieces for all threads.
inline int pieces_together(int threads, int n) { return std::max(1, n / (threads * kPiecesPerThread)); }

/// A row for each thread, as wide as the widest that was asked for, and with room for a number for each of the step's rows.
class ThreadRows final : public State {
public:
    bool serves() const { return true; }
    void widen(int width) { widest_ = std::max(widest_, width); }
    void reserve(int n_rows, int threads) override {
        if (static_cast<int>(rows_.size()) < threads) rows_.resize(static_cast<size_t>(threads));
        for (auto& row : rows_) row.resize(std::max(row.size(), static_cast<size_t>(std::max(widest_, n_rows))));
    }
    float* of(int thread) { return rows_[static_cast<size_t>(thread)].data(); }

private:
    int widest_ = 0;
    std::vector<std::vector<float>> rows_;
};

/// The forms that some matrices want their input in.
struct Forms {
    bool groups = false, pairs = false, floats = false;

    void add(Kind kind) { (is_quantised(kind) ? groups : step_inputs(kind) == 2 ? pairs : floats) = true; }
    void add(const Forms& others) {
        groups |= others.groups;
        pairs |= others.pairs;
        floats |= others.floats;
    }
};

/// Memory for prepared rows.
class Prepared {
public:
    void reserve(size_t n_rows, size_t n_in, const Forms& forms) {
        const size_t n_groups = n_rows * ((n_in + kGroup - 1) / kGroup);
        if (forms.floats && floats_.size() < n_rows * n_in) floats_.resize(n_rows * n_in);
        if (forms.pairs && pairs_.size() < n_rows * ((n_in + 1) / 2)) pairs_.resize(n_rows * ((n_in + 1) / 2));
        if (!forms.groups || groups_.size() >= n_groups) return;
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

    /// Puts a row that is prepared already into its place as row `row` of those prepared together.
    void copy(const Rows& from, int from_row, int row, const Forms& forms) {
        const int64_t from_panel = from_row / kPanel, panel = row / kPanel;
        const int from_inner = from_row % kPanel, inner = row % kPanel;
        if (forms.groups) {
            const int n_groups = from.n_groups();
            const int64_t from_at = from_panel * n_groups * kPanel + from_inner, at = panel * n_groups * kPanel + inner;
            const uint8_t* from_remainder = from.with_remainder + from_panel * n_groups;
            uint8_t* with_remainder = with_remainder_.data() + panel * n_groups;
            if (inner == 0) std::memset(with_remainder, 0, static_cast<size_t>(n_groups));
            for (int g = 0; g < n_groups; ++g) {
                groups_[static_cast<size_t>(at + g * kPanel)] = from.groups[from_at + g * kPanel];
                if (!(from_remainder[g] >> from_inner & 1)) continue;
                remainders_[static_cast<size_t>(at + g * kPanel)] = from.remainders[from_at + g * kPanel];
                with_remainder[g] = static_cast<uint8_t>(with_remainder[g] | 1 << inner);
            }
        }
        const auto copy_steps = [&](const auto* source, auto* to, int n_steps) {
            source += from_panel * n_steps * kPanel + from_inner;
            to += panel * n_steps * kPanel + inner;
            for (int64_t i = 0; i < n_steps; ++i) to[i * kPanel] = source[i * kPanel];
        };
        if (forms.pairs) copy_steps(from.pairs, pairs_.data(), ceil_div(from.n_in, 2));
        if (forms.floats) copy_steps(from.floats, floats_.data(), from.n_in);
    }

    /// The rows from `first` on, which is the first of a panel.
    Rows rows(int n_in, int first = 0) const {
        const auto from = [](const auto& values, int64_t at) { return values.empty() ? nullptr : values.data() + at; };
        const int64_t panel = first / kPanel, groups = panel * ceil_div(n_in, kGroup);
        return {
            from(floats_, panel * n_in * kPanel), from(pairs_, panel * ceil_div(n_in, 2) * kPanel), from(groups_, groups * kPanel),
            from(remainders_, groups * kPanel), from(with_remainder_, groups), n_in,
        };
    }

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
    void widen(int n_in, const Forms& forms) {
        widest_ = std::max(widest_, n_in);
        forms_.add(forms);
    }
    void reserve(int n_rows, int threads) override {
        const auto n = static_cast<size_t>(n_rows), width = static_cast<size_t>(widest_);
        if (static_cast<int>(own_.size()) < threads) own_.resize(static_cast<size_t>(threads));
        if (threads > 1) shared_.reserve(n, width, forms_);
        // One thread prepares every row by itself; with more of them, each does so for single rows only.
        for (Prepared& own : own_) own.reserve(threads == 1 && &own == &own_[0] ? n : kPanel, width, forms_);
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
    Forms forms_;
    Prepared shared_;
    std::vector<Prepared> own_;
};

}  // namespace LANDRACE_ISA
}  // namespace landrace
