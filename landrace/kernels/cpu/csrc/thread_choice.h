// How many threads the next step should take: as many as were fastest lately.
#pragma once

#include <array>

namespace landrace {

/// One thread can be as fast as all of them, when memory is the limit or when somebody else is using the other cores:
/// threads of one step wait for each other, and so for whatever took their core. Steps of similar size are watched
/// together. Results do not depend on the choice.
class ThreadChoice {
public:
    explicit ThreadChoice(int most) : most_(most) {}

    int pick(int n_rows) {
        Size& size = size_of(n_rows);
        if (most_ == 1) return 1;
        if (size.trials > 0) {
            --size.trials;
            size.trying = true;
        } else {
            size.trying = false;
            // Many rows keep all cores busy: there the other choice is tried when steps have become slow.
            if (size.until_trial == 0) size.until_trial = n_rows < kManyRows ? kSoon : kLate;
            if (++size.steps >= size.until_trial) {
                size.steps = 0;
                size.trials = kTrials - 1;
                size.trying = true;
                size.tried = 0.0;
            }
        }
        return size.trying ? other(size) : threads(size);
    }

    void report(int n_rows, double seconds) {
        Size& size = size_of(n_rows);
        const double a_row = seconds / n_rows;
        if (!size.trying) {
            size.usual = size.usual == 0.0 ? a_row : size.usual + kWeight * (a_row - size.usual);
            size.best = size.best == 0.0 || a_row < size.best ? a_row : size.best * 1.001;
            // Much slower than it can be: somebody may be in the way, so look at the other choice soon.
            if (size.usual > kDegraded * size.best && size.until_trial > kSoon) size.until_trial = kSoon;
            return;
        }
        size.tried = size.tried == 0.0 || a_row < size.tried ? a_row : size.tried;
        if (size.trials > 0) return;
        if (size.tried < kClearly * size.usual) {
            size.fewer = !size.fewer;
            size.usual = size.best = size.tried;
            size.until_trial = kSoon;
        } else if (size.until_trial < kLate) {
            size.until_trial *= 2;
        }
    }

private:
    static constexpr int kTrials = 2;        // steps of one trial; the better one counts
    static constexpr int kSoon = 16;         // steps until the next trial, doubled by every trial that was in vain
    static constexpr int kLate = 1024;
    static constexpr int kManyRows = 16;
    static constexpr double kWeight = 0.2;
    static constexpr double kDegraded = 1.5;
    static constexpr double kClearly = 0.95;

    struct Size {
        bool fewer = false;
        bool trying = false;
        int trials = 0;
        int steps = 0;
        int until_trial = 0;
        double usual = 0.0;  // seconds a row, recently
        double best = 0.0;
        double tried = 0.0;
    };

    Size& size_of(int n_rows) {
        size_t bucket = 0;
        while (n_rows > 1 && bucket + 1 < sizes_.size()) n_rows /= 2, ++bucket;
        return sizes_[bucket];
    }
    int threads(const Size& size) const { return size.fewer ? (most_ + 1) / 2 : most_; }
    int other(const Size& size) const { return size.fewer ? most_ : (most_ + 1) / 2; }

    int most_;
    std::array<Size, 12> sizes_;
};

}  // namespace landrace
