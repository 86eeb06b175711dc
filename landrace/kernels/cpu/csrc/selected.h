// Which positions each row of a step attends to, where an indexer has chosen them.
#pragma once

#include <cstddef>
#include <vector>

#include "workspace.h"

namespace landrace {

/// The last choice of up to `most` positions for each row, in as many lists as there are heads of keys that choose apart. A row
/// that sees no more than that has them all, and no lists.
class Selected final : public State {
public:
    Selected(int most, int n_lists) : most_(most), n_lists_(n_lists) {}
    bool serves(int most, int n_lists) const { return most == most_ && n_lists == n_lists_; }

    void reserve(int n_rows, int) override {
        const size_t n = static_cast<size_t>(n_rows) * static_cast<size_t>(n_lists_);
        if (counts_.size() >= n) return;
        counts_.resize(n);
        positions_.resize(n * static_cast<size_t>(most_));
    }
    bool has_lists(int64_t position) const { return position >= most_; }
    /// A row's positions, in order, and how many they are.
    int32_t* of(int row, int list) { return &positions_[index(row, list) * static_cast<size_t>(most_)]; }
    int& count(int row, int list) { return counts_[index(row, list)]; }

    bool is_written = false;

private:
    size_t index(int row, int list) const { return static_cast<size_t>(row) * static_cast<size_t>(n_lists_) + static_cast<size_t>(list); }

    int most_, n_lists_;
    std::vector<int> counts_;         // [n_rows, n_lists]
    std::vector<int32_t> positions_;  // [n_rows, n_lists, most]
};

}  // namespace landrace
