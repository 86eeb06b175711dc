// Which positions each row of a step attends to, where an indexer has chosen them.
#pragma once

#include <cstddef>
#include <vector>

#include "workspace.h"

namespace landrace {

/// Rows from position `onset` on attend to `most` positions at most, which are no more than they see; most 0: all rows to all.
struct Choice {
    int most, onset;

    bool operator==(const Choice& other) const { return most == other.most && onset == other.onset; }
    bool has(int64_t position) const { return most > 0 && position >= onset; }
};

/// The last choice for each row, in as many lists as there are heads of keys that choose apart. A row before the onset has all
/// positions, and no lists.
class Selected final : public State {
public:
    Selected(const Choice& choice, int n_lists) : choice_(choice), n_lists_(n_lists) {}
    bool serves(const Choice& choice, int n_lists) const { return choice == choice_ && n_lists == n_lists_; }

    void reserve(int n_rows, int) override {
        const size_t n = static_cast<size_t>(n_rows) * static_cast<size_t>(n_lists_);
        if (counts_.size() >= n) return;
        counts_.resize(n);
        positions_.resize(n * static_cast<size_t>(choice_.most));
    }
    bool has_lists(int64_t position) const { return choice_.has(position); }
    /// A row's positions, in order, and how many they are.
    int32_t* of(int row, int list) { return &positions_[index(row, list) * static_cast<size_t>(choice_.most)]; }
    int& count(int row, int list) { return counts_[index(row, list)]; }

    bool is_written = false;

private:
    size_t index(int row, int list) const { return static_cast<size_t>(row) * static_cast<size_t>(n_lists_) + static_cast<size_t>(list); }

    Choice choice_;
    int n_lists_;
    std::vector<int> counts_;         // [n_rows, n_lists]
    std::vector<int32_t> positions_;  // [n_rows, n_lists, most]
};

}  // namespace landrace
