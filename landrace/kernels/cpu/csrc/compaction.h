// Matrices of bfloat16 into the layout of compact.h.
#pragma once

#include <vector>

#include "thread_pool.h"
#include "types.h"

namespace landrace {

/// A matrix of bfloat16 on its way into bf12.
class Compaction {
public:
    /// Looks through rows as the file stores them, which must stay where they are.
    Compaction(ThreadPool& pool, int n_out, int n_in, const uint8_t* stored);
    /// What the matrix will take.
    size_t bytes() const;
    /// Fills as many bytes, at a multiple of 64.
    Matrix pack(ThreadPool& pool, uint8_t* to) const;

private:
    struct Tile {
        uint8_t exponents[kTile];
        uint64_t n_rare;
        uint64_t n_before;  // rare weights of the tiles before it
    };

    void look_through(int index);
    void pack(int index, uint8_t* to) const;

    Matrix matrix_;  // not yet anywhere
    const uint8_t* stored_;
    std::vector<Tile> tiles_;
    uint64_t n_rare_ = 0;
};

}  // namespace landrace
